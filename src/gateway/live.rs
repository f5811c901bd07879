//! Trips underway, so that a permit withdrawn ends what was started under it.
//!
//! Decides nothing itself: at every new version of the grants it asks `identity` who the caller is
//! now and `access` what they still may. Where what is underway is not part of it, its client is told so, or cut off where
//! its answer has begun.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::MissedTickBehavior;
use tracing::info;

use super::{
    configured::{Bench, Judge, is_still_there},
    line::Line,
};
use crate::{
    access::{self, Permit},
    credentials,
    identity::{Identity, Pin},
    names::ToolName,
    refusal::Refusal,
    snapshot::Current,
};

/// Time between two looks at streams whose credential may have expired.
const EXPIRY_PAUSE: Duration = Duration::from_secs(5);

/// What of its server a trip uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// This tool: the trip goes on while the tool is allowed.
    Tool(ToolName),
    /// Whatever the server says to the permit's key, filtered by its tools: it goes on while both stay the same.
    Stream,
}

impl Use {
    /// Whether what began under one permit may go on under another one for the same server.
    pub fn may_go_on(&self, before: &Permit, now: &Permit) -> bool {
        match self {
            Self::Tool(tool) => now.tools().allows(tool.as_str()),
            Self::Stream => now.tools() == before.tools() && credentials::is_same(before, now),
        }
    }

    /// Whether it ends when the caller's credential expires, or the server is configured no more: a stream may stand for
    /// days, a call began in time.
    fn is_standing(&self) -> bool {
        matches!(self, Self::Stream)
    }
}

struct Entry {
    permit: Permit,
    what: Use,
    line: Option<Arc<Line>>,
    withdrawn: Arc<OnceLock<Option<Refusal>>>,
    pin: Option<Pin>,
}

/// All trips underway, in parts: each call needs one at its beginning and at its end, and the threads that serve would
/// wait for each other.
#[derive(Default)]
pub struct LiveTrips {
    next: AtomicU64,
    parts: [Mutex<Entries>; PARTS],
}

type Entries = HashMap<u64, Entry>;

/// More than there are threads on most machines.
const PARTS: usize = 32;

/// One trip's place among the live ones, given up when dropped.
pub struct LiveTrip {
    id: u64,
    trips: Arc<LiveTrips>,
    withdrawn: Arc<OnceLock<Option<Refusal>>>,
}

impl LiveTrip {
    /// Whether the permit was withdrawn meanwhile.
    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn.get().is_some()
    }

    /// What its client is told once it was, while nothing else was answered.
    pub fn refusal(&self) -> Option<&Refusal> {
        let refusal = self.withdrawn.get()?.as_ref()?;
        // Whoever withdraws it holds this lock until the line knows.
        drop(self.trips.part(self.id));
        Some(refusal)
    }

    /// Has its caller looked at by another identity than the one it began with.
    pub fn pin(&self, pin: Option<Pin>) {
        let mut entries = self.trips.part(self.id);
        let before = entries.get_mut(&self.id).map(|entry| std::mem::replace(&mut entry.pin, pin));
        drop(entries);
        drop(before);
    }
}

impl Drop for LiveTrip {
    fn drop(&mut self) {
        self.trips.part(self.id).remove(&self.id);
    }
}

impl LiveTrips {
    /// Notes a trip that begins on the running task's connection.
    pub fn begin(self: &Arc<Self>, permit: &Permit, what: Use, pin: Option<Pin>) -> LiveTrip {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let withdrawn: Arc<OnceLock<_>> = Arc::default();
        let entry =
            Entry { permit: permit.clone(), what, line: Line::current(), withdrawn: withdrawn.clone(), pin };
        self.part(id).insert(id, entry);
        LiveTrip { id, trips: self.clone(), withdrawn }
    }

    /// Looks at all trips again whenever grants, callers, servers or the judge change, and now and then at the streams whose
    /// credential expires; runs until the process ends.
    pub async fn watch(self: Arc<Self>, current: Arc<Current>, bench: Arc<Bench>) {
        let mut versions = current.versions();
        let mut ticks = tokio::time::interval(EXPIRY_PAUSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pinned_by = bench.load().identity.clone();
        loop {
            let ended = tokio::select! {
                changed = versions.changed() => match changed {
                    Ok(()) => {
                        let judge = bench.load_full();
                        if !Arc::ptr_eq(&judge.identity, &pinned_by) {
                            self.pin_all(&judge.identity);
                            pinned_by = judge.identity.clone();
                        }
                        self.review(&current, &judge)
                    }
                    Err(_) => return,
                },
                _ = ticks.tick() => self.end_where(|permit, what| {
                    let is_over = what.is_standing() && permit.caller().has_expired();
                    is_over.then_some(None)
                }),
            };
            if ended > 0 {
                info!(ended, "ended {ended} calls whose permit was withdrawn or whose credential expired");
            }
        }
    }

    /// Has all callers looked at by this identity.
    fn pin_all(&self, identity: &Identity) {
        let callers = self.collect(|id, entry| (id, entry.permit.caller().clone()));
        for (id, caller) in callers {
            let pin = identity.pin(&caller);
            let before = self.part(id).get_mut(&id).map(|entry| std::mem::replace(&mut entry.pin, pin));
            drop(before);
        }
    }

    fn review(&self, current: &Current, judge: &Judge) -> usize {
        let snapshot = current.load();
        // Unknown grants refuse new calls; what was permitted under the last known ones goes on.
        if current.grants(&snapshot).is_err() {
            return 0;
        }
        self.end_where(|permit, what| {
            let is_there = !what.is_standing() || is_still_there(permit.server(), &snapshot);
            match judge.permit(permit, current, &snapshot) {
                Err(refusal) => Some(Some(refusal)),
                Ok(now) if is_there && what.may_go_on(permit, &now) => None,
                // A stream may begin anew, under what is permitted now.
                Ok(_) => Some((!what.is_standing()).then(access::unknown_tool)),
            }
        })
    }

    /// Ends the trips that are over by this, each with what its client is told, and says how many it were.
    fn end_where(&self, over: impl Fn(&Permit, &Use) -> Option<Option<Refusal>>) -> usize {
        // Decided outside the lock: every call that begins or ends needs it.
        let underway = self.collect(|id, entry| (id, entry.permit.clone(), entry.what.clone()));
        let over: Vec<_> =
            underway.into_iter().filter_map(|(id, permit, what)| Some((id, over(&permit, &what)?))).collect();
        over.into_iter().filter_map(|(id, refusal)| self.end(id, refusal)).count()
    }

    /// Ends a trip, if it is still underway. Under the lock: a trip gives its place up before the next one begins on
    /// its connection, and that one must not be cut in its stead.
    fn end(&self, id: u64, refusal: Option<Refusal>) -> Option<()> {
        let entries = self.part(id);
        let entry = entries.get(&id)?;
        let is_told = refusal.is_some();
        entry.withdrawn.set(refusal).ok()?;
        match &entry.line {
            Some(line) if is_told => line.ending.withdraw(),
            Some(line) => line.ending.cut(),
            None => {}
        }
        Some(())
    }

    /// The part that a trip is in.
    fn part(&self, id: u64) -> MutexGuard<'_, Entries> {
        // Nothing under this lock can panic half-way.
        self.parts[id as usize % PARTS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something of each trip, in no order.
    fn collect<T>(&self, of: impl Fn(u64, &Entry) -> T) -> Vec<T> {
        let parts = (0..PARTS as u64).map(|part| self.part(part));
        parts.flat_map(|part| part.iter().map(|(id, entry)| of(*id, entry)).collect::<Vec<_>>()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::tests_support::permit;

    /// Checks what goes on after the rules have become others.
    #[track_caller]
    fn check(before: &[(&str, &str)], now: &[(&str, &str)], expected: (bool, bool)) {
        let (before, now) = (permit(before), permit(now));
        let tool = Use::Tool(ToolName::parse("search").unwrap());
        assert_eq!((tool.may_go_on(&before, &now), Use::Stream.may_go_on(&before, &now)), expected);
    }

    #[test]
    fn a_trip_that_ends_while_it_is_judged_is_not_ended_again() {
        let trips = Arc::new(LiveTrips::default());
        let begin = || trips.begin(&permit(&[]), Use::Stream, None);
        let (over, goes_on) = (Mutex::new(Some(begin())), begin());
        let ended = trips.end_where(|_, _| {
            drop(over.lock().unwrap().take());
            Some(None)
        });
        assert_eq!((ended, goes_on.is_withdrawn()), (1, true));
        assert_eq!(trips.end_where(|_, _| Some(None)), 0);
    }

    #[test]
    fn a_call_goes_on_while_its_tool_is_allowed_and_a_stream_while_nothing_changed() {
        check(&[], &[], (true, true));
        check(&[], &[("deny", "search")], (false, false));
        check(&[], &[("deny", "delete_*")], (true, false));
        check(&[("deny", "delete_*")], &[], (true, false));
        check(&[("deny", "a"), ("allow", "s*")], &[("allow", "s*"), ("deny", "a")], (true, true));
        check(&[("allow", "search")], &[("allow", "get_*")], (false, false));
    }
}
