//! Keeps the addresses of all servers resolved, so that no request ever waits for a name.
//!
//! A name that does not resolve leaves the last known addresses in place and is said once.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tracing::{info, warn};

use super::Current;
use crate::{catalog::server::Server, names::ServerId, upstream::Destination};

/// Between two looks at every name.
const REFRESH: Duration = Duration::from_secs(30);
/// Between two looks while some name does not resolve.
const RETRY: Duration = Duration::from_secs(5);
/// Longest wait for one name.
const DEADLINE: Duration = Duration::from_secs(5);

/// Runs until the process ends.
pub async fn keep(current: Arc<Current>) {
    let mut failing = HashSet::new();
    loop {
        let servers: Vec<Arc<Server>> = current.load().catalog.iter().cloned().collect();
        let lookups = servers.iter().map(|server| resolve(server));
        for (server, destinations) in servers.iter().zip(futures_util::future::join_all(lookups).await) {
            note(&mut failing, &server.id, destinations.is_empty());
            if !destinations.is_empty() && *current.load().addresses.of(&server.id) != destinations[..] {
                let destinations: Arc<[Destination]> = destinations.into();
                current.change(|snapshot| {
                    snapshot.addresses =
                        Arc::new(snapshot.addresses.with(server.id.clone(), destinations.clone()));
                });
            }
        }
        tokio::time::sleep(if failing.is_empty() { REFRESH } else { RETRY }).await;
    }
}

async fn resolve(server: &Server) -> Vec<Destination> {
    let mut destinations = Vec::new();
    for peer in server.peers.iter() {
        let lookup = tokio::net::lookup_host((peer.host.as_str(), peer.port));
        let Ok(Ok(addresses)) = tokio::time::timeout(DEADLINE, lookup).await else {
            continue;
        };
        destinations.extend(addresses.map(|address| Destination { peer: peer.clone(), address }));
    }
    destinations
}

fn note(failing: &mut HashSet<ServerId>, server: &ServerId, is_failing: bool) {
    if is_failing && failing.insert(server.clone()) {
        warn!(server.id = %server, "no address of server `{server}` resolves; trying again");
    } else if !is_failing && failing.remove(server) {
        info!(server.id = %server, "server `{server}` resolves again");
    }
}
