//! A new process takes over: nobody is refused, nothing is broken, and what goes wrong leaves the old one as it was.

use std::{
    os::unix::net::UnixDatagram,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::StatusCode;
use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::{
    commands::portcullis,
    deadline::{until, until_so, within},
    fake_peer::{Behaviour, FakePeer, Held},
    gateway::{Gateway, send_signal},
    grants::{CALLER, Grants},
    raw::RawClient,
    request::{get, post},
    tokens::email_token,
};

/// A process that a gateway started; it is killed when this is dropped.
struct Successor(u32);

impl Successor {
    fn is_there(&self) -> bool {
        std::path::Path::new(&format!("/proc/{}", self.0)).exists()
    }

    fn signal(&self, name: &str) {
        send_signal(self.0, name);
    }

    async fn ended(&self) {
        until_so("the end of a process that took over", || !self.is_there()).await;
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if self.is_there() {
            self.signal("KILL");
        }
    }
}

/// The process that the `count`th line with these words names.
async fn named(gateway: &Gateway, count: usize, words: &str) -> Successor {
    let line = until(words, || {
        let is_it = |line: &String| line.contains("upgrade: process ") && line.contains(words);
        let line = gateway.stderr.all().into_iter().filter(is_it).nth(count - 1);
        std::future::ready(line)
    });
    let line = line.await;
    let (_, rest) = line.split_once("upgrade: process ").unwrap();
    Successor(rest.split(' ').next().unwrap().parse().unwrap())
}

/// The `count`th process that has taken over.
async fn taken_over(gateway: &Gateway, count: usize) -> Successor {
    named(gateway, count, "has taken over").await
}

/// Callers that never stop, and what became of their calls.
struct Load {
    is_over: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    callers: JoinSet<Vec<String>>,
}

impl Load {
    /// Half of them have a connection for each call, half keep theirs until they are told that it ends.
    fn begin(address: &str, callers: usize) -> Self {
        let (is_over, calls) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut load = Self { is_over, calls, callers: JoinSet::new() };
        for caller in 0..callers {
            let (address, is_over, calls) = (address.to_owned(), load.is_over.clone(), load.calls.clone());
            load.callers.spawn(async move {
                let (mut failures, mut kept) = (Vec::new(), None);
                while !is_over.load(Ordering::Relaxed) {
                    let called = call(&address, kept.take()).await;
                    calls.fetch_add(1, Ordering::Relaxed);
                    match called {
                        Ok(connection) if caller % 2 == 0 => kept = connection,
                        Ok(_) => {}
                        Err(failure) => failures.push(failure),
                    }
                }
                failures
            });
        }
        load
    }

    /// Returns when as many calls more have been made.
    async fn go_on(&self, calls: usize) {
        let enough = self.calls.load(Ordering::Relaxed) + calls;
        until_so("calls", || self.calls.load(Ordering::Relaxed) >= enough).await;
    }

    async fn end(mut self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        while let Some(failed) = within("the last calls", self.callers.join_next()).await {
            failures.extend(failed.unwrap());
        }
        assert_eq!(failures, [""; 0], "of {} calls", self.calls.load(Ordering::Relaxed));
        self.calls.load(Ordering::Relaxed)
    }
}

/// One call, and its connection where it may be used again.
async fn call(address: &str, kept: Option<TcpClient>) -> Result<Option<TcpClient>, String> {
    let told = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let is_kept = kept.is_some();
    let mut client = match kept {
        Some(client) => client,
        None => TcpClient::connect(address).await.map_err(told("connecting"))?,
    };
    let (status, closes) = client
        .exchange(&post("/alpha/search", &email_token(CALLER), "{}"))
        .await
        .map_err(|error| format!("calling (kept: {is_kept}): {error}"))?;
    if status != 200 {
        return Err(format!("status {status}"));
    }
    Ok((!closes).then_some(client))
}

/// A client that tells what went wrong instead of failing the test.
struct TcpClient(tokio::io::BufReader<tokio::net::TcpStream>);

impl TcpClient {
    async fn connect(address: &str) -> std::io::Result<Self> {
        Ok(Self(tokio::io::BufReader::new(tokio::net::TcpStream::connect(address).await?)))
    }

    /// Status of the answer, and whether the connection ends with it.
    async fn exchange(&mut self, request: &[u8]) -> std::io::Result<(u16, bool)> {
        use tokio::io::AsyncWriteExt;

        use crate::harness::wire::{Framing, Head, read_body};
        self.0.write_all(request).await?;
        let head = Head::read(&mut self.0).await?;
        let head = head.ok_or_else(|| std::io::Error::other("closed without an answer"))?;
        let status = head.first_line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        read_body(&mut self.0, head.framing().unwrap_or(Framing::UntilClose)).await?;
        Ok((status, head.header("connection") == Some("close")))
    }
}

async fn start(peer: &FakePeer, grace_secs: i64) -> (Gateway, Grants) {
    let grants = Grants::of(&["alpha"]).await;
    let setup = grants.setup().server("alpha", &peer.url()).set("shutdown.grace_secs", grace_secs);
    let setup = setup.set("shutdown.upgrade_timeout_secs", 20).set("limits.streams_per_caller", 0);
    // All of them come from one address.
    let setup = setup.set("limits.connections_per_address", 0).set("limits.requests_per_caller", 0);
    let gateway = setup.set("log.access", false).start().await;
    gateway.knows_tools("alpha", 2).await;
    (gateway, grants)
}

async fn peer() -> FakePeer {
    FakePeer::start().await.with_json("search", json!(1)).with_tool("watch", Behaviour::Hold)
}

/// Opens streams, as the client and as the peer see them.
async fn open(gateway: &Gateway, peer: &FakePeer, count: usize) -> Vec<(RawClient, Held)> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut client = RawClient::connect(&gateway.address()).await;
        client.send(post("/alpha/watch", &email_token(CALLER), "{}")).await;
        let held = peer.held().await;
        held.send("data: first\n\n");
        assert_eq!(client.read_head().await.0, 200);
        assert_eq!(client.read_chunk().await.unwrap(), b"data: first\n\n");
        streams.push((client, held));
    }
    streams
}

/// Sends an event on each stream, and sees it come.
async fn tell(streams: &mut [(RawClient, Held)], event: &str) {
    let event = format!("data: {event}\n\n");
    for (client, held) in streams {
        held.send(event.clone());
        assert_eq!(client.read_chunk().await.as_deref(), Some(event.as_bytes()));
    }
}

/// Ends each stream at the peer, and sees it end whole.
async fn end(streams: Vec<(RawClient, Held)>) {
    for (mut client, held) in streams {
        held.end();
        assert_eq!(client.read_chunk().await, None, "the last chunk");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_upgrades_in_a_row_with_1000_open_streams_refuse_nobody_and_break_nothing() {
    let peer = peer().await;
    let (mut gateway, _grants) = start(&peer, 120).await;
    let load = Load::begin(&gateway.address(), 4);
    let mut streams = open(&gateway, &peer, 1000).await;
    load.go_on(50).await;

    gateway.signal("USR2");
    let second = taken_over(&gateway, 1).await;
    load.go_on(50).await;
    tell(&mut streams, "after the first upgrade").await;
    let mut later = open(&gateway, &peer, 100).await;

    second.signal("USR2");
    let third = taken_over(&gateway, 2).await;
    load.go_on(50).await;
    tell(&mut streams, "after the second upgrade").await;
    tell(&mut later, "after the second upgrade").await;
    let newest = open(&gateway, &peer, 10).await;
    assert!(second.is_there() && third.is_there());
    let calls = load.end().await;
    assert!(calls > 150, "{calls}");

    end(streams).await;
    assert_eq!(gateway.ended().await.code(), Some(0), "gone as soon as its streams are");
    end(later).await;
    second.ended().await;
    assert_eq!(gateway.call("/alpha/search", &email_token(CALLER), &json!({})).await.status, StatusCode::OK);
    third.signal("TERM");
    end(newest).await;
    third.ended().await;
}

#[tokio::test]
async fn a_new_process_that_cannot_start_leaves_the_old_one_as_it_was() {
    let peer = peer().await;
    let (mut gateway, _grants) = start(&peer, 60).await;
    let file = gateway.folder.path().join("gateway.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{good}\n[nonsense]\n")).unwrap();

    let load = Load::begin(&gateway.address(), 2);
    gateway.signal("USR2");
    let line = gateway.stderr.find("word of the failure", |line| line.contains("this one goes on")).await;
    assert!(line.contains("the new process ended with exit status: 1; what it logged says why\""), "{line}");
    gateway
        .stderr
        .find("word of the new process", |line| line.contains("`nonsense` is not a known key"))
        .await;
    let failed = gateway.metrics().await.sum("portcullis_upgrades_total", &[("outcome", "failed")]);
    assert_eq!(failed, 1.0);
    load.go_on(20).await;

    // And it may be tried again.
    std::fs::write(&file, good).unwrap();
    gateway.signal("USR2");
    let second = taken_over(&gateway, 1).await;
    assert_eq!(gateway.ended().await.code(), Some(0));
    load.go_on(20).await;
    load.end().await;
    assert_eq!(upgrades(&gateway).await, (1.0, 1.0), "the new process counts on");
    second.signal("USR2");
    let third = taken_over(&gateway, 2).await;
    second.ended().await;
    assert_eq!(upgrades(&gateway).await, (2.0, 1.0));
    let second = third;
    second.signal("TERM");
    second.ended().await;
}

/// How many upgrades whoever serves has counted: those that succeeded, and those that failed.
async fn upgrades(gateway: &Gateway) -> (f64, f64) {
    let metrics = gateway.metrics().await;
    let count = |outcome| metrics.sum("portcullis_upgrades_total", &[("outcome", outcome)]);
    (count("handed_over"), count("failed"))
}

/// A gateway whose file now has a database that never answers: a process that reads it does not get ready.
async fn start_with_unready_successor() -> (FakePeer, Gateway, Grants) {
    let peer = peer().await;
    let grants = Grants::of(&["alpha"]).await;
    let setup = grants.setup().server("alpha", &peer.url()).set("shutdown.upgrade_timeout_secs", 3);
    let gateway = setup.start().await;
    let file = gateway.folder.path().join("gateway.toml");
    let mut keys: toml::Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    keys["database"].as_table_mut().unwrap().insert("url".into(), "postgres://u:p@127.0.0.1:9/none".into());
    std::fs::write(&file, toml::to_string(&keys).unwrap()).unwrap();
    (peer, gateway, grants)
}

#[tokio::test]
async fn a_new_process_that_is_killed_or_not_ready_in_time_is_given_up_and_leaves_nothing() {
    let (_peer, gateway, _grants) = start_with_unready_successor().await;
    let load = Load::begin(&gateway.address(), 2);
    gateway.signal("USR2");
    let killed = named(&gateway, 1, "has been started").await;
    killed.signal("KILL");
    let line = gateway.stderr.find("word of its end", |line| line.contains("ended with signal: 9")).await;
    assert!(line.contains("(SIGKILL); what it logged says why\""), "{line}");
    killed.ended().await;

    gateway.signal("USR2");
    let late = named(&gateway, 2, "has been started").await;
    gateway.stderr.find("word of its end", |line| line.contains("did not say `ready` within 3 s")).await;
    late.ended().await;
    load.go_on(20).await;
    load.end().await;
    assert_eq!(gateway.metrics().await.sum("portcullis_draining", &[]), 0.0);
}

#[tokio::test]
async fn a_gateway_that_is_told_to_stop_ends_whoever_was_to_take_over() {
    let (_peer, mut gateway, _grants) = start_with_unready_successor().await;
    gateway.signal("USR2");
    let successor = named(&gateway, 1, "has been started").await;
    gateway.signal("USR2");
    gateway.stderr.find("word of the second", |line| line.contains("is getting ready already")).await;
    gateway.signal("TERM");
    gateway.stderr.find("who wins", |line| line.contains("upgrade: given up because of SIGTERM")).await;
    assert_eq!(gateway.ended().await.code(), Some(0));
    successor.ended().await;
}

#[tokio::test]
async fn the_time_that_a_new_process_has_is_the_one_that_the_file_says_now() {
    let (_peer, gateway, _grants) = start_with_unready_successor().await;
    gateway.reconfigure("shutdown.upgrade_timeout_secs", 1).await;
    gateway.signal("USR2");
    gateway.stderr.find("word of its end", |line| line.contains("did not say `ready` within 1 s")).await;
}

/// In the place of a new process: it does what a new one does up to `go`, and says `serving` when a file lies there.
const SLOW_TO_SERVE: &str = r#"#!/bin/sh
read -r will <&5
echo ready >&5
read -r go <&5
echo "$go" > "$0.heard"
while [ ! -e "$0.serve" ]; do sleep 0.05; done
echo serving >&5
exec sleep 1000 5<&-
"#;

#[tokio::test]
async fn a_process_that_was_told_to_serve_is_not_ended_by_a_signal_for_the_one_before() {
    let peer = peer().await;
    let grants = Grants::of(&["alpha"]).await;
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("portcullis");
    std::fs::hard_link(env!("CARGO_BIN_EXE_portcullis"), &program)
        .or_else(|_| std::fs::copy(env!("CARGO_BIN_EXE_portcullis"), &program).map(drop))
        .unwrap();
    let mut gateway = grants.setup().server("alpha", &peer.url()).program(&program).start().await;
    std::fs::remove_file(&program).unwrap();
    write_program(&program, SLOW_TO_SERVE);

    gateway.signal("USR2");
    let successor = named(&gateway, 1, "has been started").await;
    until_so("that it was told to serve", || folder.path().join("portcullis.heard").exists()).await;
    gateway.signal("TERM");
    gateway.signal("USR1");
    gateway.stderr.find("that it is heard", |line| line.contains("SIGUSR1: nothing is done")).await;
    assert!(successor.is_there(), "it may have connections");
    std::fs::write(folder.path().join("portcullis.serve"), "").unwrap();
    // Kept: it would be killed when this is dropped.
    let same = taken_over(&gateway, 1).await;
    assert_eq!(same.0, successor.0);
    let words = format!(
        "SIGTERM: nothing is done, because this process is ending and process {} serves",
        successor.0
    );
    gateway.stderr.find("whom to tell", |line| line.contains(&words)).await;
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(successor.is_there());
}

/// Puts a program in its place at once.
fn write_program(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(beside, path).unwrap();
}

#[tokio::test]
async fn a_process_that_drains_says_what_it_still_has_and_leaves_the_files_to_the_new_one() {
    let peer = peer().await;
    let (mut gateway, _grants) = start(&peer, 60).await;
    let streams = open(&gateway, &peer, 3).await;
    let old = gateway.id();
    gateway.signal("USR2");
    let second = taken_over(&gateway, 1).await;
    let words = "still draining: 3 requests are running, 3 of them streams";
    let line = gateway.stderr.find("what it has", |line| line.contains(words)).await;
    assert!(line.contains(&format!("\"pid\":{old}")), "{line}");
    let words =
        format!("SIGUSR2: nothing is done, because this process is ending and process {} serves", second.0);
    gateway.signal("USR2");
    gateway.stderr.find("whom to tell", |line| line.contains(&words)).await;

    let file = gateway.folder.path().join("gateway.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    for name in ["nonsense", "drivel"] {
        std::fs::write(&file, format!("{good}\n[{name}]\n")).unwrap();
        let words = format!("`{name}` is not a known key");
        gateway.stderr.find("word of the bad file", |line| line.contains(&words)).await;
    }
    let told =
        gateway.stderr.all().iter().filter(|line| line.contains("`nonsense` is not a known key")).count();
    assert_eq!(told, 1, "by the new process alone");
    end(streams).await;
    assert_eq!(gateway.ended().await.code(), Some(0));
    second.signal("TERM");
    second.ended().await;
}

#[tokio::test]
async fn sessions_outlive_an_upgrade_without_configured_keys() {
    let peer = peer().await;
    let (mut gateway, _grants) = start(&peer, 60).await;
    let post = async |session: Option<&str>, body: serde_json::Value| {
        let request = gateway.call_request("/mcp", &email_token(CALLER), &body);
        let request = request.header("accept", "application/json, text/event-stream");
        gateway.send(session.iter().fold(request, |request, id| request.header("mcp-session-id", *id))).await
    };
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let begun =
        post(None, json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})).await;
    let session = begun.header("mcp-session-id").expect("a session").to_owned();
    gateway.signal("USR2");
    let second = taken_over(&gateway, 1).await;
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"});
    let listed = post(Some(&session), list.clone()).await;
    assert_eq!(listed.status, StatusCode::OK, "{}", listed.text());
    assert_eq!(post(Some("x"), list).await.status, StatusCode::NOT_FOUND);
    second.signal("TERM");
    second.ended().await;
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn systemd_is_told_which_process_is_the_gateway_now() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let heard = || {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).expect("a word to systemd");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let peer = peer().await;
    let grants = Grants::of(&["alpha"]).await;
    let setup = grants.setup().server("alpha", &peer.url());
    let gateway = setup.environment("NOTIFY_SOCKET", path.to_str().unwrap()).start().await;
    assert_eq!(heard(), format!("MAINPID={}\nREADY=1\n", gateway.id()));
    gateway.signal("USR2");
    let second = taken_over(&gateway, 1).await;
    assert_eq!(heard(), format!("MAINPID={}\nREADY=1\n", second.0));
    second.signal("TERM");
    assert_eq!(heard(), "STOPPING=1\n");
    second.ended().await;
}

#[tokio::test]
async fn the_command_says_what_came_of_an_upgrade() {
    let peer = peer().await;
    let (mut gateway, _grants) = start(&peer, 60).await;
    let upgrade = async |id: u32| {
        let id = id.to_string();
        portcullis(gateway.folder.path(), &["upgrade", "--pid", &id]).await
    };
    let done = upgrade(gateway.id()).await;
    assert_eq!((done.code, done.stdout.as_str()), (0, "a new process has taken over\n"), "{done:?}");
    let second = taken_over(&gateway, 1).await;

    let stranger = upgrade(1).await;
    assert_eq!((stranger.code, stranger.stdout.as_str()), (1, ""));
    assert!(
        stranger.stderr.contains("process 1 is `") && stranger.stderr.contains("nothing was done"),
        "{stranger:?}"
    );

    let file = gateway.folder.path().join("gateway.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{good}\n[nonsense]\n")).unwrap();
    let refused = upgrade(second.0).await;
    assert_eq!(refused.code, 1);
    for words in ["nothing was done", "`nonsense` is not a known key"] {
        assert!(refused.stderr.contains(words), "{refused:?}");
    }
    assert_eq!(upgrades(&gateway).await, (1.0, 0.0), "nobody was asked");
    std::fs::write(&file, good).unwrap();
    second.signal("TERM");
    second.ended().await;
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_command_says_that_no_new_process_has_taken_over() {
    let (_peer, gateway, _grants) = start_with_unready_successor().await;
    let id = gateway.id().to_string();
    let failed = portcullis(gateway.folder.path(), &["upgrade", "--pid", &id]).await;
    assert_eq!((failed.code, failed.stdout.as_str()), (1, ""));
    let words = format!("no other process has taken over, process {id} goes on as before");
    assert!(failed.stderr.contains(&words), "{failed:?}");
}

#[tokio::test]
async fn whoever_asks_how_the_gateway_is_asks_the_new_process() {
    let peer = peer().await;
    let (gateway, _grants) = start(&peer, 60).await;
    let streams = open(&gateway, &peer, 1).await;
    let mut prober = RawClient::connect(gateway.ops_url("").trim_start_matches("http://")).await;
    assert_eq!(prober.exchange(get("/health/ready", "")).await.status, 200);
    gateway.signal("USR2");
    let second = taken_over(&gateway, 1).await;
    assert!(prober.is_closed_within(Duration::from_secs(10)).await, "the old process answers no longer");
    for _ in 0..20 {
        let ready = gateway.send(gateway.client.get(gateway.ops_url("/health/ready"))).await;
        assert_eq!(ready.status, StatusCode::OK, "{}", ready.text());
    }
    end(streams).await;
    second.signal("TERM");
    second.ended().await;
}
