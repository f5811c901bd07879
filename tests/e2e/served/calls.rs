//! Calls through `/mcp`: each goes to its server under its own name, comes back as it is told, and ends when it is ended.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    World,
    client::{ERAS, Era},
};
use crate::harness::{
    deadline::until,
    fake_peer::{Behaviour, FakePeer},
    grants::CALLER,
    mcp::{Fixture, MODERN},
    wire::answer,
};

/// Two fixtures of different eras behind one gateway.
async fn pair() -> (World, Fixture, Fixture) {
    let left = Fixture::with(&["--era", "legacy", "--name", "left"]).await;
    let right = Fixture::with(&["--era", "modern", "--name", "right"]).await;
    let world = World::of(&[("left", "mcp", left.url("/mcp")), ("right", "mcp", right.url("/mcp"))]).await;
    (world, left, right)
}

const SIDES: [&str; 2] = ["left", "right"];

#[tokio::test]
async fn a_call_goes_to_its_server_under_the_server_s_own_name_for_it() {
    let (world, left, right) = pair().await;
    for era in ERAS {
        let client = world.mcp("/mcp", era).await;
        for side in SIDES {
            let who = client.call(&format!("{side}_whoami"), json!({})).await;
            let who: Value = serde_json::from_str(who["content"][0]["text"].as_str().unwrap()).unwrap();
            assert_eq!(who["server"], side);
            let sent = who["headers"].as_object().unwrap();
            assert!(sent.get("authorization").is_none() && !who.to_string().contains(&world.token), "{who}");
            assert!(!who.to_string().contains(CALLER), "{who}");
            // A modern server refuses a name in the header that is not the body's; a legacy one is sent none.
            let name = (side == "right").then_some("whoami");
            assert_eq!(sent.get("mcp-name").and_then(Value::as_str), name, "{who}");
            assert_eq!(sent["mcp-protocol-version"] == MODERN, side == "right", "{who}");
        }
    }
    for fixture in [&left, &right] {
        let log = fixture.log().await;
        let calls: Vec<_> = log.iter().filter(|entry| entry["rpc"] == "tools/call").collect();
        assert_eq!(calls.len(), 2);
        assert!(calls.iter().all(|call| call["body"]["params"]["name"] == "whoami"), "{calls:?}");
    }
}

#[tokio::test]
async fn arguments_and_results_pass_as_they_were_written() {
    let (world, left, right) = pair().await;
    let arguments = json!({"message": "snow \u{2603} \u{1F600} \\ \" \u{7}", "x-unknown": [1, {"a": null}]});
    for era in ERAS {
        let client = world.mcp("/mcp", era).await;
        for (side, fixture) in SIDES.iter().zip([&left, &right]) {
            let said = client.call(&format!("{side}_echo"), arguments.clone()).await;
            assert_eq!(said["structuredContent"]["message"], arguments["message"]);
            let log = fixture.log().await;
            let call = log.iter().rfind(|entry| entry["rpc"] == "tools/call").unwrap();
            assert_eq!(call["body"]["params"]["arguments"], arguments);
        }
    }
}

#[tokio::test]
async fn progress_streams_with_the_client_s_own_token_and_id() {
    let (world, _left, _right) = pair().await;
    for era in ERAS {
        let client = world.mcp("/mcp", era).await;
        for side in SIDES {
            let arguments = json!({"ms": 900, "step": 300});
            let params = json!({"name": format!("{side}_slow"), "arguments": arguments, "_meta": {"progressToken": "my-token"}});
            let mut events = client.stream(&client.request("my-id", "tools/call", params)).await;
            let first = events.next().await.unwrap();
            assert_eq!(
                first["method"], "notifications/progress",
                "{side} {era:?}: nothing before the end: {first}"
            );
            let rest = events.rest().await;
            let told: Vec<_> =
                [first].iter().chain(&rest).filter(|told| told.get("method").is_some()).cloned().collect();
            let progress: Vec<_> = told.iter().map(|told| &told["params"]["progress"]).collect();
            assert_eq!(progress, [0, 300, 600], "{told:?}");
            assert!(told.iter().all(|told| told["params"]["progressToken"] == "my-token"), "{told:?}");
            let last = rest.last().unwrap();
            assert_eq!(
                (&last["id"], &last["result"]["content"][0]["text"]),
                (&json!("my-id"), &json!("slept 900"))
            );
        }
    }
}

#[tokio::test]
async fn calls_at_the_same_time_with_the_same_ids_and_tokens_get_their_own_answers() {
    let (world, left, _right) = pair().await;
    let world = &world;
    let callers = (0..16).map(|caller| async move {
        let client = world.mcp("/mcp", ERAS[caller % 2]).await;
        for call in 0..8 {
            let word = format!("caller {caller}, call {call}");
            let side = SIDES[(caller + call) % 2];
            let echo = json!({"name": format!("{side}_echo"), "arguments": {"message": word}, "_meta": {"progressToken": 1}});
            let slow = json!({"name": format!("{side}_slow"), "arguments": {"ms": 20 + caller, "step": 10}, "_meta": {"progressToken": 1}});
            let (echo, slow) = tokio::join!(client.ask("tools/call", echo), client.ask("tools/call", slow));
            assert_eq!(echo.result()["structuredContent"]["message"], word);
            assert!(slow.told.iter().all(|told| told["params"]["total"] == 20 + caller), "{:?}", slow.told);
            assert_eq!(slow.result()["content"][0]["text"], format!("slept {}", 20 + caller));
        }
    });
    futures_util::future::join_all(callers).await;
    let sessions = left.count("gateway/byMethod/initialize").await;
    // Each legacy client has its own, because what a server asks in a session is for one client; all others share.
    assert!(sessions <= 8 + 2, "{sessions} sessions");
}

#[tokio::test]
async fn a_client_that_leaves_or_says_so_cancels_its_call_at_the_server() {
    let (world, left, right) = pair().await;
    let slow = |side: &str| json!({"name": format!("{side}_slow"), "arguments": {"ms": 60_000, "step": 50}, "_meta": {"progressToken": 1}});
    let modern = world.mcp("/mcp", Era::Modern).await;
    let legacy = world.mcp("/mcp", Era::Legacy).await;
    for (side, fixture) in [("left", &left), ("right", &right)] {
        let before = fixture.count("gateway/cancelled").await;
        let mut events = modern.stream(&modern.request(1, "tools/call", slow(side))).await;
        events.until("notifications/progress").await;
        drop(events);
        fixture.await_count("gateway/cancelled", before + 1).await;

        let mut events = legacy.stream(&legacy.request(77, "tools/call", slow(side))).await;
        events.until("notifications/progress").await;
        // Of another call: nothing happens to this one.
        for id in [json!(78), json!("77")] {
            let other =
                json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
            assert_eq!(legacy.post(&other).await.status(), 202);
        }
        events.until("notifications/progress").await;
        assert_eq!(fixture.count("gateway/cancelled").await, before + 1);
        let told =
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 77}});
        assert_eq!(legacy.post(&told).await.status(), 202);
        fixture.await_count("gateway/cancelled", before + 2).await;
        assert!(events.rest().await.iter().all(|told| told["id"] != 77), "a cancelled call was answered");
    }
}

#[tokio::test]
async fn a_grant_taken_back_ends_what_runs_under_it_and_nothing_else() {
    let (world, left, _right) = pair().await;
    for era in ERAS {
        let client = world.mcp("/mcp", era).await;
        let slow = |side: &str, ms: u64| json!({"name": format!("{side}_slow"), "arguments": {"ms": ms, "step": 50}, "_meta": {"progressToken": side}});
        let mut ends = client.stream(&client.request(1, "tools/call", slow("left", 60_000))).await;
        let mut stays = client.stream(&client.request("stays", "tools/call", slow("right", 3000))).await;
        ends.until("notifications/progress").await;
        stays.until("notifications/progress").await;
        let before = left.count("gateway/cancelled").await;
        world.grants.take_back(CALLER, "left").await;
        let rest =
            tokio::time::timeout(Duration::from_secs(10), ends.rest()).await.expect("the call went on");
        assert!(rest.iter().all(|told| told.get("result").is_none()), "{rest:?}");
        left.await_count("gateway/cancelled", before + 1).await;
        assert_eq!(stays.until("stays").await["result"]["content"][0]["text"], "slept 3000", "{era:?}");
        world.grants.add(CALLER, "left").await;
        until("the grant again", || async {
            client.ask("tools/call", json!({"name": "left_empty"})).await.outcome.is_ok().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_broken_answer_of_a_server_is_the_gateway_s_error_and_harms_no_other_call() {
    let (world, _left, _right) = pair().await;
    for era in ERAS {
        let client = world.mcp("/mcp", era).await;
        for side in SIDES {
            let died = client.ask("tools/call", json!({"name": format!("{side}_die")})).await;
            match died.outcome {
                // In a session, an answer that was cut can be asked for again.
                Ok(result) => {
                    assert_eq!((side, &result["content"][0]["text"]), ("left", &json!("never seen")))
                }
                Err(error) => {
                    assert!(error["data"]["code"].as_str().unwrap().starts_with("peer_"), "{error}")
                }
            }
            let picky = client
                .error("tools/call", json!({"name": format!("{side}_picky"), "arguments": {"number": 7}}))
                .await;
            assert_eq!(
                (&picky["code"], &picky["message"]),
                (&json!(-32602), &json!("Invalid arguments: number 7"))
            );
            let echoed = client.call(&format!("{side}_echo"), json!({"message": "still"})).await;
            assert_eq!(echoed["structuredContent"]["message"], "still");
        }
        let big = client.call("right_big", json!({"bytes": 3_000_000})).await;
        assert_eq!(big["content"][0]["text"].as_str().unwrap().len(), 3_000_000);
    }
}

#[tokio::test]
async fn arguments_that_a_tool_wants_in_headers_arrive_there_for_whoever_calls() {
    let (world, _left, _right) = pair().await;
    for era in ERAS {
        for region in ["eu-1", " padded ", "é\n☃", ""] {
            let client = world.mcp("/mcp", era).await;
            let params =
                json!({"name": "right_test_header_param", "arguments": {"region": region, "query": "q"}});
            // The gateway sends the headers its own client owes to the server, even if a client of an older era sent none.
            let said = client.ask("tools/call", params).await.result();
            assert_eq!(said["content"][0]["text"], format!("region={region}"), "{era:?}");
        }
    }
}

#[tokio::test]
async fn peers_of_mcp_that_answer_nonsense_are_told_apart_from_tools() {
    let peer = FakePeer::start().await;
    peer.set("/mcp", Behaviour::Answer(answer("200 OK", "text/html", b"<html>")));
    let world = World::unread(&[("odd", "mcp", format!("{}/mcp", peer.url()))], |setup| setup).await;
    let client = world.mcp("/mcp", Era::Modern).await;
    assert!(client.tools().await.is_empty());
    let one = world.mcp("/mcp", Era::Legacy).await;
    assert!(one.list("resources", "resources").await.is_empty());
    let rest = world.rest("/odd/anything", json!({})).await;
    assert!(matches!(rest.status.as_u16(), 404 | 502), "{}", rest.text());
    assert_eq!(world.gateway.metrics().await.sum("portcullis_panics_total", &[]), 0.0);
}
