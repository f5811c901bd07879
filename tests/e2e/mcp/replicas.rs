//! Two gateways with one key are one gateway: sessions live on both, and outlive either.

use std::process::Stdio;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::wire::{End, call, read_until, request};
use crate::harness::{
    deadline::{until, within},
    front::Front,
    gateway::{Answer, Gateway, Setup},
    grants::{ADMIN, CALLER, Grants},
    mcp::{Fixture, LEGACY, python, script},
    tokens::email_token,
};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const OTHER_KEY: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn setup(grants: &Grants, fixture: &Fixture, keys: &[&str]) -> Setup {
    let setup = grants.setup().mcp("native", "mcp", &fixture.url("/mcp"));
    if keys.is_empty() { setup } else { setup.set("mcp.session_keys", keys.to_vec()) }
}

fn end(gateway: &Gateway, email: &str) -> End {
    End::through(gateway.url("/native/mcp"), &email_token(email))
}

/// The fixture behind two gateways that share [`KEY`].
struct Pair {
    fixture: Fixture,
    grants: Grants,
    one: Gateway,
    two: Gateway,
}

impl Pair {
    async fn start() -> Self {
        let (fixture, grants) = (Fixture::start().await, Grants::of(&["native"]).await);
        let one = setup(&grants, &fixture, &[KEY]).start().await;
        let two = setup(&grants, &fixture, &[KEY]).start().await;
        Self { fixture, grants, one, two }
    }

    fn ends(&self) -> (End, End) {
        (end(&self.one, CALLER), end(&self.two, CALLER))
    }
}

async fn echo(end: &End, session: &str, id: u64) -> Answer {
    Answer::read(end.in_session(session, &call(id, "echo", json!({"message": "hi"}))).await).await
}

#[track_caller]
fn assert_echoed(answer: &Answer) {
    assert_eq!(answer.json()["result"]["content"][0]["text"], "hi", "{}", answer.text());
}

/// The data of the events, as messages.
fn messages(stream: &str) -> Vec<Value> {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter_map(|data| serde_json::from_str(data).ok()).collect()
}

#[tokio::test]
async fn a_session_begun_at_one_replica_goes_on_at_the_other() {
    let pair = Pair::start().await;
    let (one, two) = pair.ends();
    let session = one.session().await;
    assert_echoed(&echo(&two, &session, 2).await);

    let mut standing = two.listen(&session).await;
    assert_eq!(standing.status(), StatusCode::OK);
    let flip = call(3, "test_trigger_tool_change", json!({}));
    assert_eq!(one.in_session(&session, &flip).await.status(), StatusCode::OK);
    read_until(&mut standing, "notifications/tools/list_changed").await;

    // Asked at one replica, answered at the other.
    let mut asking = one.in_session(&session, &call(4, "ask", json!({}))).await;
    let asked = messages(&read_until(&mut asking, "elicitation/create").await);
    let question = asked.iter().find(|message| message["method"] == "elicitation/create").unwrap();
    let reply = json!({"jsonrpc": "2.0", "id": question["id"],
        "result": {"action": "accept", "content": {"name": "Ada"}}});
    assert_eq!(two.in_session(&session, &reply).await.status(), StatusCode::ACCEPTED);
    read_until(&mut asking, "Hello, Ada!").await;

    assert_eq!(two.leave(&session).await.status(), StatusCode::OK);
    pair.fixture.await_count("sessions", 0).await;
    assert_eq!(echo(&one, &session, 5).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_death_of_a_replica_costs_only_what_was_in_flight_there() {
    let mut pair = Pair::start().await;
    let (one, two) = pair.ends();
    let session = one.session().await;
    let mut standing = two.listen(&session).await;
    let slow = |id| call(id, "slow", json!({"ms": 2000, "step": 50}));
    let mut lost = one.in_session(&session, &slow(2)).await;
    let read = read_until(&mut lost, "notifications/progress").await;
    let mut kept = two.in_session(&session, &slow(3)).await;
    read_until(&mut kept, "notifications/progress").await;

    pair.one.signal("KILL");
    pair.one.ended().await;
    let cut = within("the cut", async {
        while lost.chunk().await?.is_some() {}
        reqwest::Result::Ok(())
    })
    .await;
    assert!(cut.is_err(), "what was in flight came to a good end");
    assert_echoed(&echo(&two, &session, 4).await);
    read_until(&mut kept, "slept 2000").await;
    let flip = call(5, "test_trigger_tool_change", json!({}));
    assert_eq!(two.in_session(&session, &flip).await.status(), StatusCode::OK);
    read_until(&mut standing, "notifications/tools/list_changed").await;
    assert_eq!(pair.fixture.count("cancelled").await, 0);

    // Even that is not lost to a client that resumes its stream at the other replica.
    let last = read.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap();
    let headers = [("accept", "text/event-stream"), ("mcp-session-id", &*session), ("last-event-id", last)];
    let resumed = two.request(reqwest::Method::GET, &headers).send().await.unwrap();
    assert!(Answer::read(resumed).await.text().contains("slept 2000"));
}

#[tokio::test]
async fn a_replica_that_ends_gives_its_standing_streams_back_within_its_grace() {
    let (fixture, grants) = (Fixture::start().await, Grants::of(&["native"]).await);
    let mut one = setup(&grants, &fixture, &[KEY]).set("shutdown.grace_secs", 2).start().await;
    let two = setup(&grants, &fixture, &[KEY]).start().await;
    let session = end(&one, CALLER).session().await;
    let mut standing = end(&one, CALLER).listen(&session).await;
    assert_eq!(standing.status(), StatusCode::OK);
    one.signal("TERM");
    assert!(one.ended().await.success(), "{}", one.stderr.text());
    let over = within("the end of the stream", standing.chunk()).await;
    assert!(!matches!(over, Ok(Some(_))), "{over:?}");
    fixture.await_count("streamsOpen", 0).await;
    let mut again = end(&two, CALLER).listen(&session).await;
    let flip = call(3, "test_trigger_tool_change", json!({}));
    assert_eq!(end(&two, CALLER).in_session(&session, &flip).await.status(), StatusCode::OK);
    read_until(&mut again, "notifications/tools/list_changed").await;
}

#[tokio::test]
async fn a_session_outlives_a_restart_of_its_gateway() {
    let (fixture, grants) = (Fixture::start().await, Grants::of(&["native"]).await);
    let gateway = setup(&grants, &fixture, &[KEY]).start().await;
    let session = end(&gateway, CALLER).session().await;
    drop(gateway);
    let again = setup(&grants, &fixture, &[OTHER_KEY, KEY]).start().await;
    assert_echoed(&echo(&end(&again, CALLER), &session, 2).await);
}

/// The session is gone for whoever asks here; the server is not asked.
async fn assert_gone(what: &str, fixture: &Fixture, end: &End, session: &str) {
    let before = asked_by_clients(fixture).await;
    let posted = end.in_session(session, &request(9, "tools/list", json!({}))).await;
    assert_eq!(posted.status(), StatusCode::NOT_FOUND, "{what}: POST");
    assert_eq!(end.listen(session).await.status(), StatusCode::NOT_FOUND, "{what}: GET");
    assert_eq!(end.leave(session).await.status(), StatusCode::NOT_FOUND, "{what}: DELETE");
    assert_eq!(asked_by_clients(fixture).await, before, "{what}: the server was asked");
}

/// How much the server was asked, the gateway's own reading of its lists left out.
async fn asked_by_clients(fixture: &Fixture) -> usize {
    let is_client_s = |entry: &&Value| {
        let agent = entry["headers"]["user-agent"].as_str();
        !agent.is_some_and(|agent| agent.starts_with("portcullis"))
    };
    fixture.log().await.iter().filter(is_client_s).count()
}

#[tokio::test]
async fn a_session_is_gone_for_everybody_but_its_caller_and_where_its_key_is_unknown() {
    let pair = Pair::start().await;
    let stranger = setup(&pair.grants, &pair.fixture, &[OTHER_KEY]).start().await;
    let keyless = setup(&pair.grants, &pair.fixture, &[]).start().await;
    let (one, _) = pair.ends();
    let session = one.session().await;
    assert_gone("another caller", &pair.fixture, &end(&pair.one, ADMIN), &session).await;
    assert_gone("another key", &pair.fixture, &end(&stranger, CALLER), &session).await;
    assert_gone("a key of its own", &pair.fixture, &end(&keyless, CALLER), &session).await;
    let changed = session.chars().rev().collect::<String>();
    assert_gone("a changed id", &pair.fixture, &one, &changed).await;
    pair.grants.add(CALLER, "other").await;
    let two_servers =
        setup(&pair.grants, &pair.fixture, &[KEY]).mcp("other", "mcp", &pair.fixture.url("/mcp"));
    let two_servers = two_servers.start().await;
    let other = End::through(two_servers.url("/other/mcp"), &email_token(CALLER));
    assert_gone("another server", &pair.fixture, &other, &session).await;
    assert_gone("the server's own id", &pair.fixture, &one, "7c9e6679-7425-40de-944b-e07fc1f90ae7").await;
    assert_echoed(&echo(&one, &session, 2).await);
}

#[tokio::test]
async fn a_session_stays_with_the_peer_that_began_it() {
    let peers = [Fixture::with(&["--name", "left"]).await, Fixture::with(&["--name", "right"]).await];
    let grants = Grants::of(&["native"]).await;
    let urls: Vec<_> = peers.iter().map(|peer| toml::Value::from(peer.url("/mcp"))).collect();
    let keys = [("tier", "http".into()), ("dialect", "mcp".into()), ("url", urls.into())];
    let keys = keys.map(|(key, value): (&str, toml::Value)| (key.to_owned(), value)).into_iter().collect();
    let gateway = grants.setup().server_with("native", "", keys).start().await;
    let end = end(&gateway, CALLER);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let session = end.session().await;
        let mut names = std::collections::BTreeSet::new();
        for id in 2..6 {
            let who =
                Answer::read(end.in_session(&session, &call(id, "whoami", json!({}))).await).await.json();
            let who: Value =
                serde_json::from_str(who["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
            names.insert(who["server"].as_str().unwrap().to_owned());
        }
        assert_eq!(names.len(), 1, "one session at {names:?}");
        seen.extend(names);
    }
    assert_eq!(seen.len(), 2, "every session was begun at the same peer");
    assert_eq!(peers[0].count("sessionsOpened").await + peers[1].count("sessionsOpened").await, 8);
}

/// A real client, told line by line what to do.
struct Told {
    process: Child,
    orders: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Told {
    async fn start(url: &str, token: &str) -> Self {
        let mut command: Command = python("V2");
        command.arg(script("clients/told.py")).args([url, token]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let (orders, said) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut told = Self { process, orders, said: BufReader::new(said).lines() };
        assert_eq!(told.next().await, json!({"version": LEGACY}));
        told
    }

    /// The next line it says.
    async fn next(&mut self) -> Value {
        let line = within("word of the client", self.said.next_line()).await.unwrap();
        serde_json::from_str(&line.expect("the client has ended")).unwrap()
    }

    /// Gives an order; it says these lines, in any order.
    async fn told(&mut self, order: &str, mut expected: Vec<Value>) {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.unwrap();
        while !expected.is_empty() {
            let said = self.next().await;
            let at = expected.iter().position(|expected| *expected == said);
            expected.remove(at.unwrap_or_else(|| panic!("{order}: {said}, and not one of {expected:?}")));
        }
    }

    /// Calls, is asked, and hears what the standing stream says.
    async fn works(&mut self) {
        for word in ["one", "two", "three"] {
            self.told(&format!("echo {word}"), vec![json!({"echo": word})]).await;
        }
        self.told("ask", vec![json!({"ask": "Hello, Ada!"})]).await;
        let flipped = json!({"test_trigger_tool_change": "tool list changed"});
        self.told("flip", vec![flipped, json!({"changed": "tools"})]).await;
    }
}

async fn open_streams(replica: &Gateway) -> u64 {
    replica.metrics().await.sum("portcullis_open_streams", &[]) as u64
}

#[tokio::test]
async fn a_real_client_behind_a_balancer_survives_the_death_of_either_replica() {
    for dying in [0, 1] {
        let Pair { fixture, grants: _grants, one, two } = Pair::start().await;
        let front = Front::of(vec![one.address(), two.address()]).await;
        let mut client = Told::start(&front.url("/native/mcp"), &email_token(CALLER)).await;
        fixture.await_count("streamsOpened", 1).await;
        client.works().await;
        let mut replicas = [one, two];
        let lost = until("one stream in all", || async {
            let [one, two] = [open_streams(&replicas[0]).await, open_streams(&replicas[1]).await];
            (one + two == 1).then_some([one, two][dying])
        })
        .await;
        let opened = fixture.count("streamsOpened").await;
        replicas[dying].signal("KILL");
        replicas[dying].ended().await;
        // A standing stream that was lost comes back by itself, after a second.
        fixture.await_count("streamsOpened", opened + lost).await;
        client.works().await;
        client.told("leave", vec![json!({"left": true})]).await;
        assert!(within("the end of the client", client.process.wait()).await.unwrap().success());
        fixture.await_count("sessions", 0).await;
        assert_eq!(fixture.count("sessionsOpened").await, 1, "the client had to begin again");
    }
}
