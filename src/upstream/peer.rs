//! A destination as Pingora wants it: socket address, TLS name, deadlines, pool key.
//!
//! Only resolved addresses go in: Pingora would resolve a name on the worker thread and panic if it
//! does not resolve.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use pingora::{
    protocols::TcpKeepalive,
    upstreams::peer::{H1UpgradePolicy, HttpPeer, HttpUpstreamRequestPolicy},
    utils::tls::{CertKey, WrappedX509, parse_x509},
};

use super::{Destination, Errand, Trip, Way, endpoint_path};
use crate::{
    catalog::{
        care::{Http2, TlsFiles},
        server::Server,
    },
    dial::{
        loan::Terms,
        wire::{By, Recipient, WRITE},
    },
    names::GroupName,
};

/// How long an idle connection to a peer is kept: under the 5.00 s after which uvicorn, and so mcpo,
/// closes it, or a call would race the close.
const IDLE: Duration = Duration::from_secs(4);

/// When a silent connection is asked whether anybody is there: after a minute, then every 15 s, four times.
pub const PROBES: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(60),
    interval: Duration::from_secs(15),
    count: 4,
    #[cfg(target_os = "linux")]
    user_timeout: Duration::ZERO,
};

/// Whom to believe at a server's addresses, and as whom to be believed there.
pub struct Trust {
    authorities: Option<Arc<[WrappedX509]>>,
    client: Option<Arc<CertKey>>,
    name: Option<String>,
    fingerprint: u64,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl Trust {
    /// What a server's table says, where it says anything; what is `known` is taken where it says the same.
    pub(super) fn of(server: &Server, known: Option<Arc<Self>>) -> Option<Arc<Self>> {
        let files = server.care.tls.as_deref()?;
        let known = known.filter(|known| known.fingerprint == files.fingerprint);
        Some(known.unwrap_or_else(|| Arc::new(Self::read(files))))
    }

    /// Whether the framework can make use of these certificates: it panics over what it cannot read.
    pub fn is_usable(files: &TlsFiles) -> bool {
        std::panic::catch_unwind(|| Self::read(files)).is_ok()
    }

    fn read(files: &TlsFiles) -> Self {
        let wrapped = |der: &Vec<u8>| WrappedX509::new(der.clone(), parse_x509);
        let authorities: Arc<[_]> = files.authorities.iter().map(wrapped).collect();
        Self {
            authorities: (!authorities.is_empty()).then_some(authorities),
            client: files
                .client
                .as_ref()
                .map(|client| Arc::new(CertKey::new(client.chain.clone(), client.key.expose().clone()))),
            name: files.name.clone(),
            fingerprint: files.fingerprint,
        }
    }

    /// Two with the same are the same.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

/// The peer for one try of a trip.
pub fn http_peer(trip: &Trip, destination: &Destination) -> HttpPeer {
    let mut peer = peer_of(trip.server(), trip.permit().tenancy().group(), destination);
    if let Errand::Native(_) = trip.errand() {
        // A stream may be silent for hours: the beginning of an answer has a deadline of its own
        // (`gateway/client.rs`), and a peer that has died is found by probes.
        peer.options.read_timeout = None;
        peer.options.tcp_keepalive = Some(PROBES);
    }
    peer
}

/// The connection for one try of a trip to a plain destination.
pub fn plain(trip: &Trip, destination: &Destination) -> Terms {
    terms(trip.server(), trip.permit().tenancy().group(), destination)
}

/// Whether a destination is called without TLS, and with one request at a time.
pub fn is_plain(server: &Server, destination: &Destination) -> bool {
    !destination.peer.is_tls && server.care.http2 != Http2::Always
}

/// Whom one try of a way goes to: its answer has to begin within the server's deadline, and may then be a stream.
pub fn recipient(way: &Way, destination: &Destination) -> Recipient {
    let (server, tenant, patience) = (way.server(), way.tenant(), way.server().deadlines.first_byte);
    if is_plain(server, destination) {
        let by = By::Loan(terms(server, tenant, destination));
        return Recipient { by, patience };
    }
    let mut peer = Box::new(peer_of(server, tenant, destination));
    peer.options.read_timeout = Some(patience);
    peer.options.tcp_keepalive = Some(PROBES);
    Recipient { by: By::Framework(peer), patience }
}

fn terms(server: &Server, tenant: Option<&GroupName>, destination: &Destination) -> Terms {
    let pool = pool_key(server, tenant, destination.tls.as_deref());
    Terms::new((destination.address, pool), server.deadlines.connect, IDLE, PROBES)
}

/// The path of the MCP endpoint at a destination.
pub fn way_path(destination: &Destination) -> String {
    endpoint_path(&destination.peer)
}

fn peer_of(server: &Server, tenant: Option<&GroupName>, destination: &Destination) -> HttpPeer {
    let url = &destination.peer;
    // The name is never empty (`PeerUrl`), so TLS always has a name to verify.
    let trust = destination.tls.as_deref();
    let name = trust.and_then(|trust| trust.name.as_ref()).unwrap_or(&url.host);
    let mut peer = HttpPeer::new(destination.address, url.is_tls, name.clone());
    peer.group_key = pool_key(server, tenant, trust);
    if let Some(trust) = trust {
        peer.client_cert_key = trust.client.clone();
        peer.options.ca = trust.authorities.clone();
    }
    let deadlines = &server.deadlines;
    let options = &mut peer.options;
    options.connection_timeout = Some(deadlines.connect);
    options.total_connection_timeout = Some(deadlines.connect * 2);
    // Which of the two is shorter is for the gateway to hold (`gateway/client.rs`, `dial/wire.rs`).
    options.read_timeout = Some(deadlines.first_byte.max(deadlines.read));
    options.write_timeout = Some(WRITE);
    options.idle_timeout = Some(IDLE);
    match (server.care.http2, url.is_tls) {
        (Http2::Never, _) | (Http2::Offered, false) => options.set_http_version(1, 1),
        (Http2::Offered, true) => options.set_http_version(2, 1),
        (Http2::Always, _) => options.set_http_version(2, 2),
    }
    // The framework's own default is one, and a connection for each request.
    options.max_h2_streams = server.care.max_h2_streams.max(1);
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy {
        h1_upgrade: H1UpgradePolicy::Deny,
        ..HttpUpstreamRequestPolicy::standard()
    };
    peer
}

/// Connections are shared within one server and one group that has a key of its own there: the pool's own key leaves out
/// the trusted CA, and a server may take a connection for the one it was first called for. What was trusted or shown when
/// it was made is trusted and shown by all who use it.
fn pool_key(server: &Server, tenant: Option<&GroupName>, trust: Option<&Trust>) -> u64 {
    let mut hasher = DefaultHasher::new();
    let trust = trust.map(Trust::fingerprint);
    (server.id.as_str(), tenant.map(GroupName::as_str), trust, server.care.http2).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::server::{PeerUrl, tests_support::server};

    #[test]
    fn every_peer_has_a_tls_name_its_server_s_own_pool_and_a_short_idle_time() {
        let peer =
            PeerUrl { is_tls: true, host: "mcp.example.com".into(), port: 443, base_path: String::new() };
        let destination = Destination::new(peer, "127.0.0.1:443".parse().unwrap());
        let github = peer_of(&server("github"), None, &destination);
        assert_eq!(github.sni, "mcp.example.com");
        assert!(github.options.verify_cert && github.options.verify_hostname);
        assert!(github.options.idle_timeout.unwrap() < Duration::from_secs(5));
        assert_ne!(github.group_key, peer_of(&server("gitlab"), None, &destination).group_key);
        assert!(!is_plain(&server("github"), &destination));
        let group = GroupName::parse("MCP-GitHub").unwrap();
        assert_ne!(github.group_key, peer_of(&server("github"), Some(&group), &destination).group_key);
    }
}
