//! The grant tables in an embedded SQLite database.
//!
//! Decides how they are read in one snapshot and how changes are found. SQLite has one writer at a time, so ids
//! commit in order and the last id read is all a reader needs to remember.
//! Never parses an email or id: rows go out as they were written.

mod audit;
mod pins;
mod rows;

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use sqlx::{
    SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteSynchronous},
};
use tracing::warn;

use super::{
    Sink, Write,
    changes::{self, Changes, Cursor, MOST_ROWS, Subject},
    migrations,
    sealed::Sealer,
    sqlite_file::{Owner, SqliteFile},
};

const KEPT: Duration = Duration::from_secs(60 * 60);
const PRUNE_EVERY: Duration = Duration::from_secs(10 * 60);

/// Connections to the gateway's SQLite file.
#[derive(Clone)]
pub(super) struct Database {
    pub(super) file: SqliteFile,
    pruned: Arc<Mutex<Option<Instant>>>,
}

impl Database {
    pub(super) fn open(path: &Path) -> Self {
        let options = SqliteConnectOptions::new()
            // Of a file that is made here; another keeps its own. A row of the audit is large for SQLite's 4 KiB.
            .page_size(16 * 1024)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal);
        Self { file: SqliteFile::new(path, options, Owner::Gateway), pruned: Arc::default() }
    }

    pub(super) fn open_to_read(path: &Path) -> Self {
        let options = SqliteConnectOptions::new().read_only(true);
        Self { file: SqliteFile::new(path, options, Owner::Other), pruned: Arc::default() }
    }

    pub(super) async fn migrate(&self) -> anyhow::Result<()> {
        // Immediate: takes the write lock at once, so that a second gateway waits here.
        let (pool, _) = self.file.pool().await?;
        let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
        // Not `run`: its future cannot move between threads (rust-lang/rust#100013).
        migrations::sqlite().run_direct(None, &mut *transaction, false).await?;
        Ok(transaction.commit().await?)
    }

    pub(super) async fn pending_migrations(&self) -> anyhow::Result<usize> {
        let migrator = migrations::sqlite();
        let (pool, _) = self.file.pool().await?;
        let mut connection = pool.acquire().await?;
        let is_begun: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'portcullis_migrations')",
        )
        .fetch_one(&mut *connection)
        .await?;
        if !is_begun {
            return Ok(migrator.iter().count());
        }
        migrations::count_pending(&migrator, &mut *connection).await
    }

    pub(super) async fn load_grants(&self, sealer: &Sealer, sink: &mut Sink<'_>) -> anyhow::Result<Cursor> {
        let (pool, opening) = self.file.pool().await?;
        // A deferred transaction sees the database as of its first read, which is the cursor.
        let mut transaction = pool.begin().await?;
        let (last, _) = ends_of_feed(&mut transaction).await?;
        for &(statement, row) in rows::EVERY {
            rows::send(sqlx::query(statement).fetch(&mut *transaction), row, sink).await?;
        }
        rows::send_keys(sqlx::query(rows::EVERY_KEY).fetch(&mut *transaction), sealer, sink).await?;
        transaction.commit().await?;
        Ok(Cursor(changes::Place::Sqlite { opening, last }))
    }

    pub(super) async fn changes_since(&self, cursor: &mut Cursor) -> anyhow::Result<Changes> {
        let (pool, opening) = self.file.pool().await?;
        let before = match cursor.0 {
            changes::Place::Sqlite { opening: known, last } if known == opening => last,
            // Ids of another file say nothing of this one.
            changes::Place::Sqlite { .. } | changes::Place::Postgres(_) => return Ok(Changes::Everything),
        };
        let mut transaction = pool.begin().await?;
        let (last, first_unread) = ends_of_feed_after(&mut transaction, before).await?;
        if last == before {
            return Ok(Changes::Nothing);
        }
        // Ahead of the database: it was restored. A gap: changes were deleted before we read them.
        if last < before || first_unread != Some(before + 1) {
            return Ok(Changes::Everything);
        }
        let noted = sqlx::query_as(
            "SELECT DISTINCT CAST(kind AS text), CAST(subject AS text) FROM portcullis_changes WHERE id > ?1 LIMIT ?2",
        )
        .bind(before)
        .bind(MOST_ROWS)
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        let changes = changes::gather(noted);
        if changes != Changes::Everything {
            self.prune_now_and_then(pool);
            cursor.0 = changes::Place::Sqlite { opening, last };
        }
        Ok(changes)
    }

    /// Deletes changes over an hour old; failing costs nothing but room.
    fn prune_now_and_then(&self, pool: SqlitePool) {
        let mut pruned = self.pruned.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if pruned.is_some_and(|at| at.elapsed() < PRUNE_EVERY) {
            return;
        }
        *pruned = Some(Instant::now());
        tokio::spawn(async move {
            let pruned = sqlx::query("DELETE FROM portcullis_changes WHERE at < unixepoch() - ?1")
                .bind(KEPT.as_secs() as i64)
                .execute(&pool)
                .await;
            if let Err(error) = pruned {
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
        let (pool, _) = self.file.pool().await?;
        let mut transaction = pool.begin().await?;
        for (statements, names) in [(rows::OF_USERS, &emails), (rows::OF_GROUPS, &groups)] {
            if names.is_empty() {
                continue;
            }
            let names = serde_json::to_string(names)?;
            for &(statement, row) in statements {
                rows::send(sqlx::query(statement).bind(&names).fetch(&mut *transaction), row, sink).await?;
            }
        }
        if !groups.is_empty() {
            let names = serde_json::to_string(&groups)?;
            let keys = sqlx::query(rows::KEYS_OF_GROUPS).bind(&names).fetch(&mut *transaction);
            rows::send_keys(keys, sealer, sink).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Every key of a tenant as it is stored: group, server, name and value; what cannot be read is empty.
    pub(super) async fn stored_keys(&self) -> anyhow::Result<Vec<[String; 4]>> {
        let (pool, _) = self.file.pool().await?;
        let rows = sqlx::query(rows::EVERY_KEY).fetch_all(&pool).await?;
        Ok(rows.iter().map(rows::stored_key).collect::<sqlx::Result<_>>()?)
    }

    pub(super) async fn write(&self, write: Write<'_>) -> anyhow::Result<u64> {
        let (pool, _) = self.file.pool().await?;
        let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
        let mut rows = 0;
        for statement in rows::change(write) {
            let bound =
                write.values().into_iter().fold(sqlx::query(*statement), |query, value| query.bind(value));
            rows += bound.execute(&mut *transaction).await?.rows_affected();
        }
        transaction.commit().await?;
        Ok(rows)
    }

    pub(super) async fn close(&self) {
        self.file.close().await;
    }
}

/// The last id ever given out in the feed.
async fn ends_of_feed(connection: &mut SqliteConnection) -> sqlx::Result<(i64, Option<i64>)> {
    ends_of_feed_after(connection, i64::MAX).await
}

/// The last id ever given out in the feed (also when its row is gone), and the first one after `before` still there.
async fn ends_of_feed_after(
    connection: &mut SqliteConnection,
    before: i64,
) -> sqlx::Result<(i64, Option<i64>)> {
    sqlx::query_as(
        "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'portcullis_changes'), 0), \
                (SELECT min(id) FROM portcullis_changes WHERE id > ?1)",
    )
    .bind(before)
    .fetch_one(connection)
    .await
}
