//! A hundred servers with a hundred tools each: one caller's list comes from memory, whole, and at once.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

use super::{
    Served, World,
    client::{ERAS, Era},
    names,
};
use crate::harness::{
    mcp::MODERN,
    wire::{Framing, Head, answer, read_body},
};

const SERVERS: usize = 100;
const TOOLS: usize = 100;
/// Tools on a page of a server.
const PAGE: usize = 40;

/// So many modern servers at one address: `/sNN/mcp`.
pub(super) struct Servers {
    pub address: String,
    requests: Arc<AtomicUsize>,
    /// The last call of a tool, as it came.
    pub called: Called,
    accepting: AbortHandle,
}

/// The body of a request.
type Called = Arc<Mutex<Vec<u8>>>;

impl Drop for Servers {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Servers {
    async fn start() -> Self {
        Self::saying(None).await
    }

    /// With tools that all give this result, as it is written here.
    pub async fn saying(result: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::<AtomicUsize>::default();
        let (counted, called) = (requests.clone(), Called::default());
        let kept = called.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, counted.clone(), kept.clone(), result));
            }
        });
        Self { address, requests, called, accepting: accepting.abort_handle() }
    }
}

async fn serve(socket: TcpStream, requests: Arc<AtomicUsize>, called: Called, result: Option<&'static str>) {
    let mut connection = BufReader::new(socket);
    while let Ok(Some(head)) = Head::read(&mut connection).await {
        let framing = head.framing().unwrap_or(Framing::Length(0));
        let Ok(body) = read_body(&mut connection, framing).await else { return };
        requests.fetch_add(1, Ordering::SeqCst);
        let server = head.first_line.split(['/', ' ']).nth(2).unwrap_or_default().to_owned();
        let said = match serde_json::from_slice::<Value>(&body) {
            Ok(message) if message["id"].is_null() => {
                b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n".to_vec()
            }
            Ok(message) if message["method"] == "tools/call" && result.is_some() => {
                *called.lock().unwrap() = body;
                let (id, result) = (&message["id"], result.unwrap());
                let said = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
                answer("200 OK", "application/json", said.as_bytes())
            }
            Ok(message) => said(&server, &message),
            Err(_) => answer("405 Method Not Allowed", "text/plain", b""),
        };
        if connection.write_all(&said).await.is_err() {
            return;
        }
    }
}

fn said(server: &str, message: &Value) -> Vec<u8> {
    let params = &message["params"];
    let mut result = match message["method"].as_str().unwrap() {
        "server/discover" => json!({"supportedVersions": [MODERN], "capabilities": {"tools": {}}}),
        "tools/list" => {
            let from = params["cursor"].as_str().map_or(0, |cursor| cursor.parse().unwrap());
            let to = TOOLS.min(from + PAGE);
            let mut page =
                json!({"tools": (from..to).map(|number| tool(server, number)).collect::<Vec<_>>()});
            if to < TOOLS {
                page["nextCursor"] = to.to_string().into();
            }
            page
        }
        "tools/call" => {
            let text = format!("{server} {}", params["name"].as_str().unwrap());
            json!({"content": [{"type": "text", "text": text}]})
        }
        _ => {
            let error =
                json!({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "no"}});
            return answer("404 Not Found", "application/json", error.to_string().as_bytes());
        }
    };
    result["resultType"] = json!("complete");
    result["ttlMs"] = json!(60_000);
    result["cacheScope"] = json!("public");
    let message = json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string();
    answer("200 OK", "application/json", message.as_bytes())
}

fn tool(server: &str, number: usize) -> Value {
    let property =
        |name: &str| json!({"type": "string", "description": format!("The {name} that is looked for")});
    json!({"name": format!("tool_{number:03}"), "title": format!("Tool {number}"),
        "description": format!("Does the work number {number} of {server}: it looks through what is there, and says what it found."),
        "inputSchema": {"type": "object", "required": ["query"],
            "properties": {"query": property("query"), "owner": property("owner"), "state": property("state")}}})
}

#[expect(clippy::print_stderr, reason = "a figure to read in the test's output")]
fn report(figure: &str) {
    eprintln!("{figure}");
}

#[tokio::test]
async fn ten_thousand_tools_are_one_list_from_memory() {
    let servers = Servers::start().await;
    let ids: Vec<_> = (0..SERVERS).map(|number| format!("s{number:02}")).collect();
    let served: Vec<Served<'_>> =
        ids.iter().map(|id| (&**id, "mcp", format!("http://{}/{id}/mcp", servers.address))).collect();
    let began = Instant::now();
    let world = World::unread(&served, |setup| setup).await;
    world.gateway.await_metric("portcullis_tools", &[], SERVERS * TOOLS).await;
    report(&format!("{SERVERS} servers of {TOOLS} tools were read in {:?}", began.elapsed()));
    let asked = servers.requests.load(Ordering::SeqCst);
    for era in ERAS {
        let client = world.mcp("/mcp", era).await;
        let began = Instant::now();
        let pages = client.pages("tools", "tools").await;
        let took = began.elapsed();
        let tools = pages.concat();
        let bytes = tools.iter().map(|tool| tool.to_string().len()).sum::<usize>();
        report(&format!("{era:?}: {} tools, {bytes} bytes, {} pages in {took:?}", tools.len(), pages.len()));
        assert_eq!((tools.len(), pages.len()), (SERVERS * TOOLS, 10), "1000 a page");
        assert!(took < Duration::from_secs(5), "{took:?}");
        let mut distinct = names(&tools);
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), SERVERS * TOOLS);
        let called = client.call("s42_tool_099", json!({"query": "x"})).await;
        assert_eq!(called["content"][0]["text"], "s42 tool_099");
    }
    let modern = world.mcp("/mcp", Era::Modern).await;
    let mut times = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        modern.result("tools/list", json!({})).await;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    report(&format!("a page of 1000 tools: {:?} in the middle of 20", times[10]));
    assert!(times[10] < Duration::from_millis(500), "{times:?}");
    let asked_for_lists = servers.requests.load(Ordering::SeqCst) - asked;
    assert!(asked_for_lists <= 2 + SERVERS, "{asked_for_lists} requests: a list was not given from memory");
}
