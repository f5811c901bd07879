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

use futures_util::{FutureExt, future::BoxFuture};
use http::request::Parts;
use pingora::proxy::Session;
use tracing::warn;

use super::{Limiting, told};
use crate::{
    gateway::{Gateway, decide::Step, journey::Journey},
    identity::Face,
    limit::Source,
    refusal::Refusal,
    route::Page,
};

/// Seconds between two log lines about balancers that nobody listed.
const QUIET: i64 = 600;

/// Says that an address has too many connections: where that is a balancer's, all callers have it.
pub(in crate::gateway) fn suspect_a_crowd(address: IpAddr) {
    static LAST: AtomicI64 = AtomicI64::new(0);
    if is_quiet_over(&LAST) {
        warn!(
            "a connection from `{address}` was closed, which has as many as `limits.connections_per_address` lets one address \
             have; if it is a load balancer, add it to `listen.balancers`, and if many share it, to `limits.unlimited_addresses`"
        );
    }
}

impl Gateway {
    /// Decides about a request, and counts it where it ends without anybody believed.
    pub(in crate::gateway) async fn decide_and_count(
        &self,
        session: &mut Session,
        journey: &mut Journey,
    ) -> Result<Step, Refusal> {
        let decided = self.decide(session, journey).await;
        if let Err(refusal) = &decided
            && journey.held.caller.is_none()
            && is_their_own(refusal)
        {
            Box::pin(self.count_stranger(journey)).await?;
        }
        decided
    }

    /// Helps somebody to sign in, whom nobody knows yet.
    pub(in crate::gateway) fn let_sign_in<'r>(
        &'r self,
        page: Page,
        session: &'r mut Session,
        journey: &'r mut Journey,
        sender: Option<IpAddr>,
    ) -> BoxFuture<'r, Result<Step, Refusal>> {
        let answered = async move {
            self.limiting.refuse_overload()?;
            self.refuse_stranger(journey, session.req_header(), Face::Page, sender)?;
            if let Some(source) = self.source(journey) {
                self.limiting.enter(&mut journey.held, &source)?;
            }
            let step = self.help_to_sign_in(page, session, journey).await?;
            self.count_stranger(journey).await?;
            Ok(step)
        };
        answered.boxed()
    }

    /// Refuses an address that has sent too much without a good credential, unless this one is known to be good.
    pub(in crate::gateway) fn refuse_stranger(
        &self,
        journey: &Journey,
        request: &Parts,
        face: Face,
        sender: Option<IpAddr>,
    ) -> Result<(), Refusal> {
        let Some(source) = self.source(journey) else { return Ok(()) };
        let (address, limits) = (source.address(), &self.limiting.limits);
        let Err(reached) = limits.foresee(&limits.of_stranger(&source), limits.now()) else { return Ok(()) };
        if self.identity.recognises(request, face, sender) {
            return Ok(());
        }
        let is_told = self.settings.addresses.is_trusted || sender != Some(address);
        if !is_told && request.headers.contains_key("x-forwarded-for") {
            suspect_a_balancer(address);
        }
        Err(told::refuse(reached))
    }

    /// Whom a request of nobody's is charged to: not a balancer that does not say whose it is, or one guesser behind it
    /// would shut out all the others.
    fn source(&self, journey: &Journey) -> Option<Source> {
        let address = journey.record.client?;
        (!self.settings.addresses.is_balancer(address)).then(|| Source::of(address))
    }

    /// Counts a request that ended without anybody believed. An answer that is over the limit becomes another one.
    async fn count_stranger(&self, journey: &Journey) -> Result<(), Refusal> {
        let Some(source) = self.source(journey) else { return Ok(()) };
        let limiting: &Limiting = &self.limiting;
        limiting.count(&limiting.limits.of_stranger(&source)).await.map(drop)
    }
}

/// Whether a refusal counts against the address it goes to: what fails on our side does not.
fn is_their_own(refusal: &Refusal) -> bool {
    refusal.code().status() < 500 && refusal.limit().is_none()
}

/// Behind a balancer that is not listed all callers have one address.
fn suspect_a_balancer(address: IpAddr) {
    static LAST: AtomicI64 = AtomicI64::new(0);
    if is_quiet_over(&LAST) {
        warn!(
            "too many requests without a good credential come from `{address}`, which sends `X-Forwarded-For`; if it is a load \
             balancer, add it to `listen.balancers`, and the addresses behind it are counted instead"
        );
    }
}

/// Whether the last line of a kind is long ago; then this one is the last.
fn is_quiet_over(last: &AtomicI64) -> bool {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(since.as_secs()).unwrap_or_default();
    let before = last.load(Ordering::Relaxed);
    now - before >= QUIET && last.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}
