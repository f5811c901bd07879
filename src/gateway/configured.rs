//! The gateway as it is configured at this instant, and the judge of this instant.
//!
//! A request takes the gateway once, when its head is here, and has it to its end: it sees all of a reload or nothing.
//! What must not grow old with a request that lasts, who is believed and what they may, it asks the `Judge`. Decides
//! nothing about requests; `app` makes both from a configuration.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Gateway;
use crate::{
    access::{Access, Permit},
    catalog::server::Server,
    identity::{Caller, Identity, Pin, Reason},
    refusal::Refusal,
    snapshot::{Current, Snapshot},
};

/// The gateway that requests arriving now are answered by. A clone is the same one.
#[derive(Clone)]
pub struct Configured(Arc<ArcSwap<Gateway>>);

impl Configured {
    /// Answers by this gateway until it is replaced.
    pub fn new(gateway: Gateway) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(gateway)))
    }

    /// The gateway of this instant.
    pub fn now(&self) -> Arc<Gateway> {
        self.0.load_full()
    }

    /// Has requests that arrive from now on answered by another gateway.
    pub fn replace(&self, gateway: Gateway) {
        self.0.store(Arc::new(gateway));
    }
}

/// Who is believed and what they may, as it is configured: what is underway is judged by it, whatever it began under.
pub struct Judge {
    /// Who somebody is.
    pub identity: Arc<Identity>,
    /// May they.
    pub access: Arc<Access>,
}

/// The judge of this instant, shared by all gateways that requests still have.
pub type Bench = ArcSwap<Judge>;

impl Judge {
    /// Whether the other may judge otherwise.
    pub fn is_other(&self, other: &Self) -> bool {
        !(Arc::ptr_eq(&self.identity, &other.identity) && Arc::ptr_eq(&self.access, &other.access))
    }

    /// The permit that the same caller gets at this moment, for the server as it is now.
    pub fn permit(&self, permit: &Permit, current: &Current, snapshot: &Snapshot) -> Result<Permit, Refusal> {
        let known = current.grants(snapshot)?;
        let caller = self.identity.current(permit.caller()).ok_or_else(|| Reason::Withdrawn.refuse())?;
        let server = snapshot.catalog.get(permit.server().id.as_str());
        // What was begun at a server that is configured no more may come to its end there.
        self.access.authorize(&caller, server.unwrap_or(permit.server()), known)
    }
}

/// A caller with a stream: as long as this is held, nothing of what makes them one is forgotten.
pub struct LookedAt {
    by: Arc<Identity>,
    _pin: Option<Pin>,
}

impl LookedAt {
    /// By this identity.
    pub fn by(identity: &Arc<Identity>, caller: &Caller) -> Self {
        Self { by: identity.clone(), _pin: identity.pin(caller) }
    }

    /// By this one from now on, where it is another.
    pub fn renew(&mut self, identity: &Arc<Identity>, caller: &Caller) {
        if !Arc::ptr_eq(&self.by, identity) {
            *self = Self::by(identity, caller);
        }
    }
}

/// Whether streams that were begun at a server may stand on: not when it is gone, switched off or speaks something else.
pub fn is_still_there(server: &Server, snapshot: &Snapshot) -> bool {
    snapshot
        .catalog
        .get(server.id.as_str())
        .is_some_and(|now| now.is_enabled && now.dialect == server.dialect)
}

impl Gateway {
    /// What is believed at this instant of the servers that this gateway is configured with.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        let snapshot = self.current.load();
        if Arc::ptr_eq(&snapshot.catalog, &self.catalog) {
            return snapshot;
        }
        // A reload came between the head of this request and here.
        Arc::new(snapshot.with_servers(self.catalog.clone()))
    }

    /// Whether this gateway's judge is the one of this instant.
    pub(super) fn is_judge_of_now(&self) -> bool {
        let judge = self.bench.load();
        Arc::ptr_eq(&judge.identity, &self.identity) && Arc::ptr_eq(&judge.access, &self.access)
    }

    /// The permit that the same caller gets at this moment.
    pub(super) fn permit_now(&self, permit: &Permit) -> Result<Permit, Refusal> {
        self.bench.load().permit(permit, &self.current, &self.current.load())
    }
}
