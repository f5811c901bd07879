//! Real Postgres: a database of its own for a test, or a whole server for a test that stops it.

use std::{
    fs,
    os::unix::{fs::MetadataExt, fs::chown, process::CommandExt},
    path::PathBuf,
    process::{Command, Output},
};

use reqwest::Url;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{deadline::within, port::Port};

/// A variable that `scripts/with-peers` sets.
#[track_caller]
pub fn given(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run `scripts/test`, or `scripts/with-peers` and the command you gave")
    })
}

/// A new, empty database on the server of the test run; dropped with this.
pub struct Database {
    server: String,
    name: String,
}

impl Database {
    /// Creates one on the server that `scripts/with-peers` provides.
    pub async fn create() -> Self {
        Self::create_on(&given("PORTCULLIS_TEST_POSTGRES")).await
    }

    /// Creates one on another server.
    pub async fn create_on(server: &str) -> Self {
        let name = format!("portcullis_{}", uuid::Uuid::now_v7().simple());
        execute(server, &format!("CREATE DATABASE {name}")).await;
        Self { server: server.to_owned(), name }
    }

    /// `postgres://…/NAME`.
    pub fn url(&self) -> String {
        let mut url = Url::parse(&self.server).unwrap();
        url.set_path(&self.name);
        url.into()
    }

    /// The same database through a proxy at `127.0.0.1:PORT`.
    pub fn url_through(&self, address: &str) -> String {
        let (host, port) = address.rsplit_once(':').unwrap();
        let mut url = Url::parse(&self.url()).unwrap();
        url.set_host(Some(host)).unwrap();
        url.set_port(Some(port.parse().unwrap())).unwrap();
        url.into()
    }

    /// `127.0.0.1:PORT` of the server.
    pub fn server_address(&self) -> String {
        let url = Url::parse(&self.server).unwrap();
        format!("{}:{}", url.host_str().unwrap_or("127.0.0.1"), url.port().unwrap_or(5432))
    }

    /// Runs SQL, several statements if need be.
    pub async fn execute(&self, sql: &str) {
        execute(&self.url(), sql).await;
    }

    /// A connection of the test's own.
    pub async fn connect(&self) -> PgConnection {
        connect(&self.url()).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, sql) =
            (self.server.clone(), format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                // The server may be gone already, and then so is the database.
                if let Ok(mut connection) = PgConnection::connect(&server).await {
                    let _ = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await;
                }
            });
        });
        let _ = dropping.join();
    }
}

async fn connect(url: &str) -> PgConnection {
    within("connecting to Postgres", PgConnection::connect(url))
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

async fn execute(url: &str, sql: &str) {
    let mut connection = connect(url).await;
    let executed = within("SQL", sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection)).await;
    executed.unwrap_or_else(|error| panic!("{error} in {sql}"));
    let _ = connection.close().await;
}

/// A Postgres server of one test's own, which can be stopped and started again.
pub struct PrivateCluster {
    folder: tempfile::TempDir,
    port: Port,
    programs: PathBuf,
    owner: Option<(u32, u32)>,
}

impl PrivateCluster {
    /// Makes a server and starts it.
    pub fn start() -> Self {
        let programs = PathBuf::from(given("PORTCULLIS_TEST_PG_BIN"));
        let folder = tempfile::tempdir().unwrap();
        let owner = database_user();
        if let Some((user, group)) = owner {
            chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let cluster = Self { folder, port: Port::take(), programs, owner };
        let options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"];
        cluster.run("initdb", &options);
        cluster.start_again();
        cluster
    }

    /// `postgres://…/postgres`.
    pub fn url(&self) -> String {
        format!("postgres://postgres@{}/postgres", self.port.address())
    }

    /// Stops the server at once, as a crash would.
    pub fn stop(&self) {
        self.run("pg_ctl", &["stop", "-m", "immediate", "-w", "-s"]);
    }

    /// Ends every process of the server with SIGKILL.
    pub fn kill(&self) {
        let file = self.folder.path().join("data/postmaster.pid");
        let server: u32 = fs::read_to_string(file).unwrap().lines().next().unwrap().parse().unwrap();
        let is_child = |id: &u32| {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            rest.split(' ').nth(1).and_then(|parent| parent.parse().ok()) == Some(server)
        };
        let ids =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let children: Vec<u32> = ids.filter(is_child).collect();
        for id in [server].into_iter().chain(children) {
            // One that has ended meanwhile needs no end.
            let _ = Command::new("kill").args(["-KILL", &id.to_string()]).output();
        }
        while std::path::Path::new(&format!("/proc/{server}")).exists() {
            std::thread::yield_now();
        }
    }

    /// Starts the server after [`Self::stop`] or [`Self::kill`], on the same port.
    pub fn start_again(&self) {
        let port = self.port.number();
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' -c fsync=off -c max_connections=50"
        );
        let log = self.folder.path().join("server.log");
        self.run("pg_ctl", &["start", "-w", "-s", "-l", &log.display().to_string(), "-o", &options]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let Output { status, stdout, stderr } = self.command(program, arguments).output().unwrap();
        let said = [stdout, stderr].concat();
        assert!(status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&said));
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.arg("-D").arg(self.folder.path().join("data")).args(arguments).current_dir("/");
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for PrivateCluster {
    fn drop(&mut self) {
        // Fails when the test has stopped it, which is as good.
        let _ = self.command("pg_ctl", &["stop", "-m", "immediate", "-w", "-s"]).output();
    }
}

/// Whom Postgres runs as when the tests run as root, which it refuses.
fn database_user() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let fields: Vec<_> =
            users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f[0] == name)?;
        Some((fields[2].parse().ok()?, fields[3].parse().ok()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("neither `postgres` nor `nobody` in /etc/passwd"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_database_is_gone_when_its_test_is_over() {
        let database = Database::create().await;
        database.execute("CREATE TABLE seen (id int); INSERT INTO seen VALUES (1)").await;
        let (server, name) = (database.server.clone(), database.name.clone());
        drop(database);
        let mut connection = connect(&server).await;
        let left = sqlx::query("SELECT 1 FROM pg_database WHERE datname = $1").bind(name);
        assert!(left.fetch_optional(&mut connection).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_private_cluster_can_be_stopped_and_started() {
        let cluster = PrivateCluster::start();
        execute(&cluster.url(), "CREATE TABLE seen (id int)").await;
        cluster.stop();
        assert!(PgConnection::connect(&cluster.url()).await.is_err());
        cluster.start_again();
        execute(&cluster.url(), "INSERT INTO seen VALUES (1)").await;
    }
}
