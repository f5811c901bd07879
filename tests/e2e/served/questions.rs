//! A server that asks its client for input, across eras: `input_required` and a retry here, a request on the stream there.

use serde_json::{Value, json};

use super::{
    World,
    client::{ASKABLE, Era, Heard, Mcp},
};
use crate::harness::{
    grants::{ADMIN, CALLER},
    tokens::email_token,
};

const LEGACY_SERVER: &[&str] = &["--era", "legacy"];
const MODERN_SERVER: &[&str] = &["--era", "modern"];
/// Where a client may stand, and what `ask` is called there.
const PLACES: [(&str, &str); 2] = [("/native/mcp", ""), ("/mcp", "native_")];

/// The keys of what is asked, each with the request.
#[track_caller]
fn asked(result: &Value) -> Vec<(&String, &Value)> {
    assert_eq!(result["resultType"], "input_required", "{result}");
    result["inputRequests"].as_object().unwrap().iter().collect()
}

/// The retry of a call, with these answers.
fn retry(tool: &str, arguments: Value, asked: &Value, answers: Value) -> Value {
    let mut params = json!({"name": tool, "arguments": arguments, "inputResponses": answers});
    if let Some(state) = asked.get("requestState") {
        params["requestState"] = state.clone();
    }
    params
}

fn accept(content: Value) -> Value {
    json!({"action": "accept", "content": content})
}

#[tokio::test]
async fn a_modern_client_is_asked_by_a_legacy_server_with_input_required() {
    for options in [LEGACY_SERVER, &["--era", "legacy", "--answers", "sse"]] {
        for (path, prefix) in PLACES {
            let (world, fixture) = World::of_fixture(options).await;
            let client = world.mcp(path, Era::Modern).await;
            let tool = format!("{prefix}ask");
            let first = client.call(&tool, json!({})).await;
            let (key, question) = asked(&first)[0];
            assert_eq!(question["method"], "elicitation/create", "{question}");
            assert_eq!(question["params"]["message"], "What is your name?");
            assert_eq!(question["params"]["requestedSchema"]["required"], json!(["name"]));
            let answers = json!({key: accept(json!({"name": "Ada"}))});
            let second = client.result("tools/call", retry(&tool, json!({}), &first, answers)).await;
            assert_eq!(second["content"][0]["text"], "Hello, Ada!", "{path}: {second}");
            assert_eq!(second["resultType"], "complete");
            let calls = fixture.count("gateway/byMethod/tools~1call").await;
            assert_eq!(calls, 1, "the tool ran twice");
        }
    }
}

#[tokio::test]
async fn a_declined_question_is_declined_at_the_server() {
    let (world, _fixture) = World::of_fixture(LEGACY_SERVER).await;
    let client = world.mcp("/native/mcp", Era::Modern).await;
    let tool = "test_elicitation";
    let first = client.call(tool, json!({"message": "Who?"})).await;
    let answers = json!({asked(&first)[0].0: {"action": "decline"}});
    let second = client.result("tools/call", retry(tool, json!({"message": "Who?"}), &first, answers)).await;
    assert_eq!(second["content"][0]["text"], "User response: action=decline, content={}");
}

#[tokio::test]
async fn a_state_is_good_for_its_caller_its_call_and_one_time_only() {
    let (world, _fixture) = World::of_fixture(LEGACY_SERVER).await;
    world.grants.add("other@example.com", "native").await;
    world.gateway.await_grants(3).await;
    let client = world.mcp("/mcp", Era::Modern).await;
    let first = client.call("native_ask", json!({})).await;
    let key = asked(&first)[0].0.clone();
    let good = retry("native_ask", json!({}), &first, json!({key: accept(json!({"name": "Ada"}))}));
    let other = world.mcp_as("/mcp", Era::Modern, &email_token("other@example.com")).await;
    assert_not_taken("somebody else's", other.ask("tools/call", good.clone()).await);
    let mut changed = good.clone();
    let state: String = changed["requestState"].as_str().unwrap().chars().rev().collect();
    changed["requestState"] = state.into();
    assert_not_taken("a changed one", client.ask("tools/call", changed).await);
    let mut elsewhere = good.clone();
    elsewhere["name"] = json!("native_test_elicitation");
    assert_not_taken("another call's", client.ask("tools/call", elsewhere).await);
    let answered = client.result("tools/call", good.clone()).await;
    assert_eq!(answered["content"][0]["text"], "Hello, Ada!");
    assert_not_taken("a used one", client.ask("tools/call", good).await);
}

/// The answers went nowhere: the call is refused, or asks anew.
#[track_caller]
fn assert_not_taken(what: &str, heard: Heard) {
    let is_taken = heard.outcome.as_ref().is_ok_and(|result| result["resultType"] != "input_required");
    assert!(!is_taken, "{what} state was taken: {heard:?}");
}

#[tokio::test]
async fn a_question_that_nobody_answers_does_not_stay_for_ever_with_the_grant_gone() {
    let (world, fixture) = World::of_fixture(LEGACY_SERVER).await;
    let client = world.mcp("/native/mcp", Era::Modern).await;
    let first = client.call("ask", json!({})).await;
    let answers = json!({asked(&first)[0].0: accept(json!({"name": "Ada"}))});
    world.grants.take_back(CALLER, "native").await;
    world.gateway.await_grants(1).await;
    let retry = client.request(2, "tools/call", retry("ask", json!({}), &first, answers));
    assert_eq!(client.post(&retry).await.status(), 403);
    assert_eq!(
        fixture.count("gateway/finished").await,
        0,
        "the tool was answered for a caller without a grant"
    );
}

#[tokio::test]
async fn a_client_that_cannot_be_asked_is_not_asked() {
    for (options, era) in [(LEGACY_SERVER, Era::Modern), (MODERN_SERVER, Era::Legacy)] {
        let (world, _fixture) = World::of_fixture(options).await;
        let client = Mcp::begin(&world.gateway.url("/native/mcp"), &world.token, era, "{}").await;
        let heard = client.ask("tools/call", json!({"name": "ask", "arguments": {}})).await;
        assert!(heard.told.iter().all(|told| told["method"] != "elicitation/create"), "{:?}", heard.told);
        match heard.outcome {
            Ok(result) => assert_eq!(result["isError"], true, "{era:?}: {result}"),
            Err(error) => assert!(error["code"].is_i64(), "{era:?}: {error}"),
        }
        let rest = world.rest("/native/ask", json!({})).await;
        assert!(rest.status.is_client_error() || rest.status.is_server_error(), "{}", rest.text());
    }
}

/// Calls a tool in a session, answers what is asked on the stream of the call, and gives back its result.
async fn answered(client: &Mcp, tool: &str, answers: &[(&str, Value)]) -> Value {
    let call = client.request("the-call", "tools/call", json!({"name": tool, "arguments": {}}));
    let mut events = client.stream(&call).await;
    for _ in answers {
        let question = loop {
            let message = events.next().await.unwrap_or_else(|| panic!("{tool}: nothing was asked"));
            if message.get("id").is_some() && message.get("method").is_some() {
                break message;
            }
        };
        let method = question["method"].as_str().unwrap();
        let (_, answer) =
            answers.iter().find(|(of, _)| *of == method).unwrap_or_else(|| panic!("{question}"));
        let said = json!({"jsonrpc": "2.0", "id": question["id"], "result": answer});
        assert_eq!(client.post(&said).await.status(), 202);
    }
    let mut last = events.until("the-call").await;
    assert!(last.get("error").is_none(), "{last}");
    last["result"].take()
}

#[tokio::test]
async fn a_legacy_client_is_asked_by_a_modern_server_on_the_stream_of_its_call() {
    for options in [MODERN_SERVER, &["--era", "modern", "--answers", "sse"]] {
        for (path, prefix) in PLACES {
            let (world, fixture) = World::of_fixture(options).await;
            let all = r#"{"elicitation":{},"sampling":{},"roots":{}}"#;
            let client = Mcp::begin(&world.gateway.url(path), &world.token, Era::Legacy, all).await;
            let name = || ("elicitation/create", accept(json!({"name": "Ada"})));
            let said = answered(&client, &format!("{prefix}ask"), &[name()]).await;
            assert_eq!(said["content"][0]["text"], "Hello, Ada!");
            assert!(said.get("resultType").is_none(), "{said}");
            let model =
                json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "Paris"}});
            let sampled = [("sampling/createMessage", model.clone())];
            let said =
                answered(&client, &format!("{prefix}test_input_required_result_sampling"), &sampled).await;
            assert_eq!(said["content"][0]["text"], "Answer: Paris");
            let several = [
                name(),
                ("sampling/createMessage", model),
                ("roots/list", json!({"roots": [{"uri": "file:///a"}]})),
            ];
            let tool = format!("{prefix}test_input_required_result_multiple_inputs");
            assert_eq!(answered(&client, &tool, &several).await["content"][0]["text"], "all three answered");
            let step = || ("elicitation/create", accept(json!({"name": "Ada", "color": "blue"})));
            let steps = [step(), step()];
            let tool = format!("{prefix}test_input_required_result_multi_round");
            assert_eq!(answered(&client, &tool, &steps).await["content"][0]["text"], "Ada likes blue");
            assert_eq!(fixture.count("sessionsOpened").await, 0);
        }
    }
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_goes_nowhere() {
    let (world, _fixture) = World::of_fixture(MODERN_SERVER).await;
    let client = world.mcp("/mcp", Era::Legacy).await;
    let call = client.request("the-call", "tools/call", json!({"name": "native_ask", "arguments": {}}));
    let mut events = client.stream(&call).await;
    let question = events.until("elicitation/create").await;
    let said = json!({"jsonrpc": "2.0", "id": question["id"], "result": accept(json!({"name": "Eve"}))});
    let other = world.mcp_as("/mcp", Era::Legacy, &email_token(ADMIN)).await;
    let status = other.post(&said).await.status().as_u16();
    assert!(matches!(status, 202 | 400 | 404), "{status}");
    let own = json!({"jsonrpc": "2.0", "id": question["id"], "result": accept(json!({"name": "Ada"}))});
    assert_eq!(client.post(&own).await.status(), 202);
    assert_eq!(events.until("the-call").await["result"]["content"][0]["text"], "Hello, Ada!");
}

#[tokio::test]
async fn a_client_and_a_server_of_one_era_are_asked_as_ever_through_the_aggregate() {
    let (world, _fixture) = World::of_fixture(LEGACY_SERVER).await;
    let client = Mcp::begin(&world.gateway.url("/mcp"), &world.token, Era::Legacy, ASKABLE).await;
    let said =
        answered(&client, "native_ask", &[("elicitation/create", accept(json!({"name": "Ada"})))]).await;
    assert_eq!(said["content"][0]["text"], "Hello, Ada!");

    let (world, _fixture) = World::of_fixture(MODERN_SERVER).await;
    let client = world.mcp("/mcp", Era::Modern).await;
    let tool = "native_test_input_required_result_request_state";
    let first = client.call(tool, json!({})).await;
    let answers = json!({asked(&first)[0].0: accept(json!({"ok": true}))});
    let second = client.result("tools/call", retry(tool, json!({}), &first, answers.clone())).await;
    assert_eq!(second["content"][0]["text"], "state-ok");
    let mut forged = retry(tool, json!({}), &first, answers);
    forged["requestState"] = json!("e30.forged");
    assert!(client.ask("tools/call", forged).await.outcome.is_err());
}
