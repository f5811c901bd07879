//! The only writer of bytes the gateway answers itself: pages and refusals.
//!
//! Decides framing and the headers every answer carries. A refusal keeps the client's connection:
//! what is left of its body is read away within bounds, or the connection is closed cleanly.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use pingora::{http::ResponseHeader, proxy::Session};
use serde::Serialize;

use super::{cors, hygiene, journey::Journey, limiting, resource};
use crate::{
    endpoints::Answer,
    mcp,
    record::Outcome,
    refusal::{Code, Refusal},
};

/// Longest wait for the rest of a refused request's body.
const DRAIN: Duration = Duration::from_secs(1);
/// The same for a body without a told length that is larger than what may be sent: it may have no end.
const DRAIN_ENDLESS: Duration = Duration::from_millis(20);
/// A longer refused body is not worth its reading: the connection is closed instead.
const DRAIN_BYTES: u64 = 1024 * 1024;

/// Marks answers to the predecessor's `POST /{server}_{tool}`.
pub const DEPRECATION: &str = "deprecation";

#[derive(Serialize)]
struct RefusalBody<'a> {
    detail: &'a str,
    code: &'static str,
    request_id: &'a str,
}

/// Answers with a page.
pub async fn answer(session: &mut Session, journey: &mut Journey, answer: Answer) -> pingora::Result<()> {
    let mut header = ResponseHeader::build(answer.status, Some(12))?;
    if !answer.content_type.is_empty() {
        header.insert_header(header::CONTENT_TYPE, answer.content_type)?;
    }
    for (name, value) in answer.headers {
        header.insert_header(name, value)?;
    }
    // What a server was asked for has an outcome already.
    journey.record.end_unless_said(Outcome::Answered);
    write(session, journey, header, answer.body).await
}

/// Answers with a refusal.
pub async fn refuse(session: &mut Session, journey: &mut Journey, refusal: &Refusal) -> pingora::Result<()> {
    journey.record.refuse(refusal);
    let header = refusal_header(refusal, journey)?;
    let body = refusal_body(refusal, journey);
    if refusal.is_closing() {
        session.set_keepalive(None);
    } else {
        keep_connection(session, refusal);
    }
    write(session, journey, header, body).await
}

/// Answers a trip that failed; the framework closes the connection afterwards, and the header says so.
pub async fn fail(session: &mut Session, journey: &mut Journey, refusal: &Refusal) -> pingora::Result<()> {
    journey.record.refuse(refusal);
    if super::has_begun(session) {
        // The head of an answer is out: the only honest end is a cut one.
        return Ok(());
    }
    let header = refusal_header(refusal, journey)?;
    let body = refusal_body(refusal, journey);
    session.set_keepalive(None);
    write(session, journey, header, body).await
}

fn refusal_header(refusal: &Refusal, journey: &Journey) -> pingora::Result<ResponseHeader> {
    let status = match journey.rpc {
        Some(_) => mcp::error::status(refusal),
        None => refusal.code().status(),
    };
    let mut header = ResponseHeader::build(status, Some(12))?;
    header.insert_header(header::CONTENT_TYPE, "application/json")?;
    header.insert_header(header::CACHE_CONTROL, "no-store")?;
    if header.status == http::StatusCode::UNAUTHORIZED || refusal.code() == Code::InsufficientScope {
        let challenge =
            resource::challenge(refusal.code(), journey.rpc.as_ref().and_then(|rpc| rpc.sign_in.as_deref()));
        header.insert_header(header::WWW_AUTHENTICATE, challenge)?;
    }
    limiting::mark(&mut header, refusal.limit().and_then(|limited| limited.quota))?;
    if let Some(secs) = refusal.retry_after_secs() {
        header.insert_header(header::RETRY_AFTER, secs)?;
    }
    if let Some(methods) = refusal.allow() {
        header.insert_header(header::ALLOW, methods)?;
    }
    Ok(header)
}

fn refusal_body(refusal: &Refusal, journey: &Journey) -> Bytes {
    if let Some(rpc) = &journey.rpc {
        let request_id = journey.record.request_id.as_str();
        return mcp::error::body(refusal, rpc.id.as_deref(), request_id).into();
    }
    refusal_text(refusal, journey).into()
}

/// A refusal as the REST faces tell it.
pub fn refusal_text(refusal: &Refusal, journey: &Journey) -> String {
    let body = RefusalBody {
        detail: refusal.sentence(),
        code: refusal.code().as_str(),
        request_id: journey.record.request_id.as_str(),
    };
    serde_json::to_string(&body).expect("three strings are always JSON")
}

async fn write(
    session: &mut Session,
    journey: &mut Journey,
    mut header: ResponseHeader,
    body: Bytes,
) -> pingora::Result<()> {
    mark(&mut header, journey)?;
    cors::mark(&mut header, journey)?;
    let is_bodiless = session.req_header().method == http::Method::HEAD
        || header.status == http::StatusCode::NO_CONTENT
        || header.status == http::StatusCode::NOT_MODIFIED;
    if header.status != http::StatusCode::NOT_MODIFIED && header.status != http::StatusCode::NO_CONTENT {
        header.insert_header(header::CONTENT_LENGTH, body.len())?;
    }
    journey.record.status = header.status.as_u16();
    end_connection_when_draining(session);
    if !is_bodiless {
        journey.record.sent_bytes = body.len() as u64;
    }
    journey.seal(session);
    session.write_response_header(Box::new(header), is_bodiless).await?;
    if !is_bodiless {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

/// Begins an answer of events (WHATWG HTML, server-sent events), with these headers besides.
pub async fn open_events(
    session: &mut Session,
    journey: &mut Journey,
    headers: &[(&'static str, String)],
) -> pingora::Result<()> {
    let mut header = ResponseHeader::build(200, Some(12))?;
    header.insert_header(header::CONTENT_TYPE, "text/event-stream")?;
    header.insert_header(header::CACHE_CONTROL, "no-store")?;
    // Proxies that hold back what they read would hold events back (MCP 2026-07-28, Transports).
    header.insert_header("x-accel-buffering", "no")?;
    header.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    for (name, value) in headers {
        header.insert_header(*name, value.as_str())?;
    }
    mark(&mut header, journey)?;
    cors::mark(&mut header, journey)?;
    hygiene::frame_for(session.req_header().version, &mut header);
    journey.record.status = 200;
    journey.begin_answer(session).map_err(super::refused)?;
    journey.note_own_stream().map_err(super::refused)?;
    end_connection_when_draining(session);
    session.write_response_header(Box::new(header), false).await
}

/// Sends an event: its name, and data of any number of lines.
pub async fn send_event(
    session: &mut Session,
    journey: &mut Journey,
    name: &str,
    data: &str,
) -> pingora::Result<()> {
    let event = event(name, data);
    send_piece(session, journey, event).await
}

/// Sends the last event, of which the audit hears first, and ends the answer.
pub async fn send_last_event(
    session: &mut Session,
    journey: &mut Journey,
    name: &str,
    data: &str,
) -> pingora::Result<()> {
    let event = event(name, data);
    journey.record.sent_bytes += event.len() as u64;
    journey.record.end_unless_said(Outcome::Answered);
    journey.seal(session);
    session.write_response_body(Some(event), false).await?;
    end_events(session).await
}

fn event(name: &str, data: &str) -> Bytes {
    let mut event = String::with_capacity(data.len() + name.len() + 24);
    event.push_str("event: ");
    event.push_str(name);
    // A `\r` ends a line like a `\n` does; JSON has neither inside its strings.
    for line in data.split(['\r', '\n']) {
        event.push_str("\ndata: ");
        event.push_str(line);
    }
    event.push_str("\n\n");
    event.into()
}

/// Sends a comment, which clients ignore and whoever stands between takes for life.
pub async fn send_comment(session: &mut Session, journey: &mut Journey) -> pingora::Result<()> {
    send_piece(session, journey, Bytes::from_static(b":\n\n")).await
}

async fn send_piece(session: &mut Session, journey: &mut Journey, piece: Bytes) -> pingora::Result<()> {
    journey.record.sent_bytes += piece.len() as u64;
    session.write_response_body(Some(piece), false).await
}

/// Ends an answer of events.
pub async fn end_events(session: &mut Session) -> pingora::Result<()> {
    session.write_response_body(None, true).await
}

/// Puts on what every answer carries, the peer's included.
pub fn mark(header: &mut ResponseHeader, journey: &Journey) -> pingora::Result<()> {
    header.insert_header("x-request-id", journey.record.request_id.as_str())?;
    limiting::mark(header, journey.held.quota())?;
    if let Some(preferred) = &journey.preferred_url {
        header.insert_header(DEPRECATION, "true")?;
        header.insert_header(header::LINK, format!("<{preferred}>; rel=\"successor-version\""))?;
    }
    Ok(())
}

/// Says that the connection ends with this answer if the process does: another request would meet nobody.
pub fn end_connection_when_draining(session: &mut Session) {
    if session.is_process_shutting_down() {
        session.set_keepalive(None);
    }
}

/// Lets the connection live on after a refusal, if the rest of the request's body is worth reading.
fn keep_connection(session: &mut Session, refusal: &Refusal) {
    let headers: &HeaderMap = &session.req_header().headers;
    let is_waiting = headers.contains_key(header::EXPECT);
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    // Nobody knows how much more there is of a body in chunks that is too large already.
    let is_endless = length.is_none() && refusal.code() == Code::BodyTooLarge;
    let patience = if is_endless { DRAIN_ENDLESS } else { DRAIN };
    if !is_waiting && length.is_none_or(|bytes| bytes <= DRAIN_BYTES) {
        let session = session.as_downstream_mut();
        session.set_close_on_response_before_downstream_finish(false);
        session.set_total_drain_timeout(Some(patience));
    }
}
