//! A Redis in which replicas count together.
//!
//! Decides how a count stands there, and counts in one script, so that no two replicas can both take what is left for
//! one. Never decides what a limit is, or what happens while Redis is away: `gateway::limiting` does. The time is Redis'
//! own, because clocks of replicas differ.

use std::time::Duration;

use anyhow::{Context, ensure};
use redis::{AsyncConnectionConfig, Client, Script, aio::MultiplexedConnection};

use super::signed_out::trouble;
use crate::names::Secret;

/// How long a connection may take.
const CONNECTING: Duration = Duration::from_secs(1);

/// What a look is counted under. It is gone after a few milliseconds.
const LOOK: &str = "look";

/// The generic cell rate algorithm over all limits of one request at once: all of it passes, or nothing is counted.
///
/// A key holds the time (µs) at which its name would be at rest. One further ahead than a burst comes from another clock or
/// another limit, and counts as a whole burst.
const COUNT: &str = "
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local refused, longest, ahead = 0, 0, {}
for i = 1, #KEYS do
  local interval, burst, count = tonumber(ARGV[3*i-2]), tonumber(ARGV[3*i-1]), tonumber(ARGV[3*i])
  local rest = tonumber(redis.call('GET', KEYS[i]) or now) or now
  rest = math.min(math.max(rest, now), now + interval * burst)
  ahead[i] = rest - now + interval * count
  local wait = ahead[i] - interval * burst
  if wait > longest then refused, longest = i, wait end
end
if refused > 0 then return {refused, math.ceil(longest)} end
local answer = {0}
for i = 1, #KEYS do
  local interval, burst = tonumber(ARGV[3*i-2]), tonumber(ARGV[3*i-1])
  redis.call('SET', KEYS[i], string.format('%.2f', now + ahead[i]), 'PX', math.ceil(ahead[i] / 1000) + 1)
  answer[2*i] = math.floor(burst - ahead[i] / interval + 0.000001)
  answer[2*i+1] = math.ceil((ahead[i] - 1) % interval + 1)
end
return answer
";

/// One limit of a request.
#[derive(Debug)]
pub struct Cost {
    /// What it is counted under.
    pub name: String,
    /// The time after which one more may come.
    pub interval: Duration,
    /// How many at once.
    pub burst: u32,
    /// How many come.
    pub count: u32,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counted {
    /// It was counted; so many more could come at once, and after this time one more than that, by limit.
    Passed(Vec<(u32, Duration)>),
    /// Nothing was counted: the limit at this place, the one that takes longest, lets it pass after this time.
    Refused(usize, Duration),
}

/// A connection to it.
pub struct SharedCounts {
    connection: MultiplexedConnection,
    script: Script,
    key_prefix: String,
}

impl SharedCounts {
    /// Connects. Dropped, it is closed.
    pub async fn connect(url: &Secret<String>, key_prefix: &str) -> anyhow::Result<Self> {
        // What the crate says of a bad url may quote it, and there may be a password in it.
        let client = Client::open(url.expose().as_str()).ok().context("the url of Redis is not one")?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECTING))
            .set_response_timeout(Some(CONNECTING));
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        let connection = connection.await.map_err(|error| trouble(&error))?;
        Ok(Self { connection, script: Script::new(COUNT), key_prefix: key_prefix.to_owned() })
    }

    /// Whether it answers, has the script and lets it write: one that is full, or only another's copy, answers all the same.
    pub async fn look(&self) -> anyhow::Result<()> {
        let look =
            Cost { name: LOOK.to_owned(), interval: Duration::from_millis(1), burst: u32::MAX, count: 1 };
        self.count(&[look]).await.map(drop)
    }

    /// Counts a request under all its limits.
    pub async fn count(&self, costs: &[Cost]) -> anyhow::Result<Counted> {
        let mut call = self.script.prepare_invoke();
        for cost in costs {
            call.key(format!("{}:limit:{}", self.key_prefix, cost.name));
        }
        for cost in costs {
            call.arg(cost.interval.as_nanos() as f64 / 1_000.0).arg(cost.burst).arg(cost.count);
        }
        let mut connection = self.connection.clone();
        let answer: Vec<i64> = call.invoke_async(&mut connection).await.map_err(|error| trouble(&error))?;
        counted(&answer, costs.len()).context("an answer that the script does not give")
    }
}

fn counted(answer: &[i64], limits: usize) -> anyhow::Result<Counted> {
    let (first, rest) = answer.split_first().context("none")?;
    if *first == 0 {
        ensure!(rest.len() == 2 * limits, "another number of limits came back");
        let left = rest.chunks_exact(2).map(|left| {
            let next = Duration::from_micros(u64::try_from(left[1]).unwrap_or_default());
            (u32::try_from(left[0]).unwrap_or_default(), next)
        });
        return Ok(Counted::Passed(left.collect()));
    }
    let at = usize::try_from(*first - 1).ok().filter(|at| *at < limits).context("no such limit")?;
    let wait = rest.first().and_then(|micros| u64::try_from(*micros).ok()).context("no time")?;
    Ok(Counted::Refused(at, Duration::from_micros(wait)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_passes_with_what_is_left_or_refuses_with_a_time() {
        let left = vec![(9, Duration::from_micros(7)), (0, Duration::ZERO)];
        assert_eq!(counted(&[0, 9, 7, -1, -1], 2).unwrap(), Counted::Passed(left));
        assert_eq!(counted(&[2, 1_500], 2).unwrap(), Counted::Refused(1, Duration::from_micros(1_500)));
        for nonsense in [&[][..], &[0], &[0, 9, 7, 9], &[3, 1], &[-1, 1], &[1], &[1, -5]] {
            assert!(counted(nonsense, 2).is_err(), "{nonsense:?}");
        }
    }
}
