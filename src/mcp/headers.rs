//! Whether a request's headers say what its body says (MCP 2026-07-28, Transports, Request Headers).
//!
//! Decides nothing by a header alone: whoever routes or permits by one must be told the same by the
//! body. What is missing is the server's to judge; what stands there and differs is refused.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{WITH_BATCHES, is_modern, message::Body};
use crate::refusal::{Code, Refusal};

/// The revision a request speaks.
pub static PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// Its method, told to whoever does not read bodies.
pub static METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// The tool, prompt or resource it is about.
pub static NAME: HeaderName = HeaderName::from_static("mcp-name");
/// The session it belongs to (until 2025-11-25).
pub static SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// The last event a client saw of a stream (WHATWG HTML, server-sent events).
pub static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Beginning of the headers in which arguments of a tool are mirrored.
pub const PARAM_PREFIX: &str = "mcp-param-";

/// Refuses a header of the protocol that stands twice.
pub fn refuse_repeated(headers: &HeaderMap) -> Result<(), Refusal> {
    for name in [&PROTOCOL_VERSION, &METHOD, &NAME, &SESSION_ID, &LAST_EVENT_ID] {
        if headers.get_all(name).iter().nth(1).is_some() {
            let sentence = format!("`{name}` may stand only once");
            return Err(Refusal::new(Code::RepeatedHeader, sentence));
        }
    }
    Ok(())
}

/// The revision that the header names.
pub fn version(headers: &HeaderMap) -> Option<&str> {
    text(headers.get(&PROTOCOL_VERSION)?)
}

/// Refuses a body that holds what its headers do not say, and a batch where there are none.
pub fn refuse_disagreement(headers: &HeaderMap, body: &Body<'_>) -> Result<(), Refusal> {
    let message = match body {
        Body::One(message) => message,
        Body::Batch(_) => return refuse_batch(headers, body),
    };
    if let (Some(header), Some(body)) = (headers.get(&PROTOCOL_VERSION), message.version())
        && text(header) != Some(body)
    {
        return Err(mismatch("`MCP-Protocol-Version` and the body name different revisions"));
    }
    if let (Some(header), Some(method)) = (headers.get(&METHOD), message.method())
        && text(header) != Some(method)
    {
        return Err(mismatch("`Mcp-Method` and the body name different methods"));
    }
    if let (Some(header), Some(name)) = (headers.get(&NAME), message.header_name())
        && decoded(header).as_deref() != Some(name)
    {
        return Err(mismatch("`Mcp-Name` and the body name different things"));
    }
    Ok(())
}

fn refuse_batch(headers: &HeaderMap, body: &Body<'_>) -> Result<(), Refusal> {
    let is_of_its_time = headers.get(&PROTOCOL_VERSION).is_none_or(|value| text(value) == Some(WITH_BATCHES))
        && !body.version().is_some_and(is_modern);
    if !is_of_its_time {
        let sentence = "a batch may be sent in revision 2025-03-26 only";
        return Err(Refusal::new(Code::BadMessage, sentence));
    }
    if headers.contains_key(&METHOD) || headers.contains_key(&NAME) {
        return Err(mismatch("`Mcp-Method` and `Mcp-Name` cannot describe a batch"));
    }
    Ok(())
}

pub(super) fn mismatch(sentence: &'static str) -> Refusal {
    Refusal::new(Code::HeaderMismatch, sentence)
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok().map(|text| text.trim_matches([' ', '\t']))
}

/// A value in plain, or in the sentinel `=?base64?…?=` (strict: alphabet, padding, UTF-8).
pub(super) fn decoded(value: &HeaderValue) -> Option<String> {
    let text = text(value)?;
    match text.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok(),
        None => Some(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::message::peek;

    #[track_caller]
    fn check(headers: &[(&HeaderName, &str)], body: &str, expected: Option<Code>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let body = peek(body.as_bytes()).unwrap();
        let got = refuse_repeated(&map).and_then(|()| refuse_disagreement(&map, &body));
        assert_eq!(got.map_err(|refusal| refusal.code()).err(), expected, "{headers:?}");
    }

    const CALL: &str = r#"{"id":1,"method":"tools/call","params":{"name":"echo","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;

    #[test]
    fn headers_that_say_what_the_body_says_pass() {
        check(&[], CALL, None);
        check(&[(&PROTOCOL_VERSION, "2026-07-28"), (&METHOD, "tools/call"), (&NAME, "echo")], CALL, None);
        check(&[(&METHOD, " tools/call\t"), (&NAME, "=?base64?ZWNobw==?=")], CALL, None);
        check(&[(&NAME, "whatever")], r#"{"method":"notifications/x"}"#, None);
        check(&[(&NAME, "file:///a")], r#"{"method":"resources/read","params":{"uri":"file:///a"}}"#, None);
    }

    #[test]
    fn headers_that_say_something_else_are_refused() {
        let mismatch = Some(Code::HeaderMismatch);
        check(&[(&PROTOCOL_VERSION, "2025-11-25")], CALL, mismatch);
        check(&[(&METHOD, "tools/list")], CALL, mismatch);
        check(&[(&METHOD, "TOOLS/CALL")], CALL, mismatch);
        check(&[(&METHOD, "")], CALL, mismatch);
        for name in [
            "other",
            "Echo",
            "=?base64?ZWNobw=?=",
            "=?base64?ZWNobw?=",
            "=?base64?!!!!?=",
            "=?base64?/w==?=",
            "\u{e9}",
        ] {
            check(&[(&NAME, name)], CALL, mismatch);
        }
        check(&[(&NAME, "a"), (&NAME, "echo")], CALL, Some(Code::RepeatedHeader));
        check(&[(&SESSION_ID, "a"), (&SESSION_ID, "a")], CALL, Some(Code::RepeatedHeader));
    }

    #[test]
    fn batches_belong_to_one_revision() {
        let batch = r#"[{"id":1,"method":"ping"}]"#;
        check(&[], batch, None);
        check(&[(&PROTOCOL_VERSION, "2025-03-26")], batch, None);
        for version in ["2025-06-18", "2025-11-25", "2026-07-28", "2024-11-05", "x"] {
            check(&[(&PROTOCOL_VERSION, version)], batch, Some(Code::BadMessage));
        }
        check(&[], &format!("[{CALL}]"), Some(Code::BadMessage));
        check(&[(&METHOD, "ping")], batch, Some(Code::HeaderMismatch));
    }
}
