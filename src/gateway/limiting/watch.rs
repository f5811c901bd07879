//! Turning requests away before everybody waits: when too many are in work, or the thread that serves them is too late.
//!
//! Decides for requests that somebody must be believed for. What is answered from memory to anybody, `/health` above all,
//! is never turned away, and what has begun goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Limiting, SOON};
use crate::{
    limit::pressure::Pressure,
    refusal::{Code, Refusal},
};

/// Time between two beats.
const BEAT: Duration = Duration::from_millis(50);

/// One thread that serves.
#[derive(Default)]
pub struct Watched {
    has_begun: AtomicBool,
    pressure: Arc<Pressure>,
}

impl Limiting {
    /// Refuses a request that there is no room for.
    pub fn refuse_overload(self: &Arc<Self>) -> Result<(), Refusal> {
        let thread = self.threads.get_or_default();
        // Begun here, because it has to run on the thread that requests run on.
        if !thread.has_begun.load(Ordering::Relaxed)
            && !thread.has_begun.swap(true, Ordering::Relaxed)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(watch(Arc::downgrade(self), thread.pressure.clone()));
        }
        let most = self.limits.settings().requests_in_work;
        if most > 0 {
            let in_work = self.metrics.requests_in_flight.get() - self.metrics.open_streams.get();
            if usize::try_from(in_work).unwrap_or_default() > most {
                return Err(overloaded());
            }
        }
        if thread.pressure.turns_away() { Err(overloaded()) } else { Ok(()) }
    }
}

/// Beats as long as there are limits, and says how late each beat was.
async fn watch(limiting: std::sync::Weak<Limiting>, pressure: Arc<Pressure>) {
    loop {
        let due = Instant::now() + BEAT;
        tokio::time::sleep_until(due.into()).await;
        let Some(limiting) = limiting.upgrade() else { return };
        let bound = limiting.limits.settings().lateness;
        let lateness = if bound.is_zero() { Duration::ZERO } else { due.elapsed() };
        pressure.beat(lateness, if bound.is_zero() { Duration::MAX } else { bound });
    }
}

fn overloaded() -> Refusal {
    let sentence = "the gateway has more to do than it can; try again soon";
    Refusal::new(Code::Overloaded, sentence).retry_after(SOON).limited("overload", None)
}
