//! Peers that are away, silent, broken or slow: the client is told, and nothing is ever executed twice.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    deadline::{until, until_so},
    fake_peer::{Behaviour, FakePeer},
    gateway::Gateway,
    grants::{CALLER, Grants},
    port::Port,
    raw::RawClient,
    raw_peer::RawPeer,
    request::post,
    tokens::email_token,
    wire::answer,
};

async fn start(url: &str, tools: usize) -> (Gateway, Grants) {
    let grants = Grants::of(&["alpha"]).await;
    let setup = grants.setup().server("alpha", url).set("upstream.read_timeout_secs", 1);
    let gateway = setup.start().await;
    gateway.knows_tools("alpha", tools).await;
    (gateway, grants)
}

/// A call that fails this way at the peer: what the client is told, and how often the peer was asked.
async fn check(behaviour: Behaviour, expected: (u16, &str)) {
    let peer = FakePeer::start().await.with_json("good", json!(1)).with_tool("bad", behaviour.clone());
    let (gateway, _grants) = start(&peer.url(), 2).await;
    let token = email_token(CALLER);
    // Once on a new connection to the peer, once on one that has carried a call.
    for (used_before, asked) in [(false, 1), (true, 3)] {
        if used_before {
            assert_eq!(gateway.call("/alpha/good", &token, &json!({})).await.status.as_u16(), 200);
        }
        let answer = gateway.call("/alpha/bad", &token, &json!({"n": 1})).await;
        let told = (answer.status.as_u16(), answer.code());
        assert_eq!((told.0, told.1.as_str()), expected, "{behaviour:?}, used before: {used_before}");
        assert_eq!(peer.requests().len(), asked, "{behaviour:?}, used before: {used_before}: sent again");
    }
    let failed = [("server", "alpha"), ("outcome", "peer_failed")];
    until("the failures counted", || async {
        (gateway.metrics().await.sum("portcullis_requests_total", &failed) == 2.0).then_some(())
    })
    .await;
    assert_eq!(gateway.metrics().await.sum("portcullis_panics_total", &[]), 0.0);
}

#[tokio::test]
async fn a_peer_that_hangs_up_without_an_answer_is_asked_once() {
    check(Behaviour::HangUpAfterBody, (502, "peer_unreachable")).await;
    check(Behaviour::HangUpBeforeBody, (502, "peer_unreachable")).await;
}

#[tokio::test]
async fn a_peer_that_answers_something_else_than_http_is_asked_once() {
    check(Behaviour::AnswerAndClose(b"this is not HTTP at all\r\n\r\n".to_vec()), (502, "peer_bad_answer"))
        .await;
    check(Behaviour::AnswerAndClose(b"\0\xff\xfe\r\n\r\n\r\n".to_vec()), (502, "peer_bad_answer")).await;
    check(Behaviour::AnswerAndClose(b"HTTP/1.1 200 O".to_vec()), (502, "peer_unreachable")).await;
}

#[tokio::test]
async fn a_redirect_is_no_answer_to_a_call() {
    for status in
        ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]
    {
        let redirect =
            format!("HTTP/1.1 {status}\r\nlocation: http://elsewhere.invalid/\r\ncontent-length: 0\r\n\r\n");
        check(Behaviour::Answer(redirect.into_bytes()), (502, "peer_bad_answer")).await;
    }
}

#[tokio::test]
async fn a_silent_peer_is_given_up_after_its_read_timeout() {
    for behaviour in [Behaviour::Stall, Behaviour::StallBeforeBody] {
        let asked = Instant::now();
        check(behaviour, (504, "peer_too_slow")).await;
        assert!(asked.elapsed() >= Duration::from_secs(2), "two calls of a second each");
        assert!(asked.elapsed() < Duration::from_secs(20), "took {:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn a_slow_answer_that_keeps_coming_is_waited_for() {
    let bytes = answer("200 OK", "application/json", &b"[1, 2, 3, 4, 5, 6]"[..]);
    let pause = Duration::from_millis(400);
    let drip = Behaviour::Drip { piece: bytes.len().div_ceil(5), bytes, pause };
    let peer = FakePeer::start().await.with_tool("slow", drip);
    let grants = Grants::of(&["alpha"]).await;
    let setup = grants.setup().server("alpha", &peer.url()).set("upstream.read_timeout_secs", 1);
    // Its head drips as well.
    let gateway = setup.set("upstream.first_byte_timeout_secs", 10).start().await;
    gateway.knows_tools("alpha", 1).await;
    let asked = Instant::now();
    let answer = gateway.call("/alpha/slow", &email_token(CALLER), &json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "[1, 2, 3, 4, 5, 6]"));
    assert!(asked.elapsed() > Duration::from_secs(1), "longer than the read timeout in all");
}

#[tokio::test]
async fn a_peer_that_is_gone_is_a_502() {
    let peer = FakePeer::start().await.with_json("search", json!(1));
    let (gateway, _grants) = start(&peer.url(), 1).await;
    drop(peer);
    let answer = gateway.call("/alpha/search", &email_token(CALLER), &json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "peer_unreachable"));
    assert!(!answer.text().contains("127.0.0.1"), "internals: {}", answer.text());
    let page = gateway.get("/alpha", &email_token(CALLER)).await.json();
    assert_eq!(page["tool_count"], 1, "its tools stay known");
}

#[tokio::test]
async fn the_second_address_is_called_when_the_first_refuses() {
    let nobody = Port::take();
    let peer = FakePeer::start().await.with_json("search", json!(1));
    let grants = Grants::of(&["alpha"]).await;
    let urls: toml::Value = vec![format!("http://{}", nobody.address()), peer.url()].into();
    let keys = toml::Table::from_iter([("url".to_owned(), urls)]);
    let gateway = grants.setup().server_with("alpha", "", keys).start().await;
    gateway.knows_tools("alpha", 1).await;
    for call in 1..=6 {
        let answer = gateway.call("/alpha/search", &email_token(CALLER), &json!({"call": call})).await;
        assert_eq!(answer.status.as_u16(), 200, "call {call}");
    }
    let bodies: Vec<_> = peer.requests().iter().map(|request| request.json()["call"].clone()).collect();
    assert_eq!(bodies, [1, 2, 3, 4, 5, 6], "each call once");
    let tried_again = || gateway.stdout.all().iter().filter(|line| line.contains("\"retries\":1")).count();
    until_so("calls that found the first address dead", || tried_again() >= 1).await;
    assert!(tried_again() <= 2, "it is left alone then");
}

#[tokio::test]
async fn an_answer_about_a_failed_call_says_that_the_connection_closes_and_it_does() {
    let redirect = b"HTTP/1.1 307 x\r\nlocation: /\r\ncontent-length: 0\r\n\r\n".to_vec();
    for (behaviour, status) in [
        (Behaviour::HangUpAfterBody, 502),
        (Behaviour::AnswerAndClose(b"garbage\r\n\r\n".to_vec()), 502),
        (Behaviour::Answer(redirect), 502),
        (Behaviour::Stall, 504),
    ] {
        let peer = FakePeer::start().await.with_tool("bad", behaviour.clone());
        let (gateway, _grants) = start(&peer.url(), 1).await;
        let mut client = RawClient::connect(&gateway.address()).await;
        let answer = client.exchange(post("/alpha/bad", &email_token(CALLER), "{}")).await;
        assert_eq!(
            (answer.status, answer.head.header("connection")),
            (status, Some("close")),
            "{behaviour:?}"
        );
        assert!(client.is_closed_within(Duration::from_secs(5)).await, "{behaviour:?}");
    }
}

#[tokio::test]
async fn half_an_answer_is_a_cut_one_for_the_client_too() {
    let half =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n[1, 2".to_vec();
    let chunks = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n6\r\n[1, 2,\r\n";
    for (tool, bytes) in [("length", half), ("chunks", chunks.to_vec())] {
        let peer = FakePeer::start().await.with_tool(tool, Behaviour::AnswerAndClose(bytes));
        let (gateway, _grants) = start(&peer.url(), 1).await;
        let request = gateway.call_request(&format!("/alpha/{tool}"), &email_token(CALLER), &json!({}));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let body = answer.bytes().await;
        assert!(body.is_err(), "{tool}: half an answer looks whole: {body:?}");
        let named = format!("\"tool\":\"{tool}\"");
        let line = gateway.stdout.find("the record", |line| line.contains(&named)).await;
        assert!(line.contains("\"outcome\":\"peer_failed\""), "{line}");
        assert_eq!(peer.requests().len(), 1);
    }
}

#[tokio::test]
async fn interim_answers_of_a_peer_come_before_the_answer_and_are_not_it() {
    let peer = RawPeer::with_tools(&["search"]).await;
    let (gateway, _grants) = start(&peer.url(), 1).await;
    for interim in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"] {
        let mut client = RawClient::connect(&gateway.address()).await;
        client.send(post("/alpha/search", &email_token(CALLER), "{}")).await;
        let mut call = peer.call().await;
        assert_eq!(call.read_body().await, b"{}");
        call.send(interim).await;
        call.send(answer("200 OK", "application/json", b"[1]")).await;
        let mut got = client.read_answer().await;
        while got.status < 200 {
            got = client.read_answer().await;
        }
        assert_eq!((got.status, got.text().as_str()), (200, "[1]"), "after {interim:?}");
    }
}

#[tokio::test]
async fn a_call_after_one_that_came_bit_by_bit_has_a_connection_of_its_own_and_is_sent_once() {
    let peer = RawPeer::with_tools(&["search"]).await;
    let (gateway, _grants) = start(&peer.url(), 1).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    let lines = ["content-type: application/json", "content-length: 8"];
    client.send(crate::harness::request::head("POST", "/alpha/search", &email_token(CALLER), &lines)).await;
    client.send("{\"a\"").await;
    let mut bit_by_bit = peer.call().await;
    client.send(": 1}").await;
    assert_eq!(bit_by_bit.read_body().await, b"{\"a\": 1}");
    bit_by_bit.send(answer("200 OK", "application/json", b"1")).await;
    assert_eq!(client.read_answer().await.status, 200);
    // Whether something of it was sent is known of connections that are lent alone: that one, open still, is not among them.
    client.send(post("/alpha/search", &email_token(CALLER), "{}")).await;
    let mut whole = peer.call().await;
    assert_eq!(whole.read_body().await, b"{}");
    drop(whole);
    assert_eq!(client.read_answer().await.status, 502);
    assert!(!peer.was_called().await);
    drop(bit_by_bit);
}

#[tokio::test]
async fn an_early_answer_to_half_a_body_reaches_the_client() {
    let peer = RawPeer::with_tools(&["search"]).await;
    let (gateway, _grants) = start(&peer.url(), 1).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    let lines = ["content-length: 1000000"];
    client.send(crate::harness::request::head("POST", "/alpha/search", &email_token(CALLER), &lines)).await;
    client.send("{\"a\": 1,").await;
    let mut call = peer.call().await;
    call.send(answer("413 Content Too Large", "application/json", b"{\"detail\":\"mine\"}")).await;
    let got = client.read_answer().await;
    assert_eq!((got.status, got.text().as_str()), (413, "{\"detail\":\"mine\"}"));
}

#[tokio::test]
async fn a_peer_that_closes_idle_connections_after_five_seconds_never_fails_a_call() {
    let peer = FakePeer::start().await.with_json("search", json!(1)).with_idle_limit(Duration::from_secs(5));
    let (gateway, _grants) = start(&peer.url(), 1).await;
    let token = email_token(CALLER);
    for pause in [0, 4900, 4990, 100] {
        let (since, pause) = (Instant::now(), Duration::from_millis(pause));
        until_so("the time for the next call", || since.elapsed() >= pause).await;
        let answer = gateway.call("/alpha/search", &token, &json!({})).await;
        assert_eq!(answer.status.as_u16(), 200, "after {pause:?}");
    }
    let connections: Vec<_> = peer.requests().iter().map(|request| request.connection).collect();
    assert!(connections[0] != connections[1] && connections[1] != connections[2], "{connections:?}");
    assert_eq!(connections[2], connections[3], "a connection used just now is used again");
}

#[tokio::test]
async fn a_connection_that_the_peer_closed_meanwhile_is_not_used() {
    let peer =
        FakePeer::start().await.with_json("search", json!(1)).with_idle_limit(Duration::from_millis(200));
    let (gateway, _grants) = start(&peer.url(), 1).await;
    for _ in 0..5 {
        let answer = gateway.call("/alpha/search", &email_token(CALLER), &json!({})).await;
        assert_eq!(answer.status.as_u16(), 200);
        until_so("the peer has closed", || peer.connections().1 == 0).await;
    }
    assert_eq!(peer.requests().len(), 5);
}
