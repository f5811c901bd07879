//! What the machine around the gateway does to it: a log that nobody reads, signals, names that do not resolve, too few
//! open files, and a server whose tool list takes long to read.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    access::GRANT_USER,
    harness::{
        deadline::{until, until_so},
        fake_peer::{Behaviour, FakePeer, Held},
        gateway::{self, Gateway, Setup},
        grants::{ADMIN, CALLER, Grants},
        postgres::Database,
        raw::RawClient,
        raw_peer::RawPeer,
        request::{get, post},
        tokens::email_token,
        wire::answer,
    },
};

/// A gateway with room to drain for a minute, in front of a quick tool and one that streams.
struct Scene {
    gateway: Gateway,
    peer: FakePeer,
    grants: Grants,
}

impl Scene {
    async fn start(change: impl FnOnce(Setup) -> Setup) -> Self {
        let peer =
            FakePeer::start().await.with_json("search", json!("found")).with_tool("watch", Behaviour::Hold);
        let grants = Grants::of(&["alpha"]).await;
        let setup = grants.setup().server("alpha", &peer.url()).set("shutdown.grace_secs", 60);
        let gateway = change(setup).start().await;
        gateway.knows_tools("alpha", 2).await;
        Self { gateway, peer, grants }
    }

    async fn client(&self) -> RawClient {
        RawClient::connect(&self.gateway.address()).await
    }

    /// A stream of events that has begun.
    async fn stream(&self) -> (RawClient, Held) {
        let mut client = self.client().await;
        client.send(post("/alpha/watch", &email_token(CALLER), "{}")).await;
        let held = self.peer.held().await;
        assert_eq!(client.read_head().await.0, 200);
        (client, held)
    }

    async fn search(&self) -> u16 {
        let answer = self.gateway.call("/alpha/search", &email_token(CALLER), &json!({})).await;
        answer.status.as_u16()
    }

    /// A grant taken back ends what was begun under it within 2 s, and one given again lets its caller in again.
    async fn obeys_a_revocation(&self) {
        let (mut client, held) = self.stream().await;
        self.grants.take_back(CALLER, "alpha").await;
        assert!(client.is_closed_within(Duration::from_secs(2)).await, "the stream goes on");
        held.closed().await;
        assert_eq!(self.search().await, 403);
        self.grants.add(CALLER, "alpha").await;
        self.gateway.call_until("/alpha/search", &email_token(CALLER), 200).await;
    }

    /// Told to stop, it is gone long before its grace is over.
    async fn ends_promptly(mut self) {
        let told = Instant::now();
        self.gateway.signal("TERM");
        assert_eq!(self.gateway.ended().await.code(), Some(0));
        assert!(told.elapsed() < Duration::from_secs(6), "took {:?} of a grace of 60 s", told.elapsed());
    }

    /// Returns once a load balancer would be told to send nothing more.
    async fn await_unready(&self) {
        until("readiness that says no", || async {
            // A connection of its own each time, as load balancers make them.
            let asked = gateway::client().get(self.gateway.ops_url("/health/ready")).send().await.ok()?;
            (asked.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_log_whose_reader_has_gone_ends_neither_the_process_nor_its_work() {
    let scene = Scene::start(|setup| setup).await;
    scene.gateway.stderr.close();
    // Ending a call is said on stderr: the second time shows that the first has broken nothing.
    scene.obeys_a_revocation().await;
    scene.obeys_a_revocation().await;
    scene.gateway.stdout.close();
    assert_eq!(scene.search().await, 200);
    scene.obeys_a_revocation().await;
    assert_eq!(scene.gateway.metrics().await.sum("portcullis_panics_total", &[]), 0.0);
    scene.ends_promptly().await;
}

/// Makes the gateway write so much that pipes nobody reads, and what waits to be written into them, are full.
async fn flood(scene: &Scene) {
    let (mut client, call) = (scene.client().await, post("/alpha/search", &email_token(CALLER), "{}"));
    let (said, before) = (|| scene.gateway.stderr.all().len(), scene.gateway.stderr.all().len());
    for _ in 0..20 {
        assert_eq!(client.exchange(&call).await.status, 200);
    }
    until_so("a line at least about each call", || said() - before >= 20).await;
    scene.gateway.stderr.stop_reading();
    scene.gateway.stdout.stop_reading();
    // 4096 lines may wait, and a pipe holds 64 KiB.
    for _ in 0..5000 {
        assert_eq!(client.exchange(&call).await.status, 200);
    }
}

#[tokio::test]
async fn a_log_whose_reader_is_stuck_holds_up_no_revocation_and_no_end() {
    let scene = Scene::start(|setup| setup.set("log.filter", "trace")).await;
    flood(&scene).await;
    scene.obeys_a_revocation().await;
    assert_eq!(scene.search().await, 200);
    scene.ends_promptly().await;
}

#[tokio::test]
async fn signals_that_mean_nothing_here_end_nothing() {
    let scene = Scene::start(|setup| setup).await;
    let (mut client, held) = scene.stream().await;
    for name in ["HUP", "USR1", "HUP"] {
        scene.gateway.signal(name);
        let said = format!("SIG{name}");
        scene.gateway.stderr.find("a line about the signal", |line| line.contains(&said)).await;
    }
    held.send("data: 1\n\n");
    assert_eq!(client.read_chunk().await.unwrap(), b"data: 1\n\n");
    assert_eq!((scene.search().await, scene.gateway.readiness().await), (200, 200));
}

#[tokio::test]
async fn a_quit_drains_like_a_termination() {
    let peer = RawPeer::with_tools(&["slow"]).await;
    let grants = Grants::of(&["alpha"]).await;
    let setup = grants.setup().server("alpha", &peer.url()).set("shutdown.grace_secs", 60);
    let mut gateway = setup.start().await;
    gateway.knows_tools("alpha", 1).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(post("/alpha/slow", &email_token(CALLER), "{}")).await;
    let mut call = peer.call().await;
    call.read_body().await;

    gateway.signal("QUIT");
    gateway.await_port_closed().await;
    call.send(answer("200 OK", "application/json", b"\"done\"")).await;
    let got = client.read_answer().await;
    assert_eq!((got.status, got.text().as_str()), (200, "\"done\""));
    let done = Instant::now();
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(done.elapsed() < Duration::from_secs(5), "took {:?} of a grace of 60 s", done.elapsed());
}

#[tokio::test]
async fn during_the_delay_readiness_says_no_and_calls_are_still_served() {
    let mut scene = Scene::start(|setup| setup.set("shutdown.delay_secs", 2)).await;
    let mut kept = scene.client().await;
    let call = post("/alpha/search", &email_token(CALLER), "{}");
    assert_eq!(kept.exchange(&call).await.status, 200);
    let told = Instant::now();
    scene.gateway.signal("TERM");
    scene.await_unready().await;
    let mut new = scene.client().await;
    assert_eq!((new.exchange(&call).await.status, kept.exchange(&call).await.status), (200, 200));
    scene.gateway.await_port_closed().await;
    let open = told.elapsed();
    assert!(open > Duration::from_millis(1900) && open < Duration::from_secs(5), "closed after {open:?}");
    assert_eq!(scene.gateway.ended().await.code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(8), "ended after {:?}", told.elapsed());
}

#[tokio::test]
async fn a_second_termination_cuts_the_delay_short() {
    let scene = Scene::start(|setup| setup.set("shutdown.delay_secs", 60)).await;
    scene.gateway.signal("TERM");
    scene.await_unready().await;
    assert_eq!(scene.search().await, 200);
    scene.ends_promptly().await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_delays_no_other_server() {
    let peer = FakePeer::start().await.with_json("search", json!(1));
    let grants = Grants::of(&["alpha", "absent"]).await;
    let setup = grants.setup().server("alpha", &peer.url());
    let setup = setup.server("absent", "http://no-such-host.invalid:8000");
    let gateway = setup.start().await;
    let (_, took) = gateway.call_until("/alpha/search", &email_token(CALLER), 200).await;
    assert!(took < Duration::from_secs(2), "the first answer came {took:?} after readiness");
}

#[tokio::test]
async fn too_few_open_files_are_said_and_only_what_they_allow_is_accepted() {
    let scene = Scene::start(|setup| setup.open_files(256)).await;
    let warns = |line: &str| line.contains("256 open files allow 58 connections");
    scene.gateway.stderr.find("a warning", warns).await;
    for conceal in [true, false] {
        scene.gateway.reconfigure("access.conceal", conceal).await;
    }
    let warned = scene.gateway.stderr.all().iter().filter(|line| warns(line)).count();
    assert_eq!(warned, 1, "said again at reloads that change nothing about it");
    // Each with a connection to the server as well, and one in ten may be forsaken by its client besides.
    let mut streams = Vec::new();
    for _ in 0..58 {
        streams.push(scene.stream().await);
    }
    for _ in 0..3 {
        assert!(scene.client().await.is_closed_within(Duration::from_secs(5)).await);
    }
    assert_eq!(scene.gateway.readiness().await, 200);
    for (client, held) in &mut streams {
        held.send("data: 1\n\n");
        assert_eq!(client.read_chunk().await.unwrap(), b"data: 1\n\n");
    }
    drop(streams);
    scene.gateway.await_metric("portcullis_connections", &[], 0).await;
    assert_eq!(scene.client().await.exchange(get("/alpha", &email_token(CALLER))).await.status, 200);
    assert_eq!(scene.search().await, 200);
}

/// A tool list just within `tools.max_bytes` whose every schema refers to a hundred others.
fn tangled() -> Vec<u8> {
    const SCHEMAS: usize = 2_100;
    let reference = |number: usize| json!({"$ref": format!("#/components/schemas/S{}", number % SCHEMAS)});
    let references = |of: usize| (0..100).map(|step| reference(of * 7 + step * 13)).collect::<Vec<_>>();
    let schemas: serde_json::Map<_, _> =
        (0..SCHEMAS).map(|number| (format!("S{number}"), json!({"anyOf": references(number)}))).collect();
    let deep = (0..100).fold(reference(0), |inner, _| json!({"type": "array", "items": inner}));
    let body = json!({"content": {"application/json": {"schema": deep}}});
    let document = json!({"openapi": "3.1.0", "components": {"schemas": schemas},
        "paths": {"/one": {"post": {"requestBody": body}}, "/two": {"post": {}}}});
    let bytes = document.to_string().into_bytes();
    assert!((7_000_000..8_388_608).contains(&bytes.len()), "{} bytes", bytes.len());
    bytes
}

#[tokio::test]
async fn a_tool_list_that_takes_long_to_read_delays_no_revocation() {
    let database = Database::create().await;
    let (peer, hostile) = (
        FakePeer::start().await.with_json("search", json!([])),
        FakePeer::start().await.with_json("one", Value::Null),
    );
    let setup = Setup::new(&database.url()).server("github", &peer.url());
    let gateway = setup.server("hostile", &hostile.url()).set("tools.deadline_secs", 60).start().await;
    gateway.knows_tools("hostile", 1).await;
    let admin = format!("INSERT INTO user_group_membership VALUES ('{ADMIN}', 'MCP-Admin')");
    database.execute(&admin).await;
    gateway.await_grants(1).await;

    let tangled = answer("200 OK", "application/json", &tangled());
    hostile.set("/openapi.json", Behaviour::Answer(tangled));
    let (token, listings) = (email_token("user@company.com"), hostile.listings());
    assert_eq!(gateway.call("/refresh", &email_token(ADMIN), &json!({})).await.status, 202);
    until_so("the list asked for", || hostile.listings() > listings).await;
    let mut times = Vec::new();
    while gateway.metrics().await.sum("portcullis_tools", &[("server", "hostile")]) != 2.0 {
        database.execute(GRANT_USER).await;
        times.push(gateway.call_until("/github/search", &token, 200).await.1);
        database.execute("DELETE FROM user_tenant_access").await;
        times.push(gateway.call_until("/github/search", &token, 403).await.1);
        assert!(times.iter().all(|took| *took <= Duration::from_secs(3)), "{times:?}");
    }
    assert!(times.len() > 2, "the list was read too quickly to be in anybody's way: {times:?}");
}

#[tokio::test]
async fn who_is_told_that_the_gateway_is_ready_is_answered_by_it() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("grants.db").display());
        let mut gateway = Setup::new(&url).server("github", "http://127.0.0.1:9").spawn();
        gateway.await_ready().await;
        // No second try: a load balancer has none either.
        std::net::TcpStream::connect(gateway.address()).expect("ready, and nobody there");
    }
}

/// Nanoseconds that each thread that serves has run, by its name.
fn ran(id: u32) -> std::collections::BTreeMap<String, u64> {
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).unwrap().map(|thread| thread.unwrap().path());
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    threads
        .filter_map(|thread| {
            let name = read(thread.join("comm")).trim().to_owned();
            let ran = read(thread.join("schedstat")).split(' ').next()?.parse().ok()?;
            name.starts_with("gateway ").then_some((name, ran))
        })
        .collect()
}

#[tokio::test]
async fn connections_are_spread_over_all_threads_and_each_serves_its_own() {
    let scene = Scene::start(|setup| setup.set("listen.threads", 3)).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = scene.client().await;
        assert_eq!(client.exchange(post("/alpha/search", &email_token(CALLER), "{}")).await.status, 200);
        clients.push(client);
    }
    let id = scene.gateway.id();
    assert_eq!(ran(id).into_keys().collect::<Vec<_>>(), ["gateway 0", "gateway 1", "gateway 2"]);
    // Two of them are on each thread, and while one's calls are served the other threads have nothing to do.
    let mut served = std::collections::BTreeMap::<String, usize>::new();
    for client in &mut clients {
        let before = ran(id);
        for _ in 0..50 {
            client.exchange(post("/alpha/search", &email_token(CALLER), "{}")).await;
        }
        let now = ran(id);
        let (name, most) = now
            .iter()
            .map(|(name, turns)| (name, turns - before[name]))
            .max_by_key(|(_, more)| *more)
            .unwrap();
        let others = now.values().sum::<u64>() - before.values().sum::<u64>() - most;
        assert!(most >= 10 && others <= most / 2, "{before:?}, then {now:?}");
        *served.entry(name.clone()).or_default() += 1;
    }
    assert_eq!(served.into_values().collect::<Vec<_>>(), [2, 2, 2]);
}

#[tokio::test]
async fn what_runs_on_any_thread_when_the_process_is_cut_has_its_line() {
    let scene = Scene::start(|setup| setup.set("listen.threads", 3)).await;
    let mut streams = Vec::new();
    for _ in 0..6 {
        streams.push(scene.stream().await);
    }
    let Scene { mut gateway, peer: _peer, grants: _grants } = scene;
    gateway.signal("INT");
    gateway.ended().await;
    let lost = gateway.stdout.all().iter().filter(|line| line.contains(r#""outcome":"lost""#)).count();
    assert_eq!(lost, 6);
}
