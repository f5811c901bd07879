//! One connection as the request on it sees it: its deadlines, its seat, and the hand that cuts it.
//!
//! Decides nothing: `guard`, `client` and `streams` look at what a request has said through it.

use std::{
    future::poll_fn,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use super::{
    ending::Ending,
    hearing::Hearing,
    seats::{Forsaken, Seat},
};
use crate::limit::seats::Seat as Place;

tokio::task_local! {
    static LINE: Arc<Line>;
}

/// So long a reader may make an answer wait, in all, and still have nothing to do with its end.
const LONG: Duration = Duration::from_secs(1);

/// No deadline is running.
const DISARMED: u64 = u64::MAX;

/// One connection, as seen by the requests on it; of HTTP/2 each stream has a line of its own.
pub struct Line {
    opened: Instant,
    deadline_millis: AtomicU64,
    /// Whether the request that runs is to end early.
    pub ending: Ending,
    /// What is flushed next may wait for what comes behind it.
    may_wait: AtomicBool,
    /// When the peer's answer must have begun, and how long that wait is.
    answer_due_millis: AtomicU64,
    answer_wait_millis: AtomicU64,
    /// When the peer's answer must be over.
    end_due_millis: AtomicU64,
    is_answer_overdue: AtomicBool,
    /// The client takes its time over what it was last given.
    is_client_slow: AtomicBool,
    outlives_client: AtomicBool,
    /// When an answer that its client has left must be over, whatever it does; unset while the client is there.
    forsaken_until_millis: AtomicU64,
    /// Since when a write waits for the client to take more, and how long others have.
    blocked_since_millis: AtomicU64,
    waited_millis: AtomicU64,
    is_slow: AtomicBool,
    /// Among the connections, or among the forsaken once the client has left.
    seat: Mutex<Option<Seat>>,
    /// Among the connections of its address, as long as the client is there.
    place: Mutex<Option<Place>>,
    hearing: Mutex<Hearing>,
    forsaken: Forsaken,
    /// The client's address, as a balancer told it at the connection's beginning.
    told: OnceLock<IpAddr>,
}

impl Line {
    /// A connection whose first header must come within this time. Where its client leaves too early, it takes
    /// one of the `forsaken` seats instead of its own.
    pub fn new(first_header: Duration, seat: Option<Seat>, forsaken: Forsaken) -> Arc<Self> {
        let line = Self {
            opened: Instant::now(),
            deadline_millis: AtomicU64::new(DISARMED),
            ending: Ending::default(),
            may_wait: AtomicBool::new(false),
            answer_due_millis: AtomicU64::new(DISARMED),
            answer_wait_millis: AtomicU64::new(0),
            end_due_millis: AtomicU64::new(DISARMED),
            is_answer_overdue: AtomicBool::new(false),
            is_client_slow: AtomicBool::new(false),
            outlives_client: AtomicBool::new(false),
            forsaken_until_millis: AtomicU64::new(DISARMED),
            blocked_since_millis: AtomicU64::new(DISARMED),
            waited_millis: AtomicU64::new(0),
            is_slow: AtomicBool::new(false),
            seat: Mutex::new(seat),
            place: Mutex::default(),
            hearing: Mutex::default(),
            forsaken,
            told: OnceLock::new(),
        };
        line.arm(first_header);
        Arc::new(line)
    }

    /// The line of one stream of this connection.
    pub fn of_stream(&self) -> Arc<Self> {
        let line = Self::new(Duration::ZERO, None, self.forsaken.clone());
        line.disarm();
        if let Some(told) = self.told() {
            line.tell(told);
        }
        line
    }

    /// Runs `work` on this line, until it ends; none where it is cut before.
    pub async fn carry<T>(self: &Arc<Self>, work: impl Future<Output = T>) -> Option<T> {
        let work = LINE.scope(self.clone(), work);
        tokio::select! {
            // In this order: an answer that can be finished at once is.
            biased;
            done = work => Some(done),
            () = self.ending.withdrawn() => None,
        }
    }

    /// The connection the running task serves; none in unit tests.
    pub fn current() -> Option<Arc<Self>> {
        LINE.try_with(Arc::clone).ok()
    }

    /// Runs `work` as a part of this connection.
    pub fn scope<T>(self: &Arc<Self>, work: impl Future<Output = T>) -> impl Future<Output = T> {
        LINE.scope(self.clone(), work)
    }

    /// A balancer has told the client's address.
    pub fn tell(&self, address: IpAddr) {
        // Told once, at the connection's beginning.
        let _ = self.told.set(address);
    }

    /// The client's address, as a balancer told it by the PROXY protocol.
    pub fn told(&self) -> Option<IpAddr> {
        self.told.get().copied()
    }

    /// A request's header must be complete within this time.
    pub fn arm(&self, within: Duration) {
        let deadline = (self.opened.elapsed() + within).as_millis() as u64;
        self.deadline_millis.store(deadline, Ordering::Relaxed);
    }

    /// A request's header is complete.
    pub fn disarm(&self) {
        self.deadline_millis.store(DISARMED, Ordering::Relaxed);
    }

    /// The peer's answer must begin within this time.
    pub fn expect_answer(&self, within: Duration) {
        self.answer_wait_millis.store(within.as_millis() as u64, Ordering::Relaxed);
        let due = (self.opened.elapsed() + within).as_millis() as u64;
        self.answer_due_millis.store(due, Ordering::Relaxed);
    }

    /// The client has taken a piece of the answer. The time that took was not the peer's: the wait for the next
    /// piece begins now.
    pub fn note_taken(&self) {
        if self.answer_due_millis.load(Ordering::Relaxed) != DISARMED {
            self.expect_answer(Duration::from_millis(self.answer_wait_millis.load(Ordering::Relaxed)));
        }
    }

    /// The peer's answer has begun: from now on it may be silent.
    pub fn answer_began(&self) {
        self.answer_due_millis.store(DISARMED, Ordering::Relaxed);
    }

    /// The peer's answer must be over within this time.
    pub fn must_end(&self, within: Duration) {
        let due = (self.opened.elapsed() + within).as_millis() as u64;
        self.end_due_millis.store(due, Ordering::Relaxed);
    }

    /// Whether the time is over in which the peer's answer had to end.
    pub fn is_past_end(&self) -> bool {
        let due = self.end_due_millis.load(Ordering::Relaxed);
        due != DISARMED && self.opened.elapsed() >= Duration::from_millis(due)
    }

    /// The peer's answer may go on for as long as it likes.
    pub fn may_go_on(&self) {
        self.end_due_millis.store(DISARMED, Ordering::Relaxed);
    }

    /// Notes whether the client has taken what it was given last.
    pub fn note_client(&self, is_slow: bool) {
        self.is_client_slow.store(is_slow, Ordering::Relaxed);
    }

    /// Whether the client takes its time.
    pub fn is_client_slow(&self) -> bool {
        self.is_client_slow.load(Ordering::Relaxed)
    }

    /// When the peer's answer must have begun, if one is waited for, or be over.
    pub fn answer_due(&self) -> Option<Instant> {
        let due = self.answer_due_millis.load(Ordering::Relaxed);
        let due = due.min(self.end_due_millis.load(Ordering::Relaxed));
        let due = due.min(self.forsaken_until_millis.load(Ordering::Relaxed));
        (due != DISARMED).then(|| self.opened + Duration::from_millis(due))
    }

    /// The peer's answer did not begin in time.
    pub fn note_overdue(&self) {
        self.is_answer_overdue.store(true, Ordering::Relaxed);
    }

    /// Whether the peer's answer did not begin in time.
    pub fn is_answer_overdue(&self) -> bool {
        self.is_answer_overdue.load(Ordering::Relaxed)
    }

    /// Says whether a client that leaves now ends what it asked for.
    pub fn outlive_client(&self, outlives: bool) {
        self.outlives_client.store(outlives, Ordering::Relaxed);
    }

    /// Whether a client that leaves ends nothing.
    pub fn outlives_client(&self) -> bool {
        self.outlives_client.load(Ordering::Relaxed)
    }

    /// The client has left, and its answer goes on for at most this time. False where it may not: too many do.
    pub fn forsake(&self, within: Duration) -> bool {
        let Some(seat) = self.forsaken.seats.take(self.forsaken.most) else { return false };
        // The one among the connections is free for others.
        self.take_seat(Some(seat));
        self.take_place(None);
        let until = (self.opened.elapsed() + within).as_millis() as u64;
        self.forsaken_until_millis.store(until, Ordering::Relaxed);
        true
    }

    /// Takes this seat, or leaves the one it had.
    pub fn take_seat(&self, seat: Option<Seat>) {
        *self.seat.lock().unwrap_or_else(PoisonError::into_inner) = seat;
    }

    /// Takes this place among the connections of its address, or leaves the one it had.
    pub fn take_place(&self, place: Option<Place>) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }

    /// What the client says.
    pub fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write waits for the client to take more, or no longer does. The time that took is not the peer's: it has so much
    /// more to end its answer.
    pub fn note_blocked(&self, is_blocked: bool) {
        let now = self.opened.elapsed().as_millis() as u64;
        let since =
            self.blocked_since_millis.swap(if is_blocked { now } else { DISARMED }, Ordering::Relaxed);
        if is_blocked || since == DISARMED {
            return;
        }
        let waited = now.saturating_sub(since);
        self.waited_millis.fetch_add(waited, Ordering::Relaxed);
        let end = self.end_due_millis.load(Ordering::Relaxed);
        if end != DISARMED {
            self.end_due_millis.store(end + waited, Ordering::Relaxed);
        }
    }

    /// Whether the client has made its answer wait for longer than anybody who takes it as it comes.
    pub fn has_waited(&self) -> bool {
        let since = self.blocked_since_millis.load(Ordering::Relaxed);
        let now = self.opened.elapsed().as_millis() as u64;
        let waits = if since == DISARMED { 0 } else { now.saturating_sub(since) };
        self.waited_millis.load(Ordering::Relaxed) + waits >= LONG.as_millis() as u64
    }

    /// The client takes too little.
    pub fn note_slow(&self) {
        self.is_slow.store(true, Ordering::Relaxed);
    }

    /// Whether a write ended because the client took too little, or nothing within this time.
    pub fn is_reader_slow(&self, patience: Duration) -> bool {
        let since = self.blocked_since_millis.load(Ordering::Relaxed);
        let is_blocked = since != DISARMED
            && self.opened.elapsed().saturating_sub(Duration::from_millis(since)) >= patience;
        is_blocked || self.is_slow.load(Ordering::Relaxed)
    }

    /// Whether the client left before its answer was over.
    pub fn is_client_gone(&self) -> bool {
        self.forsaken_until_millis.load(Ordering::Relaxed) != DISARMED
    }

    /// A request is over: the next one on this connection begins with nothing said. What was to be cut has come to
    /// its end by itself.
    pub fn settle(&self) {
        self.ending.settle();
        self.may_wait.store(false, Ordering::Relaxed);
        self.is_slow.store(false, Ordering::Relaxed);
        self.note_blocked(false);
        self.waited_millis.store(0, Ordering::Relaxed);
        self.answer_began();
        self.may_go_on();
        self.outlive_client(false);
    }

    /// What is flushed next may be held until what follows it, or until nothing does: a head goes with the event behind it.
    pub fn hold(&self) {
        self.may_wait.store(true, Ordering::Relaxed);
    }

    /// Whether what is flushed now may be held.
    pub fn may_hold(&self) -> bool {
        self.may_wait.load(Ordering::Relaxed) && self.may_wait.swap(false, Ordering::Relaxed)
    }

    /// Returns when an answer that is due has not begun, or is not over, or is to be a refusal. Never while none is due.
    pub async fn unanswered(&self) {
        let mut late = pin!(self.late());
        poll_fn(|cx| if self.ending.is_refused() { Poll::Ready(()) } else { late.as_mut().poll(cx) }).await;
    }

    async fn late(&self) {
        while let Some(due) = self.answer_due() {
            if due <= Instant::now() {
                return self.note_overdue();
            }
            tokio::time::sleep_until(due.into()).await;
        }
        std::future::pending().await
    }

    /// Returns when a deadline has passed. Looks again every `patience` while none is running, so
    /// that requests arm and disarm without waking anybody.
    pub async fn overdue(&self, patience: Duration) {
        loop {
            let deadline = self.deadline_millis.load(Ordering::Relaxed);
            let elapsed = self.opened.elapsed();
            let left = match deadline {
                DISARMED => patience,
                deadline => Duration::from_millis(deadline).saturating_sub(elapsed),
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_a_write_waits_for_the_client_is_added_to_the_server_s() {
        let line = line();
        line.must_end(Duration::ZERO);
        assert!(line.is_past_end() && !line.has_waited());
        line.must_end(Duration::from_secs(60));
        let due = line.answer_due();
        line.note_blocked(true);
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(3) {
            std::hint::spin_loop();
        }
        line.note_blocked(false);
        assert!(line.answer_due() >= due.map(|due| due + Duration::from_millis(2)));
        line.waited_millis.store(LONG.as_millis() as u64, Ordering::Relaxed);
        assert!(line.has_waited());
        line.settle();
        assert!(!line.has_waited() && line.answer_due().is_none(), "the next request begins anew");
    }

    fn line() -> Arc<Line> {
        Line::new(Duration::from_secs(60), None, Forsaken { seats: Arc::default(), most: 1 })
    }
}
