//! What the framework's phases note of a traced trip, and what goes along to its peer.
//!
//! Decides nothing: where nothing is traced there is nothing to note, and what the client said of a trace travels as it
//! is. Of a body that passes through, it changes a `traceparent` of the same trace alone, in its place.

use bytes::Bytes;
use http::HeaderMap;
use pingora::{Error, ErrorType, http::RequestHeader};

use super::journey::{Journey, Underway};
use crate::{
    mcp::traced,
    names::ToolName,
    refusal::{Code, Refusal},
    trace::Trace,
};

impl Underway {
    /// Chooses where the trip goes next, and notes it as another try.
    pub async fn next(&mut self) -> Result<(), Refusal> {
        self.tries.next(&mut self.trip).await?;
        if let (Some(trace), Some(destination)) = (&self.trace, self.tries.destination(&self.trip)) {
            let is_mcp = self.cargo.exchange().is_some();
            let asks = is_mcp.then(|| trace.method().unwrap_or("_OTHER"));
            trace.begin_try(&destination.peer.host, destination.address, asks);
            trace.sends(&self.trip.method());
        }
        Ok(())
    }

    /// Turns the next bytes from the client into the next bytes for the peer.
    pub fn pass(
        &mut self,
        body: &mut Option<Bytes>,
        is_end: bool,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        self.cargo.pass(body, is_end, headers)?;
        if let (true, Some(trace), Some(bytes)) = (is_end, &self.trace, body.as_ref())
            && self.cargo.exchange().is_some()
        {
            let outgoing = trace.outgoing();
            *body = traced::with_parent(bytes, outgoing.trace, &outgoing.parent).or_else(|| body.take());
        }
        Ok(())
    }

    /// Notes that the try has ended, and why.
    pub fn note_failed_try(&self, error: &Error) {
        let Some(trace) = &self.trace else { return };
        if let ErrorType::HTTPStatus(status) = error.etype() {
            trace.answered(*status);
        }
        let refusal = error.root_cause().downcast_ref::<Refusal>();
        let word = match refusal {
            Some(refusal) => refusal.code().as_str(),
            None if super::failure::overdue().is_some() => Code::PeerTooSlow.as_str(),
            None => error.etype().as_str(),
        };
        trace.end_try(Some(word));
    }
}

impl Journey {
    /// The whole body of a message of MCP is here: it may say which trace it belongs to.
    pub fn note_message(&self, body: &[u8]) {
        if let Some(trace) = &self.record.trace
            && let Some(said) = traced::said(body)
        {
            trace.adopt(said);
        }
    }

    /// Notes what is asked by a message of MCP, and the tools that a batch calls.
    pub fn note_asked(&self, method: Option<&str>, batch: &[(String, u32)]) {
        if let Some(trace) = &self.record.trace {
            if let Some(method) = method {
                trace.note_method(traced::method(method));
            }
            if !batch.is_empty() {
                // What is no tool's name may be anything, and of any length.
                let name = |tool| if ToolName::parse(tool).is_ok() { tool } else { "_OTHER" };
                trace.note_calls(batch.iter().map(|(tool, count)| (name(tool.as_str()), *count)));
            }
        }
    }
}

/// Puts what goes along with the present try into its request.
pub fn write(trace: Option<&Trace>, request: &mut RequestHeader) -> pingora::Result<()> {
    let Some(trace) = trace else { return Ok(()) };
    for (name, said) in trace.outgoing().headers() {
        match said {
            Some(said) => request.insert_header(name, said)?,
            None => _ = request.remove_header(name),
        }
    }
    Ok(())
}
