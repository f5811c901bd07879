//! Traffic that means harm: each kind gets the answer that README.md states, nothing of it reaches a peer, and other
//! callers notice nothing.

use crate::harness::{
    gateway::{Gateway, Setup},
    grants::{CALLER, Grants},
    recorder::Recorder,
    tokens::email_token,
};

mod cases;
mod crowds;
mod fronted;
mod large;
mod pipelined;
mod smuggling;
mod soup;

pub use crowds::went_on;

const README: &str = include_str!("../../../README.md");

/// An `initialize` of MCP.
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"client","version":"1"}}}"#;

/// A way into the gateway.
#[derive(Debug, Clone, Copy)]
struct Face {
    name: &'static str,
    method: &'static str,
    path: &'static str,
    body: &'static str,
    /// The path that a peer is called with, where one is.
    passes_to: Option<&'static str>,
}

/// Every way in that takes a body.
const FACES: [Face; 4] = [
    Face { name: "rest", method: "POST", path: "/alpha/search", body: "{}", passes_to: Some("/search") },
    Face { name: "native", method: "POST", path: "/native/mcp", body: INITIALIZE, passes_to: Some("/mcp") },
    Face { name: "all", method: "POST", path: "/mcp", body: INITIALIZE, passes_to: None },
    Face {
        name: "meta",
        method: "POST",
        path: "/meta/search_tools",
        body: r#"{"query":"search"}"#,
        passes_to: None,
    },
];

/// One that takes none.
const PAGE: Face = Face { name: "page", method: "GET", path: "/servers", body: "{}", passes_to: None };

/// A gateway in front of a peer that keeps every byte.
struct Scene {
    gateway: Gateway,
    peer: Recorder,
    token: String,
    _grants: Grants,
}

impl Scene {
    async fn start() -> Self {
        Self::start_with(|setup| setup).await
    }

    async fn start_with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let peer = Recorder::start().await;
        let grants = Grants::of(&["alpha", "native"]).await;
        let setup = grants.setup().server("alpha", &peer.url());
        let setup = change(setup.mcp("native", "mcp", &format!("{}/mcp", peer.url())));
        let gateway = setup.start().await;
        gateway.knows_tools("alpha", 1).await;
        gateway.await_grants(3).await;
        Self { gateway, peer, token: email_token(CALLER), _grants: grants }
    }

    /// What must hold after any attack.
    async fn is_unharmed(&self) {
        let answer = self.gateway.call("/alpha/search", &self.token, &serde_json::json!({})).await;
        assert_eq!(answer.status, 200);
        assert_eq!(self.gateway.metrics().await.sum("portcullis_panics_total", &[]), 0.0);
        let bytes = String::from_utf8_lossy(&self.peer.bytes()).into_owned();
        assert!(!bytes.contains("smuggled"), "{bytes}");
    }
}

/// What README.md states about a kind of hostile request: the cells of its row behind the first.
#[track_caller]
fn stated(request: &str) -> Vec<String> {
    let row = rows().into_iter().find(|cells| cells[0] == request);
    row.unwrap_or_else(|| panic!("README.md, \"What hostile requests get\", has no row {request:?}"))[1..]
        .to_vec()
}

fn rows() -> Vec<Vec<String>> {
    let (_, section) =
        README.split_once("### What hostile requests get\n").expect("the section of README.md");
    let lines = section.lines().skip_while(|line| !line.starts_with("| request")).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

#[test]
fn every_row_of_the_readme_is_checked_by_a_test_of_this_module() {
    let checked = cases::ROWS.iter().copied().chain(crowds::ROWS).chain(large::ROWS).chain(pipelined::ROWS);
    let mut checked: Vec<_> = checked.map(str::to_owned).collect();
    let mut listed: Vec<_> = rows().into_iter().map(|row| row[0].clone()).collect();
    checked.sort();
    listed.sort();
    assert_eq!(listed, checked);
}
