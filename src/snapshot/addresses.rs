//! Keeps the addresses of all servers resolved, so that no request ever waits for a name.
//!
//! Each name is asked for again when its TTL is over, and before that when no address of it can be reached. A name that
//! does not resolve leaves the last known addresses in place and is said once.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{
    Current,
    names::{self, Found, LONGEST, SHORTEST},
    servers::PerServer,
};
use crate::{
    catalog::server::Server,
    names::ServerId,
    upstream::{Addresses, Destination},
};

/// Between two looks while some name does not resolve.
const RETRY: Duration = Duration::from_secs(5);
/// Longest wait for one name.
const DEADLINE: Duration = Duration::from_secs(5);

/// Runs until the process ends: each server on its own, so that a slow name delays no other server.
pub async fn keep(current: Arc<Current>) {
    keep_by(current, names::look_up).await;
}

/// Where these servers are at this moment, for who can wait for names.
///
/// What is `known` of an address is known of it still.
pub async fn all_now(servers: &[Arc<Server>], known: &Addresses) -> Addresses {
    let look_ups = servers.iter().map(|server| async {
        let known = known.found(&server.id).cloned().unwrap_or_default();
        resolve(server, &known, names::look_up).await.destinations
    });
    let found = join_all(look_ups).await;
    let found = servers.iter().zip(found).filter(|(_, found)| !found.is_empty());
    found.fold(Addresses::default(), |all, (server, found)| all.with(server.id.clone(), found.into()))
}

/// Where one server is at this moment, for who can wait for names.
pub async fn now(server: &Server) -> Addresses {
    let resolved = resolve(server, &[], names::look_up).await;
    Addresses::default().with(server.id.clone(), resolved.destinations.into())
}

async fn keep_by<F>(current: Arc<Current>, look_up: impl Fn(String, u16) -> F + Clone + Send + Sync + 'static)
where
    F: Future<Output = io::Result<Found>> + Send + 'static,
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
    F: Future<Output = io::Result<Found>>,
{
    let id = &server.id;
    let mut told = Vec::new();
    loop {
        let known = current.load().addresses.of(&server);
        let Resolved { destinations, good_for, lost } = resolve(&server, &known, &look_up).await;
        let is_resolved = !destinations.is_empty();
        if lost != told {
            tell(id, &lost, is_resolved);
        }
        if let Some(first) = destinations.first() {
            first.health.tally().unresolved.store(lost.len(), Ordering::Relaxed);
        }
        let destinations: Arc<[Destination]> = if is_resolved { destinations.into() } else { known.clone() };
        if is_resolved && current.load().addresses.found(id) != Some(&destinations) {
            current.change(|snapshot| {
                if !snapshot.has(&server) {
                    return;
                }
                snapshot.addresses = Arc::new(snapshot.addresses.with(id.clone(), destinations.clone()));
            });
        }
        let pause = if lost.is_empty() { good_for } else { good_for.min(RETRY) };
        told = lost;
        // However often it is asked for, a name server is asked once a second.
        sleep(SHORTEST.min(pause)).await;
        let rest = pause.saturating_sub(SHORTEST);
        match destinations.first() {
            Some(first) => drop(timeout(rest, first.health.tally().look_up.notified()).await),
            None => sleep(rest).await,
        }
    }
}

/// Tells once what names stand for nothing, and that they do again.
fn tell(id: &ServerId, lost: &[String], is_resolved: bool) {
    let names = lost.join("`, `");
    match (lost.is_empty(), is_resolved) {
        (true, _) => info!(server.id = %id, "server `{id}` resolves again"),
        (false, true) => {
            warn!(server.id = %id, "`{names}` of server `{id}` does not resolve; calls go where it last led; trying again");
        }
        (false, false) => {
            warn!(server.id = %id, "no address of server `{id}` resolves (`{names}`); trying again");
        }
    }
}

/// Where a server is.
pub(super) struct Resolved {
    pub(super) destinations: Vec<Destination>,
    /// After this its names are to be asked for again.
    pub(super) good_for: Duration,
    /// Those of its names that stand for nothing.
    pub(super) lost: Vec<String>,
}

/// The addresses of all the server's peers, asked for at the same time. A peer whose name does not resolve stays where it
/// was known to be, and what was known of an address is known of it still.
pub(super) async fn resolve<F>(
    server: &Server,
    known: &[Destination],
    look_up: impl Fn(String, u16) -> F,
) -> Resolved
where
    F: Future<Output = io::Result<Found>>,
{
    let look_up = &look_up;
    let lookups = server.peers.iter().map(|peer| async move {
        match timeout(DEADLINE, look_up(peer.host.clone(), peer.port)).await {
            Ok(Ok(found)) if !found.addresses.is_empty() => (peer, found, true),
            Ok(_) | Err(_) => {
                let last = known.iter().filter(|known| known.peer == *peer).map(|known| known.address);
                (peer, Found { addresses: last.collect(), good_for: LONGEST }, false)
            }
        }
    });
    let looked_up = join_all(lookups).await;
    let good_for = looked_up.iter().map(|(_, found, _)| found.good_for).min().unwrap_or(LONGEST);
    let lost = looked_up.iter().filter(|(.., is_resolved)| !is_resolved);
    let lost = lost.map(|(peer, ..)| peer.host.clone()).collect();
    let at = |(peer, found, _): (&crate::catalog::server::PeerUrl, Found, bool)| {
        found.addresses.into_iter().map(|address| (peer.clone(), address)).collect::<Vec<_>>()
    };
    let found = looked_up.into_iter().flat_map(at).collect();
    Resolved { destinations: Destination::of(server, found, known), good_for, lost }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

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
                _ => Ok(Found::by_other_ways(vec![SocketAddr::from(([192, 0, 2, 1], port))])),
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

    fn found(addresses: &[&str], good_for: u64) -> io::Result<Found> {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Ok(Found { good_for: Duration::from_secs(good_for), ..Found::by_other_ways(addresses) })
    }

    #[tokio::test]
    async fn what_is_known_of_an_address_stays_for_as_long_as_it_does() {
        let server = at("a", "h");
        let first = resolve(&server, &[], |_, _| async { found(&["10.0.0.2:80", "10.0.0.1:80"], 7) }).await;
        assert_eq!((first.good_for, first.lost.len()), (Duration::from_secs(7), 0));
        let second =
            resolve(&server, &first.destinations, |_, _| async { found(&["10.0.0.3:80", "10.0.0.1:80"], 9) });
        let second = second.await.destinations;
        assert!(Arc::ptr_eq(&second[0].health, &first.destinations[0].health));
        assert!(Arc::ptr_eq(second[1].health.tally(), first.destinations[0].health.tally()));
        assert_eq!(second[1].address, "10.0.0.3:80".parse().unwrap());
        let gone = resolve(&server, &second, |_, _| async { Err(io::Error::other("no such host")) }).await;
        assert_eq!((gone.destinations, gone.lost), (second, vec!["h".to_owned()]), "the last known stay");
    }
}
