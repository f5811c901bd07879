//! The meta tools: find, describe and call, so that a model needs three tools instead of hundreds.
//!
//! Decides what they take and what they answer, of the caller's own tools alone: one that the caller may not use is
//! neither found, described nor called, and is refused in the words for one that does not exist. Never calls a tool:
//! `resolve_call` says which one is meant, and `gateway` calls it like any other.

mod description;

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Answer, Asked, Visible, listings};
use crate::{
    catalog::{
        search::{self, Part},
        tools::{Listed, Tool, ToolIndex, exposed::META_TOOLS},
    },
    mcp::members::{self, Members},
    names::{ServerId, ToolName},
    refusal::{Code, Refusal},
    upstream::arguments::{Peek, Whole},
};
pub use description::{definitions, document};

/// How many tools a search shows when it is not told.
const DEFAULT_LIMIT: usize = 10;
/// How many tools a search shows at most.
const MAX_LIMIT: usize = 100;
/// How many tools are described at once.
const MAX_DESCRIBED: usize = 100;
/// How much of a description a search shows, in bytes; describing shows all of it.
const MAX_SUMMARY: usize = 600;

/// A tool of the gateway itself, about the caller's tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaTool {
    /// Finds tools by words.
    Search,
    /// Says what tools take.
    Describe,
    /// Runs a tool.
    Call,
}

impl MetaTool {
    /// All of them, in the order of their use.
    pub const ALL: [MetaTool; 3] = [MetaTool::Search, MetaTool::Describe, MetaTool::Call];

    /// Its name on MCP, and its operation id.
    pub const fn name(self) -> &'static str {
        let [search, describe, call] = META_TOOLS;
        match self {
            MetaTool::Search => search,
            MetaTool::Describe => describe,
            MetaTool::Call => call,
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.name() == name)
    }
}

/// `POST /meta/search_tools`.
pub(super) fn search(asked: &Asked<'_>) -> Result<Answer, Refusal> {
    answer(search_tools(&unwrapped(asked.body)?, &listings::visible_servers(asked), &asked.snapshot.tools)?)
}

/// `POST /meta/describe_tools`.
pub(super) fn describe(asked: &Asked<'_>) -> Result<Answer, Refusal> {
    answer(describe_tools(&unwrapped(asked.body)?, &listings::visible_servers(asked), &asked.snapshot.tools)?)
}

/// `POST /meta/call_tool` as a page, which cannot call anything.
pub(super) fn call(asked: &Asked<'_>) -> Result<Answer, Refusal> {
    resolve_call(asked.body, &listings::visible_servers(asked), &asked.snapshot.tools)?;
    Err(Refusal::internal("a tool is called by the gateway and not by a page"))
}

/// `GET /meta/stats`.
pub(super) fn stats(asked: &Asked<'_>) -> Result<Answer, Refusal> {
    #[derive(Serialize)]
    struct Line<'a> {
        id: &'a ServerId,
        name: &'a str,
        enabled: bool,
        tool_count: usize,
    }
    #[derive(Serialize)]
    struct Stats<'a> {
        total_servers: usize,
        total_tools: usize,
        servers: Vec<Line<'a>>,
    }
    let visible = listings::visible_servers(asked);
    let servers = visible.iter().map(|visible| {
        let Visible { server, .. } = visible;
        let tool_count = if server.is_enabled { visible.tools_in(&asked.snapshot.tools).count() } else { 0 };
        Line { id: &server.id, name: &server.name, enabled: server.is_enabled, tool_count }
    });
    let servers: Vec<_> = servers.collect();
    let total_tools = servers.iter().map(|line| line.tool_count).sum();
    Answer::json(&Stats { total_servers: servers.len(), total_tools, servers })
}

fn answer(json: Vec<u8>) -> Result<Answer, Refusal> {
    Ok(Answer::new(200, "application/json", json.into()).with("cache-control", "no-store".into()))
}

/// The arguments in a body: all of it, or what is wrapped in `arguments`, as with any other tool.
fn unwrapped(body: &Bytes) -> Result<Bytes, Refusal> {
    let mut peek = Peek::new(true);
    peek.feed(body)?;
    Ok(match peek.finish()? {
        Whole::Empty => Bytes::from_static(b"{}"),
        Whole::Plain => body.clone(),
        Whole::Wrapped(inner) => body.slice(inner),
    })
}

/// A tool as a list of search results has it.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    server: &'a ServerId,
    tool: &'a ToolName,
    description: Cow<'a, str>,
    endpoint: String,
    score: f64,
}

impl<'a> Line<'a> {
    fn new(server: &'a ServerId, listed: &Listed<'a>, score: f64) -> Self {
        let Listed { tool, operation_id: name, .. } = *listed;
        let endpoint = format!("/{server}/{}", tool.name);
        Self { name, server, tool: &tool.name, description: shortened(&tool.description), endpoint, score }
    }
}

fn shortened(description: &str) -> Cow<'_, str> {
    if description.len() <= MAX_SUMMARY {
        return description.into();
    }
    format!("{}…", &description[..description.floor_char_boundary(MAX_SUMMARY)]).into()
}

/// What `search_tools` answers: the tools found among those of `visible`, as JSON.
pub fn search_tools(arguments: &[u8], visible: &[Visible], tools: &ToolIndex) -> Result<Vec<u8>, Refusal> {
    #[derive(Deserialize)]
    struct Wish<'a> {
        #[serde(borrow)]
        query: Cow<'a, str>,
        limit: Option<u64>,
    }
    #[derive(Serialize)]
    struct Results<'a> {
        tools: Vec<Line<'a>>,
        total: usize,
    }
    let wish: Wish<'_> =
        read(arguments, "`search_tools` takes `query`, a text, and `limit`, a number from 1 to 100")?;
    let limit = wish.limit.map_or(DEFAULT_LIMIT, |limit| usize::try_from(limit).unwrap_or(MAX_LIMIT));
    let searched = visible.iter().filter_map(|visible| Some((&visible.server.id, part(visible, tools)?)));
    let (servers, parts): (Vec<_>, Vec<_>) = searched.unzip();
    let (found, total) = search::search(&wish.query, &parts, limit.min(MAX_LIMIT));
    let lines = found.iter().filter_map(|found| {
        let server = servers[found.part];
        Some(Line::new(server, &tools.nth(server.as_str(), found.place)?, found.score))
    });
    written(&Results { tools: lines.collect(), total })
}

/// What `describe_tools` answers: what these tools of `visible` take, as JSON.
pub fn describe_tools(arguments: &[u8], visible: &[Visible], tools: &ToolIndex) -> Result<Vec<u8>, Refusal> {
    #[derive(Deserialize)]
    struct Wish<'a> {
        #[serde(borrow)]
        tools: Option<Vec<Cow<'a, str>>>,
        #[serde(borrow)]
        name: Option<Cow<'a, str>>,
    }
    const TAKES: &str = "`describe_tools` takes `tools`, a list of at most 100 names, or one `name`";
    let wish: Wish<'_> = read(arguments, TAKES)?;
    let names = match (wish.tools, wish.name) {
        (Some(names), None) if names.len() <= MAX_DESCRIBED => names,
        // Asked for alone, it is there or it is not.
        (None, Some(name)) => vec![find(&name, visible, tools).map(|_| name)?],
        (Some(_), _) | (None, None) => return Err(Refusal::new(Code::BadArguments, TAKES)),
    };
    description::described(&names, visible, tools)
}

/// A call that a caller asked for through `call_tool`.
#[derive(Debug, Clone)]
pub struct Called {
    /// The server whose tool it is.
    pub server: ServerId,
    /// The tool.
    pub tool: Arc<Tool>,
    /// Its arguments, a JSON object, byte for byte as they stand in the body.
    pub arguments: Bytes,
}

/// Which tool of `visible` the arguments of `call_tool` mean, and with which arguments.
pub fn resolve_call(body: &Bytes, visible: &[Visible], tools: &ToolIndex) -> Result<Called, Refusal> {
    #[derive(Deserialize)]
    struct Wish<'a> {
        #[serde(borrow)]
        name: Cow<'a, str>,
        #[serde(borrow)]
        arguments: Option<&'a RawValue>,
    }
    const TAKES: &str = "`call_tool` takes `name`, a tool's name, and `arguments`, an object";
    // Never unwrapped: it has an argument of that name itself.
    let mut peek = Peek::new(false);
    peek.feed(body)?;
    if peek.finish()? == Whole::Empty {
        return Err(Refusal::new(Code::BadArguments, TAKES));
    }
    let wish: Wish<'_> = read(body, TAKES)?;
    let (server, tool) = find(&wish.name, visible, tools)?;
    let arguments = match wish.arguments.map(RawValue::get) {
        None | Some("null") => Bytes::from_static(b"{}"),
        Some(object) if object.starts_with('{') => body.slice_ref(object.as_bytes()),
        Some(_) => return Err(Refusal::new(Code::BadArguments, TAKES)),
    };
    Ok(Called { server: server.clone(), tool: tool.clone(), arguments })
}

/// The name that the arguments of `call_tool` have, whatever else is wrong with them.
pub fn wished(body: &[u8]) -> Option<Cow<'_, str>> {
    members::text(Members::read(std::str::from_utf8(body).ok()?)?.get("name")?)
}

/// Reads arguments; a member of ours that stands twice, or as something else, is refused.
fn read<'a, T: Deserialize<'a>>(arguments: &'a [u8], takes: &'static str) -> Result<T, Refusal> {
    serde_json::from_slice(arguments).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Refusal::new(Code::BadArguments, takes),
        _ => Refusal::new(Code::BodyNotJson, "the body is not JSON"),
    })
}

fn written(value: &impl Serialize) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(value).map_err(Refusal::internal)
}

/// The caller's tools of one server as they are searched, unless it is switched off.
fn part<'t>(visible: &Visible, tools: &'t ToolIndex) -> Option<Part<'t>> {
    let id = visible.server.id.as_str();
    let words = tools.words(id).filter(|_| visible.server.is_enabled)?;
    let only = (!visible.tools.is_everything()).then(|| {
        let list = tools.get(id).into_iter().flat_map(|list| list.iter());
        list.map(|tool| visible.tools.allows(tool.name.as_str())).collect()
    });
    Some(Part { words, only })
}

/// The caller's tool of this name. What is no tool and what is not the caller's get the same words.
fn find<'a>(
    name: &str,
    visible: &'a [Visible],
    tools: &'a ToolIndex,
) -> Result<(&'a ServerId, &'a Arc<Tool>), Refusal> {
    let unknown = || {
        let sentence = "you have no tool of this name; `search_tools` finds those you have";
        Refusal::new(Code::UnknownTool, sentence)
    };
    let (server, tool) = tools.exposed(name).ok_or_else(unknown)?;
    let holder = visible.iter().find(|visible| visible.server.id == *server).ok_or_else(unknown)?;
    if !holder.server.is_enabled || !holder.tools.allows(tool.name.as_str()) {
        return Err(unknown());
    }
    Ok((server, tool))
}

#[cfg(test)]
mod tests;
