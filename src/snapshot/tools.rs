//! Keeps what every server offers: its `openapi.json` or its lists of MCP, read in the background, each on its own.
//!
//! What was read stays while its server is away, marked as stale, and loses a tool when the server has. One dead
//! server delays nobody: each server has a task of its own.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, bail, ensure};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::{Mutex, Notify, mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use super::{
    Current, addresses, listening,
    offers::{self, Found},
    pins::Pinner,
    servers::PerServer,
    words::Prepared,
};
use crate::{
    catalog::{
        Settings,
        offers::{About, Offers},
        server::{Dialect, Server},
        tools::{Skipped, ToolList},
    },
    client::{Client, refusal_for},
    names::ServerId,
    refusal::Refusal,
    upstream::way::{Way, probe_way},
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

    /// Has a list read soon, unless it has just been.
    pub fn read_unless_fresh(&self, server: &ServerId) {
        let (done, _) = oneshot::channel();
        drop(self.0.try_send(Wish { server: server.clone(), done: Some(done) }));
    }

    /// Has a list read soon.
    pub fn read_soon(&self, server: &ServerId) {
        drop(self.0.try_send(Wish { server: server.clone(), done: None }));
    }
}

/// Reads all lists until the process ends; anew where the servers or what they are read through have become others.
pub async fn keep(
    current: Arc<Current>,
    mut sources: watch::Receiver<Sources>,
    pinner: Pinner,
    (refresher, mut wishes): (Refresher, mpsc::Receiver<Wish>),
) {
    let mut changes = current.servers_versions();
    let mut readers = PerServer::new();
    loop {
        let through = sources.borrow_and_update().clone();
        readers.follow(&current.load().catalog, |server| {
            let of = (server.clone(), current.clone());
            read_and_listen(of, through.clone(), pinner.clone(), refresher.clone())
        });
        tokio::select! {
            Some(wish) = wishes.recv() => match readers.of(&wish.server) {
                Some(reader) => reader.grant(wish).await,
                // Dropping the wish is the answer.
                None => drop(wish),
            },
            Ok(()) = changes.changed() => {}
            Ok(()) = sources.changed() => readers.clear(),
            () = readers.ended() => return,
            else => return,
        }
    }
}

/// The task of one server, and the reader in it.
fn read_and_listen(
    (server, current): (Arc<Server>, Arc<Current>),
    sources: Sources,
    pinner: Pinner,
    refresher: Refresher,
) -> (Arc<Reader>, BoxFuture<'static, ()>) {
    let reader = Arc::new(Reader::new(server.clone(), current.clone(), sources.clone(), pinner));
    let reading = reader.clone().run();
    if !server.dialect.is_mcp() {
        return (reader, reading.boxed());
    }
    let Sources { client, settings, .. } = sources;
    let listening = listening::listen(client, server, current, refresher, settings.refresh);
    let both = async {
        tokio::select! {
            () = reading => {}
            () = listening => {}
        }
    };
    (reader, both.boxed())
}

/// What lists are read through.
#[derive(Clone)]
pub struct Sources {
    client: Client,
    settings: Settings,
}

impl Sources {
    /// Documents and lists are read through this client.
    pub fn new(settings: Settings, client: Client) -> anyhow::Result<Self> {
        Ok(Self { client, settings })
    }

    /// A server is gone or another: what is known of how to ask it is forgotten.
    pub fn forget(&self, server: &ServerId) {
        self.client.forget(server);
    }

    /// Reads what a server offers, from the first of its addresses that answers; `known` is what it offered before.
    pub async fn read(&self, server: &Arc<Server>, known: Option<&Offers>) -> anyhow::Result<Found> {
        match server.dialect {
            Dialect::OpenApi => {
                let (tools, skipped) = self.read_document(server).await?;
                Ok(Found { tools, skipped, offers: of_document(), troubles: Vec::new() })
            }
            Dialect::Mcp | Dialect::McpSse => offers::read(&self.client, server, &self.settings, known).await,
        }
    }
}

impl Sources {
    /// The tools in the document of the first address that has a good one.
    async fn read_document(&self, server: &Arc<Server>) -> anyhow::Result<(ToolList, Vec<Skipped>)> {
        let credential = server.discovery_credential.as_ref().or(server.credential.as_ref()).cloned();
        let addresses = addresses::now(server).await.of(server);
        let Some(peer) = server.peers.first() else { bail!("the server has no address") };
        let mut last_error =
            anyhow::anyhow!("`{peer}/openapi.json` cannot be read: its host does not resolve");
        for destination in addresses.iter() {
            let url = format!("{}/openapi.json", destination.peer);
            let way = probe_way(server.clone(), destination.clone(), credential.clone());
            match self.document(&way).await {
                Ok(document) => {
                    // Megabytes of it take long, and a bug it might trigger must not end more than this.
                    let parsed = tokio::task::spawn_blocking(move || ToolList::parse(&document)).await?;
                    return parsed.with_context(|| format!("`{url}` is not usable"));
                }
                Err(error) => last_error = error.context(format!("`{url}` cannot be read")),
            }
        }
        Err(last_error)
    }

    async fn document(&self, way: &Way) -> anyhow::Result<Bytes> {
        let Settings { deadline, max_bytes, .. } = self.settings;
        let reading = async {
            let mut incoming = self.client.get(way, "/openapi.json").await.map_err(told)?.incoming;
            ensure!(incoming.status().is_success(), "answered {}", incoming.status());
            let mut document = BytesMut::new();
            while let Some(piece) =
                incoming.chunk(Some(deadline)).await.map_err(|failed| told(refusal_for(failed)))?
            {
                ensure!(document.len() + piece.len() <= max_bytes, "answer is larger than {max_bytes} bytes");
                document.extend_from_slice(&piece);
            }
            Ok(document.freeze())
        };
        let read = tokio::time::timeout(deadline, reading).await;
        read.with_context(|| format!("no complete answer within {deadline:?}"))?
    }
}

/// A refusal as the operator is told it.
fn told(refusal: Refusal) -> anyhow::Error {
    let cause = refusal.cause().map_or(String::new(), |cause| format!(": {cause}"));
    anyhow::anyhow!("no answer: {}{cause}", refusal.sentence())
}

/// What a server of OpenAPI offers besides tools: nothing.
fn of_document() -> Offers {
    let about = About {
        is_modern: false,
        versions: Vec::new(),
        capabilities: r#"{"tools":{}}"#.to_owned(),
        instructions: None,
        info: None,
        ttl_ms: 0,
        is_public: false,
        read_at: SystemTime::now(),
        is_stale: false,
    };
    Offers { prompts: Vec::new(), resources: Vec::new(), templates: Vec::new(), about }
}

/// Keeps one server's list.
struct Reader {
    server: Arc<Server>,
    current: Arc<Current>,
    sources: Sources,
    pinner: Pinner,
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
    wake: Notify,
    last_read: Mutex<Option<Instant>>,
}

impl Reader {
    fn new(server: Arc<Server>, current: Arc<Current>, sources: Sources, pinner: Pinner) -> Self {
        let (waiting, wake, last_read) = (Mutex::default(), Notify::new(), Mutex::default());
        Self { server, current, sources, pinner, waiting, wake, last_read }
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

    async fn run(self: Arc<Self>) {
        let refresh = self.sources.settings.refresh;
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
        let known = self.current.load().offers.get(id.as_str()).cloned();
        let found = match self.sources.read(&self.server, known.as_deref()).await {
            Ok(found) => found,
            Err(error) => {
                self.mark_stale();
                return Err(error);
            }
        };
        let Found { tools, skipped, offers, troubles } = found;
        let (tools, offers) = (Arc::new(tools), Arc::new(offers));
        let before = self.current.load();
        let has_tools = before.pins.read(id).is_some_and(|known| **known == *tools);
        let has_offers = before.offers.get(id.as_str()).is_some_and(|known| known.say_the_same(&offers));
        if !has_tools || !has_offers {
            for skipped in &skipped {
                debug!(server.id = %id, "`{}` of server `{id}` is not offered: {}", skipped.operation, skipped.why);
            }
            info!(server.id = %id, tools = tools.len(), skipped = skipped.len(), "read the tools of server `{id}`");
        }
        if self.server.is_pinned && !has_tools {
            // Before anything is shown.
            self.pinner.settle(&self.server, &tools).await;
        }
        let before = self.current.load();
        let shown = before.pins.with_read(id.clone(), tools.clone()).shown(&self.server);
        let prepared = Prepared::of(&self.server, shown, &before).await?;
        self.current.change_tools(|snapshot| {
            if !snapshot.has(&self.server) {
                return false;
            }
            let are_other = snapshot.read_tools(&self.server, &tools, prepared.as_ref());
            snapshot.offers = Arc::new(snapshot.offers.with(id.clone(), offers.clone()));
            // Otherwise it is only younger.
            are_other || !has_offers
        });
        if !self.server.is_pinned && !has_tools {
            self.pinner.settle(&self.server, &tools).await;
        }
        ensure!(troubles.is_empty(), "{}", troubles.join("; "));
        Ok(())
    }

    /// What is known of the server stays, and says that it could not be confirmed.
    fn mark_stale(&self) {
        let id = &self.server.id;
        let known = self.current.load().offers.get(id.as_str()).cloned();
        let Some(known) = known.filter(|known| !known.about.is_stale) else { return };
        let about = About { is_stale: true, ..known.about.clone() };
        let stale = Arc::new(Offers { about, ..Offers::clone(&known) });
        self.current.change(|snapshot| {
            if !snapshot.has(&self.server) {
                return;
            }
            snapshot.offers = Arc::new(snapshot.offers.with(id.clone(), stale.clone()));
        });
    }
}
