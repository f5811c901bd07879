//! What does the audit's entry cost the call that writes it, alone and while another thread writes as well?
//!
//! Real parts: the journal, in a folder of `target/`. Left out is the database, which no call waits for.

use std::{
    hint::black_box,
    path::Path,
    sync::{Arc, LazyLock},
};

use divan::{AllocProfiler, Bencher};
use portcullis::{
    names::RequestId,
    record::{
        audit::{Audit, Settings},
        entry::Entry,
        metrics::Metrics,
    },
    store::{self, DatabaseUrl},
};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

static AUDIT: LazyLock<Audit> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("audit");
    drop(std::fs::remove_dir_all(&folder));
    let settings = Settings {
        is_on: true,
        spool_dir: folder.join("spool"),
        spool_max_bytes: 1 << 40,
        retention_days: 0,
    };
    let url = DatabaseUrl::Sqlite(folder.join("none.db"));
    let store =
        store::Settings { url, schema: "public".into(), auto_migrate: false, sealing: Default::default() };
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let (audit, shipping, flush) = Audit::begin(&settings, &store, metrics).expect("a journal");
    // Nobody ships, and the journal's thread goes on.
    std::mem::forget((shipping, flush));
    audit
});

/// As a granted call leaves it.
fn entry(id: &RequestId) -> Entry<'_> {
    Entry {
        at_micros: 1_796_083_199_123_456,
        request_id: id.as_str().into(),
        call: 0,
        caller: Some("alice@example.com".into()),
        email: Some("alice@example.com".into()),
        directory: None,
        scheme: Some("session".into()),
        grant: Some("group:MCP-GitHub".into()),
        tenant: None,
        method: "POST".into(),
        endpoint: "/github/search_repositories".into(),
        route: "call".into(),
        rpc_method: None,
        server: Some("github".into()),
        tool: Some("search_repositories".into()),
        outcome: "tool_answered".into(),
        code: None,
        reason: None,
        status: 200,
        gateway_micros: 331,
        upstream_micros: 874,
        request_bytes: 40,
        response_bytes: 1_024,
        retries: 0,
        client: Some([127, 0, 0, 1].into()),
        user_agent: Some("Python/3.11 aiohttp/3.9.5".into()),
        argument_digest: Some("015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862".to_owned()),
        arguments: None,
        trace_id: None,
    }
}

#[divan::bench(threads = [1, 2], sample_count = 100, sample_size = 500)]
fn write(bencher: Bencher) {
    let id = RequestId::new();
    bencher.bench(|| AUDIT.write(black_box(&entry(&id))));
}

#[divan::bench]
fn switched_off(bencher: Bencher) {
    let id = RequestId::new();
    let audit = Audit::default();
    bencher.bench(|| audit.write(black_box(&entry(&id))));
}
