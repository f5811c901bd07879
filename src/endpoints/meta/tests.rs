//! Facts about what the meta tools take and answer, above all of tools that are not the caller's.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    access::{ToolScope, tools::ToolRule},
    catalog::{server::tests_support::server, tools::ToolList},
};

/// Tools by name and argument, at `github` and `files`.
const TOOLS: [(&str, &[(&str, &str)]); 2] = [
    (
        "github",
        &[("search_repositories", "query"), ("create_issue", "title"), ("purge_repositories", "everything")],
    ),
    ("files", &[("read", "path"), ("odd.name", "arguments")]),
];

fn list(tools: &[(&str, &str)]) -> ToolList {
    let tools = tools.iter().map(|(name, argument)| {
        let description = format!("Does {} with care.", name.replace('_', " "));
        json!({"name": name, "description": description, "inputSchema": {
            "type": "object", "properties": {*argument: {"type": "string", "x-kept": 1.50}},
        }})
    });
    let page = json!({"tools": tools.collect::<Vec<_>>()}).to_string();
    let (list, skipped) = ToolList::from_mcp(&[page]).unwrap();
    assert_eq!(skipped, []);
    list
}

fn index() -> ToolIndex {
    let ids = TOOLS.map(|(id, _)| ServerId::parse(id).unwrap());
    let lists = ids.iter().zip(TOOLS);
    lists.fold(ToolIndex::of_servers(&ids), |index, (id, (_, tools))| {
        index.with(id.clone(), list(tools).into())
    })
}

/// The caller has `github` with these rules, and not `files`.
fn visible(rules: &[(&str, &str)]) -> Vec<Visible> {
    let rules = rules.iter().map(|(effect, pattern)| ToolRule::parse(pattern, effect)).collect();
    vec![Visible { server: server("github"), tools: ToolScope::of(rules) }]
}

fn narrowed() -> Vec<Visible> {
    visible(&[("deny", "purge_*")])
}

fn json_of(answer: Result<Vec<u8>, Refusal>) -> Result<Value, Code> {
    answer.map(|json| serde_json::from_slice(&json).unwrap()).map_err(|refusal| refusal.code())
}

fn found(query: &str, visible: &[Visible]) -> Value {
    let arguments = json!({"query": query}).to_string();
    json_of(search_tools(arguments.as_bytes(), visible, &index())).unwrap()
}

#[test]
fn a_search_finds_the_caller_s_tools_and_no_others() {
    let answer = found("repositories", &narrowed());
    let line = json!({"name": "github_search_repositories", "server": "github", "tool": "search_repositories",
        "description": "Does search repositories with care.", "endpoint": "/github/search_repositories"});
    let mut first = answer["tools"][0].clone();
    assert!(first.as_object_mut().unwrap().remove("score").unwrap().as_f64().unwrap() > 0.0);
    assert_eq!((first, &answer["total"]), (line, &json!(1)));
    assert_eq!(found("purge everything", &narrowed()), json!({"tools": [], "total": 0}));
    assert_eq!(found("read path", &narrowed()), json!({"tools": [], "total": 0}));
    assert_eq!(found("", &narrowed())["total"], 2);
    assert_eq!(found("", &[])["total"], 0);
}

#[test]
fn a_server_that_is_switched_off_has_no_tools() {
    let mut off = (*server("github")).clone();
    off.is_enabled = false;
    let visible = [Visible { server: Arc::new(off), tools: ToolScope::default() }];
    assert_eq!(found("", &visible)["total"], 0);
    let call = resolve_call(&Bytes::from_static(br#"{"name":"github_create_issue"}"#), &visible, &index());
    assert_eq!(call.unwrap_err().code(), Code::UnknownTool);
}

#[test]
fn what_is_hidden_changes_no_rank_of_what_is_found() {
    let ids = [ServerId::parse("github").unwrap()];
    let without = ToolIndex::of_servers(&ids).with(ids[0].clone(), list(&TOOLS[0].1[..2]).into());
    for query in ["repositories", "repositories issue", "does everything", "purge"] {
        let arguments = json!({"query": query}).to_string();
        let theirs = json_of(search_tools(arguments.as_bytes(), &visible(&[]), &without)).unwrap();
        assert_eq!(found(query, &narrowed()), theirs, "{query}");
    }
}

/// Checks what a search with these arguments finds, or how it is refused.
#[track_caller]
fn check_search(arguments: &str, expected: Result<usize, Code>) {
    let body = Bytes::copy_from_slice(arguments.as_bytes());
    let answer = unwrapped(&body).and_then(|arguments| search_tools(&arguments, &visible(&[]), &index()));
    assert_eq!(
        json_of(answer).map(|answer| answer["tools"].as_array().unwrap().len()),
        expected,
        "{arguments}"
    );
}

#[test]
fn a_search_takes_words_and_a_limit() {
    check_search(r#"{"query": "repositories"}"#, Ok(2));
    check_search(r#"{"query": "repositories", "limit": 1}"#, Ok(1));
    check_search(r#"{"query": "repositories", "limit": 18446744073709551615}"#, Ok(2));
    check_search(r#"{"arguments": {"query": "repositories"}}"#, Ok(2));
    check_search(r#"{"query": "r\u0065positories", "further": null}"#, Ok(2));
    for wrong in [
        "",
        "{}",
        "[]",
        "\"repositories\"",
        r#"{"query": 1}"#,
        r#"{"query": "a", "limit": -1}"#,
        r#"{"query": "a", "query": "b"}"#,
        r#"{"limit": 1}"#,
    ] {
        check_search(wrong, Err(Code::BadArguments));
    }
    check_search("{\"query\": ", Err(Code::BodyNotJson));
    check_search("query", Err(Code::BodyNotJson));
}

#[test]
fn tools_are_described_with_their_schemas_as_they_stand() {
    let describe =
        |arguments: Value| json_of(describe_tools(arguments.to_string().as_bytes(), &narrowed(), &index()));
    let described = describe(json!({"name": "github_create_issue"})).unwrap();
    let tool = &described["tools"][0];
    assert_eq!((&tool["tool"], &tool["endpoint"]), (&json!("create_issue"), &json!("/github/create_issue")));
    assert_eq!(tool["input_schema"]["properties"]["title"], json!({"type": "string", "x-kept": 1.50}));
    assert_eq!(described.get("unknown"), None);

    let many =
        ["github_create_issue", "github_purge_repositories", "files_read", "nowhere", "github_create_issue"];
    let described = describe(json!({"tools": many})).unwrap();
    assert_eq!(described["tools"].as_array().unwrap().len(), 1);
    assert_eq!(described["unknown"], json!(["github_purge_repositories", "files_read", "nowhere"]));

    assert_eq!(describe(json!({"tools": []})), Ok(json!({"tools": []})));
    assert_eq!(describe(json!({"tools": vec!["a"; MAX_DESCRIBED + 1]})), Err(Code::BadArguments));
    assert_eq!(describe(json!({"tools": ["a"], "name": "a"})), Err(Code::BadArguments));
    assert_eq!(describe(json!({})), Err(Code::BadArguments));
}

fn call(body: &str) -> Result<(String, String, String), (Code, String)> {
    let called = resolve_call(&Bytes::copy_from_slice(body.as_bytes()), &narrowed(), &index());
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    called
        .map(|called| (called.server.to_string(), called.tool.name.to_string(), text(&called.arguments)))
        .map_err(|refusal| (refusal.code(), refusal.sentence().to_owned()))
}

#[test]
fn a_call_has_its_arguments_byte_for_byte() {
    let issue = |arguments: &str| Ok(("github".to_owned(), "create_issue".to_owned(), arguments.to_owned()));
    let body = r#" {"arguments" :{ "title":"\u00e9" ,"n": 1.0e2}, "name":"github_create_issue"} "#;
    assert_eq!(call(body), issue(r#"{ "title":"\u00e9" ,"n": 1.0e2}"#));
    assert_eq!(call(r#"{"name":"github_create_issue"}"#), issue("{}"));
    assert_eq!(call(r#"{"name":"github_create_issue","arguments":null}"#), issue("{}"));
    for wrong in [
        "",
        "{}",
        "[]",
        r#"{"arguments":{"name":"github_create_issue"}}"#,
        r#"{"name":"github_create_issue","arguments":"{}"}"#,
        r#"{"name":"github_create_issue","arguments":[1]}"#,
        r#"{"name":"github_create_issue","name":"github_create_issue"}"#,
        r#"{"name":"github_create_issue","arguments":{},"arguments":{}}"#,
        r#"{"name":["github_create_issue"]}"#,
    ] {
        assert_eq!(call(wrong).map_err(|refusal| refusal.0), Err(Code::BadArguments), "{wrong}");
    }
    assert_eq!(call("{\"name\":").map_err(|refusal| refusal.0), Err(Code::BodyNotJson));
}

#[test]
fn a_tool_of_others_is_refused_in_the_words_for_one_that_is_not_there() {
    let refusals =
        ["github_purge_repositories", "files_read", "github_nothing", "nowhere_nothing", "create_issue", ""]
            .map(|name| {
                let arguments = json!({"name": name}).to_string();
                let described = describe_tools(arguments.as_bytes(), &narrowed(), &index()).unwrap_err();
                let called = call(&arguments).unwrap_err();
                assert_eq!((described.code(), described.sentence()), (called.0, &*called.1), "{name}");
                called
            });
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0] && refusal.0 == Code::UnknownTool));
}

#[test]
fn the_meta_tools_are_told_alike_on_both_faces() {
    let (own, skipped) =
        ToolList::from_mcp(&[format!("{{\"tools\":[{}]}}", definitions().join(","))]).unwrap();
    assert_eq!((own.len(), skipped), (3, vec![]));
    let document: Value =
        serde_json::from_slice(&document(crate::endpoints::openapi::Encoding::Identity).body).unwrap();
    for (tool, definition) in MetaTool::ALL.into_iter().zip(definitions()) {
        let definition: Value = serde_json::from_str(definition).unwrap();
        let operation = &document["paths"][tool.path()]["post"];
        assert_eq!(
            (&operation["operationId"], &definition["name"]),
            (&json!(tool.name()), &json!(tool.name()))
        );
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(schema, &definition["inputSchema"]);
        assert_eq!(operation["description"], definition["description"]);
        assert_eq!(MetaTool::named(tool.name()), Some(tool));
    }
    assert_eq!(document["paths"].as_object().unwrap().len(), 3);
    assert_eq!(MetaTool::named("github_create_issue"), None);
}

#[test]
fn a_long_description_is_shortened_between_characters() {
    let long = "é".repeat(MAX_SUMMARY);
    let short = shortened(&long);
    assert!(short.len() <= MAX_SUMMARY + '…'.len_utf8() && short.ends_with("é…"));
    assert_eq!(shortened("é"), "é");
}

proptest! {
    #[test]
    fn whatever_is_called_is_the_caller_s_and_has_arguments_of_the_body(
        body in "(\\{|\\}|\"name\"|\"arguments\"|:|,|\"(github|files)_[a-z_]{0,19}\"|\"github_create_issue\"|null|1| |\\PC){0,12}"
    ) {
        let body = Bytes::from(body);
        if let Ok(called) = resolve_call(&body, &narrowed(), &index()) {
            prop_assert_eq!(called.server.as_str(), "github");
            prop_assert!(narrowed()[0].tools.allows(called.tool.name.as_str()));
            prop_assert_eq!(called.arguments.first(), Some(&b'{'));
        }
        let _ = unwrapped(&body).and_then(|body| search_tools(&body, &narrowed(), &index()));
        let _ = unwrapped(&body).and_then(|body| describe_tools(&body, &narrowed(), &index()));
    }

    #[test]
    fn any_arguments_object_comes_out_as_it_went_in(value in "[ -~]{0,20}", blanks in "[ \t\n]{0,3}") {
        let arguments = format!("{{{blanks}\"title\"{blanks}:{}{blanks}}}", json!(value));
        let body = format!("{{\"name\":\"github_create_issue\",{blanks}\"arguments\":{blanks}{arguments}{blanks}}}");
        prop_assert_eq!(call(&body).map(|called| called.2), Ok(arguments));
    }
}
