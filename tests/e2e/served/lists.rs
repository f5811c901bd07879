//! The lists of `/mcp`: the caller's own, merged, paged, in one order, named for good, and never waiting for a server.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Served, World,
    client::{ERAS, Era, Mcp},
    named, names, setup,
};
use crate::harness::{
    deadline::until,
    fake_peer::{Behaviour, FakePeer},
    grants::{ADMIN, CALLER, STRANGER},
    mcp::{FIXTURE_TOOLS, Fixture, MODERN},
    tokens::email_token,
};

/// A legacy fixture, a modern one and an OpenAPI server.
struct Trio {
    world: World,
    left: Fixture,
    right: Fixture,
    peer: FakePeer,
}

impl Trio {
    async fn start(
        set: impl FnOnce(crate::harness::gateway::Setup) -> crate::harness::gateway::Setup,
    ) -> Self {
        let left = Fixture::with(&["--era", "legacy", "--name", "left", "--fillers", "100"]).await;
        let right = Fixture::with(&["--era", "modern", "--name", "right"]).await;
        let peer = FakePeer::start().await.with_json("search", json!([])).with_json("find", json!([]));
        let world = World::with(&Self::served(&left, &right, &peer), set).await;
        Self { world, left, right, peer }
    }

    fn served<'a>(left: &Fixture, right: &Fixture, peer: &FakePeer) -> [Served<'a>; 3] {
        [
            ("left", "mcp", left.url("/mcp")),
            ("right", "mcp", right.url("/mcp")),
            ("notes", "openapi", peer.url()),
        ]
    }
}

const ALL: usize = FIXTURE_TOOLS + 100 + FIXTURE_TOOLS + 2;

#[tokio::test]
async fn the_tools_of_all_servers_are_one_list_that_is_paged_to_its_end() {
    let trio = Trio::start(|setup| setup.set("mcp.page_size", 7)).await;
    for era in ERAS {
        let client = trio.world.mcp("/mcp", era).await;
        let pages = client.pages("tools", "tools").await;
        assert!(pages.iter().rev().skip(1).all(|page| page.len() == 7), "{:?}", pages.iter().map(Vec::len));
        let tools = pages.concat();
        let listed = names(&tools);
        assert_eq!((listed.len(), listed.iter().collect::<BTreeSet<_>>().len()), (ALL, ALL), "{era:?}");
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        assert!(listed.iter().all(|name| (1..=64).contains(&name.len()) && name.bytes().all(is_plain)));
        let echo = named(&tools, "left_echo");
        assert_eq!(
            (&echo["description"], &echo["inputSchema"]["required"]),
            (&json!("Returns its argument"), &json!(["message"]))
        );
        assert_eq!(echo["outputSchema"]["required"], json!(["message"]), "{echo}");
        assert_eq!(
            named(&tools, "right_picky")["annotations"]["readOnlyHint"],
            true,
            "annotations are the server's"
        );
        assert_eq!(named(&tools, "notes_search")["description"], "The tool search of a fake peer.");
        assert_eq!(names(&client.tools().await), listed, "the order is always the same");
        for what in [("prompts", "prompts"), ("resources", "resources")] {
            let pages = client.pages(what.0, what.1).await;
            assert!(pages.iter().all(|page| page.len() <= 7) && pages.concat().len() > 5, "{what:?}");
        }
        for cursor in ["nonsense", "", "AAAA"] {
            let error = client.error("tools/list", json!({"cursor": cursor})).await;
            assert_eq!(error["code"], -32602, "{cursor}: {error}");
        }
        // A cursor is of one list and one caller.
        let next = client.result("tools/list", json!({})).await["nextCursor"].take();
        assert_eq!(client.error("prompts/list", json!({"cursor": next})).await["code"], -32602);
        let admin = trio.world.mcp_as("/mcp", era, &email_token(ADMIN)).await;
        assert_eq!(admin.error("tools/list", json!({"cursor": next})).await["code"], -32602);
    }
    assert_eq!(trio.left.count("requests").await + trio.right.count("requests").await, 0);
    assert!(trio.peer.requests().is_empty());
}

#[tokio::test]
async fn both_eras_are_told_what_can_be_done_here() {
    let trio = Trio::start(|setup| setup).await;
    let modern = trio.world.mcp("/mcp", Era::Modern).await.result("server/discover", json!({})).await;
    assert!(modern["supportedVersions"].as_array().unwrap().contains(&json!(MODERN)), "{modern}");
    assert_eq!(modern["resultType"], "complete");
    assert!(modern["ttlMs"].is_u64() && modern["cacheScope"] == "private", "{modern}");
    let legacy = trio.world.mcp("/mcp", Era::Legacy).await;
    assert_eq!(legacy.result("ping", json!({})).await, json!({}));
    assert!(legacy.hello["serverInfo"]["name"].as_str().unwrap().contains("ortcullis"), "{}", legacy.hello);
    for hello in [&modern, &legacy.hello] {
        let can = &hello["capabilities"];
        for what in ["tools", "prompts", "resources"] {
            assert_eq!(can[what]["listChanged"], true, "{hello}");
        }
        assert!(can["completions"].is_object(), "{hello}");
        assert!(
            hello["instructions"].as_str().is_some_and(|text| text.contains("Gateway test fixture.")),
            "{hello}"
        );
    }
    let list = trio.world.mcp("/mcp", Era::Modern).await.result("tools/list", json!({})).await;
    assert_eq!((&list["resultType"], &list["cacheScope"]), (&json!("complete"), &json!("private")));
    assert!(
        list["ttlMs"].as_u64().unwrap() <= 300_000,
        "longer than the catalogue is kept: {}",
        list["ttlMs"]
    );
    let list = legacy.result("tools/list", json!({})).await;
    assert!(["resultType", "ttlMs", "cacheScope"].iter().all(|member| list.get(member).is_none()), "{list}");
}

#[tokio::test]
async fn callers_see_what_they_were_granted_and_their_rules_leave() {
    let trio = Trio::start(|setup| setup).await;
    let count = async |email: &str| {
        trio.world.mcp_as("/mcp", Era::Modern, &email_token(email)).await.tools().await.len()
    };
    assert_eq!((count(CALLER).await, count(ADMIN).await, count(STRANGER).await), (ALL, ALL, 0));
    trio.world.grants.add(STRANGER, "notes").await;
    until("a grant in the list", || async { (count(STRANGER).await == 2).then_some(()) }).await;
    trio.world.grants.take_back(STRANGER, "notes").await;
    until("no grant in the list", || async { (count(STRANGER).await == 0).then_some(()) }).await;
    for era in ERAS {
        let stranger = trio.world.mcp_as("/mcp", era, &email_token(STRANGER)).await;
        for name in ["left_echo", "nothing_at_all", "echo"] {
            let heard = stranger.ask("tools/call", json!({"name": name, "arguments": {}})).await;
            let error = heard.outcome.unwrap_err();
            assert_eq!((heard.status, &error["code"]), (200, &json!(-32602)), "{name}: {error}");
        }
        let read = stranger.error("resources/read", json!({"uri": "mcp:left:test://static-text"})).await;
        assert_eq!(read["code"], if era == Era::Legacy { -32002 } else { -32602 }, "{read}");
        assert_eq!(
            stranger.error("prompts/get", json!({"name": "left_test_simple_prompt"})).await["code"],
            -32602
        );
        assert!(stranger.list("resources", "resources").await.is_empty());
    }
    trio.world.grants.deny(CALLER, "left", "test_*").await;
    until("fewer tools", || async { (count(CALLER).await == ALL - 27).then_some(()) }).await;
    let caller = trio.world.mcp("/mcp", Era::Modern).await;
    let denied = caller.ask("tools/call", json!({"name": "left_test_simple_text", "arguments": {}})).await;
    assert_eq!((denied.status, &denied.outcome.unwrap_err()["code"]), (200, &json!(-32602)));
    let allowed = caller.call("right_test_simple_text", json!({})).await;
    assert!(!allowed["isError"].as_bool().unwrap_or_default(), "{allowed}");
    assert_eq!(trio.left.count("gateway/byMethod/tools~1call").await, 0, "the server was asked all the same");
    // Nobody without a credential is told anything.
    let nobody = crate::mcp::wire::End::beside(trio.world.gateway.url("/mcp"));
    assert_eq!(nobody.modern("tools/list", None, json!({})).await.status(), 401);
}

/// Names that are long, odd, or read in two ways.
const ODD: [(&str, &str); 6] = [
    ("a", "b_c"),
    ("a_b", "c"),
    ("a", "dotted.name.with.dots"),
    ("a", "dotted_name_with_dots"),
    ("a", "a_tool_with_a_name_that_is_far_too_long_for_any_model_to_like_it_1"),
    ("a", "a_tool_with_a_name_that_is_far_too_long_for_any_model_to_like_it_2"),
];

#[tokio::test]
async fn names_never_collide_and_are_the_same_after_a_restart() {
    let peer = async |id: &str| {
        let tools = ODD.iter().filter(|(server, _)| *server == id);
        tools.fold(FakePeer::start().await, |peer, (_, name)| peer.with_json(name, json!(name)))
    };
    let (one, two) = (peer("a").await, peer("a_b").await);
    let served: [Served<'_>; 2] = [("a", "openapi", one.url()), ("a_b", "openapi", two.url())];
    let world = World::of(&served).await;
    let listed = async |url: String| {
        let client = Mcp::begin(&url, &world.token, Era::Modern, "{}").await;
        let mut said = Vec::new();
        for tool in client.tools().await {
            let name = tool["name"].as_str().unwrap().to_owned();
            assert!((1..=64).contains(&name.len()), "{name}");
            let result = client.call(&name, json!({})).await;
            said.push((name, result["content"][0]["text"].as_str().unwrap().to_owned()));
        }
        said
    };
    let before = listed(world.gateway.url("/mcp")).await;
    let distinct =
        |of: fn(&(String, String)) -> &String| before.iter().map(of).collect::<BTreeSet<_>>().len();
    assert_eq!((distinct(|said| &said.0), distinct(|said| &said.1)), (ODD.len(), ODD.len()), "{before:?}");
    let again = setup(&world.grants, &served).start().await;
    until("the tools again", || async {
        let known = again.metrics().await.sum("portcullis_tools", &[]);
        (known as usize == before.len()).then_some(())
    })
    .await;
    assert_eq!(listed(again.url("/mcp")).await, before);
    // A tool that goes takes no other's name with it.
    one.remove_tool("b_c");
    let third = setup(&world.grants, &served).start().await;
    until("one tool fewer", || async {
        (third.metrics().await.sum("portcullis_tools", &[]) as usize == before.len() - 1).then_some(())
    })
    .await;
    let after = listed(third.url("/mcp")).await;
    assert!(after.iter().all(|said| before.contains(said)), "{after:?} and before {before:?}");
}

/// The middle of this many lists, each read to its end.
async fn median_of_lists(client: &Mcp, lists: usize) -> Duration {
    let mut times = Vec::new();
    for _ in 0..lists {
        let began = Instant::now();
        client.tools().await;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    times[lists / 2]
}

#[expect(clippy::print_stderr, reason = "a figure to read in the test's output")]
fn report(figure: &str) {
    eprintln!("{figure}");
}

#[tokio::test]
async fn a_server_that_hangs_is_left_out_and_named_and_nobody_waits_for_it() {
    let (left, right) =
        (Fixture::with(&["--era", "legacy"]).await, Fixture::with(&["--era", "modern"]).await);
    let hanging = FakePeer::start().await;
    hanging.set("/mcp", Behaviour::Stall);
    let pair = [("left", "mcp", left.url("/mcp")), ("right", "mcp", right.url("/mcp"))];
    let trio = [pair[0].clone(), ("hangs", "mcp", format!("{}/mcp", hanging.url())), pair[1].clone()];
    let healthy = World::of(&pair).await;
    let began = Instant::now();
    let with_dead = World::unread(&trio, |setup| setup.set("tools.deadline_secs", 2)).await;
    assert!(began.elapsed() < Duration::from_secs(10), "the gateway waited for it before it was ready");
    for id in ["left", "right"] {
        with_dead.await_some_tools(id).await;
    }
    for era in ERAS {
        let (healthy, with_dead) = (healthy.mcp("/mcp", era).await, with_dead.mcp("/mcp", era).await);
        assert_eq!(names(&with_dead.tools().await), names(&healthy.tools().await));
        // In turns, so that a busy machine is as busy for both.
        let mut times = (Vec::new(), Vec::new());
        for _ in 0..7 {
            times.0.push(median_of_lists(&healthy, 15).await);
            times.1.push(median_of_lists(&with_dead, 15).await);
        }
        let (pair, trio) = (times.0.iter().min().unwrap(), times.1.iter().min().unwrap());
        report(&format!("{era:?}: a list of two servers {pair:?}, with a third that hangs {trio:?}"));
        assert!(*trio < pair.mul_f64(1.1) + Duration::from_millis(1), "{trio:?} instead of {pair:?}");
    }
    let is_named = |line: &str| line.contains("hangs") && line.contains("WARN");
    with_dead.gateway.stderr.find("a warning that names the server", is_named).await;
    until("a metric that names the server", || async {
        let metrics = with_dead.gateway.metrics().await;
        (metrics.sum("portcullis_catalog_stale", &[("server", "hangs")]) == 1.0).then_some(())
    })
    .await;
    let metrics = with_dead.gateway.metrics().await;
    assert_eq!(metrics.sum("portcullis_catalog_stale", &[("server", "left")]), 0.0);
    let called = with_dead.mcp("/mcp", Era::Modern).await.call("left_echo", json!({"message": "hi"})).await;
    assert_eq!(called["structuredContent"]["message"], "hi");
}

#[tokio::test]
async fn a_server_that_dies_keeps_its_last_list() {
    let trio = Trio::start(|setup| setup.set("tools.refresh_secs", 1)).await;
    let Trio { world, left, .. } = trio;
    left.kill().await;
    until("a metric that says the list is old", || async {
        let stale = world.gateway.metrics().await.sum("portcullis_catalog_stale", &[("server", "left")]);
        (stale == 1.0).then_some(())
    })
    .await;
    assert_eq!(world.mcp("/mcp", Era::Modern).await.tools().await.len(), ALL);
    assert_eq!(world.mcp("/mcp", Era::Legacy).await.tools().await.len(), ALL);
}

#[tokio::test]
async fn an_admin_has_the_lists_read_again() {
    let fixture = Fixture::start().await;
    let world = World::of(&[("native", "mcp", fixture.url("/mcp"))]).await;
    let refused = world.gateway.call("/refresh", &world.token, &Value::Null).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    let before = fixture.count("gateway/byMethod/tools~1list").await;
    let read = world.gateway.call("/refresh", &email_token(ADMIN), &json!({})).await;
    assert!(read.status.is_success(), "{}", read.text());
    until("another reading", || async {
        (fixture.count("gateway/byMethod/tools~1list").await > before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn lists_are_read_with_the_credential_that_is_for_lists() {
    let fixture = Fixture::with(&["--scope", "public", "--ttl", "60000"]).await;
    let keys = toml::toml! {
        tier = "http"
        dialect = "mcp"
        credential = { header = "Authorization", scheme = "Bearer", env = "CALLS_KEY" }
        discovery_credential = { header = "Authorization", scheme = "Bearer", env = "LISTS_KEY" }
    };
    let url = fixture.url("/mcp");
    let world = World::with(&[("native", "mcp", url.clone())], |set| {
        let set = set.server_with("native", &url, keys);
        set.environment("CALLS_KEY", "for-calls-0123456789").environment("LISTS_KEY", "for-lists-0123456789")
    })
    .await;
    world.rest("/native/echo", json!({"message": "hi"})).await;
    let (mut lists, mut calls) = (0, 0);
    for entry in fixture.log().await {
        let with = entry["headers"]["authorization"].as_str().unwrap_or_default();
        match entry["rpc"].as_str() {
            Some("tools/list" | "prompts/list") => {
                lists += 1;
                assert_eq!(with, "Bearer for-lists-0123456789", "{entry}");
            }
            Some("tools/call") => {
                calls += 1;
                assert_eq!(with, "Bearer for-calls-0123456789", "{entry}");
            }
            _ => {}
        }
    }
    assert!(lists >= 2 && calls == 1, "{lists} lists and {calls} calls were seen");
    world.gateway.wrote_none_of(&["for-calls-0123456789", "for-lists-0123456789"]);
}

#[tokio::test]
async fn a_list_that_is_private_is_not_shown_across_credentials() {
    let fixture = Fixture::with(&["--scope", "private"]).await;
    let keys = toml::toml! {
        tier = "http"
        dialect = "mcp"
        credential = { header = "Authorization", scheme = "Bearer", env = "CALLS_KEY" }
        discovery_credential = { header = "Authorization", scheme = "Bearer", env = "LISTS_KEY" }
    };
    let url = fixture.url("/mcp");
    let _world = World::with(&[("native", "mcp", url.clone())], |set| {
        let set = set.server_with("native", &url, keys);
        set.environment("CALLS_KEY", "for-calls-0123456789").environment("LISTS_KEY", "for-lists-0123456789")
    })
    .await;
    until("a private list read with the callers' own credential", || async {
        let log = fixture.log().await;
        let is_so = |entry: &Value| {
            entry["rpc"] == "tools/list" && entry["headers"]["authorization"] == "Bearer for-calls-0123456789"
        };
        log.iter().any(is_so).then_some(())
    })
    .await;
}
