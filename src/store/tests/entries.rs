//! Facts about the audit table of SQLite since `0008_audit_entries`: what stood in it stands there still, and looks the same.

use sqlx::{Column, ConnectOptions, Connection, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};
use uuid::Uuid;

use super::*;
use crate::store::{
    audit::{AuditRow, COLUMNS},
    migrations,
};

/// How the program before writes.
const EARLIER_WRITES: &str = "\
    INSERT INTO api_analytics (timestamp, user_email, method, endpoint, status_code, response_time_ms, user_agent, \
        client_ip, entry_id, request_id, call, caller, directory, scheme, granted_by, tenant, route, rpc_method, server, \
        tool, outcome, code, reason, gateway_ms, upstream_ms, request_bytes, response_bytes, retries, argument_digest, \
        arguments, trace_id, instance) \
    SELECT strftime('%Y-%m-%dT%H:%M:%S', (value ->> 'at_micros') / 1000000, 'unixepoch') \
            || printf('.%06dZ', (value ->> 'at_micros') % 1000000), \
        value ->> 'user_email', value ->> 'method', value ->> 'endpoint', value ->> 'status_code', \
        value ->> 'response_time_ms', value ->> 'user_agent', value ->> 'client_ip', value ->> 'entry_id', \
        value ->> 'request_id', value ->> 'call', value ->> 'caller', value ->> 'directory', value ->> 'scheme', \
        value ->> 'granted_by', value ->> 'tenant', value ->> 'route', value ->> 'rpc_method', value ->> 'server', \
        value ->> 'tool', value ->> 'outcome', value ->> 'code', value ->> 'reason', value ->> 'gateway_ms', \
        value ->> 'upstream_ms', value ->> 'request_bytes', value ->> 'response_bytes', value ->> 'retries', \
        value ->> 'argument_digest', value ->> 'arguments', value ->> 'trace_id', value ->> 'instance' \
    FROM json_each(?1) WHERE true \
    ON CONFLICT (entry_id) DO NOTHING";

/// What it has written: something in every column, nothing but what each row has, and times that are hard to write.
const EARLIER_ROWS: &str = r#"[
    {"at_micros": 1796083199123456, "user_email": "a@x", "method": "POST", "endpoint": "/github/se\"arch\\ä",
     "status_code": 200, "response_time_ms": 4, "user_agent": "{\"a\":1}", "client_ip": "::1",
     "entry_id": "00000000-0000-7000-8000-000000000001", "request_id": "17", "call": 2, "caller": "a@x",
     "directory": "t/o", "scheme": "session", "granted_by": "group:G", "tenant": "G", "route": "call",
     "rpc_method": "tools/call", "server": "github", "tool": "null", "outcome": "tool_answered", "code": "c",
     "reason": "r", "gateway_ms": 1.5, "upstream_ms": 2.25, "request_bytes": 9223372036854775807,
     "response_bytes": 3, "retries": 1, "argument_digest": "ab", "arguments": "{\"a\":[null]}", "trace_id": "0",
     "instance": "i"},
    {"at_micros": 1796083199999999, "method": "GET", "endpoint": "/", "response_time_ms": 0,
     "entry_id": "00000000-0000-7000-8000-000000000002", "request_id": "r", "call": 0, "route": "none",
     "outcome": "lost", "gateway_ms": 0.1, "upstream_ms": 0.0, "request_bytes": 0, "response_bytes": 0, "retries": 0,
     "instance": "i"},
    {"at_micros": 0, "method": "GET", "endpoint": "/", "response_time_ms": 2147483647, "status_code": 499,
     "entry_id": "00000000-0000-7000-8000-000000000003", "request_id": "😀", "call": 0, "route": "none",
     "outcome": "lost", "gateway_ms": 123456789.321, "upstream_ms": 86400000.001, "request_bytes": 0,
     "response_bytes": 0, "retries": 0, "instance": "i"}]"#;

async fn connect(scratch: &Scratch) -> SqliteConnection {
    let DatabaseUrl::Sqlite(path) = &scratch.settings.url else { unreachable!() };
    SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.unwrap()
}

/// How the program before `0009_audit_index` wrote.
const WRITES_OF_0008: &str = "\
    INSERT OR FAIL INTO api_analytics_entries (timestamp, entry_id, entry) \
    VALUES ('2026-11-30T10:00:00.000000Z', '01a205b7-c0de-7000-8000-00000000abcd', '{}') \
    ON CONFLICT (entry_id) DO NOTHING";

/// The table as the program before left it, with its rows and one that somebody put in by hand.
async fn earlier(scratch: &Scratch) {
    let mut connection = connect(scratch).await;
    migrations::sqlite().run_direct(Some(7), &mut connection, false).await.unwrap();
    sqlx::query(EARLIER_WRITES).bind(EARLIER_ROWS).execute(&mut connection).await.unwrap();
    let by_hand = "INSERT INTO api_analytics (id, timestamp, response_time_ms) VALUES (70, 'once', 7)";
    sqlx::query(by_hand).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// What `SELECT *` names and gives, with the kind of each value.
async fn everything(scratch: &Scratch) -> (Vec<String>, Vec<Vec<String>>) {
    let mut connection = connect(scratch).await;
    let all = sqlx::query("SELECT * FROM api_analytics").fetch_all(&mut connection).await.unwrap();
    let names = all[0].columns().iter().map(|column| column.name().to_owned()).collect();
    let values: Vec<_> =
        COLUMNS.iter().map(|(name, _)| format!("typeof(\"{name}\") || ' ' || quote(\"{name}\")")).collect();
    let values = format!("SELECT {} FROM api_analytics ORDER BY id", values.join(", "));
    let rows = sqlx::query(sqlx::AssertSqlSafe(values)).fetch_all(&mut connection).await.unwrap();
    (names, rows.iter().map(|row| (0..COLUMNS.len()).map(|at| row.get(at)).collect()).collect())
}

#[tokio::test]
async fn rows_of_the_program_before_stay_and_look_the_same() {
    on_sqlite(async |scratch| {
        earlier(&scratch).await;
        let (names, rows) = everything(&scratch).await;
        let store = scratch.store().await;
        let (names_now, rows_now) = everything(&scratch).await;
        assert_eq!((rows.len(), &rows), (4, &rows_now));
        assert_eq!(names_now, names);
        // A row of theirs that is sent again stays one, and new ones come behind them.
        let row = |number: u128, at_micros| AuditRow {
            at_micros,
            entry_id: Uuid::from_u128(0x7000_8000_0000_0000_0000 + number),
            instance: "i",
            entry: r#"{"at_micros":1,"gateway_micros":1}"#.into(),
        };
        store.write_audit(&[row(1, 1_796_083_199_123_456), row(9, 1_796_083_199_123_457)]).await.unwrap();
        let (_, rows_now) = everything(&scratch).await;
        assert_eq!((&rows_now[..4], rows_now.len()), (&rows[..], 5));
        assert_eq!(
            (rows_now[4][0].as_str(), rows_now[4][1].as_str(), rows_now[4][24].as_str()),
            ("integer 71", "text '2026-11-30T23:59:59.123457Z'", "real 0.001")
        );
    })
    .await;
}

#[tokio::test]
async fn the_table_has_the_indexes_that_its_rows_need_and_no_further_one() {
    on_sqlite(async |scratch| {
        earlier(&scratch).await;
        scratch.store().await;
        let indexes = "SELECT group_concat(name, ' ') FROM \
            (SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'api_analytics_entries' ORDER BY name)";
        let indexes: String = sqlx::query_scalar(indexes).fetch_one(&mut connect(&scratch).await).await.unwrap();
        assert_eq!(indexes, "api_analytics_entry");
    })
    .await;
}

#[tokio::test]
async fn the_program_before_is_told_that_the_table_is_another_and_not_that_its_rows_are_wrong() {
    on_sqlite(async |scratch| {
        scratch.store().await;
        for writing in [sqlx::query(EARLIER_WRITES).bind(EARLIER_ROWS), sqlx::query(WRITES_OF_0008)] {
            let error = writing.execute(&mut connect(&scratch).await).await.unwrap_err();
            let sqlx::Error::Database(error) = error else { panic!("{error}") };
            // An error of the statement: that program keeps its rows for later, where it would put refused ones aside.
            assert_eq!(error.code().as_deref(), Some("1"), "{error}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_time_that_is_none_costs_its_row_alone() {
    use crate::store::audit::NotWritten;
    on_sqlite(async |scratch| {
        let store = scratch.store().await;
        let row = |at_micros| AuditRow {
            at_micros,
            entry_id: Uuid::now_v7(),
            instance: "i",
            entry: format!(r#"{{"at_micros":{at_micros}}}"#).into(),
        };
        store.write_audit(&[row(-1), row(0), row(253_402_300_799_999_999)]).await.unwrap();
        for out_of_calendar in [253_402_300_800_000_000, i64::MAX, i64::MIN, -99_999_999_999_999_999] {
            let refused = store.write_audit(&[row(1), row(out_of_calendar)]).await;
            assert!(matches!(refused, Err(NotWritten::Refused(_))), "{out_of_calendar}");
        }
        let (_, rows) = everything(&scratch).await;
        let times: Vec<_> = rows.iter().map(|row| row[1].as_str()).collect();
        assert_eq!(
            times,
            [
                "text '1969-12-31T23:59:59.999999Z'",
                "text '1970-01-01T00:00:00.000000Z'",
                "text '9999-12-31T23:59:59.999999Z'"
            ]
        );
    })
    .await;
}

#[tokio::test]
async fn somebody_is_forgotten_as_the_readme_says() {
    on_sqlite(async |scratch| {
        earlier(&scratch).await;
        scratch.store().await;
        scratch
            .execute("DELETE FROM api_analytics WHERE lower(user_email) = lower('A@x') OR lower(caller) = lower('A@x')")
            .await;
        let ids: Vec<_> = everything(&scratch).await.1.iter().map(|row| row[0].clone()).collect();
        assert_eq!(ids, ["integer 2", "integer 3", "integer 70"]);
    })
    .await;
}

#[tokio::test]
async fn a_file_that_is_made_here_has_large_pages_and_one_that_is_there_keeps_its_own() {
    for (is_there, size) in [(false, 16_384), (true, 4_096)] {
        on_sqlite(async |scratch| {
            if is_there {
                earlier(&scratch).await;
            }
            scratch.store().await;
            let page_size = sqlx::query_scalar("PRAGMA page_size");
            let page_size: i64 = page_size.fetch_one(&mut connect(&scratch).await).await.unwrap();
            assert_eq!(page_size, size);
        })
        .await;
    }
}
