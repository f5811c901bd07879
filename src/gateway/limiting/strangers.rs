//! Requests that nobody is believed to have sent: counted by the address they come from.
//!
//! Decides who is asked for a credential at all: an address that sent too many requests without a good one is answered
//! before any signature is checked, but for credentials that were believed before. Who is believed costs the address
//! nothing, so that one address may be that of ten thousand users.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicI64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use http::request::Parts;
use tracing::warn;

use super::{Limiting, told};
use crate::{
    gateway::{Gateway, journey::Journey},
    identity::Face,
    limit::Source,
    refusal::Refusal,
};

/// Seconds between two log lines about balancers that nobody listed.
const QUIET: i64 = 600;

impl Gateway {
    /// Refuses an address that has sent too much without a good credential, unless this one is known to be good.
    pub(in crate::gateway) fn refuse_stranger(
        &self,
        journey: &Journey,
        request: &Parts,
        face: Face,
        sender: Option<IpAddr>,
    ) -> Result<(), Refusal> {
        let Some(address) = journey.record.client else { return Ok(()) };
        let source = Source::of(address);
        let limits = &self.limiting.limits;
        let Err(reached) = limits.foresee(&limits.of_stranger(&source), limits.now()) else { return Ok(()) };
        if self.identity.recognises(request, face, sender) {
            return Ok(());
        }
        if request.headers.contains_key("x-forwarded-for") && !self.settings.addresses.is_balancer(address) {
            suspect_a_balancer(address);
        }
        Err(told::refuse(reached))
    }

    /// Counts a request that ended without anybody believed. An answer that is over the limit becomes another one.
    pub(in crate::gateway) async fn count_stranger(&self, journey: &Journey) -> Result<(), Refusal> {
        let Some(address) = journey.record.client else { return Ok(()) };
        let source = Source::of(address);
        let limiting: &Limiting = &self.limiting;
        limiting.count(&limiting.limits.of_stranger(&source)).await.map(drop)
    }
}

/// Behind a balancer that is not listed all callers have one address.
fn suspect_a_balancer(address: IpAddr) {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(since.as_secs()).unwrap_or_default();
    let last = LAST.load(Ordering::Relaxed);
    if now - last >= QUIET && LAST.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        warn!(
            "too many requests without a good credential come from `{address}`, which sends `X-Forwarded-For`; if it is a load \
             balancer, add it to `listen.balancers`, and the addresses behind it are counted instead"
        );
    }
}
