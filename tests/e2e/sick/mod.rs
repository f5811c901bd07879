//! Servers with sick peers: nobody else is harmed, calls go where they can be answered, and a peer comes back by itself.

mod clients;
mod faults;
mod gone;
mod http2;
mod http2_clients;
mod mcp;
mod names;
mod retries;
mod trust;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use toml::Table;

use crate::harness::{
    deadline::until,
    fake_peer::{Behaviour, FakePeer},
    gateway::{Answer, Gateway, Setup},
    grants::{CALLER, Grants},
    tokens::email_token,
    wire::answer,
};

/// A server with these addresses and keys.
pub fn with_peers(setup: Setup, id: &str, urls: &[String], keys: &str) -> Setup {
    let mut keys: Table = keys.parse().unwrap();
    keys.insert("url".to_owned(), urls.to_vec().into());
    setup.server_with(id, "", keys)
}

/// A gateway with one server at these peers, whose tool `work` is known.
pub async fn start(peers: &[&FakePeer], keys: &str) -> (Gateway, Grants) {
    let grants = Grants::of(&["alpha"]).await;
    let urls: Vec<_> = peers.iter().map(|peer| peer.url()).collect();
    let gateway = with_peers(grants.setup(), "alpha", &urls, keys).start().await;
    gateway.knows_tools("alpha", 1).await;
    (gateway, grants)
}

/// A peer whose one tool `work` answers at once.
pub async fn working() -> FakePeer {
    FakePeer::start().await.with_json("work", json!("done"))
}

pub fn good() -> Behaviour {
    Behaviour::Answer(answer("200 OK", "application/json", br#""done""#))
}

pub async fn call(gateway: &Gateway) -> Answer {
    gateway.call("/alpha/work", &email_token(CALLER), &json!({})).await
}

/// How a call was answered, and after what time.
pub async fn timed(gateway: &Gateway) -> (u16, Duration) {
    let began = Instant::now();
    (call(gateway).await.status.as_u16(), began.elapsed())
}

/// Returns once so many addresses of the server are called.
pub async fn healthy(gateway: &Gateway, count: usize) {
    let labels = [("server", "alpha"), ("state", "healthy")];
    until("the peers' health", || async {
        (gateway.metrics().await.sum("portcullis_peers", &labels) == count as f64).then_some(())
    })
    .await;
}

/// Calls that go on all the time.
pub struct Load {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    callers: JoinSet<Vec<String>>,
}

impl Load {
    /// So many callers, each of whom calls again once answered.
    pub fn begin(gateway: &Gateway, path: &str, callers: usize) -> Self {
        let (is_over, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut load = Self { is_over, answered, callers: JoinSet::new() };
        for _ in 0..callers {
            let request = gateway.call_request(path, &email_token(CALLER), &json!({}));
            let (is_over, answered) = (load.is_over.clone(), load.answered.clone());
            load.callers.spawn(async move {
                let mut failures = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    match request.try_clone().unwrap().send().await {
                        Ok(response) if response.status() == 200 => {}
                        Ok(response) => {
                            failures.push(format!("{} {:?}", response.status(), response.text().await));
                        }
                        Err(error) => failures.push(format!("{error:?}")),
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                failures
            });
        }
        load
    }

    /// Returns once so many more calls were answered.
    pub async fn goes_on(&self, calls: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        until("calls under load", || async {
            (self.answered.load(Ordering::Relaxed) >= before + calls).then_some(())
        })
        .await;
    }

    /// Ends it; what was answered otherwise than it should have been.
    pub async fn end(mut self) -> Vec<String> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        while let Some(caller) = self.callers.join_next().await {
            failures.extend(caller.unwrap());
        }
        failures
    }
}

/// The body of an answer as JSON, for tests that compare all of it.
pub fn done() -> Value {
    json!("done")
}
