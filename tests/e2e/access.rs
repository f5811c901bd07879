//! Grants as operators write them, on both databases, and who may do what because of them.

use serde_json::json;
use sqlx::{Connection, SqliteConnection};

use crate::harness::{
    commands::portcullis,
    fake_peer::FakePeer,
    gateway::{Gateway, Setup},
    openwebui::PLAIN_KEY,
    postgres::Database,
    tokens::email_token,
};

/// The SQL that operators know, word for word.
pub const GRANT_USER: &str = "INSERT INTO user_tenant_access (user_email, tenant_id, access_level) VALUES ('user@company.com','github','read');";
pub const GRANT_GROUP: &str =
    "INSERT INTO group_tenant_mapping (group_name, tenant_id) VALUES ('MCP-GitHub','github');";

/// Where grants are: the same tests hold on both.
pub enum Grants {
    Postgres(Database),
    Sqlite(tempfile::TempDir),
}

impl Grants {
    pub async fn both() -> [Self; 2] {
        [Self::Postgres(Database::create().await), Self::Sqlite(tempfile::tempdir().unwrap())]
    }

    pub fn url(&self) -> String {
        match self {
            Self::Postgres(database) => database.url(),
            Self::Sqlite(folder) => format!("sqlite:{}", folder.path().join("grants.db").display()),
        }
    }

    pub async fn execute(&self, sql: &'static str) {
        match self {
            Self::Postgres(database) => database.execute(sql).await,
            Self::Sqlite(_) => {
                let mut connection = SqliteConnection::connect(&self.url()).await.unwrap();
                sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
        }
    }
}

async fn peer() -> FakePeer {
    FakePeer::start().await.with_json("search", json!({"found": []}))
}

fn setup(grants: &Grants, peer: &FakePeer) -> Setup {
    Setup::new(&grants.url()).server("github", &peer.url()).server("notes", &peer.url())
}

/// The ids in `GET /servers`.
async fn servers(gateway: &Gateway, token: &str) -> Vec<String> {
    let listing = gateway.get("/servers", token).await.json();
    let servers = listing["servers"].as_array().unwrap().iter();
    servers.map(|server| server["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_sql_operators_know_grants_and_revokes() {
    for grants in Grants::both().await {
        let peer = peer().await;
        let gateway = setup(&grants, &peer).start().await;
        let token = email_token("user@company.com");
        let refused = gateway.call("/github/search", &token, &json!({})).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (403, "not_granted"));
        assert!(!refused.text().contains('@'), "{}", refused.text());
        assert_eq!(servers(&gateway, &token).await, [""; 0]);

        grants.execute(GRANT_USER).await;
        gateway.call_until("/github/search", &token, 200).await;
        assert_eq!(servers(&gateway, &token).await, ["github"]);
        assert_eq!(gateway.call("/notes/search", &token, &json!({})).await.code(), "not_granted");
        let stranger = email_token("other@company.com");
        assert_eq!(gateway.call("/github/search", &stranger, &json!({})).await.code(), "not_granted");

        grants.execute("DELETE FROM user_tenant_access WHERE user_email = 'user@company.com'").await;
        gateway.call_until("/github/search", &token, 403).await;
        assert_eq!(servers(&gateway, &token).await, [""; 0]);
    }
}

#[tokio::test]
async fn a_group_grants_to_its_members_alone() {
    for grants in Grants::both().await {
        let peer = peer().await;
        let gateway = setup(&grants, &peer).start().await;
        let token = email_token("user@company.com");
        grants.execute(GRANT_GROUP).await;
        gateway.await_grants(1).await;
        assert_eq!(gateway.call("/github/search", &token, &json!({})).await.code(), "not_granted");
        grants
            .execute("INSERT INTO user_group_membership (user_email, group_name) VALUES ('User@Company.com','MCP-GitHub')")
            .await;
        gateway.call_until("/github/search", &token, 200).await;
        grants.execute("UPDATE group_tenant_mapping SET tenant_id = 'notes'").await;
        gateway.call_until("/github/search", &token, 403).await;
        assert_eq!(gateway.call("/notes/search", &token, &json!({})).await.status, 200);
        grants.execute("UPDATE user_group_membership SET group_name = 'mcp-github'").await;
        gateway.call_until("/notes/search", &token, 403).await;
    }
}

#[tokio::test]
async fn emails_match_whatever_their_case() {
    for grants in Grants::both().await {
        let peer = peer().await;
        let gateway = setup(&grants, &peer).start().await;
        grants
            .execute(
                "INSERT INTO user_tenant_access (user_email, tenant_id) VALUES ('Mixed.Case@Company.COM','github')",
            )
            .await;
        for email in ["mixed.case@company.com", "MIXED.CASE@COMPANY.COM", "Mixed.Case@Company.COM"] {
            gateway.call_until("/github/search", &email_token(email), 200).await;
        }
        // A second row for the same person: both have to go before the grant does.
        let (token, witness) = (email_token("mixed.case@company.com"), email_token("witness@company.com"));
        grants
            .execute(
                "INSERT INTO user_tenant_access (user_email, tenant_id) \
                 VALUES ('MIXED.CASE@company.com','github'), ('witness@company.com','github')",
            )
            .await;
        gateway.call_until("/github/search", &witness, 200).await;
        grants
            .execute(
                "DELETE FROM user_tenant_access WHERE user_email IN ('Mixed.Case@Company.COM','witness@company.com')",
            )
            .await;
        gateway.call_until("/github/search", &witness, 403).await;
        assert_eq!(gateway.call("/github/search", &token, &json!({})).await.status, 200);
        grants.execute("DELETE FROM user_tenant_access").await;
        gateway.call_until("/github/search", &token, 403).await;
    }
}

#[tokio::test]
async fn a_member_of_the_admin_group_may_use_everything_until_they_are_none() {
    for grants in Grants::both().await {
        let peer = peer().await;
        let setup = setup(&grants, &peer).set("access.admin_group", "Root");
        let gateway = setup.start().await;
        grants
            .execute(
                "INSERT INTO user_group_membership (user_email, group_name) \
                 VALUES ('admin@company.com','Root'), ('user@company.com','MCP-Admin')",
            )
            .await;
        let (admin, other) = (email_token("admin@company.com"), email_token("user@company.com"));
        gateway.call_until("/github/search", &admin, 200).await;
        assert_eq!(servers(&gateway, &admin).await, ["github", "notes"]);
        assert_eq!(gateway.call("/refresh", &admin, &json!({})).await.status.as_u16() / 100, 2);
        assert_eq!(gateway.call("/refresh", &other, &json!({})).await.code(), "admin_only");
        assert_eq!(gateway.call("/github/search", &other, &json!({})).await.code(), "not_granted");
        grants.execute("DELETE FROM user_group_membership WHERE group_name = 'Root'").await;
        gateway.call_until("/notes/search", &admin, 403).await;
        assert_eq!(gateway.call("/refresh", &admin, &json!({})).await.code(), "admin_only");
    }
}

#[tokio::test]
async fn a_concealed_server_answers_like_one_that_does_not_exist() {
    let grants = Grants::Postgres(Database::create().await);
    let peer = peer().await;
    let gateway = setup(&grants, &peer).set("access.conceal", true).start().await;
    let token = email_token("user@company.com");
    let call = |path: String| gateway.call_request(&path, &token, &json!({})).header("x-request-id", "same");
    for path in ["/{}/search", "/{}/nothing", "/{}_search"] {
        let hidden = gateway.send(call(path.replace("{}", "github"))).await;
        let missing = gateway.send(call(path.replace("{}", "nowhere"))).await;
        assert_eq!((hidden.status.as_u16(), hidden.code().as_str()), (404, "unknown_server"), "{path}");
        assert_eq!(hidden.text(), missing.text(), "{path}");
        let names = |answer: &crate::harness::gateway::Answer| {
            answer.headers.keys().map(|name| name.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&hidden), names(&missing), "{path}");
    }
    for page in ["/github", "/github/openapi.json"] {
        assert_eq!(gateway.get(page, &token).await.code(), "unknown_server", "{page}");
    }
    grants.execute(GRANT_USER).await;
    gateway.call_until("/github/search", &token, 200).await;
}

#[tokio::test]
async fn everything_is_revoked_by_truncate() {
    let database = Database::create().await;
    let peer = peer().await;
    let grants = Grants::Postgres(database);
    let gateway = setup(&grants, &peer).start().await;
    let token = email_token("user@company.com");
    for (table, grant) in [
        ("user_tenant_access", GRANT_USER),
        (
            "user_group_membership",
            "INSERT INTO user_group_membership VALUES ('user@company.com', 'MCP-Admin')",
        ),
    ] {
        grants.execute(grant).await;
        gateway.call_until("/github/search", &token, 200).await;
        grants
            .execute(if table == "user_tenant_access" {
                "TRUNCATE user_tenant_access"
            } else {
                "TRUNCATE user_group_membership"
            })
            .await;
        gateway.call_until("/github/search", &token, 403).await;
    }
    grants.execute(GRANT_GROUP).await;
    grants.execute("INSERT INTO user_group_membership VALUES ('user@company.com', 'MCP-GitHub')").await;
    gateway.call_until("/github/search", &token, 200).await;
    grants.execute("TRUNCATE group_tenant_mapping").await;
    gateway.call_until("/github/search", &token, 403).await;
}

#[tokio::test]
async fn a_service_is_granted_by_its_groups() {
    let grants = Grants::Postgres(Database::create().await);
    let peer = peer().await;
    let setup = setup(&grants, &peer)
        .set("auth.service_keys.nightly.key", PLAIN_KEY)
        .set("auth.service_keys.nightly.groups", vec!["MCP-GitHub"]);
    let gateway = setup.start().await;
    assert_eq!(gateway.call("/github/search", PLAIN_KEY, &json!({})).await.code(), "not_granted");
    grants.execute(GRANT_GROUP).await;
    gateway.call_until("/github/search", PLAIN_KEY, 200).await;
    assert_eq!(gateway.call("/notes/search", PLAIN_KEY, &json!({})).await.code(), "not_granted");
    // A user cannot become a service by being called like one.
    let impostor = email_token("service:nightly");
    assert_eq!(gateway.call("/github/search", &impostor, &json!({})).await.code(), "invalid_credential");
}

#[tokio::test]
async fn grant_and_revoke_change_a_running_gateway() {
    for grants in Grants::both().await {
        let peer = peer().await;
        let gateway = setup(&grants, &peer).start().await;
        let token = email_token("user@company.com");
        for words in [
            &["--user", "User@Company.com", "github"][..],
            &["--group", "MCP-GitHub", "github"],
            &["--user", "user@company.com", "--member-of", "MCP-Admin"],
        ] {
            let said = portcullis(gateway.folder.path(), &[&["grant"], words].concat()).await;
            assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{said:?}");
            if words[0] == "--group" {
                gateway.await_grants(1).await;
            } else {
                gateway.call_until("/github/search", &token, 200).await;
            }
            let again = portcullis(gateway.folder.path(), &[&["grant"], words].concat()).await;
            assert_eq!(again.code, 0, "{again:?}");
            assert!(again.stderr.contains("(and was before)"), "{again:?}");
            let said = portcullis(gateway.folder.path(), &[&["revoke"], words].concat()).await;
            assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{said:?}");
            assert!(said.stderr.contains("1 rows removed"), "{said:?}");
            gateway.call_until("/github/search", &token, 403).await;
            gateway.await_grants(0).await;
        }
    }
}
