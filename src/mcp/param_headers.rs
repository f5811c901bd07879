//! Arguments of a tool that are mirrored in headers (MCP 2026-07-28, Streamable HTTP, Custom Headers from Tool
//! Parameters).
//!
//! Decides which headers a tool's schema asks for, and what they say of a call. Never decides where a call goes.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value};

use super::{
    headers::{decoded, mismatch},
    members::{Members, text},
};
use crate::refusal::Refusal;

/// The member of a property's schema that asks for a header.
const MARK: &str = "x-mcp-header";
/// Beginning of the headers' names.
const PREFIX: &str = "Mcp-Param-";
/// The largest whole number that a client in JavaScript tells from the next one.
const LARGEST: f64 = 9_007_199_254_740_991.0;

/// Which arguments of a tool are mirrored, and where: read once, used for each call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParamHeaders(Vec<Mirrored>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mirrored {
    /// Names of properties from the arguments to the value.
    path: Vec<String>,
    /// The name of the header.
    header: String,
}

impl ParamHeaders {
    /// Reads an input schema; none where a mark in it is not as it must be: such a tool is not to be shown.
    pub fn read(input_schema: &str) -> Option<Self> {
        let mut found = Self::default();
        // A name may be written with escapes.
        if !input_schema.contains(MARK) && !input_schema.contains("\\u00") {
            return Some(found);
        }
        let schema: Map<String, Value> = serde_json::from_str(input_schema).ok()?;
        found.collect(&schema, &mut Vec::new())?;
        // Whatever stands elsewhere than on the way was not found by it.
        (marks(&Value::Object(schema)) == found.0.len()).then_some(found)
    }

    /// Whether no argument is mirrored.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The headers of a call with these arguments, an object as JSON: names, and values that may stand in a header.
    pub fn values(&self, arguments: &str) -> Vec<(String, String)> {
        if self.is_empty() {
            return Vec::new();
        }
        let Some(arguments) = Members::read(arguments) else { return Vec::new() };
        let values = self.0.iter().filter_map(|Mirrored { path, header }| {
            let (first, rest) = path.split_first()?;
            let inner = |value, key: &String| Members::read(value)?.get(key);
            let value = rest.iter().try_fold(arguments.get(first)?, inner)?;
            Some((format!("{PREFIX}{header}"), header_text(&plain(value)?)))
        });
        values.collect()
    }

    /// Refuses a call whose headers do not say what its arguments say, or nothing where they should.
    pub fn refuse_disagreement(&self, headers: &HeaderMap, arguments: &str) -> Result<(), Refusal> {
        let values = self.values(arguments);
        for Mirrored { header, .. } in &self.0 {
            let name = format!("{PREFIX}{header}");
            let mut said = headers.get_all(&name).iter();
            let (first, is_only) = (said.next(), said.next().is_none());
            let meant = values.iter().find(|(meant, _)| *meant == name).map(|(_, value)| value);
            let meant = meant.and_then(|value| decoded(&HeaderValue::from_str(value).ok()?));
            if !is_only || first.is_some() != meant.is_some() || first.and_then(decoded) != meant {
                return Err(mismatch("a `Mcp-Param-…` header and the arguments say different things"));
            }
        }
        Ok(())
    }

    /// Follows `properties` and nothing else.
    fn collect(&mut self, schema: &Map<String, Value>, path: &mut Vec<String>) -> Option<()> {
        let Some(Value::Object(properties)) = schema.get("properties") else { return Some(()) };
        for (name, property) in properties {
            let Value::Object(property) = property else { continue };
            path.push(name.clone());
            if let Some(mark) = property.get(MARK) {
                self.add(mark.as_str()?, property.get("type")?.as_str()?, path)?;
            }
            self.collect(property, path)?;
            path.pop();
        }
        Some(())
    }

    fn add(&mut self, header: &str, kind: &str, path: &[String]) -> Option<()> {
        let is_token = !header.is_empty() && header.bytes().all(is_tchar);
        let is_taken = self.0.iter().any(|other| other.header.eq_ignore_ascii_case(header));
        if !is_token || is_taken || !matches!(kind, "string" | "integer" | "boolean") {
            return None;
        }
        self.0.push(Mirrored { path: path.to_vec(), header: header.to_owned() });
        Some(())
    }
}

/// All marks in a schema. A property may have the name of the mark; examples of values hold none.
fn marks(schema: &Value) -> usize {
    let object = match schema {
        Value::Object(object) => object,
        Value::Array(items) => return items.iter().map(marks).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return 0,
    };
    let below = object.iter().map(|(key, value)| match (key.as_str(), value) {
        (MARK, _) => 1,
        ("default" | "const" | "enum" | "examples", _) => 0,
        (
            "properties" | "$defs" | "definitions" | "patternProperties" | "dependentSchemas",
            Value::Object(named),
        ) => named.values().map(marks).sum(),
        _ => marks(value),
    });
    below.sum()
}

/// RFC 9110, section 5.6.2.
fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A value as text: a string as it is, a whole number in digits, a truth value by its name; none for others.
fn plain(value: &str) -> Option<Cow<'_, str>> {
    if value.starts_with('"') {
        return text(value);
    }
    if matches!(value, "true" | "false") {
        return Some(Cow::Borrowed(value));
    }
    if !value.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return None;
    }
    let is_written_out = value.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit());
    match value.parse::<f64>() {
        Ok(number) if !is_written_out && number.fract() == 0.0 && number.abs() <= LARGEST => {
            Some(Cow::Owned(format!("{number:.0}")))
        }
        Ok(_) | Err(_) => Some(Cow::Borrowed(value)),
    }
}

/// A value as it may stand in a header, `Mcp-Name` too: in plain, or in the sentinel `=?base64?…?=`.
pub fn header_text(value: &str) -> String {
    let is_visible = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let is_padded = value.starts_with(' ') || value.ends_with(' ');
    let is_sentinel = value.starts_with("=?base64?") && value.ends_with("?=");
    if is_visible && !is_padded && !is_sentinel {
        return value.to_owned();
    }
    format!("=?base64?{}?=", STANDARD.encode(value))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::mcp::message::tests::any_json;

    fn schema(properties: &str) -> String {
        format!(r#"{{"type":"object","properties":{{{properties}}}}}"#)
    }

    #[test]
    fn marked_arguments_are_mirrored() {
        let schema = schema(
            r#""region":{"type":"string","x-mcp-header":"Region"},"n":{"type":"integer","x-mcp-header":"N"},"is":{"type":"boolean","x-mcp-header":"Is"},
               "inner":{"type":"object","properties":{"x":{"type":"string","x-mcp-header":"X"}}},"x-mcp-header":{"type":"string","default":{"x-mcp-header":1}}"#,
        );
        let headers = ParamHeaders::read(&schema).unwrap();
        let values = |arguments: &str| headers.values(arguments);
        let mut all = values(r#"{"region":"us-west1","n":42.0,"is":true,"inner":{"x":"\n"},"other":1}"#);
        all.sort();
        let pair = |name: &str, value: &str| (format!("Mcp-Param-{name}"), value.to_owned());
        assert_eq!(
            all,
            [pair("Is", "true"), pair("N", "42"), pair("Region", "us-west1"), pair("X", "=?base64?Cg==?=")]
        );
        assert!(values(r#"{"region":null,"n":[1],"is":{},"inner":"x"}"#).is_empty());
        assert!(
            values("{}").is_empty() && values("no JSON").is_empty() && values(r#"{"n":1,"n":2}"#).is_empty()
        );
        assert_eq!(values(r#"{"n":-7}"#), [pair("N", "-7")]);
        assert_eq!(values(r#"{"n":1e3}"#), [pair("N", "1000")]);
        assert_eq!(values(r#"{"n":1.5}"#), [pair("N", "1.5")]);
    }

    #[test]
    fn a_schema_without_marks_asks_for_nothing() {
        for schema in ["{}", "true", "no JSON", &schema(r#""a":{"type":"string"}"#), r#"{"a":"\u00e9"}"#] {
            assert_eq!(ParamHeaders::read(schema).map(|headers| headers.is_empty()), Some(true), "{schema}");
        }
    }

    #[test]
    fn a_mark_that_is_not_as_it_must_be_spoils_the_tool() {
        let string = |mark: &str| schema(&format!(r#""a":{{"type":"string","x-mcp-header":{mark}}}"#));
        assert!(ParamHeaders::read(&string("\"A\"")).is_some());
        for bad in [
            string("\"\""),
            string("\"a b\""),
            string("\"a\\n\""),
            string("1"),
            string("\"A\"").replace("string", "number"),
            string("\"A\"").replace("\"type\":\"string\",", ""),
            schema(r#""a":{"type":"string","x-mcp-header":"A"},"b":{"type":"string","x-mcp-header":"a"}"#),
            schema(r#""a":{"type":"array","items":{"type":"string","x-mcp-header":"A"}}"#),
            schema(r#""a":{"anyOf":[{"type":"string","x-mcp-header":"A"}]}"#),
            r#"{"x-mcp-header":"A"}"#.to_owned(),
            r#"{"$defs":{"a":{"type":"string","x\u002dmcp-header":"A"}}}"#.to_owned(),
            format!(r#"{{"x-mcp-header":{}1{}}}"#, "[".repeat(500), "]".repeat(500)),
        ] {
            assert_eq!(ParamHeaders::read(&bad), None, "{bad:.100}");
        }
    }

    #[test]
    fn what_cannot_stand_in_a_header_is_in_base64() {
        for (value, expected) in [
            ("us-west1", "us-west1"),
            ("a b", "a b"),
            ("", ""),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
            ("a\tb", "=?base64?YQli?="),
        ] {
            assert_eq!(header_text(value), expected);
        }
    }

    proptest! {
        #[test]
        fn any_value_stands_in_a_header_and_comes_back(value in ".{0,40}") {
            let text = header_text(&value);
            prop_assert!(HeaderValue::from_str(&text).is_ok_and(|header| header.to_str().unwrap().trim() == text));
            let back = match text.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
                Some(encoded) => String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap(),
                None => text,
            };
            prop_assert_eq!(back, value);
        }

        #[test]
        fn any_schema_and_any_arguments_make_headers_or_none(value in any_json(), arguments in any_json(), mark in ".{0,4}") {
            let schema = json!({"properties": {"name": {"type": "string", "x-mcp-header": mark}, "b": value}});
            let Some(headers) = ParamHeaders::read(&schema.to_string()) else { return Ok(()) };
            for (name, value) in headers.values(&arguments.to_string()) {
                prop_assert!(HeaderName::try_from(name).is_ok() && HeaderValue::from_str(&value).is_ok());
            }
        }
    }
}
