//! One request of native MCP on its way to a server: method, path and session, and which peer has the session.
//!
//! Decides where it may go: anywhere the server is, or, within a session, only to the peer that holds
//! it. The path is the server's own, or the message endpoint it named itself.

use std::sync::Arc;

use http::Method;
use sha2::{Digest, Sha256};

use super::{Addresses, Course, Destination, Errand, Trip};
use crate::{
    access::Permit,
    catalog::server::PeerUrl,
    mcp::session::Place,
    refusal::{Code, Refusal},
};

/// What is sent besides the caller's own headers and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Native {
    /// POST, GET or DELETE.
    pub method: Method,
    /// The server's own id of the session.
    pub session: Option<String>,
    /// Path and query of the message endpoint that a legacy HTTP+SSE server named.
    pub endpoint: Option<String>,
    /// Whether it may be sent again although the first may have been run.
    pub is_repeatable: bool,
}

/// Plans a request of native MCP. `place` is where its session lives, if it has one.
pub fn plan(
    permit: Permit,
    native: Native,
    place: Option<Place>,
    addresses: &Addresses,
) -> Result<Trip, Refusal> {
    let is_repeatable = native.is_repeatable;
    Ok(Trip { is_repeatable, ..Trip::begin(permit, Errand::Native(native), place, addresses)? })
}

/// The addresses of the peer that holds the session, the one it was opened at first.
///
/// That address may be gone where a name has many: what a name stands for may share its sessions.
pub(super) fn at_place(all: Arc<[Destination]>, place: Place) -> Result<Course, Refusal> {
    let is_there = |destination: &&Destination| destination.place.peer == place.peer;
    let destinations = match all.iter().filter(is_there).count() {
        0 => return Err(unknown_session("the session's peer is not configured any more")),
        count if count == all.len() => all,
        _ => all.iter().filter(is_there).cloned().collect(),
    };
    let first = destinations.iter().position(|destination| destination.place == place).unwrap_or(0);
    Ok(Course::to_first(destinations, first))
}

/// The answer to a session that is not there, whatever the reason: only the log may know it.
pub fn unknown_session(cause: &'static str) -> Refusal {
    Refusal::new(Code::UnknownSession, "no such session; initialize a new one").because(cause)
}

/// A peer and an address as small numbers that are the same on every replica.
pub(super) fn place_of(peer: &PeerUrl, address: std::net::SocketAddr) -> Place {
    let tag = |text: String| {
        let digest = Sha256::digest(text);
        u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
    };
    Place { peer: tag(peer.to_string()), address: tag(address.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(host: &str, address: &str) -> Destination {
        let peer = PeerUrl { is_tls: false, host: host.into(), port: 80, base_path: String::new() };
        Destination::new(peer, address.parse().unwrap())
    }

    #[test]
    fn a_session_goes_to_its_peer_only_and_to_its_address_first() {
        let all: Arc<[_]> = [
            destination("a", "192.0.2.1:80"),
            destination("b", "192.0.2.2:80"),
            destination("b", "192.0.2.3:80"),
        ]
        .into();
        let hosts = |place: Place| {
            at_place(all.clone(), place).map(|course| {
                let all: Vec<_> = course.destinations().iter().map(|d| d.address.to_string()).collect();
                let first = course.first().unwrap().address.to_string();
                let first = all.iter().position(|address| *address == first).unwrap();
                (all, first)
            })
        };
        let at_b: Vec<String> = ["192.0.2.2:80", "192.0.2.3:80"].map(str::to_owned).into();
        assert_eq!(hosts(all[2].place).unwrap(), (at_b.clone(), 1));
        assert_eq!(hosts(all[0].place).unwrap(), (vec!["192.0.2.1:80".to_owned()], 0));
        let moved = Place { address: 7, ..all[2].place };
        assert_eq!(hosts(moved).unwrap(), (at_b, 0), "an address that is gone does not end the session");
        let gone = Place { peer: 7, ..all[2].place };
        assert_eq!(hosts(gone).unwrap_err().code(), Code::UnknownSession);
    }
}
