//! Trips underway, so that a permit withdrawn ends what was started under it.
//!
//! Decides nothing itself: at every new version of the grants it asks `identity` who the caller is
//! now and `access` whether they still may, and cuts the connection where the answer is no.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tracing::info;

use super::guard::Line;
use crate::{
    access::{Access, Permit},
    identity::{Identity, Pin},
    snapshot::Current,
};

struct Entry {
    permit: Permit,
    line: Option<Arc<Line>>,
    is_withdrawn: Arc<AtomicBool>,
    _pin: Option<Pin>,
}

/// All trips underway.
#[derive(Default)]
pub struct LiveTrips {
    next: AtomicU64,
    entries: Mutex<HashMap<u64, Entry>>,
}

/// One trip's place among the live ones, given up when dropped.
pub struct LiveTrip {
    id: u64,
    trips: Arc<LiveTrips>,
    is_withdrawn: Arc<AtomicBool>,
}

impl LiveTrip {
    /// Whether the permit was withdrawn meanwhile.
    pub fn is_withdrawn(&self) -> bool {
        self.is_withdrawn.load(Ordering::Relaxed)
    }
}

impl Drop for LiveTrip {
    fn drop(&mut self) {
        self.trips.lock().remove(&self.id);
    }
}

impl LiveTrips {
    /// Notes a trip that begins on the running task's connection.
    pub fn begin(self: &Arc<Self>, permit: &Permit, pin: Option<Pin>) -> LiveTrip {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let is_withdrawn = Arc::new(AtomicBool::new(false));
        let entry = Entry {
            permit: permit.clone(),
            line: Line::current(),
            is_withdrawn: is_withdrawn.clone(),
            _pin: pin,
        };
        self.lock().insert(id, entry);
        LiveTrip { id, trips: self.clone(), is_withdrawn }
    }

    /// Looks at all trips again whenever grants or callers change; runs until the process ends.
    pub async fn watch(self: Arc<Self>, current: Arc<Current>, identity: Arc<Identity>, access: Arc<Access>) {
        let mut versions = current.versions();
        while versions.changed().await.is_ok() {
            let ended = self.review(&current, &identity, &access);
            if ended > 0 {
                info!(ended, "ended {ended} calls whose permit was withdrawn");
            }
        }
    }

    fn review(&self, current: &Current, identity: &Identity, access: &Access) -> usize {
        let snapshot = current.load();
        // Unknown grants refuse new calls; what was permitted under the last known ones goes on.
        let Ok(known) = current.grants(&snapshot) else { return 0 };
        // Decided outside the lock: every call that begins or ends needs it.
        let underway: Vec<_> = self
            .lock()
            .values()
            .map(|entry| (entry.permit.clone(), entry.line.clone(), entry.is_withdrawn.clone()))
            .collect();
        let mut ended = 0;
        for (permit, line, is_withdrawn) in underway {
            let is_permitted = identity
                .current(permit.caller())
                .is_some_and(|caller| access.authorize(&caller, permit.server(), known).is_ok());
            if !is_permitted && !is_withdrawn.swap(true, Ordering::Relaxed) {
                ended += 1;
                if let Some(line) = line {
                    line.cut();
                }
            }
        }
        ended
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        // Nothing under this lock can panic half-way.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
