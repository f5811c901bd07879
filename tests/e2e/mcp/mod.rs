//! Native MCP through the gateway: the official judges, real clients, real servers, and the wire itself.
//!
//! What stands around the gateway here is in `tests/mcp`, whose README says how to run each piece by hand.

mod aggregated;
mod bodies;
pub mod clients;
mod conformance;
mod event_streams;
mod recorded;
mod replicas;
mod ruled;
mod rust_sdk;
mod servers;
mod standing;
mod tls;
pub mod wire;
