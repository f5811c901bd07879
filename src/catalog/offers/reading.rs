//! From the results of a server's lists of prompts, resources and templates to its offers.
//!
//! Decides which entries can be offered. Trusts nothing in a list: number and nesting are bounded, an entry without a
//! key of sensible length is skipped, and of several with one key the first counts.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::value::RawValue;

use super::Offer;
use crate::{
    catalog::{
        entry::{self, skip},
        tools::{Definition, MAX_TOOLS, Skipped},
    },
    mcp::members::{Members, text},
};

/// Most entries of one list.
const MAX_OFFERS: usize = 5 * MAX_TOOLS;
/// Longest name of a prompt and longest URI, in bytes.
const MAX_KEY: usize = 2_048;

/// A list of MCP besides that of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `prompts/list`.
    Prompts,
    /// `resources/list`.
    Resources,
    /// `resources/templates/list`.
    Templates,
}

/// How a list and its entries are built.
struct Form {
    /// The member of the result that has the entries.
    entries: &'static str,
    /// The member of an entry that it is called by.
    key: &'static str,
    /// Members that an entry may have, and what their values begin with.
    optional: &'static [(&'static str, char)],
}

const PROMPTS: Form = Form {
    entries: "prompts",
    key: "name",
    optional: &[("title", '"'), ("description", '"'), ("arguments", '['), ("icons", '['), ("_meta", '{')],
};
const RESOURCE: &[(&str, char)] = &[
    ("title", '"'),
    ("description", '"'),
    ("mimeType", '"'),
    ("annotations", '{'),
    ("icons", '['),
    ("_meta", '{'),
];
const RESOURCES: Form = Form { entries: "resources", key: "uri", optional: RESOURCE };
const TEMPLATES: Form = Form { entries: "resourceTemplates", key: "uriTemplate", optional: RESOURCE };

impl Kind {
    const fn form(self) -> &'static Form {
        match self {
            Kind::Prompts => &PROMPTS,
            Kind::Resources => &RESOURCES,
            Kind::Templates => &TEMPLATES,
        }
    }
}

/// Reads the results of a list, page after page, each raw JSON text; ordered by key.
pub fn read(kind: Kind, pages: &[String]) -> Result<(Vec<Offer>, Vec<Skipped>)> {
    let form = kind.form();
    let entries = form.entries;
    let mut skipped = Vec::new();
    let mut offers = BTreeMap::new();
    for page in pages {
        let page = Members::read(page).with_context(|| format!("the list of {entries} is not one of MCP"))?;
        let listed = page.get(entries).with_context(|| format!("the list has no `{entries}`"))?;
        let listed: Vec<&RawValue> = serde_json::from_str(listed)
            .with_context(|| format!("`{entries}` of the list is not an array"))?;
        for raw in listed {
            ensure!(
                offers.len() + skipped.len() < MAX_OFFERS,
                "the list of {entries} has more than {MAX_OFFERS} entries"
            );
            match offer(raw.get(), form) {
                Ok(offer) if offers.contains_key(&offer.key) => {
                    skipped.push(skip(&offer.key, "another entry has this name already"));
                }
                Ok(offer) => drop(offers.insert(offer.key.clone(), offer)),
                Err(no) => skipped.push(no),
            }
        }
    }
    Ok((offers.into_values().collect(), skipped))
}

fn offer(raw: &str, form: &Form) -> Result<Offer, Skipped> {
    let raw = entry::cleaned(raw, form.optional).map_err(|why| skip("an entry", why))?;
    let unreadable = || skip("an entry", "it has no name, or is called by nothing");
    let members = Members::read(&raw).ok_or_else(unreadable)?;
    let is_named = members.get("name").and_then(text).is_some();
    let raw_key = members.get(form.key).filter(|_| is_named).ok_or_else(unreadable)?;
    let key = text(raw_key).ok_or_else(unreadable)?.into_owned();
    if key.is_empty() || key.len() > MAX_KEY || key.contains(char::is_control) {
        return Err(skip(&key, "what it is called by is empty, too long or has control characters"));
    }
    let definition = Definition::around(&raw, raw_key).ok_or_else(unreadable)?;
    Ok(Offer { key, definition })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Checks the keys of what is offered, and how much is skipped.
    #[track_caller]
    fn check(kind: Kind, pages: &[&str], expected: Option<(&[&str], usize)>) {
        let pages: Vec<String> = pages.iter().map(|page| (*page).to_owned()).collect();
        let found = read(kind, &pages).ok();
        let keys = found.as_ref().map(|(offers, skipped)| {
            (offers.iter().map(|offer| offer.key.as_str()).collect::<Vec<_>>(), skipped.len())
        });
        assert_eq!(keys, expected.map(|(keys, skipped)| (keys.to_vec(), skipped)), "{pages:?}");
    }

    #[test]
    fn the_pages_of_a_list_are_one_list_ordered_by_key() {
        let pages = [
            r#"{"prompts":[{"name":"b c"},{"name":"a"}],"nextCursor":"x"}"#,
            r#"{"prompts":[{"name":"B"}]}"#,
        ];
        check(Kind::Prompts, &pages, Some((&["B", "a", "b c"], 0)));
        check(Kind::Prompts, &[], Some((&[], 0)));
        check(
            Kind::Resources,
            &[r#"{"resources":[{"uri":"file:///a","name":"a"}]}"#],
            Some((&["file:///a"], 0)),
        );
        let template = r#"{"resourceTemplates":[{"name":"t","uriTemplate":"a://{b}"}]}"#;
        check(Kind::Templates, &[template], Some((&["a://{b}"], 0)));
    }

    #[test]
    fn an_entry_that_cannot_be_offered_is_skipped_alone() {
        let entries = r#"{"resources":[{"uri":"a:b"},{"uri":"a:b","name":"n"},{"uri":"a:b","name":"m"},{"uri":"","name":"n"},
            {"uri":"a\nb","name":"n"},{"name":"n"},7,{"uri":"a:c","name":"n","title":7},{"uri":"a:d","name":"n","title":null}]}"#;
        check(Kind::Resources, &[entries], Some((&["a:b", "a:d"], 7)));
        let long = format!(r#"{{"prompts":[{{"name":"{}"}}]}}"#, "n".repeat(2_049));
        check(Kind::Prompts, &[&long], Some((&[], 1)));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for page in
            ["", "[]", "{}", r#"{"prompts":{}}"#, r#"{"prompts":[]"#, r#"{"prompts":[],"prompts":[]}"#]
        {
            check(Kind::Prompts, &[page], None);
        }
        let entries = (0..=MAX_OFFERS).map(|i| format!(r#"{{"name":"{i}"}}"#)).collect::<Vec<_>>().join(",");
        check(Kind::Prompts, &[&format!(r#"{{"prompts":[{entries}]}}"#)], None);
    }

    #[test]
    fn an_offer_is_written_under_another_key_and_all_else_stays() {
        let page = r#"{"resources":[{"size": 3.0,"uri" : "a:b","name":"uri","x":{"uri":"a:b"}}]}"#;
        let (offers, _) = read(Kind::Resources, &[page.to_owned()]).unwrap();
        let mut written = Vec::new();
        offers[0].definition.write("mcp:s:a:b\"", &mut written);
        let expected = r#"{"size": 3.0,"uri" : "mcp:s:a:b\"","name":"uri","x":{"uri":"a:b"}}"#;
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(page in ".{0,200}", kind in 0_usize..3) {
            let kind = [Kind::Prompts, Kind::Resources, Kind::Templates][kind];
            drop(read(kind, &[page.clone(), format!(r#"{{"prompts":[{page}],"resources":[{page}]}}"#)]));
        }

        #[test]
        fn whatever_is_offered_is_json_with_its_key(name in "\\PC{1,20}", key in "\\PC{1,20}", other in ".*") {
            let entry = serde_json::json!({"name": name, "description": other, "x": [other]});
            let page = serde_json::json!({"prompts": [entry]}).to_string();
            let (offers, _) = read(Kind::Prompts, &[page]).unwrap();
            prop_assert_eq!(&offers[0].key, &name);
            let mut written = Vec::new();
            offers[0].definition.write(&key, &mut written);
            let written: serde_json::Value = serde_json::from_slice(&written).unwrap();
            prop_assert_eq!(written, serde_json::json!({"name": key, "description": other, "x": [other]}));
        }
    }
}
