//! All servers as one, and REST and MCP translated into each other: what the gateway itself answers, asks and rewrites.
//!
//! `client` has a client of each face; the tests beside it are written against the promises, not against the code.

mod calls;
mod changes;
pub mod client;
mod content;
mod eras;
mod lists;
mod many;
mod matrix;
mod meta;
mod openapi;
mod pins;
mod questions;
mod replicas;
mod rest;
mod rest_sessions;
mod restarts;
mod spelling;

use serde_json::Value;
use tokio::process::Command;

use crate::harness::{
    deadline::until,
    gateway::{Answer, Gateway, Setup},
    grants::{CALLER, Grants},
    mcp::{Fixture, nodejs, npm, python, script},
    port::Port,
    tokens::email_token,
};
use client::{Era, Mcp};

/// A server behind the gateway: its id, what is spoken there, and where it is.
pub type Served<'a> = (&'a str, &'a str, String);

/// A gateway in front of servers, and a caller who may use them all.
pub struct World {
    pub gateway: Gateway,
    pub grants: Grants,
    pub token: String,
}

impl World {
    /// In front of these servers, once it has read what each of them offers.
    pub async fn of(servers: &[Served<'_>]) -> Self {
        Self::with(servers, |setup| setup).await
    }

    /// The same with further settings.
    pub async fn with(servers: &[Served<'_>], set: impl FnOnce(Setup) -> Setup) -> Self {
        let world = Self::unread(servers, set).await;
        for (id, ..) in servers {
            world.await_some_tools(id).await;
        }
        world
    }

    /// The same, without waiting for what the servers offer.
    pub async fn unread(servers: &[Served<'_>], set: impl FnOnce(Setup) -> Setup) -> Self {
        let ids: Vec<_> = servers.iter().map(|(id, ..)| *id).collect();
        let grants = Grants::of(&ids).await;
        let gateway = set(setup(&grants, servers)).start().await;
        Self { gateway, grants, token: email_token(CALLER) }
    }

    /// In front of one fixture, called `native`, with these options.
    pub async fn of_fixture(options: &[&str]) -> (Self, Fixture) {
        let fixture = Fixture::with(options).await;
        (Self::of(&[("native", "mcp", fixture.url("/mcp"))]).await, fixture)
    }

    pub async fn await_some_tools(&self, server: &str) {
        until(&format!("the tools of {server}"), || async {
            let known = self.gateway.metrics().await.sum("portcullis_tools", &[("server", server)]);
            (known > 0.0).then_some(())
        })
        .await;
    }

    /// An MCP client of this path in this era that can be asked for input.
    pub async fn mcp(&self, path: &str, era: Era) -> Mcp {
        self.mcp_as(path, era, &self.token).await
    }

    pub async fn mcp_as(&self, path: &str, era: Era, token: &str) -> Mcp {
        Mcp::begin(&self.gateway.url(path), token, era, client::ASKABLE).await
    }

    /// `POST /{path}` with these arguments.
    pub async fn rest(&self, path: &str, arguments: Value) -> Answer {
        self.gateway.call(path, &self.token, &arguments).await
    }
}

/// What to start another gateway with, in front of the same servers.
pub fn setup(grants: &Grants, servers: &[Served<'_>]) -> Setup {
    servers.iter().fold(grants.setup(), |setup, (id, dialect, url)| match *dialect {
        "openapi" => setup.server(id, url),
        _ => setup.mcp(id, dialect, url),
    })
}

/// server-everything, the reference server of the TypeScript SDK v1: `streamableHttp` or `sse`.
pub fn everything(transport: &'static str) -> impl FnOnce(&Port) -> Command {
    move |port| {
        let mut command = nodejs();
        command.arg(npm("@modelcontextprotocol/server-everything/dist/index.js")).arg(transport);
        command.env("PORT", port.number().to_string());
        command
    }
}

/// A server of `tests/mcp/servers` on the Python SDK of this generation.
pub fn python_server(generation: &'static str, options: &'static [&str]) -> impl FnOnce(&Port) -> Command {
    move |port| {
        let mut command = python(generation);
        command.arg(script(&format!("servers/python_{}.py", generation.to_lowercase())));
        command.arg(port.number().to_string()).args(options);
        command
    }
}

/// The names of these tools, prompts or resources, in their order.
pub fn names(listed: &[Value]) -> Vec<&str> {
    listed.iter().map(|item| item["name"].as_str().unwrap_or_else(|| panic!("no name in {item}"))).collect()
}

/// The one of this name.
#[track_caller]
pub fn named<'a>(listed: &'a [Value], name: &str) -> &'a Value {
    let found = listed.iter().find(|item| item["name"] == name);
    found.unwrap_or_else(|| panic!("no `{name}` among {:?}", names(listed)))
}
