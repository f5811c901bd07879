//! The same clocks over HTTP/2 as over HTTP/1.1: a slow client and a slow server are told apart on a stream as well.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use http::Request;
use serde_json::json;

use super::with_peers;
use crate::harness::{
    certificates::Authority,
    deadline::until_so,
    fake_peer::{Behaviour, FakePeer},
    gateway::{Gateway, Setup},
    grants::{CALLER, Grants},
    h2::H2Client,
    raw_peer::RawPeer,
    tokens::email_token,
    wire::answer,
};

struct Scene {
    gateway: Gateway,
    authority: Authority,
    token: String,
    _grants: Grants,
}

impl Scene {
    async fn start(url: String, keys: &str, set: impl FnOnce(Setup) -> Setup) -> Self {
        let (grants, authority) = (Grants::of(&["alpha"]).await, Authority::new());
        let setup = set(grants.setup().tls(&authority));
        let gateway = with_peers(setup, "alpha", &[url], keys).start().await;
        gateway.knows_tools("alpha", 1).await;
        Self { gateway, authority, token: email_token(CALLER), _grants: grants }
    }

    async fn client(&self) -> H2Client {
        H2Client::connect(&self.authority, &self.gateway.address()).await
    }

    fn request(&self, length: &str) -> Request<()> {
        Request::post("https://gateway/alpha/work")
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .header("content-length", length)
            .body(())
            .unwrap()
    }

    async fn nothing_was_shut(&self) {
        assert_eq!(self.gateway.metrics().await.sum("portcullis_peers_shut_total", &[]), 0.0);
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_told_of_and_one_that_stops_ends_the_stream_in_time() {
    let peer = RawPeer::with_tools(&["work"]).await;
    let keys = "first_byte_timeout_secs = 4\nread_timeout_secs = 1";
    let scene = Scene::start(peer.url(), keys, |setup| setup).await;
    let client = scene.client().await;
    let pending = client.begin("POST", "/alpha/work", &scene.token, Some("{}")).await;
    let mut call = peer.call().await;
    let began = Instant::now();
    assert_eq!(pending.answer().await.unwrap().status, 504);
    assert!(began.elapsed() > Duration::from_secs(3), "{:?}", began.elapsed());
    drop(call.rest_within(Duration::from_secs(1)).await);

    let pending = client.begin("POST", "/alpha/work", &scene.token, Some("{}")).await;
    let mut call = peer.call().await;
    call.read_body().await;
    // A while later, so that whoever set his clock for the head would look too late.
    let began = Instant::now();
    until_so("a late head", || began.elapsed() > Duration::from_secs(1)).await;
    call.send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n[").await;
    let began = Instant::now();
    let mut stopped = pending.answer().await.unwrap();
    assert_eq!(stopped.status, 200);
    assert!(stopped.text().await.is_err(), "half an answer must not look whole");
    assert!(began.elapsed() < Duration::from_millis(2_500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_slow_reader_gets_all_of_its_answer_and_one_that_takes_nothing_is_let_go_and_counted() {
    let large = answer("200 OK", "application/json", &vec![b'1'; 1 << 20]);
    let peer = FakePeer::start().await.with_tool("work", Behaviour::Answer(large));
    let keys = "first_byte_timeout_secs = 10\nread_timeout_secs = 1\ntotal_timeout_secs = 10";
    let scene = Scene::start(peer.url(), keys, |setup| setup.set("listen.write_timeout_secs", 2)).await;
    let client = scene.client().await;
    let mut slow =
        client.begin("POST", "/alpha/work", &scene.token, Some("{}")).await.answer().await.unwrap();
    // Some 8 kB a second: a piece of the server's takes longer than any of the times.
    let (began, mut taken) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(12) {
        let piece = slow.piece().await.unwrap_or_else(|error| panic!("{error} after {:?}", began.elapsed()));
        taken += piece.expect("more of it").len();
        let due = Duration::from_secs_f64(taken as f64 / 8_192.0);
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
    }
    while let Some(piece) = slow.piece().await.unwrap().filter(|piece| !piece.is_empty()) {
        taken += piece.len();
    }
    assert_eq!(taken, 1 << 20);

    let other = scene.client().await;
    let stuck = other.begin("POST", "/alpha/work", &scene.token, Some("{}")).await.answer().await.unwrap();
    scene.gateway.await_metric("portcullis_limited_total", &[("limit", "slow_reader")], 1).await;
    drop(stuck);
    scene.nothing_was_shut().await;
}

#[tokio::test]
async fn a_body_that_stalls_on_a_stream_is_its_sender_s_fault() {
    let peer = FakePeer::start().await.with_json("work", json!(1));
    let keys = "first_byte_timeout_secs = 0.5\nread_timeout_secs = 0.5";
    let scene = Scene::start(peer.url(), keys, |setup| setup.set("listen.body_timeout_secs", 2)).await;
    let client = scene.client().await;
    let mut stalling = Vec::new();
    for _ in 0..5 {
        let mut pending = client.begin_open(scene.request("1000")).await;
        pending.stream.send_data("{\"a\":\"".into(), false).unwrap();
        stalling.push(pending);
    }
    let began = Instant::now();
    for pending in stalling {
        let (answer, _stream) = pending.answer_and_stream().await;
        assert_eq!(answer.unwrap().status, 400);
    }
    assert!(began.elapsed() > Duration::from_millis(1_500), "{:?}", began.elapsed());
    scene.gateway.await_metric("portcullis_limited_total", &[("limit", "slow_sender")], 5).await;
    assert_eq!(client.exchange("POST", "/alpha/work", &scene.token, Some("{}")).await.0, 200);
    scene.nothing_was_shut().await;
}

#[tokio::test]
async fn a_refused_request_s_small_body_is_read_away_before_its_stream_ends() {
    let peer = FakePeer::start().await.with_json("work", json!(1));
    let scene = Scene::start(peer.url(), "", |setup| setup).await;
    let client = scene.client().await;
    let mut request = scene.request("2");
    request.headers_mut().remove("authorization");
    let (answer, mut stream) = client.begin_open(request).await.answer_and_stream().await;
    let mut answer = answer.unwrap();
    assert_eq!(answer.status, 401);
    answer.text().await.unwrap();
    let is_reset = |stream: &mut h2::SendStream<bytes::Bytes>| {
        std::future::poll_fn(|cx| stream.poll_reset(cx)).now_or_never()
    };
    let began = Instant::now();
    until_so("time in which it would be reset", || began.elapsed() > Duration::from_millis(300)).await;
    assert!(is_reset(&mut stream).is_none(), "some clients take that for the end of the answer");
    stream.send_data("{}".into(), true).unwrap();
    assert_eq!(client.exchange("GET", "/health", "", None).await.0, 200);
}
