//! Real mcpo in front of real MCP servers, called through the gateway and beside it.

use serde_json::{Value, json};

use crate::{
    harness::{
        deadline::until,
        gateway::{Answer, Gateway},
        grants::{CALLER, Grants},
        postgres::given,
        tokens::email_token,
    },
    openapi::checked_operations,
};

const SERVERS: [(&str, &str); 3] = [
    ("time", "PORTCULLIS_TEST_MCPO_TIME"),
    ("git", "PORTCULLIS_TEST_MCPO_GIT"),
    ("filesystem", "PORTCULLIS_TEST_MCPO_FILESYSTEM"),
];

async fn start() -> (Gateway, Grants) {
    let grants = Grants::of(&["time", "git", "filesystem"]).await;
    let setup = SERVERS.iter().fold(grants.setup(), |setup, (id, variable)| {
        let stdio = toml::Table::from_iter([("tier".to_owned(), "stdio".into())]);
        setup.server_with(id, &given(variable), stdio)
    });
    let gateway = setup.start().await;
    for (id, _) in SERVERS {
        until("the tools of a real server", || async {
            (gateway.metrics().await.sum("portcullis_tools", &[("server", id)]) > 0.0).then_some(())
        })
        .await;
    }
    (gateway, grants)
}

async fn call(gateway: &Gateway, path: &str, arguments: &Value) -> Answer {
    gateway.call(path, &email_token(CALLER), arguments).await
}

/// The same call without the gateway.
async fn direct(gateway: &Gateway, path: &str, arguments: &Value) -> Answer {
    let (server, tool) = path.trim_start_matches('/').split_once('/').unwrap();
    let (_, variable) = SERVERS.iter().find(|(id, _)| *id == server).unwrap();
    let request = gateway.client.post(format!("{}/{tool}", given(variable)));
    gateway.send(request.header("content-type", "application/json").body(arguments.to_string())).await
}

#[tokio::test]
async fn the_tools_of_real_servers_are_listed_and_specified() {
    let (gateway, _grants) = start().await;
    let token = email_token(CALLER);
    let tools = gateway.get("/tools", &token).await.json();
    let names: Vec<_> =
        tools["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    for name in [
        "time_get_current_time",
        "time_convert_time",
        "git_git_log",
        "git_git_status",
        "filesystem_list_directory",
    ] {
        assert!(names.contains(&name), "{name} is missing in {names:?}");
    }
    let specification = gateway.get("/openapi.json", &token).await.json();
    let operations = checked_operations(&specification);
    assert_eq!(operations.len(), names.len());
    let convert = &operations["/time/convert_time"]["requestBody"]["content"]["application/json"]["schema"];
    let reference = convert["$ref"].as_str().unwrap();
    let schema = specification.pointer(&reference[1..]).unwrap();
    let required = schema["required"].as_array().unwrap();
    assert!(required.contains(&json!("source_timezone")) && required.contains(&json!("time")), "{schema}");
    let servers = gateway.get("/", &token).await.json();
    assert_eq!(servers["by_tier"], json!({"stdio": ["filesystem", "git", "time"]}));
}

#[tokio::test]
async fn real_tools_give_right_answers() {
    let (gateway, _grants) = start().await;
    let arguments = json!({"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"});
    for arguments in [arguments.clone(), json!({"arguments": arguments})] {
        let converted = call(&gateway, "/time/convert_time", &arguments).await;
        assert_eq!(converted.status.as_u16(), 200, "{}", converted.text());
        assert_eq!(converted.json()["time_difference"], "+9.0h", "{}", converted.text());
    }
    let now = call(&gateway, "/time_get_current_time", &json!({"timezone": "Europe/Berlin"})).await;
    assert_eq!((now.status.as_u16(), &now.json()["timezone"]), (200, &json!("Europe/Berlin")));
    assert_eq!(now.header("deprecation"), Some("true"));

    let repository = json!({"repo_path": given("PORTCULLIS_TEST_REPOSITORY")});
    let log = call(&gateway, "/git/git_log", &repository).await;
    assert!(log.status.as_u16() == 200 && log.text().contains("first commit"), "{}", log.text());

    let folder = given("PORTCULLIS_TEST_FOLDER");
    let listed = call(&gateway, "/filesystem/list_directory", &json!({"path": folder})).await;
    assert!(listed.status.as_u16() == 200 && listed.text().contains("hello.txt"), "{}", listed.text());
    let read =
        call(&gateway, "/filesystem/read_text_file", &json!({"path": format!("{folder}/hello.txt")})).await;
    assert!(
        read.status.as_u16() == 200 && read.text().contains("A file behind the gateway."),
        "{}",
        read.text()
    );
}

#[tokio::test]
async fn what_a_real_tool_refuses_passes_byte_for_byte_and_counts_as_the_tool_s_answer() {
    let (gateway, _grants) = start().await;
    let outside = json!({"path": "/etc/passwd"});
    let cases = [
        ("/time/get_current_time", json!({"timezone": "Nowhere/Land"}), 500),
        ("/filesystem/read_text_file", outside, 500),
        ("/time/convert_time", json!({"time": "12:00"}), 422),
        ("/git/git_log", json!({"repo_path": 7, "max_count": "many"}), 422),
    ];
    for (path, arguments, status) in &cases {
        let (through, beside) =
            (call(&gateway, path, arguments).await, direct(&gateway, path, arguments).await);
        assert_eq!(through.status.as_u16(), *status, "{path}: {}", through.text());
        assert_eq!((through.status, &through.body), (beside.status, &beside.body), "{path}");
        assert_eq!(through.header("content-type"), beside.header("content-type"), "{path}");
        assert_eq!((through.header("server"), beside.header("server")), (None, Some("uvicorn")), "{path}");
    }
    let count =
        async |outcome| gateway.metrics().await.sum("portcullis_requests_total", &[("outcome", outcome)]);
    until("four answers counted", || async { (count("tool_error").await == 4.0).then_some(()) }).await;
    assert_eq!((count("peer_failed").await, count("tool_answered").await), (0.0, 0.0));
    assert_eq!(gateway.metrics().await.sum("portcullis_refusals_total", &[]), 0.0);
}
