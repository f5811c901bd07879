//! Real clients do through the gateway all that they do: list, call, take progress, are asked, cancel, leave.

use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::mcp::{
    FIXTURE_TOOLS, Fixture, LEGACY, MODERN, Scene, environment, nodejs, npm, python, said, script,
};

/// What every client of `tests/mcp/clients` says when all went well.
pub fn all_went_well() -> Value {
    json!({"tools": FIXTURE_TOOLS, "echo": "hi", "progress": [0, 100, 200], "ask": "Hello, Ada!",
        "cancelled": true, "after": "again"})
}

/// The revision the client should end up with, and whether it is one with sessions.
fn revision(mode: &str) -> (&'static str, bool) {
    if matches!(mode, "legacy" | "http") { (LEGACY, true) } else { (MODERN, false) }
}

/// The client, started as `COMMAND URL TOKEN MODE`, does every step; the server saw them, and nothing of the caller.
async fn check(command: impl Fn() -> Command, mode: &str) {
    let fixture = Fixture::start().await;
    let scene = Scene::in_front_of(&fixture.url("/mcp")).await;
    let mut client = command();
    client.arg(scene.url()).arg(&scene.token).arg(mode);
    let mut said = said(client).await;
    let (version, has_session) = revision(mode);
    if let Some(said) = said.as_object_mut().unwrap().remove("version") {
        assert_eq!(said, version, "{mode}");
    }
    assert_eq!(said, all_went_well(), "{mode}");
    check_upstream(&fixture, &scene, has_session).await;
}

/// One call was cancelled in the way of the era, every session has ended, and nothing of the caller arrived.
pub async fn check_upstream(fixture: &Fixture, scene: &Scene, has_session: bool) {
    fixture.await_count("cancelled", 1).await;
    fixture.await_count("streamsOpen", 0).await;
    fixture.await_count("sessions", 0).await;
    let sessions = u64::from(has_session);
    assert_eq!(fixture.count("sessionsOpened").await, sessions);
    assert_eq!(fixture.count("byMethod/notifications~1cancelled").await, sessions);
    check_nothing_of_the_caller(fixture, scene).await;
}

/// The server has seen no credential and no claim of who is calling.
pub async fn check_nothing_of_the_caller(fixture: &Fixture, scene: &Scene) {
    for entry in fixture.log().await {
        for (name, value) in entry["headers"].as_object().unwrap() {
            let is_claim = matches!(name.as_str(), "authorization" | "cookie") || name.starts_with("x-user");
            assert!(!is_claim && !value.to_string().contains(&scene.token), "{name} arrived: {entry}");
        }
    }
}

pub fn python_v2() -> Command {
    let mut command = python("V2");
    command.arg(script("clients/python_v2.py"));
    command
}

#[tokio::test]
async fn the_python_sdk_v2_finds_the_newest_revision_by_itself() {
    check(python_v2, "auto").await;
}

#[tokio::test]
async fn the_python_sdk_v2_pinned_to_the_newest_revision_does_all_it_does() {
    check(python_v2, MODERN).await;
}

#[tokio::test]
async fn the_python_sdk_v2_does_all_it_does_in_a_session() {
    check(python_v2, "legacy").await;
}

fn fastmcp() -> Command {
    let mut command = python("V2");
    command.arg(script("clients/fastmcp_v4.py"));
    command
}

#[tokio::test]
async fn fastmcp_finds_the_newest_revision_by_itself() {
    check(fastmcp, "auto").await;
}

#[tokio::test]
async fn fastmcp_pinned_to_the_newest_revision_does_all_it_does() {
    check(fastmcp, MODERN).await;
}

#[tokio::test]
async fn fastmcp_does_all_it_does_in_a_session() {
    check(fastmcp, "legacy").await;
}

pub fn typescript_v2() -> Command {
    let mut command = nodejs();
    command.arg(script("clients/typescript_v2.mjs"));
    command
}

#[tokio::test]
async fn the_typescript_sdk_v2_finds_the_newest_revision_by_itself() {
    check(typescript_v2, "auto").await;
}

#[tokio::test]
async fn the_typescript_sdk_v2_pinned_to_the_newest_revision_does_all_it_does() {
    check(typescript_v2, MODERN).await;
}

#[tokio::test]
async fn the_typescript_sdk_v2_does_all_it_does_in_a_session() {
    check(typescript_v2, "legacy").await;
}

#[tokio::test]
async fn the_python_sdk_v1_does_all_it_does() {
    let python_v1 = || {
        let mut command = python("V1");
        command.arg(script("clients/python_v1.py"));
        command
    };
    check(python_v1, "http").await;
}

#[tokio::test]
async fn the_typescript_sdk_v1_does_all_it_does() {
    let typescript_v1 = || {
        let mut command = nodejs();
        command.arg(script("clients/typescript_v1.mjs"));
        command
    };
    check(typescript_v1, "http").await;
}

async fn check_inspector(mode: &str) {
    let fixture = Fixture::start().await;
    let scene = Scene::in_front_of(&fixture.url("/mcp")).await;
    let header = format!("Authorization: Bearer {}", scene.token);
    let url = scene.url();
    let inspect = |method: &[&str]| {
        let mut command = nodejs();
        command.arg(npm("@modelcontextprotocol/inspector/clients/launcher/build/index.js"));
        command.args(["--cli", &url, "--transport", "http", "--header", &header, "--protocol-era", mode]);
        command.args(method).args(["--format", "json", "-q"]);
        said(command)
    };
    let tools = inspect(&["--method", "tools/list"]).await;
    assert_eq!(tools["result"]["tools"].as_array().unwrap().len(), FIXTURE_TOOLS);
    let called =
        inspect(&["--method", "tools/call", "--tool-name", "echo", "--tool-arg", "message=hi"]).await;
    assert_eq!(called["result"]["content"][0]["text"], "hi");
    check_nothing_of_the_caller(&fixture, &scene).await;
}

#[tokio::test]
async fn the_inspector_lists_and_calls_in_a_session() {
    check_inspector("legacy").await;
}

#[tokio::test]
async fn the_inspector_lists_and_calls_in_the_newest_revision() {
    check_inspector("auto").await;
}

#[tokio::test]
async fn mcp_proxy_brings_the_tools_to_a_stdio_client() {
    let fixture = Fixture::start().await;
    let scene = Scene::in_front_of(&fixture.url("/mcp")).await;
    let mut command = python("V1");
    command.arg(script("clients/stdio.py")).arg(environment("V1").join("bin/mcp-proxy"));
    command.args(["--log-level", "ERROR", "-H", "Authorization", &format!("Bearer {}", scene.token)]);
    command.args(["--transport", "streamablehttp", &scene.url()]);
    let said = said(command).await;
    assert_eq!(said, json!({"version": LEGACY, "tools": FIXTURE_TOOLS, "echo": "hi"}));
    fixture.await_count("sessions", 0).await;
    check_nothing_of_the_caller(&fixture, &scene).await;
}
