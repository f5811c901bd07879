//! Where a permitted request goes: a `Permit` and a tool become a `Trip`, the only thing that can be sent.
//!
//! Decides the path at the peer (looked up, never joined from what the client sent), the order in
//! which addresses are tried and the credential that goes along. Never waits and never resolves a
//! name: `snapshot::addresses` did. Comes after `access`, before `gateway` sends.

pub mod allowed;
pub mod arguments;
pub mod breaker;
pub mod course;
pub mod health;
pub mod mcpo;
pub mod native;
pub mod peer;
pub mod way;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderValue, Method};

use crate::{
    access::{self, Permit, tenant::Tenancy},
    catalog::{
        Catalog,
        server::{CredentialHeader, PeerUrl, Server},
        tools::{Post, Tool},
    },
    credentials,
    mcp::session::Place,
    names::ServerId,
    refusal::{Code, Refusal},
};
use course::{Course, Pick, Tried};
use health::{Health, Tally};
use native::Native;
pub use way::{Wanted, Way, own_way, plan_ask};

/// One place a server can be reached at.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The configured address.
    pub peer: PeerUrl,
    /// That, as it is called in `Host`.
    pub host: HeaderValue,
    /// What its name resolved to.
    pub address: SocketAddr,
    /// Both, as sealed session ids tell them.
    pub place: Place,
    /// What is known of it.
    pub health: Arc<Health>,
    /// Whom to believe there, and as whom to be believed, where the server has that of its own.
    pub tls: Option<Arc<peer::Trust>>,
}

/// Two are the same that lead to the same place in the same way, whatever is known of them.
impl PartialEq for Destination {
    fn eq(&self, other: &Self) -> bool {
        let print = |it: &Self| it.tls.as_ref().map(|tls| tls.fingerprint());
        self.peer == other.peer && self.address == other.address && print(self) == print(other)
    }
}

impl Eq for Destination {}

impl Destination {
    /// A peer at one of its addresses, of which nothing is known: of no server in particular.
    pub fn new(peer: PeerUrl, address: SocketAddr) -> Self {
        static NOBODY: std::sync::LazyLock<ServerId> =
            std::sync::LazyLock::new(|| ServerId::parse("none").expect("a plain word is an id"));
        let health = Health::new(Tally::new(NOBODY.clone()), address);
        Self::at((peer, address), health, None)
    }

    fn at(
        (peer, address): (PeerUrl, SocketAddr),
        health: Arc<Health>,
        tls: Option<Arc<peer::Trust>>,
    ) -> Self {
        let host = HeaderValue::from_str(&peer.authority()).expect("a name that was parsed is visible ASCII");
        Self { place: native::place_of(&peer, address), peer, host, address, health, tls }
    }

    /// Whether it is one of this server's, called as the server is called now: nobody's credential goes to another's, and
    /// no authority is believed that the configuration does not name any more.
    fn is_of(&self, server: &Server) -> bool {
        let named = server.care.tls.as_ref().map(|tls| tls.fingerprint);
        server.peers.contains(&self.peer) && self.fingerprint() == named
    }

    /// Whether both are what the same name stands for, trusted alike.
    fn is_named_like(&self, other: &Self) -> bool {
        self.peer == other.peer && self.fingerprint() == other.fingerprint()
    }

    /// Of what is trusted and shown there.
    fn fingerprint(&self) -> Option<u64> {
        self.tls.as_ref().map(|tls| tls.fingerprint())
    }

    /// The peers of a server at these addresses. What is known of those that were known before stays, unless another
    /// authority is believed now: calls underway that believe the former one must not fail for those that do not.
    pub fn of(server: &Server, found: Vec<(PeerUrl, SocketAddr)>, known: &[Self]) -> Vec<Self> {
        let tally = known.first().map(|known| known.health.tally().clone());
        let tally = tally.unwrap_or_else(|| Tally::new(server.id.clone()));
        let known_tls = known.first().and_then(|known| known.tls.clone());
        let tls = peer::Trust::of(server, known_tls);
        let fingerprint = tls.as_ref().map(|tls| tls.fingerprint());
        let at = |(peer, address)| {
            let is_same = |known: &&Self| {
                known.peer == peer && known.address == address && known.fingerprint() == fingerprint
            };
            let same = known.iter().find(is_same);
            let health = same.map_or_else(|| Health::new(tally.clone(), address), |same| same.health.clone());
            Self::at((peer, address), health, tls.clone())
        };
        found.into_iter().map(at).collect()
    }
}

/// Where a server was, and since when it is not.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Former {
    since: Instant,
    destinations: Arc<[Destination]>,
}

/// How long a request may be on its way until it asks where its server is.
const FORMER: Duration = Duration::from_secs(300);

/// The addresses that groups have of their own, by server and as written: those that may be called.
pub type OwnAddresses = HashMap<ServerId, Arc<HashMap<Box<str>, Arc<[Destination]>>>>;

/// What every server's names last resolved to, by server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    shared: HashMap<ServerId, Arc<[Destination]>>,
    /// Where servers were that are somewhere else, or gone, since a reload: for requests that began before it.
    former: Arc<HashMap<ServerId, Former>>,
    own: Arc<OwnAddresses>,
}

impl Addresses {
    /// Where this server is for everybody; empty when no name of it resolves. A server that is configured differently by
    /// now has other addresses.
    pub fn of(&self, server: &Server) -> Arc<[Destination]> {
        let is_its_own = |destination: &Destination| destination.is_of(server);
        match self.shared.get(&server.id) {
            Some(all) if all.iter().all(is_its_own) => all.clone(),
            known => {
                let former = self.former.get(&server.id).map(|former| &former.destinations);
                let all = known.into_iter().chain(former).flat_map(|all| all.iter());
                all.filter(|destination| is_its_own(destination)).cloned().collect()
            }
        }
    }

    /// The addresses of the servers of another configuration: those that are known and those just found.
    pub fn among(&self, catalog: &Catalog, found: &Self) -> Self {
        let mut shared = HashMap::new();
        let mut former = HashMap::clone(&self.former);
        former.retain(|_, former| former.since.elapsed() < FORMER);
        for (id, known) in &self.shared {
            let now = catalog.get(id.as_str()).filter(|server| server.is_enabled);
            let is_here = |at: &Destination| now.is_some_and(|server| at.is_of(server));
            if known.iter().all(is_here) {
                shared.insert(id.clone(), known.clone());
            } else {
                former.insert(id.clone(), Former { since: Instant::now(), destinations: known.clone() });
                if known.iter().any(is_here) {
                    shared.insert(id.clone(), known.iter().filter(|at| is_here(at)).cloned().collect());
                }
            }
        }
        shared.extend(found.shared.clone());
        Self { shared, former: Arc::new(former), own: self.own.clone() }
    }

    /// What this server's names last resolved to, whatever it is by now.
    pub fn found(&self, server: &ServerId) -> Option<&Arc<[Destination]>> {
        self.shared.get(server)
    }

    /// These addresses with one server's replaced.
    pub fn with(&self, server: ServerId, destinations: Arc<[Destination]>) -> Self {
        if let Some(first) = destinations.first() {
            first.health.tally().moved(&destinations);
        }
        let mut addresses = self.clone();
        addresses.shared.insert(server, destinations);
        addresses
    }

    /// Where each server is for everybody.
    pub fn shared(&self) -> impl Iterator<Item = (&ServerId, &Arc<[Destination]>)> {
        self.shared.iter()
    }

    /// The addresses that groups have of their own.
    pub fn own(&self) -> &OwnAddresses {
        &self.own
    }

    /// These addresses with all that groups have of their own replaced.
    pub fn with_own(&self, own: OwnAddresses) -> Self {
        Self { own: Arc::new(own), ..self.clone() }
    }

    /// Where the server is for the permit's caller: at their group's address where it has one, and nowhere else then.
    fn for_permit(&self, permit: &Permit) -> Result<Arc<[Destination]>, Refusal> {
        let server = permit.server();
        let destinations = match permit.tenancy() {
            Tenancy::Ambiguous => return Err(credentials::ambiguous()),
            Tenancy::Own(own) => match own.endpoints() {
                [] => self.of(server),
                [url] => self.own.get(&server.id).and_then(|own| own.get(url)).cloned().ok_or_else(|| {
                    endpoint_unusable(format!(
                        "the address that group `{}` has for it is no address, or its host is not in `upstream.allowed_hosts`",
                        own.group().as_str()
                    ))
                })?,
                _ => {
                    let group = own.group().as_str();
                    return Err(endpoint_unusable(format!("group `{group}` has two addresses for it")));
                }
            },
            Tenancy::Shared { .. } => self.of(server),
        };
        if destinations.is_empty() {
            return Err(unreachable("no address of the server resolves"));
        }
        Ok(destinations)
    }
}

fn endpoint_unusable(cause: String) -> Refusal {
    Refusal::new(
        Code::TenantEndpointUnusable,
        "your group's address for this server cannot be used; ask the gateway's operator",
    )
    .because(cause)
}

/// What a trip is for.
#[derive(Debug)]
pub enum Errand {
    /// The call of a tool, at the path of its OpenAPI document.
    Tool(Arc<Post>),
    /// A request of native MCP.
    Native(Native),
    /// A request that the gateway words itself.
    Asked(Wanted),
}

/// One permitted request, planned: what for, where, in which order of addresses.
#[derive(Debug)]
pub struct Trip {
    permit: Permit,
    errand: Errand,
    course: Course,
    is_repeatable: bool,
    credential: Option<CredentialHeader>,
}

/// Turns round-robin over the addresses of all servers.
static TURN: AtomicUsize = AtomicUsize::new(0);

/// Plans the call of a tool of the permitted server; one that the permit does not allow is like one that is not there.
pub fn plan(permit: Permit, tool: Arc<Tool>, addresses: &Addresses) -> Result<Trip, Refusal> {
    if !permit.tools().allows(tool.name.as_str()) {
        return Err(access::unknown_tool());
    }
    let post = tool.post().ok_or_else(|| Refusal::internal("a tool of MCP has no path"))?.clone();
    let is_repeatable = permit.server().may_repeat(&tool);
    Ok(Trip { is_repeatable, ..Trip::begin(permit, Errand::Tool(post), None, addresses)? })
}

fn turn(count: usize) -> usize {
    TURN.fetch_add(1, Ordering::Relaxed) % count
}

/// The answer when a server cannot be reached.
pub fn unreachable(cause: impl ToString) -> Refusal {
    Refusal::new(Code::PeerUnreachable, "the server cannot be reached right now; try again later")
        .because(cause)
}

impl Trip {
    /// A trip to wherever the server is for the permit's caller, or to where their session lives there. Key and address are
    /// chosen here, once and together.
    fn begin(
        permit: Permit,
        errand: Errand,
        place: Option<Place>,
        addresses: &Addresses,
    ) -> Result<Self, Refusal> {
        let all = addresses.for_permit(&permit)?;
        let credential = credentials::of(&permit)?;
        // A session takes no turn: the next one begins at the next peer.
        let course = match place {
            None => Course::to_any(all.clone(), turn(all.len())),
            Some(place) => native::at_place(all, place)?,
        };
        Ok(Self { permit, errand, course, is_repeatable: false, credential })
    }

    /// Whether its call may be sent again although the first may have been run.
    pub fn is_repeatable(&self) -> bool {
        self.is_repeatable
    }

    /// Where it may go.
    pub fn course(&self) -> &Course {
        &self.course
    }

    /// Whether it goes without TLS and as one request at a time, whichever of its addresses it is tried at.
    pub fn is_plain(&self) -> bool {
        self.course.destinations().iter().all(|destination| peer::is_plain(self.server(), destination))
    }

    /// Where to try next.
    pub async fn next(&mut self, tried: &mut Tried) -> Result<Pick, Refusal> {
        let patience = self.patience();
        self.course.next(tried, patience).await
    }

    /// How long it waits for a server that has just gone away.
    pub fn patience(&self) -> Duration {
        self.server().deadlines.connect * 2
    }

    /// The header that makes the server believe us.
    pub fn credential(&self) -> Option<&CredentialHeader> {
        self.credential.as_ref()
    }

    /// The permit this trip is made under.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// The server called.
    pub fn server(&self) -> &Arc<Server> {
        self.permit.server()
    }

    /// What it is for.
    pub fn errand(&self) -> &Errand {
        &self.errand
    }

    /// The method it is sent with.
    pub fn method(&self) -> Method {
        match &self.errand {
            Errand::Tool(_) | Errand::Asked(_) => Method::POST,
            Errand::Native(native) => native.method.clone(),
        }
    }

    /// Path at the peer, with the client's query where the tool declares one.
    pub fn path(&self, peer: &PeerUrl, query: Option<&str>) -> String {
        let post = match &self.errand {
            Errand::Tool(post) => post,
            Errand::Native(Native { endpoint: Some(endpoint), .. }) => return endpoint.clone(),
            Errand::Native(_) | Errand::Asked(_) => return endpoint_path(peer),
        };
        match query.filter(|query| !post.query.is_empty() && !query.is_empty()) {
            Some(query) => format!("{}{}?{query}", peer.base_path, post.path),
            None => format!("{}{}", peer.base_path, post.path),
        }
    }
}

/// The path of the endpoint of a peer that speaks MCP.
fn endpoint_path(peer: &PeerUrl) -> String {
    if peer.base_path.is_empty() { "/".to_owned() } else { peer.base_path.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{access::tests_support::permit, catalog::tools::ToolList};

    /// Checks whether a trip to the tool `search` can be planned, and how it is refused otherwise.
    #[track_caller]
    fn check(rules: &[(&str, &str)], expected: Option<Code>) {
        let (list, _) =
            ToolList::parse(br#"{"openapi": "3.1.0", "paths": {"/search": {"post": {}}}}"#).unwrap();
        let peer = permit(&[]).server().peers[0].clone();
        let destination = Destination::new(peer, ([127, 0, 0, 1], 9).into());
        let addresses = Addresses::default().with(permit(&[]).server().id.clone(), [destination].into());
        let planned = plan(permit(rules), list.get("search").unwrap().clone(), &addresses);
        assert_eq!(planned.err().map(|refusal| refusal.code()), expected, "{rules:?}");
    }

    #[test]
    fn no_trip_leads_to_a_tool_that_rules_deny() {
        check(&[], None);
        check(&[("deny", "delete_*")], None);
        check(&[("allow", "s*")], None);
        check(&[("deny", "search")], Some(Code::UnknownTool));
        check(&[("allow", "get_*")], Some(Code::UnknownTool));
    }
}
