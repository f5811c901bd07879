//! How slowly a client takes what is written to it.
//!
//! Decides when it is too slow: the framework bounds each write, so that a client which takes a few bytes now and then
//! could hold a call, its server's connection and what is buffered for ever. Never writes itself: `client` does.

use std::{
    io,
    task::Poll,
    time::{Duration, Instant},
};

use super::guard::Line;

/// The time a client owes.
#[derive(Debug)]
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

    /// A write came to this. One that a client took too slowly ends as if it had failed.
    pub fn note(&mut self, outcome: Poll<io::Result<usize>>, line: &Line) -> Poll<io::Result<usize>> {
        match &outcome {
            Poll::Pending => {
                if self.blocked.is_none() {
                    self.blocked = Some(Instant::now());
                    line.note_blocked(true);
                }
            }
            Poll::Ready(Ok(bytes)) => {
                if let Some(since) = self.blocked.take() {
                    self.owed += since.elapsed();
                    line.note_blocked(false);
                }
                if self.rate == 0 || self.owed.is_zero() {
                    self.owed = Duration::ZERO;
                    return outcome;
                }
                let paid = Duration::from_secs_f64(*bytes as f64 / self.rate as f64);
                self.owed = self.owed.saturating_sub(paid);
                if self.owed > self.patience {
                    line.note_slow();
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            Poll::Ready(Err(_)) => {}
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::gateway::guard::Forsaken;

    use super::*;

    #[test]
    fn who_takes_less_than_the_rate_runs_out_of_patience_and_who_takes_more_does_not() {
        let line = Line::new(Duration::from_secs(60), None, Forsaken { seats: Arc::default(), most: 1 });
        // Blocked for ten seconds before each write, against a patience of 30 and 100 bytes a second.
        let write = |taking: &mut Taking, bytes: usize| {
            taking.blocked = Instant::now().checked_sub(Duration::from_secs(10));
            matches!(taking.note(Poll::Ready(Ok(bytes)), &line), Poll::Ready(Ok(_)))
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
        assert!(taking.note(Poll::Pending, &line).is_pending());
        assert!(line.is_reader_slow(Duration::ZERO) && !line.is_reader_slow(Duration::from_secs(30)));
        let _ = taking.note(Poll::Ready(Ok(1)), &line);
        assert!(!line.is_reader_slow(Duration::ZERO));
    }
}
