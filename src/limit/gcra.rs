//! Whether one more may come now: the generic cell rate algorithm of the crate `governor`, on the table's times.
//!
//! Decides by a rate, the time a name stands at and the time it is. Never waits and reads no clock: the time is given.

use std::{cell::Cell, num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter, clock::Clock, middleware::StateInformationMiddleware, nanos::Nanos, state::StateStore,
};

use super::table::{Key, Table};
use crate::names::Rate;

/// What is left after one was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// How many more could come at once.
    pub more: u32,
    /// After how long there is one more than that.
    pub next: Duration,
}

/// Why one may not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Over {
    /// It may after this time, if nobody else comes first.
    Until(Duration),
    /// So many at once never may.
    Never,
}

/// The time stands still while a decision is made: the present is 0, and times before it do not count.
struct Present;

impl Clock for Present {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(0)
    }
}

/// The table as `governor` sees it at one moment.
struct At<'t> {
    table: &'t Table,
    now: u64,
    /// How far ahead of the present a name can be.
    most: u64,
    /// Whether a decision is noted, or only asked for.
    is_noted: bool,
    /// How far ahead of the present the name stands after it.
    ahead: Cell<u64>,
}

impl StateStore for At<'_> {
    type Key = Key;

    fn measure_and_replace<T, F, E>(&self, key: &Key, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let decide = |until: Option<u64>| {
            let ahead = until.and_then(|until| until.checked_sub(self.now));
            // Further ahead than a burst is who was counted by another rate before.
            let ahead = ahead.map(|ahead| Nanos::new(ahead.min(self.most)));
            let (outcome, next) = decide(ahead)?;
            self.ahead.set(next.as_u64());
            Ok((outcome, self.now.saturating_add(next.as_u64())))
        };
        if self.is_noted {
            return self.table.update(*key, decide);
        }
        decide(self.table.get(*key)).map(|(outcome, _)| outcome)
    }
}

/// Lets so many come at once, or none of them.
pub fn take(table: &Table, key: Key, rate: Rate, count: u32, now: u64) -> Result<Left, Over> {
    ask(At { table, now, most: most(rate), is_noted: true, ahead: Cell::new(0) }, key, rate, count)
}

/// What [`take`] would say, without anybody having come.
pub fn foresee(table: &Table, key: Key, rate: Rate, count: u32, now: u64) -> Result<Left, Over> {
    ask(At { table, now, most: most(rate), is_noted: false, ahead: Cell::new(0) }, key, rate, count)
}

/// Undoes a [`take`]: as if they had not come.
pub fn give_back(table: &Table, key: Key, rate: Rate, count: u32) {
    table.lower(key, nanos(rate.interval()).saturating_mul(count.into()));
}

fn ask(at: At<'_>, key: Key, rate: Rate, count: u32) -> Result<Left, Over> {
    let count = NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
    let limiter = RateLimiter::<_, _, _, StateInformationMiddleware>::new(quota(rate), at, Present);
    match limiter.check_key_n(&key, count) {
        Ok(Ok(state)) => {
            let (ahead, interval) = (limiter.into_state_store().ahead.get(), nanos(rate.interval()));
            // The name comes to a whole number of intervals after what is over it.
            let next = match ahead % interval {
                0 => interval,
                over => over,
            };
            Ok(Left { more: state.remaining_burst_capacity(), next: Duration::from_nanos(next) })
        }
        Ok(Err(not_until)) => Err(Over::Until(not_until.wait_time_from(Nanos::new(0)))),
        Err(_) => Err(Over::Never),
    }
}

fn most(rate: Rate) -> u64 {
    nanos(rate.interval()).saturating_mul(rate.burst().into())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn quota(rate: Rate) -> Quota {
    let burst = NonZeroU32::new(rate.burst()).unwrap_or(NonZeroU32::MIN);
    // A rate's interval is never zero: its parser sees to that.
    let quota = Quota::with_period(rate.interval()).unwrap_or(Quota::per_second(NonZeroU32::MIN));
    quota.allow_burst(burst)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(text: &str) -> Rate {
        Rate::parse(text).unwrap().unwrap()
    }

    #[test]
    fn a_burst_passes_the_next_waits_and_passes_after_the_time_it_was_told() {
        let (table, rate) = (Table::new(8), rate("100/min"));
        let key = table.key(&[b"ann"]);
        let mut now = 5 * SECOND;
        for left in (0..100).rev() {
            assert_eq!(take(&table, key, rate, 1, now).unwrap().more, left);
        }
        assert_eq!(take(&table, key, rate, 1, now), Err(Over::Until(Duration::from_millis(600))));
        now += SECOND / 10;
        let refused = take(&table, key, rate, 1, now);
        assert_eq!(refused, Err(Over::Until(Duration::from_millis(500))), "a refusal costs nothing");
        now += SECOND / 2 - 1;
        assert!(take(&table, key, rate, 1, now).is_err());
        assert_eq!(take(&table, key, rate, 1, now + 1).unwrap().more, 0);
    }

    #[test]
    fn several_at_once_pass_together_or_not_at_all() {
        let (table, rate) = (Table::new(8), rate("10/s"));
        let key = table.key(&[b"ann"]);
        assert_eq!(take(&table, key, rate, 11, SECOND), Err(Over::Never));
        assert_eq!(take(&table, key, rate, 8, SECOND).unwrap().more, 2);
        assert_eq!(take(&table, key, rate, 3, SECOND), Err(Over::Until(Duration::from_millis(100))));
        assert_eq!(foresee(&table, key, rate, 2, SECOND).unwrap().more, 0);
        assert_eq!(take(&table, key, rate, 2, SECOND).unwrap().more, 0);
        give_back(&table, key, rate, 8);
        assert_eq!(foresee(&table, key, rate, 8, SECOND).unwrap().more, 0);
        assert!(foresee(&table, key, rate, 9, SECOND).is_err());
    }

    #[test]
    fn what_comes_next_comes_when_it_was_said() {
        let (table, rate) = (Table::new(8), rate("10/s"));
        let key = table.key(&[b"ann"]);
        assert_eq!(take(&table, key, rate, 1, SECOND).unwrap().next, Duration::from_millis(100));
        let left = take(&table, key, rate, 1, SECOND + 30_000_000).unwrap();
        assert_eq!((left.more, left.next), (8, Duration::from_millis(70)));
        assert_eq!(foresee(&table, key, rate, 1, SECOND + 100_000_001).unwrap().more, 8);
    }

    proptest! {
        /// Whatever comes when: no more than the burst and what the time has brought, and what is refused is told truly.
        #[test]
        fn never_more_than_the_burst_and_what_time_brings(
            steps in proptest::collection::vec((0_u64..2 * SECOND, 1_u32..6), 1..60), burst in 1_u32..20
        ) {
            let rate = rate(&format!("5/s, burst {burst}"));
            let table = Table::new(8);
            let key = table.key(&[b"ann"]);
            let (start, mut now, mut passed) = (SECOND, SECOND, 0_u64);
            for (pause, count) in steps {
                now += pause;
                match take(&table, key, rate, count, now) {
                    Ok(left) => {
                        passed += u64::from(count);
                        prop_assert!(left.more <= burst);
                    }
                    Err(Over::Never) => prop_assert!(count > burst),
                    Err(Over::Until(wait)) => {
                        let then = now + nanos(wait);
                        prop_assert!(foresee(&table, key, rate, count, then - 1).is_err());
                        prop_assert!(foresee(&table, key, rate, count, then).is_ok());
                    }
                }
                prop_assert!(passed * SECOND <= u64::from(burst) * SECOND + (now - start) * 5);
            }
        }

        /// Taking and giving back leaves what was there.
        #[test]
        fn what_is_given_back_was_never_taken(before in 0_u32..8, count in 1_u32..8) {
            let (rate, table) = (rate("8/s"), Table::new(8));
            let key = table.key(&[b"ann"]);
            if before > 0 { take(&table, key, rate, before, SECOND).unwrap(); }
            let left = foresee(&table, key, rate, 1, SECOND);
            if take(&table, key, rate, count, SECOND).is_ok() { give_back(&table, key, rate, count); }
            prop_assert_eq!(foresee(&table, key, rate, 1, SECOND), left);
        }
    }
}
