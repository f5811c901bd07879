//! What a server tells: notifications, requests of its own, and the result or error of a call.
//!
//! Decides which of them a message is and which bytes are which member. Never looks into a result or an error, and
//! never decides who gets it.

use std::borrow::Cow;

use serde::de::{IgnoredAny, MapAccess};
use serde_json::value::RawValue;

use super::{
    Unreadable,
    members::{Members, trimmed},
    object::{Text, object, reads_object},
};

/// One message of a server. All texts are JSON as it was written, but for the methods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Wants no answer.
    Notification {
        /// What it is about.
        method: String,
        /// Its parameters, an object.
        params: Option<String>,
    },
    /// Wants an answer.
    Request {
        /// What the answer is to name: a string or a number.
        id: String,
        /// What is asked.
        method: String,
        /// Its parameters, an object.
        params: Option<String>,
    },
    /// Ends a call that went well.
    Result {
        /// The call's: a string or a number.
        id: String,
        /// The result, an object.
        result: String,
    },
    /// Ends a call that did not.
    Error {
        /// The call's, where the server could read it.
        id: Option<String>,
        /// The error, an object.
        error: String,
    },
}

/// Reads what a body or an event holds: one message, or a batch of them.
pub fn read(text: &str) -> Result<Vec<Told>, Unreadable> {
    let message = Unreadable("a message of the server is not one unambiguous JSON-RPC message");
    if !trimmed(text).starts_with('[') {
        let read: Message<'_> = serde_json::from_str(text).map_err(|_| message)?;
        return Ok(vec![read.told()?]);
    }
    let batch: Vec<Message<'_>> = serde_json::from_str(text).map_err(|_| message)?;
    batch.into_iter().map(Message::told).collect()
}

impl Told {
    /// The token that a notification of progress is told with, as it was written.
    pub fn progress_token(&self) -> Option<&str> {
        let Self::Notification { method, params: Some(params) } = self else { return None };
        if method != "notifications/progress" {
            return None;
        }
        Members::read(params)?.get("progressToken")
    }
}

#[derive(Default)]
struct Message<'a> {
    id: Option<&'a RawValue>,
    method: Option<Cow<'a, str>>,
    params: Option<&'a RawValue>,
    result: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
}

reads_object!(Message, read_message);

fn read_message<'de, A: MapAccess<'de>>(map: A) -> Result<Message<'de>, A::Error> {
    let mut message = Message::default();
    object::<IgnoredAny, _>(map, &["jsonrpc", "id", "method", "params", "result", "error"], |map, at| {
        match at {
            1 => message.id = map.next_value()?,
            2 => message.method = Some(map.next_value::<Text<'de>>()?.0),
            3 => message.params = map.next_value()?,
            4 => message.result = map.next_value()?,
            5 => message.error = map.next_value()?,
            _ => _ = map.next_value::<IgnoredAny>()?,
        }
        Ok(())
    })?;
    Ok(message)
}

impl Message<'_> {
    fn told(self) -> Result<Told, Unreadable> {
        let id = self.id.map(id).transpose()?;
        let told = (self.method, self.result, self.error);
        match told {
            (Some(method), None, None) => {
                let params = self.params.map(an_object).transpose()?;
                let method = method.into_owned();
                Ok(match id {
                    Some(id) => Told::Request { id, method, params },
                    None => Told::Notification { method, params },
                })
            }
            (None, Some(result), None) => {
                let id = id.ok_or(Unreadable("a result of the server has no id"))?;
                Ok(Told::Result { id, result: an_object(result)? })
            }
            (None, None, Some(error)) => Ok(Told::Error { id, error: an_object(error)? }),
            (Some(_) | None, _, _) => {
                Err(Unreadable("a message of the server is neither a request, a result nor an error"))
            }
        }
    }
}

fn id(raw: &RawValue) -> Result<String, Unreadable> {
    let is_id = raw.get().starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit());
    is_id
        .then(|| raw.get().to_owned())
        .ok_or(Unreadable("an id of the server is neither a string nor a number"))
}

/// What goes on must be read alike by everybody, so it has no member twice.
fn an_object(raw: &RawValue) -> Result<String, Unreadable> {
    let object = Members::read(raw.get()).ok_or(Unreadable(
        "parameters, a result or an error of the server is not an object with each member once",
    ))?;
    Ok(object.whole().to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::mcp::message::tests::any_json;

    #[test]
    fn messages_are_told_apart_and_stay_as_they_were_written() {
        let told = |text: &str| read(text).unwrap().remove(0);
        assert_eq!(
            told(
                r#"{"jsonrpc":"2.0","method":"notifications\/progress","params":{ "progressToken": 7,"progress":1.0 }}"#
            ),
            Told::Notification {
                method: "notifications/progress".to_owned(),
                params: Some(r#"{ "progressToken": 7,"progress":1.0 }"#.to_owned())
            }
        );
        assert_eq!(
            told(r#"{"id":"s-1","method":"ping","params":null}"#),
            Told::Request { id: "\"s-1\"".to_owned(), method: "ping".to_owned(), params: None }
        );
        assert_eq!(
            told(r#" {"id":3,"result":{"content":[ ]},"error":null} "#),
            Told::Result { id: "3".to_owned(), result: r#"{"content":[ ]}"#.to_owned() }
        );
        assert_eq!(
            told(r#"{"id":null,"error":{"code":-32700,"message":""}}"#),
            Told::Error { id: None, error: r#"{"code":-32700,"message":""}"#.to_owned() }
        );
        let batch = read(r#"[{"id":1,"result":{}},{"method":"a"}]"#).unwrap();
        assert!(matches!(&batch[..], [Told::Result { .. }, Told::Notification { .. }]));
        assert!(read("[]").unwrap().is_empty());
    }

    #[test]
    fn only_progress_has_a_token() {
        let token = |text: &str| read(text).unwrap()[0].progress_token().map(str::to_owned);
        let progress = r#"{"method":"notifications/progress","params":{"progressToken":"a"}}"#;
        assert_eq!(token(progress).as_deref(), Some("\"a\""));
        assert_eq!(token(&progress.replace("progress\"", "message\"")), None);
        assert_eq!(
            token(r#"{"id":1,"method":"notifications/progress","params":{"progressToken":"a"}}"#),
            None
        );
    }

    #[test]
    fn what_is_no_clear_message_is_unreadable() {
        let deep = format!("{{\"id\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        for text in [
            "",
            "null",
            "{",
            "{}",
            "[1]",
            "[[]]",
            "\u{feff}{\"id\":1,\"result\":{}}",
            r#"{"id":1,"result":NaN}"#,
            r#"{"id":1,"result":[]}"#,
            r#"{"id":1,"result":"x"}"#,
            r#"{"id":[],"result":{}}"#,
            r#"{"id":true,"method":"a"}"#,
            r#"{"result":{}}"#,
            r#"{"id":null,"result":{}}"#,
            r#"{"id":1,"result":{},"error":{}}"#,
            r#"{"id":1,"result":{},"result":{}}"#,
            r#"{"id":1,"Result":{}}"#,
            r#"{"id":1,"result":{"isError":true,"isError":false}}"#,
            r#"{"id":1,"method":"a","result":{}}"#,
            r#"{"id":1,"method":7}"#,
            r#"{"method":"a","params":[]}"#,
            r#"{"method":"\ud800"}"#,
            &deep,
        ] {
            assert!(read(text).is_err(), "{text:.80}");
        }
    }

    fn agrees(text: &str) -> Result<(), TestCaseError> {
        let Ok(told) = read(text) else { return Ok(()) };
        // A tree reads a few texts not at all: too deep, numbers too large, half of a pair of surrogates.
        let Ok(value) = serde_json::from_str::<Value>(text) else { return Ok(()) };
        let values = value.as_array().cloned().unwrap_or_else(|| vec![value]);
        prop_assert_eq!(told.len(), values.len());
        let json = |raw: &str| serde_json::from_str::<Value>(raw).ok();
        for (told, value) in told.iter().zip(&values) {
            let some = |key: &str| value.get(key).filter(|value| !value.is_null()).cloned();
            let (id, outcome, expected) = match told {
                Told::Notification { method, params } | Told::Request { method, params, .. } => {
                    prop_assert_eq!(Some(&**method), value["method"].as_str());
                    let id = if let Told::Request { id, .. } = told { json(id) } else { None };
                    (id, params.as_deref().and_then(json), some("params"))
                }
                Told::Result { id, result } => (json(id), json(result), some("result")),
                Told::Error { id, error } => (id.as_deref().and_then(json), json(error), some("error")),
            };
            prop_assert_eq!((id, outcome), (some("id"), expected));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn serde_json_agrees(value in any_json()) {
            agrees(&value.to_string())?;
            agrees(&json!([{"id": 1, "result": value.clone()}, {"method": "a", "params": value.clone()}]).to_string())?;
            agrees(&json!({"id": "a", "error": value}).to_string())?;
        }

        #[test]
        fn any_text_is_read_or_not(text in ".{0,200}", inner in "[\\[\\]{}\",:a-z0-9\\\\ ]{0,60}") {
            agrees(&text)?;
            agrees(&format!("{{\"id\":1,\"result\":{inner}}}"))?;
        }
    }
}
