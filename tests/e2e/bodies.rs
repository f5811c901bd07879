//! The one body the gateway opens: `{"arguments": {…}}`, and what it refuses to send on.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    fake_peer::FakePeer,
    gateway::Gateway,
    grants::{CALLER, Grants},
    raw::{RawAnswer, RawClient},
    raw_peer::RawPeer,
    request::{chunked, head, post, post_with},
    tokens::email_token,
    wire::{answer, chunk},
};

/// `listen.max_wrapped_body_bytes` of these tests.
const BOUND: usize = 300_000;

async fn start(url: &str, tools: usize) -> (Gateway, Grants) {
    let grants = Grants::of(&["alpha"]).await;
    let setup = grants.setup().server("alpha", url);
    let gateway = setup.set("listen.max_wrapped_body_bytes", i64::try_from(BOUND).unwrap()).start().await;
    gateway.knows_tools("alpha", tools).await;
    (gateway, grants)
}

/// A gateway in front of `echo`, and of `own`, which has an argument called `arguments`.
struct Scene {
    gateway: Gateway,
    peer: FakePeer,
    token: String,
    _grants: Grants,
}

impl Scene {
    async fn start() -> Self {
        let own = json!({"type": "object", "properties": {"arguments": {"type": "object"}}});
        let ok = crate::harness::fake_peer::Behaviour::Answer(answer("200 OK", "application/json", b"1"));
        let peer = FakePeer::start().await.with_json("echo", json!(1)).with_tool_schema("own", own, ok);
        let (gateway, grants) = start(&peer.url(), 2).await;
        Self { gateway, peer, token: email_token(CALLER), _grants: grants }
    }

    async fn client(&self) -> RawClient {
        RawClient::connect(&self.gateway.address()).await
    }

    /// Sends the bytes piece by piece, each in a packet of its own as far as this side can tell.
    async fn send_in_pieces(&self, request: &[u8], piece: usize) -> RawAnswer {
        let mut client = self.client().await;
        for piece in request.chunks(piece) {
            client.send(piece).await;
            tokio::task::yield_now().await;
        }
        client.read_answer().await
    }

    /// The body the peer got last, and how many it has got.
    fn last(&self) -> (usize, Vec<u8>) {
        let requests = self.peer.requests();
        (requests.len(), requests.last().map(|request| request.body.clone()).unwrap_or_default())
    }
}

/// `body` in chunks of `size`, with the head of a call of `/alpha/echo`.
fn in_chunks(token: &str, body: &[u8], size: usize) -> Vec<u8> {
    let mut request = chunked("/alpha/echo", token).into_bytes();
    request.extend(body.chunks(size).flat_map(chunk));
    request.extend(b"0\r\n\r\n");
    request
}

/// `{"arguments": …}` of exactly `length` bytes, and what stands in it.
fn wrapped(length: usize) -> (String, String) {
    let frame = r#"{"arguments":{"text":""}}"#.len();
    let inner = format!(r#"{{"text":"{}"}}"#, "x".repeat(length - frame));
    (format!(r#"{{"arguments":{inner}}}"#), inner)
}

#[tokio::test]
async fn wrapped_arguments_arrive_unwrapped_however_they_are_sent() {
    let scene = Scene::start().await;
    let odd = "{ \"a\" : 1.0e2, \"a\":\"\\u00e9 \u{e9}\" }";
    let small = format!(" {{ \"arguments\" : {odd} }} ");
    let (large, large_inner) = wrapped(200_000);
    let (at_bound, at_bound_inner) = wrapped(BOUND);
    for (body, inner) in [(&small, odd), (&large, &large_inner), (&at_bound, &at_bound_inner)] {
        let body = body.as_bytes();
        let request = post("/alpha/echo", &scene.token, body);
        let piece = (body.len() / 7).max(1);
        for (how, answer) in [
            ("at once", scene.client().await.exchange(&request).await),
            ("in pieces", scene.send_in_pieces(&request, piece).await),
            ("in chunks", scene.client().await.exchange(in_chunks(&scene.token, body, piece)).await),
            ("in chunks in pieces", scene.send_in_pieces(&in_chunks(&scene.token, body, piece), piece).await),
        ] {
            assert_eq!(answer.status, 200, "{} bytes {how}: {}", body.len(), answer.text());
            assert!(scene.last().1 == inner.as_bytes(), "{} bytes {how} arrived otherwise", body.len());
        }
    }
    assert_eq!(scene.last().0, 12);
    let request = post("/alpha/echo", &scene.token, &small);
    assert_eq!(scene.send_in_pieces(&request, 1).await.status, 200);
    assert_eq!(scene.last(), (13, odd.as_bytes().to_vec()));
}

#[tokio::test]
async fn what_only_looks_wrapped_arrives_as_it_is() {
    let scene = Scene::start().await;
    for body in [
        r#"{"arguments":{"a":1},"more":2}"#,
        r#"{"more":2,"arguments":{"a":1}}"#,
        r#"{"arguments":[1]}"#,
        r#"{"arguments":"text"}"#,
        r#"{"arguments":null}"#,
        r#"{"Arguments":{"a":1}}"#,
        r#"{"argument":{"a":1}}"#,
        r#"[{"arguments":{"a":1}}]"#,
        r#"{"nested":{"arguments":{"a":1}}}"#,
        r#"{"arguments":{"a":1},"arguments":{"b":2}}"#,
    ] {
        assert_eq!(
            scene.client().await.exchange(post("/alpha/echo", &scene.token, body)).await.status,
            200,
            "{body}"
        );
        assert_eq!(String::from_utf8_lossy(&scene.last().1), body);
        let pieces = scene.send_in_pieces(&in_chunks(&scene.token, body.as_bytes(), 3), 5).await;
        assert_eq!(pieces.status, 200, "{body}");
        assert_eq!(String::from_utf8_lossy(&scene.last().1), body);
    }
    let own = r#"{"arguments":{"a":1}}"#;
    assert_eq!(scene.client().await.exchange(post("/alpha/own", &scene.token, own)).await.status, 200);
    assert_eq!(String::from_utf8_lossy(&scene.last().1), own, "`arguments` is this tool's own");
}

#[tokio::test]
async fn a_wrapped_body_past_the_bound_is_refused_and_a_plain_one_is_not() {
    let scene = Scene::start().await;
    let (body, _) = wrapped(BOUND + 1);
    let announced = scene.client().await.exchange(post("/alpha/echo", &scene.token, &body)).await;
    let request = in_chunks(&scene.token, body.as_bytes(), 10_000);
    let chunked = scene.client().await.exchange(&request).await;
    for (how, answer) in [("with its length", announced), ("in chunks", chunked)] {
        assert_eq!((answer.status, &answer.json()["code"]), (413, &json!("body_too_large")), "{how}");
    }
    assert_eq!(scene.last().0, 0, "a refused body was a call");

    let plain = json!({"text": "x".repeat(BOUND)}).to_string();
    assert_eq!(scene.client().await.exchange(post("/alpha/echo", &scene.token, &plain)).await.status, 200);
    assert!(scene.last().1 == plain.as_bytes());
}

#[tokio::test]
async fn the_bound_counts_for_a_wrapped_body_that_arrives_at_once_too() {
    let grants = Grants::of(&["alpha"]).await;
    let peer = FakePeer::start().await.with_json("echo", json!(1));
    let setup = grants.setup().server("alpha", &peer.url()).set("listen.max_wrapped_body_bytes", 2000);
    let gateway = setup.start().await;
    gateway.knows_tools("alpha", 1).await;
    let token = email_token(CALLER);
    for (length, status) in [(2000, 200), (2001, 413)] {
        let mut client = RawClient::connect(&gateway.address()).await;
        let answer = client.exchange(post("/alpha/echo", &token, wrapped(length).0)).await;
        assert_eq!(answer.status, status, "{length} bytes: {}", answer.text());
    }
    assert_eq!(peer.requests().len(), 1);
}

#[tokio::test]
async fn an_empty_body_is_a_call_without_arguments() {
    let scene = Scene::start().await;
    let requests: [Vec<u8>; 5] = [
        head("POST", "/alpha/echo", &scene.token, &[]).into(),
        post("/alpha/echo", &scene.token, ""),
        post("/alpha/echo", &scene.token, " \r\n\t"),
        in_chunks(&scene.token, b"", 1),
        in_chunks(&scene.token, b"  \n", 1),
    ];
    let mut client = scene.client().await;
    for (number, request) in requests.into_iter().enumerate() {
        let answer = client.exchange(&request).await;
        assert_eq!(answer.status, 200, "{number}: {}", answer.text());
        assert_eq!(scene.last(), (number + 1, b"{}".to_vec()));
    }
    assert_eq!(scene.peer.requests()[0].json(), Value::Object(Default::default()));
}

#[tokio::test]
async fn a_body_that_is_not_json_or_not_plain_utf8_never_is_a_call() {
    let scene = Scene::start().await;
    let not_json = [
        "nonsense",
        "{",
        "{\"a\":}",
        "{\"a\":1,}",
        "[1,2",
        "{}{}",
        "{'a':1}",
        "01",
        "\"\n\"",
        "NaN",
        "{\"a\":\"\\x\"}",
    ];
    for body in not_json {
        let sent = [post("/alpha/echo", &scene.token, body), in_chunks(&scene.token, body.as_bytes(), 2)];
        for request in sent {
            let answer = scene.client().await.exchange(request).await;
            assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("body_not_json")), "{body:?}");
        }
    }
    let encoded = ["gzip", "br", "deflate", "identity, gzip", "aes128gcm"];
    for coding in encoded {
        let line = format!("content-encoding: {coding}");
        let answer =
            scene.client().await.exchange(post_with("/alpha/echo", &scene.token, &[&line], "{}")).await;
        assert_eq!((answer.status, &answer.json()["code"]), (415, &json!("body_encoded")), "{coding}");
    }
    let not_utf8: [&[u8]; 3] = [b"{\"a\":\"\xff\"}", b"\xff\xfe{\x00}\x00", b"{\"a\":\"\xed\xa0\x80\"}"];
    for body in not_utf8 {
        for request in [post("/alpha/echo", &scene.token, body), in_chunks(&scene.token, body, 3)] {
            let answer = scene.client().await.exchange(request).await;
            assert_eq!((answer.status, &answer.json()["code"]), (415, &json!("body_encoded")), "{body:?}");
        }
    }
    assert_eq!(scene.last().0, 0);
    let plain = post_with("/alpha/echo", &scene.token, &["content-encoding: identity"], "{}");
    assert_eq!(scene.client().await.exchange(plain).await.status, 200);
}

#[tokio::test]
async fn a_body_that_turns_out_bad_on_its_way_never_is_a_whole_request_at_the_peer() {
    let peer = RawPeer::with_tools(&["echo"]).await;
    let (gateway, _grants) = start(&peer.url(), 1).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(chunked("/alpha/echo", &email_token(CALLER))).await;
    client.send(chunk(br#"{"good": 1, "#)).await;
    let mut call = peer.call().await;
    assert_eq!(call.read_chunk().await.unwrap(), br#"{"good": 1, "#);
    client.send([chunk(b"bad}"), b"0\r\n\r\n".to_vec()].concat()).await;
    let answer = client.read_answer().await;
    assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("body_not_json")));
    let rest = call.rest_within(Duration::from_secs(5)).await.expect("the peer is kept waiting");
    assert!(
        !String::from_utf8_lossy(&rest).contains("0\r\n\r\n"),
        "the peer was told that the body is whole"
    );
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_to_send_is_told_at_once() {
    let scene = Scene::start().await;
    for body in [r#"{"a":1}"#, r#"{"arguments":{"a":1}}"#] {
        let mut client = scene.client().await;
        let length = format!("content-length: {}", body.len());
        let asked = Instant::now();
        client.send(head("POST", "/alpha/echo", &scene.token, &[&length, "expect: 100-continue"])).await;
        assert_eq!(client.read_head().await.0, 100);
        assert!(asked.elapsed() < Duration::from_millis(500), "took {:?}", asked.elapsed());
        assert_eq!(client.exchange(body).await.status, 200);
        assert_eq!(scene.last().1, br#"{"a":1}"#);
        assert_eq!(scene.peer.requests().last().unwrap().head.header("expect"), None);
    }
    // Refused by its head alone: the body is never asked for.
    for (status, token, path) in
        [(401, "", "/alpha/echo"), (403, &*email_token("x@example.com"), "/alpha/echo")]
    {
        let mut client = scene.client().await;
        client.send(head("POST", path, token, &["content-length: 7", "expect: 100-continue"])).await;
        assert_eq!(client.read_answer().await.status, status);
    }
    assert_eq!(scene.last().0, 2);
}
