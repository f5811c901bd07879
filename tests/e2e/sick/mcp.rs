//! Sick servers of MCP: what is sent a second time, and when one is left alone.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

use super::with_peers;
use crate::harness::{
    deadline::until,
    gateway::Gateway,
    grants::{CALLER, Grants},
    raw_peer::is_gateway,
    tokens::email_token,
    wire::{Framing, Head, answer, read_body},
};

/// What a server does with requests of clients.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Answers,
    /// Answers all but the first of each kind, of which it takes the request and hangs up.
    HangsUpFirst,
    /// Begins to answer calls, and goes on with a byte from time to time.
    Drips,
    /// Answers calls as a proxy does whose server is gone.
    Is503,
    /// Takes calls and says nothing.
    Swallows,
    /// Goes on answering calls for ever, as fast as that is taken.
    Floods,
}

/// A server of MCP without sessions.
struct Peer {
    address: String,
    /// What each request of a client was: its method, or the tool that it calls.
    taken: Arc<Mutex<Vec<String>>>,
    accepting: AbortHandle,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Peer {
    async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let taken = Arc::<Mutex<Vec<String>>>::default();
        let shared = taken.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, manner, shared.clone()));
            }
        });
        Self { address, taken, accepting: accepting.abort_handle() }
    }

    /// How often it was sent this, since the last time.
    fn sent(&self, what: &str) -> usize {
        let taken = std::mem::take(&mut *self.taken.lock().unwrap());
        taken.iter().filter(|one| *one == what).count()
    }
}

async fn serve(socket: TcpStream, manner: Manner, taken: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let mut connection = BufReader::new(socket);
    while let Some(head) = Head::read(&mut connection).await? {
        let body = read_body(&mut connection, head.framing().unwrap_or(Framing::Length(0))).await?;
        let message: Value = serde_json::from_slice(&body).unwrap_or_default();
        let method = message["method"].as_str().unwrap_or_default();
        let what = message.pointer("/params/name").and_then(Value::as_str).unwrap_or(method).to_owned();
        if !is_gateway(&head) || method == "tools/call" {
            let is_first = {
                let mut taken = taken.lock().unwrap();
                taken.push(what.clone());
                taken.iter().filter(|one| **one == what).count() == 1
            };
            if is_first && manner == Manner::HangsUpFirst {
                return Ok(());
            }
        }
        let hints = |name: &str, hints: Value| json!({"name": name, "inputSchema": {"type": "object"}, "annotations": hints});
        let result = match method {
            "initialize" => json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                "serverInfo": {"name": "hangs up", "version": "1"}}),
            "tools/list" => json!({"tools": [hints("look", json!({"readOnlyHint": true})),
                hints("set", json!({"idempotentHint": true})), hints("act", json!({}))]}),
            "tools/call" => json!({"content": []}),
            _ => json!({}),
        };
        let said = match message.get("id") {
            Some(id) if method == "server/discover" => {
                json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no such method"}})
            }
            Some(id) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
            None => Value::Null,
        };
        let said = match said {
            Value::Null => answer("202 Accepted", "application/json", b""),
            said => answer("200 OK", "application/json", said.to_string().as_bytes()),
        };
        if manner == Manner::Swallows && method == "tools/call" {
            std::future::pending().await
        } else if manner == Manner::Floods && method == "tools/call" {
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
            connection.write_all(head.as_bytes()).await?;
            loop {
                connection.write_all("1\r\n \r\n".repeat(1_000).as_bytes()).await?;
            }
        } else if manner == Manner::Is503 && method == "tools/call" {
            connection.write_all(&answer("503 Service Unavailable", "text/plain", b"no backend")).await?;
        } else if manner == Manner::Drips && method == "tools/call" {
            let (head, body) = said.split_at(said.len() - 20);
            connection.write_all(head).await?;
            for byte in body {
                tokio::time::sleep(Duration::from_millis(200)).await;
                connection.write_all(&[*byte]).await?;
            }
        } else {
            connection.write_all(&said).await?;
        }
    }
    Ok(())
}

/// The status of a request through the gateway, with further headers.
async fn post(gateway: &Gateway, method: &str, params: Value, headers: &[(&str, &str)]) -> u16 {
    let message = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
    let request = gateway.call_request("/alpha/mcp", &email_token(CALLER), &message);
    let request = request.header("accept", "application/json, text/event-stream");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    gateway.send(request).await.status.as_u16()
}

#[tokio::test]
async fn what_reads_or_may_run_twice_is_sent_again_and_nothing_else() {
    let peer = Peer::start(Manner::HangsUpFirst).await;
    let grants = Grants::of(&["alpha"]).await;
    let gateway = grants.setup().mcp("alpha", "mcp", &format!("http://{}/mcp", peer.address)).start().await;
    gateway.knows_tools("alpha", 3).await;
    let call = |name: &str| json!({"name": name, "arguments": {}});
    for (method, params, headers, what, expected) in [
        ("tools/call", call("look"), &[][..], "look", (200, 2)),
        ("tools/call", call("set"), &[], "set", (200, 2)),
        ("tools/call", call("act"), &[], "act", (502, 1)),
        ("tools/call", call("unheard of"), &[], "unheard of", (502, 1)),
        ("tools/call", call("act"), &[("idempotency-key", "once")], "act", (200, 2)),
        ("tools/list", json!({}), &[], "tools/list", (200, 2)),
        ("ping", json!({}), &[], "ping", (200, 2)),
        ("logging/setLevel", json!({"level": "info"}), &[], "logging/setLevel", (502, 1)),
    ] {
        let status = post(&gateway, method, params, headers).await;
        assert_eq!((status, peer.sent(what)), expected, "{method} {what} {headers:?}");
        // What it hung up on counts against it: the next begins when it is called again.
        until("a peer that is called", async || {
            let healthy = [("server", "alpha"), ("state", "healthy")];
            (gateway.metrics().await.sum("portcullis_peers", &healthy) == 1.0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_that_drips_its_answers_is_left_alone_on_every_face() {
    for face in ["/alpha/look", "/alpha/mcp"] {
        let (well, sick) = (Peer::start(Manner::Answers).await, Peer::start(Manner::Drips).await);
        let grants = Grants::of(&["alpha"]).await;
        let urls = [&well, &sick].map(|peer| format!("http://{}/mcp", peer.address));
        let keys = "dialect = 'mcp'\ntotal_timeout_secs = 0.5\nhealth = { tool = 'look' }";
        let gateway = with_peers(grants.setup(), "alpha", &urls, keys).start().await;
        gateway.knows_tools("alpha", 3).await;
        let message = match face {
            "/alpha/mcp" => json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call",
                "params": {"name": "act", "arguments": {}}}),
            _ => json!({}),
        };
        let mut failures = 0;
        for _ in 0..30 {
            let request = gateway.call_request(face, &email_token(CALLER), &message);
            let answer = request.header("accept", "application/json, text/event-stream").send().await;
            let answer = answer.unwrap();
            let is_good = answer.status() == 200 && answer.bytes().await.is_ok();
            failures += usize::from(!is_good);
        }
        assert!((1..=3).contains(&failures), "{face}: {failures} of 30 calls failed");
        assert!(well.taken.lock().unwrap().len() >= 20, "{face}");
    }
}

#[tokio::test]
async fn what_may_run_twice_goes_to_the_other_peer_when_one_says_that_it_has_no_server() {
    for face in ["/alpha/look", "/alpha/set", "/mcp"] {
        let (well, sick) = (Peer::start(Manner::Answers).await, Peer::start(Manner::Is503).await);
        let grants = Grants::of(&["alpha"]).await;
        let urls = [&well, &sick].map(|peer| format!("http://{}/mcp", peer.address));
        let gateway = with_peers(grants.setup(), "alpha", &urls, "dialect = 'mcp'").start().await;
        gateway.knows_tools("alpha", 3).await;
        let message = match face {
            "/mcp" => json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call",
                "params": {"name": "alpha_look", "arguments": {}}}),
            _ => json!({}),
        };
        for _ in 0..20 {
            let request = gateway.call_request(face, &email_token(CALLER), &message);
            let answer = gateway.send(request.header("accept", "application/json, text/event-stream")).await;
            assert!(answer.status == 200 && !answer.text().contains("error"), "{face}: {}", answer.text());
        }
        assert!(!sick.taken.lock().unwrap().is_empty(), "{face}: it was never asked");
    }
}

#[tokio::test]
async fn an_answer_is_due_in_time_from_the_second_peer_as_well_and_ends_in_time() {
    for (first, second, keys) in [
        (Manner::Is503, Manner::Swallows, "first_byte_timeout_secs = 1"),
        (Manner::Floods, Manner::Floods, "total_timeout_secs = 1"),
    ] {
        let (first, second) = (Peer::start(first).await, Peer::start(second).await);
        let grants = Grants::of(&["alpha"]).await;
        let urls = [&first, &second].map(|peer| format!("http://{}/mcp", peer.address));
        let keys = format!("dialect = 'mcp'\n{keys}");
        let gateway = with_peers(grants.setup(), "alpha", &urls, &keys).start().await;
        gateway.knows_tools("alpha", 3).await;
        let look = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call",
            "params": {"name": "look", "arguments": {}}});
        // Whichever of the two is first: one of two calls meets the other.
        for _ in 0..2 {
            let request = gateway.call_request("/alpha/mcp", &email_token(CALLER), &look);
            let calling = async {
                let answer =
                    request.header("accept", "application/json, text/event-stream").send().await.unwrap();
                answer.status() == 200 && answer.bytes().await.is_ok()
            };
            let is_good = tokio::time::timeout(Duration::from_secs(10), calling).await;
            assert!(!is_good.expect("an answer that does not come, or to an end"), "{keys}");
        }
    }
}
