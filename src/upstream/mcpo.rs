//! mcpo's way of saying "the tool said no", told apart from a broken peer.
//!
//! mcpo 0.0.20 answers 500 for both: its own error handler wraps the exception of a failed tool in
//! `{"detail":{"message":"Unexpected error","error":"500: {'message': '…'}"}}`. Only counts and
//! health depend on this; the answer itself passes through untouched.

use super::breaker::Fault;
use crate::catalog::server::Tier;

/// How much of an error body has to be looked at.
pub const ENOUGH_BYTES: usize = 512;

/// Whether a 500 with this beginning of a body is a tool's own answer.
pub fn is_tool_error(body: &[u8]) -> bool {
    let body = String::from_utf8_lossy(&body[..body.len().min(ENOUGH_BYTES)]);
    let is_wrapped = body.contains(r#""message":"Unexpected error""#) && body.contains(r#""error":"500: {"#);
    // These are wrapped the same way and come from mcpo itself.
    is_wrapped && !BROKEN.iter().any(|sign| body.contains(sign))
}

/// What mcpo says when the program it runs is gone, or its own session with it: the words of the MCP SDK and of anyio.
const BROKEN: [&str; 6] = [
    "MCP session is not available",
    "Connection closed",
    "ClosedResourceError",
    "BrokenResourceError",
    "Session terminated",
    "Attempted to exit cancel scope",
];

/// Whether a 500 with this beginning of a body says that what mcpo runs is broken.
pub fn is_broken(body: &[u8]) -> bool {
    let body = String::from_utf8_lossy(&body[..body.len().min(ENOUGH_BYTES)]);
    // mcpo's own handler did not see the exception: it is not the tool's.
    let is_bare = body.trim() == "Internal Server Error";
    is_bare || BROKEN.iter().any(|sign| body.contains(sign))
}

/// What a whole answer says of the peer that gave it, by its status and the beginning of its body; none that it is well.
pub fn fault_of(tier: Tier, status: u16, beginning: &[u8]) -> Option<Fault> {
    let is_broken = match status {
        502..=504 => true,
        // A tool that is not behind mcpo may say so for reasons of its own.
        500 => matches!(tier, Tier::Sse | Tier::Stdio) && is_broken(beginning),
        _ => false,
    };
    is_broken.then_some(Fault::SaidSo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, expected: bool) {
        assert_eq!(is_tool_error(body.as_bytes()), expected, "{body}");
    }

    #[test]
    fn a_wrapped_tool_error_is_the_tool_s_answer_and_a_dead_session_is_not() {
        check(
            r#"{"detail":{"message":"Unexpected error","error":"500: {'message': 'the tool says no'}"}}"#,
            true,
        );
        check(
            r#"{"detail":{"message":"Unexpected error","error":"500: {'message': 'MCP session is not available'}"}}"#,
            false,
        );
        check(r#"{"detail":{"message":"Connection closed"}}"#, false);
        check("Internal Server Error", false);
        check("", false);
    }

    #[test]
    fn only_what_mcpo_says_of_itself_counts_against_a_peer() {
        let tool = r#"{"detail":{"message":"Unexpected error","error":"500: {'message': 'no such file'}"}}"#;
        let broken = r#"{"detail":{"message":"Unexpected error","error":"ClosedResourceError()"}}"#;
        for (tier, status, body, is_fault) in [
            (Tier::Stdio, 500, tool, false),
            (Tier::Stdio, 500, broken, true),
            (Tier::Sse, 500, r#"{"detail":{"message":"Connection closed"}}"#, true),
            (Tier::Stdio, 500, "Internal Server Error", true),
            (Tier::Local, 500, "Internal Server Error", false),
            (Tier::Local, 503, "", true),
            (Tier::Local, 422, broken, false),
            (Tier::Local, 200, broken, false),
        ] {
            assert_eq!(fault_of(tier, status, body.as_bytes()).is_some(), is_fault, "{tier} {status} {body}");
        }
    }
}
