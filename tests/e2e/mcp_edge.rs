//! What stands around native MCP: which names the gateway answers to, whose pages may call, what browsers are told,
//! and where a client without a token is sent.

use reqwest::Method;
use serde_json::json;

use crate::harness::{
    fake_peer::{Behaviour, FakePeer},
    gateway::{Gateway, Setup},
    grants::{CALLER, Grants, STRANGER},
    raw::{RawAnswer, RawClient},
    raw_peer::is_gateway,
    request::get,
    tokens::email_token,
    wire,
};

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
const ISSUER: &str = "https://login.example.com/t/";
const LISTED: &str = "https://chat.example.com";

/// `alpha` speaks MCP and is the caller's.
async fn start(url: &str, change: impl FnOnce(Setup) -> Setup) -> (Gateway, Grants) {
    let grants = Grants::of(&["alpha"]).await;
    let dialect = toml::Table::from_iter([("dialect".to_owned(), "mcp".into())]);
    let setup = grants.setup().server_with("alpha", url, dialect).set("cors.origins", vec![LISTED]);
    (change(setup).start().await, grants)
}

/// A request with these header lines and no others but its length and its credential.
async fn ask(gateway: &Gateway, method: &str, path: &str, lines: &[&str]) -> RawAnswer {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let request = format!("{method} {path} HTTP/1.1\r\n{lines}content-length: 0\r\n\r\n");
    RawClient::connect(&gateway.address()).await.exchange(request).await
}

fn with_issuer(setup: Setup) -> Setup {
    setup.set("auth.oauth.authorization_servers", vec![ISSUER])
}

#[tokio::test]
async fn metadata_names_each_endpoint_as_its_client_calls_it() {
    let (gateway, _grants) = start("http://127.0.0.1:9/mcp", with_issuer).await;
    for (path, host, resource) in [
        ("", "localhost:8000", "http://localhost:8000/mcp"),
        ("/mcp", "127.0.0.1:8000", "http://127.0.0.1:8000/mcp"),
        ("/alpha/mcp", "gateway", "http://gateway/alpha/mcp"),
        ("/no-such-server/mcp", "[::1]:8000", "http://[::1]:8000/no-such-server/mcp"),
    ] {
        let answer = ask(&gateway, "GET", &format!("{WELL_KNOWN}{path}"), &[&format!("host: {host}")]).await;
        assert_eq!((answer.status, answer.head.header("content-type")), (200, Some("application/json")));
        let expected = json!({"resource": resource, "authorization_servers": [ISSUER],
            "bearer_methods_supported": ["header"], "resource_name": "Portcullis"});
        assert_eq!(answer.json(), expected, "{path} at {host}");
    }
    let foreign = ask(&gateway, "GET", &format!("{WELL_KNOWN}/alpha/mcp"), &["host: evil.example.com"]).await;
    assert_eq!((foreign.status, foreign.json()["code"].as_str()), (403, Some("foreign_host")));
    for (path, status) in [("/alpha", 401), ("/alpha/mcp/x", 401), ("/alpha/mcp/", 404)] {
        let answer = ask(&gateway, "GET", &format!("{WELL_KNOWN}{path}"), &["host: localhost"]).await;
        assert_eq!(answer.status, status, "{path} is no endpoint");
    }
}

#[tokio::test]
async fn metadata_names_each_endpoint_as_the_operator_calls_the_gateway() {
    let (gateway, _grants) = start("http://127.0.0.1:9/mcp", |setup| {
        let setup = with_issuer(setup).set("listen.public_url", "https://gw.example.com");
        setup.set("auth.oauth.scopes", vec!["mcp", "api://x/y"])
    })
    .await;
    let answer = ask(&gateway, "GET", &format!("{WELL_KNOWN}/alpha/mcp"), &["host: 10.0.0.1:8000"]).await;
    assert_eq!(answer.json()["resource"], "https://gw.example.com/alpha/mcp");
    assert_eq!(answer.json()["scopes_supported"], json!(["mcp", "api://x/y"]));
}

#[tokio::test]
async fn any_page_may_read_metadata_and_none_is_believed_there() {
    let (gateway, _grants) = start("http://127.0.0.1:9/mcp", with_issuer).await;
    let path = &format!("{WELL_KNOWN}/alpha/mcp");
    let asks = ["host: localhost", "origin: https://inspector.example.org"];
    let preflight = [&asks[..], &["access-control-request-method: GET"]].concat();
    let answer = ask(&gateway, "OPTIONS", path, &preflight).await;
    assert_eq!((answer.status, answer.head.header("access-control-allow-origin")), (204, Some("*")));
    assert_eq!(answer.head.header("access-control-allow-methods"), Some("GET"));
    assert_eq!(answer.head.header("access-control-allow-headers"), Some("mcp-protocol-version"));
    for origin in [asks[1], "origin: null", &format!("origin: {LISTED}")] {
        let answer = ask(&gateway, "GET", path, &[asks[0], origin]).await;
        let allowed = if origin.ends_with(LISTED) { LISTED } else { "*" };
        assert_eq!((answer.status, answer.head.all("access-control-allow-origin")), (200, vec![allowed]));
        assert_eq!(answer.head.header("access-control-allow-credentials"), None);
        assert_eq!(answer.head.header("cache-control"), Some("no-store"), "it repeats what the client said");
    }
    let answer = ask(&gateway, "POST", path, &asks[..1]).await;
    assert_eq!(answer.status, 401, "only reading is for all");
}

#[tokio::test]
async fn without_an_issuer_there_is_no_metadata() {
    let (gateway, _grants) = start("http://127.0.0.1:9/mcp", |setup| setup).await;
    for path in ["", "/mcp", "/alpha/mcp", "/no-such-server/mcp"] {
        for method in ["GET", "OPTIONS"] {
            let answer = ask(&gateway, method, &format!("{WELL_KNOWN}{path}"), &["host: localhost"]).await;
            assert_eq!((answer.status, answer.json()["code"].as_str()), (404, Some("not_found")), "{path}");
            assert_eq!(answer.head.header("access-control-allow-origin"), None);
        }
    }
}

#[tokio::test]
async fn a_listed_origin_may_send_and_read_the_headers_of_mcp() {
    let (gateway, _grants) = start("http://127.0.0.1:9/mcp", |setup| setup).await;
    let asked = "authorization,content-type,mcp-session-id,mcp-protocol-version,mcp-method,mcp-name,last-event-id,\
        mcp-param-region,x-evil";
    let request = gateway.request(Method::OPTIONS, "/alpha/mcp").header("origin", LISTED);
    let request = request.header("access-control-request-method", "DELETE");
    let answer = gateway.send(request.header("access-control-request-headers", asked)).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (204, Some(LISTED)));
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET, POST, DELETE, OPTIONS"));
    let allowed: Vec<_> = answer.header("access-control-allow-headers").unwrap().split(", ").collect();
    for name in asked.split(',') {
        assert_eq!(allowed.contains(&name), name != "x-evil", "{name}: {allowed:?}");
    }
    let request = gateway.request(Method::GET, "/servers").header("origin", LISTED);
    let exposed = gateway.send(request.bearer_auth(email_token(CALLER))).await;
    let exposed = exposed.header("access-control-expose-headers").unwrap().to_lowercase();
    for name in ["mcp-session-id", "www-authenticate", "x-request-id", "content-disposition"] {
        assert!(exposed.split(", ").any(|found| found == name), "{name}: {exposed}");
    }
}

/// Not everything is MCP: a REST client may call the gateway what it likes.
#[tokio::test]
async fn names_and_origins_are_looked_at_on_mcp_paths_alone() {
    let (gateway, _grants) = start("http://127.0.0.1:9/mcp", |setup| setup).await;
    let token = email_token(CALLER);
    let request = get("/servers", &token).replace("host: gateway", "host: evil.example.com\r\norigin: null");
    let answer = RawClient::connect(&gateway.address()).await.exchange(request).await;
    assert_eq!(answer.status, 200);
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":7,"method":"initialize","params":{"protocolVersion":"2025-11-25",
    "capabilities":{},"clientInfo":{"name":"a","version":"1"}}}"#;

/// A peer that answers each request to its endpoint.
/// Nobody but the gateway itself, which reads lists, has asked it anything.
fn was_left_alone(peer: &FakePeer) -> bool {
    peer.requests().iter().all(|request| is_gateway(&request.head))
}

async fn peer() -> FakePeer {
    let peer = FakePeer::start().await;
    let result = br#"{"jsonrpc":"2.0","id":7,"result":{}}"#;
    peer.set("/mcp", Behaviour::Answer(wire::answer("200 OK", "application/json", result)));
    peer
}

/// A request of native MCP that says these things about where it comes from.
fn native(method: &str, token: &str, lines: &[&str]) -> Vec<u8> {
    let body = if method == "POST" { INITIALIZE } else { "" };
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let credential =
        if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}\r\n") };
    let labels = "content-type: application/json\r\naccept: application/json, text/event-stream\r\n";
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    format!("{method} /alpha/mcp HTTP/1.1\r\n{lines}{credential}{labels}{length}\r\n{body}").into_bytes()
}

#[tokio::test]
async fn a_foreign_page_reaches_no_server_whatever_it_holds() {
    let peer = peer().await;
    let (gateway, _grants) = start(&format!("{}/mcp", peer.url()), |setup| {
        setup.set("listen.hosts", vec!["gw.example.com"]).set("listen.max_header_bytes", 4096)
    })
    .await;
    let token = email_token(CALLER);
    for (lines, code) in [
        (&["host: evil.example.com", "origin: http://evil.example.com"][..], "foreign_host"),
        (&["host: evil.example.com:8000"], "foreign_host"),
        (&["host: evil.example.com", "origin: http://localhost:3000"], "foreign_host"),
        (&["host: gw.example.com."], "foreign_host"),
        (&["host:"], "foreign_host"),
        (&["host: localhost", "origin: http://evil.example.com"], "foreign_origin"),
        (&["host: gw.example.com", "origin: null"], "foreign_origin"),
        (&["host: gw.example.com", "origin: https://gw.example.com.evil.org"], "foreign_origin"),
        (&["host: gw.example.com", "origin: http://localhost", "origin: http://localhost"], "foreign_origin"),
    ] {
        for (method, token) in [("POST", token.as_str()), ("GET", &token), ("DELETE", &token), ("POST", "")] {
            let mut client = RawClient::connect(&gateway.address()).await;
            let answer = client.exchange(native(method, token, lines)).await;
            let shown = format!("{method} {lines:?}: {}", answer.text());
            let refusal = answer.json();
            assert_eq!(
                (answer.status, refusal["error"]["data"]["code"].as_str()),
                (403, Some(code)),
                "{shown}"
            );
            assert_eq!(answer.head.header("www-authenticate"), None, "{shown}");
            assert_eq!(answer.head.header("access-control-allow-origin"), None, "{shown}");
        }
    }
    // The framework has these for no HTTP at all.
    for lines in [&["host: localhost@evil.example.com"][..], &["host: localhost", "host: localhost"]] {
        let mut client = RawClient::connect(&gateway.address()).await;
        assert_eq!(client.exchange(native("POST", &token, lines)).await.status, 400, "{lines:?}");
    }
    assert!(was_left_alone(&peer), "the server was called");
    for lines in [
        &["host: localhost:8000", "origin: http://localhost:8000"][..],
        &["host: 127.0.0.1:8000", "origin: http://127.0.0.1:6274"],
        &["host: GW.example.com:8443", "origin: https://gw.example.com:8443"],
        &["host: gw.example.com", "origin: https://chat.example.com"],
        &["host: gateway"],
    ] {
        let mut client = RawClient::connect(&gateway.address()).await;
        let answer = client.exchange(native("POST", &token, lines)).await;
        assert_eq!(
            (answer.status, answer.json()["id"].as_u64()),
            (200, Some(7)),
            "{lines:?}: {}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn a_client_without_a_token_is_led_to_the_metadata_of_its_endpoint() {
    let peer = peer().await;
    let (gateway, _grants) = start(&format!("{}/mcp", peer.url()), |setup| {
        with_issuer(setup).set("auth.oauth.scopes", vec!["mcp", "x"])
    })
    .await;
    for (token, error) in [("", ""), ("not.a.token", r#", error="invalid_token""#)] {
        for method in ["POST", "GET", "DELETE"] {
            let mut client = RawClient::connect(&gateway.address()).await;
            let answer = client.exchange(native(method, token, &["host: localhost:8000"])).await;
            let expected = format!(
                r#"Bearer realm="portcullis"{error}, resource_metadata="http://localhost:8000{WELL_KNOWN}/alpha/mcp", scope="mcp x""#
            );
            assert_eq!((answer.status, answer.head.all("www-authenticate")), (401, vec![expected.as_str()]));
            let url = expected.split('"').find(|part| part.starts_with("http://")).unwrap();
            let path = url.strip_prefix("http://localhost:8000").unwrap();
            let metadata = ask(&gateway, "GET", path, &["host: localhost:8000"]).await;
            assert_eq!(metadata.json()["resource"], "http://localhost:8000/alpha/mcp");
        }
    }
    let answer = gateway.send(gateway.request(Method::POST, "/alpha/search").body("{}")).await;
    assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer realm="portcullis""#), "REST has no OAuth");
    assert!(was_left_alone(&peer), "the server was called");
}

/// No scope cures a missing grant, and a client told otherwise would go and ask for one, again and again.
#[tokio::test]
async fn a_missing_grant_sends_nobody_to_sign_in() {
    let (gateway, _grants) = start("http://127.0.0.1:9/mcp", with_issuer).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    let answer = client.exchange(native("POST", &email_token(STRANGER), &["host: localhost"])).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["data"]["code"].as_str()),
        (403, Some("not_granted")),
        "{}",
        answer.text()
    );
    assert_eq!(answer.head.header("www-authenticate"), None);
}
