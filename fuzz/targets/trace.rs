//! What clients say of a trace never panics, and what is passed on of it reads the same again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::{
    mcp::traced,
    trace::{Carried, Context},
};

fuzz_target!(|data: (&[u8], &[u8], &[u8], bool)| {
    let (parent, state, rest, is_body) = data;
    let carried = Carried::read(Some(parent), state, rest);
    if let Some(context) = carried.context {
        assert_eq!(Context::parse(context.text().as_bytes()), Some(context));
    }
    let text = carried.context.map(|context| context.text());
    let again = Carried::read(
        text.as_deref().map(str::as_bytes),
        carried.state.as_deref().unwrap_or_default().as_bytes(),
        carried.baggage.as_deref().unwrap_or_default().as_bytes(),
    );
    assert_eq!(again, carried);
    assert!(carried.state.as_ref().is_none_or(|state| state.len() <= 512));
    let body = if is_body { rest } else { parent };
    let Some(context) = traced::said(body).and_then(|said| said.context) else { return };
    if let Some(changed) = traced::with_parent(body, context.trace, &context.text()) {
        assert_eq!(changed.len(), body.len());
    }
});
