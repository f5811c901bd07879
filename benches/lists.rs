//! What does a list cost that the gateway answers from memory: one caller, 100 servers with 100 tools each?
//!
//! The tools have schemas of the usual size, and the caller may use all of them, or all but one of each server. Left
//! out is what comes before (whose servers these are) and after (sealing the cursor, writing the answer).

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use divan::{AllocProfiler, Bencher, black_box};
use portcullis::{
    access::{ToolScope, tools::ToolRule},
    catalog::{Catalog, tools::ToolList},
    config::{self, Environment, Named},
    endpoints::{
        Visible,
        mcp::{self, Shelf},
        openapi::Scope,
    },
    snapshot::{Current, Snapshot},
};
use serde_json::json;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const SERVERS: usize = 100;
const TOOLS: usize = 100;

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(snapshot);

fn snapshot() -> Snapshot {
    let servers: String = (0..SERVERS)
        .map(|number| format!("[servers.server{number:03}]\ntier = 'local'\nurl = 'http://127.0.0.1:9'\n"))
        .collect();
    let environment = Environment::from_pairs([("WEBUI_SECRET_KEY", "a-session-secret-of-the-bench")]);
    let (gateway, servers) = (Named { name: "g", text: "" }, Named { name: "s", text: &servers });
    let config = config::from_texts(gateway, servers, &environment).expect("a good configuration");
    let current = Current::new(Catalog::new(config.servers), Duration::from_secs(1));
    let mut snapshot = Snapshot::clone(&current.load());
    let list = Arc::new(list());
    for server in snapshot.catalog.clone().iter() {
        snapshot.tools = Arc::new(snapshot.tools.with(server.id.clone(), list.clone()));
    }
    snapshot
}

fn list() -> ToolList {
    let tools: Vec<_> = (0..TOOLS)
        .map(|number| {
            json!({
                "name": format!("search_things_{number:03}"),
                "title": "Search things",
                "description": "Searches for things by words, newest first, and says where each of them can be found.",
                "inputSchema": {
                    "type": "object",
                    "properties": {
                        "query": {"type": "string", "description": "Words that the things found must have."},
                        "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
                        "since": {"type": "string", "format": "date-time", "description": "None older than this."},
                        "order": {"type": "string", "enum": ["newest", "oldest", "best"]},
                    },
                    "required": ["query"],
                },
                "annotations": {"readOnlyHint": true},
            })
        })
        .collect();
    let page = json!({"tools": tools}).to_string();
    ToolList::from_mcp(&[page]).expect("a good list").0
}

fn visible(is_narrowed: bool) -> Vec<Visible> {
    let rules = || vec![ToolRule::parse("search_things_007", "deny")];
    let tools = || if is_narrowed { ToolScope::of(rules()) } else { ToolScope::default() };
    SNAPSHOT.catalog.iter().map(|server| Visible { server: server.clone(), tools: tools() }).collect()
}

fn shelf(visible: &[Visible], page_size: usize) -> Shelf<'_> {
    Shelf {
        scope: Scope::All,
        visible,
        snapshot: &SNAPSHOT,
        is_modern: true,
        page_size,
        has_meta_tools_only: false,
        now: SystemTime::UNIX_EPOCH,
        refresh: Duration::from_secs(300),
    }
}

fn all_pages(shelf: &Shelf<'_>) -> usize {
    let (mut bytes, mut cursor) = (0, None);
    loop {
        let page = mcp::tools(shelf, cursor.as_deref());
        bytes += page.result.len();
        cursor = page.next;
        if cursor.is_none() {
            return bytes;
        }
    }
}

#[divan::bench(args = [100, 1_000])]
fn first_page(bencher: Bencher<'_, '_>, page_size: usize) {
    let visible = visible(false);
    bencher.bench(|| mcp::tools(black_box(&shelf(&visible, page_size)), None));
}

#[divan::bench(args = [100, 1_000, 10_000])]
fn all_pages_of(bencher: Bencher<'_, '_>, page_size: usize) {
    let visible = visible(false);
    bencher.bench(|| all_pages(black_box(&shelf(&visible, page_size))));
}

#[divan::bench]
fn all_pages_of_narrowed_tools(bencher: Bencher<'_, '_>) {
    let visible = visible(true);
    bencher.bench(|| all_pages(black_box(&shelf(&visible, 1_000))));
}

#[divan::bench]
fn greeting(bencher: Bencher<'_, '_>) {
    let visible = visible(false);
    bencher.bench(|| mcp::discover(black_box(&shelf(&visible, 1_000))));
}
