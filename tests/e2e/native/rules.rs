//! Tool rules on native MCP: a denied tool is unknown when it is called and is in no list, however the list comes.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Scene, call, refusal};
use crate::harness::{
    grants::CALLER,
    raw::RawClient,
    raw_peer::Call,
    request::head,
    wire::{answer, chunk},
};

const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

/// The caller may use everything of the first server but what begins with `drop_`.
async fn scene(dialect: &str) -> Scene {
    let scene = Scene::start_with(dialect, |setup| setup).await;
    scene.deny_drops().await;
    scene
}

async fn sent(scene: &Scene, body: &str) -> (RawClient, Call) {
    let mut client = scene.client().await;
    client.send(scene.post(&["accept-encoding: gzip"], body)).await;
    let mut call = scene.peer.call().await;
    call.read_body().await;
    (client, call)
}

fn names(list: &Value) -> Vec<&str> {
    list["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_denied_tool_is_unknown_however_it_is_called() {
    let scene = scene("mcp").await;
    for body in [
        call("drop_table").to_string(),
        r#"{"id":1,"method":"tools/call","params":{"name":"dro\u0070_table"}}"#.to_owned(),
        r#"{"id":1,"method":"tools\/call","params":{"arguments":{"name":"ok"},"name":"drop_"}}"#.to_owned(),
        // No names: a server might take a denied one out of them.
        r#"{"id":1,"method":"tools/call","params":{"name":" drop_x"}}"#.to_owned(),
        r#"{"id":1,"method":"tools/call","params":{"name":"\u0000drop_x"}}"#.to_owned(),
        r#"{"id":1,"method":"tools/call","params":{"arguments":{"drop_x":1}}}"#.to_owned(),
    ] {
        let answer = scene.client().await.exchange(scene.post(&[], &body)).await;
        assert_eq!(refusal(&answer), (200, -32602, "unknown_tool".to_owned()), "{body}");
        assert_eq!(answer.json()["id"], 1);
        assert!(answer.text().contains("Unknown tool: "), "{}", answer.text());
        assert!(!answer.text().contains("insufficient_scope"));
    }
    let batch = format!("[{},{}]", call("fine"), call("drop_table"));
    let got = scene.client().await.exchange(scene.post(&[], batch)).await;
    assert_eq!(refusal(&got).0, 400, "one of a batch stops all of it");
    let mut client = scene.client().await;
    let lines = ["content-type: application/json", "transfer-encoding: chunked"];
    client.send(head("POST", "/alpha/mcp", &scene.token, &lines)).await;
    let body = json!({"id": 3, "method": "tools/call", "params": {"arguments": {"x": "y".repeat(100_000)}, "name": "drop_x"}});
    for piece in body.to_string().as_bytes().chunks(10_000) {
        client.send(chunk(piece)).await;
    }
    client.send(chunk(b"")).await;
    let got = client.read_answer().await;
    assert_eq!((refusal(&got).2.as_str(), got.json()["id"].as_i64()), ("unknown_tool", Some(3)));
    let mut held = scene.peer.call().await;
    assert_eq!(held.rest_within(Duration::from_secs(10)).await.as_deref(), Some(&b""[..]));
    scene.is_unharmed().await;
    let (mut client, mut allowed) = sent(&scene, &call("fine").to_string()).await;
    allowed.send(answer("200 OK", "application/json", b"{\"x\" :1}")).await;
    assert_eq!(client.read_answer().await.text(), "{\"x\" :1}");
}

#[tokio::test]
async fn a_list_has_no_denied_tool_in_it_and_is_otherwise_as_it_was() {
    let scene = scene("mcp").await;
    let list = r#"{"jsonrpc":"2.0", "id":1,"result":{"tools":[ {"name":"a","x-vendor":1.0},{"name":"drop_b"}, {"name":"c"}],"nextCursor":"n","ttlMs":5,"cacheScope":"public"}}"#;
    let narrowed = r#"{"jsonrpc":"2.0", "id":1,"result":{"tools":[ {"name":"a","x-vendor":1.0}, {"name":"c"}],"nextCursor":"n","ttlMs":5,"cacheScope":"private"}}"#;
    let (mut client, mut call) = sent(&scene, LIST).await;
    assert_eq!(call.head.all("accept-encoding"), ["identity"], "it has to be read");
    call.send(answer("200 OK", "application/json; charset=utf-8", list.as_bytes())).await;
    assert_eq!(client.read_answer().await.text(), narrowed);
    drop(call); // and its connection, which would be used again

    let (mut client, mut call) = sent(&scene, LIST).await;
    call.send(STREAM).await;
    client.read_head().await;
    call.send(chunk(b": ping\n\n")).await;
    assert_eq!(client.read_chunk().await.as_deref(), Some(&b": ping\n\n"[..]), "not held back");
    let event = format!("id: 7\nevent: message\ndata: {list}\n\n");
    for piece in event.as_bytes().chunks(50) {
        call.send(chunk(piece)).await;
    }
    call.send(chunk(b"")).await;
    let mut got = Vec::new();
    while let Some(piece) = client.read_chunk().await {
        got.extend(piece);
    }
    assert_eq!(String::from_utf8(got).unwrap(), format!("id: 7\nevent: message\ndata: {narrowed}\n\n"));
}

#[tokio::test]
async fn a_stream_that_is_resumed_or_standing_has_no_denied_tool_in_it() {
    for dialect in ["mcp", "mcp-sse"] {
        let scene = scene(dialect).await;
        let mut client = scene.client().await;
        client.send(head("GET", "/alpha/mcp", &scene.token, &["last-event-id: 3"])).await;
        let mut held = scene.peer.call().await;
        held.send(STREAM).await;
        client.read_head().await;
        held.send(chunk(b"event: message\ndata: {\"id\":1,\"result\":{\"tools\":[{\"name\":\"drop_b\"},{\"name\":\"c\"}]}}\r\n\r\n")).await;
        let got = String::from_utf8(client.read_chunk().await.unwrap()).unwrap();
        let data = got.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        assert_eq!(names(&serde_json::from_str(data).unwrap()), ["c"], "{dialect}");
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_told_apart_is_not_passed_on() {
    let scene = scene("mcp").await;
    for list in [
        r#"{"id":1,"result":{"tools":[{"name":"a"}],"tools":[{"name":"drop_b"}]}}"#,
        r#"{"id":1,"result":{"tools":[{"name":"drop_b","name":"a"}]}}"#,
        r#"{"id":1,"result":{"tools":[{"title":"nameless drop_b"}]}}"#,
        r#"{"id":1,"result":{"tools":[{"name":"drop_b"}]}"#,
    ] {
        let (mut client, mut call) = sent(&scene, LIST).await;
        call.send(answer("200 OK", "application/json", list.as_bytes())).await;
        client.read_head().await;
        let rest = tokio::spawn(async move { client.read_chunk().await });
        assert!(rest.await.is_err(), "the connection is cut: {list}");
    }
    for head in [
        "200 OK\r\ncontent-type: text/html",
        "201 Created\r\ncontent-type: text/plain",
        "200 OK\r\nx: y",
        "200 OK\r\ncontent-type: text/event-streamx",
        "200 OK\r\ncontent-type: text/plain\r\ncontent-type: application/json",
        "200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip",
    ] {
        let (mut client, mut call) = sent(&scene, LIST).await;
        call.send(format!("HTTP/1.1 {head}\r\ncontent-length: 6\r\n\r\ndrop_b")).await;
        assert_eq!(refusal(&client.read_answer().await).2, "peer_bad_answer", "{head}");
    }
}

#[tokio::test]
async fn a_rule_that_comes_while_a_body_is_on_its_way_holds_for_it() {
    let body = call("drop_x").to_string();
    let batch = format!("[{},{body}]", call("fine"));
    for (body, is_chunked) in [(&body, false), (&batch, false), (&body, true), (&batch, true)] {
        let scene = Scene::start().await;
        let length = format!("content-length: {}", body.len());
        let framing = if is_chunked { "transfer-encoding: chunked" } else { &length };
        let framed =
            |piece: &str| if is_chunked { chunk(piece.as_bytes()) } else { piece.as_bytes().to_vec() };
        let mut client = scene.client().await;
        client
            .send(head("POST", "/alpha/mcp", &scene.token, &["content-type: application/json", framing]))
            .await;
        let (first, rest) = body.split_at(20);
        client.send(framed(first)).await;
        scene.deny_drops().await;
        let _ = client.try_send(framed(rest)).await;
        if is_chunked {
            let _ = client.try_send(chunk(b"")).await;
        }
        // Refused, or cut where its head had departed already.
        let refused = tokio::spawn(async move { refusal(&client.read_answer().await).2 }).await;
        let is_refused = |code: &String| code == "unknown_tool" || code == "bad_message";
        assert!(refused.is_err() || refused.as_ref().is_ok_and(is_refused), "{refused:?}");
        while scene.peer.was_called().await {
            let rest = scene.peer.call().await.rest_within(Duration::from_secs(10)).await;
            assert_eq!(rest.as_deref(), Some(&b""[..]), "no byte of it went on");
        }
    }
}

#[tokio::test]
async fn a_rule_that_comes_ends_streams_that_were_opened_without_it() {
    let scene = Scene::start().await;
    let mut client = scene.client().await;
    client.send(head("GET", "/alpha/mcp", &scene.token, &[])).await;
    let mut held = scene.peer.call().await;
    held.send(STREAM).await;
    client.read_head().await;
    let (mut calling, mut call) = sent(&scene, &call("drop_x").to_string()).await;
    let batch = format!("[{},{}]", super::call("fine"), super::call("drop_x"));
    let (mut several, _batch) = sent(&scene, &batch).await;
    let (mut other, mut fine) = sent(&scene, &super::call("fine").to_string()).await;
    scene.grants.deny(CALLER, "alpha", "drop_*").await;
    assert!(client.is_closed_within(Duration::from_secs(10)).await, "the stream is narrowed from now on");
    let told = calling.read_answer().await.json();
    assert_eq!(told["error"]["data"]["code"], "unknown_tool", "a call of a denied tool ends");
    assert!(several.is_closed_within(Duration::from_secs(10)).await, "a batch with one in it ends");
    assert!(call.rest_within(Duration::from_secs(10)).await.is_some());
    fine.send(answer("200 OK", "application/json", b"{}")).await;
    assert_eq!(other.read_answer().await.status, 200, "a call of another tool goes on");
}

#[tokio::test]
async fn on_a_legacy_stream_the_server_itself_says_that_it_has_no_such_tool() {
    let scene = scene("mcp-sse").await;
    let mut stream = scene.client().await;
    stream.send(head("GET", "/alpha/mcp", &scene.token, &[])).await;
    let mut held = scene.peer.call().await;
    held.send(STREAM).await;
    stream.read_head().await;
    held.send(chunk(b"event: endpoint\ndata: /messages?id=1\n\n")).await;
    let endpoint = String::from_utf8(stream.read_chunk().await.unwrap()).unwrap();
    let path = endpoint.trim().rsplit_once("data: ").unwrap().1.to_owned();
    let denied = call("drop_x").to_string();
    for is_chunked in [false, true] {
        let mut client = scene.client().await;
        if is_chunked {
            let lines = ["content-type: application/json", "transfer-encoding: chunked"];
            client.send(head("POST", &path, &scene.token, &lines)).await;
            client
                .send([chunk(&denied.as_bytes()[..20]), chunk(&denied.as_bytes()[20..]), chunk(b"")].concat())
                .await;
        } else {
            client.send(scene.post_as(&scene.token, &path, &[], &denied)).await;
        }
        let mut posted = scene.peer.call().await;
        let body: Value = serde_json::from_slice(&posted.read_body().await).unwrap();
        assert_eq!((&body["id"], &body["params"]["name"]), (&json!(1), &json!("<no such tool>")));
        assert!(!body.to_string().contains("drop_x"));
        posted.send("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(client.read_answer().await.status, 202);
    }
    scene.gateway.stdout.find("the record", |line| line.contains("\"code\":\"unknown_tool\"")).await;
    // What is not awaited is not asked for in its stead.
    let notification = r#"{"method":"tools/call","params":{"name":"drop_x"}}"#;
    let got = scene.client().await.exchange(scene.post_as(&scene.token, &path, &[], notification)).await;
    assert_eq!(refusal(&got).2, "unknown_tool");
    // A server of that time may answer a message with anything.
    for nothing in ["content-length: 0\r\n\r\n", "content-type: text/plain\r\ncontent-length: 2\r\n\r\nok"] {
        let mut client = scene.client().await;
        client.send(scene.post_as(&scene.token, &path, &[], LIST)).await;
        let mut posted = scene.peer.call().await;
        posted.read_body().await;
        posted.send(format!("HTTP/1.1 200 OK\r\n{nothing}")).await;
        assert_eq!(client.read_answer().await.status, 200);
    }
    let mut client = scene.client().await;
    client.send(scene.post_as(&scene.token, &path, &[], LIST)).await;
    let mut posted = scene.peer.call().await;
    posted.read_body().await;
    let list = r#"{"id":1,"result":{"tools":[{"name":"drop_b"},{"name":"c"}]}}"#;
    posted.send(answer("200 OK", "application/json", list.as_bytes())).await;
    assert_eq!(names(&client.read_answer().await.json()), ["c"], "a list is a list wherever it comes");
}

#[tokio::test]
async fn an_answer_that_is_no_list_may_be_of_any_size_however_its_call_was_framed() {
    let scene = scene("mcp").await;
    let result = format!(r#"{{"id":1,"result":{{"content":"{}"}}}}"#, "x".repeat(9_000_000));
    let body = call("fine").to_string();
    for is_chunked in [false, true] {
        let mut client = scene.client().await;
        if is_chunked {
            let lines = ["content-type: application/json", "transfer-encoding: chunked"];
            client.send(head("POST", "/alpha/mcp", &scene.token, &lines)).await;
            client.send([chunk(&body.as_bytes()[..9]), chunk(&body.as_bytes()[9..])].concat()).await;
            client.send(chunk(b"")).await;
        } else {
            client.send(scene.post(&[], &body)).await;
        }
        let mut call = scene.peer.call().await;
        assert_eq!(call.read_body().await, body.as_bytes());
        let sending = async {
            call.send(answer("200 OK", "application/json", result.as_bytes())).await;
            call
        };
        let (_call, got) = tokio::join!(sending, client.read_answer());
        assert!(got.body == result.as_bytes(), "chunked: {is_chunked}, {} bytes came", got.body.len());
    }
}
