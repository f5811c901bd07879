//! What groups bring of their own: keys and addresses, each for its own callers and nobody else's.

mod commands;
mod endpoints;
mod interleaving;
mod keys;

use serde_json::json;

use crate::{
    access::Grants,
    harness::{
        commands::{Said, portcullis_told},
        fake_peer::{FakePeer, Request},
        gateway::{Gateway, Setup},
        tokens::email_token,
        wire::answer,
    },
};

/// 32 bytes that keys are sealed with.
pub const SEALING_KEY: &str = "1111111111111111111111111111111111111111111111111111111111111111";
pub const NEWER_KEY: &str = "2222222222222222222222222222222222222222222222222222222222222222";
/// The credential that all share.
pub const SHARED: &str = "the-shared-one";
pub const ANN: &str = "ann@company.com";
pub const BOB: &str = "bob@company.com";
/// In both groups.
pub const EVE: &str = "eve@company.com";
/// In neither, and granted all the same.
pub const DAN: &str = "dan@company.com";

const PEOPLE: &str = "INSERT INTO user_group_membership (user_email, group_name) VALUES \
     ('ann@company.com','A'), ('bob@company.com','B'), ('eve@company.com','A'), ('eve@company.com','B'); \
     INSERT INTO group_tenant_mapping (group_name, tenant_id) VALUES ('A','github'), ('B','github'); \
     INSERT INTO user_tenant_access (user_email, tenant_id) VALUES ('dan@company.com','github')";
const PEOPLE_ROWS: usize = 7;

/// A peer that answers tools, and MCP at `/mcp`.
pub async fn peer() -> FakePeer {
    let peer = FakePeer::start().await.with_json("search", json!({"found": []}));
    let result = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": []}}).to_string();
    let spoken = answer("200 OK", "application/json", result.as_bytes());
    peer.set("/mcp", crate::harness::fake_peer::Behaviour::Answer(spoken));
    peer
}

/// A gateway in front of `github`, which takes a token as `Authorization: Bearer`, with the people above.
pub struct Tenants {
    pub grants: Grants,
    pub gateway: Gateway,
}

impl Tenants {
    pub async fn start(grants: Grants, url: &str, set: impl FnOnce(Setup) -> Setup) -> Self {
        Self::start_with(grants, url, toml::Table::new(), set).await
    }

    /// The same with further keys of the server.
    pub async fn start_with(
        grants: Grants,
        url: &str,
        keys: toml::Table,
        set: impl FnOnce(Setup) -> Setup,
    ) -> Self {
        let credential = "credential = { header = 'Authorization', scheme = 'Bearer', env = 'GITHUB_TOKEN' }\n\
             enabled = 'auto'";
        let mut server: toml::Table = credential.parse().unwrap();
        server.extend(keys);
        let setup = Setup::new(&grants.url())
            .environment("GITHUB_TOKEN", SHARED)
            .set("tenants.sealing_keys", vec![SEALING_KEY])
            .server_with("github", url, server);
        let gateway = set(setup).start().await;
        grants.execute(PEOPLE).await;
        gateway.await_grants(PEOPLE_ROWS).await;
        Self { grants, gateway }
    }

    /// Runs `portcullis ARGUMENTS` on this gateway's configuration, with this on stdin.
    pub async fn told(&self, arguments: &[&str], input: &str) -> Said {
        portcullis_told(self.gateway.folder.path(), arguments, input).await
    }

    /// Gives a group a key of its own, and waits until it is believed.
    pub async fn set_key(&self, group: &str, key: &str) {
        let before = self.rows().await;
        let said = self.told(&["keys", "set", "github", "--group", group], key).await;
        assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{}", said.stderr);
        assert!(!said.stderr.contains(key.trim()), "{}", said.stderr);
        self.gateway.await_grants(before + 1).await;
    }

    pub async fn rows(&self) -> usize {
        self.gateway.metrics().await.sum("portcullis_grant_rows", &[]) as usize
    }

    /// Calls a tool and says the status, and the code where it was refused.
    pub async fn call(&self, email: &str) -> (u16, String) {
        let answer = self.gateway.call("/github/search", &email_token(email), &json!({})).await;
        let code = answer.json()["code"].as_str().unwrap_or_default().to_owned();
        (answer.status.as_u16(), code)
    }
}

/// Which credential each call came with.
pub fn credentials(requests: &[Request]) -> Vec<String> {
    let calls = requests.iter().filter(|request| request.method == "POST");
    calls.map(|call| call.head.all("authorization").join("+")).collect()
}

pub fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

pub fn served() -> (u16, String) {
    (200, String::new())
}
