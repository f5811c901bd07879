//! rmcp, the Rust SDK, as a client: in each of its three ways to begin.

use rmcp::{
    ClientHandler, ClientLifecycleMode, ClientServiceExt, ErrorData, RoleClient,
    model::{
        CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig, ElicitRequestParams,
        ElicitResult, ElicitationAction, Implementation, ProgressNotificationParam, ProtocolVersion,
    },
    service::{NotificationContext, RequestContext, RunningService},
    transport::{StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::clients::check_upstream;
use crate::harness::{
    deadline::within,
    mcp::{FIXTURE_TOOLS, Fixture, Scene},
};

/// Answers what it is asked, and passes on the progress it is told of.
struct Person {
    progress: mpsc::UnboundedSender<u64>,
}

impl ClientHandler for Person {
    fn get_info(&self) -> ClientConfig {
        let can: ClientCapabilities = serde_json::from_value(json!({"elicitation": {"form": {}}})).unwrap();
        ClientConfig::new(can, Implementation::from_build_env())
    }

    async fn create_elicitation(
        &self,
        _question: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(json!({"name": "Ada"})))
    }

    async fn on_progress(
        &self,
        progress: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        let _ = self.progress.send(progress.progress as u64);
    }
}

type Client = RunningService<RoleClient, Person>;

/// Calls a tool to its end.
async fn call(client: &Client, tool: &str, arguments: Value) -> CallToolResult {
    within(tool, client.call_tool(parameters(tool, arguments))).await.unwrap()
}

fn parameters(tool: &str, arguments: Value) -> CallToolRequestParams {
    CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments.as_object().unwrap().clone())
}

fn text(result: &CallToolResult) -> Value {
    serde_json::to_value(result).unwrap()["content"][0]["text"].take()
}

async fn check(begin: ClientLifecycleMode, has_session: bool) {
    let fixture = Fixture::start().await;
    let scene = Scene::in_front_of(&fixture.url("/mcp")).await;
    do_all(begin, &scene.url(), &scene.token, "").await;
    check_upstream(&fixture, &scene, has_session).await;
}

/// Does all there is to do with the fixture's tools, whose names begin with `prefix` here.
pub async fn do_all(begin: ClientLifecycleMode, url: &str, token: &str, prefix: &str) {
    let (progress, mut told) = mpsc::unbounded_channel();
    let config = StreamableHttpClientTransportConfig::with_uri(url).auth_header(token);
    let transport = StreamableHttpClientTransport::with_client(http_client(), config);
    let client =
        within("connecting", Person { progress }.serve_with_lifecycle(transport, begin)).await.unwrap();

    let named = |tool: &str| format!("{prefix}{tool}");
    assert_eq!(within("the list", client.list_all_tools()).await.unwrap().len(), FIXTURE_TOOLS);
    assert_eq!(text(&call(&client, &named("echo"), json!({"message": "hi"})).await), "hi");
    call(&client, &named("slow"), json!({"ms": 300, "step": 100})).await;
    for expected in [0, 100, 200] {
        assert_eq!(within("progress", told.recv()).await, Some(expected));
    }
    assert_eq!(text(&call(&client, &named("ask"), json!({})).await), "Hello, Ada!");
    tokio::select! {
        ended = client.call_tool(parameters(&named("slow"), json!({"ms": 60_000, "step": 50}))) => panic!("{ended:?}"),
        _ = within("progress", told.recv()) => {}
    }
    assert_eq!(text(&call(&client, &named("echo"), json!({"message": "again"})).await), "again");
    within("leaving", client.cancel()).await.unwrap();
}

/// The client that the harness uses elsewhere: rmcp's own would look for a proxy in the environment.
fn http_client() -> reqwest::Client {
    crate::harness::gateway::client()
}

#[tokio::test]
async fn rmcp_does_all_it_does_in_a_session() {
    check(ClientLifecycleMode::Initialize, true).await;
}

#[tokio::test]
async fn rmcp_does_all_it_does_in_the_newest_revision() {
    check(ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] }, false)
        .await;
}

#[tokio::test]
async fn rmcp_finds_the_newest_revision_by_itself() {
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    check(ClientLifecycleMode::Auto { preferred_versions, legacy_version: None }, false).await;
}
