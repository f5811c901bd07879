//! Open WebUI's own tables, as its version 0.12.4 makes them, and the people in them.

use sqlx::PgConnection;

use super::{
    gateway::Setup,
    postgres::Database,
    tokens::{FORWARD_SECRET, now, sign},
};

/// The user of the recorded tokens and requests.
pub const JANE: &str = "c1118e2e-bf43-4378-9951-a36eb275199c";
pub const JANE_EMAIL: &str = "jane.doe@example.com";
/// The stamp of Jane's sessions when they were recorded.
pub const JANE_STAMP: &str = "f8f33222-f727-45aa-aa31-98e1aa6058c6";

/// A service key that may say whom it acts for.
pub const VOUCHING_KEY: &str = "a-service-key-that-may-vouch";
/// A service key that acts for itself.
pub const PLAIN_KEY: &str = "a-service-key-that-may-not";

/// What Open WebUI runs at its start.
pub const DDL: &str = include_str!("../../fixtures/openwebui-0.12.4.sql");

/// A new database with the tables and Jane.
pub async fn database() -> Database {
    let database = Database::create().await;
    database.execute(DDL).await;
    add_user(&database, JANE, JANE_EMAIL, Some(JANE_STAMP)).await;
    database
}

/// A gateway that has its grants and Open WebUI's tables in one database, and two service keys.
pub fn setup(database: &Database) -> Setup {
    Setup::new(&database.url())
        .set("auth.openwebui.database_url", database.url())
        .set("auth.openwebui.forward_jwt_secret", FORWARD_SECRET)
        .set("auth.service_keys.openwebui.key", VOUCHING_KEY)
        .set("auth.service_keys.openwebui.may_vouch", true)
        .set("auth.service_keys.openwebui.groups", vec!["MCP-Services"])
        .set("auth.service_keys.nightly.key", PLAIN_KEY)
        .set("auth.service_keys.nightly.groups", vec!["MCP-Services"])
}

/// Adds an active user with the role `user`.
pub async fn add_user(database: &Database, id: &str, email: &str, session_stamp: Option<&str>) {
    let connection = &mut database.connect().await;
    let user = "INSERT INTO \"user\" (id, name, email, role) VALUES ($1, $1, $2, 'user')";
    run(connection, user, &[Some(id), Some(email)]).await;
    let auth = "INSERT INTO auth (id, email, active, session_stamp) VALUES ($1, $2, true, $3)";
    run(connection, auth, &[Some(id), Some(email), session_stamp]).await;
}

/// Adds a group, below another if one is named; its id is its name.
pub async fn add_group(database: &Database, name: &str, parent: Option<&str>) {
    let group = "INSERT INTO \"group\" (id, name, parent_group_id) VALUES ($1, $1, $2)";
    run(&mut database.connect().await, group, &[Some(name), parent]).await;
}

/// Puts a user into a group.
pub async fn join(database: &Database, user_id: &str, group: &str) {
    let member = "INSERT INTO group_member (id, user_id, group_id) VALUES ($1 || '/' || $2, $1, $2)";
    run(&mut database.connect().await, member, &[Some(user_id), Some(group)]).await;
}

async fn run(connection: &mut PgConnection, sql: &'static str, values: &[Option<&str>]) {
    let mut query = sqlx::query(sql);
    for value in values {
        query = query.bind(*value);
    }
    query.execute(connection).await.unwrap();
}

/// `X-OpenWebUI-User-Jwt` as Open WebUI mints it.
pub fn user_jwt(id: &str, email: &str) -> String {
    let claims = serde_json::json!({"sub": id, "email": email, "name": "Somebody", "role": "user",
        "iss": "open-webui", "iat": now(0), "exp": now(300)});
    sign(&claims, FORWARD_SECRET)
}
