//! Addresses of resources, which must stay apart when many servers are shown as one.
//!
//! Decides what a server's address is called outside, and which bytes of a result are such an address. Never changes
//! text that only looks like one.

use std::borrow::Cow;

use super::{
    members::{Members, items, text},
    splice::{Splice, quoted},
};

/// The scheme of what the gateway shows.
const SCHEME: &str = "mcp:";

/// What an address, or a template of addresses, of a server is called outside.
pub fn outward(server: &str, uri: &str) -> String {
    format!("{SCHEME}{server}:{uri}")
}

/// The server and its own address; none for what was not made by [`outward`].
pub fn inward(uri: &str) -> Option<(&str, &str)> {
    let (server, uri) = uri.strip_prefix(SCHEME)?.split_once(':')?;
    (!server.is_empty()).then_some((server, uri))
}

/// The parameters of `notifications/resources/updated` with its address as it is called outside.
pub fn params_outward<'a>(server: &str, params: &'a str) -> Cow<'a, str> {
    let uri = Members::read(params).and_then(|params| params.get("uri"));
    mapped(server, params, uri.into_iter().collect())
}

/// The error with the address that its data names as it is called outside.
pub fn error_outward<'a>(server: &str, error: &'a str) -> Cow<'a, str> {
    let data = Members::read(error).and_then(|error| Members::read(error.get("data")?));
    mapped(server, error, data.and_then(|data| data.get("uri")).into_iter().collect())
}

/// The result with every address of a resource as it is called outside: in `content` of a call, in `messages` of a
/// prompt and in `contents` of what was read.
pub fn result_outward<'a>(server: &str, result: &'a str) -> Cow<'a, str> {
    // Most results name no resource. A key may be written with escapes.
    let names_some = |needle: &[u8]| memchr::memmem::find(result.as_bytes(), needle).is_some();
    if !names_some(b"\"uri\"") && !names_some(b"\\u00") {
        return Cow::Borrowed(result);
    }
    let Some(members) = Members::read(result) else { return Cow::Borrowed(result) };
    let mut found = Vec::new();
    for content in members.get("content").and_then(items).unwrap_or_default() {
        found.extend(in_content(content));
    }
    for message in members.get("messages").and_then(items).unwrap_or_default() {
        let content = Members::read(message).and_then(|message| message.get("content"));
        let Some(content) = content else { continue };
        found.extend(items(content).unwrap_or_else(|| vec![content]).into_iter().filter_map(in_content));
    }
    for contents in members.get("contents").and_then(items).unwrap_or_default() {
        found.extend(Members::read(contents).and_then(|contents| contents.get("uri")));
    }
    mapped(server, result, found)
}

/// The text with these of its parts, each an address, as they are called outside.
fn mapped<'a>(server: &str, whole: &'a str, uris: Vec<&'a str>) -> Cow<'a, str> {
    let mut splice = Splice::new(whole);
    let mut is_changed = false;
    for uri in uris {
        let Some(own) = text(uri) else { continue };
        splice.replace(uri, quoted(&outward(server, &own)));
        is_changed = true;
    }
    if is_changed { Cow::Owned(splice.finish()) } else { Cow::Borrowed(whole) }
}

/// The address in a part of content: a link, or a resource put in.
fn in_content(content: &str) -> Option<&str> {
    let content = Members::read(content)?;
    match &*text(content.get("type")?)? {
        "resource_link" => content.get("uri"),
        "resource" => Members::read(content.get("resource")?)?.get("uri"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::mcp::message::tests::any_json;

    #[test]
    fn an_address_is_taken_apart_as_it_was_put_together() {
        assert_eq!(outward("git", "file:///{path}"), "mcp:git:file:///{path}");
        assert_eq!(inward("mcp:git:file:///a:b"), Some(("git", "file:///a:b")));
        assert_eq!(inward("mcp:git:"), Some(("git", "")));
        for text in ["", "mcp:", "mcp::x", "mcp:git", "MCP:git:x", " mcp:git:x", "file:///x"] {
            assert_eq!(inward(text), None, "{text}");
        }
    }

    #[test]
    fn only_addresses_of_resources_are_mapped() {
        for (result, expected) in [
            (
                r#"{"content":[{"type":"resource_link", "uri":"a:1","name":"uri"},{"type":"resource","resource":{"uri":"a\u003a2","text":"\"uri\":\"x\""}},{"type":"text","text":"","uri":"a:3"},{"type":"resource","uri":"a:4"}],"structuredContent":{"uri":"a:5"}}"#,
                r#"{"content":[{"type":"resource_link", "uri":"mcp:s:a:1","name":"uri"},{"type":"resource","resource":{"uri":"mcp:s:a:2","text":"\"uri\":\"x\""}},{"type":"text","text":"","uri":"a:3"},{"type":"resource","uri":"a:4"}],"structuredContent":{"uri":"a:5"}}"#,
            ),
            (
                r#"{"messages":[{"role":"user","content":{"type":"resource","resource":{"\u0075ri":"a"}}},{"content":[{"type":"resource_link","uri":"b"}]}]}"#,
                r#"{"messages":[{"role":"user","content":{"type":"resource","resource":{"\u0075ri":"mcp:s:a"}}},{"content":[{"type":"resource_link","uri":"mcp:s:b"}]}]}"#,
            ),
            (
                r#"{"contents":[{"uri":"a","text":""},{"uri":"b","blob":""},{"uri":7}]}"#,
                r#"{"contents":[{"uri":"mcp:s:a","text":""},{"uri":"mcp:s:b","blob":""},{"uri":7}]}"#,
            ),
        ] {
            assert_eq!(result_outward("s", result), expected);
        }
        for result in [
            "{}",
            r#"{"uri":"a"}"#,
            r#"{"content":"uri","contents":[["uri"]],"messages":null}"#,
            r#"{"content":[{"type":"resource_link","name":"x"}],"a":"\u00e9"}"#,
            "no JSON \"uri\"",
        ] {
            assert!(matches!(result_outward("s", result), Cow::Borrowed(same) if same == result), "{result}");
        }
    }

    #[test]
    fn notifications_and_errors_name_resources_too() {
        assert_eq!(params_outward("s", r#"{ "uri":"a","_meta":{} }"#), r#"{ "uri":"mcp:s:a","_meta":{} }"#);
        assert_eq!(params_outward("s", "{}"), "{}");
        let error = r#"{"code":-32002,"message":"a","data":{"uri":"a"}}"#;
        assert_eq!(error_outward("s", error), error.replace("\"uri\":\"a\"", "\"uri\":\"mcp:s:a\""));
        assert_eq!(error_outward("s", r#"{"data":"uri"}"#), r#"{"data":"uri"}"#);
    }

    proptest! {
        #[test]
        fn every_address_comes_back(server in "[a-z][a-z0-9_-]{0,20}", uri in ".{0,60}") {
            let outside = outward(&server, &uri);
            prop_assert_eq!(inward(&outside), Some((&*server, &*uri)));
        }

        #[test]
        fn no_text_is_taken_apart_but_what_was_put_together(text in "(mcp:)?[a-z:/]{0,20}") {
            if let Some((server, uri)) = inward(&text) {
                prop_assert_eq!(outward(server, uri), text);
            }
        }

        #[test]
        fn no_byte_around_an_address_changes(other in any_json(), uri in ".{0,20}", blank in "[ \n]{0,3}") {
            let result = |uri: &str| format!(
                r#"{{{blank}"structuredContent":{other},"content":[{{"a":{other},"type":"resource_link","uri":{}{blank}}},{other}]{blank}}}"#,
                quoted(uri)
            );
            // The other part may hold such an address too.
            let holds_one = result_outward("s", &format!(r#"{{"content":[{other}],"\u0061":0}}"#)).contains("mcp:s:");
            prop_assume!(!holds_one);
            let mapped = result_outward("s", &result(&uri)).into_owned();
            prop_assert_eq!(mapped, result(&outward("s", &uri)));
        }

        #[test]
        fn any_text_is_mapped_or_stays(text in ".{0,80}", value in any_json()) {
            let _ = result_outward("s", &format!("{{\"content\":{text}\"uri\""));
            let mapped = result_outward("s", &value.to_string()).into_owned();
            prop_assert!(serde_json::from_str::<Value>(&mapped).is_ok());
        }
    }
}
