//! How the process is told to stop or to hand over.
//!
//! Decides the order: readiness says no and answers say that their connection ends, then (after a delay for load
//! balancers) the listener closes, running requests end (`drain`), log lines are written, the process exits. Where another
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
    server::{ShutdownSignal, ShutdownSignalWatch},
};
use sd_notify::NotifyState;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::{
    door::{Stand, Stands},
    drain::Drain,
    signals::{Asked, Signals},
    upgrade::{Attempts, Upgrade},
};
use crate::{
    gateway::{configured::Configured, leaving::Leaving},
    record::{
        levels::{LOUD, Levels},
        metrics::Metrics,
    },
};

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

/// What the signals have the gateway do: SIGTERM drains (so does SIGQUIT), SIGUSR2 hands over and drains, SIGINT ends at
/// once. SIGHUP has it read its configuration again.
pub struct StopSignals<A> {
    /// Says how long readiness says no before the listener closes.
    pub configured: Configured,
    /// Told of SIGHUP.
    pub hang_up: Arc<Notify>,
    /// Which lines are written.
    pub levels: Levels,
    /// What the listeners look at.
    pub stands: Stands,
    /// Tells standing streams when to end.
    pub leaving: Arc<Leaving>,
    /// Starts a process that takes over; none where nobody may.
    pub upgrade: Option<Upgrade>,
    /// What comes last.
    pub drain: Drain<A>,
}

/// How the time before the end came to its end.
enum Next {
    /// This signal stops the process.
    Stop(&'static str),
    /// Another process serves.
    HandedOver,
    /// It ends now.
    End,
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> ShutdownSignalWatch for StopSignals<A> {
    async fn recv(&self) -> ShutdownSignal {
        let mut signals = Signals::listen();
        match self.serve(&mut signals).await {
            Next::End => return self.drain.cut().await,
            Next::HandedOver => self.stands.go(Stand::HandedOver),
            Next::Stop(name) => {
                notify(&[NotifyState::Stopping]);
                self.drain.recorder.metrics.draining.set(1);
                self.stands.go(Stand::Leaving);
                if self.delay(name, &mut signals).await == Asked::End {
                    return self.drain.cut().await;
                }
                self.stands.go(Stand::Closed);
            }
        }
        self.leaving.begin();
        self.drain.run(&mut signals).await
    }
}

impl<A: HttpServerApp + Send + Sync + 'static> StopSignals<A> {
    /// Returns when the process is to end.
    async fn serve(&self, signals: &mut Signals) -> Next {
        let mut attempt: Option<BoxFuture<'_, bool>> = None;
        loop {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::Stop { name } => return self.stop(name, attempt, signals).await,
                    Asked::End => return Next::End,
                    Asked::Reload => self.hang_up.notify_one(),
                    Asked::Louder => self.toggle_levels(),
                    Asked::HandOver => match &attempt {
                        Some(_) => warn!("SIGUSR2: a new process is getting ready already"),
                        None => attempt = Some(self.hand_over().boxed()),
                    },
                },
                calmed = self.levels.calm_down() => match calmed {
                    Ok(()) => info!("lines of level `debug` are written no more: their time is over"),
                    Err(error) => warn!("the lines that are logged stay the same: {error:#}"),
                },
                is_done = under_way(&mut attempt) => {
                    if is_done {
                        return Next::HandedOver;
                    }
                    attempt = None;
                }
            }
        }
    }

    /// Says more for a while, or no more than before.
    fn toggle_levels(&self) {
        match self.levels.toggle(LOUD) {
            Ok(Some(_)) => {
                let minutes = LOUD.as_secs() / 60;
                info!(
                    "SIGUSR1: lines of level `debug` are written for {minutes} minutes, or until the next SIGUSR1"
                );
            }
            Ok(None) => info!("SIGUSR1: lines of level `debug` are written no more"),
            Err(error) => warn!("SIGUSR1: the lines that are logged stay the same: {error:#}"),
        }
    }

    /// Decides who wins where another process is about to take over: the signal, until that one was told to serve. From
    /// then on it may have connections, and whoever wants to stop it has to tell it.
    async fn stop(
        &self,
        name: &'static str,
        mut attempt: Option<BoxFuture<'_, bool>>,
        signals: &mut Signals,
    ) -> Next {
        let has_let_go = self.upgrade.as_ref().is_some_and(Upgrade::has_let_go);
        if attempt.is_some() && !has_let_go {
            // Who was to take over is ended as this is dropped.
            warn!("upgrade: given up because of {name}; the process that was getting ready is ended, too");
            return Next::Stop(name);
        }
        while attempt.is_some() {
            tokio::select! {
                is_done = under_way(&mut attempt) => {
                    if is_done {
                        self.drain.refuse(Asked::Stop { name });
                        return Next::HandedOver;
                    }
                    attempt = None;
                }
                asked = signals.next() => match asked {
                    Asked::End => return Next::End,
                    other => warn!("{}: nothing is done, because another process is about to take over", other.name()),
                },
            }
        }
        Next::Stop(name)
    }

    /// Returns when the listener is to close, with what was asked for meanwhile.
    async fn delay(&self, name: &'static str, signals: &mut Signals) -> Asked {
        let (pid, delay) = (std::process::id(), self.configured.now().settings.shutdown_delay);
        let (running, seconds) = (self.drain.running(), delay.as_secs());
        info!(
            pid,
            "{name}: not ready from now on, and the listener closes in {seconds} s (`shutdown.delay_secs`); {running}"
        );
        let over = tokio::time::sleep(delay);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return Asked::Stop { name },
                asked = signals.next() => match asked {
                    Asked::End => return Asked::End,
                    Asked::Stop { name } => {
                        info!(pid, "{name} once more: the listener closes now");
                        return asked;
                    }
                    Asked::Louder => self.toggle_levels(),
                    Asked::Reload | Asked::HandOver => self.drain.refuse(asked),
                },
            }
        }
    }

    /// Has another process take over, and says whether it has.
    async fn hand_over(&self) -> bool {
        let Some(upgrade) = &self.upgrade else {
            warn!("SIGUSR2: this command has nobody take over");
            return false;
        };
        let Metrics { upgrades, draining, .. } = &*self.drain.recorder.metrics;
        let count = |outcome| upgrades.with_label_values(&[outcome]);
        let so_far = Attempts { handed_over: count("handed_over").get(), failed: count("failed").get() };
        // Asked now, because a reload may have changed it.
        let timeout = self.configured.now().settings.upgrade_timeout;
        match upgrade.attempt(so_far, timeout).await {
            // Counted there: nobody asks this process any more.
            Ok(successor) => {
                self.drain.successor.get_or_init(|| successor);
                draining.set(1);
                let pid = std::process::id();
                info!(
                    pid,
                    "upgrade: process {successor} has taken over; this one ends when its requests have"
                );
                true
            }
            Err(error) => {
                count("failed").inc();
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
