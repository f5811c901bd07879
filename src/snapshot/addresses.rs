//! Keeps the addresses of all servers resolved, so that no request ever waits for a name.
//!
//! A name that does not resolve leaves the last known addresses in place and is said once.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tracing::{info, warn};

use super::Current;
use crate::{catalog::server::Server, upstream::Destination};

/// Between two looks at every name.
const REFRESH: Duration = Duration::from_secs(30);
/// Between two looks while some name does not resolve.
const RETRY: Duration = Duration::from_secs(5);
/// Longest wait for one name.
const DEADLINE: Duration = Duration::from_secs(5);

/// Runs until the process ends: each server on its own, so that a slow name delays no other server.
pub async fn keep(current: Arc<Current>) {
    let servers: Vec<Arc<Server>> = current.load().catalog.iter().cloned().collect();
    join_all(servers.into_iter().map(|server| keep_one(current.clone(), server))).await;
    // A catalog without servers has nothing to resolve, and never will.
    std::future::pending().await
}

async fn keep_one(current: Arc<Current>, server: Arc<Server>) {
    let id = &server.id;
    let mut was_resolved = true;
    loop {
        let destinations: Arc<[Destination]> = resolve(&server).await.into();
        let is_resolved = !destinations.is_empty();
        match (was_resolved, is_resolved) {
            (true, false) => warn!(server.id = %id, "no address of server `{id}` resolves; trying again"),
            (false, true) => info!(server.id = %id, "server `{id}` resolves again"),
            _ => {}
        }
        was_resolved = is_resolved;
        if is_resolved && *current.load().addresses.of(id) != *destinations {
            current.change(|snapshot| {
                snapshot.addresses = Arc::new(snapshot.addresses.with(id.clone(), destinations.clone()));
            });
        }
        tokio::time::sleep(if is_resolved { REFRESH } else { RETRY }).await;
    }
}

/// The addresses of all the server's peers, asked for at the same time.
async fn resolve(server: &Server) -> Vec<Destination> {
    let lookups = server.peers.iter().map(|peer| async move {
        let lookup = tokio::net::lookup_host((peer.host.as_str(), peer.port));
        let Ok(Ok(addresses)) = tokio::time::timeout(DEADLINE, lookup).await else {
            return Vec::new();
        };
        addresses.map(|address| Destination { peer: peer.clone(), address }).collect()
    });
    join_all(lookups).await.concat()
}
