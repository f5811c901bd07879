//! A peer that keeps every byte it was sent, and takes them apart more strictly than anybody else.
//!
//! It answers each whole request at once: with its list of one tool, `search`, with an MCP `initialize`, or with `[]`.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

use super::{fake_peer::openapi, wire::answer};

/// What an `initialize` of MCP is answered with.
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"recorder","version":"1"}}}"#;

/// The peer. It ends when this is dropped.
pub struct Recorder {
    address: SocketAddr,
    streams: Arc<Mutex<Vec<Vec<u8>>>>,
    accepting: AbortHandle,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A request as it stood on the wire.
#[derive(Debug, Clone)]
pub struct Sent {
    pub head: String,
    /// Unframed.
    pub body: Vec<u8>,
    /// Whether its end has come.
    pub is_whole: bool,
}

impl Sent {
    /// Every value of the header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    /// Names of the headers, in lower case.
    pub fn names(&self) -> Vec<String> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.map(|(name, _)| name.to_lowercase()).collect()
    }

    /// Whether the gateway asked in its own name.
    pub fn is_gateways_own(&self) -> bool {
        self.all("user-agent").iter().any(|agent| agent.starts_with("portcullis"))
    }
}

impl Recorder {
    /// Listens.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let streams = Arc::new(Mutex::new(Vec::new()));
        let kept = streams.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, kept.clone()));
            }
        });
        Self { address, streams, accepting: accepting.abort_handle() }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What callers' requests became here so far. Panics at bytes that are no request.
    #[track_caller]
    pub fn sent(&self) -> Vec<Sent> {
        let streams = self.streams.lock().unwrap();
        let all = streams.iter().flat_map(|stream| {
            let (requests, rest) = take_apart(stream);
            assert!(rest.is_empty(), "no request: {:?}", String::from_utf8_lossy(rest));
            requests
        });
        all.filter(|request| !request.is_gateways_own()).collect()
    }

    /// Everything that arrived on any connection.
    pub fn bytes(&self) -> Vec<u8> {
        self.streams.lock().unwrap().concat()
    }
}

async fn serve(mut socket: TcpStream, streams: Arc<Mutex<Vec<Vec<u8>>>>) {
    let _ = socket.set_nodelay(true);
    let number = {
        let mut streams = streams.lock().unwrap();
        streams.push(Vec::new());
        streams.len() - 1
    };
    let (mut buffer, mut answered) = (vec![0; 64 * 1024], 0);
    while let Ok(length @ 1..) = socket.read(&mut buffer).await {
        let whole: Vec<Sent> = {
            let mut streams = streams.lock().unwrap();
            streams[number].extend_from_slice(&buffer[..length]);
            take_apart(&streams[number]).0.into_iter().filter(|request| request.is_whole).collect()
        };
        for request in &whole[answered..] {
            if socket.write_all(&answer_to(request)).await.is_err() {
                return;
            }
        }
        answered = whole.len();
    }
}

fn answer_to(request: &Sent) -> Vec<u8> {
    let is_initialize = String::from_utf8_lossy(&request.body).contains(r#""method":"initialize""#);
    if request.head.starts_with("GET /openapi.json ") {
        let schema = serde_json::json!({"type": "object", "properties": {}});
        let tools = [("search".to_owned(), schema)].into_iter().collect();
        return answer("200 OK", "application/json", openapi(&tools).to_string().as_bytes());
    }
    if is_initialize {
        return answer("200 OK", "application/json", INITIALIZED.as_bytes());
    }
    if request.is_gateways_own() {
        return answer("404 Not Found", "text/plain", b"");
    }
    answer("200 OK", "application/json", b"[]")
}

/// The requests of a stream, the last one perhaps not whole, and what is none.
fn take_apart(mut stream: &[u8]) -> (Vec<Sent>, &[u8]) {
    let mut requests = Vec::new();
    while !stream.is_empty() {
        let Some(end) = find(stream, b"\r\n\r\n").map(|at| at + 4) else {
            // A head that has not arrived whole is still one.
            let is_one = stream.starts_with(b"POST /") || stream.starts_with(b"GET /");
            return (requests, if is_one { &[] } else { stream });
        };
        let Ok(head) = std::str::from_utf8(&stream[..end]) else { return (requests, stream) };
        if !is_well_formed(head) {
            return (requests, stream);
        }
        let mut request = Sent { head: head.to_owned(), body: Vec::new(), is_whole: false };
        stream = &stream[end..];
        let (lengths, codings) = (request.all("content-length"), request.all("transfer-encoding"));
        let rest = match (&lengths[..], &codings[..]) {
            ([], []) => Some((Vec::new(), stream)),
            ([length], []) => {
                let length: usize = length.parse().unwrap();
                (stream.len() >= length).then(|| (stream[..length].to_vec(), &stream[length..]))
            }
            ([], ["chunked"]) => match unframe(stream) {
                Ok(rest) => rest,
                Err(()) => return (requests, stream),
            },
            _ => panic!("framed in two ways: {head:?}"),
        };
        let Some((body, after)) = rest else {
            requests.push(request);
            return (requests, &[]);
        };
        (request.body, request.is_whole, stream) = (body, true, after);
        requests.push(request);
    }
    (requests, stream)
}

/// A request line of three words, and lines that are a name, a colon and one space.
fn is_well_formed(head: &str) -> bool {
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let first: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
    let is_line = |line: &str| {
        line.split_once(": ").is_some_and(|(name, value)| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !value.contains(['\r', '\n', '\0'])
        })
    };
    first.len() == 3 && first[2] == "HTTP/1.1" && lines.all(is_line)
}

/// The body in chunks and what follows it; nothing while it is not whole.
type Unframed<'s> = Option<(Vec<u8>, &'s [u8])>;

fn unframe(mut stream: &[u8]) -> Result<Unframed<'_>, ()> {
    let mut body = Vec::new();
    loop {
        let Some(end) = find(stream, b"\r\n") else { return Ok(None) };
        let digits = std::str::from_utf8(&stream[..end]).map_err(drop)?;
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = usize::from_str_radix(digits, 16).ok().filter(|_| is_plain).ok_or(())?;
        stream = &stream[end + 2..];
        if stream.len() < size + 2 {
            return Ok(None);
        }
        body.extend_from_slice(&stream[..size]);
        if &stream[size..size + 2] != b"\r\n" {
            return Err(());
        }
        stream = &stream[size + 2..];
        if size == 0 {
            return Ok(Some((body, stream)));
        }
    }
}

fn find(stream: &[u8], what: &[u8]) -> Option<usize> {
    stream.windows(what.len()).position(|window| window == what)
}

#[test]
fn what_is_no_request_is_seen_and_what_is_unfinished_is_one() {
    let two = b"POST /a HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nGET /c HTTP/1.1\r\n\r\n";
    let (requests, rest) = take_apart(two);
    assert_eq!((requests.len(), requests[0].body.as_slice(), rest.len()), (2, &b"{}"[..], 0));
    let (requests, rest) = take_apart(&two[..two.len() - 25]);
    assert_eq!((requests.len(), requests[0].is_whole, rest.len()), (1, false, 0));
    for bad in ["POST /a HTTP/1.1\r\nx : b\r\n\r\n", "smuggled", "POST /a b HTTP/1.1\r\n\r\n"] {
        assert!(!take_apart(bad.as_bytes()).1.is_empty(), "{bad:?}");
    }
}
