//! Of every message of a server that is taken, serde_json reads the same members; and what crosses eras or has its
//! addresses named anew is JSON again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::mcp::{era, question, told, told::Told, uri};
use serde_json::{Value, from_str};

fn is_json(text: &str) {
    // A tree reads a few texts not at all: too deep, numbers too large.
    let read: Result<serde::de::IgnoredAny, _> = from_str(text);
    assert!(read.is_ok(), "{text}");
}

fuzz_target!(|input: (u8, &str)| {
    let (frame, rest) = input;
    // The keys are far to guess, byte by byte.
    let text = match frame % 5 {
        0 => rest.to_owned(),
        1 => format!("{{\"id\":1,\"result\":{{\"content\":[{{\"type\":\"resource_link\",\"uri\":{rest}}}]}}}}"),
        2 => format!("{{\"id\":1,\"result\":{{\"resultType\":\"input_required\",\"inputRequests\":{rest}}}}}"),
        3 => format!("{{\"id\":1,\"result\":{{{rest}}}}}"),
        _ => format!("{{\"method\":\"a\",\"params\":{{{rest}}}}}"),
    };
    let _ = question::read(text.as_bytes());
    let Ok(told) = told::read(&text) else { return };
    let tree: Option<Value> = from_str(&text).ok();
    if let (Some(tree), [Told::Result { result, .. }]) = (&tree, &told[..])
        && tree.is_object()
    {
        assert_eq!(from_str::<Value>(result).ok().as_ref(), tree.get("result"));
    }
    for told in told {
        if let Told::Result { result, .. } = &told {
            is_json(&era::to_modern(result, None));
            is_json(&era::to_legacy(result));
            is_json(&uri::result_outward("s", result));
            if let Some(input) = era::InputRequired::read(result) {
                assert_eq!(era::InputRequired::read(&input.to_result()), Some(input));
            }
        }
        let _ = told.progress_token();
    }
});
