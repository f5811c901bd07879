//! Facts about the audit table: rows that stay one, months that get their partition, old rows that go, and a table that an
//! earlier gateway has made.

use serde_json::{Value, json};
use sqlx::Row as _;
use uuid::Uuid;

use super::*;
use crate::store::audit::{AuditQuestion, AuditRow, COLUMNS, Month, NotWritten};

/// 2026-11-30T23:59:59.999999Z.
const LAST_OF_NOVEMBER: i64 = 1_796_083_199_999_999;
const DAY: i64 = 86_400_000_000;

/// What an earlier gateway has made, and what it writes.
const EARLIER: &str = "
    CREATE TABLE api_analytics (
        id SERIAL PRIMARY KEY, timestamp TIMESTAMPTZ DEFAULT NOW(), user_email VARCHAR(255), method VARCHAR(10),
        endpoint VARCHAR(512), status_code INT, response_time_ms INT, user_agent TEXT, client_ip VARCHAR(45));
    CREATE INDEX idx_api_analytics_timestamp ON api_analytics (timestamp DESC);
    CREATE INDEX idx_api_analytics_user ON api_analytics (user_email);
    CREATE INDEX idx_api_analytics_endpoint ON api_analytics (endpoint);";
const EARLIER_WRITES: &str = "
    INSERT INTO api_analytics (user_email, method, endpoint, status_code, response_time_ms, user_agent, client_ip)
    VALUES ('Old@Company.com', 'POST', '/github/search', 200, 12, 'agent', '10.0.0.1')";

/// Old rows of ours that lie aside, as gateways number them.
const OLD_ROWS_OF_OURS: &str = "
    INSERT INTO api_analytics (timestamp, entry_id)
    SELECT at, (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
                || '7000' || '8' || lpad(number::text, 15, '0'))::uuid
    FROM (SELECT now() - interval '400 days' AS at, number FROM generate_series(1, 2500) AS number) AS old";

/// A row of this caller at this time, with an id of its own by its number.
fn row(number: u32, at_micros: i64, caller: &str) -> AuditRow<'static> {
    with(number, at_micros, json!({"caller": caller, "email": caller}))
}

/// A row whose entry has these members, besides others or in place of them.
fn with(number: u32, at_micros: i64, members: Value) -> AuditRow<'static> {
    let mut entry = json!({
        "at_micros": at_micros, "method": "POST", "endpoint": "/github/search", "status": 200,
        "user_agent": "ag\"ent'\\ \u{1f600}", "client": "::1", "request_id": format!("r{number}"), "call": 0,
        "caller": "a@x", "scheme": "session", "grant": "group:G", "route": "call", "server": "github", "tool": "search",
        "outcome": "tool_answered", "gateway_micros": 1_500, "upstream_micros": 2_250,
        "request_bytes": i64::from(i32::MAX) + 1, "response_bytes": 3, "retries": 0, "argument_digest": "ab",
    });
    entry.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    let entry_id = Uuid::parse_str(&format!("00000000-0000-7000-8000-{number:012}")).unwrap();
    AuditRow { at_micros, entry_id, instance: "i", entry: entry.to_string().into() }
}

async fn write(store: &Store, rows: &[AuditRow<'_>]) {
    store.write_audit(rows).await.unwrap();
}

/// The values of one column of the rows that are asked for, `-` where there is none.
async fn column(store: &Store, question: AuditQuestion, name: &str) -> String {
    let at = COLUMNS.iter().position(|(column, _)| *column == name).unwrap();
    let mut found = Vec::new();
    let mut sink = |row: &[Option<String>]| {
        found.push(row[at].clone().unwrap_or_else(|| "-".to_owned()));
        true
    };
    store.read_audit(&question, &mut sink).await.unwrap();
    found.join(" ")
}

async fn count(scratch: &Scratch, table: &str) -> i64 {
    let count = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    sqlx::query(count).fetch_one(&mut scratch.psql().await).await.unwrap().get(0)
}

/// The partitions of the table, the default one aside.
async fn partitions(scratch: &Scratch) -> String {
    let names = "SELECT coalesce(string_agg(relname, ' ' ORDER BY relname), '') FROM pg_class \
        WHERE relispartition AND relkind = 'r' AND relname LIKE 'api_analytics_y%'";
    sqlx::query(names).fetch_one(&mut scratch.psql().await).await.unwrap().get(0)
}

#[tokio::test]
async fn a_row_written_again_stays_one_and_is_read_as_it_was_written() {
    on_both(async |scratch| {
        let store = scratch.store().await;
        let rows = [row(1, LAST_OF_NOVEMBER, "a@x"), row(2, LAST_OF_NOVEMBER + 1, "b@x")];
        write(&store, &rows[..1]).await;
        write(&store, &rows).await;
        write(&store, &rows).await;
        let all = |name| column(&store, AuditQuestion::default(), name);
        assert_eq!(all("request_id").await, "r1 r2");
        assert_eq!(all("timestamp").await, "2026-11-30T23:59:59.999999Z 2026-12-01T00:00:00.000000Z");
        for (name, text) in [
            ("user_agent", "ag\"ent'\\ \u{1f600}"),
            ("client_ip", "::1"),
            ("gateway_ms", "1.5"),
            ("upstream_ms", "2.25"),
            ("request_bytes", "2147483648"),
            ("granted_by", "group:G"),
            ("code", "-"),
            ("instance", "i"),
            ("entry_id", "00000000-0000-7000-8000-000000000001"),
            ("status_code", "200"),
        ] {
            let question = AuditQuestion { request: Some("r1".into()), ..AuditQuestion::default() };
            assert_eq!(column(&store, question, name).await, text, "{name}");
        }
        let ids = [&rows[0], &row(9, 0, "c")].map(|row| row.entry_id.to_string());
        assert_eq!(store.count_audit(&ids).await.unwrap(), 1);
    })
    .await;
}

#[tokio::test]
async fn rows_are_found_by_what_is_asked_the_newest_last() {
    on_both(async |scratch| {
        let store = scratch.store().await;
        let others = [
            json!({"caller": "Ann@X", "email": "Ann@X"}),
            json!({"caller": "robot", "email": null}),
            json!({"caller": null, "email": "Ann@X", "server": "other"}),
            json!({"caller": "Ann@X", "outcome": "refused", "tool": null}),
        ];
        let rows: Vec<_> = (1..)
            .zip(others)
            .map(|(number, members)| with(number, i64::from(number) * 1_000_000, members))
            .collect();
        write(&store, &rows).await;
        let asked = |question| column(&store, question, "request_id");
        let any = AuditQuestion::default;
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(asked(any()).await, "r1 r2 r3 r4");
        assert_eq!(asked(AuditQuestion { most: Some(2), ..any() }).await, "r3 r4");
        assert_eq!(asked(AuditQuestion { who: some("ann@x"), ..any() }).await, "r1 r3 r4");
        assert_eq!(asked(AuditQuestion { who: some("ROBOT"), ..any() }).await, "r2");
        assert_eq!(
            asked(AuditQuestion { server: some("github"), tool: some("search"), ..any() }).await,
            "r1 r2"
        );
        assert_eq!(asked(AuditQuestion { outcome: some("refused"), ..any() }).await, "r4");
        assert_eq!(
            asked(AuditQuestion { since: Some(2_000_000), until: Some(4_000_000), ..any() }).await,
            "r2 r3"
        );
        assert_eq!(asked(AuditQuestion { who: some("a' OR 1=1 --"), ..any() }).await, "");
        let mut seen = 0;
        let ends = &mut |_: &[Option<String>]| {
            seen += 1;
            false
        };
        store.read_audit(&any(), ends).await.unwrap();
        assert_eq!(seen, 1, "whoever has had enough is sent no more");
    })
    .await;
}

#[tokio::test]
async fn a_month_has_its_partition_and_takes_what_was_put_aside_for_want_of_it() {
    on_postgres(async |scratch| {
        let store = scratch.store().await;
        let november = Month::of(LAST_OF_NOVEMBER).unwrap();
        let kept = store.prepare_audit(&[november]).await.unwrap();
        assert_eq!(kept.made, ["api_analytics_y2026m11"]);
        assert_eq!(store.prepare_audit(&[november]).await.unwrap(), Default::default(), "made once");
        // At the turn of the month, and at a time that nobody believes.
        let turn = [row(1, LAST_OF_NOVEMBER, "a"), row(2, LAST_OF_NOVEMBER + 1, "a"), row(3, -DAY, "a")];
        write(&store, &turn).await;
        assert_eq!((count(&scratch, "api_analytics_y2026m11").await, count(&scratch, "api_analytics_default").await), (1, 2));
        let kept = store.prepare_audit(&[november, november.plus(1)]).await.unwrap();
        assert_eq!(kept.made, ["api_analytics_y2026m12"]);
        assert_eq!((count(&scratch, "api_analytics_y2026m12").await, count(&scratch, "api_analytics_default").await), (1, 1));
        write(&store, &turn).await;
        assert_eq!(count(&scratch, "api_analytics").await, 3, "rows that moved are the same rows");
        // The keys hold in partitions that were attached.
        let keys = "SELECT count(*) FROM pg_index WHERE indrelid = 'api_analytics_y2026m12'::regclass AND indisunique";
        let keys: i64 = sqlx::query(keys).fetch_one(&mut scratch.psql().await).await.unwrap().get(0);
        assert_eq!(keys, 2);
    })
    .await;
}

#[tokio::test]
async fn gateways_that_make_the_same_partitions_at_once_make_each_once() {
    on_postgres(async |scratch| {
        let months: Vec<Month> = (0..4).map(|more| Month::of(LAST_OF_NOVEMBER).unwrap().plus(more)).collect();
        scratch.store().await;
        let made = (0..4).map(|_| async {
            let store = Store::open(&scratch.settings).unwrap();
            let kept = store.prepare_audit(&months).await.unwrap();
            assert_eq!(kept.left, [""; 0]);
            kept.made.len()
        });
        let made: usize = futures_util::future::join_all(made).await.into_iter().sum();
        assert_eq!(made, months.len());
    })
    .await;
}

#[tokio::test]
async fn somebody_who_reads_the_table_for_long_holds_nothing_up() {
    on_postgres(async |scratch| {
        let store = scratch.store().await;
        let mut reader = scratch.psql().await;
        reader.execute("BEGIN; SELECT count(*) FROM api_analytics").await.unwrap();
        let month = Month::of(LAST_OF_NOVEMBER).unwrap();
        let kept = store.prepare_audit(&[month]).await.unwrap();
        assert_eq!(kept.left.len(), 1, "the default partition is being read: {kept:?}");
        write(&store, &[row(1, LAST_OF_NOVEMBER, "a")]).await;
        reader.execute("COMMIT").await.unwrap();
        assert_eq!(store.prepare_audit(&[month]).await.unwrap().made.len(), 1);
        assert_eq!(count(&scratch, "api_analytics_y2026m11").await, 1);
    })
    .await;
}

#[tokio::test]
async fn old_months_go_as_a_whole_and_what_lies_aside_row_by_row() {
    on_postgres(async |scratch| {
        let store = scratch.store().await;
        let now: i64 = sqlx::query("SELECT (extract(epoch FROM now()) * 1000000)::bigint")
            .fetch_one(&mut scratch.psql().await)
            .await
            .unwrap()
            .get(0);
        let month = Month::of(now).unwrap();
        store.prepare_audit(&[Month::of(now - 140 * DAY).unwrap(), month.plus(-2), month]).await.unwrap();
        write(&store, &[row(1, now - 140 * DAY, "a"), row(2, now, "a"), row(3, now - 400 * DAY, "a")]).await;
        scratch.execute(OLD_ROWS_OF_OURS).await;
        scratch.execute("INSERT INTO api_analytics (timestamp) SELECT now() - interval '400 days' FROM generate_series(1, 7)").await;
        let kept = store.forget_audit(100).await.unwrap();
        assert_eq!((kept.dropped.len(), kept.deleted, kept.left.len()), (1, 2501, 0), "{kept:?}");
        assert_eq!(count(&scratch, "api_analytics_default").await, 7, "rows of others");
        scratch.execute("DELETE FROM api_analytics_default").await;
        assert_eq!(column(&store, AuditQuestion::default(), "request_id").await.split(' ').next_back(), Some("r2"));
        assert_eq!(count(&scratch, "api_analytics_default").await, 0);
        assert_eq!(partitions(&scratch).await.split(' ').count(), 2);
        assert_eq!(store.forget_audit(100).await.unwrap(), Default::default());
    })
    .await;
}

#[tokio::test]
async fn in_sqlite_old_rows_go_and_young_ones_stay() {
    on_sqlite(async |scratch| {
        let store = scratch.store().await;
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as i64;
        write(&store, &[row(1, now - 91 * DAY, "a"), row(2, now - 89 * DAY, "a"), row(3, now, "a")]).await;
        assert_eq!(store.forget_audit(90).await.unwrap().deleted, 1);
        assert_eq!(column(&store, AuditQuestion::default(), "request_id").await, "r2 r3");
    })
    .await;
}

#[tokio::test]
async fn a_table_of_an_earlier_gateway_keeps_its_rows_and_serves_both() {
    on_postgres(async |mut scratch| {
        scratch.settings.schema = "mcp_proxy".into();
        scratch
            .execute(&format!(
                "CREATE SCHEMA mcp_proxy; SET search_path = mcp_proxy; {EARLIER} {EARLIER_WRITES}"
            ))
            .await;
        let store = scratch.store().await;
        let write_as_earlier = format!("SET search_path = mcp_proxy; {EARLIER_WRITES}");
        scratch.execute(&write_as_earlier).await;
        let rows = [row(1, LAST_OF_NOVEMBER, "new@x")];
        write(&store, &rows).await;
        write(&store, &rows).await;
        let by = |who: &str| AuditQuestion { who: Some(who.into()), ..AuditQuestion::default() };
        assert_eq!(column(&store, by("old@company.com"), "response_time_ms").await, "12 12");
        assert_eq!(column(&store, by("new@x"), "request_id").await, "r1");
        assert_eq!(store.prepare_audit(&[Month::of(0).unwrap()]).await.unwrap(), Default::default());
        // Its id ends after two billion rows.
        scratch.execute("SELECT setval('mcp_proxy.api_analytics_id_seq', 2147483647)").await;
        write(&store, &[row(2, LAST_OF_NOVEMBER, "new@x")]).await;
        scratch.execute(&write_as_earlier).await;
        assert_eq!(count(&scratch, "mcp_proxy.api_analytics WHERE id < 0").await, 2);
        scratch
            .execute("UPDATE mcp_proxy.api_analytics SET timestamp = now() - interval '91 days' WHERE id < 0")
            .await;
        // One of ours, and one of the earlier gateway, whose history stays.
        let ours = "mcp_proxy.api_analytics WHERE entry_id IS NOT NULL";
        let (all, before) = (count(&scratch, "mcp_proxy.api_analytics").await, count(&scratch, ours).await);
        let deleted = store.forget_audit(90).await.unwrap().deleted;
        assert_eq!((deleted, count(&scratch, ours).await), (1, before - 1));
        assert_eq!(count(&scratch, "mcp_proxy.api_analytics").await, all - 1, "an earlier gateway's history");
    })
    .await;
}

#[tokio::test]
async fn a_table_that_outlives_the_record_of_its_migration_is_taken_as_it_is() {
    on_postgres(async |scratch| {
        let store = scratch.store().await;
        write(&store, &[row(1, LAST_OF_NOVEMBER, "new@x")]).await;
        scratch.execute("DELETE FROM portcullis_migrations WHERE version = 7").await;
        store.migrate().await.unwrap();
        assert_eq!(count(&scratch, "api_analytics").await, 1);
    })
    .await;
}

#[tokio::test]
async fn what_an_earlier_gateway_writes_goes_into_a_table_of_ours() {
    on_postgres(async |scratch| {
        let store = scratch.store().await;
        store.prepare_audit(&[Month::of(LAST_OF_NOVEMBER).unwrap()]).await.unwrap();
        scratch.execute(EARLIER_WRITES).await;
        scratch.execute(EARLIER_WRITES).await;
        assert_eq!(
            column(&store, AuditQuestion::default(), "user_email").await,
            "Old@Company.com Old@Company.com"
        );
    })
    .await;
}

#[tokio::test]
async fn a_row_that_is_refused_is_told_apart_from_a_database_that_is_away() {
    on_both(async |scratch| {
        let store = scratch.store().await;
        let refused = async |rows: &[AuditRow<'_>]| match store.write_audit(rows).await {
            Err(NotWritten::Refused(_)) => true,
            Err(NotWritten::Away(error)) => panic!("{error:#}"),
            Ok(()) => false,
        };
        // A key of the operator's own.
        let (table, request) = match store.is_postgres() {
            true => ("api_analytics", "request_id"),
            false => ("api_analytics_entries", "entry ->> 'request_id'"),
        };
        scratch.execute(&format!("CREATE UNIQUE INDEX mine ON {table} ({request}, timestamp)")).await;
        let other = with(2, LAST_OF_NOVEMBER, json!({"request_id": "r1"}));
        assert!(!refused(&[row(1, LAST_OF_NOVEMBER, "a")]).await);
        assert!(refused(&[other, row(3, LAST_OF_NOVEMBER, "a")]).await, "a row that vanishes without a word");
        assert_eq!(column(&store, AuditQuestion::default(), "request_id").await, "r1", "all or none");
        scratch.execute(&format!("ALTER TABLE {table} RENAME TO elsewhere")).await;
        assert!(matches!(store.write_audit(&[row(4, 0, "a")]).await, Err(NotWritten::Away(_))));
    })
    .await;
}

#[tokio::test]
async fn a_gateway_that_does_not_own_the_table_writes_and_says_what_it_cannot_do() {
    on_postgres(async |scratch| {
        scratch.store().await;
        scratch
            .execute(
                "DO $$ BEGIN CREATE ROLE portcullis_test_writer LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$; \
                 GRANT INSERT, SELECT, DELETE ON api_analytics TO portcullis_test_writer; \
                 GRANT USAGE ON SEQUENCE api_analytics_id_seq TO portcullis_test_writer",
            )
            .await;
        let DatabaseUrl::Postgres(url) = &scratch.settings.url else { unreachable!() };
        let url = url.expose().replace("postgres://postgres@", "postgres://portcullis_test_writer@");
        let settings = Settings { url: DatabaseUrl::Postgres(crate::names::Secret::new(url)), ..scratch.settings.clone() };
        let store = Store::open(&settings).unwrap();
        let kept = store.prepare_audit(&[Month::of(LAST_OF_NOVEMBER).unwrap()]).await.unwrap();
        assert!(kept.made.is_empty() && kept.left[0].contains("does not own `api_analytics`"), "{kept:?}");
        write(&store, &[row(1, LAST_OF_NOVEMBER, "a")]).await;
        assert_eq!(count(&scratch, "api_analytics_default").await, 1);
        store.forget_audit(1).await.unwrap();
        store.close().await;
        scratch.execute("DROP OWNED BY portcullis_test_writer").await;
    })
    .await;
}

#[tokio::test]
async fn whoever_reads_makes_nothing_and_needs_no_more_than_the_table() {
    on_sqlite(async |scratch| {
        let store = Store::open_to_read(&scratch.settings).unwrap();
        assert!(store.missing_audit().await.unwrap().unwrap().contains("there is no file"));
        let DatabaseUrl::Sqlite(path) = &scratch.settings.url else { unreachable!() };
        assert!(!path.exists());
        let writing = scratch.store().await;
        write(&writing, &[row(1, LAST_OF_NOVEMBER, "a")]).await;
        let store = Store::open_to_read(&scratch.settings).unwrap();
        assert_eq!(store.missing_audit().await.unwrap(), None);
        assert_eq!(column(&store, AuditQuestion::default(), "id").await, "1");
    })
    .await;
    on_postgres(async |scratch| {
        let missing = async || Store::open_to_read(&scratch.settings).unwrap().missing_audit().await.unwrap();
        assert!(missing().await.unwrap().contains("schema `public` of the database `portcullis_store_"));
        scratch.execute(EARLIER).await;
        assert!(missing().await.unwrap().contains("portcullis migrate"));
        let store = scratch.store().await;
        assert_eq!(missing().await, None);
        scratch.execute("INSERT INTO api_analytics (timestamp, request_id) VALUES (NULL, 'timeless')").await;
        write(&store, &[row(1, LAST_OF_NOVEMBER, "a")]).await;
        let asked = |most| AuditQuestion { most, ..AuditQuestion::default() };
        assert_eq!(column(&store, asked(Some(5)), "request_id").await, "r1");
        assert_eq!(column(&store, asked(None), "request_id").await, "timeless r1");
    })
    .await;
}

#[tokio::test]
async fn many_old_rows_go_in_steps_so_that_nothing_waits_long() {
    on_postgres(async |scratch| {
        let store = scratch.store().await;
        scratch.execute(&OLD_ROWS_OF_OURS.replace("2500", "90000")).await;
        let (mut deleted, mut steps) = (0, 0);
        loop {
            let kept = store.forget_audit(90).await.unwrap();
            (deleted, steps) = (deleted + kept.deleted, steps + 1);
            if !kept.is_unfinished {
                break;
            }
        }
        assert!(deleted == 90_000 && steps > 1, "{deleted} rows in {steps} steps");
        assert_eq!(count(&scratch, "api_analytics").await, 0);
    })
    .await;
}

/// Every column of every row, as the command shows it.
async fn shown(store: &Store) -> Vec<Vec<Option<String>>> {
    let mut rows = Vec::new();
    let mut sink = |row: &[Option<String>]| {
        rows.push(row.to_vec());
        true
    };
    store.read_audit(&AuditQuestion::default(), &mut sink).await.unwrap();
    rows
}

#[tokio::test]
async fn an_entry_becomes_the_same_columns_in_both_databases() {
    let long = "ä".repeat(600);
    let entries = [
        json!({}),
        json!({"status": 0, "code": "unauthorized", "reason": "expired", "tool": null, "directory": "t/o"}),
        json!({"email": long, "method": long, "endpoint": long, "arguments": "{\"a\":[1,null]}", "call": 3}),
        // 25 days, and what rounds up, and down.
        json!({"gateway_micros": 1, "upstream_micros": 25_i64 * DAY, "trace_id": "t", "rpc_method": "tools/call"}),
        json!({"gateway_micros": 499, "upstream_micros": 1, "tenant": "G", "unheard_of": [1]}),
        json!({"gateway_micros": 0, "upstream_micros": 499, "client": null, "retries": 2}),
    ];
    let rows: Vec<_> = (1..)
        .zip(entries)
        .map(|(number, members)| with(number, LAST_OF_NOVEMBER + i64::from(number), members))
        .collect();
    let of = |row: &[Option<String>], name: &str| {
        row[COLUMNS.iter().position(|(column, _)| *column == name).unwrap()].clone().unwrap_or("-".into())
    };
    let seen = std::sync::Mutex::new(Vec::new());
    on_both(async |scratch| {
        let store = scratch.store().await;
        write(&store, &rows).await;
        let shown = shown(&store).await;
        for (at, name, text) in [
            (0, "response_time_ms", "4"),
            (0, "status_code", "200"),
            (1, "status_code", "-"),
            (2, "method", "ääääääääää"),
            (2, "user_email", &*"ä".repeat(255)),
            (2, "endpoint", &*"ä".repeat(512)),
            (2, "arguments", "{\"a\":[1,null]}"),
            (3, "response_time_ms", "2147483647"),
            (3, "gateway_ms", "0.001"),
            (4, "response_time_ms", "1"),
            (4, "tenant", "G"),
            (5, "response_time_ms", "0"),
            (5, "upstream_ms", "0.499"),
            (5, "client_ip", "-"),
        ] {
            assert_eq!(of(&shown[at], name), text, "row {at}, {name}");
        }
        seen.lock().unwrap().push(shown);
    })
    .await;
    let [sqlite, postgres] = <[_; 2]>::try_from(seen.into_inner().unwrap()).unwrap();
    // A whole number of milliseconds is written with and without a point.
    let plain = |rows: Vec<Vec<Option<String>>>| -> Vec<Vec<_>> {
        let plain =
            |text: Option<String>| text.map(|text| text.strip_suffix(".0").unwrap_or(&text).to_owned());
        rows.into_iter().map(|row| row.into_iter().map(plain).collect()).collect()
    };
    assert_eq!(plain(sqlite), plain(postgres));
}
