//! API keys of Open WebUI: who comes with one, and how soon one that may not be used any more is refused.

use serde_json::json;

use super::{SOON, database_with_jane, gateway_of, is_refused_soon, peer, stream};
use crate::harness::{
    chaos::Chaos,
    commands::portcullis,
    gateway::{Answer, Gateway, Setup},
    openwebui::{self, JANE, JANE_EMAIL, JANE_STAMP, add_user, join},
    postgres::Database,
    redis::Redis,
    tokens::{SESSION_SECRET, now, session_with},
};

const KEY: &str = "sk-0123456789abcdef0123456789abcdef";
const ON: &str = "INSERT INTO config (key, value) VALUES ('auth.enable_api_keys', 'true'), \
    ('auth.api_key.endpoint_restrictions', 'false'), ('user.permissions', '{\"features\": {\"api_keys\": true}}')";

/// What Open WebUI writes when a user makes themselves a key.
fn made(user: &str, key: &str) -> String {
    format!(
        "DELETE FROM api_key WHERE user_id = '{user}'; \
         INSERT INTO api_key (id, user_id, key, created_at, updated_at) VALUES ('key_{user}', '{user}', '{key}', 1, 1)"
    )
}

/// Open WebUI's tables with API keys switched on, one of Jane's among them.
async fn database() -> Database {
    let database = database_with_jane().await;
    database.execute(ON).await;
    database.execute(&made(JANE, KEY)).await;
    database
}

async fn search(gateway: &Gateway, key: &str) -> Answer {
    gateway.call("/github/search", key, &json!({})).await
}

#[tokio::test]
async fn a_key_is_its_user_without_any_secret_of_open_webui() {
    let (database, peer) = (database().await, peer().await);
    let setup = Setup::new(&database.url())
        .set("auth.openwebui.secret", "")
        .set("auth.openwebui.database_url", database.url());
    let gateway = gateway_of(setup, &database, &peer).await;
    assert_eq!(search(&gateway, KEY).await.status, 200);
    assert_eq!(gateway.get("/github", KEY).await.status, 200);
    let named = gateway.call_request("/github/search", KEY, &json!({}));
    let named = named.header("x-openwebui-user-email", "admin@example.com");
    assert_eq!(gateway.send(named).await.code(), "identity_mismatch");
    let named = gateway.call_request("/github/search", KEY, &json!({}));
    assert_eq!(gateway.send(named.header("x-openwebui-user-email", JANE_EMAIL)).await.status, 200);
    gateway.stdout.find("its scheme", |line| line.contains("\"scheme\":\"api_key\"")).await;
    assert!(!peer.requests().iter().any(|request| request.text().contains(KEY)));
    assert!(!gateway.written().contains(&KEY[3..]), "{}", gateway.written());
}

#[tokio::test]
async fn a_key_that_open_webui_never_made_is_refused() {
    let (database, peer) = (database().await, peer().await);
    let gateway = gateway_of(openwebui::setup(&database), &database, &peer).await;
    let guess = "sk-00000000000000000000000000000000";
    for _ in 0..2 {
        assert_eq!(search(&gateway, guess).await.code(), "invalid_credential");
    }
    gateway.stdout.find("the reason", |line| line.contains("\"unknown_api_key\"")).await;
    for other in [KEY.to_uppercase(), format!("{KEY}0"), KEY.replace("sk-", "sk_"), KEY[..34].to_owned()] {
        assert_eq!(search(&gateway, &other).await.code(), "invalid_credential", "{other}");
    }
    // A key that is made later is known as soon as its guess is forgotten.
    database.execute(&made(JANE, guess)).await;
    gateway.call_until("/github/search", guess, 200).await;
    assert_eq!(search(&gateway, KEY).await.status, 401, "the key before it");
}

#[tokio::test]
async fn a_key_that_may_not_be_used_any_more_is_refused_within_a_second() {
    let (database, peer) = (database().await, peer().await);
    let gateway = gateway_of(openwebui::setup(&database), &database, &peer).await;
    let (revoked, invalid) = ("revoked_credential", "invalid_credential");
    let deeds = [
        ("deleted", invalid, "DELETE FROM api_key WHERE user_id = 'deleted'"),
        ("replaced", invalid, "UPDATE api_key SET key = 'sk-another' WHERE user_id = 'replaced'"),
        ("expired", "expired_credential", "UPDATE api_key SET expires_at = 1 WHERE user_id = 'expired'"),
        ("given-away", revoked, "UPDATE api_key SET user_id = 'nobody' WHERE id = 'key_given-away'"),
        ("gone", invalid, "DELETE FROM \"user\" WHERE id = 'gone'"),
        ("pending", revoked, "UPDATE \"user\" SET role = 'pending' WHERE id = 'pending'"),
        ("inactive", revoked, "UPDATE auth SET active = false WHERE id = 'inactive'"),
    ];
    // What nobody does in Open WebUI itself is done here too.
    database.execute("ALTER TABLE api_key DROP CONSTRAINT api_key_user_id_fkey").await;
    for (number, (id, code, deed)) in deeds.into_iter().enumerate() {
        add_user(&database, id, &format!("{id}@example.com"), Some("stamp")).await;
        join(&database, id, "MCP-GitHub").await;
        let key = format!("sk-{number:032x}");
        database.execute(&made(id, &key)).await;
        assert_eq!(search(&gateway, &key).await.status, 200, "{id}");
        if id == "gone" {
            database.execute("DELETE FROM api_key WHERE user_id = 'gone'").await;
        }
        database.execute(deed).await;
        is_refused_soon(&gateway, &key, 401, code, id).await;
    }
    assert_eq!(search(&gateway, KEY).await.status, 200);
}

#[tokio::test]
async fn what_open_webui_says_of_keys_is_obeyed_within_a_second() {
    let (database, peer) = (database().await, peer().await);
    let gateway = gateway_of(openwebui::setup(&database), &database, &peer).await;
    let set = async |key: &str, value: &str| {
        database.execute(&format!("UPDATE config SET value = '{value}' WHERE key = '{key}'")).await;
    };
    let is_refused = async |what: &str| is_refused_soon(&gateway, KEY, 401, "invalid_credential", what).await;
    let is_known = async || drop(gateway.call_until("/github/search", KEY, 200).await);
    is_known().await;
    set("auth.enable_api_keys", "false").await;
    is_refused("keys switched off").await;
    set("auth.enable_api_keys", "true").await;
    is_known().await;
    set("auth.api_key.endpoint_restrictions", "true").await;
    is_refused("keys for some of its own endpoints alone").await;
    set("auth.api_key.endpoint_restrictions", "false").await;
    is_known().await;
    set("user.permissions", r#"{"features": {"api_keys": false}}"#).await;
    is_refused("the permission taken from everybody").await;
    database.execute(r#"UPDATE "group" SET permissions = '{"features": {"api_keys": true}}'"#).await;
    is_known().await;
    database.execute(r#"UPDATE "group" SET permissions = NULL"#).await;
    is_refused("the permission taken from the group").await;
    database.execute("UPDATE \"user\" SET role = 'admin'").await;
    is_known().await;
    database.execute("DELETE FROM config").await;
    is_refused("settings that say nothing").await;
    gateway.stdout.find("the reason", |line| line.contains("\"api_key_not_allowed\"")).await;
}

#[tokio::test]
async fn the_open_stream_of_a_deleted_key_ends() {
    let (database, peer) = (database().await, peer().await);
    let gateway = gateway_of(openwebui::setup(&database), &database, &peer).await;
    let (mut client, held) = stream(&gateway, &peer, &format!("authorization: Bearer {KEY}\r\n")).await;
    database.execute("DELETE FROM api_key").await;
    assert!(client.is_closed_within(SOON).await, "the stream goes on");
    held.closed().await;
    database.execute(&made(JANE, "sk-ffffffffffffffffffffffffffffffff")).await;
    let bearer = "authorization: Bearer sk-ffffffffffffffffffffffffffffffff\r\n";
    let (mut client, held) = stream(&gateway, &peer, bearer).await;
    database.execute("UPDATE config SET value = 'false' WHERE key = 'auth.enable_api_keys'").await;
    assert!(client.is_closed_within(SOON).await, "the stream goes on");
    held.closed().await;
}

#[tokio::test]
async fn keys_can_be_left_out() {
    let (database, peer) = (database().await, peer().await);
    let setup = openwebui::setup(&database).set("auth.openwebui.api_keys", false);
    let gateway = gateway_of(setup, &database, &peer).await;
    assert_eq!(search(&gateway, KEY).await.code(), "invalid_credential");
    gateway.stdout.find("the reason", |line| line.contains("\"unrecognised\"")).await;
}

#[tokio::test]
async fn while_the_database_is_away_known_keys_go_on_and_no_other_begins() {
    let (database, peer) = (database().await, peer().await);
    let chaos = Chaos::in_front_of(database.server_address()).await;
    let setup = openwebui::setup(&database)
        .set("auth.openwebui.database_url", database.url_through(&chaos.address()));
    let gateway = gateway_of(setup, &database, &peer).await;
    assert_eq!(search(&gateway, KEY).await.status, 200);
    chaos.cut();
    let new = search(&gateway, "sk-11111111111111111111111111111111").await;
    assert_eq!((new.status.as_u16(), new.code()), (503, "grants_unknown".into()));
    assert_eq!(search(&gateway, KEY).await.status, 200);
    database.execute("DELETE FROM api_key").await;
    chaos.restore();
    gateway.call_until("/github/search", KEY, 401).await;
}

#[tokio::test]
async fn keys_of_an_open_webui_on_sqlite_are_obeyed_too() {
    let peer = peer().await;
    let folder = tempfile::tempdir().unwrap();
    let webui = format!("sqlite:{}", folder.path().join("webui.db").display());
    let grants = format!("sqlite:{}", folder.path().join("grants.db").display());
    let options: sqlx::sqlite::SqliteConnectOptions = webui.parse().unwrap();
    let mut tables = sqlx::ConnectOptions::connect(&options.create_if_missing(true)).await.unwrap();
    let mut execute = async |sql: &str| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut tables).await.unwrap();
    };
    execute(openwebui::DDL).await;
    execute(
        "INSERT INTO \"user\" (id, email, role) VALUES ('jane', 'jane@x.org', 'user'); \
         INSERT INTO auth (id, active) VALUES ('jane', true); \
         INSERT INTO \"group\" (id, name) VALUES ('g', 'MCP-Admin'); \
         INSERT INTO group_member (id, group_id, user_id) VALUES ('m', 'g', 'jane');",
    )
    .await;
    execute(ON).await;
    execute(&made("jane", KEY)).await;
    let setup = Setup::new(&grants)
        .set("auth.openwebui.secret", SESSION_SECRET)
        .set("auth.openwebui.database_url", webui)
        .server("github", &peer.url());
    let gateway = setup.start().await;
    assert_eq!(search(&gateway, KEY).await.status, 200);
    execute("UPDATE config SET value = 'false' WHERE key = 'auth.enable_api_keys'").await;
    is_refused_soon(&gateway, KEY, 401, "invalid_credential", "keys switched off").await;
    execute("UPDATE config SET value = 'true' WHERE key = 'auth.enable_api_keys'").await;
    gateway.call_until("/github/search", KEY, 200).await;
    execute("DELETE FROM api_key").await;
    is_refused_soon(&gateway, KEY, 401, "invalid_credential", "a deleted key").await;
}

#[tokio::test]
async fn explain_says_whose_a_credential_is_and_why_it_is_refused() {
    let (database, redis) = (database().await, Redis::start().await);
    let folder = openwebui::setup(&database).set("auth.openwebui.redis_url", redis.url()).write();
    let explain = async |token: &str| portcullis(folder.path(), &["explain", "--token", token]).await;
    let said = explain(KEY).await;
    assert!(said.code == 0 && said.stdout.contains("api_key: believed"), "{said:?}");
    assert!(said.stdout.contains(JANE_EMAIL) && !said.stdout.contains(&KEY[3..]), "{said:?}");
    database.execute("UPDATE config SET value = 'false' WHERE key = 'auth.enable_api_keys'").await;
    let said = explain(KEY).await;
    assert!(said.code == 1 && said.stdout.contains("api_key: refused: api_key_not_allowed"), "{said:?}");
    database.execute("DELETE FROM api_key").await;
    let said = explain(KEY).await;
    assert!(said.code == 1 && said.stdout.contains("api_key: refused: unknown_api_key"), "{said:?}");

    let session = session_with(JANE, JANE_STAMP, "out", now(0));
    assert_eq!(explain(&session).await.code, 0);
    redis.sign_out("out").await;
    let said = explain(&session).await;
    assert!(said.code == 1 && said.stdout.contains("session: refused: signed_out"), "{said:?}");
}
