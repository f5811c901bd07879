//! `/{server}/mcp` and `/mcp` on OpenAPI servers: real mcpo in front of real servers, and peers that say no in every form.

use serde_json::{Value, json};

use super::{
    Served, World,
    client::{ERAS, Era, Face},
    named, names,
};
use crate::harness::{
    fake_peer::{Behaviour, FakePeer},
    grants::CALLER,
    postgres::given,
    wire::answer,
};

async fn mcpo() -> World {
    let address = |name: &str| given(&format!("PORTCULLIS_TEST_MCPO_{name}"));
    let servers: [Served<'_>; 3] = [
        ("time", "openapi", address("TIME")),
        ("git", "openapi", address("GIT")),
        ("filesystem", "openapi", address("FILESYSTEM")),
    ];
    World::of(&servers).await
}

#[tokio::test]
async fn the_tools_of_real_mcpo_are_listed_in_both_eras() {
    let world = mcpo().await;
    for era in ERAS {
        for (path, prefix) in [("/time/mcp", ""), ("/mcp", "time_")] {
            let tools = world.mcp(path, era).await.tools().await;
            let convert = named(&tools, &format!("{prefix}convert_time"));
            let schema = &convert["inputSchema"];
            assert_eq!(schema["type"], "object", "{path} {era:?}: {convert}");
            assert!(schema["required"].as_array().unwrap().contains(&json!("source_timezone")), "{schema}");
            assert_eq!(schema["properties"]["time"]["type"], "string", "{schema}");
            assert!(!convert.to_string().contains("#/components"), "it says where nothing is: {convert}");
            assert!(convert["description"].as_str().unwrap().len() > 10, "{convert}");
        }
        let one = world.mcp("/time/mcp", era).await.tools().await;
        assert_eq!(names(&one).len(), 2, "{:?}", names(&one));
    }
}

#[tokio::test]
async fn real_tools_give_right_answers_in_both_eras() {
    let world = mcpo().await;
    let arguments = json!({"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"});
    let folder = json!({"path": given("PORTCULLIS_TEST_FOLDER")});
    for era in ERAS {
        let result = world.mcp("/time/mcp", era).await.call("convert_time", arguments.clone()).await;
        assert_eq!(result["structuredContent"]["time_difference"], "+9.0h", "{result}");
        let text: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!(text, result["structuredContent"], "the text says the same");
        assert_eq!(result.get("resultType").is_some(), era == Era::Modern);
        let all = world.mcp("/mcp", era).await;
        let listed = all.call("filesystem_list_directory", folder.clone()).await;
        assert!(listed.to_string().contains("hello.txt"), "{listed}");
        let log = all.call("git_git_log", json!({"repo_path": given("PORTCULLIS_TEST_REPOSITORY")})).await;
        assert!(log.to_string().contains("first commit"), "{log}");
    }
}

#[tokio::test]
async fn what_a_real_tool_refuses_is_its_own_result_in_readable_words() {
    let world = mcpo().await;
    let cases = [
        ("time", "get_current_time", json!({"timezone": "Nowhere/Land"}), "Nowhere/Land"),
        ("filesystem", "read_text_file", json!({"path": "/etc/passwd"}), "/etc/passwd"),
        ("time", "convert_time", json!({"time": "12:00"}), "source_timezone"),
    ];
    for (server, tool, arguments, word) in cases {
        for era in ERAS {
            for (path, name) in
                [(format!("/{server}/mcp"), tool.to_owned()), ("/mcp".into(), format!("{server}_{tool}"))]
            {
                let result = world.mcp(&path, era).await.call(&name, arguments.clone()).await;
                assert_eq!(result["isError"], true, "{path} {era:?}: {result}");
                let text = result["content"][0]["text"].as_str().unwrap();
                assert!(text.contains(word), "{text}");
                assert!(
                    !text.contains("{'message'") && !text.contains("Unexpected error"),
                    "not readable: {text}"
                );
                assert!(result.get("structuredContent").is_none(), "{result}");
            }
        }
    }
    let metrics = world.gateway.metrics().await;
    assert_eq!(metrics.sum("portcullis_requests_total", &[("outcome", "peer_failed")]), 0.0);
}

fn json_answer(status: &str, body: &str) -> Behaviour {
    Behaviour::Answer(answer(status, "application/json", body.as_bytes()))
}

/// A tool's answer in HTTP; whether it is an error, and its text where that is known.
type Case = (&'static str, Behaviour, bool, Option<&'static str>);

/// What mcpo says when the tool said no, and what tools say when they say yes.
fn cases() -> Vec<Case> {
    let said = "{\"detail\":{\"message\":\"Unexpected error\",\"error\":\"500: {'message': 'no \\\"such\\\" thing'}\"}}";
    let quoted =
        "{\"detail\":{\"message\":\"Unexpected error\",\"error\":\"500: {'message': \\\"it's gone\\\"}\"}}";
    let list = "{\"detail\":[{\"type\":\"missing\",\"loc\":[\"body\",\"query\"],\"msg\":\"Field required\",\"input\":{}}]}";
    vec![
        ("wrapped", json_answer("500 Internal Server Error", said), true, Some("no \"such\" thing")),
        ("quoted", json_answer("500 Internal Server Error", quoted), true, Some("it's gone")),
        ("invalid", json_answer("422 Unprocessable Entity", list), true, None),
        (
            "plain_no",
            json_answer("422 Unprocessable Entity", r#"{"detail":"not today"}"#),
            true,
            Some("not today"),
        ),
        ("missing", json_answer("404 Not Found", r#"{"detail":"no such page"}"#), true, Some("no such page")),
        ("number", json_answer("200 OK", "42"), false, Some("42")),
        ("list", json_answer("200 OK", "[1, 2.50]"), false, Some("[1, 2.50]")),
        ("object", json_answer("200 OK", r#"{"a" : 1e2}"#), false, Some(r#"{"a" : 1e2}"#)),
        ("nothing", json_answer("200 OK", "null"), false, Some("null")),
        ("words", Behaviour::Answer(answer("200 OK", "text/plain", b"good day")), false, Some("good day")),
    ]
}

async fn peer() -> FakePeer {
    let peers = cases().into_iter();
    peers.fold(FakePeer::start().await, |peer, (name, behaviour, ..)| peer.with_tool(name, behaviour))
}

#[tokio::test]
async fn every_form_of_yes_and_no_becomes_a_result() {
    let peer = peer().await;
    let world = World::of(&[("fake", "openapi", peer.url())]).await;
    for era in ERAS {
        let client = world.mcp("/fake/mcp", era).await;
        for (tool, _, is_error, text) in cases() {
            let result = client.call(tool, json!({"query": "x"})).await;
            assert_eq!(result["isError"] == true, is_error, "{tool}: {result}");
            let said = result["content"][0]["text"].as_str().unwrap();
            assert!(text.is_none_or(|text| text == said), "{tool}: {said}");
        }
        let invalid = client.call("invalid", json!({})).await;
        let text = invalid["content"][0]["text"].as_str().unwrap();
        assert!(text.contains("query") && text.contains("Field required"), "{text}");
        let object = client.call("object", json!({})).await;
        assert_eq!(object["structuredContent"], json!({"a": 100.0}));
        let list = client.call("list", json!({})).await;
        // Only the newest revision knows structured content that is no object.
        assert!(era == Era::Modern || list.get("structuredContent").is_none(), "{list}");
    }
}

#[tokio::test]
async fn arguments_arrive_as_they_were_written_and_nothing_else_does() {
    let peer = FakePeer::start().await.with_json("echo", json!("hi"));
    let world = World::of(&[("fake", "openapi", peer.url())]).await;
    for era in ERAS {
        let client = world.mcp("/mcp", era).await;
        // The spelling of numbers and the order of members are the client's.
        let message =
            client.request(1, "tools/call", json!({"name": "fake_echo", "arguments": {"at": "HERE"}}));
        let message =
            message.to_string().replace("{\"at\":\"HERE\"}", r#"{"z": 1.50, "a" :123456789012345678901}"#);
        let mut headers =
            vec![("mcp-protocol-version", if era == Era::Modern { "2026-07-28" } else { "2025-11-25" })];
        headers.extend(client.session.as_deref().map(|id| ("mcp-session-id", id)));
        headers.extend([("mcp-method", "tools/call"), ("mcp-name", "fake_echo")]);
        headers.extend([
            ("accept", "application/json, text/event-stream"),
            ("content-type", "application/json"),
        ]);
        let request = client.end.request(reqwest::Method::POST, &headers).body(message);
        assert_eq!(request.send().await.unwrap().status(), 200);
        let sent = peer.requests().pop().unwrap();
        assert_eq!(String::from_utf8_lossy(&sent.body), r#"{"z": 1.50, "a" :123456789012345678901}"#);
        assert_eq!(sent.head.all("content-type"), ["application/json"]);
        let arrived = sent.text().to_lowercase();
        for kept in [&*world.token, CALLER, "mcp-session-id", "mcp-method", "mcp-name", "jsonrpc"] {
            assert!(!arrived.contains(&kept.to_lowercase()), "`{kept}` arrived: {arrived}");
        }
    }
    let without = world.mcp("/fake/mcp", Era::Modern).await;
    assert!(without.result("tools/call", json!({"name": "echo"})).await["isError"] != true);
    assert_eq!(peer.requests().pop().unwrap().body, b"{}", "no arguments are an empty object");
}

#[tokio::test]
async fn a_peer_that_is_broken_is_no_answer_of_the_tool() {
    let peer =
        FakePeer::start().await.with_tool("hang_up", Behaviour::HangUpAfterBody).with_json("fine", json!(1));
    let peer = peer.with_tool(
        "cut",
        Behaviour::AnswerAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_vec()),
    );
    let world = World::of(&[("fake", "openapi", peer.url())]).await;
    for era in ERAS {
        let client = world.mcp("/fake/mcp", era).await;
        for tool in ["hang_up", "cut"] {
            let error = client.error("tools/call", json!({"name": tool, "arguments": {}})).await;
            assert!(error["data"]["code"].as_str().unwrap().starts_with("peer_"), "{tool}: {error}");
        }
        assert_eq!(client.call("fine", json!({})).await["content"][0]["text"], "1");
        let unknown = client.error("tools/call", json!({"name": "nothing", "arguments": {}})).await;
        assert_eq!(unknown["code"], -32602, "{unknown}");
    }
    let said = world.say(Face::Rest, "fake", "fine", &json!({})).await;
    assert_eq!(said, super::client::Said::Yes(json!(1)), "the other face is as it was");
}

#[tokio::test]
async fn rules_hold_on_the_faces_that_are_translated() {
    let peer = FakePeer::start().await.with_json("drop_all", json!(1)).with_json("look", json!(2));
    let world = World::of(&[("fake", "openapi", peer.url())]).await;
    world.grants.deny(CALLER, "fake", "drop_*").await;
    world.gateway.await_grants(3).await;
    for era in ERAS {
        for (path, prefix) in [("/fake/mcp", ""), ("/mcp", "fake_")] {
            let client = world.mcp(path, era).await;
            assert_eq!(names(&client.tools().await), [format!("{prefix}look")], "{path}");
            let call = json!({"name": format!("{prefix}drop_all"), "arguments": {}});
            let heard = client.ask("tools/call", call).await;
            assert_eq!((heard.status, &heard.outcome.unwrap_err()["code"]), (200, &json!(-32602)), "{path}");
        }
    }
    assert!(peer.requests().is_empty(), "a denied tool was called");
}
