//! What a tool gave, in REST and in MCP.
//!
//! Decides which body of REST a result of a tool is, and which result a body. Never decides who called, or whether a
//! server is to be blamed for a failure: `upstream` knows a broken peer from a tool that said no.

use super::{
    Unreadable,
    members::{Members, items, text, trimmed},
    message::Checked,
    splice::quoted,
};

mod failure;
mod media;

use media::Media;

/// What REST is told of a tool's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwrapped {
    /// Whether the tool says that it failed; then the body is its text.
    pub is_error: bool,
    /// The media type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

const NO_TEXT: Unreadable = Unreadable("the content of the tool's result is not as it must be");

/// The body of REST for a result of `tools/call`: `structuredContent` as it was written, or else the content: nothing
/// is `[]`, one part stands alone, several are an array.
pub fn unwrap(result: &str) -> Result<Unwrapped, Unreadable> {
    let members = Members::read(result)
        .ok_or(Unreadable("the result of the tool is not an object with each member once"))?;
    if members.get("isError") == Some("true") {
        let body = said(&members).into_bytes();
        return Ok(Unwrapped { is_error: true, content_type: "text/plain; charset=utf-8", body });
    }
    let parts = parts(&members)?;
    let body = match members.get("structuredContent") {
        // Some servers write `null` where there is none.
        Some(structured) if structured != "null" || parts.is_empty() => structured.to_owned(),
        Some(_) | None => of_parts(&parts)?,
    };
    Ok(Unwrapped { is_error: false, content_type: "application/json", body: body.into_bytes() })
}

fn parts<'a>(members: &Members<'a>) -> Result<Vec<&'a str>, Unreadable> {
    match members.get("content") {
        None | Some("null") => Ok(Vec::new()),
        Some(content) => items(content).ok_or(NO_TEXT),
    }
}

fn of_parts(parts: &[&str]) -> Result<String, Unreadable> {
    if let [only] = parts {
        let mut body = String::with_capacity(only.len());
        of_part(only, &mut body)?;
        return Ok(body);
    }
    let mut body = String::with_capacity(2 + parts.iter().map(|part| part.len()).sum::<usize>());
    body.push('[');
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            body.push(',');
        }
        of_part(part, &mut body)?;
    }
    body.push(']');
    Ok(body)
}

/// One part of content: text that is JSON as that JSON, other text as a string, images and audio as data URLs,
/// resources and what is unknown as they were written.
fn of_part(part: &str, body: &mut String) -> Result<(), Unreadable> {
    let members = Members::read(part).ok_or(NO_TEXT)?;
    let kind = members.get("type").and_then(text).unwrap_or_default();
    match &*kind {
        "text" => {
            let raw = members.get("text").ok_or(NO_TEXT)?;
            let text = text(raw).ok_or(NO_TEXT)?;
            body.push_str(json(&text).unwrap_or(raw));
        }
        "image" | "audio" => {
            let data = members.get("data").and_then(inside).ok_or(NO_TEXT)?;
            let mime = members.get("mimeType").map_or(Some("application/octet-stream"), inside);
            // Put together of what stands in strings of JSON, and so a string of JSON.
            body.extend(["\"data:", mime.ok_or(NO_TEXT)?, ";base64,", data, "\""]);
        }
        _ => body.push_str(part),
    }
    Ok(())
}

/// What stands between the quotes of a JSON string.
fn inside(raw: &str) -> Option<&str> {
    raw.strip_prefix('"')?.strip_suffix('"')
}

/// The JSON that a text is, without the white space around it. Not what other parsers might stumble over: such a text
/// stays text.
fn json(text: &str) -> Option<&str> {
    let text = trimmed(text);
    // Most text is told from JSON by how it begins.
    let may_be = text.starts_with(|first: char| first.is_ascii_digit() || "{[\"-tfn".contains(first));
    (may_be && serde_json::from_str::<Checked>(text).is_ok()).then_some(text)
}

/// All text of a result, a line for each part: what a tool says of its failure.
pub fn text_of(result: &str) -> String {
    Members::read(result).map(|members| said(&members)).unwrap_or_default()
}

fn said(members: &Members<'_>) -> String {
    let parts = parts(members).unwrap_or_default();
    let texts = parts.iter().filter_map(|part| {
        let part = Members::read(part)?;
        let is_text = part.get("type").and_then(text).is_some_and(|kind| kind == "text");
        is_text.then(|| text(part.get("text")?).map(std::borrow::Cow::into_owned))?
    });
    let said = texts.collect::<Vec<_>>().join("\n");
    match members.get("structuredContent") {
        Some(structured) if said.is_empty() && structured != "null" => structured.to_owned(),
        Some(_) | None => said,
    }
}

/// A result of `tools/call` for an answer of REST. JSON is a text and `structuredContent`, which in modern revisions
/// may be anything, and in legacy ones only an object; what says nothing but text is not said twice.
pub fn wrap(status: u16, content_type: Option<&str>, body: &[u8], is_modern: bool) -> String {
    if !(200..300).contains(&status) {
        let text = failure::words(status, body);
        return format!(r#"{{"content":[{}],"isError":true}}"#, text_part(&text));
    }
    if body.is_empty() {
        return r#"{"content":[]}"#.to_owned();
    }
    let essence = content_type.and_then(|value| value.split(';').next()).map(str::trim);
    let essence = essence.unwrap_or_default().to_ascii_lowercase();
    let is_json = essence.is_empty() || essence == "application/json" || essence.ends_with("+json");
    let (readable, is_text) = (std::str::from_utf8(body), essence.starts_with("text/"));
    if let Some(json) = readable.ok().filter(|_| is_json).and_then(json) {
        return of_json(json, is_modern);
    }
    let part = match readable {
        Ok(readable) if is_text || is_json => text_part(readable),
        Err(_) if is_text => text_part(&String::from_utf8_lossy(body)),
        Ok(_) | Err(_) => media::part(&essence, body),
    };
    format!(r#"{{"content":[{part}]}}"#)
}

fn of_json(json: &str, is_modern: bool) -> String {
    let (mut parts, mut structured) = (Vec::new(), None);
    match items(json) {
        // As several parts of content look in REST.
        Some(items) if items.len() > 1 && items.iter().any(|item| Media::read(item).is_some()) => {
            parts.extend(items.into_iter().map(to_part));
        }
        Some(_) => {
            parts.push(to_part(json));
            structured = Some(json).filter(|_| is_modern);
        }
        None => {
            parts.push(to_part(json));
            structured =
                Some(json).filter(|json| json.starts_with('{') || is_modern && !json.starts_with('"'));
        }
    }
    let content = parts.join(",");
    match structured {
        Some(structured) => format!(r#"{{"content":[{content}],"structuredContent":{structured}}}"#),
        None => format!(r#"{{"content":[{content}]}}"#),
    }
}

/// The part of content that REST shows as this JSON.
fn to_part(item: &str) -> String {
    if let Some(media) = Media::read(item) {
        return media.to_part();
    }
    match text(item) {
        // A string that reads as JSON keeps its quotes, so that it stays a string.
        Some(plain) if json(&plain).is_none() => text_part(&plain),
        Some(_) | None => text_part(item),
    }
}

fn text_part(text: &str) -> String {
    format!(r#"{{"type":"text","text":{}}}"#, quoted(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::mcp::message::tests::any_json;

    #[track_caller]
    fn check(result: &str, expected: &str) {
        let unwrapped = unwrap(result).unwrap();
        assert_eq!(String::from_utf8(unwrapped.body).unwrap(), expected, "{result}");
        assert!(!unwrapped.is_error);
    }

    /// A result of these parts of content.
    fn of(parts: &str) -> String {
        format!(r#"{{"content":[{parts}]}}"#)
    }

    #[test]
    fn structured_content_is_the_body_as_it_was_written() {
        check(
            r#"{"content":[{"type":"text","text":"x"}],"structuredContent":{ "n":1.0 }}"#,
            r#"{ "n":1.0 }"#,
        );
        check(r#"{"structuredContent":[1],"content":[]}"#, "[1]");
        check(r#"{"structuredContent":null,"content":[{"type":"text","text":"x"}]}"#, r#""x""#);
        check(r#"{"structuredContent":null}"#, "null");
    }

    #[test]
    fn content_is_the_body_where_nothing_is_structured() {
        let text = r#"{"type":"text","text":"a\u00e9\n"}"#;
        check(&of(""), "[]");
        check("{}", "[]");
        check(&of(text), r#""a\u00e9\n""#);
        check(&of(&format!("{text} , {text}")), r#"["a\u00e9\n","a\u00e9\n"]"#);
        for (text, body) in [
            ("42", "42"),
            (" { \"a\": 1.0 }\n", "{ \"a\": 1.0 }"),
            ("null", "null"),
            ("\"42\"", "\"42\""),
            ("NaN", "\"NaN\""),
            ("1e999", "\"1e999\""),
            ("01", "\"01\""),
            ("", "\"\""),
            ("{\"a\":\"\\ud800\"}", "\"{\\\"a\\\":\\\"\\\\ud800\\\"}\""),
        ] {
            check(&of(&text_part(text)), body);
        }
        let deep = "[".repeat(1000) + &"]".repeat(1000);
        check(&of(&text_part(&deep)), &quoted(&deep));
    }

    #[test]
    fn images_and_audio_are_data_urls_and_resources_stay() {
        check(
            &of(r#"{"type":"image","data":"AA==","mimeType":"image/png"}"#),
            r#""data:image/png;base64,AA==""#,
        );
        check(
            &of(r#"{"mimeType":"audio\/wav","type":"audio","data":"A\/=="},{"type":"text","text":"x"}"#),
            r#"["data:audio\/wav;base64,A\/==","x"]"#,
        );
        check(&of(r#"{"type":"image","data":""}"#), r#""data:application/octet-stream;base64,""#);
        for part in [
            r#"{"type":"resource_link","uri":"a:b", "name":"n"}"#,
            r#"{"type":"resource","resource":{"uri":"a:b","text":"42"}}"#,
            r#"{"type":"new","text":"42"}"#,
            r#"{"text":"42"}"#,
        ] {
            check(&of(part), part);
        }
    }

    #[test]
    fn a_tool_that_failed_says_so_in_its_own_words() {
        let result = r#"{"isError":true,"content":[{"type":"text","text":"no"},{"type":"image","data":"","mimeType":"a"},{"type":"text","text":"\"way\""}],"structuredContent":{}}"#;
        let unwrapped = unwrap(result).unwrap();
        assert!(unwrapped.is_error && unwrapped.content_type.starts_with("text/plain"));
        assert_eq!(unwrapped.body, b"no\n\"way\"");
        assert_eq!(text_of(result), "no\n\"way\"");
        assert_eq!(text_of(r#"{"isError":true,"structuredContent":{"a":1}}"#), r#"{"a":1}"#);
        assert_eq!((text_of("{}"), text_of("no JSON")), (String::new(), String::new()));
    }

    #[test]
    fn what_is_no_result_is_unreadable() {
        for result in [
            "",
            "[]",
            "{\"content\":1}",
            "{\"content\":[],\"content\":[]}",
            "{\"content\":[1]}",
            r#"{"content":[{"type":"text"}]}"#,
            r#"{"content":[{"type":"text","text":1}]}"#,
            r#"{"content":[{"type":"text","text":"\ud800"}]}"#,
            r#"{"content":[{"type":"text","text":"a","text":"b"}]}"#,
            r#"{"content":[{"type":"image","data":1,"mimeType":"a"}]}"#,
            r#"{"content":[{"type":"image","data":"","mimeType":1}]}"#,
            r#"{"content":NaN}"#,
        ] {
            assert!(unwrap(result).is_err(), "{result}");
        }
    }

    #[track_caller]
    fn wrapped(body: &str, is_modern: bool, expected: &str) {
        assert_eq!(wrap(200, Some("application/json"), body.as_bytes(), is_modern), expected, "{body}");
    }

    #[test]
    fn json_is_text_and_structured() {
        let text = |text: &str| text_part(text);
        let object = " { \"n\": 1.0 }\n";
        let expected =
            format!(r#"{{"content":[{}],"structuredContent":{{ "n": 1.0 }}}}"#, text(object.trim()));
        wrapped(object, false, &expected);
        wrapped(object, true, &expected);
        wrapped("[1]", true, &format!(r#"{{"content":[{}],"structuredContent":[1]}}"#, text("[1]")));
        wrapped("[1]", false, &of(&text("[1]")));
        wrapped("4", true, &format!(r#"{{"content":[{}],"structuredContent":4}}"#, text("4")));
        wrapped("4", false, &of(&text("4")));
        for is_modern in [false, true] {
            wrapped("\"a\\n\"", is_modern, &of(&text("a\n")));
            wrapped("\"42\"", is_modern, &of(&text("\"42\"")));
            let image = r#"{"type":"image","data":"AA==","mimeType":"image/png"}"#;
            wrapped("\"data:image/png;base64,AA==\"", is_modern, &of(image));
            let parts = format!("{image},{}", text("x"));
            wrapped("[\"data:image/png;base64,AA==\",\"x\"]", is_modern, &of(&parts));
            // No base64, and so nothing that clients would take as an image.
            wrapped("\"data:image/png;base64,A\"", is_modern, &of(&text("data:image/png;base64,A")));
        }
    }

    #[test]
    fn what_is_no_json_is_text_or_bytes() {
        let check = |content_type: Option<&str>, body: &[u8], part: &str| {
            assert_eq!(wrap(200, content_type, body, true), of(part), "{content_type:?}");
        };
        check(None, b"plain", &text_part("plain"));
        check(Some("text/html; charset=utf-8"), b"<b>", &text_part("<b>"));
        check(Some("text/plain"), b"a\xff", &text_part("a\u{fffd}"));
        check(Some("application/json"), b"{\"a\":", &text_part("{\"a\":"));
        check(Some("Image/PNG"), b"\0", r#"{"type":"image","data":"AA==","mimeType":"image/png"}"#);
        check(
            Some("application/pdf"),
            b"\0",
            r#"{"type":"resource","resource":{"uri":"urn:portcullis:answer","mimeType":"application/pdf","blob":"AA=="}}"#,
        );
        check(
            None,
            b"\xff",
            r#"{"type":"resource","resource":{"uri":"urn:portcullis:answer","mimeType":"application/octet-stream","blob":"/w=="}}"#,
        );
        assert_eq!(wrap(204, None, b"", true), r#"{"content":[]}"#);
    }

    #[test]
    fn a_failure_says_what_the_tool_said() {
        for (status, body, text) in [
            (
                500,
                r#"{"detail":{"message":"Unexpected error","error":"500: {'message': 'the tool says no'}"}}"#,
                "the tool says no",
            ),
            (
                500,
                r#"{"detail":{"message":"Unexpected error","error":"500: {'message': \"it's \\x41\\n\\u00e9 \\\"no\\\"\"}"}}"#,
                "it's A\né \"no\"",
            ),
            (
                500,
                r#"{"detail":{"message":"Unexpected error","error":"500: {'message': 'open"}}"#,
                "500: {'message': 'open",
            ),
            (500, r#"{"detail":{"message":"Unexpected error","error":"boom"}}"#, "boom"),
            (500, r#"{"detail":{"message":"Connection closed"}}"#, "Connection closed"),
            (
                422,
                r#"{"detail":[{"type":"missing","loc":["body","a",0],"msg":"Field required","input":{}},{"loc":["body"],"msg":"bad"}]}"#,
                "a.0: Field required\nbad",
            ),
            (404, r#"{"detail":"Not Found"}"#, "Not Found"),
            (422, r#"{"detail":[1]}"#, "[1]"),
            (400, r#"{"error":{"message":"no"}}"#, "no"),
            (400, r#"{"message":"no"}"#, "no"),
            (400, r#"{"x":1}"#, r#"{"x":1}"#),
            (500, "Internal Server Error\n", "Internal Server Error"),
            (503, " ", "the tool failed with status 503"),
        ] {
            let result = wrap(status, Some("application/json"), body.as_bytes(), true);
            assert_eq!(text_of(&result), text, "{body}");
            assert!(unwrap(&result).unwrap().is_error);
        }
    }

    /// A part of content, mostly as servers make them.
    fn any_part() -> impl Strategy<Value = Value> {
        prop_oneof![
            ".{0,12}".prop_map(|text| json!({"type": "text", "text": text})),
            any_json().prop_map(|value| json!({"type": "text", "text": value.to_string()})),
            "[A-Za-z0-9+/=]{0,9}"
                .prop_map(|data| json!({"type": "image", "data": data, "mimeType": "image/png"})),
            "data:(image|text)/x;base64,[A-Z=]{0,5}".prop_map(|text| json!({"type": "text", "text": text})),
            any_json().prop_map(|value| json!({"type": "resource", "resource": value})),
        ]
    }

    fn rest(result: &str) -> Result<(Vec<u8>, Value), TestCaseError> {
        let body = unwrap(result).map_err(|error| TestCaseError::fail(error.to_string()))?.body;
        let read = serde_json::from_slice(&body).map_err(|error| TestCaseError::fail(error.to_string()))?;
        Ok((body, read))
    }

    proptest! {
        #[test]
        fn any_result_of_a_tool_survives_rest(
            parts in proptest::collection::vec(any_part(), 0..4), structured in proptest::option::of(any_json()), is_modern in any::<bool>(),
        ) {
            let mut result = json!({"content": parts});
            if let Some(structured) = structured {
                result["structuredContent"] = structured;
            }
            let (body, read) = rest(&result.to_string())?;
            let again = wrap(200, Some("application/json"), &body, is_modern);
            let _: Value = serde_json::from_str(&again).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(rest(&again)?.1, read);
        }

        #[test]
        fn structured_content_survives_rest_byte_for_byte(value in any_json(), is_pretty in any::<bool>()) {
            let value = if value.is_object() { value } else { json!({"a": value}) };
            let written = if is_pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let written = written.unwrap();
            let body = unwrap(&format!(r#"{{"content":[],"structuredContent":{written}}}"#)).unwrap().body;
            for is_modern in [false, true] {
                let again = wrap(200, Some("application/json"), &body, is_modern);
                prop_assert_eq!(Members::read(&again).unwrap().get("structuredContent"), Some(&*written));
            }
        }

        #[test]
        fn any_words_of_a_failure_survive_rest(words in ".{0,60}") {
            prop_assume!(!words.trim().is_empty());
            let body = json!({"detail": words, "code": "tool_error", "request_id": "r"}).to_string();
            prop_assert_eq!(text_of(&wrap(422, Some("application/json"), body.as_bytes(), true)), words);
        }

        #[test]
        fn any_bytes_are_wrapped(status in 100_u16..600, content_type in proptest::option::of("[a-z/+;]{0,12}"), body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let result = wrap(status, content_type.as_deref(), &body, true);
            prop_assert!(unwrap(&result).is_ok(), "{}", result);
        }

        #[test]
        fn any_text_is_unwrapped_or_not(text in ".{0,80}", inner in "[\\[\\]{}\",:a-z0-9\\\\ ]{0,40}") {
            let _ = (unwrap(&text), text_of(&text));
            let _ = unwrap(&format!(r#"{{"content":[{{"type":"text","text":{inner}}}]}}"#));
        }
    }
}
