//! Settings that hold from one request to the next: origins, sizes, session keys, log lines, the database.

use serde_json::json;

use super::{Load, set};
use crate::harness::{
    deadline::{until, until_so},
    fake_peer::FakePeer,
    gateway::{Gateway, client},
    grants::{CALLER, Grants},
    mcp::Fixture,
    raw::RawClient,
    tokens::email_token,
};

async fn scene() -> (Gateway, FakePeer, Grants, String) {
    let peer = FakePeer::start().await.with_json("search", json!([]));
    let grants = Grants::of(&["github"]).await;
    let gateway = grants.setup().server("github", &peer.url()).start().await;
    gateway.await_tools("github", 1).await;
    (gateway, peer, grants, email_token(CALLER))
}

#[tokio::test]
async fn sizes_and_origins_hold_from_the_next_request_on() {
    let (gateway, _peer, _grants, token) = scene().await;
    let body = json!({"arguments": {"text": "x".repeat(4000)}});
    assert_eq!(gateway.call("/github/search", &token, &body).await.status, 200);
    gateway.reconfigure("listen.max_wrapped_body_bytes", 2048).await;
    assert_eq!(gateway.call("/github/search", &token, &body).await.status, 413);
    let allowed = || async {
        let asked = gateway.client.get(gateway.url("/health")).header("origin", "https://chat.example.com");
        gateway.send(asked).await.header("access-control-allow-origin").map(str::to_owned)
    };
    assert_eq!(allowed().await, None);
    gateway.reconfigure("cors.origins", vec!["https://chat.example.com"]).await;
    assert_eq!(allowed().await.as_deref(), Some("https://chat.example.com"));
}

#[tokio::test]
async fn fewer_connections_are_accepted_and_more_again() {
    let (gateway, _peer, _grants, _token) = scene().await;
    let mut kept =
        [RawClient::connect(&gateway.address()).await, RawClient::connect(&gateway.address()).await];
    let health = "GET /health HTTP/1.1\r\nhost: g\r\n\r\n";
    for client in &mut kept {
        assert_eq!(client.exchange(health).await.status, 200);
    }
    let is_answered = || async { client().get(gateway.url("/health")).send().await.is_ok() };
    gateway.reconfigure("listen.max_connections", 1).await;
    assert!(!is_answered().await, "two are open already");
    for client in &mut kept {
        assert_eq!(client.exchange(health).await.status, 200, "nobody loses theirs");
    }
    gateway.reconfigure("listen.max_connections", 100).await;
    assert!(is_answered().await);
}

#[tokio::test]
async fn sessions_outlive_the_key_they_were_sealed_with_as_long_as_it_opens() {
    let (fixture, grants) = (Fixture::with(&["--era", "legacy"]).await, Grants::of(&["native"]).await);
    let gateway = grants.setup().mcp("native", "mcp", &fixture.url("/mcp")).start().await;
    let token = email_token(CALLER);
    let (first, second, third) = ("11".repeat(32), "22".repeat(32), "33".repeat(32));
    let ask = |session: Option<String>, message: serde_json::Value| {
        let mut request = gateway.call_request("/native/mcp", &token, &message);
        request = request.header("accept", "application/json, text/event-stream");
        if let Some(session) = session {
            request = request.header("mcp-session-id", session).header("mcp-protocol-version", "2025-11-25");
        }
        gateway.send(request)
    };
    let initialize = || async {
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"}});
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
        let answer = ask(None, message).await;
        answer.header("mcp-session-id").unwrap_or_else(|| panic!("{}", answer.text())).to_owned()
    };
    let ping = |session: &str| {
        let asked = ask(Some(session.to_owned()), json!({"jsonrpc": "2.0", "id": 2, "method": "ping"}));
        async move { asked.await.status.as_u16() }
    };
    let of_nobody = initialize().await;
    gateway.reconfigure("mcp.session_keys", vec![first.clone()]).await;
    let of_first = initialize().await;
    assert_eq!((ping(&of_nobody).await, ping(&of_first).await), (200, 200));
    gateway.reconfigure("mcp.session_keys", vec![second.clone(), first]).await;
    let of_second = initialize().await;
    assert_eq!((ping(&of_first).await, ping(&of_second).await), (200, 200));
    gateway.reconfigure("mcp.session_keys", vec![third, second]).await;
    assert_eq!((ping(&of_first).await, ping(&of_second).await), (404, 200));
}

#[tokio::test]
async fn other_log_lines_are_written_from_then_on() {
    let (gateway, _peer, _grants, _token) = scene().await;
    let debug = |lines: Vec<String>| lines.iter().any(|line| line.contains("\"level\":\"DEBUG\""));
    assert!(!debug(gateway.stderr.all()));
    gateway.reconfigure("log.filter", "info,portcullis=debug").await;
    gateway.reserve(|servers| set(servers, "github.read_timeout_secs", 7)).await;
    gateway.signal("HUP");
    gateway.stderr.find("an answer to SIGHUP", |line| line.contains("has not changed")).await;
    gateway.reconfigure("log.filter", "error").await;
    let seen = gateway.stderr.all().len();
    gateway.reconfigure("access.conceal", true).await;
    let since = gateway.stderr.all().split_off(seen);
    assert!(since.iter().all(|line| !line.contains("access.conceal")), "{since:?}");
}

#[tokio::test]
async fn grants_of_another_database_take_the_place_of_those_before_and_are_never_missing() {
    let (gateway, _peer, _grants, token) = scene().await;
    let other = Grants::of(&["github"]).await;
    other.add("second@example.com", "github").await;
    let second = email_token("second@example.com");
    let load = Load::begin(&gateway, "/github/search", &token);
    assert_eq!(gateway.call("/github/search", &second, &json!({})).await.status, 403);
    gateway.reconfigure("database.url", other.url()).await;
    gateway.call_until("/github/search", &second, 200).await;
    load.goes_on(10).await;
    load.none_failed().await;
}

#[tokio::test]
async fn grants_are_not_read_again_because_of_anything_else() {
    let (gateway, _peer, _grants, _token) = scene().await;
    let reads = || gateway.stderr.all().iter().filter(|line| line.contains("read all grants")).count();
    until_so("the first reading", || reads() == 1).await;
    gateway.reconfigure("tools.refresh_secs", 1).await;
    gateway.reconfigure("tenants.sealing_keys", vec!["5f".repeat(32)]).await;
    gateway.reserve(|servers| set(servers, "github.name", "Other")).await;
    let looked =
        || async { (gateway.metrics().await.sum("portcullis_database_up", &[]) == 1.0).then_some(()) };
    until("the database", looked).await;
    assert_eq!(reads(), 1);
}
