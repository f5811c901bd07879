//! Facts about the documents that callers get, for real, awkward and hostile tool lists.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    access::{ToolScope, tools::ToolRule},
    catalog::{
        server::{Deadlines, PeerUrl, Tier},
        tools::ToolList,
    },
};

pub(super) fn visible(id: &str) -> Visible {
    Visible { server: server(id), tools: ToolScope::default() }
}

fn server(id: &str) -> Arc<Server> {
    let peer = PeerUrl { is_tls: false, host: "127.0.0.1".into(), port: 1, base_path: String::new() };
    Arc::new(Server {
        id: ServerId::parse(id).unwrap(),
        name: format!("{id} by name"),
        tier: Tier::Local,
        dialect: Tier::Local.default_dialect(),
        mcp_versions: None,
        peers: [peer].into(),
        credential: None,
        own_credential: None,
        sharing: Default::default(),
        discovery_credential: None,
        is_session_shared: true,
        is_pinned: false,
        audits_arguments: false,
        is_enabled: true,
        missing_variables: Vec::new(),
        description: format!("what {id} is for"),
        deadlines: Deadlines::of(Duration::from_secs(1), Duration::from_secs(1)),
        care: Default::default(),
        limits: Default::default(),
    })
}

pub(super) fn index<'t>(lists: impl IntoIterator<Item = (&'t str, Value)>) -> ToolIndex {
    let lists = lists.into_iter().map(|(id, document)| (ServerId::parse(id).unwrap(), document));
    let lists: Vec<_> = lists.collect();
    lists.iter().fold(ToolIndex::of_servers(lists.iter().map(|(id, _)| id)), |index, (id, document)| {
        let (list, _) = ToolList::parse(&serde_json::to_vec(document).unwrap()).unwrap();
        index.with(id.clone(), Arc::new(list))
    })
}

fn written(scope: Scope<'_>, servers: &[&str], tools: &ToolIndex) -> Value {
    let servers: Vec<_> = servers.iter().map(|id| visible(id)).collect();
    serde_json::from_slice(&document(scope, &servers, tools)).unwrap()
}

fn with_tools<'t>(tools: impl IntoIterator<Item = &'t str>) -> Value {
    let paths: serde_json::Map<_, _> =
        tools.into_iter().map(|tool| (format!("/{tool}"), json!({"post": {}}))).collect();
    json!({"openapi": "3.1.0", "paths": paths})
}

fn operation_ids(document: &Value) -> Vec<&str> {
    let paths = document["paths"].as_object().unwrap().values();
    paths.map(|item| item["post"]["operationId"].as_str().unwrap()).collect()
}

/// All values of `$ref`, wherever they stand.
fn references(value: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    let mut pending = vec![value];
    while let Some(value) = pending.pop() {
        if let Some(Value::String(reference)) = value.get("$ref") {
            found.push(&**reference);
        }
        match value {
            Value::Object(members) => pending.extend(members.values()),
            Value::Array(items) => pending.extend(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    found
}

#[track_caller]
fn check_references(document: &Value) {
    for reference in references(document) {
        let pointer =
            reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leaves the document"));
        assert!(pointer.starts_with("/components/schemas/"), "{reference}");
        assert!(document.pointer(pointer).is_some(), "{reference} points nowhere in {document}");
    }
}

/// Checks a member of the document of these servers, each with the same one tool document.
#[track_caller]
fn check(scope: Scope<'_>, pointer: &str, expected: &Value) {
    let given = json!({
        "openapi": "3.0.3",
        "info": {"title": "peer", "version": "9"},
        "security": [{"k": []}],
        "servers": [{"url": "http://inside:1"}],
        "paths": {"/search": {
            "servers": [{"url": "http://inside:2"}],
            "get": {"operationId": "never"},
            "parameters": [{"name": "page", "in": "query", "schema": {"$ref": "#/components/schemas/Page"}}],
            "post": {
                "operationId": "peers_own", "summary": "Search", "description": "Finds things", "tags": ["x"],
                "security": [{"k": []}], "callbacks": {"c": {}}, "servers": [{"url": "http://inside:3"}],
                "parameters": [{"name": "X-Key", "in": "header"}, {"name": "c", "in": "cookie"}],
                "requestBody": {"required": true, "content": {"application/json": {
                    "schema": {"$ref": "#/components/schemas/Query"}, "example": {"secret": 1}}}},
                "responses": {
                    "200": {"description": "found", "headers": {"X": {}}, "content": {"application/json": {
                        "schema": {"anyOf": [{"$ref": "#/components/schemas/Query/properties/text"}, {}]}}}},
                    "422": {"description": "no", "content": {"application/json": {
                        "schema": {"$ref": "#/components/schemas/Unused"}}}},
                },
            },
        }},
        "components": {
            "securitySchemes": {"k": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Query": {"type": "object", "discriminator": {"propertyName": "kind", "mapping": {"p": "Page"}},
                    "properties": {"text": {"type": "string", "nullable": true},
                    "inner": {"$ref": "#/components/schemas/Query"}}},
                "Page": {"type": "integer"},
                "Unused": {"type": "string"},
            },
        },
    });
    let tools = index([("one", given.clone()), ("two", given)]);
    let document = written(scope, &["one", "two"], &tools);
    check_references(&document);
    assert_eq!(document.pointer(pointer), Some(expected), "{pointer} of {document:#}");
}

#[test]
fn a_document_of_all_servers_has_their_ids_in_its_paths() {
    check(Scope::All, "/info", &json!({"title": "Portcullis", "version": env!("CARGO_PKG_VERSION")}));
    for id in ["one", "two"] {
        let in_server = |name: &str| json!({"$ref": format!("#/components/schemas/{id}.{name}")});
        check(
            Scope::All,
            &format!("/paths/~1{id}~1search"),
            &json!({"post": {
                "operationId": format!("{id}_search"), "tags": [id], "summary": "Search",
                "description": "Finds things",
                "parameters": [{"name": "page", "in": "query", "required": false, "schema": in_server("Page")}],
                "requestBody": {"required": true, "content": {"application/json": {"schema": in_server("Query")}}},
                "responses": {"200": {"description": "found", "content": {"application/json": {
                    "schema": {"anyOf": [in_server("text"), {}]}}}}},
            }}),
        );
    }
}

#[test]
fn a_document_of_one_server_says_where_its_paths_begin() {
    let one = ServerId::parse("one").unwrap();
    let scope = Scope::One(&one);
    check(
        scope,
        "/info",
        &json!({"title": "one by name", "description": "what one is for", "version": env!("CARGO_PKG_VERSION")}),
    );
    check(scope, "/servers", &json!([{"url": "/one"}]));
    check(scope, "/paths/~1search/post/operationId", &json!("one_search"));
    check(
        scope,
        "/components",
        &json!({"schemas": {
            "one.Query": {"type": "object", "discriminator": {"propertyName": "kind",
                "mapping": {"p": "#/components/schemas/one.Page"}}, "properties": {
                "text": {"type": ["string", "null"]},
                "inner": {"$ref": "#/components/schemas/one.Query"}}},
            "one.Page": {"type": "integer"},
            "one.text": {"type": ["string", "null"]},
        }}),
    );
}

#[test]
fn a_caller_without_the_server_gets_an_empty_document() {
    let tools = index([("one", with_tools(["a"])), ("two", with_tools(["b"]))]);
    let one = ServerId::parse("one").unwrap();
    for document in [written(Scope::One(&one), &["two"], &tools), written(Scope::All, &[], &tools)] {
        assert_eq!(document["paths"], json!({}));
        assert_eq!(document["info"]["title"], "Portcullis");
    }
    assert_eq!(written(Scope::All, &["unread"], &tools)["paths"], json!({}));
}

#[test]
fn a_tool_has_the_same_operation_id_for_every_caller() {
    let tools = index([("a_b", with_tools(["c"])), ("a", with_tools(["b_c", "d"]))]);
    let all = written(Scope::All, &["a_b", "a"], &tools);
    let some = written(Scope::All, &["a"], &tools);
    let ids = operation_ids(&all);
    // In the order of paths: a/b_c, a/d, a_b/c. A name belongs to the longest server id in front of it, seen or not.
    assert_eq!(ids[1..], ["a_d", "a_b_c"]);
    assert!(ids[0].starts_with("a_b_c_"), "{ids:?}");
    assert_eq!(operation_ids(&some), ids[..2]);
}

#[test]
fn the_order_of_servers_does_not_change_the_document() {
    let tools = index([("one", with_tools(["a"])), ("two", with_tools(["b"]))]);
    let forth = document(Scope::All, &[visible("one"), visible("two")], &tools);
    assert_eq!(document(Scope::All, &[visible("two"), visible("one"), visible("one")], &tools), forth);
}

#[test]
fn real_documents_stand_side_by_side() {
    let read = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap();
    let given: [(&str, Value); 5] = [
        ("time", read(include_bytes!("../../../tests/fixtures/openapi/mcpo_time.json"))),
        ("git", read(include_bytes!("../../../tests/fixtures/openapi/mcpo_git.json"))),
        ("filesystem", read(include_bytes!("../../../tests/fixtures/openapi/mcpo_filesystem.json"))),
        ("everything", read(include_bytes!("../../../tests/fixtures/openapi/mcpo_everything.json"))),
        ("odd", read(include_bytes!("../../../tests/fixtures/openapi/mcpo_odd_names.json"))),
    ];
    let tools = index(given.clone());
    let ids = given.each_ref().map(|(id, _)| *id);
    let document = written(Scope::All, &ids, &tools);
    check_references(&document);
    for (id, peers) in &given {
        for (path, item) in peers["paths"].as_object().unwrap() {
            let ours = &document["paths"][format!("/{id}/{}", path[1..].replace('/', "_"))]["post"];
            assert_eq!(ours["description"], item["post"]["description"], "{id} {path}");
            let input = "/requestBody/content/application~1json/schema/$ref";
            let Some(input) = item["post"].pointer(input).and_then(Value::as_str) else {
                assert_eq!(ours.get("requestBody"), None, "{id} {path}");
                continue;
            };
            let name = input.strip_prefix("#/components/schemas/").unwrap();
            let theirs = serde_json::to_string(&peers["components"]["schemas"][name]).unwrap();
            let renamed = theirs.replace("#/components/schemas/", &format!("#/components/schemas/{id}."));
            let ours =
                serde_json::to_string(&document["components"]["schemas"][format!("{id}.{name}")]).unwrap();
            assert_eq!(ours, renamed, "{id} {path}");
        }
    }
}

const WORDS: &[&str] = &[
    "$ref",
    "$id",
    "$defs",
    "properties",
    "items",
    "anyOf",
    "schema",
    "content",
    "application/json",
    "parameters",
    "in",
    "query",
    "name",
    "default",
    "enum",
    "discriminator",
    "mapping",
    "propertyName",
    "required",
    "type",
    "description",
    "additionalProperties",
    "nullable",
    "post",
    "requestBody",
    "responses",
    "200",
    "A",
];
const REFERENCES: &[&str] = &[
    "#/components/schemas/A",
    "#/components/schemas/B",
    "#/components/schemas/A/properties/name",
    "#/components/schemas/%41",
    "#/components/schemas/A~1b",
    "#/components/schemas/",
    "#/components/schemas",
    "#/paths/~1x/post",
    "#/paths/~1x/post/requestBody/content/application~1json/schema",
    "#/paths",
    "#",
    "#/",
    "#A",
    "http://elsewhere/x",
    "A",
    "",
    "#/components/parameters/P",
    "#/components/schemas/A/items/anyOf/0",
];

/// JSON made of the words that documents are made of.
fn hostile_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        proptest::sample::select(REFERENCES).prop_map(Value::from),
        proptest::sample::select(WORDS).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        any::<i32>().prop_map(Value::from),
        proptest::sample::select(REFERENCES).prop_map(|reference| json!({"$ref": reference})),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        let word = proptest::sample::select(WORDS).prop_map(str::to_owned);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((word, inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn every_reference_resolves_whatever_a_server_sends(
        schema in hostile_json(), a in hostile_json(), b in hostile_json(), item in hostile_json(),
    ) {
        let given = json!({
            "openapi": "3.1.0",
            "paths": {
                "/x": {"post": {"requestBody": {"content": {"application/json": {"schema": schema}}}}},
                "/y/z": {"post": item, "parameters": item},
                "/w": item,
            },
            "components": {"schemas": {"A": a, "B": b, "A/b": schema, "": a},
                "parameters": {"P": {"in": "query", "name": "p", "schema": b}}},
        });
        let tools = index([("one", given.clone()), ("two", given)]);
        let document = written(Scope::All, &["one", "two"], &tools);
        check_references(&document);
        let mut names = document["components"]["schemas"].as_object().unwrap().keys();
        prop_assert!(names.all(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))));
    }

    #[test]
    fn a_hidden_server_leaves_no_trace(
        shown in proptest::collection::btree_set("[abc]{4,6}", 1..4),
        hidden in proptest::collection::btree_set("[xyz]{4,6}", 1..4),
    ) {
        let given = |name: &str| json!({
            "openapi": "3.1.0",
            "info": {"title": name, "description": name},
            "paths": {format!("/{name}"): {"post": {"summary": name, "requestBody": {"content": {
                "application/json": {"schema": {"$ref": format!("#/components/schemas/{name}")}}}}}}},
            "components": {"schemas": {name: {"title": name}}},
        });
        let tools = index(shown.union(&hidden).map(|name| (&**name, given(name))));
        let callers: Vec<_> = shown.iter().map(|id| visible(id)).collect();
        let text = String::from_utf8(document(Scope::All, &callers, &tools)).unwrap();
        for name in &shown {
            let component = format!("{name}.{name}");
            prop_assert!(text.contains(&component), "{}", text);
        }
        for name in &hidden {
            prop_assert!(!text.contains(&**name), "{}", text);
        }
        let shown: BTreeSet<_> = shown.iter().map(|name| ServerId::parse(name).unwrap()).collect();
        let alone = tools.retain(|id| shown.contains(id));
        prop_assert_eq!(document(Scope::All, &callers, &alone), text.into_bytes());
    }

    #[test]
    fn a_denied_tool_leaves_no_trace(
        shown in proptest::collection::btree_set("[abc]{4,6}", 0..4),
        denied in proptest::collection::btree_set("[xyz]{4,6}", 1..4),
    ) {
        let path = |name: &String| (format!("/{name}"), json!({"post": {"summary": name, "requestBody": {"content": {
            "application/json": {"schema": {"$ref": format!("#/components/schemas/{name}.in")}}}}}}));
        let paths: serde_json::Map<_, _> = shown.iter().chain(&denied).map(path).collect();
        let schemas = |name: &String| [
            (format!("{name}.in"), json!({"properties": {"shared": {"$ref": "#/components/schemas/Shared"},
                "deep": {"$ref": format!("#/components/schemas/{name}.deep")}}})),
            (format!("{name}.deep"), json!({"title": name, "items": {"$ref": format!("#/components/schemas/{name}.in")}})),
        ];
        let mut schemas: serde_json::Map<_, _> = shown.iter().chain(&denied).flat_map(schemas).collect();
        schemas.insert("Shared".into(), json!({"type": "string"}));
        let tools = index([("one", json!({"openapi": "3.1.0", "paths": paths, "components": {"schemas": schemas}}))]);
        for rules in [[("deny", "x*"), ("deny", "y*"), ("deny", "z*")], [("allow", "a*"), ("allow", "b*"), ("allow", "c*")]] {
            let rules = rules.iter().map(|(effect, pattern)| ToolRule::parse(pattern, effect)).collect();
            let narrowed = Visible { tools: ToolScope::of(rules), ..visible("one") };
            let document: Value = serde_json::from_slice(&document(Scope::All, &[narrowed], &tools)).unwrap();
            check_references(&document);
            let text = document.to_string();
            prop_assert!(!denied.iter().any(|name| text.contains(&**name)), "{}", text);
            prop_assert_eq!(operation_ids(&document).len(), shown.len());
            let components = document["components"]["schemas"].as_object().unwrap();
            prop_assert_eq!(components.len(), if shown.is_empty() { 0 } else { 2 * shown.len() + 1 });
        }
    }

    #[test]
    fn operation_ids_are_unique_and_fit(
        given in proptest::collection::btree_map(
            "[a-b][a-b_-]{0,2}", proptest::collection::btree_set("[a-b_.-]{1,3}|[a-z]{64,128}", 0..6), 0..5)
    ) {
        let tools = index(given.iter().map(|(id, tools)| (&**id, with_tools(tools.iter().map(|tool| &**tool)))));
        let ids: Vec<_> = given.keys().map(|id| &**id).collect();
        let document = written(Scope::All, &ids, &tools);
        let ids = operation_ids(&document);
        prop_assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        prop_assert!(ids.iter().all(|id| (1..=64).contains(&id.len())));
        prop_assert!(ids.iter().all(|id| id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))));
    }
}
