//! The look into a body agrees with serde_json about what is JSON and what is wrapped, however the body is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::upstream::arguments::{Peek, Whole};
use serde_json::{Value, from_slice};

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (size, is_begun, rest) = input;
    // The key is far to guess, byte by byte: half of the bodies begin with it.
    let body = &[if is_begun { b"{\"arguments\":" } else { &b""[..] }, rest].concat();
    let mut peek = Peek::new(true);
    let fed = body.chunks(usize::from(size) + 1).try_for_each(|piece| peek.feed(piece).map(drop));
    let is_json = from_slice::<serde::de::IgnoredAny>(body).is_ok() && std::str::from_utf8(body).is_ok();
    match fed.and_then(|()| peek.finish()) {
        Ok(Whole::Empty) => assert!(body.trim_ascii().is_empty() && !is_json),
        Ok(Whole::Plain) => assert!(is_json),
        Ok(Whole::Wrapped(inner)) => {
            let (whole, inner) = (from_slice::<Value>(body), from_slice::<Value>(&body[inner]));
            let (Ok(Value::Object(whole)), Ok(inner)) = (whole, inner) else { return };
            assert!(whole.len() == 1 && inner.is_object() && whole.get("arguments") == Some(&inner));
        }
        Err(_) => assert!(!is_json || body.iter().filter(|b| b"[{".contains(b)).count() > 512),
    }
});
