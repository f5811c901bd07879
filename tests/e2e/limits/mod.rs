//! How much is too much, on every face, in one process and in several: rates, streams, connections, sizes, slowness, load.

mod addresses;
mod callers;
mod faces;
mod overload;
mod rates;
mod shared;
mod sizes;
mod streams;

use serde_json::json;

use crate::harness::{
    fake_peer::FakePeer,
    gateway::{Answer, Gateway, Setup},
    grants::{CALLER, Grants},
    tokens::email_token,
};

/// A gateway in front of `alpha` and `beta`, each with the tools `search` and `fetch` of one peer.
pub struct Scene {
    pub gateway: Gateway,
    pub peer: FakePeer,
    pub token: String,
    _grants: Grants,
}

impl Scene {
    /// With these keys besides, and no limits but those they set.
    pub async fn start(set: impl FnOnce(Setup) -> Setup) -> Self {
        Self::with_servers(set, toml::Table::new()).await
    }

    /// The same, with further keys of `alpha`.
    pub async fn with_servers(set: impl FnOnce(Setup) -> Setup, alpha: toml::Table) -> Self {
        let peer =
            FakePeer::start().await.with_json("search", json!("found")).with_json("fetch", json!("got"));
        let grants = Grants::of(&["alpha", "beta"]).await;
        let setup = grants.setup().server_with("alpha", &peer.url(), alpha).server("beta", &peer.url());
        let gateway = set(setup).start().await;
        gateway.knows_tools("alpha", 2).await;
        gateway.knows_tools("beta", 2).await;
        Self { gateway, peer, token: email_token(CALLER), _grants: grants }
    }

    /// `POST` of a tool by the caller.
    pub async fn call(&self, path: &str) -> Answer {
        self.gateway.call(path, &self.token, &json!({})).await
    }

    /// The statuses of so many calls, one after the other.
    pub async fn statuses(&self, path: &str, count: usize) -> Vec<u16> {
        let mut statuses = Vec::new();
        for _ in 0..count {
            statuses.push(self.call(path).await.status.as_u16());
        }
        statuses
    }

    /// Returns once this limit has refused or ended something so often: an answer is there before it is counted.
    pub async fn await_limited(&self, limit: &str, times: usize) {
        self.gateway.await_metric("portcullis_limited_total", &[("limit", limit)], times).await;
    }

    /// How often this limit has refused or ended something.
    pub async fn limited(&self, limit: &str) -> f64 {
        self.gateway.metrics().await.sum("portcullis_limited_total", &[("limit", limit)])
    }
}

/// `a` times 200, then `b` times 429.
pub fn passing_then_limited(a: usize, b: usize) -> Vec<u16> {
    [vec![200; a], vec![429; b]].concat()
}

/// What `Retry-After` says, in whole seconds.
#[track_caller]
pub fn retry_after(answer: &Answer) -> u64 {
    let value =
        answer.header("retry-after").unwrap_or_else(|| panic!("no Retry-After: {:?}", answer.headers));
    value.parse().unwrap()
}
