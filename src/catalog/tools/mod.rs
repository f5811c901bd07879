//! What servers can do: the tools in a server's own document or lists of MCP, and all servers' tools together.
//!
//! Decides what of a document or list is a tool, what it is called and how it is run.
//! Never fetches anything, and never decides who may run a tool: `access` does. Filled in the background
//! by `snapshot`; read by `route`, `upstream` and `endpoints`.

mod definition;
pub mod exposed;
mod hoist;
mod index;
mod listed;
mod query;
mod reading;
mod schemas;
mod source;
mod told;

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use crate::{mcp::param_headers::ParamHeaders, names::ToolName};
pub use definition::{Definition, Hints};
pub use index::{Listed, ToolIndex, words};
pub use schemas::Fragment;
use schemas::References;
pub use source::{Source, in_lines};

/// Most tools one server may have; a document with more is refused.
pub const MAX_TOOLS: usize = 2_000;

/// Something a server can do.
#[derive(Debug, PartialEq)]
pub struct Tool {
    /// Its name in the gateway's paths.
    pub name: ToolName,
    /// How it is run.
    pub run: Run,
    /// Whether its input has a property named `arguments`, so that such a body is never unwrapped.
    pub takes_arguments_key: bool,
    /// What it does, for people and models; may be empty.
    pub description: String,
    /// Its short title in the document or list.
    pub summary: Option<String>,
    /// All that its server says of it.
    pub source: Source,
    /// What MCP clients are told of it.
    pub definition: Definition,
    /// What those of before 2026-07-28 are told, where they would not understand the other.
    legacy_definition: Option<Definition>,
    /// What its server says of its effects.
    pub hints: Hints,
    /// Which arguments travel as `Mcp-Param-*` headers as well.
    pub param_headers: ParamHeaders,
    /// Its input and output, with references into its own server's `ToolList`.
    shape: Shape,
}

/// How a tool is run at its server.
#[derive(Debug, PartialEq)]
pub enum Run {
    /// By a POST to a path of its own: a server of OpenAPI.
    Post(Arc<Post>),
    /// By `tools/call` with its name: a server of MCP.
    Call,
}

/// Where a tool of an OpenAPI server is.
#[derive(Debug, Clone, PartialEq)]
pub struct Post {
    /// Its path at the peer, below the peer's base path, exactly as in the document; begins with `/`.
    pub path: String,
    /// The query parameters that travel to it, by name; where there are none no query does.
    pub query: Vec<String>,
    /// Those of them that are arguments for clients of MCP: all but those that the body has too.
    arguments_in_query: Vec<String>,
}

impl Tool {
    /// What MCP clients of this era are told of it.
    pub fn definition_for(&self, is_modern: bool) -> &Definition {
        self.legacy_definition.as_ref().filter(|_| !is_modern).unwrap_or(&self.definition)
    }

    /// Where the tool is, unless it is called by MCP.
    pub fn post(&self) -> Option<&Arc<Post>> {
        match &self.run {
            Run::Post(post) => Some(post),
            Run::Call => None,
        }
    }
}

/// What goes into a tool and what comes out, as an OpenAPI 3.1 operation says it.
#[derive(Debug, PartialEq)]
pub struct Shape {
    /// Query parameters.
    pub parameters: Vec<Parameter>,
    /// The JSON body; none when the tool declares no body.
    pub request_body: Option<Body>,
    /// The answer with status 200.
    pub response: Answer,
}

/// A query parameter (OpenAPI 3.1, Parameter Object).
#[derive(Debug, PartialEq, Serialize)]
pub struct Parameter {
    name: String,
    #[serde(rename = "in")]
    place: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    style: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explode: Option<bool>,
    schema: Fragment,
}

/// A JSON request body (OpenAPI 3.1, Request Body Object).
#[derive(Debug, PartialEq, Serialize)]
pub struct Body {
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    required: bool,
    content: BTreeMap<String, Media>,
}

/// An answer (OpenAPI 3.1, Response Object).
#[derive(Debug, PartialEq, Serialize)]
pub struct Answer {
    description: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    content: BTreeMap<String, Media>,
}

/// One representation of a body (OpenAPI 3.1, Media Type Object).
#[derive(Debug, PartialEq, Serialize)]
struct Media {
    schema: Fragment,
}

impl Shape {
    /// The same shape with every reference pointing where `references` says.
    fn with_references(&self, references: &mut dyn References) -> Self {
        let parameters = self.parameters.iter().map(|parameter| Parameter {
            name: parameter.name.clone(),
            place: parameter.place,
            description: parameter.description.clone(),
            required: parameter.required,
            style: parameter.style.clone(),
            explode: parameter.explode,
            schema: parameter.schema.with_references(references),
        });
        Self {
            parameters: parameters.collect(),
            request_body: self.request_body.as_ref().map(|body| Body {
                description: body.description.clone(),
                required: body.required,
                content: with_references(&body.content, references),
            }),
            response: Answer {
                description: self.response.description.clone(),
                content: with_references(&self.response.content, references),
            },
        }
    }
}

fn with_references(
    content: &BTreeMap<String, Media>,
    references: &mut dyn References,
) -> BTreeMap<String, Media> {
    content
        .iter()
        .map(|(name, media)| (name.clone(), Media { schema: media.schema.with_references(references) }))
        .collect()
}

/// The tools of one server, as last read; equal lists come from documents that say the same.
#[derive(Debug, Default, PartialEq)]
pub struct ToolList {
    tools: BTreeMap<ToolName, Arc<Tool>>,
    components: BTreeMap<String, Fragment>,
}

/// Something in a document or list that the gateway does not offer, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Method and path, or its name, escaped and shortened so that it is safe in any log.
    pub operation: String,
    /// Why it is not offered.
    pub why: &'static str,
}

impl ToolList {
    /// Reads the results of a server's `tools/list`, page after page, each raw JSON text.
    ///
    /// Fails where the list as a whole is not to be had; a tool that is not to be had is skipped.
    pub fn from_mcp(pages: &[String]) -> anyhow::Result<(ToolList, Vec<Skipped>)> {
        listed::read(pages)
    }

    /// Reads the bytes of a server's `openapi.json` (OpenAPI 3, JSON).
    pub fn parse(document: &[u8]) -> anyhow::Result<(ToolList, Vec<Skipped>)> {
        reading::read(document)
    }

    /// The tool with this name.
    pub fn get(&self, tool: &str) -> Option<&Arc<Tool>> {
        self.tools.get(tool)
    }

    /// All tools, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Tool>> {
        self.tools.values()
    }

    /// The same list with only the tools for which `keep` holds, and the schemas that these refer to.
    pub fn retain(&self, keep: impl Fn(&Tool) -> bool) -> ToolList {
        let mut tools = self.tools.clone();
        tools.retain(|_, tool| keep(tool));
        let referred = index::referred(&self.components, tools.values().map(|tool| &tool.shape));
        let components =
            referred.into_iter().map(|(name, schema)| (name.to_owned(), schema.clone())).collect();
        ToolList { tools, components }
    }

    /// Number of tools.
    pub fn len(&self) -> usize {
        self.tools.len()
    }

    /// Whether there is no tool.
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }
}
