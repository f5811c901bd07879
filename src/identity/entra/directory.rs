//! What is known of the allowed tenants: their issuers' names and keys. Memory; `snapshot::entra` fills it.
//!
//! Decides whether an issuer and a key are known, known not to exist, or not known yet. The calling path waits here for
//! two things, with a deadline and only so many at a time: the first documents after the start, and one early refresh
//! for a key that no document had. So a new key refuses nobody, and made-up ones cost the authority next to nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use moka::sync::Cache;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use uuid::Uuid;

use super::{
    Settings,
    discovery::{Endpoints, Version},
    groups::{Groups, Question},
    keys::{Key, KeySet, LONGEST_KID},
};
use crate::{identity::reason::Reason, refusal::Refusal};

/// Longest wait for documents.
const DEADLINE: Duration = Duration::from_secs(8);
/// Callers that may wait for one issuer's documents at once.
const MOST_WAITING: usize = 256;
/// How long a key that a fresh document did not have is known not to exist.
const UNKNOWN_FOR: Duration = Duration::from_secs(60);
/// Keys known not to exist, per issuer.
const MOST_UNKNOWN: u64 = 1000;

/// The documents of all allowed tenants, and the groups of users in many.
pub struct Directory {
    sources: Vec<Source>,
    /// Groups that tokens have no room for.
    pub groups: Groups,
}

/// One version of one tenant: an issuer.
pub struct Source {
    /// The tenant.
    pub tenant: Uuid,
    /// The version.
    pub version: Version,
    known: ArcSwapOption<Documents>,
    unknown: Cache<Box<str>, ()>,
    progress: watch::Sender<Progress>,
    wanted: Notify,
    waiting: Semaphore,
}

/// What an issuer's documents said when they were last read.
#[derive(Debug)]
pub struct Documents {
    /// Its name and addresses.
    pub endpoints: Endpoints,
    /// Its keys.
    pub keys: KeySet,
    /// When they are believed no more, if nothing newer comes.
    pub good_until: Instant,
}

/// Readings of the documents, counted.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    begun: u64,
    ended: u64,
    /// The last one that brought documents.
    succeeded: u64,
}

impl Directory {
    /// Knows nothing yet of the tenants in these settings; the questions are those about groups. `max_stale` is how
    /// long groups serve that cannot be read anew.
    pub fn new(settings: &Settings, max_stale: Duration) -> (Arc<Self>, mpsc::Receiver<Question>) {
        let source = |tenant, version| Source {
            tenant,
            version,
            known: ArcSwapOption::empty(),
            unknown: Cache::builder().max_capacity(MOST_UNKNOWN).time_to_live(UNKNOWN_FOR).build(),
            progress: watch::Sender::new(Progress::default()),
            wanted: Notify::new(),
            waiting: Semaphore::new(MOST_WAITING),
        };
        let sources =
            settings.tenants.iter().flat_map(|tenant| Version::ALL.map(|version| source(tenant.id, version)));
        let (groups, questions) = Groups::new(settings.groups_ttl, max_stale);
        let directory = Self { sources: sources.collect(), groups };
        (Arc::new(directory), questions)
    }

    /// Takes over what is known of the issuers that both know, so that nobody waits for documents that were read before.
    pub fn learn(&self, before: &Self) {
        for source in &self.sources {
            let is_same = |known: &&Source| known.tenant == source.tenant && known.version == source.version;
            if let Some(documents) = before.sources.iter().find(is_same).and_then(Source::known) {
                source.known.store(Some(documents));
            }
        }
    }

    /// All issuers, for those who read their documents.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Where users of the home tenant sign in and get tokens; none before that is known.
    pub fn endpoints(&self) -> Option<Endpoints> {
        let home = self.sources.iter().find(|source| source.version == Version::V2)?;
        home.known.load().as_ref().map(|documents| documents.endpoints.clone())
    }

    /// The issuer of a tenant (by its place in the settings) and version.
    pub(super) fn source(&self, tenant: usize, version: Version) -> usize {
        let version = match version {
            Version::V1 => 0,
            Version::V2 => 1,
        };
        tenant * Version::ALL.len() + version
    }

    /// Refuses a token of another issuer.
    pub(super) async fn is_issuer(&self, source: usize, name: &str) -> Result<(), Refusal> {
        let source = &self.sources[source];
        if source.known.load().is_none() {
            self.first(source).await?;
        }
        if source.documents()?.endpoints.issuer == name { Ok(()) } else { Err(Reason::WrongIssuer.refuse()) }
    }

    /// The key of this name; where no document had it yet, after one early refresh.
    pub(super) async fn key(&self, source: usize, kid: &str) -> Result<Arc<Key>, Refusal> {
        let source = &self.sources[source];
        if let Some(key) = source.documents()?.keys.get(kid) {
            return Ok(key.clone());
        }
        if kid.len() > LONGEST_KID || source.unknown.contains_key(kid) {
            return Err(Reason::UnknownKey.refuse());
        }
        let _seat = source.waiting.try_acquire().map_err(|_| too_many())?;
        tokio::time::timeout(DEADLINE, source.refreshed(kid)).await.map_err(|_| too_slow())?
    }

    /// Whether this very key still counts.
    pub(super) fn has_key(&self, source: usize, key: &Arc<Key>) -> bool {
        self.sources[source].documents().is_ok_and(|documents| documents.keys.has(key))
    }

    /// Waits for the first reading, and no other: later ones are waited for by nobody who has seen it fail.
    async fn first(&self, source: &Source) -> Result<(), Refusal> {
        let mut progress = source.progress.subscribe();
        if progress.borrow_and_update().ended > 0 {
            return Ok(());
        }
        let _seat = source.waiting.try_acquire().map_err(|_| too_many())?;
        let first = progress.wait_for(|progress| progress.ended > 0);
        tokio::time::timeout(DEADLINE, first).await.map(drop).map_err(|_| too_slow())
    }
}

impl Source {
    /// What is known.
    pub fn known(&self) -> Option<Arc<Documents>> {
        self.known.load_full()
    }

    /// Returns when somebody wants a key that no document had.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Notes that a reading of the documents begins.
    pub fn begin(&self) {
        self.progress.send_modify(|progress| progress.begun += 1);
    }

    /// Notes that the reading has ended, and what it brought.
    pub fn end(&self, brought: Option<Documents>) {
        let has_succeeded = brought.is_some();
        if let Some(documents) = brought {
            self.known.store(Some(Arc::new(documents)));
        }
        self.progress.send_modify(|progress| {
            progress.ended = progress.begun;
            if has_succeeded {
                progress.succeeded = progress.ended;
            }
        });
    }

    fn documents(&self) -> Result<Arc<Documents>, Refusal> {
        let known = self.known.load_full().ok_or_else(|| Reason::KeysUnknown.refuse())?;
        if known.good_until < Instant::now() {
            return Err(Reason::KeysUnknown.because("the issuer's keys are too old"));
        }
        Ok(known)
    }

    /// The key after a reading that began later than now, or as soon as there is one.
    async fn refreshed(&self, kid: &str) -> Result<Arc<Key>, Refusal> {
        let mut progress = self.progress.subscribe();
        let begun = progress.borrow().begun;
        self.wanted.notify_one();
        loop {
            // Looked at before the keys, because what ends a reading follows its documents.
            let seen = *progress.borrow_and_update();
            if let Some(key) = self.documents()?.keys.get(kid) {
                return Ok(key.clone());
            }
            if seen.succeeded > begun {
                self.unknown.insert(kid.into(), ());
                return Err(Reason::UnknownKey.refuse());
            }
            if seen.ended > begun {
                return Err(Reason::KeysUnknown.because("the key is new, and the documents cannot be read"));
            }
            if progress.changed().await.is_err() {
                return Err(too_slow());
            }
        }
    }
}

fn too_many() -> Refusal {
    Reason::KeysUnknown.because("too many callers wait for an issuer's keys")
}

fn too_slow() -> Refusal {
    Reason::KeysUnknown.because("the issuer's documents did not come in time")
}

#[cfg(test)]
mod tests;
