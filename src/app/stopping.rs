//! How the process is told to stop, and how it ends: at once when it has nothing left to do.
//!
//! Decides the order: readiness says no, then (after a delay for load balancers) the listener closes,
//! running requests end, log lines are written, the process exits.

use std::{
    any::Any,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use pingora::{
    server::{ShutdownSignal, ShutdownSignalWatch, ShutdownWatch},
    services::background::BackgroundService,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::record::Recorder;

/// How long connections may take to close once the last request is done.
const LAST_BYTES: Duration = Duration::from_millis(500);

/// What must be dropped before the process ends: log lines not yet written, scratch files.
#[derive(Clone, Default)]
pub struct LastThings(Arc<Mutex<Vec<Box<dyn Any + Send>>>>);

impl LastThings {
    /// Keeps a thing until the end.
    pub fn keep(&self, thing: impl Any + Send) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(thing));
    }

    /// Drops everything kept, the last first.
    pub fn finish(&self) {
        let mut things = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(thing) = things.pop() {
            drop(thing);
        }
    }

    /// Ends the process because it cannot do its work.
    pub fn give_up(&self, why: &anyhow::Error) -> ! {
        error!("{why:#}");
        self.finish();
        std::process::exit(1)
    }
}

/// The signals that stop the gateway: SIGTERM drains (so does SIGQUIT), SIGINT ends at once.
///
/// Not the framework's own: on SIGQUIT that hands its listening sockets to whoever owns a path in `/tmp`,
/// and SIGHUP would end the process.
pub struct StopSignals {
    /// Where draining shows.
    pub recorder: Recorder,
    /// Between readiness saying no and the listener closing.
    pub delay: Duration,
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
                _ = hang_up.recv() => warn!("SIGHUP: this version does not reload; restart it to take a new configuration"),
                _ = user_defined.recv() => warn!("SIGUSR1 means nothing here"),
            }
        }
        self.recorder.metrics.draining.set(1);
        tokio::select! {
            () = tokio::time::sleep(self.delay) => ShutdownSignal::GracefulTerminate,
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
