//! Which migrations this binary brings, and how they are run.
//!
//! Decides that migrations newer than the binary are left alone (a rolled-back gateway must start) and that the
//! record of them has a table of its own: `public` may hold somebody else's `_sqlx_migrations`.
//! Never says how to connect or lock: `postgres` and `sqlite` do.

use sqlx::migrate::{Migrate, Migrator};

/// The table that says what has been applied.
const TABLE: &str = "portcullis_migrations";

/// The migrations for Postgres.
pub(super) fn postgres() -> Migrator {
    ours(sqlx::migrate!("migrations/postgres"))
}

/// The migrations for SQLite.
pub(super) fn sqlite() -> Migrator {
    ours(sqlx::migrate!("migrations/sqlite"))
}

fn ours(mut migrator: Migrator) -> Migrator {
    migrator.dangerous_set_table_name(TABLE);
    migrator.set_ignore_missing(true);
    // The callers hold a lock around more than the migrator would.
    migrator.set_locking(false);
    migrator
}

/// Counts the migrations that have not been applied, in a database that has the table of applied ones.
pub(super) async fn count_pending<C: Migrate>(
    migrator: &Migrator,
    connection: &mut C,
) -> anyhow::Result<usize> {
    let applied = connection.list_applied_migrations(TABLE).await?;
    Ok(migrator.iter().filter(|ours| !applied.iter().any(|theirs| theirs.version == ours.version)).count())
}
