//! What a configuration makes, up to where connections are opened: the same for `run`, for `check` and for a reload.
//!
//! Decides whether a configuration that reads well can also be built: what one of the three refuses, all do. Starts
//! nothing and changes nothing that runs.

use std::sync::Arc;

use anyhow::{Context, bail};

use super::{
    believed::{self, Believed},
    shared::Shared,
};
use crate::{
    access::Access,
    client::{self, Client},
    config::Config,
    gateway::{Gateway, sign_in::SignIn},
    identity::Identity,
    mcp::session::SessionKeys,
    names::SecretKey,
    record::{Recorder, audit::refuse_unwritable},
    snapshot::tools::Sources,
    store::Store,
};

/// What decides about requests, as one configuration makes it.
pub struct Built {
    pub config: Arc<Config>,
    pub believed: Believed,
    pub access: Arc<Access>,
    session_keys: Arc<SessionKeys>,
    sign_in: Option<Arc<SignIn>>,
}

impl Built {
    /// What decides by this configuration; what is known from the one before goes on, where it means the same.
    pub fn new(config: Arc<Config>, before: Option<&Self>, own_key: &SecretKey) -> anyhow::Result<Self> {
        let believed = Believed::new(&config, before.map(|before| &before.believed));
        let access = match before {
            Some(before) if before.config.access == config.access => before.access.clone(),
            Some(_) | None => Arc::new(Access::new(config.access.clone())),
        };
        let session_keys = match before {
            Some(before) if before.config.gateway.mcp.session_keys == config.gateway.mcp.session_keys => {
                before.session_keys.clone()
            }
            Some(_) | None => config.gateway.mcp.keys(own_key),
        };
        let sign_in = sign_in(&config, &believed.identity)?;
        Ok(Self { config, believed, access, session_keys, sign_in })
    }

    /// The gateway that this makes of what all gateways of the process share.
    pub fn gateway(&self, shared: &Shared) -> Gateway {
        let settings = self.config.gateway.clone();
        shared.recorder.metrics.connections_max.set(settings.max_connections as i64);
        Gateway {
            catalog: shared.current.load().catalog.clone(),
            identity: self.believed.identity.clone(),
            access: self.access.clone(),
            current: shared.current.clone(),
            refresher: shared.refresher.clone(),
            documents: shared.documents.clone(),
            session_keys: self.session_keys.clone(),
            client: shared.client.clone(),
            desk: shared.desk.clone(),
            sign_in: self.sign_in.clone(),
            bench: shared.bench.clone(),
            live: shared.live.clone(),
            leaving: shared.leaving.clone(),
            limiting: shared.limiting.clone(),
            recorder: Recorder {
                tracer: shared.exporter.tracer(self.config.record.traces.as_ref()),
                ..shared.recorder.clone()
            },
            settings,
        }
    }
}

/// What the background asks others by. Opened where it will be used, because sockets belong to the runtime that opens them.
pub struct Opened {
    pub store: Store,
    pub sources: Sources,
    pub believed: believed::Opened,
}

impl Opened {
    /// Opens nothing yet: connections are made when they are needed.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let client = Client::new(client::Settings { max_answer_bytes: config.catalog.max_bytes });
        Ok(Self {
            store: Store::open(&config.store).context("the grants database")?,
            sources: Sources::new(config.catalog.clone(), client)?,
            believed: believed::Opened::new(&config.identity)?,
        })
    }
}

/// Builds all that `run` builds, and throws it away: whatever is refused here, `run` would refuse. Before anything is open.
pub fn rehearse(config: &Config) -> anyhow::Result<()> {
    if config.store.url.is_of_another_kind() {
        let place = &config.places.database;
        bail!(
            "{place}: `database.url` names a file that is no SQLite database\n  \
             hint: name another one; a file that is not there is made"
        );
    }
    if config.audit.is_on
        && let Err(error) = refuse_unwritable(&config.audit.spool_dir)
    {
        let (place, directory) = (&config.places.spool, config.audit.spool_dir.display());
        bail!(
            "{place}: `audit.spool_dir` (`{directory}`) cannot be written to: {error}\n  \
             hint: name a folder on a disk that can be, a volume where the root cannot, or say `audit.enabled = false`"
        );
    }
    let config = Arc::new(config.clone());
    Opened::new(&config)?;
    Built::new(config, None, &SecretKey::random()?).map(drop)
}

/// Signs users of MCP clients in, where both Entra ID and the facade in front of it are configured.
fn sign_in(config: &Config, identity: &Identity) -> anyhow::Result<Option<Arc<SignIn>>> {
    let facade = config.gateway.oauth.as_ref().and_then(|oauth| oauth.facade.clone());
    let both = facade.zip(identity.directory().cloned());
    Ok(both.map(|(facade, entra)| SignIn::new(facade, entra)).transpose()?.map(Arc::new))
}
