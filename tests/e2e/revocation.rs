//! How soon a grant taken back ends calls, and that it ends what was begun under it and nothing else.

use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::{Connection, SqliteConnection};

use crate::{
    access::GRANT_USER,
    harness::{
        commands::portcullis,
        deadline::{until, until_so},
        fake_peer::{Behaviour, FakePeer, Held},
        gateway::{Gateway, Setup},
        grants::{CALLER, Grants},
        mcp::{FIXTURE_TOOLS, Fixture, Scene},
        postgres::Database,
        raw::RawClient,
        request::{chunked, post_with},
        tokens::email_token,
    },
};

const REVOKE: &str = "DELETE FROM user_tenant_access WHERE user_email = 'user@company.com'";
const GRANT_OTHER: &str =
    "INSERT INTO user_tenant_access (user_email, tenant_id) VALUES ('other@company.com','github')";

async fn peer() -> FakePeer {
    FakePeer::start()
        .await
        .with_json("search", json!([]))
        .with_tool("watch", Behaviour::Hold)
        .with_tool("think", Behaviour::Stall)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test]
async fn a_grant_taken_back_in_postgres_stops_calls_within_100_ms() {
    let database = Database::create().await;
    let peer = peer().await;
    let gateway = Setup::new(&database.url()).server("github", &peer.url()).start().await;
    let token = email_token("user@company.com");
    let mut connection = database.connect().await;
    let mut times = Vec::new();
    for _ in 0..5 {
        sqlx::raw_sql(GRANT_USER).execute(&mut connection).await.unwrap();
        gateway.call_until("/github/search", &token, 200).await;
        sqlx::raw_sql(REVOKE).execute(&mut connection).await.unwrap();
        let (_, took) = gateway.call_until("/github/search", &token, 403).await;
        assert!(took <= Duration::from_secs(1), "refused {took:?} after the commit");
        times.push(took);
    }
    assert!(median(times.clone()) <= Duration::from_millis(100), "{times:?}");
}

#[tokio::test]
async fn a_grant_taken_back_in_sqlite_stops_calls_within_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("grants.db").display());
    let peer = peer().await;
    let gateway = Setup::new(&url).server("github", &peer.url()).start().await;
    let token = email_token("user@company.com");
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..5 {
        sqlx::raw_sql(GRANT_USER).execute(&mut connection).await.unwrap();
        gateway.call_until("/github/search", &token, 200).await;
        sqlx::raw_sql(REVOKE).execute(&mut connection).await.unwrap();
        let (_, took) = gateway.call_until("/github/search", &token, 403).await;
        times.push(took);
    }
    assert!(times.iter().all(|took| *took <= Duration::from_secs(1)), "{times:?}");
}

#[tokio::test]
async fn every_gateway_on_the_database_is_told() {
    let database = Database::create().await;
    let peer = peer().await;
    let start = || Setup::new(&database.url()).server("github", &peer.url()).start();
    let (one, two) = (start().await, start().await);
    let token = email_token("user@company.com");
    database.execute(GRANT_USER).await;
    one.call_until("/github/search", &token, 200).await;
    two.call_until("/github/search", &token, 200).await;
    database.execute(REVOKE).await;
    let ((_, at_one), (_, at_two)) = tokio::join!(
        one.call_until("/github/search", &token, 403),
        two.call_until("/github/search", &token, 403)
    );
    assert!(at_one.max(at_two) <= Duration::from_secs(1), "refused after {at_one:?} and {at_two:?}");
}

/// A call by this user; the connection stays open for what comes back.
async fn call(gateway: &Gateway, tool: &str, email: &str) -> RawClient {
    let mut client = RawClient::connect(&gateway.address()).await;
    let token = email_token(email);
    let head = format!("POST /github/{tool} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {token}\r\n");
    client.send(format!("{head}content-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}")).await;
    client
}

async fn stream(gateway: &Gateway, peer: &FakePeer, email: &str) -> (RawClient, Held) {
    let mut client = call(gateway, "watch", email).await;
    let held = peer.held().await;
    assert_eq!(client.read_head().await.0, 200);
    pass_one_event(&mut client, &held).await;
    (client, held)
}

async fn pass_one_event(client: &mut RawClient, held: &Held) {
    held.send("data: again\n\n");
    assert_eq!(client.read_chunk().await.unwrap(), b"data: again\n\n");
}

/// Both users have a stream and a call without an answer open; `revoke` takes the grant of `user@company.com` back.
async fn check_what_ends(gateway: &Gateway, peer: &FakePeer, revoke: impl AsyncFn()) {
    let (mut stream_of_user, at_peer) = stream(gateway, peer, "user@company.com").await;
    let (mut stream_of_other, at_peer_of_other) = stream(gateway, peer, "other@company.com").await;
    let mut hanging_of_user = call(gateway, "think", "user@company.com").await;
    let mut hanging_of_other = call(gateway, "think", "other@company.com").await;
    peer.arrived(4).await;

    let began = Instant::now();
    revoke().await;
    let patience = Duration::from_secs(2);
    assert!(stream_of_user.is_closed_within(patience).await, "the stream goes on");
    let told = hanging_of_user.read_answer().await;
    assert_eq!(
        (told.status, &told.json()["code"]),
        (403, &json!("not_granted")),
        "nothing had been answered"
    );
    assert!(hanging_of_user.is_closed_within(patience).await, "the hanging call goes on");
    assert!(began.elapsed() < patience, "ended after {:?}", began.elapsed());
    at_peer.closed().await;
    // What the gateway keeps for later calls is closed within 5 s too.
    until_so("two connections at the peer", || peer.connections().1 == 2).await;

    pass_one_event(&mut stream_of_other, &at_peer_of_other).await;
    assert!(hanging_of_other.is_open().await, "another caller's call was ended");
    gateway.await_metric("portcullis_requests_total", &[("outcome", "withdrawn")], 2).await;
    assert_eq!(gateway.metrics().await.sum("portcullis_open_streams", &[]), 1.0);
    let again = gateway.call("/github/search", &email_token("user@company.com"), &json!({})).await;
    assert_eq!(again.code(), "not_granted");
}

#[tokio::test]
async fn a_grant_taken_back_ends_that_callers_streams_and_hanging_calls() {
    let database = Database::create().await;
    let peer = peer().await;
    let gateway = Setup::new(&database.url()).server("github", &peer.url()).start().await;
    database.execute(GRANT_USER).await;
    database.execute(GRANT_OTHER).await;
    gateway.await_grants(2).await;
    check_what_ends(&gateway, &peer, async || database.execute(REVOKE).await).await;
}

#[tokio::test]
async fn on_sqlite_too_a_grant_taken_back_ends_streams_and_hanging_calls() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("grants.db").display());
    let peer = peer().await;
    let setup = Setup::new(&url).server("github", &peer.url());
    let gateway = setup.start().await;
    for email in ["user@company.com", "other@company.com"] {
        assert_eq!(portcullis(gateway.folder.path(), &["grant", "--user", email, "github"]).await.code, 0);
    }
    gateway.await_grants(2).await;
    check_what_ends(&gateway, &peer, async || {
        let words = ["revoke", "--user", "user@company.com", "github"];
        assert_eq!(portcullis(gateway.folder.path(), &words).await.code, 0);
    })
    .await;
}

#[tokio::test]
async fn a_stream_goes_on_while_another_grant_lets_its_caller_in() {
    let database = Database::create().await;
    let peer = peer().await;
    let gateway = Setup::new(&database.url()).server("github", &peer.url()).start().await;
    database.execute(GRANT_USER).await;
    database.execute("INSERT INTO group_tenant_mapping VALUES ('MCP-GitHub','github')").await;
    database.execute("INSERT INTO user_group_membership VALUES ('user@company.com','MCP-GitHub')").await;
    gateway.await_grants(3).await;
    let (mut client, at_peer) = stream(&gateway, &peer, "user@company.com").await;
    database.execute(REVOKE).await;
    gateway.await_grants(2).await;
    pass_one_event(&mut client, &at_peer).await;
    database.execute("DELETE FROM group_tenant_mapping").await;
    assert!(client.is_closed_within(Duration::from_secs(2)).await, "the stream goes on without any grant");
    at_peer.closed().await;
}

#[tokio::test]
async fn a_transaction_that_grants_and_revokes_is_one_change() {
    let database = Database::create().await;
    let peer = peer().await;
    let gateway = Setup::new(&database.url()).server("github", &peer.url()).start().await;
    database.execute(GRANT_USER).await;
    gateway.await_grants(1).await;
    let (mut client, at_peer) = stream(&gateway, &peer, "user@company.com").await;
    let again = format!("BEGIN; {REVOKE}; {GRANT_USER} {GRANT_OTHER}; COMMIT;");
    database.execute(&again).await;
    gateway.await_grants(2).await;
    pass_one_event(&mut client, &at_peer).await;
}

#[tokio::test]
async fn a_call_whose_answer_has_not_begun_is_refused_and_not_cut_on_every_face() {
    let fixture = Fixture::with(&["--answers", "json", "--sessions", "stateless"]).await;
    let scene = Scene::in_front_of(&fixture.url("/mcp")).await;
    scene.gateway.await_tools("native", FIXTURE_TOOLS).await;
    let slow = json!({"ms": 60_000});
    let call = |name: &str| {
        let params = json!({"name": name, "arguments": &slow});
        json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params})
    };
    let calls = [
        ("/native/slow", slow.clone(), false),
        ("/meta/call_tool", json!({"name": "native_slow", "arguments": &slow}), false),
        ("/native/mcp", call("slow"), true),
        ("/mcp", call("native_slow"), true),
    ];
    let mut clients = Vec::new();
    for (path, body, is_rpc) in &calls {
        let mut client = RawClient::connect(&scene.gateway.address()).await;
        // A call by REST whose client takes events has its answer begun at once.
        let accept =
            if *is_rpc { "accept: application/json, text/event-stream" } else { "accept: application/json" };
        let lines = ["content-type: application/json", accept, "mcp-protocol-version: 2025-06-18"];
        client.send(post_with(path, &scene.token, &lines, body.to_string())).await;
        clients.push((path, is_rpc, client));
    }
    let counted =
        async |counter| fixture.count(counter).await + fixture.count(&format!("gateway/{counter}")).await;
    let all = calls.len() as u64;
    until("the calls at the server", || async {
        (counted("byMethod/tools~1call").await == all).then_some(())
    })
    .await;
    scene.grants.take_back(CALLER, "native").await;
    for (path, is_rpc, mut client) in clients {
        let answer = client.read_answer().await;
        let told = answer.json();
        if *is_rpc {
            assert_eq!(
                (&told["id"], &told["error"]["data"]["code"]),
                (&json!(7), &json!("not_granted")),
                "{path}"
            );
        } else {
            assert_eq!((answer.status, &told["code"]), (403, &json!("not_granted")), "{path}");
        }
    }
    let withdrawn = [("outcome", "withdrawn")];
    scene.gateway.await_metric("portcullis_requests_total", &withdrawn, calls.len()).await;
    until("their end", || async { (counted("cancelled").await == all).then_some(()) }).await;
    let metrics = scene.gateway.metrics().await;
    assert_eq!(metrics.sum("portcullis_connections_closed_total", &[("reason", "withdrawn")]), 0.0);
    crate::audit::settled(&scene.gateway).await;
    let rows = portcullis(scene.gateway.folder.path(), &["audit", "--json", "--outcome", "withdrawn"]).await;
    assert_eq!(rows.stdout.matches("\"not_granted\"").count(), calls.len(), "{rows:?}");
}

#[tokio::test]
async fn a_call_that_is_still_being_sent_is_refused() {
    let grants = Grants::of(&["github"]).await;
    let peer = peer().await.with_tool("hear", Behaviour::StallBeforeBody);
    let gateway = grants.setup().server("github", &peer.url()).start().await;
    let token = email_token(CALLER);
    gateway.call_until("/github/search", &token, 200).await;
    let mut sending = RawClient::connect(&gateway.address()).await;
    sending.send(chunked("/github/hear", &token)).await;
    // More than is read before a server is called.
    let piece = format!("10000\r\n[{}\r\n", " ".repeat(0xffff));
    sending.send(format!("1\r\n{{\r\n{}", piece.repeat(2).replace('[', " "))).await;
    peer.arrived(2).await;
    grants.take_back(CALLER, "github").await;
    let told = sending.read_answer().await;
    assert_eq!((told.status, &told.json()["code"]), (403, &json!("not_granted")));
    gateway.await_metric("portcullis_requests_total", &[("outcome", "withdrawn")], 1).await;
}
