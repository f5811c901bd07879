//! Keeps what is believed true: owns every connection to a database and every outbound call of our own.
//!
//! Decides which tasks run for a configuration, and which of them go on when another one takes its place. Takes a
//! configuration over as a whole: what can fail is built before anything is changed.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use async_trait::async_trait;
use pingora::{server::ShutdownWatch, services::background::BackgroundService};
use tokio::sync::{mpsc, watch};

use super::{
    built::{Built, Opened},
    certificate,
    door::{Stand, Stands},
    reload::{self, Reloads, Taken},
    shared::{Shared, client_settings, prober_settings},
    stopping::LastThings,
    tasks::Tasks,
};
use crate::{
    catalog::{Catalog, server::Server},
    config::Config,
    gateway::{
        configured::{Configured, Judge},
        tls::Certificates,
    },
    snapshot::{
        self,
        pins::Pinner,
        tools::{Sources, Wish},
    },
    store,
    upstream::{Addresses, allowed::AllowedHosts},
};

/// What is handed to the keeper once, when it begins.
type Beginning = (Built, mpsc::Receiver<Wish>, Reloads, Option<Arc<Certificates>>);

/// Keeps the snapshot true, under whatever configuration is in force.
pub struct Keeper {
    shared: Shared,
    configured: Configured,
    beginning: Mutex<Option<Beginning>>,
    stands: Stands,
    last_things: LastThings,
}

#[async_trait]
impl BackgroundService for Keeper {
    async fn start(&self, _shutdown: ShutdownWatch) {
        // Every task of it runs for ever: one that ends has failed, and what it kept would grow old unseen.
        let error = match self.keep().await {
            Ok(task) => anyhow::anyhow!("the task that keeps {task} ended; this is a bug, please report it"),
            Err(error) => error.context("cannot start"),
        };
        self.last_things.give_up(&error);
    }
}

/// What tasks are told when it becomes another.
struct Told {
    store: watch::Sender<store::Settings>,
    sources: watch::Sender<Sources>,
    allowed: watch::Sender<Arc<AllowedHosts>>,
}

impl Keeper {
    pub fn new(
        shared: Shared,
        configured: Configured,
        beginning: Beginning,
        (stands, last_things): (Stands, LastThings),
    ) -> Self {
        Self { shared, configured, beginning: Mutex::new(Some(beginning)), stands, last_things }
    }

    /// Runs until a task ends, and says which.
    async fn keep(&self) -> anyhow::Result<&'static str> {
        let taken = self.beginning.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (mut built, wishes, mut reloads, certificates) = taken.context("the keeper was started twice")?;
        let metrics = &self.shared.recorder.metrics;
        let mut tasks = Tasks::default();
        // Built here, because sockets belong to the runtime that opens them.
        let told = self.begin(&mut tasks, &built, wishes)?;
        if let Some(certificates) = certificates {
            let kept = certificate::keep(certificates, metrics.clone(), self.stands.clone());
            tasks.begin("the certificate", kept);
        }
        reloads.note_start(&built.config, metrics);
        loop {
            tokio::select! {
                ended = tasks.ended() => return ended.context("nothing is kept"),
                wish = self.wished(&mut reloads) => {
                    let Some(next) = reloads.load(wish, &built.config, metrics).await else { continue };
                    match self.take(next, &built, &told, &mut tasks).await {
                        Ok((now, taken)) => {
                            built = now;
                            reloads.tell(taken, metrics);
                        }
                        Err(error) => reloads.refuse(&format!("{error:#}"), metrics),
                    }
                }
            }
        }
    }

    /// Returns when the configuration is to be read again: not once this process ends, because where another one has taken
    /// over, each bad file would be told twice.
    async fn wished(&self, reloads: &mut Reloads) -> reload::Wish {
        tokio::select! {
            biased;
            () = self.stands.reached(Stand::Leaving) => std::future::pending().await,
            wish = reloads.wished() => wish,
        }
    }

    fn begin(&self, tasks: &mut Tasks, built: &Built, wishes: mpsc::Receiver<Wish>) -> anyhow::Result<Told> {
        let Shared { current, refresher, recorder, live, bench, prober, .. } = &self.shared;
        let metrics = &recorder.metrics;
        let current = || current.clone();
        let Opened { store, sources, believed } = Opened::new(&built.config)?;
        let told = Told {
            store: watch::Sender::new(built.config.store.clone()),
            sources: watch::Sender::new(sources),
            allowed: watch::Sender::new(Arc::new(built.config.allowed_hosts.clone())),
        };
        tasks.begin("grants", snapshot::grants::keep(current(), store, told.store.subscribe()));
        let (pinner, sights) = Pinner::new();
        let sights = (refresher.clone(), sights);
        let pins = snapshot::pins::keep(current(), told.store.subscribe(), metrics.clone(), sights);
        tasks.begin("tool pins", pins);
        let wishes = (refresher.clone(), wishes);
        let tools = snapshot::tools::keep(current(), told.sources.subscribe(), pinner, wishes);
        tasks.begin("tool lists", tools);
        snapshot::names::ask(&built.config.nameservers);
        tasks.begin("peers' health", snapshot::probing::keep(current(), prober.clone()));
        tasks.begin("addresses", snapshot::addresses::keep(current()));
        let own = snapshot::own_addresses::keep(current(), told.allowed.subscribe());
        tasks.begin("own addresses", own);
        tasks.begin("live calls", live.clone().watch(current(), bench.clone()));
        for (group, own) in built.believed.tasks(believed, None, &current(), metrics)? {
            tasks.replace(group, own);
        }
        Ok(told)
    }

    /// Takes a configuration over. Where it cannot be, nothing has changed.
    async fn take(
        &self,
        next: Config,
        before: &Built,
        told: &Told,
        tasks: &mut Tasks,
    ) -> anyhow::Result<(Built, Taken)> {
        let Shared { current, recorder, bench, client, prober, own_key, .. } = &self.shared;
        let built = Built::new(Arc::new(next), Some(before), own_key)?;
        let (config, running) = (&built.config, &before.config);
        let Opened { store, sources, believed } = Opened::new(config)?;
        let known = current.load().catalog.clone();
        let catalog = Arc::new(Catalog::new(config.servers.clone()).sharing(&known));
        // Before anybody is sent there.
        let found = found(&catalog, &known, &current.load().addresses).await;
        let groups = built.believed.tasks(believed, Some(&before.believed), current, &recorder.metrics)?;
        // From here on nothing fails and nothing waits: no request sees half of it.
        tokio::spawn(async move { store.close().await });
        for (group, own) in groups {
            tasks.replace(group, own);
        }
        if config.store != running.store {
            told.store.send_replace(config.store.clone());
        }
        if config.catalog != running.catalog {
            told.sources.send_replace(sources);
        }
        if config.allowed_hosts != running.allowed_hosts {
            told.allowed.send_replace(Arc::new(config.allowed_hosts.clone()));
        }
        snapshot::names::ask(&config.nameservers);
        client.take(&client_settings(config));
        prober.take(&prober_settings(config));
        self.shared.limiting.replace(config.limits.clone());
        recorder.access_log.switch(config.record.is_access_log_on);
        recorder.audit.take(&config.audit, &config.store);
        current.set_max_stale(config.access.max_stale);
        let are_others = !catalog.is_same(&known);
        if are_others {
            current.take_servers(&catalog, &found);
        }
        let judge = Judge { identity: built.believed.identity.clone(), access: built.access.clone() };
        let has_other_judge = bench.load().is_other(&judge);
        bench.store(Arc::new(judge));
        self.configured.replace(built.gateway(&self.shared));
        if are_others || has_other_judge {
            // Whatever is underway is judged anew, by the new judge and of the new servers.
            current.announce_callers_changed();
        }
        for server in known.iter().filter(|server| !is_kept(&catalog, server)) {
            client.forget(&server.id);
            prober.forget(&server.id);
            told.sources.borrow().forget(&server.id);
        }
        let gone = known.iter().filter(|server| !is_served(&catalog, server));
        let taken = Taken { gone: gone.map(|server| server.id.clone()).collect() };
        Ok((built, taken))
    }
}

/// Whether the server is asked as before.
fn is_kept(catalog: &Catalog, before: &Server) -> bool {
    let now = catalog.get(before.id.as_str());
    now.is_some_and(|now| now.is_enabled == before.is_enabled && now.is_kept_like(before))
}

fn is_served(catalog: &Catalog, server: &Server) -> bool {
    catalog.get(server.id.as_str()).is_some_and(|server| server.is_enabled)
}

/// Where those servers are that are called from now on and are not where they were, or not trusted by the same.
async fn found(catalog: &Catalog, known: &Catalog, addresses: &Addresses) -> Addresses {
    let is_elsewhere = |server: &&Arc<Server>| {
        let before = known.get(server.id.as_str()).filter(|before| before.is_enabled);
        let is_same =
            |before: &Arc<Server>| before.peers == server.peers && before.care.tls == server.care.tls;
        server.is_enabled && !before.is_some_and(is_same)
    };
    let servers: Vec<_> = catalog.iter().filter(is_elsewhere).cloned().collect();
    snapshot::addresses::all_now(&servers, addresses).await
}
