//! Real servers other than the fixture, each called through the gateway by real clients.

use serde_json::{Value, json};
use tokio::process::Command;

use super::clients::{python_v2, typescript_v2};
use crate::harness::{
    mcp::{LEGACY, MODERN, Scene, Server, environment, nodejs, npm, python, said, script},
    port::Port,
};

/// A client of `tests/mcp/clients` that does these steps only: `COMMAND URL TOKEN MODE STEPS`.
async fn visit(scene: &Scene, mut client: Command, mode: &str, steps: &str) -> Value {
    client.arg(scene.url()).arg(&scene.token).args([mode, steps]);
    said(client).await
}

fn python_v1() -> Command {
    let mut command = python("V1");
    command.arg(script("clients/python_v1.py"));
    command
}

fn typescript_v1() -> Command {
    let mut command = nodejs();
    command.arg(script("clients/typescript_v1.mjs"));
    command
}

/// server-everything, the reference server of the TypeScript SDK v1.
fn everything(transport: &'static str) -> impl FnOnce(&Port) -> Command {
    move |port| {
        let mut command = nodejs();
        command.arg(npm("@modelcontextprotocol/server-everything/dist/index.js")).arg(transport);
        command.env("PORT", port.number().to_string());
        command
    }
}

/// A server of `tests/mcp/servers`.
fn sdk_server(
    generation: &'static str,
    name: &'static str,
    options: &'static [&str],
) -> impl FnOnce(&Port) -> Command {
    move |port| {
        let mut command = python(generation);
        command.arg(script(name)).arg(port.number().to_string()).args(options);
        command
    }
}

#[tokio::test]
async fn the_reference_server_answers_real_clients() {
    let server = Server::start(everything("streamableHttp")).await;
    let scene = Scene::in_front_of(&server.url("/mcp")).await;
    scene.gateway.await_tools("native", 13).await;
    // To the newer client the server is as new as itself: the gateway translates.
    for (client, mode, version) in [(python_v2(), "auto", MODERN), (typescript_v1(), "http", LEGACY)] {
        let said = visit(&scene, client, mode, "list,echo").await;
        assert_eq!(
            (&said["version"], &said["echo"]),
            (&json!(version), &json!("Echo: hi")),
            "{mode}: {said}"
        );
        assert!(said["tools"].as_u64().unwrap() > 5, "{said}");
    }
}

#[tokio::test]
async fn a_server_on_the_python_sdk_v1_answers_a_real_client() {
    let server = Server::start(sdk_server("V1", "servers/python_v1.py", &[])).await;
    let scene = Scene::in_front_of(&server.url("/mcp")).await;
    scene.gateway.await_tools("native", 2).await;
    for (mode, version) in [("auto", MODERN), ("legacy", LEGACY)] {
        let said = visit(&scene, python_v2(), mode, "list,echo,progress").await;
        assert_eq!(said, json!({"version": version, "tools": 2, "echo": "hi", "progress": [0, 100, 200]}));
    }
}

#[tokio::test]
async fn a_server_on_the_python_sdk_v1_without_sessions_or_streams_answers_a_real_client() {
    let options = &["--stateless", "--json"];
    let server = Server::start(sdk_server("V1", "servers/python_v1.py", options)).await;
    let scene = Scene::in_front_of(&server.url("/mcp")).await;
    let said = visit(&scene, typescript_v1(), "http", "list,echo").await;
    assert_eq!(said, json!({"version": LEGACY, "tools": 2, "echo": "hi"}));
}

#[tokio::test]
async fn a_server_on_the_python_sdk_v2_answers_real_clients_of_both_eras() {
    let server = Server::start(sdk_server("V2", "servers/python_v2.py", &[])).await;
    let scene = Scene::in_front_of(&server.url("/mcp")).await;
    for (client, mode, version) in [(typescript_v2(), "auto", MODERN), (python_v1(), "http", LEGACY)] {
        let said = visit(&scene, client, mode, "list,echo,progress").await;
        let expected = json!({"version": version, "tools": 2, "echo": "hi", "progress": [0, 100, 200]});
        assert_eq!(said, expected, "{mode}");
    }
}

#[tokio::test]
async fn a_stdio_server_behind_mcp_proxy_answers_real_clients() {
    let server = Server::start(|port| {
        let mut command = Command::new(environment("V1").join("bin/mcp-proxy"));
        command.args(["--host", "127.0.0.1", "--port", &port.number().to_string(), "--"]);
        command.arg(std::env::var("PORTCULLIS_TEST_NODEJS").unwrap());
        command.arg(npm("@modelcontextprotocol/server-everything/dist/index.js")).arg("stdio");
        command
    })
    .await;
    let scene = Scene::in_front_of(&server.url("/mcp")).await;
    let said = visit(&scene, python_v2(), "auto", "list,echo").await;
    assert_eq!(said["echo"], "Echo: hi", "{said}");
    let scene = Scene::speaking("mcp-sse", &server.url("/sse")).await;
    let said = visit(&scene, python_v1(), "sse", "list,echo").await;
    assert_eq!(said["echo"], "Echo: hi", "{said}");
}
