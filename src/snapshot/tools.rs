//! Keeps every server's tool list: read from its `openapi.json` in the background, each on its own.
//!
//! A list stays while its server is away and loses a tool when the server's document has. One dead
//! server delays nobody: each server has a task of its own.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    sync::{Mutex, Notify, mpsc, oneshot},
    task::JoinSet,
};
use tracing::{debug, info, warn};

use super::Current;
use crate::{
    catalog::{
        Settings,
        server::{Dialect, Server},
        tools::{Skipped, ToolList},
    },
    dial::Dialer,
    names::ServerId,
};

/// First wait after a failure; it doubles up to the ordinary time between readings.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// A list younger than this is not read again because somebody asked for an unknown tool.
const FRESH: Duration = Duration::from_secs(5);

/// Asks for a list to be read now; answered when it has been, well or not.
pub struct Wish {
    /// Whose list.
    pub server: ServerId,
    /// Answered when done; `None` when nobody waits.
    pub done: Option<oneshot::Sender<()>>,
}

/// Hands wishes to the readers.
#[derive(Clone)]
pub struct Refresher(mpsc::Sender<Wish>);

impl Refresher {
    /// A refresher, and the wishes it will make.
    pub fn new() -> (Self, mpsc::Receiver<Wish>) {
        let (wishes, wished) = mpsc::channel(256);
        (Self(wishes), wished)
    }

    /// Has a list read now and waits for it, at most `patience`.
    pub async fn read_now(&self, server: &ServerId, patience: Duration) {
        let (done, is_done) = oneshot::channel();
        if self.0.try_send(Wish { server: server.clone(), done: Some(done) }).is_ok() {
            // Whether it came in time or not, the caller looks at the snapshot again.
            drop(tokio::time::timeout(patience, is_done).await);
        }
    }

    /// Has a list read soon.
    pub fn read_soon(&self, server: &ServerId) {
        drop(self.0.try_send(Wish { server: server.clone(), done: None }));
    }
}

/// Reads all lists until the process ends.
pub fn keep(
    current: Arc<Current>,
    settings: Settings,
    mut wishes: mpsc::Receiver<Wish>,
) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let dialer = Dialer::new(settings.deadline, settings.max_bytes)?;
    Ok(async move {
        let mut readers = HashMap::new();
        let mut tasks = JoinSet::new();
        for server in current.load().catalog.iter() {
            if !server.is_enabled || server.dialect != Dialect::OpenApi {
                continue;
            }
            let reader = Arc::new(Reader::new(server.clone(), current.clone(), dialer.clone()));
            tasks.spawn(reader.clone().run(settings.refresh));
            readers.insert(server.id.clone(), reader);
        }
        loop {
            tokio::select! {
                Some(wish) = wishes.recv() => match readers.get(&wish.server) {
                    Some(reader) => reader.grant(wish).await,
                    // Dropping the wish is the answer.
                    None => drop(wish),
                },
                Some(_ended) = tasks.join_next() => return,
                else => return,
            }
        }
    })
}

/// Reads a server's tools from the first of its addresses that answers.
pub async fn read(dialer: &Dialer, server: &Server) -> anyhow::Result<(ToolList, Vec<Skipped>)> {
    let credential = server.credential.as_ref().map(|credential| (&credential.name, &credential.value));
    let mut last_error = None;
    for peer in server.peers.iter() {
        let url = format!("{peer}/openapi.json");
        match dialer.get(&url, credential).await {
            Ok(document) => {
                // Megabytes of it take long, and a bug it might trigger must not end more than this.
                let parsed = tokio::task::spawn_blocking(move || ToolList::parse(&document)).await?;
                return parsed.with_context(|| format!("`{url}` is not usable"));
            }
            Err(error) => last_error = Some(error.context(format!("`{url}` cannot be read"))),
        }
    }
    Err(last_error.context("the server has no address")?)
}

/// Keeps one server's list.
struct Reader {
    server: Arc<Server>,
    current: Arc<Current>,
    dialer: Dialer,
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
    wake: Notify,
    last_read: Mutex<Option<Instant>>,
}

impl Reader {
    fn new(server: Arc<Server>, current: Arc<Current>, dialer: Dialer) -> Self {
        let (waiting, wake, last_read) = (Mutex::default(), Notify::new(), Mutex::default());
        Self { server, current, dialer, waiting, wake, last_read }
    }

    async fn grant(&self, wish: Wish) {
        if let Some(done) = wish.done {
            let is_fresh = self.last_read.lock().await.is_some_and(|read| read.elapsed() < FRESH);
            if is_fresh {
                // Dropping the sender is the answer.
                return;
            }
            self.waiting.lock().await.push(done);
        }
        self.wake.notify_one();
    }

    async fn run(self: Arc<Self>, refresh: Duration) {
        let mut retry = FIRST_RETRY;
        let mut was_good = true;
        loop {
            let outcome = self.refresh().await;
            *self.last_read.lock().await = Some(Instant::now());
            self.waiting.lock().await.clear();
            let id = &self.server.id;
            match &outcome {
                Ok(()) if !was_good => info!(server.id = %id, "tool list of server `{id}` is readable again"),
                Err(error) if was_good => {
                    warn!(server.id = %id, "cannot read the tool list of server `{id}`; the last one stays: {error:#}");
                }
                Ok(()) | Err(_) => {}
            }
            was_good = outcome.is_ok();
            let pause = if was_good { refresh } else { retry };
            retry = if was_good { FIRST_RETRY } else { (retry * 2).min(refresh) };
            // Either the time has come or somebody wished it.
            drop(tokio::time::timeout(pause, self.wake.notified()).await);
        }
    }

    async fn refresh(&self) -> anyhow::Result<()> {
        let id = &self.server.id;
        let (list, skipped) = read(&self.dialer, &self.server).await?;
        let list = Arc::new(list);
        if self.current.load().tools.get(id.as_str()).is_some_and(|known| **known == *list) {
            return Ok(());
        }
        for skipped in &skipped {
            debug!(server.id = %id, "`{}` of server `{id}` is no tool: {}", skipped.operation, skipped.why);
        }
        info!(server.id = %id, tools = list.len(), skipped = skipped.len(), "read the tools of server `{id}`");
        self.current.change(|snapshot| {
            snapshot.tools = Arc::new(snapshot.tools.with(id.clone(), list.clone()));
            snapshot.tools_version += 1;
        });
        Ok(())
    }
}
