//! What Open WebUI 0.12.4 and its servers said to each other, said again with the gateway in between.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
};

use serde::Deserialize;
use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};

use crate::harness::{
    mcp::Scene,
    openwebui::JANE_EMAIL,
    raw::RawClient,
    raw_peer::is_gateway,
    request::head,
    tokens::email_token,
    wire::{Framing, Head, chunk, read_body},
};

#[derive(Clone, Deserialize)]
struct Exchange {
    request: Request,
    answer: Answer,
}

#[derive(Clone, Deserialize)]
struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: String,
}

#[derive(Clone, Deserialize)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Body,
}

/// As it was framed.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Body {
    Whole(String),
    Chunks(Vec<String>),
}

impl Body {
    fn text(&self) -> String {
        match self {
            Self::Whole(body) => body.clone(),
            Self::Chunks(chunks) => chunks.concat(),
        }
    }
}

/// What a server was asked: heads and bodies, in their order.
type Heard = Arc<Mutex<Vec<(Head, Vec<u8>)>>>;

/// A server that gives the recorded answers in their order, and keeps what it was asked.
struct Recording {
    address: String,
    heard: Heard,
    accepting: AbortHandle,
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Recording {
    async fn play(exchanges: &[Exchange]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heard = Heard::default();
        let answers: VecDeque<_> = exchanges.iter().map(|exchange| exchange.answer.clone()).collect();
        let part =
            Part { answers: Arc::new(Mutex::new(answers)), heard: heard.clone(), is_over: Arc::default() };
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(part.clone().serve(socket));
            }
        });
        Self { address, heard, accepting: accepting.abort_handle() }
    }
}

#[derive(Clone)]
struct Part {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    heard: Heard,
    /// The session has been ended, and with it its standing stream.
    is_over: Arc<watch::Sender<bool>>,
}

impl Part {
    async fn serve(self, socket: TcpStream) {
        let mut connection = BufReader::new(socket);
        while let Ok(Some(head)) = Head::read(&mut connection).await {
            let framing = head.framing().unwrap_or(Framing::Length(0));
            let body = read_body(&mut connection, framing).await.unwrap();
            if is_gateway(&head) {
                let _ = connection.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
                continue;
            }
            let answer = self.answers.lock().unwrap().pop_front().expect("a request that was not recorded");
            let method = head.first_line.split(' ').next().unwrap_or_default().to_owned();
            self.heard.lock().unwrap().push((head, body));
            if self.answer(&mut connection, &method, &answer).await.is_err() {
                return;
            }
        }
    }

    async fn answer(
        &self,
        connection: &mut BufReader<TcpStream>,
        method: &str,
        answer: &Answer,
    ) -> std::io::Result<()> {
        let mut said = format!("HTTP/1.1 {} Recorded\r\n", answer.status);
        for (name, value) in &answer.headers {
            said += &format!("{name}: {value}\r\n");
        }
        if method == "DELETE" {
            self.is_over.send_replace(true);
        }
        let chunks = match &answer.body {
            Body::Whole(body) => {
                let length = body.len();
                said += &format!("content-length: {length}\r\n\r\n{body}");
                return connection.write_all(said.as_bytes()).await;
            }
            Body::Chunks(chunks) => chunks,
        };
        connection.write_all(format!("{said}transfer-encoding: chunked\r\n\r\n").as_bytes()).await?;
        for piece in chunks {
            connection.write_all(&chunk(piece.as_bytes())).await?;
        }
        if method == "GET" {
            let _ = self.is_over.subscribe().wait_for(|is_over| *is_over).await;
        }
        connection.write_all(b"0\r\n\r\n").await
    }
}

/// The client's side: each recorded request through the gateway, in its order, and each answer as it was recorded.
async fn check(recorded: &str) {
    let exchanges: Vec<Exchange> = serde_json::from_str(recorded).unwrap();
    let recording = Recording::play(&exchanges).await;
    let endpoint = format!("http://{}{}", recording.address, exchanges[0].request.path);
    let scene = Scene::in_front_of(&endpoint).await;
    scene.grants.add(JANE_EMAIL, "native").await;
    scene.gateway.await_grants(3).await;
    let token = email_token(JANE_EMAIL);
    let mut ids = BTreeMap::new();
    let mut standing = None;
    for Exchange { request, answer } in &exchanges {
        let mut client = RawClient::connect(&scene.gateway.address()).await;
        client.send(as_sent(request, &token, &ids)).await;
        let (status, head) = client.read_head().await;
        let what = format!("{} {}", request.method, request.body);
        assert_eq!(status, answer.status, "{what}");
        check_headers(&what, &head, answer, &mut ids);
        if request.method == "GET" {
            standing = Some(client);
            continue;
        }
        let body = client.read_body(status, &head).await;
        assert_eq!(String::from_utf8(body).unwrap(), answer.body.text(), "{what}");
    }
    if let Some(mut standing) = standing {
        assert_eq!(standing.read_chunk().await, None, "the standing stream outlived its session");
    }
    check_what_was_heard(&recording, &exchanges, &token);
}

/// The recorded request of today: with this token, and the session ids that the gateway gave.
fn as_sent(request: &Request, token: &str, ids: &BTreeMap<String, String>) -> String {
    let mut lines = vec![format!("content-length: {}", request.body.len())];
    for (name, value) in &request.headers {
        let value = if name == "mcp-session-id" { &ids[value] } else { value };
        lines.push(format!("{name}: {value}"));
    }
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    head(&request.method, "/native/mcp", token, &lines) + &request.body
}

/// What was recorded stands in the head; a session id is the gateway's own, and none where no session was begun.
#[track_caller]
fn check_headers(what: &str, head: &Head, answer: &Answer, ids: &mut BTreeMap<String, String>) {
    for (name, value) in &answer.headers {
        // The recorded server names a session even when it refuses the probe; the newest revision has none.
        if name == "mcp-session-id" && answer.status == 400 {
            assert_eq!(head.header(name), None, "{what}");
            continue;
        }
        let got = head.header(name).unwrap_or_else(|| panic!("{what}: {name} is gone"));
        if name != "mcp-session-id" {
            assert_eq!(got, value, "{what}: {name}");
            continue;
        }
        assert_ne!(got, value, "{what}: the server's own session id reached the client");
        // The id need not be spelled alike each time; the first one given stays good.
        ids.entry(value.clone()).or_insert_with(|| got.to_owned());
    }
}

/// The server was asked what was recorded, in its own words for the session, and was told nothing of the person.
#[track_caller]
fn check_what_was_heard(recording: &Recording, exchanges: &[Exchange], token: &str) {
    let heard = recording.heard.lock().unwrap();
    assert_eq!(heard.len(), exchanges.len());
    for ((head, body), Exchange { request, .. }) in heard.iter().zip(exchanges) {
        assert_eq!(head.first_line, format!("{} {} HTTP/1.1", request.method, request.path));
        assert_eq!(String::from_utf8_lossy(body), request.body);
        for (name, value) in &request.headers {
            let is_of_the_protocol =
                name.starts_with("mcp-") || matches!(name.as_str(), "accept" | "content-type");
            if is_of_the_protocol {
                assert_eq!(head.all(name), [value], "{name}");
            }
        }
        let raw = String::from_utf8_lossy(&head.raw).to_lowercase();
        assert!(!raw.contains("openwebui") && !raw.contains(&token.to_lowercase()), "{raw}");
    }
}

#[tokio::test]
async fn a_chat_with_a_server_of_the_newest_revision_goes_as_it_was_recorded() {
    check(include_str!("../../fixtures/openwebui/mcp/modern.json")).await;
}

#[tokio::test]
async fn a_chat_with_a_server_that_has_sessions_goes_as_it_was_recorded() {
    check(include_str!("../../fixtures/openwebui/mcp/legacy.json")).await;
}
