//! What clients are told of limits: `429`, `Retry-After`, `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10).
//!
//! Decides the sentences and the headers' forms. A server's own `RateLimit` headers pass through untouched.

use std::fmt::Write;

use http::HeaderMap;
use pingora::http::ResponseHeader;

use crate::{
    limit::{Kind, Over, Reached, Tightest},
    refusal::{Code, Quota, Refusal, whole_secs},
};

const POLICY: &str = "ratelimit-policy";
const LIMIT: &str = "ratelimit";

/// The refusal of what is over a limit.
pub(super) fn refuse(reached: Reached) -> Refusal {
    let Reached { kind, rate, over } = reached;
    let next = match over {
        Over::Until(wait) => wait,
        // Never all at once: what helps is not to wait.
        Over::Never => rate.interval().saturating_mul(rate.burst()),
    };
    let sentence = match (over, kind) {
        (Over::Never, _) => format!("this makes more calls at once than the {} that are allowed; send fewer", rate.burst()),
        (_, Kind::Caller) => format!("you may make {rate} tool calls; wait as `Retry-After` says"),
        (_, Kind::Server) => format!("all callers together may make {rate} calls of this server; wait as `Retry-After` says"),
        (_, Kind::Tool) => format!("you may make {rate} calls of this tool; wait as `Retry-After` says"),
        (_, Kind::Address) => {
            "too many requests without a credential that is believed came from your address; wait as `Retry-After` says"
                .to_owned()
        }
    };
    let quota = Quota { name: kind.as_str(), count: rate.count(), window: rate.window(), left: 0, next };
    Refusal::new(Code::TooManyRequests, sentence).retry_after(next).limited(kind.as_str(), Some(quota))
}

impl From<Tightest> for Quota {
    fn from(Tightest { kind, rate, left }: Tightest) -> Self {
        Self {
            name: kind.as_str(),
            count: rate.count(),
            window: rate.window(),
            left: left.more,
            next: left.next,
        }
    }
}

/// Puts on an answer what a limit leaves, unless the server has said so of itself.
pub fn mark(header: &mut ResponseHeader, quota: Option<Quota>) -> pingora::Result<()> {
    let Some(quota) = quota.filter(|_| !speaks_of_limits(&header.headers)) else { return Ok(()) };
    let Quota { name, count, window, left, next } = quota;
    let mut text = String::with_capacity(40);
    // Writing to a string cannot fail.
    let _ = write!(text, "\"{name}\";q={count};w={}", window.as_secs());
    header.insert_header(POLICY, &text)?;
    text.clear();
    let _ = write!(text, "\"{name}\";r={left};t={}", whole_secs(next));
    header.insert_header(LIMIT, &text)
}

fn speaks_of_limits(headers: &HeaderMap) -> bool {
    headers.contains_key(LIMIT) || headers.contains_key(POLICY)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::names::Rate;

    fn reached(over: Over) -> Refusal {
        let rate = Rate::parse("100/min, burst 20").unwrap().unwrap();
        refuse(Reached { kind: Kind::Caller, rate, over })
    }

    #[test]
    fn a_refusal_tells_the_limit_and_when_to_come_again() {
        let refusal = reached(Over::Until(Duration::from_millis(1_200)));
        assert_eq!((refusal.code(), refusal.retry_after_secs()), (Code::TooManyRequests, Some(2)));
        let mut header = ResponseHeader::build(429, None).unwrap();
        mark(&mut header, refusal.limit().unwrap().quota).unwrap();
        assert_eq!(header.headers[POLICY], "\"caller\";q=100;w=60");
        assert_eq!(header.headers[LIMIT], "\"caller\";r=0;t=2");
        assert_eq!(reached(Over::Never).retry_after_secs(), Some(12));
    }

    #[test]
    fn what_a_server_says_of_its_own_limits_stays() {
        let mut header = ResponseHeader::build(200, None).unwrap();
        header.insert_header(LIMIT, "\"its-own\";r=5").unwrap();
        mark(&mut header, reached(Over::Until(Duration::ZERO)).limit().unwrap().quota).unwrap();
        assert_eq!(header.headers[LIMIT], "\"its-own\";r=5");
        assert!(!header.headers.contains_key(POLICY));
    }
}
