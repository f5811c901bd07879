//! Native MCP against peers made of bytes: what is refused, what is held, what passes untouched.

mod bodies;
mod rules;
mod sessions;
mod streams;

use serde_json::{Value, json};

use crate::harness::{
    deadline::until,
    gateway::{Gateway, Setup},
    grants::{CALLER, Grants, STRANGER},
    raw::{RawAnswer, RawClient},
    raw_peer::RawPeer,
    request::post_with,
    tokens::email_token,
};

/// A gateway in front of one peer that speaks MCP, in the hands of the test.
pub struct Scene {
    pub gateway: Gateway,
    pub peer: RawPeer,
    pub token: String,
    pub grants: Grants,
}

impl Scene {
    pub async fn start() -> Self {
        Self::start_with("mcp", |setup| setup).await
    }

    /// With this dialect, and further settings.
    pub async fn start_with(dialect: &str, set: impl FnOnce(Setup) -> Setup) -> Self {
        let peer = RawPeer::with_tools(&[]).await;
        let grants = Grants::of(&["alpha", "beta"]).await;
        grants.add("other@example.com", "alpha").await;
        let keys = || toml::Table::from_iter([("dialect".to_owned(), dialect.into())]);
        let url = format!("{}/mcp", peer.url());
        let setup = grants.setup().server_with("alpha", &url, keys()).server_with("beta", &url, keys());
        let gateway = set(setup).start().await;
        Self { gateway, peer, token: email_token(CALLER), grants }
    }

    pub async fn client(&self) -> RawClient {
        RawClient::connect(&self.gateway.address()).await
    }

    /// A POST of this body to the first server.
    pub fn post(&self, lines: &[&str], body: impl AsRef<[u8]>) -> Vec<u8> {
        self.post_as(&self.token, "/alpha/mcp", lines, body)
    }

    pub fn post_as(&self, token: &str, path: &str, lines: &[&str], body: impl AsRef<[u8]>) -> Vec<u8> {
        let usual = ["content-type: application/json", "accept: application/json, text/event-stream"];
        let lines: Vec<_> = usual.iter().chain(lines).copied().collect();
        post_with(path, token, &lines, body)
    }

    /// Denies the caller the tools of the first server that begin with `drop_`; returns once it is in force.
    pub async fn deny_drops(&self) {
        let rows = || async { self.gateway.metrics().await.sum("portcullis_grant_rows", &[]) };
        let before = rows().await;
        self.grants.deny(CALLER, "alpha", "drop_*").await;
        until("the rule in force", || async { (rows().await > before).then_some(()) }).await;
    }

    /// Nothing has reached the peer, and the gateway still works.
    pub async fn is_unharmed(&self) {
        assert!(!self.peer.was_called().await, "the peer was called");
        assert_eq!(self.gateway.metrics().await.sum("portcullis_panics_total", &[]), 0.0);
    }
}

/// Status, JSON-RPC code and stable word of a refusal on an MCP route.
#[track_caller]
pub fn refusal(answer: &RawAnswer) -> (u16, i64, String) {
    let body = answer.json();
    assert_eq!(body["jsonrpc"], "2.0", "{body}");
    let error = &body["error"];
    let word = error["data"]["code"].as_str().unwrap_or_else(|| panic!("no code in {body}"));
    (answer.status, error["code"].as_i64().unwrap(), word.to_owned())
}

pub fn call(tool: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {}}})
}

#[tokio::test]
async fn refusals_are_json_rpc_and_keep_the_connection() {
    let scene = Scene::start().await;
    let mut client = scene.client().await;
    let body = call("echo").to_string();
    let stranger = email_token(STRANGER);
    for (token, path, expected) in [
        ("", "/alpha/mcp", (401, 401, "no_credential")),
        ("x.y.z", "/alpha/mcp", (401, 401, "invalid_credential")),
        (stranger.as_str(), "/alpha/mcp", (403, 403, "not_granted")),
        (scene.token.as_str(), "/gamma/mcp", (404, 404, "unknown_server")),
    ] {
        let answer = client.exchange(scene.post_as(token, path, &[], &body)).await;
        let (status, code, word) = refusal(&answer);
        assert_eq!((status, code, word.as_str()), expected, "{path}");
        assert_eq!(answer.head.header("www-authenticate").is_some(), status == 401);
        assert!(answer.json().get("id").is_none(), "the body was not looked at");
    }
    let put = crate::harness::request::head("PUT", "/alpha/mcp", &scene.token, &["content-length: 0"]);
    let answer = client.exchange(put).await;
    assert_eq!((answer.status, answer.head.header("allow")), (405, Some("GET, POST, DELETE")));
    scene.is_unharmed().await;
}

#[tokio::test]
async fn the_pages_say_where_an_mcp_client_finds_a_server() {
    let scene = Scene::start().await;
    let page = scene.gateway.get("/alpha", &scene.token).await.json();
    let usage = "POST /alpha/{tool} with the arguments as a JSON object, or /alpha/mcp, for MCP clients";
    assert_eq!((&page["usage"], &page["tool_count"]), (&json!(usage), &json!(0)));
    let servers = scene.gateway.get("/servers", &scene.token).await.json();
    assert!(servers["usage"]["mcp"].as_str().unwrap().starts_with("/{server}/mcp"));
}
