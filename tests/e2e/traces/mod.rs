//! Traces: one from the client through the gateway to the server, told to a collector that holds them to
//! OpenTelemetry's rules.

mod away;
mod faces;
mod refusals;
mod sampled;
mod sdk;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    collector::Collector,
    fake_peer::{Behaviour, FakePeer},
    gateway::{Answer, Gateway, Setup},
    grants::{CALLER, Grants},
    tokens::email_token,
    wire::answer,
};

/// A gateway in front of one REST server, `alpha`, whose one tool is `search`; and its collector.
struct Scene {
    gateway: Gateway,
    peer: FakePeer,
    collector: Collector,
    token: String,
    _grants: Grants,
}

impl Scene {
    async fn start() -> Self {
        Self::with(|setup| setup).await
    }

    async fn with(set: impl FnOnce(Setup) -> Setup) -> Self {
        let (collector, peer) =
            (Collector::start().await, FakePeer::start().await.with_json("search", json!({"n": 1})));
        let grants = Grants::of(&["alpha"]).await;
        let setup = set(grants.setup().server("alpha", &peer.url()).traced(&collector));
        let gateway = setup.start().await;
        gateway.knows_tools("alpha", 1).await;
        Self { gateway, peer, collector, token: email_token(CALLER), _grants: grants }
    }

    /// Calls the tool with these headers besides.
    async fn call(&self, headers: &[(&str, &str)]) -> Answer {
        self.call_as(&self.token, "/alpha/search", headers).await
    }

    async fn call_as(&self, token: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request = self.gateway.call_request(path, token, &json!({}));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        self.gateway.send(request).await
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request = self.gateway.request(Method::GET, path).bearer_auth(&self.token);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        self.gateway.send(request).await
    }

    /// The last call that the server was sent.
    fn sent(&self) -> crate::harness::fake_peer::Request {
        self.peer.requests().pop().unwrap()
    }

    async fn sum(&self, metric: &str) -> f64 {
        self.gateway.metrics().await.sum(metric, &[])
    }
}

/// What the access log says of the request that was answered so.
async fn logged(gateway: &Gateway, answer: &Answer) -> Value {
    let id = answer.header("x-request-id").unwrap().to_owned();
    let line = gateway.stdout.find("a line of the access log", |line| line.contains(&id)).await;
    serde_json::from_str(&line).unwrap()
}

/// An answer of a server that is broken.
fn broken() -> Behaviour {
    Behaviour::Answer(answer("503 Service Unavailable", "text/plain", b"gone"))
}
