//! The end of a process that takes nothing new: at once when it has nothing left to do, else when its grace is over.
//!
//! Decides how long clients that keep their connection are waited for, and what the log says meanwhile: nobody else can
//! tell it, because after a hand-over another process answers for the metrics. Never closes a listener.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use pingora::{apps::HttpServerApp, server::ShutdownSignal};
use tracing::{info, warn};

use super::{
    door::Socket,
    signals::{Asked, Signals},
    stopping::LastThings,
    workers::Workers,
};
use crate::record::{Recorder, metrics::Metrics};

/// How long connections may take to close once the last request is done.
const LAST_BYTES: Duration = Duration::from_millis(500);
/// How long clients that keep their connection may take to ask once more.
const LAST_CALLS: Duration = Duration::from_millis(300);
/// The same where another process serves already, so that nobody waits for this one.
const LAST_CALLS_AFTER_HAND_OVER: Duration = Duration::from_secs(10);
/// Until the log first says what still runs; every further time it is twice as long, up to the last.
const FIRST_WORD: Duration = Duration::from_secs(1);
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

/// Ends the process as soon as the last request is done; the framework alone would sleep out its grace.
pub struct Drain<A> {
    /// Knows how many requests are running.
    pub recorder: Recorder,
    /// Finished before the end.
    pub last_things: LastThings,
    /// Where connections come from; told to close before this begins.
    pub public: Socket,
    /// Has the connections.
    pub workers: Arc<Workers<A>>,
    /// How long running requests may take.
    pub grace: Duration,
    /// The process that has taken over.
    pub successor: OnceLock<u32>,
}

impl<A: HttpServerApp + Send + Sync + 'static> Drain<A> {
    /// Waits for what runs. Returns when the rest is to be cut, and not at all when there is none.
    pub async fn run(&self, signals: &mut Signals) -> ShutdownSignal {
        let began = Instant::now();
        let grace = self.grace.as_secs();
        let pid = std::process::id();
        info!(pid, "draining: {}; what still runs in {grace} s is cut", self.running());
        let drained = self.drained();
        let over = tokio::time::sleep(self.grace);
        tokio::pin!(drained, over);
        let mut silence = FIRST_WORD;
        let mut word = tokio::time::Instant::now() + silence;
        loop {
            tokio::select! {
                () = &mut drained => {
                    info!(pid, "drained");
                    self.last_things.finish();
                    std::process::exit(0);
                }
                () = &mut over => {
                    warn!(pid, "`shutdown.grace_secs` ({grace} s) are over: {}, and cut now", self.running());
                    return self.end().await;
                }
                () = tokio::time::sleep_until(word) => {
                    let left = self.grace.saturating_sub(began.elapsed()).as_secs();
                    info!(pid, "still draining: {}; {left} s are left", self.running());
                    silence = (silence * 2).min(LONGEST_SILENCE);
                    word += silence;
                }
                asked = signals.next() => match asked {
                    Asked::End => return self.cut().await,
                    other => self.refuse(other),
                }
            }
        }
    }

    /// Has everything end now.
    pub async fn cut(&self) -> ShutdownSignal {
        warn!(pid = std::process::id(), "SIGINT: {}, and cut now", self.running());
        self.end().await
    }

    /// Those that serve first, so that what is cut can still be written down.
    async fn end(&self) -> ShutdownSignal {
        self.workers.end().await;
        CUT
    }

    /// Says that a signal changes nothing any more.
    pub fn refuse(&self, asked: Asked) {
        let (pid, name) = (std::process::id(), asked.name());
        match self.successor.get() {
            Some(successor) => warn!(
                pid,
                "{name}: nothing is done, because this process is ending and process {successor} serves in its place; \
                 was the signal meant for that one?"
            ),
            None => warn!(
                pid,
                "{name}: nothing is done, because this process is ending already; SIGINT cuts what still runs"
            ),
        }
    }

    /// What runs, in words.
    pub fn running(&self) -> String {
        let Metrics { requests_in_flight, open_streams, .. } = &*self.recorder.metrics;
        format!("{} requests are running, {} of them streams", requests_in_flight.get(), open_streams.get())
    }

    async fn drained(&self) {
        // Whoever came before it closed is on the way to a thread, and nobody's request yet.
        wait_until(|| !self.public.is_open()).await;
        self.last_calls().await;
        wait_until(|| self.recorder.metrics.requests_in_flight.get() == 0).await;
        // A client that keeps its connection open is not waited for.
        drop(tokio::time::timeout(LAST_BYTES, self.all_gone()).await);
    }

    /// Lets clients that keep their connection ask once more: the answer tells them that it ends. To close it while
    /// nothing is said on it would meet requests that are on their way.
    async fn last_calls(&self) {
        let has_successor = self.successor.get().is_some();
        let patience = if has_successor { LAST_CALLS_AFTER_HAND_OVER } else { LAST_CALLS };
        drop(tokio::time::timeout(patience.min(self.grace), self.all_gone()).await);
        self.workers.close_idle().await;
    }

    /// Returns once no thread has a connection, served or about to be.
    async fn all_gone(&self) {
        wait_until(|| self.workers.have_nothing()).await;
    }
}

async fn wait_until(is_so: impl Fn() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    while !is_so() {
        looks.tick().await;
    }
}

/// The framework drops every task and returns. Not its fast way: that does not wait until they are dropped, and their
/// lines in the access log would be lost.
const CUT: ShutdownSignal = ShutdownSignal::GracefulTerminate;
