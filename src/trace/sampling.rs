//! Whether a request is traced: because who sent it is, or by the gateway's own dice.
//!
//! Decides how far a caller is followed. Whoever may call may say `sampled`, so what is traced for that reason alone is
//! bounded; past the bound the dice decide, as they do for everybody who says nothing. The dice are our own: a trace's id
//! is the caller's to choose.

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::Context;
use crate::names::Rate;

/// Whose word counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// Who sends a request that belongs to a trace decides, within bounds.
    Parent,
    /// The dice alone decide.
    Own,
}

/// What is traced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// The share of requests that are traced, from 0 to 1.
    pub ratio: f64,
    /// Whose word counts.
    pub follow: Follow,
    /// How many are traced because a caller said so; none: as many as do.
    pub followed: Option<Rate>,
}

/// Decides, request by request.
#[derive(Debug)]
pub struct Sampler {
    settings: Settings,
    bound: Option<DefaultDirectRateLimiter>,
}

impl Sampler {
    /// Decides by these settings.
    pub fn new(settings: Settings) -> Self {
        let quota = |rate: Rate| {
            let burst = std::num::NonZeroU32::new(rate.burst())?;
            Some(Quota::with_period(rate.interval())?.allow_burst(burst))
        };
        Self { settings, bound: settings.followed.and_then(quota).map(RateLimiter::direct) }
    }

    /// Whether a request is traced that says this of itself; `dice` is any number.
    pub fn decide(&self, said: Option<&Context>, dice: u64) -> bool {
        match (self.settings.follow, said) {
            (Follow::Parent, Some(said)) if !said.is_sampled => false,
            (Follow::Parent, Some(_)) => self.has_room() || self.throw(dice),
            (Follow::Parent, None) | (Follow::Own, _) => self.throw(dice),
        }
    }

    fn has_room(&self) -> bool {
        self.bound.as_ref().is_none_or(|bound| bound.check().is_ok())
    }

    fn throw(&self, dice: u64) -> bool {
        // The last few of 2^64 numbers are told apart by nobody.
        self.settings.ratio >= 1.0 || (dice as f64) < self.settings.ratio * (u64::MAX as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(flags: &str) -> Option<Context> {
        let text = format!("00-{}-{}-{flags}", "1".repeat(32), "2".repeat(16));
        Some(Context::parse(text.as_bytes()).unwrap())
    }

    fn sampler(ratio: f64, follow: Follow, followed: &str) -> Sampler {
        Sampler::new(Settings { ratio, follow, followed: Rate::parse(followed).unwrap() })
    }

    #[test]
    fn the_dice_decide_about_those_who_say_nothing() {
        let half = sampler(0.5, Follow::Parent, "off");
        assert!(
            half.decide(None, 0) && half.decide(None, u64::MAX / 2 - 4096) && !half.decide(None, u64::MAX)
        );
        assert!(!sampler(0.0, Follow::Parent, "off").decide(None, 0));
        assert!(sampler(1.0, Follow::Parent, "off").decide(None, u64::MAX));
    }

    #[test]
    fn who_is_traced_is_followed_and_who_is_not_is_not() {
        let never = sampler(0.0, Follow::Parent, "off");
        assert!(never.decide(said("01").as_ref(), u64::MAX));
        let always = sampler(1.0, Follow::Parent, "off");
        assert!(!always.decide(said("00").as_ref(), 0));
    }

    #[test]
    fn nobody_is_followed_where_only_the_dice_count() {
        assert!(!sampler(0.0, Follow::Own, "off").decide(said("01").as_ref(), 0));
        assert!(sampler(1.0, Follow::Own, "off").decide(said("00").as_ref(), 0));
    }

    #[test]
    fn callers_who_want_to_be_traced_are_followed_so_often_and_then_the_dice_decide() {
        let bounded = sampler(0.0, Follow::Parent, "1/day, burst 3");
        let followed = (0..10).filter(|_| bounded.decide(said("01").as_ref(), 0)).count();
        assert_eq!(followed, 3);
        let all = sampler(1.0, Follow::Parent, "1/day");
        assert!((0..10).all(|_| all.decide(said("01").as_ref(), u64::MAX)));
    }
}
