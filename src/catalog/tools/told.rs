//! What MCP clients are told of the tools of an OpenAPI server.
//!
//! Decides how an operation reads as a tool of MCP: its schemas stand alone, with what they refer to in `$defs`. Never
//! promises what the document does not: no annotations, and an output schema only where every answer fits it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::{
    Definition, Fragment, Post, Run, Shape, Tool,
    schemas::{COMPONENTS, References, schema},
};

/// How many times the document's own size its tools may take once none of them shares a schema.
const EXPANSION: usize = 8;
/// Room for small documents, whose parts repeat more.
const EXPANSION_BASE: usize = 256 * 1024;
/// Longest chain of references followed to find what a schema is.
const MAX_CHAIN: usize = 8;

/// Writes definitions, all of them together within a bound.
pub(super) struct Teller<'c> {
    components: &'c BTreeMap<String, Fragment>,
    budget: usize,
}

impl<'c> Teller<'c> {
    /// For the tools of a document that took this many bytes.
    pub(super) fn new(components: &'c BTreeMap<String, Fragment>, bytes: usize) -> Self {
        Self { components, budget: EXPANSION * bytes + EXPANSION_BASE }
    }

    /// Writes what clients are told of this tool. Past the bound that is less of its input, never something else.
    pub(super) fn tell(&mut self, tool: &mut Tool) {
        let mut members = Map::new();
        if let Some(title) = &tool.summary {
            members.insert("title".into(), title.clone().into());
        }
        if !tool.description.is_empty() {
            members.insert("description".into(), tool.description.clone().into());
        }
        let input = self.input(&tool.shape);
        let (input, in_query) = input.unwrap_or_else(|_| (json!({"type": "object"}), Vec::new()));
        members.insert("inputSchema".into(), input);
        if let Some(output) = self.output(&tool.shape).unwrap_or_default() {
            members.insert("outputSchema".into(), output);
        }
        tool.definition = Definition::of_members(&Value::Object(members).to_string()).unwrap_or_default();
        if let Run::Post(post) = &mut tool.run {
            *post = Arc::new(Post { arguments_in_query: in_query, ..Post::clone(post) });
        }
    }

    /// Its arguments: what goes into the body, and beside it the query parameters, where the body has no such member;
    /// and the names of those.
    fn input(&mut self, shape: &Shape) -> Result<(Value, Vec<String>)> {
        let mut in_query = Vec::new();
        let body = shape.request_body.as_ref().and_then(|body| body.content.values().next());
        let mut input = match body {
            Some(media) => self.resolved(&media.schema)?,
            None => Map::new(),
        };
        match input.get("type") {
            Some(Value::String(name)) if name == "object" => {}
            None => {}
            Some(Value::Array(names)) if names.iter().any(|name| name == "object") => {}
            // No arguments of MCP fit such a body; the tool will say so itself.
            Some(_) => input = Map::new(),
        }
        input.insert("type".into(), "object".into());
        for parameter in &shape.parameters {
            let mut schema = self.parsed(&parameter.schema)?;
            if let (Some(description), Value::Object(schema)) = (&parameter.description, &mut schema) {
                schema.entry("description").or_insert_with(|| description.clone().into());
            }
            let properties = input.entry("properties").or_insert_with(|| json!({}));
            let Value::Object(properties) = properties else { continue };
            if properties.contains_key(&parameter.name) {
                continue;
            }
            properties.insert(parameter.name.clone(), schema);
            in_query.push(parameter.name.clone());
            if parameter.required
                && let Value::Array(names) = input.entry("required").or_insert_with(|| json!([]))
            {
                names.push(parameter.name.clone().into());
            }
        }
        Ok((self.standalone(&input)?, in_query))
    }

    /// Its answer, if all that it may say with 200 is an object of one schema.
    fn output(&mut self, shape: &Shape) -> Result<Option<Value>> {
        let content = &shape.response.content;
        let media = content.get("application/json").filter(|_| content.len() == 1);
        let Some(media) = media else { return Ok(None) };
        let output = self.resolved(&media.schema)?;
        let is_object = output.get("type").and_then(Value::as_str) == Some("object");
        if is_object { self.standalone(&output).map(Some) } else { Ok(None) }
    }

    /// What a schema is once its own reference is followed; clients look at the type of the outermost schema.
    fn resolved(&mut self, schema: &Fragment) -> Result<Map<String, Value>> {
        let mut found = Map::new();
        let mut value = self.parsed(schema)?;
        for _ in 0..MAX_CHAIN {
            let Value::Object(mut members) = value else { return Ok(found) };
            let reference = members.remove("$ref");
            for (name, member) in members {
                found.entry(name).or_insert(member);
            }
            let name = reference.as_ref().and_then(Value::as_str).and_then(|to| to.strip_prefix(COMPONENTS));
            let Some(component) = name.and_then(|name| self.components.get(name)) else { return Ok(found) };
            value = self.parsed(component)?;
        }
        Ok(found)
    }

    fn parsed(&mut self, schema: &Fragment) -> Result<Value> {
        charge(&mut self.budget, schema.as_str().len())?;
        Ok(serde_json::from_str(schema.as_str())?)
    }

    /// The schema with all it refers to in its `$defs`.
    fn standalone(&mut self, root: &Map<String, Value>) -> Result<Value> {
        let mut definitions = Map::new();
        let mut references =
            Definitions { wanted: Vec::new(), seen: BTreeSet::new(), budget: &mut self.budget };
        let mut written = schema(&Value::Object(root.clone()), &mut references)?;
        while let Some(name) = references.wanted.pop() {
            if let Some(component) = self.components.get(&name) {
                let component = serde_json::from_str(component.as_str())?;
                definitions.insert(name, schema(&component, &mut references)?);
            }
        }
        if let Value::Object(written) = &mut written
            && !definitions.is_empty()
        {
            written.insert("$defs".into(), definitions.into());
        }
        Ok(written)
    }
}

/// Points references at the `$defs` of the schema they stand in.
struct Definitions<'b> {
    wanted: Vec<String>,
    seen: BTreeSet<String>,
    budget: &'b mut usize,
}

impl References for Definitions<'_> {
    fn replace(&mut self, reference: &str) -> Option<String> {
        let name = reference.strip_prefix(COMPONENTS)?;
        if self.seen.insert(name.to_owned()) {
            self.wanted.push(name.to_owned());
        }
        Some(format!("#/$defs/{name}"))
    }

    fn charge(&mut self, bytes: usize) -> Result<()> {
        charge(self.budget, bytes)
    }
}

fn charge(budget: &mut usize, bytes: usize) -> Result<()> {
    match budget.checked_sub(bytes) {
        Some(left) => *budget = left,
        None => bail!("the tools take more than {EXPANSION} times the size of their document"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::tools::ToolList;

    fn definitions(document: &Value) -> Vec<Value> {
        let (list, _) = ToolList::parse(&serde_json::to_vec(document).unwrap()).unwrap();
        let written = list.iter().map(|tool| {
            let mut bytes = Vec::new();
            tool.definition.write(tool.name.as_str(), &mut bytes);
            serde_json::from_slice(&bytes).unwrap()
        });
        written.collect()
    }

    fn one(operation: Value, schemas: Value) -> Value {
        definitions(&json!({"openapi": "3.1.0", "paths": {"/t": {"post": operation}}, "components": {"schemas": schemas}}))
            .remove(0)
    }

    /// Checks the input schema of a tool with this body.
    #[track_caller]
    fn check(body: Value, expected: Value) {
        let operation = json!({"requestBody": {"content": {"application/json": {"schema": body}}}});
        let schemas = json!({
            "A": {"type": "object", "title": "A", "properties": {"b": {"$ref": "#/components/schemas/B"}}},
            "B": {"type": "string", "nullable": true},
            "Loop": {"properties": {"l": {"$ref": "#/components/schemas/Loop"}}},
            "Turn": {"$ref": "#/components/schemas/Turn"},
        });
        assert_eq!(one(operation, schemas)["inputSchema"], expected);
    }

    #[test]
    fn the_input_schema_stands_alone_and_is_one_of_an_object() {
        check(
            json!({"$ref": "#/components/schemas/A", "description": "d"}),
            json!({"type": "object", "title": "A", "description": "d", "properties": {"b": {"$ref": "#/$defs/B"}},
                "$defs": {"B": {"type": ["string", "null"]}}}),
        );
        check(
            json!({"$ref": "#/components/schemas/Loop"}),
            json!({"type": "object", "properties": {"l": {"$ref": "#/$defs/Loop"}},
                "$defs": {"Loop": {"properties": {"l": {"$ref": "#/$defs/Loop"}}}}}),
        );
        check(json!({"$ref": "#/components/schemas/Turn"}), json!({"type": "object"}));
        check(json!({"$ref": "http://evil/x"}), json!({"type": "object"}));
        check(
            json!({"type": ["object", "null"], "minProperties": 1}),
            json!({"type": "object", "minProperties": 1}),
        );
        check(json!({"type": "array", "items": {}}), json!({"type": "object"}));
        check(json!(true), json!({"type": "object"}));
    }

    #[test]
    fn a_tool_says_of_itself_what_its_document_says() {
        let told = one(json!({"summary": "S", "description": "D"}), json!({}));
        assert_eq!(
            told,
            json!({"name": "t", "title": "S", "description": "D", "inputSchema": {"type": "object"}})
        );
        assert_eq!(one(json!({}), json!({})), json!({"name": "t", "inputSchema": {"type": "object"}}));
    }

    #[test]
    fn query_parameters_are_arguments_unless_the_body_has_them() {
        let told = one(
            json!({
                "parameters": [
                    {"name": "page", "in": "query", "required": true, "description": "Which", "schema": {"$ref": "#/components/schemas/P"}},
                    {"name": "both", "in": "query", "required": true, "schema": {"type": "integer"}},
                ],
                "requestBody": {"content": {"application/json": {"schema": {"properties": {"both": {"type": "string"}}}}}},
            }),
            json!({"P": {"type": "integer"}}),
        );
        assert_eq!(
            told["inputSchema"],
            json!({"type": "object", "required": ["page"], "properties": {"both": {"type": "string"},
                "page": {"$ref": "#/$defs/P", "description": "Which"}}, "$defs": {"P": {"type": "integer"}}}),
        );
    }

    #[test]
    fn a_parameter_that_the_body_has_too_stays_in_the_body() {
        let document = json!({"openapi": "3.1.0", "paths": {"/t": {"post": {
            "parameters": [{"name": "page", "in": "query"}, {"name": "both", "in": "query"}],
            "requestBody": {"content": {"application/json": {"schema": {"properties": {"both": {}}}}}}}}}});
        let (list, _) = ToolList::parse(&serde_json::to_vec(&document).unwrap()).unwrap();
        let post = list.get("t").unwrap().post().unwrap();
        let (query, body) = post.split(r#"{"page":1,"both":2}"#).unwrap();
        assert_eq!((query.as_str(), &*body), ("page=1", r#"{"both":2}"#));
    }

    #[test]
    fn output_is_promised_only_where_every_answer_is_an_object_of_one_schema() {
        let output = |content: Value| {
            let operation = json!({"responses": {"200": {"content": content}}});
            let mut told = one(operation, json!({"A": {"type": "object", "title": "A"}}));
            told["outputSchema"].take()
        };
        let json = |schema: Value| json!({"application/json": {"schema": schema}});
        let a = json!({"$ref": "#/components/schemas/A"});
        assert_eq!(output(json(a.clone())), json!({"type": "object", "title": "A"}));
        for unsure in [
            json(json!({"anyOf": [a, {}]})),
            json(json!({"type": "array"})),
            json(json!({})),
            json!({"application/json": {"schema": a}, "text/plain": {}}),
            json!({"text/plain": {"schema": a}}),
        ] {
            assert_eq!(output(unsure.clone()), Value::Null, "{unsure}");
        }
    }

    #[test]
    fn past_the_bound_tools_are_told_of_with_less_detail() {
        let body = json!({"requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Big"}}}}});
        let paths: Map<_, _> = (0..400).map(|i| (format!("/t{i}"), json!({"post": body}))).collect();
        let big = json!({"type": "object", "description": "d".repeat(50_000)});
        let told = definitions(
            &json!({"openapi": "3.1.0", "paths": paths, "components": {"schemas": {"Big": big}}}),
        );
        assert_eq!(told.len(), 400);
        assert!(told.iter().all(|tool| tool["inputSchema"]["type"] == "object"));
        let size: usize = told.iter().map(|tool| tool.to_string().len()).sum();
        assert!(size < 3_000_000, "{size}");
        assert!(told[0]["inputSchema"]["description"].is_string());
    }

    #[test]
    fn real_documents_give_definitions_of_all_their_tools() {
        for document in [
            &include_bytes!("../../../tests/fixtures/openapi/mcpo_time.json")[..],
            include_bytes!("../../../tests/fixtures/openapi/mcpo_git.json"),
            include_bytes!("../../../tests/fixtures/openapi/mcpo_filesystem.json"),
            include_bytes!("../../../tests/fixtures/openapi/mcpo_everything.json"),
            include_bytes!("../../../tests/fixtures/openapi/mcpo_odd_names.json"),
        ] {
            for told in definitions(&serde_json::from_slice(document).unwrap()) {
                assert_eq!(told["inputSchema"]["type"], "object", "{told}");
                check_references(&told["inputSchema"]);
            }
        }
    }

    #[track_caller]
    fn check_references(schema: &Value) {
        let text = schema.to_string();
        for (at, _) in text.match_indices("\"$ref\":\"") {
            let reference = &text[at + 8..][..text[at + 8..].find('"').unwrap()];
            let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads outside"));
            assert!(schema.pointer(pointer).is_some(), "{reference} of {text}");
        }
    }

    proptest! {
        #[test]
        fn every_definition_is_an_object_schema_whose_references_resolve(
            a in proptest::sample::select(vec!["A", "B", "C"]), b in proptest::sample::select(vec!["A", "B", "C", "D"]),
            kind in proptest::sample::select(vec!["object", "array", "string"]), property in "[a-z$]{0,4}",
        ) {
            let to = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
            let schemas = json!({"A": {"type": kind, "properties": {&property: to(b), "x": {"items": to("C")}}},
                "B": to(a), "C": {"anyOf": [to(a), to(b)]}});
            let content = json!({"application/json": {"schema": to(a)}});
            let told = one(json!({"requestBody": {"content": content}, "responses": {"200": {"content": content}}}), schemas);
            prop_assert_eq!(&told["inputSchema"]["type"], "object");
            check_references(&told["inputSchema"]);
            check_references(&told["outputSchema"]);
        }
    }
}
