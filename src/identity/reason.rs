//! Why a credential is not believed: one word each for logs, metrics and `explain`, never for the client.
//!
//! Decides which refusal a reason is told as. What the client hears says no more than a forger may know.

use std::{fmt, time::Duration};

use crate::refusal::{Code, Refusal};

macro_rules! reasons {
    ($($variant:ident = $word:literal, $code:ident, $sentence:literal;)*) => {
        /// Why a credential is not believed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $(#[doc = $sentence] $variant,)* }

        impl Reason {
            /// All reasons, for documentation and for closed metric labels.
            pub const ALL: &[Reason] = &[$(Reason::$variant,)*];

            /// The word in the access log, in `portcullis_credentials_refused_total` and in `explain`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$variant => $word,)* }
            }

            /// The reason as a sentence, for operators.
            pub const fn sentence(self) -> &'static str {
                match self { $(Reason::$variant => $sentence,)* }
            }

            const fn code(self) -> Code {
                match self { $(Reason::$variant => Code::$code,)* }
            }
        }
    };
}

reasons! {
    Unrecognised = "unrecognised", InvalidCredential, "no scheme knows this credential";
    NotBearer = "not_bearer", InvalidCredential, "`Authorization` is not `Bearer` and one token";
    Oversize = "oversize", InvalidCredential, "the credential is longer than any that is given out";
    Unreadable = "unreadable", InvalidCredential, "a header that carries a credential is not readable text";
    Malformed = "malformed", InvalidCredential, "the token is malformed or lacks a claim";
    WrongLabel = "wrong_label", InvalidCredential, "the token is labelled as something other than a plain JWT";
    WrongAlgorithm = "wrong_algorithm", InvalidCredential, "the token is not signed with the algorithm of its scheme";
    WrongSignature = "wrong_signature", InvalidCredential, "the token's signature is wrong";
    UnknownKey = "unknown_key", InvalidCredential, "the issuer has no key of this `kid`";
    NoExpiry = "no_expiry", InvalidCredential, "the token has no usable `exp` claim";
    Expired = "expired", ExpiredCredential, "the token has expired";
    NotYetValid = "not_yet_valid", InvalidCredential, "the token is not valid yet";
    IssuedInFuture = "issued_in_future", InvalidCredential, "the token was issued in the future";
    WrongIssuer = "wrong_issuer", InvalidCredential, "the token has another issuer";
    WrongAudience = "wrong_audience", InvalidCredential, "the token is meant for somebody else";
    WrongTenant = "wrong_tenant", InvalidCredential, "the token is of a tenant that is not allowed";
    WrongPurpose = "wrong_purpose", InvalidCredential, "the token is not for acting as its user";
    NotAnAccessToken = "not_an_access_token", InvalidCredential, "the token is no access token";
    AppNotAllowed = "app_not_allowed", InvalidCredential, "the token is of an application and not of a user";
    GuestNotAllowed = "guest_not_allowed", InvalidCredential, "the token is of a guest";
    NoEmail = "no_email", InvalidCredential, "the token has no email that can be believed";
    EmailOutsideDomains = "email_outside_domains", InvalidCredential, "the email is of a domain its tenant has no say in";
    GroupsOverage = "groups_overage", InvalidCredential, "the user is in more groups than the token holds";
    GroupsUnknown = "groups_unknown", GroupsUnknown, "the user's groups cannot be read right now";
    KeysUnknown = "keys_unknown", KeysUnknown, "the issuer's keys are not known yet";
    InsufficientScope = "insufficient_scope", InsufficientScope, "the token lacks a scope that is needed here";
    NoSuchUser = "no_such_user", RevokedCredential, "there is no such user in Open WebUI, or in the directory";
    UserInactive = "user_inactive", RevokedCredential, "the user is not active in Open WebUI";
    UserPending = "user_pending", RevokedCredential, "the user's role in Open WebUI is neither `user` nor `admin`";
    StampDiffers = "stamp_differs", RevokedCredential, "the user's sessions were ended since the token was issued";
    SignedOut = "signed_out", RevokedCredential, "the session was signed out of";
    NoSecondFactor = "no_second_factor", RevokedCredential, "Open WebUI demands a second factor, and the session has shown none";
    Withdrawn = "withdrawn", RevokedCredential, "the account or the credential was withdrawn while the call began";
    UnknownApiKey = "unknown_api_key", InvalidCredential, "Open WebUI has no such API key";
    ApiKeyNotAllowed = "api_key_not_allowed", InvalidCredential, "Open WebUI does not let this user use API keys";
    AccountUnknown = "account_unknown", GrantsUnknown, "the account cannot be checked right now";
    UnsignedUser = "unsigned_user", InvalidCredential, "a user is named in headers that are not signed";
    NoVouchingSecret = "no_vouching_secret", InvalidCredential, "no secret is set to check whom the service vouches for";
    UserMismatch = "user_mismatch", IdentityMismatch, "the credential and the user named beside it differ";
    GatewaySecretWrong = "gateway_secret_wrong", InvalidCredential, "`X-Gateway-Secret` is wrong";
    BadGatewayHeader = "bad_gateway_header", InvalidCredential, "a header of the trusted gateway is malformed";
}

/// When to try again what could not be checked.
const TRY_AGAIN: Duration = Duration::from_secs(2);

impl Reason {
    /// The refusal for this reason.
    pub fn refuse(self) -> Refusal {
        self.because(self.sentence())
    }

    /// The refusal for this reason, with more for the log. It must hold no part of a credential and no email.
    pub fn because(self, cause: impl fmt::Display) -> Refusal {
        let code = self.code();
        let refusal = Refusal::new(code, self.told()).because(cause).reason(self.as_str());
        if code.status() == 503 { refusal.retry_after(TRY_AGAIN) } else { refusal }
    }

    /// What the client is told.
    const fn told(self) -> &'static str {
        match self.code() {
            Code::ExpiredCredential => "your credential has expired; sign in again",
            Code::RevokedCredential => "your credential was withdrawn; sign in again",
            Code::IdentityMismatch => "the credential and the user named beside it differ",
            Code::InsufficientScope => "your token lacks a scope that is needed here",
            Code::GrantsUnknown => "the gateway cannot check your account right now; try again",
            Code::GroupsUnknown => "the gateway cannot read your groups right now; try again",
            Code::KeysUnknown => "the gateway cannot check credentials of this kind right now; try again",
            _ => match self {
                Self::NotBearer => "`Authorization` must be `Bearer` and one token",
                _ => "your credential is not valid here",
            },
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.as_str(), self.sentence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_reasons_are_unique_and_no_client_is_told_one_that_helps_a_forger() {
        let mut words: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            let refusal = reason.refuse();
            assert_eq!((refusal.why(), refusal.cause()), (Some(reason.as_str()), Some(reason.sentence())));
            let is_secret = refusal.code() == Code::InvalidCredential && *reason != Reason::NotBearer;
            assert!(!is_secret || refusal.sentence() == "your credential is not valid here", "{reason}");
            assert_eq!(refusal.retry_after_secs().is_some(), refusal.code().status() == 503, "{reason}");
        }
    }
}
