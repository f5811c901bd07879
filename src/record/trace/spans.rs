//! The spans of one request: the request itself, its steps, its tries and the calls of a batch.
//!
//! Decides their names and attributes, by OpenTelemetry's semantic conventions for HTTP and MCP where those have a word.
//! Names are of closed sets. Never says who called: no address, email or credential of theirs, nothing of a body, no
//! path as it was sent and no query.

use std::{
    borrow::Cow,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{
        Span, Status,
        span::{Event, SpanKind},
        status::StatusCode,
    },
};

use crate::{
    names::{RequestId, ServerId, ToolName},
    record::Outcome,
    refusal::Code,
    route,
    trace::{Noted, SpanId, Try},
};

/// The flags say whether the parent is elsewhere, and it is not.
const HAS_IS_REMOTE: u32 = 0x100;
/// The parent is elsewhere.
const IS_REMOTE: u32 = 0x200;

/// A traced request that has ended.
pub struct Ended {
    pub at: SystemTime,
    /// The same moment as `at`.
    pub began: Instant,
    pub arrived: Instant,
    pub ended: Instant,
    /// When the last server had said its last word.
    pub returned: Instant,
    pub noted: Noted,
    pub method: &'static str,
    pub route: &'static str,
    pub server: Option<ServerId>,
    pub tool: Option<ToolName>,
    pub scheme: Option<&'static str>,
    pub status: u16,
    pub outcome: Outcome,
    pub code: Option<Code>,
    pub request_id: RequestId,
}

impl Ended {
    /// How many spans it makes.
    pub fn spans(&self) -> usize {
        self.noted.spans()
    }

    /// Its spans, the request's first.
    pub fn into_spans(self) -> Vec<Span> {
        let noted = &self.noted;
        let mut spans = Vec::with_capacity(noted.spans());
        spans.push(self.request());
        let is_last = |at| at + 1 == noted.legs.len();
        for (at, step) in noted.legs.iter().enumerate() {
            let mut span = self.child(noted.leg_span(at), step.leg.as_str(), SpanKind::Internal);
            (span.start_time_unix_nano, span.end_time_unix_nano) =
                (self.nanos(step.began), self.nanos(step.ended.unwrap_or(self.ended)));
            // Where the last step has no end, the request ended in it.
            if let Some(code) = self.code.filter(|_| step.ended.is_none() && is_last(at)) {
                fail(&mut span, code.as_str());
            }
            spans.push(span);
        }
        spans.extend(noted.tries.iter().map(|it| self.tried(it)));
        for (at, tool) in noted.calls.iter().enumerate() {
            let mut span = self.child(noted.call_span(at), "tools/call", SpanKind::Internal);
            let began = noted.tries.first().map_or(self.arrived, |first| first.began);
            (span.start_time_unix_nano, span.end_time_unix_nano) =
                (self.nanos(began), self.nanos(self.returned.max(began)));
            text(&mut span.attributes, "mcp.method.name", "tools/call");
            self.say_what(&mut span.attributes, Some(tool));
            spans.push(span);
        }
        spans
    }

    fn request(&self) -> Span {
        let template = route::template(self.route);
        let name = if template.is_empty() {
            Cow::Borrowed(self.method)
        } else {
            Cow::Owned(format!("{} {template}", self.method))
        };
        let mut span = self.span(self.noted.context.span, &name, SpanKind::Server);
        if let Some(parent) = self.noted.parent {
            span.parent_span_id = parent.bytes().to_vec();
            span.flags |= IS_REMOTE;
        }
        (span.start_time_unix_nano, span.end_time_unix_nano) =
            (self.nanos(self.arrived), self.nanos(self.ended));
        let attributes = &mut span.attributes;
        text(attributes, "http.request.method", if self.method == "other" { "_OTHER" } else { self.method });
        if !template.is_empty() {
            text(attributes, "http.route", template);
        }
        if let Some(path) = self.path(template) {
            text(attributes, "url.path", path);
        }
        if self.status != 0 {
            number(attributes, "http.response.status_code", self.status.into());
        }
        if let Some(method) = self.noted.method {
            text(attributes, "mcp.method.name", method);
        }
        self.say_what(attributes, self.tool.as_ref().map(ToolName::as_str));
        if let Some(scheme) = self.scheme {
            text(attributes, "portcullis.scheme", scheme);
        }
        text(attributes, "portcullis.outcome", self.outcome.as_str());
        text(attributes, "portcullis.request_id", self.request_id.as_str());
        if let Some(error) = self.error() {
            text(attributes, "error.type", error);
        }
        // A client's own mistake is none of the server's (HTTP spans, Status).
        let is_ours = matches!(self.outcome, Outcome::PeerFailed | Outcome::Lost) || self.status >= 500;
        span.status = is_ours.then(|| failed(self.error().unwrap_or_default()));
        span
    }

    /// Why it did not go well.
    fn error(&self) -> Option<&'static str> {
        let outcome = match self.outcome {
            Outcome::Answered | Outcome::ToolAnswered => None,
            Outcome::ToolError
            | Outcome::PeerFailed
            | Outcome::Refused
            | Outcome::ClientGone
            | Outcome::Withdrawn
            | Outcome::Lost => Some(self.outcome.as_str()),
        };
        self.code.map(Code::as_str).or(outcome)
    }

    fn tried(&self, it: &Try) -> Span {
        let mut span =
            self.child(self.noted.try_span(it.number), it.asks.unwrap_or(it.method), SpanKind::Client);
        let ended = it.ended.unwrap_or(self.returned).max(it.began);
        (span.start_time_unix_nano, span.end_time_unix_nano) = (self.nanos(it.began), self.nanos(ended));
        let is_last = self.noted.tried == it.number;
        let attributes = &mut span.attributes;
        text(attributes, "http.request.method", it.method);
        text(attributes, "server.address", &*it.host);
        number(attributes, "server.port", it.address.port().into());
        text(attributes, "network.peer.address", it.address.ip().to_string());
        number(attributes, "network.peer.port", it.address.port().into());
        if it.number > 1 {
            number(attributes, "http.request.resend_count", (it.number - 1) as i64);
        }
        if let Some(method) = it.asks {
            text(attributes, "mcp.method.name", method);
        }
        self.say_what(attributes, self.tool.as_ref().map(ToolName::as_str));
        if let Some((at, is_reused)) = it.connected {
            let reused = KeyValue {
                key: "portcullis.connection.reused".to_owned(),
                ..value(Value::BoolValue(is_reused))
            };
            span.events.push(self.event(at, "connected", vec![reused]));
        }
        let status = it.answered.map(|(at, status)| {
            span.events.push(self.event(at, "answered", Vec::new()));
            number(&mut span.attributes, "http.response.status_code", status.into());
            status
        });
        // What ended the request ended its last try.
        let ended_by = || self.error().filter(|_| is_last && self.is_of_peer());
        let of_status =
            || status.filter(|status| *status >= 400).map(|status| Cow::Owned(status.to_string()));
        if let Some(error) =
            it.error.map(Cow::Borrowed).or_else(of_status).or_else(|| ended_by().map(Cow::Borrowed))
        {
            fail(&mut span, &error);
        }
        span
    }

    /// Whether what went wrong did at the server.
    fn is_of_peer(&self) -> bool {
        matches!(self.outcome, Outcome::PeerFailed | Outcome::ToolError)
    }

    fn say_what(&self, attributes: &mut Vec<KeyValue>, tool: Option<&str>) {
        if let Some(server) = &self.server {
            text(attributes, "portcullis.server", server.as_str());
        }
        if let Some(tool) = tool {
            text(attributes, "gen_ai.operation.name", "execute_tool");
            text(attributes, "gen_ai.tool.name", tool);
        }
    }

    /// The path by what is known, where the whole of it is.
    fn path(&self, template: &'static str) -> Option<Cow<'static, str>> {
        let path = match &self.server {
            Some(server) => Cow::Owned(template.replace("{server}", server.as_str())),
            None => Cow::Borrowed(template),
        };
        let path = match &self.tool {
            Some(tool) if path.contains("{tool}") => Cow::Owned(path.replace("{tool}", tool.as_str())),
            Some(_) | None => path,
        };
        (!path.is_empty() && !path.contains('{')).then_some(path)
    }

    fn child(&self, id: SpanId, name: &str, kind: SpanKind) -> Span {
        let mut span = self.span(id, name, kind);
        span.parent_span_id = self.noted.context.span.bytes().to_vec();
        span
    }

    fn span(&self, id: SpanId, name: &str, kind: SpanKind) -> Span {
        Span {
            trace_id: self.noted.context.trace.bytes().to_vec(),
            span_id: id.bytes().to_vec(),
            trace_state: self.noted.state.clone().unwrap_or_default(),
            flags: HAS_IS_REMOTE | u32::from(self.noted.context.flags()),
            name: name.to_owned(),
            kind: kind.into(),
            ..Span::default()
        }
    }

    fn event(&self, at: Instant, name: &str, attributes: Vec<KeyValue>) -> Event {
        Event { time_unix_nano: self.nanos(at), name: name.to_owned(), attributes, ..Event::default() }
    }

    /// A moment as a time of day. All of a request are reckoned from one, so that their order holds.
    fn nanos(&self, at: Instant) -> u64 {
        let at = match at.checked_duration_since(self.began) {
            Some(later) => self.at.checked_add(later),
            None => self.at.checked_sub(self.began - at),
        };
        let since = at.unwrap_or(self.at).duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

fn fail(span: &mut Span, error: &str) {
    text(&mut span.attributes, "error.type", error.to_owned());
    span.status = Some(failed(error));
}

fn failed(error: &str) -> Status {
    Status { code: StatusCode::Error.into(), message: error.to_owned() }
}

fn text(attributes: &mut Vec<KeyValue>, key: &str, said: impl Into<String>) {
    attributes.push(KeyValue { key: key.to_owned(), ..value(Value::StringValue(said.into())) });
}

fn number(attributes: &mut Vec<KeyValue>, key: &str, number: i64) {
    attributes.push(KeyValue { key: key.to_owned(), ..value(Value::IntValue(number)) });
}

/// A value without its key.
pub fn value(value: Value) -> KeyValue {
    KeyValue { value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
