//! `search_tools`, `describe_tools` and `call_tool`: on both faces, over the caller's own tools and no others.

use serde_json::{Map, Value, json};

use super::{
    World,
    client::{ERAS, Era, Mcp},
    names, setup,
};
use crate::{
    harness::{
        gateway::Gateway,
        grants::{CALLER, STRANGER},
        mcp::Fixture,
        tokens::email_token,
    },
    openapi::checked_operations,
};

const TOOLS: [&str; 3] = ["search_tools", "describe_tools", "call_tool"];

/// With `META_TOOLS_MODE`, in front of a fixture and an OpenAPI server that the caller may use.
async fn searching() -> (World, Fixture, Fixture) {
    let (mine, other) =
        (Fixture::with(&["--fillers", "60"]).await, Fixture::with(&["--era", "legacy"]).await);
    let servers = [("mine", "mcp", mine.url("/mcp")), ("other", "mcp", other.url("/mcp"))];
    let world = World::with(&servers, |setup| setup.environment("META_TOOLS_MODE", "true")).await;
    world.grants.take_back(CALLER, "other").await;
    world.grants.add(STRANGER, "other").await;
    world.grants.deny(CALLER, "mine", "test_*").await;
    let client = world.mcp("/mcp", Era::Modern).await;
    crate::harness::deadline::until("the grants in force", || async {
        let found = run(&client, "search_tools", &json!("headers that it was sent")).await.to_string();
        (found.contains("mine_whoami") && !found.contains("other_")).then_some(())
    })
    .await;
    (world, mine, other)
}

/// The argument that a schema wants first, and whether it is a list.
fn wanted(schema: &Value) -> (String, bool) {
    let name = schema["required"][0].as_str().unwrap_or_else(|| panic!("nothing is required: {schema}"));
    (name.to_owned(), schema["properties"][name]["type"] == "array")
}

/// What to send for `value`, by the tool's own schema.
fn arguments(schema: &Value, value: &Value) -> Value {
    let (name, is_list) = wanted(schema);
    let value = if is_list { json!([value]) } else { value.clone() };
    Value::Object(Map::from_iter([(name, value)]))
}

/// Runs one of the three with its one important argument.
async fn run(client: &Mcp, tool: &str, value: &Value) -> Value {
    let tools = client.tools().await;
    let tool = tools.iter().find(|listed| listed["name"].as_str().unwrap().ends_with(tool));
    let tool = tool.unwrap_or_else(|| panic!("{:?}", names(&tools)));
    client.call(tool["name"].as_str().unwrap(), arguments(&tool["inputSchema"], value)).await
}

/// Calls a tool through `call_tool`: its result, or the error.
async fn call(client: &Mcp, name: &str, given: Value) -> Value {
    let tools = client.tools().await;
    let tool = tools.iter().find(|listed| listed["name"].as_str().unwrap().ends_with("call_tool")).unwrap();
    let mut sent = arguments(&tool["inputSchema"], &json!(name));
    sent["arguments"] = given;
    let heard = client.ask("tools/call", json!({"name": tool["name"], "arguments": sent})).await;
    heard.outcome.unwrap_or_else(|error| error)
}

#[tokio::test]
async fn only_the_three_are_shown_and_they_find_describe_and_call_the_rest() {
    let (world, mine, _other) = searching().await;
    for era in ERAS {
        let client = world.mcp("/mcp", era).await;
        let tools = client.tools().await;
        assert_eq!(tools.len(), 3, "{:?}", names(&tools));
        for tool in TOOLS {
            assert!(names(&tools).iter().any(|name| name.ends_with(tool)), "{tool}: {:?}", names(&tools));
        }
        let found = run(&client, "search_tools", &json!("returns argument")).await;
        assert!(found.to_string().contains("mine_echo"), "{found}");
        let described = run(&client, "describe_tools", &json!("mine_echo")).await.to_string();
        assert!(described.contains("Returns its argument") && described.contains("message"), "{described}");
        let called = call(&client, "mine_echo", json!({"message": "hi"})).await;
        assert_eq!(called["structuredContent"]["message"], "hi", "the tool's own answer: {called}");
        let no = call(&client, "mine_picky", json!({})).await.to_string();
        assert!(no.contains("number is missing"), "the server's own words: {no}");
    }
    assert!(mine.count("gateway/byMethod/tools~1call").await >= 2);
}

#[tokio::test]
async fn nothing_of_others_is_found_described_or_called() {
    let (world, mine, other) = searching().await;
    let client = world.mcp("/mcp", Era::Modern).await;
    let before =
        (mine.count("gateway/byMethod/tools~1call").await, other.count("gateway/byMethod/tools~1call").await);
    for hidden in ["other_echo", "mine_test_simple_text", "nothing_at_all"] {
        let words = hidden.split_once('_').unwrap().1.replace('_', " ");
        let found = run(&client, "search_tools", &json!(words)).await.to_string();
        assert!(!found.contains("other_") && !found.contains("mine_test_"), "{hidden}: {found}");
        for tool in ["describe_tools", "call_tool"] {
            let tools = client.tools().await;
            let tool = tools.iter().find(|listed| listed["name"].as_str().unwrap().ends_with(tool)).unwrap();
            let mut sent = arguments(&tool["inputSchema"], &json!(hidden));
            if tool["name"].as_str().unwrap().ends_with("call_tool") {
                sent["arguments"] = json!({"message": "hi"});
            }
            let heard = client.ask("tools/call", json!({"name": tool["name"], "arguments": sent})).await;
            let told = format!("{:?}", heard.outcome);
            assert!(
                !told.contains("Returns its argument") && !told.contains("Plain text"),
                "{hidden}: {told}"
            );
        }
    }
    let after =
        (mine.count("gateway/byMethod/tools~1call").await, other.count("gateway/byMethod/tools~1call").await);
    assert_eq!(after, before, "a server was called");
}

#[tokio::test]
async fn the_rest_face_has_the_three_as_well() {
    let (world, _mine, _other) = searching().await;
    let document = world.gateway.get("/openapi.json", &world.token).await.json();
    let operations = checked_operations(&document);
    let paths: Vec<_> = operations.keys().map(String::as_str).collect();
    assert_eq!(paths, ["/meta/call_tool", "/meta/describe_tools", "/meta/search_tools"]);
    let schema = |path: &str| {
        let schema = &operations[path]["requestBody"]["content"]["application/json"]["schema"];
        let reference = schema["$ref"].as_str();
        reference.map_or(schema.clone(), |at| document.pointer(&at[1..]).unwrap().clone())
    };
    let post = async |path: &str, value: &str, given: Option<Value>| {
        let mut sent = arguments(&schema(path), &json!(value));
        if let Some(given) = given {
            sent["arguments"] = given;
        }
        world.rest(path, sent).await
    };
    let found = post("/meta/search_tools", "returns argument", None).await;
    assert!(found.status == 200 && found.text().contains("mine_echo"), "{}", found.text());
    let described = post("/meta/describe_tools", "mine_echo", None).await;
    assert!(described.text().contains("Returns its argument"), "{}", described.text());
    let called = post("/meta/call_tool", "mine_echo", Some(json!({"message": "hi"}))).await;
    assert_eq!((called.status.as_u16(), called.json()), (200, json!({"message": "hi"})));
    let no = post("/meta/call_tool", "mine_picky", Some(json!({}))).await;
    assert!(matches!(no.status.as_u16(), 400 | 422), "{}", no.text());
    for hidden in ["other_echo", "mine_test_simple_text", "nothing"] {
        let refused = post("/meta/call_tool", hidden, Some(json!({}))).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (404, "unknown_tool"), "{hidden}");
    }
    let stats = world.gateway.get("/meta/stats", &world.token).await;
    assert_eq!(stats.status, 200);
    assert!(!stats.text().contains("other"), "{}", stats.text());
    let nobody = world.gateway.send(world.gateway.client.post(world.gateway.url("/meta/search_tools"))).await;
    assert_eq!(nobody.status, 401);
}

async fn has_rest(gateway: &Gateway, token: &str) -> u16 {
    gateway.call("/meta/search_tools", token, &json!({"query": "echo"})).await.status.as_u16()
}

#[tokio::test]
async fn without_the_mode_all_tools_are_shown_and_the_three_can_be_called() {
    let fixture = Fixture::start().await;
    let world = World::of(&[("mine", "mcp", fixture.url("/mcp"))]).await;
    assert_eq!(has_rest(&world.gateway, &world.token).await, 200);
    let tools = world.mcp("/mcp", Era::Modern).await.tools().await;
    assert!(names(&tools).contains(&"mine_echo"), "{:?}", names(&tools));
    let second = setup(&world.grants, &[("mine", "mcp", fixture.url("/mcp"))]);
    let second = second.environment("META_TOOLS_MODE", "true").start().await;
    assert_eq!(
        has_rest(&second, &email_token(STRANGER)).await,
        200,
        "a stranger finds nothing, and may look"
    );
}
