//! Streams: passed on byte for byte as they come, never ended for being quiet, ended with their client or not.

use std::time::Duration;

use super::{Scene, call, refusal};
use crate::harness::{
    gateway::Setup,
    grants::CALLER,
    raw::RawClient,
    raw_peer::Call,
    request::head,
    tokens::{SESSION_SECRET, now, sign},
    wire::{answer, chunk},
};

const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const SOON: Duration = Duration::from_secs(10);

fn impatient(setup: Setup) -> Setup {
    setup.set("upstream.read_timeout_secs", 1)
}

/// A call and its place at the peer, the request read.
async fn begun(scene: &Scene, lines: &[&str]) -> (RawClient, Call) {
    let mut client = scene.client().await;
    client.send(scene.post(lines, call("slow").to_string())).await;
    let mut call = scene.peer.call().await;
    call.read_body().await;
    (client, call)
}

#[tokio::test]
async fn every_byte_of_a_stream_reaches_the_client_when_it_is_sent() {
    let scene = Scene::start().await;
    let (mut client, mut call) = begun(&scene, &[]).await;
    call.send(STREAM).await;
    assert_eq!(client.read_head().await.0, 200);
    for piece in [
        &b": keep-alive\n\n"[..],
        b"id: 1\nretry: 500\ndata:\n\n",
        b"event: message\r\ndata: {\"jsonrpc\":\"2.0\",",
        b"\"id\":1,\"result\":{\"tools\":[{\"name\" : \"a\"}], \"x-vendor\": 1.0}}\r\n\r\n",
        b"\xef\xbb\xbfdata: \xff\xfe not utf-8\r\r",
        b"no event at all",
    ] {
        call.send(chunk(piece)).await;
        assert_eq!(client.read_chunk().await.as_deref(), Some(piece));
    }
    call.send(chunk(b"")).await;
    assert_eq!(client.read_chunk().await, None);
}

#[tokio::test]
async fn a_quiet_stream_is_left_alone_and_a_silent_server_is_not() {
    let scene = Scene::start_with("mcp", impatient).await;
    let mut standing = scene.client().await;
    standing.send(head("GET", "/alpha/mcp", &scene.token, &["accept: text/event-stream"])).await;
    let mut held = scene.peer.call().await;
    let (mut client, mut streaming) = begun(&scene, &[]).await;
    streaming.send(STREAM).await;
    assert_eq!(client.read_head().await.0, 200);

    // Longer than the longest silence before an answer: a call that is not answered ends meanwhile.
    for _ in 0..2 {
        let (mut client, _call) = begun(&scene, &[]).await;
        let answer = client.read_answer().await;
        assert_eq!(refusal(&answer), (504, 504, "peer_too_slow".to_owned()));
        assert!(answer.text().contains("\"id\":1"), "{}", answer.text());
    }
    held.send(STREAM).await;
    assert_eq!(standing.read_head().await.0, 200, "a stream that is only asked for may begin late");
    for (client, call) in [(&mut standing, &mut held), (&mut client, &mut streaming)] {
        call.send(chunk(b"data: 1\n\n")).await;
        assert_eq!(client.read_chunk().await.as_deref(), Some(&b"data: 1\n\n"[..]));
    }
}

#[tokio::test]
async fn a_standing_stream_ends_with_the_token_it_was_opened_with_and_a_call_does_not() {
    let scene = Scene::start().await;
    let (mut client, mut underway) = {
        let token = expiring_in(5);
        let (mut standing, mut all) = (scene.client().await, scene.client().await);
        standing.send(head("GET", "/alpha/mcp", &token, &["accept: text/event-stream"])).await;
        let mut held = scene.peer.call().await;
        held.send(STREAM).await;
        assert_eq!(standing.read_head().await.0, 200);
        all.send(head("GET", "/mcp", &token, &["accept: text/event-stream"])).await;
        assert_eq!(all.read_head().await.0, 200);
        let mut client = scene.client().await;
        client.send(scene.post_as(&token, "/alpha/mcp", &[], call("slow").to_string())).await;
        let mut underway = scene.peer.call().await;
        underway.read_body().await;
        assert!(held.rest_within(Duration::from_secs(20)).await.is_some(), "the stream stands on");
        while all.read_chunk().await.is_some() {}
        (client, underway)
    };
    underway.send(answer("200 OK", "application/json", b"{}")).await;
    assert_eq!(client.read_answer().await.text(), "{}");
    let again = scene.client().await.exchange(scene.post_as(&expiring_in(-5), "/alpha/mcp", &[], "{}")).await;
    assert_eq!(refusal(&again).2, "expired_credential");
}

/// A token of the caller's that is believed for so many seconds more, the clock's leeway of 30 s included.
fn expiring_in(secs: i64) -> String {
    let claims = serde_json::json!({"id": CALLER, "typ": "session", "email": CALLER, "exp": now(secs - 30)});
    sign(&claims, SESSION_SECRET)
}

#[tokio::test]
async fn half_a_json_answer_ends_when_the_rest_does_not_come() {
    let scene = Scene::start_with("mcp", impatient).await;
    let (mut client, mut call) = begun(&scene, &[]).await;
    call.send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{").await;
    assert_eq!(client.read_head().await.0, 200);
    assert!(call.rest_within(SOON).await.is_some());
}

#[tokio::test]
async fn a_client_that_leaves_cancels_a_modern_request_at_once() {
    let scene = Scene::start().await;
    for is_begun in [false, true] {
        let (client, mut call) = begun(&scene, &["mcp-protocol-version: 2026-07-28"]).await;
        if is_begun {
            call.send(STREAM).await;
        }
        drop(client);
        assert_eq!(call.rest_within(SOON).await.as_deref(), Some(&b""[..]), "{is_begun}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_does_not_cancel_a_legacy_request() {
    let scene = Scene::start().await;
    let still = Duration::from_millis(500);
    // Not yet answered; answered; a stream that cannot be resumed.
    for is_begun in [false, true] {
        let (client, mut call) = begun(&scene, &["mcp-protocol-version: 2025-11-25"]).await;
        if is_begun {
            call.send(STREAM).await;
            call.send(chunk(b"data: {}\n\n")).await;
        }
        drop(client);
        assert_eq!(call.rest_within(still).await, None, "cancelled, begun: {is_begun}");
        for _ in 0..20 {
            // The client's end has been closed for long; the server still gets rid of its answer.
            call.send(if is_begun { chunk(&[b'x'; 10_000]) } else { b"HTTP/1.1 200 OK\r\n".to_vec() }).await;
            if !is_begun {
                call.send("content-length: 2\r\n\r\n{}").await;
                break;
            }
        }
        if is_begun {
            call.send(chunk(b"")).await;
        }
        let line = scene.gateway.stdout.find("the record", |line| line.contains("client_gone")).await;
        assert!(line.contains("\"status\":200"), "{line}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_a_resumable_or_standing_stream_frees_it_for_its_next_one() {
    let scene = Scene::start().await;
    let (mut client, mut call) = begun(&scene, &[]).await;
    call.send(STREAM).await;
    client.read_head().await;
    for piece in [&b": ping\n\n"[..], b"id: 7\nda", b"ta:\n\n"] {
        call.send(chunk(piece)).await;
        client.read_chunk().await;
    }
    drop(client);
    assert!(call.rest_within(SOON).await.is_some(), "it can be resumed, so it is let go");

    let mut client = scene.client().await;
    client.send(head("GET", "/alpha/mcp", &scene.token, &[])).await;
    let mut held = scene.peer.call().await;
    held.send(STREAM).await;
    client.read_head().await;
    drop(client);
    assert!(held.rest_within(SOON).await.is_some());
}

#[tokio::test]
async fn a_client_that_only_stops_sending_still_gets_its_legacy_answer() {
    let scene = Scene::start().await;
    let (mut client, mut call) = begun(&scene, &[]).await;
    client.finish_sending().await;
    call.send(answer("200 OK", "application/json", b"{\"late\":1}")).await;
    assert_eq!(client.read_answer().await.text(), "{\"late\":1}");
}

#[tokio::test]
async fn what_a_server_says_no_to_passes_and_what_would_mislead_a_client_does_not() {
    let scene = Scene::start().await;
    for status in [
        "400 Bad Request",
        "403 Forbidden",
        "404 Not Found",
        "405 Method Not Allowed",
        "406 Not Acceptable",
        "409 Conflict",
        "413 Content Too Large",
        "415 Unsupported Media Type",
        "500 Internal Server Error",
    ] {
        let (mut client, mut call) = begun(&scene, &[]).await;
        call.send(answer(status, "text/plain", b"as it is")).await;
        let got = client.read_answer().await;
        assert_eq!((got.status.to_string().as_str(), got.text().as_str()), (&status[..3], "as it is"));
    }
    let (mut client, mut call) = begun(&scene, &[]).await;
    call.send("HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer resource_metadata=\"http://evil\"\r\ncontent-length: 0\r\n\r\n").await;
    let got = client.read_answer().await;
    assert_eq!(refusal(&got), (502, 502, "peer_bad_answer".to_owned()));
    assert!(got.head.header("www-authenticate").is_none());
}

#[tokio::test]
async fn a_refused_probe_lets_every_client_fall_back() {
    let scene = Scene::start().await;
    let probe = r#"{"jsonrpc":"2.0","id":"p","method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    for status in
        ["401 Unauthorized", "403 Forbidden", "500 Internal Server Error", "502 Bad Gateway", "503 x"]
    {
        let mut client = scene.client().await;
        client.send(scene.post(&["mcp-protocol-version: 2026-07-28"], probe)).await;
        let mut call = scene.peer.call().await;
        call.read_body().await;
        call.send(answer(status, "text/html", b"<h1>no</h1>")).await;
        let got = client.read_answer().await;
        assert_eq!(refusal(&got), (400, -32022, "unsupported_protocol_version".to_owned()), "{status}");
        assert_eq!(got.json()["id"], "p");
        assert_eq!(got.json()["error"]["data"]["supported"][0], "2025-11-25");
    }
    for broken in [
        "HTTP/1.1 307 x\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 101 x\r\n\r\n",
        "what?\r\n\r\n",
        "",
    ] {
        let mut client = scene.client().await;
        client.send(scene.post(&[], probe)).await;
        let mut call = scene.peer.call().await;
        call.read_body().await;
        call.send(broken).await;
        drop(call);
        assert_eq!(refusal(&client.read_answer().await).1, -32022, "{broken:?}");
    }
    let mut client = scene.client().await;
    client.send(scene.post(&[], probe)).await;
    let mut call = scene.peer.call().await;
    call.read_body().await;
    call.send(answer("404 Not Found", "text/plain", b"as it is")).await;
    assert_eq!(client.read_answer().await.text(), "as it is");
}

#[tokio::test]
async fn a_server_declared_legacy_is_not_asked_for_what_no_one_speaks() {
    let scene = Scene::start_with("mcp", |setup| {
        let keys = toml::toml! { dialect = "mcp"
        mcp_versions = ["2025-06-18", "2025-03-26"] };
        setup.server_with("alpha", "http://127.0.0.1:9/mcp", keys)
    })
    .await;
    let mut body = call("a");
    body["params"]["_meta"] = serde_json::json!({"io.modelcontextprotocol/protocolVersion": "2031-01-01",
        "io.modelcontextprotocol/clientCapabilities": {}});
    let lines = ["mcp-protocol-version: 2031-01-01", "mcp-method: tools/call", "mcp-name: a"];
    let got = scene.client().await.exchange(scene.post(&lines, body.to_string())).await;
    assert_eq!(refusal(&got).1, -32022);
    let supported = got.json()["error"]["data"]["supported"].as_array().unwrap().clone();
    // What the gateway speaks in the server's stead.
    assert_eq!(supported, ["2026-07-28"]);
    scene.is_unharmed().await;
}

#[tokio::test]
async fn the_message_endpoint_of_a_legacy_stream_is_ours_and_leads_to_the_server_s() {
    let scene = Scene::start_with("mcp-sse", |setup| setup).await;
    let mut stream = scene.client().await;
    stream.send(head("GET", "/alpha/mcp", &scene.token, &["accept: text/event-stream"])).await;
    let mut held = scene.peer.call().await;
    assert!(held.head.first_line.starts_with("GET /mcp "));
    held.send(STREAM).await;
    assert_eq!(stream.read_head().await.0, 200);
    held.send(chunk(b": hello\n\nevent: endpoint\ndata: /messages/?session_id=own&x=%20y\n\n")).await;
    let mut text = String::new();
    while !text.contains("endpoint\n") {
        text += &String::from_utf8(stream.read_chunk().await.unwrap()).unwrap();
    }
    let path = text.trim().rsplit_once("data: ").unwrap().1.to_owned();
    assert!(path.starts_with("/alpha/mcp?sessionId=") && !path.contains("own"), "{path}");

    let mut client = scene.client().await;
    client.send(scene.post_as(&scene.token, &path, &[], call("a").to_string())).await;
    let mut posted = scene.peer.call().await;
    assert!(
        posted.head.first_line.starts_with("POST /messages/?session_id=own&x=%20y "),
        "{}",
        posted.head.first_line
    );
    assert_eq!(posted.read_body().await, call("a").to_string().as_bytes());
    posted.send("HTTP/1.1 202 Accepted\r\ncontent-length: 8\r\n\r\nAccepted").await;
    assert_eq!(client.read_answer().await.text(), "Accepted");
    held.send(chunk(b"event: message\ndata: {\"id\":1}\n\n")).await;
    assert_eq!(stream.read_chunk().await.as_deref(), Some(&b"event: message\ndata: {\"id\":1}\n\n"[..]));

    let other = crate::harness::tokens::email_token("other@example.com");
    let body = call("a").to_string();
    for (token, path, expected) in [
        (&other, path.as_str(), (404, "unknown_session")),
        (&scene.token, &path.replace("alpha", "beta"), (404, "unknown_session")),
        (&scene.token, "/alpha/mcp?sessionId=/messages/?session_id=own", (404, "unknown_session")),
        // Without that endpoint it is Streamable HTTP, which the gateway translates: there is no such tool.
        (&scene.token, "/alpha/mcp", (200, "unknown_tool")),
    ] {
        let got = scene.client().await.exchange(scene.post_as(token, path, &[], &body)).await;
        let (status, _, word) = refusal(&got);
        assert_eq!((status, word.as_str()), expected, "{path}");
    }
    let probe = r#"{"id":1,"method":"server/discover"}"#;
    assert_eq!(refusal(&scene.client().await.exchange(scene.post(&[], probe)).await).1, -32020);
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_message_endpoint_elsewhere_ends_the_stream() {
    let scene = Scene::start_with("mcp-sse", |setup| setup).await;
    for named in [
        "http://evil.example.com/messages",
        "//evil.example.com/x",
        "http://127.0.0.1:1/messages",
        "file:///etc/passwd",
    ] {
        let mut stream = scene.client().await;
        stream.send(head("GET", "/alpha/mcp", &scene.token, &[])).await;
        let mut held = scene.peer.call().await;
        held.send(STREAM).await;
        held.send(chunk(format!("event: endpoint\ndata: {named}\n\n").as_bytes())).await;
        assert!(held.rest_within(SOON).await.is_some(), "{named}");
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_is_sent_no_chunks() {
    let scene = Scene::start().await;
    let old = |request: Vec<u8>| String::from_utf8(request).unwrap().replacen("HTTP/1.1", "HTTP/1.0", 1);
    let list = r#"{"id":1,"result":{"tools":[{"name":"a"}]}}"#;
    for is_narrowed in [false, true] {
        if is_narrowed {
            scene.deny_drops().await;
        }
        for (body, sent) in
            [(call("slow").to_string(), "data: 1\n\n"), (r#"{"id":1,"method":"tools/list"}"#.into(), list)]
        {
            let mut client = scene.client().await;
            client.send(old(scene.post(&[], &body))).await;
            let mut call = scene.peer.call().await;
            call.read_body().await;
            let kind = if sent == list { "application/json" } else { "text/event-stream" };
            call.send(format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
            ))
            .await;
            call.send([chunk(sent.as_bytes()), chunk(b"")].concat()).await;
            let answer = client.read_answer().await;
            assert!(answer.head.all("transfer-encoding").is_empty(), "{:?}", answer.head);
            assert_eq!(answer.text(), sent, "narrowed: {is_narrowed}");
        }
    }
}
