//! What happened: one record per request, the one source of its metrics and its access-log line.
//!
//! Decides nothing and never delays an answer. Holds no credential and no body; the caller, and the arguments of a call
//! where an operator wants that, are for the audit alone: log and metrics name the server, the tool and the scheme. Comes
//! last in the journey.

pub mod access_log;
pub mod arguments;
pub mod audit;
pub mod entry;
pub mod levels;
mod lines;
pub mod metrics;
mod sealing;
pub mod trace;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderValue, Uri};

use crate::{
    access::{Grant, Permit},
    identity::Caller,
    names::{GroupName, RequestId, ServerId, ToolName},
    refusal::{Code, Refusal},
    trace::Trace,
};
use access_log::AccessLog;
use arguments::Arguments;
use audit::Audit;
use metrics::Metrics;

/// What is written down.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Filter of diagnostic log lines, in the syntax of `RUST_LOG`: `info,pingora_core=warn`.
    pub filter: String,
    /// Whether each request writes one JSON line to stdout.
    pub is_access_log_on: bool,
    /// Where spans go; none: nothing is traced.
    pub traces: Option<trace::Settings>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The gateway answered itself, and not with a no.
    Answered,
    /// The tool answered, and not with an error.
    ToolAnswered,
    /// The tool answered that it could not do it.
    ToolError,
    /// The server could not be reached, broke off, or answered like something broken.
    PeerFailed,
    /// The gateway said no.
    Refused,
    /// The client left before the end.
    ClientGone,
    /// The gateway ended a trip whose permit was withdrawn.
    Withdrawn,
    /// A bug: the request was dropped without an end.
    Lost,
}

impl Outcome {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Outcome::Answered,
        Outcome::ToolAnswered,
        Outcome::ToolError,
        Outcome::PeerFailed,
        Outcome::Refused,
        Outcome::ClientGone,
        Outcome::Withdrawn,
        Outcome::Lost,
    ];

    /// The word in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::ToolAnswered => "tool_answered",
            Outcome::ToolError => "tool_error",
            Outcome::PeerFailed => "peer_failed",
            Outcome::Refused => "refused",
            Outcome::ClientGone => "client_gone",
            Outcome::Withdrawn => "withdrawn",
            Outcome::Lost => "lost",
        }
    }
}

/// Where finished records go.
#[derive(Clone)]
pub struct Recorder {
    /// The metrics every record feeds.
    pub metrics: Arc<Metrics>,
    /// The access log every record is written to.
    pub access_log: AccessLog,
    /// Where every call's entry of the audit goes.
    pub audit: Audit,
    /// What takes the notes of traced requests, where any are.
    pub tracer: Option<Arc<trace::Tracer>>,
}

/// A refusal, as it is written down.
struct Refused {
    code: Code,
    reason: Option<&'static str>,
    cause: Option<String>,
    limit: Option<&'static str>,
}

/// One request, from its arrival to its end. Emitted once, at the latest when dropped.
pub struct Record {
    recorder: Recorder,
    arrived: Instant,
    departed: Option<Instant>,
    /// The id in `X-Request-Id`.
    pub request_id: RequestId,
    /// HTTP method.
    pub method: &'static str,
    /// The route's name, one of a closed set.
    pub route: &'static str,
    /// The server, once it is known to exist.
    pub server: Option<ServerId>,
    /// The tool; by native MCP as the client names it, whom the server tells whether there is one.
    pub tool: Option<ToolName>,
    /// By which scheme the caller was believed.
    pub scheme: Option<&'static str>,
    /// Who asks, once that is believed.
    pub caller: Option<Arc<Caller>>,
    grant: Option<Grant>,
    tenant: Option<GroupName>,
    /// What was asked for, as the client wrote it.
    pub uri: Option<Uri>,
    /// What the client says it is.
    pub user_agent: Option<HeaderValue>,
    /// The method of JSON-RPC, once it is read.
    pub rpc_method: Option<String>,
    /// Calls of tools that a message of MCP makes, or the one call that is made otherwise.
    pub calls: Vec<Call>,
    /// Address of the client's end of the connection.
    pub client: Option<IpAddr>,
    /// Status sent to the client; 0 while none was.
    pub status: u16,
    /// Body bytes that came from the client.
    pub received_bytes: u64,
    /// Body bytes sent to the client.
    pub sent_bytes: u64,
    /// Tries made to reach a peer beyond the first.
    pub retries: u32,
    /// The notes for those who follow it, where requests are traced.
    pub trace: Option<Arc<Trace>>,
    refusal: Option<Refused>,
    outcome: Outcome,
    upstream: Duration,
    is_sealed: bool,
    is_emitted: bool,
}

/// One call of a tool, as the audit keeps it.
#[derive(Debug, Clone)]
pub struct Call {
    /// The tool's name as it was asked for, whether it exists or not.
    pub tool: String,
    /// What it was called with, where that is known.
    pub arguments: Option<Arguments>,
}

impl Record {
    /// The record of a request that has just arrived.
    pub fn begin(recorder: Recorder) -> Self {
        recorder.metrics.requests_in_flight.inc();
        Self {
            recorder,
            arrived: Instant::now(),
            departed: None,
            request_id: RequestId::new(),
            method: "-",
            route: "none",
            server: None,
            tool: None,
            scheme: None,
            caller: None,
            grant: None,
            tenant: None,
            uri: None,
            user_agent: None,
            rpc_method: None,
            calls: Vec::new(),
            client: None,
            status: 0,
            received_bytes: 0,
            sent_bytes: 0,
            retries: 0,
            trace: None,
            refusal: None,
            outcome: Outcome::Lost,
            upstream: Duration::ZERO,
            is_sealed: false,
            is_emitted: false,
        }
    }

    /// Notes what lets the caller in, and for whom the server is called.
    pub fn permit(&mut self, permit: &Permit) {
        self.server = Some(permit.server().id.clone());
        self.grant = Some(permit.grant().clone());
        self.tenant = permit.tenancy().group().cloned();
    }

    /// Notes that the request leaves for its peer now.
    pub fn depart(&mut self) {
        self.departed.get_or_insert_with(Instant::now);
        self.leave();
    }

    /// Notes that the peer has said its last word for this request.
    pub fn arrive_back(&mut self) {
        if let Some(departed) = self.departed {
            self.upstream = departed.elapsed();
        }
    }

    /// Notes a refusal.
    pub fn refuse(&mut self, refusal: &Refusal) {
        // Where the peer's failure is the reason, the time until now was the peer's.
        if self.upstream.is_zero() {
            self.arrive_back();
        }
        let cause = refusal.cause().map(str::to_owned);
        let limit = refusal.limit().map(|limited| limited.limit);
        self.refusal = Some(Refused { code: refusal.code(), reason: refusal.why(), cause, limit });
        self.outcome = match refusal.code() {
            Code::PeerUnreachable | Code::PeerBadAnswer | Code::PeerTooSlow => Outcome::PeerFailed,
            // The tool's word, in ours.
            Code::ToolError | Code::InputNeeded => Outcome::ToolError,
            _ => Outcome::Refused,
        };
    }

    /// The tool, where its server's list has it: by native MCP clients name tools that the gateway may know nothing of,
    /// and what they write is nobody's word for a log.
    fn listed_tool(&self) -> Option<&ToolName> {
        let (server, tool) = (self.server.as_ref()?, self.tool.as_ref()?);
        self.recorder.metrics.calls.is_listed(server, tool).then_some(tool)
    }

    /// Notes how the request ended.
    pub fn end_as(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// How the request ended, as far as is known.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// The refusal's code, if one was said.
    pub fn code(&self) -> Option<Code> {
        self.refusal.as_ref().map(|refused| refused.code)
    }

    /// The word for why a credential was not believed.
    pub fn reason(&self) -> Option<&'static str> {
        self.refusal.as_ref()?.reason
    }

    /// The word of the limit that refused.
    pub fn limit(&self) -> Option<&'static str> {
        self.refusal.as_ref()?.limit
    }

    fn timing(&self) -> Timing {
        let total = self.arrived.elapsed();
        Timing { total, upstream: self.upstream.min(total) }
    }

    /// Writes the record down, once.
    pub fn emit(&mut self) {
        if std::mem::replace(&mut self.is_emitted, true) {
            return;
        }
        self.seal();
        let timing = self.timing();
        self.recorder.metrics.requests_in_flight.dec();
        self.recorder.metrics.observe(self, timing);
        self.recorder.access_log.write(self, timing);
        self.hand_over_trace(timing);
    }
}

/// How long a request took, and how much of that its peer did.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// From arrival to end.
    pub total: Duration,
    /// From departure to the peer's last word.
    pub upstream: Duration,
}

impl Timing {
    /// The gateway's own share.
    pub fn gateway(self) -> Duration {
        self.total - self.upstream
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.departed.is_some() && self.upstream.is_zero() {
            self.arrive_back();
        }
        self.emit();
    }
}
