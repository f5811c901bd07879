//! The audit table in Postgres: partitioned by month where we made it, as it was where an earlier gateway did.
//!
//! Decides which partitions there are and which locks making and dropping them may wait for: an operator who reads the
//! table for minutes must not hold up what is written.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row as _};
use uuid::Uuid;

use super::{
    super::{
        audit::{
            AuditQuestion, AuditRow, COLUMNS, DELETED_AT_ONCE, Kept, Month, PAUSE, RowSink, STEP, texts,
        },
        text::Text,
    },
    Database,
};

/// Held while partitions are made; any number will do that other applications don't use.
const PARTITION_LOCK: i64 = 0x706f_7274_6175_6400;
/// Held by the one gateway that removes old rows.
const RETENTION_LOCK: i64 = 0x706f_7274_6175_6401;

/// Partitions that cannot be dropped hold up what is written for no longer; the next time is another one.
const LONGEST_STEP: Duration = Duration::from_secs(5);
/// Between the number of an entry and its time there is no more, in microseconds.
const SLACK: i64 = 86_400_000_000;

/// What is acknowledged is never sent again, so it has to be on disk, whatever is usual at this server.
const DURABLE: &str = "\
    SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'";

/// `$1` is a JSON array of entries, whose members are named as `record` names them: here they become columns. The target is
/// named, so that another key of somebody's own is an error and no silence.
const WRITE: &str = "\
    INSERT INTO api_analytics (timestamp, user_email, method, endpoint, status_code, response_time_ms, user_agent, \
        client_ip, entry_id, request_id, call, caller, directory, scheme, granted_by, tenant, route, rpc_method, server, \
        tool, outcome, code, reason, gateway_ms, upstream_ms, request_bytes, response_bytes, retries, argument_digest, \
        arguments, trace_id, instance) \
    SELECT to_timestamp(at_micros / 1000000.0), left(email, 255), left(method, 10), left(endpoint, 512), \
        nullif(status, 0), least((gateway_micros + upstream_micros + 500) / 1000, 2147483647), user_agent, \
        client, entry_id, request_id, call, caller, directory, scheme, \"grant\", tenant, route, rpc_method, server, \
        tool, outcome, code, reason, gateway_micros / 1000::double precision, \
        upstream_micros / 1000::double precision, request_bytes, response_bytes, retries, argument_digest, arguments, \
        trace_id, instance \
    FROM json_to_recordset($1::json) AS entry (at_micros bigint, email text, method text, endpoint text, \
        status integer, user_agent text, client text, entry_id uuid, request_id text, \
        call integer, caller text, directory text, scheme text, \"grant\" text, tenant text, route text, \
        rpc_method text, server text, tool text, outcome text, code text, reason text, gateway_micros bigint, \
        upstream_micros bigint, request_bytes bigint, response_bytes bigint, retries integer, \
        argument_digest text, arguments text, trace_id text, instance text) \
    ON CONFLICT (entry_id, timestamp) WHERE entry_id IS NOT NULL DO NOTHING";

/// Whether there are partitions, and whether we may change that.
const KIND: &str = "\
    SELECT relkind = 'p' AS is_partitioned, pg_has_role(relowner, 'USAGE') AS is_ours \
    FROM pg_class WHERE oid = to_regclass('api_analytics')";

/// Makes a partition. What was put aside meanwhile for want of one comes into it. Attached rather than made as one, because
/// that waits for no reader of the table.
const MAKE: &str = "\
    SELECT format('CREATE TABLE %1$I (LIKE api_analytics INCLUDING DEFAULTS INCLUDING CONSTRAINTS); \
        WITH aside AS (DELETE FROM api_analytics_default WHERE timestamp >= %2$L AND timestamp < %3$L RETURNING *) \
            INSERT INTO %1$I SELECT * FROM aside; \
        ALTER TABLE api_analytics ATTACH PARTITION %1$I FOR VALUES FROM (%2$L) TO (%3$L)', $1, $2, $3)";

const PARTITIONS: &str = "\
    SELECT relname::text, pg_get_expr(relpartbound, pg_class.oid) = 'DEFAULT' AS is_default \
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid \
    WHERE inhparent = to_regclass('api_analytics') ORDER BY relname";

/// Rows of ours alone: what an earlier gateway has written, or writes, is somebody else's to delete. Ours are found by the
/// time in their numbers (`$3`), so that those of others are not even looked at.
const DELETE: &str = "\
    SELECT format('DELETE FROM %1$I WHERE ctid = ANY(ARRAY( \
        SELECT ctid FROM %1$I WHERE entry_id IS NOT NULL AND entry_id < $3::uuid \
            AND timestamp < to_timestamp($1 / 1000000.0) ORDER BY entry_id LIMIT $2))', $1)";

/// The columns as texts, in the order of `COLUMNS`.
macro_rules! columns {
    () => {
        "id::text, to_char(timestamp AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), user_email::text, method::text, \
         endpoint::text, status_code::text, response_time_ms::text, user_agent, client_ip::text, entry_id::text, \
         request_id, call::text, caller, directory, scheme, granted_by, tenant, route, rpc_method, server, tool, outcome, \
         code, reason, gateway_ms::text, upstream_ms::text, request_bytes::text, response_bytes::text, retries::text, \
         argument_digest, arguments, trace_id, instance"
    };
}

/// What is asked for: `$1` to `$5` are `texts`, `$6` and `$7` times.
macro_rules! asked {
    () => {
        "FROM api_analytics WHERE ($1::text IS NULL OR lower(coalesce(caller, user_email)) = $1) \
         AND ($2::text IS NULL OR server = $2) AND ($3::text IS NULL OR tool = $3) \
         AND ($4::text IS NULL OR outcome = $4) AND ($5::text IS NULL OR request_id = $5) \
         AND ($6::bigint IS NULL OR timestamp >= to_timestamp($6 / 1000000.0)) \
         AND ($7::bigint IS NULL OR timestamp < to_timestamp($7 / 1000000.0)) "
    };
}

/// A table of an earlier gateway may have rows without a time: they come first, and count as newest of nothing.
const TIMELESS: &str =
    concat!("SELECT ", columns!(), " ", asked!(), "AND $8::bigint IS NULL AND timestamp IS NULL ORDER BY id");
const ALL: &str = concat!(
    "SELECT ",
    columns!(),
    " ",
    asked!(),
    "AND $8::bigint IS NULL AND timestamp IS NOT NULL ORDER BY timestamp, id"
);
const NEWEST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM (SELECT * ",
    asked!(),
    "AND timestamp IS NOT NULL ORDER BY timestamp DESC, id DESC LIMIT $8) AS newest ORDER BY timestamp, id"
);

impl Database {
    pub(in crate::store) async fn write_audit(&self, rows: &[AuditRow<'_>]) -> anyhow::Result<()> {
        let json = array(rows);
        let mut transaction = self.pool.begin().await?;
        sqlx::query(DURABLE).execute(&mut *transaction).await?;
        sqlx::query(WRITE).bind(json).execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    pub(in crate::store) async fn prepare_audit(&self, months: &[Month]) -> anyhow::Result<Kept> {
        let mut kept = Kept::default();
        let (is_partitioned, is_ours) =
            self.kind_of_audit().await?.context("there is no such table; `portcullis migrate` makes it")?;
        for &month in months.iter().filter(|_| is_partitioned) {
            let is_there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
                .bind(month.partition())
                .fetch_one(&self.pool)
                .await?;
            if is_there {
                continue;
            }
            if !is_ours {
                kept.left.push(format!("{}: {NOT_OURS}", month.partition()));
                continue;
            }
            match self.make_partition(month).await {
                Ok(true) => kept.made.push(month.partition()),
                Ok(false) => {}
                Err(error) => kept.left.push(format!("{}: {error}", month.partition())),
            }
        }
        Ok(kept)
    }

    async fn make_partition(&self, month: Month) -> sqlx::Result<bool> {
        let mut transaction = self.pool.begin().await?;
        impatient(&mut transaction).await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(PARTITION_LOCK)
            .execute(&mut *transaction)
            .await?;
        let is_there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(month.partition())
            .fetch_one(&mut *transaction)
            .await?;
        if is_there {
            return Ok(false);
        }
        // Postgres quotes the names and values itself.
        let make: String = sqlx::query_scalar(MAKE)
            .bind(month.partition())
            .bind(month.begin())
            .bind(month.plus(1).begin())
            .fetch_one(&mut *transaction)
            .await?;
        transaction.execute(sqlx::raw_sql(AssertSqlSafe(make))).await?;
        transaction.commit().await?;
        Ok(true)
    }

    pub(in crate::store) async fn forget_audit(&self, days: u32) -> anyhow::Result<Kept> {
        let mut alone = self.pool.begin().await?;
        // By the database's clock: that of one gateway may be wrong.
        let (is_alone, before): (bool, i64) = sqlx::query_as(
            "SELECT pg_try_advisory_xact_lock($1), \
                    (extract(epoch FROM now() - make_interval(days => $2)) * 1000000)::bigint",
        )
        .bind(RETENTION_LOCK)
        .bind(i32::try_from(days).unwrap_or(i32::MAX))
        .fetch_one(&mut *alone)
        .await?;
        let kept = if is_alone { self.forget_before(before).await } else { Ok(Kept::default()) };
        // Not left to happen some time later: the next step wants the lock again.
        alone.rollback().await?;
        kept
    }

    async fn forget_before(&self, before: i64) -> anyhow::Result<Kept> {
        let mut kept = Kept::default();
        let Some((is_partitioned, is_ours)) = self.kind_of_audit().await? else { return Ok(kept) };
        if !is_partitioned {
            self.delete_audit("api_analytics", before, &mut kept).await?;
            return Ok(kept);
        }
        let partitions: Vec<(String, bool)> = sqlx::query_as(PARTITIONS).fetch_all(&self.pool).await?;
        let began = Instant::now();
        for (partition, is_default) in partitions {
            if began.elapsed() > LONGEST_STEP {
                break;
            }
            let is_old = Month::of_partition(&partition) < Month::of(before);
            if is_default && is_ours {
                self.delete_audit(&partition, before, &mut kept).await?;
            } else if is_old && Month::of_partition(&partition).is_some() {
                match self.drop_partition(&partition, is_ours).await {
                    Ok(()) => kept.dropped.push(partition),
                    Err(why) => kept.left.push(format!("{partition}: {why}")),
                }
            }
        }
        Ok(kept)
    }

    async fn drop_partition(&self, partition: &str, is_ours: bool) -> Result<(), String> {
        if !is_ours {
            return Err(NOT_OURS.to_owned());
        }
        let dropping = async {
            let mut transaction = self.pool.begin().await?;
            impatient(&mut transaction).await?;
            let drop: String = sqlx::query_scalar("SELECT format('DROP TABLE %I', $1)")
                .bind(partition)
                .fetch_one(&mut *transaction)
                .await?;
            transaction.execute(sqlx::raw_sql(AssertSqlSafe(drop))).await?;
            transaction.commit().await
        };
        dropping.await.map_err(|error: sqlx::Error| error.to_string())
    }

    async fn delete_audit(&self, table: &str, before: i64, kept: &mut Kept) -> anyhow::Result<()> {
        let delete: String = sqlx::query_scalar(DELETE).bind(table).fetch_one(&self.pool).await?;
        let (began, bound) = (Instant::now(), first_number(before.saturating_add(SLACK)));
        loop {
            let statement = sqlx::query(AssertSqlSafe(delete.clone())).bind(before).bind(DELETED_AT_ONCE);
            let rows = statement.bind(bound.to_string()).execute(&self.pool).await?.rows_affected();
            kept.deleted += rows;
            if rows < DELETED_AT_ONCE as u64 {
                return Ok(());
            }
            if began.elapsed() > STEP {
                kept.is_unfinished = true;
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether the table has partitions, and whether we may change that; none without the table.
    async fn kind_of_audit(&self) -> sqlx::Result<Option<(bool, bool)>> {
        sqlx::query_as(KIND).fetch_optional(&self.pool).await
    }

    pub(in crate::store) async fn read_audit(
        &self,
        question: &AuditQuestion,
        sink: &mut RowSink<'_>,
    ) -> anyhow::Result<()> {
        let statements: &[&'static str] = if question.most.is_some() { &[NEWEST] } else { &[TIMELESS, ALL] };
        for &statement in statements {
            let query =
                texts(question).into_iter().fold(sqlx::query(statement), |query, text| query.bind(text));
            let query = query.bind(question.since).bind(question.until).bind(question.most.map(i64::from));
            let mut rows = query.fetch(&self.pool);
            while let Some(row) = rows.try_next().await? {
                let text = |at| Ok(row.try_get::<Text, _>(at)?.readable());
                let texts: Vec<Option<String>> = (0..COLUMNS.len()).map(text).collect::<sqlx::Result<_>>()?;
                if !sink(&texts) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    pub(in crate::store) async fn missing_audit(&self) -> anyhow::Result<Option<String>> {
        let (database, is_there, is_ours): (String, bool, bool) = sqlx::query_as(
            "SELECT current_database()::text, to_regclass('api_analytics') IS NOT NULL, \
                EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass('api_analytics') \
                    AND attname = 'entry_id' AND NOT attisdropped)",
        )
        .fetch_one(&self.pool)
        .await?;
        let place = format!("schema `{}` of the database `{database}`", self.schema);
        Ok(match (is_there, is_ours) {
            (true, true) => None,
            (true, false) => Some(format!(
                "`api_analytics` in {place} is an earlier gateway's and lacks our columns (`portcullis migrate` adds them)"
            )),
            (false, _) => Some(format!("{place} has no table `api_analytics`")),
        })
    }

    pub(in crate::store) async fn count_audit(&self, entries: &[String]) -> anyhow::Result<u64> {
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM api_analytics WHERE entry_id = ANY($1::text[]::uuid[])")
                .bind(entries)
                .fetch_one(&self.pool)
                .await?;
        Ok(count.try_into().unwrap_or_default())
    }
}

fn array(rows: &[AuditRow<'_>]) -> String {
    let mut json = String::with_capacity(rows.iter().map(|row| row.entry.len() + 128).sum());
    for row in rows {
        json.push(if json.is_empty() { '[' } else { ',' });
        json.push_str(&row.json());
    }
    json.push(']');
    json
}

/// The smallest number that an entry of this time can have: version 7 of RFC 9562 begins with its milliseconds.
fn first_number(micros: i64) -> Uuid {
    Uuid::from_u128(u128::from(micros.max(0).unsigned_abs() / 1_000) << 80)
}

const NOT_OURS: &str = "the gateway's database user does not own `api_analytics`; run `portcullis migrate` now and then \
     as its owner, or make it the owner";

/// What reads the table for long is not waited for, nor does what is written wait behind us.
async fn impatient(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("SELECT set_config('lock_timeout', '2s', true)").execute(connection).await.map(drop)
}
