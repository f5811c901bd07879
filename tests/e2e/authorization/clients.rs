//! Stock clients, which know nothing but the URL of an MCP server, sign their user in and call.

use serde_json::{Value, json};
use tokio::process::Command;

use super::{OID, SCOPE, Scene};
use crate::harness::{
    entra::{CLIENT, HOME, Page, User},
    grants::CALLER,
    mcp::{Run, nodejs, python, run, said, script},
    postgres::given,
};

fn of_python(generation: &str, name: &str) -> Command {
    let mut command = python(generation);
    command.arg(script(&format!("clients/{name}")));
    command
}

fn of_typescript(name: &str) -> Command {
    let mut command = nodejs();
    command.arg(script(&format!("clients/{name}")));
    command
}

/// The client, started as `COMMAND URL`, signs in and calls; what it says is this.
async fn check(mut command: Command, expected: Value) {
    let scene = Scene::start().await;
    command.arg(scene.url());
    let mut said = said(command).await;
    if let Some(scope) = said.as_object_mut().unwrap().remove("scope") {
        assert!(scope.as_str().unwrap().split(' ').any(|scope| scope == SCOPE), "{scope}");
    }
    assert_eq!(said, expected);
    let calls = ["echo", "renewed"].into_iter().filter(|call| said.get(call).is_some()).count();
    assert_eq!(scene.fixture.count("byMethod/tools~1call").await, calls as u64);
    check_what_entra_id_saw(&scene);
}

/// Entra ID was asked for nothing that it refuses, and the gateway has written nothing that passed through it.
fn check_what_entra_id_saw(scene: &Scene) {
    let mut secrets = Vec::new();
    for asked in scene.idp.asked() {
        let said = if asked.page == Page::Authorize { asked.query() } else { asked.form() };
        assert!(!said.iter().any(|(name, _)| name == "resource"), "{asked:?}");
        for header in ["origin", "cookie", "authorization", "mcp-protocol-version"] {
            assert_eq!(asked.header(header).filter(|_| asked.page == Page::Token), None, "{asked:?}");
        }
        let is_secret = |name: &str| {
            matches!(name, "code" | "code_verifier" | "refresh_token" | "state" | "code_challenge")
        };
        secrets.extend(said.into_iter().filter(|(name, _)| is_secret(name)).map(|(_, value)| value));
    }
    assert!(secrets.len() > 3, "{secrets:?}");
    scene.gateway.wrote_none_of(&secrets.iter().map(String::as_str).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_python_sdk_v1_signs_in_and_calls() {
    check(of_python("V1", "login_python_v1.py"), json!({"echo": "hi", "renewed": "again"})).await;
}

#[tokio::test]
async fn the_python_sdk_v2_signs_in_and_calls() {
    check(of_python("V2", "login_python_v2.py"), json!({"echo": "hi", "renewed": "again"})).await;
}

#[tokio::test]
async fn fastmcp_signs_in_and_calls() {
    check(of_python("V2", "login_fastmcp_v4.py"), json!({"echo": "hi"})).await;
}

#[tokio::test]
async fn the_typescript_sdk_v1_signs_in_and_calls() {
    // It asks for no refresh token, so its user is sent to sign in again.
    let expected = json!({"echo": "hi", "renewed": "again", "asked_again": true});
    check(of_typescript("login_typescript_v1.mjs"), expected).await;
}

#[tokio::test]
async fn the_typescript_sdk_v2_signs_in_and_calls() {
    let expected = json!({"echo": "hi", "renewed": "again", "asked_again": false});
    check(of_typescript("login_typescript_v2.mjs"), expected).await;
}

/// The challenge of a 403 is enough for a client to come back with a better token.
#[tokio::test]
async fn a_client_whose_token_lacks_the_scope_goes_and_asks_for_it() {
    let scene = Scene::start().await;
    let token = scene.idp.token(&User::new(CALLER, OID)).claim("scp", "Tools.Look").sign();
    let mut command = of_python("V2", "login_python_v2.py");
    command.arg(scene.url()).arg(&token);
    assert_eq!(said(command).await["echo"], "hi");
    scene.gateway.stdout.find("the refusal", |line| line.contains("insufficient_scope")).await;
    scene.gateway.wrote_none_of(&[&token]);
}

/// Without the facade clients are led to Entra ID itself; what they say then is why there is a facade.
async fn check_without_the_facade(mut command: Command, complaint: &str) {
    let scene = Scene::with(|setup, idp| {
        let (url, issuer) = (setup.url(), format!("{}/{HOME}/v2.0", idp.url()));
        let setup = setup.set("listen.public_url", url).set("auth.oauth.scopes", vec![SCOPE]);
        setup.set("auth.oauth.authorization_servers", vec![issuer])
    });
    let scene = scene.await;
    command.arg(scene.url());
    let Run { code, stdout, stderr } = run(command).await;
    assert_ne!(code, Some(0), "{stdout}");
    assert!(stderr.contains(complaint), "{stderr}");
    assert_eq!(scene.fixture.count("byMethod/tools~1call").await, 0);
}

#[tokio::test]
async fn without_the_facade_python_is_registered_nowhere() {
    check_without_the_facade(of_python("V1", "login_python_v1.py"), "Registration failed").await;
    check_without_the_facade(of_python("V2", "login_python_v2.py"), "Registration failed").await;
}

#[tokio::test]
async fn without_the_facade_typescript_misses_s256_or_its_registration() {
    let complaint = "does not support dynamic client registration";
    check_without_the_facade(of_typescript("login_typescript_v1.mjs"), complaint).await;
    check_without_the_facade(of_typescript("login_typescript_v2.mjs"), complaint).await;
}

/// A client that knows Entra ID by itself needs no facade: its token is believed all the same.
#[tokio::test]
async fn a_token_that_msal_got_is_believed() {
    let scene = Scene::start().await;
    let mut command = Command::new(format!("{}/bin/python", given("PORTCULLIS_TEST_MSAL")));
    command.arg(script("clients/login_msal.py")).args([&scene.idp.url(), HOME, CLIENT, SCOPE]);
    let token = said(command).await["access_token"].as_str().unwrap().to_owned();
    let answer = scene.gateway.get("/servers", &token).await;
    assert_eq!(answer.json()["servers"][0]["id"], "native", "{}", answer.text());
    scene.gateway.wrote_none_of(&[&token]);
}
