//! A client's user is sent to Entra ID to sign in (RFC 6749 section 4.1.1), with what Entra ID takes and nothing else.
//!
//! Decides where a browser goes next: to Entra ID, back to a listed redirect URI with an error, or nowhere. This is the
//! one place where the gateway redirects. Before the redirect URI is believed nobody is sent anywhere.

use url::Url;

use super::{
    Facade, OAuthError, OWN_SCOPES, Told, Word,
    parameters::{Parameters, is_visible},
};
use crate::{
    endpoints::Answer,
    refusal::{Code, Refusal},
};

/// What may go on as it is, where `may_travel` says so.
const TRAVELS: [&str; 4] = ["state", "nonce", "login_hint", "prompt"];

/// Answers the question in this query; `entra` is Entra ID's authorization endpoint, once it is known.
pub fn authorize(facade: &Facade, entra: Option<&str>, query: &str) -> Result<Told, Refusal> {
    let asked = Parameters::read(query.as_bytes());
    // RFC 6749 section 4.1.2.1: these two are told to the user, never to a redirect URI.
    let unknown = |sentence| Refusal::new(Code::BadSignIn, sentence);
    facade.refuse_other_client(&asked).map_err(|error| error.refusal())?;
    let redirect_uri = asked.only("redirect_uri").filter(|uri| facade.is_listed(uri)).ok_or_else(|| {
        unknown("`redirect_uri` is not one of those that the gateway's operator has listed")
    })?;
    match onward(facade, entra, &asked, redirect_uri) {
        Ok(location) => Ok(Told { answer: redirect(location), refusal: None }),
        Err(error) => {
            let location = back(redirect_uri, &asked, error)?;
            Ok(Told { answer: redirect(location), refusal: Some(error.refusal()) })
        }
    }
}

fn onward(
    facade: &Facade,
    entra: Option<&str>,
    asked: &Parameters,
    redirect_uri: &str,
) -> Result<String, OAuthError> {
    let bad = |word, sentence| Err(OAuthError { word, sentence });
    asked.refuse_repeated()?;
    if asked.required("response_type", "`response_type` is missing")? != "code" {
        return bad(Word::UnsupportedResponseType, "`response_type` must be `code`");
    }
    if asked.only("response_mode").is_some_and(|mode| mode != "query") {
        return bad(Word::InvalidRequest, "`response_mode` must be `query`");
    }
    let challenge = asked.required("code_challenge", "`code_challenge` is missing: PKCE is required")?;
    let is_challenge = challenge.len() == 43
        && challenge.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    // Absent means `plain` (RFC 7636 section 4.3), which shows the verifier to whoever sees the address.
    if asked.only("code_challenge_method") != Some("S256") || !is_challenge {
        return bad(Word::InvalidRequest, "`code_challenge` must be one of the method `S256`");
    }
    facade.refuse_other_resource(asked)?;
    let scope = asked.only("scope").unwrap_or_default();
    facade.refuse_other_scopes(scope)?;
    if TRAVELS.iter().any(|name| asked.only(name).is_some_and(|value| !may_travel(name, value))) {
        return bad(Word::InvalidRequest, "a parameter holds characters it may not have");
    }
    let Some(mut entra) = entra.and_then(|url| Url::parse(url).ok()) else {
        return bad(Word::TemporarilyUnavailable, "what Entra ID says of itself has not been read yet");
    };
    let mut query = entra.query_pairs_mut();
    query
        .append_pair("client_id", &facade.client_id)
        .append_pair("response_type", "code")
        .append_pair("response_mode", "query")
        .append_pair("redirect_uri", redirect_uri)
        .append_pair("scope", &complete(facade, scope))
        .append_pair("code_challenge", challenge)
        .append_pair("code_challenge_method", "S256");
    for name in TRAVELS {
        if let Some(value) = asked.only(name) {
            query.append_pair(name, value);
        }
    }
    drop(query);
    Ok(entra.into())
}

/// The scopes asked for; with the gateway's own where none of them is, or Entra ID would issue a token for itself.
fn complete(facade: &Facade, asked: &str) -> String {
    let asked: Vec<_> = asked.split(' ').filter(|scope| !scope.is_empty()).collect();
    let has_own = asked.iter().any(|scope| !OWN_SCOPES.contains(scope));
    let own = facade.scopes.iter().map(String::as_str).filter(|_| !has_own);
    own.chain(asked.iter().copied()).collect::<Vec<_>>().join(" ")
}

/// The client's redirect URI with the error, as RFC 6749 section 4.1.2.1 has it.
///
/// Without `iss` (RFC 9207): answers that bring a code come from Entra ID, which sends none, so the metadata promises none.
fn back(redirect_uri: &str, asked: &Parameters, error: OAuthError) -> Result<String, Refusal> {
    let mut location = Url::parse(redirect_uri).map_err(Refusal::internal)?;
    let mut query = location.query_pairs_mut();
    query.append_pair("error", error.word.as_str()).append_pair("error_description", error.sentence);
    if let Some(state) = asked.only("state").filter(|state| is_visible(state)) {
        query.append_pair("state", state);
    }
    drop(query);
    Ok(location.into())
}

fn redirect(location: String) -> Answer {
    // The address holds a state, and what follows it a code: no page learns where its visitor came from.
    Answer::new(302, "", Default::default())
        .with("location", location)
        .with("cache-control", "no-store".into())
        .with("referrer-policy", "no-referrer".into())
}

fn may_travel(name: &str, value: &str) -> bool {
    match name {
        // A name to begin with, in any script.
        "login_hint" => {
            value.len() <= 320 && !value.chars().any(|letter| letter.is_control() || letter == '\u{fffd}')
        }
        "prompt" => value.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b' '),
        _ => is_visible(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::authorization::tests::{CLIENT, facade};

    const ENTRA: &str = "https://login.example.com/t/oauth2/v2.0/authorize";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    /// A question that is well in all, with these parameters besides or instead; an empty value takes one away.
    fn query(changes: &[(&str, &str)]) -> String {
        let mut pairs = vec![
            ("response_type", "code"),
            ("client_id", CLIENT),
            ("redirect_uri", "http://localhost:5173/callback"),
            ("state", "a b&c=d"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ];
        pairs.retain(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
        pairs.extend(changes);
        form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
    }

    /// Where the browser goes: the address without its query, and the query's pairs.
    #[track_caller]
    fn goes(query: &str) -> (String, Vec<(String, String)>) {
        let told = authorize(&facade(), Some(ENTRA), query).unwrap();
        assert_eq!(told.answer.status, 302);
        let (_, location) = told.answer.headers.iter().find(|(name, _)| *name == "location").unwrap();
        let url = Url::parse(location).unwrap();
        let mut place = url.clone();
        place.set_query(None);
        (place.into(), url.query_pairs().into_owned().collect())
    }

    fn value<'p>(pairs: &'p [(String, String)], name: &str) -> Vec<&'p str> {
        pairs.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect()
    }

    #[test]
    fn what_entra_id_takes_goes_on_and_the_rest_stays_here() {
        let (place, pairs) = goes(&query(&[
            ("resource", "https://gw.example.com/github/mcp"),
            ("scope", "offline_access"),
            ("login_hint", "jane@example.com"),
            ("nonce", "n"),
            ("prompt", "select_account"),
            ("response_mode", "query"),
            ("client_secret", "s"),
            ("request_uri", "https://evil.org/"),
            ("anything", "x"),
        ]));
        assert_eq!(place, ENTRA);
        let expected = [
            ("client_id", CLIENT),
            ("response_type", "code"),
            ("response_mode", "query"),
            ("redirect_uri", "http://localhost:5173/callback"),
            ("scope", "api://gateway/mcp api://gateway/more offline_access"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
            ("state", "a b&c=d"),
            ("nonce", "n"),
            ("login_hint", "jane@example.com"),
            ("prompt", "select_account"),
        ];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn scopes_of_the_gateway_are_added_where_none_is_asked_for() {
        for (asked, sent) in [
            ("", "api://gateway/mcp api://gateway/more"),
            ("openid  email", "api://gateway/mcp api://gateway/more openid email"),
            ("api://gateway/mcp offline_access", "api://gateway/mcp offline_access"),
        ] {
            assert_eq!(value(&goes(&query(&[("scope", asked)])).1, "scope"), [sent], "{asked}");
        }
    }

    #[track_caller]
    fn check_nowhere(query: &str) {
        let refusal = authorize(&facade(), Some(ENTRA), query).unwrap_err();
        assert_eq!(refusal.code(), Code::BadSignIn, "{query}");
    }

    #[test]
    fn nobody_is_sent_anywhere_before_the_redirect_uri_is_believed() {
        for uri in [
            "",
            "https://evil.org/",
            "http://localhost:5173/callback/../x",
            "javascript:alert(1)",
            "/callback",
        ] {
            check_nowhere(&query(&[("redirect_uri", uri)]));
        }
        let twice = [("redirect_uri", "http://localhost/callback"), ("redirect_uri", "https://evil.org/")];
        check_nowhere(&query(&twice));
        check_nowhere(&query(&[twice[1], twice[0]]));
        for client in ["", "another", &CLIENT.to_uppercase()[1..]] {
            check_nowhere(&query(&[("client_id", client)]));
        }
        check_nowhere(&query(&[("client_id", CLIENT), ("client_id", CLIENT)]));
        check_nowhere("");
    }

    #[track_caller]
    fn check_back(changes: &[(&str, &str)], error: &str) {
        let (place, pairs) = goes(&query(changes));
        assert_eq!(place, "http://localhost:5173/callback", "{changes:?}");
        assert_eq!(value(&pairs, "error"), [error], "{changes:?}");
        assert_eq!(value(&pairs, "iss"), Vec::<&str>::new());
        let state = if changes.iter().any(|(name, _)| *name == "state") { vec![] } else { vec!["a b&c=d"] };
        assert_eq!(value(&pairs, "state"), state, "{changes:?}");
    }

    #[test]
    fn what_is_wrong_is_told_where_the_client_waits() {
        check_back(&[("response_type", "")], "invalid_request");
        check_back(&[("response_type", "token")], "unsupported_response_type");
        check_back(&[("response_type", "code id_token")], "unsupported_response_type");
        check_back(&[("response_mode", "fragment")], "invalid_request");
        check_back(&[("code_challenge", "")], "invalid_request");
        check_back(&[("code_challenge", "short")], "invalid_request");
        check_back(&[("code_challenge", &format!("{}=", &CHALLENGE[1..]))], "invalid_request");
        check_back(&[("code_challenge_method", "")], "invalid_request");
        check_back(&[("code_challenge_method", "plain")], "invalid_request");
        check_back(&[("scope", "https://graph.microsoft.com/Mail.Read")], "invalid_scope");
        check_back(&[("scope", "api://gateway/mcp .default")], "invalid_scope");
        check_back(&[("resource", "https://evil.org/mcp")], "invalid_target");
        check_back(&[("prompt", "Consent!")], "invalid_request");
        check_back(&[("nonce", "\u{e9}")], "invalid_request");
        check_back(&[("login_hint", "a\r\nb")], "invalid_request");
        check_back(&[("state", "\u{e9}")], "invalid_request");
        check_back(&[("state", "a"), ("state", "b")], "invalid_request");
        check_back(&[("x", "a"), ("x", "b")], "invalid_request");
    }

    #[test]
    fn a_redirect_uri_keeps_what_it_has() {
        let (place, pairs) =
            goes(&query(&[("redirect_uri", "https://app.example.com/back?x=1"), ("response_type", "token")]));
        assert_eq!(place, "https://app.example.com/back");
        assert_eq!(pairs[0], ("x".to_owned(), "1".to_owned()));
        let (place, _) =
            goes(&query(&[("redirect_uri", "com.example.app:/back"), ("response_type", "token")]));
        assert_eq!(place, "com.example.app:/back");
    }

    #[test]
    fn a_client_waits_until_entra_id_is_known() {
        let told = authorize(&facade(), None, &query(&[])).unwrap();
        assert_eq!(told.refusal.unwrap().code(), Code::SignInUnavailable);
        let (_, location) = &told.answer.headers[0];
        assert!(
            location.starts_with("http://localhost:5173/callback?error=temporarily_unavailable&"),
            "{location}"
        );
    }
}
