//! The shipped catalog: real servers from npm and PyPI, run as `conf/peers` runs them, behind a gateway that has the
//! shipped `servers.toml` and nothing else, on all three faces.

use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    harness::{
        deadline::until,
        gateway::Gateway,
        grants::{CALLER, Grants},
        mcp::{Server, run},
        port::Port,
        postgres::given,
        tokens::email_token,
    },
    openapi::checked_operations,
    served::client::{ERAS, Mcp},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const KEY: &str = "what-gateway-and-peers-have-in-common";

/// A server of the catalog, variables of its peer, one call, and what its answer holds.
struct Case {
    id: &'static str,
    variables: Vec<(&'static str, String)>,
    tool: &'static str,
    arguments: Value,
    answer: &'static str,
}

fn cases(folder: &Path) -> Vec<Case> {
    let at = |name: &str| folder.join(name).display().to_string();
    let repository = given("PORTCULLIS_TEST_REPOSITORY");
    let case = |id, variables, tool, arguments, answer| Case { id, variables, tool, arguments, answer };
    let thought = json!({"thought": "six times seven", "nextThoughtNeeded": false, "thoughtNumber": 1,
        "totalThoughts": 1});
    let entity = json!({"type": "entity", "name": "Portcullis", "entityType": "gateway", "observations": []});
    std::fs::write(folder.join("memory.jsonl"), format!("{entity}\n")).unwrap();
    let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "here", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "here"}}]});
    std::fs::write(folder.join("kubeconfig"), kubeconfig.to_string()).unwrap();
    vec![
        case("time", vec![], "get_current_time", json!({"timezone": "Etc/UTC"}), "Etc/UTC"),
        case(
            "git",
            vec![("GIT_REPOSITORY", repository.clone())],
            "git_log",
            json!({"repo_path": repository}),
            "first commit",
        ),
        case(
            "filesystem",
            vec![("FILESYSTEM_ROOT", given("PORTCULLIS_TEST_FOLDER"))],
            "list_directory",
            json!({"path": given("PORTCULLIS_TEST_FOLDER")}),
            "hello.txt",
        ),
        case(
            "memory",
            vec![("MEMORY_FILE_PATH", at("memory.jsonl"))],
            "add_observations",
            json!({"observations": [{"entityName": "Portcullis", "contents": ["it refuses"]}]}),
            "Portcullis",
        ),
        case("sequential-thinking", vec![], "sequentialthinking", thought, "thoughtHistoryLength"),
        case("everything", vec![], "echo", json!({"message": "hello behind mcpo"}), "hello behind mcpo"),
        case("calculator", vec![], "calculate", json!({"expression": "6*7"}), "42"),
        case(
            "sqlite",
            vec![("SQLITE_PATH", at("a.sqlite"))],
            "read_query",
            json!({"query": "SELECT 6*7 AS answer"}),
            "42",
        ),
        case(
            "duckdb",
            vec![("DUCKDB_PATH", at("a.duckdb"))],
            "query",
            json!({"query": "SELECT 6*7 AS answer"}),
            "42",
        ),
        case("excel", vec![], "create_workbook", json!({"path": at("a.xlsx"), "overwrite": true}), "a.xlsx"),
        case("powerpoint", vec![], "create_presentation", json!({}), "presentation"),
        case("kubernetes", vec![("KUBECONFIG", at("kubeconfig"))], "configuration_view", json!({}), "here"),
    ]
}

/// `MCP_ID_URL`, the variable that says where a server of ours is.
fn where_variable(id: &str) -> String {
    format!("MCP_{}_URL", id.to_ascii_uppercase().replace('-', "_"))
}

fn peer(case: &Case, port: &Port, folder: &Path) -> Command {
    let mut command = Command::new(PathBuf::from(ROOT).join("conf/peers/peer"));
    command.args(["run", case.id]).current_dir(folder).env_clear();
    command.envs(["PATH", "LANG"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.env("HOME", folder).env("PEERS_HOME", given("PORTCULLIS_TEST_CATALOGUE"));
    command.env("PEER_PORT", port.number().to_string()).env("MCP_API_KEY", KEY);
    command.envs(case.variables.iter().map(|(name, value)| (*name, value.as_str())));
    command
}

async fn gateway(grants: &Grants, cases: &[Case], peers: &[Server]) -> Gateway {
    let text = std::fs::read_to_string(Path::new(ROOT).join("conf/servers.toml")).unwrap();
    let setup = grants.setup().servers(&text).environment("MCP_API_KEY", KEY);
    let setup = cases
        .iter()
        .zip(peers)
        .fold(setup, |setup, (case, peer)| setup.environment(&where_variable(case.id), &peer.url("")));
    let gateway = setup.start().await;
    for case in cases {
        until(&format!("the tools of {}", case.id), || async {
            let known = gateway.metrics().await.sum("portcullis_tools", &[("server", case.id)]);
            (known > 0.0).then_some(())
        })
        .await;
    }
    gateway
}

/// An OpenAPI document is one by the judgement of the validator of the OpenAPI project's own schemas.
async fn check_document(folder: &Path, name: &str, document: &Value) {
    let file = folder.join(format!("{name}.json"));
    std::fs::write(&file, document.to_string()).unwrap();
    let mut command = Command::new(Path::new(&given("PORTCULLIS_TEST_OPENAPI")).join("bin/python"));
    command.args(["-m", "openapi_spec_validator", "--schema", "3.1"]).arg(&file);
    let judged = run(command).await;
    assert_eq!(judged.code, Some(0), "{name}: {}{}", judged.stdout, judged.stderr);
}

async fn check_rest(gateway: &Gateway, token: &str, case: &Case) {
    let Case { id, tool, arguments, answer, .. } = case;
    let listed = gateway.get(&format!("/{id}"), token).await.json();
    let names = listed["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap());
    assert!(names.clone().any(|name| name == *tool), "{id} lists {:?}", names.collect::<Vec<_>>());
    let answered = gateway.call(&format!("/{id}/{tool}"), token, arguments).await;
    assert_eq!(answered.status.as_u16(), 200, "{id}: {}", answered.text());
    assert!(answered.text().contains(answer), "{id}: {}", answered.text());
}

async fn check_mcp(gateway: &Gateway, token: &str, case: &Case) {
    let Case { id, tool, arguments, answer, .. } = case;
    for era in ERAS {
        let client = Mcp::begin(&gateway.url(&format!("/{id}/mcp")), token, era, "{}").await;
        let tools = client.list("tools", "tools").await;
        assert!(tools.iter().any(|listed| listed["name"] == **tool), "{id} {era:?}: {tools:?}");
        let result = client.call(tool, arguments.clone()).await;
        assert_ne!(result["isError"], true, "{id} {era:?}: {result}");
        assert!(result.to_string().contains(answer), "{id} {era:?}: {result}");
    }
}

#[tokio::test]
async fn real_servers_of_the_catalog_are_listed_specified_and_called_on_all_three_faces() {
    let folder = tempfile::tempdir().unwrap();
    let cases = cases(folder.path());
    assert!(cases.len() >= 12);
    let peers =
        join_all(cases.iter().map(|case| Server::start(|port| peer(case, port, folder.path())))).await;
    let ids: Vec<_> = cases.iter().map(|case| case.id).collect();
    let grants = Grants::of(&ids).await;
    let gateway = gateway(&grants, &cases, &peers).await;
    let token = email_token(CALLER);

    for case in &cases {
        check_rest(&gateway, &token, case).await;
        check_mcp(&gateway, &token, case).await;
    }

    let all = gateway.get("/openapi.json", &token).await.json();
    let operations = checked_operations(&all);
    for case in &cases {
        assert!(operations.contains_key(&format!("/{}/{}", case.id, case.tool)), "{} is missing", case.id);
        let one = gateway.get(&format!("/{}/openapi.json", case.id), &token).await.json();
        check_document(folder.path(), case.id, &one).await;
    }
    check_document(folder.path(), "all", &all).await;

    let modern = Mcp::begin(&gateway.url("/mcp"), &token, ERAS[1], "{}").await;
    assert_eq!(modern.list("tools", "tools").await.len(), operations.len());

    // Without the key nobody gets past the gateway to a server.
    let beside =
        gateway.client.post(peers[0].url("/get_current_time")).header("content-type", "application/json");
    assert_eq!(gateway.send(beside.body("{}")).await.status.as_u16(), 401);
    assert!(!gateway.written().contains(KEY), "the key was written");
}

#[tokio::test]
async fn what_runs_the_catalog_s_peers_is_as_the_catalog_says() {
    let mut command = Command::new(PathBuf::from(ROOT).join("scripts/catalogue"));
    command.args(["peers", "--check"]);
    let said = run(command).await;
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
}
