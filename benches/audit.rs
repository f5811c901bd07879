//! What does the audit's entry cost the call that writes it, alone and while another thread writes as well; and what a row
//! that is brought into the table?
//!
//! Real parts: the journal, in a folder of `target/`, and a database: SQLite, or the one that `PORTCULLIS_BENCH_AUDIT` is
//! the URL of, which is to be empty and nobody's.

use std::{
    hint::black_box,
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use divan::{AllocProfiler, Bencher, counter::ItemsCount};
use portcullis::{
    access::Grant,
    identity::Caller,
    names::{Digest, Email, GroupName, RequestId, Secret, ServerId, ToolName},
    record::{
        Call, Outcome, Record, Recorder,
        access_log::AccessLog,
        arguments::Arguments,
        audit::{Audit, Flush, Settings, Shipping},
        entry::{Entry, Shown},
        metrics::Metrics,
    },
    store::{self, DatabaseUrl, Store},
};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

static AUDIT: LazyLock<Audit> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("audit");
    drop(std::fs::remove_dir_all(&folder));
    let store = stored(DatabaseUrl::Sqlite(folder.join("none.db")));
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let (audit, shipping, flush) = begin(&folder, &store, &metrics);
    // Nobody ships, and the journal's thread goes on.
    std::mem::forget((shipping, flush));
    audit
});

fn stored(url: DatabaseUrl) -> store::Settings {
    store::Settings { url, schema: "public".into(), auto_migrate: false, sealing: Default::default() }
}

fn begin(folder: &Path, store: &store::Settings, metrics: &Arc<Metrics>) -> (Audit, Shipping, Flush) {
    let spool_dir = folder.join("spool");
    let settings = Settings { is_on: true, spool_dir, spool_max_bytes: 1 << 40, retention_days: 0 };
    Audit::begin(&settings, store, metrics.clone()).expect("a journal")
}

static GRANT: LazyLock<Grant> =
    LazyLock::new(|| Grant::Group(GroupName::parse("MCP-GitHub").expect("a name")));
static DIGEST: LazyLock<Digest> = LazyLock::new(|| Digest::of("{}"));

/// As a granted call leaves it.
fn entry(id: &RequestId) -> Entry<'_> {
    Entry {
        at_micros: 1_796_083_199_123_456,
        request_id: id.as_str(),
        call: 0,
        caller: Some("alice@example.com"),
        email: Some("alice@example.com"),
        directory: None,
        scheme: Some("session"),
        grant: Some(Shown(&*GRANT)),
        tenant: None,
        method: "POST",
        endpoint: "/github/search_repositories",
        route: "call",
        rpc_method: None,
        server: Some("github"),
        tool: Some("search_repositories"),
        outcome: "tool_answered",
        code: None,
        reason: None,
        status: 200,
        gateway_micros: 331,
        upstream_micros: 874,
        request_bytes: 40,
        response_bytes: 1_024,
        retries: 0,
        client: Some([127, 0, 0, 1].into()),
        user_agent: Some("Python/3.11 aiohttp/3.9.5"),
        argument_digest: Some(Shown(&*DIGEST)),
        arguments: None,
        trace_id: None,
    }
}

#[divan::bench(threads = [1, 2], sample_count = 100, sample_size = 500)]
fn write(bencher: Bencher) {
    let id = RequestId::new();
    bencher.bench(|| AUDIT.write(black_box(&entry(&id))));
}

/// What a call does for its entry, from the record to the file.
#[divan::bench(sample_count = 100, sample_size = 500)]
fn seal(bencher: Bencher) {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let (access_log, _) = AccessLog::new(false).expect("a thread");
    let recorder = Recorder { metrics, access_log, audit: AUDIT.clone(), tracer: None };
    let caller = Caller::hypothetical(Email::parse("alice@example.com").expect("an address"), Vec::new());
    let record = || {
        let mut record = Record::begin(recorder.clone());
        record.method = "POST";
        record.route = "call";
        record.uri = Some("/github/search_repositories".parse().expect("a path"));
        record.server = Some(ServerId::parse("github").expect("an id"));
        record.tool = Some(ToolName::parse("search_repositories").expect("a name"));
        record.caller = Some(caller.clone());
        record.user_agent = Some("Python/3.11 aiohttp/3.9.5".parse().expect("a header"));
        record.calls = vec![Call {
            tool: "search_repositories".to_owned(),
            arguments: Some(Arguments::of(b"{}", false)),
        }];
        (record.client, record.status) = (Some([127, 0, 0, 1].into()), 200);
        record.end_as(Outcome::ToolAnswered);
        record
    };
    bencher.with_inputs(record).bench_local_refs(|record| record.seal());
}

#[divan::bench]
fn switched_off(bencher: Bencher) {
    let id = RequestId::new();
    let audit = Audit::default();
    bencher.bench(|| audit.write(black_box(&entry(&id))));
}

const ROWS: usize = 20_000;

/// All that is written is there before it begins, and it ends when the table has it. Allocations are those of the thread
/// that ships.
#[divan::bench(sample_count = 5, sample_size = 1)]
#[expect(clippy::disallowed_methods, reason = "it is no setting of the gateway's")]
fn ship(bencher: Bencher) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("audit-ship");
    let id = RequestId::new();
    let prepared = || {
        drop(std::fs::remove_dir_all(&folder));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let url = std::env::var("PORTCULLIS_BENCH_AUDIT").map_or_else(
            |_| DatabaseUrl::Sqlite(folder.join("audit.db")),
            |url| DatabaseUrl::Postgres(Secret::new(url)),
        );
        let store = stored(url);
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let (audit, shipping, flush) = begin(&folder, &store, &metrics);
        runtime.block_on(async {
            let store = Store::open(&store).expect("a database");
            store.migrate().await.expect("its tables");
            store.close().await;
        });
        (0..ROWS).for_each(|_| audit.write(&entry(&id)));
        (runtime, shipping, flush, metrics)
    };
    let ship = |(runtime, shipping, flush, metrics): (Runtime, Shipping, Flush, Arc<Metrics>)| {
        let ending = async move {
            while metrics.audit_waiting_rows.get() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            std::thread::spawn(move || drop(flush));
        };
        runtime.block_on(async { tokio::join!(shipping.run(), ending) });
        runtime
    };
    bencher.with_inputs(prepared).counter(ItemsCount::new(ROWS)).bench_local_values(ship);
}
