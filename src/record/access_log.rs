//! The access log: one JSON line a request on stdout, written by a thread of its own.
//!
//! A line that cannot be taken is dropped and counted rather than waited for. It can be switched on and off while the
//! gateway runs.

use std::{
    cell::RefCell,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tracing::debug;

pub use super::lines::Flush;
use super::{Record, Timing, lines::Lines};
use crate::refusal::Code;

thread_local! {
    /// Where a line is put together.
    static DRAFT: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(512));
}

/// Takes one line per request.
#[derive(Clone)]
pub struct AccessLog(Arc<Inner>);

struct Inner {
    is_on: AtomicBool,
    lines: Lines,
}

#[derive(Serialize)]
struct Line<'a> {
    time: f64,
    request_id: &'a str,
    method: &'a str,
    route: &'a str,
    status: u16,
    outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheme: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<std::net::IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    gateway_millis: f64,
    upstream_millis: f64,
    sent_bytes: u64,
    #[serde(skip_serializing_if = "is_zero")]
    retries: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl AccessLog {
    /// A log on stdout, switched on or off.
    pub fn new(is_on: bool) -> io::Result<(Self, Flush)> {
        let (lines, flush) = Lines::to(io::stdout(), "access log")?;
        Ok((Self(Arc::new(Inner { is_on: AtomicBool::new(is_on), lines })), flush))
    }

    /// Whether requests that end from now on have their line.
    pub fn switch(&self, is_on: bool) {
        self.0.is_on.store(is_on, Ordering::Relaxed);
    }

    /// How many lines were dropped.
    pub fn dropped_lines(&self) -> u64 {
        self.0.lines.dropped()
    }

    pub(super) fn write(&self, record: &Record, timing: Timing) {
        debug!(
            request.id = %record.request_id,
            server.id = record.server.as_ref().map(|id| id.as_str()),
            tool.name = record.listed_tool().map(|name| name.as_str()),
            code = record.code().map(Code::as_str),
            "request of route `{}` ended with {}: {}",
            record.route,
            record.status,
            record.outcome.as_str(),
        );
        if !self.0.is_on.load(Ordering::Relaxed) {
            return;
        }
        let millis = |duration: std::time::Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        let line = Line {
            time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| millis(now) / 1e3),
            request_id: record.request_id.as_str(),
            method: record.method,
            route: record.route,
            status: record.status,
            outcome: record.outcome.as_str(),
            code: record.code().map(Code::as_str),
            reason: record.reason(),
            cause: record.refusal.as_ref().and_then(|refused| refused.cause.as_deref()),
            server: record.server.as_ref().map(|id| id.as_str()),
            tool: record.listed_tool().map(|name| name.as_str()),
            scheme: record.scheme,
            client: record.client,
            trace_id: record.trace_id().map(|id| id.to_string()),
            gateway_millis: millis(timing.gateway()),
            upstream_millis: millis(timing.upstream),
            sent_bytes: record.sent_bytes,
            retries: record.retries,
        };
        DRAFT.with_borrow_mut(|draft| {
            draft.clear();
            if serde_json::to_writer(&mut *draft, &line).is_ok() {
                draft.push(b'\n');
                self.0.lines.put(draft);
            }
        });
    }
}
