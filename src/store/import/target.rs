//! Where grants are imported to: laid out in temporary tables first, then compared and written in one transaction.
//!
//! Decides that all of it is written or nothing, in one statement a table, so that a running gateway hears of one change
//! instead of a million. Never parses: what comes here has been.

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, Postgres, Sqlite, SqliteConnection, Transaction,
    pool::PoolConnection,
};

use super::tables::{Grant, Table};
use crate::store::{ANSWER, Database, Store, within};

/// How long writing everything may take: minutes for millions of rows on a slow disk.
const WRITING: Duration = Duration::from_secs(15 * 60);

/// The tables that grants are written to.
pub(super) const TABLES: [Table; 3] = [Table::UserAccess, Table::GroupMapping, Table::Membership];

/// A connection to the gateway's own database, with a temporary table for each of its tables.
pub(super) enum Target {
    /// In a transaction from the start: a pooler may give another connection to the next one.
    Postgres(Transaction<'static, Postgres>),
    /// Without one at first: SQLite has one writer at a time, who should be quick.
    Sqlite(PoolConnection<Sqlite>),
}

impl Target {
    /// Makes the temporary tables.
    pub(super) async fn begin(store: &Store) -> anyhow::Result<Self> {
        within(ANSWER, async {
            Ok(match &store.database {
                Database::Postgres(database) => {
                    let mut transaction = database.pool.begin().await?;
                    for table in TABLES {
                        let staged = staged(table);
                        let make = format!(
                            "CREATE TEMPORARY TABLE {staged} (subject text, object text, level text, \
                             PRIMARY KEY (subject, object)) ON COMMIT DROP"
                        );
                        transaction.execute(sqlx::raw_sql(AssertSqlSafe(make))).await?;
                    }
                    Self::Postgres(transaction)
                }
                Database::Sqlite(database) => {
                    let mut connection = database.file.pool().await?.0.acquire().await?;
                    for table in TABLES {
                        let staged = staged(table);
                        let make = format!(
                            "DROP TABLE IF EXISTS temp.{staged}; CREATE TEMPORARY TABLE {staged} \
                             (subject text, object text, level text, PRIMARY KEY (subject, object)) WITHOUT ROWID"
                        );
                        connection.execute(sqlx::raw_sql(AssertSqlSafe(make))).await?;
                    }
                    Self::Sqlite(connection)
                }
            })
        })
        .await
    }

    /// Takes an advisory lock for as long as the transaction lasts, where there are such locks.
    pub(super) async fn lock(&mut self, key: i64) -> anyhow::Result<()> {
        let Self::Postgres(transaction) = self else { return Ok(()) };
        within(ANSWER, async {
            sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(key).execute(&mut **transaction).await?;
            Ok(())
        })
        .await
    }

    /// Which table of the database this name means to the gateway.
    pub(super) async fn oid(&mut self, table: Table) -> anyhow::Result<Option<i64>> {
        let Self::Postgres(transaction) = self else { return Ok(None) };
        within(ANSWER, async {
            let name = sqlx::query_scalar("SELECT to_regclass($1)::oid::bigint").bind(table.name());
            Ok(name.fetch_one(&mut **transaction).await?)
        })
        .await
    }

    /// Lays rows out; gives back how many of them were not laid out before.
    pub(super) async fn stage(&mut self, table: Table, rows: &[Grant]) -> anyhow::Result<u64> {
        if rows.is_empty() {
            return Ok(0);
        }
        let staged = staged(table);
        within(ANSWER.saturating_mul(6), async {
            let done = match self {
                Self::Postgres(transaction) => {
                    let statement = format!(
                        "INSERT INTO pg_temp.{staged} SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) \
                         ON CONFLICT DO NOTHING"
                    );
                    let column = |of: fn(&Grant) -> &str| rows.iter().map(of).collect::<Vec<_>>();
                    let query = sqlx::query(AssertSqlSafe(statement))
                        .bind(column(|row| &row.subject))
                        .bind(column(|row| &row.object))
                        .bind(column(|row| &row.level));
                    query.execute(&mut **transaction).await?.rows_affected()
                }
                Self::Sqlite(connection) => {
                    let statement = format!(
                        "INSERT OR IGNORE INTO temp.{staged} \
                         SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1)"
                    );
                    let rows: Vec<_> =
                        rows.iter().map(|row| [&row.subject, &row.object, &row.level]).collect();
                    let query = sqlx::query(AssertSqlSafe(statement)).bind(serde_json::to_string(&rows)?);
                    query.execute(&mut **connection).await?.rows_affected()
                }
            };
            Ok(done)
        })
        .await
    }

    /// How many of the rows that were laid out are not in these tables, in their order. Nothing is changed.
    pub(super) async fn compare(&mut self, tables: &[Table]) -> anyhow::Result<Vec<u64>> {
        within(WRITING, async {
            let mut missing = Vec::with_capacity(tables.len());
            for &table in tables {
                let rows: i64 = match self {
                    Self::Postgres(transaction) => count_in_postgres(transaction, table).await?,
                    Self::Sqlite(connection) => count_in_sqlite(connection, table).await?,
                };
                missing.push(u64::try_from(rows)?);
            }
            Ok(missing)
        })
        .await
    }

    /// Writes the rows that are not in these tables and ends the transaction; gives back how many those were.
    pub(super) async fn write(self, tables: &[Table]) -> anyhow::Result<Vec<u64>> {
        within(WRITING, async {
            let mut written = Vec::with_capacity(tables.len());
            match self {
                Self::Postgres(mut transaction) => {
                    for &table in tables {
                        let statement = AssertSqlSafe(insert_into_postgres(table));
                        written
                            .push(sqlx::query(statement).execute(&mut *transaction).await?.rows_affected());
                    }
                    transaction.commit().await?;
                }
                Self::Sqlite(mut connection) => {
                    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
                    for &table in tables {
                        let statement = AssertSqlSafe(insert_into_sqlite(table));
                        written
                            .push(sqlx::query(statement).execute(&mut *transaction).await?.rows_affected());
                    }
                    transaction.commit().await?;
                }
            }
            Ok(written)
        })
        .await
    }
}

/// The temporary table that rows of this one are laid out in.
fn staged(table: Table) -> String {
    format!("portcullis_import_{}", table.name())
}

/// Columns of a table, in the order subject, object, level; and whether the subject is an email.
const fn columns(table: Table) -> (&'static [&'static str], bool) {
    match table {
        Table::UserAccess => (&["user_email", "tenant_id", "access_level"], true),
        Table::Membership => (&["user_email", "group_name"], true),
        Table::GroupMapping | Table::Keys | Table::EndpointOverrides | Table::ServerEndpoints => {
            (&["group_name", "tenant_id"], false)
        }
    }
}

const STAGED: [&str; 3] = ["staged.subject", "staged.object", "staged.level"];

/// The rows laid out that are not in the table; a stored email may differ in case. All of it is our own words.
fn missing_in_postgres(table: Table, wanted: &str) -> String {
    let (name, (columns, is_of_user)) = (table.name(), columns(table));
    let subject = columns[0];
    let subject = match is_of_user {
        true => format!("lower({subject}::text COLLATE \"C\")"),
        false => format!("{subject}::text"),
    };
    format!(
        "SELECT {wanted} FROM pg_temp.{} AS staged WHERE NOT EXISTS (SELECT FROM {name} \
         WHERE {subject} = staged.subject AND {}::text = staged.object)",
        staged(table),
        columns[1]
    )
}

fn missing_in_sqlite(table: Table, wanted: &str) -> String {
    let (name, (columns, is_of_user)) = (table.name(), columns(table));
    let subject = columns[0];
    // The plus takes the affinity away, with which SQLite would not use the index on `lower(…)`.
    let subject = match is_of_user {
        true => format!("lower({subject}) = +staged.subject"),
        false => format!("{subject} = staged.subject"),
    };
    format!(
        "SELECT {wanted} FROM temp.{} AS staged WHERE NOT EXISTS (SELECT 1 FROM main.{name} \
         WHERE {subject} AND {} = staged.object)",
        staged(table),
        columns[1]
    )
}

fn insert_into_postgres(table: Table) -> String {
    let (columns, _) = columns(table);
    let missing = missing_in_postgres(table, &STAGED[..columns.len()].join(", "));
    format!("INSERT INTO {} ({}) {missing} ON CONFLICT DO NOTHING", table.name(), columns.join(", "))
}

fn insert_into_sqlite(table: Table) -> String {
    let (columns, _) = columns(table);
    let missing = missing_in_sqlite(table, &STAGED[..columns.len()].join(", "));
    format!("INSERT OR IGNORE INTO main.{} ({}) {missing}", table.name(), columns.join(", "))
}

/// Before the first migration there are no tables, and nothing is in them.
async fn count_in_postgres(connection: &mut PgConnection, table: Table) -> sqlx::Result<i64> {
    let is_there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(table.name())
        .fetch_one(&mut *connection)
        .await?;
    let statement = match is_there {
        true => missing_in_postgres(table, "count(*)"),
        false => format!("SELECT count(*) FROM pg_temp.{}", staged(table)),
    };
    sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(connection).await
}

async fn count_in_sqlite(connection: &mut SqliteConnection, table: Table) -> sqlx::Result<i64> {
    let is_there: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM main.sqlite_master WHERE name = ?1)")
            .bind(table.name())
            .fetch_one(&mut *connection)
            .await?;
    let statement = match is_there {
        true => missing_in_sqlite(table, "count(*)"),
        false => format!("SELECT count(*) FROM temp.{}", staged(table)),
    };
    sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(connection).await
}

#[cfg(test)]
mod tests {
    use sqlx::Row;

    use super::*;
    use crate::store::scratch::on_sqlite;

    /// Without it each row would be looked for among all: hours for a million.
    #[tokio::test]
    async fn rows_are_looked_up_by_an_index() {
        on_sqlite(async |scratch| {
            let store = scratch.store().await;
            let Target::Sqlite(mut connection) = Target::begin(&store).await.unwrap() else { unreachable!() };
            for table in TABLES {
                let statement = format!("EXPLAIN QUERY PLAN {}", insert_into_sqlite(table));
                let plan = sqlx::query(AssertSqlSafe(statement)).fetch_all(&mut *connection).await.unwrap();
                let plan: Vec<String> = plan.iter().map(|row| row.get(3)).collect();
                let search = format!("SEARCH {}", table.name());
                assert!(plan.iter().any(|line| line.replace("main.", "").starts_with(&search)), "{plan:?}");
            }
            drop(connection);
            store.close().await;
        })
        .await;
    }
}
