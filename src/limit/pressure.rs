//! How late the workers are, and so which share of new requests is turned away.
//!
//! Decides from beats that somebody else counts: the time by which a task was woken too late. Never looks at a clock.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// Beats in a row that must be late before anything is turned away: one pause of the machine is no overload.
const PATIENCE: u32 = 3;
/// Of a thousand requests, how many more are turned away after each further late beat.
const STEP_UP: u32 = 100;
/// And how many fewer after each beat in time.
const STEP_DOWN: u32 = 50;
/// Some always pass, or nobody would notice that it is over.
const MOST: u32 = 950;
/// A number without a factor in common with a thousand: in its steps each of a thousand comes once.
const STRIDE: u32 = 389;

/// What share of requests is turned away.
#[derive(Debug, Default)]
pub struct Pressure {
    share: AtomicU32,
    turn: AtomicU32,
    late: AtomicU32,
}

impl Pressure {
    /// A beat has come, so much too late. More than `bound` is late; under half of it is in time again, and between the
    /// two everything stays as it is.
    pub fn beat(&self, lateness: Duration, bound: Duration) {
        let share = self.share.load(Ordering::Relaxed);
        if lateness > bound {
            let late = self.late.load(Ordering::Relaxed).saturating_add(1);
            self.late.store(late, Ordering::Relaxed);
            if late >= PATIENCE {
                self.share.store((share + STEP_UP).min(MOST), Ordering::Relaxed);
            }
            return;
        }
        self.late.store(0, Ordering::Relaxed);
        if lateness < bound / 2 {
            self.share.store(share.saturating_sub(STEP_DOWN), Ordering::Relaxed);
        }
    }

    /// Whether the next request is turned away.
    pub fn turns_away(&self) -> bool {
        let share = self.share.load(Ordering::Relaxed);
        share > 0 && self.turn.fetch_add(STRIDE, Ordering::Relaxed) % 1_000 < share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_millis(500);

    fn turned_away(pressure: &Pressure) -> usize {
        (0..1_000).filter(|_| pressure.turns_away()).count()
    }

    #[test]
    fn a_pause_of_the_machine_turns_nobody_away() {
        let pressure = Pressure::default();
        for _ in 0..100 {
            pressure.beat(Duration::from_secs(20), BOUND);
            pressure.beat(Duration::from_secs(20), BOUND);
            pressure.beat(Duration::ZERO, BOUND);
        }
        assert_eq!(turned_away(&pressure), 0);
    }

    #[test]
    fn lasting_lateness_turns_away_more_and_more_but_never_all() {
        let pressure = Pressure::default();
        let mut before = 0;
        for _ in 0..PATIENCE + 8 {
            pressure.beat(BOUND * 2, BOUND);
            let now = turned_away(&pressure);
            assert!(now >= before);
            before = now;
        }
        assert!((850..=950).contains(&before), "{before}");
        for _ in 0..100 {
            pressure.beat(BOUND * 2, BOUND);
        }
        assert!(turned_away(&pressure) < 1_000);
    }

    #[test]
    fn it_ends_step_by_step_once_the_workers_are_well_in_time() {
        let pressure = Pressure::default();
        for _ in 0..20 {
            pressure.beat(BOUND * 2, BOUND);
        }
        let most = turned_away(&pressure);
        pressure.beat(BOUND * 3 / 4, BOUND);
        assert_eq!(turned_away(&pressure), most, "half in time is no reason to begin anew");
        pressure.beat(BOUND / 4, BOUND);
        assert!(turned_away(&pressure) < most);
        for _ in 0..20 {
            pressure.beat(Duration::ZERO, BOUND);
        }
        assert_eq!(turned_away(&pressure), 0);
    }
}
