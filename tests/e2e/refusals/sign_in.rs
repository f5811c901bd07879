//! The sign-in facade sends nobody astray: no address that is not listed, no code for somebody else, no other grant.

use reqwest::Method;
use serde_json::json;

use super::jane_in_entra;
use crate::harness::{
    entra::{API, API_SECRET, CLIENT, Fault, Idp, Page},
    gateway::{Answer, Gateway, Setup},
    grants::Grants,
    openwebui::JANE_EMAIL,
    raw::{RawAnswer, RawClient},
};

/// Listed, with an address of the web and one of the user's own machine.
const LISTED: [&str; 2] = ["https://app.example.com/callback", "http://localhost/callback"];
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const PAGES: [(&str, &str); 5] = [
    ("GET", "/.well-known/oauth-authorization-server"),
    ("GET", "/.well-known/openid-configuration"),
    ("GET", "/oauth/authorize"),
    ("POST", "/oauth/token"),
    ("POST", "/oauth/register"),
];

struct Scene {
    gateway: Gateway,
    idp: Idp,
    _grants: Grants,
}

impl Scene {
    async fn start() -> Self {
        Self::with(|setup| {
            let url = setup.url();
            setup
                .set("listen.public_url", url)
                .set("auth.oauth.scopes", vec![format!("api://{API}/Tools.Call")])
                .set("auth.oauth.facade.client_id", CLIENT)
                .set("auth.oauth.facade.redirect_uris", LISTED.to_vec())
        })
        .await
    }

    async fn with(set: impl FnOnce(Setup) -> Setup) -> Self {
        let idp = Idp::start().await;
        idp.add_user(&jane_in_entra());
        let grants = Grants::of(&[]).await;
        let gateway = set(grants.setup().entra(&idp).set("log.filter", "trace")).start().await;
        // What Entra ID says of itself has been read.
        idp.asked_for(Page::Keys, 1).await;
        Self { gateway, idp, _grants: grants }
    }

    /// A good question, with these parameters instead of the usual ones (`None` leaves one out).
    async fn authorize(&self, changes: &[(&str, Option<&str>)]) -> RawAnswer {
        let mut pairs = vec![
            ("response_type", "code"),
            ("client_id", CLIENT),
            ("redirect_uri", LISTED[0]),
            ("state", "a-state"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ];
        pairs.retain(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
        pairs.extend(changes.iter().filter_map(|(name, value)| Some((*name, (*value)?))));
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        self.ask_raw(&format!("/oauth/authorize?{query}")).await
    }

    async fn ask_raw(&self, path: &str) -> RawAnswer {
        let mut client = RawClient::connect(&self.gateway.address()).await;
        client.exchange(format!("GET {path} HTTP/1.1\r\nhost: gateway\r\n\r\n")).await
    }

    async fn token(&self, pairs: &[(&str, &str)]) -> Answer {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        let request = self.gateway.request(Method::POST, "/oauth/token");
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        self.gateway.send(request.body(body)).await
    }

    fn asked_nothing(&self) {
        assert_eq!((self.idp.hits(Page::Authorize), self.idp.hits(Page::Token)), (0, 0));
    }
}

/// Nobody is sent anywhere, and nothing of the question is in the answer.
#[track_caller]
fn stays(answer: &RawAnswer, what: &str) {
    assert!((400..500).contains(&answer.status), "{what}: {}", answer.status);
    assert_eq!(answer.head.header("location"), None, "{what}");
    assert_eq!(answer.head.header("refresh"), None, "{what}");
    assert!(!answer.text().contains("evil"), "{what}: {}", answer.text());
}

#[tokio::test]
async fn no_way_to_spell_an_address_makes_it_a_listed_one() {
    let scene = Scene::start().await;
    for uri in [
        "https://evil.example/callback",
        "https://app.example.com.evil.example/callback",
        "https://app.example.com@evil.example/callback",
        "https://app.example.com%40evil.example/callback",
        "https://app.example.com\\@evil.example/callback",
        "https://evil.example#https://app.example.com/callback",
        "https://evil.example?https://app.example.com/callback",
        "https://evil.example/https://app.example.com/callback",
        "https://app.example.com/callback/../evil",
        "https://app.example.com/callback/evil",
        "https://app.example.com/callback?next=https://evil.example",
        "https://app.example.com/callback#evil",
        "https://app.example.com/callback/",
        "https://app.example.com/Callback",
        "https://APP.example.com/callback?evil",
        "https://app.example.com:8443/callback",
        "https://app.example.com:443/callback",
        "http://app.example.com/callback",
        "https:/app.example.com/callback",
        "https://app.example.com//callback",
        "https://app.example.com/callback\r\nlocation: https://evil.example",
        "https://app.example.com/callback\n",
        "https://app.example.com/callback ",
        " https://app.example.com/callback",
        "https://app.example.com/callback\u{0}",
        "https://app\u{3002}example.com/callback",
        "//app.example.com/callback",
        "javascript:alert('evil')",
        "data:text/html,evil",
        "http://localhost.evil.example/callback",
        "http://localhost:1234@evil.example/callback",
        "http://localhost:1234/callback/evil",
        "http://localhost:1234/callback?evil",
        "http://localhost:99999/callback",
        "http://localhost:/callback@evil.example",
        "http://evil@localhost:1234/callback",
        "https://localhost:1234/callback",
        "http://127.0.0.1:1234/callback",
        "http://[::1]:1234/callback",
        "http://0:1234/callback",
        "http://localhost./callback",
        "localhost/callback",
        "",
    ] {
        stays(&scene.authorize(&[("redirect_uri", Some(uri))]).await, uri);
        let body = json!({"redirect_uris": [uri]}).to_string();
        let request = scene.gateway.request(Method::POST, "/oauth/register");
        let answer = scene.gateway.send(request.header("content-type", "application/json").body(body)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["error"].as_str()),
            (400, Some("invalid_redirect_uri")),
            "{uri}"
        );
    }
    stays(&scene.authorize(&[("redirect_uri", None)]).await, "none");
    let twice = [("redirect_uri", Some(LISTED[0])), ("redirect_uri", Some("https://evil.example/"))];
    stays(&scene.authorize(&twice).await, "a second one");
    let twice = [("redirect_uri", Some("https://evil.example/")), ("redirect_uri", Some(LISTED[0]))];
    stays(&scene.authorize(&twice).await, "another first one");
    for uri in [LISTED[0], "http://localhost/callback", "http://localhost:1234/callback"] {
        let answer = scene.authorize(&[("redirect_uri", Some(uri))]).await;
        assert_eq!(answer.status, 302, "{uri}: {}", answer.text());
        assert!(answer.head.header("location").unwrap().starts_with(&scene.idp.url()), "{uri}");
    }
    scene.asked_nothing();
}

#[tokio::test]
async fn another_client_is_not_served() {
    let scene = Scene::start().await;
    for client in [Some("another"), Some(API), Some(""), Some(&format!("{CLIENT} ")[..]), None] {
        stays(&scene.authorize(&[("client_id", client)]).await, &format!("{client:?}"));
        let pairs: Vec<_> = client.into_iter().map(|client| ("client_id", client)).collect();
        let grant = [
            ("grant_type", "authorization_code"),
            ("code", "x"),
            ("code_verifier", VERIFIER),
            ("redirect_uri", LISTED[0]),
        ];
        let answer = scene.token(&[&grant[..], &pairs].concat()).await;
        assert!((400..=401).contains(&answer.status.as_u16()), "{client:?}: {}", answer.text());
    }
    stays(&scene.authorize(&[("client_id", Some(CLIENT)), ("client_id", Some("another"))]).await, "two");
    scene.asked_nothing();
}

#[tokio::test]
async fn a_question_that_is_unsafe_goes_back_with_an_error_and_never_to_the_provider() {
    let scene = Scene::start().await;
    for changes in [
        [("code_challenge", None)],
        [("code_challenge", Some(""))],
        [("code_challenge", Some("short"))],
        [("code_challenge_method", None)],
        [("code_challenge_method", Some("plain"))],
        [("code_challenge_method", Some("s256"))],
        [("response_type", Some("token"))],
        [("response_type", Some("code id_token"))],
        [("response_type", None)],
        [("response_mode", Some("fragment"))],
        [("response_mode", Some("form_post"))],
        [("resource", Some("https://evil.example/mcp"))],
        [("resource", Some("https://graph.microsoft.com"))],
        [("scope", Some("https://graph.microsoft.com/.default"))],
        [("scope", Some("https://graph.microsoft.com/Mail.ReadWrite"))],
        [("scope", Some("openid User.Read"))],
        [("prompt", Some("none\r\nx: y"))],
        [("state", Some("a\r\nset-cookie: evil=1"))],
        [("login_hint", Some("a\r\nb"))],
    ] {
        let answer = scene.authorize(&changes).await;
        let location = answer.head.header("location").unwrap_or_default();
        let is_back = answer.status == 302 && location.starts_with(&format!("{}?error=", LISTED[0]));
        assert!(is_back || answer.status == 400, "{changes:?}: {} {location}", answer.status);
        assert_eq!(answer.head.header("set-cookie"), None, "{changes:?}");
    }
    for name in ["state", "code_challenge", "scope", "prompt", "resource", "x"] {
        let answer = scene.authorize(&[(name, Some("one")), (name, Some("two"))]).await;
        let location = answer.head.header("location").unwrap_or_default();
        assert!(!location.starts_with(&scene.idp.url()), "{name} twice: {location}");
    }
    scene.asked_nothing();
}

#[tokio::test]
async fn what_a_client_adds_does_not_travel_to_the_provider() {
    let scene = Scene::start().await;
    let own = scene.gateway.url("/github/mcp");
    let answer = scene
        .authorize(&[
            ("resource", Some(&own)),
            ("domain_hint", Some("evil.example")),
            ("request_uri", Some("https://evil.example/request")),
            ("request", Some("e30.e30.")),
            ("claims", Some("{}")),
            ("client_secret", Some("x")),
            ("id_token_hint", Some("x")),
            ("acr_values", Some("x")),
            ("state", Some("a&redirect_uri=https://evil.example/#")),
        ])
        .await;
    assert_eq!(answer.status, 302, "{}", answer.text());
    let location = url::Url::parse(answer.head.header("location").unwrap()).unwrap();
    let mut names: Vec<_> = location.query_pairs().map(|(name, _)| name.into_owned()).collect();
    names.sort_unstable();
    let expected = [
        "client_id",
        "code_challenge",
        "code_challenge_method",
        "redirect_uri",
        "response_mode",
        "response_type",
        "scope",
        "state",
    ];
    assert_eq!(names, expected);
    assert_eq!(location.fragment(), None);
}

#[tokio::test]
async fn no_grant_but_a_code_and_its_renewal_is_passed_on() {
    let scene = Scene::start().await;
    let client = ("client_id", CLIENT);
    for pairs in [
        vec![("grant_type", "password"), client, ("username", JANE_EMAIL), ("password", "x")],
        vec![("grant_type", "client_credentials"), client, ("scope", "x/.default")],
        vec![("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), client, ("assertion", "x.y.z")],
        vec![("grant_type", "urn:ietf:params:oauth:grant-type:device_code"), client, ("device_code", "x")],
        vec![
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            client,
            ("subject_token", "x"),
        ],
        vec![("grant_type", ""), client],
        vec![client],
        vec![("grant_type", "authorization_code"), client],
        vec![("grant_type", "authorization_code"), client, ("code", "x"), ("redirect_uri", LISTED[0])],
        vec![
            ("grant_type", "authorization_code"),
            client,
            ("code", "x"),
            ("code_verifier", VERIFIER),
            ("redirect_uri", "https://evil.example/"),
        ],
        vec![
            ("grant_type", "authorization_code"),
            client,
            ("code", "x"),
            ("code", "y"),
            ("code_verifier", VERIFIER),
            ("redirect_uri", LISTED[0]),
        ],
        vec![("grant_type", "refresh_token"), client],
        vec![
            ("grant_type", "refresh_token"),
            client,
            ("refresh_token", "x"),
            ("resource", "https://evil.example"),
        ],
        vec![("grant_type", "refresh_token"), ("grant_type", "password"), client, ("refresh_token", "x")],
        vec![
            ("grant_type", "refresh_token"),
            client,
            ("refresh_token", "x"),
            ("scope", "https://graph.microsoft.com/.default"),
        ],
    ] {
        let answer = scene.token(&pairs).await;
        assert_eq!(answer.status, 400, "{pairs:?}: {}", answer.text());
        assert!(
            answer.json()["error"].is_string() && answer.header("cache-control") == Some("no-store"),
            "{pairs:?}"
        );
    }
    scene.asked_nothing();
    // What is passed on is what is needed, and says nothing of who the browser is.
    let body = format!(
        "grant_type=refresh_token&client_id={CLIENT}&refresh_token=canary-renewal&client_secret=x&username=y"
    );
    let request = scene.gateway.request(Method::POST, "/oauth/token").header("cookie", "token=canary-cookie");
    let request =
        request.header("origin", "https://app.example.com").header("authorization", "Basic Y2FuYXJ5OngK");
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
    let answer = scene.gateway.send(request).await;
    assert_eq!((answer.status.as_u16(), answer.json()["error"].as_str()), (400, Some("invalid_grant")));
    let asked = scene.idp.asked().into_iter().filter(|asked| asked.page == Page::Token).collect::<Vec<_>>();
    let [asked] = &asked[..] else { panic!("one question") };
    let mut names: Vec<_> = asked.form().into_iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    assert_eq!(names, ["client_id", "grant_type", "refresh_token"]);
    for name in ["cookie", "origin", "authorization"] {
        assert_eq!(asked.header(name), None, "{name} travelled on");
    }
    scene.gateway.wrote_none_of(&["canary", API_SECRET, VERIFIER, JANE_EMAIL]);
}

#[tokio::test]
async fn with_the_provider_away_the_client_is_told_to_come_back() {
    let scene = Scene::start().await;
    for fault in [
        Fault::HangUp,
        Fault::BreakOff,
        Fault::Body(b"not JSON".to_vec()),
        Fault::Huge(10_000_000),
        Fault::Redirect("https://evil.example/".into()),
    ] {
        let what = format!("{fault:?}");
        scene.idp.fault(Page::Token, fault);
        let answer = scene
            .token(&[("grant_type", "refresh_token"), ("client_id", CLIENT), ("refresh_token", "x")])
            .await;
        assert_eq!(answer.status, 503, "{}", &what[..what.len().min(40)]);
        assert_eq!(answer.json()["error"], "temporarily_unavailable");
        assert_eq!(answer.header("location"), None);
    }
}

#[tokio::test]
async fn without_the_facade_its_pages_are_not_there() {
    let scene = Scene::with(|setup| setup).await;
    for (method, path) in PAGES {
        let method: Method = method.parse().unwrap();
        let there = scene.gateway.send(scene.gateway.request(method.clone(), path)).await;
        assert!(matches!(there.status.as_u16(), 401 | 404), "{path}: {}", there.status);
        let token = scene.idp.token(&jane_in_entra()).sign();
        let known = scene.gateway.send(scene.gateway.request(method, path).bearer_auth(&token)).await;
        assert_eq!(known.status, 404, "{path}: {}", known.text());
    }
    scene.asked_nothing();
}
