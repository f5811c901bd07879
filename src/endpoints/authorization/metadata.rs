//! What the gateway says of itself as an authorization server (RFC 8414, OpenID Connect Discovery).
//!
//! Decides the two documents. They name the gateway where clients go through it, and Entra ID's keys, because the tokens
//! are Entra ID's.

use serde::Serialize;

use super::{Facade, OWN_SCOPES};
use crate::{
    endpoints::{Answer, protected_resource::readable_by_all},
    refusal::{Code, Refusal},
};

#[derive(Serialize)]
struct Metadata<'a> {
    issuer: &'a str,
    authorization_endpoint: String,
    token_endpoint: String,
    registration_endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwks_uri: Option<&'a str>,
    scopes_supported: Vec<&'a str>,
    response_types_supported: [&'static str; 1],
    response_modes_supported: [&'static str; 1],
    grant_types_supported: [&'static str; 2],
    code_challenge_methods_supported: [&'static str; 1],
    token_endpoint_auth_methods_supported: [&'static str; 1],
    #[serde(flatten)]
    openid: Option<OpenId>,
}

/// What OpenID Connect Discovery section 3 wants besides, as Entra ID has it.
#[derive(Serialize)]
struct OpenId {
    subject_types_supported: [&'static str; 1],
    id_token_signing_alg_values_supported: [&'static str; 1],
}

/// Authorization server metadata (RFC 8414 section 2). `jwks` is where Entra ID has its keys, once that is known.
pub fn authorization_server(facade: &Facade, jwks: Option<&str>) -> Result<Answer, Refusal> {
    answer(&Metadata::new(facade, jwks, None))
}

/// The same as an OpenID provider says it (OpenID Connect Discovery section 3).
pub fn openid_configuration(facade: &Facade, jwks: Option<&str>) -> Result<Answer, Refusal> {
    let Some(jwks) = jwks else {
        let sentence = "what Entra ID says of itself has not been read yet";
        return Err(Refusal::new(Code::SignInUnavailable, sentence).retry_after(super::token::RETRY));
    };
    let openid =
        OpenId { subject_types_supported: ["pairwise"], id_token_signing_alg_values_supported: ["RS256"] };
    answer(&Metadata::new(facade, Some(jwks), Some(openid)))
}

impl<'a> Metadata<'a> {
    fn new(facade: &'a Facade, jwks_uri: Option<&'a str>, openid: Option<OpenId>) -> Self {
        Self {
            issuer: &facade.issuer,
            authorization_endpoint: facade.url("/oauth/authorize"),
            token_endpoint: facade.url("/oauth/token"),
            registration_endpoint: facade.url("/oauth/register"),
            jwks_uri,
            scopes_supported: facade.scopes.iter().map(String::as_str).chain(OWN_SCOPES).collect(),
            response_types_supported: ["code"],
            response_modes_supported: ["query"],
            grant_types_supported: ["authorization_code", "refresh_token"],
            code_challenge_methods_supported: ["S256"],
            token_endpoint_auth_methods_supported: ["none"],
            openid,
        }
    }
}

fn answer(metadata: &Metadata<'_>) -> Result<Answer, Refusal> {
    let body = serde_json::to_vec(metadata).map_err(Refusal::internal)?;
    let answer = Answer::new(200, "application/json", body.into());
    Ok(readable_by_all(answer.with("cache-control", "public, max-age=300".into())))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::endpoints::authorization::tests::facade;

    fn document(answer: Result<Answer, Refusal>) -> Value {
        serde_json::from_slice(&answer.unwrap().body).unwrap()
    }

    #[test]
    fn the_documents_name_the_gateway_and_what_entra_id_does_not_say() {
        let facade = facade();
        let mut expected = json!({
            "issuer": "https://gw.example.com",
            "authorization_endpoint": "https://gw.example.com/oauth/authorize",
            "token_endpoint": "https://gw.example.com/oauth/token",
            "registration_endpoint": "https://gw.example.com/oauth/register",
            "scopes_supported":
                ["api://gateway/mcp", "api://gateway/more", "openid", "profile", "email", "offline_access"],
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
        });
        assert_eq!(document(authorization_server(&facade, None)), expected);
        let jwks = "https://login.example.com/keys";
        expected["jwks_uri"] = json!(jwks);
        assert_eq!(document(authorization_server(&facade, Some(jwks))), expected);
        expected["subject_types_supported"] = json!(["pairwise"]);
        expected["id_token_signing_alg_values_supported"] = json!(["RS256"]);
        assert_eq!(document(openid_configuration(&facade, Some(jwks))), expected);
        let unknown = openid_configuration(&facade, None).unwrap_err();
        assert_eq!((unknown.code(), unknown.retry_after_secs()), (Code::SignInUnavailable, Some(5)));
    }
}
