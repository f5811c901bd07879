//! From the results of a server's `tools/list` to its tools.
//!
//! Decides which tools of MCP are tools of the gateway and what of them is kept: their definition byte for byte, their
//! schemas as OpenAPI says them. Trusts nothing in the list: nesting, number and size are bounded, a name that could be
//! read differently on the way is no tool, and no schema refers to anything outside itself.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    Answer, Body, Definition, Hints, MAX_TOOLS, Media, Run, Shape, Skipped, Source, Tool, ToolList,
    hoist::{ANYTHING, Hoist},
};
use crate::{
    catalog::entry::{self, skip},
    mcp::{
        members::{Members, text},
        param_headers::ParamHeaders,
        splice::Splice,
    },
    names::ToolName,
};

/// Most entries a list may have, tools or not.
const MAX_LISTED: usize = 5 * MAX_TOOLS;

/// One page, as a server sends it.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    tools: Vec<&'a RawValue>,
}

/// Members that a tool may have, and what their values begin with.
const OPTIONAL: &[(&str, char)] = &[
    ("title", '"'),
    ("description", '"'),
    ("outputSchema", '{'),
    ("annotations", '{'),
    ("icons", '['),
    ("execution", '{'),
    ("_meta", '{'),
];

pub(super) fn read(pages: &[String]) -> Result<(ToolList, Vec<Skipped>)> {
    let mut skipped = Vec::new();
    let mut candidates = candidates(pages, &mut skipped)?;
    let schemas = candidates.values_mut().map(|candidate| candidate.schemas.take()).collect();
    let document = Value::Array(schemas);
    let size = pages.iter().map(String::len).sum();
    let mut hoist = Hoist::new(&document, size);
    let mut tools = Vec::new();
    for (place, candidate) in candidates.into_values().enumerate() {
        tools.push(tool(candidate, place, &mut hoist)?);
    }
    let components = hoist.finish()?;
    let tools = tools.into_iter().map(|tool| (tool.name.clone(), Arc::new(tool))).collect();
    Ok((ToolList { tools, components }, skipped))
}

/// A tool that will be one of the gateway's.
struct Candidate {
    name: ToolName,
    source: Source,
    title: Option<String>,
    description: Option<String>,
    definition: Definition,
    legacy_definition: Option<Definition>,
    hints: Hints,
    param_headers: ParamHeaders,
    /// Its input and output.
    schemas: Value,
}

/// The tools that can be offered, by name; of several with one name the first.
fn candidates(pages: &[String], skipped: &mut Vec<Skipped>) -> Result<BTreeMap<ToolName, Candidate>> {
    let mut named: BTreeMap<ToolName, Candidate> = BTreeMap::new();
    for page in pages {
        let page: Page<'_> = serde_json::from_str(page).context("the tool list is not one of MCP")?;
        for raw in page.tools {
            ensure!(
                named.len() + skipped.len() < MAX_LISTED,
                "the tool list has more than {MAX_LISTED} entries"
            );
            match candidate(raw.get()) {
                Ok(candidate) if named.contains_key(&candidate.name) => {
                    skipped.push(skip(candidate.name.as_str(), "another tool has this name already"));
                }
                Ok(candidate) => drop(named.insert(candidate.name.clone(), candidate)),
                Err(no) => skipped.push(no),
            }
        }
    }
    ensure!(named.len() <= MAX_TOOLS, "the server has more than {MAX_TOOLS} tools");
    Ok(named)
}

fn candidate(raw: &str) -> Result<Candidate, Skipped> {
    let unreadable = || skip("a tool", "it is not what MCP calls a tool");
    let source = || Source::of_definition(raw);
    let raw = entry::cleaned(raw, OPTIONAL).map_err(|why| skip("a tool", why))?;
    let members = Members::read(&raw).ok_or_else(unreadable)?;
    let name = members.get("name").and_then(text).ok_or_else(unreadable)?;
    let no = |why| skip(&name, why);
    let tool_name = ToolName::parse(&name).map_err(|_| no("its name is not one of the gateway's"))?;
    if *name == *"mcp" {
        return Err(no("this path is the gateway's own"));
    }
    let schema = |name: &str| members.get(name).map(serde_json::from_str::<Value>).transpose();
    let input = schema("inputSchema").ok().flatten().ok_or_else(|| no("its input schema cannot be read"))?;
    if input.get("type").and_then(Value::as_str) != Some("object") {
        return Err(no("its input schema is not one of an object"));
    }
    let output = schema("outputSchema").map_err(|_| no("its output schema cannot be read"))?;
    let param_headers = members.get("inputSchema").and_then(ParamHeaders::read);
    let param_headers = param_headers.ok_or_else(|| no("its `x-mcp-header` is not as MCP says"))?;
    let of = |name: &str| members.get(name).and_then(text).filter(|text| !text.is_empty());
    let (definition, legacy_definition) =
        definitions(&raw, &members, &input, output.as_ref()).ok_or_else(unreadable)?;
    Ok(Candidate {
        source: source(),
        title: of("title").map(Cow::into_owned),
        description: of("description").map(Cow::into_owned),
        definition,
        legacy_definition,
        hints: members.get("annotations").map(Hints::read).unwrap_or_default(),
        param_headers,
        schemas: json!([input, output.unwrap_or(ANYTHING)]),
        name: tool_name,
    })
}

/// What clients are told of a tool, and what legacy ones are where that is something else.
fn definitions(
    raw: &str,
    members: &Members<'_>,
    input: &Value,
    output: Option<&Value>,
) -> Option<(Definition, Option<Definition>)> {
    let mut splice = Splice::new(raw);
    for (name, schema) in [("inputSchema", Some(input)), ("outputSchema", output)] {
        if let (Some(part), Some(schema)) = (members.get(name), schema)
            && refers_outside(schema)
        {
            let mut schema = schema.clone();
            drop_references_outside(&mut schema);
            splice.replace(part, schema.to_string());
        }
    }
    let text = splice.finish();
    let definition = Definition::around(&text, Members::read(&text)?.get("name")?)?;
    // Before 2026-07-28 a tool's structured output is an object, and clients refuse a schema that says otherwise.
    let is_understood =
        output.is_none_or(|output| output.get("type").and_then(Value::as_str) == Some("object"));
    if is_understood {
        return Some((definition, None));
    }
    let members = Members::read(&text)?;
    let legacy = Splice::new(&text).remake(&members, |name| name == "outputSchema", &[]).finish();
    let legacy = Definition::around(&legacy, Members::read(&legacy)?.get("name")?)?;
    Some((definition, Some(legacy)))
}

/// Whether this member leads out of the schema it stands in.
fn leads_outside(name: &str, value: &Value) -> bool {
    matches!(name, "$ref" | "$dynamicRef" | "$recursiveRef")
        && value.as_str().is_some_and(|reference| !reference.starts_with('#'))
}

fn refers_outside(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => {
            members.iter().any(|(name, value)| leads_outside(name, value) || refers_outside(value))
        }
        Value::Array(items) => items.iter().any(refers_outside),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn drop_references_outside(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            members.retain(|name, value| !leads_outside(name, value));
            members.values_mut().for_each(drop_references_outside);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_references_outside),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn tool(candidate: Candidate, place: usize, hoist: &mut Hoist<'_>) -> Result<Tool> {
    let json = |schema| BTreeMap::from([("application/json".to_owned(), Media { schema })]);
    let input = hoist.enter(format!("/{place}/0"));
    let takes_arguments_key = hoist.takes_arguments_key(input)?;
    let body = Body {
        description: None,
        required: input.get("required").and_then(Value::as_array).is_some_and(|names| !names.is_empty()),
        content: json(hoist.fragment(input)?),
    };
    let output = hoist.enter(format!("/{place}/1"));
    let response =
        Answer { description: "what the tool answers".into(), content: json(hoist.fragment(output)?) };
    Ok(Tool {
        name: candidate.name,
        run: Run::Call,
        takes_arguments_key,
        description: candidate.description.or_else(|| candidate.title.clone()).unwrap_or_default(),
        summary: candidate.title,
        source: candidate.source,
        definition: candidate.definition,
        legacy_definition: candidate.legacy_definition,
        hints: candidate.hints,
        param_headers: candidate.param_headers,
        shape: Shape { parameters: Vec::new(), request_body: Some(body), response },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(tools: &Value) -> Result<(ToolList, Vec<Skipped>)> {
        ToolList::from_mcp(&[json!({"tools": tools, "x": 1}).to_string()])
    }

    /// A tool with this name and these further members.
    fn named(name: &str, others: Value) -> Value {
        let mut tool = json!({"name": name, "inputSchema": {"type": "object"}});
        tool.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
        tool
    }

    fn one(others: Value) -> (Arc<Tool>, ToolList) {
        let (list, skipped) = parse(&json!([named("t", others)])).unwrap();
        assert_eq!(skipped, []);
        (list.get("t").unwrap().clone(), list)
    }

    fn written(definition: &Definition, name: &str) -> String {
        let mut bytes = Vec::new();
        definition.write(name, &mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    fn value(schema: &impl serde::Serialize) -> Value {
        serde_json::to_value(schema).unwrap()
    }

    /// Checks names of the tools, and what was skipped.
    #[track_caller]
    fn check(tools: Value, expected: &[&str], skipped: &[(&str, &str)]) {
        let (list, others) = parse(&tools).unwrap();
        let names: Vec<_> = list.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names, expected);
        let others: Vec<_> = others.iter().map(|skipped| (&*skipped.operation, skipped.why)).collect();
        assert_eq!(others, skipped);
    }

    #[test]
    fn a_tool_that_cannot_be_offered_is_skipped_alone() {
        let kind = "a member of it is not of the kind that MCP says";
        check(
            json!([
                named("b.c-d_E", json!({})), named("a", json!({})), named("a", json!({"title": "again"})),
                named("a/b", json!({})), named("mcp", json!({})), named("", json!({})), 7, {"name": "x"},
                {"name": 7, "inputSchema": {"type": "object"}}, named("k", json!({"description": 7})),
                named("o", json!({"inputSchema": []})), named("p", json!({"inputSchema": {"type": "array"}})),
                named("q", json!({"outputSchema": true})), named("r", json!({"title": null, "outputSchema": null})),
                named("s\n", json!({})),
            ]),
            &["a", "b.c-d_E", "r"],
            &[
                ("a", "another tool has this name already"),
                ("a/b", "its name is not one of the gateway's"),
                ("mcp", "this path is the gateway's own"),
                ("", "its name is not one of the gateway's"),
                ("a tool", "it is no object, or has a member twice"),
                ("x", "its input schema cannot be read"),
                ("a tool", "it is not what MCP calls a tool"),
                ("a tool", kind),
                ("o", "its input schema is not one of an object"),
                ("p", "its input schema is not one of an object"),
                ("a tool", kind),
                ("s\\n", "its name is not one of the gateway's"),
            ],
        );
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let deep = format!(r#"{{"tools":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        for page in ["", "[]", "{}", r#"{"tools":{}}"#, r#"{"tools":null}"#, r#"{"tools":[],"tools":[]}"#] {
            assert!(ToolList::from_mcp(&[page.to_owned()]).is_err(), "{page}");
        }
        assert!(ToolList::from_mcp(&[deep]).unwrap().0.is_empty());
        assert!(ToolList::from_mcp(&[]).unwrap().0.is_empty());
    }

    #[test]
    fn more_tools_than_the_bound_are_refused() {
        let tools = |n: usize| (0..n).map(|i| named(&format!("t{i}"), json!({}))).collect::<Value>();
        assert_eq!(parse(&tools(MAX_TOOLS)).unwrap().0.len(), MAX_TOOLS);
        let error = parse(&tools(MAX_TOOLS + 1)).unwrap_err();
        assert_eq!(error.to_string(), "the server has more than 2000 tools");
        let unnamed = (0..=MAX_LISTED).map(|_| json!(7)).collect::<Value>();
        assert!(parse(&unnamed).unwrap_err().to_string().contains("more than 10000 entries"));
    }

    #[test]
    fn a_definition_keeps_every_byte_but_its_name() {
        let raw = r#"{ "x-vendor":{"name":"t"}, "inputSchema" : {"type":"object","maximum":3.0} ,"name" :  "\u0074","_meta":{} }"#;
        let (list, _) = ToolList::from_mcp(&[format!(r#"{{"tools":[{raw}]}}"#)]).unwrap();
        let expected = raw.replace(r#""\u0074""#, r#""s_t""#);
        assert_eq!(written(&list.get("t").unwrap().definition, "s_t"), expected);
        let (tool, _) = one(json!({"title": null, "_meta": {"a": 1}}));
        assert!(!written(&tool.definition, "t").contains("null"));
    }

    #[test]
    fn a_schema_refers_to_nothing_outside_itself() {
        let outside = json!({"type": "object", "properties": {"a": {"$ref": "https://evil/x"}, "b": {"$ref": "#/$defs/B"},
            "$ref": {"type": "string"}}, "$defs": {"B": {"items": {"$dynamicRef": "other.json"}}}});
        let (tool, list) = one(json!({"inputSchema": outside, "outputSchema": outside}));
        let definition: Value = serde_json::from_str(&written(&tool.definition, "t")).unwrap();
        let cleaned = json!({"type": "object", "properties": {"a": {}, "b": {"$ref": "#/$defs/B"}, "$ref": {"type": "string"}},
            "$defs": {"B": {"items": {}}}});
        assert_eq!((&definition["inputSchema"], &definition["outputSchema"]), (&cleaned, &cleaned));
        let text = value(&list.components).to_string() + &value(&tool.shape.request_body).to_string();
        assert!(!text.contains("evil") && !text.contains("other.json"), "{text}");
    }

    #[test]
    fn schemas_stand_in_openapi_as_the_server_says_them() {
        let (tool, list) = one(json!({
            "title": "T",
            "inputSchema": {"type": "object", "required": ["a"], "properties": {
                "a": {"$ref": "#/$defs/A"}, "arguments": {"$ref": "#"}}, "$defs": {"A": {"type": "integer"}}},
            "outputSchema": {"type": "object", "properties": {"a": {"$ref": "#/definitions/A"}},
                "definitions": {"A": {"type": "string"}}},
        }));
        assert!(tool.takes_arguments_key && tool.post().is_none());
        assert_eq!((tool.description.as_str(), tool.summary.as_deref()), ("T", Some("T")));
        let body = value(&tool.shape.request_body);
        assert_eq!(body["required"], true);
        assert_eq!(
            body["content"]["application/json"]["schema"],
            json!({"type": "object", "required": ["a"], "properties": {
                "a": {"$ref": "#/components/schemas/A"}, "arguments": {"$ref": "#/components/schemas/0"}}}),
        );
        let answer = value(&tool.shape.response);
        assert_eq!(
            answer["content"]["application/json"]["schema"]["properties"]["a"]["$ref"],
            "#/components/schemas/A_2"
        );
        let components = value(&list.components);
        assert_eq!(
            (&components["A"]["type"], &components["A_2"]["type"]),
            (&json!("integer"), &json!("string"))
        );
        assert_eq!(components["0"]["required"], json!(["a"]));
    }

    #[test]
    fn the_input_may_have_a_property_named_arguments_anywhere_on_its_outermost_level() {
        for (schema, expected) in [
            (json!({"properties": {"arguments": {}}}), true),
            (
                json!({"allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": {"properties": {"arguments": {}}}}}),
                true,
            ),
            (
                json!({"properties": {"a": {"properties": {"arguments": {}}}}, "allOf": [{"$ref": "#"}]}),
                false,
            ),
        ] {
            let mut schema = schema;
            schema["type"] = "object".into();
            assert_eq!(one(json!({"inputSchema": schema})).0.takes_arguments_key, expected);
        }
    }

    #[test]
    fn legacy_clients_are_not_told_of_output_that_is_no_object() {
        let told = |output: Value| {
            let (tool, _) = one(json!({"outputSchema": output}));
            [false, true]
                .map(|is_modern| written(tool.definition_for(is_modern), "t").contains("outputSchema"))
        };
        assert_eq!(told(json!({"type": "object"})), [true, true]);
        assert_eq!(told(json!({"type": "array"})), [false, true]);
        assert_eq!(told(json!({"anyOf": []})), [false, true]);
    }

    #[test]
    fn hints_are_those_of_the_annotations() {
        let hints = |annotations: Value| one(json!({"annotations": annotations})).0.hints;
        assert_eq!(hints(json!({})), Hints::default());
        assert!(hints(json!({"readOnlyHint": true, "destructiveHint": 7})).is_repeatable());
        assert!(hints(json!({"idempotentHint": true})).is_repeatable());
        assert!(!hints(json!({"readOnlyHint": "true", "idempotentHint": true})).is_repeatable());
    }

    #[test]
    fn lists_that_say_the_same_give_equal_lists_whatever_their_order_and_pages() {
        let (a, b) = (named("a", json!({})), named("b", json!({})));
        let pages = |pages: &[Value]| {
            let pages: Vec<_> = pages.iter().map(|tools| json!({"tools": tools}).to_string()).collect();
            ToolList::from_mcp(&pages).unwrap().0
        };
        assert_eq!(pages(&[json!([a, b])]), pages(&[json!([b]), json!([a])]));
        assert_ne!(pages(&[json!([a, b])]), pages(&[json!([a, named("b", json!({"title": "B"}))])]));
    }

    #[test]
    fn a_list_that_unfolds_without_end_is_refused() {
        let properties = |next: usize| {
            json!({"properties": {
            "a": {"$ref": format!("#/$defs/D{next}")}, "b": {"$ref": format!("#/$defs/D{next}")}}})
        };
        let definitions: serde_json::Map<_, _> =
            (0..60).map(|i| (format!("D{i}"), properties(i + 1))).collect();
        let schema = json!({"type": "object", "$ref": "#/$defs/D0", "$defs": definitions});
        // Shared parts stay shared, so this is small.
        assert_eq!(one(json!({"inputSchema": schema})).1.components.len(), 60);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(page in ".{0,300}", tool in ".{0,100}") {
            drop(ToolList::from_mcp(&[page]));
            drop(ToolList::from_mcp(&[format!(r#"{{"tools":[{tool}]}}"#)]));
        }

        #[test]
        fn whatever_is_offered_is_json_and_the_same_but_for_its_name(
            name in "[a-z_.]{1,8}|.{0,8}", exposed in "[A-Za-z0-9_-]{1,64}", title in ".*", key in ".{0,8}",
            number in any::<i64>(),
        ) {
            let tool = json!({"name": name, "inputSchema": {"type": "object", "properties": {&key: {"default": number}}},
                "title": title, "x": {&key: number}});
            let (list, skipped) = parse(&json!([tool])).unwrap();
            prop_assert_eq!(list.len() + skipped.len(), 1);
            for found in list.iter() {
                let mut expected = tool.clone();
                expected["name"] = json!(&exposed);
                let written: Value = serde_json::from_str(&written(&found.definition, &exposed)).unwrap();
                prop_assert_eq!(written, expected);
            }
        }
    }
}
