//! Every "no" the gateway can say to a client, on one page.
//!
//! Decides the stable code, status and public sentence of each refusal. Never writes bytes
//! (`gateway/reply.rs` does) and never logs: the private cause travels inside, for the record.
//! Any step of the journey may end in one.

use std::{borrow::Cow, fmt, time::Duration};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $status:literal, $word:literal;)*) => {
        /// The stable word clients and operators search for, and its HTTP status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// All codes, for documentation and for closed metric labels.
            pub const ALL: &[Code] = &[$(Code::$variant,)*];

            /// HTTP status of this refusal.
            pub const fn status(self) -> u16 {
                match self { $(Code::$variant => $status,)* }
            }

            /// The word in `{"code": …}`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $word,)* }
            }
        }
    };
}

codes! {
    /// The path holds dots, empty segments, encodings or characters that paths here never need.
    BadPath = 400, "bad_path";
    /// The request as a whole is not acceptable HTTP, for example without `Host`.
    BadRequest = 400, "bad_request";
    /// A header that may stand once stands twice.
    RepeatedHeader = 400, "repeated_header";
    /// The body is not JSON.
    BodyNotJson = 400, "body_not_json";
    /// The body is JSON, but no JSON-RPC message that all parsers read alike.
    BadMessage = 400, "bad_message";
    /// A header of MCP says something else than the body.
    HeaderMismatch = 400, "header_mismatch";
    /// A request of MCP lacks what every one of its revision must have.
    BadParams = 400, "bad_params";
    /// A cursor that no list of the gateway gave out, to this caller, in this form.
    BadCursor = 400, "bad_cursor";
    /// A client that wants to sign its user in asked for what it may not have, or for what nobody gives out.
    BadSignIn = 400, "bad_sign_in";
    /// The server does not speak the revision of MCP that was asked for.
    UnsupportedVersion = 400, "unsupported_protocol_version";
    /// No credential was sent.
    NoCredential = 401, "no_credential";
    /// A credential was sent and is not believed.
    InvalidCredential = 401, "invalid_credential";
    /// The credential was right once and has expired.
    ExpiredCredential = 401, "expired_credential";
    /// The credential was withdrawn, or its user is gone or inactive.
    RevokedCredential = 401, "revoked_credential";
    /// The token is right, and lacks a scope that is needed here.
    InsufficientScope = 403, "insufficient_scope";
    /// Two identities were claimed and they differ.
    IdentityMismatch = 403, "identity_mismatch";
    /// The gateway is called by a name that somebody else's DNS may answer for.
    ForeignHost = 403, "foreign_host";
    /// A browser page of an origin that may not call.
    ForeignOrigin = 403, "foreign_origin";
    /// The caller has no grant for this server.
    NotGranted = 403, "not_granted";
    /// Groups of the caller bring different keys or addresses for this server, and nothing says which one counts.
    AmbiguousTenant = 403, "ambiguous_tenant";
    /// The server is called with keys of groups' own, and the caller's groups have none.
    NoTenantKey = 403, "no_tenant_key";
    /// Only admins may do this.
    AdminOnly = 403, "admin_only";
    /// Nothing is at this path.
    NotFound = 404, "not_found";
    /// No such server (or, with `access.conceal`, none this caller may know of).
    UnknownServer = 404, "unknown_server";
    /// The server has no such tool.
    UnknownTool = 404, "unknown_tool";
    /// There is no such prompt or resource among the caller's.
    UnknownOffer = 404, "unknown_offer";
    /// No such method, in the revision of MCP that was spoken.
    UnknownMethod = 404, "unknown_method";
    /// The MCP session does not exist: never opened, ended, expired, or somebody else's.
    UnknownSession = 404, "unknown_session";
    /// The path exists for another method.
    MethodNotAllowed = 405, "method_not_allowed";
    /// The client takes no answer of the kind that there is.
    NotAcceptable = 406, "not_acceptable";
    /// The body is larger than this route allows.
    BodyTooLarge = 413, "body_too_large";
    /// The body is compressed or not UTF-8.
    BodyEncoded = 415, "body_encoded";
    /// The body is not labelled as JSON.
    UnsupportedMediaType = 415, "unsupported_media_type";
    /// The tool says that it could not do it; the sentence is the tool's.
    ToolError = 422, "tool_error";
    /// The tool wants to ask somebody first, which this face has no way to.
    InputNeeded = 422, "input_needed";
    /// The arguments of a meta tool are JSON, and not what it takes.
    BadArguments = 422, "bad_arguments";
    /// The caller has as many streams open as one may.
    TooManyStreams = 429, "too_many_streams";
    /// More calls, or more requests, than a limit allows.
    TooManyRequests = 429, "too_many_requests";
    /// The headers are larger than allowed.
    HeadersTooLarge = 431, "headers_too_large";
    /// A bug in the gateway; the log has the cause.
    Internal = 500, "internal";
    /// The server could not be reached or hung up.
    PeerUnreachable = 502, "peer_unreachable";
    /// The server is switched off in the catalog.
    ServerDisabled = 503, "server_disabled";
    /// As many calls of the server are running as may.
    ServerBusy = 503, "server_busy";
    /// The gateway has more to do than it can.
    Overloaded = 503, "overloaded";
    /// The key of the caller's group cannot be unsealed, or cannot be sent.
    TenantKeyUnusable = 503, "tenant_key_unusable";
    /// The address of the caller's group is not one that the gateway may call.
    TenantEndpointUnusable = 503, "tenant_endpoint_unusable";
    /// The gateway does not know the grants (yet, or any more).
    GrantsUnknown = 503, "grants_unknown";
    /// The keys that check a credential are not known (yet, or any more).
    KeysUnknown = 503, "keys_unknown";
    /// The groups of a caller cannot be read from their directory.
    GroupsUnknown = 503, "groups_unknown";
    /// Entra ID, which signs users in, does not answer.
    SignInUnavailable = 503, "sign_in_unavailable";
    /// The server answered with something that is no answer to a tool call.
    PeerBadAnswer = 502, "peer_bad_answer";
    /// The server did not answer in time.
    PeerTooSlow = 504, "peer_too_slow";
}

/// One "no": what the client is told and what only the log may know.
#[derive(Debug, Clone)]
pub struct Refusal {
    code: Code,
    sentence: Cow<'static, str>,
    cause: Option<String>,
    reason: Option<&'static str>,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
    /// Boxed, because refusals are handed on in every result and few have it.
    version_gap: Option<Box<VersionGap>>,
    limited: Option<Box<Limited>>,
    is_closing: bool,
}

/// Which limit refused.
#[derive(Debug, Clone)]
pub struct Limited {
    /// Its word, one of a closed set.
    pub limit: &'static str,
    /// What it allows, where that is a matter of time.
    pub quota: Option<Quota>,
}

/// What a limit allows and leaves, as `RateLimit` headers tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// The limit's word.
    pub name: &'static str,
    /// So many…
    pub count: u32,
    /// …in this time.
    pub window: Duration,
    /// So many are left…
    pub left: u32,
    /// …and one more after this time.
    pub next: Duration,
}

/// Which revisions of MCP would have been understood, and which was asked for.
#[derive(Debug, Clone)]
pub struct VersionGap {
    /// Revisions the server speaks.
    pub supported: Vec<&'static str>,
    /// The one asked for.
    pub requested: Option<String>,
}

impl Refusal {
    /// A refusal with its public sentence: short, lower case, no internals.
    pub fn new(code: Code, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            sentence: sentence.into(),
            cause: None,
            reason: None,
            retry_after: None,
            allow: None,
            version_gap: None,
            limited: None,
            is_closing: false,
        }
    }

    /// A bug on our side: the client learns nothing, the log gets the cause.
    pub fn internal(cause: impl ToString) -> Self {
        Self::new(Code::Internal, "the gateway failed; its log has the reason").because(cause)
    }

    /// Adds what only logs may see. It must hold no secret and no body.
    pub fn because(mut self, cause: impl ToString) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Adds the word, one of a closed set, by which operators look for the cause.
    pub fn reason(mut self, word: &'static str) -> Self {
        self.reason = Some(word);
        self
    }

    /// Adds `Retry-After`.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Names the limit that refused.
    pub fn limited(mut self, limit: &'static str, quota: Option<Quota>) -> Self {
        self.limited = Some(Box::new(Limited { limit, quota }));
        self
    }

    /// After this the connection cannot be understood any more, and ends.
    pub fn closing(mut self) -> Self {
        self.is_closing = true;
        self
    }

    /// A method refused, with the `Allow` header RFC 9110 section 15.5.6 demands.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let mut refusal = Self::new(Code::MethodNotAllowed, "this path does not take this method");
        refusal.allow = Some(allow);
        refusal
    }

    /// A revision of MCP refused, with those that would do.
    pub fn unsupported_version(supported: Vec<&'static str>, requested: Option<String>) -> Self {
        let sentence = "this server does not speak this revision of MCP";
        let mut refusal = Self::new(Code::UnsupportedVersion, sentence);
        refusal.version_gap = Some(Box::new(VersionGap { supported, requested }));
        refusal
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The public sentence.
    pub fn sentence(&self) -> &str {
        &self.sentence
    }

    /// The private cause.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// The word for the cause.
    pub fn why(&self) -> Option<&'static str> {
        self.reason
    }

    /// Seconds for `Retry-After`, rounded up.
    pub fn retry_after_secs(&self) -> Option<u64> {
        self.retry_after.map(whole_secs)
    }

    /// Which limit refused, if one did.
    pub fn limit(&self) -> Option<&Limited> {
        self.limited.as_deref()
    }

    /// Whether the connection ends with this.
    pub fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// Which revisions of MCP would do.
    pub fn version_gap(&self) -> Option<&VersionGap> {
        self.version_gap.as_deref()
    }

    /// Methods for the `Allow` header.
    pub fn allow(&self) -> Option<&'static str> {
        self.allow
    }
}

/// A time in whole seconds, rounded up: after them it has passed.
pub fn whole_secs(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.sentence)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_words_are_unique_and_statuses_are_errors() {
        let mut words: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| (400..600).contains(&code.status())));
    }
}
