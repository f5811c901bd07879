//! A refusal as JSON-RPC tells it (JSON-RPC 2.0 section 5.1; MCP 2026-07-28, Error Codes).
//!
//! Decides code, status and body on MCP routes. The protocol's own codes where it has one; every
//! other refusal has its HTTP status for a code, outside the range JSON-RPC keeps for itself.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::refusal::{Code, Refusal};

/// HTTP status on MCP routes. What may not be used is unknown, and that is an answer
/// (MCP 2025-11-25, Tools, Error Handling).
pub fn status(refusal: &Refusal) -> u16 {
    match refusal.code() {
        Code::UnknownTool | Code::UnknownOffer | Code::BadCursor => 200,
        code => code.status(),
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    jsonrpc: &'static str,
    /// Left out where the request's own could not be read (MCP 2025-11-25, Transports).
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: i32,
    message: &'a str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    code: &'static str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    supported: Option<&'a [&'static str]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requested: Option<&'a str>,
}

/// The body. `id` is the request's, as it stands there.
pub fn body(refusal: &Refusal, id: Option<&str>, request_id: &str) -> Vec<u8> {
    let id = id.and_then(|id| serde_json::from_str::<&RawValue>(id).ok());
    let gap = refusal.version_gap();
    let data = Data {
        code: refusal.code().as_str(),
        request_id,
        supported: gap.map(|gap| &gap.supported[..]),
        requested: gap.and_then(|gap| gap.requested.as_deref()),
    };
    let error = Error { code: code(refusal.code()), message: refusal.sentence(), data };
    serde_json::to_vec(&Answer { jsonrpc: "2.0", id, error }).expect("strings are always JSON")
}

fn code(code: Code) -> i32 {
    match code {
        Code::BodyNotJson => -32700,
        Code::BadMessage => -32600,
        Code::UnknownMethod => -32601,
        Code::UnknownTool | Code::UnknownOffer | Code::BadCursor | Code::BadParams => -32602,
        Code::HeaderMismatch => -32020,
        Code::UnsupportedVersion => -32022,
        code => i32::from(code.status()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_refusal_is_a_json_rpc_error_with_the_request_s_own_id() {
        let refusal = Refusal::new(Code::UnknownTool, "Unknown tool: x");
        let got: Value = serde_json::from_slice(&body(&refusal, Some("\"a-1\""), "r")).unwrap();
        assert_eq!(
            got,
            json!({"jsonrpc": "2.0", "id": "a-1", "error": {"code": -32602, "message": "Unknown tool: x",
                "data": {"code": "unknown_tool", "request_id": "r"}}})
        );
        assert_eq!(status(&refusal), 200);
    }

    #[test]
    fn an_unsupported_revision_names_those_that_are() {
        let refusal = Refusal::unsupported_version(vec!["2025-11-25"], Some("2026-07-28".into()));
        let got: Value = serde_json::from_slice(&body(&refusal, None, "r")).unwrap();
        assert_eq!(got.get("id"), None);
        assert_eq!(got["error"]["code"], -32022);
        assert_eq!(got["error"]["data"]["supported"], json!(["2025-11-25"]));
        assert_eq!(got["error"]["data"]["requested"], "2026-07-28");
        assert_eq!(status(&refusal), 400);
    }

    #[test]
    fn codes_of_our_own_are_outside_the_protocol_s() {
        for known in Code::ALL {
            let code = code(*known);
            assert!(
                code > 0 || [-32700, -32600, -32601, -32602, -32020, -32022].contains(&code),
                "{known:?}"
            );
        }
    }
}
