//! When a peer is not called any more, and when it is tried again: a state that fits into one word of memory.
//!
//! Pure: an event and a time in, the next state out. Decides nothing about which peer is called instead (`course`).

use std::time::Duration;

/// So many failures in a row, without a good answer between them, and a peer is not called for a while.
const IN_A_ROW: u8 = 3;
/// The same where it could not even be reached.
const UNREACHED_IN_A_ROW: u8 = 2;
/// Failures weigh twice as much as good answers: a peer of whose calls more than a third fail reaches this in the end.
const TOO_MANY: u8 = 12;
/// First and longest time without calls after a peer could not be reached.
const UNREACHED: (u64, u64) = (250, 1_000);
/// The same after it was reached, and failed.
const SICK: (u64, u64) = (1_000, 30_000);
/// After so long without a failure the next one counts as the first.
const FORGOTTEN: u64 = 60_000;
/// So long after its time a peer is tried with anybody's call, although nobody has probed it.
const UNPROBED: u64 = 30_000;
/// So long a call that tries a peer is waited for before another may: it may hang for minutes at one that is well again.
const TRIAL: u64 = 10_000;
/// A call that tries a peer which answers probes will soon have an answer, too.
const SOON: u64 = 1_000;

/// What was wrong with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There was no connection to it.
    Unreached,
    /// It hung up on a request that it had.
    HungUp,
    /// What was due did not come.
    TooSlow,
    /// What came is no answer.
    NoAnswer,
    /// It said itself that it is broken, or what stands in front of it did.
    SaidSo,
}

impl Fault {
    /// The word in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Fault::Unreached => "it could not be reached",
            Fault::HungUp => "it hung up",
            Fault::TooSlow => "it did not answer in time",
            Fault::NoAnswer => "what it answered is no answer",
            Fault::SaidSo => "it answered that it is broken",
        }
    }
}

/// Whether a peer may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Yes.
    Good,
    /// Yes, by one call that tries it.
    ToBeTried,
    /// No, for so long.
    Shut(Duration),
}

/// What became of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing to speak of.
    None,
    /// The peer is called no more.
    Opened,
    /// It is called again.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It is called.
    Closed,
    /// It is not called for a while.
    Open,
    /// One call tries it (half-open).
    Trial,
}

/// The state of one peer: a circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    phase: Phase,
    /// Whether it was not reached, rather than reached and found broken.
    is_unreached: bool,
    /// A probe has had an answer since it was shut.
    is_cleared: bool,
    /// How often it was shut lately.
    times: u8,
    in_a_row: u8,
    weight: u8,
    /// Since when it is in this phase, in milliseconds on the clock of the process.
    since: u64,
}

impl Breaker {
    /// A peer of which nothing bad is known.
    pub const GOOD: Self = Self {
        phase: Phase::Closed,
        is_unreached: false,
        is_cleared: false,
        times: 0,
        in_a_row: 0,
        weight: 0,
        since: 0,
    };

    /// As one word.
    pub const fn to_bits(self) -> u64 {
        let phase = match self.phase {
            Phase::Closed => 0,
            Phase::Open => 1,
            Phase::Trial => 2,
        };
        phase
            | (self.is_unreached as u64) << 2
            | (self.is_cleared as u64) << 3
            | (self.times as u64) << 4
            | (self.in_a_row as u64) << 8
            | (self.weight as u64) << 12
            | self.since << 20
    }

    /// The state a word stands for.
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            phase: match bits & 3 {
                0 => Phase::Closed,
                1 => Phase::Open,
                _ => Phase::Trial,
            },
            is_unreached: bits & 4 != 0,
            is_cleared: bits & 8 != 0,
            times: (bits >> 4) as u8 & 15,
            in_a_row: (bits >> 8) as u8 & 15,
            weight: (bits >> 12) as u8,
            since: bits >> 20,
        }
    }

    /// Whether it is called like any other.
    pub fn is_closed(self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether it was found out of reach.
    pub fn is_out_of_reach(self) -> bool {
        self.is_unreached && !self.is_closed()
    }

    /// Whether it may be called. `is_last_resort` where there is no good one instead: then the calls that try it cannot be
    /// spared by waiting longer.
    pub fn standing(self, now: u64, is_last_resort: bool) -> Standing {
        let due = match self.phase {
            Phase::Closed => return Standing::Good,
            Phase::Open if is_last_resort => self.since + self.pause().min(self.limits().0),
            Phase::Open => self.since + self.pause(),
            // A trial that was never told of is one that is over.
            Phase::Trial => self.since + TRIAL,
        };
        if now < due {
            Standing::Shut(millis(due - now))
        } else if is_last_resort || self.is_cleared || now - due > UNPROBED {
            Standing::ToBeTried
        } else {
            Standing::Shut(millis(UNREACHED.1))
        }
    }

    /// Whether it is shut, but answers probes, so that it may soon be called.
    pub fn is_hopeful(self, now: u64) -> bool {
        match self.phase {
            Phase::Closed => false,
            Phase::Open => self.is_cleared,
            Phase::Trial => self.is_cleared && now.saturating_sub(self.since) < SOON,
        }
    }

    /// One call begins to try it.
    pub fn tried(self, now: u64) -> Self {
        Self { phase: Phase::Trial, since: now, ..self }
    }

    /// The call that tried it was given up, so nothing is known.
    pub fn untried(self, now: u64) -> Self {
        match self.phase {
            // So long ago that any pause is over: how long one is depends on when it began.
            Phase::Trial => {
                let since = now.saturating_sub(self.wait() * 6 / 5);
                Self { phase: Phase::Open, since, ..self }
            }
            Phase::Closed | Phase::Open => self,
        }
    }

    /// A call had a good answer. One that began before the peer was shut says nothing of it.
    pub fn succeeded(self, now: u64, is_trial: bool) -> (Self, Change) {
        match self.phase {
            Phase::Closed => {
                (Self { in_a_row: 0, weight: self.weight.saturating_sub(1), ..self }, Change::None)
            }
            Phase::Open | Phase::Trial if is_trial => (self.closed(now), Change::Closed),
            Phase::Open | Phase::Trial => (self, Change::None),
        }
    }

    /// A call failed.
    pub fn failed(self, now: u64, fault: Fault, is_trial: bool) -> (Self, Change) {
        match self.phase {
            Phase::Closed => {
                let in_a_row = (self.in_a_row + 1).min(15);
                let weight = self.weight.saturating_add(2).min(TOO_MANY);
                let most = if fault == Fault::Unreached { UNREACHED_IN_A_ROW } else { IN_A_ROW };
                if in_a_row < most && weight < TOO_MANY {
                    return (Self { in_a_row, weight, ..self }, Change::None);
                }
                let is_long_ago = now.saturating_sub(self.since) > FORGOTTEN;
                let times = if is_long_ago { 0 } else { self.times };
                (Self { times, ..self }.opened(now, fault), Change::Opened)
            }
            Phase::Open | Phase::Trial if is_trial => (self.opened(now, fault), Change::None),
            Phase::Open | Phase::Trial => (self, Change::None),
        }
    }

    /// A probe of our own had an answer, or none. One that is a real call says as much as a caller's does; another only
    /// that the peer is there.
    pub fn probed(self, now: u64, fault: Option<Fault>, is_real_call: bool) -> (Self, Change) {
        match (self.phase, fault) {
            (Phase::Closed, None) => (self, Change::None),
            (Phase::Closed, Some(fault)) => self.failed(now, fault, false),
            (_, None) if self.is_unreached || is_real_call => (self.closed(now), Change::Closed),
            (_, None) => (Self { is_cleared: true, ..self }, Change::None),
            (Phase::Open, Some(fault)) => {
                // What was sick and is gone is another process when it is back.
                let is_unreached = self.is_unreached || fault == Fault::Unreached;
                let shut = Self { is_unreached, is_cleared: false, ..self };
                let since = self.since.max((now + UNREACHED.0).saturating_sub(shut.pause()));
                (Self { since, ..shut }, Change::None)
            }
            (Phase::Trial, Some(_)) => (self, Change::None),
        }
    }

    fn closed(self, now: u64) -> Self {
        Self {
            phase: Phase::Closed,
            is_unreached: false,
            is_cleared: false,
            in_a_row: 0,
            weight: 0,
            since: now,
            times: self.times,
        }
    }

    fn opened(self, now: u64, fault: Fault) -> Self {
        Self {
            phase: Phase::Open,
            is_unreached: fault == Fault::Unreached,
            is_cleared: false,
            times: (self.times + 1).min(15),
            in_a_row: 0,
            weight: 0,
            since: now,
        }
    }

    /// First and longest time without calls.
    fn limits(self) -> (u64, u64) {
        if self.is_unreached { UNREACHED } else { SICK }
    }

    /// How long it is not called, about.
    fn wait(self) -> u64 {
        let (first, longest) = self.limits();
        (first << self.times.saturating_sub(1)).min(longest)
    }

    /// How long it is not called.
    fn pause(self) -> u64 {
        let wait = self.wait();
        // Between four fifths and six fifths of it, so that not all replicas try at once: their clocks differ.
        let jitter = self.since.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54;
        wait * 4 / 5 + wait * 2 / 5 * jitter / 1023
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn failing(fault: Fault, times: usize) -> Breaker {
        (0..times).fold(Breaker::GOOD, |breaker, _| breaker.failed(1_000, fault, false).0)
    }

    #[test]
    fn failures_in_a_row_shut_a_peer_and_a_good_answer_between_them_does_not_let_them() {
        for fault in [Fault::HungUp, Fault::TooSlow, Fault::NoAnswer, Fault::SaidSo] {
            assert!(failing(fault, 2).is_closed() && !failing(fault, 3).is_closed(), "{fault:?}");
        }
        assert!(failing(Fault::Unreached, 1).is_closed() && !failing(Fault::Unreached, 2).is_closed());
        let mut breaker = Breaker::GOOD;
        for _ in 0..7 {
            breaker = breaker.failed(0, Fault::HungUp, false).0;
            breaker = breaker.succeeded(0, false).0;
            breaker = breaker.succeeded(0, false).0;
        }
        assert!(breaker.is_closed(), "a third is not too many");
    }

    #[test]
    fn a_peer_of_whose_calls_half_fail_is_shut_in_the_end() {
        let mut breaker = Breaker::GOOD;
        for calls in 0.. {
            assert!(calls < 20, "still called");
            breaker = breaker.failed(0, Fault::TooSlow, false).0;
            if !breaker.is_closed() {
                break;
            }
            breaker = breaker.succeeded(0, false).0;
        }
    }

    /// How long it is not called from now on.
    fn shut_for(breaker: Breaker, now: u64, is_last_resort: bool) -> u64 {
        match breaker.standing(now, is_last_resort) {
            Standing::Shut(wait) => wait.as_millis() as u64,
            Standing::Good | Standing::ToBeTried => 0,
        }
    }

    /// This long, give or take what keeps replicas apart.
    fn is_about(wait: u64, millis: u64) -> bool {
        (millis * 4 / 5..=millis * 6 / 5).contains(&wait)
    }

    #[test]
    fn one_call_tries_a_sick_peer_after_its_time_and_decides() {
        let open = failing(Fault::HungUp, 3);
        assert!(is_about(shut_for(open, 1_000, true), 1_000));
        assert_eq!(open.standing(2_200, true), Standing::ToBeTried);
        assert_ne!(
            open.standing(2_200, false),
            Standing::ToBeTried,
            "others are good, and nobody has probed it"
        );
        assert!(!open.is_hopeful(1_500));
        let cleared = open.probed(1_500, None, false).0;
        assert!(!cleared.is_closed(), "the probe only shows that it is there");
        assert!(cleared.is_hopeful(1_500));
        assert_eq!(cleared.standing(2_200, false), Standing::ToBeTried);
        let trial = cleared.tried(2_200);
        assert_eq!(trial.standing(2_201, true), Standing::Shut(millis(TRIAL - 1)), "one at a time");
        assert!(trial.is_hopeful(2_201) && !trial.is_hopeful(2_200 + SOON), "a trial that hangs is no hope");
        assert_eq!(trial.standing(2_200 + TRIAL, true), Standing::ToBeTried, "one that was lost is over");
        assert_eq!(trial.succeeded(2_300, true).1, Change::Closed);
        assert_eq!(trial.succeeded(2_300, false), (trial, Change::None), "it began before");
        let again = trial.failed(2_300, Fault::TooSlow, true).0;
        assert!(is_about(shut_for(again, 2_300, false), 2_000), "for longer");
        assert_eq!(trial.untried(2_300).standing(2_300, true), Standing::ToBeTried);
    }

    #[test]
    fn a_peer_that_is_the_only_one_is_tried_again_after_its_first_time_however_often_it_failed() {
        let (mut breaker, mut now) = (failing(Fault::HungUp, 3), 1_000);
        for _ in 0..8 {
            now += 60_000;
            breaker = breaker.tried(now).failed(now, Fault::HungUp, true).0;
            assert!(shut_for(breaker, now, true) <= SICK.0);
        }
        assert!(
            is_about(shut_for(breaker, now, false), SICK.1),
            "where others are good, for its longest time"
        );
    }

    #[test]
    fn a_probe_that_is_answered_ends_it_where_the_peer_was_only_out_of_reach_or_was_really_called() {
        let unreached = failing(Fault::Unreached, 2);
        assert!(unreached.is_out_of_reach());
        assert_eq!(unreached.probed(1_001, None, false).1, Change::Closed);
        assert_eq!(failing(Fault::HungUp, 3).probed(1_001, None, true).1, Change::Closed);
        let probed = unreached.probed(2_000, Some(Fault::Unreached), false).0;
        assert!(is_about(shut_for(probed, 2_000, true), UNREACHED.0));
        let restarted = failing(Fault::HungUp, 3).probed(1_100, Some(Fault::Unreached), false).0;
        assert_eq!(restarted.probed(1_200, None, false).1, Change::Closed, "it is another process now");
    }

    #[test]
    fn who_failed_long_ago_is_shut_as_if_for_the_first_time() {
        let mut breaker = Breaker::GOOD;
        let mut now = 100_000;
        for (pause, expected) in [(0, 1_000), (0, 2_000), (61_000, 1_000)] {
            now += pause;
            for _ in 0..3 {
                breaker = breaker.failed(now, Fault::HungUp, false).0;
            }
            let wait = shut_for(breaker, now, false);
            assert!(is_about(wait, expected), "{wait} instead of {expected}");
            now += 10_000;
            breaker = breaker.tried(now).succeeded(now, true).0;
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_a_peer_is_tried_again_within_its_longest_time(
            events in prop::collection::vec((0..6_u8, 0..5_000_u64), 0..200)
        ) {
            let (mut breaker, mut now) = (Breaker::GOOD, 1_u64);
            for (event, pause) in events {
                now += pause;
                breaker = match event {
                    0 => breaker.failed(now, Fault::HungUp, true).0,
                    1 => breaker.failed(now, Fault::Unreached, false).0,
                    2 => breaker.succeeded(now, true).0,
                    3 if breaker.standing(now, true) == Standing::ToBeTried => breaker.tried(now),
                    4 => breaker.probed(now, None, false).0,
                    5 => breaker.probed(now, Some(Fault::TooSlow), false).0,
                    _ => {
                        let given_up = breaker.untried(now);
                        // Whoever comes next may try it at once, whenever that is.
                        if breaker.phase == Phase::Trial {
                            prop_assert!(!matches!(given_up.standing(now, true), Standing::Shut(_)));
                        }
                        given_up
                    }
                };
                prop_assert_eq!(Breaker::from_bits(breaker.to_bits()), breaker);
                let longest = SICK.1 * 6 / 5;
                prop_assert!(!matches!(breaker.standing(now + longest, true), Standing::Shut(_)));
                let unprobed = now + longest + UNPROBED + 1;
                prop_assert!(!matches!(breaker.standing(unprobed, false), Standing::Shut(_)));
            }
        }
    }
}
