//! How often something may happen: `100/min`, `5/s, burst 20`, or `off`.
//!
//! Decides what a rate may look like and how its arithmetic cannot overflow. Never counts anything: `limit` does.

use std::{fmt, time::Duration};

use super::BadName;

/// So many in a while, and so many at once.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u32,
    unit: Unit,
    burst: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Unit {
    Second,
    Minute,
    Hour,
    Day,
}

/// What a rate may look like.
const BAD: BadName =
    BadName("a rate is `COUNT/s`, `COUNT/min`, `COUNT/h` or `COUNT/day`, then perhaps `, burst COUNT`");
/// The largest count.
const MOST: u32 = 1_000_000;
/// Longest time until a burst that was used up is there again.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

impl Rate {
    /// Parses a rate; `off` is none. Without a burst all of the count may come at once.
    pub fn parse(text: &str) -> Result<Option<Self>, BadName> {
        if text == "off" {
            return Ok(None);
        }
        let (often, burst) = match text.split_once(',') {
            Some((often, burst)) => (often.trim_end(), Some(burst.trim_start())),
            None => (text, None),
        };
        let (count, unit) = often.split_once('/').ok_or(BAD)?;
        let count = number(count)?;
        let unit = match unit {
            "s" => Unit::Second,
            "min" => Unit::Minute,
            "h" => Unit::Hour,
            "day" => Unit::Day,
            _ => return Err(BAD),
        };
        let burst = match burst {
            Some(burst) => number(burst.strip_prefix("burst ").ok_or(BAD)?.trim_start())?,
            None => count,
        };
        let rate = Self { count, unit, burst };
        if rate.interval().saturating_mul(burst) > LONGEST {
            return Err(BadName("a rate whose burst takes more than 30 days to come back is none"));
        }
        Ok(Some(rate))
    }

    /// How many in one window.
    pub fn count(self) -> u32 {
        self.count
    }

    /// The window that the count is for.
    pub fn window(self) -> Duration {
        Duration::from_secs(match self.unit {
            Unit::Second => 1,
            Unit::Minute => 60,
            Unit::Hour => 3_600,
            Unit::Day => 86_400,
        })
    }

    /// How many at once.
    pub fn burst(self) -> u32 {
        self.burst
    }

    /// The time after which one more may come.
    pub fn interval(self) -> Duration {
        self.window() / self.count
    }
}

fn number(text: &str) -> Result<u32, BadName> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| is_plain && (1..=MOST).contains(number));
    number.ok_or(BadName("a rate counts from 1 to 1000000; `off` is none"))
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Second => "s",
            Unit::Minute => "min",
            Unit::Hour => "h",
            Unit::Day => "day",
        };
        write!(f, "{}/{unit}", self.count)?;
        if self.burst == self.count { Ok(()) } else { write!(f, ", burst {}", self.burst) }
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<Option<&str>, ()>) {
        let found = Rate::parse(text).map(|rate| rate.map(|rate| rate.to_string())).map_err(drop);
        assert_eq!(found, expected.map(|rate| rate.map(str::to_owned)), "{text:?}");
    }

    #[test]
    fn a_rate_is_a_count_a_window_and_perhaps_a_burst() {
        check("off", Ok(None));
        check("100/min", Ok(Some("100/min")));
        check("5/s, burst 20", Ok(Some("5/s, burst 20")));
        check("5/s,burst 5", Ok(Some("5/s")));
        check("1/day", Ok(Some("1/day")));
        check("1000000/s", Ok(Some("1000000/s")));
        for bad in [
            "",
            "0/min",
            "100",
            "100/minute",
            "/min",
            "-1/s",
            "+1/s",
            "1.5/s",
            "1000001/s",
            "5/s, 20",
            "5/s, burst",
            "5/s, burst 0",
            "Off",
            " 5/s",
            "31/day, burst 1000",
            "1/day, burst 31",
        ] {
            check(bad, Err(()));
        }
    }

    #[test]
    fn the_time_between_two_follows_from_count_and_window() {
        let rate = Rate::parse("100/min, burst 7").unwrap().unwrap();
        assert_eq!((rate.count(), rate.burst(), rate.window()), (100, 7, Duration::from_secs(60)));
        assert_eq!(rate.interval(), Duration::from_millis(600));
    }
}
