//! What a phase of the framework may end with: its own errors alone, so a refusal goes in their clothes.
//!
//! Decides that a panic is a refusal too. Writes nothing: `reply` does.

use std::panic::AssertUnwindSafe;

use pingora::{Error, ErrorType, proxy::Session};

use crate::refusal::Refusal;

/// A phase whose panic becomes a refusal: by itself the framework would hang up without a word.
pub(super) fn caught<T>(phase: impl FnOnce() -> pingora::Result<T>) -> pingora::Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(phase))
        .unwrap_or_else(|_panic| Err(refused(Refusal::internal("a panic in a phase; the log has its place"))))
}

/// Whether the head of an answer has been written.
pub(super) fn has_begun(session: &Session) -> bool {
    session.response_written().is_some_and(|written| !written.status.is_informational())
}

pub(super) fn no_end() -> Box<Error> {
    refused(Refusal::internal("a panic while answering; the log has its place"))
}

pub(super) fn no_trip() -> Box<Error> {
    refused(Refusal::internal("a phase of a trip without a trip"))
}

/// A refusal in Pingora's clothes, for phases that can only fail.
pub(super) fn refused(refusal: Refusal) -> Box<Error> {
    Error::because(ErrorType::Custom("refused"), "", refusal)
}
