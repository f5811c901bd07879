//! Tool lists while servers change, stall and lie: what appears can be called, what is gone is dropped, and a list that
//! cannot be read changes nothing.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    deadline::{until, until_so},
    fake_peer::{Behaviour, FakePeer, openapi},
    gateway::Gateway,
    grants::{ADMIN, CALLER, Grants},
    port::Port,
    tokens::email_token,
    wire::answer,
};

/// What a peer that has tools of these names answers when it is asked for them.
fn list(names: &[&str]) -> Behaviour {
    let tools = names.iter().map(|name| ((*name).to_owned(), json!({"type": "object"}))).collect();
    Behaviour::Answer(answer("200 OK", "application/json", openapi(&tools).to_string().as_bytes()))
}

async fn call(gateway: &Gateway, tool: &str) -> u16 {
    gateway.call(&format!("/alpha/{tool}"), &email_token(CALLER), &json!({})).await.status.as_u16()
}

async fn refresh(gateway: &Gateway) {
    let answer = gateway.call("/refresh", &email_token(ADMIN), &json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (202, json!({"refreshing": ["alpha"]})));
}

async fn start(peer: &FakePeer) -> (Gateway, Grants) {
    let grants = Grants::of(&["alpha"]).await;
    let setup = grants.setup().server("alpha", &peer.url()).set("tools.max_bytes", 100_000);
    let gateway = setup.set("tools.deadline_secs", 1).start().await;
    gateway.knows_tools("alpha", 1).await;
    (gateway, grants)
}

#[tokio::test]
async fn a_tool_that_appears_is_found_when_it_is_asked_for() {
    let peer = FakePeer::start().await.with_json("old", json!("old"));
    let (gateway, _grants) = start(&peer).await;
    peer.set("/new", Behaviour::Answer(answer("200 OK", "application/json", b"\"new\"")));
    peer.set("/openapi.json", list(&["old", "new"]));
    until("the new tool", || async { (call(&gateway, "new").await == 200).then_some(()) }).await;
    assert_eq!(call(&gateway, "old").await, 200);
}

#[tokio::test]
async fn asking_for_unknown_tools_reads_the_list_once_and_not_each_time() {
    let peer = FakePeer::start().await.with_json("old", json!("old"));
    let (gateway, _grants) = start(&peer).await;
    let (started, before) = (Instant::now(), peer.listings());
    for number in 0..100 {
        assert_eq!(call(&gateway, &format!("missing_{number}")).await, 404);
    }
    let most = 1 + started.elapsed().as_secs() as usize / 5;
    assert!(peer.listings() - before <= most, "{} readings for 100 misses", peer.listings() - before);
    assert_eq!(peer.requests().len(), 0);
}

#[tokio::test]
async fn a_tool_that_is_gone_is_dropped_from_every_page_and_no_longer_called() {
    let peer = FakePeer::start().await.with_json("kept", json!("kept"));
    peer.set("/openapi.json", list(&["gone"]));
    let (gateway, _grants) = start(&peer).await;
    peer.set("/gone", Behaviour::Answer(answer("200 OK", "application/json", b"1")));
    assert_eq!(call(&gateway, "gone").await, 200);

    peer.set("/openapi.json", list(&["kept"]));
    refresh(&gateway).await;
    until("the tool dropped", || async { (call(&gateway, "gone").await == 404).then_some(()) }).await;
    for page in ["/alpha", "/tools", "/openapi.json", "/alpha/openapi.json"] {
        let page = gateway.get(page, &email_token(CALLER)).await.text();
        assert!(page.contains("kept") && !page.contains("gone"), "{page}");
    }
    assert_eq!(call(&gateway, "kept").await, 200);
}

#[tokio::test]
async fn a_list_that_cannot_be_read_leaves_the_last_one_in_place() {
    let too_large = json!({"openapi": "3.1.0", "paths": {}, "x": "x".repeat(200_000)}).to_string();
    let json = |body: &str| Behaviour::Answer(answer("200 OK", "application/json", body.as_bytes()));
    for (what, behaviour) in [
        ("garbage", json("this is not a tool list")),
        ("no tool list", json("{}")),
        ("larger than tools.max_bytes", json(&too_large)),
        ("an error", Behaviour::Answer(answer("500 Internal Server Error", "text/plain", b"no"))),
        ("a stall", Behaviour::Stall),
        ("a hang-up", Behaviour::HangUpAfterBody),
        (
            "half a list",
            Behaviour::AnswerAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{".to_vec()),
        ),
        (
            "a redirect",
            Behaviour::Answer(b"HTTP/1.1 307 x\r\nlocation: /\r\ncontent-length: 0\r\n\r\n".to_vec()),
        ),
    ] {
        let peer = FakePeer::start().await.with_json("kept", json!("kept"));
        let (gateway, _grants) = start(&peer).await;
        peer.set("/openapi.json", behaviour);
        refresh(&gateway).await;
        gateway.stderr.find(what, |line| line.contains("the last one stays")).await;
        assert_eq!(call(&gateway, "kept").await, 200, "after {what}");
        let page = gateway.get("/alpha", &email_token(CALLER)).await.json();
        assert_eq!(page["tool_count"], 1, "after {what}");

        peer.set("/openapi.json", list(&["kept", "another"]));
        refresh(&gateway).await;
        gateway.knows_tools("alpha", 2).await;
    }
}

#[tokio::test]
async fn a_server_that_is_dead_or_silent_delays_no_other() {
    let grants = Grants::of(&["alpha", "silent"]).await;
    let alpha = FakePeer::start().await.with_json("search", json!(1));
    let silent = FakePeer::start().await;
    silent.set("/openapi.json", Behaviour::Stall);
    let nobody = Port::take();
    let setup = grants.setup().server("alpha", &alpha.url()).server("silent", &silent.url());
    let setup = setup.server("dead", &format!("http://{}", nobody.address()));
    let started = Instant::now();
    let gateway = setup.server("unknown", "http://no-such-host.invalid:8000").start().await;
    gateway.knows_tools("alpha", 1).await;
    // Reading a silent list takes ten seconds by default.
    assert!(started.elapsed() < Duration::from_secs(8), "took {:?}", started.elapsed());
    assert_eq!(call(&gateway, "search").await, 200);

    let asked = Instant::now();
    let answer = gateway.call("/silent/anything", &email_token(CALLER), &json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "peer_unreachable"));
    assert!(asked.elapsed() < Duration::from_secs(8), "a miss waits {:?}", asked.elapsed());
}

#[tokio::test]
async fn a_server_whose_name_does_not_resolve_is_a_refusal_and_no_panic() {
    let grants = Grants::of(&["alpha"]).await;
    let gateway = grants.setup().server("alpha", "http://no-such-host.invalid:8000").start().await;
    let answer = gateway.call("/alpha/search", &email_token(CALLER), &json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "peer_unreachable"));
    assert!(!answer.text().contains("no-such-host"), "internals: {}", answer.text());
    let page = gateway.get("/alpha", &email_token(CALLER)).await.json();
    assert_eq!((&page["server"], &page["tool_count"]), (&json!("alpha"), &json!(0)));
    assert_eq!(gateway.metrics().await.sum("portcullis_panics_total", &[]), 0.0);
    until_so("a line about the name", || {
        gateway.stderr.text().contains("no address of server `alpha` resolves")
    })
    .await;
}
