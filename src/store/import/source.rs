//! The earlier gateway's database, which is only read: one read-only transaction, all of it as of one instant.
//!
//! Decides which of its tables can be read and how. A table that cannot be read whole is not read at all: some of its
//! rows could look like all of them.

use std::{collections::BTreeMap, path::PathBuf, pin::Pin};

use anyhow::{Context, bail};
use futures_util::{Stream, StreamExt};
use sqlx::{
    AssertSqlSafe, Executor, Postgres, Row, Sqlite, Transaction,
    postgres::{PgPool, PgRow},
    sqlite::{SqliteConnectOptions, SqliteRow},
};

use super::{
    layout::{Column, Dialect, Found, Relation, layout},
    tables::{Raw, Table},
};
use crate::{
    names::Secret,
    store::{
        ANSWER, DatabaseUrl, postgres,
        sqlite_file::{Owner, SqliteFile},
        text::Text,
        within,
    },
};

/// A database to import from.
pub struct Source {
    database: Database,
    schema: String,
}

enum Database {
    Postgres(PgPool),
    Sqlite { file: Box<SqliteFile>, path: PathBuf },
}

/// The database as of one instant.
pub(super) enum Snapshot {
    Postgres(Transaction<'static, Postgres>),
    Sqlite(Transaction<'static, Sqlite>),
}

/// What there is of the earlier gateway's tables.
pub(super) struct Shape {
    pub tables: BTreeMap<Table, Found>,
    /// Other schemas with such tables.
    pub elsewhere: Vec<String>,
}

/// Rows as they arrive.
pub(super) type Rows<'s> = Pin<Box<dyn Stream<Item = sqlx::Result<Raw>> + Send + 's>>;

impl Source {
    /// Prepares connections without making one. `schema` is where the tables stand (Postgres only), `public` unless
    /// it is named here or in the url (`?schema=NAME`).
    pub fn open(url: &DatabaseUrl, schema: Option<&str>) -> anyhow::Result<Self> {
        match url {
            DatabaseUrl::Postgres(url) => {
                let (url, named) = without_schema(url);
                if let (Some(one), Some(other)) = (schema, named.as_deref())
                    && one != other
                {
                    bail!("the url names schema `{other}`, and `--from-schema` names `{one}`: leave one out");
                }
                let schema = schema.map(str::to_owned).or(named).unwrap_or_else(|| "public".to_owned());
                // Names are written out with their schema, so that no `search_path` counts.
                Ok(Self { database: Database::Postgres(postgres::pool(&url, "public")?), schema })
            }
            DatabaseUrl::Sqlite(_) if schema.is_some() => bail!("an SQLite file has no schemas"),
            DatabaseUrl::Sqlite(path) => {
                let options = SqliteConnectOptions::new().read_only(true);
                let file = Box::new(SqliteFile::new(path, options, Owner::Other));
                let database = Database::Sqlite { file, path: path.clone() };
                Ok(Self { database, schema: "main".to_owned() })
            }
        }
    }

    /// The schema that is looked into.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The file, where it is one.
    pub(super) fn file(&self) -> Option<&PathBuf> {
        match &self.database {
            Database::Postgres(_) => None,
            Database::Sqlite { path, .. } => Some(path),
        }
    }

    /// Begins to read one instant.
    pub(super) async fn begin(&self) -> anyhow::Result<Snapshot> {
        let beginning = async {
            match &self.database {
                Database::Postgres(pool) => {
                    let mut transaction = pool.begin_with(postgres::ONE_SNAPSHOT).await?;
                    // A policy would hide rows from us silently; with this it is an error that says so.
                    transaction.execute(sqlx::raw_sql("SET LOCAL row_security = off")).await?;
                    Ok(Snapshot::Postgres(transaction))
                }
                Database::Sqlite { file, .. } => Ok(Snapshot::Sqlite(file.pool().await?.0.begin().await?)),
            }
        };
        within(ANSWER, beginning).await.context("could not read the database to import from")
    }

    /// Lets go of the connections.
    pub async fn close(&self) {
        match &self.database {
            Database::Postgres(pool) => pool.close().await,
            Database::Sqlite { file, .. } => file.close().await,
        }
    }
}

impl Snapshot {
    /// Which tables there are, and how each is read.
    pub(super) async fn shape(&mut self, schema: &str) -> anyhow::Result<Shape> {
        let looking = async {
            match self {
                Self::Postgres(transaction) => postgres_shape(transaction, schema).await,
                Self::Sqlite(transaction) => sqlite_shape(transaction).await,
            }
        };
        within(ANSWER, looking).await.context("could not read which tables the database to import from has")
    }

    /// Whether somebody holds this advisory lock in this very database.
    pub(super) async fn sees_lock(&mut self, key: i64) -> anyhow::Result<bool> {
        let Self::Postgres(transaction) = self else { return Ok(false) };
        let looking =
            async { Ok(sqlx::query_scalar(LOCK_IS_HELD).bind(key).fetch_one(&mut **transaction).await?) };
        within(ANSWER, looking).await.context("could not compare the two databases")
    }

    /// The rows of a table.
    pub(super) fn rows<'s>(&'s mut self, statement: &str) -> Rows<'s> {
        let query = AssertSqlSafe(statement.to_owned());
        match self {
            Self::Postgres(transaction) => {
                let rows = sqlx::query(query).fetch(&mut **transaction).enumerate();
                Box::pin(rows.map(|(at, row)| postgres_row(at, &row?)))
            }
            Self::Sqlite(transaction) => {
                let rows = sqlx::query(query).fetch(&mut **transaction).enumerate();
                Box::pin(rows.map(|(at, row)| sqlite_row(at, &row?)))
            }
        }
    }
}

fn postgres_row(at: usize, row: &PgRow) -> sqlx::Result<Raw> {
    let place = row.try_get::<Text, _>(0)?.readable();
    Ok(Raw {
        place: place.map_or_else(|| number(at), |ctid| format!("ctid {ctid}")),
        needed: [row.try_get(1)?, row.try_get(2)?, row.try_get(3)?],
        optional: row.try_get(4)?,
        off: row.try_get::<Text, _>(5)?.readable(),
    })
}

fn sqlite_row(at: usize, row: &SqliteRow) -> sqlx::Result<Raw> {
    let place = row.try_get::<Text, _>(0)?.readable();
    Ok(Raw {
        place: place.map_or_else(|| number(at), |rowid| format!("rowid {rowid}")),
        needed: [row.try_get(1)?, row.try_get(2)?, row.try_get(3)?],
        optional: row.try_get(4)?,
        off: row.try_get::<Text, _>(5)?.readable(),
    })
}

/// Of a view, whose rows have no place.
fn number(at: usize) -> String {
    format!("row number {}", at + 1)
}

const LOCK_IS_HELD: &str = "\
    SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 \
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
        AND ((classid::bigint << 32) | objid::bigint) = $1)";

/// The catalogs themselves: `information_schema` hides columns that we may not read, and they would look missing.
const POSTGRES_COLUMNS: &str = "\
    SELECT c.relname::text, format('%I.%I', n.nspname, c.relname), c.oid::bigint, c.relkind IN ('r', 'p', 'm'), \
           a.attname::text, t.typcategory IN ('S', 'E'), format_type(a.atttypid, a.atttypmod), \
           has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT') \
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
        JOIN pg_type AS t ON t.oid = a.atttypid \
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind IN ('r', 'p', 'm', 'v', 'f') \
    ORDER BY c.relname, a.attnum";

const POSTGRES_ELSEWHERE: &str = "\
    SELECT DISTINCT n.nspname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
    WHERE n.nspname <> $1 AND n.nspname NOT LIKE 'pg\\_%' AND c.relname = ANY($2) \
        AND c.relkind IN ('r', 'p', 'm', 'v', 'f') ORDER BY 1 LIMIT 20";

const SQLITE_COLUMNS: &str = "\
    SELECT l.name, l.type = 'table' AND NOT l.wr, c.name \
    FROM pragma_table_list AS l JOIN pragma_table_info(l.name) AS c \
    WHERE l.schema = 'main' AND l.type IN ('table', 'view') AND l.name IN (SELECT value FROM json_each(?1)) \
    ORDER BY l.name, c.cid";

/// `relname`, its quoted name, oid, whether rows have a `ctid`; then a column: name, whether it is of text, its type,
/// whether it may be read.
type PostgresColumn = (String, String, i64, bool, String, bool, String, bool);

fn names() -> Vec<String> {
    Table::ALL.iter().map(|table| table.name().to_owned()).collect()
}

async fn postgres_shape(
    transaction: &mut Transaction<'static, Postgres>,
    schema: &str,
) -> anyhow::Result<Shape> {
    let rows: Vec<PostgresColumn> =
        sqlx::query_as(POSTGRES_COLUMNS).bind(schema).bind(names()).fetch_all(&mut **transaction).await?;
    let mut relations: BTreeMap<String, (Relation, Vec<Column>)> = BTreeMap::new();
    for (table, quoted, oid, has_place, name, is_text, kind, may_read) in rows {
        let relation = Relation { quoted, oid: Some(oid), place: has_place.then_some("ctid::text") };
        let (_, columns) = relations.entry(table).or_insert((relation, Vec::new()));
        columns.push(Column { name, is_text, kind, may_read });
    }
    let elsewhere = match relations.is_empty() {
        true => {
            sqlx::query_scalar(POSTGRES_ELSEWHERE)
                .bind(schema)
                .bind(names())
                .fetch_all(&mut **transaction)
                .await?
        }
        false => Vec::new(),
    };
    Ok(Shape { tables: laid_out(Dialect::Postgres, &relations), elsewhere })
}

async fn sqlite_shape(transaction: &mut Transaction<'static, Sqlite>) -> anyhow::Result<Shape> {
    let rows: Vec<(String, bool, String)> = sqlx::query_as(SQLITE_COLUMNS)
        .bind(serde_json::to_string(&names())?)
        .fetch_all(&mut **transaction)
        .await?;
    let mut relations: BTreeMap<String, (Relation, Vec<Column>)> = BTreeMap::new();
    for (table, has_place, name) in rows {
        let place = has_place.then_some("CAST(rowid AS text)");
        // One of the names that were asked for, none of which needs quoting.
        let relation = Relation { quoted: format!("main.{table}"), oid: None, place };
        let (_, columns) = relations.entry(table).or_insert((relation, Vec::new()));
        // Any column of SQLite holds values of any type; each value says what it is.
        columns.push(Column { name, is_text: true, kind: String::new(), may_read: true });
    }
    Ok(Shape { tables: laid_out(Dialect::Sqlite, &relations), elsewhere: Vec::new() })
}

fn laid_out(
    dialect: Dialect,
    relations: &BTreeMap<String, (Relation, Vec<Column>)>,
) -> BTreeMap<Table, Found> {
    let found = Table::ALL.into_iter().filter_map(|table| {
        let (relation, columns) = relations.get(table.name())?;
        Some((table, layout(dialect, table, relation, columns)))
    });
    found.collect()
}

/// A Postgres url without `schema=NAME`, and that name. It is Prisma's and JDBC's way to write it, not libpq's.
fn without_schema(url: &Secret<String>) -> (Secret<String>, Option<String>) {
    let Ok(mut parsed) = url::Url::parse(url.expose()) else { return (url.clone(), None) };
    let pairs: Vec<(String, String)> = parsed.query_pairs().into_owned().collect();
    let Some((_, schema)) = pairs.iter().find(|(key, _)| key == "schema") else { return (url.clone(), None) };
    let schema = schema.clone();
    parsed.query_pairs_mut().clear().extend_pairs(pairs.iter().filter(|(key, _)| key != "schema"));
    if parsed.query() == Some("") {
        parsed.set_query(None);
    }
    (Secret::new(parsed.into()), Some(schema))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_in_the_url_is_taken_out_of_it() {
        for (url, left, schema) in [
            ("postgres://u:p%40@h:5432/d", "postgres://u:p%40@h:5432/d", None),
            ("postgres://u:p%40@h/d?schema=old", "postgres://u:p%40@h/d", Some("old")),
            ("postgres://h/d?sslmode=require&schema=a%20b", "postgres://h/d?sslmode=require", Some("a b")),
        ] {
            let (said, named) = without_schema(&Secret::new(url.to_owned()));
            assert_eq!((said.expose().as_str(), named.as_deref()), (left, schema), "{url}");
        }
    }

    #[test]
    fn two_schemas_are_one_too_many() {
        let url = DatabaseUrl::Postgres(Secret::new("postgres://h/d?schema=old".to_owned()));
        assert_eq!(Source::open(&url, None).unwrap().schema(), "old");
        assert_eq!(Source::open(&url, Some("old")).unwrap().schema(), "old");
        assert!(Source::open(&url, Some("new")).is_err());
        assert!(Source::open(&DatabaseUrl::Sqlite("x.db".into()), Some("new")).is_err());
    }
}
