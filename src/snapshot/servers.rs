//! Another configuration's servers take the place of the present ones, and what is done for each of them goes along.
//!
//! Decides what stays of what was read: all of a server that is still there and speaks what it spoke. One that is switched
//! off or gone is forgotten. Never decides which servers there are.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::task::{AbortHandle, JoinSet};

use super::{Current, Snapshot};
use crate::{
    catalog::{Catalog, server::Server},
    names::ServerId,
    upstream::Addresses,
};

impl Current {
    /// These are the servers from now on, and where those among them are that nobody has looked for.
    pub fn take_servers(&self, catalog: &Arc<Catalog>, found: &Addresses) {
        self.change_tools(|snapshot| {
            *snapshot = snapshot.of_servers(catalog, found);
            // Names and descriptions may be others even where the tools are not.
            true
        });
        self.servers_versions.send_modify(|version| *version += 1);
        // Whoever uses a server that is gone is looked at again.
        self.announce_callers_changed();
    }
}

impl Snapshot {
    fn of_servers(&self, catalog: &Arc<Catalog>, found: &Addresses) -> Self {
        let is_kept = |id: &ServerId| {
            let (now, before) = (catalog.get(id.as_str()), self.catalog.get(id.as_str()));
            now.zip(before).is_some_and(|(now, before)| now.is_enabled && now.dialect == before.dialect)
        };
        let ids = || catalog.iter().map(|server| &server.id);
        let mut snapshot = Self {
            tools: Arc::new(self.tools.among(ids(), is_kept)),
            offers: Arc::new(self.offers.among(ids(), is_kept)),
            pins: Arc::new(self.pins.retain(is_kept)),
            addresses: Arc::new(self.addresses.among(catalog, found)),
            catalog: catalog.clone(),
            ..self.clone()
        };
        for server in catalog.iter() {
            // What is pinned from now on shows nothing that is not approved, and the other way round.
            if self.catalog.get(server.id.as_str()).is_some_and(|before| before.is_pinned != server.is_pinned)
            {
                snapshot.show(server, None);
            }
        }
        snapshot
    }

    /// Whether what was found out of this server is still of use.
    pub(super) fn has(&self, server: &Server) -> bool {
        self.catalog.get(server.id.as_str()).is_some_and(|now| now.is_kept_like(server))
    }
}

/// One task for every server that is on; `T` is what others reach it by.
pub(super) struct PerServer<T> {
    tasks: JoinSet<()>,
    running: BTreeMap<ServerId, Running<T>>,
}

struct Running<T> {
    server: Arc<Server>,
    reached_by: T,
    task: AbortHandle,
}

impl<T> PerServer<T> {
    pub(super) fn new() -> Self {
        Self { tasks: JoinSet::new(), running: BTreeMap::new() }
    }

    /// Ends the tasks of servers that are gone, off or others now, and begins those that are missing.
    pub(super) fn follow(
        &mut self,
        catalog: &Catalog,
        mut begin: impl FnMut(&Arc<Server>) -> (T, BoxFuture<'static, ()>),
    ) {
        self.running.retain(|id, running| {
            let now = catalog.get(id.as_str()).filter(|server| server.is_enabled);
            let goes_on = now.is_some_and(|server| server.is_kept_like(&running.server));
            if !goes_on {
                running.task.abort();
            }
            goes_on
        });
        for server in catalog.iter().filter(|server| server.is_enabled) {
            if !self.running.contains_key(&server.id) {
                let (reached_by, task) = begin(server);
                let task = self.tasks.spawn(task);
                self.running.insert(server.id.clone(), Running { server: server.clone(), reached_by, task });
            }
        }
    }

    /// Ends all tasks.
    pub(super) fn clear(&mut self) {
        for running in std::mem::take(&mut self.running).into_values() {
            running.task.abort();
        }
    }

    /// By what a server's task is reached.
    pub(super) fn of(&self, server: &ServerId) -> Option<&T> {
        self.running.get(server).map(|running| &running.reached_by)
    }

    /// Returns when a task has ended by itself, which none should.
    pub(super) async fn ended(&mut self) {
        loop {
            match self.tasks.join_next().await {
                Some(Err(error)) if error.is_cancelled() => {}
                Some(_) => return,
                // Without a server there is nothing to do, and none ends.
                None => std::future::pending().await,
            }
        }
    }
}
