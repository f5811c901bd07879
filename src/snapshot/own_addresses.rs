//! Keeps the addresses that groups have of their own resolved: those the operator allows, and no others.
//!
//! A row is read, checked and resolved here, in the background; a call finds what may be called, or nothing. What does
//! not resolve for a while keeps its last addresses.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tracing::warn;

use super::{Current, addresses};
use crate::{
    access::tenant::Tenants,
    catalog::server::Server,
    names::ServerId,
    upstream::{
        OwnAddresses,
        allowed::{AllowedHosts, may_stand_for},
    },
};

/// Between two looks at every name.
const REFRESH: Duration = Duration::from_secs(30);
/// Between two looks while some name does not resolve.
const RETRY: Duration = Duration::from_secs(5);
/// Names that are asked for at the same time.
const AT_ONCE: usize = 32;

/// Runs until the process ends.
pub async fn keep(current: Arc<Current>, allowed: AllowedHosts) {
    let mut versions = current.versions();
    let mut known: Arc<Tenants> = Arc::default();
    let mut due = Instant::now() + REFRESH;
    loop {
        let tenants = tenants(&current);
        if !Arc::ptr_eq(&tenants, &known) || Instant::now() >= due {
            let is_news = !Arc::ptr_eq(&tenants, &known);
            let is_complete = refresh(&current, &tenants, &allowed, is_news).await;
            due = Instant::now() + if is_complete { REFRESH } else { RETRY };
            known = tenants;
        }
        tokio::select! {
            changed = versions.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(due) => {}
        }
    }
}

fn tenants(current: &Current) -> Arc<Tenants> {
    let snapshot = current.load();
    snapshot.grants.as_ref().map(|known| known.grants.tenants().clone()).unwrap_or_default()
}

/// Reads all rows anew; false where a name does not resolve.
async fn refresh(current: &Current, tenants: &Tenants, allowed: &AllowedHosts, is_news: bool) -> bool {
    let snapshot = current.load();
    let before = snapshot.addresses.own();
    let mut servers: HashMap<(ServerId, Box<str>), Server> = HashMap::new();
    for (id, url) in tenants.endpoints() {
        let Some(server) = snapshot.catalog.get(id.as_str()) else { continue };
        match allowed.read(url, server.dialect.is_mcp()) {
            Some(peer) => {
                servers.insert(
                    (id.clone(), url.into()),
                    Server { peers: [peer].into(), ..Server::clone(server) },
                );
            }
            // Not the address: it may hold a password.
            None if is_news => warn!(
                server.id = %id,
                "a group's own address for server `{id}` is no address, or its host is not in `upstream.allowed_hosts`; its calls are refused"
            ),
            None => {}
        }
    }
    // What is no longer there goes at once; what a slow name stands for holds up no other.
    let mut own = OwnAddresses::new();
    for (id, url) in servers.keys() {
        if let Some(last) = before.get(id).and_then(|last| last.get(url)) {
            own.entry(id.clone()).or_default().insert(url.clone(), last.clone());
        }
    }
    publish(current, &own);
    let lookups = stream::iter(servers).map(|((id, url), server)| async move {
        let mut found = addresses::resolve(&server, addresses::look_up).await;
        found.retain(|destination| may_stand_for(&destination.peer, &destination.address));
        (id, url, found)
    });
    let mut is_complete = true;
    let mut resolved = std::pin::pin!(lookups.buffer_unordered(AT_ONCE).ready_chunks(AT_ONCE));
    while let Some(chunk) = resolved.next().await {
        for (id, url, found) in chunk {
            is_complete &= !found.is_empty();
            let known = own.entry(id).or_default().entry(url).or_default();
            if !found.is_empty() {
                *known = found.into();
            }
        }
        publish(current, &own);
    }
    is_complete
}

fn publish(current: &Current, own: &OwnAddresses) {
    if current.load().addresses.own() != own {
        current.change(|snapshot| snapshot.addresses = Arc::new(snapshot.addresses.with_own(own.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access::grants::Grants,
        catalog::{Catalog, server::tests_support::server},
        store::GrantRow,
        upstream::allowed::AllowedHost,
    };

    #[tokio::test]
    async fn only_allowed_addresses_are_found_and_each_for_its_server() {
        let current = Current::new(
            Catalog::new(["a", "b"].map(|id| Server::clone(&server(id)))),
            Duration::from_secs(60),
        );
        let row = |group, server, url| GrantRow::Endpoint { group, server, url };
        let rows = [
            row("G", "a", "http://127.0.0.1:81/x"),
            row("H", "a", "http://127.0.0.2:81"),
            row("G", "b", "http://127.0.0.1:82"),
            row("G", "gone", "http://127.0.0.1:83"),
            row("H", "b", "not an address"),
        ];
        let grants: Grants = rows.into_iter().collect();
        let allowed = AllowedHosts(vec![AllowedHost::parse("127.0.0.1").unwrap()]);
        assert!(refresh(&current, grants.tenants(), &allowed, true).await);
        let snapshot = current.load();
        let mut found: Vec<_> = snapshot
            .addresses
            .own()
            .iter()
            .flat_map(|(id, own)| own.iter().map(move |(url, at)| format!("{id} {url} {}", at[0].address)))
            .collect();
        found.sort();
        assert_eq!(found, ["a http://127.0.0.1:81/x 127.0.0.1:81", "b http://127.0.0.1:82 127.0.0.1:82"]);
        refresh(&current, &Tenants::default(), &allowed, true).await;
        assert!(current.load().addresses.own().is_empty());
    }
}
