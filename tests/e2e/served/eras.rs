//! A client of one era at a server of the other, on `/{server}/mcp`: each hears its own protocol and nothing of the other.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    World,
    client::{ASKABLE, Era, Mcp, heard},
    named,
};
use crate::harness::{
    gateway::Answer,
    grants::ADMIN,
    mcp::{FIXTURE_TOOLS, LEGACY, MODERN},
    tokens::email_token,
};

const LEGACY_SERVER: &[&str] = &["--era", "legacy"];
const MODERN_SERVER: &[&str] = &["--era", "modern"];

/// A result that can be kept says for how long and for whom.
#[track_caller]
fn assert_hints(what: &str, result: &Value) {
    assert!(result["ttlMs"].is_u64(), "{what}: {result}");
    assert_eq!(result["cacheScope"], "private", "{what}: the gateway shows each caller their own");
    assert_eq!(result["resultType"], "complete", "{what}");
}

#[tokio::test]
async fn a_modern_client_finds_a_legacy_server_as_modern_as_itself() {
    for options in [
        LEGACY_SERVER,
        &["--era", "legacy", "--answers", "sse"],
        &["--era", "legacy", "--sessions", "stateless"],
    ] {
        let (world, fixture) = World::of_fixture(options).await;
        let client = world.mcp("/native/mcp", Era::Modern).await;
        let discovered = client.result("server/discover", json!({})).await;
        assert!(discovered["supportedVersions"].as_array().unwrap().contains(&json!(MODERN)), "{discovered}");
        assert!(discovered["capabilities"]["tools"].is_object(), "{discovered}");
        assert_eq!(discovered["instructions"], "Gateway test fixture.");
        assert_hints("discover", &discovered);
        for (method, key) in [
            ("tools/list", "tools"),
            ("prompts/list", "prompts"),
            ("resources/list", "resources"),
            ("resources/templates/list", "resourceTemplates"),
        ] {
            let list = client.result(method, json!({})).await;
            assert!(!list[key].as_array().unwrap().is_empty(), "{list}");
            assert_hints(method, &list);
        }
        let tools = client.tools().await;
        assert_eq!(tools.len(), FIXTURE_TOOLS);
        assert_eq!(named(&tools, "echo")["outputSchema"]["required"], json!(["message"]));
        let echoed = client.call("echo", json!({"message": "hi"})).await;
        assert_eq!(
            (&echoed["structuredContent"]["message"], &echoed["resultType"]),
            (&json!("hi"), &json!("complete"))
        );
        assert!(echoed.get("ttlMs").is_none(), "a call cannot be kept: {echoed}");
        let read = client.result("resources/read", json!({"uri": "test://static-text"})).await;
        assert_eq!(read["contents"][0]["uri"], "test://static-text");
        assert_hints("resources/read", &read);
        assert_eq!(fixture.count("requests").await, 0, "nothing could be passed on as it was");
        let (asked, hellos) = (fixture.log().await, fixture.count("gateway/byMethod/initialize").await);
        let is_modern =
            |entry: &Value| entry["headers"].get("mcp-method").is_some() && entry["rpc"] != "server/discover";
        assert!(!asked.iter().any(is_modern), "the server was asked in words it does not know");
        assert!(options.contains(&"stateless") || hellos <= 2, "{hellos} sessions");
    }
}

#[tokio::test]
async fn a_modern_client_s_request_is_judged_like_at_a_modern_server() {
    let (world, _fixture) = World::of_fixture(LEGACY_SERVER).await;
    let client = world.mcp("/native/mcp", Era::Modern).await;
    let call = client.request(3, "tools/call", json!({"name": "echo", "arguments": {"message": "hi"}}));
    let version = ("mcp-protocol-version", MODERN);
    let bare = json!({"jsonrpc": "2.0", "id": 3, "method": "tools/list", "params": {}});
    let mut strange = client.request(3, "tools/list", json!({}));
    strange["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2031-01-01");
    let cases = [
        ("no Mcp-Method", vec![version, ("mcp-name", "echo")], &call, 400, -32020),
        ("no Mcp-Name", vec![version, ("mcp-method", "tools/call")], &call, 400, -32020),
        (
            "another name",
            vec![version, ("mcp-method", "tools/call"), ("mcp-name", "whoami")],
            &call,
            400,
            -32020,
        ),
        ("no _meta", vec![version, ("mcp-method", "tools/list")], &bare, 400, -32602),
        (
            "a strange revision",
            vec![("mcp-protocol-version", "2031-01-01"), ("mcp-method", "tools/list")],
            &strange,
            400,
            -32022,
        ),
    ];
    for (what, headers, message, status, code) in cases {
        let heard = heard(&Answer::read(client.end.post(&headers, message).await).await);
        assert_eq!((heard.status, &heard.outcome.unwrap_err()["code"]), (status, &json!(code)), "{what}");
    }
    for method in ["ping", "logging/setLevel", "resources/subscribe", "nothing/at_all"] {
        let heard = client.ask(method, json!({"uri": "test://static-text", "level": "info"})).await;
        assert_eq!((heard.status, &heard.outcome.unwrap_err()["code"]), (404, &json!(-32601)), "{method}");
    }
    let missing = client.error("resources/read", json!({"uri": "test://nowhere"})).await;
    assert_eq!(missing["code"], -32602, "the older code for a missing resource is gone: {missing}");
    for method in [Method::GET, Method::DELETE] {
        assert!(matches!(client.bare(method).await.status.as_u16(), 400 | 404 | 405));
    }
}

#[tokio::test]
async fn a_legacy_client_finds_a_modern_server_with_a_session() {
    for options in [MODERN_SERVER, &["--era", "modern", "--answers", "sse"]] {
        let (world, fixture) = World::of_fixture(options).await;
        let client = world.mcp("/native/mcp", Era::Legacy).await;
        assert_eq!(client.hello["protocolVersion"], LEGACY);
        assert!(client.hello["capabilities"]["tools"].is_object(), "{}", client.hello);
        assert!(client.hello["serverInfo"]["name"].is_string());
        assert_eq!(client.hello["instructions"], "Gateway test fixture.");
        assert_eq!(client.result("ping", json!({})).await, json!({}));
        let list = client.result("tools/list", json!({})).await;
        assert_eq!(list["tools"].as_array().unwrap().len(), FIXTURE_TOOLS);
        let read = client.result("resources/read", json!({"uri": "test://static-text"})).await;
        let echoed = client.call("echo", json!({"message": "hi"})).await;
        assert_eq!(echoed["structuredContent"]["message"], "hi");
        for (what, result) in [("a list", &list), ("a resource", &read), ("a call", &echoed)] {
            for member in ["resultType", "ttlMs", "cacheScope"] {
                assert!(result.get(member).is_none(), "{what} has {member}: {result}");
            }
        }
        let missing = client.error("resources/read", json!({"uri": "test://nowhere"})).await;
        assert_eq!(missing["code"], -32002, "{missing}");
        let unknown = client.error("tools/call", json!({"name": "nothing"})).await;
        assert_eq!(unknown["code"], -32602);
        assert_eq!(
            fixture.count("byMethod/initialize").await + fixture.count("gateway/sessionsOpened").await,
            0
        );
    }
}

#[tokio::test]
async fn progress_carries_the_client_s_own_token_and_the_answer_its_own_id() {
    for (options, era) in [(LEGACY_SERVER, Era::Modern), (MODERN_SERVER, Era::Legacy)] {
        let (world, _fixture) = World::of_fixture(options).await;
        let client = world.mcp("/native/mcp", era).await;
        for (id, token) in [(json!("request-é"), json!("token-é")), (json!(7.0), json!(123_456_789))] {
            let params = json!({"name": "slow", "arguments": {"ms": 600, "step": 200}, "_meta": {"progressToken": token}});
            let mut events = client.stream(&client.request(id.clone(), "tools/call", params)).await;
            let first = events.next().await.unwrap();
            assert_eq!(first["method"], "notifications/progress", "{first}");
            assert_eq!(
                (&first["params"]["progressToken"], &first["params"]["progress"]),
                (&token, &json!(0))
            );
            let rest = events.rest().await;
            assert_eq!(rest.len(), 3, "{rest:?}");
            assert_eq!(
                (&rest[2]["id"], &rest[2]["result"]["content"][0]["text"]),
                (&id, &json!("slept 600"))
            );
        }
        // Who does not ask for progress hears none.
        let quiet =
            client.ask("tools/call", json!({"name": "slow", "arguments": {"ms": 60, "step": 20}})).await;
        assert!(quiet.told.is_empty(), "{:?}", quiet.told);
    }
}

#[tokio::test]
async fn logs_come_to_those_who_asked_for_them() {
    let (world, _fixture) = World::of_fixture(LEGACY_SERVER).await;
    let client = world.mcp("/native/mcp", Era::Modern).await;
    let mut logged =
        json!({"name": "test_tool_with_logging", "_meta": {"io.modelcontextprotocol/logLevel": "info"}});
    let heard = client.ask("tools/call", logged.clone()).await;
    let logs = heard.told.iter().filter(|told| told["method"] == "notifications/message").count();
    assert_eq!(logs, 3, "{:?}", heard.told);
    logged["_meta"] = json!({});
    let quiet = client.ask("tools/call", logged).await;
    assert!(quiet.told.iter().all(|told| told["method"] != "notifications/message"), "{:?}", quiet.told);

    let (world, _fixture) = World::of_fixture(MODERN_SERVER).await;
    let client = world.mcp("/native/mcp", Era::Legacy).await;
    assert_eq!(client.result("logging/setLevel", json!({"level": "info"})).await, json!({}));
    assert_eq!(client.error("logging/setLevel", json!({"level": "loud"})).await["code"], -32602);
}

#[tokio::test]
async fn a_session_of_the_gateway_s_own_is_its_caller_s_alone_and_ends() {
    for path in ["/native/mcp", "/mcp"] {
        let (world, _fixture) = World::of_fixture(MODERN_SERVER).await;
        world.grants.add("other@example.com", "native").await;
        world.gateway.await_grants(3).await;
        let client = world.mcp(path, Era::Legacy).await;
        let list = client.request(2, "tools/list", json!({}));
        let status = async |client: &Mcp| client.post(&list).await.status().as_u16();
        let mut thief = world.mcp_as(path, Era::Legacy, &email_token("other@example.com")).await;
        assert_eq!(status(&thief).await, 200);
        thief.session = client.session.clone();
        assert_eq!(status(&thief).await, 404, "{path}: somebody else's");
        let mut admin = world.mcp_as(path, Era::Legacy, &email_token(ADMIN)).await;
        admin.session = Some("made-up".to_owned());
        assert_eq!(
            (status(&admin).await, admin.leave().await.status.as_u16()),
            (404, 404),
            "{path}: made up"
        );
        assert_eq!(admin.listen().await.status, 404);
        admin.session = None;
        assert!(matches!(status(&admin).await, 200 | 400), "{path}: none");
        let elsewhere = if path == "/mcp" { "/native/mcp" } else { "/mcp" };
        let mut moved = world.mcp(elsewhere, Era::Legacy).await;
        moved.session = client.session.clone();
        assert_eq!(status(&moved).await, 404, "{path}: of another address");
        assert_eq!(status(&client).await, 200, "{path}: untouched by all that");
        assert!(client.leave().await.status.is_success());
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_in_the_way_of_the_server_s_era() {
    // Modern client, legacy server: leaving becomes a notification.
    let (world, fixture) = World::of_fixture(LEGACY_SERVER).await;
    let client = world.mcp("/native/mcp", Era::Modern).await;
    let slow =
        json!({"name": "slow", "arguments": {"ms": 60_000, "step": 50}, "_meta": {"progressToken": 1}});
    let mut events = client.stream(&client.request(1, "tools/call", slow.clone())).await;
    events.until("notifications/progress").await;
    drop(events);
    fixture.await_count("gateway/cancelled", 1).await;
    assert_eq!(fixture.count("gateway/byMethod/notifications~1cancelled").await, 1);

    // Legacy client, modern server: the notification becomes leaving; leaving alone cancels nothing.
    let (world, fixture) = World::of_fixture(MODERN_SERVER).await;
    let client = world.mcp("/native/mcp", Era::Legacy).await;
    let before = fixture.count("gateway/cancelled").await;
    let mut events = client.stream(&client.request("the-call", "tools/call", slow)).await;
    events.until("notifications/progress").await;
    let told =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "the-call"}});
    assert_eq!(client.post(&told).await.status(), 202);
    fixture.await_count("gateway/cancelled", before + 1).await;
    assert!(
        events.rest().await.iter().all(|told| told["id"] != "the-call"),
        "a cancelled call is not answered"
    );
    assert_eq!(
        client.call("echo", json!({"message": "again"})).await["structuredContent"]["message"],
        "again"
    );
}

#[tokio::test]
async fn a_client_of_http_and_events_only_is_told_so_by_nothing_but_its_protocol() {
    // `/{server}/mcp` of a server that speaks HTTP+SSE serves Streamable HTTP in both eras, too.
    let fixture = crate::harness::mcp::Fixture::start().await;
    let world = World::of(&[("native", "mcp-sse", fixture.url("/sse"))]).await;
    for era in super::client::ERAS {
        let client = Mcp::begin(&world.gateway.url("/native/mcp"), &world.token, era, ASKABLE).await;
        assert_eq!(client.tools().await.len(), FIXTURE_TOOLS, "{era:?}");
        assert_eq!(client.call("echo", json!({"message": "hi"})).await["structuredContent"]["message"], "hi");
    }
}
