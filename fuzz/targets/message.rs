//! Of every body that is taken, serde_json reads the same method, tool and id; and what is taken is JSON in UTF-8.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::mcp::message;
use serde_json::{Value, from_slice, from_str};

fuzz_target!(|input: (u8, &[u8])| {
    let (frame, rest) = input;
    // The keys are far to guess, byte by byte.
    let (before, after): (&[u8], &[u8]) = match frame % 4 {
        0 => (b"", b""),
        1 => (b"{\"method\":\"tools/call\",\"params\":{\"name\":", b"}}"),
        2 => (b"{\"id\":1,\"method\":\"tools/call\",\"params\":{", b"}}"),
        _ => (b"[{\"method\":\"tools/call\",\"params\":{\"name\":\"a\"},", b"}]"),
    };
    let body = [before, rest, after].concat();
    let Ok(peeked) = message::peek(&body) else { return };
    let whole: Value = from_slice(&body).expect("what is taken is JSON");
    let messages = whole.as_array().cloned().unwrap_or_else(|| vec![whole]);
    assert_eq!(messages.len(), peeked.messages().len());
    for (read, message) in messages.iter().zip(peeked.messages()) {
        let method = read.get("method").and_then(Value::as_str);
        assert_eq!(message.method(), method);
        let name = read.pointer("/params/name").and_then(Value::as_str);
        let tool = (method == Some("tools/call")).then(|| name.unwrap_or_default());
        assert_eq!(message.tool(), tool);
        if let Some(id) = message.id() {
            assert_eq!(from_str::<Value>(id).ok().as_ref(), read.get("id"));
        }
    }
});
