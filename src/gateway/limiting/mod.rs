//! Where limits meet requests: what is counted when, in this process or with the other replicas, and what is told.
//!
//! Decides the order (nothing is counted that is refused for another reason) and the answers. How much is too much,
//! `limit` decides. Waits for one thing: a Redis that is configured, and no longer than its deadline.

mod shared;
mod strangers;
mod told;
mod watch;

use std::{net::IpAddr, sync::Arc, time::Duration};

use thread_local::ThreadLocal;

use super::{Gateway, journey::Journey};
use crate::{
    access::Permit,
    catalog::server::Server,
    identity::Caller,
    limit::{
        self, Charges, Left, Limits, Over, Reached, Source, Tightest,
        seats::{Seat, Seats},
    },
    record::metrics::Metrics,
    refusal::{Code, Quota, Refusal},
    store::shared_counts::Counted,
    trace::Leg,
};
pub use shared::Shared;
pub(super) use strangers::suspect_a_crowd;
pub use told::mark;

/// When to try again after what no clock frees: a stream, or a running call, of somebody.
const SOON: Duration = Duration::from_secs(1);

/// One of so many running calls of a server is nobody's who has much in work already.
const KEPT: usize = 10;

/// All limits of one gateway.
pub struct Limiting {
    limits: Limits,
    shared: Option<Arc<Shared>>,
    /// Streams that stand until somebody ends them.
    standing: Arc<Seats>,
    /// Calls whose answers are streams.
    streaming: Arc<Seats>,
    running: Arc<Seats>,
    /// Requests in work, by caller.
    working: Arc<Seats>,
    /// Those of strangers who want to sign in, by address.
    entering: Arc<Seats>,
    connections: Arc<Seats>,
    /// How each thread that serves stands: one may be late while others are not.
    threads: ThreadLocal<watch::Watched>,
    metrics: Arc<Metrics>,
}

/// An address has as many connections as one may.
#[derive(Debug)]
pub struct TooMany;

/// What a request holds of what is limited, until it ends.
#[derive(Default)]
pub struct Held {
    /// Who asks, once they are believed.
    pub caller: Option<Arc<Caller>>,
    /// Its place among the caller's streams.
    pub stream: Option<Seat>,
    /// Its place among the running calls of its server.
    running: Option<Seat>,
    /// Its place among the requests that its sender has in work.
    work: Option<Seat>,
    /// One that was taken before it was known whether it is needed.
    reserved: Option<Seat>,
    /// What is left after it.
    left: Option<Tightest>,
}

impl Limiting {
    /// Nothing counted yet.
    pub fn new(settings: limit::Settings, metrics: Arc<Metrics>) -> Arc<Self> {
        let shared = settings.redis.clone().map(|redis| Shared::new(redis, metrics.clone()));
        if shared.is_none() {
            metrics.limits_shared.set(-1);
        }
        Arc::new(Self {
            limits: Limits::new(settings),
            shared,
            standing: Seats::new(),
            streaming: Seats::new(),
            running: Seats::new(),
            working: Seats::new(),
            entering: Seats::new(),
            connections: Seats::new(),
            threads: ThreadLocal::new(),
            metrics,
        })
    }

    /// Other limits from now on. What was counted stays; another Redis wants a new start.
    pub fn replace(&self, settings: limit::Settings) {
        self.limits.replace(settings);
    }

    /// The Redis that replicas count in, for the task that keeps the connection.
    pub fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.clone()
    }

    /// A place among the connections from an address; none where nobody counts.
    pub fn connect(&self, address: Option<IpAddr>) -> Result<Option<Seat>, TooMany> {
        let settings = self.limits.settings();
        let most = settings.connections_per_address;
        let Some(address) = address.filter(|address| most > 0 && !settings.is_unlimited(*address)) else {
            return Ok(None);
        };
        self.connections.take(Source::of(address).bytes(), most).map(Some).ok_or(TooMany)
    }

    /// A place among the standing streams of a caller.
    pub fn stand(&self, caller: &Caller) -> Result<Seat, Refusal> {
        let most = most(self.limits.settings().streams_per_caller);
        self.standing.take(caller.name().as_bytes(), most).ok_or_else(too_many_streams)
    }

    /// A place among the running calls of a server, for what may turn out to be one.
    pub fn reserve(&self, held: &mut Held, caller: &Caller, server: &Server) -> Result<(), Refusal> {
        held.reserved = self.run(caller, server)?;
        Ok(())
    }

    /// A believed caller's request is in work from now on.
    pub fn begin(&self, held: &mut Held, caller: &Arc<Caller>) -> Result<(), Refusal> {
        held.caller = Some(caller.clone());
        let most = most(self.limits.settings().requests_per_caller);
        held.work = Some(self.working.take(caller.name().as_bytes(), most).ok_or_else(too_many_in_work)?);
        Ok(())
    }

    /// So is that of somebody who wants to sign in.
    fn enter(&self, held: &mut Held, source: &Source) -> Result<(), Refusal> {
        let settings = self.limits.settings();
        if !settings.is_unlimited(source.address()) {
            let most = most(settings.requests_per_caller);
            held.work = Some(self.entering.take(source.bytes(), most).ok_or_else(too_many_in_work)?);
        }
        Ok(())
    }

    /// An answer turns out to be a stream: it is no work any more. Of a call's, as many as of those that stand are let be.
    pub fn note_stream(&self, held: &mut Held) -> Result<(), Refusal> {
        held.work = None;
        if let (None, Some(caller)) = (&held.stream, &held.caller) {
            let most = most(self.limits.settings().streams_per_caller);
            let seat = self.streaming.take(caller.name().as_bytes(), most);
            held.stream = Some(seat.ok_or_else(too_many_streams)?);
        }
        Ok(())
    }

    /// A call may become a stream, so it must not begin while as many of its caller's have.
    fn refuse_streaming(&self, caller: &Caller) -> Result<(), Refusal> {
        let most = most(self.limits.settings().streams_per_caller);
        // Without as many open streams in all nobody can have too many.
        let may_be = usize::try_from(self.metrics.open_streams.get()).unwrap_or_default() >= most;
        if may_be && self.streaming.taken(caller.name().as_bytes()) >= most {
            return Err(too_many_streams());
        }
        Ok(())
    }

    /// A place among the running calls of a server. The last tenth is for callers who have less than half of it in work, so
    /// that nobody holds a server alone.
    fn run(&self, caller: &Caller, server: &Server) -> Result<Option<Seat>, Refusal> {
        let (id, most) = (server.id.as_str().as_bytes(), server.limits.running);
        if most == 0 {
            return Ok(None);
        }
        let seat = self.running.take(id, most - most / KEPT).or_else(|| {
            let name = caller.name().as_bytes();
            let has_much = self.working.taken(name) + self.streaming.taken(name) > most / 2;
            if has_much { None } else { self.running.take(id, most) }
        });
        seat.map(Some).ok_or_else(server_busy)
    }

    /// Counts what a request costs: here, and with the other replicas where they can be asked.
    async fn count(&self, charges: &Charges<'_>) -> Result<Option<Tightest>, Refusal> {
        let mut tightest = self.limits.take(charges, self.limits.now()).map_err(told::refuse)?;
        let Some(shared) = self.shared.as_ref().filter(|_| !charges.is_empty()) else { return Ok(tightest) };
        match Box::pin(shared.count(charges)).await {
            // Each replica for itself: that Redis is away must not be a caller's trouble.
            None => {}
            Some(Counted::Passed(left)) => {
                if let Some((charge, (more, next))) = charges.iter().zip(left).min_by_key(|(_, left)| left.0)
                {
                    let left = Left { more, next };
                    tightest = Some(Tightest { kind: charge.kind, rate: charge.rate, left });
                }
            }
            Some(Counted::Refused(at, wait)) => {
                self.limits.give_back(charges);
                let Some(charge) = charges.iter().nth(at) else { return Ok(tightest) };
                self.limits.note_refused(charge, wait, self.limits.now());
                let over = if charge.count > charge.rate.burst() { Over::Never } else { Over::Until(wait) };
                return Err(told::refuse(Reached { kind: charge.kind, rate: charge.rate, over }));
            }
        }
        Ok(tightest)
    }
}

impl Gateway {
    /// Refuses tool calls whose limit is reached already. Counts nothing.
    pub(super) fn foresee_calls(&self, permit: &Permit, tools: &[(&str, u32)]) -> Result<(), Refusal> {
        let limiting = &self.limiting;
        limiting.refuse_streaming(permit.caller())?;
        let charges = limiting.limits.of_calls(permit.caller(), permit.server(), tools);
        limiting.limits.foresee(&charges, limiting.limits.now()).map_err(told::refuse)
    }

    /// Lets tool calls of a permitted server begin: so many of each tool, all or none of them.
    pub(super) async fn limit_calls(
        &self,
        journey: &mut Journey,
        permit: &Permit,
        tools: &[(&str, u32)],
    ) -> Result<(), Refusal> {
        if tools.is_empty() {
            return Ok(());
        }
        journey.record.enter(Leg::Limit);
        let (limiting, server) = (&self.limiting, permit.server());
        limiting.refuse_streaming(permit.caller())?;
        let running = match journey.held.reserved.take() {
            None => limiting.run(permit.caller(), server)?,
            reserved => reserved,
        };
        let charges = limiting.limits.of_calls(permit.caller(), server, tools);
        journey.held.left = limiting.count(&charges).await?;
        journey.held.running = running;
        journey.record.leave();
        Ok(())
    }
}

impl Held {
    /// What the answer tells of limits.
    pub fn quota(&self) -> Option<Quota> {
        self.left.map(Quota::from)
    }

    /// The request is over.
    pub fn let_go(&mut self) {
        self.stream = None;
        self.running = None;
        self.work = None;
        self.reserved = None;
    }
}

/// A bound as a number to compare with: 0 is none.
fn most(bound: usize) -> usize {
    if bound == 0 { usize::MAX } else { bound }
}

fn too_many_streams() -> Refusal {
    let sentence = "you have as many streams open as one caller may; end one first";
    Refusal::new(Code::TooManyStreams, sentence).retry_after(SOON).limited("streams", None)
}

fn too_many_in_work() -> Refusal {
    let sentence = "you have as many requests in work as one caller may; wait until one has ended";
    Refusal::new(Code::TooManyRequests, sentence).retry_after(SOON).limited("requests", None)
}

fn server_busy() -> Refusal {
    let sentence = "as many calls of this server are running as may; try again soon";
    Refusal::new(Code::ServerBusy, sentence).retry_after(SOON).limited("running", None)
}
