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

use super::object::{Text, object, reads_object};

/// Room for the marks that are added to a list.
const ADDED: usize = 32;

/// An answer that might show what it must not, so nobody gets it. Says why, for the record alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable(pub(super) &'static str);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Unreadable {}

/// The message with only those tools that are allowed, and with a mark that no shared cache may keep it. None where
/// it is to go on as it is: mostly because it is no list of tools.
pub fn narrow(message: &str, allows: &dyn Fn(&str) -> bool) -> Result<Option<String>, Unreadable> {
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
        allows: &dyn Fn(&str) -> bool,
    ) -> Result<(), Unreadable> {
        let Some(begin) = tools.first().map(|tool| self.place(tool).start) else { return Ok(()) };
        let (mut end, mut has_kept) = (begin, false);
        for tool in tools {
            let place = self.place(tool);
            match (allows(&name(tool)?), has_kept) {
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
