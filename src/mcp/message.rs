//! What a request body asks for, read without copying it and refused where two parsers could differ.
//!
//! Decides which JSON-RPC messages a body holds: method, id and the names that policy looks at. Never
//! changes a byte, never keeps one, and never judges what it does not need: the server does.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::object::{Text, object, reads_object};
use crate::refusal::{Code, Refusal};

/// Longest id that is echoed; a longer one is the client's own trouble.
const LONGEST_ID: usize = 256;

/// Most messages in a batch: each may be a call with a row of its own in the audit.
const MOST_IN_BATCH: usize = 1000;

/// The messages of one body.
#[derive(Debug)]
pub enum Body<'a> {
    /// One message.
    One(Message<'a>),
    /// Several at once (only in 2025-03-26); never empty.
    Batch(Vec<Message<'a>>),
}

/// One JSON-RPC message: the members that policy looks at, borrowed from the body.
#[derive(Debug, Default)]
pub struct Message<'a> {
    id: Option<&'a RawValue>,
    method: Option<Cow<'a, str>>,
    params: Params<'a>,
}

/// The members of `params` that policy looks at.
#[derive(Debug, Default)]
struct Params<'a> {
    name: Option<Cow<'a, str>>,
    uri: Option<Cow<'a, str>>,
    task_id: Option<Cow<'a, str>>,
    arguments: Option<&'a RawValue>,
    version: Option<Cow<'a, str>>,
}

/// Reads a whole body.
pub fn peek(body: &[u8]) -> Result<Body<'_>, Refusal> {
    let text = std::str::from_utf8(body)
        .map_err(|_| Refusal::new(Code::BodyEncoded, "the body must be JSON in UTF-8"))?;
    let is_batch = text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('[');
    if !is_batch {
        let message = serde_json::from_str(text).and_then(checked);
        return message.map(Body::One).map_err(|error| unreadable(&error));
    }
    let messages: Vec<Message<'_>> = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
    let messages = messages.into_iter().map(checked).collect::<Result<Vec<_>, _>>();
    let messages = messages.map_err(|error| unreadable(&error))?;
    if messages.len() > MOST_IN_BATCH {
        let sentence = format!("a batch may hold at most {MOST_IN_BATCH} messages");
        return Err(Refusal::new(Code::BadMessage, sentence));
    }
    if messages.is_empty() {
        return Err(Refusal::new(Code::BadMessage, "a batch must hold at least one message"));
    }
    Ok(Body::Batch(messages))
}

/// A message whose arguments, too, are looked at to their depths.
fn checked(message: Message<'_>) -> serde_json::Result<Message<'_>> {
    if let Some(arguments) = message.arguments() {
        serde_json::from_str::<Checked>(arguments)?;
    }
    Ok(message)
}

fn unreadable(error: &serde_json::Error) -> Refusal {
    if error.is_data() {
        let sentence = "the body must be one unambiguous JSON-RPC message: each member once and in its exact \
                        spelling, `method` a string, `params` an object";
        return Refusal::new(Code::BadMessage, sentence);
    }
    Refusal::new(Code::BodyNotJson, "the body is not JSON, or is nested too deeply")
}

impl<'a> Body<'a> {
    /// All messages.
    pub fn messages(&self) -> &[Message<'a>] {
        match self {
            Body::One(message) => std::slice::from_ref(message),
            Body::Batch(messages) => messages,
        }
    }

    /// The id to echo in an answer to the whole body.
    pub fn id(&self) -> Option<&'a str> {
        match self {
            Body::One(message) => message.id(),
            Body::Batch(_) => None,
        }
    }

    /// The revision the body itself names: only modern requests do.
    pub fn version(&self) -> Option<&str> {
        self.messages().iter().find_map(Message::version)
    }
}

impl<'a> Message<'a> {
    /// The id as it stands in the body, where it is one that may be echoed: a string or a number.
    pub fn id(&self) -> Option<&'a str> {
        let id = self.id?.get();
        let is_echoable =
            id.starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit());
        (is_echoable && id.len() <= LONGEST_ID).then_some(id)
    }

    /// The method; a response has none.
    pub fn method(&self) -> Option<&str> {
        self.method.as_deref()
    }

    /// Whether an answer is expected to this message.
    pub fn is_request(&self) -> bool {
        self.method.is_some() && self.id.is_some()
    }

    /// The tool that this message calls; empty where it names none.
    pub fn tool(&self) -> Option<&str> {
        (self.method() == Some("tools/call")).then(|| self.params.name.as_deref().unwrap_or_default())
    }

    /// The arguments, as they stand in the body.
    pub fn arguments(&self) -> Option<&'a str> {
        self.params.arguments.map(RawValue::get)
    }

    /// What `Mcp-Name` must say about this message (MCP 2026-07-28, Transports, Request Headers).
    pub fn header_name(&self) -> Option<&str> {
        match self.method()? {
            "tools/call" | "prompts/get" => self.params.name.as_deref(),
            "resources/read" => self.params.uri.as_deref(),
            "tasks/get" | "tasks/update" | "tasks/cancel" => self.params.task_id.as_deref(),
            _ => None,
        }
    }

    /// The revision this request names for itself.
    pub fn version(&self) -> Option<&str> {
        self.params.version.as_deref()
    }
}

reads_object!(Message, read_message);
reads_object!(Params, read_params);
reads_object!(Meta, read_meta);

fn read_message<'de, A: MapAccess<'de>>(map: A) -> Result<Message<'de>, A::Error> {
    let mut message = Message::default();
    object::<Checked, _>(map, &["jsonrpc", "id", "method", "params", "result", "error"], |map, at| {
        match at {
            1 => message.id = Some(read_id(map)?),
            2 => message.method = Some(map.next_value::<Text<'de>>()?.0),
            3 => message.params = map.next_value::<Option<Params<'de>>>()?.unwrap_or_default(),
            _ => _ = map.next_value::<Checked>()?,
        }
        Ok(())
    })?;
    Ok(message)
}

fn read_params<'de, A: MapAccess<'de>>(map: A) -> Result<Params<'de>, A::Error> {
    let mut params = Params::default();
    object::<Checked, _>(map, &["name", "uri", "taskId", "_meta", "arguments"], |map, at| {
        match at {
            0 => params.name = Some(map.next_value::<Text<'de>>()?.0),
            1 => params.uri = Some(map.next_value::<Text<'de>>()?.0),
            2 => params.task_id = Some(map.next_value::<Text<'de>>()?.0),
            3 => params.version = map.next_value::<Option<Meta<'de>>>()?.and_then(|meta| meta.version),
            // As it stands, and looked at afterwards (`checked`).
            4 => params.arguments = Some(map.next_value()?),
            _ => _ = map.next_value::<Checked>()?,
        }
        Ok(())
    })?;
    Ok(params)
}

#[derive(Default)]
struct Meta<'a> {
    version: Option<Cow<'a, str>>,
}

fn read_meta<'de, A: MapAccess<'de>>(map: A) -> Result<Meta<'de>, A::Error> {
    let mut meta = Meta::default();
    object::<Checked, _>(map, &["io.modelcontextprotocol/protocolVersion"], |map, _| {
        meta.version = Some(map.next_value::<Text<'de>>()?.0);
        Ok(())
    })?;
    Ok(meta)
}

fn read_id<'de, A: MapAccess<'de>>(map: &mut A) -> Result<&'de RawValue, A::Error> {
    let id: &RawValue = map.next_value()?;
    // Not nested, and so no more than a few bytes to look at twice.
    if id.get().starts_with(['[', '{']) || serde_json::from_str::<Checked>(id.get()).is_err() {
        return Err(de::Error::custom("an id that is neither a string nor a number"));
    }
    Ok(id)
}

/// A value that is looked at to its depths and then forgotten.
///
/// Not `IgnoredAny`, which lets pass what other parsers stumble over: numbers beyond any range, halves
/// of surrogate pairs, nesting without end.
pub(super) struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Checked)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn one(body: &str) -> Message<'_> {
        match peek(body.as_bytes()) {
            Ok(Body::One(message)) => message,
            other => panic!("{body}: {other:?}"),
        }
    }

    #[track_caller]
    fn refused(body: impl AsRef<[u8]>, code: Code) {
        let body = body.as_ref();
        let got = peek(body).map(|_| ()).map_err(|refusal| refusal.code());
        assert_eq!(got, Err(code), "{}", String::from_utf8_lossy(body));
    }

    #[test]
    fn a_call_tells_its_id_method_tool_and_revision() {
        let body = r#" {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"_meta":{"progressToken":1,
            "io.modelcontextprotocol/protocolVersion":"2026-07-28"},"name":"echo","arguments":{"name":"x","a":[1e3,null]}}}"#;
        let message = one(body);
        assert_eq!(message.id(), Some("7"));
        assert_eq!(message.method(), Some("tools/call"));
        assert_eq!(message.tool(), Some("echo"));
        assert_eq!(message.header_name(), Some("echo"));
        assert_eq!(message.version(), Some("2026-07-28"));
        assert!(message.is_request());
        assert!(matches!(message.params.name, Some(Cow::Borrowed(_))), "nothing is copied");
    }

    #[test]
    fn what_is_no_tool_call_names_no_tool() {
        let read = one(r#"{"id":"a","method":"resources/read","params":{"uri":"file:///x","name":"echo"}}"#);
        assert_eq!((read.tool(), read.header_name(), read.id()), (None, Some("file:///x"), Some("\"a\"")));
        let task = one(r#"{"id":-1.5,"method":"tasks/get","params":{"taskId":"t"}}"#);
        assert_eq!((task.header_name(), task.id()), (Some("t"), Some("-1.5")));
        let response = one(r#"{"jsonrpc":"2.0","id":"srv-1","result":{"name":1,"Method":2}}"#);
        assert_eq!((response.method(), response.is_request()), (None, false));
        let notification = one(r#"{"method":"notifications/initialized","params":null}"#);
        assert!(!notification.is_request());
        assert_eq!(one(r#"{"id":1,"method":"tools/call"}"#).tool(), Some(""));
        assert_eq!(one(r#"{"id":null,"method":"x"}"#).id(), None);
        assert_eq!(
            one(r#"{"id":1,"method":"tools\/call","params":{"n\u0061me":"\u0065cho"}}"#).tool(),
            Some("echo")
        );
    }

    #[test]
    fn a_batch_tells_all_its_messages() {
        let body = br#"[{"id":1,"method":"ping"},{"id":2,"method":"tools/call","params":{"name":"a"}}]"#;
        let batch = peek(body).unwrap();
        assert_eq!(batch.messages().iter().filter_map(Message::tool).collect::<Vec<_>>(), ["a"]);
        assert_eq!(batch.id(), None);
        refused("[]", Code::BadMessage);
        refused("[1]", Code::BadMessage);
        refused(r#"[{"method":"a","method":"b"}]"#, Code::BadMessage);
        refused(r#"[[{"method":"a"}]]"#, Code::BadMessage);
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        for body in [
            // Twice: some take the first, some the last.
            r#"{"method":"a","method":"a"}"#,
            r#"{"method":"a","m\u0065thod":"b"}"#,
            r#"{"id":1,"id":2,"method":"a"}"#,
            r#"{"params":{},"params":{}}"#,
            r#"{"method":"tools/call","params":{"name":"a","name":"b"}}"#,
            r#"{"method":"tools/call","params":{"name":"a","arguments":{},"arguments":{}}}"#,
            r#"{"params":{"_meta":{},"_meta":{}}}"#,
            r#"{"params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"a","io.modelcontextprotocol/protocolVersion":"b"}}}"#,
            // Spelled otherwise: some match without regard to case.
            r#"{"method":"a","Method":"b"}"#,
            r#"{"METHOD":"b"}"#,
            "{\"params\":{\"name\":\"a\",\"argument\u{17f}\":{}}}",
            "{\"method\":\"a\",\"param\u{17f}\":{\"name\":\"b\"}}",
            r#"{"params":{"tas\u212aId":"b"}}"#,
            r#"{"params":{"Name":"b"}}"#,
            r#"{"params":{"name\u0000x":"b"}}"#,
            r#"{"params":{" name":"b"}}"#,
            // Of another type: some would make a string of it.
            r#"{"method":["a"]}"#,
            r#"{"method":1}"#,
            r#"{"method":null}"#,
            r#"{"method":"tools/call","params":{"name":["delete"]}}"#,
            r#"{"method":"tools/call","params":{"name":null}}"#,
            r#"{"method":"tools/call","params":["a"]}"#,
            r#"{"method":"tools/call","params":"a"}"#,
            r#"{"id":[1],"method":"a"}"#,
            r#"{"id":{},"method":"a"}"#,
            "1",
            "\"a\"",
            "null",
        ] {
            refused(body, Code::BadMessage);
        }
        let deep = format!(r#"{{"params":{{"arguments":{}{}}}}}"#, "[".repeat(200), "]".repeat(200));
        for body in [
            "",
            " ",
            "{",
            "{}{}",
            "{'a':1}",
            r#"{"a":1,}"#,
            r#"{"a":NaN}"#,
            r#"{"a":01}"#,
            r#"{"a":1e999}"#,
            r#"{"params":{"arguments":{"a":"\ud800"}}}"#,
            "{\"a\":\"\u{1}\"}",
            "\u{feff}{}",
            "{} //",
            &deep,
        ] {
            refused(body, Code::BodyNotJson);
        }
        refused(b"{\"a\":\"\xff\"}", Code::BodyEncoded);
        refused([0xff, 0xfe, b'{', 0], Code::BodyEncoded);
        refused([b'{', 0, b'}', 0], Code::BodyNotJson);
    }

    #[test]
    fn an_id_too_long_to_echo_is_not() {
        let body = format!(r#"{{"id":"{}","method":"a"}}"#, "x".repeat(300));
        assert_eq!(one(&body).id(), None);
    }

    /// Any JSON, with the keys that mean something among others.
    pub(crate) fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
            "(tools/call|echo|2026-07-28)".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 6, |inner| {
            let key = prop_oneof![
                "(jsonrpc|id|method|params|result|name|uri|taskId|_meta|arguments|Name|io.modelcontextprotocol/protocolVersion)",
                ".{0,6}",
            ];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map(key, inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// Whatever is accepted, serde_json reads the same way.
    fn agrees(body: &[u8]) -> Result<(), TestCaseError> {
        let Ok(Body::One(message)) = peek(body) else { return Ok(()) };
        let value: Value =
            serde_json::from_slice(body).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(message.method(), value.get("method").and_then(Value::as_str));
        let name = value.pointer("/params/name").and_then(Value::as_str);
        prop_assert_eq!(message.params.name.as_deref(), name);
        if let Some(id) = message.id() {
            let id: Value =
                serde_json::from_str(id).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(Some(&id), value.get("id"));
        }
        let version = value
            .get("params")
            .and_then(|params| params.get("_meta")?.get("io.modelcontextprotocol/protocolVersion")?.as_str());
        prop_assert_eq!(message.version(), version);
        Ok(())
    }

    proptest! {
        #[test]
        fn serde_json_agrees_on_every_accepted_body(value in any_json()) {
            agrees(value.to_string().as_bytes())?;
            agrees(json!({"id": value.clone(), "method": "tools/call", "params": value}).to_string().as_bytes())?;
        }

        #[test]
        fn serde_json_agrees_on_every_accepted_body_with_bytes_changed(
            value in any_json(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let mut body = json!({"id": 1, "method": "tools/call", "params": value}).to_string().into_bytes();
            let at = at.index(body.len());
            body[at] = byte;
            agrees(&body)?;
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            agrees(&body)?;
        }
    }
}
