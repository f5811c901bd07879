//! The pages that list servers and tools: only the caller's own, each as DESIGN's table shows it.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use super::{Answer, Asked, Visible};
use crate::{
    catalog::server::{Dialect, Server, Tier},
    names::{ServerId, ToolName},
    refusal::Refusal,
};

/// The servers this caller may use, ordered by id.
pub(super) fn visible_servers(asked: &Asked<'_>) -> Vec<Visible> {
    Visible::all(asked.access, asked.caller, asked.known, asked.snapshot)
}

#[derive(Serialize)]
struct ServerLine<'a> {
    id: &'a ServerId,
    name: &'a str,
    tier: Tier,
    description: &'a str,
    enabled: bool,
    endpoint: String,
    tools_endpoint: String,
}

impl<'a> From<&'a Arc<Server>> for ServerLine<'a> {
    fn from(server: &'a Arc<Server>) -> Self {
        Self {
            id: &server.id,
            name: &server.name,
            tier: server.tier,
            description: &server.description,
            enabled: server.is_enabled,
            endpoint: format!("/{}", server.id),
            tools_endpoint: format!("/{}/openapi.json", server.id),
        }
    }
}

/// `GET /` and `GET /servers`.
pub(super) fn servers(asked: &Asked<'_>) -> Result<Answer, Refusal> {
    #[derive(Serialize)]
    struct Usage {
        list_tools: &'static str,
        call_tool: &'static str,
        specification: &'static str,
        mcp: &'static str,
    }
    #[derive(Serialize)]
    struct Servers<'a> {
        total_servers: usize,
        servers: Vec<ServerLine<'a>>,
        by_tier: BTreeMap<Tier, Vec<&'a ServerId>>,
        usage: Usage,
    }
    let visible = visible_servers(asked);
    let mut by_tier: BTreeMap<Tier, Vec<&ServerId>> = BTreeMap::new();
    for Visible { server, .. } in &visible {
        by_tier.entry(server.tier).or_default().push(&server.id);
    }
    Answer::json(&Servers {
        total_servers: visible.len(),
        servers: visible.iter().map(|visible| ServerLine::from(&visible.server)).collect(),
        by_tier,
        usage: Usage {
            list_tools: "GET /{server}",
            call_tool: "POST /{server}/{tool} with the arguments as a JSON object",
            specification: "GET /openapi.json, or GET /{server}/openapi.json for one server",
            mcp: "/{server}/mcp, for MCP clients, where the server speaks MCP itself",
        },
    })
}

/// `GET /{server}`.
pub(super) fn server(asked: &Asked<'_>) -> Result<Answer, Refusal> {
    #[derive(Serialize)]
    struct Tool<'a> {
        name: &'a ToolName,
        description: &'a str,
        endpoint: String,
    }
    #[derive(Serialize)]
    struct ServerPage<'a> {
        server: &'a ServerId,
        name: &'a str,
        tier: Tier,
        description: &'a str,
        enabled: bool,
        tool_count: usize,
        tools: Vec<Tool<'a>>,
        usage: String,
    }
    let permitted = permitted(asked)?;
    let server = &permitted.server;
    let tools: Vec<Tool<'_>> = permitted
        .tools_in(&asked.snapshot.tools)
        .filter(|_| server.is_enabled)
        .map(|tool| Tool {
            name: &tool.name,
            description: &tool.description,
            endpoint: format!("/{}/{}", server.id, tool.name),
        })
        .collect();
    Answer::json(&ServerPage {
        server: &server.id,
        name: &server.name,
        tier: server.tier,
        description: &server.description,
        enabled: server.is_enabled,
        tool_count: tools.len(),
        tools,
        usage: match server.dialect {
            Dialect::OpenApi => format!("POST /{}/{{tool}} with the arguments as a JSON object", server.id),
            Dialect::Mcp | Dialect::McpSse => {
                let id = &server.id;
                format!(
                    "POST /{id}/{{tool}} with the arguments as a JSON object, or /{id}/mcp, for MCP clients"
                )
            }
        },
    })
}

/// `GET /tools`.
pub(super) fn tools(asked: &Asked<'_>) -> Result<Answer, Refusal> {
    #[derive(Serialize)]
    struct Tool<'a> {
        name: String,
        server: &'a ServerId,
        tool: &'a ToolName,
        description: &'a str,
        endpoint: String,
    }
    #[derive(Serialize)]
    struct Tools<'a> {
        total_tools: usize,
        tools: Vec<Tool<'a>>,
    }
    let visible = visible_servers(asked);
    let mut tools = Vec::new();
    for visible in visible.iter().filter(|visible| visible.server.is_enabled) {
        let server = &visible.server;
        tools.extend(visible.tools_in(&asked.snapshot.tools).map(|tool| Tool {
            name: format!("{}_{}", server.id, tool.name),
            server: &server.id,
            tool: &tool.name,
            description: &tool.description,
            endpoint: format!("/{}/{}", server.id, tool.name),
        }));
    }
    Answer::json(&Tools { total_tools: tools.len(), tools })
}

/// `GET /tenants`: the caller's servers under their inherited name.
pub(super) fn tenants(asked: &Asked<'_>) -> Result<Answer, Refusal> {
    #[derive(Serialize)]
    struct Tenant<'a> {
        id: &'a ServerId,
        tenant_id: &'a ServerId,
        name: &'a str,
        enabled: bool,
    }
    #[derive(Serialize)]
    struct Tenants<'a> {
        total_tenants: usize,
        tenants: Vec<Tenant<'a>>,
    }
    let visible = visible_servers(asked);
    Answer::json(&Tenants {
        total_tenants: visible.len(),
        tenants: visible
            .iter()
            .map(|Visible { server, .. }| Tenant {
                id: &server.id,
                tenant_id: &server.id,
                name: &server.name,
                enabled: server.is_enabled,
            })
            .collect(),
    })
}

/// The server in the path, proven to be the caller's, and the tools of it that are.
pub(super) fn permitted(asked: &Asked<'_>) -> Result<Visible, Refusal> {
    let permit = asked.permit.ok_or_else(|| Refusal::internal("a server's page without a permit"))?;
    Ok(Visible { server: permit.server().clone(), tools: permit.tools().clone() })
}
