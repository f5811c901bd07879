//! What does the gateway's own work on MCP cost: the look into a request, narrowing a list of tools, a session id, a
//! call translated between faces?
//!
//! Beside it: serde_json reading the same list into a tree and writing it out again.

use divan::{AllocProfiler, Bencher, black_box, counter::BytesCount};
use portcullis::{
    mcp::{
        answer::{Answer, Edit, Kind},
        message::{self, Body},
        outgoing::{self, Protocol, Rewrite},
        question::{self, Said},
        result,
        session::{Binding, Place, Purpose, Sealed, SessionKeys},
        told::{self, Told},
        tool_list::narrow,
    },
    names::{SecretKey, ServerId},
};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// A call of exactly `bytes` bytes: several short arguments, the rest one text.
fn call(bytes: usize) -> String {
    let with = |text: String| {
        let arguments =
            json!({"query": "is:open label:bug", "page": 2, "filter": {"labels": ["a", "b"]}, "text": text});
        let params =
            json!({"name": "search_issues", "arguments": arguments, "_meta": {"progressToken": "p-1"}});
        json!({"jsonrpc": "2.0", "id": 17, "method": "tools/call", "params": params}).to_string()
    };
    with("x".repeat(bytes - with(String::new()).len()))
}

#[divan::bench(args = [390, 960_000])]
fn peek(bencher: Bencher, bytes: usize) {
    let body = call(bytes);
    bencher.counter(BytesCount::new(body.len())).bench(|| match message::peek(black_box(body.as_bytes())) {
        Ok(Body::One(message)) => message.tool().is_some(),
        Ok(Body::Batch(_)) | Err(_) => false,
    });
}

/// 200 tools, 86 kB: what a big server lists.
fn list() -> String {
    let tool = |number: usize| {
        let field = |name: &str| json!({"type": "string", "description": format!("The {name} to look for, as it is written.")});
        let schema = json!({"type": "object", "properties": {"owner": field("owner"), "repository": field("repository"), "state": field("state")}, "required": ["owner", "repository"]});
        json!({"name": format!("tool_{number}"), "description": "Finds what was asked for and lists it, newest first.", "inputSchema": schema})
    };
    let tools: Vec<Value> = (0..200).map(tool).collect();
    json!({"jsonrpc": "2.0", "id": 3, "result": {"tools": tools, "nextCursor": "n", "ttlMs": 300_000, "cacheScope": "public", "resultType": "complete"}}).to_string()
}

fn is_even(name: &str) -> bool {
    name.ends_with(['0', '2', '4', '6', '8'])
}

#[divan::bench]
fn narrow_200_tools_to_100(bencher: Bencher) {
    let list = list();
    bencher.counter(BytesCount::new(list.len())).bench(|| narrow(black_box(&list), &|name, _| is_even(name)));
}

/// The same by a tree, which writes numbers and keys anew.
#[divan::bench]
fn serde_json_narrows_by_a_tree(bencher: Bencher) {
    let list = list();
    bencher.counter(BytesCount::new(list.len())).bench(|| {
        let mut message: Value = serde_json::from_str(black_box(&list)).expect("the list is JSON");
        let tools = message["result"]["tools"].as_array_mut().expect("it has tools");
        tools.retain(|tool| tool["name"].as_str().is_some_and(is_even));
        message.to_string()
    });
}

/// What is no list of tools, but must be looked at: one long text.
#[divan::bench]
fn a_result_of_1_mb_passes(bencher: Bencher) {
    let result = json!({"id": 1, "result": {"content": [{"type": "text", "text": "x".repeat(1_000_000)}]}})
        .to_string();
    bencher
        .counter(BytesCount::new(result.len()))
        .bench(|| narrow(black_box(&result), &|name, _| is_even(name)));
}

/// What is no list of tools, but must be looked at: many short members.
#[divan::bench]
fn a_dense_result_of_1_mb_passes(bencher: Bencher) {
    let rows: Vec<Value> =
        (0..20_000).map(|id| json!({"id": id, "name": "row", "is_open": true, "tags": []})).collect();
    let result = json!({"id": 1, "result": {"structuredContent": {"rows": rows}}}).to_string();
    bencher
        .counter(BytesCount::new(result.len()))
        .bench(|| narrow(black_box(&result), &|name, _| is_even(name)));
}

/// An event of a stream in which lists are looked for.
#[divan::bench]
fn a_progress_event_passes(bencher: Bencher) {
    let event = "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":1,\"progress\":5}}\n\n";
    let edit = Edit { allows: Some(Box::new(|name, _| is_even(name))), endpoint: None };
    let mut answer = Answer::new(Kind::Events, 1 << 20, edit);
    bencher
        .counter(BytesCount::new(event.len()))
        .bench_local(|| answer.feed(black_box(event.as_bytes()), false));
}

fn keys(count: usize) -> SessionKeys {
    let keys: Vec<SecretKey> =
        (0..count).map(|_| SecretKey::random().expect("there is randomness")).collect();
    SessionKeys::new(&keys)
}

fn sealed() -> Sealed {
    let upstream = "0192f5a4-7c1e-7d3a-9b7e-2f6f1f0c9a11".to_owned();
    Sealed { upstream, place: Place { peer: 1, address: 2 }, expires_at: u64::MAX }
}

fn server() -> ServerId {
    ServerId::parse("github").expect("it is an id")
}

fn binding(server: &ServerId) -> Binding<'_> {
    Binding { purpose: Purpose::Session, server: Some(server), caller: "ana@example.org", standing: None }
}

#[divan::bench]
fn seal_a_session_id(bencher: Bencher) {
    let (keys, server, sealed) = (keys(1), server(), sealed());
    bencher.bench(|| keys.seal(black_box(&binding(&server)), &sealed));
}

#[divan::bench]
fn open_a_session_id(bencher: Bencher) {
    let (keys, server) = (keys(1), server());
    let id = keys.seal(&binding(&server), &sealed()).expect("it is an id");
    bencher.bench(|| keys.open(&binding(&server), black_box(&id), 1));
}

/// A call read, given another name and sent on to a modern server: what a client's half of a translated call costs.
#[divan::bench(args = [390, 960_000])]
fn a_call_is_read_and_written_for_a_server(bencher: Bencher, bytes: usize) {
    let body = call(bytes);
    let rewrite = Rewrite { name: Some("search"), progress_token: Some("17"), ..Rewrite::default() };
    let protocol = Protocol {
        version: "2026-07-28",
        client_info: r#"{"name":"portcullis","version":"0.1.0"}"#,
        capabilities: "{}",
        log_level: None,
    };
    bencher.counter(BytesCount::new(body.len())).bench(|| {
        let Ok(Said::Request(question)) = question::read(black_box(body.as_bytes())) else { return None };
        let params = outgoing::params(question.params, &rewrite, Some(&protocol));
        Some(outgoing::request(17, &question.method, &params))
    });
}

/// Its answer, unwrapped for REST: the server's half.
#[divan::bench(args = [300, 64_000])]
fn an_answer_is_read_and_unwrapped(bencher: Bencher, bytes: usize) {
    let text = json!({"issues": [{"id": 1, "title": "x".repeat(bytes)}]}).to_string();
    let answer = json!({"jsonrpc": "2.0", "id": 17, "result": {"content": [{"type": "text", "text": text}]}})
        .to_string();
    bencher.counter(BytesCount::new(answer.len())).bench(|| {
        let told = told::read(black_box(&answer)).ok()?.pop();
        let Some(Told::Result { result, .. }) = told else { return None };
        result::unwrap(&result).ok()
    });
}

/// The same by a tree: serde_json reads the answer and the text, and writes the text's JSON out.
#[divan::bench(args = [300, 64_000])]
fn an_answer_is_unwrapped_by_a_tree(bencher: Bencher, bytes: usize) {
    let text = json!({"issues": [{"id": 1, "title": "x".repeat(bytes)}]}).to_string();
    let answer = json!({"jsonrpc": "2.0", "id": 17, "result": {"content": [{"type": "text", "text": text}]}})
        .to_string();
    bencher.counter(BytesCount::new(answer.len())).bench(|| {
        let message: Value = serde_json::from_str(black_box(&answer)).ok()?;
        let inner: Value = serde_json::from_str(message["result"]["content"][0]["text"].as_str()?).ok()?;
        Some(inner.to_string())
    });
}
