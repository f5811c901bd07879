//! No secret on stdout or stderr, at the lowest level anybody can ask for, on every face, whether calls succeed or fail.

use reqwest::Method;
use serde_json::json;

use crate::{
    harness::{
        deadline::until,
        fake_peer::{Behaviour, FakePeer},
        gateway::{Answer, Gateway},
        grants::{CALLER, Grants},
        mcp::Fixture,
        raw::RawClient,
        tokens::{SESSION_SECRET, email_token},
        wire::answer,
    },
    served::client::{Era, Mcp},
};

/// What the test may find nowhere, by where it was put.
const CANARIES: [(&str, &str); 13] = [
    ("a service key", "canary-service-key-0123456789abcdef"),
    ("a server's credential", "canary-credential-0123456789"),
    ("the gateway's secret", "canary-gateway-secret-0123456789"),
    ("a cookie", "canary-cookie-0123456789"),
    ("a query", "canary-query-0123456789"),
    ("a header", "canary-header-0123456789"),
    ("a request's body", "canary-arguments-0123456789"),
    ("a body that is no JSON", "canary-nonsense-0123456789"),
    ("an answer", "canary-answer-0123456789"),
    ("an answer that is no HTTP", "canary-garbage-0123456789"),
    ("an error of a tool", "canary-error-0123456789"),
    ("an email", "canary.person@secret-example.org"),
    ("a token that is not believed", "canary-token-0123456789"),
];

fn canary(place: &str) -> &'static str {
    CANARIES.iter().find(|(known, _)| *known == place).unwrap().1
}

struct Scene {
    gateway: Gateway,
    _peer: FakePeer,
    _fixture: Fixture,
    grants: Grants,
}

/// Below everything that filters can ask for.
const LOUDEST: &str = "trace,portcullis=trace,pingora_core=trace,pingora_proxy=trace,hyper=trace,h2=trace,sqlx=trace,\
    reqwest=trace,rustls=trace,hickory_resolver=trace,redis=trace";

async fn start() -> Scene {
    let body = |place| json!({"said": canary(place)}).to_string().into_bytes();
    let peer = FakePeer::start()
        .await
        .with_json("search", json!(canary("an answer")))
        .with_tool("refuse", Behaviour::Answer(answer("422 Unprocessable Entity", "application/json", &body("an error of a tool"))))
        .with_tool("break", Behaviour::Answer(answer("500 Internal Server Error", "text/plain", &body("an error of a tool"))))
        .with_tool("garble", Behaviour::AnswerAndClose(format!("{}\r\n\r\n", canary("an answer that is no HTTP")).into_bytes()))
        .with_tool("lead", Behaviour::Answer(b"HTTP/1.1 302 Found\r\nlocation: http://canary-answer-0123456789/\r\ncontent-length: 0\r\n\r\n".to_vec()))
        .with_tool("leave", Behaviour::HangUpAfterBody);
    let fixture = Fixture::start().await;
    let grants = Grants::of(&["alpha", "native", "gone"]).await;
    let credential = toml::Table::from_iter([
        ("header".to_owned(), "x-api-key".into()),
        ("env".to_owned(), "PEER_KEY".into()),
    ]);
    let keyed =
        || toml::Table::from_iter([("credential".to_owned(), toml::Value::Table(credential.clone()))]);
    let native =
        toml::Table::from_iter([("tier".to_owned(), "http".into()), ("dialect".to_owned(), "mcp".into())]);
    let setup = grants
        .setup()
        .server_with("alpha", &peer.url(), keyed())
        .server_with("native", &fixture.url("/mcp"), native.into_iter().chain(keyed()).collect())
        .server_with("gone", "http://127.0.0.1:9", keyed())
        .environment("PEER_KEY", canary("a server's credential"))
        .environment("DEBUG", "true")
        .set("log.filter", LOUDEST)
        .set("auth.service_keys.tester.key", canary("a service key"))
        .set("auth.service_keys.tester.groups", vec!["Canaries"])
        .set("auth.gateway.enabled", true)
        .set("auth.gateway.shared_secret", canary("the gateway's secret"));
    let gateway = setup.start().await;
    gateway.knows_tools("alpha", 6).await;
    grants.add(canary("an email"), "alpha").await;
    until("tools of native", || async {
        (gateway.metrics().await.sum("portcullis_tools", &[("server", "native")]) > 0.0).then_some(())
    })
    .await;
    Scene { gateway, _peer: peer, _fixture: fixture, grants }
}

/// With a canary wherever a request has room for one.
async fn ask(scene: &Scene, method: Method, path: &str, token: Option<&str>, body: &str) -> u16 {
    let path = format!("{path}?key={0}&a={0}", canary("a query"));
    let mut request = scene.gateway.request(method, &path).header("content-type", "application/json");
    request = request
        .header("x-canary", canary("a header"))
        .header("cookie", format!("token={0}; session={0}", canary("a cookie")));
    request = request.header("idempotency-key", canary("a header"));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    scene.gateway.send(request.body(body.to_owned())).await.status.as_u16()
}

#[tokio::test]
async fn no_secret_is_written_at_any_level_on_any_face() {
    let scene = start().await;
    let (caller, canaried) = (email_token(CALLER), email_token(canary("an email")));
    let arguments = json!({"text": canary("a request's body")}).to_string();
    let nonsense = format!("{{\"{0}\": {0}", canary("a body that is no JSON"));
    let wrapped = json!({"arguments": [canary("a request's body")]}).to_string();
    let named =
        |name: &str| json!({"name": name, "arguments": {"text": canary("a request's body")}}).to_string();
    let tokens = [
        Some(&*caller),
        Some(&*canaried),
        Some(canary("a service key")),
        Some(canary("a token that is not believed")),
        None,
    ];
    for token in tokens {
        for path in [
            "/",
            "/servers",
            "/tools",
            "/alpha",
            "/openapi.json",
            "/alpha/openapi.json",
            "/meta/stats",
            "/nowhere",
            "/health",
        ] {
            ask(&scene, Method::GET, path, token, "").await;
        }
        for tool in ["search", "refuse", "break", "garble", "lead", "leave", "nothing"] {
            for body in [&arguments, &nonsense, &wrapped] {
                ask(&scene, Method::POST, &format!("/alpha/{tool}"), token, body).await;
            }
        }
        for path in [
            "/alpha_search",
            "/gone/search",
            "/native/test_simple_text",
            "/native/test_error_handling",
            "/refresh",
        ] {
            ask(&scene, Method::POST, path, token, &arguments).await;
        }
        for path in [
            "/meta/search_tools",
            "/meta/describe_tools",
            "/meta/call_tool",
            "/mcp",
            "/native/mcp",
            "/alpha/mcp",
        ] {
            for body in [&named("alpha_search"), &named("alpha_garble"), &nonsense, &arguments] {
                ask(&scene, Method::POST, path, token, body).await;
            }
        }
    }
    for (era, path) in [
        (Era::Legacy, "/native/mcp"),
        (Era::Modern, "/native/mcp"),
        (Era::Legacy, "/mcp"),
        (Era::Modern, "/mcp"),
    ] {
        let client = Mcp::begin(&scene.gateway.url(path), &caller, era, "{}").await;
        for name in [
            "test_simple_text",
            "test_error_handling",
            "native_test_simple_text",
            "alpha_search",
            "alpha_break",
            "alpha_garble",
            "gone_search",
            canary("a request's body"),
        ] {
            let arguments =
                json!({"text": canary("a request's body"), "nested": [canary("a request's body")]});
            drop(
                Answer::read(
                    client
                        .post(&client.request(1, "tools/call", json!({"name": name, "arguments": arguments})))
                        .await,
                )
                .await,
            );
        }
    }
    for headers in [
        format!(
            "x-user-email: {}\r\nx-gateway-secret: wrong-{}",
            canary("an email"),
            canary("the gateway's secret")
        ),
        format!(
            "x-user-email: {}\r\nx-gateway-secret: {}",
            canary("an email"),
            canary("the gateway's secret")
        ),
        format!(
            "x-user-email: {0}\r\nx-user-email: {0}\r\nauthorization: Basic {1}",
            canary("an email"),
            canary("a token that is not believed")
        ),
        format!(
            "x-openwebui-user-email: {}\r\nauthorization: Bearer {}",
            canary("an email"),
            canary("a service key")
        ),
        format!(
            "authorization: Bearer\t{}\r\nx-broken header: {}",
            canary("a token that is not believed"),
            canary("a header")
        ),
    ] {
        let mut client = RawClient::connect(&scene.gateway.address()).await;
        let body = &arguments;
        let length = body.len();
        client.send(format!("POST /alpha/search HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}\r\ncontent-length: {length}\r\n\r\n{body}")).await;
        drop(client.read_answer().await);
    }
    // Changes of a grant, of the configuration, and the end, say things too.
    scene.grants.take_back(canary("an email"), "alpha").await;
    scene.gateway.reconfigure("auth.service_keys.tester.key", "canary-service-key-0123456789abcdef-2").await;
    let written = scene.gateway.written();
    assert!(written.lines().any(|line| line.contains("\"DEBUG\"")), "nothing was logged below `info`");
    let secrets =
        CANARIES.iter().copied().chain([("the session secret", SESSION_SECRET), ("a token", &*caller)]);
    for (place, secret) in secrets {
        let found: Vec<_> = written.lines().filter(|line| line.contains(secret)).take(3).collect();
        assert!(found.is_empty(), "{place} was written:\n{}", found.join("\n"));
    }
}
