//! What an entry is in the table: its texts of a size that columns take, and without what a database has no place for.
//!
//! Decides nothing else: what a call leaves behind, the record says, and which columns are made of it, `store`.

use std::{borrow::Cow, sync::LazyLock};

use memchr::memmem::Finder;
use serde_json::{Map, Value};

use super::super::entry::Entry;

/// Characters of a text that is kept.
const WORDS: usize = 1_024;
/// Bytes of arguments that are kept: what `arguments` keeps of them, with its mark.
const ARGUMENTS: usize = 64 * 1024 + 8;
/// The member that may be so long.
const ARGUMENTS_NAME: &str = "arguments";

/// How a NUL stands in JSON. Behind another backslash it is none, and costs a closer look alone.
static NUL: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(r"\u0000"));

/// An entry's JSON as a database takes it: as it is, where it cannot hold a long text or a NUL, which Postgres has no
/// place for. None where it is no JSON at all.
pub fn sound(json: &str) -> Option<Cow<'_, str>> {
    // No text in it is longer than all of it: so far without looking at each.
    if json.len() <= WORDS && NUL.find(json.as_bytes()).is_none() {
        return Some(Cow::Borrowed(json));
    }
    let mut members: Map<String, Value> = serde_json::from_str(json).ok()?;
    for (name, value) in &mut members {
        if let Value::String(text) = value {
            clean(text, if name == ARGUMENTS_NAME { ARGUMENTS } else { WORDS });
        }
    }
    serde_json::to_string(&members).ok().map(Cow::Owned)
}

/// At most so many characters, with `�` for a NUL.
fn clean(text: &mut String, most: usize) {
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
    }
    if text.contains('\0') {
        *text = text.replace('\0', "\u{fffd}");
    }
}

/// An entry whose line is of a size that can be read again at once: what could be long is cut.
pub fn bounded<'e>(entry: &Entry<'e>) -> Entry<'e> {
    let cut = |text: &'e str, most| &text[..text.floor_char_boundary(most)];
    let words = |text: Option<&'e str>| text.map(|text| cut(text, WORDS));
    Entry {
        endpoint: cut(entry.endpoint, WORDS),
        rpc_method: words(entry.rpc_method),
        tool: words(entry.tool),
        user_agent: words(entry.user_agent),
        arguments: entry.arguments.map(|text| cut(text, ARGUMENTS)),
        ..*entry
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{super::line::tests::entry, *};

    fn json(text: &str) -> String {
        serde_json::to_string(&entry(&text.to_owned())).unwrap()
    }

    #[test]
    fn a_usual_entry_passes_as_it_is() {
        let json = json("alice@example.com");
        assert!(matches!(sound(&json), Some(Cow::Borrowed(same)) if same == json), "{} bytes", json.len());
    }

    #[test]
    fn texts_are_cut_to_what_is_kept_and_hold_no_nul() {
        for text in ["ä\0".repeat(100_000), "ä".repeat(100_000), "\0".to_owned(), "\\\0\\u0000".to_owned()]
        {
            let json = json(&text);
            let row = sound(&json).unwrap();
            assert!(matches!(row, Cow::Owned(_)));
            let row: Map<String, Value> = serde_json::from_str(&row).unwrap();
            let of = |most| text.chars().take(most).collect::<String>().replace('\0', "\u{fffd}");
            for name in ["caller", "tool", "endpoint", "request_id", "grant", "trace_id"] {
                assert_eq!(row[name], of(WORDS), "{name}");
            }
            assert_eq!(row["arguments"], of(ARGUMENTS));
            assert_eq!((&row["status"], &row["at_micros"]), (&200.into(), &1_796_083_199_123_456_i64.into()));
            assert_eq!(row.len(), 29);
        }
    }

    #[test]
    fn no_text_is_longer_than_is_kept_however_long_its_entry_is() {
        let rest = json("").len() - 2;
        for length in [WORDS - rest, WORDS - rest + 1, WORDS, WORDS + 1, 3 * WORDS] {
            let text = "x".repeat(length);
            let json = serde_json::to_string(&Entry { tool: Some(&text), ..entry(&String::new()) }).unwrap();
            let row: Map<String, Value> = serde_json::from_str(&sound(&json).unwrap()).unwrap();
            assert_eq!(row["tool"], text[..length.min(WORDS)], "{length}");
        }
    }

    #[test]
    fn a_line_is_never_longer_than_is_read_at_once() {
        let (short, long) = ("short".to_owned(), "\u{1}".repeat(1 << 20));
        let (short, long) = (entry(&short), entry(&long));
        let Entry { tool, rpc_method, arguments, endpoint, user_agent, .. } = long;
        let long = Entry { tool, rpc_method, arguments, endpoint, user_agent, ..short };
        let mut line = Vec::new();
        super::super::line::write(&mut line, Uuid::now_v7(), &bounded(&long));
        assert!(line.len() < super::super::batch::READ_AT_ONCE, "{} bytes", line.len());
        let json = |entry| serde_json::to_string(entry).unwrap();
        assert_eq!(json(&bounded(&short)), json(&short));
    }
}
