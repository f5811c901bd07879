//! The audit's entry of a request, written before its answer is whole.
//!
//! Decides which requests have one, and what stands in it. It is made when all of the answer is known and before the
//! client has it, so that no end of the process loses what somebody was answered.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    Call, Outcome, Record,
    entry::{Entry, LONGEST_TEXT, Shown},
};
use crate::refusal::Code;

impl Record {
    /// Writes the entry down, once: a request that several calls are made in has one for each.
    pub fn seal(&mut self) {
        if std::mem::replace(&mut self.is_sealed, true) || !self.is_audited() {
            return;
        }
        // Of several that were refused together none was made.
        let were_none_made = self.departed.is_none() && self.refusal.is_some() && self.calls.len() > 1;
        if self.calls.is_empty() || were_none_made {
            return self.write_entry(None, 0);
        }
        for (number, call) in (0..).zip(&self.calls) {
            self.write_entry(Some(call), number);
        }
    }

    /// Whether the entry is written already.
    pub fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    /// Whether anybody wants entries: what is only for them need not be made.
    pub fn wants_entry(&self) -> bool {
        self.recorder.audit.is_on()
    }

    /// Whatever a caller asks, and what strangers are refused, up to so many a second. Pages for anybody leave nothing behind.
    fn is_audited(&self) -> bool {
        let audit = &self.recorder.audit;
        audit.is_on() && (self.caller.is_some() || self.refusal.is_some() && audit.admits_stranger())
    }

    /// Allocates nothing: what it says is borrowed, or shown where it is written.
    fn write_entry(&self, call: Option<&Call>, number: u32) {
        let timing = self.timing();
        let caller = self.caller.as_deref();
        let arguments = call.and_then(|call| call.arguments.as_ref());
        let micros = |duration: std::time::Duration| duration.as_micros().try_into().unwrap_or(u64::MAX);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let tool = call.map(|call| call.tool.as_str()).or(self.tool.as_ref().map(|name| name.as_str()));
        let directory = caller.and_then(|caller| caller.directory());
        let directory = directory.map(|id| fmt::from_fn(move |f| write!(f, "{}/{}", id.tenant, id.object)));
        let user_agent = self.user_agent.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()));
        let trace_id = self.trace_id();
        self.recorder.audit.write(&Entry {
            at_micros: now.as_micros().try_into().unwrap_or(i64::MAX),
            request_id: self.request_id.as_str(),
            call: number,
            caller: caller.map(|caller| caller.name()),
            email: caller.and_then(|caller| caller.email()).map(|email| email.as_str()),
            directory: directory.as_ref().map(|directory| Shown(directory)),
            scheme: caller.map(|caller| caller.scheme().as_str()),
            grant: self.grant.as_ref().map(|grant| Shown(grant)),
            tenant: self.tenant.as_ref().map(|group| group.as_str()),
            method: self.method,
            endpoint: self.uri.as_ref().map_or("", |uri| beginning(uri.path())),
            route: self.route,
            rpc_method: self.rpc_method.as_deref().map(beginning),
            server: self.server.as_ref().map(|id| id.as_str()),
            tool: tool.map(beginning),
            outcome: self.outcome().as_str(),
            code: self.code().map(Code::as_str),
            reason: self.reason(),
            status: self.status,
            gateway_micros: micros(timing.gateway()),
            upstream_micros: micros(timing.upstream),
            request_bytes: self.received_bytes,
            response_bytes: self.sent_bytes,
            retries: self.retries,
            client: self.client,
            user_agent: user_agent.as_deref().map(beginning),
            argument_digest: arguments.map(|arguments| Shown(&arguments.digest)),
            arguments: arguments.and_then(|arguments| arguments.text.as_deref()),
            trace_id: trace_id.as_ref().map(|id| Shown(id)),
        });
    }

    /// Notes how the request ended, where nobody has said so yet.
    pub fn end_unless_said(&mut self, outcome: Outcome) {
        if self.outcome == Outcome::Lost {
            self.outcome = outcome;
        }
    }
}

/// As much of a text as is kept.
fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_TEXT)]
}
