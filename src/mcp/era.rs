//! Results and errors of one era as the other one knows them (MCP 2026-07-28 is the first modern revision).
//!
//! Decides which members come and go when a result crosses from legacy to modern or back, and what a request for
//! input looks like in both. Never decides whether it may cross.

use std::borrow::Cow;

use super::{
    members::{Members, items, text},
    outgoing::error_code,
    splice::{Splice, quoted},
};

/// How long a result may be kept, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hints {
    /// How long, in milliseconds.
    pub ttl_ms: u64,
    /// Whether it may be shown to another caller.
    pub is_public: bool,
}

/// What a modern result is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResultType {
    /// The answer.
    Complete,
    /// A question for input, to be asked again with it.
    InputRequired,
    /// Something of an extension.
    Other(String),
}

/// The result as a modern client knows it: with `resultType`, and with these hints instead of those it has.
pub fn to_modern(result: &str, hints: Option<Hints>) -> String {
    let Some(members) = Members::read(result) else { return result.to_owned() };
    let mut added = Vec::new();
    if members.get("resultType").is_none() {
        added.push(r#""resultType":"complete""#.to_owned());
    }
    if let Some(Hints { ttl_ms, is_public }) = hints {
        let scope = if is_public { "public" } else { "private" };
        added.push(format!(r#""ttlMs":{ttl_ms},"cacheScope":"{scope}""#));
    }
    let is_dropped = |name: &str| hints.is_some() && matches!(name, "ttlMs" | "cacheScope");
    Splice::new(result).remake(&members, is_dropped, &added).finish()
}

/// The result as a legacy client knows it: without what only modern ones have. `structuredContent` that is no object
/// goes too; where there is nothing else, it becomes the text.
pub fn to_legacy(result: &str) -> String {
    let Some(members) = Members::read(result) else { return result.to_owned() };
    let structured = members.get("structuredContent").filter(|value| !value.starts_with('{'));
    let has_content = members.get("content").is_some_and(|content| !is_empty_list(content));
    let as_text = structured
        .filter(|_| !has_content)
        .map(|structured| format!(r#""content":[{{"type":"text","text":{}}}]"#, quoted(structured)));
    let is_dropped = |name: &str| match name {
        "resultType" | "ttlMs" | "cacheScope" => true,
        "structuredContent" => structured.is_some(),
        "content" => as_text.is_some(),
        _ => false,
    };
    let added: Vec<String> = as_text.iter().cloned().collect();
    Splice::new(result).remake(&members, is_dropped, &added).finish()
}

fn is_empty_list(raw: &str) -> bool {
    raw == "null" || raw.strip_prefix('[').is_some_and(|rest| rest.trim_start().starts_with(']'))
}

/// What a result is; one that does not say is the answer (MCP 2026-07-28, Results).
pub fn result_type(result: &str) -> ResultType {
    type_among(&Members::read(result).unwrap_or_default())
}

/// The same by its members.
pub fn type_among(result: &Members<'_>) -> ResultType {
    let name = result.get("resultType").and_then(text);
    match name.as_deref() {
        None | Some("complete") => ResultType::Complete,
        Some("input_required") => ResultType::InputRequired,
        Some(other) => ResultType::Other(other.to_owned()),
    }
}

/// A result that asks for input.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InputRequired {
    /// What is asked: key, method, and parameters as JSON.
    pub requests: Vec<(String, String, String)>,
    /// What is to be brought back, as JSON.
    pub state: Option<String>,
}

impl InputRequired {
    /// Reads a result; none where it asks for nothing, or for something that is no request.
    pub fn read(result: &str) -> Option<Self> {
        // Mostly it is seen at once. The word may be written with escapes.
        let may_be = [&b"input_required"[..], b"\\u"]
            .iter()
            .any(|word| memchr::memmem::find(result.as_bytes(), word).is_some());
        if !may_be || result_type(result) != ResultType::InputRequired {
            return None;
        }
        let members = Members::read(result)?;
        let state = members.get("requestState").filter(|state| state.starts_with('"')).map(str::to_owned);
        let requests = match members.get("inputRequests") {
            None | Some("null") => Vec::new(),
            Some(requests) => {
                let requests = Members::read(requests)?;
                requests.iter().map(|(key, request)| input_request(key, request)).collect::<Option<_>>()?
            }
        };
        Some(Self { requests, state })
    }

    /// Reads an error by which a legacy server wants pages visited first (MCP 2025-11-25, Elicitation, URL Elicitation
    /// Required Error); none for any other error.
    pub fn from_error(error: &str) -> Option<Self> {
        if error_code(error) != Some(URL_REQUIRED) {
            return None;
        }
        let elicitations = Members::read(Members::read(error)?.get("data")?)?.get("elicitations")?;
        let method = "elicitation/create";
        let asked = items(elicitations)?.into_iter().enumerate().map(|(at, params)| {
            Members::read(params)?;
            Some((format!("visit-{at}"), method.to_owned(), ask_to_modern(method, params).into_owned()))
        });
        let requests = asked.collect::<Option<Vec<_>>>()?;
        (!requests.is_empty()).then_some(Self { requests, state: None })
    }

    /// The result that asks for it.
    pub fn to_result(&self) -> String {
        let requests = self.requests.iter().map(|(key, method, params)| {
            format!(r#"{}:{{"method":{},"params":{params}}}"#, quoted(key), quoted(method))
        });
        let requests = requests.collect::<Vec<_>>().join(",");
        let state =
            self.state.as_ref().map(|state| format!(r#","requestState":{state}"#)).unwrap_or_default();
        format!(r#"{{"resultType":"input_required","inputRequests":{{{requests}}}{state}}}"#)
    }
}

fn input_request(key: &str, request: &str) -> Option<(String, String, String)> {
    let request = Members::read(request)?;
    let method = text(request.get("method")?)?.into_owned();
    let params = request.get("params").filter(|params| params.starts_with('{')).unwrap_or("{}");
    Some((key.to_owned(), method, params.to_owned()))
}

/// The parameters of a call made again with the input it asked for: key and result (JSON) of each, and what was to be
/// brought back (JSON). What an earlier round brought is taken away.
pub fn with_input(params: &str, responses: &[(String, String)], state: Option<&str>) -> String {
    let params = if params.trim().is_empty() { "{}" } else { params };
    let Some(members) = Members::read(params) else { return params.to_owned() };
    let responses = responses.iter().map(|(key, result)| format!("{}:{result}", quoted(key)));
    let responses = responses.collect::<Vec<_>>().join(",");
    let mut added = vec![format!(r#""inputResponses":{{{responses}}}"#)];
    added.extend(state.map(|state| format!(r#""requestState":{state}"#)));
    let is_dropped = |name: &str| matches!(name, "inputResponses" | "requestState");
    Splice::new(params).remake(&members, is_dropped, &added).finish()
}

/// An error of a legacy server as a modern client knows it: no code that only older revisions have, and none that the
/// protocol keeps for what the client itself did wrong (MCP 2026-07-28, Error Codes).
pub fn error_to_modern(error: &str) -> Cow<'_, str> {
    match error_code(error) {
        Some(RESOURCE_NOT_FOUND) => recoded(error, INVALID_PARAMS),
        Some(-32099..=-32020) => recoded(error, INTERNAL),
        Some(_) | None => Cow::Borrowed(error),
    }
}

/// An error of a modern server as a legacy client knows it. `method` is what was asked.
pub fn error_to_legacy<'a>(method: &str, error: &'a str) -> Cow<'a, str> {
    match error_code(error) {
        Some(INVALID_PARAMS) if method == "resources/read" => recoded(error, RESOURCE_NOT_FOUND),
        Some(MISSING_CAPABILITY) => recoded(error, INVALID_PARAMS),
        Some(-32099..=-32020) => recoded(error, INTERNAL),
        Some(_) | None => Cow::Borrowed(error),
    }
}

const RESOURCE_NOT_FOUND: i64 = -32002;
const MISSING_CAPABILITY: i64 = -32021;
const URL_REQUIRED: i64 = -32042;
const INVALID_PARAMS: i64 = -32602;
const INTERNAL: i64 = -32603;

fn recoded(error: &str, code: i64) -> Cow<'_, str> {
    let own = Members::read(error).and_then(|error| error.get("code"));
    own.map_or(Cow::Borrowed(error), |own| {
        Cow::Owned(Splice::new(error).replace(own, code.to_string()).finish())
    })
}

/// The parameters of `elicitation/create` as a legacy client knows them: a visit of a page has an id of its own there.
/// Those of other requests stay.
pub fn ask_to_legacy<'a>(method: &str, params: &'a str, elicitation_id: &str) -> Cow<'a, str> {
    let Some(members) = Members::read(params) else { return Cow::Borrowed(params) };
    let is_visit = method == "elicitation/create" && members.get("mode") == Some(r#""url""#);
    if !is_visit || members.get("elicitationId").is_some() {
        return Cow::Borrowed(params);
    }
    let id = format!(r#""elicitationId":{}"#, quoted(elicitation_id));
    Cow::Owned(Splice::new(params).remake(&members, |_| false, &[id]).finish())
}

/// The parameters of a legacy server's request as they may stand in a request for input: without the id of a visit,
/// which nothing is told about any more.
pub fn ask_to_modern<'a>(method: &str, params: &'a str) -> Cow<'a, str> {
    let is_dropped = |name: &str| name == "elicitationId";
    match Members::read(params) {
        Some(members) if method == "elicitation/create" && members.get("elicitationId").is_some() => {
            Cow::Owned(Splice::new(params).remake(&members, is_dropped, &[]).finish())
        }
        Some(_) | None => Cow::Borrowed(params),
    }
}

/// What a server is told that a client can be asked for: what the gateway passes on between eras, and no more. None of
/// the client's is an empty object.
pub fn relayed_capabilities(client: Option<&str>) -> String {
    let members = client.and_then(Members::read).unwrap_or_default();
    let relayed = members.iter().filter(|(_, value)| value.starts_with('{')).filter_map(|(name, value)| {
        match name {
            "elicitation" | "sampling" => Some(format!("{}:{value}", quoted(name))),
            // That the list has changed is told in no era by the gateway.
            "roots" => Some(r#""roots":{}"#.to_owned()),
            _ => None,
        }
    });
    format!("{{{}}}", relayed.collect::<Vec<_>>().join(","))
}

/// The definition of a tool as legacy clients can read it: they know no schema of results but that of an object.
pub fn tool_to_legacy(definition: &str) -> Cow<'_, str> {
    let Some(members) = Members::read(definition) else { return Cow::Borrowed(definition) };
    let kind =
        members.get("outputSchema").map(|schema| Members::read(schema).and_then(|schema| schema.get("type")));
    match kind {
        None | Some(Some(r#""object""#)) => Cow::Borrowed(definition),
        Some(Some(_) | None) => {
            let is_dropped = |name: &str| name == "outputSchema";
            Cow::Owned(Splice::new(definition).remake(&members, is_dropped, &[]).finish())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::mcp::message::tests::any_json;

    #[test]
    fn a_result_crosses_to_modern() {
        let hints = Some(Hints { ttl_ms: 5, is_public: false });
        for (result, hints, expected) in [
            (r#"{ "a":1.0 }"#, None, r#"{"resultType":"complete", "a":1.0 }"#),
            (r#"{"resultType":"task","a":1}"#, None, r#"{"resultType":"task","a":1}"#),
            ("{}", hints, r#"{"resultType":"complete","ttlMs":5,"cacheScope":"private"}"#),
            (
                r#"{"resultType":"complete","ttlMs":9,"tools":[],"cacheScope":"public"}"#,
                hints,
                r#"{"ttlMs":5,"cacheScope":"private","resultType":"complete","tools":[]}"#,
            ),
            ("no JSON", None, "no JSON"),
        ] {
            assert_eq!(to_modern(result, hints), expected);
        }
        let public = Hints { ttl_ms: 0, is_public: true };
        assert!(to_modern("{}", Some(public)).contains(r#""ttlMs":0,"cacheScope":"public""#));
    }

    #[test]
    fn a_result_crosses_to_legacy() {
        for (result, expected) in [
            (r#"{"resultType":"complete","tools":[ ],"ttlMs":1,"cacheScope":"public"}"#, r#"{"tools":[ ]}"#),
            (
                r#"{"content":[{}],"structuredContent":{"a":1}}"#,
                r#"{"content":[{}],"structuredContent":{"a":1}}"#,
            ),
            (r#"{"content":[{}],"structuredContent":[1]}"#, r#"{"content":[{}]}"#),
            (
                r#"{"structuredContent":[ 1 ],"content":[ ]}"#,
                r#"{"content":[{"type":"text","text":"[ 1 ]"}]}"#,
            ),
            (
                r#"{"structuredContent":"\"","isError":false}"#,
                r#"{"content":[{"type":"text","text":"\"\\\"\""}],"isError":false}"#,
            ),
            ("[]", "[]"),
        ] {
            assert_eq!(to_legacy(result), expected);
        }
    }

    #[test]
    fn a_result_says_what_it_is() {
        for (result, expected) in [
            ("{}", ResultType::Complete),
            (r#"{"resultType":"complete"}"#, ResultType::Complete),
            (r#"{"resultType":"input_required"}"#, ResultType::InputRequired),
            (r#"{"resultType":"task"}"#, ResultType::Other("task".to_owned())),
            ("[]", ResultType::Complete),
        ] {
            assert_eq!(result_type(result), expected, "{result}");
        }
    }

    #[test]
    fn a_request_for_input_is_read_and_written() {
        let result = r#"{"resultType":"input_required","inputRequests":{"a\"":{"method":"elicitation/create","params":{ "mode":"form" }},"r":{"method":"roots/list"}},"requestState":"s\n"}"#;
        let read = InputRequired::read(result).unwrap();
        assert_eq!(read.state.as_deref(), Some("\"s\\n\""));
        let asked =
            |key: &str, method: &str, params: &str| (key.to_owned(), method.to_owned(), params.to_owned());
        assert_eq!(
            read.requests,
            [asked("a\"", "elicitation/create", r#"{ "mode":"form" }"#), asked("r", "roots/list", "{}")]
        );
        assert_eq!(InputRequired::read(&read.to_result()), Some(read));
        let state = InputRequired::read(r#"{"resultType":"input_required","requestState":"s"}"#).unwrap();
        assert!(state.requests.is_empty() && state.state.is_some());
        for other in [
            "{}",
            r#"{"resultType":"input_required","inputRequests":[]}"#,
            r#"{"resultType":"input_required","inputRequests":{"a":1}}"#,
            r#"{"resultType":"input_required","inputRequests":{"a":{"params":{}}}}"#,
        ] {
            assert_eq!(InputRequired::read(other), None, "{other}");
        }
    }

    #[test]
    fn a_call_is_made_again_with_its_input() {
        let responses =
            [("a".to_owned(), r#"{"action":"accept"}"#.to_owned()), ("b".to_owned(), "{}".to_owned())];
        assert_eq!(
            with_input(
                r#"{"name":"x", "requestState":"old","inputResponses":{} }"#,
                &responses,
                Some("\"new\"")
            ),
            r#"{"inputResponses":{"a":{"action":"accept"},"b":{}},"requestState":"new","name":"x" }"#
        );
        assert_eq!(with_input("", &[], None), r#"{"inputResponses":{}}"#);
    }

    #[test]
    fn pages_that_must_be_visited_first_are_a_request_for_input() {
        let error = r#"{"code":-32042,"message":"m","data":{"elicitations":[{"mode":"url","elicitationId":"e","url":"https://x","message":"y"}]}}"#;
        let params = r#"{"mode":"url","url":"https://x","message":"y"}"#.to_owned();
        let requests = vec![("visit-0".to_owned(), "elicitation/create".to_owned(), params)];
        assert_eq!(InputRequired::from_error(error), Some(InputRequired { requests, state: None }));
        for other in [
            r#"{"code":-32002,"data":{"elicitations":[{}]}}"#,
            r#"{"code":-32042,"data":{"elicitations":[]}}"#,
            r#"{"code":-32042,"data":{"elicitations":[1]}}"#,
            r#"{"code":-32042}"#,
        ] {
            assert_eq!(InputRequired::from_error(other), None, "{other}");
        }
    }

    #[test]
    fn a_visit_has_an_id_of_its_own_in_legacy_only() {
        let modern = r#"{"mode":"url","url":"https://x"}"#;
        let legacy = ask_to_legacy("elicitation/create", modern, "e\"");
        assert_eq!(legacy, r#"{"elicitationId":"e\"","mode":"url","url":"https://x"}"#);
        assert_eq!(ask_to_legacy("elicitation/create", &legacy, "other"), legacy);
        assert_eq!(ask_to_modern("elicitation/create", &legacy), modern);
        for method in ["elicitation/create", "sampling/createMessage"] {
            assert_eq!(ask_to_legacy(method, r#"{"mode":"form"}"#, "e"), r#"{"mode":"form"}"#);
            assert_eq!(ask_to_modern(method, r#"{"mode":"form"}"#), r#"{"mode":"form"}"#);
        }
    }

    #[test]
    fn errors_keep_their_words_and_change_their_code() {
        let error = |code: i64| format!(r#"{{"data":{{"uri":"a"}}, "code" : {code},"message":"m"}}"#);
        for (code, to_modern, to_legacy) in [
            (-32002, -32602, -32002),
            (-32042, -32603, -32603),
            (-32022, -32603, -32603),
            (-32020, -32603, -32603),
            (-32021, -32603, -32602),
            (-32001, -32001, -32001),
            (-32601, -32601, -32601),
            (42, 42, 42),
        ] {
            assert_eq!(error_to_modern(&error(code)), error(to_modern));
            assert_eq!(error_to_legacy("tools/call", &error(code)), error(to_legacy));
        }
        assert_eq!(error_to_legacy("resources/read", &error(-32602)), error(-32002));
        assert_eq!(error_to_legacy("tools/call", &error(-32602)), error(-32602));
        assert_eq!(error_to_modern("{}"), "{}");
    }

    #[test]
    fn a_server_is_told_only_what_crosses() {
        let client = r#"{"elicitation":{"url":{ }},"sampling":{},"roots":{"listChanged":true},"tasks":{},"extensions":{},"x":1}"#;
        assert_eq!(
            relayed_capabilities(Some(client)),
            r#"{"elicitation":{"url":{ }},"sampling":{},"roots":{}}"#
        );
        for none in [None, Some("{}"), Some("[]"), Some(r#"{"sampling":null}"#)] {
            assert_eq!(relayed_capabilities(none), "{}");
        }
    }

    #[test]
    fn legacy_clients_see_no_schema_but_that_of_an_object() {
        let tool = |schema: &str| format!(r#"{{"name":"a","outputSchema":{schema},"x":1}}"#);
        assert_eq!(tool_to_legacy(&tool(r#"{"type":"object"}"#)), tool(r#"{"type":"object"}"#));
        for schema in [r#"{"type":"array"}"#, r#"{"anyOf":[]}"#, "true", r#"{"type":["object"]}"#] {
            assert_eq!(tool_to_legacy(&tool(schema)), r#"{"name":"a","x":1}"#);
        }
        assert_eq!(tool_to_legacy(r#"{"name":"a"}"#), r#"{"name":"a"}"#);
    }

    proptest! {
        #[test]
        fn a_legacy_result_is_the_same_when_it_comes_back(value in any_json(), is_public in any::<bool>()) {
            let value = if value.is_object() { value } else { json!({"a": value}) };
            let result = value.to_string();
            let modern = to_modern(&result, Some(Hints { ttl_ms: 1, is_public }));
            let read: Value = serde_json::from_str(&modern).unwrap();
            prop_assert_eq!(&read["resultType"], &json!("complete"));
            prop_assert_eq!(to_legacy(&modern), result);
        }

        #[test]
        fn any_input_comes_back(requests in proptest::collection::btree_map(".{0,8}", (".{0,8}", any_json()), 0..4), state in ".{0,20}") {
            let requests = requests.into_iter().map(|(key, (method, params))| (key, method, json!({"p": params}).to_string()));
            let input = InputRequired { requests: requests.collect(), state: Some(quoted(&state)) };
            prop_assert_eq!(InputRequired::read(&input.to_result()), Some(input));
        }

        #[test]
        fn any_text_crosses_or_stays(text in ".{0,60}") {
            let _ = (to_modern(&text, None), to_legacy(&text), result_type(&text), InputRequired::read(&text));
            let _ = (error_to_modern(&text), error_to_legacy("a", &text), tool_to_legacy(&text), relayed_capabilities(Some(&text)));
        }
    }
}
