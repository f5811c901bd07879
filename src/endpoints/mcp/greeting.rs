//! What the gateway says about itself when a client of MCP greets it: `initialize` and `server/discover`.
//!
//! Decides which capabilities are promised: those that some server of the caller has and the gateway hands on, no
//! others. What servers tell models about their use goes along, within bounds.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{Shelf, Visible};
use crate::{catalog::server::ProtocolVersion, endpoints::openapi::Scope};

/// How much of the instructions of one server goes into those of all, in bytes.
const MAX_OF_ONE: usize = 2_000;
/// How many bytes the instructions may have altogether.
const MAX_INSTRUCTIONS: usize = 32_000;
/// What models are told when they see the meta tools alone.
const SEARCH_FIRST: &str = "The tools behind this server are not listed. Find them with `meta_search_tools`, read what \
     they take with `meta_describe_tools`, and run them with `meta_call_tool`.";
/// Where a result without sessions says which server it is from.
pub(super) const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

/// The result of `initialize` in this revision.
pub fn hello(shelf: &Shelf<'_>, version: &str) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Hello<'a> {
        protocol_version: &'a str,
        capabilities: Value,
        server_info: Box<RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        instructions: Option<String>,
    }
    written(&Hello {
        protocol_version: version,
        capabilities: capabilities(shelf),
        server_info: server_info(shelf),
        instructions: instructions(shelf),
    })
}

/// The result of `server/discover`.
pub fn discover(shelf: &Shelf<'_>) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Discovered {
        supported_versions: Vec<ProtocolVersion>,
        capabilities: Value,
        #[serde(skip_serializing_if = "Option::is_none")]
        instructions: Option<String>,
        result_type: &'static str,
        ttl_ms: u64,
        cache_scope: &'static str,
        #[serde(rename = "_meta")]
        meta: BTreeMap<&'static str, Box<RawValue>>,
    }
    written(&Discovered {
        supported_versions: ProtocolVersion::ALL.into_iter().filter(|version| version.is_modern()).collect(),
        capabilities: capabilities(shelf),
        instructions: instructions(shelf),
        result_type: "complete",
        ttl_ms: u64::try_from(shelf.ttl().as_millis()).unwrap_or(u64::MAX),
        cache_scope: "private",
        meta: BTreeMap::from([(SERVER_INFO, server_info(shelf))]),
    })
}

fn written(result: &impl Serialize) -> String {
    serde_json::to_string(result).expect("all keys are strings and all raw parts JSON")
}

/// What is promised: tools always, the rest where a server shown has it.
fn capabilities(shelf: &Shelf<'_>) -> Value {
    let servers = shelf.servers();
    let has = |name: &str| {
        let mut abouts = servers.iter().filter_map(|visible| shelf.about(&visible.server.id));
        abouts.any(|about| about.has_capability(name))
    };
    let mut capabilities = json!({"tools": {"listChanged": true}});
    if has("prompts") {
        capabilities["prompts"] = json!({"listChanged": true});
    }
    if has("resources") {
        capabilities["resources"] = json!({"listChanged": true});
        if servers.iter().any(|visible| may_subscribe(shelf, visible)) {
            capabilities["resources"]["subscribe"] = true.into();
        }
    }
    for name in ["completions", "logging"] {
        if has(name) {
            capabilities[name] = json!({});
        }
    }
    capabilities
}

/// Whether the server says that changes of single resources can be subscribed to.
fn may_subscribe(shelf: &Shelf<'_>, visible: &Visible) -> bool {
    let capabilities = shelf.about(&visible.server.id).map(|about| &*about.capabilities);
    let read: Option<Value> = capabilities.and_then(|text| serde_json::from_str(text).ok());
    read.is_some_and(|capabilities| capabilities["resources"]["subscribe"] == true)
}

/// One server's own where there is one alone, else the gateway's.
fn server_info(shelf: &Shelf<'_>) -> Box<RawValue> {
    let only = match shelf.scope {
        Scope::All => None,
        Scope::One(server) => Some(server),
    };
    let own = only.and_then(|server| RawValue::from_string(shelf.about(server)?.info.clone()?).ok());
    own.unwrap_or_else(|| {
        let name = only.map_or("portcullis", |server| server.as_str());
        let info = json!({"name": name, "version": env!("CARGO_PKG_VERSION")});
        to_raw_value(&info).expect("strings are always JSON")
    })
}

/// What models are told: one server's words as they are, or each one's under its name.
fn instructions(shelf: &Shelf<'_>) -> Option<String> {
    let of = |visible: &Visible| shelf.about(&visible.server.id)?.instructions.as_deref();
    let servers = shelf.servers();
    let mut merged = String::new();
    match shelf.scope {
        Scope::One(_) => merged.push_str(servers.first().and_then(|visible| of(visible)).unwrap_or_default()),
        Scope::All => {
            if shelf.has_meta_tools_only {
                merged.push_str(SEARCH_FIRST);
            }
            for visible in servers {
                let Some(text) = of(visible).map(str::trim).filter(|text| !text.is_empty()) else { continue };
                let section = section(visible, text);
                // Whole sections only: half of one may say the opposite of the whole.
                if merged.len() + section.len() <= MAX_INSTRUCTIONS {
                    merged.push_str(&section);
                }
            }
        }
    }
    let merged = merged.trim();
    (!merged.is_empty()).then(|| merged.to_owned())
}

fn section(visible: &Visible, text: &str) -> String {
    let server = &visible.server;
    let kept = &text[..text.floor_char_boundary(MAX_OF_ONE)];
    let more = if kept.len() < text.len() { "…" } else { "" };
    format!("\n\n# {} (`{}_…`)\n{kept}{more}", server.name, server.id)
}
