//! What messages say of the trace they belong to: `traceparent`, `tracestate` and `baggage` in `params._meta` (SEP-414).
//!
//! Decides where that stands, and which word for a method goes into a trace. Changes one thing in a message that passes
//! through: a `traceparent` of the same trace and the same length, in its place. Every other byte stays.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::memmem;

use super::members::{self, Members};
use crate::trace::{Carried, Context, LENGTH, TraceId};

const PARENT: &str = "traceparent";

/// What the first message of a body says of itself that says anything.
pub fn said(body: &[u8]) -> Option<Carried> {
    let text = text(body)?;
    metas(text).into_iter().find_map(|meta| {
        let value = |key| meta.get(key).and_then(members::text).unwrap_or_default();
        meta.get(PARENT)?;
        let parent = value(PARENT);
        Some(Carried::read(
            Some(parent.as_bytes()),
            value("tracestate").as_bytes(),
            value("baggage").as_bytes(),
        ))
    })
}

/// The body with `parent` in the place of each `traceparent` of the same trace; none where there is nothing to change.
pub fn with_parent(body: &[u8], trace: TraceId, parent: &str) -> Option<Bytes> {
    let text = text(body)?;
    let places: Vec<Range<usize>> = metas(text).iter().filter_map(|meta| place(text, meta, trace)).collect();
    if places.is_empty() || parent.len() != LENGTH {
        return None;
    }
    let mut changed = BytesMut::from(body);
    for place in places {
        changed[place].copy_from_slice(parent.as_bytes());
    }
    Some(changed.freeze())
}

/// Where a `traceparent` stands that can be replaced as it is: of this trace, and without an escape.
fn place(text: &str, meta: &Members<'_>, trace: TraceId) -> Option<Range<usize>> {
    let raw = meta.get(PARENT)?;
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    let is_of_trace = |context: Context| context.trace == trace;
    if inner.len() != LENGTH || !Context::parse(inner.as_bytes()).is_some_and(is_of_trace) {
        return None;
    }
    let start = inner.as_ptr().addr() - text.as_ptr().addr();
    Some(start..start + LENGTH)
}

/// The body as text, where it says anything of a trace: what does not is not read.
fn text(body: &[u8]) -> Option<&str> {
    memmem::find(body, PARENT.as_bytes())?;
    std::str::from_utf8(body).ok()
}

/// The `_meta` of each message.
fn metas(text: &str) -> Vec<Members<'_>> {
    let of = |message| Members::read(Members::read(Members::read(message)?.get("params")?)?.get("_meta")?);
    match members::items(text) {
        Some(messages) => messages.into_iter().filter_map(of).collect(),
        None => of(text).into_iter().collect(),
    }
}

/// A method's name, one of a closed set: others go by one name together.
pub fn method(name: &str) -> &'static str {
    METHODS.iter().find(|known| **known == name).copied().unwrap_or("_OTHER")
}

/// The methods of MCP, of both eras.
const METHODS: [&str; 23] = [
    "completion/complete",
    "initialize",
    "logging/setLevel",
    "notifications/cancelled",
    "notifications/initialized",
    "notifications/progress",
    "notifications/roots/list_changed",
    "ping",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "resources/templates/list",
    "resources/unsubscribe",
    "server/discover",
    "subscriptions/listen",
    "tasks/cancel",
    "tasks/get",
    "tasks/list",
    "tasks/update",
    "tools/call",
    "tools/list",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::mcp::message::tests::any_json;

    const SAID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const OURS: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-00";

    fn trace() -> TraceId {
        Context::parse(SAID.as_bytes()).unwrap().trace
    }

    fn call(meta: &str) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"a", "_meta" : {{{meta}}} }}}}"#
        )
    }

    #[test]
    fn a_message_says_which_trace_it_is_in() {
        let body =
            call(&format!(r#""progressToken":1,"traceparent":"{SAID}","tracestate":"a=1","baggage":"k=v""#));
        let carried = said(body.as_bytes()).unwrap();
        assert_eq!(carried.context.unwrap().text(), SAID);
        assert_eq!((carried.state.as_deref(), carried.baggage.as_deref()), (Some("a=1"), Some("k=v")));
        let batch = format!("[{},{body}]", call(""));
        assert_eq!(said(batch.as_bytes()), Some(carried));
        let escaped = call(&format!(r#""traceparent":"\u0030{}""#, &SAID[1..]));
        assert_eq!(said(escaped.as_bytes()).unwrap().context.unwrap().text(), SAID);
    }

    #[test]
    fn what_says_nothing_or_nonsense_is_no_trouble() {
        for body in [
            call(""),
            call(r#""x":"traceparent""#),
            format!(r#"{{"params":{{"arguments":{{"_meta":{{"traceparent":"{SAID}"}}}}}}}}"#),
            "traceparent".to_owned(),
            r#"{"params":"traceparent"}"#.to_owned(),
            r#"["traceparent"]"#.to_owned(),
            call(&format!(r#""traceparent":"{SAID}","traceparent":"{SAID}""#)),
        ] {
            assert_eq!(said(body.as_bytes()), None, "{body}");
            assert_eq!(with_parent(body.as_bytes(), trace(), OURS), None, "{body}");
        }
        for meta in [r#""traceparent":7"#, r#""traceparent":"00-x""#, r#""traceparent":null"#] {
            let carried = said(call(meta).as_bytes()).unwrap();
            assert_eq!(carried.context, None, "{meta}");
        }
    }

    #[test]
    fn a_parent_of_the_same_trace_is_replaced_in_its_place() {
        let body = call(&format!(r#""a":1.0e0,"traceparent": "{SAID}" "#));
        let changed = with_parent(body.as_bytes(), trace(), OURS).unwrap();
        assert_eq!(changed, body.replace(SAID, OURS));
        let other = SAID.replace("0af7", "1bf7");
        let batch = format!("[{body}, {}, {body}]", body.replace(SAID, &other));
        let changed = with_parent(batch.as_bytes(), trace(), OURS).unwrap();
        assert_eq!(changed, batch.replace(SAID, OURS));
        // Another trace's, one in another spelling, and one of a later version with more behind it.
        for kept in [other.clone(), format!("\\u0030{}", &SAID[1..]), format!("cc{}-more", &SAID[2..])] {
            assert_eq!(with_parent(body.replace(SAID, &kept).as_bytes(), trace(), OURS), None, "{kept}");
        }
    }

    #[test]
    fn methods_have_names_of_a_closed_set() {
        assert_eq!(method("tools/call"), "tools/call");
        assert_eq!((method("tools/Call"), method("")), ("_OTHER", "_OTHER"));
    }

    proptest! {
        #[test]
        fn no_other_byte_changes(arguments in any_json(), other in any_json(), blank in "[ \n\t]{0,3}") {
            let body = |parent: &str| {
                format!(r#"{{"params":{{"arguments":{arguments},{blank}"_meta":{{"x":{other},"traceparent"{blank}:"{parent}"}}}}}}"#)
            };
            let changed = with_parent(body(SAID).as_bytes(), trace(), OURS).unwrap();
            let expected = body(OURS);
            prop_assert_eq!(&changed[..], expected.as_bytes());
        }

        #[test]
        fn any_bytes_are_read_or_left_alone(
            mut body in proptest::collection::vec(any::<u8>(), 0..120), value in any_json(), is_json in any::<bool>(),
        ) {
            if is_json {
                let said: Value = serde_json::json!({"params": {"_meta": {"traceparent": SAID, "v": value}}});
                let at = body.len() % 40;
                body = said.to_string().into_bytes();
                body[at] = body[at].wrapping_add(1);
            }
            said(&body);
            if let Some(changed) = with_parent(&body, trace(), OURS) {
                prop_assert_eq!(changed.len(), body.len());
            }
        }
    }
}
