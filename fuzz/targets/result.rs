//! The body of REST for a tool's result is JSON, and the same again when it was made a result and unwrapped once more.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::mcp::result::{text_of, unwrap, wrap};
use serde_json::{Value, from_slice};

fuzz_target!(|input: (u8, &str)| {
    let (frame, rest) = input;
    // The keys are far to guess, byte by byte.
    let text = match frame % 4 {
        0 => rest.to_owned(),
        1 => format!("{{\"content\":[{{\"type\":\"text\",\"text\":{rest}}}]}}"),
        2 => format!("{{\"content\":[{{\"type\":\"image\",\"mimeType\":\"image/png\",\"data\":{rest}}},{{}}]}}"),
        _ => format!("{{\"structuredContent\":{rest}}}"),
    };
    let failed = wrap(u16::from(frame) + 300, None, rest.as_bytes(), true);
    let _ = (text_of(&text), text_of(&failed));
    assert!(unwrap(&failed).is_ok_and(|failed| failed.is_error));
    let Ok(first) = unwrap(&text) else { return };
    if first.is_error {
        return;
    }
    // A tree reads a few texts not at all: too deep, numbers too large.
    let Ok(tree) = from_slice::<Value>(&first.body) else { return };
    for is_modern in [false, true] {
        let again = wrap(200, Some("application/json"), &first.body, is_modern);
        let second = unwrap(&again).expect("what was wrapped unwraps");
        assert_eq!(from_slice::<Value>(&second.body).ok().as_ref(), Some(&tree));
    }
});
