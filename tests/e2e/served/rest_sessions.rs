//! What the REST face holds for its callers: one session at a server, opened anew when it is gone, and progress.

use std::time::Duration;

use serde_json::{Value, json};

use super::{World, setup};
use crate::harness::{
    gateway::Answer,
    grants::{ADMIN, CALLER},
    mcp::Fixture,
    port::Port,
    tokens::email_token,
};

const LEGACY: &[&str] = &["--era", "legacy"];

async fn hellos(fixture: &Fixture) -> u64 {
    fixture.count("gateway/byMethod/initialize").await
}

async fn echo(world: &World, word: &str) {
    let answer = world.rest("/native/echo", json!({"message": word})).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({"message": word})), "{}", answer.text());
}

#[tokio::test]
async fn a_hundred_calls_of_several_callers_are_one_session() {
    let (world, fixture) = World::of_fixture(LEGACY).await;
    let before = hellos(&fixture).await;
    let admin = email_token(ADMIN);
    let gateway = &world.gateway;
    let calls = (0..100).map(|number| {
        let token = if number % 2 == 0 { &admin } else { &world.token };
        let arguments = json!({"message": format!("call {number}")});
        async move { (gateway.call("/native/echo", token, &arguments).await, arguments) }
    });
    for (answer, expected) in futures_util::future::join_all(calls).await {
        assert_eq!((answer.status.as_u16(), answer.json()), (200, expected));
    }
    let opened = hellos(&fixture).await;
    assert!(opened - before <= 1 && (1..=2).contains(&opened), "{before} and then {opened} sessions");
}

#[tokio::test]
async fn callers_whose_server_shares_no_session_have_their_own() {
    let fixture = Fixture::with(LEGACY).await;
    let keys = toml::toml! {
        tier = "http"
        dialect = "mcp"
        share_session = false
    };
    let url = fixture.url("/mcp");
    let world =
        World::with(&[("native", "mcp", url.clone())], |set| set.server_with("native", &url, keys)).await;
    let mut sessions = std::collections::BTreeSet::new();
    for email in [CALLER, ADMIN, CALLER, ADMIN] {
        let who = world.gateway.call("/native/whoami", &email_token(email), &json!({})).await.json();
        sessions.insert(who["session"].as_str().unwrap().to_owned());
    }
    assert_eq!(sessions.len(), 2, "{sessions:?}");
}

#[tokio::test]
async fn a_server_that_forgot_its_sessions_is_not_noticed() {
    for options in [LEGACY, &["--era", "legacy", "--answers", "sse"]] {
        let (world, fixture) = World::of_fixture(options).await;
        echo(&world, "before").await;
        for round in 0..3 {
            let before = hellos(&fixture).await;
            fixture.command("forget").await;
            let calls = (0..10).map(|call| {
                let word = format!("round {round}, call {call}");
                let world = &world;
                async move { echo(world, &word).await }
            });
            futures_util::future::join_all(calls).await;
            let opened = hellos(&fixture).await - before;
            assert!((1..=2).contains(&opened), "{opened} sessions instead of the one that was gone");
        }
    }
}

#[tokio::test]
async fn a_server_that_was_restarted_is_not_noticed() {
    for options in [LEGACY, &["--era", "modern"], &[]] {
        let port = Port::take();
        let fixture = Fixture::on(&port, options).await;
        let world = World::of(&[("native", "mcp", fixture.url("/mcp"))]).await;
        echo(&world, "before").await;
        fixture.kill().await;
        let _again = Fixture::on(&port, options).await;
        echo(&world, "after").await;
    }
}

#[tokio::test]
async fn a_call_waits_for_a_server_that_is_just_being_restarted() {
    let port = Port::take();
    let fixture = Fixture::on(&port, LEGACY).await;
    let world = World::of(&[("native", "mcp", fixture.url("/mcp"))]).await;
    echo(&world, "before").await;
    fixture.kill().await;
    let (again, ()) = tokio::join!(Fixture::on(&port, LEGACY), echo(&world, "meanwhile"));
    assert_eq!(again.count("gateway/finished").await, 1, "it ran once");
}

/// A call whose progress is wanted, read as it comes: the text of the answer.
async fn streamed(world: &World, tool: &str, arguments: Value) -> reqwest::Response {
    let path = format!("/native/{tool}");
    let request = world.gateway.call_request(&path, &world.token, &arguments);
    request.header("accept", "text/event-stream").send().await.unwrap()
}

#[tokio::test]
async fn progress_is_streamed_to_a_caller_that_accepts_events_and_the_result_comes_last() {
    for options in [&["--era", "legacy"], &["--era", "modern"], &["--sessions", "stateless"]] {
        let (world, _fixture) = World::of_fixture(options).await;
        let mut stream = streamed(&world, "slow", json!({"ms": 1200, "step": 400})).await;
        assert_eq!(stream.status(), 200);
        assert_eq!(
            stream.headers()["content-type"].to_str().unwrap().split(';').next(),
            Some("text/event-stream")
        );
        let first = crate::mcp::wire::read_until(&mut stream, "\n\n").await;
        assert!(!first.contains("slept"), "nothing came before the end: {first}");
        let text = first + &Answer::read(stream).await.text();
        let places: Vec<_> = ["\"progress\":0", "\"progress\":400", "\"progress\":800", "slept 1200"]
            .map(|what| text.find(what).unwrap_or_else(|| panic!("no {what} in {text}")))
            .into();
        assert!(places.is_sorted(), "{text}");
    }
}

#[tokio::test]
async fn a_caller_that_accepts_events_is_told_the_tool_s_no_and_the_gateway_s() {
    let (world, _fixture) = World::of_fixture(&[]).await;
    let no = Answer::read(streamed(&world, "test_error_handling", json!({})).await).await;
    // It is known before anything was streamed or after; either way in the tool's words.
    assert!(no.text().contains("This tool intentionally returns an error for testing"), "{}", no.text());
    assert!(no.status == 422 || no.text().contains("tool_error"), "{}: {}", no.status, no.text());
    let unknown = Answer::read(streamed(&world, "nothing", json!({})).await).await;
    assert_eq!((unknown.status.as_u16(), unknown.code().as_str()), (404, "unknown_tool"));
}

#[tokio::test]
async fn a_caller_that_leaves_cancels_its_call_in_the_way_of_the_era() {
    for options in [&["--era", "legacy"], &["--era", "modern"]] {
        let (world, fixture) = World::of_fixture(options).await;
        let mut stream = streamed(&world, "slow", json!({"ms": 60_000, "step": 50})).await;
        crate::mcp::wire::read_until(&mut stream, "\"progress\":50").await;
        let before = fixture.count("gateway/cancelled").await;
        drop(stream);
        fixture.await_count("gateway/cancelled", before + 1).await;
        echo(&world, "again").await;
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_in_its_time() {
    let fixture = Fixture::with(&["--era", "legacy", "--answers", "json"]).await;
    let world = World::with(&[("native", "mcp", fixture.url("/mcp"))], |set| {
        set.set("upstream.read_timeout_secs", 1)
    })
    .await;
    let began = std::time::Instant::now();
    // It says nothing for longer than it may, and is told that nobody waits any more.
    let late = world.rest("/native/slow", json!({"ms": 20_000, "step": 20_000})).await;
    assert_eq!((late.status.as_u16(), late.code().as_str()), (504, "peer_too_slow"), "{}", late.text());
    assert!(began.elapsed() < Duration::from_secs(10));
    fixture.await_count("gateway/cancelled", 1).await;
}

#[tokio::test]
async fn a_second_gateway_needs_nothing_of_the_first() {
    let (world, fixture) = World::of_fixture(LEGACY).await;
    echo(&world, "one").await;
    let second = setup(&world.grants, &[("native", "mcp", fixture.url("/mcp"))]).start().await;
    second.await_tools("native", crate::harness::mcp::FIXTURE_TOOLS).await;
    let answer = second.call("/native/echo", &world.token, &json!({"message": "two"})).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({"message": "two"})));
}
