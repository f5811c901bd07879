//! How many at once: streams of a caller, connections of an address, running calls of a server.

use std::time::Duration;

use super::*;
use crate::harness::{
    deadline::until_so,
    fake_peer::Behaviour,
    raw::RawClient,
    raw_peer::RawPeer,
    request::{get, head, post},
    wire,
};

async fn client(scene: &Scene) -> RawClient {
    RawClient::connect(&scene.gateway.address()).await
}

#[tokio::test]
async fn a_caller_has_so_many_standing_streams() {
    let scene = Scene::start(|setup| setup.set("limits.streams_per_caller", 2)).await;
    let stand = head("GET", "/mcp", &scene.token, &["accept: text/event-stream"]);
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut client = client(&scene).await;
        client.send(&stand).await;
        assert_eq!(client.read_head().await.0, 200);
        open.push(client);
    }
    let refused = client(&scene).await.exchange(&stand).await;
    assert_eq!((refused.status, refused.head.header("retry-after")), (429, Some("1")));
    assert_eq!(refused.json()["error"]["data"]["code"], "too_many_streams");
    scene.await_limited("streams", 1).await;
    assert_eq!(scene.call("/alpha/search").await.status, 200, "a call is no stream that stands");
    drop(open.pop());
    let again = crate::harness::deadline::until("a stream more", || async {
        let mut client = client(&scene).await;
        client.send(&stand).await;
        (client.read_head().await.0 == 200).then_some(client)
    });
    drop(again.await);
}

#[tokio::test]
async fn calls_that_became_streams_count_and_their_end_makes_room() {
    let scene = Scene::start(|setup| setup.set("limits.streams_per_caller", 2)).await;
    scene.peer.set("/search", Behaviour::Hold);
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut client = client(&scene).await;
        client.send(post("/alpha/search", &scene.token, "{}")).await;
        let held = scene.peer.held().await;
        held.send("data: 1\n\n");
        assert_eq!(client.read_head().await.0, 200);
        open.push((client, held));
    }
    assert_eq!(scene.call("/beta/fetch").await.code(), "too_many_streams");
    let other = email_token("admin@example.com");
    assert_eq!(scene.gateway.call("/beta/fetch", &other, &json!({})).await.status, 200);
    let (client, held) = open.pop().unwrap();
    drop(client);
    held.closed().await;
    scene.gateway.call_until("/beta/fetch", &scene.token, 200).await;
}

#[tokio::test]
async fn calls_that_become_streams_at_the_same_moment_are_no_more_than_may_be() {
    let peer = RawPeer::with_tools(&["search"]).await;
    let grants = Grants::of(&["alpha"]).await;
    let setup = grants.setup().server("alpha", &peer.url()).set("limits.streams_per_caller", 3);
    let gateway = setup.start().await;
    gateway.knows_tools("alpha", 1).await;
    let (mut clients, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let mut client = RawClient::connect(&gateway.address()).await;
        client.send(post("/alpha/search", &email_token(CALLER), "{}")).await;
        clients.push(client);
        calls.push(peer.call().await);
    }
    // None of them was a stream when the last one began.
    for call in &mut calls {
        call.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
    }
    let mut statuses = Vec::new();
    for client in &mut clients {
        let (status, head) = client.read_head().await;
        if status == 429 {
            let body = client.read_body(status, &head).await;
            assert!(String::from_utf8_lossy(&body).contains("too_many_streams"), "{body:?}");
        }
        statuses.push(status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, passing_then_limited(3, 5));
    gateway.await_metric("portcullis_limited_total", &[("limit", "streams")], 5).await;
    gateway.await_metric("portcullis_open_streams", &[], 3).await;
    drop((clients, calls));
    gateway.await_metric("portcullis_open_streams", &[], 0).await;
    // There is room again, and what was refused said nothing of the server.
    let mut again = RawClient::connect(&gateway.address()).await;
    again.send(post("/alpha/search", &email_token(CALLER), "{}")).await;
    let mut call = peer.call().await;
    call.send(wire::answer("200 OK", "application/json", b"1")).await;
    assert_eq!(again.read_answer().await.status, 200);
}

#[tokio::test]
async fn a_server_runs_so_many_calls_at_once_and_another_is_not_held_up() {
    let alpha = toml::Table::from_iter([("running".to_owned(), 2.into())]);
    let scene = Scene::with_servers(|setup| setup.set("limits.calls_per_caller", "3/h"), alpha).await;
    scene.peer.set("/search", Behaviour::Stall);
    let mut running = Vec::new();
    for _ in 0..2 {
        let mut client = client(&scene).await;
        client.send(post("/alpha/search", &scene.token, "{}")).await;
        running.push(client);
    }
    scene.peer.arrived(2).await;
    let refused = scene.call("/alpha/fetch").await;
    assert_eq!(
        (refused.status.as_u16(), refused.code().as_str(), retry_after(&refused)),
        (503, "server_busy", 1)
    );
    assert_eq!(scene.call("/beta/fetch").await.status, 200, "the refusal cost none of three calls");
    running.pop();
    let admin = email_token("admin@example.com");
    scene.gateway.call_until("/alpha/fetch", &admin, 200).await;
    assert!(scene.limited("running").await >= 1.0, "the refusals before were counted");
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_a_balancer_as_many_as_it_likes() {
    let set = |setup: Setup| setup.set("limits.connections_per_address", 100);
    let scene = Scene::start(|setup| set(setup).set("listen.balancers", vec!["127.0.0.9"])).await;
    let address = scene.gateway.address();
    let mut open = Vec::new();
    for own in ["127.0.0.9", "127.0.0.2"] {
        for _ in 0..100 {
            open.push(RawClient::connect_from(own, &address).await);
        }
    }
    let mut one_more = RawClient::connect_from("127.0.0.9", &address).await;
    assert_eq!(one_more.exchange(get("/health", "")).await.status, 200);
    let last = open.last_mut().unwrap();
    assert_eq!(last.exchange(get("/health", "")).await.status, 200);
    let mut refused = RawClient::connect_from("127.0.0.2", &address).await;
    assert!(refused.is_closed_within(Duration::from_secs(20)).await);
    let line = scene.gateway.stderr.find("a word about it", |line| line.contains("connections_per_address"));
    assert!(line.await.contains("127.0.0.2"));
}

#[tokio::test]
async fn an_address_has_so_many_connections() {
    let scene = Scene::start(|setup| setup.set("limits.connections_per_address", 3)).await;
    let address = scene.gateway.address();
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut client = RawClient::connect_from("127.0.0.2", &address).await;
        assert_eq!(client.exchange(get("/health", "")).await.status, 200);
        open.push(client);
    }
    let mut fourth = RawClient::connect_from("127.0.0.2", &address).await;
    assert!(fourth.is_closed_within(Duration::from_secs(20)).await);
    let mut other = RawClient::connect_from("127.0.0.3", &address).await;
    assert_eq!(other.exchange(get("/health", "")).await.status, 200);
    let closed = scene.gateway.metrics().await;
    assert_eq!(closed.sum("portcullis_connections_closed_total", &[("reason", "too_many_of_address")]), 1.0);
    drop(open.pop());
    let mut rooms = 0;
    until_so("room for a connection", || {
        rooms += 1;
        std::net::TcpStream::connect(&address).is_ok() && rooms > 1
    })
    .await;
    crate::harness::deadline::until("a connection that is served", || async {
        let mut client = RawClient::connect_from("127.0.0.2", &address).await;
        if client.try_send(get("/health", "")).await.is_err() {
            return None;
        }
        (!client.is_closed_quietly().await).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_left_its_call_to_go_on_has_no_place_among_its_address_s_connections() {
    let scene = Scene::start(|setup| setup.set("limits.connections_per_address", 1)).await;
    scene.peer.set("/search", Behaviour::Stall);
    let address = scene.gateway.address();
    let mut client = RawClient::connect_from("127.0.0.2", &address).await;
    let call =
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_search","arguments":{}}}"#;
    let lines = ["content-type: application/json", "accept: application/json, text/event-stream"];
    client.send(crate::harness::request::post_with("/mcp", &scene.token, &lines, call)).await;
    scene.peer.arrived(1).await;
    drop(client);
    crate::harness::deadline::until("a place for the next client of the address", || async {
        let mut next = RawClient::connect_from("127.0.0.2", &address).await;
        next.try_send(get("/health", "")).await.ok()?;
        next.take(1).await.then_some(())
    })
    .await;
    // The call goes on.
    scene.gateway.await_metric("portcullis_requests_in_flight", &[], 1).await;
}
