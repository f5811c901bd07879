//! Which credential goes along: from a permit to the header that makes its server believe us.
//!
//! Takes the permit, not the server's name, so that no credential leaves without an access decision.
//! The caller's own credential never travels.

use crate::{access::Permit, catalog::server::CredentialHeader};

/// The credential of the permitted server, if it wants one.
pub fn of(permit: &Permit) -> Option<&CredentialHeader> {
    permit.server().credential.as_ref()
}
