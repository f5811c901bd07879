//! A JSON text with some of its parts replaced, and every other byte as it was.
//!
//! Decides where commas go when members come and go. Never parses what stays, and never judges what is put in: it
//! must be JSON.

use std::{borrow::Cow, ops::Range};

use super::members::Members;

/// Edits of one text, done at once by [`Splice::finish`].
#[derive(Debug)]
pub struct Splice<'a> {
    source: &'a str,
    edits: Vec<(Range<usize>, Cow<'a, str>)>,
}

impl<'a> Splice<'a> {
    /// Begins without edits.
    pub fn new(source: &'a str) -> Self {
        Self { source, edits: Vec::new() }
    }

    /// Puts `with` in the place of a part of the source (of the same memory, not of equal text).
    pub fn replace(&mut self, part: &'a str, with: impl Into<Cow<'a, str>>) -> &mut Self {
        let place = self.place(part);
        self.edits.push((place, with.into()));
        self
    }

    /// Puts a member (`"name":value`) in front of the others of an object of the source.
    pub fn insert(&mut self, object: &'a str, member: String) -> &mut Self {
        let at = self.place(object).start + 1;
        let is_empty = object[1..].trim_start().starts_with('}');
        let is_first = !self.edits.iter().any(|(place, _)| *place == (at..at));
        let member = match (is_empty, is_first) {
            (false, _) => format!("{member},"),
            (true, true) => member,
            (true, false) => format!(",{member}"),
        };
        self.edits.push((at..at, Cow::Owned(member)));
        self
    }

    /// Takes away the members of an object of the source that `is_dropped` names, each with a comma, and puts `added`
    /// (each `"name":value`) in front of those that stay. To be done once for an object.
    pub fn remake(
        &mut self,
        object: &Members<'a>,
        is_dropped: impl Fn(&str) -> bool,
        added: &[String],
    ) -> &mut Self {
        let at = self.place(object.whole()).start + 1;
        let has_kept = object.iter().any(|(name, _)| !is_dropped(name));
        if !added.is_empty() {
            let comma = if has_kept { "," } else { "" };
            self.edits.push((at..at, Cow::Owned(added.join(",") + comma)));
        }
        let (mut end, mut has_kept) = (at, false);
        for (name, value) in object.iter() {
            let place = self.place(value);
            match (is_dropped(name), has_kept) {
                (true, true) => self.edits.push((end..place.end, Cow::Borrowed(""))),
                // No member before it that stays, so the comma behind it goes too.
                (true, false) => {
                    let behind = self.behind_comma(place.end);
                    self.edits.push((end..behind, Cow::Borrowed("")));
                    end = behind;
                    continue;
                }
                (false, _) => has_kept = true,
            }
            end = place.end;
        }
        self
    }

    /// The text with all edits.
    pub fn finish(&mut self) -> String {
        let mut edits = std::mem::take(&mut self.edits);
        edits.sort_by_key(|(place, _)| place.start);
        let added: usize = edits.iter().map(|(_, with)| with.len()).sum();
        let mut edited = String::with_capacity(self.source.len() + added);
        let mut done = 0;
        for (place, with) in edits {
            debug_assert!(done <= place.start, "two edits of one part");
            edited.push_str(self.source.get(done..place.start).unwrap_or_default());
            edited.push_str(&with);
            done = done.max(place.end);
        }
        edited.push_str(&self.source[done..]);
        edited
    }

    /// Behind the comma that follows, or here where none does.
    fn behind_comma(&self, from: usize) -> usize {
        let rest = &self.source[from..];
        let blanks = rest.len() - rest.trim_start().len();
        if rest[blanks..].starts_with(',') { from + blanks + 1 } else { from }
    }

    fn place(&self, part: &'a str) -> Range<usize> {
        let start = part.as_ptr().addr().wrapping_sub(self.source.as_ptr().addr());
        let is_inside = start <= self.source.len() && part.len() <= self.source.len() - start;
        assert!(is_inside, "only a part of the source itself can be edited");
        start..start + part.len()
    }
}

/// A text as a JSON string.
pub fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text is always JSON")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;
    use crate::mcp::message::tests::any_json;

    #[test]
    fn members_come_and_go_with_their_commas() {
        let added = ["\"n\":0".to_owned(), "\"m\":1".to_owned()];
        for (source, without, with) in [
            ("{ }", "{ }", r#"{"n":0,"m":1 }"#),
            (r#"{"x":1}"#, "{}", r#"{"n":0,"m":1}"#),
            (r#"{ "x" : 1 }"#, "{ }", r#"{"n":0,"m":1 }"#),
            (r#"{ "x":1 , "a":2 }"#, r#"{ "a":2 }"#, r#"{"n":0,"m":1, "a":2 }"#),
            (r#"{ "a":2 , "x":1 }"#, r#"{ "a":2 }"#, r#"{"n":0,"m":1, "a":2 }"#),
            (
                r#"{"x1":1,"x2":[","],"a":2,"x3":{},"x4":0,"b":3}"#,
                r#"{"a":2,"b":3}"#,
                r#"{"n":0,"m":1,"a":2,"b":3}"#,
            ),
            (r#"{"x":1,"x2":2}"#, "{}", r#"{"n":0,"m":1}"#),
        ] {
            let members = Members::read(source).unwrap();
            let is_dropped = |name: &str| name.starts_with('x');
            assert_eq!(Splice::new(source).remake(&members, is_dropped, &[]).finish(), without);
            assert_eq!(Splice::new(source).remake(&members, is_dropped, &added).finish(), with);
        }
    }

    #[test]
    fn a_member_is_put_in_front() {
        for (source, once, twice) in [
            ("{}", r#"{"n":0}"#, r#"{"n":0,"m":1}"#),
            ("{ }", r#"{"n":0 }"#, r#"{"n":0,"m":1 }"#),
            (r#"{"a":1}"#, r#"{"n":0,"a":1}"#, r#"{"n":0,"m":1,"a":1}"#),
        ] {
            let mut splice = Splice::new(source);
            assert_eq!(splice.insert(source, "\"n\":0".to_owned()).finish(), once);
            splice.insert(source, "\"n\":0".to_owned()).insert(source, "\"m\":1".to_owned());
            assert_eq!(splice.finish(), twice);
        }
    }

    #[test]
    fn quoted_text_is_json() {
        assert_eq!(quoted("a\"\\\n\u{1}é"), "\"a\\\"\\\\\\n\\u0001é\"");
    }

    #[test]
    #[should_panic(expected = "only a part of the source itself")]
    fn equal_text_elsewhere_is_no_part() {
        let other = String::from("{}");
        Splice::new("{}").replace(&other, "x");
    }

    proptest! {
        #[test]
        fn no_byte_around_a_replaced_part_changes(before in ".{0,40}", part in ".{0,20}", after in ".{0,40}", with in ".{0,20}") {
            let source = format!("{before}{part}{after}");
            let mut splice = Splice::new(&source);
            splice.replace(&source[before.len()..before.len() + part.len()], with.as_str());
            prop_assert_eq!(splice.finish(), format!("{before}{with}{after}"));
        }

        #[test]
        fn what_is_not_dropped_stays_as_it_was_written(
            value in any_json(), is_pretty in any::<bool>(), drops in any::<u64>(), adds in any::<bool>(),
        ) {
            let source = if is_pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let source = source.unwrap();
            let Some(members) = Members::read(&source) else { return Ok(()) };
            let names: Vec<&str> = members.iter().map(|(name, _)| name).collect();
            let is_dropped = |name: &str| names.iter().position(|known| *known == name).is_some_and(|at| drops >> (at % 64) & 1 == 1);
            let added: Vec<String> = adds.then(|| "\"added\":[0]".to_owned()).into_iter().collect();
            let edited = Splice::new(&source).remake(&members, is_dropped, &added).finish();
            let after = Members::read(&edited).unwrap();
            let kept = members.iter().filter(|(name, _)| !is_dropped(name));
            let expected: Vec<(&str, &str)> = adds.then_some(("added", "[0]")).into_iter().chain(kept).collect();
            prop_assert_eq!(after.iter().collect::<Vec<_>>(), expected);
            let whole: Map<String, Value> = serde_json::from_str(&edited).unwrap();
            prop_assert_eq!(whole.len(), after.iter().count());
            if drops == 0 && !adds {
                prop_assert_eq!(&edited, &source);
            }
        }
    }
}
