//! What happens in Open WebUI's own tables and its Redis while the gateway runs, and the connections it is set up with.

mod api_keys;
mod connections;
mod signed_out;

use std::time::Duration;

use serde_json::json;

use crate::harness::{
    fake_peer::{Behaviour, FakePeer},
    gateway::{Gateway, Setup},
    openwebui::{self, JANE, JANE_EMAIL, JANE_STAMP, VOUCHING_KEY, add_group, add_user, join, user_jwt},
    postgres::Database,
    raw::RawClient,
    tokens::{SESSION_SECRET, now, session_token, sign},
};

/// How soon a change in Open WebUI's tables or its Redis is obeyed.
const SOON: Duration = Duration::from_secs(1);

async fn gateway(database: &Database, peer: &FakePeer) -> Gateway {
    gateway_of(openwebui::setup(database), database, peer).await
}

/// A gateway with this peer behind it, for members of `MCP-GitHub`.
async fn gateway_of(setup: Setup, database: &Database, peer: &FakePeer) -> Gateway {
    let gateway = setup.server("github", &peer.url()).start().await;
    let grant = "INSERT INTO group_tenant_mapping (group_name, tenant_id) VALUES ('MCP-GitHub', 'github') \
                 ON CONFLICT DO NOTHING";
    database.execute(grant).await;
    gateway.await_grants(1).await;
    gateway
}

/// Open WebUI's tables, with Jane in the group that may use the peer.
async fn database_with_jane() -> Database {
    let database = openwebui::database().await;
    add_group(&database, "MCP-GitHub", None).await;
    join(&database, JANE, "MCP-GitHub").await;
    database
}

async fn peer() -> FakePeer {
    FakePeer::start().await.with_json("search", json!([])).with_tool("watch", Behaviour::Hold)
}

/// Refused like this within [`SOON`] of now.
async fn is_refused_soon(gateway: &Gateway, token: &str, status: u16, code: &str, what: &str) {
    let (answer, took) = gateway.call_until("/github/search", token, status).await;
    // A call that began just before ends as one whose credential is withdrawn, whatever the next one hears.
    assert!([code, "revoked_credential"].contains(&answer.code().as_str()), "{what}: {}", answer.text());
    let next = gateway.call("/github/search", token, &json!({})).await;
    assert_eq!((next.status.as_u16(), next.code().as_str()), (status, code), "{what}");
    assert!(took < SOON, "{what}: refused after {took:?}");
}

#[tokio::test]
async fn a_user_whom_open_webui_lets_do_nothing_loses_access_at_once() {
    let database = openwebui::database().await;
    let peer = peer().await;
    let gateway = gateway(&database, &peer).await;
    add_group(&database, "MCP-GitHub", None).await;
    let deeds = [
        ("pending", "UPDATE \"user\" SET role = 'pending' WHERE id = 'pending'"),
        ("odd", "UPDATE \"user\" SET role = 'root' WHERE id = 'odd'"),
        ("roleless", "UPDATE \"user\" SET role = NULL WHERE id = 'roleless'"),
        ("inactive", "UPDATE auth SET active = false WHERE id = 'inactive'"),
        ("unknown", "UPDATE auth SET active = NULL WHERE id = 'unknown'"),
        ("bare", "DELETE FROM auth WHERE id = 'bare'"),
        ("gone", "DELETE FROM \"user\" WHERE id = 'gone'"),
        ("rotated", "UPDATE auth SET session_stamp = 'another' WHERE id = 'rotated'"),
        ("unstamped", "UPDATE auth SET session_stamp = NULL WHERE id = 'unstamped'"),
        ("nameless", "UPDATE \"user\" SET email = NULL WHERE id = 'nameless'"),
    ];
    for (id, deed) in deeds {
        add_user(&database, id, &format!("{id}@example.com"), Some("stamp")).await;
        join(&database, id, "MCP-GitHub").await;
        let token = session_token(id, "stamp");
        let answer = gateway.call("/github/search", &token, &json!({})).await;
        assert_eq!(answer.status, 200, "{id}: {}", answer.text());
        database.execute(deed).await;
        is_refused_soon(&gateway, &token, 401, "revoked_credential", id).await;
    }
}

#[tokio::test]
async fn who_is_let_in_again_has_access_again() {
    let database = openwebui::database().await;
    let peer = peer().await;
    let gateway = gateway(&database, &peer).await;
    add_group(&database, "MCP-GitHub", None).await;
    join(&database, JANE, "MCP-GitHub").await;
    database.execute("UPDATE \"user\" SET role = 'pending'").await;
    let token = session_token(JANE, JANE_STAMP);
    assert_eq!(gateway.call("/github/search", &token, &json!({})).await.code(), "revoked_credential");
    database.execute("UPDATE \"user\" SET role = 'admin'").await;
    gateway.call_until("/github/search", &token, 200).await;

    database.execute("UPDATE auth SET session_stamp = 'after-a-new-password'").await;
    is_refused_soon(&gateway, &token, 401, "revoked_credential", "the old session").await;
    let new = session_token(JANE, "after-a-new-password");
    assert_eq!(gateway.call("/github/search", &new, &json!({})).await.status, 200);
}

#[tokio::test]
async fn a_group_grants_through_its_parents_until_the_membership_ends() {
    let database = openwebui::database().await;
    let peer = peer().await;
    let gateway = gateway(&database, &peer).await;
    add_group(&database, "MCP-GitHub", None).await;
    add_group(&database, "Engineering", Some("MCP-GitHub")).await;
    add_group(&database, "Backend", Some("Engineering")).await;
    let token = session_token(JANE, JANE_STAMP);
    assert_eq!(gateway.call("/github/search", &token, &json!({})).await.code(), "not_granted");
    join(&database, JANE, "Backend").await;
    gateway.call_until("/github/search", &token, 200).await;
    let vouched = gateway.call_request("/github/search", VOUCHING_KEY, &json!({}));
    let vouched = vouched.header("x-openwebui-user-jwt", user_jwt(JANE, JANE_EMAIL));
    assert_eq!(gateway.send(vouched).await.status, 200);

    database.execute("UPDATE \"group\" SET parent_group_id = NULL WHERE id = 'Engineering'").await;
    is_refused_soon(&gateway, &token, 403, "not_granted", "a parent that is none any more").await;
    database.execute("UPDATE \"group\" SET parent_group_id = 'MCP-GitHub' WHERE id = 'Engineering'").await;
    gateway.call_until("/github/search", &token, 200).await;
    database.execute("DELETE FROM group_member").await;
    is_refused_soon(&gateway, &token, 403, "not_granted", "no member any more").await;
}

#[tokio::test]
async fn a_second_factor_demanded_meanwhile_must_have_been_shown() {
    let database = openwebui::database().await;
    let peer = peer().await;
    let gateway = gateway(&database, &peer).await;
    add_group(&database, "MCP-GitHub", None).await;
    join(&database, JANE, "MCP-GitHub").await;
    let session = |is_verified: bool| {
        let claims = json!({"id": JANE, "typ": "session", "session_stamp": JANE_STAMP, "auth_method": "password",
            "mfa_verified": is_verified, "iat": now(0), "exp": now(3600)});
        sign(&claims, SESSION_SECRET)
    };
    let (with_password, with_factor) = (session(false), session(true));
    assert_eq!(gateway.call("/github/search", &with_password, &json!({})).await.status, 200);
    database.execute("INSERT INTO config (key, value) VALUES ('auth.mfa.enable', 'true')").await;
    is_refused_soon(&gateway, &with_password, 401, "revoked_credential", "a password alone").await;
    // To have shown one is not enough either, until one has been set up.
    assert_eq!(gateway.call("/github/search", &with_factor, &json!({})).await.code(), "revoked_credential");
    database.execute(r#"UPDATE auth SET mfa = '{"secret": "abc"}'"#).await;
    gateway.call_until("/github/search", &with_factor, 200).await;
    assert_eq!(gateway.call("/github/search", &with_password, &json!({})).await.code(), "revoked_credential");
}

/// A stream of events from `/github/watch`, its first event received.
async fn stream(
    gateway: &Gateway,
    peer: &FakePeer,
    headers: &str,
) -> (RawClient, crate::harness::fake_peer::Held) {
    let mut client = RawClient::connect(&gateway.address()).await;
    let head =
        format!("POST /github/watch HTTP/1.1\r\nhost: gateway\r\n{headers}content-length: 2\r\n\r\n{{}}");
    client.send(head).await;
    let held = peer.held().await;
    held.send("data: 1\n\n");
    assert_eq!(client.read_head().await.0, 200);
    assert_eq!(client.read_chunk().await.unwrap(), b"data: 1\n\n");
    (client, held)
}

#[tokio::test]
async fn the_open_stream_of_a_revoked_session_ends_and_no_other() {
    let database = openwebui::database().await;
    let peer = peer().await;
    let gateway = gateway(&database, &peer).await;
    add_group(&database, "MCP-GitHub", None).await;
    add_user(&database, "joe", "joe@example.com", Some("stamp")).await;
    join(&database, JANE, "MCP-GitHub").await;
    join(&database, "joe", "MCP-GitHub").await;
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let voucher = format!("{}x-openwebui-user-jwt: {}\r\n", bearer(VOUCHING_KEY), user_jwt(JANE, JANE_EMAIL));
    let (mut session, at_session) = stream(&gateway, &peer, &bearer(&session_token(JANE, JANE_STAMP))).await;
    let (mut vouched, at_vouched) = stream(&gateway, &peer, &voucher).await;
    let (mut other, at_other) = stream(&gateway, &peer, &bearer(&session_token("joe", "stamp"))).await;

    let rotate = format!("UPDATE auth SET session_stamp = 'another' WHERE id = '{JANE}'");
    database.execute(&rotate).await;
    assert!(session.is_closed_within(SOON).await, "the stream of the revoked session goes on");
    at_session.closed().await;
    // Who comes with a service key has no session that could be revoked.
    at_vouched.send("data: 2\n\n");
    assert_eq!(vouched.read_chunk().await.unwrap(), b"data: 2\n\n");

    database.execute("UPDATE auth SET active = false WHERE id <> 'joe'").await;
    assert!(vouched.is_closed_within(SOON).await, "the stream of an inactive user goes on");
    at_vouched.closed().await;
    at_other.send("data: 2\n\n");
    assert_eq!(other.read_chunk().await.unwrap(), b"data: 2\n\n");
}

#[tokio::test]
async fn open_webui_on_sqlite_is_obeyed_too() {
    let folder = tempfile::tempdir().unwrap();
    let webui = format!("sqlite:{}", folder.path().join("webui.db").display());
    let grants = format!("sqlite:{}", folder.path().join("grants.db").display());
    let options: sqlx::sqlite::SqliteConnectOptions = webui.parse().unwrap();
    let mut tables = sqlx::ConnectOptions::connect(&options.create_if_missing(true)).await.unwrap();
    for sql in [
        openwebui::DDL,
        "INSERT INTO \"user\" (id, email, role) VALUES ('jane', 'jane@x.org', 'user'); \
         INSERT INTO auth (id, active, session_stamp) VALUES ('jane', true, 'stamp'); \
         INSERT INTO \"group\" (id, name) VALUES ('g', 'MCP-Admin'); \
         INSERT INTO group_member (id, group_id, user_id) VALUES ('m', 'g', 'jane');",
    ] {
        sqlx::raw_sql(sql).execute(&mut tables).await.unwrap();
    }
    let peer = peer().await;
    let setup = Setup::new(&grants).set("auth.openwebui.database_url", webui).server("github", &peer.url());
    let gateway = setup.start().await;
    let token = session_token("jane", "stamp");
    assert_eq!(gateway.call("/github/search", &token, &json!({})).await.status, 200);
    sqlx::raw_sql("DELETE FROM group_member").execute(&mut tables).await.unwrap();
    is_refused_soon(&gateway, &token, 403, "not_granted", "no member any more").await;
    sqlx::raw_sql("UPDATE auth SET session_stamp = 'another'").execute(&mut tables).await.unwrap();
    is_refused_soon(&gateway, &token, 401, "revoked_credential", "the old session").await;
}
