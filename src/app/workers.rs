//! The threads that serve the public listener: each with a runtime, connections and a pool of servers' connections of
//! its own.
//!
//! Decides which thread a connection belongs to: the one that has the fewest. It stays there, so that nothing of a call
//! crosses from one thread to another; waking another thread is what a call would pay most for.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use pingora::{apps::HttpServerApp, server::ShutdownWatch};
use tokio::{
    net::TcpStream,
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
};
use tracing::warn;

use super::{door::Host, watchdog::Pulse};
use crate::gateway::guard::{Gate, Guard};

/// How long the threads may take to drop what still runs on them.
const LAST_DROPS: Duration = Duration::from_secs(2);
/// Between two looks whether they have.
const LOOK: Duration = Duration::from_millis(5);

/// A connection on its way to its thread.
struct Arrival {
    socket: std::net::TcpStream,
    peer: SocketAddr,
    leaving: ShutdownWatch,
    place: Place,
}

/// A connection among those of its thread, until dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All of them.
pub struct Workers<A> {
    workers: Vec<Worker<A>>,
    /// Where the search for the one with the fewest connections begins.
    turn: AtomicUsize,
    end: watch::Sender<bool>,
}

struct Worker<A> {
    arrivals: mpsc::UnboundedSender<Arrival>,
    open: Arc<AtomicUsize>,
    guard: Arc<OnceLock<Arc<Guard<A>>>>,
    thread: JoinHandle<()>,
}

impl<A: HttpServerApp + Send + Sync + 'static> Workers<A> {
    /// Starts a thread for each pulse. Each makes the app inside for itself.
    pub fn start(
        gate: &Gate,
        pulses: Vec<Arc<Pulse>>,
        make: impl Fn() -> A + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let (end, ends) = watch::channel(false);
        let workers = pulses.into_iter().enumerate().map(|(index, pulse)| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (arrivals, arriving) = mpsc::unbounded_channel();
            let (guard, open) = (Arc::<OnceLock<_>>::default(), Arc::default());
            let (known, gate, make, ends) = (guard.clone(), gate.clone(), make.clone(), ends.clone());
            let work = move || {
                let guard = known.get_or_init(|| Arc::new(Guard::new(make(), gate)));
                work(runtime, guard, arriving, &pulse, ends);
            };
            let thread = thread::Builder::new().name(format!("gateway {index}")).spawn(work)?;
            Ok(Worker { arrivals, open, guard, thread })
        });
        let workers = workers.collect::<io::Result<_>>()?;
        Ok(Self { workers, turn: AtomicUsize::new(0), end })
    }

    /// Whether no connection is open, nor on its way to its thread.
    pub fn have_nothing(&self) -> bool {
        self.workers.iter().all(|worker| worker.open.load(Ordering::Relaxed) == 0)
    }

    /// Closes the connections that wait for a request.
    pub async fn close_idle(&self) {
        for guard in self.workers.iter().filter_map(|worker| worker.guard.get()) {
            guard.close_idle().await;
        }
    }

    /// Ends the threads, and drops what still runs on them: records of what is cut are written before this returns.
    pub async fn end(&self) {
        self.end.send_replace(true);
        let began = Instant::now();
        while !self.workers.iter().all(|worker| worker.thread.is_finished()) {
            if began.elapsed() > LAST_DROPS {
                return warn!("a thread that serves does not end: what runs on it is cut without its record");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn freest(&self) -> Option<&Worker<A>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        freest(&self.workers, turn, |worker| match worker.arrivals.is_closed() {
            // It has ended before its time: it has none, and must not be given all.
            true => usize::MAX,
            false => worker.open.load(Ordering::Relaxed),
        })
    }
}

impl<A: HttpServerApp + Send + Sync + 'static> Host for Workers<A> {
    fn welcome(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr, leaving: &ShutdownWatch) {
        // It was registered with the runtime of whoever accepted it. One that cannot be given away is closed.
        let (Some(worker), Ok(socket)) = (self.freest(), socket.into_std()) else { return };
        let place = Place::take(&worker.open);
        // Refused by a thread that has ended, and closed with it.
        drop(worker.arrivals.send(Arrival { socket, peer, leaving: leaving.clone(), place }));
    }
}

/// The one with the fewest connections. Of several with as few, each has its turn.
fn freest<W>(workers: &[W], turn: usize, open: impl Fn(&W) -> usize) -> Option<&W> {
    let (before, from) = workers.split_at(turn % workers.len().max(1));
    from.iter().chain(before).min_by_key(|worker| open(worker))
}

/// Serves what arrives until it is told to end, and then drops what still runs.
fn work<A: HttpServerApp + Send + Sync + 'static>(
    runtime: Runtime,
    guard: &Arc<Guard<A>>,
    mut arriving: mpsc::UnboundedReceiver<Arrival>,
    pulse: &Pulse,
    mut ends: watch::Receiver<bool>,
) {
    runtime.block_on(async {
        let serve = async {
            while let Some(Arrival { socket, peer, leaving, place }) = arriving.recv().await {
                let Ok(socket) = TcpStream::from_std(socket) else { continue };
                let guard = guard.clone();
                tokio::spawn(async move {
                    guard.serve(socket, peer, &leaving).await;
                    drop(place);
                });
            }
        };
        tokio::select! {
            // Whoever could send is gone, or says so.
            () = serve => {}
            _ = ends.wait_for(|ends| *ends) => {}
            () = pulse.beat() => {}
        }
    });
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nobody_is_given_anything_where_there_is_nobody() {
        assert!(freest(&[] as &[usize], 7, |open| *open).is_none());
    }

    proptest! {
        #[test]
        fn connections_are_spread_evenly_whoever_leaves(
            threads in 1_usize..9, leaves in prop::collection::vec(any::<prop::sample::Index>(), 0..200)
        ) {
            let open: Vec<Cell<usize>> = vec![Cell::new(0); threads];
            for (turn, leaves) in leaves.iter().enumerate() {
                let least = open.iter().map(Cell::get).min().unwrap();
                let taken = freest(&open, turn, Cell::get).unwrap();
                prop_assert_eq!(taken.get(), least);
                taken.set(taken.get() + 1);
                // Every other time somebody leaves somewhere.
                let left = leaves.get(&open);
                if turn % 2 == 1 && left.get() > 0 {
                    left.set(left.get() - 1);
                }
            }
        }

        #[test]
        fn of_idle_threads_each_has_its_turn(threads in 1_usize..9, turn in any::<usize>()) {
            let workers: Vec<usize> = (0..threads).collect();
            prop_assert_eq!(freest(&workers, turn, |_| 0), workers.get(turn % threads));
        }
    }
}
