//! HTTP/2 on the listener: many requests on one connection, each with its own end.

use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::harness::{
    certificates::Authority,
    deadline::{until, until_so, within},
    fake_peer::{Behaviour, FakePeer},
    gateway::{Gateway, Setup},
    grants::{ADMIN, CALLER, Grants, STRANGER},
    h2::H2Client,
    tokens::email_token,
};

struct Scene {
    gateway: Gateway,
    authority: Authority,
    peer: FakePeer,
    grants: Grants,
}

async fn start(set: impl FnOnce(Setup) -> Setup) -> Scene {
    let peer = FakePeer::start().await.with_json("search", json!(1)).with_tool("watch", Behaviour::Hold);
    let (grants, authority) = (Grants::of(&["alpha"]).await, Authority::new());
    let setup = grants.setup().server("alpha", &peer.url()).tls(&authority);
    let gateway = set(setup).start().await;
    gateway.knows_tools("alpha", 2).await;
    Scene { gateway, authority, peer, grants }
}

impl Scene {
    async fn client(&self) -> H2Client {
        H2Client::connect(&self.authority, &self.gateway.address()).await
    }

    async fn reset(&self, reason: &str) -> f64 {
        self.gateway.metrics().await.sum("portcullis_h2_streams_reset_total", &[("reason", reason)])
    }
}

#[tokio::test]
async fn every_face_answers_over_http_2_and_a_refusal_ends_nothing_else() {
    let scene = start(|setup| setup.set("listen.max_wrapped_body_bytes", 2048)).await;
    let client = scene.client().await;
    let caller = email_token(CALLER);
    let (status, body) = client.exchange("POST", "/alpha/search", &caller, Some(r#"{"q":1}"#)).await;
    assert_eq!((status, body.as_str()), (200, "1"));
    assert_eq!(scene.peer.requests().last().unwrap().text().matches(r#"{"q":1}"#).count(), 1);
    assert_eq!(client.exchange("GET", "/health", "", None).await.0, 200);
    assert_eq!(client.exchange("GET", "/servers", &caller, None).await.0, 200);
    assert_eq!(client.exchange("GET", "/openapi.json", &caller, None).await.0, 200);
    assert_eq!(client.exchange("POST", "/alpha/search", "", Some("{}")).await.0, 401);
    assert_eq!(client.exchange("POST", "/alpha/search", &email_token(STRANGER), Some("{}")).await.0, 403);
    assert_eq!(client.exchange("POST", "/alpha/none", &caller, Some("{}")).await.0, 404);
    assert_eq!(client.exchange("GET", "/a/../b", &caller, None).await.0, 400);
    assert_eq!(client.exchange("POST", "/alpha/search", &caller, Some("not json")).await.0, 400);
    let wrapped = format!(r#"{{"arguments":{{"text":"{}"}}}}"#, "x".repeat(4096));
    assert_eq!(client.exchange("POST", "/alpha/search", &caller, Some(&wrapped)).await.0, 413);
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let request = http::Request::post("https://gateway/mcp")
        .header("authorization", format!("Bearer {caller}"))
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(())
        .unwrap();
    let mut answer = client.begin_as(request, Some(list)).await.answer().await.unwrap();
    let text = answer.text().await.unwrap();
    assert!(answer.status == 200 && text.contains("alpha_search"), "{} {text}", answer.status);
    assert!(client.is_open());
}

#[tokio::test]
async fn headers_over_the_bound_are_refused() {
    let scene = start(|setup| setup.set("listen.max_header_bytes", 2048)).await;
    let client = scene.client().await;
    let request =
        http::Request::get("https://gateway/health").header("x-long", "x".repeat(4000)).body(()).unwrap();
    assert_eq!(client.begin_as(request, None).await.answer().await.unwrap().status, 431);
    assert_eq!(client.exchange("GET", "/health", "", None).await.0, 200, "the connection goes on");
}

#[tokio::test]
async fn what_only_http_2_can_say_is_refused() {
    let scene = start(|setup| setup).await;
    let client = scene.client().await;
    let odd = http::Request::get("gopher://gateway/health").body(()).unwrap();
    assert_eq!(client.begin_as(odd, None).await.answer().await.unwrap().status, 400);
    let mut many = http::Request::get("https://gateway/health");
    for number in 0..300 {
        many = many.header(format!("x{number}"), "y");
    }
    let many = many.body(()).unwrap();
    assert_eq!(client.begin_as(many, None).await.answer().await.unwrap().status, 400);
    assert_eq!(client.exchange("GET", "/health", "", None).await.0, 200, "the connection goes on");
}

#[tokio::test]
async fn streams_of_one_connection_do_not_wait_for_each_other() {
    let scene = start(|setup| setup).await;
    let client = scene.client().await;
    let token = email_token(CALLER);
    let mut open = Vec::new();
    for _ in 0..20 {
        let pending = client.begin("POST", "/alpha/watch", &token, Some("{}")).await;
        let held = scene.peer.held().await;
        held.send("data: 1\n\n");
        let mut answer = pending.answer().await.unwrap();
        assert_eq!(answer.piece().await.unwrap().unwrap(), "data: 1\n\n");
        assert_eq!(answer.headers["content-type"], "text/event-stream");
        open.push((held, answer));
    }
    assert_eq!(client.exchange("POST", "/alpha/search", &token, Some("{}")).await, (200, "1".to_owned()));
    assert_eq!(scene.gateway.metrics().await.sum("portcullis_connections", &[]), 1.0);
    let (held, answer) = open.pop().unwrap();
    drop(answer);
    held.closed().await;
    for (held, mut answer) in open {
        held.send("data: 2\n\n");
        assert_eq!(answer.piece().await.unwrap().unwrap(), "data: 2\n\n");
        held.end();
        assert!(answer.piece().await.unwrap().is_none_or(|rest| rest.is_empty()));
    }
}

#[tokio::test]
async fn a_revoked_grant_resets_its_streams_and_no_other_of_the_connection() {
    let scene = start(|setup| setup).await;
    let client = scene.client().await;
    let mut open = Vec::new();
    for email in [CALLER, ADMIN] {
        let pending = client.begin("POST", "/alpha/watch", &email_token(email), Some("{}")).await;
        let held = scene.peer.held().await;
        held.send("data: 1\n\n");
        let mut answer = pending.answer().await.unwrap();
        assert_eq!(answer.piece().await.unwrap().unwrap(), "data: 1\n\n");
        open.push((held, answer));
    }
    scene.peer.set("/search", Behaviour::Stall);
    let hanging = client.begin("POST", "/alpha/search", &email_token(CALLER), Some("{}")).await;
    scene.peer.arrived(3).await;
    scene.grants.take_back(CALLER, "alpha").await;
    let mut refused = hanging.answer().await.unwrap();
    assert_eq!(refused.status, 403, "nothing had been answered");
    assert!(refused.text().await.unwrap().contains("not_granted"));
    let (held, mut answer) = open.remove(0);
    let error = answer.piece().await.expect_err("a reset");
    assert!(error.is_reset(), "{error}");
    held.closed().await;
    assert_eq!(scene.reset("withdrawn").await, 1.0);
    let (held, mut answer) = open.remove(0);
    held.send("data: 2\n\n");
    assert_eq!(answer.piece().await.unwrap().unwrap(), "data: 2\n\n");
    let line = scene
        .gateway
        .stdout
        .find("the record", |line| line.contains("withdrawn") && line.contains("watch"))
        .await;
    assert!(line.contains("\"outcome\":\"withdrawn\""), "{line}");
}

#[tokio::test]
async fn a_connection_that_is_idle_ends_and_a_body_that_does_not_come_is_refused() {
    let scene =
        start(|setup| setup.set("listen.keepalive_timeout_secs", 1).set("listen.body_timeout_secs", 1)).await;
    let client = scene.client().await;
    let request = http::Request::post("https://gateway/alpha/search")
        .header("authorization", format!("Bearer {}", email_token(CALLER)))
        .header("content-type", "application/json")
        .header("content-length", "10")
        .body(())
        .unwrap();
    // The end of the body is never sent.
    let pending = client.begin_open(request).await;
    assert_eq!(pending.answer().await.unwrap().status, 400);
    drop(client.ended().await);
}

#[tokio::test]
async fn whoever_resets_what_was_just_asked_is_bounded_and_others_are_served() {
    let scene = start(|setup| setup).await;
    let token = email_token(CALLER);
    let attacker = scene.client().await;
    for _ in 0..2000 {
        let Some(pending) = attacker.try_begin("POST", "/alpha/watch", &token).await else { break };
        drop(pending);
    }
    let client = scene.client().await;
    assert_eq!(client.exchange("POST", "/alpha/search", &token, Some("{}")).await.0, 200);
    drop(attacker);
    until("nothing left of it", || async {
        (scene.gateway.metrics().await.sum("portcullis_requests_in_flight", &[]) == 0.0).then_some(())
    })
    .await;
}

/// A frame of HTTP/2 (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes()[..], payload].concat()
}

#[tokio::test]
async fn headers_without_an_end_are_cut_short_and_others_are_served() {
    let scene = start(|setup| setup).await;
    let mut attacker = scene.authority.connect(&scene.gateway.address(), &[b"h2"]).await.unwrap();
    let (headers, continuation) = (1, 9);
    let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..]].concat();
    attacker.write_all(&begin).await.unwrap();
    // GET https://gateway/, whose fields go on and on.
    attacker.write_all(&frame(headers, 1, 1, b"\x82\x87\x84\x41\x07gateway")).await.unwrap();
    let field = [&[0, 1, b'a', 100][..], &[b'x'; 100]].concat();
    let more = frame(continuation, 0, 1, &field.repeat(150));
    let mut sent = 0;
    while sent < 4000 && within("a frame", attacker.write_all(&more)).await.is_ok() {
        sent += 1;
    }
    assert!(sent < 4000, "{sent} frames of {} bytes were taken", more.len());
    let client = scene.client().await;
    assert_eq!(client.exchange("GET", "/health", "", None).await.0, 200);
}

#[tokio::test]
async fn a_draining_gateway_says_goaway_and_streams_go_to_their_end() {
    let mut scene = start(|setup| setup).await;
    let client = scene.client().await;
    let pending = client.begin("POST", "/alpha/watch", &email_token(CALLER), Some("{}")).await;
    let held = scene.peer.held().await;
    held.send("data: 1\n\n");
    let mut answer = pending.answer().await.unwrap();
    assert_eq!(answer.piece().await.unwrap().unwrap(), "data: 1\n\n");
    scene.gateway.signal("TERM");
    scene.gateway.await_port_closed().await;
    held.send("data: 2\n\n");
    assert_eq!(answer.piece().await.unwrap().unwrap(), "data: 2\n\n");
    until_so("the connection takes no further request", || client.is_going_away()).await;
    held.end();
    assert!(answer.piece().await.unwrap().is_none_or(|rest| rest.is_empty()));
    drop(answer);
    let ended = client.ended().await;
    // The client's own goodbye may come too late.
    assert!(ended.as_ref().err().is_none_or(h2::Error::is_io), "{ended:?}");
    assert_eq!(scene.gateway.ended().await.code(), Some(0));
}
