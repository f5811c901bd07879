//! What the client makes of servers that do as they should, and of those that do not: peers of a few lines, over real
//! sockets.

mod peers;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::{
    catalog::server::{Deadlines, Dialect, PeerUrl, ProtocolVersion, Server, tests_support::server},
    mcp::told::Told,
    refusal::Code,
    upstream::{Addresses, Destination, own_way},
};
use peers::{
    Act, DEADLINE, Peer, Seen, answer_json, by_stream, discovered, error, error_to, events, events_peer,
    http, legacy, open_stream, result, until,
};

#[derive(Clone, Copy)]
enum Known {
    Nothing,
    Modern,
    Legacy,
    Events,
}

fn way_to(addresses: &[SocketAddr], known: Known) -> Way {
    let (dialect, versions): (_, Option<Box<[_]>>) = match known {
        Known::Nothing => (Dialect::Mcp, None),
        Known::Modern => (Dialect::Mcp, Some([ProtocolVersion::V2026_07_28].into())),
        Known::Legacy => (Dialect::Mcp, Some([ProtocolVersion::V2025_11_25].into())),
        Known::Events => (Dialect::McpSse, None),
    };
    let peer = PeerUrl { is_tls: false, host: "s.test".into(), port: 80, base_path: "/mcp".into() };
    let server = Arc::new(Server {
        dialect,
        mcp_versions: versions,
        peers: [peer.clone()].into(),
        deadlines: Deadlines::of(Duration::from_secs(2), Duration::from_millis(300)),
        ..Server::clone(&server("s"))
    });
    let destinations: Vec<_> =
        addresses.iter().map(|address| Destination::new(peer.clone(), *address)).collect();
    let addresses = Addresses::default().with(server.id.clone(), destinations.into());
    own_way(server, &addresses, None).unwrap()
}

fn client() -> Client {
    crate::app::install_crypto();
    Client::new(Settings { max_answer_bytes: 4096 })
}

fn call() -> Ask {
    Ask {
        method: "tools/call".to_owned(),
        name: Some("echo".to_owned()),
        params: Some(r#"{"name":"echo","arguments":{"n":1.50}}"#.to_owned()),
        ..Ask::default()
    }
}

/// All that is said to a question, or why there is no answer.
async fn all(client: &Client, way: &Way, ask: Ask) -> Result<Vec<Told>, Refusal> {
    let asked = async {
        let mut replies = client.ask(way, &ask).await?;
        let mut told = Vec::new();
        loop {
            told.push(replies.next().await?);
            if let Some(Told::Result { .. } | Told::Error { .. }) = told.last() {
                return Ok(told);
            }
        }
    };
    tokio::time::timeout(DEADLINE, asked).await.expect("it ends")
}

fn last(told: Result<Vec<Told>, Refusal>) -> Result<Value, Code> {
    match told.map(|mut told| told.pop().unwrap()) {
        Ok(Told::Result { result: json, .. } | Told::Error { error: json, .. }) => {
            Ok(serde_json::from_str(&json).unwrap())
        }
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal.code()),
    }
}

#[tokio::test]
async fn a_modern_server_is_discovered_once_and_asked_over_one_connection() {
    let peer = Peer::new(|seen| match seen.method() {
        "server/discover" => discovered(seen),
        _ => answer_json(result(seen, json!({"content": []}))),
    })
    .await;
    let (client, way) = (client(), way_to(&[peer.address], Known::Nothing));
    for _ in 0..3 {
        let mut ask = call();
        ask.param_headers = vec![("mcp-param-n".to_owned(), "1.50".to_owned())];
        assert_eq!(last(all(&client, &way, ask).await), Ok(json!({"content": []})));
    }
    assert!(client.spoken(&way).await.unwrap().is_modern);
    assert_eq!(peer.methods(), ["server/discover", "tools/call", "tools/call", "tools/call"]);
    let seen = peer.seen();
    assert!(seen.iter().all(|seen| seen.connection == 0), "the connection is used again");
    let asked = &seen[1];
    assert_eq!(asked.line, "POST /mcp HTTP/1.1");
    for (name, value) in [
        ("host", "s.test"),
        ("accept", "application/json, text/event-stream"),
        ("accept-encoding", "identity"),
        ("content-type", "application/json"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "echo"),
        ("mcp-param-n", "1.50"),
    ] {
        assert_eq!(asked.header(name), Some(value), "{name}");
    }
    let meta = &asked.body["params"]["_meta"];
    assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    assert_eq!(meta["io.modelcontextprotocol/clientCapabilities"], json!({}));
    assert_eq!(meta["io.modelcontextprotocol/clientInfo"]["name"], "portcullis");
    assert_ne!(seen[1].body["id"], seen[2].body["id"], "each question has an id of its own");
}

#[tokio::test]
async fn one_session_is_opened_for_all_who_may_share_it_and_ended_with_the_client() {
    let peer = Peer::new(legacy(|seen| answer_json(result(seen, json!({}))))).await;
    let (client, way) = (client(), way_to(&[peer.address], Known::Nothing));
    let asks = (0..8).map(|_| all(&client, &way, call()));
    for told in futures_util::future::join_all(asks).await {
        assert_eq!(last(told), Ok(json!({})));
    }
    let methods = peer.methods();
    assert_eq!(methods[..3], ["server/discover", "initialize", "notifications/initialized"]);
    assert_eq!(methods.len(), 11);
    let call_seen = peer.seen().pop().unwrap();
    assert_eq!(call_seen.header("mcp-session-id"), Some("s-1"));
    assert_eq!(call_seen.header("mcp-protocol-version"), Some("2025-11-25"));
    assert_eq!((call_seen.header("mcp-method"), call_seen.body["params"].get("_meta")), (None, None));
    // Others say something else of themselves, or want a session of their own.
    for (asker, session) in [
        (Asker { session_of: Some("ann".to_owned()), ..Asker::default() }, "s-2"),
        (Asker { capabilities: Some(r#"{"sampling":{}}"#.to_owned()), ..Asker::default() }, "s-3"),
        (Asker { info: Some(r#"{"name":"x","version":"1"}"#.to_owned()), ..Asker::default() }, "s-1"),
    ] {
        assert_eq!(last(all(&client, &way, Ask { asker, ..call() }).await), Ok(json!({})));
        let asked = peer.seen().into_iter().rev().find(|seen| seen.method() == "tools/call").unwrap();
        assert_eq!(asked.header("mcp-session-id"), Some(session));
    }
    assert_eq!(client.spoken(&way).await.unwrap().version, "2025-11-25");
    drop(client);
    for session in ["s-1", "s-2", "s-3"] {
        let is_end =
            |seen: &Seen| seen.line.starts_with("DELETE") && seen.header("mcp-session-id") == Some(session);
        peer.sees(is_end).await;
    }
}

#[tokio::test]
async fn a_session_that_is_gone_is_opened_anew_and_the_question_asked_once_more() {
    for status in ["404 Not Found", "400 Bad Request"] {
        let answer = move |seen: &Seen| match seen.header("mcp-session-id") {
            Some("s-1") if status.starts_with("404") => error(status, seen, -32000),
            Some("s-1") => error_to(status, &Value::Null, -32000),
            _ => answer_json(result(seen, json!({"n": 2}))),
        };
        let peer = Peer::new(legacy(answer)).await;
        let way = way_to(&[peer.address], Known::Legacy);
        assert_eq!(last(all(&client(), &way, call()).await), Ok(json!({"n": 2})), "{status}");
        let calls = peer.methods().iter().filter(|method| *method == "tools/call").count();
        assert_eq!(calls, 2);
    }
    let peer = Peer::new(legacy(|_| Act::Write(http("404 Not Found", "", "")))).await;
    let way = way_to(&[peer.address], Known::Legacy);
    assert_eq!(last(all(&client(), &way, call()).await), Err(Code::PeerBadAnswer));
    let calls = peer.methods().iter().filter(|method| *method == "tools/call").count();
    assert_eq!(calls, 2, "not for ever");
}

#[tokio::test]
async fn what_may_have_run_is_not_asked_twice_unless_it_does_no_harm() {
    for (known, is_repeatable, expected) in [
        (Known::Modern, false, Err(Code::PeerUnreachable)),
        (Known::Modern, true, Ok(json!({"n": 2}))),
        (Known::Legacy, false, Err(Code::PeerUnreachable)),
        (Known::Legacy, true, Ok(json!({"n": 2}))),
    ] {
        let mut asked = 0;
        let answer = move |seen: &Seen| {
            asked += 1;
            if asked == 1 { Act::Last(String::new()) } else { answer_json(result(seen, json!({"n": asked}))) }
        };
        let peer = Peer::new(legacy(answer)).await;
        let way = way_to(&[peer.address], known);
        let told = all(&client(), &way, Ask { is_repeatable, ..call() }).await;
        assert_eq!(last(told), expected);
        let calls = peer.methods().iter().filter(|method| *method == "tools/call").count();
        assert_eq!(calls, if is_repeatable { 2 } else { 1 });
    }
}

#[tokio::test]
async fn an_address_that_is_not_there_is_passed_over_and_a_restart_waited_for() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let peer = Peer::new(|seen| answer_json(result(seen, json!({})))).await;
    for _ in 0..2 {
        let way = way_to(&[free, peer.address], Known::Modern);
        assert_eq!(last(all(&client(), &way, call()).await), Ok(json!({})));
    }
    let (client, way) = (client(), way_to(&[free], Known::Modern));
    let asked = tokio::spawn(async move { all(&client, &way, call()).await });
    tokio::task::yield_now().await;
    let listener = until(|| std::net::TcpListener::bind(free).ok()).await;
    listener.set_nonblocking(true).unwrap();
    let _peer =
        Peer::on(TcpListener::from_std(listener).unwrap(), |seen| answer_json(result(seen, json!({}))));
    assert_eq!(last(asked.await.unwrap()), Ok(json!({})));
}

#[tokio::test]
async fn a_server_that_is_nowhere_is_given_up_after_its_time() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut way_server = Server::clone(way_to(&[free], Known::Modern).server());
    way_server.deadlines.connect = Duration::from_millis(100);
    let destination = Destination::new(way_server.peers[0].clone(), free);
    let addresses = Addresses::default().with(way_server.id.clone(), [destination].into());
    let way = own_way(Arc::new(way_server), &addresses, None).unwrap();
    let begin = std::time::Instant::now();
    let refusal = all(&client(), &way, call()).await.unwrap_err();
    assert_eq!((refusal.code(), refusal.cause()), (Code::PeerUnreachable, Some("ConnectRefused")));
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn log_messages_are_asked_for_in_a_session_of_that_level() {
    let peer = Peer::new(move |seen| match seen.method() {
        "initialize" => {
            let capabilities = json!({"logging": {}});
            answer_json(result(seen, json!({"protocolVersion": "2025-06-18", "capabilities": capabilities})))
        }
        _ => legacy(|seen| answer_json(result(seen, json!({}))))(seen),
    })
    .await;
    let (client, way) = (client(), way_to(&[peer.address], Known::Legacy));
    let asker = Asker { log_level: Some(r#""warning""#.to_owned()), ..Asker::default() };
    for _ in 0..2 {
        assert_eq!(last(all(&client, &way, Ask { asker: asker.clone(), ..call() }).await), Ok(json!({})));
    }
    let handshake = ["initialize", "notifications/initialized", "logging/setLevel"];
    assert_eq!(peer.methods(), [&handshake[..], &["tools/call"; 2]].concat());
    assert_eq!(peer.seen()[2].body["params"], json!({"level": "warning"}));
    assert_eq!(last(all(&client, &way, call()).await), Ok(json!({})));
    assert_eq!(peer.methods()[5..], ["initialize", "notifications/initialized", "tools/call"]);

    let peer = Peer::new(|seen| answer_json(result(seen, json!({})))).await;
    let way = way_to(&[peer.address], Known::Modern);
    for (level, expected) in
        [(r#""warning""#, json!("warning")), (r#""},"x":{""#, json!(null)), ("}", json!(null))]
    {
        let asker = Asker { log_level: Some(level.to_owned()), ..Asker::default() };
        assert_eq!(last(all(&client, &way, Ask { asker, ..call() }).await), Ok(json!({})));
        let meta = peer.seen().pop().unwrap().body["params"]["_meta"].clone();
        assert_eq!(meta["io.modelcontextprotocol/logLevel"], expected);
    }
}

#[tokio::test]
async fn who_listens_learns_that_the_session_is_gone() {
    let mut is_gone = false;
    let peer = Peer::new(move |seen| match seen.method() {
        "" if seen.line.starts_with("GET") && seen.header("mcp-session-id") == Some("s-1") && !is_gone => {
            is_gone = true;
            Act::Last(events(&[]))
        }
        "" if seen.line.starts_with("GET") => Act::Write(http("404 Not Found", "", "")),
        _ => legacy(|seen| answer_json(result(seen, json!({}))))(seen),
    })
    .await;
    let (client, way) = (client(), way_to(&[peer.address], Known::Legacy));
    let mut replies = client.listen(&way, &Asker::default(), &Filter::default()).await.unwrap();
    let ended = tokio::time::timeout(DEADLINE, replies.next()).await.unwrap();
    assert_eq!(ended.unwrap_err().code(), Code::PeerUnreachable);
    let is_opening = |method: &&String| *method == "initialize";
    assert_eq!(last(all(&client, &way, call()).await), Ok(json!({})));
    assert_eq!(peer.methods().iter().filter(is_opening).count(), 2);
}

/// Checks what becomes of a question to a modern server that answers like this.
#[track_caller]
fn check(answer: impl FnMut(&Seen) -> Act + Send + 'static) -> impl Future<Output = Result<Value, Code>> {
    let answer = Mutex::new(Some(answer));
    async move {
        let answer = answer.lock().unwrap().take().unwrap();
        let peer = Peer::new(answer).await;
        last(all(&client(), &way_to(&[peer.address], Known::Modern), call()).await)
    }
}

#[tokio::test]
async fn what_is_no_answer_is_refused_in_words_of_our_own() {
    const JSON: &str = "content-type: application/json\r\n";
    let raw = |text: &str| {
        let text = text.to_owned();
        check(move |_| Act::Last(text.clone()))
    };
    let huge = format!(r#"{{"x":"{}"}}"#, "x".repeat(5000));
    for (answer, expected) in [
        ("SSH-2.0-OpenSSH\r\n".to_owned(), Code::PeerBadAnswer),
        (
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".to_owned(),
            Code::PeerBadAnswer,
        ),
        ("HTTP/1.1 100 Continue\r\n\r\n".repeat(20), Code::PeerBadAnswer),
        (http("307 Temporary Redirect", "location: http://x/\r\n", ""), Code::PeerBadAnswer),
        (http("401 Unauthorized", "www-authenticate: Bearer\r\n", ""), Code::PeerBadAnswer),
        (http("403 Forbidden", "", ""), Code::PeerBadAnswer),
        (http("202 Accepted", "", ""), Code::PeerBadAnswer),
        (http("200 OK", "content-type: text/html\r\n", "<p>"), Code::PeerBadAnswer),
        (http("200 OK", &format!("{JSON}content-encoding: gzip\r\n"), "{}"), Code::PeerBadAnswer),
        (http("200 OK", &format!("{JSON}{JSON}"), "{}"), Code::PeerBadAnswer),
        (http("200 OK", JSON, "{"), Code::PeerBadAnswer),
        (http("200 OK", JSON, "[]"), Code::PeerBadAnswer),
        (http("200 OK", JSON, r#"{"jsonrpc":"2.0","id":"other","result":{}}"#), Code::PeerBadAnswer),
        (http("200 OK", JSON, &huge), Code::PeerBadAnswer),
        (
            http("200 OK", "content-type: text/event-stream\r\n", format!("data: {huge}\n\n")),
            Code::PeerBadAnswer,
        ),
        (http("200 OK", "content-type: text/event-stream\r\n", "data: x\n\n"), Code::PeerBadAnswer),
        (http("200 OK", "content-type: text/event-stream\r\n", ": nothing\n\n"), Code::PeerUnreachable),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 50\r\ncontent-type: application/json\r\n\r\n{".to_owned(),
            Code::PeerUnreachable,
        ),
        (http("500 Internal Server Error", "", ""), Code::PeerBadAnswer),
        (http("503 Service Unavailable", "", ""), Code::PeerUnreachable),
    ] {
        assert_eq!(raw(&answer).await, Err(expected), "{answer}");
    }
}

#[tokio::test]
async fn the_server_s_own_error_is_an_answer_whatever_the_status() {
    for status in ["200 OK", "400 Bad Request", "403 Forbidden", "404 Not Found", "500 Internal Server Error"]
    {
        let told = check(move |seen| error(status, seen, -32602)).await;
        assert_eq!(told, Ok(json!({"code": -32602, "message": "no"})), "{status}");
    }
    let about_us = check(|seen| error("401 Unauthorized", seen, -32001)).await;
    assert_eq!(about_us, Err(Code::PeerBadAnswer), "a caller would renew a credential that is good");
}

#[tokio::test]
async fn a_server_that_is_too_busy_says_how_long_to_wait() {
    let peer = Peer::new(|_| Act::Write(http("429 Too Many Requests", "retry-after: 7\r\n", ""))).await;
    let refusal = all(&client(), &way_to(&[peer.address], Known::Modern), call()).await.unwrap_err();
    assert_eq!((refusal.code(), refusal.retry_after_secs()), (Code::PeerUnreachable, Some(7)));
}

#[tokio::test]
async fn silence_ends_with_a_refusal_and_drops_do_not() {
    assert_eq!(check(|_| Act::Silence(String::new())).await, Err(Code::PeerTooSlow));
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ncontent-type: application/json\r\n\r\n{";
    assert_eq!(check(|_| Act::Silence(half.to_owned())).await, Err(Code::PeerTooSlow));
    let drip = |seen: &Seen| {
        Act::Drip(http("200 OK", "content-type: application/json\r\n", result(seen, json!({}))))
    };
    assert_eq!(check(drip).await, Ok(json!({})));
    let progress = json!({"method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}});
    let drip = move |seen: &Seen| Act::Drip(events(&[progress.clone(), result(seen, json!({"n": 1.50}))]));
    assert_eq!(check(drip).await, Ok(json!({"n": 1.50})));
}

#[tokio::test]
async fn a_stream_that_has_begun_may_be_silent() {
    let peer = Peer::new(|_| Act::Silence(open_stream(&[json!({"method": "notifications/message"})]))).await;
    let (client, way) = (client(), way_to(&[peer.address], Known::Modern));
    let mut replies = client.ask(&way, &call()).await.unwrap();
    assert!(matches!(replies.next().await, Ok(Told::Notification { .. })));
    let longer = way.server().deadlines.read * 2;
    assert!(tokio::time::timeout(longer, replies.next()).await.is_err(), "it is not over");
    drop(replies);
    until(|| (*peer.left.lock().unwrap() == [0]).then_some(())).await;
}

#[tokio::test]
async fn who_gives_up_on_a_legacy_server_tells_it_so() {
    let peer = Peer::new(legacy(|_| Act::Silence(open_stream(&[])))).await;
    let (client, way) = (client(), way_to(&[peer.address], Known::Legacy));
    let replies = client.ask(&way, &call()).await.unwrap();
    let id = replies.id();
    drop(replies);
    let is_cancelled = |seen: &Seen| seen.method() == "notifications/cancelled";
    let cancelled = peer.sees(is_cancelled).await;
    assert_eq!(cancelled.body["params"]["requestId"], id);
    assert_eq!(cancelled.header("mcp-session-id"), Some("s-1"));

    // Before anything came back, too.
    let peer = Peer::new(legacy(|_| Act::Silence(String::new()))).await;
    let way = way_to(&[peer.address], Known::Legacy);
    let asked = tokio::spawn({
        let client = client.clone();
        async move { client.ask(&way, &call()).await.map(|_| ()) }
    });
    let call_seen = peer.sees(|seen| seen.method() == "tools/call").await;
    asked.abort();
    assert_eq!(peer.sees(is_cancelled).await.body["params"]["requestId"], call_seen.body["id"]);

    // What is over is not cancelled.
    let peer = Peer::new(legacy(|seen| answer_json(result(seen, json!({}))))).await;
    let way = way_to(&[peer.address], Known::Legacy);
    all(&client, &way, call()).await.unwrap();
    all(&client, &way, call()).await.unwrap();
    assert!(!peer.methods().contains(&"notifications/cancelled".to_owned()));
}

#[tokio::test]
async fn what_a_server_asks_is_answered_for_those_who_cannot_be_asked() {
    let questions = [
        json!({"jsonrpc": "2.0", "id": "p", "method": "ping"}),
        json!({"jsonrpc": "2.0", "id": 7, "method": "roots/list"}),
    ];
    let peer = Peer::new(legacy(move |seen| {
        let mut messages = questions.to_vec();
        messages.push(result(seen, json!({})));
        Act::Write(events(&messages))
    }))
    .await;
    let (client, way) = (client(), way_to(&[peer.address], Known::Legacy));
    assert_eq!(all(&client, &way, call()).await.unwrap().len(), 1, "nothing of it is the asker's");
    let answered = |id: Value| move |seen: &Seen| seen.body["id"] == id && seen.method().is_empty();
    assert_eq!(peer.sees(answered(json!("p"))).await.body["result"], json!({}));
    assert_eq!(peer.sees(answered(json!(7))).await.body["error"]["code"], -32601);

    let asker = Asker { capabilities: Some(r#"{"roots":{}}"#.to_owned()), ..Asker::default() };
    let mut replies = client.ask(&way, &Ask { asker, ..call() }).await.unwrap();
    let Ok(Told::Request { id, method, .. }) = replies.next().await else { panic!("it is asked") };
    assert_eq!((id.as_str(), method.as_str()), ("7", "roots/list"));
    let session = SessionRef::from_text(&replies.session().unwrap().to_text()).unwrap();
    replies.respond(&id, Ok(r#"{"roots":[]}"#)).await.unwrap();
    peer.sees(|seen| seen.body["result"] == json!({"roots": []})).await;
    // Another replica answers by what the first one sealed.
    let other = self::client();
    other.tell(&way, &session, r#"{"jsonrpc":"2.0","id":8,"result":{}}"#.to_owned()).await.unwrap();
    let told = peer.sees(answered(json!(8))).await;
    assert_eq!(told.header("mcp-session-id"), Some("s-2"));
    assert_eq!(told.header("mcp-protocol-version"), Some("2025-11-25"));
}

#[tokio::test]
async fn a_server_that_changed_its_era_is_found_out_without_asking_twice() {
    let mut is_modern = true;
    let peer = Peer::new(move |seen| match (is_modern, seen.method()) {
        (true, "server/discover") => discovered(seen),
        (true, "tools/call") => {
            is_modern = false;
            answer_json(result(seen, json!({"n": 1})))
        }
        (false, "initialize") => {
            answer_json(result(seen, json!({"protocolVersion": "2025-06-18", "capabilities": {}})))
        }
        (false, "tools/call") if seen.header("mcp-method").is_none() => {
            answer_json(result(seen, json!({"n": 2})))
        }
        (false, "notifications/initialized") => Act::Write(http("202 Accepted", "", "")),
        _ => error("400 Bad Request", seen, -32022),
    })
    .await;
    let (client, way) = (client(), way_to(&[peer.address], Known::Nothing));
    assert_eq!(last(all(&client, &way, call()).await), Ok(json!({"n": 1})));
    assert_eq!(last(all(&client, &way, call()).await), Ok(json!({"n": 2})));
    assert!(!client.spoken(&way).await.unwrap().is_modern);
}

#[tokio::test]
async fn a_legacy_server_that_became_modern_is_asked_as_one() {
    let mut old = legacy(|seen| answer_json(result(seen, json!({"n": 1}))));
    let mut asked = 0;
    let peer = Peer::new(move |seen| {
        if seen.method() == "tools/call" {
            asked += 1;
        }
        match (asked, seen.method()) {
            (0, _) | (1, "tools/call") => old(seen),
            (_, "server/discover") => discovered(seen),
            _ if seen.header("mcp-method").is_some() => answer_json(result(seen, json!({"n": 2}))),
            _ => error("400 Bad Request", seen, -32022),
        }
    })
    .await;
    let (client, way) = (client(), way_to(&[peer.address], Known::Nothing));
    assert_eq!(last(all(&client, &way, call()).await), Ok(json!({"n": 1})));
    assert_eq!(last(all(&client, &way, call()).await), Ok(json!({"n": 2})));
}

#[tokio::test]
async fn a_broken_stream_is_taken_up_again_where_the_server_lets_us() {
    let mut asked = json!(null);
    let peer = Peer::new(move |seen| match seen.method() {
        "tools/call" => {
            asked = seen.body["id"].clone();
            let stream = "id: e-1\nretry: 1\ndata:\n\n";
            Act::Write(http("200 OK", "content-type: text/event-stream\r\n", stream))
        }
        "" if seen.header("last-event-id") == Some("e-1") => {
            Act::Write(events(&[json!({"jsonrpc": "2.0", "id": asked, "result": {"n": 1}})]))
        }
        _ => legacy(|_| unreachable!())(seen),
    })
    .await;
    let way = way_to(&[peer.address], Known::Legacy);
    assert_eq!(last(all(&client(), &way, call()).await), Ok(json!({"n": 1})));
}

#[tokio::test]
async fn what_a_server_says_unasked_is_heard() {
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    let heard = changed.clone();
    let peer = Peer::new(move |seen| match seen.line.starts_with("GET") {
        true => Act::Silence(open_stream(std::slice::from_ref(&heard))),
        false => legacy(|seen| answer_json(result(seen, json!({}))))(seen),
    })
    .await;
    let (client, way) = (client(), way_to(&[peer.address], Known::Legacy));
    let filter = Filter { tools: true, uris: vec!["file:///a".to_owned()], ..Filter::default() };
    let mut replies = client.listen(&way, &Asker::default(), &filter).await.unwrap();
    let told = tokio::time::timeout(DEADLINE, replies.next()).await.unwrap().unwrap();
    assert!(
        matches!(told, Told::Notification { method, .. } if method == "notifications/tools/list_changed")
    );
    let subscribed = peer.sees(|seen| seen.method() == "resources/subscribe").await;
    assert_eq!(subscribed.body["params"]["uri"], "file:///a");

    let peer = Peer::new(move |seen| {
        Act::Silence(open_stream(&[
            json!({"method": "notifications/subscriptions/acknowledged", "params": seen.body["params"]}),
            changed.clone(),
        ]))
    })
    .await;
    let way = way_to(&[peer.address], Known::Modern);
    let mut replies = client.listen(&way, &Asker::default(), &filter).await.unwrap();
    let Ok(Told::Notification { params, .. }) = replies.next().await else { panic!("it is acknowledged") };
    assert!(params.unwrap().contains(r#""toolsListChanged":true"#));
    assert!(matches!(replies.next().await, Ok(Told::Notification { .. })));
}

#[tokio::test]
async fn a_server_of_http_with_sse_answers_by_its_stream() {
    let peer = events_peer("/messages?s=1", by_stream).await;
    let (client, way) = (client(), way_to(&[peer.address], Known::Events));
    let asks = (0..4).map(|_| all(&client, &way, Ask { wants_progress: true, ..call() }));
    for told in futures_util::future::join_all(asks).await {
        assert_eq!(told.as_ref().unwrap().len(), 2, "its own progress and its own answer");
        assert_eq!(last(told), Ok(json!({"n": 1})));
    }
    assert!(peer.seen().iter().all(|seen| seen.line == "POST /messages?s=1 HTTP/1.1"));
    let lost = Ask { method: "tools/list".to_owned(), ..Ask::default() };
    assert_eq!(last(all(&client, &way, lost).await), Err(Code::PeerUnreachable));

    let silent = Ask { method: "prompts/list".to_owned(), ..Ask::default() };
    let peer = events_peer("/messages?s=1", by_stream).await;
    let way = way_to(&[peer.address], Known::Events);
    assert_eq!(last(all(&client, &way, silent).await), Err(Code::PeerTooSlow));
}

#[tokio::test]
async fn a_message_endpoint_elsewhere_is_not_gone_to() {
    for endpoint in ["http://elsewhere.test/m", "//elsewhere.test/m", "https://s.test/m"] {
        let peer = events_peer(endpoint, by_stream).await;
        let way = way_to(&[peer.address], Known::Events);
        assert_eq!(last(all(&client(), &way, call()).await), Err(Code::PeerBadAnswer), "{endpoint}");
    }
}

#[tokio::test]
async fn the_credential_goes_along_with_every_request_and_into_no_refusal() {
    let peer = Peer::new(|_| Act::Write(http("401 Unauthorized", "", "you said hush"))).await;
    let way = way_to(&[peer.address], Known::Nothing);
    let destination = way.course().first().unwrap().clone();
    let addresses = Addresses::default().with(way.server().id.clone(), [destination].into());
    let credential = crate::catalog::server::CredentialHeader {
        name: http::header::AUTHORIZATION,
        value: crate::names::Secret::new(http::HeaderValue::from_static("Bearer hush")),
    };
    let way = own_way(way.server().clone(), &addresses, Some(credential)).unwrap();
    let refusal = all(&client(), &way, call()).await.unwrap_err();
    assert_eq!(refusal.code(), Code::PeerBadAnswer);
    assert!(!format!("{refusal:?}").contains("hush"));
    assert!(peer.seen().iter().all(|seen| seen.header("authorization") == Some("Bearer hush")));
    assert_eq!(peer.methods(), ["server/discover"], "and it would not believe a handshake either");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_a_server_sends_the_question_ends(
        head in "(HTTP/1.1 (200|202|204|304|400|500)[ -~]{0,5}\r\n(content-type: (application/json|text/event-stream)\r\n)?(transfer-encoding: chunked\r\n|content-length: [0-9]{1,2}\r\n)?\r\n)?",
        body in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let text = head + &String::from_utf8_lossy(&body);
        runtime.block_on(async {
            let told = check(move |_| Act::Last(text.clone())).await;
            assert!(told.is_err());
        });
    }
}
