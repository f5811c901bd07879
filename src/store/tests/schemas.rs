//! Facts about schemas and their owners: where our tables stand, who may write them, and how they come to be.

use super::*;

/// How many migrations there are for this database.
fn all(scratch: &Scratch) -> usize {
    match scratch.settings.url {
        DatabaseUrl::Postgres(_) => crate::store::migrations::postgres(),
        DatabaseUrl::Sqlite(_) => crate::store::migrations::sqlite(),
    }
    .iter()
    .count()
}

#[tokio::test]
async fn another_schema_works_whatever_the_writers_search_path() {
    on_postgres(async |mut scratch| {
        scratch.settings.schema = "Odd \"name".into();
        let store = scratch.store().await;
        let (_, mut cursor) = load(&store).await;
        // This connection's search_path is the server's: `public`, where there is no such table.
        scratch.execute(r#"INSERT INTO "Odd ""name".user_tenant_access VALUES ('a@x', 'git')"#).await;
        assert_eq!(told(&store, &mut cursor).await, "a@x");
        let rule = r#"INSERT INTO "Odd ""name".tool_rules VALUES ('group', 'G', 'git', '*', 'deny')"#;
        scratch.execute(rule).await;
        assert_eq!(told(&store, &mut cursor).await, "[G]");
        assert_eq!(load(&store).await.0, ["rule group G git * deny", "user a@x git"]);
        assert_eq!(store.pending_migrations().await.unwrap(), 0);
        scratch.settings.schema = "public".into();
        assert_eq!(
            Store::open(&scratch.settings).unwrap().pending_migrations().await.unwrap(),
            all(&scratch)
        );
    })
    .await;
}

#[tokio::test]
async fn a_writer_needs_no_rights_on_the_feed_and_cannot_divert_it() {
    on_postgres(async |scratch| {
        let store = scratch.store().await;
        let (_, mut cursor) = load(&store).await;
        let mut writer = scratch.psql().await;
        writer
            .execute(
                "DO $$ BEGIN CREATE ROLE portcullis_test_operator; EXCEPTION WHEN duplicate_object THEN NULL; END $$; \
                 GRANT SELECT, INSERT, DELETE ON user_tenant_access, tool_rules TO portcullis_test_operator; \
                 SET ROLE portcullis_test_operator; \
                 CREATE TEMPORARY TABLE portcullis_changes (kind text, subject text); \
                 INSERT INTO user_tenant_access VALUES ('a@x', 'git'); \
                 INSERT INTO tool_rules VALUES ('group', 'G', 'git', '*', 'deny')",
            )
            .await
            .unwrap();
        assert_eq!(told(&store, &mut cursor).await, "a@x [G]");
        writer.execute("CREATE TEMPORARY TABLE mine (user_email text, subject text)").await.unwrap();
        for function in ["portcullis_note_users", "portcullis_note_rules", "portcullis_note_pins"] {
            let attach = format!("CREATE TRIGGER t AFTER TRUNCATE ON mine FOR EACH STATEMENT EXECUTE FUNCTION {function}()");
            let attached = writer.execute(sqlx::AssertSqlSafe(attach)).await;
            assert!(attached.is_err(), "only the owner may attach the feed's functions");
        }
    })
    .await;
}

#[tokio::test]
async fn stores_that_migrate_at_once_wait_for_each_other() {
    on_both(async |scratch| {
        let stores: Vec<_> = (0..3).map(|_| Store::open(&scratch.settings).unwrap()).collect();
        assert_eq!(stores[0].pending_migrations().await.unwrap(), all(&scratch));
        let (a, b, c) = tokio::join!(stores[0].migrate(), stores[1].migrate(), stores[2].migrate());
        a.unwrap();
        b.unwrap();
        c.unwrap();
        assert_eq!(stores[2].pending_migrations().await.unwrap(), 0);
        stores[1].migrate().await.unwrap();
        // A newer gateway has been here: the older one runs on.
        scratch
            .execute(
                "INSERT INTO portcullis_migrations \
            (version, description, success, checksum, execution_time) VALUES (9999, 'newer', true, '', 0)",
            )
            .await;
        stores[1].migrate().await.unwrap();
        assert_eq!(stores[1].pending_migrations().await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn tables_of_an_earlier_gateway_are_taken_as_they_are() {
    on_both(async |scratch| {
        scratch.execute("CREATE TABLE user_tenant_access (id integer, user_email varchar(255), tenant_id varchar(100), \
                access_level varchar(50) DEFAULT 'read', created_at timestamp);
            CREATE TABLE group_tenant_mapping (id integer, group_name varchar(255), tenant_id varchar(100));
            INSERT INTO user_tenant_access (user_email, tenant_id) VALUES ('Old@x', 'git'), (NULL, 'git'), ('no@x', NULL);
            INSERT INTO group_tenant_mapping (group_name, tenant_id) VALUES ('G', 'git'), ('G', 'git');").await;
        let store = scratch.store().await;
        let (rows, mut cursor) = load(&store).await;
        assert_eq!(rows, ["group G git", "group G git", "user Old@x git"]);
        assert!(!store.grant_user(&email("old@x"), &server("git")).await.unwrap());
        assert_eq!(store.revoke_group(&group("G"), &server("git")).await.unwrap(), 2);
        assert_eq!(told(&store, &mut cursor).await, "[G]");
    })
    .await;
}
