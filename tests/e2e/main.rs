//! End to end: the real binary, real sockets, real Postgres, real MCP servers, and peers that misbehave on purpose.
//!
//! Run with `scripts/test --test e2e`, which starts what these tests need. Each test owns its gateway, its database
//! and its peers; `harness` has them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in what it is built from too")]
#![allow(clippy::disallowed_methods, reason = "tests read their own environment and their own small answers")]

mod access;
mod audit;
mod authorization;
mod bodies;
mod catalogue;
mod commands;
mod cors;
mod delivery;
mod drain;
mod entra;
mod evidence;
mod explain;
mod faces;
mod faults;
mod figures;
mod framing;
mod front;
mod h2;
mod hardening;
mod harness;
mod hostile;
mod identity;
mod import;
mod legacy;
mod limits;
mod mcp;
mod mcp_edge;
mod meta;
mod native;
mod openapi;
mod openwebui;
mod operations;
mod outage;
mod parity;
mod passthrough;
mod peers;
mod readme;
mod refusals;
mod reload;
mod revocation;
mod served;
mod sick;
mod steady;
mod tenants;
mod tls;
mod tool_lists;
mod tool_rules;
mod traces;
mod unmigrated;
mod upgrade;
mod wire;
