//! What a client is told that lacks a token, or has one that lacks a scope.

use reqwest::Method;
use serde_json::{Value, json};

use super::{OID, SCOPE, Scene};
use crate::harness::{
    entra::User,
    gateway::Answer,
    grants::{CALLER, STRANGER},
};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":7,"method":"initialize","params":{"protocolVersion":"2025-11-25",
    "capabilities":{},"clientInfo":{"name":"a","version":"1"}}}"#;

impl Scene {
    async fn initialize(&self, path: &str, token: Option<&str>) -> Answer {
        let request = self.gateway.request(Method::POST, path).header("content-type", "application/json");
        let request = request.header("accept", "application/json, text/event-stream").body(INITIALIZE);
        self.gateway.send(token.into_iter().fold(request, |request, token| request.bearer_auth(token))).await
    }
}

#[track_caller]
fn check(answer: &Answer, status: u16, code: &str, challenge: Option<&str>) {
    let body = answer.json();
    let found = body["error"]["data"]["code"].as_str().or(body["code"].as_str());
    assert_eq!((answer.status.as_u16(), found), (status, Some(code)), "{body}");
    assert_eq!(answer.header("www-authenticate"), challenge);
}

#[tokio::test]
async fn who_has_no_token_is_led_to_the_gateway_as_the_one_who_gives_them() {
    let scene = Scene::start().await;
    let issuer = scene.gateway.url("");
    for path in ["/native/mcp", "/mcp"] {
        let metadata = format!("/.well-known/oauth-protected-resource{path}");
        let expected =
            format!(r#"Bearer realm="portcullis", resource_metadata="{issuer}{metadata}", scope="{SCOPE}""#);
        check(&scene.initialize(path, None).await, 401, "no_credential", Some(&expected));
        let expected = json!({"resource": format!("{issuer}{path}"), "authorization_servers": [issuer],
            "bearer_methods_supported": ["header"], "scopes_supported": [SCOPE], "resource_name": "Portcullis"});
        assert_eq!(scene.document(&metadata).await, expected);
        let server: Value = scene.document("/.well-known/oauth-authorization-server").await;
        assert_eq!(server["issuer"], issuer);
    }
}

#[tokio::test]
async fn who_has_a_token_without_the_scope_is_told_which_one_to_ask_for() {
    let scene = Scene::start().await;
    let token = scene.idp.token(&User::new(CALLER, OID)).claim("scp", "Tools.Look").sign();
    let metadata = scene.gateway.url("/.well-known/oauth-protected-resource/native/mcp");
    let challenge = format!(
        r#"Bearer realm="portcullis", error="insufficient_scope", resource_metadata="{metadata}", scope="{SCOPE}""#
    );
    let answer = scene.initialize("/native/mcp", Some(&token)).await;
    check(&answer, 403, "insufficient_scope", Some(&challenge));
    let answer = scene.gateway.get("/servers", &token).await;
    let bare = r#"Bearer realm="portcullis", error="insufficient_scope""#;
    check(&answer, 403, "insufficient_scope", Some(bare));
    assert_eq!(
        scene
            .fixture
            .log()
            .await
            .iter()
            .filter(|asked| asked["method"] == "POST" && asked["gateway"] == false)
            .count(),
        0
    );
}

/// No scope cures a missing grant, so nobody is sent to ask for one.
#[tokio::test]
async fn who_lacks_a_grant_is_not_sent_to_sign_in() {
    let scene = Scene::start().await;
    let token = scene.idp.token(&User::new(STRANGER, "0b0b0b0b-1111-4222-8333-444444444444")).sign();
    check(&scene.initialize("/native/mcp", Some(&token)).await, 403, "not_granted", None);
}
