//! The gateway itself: the real binary, with a configuration folder of its own, on ports of its own.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use reqwest::{Method, RequestBuilder, StatusCode, header::HeaderMap};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
};
use toml::Table;

use super::{
    deadline::{until, until_so, within},
    port::Port,
    tokens::SESSION_SECRET,
};

/// What a gateway is started with. Keys not set here have their defaults.
pub struct Setup {
    gateway: Table,
    servers: Table,
    environment: BTreeMap<String, String>,
    ports: (Port, Port),
    open_files: Option<u32>,
    program: PathBuf,
}

impl Setup {
    /// With its grants in this database (`postgres://…` or `sqlite:PATH`) and [`SESSION_SECRET`].
    pub fn new(database_url: &str) -> Self {
        let ports = (Port::take(), Port::take());
        let (http, ops) = (ports.0.address(), ports.1.address());
        let (gateway, servers, environment) = (Table::new(), Table::new(), BTreeMap::new());
        let program = PathBuf::from(env!("CARGO_BIN_EXE_portcullis"));
        Self { gateway, servers, environment, ports, open_files: None, program }
            .set("listen.http", http)
            .set("listen.ops", ops)
            .set("database.url", database_url)
            .set("auth.openwebui.secret", SESSION_SECRET)
            // Tests ask more often than people do; those about limits set their own.
            .set("limits.calls_per_caller", "off")
            .set("limits.requests_per_address", "off")
    }

    /// With this text for `gateway.toml`, on ports of its own.
    pub fn of_text(text: &str) -> Self {
        let mut setup = Self::new("");
        let listen = setup.gateway["listen"].clone();
        setup.gateway = text.parse().unwrap();
        for (key, address) in listen.as_table().expect("made above") {
            setup = setup.set(&format!("listen.{key}"), address.clone());
        }
        setup
    }

    /// With the limits that a gateway has when nobody says anything of them.
    pub fn shipped_limits(mut self) -> Self {
        self.gateway.remove("limits");
        self
    }

    /// Sets a key of `gateway.toml`: `set("access.max_stale_secs", 1)`.
    pub fn set(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        let (path, last) = key.rsplit_once('.').unwrap_or(("", key));
        let mut table = &mut self.gateway;
        for part in path.split('.').filter(|part| !part.is_empty()) {
            let inner = table.entry(part).or_insert_with(|| Table::new().into());
            table = inner.as_table_mut().expect("a table on the way to the key");
        }
        table.insert(last.to_owned(), value.into());
        self
    }

    /// What the gateway will be called by its clients here: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.ports.0.address())
    }

    /// Has this text for `servers.toml`; servers may be added to it.
    pub fn servers(mut self, text: &str) -> Self {
        self.servers = text.parse().unwrap();
        self
    }

    /// Adds a `[servers.ID]` of tier `local`.
    pub fn server(self, id: &str, url: &str) -> Self {
        self.server_with(id, url, Table::new())
    }

    /// Adds a `[servers.ID]` with further keys, or other values of the usual ones.
    pub fn server_with(mut self, id: &str, url: &str, keys: Table) -> Self {
        let mut server = Table::new();
        for (key, value) in
            [("name", id), ("tier", "local"), ("url", url), ("description", "a server of this test")]
        {
            server.insert(key.to_owned(), value.into());
        }
        server.extend(keys);
        let servers = self.servers.entry("servers").or_insert_with(|| Table::new().into());
        servers.as_table_mut().expect("made above").insert(id.to_owned(), server.into());
        self
    }

    /// Sets an environment variable; the gateway sees no others than these, `PATH` and `HOME`.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Lets the gateway have this many files open, and no more.
    pub fn open_files(mut self, most: u32) -> Self {
        self.open_files = Some(most);
        self
    }

    /// Starts this copy of the binary.
    pub fn program(mut self, path: &Path) -> Self {
        self.program = path.to_owned();
        self
    }

    /// Writes the configuration folder and starts nothing.
    pub fn write(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("gateway.toml"), toml::to_string(&self.gateway).unwrap()).unwrap();
        std::fs::write(folder.path().join("servers.toml"), toml::to_string(&self.servers).unwrap()).unwrap();
        folder
    }

    /// Starts the gateway and returns once it is ready.
    pub async fn start(self) -> Gateway {
        let mut gateway = self.spawn();
        gateway.await_ready().await;
        gateway
    }

    /// Starts the gateway and returns at once.
    pub fn spawn(self) -> Gateway {
        let folder = self.write();
        self.spawn_in(folder)
    }

    /// The same, with a folder that has been written.
    pub fn spawn_in(self, folder: tempfile::TempDir) -> Gateway {
        let Self { environment, ports, open_files, program, .. } = self;
        let launch = Launch { environment, open_files, program };
        let (process, stdout, stderr) = launch.begin(folder.path());
        Gateway { process, folder, ports, stdout, stderr, client: client(), launch }
    }
}

/// How the process is started, once and again.
struct Launch {
    environment: BTreeMap<String, String>,
    open_files: Option<u32>,
    program: PathBuf,
}

impl Launch {
    fn begin(&self, folder: &Path) -> (Child, Lines, Lines) {
        let mut command = self.command();
        command.arg("run").arg("--config").arg(folder).current_dir(folder).env_clear();
        command.envs(["PATH", "HOME"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.env("RUST_BACKTRACE", "1").envs(&self.environment);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let stdout = Lines::of(process.stdout.take().unwrap());
        let stderr = Lines::of(process.stderr.take().unwrap());
        (process, stdout, stderr)
    }

    fn command(&self) -> Command {
        let Some(most) = self.open_files else { return Command::new(&self.program) };
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "ulimit -n \"$0\"; exec \"$@\"", &most.to_string()]).arg(&self.program);
        command
    }
}

/// A client that follows no redirects, uses no proxy and no cookies.
pub fn client() -> reqwest::Client {
    // Nobody else in this process has to have done it, and only the first time counts.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap()
}

/// What a process has written, line by line, and the end of the pipe that reads it.
#[derive(Clone, Default)]
pub struct Lines {
    kept: Arc<Mutex<Vec<String>>>,
    reader: Arc<watch::Sender<Reader>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Reader {
    #[default]
    Reads,
    Stuck,
    Gone,
}

impl Lines {
    pub(super) fn of(output: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let lines = Self::default();
        let (kept, mut reader) = (lines.kept.clone(), lines.reader.subscribe());
        tokio::spawn(async move {
            let mut output = BufReader::new(output).lines();
            let reading = async {
                while let Ok(Some(line)) = output.next_line().await {
                    kept.lock().unwrap().push(line);
                }
            };
            let is_told = async { drop(reader.wait_for(|reader| *reader != Reader::Reads).await) };
            tokio::select! {
                () = reading => {}
                () = is_told => {}
            }
            // The pipe is closed once `output` is dropped, and stays full until then.
            let _ = reader.wait_for(|reader| *reader == Reader::Gone).await;
        });
        lines
    }

    /// Reads no more and keeps the pipe open, so that it runs full.
    pub fn stop_reading(&self) {
        self.reader.send_replace(Reader::Stuck);
    }

    /// Closes the pipe: who writes to it is told that nobody reads.
    pub fn close(&self) {
        self.reader.send_replace(Reader::Gone);
    }

    pub fn all(&self) -> Vec<String> {
        self.kept.lock().unwrap().clone()
    }

    pub fn text(&self) -> String {
        self.all().join("\n")
    }

    /// The first line that `is_it` says yes to, waited for.
    pub async fn find(&self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        until(what, || std::future::ready(self.all().into_iter().find(|line| is_it(line)))).await
    }
}

/// A running gateway. It is killed when this is dropped.
pub struct Gateway {
    process: Child,
    /// Holds `gateway.toml` and `servers.toml`.
    pub folder: tempfile::TempDir,
    ports: (Port, Port),
    /// Data: the access log.
    pub stdout: Lines,
    /// Talk: everything else.
    pub stderr: Lines,
    pub client: reqwest::Client,
    launch: Launch,
}

/// An answer read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// Reads the whole answer.
    pub async fn read(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let body = within("the body of an answer", response.bytes()).await.unwrap();
        Self { status, headers, body }
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The stable word of a refusal.
    #[track_caller]
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_else(|| panic!("no code in {}", self.text())).to_owned()
    }
}

impl Gateway {
    /// `127.0.0.1:PORT` of the public listener, for the raw client.
    pub fn address(&self) -> String {
        self.ports.0.address()
    }

    /// A path of the public listener.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.ports.0.address())
    }

    /// A path of the ops listener.
    pub fn ops_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.ports.1.address())
    }

    /// Returns once `/health/ready` says yes; panics with all it wrote if the gateway ends instead.
    pub async fn await_ready(&mut self) {
        let ready = self.ops_url("/health/ready");
        let (client, process) = (self.client.clone(), &mut self.process);
        let ended = until("a ready gateway", || {
            let ended = process.try_wait().unwrap();
            let asked = client.get(&ready).send();
            async move {
                match ended {
                    Some(status) => Some(Err(status)),
                    None => {
                        asked.await.is_ok_and(|answer| answer.status() == StatusCode::OK).then_some(Ok(()))
                    }
                }
            }
        });
        if let Err(status) = ended.await {
            panic!("the gateway ended with {status}:\n{}", self.stderr.text());
        }
    }

    /// A request to the public listener.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let response = within("an answer", request.send()).await;
        Answer::read(response.unwrap_or_else(|error| panic!("{error:?}\n{}", self.stderr.text()))).await
    }

    /// `GET path` with a bearer token.
    pub async fn get(&self, path: &str, token: &str) -> Answer {
        self.send(self.request(Method::GET, path).bearer_auth(token)).await
    }

    /// `POST path` with a bearer token and a JSON body.
    pub async fn call(&self, path: &str, token: &str, arguments: &Value) -> Answer {
        self.send(self.call_request(path, token, arguments)).await
    }

    /// The request [`Self::call`] sends, for tests that read the answer as it comes.
    pub fn call_request(&self, path: &str, token: &str, arguments: &Value) -> RequestBuilder {
        let request = self.request(Method::POST, path).bearer_auth(token);
        request.header("content-type", "application/json").body(arguments.to_string())
    }

    /// What `/metrics` says now.
    pub async fn metrics(&self) -> Metrics {
        let answer = self.send(self.client.get(self.ops_url("/metrics"))).await;
        assert_eq!(answer.status, StatusCode::OK);
        Metrics(answer.text())
    }

    /// Everything the gateway has written anywhere, for looking for what must not be there.
    pub fn written(&self) -> String {
        format!("{}\n{}", self.stdout.text(), self.stderr.text())
    }

    /// Starts it again in its folder and on its ports, once it has ended: one without variables of its own.
    pub async fn start_again(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command
            .arg("run")
            .arg("--config")
            .arg(self.folder.path())
            .current_dir(self.folder.path())
            .env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        self.process = command.spawn().unwrap();
        self.stdout = Lines::of(self.process.stdout.take().unwrap());
        self.stderr = Lines::of(self.process.stderr.take().unwrap());
        // Not with connections of the process before.
        self.client = client();
        self.await_ready().await;
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.process.id().expect("the gateway has ended")
    }

    /// Sends `TERM`, `HUP`, `QUIT`….
    pub fn signal(&self, name: &str) {
        send_signal(self.id(), name);
    }

    /// Kills it as a crash would, and starts it again in the same place. What it wrote before is gone.
    pub async fn kill_and_start(&mut self) {
        self.process.kill().await.unwrap();
        (self.process, self.stdout, self.stderr) = self.launch.begin(self.folder.path());
    }

    /// How the gateway ended, waited for. What it wrote stays readable.
    pub async fn ended(&mut self) -> ExitStatus {
        within("the end of the gateway", self.process.wait()).await.unwrap()
    }

    /// Whether nothing listens on the public port (any more).
    pub async fn await_port_closed(&self) {
        let address = self.address();
        until_so("the public port closed", || std::net::TcpStream::connect(&address).is_err()).await;
    }
}

/// Sends `TERM`, `HUP`, `KILL`… to a process.
pub fn send_signal(id: u32, name: &str) {
    let id = id.to_string();
    let sent = std::process::Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &id]).status();
    assert!(sent.unwrap().success(), "SIG{name} could not be sent");
}

/// A scrape in Prometheus' text format.
#[derive(Debug, Clone)]
pub struct Metrics(pub String);

impl Metrics {
    /// Sum of the series of this name that carry all these labels; 0 when there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let of_name = self.0.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (series_name, series_labels) = series.split_once('{').unwrap_or((series, "}"));
            (series_name == name).then_some((series_labels, value))
        });
        let wanted: Vec<_> = labels.iter().map(|(label, value)| format!("{label}={value:?}")).collect();
        let matching = of_name.filter(|(series_labels, _)| {
            let has: Vec<_> = series_labels.trim_end_matches('}').split(',').collect();
            wanted.iter().all(|wanted| has.contains(&wanted.as_str()))
        });
        matching.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_the_series_that_carry_the_labels() {
        let scrape = "# TYPE calls counter\ncalls{code=\"ok\",server=\"a\"} 2\ncalls{code=\"ok\",server=\"b\"} 3\nage 0.5\n";
        let metrics = Metrics(scrape.to_owned());
        assert_eq!(metrics.sum("calls", &[("code", "ok")]), 5.0);
        assert_eq!(metrics.sum("calls", &[("server", "b")]), 3.0);
        assert_eq!(metrics.sum("age", &[]), 0.5);
        assert_eq!(metrics.sum("call", &[]), 0.0);
    }

    #[test]
    fn a_setup_writes_nested_keys_and_servers() {
        let setup =
            Setup::new("sqlite:a.db").set("access.conceal", true).server("notes", "http://127.0.0.1:1");
        assert_eq!(setup.gateway["access"]["conceal"].as_bool(), Some(true));
        assert_eq!(setup.gateway["database"]["url"].as_str(), Some("sqlite:a.db"));
        assert_eq!(setup.servers["servers"]["notes"]["tier"].as_str(), Some("local"));
    }
}
