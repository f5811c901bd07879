//! The pages of the sign-in themselves: what they say, to whom, and what they never pass on.

use reqwest::{Method, header::HeaderMap};
use serde_json::json;
use url::Url;

use super::{SCOPE, Scene, error, with_facade};
use crate::harness::{
    deadline::until,
    entra::{CLIENT, HOME, Page},
    gateway::Answer,
    raw::RawClient,
    request::head,
};

const CALLBACK: &str = "http://localhost:4711/callback";
/// The challenge of `VERIFIER` (RFC 7636 appendix B).
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn form(pairs: Pairs<'_>) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

impl Scene {
    pub async fn authorize(&self, changes: Pairs<'_>) -> Answer {
        let mut pairs = vec![
            ("response_type", "code"),
            ("client_id", CLIENT),
            ("redirect_uri", CALLBACK),
            ("state", "secret-state"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ];
        pairs.retain(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
        pairs.extend(changes);
        let path = format!("/oauth/authorize?{}", form(&pairs));
        self.gateway.send(self.gateway.request(Method::GET, &path)).await
    }

    pub async fn token(&self, pairs: Pairs<'_>) -> Answer {
        let request = self.gateway.request(Method::POST, "/oauth/token");
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        self.gateway.send(request.body(form(pairs))).await
    }

    /// A code that Entra ID has sent the client for its user.
    pub async fn code(&self) -> String {
        let there =
            location(&self.authorize(&[("resource", &self.url()), ("scope", "offline_access")]).await);
        let back = self.gateway.client.get(there).send().await.unwrap();
        let back = location(&Answer::read(back).await);
        assert_eq!(query(&back, "state").as_deref(), Some("secret-state"));
        query(&back, "code").unwrap()
    }

    pub async fn redeem(&self, code: &str) -> Answer {
        let url = self.url();
        let pairs = [
            ("grant_type", "authorization_code"),
            ("client_id", CLIENT),
            ("code", code),
            ("code_verifier", VERIFIER),
            ("redirect_uri", CALLBACK),
            ("resource", &url),
            ("client_secret", "anything"),
        ];
        self.token(&pairs).await
    }
}

#[track_caller]
pub fn location(answer: &Answer) -> Url {
    assert_eq!(answer.status.as_u16(), 302, "{}", answer.text());
    answer.header("location").unwrap().parse().unwrap()
}

pub fn query(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
}

#[tokio::test]
async fn the_metadata_says_what_entra_id_does_not() {
    let scene = Scene::start().await;
    let issuer = scene.gateway.url("");
    let entra = scene.idp.url();
    let mut expected = json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/oauth/authorize"),
        "token_endpoint": format!("{issuer}/oauth/token"),
        "registration_endpoint": format!("{issuer}/oauth/register"),
        "jwks_uri": format!("{entra}/{HOME}/discovery/v2.0/keys"),
        "scopes_supported": [SCOPE, "openid", "profile", "email", "offline_access"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
    });
    assert_eq!(scene.document("/.well-known/oauth-authorization-server").await, expected);
    expected["subject_types_supported"] = json!(["pairwise"]);
    expected["id_token_signing_alg_values_supported"] = json!(["RS256"]);
    assert_eq!(scene.document("/.well-known/openid-configuration").await, expected);
}

#[tokio::test]
async fn a_user_signs_in_at_entra_id_and_the_client_gets_its_token() {
    let scene = Scene::start().await;
    let code = scene.code().await;
    let answer = scene.redeem(&code).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let token = answer.json()["access_token"].as_str().unwrap().to_owned();
    let refresh_token = answer.json()["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!(scene.gateway.get("/servers", &token).await.json()["total_servers"], 1);
    let pairs = [("grant_type", "refresh_token"), ("client_id", CLIENT), ("refresh_token", &refresh_token)];
    let renewed = scene.token(&pairs).await.json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(scene.gateway.get("/servers", &renewed).await.json()["total_servers"], 1);

    // A code is worth one token; Entra ID says so, and the record says what it said.
    assert_eq!(error(&scene.redeem(&code).await), (400, "invalid_grant".into()));
    let line = scene.gateway.stdout.find("the refusal", |line| line.contains("bad_sign_in")).await;
    assert!(line.contains("Entra ID answered 400: invalid_grant, AADSTS70008"), "{line}");
    for asked in scene.idp.asked().iter().filter(|asked| asked.page == Page::Token) {
        assert!(!asked.body.contains("client_secret") && !asked.body.contains("resource"), "{asked:?}");
    }
    scene.gateway.wrote_none_of(&[
        &code,
        &token,
        &refresh_token,
        &renewed,
        "secret-state",
        VERIFIER,
        CHALLENGE,
        CALLBACK,
    ]);
}

#[tokio::test]
async fn nobody_is_sent_to_a_place_that_is_not_listed() {
    let scene = Scene::start().await;
    for uri in [
        "https://evil.example.com/",
        "http://localhost.evil.example.com/callback",
        "http://localhost/other",
        "",
    ] {
        let answer = scene.authorize(&[("redirect_uri", uri)]).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "bad_sign_in"), "{uri}");
        assert_eq!(answer.header("location"), None);
    }
    let answer = scene.authorize(&[("client_id", "another")]).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (400, None));
    for (changes, word) in [
        (&[("resource", "https://evil.example.com/mcp")][..], "invalid_target"),
        (&[("scope", "https://graph.microsoft.com/Mail.Read")], "invalid_scope"),
        (&[("code_challenge_method", "plain")], "invalid_request"),
        (&[("response_type", "token")], "unsupported_response_type"),
        (&[("x", "1"), ("x", "2")], "invalid_request"),
    ] {
        let back = location(&scene.authorize(changes).await);
        assert!(back.as_str().starts_with("http://localhost:4711/callback?error="), "{back}");
        assert_eq!(query(&back, "error").as_deref(), Some(word));
        assert_eq!(query(&back, "state").as_deref(), Some("secret-state"));
    }
    assert_eq!(scene.idp.hits(Page::Authorize), 0);
}

#[tokio::test]
async fn a_client_is_told_in_the_words_of_oauth_what_it_did_wrong() {
    let scene = Scene::start().await;
    let grant = ("grant_type", "authorization_code");
    for (pairs, word) in [
        (&[][..], "invalid_client"),
        (&[grant, ("client_id", "another")], "invalid_client"),
        (&[grant, ("client_id", CLIENT)], "invalid_request"),
        (&[("grant_type", "client_credentials"), ("client_id", CLIENT)], "unsupported_grant_type"),
        (&[grant, grant, ("client_id", CLIENT)], "invalid_request"),
        (&[grant, ("client_id", CLIENT), ("resource", "https://evil.example.com/")], "invalid_target"),
    ] {
        assert_eq!(error(&scene.token(pairs).await), (400, word.into()), "{pairs:?}");
    }
    assert_eq!(scene.idp.hits(Page::Token), 0);
    let register = async |body: serde_json::Value| {
        let request = scene.gateway.request(Method::POST, "/oauth/register");
        scene.gateway.send(request.header("content-type", "application/json").body(body.to_string())).await
    };
    let answer = register(json!({"redirect_uris": [CALLBACK]})).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["client_id"]), (201, &json!(CLIENT)));
    let answer = register(json!({"redirect_uris": [CALLBACK, "https://evil.example.com/"]})).await;
    assert_eq!(error(&answer), (400, "invalid_redirect_uri".into()));
    until("the count of refusals", async || {
        let refused =
            scene.gateway.metrics().await.sum("portcullis_refusals_total", &[("code", "bad_sign_in")]);
        (refused == 7.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn bodies_are_of_one_kind_and_small() {
    let scene = Scene::start().await;
    for (path, label, status) in [
        ("/oauth/token", "application/json", 415),
        ("/oauth/register", "application/x-www-form-urlencoded", 415),
        ("/oauth/token", "application/x-www-form-urlencoded", 413),
        ("/oauth/register", "application/json; charset=utf-8", 413),
    ] {
        let request = scene.gateway.request(Method::POST, path).header("content-type", label);
        let answer = scene.gateway.send(request.body("x".repeat(64 * 1024 + 1))).await;
        assert_eq!(answer.status.as_u16(), status, "{path} {label}");
    }
}

#[tokio::test]
async fn bodies_that_never_come_are_no_more_than_one_address_may_have() {
    let scene = Scene::with(|setup, _| with_facade(setup).set("limits.requests_per_caller", 2)).await;
    let lines = ["content-type: application/x-www-form-urlencoded", "content-length: 500"];
    let endless = head("POST", "/oauth/token", "", &lines);
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut client = RawClient::connect_from("127.0.0.2", &scene.gateway.address()).await;
        client.send(&endless).await;
        open.push(client);
    }
    let document = head("GET", "/.well-known/oauth-authorization-server", "", &[]);
    until("both to be in work", || async {
        let mut client = RawClient::connect_from("127.0.0.2", &scene.gateway.address()).await;
        // No question before this one is left.
        let in_work = scene.gateway.metrics().await.sum("portcullis_requests_in_flight", &[]);
        (in_work == 2.0 && client.exchange(&document).await.status == 429).then_some(())
    })
    .await;
    let mut third = RawClient::connect_from("127.0.0.2", &scene.gateway.address()).await;
    let refused = third.exchange(&endless).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (429, Some("too_many_requests")));
    assert_eq!(
        scene.token(&[("grant_type", "none")]).await.status.as_u16(),
        400,
        "another address is served"
    );
}

#[tokio::test]
async fn pages_of_any_site_may_sign_their_users_in() {
    let scene = Scene::start().await;
    for path in [
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
        "/oauth/token",
        "/oauth/register",
    ] {
        let request =
            scene.gateway.request(Method::OPTIONS, path).header("origin", "https://any.example.com");
        let answer = scene.gateway.send(request.header("access-control-request-method", "POST")).await;
        assert_eq!(answer.status.as_u16(), 204, "{path}");
        assert_eq!(allowed(&answer.headers), ["*", "content-type, mcp-protocol-version"]);
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
}

fn allowed(headers: &HeaderMap) -> [&str; 2] {
    ["access-control-allow-origin", "access-control-allow-headers"]
        .map(|name| headers[name].to_str().unwrap())
}
