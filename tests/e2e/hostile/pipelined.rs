//! More than one request on a connection at once: the first is answered, what follows is never read.

use std::time::Duration;

use super::stated;
use crate::harness::{
    grants::{CALLER, Grants},
    raw::RawClient,
    raw_peer::RawPeer,
    request::{get, head, post},
    tokens::email_token,
    wire::answer,
};

const TOGETHER: &str = "a second request in one piece with the first";
const MEANWHILE: &str = "a second request while the first one's answer is awaited";
const EARLY: &str = "a body of which the answer comes before its end";

/// The rows of README.md that are checked here.
pub const ROWS: [&str; 3] = [TOGETHER, MEANWHILE, EARLY];

struct Scene {
    gateway: crate::harness::gateway::Gateway,
    peer: RawPeer,
    token: String,
    _grants: Grants,
}

impl Scene {
    async fn start() -> Self {
        let peer = RawPeer::with_tools(&["search"]).await;
        let grants = Grants::of(&["alpha"]).await;
        let gateway = grants.setup().server("alpha", &peer.url()).start().await;
        gateway.knows_tools("alpha", 1).await;
        Self { gateway, peer, token: email_token(CALLER), _grants: grants }
    }

    async fn client(&self) -> RawClient {
        RawClient::connect(&self.gateway.address()).await
    }
}

#[tokio::test]
async fn of_requests_in_one_piece_the_first_is_answered_and_no_other_is_read() {
    let scene = Scene::start().await;
    assert_eq!(stated(TOGETHER)[..2], ["the first one's", "closed"]);
    let pages = [get("/servers", &scene.token), get("/alpha", &scene.token)].concat();
    let mut client = scene.client().await;
    client.send(pages).await;
    let first = client.read_answer().await;
    assert_eq!((first.status, first.json()["total_servers"].as_u64()), (200, Some(1)));
    assert!(client.is_closed_within(Duration::from_secs(10)).await);

    let mut client = scene.client().await;
    client
        .send(
            [post("/alpha/search", &scene.token, "{}"), post("/alpha/search", &scene.token, "{\"b\": 2}")]
                .concat(),
        )
        .await;
    let mut call = scene.peer.call().await;
    assert_eq!(call.read_body().await, b"{}");
    call.send(answer("200 OK", "application/json", b"[1]")).await;
    assert_eq!(client.read_answer().await.text(), "[1]");
    assert!(client.is_closed_within(Duration::from_secs(10)).await);
    assert!(!scene.peer.was_called().await);
}

#[tokio::test]
async fn a_request_that_comes_while_another_is_underway_ends_both_and_is_not_read() {
    let scene = Scene::start().await;
    assert_eq!(stated(MEANWHILE)[..2], ["none", "closed"]);
    let mut client = scene.client().await;
    client.send(post("/alpha/search", &scene.token, "{}")).await;
    let mut call = scene.peer.call().await;
    assert_eq!(call.read_body().await, b"{}");
    client.send(post("/alpha/search", &scene.token, "{\"b\": 2}")).await;
    assert!(client.is_closed_within(Duration::from_secs(10)).await);
    assert_eq!(call.rest_within(Duration::from_secs(10)).await.as_deref(), Some(&b""[..]));
    assert!(!scene.peer.was_called().await);
}

#[tokio::test]
async fn what_is_left_of_a_body_is_no_request_after_an_early_answer() {
    let scene = Scene::start().await;
    assert_eq!(stated(EARLY)[..2], ["the peer's", "closed"]);
    let mut client = scene.client().await;
    client.send(head("POST", "/alpha/search", &scene.token, &["content-length: 1000000"])).await;
    client.send("{\"a\": 1,").await;
    let mut call = scene.peer.call().await;
    call.send(answer("413 Content Too Large", "application/json", b"{}")).await;
    assert_eq!(client.read_answer().await.status, 413);
    drop(client.try_send(post("/alpha/search", &scene.token, "{\"b\": 2}")).await);
    assert!(client.is_closed_within(Duration::from_secs(10)).await);
    assert!(!scene.peer.was_called().await);
}
