//! Tool search over REST: what is found, described and resolved is the caller's own, whatever is asked.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    deadline::until,
    fake_peer::FakePeer,
    gateway::{Answer, Gateway},
    grants::{ADMIN, CALLER, Grants, STRANGER},
    raw::RawClient,
    request::{head, post, post_with},
    tokens::email_token,
};

/// `alpha` is the caller's but for `purge`; `beta` is not.
struct Scene {
    gateway: Gateway,
    grants: Grants,
    _peers: [FakePeer; 2],
}

impl Scene {
    async fn start(only_meta: bool) -> Self {
        let grants = Grants::of(&["alpha"]).await;
        grants.deny(CALLER, "alpha", "purge").await;
        let alpha = FakePeer::start().await;
        let alpha =
            alpha.with_json("search", json!(1)).with_json("purge", json!(2)).with_json("look", json!(3));
        let beta = FakePeer::start().await.with_json("hidden_tool", json!("hidden"));
        let setup = grants.setup().server("alpha", &alpha.url()).server("beta", &beta.url());
        let setup = setup.set("meta_tools.enabled", only_meta).set("listen.max_wrapped_body_bytes", 2000);
        let gateway = setup.start().await;
        gateway.knows_tools("alpha", 3).await;
        gateway.knows_tools("beta", 1).await;
        Self { gateway, grants, _peers: [alpha, beta] }
    }

    async fn ask(&self, who: &str, page: &str, arguments: &Value) -> Answer {
        self.gateway.call(&format!("/meta/{page}"), &email_token(who), arguments).await
    }

    /// The names that a search finds.
    async fn found(&self, who: &str, query: &str) -> Vec<String> {
        let answer = self.ask(who, "search_tools", &json!({"query": query, "limit": 100})).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        let answer = answer.json();
        let tools = answer["tools"].as_array().unwrap();
        assert_eq!(answer["total"], tools.len());
        tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn a_search_finds_what_its_caller_may_use() {
    let scene = Scene::start(false).await;
    assert_eq!(scene.found(CALLER, "").await, ["alpha_look", "alpha_search"]);
    assert_eq!(scene.found(CALLER, "search").await, ["alpha_search"]);
    assert_eq!(scene.found(CALLER, "purge hidden beta").await, [""; 0]);
    assert_eq!(scene.found(STRANGER, "").await, [""; 0]);
    assert_eq!(
        scene.found(ADMIN, "").await,
        ["alpha_look", "alpha_purge", "alpha_search", "beta_hidden_tool"]
    );

    let answer = scene.ask(CALLER, "search_tools", &json!({"arguments": {"query": "look"}})).await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let mut line = answer.json()["tools"][0].clone();
    assert!(line.as_object_mut().unwrap().remove("score").unwrap().as_f64().unwrap() > 0.0);
    let look = json!({"name": "alpha_look", "server": "alpha", "tool": "look", "endpoint": "/alpha/look",
        "description": "The tool look of a fake peer."});
    assert_eq!(line, look);
}

#[tokio::test]
async fn a_grant_given_or_taken_back_shows_in_the_next_search() {
    let scene = Scene::start(false).await;
    scene.grants.add(CALLER, "beta").await;
    until("the new server's tool", || async {
        (scene.found(CALLER, "hidden").await == ["beta_hidden_tool"]).then_some(())
    })
    .await;
    scene.grants.take_back(CALLER, "alpha").await;
    until("the server gone", || async {
        (scene.found(CALLER, "").await == ["beta_hidden_tool"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn tools_are_described_with_their_schemas_and_counted() {
    let scene = Scene::start(false).await;
    let names = ["alpha_look", "alpha_purge", "beta_hidden_tool", "nowhere"];
    let described = scene.ask(CALLER, "describe_tools", &json!({"tools": names})).await.json();
    assert_eq!(described["unknown"], json!(names[1..]));
    let tools = described["tools"].as_array().unwrap();
    assert_eq!((tools.len(), &tools[0]["name"]), (1, &json!("alpha_look")));
    assert_eq!(tools[0]["input_schema"]["type"], "object");

    let stats = scene.gateway.get("/meta/stats", &email_token(CALLER)).await.json();
    let alpha = json!({"id": "alpha", "name": "alpha", "enabled": true, "tool_count": 2});
    assert_eq!(stats, json!({"total_servers": 1, "total_tools": 2, "servers": [alpha]}));
    let stats = scene.gateway.get("/meta/stats", &email_token(ADMIN)).await.json();
    assert_eq!((&stats["total_servers"], &stats["total_tools"]), (&json!(2), &json!(4)));
}

#[tokio::test]
async fn a_tool_of_others_is_refused_like_one_that_is_not_there() {
    let scene = Scene::start(false).await;
    for page in ["describe_tools", "call_tool"] {
        let mut refusals = Vec::new();
        for name in ["alpha_purge", "beta_hidden_tool", "alpha_nothing", "nowhere_nothing", "meta_call_tool"]
        {
            let answer = scene.ask(CALLER, page, &json!({"name": name})).await;
            assert_eq!(
                (answer.status.as_u16(), answer.code().as_str()),
                (404, "unknown_tool"),
                "{page} {name}"
            );
            refusals.push(answer.json()["detail"].clone());
        }
        assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:?}");
    }
}

#[tokio::test]
async fn bodies_are_read_whole_and_within_bounds() {
    let scene = Scene::start(false).await;
    let (path, token) = ("/meta/search_tools", &email_token(CALLER));
    let mut client = RawClient::connect(&scene.gateway.address()).await;
    let good = r#"{"query":"look"}"#;
    let large = json!({"query": "x".repeat(2000)}).to_string();
    let chunked = |pieces: &[&str]| {
        let mut request = head("POST", path, token, &["transfer-encoding: chunked"]).into_bytes();
        for piece in pieces {
            request.extend_from_slice(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes());
        }
        request.extend_from_slice(b"0\r\n\r\n");
        request
    };
    for (request, status) in [
        (post(path, token, good), 200),
        (chunked(&[&good[..3], &good[3..4], &good[4..]]), 200),
        (post(path, token, "not json"), 400),
        (post(path, token, "{\"query\":"), 400),
        (post(path, token, ""), 422),
        (post(path, token, &large), 413),
        (chunked(&[&large[..1000], &large[1000..]]), 413),
        (post(path, token, b"\"\xff\""), 415),
        (post_with(path, token, &["content-encoding: gzip"], good), 415),
        (post(path, "", good), 401),
    ] {
        let answer = client.exchange(&request).await;
        assert_eq!(answer.status, status, "{}: {}", String::from_utf8_lossy(&request), answer.text());
        let next = client.exchange(post(path, token, good)).await;
        assert_eq!(next.status, 200, "after {}", String::from_utf8_lossy(&request));
    }
}

#[tokio::test]
async fn in_meta_mode_the_document_has_the_meta_tools_alone() {
    let scene = Scene::start(true).await;
    for who in [CALLER, STRANGER, ADMIN] {
        let document = scene.gateway.get("/openapi.json", &email_token(who)).await.json();
        let paths: Vec<_> = document["paths"].as_object().unwrap().keys().collect();
        assert_eq!(paths, ["/meta/call_tool", "/meta/describe_tools", "/meta/search_tools"]);
        assert_eq!(document["paths"]["/meta/call_tool"]["post"]["operationId"], "meta_call_tool");
    }
    let document = scene.gateway.request(Method::GET, "/openapi.json").bearer_auth(email_token(CALLER));
    let packed = scene.gateway.send(document.header("accept-encoding", "br")).await;
    assert_eq!(packed.header("content-encoding"), Some("br"));
    let again = scene.gateway.request(Method::GET, "/openapi.json").bearer_auth(email_token(CALLER));
    let again = again.header("accept-encoding", "br").header("if-none-match", packed.header("etag").unwrap());
    assert_eq!(scene.gateway.send(again).await.status.as_u16(), 304);

    // What may be called is as before.
    let one = scene.gateway.get("/alpha/openapi.json", &email_token(CALLER)).await.json();
    assert_eq!(one["paths"].as_object().unwrap().len(), 2);
    assert_eq!(scene.ask(STRANGER, "search_tools", &json!({"query": ""})).await.json()["total"], 0);
    let called = scene.gateway.call("/alpha/look", &email_token(CALLER), &json!({})).await;
    assert_eq!((called.status.as_u16(), called.json()), (200, json!(3)));
}
