//! The access log: one JSON line a request on stdout, written by a thread of its own.
//!
//! A line that cannot be taken is dropped and counted rather than waited for. It can be switched on and off while the
//! gateway runs.

use std::{
    io::{BufWriter, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tracing::debug;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::{Record, Timing};
use crate::refusal::Code;

/// Lines that may wait for the writer.
const QUEUE: usize = 65_536;

/// Takes one line per request.
#[derive(Clone)]
pub struct AccessLog(Arc<Inner>);

struct Inner {
    is_on: AtomicBool,
    writer: NonBlocking,
}

/// Flushes what is waiting when dropped.
pub struct Flush {
    _worker: WorkerGuard,
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
    pub fn new(is_on: bool) -> (Self, Flush) {
        // The worker flushes when no line waits: under load many lines are one write, and none is held back.
        let stdout = BufWriter::with_capacity(64 * 1024, std::io::stdout());
        let (writer, worker) =
            NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).finish(stdout);
        (Self(Arc::new(Inner { is_on: AtomicBool::new(is_on), writer })), Flush { _worker: worker })
    }

    /// Whether requests that end from now on have their line.
    pub fn switch(&self, is_on: bool) {
        self.0.is_on.store(is_on, Ordering::Relaxed);
    }

    /// How many lines were dropped.
    pub fn dropped_lines(&self) -> u64 {
        self.0.writer.error_counter().dropped_lines() as u64
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
        let mut bytes = Vec::with_capacity(384);
        if serde_json::to_writer(&mut bytes, &line).is_ok() {
            bytes.push(b'\n');
            // The writer is lossy: a full queue drops the line and counts it.
            drop(self.0.writer.clone().write_all(&bytes));
        }
    }
}
