//! No text goes on in which a parser that takes the last of equal keys finds a denied tool, and what is cut out of a
//! list is denied.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::mcp::tool_list::narrow;
use serde_json::{Value, from_str};

fn is_allowed(name: &str) -> bool {
    !name.starts_with('n')
}

fn tools(text: &str) -> Option<Vec<String>> {
    let message: Value = from_str(text).ok()?;
    let messages = message.as_array().cloned().unwrap_or_else(|| vec![message]);
    let tools = messages.iter().filter_map(|message| message.pointer("/result/tools")?.as_array());
    Some(tools.flatten().filter_map(|tool| Some(tool.get("name")?.as_str()?.to_owned())).collect())
}

fuzz_target!(|input: (u8, &str)| {
    let (frame, rest) = input;
    // The keys are far to guess, byte by byte.
    let text = match frame % 4 {
        0 => rest.to_owned(),
        1 => format!("{{\"result\":{{\"tools\":[{{\"name\":{rest}}}]}}}}"),
        2 => format!("{{\"result\":{{\"ttlMs\":1,\"tools\":[{rest}]}}}}"),
        _ => format!("[{{\"result\":{{\"tools\":[{{\"name\":\"n\"}},{rest}]}}}}]"),
    };
    match narrow(&text, &|name, _| is_allowed(name)) {
        Ok(Some(narrowed)) => {
            let allowed =
                tools(&text).map(|names| names.into_iter().filter(|name| is_allowed(name)).collect());
            // A tree reads a few texts not at all: too deep, numbers too large.
            assert!(allowed.is_none() || tools(&narrowed) == allowed);
            assert_eq!(narrow(&narrowed, &|name, _| is_allowed(name)), Ok(None));
        }
        Ok(None) => assert!(tools(&text).is_none_or(|names| names.iter().all(|name| is_allowed(name)))),
        Err(_) => {}
    }
});
