//! What a server is: how it is reached (tier), what is spoken there (dialect), and where.
//!
//! Holds checked values only; `config` makes them. Never dials and never decides access.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

pub use super::{
    care::{Care, Deadlines},
    peer_url::{BadUrl, PeerUrl},
};
use super::{limits::ServerLimits, tools::Tool};
use crate::names::{Secret, ServerId, ToolPattern};

/// How a server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// A vendor's own streamable-HTTP MCP endpoint.
    Http,
    /// Through an mcpo peer that speaks SSE to the vendor.
    Sse,
    /// Through an mcpo peer that runs a process.
    Stdio,
    /// A container or process of ours.
    Local,
}

impl Tier {
    /// All tiers in the order listings show them.
    pub const ALL: [Tier; 4] = [Tier::Http, Tier::Sse, Tier::Stdio, Tier::Local];

    /// The word in configuration and listings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Tier::Http => "http",
            Tier::Sse => "sse",
            Tier::Stdio => "stdio",
            Tier::Local => "local",
        }
    }

    /// What is spoken there when the configuration does not say.
    pub const fn default_dialect(self) -> Dialect {
        match self {
            Tier::Http => Dialect::Mcp,
            Tier::Sse | Tier::Stdio | Tier::Local => Dialect::OpenApi,
        }
    }
}

/// What is spoken at a server's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// One POST a tool, described by an OpenAPI document: mcpo and plain HTTP tool servers.
    OpenApi,
    /// MCP Streamable HTTP.
    Mcp,
    /// MCP over HTTP with SSE, as it was before 2025-03-26: the address is that of the event stream.
    McpSse,
}

impl Dialect {
    /// All dialects.
    pub const ALL: [Dialect; 3] = [Dialect::OpenApi, Dialect::Mcp, Dialect::McpSse];

    /// The word in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Dialect::OpenApi => "openapi",
            Dialect::Mcp => "mcp",
            Dialect::McpSse => "mcp-sse",
        }
    }

    /// Whether MCP is spoken there, so that the server's address is its endpoint and not what lies in front of tools.
    pub const fn is_mcp(self) -> bool {
        match self {
            Dialect::OpenApi => false,
            Dialect::Mcp | Dialect::McpSse => true,
        }
    }
}

/// A released revision of MCP; a later one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProtocolVersion {
    /// HTTP with SSE.
    V2024_11_05,
    /// Streamable HTTP with sessions, and batches.
    V2025_03_26,
    /// Without batches, with the version in a header.
    V2025_06_18,
    /// The last one with sessions.
    V2025_11_25,
    /// Without sessions: each request stands alone.
    V2026_07_28,
}

impl ProtocolVersion {
    /// All revisions, oldest first.
    pub const ALL: [ProtocolVersion; 5] = [
        ProtocolVersion::V2024_11_05,
        ProtocolVersion::V2025_03_26,
        ProtocolVersion::V2025_06_18,
        ProtocolVersion::V2025_11_25,
        ProtocolVersion::V2026_07_28,
    ];

    /// The word in configuration and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            ProtocolVersion::V2024_11_05 => "2024-11-05",
            ProtocolVersion::V2025_03_26 => "2025-03-26",
            ProtocolVersion::V2025_06_18 => "2025-06-18",
            ProtocolVersion::V2025_11_25 => "2025-11-25",
            ProtocolVersion::V2026_07_28 => "2026-07-28",
        }
    }

    /// Whether requests stand alone, without a handshake and a session before them.
    pub fn is_modern(self) -> bool {
        self >= ProtocolVersion::V2026_07_28
    }
}

macro_rules! prints_as_word {
    ($($type:ty),*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    )*};
}
prints_as_word!(Tier, Dialect, ProtocolVersion);

/// The header the gateway adds so that the server believes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialHeader {
    /// Header name, lower case.
    pub name: http::HeaderName,
    /// Complete value, scheme included: `Bearer …`.
    pub value: Secret<http::HeaderValue>,
}

/// How a key that a group brings of its own becomes the server's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCredential {
    /// Header name, lower case.
    pub header: http::HeaderName,
    /// The word in front of the key, `Bearer` mostly; empty for none.
    pub scheme: String,
    /// By which name the key is stored.
    pub key_name: String,
}

/// Who may be called for with the credential of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Everybody, as long as no group brings a key of its own for this server.
    #[default]
    UntilKeyed,
    /// Everybody whose groups bring none.
    Always,
    /// Nobody: every caller's group brings its own.
    Never,
}

/// One MCP server in the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its id in paths and grants.
    pub id: ServerId,
    /// Its name for people.
    pub name: String,
    /// How it is reached.
    pub tier: Tier,
    /// What is spoken there.
    pub dialect: Dialect,
    /// The revisions of MCP it speaks, oldest first and never empty, where the operator says so.
    pub mcp_versions: Option<Box<[ProtocolVersion]>>,
    /// Its addresses; never empty.
    pub peers: Arc<[PeerUrl]>,
    /// The header that makes the server believe us, if it wants one and the configuration has it.
    pub credential: Option<CredentialHeader>,
    /// How keys of groups' own are sent, where the server takes a credential.
    pub own_credential: Option<OwnCredential>,
    /// Who is called for with the credential of the configuration.
    pub sharing: Sharing,
    /// The one that its lists are read with, where that is another one.
    pub discovery_credential: Option<CredentialHeader>,
    /// Whether callers may share a session at it, where it has sessions.
    pub is_session_shared: bool,
    /// Whether a tool that changed or is new is withheld until somebody approves it.
    pub is_pinned: bool,
    /// Whether the audit keeps the arguments of calls, and not only their digest.
    pub audits_arguments: bool,
    /// Whether calls are let through.
    pub is_enabled: bool,
    /// The variables that it waits for, where it is off for want of them; as they may be shown.
    pub missing_variables: Vec<String>,
    /// One line for people and models.
    pub description: String,
    /// How long the gateway waits for it.
    pub deadlines: Deadlines,
    /// How its peers are treated.
    pub care: Care,
    /// How much of it may be used.
    pub limits: ServerLimits,
}

impl Server {
    /// Whether a call of this tool may be sent again although the first may have been run: the tool says that it does no
    /// harm twice, or the operator does.
    pub fn may_repeat(&self, tool: &Tool) -> bool {
        let is_named = |pattern: &ToolPattern| pattern.matches(tool.name.as_str());
        tool.hints.is_repeatable() || self.care.repeatable.iter().any(is_named)
    }

    /// Whether what is done for the one in the background serves the other too: they differ in what people read at most.
    pub fn is_kept_like(&self, other: &Self) -> bool {
        let as_told = Self {
            name: other.name.clone(),
            description: other.description.clone(),
            missing_variables: other.missing_variables.clone(),
            limits: other.limits.clone(),
            audits_arguments: other.audits_arguments,
            ..self.clone()
        };
        as_told == *other
    }
}

/// Servers for the tests of other modules.
#[cfg(test)]
pub mod tests_support {
    use std::time::Duration;

    use super::*;

    /// An enabled server with this id, at an address nobody answers.
    pub fn server(id: &str) -> Arc<Server> {
        Arc::new(Server {
            id: ServerId::parse(id).unwrap(),
            name: id.to_owned(),
            tier: Tier::Local,
            dialect: Dialect::OpenApi,
            mcp_versions: None,
            peers: [PeerUrl { is_tls: false, host: "127.0.0.1".into(), port: 9, base_path: String::new() }]
                .into(),
            credential: None,
            own_credential: None,
            sharing: Sharing::default(),
            discovery_credential: None,
            is_session_shared: true,
            is_pinned: false,
            audits_arguments: false,
            is_enabled: true,
            missing_variables: Vec::new(),
            description: String::new(),
            deadlines: Deadlines::of(Duration::from_secs(1), Duration::from_secs(1)),
            care: Care::default(),
            limits: ServerLimits::default(),
        })
    }
}
