//! Where a message begins and ends: on the way in one spelling is taken and everything else refused, and of what a peer
//! says beside its answer nothing goes out, neither to the client nor to a log.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    deadline::until_so,
    fake_peer::{Behaviour, FakePeer},
    gateway::{Gateway, Setup},
    grants::{CALLER, Grants},
    raw::{RawAnswer, RawClient},
    raw_peer::RawPeer,
    request::{chunked, head, post, post_with},
    tokens::email_token,
    wire::{answer, chunk},
};

/// What an attacker hides behind a request whose end could be read in two ways.
const SMUGGLED: &str =
    "POST /alpha/search HTTP/1.1\r\nhost: gateway\r\ncontent-length: 10\r\n\r\n\"smuggled\"";

/// A gateway in front of `search`, that says all it would ever say of itself.
struct Scene {
    gateway: Gateway,
    peer: FakePeer,
    token: String,
    _grants: Grants,
}

impl Scene {
    async fn start() -> Self {
        Self::start_with(|setup| setup).await
    }

    async fn start_with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let peer = FakePeer::start().await.with_json("search", json!("found"));
        let grants = Grants::of(&["alpha"]).await;
        let setup = grants.setup().server("alpha", &peer.url()).set("log.filter", "trace");
        let gateway = change(setup).start().await;
        gateway.knows_tools("alpha", 1).await;
        Self { gateway, peer, token: email_token(CALLER), _grants: grants }
    }

    async fn client(&self) -> RawClient {
        RawClient::connect(&self.gateway.address()).await
    }

    /// The answer to one request, and whether the connection ends with it.
    async fn ask(&self, request: impl AsRef<[u8]>) -> (RawAnswer, bool) {
        let mut client = self.client().await;
        client.send(request).await;
        let answer = client.read_answer().await;
        let is_closed = client.is_closed_within(Duration::from_secs(5)).await;
        (answer, is_closed)
    }

    /// The records of calls so far, once there are `count`.
    async fn records(&self, count: usize) -> Vec<Value> {
        records(&self.gateway, count).await
    }
}

async fn records(gateway: &Gateway, count: usize) -> Vec<Value> {
    let all = || -> Vec<Value> {
        let lines = gateway.stdout.all();
        lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    };
    until_so("the records", || all().len() >= count).await;
    let records = all();
    assert_eq!(records.len(), count, "{records:?}");
    records
}

#[tokio::test]
async fn framing_that_two_parsers_could_read_differently_is_refused_and_ends_the_connection() {
    let scene = Scene::start().await;
    let (coding, length) = ("transfer-encoding", "content-length");
    let framings: [&[(&str, &str)]; 14] = [
        &[(coding, "gzip"), (coding, "chunked")],
        &[(coding, "chunked"), (coding, "chunked")],
        &[(coding, "chunked"), (coding, "identity")],
        &[(coding, "gzip, chunked")],
        &[(coding, "chunked, chunked")],
        &[(coding, "identity, chunked")],
        &[(coding, ", chunked")],
        &[(coding, "chunked;q=1")],
        &[(length, "2, 2")],
        &[(length, "2"), (length, "2")],
        &[(length, "02")],
        &[(length, "2;")],
        &[(length, "2"), (coding, "chunked")],
        &[(coding, "chunked"), (length, "2")],
    ];
    for framing in framings {
        let is_chunked = framing.iter().any(|(name, _)| *name == coding);
        let body = if is_chunked { "2\r\n{}\r\n0\r\n\r\n" } else { "{}" };
        let lines: Vec<_> = framing.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let request = head("POST", "/alpha/search", &scene.token, &lines) + body + SMUGGLED;
        let (answer, is_closed) = scene.ask(request).await;
        assert_eq!((answer.status, is_closed), (400, true), "{framing:?}: {}", answer.text());
    }
    assert_eq!(scene.peer.requests().len(), 0);
    // What the framework refuses by itself has no record; nothing has two.
    assert!(scene.gateway.stdout.all().len() <= framings.len());
    let plain = [format!("{coding}: Chunked")];
    let plain = head("POST", "/alpha/search", &scene.token, &[&plain[0]]) + "2\r\n{}\r\n0\r\n\r\n";
    assert_eq!(scene.client().await.exchange(plain).await.status, 200, "the one spelling that is left");
}

#[tokio::test]
async fn what_follows_a_body_whose_first_chunk_is_broken_is_never_a_request() {
    let scene = Scene::start().await;
    let broken =
        ["ZZ\r\n{}\r\n", "-2\r\n{}\r\n", "0x2\r\n{}\r\n", "fffffffffffffffff\r\n{}\r\n", "2\r\n{}xx"];
    for body in broken {
        let request = chunked("/alpha/search", &scene.token) + body + "0\r\n\r\n" + SMUGGLED;
        let (answer, is_closed) = scene.ask(request).await;
        assert_eq!((answer.status, is_closed), (400, true), "{body:?}: {}", answer.text());
        assert_eq!(answer.head.header("connection"), Some("close"), "{body:?}");
    }
    for record in scene.records(broken.len()).await {
        assert_eq!((&record["outcome"], &record["code"]), (&json!("refused"), &json!("bad_request")));
    }
    assert!(scene.peer.requests().is_empty());
}

#[tokio::test]
async fn a_body_that_breaks_off_its_framing_halfway_is_the_clients_fault_and_not_its_leaving() {
    let peer = RawPeer::with_tools(&["search"]).await;
    let grants = Grants::of(&["alpha"]).await;
    let gateway = grants.setup().server("alpha", &peer.url()).start().await;
    gateway.knows_tools("alpha", 1).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(chunked("/alpha/search", &email_token(CALLER))).await;
    client.send(chunk(b"{\"a\": ")).await;
    let mut call = peer.call().await;
    assert_eq!(call.read_chunk().await.unwrap(), b"{\"a\": ");
    client.send("ZZ\r\n1}\r\n0\r\n\r\n").await;
    client.send(SMUGGLED).await;
    let answer = client.read_answer().await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (400, Some("bad_request")));
    assert!(client.is_closed_within(Duration::from_secs(5)).await);
    let rest = call.rest_within(Duration::from_secs(5)).await.expect("the call goes on at the peer");
    assert_eq!(rest, b"", "the peer must not take half a body for a whole one");
    let records = records(&gateway, 1).await;
    assert_eq!((&records[0]["outcome"], &records[0]["status"]), (&json!("refused"), &json!(400)));
}

#[tokio::test]
async fn a_peers_broken_head_is_quoted_nowhere() {
    let scene = Scene::start().await;
    let heads: [(&str, Vec<u8>); 5] = [
        (
            "a line that is no header",
            b"HTTP/1.1 200 OK\r\nset-cookie: s=PEERSECRET\r\nno header\r\n\r\n".to_vec(),
        ),
        ("an odd name", b"HTTP/1.1 200 OK\r\nset-cookie: s=PEERSECRET\r\nb\0d: 1\r\n\r\n".to_vec()),
        ("an odd status", b"HTTP/1.1 PEERSECRET OK\r\nset-cookie: s=PEERSECRET\r\n\r\n".to_vec()),
        ("no status line", b"PEERSECRET PEERSECRET\r\nset-cookie: s=PEERSECRET\r\n\r\n".to_vec()),
        ("too much", [&b"HTTP/1.1 200 OK\r\n"[..], &b"x: PEERSECRET\r\n".repeat(9000)[..]].concat()),
    ];
    for (what, bytes) in &heads {
        scene.peer.set("/search", Behaviour::AnswerAndClose(bytes.clone()));
        let (answer, _) = scene.ask(post("/alpha/search", &scene.token, "{}")).await;
        assert_eq!(answer.status, 502, "{what}");
        assert!(!answer.text().contains("PEERSECRET"), "{what}: {}", answer.text());
    }
    for record in scene.records(heads.len()).await {
        assert_eq!(record["outcome"], "peer_failed", "{record}");
        let cause = record["cause"].as_str().expect("a cause");
        assert!(cause.len() < 200, "{cause}");
    }
    scene.gateway.wrote_none_of(&["PEERSECRET"]);
}

#[tokio::test]
async fn a_peer_that_changes_the_protocol_has_given_a_bad_answer() {
    let scene = Scene::start().await;
    let switch =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nraw bytes";
    scene.peer.set("/search", Behaviour::Answer(switch.to_vec()));
    let asked = ["content-type: application/json", "connection: upgrade", "upgrade: websocket"];
    let requests =
        [post("/alpha/search", &scene.token, "{}"), post_with("/alpha/search", &scene.token, &asked, "{}")];
    for request in requests {
        let (answer, is_closed) = scene.ask(request).await;
        assert_eq!((answer.status, is_closed), (502, true), "{}", answer.text());
        assert_eq!(answer.json()["code"], "peer_bad_answer");
    }
    for record in scene.records(2).await {
        assert_eq!(record["outcome"], "peer_failed", "{record}");
    }
    let asked = scene.peer.requests();
    assert!(asked.iter().all(|request| request.head.header("upgrade").is_none()), "an upgrade was asked for");
}

#[tokio::test]
async fn what_a_peer_says_before_its_answer_stays_here() {
    let peer = RawPeer::with_tools(&["search"]).await;
    let grants = Grants::of(&["alpha"]).await;
    let gateway = grants.setup().server("alpha", &peer.url()).start().await;
    gateway.knows_tools("alpha", 1).await;
    let hints = "HTTP/1.1 103 Early Hints\r\nset-cookie: s=PEERSECRET\r\nlink: </a>\r\n\r\n";
    for interim in [hints, "HTTP/1.1 100 Continue\r\nset-cookie: s=PEERSECRET\r\n\r\n"] {
        let mut client = RawClient::connect(&gateway.address()).await;
        client.send(post("/alpha/search", &email_token(CALLER), "{}")).await;
        let mut call = peer.call().await;
        call.read_body().await;
        call.send(interim).await;
        call.send(answer("200 OK", "application/json", b"[1]")).await;
        let (status, head) = client.read_head().await;
        let raw = String::from_utf8_lossy(&head.raw);
        assert_eq!(status, 200, "after {interim:?}");
        assert!(!raw.contains("PEERSECRET") && head.header("link").is_none(), "{raw}");
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_let_go() {
    let scene = Scene::start_with(|setup| setup.set("listen.write_timeout_secs", 1)).await;
    // More than all buffers on the way hold.
    let large = answer("200 OK", "application/json", &vec![b'1'; 64 << 20]);
    scene.peer.set("/search", Behaviour::Answer(large));
    let mut idle = scene.client().await;
    idle.send(post("/alpha/search", &scene.token, "{}")).await;
    scene.peer.arrived(1).await;
    scene.gateway.await_metric("portcullis_connections", &[], 0).await;
    until_so("the connection to the peer closed", || scene.peer.connections().1 == 0).await;
    let record = &scene.records(1).await[0];
    assert_eq!((&record["outcome"], &record["status"]), (&json!("client_gone"), &json!(200)));
    assert!(record["sent_bytes"].as_u64().unwrap() < 64 << 20, "{record}");

    // One that takes it is served, however large it is.
    let all = scene.client().await.exchange(post("/alpha/search", &scene.token, "{}")).await;
    assert_eq!((all.status, all.body.len()), (200, 64 << 20));
}
