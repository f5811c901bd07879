//! mcpo's way of saying "the tool said no", told apart from a broken peer.
//!
//! mcpo 0.0.20 answers 500 for both: its own error handler wraps the exception of a failed tool in
//! `{"detail":{"message":"Unexpected error","error":"500: {'message': '…'}"}}`. Only counts and
//! health depend on this; the answer itself passes through untouched.

/// How much of an error body has to be looked at.
pub const ENOUGH_BYTES: usize = 512;

/// Whether a 500 with this beginning of a body is a tool's own answer.
pub fn is_tool_error(body: &[u8]) -> bool {
    let body = String::from_utf8_lossy(&body[..body.len().min(ENOUGH_BYTES)]);
    let is_wrapped = body.contains(r#""message":"Unexpected error""#) && body.contains(r#""error":"500: {"#);
    // These are wrapped the same way and come from mcpo itself.
    let is_broken = body.contains("MCP session is not available") || body.contains("Connection closed");
    is_wrapped && !is_broken
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
}
