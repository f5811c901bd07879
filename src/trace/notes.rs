//! The notes of one traced request, from its arrival to its end: when each step and each try began and ended.
//!
//! Decides nothing about the request. Shared by those who carry it on, so that each notes what it does; once the notes
//! have been taken, whatever is noted later is lost. No lock here is held for longer than a note takes.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue, Method};

use super::{Carried, Context, Sampler, SpanId, TraceId};

/// Tries that are noted of one request; one that waits for a restarting server makes dozens.
const MOST_TRIES: usize = 32;
/// Calls of one batch that are noted.
const MOST_CALLS: usize = 64;
/// Numbers of spans: the tries stand behind the steps.
const FIRST_TRY: u64 = 1 << 16;
/// And the calls of a batch behind those.
const FIRST_CALL: u64 = 1 << 32;

/// A step of the journey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leg {
    /// Who is asking.
    Identify,
    /// May they.
    Authorize,
    /// What is asked for, by what servers offer.
    Find,
    /// What came with the request.
    Body,
    /// How much is too much.
    Limit,
    /// Where it goes.
    Plan,
}

impl Leg {
    /// The name of its span.
    pub const fn as_str(self) -> &'static str {
        match self {
            Leg::Identify => "identify",
            Leg::Authorize => "authorize",
            Leg::Find => "find",
            Leg::Body => "body",
            Leg::Limit => "limit",
            Leg::Plan => "plan",
        }
    }
}

/// A step that was taken; without an end it was the last one.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// Which one.
    pub leg: Leg,
    /// When it began.
    pub began: Instant,
    /// When the next one did.
    pub ended: Option<Instant>,
}

/// One try to have a server answer.
#[derive(Debug, Clone)]
pub struct Try {
    /// Its number among all of the request.
    pub number: u64,
    /// The server's configured host.
    pub host: String,
    /// What it resolved to.
    pub address: SocketAddr,
    /// The method of MCP it asks; none where it is a request of another form.
    pub asks: Option<&'static str>,
    /// The method of HTTP.
    pub method: &'static str,
    /// When it began.
    pub began: Instant,
    /// When there was a connection, and whether that had served before.
    pub connected: Option<(Instant, bool)>,
    /// When the head of an answer was there, and its status.
    pub answered: Option<(Instant, u16)>,
    /// When it ended; none for one that lasted as long as the request.
    pub ended: Option<Instant>,
    /// Why it failed.
    pub error: Option<&'static str>,
}

/// What goes along with a request to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The trace, and the try as the one who asks.
    pub parent: String,
    /// The trace.
    pub trace: TraceId,
    /// What others added, as it came.
    pub state: Option<String>,
    /// The same of the baggage.
    pub baggage: Option<String>,
}

impl Outgoing {
    /// The headers that say it; none where there is nothing to say.
    pub fn headers(&self) -> [(&'static str, Option<HeaderValue>); 3] {
        let said = [
            ("traceparent", Some(&self.parent)),
            ("tracestate", self.state.as_ref()),
            ("baggage", self.baggage.as_ref()),
        ];
        said.map(|(name, said)| (name, said.and_then(|said| HeaderValue::from_str(said).ok())))
    }

    /// Puts it into the headers of a request, in place of what the client said there.
    pub fn write(&self, headers: &mut HeaderMap) {
        for (name, said) in self.headers() {
            match said {
                Some(said) => _ = headers.insert(name, said),
                None => _ = headers.remove(name),
            }
        }
    }
}

/// All that was noted of a request.
#[derive(Debug, Clone)]
pub struct Noted {
    /// The trace, its own span, and whether it is traced.
    pub context: Context,
    /// Whose child it is.
    pub parent: Option<SpanId>,
    /// What others added.
    pub state: Option<String>,
    /// Its steps in their order.
    pub legs: Vec<Taken>,
    /// Its tries in their order.
    pub tries: Vec<Try>,
    /// The method of MCP, one of a closed set.
    pub method: Option<&'static str>,
    /// The tools that a batch called.
    pub calls: Vec<String>,
    /// How many tries there were.
    pub tried: u64,
    baggage: Option<String>,
    /// Nothing was said of a trace yet: the message may.
    is_open: bool,
}

/// One request that others can follow.
#[derive(Debug)]
pub struct Trace {
    /// When its notes began, as a time of day.
    pub at: SystemTime,
    /// The same moment, as steps and tries have theirs.
    pub began: Instant,
    sampler: Arc<Sampler>,
    dice: u64,
    /// Whether its steps are worth a note.
    is_noting: AtomicBool,
    noted: Mutex<Noted>,
}

impl Trace {
    /// Of a request that arrives with these headers; none where there are no random numbers to be had.
    pub fn begin(sampler: &Arc<Sampler>, headers: &HeaderMap) -> Option<Arc<Self>> {
        let mut random = [0; 32];
        aws_lc_rs::rand::fill(&mut random).ok()?;
        let [trace, rest] = [&random[..16], &random[16..]];
        let dice = u64::from_ne_bytes(rest[8..].try_into().ok()?);
        let Carried { context: said, state, baggage } = Carried::of_headers(headers);
        let context = Context {
            trace: said.map_or_else(|| TraceId::new(trace.try_into().ok()?), |said| Some(said.trace))?,
            span: SpanId::new(rest[..8].try_into().ok()?)?,
            is_sampled: sampler.decide(said.as_ref(), dice),
            is_random: said.is_some_and(|said| said.is_random),
        };
        let is_open = said.is_none();
        let noted = Noted {
            context,
            parent: said.map(|said| said.span),
            state,
            legs: Vec::new(),
            tries: Vec::new(),
            method: None,
            calls: Vec::new(),
            tried: 0,
            baggage,
            is_open,
        };
        Some(Arc::new(Self {
            at: SystemTime::now(),
            began: Instant::now(),
            sampler: sampler.clone(),
            dice,
            is_noting: AtomicBool::new(context.is_sampled || is_open),
            noted: Mutex::new(noted),
        }))
    }

    /// Takes what a message says of itself, where the headers of its request said nothing.
    pub fn adopt(&self, carried: Carried) {
        let mut noted = self.lock();
        if noted.baggage.is_none() {
            noted.baggage = carried.baggage;
        }
        let Some(said) = carried.context.filter(|_| noted.is_open) else { return };
        noted.is_open = false;
        noted.parent = Some(said.span);
        noted.state = carried.state;
        (noted.context.trace, noted.context.is_random) = (said.trace, said.is_random);
        noted.context.is_sampled = self.sampler.decide(Some(&said), self.dice);
        self.is_noting.store(noted.context.is_sampled, Ordering::Relaxed);
    }

    /// Whether it goes on in somebody else's trace.
    pub fn is_followed(&self) -> bool {
        self.lock().parent.is_some()
    }

    /// The id of the trace, where the request is traced.
    pub fn sampled_id(&self) -> Option<TraceId> {
        let context = self.lock().context;
        context.is_sampled.then_some(context.trace)
    }

    /// A step begins, and the one before it has ended.
    pub fn enter(&self, leg: Leg) {
        if self.is_noting.load(Ordering::Relaxed) {
            let (mut noted, now) = (self.lock(), Instant::now());
            end(&mut noted.legs, now);
            noted.legs.push(Taken { leg, began: now, ended: None });
        }
    }

    /// The last step has ended.
    pub fn leave(&self) {
        if self.is_noting.load(Ordering::Relaxed) {
            let (mut noted, now) = (self.lock(), Instant::now());
            end(&mut noted.legs, now);
        }
    }

    /// The method of MCP, where it is known.
    pub fn method(&self) -> Option<&'static str> {
        self.lock().method
    }

    /// Notes the method of MCP, one of a closed set.
    pub fn note_method(&self, method: &'static str) {
        self.lock().method = Some(method);
    }

    /// Notes the tools that a batch calls, each as often as it does.
    pub fn note_calls<'n>(&self, calls: impl Iterator<Item = (&'n str, u32)>) {
        let each = calls.flat_map(|(name, count)| std::iter::repeat_n(name, count as usize));
        self.lock().calls = each.take(MOST_CALLS).map(str::to_owned).collect();
    }

    /// A try begins at this address; one before it that has not ended has now.
    pub fn begin_try(&self, host: &str, address: SocketAddr, asks: Option<&'static str>) {
        let mut noted = self.lock();
        // From here on others are told whose child they are.
        noted.is_open = false;
        noted.tried += 1;
        if !noted.context.is_sampled {
            return;
        }
        let now = Instant::now();
        if let Some(before) = noted.tries.last_mut() {
            before.ended.get_or_insert(now);
        }
        let number = noted.tried;
        if noted.tries.len() == MOST_TRIES {
            // The first ones say why, the last one how it ended.
            noted.tries.pop();
        }
        noted.tries.push(Try {
            number,
            host: host.to_owned(),
            address,
            asks,
            method: "POST",
            began: now,
            connected: None,
            answered: None,
            ended: None,
            error: None,
        });
    }

    /// The try sends a request of this method.
    pub fn sends(&self, method: &Method) {
        let word = match *method {
            Method::POST => "POST",
            Method::GET => "GET",
            Method::DELETE => "DELETE",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            _ => "_OTHER",
        };
        self.with_try(|it| it.method = word);
    }

    /// The try has a connection.
    pub fn connected(&self, is_reused: bool) {
        self.with_try(|it| it.connected = it.connected.or(Some((Instant::now(), is_reused))));
    }

    /// The try has an answer with this status.
    pub fn answered(&self, status: u16) {
        self.with_try(|it| it.answered = Some((Instant::now(), status)));
    }

    /// The try has ended: well, or for this reason.
    pub fn end_try(&self, error: Option<&'static str>) {
        self.with_try(|it| {
            it.ended.get_or_insert_with(Instant::now);
            it.error = it.error.or(error);
        });
    }

    /// What goes along with the request of the present try.
    pub fn outgoing(&self) -> Outgoing {
        let noted = self.lock();
        let span = match noted.tried {
            0 => noted.context.span,
            tried => noted.try_span(tried),
        };
        Outgoing {
            parent: Context { span, ..noted.context }.text(),
            trace: noted.context.trace,
            state: noted.state.clone(),
            baggage: noted.baggage.clone(),
        }
    }

    /// Takes the notes; none where the request is not traced.
    pub fn take(&self) -> Option<Noted> {
        self.is_noting.store(false, Ordering::Relaxed);
        let mut noted = self.lock();
        if !noted.context.is_sampled {
            return None;
        }
        let left = Noted { legs: Vec::new(), tries: Vec::new(), calls: Vec::new(), ..noted.clone() };
        Some(std::mem::replace(&mut *noted, left))
    }

    fn with_try(&self, note: impl FnOnce(&mut Try)) {
        let mut noted = self.lock();
        if let Some(it) = noted.tries.last_mut().filter(|it| it.ended.is_none()) {
            note(it);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn end(legs: &mut [Taken], now: Instant) {
    if let Some(last) = legs.last_mut() {
        last.ended.get_or_insert(now);
    }
}

impl Noted {
    /// How many spans it makes.
    pub fn spans(&self) -> usize {
        1 + self.legs.len() + self.tries.len() + self.calls.len()
    }

    /// The span of the step at this place.
    pub fn leg_span(&self, at: usize) -> SpanId {
        self.span(1 + at as u64)
    }

    /// The span of the try of this number.
    pub fn try_span(&self, number: u64) -> SpanId {
        self.span(FIRST_TRY + number)
    }

    /// The span of the call at this place of a batch.
    pub fn call_span(&self, at: usize) -> SpanId {
        self.span(FIRST_CALL + at as u64)
    }

    /// An id that no other number makes in this trace: the request's own, turned by one that is odd and large.
    fn span(&self, number: u64) -> SpanId {
        let turned =
            u64::from_be_bytes(*self.context.span.bytes()) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        SpanId::new(turned.to_be_bytes()).unwrap_or(self.context.span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Follow, Settings};

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn sampler(ratio: f64) -> Arc<Sampler> {
        Arc::new(Sampler::new(Settings { ratio, follow: Follow::Parent, followed: None }))
    }

    fn trace(ratio: f64, headers: &[(&'static str, &str)]) -> Arc<Trace> {
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        Trace::begin(&sampler(ratio), &headers).unwrap()
    }

    fn here() -> SocketAddr {
        ([127, 0, 0, 1], 80).into()
    }

    #[test]
    fn a_request_goes_on_in_the_trace_it_came_in_with_each_try_as_a_parent_of_its_own() {
        let trace = trace(0.0, &[("traceparent", PARENT), ("tracestate", "a=1"), ("baggage", "k=v")]);
        let mut seen = vec![PARENT.to_owned()];
        for _ in 0..3 {
            trace.begin_try("h", here(), None);
            let outgoing = trace.outgoing();
            assert_eq!(outgoing.parent[..36], PARENT[..36]);
            assert_eq!(outgoing.parent[52..], PARENT[52..]);
            assert_eq!((outgoing.state.as_deref(), outgoing.baggage.as_deref()), (Some("a=1"), Some("k=v")));
            assert!(!seen.contains(&outgoing.parent));
            seen.push(outgoing.parent);
        }
        let noted = trace.take().unwrap();
        assert_eq!(noted.tries.len(), 3);
        assert!(seen[3].contains(&noted.try_span(3).to_string()));
        assert_eq!(noted.parent.unwrap().to_string(), PARENT[36..52]);
    }

    #[test]
    fn what_is_not_traced_is_passed_on_all_the_same() {
        let unsampled = PARENT.replace("-01", "-00");
        let trace = trace(1.0, &[("traceparent", &unsampled)]);
        trace.enter(Leg::Identify);
        trace.begin_try("h", here(), None);
        let outgoing = trace.outgoing();
        assert_eq!((&outgoing.parent[..36], &outgoing.parent[52..]), (&PARENT[..36], "-00"));
        assert_ne!(outgoing.parent[36..52], PARENT[36..52]);
        assert!(trace.take().is_none() && trace.sampled_id().is_none());
    }

    #[test]
    fn a_message_speaks_for_itself_only_where_its_request_said_nothing() {
        let other = PARENT.replace("0af7", "1bf7");
        let carried = || Carried::read(Some(other.as_bytes()), b"b=2", b"x=y");
        let open = trace(0.0, &[("traceparent", "00-garbage")]);
        open.enter(Leg::Identify);
        open.adopt(carried());
        assert_eq!(open.sampled_id().unwrap().to_string(), other[3..35]);
        let noted = open.take().unwrap();
        assert_eq!((noted.legs.len(), noted.state.as_deref()), (1, Some("b=2")));
        let said = trace(0.0, &[("traceparent", PARENT), ("baggage", "k=v")]);
        said.adopt(carried());
        let outgoing = said.outgoing();
        assert_eq!(outgoing.parent[..36], PARENT[..36]);
        assert_eq!((outgoing.state, outgoing.baggage.as_deref()), (None, Some("k=v")));
    }

    #[test]
    fn a_step_ends_where_the_next_one_begins() {
        let trace = trace(1.0, &[]);
        trace.enter(Leg::Identify);
        trace.enter(Leg::Authorize);
        trace.leave();
        trace.enter(Leg::Limit);
        let noted = trace.take().unwrap();
        let legs = &noted.legs;
        assert_eq!(legs[0].ended, Some(legs[1].began));
        assert!(legs[1].ended.is_some() && legs[2].ended.is_none());
        assert_eq!(noted.spans(), 4);
        trace.enter(Leg::Plan);
        assert!(trace.take().unwrap().legs.is_empty());
    }

    #[test]
    fn of_many_tries_the_first_and_the_last_are_noted() {
        let trace = trace(1.0, &[]);
        for _ in 0..100 {
            trace.begin_try("h", here(), None);
            trace.end_try(Some("ConnectRefused"));
        }
        trace.answered(200);
        let tries = trace.take().unwrap().tries;
        let numbers: Vec<_> = tries.iter().map(|it| it.number).collect();
        assert_eq!((tries.len(), numbers[30], numbers[31]), (MOST_TRIES, 31, 100));
        assert!(tries.iter().all(|it| it.ended.is_some() && it.answered.is_none()));
    }

    #[test]
    fn what_the_client_said_does_not_travel_beside_what_we_say() {
        let mut headers = HeaderMap::new();
        headers.append("traceparent", PARENT.parse().unwrap());
        headers.append("traceparent", PARENT.parse().unwrap());
        headers.append("tracestate", "A=malformed".parse().unwrap());
        headers.append("baggage", "malformed".parse().unwrap());
        let trace = Trace::begin(&sampler(0.0), &headers).unwrap();
        trace.outgoing().write(&mut headers);
        let parents: Vec<_> = headers.get_all("traceparent").iter().collect();
        assert!(parents.len() == 1 && parents[0].as_bytes()[..35] != PARENT.as_bytes()[..35]);
        assert!(!headers.contains_key("tracestate") && !headers.contains_key("baggage"));
    }
}
