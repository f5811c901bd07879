//! Trips that failed: whose fault it was, how far they had come, and what the client is told.
//!
//! Decides by the framework's kind of error alone: its text quotes the bytes that were wrong, and is never
//! looked at or written down.

use pingora::{Error, ErrorSource, ErrorType};

use super::{framing, line::Line, tries::SOON};
use crate::{
    dial::tls,
    refusal::{Code, Refusal},
    upstream,
};

/// How far a trip had come that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The peer could not be asked.
    Unasked,
    /// It was asked.
    Asked,
    /// What was due did not come: the rest of the request, or the beginning of the answer.
    Overdue,
}

/// How far a failed trip had come.
pub fn of(error: &Error) -> Failure {
    if overdue().is_some() {
        return Failure::Overdue;
    }
    let refusal = error.root_cause().downcast_ref::<Refusal>();
    // No address was fit for it.
    let is_answer = refusal.is_some_and(|refusal| refusal.code() != Code::PeerUnreachable);
    let is_of_peer = *error.esource() == ErrorSource::Upstream && !is_about_connecting(error.etype());
    if is_answer || is_of_peer { Failure::Asked } else { Failure::Unasked }
}

fn is_about_connecting(etype: &ErrorType) -> bool {
    matches!(
        etype,
        ErrorType::ConnectTimedout
            | ErrorType::ConnectRefused
            | ErrorType::ConnectNoRoute
            | ErrorType::ConnectError
            | ErrorType::SocketError
            | ErrorType::TLSHandshakeFailure
            | ErrorType::TLSHandshakeTimedout
            | ErrorType::TLSWantX509Lookup
            | ErrorType::InvalidCert
            | ErrorType::HandshakeError
    )
}

/// What the client is told when the answer it waits for has not begun in time.
pub fn overdue() -> Option<Refusal> {
    let is_overdue = Line::current().is_some_and(|line| line.is_answer_overdue());
    is_overdue.then(|| Refusal::new(Code::PeerTooSlow, "the server did not answer in time"))
}

/// Whether the client said something that may not be read as the framework reads it.
fn is_misheard() -> bool {
    Line::current().is_some_and(|line| line.hearing().wrong().is_some())
}

/// Refuses answers that would lead away from the permitted address, or from HTTP.
pub fn refuse_leading_away(status: http::StatusCode) -> Result<(), Refusal> {
    let sentence = if status == http::StatusCode::SWITCHING_PROTOCOLS {
        "the server answered with another protocol, which it may not"
    } else if status.is_redirection() && status != http::StatusCode::NOT_MODIFIED {
        "the server answered with a redirect, which it may not"
    } else {
        return Ok(());
    };
    Err(Refusal::new(Code::PeerBadAnswer, sentence).because(format_args!("status {}", status.as_u16())))
}

/// What the client is told about a failed trip; `None` when there is no client any more.
pub fn refusal_for(error: &Error) -> Option<Refusal> {
    if let Some(refusal) = error.root_cause().downcast_ref::<Refusal>() {
        return Some(refusal.clone());
    }
    // Not the error itself: the framework's text quotes the peer's or the client's bytes.
    let word = if *error.esource() == ErrorSource::Upstream { tls::trouble(error) } else { None };
    let cause = format!("{} {}", error.esource().as_str(), word.unwrap_or_else(|| error.etype().as_str()));
    let refuse = |code, sentence: &'static str| Some(Refusal::new(code, sentence).because(cause.clone()));
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ErrorType::InvalidHTTPHeader) => {
            refuse(Code::BadRequest, "the request's headers are not acceptable")
        }
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => {
            let refusal = refuse(Code::BadRequest, "the body did not arrive in time");
            refusal.map(|refusal| refusal.limited("slow_sender", None))
        }
        // A broken chunk, for example.
        (ErrorSource::Downstream, ErrorType::Custom(_)) => Some(framing::broken().because(cause)),
        (ErrorSource::Downstream, _) if is_misheard() => Some(framing::broken().because(cause)),
        (ErrorSource::Downstream, _) => None,
        (
            ErrorSource::Upstream,
            ErrorType::ConnectTimedout
            | ErrorType::ReadTimedout
            | ErrorType::WriteTimedout
            | ErrorType::TLSHandshakeTimedout,
        ) => refuse(Code::PeerTooSlow, "the server did not answer in time"),
        (ErrorSource::Upstream, ErrorType::InvalidHTTPHeader | ErrorType::H1Error) => {
            refuse(Code::PeerBadAnswer, "the server answered with something that is not HTTP")
        }
        (ErrorSource::Upstream, etype) if is_about_connecting(etype) => {
            Some(upstream::unreachable(cause).retry_after(SOON))
        }
        (ErrorSource::Upstream, _) => Some(upstream::unreachable(cause)),
        _ => Some(Refusal::internal(cause)),
    }
}
