//! The OpenAPI 3.1 document of exactly the tools one caller may run.
//!
//! Decides how tools of many servers stand in one document. Every operation in it becomes a tool at a
//! client, so it has the callers' tools and nothing else. Never decides which servers and tools those are:
//! `access` does, and they are handed in.

mod documents;
mod encoding;

use std::collections::BTreeMap;

use serde::Serialize;

pub use documents::{Documents, Rendered, is_unchanged};
pub use encoding::{Encoding, choose};

use super::Visible;
use crate::{
    catalog::{
        server::Server,
        tools::{Answer, Body, Fragment, Listed, Parameter, ToolIndex},
    },
    names::ServerId,
};

/// Which servers a document is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope<'s> {
    /// All the caller may use: paths are `/{server}/{tool}`.
    All,
    /// This one, if the caller may use it: paths are `/{tool}` below the server's own address.
    One(&'s ServerId),
}

impl Scope<'_> {
    pub(super) fn includes(self, server: &ServerId) -> bool {
        match self {
            Scope::All => true,
            Scope::One(only) => only == server,
        }
    }
}

/// Writes the document for a caller who may use exactly these servers and tools.
pub fn document(scope: Scope<'_>, visible: &[Visible], tools: &ToolIndex) -> Vec<u8> {
    let shown = visible.iter().filter(|visible| scope.includes(&visible.server.id));
    let shown: BTreeMap<&ServerId, &Visible> = shown.map(|visible| (&visible.server.id, visible)).collect();
    let info = match scope {
        Scope::One(id) if shown.contains_key(id) => Info::of(&shown[id].server),
        Scope::All | Scope::One(_) => Info::GATEWAY,
    };
    let mut paths = BTreeMap::new();
    let mut schemas = BTreeMap::new();
    for (id, visible) in shown {
        let is_shown = |listed: &Listed<'_>| visible.tools.allows(listed.tool.name.as_str());
        let listed: Vec<Listed<'_>> = tools.listed(id.as_str()).filter(is_shown).collect();
        if visible.tools.is_everything() {
            schemas.extend(tools.components(id.as_str()));
        } else {
            // A schema says what a tool is about: one that only hidden tools use is hidden with them.
            schemas.extend(tools.components_of(id.as_str(), &listed));
        }
        for listed in listed {
            let path = match scope {
                Scope::All => format!("/{id}/{}", listed.tool.name),
                Scope::One(_) => format!("/{}", listed.tool.name),
            };
            paths.insert(path, PathItem { post: Operation::new(id, listed) });
        }
    }
    let address = match scope {
        Scope::All => None,
        Scope::One(id) => Some([Address { url: format!("/{id}") }]),
    };
    let document =
        Document { openapi: "3.1.0", info, servers: address, paths, components: Components { schemas } };
    serde_json::to_vec(&document).expect("all keys are strings and all fragments JSON")
}

#[derive(Serialize)]
struct Document<'d> {
    openapi: &'static str,
    info: Info<'d>,
    #[serde(skip_serializing_if = "Option::is_none")]
    servers: Option<[Address; 1]>,
    paths: BTreeMap<String, PathItem<'d>>,
    components: Components<'d>,
}

#[derive(Serialize)]
struct Info<'d> {
    title: &'d str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'d str,
    version: &'static str,
}

impl<'d> Info<'d> {
    const GATEWAY: Self = Self { title: "Portcullis", description: "", version: env!("CARGO_PKG_VERSION") };

    fn of(server: &'d Server) -> Self {
        Self { title: &server.name, description: &server.description, ..Self::GATEWAY }
    }
}

#[derive(Serialize)]
struct Address {
    url: String,
}

#[derive(Serialize)]
struct PathItem<'d> {
    post: Operation<'d>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Operation<'d> {
    operation_id: &'d str,
    tags: [&'d ServerId; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<&'d str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'d str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    parameters: &'d [Parameter],
    #[serde(skip_serializing_if = "Option::is_none")]
    request_body: Option<&'d Body>,
    responses: Responses<'d>,
}

impl<'d> Operation<'d> {
    fn new(server: &'d ServerId, listed: Listed<'d>) -> Self {
        Self {
            operation_id: listed.operation_id,
            tags: [server],
            summary: listed.tool.summary.as_deref(),
            description: &listed.tool.description,
            parameters: &listed.shape.parameters,
            request_body: listed.shape.request_body.as_ref(),
            responses: Responses { ok: &listed.shape.response },
        }
    }
}

#[derive(Serialize)]
struct Responses<'d> {
    #[serde(rename = "200")]
    ok: &'d Answer,
}

#[derive(Serialize)]
struct Components<'d> {
    schemas: BTreeMap<&'d str, &'d Fragment>,
}

#[cfg(test)]
mod tests;
