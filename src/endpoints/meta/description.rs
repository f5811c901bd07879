//! What is said of tools to those who search instead of reading lists: of the caller's, and of the meta tools themselves.
//!
//! Decides the words and schemas. Never decides whose tools they are: `find` is asked for each.

use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::{MetaTool, find, written};
use crate::{
    catalog::tools::{Tool, ToolIndex},
    endpoints::{
        Visible,
        openapi::{Encoding, Rendered},
    },
    names::{ServerId, ToolName},
    refusal::Refusal,
};

/// A tool, described whole.
#[derive(Serialize)]
struct Described<'a> {
    name: &'a str,
    server: &'a ServerId,
    tool: &'a ToolName,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    description: &'a str,
    endpoint: String,
    input_schema: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_schema: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Box<RawValue>>,
}

/// What of a tool's definition is shown as it stands.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parts {
    input_schema: Box<RawValue>,
    output_schema: Option<Box<RawValue>>,
    annotations: Option<Box<RawValue>>,
}

impl<'a> Described<'a> {
    fn new(name: &'a str, server: &'a ServerId, tool: &'a Arc<Tool>) -> Result<Self, Refusal> {
        let mut definition = Vec::with_capacity(tool.definition.size());
        tool.definition.write(name, &mut definition);
        let Parts { input_schema, output_schema, annotations } = serde_json::from_slice(&definition)
            .map_err(|_| Refusal::internal("a definition that is not one"))?;
        Ok(Self {
            name,
            server,
            tool: &tool.name,
            title: tool.summary.as_deref(),
            description: &tool.description,
            endpoint: format!("/{server}/{}", tool.name),
            input_schema,
            output_schema,
            annotations,
        })
    }
}

/// Those of these tools that are the caller's, described, and the names of the others.
pub(super) fn described(
    names: &[Cow<'_, str>],
    visible: &[Visible],
    tools: &ToolIndex,
) -> Result<Vec<u8>, Refusal> {
    #[derive(Serialize)]
    struct Descriptions<'a> {
        tools: Vec<Described<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        unknown: Vec<&'a str>,
    }
    let mut answer = Descriptions { tools: Vec::new(), unknown: Vec::new() };
    for (place, name) in names.iter().enumerate() {
        // Asked for twice, it is described once.
        if names[..place].contains(name) {
            continue;
        }
        match find(name, visible, tools) {
            Ok((server, tool)) => answer.tools.push(Described::new(name, server, tool)?),
            Err(_) => answer.unknown.push(name),
        }
    }
    written(&answer)
}

impl MetaTool {
    /// Its path on REST.
    pub const fn path(self) -> &'static str {
        match self {
            MetaTool::Search => "/meta/search_tools",
            MetaTool::Describe => "/meta/describe_tools",
            MetaTool::Call => "/meta/call_tool",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            MetaTool::Search => "Search tools",
            MetaTool::Describe => "Describe tools",
            MetaTool::Call => "Call a tool",
        }
    }

    const fn description(self) -> &'static str {
        match self {
            MetaTool::Search => {
                "Finds tools by keywords in their names, parameters and descriptions. Search first, then describe what \
                 was found, then call it."
            }
            MetaTool::Describe => {
                "Says what tools do and which arguments they take, as a JSON schema. Describe a tool before its first \
                 call."
            }
            MetaTool::Call => {
                "Runs a tool by the name that the search gave it, with the arguments that its description asks for, and \
                 answers what the tool answers."
            }
        }
    }

    fn input_schema(self) -> Value {
        match self {
            MetaTool::Search => json!({
                "type": "object",
                "properties": {
                    "query": {"type": "string", "description": "Words that say what the tool should do."},
                    "limit": {
                        "type": "integer", "minimum": 1, "maximum": super::MAX_LIMIT, "default": super::DEFAULT_LIMIT,
                        "description": "How many tools to show at most.",
                    },
                },
                "required": ["query"],
            }),
            MetaTool::Describe => json!({
                "type": "object",
                "properties": {
                    "tools": {
                        "type": "array", "items": {"type": "string"}, "maxItems": super::MAX_DESCRIBED,
                        "description": "Names of tools, as the search gave them.",
                    },
                },
                "required": ["tools"],
            }),
            MetaTool::Call => json!({
                "type": "object",
                "properties": {
                    "name": {"type": "string", "description": "The tool's name, as the search gave it."},
                    "arguments": {
                        "type": "object", "additionalProperties": true,
                        "description": "The tool's own arguments.",
                    },
                },
                "required": ["name"],
            }),
        }
    }

    fn definition(self) -> Value {
        let mut definition = json!({
            "name": self.name(),
            "title": self.title(),
            "description": self.description(),
            "inputSchema": self.input_schema(),
        });
        match self {
            MetaTool::Search | MetaTool::Describe => {
                definition["annotations"] =
                    json!({"readOnlyHint": true, "idempotentHint": true, "openWorldHint": false});
            }
            // It does what the tool does.
            MetaTool::Call => {}
        }
        definition
    }

    fn operation(self) -> Value {
        let content = json!({"application/json": {"schema": self.input_schema()}});
        json!({"post": {
            "operationId": self.name(),
            "tags": ["meta"],
            "summary": self.title(),
            "description": self.description(),
            "requestBody": {"required": true, "content": content},
            "responses": {"200": {
                "description": "Successful Response",
                "content": {"application/json": {"schema": {}}},
            }},
        }})
    }
}

/// The meta tools as `tools/list` has them, each raw JSON text.
pub fn definitions() -> &'static [String; 3] {
    static DEFINITIONS: LazyLock<[String; 3]> =
        LazyLock::new(|| MetaTool::ALL.map(|tool| tool.definition().to_string()));
    &DEFINITIONS
}

/// The OpenAPI document of the meta tools alone: the same for everybody.
pub fn document(encoding: Encoding) -> Arc<Rendered> {
    static DOCUMENTS: LazyLock<[Arc<Rendered>; 3]> = LazyLock::new(|| {
        let paths = MetaTool::ALL.map(|tool| (tool.path().to_owned(), tool.operation()));
        let document = json!({
            "openapi": "3.1.0",
            "info": {"title": "Portcullis", "version": env!("CARGO_PKG_VERSION")},
            "paths": serde_json::Map::from_iter(paths),
            "components": {"schemas": {}},
        });
        let document = Bytes::from(document.to_string());
        [Encoding::Identity, Encoding::Gzip, Encoding::Brotli]
            .map(|encoding| Arc::new(Rendered::new(&document, encoding)))
    });
    let [plain, gzip, brotli] = &*DOCUMENTS;
    match encoding {
        Encoding::Identity => plain.clone(),
        Encoding::Gzip => gzip.clone(),
        Encoding::Brotli => brotli.clone(),
    }
}
