//! When the process is to end, and with it the streams that would stand as long as it does.
//!
//! Decides when each of the gateway's own standing streams ends: late in the time that is left, whole, and not all at
//! once, so that their clients do not come back all at once. Never ends a call.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use tokio::sync::watch;

/// The part of the time left, from its end, in which standing streams end.
const LAST_PART: f64 = 0.2;
/// The golden ratio: its multiples spread any number of streams evenly over that part.
const STEP: f64 = 0.618_033_988_749_895;

/// Tells standing streams when to end.
#[derive(Debug)]
pub struct Leaving {
    grace: Duration,
    began: watch::Sender<Option<Instant>>,
    next: AtomicU32,
}

impl Leaving {
    /// With this much time between the beginning and the end.
    pub fn new(grace: Duration) -> Self {
        Self { grace, began: watch::Sender::new(None), next: AtomicU32::new(0) }
    }

    /// The process is to end when the grace is over.
    pub fn begin(&self) {
        self.began.send_if_modified(|began| {
            let is_first = began.is_none();
            began.get_or_insert_with(Instant::now);
            is_first
        });
    }

    /// Returns when it is the turn of the stream that asks.
    pub async fn turn(&self) {
        let mut began = self.began.subscribe();
        // The sender is ours, so there is one.
        let Ok(Some(began)) = began.wait_for(Option::is_some).await.map(|began| *began) else {
            return std::future::pending().await;
        };
        let turn = self.wait(self.next.fetch_add(1, Ordering::Relaxed));
        tokio::time::sleep_until((began + turn).into()).await;
    }

    /// How long after the beginning the stream of this number ends.
    fn wait(&self, number: u32) -> Duration {
        let share = (f64::from(number) * STEP).fract();
        self.grace.mul_f64(1.0 - LAST_PART + share * LAST_PART * 0.8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standing_streams_end_one_after_the_other_before_the_grace_does() {
        let leaving = Leaving::new(Duration::from_secs(100));
        let mut turns: Vec<_> = (0..100).map(|number| leaving.wait(number)).collect();
        turns.sort();
        assert!(turns[0] >= Duration::from_secs(80) && turns[99] < Duration::from_secs(97), "{turns:?}");
        let gap = turns.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(gap < Duration::from_millis(500), "{gap:?}");
    }

    #[tokio::test]
    async fn a_stream_stands_until_the_end_has_begun() {
        let leaving = Leaving::new(Duration::ZERO);
        let is_waiting = tokio::select! {
            biased;
            () = leaving.turn() => false,
            () = tokio::task::yield_now() => true,
        };
        assert!(is_waiting);
        leaving.begin();
        leaving.turn().await;
    }
}
