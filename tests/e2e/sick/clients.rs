//! Clients that take their time, or leave: their server is well all the same, and everybody else is served.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{call, good, healthy, start, working};
use crate::harness::{
    deadline::{until, within},
    fake_peer::{Behaviour, FakePeer},
    grants::CALLER,
    raw::RawClient,
    raw_peer::RawPeer,
    request::{chunked, head, post},
    tokens::email_token,
    wire::answer,
};

/// Callers who do the same, so many that their server would be shut if it were its fault.
const CALLERS: usize = 5;

#[tokio::test]
async fn a_body_that_stalls_is_its_sender_s_fault_and_never_the_server_s() {
    let peer = working().await;
    let grants = crate::harness::grants::Grants::of(&["alpha"]).await;
    let setup = grants.setup().set("listen.body_timeout_secs", 3);
    let keys = "first_byte_timeout_secs = 0.5\nread_timeout_secs = 0.5";
    let gateway = super::with_peers(setup, "alpha", &[peer.url()], keys).start().await;
    gateway.knows_tools("alpha", 1).await;
    let token = email_token(CALLER);
    let with_length = head("POST", "/alpha/work", &token, &["content-length: 1000"]) + "{\"a\":\"";
    let in_chunks = chunked("/alpha/work", &token) + "6\r\n{\"a\":\"\r\n";
    let mut stalling = Vec::new();
    for number in 0..CALLERS {
        let mut client = RawClient::connect(&gateway.address()).await;
        client.send(if number % 2 == 0 { &with_length } else { &in_chunks }).await;
        stalling.push(client);
    }
    let began = Instant::now();
    for mut client in stalling {
        let refused = client.read_answer().await;
        assert_eq!((refused.status, &refused.json()["code"]), (400, &json!("bad_request")));
    }
    assert!(began.elapsed() > Duration::from_secs(2), "cut after {:?}", began.elapsed());
    assert_eq!(call(&gateway).await.status, 200, "others are served");
    gateway.await_metric("portcullis_limited_total", &[("limit", "slow_sender")], CALLERS).await;
    assert_eq!(gateway.metrics().await.sum("portcullis_peers_shut_total", &[]), 0.0);
}

#[tokio::test]
async fn a_peer_that_hangs_up_on_half_a_request_has_done_nothing_wrong() {
    let peer = RawPeer::with_tools(&["work"]).await;
    let grants = crate::harness::grants::Grants::of(&["alpha"]).await;
    let gateway = grants.setup().server("alpha", &peer.url()).start().await;
    gateway.knows_tools("alpha", 1).await;
    for _ in 0..CALLERS {
        let mut client = RawClient::connect(&gateway.address()).await;
        client.send(head("POST", "/alpha/work", &email_token(CALLER), &["content-length: 1000"])).await;
        client.send("{\"a\":\"").await;
        // As servers do that have waited for the rest of a body long enough.
        drop(peer.call().await);
        assert_eq!(client.read_answer().await.status, 502);
    }
    healthy(&gateway, 1).await;
    assert_eq!(gateway.metrics().await.sum("portcullis_peers_shut_total", &[]), 0.0);
}

#[tokio::test]
async fn the_time_a_reader_takes_is_not_the_server_s() {
    let large = answer("200 OK", "application/json", &vec![b'1'; 6 << 20]);
    let peer = FakePeer::start().await.with_tool("work", Behaviour::Answer(large));
    let (gateway, _grants) = start(&[&peer], "first_byte_timeout_secs = 1\ntotal_timeout_secs = 1.5").await;
    let mut reading = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let mut client = RawClient::connect_with_little_room(&gateway.address()).await;
        client.send(post("/alpha/work", &email_token(CALLER), "{}")).await;
        reading.spawn(async move {
            let began = Instant::now();
            // Slower than the server's time for a whole answer, and then as fast as it comes.
            while began.elapsed() < Duration::from_secs(3) {
                assert!(client.take(16_384).await, "cut after {:?}", began.elapsed());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let mut pieces = 0;
            while pieces < 3 << 10 && client.take(1_024).await {
                pieces += 1;
            }
            pieces
        });
    }
    for pieces in within("readers", reading.join_all()).await {
        assert!(pieces > 1 << 10, "its answer was cut");
    }
    peer.set("/work", good());
    assert_eq!(call(&gateway).await.status, 200);
    assert_eq!(gateway.metrics().await.sum("portcullis_peers_shut_total", &[]), 0.0);
}

#[tokio::test]
async fn a_peer_that_hangs_up_on_a_reader_who_takes_nothing_has_done_nothing_wrong() {
    let peer = RawPeer::with_tools(&["work"]).await;
    let grants = crate::harness::grants::Grants::of(&["alpha"]).await;
    let gateway = grants.setup().server("alpha", &peer.url()).start().await;
    gateway.knows_tools("alpha", 1).await;
    let mut stuck = Vec::new();
    for _ in 0..CALLERS {
        let mut client = RawClient::connect_with_little_room(&gateway.address()).await;
        client.send(post("/alpha/work", &email_token(CALLER), "{}")).await;
        let mut call = peer.call().await;
        call.read_body().await;
        call.send("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 100000000\r\n\r\n").await;
        // Until nothing more is taken.
        stuck.push((client, tokio::spawn(async move { call.send_within(vec![b'x'; 100_000_000], 2).await })));
    }
    for (mut client, call) in stuck {
        call.await.unwrap();
        assert!(client.rest().await < 100_000_000);
    }
    let failed = [("server", "alpha"), ("outcome", "peer_failed")];
    gateway.await_metric("portcullis_requests_total", &failed, CALLERS).await;
    assert_eq!(gateway.metrics().await.sum("portcullis_peers_shut_total", &[]), 0.0);
}

#[tokio::test]
async fn an_answer_that_stops_behind_its_head_is_given_up_like_any_other_that_stops() {
    let peer = RawPeer::with_tools(&["work"]).await;
    let grants = crate::harness::grants::Grants::of(&["alpha"]).await;
    let keys = "first_byte_timeout_secs = 15\nread_timeout_secs = 1";
    let gateway = super::with_peers(grants.setup(), "alpha", &[peer.url()], keys).start().await;
    gateway.knows_tools("alpha", 1).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(post("/alpha/work", &email_token(CALLER), "{}")).await;
    let mut call = peer.call().await;
    call.read_body().await;
    call.send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n").await;
    let began = Instant::now();
    assert_eq!(client.read_head().await.0, 200);
    assert_eq!(client.rest().await, 0);
    assert!(began.elapsed() < Duration::from_secs(8), "given up after {:?}", began.elapsed());
    let failed = [("server", "alpha"), ("outcome", "peer_failed")];
    until("the failure counted", || async {
        (gateway.metrics().await.sum("portcullis_requests_total", &failed) == 1.0).then_some(())
    })
    .await;
}
