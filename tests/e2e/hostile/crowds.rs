//! Many who take their time, beside callers who do not: the former are let go when README.md says, the latter served.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::stated;
use crate::harness::{
    deadline::until,
    events::EventPeer,
    fake_peer::{Behaviour, FakePeer},
    gateway::Gateway,
    grants::{CALLER, Grants},
    load::{Load, Plan, Tally},
    raw::RawClient,
    request::{chunked, get, head, post},
    tokens::email_token,
    wire::answer,
};

const SLOW_HEAD: &str = "a head that does not come to its end, or a connection that says nothing";
const SLOW_BODY: &str = "a body that stops before its end";
const NOT_TAKEN: &str = "an answer that is not taken";
const LARGE_HEAD: &str = "a head over `listen.max_header_bytes`";
const MANY_LINES: &str = "more than 256 headers";
const ENDLESS_HEAD: &str = "a head over four times `listen.max_header_bytes`, whether it ends or not";

/// The rows of README.md that are checked here.
pub const ROWS: [&str; 6] = [SLOW_HEAD, SLOW_BODY, NOT_TAKEN, LARGE_HEAD, MANY_LINES, ENDLESS_HEAD];

/// What a wait may grow by without meaning anything: both cores are shared with the attackers.
const NOISE: Duration = Duration::from_millis(50);
/// Of each kind of attacker.
const CROWD: usize = 150;

/// Callers of a gateway who are watched, and others who call a peer past it, so that what slows the whole machine down is
/// not laid to the gateway.
pub struct Watched {
    calls: Load,
    past_it: Load,
    before: Tally,
}

impl Watched {
    /// Begins, and counts for a while.
    pub async fn start(calls: Plan, peer: &EventPeer) -> Self {
        let past_it =
            Plan { address: peer.address(), requests: vec![post("/search", "", "{}")], ..calls.clone() };
        let (calls, past_it) = (calls.start(), past_it.start());
        let before = calls.run_for(Duration::from_secs(2)).await;
        before.all_worked("before");
        past_it.take();
        Self { calls, past_it, before }
    }

    /// Counts for this long.
    pub async fn went_on_for(&self, what: &str, span: Duration) {
        self.begin_anew();
        tokio::time::sleep(span).await;
        self.check(what);
    }

    /// Forgets what was counted.
    pub fn begin_anew(&self) {
        self.calls.take();
        self.past_it.take();
    }

    /// Fails unless all calls since [`Self::begin_anew`] worked, and of a hundred 99 took at most twice as long as before,
    /// or as past the gateway meanwhile.
    #[track_caller]
    pub fn check(&self, what: &str) {
        let (during, past_it) = (self.calls.take(), self.past_it.take());
        during.all_worked(what);
        let (is, was, machine) =
            (during.percentile(0.99), self.before.percentile(0.99), past_it.percentile(0.99));
        let before = &self.before;
        let is_well = is <= was.max(machine) * 2 + NOISE;
        assert!(
            is_well,
            "{what}: p99 {is:.1?}, {was:.1?} before\n{before}\n{during}\npast the gateway: {past_it}"
        );
    }

    /// Ends; what is underway must work.
    pub async fn end(self) {
        self.calls.end().await.none_failed("at the end");
    }
}

/// A gateway that is not patient, in front of a tool that answers at once and one that answers with 16 MiB.
struct Scene {
    gateway: Gateway,
    peers: (EventPeer, FakePeer),
    token: String,
    _grants: Grants,
}

impl Scene {
    async fn start() -> Self {
        let large = answer("200 OK", "application/json", &vec![b'1'; 16 << 20]);
        let peer = EventPeer::start(Duration::from_secs(1));
        let beside = FakePeer::start().await.with_tool("large", Behaviour::Answer(large));
        let grants = Grants::of(&["alpha", "beta"]).await;
        let setup = grants.setup().server("alpha", &peer.url()).server("beta", &beside.url());
        let timeouts = ["header_timeout", "body_timeout", "write_timeout", "keepalive_timeout"];
        let setup = timeouts.iter().fold(setup, |setup, key| setup.set(&format!("listen.{key}_secs"), 2));
        let gateway = setup.start().await;
        gateway.knows_tools("alpha", 2).await;
        gateway.knows_tools("beta", 1).await;
        Self { gateway, peers: (peer, beside), token: email_token(CALLER), _grants: grants }
    }

    async fn client(&self) -> RawClient {
        RawClient::connect(&self.gateway.address()).await
    }
}

/// Sends this, then `drop` again and again: how long it was let, and what it heard.
async fn linger(
    address: String,
    beginning: String,
    drop: &'static str,
    after: Duration,
) -> (Duration, Vec<u16>) {
    tokio::time::sleep(after).await;
    let mut client = RawClient::connect(&address).await;
    let began = Instant::now();
    client.send(beginning).await;
    let dripping = async {
        let mut drops = tokio::time::interval(Duration::from_millis(250));
        loop {
            drops.tick().await;
            if drop.is_empty() || client.try_send(drop).await.is_err() {
                break;
            }
            if began.elapsed() > Duration::from_secs(20) {
                break;
            }
        }
    };
    dripping.await;
    let heard = client.statuses_to_the_end(Duration::from_secs(20)).await;
    (began.elapsed(), heard)
}

#[tokio::test]
async fn hundreds_who_drip_stop_or_say_nothing_are_let_go_and_nobody_else_waits() {
    let scene = Scene::start().await;
    let calls = vec![post("/alpha/search", &scene.token, "{}"), get("/alpha", &scene.token).into_bytes()];
    let plan = Plan { callers: 5, ..Plan::of(scene.gateway.address(), calls) };
    let watched = Watched::start(plan, &scene.peers.0).await;
    let memory = scene.gateway.memory_mib();

    let mut crowd = JoinSet::new();
    let line = "POST /alpha/search HTTP/1.1\r\nhost: gateway\r\n".to_owned();
    let whole = head("POST", "/alpha/search", &scene.token, &["content-length: 1000"]) + "{\"a\": ";
    let chunk = chunked("/alpha/search", &scene.token) + "6\r\n{\"a\": \r\n";
    for number in 0..CROWD {
        // Connections of a crowd do not come in one moment.
        let after = Duration::from_millis(10) * number as u32;
        for (beginning, drop, row) in [
            (line.clone(), "x: y\r\n", SLOW_HEAD),
            (String::new(), "", SLOW_HEAD),
            (whole.clone(), "", SLOW_BODY),
            (chunk.clone(), "", SLOW_BODY),
        ] {
            let address = scene.gateway.address();
            crowd.spawn(async move { (row, drop, linger(address, beginning, drop, after).await) });
        }
        let (address, request) = (scene.gateway.address(), post("/beta/large", &scene.token, "{}"));
        if number % 15 == 0 {
            // Takes nothing of what it asked for.
            crowd.spawn(async move {
                tokio::time::sleep(after).await;
                let mut client = RawClient::connect(&address).await;
                client.send(request).await;
                tokio::time::sleep(Duration::from_secs(4)).await;
                let is_cut = client.rest().await < 16 << 20;
                (NOT_TAKEN, "", (Duration::from_secs(4), vec![u16::from(is_cut)]))
            });
        }
    }
    watched.went_on_for("beside a crowd", Duration::from_secs(4)).await;
    let grown = scene.gateway.memory_mib().saturating_sub(memory);
    while let Some(one) = crowd.join_next().await {
        let (row, drop, (took, heard)) = one.unwrap();
        match row {
            SLOW_BODY => assert_eq!((heard.as_slice(), &stated(row)[0][..3]), (&[400][..], "400")),
            NOT_TAKEN => assert_eq!((heard.as_slice(), stated(row)[0].as_str()), (&[1][..], "cut")),
            _ => assert_eq!((heard.as_slice(), stated(row)[0].as_str()), (&[][..], "none"), "{drop:?}"),
        }
        assert!(took < Duration::from_secs(15), "{row} {drop:?}: kept for {took:?}");
    }
    watched.end().await;
    assert!(grown < 64, "{grown} MiB more for {} connections", 4 * CROWD);
    until("every connection closed", || async {
        (scene.gateway.metrics().await.sum("portcullis_connections", &[]) == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_is_gone_without_a_word_holds_nothing_for_long() {
    let scene = Scene::start().await;
    // Half closed in the middle of a head and of a body, and with an answer that nobody waits for.
    let halves = [
        "GET /servers HTTP/1.1\r\nhost: ga".to_owned(),
        head("POST", "/alpha/search", &scene.token, &["content-length: 10"]) + "{",
        chunked("/alpha/search", &scene.token) + "2\r\n{",
        head("POST", "/mcp", &scene.token, &["content-type: application/json", "content-length: 10"]) + "{",
    ];
    for half in halves {
        let mut client = scene.client().await;
        client.send(&half).await;
        client.finish_sending().await;
        assert_eq!(
            client.statuses_to_the_end(Duration::from_secs(20)).await.len() as u16 & !1,
            0,
            "{half:?}"
        );
    }
    until("every connection closed", || async {
        (scene.gateway.metrics().await.sum("portcullis_connections", &[]) == 0.0).then_some(())
    })
    .await;
    assert_eq!(scene.client().await.exchange(get("/alpha", &scene.token)).await.status, 200);
}

#[tokio::test]
async fn floods_of_headers_are_refused_and_nobody_else_waits() {
    let scene = Scene::start().await;
    let calls = vec![post("/alpha/search", &scene.token, "{}")];
    let plan = Plan { callers: 5, ..Plan::of(scene.gateway.address(), calls) };
    let watched = Watched::start(plan, &scene.peers.0).await;
    let memory = scene.gateway.memory_mib();
    let lines = |count: usize, size: usize| {
        "x-flood: ".to_owned() + &"y".repeat(size) + "\r\n" + &"z: y\r\n".repeat(count)
    };
    let status = |row: &str| stated(row)[0][..3].parse::<u16>().unwrap();
    let floods = [
        (lines(100, 1), 200),
        (lines(220, 100), 200),
        (lines(10, 40_000), status(LARGE_HEAD)),
        (lines(200, 100_000), status(LARGE_HEAD)),
        (lines(10, 1_100_000), status(ENDLESS_HEAD)),
        (lines(300, 1), status(MANY_LINES)),
        (lines(5_000, 1), status(MANY_LINES)),
    ];
    watched.begin_anew();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        let mut crowd = JoinSet::new();
        for (flood, expected) in floods.clone() {
            let request = head("GET", "/alpha", &scene.token, &[flood.trim_end()]);
            let address = scene.gateway.address();
            crowd.spawn(async move {
                let mut client = RawClient::connect(&address).await;
                drop(client.try_send(request).await);
                let found = client.statuses_to_the_end(Duration::from_millis(300)).await;
                assert!(
                    found == [expected] || found.is_empty() && matches!(expected, 400 | 431),
                    "{found:?}, not {expected}"
                );
            });
        }
        crowd.join_all().await;
    }
    watched.check("beside floods of headers");
    watched.end().await;
    let grown = scene.gateway.memory_mib().saturating_sub(memory);
    assert!(grown < 64, "{grown} MiB more");
}

#[tokio::test]
async fn heads_that_are_larger_than_anybody_needs_are_neither_kept_nor_waited_for() {
    let scene = Scene::start().await;
    let memory = scene.gateway.memory_mib();
    let mut crowd = JoinSet::new();
    for _ in 0..CROWD {
        let address = scene.gateway.address();
        crowd.spawn(async move {
            let mut client = RawClient::connect(&address).await;
            let began = Instant::now();
            let head = "GET / HTTP/1.1\r\nhost: gateway\r\nx: ".to_owned() + &"y".repeat(1_000_000);
            drop(client.try_send(head).await);
            let heard = client.statuses_to_the_end(Duration::from_secs(20)).await;
            (heard, began.elapsed())
        });
    }
    while let Some(one) = crowd.join_next().await {
        let (heard, took) = one.unwrap();
        assert_eq!((heard.as_slice(), &stated(ENDLESS_HEAD)[0][..3]), (&[431][..], "431"));
        assert!(took < Duration::from_millis(1_900), "cut by its time alone, after {took:?}");
    }
    let grown = scene.gateway.memory_mib().saturating_sub(memory);
    assert!(grown < 48, "{grown} MiB more");
    let closed = [("reason", "header_size")];
    scene.gateway.await_metric("portcullis_connections_closed_total", &closed, CROWD).await;
    // Not the body of a refused request, which is read away.
    let mut client = scene.client().await;
    let body = vec![b' '; 600_000];
    for _ in 0..3 {
        assert_eq!(client.exchange(post("/alpha/search", "nobody", &body)).await.status, 401);
    }
}
