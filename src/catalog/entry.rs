//! One entry of a list of MCP: a tool, a prompt, a resource, a template.
//!
//! Decides which entries could spoil the lists they are put into: clients take a list as a whole or not at all, so one
//! server's odd entry would cost its readers every server's. Never decides what an entry means.

use std::borrow::Cow;

use super::tools::Skipped;
use crate::mcp::{members::Members, splice::Splice};

/// Deepest nesting of one entry: clients give up at little more.
const MAX_DEPTH: usize = 64;

/// An entry as strict clients take it. `optional` names members it may have, and what their values begin with; those that
/// are `null`, as some servers write what they do not have, are taken out.
pub(super) fn cleaned<'a>(raw: &'a str, optional: &[(&str, char)]) -> Result<Cow<'a, str>, &'static str> {
    if depth(raw) > MAX_DEPTH {
        return Err("it is nested too deep");
    }
    let members = Members::read(raw).ok_or("it is no object, or has a member twice")?;
    let mut nulls = Vec::new();
    for (name, first) in optional {
        match members.get(name) {
            Some("null") => nulls.push(*name),
            Some(value) if !value.starts_with(*first) => {
                return Err("a member of it is not of the kind that MCP says");
            }
            Some(_) | None => {}
        }
    }
    if nulls.is_empty() {
        return Ok(raw.into());
    }
    Ok(Splice::new(raw).remake(&members, |name| nulls.contains(&name), &[]).finish().into())
}

/// An entry of a list that is not offered.
pub(super) fn skip(name: &str, why: &'static str) -> Skipped {
    Skipped { operation: name.chars().take(100).flat_map(char::escape_debug).collect(), why }
}

/// How deep JSON text is nested.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = json.bytes();
    let mut is_text = false;
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_text = !is_text,
            b'\\' if is_text => drop(bytes.next()),
            b'{' | b'[' if !is_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPTIONAL: &[(&str, char)] = &[("title", '"'), ("icons", '[')];

    #[track_caller]
    fn check(raw: &str, expected: Result<&str, &str>) {
        assert_eq!(cleaned(raw, OPTIONAL).as_deref().map_err(|why| *why), expected, "{raw}");
    }

    #[test]
    fn an_entry_is_kept_as_it_is_but_for_what_it_says_it_does_not_have() {
        for kept in [r#"{}"#, r#"{ "name" : 1.0 , "x":null}"#, r#"{"title":"","icons":[]}"#] {
            check(kept, Ok(kept));
        }
        check(r#"{"title":null,"name":"a","icons":null}"#, Ok(r#"{"name":"a"}"#));
        check(r#"{"name":"a","title": null}"#, Ok(r#"{"name":"a"}"#));
    }

    #[test]
    fn an_entry_that_clients_refuse_is_not_kept() {
        check(r#"{"title":1}"#, Err("a member of it is not of the kind that MCP says"));
        check(r#"{"icons":{}}"#, Err("a member of it is not of the kind that MCP says"));
        check(r#"[]"#, Err("it is no object, or has a member twice"));
        check(r#"{"a":1,"a":1}"#, Err("it is no object, or has a member twice"));
        let nested = |depth: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(cleaned(&nested(63), OPTIONAL).is_ok());
        assert_eq!(cleaned(&nested(64), OPTIONAL), Err("it is nested too deep"));
        assert_eq!(cleaned(&nested(100_000), OPTIONAL), Err("it is nested too deep"));
    }

    proptest! {
        #[test]
        fn brackets_in_texts_are_no_nesting(text in ".*") {
            prop_assert_eq!(depth(&serde_json::to_string(&[&text]).unwrap()), 1);
        }
    }
}
