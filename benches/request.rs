//! What does the gateway add to one call: time and allocations, phase by phase, on a real session?
//!
//! Real parts: grants in SQLite, tools read from the bundled sample server, Pingora's own session over a pipe in
//! memory. Left out is what Pingora does itself: reading the header, connecting, copying bytes.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use divan::{AllocProfiler, Bencher, black_box};
use futures_util::FutureExt;
use http::request::Parts;
use pingora::{
    http::{RequestHeader, ResponseHeader},
    proxy::{ProxyHttp, Session},
};
use portcullis::{
    access::{Access, KnownGrants},
    app,
    catalog::{Catalog, tools::ToolIndex},
    client::{self, Client},
    config::{self, Config, Environment, Named},
    endpoints::openapi::Documents,
    gateway::{
        Gateway,
        configured::{Bench, Configured, Judge},
        leaving::Leaving,
        limiting::Limiting,
        served::Desk,
    },
    identity::{Face, Identity, Sources},
    names::{Email, SecretKey, ServerId},
    record::{Recorder, access_log::AccessLog, audit::Audit, metrics::Metrics, trace::Exporter},
    route, sample,
    snapshot::{self, Current, tools::Refresher},
    store::Store,
    upstream::{self, Addresses},
};
use tokio::io::{AsyncWriteExt, DuplexStream};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const SECRET: &str = "bench-webui-secret-key-0123456789abcdef";
const GRANTED: &str = "alice@example.com";
const STRANGER: &str = "bob@example.com";
const BODY: &str = r#"{"text":"hello from a benchmark"}"#;
/// The answer of a tool as far as the gateway looks at it.
const ANSWER: usize = 1024;

static READY: LazyLock<Configured> = LazyLock::new(|| ready(""));
/// Traces every call, and none; to a collector that is away.
static TRACED: LazyLock<Configured> = LazyLock::new(|| ready(&format!("{COLLECTOR}sample = 1\n")));
static NOT_SAMPLED: LazyLock<Configured> = LazyLock::new(|| ready(&format!("{COLLECTOR}sample = 0\n")));
const COLLECTOR: &str = "[traces]\nendpoint = \"http://127.0.0.1:9\"\n";

/// The value of a future that has nothing to wait for.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing here waits")
}

/// A gateway that has read its grants, tools and addresses, and whose background tasks have been ended.
fn ready(traces: &str) -> Configured {
    app::install_crypto();
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port");
    listener.set_nonblocking(true).expect("a listener that does not block");
    let address = listener.local_addr().expect("an address");
    let database = format!("sqlite:{}", scratch.path().join("grants.db").display());
    let config = settings(&database, address, traces);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let current = Current::new(Catalog::new(config.servers.clone()), config.access.max_stale);
    let (refresher, wishes) = Refresher::new();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        tokio::spawn(sample::serve(listener, std::future::pending()));
        let store = Store::open(&config.store).expect("a store");
        store.migrate().await.expect("the tables");
        let (user, server) = (Email::parse(GRANTED).expect("email"), ServerId::parse("sample").expect("id"));
        store.grant_user(&user, &server).await.expect("a grant");
        let told = tokio::sync::watch::Sender::new(config.store.clone());
        tokio::spawn(snapshot::grants::keep(current.clone(), store, told.subscribe()));
        let client = Client::new(client::Settings { max_answer_bytes: config.catalog.max_bytes });
        let wishes = (refresher.clone(), wishes);
        // Nothing is pinned here, so nobody needs to take what was read.
        let (pinner, _) = snapshot::pins::Pinner::new();
        let sources = snapshot::tools::Sources::new(config.catalog.clone(), client).expect("a dialer");
        let through = tokio::sync::watch::Sender::new(sources);
        tokio::spawn(snapshot::tools::keep(current.clone(), through.subscribe(), pinner, wishes));
        tokio::spawn(snapshot::addresses::keep(current.clone()));
        let is_ready = async {
            while !knows_everything(&current, &server) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), is_ready).await.expect("all is read within 20 s");
    });
    runtime.shutdown_background();
    Configured::new(gateway(&config, current, refresher))
}

fn knows_everything(current: &Current, server: &ServerId) -> bool {
    let snapshot = current.load();
    current.is_ready()
        && snapshot.tools.find(server.as_str(), "echo").is_some()
        && snapshot
            .catalog
            .get(server.as_str())
            .is_some_and(|server| !snapshot.addresses.of(server).is_empty())
}

fn settings(database: &str, sample: SocketAddr, traces: &str) -> Config {
    let sample = format!("http://{sample}");
    let environment = Environment::from_pairs([
        ("DATABASE_URL", database),
        ("SAMPLE_URL", sample.as_str()),
        ("WEBUI_SECRET_KEY", SECRET),
    ]);
    // A limit that is counted and never reached.
    let text =
        format!("[listen]\nhttp = \"127.0.0.1:8000\"\n[limits]\ncalls_per_caller = \"1000000/s\"\n{traces}");
    let gateway = Named { name: "gateway.toml", text: &text };
    let servers = "[servers.sample]\nname = \"Sample\"\ntier = \"local\"\nurl = \"${SAMPLE_URL}\"\n";
    let servers = Named { name: "servers.toml", text: servers };
    config::from_texts(gateway, servers, &environment).expect("a good configuration")
}

fn gateway(config: &Config, current: Arc<Current>, refresher: Refresher) -> Gateway {
    // Off: its lines would stand between the figures. A line is two allocations on this thread.
    let (access_log, _) = AccessLog::new(false).expect("a thread");
    let identity = Arc::new(Identity::new(&config.identity, Sources::default()));
    let access = Arc::new(Access::new(config.access.clone()));
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let (exporter, flush) = Exporter::new(metrics.clone());
    // As long as the process: it is never told to end.
    std::mem::forget(flush);
    let tracer = exporter.tracer(config.record.traces.as_ref());
    Gateway {
        settings: config.gateway.clone(),
        catalog: current.load().catalog.clone(),
        sign_in: None,
        bench: Arc::new(Bench::from_pointee(Judge { identity: identity.clone(), access: access.clone() })),
        identity,
        access,
        current,
        refresher,
        documents: Documents::new(1 << 20),
        session_keys: config.gateway.mcp.keys(&SecretKey::random().expect("a key")),
        client: Client::new(client::Settings { max_answer_bytes: 1 << 20 }),
        desk: Desk::new(Duration::from_secs(60)),
        live: Arc::default(),
        leaving: Arc::new(Leaving::new(Duration::ZERO)),
        limiting: Limiting::new(config.limits.clone(), metrics.clone()),
        recorder: Recorder { metrics, access_log, audit: Audit::default(), tracer },
    }
}

/// A session token of this user; no two tokens of different `number` are equal.
fn token(email: &str, number: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
    let claims = serde_json::json!({"id": email, "typ": "session", "email": email, "jti": number.to_string(),
        "iat": now, "exp": now + 3600});
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    jsonwebtoken::encode(&header, &claims, &key).expect("a token")
}

/// A call as Open WebUI sends it.
fn call(path: &str, token: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: gateway.example.com\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate, br\r\n\
         User-Agent: Python/3.11 aiohttp/3.13.2\r\nContent-Length: {}\r\n\r\n{BODY}",
        BODY.len()
    )
}

/// A request whose header Pingora has read, with the client's end of the connection.
fn arrived(request: &str) -> (Session, DuplexStream) {
    let (mut client, server) = tokio::io::duplex(256 * 1024);
    now(client.write_all(request.as_bytes())).expect("room in the pipe");
    let mut session = Session::new_h1(Box::new(server));
    now(session.as_downstream_mut().read_request()).expect("a good request");
    (session, client)
}

/// Up to the departure: route, identify, authorize, plan, peek into the body. Or the answer, when it is a no.
fn decide(bencher: Bencher, path: &str, email: &str, is_answered: bool) {
    let gateway = &*READY;
    let request = call(path, &token(email, 0));
    bencher.with_inputs(|| arrived(&request)).bench_local_refs(|(session, _)| {
        let mut journey = gateway.new_ctx();
        now(gateway.early_request_filter(session, &mut journey)).expect("no trouble");
        let answered = now(gateway.request_filter(session, &mut journey)).expect("no trouble");
        assert_eq!(answered, is_answered);
    });
}

#[divan::bench(sample_size = 10)]
fn request_filter_granted(bencher: Bencher) {
    decide(bencher, "/sample/echo", GRANTED, false);
}

#[divan::bench(sample_size = 10)]
fn request_filter_granted_legacy(bencher: Bencher) {
    decide(bencher, "/sample_echo", GRANTED, false);
}

/// The 403 is written, too.
#[divan::bench(sample_size = 10)]
fn request_filter_not_granted(bencher: Bencher) {
    decide(bencher, "/sample/echo", STRANGER, true);
}

/// The 400 is written, too.
#[divan::bench(sample_size = 10)]
fn request_filter_bad_path(bencher: Bencher) {
    decide(bencher, "/sample/%2e%2e/echo", GRANTED, true);
}

/// Every phase of a granted call, from the arrival to its record (metrics; the access log is off), as the framework carries
/// it: to a server without TLS the same steps are taken without the futures of its hooks.
#[divan::bench(sample_size = 10)]
fn all_phases_of_a_granted_call(bencher: Bencher) {
    all_phases(bencher, &READY);
}

/// The same while traces are on, of a call that is not taken: what others need to go on with the trace.
#[divan::bench(sample_size = 10)]
fn all_phases_of_a_call_that_is_not_sampled(bencher: Bencher) {
    all_phases(bencher, &NOT_SAMPLED);
}

/// And of one that is, its notes handed over. The queue is full soon: making spans is another thread's work.
#[divan::bench(sample_size = 10)]
fn all_phases_of_a_traced_call(bencher: Bencher) {
    all_phases(bencher, &TRACED);
}

fn all_phases(bencher: Bencher, gateway: &Configured) {
    let request = call("/sample/echo", &token(GRANTED, 0));
    let input = || {
        let mut answer = ResponseHeader::build(200, None).expect("a header");
        for (name, value) in
            [("content-type", "application/json"), ("content-length", "1024"), ("server", "uvicorn")]
        {
            answer.insert_header(name, value).expect("a header");
        }
        let out = RequestHeader::build("POST", b"/", None).expect("a header");
        (arrived(&request), out, answer, bytes::Bytes::from(vec![b'x'; ANSWER]))
    };
    bencher.with_inputs(input).bench_local_refs(|((session, _), out, answer, body)| {
        let mut journey = gateway.new_ctx();
        now(gateway.early_request_filter(session, &mut journey)).expect("no trouble");
        assert!(!now(gateway.request_filter(session, &mut journey)).expect("no trouble"));
        let peer = now(gateway.upstream_peer(session, &mut journey)).expect("a peer");
        now(gateway.upstream_request_filter(session, out, &mut journey)).expect("no trouble");
        let mut sent = Some(bytes::Bytes::from_static(BODY.as_bytes()));
        now(gateway.request_body_filter(session, &mut sent, true, &mut journey)).expect("no trouble");
        now(gateway.response_filter(session, answer, &mut journey)).expect("no trouble");
        let mut got = Some(body.clone());
        gateway.response_body_filter(session, &mut got, true, &mut journey).expect("no trouble");
        now(gateway.logging(session, None, &mut journey));
        drop((peer, journey));
    });
}

/// The parts of a decision alone, without a session.
struct Alone {
    request: Parts,
    known: KnownGrants,
    catalog: Arc<Catalog>,
    tools: Arc<ToolIndex>,
    addresses: Arc<Addresses>,
}

fn alone(email: &str, number: u64) -> Alone {
    let snapshot = READY.now().current.load();
    let known = READY.now().current.grants(&snapshot).expect("grants").clone();
    let request = http::Request::post("/sample/echo")
        .header("host", "gateway.example.com")
        .header("authorization", format!("Bearer {}", token(email, number)))
        .header("content-type", "application/json");
    let request = request.body(()).expect("a request").into_parts().0;
    let (catalog, tools) = (snapshot.catalog.clone(), snapshot.tools.clone());
    Alone { request, known, catalog, tools, addresses: snapshot.addresses.clone() }
}

fn decided(alone: &Alone) -> bool {
    let route = route::resolve(&alone.request.method, alone.request.uri.path()).expect("a good path");
    let route::Route::Call { server, tool } = route else { return false };
    let caller = now(READY.now().identity.identify(&alone.request, Face::Call, None)).expect("a caller");
    let server = alone.catalog.get(server).expect("the sample server");
    let permit = READY.now().access.authorize(&caller, server, &alone.known).expect("a permit");
    let tool = alone.tools.find(server.id.as_str(), tool).expect("a tool").clone();
    upstream::plan(permit, tool, &alone.addresses).is_ok()
}

/// Route, identify (token seen before), authorize (asked before), plan.
#[divan::bench(sample_size = 10)]
fn decision_alone(bencher: Bencher) {
    let alone = alone(GRANTED, 0);
    bencher.bench_local(|| decided(black_box(&alone)));
}

#[divan::bench(sample_size = 10)]
fn identify_token_seen_before(bencher: Bencher) {
    let alone = alone(GRANTED, 0);
    let gateway = READY.now();
    bencher
        .bench_local(|| now(gateway.identity.identify(black_box(&alone.request), Face::Call, None)).is_ok());
}

/// Signature, dates and claims are checked.
#[divan::bench(sample_size = 10)]
fn identify_token_never_seen(bencher: Bencher) {
    let mut number = 0;
    bencher
        .with_inputs(|| {
            number += 1;
            alone(GRANTED, number)
        })
        .bench_local_refs(|alone| {
            now(READY.now().identity.identify(&alone.request, Face::Call, None)).is_ok()
        });
}
