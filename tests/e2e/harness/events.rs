//! Streams of numbered events: a peer that sends them, and clients each of which sees that none is missing.
//!
//! The peer has the REST tools `search`, which answers at once, and `events`, which answers with a stream; at `/mcp` it speaks
//! MCP with standing streams. It can be killed and started again on its port.

use std::{
    fmt::Write,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};

use super::{
    deadline::{until_so, within},
    fake_peer::openapi,
    load::apart,
    port::Port,
    wire::{Framing, Head, answer, chunk, read_body, read_chunk},
};

/// What `search` answers.
pub const FOUND: &[u8] = br#""found""#;
const SESSION: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nmcp-session-id: one\r\ncontent-length: ";
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"events","version":"1"}}}"#;
const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// The peer.
pub struct EventPeer {
    address: SocketAddr,
    _port: Option<Port>,
    every: Duration,
    /// Whether streams end, as they should end.
    is_over: watch::Sender<bool>,
    answered: Arc<Mutex<usize>>,
    accepting: Mutex<Option<AbortHandle>>,
}

impl Drop for EventPeer {
    fn drop(&mut self) {
        self.kill();
    }
}

impl EventPeer {
    /// One whose streams have an event each time `every` has passed.
    pub fn start(every: Duration) -> Self {
        let port = Port::take();
        let address = port.address().parse().unwrap();
        Self::on(address, Some(port), every)
    }

    /// One at this address.
    pub fn start_at(address: SocketAddr, every: Duration) -> Self {
        Self::on(address, None, every)
    }

    fn on(address: SocketAddr, port: Option<Port>, every: Duration) -> Self {
        let (is_over, answered) = (watch::Sender::new(false), Arc::default());
        let peer = Self { address, _port: port, every, is_over, answered, accepting: Mutex::default() };
        peer.start_again();
        peer
    }

    /// Closes its port and every connection at once, as the end of a process does.
    pub fn kill(&self) {
        if let Some(accepting) = self.accepting.lock().unwrap().take() {
            accepting.abort();
        }
    }

    /// Listens again after [`Self::kill`].
    pub fn start_again(&self) {
        let _apart = apart().enter();
        let listener = listen(self.address);
        let (every, is_over, answered) = (self.every, self.is_over.clone(), self.answered.clone());
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, every, is_over.subscribe(), answered.clone()));
            }
        });
        *self.accepting.lock().unwrap() = Some(accepting.abort_handle());
    }

    /// Ends its streams.
    pub fn end_streams(&self) {
        self.is_over.send_replace(true);
    }

    /// How many calls of `search` it has answered.
    pub fn answered(&self) -> usize {
        *self.answered.lock().unwrap()
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// A listener at an address that may have connections left from before.
pub fn listen(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(1024).unwrap()
}

async fn serve(
    socket: TcpStream,
    every: Duration,
    is_over: watch::Receiver<bool>,
    answered: Arc<Mutex<usize>>,
) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut connection = BufReader::new(socket);
    while let Some(head) = Head::read(&mut connection).await? {
        let body = read_body(&mut connection, head.framing().unwrap_or(Framing::Length(0))).await?;
        let asked: Vec<_> = head.first_line.split(' ').collect();
        match (asked[0], asked[1]) {
            ("GET", "/openapi.json") => connection.write_all(&document()).await?,
            ("POST", "/search") => {
                *answered.lock().unwrap() += 1;
                connection.write_all(&answer("200 OK", "application/json", FOUND)).await?;
            }
            ("POST", "/events") | ("GET", "/mcp") => stream(&mut connection, every, is_over.clone()).await?,
            ("POST", "/mcp") if String::from_utf8_lossy(&body).contains(r#""initialize""#) => {
                let said = format!("{SESSION}{}\r\n\r\n{INITIALIZED}", INITIALIZED.len());
                connection.write_all(said.as_bytes()).await?;
            }
            ("POST", "/mcp") => connection.write_all(&answer("202 Accepted", "text/plain", b"")).await?,
            _ => connection.write_all(&answer("404 Not Found", "text/plain", b"")).await?,
        }
    }
    Ok(())
}

fn document() -> Vec<u8> {
    let schema = serde_json::json!({"type": "object", "properties": {}});
    let tools = ["search", "events"].map(|name| (name.to_owned(), schema.clone()));
    answer("200 OK", "application/json", openapi(&tools.into_iter().collect()).to_string().as_bytes())
}

async fn stream(
    connection: &mut BufReader<TcpStream>,
    every: Duration,
    mut is_over: watch::Receiver<bool>,
) -> std::io::Result<()> {
    connection.write_all(STREAM).await?;
    let mut ticks = tokio::time::interval(every);
    let mut nothing = [0; 16];
    for number in 0_usize.. {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = is_over.wait_for(|is_over| *is_over) => break,
            _ = connection.read(&mut nothing) => return Err(std::io::ErrorKind::ConnectionAborted.into()),
        }
        let event = format!(
            "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{{\"level\":\"info\",\"data\":{number}}}}}\n\n"
        );
        connection.write_all(&chunk(event.as_bytes())).await?;
    }
    connection.write_all(b"0\r\n\r\n").await
}

/// Clients of open streams.
#[derive(Default)]
pub struct Streams {
    clients: JoinSet<Result<usize, String>>,
    opened: Arc<Mutex<usize>>,
}

impl Streams {
    /// Opens `count` more by this request; returns once each has had an event.
    pub async fn open(&mut self, count: usize, address: &str, request: &[u8]) {
        let before = *self.opened.lock().unwrap();
        for _ in 0..count {
            let (address, request, opened) = (address.to_owned(), request.to_vec(), self.opened.clone());
            self.clients.spawn(async move { follow(&address, &request, &opened).await });
        }
        until_so("an event on every stream", || *self.opened.lock().unwrap() == before + count).await;
    }

    /// Waits for the end of all, which they must have been told: what was wrong with each that broke, and how many events
    /// came in all.
    pub async fn ended(mut self) -> (String, usize) {
        let (mut broken, mut events) = (String::new(), 0);
        let all = async {
            while let Some(one) = self.clients.join_next().await {
                match one.unwrap() {
                    Ok(count) => events += count,
                    Err(what) => writeln!(broken, "{what}").unwrap(),
                }
            }
        };
        within("the end of all streams", all).await;
        (broken, events)
    }
}

/// Reads one to its end: how many events came, all in order.
async fn follow(address: &str, request: &[u8], opened: &Mutex<usize>) -> Result<usize, String> {
    let told = |error: std::io::Error| error.to_string();
    let mut connection = BufReader::new(TcpStream::connect(address).await.map_err(told)?);
    connection.write_all(request).await.map_err(told)?;
    let head = Head::read(&mut connection).await.map_err(told)?.ok_or("closed without an answer")?;
    if !head.first_line.contains(" 200 ") {
        return Err(head.first_line);
    }
    let (mut text, mut next) = (String::new(), 0_usize);
    loop {
        let piece = read_chunk(&mut connection).await;
        let piece = piece.map_err(|error| format!("broken after {next} events: {error}"))?;
        let Some(piece) = piece else { return Ok(next) };
        text.push_str(std::str::from_utf8(&piece).map_err(|error| error.to_string())?);
        while let Some((event, rest)) = text.split_once("\n\n") {
            let number =
                event.rsplit_once(r#""data":"#).map(|(_, number)| number.trim_end_matches('}').to_owned());
            let rest = rest.to_owned();
            if let Some(number) = number {
                if number != next.to_string() {
                    return Err(format!("event {number} where {next} was due"));
                }
                next += 1;
                if next == 1 {
                    *opened.lock().unwrap() += 1;
                }
            }
            text = rest;
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_is_told_from_one_that_ends() {
    use super::request::post;
    let peer = EventPeer::start(Duration::from_millis(2));
    let address = peer.url().replace("http://", "");
    let mut streams = Streams::default();
    streams.open(3, &address, &post("/events", "", "{}")).await;
    peer.end_streams();
    let (broken, events) = streams.ended().await;
    assert!(broken.is_empty() && events >= 3, "{broken}{events}");

    let peer = EventPeer::start(Duration::from_millis(2));
    let address = peer.url().replace("http://", "");
    let mut streams = Streams::default();
    streams.open(2, &address, &post("/events", "", "{}")).await;
    peer.kill();
    assert_eq!(streams.ended().await.0.lines().count(), 2);
    peer.start_again();
    streams = Streams::default();
    streams.open(1, &address, &post("/events", "", "{}")).await;
}
