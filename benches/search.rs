//! What does a search cost among 10,000 tools, for a caller who may use few of them, many or all?
//!
//! The tools are the real ones of `tests/fixtures/search`, at four servers each, 304 servers in all. Counted is all that
//! a page does: reading the arguments, searching, and writing the answer; left out is whose servers these are. `index`
//! is what a server's list costs when it is new; it runs in the background.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use divan::{AllocProfiler, Bencher, black_box};
use portcullis::{
    access::{ToolScope, tools::ToolRule},
    catalog::{
        Catalog,
        tools::{ToolList, words},
    },
    config::{self, Environment, Named},
    endpoints::{Visible, meta},
    names::ServerId,
    snapshot::{Current, Snapshot},
};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const COPIES: usize = 4;

static LISTS: LazyLock<BTreeMap<String, Arc<ToolList>>> = LazyLock::new(|| {
    let tools: Vec<Value> =
        serde_json::from_str(include_str!("../tests/fixtures/search/tools.json")).expect("a good fixture");
    let mut servers: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for tool in &tools {
        let names = tool["parameters"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let properties: serde_json::Map<_, _> = names.map(|name| (name.to_owned(), json!({}))).collect();
        let tool_of_mcp = json!({
            "name": tool["name"], "title": tool["title"].as_str().unwrap_or_default(), "description": tool["description"],
            "inputSchema": {"type": "object", "properties": properties},
        });
        servers.entry(tool["server"].as_str().expect("a server").to_owned()).or_default().push(tool_of_mcp);
    }
    let read = |tools| ToolList::from_mcp(&[json!({"tools": tools}).to_string()]).expect("a good list").0;
    servers.into_iter().map(|(server, tools)| (server, Arc::new(read(tools)))).collect()
});

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| {
    let servers: String = LISTS
        .keys()
        .flat_map(|server| (0..COPIES).map(move |copy| format!("{server}-{copy}")))
        .map(|server| format!("[servers.{server}]\ntier = 'local'\nurl = 'http://127.0.0.1:9'\n"))
        .collect();
    let environment = Environment::from_pairs([("WEBUI_SECRET_KEY", "a-session-secret-of-the-bench")]);
    let (gateway, servers) = (Named { name: "g", text: "" }, Named { name: "s", text: &servers });
    let config = config::from_texts(gateway, servers, &environment).expect("a good configuration");
    let current = Current::new(Catalog::new(config.servers), Duration::from_secs(1));
    let mut snapshot = Snapshot::clone(&current.load());
    for server in snapshot.catalog.clone().iter() {
        let (name, _) = server.id.as_str().rsplit_once('-').expect("a copy");
        snapshot.tools = Arc::new(snapshot.tools.with(server.id.clone(), LISTS[name].clone()));
    }
    snapshot
});

/// The servers of a caller who may use about so many tools; `is_narrowed` if a rule takes one tool of each away.
fn visible(tools: usize, is_narrowed: bool) -> Vec<Visible> {
    let mut left = tools;
    let servers = SNAPSHOT.catalog.iter().filter(|server| {
        let count = SNAPSHOT.tools.get(server.id.as_str()).map_or(0, |list| list.len());
        let fits = count <= left;
        left -= if fits { count } else { 0 };
        fits
    });
    let rules = || if is_narrowed { vec![ToolRule::parse("get_user", "deny")] } else { Vec::new() };
    servers.map(|server| Visible { server: server.clone(), tools: ToolScope::of(rules()) }).collect()
}

fn bench(bencher: Bencher<'_, '_>, query: &str, visible: &[Visible]) {
    let arguments = json!({"query": query}).to_string();
    bencher.bench(|| {
        meta::search_tools(black_box(arguments.as_bytes()), visible, &SNAPSHOT.tools).expect("words")
    });
}

#[divan::bench(args = [10, 1_000, 20_000])]
fn open_an_issue(bencher: Bencher<'_, '_>, tools: usize) {
    bench(bencher, "open a bug ticket", &visible(tools, false));
}

#[divan::bench(args = [10, 1_000, 20_000])]
fn one_word(bencher: Bencher<'_, '_>, tools: usize) {
    bench(bencher, "blame", &visible(tools, false));
}

#[divan::bench(args = [10, 1_000, 20_000])]
fn a_long_question(bencher: Bencher<'_, '_>, tools: usize) {
    let query =
        "how do I find the most frequent errors that users of our website saw in production last week";
    bench(bencher, query, &visible(tools, false));
}

#[divan::bench(args = [10, 1_000, 20_000])]
fn a_misspelt_word(bencher: Bencher<'_, '_>, tools: usize) {
    bench(bencher, "approve merge reqest", &visible(tools, false));
}

#[divan::bench(args = [10, 1_000, 20_000])]
fn with_a_rule_for_each_server(bencher: Bencher<'_, '_>, tools: usize) {
    bench(bencher, "open a bug ticket", &visible(tools, true));
}

#[divan::bench(args = ["git", "gitlab", "m365"], sample_count = 20)]
fn index(bencher: Bencher<'_, '_>, server: &str) {
    let id = ServerId::parse(server).expect("a good id");
    bencher.bench(|| words(black_box(&id), &LISTS[server]).expect("an index"));
}
