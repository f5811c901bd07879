//! One request's state between Pingora's phases: a stage, never a bag of options.
//!
//! `Arrived → Serving | Underway(Trip) → Over`. Only a planned trip can be underway, so nothing
//! can be sent that was not permitted. Dropped at the end in every case, also when the connection is
//! cut: the record is emitted then at the latest.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;

use super::{
    Gateway,
    body::{Framing, Outbound},
    limiting::Held,
    line::Line,
    live::LiveTrip,
    native::{body::Load, exchange::Exchange},
    tries::Tries,
};
use crate::{
    catalog::server::Tier,
    record::{Outcome, Record},
    refusal::Refusal,
    trace::Trace,
    upstream::{Trip, breaker::Fault, mcpo},
};

/// Where the request is.
pub enum Stage {
    /// Not yet decided, or answered by the gateway at once.
    Arrived,
    /// Answered by the gateway from what it asks a server or hears meanwhile.
    Serving(Serving),
    /// On its way to a peer.
    Underway(Box<Underway>),
    /// Ended.
    Over,
}

/// An answer of the gateway's own that takes its time.
#[derive(Default)]
pub struct Serving {
    /// Lets a withdrawn permit end it, where it is about one server.
    pub live: Option<LiveTrip>,
    /// Whether it is counted among the open streams.
    is_stream: bool,
}

/// A permitted request on its way.
pub struct Underway {
    /// Where it goes.
    pub trip: Trip,
    /// What it carries.
    pub cargo: Cargo,
    /// Where it is tried, and how far that has come.
    pub tries: Tries,
    /// Lets a withdrawn permit end it.
    pub live: LiveTrip,
    /// What the peer's answer shows.
    pub answer: AnswerSeen,
    /// The notes for those who follow the request, where requests are traced.
    pub trace: Option<Arc<Trace>>,
}

impl Underway {
    /// A trip that has not left yet.
    pub fn new(trip: Trip, cargo: Cargo, live: LiveTrip) -> Box<Self> {
        let (tries, answer) = (Tries::default(), AnswerSeen::default());
        Box::new(Self { trip, cargo, tries, live, answer, trace: None })
    }
}

/// What a trip carries.
#[expect(clippy::large_enum_variant, reason = "nearly every one is of the larger kind")]
pub enum Cargo {
    /// The arguments of a tool.
    Arguments(Outbound),
    /// An exchange of native MCP.
    Native(Box<Exchange>),
}

impl Cargo {
    /// How the body's end is told to the peer.
    pub fn framing(&self) -> Framing {
        match self {
            Cargo::Arguments(body) => body.framing(),
            Cargo::Native(exchange) => exchange.load.framing(),
        }
    }

    /// Whether nobody has to be waited for before all of it can go.
    pub fn is_at_hand(&self) -> bool {
        match self {
            Cargo::Arguments(body) => body.is_at_hand(),
            Cargo::Native(exchange) => !matches!(exchange.load, Load::Held(..)),
        }
    }

    /// A try begins: all bytes are handed over once more.
    pub fn restart(&mut self) {
        match self {
            Cargo::Arguments(body) => body.restart(),
            // What was held has no second try.
            Cargo::Native(_) => {}
        }
    }

    /// Turns the next bytes from the client into the next bytes for the peer.
    pub fn pass(
        &mut self,
        body: &mut Option<Bytes>,
        is_end: bool,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        match self {
            Cargo::Arguments(outbound) => outbound.pass(body, is_end),
            Cargo::Native(exchange) => exchange.pass(body, is_end, headers),
        }
    }

    /// The exchange of native MCP.
    pub fn exchange(&mut self) -> Option<&mut Exchange> {
        match self {
            Cargo::Arguments(_) => None,
            Cargo::Native(exchange) => Some(exchange),
        }
    }
}

/// What has been seen of a peer's answer.
#[derive(Default)]
pub struct AnswerSeen {
    /// Its status; 0 before its head.
    pub status: u16,
    /// Whether it is counted among the open streams.
    pub is_stream: bool,
    /// Whether its body says that the tool could not do it (MCP, `isError`).
    pub is_tool_error: bool,
    /// How much of its body is still to come, where its head says how long it is.
    pub length_left: Option<u64>,
    /// The beginning of an error body, to tell a tool's no from a broken peer.
    pub error_prefix: Vec<u8>,
}

impl AnswerSeen {
    /// What the answer says of the peer; none that it is well.
    pub fn fault(&self, tier: Tier) -> Option<Fault> {
        mcpo::fault_of(tier, self.status, &self.error_prefix)
    }

    /// Whose word the answer was.
    pub fn outcome(&self) -> Outcome {
        match self.status {
            0..400 if self.is_tool_error => Outcome::ToolError,
            0..400 => Outcome::ToolAnswered,
            500 if mcpo::is_tool_error(&self.error_prefix) => Outcome::ToolError,
            500..=599 => Outcome::PeerFailed,
            _ => Outcome::ToolError,
        }
    }

    /// Notes a piece of an error body, as much as is needed of it.
    pub fn note_error_body(&mut self, bytes: &[u8]) {
        if self.status == 500 {
            let room = mcpo::ENOUGH_BYTES.saturating_sub(self.error_prefix.len());
            self.error_prefix.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }
}

/// What a refusal in JSON-RPC says besides itself.
#[derive(Debug, Clone, Default)]
pub struct Rpc {
    /// The request's id as it stands in the body; none before the body is read.
    pub id: Option<String>,
    /// What a challenge says beside its error.
    pub sign_in: Option<String>,
}

/// One request between two phases.
pub struct Journey {
    /// Where it is.
    pub stage: Stage,
    /// What will be written down.
    pub record: Record,
    /// The listed origin it came from, for CORS.
    pub origin: Option<String>,
    /// Set on MCP routes, where refusals are told in JSON-RPC.
    pub rpc: Option<Rpc>,
    /// The URL to use instead, for requests in the predecessor's form.
    pub preferred_url: Option<String>,
    /// The gateway as it was configured when the request arrived.
    pub gateway: Arc<Gateway>,
    /// What it holds of what is limited.
    pub held: Held,
}

impl Journey {
    /// A request has arrived.
    pub fn begin(gateway: Arc<Gateway>) -> Self {
        let (stage, record) = (Stage::Arrived, Record::begin(gateway.recorder.clone()));
        let held = Held::default();
        Self { stage, record, origin: None, rpc: None, preferred_url: None, gateway, held }
    }

    /// The trip underway.
    pub fn underway(&mut self) -> Option<&mut Underway> {
        match &mut self.stage {
            Stage::Underway(underway) => Some(underway),
            Stage::Arrived | Stage::Serving(_) | Stage::Over => None,
        }
    }

    /// The body has been read: refusals answer this id from now on.
    pub fn note_rpc_id(&mut self, id: Option<String>) {
        if let Some(rpc) = &mut self.rpc {
            rpc.id = id;
        }
    }

    /// The request leaves for its peer.
    pub fn depart(&mut self, mut underway: Box<Underway>) {
        self.record.depart();
        underway.trace.clone_from(&self.record.trace);
        self.stage = Stage::Underway(underway);
    }

    /// The gateway begins to answer itself, under this permit where it needs one.
    pub fn serve(&mut self, live: Option<LiveTrip>) {
        self.stage = Stage::Serving(Serving { live, is_stream: false });
    }

    /// What the gateway answers itself is a stream.
    pub fn note_own_stream(&mut self) -> Result<(), Refusal> {
        if let Stage::Serving(serving) = &mut self.stage
            && !std::mem::replace(&mut serving.is_stream, true)
        {
            self.gateway.recorder.metrics.open_streams.inc();
            self.gateway.limiting.note_stream(&mut self.held)?;
        }
        Ok(())
    }

    /// The head of the peer's answer is here.
    pub fn note_answer(&mut self, status: u16, is_stream: bool) -> Result<(), Refusal> {
        self.record.status = status;
        let Stage::Underway(underway) = &mut self.stage else { return Ok(()) };
        underway.answer.status = status;
        if let Some(trace) = &underway.trace {
            trace.answered(status);
        }
        let is_news = is_stream && !underway.answer.is_stream;
        underway.answer.is_stream |= is_stream;
        underway.tries.note_head(&underway.trip, &underway.answer);
        if is_news {
            self.gateway.recorder.metrics.open_streams.inc();
            self.gateway.limiting.note_stream(&mut self.held)?;
        }
        Ok(())
    }

    /// There is a connection to the peer.
    pub fn note_connected(&mut self, is_reused: bool) {
        if let Some(Underway { trip, tries, .. }) = self.underway()
            && let Some(destination) = tries.destination(trip)
        {
            destination.health.tally().note_connection(is_reused);
        }
    }

    /// Leaves the client's connection to its next request.
    pub fn leave(&self, line: &Line) {
        let settings = &self.gateway.settings;
        if line.is_reader_slow(settings.write_timeout) {
            self.gateway.recorder.metrics.limited.with_label_values(&["slow_reader"]).inc();
        }
        line.settle();
        line.arm(settings.keepalive_timeout + settings.header_timeout);
    }

    /// The request has ended: by this outcome, or as what is known of it says.
    pub fn end(&mut self, outcome: Option<Outcome>) {
        self.held.let_go();
        if !self.record.is_sealed() {
            self.note_cargo();
        }
        let (is_stream, is_withdrawn, otherwise) = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Underway(mut underway) => {
                // One that broke off was settled where it did.
                let is_over = outcome.is_none();
                if is_over {
                    underway.tries.settle_by(&underway.answer, underway.trip.server().tier);
                }
                let answered = self.record.code().is_none().then(|| underway.answer.outcome());
                (underway.answer.is_stream, underway.live.is_withdrawn(), answered)
            }
            Stage::Serving(serving) => {
                (serving.is_stream, serving.live.is_some_and(|live| live.is_withdrawn()), None)
            }
            Stage::Arrived | Stage::Over => return self.record.emit(),
        };
        if is_stream {
            self.gateway.recorder.metrics.open_streams.dec();
        }
        let withdrawn = is_withdrawn.then_some(Outcome::Withdrawn);
        if let Some(outcome) = withdrawn.or(outcome).or(otherwise) {
            self.record.end_as(outcome);
        }
        self.record.emit();
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        if matches!(self.stage, Stage::Underway(_) | Stage::Serving(_)) {
            // Cut from outside, or the process ends: `logging` was never called.
            self.record.arrive_back();
            self.end(Some(Outcome::Lost));
        }
    }
}
