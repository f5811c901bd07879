//! What an operator sees of the gateway: its metrics as text, its two logs, and what Prometheus makes of them.

mod canaries;
mod levels;
mod lines;
mod metrics;
mod prometheus;

use serde_json::json;

use super::served::{World, client::Era};
use crate::harness::{
    fake_peer::{Behaviour, FakePeer},
    gateway::{Gateway, Setup},
    grants::{CALLER, Grants},
    mcp::Fixture,
    tokens::email_token,
    wire::answer,
};

/// A gateway in front of `alpha`, a peer of REST with tools of each temper, and `native`, a server of MCP.
pub struct Scene {
    pub world: World,
    _peer: FakePeer,
    _fixture: Fixture,
}

impl Scene {
    pub async fn start(set: impl FnOnce(Setup) -> Setup) -> Self {
        let peer = FakePeer::start()
            .await
            .with_json("search", json!("found"))
            .with_json("idle", json!("never called"))
            .with_tool("stall", Behaviour::Stall)
            .with_tool(
                "refuse",
                Behaviour::Answer(answer("422 Unprocessable Entity", "application/json", b"{}")),
            )
            .with_tool("garble", Behaviour::AnswerAndClose(b"\x00 no HTTP at all\r\n\r\n".to_vec()));
        let fixture = Fixture::start().await;
        let servers = [("alpha", "openapi", peer.url()), ("native", "mcp", fixture.url("/mcp"))];
        let world = World::with(&servers, set).await;
        Self { world, _peer: peer, _fixture: fixture }
    }

    pub fn gateway(&self) -> &Gateway {
        &self.world.gateway
    }

    /// `POST` of a tool by the caller: its status.
    pub async fn call(&self, path: &str) -> u16 {
        self.gateway().call(path, &email_token(CALLER), &json!({})).await.status.as_u16()
    }

    /// The same tool of the server of MCP by every face that reaches it.
    pub async fn call_native_on_every_face(&self, tool: &str) {
        for era in [Era::Legacy, Era::Modern] {
            let own = self.world.mcp("/native/mcp", era).await;
            drop(own.ask("tools/call", json!({"name": tool, "arguments": {}})).await);
            let all = self.world.mcp("/mcp", era).await;
            drop(all.ask("tools/call", json!({"name": format!("native_{tool}"), "arguments": {}})).await);
        }
        self.call(&format!("/native/{tool}")).await;
    }
}

/// A gateway in front of one peer of REST with the tool `search`.
pub async fn simple(set: impl FnOnce(Setup) -> Setup) -> (Gateway, FakePeer, Grants) {
    let peer = FakePeer::start().await.with_json("search", json!("found"));
    let grants = Grants::of(&["alpha"]).await;
    let gateway = set(grants.setup().server("alpha", &peer.url())).start().await;
    gateway.knows_tools("alpha", 1).await;
    (gateway, peer, grants)
}
