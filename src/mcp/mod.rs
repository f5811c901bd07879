//! The Model Context Protocol without I/O: what a body asks for, and what may be seen of an answer.
//!
//! Decides what a message is, whether header and body agree on it, and how a refusal is told in
//! JSON-RPC. Bytes in, bytes out: never reads a socket, a clock or the configuration, and never
//! decides who may do what.

use std::fmt;

pub mod answer;
pub mod era;
pub mod error;
pub mod headers;
pub mod members;
pub mod message;
mod object;
pub mod outgoing;
pub mod param_headers;
pub mod question;
pub mod result;
pub mod session;
pub mod splice;
pub mod sse;
pub mod told;
pub mod tool_list;
pub mod traced;
pub mod uri;

/// An answer of a server that nobody gets, because it might show what it must not or says nothing that can be passed
/// on. Says why, for the record alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable(&'static str);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Unreadable {}

/// The first revision without a handshake and sessions: each request tells everything about itself.
pub const FIRST_MODERN: &str = "2026-07-28";

/// The one revision in which a body may hold several messages, and the one assumed when a client names none
/// (MCP 2025-06-18, Transports, Protocol Version Header).
pub const WITH_BATCHES: &str = "2025-03-26";

/// Whether this revision is a modern one. Revisions are dates, so they compare as text.
pub fn is_modern(version: &str) -> bool {
    let is_date = version.len() == FIRST_MODERN.len()
        && version.bytes().zip(FIRST_MODERN.bytes()).all(|(byte, known)| match known {
            b'-' => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    is_date && version >= FIRST_MODERN
}
