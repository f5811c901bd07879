//! Peers of a few lines, whose script says what they do with each request. They know nothing of the gateway.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Long enough for anything that is going to happen.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// A request as a peer saw it.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) line: String,
    head: String,
    pub(super) body: Value,
    /// Which of the peer's connections it came by, counted from 0.
    pub(super) connection: usize,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    }

    pub(super) fn method(&self) -> &str {
        self.body["method"].as_str().unwrap_or_default()
    }
}

/// What a peer does with a request.
pub(super) enum Act {
    /// Writes this, and takes the next request.
    Write(String),
    /// Writes this byte by byte.
    Drip(String),
    /// Writes this and closes.
    Last(String),
    /// Writes this, and then nothing.
    Silence(String),
}

pub(super) struct Peer {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Connections that the other side has closed.
    pub(super) left: Arc<Mutex<Vec<usize>>>,
}

impl Peer {
    pub(super) async fn new(script: impl FnMut(&Seen) -> Act + Send + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    pub(super) fn on(listener: TcpListener, script: impl FnMut(&Seen) -> Act + Send + 'static) -> Self {
        let peer =
            Self { address: listener.local_addr().unwrap(), seen: Arc::default(), left: Arc::default() };
        let (seen, left, script) = (peer.seen.clone(), peer.left.clone(), Arc::new(Mutex::new(script)));
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (seen, left, script) = (seen.clone(), left.clone(), script.clone());
                tokio::spawn(async move {
                    serve(stream, connection, &seen, &script).await;
                    left.lock().unwrap().push(connection);
                });
            }
        });
        peer
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(super) fn methods(&self) -> Vec<String> {
        let method = |seen: &Seen| match seen.method() {
            "" => seen.line.split(' ').next().unwrap().to_owned(),
            method => method.to_owned(),
        };
        self.seen().iter().map(method).collect()
    }

    /// The first request that `is_wanted` names, once it has come.
    pub(super) async fn sees(&self, is_wanted: impl Fn(&Seen) -> bool) -> Seen {
        until(|| self.seen().into_iter().find(|seen| is_wanted(seen))).await
    }
}

pub(super) async fn until<T>(mut there: impl FnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(it) = there() {
                return it;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("it never came")
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    seen: &Mutex<Vec<Seen>>,
    script: &Mutex<impl FnMut(&Seen) -> Act>,
) {
    while let Some(request) = read_request(&mut stream, connection).await {
        let act = script.lock().unwrap()(&request);
        seen.lock().unwrap().push(request);
        match act {
            Act::Write(answer) => drop(stream.write_all(answer.as_bytes()).await),
            Act::Drip(answer) => {
                for byte in answer.bytes() {
                    drop(stream.write_all(&[byte]).await);
                    tokio::task::yield_now().await;
                }
            }
            Act::Last(answer) => {
                drop(stream.write_all(answer.as_bytes()).await);
                return;
            }
            Act::Silence(answer) => {
                drop(stream.write_all(answer.as_bytes()).await);
                drop(stream.read(&mut [0; 1]).await);
                return;
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream, connection: usize) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let line = head.lines().next().unwrap().to_owned();
    let mut seen = Seen { line, head, body: Value::Null, connection };
    if let Some(length) = seen.header("content-length") {
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).await.ok()?;
        seen.body = serde_json::from_slice(&body).unwrap();
    }
    Some(seen)
}

pub(super) fn http(status: &str, more: &str, body: impl ToString) -> String {
    let body = body.to_string();
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{more}\r\n{body}", body.len())
}

pub(super) fn answer_json(body: Value) -> Act {
    Act::Write(http("200 OK", "content-type: application/json\r\n", body))
}

pub(super) fn result(seen: &Seen, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": seen.body["id"], "result": result})
}

pub(super) fn error(status: &str, seen: &Seen, code: i64) -> Act {
    error_to(status, &seen.body["id"], code)
}

pub(super) fn error_to(status: &str, id: &Value, code: i64) -> Act {
    let body = json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": "no"}});
    Act::Write(http(status, "content-type: application/json\r\n", body))
}

pub(super) fn events(messages: &[Value]) -> String {
    let events: Vec<String> = messages.iter().map(|message| format!("data: {message}\n\n")).collect();
    http("200 OK", "content-type: text/event-stream\r\n", events.concat())
}

/// A stream that goes on after these messages.
pub(super) fn open_stream(messages: &[Value]) -> String {
    let mut stream =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\n".to_owned();
    for message in messages {
        let event = format!("data: {message}\n\n");
        stream += &format!("{:x}\r\n{event}\r\n", event.len());
    }
    stream
}

/// A server of sessions, each with a name of its own; `call` answers what is asked in one.
pub(super) fn legacy(mut call: impl FnMut(&Seen) -> Act + Send) -> impl FnMut(&Seen) -> Act + Send {
    let mut opened = 0;
    move |seen| match seen.method() {
        "server/discover" => error("400 Bad Request", seen, -32000),
        "initialize" => {
            opened += 1;
            let hello =
                json!({"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "s"}});
            let session = format!("content-type: application/json\r\nmcp-session-id: s-{opened}\r\n");
            Act::Write(http("200 OK", &session, result(seen, hello)))
        }
        method if method.starts_with("notifications/") => Act::Write(http("202 Accepted", "", "")),
        "" if seen.line.starts_with("GET") => Act::Write(http("405 Method Not Allowed", "", "")),
        "" => Act::Write(http("202 Accepted", "", "")),
        _ => call(seen),
    }
}

pub(super) fn discovered(seen: &Seen) -> Act {
    answer_json(result(
        seen,
        json!({"supportedVersions": ["2026-07-28"], "capabilities": {}, "resultType": "complete"}),
    ))
}

/// A legacy HTTP+SSE server: the message endpoint it names, and what it says on its stream to a question.
pub(super) async fn events_peer(
    endpoint: &'static str,
    mut say: impl FnMut(&Value) -> Vec<Value> + Send + 'static,
) -> Peer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (said, mut saying) = tokio::sync::mpsc::unbounded_channel::<Value>();
    let peer = Peer { address: listener.local_addr().unwrap(), seen: Arc::default(), left: Arc::default() };
    let seen = peer.seen.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream, 0).await;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        let first = format!("{head}event: endpoint\ndata: {endpoint}\n\n");
        stream.write_all(first.as_bytes()).await.unwrap();
        tokio::spawn(async move {
            while let Some(message) = saying.recv().await {
                if message.is_null() {
                    return;
                }
                drop(stream.write_all(format!("event: message\ndata: {message}\n\n").as_bytes()).await);
            }
        });
        let script = Arc::new(Mutex::new(move |request: &Seen| {
            for message in say(&request.body) {
                drop(said.send(message));
            }
            Act::Write(http("202 Accepted", "", "Accepted"))
        }));
        while let Ok((stream, _)) = listener.accept().await {
            let (seen, script) = (seen.clone(), script.clone());
            tokio::spawn(async move { serve(stream, 1, &seen, &script).await });
        }
    });
    peer
}

pub(super) fn by_stream(body: &Value) -> Vec<Value> {
    let result = |result: Value| json!({"jsonrpc": "2.0", "id": body["id"], "result": result});
    match body["method"].as_str() {
        Some("initialize") => vec![result(json!({"protocolVersion": "2024-11-05", "capabilities": {}}))],
        Some("tools/call") => vec![
            json!({"method": "notifications/progress",
                "params": {"progressToken": body["params"]["_meta"]["progressToken"], "progress": 1}}),
            result(json!({"n": 1})),
        ],
        // Hangs up.
        Some("tools/list") => vec![Value::Null],
        _ => Vec::new(),
    }
}
