//! The members of one JSON object, each as it was written.
//!
//! Decides which bytes of an object are which member's, and that no member stands twice. Copies no value and never
//! looks into one: what is passed on stays as it is, numbers and unknown members included.

use std::borrow::Cow;

use serde::de::MapAccess;
use serde_json::value::RawValue;

use super::object::{Text, reads_object};

/// From so many members on, names are sorted to find one that stands twice.
const FEW: usize = 16;

/// An object's members in their order.
#[derive(Debug, Clone, Default)]
pub struct Members<'a> {
    /// The object, without what stands around it.
    whole: &'a str,
    list: Vec<(Cow<'a, str>, &'a str)>,
}

impl<'a> Members<'a> {
    /// Reads an object; none where it is no object in JSON, or has a member twice.
    pub fn read(object: &'a str) -> Option<Self> {
        let Listed(list) = serde_json::from_str(object).ok()?;
        let members = Self { whole: trimmed(object), list };
        (!members.has_twins()).then_some(members)
    }

    /// The text of a member's value.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.iter().find_map(|(name, value)| (name == key).then_some(value))
    }

    /// All members: the name, and the text of the value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.list.iter().map(|(name, value)| (&**name, *value))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The object as it was written; empty for what was not read.
    pub fn whole(&self) -> &'a str {
        self.whole
    }

    fn has_twins(&self) -> bool {
        if self.list.len() <= FEW {
            let mut names = self.list.iter().map(|(name, _)| name);
            return std::iter::from_fn(|| names.next().map(|name| names.clone().any(|other| other == name)))
                .any(|is_twin| is_twin);
        }
        let mut names: Vec<&str> = self.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.windows(2).any(|pair| pair[0] == pair[1])
    }
}

/// A JSON string's text; none for any other value, and for one that is no text (half of a surrogate pair).
pub fn text(raw: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(raw).ok().map(|text| text.0)
}

/// The values of a JSON array, each as it was written; none for any other value.
pub fn items(raw: &str) -> Option<Vec<&str>> {
    let items: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
    Some(items.into_iter().map(RawValue::get).collect())
}

/// Without the white space of JSON around it.
pub(super) fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\r', '\n'])
}

struct Listed<'a>(Vec<(Cow<'a, str>, &'a str)>);

reads_object!(Listed, read_listed);

fn read_listed<'de, A: MapAccess<'de>>(mut map: A) -> Result<Listed<'de>, A::Error> {
    let mut list = Vec::new();
    while let Some(key) = map.next_key::<Text<'de>>()? {
        let value: &RawValue = map.next_value()?;
        list.push((key.0, value.get()));
    }
    Ok(Listed(list))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::mcp::message::tests::any_json;

    #[test]
    fn members_are_slices_of_the_object_in_their_order() {
        let object = " { \"a\" : 1.0e0 ,\"b\\u0063\":{ \"a\":2 },\"\":\"x\"} ";
        let members = Members::read(object).unwrap();
        let listed: Vec<_> = members.iter().collect();
        assert_eq!(listed, [("a", "1.0e0"), ("bc", "{ \"a\":2 }"), ("", "\"x\"")]);
        assert_eq!(members.whole(), object.trim());
        assert!(object.as_bytes().as_ptr_range().contains(&members.get("bc").unwrap().as_ptr()));
        assert!(members.get("c").is_none() && !members.is_empty());
        assert!(Members::read("{}").unwrap().is_empty() && Members::default().is_empty());
    }

    #[test]
    fn what_is_no_object_with_each_member_once_is_none() {
        let many = (0..40).map(|at| format!("\"{at}\":0")).collect::<Vec<_>>().join(",");
        assert!(Members::read(&format!("{{{many}}}")).is_some());
        for text in [
            "",
            "[]",
            "null",
            "{",
            "{}{}",
            "{\"a\":1,}",
            "{\"a\":NaN}",
            "{\"a\":1,\"a\":1}",
            "{\"a\":1,\"b\":2,\"\\u0061\":3}",
            "{\"\\ud800\":1}",
            &format!("{{{many},\"7\":1}}"),
        ] {
            assert!(Members::read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn depth_is_no_danger() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let object = format!("{{\"a\":{deep}}}");
        assert_eq!(Members::read(&object).unwrap().get("a"), Some(&*deep));
        assert_eq!(items(&deep).unwrap().len(), 1);
    }

    #[test]
    fn only_strings_are_text_and_only_arrays_have_items() {
        assert_eq!(text(r#""a\u00e9\n""#).as_deref(), Some("aé\n"));
        for raw in ["1", "null", "[]", r#""\ud800""#, "\"a", ""] {
            assert_eq!(text(raw), None, "{raw}");
        }
        assert_eq!(items(" [1, {\"a\":2} ,\"x\"]").unwrap(), ["1", "{\"a\":2}", "\"x\""]);
        assert!(items("{}").is_none() && items("[1").is_none() && items("[]").unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn serde_json_reads_the_same_members(value in any_json()) {
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            for text in [value.to_string(), pretty] {
                let members = Members::read(&text);
                prop_assert_eq!(members.is_some(), value.is_object());
                let Some(members) = members else { continue };
                let read: serde_json::Map<String, Value> =
                    members.iter().map(|(key, raw)| (key.to_owned(), serde_json::from_str(raw).unwrap())).collect();
                // Not the value itself: a number is written and read with the last digit rounded.
                let whole: Value = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(Some(&read), whole.as_object());
            }
        }
    }
}
