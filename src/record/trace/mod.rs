//! Traces: the notes of a request, made into spans of OpenTelemetry once it has ended, and sent to a collector by OTLP.
//!
//! Decides which requests are noted (`crate::trace` how), and what becomes of the notes. What is not configured costs
//! nothing; what is never makes a call wait: spans go through a bounded queue to a thread of their own (`exporter.rs`),
//! and are dropped and counted where it is full. A span names no caller and holds no credential, body or query.

mod exporter;
mod sending;
mod spans;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use prometheus::IntCounter;
use tokio::sync::mpsc;

pub use exporter::{Exporter, Flush};
use spans::Ended;

use super::{Record, Timing};
use crate::{
    names::Secret,
    trace::{self, Leg, Sampler, Trace, TraceId},
};

/// Which requests are traced, and where their spans go.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where OTLP over HTTP is spoken: the whole URL.
    pub endpoint: String,
    /// What the collector is told besides: credentials, mostly.
    pub headers: Vec<(HeaderName, Secret<HeaderValue>)>,
    /// Which requests.
    pub sampling: trace::Settings,
    /// What the gateway is called.
    pub service_name: String,
    /// What else is said of it.
    pub resource: Vec<(String, String)>,
    /// Longest wait for the collector.
    pub timeout: Duration,
}

/// Traces requests, as one configuration says.
pub struct Tracer {
    sampler: Arc<Sampler>,
    queue: mpsc::Sender<Box<Ended>>,
    dropped: IntCounter,
}

impl Tracer {
    fn take(&self, ended: Ended) {
        let spans = ended.spans();
        if self.queue.try_send(Box::new(ended)).is_err() {
            self.dropped.inc_by(spans as u64);
        }
    }
}

impl Record {
    /// Begins the notes of a request that came with these headers, where requests are traced.
    pub fn begin_trace(&mut self, headers: &HeaderMap) {
        if let Some(tracer) = &self.recorder.tracer {
            self.trace = Trace::begin(&tracer.sampler, headers);
        }
    }

    /// Leaves no trace of a request that nobody follows.
    pub fn forget_own_trace(&mut self) {
        self.trace = self.trace.take().filter(|trace| trace.is_followed());
    }

    /// A step of the journey begins.
    pub fn enter(&self, leg: Leg) {
        if let Some(trace) = &self.trace {
            trace.enter(leg);
        }
    }

    /// The last step has ended, and what follows is none.
    pub fn leave(&self) {
        if let Some(trace) = &self.trace {
            trace.leave();
        }
    }

    /// The id of the trace, where the request is traced.
    pub fn trace_id(&self) -> Option<TraceId> {
        self.trace.as_ref()?.sampled_id()
    }

    /// Hands the notes over, where there are any.
    pub(super) fn hand_over_trace(&self, timing: Timing) {
        let Some((trace, tracer)) = self.trace.as_ref().zip(self.recorder.tracer.as_ref()) else { return };
        let Some(noted) = trace.take() else { return };
        let ended = self.arrived + timing.total;
        let returned = self.departed.filter(|_| !timing.upstream.is_zero()).map(|at| at + timing.upstream);
        tracer.take(Ended {
            at: trace.at,
            began: trace.began,
            arrived: self.arrived.min(trace.began),
            ended,
            returned: returned.map_or(ended, |returned: Instant| returned.min(ended)),
            noted,
            method: self.method,
            route: self.route,
            server: self.server.clone(),
            tool: self.tool.clone(),
            scheme: self.scheme,
            status: self.status,
            outcome: self.outcome,
            code: self.code(),
            request_id: self.request_id.clone(),
        });
    }
}
