//! What a request of native MCP asks, as far as the gateway looks, and whether it may.
//!
//! Decides by the whole body and its headers together: revision, tools called, lists asked for. Never
//! changes them, but for one thing: what is asked of a legacy server in place of a denied call.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::HeaderMap;

use super::legacy_revisions;
use crate::{
    access::{Permit, ToolScope},
    catalog::{
        pins::{self, PinIndex},
        server::{Dialect, Server},
    },
    mcp::{
        self, headers,
        message::{self, Body, Message},
    },
    names::ToolName,
    record::{Call, arguments::Arguments},
    refusal::{Code, Refusal},
};

/// No server has a tool of this name: it holds what names may not.
const NO_TOOL: &str = "<no such tool>";
/// Methods that read (MCP 2026-07-28, Server Features): nothing is another thing afterwards.
const READING: [&str; 8] = [
    "completion/complete",
    "ping",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/templates/list",
    "tools/list",
];

/// What a request asked, as far as the gateway looks.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The method of the one message, one of a closed set of words.
    pub method: Option<&'static str>,
    /// Whether it opens or resumes a stream (GET), which may be silent and ends with its client.
    pub is_get: bool,
    /// Whether it speaks a modern revision, without sessions.
    pub is_modern: bool,
    /// Whether it asks what the server speaks (`server/discover`).
    pub is_probe: bool,
    /// Whether its answer may hold a list of tools.
    pub may_list: bool,
    /// The one tool it calls. A batch, whatever it calls, ends with any change of the caller's tools.
    pub tool: Option<String>,
    /// How many answers are due to it; none where nobody waits for the end: of a stream that stands.
    pub awaited: Option<usize>,
    /// The tools that a batch calls, each with the number of its calls.
    pub batch: Vec<(String, u32)>,
    /// Whether it only asks what there is, which does no harm twice.
    pub is_reading: bool,
    /// Whether it asks to be told of changes as long as it stands (`subscriptions/listen`).
    pub is_listening: bool,
    /// The id to answer to, as it stands in the body.
    pub id: Option<String>,
    /// The revision it names.
    pub revision: Option<String>,
}

/// What a whole body asks, and whether it may.
pub struct Reading {
    /// The id to answer to.
    pub id: Option<String>,
    /// What the audit keeps of it.
    pub heard: Heard,
    /// What it asks, or why it may not.
    pub asked: Result<Asked, Refusal>,
}

/// What the audit keeps of a message, whether it may be asked or not.
#[derive(Debug, Default)]
pub struct Heard {
    /// The method that it asks for; none of a batch.
    pub method: Option<String>,
    /// The calls of tools in it.
    pub calls: Vec<Call>,
}

impl Heard {
    fn of(body: &Body<'_>, server: &Server) -> Self {
        let method = match body {
            Body::One(message) => message.method().map(str::to_owned),
            Body::Batch(_) => None,
        };
        let calls = body.messages().iter().filter_map(|message| call_of(message, server)).collect();
        Self { method, calls }
    }
}

impl Asked {
    /// The tool it calls, as the client named it: whether there is one is for the server to say, who is asked.
    pub fn tool_name(&self) -> Option<ToolName> {
        self.tool.as_deref().and_then(|tool| ToolName::parse(tool).ok())
    }

    /// What a whole body asks; refuses what the permit or the server does not allow, and tools that are withheld.
    pub fn read(
        body: &[u8],
        headers: &HeaderMap,
        permit: &Permit,
        pins: &PinIndex,
        is_audited: bool,
    ) -> Reading {
        match message::peek(body) {
            Ok(body) => Reading {
                id: body.id().map(str::to_owned),
                heard: if is_audited { Heard::of(&body, permit.server()) } else { Heard::default() },
                asked: Self::judge(&body, headers, (permit, pins)),
            },
            Err(refusal) => Reading { id: None, heard: Heard::default(), asked: Err(refusal) },
        }
    }

    fn judge(
        body: &Body<'_>,
        headers: &HeaderMap,
        (permit, pins): (&Permit, &PinIndex),
    ) -> Result<Self, Refusal> {
        headers::refuse_disagreement(headers, body)?;
        let messages = body.messages();
        let (method, tool) = match body {
            Body::One(message) => (message.method(), message.tool().map(str::to_owned)),
            Body::Batch(_) => (None, None),
        };
        let revision = headers::version(headers).or_else(|| body.version()).map(str::to_owned);
        let asked = Self {
            method: method.map(mcp::traced::method),
            is_get: false,
            is_modern: revision.as_deref().is_some_and(mcp::is_modern),
            is_probe: method == Some("server/discover"),
            is_reading: method.is_some_and(|method| READING.contains(&method)),
            may_list: method.is_none() || method == Some("tools/list"),
            awaited: Some(messages.iter().filter(|message| message.is_request()).count())
                .filter(|count| *count > 0 && method != Some("subscriptions/listen")),
            is_listening: method == Some("subscriptions/listen"),
            id: body.id().map(str::to_owned),
            revision,
            tool,
            batch: match body {
                Body::One(_) => Vec::new(),
                Body::Batch(_) => counted(messages.iter().filter_map(|message| message.tool())),
            },
        };
        if asked.is_modern || asked.is_probe {
            refuse_modern(permit, asked.revision.clone())?;
        }
        for tool in messages.iter().filter_map(|message| message.tool()) {
            if !allows(permit.tools(), tool) {
                return Err(refuse_tool(tool, matches!(body, Body::Batch(_))));
            }
            if !pins.may_call(permit.server(), tool) {
                return Err(refuse_tool(tool, matches!(body, Body::Batch(_))).because(pins::WITHHELD));
            }
        }
        Ok(asked)
    }

    /// What can be said before the body is known.
    pub fn of_headers(headers: &HeaderMap) -> Self {
        let revision = headers::version(headers);
        Self {
            is_modern: revision.is_some_and(mcp::is_modern),
            revision: revision.map(str::to_owned),
            ..Self::default()
        }
    }
}

/// A call as the audit keeps it.
fn call_of(message: &Message<'_>, server: &Server) -> Option<Call> {
    let tool = message.tool()?.to_owned();
    let arguments = message.arguments().unwrap_or("{}").as_bytes();
    Some(Call { tool, arguments: Some(Arguments::of(arguments, server.audits_arguments)) })
}

/// Each name, with how often it comes.
fn counted<'n>(names: impl Iterator<Item = &'n str>) -> Vec<(String, u32)> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts.into_iter().map(|(name, count): (&str, u32)| (name.to_owned(), count)).collect()
}

/// A server that is known to speak no modern revision says so here, without being asked.
fn refuse_modern(permit: &Permit, requested: Option<String>) -> Result<(), Refusal> {
    match legacy_revisions(permit.server()) {
        Some(supported) => Err(Refusal::unsupported_version(supported, requested)),
        None => Ok(()),
    }
}

/// What goes to a legacy HTTP+SSE server in place of a call that is denied: its client looks for answers in the
/// stream alone, which only the server can write to. So it is asked for a tool that it certainly lacks.
pub fn stand_in(server: &Server, refusal: &Refusal, id: Option<&str>) -> Option<Bytes> {
    let is_needed = server.dialect == Dialect::McpSse && refusal.code() == Code::UnknownTool;
    let id = id.filter(|_| is_needed)?;
    let call = format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{NO_TOOL}","arguments":{{}}}}}}"#
    );
    Some(call.into())
}

/// Whether a tool may be called. Where any rule narrows them, a name that is none may not: a server might take
/// another one out of it (`delete\0`, ` delete`).
fn allows(tools: &ToolScope, tool: &str) -> bool {
    tools.is_everything() || tools.allows(tool) && ToolName::parse(tool).is_ok()
}

/// The sentence every server has for a tool it lacks. In a batch no single id can be answered.
fn refuse_tool(tool: &str, is_batch: bool) -> Refusal {
    let shown: String = tool.chars().take(128).collect();
    let sentence = format!("Unknown tool: {shown}");
    if is_batch {
        Refusal::new(Code::BadMessage, sentence)
    } else {
        Refusal::new(Code::UnknownTool, sentence)
    }
}
