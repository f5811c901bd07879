//! What the operator says of the listeners and of everything that comes in by them.

use std::{net::SocketAddr, time::Duration};

use super::{native, tls, told_address};
use crate::endpoints::protected_resource::OAuth;

/// How the public listener behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address of the public listener.
    pub http: SocketAddr,
    /// Address of the ops listener (metrics, readiness).
    pub ops: SocketAddr,
    /// Worker threads of the public listener; 0 means one per core.
    pub threads: usize,
    /// Open connections accepted at once.
    pub max_connections: usize,
    /// From the first byte of a request to the end of its headers.
    pub header_timeout: Duration,
    /// How long an idle connection is kept.
    pub keepalive_timeout: Duration,
    /// Longest wait between two reads of a request body.
    pub body_timeout: Duration,
    /// Longest wait for a client to take more of an answer.
    pub write_timeout: Duration,
    /// Largest request line and headers.
    pub max_header_bytes: usize,
    /// Largest `{"arguments":…}` body that is unwrapped.
    pub max_wrapped_body_bytes: usize,
    /// Largest body of all.
    pub max_body_bytes: u64,
    /// Bytes a second by which a body has to come, all in all; 0: as slowly as it likes.
    pub min_body_rate: u64,
    /// Bytes a second by which an answer has to be taken, all in all; 0: as slowly as the client likes.
    pub min_answer_rate: u64,
    /// After SIGTERM, how long readiness says no before the listener closes.
    pub shutdown_delay: Duration,
    /// After that, how long running requests may take.
    pub shutdown_grace: Duration,
    /// How long a process that is to take over may take to get ready.
    pub upgrade_timeout: Duration,
    /// The certificate of the public listener; without one it speaks no TLS.
    pub tls: Option<tls::Settings>,
    /// Requests at once on one connection of HTTP/2.
    pub max_h2_streams: usize,
    /// Origins whose browsers may call (CORS), exactly as in the `Origin` header.
    pub cors_origins: Vec<String>,
    /// Bounds of native MCP.
    pub mcp: native::Settings,
    /// Host names clients call the gateway by, beside those nobody else can answer for; lower case, without port.
    pub hosts: Vec<String>,
    /// What clients call the gateway: `https://host[:port]`; without it, what they say they call it.
    pub public_url: Option<String>,
    /// What MCP clients are told about signing in, if anything.
    pub oauth: Option<OAuth>,
    /// Whether `/openapi.json` and `/mcp` show the meta tools instead of the caller's tools.
    pub shows_meta_tools_only: bool,
    /// Whose word about a client's address is taken.
    pub addresses: told_address::Settings,
}
