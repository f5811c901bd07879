//! JSON schemas on their way from a server's document into the gateway's.
//!
//! Decides what a schema may carry along: every `$ref` is one of ours or gone, whatever would make a
//! reference mean something else (`$id`, anchors) is gone, and 3.0 spellings become 3.1. Never looks up
//! what a reference points at: `References` does.

use anyhow::Result;
use serde::Serialize;
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

/// What a JSON value can be.
const TYPES: [&str; 7] = ["null", "boolean", "object", "array", "number", "integer", "string"];

/// Where the gateway keeps schemas in its documents.
pub(super) const COMPONENTS: &str = "#/components/schemas/";

/// A schema, already written out.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Fragment(Box<RawValue>);

impl PartialEq for Fragment {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Fragment {
    pub(super) fn new(schema: &Value) -> Self {
        Self(to_raw_value(schema).expect("a JSON value has only strings as keys"))
    }

    /// The schema as JSON text.
    pub(super) fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The same schema with every reference pointing where `references` says.
    pub(super) fn with_references(&self, references: &mut dyn References) -> Self {
        let schema = serde_json::from_str(self.0.get()).map_err(anyhow::Error::from);
        let rewritten = schema.and_then(|schema| rewrite(&schema, references));
        debug_assert!(rewritten.is_ok(), "a fragment is JSON, nested no deeper than what it was read from");
        Self::new(&rewritten.unwrap_or_else(|_| Value::Object(Map::new())))
    }
}

/// Says where references point, and how much may still be written.
pub(super) trait References {
    /// The reference to write in place of this one, or none when nothing may stand there.
    fn replace(&mut self, reference: &str) -> Option<String>;

    /// Accounts for about that many bytes of output; fails when it is too much.
    fn charge(&mut self, bytes: usize) -> Result<()>;
}

/// What may stand under a keyword of a schema.
enum Keyword {
    Reference,
    /// Changes what references mean, or is of no use once they all point at components.
    Dropped,
    /// Plain data, not schemas: copied as it is.
    Data,
    /// Schemas by name.
    Named,
    /// A list of schemas.
    List,
    /// One schema, or (`items` of older drafts) a list.
    One,
    /// A schema, or a boolean that clients understand as one.
    Further,
    Discriminator,
    Text,
    /// The name of a JSON type, or several.
    Type,
    /// Names of properties.
    Names,
    Number,
    Other,
}

fn keyword(name: &str) -> Keyword {
    match name {
        "$ref" => Keyword::Reference,
        "$id" | "$schema" | "$anchor" | "$dynamicAnchor" | "$dynamicRef" | "$recursiveAnchor"
        | "$recursiveRef" | "$vocabulary" | "$defs" | "definitions" | "externalDocs" => Keyword::Dropped,
        "default" | "const" | "enum" | "example" | "examples" => Keyword::Data,
        "properties" | "patternProperties" | "dependentSchemas" => Keyword::Named,
        "allOf" | "anyOf" | "oneOf" | "prefixItems" => Keyword::List,
        "items" | "not" | "if" | "then" | "else" | "contains" | "propertyNames" | "contentSchema" => {
            Keyword::One
        }
        "additionalProperties" | "unevaluatedProperties" | "unevaluatedItems" => Keyword::Further,
        "discriminator" => Keyword::Discriminator,
        "title" | "description" | "format" | "pattern" | "$comment" => Keyword::Text,
        "type" => Keyword::Type,
        "required" => Keyword::Names,
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" | "minLength"
        | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties" => Keyword::Number,
        _ => Keyword::Other,
    }
}

/// Copies a schema so that it is safe and valid in a document of the gateway.
///
/// A boolean schema becomes an object that means the same: clients read members without looking.
pub(super) fn schema(value: &Value, references: &mut dyn References) -> Result<Value> {
    references.charge(1)?;
    match value {
        Value::Bool(false) => Ok(serde_json::json!({"not": {}})),
        Value::Object(_) => rewrite(value, references),
        Value::Null | Value::Bool(true) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Ok(Value::Object(Map::new()))
        }
    }
}

fn rewrite(value: &Value, references: &mut dyn References) -> Result<Value> {
    references.charge(own_size(value))?;
    match value {
        Value::Object(members) => {
            let mut written = Map::new();
            for (name, value) in members {
                references.charge(name.len())?;
                if let Some(value) = rewrite_member(name, value, references)? {
                    written.insert(name.clone(), value);
                }
            }
            modernise(&mut written);
            Ok(Value::Object(written))
        }
        Value::Array(items) => items.iter().map(|item| rewrite(item, references)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(value.clone()),
    }
}

fn rewrite_member(name: &str, value: &Value, references: &mut dyn References) -> Result<Option<Value>> {
    let keyword = keyword(name);
    // What is no valid schema would break the reading of the whole document at a client.
    if !may_hold(&keyword, name, value) {
        return Ok(None);
    }
    Ok(match (keyword, value) {
        (Keyword::Dropped, _) => None,
        (Keyword::Reference, value) => {
            value.as_str().and_then(|reference| references.replace(reference)).map(Value::String)
        }
        (Keyword::Data, data) => {
            let size = data_size(data);
            references.charge(size.unwrap_or(0))?;
            size.map(|_| data.clone())
        }
        (Keyword::Named, Value::Object(schemas)) => Some(rewrite_named(schemas, references)?),
        (Keyword::List | Keyword::One, Value::Array(schemas)) => {
            Some(schemas.iter().map(|item| schema(item, references)).collect::<Result<_>>()?)
        }
        (Keyword::One, value) => Some(schema(value, references)?),
        (Keyword::Discriminator, value) => discriminator(value, references)?,
        (Keyword::Named | Keyword::List | Keyword::Further | Keyword::Text, value)
        | (Keyword::Type | Keyword::Names | Keyword::Number | Keyword::Other, value) => {
            Some(rewrite(value, references)?)
        }
    })
}

/// Whether this keyword may have a value of this kind (JSON Schema 2020-12, and what `modernise` turns into it).
fn may_hold(keyword: &Keyword, name: &str, value: &Value) -> bool {
    let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    let is_schema = value.is_object() || value.is_boolean();
    let all =
        |is_fit: &dyn Fn(&Value) -> bool| value.as_array().is_some_and(|items| items.iter().all(is_fit));
    let is_filled = value.as_array().is_some_and(|items| !items.is_empty());
    match keyword {
        Keyword::Reference | Keyword::Text => value.is_string(),
        Keyword::Data => !matches!(name, "enum" | "examples") || value.is_array(),
        Keyword::Named | Keyword::Discriminator => value.is_object(),
        Keyword::List => is_filled,
        Keyword::One => is_schema || name == "items" && is_filled,
        Keyword::Further => is_schema,
        Keyword::Type => is_type(value) || is_filled && all(&is_type),
        Keyword::Names => all(&Value::is_string),
        Keyword::Number => value.is_number() || name.starts_with("exclusive") && value.is_boolean(),
        Keyword::Dropped | Keyword::Other => true,
    }
}

fn rewrite_named(schemas: &Map<String, Value>, references: &mut dyn References) -> Result<Value> {
    let mut written = Map::new();
    for (name, value) in schemas {
        references.charge(name.len())?;
        if value.is_object() || value.is_boolean() {
            written.insert(name.clone(), schema(value, references)?);
        }
    }
    Ok(Value::Object(written))
}

/// Rewrites the schema names in a mapping (OpenAPI 3.1, Discriminator Object): bare names or references.
fn discriminator(value: &Value, references: &mut dyn References) -> Result<Option<Value>> {
    let Some(property) = value.get("propertyName").and_then(Value::as_str) else {
        return Ok(None);
    };
    let mut mapping = Map::new();
    for (key, target) in value.get("mapping").and_then(Value::as_object).into_iter().flatten() {
        references.charge(key.len() + own_size(target))?;
        let Some(target) = target.as_str() else { continue };
        let replaced = if target.starts_with('#') {
            references.replace(target)
        } else {
            references.replace(&format!("{COMPONENTS}{target}"))
        };
        if let Some(target) = replaced {
            mapping.insert(key.clone(), Value::String(target));
        }
    }
    Ok(Some(serde_json::json!({"propertyName": property, "mapping": mapping})))
}

/// Turns what only OpenAPI 3.0 and older JSON Schema drafts know into what 3.1 knows.
fn modernise(schema: &mut Map<String, Value>) {
    if let Some(Value::Bool(is_nullable)) = schema.get("nullable") {
        let is_nullable = *is_nullable;
        schema.remove("nullable");
        if is_nullable && let Some(Value::String(name)) = schema.get("type") {
            let types = serde_json::json!([name, "null"]);
            schema.insert("type".into(), types);
        }
    }
    for (exclusive, bound) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
        let Some(Value::Bool(is_exclusive)) = schema.get(exclusive) else { continue };
        let is_exclusive = *is_exclusive;
        schema.remove(exclusive);
        if is_exclusive && let Some(number) = schema.remove(bound) {
            schema.insert(exclusive.into(), number);
        }
    }
    if let Some(Value::Array(_)) = schema.get("items")
        && let Some(items) = schema.remove("items")
    {
        schema.insert("prefixItems".into(), items);
    }
}

/// Size of plain data, or none when it holds a `$ref`.
///
/// There it means nothing, but resolvers that follow every `$ref` they see would fetch it.
fn data_size(data: &Value) -> Option<usize> {
    let inner = match data {
        Value::Object(members) => members.iter().try_fold(0, |sum, (name, value)| {
            let is_reference = name == "$ref" && value.is_string();
            if is_reference { None } else { Some(sum + name.len() + data_size(value)?) }
        })?,
        Value::Array(items) => items.iter().try_fold(0, |sum, item| Some(sum + data_size(item)?))?,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    };
    Some(own_size(data) + inner)
}

fn own_size(value: &Value) -> usize {
    1 + value.as_str().map_or(0, str::len)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Knows `A` only, and calls it `B`.
    struct OnlyA;

    impl References for OnlyA {
        fn replace(&mut self, reference: &str) -> Option<String> {
            (reference == "#/components/schemas/A").then(|| format!("{COMPONENTS}B"))
        }

        fn charge(&mut self, _bytes: usize) -> Result<()> {
            Ok(())
        }
    }

    #[track_caller]
    fn check(given: Value, expected: Value) {
        assert_eq!(schema(&given, &mut OnlyA).unwrap(), expected, "of {given}");
    }

    #[test]
    fn known_references_are_renamed_and_others_are_gone() {
        let a = json!({"$ref": "#/components/schemas/A"});
        let b = json!({"$ref": "#/components/schemas/B"});
        check(a.clone(), b.clone());
        check(json!({"items": a, "description": "kept"}), json!({"items": b, "description": "kept"}));
        check(json!({"anyOf": [a, {}, true]}), json!({"anyOf": [b, {}, {}]}));
        check(json!({"additionalProperties": a}), json!({"additionalProperties": b}));
        check(json!({"$ref": "http://evil/x", "description": "d"}), json!({"description": "d"}));
        check(json!({"items": {"$ref": "other.json#/x"}}), json!({"items": {}}));
        check(json!({"$ref": 7}), json!({}));
        check(
            json!({"discriminator": {"propertyName": "k", "mapping":
                {"a": "A", "b": "#/components/schemas/A", "c": "C", "d": "http://evil/A"}}}),
            json!({"discriminator": {"propertyName": "k", "mapping":
                {"a": "#/components/schemas/B", "b": "#/components/schemas/B"}}}),
        );
    }

    #[test]
    fn properties_named_like_keywords_are_properties() {
        let odd = json!({"properties": {
            "$ref": {"type": "string"}, "default": {"$ref": "#/components/schemas/A"}, "$id": {}, "items": false,
        }});
        check(
            odd,
            json!({"properties": {
                "$ref": {"type": "string"}, "default": {"$ref": "#/components/schemas/B"}, "$id": {},
                "items": {"not": {}},
            }}),
        );
        check(json!({"properties": {"$ref": "http://evil/x", "p": 1}}), json!({"properties": {}}));
    }

    #[test]
    fn data_is_copied_unless_it_holds_a_reference() {
        check(
            json!({"default": {"$id": 1, "nullable": true}, "enum": [1, {"a": null}]}),
            json!({"default": {"$id": 1, "nullable": true}, "enum": [1, {"a": null}]}),
        );
        check(json!({"example": [{"a": {"$ref": "http://evil/x"}}]}), json!({}));
    }

    #[test]
    fn what_changes_the_meaning_of_references_is_gone() {
        check(json!({"$id": "http://x/", "$anchor": "a", "$defs": {"X": {}}, "$schema": "s"}), json!({}));
    }

    #[test]
    fn old_spellings_become_new_ones() {
        check(json!({"type": "string", "nullable": true}), json!({"type": ["string", "null"]}));
        check(json!({"type": "string", "nullable": false}), json!({"type": "string"}));
        check(json!({"minimum": 1, "exclusiveMinimum": true}), json!({"exclusiveMinimum": 1}));
        check(json!({"maximum": 1, "exclusiveMaximum": false}), json!({"maximum": 1}));
        check(json!({"items": [{}, {"type": "null"}]}), json!({"prefixItems": [{}, {"type": "null"}]}));
    }

    #[test]
    fn what_is_no_schema_is_gone() {
        check(
            json!({"properties": [], "required": true, "anyOf": {}, "description": {}, "type": 3}),
            json!({}),
        );
        check(
            json!({"type": "file", "enum": "a", "minimum": "1", "allOf": [], "required": ["a", 1]}),
            json!({}),
        );
        check(
            json!({"type": ["string", "null"], "minLength": 1}),
            json!({"type": ["string", "null"], "minLength": 1}),
        );
        check(json!({"items": "x", "additionalProperties": 1}), json!({}));
        check(
            json!({"items": true, "additionalProperties": false}),
            json!({"items": {}, "additionalProperties": false}),
        );
        check(json!("text"), json!({}));
        check(json!(true), json!({}));
        check(json!(false), json!({"not": {}}));
    }
}
