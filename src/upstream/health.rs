//! What is known of the peers of a server: which of them are called, how busy each is, and what became of its calls.
//!
//! Shared by all trips, without a lock: a good call writes two counters and nothing else. Lives as long as the address
//! does, through every new look at its name (`Destination::of`). Counts for metrics, which `gateway/ops.rs` reads.

use std::{
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tracing::{info, warn};

use super::{
    Destination,
    breaker::{Breaker, Change, Fault, Standing},
};
use crate::names::ServerId;

/// How long a server that has just gone away is waited for, where nothing was sent: a restart takes as long.
pub(super) const OUTAGE: Duration = Duration::from_secs(3);
/// What a call adds to the room for repeated ones, in hundredths of a call: not more than one in five is sent twice.
const PER_CALL: i64 = 20;
/// Room for repeated calls at most, and at the beginning.
const MOST_REPEATED: i64 = 10 * 100;

/// Milliseconds since the process began to look; never 0.
pub(super) fn now() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGAN.elapsed().as_millis() as u64 + 1
}

/// What the addresses of one server have in common.
#[derive(Debug)]
pub struct Tally {
    server: ServerId,
    /// How often a peer was found to be unfit for calls.
    pub opened: AtomicU64,
    /// Probes of our own that had an answer, and that had none.
    pub probes: [AtomicU64; 2],
    /// Calls sent to another address because the first could not be reached.
    pub unsent: AtomicU64,
    /// Calls sent again although the first may have been run.
    pub repeated: AtomicU64,
    /// Requests for which a connection was made, and those that took one of the pool.
    pub connections: [AtomicU64; 2],
    /// Calls refused at once because no peer was fit for them.
    pub refused: AtomicU64,
    room: AtomicI64,
    /// Since when no peer is fit for calls; 0 while one is.
    down_since: AtomicU64,
    /// Calls that wait are woken when there may be something to go on with.
    pub(super) changed: Notify,
    /// Woken when its names should be looked up before their time.
    pub(crate) look_up: Notify,
    /// Names of it that stand for nothing now.
    pub unresolved: AtomicUsize,
    /// Where its names were last found to lead: for calls that wait for one of the places before.
    latest: Mutex<Weak<[Destination]>>,
}

impl Tally {
    /// A server of which nothing is known.
    pub fn new(server: ServerId) -> Arc<Self> {
        Arc::new(Self {
            server,
            opened: AtomicU64::new(0),
            probes: Default::default(),
            unsent: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            connections: Default::default(),
            refused: AtomicU64::new(0),
            room: AtomicI64::new(MOST_REPEATED),
            down_since: AtomicU64::new(0),
            changed: Notify::new(),
            look_up: Notify::new(),
            unresolved: AtomicUsize::new(0),
            latest: Mutex::new(Weak::<[Destination; 0]>::new()),
        })
    }

    /// Notes on which connection a request went.
    pub fn note_connection(&self, is_reused: bool) {
        self.connections[usize::from(is_reused)].fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a call may be sent again, as far as the server's load goes.
    pub fn may_repeat(&self) -> bool {
        let take = |room: i64| (room >= 100).then_some(room - 100);
        let is_taken = self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        self.repeated.fetch_add(u64::from(is_taken), Ordering::Relaxed);
        is_taken
    }

    /// Whether no peer is fit for calls only since a moment ago, so that waiting is worth it.
    pub(super) fn is_just_down(&self, patience: Duration) -> bool {
        let now = now();
        let began = self.down_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        let since = began.unwrap_or_else(|since| since);
        since == 0 || now.saturating_sub(since) < OUTAGE.min(patience).as_millis() as u64
    }

    /// Its names lead there now.
    pub(super) fn moved(&self, destinations: &Arc<[Destination]>) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(destinations);
        self.changed.notify_waiters();
    }

    /// Where its names were last found to lead.
    pub(super) fn latest(&self) -> Option<Arc<[Destination]>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    fn note_up(&self) {
        if self.down_since.load(Ordering::Relaxed) != 0 {
            self.down_since.store(0, Ordering::Relaxed);
        }
    }
}

/// What is known of one address of a server.
#[derive(Debug)]
pub struct Health {
    tally: Arc<Tally>,
    address: SocketAddr,
    state: AtomicU64,
    /// Calls that are there now.
    outstanding: AtomicU32,
    /// When it was last probed, whether it is being probed, and how often that was in vain.
    probed_at: AtomicU64,
    is_probed: AtomicBool,
    needless_probes: AtomicU32,
}

impl Health {
    /// An address of which nothing bad is known.
    pub fn new(tally: Arc<Tally>, address: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            tally,
            address,
            state: AtomicU64::new(Breaker::GOOD.to_bits()),
            outstanding: AtomicU32::new(0),
            probed_at: AtomicU64::new(0),
            is_probed: AtomicBool::new(false),
            needless_probes: AtomicU32::new(0),
        })
    }

    /// What it has in common with the other addresses of its server.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Whether it is called like any other.
    pub fn is_good(&self) -> bool {
        self.breaker().is_closed()
    }

    /// Calls that are there now.
    pub(super) fn outstanding(&self) -> u32 {
        self.outstanding.load(Ordering::Relaxed)
    }

    pub(super) fn standing(&self, is_last_resort: bool) -> Standing {
        let breaker = self.breaker();
        if breaker.is_closed() { Standing::Good } else { breaker.standing(now(), is_last_resort) }
    }

    /// Whether it is not called, and may be in a moment: it answers probes.
    pub(super) fn is_hopeful(&self) -> bool {
        self.breaker().is_hopeful(now())
    }

    /// A call goes there.
    pub(super) fn seat(self: &Arc<Self>) -> Seat {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        Seat { health: self.clone(), is_trial: false, is_settled: false }
    }

    /// One call goes there to try it; none where another has just begun to.
    pub(super) fn try_seat(self: &Arc<Self>, is_last_resort: bool) -> Option<Seat> {
        let (now, bits) = (now(), self.state.load(Ordering::Relaxed));
        let breaker = Breaker::from_bits(bits);
        if breaker.standing(now, is_last_resort) != Standing::ToBeTried {
            return None;
        }
        let next = breaker.tried(now).to_bits();
        self.state.compare_exchange(bits, next, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        Some(Seat { health: self.clone(), is_trial: true, is_settled: false })
    }

    /// Notes what became of a request that is no call of its own: one of several that a call is made of.
    pub fn note(&self, fault: Option<Fault>) {
        self.settle(fault, false);
    }

    /// Since when a probe of it is due, on the clock of the process; none when none is. While it is shut it is probed, else
    /// every so often, where that is wanted.
    pub fn probe_due(&self, every: Option<Duration>, is_urgent: bool) -> Option<u64> {
        let pause = if self.is_good() { every? } else { self.probe_pause(is_urgent) };
        let due = self.probed_at.load(Ordering::Relaxed) + pause.as_millis() as u64;
        (due <= now() && !self.is_probed.load(Ordering::Relaxed)).then_some(due)
    }

    /// Takes a probe, which who takes it makes; none while another is underway: a peer that swallows probes would soon have
    /// all there may be.
    pub fn take_probe(&self) -> bool {
        let is_taken = !self.is_probed.swap(true, Ordering::Relaxed);
        if is_taken {
            self.probed_at.store(now(), Ordering::Relaxed);
        }
        is_taken
    }

    fn probe_pause(&self, is_urgent: bool) -> Duration {
        let longest = if is_urgent { 1_000 } else { 5_000 };
        let needless = self.needless_probes.load(Ordering::Relaxed).min(6);
        Duration::from_millis((250_u64 << needless).min(longest))
    }

    /// Notes what became of a probe of our own.
    pub fn probed(&self, fault: Option<Fault>, is_real_call: bool) {
        self.is_probed.store(false, Ordering::Relaxed);
        self.tally.probes[usize::from(fault.is_some())].fetch_add(1, Ordering::Relaxed);
        self.needless_probes.fetch_add(1, Ordering::Relaxed);
        let change = self.update(|breaker, now| breaker.probed(now, fault, is_real_call));
        self.tell(change, fault);
    }

    fn breaker(&self) -> Breaker {
        Breaker::from_bits(self.state.load(Ordering::Relaxed))
    }

    fn update(&self, next: impl Fn(Breaker, u64) -> (Breaker, Change)) -> Change {
        let mut bits = self.state.load(Ordering::Relaxed);
        loop {
            let (breaker, change) = next(Breaker::from_bits(bits), now());
            let next = breaker.to_bits();
            if next == bits {
                return change;
            }
            match self.state.compare_exchange_weak(bits, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return change,
                Err(found) => bits = found,
            }
        }
    }

    fn settle(&self, fault: Option<Fault>, is_trial: bool) {
        let change = match fault {
            None if self.state.load(Ordering::Relaxed) & !(u64::MAX << 20) == Breaker::GOOD.to_bits() => {
                Change::None
            }
            None => self.update(|breaker, now| breaker.succeeded(now, is_trial)),
            Some(fault) => self.update(|breaker, now| breaker.failed(now, fault, is_trial)),
        };
        if fault.is_none() {
            self.tally.note_up();
        }
        self.tell(change, fault);
    }

    fn tell(&self, change: Change, fault: Option<Fault>) {
        let (id, address) = (&self.tally.server, self.address);
        // As often as it is found so: who looks its name up asks no more than once a second.
        if fault == Some(Fault::Unreached) && self.breaker().is_out_of_reach() {
            self.tally.look_up.notify_one();
        }
        match change {
            Change::None => {}
            Change::Opened => {
                self.tally.opened.fetch_add(1, Ordering::Relaxed);
                self.needless_probes.store(0, Ordering::Relaxed);
                self.probed_at.store(0, Ordering::Relaxed);
                let why = fault.map_or("", Fault::as_str);
                warn!(server.id = %id, "server `{id}` is not called at `{address}` for now: {why}, again and again");
            }
            Change::Closed => {
                self.tally.note_up();
                self.tally.changed.notify_waiters();
                info!(server.id = %id, "server `{id}` is called at `{address}` again");
            }
        }
    }
}

/// A call's place at a peer. Dropped without a word it says nothing of the peer.
#[derive(Debug)]
pub struct Seat {
    health: Arc<Health>,
    is_trial: bool,
    is_settled: bool,
}

impl Seat {
    /// The call had a good answer, or this is what was wrong.
    pub fn settle(&mut self, fault: Option<Fault>) {
        if !std::mem::replace(&mut self.is_settled, true) {
            let room = &self.health.tally.room;
            if fault.is_none() && room.load(Ordering::Relaxed) < MOST_REPEATED {
                room.fetch_add(PER_CALL, Ordering::Relaxed);
            }
            self.health.settle(fault, self.is_trial);
        }
        if self.is_trial {
            self.health.tally.changed.notify_waiters();
        }
    }

    /// The same where the call tries the peer; what other calls showed was noted with each of their requests.
    pub fn settle_trial(&mut self, fault: Option<Fault>) {
        if self.is_trial {
            self.settle(fault);
        }
    }

    /// The peer it is at.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.health.outstanding.fetch_sub(1, Ordering::Relaxed);
        if self.is_trial && !self.is_settled {
            self.health.update(|breaker, now| (breaker.untried(now), Change::None));
            self.health.tally.changed.notify_waiters();
        }
    }
}
