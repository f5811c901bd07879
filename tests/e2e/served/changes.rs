//! What changes at a server or in the grants is in the next list of `/mcp`, and whoever listens is told.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    World,
    client::{ERAS, Era, Events, Mcp},
    names,
};
use crate::harness::{
    deadline::{until, within},
    grants::{CALLER, STRANGER},
    mcp::{Fixture, python, script},
    tokens::email_token,
};

const TOOLS_CHANGED: &str = "notifications/tools/list_changed";

/// Listens in the way of the era to all there is to hear.
async fn listen(client: &Mcp) -> Events {
    if client.era == Era::Legacy {
        let standing = client.listen().await;
        assert_eq!(standing.status, 200);
        return standing;
    }
    let wanted = json!({"toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true});
    let request = client.request("my-listen", "subscriptions/listen", json!({"notifications": wanted}));
    let mut events = client.stream(&request).await;
    let first = events.next().await.expect("an acknowledgement");
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged", "{first}");
    assert_eq!(first["params"]["notifications"], wanted, "{first}");
    assert_tagged(client, &first);
    events
}

/// A modern client knows by the id of its request what is said to it.
#[track_caller]
fn assert_tagged(client: &Mcp, told: &Value) {
    let tag = &told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"];
    assert_eq!(tag.as_str(), (client.era == Era::Modern).then_some("my-listen"), "{told}");
}

async fn has(client: &Mcp, tool: &str) -> bool {
    names(&client.tools().await).contains(&tool)
}

#[tokio::test]
async fn a_grant_given_or_taken_back_changes_the_next_list_and_is_announced() {
    let (left, right) =
        (Fixture::with(&["--era", "legacy"]).await, Fixture::with(&["--era", "modern"]).await);
    let servers = [("left", "mcp", left.url("/mcp")), ("right", "mcp", right.url("/mcp"))];
    let world = World::of(&servers).await;
    world.grants.add(STRANGER, "left").await;
    world.gateway.await_grants(4).await;
    for era in ERAS {
        let (caller, stranger) =
            (world.mcp("/mcp", era).await, world.mcp_as("/mcp", era, &email_token(STRANGER)).await);
        let (mut heard, mut not_meant) = (listen(&caller).await, listen(&stranger).await);
        world.grants.take_back(CALLER, "right").await;
        assert_tagged(&caller, &heard.until(TOOLS_CHANGED).await);
        assert!(!has(&caller, "right_echo").await && has(&caller, "left_echo").await, "{era:?}");
        world.grants.add(CALLER, "right").await;
        assert_tagged(&caller, &heard.until(TOOLS_CHANGED).await);
        assert!(has(&caller, "right_echo").await, "{era:?}");
        let denied = if era == Era::Legacy { "whoami" } else { "slow" };
        world.grants.deny(CALLER, "right", denied).await;
        heard.until(TOOLS_CHANGED).await;
        assert!(!has(&caller, &format!("right_{denied}")).await, "{era:?}");
        let quiet = tokio::time::timeout(Duration::from_millis(300), not_meant.next()).await;
        assert!(quiet.is_err(), "another caller's grants were announced: {quiet:?}");
    }
}

#[tokio::test]
async fn a_tool_that_appears_at_a_server_is_listed_announced_and_called() {
    for options in [&["--era", "legacy"], &["--era", "modern"], &["--answers", "sse"]] {
        let (world, fixture) = World::of_fixture(options).await;
        for era in ERAS {
            let client = world.mcp("/mcp", era).await;
            let mut heard = listen(&client).await;
            for is_there in [true, false] {
                for (what, name) in
                    [("tools", "native_test_dynamic_tool"), ("prompts", "native_test_dynamic_prompt")]
                {
                    fixture.command(&format!("flip/{what}")).await;
                    // Once more told than needed is no harm, but after the last time the list is the new one.
                    loop {
                        assert_tagged(
                            &client,
                            &heard.until(&format!("notifications/{what}/list_changed")).await,
                        );
                        if names(&client.list(what, what).await).contains(&name) == is_there {
                            break;
                        }
                    }
                }
            }
        }
        until("streams of clients that left", || async {
            (world.gateway.metrics().await.sum("portcullis_open_streams", &[]) == 0.0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_that_was_restarted_is_listened_to_again() {
    let port = crate::harness::port::Port::take();
    for options in [&["--era", "legacy"], &["--era", "modern"]] {
        let fixture = Fixture::on(&port, options).await;
        let world = World::of(&[("native", "mcp", fixture.url("/mcp"))]).await;
        let client = world.mcp("/mcp", Era::Modern).await;
        let mut heard = listen(&client).await;
        fixture.kill().await;
        let fixture = Fixture::on(&port, options).await;
        until("somebody who listens at the server", || async {
            (fixture.count("gateway/streamsOpen").await > 0).then_some(())
        })
        .await;
        fixture.command("flip/tools").await;
        heard.until(TOOLS_CHANGED).await;
        until("the new tool", || async { has(&client, "native_test_dynamic_tool").await.then_some(()) })
            .await;
        fixture.kill().await;
    }
}

#[tokio::test]
async fn a_translated_server_announces_its_changes_where_it_stands_alone() {
    for (options, era) in [(&["--era", "legacy"], Era::Modern), (&["--era", "modern"], Era::Legacy)] {
        let (world, fixture) = World::of_fixture(options).await;
        let client = world.mcp("/native/mcp", era).await;
        let mut heard = listen(&client).await;
        fixture.command("flip/tools").await;
        assert_tagged(&client, &heard.until(TOOLS_CHANGED).await);
        assert!(has(&client, "test_dynamic_tool").await, "{era:?}");
    }
}

#[tokio::test]
async fn a_stream_of_the_aggregate_ends_with_its_session_its_client_or_its_gateway() {
    let fixture = Fixture::start().await;
    let mut world =
        World::with(&[("native", "mcp", fixture.url("/mcp"))], |setup| setup.set("shutdown.grace_secs", 2))
            .await;
    let legacy = world.mcp("/mcp", Era::Legacy).await;
    let mut standing = legacy.listen().await;
    assert!(legacy.leave().await.status.is_success());
    within("the end of a stream", standing.rest()).await;
    assert_eq!(legacy.ask_status("tools/list").await, 404, "the session is gone");
    for era in ERAS {
        let client = world.mcp("/mcp", era).await;
        let heard = listen(&client).await;
        world.gateway.await_metric("portcullis_open_streams", &[], 1).await;
        drop(heard);
        world.gateway.await_metric("portcullis_open_streams", &[], 0).await;
    }
    let modern = world.mcp("/mcp", Era::Modern).await;
    let mut last = listen(&modern).await;
    world.gateway.signal("TERM");
    within("the end of a stream", last.rest()).await;
    assert!(world.gateway.ended().await.success());
}

#[tokio::test]
async fn a_real_client_hears_of_a_tool_that_appeared() {
    let (world, fixture) = World::of_fixture(&["--era", "modern"]).await;
    let mut command = python("V2");
    command.arg(script("clients/told.py")).arg(world.gateway.url("/mcp")).arg(&world.token);
    command.env("TOOL_PREFIX", "native_");
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).kill_on_drop(true);
    let mut process = command.spawn().unwrap();
    let orders = process.stdin.take().unwrap();
    let mut said =
        tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(process.stdout.take().unwrap()));
    let mut next =
        async || within("word of the client", said.next_line()).await.unwrap().expect("the client has ended");
    assert!(next().await.contains("version"));
    world.gateway.await_metric("portcullis_open_streams", &[], 1).await;
    fixture.command("flip/tools").await;
    assert_eq!(next().await, r#"{"changed": "tools"}"#);
    drop(orders);
}
