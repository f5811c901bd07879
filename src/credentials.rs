//! Which credential goes along: from a permit to the header that makes its server believe us.
//!
//! Decides between the key of the caller's group and the one all share, and refuses where neither may be used. Takes the
//! permit, not the server's name, so that no credential leaves without an access decision. The caller's own credential
//! never travels.

use http::HeaderValue;
use sha2::{Digest, Sha256};

use crate::{
    access::{
        Permit,
        tenant::{Own, Tenancy},
    },
    catalog::server::{CredentialHeader, OwnCredential, Server, Sharing},
    names::Secret,
    refusal::{Code, Refusal},
};

/// The credential for what the permit lets its caller do, if the server wants one.
pub fn of(permit: &Permit) -> Result<Option<CredentialHeader>, Refusal> {
    at(permit.server(), permit.tenancy())
}

fn at(server: &Server, tenancy: &Tenancy) -> Result<Option<CredentialHeader>, Refusal> {
    // What takes no credential gets none, whoever has one.
    let Some(how) = &server.own_credential else { return Ok(server.credential.clone()) };
    match tenancy {
        Tenancy::Ambiguous => Err(ambiguous()),
        Tenancy::Own(own) => match of_group(own, how)? {
            Some(credential) => Ok(Some(credential)),
            // The group has an address and no key: what all share goes there only where the operator says so.
            None => shared(server, server.sharing == Sharing::Always).map(Some),
        },
        Tenancy::Shared { is_keyed } => {
            let may_share = match server.sharing {
                Sharing::Always => true,
                Sharing::Never => false,
                Sharing::UntilKeyed => !is_keyed,
            };
            shared(server, may_share).map(Some)
        }
    }
}

fn shared(server: &Server, may_share: bool) -> Result<CredentialHeader, Refusal> {
    let credential = server.credential.as_ref().filter(|_| may_share);
    credential.cloned().ok_or_else(|| {
        Refusal::new(
            Code::NoTenantKey,
            "none of your groups has a key for this server; ask its owner for one",
        )
    })
}

fn of_group(own: &Own, how: &OwnCredential) -> Result<Option<CredentialHeader>, Refusal> {
    let mut keys = own.keys(&how.key_name);
    let Some(key) = keys.next() else { return Ok(None) };
    let group = own.group().as_str();
    if keys.next().is_some() {
        return Err(unusable(format!("group `{group}` has two keys `{}`", how.key_name)));
    }
    if *key.name != *how.key_name {
        return Err(unusable(format!("a key of group `{group}` has no name that can be read")));
    }
    match &key.value {
        Ok(value) => match header(how, value) {
            Some(value) => Ok(Some(CredentialHeader { name: how.header.clone(), value })),
            None => Err(unusable(format!("the key of group `{group}` cannot stand in a header"))),
        },
        Err(why) => Err(unusable(format!("the key of group `{group}` is {why}"))),
    }
}

/// As whom the permit's caller is called for, as a number that tells nothing: the same only for the same group with the same
/// key. None where all share.
pub fn standing(permit: &Permit) -> Option<[u8; 16]> {
    let Tenancy::Own(own) = permit.tenancy() else { return None };
    let mut digest = Sha256::new();
    digest.update(own.group().as_str());
    if let Some(how) = &permit.server().own_credential {
        for value in own.keys(&how.key_name).filter_map(|key| key.value.as_ref().ok()) {
            digest.update([0]);
            digest.update(value.expose());
        }
    }
    let mut standing = [0; 16];
    standing.copy_from_slice(&digest.finalize()[..16]);
    Some(standing)
}

/// Whether what was begun under one permit would be sent with the same credential, for the same group and to the same address,
/// under another one. Where all share, the operator may have changed the credential: what was begun with the former one
/// goes on with it.
pub fn is_same(before: &Permit, now: &Permit) -> bool {
    let addresses = |permit: &Permit| match permit.tenancy() {
        Tenancy::Own(own) => own.endpoints().to_vec(),
        Tenancy::Shared { .. } | Tenancy::Ambiguous => Vec::new(),
    };
    let credential = |permit: &Permit| {
        of(permit).ok()?;
        let found = at(before.server(), permit.tenancy()).ok()?;
        Some(found.map(|found| (found.name, found.value)))
    };
    let (was, is) = (credential(before), credential(now));
    before.tenancy().group() == now.tenancy().group()
        && addresses(before) == addresses(now)
        && was.is_some()
        && was == is
}

/// The complete value of the header; none where the key cannot stand in one.
pub fn header(how: &OwnCredential, key: &Secret<String>) -> Option<Secret<HeaderValue>> {
    let key = key.expose();
    if key.is_empty() || key.trim() != key {
        return None;
    }
    let complete =
        if how.scheme.is_empty() { key.clone() } else { [how.scheme.as_str(), key.as_str()].join(" ") };
    let mut value = HeaderValue::try_from(complete).ok()?;
    value.set_sensitive(true);
    Some(Secret::new(value))
}

/// The answer where several groups of the caller bring something of their own.
pub fn ambiguous() -> Refusal {
    Refusal::new(
        Code::AmbiguousTenant,
        "several of your groups have a key or address of their own for this server; ask the gateway's operator which \
         one counts",
    )
    .because("`tenants.order` names none of the caller's groups that have one")
}

fn unusable(cause: String) -> Refusal {
    Refusal::new(
        Code::TenantKeyUnusable,
        "your group's key for this server cannot be used; ask the gateway's operator",
    )
    .because(cause)
}
