//! A client introduces itself (RFC 7591) and is told who it is: the one client that Entra ID knows.
//!
//! Decides whether the client can be that one: each of its redirect URIs must be listed. Nothing is stored, so whoever
//! registers changes nothing for anybody.

use serde::{Deserialize, Serialize};

use super::{Facade, OAuthError, Told, Word};
use crate::{
    endpoints::{Answer, protected_resource::readable_by_all},
    refusal::Refusal,
};

/// What a client says of itself, as far as it matters here (RFC 7591 section 2).
#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    redirect_uris: Vec<String>,
    #[serde(default = "by_code")]
    grant_types: Vec<String>,
    #[serde(default = "code")]
    response_types: Vec<String>,
}

fn by_code() -> Vec<String> {
    vec!["authorization_code".into()]
}

fn code() -> Vec<String> {
    vec!["code".into()]
}

#[derive(Serialize)]
struct Registered<'a> {
    client_id: &'a str,
    redirect_uris: &'a [String],
    grant_types: [&'static str; 2],
    response_types: [&'static str; 1],
    token_endpoint_auth_method: &'static str,
    scope: String,
}

/// Answers a registration.
pub fn register(facade: &Facade, body: &[u8]) -> Result<Told, Refusal> {
    match read(facade, body) {
        Ok(asked) => {
            let registered = Registered {
                client_id: &facade.client_id,
                redirect_uris: &asked.redirect_uris,
                grant_types: ["authorization_code", "refresh_token"],
                response_types: ["code"],
                token_endpoint_auth_method: "none",
                scope: facade.scopes.join(" "),
            };
            let mut answer = Answer::json(&registered)?;
            answer.status = 201;
            Ok(Told { answer: readable_by_all(answer), refusal: None })
        }
        Err(error) => error.told(),
    }
}

fn read(facade: &Facade, body: &[u8]) -> Result<Asked, OAuthError> {
    let bad = |word, sentence| Err(OAuthError { word, sentence });
    let bare =
        || OAuthError { word: Word::InvalidClientMetadata, sentence: "the body is no client metadata" };
    // serde takes an array for an object whose members stand in order.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(bare());
    }
    let asked: Asked = serde_json::from_slice(body).map_err(|_| bare())?;
    if !asked.grant_types.iter().any(|grant| grant == "authorization_code")
        || !asked.response_types.iter().any(|kind| kind == "code")
    {
        return bad(Word::InvalidClientMetadata, "clients get their tokens by `authorization_code` here");
    }
    if asked.redirect_uris.is_empty() || !asked.redirect_uris.iter().all(|uri| facade.is_listed(uri)) {
        let sentence = "`redirect_uris` must be among those that the gateway's operator has listed";
        return bad(Word::InvalidRedirectUri, sentence);
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::endpoints::authorization::tests::{CLIENT, facade};

    #[track_caller]
    fn check(asked: Value, status: u16, error: Option<&str>) -> Value {
        let told = register(&facade(), asked.to_string().as_bytes()).unwrap();
        let body: Value = serde_json::from_slice(&told.answer.body).unwrap();
        assert_eq!((told.answer.status, body["error"].as_str()), (status, error), "{asked}");
        assert_eq!(told.refusal.is_some(), error.is_some());
        body
    }

    #[test]
    fn who_comes_from_a_listed_place_is_the_one_client() {
        let uris = json!(["http://localhost:5173/callback", "com.example.app:/back"]);
        let asked = json!({"redirect_uris": uris, "client_name": "x", "token_endpoint_auth_method": "client_secret_post",
            "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"], "scope": "y"});
        let expected = json!({"client_id": CLIENT, "redirect_uris": uris, "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
            "scope": "api://gateway/mcp api://gateway/more"});
        assert_eq!(check(asked, 201, None), expected);
        check(json!({"redirect_uris": uris}), 201, None);
    }

    #[test]
    fn who_comes_from_elsewhere_is_nobody() {
        let good = "http://localhost/callback";
        for uris in [json!([]), json!(["https://evil.org/"]), json!([good, "https://evil.org/"])] {
            check(json!({"redirect_uris": uris}), 400, Some("invalid_redirect_uri"));
        }
        check(json!({}), 400, Some("invalid_redirect_uri"));
        for asked in [
            json!({"redirect_uris": good}),
            json!({"redirect_uris": [1]}),
            json!({"redirect_uris": [good], "grant_types": ["client_credentials"]}),
            json!({"redirect_uris": [good], "response_types": ["token"]}),
            json!([]),
            json!(null),
        ] {
            check(asked, 400, Some("invalid_client_metadata"));
        }
    }
}
