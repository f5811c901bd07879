//! Session ids: sealed for one caller and one server, opened by any replica, refused with 404 by all others.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Scene, call, refusal};
use crate::harness::{
    deadline::until_so,
    raw::{RawAnswer, RawClient},
    raw_peer::RawPeer,
    request::head,
    tokens::email_token,
};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OTHER_KEY: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

const INITIALIZE: &str =
    r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;

/// Opens a session whose id at the server is `own`; gives back the client's.
async fn open(scene: &Scene, own: &str) -> String {
    let mut client = scene.client().await;
    client.send(scene.post(&[], INITIALIZE)).await;
    let mut call = scene.peer.call().await;
    assert_eq!(call.head.all("mcp-session-id"), Vec::<&str>::new());
    call.read_body().await;
    call.send(format!("HTTP/1.1 200 OK\r\nmcp-session-id: {own}\r\ncontent-length: 2\r\n\r\n{{}}")).await;
    let answer = client.read_answer().await;
    let sealed = answer.head.all("mcp-session-id");
    assert_eq!(sealed.len(), 1);
    assert!(!sealed[0].contains(own) && sealed[0].bytes().all(|byte| byte.is_ascii_graphic()));
    sealed[0].to_owned()
}

/// Uses a session and gives back which one the server saw, and what the client was answered.
async fn used(scene: &Scene, sealed: &str, echoed: &str) -> (String, RawAnswer) {
    let mut client = scene.client().await;
    client.send(scene.post(&[&format!("mcp-session-id: {sealed}")], call("a").to_string())).await;
    let mut call = scene.peer.call().await;
    call.read_body().await;
    let own = call.head.header("mcp-session-id").unwrap().to_owned();
    call.send(format!("HTTP/1.1 200 OK\r\nmcp-session-id: {echoed}\r\ncontent-length: 2\r\n\r\n{{}}")).await;
    (own, client.read_answer().await)
}

#[tokio::test]
async fn the_server_sees_its_own_id_and_the_client_only_its_own() {
    let scene = Scene::start().await;
    let sealed = open(&scene, "own-id-1").await;
    let (own, answer) = used(&scene, &sealed, "own-id-1").await;
    assert_eq!(own, "own-id-1");
    assert_eq!(answer.head.all("mcp-session-id"), [sealed.as_str()], "the same text again");
    let (_, answer) = used(&scene, &sealed, "own-id-2").await;
    let renewed = answer.head.header("mcp-session-id").unwrap().to_owned();
    assert_eq!(used(&scene, &renewed, "own-id-2").await.0, "own-id-2");
    for method in ["GET", "DELETE"] {
        let mut client = scene.client().await;
        let line = format!("mcp-session-id: {sealed}");
        client.send(head(method, "/alpha/mcp", &scene.token, &[&line, "last-event-id: 7"])).await;
        let mut call = scene.peer.call().await;
        assert!(call.head.first_line.starts_with(&format!("{method} /mcp ")), "{}", call.head.first_line);
        assert_eq!(call.head.all("mcp-session-id"), ["own-id-1"]);
        let resumed: &[&str] = if method == "GET" { &["7"] } else { &[] };
        assert_eq!(call.head.all("last-event-id"), resumed, "only a GET resumes");
        call.send("HTTP/1.1 405 Method Not Allowed\r\nallow: POST\r\ncontent-length: 4\r\n\r\nnope").await;
        let answer = client.read_answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (405, "nope"));
    }
    scene.gateway.wrote_none_of(&[&sealed, "own-id-1"]);
}

#[tokio::test]
async fn an_id_that_does_not_open_is_not_found_whoever_asks() {
    let scene = Scene::start().await;
    let sealed = open(&scene, "own-id").await;
    let flipped = {
        let mut bytes = sealed.clone().into_bytes();
        let at = bytes.len() / 2;
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    let other = email_token("other@example.com");
    let long = "A".repeat(5000);
    for (token, path, id) in [
        (&other, "/alpha/mcp", sealed.as_str()),
        (&scene.token, "/beta/mcp", &sealed),
        (&scene.token, "/alpha/mcp", &flipped),
        (&scene.token, "/alpha/mcp", &sealed[..sealed.len() - 1]),
        (&scene.token, "/alpha/mcp", "own-id"),
        (&scene.token, "/alpha/mcp", ""),
        (&scene.token, "/alpha/mcp", &long),
        (&scene.token, "/alpha/mcp", "AAAA"),
        (&scene.token, "/alpha/mcp", "\u{e9}"),
    ] {
        for method in ["POST", "GET", "DELETE"] {
            let line = format!("mcp-session-id: {id}");
            let mut client = scene.client().await;
            let request = match method {
                "POST" => scene.post_as(token, path, &[&line], call("a").to_string()),
                _ => head(method, path, token, &[&line]).into_bytes(),
            };
            let (status, _, word) = refusal(&client.exchange(request).await);
            assert_eq!((status, word.as_str()), (404, "unknown_session"), "{method} {path} {id}");
        }
    }
    scene.is_unharmed().await;
}

#[tokio::test]
async fn keys_rotate_without_ending_sessions_and_a_removed_key_ends_them() {
    let keys = |keys: &[&str]| {
        let keys: toml::Value = keys.to_vec().into();
        move |setup: crate::harness::gateway::Setup| setup.set("mcp.session_keys", keys)
    };
    let before = Scene::start_with("mcp", keys(&[KEY])).await;
    let sealed = open(&before, "own").await;
    // Another process, as after a restart or on another replica, with the new key in front.
    let setup = |list: &[&str]| {
        let url = format!("{}/mcp", before.peer.url());
        let table = toml::Table::from_iter([("dialect".to_owned(), "mcp".into())]);
        keys(list)(before.grants.setup().server_with("alpha", &url, table))
    };
    for (list, is_open) in
        [(&[OTHER_KEY, KEY][..], true), (&[KEY], true), (&[OTHER_KEY], false), (&[], false)]
    {
        let gateway = setup(list).start().await;
        let mut client = crate::harness::raw::RawClient::connect(&gateway.address()).await;
        client.send(before.post(&[&format!("mcp-session-id: {sealed}")], call("a").to_string())).await;
        if is_open {
            let mut call = before.peer.call().await;
            call.read_body().await;
            assert_eq!(call.head.header("mcp-session-id"), Some("own"));
            call.send("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await;
            assert_eq!(client.read_answer().await.status, 202);
        } else {
            assert_eq!(refusal(&client.read_answer().await).0, 404, "{list:?}");
        }
    }
}

#[tokio::test]
async fn a_modern_request_has_no_session_whatever_it_sends() {
    let scene = Scene::start().await;
    let body = json!({"id": 1, "method": "tools/list", "params": {"_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28"}}});
    let lines = [
        "mcp-session-id: nonsense",
        "mcp-protocol-version: 2026-07-28",
        "last-event-id: 3",
        "mcp-param-x: y",
    ];
    let mut client = scene.client().await;
    client.send(scene.post(&lines, body.to_string())).await;
    let mut call = scene.peer.call().await;
    call.read_body().await;
    assert!(call.head.all("mcp-session-id").is_empty() && call.head.all("last-event-id").is_empty());
    assert_eq!(call.head.all("mcp-param-x"), ["y"]);
    call.send("HTTP/1.1 200 OK\r\nmcp-session-id: extra\r\ncontent-length: 2\r\n\r\n{}").await;
    assert!(client.read_answer().await.head.all("mcp-session-id").is_empty());
}

#[tokio::test]
async fn a_revoked_caller_s_session_is_of_no_use() {
    let scene = Scene::start().await;
    let sealed = open(&scene, "own").await;
    let mut stream = scene.client().await;
    let line = format!("mcp-session-id: {sealed}");
    stream.send(head("GET", "/alpha/mcp", &scene.token, &[&line])).await;
    let mut held = scene.peer.call().await;
    held.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").await;
    assert_eq!(stream.read_head().await.0, 200);
    scene.grants.take_back(crate::harness::grants::CALLER, "alpha").await;
    assert!(stream.is_closed_within(Duration::from_secs(10)).await, "the open stream ends");
    assert!(held.rest_within(Duration::from_secs(10)).await.is_some(), "at the server, too");
    let answer = scene.client().await.exchange(scene.post(&[&line], call("a").to_string())).await;
    assert_eq!(refusal(&answer).0, 403);
}

#[tokio::test]
async fn a_session_stays_at_the_peer_that_opened_it() {
    let second = RawPeer::with_tools(&[]).await;
    let url = format!("{}/mcp", second.url());
    let scene = Scene::start_with("mcp", |setup| setup).await;
    let urls: toml::Value = vec![format!("{}/mcp", scene.peer.url()), url].into();
    let keys = toml::Table::from_iter([("dialect".to_owned(), "mcp".into()), ("url".to_owned(), urls)]);
    let gateway = scene.grants.setup().server_with("alpha", "", keys).start().await;
    let peers = [&scene.peer, &second];
    let next_call = || async {
        tokio::select! {
            call = peers[0].call() => (0, call),
            call = peers[1].call() => (1, call),
        }
    };
    let mut seen = [0, 0];
    for _ in 0..6 {
        let mut client = RawClient::connect(&gateway.address()).await;
        client.send(scene.post(&[], INITIALIZE)).await;
        let (opened_at, mut call) = next_call().await;
        seen[opened_at] += 1;
        call.read_body().await;
        call.send("HTTP/1.1 200 OK\r\nmcp-session-id: same\r\ncontent-length: 2\r\n\r\n{}").await;
        let answer = client.read_answer().await;
        drop(call);
        let line = format!("mcp-session-id: {}", answer.head.header("mcp-session-id").unwrap());
        for method in ["POST", "GET", "POST", "DELETE"] {
            let mut client = RawClient::connect(&gateway.address()).await;
            client
                .send(match method {
                    "POST" => scene.post(&[&line], super::call("echo").to_string()),
                    _ => head(method, "/alpha/mcp", &scene.token, &[&line]).into_bytes(),
                })
                .await;
            let (at, mut call) = next_call().await;
            assert_eq!(at, opened_at, "{method}");
            assert_eq!(call.head.header("mcp-session-id"), Some("same"));
            call.read_body().await;
            call.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
            assert_eq!(client.read_answer().await.status, 200);
        }
    }
    assert_eq!(seen, [3, 3], "new sessions are spread");
}

#[tokio::test]
async fn a_session_ends_when_its_time_is_over_and_no_sooner() {
    let scene = Scene::start_with("mcp", |setup| setup.set("mcp.session_ttl_secs", 3)).await;
    let since = Instant::now();
    let sealed = open(&scene, "own").await;
    assert_eq!(used(&scene, &sealed, "own").await.0, "own");
    until_so("the end of the session's time", || since.elapsed() >= Duration::from_secs(4)).await;
    for method in ["POST", "GET", "DELETE"] {
        let line = format!("mcp-session-id: {sealed}");
        let request = match method {
            "POST" => scene.post(&[&line], call("a").to_string()),
            _ => head(method, "/alpha/mcp", &scene.token, &[&line]).into_bytes(),
        };
        assert_eq!(refusal(&scene.client().await.exchange(request).await).2, "unknown_session", "{method}");
    }
    scene.is_unharmed().await;
    assert_eq!(used(&scene, &open(&scene, "new").await, "new").await.0, "new");
}
