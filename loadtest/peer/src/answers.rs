//! What is always the same: the answer of a tool, and the two lists that say which tools there are.

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Value, json};

/// What a tool says.
pub static TEXT: LazyLock<String> = LazyLock::new(|| "x".repeat(1_000));

/// The same over REST: 1 KiB of JSON.
pub static REST: LazyLock<Bytes> = LazyLock::new(|| json!({"result": *TEXT}).to_string().into());

fn name(number: usize) -> String {
    match number {
        0 => "echo".to_owned(),
        1 => "events".to_owned(),
        2 => "idle".to_owned(),
        _ => format!("tool_{number}"),
    }
}

/// Whether a tool answers at once; the others are streams, or not there.
pub fn is_plain(name: &str) -> bool {
    name == "echo" || name.starts_with("tool_")
}

/// What a tool takes: of the size that real ones have.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "What to say, in any language; it is not looked at."},
            "count": {"type": "integer", "minimum": 0, "description": "How many events, of a tool that streams them."},
            "micros": {"type": "integer", "minimum": 0, "description": "Microseconds between two of them."},
        },
    })
}

fn description(name: &str) -> String {
    format!(
        "Tool `{name}` of the load test, which answers at once and always the same, whatever it is asked."
    )
}

/// The OpenAPI document.
pub fn document(count: usize) -> Bytes {
    let paths: serde_json::Map<_, _> = (0..count)
        .map(|number| {
            let name = name(number);
            let operation = json!({"post": {
                "operationId": name,
                "description": description(&name),
                "requestBody": {"content": {"application/json": {"schema": schema()}}},
                "responses": {"200": {"description": "ok"}},
            }});
            (format!("/{name}"), operation)
        })
        .collect();
    json!({"openapi": "3.1.0", "info": {"title": "peer", "version": "1"}, "paths": paths}).to_string().into()
}

/// The entries of `tools/list`.
pub fn tools(count: usize) -> Vec<Value> {
    let tool = |number| {
        let name = name(number);
        json!({"name": name, "description": description(&name), "inputSchema": schema()})
    };
    (0..count).map(tool).collect()
}
