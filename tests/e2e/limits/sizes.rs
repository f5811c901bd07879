//! How large a body may be, and how slow: what is sent, and what is taken.

use std::time::{Duration, Instant};

use super::*;
use crate::harness::{
    fake_peer::Behaviour,
    raw::RawClient,
    raw_peer::RawPeer,
    request::{chunked, get, head, post},
    wire,
};

/// A scene with a raw peer as `alpha`, to see what of a body goes on.
async fn raw(set: impl FnOnce(Setup) -> Setup) -> (Gateway, RawPeer, Grants) {
    let peer = RawPeer::with_tools(&["search"]).await;
    let grants = Grants::of(&["alpha"]).await;
    let gateway = set(grants.setup().server("alpha", &peer.url())).start().await;
    gateway.knows_tools("alpha", 1).await;
    (gateway, peer, grants)
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_reaches_nobody_and_the_connection_stays() {
    let scene = Scene::start(|setup| setup.set("listen.max_body_bytes", 100_000)).await;
    let mut client = RawClient::connect(&scene.gateway.address()).await;
    let fits = format!("{{\"a\":\"{}\"}}", "x".repeat(90_000));
    assert_eq!(client.exchange(post("/alpha/search", &scene.token, &fits)).await.status, 200);
    let body = format!("{{\"a\":\"{}\"}}", "x".repeat(100_000));
    let answer = client.exchange(post("/alpha/search", &scene.token, &body)).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (413, Some("body_too_large")));
    assert_eq!(client.exchange(get("/health", "")).await.status, 200);
    assert_eq!(scene.peer.requests().len(), 1);
    // A gigabyte is refused before a byte of it is sent.
    let lines = ["content-type: application/json", "content-length: 1073741824", "expect: 100-continue"];
    let mut client = RawClient::connect(&scene.gateway.address()).await;
    assert_eq!(client.exchange(head("POST", "/alpha/search", &scene.token, &lines)).await.status, 413);
}

#[tokio::test]
async fn a_body_that_grows_too_large_on_its_way_is_cut() {
    let (gateway, peer, _grants) = raw(|setup| setup.set("listen.max_body_bytes", 200_000)).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(chunked("/alpha/search", &email_token(CALLER))).await;
    client.send(wire::chunk(b"{\"a\":\"")).await;
    let mut call = peer.call().await;
    let piece = vec![b'x'; 50_000];
    for _ in 0..5 {
        // It may be refused while we still send.
        if client.try_send(wire::chunk(&piece)).await.is_err() {
            break;
        }
    }
    let answer = client.read_answer().await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (413, Some("body_too_large")));
    let rest = call.rest_within(Duration::from_secs(20)).await.expect("the peer's connection ends");
    assert!(rest.len() < 260_000 && !rest.ends_with(b"0\r\n\r\n"), "the peer must not take it for whole");
}

#[tokio::test]
async fn a_body_that_drips_is_ended_however_often_a_byte_comes() {
    let (gateway, peer, _grants) =
        raw(|setup| setup.set("listen.body_timeout_secs", 1).set("listen.min_body_bytes_per_sec", 1_000))
            .await;
    let mut client = RawClient::connect(&gateway.address()).await;
    let lines = ["content-type: application/json", "content-length: 1000000"];
    client.send(head("POST", "/alpha/search", &email_token(CALLER), &lines)).await;
    client.send("{\"a\":\"").await;
    let _call = peer.call().await;
    let began = Instant::now();
    // Ten bytes a second, each well within `body_timeout_secs`.
    while client.try_send("x").await.is_ok() {
        assert!(began.elapsed() < Duration::from_secs(20), "it drips for ever");
        if !client.is_open_and_silent(Duration::from_millis(100)).await {
            break;
        }
    }
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    let answer = client.read_answer().await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (400, Some("bad_request")));
    gateway.await_metric("portcullis_limited_total", &[("limit", "slow_sender")], 1).await;
}

#[tokio::test]
async fn a_sender_above_the_rate_takes_as_long_as_it_needs() {
    let (gateway, peer, _grants) =
        raw(|setup| setup.set("listen.body_timeout_secs", 1).set("listen.min_body_bytes_per_sec", 1_000))
            .await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(chunked("/alpha/search", &email_token(CALLER))).await;
    client.send(wire::chunk(b"{\"a\":\"")).await;
    let mut call = peer.call().await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        client.send(wire::chunk(&[b'x'; 500])).await;
        assert!(
            client.is_open_and_silent(Duration::from_millis(100)).await,
            "cut after {:?}",
            began.elapsed()
        );
    }
    client.send(wire::chunk(b"\"}")).await;
    client.send("0\r\n\r\n").await;
    call.read_body().await;
    call.send(wire::answer("200 OK", "application/json", b"1")).await;
    assert_eq!(client.read_answer().await.status, 200);
}

#[tokio::test]
async fn a_reader_that_takes_too_little_is_ended_and_counted() {
    let scene = Scene::start(|setup| {
        setup.set("listen.write_timeout_secs", 3).set("listen.min_answer_bytes_per_sec", 1_000_000)
    })
    .await;
    let large = wire::answer("200 OK", "application/json", &vec![b'1'; 32 * 1024 * 1024]);
    scene.peer.set("/search", Behaviour::Answer(large));
    let mut client = RawClient::connect_with_little_room(&scene.gateway.address()).await;
    client.send(post("/alpha/search", &scene.token, "{}")).await;
    let began = Instant::now();
    // Some 160 kB a second: no single write takes as long as `write_timeout_secs`.
    while client.take(8_192).await {
        assert!(began.elapsed() < Duration::from_secs(25), "it is read for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
        if scene.limited("slow_reader").await > 0.0 {
            break;
        }
    }
    scene.await_limited("slow_reader", 1).await;
    // One that takes what there is gets all of it, however large.
    let answer = scene.call("/alpha/search").await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 32 * 1024 * 1024));
}
