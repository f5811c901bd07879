//! What passes through is passed through: unchanged, at any size, while it is still arriving.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    fake_peer::{Behaviour, FakePeer},
    gateway::Gateway,
    grants::{CALLER, Grants},
    raw::RawClient,
    raw_peer::RawPeer,
    request::{chunked, head, post, post_with},
    tokens::email_token,
    wire::{answer, chunk},
};

const MIB: usize = 1024 * 1024;

async fn start(url: &str) -> (Gateway, Grants) {
    let grants = Grants::of(&["alpha"]).await;
    let gateway = grants.setup().server("alpha", url).start().await;
    gateway.knows_tools("alpha", 1).await;
    (gateway, grants)
}

/// The most memory the process has ever had, in bytes.
fn peak_memory(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn bodies_of_thirty_megabytes_pass_in_bounded_memory() {
    let large = json!({"text": "x".repeat(30 * MIB)}).to_string();
    let peer = FakePeer::start().await.with_json("small", json!(1));
    peer.set("/small", Behaviour::Answer(answer("200 OK", "application/json", b"1")));
    let (gateway, _grants) = start(&peer.url()).await;
    let token = email_token(CALLER);
    assert_eq!(gateway.call("/alpha/small", &token, &json!({})).await.status.as_u16(), 200);
    let before = peak_memory(gateway.id());

    let mut client = RawClient::connect(&gateway.address()).await;
    assert_eq!(client.exchange(post("/alpha/small", &token, &large)).await.text(), "1");
    peer.set("/small", Behaviour::Answer(answer("200 OK", "application/json", large.as_bytes())));
    let got = client.exchange(post("/alpha/small", &token, "{}")).await;
    assert!(got.body == large.as_bytes(), "the answer has {} bytes of {}", got.body.len(), large.len());
    assert!(peer.requests()[1].body == large.as_bytes(), "the request was changed");

    let growth = peak_memory(gateway.id()) - before;
    assert!(growth < 20 * MIB, "{} KiB more for 60 MiB that passed", growth / 1024);
}

#[tokio::test]
async fn the_peer_has_the_first_half_of_a_body_before_the_second_is_sent() {
    let peer = RawPeer::with_tools(&["search"]).await;
    let (gateway, _grants) = start(&peer.url()).await;
    let token = email_token(CALLER);

    let body = br#"{"query": "0123456789"}"#;
    let (first, second) = body.split_at(11);
    let mut client = RawClient::connect(&gateway.address()).await;
    let length = format!("content-length: {}", body.len());
    client.send(head("POST", "/alpha/search", &token, &[&length])).await;
    client.send(first).await;
    let mut call = peer.call().await;
    assert_eq!(call.head.header("content-length"), Some("23"));
    assert_eq!(call.read(first.len()).await, first);
    client.send(second).await;
    assert_eq!(call.read(second.len()).await, second);
    // So that the next call is on a connection of its own, which is not yet in the test's hands.
    call.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\n1").await;
    assert_eq!(client.read_answer().await.text(), "1");

    client.send(chunked("/alpha/search", &token)).await;
    client.send(chunk(first)).await;
    let mut call = peer.call().await;
    assert_eq!(call.head.header("transfer-encoding"), Some("chunked"));
    assert_eq!(call.read_chunk().await.unwrap(), first);
    client.send([chunk(second), b"0\r\n\r\n".to_vec()].concat()).await;
    assert_eq!(call.read_chunk().await.unwrap(), second);
    assert_eq!(call.read_chunk().await, None);
    call.send(answer("200 OK", "application/json", b"2")).await;
    assert_eq!(client.read_answer().await.text(), "2");
}

#[tokio::test]
async fn the_client_has_the_first_half_of_an_answer_before_the_second_is_sent() {
    let peer = RawPeer::with_tools(&["search"]).await;
    let (gateway, _grants) = start(&peer.url()).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(post("/alpha/search", &email_token(CALLER), "{}")).await;
    let mut call = peer.call().await;
    assert_eq!(call.read_body().await, b"{}");
    call.send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    assert_eq!(client.read_head().await.0, 200);
    for piece in ["[1,", " 2,", " 3]"] {
        call.send(chunk(piece.as_bytes())).await;
        assert_eq!(client.read_chunk().await.unwrap(), piece.as_bytes());
    }
    call.send("0\r\n\r\n").await;
    assert_eq!(client.read_chunk().await, None);
}

/// Valid JSON that no two serialisers write alike.
const ODD: &str = " {\r\n\t\"a\" : 1e400 ,\"a\":-0.0,  \"big\":123456789012345678901234567890,\n\
    \"\\u00e9\\/\" : \"\\ud83d\\ude00 \u{1f600} \u{e9}\" , \"deep\":[[[ ]]],\"Arguments\" : {}, \"arguments\":{}}\n\n";

#[tokio::test]
async fn bytes_arrive_as_they_were_sent_in_both_directions() {
    let peer = FakePeer::start().await;
    let peer =
        peer.with_tool("echo", Behaviour::Answer(answer("200 OK", "application/json", ODD.as_bytes())));
    let (gateway, _grants) = start(&peer.url()).await;
    let token = email_token(CALLER);
    let mut client = RawClient::connect(&gateway.address()).await;
    assert_eq!(client.exchange(post("/alpha/echo", &token, ODD)).await.text(), ODD);
    let (one, other) = ODD.as_bytes().split_at(70);
    let pieces =
        [chunked("/alpha/echo", &token).as_bytes(), &chunk(one), &chunk(other), b"0\r\n\r\n"].concat();
    assert_eq!(client.exchange(pieces).await.text(), ODD);
    for scalar in ["[]", "\"text\"", "17", "null", " true "] {
        client.exchange(post("/alpha/echo", &token, scalar)).await;
    }
    let sent: Vec<_> =
        peer.requests().iter().map(|request| String::from_utf8(request.body.clone()).unwrap()).collect();
    assert_eq!(sent, [ODD, ODD, "[]", "\"text\"", "17", "null", " true "]);
}

#[tokio::test]
async fn status_headers_and_body_of_a_tool_are_the_client_s() {
    let peer = FakePeer::start().await.with_json("answer", json!(1));
    let (gateway, _grants) = start(&peer.url()).await;
    let token = email_token(CALLER);
    for (status, body) in [
        ("200 OK", "{ \"odd\" : 1 }"),
        ("201 Created", ""),
        ("404 Not Found", "{\"detail\":\"no such issue\"}"),
        ("422 Unprocessable Content", "{\"detail\":[{\"loc\":[\"body\",\"x\"]}]}"),
        ("429 Too Many Requests", "slow down"),
        ("500 Internal Server Error", "Internal Server Error"),
        ("503 Service Unavailable", "later"),
    ] {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/vnd.odd+json; x=y\r\nX-Own: a\r\nX-Own: b\r\nretry-after: 7\r\n\
             etag: \"e\"\r\nset-cookie: session=1\r\nserver: uvicorn\r\nx-powered-by: luck\r\n\
             www-authenticate: Basic\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        peer.set("/answer", Behaviour::Answer(head.into_bytes()));
        let answer = gateway.call("/alpha/answer", &token, &json!({})).await;
        assert_eq!(
            (answer.status.as_u16().to_string().as_str(), answer.text().as_str()),
            (&status[..3], body)
        );
        assert_eq!(answer.header("content-type"), Some("application/vnd.odd+json; x=y"), "{status}");
        assert_eq!(answer.headers.get_all("x-own").iter().collect::<Vec<_>>(), ["a", "b"], "{status}");
        assert_eq!(
            (answer.header("retry-after"), answer.header("etag")),
            (Some("7"), Some("\"e\"")),
            "{status}"
        );
        for name in ["set-cookie", "server", "x-powered-by", "www-authenticate"] {
            assert_eq!(answer.header(name), None, "{name} with {status}");
        }
    }
    peer.set("/answer", Behaviour::Answer(b"HTTP/1.1 204 No Content\r\nx-own: c\r\n\r\n".to_vec()));
    let mut client = RawClient::connect(&gateway.address()).await;
    for _ in 0..2 {
        let answer = client.exchange(post("/alpha/answer", &token, "{}")).await;
        assert_eq!((answer.status, answer.head.header("x-own")), (204, Some("c")));
        assert_eq!(
            (answer.head.header("content-length"), answer.head.header("transfer-encoding")),
            (None, None)
        );
    }
}

#[tokio::test]
async fn the_peer_is_told_json_and_what_it_may_know_and_nothing_else() {
    let peer = FakePeer::start().await.with_json("search", json!(1));
    let (gateway, _grants) = start(&peer.url()).await;
    let token = email_token(CALLER);
    let told = [
        "accept: text/event-stream",
        "accept-language: de",
        "user-agent: test/1",
        "traceparent: 00-ab-cd-01",
    ];
    let private = [
        "cookie: token=abc",
        "x-user-email: somebody@example.com",
        "x-openwebui-user-id: 7",
        "x-forwarded-for: 10.0.0.1",
        "x-unknown: 1",
        "content-type: text/plain",
    ];
    let mut client = RawClient::connect(&gateway.address()).await;
    let lines: Vec<_> = told.into_iter().chain(private).collect();
    let path = "/alpha/search?limit=1&x=%2e%2e";
    assert_eq!(client.exchange(post_with(path, &token, &lines, "{}")).await.status, 200);
    assert_eq!(client.exchange(post_with("/alpha/search", &token, &[], "{}")).await.status, 200);
    let requests = peer.requests();
    let mut names: Vec<_> =
        requests[0].head.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort();
    let expected = [
        "accept",
        "accept-language",
        "content-length",
        "content-type",
        "host",
        "traceparent",
        "user-agent",
        "x-request-id",
    ];
    assert_eq!(names, expected, "{}", requests[0].text());
    for request in &requests {
        assert_eq!(request.head.all("content-type"), ["application/json"]);
        assert_eq!(request.head.all("host"), [peer.address()]);
        assert_eq!(request.path, "/search", "a query that the tool does not declare");
    }
}

#[tokio::test]
async fn a_query_goes_to_a_tool_that_declares_one() {
    let peer = FakePeer::start().await.with_json("search", json!(1));
    let operation = json!({"parameters": [{"name": "limit", "in": "query", "schema": {"type": "integer"}}],
        "responses": {"200": {"description": "ok"}}});
    let list = json!({"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": {"/search": {"post": operation}}});
    let list = answer("200 OK", "application/json", list.to_string().as_bytes());
    peer.set("/openapi.json", Behaviour::Answer(list));
    let (gateway, _grants) = start(&peer.url()).await;
    let answer = gateway.call("/alpha/search?limit=1&q=a%20b", &email_token(CALLER), &json!({})).await;
    assert_eq!(answer.status.as_u16(), 200);
    assert_eq!(peer.requests()[0].path, "/search?limit=1&q=a%20b");
}

#[tokio::test]
async fn each_event_reaches_the_client_before_the_next_is_sent() {
    let peer = FakePeer::start().await.with_tool("watch", Behaviour::Hold);
    let (gateway, _grants) = start(&peer.url()).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(post("/alpha/watch", &email_token(CALLER), "{}")).await;
    let held = peer.held().await;
    let (status, head) = client.read_head().await;
    assert_eq!((status, head.header("content-type")), (200, Some("text/event-stream")));
    for number in 0..20 {
        let event = format!("id: {number}\ndata: {{\"n\": {number}}}\n\n");
        held.send(event.clone());
        assert_eq!(client.read_chunk().await.unwrap(), event.as_bytes());
    }
    assert_eq!(gateway.metrics().await.sum("portcullis_open_streams", &[]), 1.0);
    held.end();
    assert_eq!(client.read_chunk().await, None);
    gateway.stdout.find("the record of the stream", |line| line.contains("\"tool\":\"watch\"")).await;
    assert_eq!(gateway.metrics().await.sum("portcullis_open_streams", &[]), 0.0);
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_ends_it_at_the_peer() {
    let peer = FakePeer::start().await.with_tool("watch", Behaviour::Hold);
    let (gateway, _grants) = start(&peer.url()).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(post("/alpha/watch", &email_token(CALLER), "{}")).await;
    let held = peer.held().await;
    held.send("data: 1\n\n");
    client.read_head().await;
    client.read_chunk().await.unwrap();
    let left = Instant::now();
    drop(client);
    held.closed().await;
    assert!(left.elapsed() < Duration::from_secs(1), "took {:?}", left.elapsed());
    let line = gateway.stdout.find("the record", |line| line.contains("\"tool\":\"watch\"")).await;
    assert!(line.contains("\"outcome\":\"client_gone\""), "{line}");
    assert_eq!(gateway.metrics().await.sum("portcullis_open_streams", &[]), 0.0);
}

#[tokio::test]
async fn a_client_that_leaves_a_hanging_call_ends_it_at_the_peer() {
    let peer = RawPeer::with_tools(&["hang"]).await;
    let (gateway, _grants) = start(&peer.url()).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(post("/alpha/hang", &email_token(CALLER), "{}")).await;
    let mut call = peer.call().await;
    assert_eq!(call.read_body().await, b"{}");
    drop(client);
    let rest = call.rest_within(Duration::from_secs(1)).await;
    assert_eq!(rest.as_deref(), Some(&b""[..]), "the call goes on for nobody");
    let line = gateway.stdout.find("the record", |line| line.contains("\"tool\":\"hang\"")).await;
    assert!(line.contains("\"outcome\":\"client_gone\""), "{line}");
    assert_eq!(gateway.metrics().await.sum("portcullis_requests_in_flight", &[]), 0.0);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_body_ends_the_call_at_the_peer() {
    let peer = RawPeer::with_tools(&["search"]).await;
    let (gateway, _grants) = start(&peer.url()).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(head("POST", "/alpha/search", &email_token(CALLER), &["content-length: 100"])).await;
    client.send(br#"{"half": "#).await;
    let mut call = peer.call().await;
    assert_eq!(call.read(9).await, br#"{"half": "#);
    drop(client);
    assert_eq!(call.rest_within(Duration::from_secs(1)).await.as_deref(), Some(&b""[..]));
    let line = gateway.stdout.find("the record", |line| line.contains("\"tool\":\"search\"")).await;
    assert!(line.contains("\"outcome\":\"client_gone\""), "{line}");
}
