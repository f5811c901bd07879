//! `portcullis import` on the real binary: what the earlier gateway's operators had is here afterwards, and nothing has
//! changed there.

use std::{path::Path, process::Command};

use serde_json::json;

use crate::harness::{
    chaos::Chaos,
    commands::{Said, portcullis, portcullis_told},
    fake_peer::FakePeer,
    gateway::Setup,
    postgres::{Database, given},
    tokens::email_token,
};

const TABLES: &str = "
    CREATE TABLE user_tenant_access (id serial PRIMARY KEY, user_email varchar(255) NOT NULL,
        tenant_id varchar(100) NOT NULL, access_level varchar(50) DEFAULT 'read', is_active boolean DEFAULT true);
    CREATE TABLE group_tenant_mapping (group_name varchar(255), tenant_id varchar(100));
    CREATE TABLE user_group_membership (user_email varchar(255), group_name varchar(255));
    CREATE TABLE tenant_server_keys (tenant_id varchar(255), server_id varchar(100), key_name varchar(100),
        key_value text);
    CREATE TABLE tenant_endpoint_overrides (tenant_id varchar(255), server_id varchar(100), endpoint_url text);
    INSERT INTO user_tenant_access (user_email, tenant_id, is_active) VALUES ('Ann@Company.com', 'github', true),
        ('ann@company.com', 'github', true), ('gone@company.com', 'github', false), ('nobody', 'github', true),
        ('ann@company.com', 'sonar', true);
    INSERT INTO group_tenant_mapping VALUES ('MCP-GitHub', 'github');
    INSERT INTO user_group_membership VALUES ('Bob@Company.com', 'MCP-GitHub');
    INSERT INTO tenant_server_keys VALUES ('MCP-Team', 'github', 'token', 'hunter2-value');
    INSERT INTO tenant_endpoint_overrides VALUES ('MCP-Team', 'github', 'https://hunter2.example/mcp');";

/// Of the tables above, on a first run.
const REPORT: &str = "\
user_tenant_access: left out: ctid (0,3): it is switched off there by `is_active`
user_tenant_access: left out: ctid (0,4): `user_email` is \"nobody\": an email address is `local@domain` of at most 254 bytes without spaces
user_tenant_access: 5 read, 2 new, 0 already there, 1 repeated, 1 switched off, 1 malformed, 0 not imported
user_tenant_access: columns not looked at: id
user_tenant_access: `sonar` is not in servers.toml: 1 rows count once it is
group_tenant_mapping: 1 read, 1 new, 0 already there, 0 repeated, 0 switched off, 0 malformed, 0 not imported
user_group_membership: 1 read, 1 new, 0 already there, 0 repeated, 0 switched off, 0 malformed, 0 not imported
tenant_server_keys: 1 read, 1 new, 0 already there, 0 repeated, 0 switched off, 0 malformed, 0 not imported
tenant_endpoint_overrides: 1 read, 1 new, 0 already there, 0 repeated, 0 switched off, 0 malformed, 0 not imported
tenant_server_endpoints: not there
";

/// What is added where something was written.
const NOT_ALLOWED: &str = "tenant_endpoint_overrides: 1 addresses for `github` are not in `upstream.allowed_hosts`: calls \
     for their groups are refused until they are\n";

/// The earlier gateway's database.
async fn there() -> Database {
    let database = Database::create().await;
    database.execute(TABLES).await;
    database
}

/// All of a database, as Postgres' own tool writes it down.
fn dump(database: &Database) -> String {
    let program = Path::new(&given("PORTCULLIS_TEST_PG_BIN")).join("pg_dump");
    let output = Command::new(program).arg(database.url()).output().unwrap();
    assert!(output.status.success(), "pg_dump: {}", String::from_utf8_lossy(&output.stderr));
    // A key of each dump's own, against text that looks like commands of psql.
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.starts_with(r"\restrict") && !line.starts_with(r"\unrestrict")).collect()
}

async fn import(folder: &Path, from: &str, words: &[&str]) -> Said {
    let said = portcullis(folder, &[&["import", "--from", from], words].concat()).await;
    assert!(!format!("{said:?}").contains("hunter2"), "a key, an address or a password is shown: {said:?}");
    said
}

/// As [`REPORT`] is when everything was here before.
fn repeated() -> String {
    REPORT.replace("2 new, 0 already", "0 new, 2 already").replace("1 new, 0 already", "0 new, 1 already")
}

#[tokio::test]
async fn an_import_is_reported_and_can_be_repeated_on_both_databases() {
    let there = there().await;
    let before = dump(&there);
    let postgres = Database::create().await;
    let file = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}", file.path().join("grants.db").display());
    for here in [postgres.url(), sqlite] {
        let peer = FakePeer::start().await.with_json("search", json!([]));
        let setup = Setup::new(&here).set("tenants.sealing_keys", vec!["5a".repeat(32)]);
        let setup = setup.server("github", &peer.url());
        let folder = setup.write();
        let dry = import(folder.path(), &there.url(), &["--dry-run"]).await;
        assert_eq!((dry.code, dry.stdout.as_str()), (1, REPORT), "{}", dry.stderr);
        assert!(dry.stderr.contains("dry run: 6 rows would be written, and nothing was"), "{}", dry.stderr);
        let explain =
            async || portcullis(folder.path(), &["explain", "--as", "bob@company.com", "github"]).await.code;
        if here.starts_with("sqlite:") {
            assert!(!file.path().join("grants.db").exists(), "a dry run made the file");
        }
        let first = import(folder.path(), &there.url(), &[]).await;
        assert_eq!((first.code, first.stdout), (1, format!("{REPORT}{NOT_ALLOWED}")), "{}", first.stderr);
        assert!(first.stderr.contains("6 rows written; nothing was changed there"), "{}", first.stderr);
        assert!(first.stderr.contains("1 rows were left behind"), "{}", first.stderr);
        assert_eq!(explain().await, 0);
        let keys = portcullis(folder.path(), &["keys", "list"]).await;
        assert!(keys.stdout.starts_with("MCP-Team\tgithub\ttoken\tsealed with "), "{keys:?}");
        let second = import(folder.path(), &there.url(), &[]).await;
        assert_eq!((second.code, second.stdout), (1, repeated() + NOT_ALLOWED), "{}", second.stderr);
        assert!(second.stderr.contains("0 rows written"), "{}", second.stderr);

        // What was granted there is granted here, and no more.
        let gateway = setup.start().await;
        gateway.await_tools("github", 1).await;
        for (who, status) in [("ann@company.com", 200), ("bob@company.com", 200), ("gone@company.com", 403)] {
            gateway.call_until("/github/search", &email_token(who), status).await;
        }
    }
    assert_eq!(dump(&there), before, "something was changed there");
}

#[tokio::test]
async fn a_key_under_another_name_is_told_and_its_group_does_not_share_one() {
    let there = Database::create().await;
    there
        .execute(
            "CREATE TABLE group_tenant_mapping (group_name text, tenant_id text);
             CREATE TABLE user_group_membership (user_email text, group_name text);
             CREATE TABLE tenant_server_keys (tenant_id text, server_id text, key_name text, key_value text);
             INSERT INTO group_tenant_mapping VALUES ('A', 'github');
             INSERT INTO user_group_membership VALUES ('ann@company.com', 'A');
             INSERT INTO tenant_server_keys VALUES ('A', 'github', 'api_key', 'hunter2-value')",
        )
        .await;
    let here = Database::create().await;
    let peer = FakePeer::start().await.with_json("search", json!([]));
    let keys =
        "credential = { header = 'Authorization', env = 'VENDOR_TOKEN' }\nenabled = 'auto'".parse().unwrap();
    let setup = Setup::new(&here.url())
        .set("tenants.sealing_keys", vec!["5a".repeat(32)])
        .environment("VENDOR_TOKEN", "the-shared-one")
        .server_with("github", &peer.url(), keys);
    let gateway = setup.start().await;
    gateway.await_tools("github", 1).await;
    let said = import(gateway.folder.path(), &there.url(), &[]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let remark = "tenant_server_keys: `github` takes `VENDOR_TOKEN`: 1 keys have another name and are not sent; set them with \
         `portcullis keys set`, or say `key_name` in its `credential`\n";
    assert!(said.stdout.ends_with(remark), "{}", said.stdout);
    gateway.await_grants(3).await;
    let answer = gateway.call("/github/search", &email_token("ann@company.com"), &json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "no_tenant_key"));
    assert!(peer.requests().iter().all(|request| request.method == "GET"), "the server was called");
}

#[tokio::test]
async fn a_running_gateway_hears_of_an_import() {
    let there = there().await;
    let here = Database::create().await;
    let peer = FakePeer::start().await.with_json("search", json!([]));
    let gateway = Setup::new(&here.url()).server("github", &peer.url()).start().await;
    gateway.await_tools("github", 1).await;
    let token = email_token("bob@company.com");
    assert_eq!(gateway.call("/github/search", &token, &json!({})).await.status.as_u16(), 403);
    assert_eq!(import(gateway.folder.path(), &there.url(), &[]).await.code, 1);
    gateway.call_until("/github/search", &token, 200).await;
}

#[tokio::test]
async fn an_import_of_grants_alone_is_complete_and_exits_0() {
    let (there, here) = (Database::create().await, Database::create().await);
    there
        .execute(
            "CREATE SCHEMA old; CREATE TABLE old.group_tenant_mapping (group_name text, tenant_id text); \
             INSERT INTO old.group_tenant_mapping VALUES ('MCP-GitHub', 'github')",
        )
        .await;
    let folder = Setup::new(&here.url()).server("github", "http://127.0.0.1:1").write();
    let run = async |words: &[&str]| import(folder.path(), &there.url(), words).await;
    let told = run(&[]).await;
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.stderr.contains("these have: old; name one with `--from-schema`"), "{told:?}");
    assert_eq!(run(&["--from-schema", "old"]).await.code, 0);
    // In the address, in Python's way to name a driver, and on the standard input.
    let address = format!("{}?schema=old", there.url().replace("postgres://", "postgresql+asyncpg://"));
    let told = portcullis_told(folder.path(), &["import", "--from", "-"], &format!("{address}\n")).await;
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.stdout.contains("group_tenant_mapping: 1 read, 0 new, 1 already there"), "{told:?}");
}

#[tokio::test]
async fn the_gateways_own_tables_are_not_imported_into_themselves() {
    let there = there().await;
    let folder = Setup::new(&there.url()).server("github", "http://127.0.0.1:1").write();
    assert_eq!(portcullis(folder.path(), &["migrate"]).await.code, 0);
    let before = dump(&there);
    // By another name of the same machine, as operators have it.
    let alias = there.url().replace("127.0.0.1", "localhost");
    for from in [there.url(), alias] {
        let told = import(folder.path(), &from, &[]).await;
        assert_eq!(told.code, 1, "{told:?}");
        for words in [
            "user_tenant_access: this is the table the gateway uses itself, so there is nothing to write",
            "user_tenant_access: 1 rows that are switched off there count here",
            "user_tenant_access: 5 read, 0 new, 2 already there",
        ] {
            assert!(told.stdout.contains(words), "{words}: {told:?}");
        }
    }
    assert_eq!(dump(&there), before);
}

#[tokio::test]
async fn an_sqlite_file_is_read_too_and_stays_as_it_is() {
    let folder = Setup::new("sqlite:grants.db").server("github", "http://127.0.0.1:1").write();
    let file = folder.path().join("old.db");
    {
        use sqlx::{Connection, Executor, SqliteConnection};
        let url = format!("sqlite:{}?mode=rwc", file.display());
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        let make = "CREATE TABLE user_tenant_access (user_email text, tenant_id text); \
                    INSERT INTO user_tenant_access VALUES ('Ann@Company.com', 'github'), (x'ff', 'github')";
        connection.execute(sqlx::raw_sql(make)).await.unwrap();
        connection.close().await.unwrap();
    }
    let before = std::fs::read(&file).unwrap();
    let told = import(folder.path(), "sqlite:old.db", &[]).await;
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.stdout.contains("left out: rowid 2: `user_email` is no text in UTF-8"), "{told:?}");
    assert!(told.stdout.contains("user_tenant_access: 2 read, 1 new,"), "{told:?}");
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[tokio::test]
async fn an_import_that_cannot_begin_says_why() {
    let here = Database::create().await;
    let folder = Setup::new(&here.url()).server("github", "http://127.0.0.1:1").write();
    for (from, code, words) in [
        ("mysql://u:hunter2@h/d", 2, "must begin with `postgres://`"),
        ("postgres://u:hunter2@h:x/d", 2, "has a port that is not a number"),
        ("sqlite:missing.db", 1, "is missing"),
        ("postgres://u:hunter2@127.0.0.1:1/d", 1, "the database cannot be reached"),
    ] {
        let told = import(folder.path(), from, &[]).await;
        assert_eq!((told.code, told.stdout.as_str()), (code, ""), "{from}: {told:?}");
        assert!(told.stderr.contains(words), "{from}: {told:?}");
    }
    // One that takes connections and says nothing holds nobody up for long.
    let there = there().await;
    let silent = Chaos::in_front_of(there.server_address()).await;
    silent.stall();
    let told = import(folder.path(), &there.url_through(&silent.address()), &[]).await;
    assert_eq!((told.code, told.stdout.as_str()), (1, ""), "{told:?}");
    assert!(told.stderr.contains("the database cannot be reached"), "{told:?}");
    let told = portcullis(folder.path(), &["import"]).await;
    assert_eq!((told.code, told.stdout.as_str()), (2, ""), "{told:?}");
}
