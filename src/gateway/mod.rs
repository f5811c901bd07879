//! gateway (being written)
use std::{net::SocketAddr, time::Duration};

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
    /// Largest request line and headers.
    pub max_header_bytes: usize,
    /// Largest `{"arguments":…}` body that is unwrapped.
    pub max_wrapped_body_bytes: usize,
    /// After SIGTERM, how long running requests may take.
    pub shutdown_grace: Duration,
    /// Origins whose browsers may call (CORS), exactly as in the `Origin` header.
    pub cors_origins: Vec<String>,
}
