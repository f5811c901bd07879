//! Facts about both databases, told through `Store` alone.

mod audit;
mod entries;
mod malformed;
mod pins;
mod replaced;
mod rules;
mod schemas;
mod tenants;

use std::time::Instant;

use sqlx::{Executor, PgConnection};

use super::{
    scratch::{Scratch, on_both, on_postgres, on_sqlite},
    *,
};

const OPERATORS_SQL: &str = "
    INSERT INTO user_tenant_access (user_email, tenant_id, access_level) VALUES ('user@company.com','github','read');
    INSERT INTO group_tenant_mapping (group_name, tenant_id) VALUES ('MCP-GitHub','github');";

const OPERATORS_RULE: &str =
    "INSERT INTO tool_rules VALUES ('group','MCP-GitHub','github','delete_*','deny')";

fn email(text: &str) -> Email {
    Email::parse(text).unwrap()
}

fn server(text: &str) -> ServerId {
    ServerId::parse(text).unwrap()
}

fn group(text: &str) -> GroupName {
    GroupName::parse(text).unwrap()
}

fn text(row: GrantRow<'_>) -> String {
    match row {
        GrantRow::User { email, server } => format!("user {email} {server}"),
        GrantRow::Group { group, server } => format!("group {group} {server}"),
        GrantRow::Membership { email, group } => format!("member {email} {group}"),
        GrantRow::Rule { kind, subject, server, pattern, effect } => {
            format!("rule {kind} {subject} {server} {pattern} {effect}")
        }
        GrantRow::Key { group, server, name, value } => {
            let value = value.map_or_else(|why| format!("({why:?})"), |value| value.expose().clone());
            format!("key {group} {server} {name} {value}")
        }
        GrantRow::Endpoint { group, server, url } => format!("endpoint {group} {server} {url}"),
    }
}

async fn load(store: &Store) -> (Vec<String>, Cursor) {
    let mut rows = Vec::new();
    let cursor = store.load_grants(&mut |row| rows.push(text(row))).await.unwrap();
    rows.sort();
    (rows, cursor)
}

async fn about(store: &Store, subjects: &[Subject]) -> Vec<String> {
    let mut rows = Vec::new();
    store.rows_about(subjects, &mut |row| rows.push(text(row))).await.unwrap();
    rows.sort();
    rows
}

fn user(email: &str) -> Subject {
    Subject::User(email.into())
}

/// What the feed tells next: `nothing`, `everything`, or whose grants changed.
async fn told(store: &Store, cursor: &mut Cursor) -> String {
    // As the gateway does: what cannot be read now is read at a later poll.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let changes = loop {
        match store.changes_since(cursor).await {
            Ok(changes) => break changes,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error:#}"),
        }
        tokio::task::yield_now().await;
    };
    match changes {
        Changes::Nothing => "nothing".into(),
        Changes::Everything => "everything".into(),
        Changes::Subjects(mut subjects) => {
            subjects.sort();
            let names: Vec<_> = subjects
                .into_iter()
                .map(|subject| match subject {
                    Subject::User(name) => name,
                    Subject::Group(name) => format!("[{name}]"),
                })
                .collect();
            names.join(" ")
        }
    }
}

/// Runs `sql` and checks what a reader is told of it, once.
async fn check(scratch: &Scratch, store: &Store, cursor: &mut Cursor, sql: &str, expected: &str) {
    scratch.execute(sql).await;
    assert_eq!(told(store, cursor).await, expected, "{sql}");
    if expected != "everything" {
        assert_eq!(told(store, cursor).await, "nothing", "told twice: {sql}");
    }
}

#[tokio::test]
async fn the_sql_operators_know_works_and_loads() {
    on_both(async |scratch| {
        let store = scratch.store().await;
        scratch.execute(OPERATORS_SQL).await;
        store.join_group(&email("User@Company.com"), &group("MCP-GitHub")).await.unwrap();
        let (rows, _) = load(&store).await;
        assert_eq!(
            rows,
            ["group MCP-GitHub github", "member user@company.com MCP-GitHub", "user user@company.com github"]
        );
        store.close().await;
        assert!(store.pending_migrations().await.is_err());
    })
    .await;
}

#[tokio::test]
async fn every_way_to_change_a_grant_is_told_once() {
    on_both(async |scratch| {
        let store = scratch.store().await;
        let (_, mut cursor) = load(&store).await;
        let (scratch, store, cursor) = (&scratch, &store, &mut cursor);
        check(scratch, store, cursor, OPERATORS_SQL, "user@company.com [MCP-GitHub]").await;
        check(
            scratch,
            store,
            cursor,
            "UPDATE user_tenant_access SET user_email = 'New@x'",
            "New@x user@company.com",
        )
        .await;
        check(scratch, store, cursor, "UPDATE user_tenant_access SET tenant_id = 'git'", "New@x").await;
        check(scratch, store, cursor, "INSERT INTO user_group_membership VALUES ('m@x', 'G')", "m@x").await;
        check(scratch, store, cursor, "UPDATE user_group_membership SET group_name = 'H'", "m@x").await;
        check(scratch, store, cursor, "DELETE FROM user_group_membership", "m@x").await;
        check(scratch, store, cursor, "UPDATE group_tenant_mapping SET group_name = 'G'", "[G] [MCP-GitHub]")
            .await;
        check(scratch, store, cursor, "DELETE FROM group_tenant_mapping", "[G]").await;
        check(scratch, store, cursor, "DELETE FROM user_tenant_access WHERE tenant_id = 'none'", "nothing")
            .await;
        check(scratch, store, cursor, "DELETE FROM user_tenant_access", "New@x").await;
        check(
            scratch,
            store,
            cursor,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) \
             INSERT INTO user_tenant_access (user_email, tenant_id) SELECT 'u' || i || '@x', 'git' FROM n",
            "everything",
        )
        .await;
        assert_eq!(told(store, cursor).await, "everything", "until the cursor of a new load takes over");
        let (rows, mut cursor) = load(store).await;
        assert_eq!(rows.len(), 10_000);
        assert_eq!(told(store, &mut cursor).await, "nothing");
    })
    .await;
}

#[tokio::test]
async fn truncate_is_everything() {
    on_postgres(async |scratch| {
        let store = scratch.store().await;
        for table in ["user_tenant_access", "user_group_membership", "group_tenant_mapping", "tool_rules"] {
            let (_, mut cursor) = load(&store).await;
            check(&scratch, &store, &mut cursor, &format!("TRUNCATE {table}"), "everything").await;
        }
    })
    .await;
}

#[tokio::test]
async fn five_hundred_subjects_are_named_and_one_more_is_everything() {
    on_postgres(async |scratch| {
        let store = scratch.store().await;
        let (_, mut cursor) = load(&store).await;
        scratch
            .execute(
                "INSERT INTO user_tenant_access SELECT i || '@x', 'git' FROM generate_series(1, 500) AS i",
            )
            .await;
        let Changes::Subjects(subjects) = store.changes_since(&mut cursor).await.unwrap() else {
            panic!("not named")
        };
        assert_eq!(subjects.len(), 500);
        scratch.execute("DELETE FROM user_tenant_access").await;
        scratch
            .execute(
                "INSERT INTO user_tenant_access SELECT i || '@x', 'git' FROM generate_series(1, 501) AS i",
            )
            .await;
        assert_eq!(told(&store, &mut cursor).await, "everything");
    })
    .await;
}

#[tokio::test]
async fn changes_that_commit_out_of_order_are_all_told() {
    on_postgres(async |scratch| {
        let store = scratch.store().await;
        let insert = |name| format!("INSERT INTO user_tenant_access VALUES ('{name}@x', 'git')");
        let run = async |connection: &mut PgConnection, sql: String| {
            connection.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
        };
        let (mut early, mut middle, mut late) =
            (scratch.psql().await, scratch.psql().await, scratch.psql().await);
        run(&mut early, "BEGIN".into()).await;
        run(&mut early, insert("early")).await;
        let (rows, mut cursor) = load(&store).await;
        assert!(rows.is_empty());
        run(&mut middle, "BEGIN".into()).await;
        run(&mut middle, "SAVEPOINT s".into()).await; // a subtransaction has an id of its own
        run(&mut middle, insert("middle")).await;
        run(&mut late, insert("late")).await;
        assert_eq!(told(&store, &mut cursor).await, "late@x");
        assert_eq!(told(&store, &mut cursor).await, "nothing");
        run(&mut middle, "COMMIT".into()).await;
        assert_eq!(told(&store, &mut cursor).await, "middle@x");
        run(&mut late, insert("later")).await;
        assert_eq!(told(&store, &mut cursor).await, "later@x");
        run(&mut early, "COMMIT".into()).await;
        assert_eq!(told(&store, &mut cursor).await, "early@x");
        assert_eq!(told(&store, &mut cursor).await, "nothing");
        run(&mut late, format!("BEGIN; {}; ROLLBACK", insert("never"))).await;
        assert_eq!(told(&store, &mut cursor).await, "nothing");
    })
    .await;
}

#[tokio::test]
async fn concurrent_writers_lose_nothing() {
    on_postgres(async |scratch| {
        let store = scratch.store().await;
        let (_, mut cursor) = load(&store).await;
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let store = Store::open(&scratch.settings).unwrap();
                tokio::spawn(async move {
                    for n in 0..50 {
                        store.grant_user(&email(&format!("{writer}.{n}@x")), &server("git")).await.unwrap();
                    }
                    store.close().await;
                })
            })
            .collect();
        let mut seen = std::collections::HashSet::new();
        let deadline = Instant::now() + Duration::from_secs(30);
        while seen.len() < 200 && Instant::now() < deadline {
            if let Changes::Subjects(subjects) = store.changes_since(&mut cursor).await.unwrap() {
                for subject in subjects {
                    assert!(seen.insert(subject), "told twice");
                }
            }
        }
        assert_eq!(seen.len(), 200);
        for writer in writers {
            writer.await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_commit_is_heard_at_once_and_several_are_one() {
    on_postgres(async |scratch| {
        let store = scratch.store().await;
        let mut listener = store.listen().await.unwrap().unwrap();
        let (_, mut cursor) = load(&store).await;
        let mut writer = scratch.psql().await;
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            writer
                .execute(
                    "DELETE FROM group_tenant_mapping; INSERT INTO group_tenant_mapping VALUES ('G', 'git')",
                )
                .await
                .unwrap();
            let committed = Instant::now();
            within(ANSWER, listener.changed()).await.unwrap();
            assert_eq!(told(&store, &mut cursor).await, "[G]");
            slowest = slowest.max(committed.elapsed());
        }
        println!("slowest of 20 from commit to told: {slowest:?}");
        assert!(slowest < Duration::from_millis(100), "{slowest:?}");
        let idle = within(Duration::from_millis(50), listener.changed()).await;
        assert!(idle.is_err(), "nothing changed, nothing heard");

        writer
            .execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
            WHERE datname = current_database() AND application_name = 'portcullis'",
            )
            .await
            .unwrap();
        let broken =
            tokio::time::timeout(ANSWER, listener.changed()).await.expect("notices the broken connection");
        assert!(broken.is_err());
        assert!(store.listen().await.unwrap().is_some(), "and can listen anew");
    })
    .await;
    on_sqlite(async |scratch| assert!(scratch.store().await.listen().await.unwrap().is_none())).await;
}

#[tokio::test]
async fn grants_match_emails_without_regard_to_case() {
    on_both(async |scratch| {
        let store = scratch.store().await;
        scratch
            .execute(
                "INSERT INTO user_tenant_access VALUES ('Jane@X.org', 'git', 'read');
            INSERT INTO user_group_membership VALUES ('JANE@x.org', 'G')",
            )
            .await;
        let jane = email("jane@x.org");
        assert!(!store.grant_user(&jane, &server("git")).await.unwrap(), "was there already");
        assert!(store.grant_user(&jane, &server("time")).await.unwrap());
        assert!(!store.join_group(&jane, &group("G")).await.unwrap());
        assert!(store.grant_group(&group("G"), &server("git")).await.unwrap());
        assert!(!store.grant_group(&group("G"), &server("git")).await.unwrap());
        assert_eq!(
            about(&store, &[user("jAne@x.org"), Subject::Group("G".into())]).await,
            ["group G git", "member JANE@x.org G", "user Jane@X.org git", "user jane@x.org time"]
        );
        assert_eq!(about(&store, &[Subject::Group("g".into())]).await, [""; 0], "group names match exactly");
        assert_eq!(about(&store, &[]).await, [""; 0]);
        assert_eq!(store.revoke_user(&jane, &server("git")).await.unwrap(), 1);
        assert_eq!(store.revoke_user(&jane, &server("git")).await.unwrap(), 0);
        assert_eq!(store.leave_group(&jane, &group("G")).await.unwrap(), 1);
        assert_eq!(store.revoke_group(&group("G"), &server("git")).await.unwrap(), 1);
        assert_eq!(load(&store).await.0, ["user jane@x.org time"]);
    })
    .await;
}

#[tokio::test]
async fn a_cursor_the_database_does_not_know_is_everything() {
    on_sqlite(async |scratch| {
        let store = scratch.store().await;
        let (_, start) = load(&store).await;
        scratch.execute(OPERATORS_SQL).await;
        let (_, ahead) = load(&store).await;
        scratch.execute("DELETE FROM portcullis_changes WHERE id = 1").await;
        assert_eq!(told(&store, &mut start.clone()).await, "everything", "older than what is kept");
        scratch.execute("DELETE FROM portcullis_changes").await;
        assert_eq!(told(&store, &mut start.clone()).await, "everything", "nothing is kept");
        assert_eq!(told(&store, &mut ahead.clone()).await, "nothing", "had read it all");
        scratch.execute("UPDATE sqlite_sequence SET seq = 1 WHERE name = 'portcullis_changes'").await;
        assert_eq!(told(&store, &mut ahead.clone()).await, "everything", "a restored backup");
    })
    .await;
}

#[tokio::test]
async fn an_unreadable_url_says_nothing_of_its_password() {
    for url in
        ["postgres://u:hunter2@host:port/db", "postgres://u:hunter2@127.0.0.1:1/db", "postgres://hunter2"]
    {
        let url = DatabaseUrl::Postgres(Secret::new(url.into()));
        let settings =
            Settings { url, schema: "public".into(), auto_migrate: false, sealing: Default::default() };
        let error = match Store::open(&settings) {
            Ok(store) => store.pending_migrations().await.unwrap_err(),
            Err(error) => error,
        };
        assert!(!format!("{error:?} {error:#}").contains("hunter2"), "{error:#}");
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}

#[test]
fn a_store_opens_without_a_runtime_and_without_a_database() {
    let url = DatabaseUrl::Postgres(Secret::new("postgres://127.0.0.1:1/none".into()));
    assert!(
        Store::open(&Settings { url, schema: "x".into(), auto_migrate: false, sealing: Default::default() })
            .is_ok()
    );
    let url = DatabaseUrl::Sqlite("/nowhere/portcullis.db".into());
    assert!(
        Store::open(&Settings { url, schema: "x".into(), auto_migrate: false, sealing: Default::default() })
            .is_ok()
    );
}
