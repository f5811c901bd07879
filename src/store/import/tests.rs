//! Facts about importing, on real databases: Postgres to Postgres, Postgres to SQLite, SQLite to both.

use std::collections::BTreeMap;

use sqlx::Row;

use super::*;
use crate::names::SecretKey;
use crate::store::{
    DatabaseUrl, GrantRow, SealingSettings, Settings,
    scratch::{Scratch, on_ascii_postgres, on_both, on_postgres, on_sqlite},
};

/// The tables as the earlier gateway's documents have them, with what its operators had added.
const TABLES_THERE: &str = "
    CREATE TABLE user_tenant_access (id integer, user_email varchar(255), tenant_id varchar(100),
        access_level varchar(50) DEFAULT 'read', is_active boolean DEFAULT true, created_at timestamp);
    CREATE TABLE group_tenant_mapping (group_name varchar(255), tenant_id varchar(100));
    CREATE TABLE user_group_membership (user_email varchar(255), group_name varchar(255));
    CREATE TABLE tenant_server_keys (tenant_id varchar(255), server_id varchar(100), key_name varchar(255),
        key_value text);
    CREATE TABLE tenant_server_endpoints (tenant_id varchar(255), server_id varchar(100), endpoint_url text);";

const ROWS_THERE: &str = "
    INSERT INTO user_tenant_access (user_email, tenant_id, access_level, is_active) VALUES
        ('Jane@X.org', 'git', 'write', true), ('jane@x.org', 'git', 'read', true), ('jane@x.org', 'time', NULL, true),
        ('old@x.org', 'git', 'read', false), ('who@x.org', 'git', 'read', NULL), ('no@x.org', 'git', 'none', true),
        ('not an email', 'git', 'read', true), ('jane@x.org', 'Git Hub', 'read', true), (NULL, 'git', 'read', true),
        ('bob@x.org', 'elsewhere', 'read', true);
    INSERT INTO group_tenant_mapping VALUES ('MCP-Git', 'git'), ('MCP-Git', 'git'), ('mcp-git', 'git'), ('', 'git');
    INSERT INTO user_group_membership VALUES ('JANE@x.org', 'MCP-Git'), ('bob@x.org', 'MCP-Git ');
    INSERT INTO tenant_server_keys VALUES ('MCP-Git', 'git', 'token', 'hunter2-key'), ('MCP-Git', 'time', NULL, ''),
        ('Two', 'git', 'token', 'hunter2-a'), ('Two', 'git', 'token', 'hunter2-b');
    INSERT INTO tenant_server_endpoints VALUES ('MCP-Git', 'git', 'https://git.example/mcp'), ('MCP-Git', 'time', 'no');";

fn known() -> BTreeSet<ServerId> {
    ["git", "time"].map(|id| ServerId::parse(id).unwrap()).into()
}

/// What an import says, as lines.
struct Told {
    lines: Vec<String>,
    left_out: Vec<String>,
    is_complete: bool,
}

impl Told {
    #[track_caller]
    fn has(&self, line: &str) {
        assert!(self.lines.iter().any(|told| told == line), "{line}\nis not in\n{}", self.lines.join("\n"));
    }
}

async fn import_from(
    there: &Settings,
    schema: Option<&str>,
    store: &Store,
    mode: Mode,
) -> anyhow::Result<Told> {
    let source = Source::open(&there.url, schema)?;
    let mut left_out = Vec::new();
    let mut sink = |row: LeftOut| left_out.push(format!("{} {}: {}", row.table, row.place, row.reason));
    let report = store.import(&source, mode, &known(), &mut sink).await;
    source.close().await;
    let report = report?;
    let lines = report.tables.iter().map(|table| {
        let Counts { read, new, there, repeated, off, malformed, not_imported } = table.counts;
        assert_eq!(read, new + there + repeated + off + malformed + not_imported, "{}", table.table);
        let state = match &table.state {
            State::Absent => "absent".to_owned(),
            State::Read => String::new(),
            State::InUse => "in use ".to_owned(),
            State::Unreadable(reason) => reason.clone(),
        };
        format!("{} {state}{read}: {new} {there} {repeated} {off} {malformed} {not_imported}", table.table)
    });
    let mut lines: Vec<String> = lines.collect();
    for table in &report.tables {
        lines.extend(
            table
                .unknown_servers
                .named()
                .map(|(server, rows)| format!("{} unknown {server} {rows}", table.table)),
        );
        if !table.unread_columns.is_empty() {
            lines.push(format!("{} unread {}", table.table, table.unread_columns.join(" ")));
        }
    }
    lines.extend(report.elsewhere.iter().map(|schema| format!("elsewhere {schema}")));
    Ok(Told { lines, left_out, is_complete: report.is_complete() })
}

async fn import(there: &Scratch, store: &Store) -> Told {
    import_from(&there.settings, None, store, Mode::Write).await.unwrap()
}

async fn grants(store: &Store) -> Vec<String> {
    let mut rows = Vec::new();
    let mut sink = |row: GrantRow<'_>| {
        rows.push(match row {
            GrantRow::User { email, server } => format!("user {email} {server}"),
            GrantRow::Group { group, server } => format!("group {group} {server}"),
            GrantRow::Membership { email, group } => format!("member {email} {group}"),
            GrantRow::Rule { .. } | GrantRow::Key { .. } | GrantRow::Endpoint { .. } => return,
        });
    };
    store.load_grants(&mut sink).await.unwrap();
    rows.sort();
    rows
}

/// What a group has of its own here, its keys unsealed.
async fn belongings_of(store: &Store, group: &str) -> Vec<String> {
    let mut rows = Vec::new();
    let mut sink = |row: GrantRow<'_>| match row {
        GrantRow::Key { server, name, value, .. } => {
            rows.push(format!("{server} {name} {}", value.unwrap().expose()));
        }
        GrantRow::Endpoint { server, url, .. } => rows.push(format!("{server} {url}")),
        GrantRow::User { .. }
        | GrantRow::Group { .. }
        | GrantRow::Membership { .. }
        | GrantRow::Rule { .. } => {}
    };
    store.rows_about(&[crate::store::Subject::Group(group.to_owned())], &mut sink).await.unwrap();
    rows.sort_by_key(|row| row.contains("http"));
    rows
}

/// Runs a test with every pair of databases: where the rows are, and where they shall be.
async fn on_every_pair(test: impl AsyncFn(Scratch, Scratch)) {
    on_both(async |there| {
        // Moved into whichever pair comes first; settings are enough to connect again.
        let settings = there.settings.clone();
        on_both(async |here| test(Scratch { settings: settings.clone() }, here).await).await;
    })
    .await;
}

/// Empties the source's tables again, for the next pair.
async fn make_tables(there: &Scratch) {
    for table in Table::ALL {
        there.execute(&format!("DROP TABLE IF EXISTS {}", table.name())).await;
    }
    there.execute(TABLES_THERE).await;
    there.execute(ROWS_THERE).await;
}

fn sealing() -> SealingSettings {
    SealingSettings { keys: vec![SecretKey::parse(&"5a".repeat(32)).unwrap()], file: None }
}

#[tokio::test]
async fn what_counts_there_is_written_here_once_and_the_rest_is_told() {
    on_every_pair(async |there, mut here| {
        here.settings.sealing = sealing();
        make_tables(&there).await;
        let store = here.store().await;
        here.execute("INSERT INTO user_tenant_access VALUES ('JANE@X.org', 'time', 'read')").await;
        let told = import(&there, &store).await;
        told.has("user_tenant_access 10: 2 1 1 3 3 0");
        told.has("group_tenant_mapping 4: 2 0 1 0 1 0");
        told.has("user_group_membership 2: 1 0 0 0 1 0");
        told.has("tenant_server_keys 4: 1 0 0 0 3 0");
        told.has("tenant_endpoint_overrides absent0: 0 0 0 0 0 0");
        told.has("tenant_server_endpoints 2: 1 0 0 0 1 0");
        told.has("user_tenant_access unknown elsewhere 1");
        told.has("user_tenant_access unread id created_at");
        assert!(!told.is_complete);
        let place =
            if matches!(there.settings.url, DatabaseUrl::Postgres(_)) { "ctid (0,7)" } else { "rowid 7" };
        let left_out = told.left_out.join("\n");
        for words in [
            &format!("user_tenant_access {place}: `user_email` is \"not an email\": an email address is"),
            "`tenant_id` is \"Git Hub\": a server id is",
            "`user_email` is NULL",
            "switched off there by `is_active`",
            "`access_level` is \"none\", which is no access",
            "another row says something else of group `Two` and server `git`",
        ] {
            assert!(left_out.contains(words), "{words}: {left_out}");
        }
        assert_eq!(told.left_out.len(), 12, "{left_out}");
        assert!(!left_out.contains("hunter2"), "{left_out}");
        let expected = [
            "group MCP-Git git",
            "group mcp-git git",
            "member jane@x.org MCP-Git",
            "user JANE@X.org time",
            "user bob@x.org elsewhere",
            "user jane@x.org git",
        ];
        assert_eq!(grants(&store).await, expected);
        let [key, endpoint] = belongings_of(&store, "MCP-Git").await.try_into().unwrap();
        assert_eq!(
            (key.as_str(), endpoint.as_str()),
            ("git token hunter2-key", "git https://git.example/mcp")
        );
        let again = import(&there, &store).await;
        again.has("tenant_server_keys 4: 0 1 0 0 3 0");
        again.has("tenant_server_endpoints 2: 0 1 0 0 1 0");
        again.has("user_tenant_access 10: 0 3 1 3 3 0");
        again.has("group_tenant_mapping 4: 0 2 1 0 1 0");
        again.has("user_group_membership 2: 0 1 0 0 1 0");
        assert_eq!(grants(&store).await, expected);
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_comparison_counts_the_same_and_writes_nothing() {
    on_every_pair(async |there, here| {
        make_tables(&there).await;
        let compare =
            async |store: &Store| import_from(&there.settings, None, store, Mode::Compare).await.unwrap();
        // Before the first migration, too.
        let store = Store::open(&here.settings).unwrap();
        let told = compare(&store).await;
        told.has("user_tenant_access 10: 3 0 1 3 3 0");
        assert_ne!(store.pending_migrations().await.unwrap(), 0);
        store.migrate().await.unwrap();
        let (_, mut cursor) = (grants(&store).await, store.load_grants(&mut |_| ()).await.unwrap());
        compare(&store).await.has("user_tenant_access 10: 3 0 1 3 3 0");
        assert_eq!(store.changes_since(&mut cursor).await.unwrap(), crate::store::Changes::Nothing);
        assert_eq!(grants(&store).await, [""; 0]);
        store.close().await;
    })
    .await;
}

/// Everything that stands in the tables there, and who may do what with them.
async fn dump(there: &Scratch) -> Vec<String> {
    let mut connection = there.psql().await;
    let mut lines = Vec::new();
    for table in Table::ALL {
        let statement =
            format!("SELECT xmin::text || ctid::text || t::text FROM {} AS t ORDER BY 1", table.name());
        if let Ok(rows) = sqlx::query(sqlx::AssertSqlSafe(statement)).fetch_all(&mut connection).await {
            lines.extend(rows.iter().map(|row| row.get::<String, _>(0)));
        }
    }
    lines
}

#[tokio::test]
async fn a_role_that_may_only_read_is_enough_and_nothing_is_changed_there() {
    on_postgres(async |there| {
        make_tables(&there).await;
        there
            .execute(
                "DO $$ BEGIN CREATE ROLE portcullis_test_reader LOGIN PASSWORD 'reader'; \
                 EXCEPTION WHEN duplicate_object THEN NULL; END $$; \
                 GRANT SELECT ON ALL TABLES IN SCHEMA public TO portcullis_test_reader",
            )
            .await;
        let before = dump(&there).await;
        assert_eq!(before.len(), 22);
        let DatabaseUrl::Postgres(url) = &there.settings.url else { unreachable!() };
        let mut reader = url::Url::parse(url.expose()).unwrap();
        reader.set_username("portcullis_test_reader").unwrap();
        reader.set_password(Some("reader")).unwrap();
        let url = DatabaseUrl::Postgres(crate::names::Secret::new(reader.into()));
        let reader = Settings { url, ..there.settings.clone() };
        on_sqlite(async |here| {
            let store = here.store().await;
            let told = import_from(&reader, None, &store, Mode::Write).await.unwrap();
            told.has("user_tenant_access 10: 3 0 1 3 3 0");
            // A column that may not be read could be the one that switches rows off.
            there
                .execute(
                    "REVOKE SELECT ON user_tenant_access FROM portcullis_test_reader; \
                     GRANT SELECT (user_email, tenant_id, access_level) ON user_tenant_access TO portcullis_test_reader",
                )
                .await;
            let told = import_from(&reader, None, &store, Mode::Write).await.unwrap();
            let line = told.lines.iter().find(|line| line.starts_with("user_tenant_access")).unwrap();
            assert!(line.contains("its column `is_active` may not be read"), "{line}");
            store.close().await;
        })
        .await;
        assert_eq!(dump(&there).await, before);
    })
    .await;
}

#[tokio::test]
async fn the_gateways_own_tables_are_recognised_and_imported_from_no_twice() {
    on_postgres(async |scratch| {
        make_tables(&scratch).await;
        let store = scratch.store().await;
        let before = dump(&scratch).await;
        let told = import(&scratch, &store).await;
        told.has("user_tenant_access in use 10: 0 3 1 3 3 0");
        told.has("group_tenant_mapping in use 4: 0 2 1 0 1 0");
        told.has("tenant_server_keys in use 4: 0 4 0 0 0 0");
        told.has("tenant_server_endpoints in use 2: 0 2 0 0 0 0");
        assert!(!told.is_complete, "rows that are switched off there count here");
        assert_eq!(dump(&scratch).await, before);
        // The same database, another schema: rows go from one to the other.
        let settings = Settings { schema: "gate".into(), ..scratch.settings.clone() };
        let other = Store::open(&settings).unwrap();
        other.migrate().await.unwrap();
        let told = import_from(&scratch.settings, None, &other, Mode::Write).await.unwrap();
        told.has("user_tenant_access 10: 3 0 1 3 3 0");
        assert_eq!(grants(&other).await.len(), 6);
        assert_eq!(dump(&scratch).await, before);
        store.close().await;
        other.close().await;
    })
    .await;
    on_sqlite(async |scratch| {
        make_tables(&scratch).await;
        let store = scratch.store().await;
        let told = import(&scratch, &store).await;
        told.has("user_tenant_access in use 10: 0 3 1 3 3 0");
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn tables_in_another_schema_are_found_or_told_of() {
    on_postgres(async |there| {
        there.execute("CREATE SCHEMA \"Old One\"; SET search_path = \"Old One\"").await;
        there.execute(&format!("SET search_path = \"Old One\"; {TABLES_THERE} {ROWS_THERE}")).await;
        on_sqlite(async |here| {
            let store = here.store().await;
            let told = import(&there, &store).await;
            told.has("elsewhere Old One");
            assert!(!told.is_complete);
            let import = import_from(&there.settings, Some("Old One"), &store, Mode::Write);
            import.await.unwrap().has("user_tenant_access 10: 3 0 1 3 3 0");
            store.close().await;
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn tables_with_fewer_columns_are_read_and_those_without_names_are_not() {
    on_both(async |there| {
        there
            .execute(
                "CREATE TABLE user_tenant_access (user_email text, tenant_id text);
                 CREATE TABLE group_tenant_mapping (group_name text, server text);
                 CREATE TABLE tenant_endpoint_overrides (tenant_id text, server_id text, endpoint_url text, enabled integer);
                 CREATE TABLE tenant_server_endpoints (tenant_id text, server_id text, endpoint_url text);
                 CREATE VIEW user_group_membership AS SELECT user_email, 'Everybody' AS group_name FROM user_tenant_access;
                 INSERT INTO user_tenant_access VALUES ('a@x', 'git'), ('b@x', ' ');
                 INSERT INTO tenant_endpoint_overrides VALUES ('A', 'git', 'https://a.example', 1), ('B', 'git', 'https://b.example', 0),
                     ('C', 'git', 'https://c.example', 1);
                 INSERT INTO tenant_server_endpoints VALUES ('A', 'git', 'https://a.example'), ('C', 'git', 'https://d.example');",
            )
            .await;
        on_sqlite(async |here| {
            let store = here.store().await;
            let told = import(&there, &store).await;
            told.has("user_tenant_access 2: 1 0 0 0 1 0");
            told.has("group_tenant_mapping it has no column `tenant_id`0: 0 0 0 0 0 0");
            told.has("user_group_membership 2: 2 0 0 0 0 0");
            told.has("tenant_endpoint_overrides 3: 1 0 0 1 1 0");
            told.has("tenant_server_endpoints 2: 0 0 1 0 1 0");
            assert_eq!(grants(&store).await, ["member a@x Everybody", "member b@x Everybody", "user a@x git"]);
            store.close().await;
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_policy_that_hides_rows_is_an_error_and_not_fewer_rows() {
    on_postgres(async |there| {
        there
            .execute(
                "DO $$ BEGIN CREATE ROLE portcullis_test_guest LOGIN PASSWORD 'guest'; \
                 EXCEPTION WHEN duplicate_object THEN NULL; END $$; \
                 CREATE TABLE user_tenant_access (user_email text, tenant_id text); \
                 INSERT INTO user_tenant_access VALUES ('a@x', 'git'), ('b@x', 'git'); \
                 ALTER TABLE user_tenant_access ENABLE ROW LEVEL SECURITY; \
                 CREATE POLICY half ON user_tenant_access USING (user_email = 'a@x'); \
                 GRANT SELECT ON user_tenant_access TO portcullis_test_guest",
            )
            .await;
        let DatabaseUrl::Postgres(url) = &there.settings.url else { unreachable!() };
        let mut guest = url::Url::parse(url.expose()).unwrap();
        guest.set_username("portcullis_test_guest").unwrap();
        let url = DatabaseUrl::Postgres(crate::names::Secret::new(guest.into()));
        let guest = Settings { url, ..there.settings.clone() };
        on_sqlite(async |here| {
            let store = here.store().await;
            let error = import_from(&guest, None, &store, Mode::Write).await.err().unwrap();
            assert!(format!("{error:#}").contains("row-level security"), "{error:#}");
            assert_eq!(grants(&store).await, [""; 0]);
            store.close().await;
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_text_that_is_no_text_costs_its_own_row() {
    on_ascii_postgres(async |there| {
        there.execute("CREATE TABLE user_group_membership (user_email text, group_name text)").await;
        there
            .execute(
                r"INSERT INTO user_group_membership VALUES (E'\xff@x', 'G'), ('a@x', E'\xff'), ('a@x', 'G')",
            )
            .await;
        on_sqlite(async |here| {
            let store = here.store().await;
            let told = import(&there, &store).await;
            told.has("user_group_membership 3: 1 0 0 0 2 0");
            assert!(told.left_out[1].contains("`group_name` is no text in UTF-8"), "{:?}", told.left_out);
            assert_eq!(grants(&store).await, ["member a@x G"]);
            store.close().await;
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn an_import_that_fails_has_written_nothing() {
    on_every_pair(async |there, here| {
        make_tables(&there).await;
        let store = here.store().await;
        // The last table to be written refuses.
        let refusal = match here.settings.url {
            DatabaseUrl::Postgres(_) => {
                "ALTER TABLE user_group_membership ADD CHECK (group_name <> 'MCP-Git')"
            }
            DatabaseUrl::Sqlite(_) => {
                "CREATE TRIGGER refuse BEFORE INSERT ON user_group_membership \
                 BEGIN SELECT RAISE(ABORT, 'refused'); END"
            }
        };
        here.execute(refusal).await;
        let error = import_from(&there.settings, None, &store, Mode::Write).await.err().unwrap();
        assert!(format!("{error:#}").contains("could not write the grants: none was"), "{error:#}");
        assert_eq!(grants(&store).await, [""; 0]);
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn more_rows_than_are_held_at_once_are_one_change_to_a_running_gateway() {
    on_postgres(async |there| {
        there.execute("CREATE TABLE user_tenant_access (user_email text, tenant_id text)").await;
        let rows = BATCH * 2 + 7;
        let fill = format!(
            "INSERT INTO user_tenant_access SELECT 'User' || n % {} || '@x', 'git' FROM generate_series(1, {rows}) AS n",
            rows - 3
        );
        there.execute(&fill).await;
        on_postgres(async |here| {
            let store = here.store().await;
            let mut cursor = store.load_grants(&mut |_| ()).await.unwrap();
            let told = import(&there, &store).await;
            told.has(&format!("user_tenant_access {rows}: {} 0 3 0 0 0", rows - 3));
            assert!(told.is_complete);
            assert_eq!(store.changes_since(&mut cursor).await.unwrap(), crate::store::Changes::Everything);
            let noted: i64 = sqlx::query_scalar("SELECT count(*) FROM portcullis_changes")
                .fetch_one(&mut here.psql().await)
                .await
                .unwrap();
            assert_eq!(noted, 1);
            store.close().await;
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn names_of_tables_are_read_in_a_fixed_order() {
    let order: BTreeMap<_, _> = Table::ALL.into_iter().zip(0..).collect();
    assert_eq!(order.len(), Table::ALL.len());
    assert!(TABLES.iter().all(|table| table.is_of_grants()));
}

#[tokio::test]
async fn a_key_or_address_that_is_here_stays_and_without_a_sealing_key_none_comes() {
    on_every_pair(async |there, mut here| {
        here.settings.sealing = sealing();
        make_tables(&there).await;
        let store = here.store().await;
        let (group, server) = (GroupName::parse("MCP-Git").unwrap(), ServerId::parse("git").unwrap());
        store.set_key(&group, &server, "token", &crate::names::Secret::new("mine".to_owned())).await.unwrap();
        let mine = "INSERT INTO tenant_server_endpoints VALUES ('MCP-Git', 'git', 'https://mine.example')";
        here.execute(mine).await;
        let told = import(&there, &store).await;
        told.has("tenant_server_keys 4: 0 0 0 0 3 1");
        told.has("tenant_server_endpoints 2: 0 0 0 0 1 1");
        let left_out = told.left_out.join("\n");
        assert!(left_out.contains("another key is here under its name, and stays"), "{left_out}");
        assert!(left_out.contains("another address is here for this group and server"), "{left_out}");
        assert_eq!(belongings_of(&store, "MCP-Git").await, ["git token mine", "git https://mine.example"]);
        here.execute("DELETE FROM tenant_server_keys").await;
        let unsealed = Settings { sealing: Default::default(), ..here.settings.clone() };
        let store_without = Store::open(&unsealed).unwrap();
        let told = import(&there, &store_without).await;
        told.has("tenant_server_keys 4: 0 0 0 0 3 1");
        assert!(told.left_out.join("\n").contains("set `PORTCULLIS_SEALING_KEY`"), "{:?}", told.left_out);
        store.close().await;
        store_without.close().await;
    })
    .await;
}
