//! How slowly a client takes what is written to it.
//!
//! Decides when it is too slow: the framework bounds each write, so that a client which takes a few bytes now and then
//! could hold a call, its server's connection and what is buffered for ever. Never writes itself: `client` and `stream` do.

use std::time::{Duration, Instant};

use super::line::Line;

/// The time a client owes.
#[derive(Debug, Clone)]
pub struct Taking {
    /// How much may be owed.
    patience: Duration,
    /// Bytes a second by which it is paid back; 0: nobody asks.
    rate: u64,
    owed: Duration,
    blocked: Option<Instant>,
}

impl Taking {
    /// A client that may make us wait for so long, and for a second more with every `rate` bytes it takes.
    pub fn new(patience: Duration, rate: u64) -> Self {
        Self { patience, rate, owed: Duration::ZERO, blocked: None }
    }

    /// Bytes that a client at the lowest rate takes in half of its patience.
    pub fn in_half_its_time(&self) -> u64 {
        self.patience.as_secs().saturating_mul(self.rate) / 2
    }

    /// A write waits for the client.
    pub fn wait(&mut self, line: &Line) {
        if self.blocked.is_none() {
            self.blocked = Some(Instant::now());
            line.note_blocked(true);
        }
    }

    /// The client has taken so many bytes: whether that was fast enough.
    pub fn took(&mut self, bytes: usize, line: &Line) -> bool {
        if let Some(since) = self.blocked.take() {
            self.owed += since.elapsed();
            line.note_blocked(false);
        }
        if self.rate == 0 || self.owed.is_zero() {
            self.owed = Duration::ZERO;
            return true;
        }
        let paid = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        self.owed = self.owed.saturating_sub(paid);
        if self.owed > self.patience {
            line.note_slow();
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::gateway::seats::Forsaken;

    use super::*;

    #[test]
    fn who_takes_less_than_the_rate_runs_out_of_patience_and_who_takes_more_does_not() {
        let line = Line::new(Duration::from_secs(60), None, Forsaken { seats: Arc::default(), most: 1 });
        // Blocked for ten seconds before each write, against a patience of 30 and 100 bytes a second.
        let write = |taking: &mut Taking, bytes: usize| {
            taking.blocked = Instant::now().checked_sub(Duration::from_secs(10));
            taking.took(bytes, &line)
        };
        let taking = || Taking::new(Duration::from_secs(30), 100);
        let mut slow = taking();
        assert_eq!([0, 1, 2, 3].map(|_| write(&mut slow, 1)), [true, true, true, false]);
        assert!(line.is_reader_slow(Duration::from_secs(60)));
        line.settle();
        let mut fast = taking();
        assert!((0..100).all(|_| write(&mut fast, 1_100)));
        let mut unbounded = Taking::new(Duration::from_secs(30), 0);
        assert!((0..100).all(|_| write(&mut unbounded, 1)));
        assert!(!line.is_reader_slow(Duration::from_secs(60)));
    }

    #[test]
    fn a_write_that_is_blocked_is_slow_once_its_time_is_over() {
        let line = Line::new(Duration::from_secs(60), None, Forsaken { seats: Arc::default(), most: 1 });
        let mut taking = Taking::new(Duration::from_secs(30), 100);
        taking.wait(&line);
        assert!(line.is_reader_slow(Duration::ZERO) && !line.is_reader_slow(Duration::from_secs(30)));
        assert!(taking.took(1, &line));
        assert!(!line.is_reader_slow(Duration::ZERO));
    }
}
