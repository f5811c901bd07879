//! Real clients of a caller, or a server, that may not do all there is: they see less, and go on without a stumble.

use serde_json::json;
use tokio::process::Command;

use super::clients::{all_went_well, check_nothing_of_the_caller, python_v2, typescript_v2};
use crate::harness::{
    grants::CALLER,
    mcp::{Fixture, LEGACY, MODERN, Scene, said},
};

async fn visit(scene: &Scene, mut client: Command, mode: &str) -> serde_json::Value {
    client.arg(scene.url()).arg(&scene.token).arg(mode);
    said(client).await
}

/// The client sees the ten tools that are not called `test_…`, and does with them what it always does.
async fn check_narrowed(client: Command, mode: &str, options: &[&str]) {
    let fixture = Fixture::with(options).await;
    let scene = Scene::in_front_of(&fixture.url("/mcp")).await;
    scene.grants.deny(CALLER, "native", "test_*").await;
    scene.gateway.await_grants(3).await;
    let mut expected = all_went_well();
    expected["tools"] = json!(10);
    expected["version"] = json!(if mode == "legacy" { LEGACY } else { MODERN });
    assert_eq!(visit(&scene, client, mode).await, expected, "{mode} {options:?}");
}

#[tokio::test]
async fn real_clients_see_the_tools_that_their_rules_leave() {
    check_narrowed(python_v2(), "auto", &[]).await;
    check_narrowed(typescript_v2(), "legacy", &[]).await;
}

#[tokio::test]
async fn real_clients_see_the_tools_that_their_rules_leave_in_streams_too() {
    check_narrowed(python_v2(), "legacy", &["--answers", "sse"]).await;
    check_narrowed(typescript_v2(), "auto", &["--answers", "sse"]).await;
}

#[tokio::test]
async fn real_clients_stay_new_where_a_server_is_declared_to_have_sessions_only() {
    for client in [python_v2(), typescript_v2()] {
        let fixture = Fixture::start().await;
        let scene = Scene::with(toml::toml! { mcp_versions = ["2025-11-25"] }, &fixture.url("/mcp")).await;
        let mut expected = all_went_well();
        expected["version"] = json!(MODERN);
        assert_eq!(visit(&scene, client, "auto").await, expected);
        for asked in ["byMethod/server~1discover", "gateway/byMethod/server~1discover"] {
            assert_eq!(fixture.count(asked).await, 0, "the server was asked");
        }
        fixture.await_count("gateway/cancelled", 1).await;
        check_nothing_of_the_caller(&fixture, &scene).await;
    }
}
