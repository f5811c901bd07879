//! Signing in: MCP clients as they are get a token through the gateway and call, and nobody is sent where they should not be.

mod challenges;
mod clients;
mod entra_away;
mod pages;

use serde_json::Value;

use crate::harness::{
    entra::{API, CLIENT, Idp, User},
    gateway::{Answer, Gateway, Setup},
    grants::{CALLER, Grants},
    mcp::Fixture,
};

/// What a token is asked for.
const SCOPE: &str = "api://11111111-2222-4333-8444-555555555555/Tools.Call";
/// The caller's object id.
const OID: &str = "0a0a0a0a-1111-4222-8333-444444444444";

/// A gateway in front of one MCP server, `native`, which the caller may use; the caller can sign in.
struct Scene {
    idp: Idp,
    fixture: Fixture,
    gateway: Gateway,
    _grants: Grants,
}

impl Scene {
    /// With the facade.
    async fn start() -> Self {
        let scene = Self::with(|setup, _| with_facade(setup)).await;
        // Ready is the gateway; what Entra ID says of itself may still be on its way.
        scene.gateway.await_metric("portcullis_entra_up", &[], 2).await;
        scene
    }

    async fn with(change: impl FnOnce(Setup, &Idp) -> Setup) -> Self {
        let idp = Idp::start().await;
        idp.add_user(&User::new(CALLER, OID));
        let fixture = Fixture::start().await;
        let grants = Grants::of(&["native"]).await;
        let setup = grants.setup().mcp("native", "mcp", &fixture.url("/mcp")).entra(&idp);
        let setup = setup.set("auth.entra.scopes", vec!["Tools.Call"]);
        let gateway = change(setup, &idp).start().await;
        Self { idp, fixture, gateway, _grants: grants }
    }

    /// The endpoint that the caller calls.
    fn url(&self) -> String {
        self.gateway.url("/native/mcp")
    }

    /// A document of the gateway, asked for without a credential.
    async fn document(&self, path: &str) -> Value {
        let answer = self.gateway.send(self.gateway.request(reqwest::Method::GET, path)).await;
        assert_eq!(answer.status.as_u16(), 200, "{path}: {}", answer.text());
        answer.json()
    }
}

/// The gateway is the authorization server that clients see.
fn with_facade(setup: Setup) -> Setup {
    let url = setup.url();
    setup
        .set("listen.public_url", url)
        .set("auth.oauth.scopes", vec![SCOPE])
        .set("auth.oauth.facade.client_id", CLIENT)
        .set("auth.oauth.facade.redirect_uris", vec!["http://localhost/callback"])
}

/// The error of OAuth that an answer tells, with its status.
#[track_caller]
fn error(answer: &Answer) -> (u16, String) {
    let error = answer.json()["error"].as_str().unwrap_or_else(|| panic!("{}", answer.text())).to_owned();
    (answer.status.as_u16(), error)
}

#[test]
fn the_scope_is_one_of_the_gateways_own() {
    assert_eq!(SCOPE, format!("api://{API}/Tools.Call"));
}
