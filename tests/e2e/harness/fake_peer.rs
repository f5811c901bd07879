//! A tool server made of bytes: it stalls, drips, hangs up and lies on command, and keeps what it was sent.
//!
//! `GET /openapi.json` lists the tools it was given, until a behaviour is set for that path too.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet},
};

use super::{
    deadline::{until, until_so, within},
    wire::{Framing, Head, answer, chunk, read_body},
};

/// What the peer does with a request.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Writes these bytes, head included, once the request has been read; the connection stays open.
    Answer(Vec<u8>),
    /// The same, in pieces of some bytes with a pause before each.
    Drip { bytes: Vec<u8>, piece: usize, pause: Duration },
    /// Writes these bytes, then says that it will send nothing more, and goes on reading.
    HalfClose(Vec<u8>),
    /// Writes these bytes and closes: garbage, or an answer shorter than it said.
    AnswerAndClose(Vec<u8>),
    /// Writes the first bytes, and then the second ones again and again, as fast as they are taken.
    Flood(&'static str, &'static str),
    /// Reads the request and never answers.
    Stall,
    /// Reads the head, and not a byte of the body.
    StallBeforeBody,
    /// Closes once the head has been read.
    HangUpBeforeBody,
    /// Closes once the whole request has been read.
    HangUpAfterBody,
    /// Answers with a stream of events that the test writes: see [`FakePeer::held`].
    Hold,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which of the peer's connections it came on, counted from 0.
    pub connection: usize,
    pub method: String,
    /// As sent, with the query.
    pub path: String,
    /// `head.raw` has it byte for byte.
    pub head: Head,
    /// Empty when the behaviour does not read it.
    pub body: Vec<u8>,
}

impl Request {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Everything that arrived, for looking for what must not.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&[&self.head.raw[..], &self.body].concat()).into_owned()
    }
}

/// A stream of events that is open at the peer.
pub struct Held {
    pub request: Request,
    events: mpsc::UnboundedSender<Vec<u8>>,
    closed: oneshot::Receiver<()>,
}

impl Held {
    /// Sends bytes to whoever listens, as one chunk.
    pub fn send(&self, bytes: impl Into<Vec<u8>>) {
        self.events.send(bytes.into()).expect("the stream is closed");
    }

    /// Ends the stream as it should end.
    pub fn end(self) {}

    /// Returns once the other side has closed the connection.
    pub async fn closed(self) {
        within("the end of the call at the peer", self.closed).await.expect("the stream ended by itself");
    }
}

#[derive(Default)]
struct State {
    tools: BTreeMap<String, Value>,
    behaviours: BTreeMap<String, Behaviour>,
    idle: Option<Duration>,
    requests: Vec<Request>,
    connections: usize,
    open: usize,
}

/// The peer. It ends, with its connections, when this is dropped.
pub struct FakePeer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    held: tokio::sync::Mutex<mpsc::UnboundedReceiver<Held>>,
    accepting: AbortHandle,
}

impl Drop for FakePeer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl FakePeer {
    /// A peer without tools.
    pub async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// The same at an address where another has been: waits until that is free.
    pub async fn start_at(address: &str) -> Self {
        let listener = until("the peer's address", || async { TcpListener::bind(address).await.ok() });
        Self::on(listener.await)
    }

    fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let (to_test, held) = mpsc::unbounded_channel();
        let shared = state.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, shared.clone(), to_test.clone()));
            }
        });
        Self { address, state, held: held.into(), accepting: accepting.abort_handle() }
    }

    /// With a tool that takes any object.
    pub fn with_tool(self, name: &str, behaviour: Behaviour) -> Self {
        self.with_tool_schema(name, json!({"type": "object", "properties": {}}), behaviour)
    }

    /// With a tool whose arguments are described by `schema`.
    pub fn with_tool_schema(self, name: &str, schema: Value, behaviour: Behaviour) -> Self {
        lock(&self.state).tools.insert(name.to_owned(), schema);
        self.set(&format!("/{name}"), behaviour);
        self
    }

    /// With a tool that always answers 200 with this.
    pub fn with_json(self, name: &str, result: Value) -> Self {
        let bytes = answer("200 OK", "application/json", result.to_string().as_bytes());
        self.with_tool(name, Behaviour::Answer(bytes))
    }

    /// Closing connections that are idle this long, as mcpo does after 5 s.
    pub fn with_idle_limit(self, idle: Duration) -> Self {
        lock(&self.state).idle = Some(idle);
        self
    }

    /// Changes what is done with requests to `path` (`/search`, `/openapi.json`) from now on.
    pub fn set(&self, path: &str, behaviour: Behaviour) {
        lock(&self.state).behaviours.insert(path.to_owned(), behaviour);
    }

    /// Takes a tool out of the list.
    pub fn remove_tool(&self, name: &str) {
        lock(&self.state).tools.remove(name);
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far, those for the tool list excepted.
    pub fn requests(&self) -> Vec<Request> {
        let state = lock(&self.state);
        state.requests.iter().filter(|request| request.path != "/openapi.json").cloned().collect()
    }

    /// The requests so far for the tool list.
    pub fn listings(&self) -> usize {
        lock(&self.state).requests.iter().filter(|request| request.path == "/openapi.json").count()
    }

    /// Connections so far, and those open now.
    pub fn connections(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.connections, state.open)
    }

    /// Returns once `count` requests (tool lists excepted) have arrived.
    pub async fn arrived(&self, count: usize) {
        until_so("requests at the peer", || self.requests().len() >= count).await;
    }

    /// The next request whose behaviour is [`Behaviour::Hold`], as a stream to write to.
    pub async fn held(&self) -> Held {
        let mut held = self.held.lock().await;
        within("a stream at the peer", held.recv()).await.unwrap()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap()
}

/// Counts a connection as open for as long as it lives.
struct Open(Arc<Mutex<State>>);

impl Drop for Open {
    fn drop(&mut self) {
        lock(&self.0).open -= 1;
    }
}

async fn serve(socket: TcpStream, state: Arc<Mutex<State>>, held: mpsc::UnboundedSender<Held>) {
    let (number, idle) = {
        let mut state = lock(&state);
        state.connections += 1;
        state.open += 1;
        (state.connections - 1, state.idle)
    };
    let _open = Open(state.clone());
    let _ = socket.set_nodelay(true);
    let mut connection = BufReader::new(socket);
    loop {
        let read = Head::read(&mut connection);
        let read = match idle {
            Some(idle) => match tokio::time::timeout(idle, read).await {
                Ok(read) => read,
                Err(_) => return,
            },
            None => read.await,
        };
        let Ok(Some(head)) = read else { return };
        match react(&mut connection, number, head, &state, &held).await {
            Ok(Next::Request) => {}
            Ok(Next::Close) | Err(_) => return,
        }
    }
}

enum Next {
    Request,
    Close,
}

async fn react(
    connection: &mut BufReader<TcpStream>,
    number: usize,
    head: Head,
    state: &Arc<Mutex<State>>,
    held: &mpsc::UnboundedSender<Held>,
) -> std::io::Result<Next> {
    let mut words = head.first_line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let framing = head.framing().unwrap_or(Framing::Length(0));
    let behaviour = behaviour(&lock(state), &path);
    let mut request = Request { connection: number, method, path, head, body: Vec::new() };
    match behaviour {
        Behaviour::HangUpBeforeBody | Behaviour::StallBeforeBody => {}
        _ => request.body = read_body(connection, framing).await?,
    }
    lock(state).requests.push(request.clone());
    match behaviour {
        Behaviour::Answer(bytes) => connection.write_all(&bytes).await?,
        Behaviour::Drip { bytes, piece, pause } => {
            for piece in bytes.chunks(piece) {
                tokio::time::sleep(pause).await;
                connection.write_all(piece).await?;
            }
        }
        Behaviour::HalfClose(bytes) => {
            connection.write_all(&bytes).await?;
            connection.shutdown().await?;
            tokio::io::copy(connection, &mut tokio::io::sink()).await?;
            return Ok(Next::Close);
        }
        Behaviour::AnswerAndClose(bytes) => {
            connection.write_all(&bytes).await?;
            return Ok(Next::Close);
        }
        Behaviour::Flood(first, more) => {
            connection.write_all(first.as_bytes()).await?;
            let more = more.repeat(1_000);
            loop {
                connection.write_all(more.as_bytes()).await?;
            }
        }
        Behaviour::Stall => {
            connection.read_to_end(&mut Vec::new()).await?;
            return Ok(Next::Close);
        }
        Behaviour::StallBeforeBody => std::future::pending().await,
        Behaviour::HangUpBeforeBody | Behaviour::HangUpAfterBody => return Ok(Next::Close),
        Behaviour::Hold => return hold(connection, request, held).await,
    }
    Ok(Next::Request)
}

fn behaviour(state: &State, path: &str) -> Behaviour {
    let path = path.split('?').next().unwrap_or_default();
    if let Some(behaviour) = state.behaviours.get(path) {
        return behaviour.clone();
    }
    if path == "/openapi.json" {
        let openapi = openapi(&state.tools).to_string();
        return Behaviour::Answer(answer("200 OK", "application/json", openapi.as_bytes()));
    }
    Behaviour::Answer(answer("404 Not Found", "application/json", br#"{"detail":"Not Found"}"#))
}

/// The document that lists these tools, each with the schema of its arguments.
pub fn openapi(tools: &BTreeMap<String, Value>) -> Value {
    let paths: serde_json::Map<_, _> = tools
        .iter()
        .map(|(name, schema)| {
            let operation = json!({
                "operationId": format!("tool_{name}_post"),
                "description": format!("The tool {name} of a fake peer."),
                "requestBody": {"required": true, "content": {"application/json": {"schema": schema}}},
                "responses": {"200": {"description": "Successful Response"}},
            });
            (format!("/{name}"), json!({"post": operation}))
        })
        .collect();
    json!({"openapi": "3.1.0", "info": {"title": "fake", "version": "1"}, "paths": paths})
}

async fn hold(
    connection: &mut BufReader<TcpStream>,
    request: Request,
    held: &mpsc::UnboundedSender<Held>,
) -> std::io::Result<Next> {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    connection.write_all(head).await?;
    let (events, mut to_write) = mpsc::unbounded_channel::<Vec<u8>>();
    let (on_close, closed) = oneshot::channel();
    let _ = held.send(Held { request, events, closed });
    let mut unread = [0; 1024];
    loop {
        tokio::select! {
            event = to_write.recv() => match event {
                Some(event) => connection.write_all(&chunk(&event)).await?,
                // The test has let go of it.
                None => break,
            },
            read = connection.read(&mut unread) => if matches!(read, Ok(0) | Err(_)) {
                let _ = on_close.send(());
                return Ok(Next::Close);
            },
        }
    }
    connection.write_all(b"0\r\n\r\n").await?;
    Ok(Next::Request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::raw::RawClient;

    const REQUEST: &str =
        "POST /search?a=b HTTP/1.1\r\nHost: Peer\r\nX-Odd:  kept \r\ncontent-length: 7\r\n\r\n{\"q\":1}";

    async fn check(behaviour: Behaviour) -> (FakePeer, RawClient) {
        let peer = FakePeer::start().await.with_tool("search", behaviour);
        let mut client = RawClient::connect(&peer.address()).await;
        client.send(REQUEST).await;
        peer.arrived(1).await;
        (peer, client)
    }

    async fn is_closed(client: &mut RawClient) -> bool {
        client.is_closed_within(Duration::from_secs(10)).await
    }

    #[tokio::test]
    async fn requests_are_kept_byte_for_byte() {
        let (peer, mut client) = check(Behaviour::Answer(answer("200 OK", "text/plain", b"yes"))).await;
        assert_eq!(client.read_answer().await.text(), "yes");
        assert_eq!(client.exchange(REQUEST).await.status, 200);
        let requests = peer.requests();
        assert_eq!(requests[0].text(), REQUEST);
        assert_eq!(requests[0].json(), json!({"q": 1}));
        assert_eq!(requests[0].head.all("x-odd"), ["kept"]);
        assert_eq!((requests[1].path.as_str(), requests[1].connection), ("/search?a=b", 0));
        assert_eq!(peer.connections(), (1, 1));
    }

    #[tokio::test]
    async fn the_tool_list_has_the_tools_and_is_counted_apart() {
        let peer = FakePeer::start().await.with_json("search", json!([])).with_json("gone", json!([]));
        peer.remove_tool("gone");
        let mut client = RawClient::connect(&peer.address()).await;
        let listing = client.exchange("GET /openapi.json HTTP/1.1\r\n\r\n").await.json();
        assert_eq!(listing["paths"].as_object().unwrap().keys().collect::<Vec<_>>(), ["/search"]);
        assert_eq!((peer.listings(), peer.requests().len()), (1, 0));
    }

    #[tokio::test]
    async fn a_peer_that_hangs_up_closes_without_an_answer() {
        for behaviour in [Behaviour::HangUpBeforeBody, Behaviour::HangUpAfterBody] {
            let (_peer, mut client) = check(behaviour).await;
            assert!(is_closed(&mut client).await);
        }
    }

    #[tokio::test]
    async fn a_peer_that_stalls_says_nothing() {
        for behaviour in [Behaviour::Stall, Behaviour::StallBeforeBody] {
            let (_peer, mut client) = check(behaviour).await;
            assert!(!client.is_closed_within(Duration::from_millis(50)).await);
        }
    }

    #[tokio::test]
    async fn bytes_are_dripped_or_cut_short_as_told() {
        let bytes = answer("200 OK", "text/plain", b"drop by drop");
        let drip = Behaviour::Drip { bytes: bytes.clone(), piece: 7, pause: Duration::from_millis(1) };
        let (_peer, mut client) = check(drip).await;
        assert_eq!(client.read_answer().await.text(), "drop by drop");

        let (_peer, mut client) = check(Behaviour::HalfClose(bytes.clone())).await;
        assert_eq!(client.read_answer().await.text(), "drop by drop");
        assert!(is_closed(&mut client).await);

        let garbage = b"HTTP/1.1 200 OK\r\n\r\n\0\xff".to_vec();
        let (_peer, mut client) = check(Behaviour::AnswerAndClose(garbage)).await;
        assert_eq!(client.read_answer().await.body, b"\0\xff");
    }

    #[tokio::test]
    async fn a_held_stream_is_written_by_the_test_and_tells_when_the_client_leaves() {
        let (peer, mut client) = check(Behaviour::Hold).await;
        let held = peer.held().await;
        assert_eq!(client.read_head().await.0, 200);
        held.send("data: 1\n\n");
        assert_eq!(client.read_chunk().await.unwrap(), b"data: 1\n\n");
        held.end();
        assert_eq!(client.read_chunk().await, None);

        client.send(REQUEST).await;
        let held = peer.held().await;
        drop(client);
        held.closed().await;
        until_so("the connection counted as closed", || peer.connections().1 == 0).await;
    }

    #[tokio::test]
    async fn an_idle_connection_is_closed_when_a_limit_is_set() {
        let peer = FakePeer::start().await.with_idle_limit(Duration::from_millis(20));
        let mut client = RawClient::connect(&peer.address()).await;
        assert!(is_closed(&mut client).await);
    }
}
