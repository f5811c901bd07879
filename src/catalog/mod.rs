//! What there is to reach: the servers of the configuration and what they were last seen to offer.
//!
//! Decides nothing about callers. Built from `config` and from lists fetched in the background;
//! read by `route`, `access`, `upstream` and `endpoints`.

pub mod care;
mod entry;
pub mod limits;
pub mod offers;
pub mod peer_url;
pub mod pins;
pub mod search;
pub mod server;
pub mod tools;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::names::ServerId;
use server::Server;

/// How tool lists are kept fresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Time between two readings of a server's tool list.
    pub refresh: Duration,
    /// Deadline for reading one tool list.
    pub deadline: Duration,
    /// Largest tool list accepted.
    pub max_bytes: usize,
}

/// The servers, by id, in one fixed order.
#[derive(Debug, Default)]
pub struct Catalog {
    servers: BTreeMap<ServerId, Arc<Server>>,
}

impl Catalog {
    /// Builds the catalog from checked servers.
    pub fn new(servers: impl IntoIterator<Item = Server>) -> Self {
        Self { servers: servers.into_iter().map(|server| (server.id.clone(), Arc::new(server))).collect() }
    }

    /// The same servers; those that are what they were in another catalog are one and the same value.
    pub fn sharing(mut self, before: &Self) -> Self {
        for (id, server) in &mut self.servers {
            if let Some(known) = before.servers.get(id).filter(|known| *known == server) {
                *server = known.clone();
            }
        }
        self
    }

    /// Whether both have the same servers, after `sharing`.
    pub fn is_same(&self, other: &Self) -> bool {
        self.servers.len() == other.servers.len()
            && self.servers.values().zip(other.servers.values()).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// The server with this id.
    pub fn get(&self, id: &str) -> Option<&Arc<Server>> {
        self.servers.get(id)
    }

    /// All servers, ordered by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.servers.values()
    }
}
