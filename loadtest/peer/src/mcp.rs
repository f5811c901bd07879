//! The same tools over MCP: of revision 2026-07-28, where each request stands alone, and with sessions for older clients.
//!
//! Decides by the message alone; headers are not looked at.

use bytes::Bytes;
use hyper::{Response, StatusCode, http::HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    Body, JSON, answers,
    events::{Events, Pace, message},
    nothing, stream, whole,
};

/// A message; what is not looked at stays as it was written.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: &'a str,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Call<'a> {
    name: &'a str,
    #[serde(default)]
    arguments: Pace,
    #[serde(borrow, rename = "_meta")]
    meta: Option<Meta<'a>>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow, rename = "progressToken")]
    progress_token: Option<&'a RawValue>,
}

/// The answer to a message.
pub fn answer(count: usize, body: &[u8]) -> Response<Body> {
    let Ok(Message { id, method, params }) = serde_json::from_slice::<Message<'_>>(body) else {
        return nothing(StatusCode::BAD_REQUEST);
    };
    let Some(id) = id.map(RawValue::get) else { return nothing(StatusCode::ACCEPTED) };
    match method {
        "tools/call" => {
            let call = params.and_then(|params| serde_json::from_str::<Call<'_>>(params.get()).ok());
            call.map_or_else(|| nothing(StatusCode::BAD_REQUEST), |call| called(id, call))
        }
        "tools/list" => result(
            id,
            json!({"resultType": "complete", "ttlMs": 3_600_000, "cacheScope": "public", "tools": answers::tools(count)}),
        ),
        "server/discover" => result(
            id,
            json!({"resultType": "complete", "ttlMs": 3_600_000, "cacheScope": "public",
                "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
                "serverInfo": {"name": "peer", "version": "1"}}),
        ),
        "initialize" => {
            let mut greeting = result(
                id,
                json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {"listChanged": true}},
                    "serverInfo": {"name": "peer", "version": "1"}}),
            );
            greeting.headers_mut().insert("mcp-session-id", HeaderValue::from_static("one"));
            greeting
        }
        _ => error(id, StatusCode::NOT_FOUND, -32601, "there is no such method here"),
    }
}

fn called(id: &str, call: Call<'_>) -> Response<Body> {
    if answers::is_plain(call.name) {
        return whole(StatusCode::OK, JSON, tool_result(id).into());
    }
    if call.name != "events" {
        return error(id, StatusCode::OK, -32602, "there is no such tool here");
    }
    let token = call.meta.and_then(|meta| meta.progress_token).map_or("0", RawValue::get);
    stream(Events::of_call(call.arguments, token, message(&tool_result(id))))
}

/// Written piece by piece: it is made for each call. `id` is JSON as it came.
fn tool_result(id: &str) -> String {
    [
        r#"{"jsonrpc":"2.0","id":"#,
        id,
        r#","result":{"resultType":"complete","content":[{"type":"text","text":""#,
        &answers::TEXT,
        r#""}],"isError":false}}"#,
    ]
    .concat()
}

fn result(id: &str, result: Value) -> Response<Body> {
    let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
    whole(StatusCode::OK, JSON, Bytes::from(text))
}

fn error(id: &str, status: StatusCode, code: i32, message: &str) -> Response<Body> {
    let error = json!({"code": code, "message": message});
    whole(status, JSON, Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)))
}
