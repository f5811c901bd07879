//! A call of MCP as a tool server without MCP knows it: one POST with the arguments, and its answer as a result.
//!
//! Decides the request's form; what the answer means, `mcp::result` does. A tool that says no is an answer of that
//! tool (`isError`), a server that breaks is a refusal.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::header;
use pingora::proxy::Session;

use super::{
    Speaker, answered,
    relay::{forsaken, left},
};
use crate::{
    access::Permit,
    catalog::tools::Tool,
    client::{fault_of, refusal_for},
    dial::wire::Incoming,
    gateway::{Gateway, decide::Step, failure, hygiene, journey::Journey, line::Line},
    mcp::{members::Members, result},
    record::Outcome,
    refusal::{Code, Refusal},
    trace::Trace,
    upstream::{self, Destination, Trip, breaker::Fault, mcpo},
};

/// An answer of a tool, as it came.
pub(in crate::gateway) struct Answered {
    /// Its HTTP status.
    pub status: u16,
    /// What its body is.
    pub media_type: Option<String>,
    /// Its body.
    pub body: Bytes,
}

impl Gateway {
    /// Calls a tool of a server that speaks REST, and answers with its result.
    pub(super) async fn call_rest(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        speaker: &Speaker,
        (permit, tool): (Permit, Arc<Tool>),
        (id, arguments): (&str, &str),
    ) -> Result<Step, Refusal> {
        if let Some(line) = Line::current() {
            line.outlive_client(!speaker.is_modern);
        }
        let Some(answered_by_tool) = self.ask_rest(session, journey, (permit, tool), arguments).await? else {
            return Ok(forsaken(session, journey));
        };
        let Answered { status, media_type, body } = answered_by_tool;
        let is_tool_s = status < 500 || status == 500 && mcpo::is_tool_error(&body);
        if !is_tool_s {
            // Not its word but its failure: the text of a broken server is nobody's business.
            return Err(Refusal::new(Code::PeerBadAnswer, "the server failed; try again later")
                .because(format_args!("status {status}")));
        }
        let result = result::wrap(status, media_type.as_deref(), &body, speaker.is_modern);
        let is_error = Members::read(&result).is_some_and(|members| members.get("isError") == Some("true"));
        journey.record.end_as(if is_error { Outcome::ToolError } else { Outcome::ToolAnswered });
        let result = if speaker.is_modern { crate::mcp::era::to_modern(&result, None) } else { result };
        Ok(answered(id, &result))
    }

    /// Calls a tool of a server that speaks REST; none when the client has left meanwhile.
    pub(in crate::gateway) async fn ask_rest(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        (permit, tool): (Permit, Arc<Tool>),
        arguments: &str,
    ) -> Result<Option<Answered>, Refusal> {
        let post = tool.post().ok_or_else(|| Refusal::internal("a tool of MCP has no path"))?;
        let (query, body) = post.split(arguments).ok_or_else(not_an_object)?;
        let query = (!query.is_empty()).then_some(query);
        let trip = upstream::plan(permit, tool.clone(), &self.current.load().addresses)?;
        let mut headers = hygiene::travelling(session.req_header());
        headers.insert(header::ACCEPT, http::HeaderValue::from_static("application/json, */*;q=0.5"));
        headers.insert(header::ACCEPT_ENCODING, http::HeaderValue::from_static("identity"));
        headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        let request_id = http::HeaderValue::from_str(journey.record.request_id.as_str());
        headers.insert("x-request-id", request_id.map_err(Refusal::internal)?);
        journey.record.depart();
        let is_repeatable = trip.is_repeatable() || hygiene::is_named_by_client(session.req_header());
        let calling = self.post(
            &trip,
            query.as_deref(),
            (headers, body.into_owned().into()),
            is_repeatable,
            journey.record.trace.clone(),
        );
        let answered = tokio::select! {
            answered = calling => Some(answered?),
            () = left(session) => None,
        };
        journey.record.arrive_back();
        Ok(answered)
    }

    /// Sends a call, and reads the answer whole.
    async fn post(
        &self,
        trip: &Trip,
        query: Option<&str>,
        (headers, body): (http::HeaderMap, Bytes),
        is_repeatable: bool,
        trace: Option<Arc<Trace>>,
    ) -> Result<Answered, Refusal> {
        let worded = |destination: &Destination| request(trip, destination, query, &headers, &body);
        let mut delivered = self.client.deliver(&trip.way(), is_repeatable, trace.as_ref(), worded).await?;
        let incoming = &mut delivered.incoming;
        failure::refuse_leading_away(incoming.status())?;
        let media_type = incoming.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.map(str::to_owned);
        if incoming.headers().contains_key(header::CONTENT_ENCODING) {
            let sentence = "the server's answer is encoded, though that was not accepted";
            return Err(Refusal::new(Code::PeerBadAnswer, sentence));
        }
        let status = incoming.status().as_u16();
        let reading = whole(incoming, self.settings.mcp.max_list_bytes, trip.server().deadlines.read);
        let read = match tokio::time::timeout(trip.server().deadlines.total, reading).await {
            Ok(read) => read,
            Err(_) => Err((Some(Fault::TooSlow), overdue())),
        };
        let (fault, read) = match read {
            Ok(body) => (mcpo::fault_of(trip.server().tier, status, &body), Ok(body)),
            Err((fault, refusal)) => (fault, Err(refusal)),
        };
        delivered.settle(fault);
        Ok(Answered { status, media_type, body: read? })
    }
}

/// All of an answer, or what that it is not says of the peer and to the client.
async fn whole(
    incoming: &mut Incoming,
    bound: usize,
    patience: Duration,
) -> Result<Bytes, (Option<Fault>, Refusal)> {
    let mut whole = BytesMut::new();
    let failed = |failed| (fault_of(failed), refusal_for(failed));
    while let Some(piece) = incoming.chunk(Some(patience)).await.map_err(failed)? {
        if whole.len() + piece.len() > bound {
            let sentence = "the tool's answer is larger than the gateway holds";
            return Err((None, Refusal::new(Code::PeerBadAnswer, sentence)));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

fn overdue() -> Refusal {
    Refusal::new(Code::PeerTooSlow, "the server did not end its answer in time")
}

fn request(
    trip: &Trip,
    destination: &Destination,
    query: Option<&str>,
    headers: &http::HeaderMap,
    body: &Bytes,
) -> Result<http::Request<Bytes>, Refusal> {
    let mut request = http::Request::builder().method(trip.method()).uri(trip.path(&destination.peer, query));
    if let Some(all) = request.headers_mut() {
        all.clone_from(headers);
        let host = destination.host.clone();
        all.insert(header::HOST, host);
        all.insert(header::CONTENT_LENGTH, body.len().into());
        if let Some(credential) = trip.credential() {
            all.insert(&credential.name, credential.value.expose().clone());
        }
    }
    request.body(body.clone()).map_err(Refusal::internal)
}

fn not_an_object() -> Refusal {
    Refusal::new(Code::BodyNotJson, "the arguments must be a JSON object, each member once")
}
