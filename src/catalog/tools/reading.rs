//! From the bytes of a server's OpenAPI document to its tools.
//!
//! Decides which operations are tools and what of them is kept. Trusts nothing in the document: nesting,
//! number and size are bounded, and a path that somebody on the way could read differently is no tool.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use super::{
    Answer, Body, Definition, Hints, MAX_TOOLS, Media, Parameter, Post, Run, Shape, Skipped, Source, Tool,
    ToolList,
    hoist::{ANYTHING, Hoist, follow, percent_decoded},
    schemas::References,
    source::Sources,
    told::Teller,
};
use crate::{mcp::param_headers::ParamHeaders, names::ToolName};

/// Every method an OpenAPI path item can have but `post`.
const OTHER_METHODS: [&str; 8] = ["get", "put", "delete", "options", "head", "patch", "trace", "query"];
/// Most paths a document may have, tools or not.
const MAX_PATHS: usize = 5 * MAX_TOOLS;

pub(super) fn read(bytes: &[u8]) -> Result<(ToolList, Vec<Skipped>)> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let document: Value = serde_json::from_slice(bytes).context("the tool list is not JSON")?;
    let version = document.get("openapi").and_then(Value::as_str).unwrap_or_default();
    ensure!(version.starts_with("3."), "the tool list is not an OpenAPI 3 document");
    let paths = document.get("paths").and_then(Value::as_object).context("the tool list has no `paths`")?;

    ensure!(paths.len() <= MAX_PATHS, "the tool list has more than {MAX_PATHS} paths");
    let mut skipped = Vec::new();
    let candidates = candidates(&document, paths, &mut skipped);
    ensure!(candidates.len() <= MAX_TOOLS, "the server has more than {MAX_TOOLS} tools");
    let mut hoist = Hoist::new(&document, bytes.len());
    let mut sources = Sources::new(&document);
    let mut tools = Vec::new();
    for (name, candidate) in candidates {
        let (path, item, operation) = candidate;
        match tool(name, candidate, sources.source(path, item, operation), &mut hoist)? {
            Ok(tool) => tools.push(tool),
            Err(why) => skipped.push(skip("post", candidate.0, why)),
        }
    }
    let components = hoist.finish()?;
    let mut teller = Teller::new(&components, bytes.len());
    for tool in &mut tools {
        teller.tell(tool);
    }
    let tools = tools.into_iter().map(|tool| (tool.name.clone(), Arc::new(tool))).collect();
    Ok((ToolList { tools, components }, skipped))
}

/// Path, path item and POST operation of a tool to be.
type Candidate<'d> = (&'d str, &'d Value, &'d Value);

/// The POST operations by name: a path of one segment takes its name before deeper ones.
fn candidates<'d>(
    document: &'d Value,
    paths: &'d Map<String, Value>,
    skipped: &mut Vec<Skipped>,
) -> BTreeMap<ToolName, Candidate<'d>> {
    let mut ordered: Vec<_> = paths.iter().filter(|(path, _)| !path.starts_with("x-")).collect();
    ordered.sort_by_key(|(path, _)| {
        (path.trim_end_matches('/').matches('/').count(), path.contains('%'), path.as_str())
    });
    let mut named = BTreeMap::new();
    for (path, item) in ordered {
        let Some(item) = follow(document, item).filter(|item| item.is_object()) else {
            skipped.push(skip("", path, "the path item is not in the document"));
            continue;
        };
        for method in OTHER_METHODS.into_iter().filter(|method| item.get(method).is_some()) {
            skipped.push(skip(method, path, "only POST operations are tools"));
        }
        let Some(operation) = item.get("post").filter(|operation| operation.is_object()) else { continue };
        match tool_name(path) {
            Ok(name) if named.contains_key(&name) => {
                skipped.push(skip("post", path, "another path has this name already"));
            }
            Ok(name) => drop(named.insert(name, (path.as_str(), item, operation))),
            Err(why) => skipped.push(skip("post", path, why)),
        }
    }
    named
}

/// The name of the tool at this path, or why there is none.
fn tool_name(path: &str) -> Result<ToolName, &'static str> {
    let Some(below) = path.strip_prefix('/') else {
        return Err("the path does not begin with `/`");
    };
    if path.contains(['{', '}']) {
        return Err("the path has parameters");
    }
    // What survives is letters, digits, `_`, `.` and `-`: no separator, dot segment or control, not
    // even a percent-encoded one that a peer would decode.
    let mut segments = Vec::new();
    for segment in below.strip_suffix('/').unwrap_or(below).split('/') {
        let name = percent_decoded(segment).and_then(|text| ToolName::parse(&text).ok());
        segments.push(name.ok_or("the path is not made of tool names")?);
    }
    match segments.as_slice() {
        [name] if name.as_str() == "mcp" => Err("this path is the gateway's own"),
        [name] => Ok(name.clone()),
        deeper => {
            let joined = deeper.iter().map(ToolName::as_str).collect::<Vec<_>>().join("_");
            ToolName::parse(&joined).map_err(|_| "the path is too long for a tool name")
        }
    }
}

fn skip(method: &str, path: &str, why: &'static str) -> Skipped {
    let shown = path.chars().take(100).flat_map(char::escape_debug);
    let operation = method.to_ascii_uppercase().chars().chain(" ".chars()).chain(shown).collect::<String>();
    Skipped { operation: operation.trim_start().to_owned(), why }
}

fn tool(
    name: ToolName,
    (path, item, operation): Candidate<'_>,
    source: Source,
    hoist: &mut Hoist<'_>,
) -> Result<Result<Tool, &'static str>> {
    let document = hoist.document;
    let body = match operation.get("requestBody") {
        None | Some(Value::Null) => None,
        Some(body) => {
            let Some(body) = follow(document, body) else {
                return Ok(Err("its request body is not in the document"));
            };
            let content =
                body.get("content").and_then(Value::as_object).filter(|content| !content.is_empty());
            hoist.charge(content.map_or(0, Map::len))?;
            match content.map(json_schema) {
                None => None,
                Some(None) => return Ok(Err("its request body is not JSON")),
                Some(Some(input)) => Some((body, input)),
            }
        }
    };
    let takes_arguments_key = body.map(|(_, input)| hoist.takes_arguments_key(input)).transpose()?;
    let parameters = query_parameters(item, operation, hoist)?;
    let summary = hoist.text(operation, "summary")?.or(hoist.text(item, "summary")?);
    let description = hoist.text(operation, "description")?.or(hoist.text(item, "description")?);
    Ok(Ok(Tool {
        name,
        run: Run::Post(Arc::new(Post {
            path: path.to_owned(),
            query: parameters.iter().map(|parameter| parameter.name.clone()).collect(),
            arguments_in_query: Vec::new(),
        })),
        takes_arguments_key: takes_arguments_key.unwrap_or_default(),
        description: description.or_else(|| summary.clone()).unwrap_or_default(),
        summary,
        source,
        // Told once the schemas it refers to are known.
        definition: Definition::default(),
        hints: Hints::default(),
        legacy_definition: None,
        param_headers: ParamHeaders::default(),
        shape: Shape {
            parameters,
            request_body: body.map(|(body, input)| request_body(body, input, hoist)).transpose()?,
            response: answer(operation, hoist)?,
        },
    }))
}

/// The schema of the JSON representation; one without a schema takes anything.
fn json_schema(content: &Map<String, Value>) -> Option<&Value> {
    let is_json = |media_type: &str| {
        let essence = media_type.split(';').next().unwrap_or_default();
        essence.trim().eq_ignore_ascii_case("application/json")
    };
    let (_, media) = content.iter().find(|(name, _)| is_json(name))?;
    Some(media.get("schema").unwrap_or(&ANYTHING))
}

/// Query parameters of the path item and the operation, by name; the operation's win.
fn query_parameters(item: &Value, operation: &Value, hoist: &mut Hoist<'_>) -> Result<Vec<Parameter>> {
    let lists = [item, operation].into_iter().filter_map(|owner| owner.get("parameters")?.as_array());
    let mut named = BTreeMap::new();
    for given in lists.flatten() {
        hoist.charge(1)?;
        let Some(given) = follow(hoist.document, given) else { continue };
        if given.get("in").and_then(Value::as_str) != Some("query") {
            continue;
        }
        if let Some(name) = hoist.text(given, "name")? {
            named.insert(name, given);
        }
    }
    named.into_iter().map(|(name, given)| parameter(name, given, hoist)).collect()
}

fn parameter(name: String, given: &Value, hoist: &mut Hoist<'_>) -> Result<Parameter> {
    Ok(Parameter {
        name,
        place: "query",
        description: hoist.text(given, "description")?,
        required: is_true(given, "required"),
        style: hoist.text(given, "style")?,
        explode: given.get("explode").and_then(Value::as_bool),
        schema: hoist.fragment(given.get("schema").unwrap_or(&ANYTHING))?,
    })
}

fn request_body(body: &Value, input: &Value, hoist: &mut Hoist<'_>) -> Result<Body> {
    Ok(Body {
        description: hoist.text(body, "description")?,
        required: is_true(body, "required"),
        content: BTreeMap::from([("application/json".into(), Media { schema: hoist.fragment(input)? })]),
    })
}

fn answer(operation: &Value, hoist: &mut Hoist<'_>) -> Result<Answer> {
    let given = operation.get("responses").and_then(|responses| responses.get("200"));
    let given = given.and_then(|answer| follow(hoist.document, answer)).unwrap_or(&Value::Null);
    let mut content = BTreeMap::new();
    for (name, media) in given.get("content").and_then(Value::as_object).into_iter().flatten() {
        hoist.charge(name.len())?;
        let schema = media.get("schema").unwrap_or(&ANYTHING);
        content.insert(name.clone(), Media { schema: hoist.fragment(schema)? });
    }
    let description = hoist.text(given, "description")?.unwrap_or_else(|| "what the tool answers".into());
    Ok(Answer { description, content })
}

fn is_true(value: &Value, member: &str) -> bool {
    value.get(member).and_then(Value::as_bool).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(document: &Value) -> Result<(ToolList, Vec<Skipped>)> {
        ToolList::parse(&serde_json::to_vec(document).unwrap())
    }

    fn with_paths(paths: Value) -> Value {
        json!({"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": paths})
    }

    /// Checks names and paths of the tools, and what was skipped.
    #[track_caller]
    fn check(paths: Value, tools: &[(&str, &str)], skipped: &[(&str, &str)]) {
        let (list, others) = parse(&with_paths(paths)).unwrap();
        let found: Vec<_> =
            list.iter().map(|tool| (tool.name.as_str(), tool.post().unwrap().path.as_str())).collect();
        assert_eq!(found, tools);
        let others: Vec<_> = others.iter().map(|other| (other.operation.as_str(), other.why)).collect();
        assert_eq!(others, skipped);
    }

    fn one(operation: Value, components: Value) -> Arc<Tool> {
        let mut document = with_paths(json!({"/t": {"post": operation}}));
        document["components"] = components;
        parse(&document).unwrap().0.get("t").unwrap().clone()
    }

    #[test]
    fn only_post_operations_are_tools() {
        let why = "only POST operations are tools";
        check(
            json!({"/a": {"post": {}, "get": {}, "parameters": []}, "/health": {"get": {}}, "x-note": {}}),
            &[("a", "/a")],
            &[("GET /a", why), ("GET /health", why)],
        );
    }

    #[test]
    fn a_path_that_could_be_misread_is_no_tool() {
        let not_names = "the path is not made of tool names";
        for path in [
            "/..", "/a/../b", "//a", "/a//b", "/a//", "/a?b", "/a#b", "/a\\b", "/a%2Fb", "/a%5cb", "/%2e%2e",
            "/a%00", "/a%", "/a%zz", "/", "/a b", "/é", "/a;b", "/.", "/a%252Fb", "/%ff",
        ] {
            check(json!({path: {"post": {}}}), &[], &[(&format!("POST {}", path.escape_debug()), not_names)]);
        }
        check(json!({"a": {"post": {}}}), &[], &[("POST a", "the path does not begin with `/`")]);
        check(
            json!({"/a\n": {"post": {}}, "/b\u{7f}": {"post": {}}}),
            &[],
            &[("POST /a\\n", not_names), ("POST /b\\u{7f}", not_names)],
        );
        check(json!({"/a/{id}": {"post": {}}}), &[], &[("POST /a/{id}", "the path has parameters")]);
        check(json!({"/mcp": {"post": {}}}), &[], &[("POST /mcp", "this path is the gateway's own")]);
    }

    #[test]
    fn a_tool_is_called_like_its_path() {
        check(
            json!({"/dash-name": {"post": {}}, "/dot.name": {"post": {}}, "/openapi.json": {"post": {}},
                "/slash/name": {"post": {}}, "/end/": {"post": {}}, "/per%2Dcent": {"post": {}}}),
            &[
                ("dash-name", "/dash-name"),
                ("dot.name", "/dot.name"),
                ("end", "/end/"),
                ("openapi.json", "/openapi.json"),
                ("per-cent", "/per%2Dcent"),
                ("slash_name", "/slash/name"),
            ],
            &[],
        );
    }

    #[test]
    fn the_shortest_and_plainest_path_takes_a_name() {
        let why = "another path has this name already";
        check(
            json!({"/a/b": {"post": {}}, "/a_b": {"post": {}}, "/a%5Fb": {"post": {}}, "/a_b/": {"post": {}}}),
            &[("a_b", "/a_b")],
            &[("POST /a_b/", why), ("POST /a%5Fb", why), ("POST /a/b", why)],
        );
    }

    #[test]
    fn a_body_that_is_not_json_makes_no_tool() {
        let form = json!({"requestBody": {"content": {"multipart/form-data": {}}}});
        let empty = json!({"requestBody": {"content": {}}});
        let missing = json!({"requestBody": {"$ref": "#/components/requestBodies/X"}});
        let named = json!({"requestBody": {"content": {"Application/JSON; charset=utf-8": {}}}});
        check(
            json!({"/a": {"post": form}, "/b": {"post": empty}, "/c": {"post": missing}, "/d": {"post": named}}),
            &[("b", "/b"), ("d", "/d")],
            &[
                ("POST /a", "its request body is not JSON"),
                ("POST /c", "its request body is not in the document"),
            ],
        );
    }

    #[test]
    fn query_parameters_are_kept_and_others_are_not() {
        let components = json!({"parameters": {"limit": {"name": "limit", "in": "query", "schema": true}}});
        let operation = json!({"parameters": [
            {"$ref": "#/components/parameters/limit"}, {"name": "X-Key", "in": "header"},
            {"name": "c", "in": "cookie"}, {"$ref": "http://evil/p"},
        ]});
        let tool = one(operation, components);
        assert_eq!(tool.post().unwrap().query, ["limit"]);
        let names: Vec<_> = tool.shape.parameters.iter().map(|parameter| &*parameter.name).collect();
        assert_eq!(names, ["limit"]);
        assert!(
            !one(json!({"parameters": [{"name": "h", "in": "header"}]}), json!({}))
                .post()
                .unwrap()
                .query
                .len()
                > 0
        );
    }

    #[test]
    fn an_input_with_a_property_named_arguments_is_noticed() {
        let body =
            |schema: Value| json!({"requestBody": {"content": {"application/json": {"schema": schema}}}});
        let components = json!({"schemas": {
            "A": {"allOf": [{"$ref": "#/components/schemas/B"}]},
            "B": {"anyOf": [{"properties": {"arguments": {}}}]},
            "Loop": {"allOf": [{"$ref": "#/components/schemas/Loop"}], "properties": {"x": {"properties": {"arguments": {}}}}},
        }});
        for (schema, expected) in [
            (json!({"properties": {"arguments": {"type": "object"}}}), true),
            (json!({"$ref": "#/components/schemas/A"}), true),
            (json!({"$ref": "#/components/schemas/Loop"}), false),
            (json!({"properties": {"other": {}}}), false),
            (json!(true), false),
        ] {
            assert_eq!(
                one(body(schema.clone()), components.clone()).takes_arguments_key,
                expected,
                "{schema}"
            );
        }
    }

    #[test]
    fn a_missing_description_is_the_summary() {
        assert_eq!(one(json!({"summary": "s"}), json!({})).description, "s");
        assert_eq!(one(json!({"summary": "s", "description": "d"}), json!({})).description, "d");
        assert_eq!(one(json!({"summary": 1}), json!({})).description, "");
    }

    #[test]
    fn documents_that_say_the_same_give_equal_lists() {
        let document = with_paths(json!({"/a": {"post": {"summary": "s"}, "get": {}}, "/b": {"post": {}}}));
        let mut other = document.clone();
        other["info"]["version"] = json!("2");
        other["paths"]["/a"]["get"] = json!({"summary": "never shown"});
        assert_eq!(parse(&document).unwrap().0, parse(&other).unwrap().0);
        other["paths"]["/a"]["post"]["summary"] = json!("another");
        assert_ne!(parse(&document).unwrap().0, parse(&other).unwrap().0);
    }

    #[test]
    fn what_is_no_openapi_document_is_refused_with_a_reason() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for (bytes, reason) in [
            ("", "the tool list is not JSON"),
            ("openapi: 3.1.0", "the tool list is not JSON"),
            (&*deep, "the tool list is not JSON"),
            ("[]", "the tool list is not an OpenAPI 3 document"),
            (r#"{"swagger":"2.0","paths":{}}"#, "the tool list is not an OpenAPI 3 document"),
            (r#"{"openapi":"3.1.0"}"#, "the tool list has no `paths`"),
        ] {
            assert_eq!(ToolList::parse(bytes.as_bytes()).unwrap_err().to_string(), reason);
        }
        assert!(ToolList::parse(b"\xef\xbb\xbf{\"openapi\":\"3.0.1\",\"paths\":{}}").unwrap().0.is_empty());
    }

    #[test]
    fn more_tools_than_the_bound_are_refused() {
        let paths = |n: usize| (0..n).map(|i| (format!("/t{i}"), json!({"post": {}}))).collect::<Map<_, _>>();
        assert_eq!(parse(&with_paths(paths(MAX_TOOLS).into())).unwrap().0.len(), MAX_TOOLS);
        let error = parse(&with_paths(paths(MAX_TOOLS + 1).into())).unwrap_err();
        assert_eq!(error.to_string(), "the server has more than 2000 tools");
    }

    #[test]
    fn a_document_that_unfolds_without_end_is_refused() {
        let body = json!({"$ref": "#/components/requestBodies/big"});
        let paths = (0..1_000).map(|i| (format!("/t{i}"), json!({"post": {"requestBody": body}})));
        let mut document = with_paths(paths.collect::<Map<_, _>>().into());
        let schema = json!({"description": "d".repeat(100_000)});
        document["components"]["requestBodies"]["big"] =
            json!({"content": {"application/json": {"schema": schema}}});
        let error = parse(&document).unwrap_err();
        assert!(error.to_string().contains("more than 8 times its size"), "{error}");
    }

    #[test]
    fn real_documents_give_all_their_tools() {
        for (document, tools, with_arguments) in [
            (&include_bytes!("../../../tests/fixtures/openapi/mcpo_time.json")[..], 2, None),
            (include_bytes!("../../../tests/fixtures/openapi/mcpo_git.json"), 12, None),
            (include_bytes!("../../../tests/fixtures/openapi/mcpo_filesystem.json"), 14, None),
            (include_bytes!("../../../tests/fixtures/openapi/mcpo_everything.json"), 13, None),
            (include_bytes!("../../../tests/fixtures/openapi/mcpo_odd_names.json"), 34, Some("echo")),
        ] {
            let (list, skipped) = ToolList::parse(document).unwrap();
            assert_eq!((list.len(), &*skipped), (tools, &[][..]));
            let mut taking_arguments = list.iter().filter(|tool| tool.takes_arguments_key);
            assert_eq!(taking_arguments.next().map(|tool| tool.name.as_str()), with_arguments);
            assert!(
                taking_arguments.next().is_none()
                    && list.iter().all(|tool| tool.post().unwrap().query.is_empty())
            );
            assert!(!list.components.keys().any(|name| name.contains("ValidationError")));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            drop(ToolList::parse(&bytes));
        }

        #[test]
        fn any_path_is_read_without_panic_and_every_tool_keeps_its_own(path in "/?[a-c%/.{}?#\\\\0-9]{0,12}|.*") {
            let (list, _) = parse(&with_paths(json!({&path: {"post": {}}}))).unwrap();
            for tool in list.iter() {
                prop_assert_eq!(&tool.post().unwrap().path, &path);
                let is_plain = path.starts_with('/') && !path.contains("//") && !path.contains(['?', '#', '\\', '{']);
                prop_assert!(is_plain, "{}", path);
                prop_assert!(path.split('/').all(|segment| segment != ".." && segment != "."));
            }
        }
    }
}
