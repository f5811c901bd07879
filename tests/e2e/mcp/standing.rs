//! Thousands of standing streams in one process: none is ended for being quiet, and all end when they must.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};

use super::wire::End;
use crate::harness::{
    deadline::until_so,
    gateway::Gateway,
    grants::{CALLER, Grants},
    raw::RawClient,
    raw_peer::is_gateway,
    request::head,
    tokens::email_token,
    wire::{Framing, Head, answer, chunk, read_body},
};

const STREAMS: usize = 2000;
const GREETING: &[u8] = b": here\n\n";
const NEWS: &[u8] = b"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n";

/// What the server tells all its streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Nothing,
    News,
    End,
}

/// An MCP server that is nothing but standing streams.
struct Streams {
    address: String,
    open: Arc<AtomicUsize>,
    word: Arc<watch::Sender<Word>>,
    accepting: AbortHandle,
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Streams {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (open, word) = (Arc::<AtomicUsize>::default(), Arc::new(watch::Sender::new(Word::Nothing)));
        let (counted, heard) = (open.clone(), word.clone());
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, counted.clone(), heard.subscribe()));
            }
        });
        Self { address, open, word, accepting: accepting.abort_handle() }
    }

    async fn await_open(&self, count: usize) {
        until_so("streams at the server", || self.open.load(Ordering::SeqCst) == count).await;
    }
}

async fn serve(socket: TcpStream, open: Arc<AtomicUsize>, word: watch::Receiver<Word>) {
    let mut connection = BufReader::new(socket);
    while let Ok(Some(head)) = Head::read(&mut connection).await {
        let body = read_body(&mut connection, head.framing().unwrap_or(Framing::Length(0))).await.unwrap();
        if is_gateway(&head) {
            let _ = connection.write_all(&answer("404 Not Found", "text/plain", b"")).await;
            return;
        }
        if head.first_line.starts_with("GET ") {
            open.fetch_add(1, Ordering::SeqCst);
            let _ = stream(&mut connection, word).await;
            open.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let said = answer_to(&body);
        if connection.write_all(said.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// A session for `initialize`, and 202 for anything else.
fn answer_to(message: &[u8]) -> String {
    if !String::from_utf8_lossy(message).contains("\"initialize\"") {
        return "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n".to_owned();
    }
    let result = json!({"jsonrpc": "2.0", "id": 1, "result": {"protocolVersion": "2025-11-25",
        "capabilities": {}, "serverInfo": {"name": "streams", "version": "1"}}})
    .to_string();
    let length = result.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nmcp-session-id: one-for-all\r\n\
         content-length: {length}\r\n\r\n{result}"
    )
}

async fn stream(
    connection: &mut BufReader<TcpStream>,
    mut word: watch::Receiver<Word>,
) -> std::io::Result<()> {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    connection.write_all(head).await?;
    connection.write_all(&chunk(GREETING)).await?;
    let mut unread = [0; 16];
    loop {
        tokio::select! {
            changed = word.changed() => match changed.map(|()| *word.borrow_and_update()) {
                Ok(Word::News) => connection.write_all(&chunk(NEWS)).await?,
                Ok(Word::Nothing) => {}
                Ok(Word::End) | Err(_) => return connection.write_all(b"0\r\n\r\n").await,
            },
            read = connection.read(&mut unread) => if matches!(read, Ok(0) | Err(_)) {
                return Ok(());
            },
        }
    }
}

/// Memory of the gateway that is in use, in KiB.
fn resident_kib(gateway: &Gateway) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[expect(
    clippy::print_stderr,
    reason = "a figure to read in the test's output; `loadtest/streams` takes it with care"
)]
fn report(figure: &str) {
    eprintln!("{figure}");
}

/// [`STREAMS`] clients, each with the standing stream of one session open.
struct Scene {
    server: Streams,
    grants: Grants,
    gateway: Gateway,
    clients: Vec<RawClient>,
}

impl Scene {
    async fn start() -> Self {
        // Both ends of the test are in this process: two sockets a stream.
        rlimit::increase_nofile_limit(3 * STREAMS as u64).unwrap();
        let (server, grants) = (Streams::start().await, Grants::of(&["native"]).await);
        let keys = toml::toml! {
            tier = "http"
            dialect = "mcp"
            read_timeout_secs = 1
        };
        let setup = grants.setup().server_with("native", &format!("http://{}/mcp", server.address), keys);
        // All of them are one caller's, at one address.
        let unbounded = ["streams_per_caller", "requests_per_caller", "connections_per_address"];
        let setup = unbounded.iter().fold(setup, |setup, key| setup.set(&format!("limits.{key}"), 0));
        let gateway = setup.start().await;
        let token = email_token(CALLER);
        let session = End::through(gateway.url("/native/mcp"), &token).session().await;
        let before = resident_kib(&gateway);
        let ask = head(
            "GET",
            "/native/mcp",
            &token,
            &[
                "accept: text/event-stream",
                &format!("mcp-session-id: {session}"),
                "mcp-protocol-version: 2025-11-25",
            ],
        );
        let mut clients = Vec::new();
        for _ in 0..STREAMS {
            let mut client = RawClient::connect(&gateway.address()).await;
            client.send(&ask).await;
            clients.push(client);
        }
        for client in &mut clients {
            assert_eq!(client.read_head().await.0, 200);
            assert_eq!(client.read_chunk().await.as_deref(), Some(GREETING));
        }
        server.await_open(STREAMS).await;
        let added = resident_kib(&gateway) - before;
        report(&format!(
            "{STREAMS} standing streams: {before} KiB before, {:.1} KiB a stream",
            added as f64 / STREAMS as f64
        ));
        assert!(added < 100 * STREAMS, "{added} KiB for {STREAMS} streams");
        Self { server, grants, gateway, clients }
    }

    /// All pass the same news.
    async fn pass_news(&mut self) {
        self.server.word.send_replace(Word::News);
        for client in &mut self.clients {
            assert_eq!(client.read_chunk().await.as_deref(), Some(NEWS));
        }
    }

    async fn await_over(&self) {
        self.server.await_open(0).await;
        self.gateway.await_metric("portcullis_open_streams", &[], 0).await;
    }
}

#[tokio::test]
async fn two_thousand_quiet_streams_stay_and_end_with_the_grant() {
    let mut scene = Scene::start().await;
    // Far longer than the server may keep a caller of a tool waiting.
    assert!(!scene.clients[0].is_closed_within(Duration::from_secs(4)).await, "a quiet stream was ended");
    scene.pass_news().await;
    scene.grants.take_back(CALLER, "native").await;
    for client in &mut scene.clients {
        assert!(client.is_closed_within(Duration::from_secs(10)).await, "a stream outlived its grant");
    }
    scene.await_over().await;
}

#[tokio::test]
async fn two_thousand_streams_end_with_their_server() {
    let mut scene = Scene::start().await;
    scene.server.word.send_replace(Word::End);
    for client in &mut scene.clients {
        assert_eq!(client.read_chunk().await, None);
    }
    scene.await_over().await;
}
