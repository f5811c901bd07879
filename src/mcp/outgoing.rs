//! What the gateway sends a server or a client: messages made of parts that stay as they were written.
//!
//! Decides which parameters of a client go on to a server, and which the gateway puts in their place. Never decides
//! what is asked, or of whom.

use super::{
    members::{self, Members},
    question::META_PREFIX,
    splice::{Splice, quoted},
};
use crate::trace::{Outgoing, baggage};

/// What is to stand in the place of a client's own words.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rewrite<'a> {
    /// The name of the tool or prompt.
    pub name: Option<&'a str>,
    /// The address of the resource.
    pub uri: Option<&'a str>,
    /// The token of progress, as JSON; without it the client's own is taken away.
    pub progress_token: Option<&'a str>,
    /// What a completion is for: the prompt's `name`, or the template's `uri`, whichever stands in `ref`.
    pub reference: Option<&'a str>,
    /// Where a page of a list begins.
    pub cursor: Option<&'a str>,
    /// What the server gave to bring back, as JSON.
    pub request_state: Option<&'a str>,
    /// What is said of the trace, instead of what the client said.
    pub trace: Option<&'a Outgoing>,
}

/// What a modern request says of itself. The last three are JSON.
#[derive(Debug, Clone, Copy)]
pub struct Protocol<'a> {
    /// The revision.
    pub version: &'a str,
    /// Who asks, an object.
    pub client_info: &'a str,
    /// What may be asked back, an object.
    pub capabilities: &'a str,
    /// The least level of log messages wanted, a string.
    pub log_level: Option<&'a str>,
}

/// The parameters for a server: those of the client with `rewrite` done, and with what `protocol` says in `_meta`
/// instead of what the client said there; without it, for a legacy server, with nothing of a modern request. All
/// other bytes stay. What is no object of parameters counts as none.
pub fn params(client: Option<&str>, rewrite: &Rewrite<'_>, protocol: Option<&Protocol<'_>>) -> String {
    let (client, params) = readable(client);
    let mut splice = Splice::new(client);
    let mut added = Vec::new();
    for (key, with) in [
        ("name", rewrite.name.map(quoted)),
        ("uri", rewrite.uri.map(quoted)),
        ("cursor", rewrite.cursor.map(quoted)),
        ("requestState", rewrite.request_state.filter(|_| protocol.is_some()).map(str::to_owned)),
    ] {
        match (params.get(key), with) {
            (Some(value), Some(with)) => _ = splice.replace(value, with),
            (None, Some(with)) => added.push(member(key, &with)),
            (_, None) => {}
        }
    }
    if let (Some(text), Some(reference)) = (rewrite.reference, params.get("ref").and_then(Members::read)) {
        let named = reference.get("name").or_else(|| reference.get("uri"));
        named.map(|value| splice.replace(value, quoted(text)));
    }
    let mut is_meta_dropped = false;
    match params.get("_meta").map(|meta| (meta, Members::read(meta))) {
        Some((_, Some(meta))) => write_meta(&mut splice, &meta, rewrite, protocol),
        // What is no object is not one to put anything in.
        Some((_, None)) | None => {
            is_meta_dropped = true;
            let mut own = own(rewrite.progress_token, protocol);
            own.extend(rewrite.trace.into_iter().flat_map(|trace| traced(trace, None)));
            if !own.is_empty() {
                added.push(format!(r#""_meta":{{{}}}"#, own.join(",")));
            }
        }
    }
    let is_dropped = |name: &str| match name {
        "_meta" => is_meta_dropped,
        "inputResponses" | "requestState" => protocol.is_none(),
        _ => false,
    };
    splice.remake(&params, is_dropped, &added).finish()
}

fn write_meta<'a>(
    splice: &mut Splice<'a>,
    meta: &Members<'a>,
    rewrite: &Rewrite<'_>,
    protocol: Option<&Protocol<'_>>,
) {
    let replaced = meta.get("progressToken").zip(rewrite.progress_token);
    if let Some((value, token)) = replaced {
        splice.replace(value, token.to_owned());
    }
    let mut added = own(rewrite.progress_token.filter(|_| replaced.is_none()), protocol);
    let said = meta.get("baggage").filter(|said| is_baggage(said));
    added.extend(rewrite.trace.into_iter().flat_map(|trace| traced(trace, said)));
    let is_dropped = |name: &str| match name {
        "progressToken" => replaced.is_none(),
        "traceparent" | "tracestate" => rewrite.trace.is_some(),
        "baggage" => rewrite.trace.is_some() && said.is_none(),
        name => name.strip_prefix(META_PREFIX).is_some_and(|name| OWN.contains(&name)),
    };
    splice.remake(meta, is_dropped, &added);
}

/// The members of `_meta` that say which trace a request is in (SEP-414). The client's own baggage stays.
fn traced(trace: &Outgoing, own_baggage: Option<&str>) -> impl Iterator<Item = String> {
    let baggage = trace.baggage.as_deref().filter(|_| own_baggage.is_none());
    let said =
        [("traceparent", Some(&*trace.parent)), ("tracestate", trace.state.as_deref()), ("baggage", baggage)];
    said.into_iter().filter_map(|(key, value)| Some(member(key, &quoted(value?))))
}

fn is_baggage(raw: &str) -> bool {
    members::text(raw).is_some_and(|text| baggage(text.as_bytes()).is_some())
}

/// What a modern request says of itself, behind [`META_PREFIX`].
const OWN: [&str; 4] = ["protocolVersion", "clientCapabilities", "clientInfo", "logLevel"];

/// The gateway's own members of `_meta`.
fn own(progress_token: Option<&str>, protocol: Option<&Protocol<'_>>) -> Vec<String> {
    let mut own: Vec<String> =
        progress_token.map(|token| member("progressToken", token)).into_iter().collect();
    if let Some(Protocol { version, client_info, capabilities, log_level }) = protocol {
        let values = [Some(&*quoted(version)), Some(*capabilities), Some(*client_info), *log_level];
        let said = OWN.iter().zip(values).filter_map(|(name, value)| Some((name, value?)));
        own.extend(said.map(|(name, value)| format!(r#""{META_PREFIX}{name}":{value}"#)));
    }
    own
}

fn member(key: &str, value: &str) -> String {
    format!("{}:{value}", quoted(key))
}

/// The parameters of progress with another token, as JSON.
pub fn with_progress_token(params: &str, token: &str) -> String {
    let own = Members::read(params).and_then(|members| members.get("progressToken"));
    own.map_or_else(|| params.to_owned(), |own| Splice::new(params).replace(own, token.to_owned()).finish())
}

/// The parameters of a notification as they are told on a modern subscription, by the id (JSON) of the request that
/// made it; without one, as a legacy client is told.
pub fn with_subscription(params: Option<&str>, id: Option<&str>) -> String {
    let (params, members) = readable(params);
    let tag = id.map(|id| format!(r#""{SUBSCRIPTION}":{id}"#));
    let added: Vec<String> = tag.into_iter().collect();
    let mut splice = Splice::new(params);
    match members.get("_meta").and_then(Members::read) {
        Some(meta) => splice.remake(&meta, |name| name == SUBSCRIPTION, &added),
        None => {
            let meta: Vec<String> = added.iter().map(|tag| format!(r#""_meta":{{{tag}}}"#)).collect();
            splice.remake(&members, |name| name == "_meta", &meta)
        }
    };
    splice.finish()
}

/// The member of `_meta` that says which subscription a notification is told on.
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// Parameters that can be read; what cannot counts as none.
fn readable(params: Option<&str>) -> (&str, Members<'_>) {
    let read = params.and_then(|params| Some((params, Members::read(params)?)));
    read.or_else(|| Some(("{}", Members::read("{}")?))).expect("an empty object is an object")
}

/// The parameters of a call of a tool whose arguments (an object, as JSON) came without a message around them.
pub fn call(name: &str, arguments: &str) -> String {
    format!(r#"{{"name":{},"arguments":{arguments}}}"#, quoted(name))
}

/// A request of the gateway. The parameters are JSON.
pub fn request(id: u64, method: &str, params: &str) -> String {
    let (id, method) = (id.to_string(), quoted(method));
    [r#"{"jsonrpc":"2.0","id":"#, &id, r#","method":"#, &method, r#","params":"#, params, "}"].concat()
}

/// A notification. The parameters are JSON.
pub fn notification(method: &str, params: Option<&str>) -> String {
    let method = quoted(method);
    match params {
        Some(params) => format!(r#"{{"jsonrpc":"2.0","method":{method},"params":{params}}}"#),
        None => format!(r#"{{"jsonrpc":"2.0","method":{method}}}"#),
    }
}

/// A request that is passed on under an id of any form. Id and parameters are JSON.
pub fn asked(id: &str, method: &str, params: Option<&str>) -> String {
    let method = quoted(method);
    match params {
        Some(params) => format!(r#"{{"jsonrpc":"2.0","id":{id},"method":{method},"params":{params}}}"#),
        None => format!(r#"{{"jsonrpc":"2.0","id":{id},"method":{method}}}"#),
    }
}

/// The answer to a request. Id, result and error are JSON.
pub fn response(id: &str, outcome: Result<&str, &str>) -> String {
    let (member, text) = match outcome {
        Ok(result) => (r#","result":"#, result),
        Err(error) => (r#","error":"#, error),
    };
    // A result may be long: its room is made once.
    [r#"{"jsonrpc":"2.0","id":"#, id, member, text, "}"].concat()
}

/// The answer to a request that cannot be done. The id is JSON.
pub fn error(id: &str, code: i32, message: &str) -> String {
    response(id, Err(&format!(r#"{{"code":{code},"message":{}}}"#, quoted(message))))
}

/// The code of an error, as JSON.
pub fn error_code(error: &str) -> Option<i64> {
    serde_json::from_str(Members::read(error)?.get("code")?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::mcp::message::tests::any_json;

    const MODERN: Protocol<'_> = Protocol {
        version: "2026-07-28",
        client_info: r#"{"name":"g"}"#,
        capabilities: "{}",
        log_level: None,
    };
    const OWN: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"g"}"#;

    #[track_caller]
    fn check(client: &str, rewrite: Rewrite<'_>, protocol: Option<&Protocol<'_>>, expected: &str) {
        assert_eq!(params(Some(client), &rewrite, protocol), expected, "{client}");
    }

    #[test]
    fn a_modern_call_goes_to_a_modern_server_in_the_gateway_s_name() {
        let rewrite = Rewrite { name: Some("echo"), progress_token: Some("7"), ..Rewrite::default() };
        check(
            r#"{ "name" : "srv_echo", "_meta":{"io.modelcontextprotocol/clientInfo":{"a":1}, "progressToken": "p", "traceparent":"t","io.modelcontextprotocol/logLevel":"x"}, "arguments":{"n": 1.0 },"requestState":"s","x":1 }"#,
            rewrite,
            Some(&MODERN),
            &format!(
                r#"{{ "name" : "echo", "_meta":{{{OWN}, "progressToken": 7, "traceparent":"t"}}, "arguments":{{"n": 1.0 }},"requestState":"s","x":1 }}"#
            ),
        );
    }

    #[test]
    fn a_legacy_server_sees_nothing_of_a_modern_request() {
        check(
            r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"progressToken":1},"name":"a","inputResponses":{},"requestState":"s"}"#,
            Rewrite::default(),
            None,
            r#"{"_meta":{},"name":"a"}"#,
        );
        check(r#"{"_meta":null,"name":"a"}"#, Rewrite::default(), None, r#"{"name":"a"}"#);
        check(r#"{"requestState":"s","_meta":7}"#, Rewrite::default(), None, "{}");
        let state = Rewrite { request_state: Some("\"t\""), ..Rewrite::default() };
        check(r#"{"requestState":"s"}"#, state, None, "{}");
    }

    #[test]
    fn what_is_missing_is_added() {
        let rewrite = Rewrite { progress_token: Some("7"), ..Rewrite::default() };
        check("{}", rewrite, None, r#"{"_meta":{"progressToken":7}}"#);
        check(r#"{"_meta":{"a":1}}"#, rewrite, None, r#"{"_meta":{"progressToken":7,"a":1}}"#);
        check(
            r#"{"a":1}"#,
            rewrite,
            Some(&MODERN),
            &format!(r#"{{"_meta":{{"progressToken":7,{OWN}}},"a":1}}"#),
        );
        let with_level = Protocol { log_level: Some("\"info\""), ..MODERN };
        let expected = format!(r#"{{"_meta":{{{OWN},"io.modelcontextprotocol/logLevel":"info"}}}}"#);
        assert_eq!(params(None, &Rewrite::default(), Some(&with_level)), expected);
        assert_eq!(params(None, &Rewrite::default(), None), "{}");
        assert_eq!(params(Some("[1]"), &Rewrite::default(), None), "{}");
        let list = Rewrite { cursor: Some("\"c"), uri: Some("a:b"), ..Rewrite::default() };
        check("{}", list, None, r#"{"uri":"a:b","cursor":"\"c"}"#);
    }

    #[test]
    fn the_trace_is_told_in_place_of_what_the_client_said_of_it() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = crate::trace::Context::parse(parent.as_bytes()).unwrap().trace;
        let outgoing = |state: Option<&str>, baggage: Option<&str>| Outgoing {
            parent: parent.to_owned(),
            trace,
            state: state.map(str::to_owned),
            baggage: baggage.map(str::to_owned),
        };
        let (plain, full) = (outgoing(None, None), outgoing(Some("a=1"), Some("k=v")));
        let rewrite = |trace| Rewrite { trace: Some(trace), ..Rewrite::default() };
        let said = r#"{"_meta":{"traceparent":"garbage","x":1,"tracestate":"a=1","baggage":"own=1"}}"#;
        let told = format!(r#""traceparent":"{parent}""#);
        check(said, rewrite(&plain), None, &format!(r#"{{"_meta":{{{told},"x":1,"baggage":"own=1"}}}}"#));
        let told_all = format!(r#"{told},"tracestate":"a=1","baggage":"k=v""#);
        check("{}", rewrite(&full), None, &format!(r#"{{"_meta":{{{told_all}}}}}"#));
        check(r#"{"_meta":{"baggage":7}}"#, rewrite(&full), None, &format!(r#"{{"_meta":{{{told_all}}}}}"#));
        check(
            r#"{"_meta":{"baggage":"mal formed"}}"#,
            rewrite(&plain),
            None,
            &format!(r#"{{"_meta":{{{told}}}}}"#),
        );
        // Where nothing is traced, what the client said travels as it is.
        check(said, Rewrite::default(), None, said);
    }

    #[test]
    fn what_a_completion_is_for_is_named_as_the_server_does() {
        let rewrite = Rewrite { reference: Some("own"), ..Rewrite::default() };
        let prompt = r#"{"ref":{"type":"ref/prompt", "name":"srv_own"},"argument":{"name":"x"}}"#;
        check(prompt, rewrite, None, &prompt.replace("srv_own", "own"));
        let template = r#"{"ref":{"uri":"mcp:srv:own","type":"ref/resource"}}"#;
        check(template, rewrite, None, &template.replace("mcp:srv:own", "own"));
        check(r#"{"ref":[]}"#, rewrite, None, r#"{"ref":[]}"#);
    }

    #[test]
    fn messages_are_made_of_their_parts() {
        assert_eq!(request(7, "a\"b", "{}"), r#"{"jsonrpc":"2.0","id":7,"method":"a\"b","params":{}}"#);
        assert_eq!(notification("n", None), r#"{"jsonrpc":"2.0","method":"n"}"#);
        assert_eq!(notification("n", Some("{}")), r#"{"jsonrpc":"2.0","method":"n","params":{}}"#);
        assert_eq!(asked("\"x\"", "n", None), r#"{"jsonrpc":"2.0","id":"x","method":"n"}"#);
        assert_eq!(asked("1", "n", Some("{}")), r#"{"jsonrpc":"2.0","id":1,"method":"n","params":{}}"#);
        assert_eq!(response("1", Ok("{ }")), r#"{"jsonrpc":"2.0","id":1,"result":{ }}"#);
        let no = r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32601,"message":"no \"x\""}}"#;
        assert_eq!(error("\"a\"", -32601, "no \"x\""), no);
        assert_eq!(call("a\"", "{ }"), r#"{"name":"a\"","arguments":{ }}"#);
        assert_eq!(error_code(r#"{"message":"","code":-32002}"#), Some(-32002));
        assert_eq!(error_code(r#"{"code":"x"}"#), None);
    }

    #[test]
    fn progress_and_subscriptions_are_named_as_the_client_does() {
        assert_eq!(
            with_progress_token(r#"{"progressToken":7,"progress":1.0}"#, "\"p\""),
            r#"{"progressToken":"p","progress":1.0}"#
        );
        assert_eq!(with_progress_token("{}", "1"), "{}");
        let tag = r#""io.modelcontextprotocol/subscriptionId""#;
        assert_eq!(with_subscription(None, Some("1")), format!(r#"{{"_meta":{{{tag}:1}}}}"#));
        let tagged = format!(r#"{{"uri":"a", "_meta":{{{tag}:"x","b":1}}}}"#);
        assert_eq!(
            with_subscription(Some(&tagged), Some("2")),
            format!(r#"{{"uri":"a", "_meta":{{{tag}:2,"b":1}}}}"#)
        );
        assert_eq!(with_subscription(Some(&tagged), None), r#"{"uri":"a", "_meta":{"b":1}}"#);
        assert_eq!(with_subscription(None, None), "{}");
    }

    proptest! {
        #[test]
        fn no_byte_changes_but_those_that_must(
            blank in "[ \n\t]{0,3}", arguments in any_json(), other in any_json(), name in ".{0,12}", own in ".{0,12}",
            token in any::<u64>(),
        ) {
            let arguments = serde_json::to_string_pretty(&arguments).unwrap();
            let client = |name: &str, meta: &str| {
                format!(r#"{{{blank}"arguments":{arguments}{blank},"name"{blank}:{}{blank},"other":{other},"_meta":{{{meta}"x":{other}}}{blank}}}"#, quoted(name))
            };
            let said = format!(r#""io.modelcontextprotocol/clientInfo":{{}},{blank}"progressToken":{blank}1,"#);
            let rewrite = Rewrite { name: Some(&own), progress_token: Some(&token.to_string()), ..Rewrite::default() };
            let sent = params(Some(&client(&name, &said)), &rewrite, None);
            let expected = client(&own, &format!(r#"{blank}"progressToken":{blank}{token},"#));
            prop_assert_eq!(sent, expected);
        }

        #[test]
        fn any_parameters_become_what_serde_json_would_make_of_them(client in any_json(), name in ".{0,8}") {
            let client = if client.is_object() { client } else { json!({ "_meta": client }) };
            let client = client.to_string();
            let rewrite = Rewrite { name: Some(&name), progress_token: Some("\"t\""), ..Rewrite::default() };
            let sent: Value = serde_json::from_str(&params(Some(&client), &rewrite, Some(&MODERN))).unwrap();
            let mut expected: Value = serde_json::from_str(&client).unwrap();
            expected["name"] = json!(name);
            if !expected["_meta"].is_object() {
                expected["_meta"] = json!({});
            }
            let own: Value = serde_json::from_str(&format!("{{{OWN}}}")).unwrap();
            for (key, value) in own.as_object().unwrap() {
                expected["_meta"][key] = value.clone();
            }
            expected["_meta"]["progressToken"] = json!("t");
            prop_assert_eq!(sent, expected);
        }
    }
}
