//! A code or a refresh token becomes an access token (RFC 6749 sections 4.1.3 and 6): asked of Entra ID in the
//! client's place, without the `resource` that Entra ID refuses.
//!
//! Decides which parameters go on and what of Entra ID's answer comes back. Never keeps either.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Facade, OAuthError, Told, Word,
    parameters::{Parameters, is_visible},
};
use crate::{
    endpoints::{Answer, protected_resource::readable_by_all},
    refusal::{Code, Refusal},
};

/// When to ask again while Entra ID is away.
pub(super) const RETRY: Duration = Duration::from_secs(5);

/// The form to send to Entra ID's token endpoint for this form of a client.
pub fn question(facade: &Facade, form: &[u8]) -> Result<String, OAuthError> {
    let asked = Parameters::read(form);
    asked.refuse_repeated()?;
    facade.refuse_other_client(&asked)?;
    facade.refuse_other_resource(&asked)?;
    let travels: &[&str] = match asked.required("grant_type", "`grant_type` is missing")? {
        "authorization_code" => {
            asked.required("code", "`code` is missing")?;
            asked.required("code_verifier", "`code_verifier` is missing: PKCE is required")?;
            let redirect_uri = asked.required("redirect_uri", "`redirect_uri` is missing")?;
            if !facade.is_listed(redirect_uri) {
                let sentence = "`redirect_uri` is not one of those that the gateway's operator has listed";
                return Err(OAuthError { word: Word::InvalidGrant, sentence });
            }
            &["grant_type", "client_id", "code", "redirect_uri", "code_verifier", "scope"]
        }
        "refresh_token" => {
            asked.required("refresh_token", "`refresh_token` is missing")?;
            &["grant_type", "client_id", "refresh_token", "scope"]
        }
        _ => {
            let sentence = "`grant_type` must be `authorization_code` or `refresh_token`";
            return Err(OAuthError { word: Word::UnsupportedGrantType, sentence });
        }
    };
    facade.refuse_other_scopes(asked.only("scope").unwrap_or_default())?;
    let mut form = form_urlencoded::Serializer::new(String::new());
    for name in travels {
        let Some(value) = asked.only(name) else { continue };
        if !is_visible(value) {
            let sentence = "a parameter holds characters it may not have";
            return Err(OAuthError { word: Word::InvalidRequest, sentence });
        }
        form.append_pair(name, value);
    }
    Ok(form.finish())
}

/// What the record may know of an error of Entra ID.
#[derive(Deserialize)]
struct Complaint<'a> {
    #[serde(borrow)]
    error: Option<&'a str>,
    #[serde(default)]
    error_codes: Vec<u64>,
}

/// Entra ID's answer as the client gets it: its own bytes, where they are an answer of a token endpoint.
pub fn told(status: u16, body: &Bytes) -> Result<Told, Refusal> {
    let is_object = serde_json::from_slice::<&RawValue>(body).is_ok_and(|value| value.get().starts_with('{'));
    let refusal = match status {
        _ if !is_object => {
            return unreachable(&format!("Entra ID answered {status} with no JSON object")).told();
        }
        200 => None,
        // 401 and 403 are about the client's own credential, of which there is none: to the client all are one no.
        400 | 401 | 403 => Some(complaint(status, body)),
        _ => return unreachable(&format!("Entra ID answered {status}")).told(),
    };
    let answer = Answer::new(if refusal.is_some() { 400 } else { 200 }, "application/json", body.clone())
        .with("cache-control", "no-store".into())
        .with("pragma", "no-cache".into());
    Ok(Told { answer: readable_by_all(answer), refusal })
}

/// Entra ID's no, for the record: its words and numbers, which are from closed sets, and none of its sentences.
fn complaint(status: u16, body: &[u8]) -> Refusal {
    let said: Option<Complaint<'_>> = serde_json::from_slice(body).ok();
    let is_word =
        |word: &&str| word.len() <= 40 && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let word = said.as_ref().and_then(|said| said.error).filter(is_word).unwrap_or("no error word");
    let number = said.and_then(|said| said.error_codes.first().copied());
    let number = number.map_or_else(String::new, |number| format!(", AADSTS{number}"));
    Refusal::new(Code::BadSignIn, "Entra ID gives no token for this")
        .because(format_args!("Entra ID answered {status}: {word}{number}"))
}

/// Why there is no answer of Entra ID.
pub struct Unreachable(String);

/// There is no answer of Entra ID, for this reason, which only the log sees.
pub fn unreachable(cause: &str) -> Unreachable {
    Unreachable(cause.to_owned())
}

impl Unreachable {
    /// As the client is told.
    pub fn told(self) -> Result<Told, Refusal> {
        let sentence = "Entra ID does not answer; try again in some seconds";
        let mut told = OAuthError { word: Word::TemporarilyUnavailable, sentence }.told()?;
        told.answer = told.answer.with("retry-after", RETRY.as_secs().to_string());
        told.refusal = told.refusal.map(|refusal| refusal.because(self.0));
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::endpoints::authorization::tests::{CLIENT, facade};

    const CODE: [(&str, &str); 5] = [
        ("grant_type", "authorization_code"),
        ("client_id", CLIENT),
        ("code", "c%c/d"),
        ("redirect_uri", "http://localhost:5173/callback"),
        ("code_verifier", "v"),
    ];
    const REFRESH: [(&str, &str); 3] =
        [("grant_type", "refresh_token"), ("client_id", CLIENT), ("refresh_token", "r")];

    fn form(pairs: &[(&str, &str)], changes: &[(&str, &str)]) -> String {
        let kept = pairs.iter().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
        form_urlencoded::Serializer::new(String::new()).extend_pairs(kept.chain(changes)).finish()
    }

    #[test]
    fn what_entra_id_takes_goes_on_and_the_rest_stays_here() {
        let besides = [
            ("resource", "https://gw.example.com/mcp"),
            ("client_secret", "s"),
            ("client_assertion", "a"),
            ("anything", "x"),
        ];
        for pairs in [&CODE[..], &REFRESH] {
            assert_eq!(question(&facade(), form(pairs, &besides).as_bytes()), Ok(form(pairs, &[])));
            let scoped = [("scope", "api://gateway/mcp offline_access")];
            assert_eq!(question(&facade(), form(pairs, &scoped).as_bytes()), Ok(form(pairs, &scoped)));
        }
    }

    #[track_caller]
    fn check(pairs: &[(&str, &str)], changes: &[(&str, &str)], expected: Word) {
        let found = question(&facade(), form(pairs, changes).as_bytes()).unwrap_err();
        assert_eq!(found.word, expected, "{changes:?}");
    }

    #[test]
    fn what_no_client_of_ours_asks_goes_nowhere() {
        for pairs in [&CODE[..], &REFRESH] {
            check(pairs, &[("client_id", "another")], Word::InvalidClient);
            check(pairs, &[("client_id", "")], Word::InvalidClient);
            check(pairs, &[("client_id", CLIENT), ("client_id", CLIENT)], Word::InvalidRequest);
            check(pairs, &[("grant_type", "")], Word::InvalidRequest);
            for grant in ["password", "client_credentials", "urn:ietf:params:oauth:grant-type:jwt-bearer"] {
                check(pairs, &[("grant_type", grant)], Word::UnsupportedGrantType);
            }
            check(pairs, &[("resource", "https://evil.org/")], Word::InvalidTarget);
            check(pairs, &[("scope", "https://graph.microsoft.com/.default")], Word::InvalidScope);
        }
        check(&CODE, &[("code", "")], Word::InvalidRequest);
        check(&CODE, &[("code", "\u{e9}")], Word::InvalidRequest);
        check(&CODE, &[("code_verifier", "")], Word::InvalidRequest);
        check(&CODE, &[("redirect_uri", "")], Word::InvalidRequest);
        check(&CODE, &[("redirect_uri", "https://evil.org/")], Word::InvalidGrant);
        check(&REFRESH, &[("refresh_token", "")], Word::InvalidRequest);
        check(&REFRESH, &[("refresh_token", "a"), ("refresh_token", "b")], Word::InvalidRequest);
    }

    #[test]
    fn an_answer_of_entra_id_comes_back_as_it_is_and_is_kept_by_nobody() {
        let token = Bytes::from_static(br#"{"access_token": "t", "unknown": 1}"#);
        let found = told(200, &token).unwrap();
        assert_eq!((found.answer.status, &found.answer.body), (200, &token));
        assert!(
            found.refusal.is_none() && found.answer.headers.contains(&("cache-control", "no-store".into()))
        );

        let error = json!({"error": "invalid_grant", "error_description": "AADSTS70008: jane@example.com", "error_codes": [70008]});
        let error = Bytes::from(error.to_string());
        for status in [400, 401, 403] {
            let found = told(status, &error).unwrap();
            assert_eq!((found.answer.status, &found.answer.body), (400, &error));
            let cause = format!("Entra ID answered {status}: invalid_grant, AADSTS70008");
            assert_eq!(found.refusal.unwrap().cause(), Some(cause.as_str()));
        }
    }

    #[test]
    fn what_is_no_answer_of_a_token_endpoint_is_an_absent_one() {
        for (status, body) in [
            (500, "{}"),
            (302, "{}"),
            (429, "{}"),
            (200, ""),
            (200, "<html>"),
            (200, "[1]"),
            (200, "{"),
            (400, "no"),
        ] {
            let found = told(status, &Bytes::from_static(body.as_bytes())).unwrap();
            assert_eq!(found.answer.status, 503, "{status} {body}");
            assert_eq!(found.refusal.unwrap().code(), Code::SignInUnavailable);
            assert!(found.answer.headers.contains(&("retry-after", "5".into())));
            let told: serde_json::Value = serde_json::from_slice(&found.answer.body).unwrap();
            assert_eq!(told["error"], "temporarily_unavailable");
        }
    }
}
