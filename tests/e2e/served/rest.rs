//! `POST /{server}/{tool}` on an MCP server: what comes back, whatever the server speaks and however it answers.

use serde_json::{Value, json};

use super::{Served, World, everything, python_server};
use crate::{
    harness::{
        grants::CALLER,
        mcp::{Fixture, Server},
    },
    openapi::checked_operations,
};

/// Everything the fixture's tools can answer, as the REST face says it: path, arguments, status and body.
fn cases() -> Vec<(&'static str, Value, u16, Value)> {
    vec![
        ("echo", json!({"message": "hi"}), 200, json!({"message": "hi"})),
        ("echo", json!({"arguments": {"message": "in"}}), 200, json!({"message": "in"})),
        ("test_simple_text", json!({}), 200, json!("This is a simple text response for testing.")),
        ("empty", json!({}), 200, json!([])),
        ("slow", json!({"ms": 30, "step": 10}), 200, json!("slept 30")),
    ]
}

async fn check(world: &World, path: &str, arguments: Value, status: u16, body: &Value) {
    let answer = world.rest(path, arguments).await;
    assert_eq!((answer.status.as_u16(), &answer.json()), (status, body), "{path}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
    assert!(answer.header("x-request-id").is_some());
    assert!(answer.header("mcp-session-id").is_none(), "the server's session reached the caller");
}

/// Every way in which the fixture may speak and answer.
const MANNERS: [&[&str]; 7] = [
    &[],
    &["--era", "modern"],
    &["--era", "modern", "--answers", "sse"],
    &["--era", "legacy"],
    &["--era", "legacy", "--answers", "sse"],
    &["--era", "legacy", "--answers", "json"],
    &["--era", "legacy", "--sessions", "stateless"],
];

#[tokio::test]
async fn a_tool_answers_json_whatever_the_server_speaks_and_however_it_answers() {
    for manner in MANNERS {
        let (world, fixture) = World::of_fixture(manner).await;
        for (tool, arguments, status, body) in cases() {
            check(&world, &format!("/native/{tool}"), arguments, status, &body).await;
        }
        assert_eq!(fixture.count("requests").await, 0, "{manner:?}: nothing passes through on this face");
        assert!(fixture.count("gateway/byMethod/tools~1call").await >= 5, "{manner:?}");
    }
}

#[tokio::test]
async fn a_server_of_http_and_events_answers_json_like_any_other() {
    let fixture = Fixture::start().await;
    let world = World::of(&[("native", "mcp-sse", fixture.url("/sse"))]).await;
    for (tool, arguments, status, body) in cases() {
        check(&world, &format!("/native/{tool}"), arguments, status, &body).await;
    }
    assert_eq!(fixture.count("gateway/sessionsOpened").await, fixture.count("gateway/streamsOpened").await);
}

#[tokio::test]
async fn pictures_and_sounds_are_data_urls_and_several_parts_are_an_array() {
    let (world, _fixture) = World::of_fixture(&[]).await;
    for (tool, kind) in [
        ("test_image_content", "data:image/png;base64,iVBOR"),
        ("test_audio_content", "data:audio/wav;base64,UklGR"),
    ] {
        let answer = world.rest(&format!("/native/{tool}"), json!({})).await;
        assert_eq!(answer.status, 200);
        assert!(answer.json().as_str().unwrap().starts_with(kind), "{}", answer.text());
    }
    let several = world.rest("/native/test_multiple_content_types", json!({})).await.json();
    let several = several.as_array().unwrap();
    assert_eq!((several.len(), &several[0]), (3, &json!("Multiple content types test:")));
    assert!(several[1].as_str().unwrap().starts_with("data:image/png;base64,"), "{}", several[1]);
    assert!(several[2].is_object() && several[2].to_string().contains("test://mixed-content-resource"));
    let parts = world.rest("/native/parts", json!({})).await.json();
    assert_eq!((&parts[0], &parts[2]), (&json!("one"), &json!({"two": 2})), "text that is JSON is that JSON");
    assert_eq!(parts[1]["uri"], "test://static-text", "a link is the object it is: {parts}");
}

#[tokio::test]
async fn the_tool_s_own_no_is_422_in_its_own_words() {
    for manner in [&["--era", "modern"], &["--era", "legacy"], &["--answers", "sse"]] {
        let (world, _fixture) = World::of_fixture(manner).await;
        let no = world.rest("/native/test_error_handling", json!({})).await;
        assert_eq!((no.status.as_u16(), no.code().as_str()), (422, "tool_error"), "{manner:?}");
        let no = no.json();
        assert_eq!(no["detail"], "This tool intentionally returns an error for testing");
        assert!(no["request_id"].is_string(), "{no}");
        let outcomes = [("outcome", "tool_error")];
        world.gateway.await_metric("portcullis_requests_total", &outcomes, 1).await;
    }
}

#[tokio::test]
async fn what_the_server_or_the_gateway_refuses_is_no_answer_of_the_tool() {
    let (world, fixture) = World::of_fixture(&[]).await;
    let unknown = world.rest("/native/nothing", json!({})).await;
    assert_eq!((unknown.status.as_u16(), unknown.code().as_str()), (404, "unknown_tool"));
    let called = fixture.count("gateway/byMethod/tools~1call").await;
    assert_eq!(called, 0, "an unknown tool was asked for at the server");
    // The arguments were found fault with, in JSON-RPC and not by the tool: the caller's to mend, and never a 5xx.
    let picky = world.rest("/native/picky", json!({"number": 7})).await;
    assert!(matches!(picky.status.as_u16(), 400 | 422), "{}: {}", picky.status, picky.text());
    assert!(picky.json()["detail"].as_str().unwrap().contains("number 7"), "{}", picky.text());
    let no_json = world.gateway.call_request("/native/echo", &world.token, &json!({})).body("{\"a\":");
    assert_eq!(world.gateway.send(no_json).await.code(), "body_not_json");
    let died = world.rest("/native/die", json!({})).await;
    assert!(matches!(died.status.as_u16(), 502 | 504), "{}: {}", died.status, died.text());
    check(&world, "/native/echo", json!({"message": "still"}), 200, &json!({"message": "still"})).await;
}

#[tokio::test]
async fn rules_about_tools_hold_before_the_server_is_asked() {
    let (world, fixture) = World::of_fixture(&[]).await;
    world.grants.deny(CALLER, "native", "ec*").await;
    world.gateway.await_grants(3).await;
    let before = fixture.count("gateway/byMethod/tools~1call").await;
    let denied = world.rest("/native/echo", json!({"message": "hi"})).await;
    assert_eq!((denied.status.as_u16(), denied.code().as_str()), (404, "unknown_tool"));
    assert_eq!(fixture.count("gateway/byMethod/tools~1call").await, before);
    let document = world.gateway.get("/native/openapi.json", &world.token).await.text();
    assert!(!document.contains("\"/echo\"") && document.contains("\"/whoami\""), "{document}");
}

#[tokio::test]
async fn the_documents_show_the_tools_with_their_real_schemas() {
    for manner in [&["--era", "modern", "--fillers", "120"], &["--era", "legacy", "--fillers", "120"]] {
        let (world, _fixture) = World::of_fixture(manner).await;
        for (path, echo, kind) in [
            ("/openapi.json", "/native/echo", "/native/json_schema_2020_12_tool"),
            ("/native/openapi.json", "/echo", "/json_schema_2020_12_tool"),
        ] {
            let document = world.gateway.get(path, &world.token).await.json();
            let operations = checked_operations(&document);
            assert_eq!(operations.len(), crate::harness::mcp::FIXTURE_TOOLS + 120, "every page was read");
            let schema = |path: &str| {
                let schema = &operations[path]["requestBody"]["content"]["application/json"]["schema"];
                let reference = schema["$ref"].as_str();
                reference.map_or(schema.clone(), |at| document.pointer(&at[1..]).unwrap().clone())
            };
            assert_eq!(operations[echo]["description"], "Returns its argument");
            assert_eq!(schema(echo)["required"], json!(["message"]));
            assert_eq!(schema(echo)["properties"]["message"]["type"], "string");
            let kind = schema(kind);
            assert_eq!(kind["properties"]["contactMethod"]["enum"], json!(["phone", "email"]));
            assert_eq!(kind["additionalProperties"], json!(false), "{kind}");
            assert!(document.to_string().contains("street"), "what `$defs` said is gone");
        }
    }
}

#[tokio::test]
async fn real_servers_answer_on_this_face() {
    let servers = [
        (Server::start(everything("streamableHttp")).await, "mcp", "/mcp", "Echo: hi"),
        (Server::start(everything("sse")).await, "mcp-sse", "/sse", "Echo: hi"),
        (Server::start(python_server("V1", &[])).await, "mcp", "/mcp", "hi"),
        (Server::start(python_server("V1", &["--stateless", "--json"])).await, "mcp", "/mcp", "hi"),
        (Server::start(python_server("V1", &["--sse"])).await, "mcp-sse", "/sse", "hi"),
        (Server::start(python_server("V2", &[])).await, "mcp", "/mcp", "hi"),
    ];
    let ids = ["every", "events", "one", "plain", "stream", "two"];
    let served: Vec<Served<'_>> = ids
        .iter()
        .zip(&servers)
        .map(|(id, (server, dialect, path, _))| (*id, *dialect, server.url(path)))
        .collect();
    let world = World::of(&served).await;
    for (id, (.., expected)) in ids.iter().zip(&servers) {
        let answer = world.rest(&format!("/{id}/echo"), json!({"message": "hi"})).await;
        assert_eq!(answer.status, 200, "{id}: {}", answer.text());
        // The Python SDKs say a text as structured content, too.
        let said = answer.json();
        assert!(said == json!(expected) || said == json!({"result": expected}), "{id}: {said}");
        let wrong = world.rest(&format!("/{id}/echo"), json!({"nothing": 1})).await;
        assert!(matches!(wrong.status.as_u16(), 400 | 422), "{id}: {} {}", wrong.status, wrong.text());
    }
}
