//! The grant tables in Postgres.
//!
//! Decides how they are read in one snapshot, how changes are found although ids commit out of order, and when
//! old changes may go. Never parses an email or id: rows go out as they were written.
//! Why the feed is read by transaction snapshots: `migrations/README.md`.

mod audit;
mod pins;
mod rows;

use std::{
    str::FromStr,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, anyhow};
use futures_util::TryFutureExt;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Executor, Row,
    postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions, PgRow},
};
use tracing::warn;

use super::{
    Sink, Write,
    changes::{self, Changes, Cursor, MOST_ROWS, Subject},
    migrations,
    sealed::Sealer,
    text::Text,
};
use crate::names::Secret;

const CHANNEL: &str = "portcullis_changes";
/// All reads that belong together see the database as of one instant.
pub(super) const ONE_SNAPSHOT: &str = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// Held while migrating; any number will do that other applications don't use.
const MIGRATION_LOCK: i64 = 0x706f_7274_6375_6c6c;
/// How long a change stays in the feed after it became visible.
const KEPT: Duration = Duration::from_secs(60 * 60);
/// A reader silent for this long may have missed deleted changes; well under `KEPT`.
const TRUSTED: Duration = Duration::from_secs(30 * 60);
/// A database in `SQL_ASCII` holds any bytes, and fails a whole query rather than send one text that is not UTF-8.
const BYTES_AS_THEY_ARE: &str = "\
    SELECT set_config('client_encoding', 'SQL_ASCII', false) WHERE getdatabaseencoding() = 'SQL_ASCII'";
const PRUNE_EVERY: Duration = Duration::from_secs(10 * 60);

/// Connections to the gateway's Postgres.
#[derive(Clone)]
pub(super) struct Database {
    pub(super) pool: PgPool,
    schema: Arc<str>,
    pruning: Arc<Mutex<Vec<Place>>>,
}

/// What the database looked like at a reader's last read.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// `pg_current_snapshot()`: which transactions could be seen.
    snapshot: String,
    /// When the server process started, in seconds: tells a restored or replaced server apart.
    server_started: f64,
    /// The server's clock, in seconds; ours may stand still while the machine sleeps.
    read_at: f64,
}

impl Place {
    fn seconds_before(&self, later: &Self) -> f64 {
        later.read_at - self.read_at
    }

    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            snapshot: row.try_get("snapshot")?,
            server_started: row.try_get("server_started")?,
            read_at: row.try_get("read_at")?,
        })
    }
}

/// Prepares a few connections to Postgres whose unqualified names mean tables of `schema`.
///
/// The error says nothing of the url, which holds a password.
/// Whether the driver understands the address.
pub(super) fn is_readable(url: &Secret<String>) -> bool {
    PgConnectOptions::from_str(url.expose()).is_ok()
}

pub(super) fn pool(url: &Secret<String>, schema: &str) -> anyhow::Result<PgPool> {
    let mut options = PgConnectOptions::from_str(url.expose()).map_err(|_| {
        anyhow!("the database url can't be read: it should look like `postgres://USER:PASSWORD@HOST:5432/DATABASE`")
    })?;
    if options.get_application_name().is_none() {
        options = options.application_name("portcullis");
    }
    // Only when needed: some poolers refuse start-up options.
    if schema != "public" {
        options = options.options([("search_path", format!("\"{}\"", schema.replace('"', "\"\"")))]);
    }
    // Without limits on age the pool needs no task of its own, so it can be made outside any runtime.
    Ok(PgPoolOptions::new()
        .max_connections(4)
        .acquire_timeout(Duration::from_secs(3))
        .idle_timeout(None)
        .max_lifetime(None)
        .after_connect(|connection, _| {
            Box::pin(connection.execute(sqlx::raw_sql(BYTES_AS_THEY_ARE)).map_ok(drop))
        })
        .connect_lazy_with(options.disable_statement_logging()))
}

impl Database {
    pub(super) fn open(url: &Secret<String>, schema: &str) -> anyhow::Result<Self> {
        Ok(Self { pool: pool(url, schema)?, schema: schema.into(), pruning: Arc::default() })
    }

    pub(super) async fn migrate(&self) -> anyhow::Result<()> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(MIGRATION_LOCK)
            .execute(&mut *transaction)
            .await?;
        // Asked first, because `IF NOT EXISTS` needs the right to create even when there is nothing to create.
        let create: Option<String> = sqlx::query_scalar(
            "SELECT format('CREATE SCHEMA IF NOT EXISTS %I', $1) \
             WHERE NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)",
        )
        .bind(&*self.schema)
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some(create) = create {
            // Postgres quoted the name itself, with `%I`.
            sqlx::query(AssertSqlSafe(create)).execute(&mut *transaction).await?;
        }
        // Not `run`: its future cannot move between threads (rust-lang/rust#100013).
        migrations::postgres().run_direct(None, &mut *transaction, false).await?;
        Ok(transaction.commit().await?)
    }

    pub(super) async fn pending_migrations(&self) -> anyhow::Result<usize> {
        let migrator = migrations::postgres();
        let mut connection = self.pool.acquire().await?;
        let is_begun: bool = sqlx::query_scalar("SELECT to_regclass('portcullis_migrations') IS NOT NULL")
            .fetch_one(&mut *connection)
            .await?;
        if !is_begun {
            return Ok(migrator.iter().count());
        }
        migrations::count_pending(&migrator, &mut *connection).await
    }

    pub(super) async fn load_grants(&self, sealer: &Sealer, sink: &mut Sink<'_>) -> anyhow::Result<Cursor> {
        let mut transaction = self.pool.begin_with(ONE_SNAPSHOT).await?;
        let place = sqlx::query(
            "SELECT pg_current_snapshot()::text AS snapshot, \
                    extract(epoch FROM pg_postmaster_start_time())::float8 AS server_started, \
                    extract(epoch FROM clock_timestamp())::float8 AS read_at",
        )
        .fetch_one(&mut *transaction)
        .await?;
        let place = Place::from_row(&place)?;
        for &(statement, row) in rows::EVERY {
            rows::send(sqlx::query(statement).fetch(&mut *transaction), row, sink).await?;
        }
        rows::send_keys(sqlx::query(rows::EVERY_KEY).fetch(&mut *transaction), sealer, sink).await?;
        transaction.commit().await?;
        Ok(Cursor(changes::Place::Postgres(place)))
    }

    pub(super) async fn changes_since(&self, cursor: &mut Cursor) -> anyhow::Result<Changes> {
        let changes::Place::Postgres(before) = &cursor.0 else {
            return Ok(Changes::Everything);
        };
        let rows = sqlx::query(CHANGES_SINCE)
            .bind(&before.snapshot)
            .bind(before.server_started)
            .bind(before.read_at)
            .bind(TRUSTED.as_secs_f64())
            .bind(MOST_ROWS)
            .fetch_all(&self.pool)
            .await?;
        let first = rows.first().ok_or_else(|| anyhow!("the database gave no answer"))?;
        if !first.try_get::<bool, _>("is_trusted")? {
            return Ok(Changes::Everything);
        }
        let now = Place::from_row(first)?;
        let mut noted = Vec::with_capacity(rows.len());
        for row in &rows {
            // A row without a kind says that there were no changes.
            let kind: Text = row.try_get("kind")?;
            if kind != Text::Absent {
                noted.push((kind, row.try_get("subject")?));
            }
        }
        let changes = changes::gather(noted);
        if changes != Changes::Everything {
            self.prune_now_and_then(&now);
            cursor.0 = changes::Place::Postgres(now);
        }
        Ok(changes)
    }

    /// Deletes changes that could already be seen an hour ago; failing costs nothing but room.
    fn prune_now_and_then(&self, now: &Place) {
        let Some(then) = due_for_pruning(&self.pruning, now) else {
            return;
        };
        let pool = self.pool.clone();
        tokio::spawn(async move {
            if let Err(error) = sqlx::query(PRUNE).bind(&then.snapshot).execute(&pool).await {
                warn!(%error, "could not delete old rows of `portcullis_changes`");
            }
        });
    }

    pub(super) async fn rows_about(
        &self,
        subjects: &[Subject],
        sealer: &Sealer,
        sink: &mut Sink<'_>,
    ) -> anyhow::Result<()> {
        let (mut emails, mut groups) = (Vec::new(), Vec::new());
        for subject in subjects {
            match subject {
                Subject::User(email) => emails.push(email.to_ascii_lowercase()),
                Subject::Group(group) => groups.push(group.clone()),
            }
        }
        let mut transaction = self.pool.begin_with(ONE_SNAPSHOT).await?;
        for (statements, names) in [(rows::OF_USERS, &emails), (rows::OF_GROUPS, &groups)] {
            if names.is_empty() {
                continue;
            }
            for &(statement, row) in statements {
                rows::send(sqlx::query(statement).bind(names).fetch(&mut *transaction), row, sink).await?;
            }
        }
        if !groups.is_empty() {
            let keys = sqlx::query(rows::KEYS_OF_GROUPS).bind(&groups).fetch(&mut *transaction);
            rows::send_keys(keys, sealer, sink).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Every key of a tenant as it is stored: group, server, name and value; what cannot be read is empty.
    pub(super) async fn stored_keys(&self) -> anyhow::Result<Vec<[String; 4]>> {
        let rows = sqlx::query(rows::EVERY_KEY).fetch_all(&self.pool).await?;
        Ok(rows.iter().map(rows::stored_key).collect::<sqlx::Result<_>>()?)
    }

    pub(super) async fn write(&self, write: Write<'_>) -> anyhow::Result<u64> {
        let mut transaction = self.pool.begin().await?;
        let mut rows = 0;
        for statement in rows::change(write) {
            let bound =
                write.values().into_iter().fold(sqlx::query(*statement), |query, value| query.bind(value));
            rows += bound.execute(&mut *transaction).await?.rows_affected();
        }
        transaction.commit().await?;
        Ok(rows)
    }

    pub(super) async fn listen(&self) -> anyhow::Result<Listener> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        // A broken connection is the caller's to know: what was missed has to be read from the feed.
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(Listener(listener))
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

/// The rows that the reader's last snapshot ($1) could not see and this one can, together with this one.
///
/// One statement, so both come from the same instant. On a standby, snapshots list running transactions in a way
/// that `pg_visible_in_snapshot` doesn't see, so there everything from the oldest running one on is repeated.
const CHANGES_SINCE: &str = "\
    WITH now AS MATERIALIZED ( \
        SELECT pg_current_snapshot() AS snapshot, \
               extract(epoch FROM pg_postmaster_start_time())::float8 AS server_started, \
               extract(epoch FROM clock_timestamp())::float8 AS read_at \
    ), judged AS MATERIALIZED ( \
        SELECT now.*, server_started = $2 AND read_at - $3 < $4 \
               AND pg_snapshot_xmax($1::pg_snapshot) <= pg_snapshot_xmax(snapshot) AS is_trusted \
        FROM now \
    ) \
    SELECT snapshot::text AS snapshot, server_started, read_at, is_trusted, kind, subject \
    FROM judged LEFT JOIN LATERAL ( \
        SELECT DISTINCT kind, subject FROM portcullis_changes \
        WHERE txid >= pg_snapshot_xmin($1::pg_snapshot) \
          AND (pg_is_in_recovery() OR NOT pg_visible_in_snapshot(txid, $1::pg_snapshot)) \
        LIMIT $5 \
    ) AS unseen ON is_trusted";

const PRUNE: &str = "\
    DELETE FROM portcullis_changes \
    WHERE txid < pg_snapshot_xmax($1::pg_snapshot) AND pg_visible_in_snapshot(txid, $1::pg_snapshot)";

/// Remembers a place every ten minutes, and gives back the latest one that is over an hour old.
///
/// Ages are counted from when a change could be *seen*: one written in a transaction that stayed open for hours
/// is new to every reader, however old its `at`.
fn due_for_pruning(places: &Mutex<Vec<Place>>, now: &Place) -> Option<Place> {
    let mut places = places.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // A restarted server may be another one, whose transactions the old snapshots know nothing of.
    places.retain(|place| place.server_started == now.server_started);
    let is_time =
        places.last().is_none_or(|last| last.seconds_before(now).abs() >= PRUNE_EVERY.as_secs_f64());
    if !is_time {
        return None;
    }
    places.push(now.clone());
    let old = places.iter().take_while(|place| place.seconds_before(now) >= KEPT.as_secs_f64()).count();
    places.drain(..old).next_back()
}

/// Hears when grants change.
pub struct Listener(PgListener);

impl Listener {
    /// Waits until something has changed; several changes at once are one answer.
    ///
    /// An error means that the connection broke: listen anew, then read what was missed.
    pub async fn changed(&mut self) -> anyhow::Result<()> {
        self.0
            .try_recv()
            .await
            .context("could not hear of changed grants")?
            .context("the connection that hears of changed grants broke")?;
        while self.0.next_buffered().is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Connection;

    use super::{
        super::scratch::{Scratch, on_postgres},
        *,
    };

    async fn place(database: &Database) -> Place {
        match database.load_grants(&Sealer::new(Default::default()).unwrap(), &mut |_| ()).await.unwrap().0 {
            changes::Place::Postgres(place) => place,
            changes::Place::Sqlite { .. } => unreachable!(),
        }
    }

    async fn database(scratch: &Scratch) -> Database {
        scratch.store().await;
        let super::super::DatabaseUrl::Postgres(url) = &scratch.settings.url else { unreachable!() };
        Database::open(url, "public").unwrap()
    }

    #[track_caller]
    fn check(changes: Changes, is_everything: bool) {
        assert_eq!(changes == Changes::Everything, is_everything, "{changes:?}");
    }

    #[tokio::test]
    async fn a_place_that_cannot_be_trusted_is_everything() {
        on_postgres(async |scratch| {
            let database = database(&scratch).await;
            let now = place(&database).await;
            let of = async |place: Place| {
                database.changes_since(&mut Cursor(changes::Place::Postgres(place))).await.unwrap()
            };
            check(of(now.clone()).await, false);
            check(of(Place { read_at: now.read_at - 29.0 * 60.0, ..now.clone() }).await, false);
            check(of(Place { read_at: now.read_at - 31.0 * 60.0, ..now.clone() }).await, true);
            check(of(Place { server_started: now.server_started - 1.0, ..now.clone() }).await, true);
            check(of(Place { snapshot: "900000000:900000000:".into(), ..now.clone() }).await, true);
            let elsewhere = changes::Place::Sqlite { opening: 0, last: 1 };
            check(database.changes_since(&mut Cursor(elsewhere)).await.unwrap(), true);
        })
        .await;
    }

    #[tokio::test]
    async fn changes_go_once_they_could_be_seen_for_an_hour() {
        on_postgres(async |scratch| {
            let database = database(&scratch).await;
            let rows = async || -> i64 {
                sqlx::query_scalar("SELECT count(*) FROM portcullis_changes")
                    .fetch_one(&database.pool)
                    .await
                    .unwrap()
            };
            // Written before the remembered place, but committed after it: `at` is older, yet nobody has seen it.
            let mut open = scratch.psql().await;
            let mut transaction = open.begin().await.unwrap();
            sqlx::query("INSERT INTO user_tenant_access VALUES ('open@x', 'git')")
                .execute(&mut *transaction)
                .await
                .unwrap();
            scratch.execute("INSERT INTO user_tenant_access VALUES ('old@x', 'git')").await;
            let an_hour_ago = place(&database).await;
            transaction.commit().await.unwrap();
            scratch.execute("INSERT INTO user_tenant_access VALUES ('new@x', 'git')").await;
            assert_eq!(rows().await, 3);
            sqlx::query(PRUNE).bind(&an_hour_ago.snapshot).execute(&database.pool).await.unwrap();
            let left: Vec<String> = sqlx::query_scalar("SELECT subject FROM portcullis_changes ORDER BY id")
                .fetch_all(&database.pool)
                .await
                .unwrap();
            assert_eq!(left, ["open@x", "new@x"]);
        })
        .await;
    }

    #[test]
    fn pruning_waits_ten_minutes_and_goes_back_an_hour() {
        let places = Mutex::default();
        let at = |minutes: u32, server_started| Place {
            snapshot: minutes.to_string(),
            server_started,
            read_at: f64::from(minutes) * 60.0,
        };
        let due =
            |minutes, server| due_for_pruning(&places, &at(minutes, server)).map(|place| place.snapshot);
        assert_eq!(due(0, 1.0), None);
        assert_eq!(due(9, 1.0), None);
        assert_eq!(due(50, 1.0), None);
        assert_eq!(due(60, 1.0).as_deref(), Some("0"));
        assert_eq!(due(61, 1.0), None);
        assert_eq!(due(125, 1.0).as_deref(), Some("60"));
        assert_eq!(due(300, 2.0), None, "places of another server say nothing");
    }
}
