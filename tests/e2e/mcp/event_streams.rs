//! HTTP+SSE, the transport of 2024-11-05: clients GET the server's MCP path and are told where to send messages.

use serde_json::{Value, json};
use tokio::process::Command;

use super::clients::check_upstream;
use crate::harness::mcp::{FIXTURE_TOOLS, Fixture, Scene, Server, nodejs, npm, python, said, script};

async fn visit(scene: &Scene, mut client: Command, steps: &str) -> Value {
    client.arg(scene.url()).arg(&scene.token).args(["sse", steps]);
    let mut said = said(client).await;
    said.as_object_mut().unwrap().remove("version");
    said
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

async fn check_all_steps(client: Command) {
    let fixture = Fixture::start().await;
    let scene = Scene::speaking("mcp-sse", &fixture.url("/sse")).await;
    let said = visit(&scene, client, "list,echo,progress,ask,cancel").await;
    let expected = json!({"tools": FIXTURE_TOOLS, "echo": "hi", "progress": [0, 100, 200],
        "ask": "Hello, Ada!", "cancelled": true, "after": "again"});
    assert_eq!(said, expected);
    check_upstream(&fixture, &scene, true).await;
}

#[tokio::test]
async fn the_python_sdk_v1_does_all_it_does_over_an_event_stream() {
    check_all_steps(python_v1()).await;
}

#[tokio::test]
async fn the_typescript_sdk_v1_does_all_it_does_over_an_event_stream() {
    check_all_steps(typescript_v1()).await;
}

#[tokio::test]
async fn the_reference_server_answers_over_an_event_stream() {
    let server = Server::start(|port| {
        let mut command = nodejs();
        command.arg(npm("@modelcontextprotocol/server-everything/dist/index.js")).arg("sse");
        command.env("PORT", port.number().to_string());
        command
    })
    .await;
    let scene = Scene::speaking("mcp-sse", &server.url("/sse")).await;
    for client in [python_v1(), typescript_v1()] {
        let said = visit(&scene, client, "list,echo").await;
        assert_eq!(said["echo"], "Echo: hi", "{said}");
    }
}
