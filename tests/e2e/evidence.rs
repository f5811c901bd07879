//! What the audit table says of a request, on each face: who, under which grant, what with, and what came of it.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::{ConnectOptions, Row, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    harness::{
        deadline::until,
        fake_peer::{Behaviour, FakePeer},
        grants::{ADMIN, CALLER, Grants, STRANGER},
        mcp::Fixture,
        postgres::given,
        raw::RawClient,
        request::{post, post_with},
        tokens::email_token,
        wire::{Framing, answer, chunk},
    },
    native::call,
    served::{
        self, World,
        client::{Era, FACES, Face},
    },
};

/// What a row is read with.
const COLUMNS: [&str; 22] = [
    "user_email",
    "caller",
    "scheme",
    "granted_by",
    "method",
    "endpoint",
    "route",
    "rpc_method",
    "server",
    "tool",
    "outcome",
    "code",
    "reason",
    "status_code",
    "response_time_ms",
    "request_bytes",
    "response_bytes",
    "request_id",
    "call",
    "client_ip",
    "argument_digest",
    "arguments",
];

async fn connect(grants: &Grants) -> SqliteConnection {
    let options: SqliteConnectOptions = grants.url().parse().unwrap();
    options.connect().await.unwrap()
}

/// The rows about calls of this tool, oldest first, once there are so many.
async fn rows(grants: &Grants, condition: &str, count: usize) -> Vec<Value> {
    let pairs: Vec<_> = COLUMNS.iter().map(|column| format!("'{column}', \"{column}\"")).collect();
    let sql = format!(
        "SELECT json_object({}) FROM api_analytics WHERE {condition} ORDER BY timestamp, call",
        pairs.join(", ")
    );
    let read = || async {
        let mut connection = connect(grants).await;
        let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone())).fetch_all(&mut connection).await.unwrap();
        rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect::<Vec<Value>>()
    };
    until(&format!("{count} rows where {condition}"), || async {
        let rows = read().await;
        assert!(rows.len() <= count, "{condition}: {} rows instead of {count}: {rows:#?}", rows.len());
        (rows.len() == count).then_some(rows)
    })
    .await
}

/// One value of all these rows.
#[track_caller]
fn all_say(rows: &[Value], column: &str, expected: impl Into<Value>) {
    let expected = expected.into();
    for row in rows {
        assert_eq!(row[column], expected, "{column} of {row:#}");
    }
}

#[tokio::test]
async fn each_face_leaves_one_row_a_call_and_they_say_the_same() {
    let fixture = Fixture::start().await;
    let streams = Fixture::with(&["--era", "modern", "--answers", "sse"]).await;
    let world = World::of(&[
        ("native", "mcp", fixture.url("/mcp")),
        ("streams", "mcp", streams.url("/mcp")),
        ("time", "openapi", given("PORTCULLIS_TEST_MCPO_TIME")),
    ])
    .await;
    let cases = [
        ("native", "echo", json!({"message": "hi"}), "tool_answered"),
        ("streams", "echo", json!({"message": "hi"}), "tool_answered"),
        ("native", "test_error_handling", json!({}), "tool_error"),
        ("streams", "test_error_handling", json!({}), "tool_error"),
        ("time", "get_current_time", json!({"timezone": "UTC"}), "tool_answered"),
        ("time", "get_current_time", json!({"timezone": "No/Where"}), "tool_error"),
    ];
    for (server, tool, arguments, outcome) in cases {
        for face in FACES {
            world.say(face, server, tool, &arguments).await;
        }
        let condition = format!("server = '{server}' AND tool LIKE '%{tool}' AND outcome = '{outcome}'");
        let rows = rows(&world.grants, &condition, FACES.len()).await;
        all_say(&rows, "user_email", CALLER);
        all_say(&rows, "caller", CALLER);
        all_say(&rows, "scheme", "session");
        all_say(&rows, "granted_by", "user");
        all_say(&rows, "tool", tool);
        all_say(&rows, "client_ip", "127.0.0.1");
        all_say(&rows, "arguments", Value::Null);
        let digests: BTreeSet<_> = rows.iter().map(|row| row["argument_digest"].to_string()).collect();
        assert_eq!(digests.len(), 1, "the same arguments: {rows:#?}");
        assert!(rows.iter().all(|row| row["request_bytes"].as_u64() >= Some(2)), "{rows:#?}");
        assert!(rows.iter().all(|row| row["response_bytes"].as_u64() > Some(2)), "{rows:#?}");
    }
    let endpoints = rows(&world.grants, "server = 'native' AND tool = 'echo'", FACES.len()).await;
    let endpoints: BTreeSet<_> = endpoints.iter().map(|row| row["endpoint"].as_str().unwrap()).collect();
    assert_eq!(endpoints, BTreeSet::from(["/native/echo", "/native/mcp", "/mcp"]));
}

#[tokio::test]
async fn each_call_of_a_batch_has_a_row_with_its_own_arguments() {
    let scene = crate::native::Scene::start().await;
    let call = |id: u32, tool: &str| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": {"n": id}}});
    let batch = json!([call(1, "echo"), call(2, "echo"), call(3, "other")]).to_string();
    let mut client = scene.client().await;
    client.send(scene.post(&["mcp-protocol-version: 2025-03-26"], batch)).await;
    let mut called = scene.peer.call().await;
    called.read_body().await;
    called.send(answer("200 OK", "application/json", b"[]")).await;
    assert_eq!(client.read_answer().await.status, 200);
    let rows = rows(&scene.grants, "server = 'alpha'", 3).await;
    let said: Vec<_> =
        rows.iter().map(|row| (row["call"].as_u64().unwrap(), row["tool"].as_str().unwrap())).collect();
    assert_eq!(said, [(0, "echo"), (1, "echo"), (2, "other")]);
    let digests: BTreeSet<_> = rows.iter().map(|row| row["argument_digest"].as_str().unwrap()).collect();
    assert_eq!(digests.len(), 3, "{rows:#?}");
}

#[tokio::test]
async fn a_batch_that_is_refused_has_one_row_and_a_huge_one_is_refused() {
    let scene = crate::native::Scene::start().await;
    scene.deny_drops().await;
    let batch = |count: usize| serde_json::Value::from(vec![call("drop_all"); count]).to_string();
    for (count, status) in [(3, 400), (1001, 400)] {
        let answer = scene
            .client()
            .await
            .exchange(scene.post(&["mcp-protocol-version: 2025-03-26"], batch(count)))
            .await;
        assert_eq!(answer.status, status, "{}", answer.text());
        let id = answer.head.header("x-request-id").unwrap();
        all_say(&rows(&scene.grants, &format!("request_id = '{id}'"), 1).await, "code", "bad_message");
    }
    scene.is_unharmed().await;
}

#[tokio::test]
async fn an_answer_whose_end_cannot_be_seen_has_its_row_with_its_beginning() {
    let long = format!("data: {{\"id\":1,\"result\":{{\"text\":\"{}", "x".repeat(300 * 1024));
    for (encoding, bytes) in [("identity", long.as_str()), ("gzip", "\u{1f}\u{8b}some bytes")] {
        let mut scene = crate::native::Scene::start().await;
        let mut client = scene.client().await;
        client.send(scene.post(&[], call("echo").to_string())).await;
        let mut called = scene.peer.call().await;
        called.read_body().await;
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: {encoding}\r\n\
             transfer-encoding: chunked\r\n\r\n"
        );
        called.send(head).await;
        called.send(chunk(bytes.as_bytes())).await;
        let (_, head) = client.read_head().await;
        let id = head.header("x-request-id").unwrap().to_owned();
        let mut came = 0;
        while came < bytes.len() {
            came += client.read_chunk().await.unwrap().len();
        }
        scene.gateway.signal("KILL");
        scene.gateway.ended().await;
        let _next = scene.grants.setup().start().await;
        rows(&scene.grants, &format!("request_id = '{id}'"), 1).await;
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_has_its_row_with_the_first_byte_of_an_answer_without_length() {
    let peer = FakePeer::start().await.with_tool("search", Behaviour::Hold);
    let grants = Grants::of(&["alpha"]).await;
    let mut gateway = grants.setup().server("alpha", &peer.url()).start().await;
    gateway.knows_tools("alpha", 1).await;
    let mut client = RawClient::connect(&gateway.address()).await;
    let request = String::from_utf8(post("/alpha/search", &email_token(CALLER), "{}")).unwrap();
    client.send(request.replace("HTTP/1.1", "HTTP/1.0")).await;
    let held = peer.held().await;
    held.send("all that there is");
    let (_, head) = client.read_head().await;
    let id = head.header("x-request-id").unwrap().to_owned();
    assert!(client.take(17).await, "the answer");
    gateway.signal("KILL");
    gateway.ended().await;
    let _next = grants.setup().start().await;
    rows(&grants, &format!("request_id = '{id}'"), 1).await;
}

#[tokio::test]
async fn what_is_refused_has_a_row_that_says_why() {
    let peer = FakePeer::start().await.with_json("search", json!({})).with_json("drop", json!({}));
    let grants = Grants::of(&["alpha"]).await;
    grants.deny(CALLER, "alpha", "drop").await;
    let gateway = grants.setup().server("alpha", &peer.url()).start().await;
    gateway.knows_tools("alpha", 2).await;
    let (caller, stranger) = (email_token(CALLER), email_token(STRANGER));
    for (path, token, code, who) in [
        ("/alpha/search", "", "no_credential", Value::Null),
        ("/alpha/search", "x.y.z", "invalid_credential", Value::Null),
        ("/alpha/search", &stranger, "not_granted", STRANGER.into()),
        ("/gamma/search", &caller, "unknown_server", CALLER.into()),
        ("/alpha/nothing", &caller, "unknown_tool", CALLER.into()),
        ("/alpha/drop", &caller, "unknown_tool", CALLER.into()),
    ] {
        let answer = RawClient::connect(&gateway.address()).await.exchange(post(path, token, "{}")).await;
        let id = answer.head.header("x-request-id").unwrap();
        let rows = rows(&grants, &format!("request_id = '{id}'"), 1).await;
        all_say(&rows, "outcome", "refused");
        all_say(&rows, "code", code);
        all_say(&rows, "user_email", who);
        all_say(&rows, "endpoint", path);
        all_say(&rows, "status_code", answer.status);
        if code == "unknown_tool" {
            all_say(&rows, "server", "alpha");
            all_say(&rows, "tool", path.rsplit_once('/').unwrap().1);
        }
    }
    let speaks = ["content-type: application/json", "accept: application/json, text/event-stream"];
    let by_mcp = post_with("/mcp", &caller, &speaks, call("alpha_drop").to_string());
    let by_name = post("/meta/call_tool", &caller, r#"{"name":"alpha_drop"}"#);
    for request in [by_mcp, by_name] {
        let answer = RawClient::connect(&gateway.address()).await.exchange(request).await;
        let id = answer.head.header("x-request-id").unwrap();
        let rows = rows(&grants, &format!("request_id = '{id}'"), 1).await;
        all_say(&rows, "server", "alpha");
        all_say(&rows, "tool", "drop");
        all_say(&rows, "code", "unknown_tool");
    }
    let answer =
        RawClient::connect(&gateway.address()).await.exchange(post("/alpha/search", "x.y.z", "{}")).await;
    let id = answer.head.header("x-request-id").unwrap();
    let rows = rows(&grants, &format!("request_id = '{id}'"), 1).await;
    assert!(rows[0]["reason"].is_string(), "why it was not believed: {rows:#?}");
}

#[tokio::test]
async fn pages_for_anybody_leave_no_row() {
    let grants = Grants::of(&[]).await;
    let gateway = grants.setup().start().await;
    assert_eq!(gateway.get("/health", "").await.status, 200);
    assert_eq!(gateway.get("/servers", &email_token(CALLER)).await.status, 200);
    let rows = rows(&grants, "true", 1).await;
    all_say(&rows, "endpoint", "/servers");
}

#[tokio::test]
async fn arguments_are_kept_where_a_server_says_so_and_nowhere_else() {
    let peer = FakePeer::start().await.with_json("search", json!({}));
    let fixture = Fixture::start().await;
    let kept = || toml::Table::from_iter([("audit_arguments".to_owned(), true.into())]);
    let mut speaking = kept();
    speaking.insert("dialect".to_owned(), "mcp".into());
    speaking.insert("tier".to_owned(), "http".into());
    let grants = Grants::of(&["kept", "native", "other"]).await;
    let setup = grants.setup().server_with("kept", &peer.url(), kept()).server("other", &peer.url());
    let gateway = setup.server_with("native", &fixture.url("/mcp"), speaking).start().await;
    let world = World { gateway, grants, token: email_token(CALLER) };
    for server in ["kept", "native", "other"] {
        world.await_some_tools(server).await;
    }
    let arguments = json!({"query": "wombats"});
    for server in ["kept", "other"] {
        for face in [Face::Rest, Face::One(Era::Legacy), Face::All(Era::Modern)] {
            world.say(face, server, "search", &arguments).await;
        }
    }
    world.rest("/kept/search", json!({"arguments": arguments})).await;
    let kept = rows(&world.grants, "server = 'kept' AND tool = 'search'", 4).await;
    all_say(&kept, "arguments", arguments.to_string());
    all_say(&kept, "argument_digest", kept[0]["argument_digest"].clone());
    all_say(&rows(&world.grants, "server = 'other' AND tool = 'search'", 3).await, "arguments", Value::Null);
    let message = json!({"message": "wombats"});
    for face in FACES {
        world.say(face, "native", "echo", &message).await;
    }
    let native = rows(&world.grants, "server = 'native' AND tool = 'echo'", FACES.len()).await;
    all_say(&native, "arguments", message.to_string());
}

#[tokio::test]
async fn the_grant_is_named_by_which_somebody_was_let_in() {
    let peer = FakePeer::start().await.with_json("search", json!({}));
    let grants = Grants::of(&["alpha"]).await;
    let gateway = grants.setup().server("alpha", &peer.url()).start().await;
    gateway.knows_tools("alpha", 1).await;
    for (who, grant) in [(CALLER, "user"), (ADMIN, "admin")] {
        assert_eq!(gateway.call("/alpha/search", &email_token(who), &json!({})).await.status, 200);
        let rows = rows(&grants, &format!("user_email = '{who}'"), 1).await;
        all_say(&rows, "granted_by", grant);
    }
}

#[tokio::test]
async fn what_a_client_was_answered_is_in_the_table_though_the_gateway_was_killed_at_that_moment() {
    let peer = FakePeer::start().await.with_json("search", json!({"found": true}));
    let json = Fixture::with(&["--answers", "json", "--sessions", "stateless"]).await;
    let events = Fixture::with(&["--answers", "sse", "--sessions", "stateless"]).await;
    let servers = [
        ("alpha", "openapi", peer.url()),
        ("json", "mcp", json.url("/mcp")),
        ("events", "mcp", events.url("/mcp")),
    ];
    let grants = Grants::of(&["alpha", "json", "events"]).await;
    let spool = tempfile::tempdir().unwrap();
    let speaks = ["content-type: application/json", "accept: application/json, text/event-stream"];
    let message = |tool: &str| {
        let mut call = call(tool);
        call["params"]["arguments"] = json!({"message": "hi"});
        call.to_string()
    };
    let token = email_token(CALLER);
    let requests = [
        post("/alpha/search", &token, "{}"),
        post_with("/json/mcp", &token, &speaks, message("echo")),
        post_with("/events/mcp", &token, &speaks, message("echo")),
        post_with("/mcp", &token, &speaks, message("alpha_search")),
        post("/events/echo", &token, r#"{"message":"hi"}"#),
        post("/alpha/search", "", "{}"),
    ];
    let ids = std::sync::Mutex::new(Vec::new());
    for (number, request) in requests.iter().cycle().take(requests.len() * 2).enumerate() {
        let setup = served::setup(&grants, &servers);
        let setup = setup.set("audit.spool_dir", spool.path().to_str().unwrap());
        let mut gateway = setup.start().await;
        for (id, ..) in &servers {
            until(&format!("the tools of {id}"), || async {
                let known = gateway.metrics().await.sum("portcullis_tools", &[("server", id)]);
                (known > 0.0).then_some(())
            })
            .await;
        }
        let mut client = RawClient::connect(&gateway.address()).await;
        client.send(request).await;
        let (status, head) = client.read_head().await;
        ids.lock().unwrap().push(head.header("x-request-id").unwrap().to_owned());
        let body = match head.framing() {
            Some(Framing::Chunked) => {
                let mut body = String::new();
                // Of a stream, the event with the answer is what its client waits for.
                while !body.contains("\"result\"") {
                    let Some(chunk) = client.read_chunk().await else { break };
                    body.push_str(&String::from_utf8_lossy(&chunk));
                }
                body
            }
            _ => String::from_utf8_lossy(&client.read_body(status, &head).await).into_owned(),
        };
        gateway.signal("KILL");
        gateway.ended().await;
        assert!(matches!(status, 200 | 401), "request {number}: {status} {body}");
    }
    let _last =
        served::setup(&grants, &servers).set("audit.spool_dir", spool.path().to_str().unwrap()).start().await;
    for id in ids.into_inner().unwrap() {
        rows(&grants, &format!("request_id = '{id}'"), 1).await;
    }
}
