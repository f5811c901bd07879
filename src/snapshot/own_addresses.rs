//! Keeps the addresses that groups have of their own resolved: those the operator allows, and no others.
//!
//! A row is read, checked and resolved here, in the background; a call finds what may be called, or nothing. An address in
//! numbers is there at once, a new name is asked for before an old one, and one that does not resolve holds up no other:
//! what it last stood for stays.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{sync::watch, time::Instant};
use tracing::warn;

use super::{
    Current,
    addresses::{self, Resolved},
    names,
};
use crate::{
    access::tenant::Tenants,
    catalog::{
        care::TlsFiles,
        server::{PeerUrl, Server},
    },
    names::ServerId,
    upstream::{Destination, OwnAddresses, allowed::AllowedHosts},
};

/// Between two looks at a name, however short its TTL.
const SHORTEST: Duration = Duration::from_secs(5);
/// Longest pause of the task.
const PAUSE: Duration = Duration::from_secs(30);
/// Between two looks at a name that does not resolve; doubled each time, up to [`LONGEST_RETRY`].
const RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// Names that are asked for at the same time.
const AT_ONCE: usize = 128;
/// Between two times that what was found is shown: each copies what the servers concerned have.
const SHOWN_EVERY: Duration = Duration::from_millis(50);
/// So many rows are looked at before others have a turn.
const ROWS_AT_ONCE: usize = 1_000;

/// A row: the server, and its address as written.
type Key = (ServerId, Box<str>);
type Looked = (Key, Resolved);

/// Runs until the process ends.
pub async fn keep(current: Arc<Current>, mut allowed: watch::Receiver<Arc<AllowedHosts>>) {
    let (mut versions, mut servers) = (current.versions(), current.servers_versions());
    let now = allowed.borrow_and_update().clone();
    let mut keeper = Keeper::new(current, now);
    let mut lookups: FuturesUnordered<BoxFuture<'static, Looked>> = FuturesUnordered::new();
    loop {
        keeper.take_rows().await;
        while lookups.len() < AT_ONCE
            && let Some((key, server)) = keeper.next_due()
        {
            let known = keeper.known_at(&key);
            lookups.push(look_up(keeper.allowed.clone(), key, server, known).boxed());
        }
        keeper.show();
        let pause = keeper.pause(lookups.len() < AT_ONCE);
        tokio::select! {
            changed = versions.changed() => if changed.is_err() { return },
            Ok(()) = servers.changed() => keeper.judge_anew(),
            Ok(()) = allowed.changed() => {
                keeper.allowed = allowed.borrow_and_update().clone();
                keeper.judge_anew();
            }
            Some(looked) = lookups.next(), if !lookups.is_empty() => {
                keeper.note(looked);
                while let Some(Some(looked)) = lookups.next().now_or_never() {
                    keeper.note(looked);
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn look_up(
    allowed: Arc<AllowedHosts>,
    key: Key,
    server: Arc<Server>,
    known: Arc<[Destination]>,
) -> Looked {
    let mut found = addresses::resolve(&server, &known, names::look_up).await;
    found.destinations.retain(|destination| allowed.may_stand_for(&destination.peer, &destination.address));
    (key, found)
}

/// A row that may be called.
struct Entry {
    server: Arc<Server>,
    failures: u32,
}

struct Keeper {
    current: Arc<Current>,
    allowed: Arc<AllowedHosts>,
    known: Arc<Tenants>,
    entries: HashMap<Key, Entry>,
    /// Names that are not being looked up: those never seen first, then by when they are due.
    queue: BTreeSet<(bool, Instant, Key)>,
    own: OwnAddresses,
    is_shown: bool,
    shown: Option<Instant>,
}

impl Keeper {
    fn new(current: Arc<Current>, allowed: Arc<AllowedHosts>) -> Self {
        let (known, own) = (Arc::default(), OwnAddresses::new());
        let (entries, queue) = (HashMap::new(), BTreeSet::new());
        Self { current, allowed, known, entries, queue, own, is_shown: true, shown: None }
    }

    /// Looks at the rows, where any has changed.
    async fn take_rows(&mut self) {
        let snapshot = self.current.load();
        let tenants =
            snapshot.grants.as_ref().map(|known| known.grants.tenants().clone()).unwrap_or_default();
        if Arc::ptr_eq(&tenants, &self.known) {
            return;
        }
        self.known = tenants.clone();
        let mut gone: std::collections::HashSet<Key> = self.entries.keys().cloned().collect();
        for (at, (id, url)) in tenants.endpoints().enumerate() {
            if at % ROWS_AT_ONCE == ROWS_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            let key = (id.clone(), Box::from(url));
            if !gone.remove(&key) && !self.entries.contains_key(&key) {
                self.take_row(key, snapshot.catalog.get(id.as_str()));
            }
        }
        for key in gone {
            self.entries.remove(&key);
            self.forget(&key);
        }
        let entries = &self.entries;
        self.queue.retain(|(.., key)| entries.contains_key(key));
    }

    /// Servers or what is allowed are others: what may be called no more is forgotten, and all rows are looked at again.
    fn judge_anew(&mut self) {
        self.known = Arc::default();
        let (snapshot, allowed) = (self.current.load(), self.allowed.clone());
        let is_same = |((id, url), entry): (&Key, &Entry)| {
            let server = snapshot.catalog.get(id.as_str());
            let peer = server.and_then(|server| allowed.read(url, server.dialect.is_mcp()));
            let tls = server.and_then(tls_of_own);
            peer.as_ref() == entry.server.peers.first() && tls == entry.server.care.tls
        };
        let (stay, go): (Vec<_>, Vec<_>) =
            self.entries.iter().partition(|(key, entry)| is_same((key, entry)));
        let stay: Vec<Key> = stay.into_iter().map(|(key, _)| key.clone()).collect();
        let go: Vec<Key> = go.into_iter().map(|(key, _)| key.clone()).collect();
        for key in go {
            self.entries.remove(&key);
            self.forget(&key);
        }
        for (id, url) in stay {
            let known = self.own.get(&id).and_then(|own| own.get(&url)).cloned().unwrap_or_default();
            let may_stand = |at: &&Destination| allowed.may_stand_for(&at.peer, &at.address);
            if !known.iter().all(|at| may_stand(&at)) {
                let left = known.iter().filter(may_stand).cloned().collect();
                Arc::make_mut(self.own.entry(id).or_default()).insert(url, left);
                self.is_shown = false;
            }
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(own) = self.own.get_mut(&key.0) {
            Arc::make_mut(own).remove(&key.1);
            self.is_shown = false;
        }
    }

    fn take_row(&mut self, key: Key, server: Option<&Arc<Server>>) {
        let Some(server) = server else { return };
        let (id, url) = &key;
        let Some(peer) = self.allowed.read(url, server.dialect.is_mcp()) else {
            // Not the address: it may hold a password.
            return warn!(
                server.id = %id,
                "a group's own address for server `{id}` is no address, or its host is not in `upstream.allowed_hosts`; \
                 its calls are refused"
            );
        };
        let tls = tls_of_own(server);
        let mut server = Server { peers: [peer].into(), ..Server::clone(server) };
        server.care.tls = tls;
        let server = Arc::new(server);
        let found = written_out(&server);
        self.entries.insert(key.clone(), Entry { server, failures: 0 });
        let is_name = Vec::is_empty(&found);
        self.find(&key, found);
        if is_name {
            self.queue.insert((false, Instant::now(), key));
        }
    }

    /// What an address stands for; nothing as long as that is not known.
    fn find(&mut self, (id, url): &Key, found: Vec<Destination>) {
        let own = self.own.entry(id.clone()).or_default();
        if own.get(url).is_some_and(|known| found.is_empty() || **known == *found) {
            return;
        }
        Arc::make_mut(own).insert(url.clone(), found.into());
        self.is_shown = false;
    }

    /// What an address last stood for.
    fn known_at(&self, (id, url): &Key) -> Arc<[Destination]> {
        self.own.get(id).and_then(|own| own.get(url)).cloned().unwrap_or_default()
    }

    /// A name that is due to be looked up.
    fn next_due(&mut self) -> Option<(Key, Arc<Server>)> {
        let now = Instant::now();
        loop {
            let (_, due, _) = self.queue.first()?;
            if *due > now {
                return None;
            }
            let (.., key) = self.queue.pop_first()?;
            if let Some(entry) = self.entries.get(&key) {
                return Some((key, entry.server.clone()));
            }
        }
    }

    fn note(&mut self, (key, found): Looked) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let Resolved { destinations: found, good_for, lost } = found;
        let pause = if found.is_empty() || !lost.is_empty() {
            entry.failures = (entry.failures + 1).min(16);
            (RETRY * 2_u32.pow(entry.failures - 1)).min(LONGEST_RETRY)
        } else {
            entry.failures = 0;
            // There may be very many of them.
            good_for.max(SHORTEST)
        };
        self.find(&key, found);
        self.queue.insert((true, Instant::now() + pause, key));
    }

    /// Shows what was found, not too often.
    fn show(&mut self) {
        if self.is_shown || self.shown.is_some_and(|shown| shown.elapsed() < SHOWN_EVERY) {
            return;
        }
        let own = self.own.clone();
        self.current
            .change(|snapshot| snapshot.addresses = Arc::new(snapshot.addresses.with_own(own.clone())));
        (self.is_shown, self.shown) = (true, Some(Instant::now()));
    }

    /// How long there is nothing to do, unless something happens.
    fn pause(&self, has_room: bool) -> Duration {
        let until_shown = if self.is_shown { PAUSE } else { SHOWN_EVERY };
        let due = self.queue.first().filter(|_| has_room).map(|(_, due, _)| *due);
        due.map_or(until_shown, |due| until_shown.min(due.saturating_duration_since(Instant::now())))
    }
}

/// Whom to believe at a group's own address. As whom we are believed at the server itself is nothing to show there.
fn tls_of_own(server: &Arc<Server>) -> Option<Arc<TlsFiles>> {
    server.care.tls.as_ref().and_then(|tls| tls.for_others()).map(Arc::new)
}

/// An address in numbers needs no look-up.
fn written_out(server: &Server) -> Vec<Destination> {
    let at =
        |peer: &PeerUrl| Some((peer.clone(), SocketAddr::new(peer.host.parse::<IpAddr>().ok()?, peer.port)));
    Destination::of(server, server.peers.iter().filter_map(at).collect(), &[])
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

    fn keeper(allowed: &str) -> Keeper {
        let catalog = Catalog::new(["a", "b"].map(|id| Server::clone(&server(id))));
        let allowed =
            AllowedHosts(allowed.split(' ').map(|text| AllowedHost::parse(text).unwrap()).collect());
        Keeper::new(Current::new(catalog, Duration::from_secs(60)), Arc::new(allowed))
    }

    fn row<'r>(group: &'r str, server: &'r str, url: &'r str) -> GrantRow<'r> {
        GrantRow::Endpoint { group, server, url }
    }

    async fn take(keeper: &mut Keeper, rows: &[GrantRow<'_>]) {
        let grants: Grants = rows.iter().copied().collect();
        keeper.current.publish_grants(Arc::new(grants));
        keeper.take_rows().await;
        keeper.shown = None;
        keeper.show();
    }

    fn shown(keeper: &Keeper) -> Vec<String> {
        let snapshot = keeper.current.load();
        let all = snapshot.addresses.own().iter().flat_map(|(id, own)| {
            own.iter().map(move |(url, at)| {
                let at: Vec<_> = at.iter().map(|at| at.address.to_string()).collect();
                format!("{id} {url} {}", at.join("+"))
            })
        });
        let mut all: Vec<_> = all.collect();
        all.sort();
        all
    }

    #[tokio::test]
    async fn only_allowed_addresses_are_found_each_for_its_server_and_gone_with_its_row() {
        let mut keeper = keeper("127.0.0.1");
        let rows = [
            row("G", "a", "http://127.0.0.1:81/x"),
            row("H", "a", "http://127.0.0.2:81"),
            row("G", "b", "http://127.0.0.1:82"),
            row("G", "gone", "http://127.0.0.1:83"),
            row("H", "b", "not an address"),
        ];
        take(&mut keeper, &rows).await;
        assert_eq!(
            shown(&keeper),
            ["a http://127.0.0.1:81/x 127.0.0.1:81", "b http://127.0.0.1:82 127.0.0.1:82"]
        );
        assert!(keeper.queue.is_empty(), "numbers are not looked up");
        take(&mut keeper, &rows[2..3]).await;
        assert_eq!(shown(&keeper), ["b http://127.0.0.1:82 127.0.0.1:82"]);
        take(&mut keeper, &[]).await;
        assert_eq!(shown(&keeper), [""; 0]);
    }

    #[tokio::test]
    async fn names_never_seen_come_first_and_one_that_fails_waits_longer_each_time() {
        let mut keeper = keeper("*.example.com");
        take(&mut keeper, &[row("G", "a", "http://one.example.com")]).await;
        let (one, _) = keeper.next_due().unwrap();
        assert!(keeper.next_due().is_none(), "it is being looked up");
        let at =
            Destination::new(PeerUrl::parse("http://one.example.com").unwrap(), ([10, 0, 0, 1], 80).into());
        let resolved = |destinations: Vec<Destination>| {
            let lost = destinations.is_empty().then(|| "own".to_owned()).into_iter().collect();
            Resolved { destinations, good_for: SHORTEST, lost }
        };
        keeper.note((one.clone(), resolved(vec![at])));
        keeper.shown = None;
        keeper.show();
        let found = "a http://one.example.com 10.0.0.1:80";
        assert_eq!(shown(&keeper), [found]);
        for pause in [5, 10, 20] {
            keeper.queue.clear();
            keeper.note((one.clone(), resolved(Vec::new())));
            let (_, due, _) = keeper.queue.first().unwrap();
            let pause = Duration::from_secs(pause);
            assert!(*due > Instant::now() + pause / 2 && *due <= Instant::now() + pause);
        }
        assert_eq!(shown(&keeper), [found], "what it last stood for stays");
        let rows = [row("G", "a", "http://one.example.com"), row("H", "a", "http://two.example.com")];
        take(&mut keeper, &rows).await;
        keeper.queue = std::mem::take(&mut keeper.queue)
            .into_iter()
            .map(|(seen, _, key)| (seen, Instant::now(), key))
            .collect();
        assert_eq!(&*keeper.next_due().unwrap().0.1, "http://two.example.com");
    }
}
