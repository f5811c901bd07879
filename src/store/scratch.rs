//! Databases for tests: one of its own for each test, gone when the test ends.
//!
//! Decides where they are made. Never used outside tests; never skips silently when there is no Postgres.

use std::{path::PathBuf, str::FromStr, sync::atomic::AtomicUsize};

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, SqliteConnection,
    postgres::PgConnectOptions, sqlite::SqliteConnectOptions,
};

use super::{DatabaseUrl, Settings, Store};
use crate::names::Secret;

/// An empty database.
pub(super) struct Scratch {
    pub settings: Settings,
}

impl Scratch {
    fn new(url: DatabaseUrl) -> Self {
        Self {
            settings: Settings {
                url,
                schema: "public".into(),
                auto_migrate: true,
                sealing: Default::default(),
            },
        }
    }

    /// A store with all tables on it.
    pub async fn store(&self) -> Store {
        let store = Store::open(&self.settings).unwrap();
        store.migrate().await.unwrap();
        store
    }

    /// Runs statements as an operator would, on a connection of their own.
    pub async fn execute(&self, sql: &str) {
        self.try_execute(sql).await.unwrap();
    }

    /// The same, for what the database may refuse.
    pub async fn try_execute(&self, sql: &str) -> sqlx::Result<()> {
        let sql = AssertSqlSafe(sql);
        match &self.settings.url {
            DatabaseUrl::Postgres(_) => self.psql().await.execute(sqlx::raw_sql(sql)).await.map(drop),
            DatabaseUrl::Sqlite(path) => self.sqlite(path).await.execute(sqlx::raw_sql(sql)).await.map(drop),
        }
    }

    /// A connection to the Postgres database, with whatever `search_path` the server gives.
    pub async fn psql(&self) -> PgConnection {
        let DatabaseUrl::Postgres(url) = &self.settings.url else { panic!("not a Postgres database") };
        PgConnection::connect(url.expose()).await.unwrap()
    }

    async fn sqlite(&self, path: &PathBuf) -> SqliteConnection {
        SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(false)
            .connect()
            .await
            .unwrap()
    }
}

/// Runs a test on SQLite.
pub(super) async fn on_sqlite(test: impl AsyncFnOnce(Scratch)) {
    let folder = tempfile::tempdir().unwrap();
    test(Scratch::new(DatabaseUrl::Sqlite(folder.path().join("portcullis.db")))).await;
}

/// Runs a test on Postgres. A test that fails leaves its database behind to be looked at.
pub(super) async fn on_postgres(test: impl AsyncFnOnce(Scratch)) {
    on_postgres_with("", test).await;
}

/// Runs a test on a Postgres database that takes any bytes as text, as one made under `LANG=C` does.
pub(super) async fn on_ascii_postgres(test: impl AsyncFnOnce(Scratch)) {
    on_postgres_with("ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0", test).await;
}

#[expect(clippy::disallowed_methods, reason = "scripts/test tells the tests where its Postgres is")]
async fn on_postgres_with(options: &str, test: impl AsyncFnOnce(Scratch)) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let server = std::env::var("PORTCULLIS_TEST_POSTGRES")
        .expect("run scripts/test, which starts a private Postgres (PORTCULLIS_TEST_POSTGRES is not set)");
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("portcullis_store_{}_{count}", std::process::id());
    let mut admin = PgConnection::connect(&server).await.unwrap();
    admin.execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))).await.unwrap();
    admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name} {options}"))).await.unwrap();
    let url = PgConnectOptions::from_str(&server).unwrap().database(&name).to_url_lossy();
    test(Scratch::new(DatabaseUrl::Postgres(Secret::new(url.to_string())))).await;
    admin.execute(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).await.unwrap();
}

/// Runs a test on SQLite, then on Postgres.
pub(super) async fn on_both(test: impl AsyncFn(Scratch)) {
    on_sqlite(&test).await;
    on_postgres(&test).await;
}
