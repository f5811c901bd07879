//! What counts as a tool call, on each face: every one of them costs the same, and nothing else costs anything.

use serde_json::{Value, json};

use super::*;
use crate::harness::{
    deadline::within,
    raw::{RawAnswer, RawClient},
    raw_peer::RawPeer,
    request::post_with,
    wire,
};

const MCP: [&str; 2] = ["content-type: application/json", "accept: application/json, text/event-stream"];

/// A message for an MCP face.
async fn tell(gateway: &Gateway, path: &str, token: &str, body: &Value) -> RawAnswer {
    let mut client = RawClient::connect(&gateway.address()).await;
    client.exchange(post_with(path, token, &MCP, body.to_string())).await
}

fn call(id: u64, tool: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": {}}})
}

/// Status and stable word of a refusal in JSON-RPC.
#[track_caller]
fn refused(answer: &RawAnswer) -> (u16, i64, String) {
    let body = answer.json();
    let word = body["error"]["data"]["code"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned();
    (answer.status, body["error"]["code"].as_i64().unwrap(), word)
}

fn limited() -> (u16, i64, String) {
    (429, 429, "too_many_requests".to_owned())
}

#[tokio::test]
async fn every_face_of_a_rest_server_counts_the_same_calls() {
    let scene = Scene::start(|setup| setup.set("limits.calls_per_caller", "6/h")).await;
    let gateway = &scene.gateway;
    let is_good = |answer: &RawAnswer| answer.status == 200 && answer.json().get("error").is_none();
    // What is no call costs nothing.
    for message in [
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
        json!({"jsonrpc": "2.0", "id": 2, "method": "ping"}),
        json!({"jsonrpc": "2.0", "id": 3, "method": "initialize", "params": {"protocolVersion": "2025-11-25",
            "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}}),
    ] {
        for path in ["/mcp", "/alpha/mcp"] {
            let answer = tell(gateway, path, &scene.token, &message).await;
            assert!(is_good(&answer), "{path} {message}: {}", answer.text());
            assert!(answer.head.header("ratelimit").is_none());
        }
    }
    let searching = gateway.call("/meta/search_tools", &scene.token, &json!({"query": "search"})).await;
    assert_eq!(searching.status, 200);
    // Each of these is one.
    assert_eq!(scene.call("/alpha/search").await.status, 200);
    assert_eq!(scene.call("/alpha_search").await.status, 200);
    let by_name = json!({"name": "alpha_search", "arguments": {}});
    let by_name = gateway.call("/meta/call_tool", &scene.token, &by_name).await;
    assert_eq!(by_name.status, 200, "{}", by_name.text());
    let answer = tell(gateway, "/mcp", &scene.token, &call(1, "alpha_search")).await;
    assert!(is_good(&answer), "{}", answer.text());
    assert_eq!(answer.head.header("ratelimit"), Some("\"caller\";r=2;t=600"));
    assert!(is_good(&tell(gateway, "/alpha/mcp", &scene.token, &call(2, "search")).await));
    let by_meta = json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params":
        {"name": "meta_call_tool", "arguments": {"name": "alpha_search", "arguments": {}}}});
    assert!(is_good(&tell(gateway, "/mcp", &scene.token, &by_meta).await));
    // And the seventh is one too many, wherever it is made.
    assert_eq!(scene.call("/alpha/search").await.code(), "too_many_requests");
    assert_eq!(scene.call("/alpha_search").await.code(), "too_many_requests");
    let answer = tell(gateway, "/mcp", &scene.token, &call(9, "alpha_search")).await;
    assert_eq!((refused(&answer), &answer.json()["id"]), (limited(), &json!(9)));
    assert_eq!(answer.head.header("retry-after"), Some("600"));
    assert_eq!(answer.head.header("ratelimit"), Some("\"caller\";r=0;t=600"));
    assert_eq!(refused(&tell(gateway, "/alpha/mcp", &scene.token, &call(9, "search")).await), limited());
    assert_eq!(refused(&tell(gateway, "/mcp", &scene.token, &by_meta).await), limited());
    assert_eq!(scene.peer.requests().len(), 6);
}

/// A gateway in front of a peer that speaks MCP, and answers every call.
struct Native {
    gateway: Gateway,
    peer: RawPeer,
    token: String,
    _grants: Grants,
}

impl Native {
    async fn start(rate: &str) -> Self {
        let peer = RawPeer::with_tools(&[]).await;
        let grants = Grants::of(&["alpha"]).await;
        let keys = toml::Table::from_iter([("dialect".to_owned(), "mcp".into())]);
        let setup = grants.setup().server_with("alpha", &format!("{}/mcp", peer.url()), keys);
        let gateway = setup.set("limits.calls_per_caller", rate).start().await;
        gateway.await_grants(2).await;
        Self { gateway, peer, token: email_token(CALLER), _grants: grants }
    }

    /// Sends a message that the peer shall answer.
    async fn pass(&self, body: &Value) -> RawAnswer {
        let mut client = RawClient::connect(&self.gateway.address()).await;
        client.send(post_with("/alpha/mcp", &self.token, &MCP, body.to_string())).await;
        let mut call = self.peer.call().await;
        call.read_body().await;
        call.send(wire::answer("200 OK", "application/json", br#"{"jsonrpc":"2.0","id":1,"result":{}}"#))
            .await;
        client.read_answer().await
    }
}

#[tokio::test]
async fn a_batch_costs_as_many_as_it_calls_and_passes_whole_or_not_at_all() {
    let native = Native::start("5/h").await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let of = |calls: u64| Value::from_iter((1..=calls).map(|id| call(id, "echo")).chain([list.clone()]));
    assert_eq!(native.pass(&list).await.head.header("ratelimit"), None);
    assert_eq!(native.pass(&of(3)).await.head.header("ratelimit"), Some("\"caller\";r=2;t=720"));
    let answer = tell(&native.gateway, "/alpha/mcp", &native.token, &of(3)).await;
    assert_eq!(refused(&answer), limited());
    assert!(answer.json().get("id").is_none(), "no one id of a batch is answered");
    let answer = tell(&native.gateway, "/alpha/mcp", &native.token, &of(6)).await;
    assert!(answer.text().contains("more calls at once than the 5"), "{}", answer.text());
    assert_eq!(native.pass(&of(2)).await.status, 200, "two are left: what was refused cost nothing");
    assert_eq!(
        refused(&tell(&native.gateway, "/alpha/mcp", &native.token, &call(1, "echo")).await),
        limited()
    );
    assert!(!native.peer.was_called().await);
    assert_eq!(native.pass(&list).await.status, 200);
}

#[tokio::test]
async fn a_body_that_comes_in_chunks_is_counted_before_a_byte_of_it_goes_on() {
    let native = Native::start("1/h").await;
    assert_eq!(native.pass(&call(1, "echo")).await.status, 200);
    let lines = ["content-type: application/json", "transfer-encoding: chunked"];
    let head = crate::harness::request::head("POST", "/alpha/mcp", &native.token, &lines);
    let body = call(7, "echo").to_string();
    let (first, second) = body.split_at(20);
    for space in [0, 70_000] {
        let mut client = RawClient::connect(&native.gateway.address()).await;
        client.send(&head).await;
        client.send(wire::chunk(format!("{}{first}", " ".repeat(space)).as_bytes())).await;
        // The head of a long one goes out while the body is held.
        let mut departed = Vec::new();
        if space > 0 {
            departed.push(native.peer.call().await);
        }
        client.send(wire::chunk(second.as_bytes())).await;
        client.send("0\r\n\r\n").await;
        let answer = within("a refusal", client.read_answer()).await;
        assert_eq!((refused(&answer), &answer.json()["id"]), (limited(), &json!(7)));
        for mut call in departed {
            let rest = call.rest_within(std::time::Duration::from_secs(20)).await;
            let rest = rest.expect("the peer's connection ends");
            assert!(!String::from_utf8_lossy(&rest).contains("tools/call"), "a byte of it went on");
        }
        assert!(!native.peer.was_called().await);
    }
}
