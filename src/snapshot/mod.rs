//! What the gateway believes at one instant: servers, tools, grants and addresses, swapped as a whole.
//!
//! A request takes one snapshot and decides by it to its end. The background tasks in this folder
//! are the only writers; the calling path reads and never waits. Holds no opinion on access.

pub mod addresses;
pub mod api_keys;
pub mod entra;
pub mod grants;
mod health;
mod listening;
pub mod names;
pub mod offers;
pub mod own_addresses;
pub mod pins;
pub mod probing;
mod servers;
pub mod signed_out;
pub mod tools;
pub mod users;
mod words;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::{
    access::{KnownGrants, grants::Grants},
    catalog::{Catalog, offers::OfferIndex, pins::PinIndex, tools::ToolIndex},
    refusal::{Code, Refusal},
    upstream::Addresses,
};

/// Without a word with the database for this long it counts as away: the longest poll is 5 s.
const SILENCE: Duration = Duration::from_secs(20);

/// Everything believed at one instant.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The servers.
    pub catalog: Arc<Catalog>,
    /// Their tools as last read, without those that are withheld.
    pub tools: Arc<ToolIndex>,
    /// What was read and what is approved: which tools are withheld.
    pub pins: Arc<PinIndex>,
    /// What else they offer as last read, and how their lists stand.
    pub offers: Arc<OfferIndex>,
    /// Grows with every change of the tools or offers.
    pub tools_version: u64,
    /// Where the servers are.
    pub addresses: Arc<Addresses>,
    grants: Option<KnownGrants>,
}

/// The current snapshot, and how long ago its grants were last known to be true.
pub struct Current {
    snapshot: ArcSwap<Snapshot>,
    versions: watch::Sender<u64>,
    tools_versions: watch::Sender<u64>,
    servers_versions: watch::Sender<u64>,
    started: Instant,
    confirmed_millis: AtomicU64,
    max_stale_millis: AtomicU64,
    is_database_up: AtomicBool,
}

impl Current {
    /// A gateway that knows its servers and nothing else yet.
    pub fn new(catalog: Catalog, max_stale: Duration) -> Arc<Self> {
        let snapshot = Snapshot {
            tools: Arc::new(ToolIndex::of_servers(catalog.iter().map(|server| &server.id))),
            offers: Arc::new(OfferIndex::of_servers(catalog.iter().map(|server| &server.id))),
            pins: Arc::default(),
            catalog: Arc::new(catalog),
            tools_version: 0,
            addresses: Arc::default(),
            grants: None,
        };
        Arc::new(Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            versions: watch::Sender::new(0),
            tools_versions: watch::Sender::new(0),
            servers_versions: watch::Sender::new(0),
            started: Instant::now(),
            confirmed_millis: AtomicU64::new(0),
            max_stale_millis: AtomicU64::new(millis(max_stale)),
            is_database_up: AtomicBool::new(false),
        })
    }

    /// The snapshot of this instant.
    pub fn load(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// How often grants or callers have changed: a decision made at another count must be made again.
    pub fn change_count(&self) -> u64 {
        *self.versions.borrow()
    }

    /// Tells of every change of grants or callers.
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.versions.subscribe()
    }

    /// Tells of every change of the tools or offers, with the version the snapshot has then or had meanwhile.
    pub fn tools_versions(&self) -> watch::Receiver<u64> {
        self.tools_versions.subscribe()
    }

    /// Tells of every change of the servers.
    pub fn servers_versions(&self) -> watch::Receiver<u64> {
        self.servers_versions.subscribe()
    }

    /// From now on grants are decided by for this long after they were last known to be true.
    pub fn set_max_stale(&self, max_stale: Duration) {
        self.max_stale_millis.store(millis(max_stale), Ordering::Relaxed);
    }

    /// For how long grants are decided by after they were last known to be true.
    pub fn max_stale(&self) -> Duration {
        Duration::from_millis(self.max_stale_millis.load(Ordering::Relaxed))
    }

    /// The grants to decide by; refuses while they are unknown or too old.
    pub fn grants<'s>(&self, snapshot: &'s Snapshot) -> Result<&'s KnownGrants, Refusal> {
        let unknown = |cause: &'static str| {
            Refusal::new(Code::GrantsUnknown, "the gateway cannot check grants right now; try again")
                .because(cause)
                .retry_after(Duration::from_secs(2))
        };
        let known = snapshot.grants.as_ref().ok_or_else(|| unknown("grants have never been read"))?;
        if self.grants_age() > Some(self.max_stale()) {
            return Err(unknown("grants are older than `access.max_stale_secs`"));
        }
        Ok(known)
    }

    /// Time since the grants were last known to be true; `None` before they were ever read.
    pub fn grants_age(&self) -> Option<Duration> {
        self.load().grants.as_ref()?;
        let confirmed = Duration::from_millis(self.confirmed_millis.load(Ordering::Relaxed));
        Some(self.started.elapsed().saturating_sub(confirmed))
    }

    /// Whether grants can be decided by right now.
    pub fn is_ready(&self) -> bool {
        self.grants(&self.load()).is_ok()
    }

    /// Whether the last word with the database was a good one, and not long ago.
    pub fn is_database_up(&self) -> bool {
        self.is_database_up.load(Ordering::Relaxed) && self.grants_age().is_some_and(|age| age < SILENCE)
    }

    fn change(&self, change: impl Fn(&mut Snapshot)) {
        self.snapshot.rcu(|before| {
            let mut after = Snapshot::clone(before);
            change(&mut after);
            after
        });
    }

    /// Changes tools or offers; `change` says whether clients would be told something else.
    fn change_tools(&self, change: impl Fn(&mut Snapshot) -> bool) {
        self.change(|snapshot| {
            let is_told = change(snapshot);
            snapshot.tools_version += u64::from(is_told);
        });
        let version = self.load().tools_version;
        self.tools_versions.send_if_modified(|known| std::mem::replace(known, version) != version);
    }

    fn publish_grants(&self, grants: Arc<Grants>) {
        self.confirm_grants();
        self.change(|snapshot| {
            let version = snapshot.grants.as_ref().map_or(1, |known| known.version + 1);
            snapshot.grants = Some(KnownGrants { version, grants: grants.clone() });
        });
        self.versions.send_modify(|version| *version += 1);
    }

    fn confirm_grants(&self) {
        self.confirmed_millis.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.is_database_up.store(true, Ordering::Relaxed);
    }

    fn doubt_database(&self) {
        self.is_database_up.store(false, Ordering::Relaxed);
    }

    /// Callers whose own standing changed (their groups, their account): their trips are looked at again.
    pub fn announce_callers_changed(&self) {
        self.versions.send_modify(|version| *version += 1);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Snapshot {
    /// The same beliefs, of the servers of another configuration.
    pub fn with_servers(&self, catalog: Arc<Catalog>) -> Self {
        Self { catalog, ..self.clone() }
    }

    /// How many keys of groups' own cannot be unsealed.
    pub fn unusable_keys(&self) -> usize {
        self.grants.as_ref().map_or(0, |known| known.grants.tenants().unreadable_count())
    }

    /// How many users and groups the grants are about.
    pub fn subject_figures(&self) -> Option<(usize, usize)> {
        Some(self.grants.as_ref()?.grants.subject_counts())
    }

    /// How many grant rows are believed, how many were malformed, and the version of the grants.
    pub fn grant_figures(&self) -> Option<(usize, usize, u64)> {
        let known = self.grants.as_ref()?;
        Some((known.grants.row_count(), known.grants.malformed_count(), known.version))
    }
}
