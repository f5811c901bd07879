//! Ending: what runs is finished, what is new is refused, and the process is gone when the last of it is done.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::json;

use crate::harness::{
    deadline::until,
    fake_peer::{Behaviour, FakePeer, Held},
    gateway::{self, Gateway},
    grants::{CALLER, Grants},
    raw::RawClient,
    raw_peer::RawPeer,
    request::{get, head, post},
    tokens::email_token,
    wire::answer,
};

async fn start(url: &str, grace_secs: i64) -> (Gateway, Grants) {
    let grants = Grants::of(&["alpha"]).await;
    let gateway = grants.setup().server("alpha", url).set("shutdown.grace_secs", grace_secs).start().await;
    gateway.knows_tools("alpha", 1).await;
    (gateway, grants)
}

#[tokio::test]
async fn a_running_call_is_finished_and_then_the_process_is_gone() {
    let peer = RawPeer::with_tools(&["slow"]).await;
    let (mut gateway, _grants) = start(&peer.url(), 60).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(post("/alpha/slow", &email_token(CALLER), "{}")).await;
    let mut call = peer.call().await;
    assert_eq!(call.read_body().await, b"{}");

    gateway.signal("TERM");
    gateway.await_port_closed().await;
    gateway.stderr.find("word of the drain", |line| line.contains("draining: 1 requests are running")).await;
    call.send(answer("200 OK", "application/json", b"\"done\"")).await;
    let done = Instant::now();
    let got = client.read_answer().await;
    assert_eq!((got.status, got.text().as_str()), (200, "\"done\""));
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(done.elapsed() < Duration::from_secs(5), "took {:?} of a grace of 60 s", done.elapsed());
    let line = gateway.stdout.find("the record of the call", |line| line.contains("\"tool\":\"slow\"")).await;
    assert!(line.contains("\"outcome\":\"tool_answered\"") && line.contains("\"status\":200"), "{line}");
}

#[tokio::test]
async fn a_draining_gateway_says_that_it_is_not_ready() {
    let peer = RawPeer::with_tools(&["slow"]).await;
    let (mut gateway, _grants) = start(&peer.url(), 60).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(post("/alpha/slow", &email_token(CALLER), "{}")).await;
    let mut call = peer.call().await;
    call.read_body().await;

    gateway.signal("TERM");
    let unready = until("readiness that says no", || async {
        // A connection of its own each time, as load balancers make them.
        let asked = gateway::client().get(gateway.ops_url("/health/ready")).send().await.ok()?;
        (asked.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(asked)
    });
    let said: serde_json::Value = serde_json::from_str(&unready.await.text().await.unwrap()).unwrap();
    assert_eq!(said["detail"], "draining");
    assert_eq!(gateway.metrics().await.sum("portcullis_draining", &[]), 1.0);
    call.send(answer("200 OK", "application/json", b"1")).await;
    assert_eq!(client.read_answer().await.status, 200);
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_stream_past_the_grace_is_cut_and_the_process_ends() {
    let peer = FakePeer::start().await.with_tool("watch", Behaviour::Hold);
    let (mut gateway, _grants) = start(&peer.url(), 2).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(post("/alpha/watch", &email_token(CALLER), "{}")).await;
    let held = peer.held().await;
    held.send("data: 1\n\n");
    assert_eq!(client.read_head().await.0, 200);
    assert_eq!(client.read_chunk().await.unwrap(), b"data: 1\n\n");

    let told = Instant::now();
    gateway.signal("TERM");
    gateway.await_port_closed().await;
    held.send("data: 2\n\n");
    assert_eq!(client.read_chunk().await.unwrap(), b"data: 2\n\n", "the stream goes on during the grace");
    assert!(client.is_closed_within(Duration::from_secs(20)).await);
    let cut = told.elapsed();
    assert!(cut > Duration::from_millis(1800) && cut < Duration::from_secs(4), "cut after {cut:?}");
    held.closed().await;
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(6), "ended after {:?}", told.elapsed());
    gateway.stdout.find("the record of the stream", |line| line.contains("\"tool\":\"watch\"")).await;
}

#[tokio::test]
async fn an_idle_gateway_ends_at_once() {
    let peer = FakePeer::start().await.with_json("search", json!(1));
    let (mut gateway, _grants) = start(&peer.url(), 60).await;
    // A client that keeps its connection does not hold it up.
    let mut idle = RawClient::connect(&gateway.address()).await;
    assert_eq!(idle.exchange(post("/alpha/search", &email_token(CALLER), "{}")).await.status, 200);
    let told = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(1), "took {:?}", told.elapsed());
    assert!(idle.is_closed_within(Duration::from_secs(5)).await);
    gateway.stdout.find("the record of the call", |line| line.contains("\"tool\":\"search\"")).await;
}

#[tokio::test]
async fn an_interrupt_ends_the_process_quickly_whatever_is_running() {
    let peer = FakePeer::start().await.with_tool("watch", Behaviour::Hold);
    let (mut gateway, _grants) = start(&peer.url(), 60).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(post("/alpha/watch", &email_token(CALLER), "{}")).await;
    let held = peer.held().await;
    let told = Instant::now();
    gateway.signal("INT");
    gateway.ended().await;
    assert!(told.elapsed() < Duration::from_secs(3), "took {:?}", told.elapsed());
    held.closed().await;
}

/// A gateway that was told to stop while a stream is open.
async fn draining(grace_secs: i64) -> (Gateway, Grants, FakePeer, RawClient, Held) {
    let peer = FakePeer::start().await.with_tool("watch", Behaviour::Hold);
    let (gateway, grants) = start(&peer.url(), grace_secs).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(post("/alpha/watch", &email_token(CALLER), "{}")).await;
    let held = peer.held().await;
    assert_eq!(client.read_head().await.0, 200);
    gateway.signal("TERM");
    gateway.await_port_closed().await;
    (gateway, grants, peer, client, held)
}

#[tokio::test]
async fn an_interrupt_while_draining_cuts_the_rest_and_ends_at_once() {
    let (mut gateway, _grants, _peer, mut client, held) = draining(3600).await;
    let told = Instant::now();
    gateway.signal("INT");
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(3), "took {:?}", told.elapsed());
    assert!(client.is_closed_within(Duration::from_secs(5)).await);
    held.closed().await;
    let cut = |line: &str| line.contains("SIGINT: 1 requests are running, 1 of them streams, and cut now");
    gateway.stderr.find("word of what is cut", cut).await;
    let line =
        gateway.stdout.find("the record of the stream", |line| line.contains("\"tool\":\"watch\"")).await;
    assert!(line.contains("\"outcome\":\"lost\""), "{line}");
}

#[tokio::test]
async fn what_is_left_is_told_while_it_lasts_and_when_it_is_cut() {
    let (mut gateway, _grants, _peer, _client, _held) = draining(3).await;
    let pid = format!("\"pid\":{}", gateway.id());
    for words in [
        "SIGTERM: not ready from now on, and the listener closes in 0 s",
        "draining: 1 requests are running, 1 of them streams; what still runs in 3 s is cut",
        "still draining: 1 requests are running, 1 of them streams; ",
        "(3 s) are over: 1 requests are running, 1 of them streams, and cut now",
    ] {
        let line = gateway.stderr.find(words, |line| line.contains(words)).await;
        assert!(line.contains(&pid), "{line}");
    }
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_signal_that_comes_too_late_is_told_and_changes_nothing() {
    let (mut gateway, _grants, _peer, mut client, held) = draining(60).await;
    for name in ["TERM", "QUIT", "HUP", "USR1", "USR2"] {
        gateway.signal(name);
        let words = format!("SIG{name}: nothing is done, because this process is ending already");
        gateway.stderr.find("word of it", |line| line.contains(&words)).await;
    }
    held.send("data: 1\n\n");
    assert_eq!(client.read_chunk().await.unwrap(), b"data: 1\n\n");
    held.end();
    assert_eq!(client.read_chunk().await, None);
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_last_answer_before_the_end_says_that_the_connection_closes() {
    let peer = RawPeer::with_tools(&["slow"]).await;
    let (mut gateway, _grants) = start(&peer.url(), 60).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(post("/alpha/slow", &email_token(CALLER), "{}")).await;
    let mut call = peer.call().await;
    call.read_body().await;
    let mut idle = RawClient::connect(&gateway.address()).await;
    assert_eq!(idle.exchange(get("/health", "")).await.status, 200);
    gateway.signal("TERM");
    assert!(idle.is_closed_within(Duration::from_secs(10)).await, "idle connections are closed first");
    call.send(answer("200 OK", "application/json", b"1")).await;
    let got = client.read_answer().await;
    assert_eq!((got.status, got.head.header("connection")), (200, Some("close")));
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn clients_that_keep_connections_leave_during_the_delay_without_losing_a_call() {
    let peer = FakePeer::start().await.with_json("search", json!(1));
    let grants = Grants::of(&["alpha"]).await;
    let setup = grants.setup().server("alpha", &peer.url()).set("shutdown.delay_secs", 2);
    let mut gateway = setup.start().await;
    gateway.knows_tools("alpha", 1).await;
    let call = post("/alpha/search", &email_token(CALLER), "{}");
    let mut kept = RawClient::connect(&gateway.address()).await;
    assert_eq!(kept.exchange(&call).await.status, 200);
    let told = Instant::now();
    gateway.signal("TERM");
    until("readiness that says no", || async {
        let asked = gateway::client().get(gateway.ops_url("/health/ready")).send().await.ok()?;
        (asked.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    })
    .await;
    for client in [&mut kept, &mut RawClient::connect(&gateway.address()).await] {
        let got = client.exchange(&call).await;
        assert_eq!((got.status, got.head.header("connection")), (200, Some("close")));
        assert!(client.is_closed_within(Duration::from_secs(5)).await);
    }
    assert!(told.elapsed() < Duration::from_secs(2), "too slow to say anything: {:?}", told.elapsed());
    gateway.await_port_closed().await;
    assert!(told.elapsed() > Duration::from_millis(1900), "closed after {:?}", told.elapsed());
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_standing_stream_ends_whole_before_the_grace_is_over() {
    let peer = FakePeer::start().await.with_json("search", json!(1));
    let (mut gateway, _grants) = start(&peer.url(), 5).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(head("GET", "/mcp", &email_token(CALLER), &["accept: text/event-stream"])).await;
    assert_eq!(client.read_head().await.0, 200);
    let told = Instant::now();
    gateway.signal("TERM");
    assert_eq!(client.read_chunk().await, None, "the last chunk");
    let ended = told.elapsed();
    assert!(ended > Duration::from_secs(3) && ended < Duration::from_secs(5), "ended after {ended:?}");
    assert_eq!(gateway.ended().await.code(), Some(0));
}
