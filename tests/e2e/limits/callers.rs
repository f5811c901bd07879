//! What one caller has in work at once: so much and no more, so that others are served whatever they do.

use super::*;
use crate::harness::{
    deadline::until,
    fake_peer::Behaviour,
    grants::ADMIN,
    raw::{RawAnswer, RawClient},
    request::{get, head, post, post_with},
};

const MCP: [&str; 2] = ["content-type: application/json", "accept: application/json, text/event-stream"];

/// A client whose request has a body that never comes.
async fn endless(scene: &Scene, path: &str, token: &str) -> RawClient {
    let mut client = RawClient::connect(&scene.gateway.address()).await;
    let lines = ["content-type: application/json", "content-length: 500"];
    client.send(head("POST", path, token, &lines)).await;
    client
}

async fn ask(scene: &Scene, request: impl AsRef<[u8]>) -> RawAnswer {
    RawClient::connect(&scene.gateway.address()).await.exchange(request).await
}

#[tokio::test]
async fn a_caller_who_sends_bodies_that_never_come_is_refused_and_nobody_else() {
    let scene =
        Scene::start(|setup| setup.set("limits.requests_per_caller", 4).set("limits.requests_in_work", 8))
            .await;
    let open = tokio::sync::Mutex::new(Vec::new());
    for path in ["/meta/search_tools", "/mcp", "/alpha/mcp", "/alpha/search"] {
        open.lock().await.push(endless(&scene, path, &scene.token).await);
    }
    until("all of them to be in work", || async {
        let in_work = scene.gateway.metrics().await.sum("portcullis_requests_in_flight", &[]);
        if in_work < 4.0 {
            // One may have come too late for its place: a question had it.
            open.lock().await.push(endless(&scene, "/alpha/search", &scene.token).await);
            return None;
        }
        (ask(&scene, get("/servers", &scene.token)).await.status == 429).then_some(())
    })
    .await;
    // On every face, before a byte of any body is read.
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
    let more = [
        get("/servers", &scene.token).into_bytes(),
        get("/alpha/openapi.json", &scene.token).into_bytes(),
        post("/alpha/search", &scene.token, "{}"),
        post("/alpha_search", &scene.token, "{}"),
        post("/meta/search_tools", &scene.token, r#"{"query":"search"}"#),
        post_with("/mcp", &scene.token, &MCP, &list),
        post_with("/alpha/mcp", &scene.token, &MCP, &list),
        head("GET", "/mcp", &scene.token, &["accept: text/event-stream"]).into_bytes(),
        head("POST", "/mcp", &scene.token, &["content-type: application/json", "content-length: 9"])
            .into_bytes(),
    ];
    let times = 1 + more.len();
    for request in more {
        let line = String::from_utf8_lossy(&request).lines().next().unwrap().to_owned();
        let refused = ask(&scene, &request).await;
        assert_eq!((refused.status, refused.head.header("retry-after")), (429, Some("1")), "{line}");
        let body = refused.json();
        let code = body["code"].as_str().or_else(|| body["error"]["data"]["code"].as_str());
        assert_eq!(code, Some("too_many_requests"), "{line}: {body}");
    }
    until("all of them to be counted", || async {
        (scene.limited("requests").await >= times as f64).then_some(())
    })
    .await;
    let admin = email_token(ADMIN);
    assert_eq!(ask(&scene, get("/servers", &admin)).await.status, 200);
    assert_eq!(ask(&scene, post("/alpha/search", &admin, "{}")).await.status, 200);
    assert_eq!(scene.limited("overload").await, 0.0);
    // One that ends makes room for one.
    until("room for a request", || async {
        open.lock().await.pop();
        (ask(&scene, get("/servers", &scene.token)).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stream_is_no_request_in_work() {
    // Two, because one that is answered may not have ended when the next one comes.
    let scene = Scene::start(|setup| setup.set("limits.requests_per_caller", 2)).await;
    scene.peer.set("/search", Behaviour::Hold);
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut client = RawClient::connect(&scene.gateway.address()).await;
        client.send(post("/alpha/search", &scene.token, "{}")).await;
        let held = scene.peer.held().await;
        held.send("data: 1\n\n");
        assert_eq!(client.read_head().await.0, 200);
        open.push((client, held));
        let mut standing = RawClient::connect(&scene.gateway.address()).await;
        standing.send(head("GET", "/mcp", &scene.token, &["accept: text/event-stream"])).await;
        assert_eq!(standing.read_head().await.0, 200);
        assert_eq!(ask(&scene, post("/beta/fetch", &scene.token, "{}")).await.status, 200);
    }
}

#[tokio::test]
async fn nobody_holds_a_server_alone() {
    let alpha = toml::Table::from_iter([("running".to_owned(), 10.into())]);
    let scene = Scene::with_servers(|setup| setup, alpha).await;
    scene.peer.set("/search", Behaviour::Stall);
    let mut running = Vec::new();
    for _ in 0..9 {
        let mut client = RawClient::connect(&scene.gateway.address()).await;
        client.send(post("/alpha/search", &scene.token, "{}")).await;
        running.push(client);
    }
    scene.peer.arrived(9).await;
    let refused = scene.call("/alpha/fetch").await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "server_busy"));
    assert_eq!(scene.call("/beta/fetch").await.status, 200, "another server is not held up");
    // The last tenth is for somebody else.
    let admin = email_token(ADMIN);
    let mut other = RawClient::connect(&scene.gateway.address()).await;
    other.send(post("/alpha/search", &admin, "{}")).await;
    scene.peer.arrived(11).await;
    assert_eq!(scene.gateway.call("/alpha/fetch", &admin, &json!({})).await.code(), "server_busy");
}

#[tokio::test]
async fn a_call_that_is_refused_for_its_body_costs_nothing() {
    let scene = Scene::start(|setup| setup.set("limits.calls_per_caller", "2/h")).await;
    for body in ["{", "{\"a\":1}}", "nonsense"] {
        let refused = ask(&scene, post("/alpha/search", &scene.token, body)).await;
        assert_eq!(refused.status, 400, "{body}: {}", refused.text());
    }
    assert_eq!(scene.statuses("/alpha/search", 3).await, passing_then_limited(2, 1));
    // Whoever is over a limit hears of that, whatever is wrong with the body.
    assert_eq!(ask(&scene, post("/alpha/search", &scene.token, "nonsense")).await.status, 429);
    let unsent =
        head("POST", "/alpha/search", &scene.token, &["content-type: application/json", "content-length: 9"]);
    assert_eq!(ask(&scene, unsent).await.status, 429, "nobody waits for a body that cannot be taken");
}
