//! How the process is told to stop or to hand over, and how it ends: at once when it has nothing left to do.
//!
//! Decides the order: readiness says no and answers say that their connection ends, then (after a delay for load
//! balancers) the listener closes, running requests end, log lines are written, the process exits. Where another
//! process has taken over there is no delay: it answers already.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{FutureExt, future::BoxFuture};
use pingora::{
    apps::HttpServerApp,
    server::{ShutdownSignal, ShutdownSignalWatch, ShutdownWatch},
    services::background::BackgroundService,
};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};
use tracing::{error, info, warn};

use super::{
    door::{Stand, Stands},
    upgrade::Upgrade,
};
use crate::{
    gateway::{configured::Configured, guard::Guard, leaving::Leaving},
    record::{Recorder, metrics::Metrics},
};

/// How long connections may take to close once the last request is done.
const LAST_BYTES: Duration = Duration::from_millis(500);
/// How long clients that keep their connection may take to ask once more.
const LAST_CALLS: Duration = Duration::from_millis(300);
/// The same where another process serves already, so that nobody waits for this one.
const LAST_CALLS_AFTER_HAND_OVER: Duration = Duration::from_secs(10);
/// How long the last log lines may take to be written.
const LAST_LINES: Duration = Duration::from_secs(3);

/// What must be dropped before the process ends: log lines not yet written, scratch files.
#[derive(Clone, Default)]
pub struct LastThings(Arc<Mutex<Vec<Box<dyn Any + Send>>>>);

impl LastThings {
    /// Keeps a thing until the end.
    pub fn keep(&self, thing: impl Any + Send) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(thing));
    }

    /// Drops everything kept, the last first, and waits for it within bounds: a log writer that is
    /// stuck says so on stdout, and waits or panics where that is stuck or gone too.
    pub fn finish(&self) {
        let mut things = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let (done, is_done) = mpsc::channel::<()>();
        thread::spawn(move || {
            while let Some(thing) = things.pop() {
                // The hook has counted it; the next thing matters more.
                drop(std::panic::catch_unwind(AssertUnwindSafe(|| drop(thing))));
            }
            drop(done);
        });
        // Nothing is sent: what is waited for is the end of the thread.
        let _ = is_done.recv_timeout(LAST_LINES);
    }

    /// Ends the process because it cannot do its work.
    pub fn give_up(&self, why: &anyhow::Error) -> ! {
        error!("{why:#}");
        self.finish();
        std::process::exit(1)
    }
}

/// The signals that end the gateway: SIGTERM drains (so does SIGQUIT), SIGUSR2 hands over and drains, SIGINT ends at
/// once. SIGHUP has it read its configuration again.
///
/// Not the framework's own: on SIGQUIT that hands its listening sockets to whoever owns a path in `/tmp`,
/// and SIGHUP would end the process.
pub struct StopSignals {
    /// Where draining shows.
    pub recorder: Recorder,
    /// Says how long readiness says no before the listener closes.
    pub configured: Configured,
    /// Told of SIGHUP.
    pub hang_up: Arc<Notify>,
    /// What the listeners look at.
    pub stands: Stands,
    /// Tells standing streams when to end.
    pub leaving: Arc<Leaving>,
    /// Starts a process that takes over; none where nobody may.
    pub upgrade: Option<Upgrade>,
}

#[async_trait]
impl ShutdownSignalWatch for StopSignals {
    async fn recv(&self) -> ShutdownSignal {
        let listen = |kind| -> Signal { signal(kind).expect("these signals may be listened for") };
        let (mut terminate, mut quit) = (listen(SignalKind::terminate()), listen(SignalKind::quit()));
        let (mut interrupt, mut hang_up) = (listen(SignalKind::interrupt()), listen(SignalKind::hangup()));
        let (mut user_defined, mut hand_over) =
            (listen(SignalKind::user_defined1()), listen(SignalKind::user_defined2()));
        let mut attempt: Option<BoxFuture<'_, bool>> = None;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = quit.recv() => break,
                _ = interrupt.recv() => return ShutdownSignal::FastShutdown,
                _ = hang_up.recv() => self.hang_up.notify_one(),
                _ = user_defined.recv() => warn!("SIGUSR1 means nothing here"),
                _ = hand_over.recv() => match &attempt {
                    Some(_) => warn!("SIGUSR2: a new process is getting ready already"),
                    None => attempt = Some(self.hand_over().boxed()),
                },
                is_done = under_way(&mut attempt) => {
                    if is_done {
                        return ShutdownSignal::GracefulTerminate;
                    }
                    attempt = None;
                }
            }
        }
        // Who was to take over is ended with this.
        drop(attempt);
        notify(&[NotifyState::Stopping]);
        self.recorder.metrics.draining.set(1);
        self.stands.go(Stand::Leaving);
        let signal = tokio::select! {
            () = tokio::time::sleep(self.configured.now().settings.shutdown_delay) => ShutdownSignal::GracefulTerminate,
            _ = terminate.recv() => ShutdownSignal::GracefulTerminate,
            _ = interrupt.recv() => ShutdownSignal::FastShutdown,
        };
        self.leaving.begin();
        self.stands.go(Stand::Closed);
        signal
    }
}

impl StopSignals {
    /// Has another process take over, and says whether it has.
    async fn hand_over(&self) -> bool {
        let Some(upgrade) = &self.upgrade else {
            warn!("SIGUSR2: this command has nobody take over");
            return false;
        };
        let metrics = &self.recorder.metrics;
        match upgrade.attempt().await {
            Ok(pid) => {
                metrics.upgrades.with_label_values(&["handed_over"]).inc();
                metrics.draining.set(1);
                info!("upgrade: process {pid} has taken over; this one ends when its requests have");
                self.leaving.begin();
                self.stands.go(Stand::HandedOver);
                true
            }
            Err(error) => {
                metrics.upgrades.with_label_values(&["failed"]).inc();
                error!("upgrade: no other process has taken over, this one goes on: {error:#}");
                false
            }
        }
    }
}

/// The end of the attempt, where one is made.
async fn under_way(attempt: &mut Option<BoxFuture<'_, bool>>) -> bool {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

/// Tells systemd, where it started this process.
pub fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("systemd cannot be told how it stands (`NOTIFY_SOCKET`): {error}");
    }
}

/// Ends the process as soon as the last request is done; the framework alone would sleep out its grace.
pub struct Drain<A> {
    /// Knows how many requests are running.
    pub recorder: Recorder,
    /// Finished before the end.
    pub last_things: LastThings,
    /// What the listeners look at.
    pub stands: Stands,
    /// Has the connections.
    pub guard: Arc<Guard<A>>,
    /// How long running requests may take.
    pub grace: Duration,
}

impl<A: HttpServerApp + Send + Sync + 'static> Drain<A> {
    /// Lets clients that keep their connection ask once more: the answer tells them that it ends. To close it while
    /// nothing is said on it would meet requests that are on their way.
    async fn last_calls(&self) {
        let patience = tokio::select! {
            biased;
            () = self.stands.reached(Stand::HandedOver) => LAST_CALLS_AFTER_HAND_OVER,
            () = std::future::ready(()) => LAST_CALLS,
        };
        let all_gone = self.wait_until(|metrics| metrics.connections.get() == 0);
        drop(tokio::time::timeout(patience.min(self.grace), all_gone).await);
        self.guard.close_idle().await;
    }

    async fn wait_until(&self, is_so: impl Fn(&Metrics) -> bool) {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        while !is_so(&self.recorder.metrics) {
            looks.tick().await;
        }
    }
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> BackgroundService for Drain<A> {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        // An error means the sender is gone: the process is ending all the same.
        drop(shutdown.changed().await);
        info!("draining: {} requests are running", self.recorder.metrics.requests_in_flight.get());
        let mut interrupt = signal(SignalKind::interrupt()).expect("this signal may be listened for");
        let drained = async {
            self.last_calls().await;
            self.wait_until(|metrics| metrics.requests_in_flight.get() == 0).await;
            // A client that keeps its connection open is not waited for.
            let closed = self.wait_until(|metrics| metrics.connections.get() == 0);
            drop(tokio::time::timeout(LAST_BYTES, closed).await);
            info!("drained");
        };
        tokio::select! {
            () = drained => {}
            _ = interrupt.recv() => warn!("SIGINT: what still runs is cut"),
        }
        self.last_things.finish();
        std::process::exit(0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    struct AtEnd<F: FnMut()>(F);

    impl<F: FnMut()> Drop for AtEnd<F> {
        fn drop(&mut self) {
            self.0();
        }
    }

    #[test]
    fn the_last_things_are_dropped_in_turn_though_one_panics() {
        let (told, dropped) = mpsc::channel();
        let things = LastThings::default();
        for name in ["first", "second"] {
            let told = told.clone();
            things.keep(AtEnd(move || told.send(name).unwrap()));
        }
        things.keep(AtEnd(|| panic!("a test asked for a panic")));
        things.finish();
        assert_eq!(dropped.try_iter().collect::<Vec<_>>(), ["second", "first"]);
    }

    #[test]
    fn a_last_thing_that_hangs_does_not_keep_the_process() {
        let (release, released) = mpsc::channel::<()>();
        let things = LastThings::default();
        things.keep(AtEnd(move || assert!(released.recv().is_err())));
        let began = Instant::now();
        things.finish();
        assert!(began.elapsed() < LAST_LINES * 3, "waited {:?}", began.elapsed());
        drop(release);
    }
}
