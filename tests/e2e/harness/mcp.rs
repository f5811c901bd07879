//! Native MCP around the gateway: the fixture of `tests/mcp`, real servers, and programs that are clients.

use std::{path::PathBuf, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::process::{Child, Command};

use super::{
    deadline::{until, within},
    gateway::{Answer, Gateway, Lines, Setup, client},
    grants::{CALLER, Grants},
    port::Port,
    postgres::given,
    tokens::email_token,
};

/// How long a program of somebody else may run: some begin with seconds of importing.
const PATIENCE: Duration = Duration::from_secs(100);

/// The newest revision, whose requests stand alone.
pub const MODERN: &str = "2026-07-28";
/// The last revision with sessions.
pub const LEGACY: &str = "2025-11-25";
/// How many tools the fixture lists.
pub const FIXTURE_TOOLS: usize = 37;

/// `tests/mcp/NAME`.
pub fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/mcp").join(name)
}

/// Node.js, as tests/mcp needs it.
pub fn nodejs() -> Command {
    let mut command = Command::new(given("PORTCULLIS_TEST_NODEJS"));
    command.arg("--import").arg(script("packages.mjs"));
    command
}

/// Where a program of the npm packages stands.
pub fn npm(path: &str) -> PathBuf {
    PathBuf::from(given("PORTCULLIS_TEST_MCP_NODE")).join("node_modules").join(path)
}

/// Python with the SDK of this generation: `V1`, `V2`.
pub fn python(generation: &str) -> Command {
    Command::new(environment(generation).join("bin/python"))
}

/// The environment that holds the SDK of this generation.
pub fn environment(generation: &str) -> PathBuf {
    given(&format!("PORTCULLIS_TEST_MCP_PYTHON_{generation}")).into()
}

/// How a program ended and what it said on stdout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program to its end.
pub async fn run(mut command: Command) -> Run {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = ended.unwrap_or_else(|_| panic!("{command:?} ran longer than {PATIENCE:?}")).unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Run { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// What a client of `tests/mcp/clients` says at its end, which must be a good one.
pub async fn said(command: Command) -> Value {
    let shown = format!("{command:?}");
    let run = run(command).await;
    assert_eq!(run.code, Some(0), "{shown}\n{}\n{}", run.stdout, run.stderr);
    let line = run.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{shown}: {error}: {}", run.stdout))
}

/// A server that runs beside the gateway. It is killed when this is dropped.
pub struct Server {
    process: Child,
    /// Its own, unless it chose one itself.
    port: Option<Port>,
    url: String,
    stdout: Lines,
    stderr: Lines,
}

impl Server {
    fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = Lines::of(process.stdout.take().unwrap());
        let stderr = Lines::of(process.stderr.take().unwrap());
        Self { process, port: None, url: String::new(), stdout, stderr }
    }

    /// A program that is told its port, once something listens there.
    pub async fn start(command: impl FnOnce(&Port) -> Command) -> Self {
        Self::start_on(Port::take(), command).await
    }

    /// The same on this port.
    pub async fn start_on(port: Port, command: impl FnOnce(&Port) -> Command) -> Self {
        let mut server = Self::spawn(command(&port));
        server.url = format!("http://{}", port.address());
        let ended = tokio::time::timeout(PATIENCE, server.listens(&port)).await;
        ended.unwrap_or_else(|_| {
            panic!("nothing listens:\n{}\n{}", server.stdout.text(), server.stderr.text())
        });
        server.port = Some(port);
        server
    }

    async fn listens(&mut self, port: &Port) {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        while tokio::net::TcpStream::connect(port.address()).await.is_err() {
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("ended with {status}:\n{}\n{}", self.stdout.text(), self.stderr.text());
            }
            looks.tick().await;
        }
    }

    /// Kills it; returns its port once its sockets are closed.
    pub async fn kill(mut self) -> Port {
        self.process.kill().await.unwrap();
        self.port.take().expect("a port of the harness")
    }

    /// A path of it.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }
}

/// The fixture: an MCP server of every era that tells what it was sent.
pub struct Fixture {
    server: Server,
    client: reqwest::Client,
}

impl Fixture {
    /// As it is without options.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// On this port, where one may be started again after it was killed.
    pub async fn on(port: &Port, options: &[&str]) -> Self {
        let number = port.number().to_string();
        Self::with(&[&["--port", &number], options].concat()).await
    }

    /// With options: `tests/mcp/README.md` has them.
    pub async fn with(options: &[&str]) -> Self {
        let mut command = Command::new(given("PORTCULLIS_TEST_NODEJS"));
        command.arg(script("fixture/main.mjs")).args(options);
        let mut server = Server::spawn(command);
        server.url = server.stdout.find("the fixture's address", |line| line.starts_with("http://")).await;
        Self { server, client: client() }
    }

    /// A path of it.
    pub fn url(&self, path: &str) -> String {
        self.server.url(path)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.server.url["http://".len()..]
    }

    /// The last requests, in order, with the headers they arrived with.
    pub async fn log(&self) -> Vec<Value> {
        self.look("/__log").await.as_array().unwrap().clone()
    }

    /// One of its counters: `cancelled`, `sessions`, `byMethod/tools~1call`; of what the gateway asks in its own name,
    /// `gateway/cancelled`….
    pub async fn count(&self, counter: &str) -> u64 {
        self.look("/__stats").await.pointer(&format!("/{counter}")).map_or(0, |count| count.as_u64().unwrap())
    }

    /// Returns once the counter is this.
    #[track_caller]
    pub fn await_count(&self, counter: &str, count: u64) -> impl Future<Output = ()> {
        let what = format!("{count} of the fixture's {counter}");
        async move { until(&what, || async { (self.count(counter).await == count).then_some(()) }).await }
    }

    /// Does something to it: `flip/tools`, `touch?uri=…`, `forget`.
    pub async fn command(&self, command: &str) {
        let sent =
            self.client.post(self.url(&format!("/__{command}"))).header("content-type", "application/json");
        let answer = within("the fixture's own pages", sent.send()).await.unwrap();
        assert_eq!(Answer::read(answer).await.json(), serde_json::json!({"done": true}), "{command}");
    }

    /// Kills it; returns once its sockets are closed.
    pub async fn kill(mut self) {
        self.server.process.kill().await.unwrap();
    }

    async fn look(&self, path: &str) -> Value {
        let answer = within("the fixture's own pages", self.client.get(self.url(path)).send()).await.unwrap();
        Answer::read(answer).await.json()
    }
}

impl Setup {
    /// Adds a server of this dialect at this endpoint.
    pub fn mcp(self, id: &str, dialect: &str, endpoint: &str) -> Self {
        self.server_with(id, endpoint, speaks(dialect))
    }
}

fn speaks(dialect: &str) -> toml::Table {
    let keys = [("tier", "http"), ("dialect", dialect)];
    keys.map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect()
}

/// A gateway with one MCP server, called `native`, and a caller who may use it.
pub struct Scene {
    pub gateway: Gateway,
    pub grants: Grants,
    pub token: String,
}

impl Scene {
    /// In front of this endpoint of Streamable HTTP.
    pub async fn in_front_of(endpoint: &str) -> Self {
        Self::speaking("mcp", endpoint).await
    }

    /// In front of this endpoint, which speaks this dialect.
    pub async fn speaking(dialect: &str, endpoint: &str) -> Self {
        Self::start(dialect, endpoint, toml::Table::new()).await
    }

    /// In front of this endpoint of Streamable HTTP, with further keys of the server.
    pub async fn with(keys: toml::Table, endpoint: &str) -> Self {
        Self::start("mcp", endpoint, keys).await
    }

    async fn start(dialect: &str, endpoint: &str, keys: toml::Table) -> Self {
        let grants = Grants::of(&["native"]).await;
        let keys = speaks(dialect).into_iter().chain(keys).collect();
        let gateway = grants.setup().server_with("native", endpoint, keys).start().await;
        Self { gateway, grants, token: email_token(CALLER) }
    }

    /// The endpoint that the caller calls.
    pub fn url(&self) -> String {
        self.gateway.url("/native/mcp")
    }
}
