//! The authorization server that MCP clients look for, in front of Entra ID, which lacks three things they need: it
//! names no S256 in its metadata, refuses the `resource` they must send (RFC 8707), and registers nobody (RFC 7591).
//!
//! Decides what goes on to Entra ID and what is refused, by the form of what is asked. Never makes, reads or keeps a
//! code or a token: a code goes from Entra ID straight to the client's own redirect URI. Asking Entra ID is
//! `gateway/sign_in.rs`'s.

mod authorize;
mod metadata;
mod parameters;
mod redirect_uri;
mod register;
mod token;

pub use authorize::authorize;
pub use metadata::{authorization_server, openid_configuration};
pub use redirect_uri::RedirectUri;
pub use register::register;
pub use token::{question, told, unreachable};

use http::HeaderMap;
use serde::Serialize;

use super::{Answer, protected_resource::readable_by_all};
use crate::{
    refusal::{Code, Refusal},
    route::is_mcp_or_root,
};
use parameters::Parameters;

/// The gateway as an authorization server.
#[derive(Debug, Clone)]
pub struct Facade {
    /// What clients call the gateway, which is how it calls itself as an issuer: `https://host[:port]`.
    pub issuer: String,
    /// The one client, as Entra ID knows it.
    pub client_id: String,
    /// Where clients may be sent back to.
    pub redirect_uris: Vec<RedirectUri>,
    /// What a token must be asked for to be believed here; never empty.
    pub scopes: Vec<String>,
}

/// Largest body of a client's question.
pub const MAX_BODY: usize = 64 * 1024;

/// What clients may ask for besides: they say who signs in and give a refresh token, and reach nothing.
const OWN_SCOPES: [&str; 4] = ["openid", "profile", "email", "offline_access"];

/// An answer, and the refusal it tells in the words of OAuth, for the record.
#[derive(Debug)]
pub struct Told {
    /// What the client gets.
    pub answer: Answer,
    /// What is written down, where that is a no.
    pub refusal: Option<Refusal>,
}

/// The words for a no: RFC 6749 sections 4.1.2.1 and 5.2, RFC 7591 section 3.2.2, RFC 8707 section 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Something lacks, is repeated or has a value it may not have.
    InvalidRequest,
    /// The client is not the one that is known here.
    InvalidClient,
    /// The code's redirect URI is not listed.
    InvalidGrant,
    /// Something is asked for that this is not about.
    InvalidScope,
    /// The resource is not one of the gateway's.
    InvalidTarget,
    /// Another answer than a code is wanted.
    UnsupportedResponseType,
    /// Another way to a token is wanted.
    UnsupportedGrantType,
    /// A redirect URI to be registered is not listed.
    InvalidRedirectUri,
    /// A registration that cannot be read, or that wants what there is not.
    InvalidClientMetadata,
    /// Entra ID does not answer.
    TemporarilyUnavailable,
}

impl Word {
    const fn as_str(self) -> &'static str {
        match self {
            Word::InvalidRequest => "invalid_request",
            Word::InvalidClient => "invalid_client",
            Word::InvalidGrant => "invalid_grant",
            Word::InvalidScope => "invalid_scope",
            Word::InvalidTarget => "invalid_target",
            Word::UnsupportedResponseType => "unsupported_response_type",
            Word::UnsupportedGrantType => "unsupported_grant_type",
            Word::InvalidRedirectUri => "invalid_redirect_uri",
            Word::InvalidClientMetadata => "invalid_client_metadata",
            Word::TemporarilyUnavailable => "temporarily_unavailable",
        }
    }
}

/// A no in the words of OAuth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OAuthError {
    /// Its word.
    pub word: Word,
    /// What developers read.
    pub sentence: &'static str,
}

#[derive(Serialize)]
struct ErrorBody {
    error: &'static str,
    error_description: &'static str,
}

impl OAuthError {
    /// As the record has it.
    pub fn refusal(self) -> Refusal {
        let code = match self.word {
            Word::TemporarilyUnavailable => Code::SignInUnavailable,
            Word::InvalidRequest
            | Word::InvalidClient
            | Word::InvalidGrant
            | Word::InvalidScope
            | Word::InvalidTarget
            | Word::UnsupportedResponseType
            | Word::UnsupportedGrantType
            | Word::InvalidRedirectUri
            | Word::InvalidClientMetadata => Code::BadSignIn,
        };
        Refusal::new(code, self.sentence).because(self.word.as_str())
    }

    /// As a client that asked by itself is told (RFC 6749 section 5.2).
    pub fn told(self) -> Result<Told, Refusal> {
        let body = ErrorBody { error: self.word.as_str(), error_description: self.sentence };
        let refusal = self.refusal();
        let mut answer = Answer::json(&body)?;
        answer.status = refusal.code().status();
        Ok(Told { answer: readable_by_all(answer), refusal: Some(refusal) })
    }
}

/// The answer to a browser that asks what a page of any site may send (Fetch standard, CORS preflight).
pub fn preflight() -> Answer {
    let answer = Answer::new(204, "", Default::default())
        .with("access-control-allow-methods", "GET, POST".into())
        .with("access-control-allow-headers", "content-type, mcp-protocol-version".into())
        .with("access-control-max-age", "600".into());
    readable_by_all(answer)
}

/// Refuses a body that is not labelled as what it has to be.
pub fn refuse_other_type(headers: &HeaderMap, wanted: &'static str) -> Result<(), Refusal> {
    let label = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = label.map(|label| label.split(';').next().unwrap_or_default().trim());
    if essence.is_some_and(|essence| essence.eq_ignore_ascii_case(wanted)) {
        return Ok(());
    }
    Err(Refusal::new(Code::UnsupportedMediaType, format!("the body must be labelled as `{wanted}`")))
}

impl Facade {
    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.issuer)
    }

    fn refuse_other_client(&self, asked: &Parameters) -> Result<(), OAuthError> {
        if asked.only("client_id") == Some(self.client_id.as_str()) {
            return Ok(());
        }
        let sentence = "`client_id` is not the one that registration gives out";
        Err(OAuthError { word: Word::InvalidClient, sentence })
    }

    /// Every resource must be of the gateway (RFC 8707 section 2). Which one does not matter: a token is for all.
    fn refuse_other_resource(&self, asked: &Parameters) -> Result<(), OAuthError> {
        let is_ours = |url: &str| {
            let path = url.strip_prefix(self.issuer.as_str());
            path.is_some_and(|path| path == "/" || is_mcp_or_root(path) && is_plain(path))
        };
        if asked.all("resource").all(is_ours) {
            return Ok(());
        }
        let sentence = "`resource` is not a URL of this gateway";
        Err(OAuthError { word: Word::InvalidTarget, sentence })
    }

    fn is_listed(&self, redirect_uri: &str) -> bool {
        self.redirect_uris.iter().any(|listed| listed.admits(redirect_uri))
    }

    /// The scopes asked for, none of them of anything else.
    fn refuse_other_scopes(&self, scope: &str) -> Result<(), OAuthError> {
        let is_known =
            |scope: &str| OWN_SCOPES.contains(&scope) || self.scopes.iter().any(|own| own == scope);
        if scope.split(' ').filter(|scope| !scope.is_empty()).all(is_known) {
            return Ok(());
        }
        let sentence = "`scope` holds one that this gateway's tokens do not have";
        Err(OAuthError { word: Word::InvalidScope, sentence })
    }
}

fn is_plain(path: &str) -> bool {
    path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte)) && !path.contains("/.")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(super) const CLIENT: &str = "11111111-2222-3333-4444-555555555555";

    pub(super) fn facade() -> Facade {
        let listed =
            ["http://localhost/callback", "https://app.example.com/back?x=1", "com.example.app:/back"];
        Facade {
            issuer: "https://gw.example.com".into(),
            client_id: CLIENT.into(),
            redirect_uris: listed.map(|uri| RedirectUri::parse(uri).unwrap()).to_vec(),
            scopes: vec!["api://gateway/mcp".into(), "api://gateway/more".into()],
        }
    }

    #[test]
    fn a_resource_is_a_url_of_the_gateway() {
        let facade = facade();
        let judge = |text: &str| facade.refuse_other_resource(&Parameters::read(text.as_bytes()));
        for path in ["", "/", "/mcp", "/github/mcp", "/no-such-server/mcp"] {
            assert_eq!(judge(&format!("resource=https://gw.example.com{path}")), Ok(()), "{path}");
        }
        assert_eq!(judge("a=b"), Ok(()));
        for url in [
            "https://evil.org/mcp",
            "https://gw.example.com.evil.org/mcp",
            "https://gw.example.com@evil.org/mcp",
            "https://gw.example.com:8443/mcp",
            "http://gw.example.com/mcp",
            "https://gw.example.com/github",
            "https://gw.example.com/../mcp",
            "https://gw.example.com/mcp%23x",
            "https://gw.example.com/mcp/",
            "/mcp",
            "x",
        ] {
            assert_eq!(judge(&format!("resource={url}")).unwrap_err().word, Word::InvalidTarget, "{url}");
            let beside = format!("resource=https://gw.example.com/mcp&resource={url}");
            assert_eq!(judge(&beside).unwrap_err().word, Word::InvalidTarget, "{url}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_none_leads_elsewhere(query in "([a-z_]{1,12}=[^&]{0,20}&){0,5}|.{0,60}", body in any::<Vec<u8>>()) {
            let facade = facade();
            let entra = "https://login.example.com/t/authorize";
            if let Ok(told) = authorize(&facade, Some(entra), &query) {
                let (_, location) = told.answer.headers.iter().find(|(name, _)| *name == "location").unwrap();
                prop_assert!(location.starts_with(entra) || facade.is_listed(location.split('?').next().unwrap()));
            }
            let _ = question(&facade, query.as_bytes());
            let _ = question(&facade, &body);
            let _ = register(&facade, &body);
            let _ = told(200, &body.into());
        }
    }
}
