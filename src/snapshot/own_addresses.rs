//! Keeps the addresses that groups have of their own resolved: those the operator allows, and no others.
//!
//! A row is read, checked and resolved here, in the background; a call finds what may be called, or nothing. What does
//! not resolve for a while keeps its last addresses.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::Instant;
use tracing::warn;

use super::{Current, addresses};
use crate::{
    access::tenant::Tenants,
    catalog::server::Server,
    upstream::{
        Destination, OwnAddresses,
        allowed::{AllowedHosts, may_stand_for},
    },
};

/// Between two looks at every name.
const REFRESH: Duration = Duration::from_secs(30);
/// Between two looks while some name does not resolve.
const RETRY: Duration = Duration::from_secs(5);

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
    let mut lookups: HashMap<_, HashMap<Box<str>, _>> = HashMap::new();
    for (id, url) in tenants.endpoints() {
        let Some(server) = snapshot.catalog.get(id.as_str()) else { continue };
        let Some(peer) = allowed.read(url, server.dialect.is_mcp()) else {
            if is_news {
                // Not the address: it may hold a password.
                warn!(server.id = %id, "a group's own address for server `{id}` is none, or not in `upstream.allowed_hosts`; \
                      its calls are refused");
            }
            continue;
        };
        let server = Server { peers: [peer].into(), ..Server::clone(server) };
        lookups.entry(id.clone()).or_default().insert(url.into(), server);
    }
    let resolved = lookups.into_iter().map(|(id, servers)| {
        let last = before.get(&id);
        async move {
            let each = servers.into_iter().map(|(url, server)| async move {
                let mut found = addresses::resolve(&server, addresses::look_up).await;
                found.retain(|destination| may_stand_for(&destination.peer, &destination.address));
                let last = || last.and_then(|last| last.get(&url)).cloned().unwrap_or_default();
                let (is_resolved, found) = if found.is_empty() {
                    (false, last())
                } else {
                    (true, Arc::<[Destination]>::from(found))
                };
                (url, found, is_resolved)
            });
            (id, join_all(each).await)
        }
    });
    let mut is_complete = true;
    let mut own = OwnAddresses::new();
    for (id, found) in join_all(resolved).await {
        is_complete &= found.iter().all(|(.., is_resolved)| *is_resolved);
        own.insert(id, found.into_iter().map(|(url, found, _)| (url, found)).collect());
    }
    if own != *before {
        current.change(|snapshot| snapshot.addresses = Arc::new(snapshot.addresses.with_own(own.clone())));
    }
    is_complete
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
