//! Keeps the addresses of all servers resolved, so that no request ever waits for a name.
//!
//! A name that does not resolve leaves the last known addresses in place and is said once.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::join_all};
use tracing::{info, warn};

use super::{Current, servers::PerServer};
use crate::{
    catalog::server::Server,
    upstream::{Addresses, Destination},
};

/// Between two looks at every name.
const REFRESH: Duration = Duration::from_secs(30);
/// Between two looks while some name does not resolve.
const RETRY: Duration = Duration::from_secs(5);
/// Longest wait for one name.
const DEADLINE: Duration = Duration::from_secs(5);

/// Runs until the process ends: each server on its own, so that a slow name delays no other server.
pub async fn keep(current: Arc<Current>) {
    keep_by(current, look_up).await;
}

/// Where these servers are at this moment, for who can wait for names.
pub async fn all_now(servers: &[Arc<Server>]) -> Addresses {
    let found = join_all(servers.iter().map(|server| resolve(server, look_up))).await;
    let found = servers.iter().zip(found).filter(|(_, found)| !found.is_empty());
    found.fold(Addresses::default(), |all, (server, found)| all.with(server.id.clone(), found.into()))
}

/// Where one server is at this moment, for who can wait for names.
pub async fn now(server: &Server) -> Addresses {
    Addresses::default().with(server.id.clone(), resolve(server, look_up).await.into())
}

pub(super) async fn look_up(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((host.as_str(), port)).await?.collect())
}

async fn keep_by<F>(current: Arc<Current>, look_up: impl Fn(String, u16) -> F + Clone + Send + Sync + 'static)
where
    F: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
{
    let mut changes = current.servers_versions();
    let mut keepers = PerServer::new();
    loop {
        // A server that is off is called by nobody, so its name is nobody's business.
        keepers.follow(&current.load().catalog, |server| {
            ((), keep_one(current.clone(), server.clone(), look_up.clone()).boxed())
        });
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = keepers.ended() => return,
        }
    }
}

async fn keep_one<F>(current: Arc<Current>, server: Arc<Server>, look_up: impl Fn(String, u16) -> F)
where
    F: Future<Output = io::Result<Vec<SocketAddr>>>,
{
    let id = &server.id;
    let mut was_resolved = true;
    loop {
        let destinations: Arc<[Destination]> = resolve(&server, &look_up).await.into();
        let is_resolved = !destinations.is_empty();
        match (was_resolved, is_resolved) {
            (true, false) => warn!(server.id = %id, "no address of server `{id}` resolves; trying again"),
            (false, true) => info!(server.id = %id, "server `{id}` resolves again"),
            _ => {}
        }
        was_resolved = is_resolved;
        if is_resolved && current.load().addresses.found(id) != Some(&destinations) {
            current.change(|snapshot| {
                if !snapshot.has(&server) {
                    return;
                }
                snapshot.addresses = Arc::new(snapshot.addresses.with(id.clone(), destinations.clone()));
            });
        }
        tokio::time::sleep(if is_resolved { REFRESH } else { RETRY }).await;
    }
}

/// The addresses of all the server's peers, asked for at the same time.
pub(super) async fn resolve<F>(server: &Server, look_up: impl Fn(String, u16) -> F) -> Vec<Destination>
where
    F: Future<Output = io::Result<Vec<SocketAddr>>>,
{
    let look_up = &look_up;
    let lookups = server.peers.iter().map(|peer| async move {
        let lookup = look_up(peer.host.clone(), peer.port);
        let Ok(Ok(addresses)) = tokio::time::timeout(DEADLINE, lookup).await else {
            return Vec::new();
        };
        addresses.into_iter().map(|address| Destination::new(peer.clone(), address)).collect()
    });
    join_all(lookups).await.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{
        Catalog,
        server::{PeerUrl, tests_support::server},
    };

    fn at(id: &str, host: &str) -> Server {
        let peer = PeerUrl { is_tls: false, host: host.into(), port: 80, base_path: String::new() };
        Server { peers: [peer].into(), ..Server::clone(&server(id)) }
    }

    #[tokio::test]
    async fn a_name_that_hangs_or_fails_delays_no_other_server_and_one_that_is_off_is_not_asked_for() {
        let off = Server { is_enabled: false, ..at("f", "good") };
        let servers =
            [at("a", "hangs"), at("b", "fails"), at("c", "good"), at("d", "hangs"), at("e", "good"), off];
        let current = Current::new(Catalog::new(servers), Duration::from_secs(3600));
        let look_up = |host: String, port| async move {
            match host.as_str() {
                "hangs" => std::future::pending().await,
                "fails" => Err(io::Error::other("no such host")),
                _ => Ok(vec![SocketAddr::from(([192, 0, 2, 1], port))]),
            }
        };
        let of = |id: &str| current.load().addresses.of(current.load().catalog.get(id).unwrap());
        let resolved = async {
            while of("c").is_empty() || of("e").is_empty() {
                tokio::task::yield_now().await;
            }
        };
        // Well under the wait for one name.
        tokio::select! {
            () = keep_by(current.clone(), look_up) => unreachable!("it runs for ever"),
            found = tokio::time::timeout(DEADLINE / 2, resolved) => found.expect("a good name waits for others"),
        }
        assert!(of("a").is_empty() && of("b").is_empty() && of("d").is_empty());
        assert!(of("f").is_empty(), "a server that is off is not looked up");
        assert_eq!(of("c")[0].address, "192.0.2.1:80".parse().unwrap());
    }
}
