//! Real clients on `/mcp`, in front of a server of either era: they do there all that they do at a server.

use rmcp::{ClientLifecycleMode, model::ProtocolVersion};
use tokio::process::Command;

use super::{
    clients::{all_went_well, check_nothing_of_the_caller, python_v2, typescript_v2},
    rust_sdk::do_all,
};
use crate::harness::mcp::{
    FIXTURE_TOOLS, Fixture, LEGACY, MODERN, Scene, environment, nodejs, npm, python, said, script,
};

/// What the one server may speak.
const SERVERS: [&[&str]; 4] =
    [&[], &["--era", "legacy"], &["--era", "modern"], &["--era", "modern", "--answers", "sse"]];

async fn scene(options: &[&str]) -> (Fixture, Scene, String) {
    let fixture = Fixture::with(options).await;
    let scene = Scene::in_front_of(&fixture.url("/mcp")).await;
    scene.gateway.await_tools("native", FIXTURE_TOOLS).await;
    let url = scene.gateway.url("/mcp");
    (fixture, scene, url)
}

/// The client does every step at `/mcp`, whatever the server speaks; the server saw the gateway alone.
async fn check(command: impl Fn() -> Command, mode: &str) {
    for options in SERVERS {
        let (fixture, scene, url) = scene(options).await;
        let before = fixture.count("gateway/cancelled").await;
        let mut client = command();
        client.arg(url).arg(&scene.token).arg(mode).env("TOOL_PREFIX", "native_");
        let mut said = said(client).await;
        if let Some(version) = said.as_object_mut().unwrap().remove("version") {
            let is_legacy = matches!(mode, "legacy" | "http");
            assert_eq!(version, if is_legacy { LEGACY } else { MODERN }, "{mode} {options:?}");
        }
        assert_eq!(said, all_went_well(), "{mode} {options:?}");
        fixture.await_count("gateway/cancelled", before + 1).await;
        assert_eq!(fixture.count("requests").await, 0, "something was passed on as it was");
        scene.gateway.await_metric("portcullis_open_streams", &[], 0).await;
        check_nothing_of_the_caller(&fixture, &scene).await;
    }
}

fn fastmcp() -> Command {
    let mut command = python("V2");
    command.arg(script("clients/fastmcp_v4.py"));
    command
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

#[tokio::test]
async fn the_python_sdk_v2_does_all_it_does_at_the_aggregate() {
    for mode in ["auto", "legacy"] {
        check(python_v2, mode).await;
    }
}

#[tokio::test]
async fn fastmcp_does_all_it_does_at_the_aggregate() {
    for mode in ["auto", "legacy"] {
        check(fastmcp, mode).await;
    }
}

#[tokio::test]
async fn the_typescript_sdk_v2_does_all_it_does_at_the_aggregate() {
    for mode in ["auto", "legacy"] {
        check(typescript_v2, mode).await;
    }
}

#[tokio::test]
async fn the_first_sdks_do_all_they_do_at_the_aggregate() {
    check(python_v1, "http").await;
    check(typescript_v1, "http").await;
}

#[tokio::test]
async fn rmcp_does_all_it_does_at_the_aggregate() {
    for options in SERVERS {
        for is_legacy in [true, false] {
            let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
            let begin = match is_legacy {
                true => ClientLifecycleMode::Initialize,
                false => ClientLifecycleMode::Auto { preferred_versions, legacy_version: None },
            };
            let (fixture, scene, url) = scene(options).await;
            do_all(begin, &url, &scene.token, "native_").await;
            check_nothing_of_the_caller(&fixture, &scene).await;
        }
    }
}

#[tokio::test]
async fn the_inspector_and_mcp_proxy_find_the_aggregate_a_server_like_any_other() {
    let (_fixture, scene, url) = scene(&["--era", "modern"]).await;
    let header = format!("Authorization: Bearer {}", scene.token);
    for era in ["legacy", "auto"] {
        let mut command = nodejs();
        command.arg(npm("@modelcontextprotocol/inspector/clients/launcher/build/index.js"));
        command.args(["--cli", &url, "--transport", "http", "--header", &header, "--protocol-era", era]);
        command.args(["--method", "tools/call", "--tool-name", "native_echo", "--tool-arg", "message=hi"]);
        let called = said({
            command.args(["--format", "json", "-q"]);
            command
        })
        .await;
        assert_eq!(called["result"]["content"][0]["text"], "hi", "{era}");
    }
    let mut command = python("V1");
    command.arg(script("clients/stdio.py")).arg(environment("V1").join("bin/mcp-proxy"));
    command.args(["--log-level", "ERROR", "-H", "Authorization", &format!("Bearer {}", scene.token)]);
    command.args(["--transport", "streamablehttp", &url]).env("TOOL_PREFIX", "native_");
    let said = said(command).await;
    assert_eq!((&said["tools"], &said["echo"]), (&FIXTURE_TOOLS.into(), &"hi".into()));
}

/// Options of the server, the client, and its mode.
type Bridged<'a> = (&'a [&'a str], fn() -> Command, &'a str);

/// Real clients of each era at `/{server}/mcp`, in front of a server that speaks the other one only.
#[tokio::test]
async fn real_clients_do_all_they_do_at_a_server_of_the_other_era() {
    let bridged: [Bridged<'_>; 5] = [
        (&["--era", "legacy"], python_v2, MODERN),
        (&["--era", "legacy"], typescript_v2, MODERN),
        (&["--era", "modern"], python_v2, "legacy"),
        (&["--era", "modern"], python_v1, "http"),
        (&["--era", "modern"], typescript_v1, "http"),
    ];
    for (options, command, mode) in bridged {
        let (fixture, scene, _) = scene(options).await;
        let mut client = command();
        client.arg(scene.url()).arg(&scene.token).arg(mode);
        let mut said = said(client).await;
        said.as_object_mut().unwrap().remove("version");
        assert_eq!(said, all_went_well(), "{mode} {options:?}");
        check_nothing_of_the_caller(&fixture, &scene).await;
    }
}
