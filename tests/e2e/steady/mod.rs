//! What callers owe nothing to: under a steady load that counts every call, parts break and come back.
//!
//! Calls that should have worked and did not: 0. Streams broken: 0.

use std::time::Duration;

use crate::harness::{
    events::{EventPeer, Streams},
    gateway::{Gateway, Setup},
    grants::CALLER,
    load::Plan,
    raw::RawClient,
    request::{head, post, post_with},
    tokens::email_token,
};

mod all_peers;
mod grants_away;
mod moving;
mod one_bad_peer;
mod real_peer;
mod sick_peers;

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"client","version":"1"}}}"#;

/// Opens streams of every kind: answers of tools, and standing streams of MCP.
async fn open_streams(gateway: &Gateway, each: usize) -> Streams {
    let (token, address) = (email_token(CALLER), gateway.address());
    let mut streams = Streams::default();
    streams.open(each, &address, &post("/alpha/events", &token, "{}")).await;
    let lines = ["content-type: application/json", "accept: application/json, text/event-stream"];
    let mut greeter = RawClient::connect(&address).await;
    let greeted = greeter.exchange(post_with("/native/mcp", &token, &lines, INITIALIZE)).await;
    assert_eq!(greeted.status, 200, "{}", greeted.text());
    let session = format!("mcp-session-id: {}", greeted.head.header("mcp-session-id").expect("a session"));
    let lines = ["accept: text/event-stream", &session, "mcp-protocol-version: 2025-11-25"];
    streams.open(each, &address, head("GET", "/native/mcp", &token, &lines).as_bytes()).await;
    streams
}

/// A gateway in front of `alpha` and `native`, both by this peer.
fn in_front_of(peer: &EventPeer, setup: Setup) -> Setup {
    setup.server("alpha", &peer.url()).mcp("native", "mcp", &format!("{}/mcp", peer.url()))
}

/// Calls of a tool and of pages, 100 a second.
fn calls(gateway: &Gateway) -> Plan {
    let token = email_token(CALLER);
    let call = post("/alpha/search", &token, "{}");
    let page = head("GET", "/servers", &token, &[]).into_bytes();
    Plan::of(gateway.address(), vec![call.clone(), call, page])
}

/// Steady for this long.
const SPAN: Duration = Duration::from_secs(1);
