//! End to end: the real binary, real sockets, real Postgres, real MCP servers, and peers that misbehave on purpose.
//!
//! Run with `scripts/test --test e2e`, which starts what these tests need. Each test owns its gateway, its database
//! and its peers; `harness` has them.

mod harness;
