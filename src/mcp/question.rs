//! What a client asks, with every part as it was written.
//!
//! Decides whether a message is a request, a notification or a response, and which bytes are which parameter. Refuses
//! what two parsers could read differently, and batches. Never decides what is answered.

use std::borrow::Cow;

use super::{
    members::{Members, text},
    message::{self, Body},
};
use crate::refusal::{Code, Refusal};

/// Beginning of the names in `_meta` that say what a request is to be read by (MCP 2026-07-28, General Fields).
pub const META_PREFIX: &str = "io.modelcontextprotocol/";

/// One message of a client.
#[derive(Debug, Clone)]
pub enum Said<'a> {
    /// Wants an answer.
    Request(Question<'a>),
    /// Wants none.
    Notification(Question<'a>),
    /// Answers a server's request.
    Response(Response<'a>),
}

/// A request or a notification.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// The id as it was written; none for a notification.
    pub id: Option<&'a str>,
    /// The method.
    pub method: Cow<'a, str>,
    /// The object of parameters as it was written.
    pub params: Option<&'a str>,
    members: Members<'a>,
    meta: Members<'a>,
}

/// What a client answers to a server's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// The request's id as it was written.
    pub id: &'a str,
    /// The result or the error as it was written.
    pub outcome: Result<&'a str, &'a str>,
}

/// Reads a whole body: exactly one message.
pub fn read(body: &[u8]) -> Result<Said<'_>, Refusal> {
    read_peeked(body, &message::peek(body)?)
}

/// The same of a body that was peeked at.
pub fn read_peeked<'a>(body: &'a [u8], peeked: &Body<'_>) -> Result<Said<'a>, Refusal> {
    if let Body::Batch(_) = peeked {
        return Err(unclear("several messages at once are not taken here: send each on its own"));
    }
    let text = std::str::from_utf8(body)
        .map_err(|_| Refusal::new(Code::BodyEncoded, "the body must be JSON in UTF-8"))?;
    let message = Members::read(text).ok_or_else(twice)?;
    let Some(method) = message.get("method") else { return response(&message).map(Said::Response) };
    let question = Question::new(&message, method)?;
    Ok(if question.id.is_some() { Said::Request(question) } else { Said::Notification(question) })
}

fn unclear(sentence: &'static str) -> Refusal {
    Refusal::new(Code::BadMessage, sentence)
}

fn twice() -> Refusal {
    unclear("a member of the message stands twice")
}

fn response<'a>(message: &Members<'a>) -> Result<Response<'a>, Refusal> {
    let outcome = match (message.get("result"), message.get("error")) {
        (Some(result), None) => Ok(result),
        (None, Some(error)) => Err(error),
        (Some(_), Some(_)) | (None, None) => {
            return Err(unclear("a message has a `method`, or else either a `result` or an `error`"));
        }
    };
    let id = id(message)?.ok_or_else(|| unclear("a response has the `id` of its request"))?;
    Ok(Response { id, outcome })
}

/// The id: a string or a number, as peeking has seen to, but for `null`.
fn id<'a>(message: &Members<'a>) -> Result<Option<&'a str>, Refusal> {
    match message.get("id") {
        Some("null" | "true" | "false") => Err(unclear("an `id` is a string or a number")),
        id => Ok(id),
    }
}

/// A member that is an object.
fn object<'a>(members: &Members<'a>, key: &str) -> Option<&'a str> {
    members.get(key).filter(|value| value.starts_with('{'))
}

impl<'a> Question<'a> {
    fn new(message: &Members<'a>, method: &'a str) -> Result<Self, Refusal> {
        let method = text(method).ok_or_else(|| unclear("`method` is a string"))?;
        let params = object(message, "params");
        let members = params.map(|params| Members::read(params).ok_or_else(twice)).transpose()?;
        let members = members.unwrap_or_default();
        let meta = object(&members, "_meta").map(|meta| Members::read(meta).ok_or_else(twice));
        let meta = meta.transpose()?.unwrap_or_default();
        Ok(Self { id: id(message)?, method, params, members, meta })
    }

    /// The tool or prompt it names.
    pub fn name(&self) -> Option<Cow<'a, str>> {
        text(self.members.get("name")?)
    }

    /// The resource it names.
    pub fn uri(&self) -> Option<Cow<'a, str>> {
        text(self.members.get("uri")?)
    }

    /// Where the page of a list that it asks for begins.
    pub fn cursor(&self) -> Option<Cow<'a, str>> {
        text(self.members.get("cursor")?)
    }

    /// What the answer that asked for input gave it to bring back.
    pub fn request_state(&self) -> Option<Cow<'a, str>> {
        text(self.members.get("requestState")?)
    }

    /// The object of arguments as it was written.
    pub fn arguments(&self) -> Option<&'a str> {
        object(&self.members, "arguments")
    }

    /// The object `_meta` as it was written.
    pub fn meta(&self) -> Option<&'a str> {
        object(&self.members, "_meta")
    }

    /// The token that progress of it is told with, as it was written: a string or a number.
    pub fn progress_token(&self) -> Option<&'a str> {
        let is_token = |raw: &&str| {
            raw.starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit())
        };
        self.meta.get("progressToken").filter(is_token)
    }

    /// The revision it names: a modern request in `_meta`, `initialize` among its parameters.
    pub fn protocol_version(&self) -> Option<Cow<'a, str>> {
        if let Some(version) = self.own("protocolVersion") {
            return text(version);
        }
        (self.method == "initialize").then(|| text(self.members.get("protocolVersion")?)).flatten()
    }

    /// What its client can be asked for, as it was written.
    pub fn client_capabilities(&self) -> Option<&'a str> {
        self.told_or_initialized("clientCapabilities", "capabilities")
    }

    /// Who its client is, as it was written.
    pub fn client_info(&self) -> Option<&'a str> {
        self.told_or_initialized("clientInfo", "clientInfo")
    }

    /// The least level of log messages its client wants, as it was written: in `_meta`, or of `logging/setLevel`.
    pub fn log_level(&self) -> Option<&'a str> {
        let level = self.own("logLevel");
        let level =
            level.or_else(|| (self.method == "logging/setLevel").then(|| self.members.get("level"))?);
        level.filter(|level| level.starts_with('"'))
    }

    /// The input that an earlier answer asked for, as it was written.
    pub fn input_responses(&self) -> Option<&'a str> {
        object(&self.members, "inputResponses")
    }

    /// What a completion is for, as it was written.
    pub fn reference(&self) -> Option<&'a str> {
        object(&self.members, "ref")
    }

    /// Any other parameter, as it was written.
    pub fn param(&self, key: &str) -> Option<&'a str> {
        self.members.get(key)
    }

    /// A member of `_meta` that is the protocol's own.
    fn own(&self, key: &str) -> Option<&'a str> {
        self.meta.iter().find_map(|(name, value)| (name.strip_prefix(META_PREFIX)? == key).then_some(value))
    }

    fn told_or_initialized(&self, told: &str, initialized: &str) -> Option<&'a str> {
        let own = self.own(told);
        let value = own.or_else(|| (self.method == "initialize").then(|| self.members.get(initialized))?);
        value.filter(|value| value.starts_with('{'))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::mcp::message::tests::any_json;

    fn question(body: &str) -> Question<'_> {
        match read(body.as_bytes()) {
            Ok(Said::Request(question) | Said::Notification(question)) => question,
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn a_call_tells_each_part_as_it_was_written() {
        let body = r#"{"jsonrpc":"2.0","id": 1e0 ,"method":"tools\/call","params": {"name":"\u0065cho","arguments":{ "a":1.0 },
            "requestState":"s","inputResponses":{"k":{}},"_meta":{"progressToken":"p","io.modelcontextprotocol/protocolVersion":"2026-07-28",
            "io.modelcontextprotocol/clientCapabilities":{"x":{}},"io.modelcontextprotocol/clientInfo":{"name":"c"},
            "io.modelcontextprotocol/logLevel":"debug"}}}"#;
        let question = question(body);
        assert_eq!((question.id, &*question.method), (Some("1e0"), "tools/call"));
        assert_eq!(question.name().as_deref(), Some("echo"));
        assert_eq!(question.arguments(), Some(r#"{ "a":1.0 }"#));
        assert_eq!(question.request_state().as_deref(), Some("s"));
        assert_eq!(question.input_responses(), Some(r#"{"k":{}}"#));
        assert_eq!(question.progress_token(), Some("\"p\""));
        assert_eq!(question.protocol_version().as_deref(), Some("2026-07-28"));
        assert_eq!(question.client_capabilities(), Some(r#"{"x":{}}"#));
        assert_eq!(question.client_info(), Some(r#"{"name":"c"}"#));
        assert_eq!(question.log_level(), Some("\"debug\""));
        assert!(question.params.unwrap().starts_with("{\"name\"") && question.meta().is_some());
        assert_eq!((question.uri(), question.cursor(), question.reference()), (None, None, None));
    }

    #[test]
    fn legacy_requests_say_the_same_elsewhere() {
        let hello = question(
            r#"{"id":"a","method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{"roots":{}},"clientInfo":{"name":"c"}}}"#,
        );
        assert_eq!(hello.protocol_version().as_deref(), Some("2025-06-18"));
        assert_eq!(hello.client_capabilities(), Some(r#"{"roots":{}}"#));
        assert_eq!(hello.client_info(), Some(r#"{"name":"c"}"#));
        let level = question(r#"{"id":1,"method":"logging/setLevel","params":{"level":"info"}}"#);
        assert_eq!(level.log_level(), Some("\"info\""));
        let other = question(
            r#"{"id":1,"method":"x","params":{"protocolVersion":"2025-06-18","capabilities":{},"level":"info"}}"#,
        );
        assert_eq!(
            (other.protocol_version(), other.client_capabilities(), other.log_level()),
            (None, None, None)
        );
        let list = question(
            r#"{"id":1,"method":"resources/list","params":{"cursor":"","uri":"a:b","ref":{"type":"ref/prompt"}}}"#,
        );
        assert_eq!((list.cursor().as_deref(), list.uri().as_deref()), (Some(""), Some("a:b")));
        assert_eq!(list.reference(), Some(r#"{"type":"ref/prompt"}"#));
    }

    #[test]
    fn what_is_null_or_of_another_type_is_not_there() {
        let question = question(
            r#"{"method":"tools/list","params":{"arguments":null,"_meta":null,"cursor":1,"ref":[]}}"#,
        );
        assert_eq!((question.id, question.arguments(), question.meta()), (None, None, None));
        assert_eq!((question.cursor(), question.reference(), question.progress_token()), (None, None, None));
        assert!(read(br#"{"method":"x","params":null}"#).is_ok());
    }

    #[test]
    fn messages_are_told_apart() {
        assert!(matches!(read(br#"{"id":1,"method":"a"}"#), Ok(Said::Request(_))));
        assert!(matches!(read(br#"{"method":"a"}"#), Ok(Said::Notification(_))));
        let Ok(Said::Response(response)) = read(br#"{"id":"r-1","result":{ }}"#) else {
            panic!("a response")
        };
        assert_eq!(response, Response { id: "\"r-1\"", outcome: Ok("{ }") });
        let Ok(Said::Response(response)) = read(br#"{"id":2,"error":{"code":1}}"#) else {
            panic!("a response")
        };
        assert_eq!(response.outcome, Err(r#"{"code":1}"#));
    }

    #[test]
    fn what_is_no_single_clear_message_is_refused() {
        for (body, code) in [
            (r#"[{"id":1,"method":"a"}]"#, Code::BadMessage),
            (r#"{"id":null,"method":"a"}"#, Code::BadMessage),
            (r#"{"id":true,"method":"a"}"#, Code::BadMessage),
            (r#"{"id":1,"method":"a","x":1,"x":2}"#, Code::BadMessage),
            (r#"{"id":1,"method":"a","params":{"x":1,"x":2}}"#, Code::BadMessage),
            (r#"{"id":1,"method":"a","params":{"_meta":{"x":1,"x":2}}}"#, Code::BadMessage),
            (r#"{"id":1}"#, Code::BadMessage),
            (r#"{"result":{}}"#, Code::BadMessage),
            (r#"{"id":1,"result":{},"error":{}}"#, Code::BadMessage),
            ("{", Code::BodyNotJson),
            (r#"{"id":1,"method":"a","params":{"x":NaN}}"#, Code::BodyNotJson),
        ] {
            assert_eq!(
                read(body.as_bytes()).map(|_| ()).map_err(|refusal| refusal.code()),
                Err(code),
                "{body}"
            );
        }
    }

    fn agrees(body: &[u8]) -> Result<(), TestCaseError> {
        let Ok(said) = read(body) else { return Ok(()) };
        let value: Value =
            serde_json::from_slice(body).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let json = |raw: &str| serde_json::from_str::<Value>(raw).ok();
        match said {
            Said::Request(question) | Said::Notification(question) => {
                prop_assert_eq!(Some(&*question.method), value["method"].as_str());
                prop_assert_eq!(question.id.and_then(json), value.get("id").cloned());
                let params = value.get("params").filter(|params| !params.is_null());
                prop_assert_eq!(question.params.and_then(json), params.cloned());
                let (name, uri) = (question.name(), question.uri());
                prop_assert_eq!(name.as_deref(), value["params"]["name"].as_str());
                prop_assert_eq!(uri.as_deref(), value["params"]["uri"].as_str());
            }
            Said::Response(response) => {
                prop_assert_eq!(json(response.id), value.get("id").cloned());
                let (Ok(outcome) | Err(outcome)) = response.outcome;
                let said = value.get("result").or_else(|| value.get("error"));
                prop_assert_eq!(json(outcome), said.cloned());
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn serde_json_agrees(value in any_json()) {
            agrees(value.to_string().as_bytes())?;
            agrees(json!({"id": 1, "method": "tools/call", "params": value.clone()}).to_string().as_bytes())?;
            agrees(json!({"id": "a", "result": value}).to_string().as_bytes())?;
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            agrees(&body)?;
        }

        #[test]
        fn serde_json_agrees_with_bytes_changed(value in any_json(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut body = json!({"id": 1, "method": "a", "params": value}).to_string().into_bytes();
            let at = at.index(body.len());
            body[at] = byte;
            agrees(&body)?;
        }
    }
}
