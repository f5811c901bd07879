//! Holds what servers are read to have against what is approved: asks the database, remembers first sight, tells changes.
//!
//! One task has the database to itself. Readers of pinned servers wait for it, within bounds, before they show anything;
//! what could not be settled is tried again every second. An approval on any machine is noticed by a number that
//! grows. Whether a tool is shown follows from what is known here: `catalog::pins`.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::MissedTickBehavior,
};
use tracing::{info, warn};

use super::{Current, Snapshot, tools::Refresher, words::Prepared};
use crate::{
    catalog::{
        pins::Approved,
        server::Server,
        tools::{Tool, ToolList},
    },
    names::ServerId,
    record::metrics::Metrics,
    store::{self, SeenTool, Settled, Sighting, Store, ToolChange, What},
};

/// Between two looks at the number that grows.
const POLL: Duration = Duration::from_secs(1);
/// All is read anew this often: after a restored backup the number may be the old one.
const RELOAD: Duration = Duration::from_secs(60);
/// How long a reader waits to be told what is approved.
const PATIENCE: Duration = Duration::from_secs(3);
/// So many changes of one reading get a line of their own in the log.
const MOST_TOLD: usize = 20;

/// What a server was just read to have.
pub struct Sight {
    server: Arc<Server>,
    read: Arc<ToolList>,
    /// Dropped once it is settled.
    _done: oneshot::Sender<()>,
}

impl Sight {
    /// Nobody waits for it.
    fn again(server: &Arc<Server>, read: &Arc<ToolList>) -> Self {
        let (done, _) = oneshot::channel();
        Self { server: server.clone(), read: read.clone(), _done: done }
    }
}

/// Hands what was read to the task.
#[derive(Clone)]
pub struct Pinner(mpsc::Sender<Sight>);

impl Pinner {
    /// A pinner, and what it will hand over.
    pub fn new() -> (Self, mpsc::Receiver<Sight>) {
        let (sights, seen) = mpsc::channel(64);
        (Self(sights), seen)
    }

    /// Has what was read settled, and waits for it a while.
    pub async fn settle(&self, server: &Arc<Server>, read: &Arc<ToolList>) {
        let (done, is_done) = oneshot::channel();
        let sight = Sight { server: server.clone(), read: read.clone(), _done: done };
        if self.0.send(sight).await.is_ok() && server.is_pinned {
            // Whether it came in time or not, what is shown follows from what is known then.
            drop(tokio::time::timeout(PATIENCE, is_done).await);
        }
    }
}

impl Snapshot {
    /// This was read of the server; whether clients are told something else now.
    pub(super) fn read_tools(
        &mut self,
        server: &Server,
        read: &Arc<ToolList>,
        prepared: Option<&Prepared>,
    ) -> bool {
        self.pins = Arc::new(self.pins.with_read(server.id.clone(), read.clone()));
        self.show(server, prepared)
    }

    /// This is approved of the server; whether clients are told something else now.
    fn approve(&mut self, server: &Server, approved: &Arc<Approved>, prepared: Option<&Prepared>) -> bool {
        self.pins = Arc::new(self.pins.with_approved(server.id.clone(), approved.clone()));
        self.show(server, prepared)
    }
}

/// Runs until the process ends.
pub async fn keep(
    current: Arc<Current>,
    mut told: watch::Receiver<store::Settings>,
    metrics: Arc<Metrics>,
    (refresher, mut sights): (Refresher, mpsc::Receiver<Sight>),
) {
    let settings = told.borrow_and_update().clone();
    let Ok(store) = Store::open(&settings) else { return };
    let mut grants = current.versions();
    let (waiting, is_up, is_in_trouble) = (HashMap::new(), false, false);
    let mut keeper = Keeper {
        current,
        store,
        settings,
        metrics,
        refresher,
        waiting,
        is_up,
        is_in_trouble,
        version: None,
        loaded: Instant::now(),
    };
    let mut polls = tokio::time::interval(POLL);
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            sight = sights.recv() => {
                let Some(sight) = sight else { return };
                keeper.waiting.insert(sight.server.id.clone(), sight);
                if keeper.is_up {
                    let outcome = keeper.settle_all().await;
                    keeper.note(outcome);
                }
            }
            _ = polls.tick() => keeper.poll().await,
            Ok(()) = told.changed() => {
                keeper.settings = told.borrow_and_update().clone();
                // It may be another database.
                keeper.version = None;
                keeper.reopen();
            }
            // The first grants say that the database is there, and its tables are.
            Ok(()) = grants.changed(), if !keeper.is_up => keeper.poll().await,
        }
    }
}

struct Keeper {
    current: Arc<Current>,
    store: Store,
    settings: store::Settings,
    metrics: Arc<Metrics>,
    refresher: Refresher,
    /// What was read and is not settled.
    waiting: HashMap<ServerId, Sight>,
    /// Whether the last word with the database was a good one.
    is_up: bool,
    /// Whether trouble was told and not its end.
    is_in_trouble: bool,
    version: Option<i64>,
    loaded: Instant,
}

impl Keeper {
    async fn poll(&mut self) {
        // Before the grants were read the tables may not be there; whoever reads those makes them.
        if self.current.grants_age().is_none() {
            return;
        }
        let outcome = match self.look().await {
            Ok(()) => self.settle_all().await,
            Err(error) => {
                self.renew_connections();
                Err(error)
            }
        };
        self.note(outcome);
    }

    /// Reads what is approved, where that may have changed.
    async fn look(&mut self) -> anyhow::Result<()> {
        let version = self.store.pin_version().await?;
        if self.version == Some(version) && self.loaded.elapsed() < RELOAD {
            return Ok(());
        }
        let mut approved: HashMap<String, Approved> = HashMap::new();
        for pin in self.store.pins(None).await? {
            // Rows of tools that were never approved count too: their server has been seen.
            let of_server = approved.entry(pin.server).or_default();
            of_server.extend(pin.approved.map(|digest| (pin.tool, digest)));
        }
        let snapshot = self.current.load();
        for server in snapshot.catalog.iter() {
            let of_server = approved.remove(server.id.as_str());
            if let (None, Some(read)) = (&of_server, snapshot.pins.read(&server.id)) {
                // Forgotten, or another database: this is first sight.
                self.waiting.entry(server.id.clone()).or_insert_with(|| Sight::again(server, read));
            }
            self.publish(server, of_server.unwrap_or_default()).await;
            if self.version.is_some() && self.current.load().pins.withheld(server).next().is_some() {
                // Perhaps it was approved as another replica has read it.
                self.refresher.read_soon(&server.id);
            }
        }
        (self.version, self.loaded) = (Some(version), Instant::now());
        Ok(())
    }

    /// Settles what waits. What cannot be goes on waiting, and holds nothing else up.
    async fn settle_all(&mut self) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        for (id, sight) in std::mem::take(&mut self.waiting) {
            let server = &sight.server;
            let seen = |tool: &Arc<Tool>| (tool.name.clone(), tool.source.clone());
            let sources: Vec<_> = sight.read.iter().map(seen).collect();
            let tools: Vec<_> = sources
                .iter()
                .map(|(name, source)| SeenTool {
                    name: name.as_str(),
                    digest: source.digest(),
                    definition: source.text(),
                })
                .collect();
            let sighting = Sighting { server: &id, is_pinned: server.is_pinned, tools: &tools };
            match self.store.settle_tools(&sighting).await {
                Ok(settled) => {
                    self.tell(server, &settled);
                    self.publish(server, settled.approved).await;
                }
                Err(error) => {
                    outcome = Err(error);
                    self.waiting.insert(id, sight);
                }
            }
        }
        outcome
    }

    fn tell(&self, server: &Server, settled: &Settled) {
        let id = &server.id;
        for (at, change) in settled.changes.iter().enumerate() {
            let word = match change.what {
                What::New => "new",
                What::Changed => "changed",
                What::Restored => "restored",
            };
            self.metrics.tool_changes.with_label_values(&[id.as_str(), word]).inc();
            if at < MOST_TOLD {
                tell(server, change);
            }
        }
        if settled.changes.len() > MOST_TOLD {
            let more = settled.changes.len() - MOST_TOLD;
            warn!(server.id = %id, "{more} more tools of server `{id}` changed; see `portcullis tools list {id}`");
        }
        if settled.left_out > 0 {
            let count = settled.left_out;
            warn!(server.id = %id, "{count} tools of server `{id}` are too many to be remembered in `tool_pins`");
        }
    }

    async fn publish(&self, server: &Server, approved: Approved) {
        let approved = Arc::new(approved);
        let before = self.current.load();
        let shown = before.pins.with_approved(server.id.clone(), approved.clone()).shown(server);
        // Without an index prepared it is made where it is needed.
        let prepared = Prepared::of(server, shown, &before).await.ok().flatten();
        self.current.change_tools(|snapshot| {
            snapshot.has(server) && snapshot.approve(server, &approved, prepared.as_ref())
        });
    }

    /// Says once that there is trouble, and once that it is over.
    fn note(&mut self, outcome: anyhow::Result<()>) {
        self.is_up = outcome.is_ok();
        match outcome {
            Ok(()) if std::mem::take(&mut self.is_in_trouble) => {
                info!("tools are held against what is approved again");
            }
            Err(error) if !std::mem::replace(&mut self.is_in_trouble, true) => {
                warn!(
                    "cannot hold tools against what is approved; what was known stays, and of pinned servers \
                     (`catalog.pin`) nothing else is shown: {error:#}"
                );
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// After one connection was silent all are suspect.
    fn renew_connections(&mut self) {
        if self.store.is_postgres() {
            self.reopen();
        }
    }

    fn reopen(&mut self) {
        if let Ok(store) = Store::open(&self.settings) {
            let before = std::mem::replace(&mut self.store, store);
            tokio::spawn(async move { before.close().await });
        }
    }
}

/// One line for one change: names and digests, never a word of what the server says.
fn tell(server: &Server, change: &ToolChange) {
    let (id, tool) = (&server.id, &change.tool);
    let after = change.after.short();
    let before = change.before.map_or_else(|| "nothing".to_owned(), |before| before.short());
    let consequence = if server.is_pinned {
        format!("it is withheld until `portcullis tools approve {id}/{tool}`")
    } else {
        format!("`portcullis tools diff {id}/{tool}` shows how")
    };
    match change.what {
        What::Changed => warn!(
            server.id = %id, tool.name = %tool,
            "tool `{tool}` of server `{id}` changed from {before} to {after}; {consequence}"
        ),
        What::New if server.is_pinned => warn!(
            server.id = %id, tool.name = %tool, "tool `{tool}` of server `{id}` is new ({after}); {consequence}"
        ),
        What::New => {
            info!(server.id = %id, tool.name = %tool, "tool `{tool}` of server `{id}` is new ({after})")
        }
        What::Restored => info!(
            server.id = %id, tool.name = %tool,
            "tool `{tool}` of server `{id}` is again what was approved ({after})"
        ),
    }
}
