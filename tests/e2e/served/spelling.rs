//! What is translated keeps its spelling: numbers, order, white space and members that nobody knows.

use serde_json::json;

use super::{
    World,
    client::{ERAS, Era},
    many::Servers,
};
use crate::harness::gateway::Answer;

/// What only a parser that keeps text keeps: numbers no double holds, their spelling, escapes, white space.
const STRUCTURED: &str =
    r#"{ "z" : [12345678901234567890, -0.0, 1.0e2],"a": "\/\u00e9", "x-vendor":{"b":1,"a":2.50} }"#;
const RESULT: &str = r#"{"content":[{"type":"text","text":"a","x-odd":1e0}],"structuredContent":{ "z" : [12345678901234567890, -0.0, 1.0e2],"a": "\/\u00e9", "x-vendor":{"b":1,"a":2.50} },"x-more" : 1.50,"resultType":"complete"}"#;
const ARGUMENTS: &str = r#"{"query": "\/\u00e9", "z" :123456789012345678901, "a":1.50}"#;

async fn world() -> (World, Servers) {
    assert!(RESULT.contains(STRUCTURED));
    let servers = Servers::saying(Some(RESULT)).await;
    let world = World::of(&[("s00", "mcp", format!("http://{}/s00/mcp", servers.address))]).await;
    (world, servers)
}

#[tokio::test]
async fn a_result_and_arguments_keep_their_spelling_on_the_rest_face() {
    let (world, servers) = world().await;
    for body in [ARGUMENTS.to_owned(), format!(r#"{{"arguments": {ARGUMENTS}}}"#)] {
        let request = world.gateway.call_request("/s00/tool_000", &world.token, &json!({})).body(body);
        let answer = world.gateway.send(request).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, STRUCTURED));
        let called = String::from_utf8(servers.called.lock().unwrap().clone()).unwrap();
        assert!(called.contains(ARGUMENTS), "{called}");
    }
}

#[tokio::test]
async fn a_result_and_arguments_keep_their_spelling_on_both_mcp_faces() {
    let (world, servers) = world().await;
    for (path, name, era) in
        ERAS.iter().flat_map(|era| [("/mcp", "s00_tool_000", *era), ("/s00/mcp", "tool_000", *era)])
    {
        let client = world.mcp(path, era).await;
        let call = client.request(1, "tools/call", json!({"name": name, "arguments": {"at": "HERE"}}));
        let call = call.to_string().replace(r#"{"at":"HERE"}"#, ARGUMENTS);
        let mut headers = vec![
            ("accept", "application/json, text/event-stream"),
            ("content-type", "application/json"),
            ("mcp-protocol-version", if era == Era::Modern { "2026-07-28" } else { "2025-11-25" }),
        ];
        headers.extend(client.session.as_deref().map(|id| ("mcp-session-id", id)));
        if era == Era::Modern {
            headers.extend([("mcp-method", "tools/call"), ("mcp-name", name)]);
        }
        let answer = client.end.request(reqwest::Method::POST, &headers).body(call).send().await.unwrap();
        let text = Answer::read(answer).await.text();
        let kept = RESULT.strip_suffix(r#","resultType":"complete"}"#).unwrap();
        assert!(text.contains(kept), "{path} {era:?}: {text}");
        assert_eq!(text.contains("resultType"), era == Era::Modern, "{path}: {text}");
        let called = String::from_utf8(servers.called.lock().unwrap().clone()).unwrap();
        assert!(called.contains(ARGUMENTS) && called.contains(r#""name":"tool_000""#), "{called}");
    }
}
