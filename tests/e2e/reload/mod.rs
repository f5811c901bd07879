//! The configuration changes while the gateway runs: what is new holds at once, nothing that may go on is broken, and a
//! bad file changes nothing.

mod bad;
mod believed;
mod checked;
mod load;
mod servers;
mod settings;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use serde_json::json;
use tokio::task::JoinSet;
use toml::{Table, Value};

use crate::harness::{
    deadline::until,
    gateway::{Gateway, client},
    raw::RawClient,
    raw_peer::{Call, RawPeer},
    request::head,
    wire::chunk,
};

/// The head of a stream of events.
const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// A file of the gateway's folder.
fn file(gateway: &Gateway, name: &str) -> PathBuf {
    gateway.folder.path().join(name)
}

/// Puts a text in a file's place, as editors do.
fn put(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

/// Changes a file of the gateway's folder.
fn change(gateway: &Gateway, name: &str, change: impl FnOnce(&mut Table)) {
    let path = file(gateway, name);
    let mut table: Table = fs::read_to_string(&path).unwrap().parse().unwrap();
    change(&mut table);
    put(&path, &toml::to_string(&table).unwrap());
}

/// Sets a key of a table: `set(table, "access.conceal", true)`.
fn set(table: &mut Table, key: &str, value: impl Into<Value>) {
    let (path, last) = key.rsplit_once('.').unwrap_or(("", key));
    let mut inner = table;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let entry = inner.entry(part).or_insert_with(|| Table::new().into());
        inner = entry.as_table_mut().unwrap();
    }
    inner.insert(last.to_owned(), value.into());
}

/// Takes a key out of a table.
fn unset(table: &mut Table, key: &str) {
    let (path, last) = key.rsplit_once('.').unwrap();
    let inner = path.split('.').fold(table, |inner, part| inner[part].as_table_mut().unwrap());
    inner.remove(last).unwrap();
}

/// A server of tier `local`.
fn server(url: &str) -> Table {
    let keys = [("name", "added"), ("tier", "local"), ("url", url), ("description", "added while it runs")];
    keys.map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect()
}

/// A server's credential, sent in a header as it stands in this variable.
fn credential(variable: &str) -> Table {
    let keys = [("header", "x-key"), ("env", variable)];
    keys.map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect()
}

impl Gateway {
    /// Changes a key of `gateway.toml` and returns once that is in force.
    pub async fn reconfigure(&self, key: &str, value: impl Into<Value>) {
        let next = self.generation().await + 1;
        change(self, "gateway.toml", |table| set(table, key, value));
        self.taken(next).await;
    }

    /// Changes `servers.toml` and returns once that is in force.
    pub async fn reserve(&self, servers: impl FnOnce(&mut Table)) {
        let next = self.generation().await + 1;
        change(self, "servers.toml", |table| {
            let entry = table.entry("servers").or_insert_with(|| Table::new().into());
            servers(entry.as_table_mut().unwrap());
        });
        self.taken(next).await;
    }

    /// How often a configuration was taken over.
    async fn generation(&self) -> usize {
        self.metrics().await.sum("portcullis_config_generation", &[]) as usize
    }

    /// Returns once this configuration is in force, the first one being 1.
    async fn taken(&self, generation: usize) {
        let taken = || async { (self.generation().await >= generation).then_some(()) };
        until(&format!("configuration {generation}: {}", self.stderr.text()), taken).await;
    }

    /// Whether the last try to take a configuration over failed.
    async fn has_failed(&self) -> bool {
        self.metrics().await.sum("portcullis_config_reload_failed", &[]) == 1.0
    }
}

/// A stream of a server of native MCP, which stands until somebody ends it.
struct Standing {
    client: RawClient,
    call: Call,
}

impl Standing {
    async fn open(gateway: &Gateway, peer: &RawPeer, server: &str, token: &str) -> Self {
        let mut client = RawClient::connect(&gateway.address()).await;
        client.send(head("GET", &format!("/{server}/mcp"), token, &["accept: text/event-stream"])).await;
        let mut call = peer.call().await;
        call.send(STREAM).await;
        assert_eq!(client.read_head().await.0, 200);
        let mut standing = Self { client, call };
        standing.stands().await;
        standing
    }

    /// What the server says reaches the client.
    async fn stands(&mut self) {
        self.call.send(chunk(b"data: 1\n\n")).await;
        assert_eq!(self.client.read_chunk().await.as_deref(), Some(&b"data: 1\n\n"[..]));
    }

    /// Returns once the gateway has ended it.
    async fn ends(mut self) {
        assert!(self.call.rest_within(crate::harness::deadline::DEADLINE).await.is_some(), "it stands on");
    }
}

/// Calls of a tool, one after the other on several connections, until they are counted.
struct Load {
    tasks: JoinSet<()>,
    is_over: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Load {
    fn begin(gateway: &Gateway, path: &str, token: &str) -> Self {
        let (is_over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let request = client().post(gateway.url(path)).bearer_auth(token);
            let request = request.header("content-type", "application/json").body(json!({}).to_string());
            let (is_over, done, failures) = (is_over.clone(), done.clone(), failures.clone());
            tasks.spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    match request.try_clone().unwrap().send().await {
                        Ok(answer) if answer.status() == 200 => drop(answer.bytes().await.unwrap()),
                        Ok(answer) => {
                            let status = answer.status();
                            let text = answer.text().await.unwrap_or_default();
                            failures.lock().unwrap().push(format!("{status}: {text}"));
                        }
                        Err(error) => failures.lock().unwrap().push(format!("{error:?}")),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { tasks, is_over, done, failures }
    }

    /// Returns once so many more calls have been answered.
    async fn goes_on(&self, calls: usize) {
        let enough = self.done.load(Ordering::Relaxed) + calls;
        until("calls answered", || {
            std::future::ready((self.done.load(Ordering::Relaxed) >= enough).then_some(()))
        })
        .await;
    }

    /// Ends it: every call must have been answered with 200.
    async fn none_failed(mut self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        let failures = self.failures.lock().unwrap().clone();
        let done = self.done.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} of {done} calls failed: {:?}", failures.len(), failures.first());
        done
    }
}
