//! What a server says of a tool, written so that whatever says the same reads the same, and its digest.
//!
//! Decides what of a tool's description counts as changed: every member that a client could be told, values exactly,
//! but neither the order of members nor white space. What is written here is what an operator reviews before it is
//! approved, so it is ASCII alone: an invisible character shows. Never decides what a change leads to.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    io::{self, Write},
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::{Value, json, ser::Formatter};

use super::hoist::pointer;
use crate::names::Digest;

/// What a tool refers to is written out up to so many bytes; past that, digests stand for it.
const MAX_REFERRED: usize = 32 * 1024;

/// The source of a tool: what its server says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    text: Box<str>,
    digest: Digest,
}

impl Source {
    /// Of a tool in a list of MCP, as its server wrote it.
    ///
    /// A member that is `null` says nothing, and is as good as none. What cannot be read is taken byte for byte.
    pub fn of_definition(raw: &str) -> Self {
        let Ok(mut json) = serde_json::from_str::<Json>(raw) else {
            return Self::of(&Json::Plain(Value::String(raw.to_owned())));
        };
        if let Json::Object(members) = &mut json {
            members.retain(|(_, value)| !matches!(value, Json::Plain(Value::Null)));
        }
        Self::of(&json)
    }

    fn of(json: &Json) -> Self {
        let text = written(json).into_boxed_str();
        Self { digest: Digest::of(&text), text }
    }

    /// The text, JSON in ASCII: its digest is [`Self::digest`].
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The digest of the text.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// Lays the text of a source out in lines, for people: letters as they are, what is invisible as an escape.
pub fn in_lines(text: &str) -> Vec<String> {
    let Ok(json) = serde_json::from_str::<Json>(text) else { return vec![visible(text)] };
    let pretty = serde_json::to_string_pretty(&json).unwrap_or_default();
    pretty.lines().map(visible).collect()
}

/// Fit for a terminal: only what shows, and nothing that moves what shows.
fn visible(line: &str) -> String {
    let escape = |c: char| c.escape_debug().collect::<String>();
    line.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c.to_string() } else { escape(c) }).collect()
}

/// Writes the sources of the tools of one OpenAPI document.
pub(super) struct Sources<'d> {
    document: &'d Value,
    /// What stands at a place, once it was looked at.
    seen: HashMap<String, Part>,
}

/// Something that tools refer to.
struct Part {
    size: usize,
    digest: Digest,
    refers_to: Vec<String>,
}

impl<'d> Sources<'d> {
    /// For the tools of this document.
    pub(super) fn new(document: &'d Value) -> Self {
        Self { document, seen: HashMap::new() }
    }

    /// The source of the tool that is this operation of this path, with all that it refers to in the document.
    pub(super) fn source(&mut self, path: &str, item: &Value, operation: &Value) -> Source {
        let of_item = |name: &str| item.get(name).cloned().unwrap_or_default();
        let whole = json!({
            "path": path, "operation": operation, "parameters": of_item("parameters"),
            "summary": of_item("summary"), "description": of_item("description"),
        });
        let (mut size, mut found) = (0_usize, BTreeMap::new());
        let mut pending = references(&whole);
        let mut met = HashSet::new();
        while let Some(place) = pending.pop() {
            if !met.insert(place.clone()) {
                continue;
            }
            let Some(value) = self.document.pointer(&place) else { continue };
            let part = self.seen.entry(place.clone()).or_insert_with(|| Part::of(value));
            size += part.size;
            pending.extend_from_slice(&part.refers_to);
            found.insert(place, (value, part.digest));
        }
        let is_short = size <= MAX_REFERRED;
        let told = |(value, digest): (&Value, Digest)| match is_short {
            true => value.clone(),
            false => Value::String(format!("sha256:{digest}")),
        };
        let referred: serde_json::Map<_, _> =
            found.into_iter().map(|(place, part)| (place, told(part))).collect();
        let mut whole = whole;
        whole["refers_to"] = Value::Object(referred);
        if let Some(members) = whole.as_object_mut() {
            members.retain(|_, value| !value.is_null());
        }
        Source::of(&serde_json::from_value(whole).unwrap_or(Json::Plain(Value::Null)))
    }
}

impl Part {
    fn of(value: &Value) -> Self {
        let json = Json::deserialize(value).unwrap_or(Json::Plain(Value::Null));
        let text = written(&json);
        Self { size: text.len(), digest: Digest::of(&text), refers_to: references(value) }
    }
}

/// The places in the document that references in this value point at.
fn references(value: &Value) -> Vec<String> {
    let (mut found, mut pending) = (Vec::new(), vec![value]);
    while let Some(value) = pending.pop() {
        match value {
            Value::Object(members) => {
                let reference = members.get("$ref").and_then(Value::as_str);
                found.extend(reference.and_then(pointer));
                pending.extend(members.values());
            }
            Value::Array(items) => pending.extend(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    found
}

/// JSON whose objects are ordered by name. Members that stand twice are all kept: parsers differ in which they take.
enum Json {
    Plain(Value),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyJson)
    }
}

struct AnyJson;

impl<'de> Visitor<'de> for AnyJson {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        // Stable: twins stay in their order.
        members.sort_by(|(a, _): &(String, Json), (b, _)| a.cmp(b));
        Ok(Json::Object(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Plain(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Plain(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Plain(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Plain(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Plain(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::Plain(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Plain(Value::Null))
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Plain(value) => value.serialize(serializer),
            Json::Array(items) => items.serialize(serializer),
            Json::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

fn written(json: &Json) -> String {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Ascii);
    json.serialize(&mut serializer).expect("texts are keys, and memory takes it");
    String::from_utf8(bytes).expect("ASCII alone was written")
}

/// Writes JSON without white space, and what is outside ASCII as escapes.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        for c in fragment.chars() {
            // DEL is ASCII and shows as nothing.
            if c.is_ascii() && c != '\x7f' {
                writer.write_all(&[c as u8])?;
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::tools::ToolList;

    #[track_caller]
    fn check(raw: &str, expected: &str) {
        let source = Source::of_definition(raw);
        assert_eq!(source.text(), expected, "{raw}");
        assert_eq!(source.digest(), Digest::of(expected));
    }

    #[test]
    fn order_white_space_and_spelling_do_not_count_and_everything_else_does() {
        check(
            r#"{ "b" : [1, 2.50,{"d":null ,"c":true}], "a":"\u0078\/" }"#,
            r#"{"a":"x/","b":[1,2.5,{"c":true,"d":null}]}"#,
        );
        check(r#"{"title":null,"name":"a"}"#, r#"{"name":"a"}"#);
        check("{\"a\":\"é\u{202e}😀\u{7f}\\n\"}", r#"{"a":"\u00e9\u202e\ud83d\ude00\u007f\n"}"#);
        // Parsers take one or the other: neither may change unseen.
        check(r#"{"a":{"x":2,"x":1,"w":0}}"#, r#"{"a":{"w":0,"x":2,"x":1}}"#);
    }

    #[test]
    fn what_is_no_json_counts_byte_for_byte() {
        check(r#"{"a":"\ud800"}"#, r#""{\"a\":\"\\ud800\"}""#);
        let deep = |n| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_ne!(Source::of_definition(&deep(1000)), Source::of_definition(&deep(1001)));
        assert_ne!(Source::of_definition("1e999"), Source::of_definition("2e999"));
    }

    #[test]
    fn people_see_letters_and_what_is_invisible() {
        let source =
            Source::of_definition("{\"a\":\"Grüße\u{200b}\u{e0041}\\u001b[2J\",\"b\":{\"b\":1,\"b\":2}}");
        assert_eq!(
            in_lines(source.text()),
            [
                "{",
                r#"  "a": "Grüße\u{200b}\u{e0041}\u001b[2J","#,
                r#"  "b": {"#,
                r#"    "b": 1,"#,
                r#"    "b": 2"#,
                "  }",
                "}"
            ],
        );
        assert_eq!(in_lines("\u{1b}["), ["\\u{1b}["]);
    }

    /// The digest of the tool `a` of this document.
    fn of_document(document: &Value) -> Digest {
        let (list, _) = ToolList::parse(document.to_string().as_bytes()).unwrap();
        list.get("a").unwrap().source.digest()
    }

    #[test]
    fn a_tool_of_openapi_changes_with_all_that_it_refers_to_and_with_nothing_else() {
        let document = json!({"openapi": "3.1.0", "paths": {
            "/a": {"summary": "s", "post": {"description": "d", "requestBody": {"content": {"application/json":
                {"schema": {"$ref": "#/components/schemas/A"}}}}, "responses": {"200": {"description": "ok"}}}},
            "/b": {"post": {"description": "b"}}},
            "components": {"schemas": {"A": {"properties": {"b": {"$ref": "#/components/schemas/B"}}},
                "B": {"type": "string", "description": "deep"}, "C": {"type": "string"}}}});
        let before = of_document(&document);
        let changed = |place: &str| {
            let mut document = document.clone();
            *document.pointer_mut(place).unwrap() = json!("changed");
            of_document(&document) != before
        };
        for place in [
            "/paths/~1a/summary",
            "/paths/~1a/post/description",
            "/components/schemas/B/description",
            "/paths/~1a/post/responses/200/description",
        ] {
            assert!(changed(place), "{place}");
        }
        for place in ["/paths/~1b/post/description", "/components/schemas/C/type"] {
            assert!(!changed(place), "{place}");
        }
    }

    #[test]
    fn what_is_long_and_referred_to_counts_by_its_digest() {
        let document = |text: &str| {
            json!({"openapi": "3.1.0", "paths": {"/a": {"post": {"requestBody": {"content":
            {"application/json": {"schema": {"$ref": "#/components/schemas/A"}}}}}}},
            "components": {"schemas": {"A": {"description": "x".repeat(MAX_REFERRED), "properties":
                {"b": {"$ref": "#/components/schemas/A"}, "c": {"$ref": "#/components/schemas/B"}}}, "B": {"description": text}}}})
        };
        let (list, _) = ToolList::parse(document("1").to_string().as_bytes()).unwrap();
        assert!(list.get("a").unwrap().source.text().len() < 1_000);
        assert_ne!(of_document(&document("1")), of_document(&document("2")));
    }

    /// The same value, its members in another order and with white space.
    fn respelled(value: &Value) -> String {
        match value {
            Value::Object(members) => {
                let written = members
                    .iter()
                    .rev()
                    .map(|(name, value)| format!("\t{} :\n{}", json!(name), respelled(value)));
                format!("{{{}}} ", written.collect::<Vec<_>>().join(" ,"))
            }
            Value::Array(items) => {
                format!("[ {}]", items.iter().map(respelled).collect::<Vec<_>>().join(", "))
            }
            Value::String(text) => {
                let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
                format!("\"{units}\"")
            }
            other => other.to_string(),
        }
    }

    /// Changes the value at one of its places; false where it has fewer.
    fn change(value: &mut Value, at: &mut usize) -> bool {
        if *at == 0 {
            *value = json!([value.clone()]);
            return true;
        }
        *at -= 1;
        match value {
            Value::Object(members) => members.values_mut().any(|value| change(value, at)),
            Value::Array(items) => items.iter_mut().any(|value| change(value, at)),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn the_same_in_another_spelling_is_the_same_and_any_change_is_one(
            value in crate::mcp::message::tests::any_json(), at in 0_usize..12,
        ) {
            let whole = json!({"name": "a", "inputSchema": value});
            let source = Source::of_definition(&whole.to_string());
            prop_assert_eq!(&Source::of_definition(&respelled(&whole)), &source);
            prop_assert!(source.text().is_ascii());
            let (mut changed, mut at) = (value.clone(), at);
            let is_changed = change(&mut changed, &mut at);
            let changed = Source::of_definition(&json!({"name": "a", "inputSchema": changed}).to_string());
            prop_assert_eq!(changed != source, is_changed);
        }

        #[test]
        fn any_text_is_read_without_panic(raw in ".{0,200}") {
            prop_assert!(Source::of_definition(&raw).text().is_ascii());
            in_lines(&raw);
        }
    }
}
