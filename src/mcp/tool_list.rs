//! Lists of tools on their way to a caller, narrowed to what the caller may use.
//!
//! Decides which bytes of a message name tools that may not be seen. Changes nothing else of it: what stays, stays
//! byte for byte and in its order. Where two parsers could find different tools in a message, it refuses.

use std::{borrow::Cow, fmt, marker::PhantomData, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

use super::{
    Unreadable,
    object::{Text, object, reads_object},
};

/// Room for the marks that are added to a list.
const ADDED: usize = 32;

/// The message with only those tools that are allowed, by name and definition, and with a mark that no shared cache may keep it. None where
/// it is to go on as it is: mostly because it is no list of tools.
pub fn narrow(message: &str, allows: &dyn Fn(&str, &str) -> bool) -> Result<Option<String>, Unreadable> {
    let lists = match lists(message) {
        Ok(lists) => lists,
        Err(error) if error.is_data() => {
            return Err(Unreadable("the list of tools may be read differently by other parsers"));
        }
        Err(_) if may_name_tools(message) => {
            return Err(Unreadable("what may be a list of tools is not JSON"));
        }
        Err(_) => return Ok(None),
    };
    let mut edits = Edits { message, edits: Vec::new() };
    for list in &lists {
        edits.cut_denied(&list.tools, allows)?;
        edits.make_private(list);
    }
    Ok(edits.apply())
}

/// Whether there might be tools in what is no JSON for us, but is for another parser.
fn may_name_tools(text: &str) -> bool {
    // NUL: as UTF-16 and UTF-32 look, which some clients detect.
    let is_spelled = |window: &[u8]| window.eq_ignore_ascii_case(b"tool");
    text.contains(['\0']) || text.contains("\\u") || text.as_bytes().windows(4).any(is_spelled)
}

/// A result that has `tools`.
struct List<'a> {
    tools: Vec<&'a RawValue>,
    cache_scope: Option<&'a RawValue>,
    /// The value of a member that only results of modern revisions have.
    modern: Option<&'a RawValue>,
}

/// All lists of tools in a message or a batch.
fn lists(message: &str) -> Result<Vec<List<'_>>, serde_json::Error> {
    let is_batch = message.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('[');
    let messages: Vec<IfObject<Message<'_>>> =
        if is_batch { serde_json::from_str(message)? } else { vec![serde_json::from_str(message)?] };
    Ok(messages.into_iter().filter_map(|message| message.0?.result.list).collect())
}

#[derive(Default)]
struct Message<'a> {
    result: Outcome<'a>,
}

#[derive(Default)]
struct Outcome<'a> {
    list: Option<List<'a>>,
}

struct Tool<'a> {
    name: Cow<'a, str>,
}

reads_object!(Message, read_message);
reads_object!(Outcome, read_outcome);
reads_object!(Tool, read_tool);

fn read_message<'de, A: MapAccess<'de>>(map: A) -> Result<Message<'de>, A::Error> {
    let mut message = Message::default();
    object::<IgnoredAny, _>(map, &["result"], |map, _| {
        message.result = map.next_value::<IfObject<Outcome<'de>>>()?.0.unwrap_or_default();
        Ok(())
    })?;
    Ok(message)
}

fn read_outcome<'de, A: MapAccess<'de>>(map: A) -> Result<Outcome<'de>, A::Error> {
    let (mut tools, mut cache_scope, mut modern) = (None, None, None);
    object::<IgnoredAny, _>(map, &["tools", "cacheScope", "resultType", "ttlMs"], |map, at| {
        match at {
            // `null` is an empty list for some servers.
            0 => tools = Some(map.next_value::<Option<Vec<&'de RawValue>>>()?.unwrap_or_default()),
            1 => cache_scope = Some(map.next_value()?),
            _ => modern = Some(map.next_value()?),
        }
        Ok(())
    })?;
    Ok(Outcome { list: tools.map(|tools| List { tools, cache_scope, modern }) })
}

fn read_tool<'de, A: MapAccess<'de>>(map: A) -> Result<Tool<'de>, A::Error> {
    let mut name = None;
    object::<IgnoredAny, _>(map, &["name"], |map, _| {
        name = Some(map.next_value::<Text<'de>>()?.0);
        Ok(())
    })?;
    name.map(|name| Tool { name }).ok_or_else(|| serde::de::Error::missing_field("name"))
}

/// What is to stand in a message instead of some of its bytes.
struct Edits<'a> {
    message: &'a str,
    edits: Vec<(Range<usize>, &'static str)>,
}

impl<'a> Edits<'a> {
    /// Cuts out the tools that are not allowed, each with the separator before it, or those before the first that
    /// stays with the one behind.
    fn cut_denied(
        &mut self,
        tools: &[&'a RawValue],
        allows: &dyn Fn(&str, &str) -> bool,
    ) -> Result<(), Unreadable> {
        let Some(begin) = tools.first().map(|tool| self.place(tool).start) else { return Ok(()) };
        let (mut end, mut has_kept) = (begin, false);
        for tool in tools {
            let place = self.place(tool);
            match (allows(&name(tool)?, tool.get()), has_kept) {
                (true, false) => {
                    has_kept = true;
                    self.replace(begin..place.start, "");
                }
                (false, true) => self.replace(end..place.end, ""),
                (true, true) | (false, false) => {}
            }
            end = place.end;
        }
        if !has_kept {
            self.replace(begin..end, "");
        }
        Ok(())
    }

    /// What was made for one caller must not be another's (MCP 2026-07-28, Caching). Older results have no such mark.
    fn make_private(&mut self, list: &List<'a>) {
        match (list.cache_scope, list.modern) {
            (Some(scope), _) if scope.get() == r#""private""# => {}
            (Some(scope), _) => self.replace(self.place(scope), r#""private""#),
            (None, Some(modern)) => {
                let end = self.place(modern).end;
                self.replace(end..end, r#","cacheScope":"private""#);
            }
            (None, None) => {}
        }
    }

    fn replace(&mut self, place: Range<usize>, with: &'static str) {
        if !place.is_empty() || !with.is_empty() {
            self.edits.push((place, with));
        }
    }

    /// Where a part of the message stands in it.
    fn place(&self, part: &RawValue) -> Range<usize> {
        let start = part.get().as_ptr().addr() - self.message.as_ptr().addr();
        start..start + part.get().len()
    }

    fn apply(mut self) -> Option<String> {
        if self.edits.is_empty() {
            return None;
        }
        self.edits.sort_unstable_by_key(|(place, _)| place.start);
        let mut edited = String::with_capacity(self.message.len() + ADDED);
        let mut done = 0;
        for (place, with) in self.edits {
            edited.push_str(&self.message[done..place.start]);
            edited.push_str(with);
            done = place.end;
        }
        edited.push_str(&self.message[done..]);
        Some(edited)
    }
}

fn name(tool: &RawValue) -> Result<Cow<'_, str>, Unreadable> {
    let tool: Result<Tool<'_>, _> = serde_json::from_str(tool.get());
    tool.map(|tool| tool.name)
        .map_err(|_| Unreadable("a listed tool has no name, or one that other parsers may read differently"))
}

/// A `T` where there is an object; any other value is passed over.
struct IfObject<T>(Option<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for IfObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any(PhantomData))
    }
}

struct Any<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Any<T> {
    type Value = IfObject<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<IfObject<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|object| IfObject(Some(object)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<IfObject<T>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(IfObject(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<IfObject<T>, E> {
        Ok(IfObject(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<IfObject<T>, E> {
        Ok(IfObject(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<IfObject<T>, E> {
        Ok(IfObject(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<IfObject<T>, E> {
        Ok(IfObject(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<IfObject<T>, E> {
        Ok(IfObject(None))
    }

    fn visit_unit<E>(self) -> Result<IfObject<T>, E> {
        Ok(IfObject(None))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Whatever begins with `no` is denied.
    fn allows(name: &str, _: &str) -> bool {
        !name.starts_with("no")
    }

    #[track_caller]
    fn check(message: &str, expected: &str) {
        assert_eq!(narrow(message, &allows).unwrap().as_deref(), Some(expected), "{message}");
    }

    #[track_caller]
    fn passes(message: &str) {
        assert_eq!(narrow(message, &allows), Ok(None), "{message}");
    }

    #[track_caller]
    fn refused(message: &str) {
        assert!(narrow(message, &allows).is_err(), "{message}");
    }

    /// A list of these tools.
    fn list(tools: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{tools}],"nextCursor":"n"}}}}"#)
    }

    #[test]
    fn denied_tools_go_and_all_else_stays_as_it_was_written() {
        let [a, b, no] = [
            r#"{ "name":"a","x":1.0e0 }"#,
            r#"{"inputSchema":{"name":["no"]},"name":"b"}"#,
            r#"{"name":"no"}"#,
        ];
        for (tools, expected) in [
            (no.to_string(), String::new()),
            (format!(" {no} , {no} "), "  ".to_owned()),
            (format!("{a},{no}"), a.to_string()),
            (format!("{no},{a}"), a.to_string()),
            (format!("\n  {no},\n  {a},\n  {b}\n"), format!("\n  {a},\n  {b}\n")),
            (format!("\n  {a},\n  {no},\n  {no},\n  {b}\n"), format!("\n  {a},\n  {b}\n")),
            (format!("\n  {a} ,\n  {b} , {no}\n"), format!("\n  {a} ,\n  {b}\n")),
            (format!("{no}, {a}, {no},  {b}, {no}"), format!("{a},  {b}")),
            (
                r#"{"name":"\u006eo"},{"n\u0061me":"no"},{"name":"yes"}"#.to_owned(),
                r#"{"name":"yes"}"#.to_owned(),
            ),
        ] {
            check(&list(&tools), &list(&expected));
        }
        passes(&list(&format!(" {a} ,{b}")));
        passes(&list(""));
        passes(r#"{"result":{"tools":null}}"#);
    }

    #[test]
    fn a_tool_is_judged_by_its_definition_as_it_was_written() {
        let good = r#"{ "name":"a", "x":1.0 }"#;
        let only_good = |_: &str, raw: &str| raw == good;
        let narrowed = |tools: &str| narrow(&list(tools), &only_good).unwrap();
        assert_eq!(narrowed(good), None);
        // Of two with one name only what is good stays, wherever it stands.
        for twin in [r#"{"name":"a","x":1.0}"#, r#"{"name":"\u0061"}"#] {
            assert_eq!(narrowed(&format!("{twin},{good}")).as_deref(), Some(&*list(good)));
            assert_eq!(narrowed(&format!("{good},{twin}")).as_deref(), Some(&*list(good)));
        }
    }

    #[test]
    fn a_modern_list_is_marked_as_private() {
        let tools = r#""tools":[{"name":"a"}]"#;
        let of = |members: &str| format!(r#"{{"result":{{{members}}}}}"#);
        let private = r#""cacheScope":"private""#;
        for (members, expected) in [
            (format!(r#"{tools},"cacheScope":"public""#), format!("{tools},{private}")),
            (format!(r#""cacheScope" : "public" ,{tools}"#), format!(r#""cacheScope" : "private" ,{tools}"#)),
            (format!(r#""cacheScope":null,{tools}"#), format!("{private},{tools}")),
            (format!(r#"{tools},"ttlMs":300 "#), format!(r#"{tools},"ttlMs":300,{private} "#)),
            (
                format!(r#""resultType":"complete",{tools}"#),
                format!(r#""resultType":"complete",{private},{tools}"#),
            ),
            (r#""ttlMs":0,"tools":[]"#.to_owned(), format!(r#""ttlMs":0,{private},"tools":[]"#)),
        ] {
            check(&of(&members), &of(&expected));
        }
        passes(&of(&format!("{tools},{private}")));
        passes(&of(tools));
        // What is no list is not marked.
        passes(&of(r#""resultType":"complete","content":[],"cacheScope":"public""#));
    }

    #[test]
    fn every_message_of_a_batch_is_narrowed() {
        let (ping, before, after) =
            (r#"{"id":2,"result":{}}"#, list(r#"{"name":"no"},{"name":"a"}"#), list(r#"{"name":"a"}"#));
        check(&format!(" [{before}, {ping} ,{before}]"), &format!(" [{after}, {ping} ,{after}]"));
        passes(&format!("[{ping},1,[],null,{after}]"));
        passes("[]");
    }

    #[test]
    fn what_is_no_list_of_tools_passes() {
        for message in [
            "",
            "hello",
            "1e999",
            "null",
            "\"tools\"",
            r#"{"result":null}"#,
            r#"{"result":"tools"}"#,
            r#"{"result":["tools",{"tools":1}]}"#,
            r#"{"result":{"capabilities":{"tools":{"listChanged":true}}}}"#,
            r#"{"result":{"content":[{"type":"text","text":"\ud83d \"tools\":["}],"structuredContent":{"tools":{"Tools":1}}}}"#,
            r#"{"method":"sampling/createMessage","params":{"tools":[{"name":"no"}]}}"#,
            r#"{"id":1,"error":{"code":-32602,"data":{"tools":1e999}}}"#,
            r#"{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"result":{"content":[],"content":[]}}"#,
            &format!(r#"{{"result":{{"content":{}{}}}}}"#, "[".repeat(10_000), "]".repeat(10_000)),
        ] {
            passes(message);
        }
    }

    #[test]
    fn what_another_parser_could_read_as_a_list_with_denied_tools_is_refused() {
        let no = r#"[{"name":"no"}]"#;
        for message in [
            format!(r#"{{"result":{{"tools":[],"tools":{no}}}}}"#),
            format!(r#"{{"result":{{"tools":[],"\u0074ools":{no}}}}}"#),
            format!(r#"{{"result":{{"tools":[],"Tools":{no}}}}}"#),
            format!("{{\"result\":{{\"tool\u{17f}\":{no}}}}}"),
            format!(r#"{{"result":{{"TOOLS":{no}}}}}"#),
            format!(r#"{{"result":{{}},"result":{{"tools":{no}}}}}"#),
            format!(r#"{{"Result":{{"tools":{no}}}}}"#),
            r#"{"result":{"tools":[],"cacheScope":"private","cacheScope":"public"}}"#.to_owned(),
            r#"{"result":{"tools":[],"cachescope":"public","ttlMs":1}}"#.to_owned(),
            r#"{"result":{"tools":{"no":{}}}}"#.to_owned(),
            r#"{"result":{"tools":"no"}}"#.to_owned(),
            list(r#""no""#),
            list("null"),
            list("[]"),
            list("{}"),
            list(r#"{"name":null}"#),
            list(r#"{"name":["no"]}"#),
            list(r#"{"name":"a","name":"no"}"#),
            list(r#"{"name":"a","NAME":"no"}"#),
            list(r#"{"name":"a","n\u0061me":"no"}"#),
            list(r#"{"name":"no\ud800"}"#),
            list(r#"{"name":"no"},"#),
            list(r#"{"name":"a","inputSchema":{"default":NaN}},{"name":"no"}"#),
            format!("{}{}", list(""), list(r#"{"name":"no"}"#)),
            format!("\u{feff}{}", list(r#"{"name":"no"}"#)),
            format!("{}//", list(r#"{"name":"no"}"#)),
            format!("{{'result':{{TOOLS:{no}}}}}"),
            list(r#"{"name":"no"}"#).replace('"', "'").replace("tools", "\\u0074ools"),
            list(r#"{"name":"no"}"#).bytes().flat_map(|byte| [char::from(byte), '\0']).collect(),
        ] {
            refused(&message);
            refused(&format!("[{message}]"));
        }
    }

    #[test]
    fn a_refusal_says_why_without_a_word_of_the_answer() {
        let error = narrow(&list(r#"{"name":17}"#), &allows).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a listed tool has no name, or one that other parsers may read differently"
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "(no|yes|public|private|[\"\\\\\u{1}-\u{20}]|.{0,4})".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            let key = "(result|tools|name|cacheScope|ttlMs|resultType|Name|id|x)";
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map(key, inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn any_list() -> impl Strategy<Value = Value> {
        let tool = (".{0,3}", any::<bool>(), any_json()).prop_map(|(name, is_denied, schema)| {
            json!({"inputSchema": schema, "name": if is_denied { format!("no{name}") } else { format!("a{name}") }})
        });
        let marks = prop_oneof![
            Just(json!({})),
            Just(json!({"ttlMs": 1})),
            Just(json!({"cacheScope": "public"})),
            Just(json!({"cacheScope": "private", "resultType": "complete"})),
        ];
        (proptest::collection::vec(tool, 0..6), marks, any_json()).prop_map(|(tools, mut result, extra)| {
            result["tools"] = tools.into();
            result["x"] = extra;
            json!({"jsonrpc": "2.0", "id": 1, "result": result})
        })
    }

    /// The same, done to a tree.
    fn narrowed(mut message: Value) -> Value {
        let result = &mut message["result"];
        result["tools"].as_array_mut().unwrap().retain(|tool| allows(tool["name"].as_str().unwrap(), ""));
        if ["ttlMs", "resultType", "cacheScope"].iter().any(|key| result.get(key).is_some()) {
            result["cacheScope"] = "private".into();
        }
        message
    }

    /// Names of denied tools that a parser finds that takes the last of equal keys.
    fn leaks(text: &str) -> bool {
        let denied = |message: &Value| {
            let tools =
                message.pointer("/result/tools").and_then(Value::as_array).cloned().unwrap_or_default();
            tools
                .iter()
                .any(|tool| tool.get("name").and_then(Value::as_str).is_some_and(|name| !allows(name, "")))
        };
        serde_json::from_str::<Value>(text).is_ok_and(|message| {
            denied(&message) || message.as_array().is_some_and(|batch| batch.iter().any(denied))
        })
    }

    proptest! {
        #[test]
        fn a_list_is_narrowed_as_a_tree_would_be(message in any_list(), is_pretty in any::<bool>()) {
            let text = if is_pretty { format!("{message:#}") } else { message.to_string() };
            let output = narrow(&text, &allows).unwrap().unwrap_or_else(|| text.clone());
            prop_assert_eq!(serde_json::from_str::<Value>(&output).unwrap(), narrowed(message));
            // Nothing is left to do.
            prop_assert_eq!(narrow(&output, &allows), Ok(None));
        }

        #[test]
        fn no_message_leaks_a_denied_tool(message in any_json(), list in any_list(), at in any::<prop::sample::Index>(), piece in "(\"tools\":|[\\[\\]{},:\"]|no)?") {
            for value in [message.clone(), json!({"result": message}), json!([{"result": {"tools": message}}]), list] {
                let mut text = value.to_string();
                let mut at = at.index(text.len());
                while !text.is_char_boundary(at) { at -= 1; }
                text.insert_str(at, &piece);
                match narrow(&text, &allows) {
                    Ok(None) => prop_assert!(!leaks(&text), "{}", text),
                    Ok(Some(output)) => prop_assert!(!leaks(&output), "{} -> {}", text, output),
                    Err(_) => {}
                }
            }
        }

        #[test]
        fn any_text_is_judged(text in ".{0,60}") {
            prop_assert_eq!(narrow(&text, &allows).map(|_| ()).is_ok() || may_name_tools(&text) , true);
        }
    }
}
