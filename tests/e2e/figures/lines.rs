//! One line a request, whatever becomes of it.

use serde_json::{Value, json};

use super::Scene;
use crate::harness::{
    deadline::until,
    fake_peer::{Behaviour, FakePeer},
    gateway::Gateway,
    grants::{CALLER, Grants, STRANGER},
    raw::RawClient,
    tokens::email_token,
};

/// The lines of the access log about the request of this id.
fn lines_of(gateway: &Gateway, id: &str) -> Vec<Value> {
    let lines = gateway.stdout.all().into_iter().map(|line| serde_json::from_str(&line).unwrap());
    lines.filter(|line: &Value| line["request_id"] == id).collect()
}

/// The one line about a request, waited for.
async fn line(gateway: &Gateway, id: &str) -> Value {
    until(&format!("a line about {id}"), || std::future::ready(lines_of(gateway, id).pop())).await
}

fn request(method: &str, path: &str, id: &str, lines: &[&str], body: &str) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nx-request-id: {id}\r\n");
    for line in lines {
        head.push_str(line);
        head.push_str("\r\n");
    }
    format!("{head}content-length: {}\r\n\r\n{body}", body.len())
}

const JSON: &str = "content-type: application/json";

#[tokio::test]
async fn every_face_and_every_refusal_has_exactly_one_line() {
    let scene = Scene::start(|setup| setup.server("gone", "http://127.0.0.1:9")).await;
    let gateway = scene.gateway();
    scene.world.grants.add(CALLER, "gone").await;
    gateway.call_until("/gone/search", &email_token(CALLER), 502).await;
    let bearer = |token: &str| format!("authorization: Bearer {token}");
    let (caller, stranger) = (bearer(&email_token(CALLER)), bearer(&email_token(STRANGER)));
    let (caller, stranger) = (caller.as_str(), stranger.as_str());
    let accept = "accept: application/json, text/event-stream";
    let mcp = [caller, JSON, accept, "mcp-protocol-version: 2025-11-25"];
    let hello =
        json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25",
        "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}}})
        .to_string();
    let nonsense = "{not json";
    let asked: Vec<(&str, &str, Vec<&str>, &str, u16)> = vec![
        ("GET", "/", vec![caller], "", 200),
        ("GET", "/servers", vec![caller], "", 200),
        ("GET", "/tools", vec![caller], "", 200),
        ("GET", "/alpha", vec![caller], "", 200),
        ("GET", "/openapi.json", vec![caller], "", 200),
        ("HEAD", "/openapi.json", vec![caller], "", 200),
        ("GET", "/alpha/openapi.json", vec![caller], "", 200),
        ("GET", "/health", vec![], "", 200),
        ("GET", "/meta/stats", vec![caller], "", 200),
        ("POST", "/meta/search_tools", vec![caller, JSON], r#"{"query":"search"}"#, 200),
        ("POST", "/meta/call_tool", vec![caller, JSON], r#"{"name":"alpha_search"}"#, 200),
        ("POST", "/meta/call_tool", vec![caller, JSON], r#"{"name":"native_test_simple_text"}"#, 200),
        ("POST", "/alpha/search", vec![caller, JSON], "{}", 200),
        ("POST", "/alpha_search", vec![caller, JSON], "{}", 200),
        ("POST", "/native/test_simple_text", vec![caller, JSON], "{}", 200),
        ("POST", "/native/test_simple_text", vec![caller, JSON, "accept: text/event-stream"], "{}", 200),
        ("POST", "/native/mcp", mcp.to_vec(), &hello, 200),
        ("POST", "/mcp", mcp.to_vec(), &hello, 200),
        ("POST", "/alpha/refuse", vec![caller, JSON], "{}", 422),
        ("POST", "/native/test_error_handling", vec![caller, JSON], "{}", 422),
        ("POST", "/alpha/garble", vec![caller, JSON], "{}", 502),
        ("POST", "/gone/search", vec![caller, JSON], "{}", 502),
        ("POST", "/alpha/search", vec![JSON], "{}", 401),
        ("POST", "/alpha/search", vec![stranger, JSON], "{}", 403),
        ("POST", "/native/mcp", vec![stranger, JSON], &hello, 403),
        ("POST", "/native/mcp", vec![JSON], &hello, 401),
        ("POST", "/mcp", mcp.to_vec(), nonsense, 400),
        ("POST", "/native/mcp", mcp.to_vec(), nonsense, 400),
        ("GET", "/native/mcp", vec![caller, accept, "mcp-session-id: invented"], "", 404),
        ("POST", "/mcp", vec![caller, JSON, "origin: https://elsewhere.example"], &hello, 403),
        ("POST", "/alpha/nothing", vec![caller, JSON], "{}", 404),
        ("POST", "/nowhere/search", vec![caller, JSON], "{}", 404),
        ("POST", "/alpha/search", vec![caller, JSON], nonsense, 400),
        ("POST", "/alpha/search", vec![caller, JSON, "content-encoding: gzip"], "{}", 415),
        ("GET", "/a/b/c/d", vec![caller], "", 404),
        ("GET", "/a//b", vec![caller], "", 400),
        ("DELETE", "/alpha/search", vec![caller], "", 405),
        ("BREW", "/alpha/search", vec![caller], "", 405),
        ("POST", "/refresh", vec![caller], "", 403),
        ("GET", "/servers", vec![caller, caller], "", 400),
        ("POST", "/meta/call_tool", vec![caller, JSON], r#"{"name":7}"#, 422),
        ("GET", "/.well-known/oauth-protected-resource", vec![], "", 404),
    ];
    for (number, (method, path, lines, body, status)) in asked.iter().enumerate() {
        let id = format!("asked-{number}");
        let mut client = RawClient::connect(&gateway.address()).await;
        client.send(request(method, path, &id, lines, body)).await;
        let (got, head) = client.read_head().await;
        assert_eq!(got, *status, "{method} {path}");
        if *method != "HEAD" {
            drop(client.read_body(got, &head).await);
        }
        let line = line(gateway, &id).await;
        assert_eq!(
            (&line["status"], &line["method"] == method),
            (&json!(status), *method != "BREW"),
            "{method} {path}: {line}"
        );
        assert_ne!(line["outcome"], "lost", "{method} {path}: {line}");
        assert_eq!(
            line["code"].is_string() || line["outcome"] == "tool_error",
            *status >= 400,
            "{method} {path}: {line}"
        );
    }
    for (number, request) in asked.iter().enumerate() {
        assert_eq!(lines_of(gateway, &format!("asked-{number}")).len(), 1, "{:?}", request);
    }
}

/// A gateway with calls underway that will not end by themselves.
async fn with_calls_underway(ids: &[&str]) -> (Gateway, FakePeer, Vec<RawClient>, Grants) {
    let peer = FakePeer::start()
        .await
        .with_json("search", json!(1))
        .with_tool("watch", Behaviour::Hold)
        .with_tool("stall", Behaviour::Stall);
    let grants = Grants::of(&["alpha"]).await;
    let setup = grants.setup().server("alpha", &peer.url()).set("shutdown.grace_secs", 2);
    let gateway = setup.start().await;
    gateway.knows_tools("alpha", 3).await;
    let mut clients = Vec::new();
    for id in ids {
        let path = if id.contains("stream") { "/alpha/watch" } else { "/alpha/stall" };
        let mut client = RawClient::connect(&gateway.address()).await;
        let bearer = format!("authorization: Bearer {}", email_token(CALLER));
        client.send(request("POST", path, id, &[&bearer, JSON], "{}")).await;
        clients.push(client);
    }
    peer.arrived(ids.len()).await;
    (gateway, peer, clients, grants)
}

#[tokio::test]
async fn what_an_end_cuts_has_its_line() {
    for signal in ["TERM", "INT"] {
        let ids = ["a-stream", "a-call"];
        let (mut gateway, _peer, _clients, _grants) = with_calls_underway(&ids).await;
        gateway.signal(signal);
        gateway.ended().await;
        for id in ids {
            let line = line(&gateway, id).await;
            assert_eq!(lines_of(&gateway, id).len(), 1, "SIG{signal}: {line}");
            assert!(
                ["lost", "withdrawn"].contains(&line["outcome"].as_str().unwrap()),
                "SIG{signal}: {line}"
            );
            assert_eq!((&line["server"], line["tool"].is_string()), (&json!("alpha"), true), "{line}");
        }
    }
}

#[tokio::test]
async fn what_an_upgrade_leaves_to_the_old_process_has_one_line_and_what_comes_then_too() {
    let ids = ["a-stream", "a-call"];
    let (mut gateway, _peer, clients, _grants) = with_calls_underway(&ids).await;
    gateway.signal("USR2");
    gateway.stderr.find("the hand-over", |line| line.contains("has taken over")).await;
    let request = gateway.call_request("/alpha/search", &email_token(CALLER), &json!({}));
    assert_eq!(gateway.send(request.header("x-request-id", "a-later-call")).await.status, 200);
    // Their clients leave, and so the old process ends.
    drop(clients);
    gateway.ended().await;
    for id in ids.iter().chain(&["a-later-call"]) {
        let line = line(&gateway, id).await;
        assert_eq!(lines_of(&gateway, id).len(), 1, "{line}");
    }
    let line = gateway.stderr.find("the new process", |line| line.contains("has taken over")).await;
    let line: Value = serde_json::from_str(&line).unwrap();
    let words = line["message"].as_str().unwrap().split(' ').skip_while(|word| *word != "process").nth(1);
    crate::harness::gateway::send_signal(words.unwrap().parse().unwrap(), "TERM");
}
