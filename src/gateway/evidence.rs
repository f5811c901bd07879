//! What the audit is told of a request while it passes, and the moment when it has to know.
//!
//! Decides when an answer is whole: the entry is written before the last of it is the client's (`record::sealing`). Never
//! changes a byte.

use bytes::Bytes;
use http::{StatusCode, Version, header, request::Parts};
use pingora::{http::ResponseHeader, proxy::Session};

use super::{
    journey::{Cargo, Journey, Stage},
    native::Heard,
};
use crate::{
    catalog::{Catalog, server::Server},
    mcp::question::Question,
    record::{Call, Outcome, arguments::Arguments},
    route,
};

impl Journey {
    /// What a request says of itself, for the audit.
    pub fn note_request(&mut self, request: &Parts) {
        if self.record.wants_entry() {
            self.record.uri = Some(request.uri.clone());
            self.record.user_agent = request.headers.get(header::USER_AGENT).cloned();
        }
    }

    /// What is called of a server, and with what, for the audit.
    pub fn note_call(&mut self, server: &Server, tool: &str, arguments: Option<&[u8]>) {
        if self.record.wants_entry() {
            let arguments = arguments.map(|bytes| Arguments::of(bytes, server.audits_arguments));
            self.record.calls = vec![Call { tool: tool.to_owned(), arguments }];
        }
    }

    /// What a message of MCP says, for the audit.
    pub fn note_heard(&mut self, heard: Heard) {
        self.record.rpc_method = heard.method;
        self.record.calls = heard.calls;
    }

    /// What is asked at a face of the gateway's own, for the audit, whoever it is about.
    pub fn note_question(&mut self, question: &Question<'_>, catalog: &Catalog) {
        if !self.record.wants_entry() {
            return;
        }
        self.record.rpc_method = Some(question.method.to_string());
        if question.method == "tools/call" {
            let arguments = Arguments::of(question.arguments().unwrap_or("{}").as_bytes(), false);
            self.note_named(catalog, &question.name().unwrap_or_default(), Some(arguments));
        }
    }

    /// A tool that was asked for by the name it has where all servers are one, whether it may be used or exists.
    pub fn note_named(&mut self, catalog: &Catalog, name: &str, arguments: Option<Arguments>) {
        if !self.record.wants_entry() {
            return;
        }
        let mut tool = name;
        if self.record.server.is_none() {
            let is_there = |(server, _): &(&str, &str)| catalog.get(server).is_some();
            if let Some((server, plain)) = route::legacy_readings(name).find(is_there) {
                tool = plain;
                self.record.server = catalog.get(server).map(|server| server.id.clone());
            }
        }
        self.record.calls = vec![Call { tool: tool.to_owned(), arguments }];
    }

    /// What has passed of what is underway, for the audit.
    pub(super) fn note_cargo(&mut self) {
        let Stage::Underway(underway) = &mut self.stage else { return };
        match &mut underway.cargo {
            Cargo::Arguments(outbound) => {
                let tool = self.record.tool.as_ref().map(|name| name.as_str().to_owned()).unwrap_or_default();
                self.record.calls = vec![Call { tool, arguments: outbound.arguments() }];
            }
            Cargo::Native(exchange) => {
                if let Some(heard) = exchange.heard.take() {
                    self.note_heard(heard);
                }
            }
        }
    }

    /// The answer is whole, and about to be the client's: the audit has it first.
    pub fn seal(&mut self, session: &Session) {
        if self.record.is_sealed() {
            return;
        }
        self.record.received_bytes = session.as_downstream().body_bytes_read() as u64;
        self.note_cargo();
        if let Stage::Underway(underway) = &self.stage
            && self.record.code().is_none()
        {
            self.record.end_as(underway.answer.outcome());
        }
        if self.record.code().is_some() && self.is_withdrawn() {
            self.record.end_as(Outcome::Withdrawn);
        }
        self.record.seal();
    }

    /// The head of the answer as its client gets it: one without a body is the whole answer.
    pub fn note_answer_length(&mut self, header: &ResponseHeader, session: &Session) {
        let length = match header.status {
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => Some(0),
            _ => {
                header.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
            }
        };
        if let Some(underway) = self.underway() {
            underway.answer.length_left = length;
            if length == Some(0) {
                self.record.arrive_back();
                self.seal(session);
            }
        }
    }

    /// Hears a piece of the peer's answer, before anything of it is changed: whether the answer is whole with it, or may be
    /// to its client. One of HTTP/1.0 takes any end of the connection for that of an answer without a length.
    pub fn hear_answer(&mut self, piece: &Option<Bytes>, is_end: bool, client: Version) -> bool {
        let Some(underway) = self.underway() else { return is_end };
        let left = underway.answer.length_left;
        let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
        let is_last = is_end || left.is_some_and(|left| left <= length);
        let verdict = underway.cargo.exchange().and_then(|exchange| exchange.hear_answer(piece, is_last));
        if let Some(is_error) = verdict {
            underway.answer.is_tool_error = is_error;
        }
        is_last || verdict.is_some() || left.is_none() && client < Version::HTTP_11
    }

    /// Notes a piece of the answer as it goes to the client: whether it is the last, by the length that was told.
    pub fn note_sent(&mut self, piece: &Bytes) -> bool {
        self.record.sent_bytes += piece.len() as u64;
        let Some(underway) = self.underway() else { return false };
        let left = &mut underway.answer.length_left;
        *left = left.map(|left| left.saturating_sub(piece.len() as u64));
        *left == Some(0)
    }
}
