//! What a test puts around the gateway: the process itself, databases, peers, and clients.
//!
//! Decides nothing about what is right: that is for the tests. Everything is on loopback, belongs to one test, and is
//! stopped when it is dropped.

#![allow(dead_code, reason = "no test needs every part of the harness")]

pub mod asking;
pub mod certificates;
pub mod chaos;
pub mod collector;
pub mod commands;
pub mod deadline;
pub mod entra;
pub mod events;
pub mod fake_peer;
pub mod front;
pub mod gateway;
pub mod grants;
pub mod guide;
pub mod h2;
pub mod load;
pub mod machine;
pub mod mcp;
pub mod memory;
pub mod names;
pub mod openwebui;
pub mod port;
pub mod postgres;
pub mod prometheus;
pub mod proxies;
pub mod raw;
pub mod raw_peer;
pub mod recorder;
pub mod redis;
pub mod request;
pub mod tls_peer;
pub mod tokens;
pub mod wire;
