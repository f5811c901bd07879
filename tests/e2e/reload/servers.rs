//! Servers that are added, removed, switched off, moved, or want another credential.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Load, Standing, credential, server, set};
use crate::harness::{
    deadline::{until, until_so},
    fake_peer::{Behaviour, FakePeer},
    gateway::Setup,
    grants::{CALLER, Grants},
    raw::RawClient,
    raw_peer::RawPeer,
    request::{head, post_with},
    tokens::email_token,
};

fn mcp(setup: Setup, id: &str, peer: &RawPeer) -> Setup {
    let keys = toml::Table::from_iter([("dialect".to_owned(), "mcp".into())]);
    setup.server_with(id, &format!("{}/mcp", peer.url()), keys)
}

#[tokio::test]
async fn a_server_that_is_added_can_be_called_soon_after() {
    let (first, added) = (
        FakePeer::start().await.with_json("search", json!([])),
        FakePeer::start().await.with_json("find", json!([])),
    );
    let grants = Grants::of(&["github", "notes"]).await;
    let gateway = grants.setup().server("github", &first.url()).start().await;
    let token = email_token(CALLER);
    assert_eq!(gateway.call("/notes/find", &token, &json!({})).await.status, 404);
    let load = Load::begin(&gateway, "/github/search", &token);
    let began = Instant::now();
    super::change(&gateway, "servers.toml", |table| set(table, "servers.notes", server(&added.url())));
    gateway.call_until("/notes/find", &token, 200).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(gateway.get("/servers", &token).await.text().contains("added while it runs"));
    gateway.await_tools("notes", 1).await;
    load.none_failed().await;
    let line = gateway.stderr.find("what was taken over", |line| line.contains("taken over")).await;
    assert!(line.contains("servers added: `notes`") && !line.contains("github"), "{line}");
}

#[tokio::test]
async fn a_server_that_is_removed_is_unknown_and_its_streams_end_and_its_calls_do_not() {
    let (native, other) = (RawPeer::with_tools(&[]).await, RawPeer::with_tools(&[]).await);
    let rest = FakePeer::start().await.with_tool("watch", Behaviour::Hold);
    let grants = Grants::of(&["alpha", "beta", "rest"]).await;
    let setup = mcp(mcp(grants.setup(), "alpha", &native), "beta", &other).server("rest", &rest.url());
    let gateway = setup.start().await;
    gateway.await_tools("rest", 1).await;
    let token = email_token(CALLER);
    let ending = Standing::open(&gateway, &native, "alpha", &token).await;
    let mut staying = Standing::open(&gateway, &other, "beta", &token).await;
    let mut all = RawClient::connect(&gateway.address()).await;
    all.send(head("GET", "/mcp", &token, &["accept: text/event-stream"])).await;
    assert_eq!(all.read_head().await.0, 200);
    let mut calling = RawClient::connect(&gateway.address()).await;
    calling.send(post_with("/rest/watch", &token, &["content-type: application/json"], "{}")).await;
    let held = rest.held().await;
    assert_eq!(calling.read_head().await.0, 200);

    gateway
        .reserve(|servers| {
            servers.remove("alpha").unwrap();
            servers.remove("rest").unwrap();
        })
        .await;
    ending.ends().await;
    staying.stands().await;
    held.send("data: end\n\n");
    assert_eq!(calling.read_chunk().await.as_deref(), Some(&b"data: end\n\n"[..]), "a call comes to its end");
    held.end();
    assert_eq!(calling.read_chunk().await, None);
    let told = all.read_chunk().await.map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(told.as_ref().is_some_and(|told| told.contains("list_changed")), "{told:?}");
    assert_eq!(gateway.call("/rest/watch", &token, &json!({})).await.status, 404);
    assert!(!gateway.metrics().await.0.contains("portcullis_tools{server=\"rest\"}"));
}

#[tokio::test]
async fn a_server_that_is_switched_off_refuses_and_comes_back() {
    let (native, rest) =
        (RawPeer::with_tools(&[]).await, FakePeer::start().await.with_json("search", json!([])));
    let grants = Grants::of(&["alpha", "rest"]).await;
    let gateway = mcp(grants.setup(), "alpha", &native).server("rest", &rest.url()).start().await;
    gateway.await_tools("rest", 1).await;
    let token = email_token(CALLER);
    let standing = Standing::open(&gateway, &native, "alpha", &token).await;
    let switch = |is_on: bool| {
        move |servers: &mut toml::Table| {
            set(servers, "alpha.enabled", is_on);
            set(servers, "rest.enabled", is_on);
        }
    };
    gateway.reserve(switch(false)).await;
    standing.ends().await;
    assert_eq!(gateway.call("/rest/search", &token, &json!({})).await.status, 503);
    gateway.reserve(switch(true)).await;
    gateway.call_until("/rest/search", &token, 200).await;
    Standing::open(&gateway, &native, "alpha", &token).await;
}

#[tokio::test]
async fn another_credential_goes_with_the_next_request_and_no_call_fails() {
    let rest = FakePeer::start().await.with_json("search", json!([]));
    let native = RawPeer::with_tools(&[]).await;
    let grants = Grants::of(&["alpha", "rest"]).await;
    let keys =
        |variable: &str| toml::Table::from_iter([("credential".to_owned(), credential(variable).into())]);
    let mut of_mcp = keys("FIRST");
    of_mcp.insert("dialect".to_owned(), "mcp".into());
    let setup = grants.setup().environment("FIRST", "first-key").environment("SECOND", "second-key");
    let setup = setup.server_with("rest", &rest.url(), keys("FIRST"));
    let gateway = setup.server_with("alpha", &format!("{}/mcp", native.url()), of_mcp).start().await;
    gateway.await_tools("rest", 1).await;
    let token = email_token(CALLER);
    let mut standing = Standing::open(&gateway, &native, "alpha", &token).await;
    let load = Load::begin(&gateway, "/rest/search", &token);
    load.goes_on(20).await;
    gateway
        .reserve(|servers| {
            for id in ["alpha", "rest"] {
                set(servers, &format!("{id}.credential"), credential("SECOND"));
            }
        })
        .await;
    let seen = rest.requests().len();
    load.goes_on(20).await;
    load.none_failed().await;
    let keys = rest
        .requests()
        .iter()
        .map(|request| request.head.header("x-key").unwrap().to_owned())
        .collect::<Vec<_>>();
    assert_eq!(keys.first().map(String::as_str), Some("first-key"));
    // Those underway when it changed have the former one.
    assert!(keys[seen + 4..].iter().all(|key| key == "second-key"), "{:?}", &keys[seen..]);
    standing.stands().await;
    gateway.wrote_none_of(&["first-key", "second-key"]);
}

#[tokio::test]
async fn a_key_that_rotates_in_its_file_goes_with_the_next_request_and_no_call_fails() {
    let rest = FakePeer::start().await.with_json("search", json!([]));
    let grants = Grants::of(&["rest"]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    super::put(&file, "the-first-key\n");
    let credential = [("header", "x-key"), ("file", file.to_str().unwrap())];
    let credential: toml::Table =
        credential.map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect();
    let keys = toml::Table::from_iter([("credential".to_owned(), credential.into())]);
    let gateway = grants.setup().server_with("rest", &rest.url(), keys).start().await;
    gateway.await_tools("rest", 1).await;
    let token = email_token(CALLER);
    let load = Load::begin(&gateway, "/rest/search", &token);
    load.goes_on(10).await;
    super::put(&file, "the-second-key\n");
    gateway.taken(2).await;
    load.goes_on(10).await;
    load.none_failed().await;
    gateway.call("/rest/search", &token, &json!({})).await;
    let keys = rest
        .requests()
        .iter()
        .map(|request| request.head.header("x-key").unwrap().to_owned())
        .collect::<Vec<_>>();
    assert_eq!((&*keys[0], &**keys.last().unwrap()), ("the-first-key", "the-second-key"));
    std::fs::remove_file(&file).unwrap();
    until("the failure", || async { gateway.has_failed().await.then_some(()) }).await;
    assert_eq!(gateway.call("/rest/search", &token, &json!({})).await.status, 200);
    gateway.wrote_none_of(&["the-first-key", "the-second-key"]);
}

#[tokio::test]
async fn another_address_is_called_from_then_on_and_no_call_fails() {
    let (before, after) = (
        FakePeer::start().await.with_json("search", json!([])),
        FakePeer::start().await.with_json("search", json!([])),
    );
    let grants = Grants::of(&["rest"]).await;
    let keys =
        |variable: &str| toml::Table::from_iter([("credential".to_owned(), credential(variable).into())]);
    let setup = grants.setup().environment("BEFORE", "key-of-before").environment("AFTER", "key-of-after");
    let gateway = setup.server_with("rest", &before.url(), keys("BEFORE")).start().await;
    gateway.await_tools("rest", 1).await;
    let token = email_token(CALLER);
    let load = Load::begin(&gateway, "/rest/search", &token);
    load.goes_on(20).await;
    gateway
        .reserve(|servers| {
            set(servers, "rest.url", after.url());
            set(servers, "rest.credential", credential("AFTER"));
        })
        .await;
    load.goes_on(20).await;
    load.none_failed().await;
    let seen = before.requests().len();
    assert_eq!(gateway.call("/rest/search", &token, &json!({})).await.status, 200);
    assert_eq!(before.requests().len(), seen, "the former address is called");
    until_so("the list read there", || after.listings() > 0).await;
    for (peer, key) in [(&before, "key-of-before"), (&after, "key-of-after")] {
        let others =
            peer.requests().iter().filter(|request| request.head.header("x-key") != Some(key)).count();
        assert_eq!(others, 0, "a credential went to another's address");
    }
}

#[tokio::test]
async fn a_list_that_did_not_change_is_not_told_of() {
    let rest = FakePeer::start().await.with_json("search", json!([]));
    let grants = Grants::of(&["rest"]).await;
    let gateway = grants.setup().server("rest", &rest.url()).start().await;
    gateway.await_tools("rest", 1).await;
    let token = email_token(CALLER);
    let mut all = RawClient::connect(&gateway.address()).await;
    all.send(head("GET", "/mcp", &token, &["accept: text/event-stream"])).await;
    assert_eq!(all.read_head().await.0, 200);
    gateway.reserve(|servers| set(servers, "rest.description", "in other words")).await;
    let told =
        || async { gateway.get("/rest", &token).await.text().contains("in other words").then_some(()) };
    until("the other words", told).await;
    assert_eq!(rest.listings(), 1, "words for people do not make a list older");
    assert!(all.is_open().await, "nothing was told");
}
