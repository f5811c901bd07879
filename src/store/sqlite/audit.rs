//! The audit table in SQLite: one table, whose old rows are deleted a few at a time.
//!
//! Decides how it is written and read. What a row holds and which rows are old, `store::audit` says.

use std::time::Instant;

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Row as _};
use time::OffsetDateTime;

use super::{
    super::{
        audit::{
            AuditQuestion, AuditRow, COLUMNS, DELETED_AT_ONCE, Kept, Month, PAUSE, RowSink, STEP, texts,
        },
        text::Text,
    },
    Database,
};

/// A time in microseconds since 1970 as it stands in the table.
macro_rules! time {
    ($micros:literal) => {
        concat!(
            "strftime('%Y-%m-%dT%H:%M:%S', ",
            $micros,
            " / 1000000, 'unixepoch') || printf('.%06dZ', ",
            $micros,
            " % 1000000)"
        )
    };
}

/// Rows of one statement: so many that a statement costs little for each, and so few that all but the last are the same.
const AT_ONCE: usize = 250;

const DELETE: &str = "\
    DELETE FROM api_analytics_entries WHERE id IN (SELECT id FROM api_analytics_entries \
        WHERE entry_id IS NOT NULL \
            AND timestamp < strftime('%Y-%m-%dT%H:%M:%S', 'now', '-' || ?1 || ' days') ORDER BY timestamp LIMIT ?2)";

/// The columns as texts, in the order of `COLUMNS`.
macro_rules! columns {
    () => {
        "CAST(id AS text), CAST(timestamp AS text), CAST(user_email AS text), CAST(method AS text), CAST(endpoint AS text), \
         CAST(status_code AS text), CAST(response_time_ms AS text), CAST(user_agent AS text), CAST(client_ip AS text), \
         CAST(entry_id AS text), CAST(request_id AS text), CAST(call AS text), CAST(caller AS text), \
         CAST(directory AS text), CAST(scheme AS text), CAST(granted_by AS text), CAST(tenant AS text), \
         CAST(route AS text), CAST(rpc_method AS text), CAST(server AS text), CAST(tool AS text), CAST(outcome AS text), \
         CAST(code AS text), CAST(reason AS text), CAST(gateway_ms AS text), CAST(upstream_ms AS text), \
         CAST(request_bytes AS text), CAST(response_bytes AS text), CAST(retries AS text), \
         CAST(argument_digest AS text), CAST(arguments AS text), CAST(trace_id AS text), CAST(instance AS text)"
    };
}

/// What is asked for: `?1` to `?5` are `texts`, `?6` and `?7` times.
macro_rules! asked {
    () => {
        concat!(
            "FROM api_analytics WHERE (?1 IS NULL OR lower(coalesce(caller, user_email)) = ?1) \
             AND (?2 IS NULL OR server = ?2) AND (?3 IS NULL OR tool = ?3) AND (?4 IS NULL OR outcome = ?4) \
             AND (?5 IS NULL OR request_id = ?5) AND (?6 IS NULL OR timestamp >= ",
            time!("?6"),
            ") AND (?7 IS NULL OR timestamp < ",
            time!("?7"),
            ") "
        )
    };
}

const ALL: &str = concat!("SELECT ", columns!(), " ", asked!(), "AND ?8 IS NULL ORDER BY timestamp, id");
const NEWEST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM (SELECT * ",
    asked!(),
    "ORDER BY timestamp DESC, id DESC LIMIT ?8) ORDER BY timestamp, id"
);

/// Writes so many rows; the columns of `api_analytics` SQLite makes of them when somebody asks (`migrations/sqlite/0008`).
/// `OR FAIL`: what was written before a row that is refused goes with the transaction, and SQLite need not keep what such a
/// statement would take back, which it does in a file of its own for each.
fn insert(rows: usize) -> String {
    let values = vec!["(?, ?, ?)"; rows].join(", ");
    format!(
        "INSERT OR FAIL INTO api_analytics_entries (timestamp, entry_id, entry) VALUES {values} \
         ON CONFLICT (timestamp, entry_id) DO NOTHING"
    )
}

/// A time as it stands in the table; none that SQLite could read for years without four digits, and a row without one is
/// refused.
fn time(micros: i64) -> Option<String> {
    let at = OffsetDateTime::from_unix_timestamp(micros.div_euclid(1_000_000)).ok()?;
    let year = u32::try_from(at.year()).ok().filter(|year| *year < 10_000)?;
    let (hour, minute, second) = at.to_hms();
    let micros = micros.rem_euclid(1_000_000) as u32;
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    // By hand: a row is written for each call.
    for (end, mut number) in [
        (4, year),
        (7, u8::from(at.month()).into()),
        (10, at.day().into()),
        (13, hour.into()),
        (16, minute.into()),
        (19, second.into()),
        (26, micros),
    ] {
        for digit in text[..end].iter_mut().rev().take_while(|digit| digit.is_ascii_digit()) {
            (*digit, number) = (b'0' + (number % 10) as u8, number / 10);
        }
    }
    Some(str::from_utf8(&text).ok()?.to_owned())
}

impl Database {
    pub(in crate::store) async fn write_audit(&self, rows: &[AuditRow<'_>]) -> anyhow::Result<()> {
        let (pool, _) = self.file.pool().await?;
        let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
        for rows in rows.chunks(AT_ONCE) {
            let statement = sqlx::query(AssertSqlSafe(insert(rows.len()))).persistent(rows.len() == AT_ONCE);
            let bound = rows.iter().fold(statement, |statement, row| {
                statement.bind(time(row.at_micros)).bind(row.entry_id.to_string()).bind(row.json_without_id())
            });
            bound.execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// There are no partitions.
    pub(in crate::store) async fn prepare_audit(&self, _months: &[Month]) -> anyhow::Result<Kept> {
        Ok(Kept::default())
    }

    pub(in crate::store) async fn forget_audit(&self, days: u32) -> anyhow::Result<Kept> {
        let (mut kept, began) = (Kept::default(), Instant::now());
        loop {
            let (pool, _) = self.file.pool().await?;
            let deleting = sqlx::query(DELETE).bind(days).bind(DELETED_AT_ONCE).execute(&pool);
            let rows = deleting.await?.rows_affected();
            kept.deleted += rows;
            if rows < DELETED_AT_ONCE as u64 {
                return Ok(kept);
            }
            if began.elapsed() > STEP {
                kept.is_unfinished = true;
                return Ok(kept);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub(in crate::store) async fn read_audit(
        &self,
        question: &AuditQuestion,
        sink: &mut RowSink<'_>,
    ) -> anyhow::Result<()> {
        let (pool, _) = self.file.pool().await?;
        let statement = if question.most.is_some() { NEWEST } else { ALL };
        let query = texts(question).into_iter().fold(sqlx::query(statement), |query, text| query.bind(text));
        let query = query.bind(question.since).bind(question.until).bind(question.most.map(i64::from));
        let mut rows = query.fetch(&pool);
        while let Some(row) = rows.try_next().await? {
            let text = |at| Ok(row.try_get::<Text, _>(at)?.readable());
            let texts: Vec<Option<String>> = (0..COLUMNS.len()).map(text).collect::<sqlx::Result<_>>()?;
            if !sink(&texts) {
                return Ok(());
            }
        }
        Ok(())
    }

    pub(in crate::store) async fn missing_audit(&self) -> anyhow::Result<Option<String>> {
        let file = self.file.path().display();
        if !self.file.path().exists() {
            return Ok(Some(format!("there is no file `{file}`")));
        }
        let (pool, _) = self.file.pool().await?;
        let is_there: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'api_analytics')")
                .fetch_one(&pool)
                .await?;
        Ok((!is_there).then(|| format!("`{file}` has no table `api_analytics`")))
    }

    pub(in crate::store) async fn count_audit(&self, entries: &[String]) -> anyhow::Result<u64> {
        let (pool, _) = self.file.pool().await?;
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM api_analytics_entries WHERE entry_id IN (SELECT value FROM json_each(?1))",
        )
        .bind(serde_json::to_string(entries)?)
        .fetch_one(&pool)
        .await?;
        Ok(count.try_into().unwrap_or_default())
    }
}
