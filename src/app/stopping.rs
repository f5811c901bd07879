//! How the process is told to stop, and how it ends: at once when it has nothing left to do.
//!
//! Decides the order: readiness says no, then (after a delay for load balancers) the listener closes,
//! running requests end, log lines are written, the process exits.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use pingora::{
    server::{ShutdownSignal, ShutdownSignalWatch, ShutdownWatch},
    services::background::BackgroundService,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};
use tracing::{error, info, warn};

use crate::{gateway::configured::Configured, record::Recorder};

/// How long connections may take to close once the last request is done.
const LAST_BYTES: Duration = Duration::from_millis(500);
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

/// The signals that stop the gateway: SIGTERM drains (so does SIGQUIT), SIGINT ends at once. SIGHUP has it read its
/// configuration again.
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
}

#[async_trait]
impl ShutdownSignalWatch for StopSignals {
    async fn recv(&self) -> ShutdownSignal {
        let listen = |kind| -> Signal { signal(kind).expect("these signals may be listened for") };
        let (mut terminate, mut quit) = (listen(SignalKind::terminate()), listen(SignalKind::quit()));
        let (mut interrupt, mut hang_up) = (listen(SignalKind::interrupt()), listen(SignalKind::hangup()));
        let mut user_defined = listen(SignalKind::user_defined1());
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = quit.recv() => break,
                _ = interrupt.recv() => return ShutdownSignal::FastShutdown,
                _ = hang_up.recv() => self.hang_up.notify_one(),
                _ = user_defined.recv() => warn!("SIGUSR1 means nothing here"),
            }
        }
        self.recorder.metrics.draining.set(1);
        tokio::select! {
            () = tokio::time::sleep(self.configured.now().settings.shutdown_delay) => ShutdownSignal::GracefulTerminate,
            _ = terminate.recv() => ShutdownSignal::GracefulTerminate,
            _ = interrupt.recv() => ShutdownSignal::FastShutdown,
        }
    }
}

/// Ends the process as soon as the last request is done; the framework alone would sleep out its grace.
pub struct Drain {
    /// Knows how many requests are running.
    pub recorder: Recorder,
    /// Finished before the end.
    pub last_things: LastThings,
}

#[async_trait]
impl BackgroundService for Drain {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        // An error means the sender is gone: the process is ending all the same.
        drop(shutdown.changed().await);
        let metrics = &self.recorder.metrics;
        info!("draining: {} requests are running", metrics.requests_in_flight.get());
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        while metrics.requests_in_flight.get() > 0 {
            looks.tick().await;
        }
        let last_bytes = async {
            while metrics.connections.get() > 0 {
                looks.tick().await;
            }
        };
        // A client that keeps its connection open is not waited for.
        drop(tokio::time::timeout(LAST_BYTES, last_bytes).await);
        info!("drained");
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
