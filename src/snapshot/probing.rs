//! Looks after peers that are not called for now, so that they come back by themselves; and after all, where that is
//! configured.
//!
//! A probe is a real request: a tool's call where the operator names one, else the question what the server offers. Peers
//! of groups' own are only connected to: whose key would be shown is not ours to choose. A server that is off is never
//! probed. Decides nothing about health: `upstream/breaker.rs` does.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::timeout;

use super::Current;
use crate::{
    catalog::server::Server,
    client::Client,
    upstream::{Destination, breaker::Fault, way::probe_way},
};

/// Between two looks at the peers' state.
const LOOK: Duration = Duration::from_millis(100);
/// Between two looks at those that groups have of their own, which may be many.
const LOOKS_AT_OWN: u32 = 10;
/// Longest wait for a probe.
const PATIENCE: Duration = Duration::from_secs(5);
/// Probes that are underway at the same time.
const AT_ONCE: usize = 64;

/// Runs until the process ends.
pub async fn keep(current: Arc<Current>, client: Client) {
    let mut probes: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut look: u32 = 0;
    loop {
        tokio::select! {
            Some(()) = probes.next(), if !probes.is_empty() => {}
            _ = ticks.tick() => {
                look = look.wrapping_add(1);
                let due = due(&current, look.is_multiple_of(LOOKS_AT_OWN));
                let room = AT_ONCE.saturating_sub(probes.len());
                for Due { server, destination, is_own, .. } in due.into_iter().take(room) {
                    if destination.health.take_probe() {
                        probes.push(probe(client.clone(), server, destination, is_own).boxed());
                    }
                }
            }
        }
    }
}

/// A peer that is to be probed.
struct Due {
    since: u64,
    server: Arc<Server>,
    destination: Destination,
    is_own: bool,
}

/// Which peers are to be probed now, first those that have waited longest.
fn due(current: &Current, with_own: bool) -> Vec<Due> {
    let snapshot = current.load();
    let mut due = Vec::new();
    let mut look_at = |server: &Arc<Server>, all: &[Destination], is_own: bool| {
        let is_urgent = !all.iter().any(|destination| destination.health.is_good());
        let every = server.care.probe.every.filter(|_| !is_own);
        due.extend(all.iter().filter_map(|destination| {
            let since = destination.health.probe_due(every, is_urgent)?;
            Some(Due { since, server: server.clone(), destination: destination.clone(), is_own })
        }));
    };
    for (id, all) in snapshot.addresses.shared() {
        if let Some(server) = snapshot.catalog.get(id.as_str()).filter(|server| server.is_enabled) {
            look_at(server, all, false);
        }
    }
    for (id, own) in snapshot.addresses.own().iter().filter(|_| with_own) {
        if let Some(server) = snapshot.catalog.get(id.as_str()).filter(|server| server.is_enabled) {
            own.values().for_each(|all| look_at(server, all, true));
        }
    }
    due.sort_by_key(|due| due.since);
    due
}

async fn probe(client: Client, server: Arc<Server>, destination: Destination, is_own: bool) {
    let health = destination.health.clone();
    if is_own {
        let connecting = tokio::net::TcpStream::connect(destination.address);
        let connected = timeout(server.deadlines.connect.min(PATIENCE), connecting).await;
        return health.probed((!matches!(connected, Ok(Ok(_)))).then_some(Fault::Unreached), false);
    }
    let is_real_call = server.care.probe.tool.is_some();
    // Lists may have a credential of their own, a call has not.
    let for_lists = server.discovery_credential.clone().filter(|_| !is_real_call);
    let credential = for_lists.or_else(|| server.credential.clone());
    let patience = PATIENCE.min(server.deadlines.first_byte.max(Duration::from_secs(1)));
    let way = probe_way(server, destination, credential);
    let fault = match timeout(patience, client.fault_at(&way)).await {
        Ok(fault) => fault,
        Err(_) => Some(Fault::TooSlow),
    };
    health.probed(fault, is_real_call);
}
