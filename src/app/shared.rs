//! What lives as long as the process, whatever configuration is in force.
//!
//! Decides nothing: it is handed to every gateway that a configuration makes.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::built::Built;
use crate::{
    catalog::Catalog,
    client::{self, Client},
    config::Config,
    endpoints::openapi::Documents,
    gateway::{
        configured::{Bench, Judge},
        leaving::Leaving,
        limiting::Limiting,
        live::LiveTrips,
        served::Desk,
    },
    names::SecretKey,
    record::{Recorder, levels::Levels, trace::Exporter},
    snapshot::{
        Current,
        tools::{Refresher, Wish},
    },
};

/// OpenAPI documents kept in memory, in bytes.
const DOCUMENT_BYTES: u64 = 64 * 1024 * 1024;

/// What requests and background tasks share.
#[derive(Clone)]
pub struct Shared {
    /// Without a tracer: each configuration has one of its own.
    pub recorder: Recorder,
    pub levels: Levels,
    /// Sends the spans of all of them.
    pub exporter: Exporter,
    pub current: Arc<Current>,
    pub refresher: Refresher,
    pub documents: Documents,
    pub client: Client,
    /// Probes peers: not with what calls use, or one would take a call's connection or have its session.
    pub prober: Client,
    pub desk: Arc<Desk>,
    pub live: Arc<LiveTrips>,
    pub leaving: Arc<Leaving>,
    pub bench: Arc<Bench>,
    pub limiting: Arc<Limiting>,
    /// Seals sessions where no key is configured.
    pub own_key: SecretKey,
}

impl Shared {
    /// As the first configuration has it, with what it decides by and the wishes that are made of the background.
    pub fn new(
        config: Config,
        (recorder, levels, exporter): (Recorder, Levels, Exporter),
        own_key: SecretKey,
    ) -> anyhow::Result<(Self, Built, mpsc::Receiver<Wish>)> {
        let (refresher, wishes) = Refresher::new();
        let built = Built::new(Arc::new(config), None, &own_key)?;
        let config = &built.config;
        let judge = Judge { identity: built.believed.identity.clone(), access: built.access.clone() };
        let current = Current::new(Catalog::new(config.servers.clone()), config.access.max_stale);
        let lists = current.clone();
        recorder.metrics.calls.ask_whether_listed(Box::new(move |server, tool| {
            lists.load().tools.find(server.as_str(), tool.as_str()).is_some()
        }));
        let shared = Self {
            limiting: Limiting::new(config.limits.clone(), recorder.metrics.clone()),
            recorder,
            levels,
            exporter,
            current,
            refresher,
            documents: Documents::new(DOCUMENT_BYTES),
            client: Client::new(client_settings(config)),
            prober: Client::new(prober_settings(config)),
            desk: Desk::new(config.gateway.mcp.session_ttl),
            live: Arc::default(),
            leaving: Arc::new(Leaving::new(config.gateway.shutdown_grace)),
            bench: Arc::new(Bench::from_pointee(judge)),
            own_key,
        };
        Ok((shared, built, wishes))
    }
}

/// How servers of MCP are called.
pub fn client_settings(config: &Config) -> client::Settings {
    client::Settings { max_answer_bytes: config.gateway.mcp.max_list_bytes }
}

/// How they are probed: what they offer is asked for.
pub fn prober_settings(config: &Config) -> client::Settings {
    client::Settings { max_answer_bytes: config.catalog.max_bytes }
}
