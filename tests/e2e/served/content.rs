//! Prompts, resources, templates and completion through `/mcp`: named and addressed so that the way back is known.

use serde_json::{Value, json};

use super::{
    World,
    client::{ERAS, Era, Mcp},
    named, names,
};
use crate::harness::mcp::Fixture;

/// Two fixtures of different eras that offer the same under the same names.
async fn pair() -> (World, Fixture, Fixture) {
    let left = Fixture::with(&["--era", "legacy", "--name", "left"]).await;
    let right = Fixture::with(&["--era", "modern", "--name", "right"]).await;
    let world = World::of(&[("left", "mcp", left.url("/mcp")), ("right", "mcp", right.url("/mcp"))]).await;
    (world, left, right)
}

const SIDES: [&str; 2] = ["left", "right"];
const TEXT: &str = "This is the content of the static text resource.";

#[tokio::test]
async fn prompts_of_all_servers_are_listed_and_got() {
    let (world, _left, _right) = pair().await;
    for era in ERAS {
        let client = world.mcp("/mcp", era).await;
        let prompts = client.list("prompts", "prompts").await;
        assert_eq!(prompts.len(), 10, "{:?}", names(&prompts));
        for side in SIDES {
            let name = format!("{side}_test_prompt_with_arguments");
            assert_eq!(named(&prompts, &name)["arguments"][1]["name"], "arg2");
            let got = client
                .result("prompts/get", json!({"name": name, "arguments": {"arg1": "a", "arg2": "é"}}))
                .await;
            let text = &got["messages"][0]["content"]["text"];
            assert_eq!(text, "Prompt with arguments: arg1='a', arg2='é'", "{side} {era:?}");
            assert_eq!(got.get("resultType").is_some(), era == Era::Modern);
            let embedded = json!({"name": format!("{side}_test_prompt_with_embedded_resource"),
                "arguments": {"resourceUri": "test://static-text"}});
            let got = client.result("prompts/get", embedded).await;
            let uri = got["messages"][0]["content"]["resource"]["uri"].as_str().unwrap();
            assert_eq!(read(&client, uri).await["text"], TEXT, "what a prompt embeds can be read: {uri}");
        }
        assert_eq!(client.error("prompts/get", json!({"name": "left_nothing"})).await["code"], -32602);
        assert_eq!(client.error("prompts/get", json!({"name": "test_simple_prompt"})).await["code"], -32602);
    }
}

async fn read(client: &Mcp, uri: &str) -> Value {
    client.result("resources/read", json!({"uri": uri})).await["contents"][0].take()
}

#[tokio::test]
async fn resources_of_all_servers_are_listed_and_read_under_addresses_of_their_own() {
    let (world, left, right) = pair().await;
    for era in ERAS {
        let client = world.mcp("/mcp", era).await;
        let resources = client.list("resources", "resources").await;
        let uris: std::collections::BTreeSet<_> =
            resources.iter().map(|it| it["uri"].as_str().unwrap()).collect();
        assert_eq!((resources.len(), uris.len()), (6, 6), "{uris:?}");
        for uri in &uris {
            assert!(!uri.starts_with("test://"), "whose is {uri}?");
            let content = read(&client, uri).await;
            assert_eq!(content["uri"].as_str(), Some(*uri), "it is what was asked for");
            assert!(content["text"].is_string() || content["blob"].is_string(), "{content}");
        }
        let texts: Vec<_> = resources.iter().filter(|it| it["name"] == "static-text").collect();
        assert_eq!(texts.len(), 2);
        assert!(
            texts.iter().all(|it| it["mimeType"] == "text/plain" && it["description"] == "A text resource")
        );
        for uri in [
            "test://static-text",
            "mcp:left:test://nowhere",
            "mcp:nobody:test://static-text",
            "mcp:left",
            "not an address",
        ] {
            let heard = client.ask("resources/read", json!({"uri": uri})).await;
            let error = heard.outcome.expect_err("no such resource");
            let missing = if era == Era::Legacy { -32002 } else { -32602 };
            assert!(error["code"] == missing || error["code"] == -32602, "{uri}: {error}");
            assert!(!error.to_string().contains("mcp:left:mcp:left"), "{error}");
        }
    }
    for fixture in [&left, &right] {
        let log = fixture.log().await;
        let mut asked = log.iter().filter(|entry| entry["rpc"] == "resources/read");
        assert!(asked.all(|entry| entry["body"]["params"]["uri"].as_str().unwrap().starts_with("test://")));
    }
}

#[tokio::test]
async fn templates_are_listed_so_that_what_is_made_of_them_is_found() {
    let (world, _left, _right) = pair().await;
    for era in ERAS {
        let client = world.mcp("/mcp", era).await;
        let templates = client.list("resources/templates", "resourceTemplates").await;
        assert_eq!(templates.len(), 2);
        for template in &templates {
            let template = template["uriTemplate"].as_str().unwrap();
            assert!(template.contains("{id}"), "{template}");
            let content = read(&client, &template.replace("{id}", "a%20b")).await;
            assert!(content["text"].as_str().unwrap().contains("Data for ID: a%20b"), "{content}");
        }
    }
}

#[tokio::test]
async fn what_a_tool_links_to_or_embeds_can_be_read_where_the_tool_was_called() {
    let (world, _left, _right) = pair().await;
    for era in ERAS {
        for side in SIDES {
            let all = world.mcp("/mcp", era).await;
            let parts = all.call(&format!("{side}_parts"), json!({})).await;
            let link = &parts["content"][1];
            assert_eq!((&link["type"], &link["name"]), (&json!("resource_link"), &json!("static-text")));
            assert_eq!(read(&all, link["uri"].as_str().unwrap()).await["text"], TEXT, "{link}");
            let embedded = all.call(&format!("{side}_test_embedded_resource"), json!({})).await;
            let uri = embedded["content"][0]["resource"]["uri"].as_str().unwrap();
            assert!(uri.ends_with("test://embedded-resource") && uri != "test://embedded-resource", "{uri}");
            // The same tool where only one server is: its addresses are its own.
            let one = world.mcp(&format!("/{side}/mcp"), era).await;
            let parts = one.call("parts", json!({})).await;
            assert_eq!(parts["content"][1]["uri"], "test://static-text");
            assert_eq!(read(&one, "test://static-text").await["uri"], "test://static-text");
        }
    }
}

#[tokio::test]
async fn completion_reaches_the_server_whose_prompt_or_template_it_is_about() {
    let (world, left, right) = pair().await;
    for era in ERAS {
        let client = world.mcp("/mcp", era).await;
        let templates = client.list("resources/templates", "resourceTemplates").await;
        let argument = json!({"name": "arg1", "value": "al"});
        let mut references: Vec<_> =
            templates.iter().map(|it| json!({"type": "ref/resource", "uri": it["uriTemplate"]})).collect();
        references.extend(
            SIDES.map(
                |side| json!({"type": "ref/prompt", "name": format!("{side}_test_prompt_with_arguments")}),
            ),
        );
        for reference in references {
            let completed =
                client.result("completion/complete", json!({"ref": reference, "argument": argument})).await;
            assert_eq!(completed["completion"]["values"], json!(["alpha"]), "{reference}");
        }
        let unknown = json!({"ref": {"type": "ref/prompt", "name": "left_nothing"}, "argument": argument});
        let before = left.log().await.len();
        assert_eq!(client.error("completion/complete", unknown).await["code"], -32602);
        assert_eq!(left.log().await.len(), before, "nobody was to be asked");
    }
    for fixture in [&left, &right] {
        let log = fixture.log().await;
        let asked: Vec<_> = log.iter().filter(|entry| entry["rpc"] == "completion/complete").collect();
        assert_eq!(asked.len(), 4);
        for entry in asked {
            let reference = entry["body"]["params"]["ref"].to_string();
            assert!(!reference.contains("left") && !reference.contains("right"), "{reference}");
        }
    }
}

#[tokio::test]
async fn a_resource_that_is_watched_is_announced_under_its_address_here() {
    let (world, left, right) = pair().await;
    for (side, fixture) in SIDES.iter().zip([&left, &right]) {
        let uri = format!("mcp:{side}:test://watched-resource");
        let touch = || fixture.command("touch?uri=test://watched-resource");

        let legacy = world.mcp("/mcp", Era::Legacy).await;
        let mut standing = legacy.listen().await;
        assert_eq!(legacy.result("resources/subscribe", json!({"uri": uri})).await, json!({}));
        let told = heard_while(&mut standing, touch).await;
        assert_eq!(told["params"]["uri"], *uri, "{told}");
        assert_eq!(legacy.result("resources/unsubscribe", json!({"uri": uri})).await, json!({}));
        assert!(legacy.ask("resources/subscribe", json!({"uri": "mcp:nobody:x"})).await.outcome.is_err());

        let modern = world.mcp("/mcp", Era::Modern).await;
        let wanted = json!({"notifications": {"resourceSubscriptions": [uri]}});
        let mut listening = modern.stream(&modern.request("my-listen", "subscriptions/listen", wanted)).await;
        let first = listening.until("notifications/subscriptions/acknowledged").await;
        assert_eq!(first["params"]["notifications"]["resourceSubscriptions"], json!([uri]), "{first}");
        let told = heard_while(&mut listening, touch).await;
        assert_eq!(told["params"]["uri"], *uri, "{told}");
        assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "my-listen");
    }
}

/// The next `resources/updated`, while `touch` is done again and again: a subscription takes its time.
async fn heard_while<F: Future<Output = ()>>(
    events: &mut super::client::Events,
    touch: impl Fn() -> F,
) -> Value {
    let touching = async {
        let mut beats = tokio::time::interval(std::time::Duration::from_millis(100));
        loop {
            beats.tick().await;
            touch().await;
        }
    };
    tokio::select! {
        told = events.until("notifications/resources/updated") => told,
        () = touching => unreachable!("it never ends"),
    }
}
