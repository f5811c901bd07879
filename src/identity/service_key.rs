//! Service keys: named machine callers, which may vouch for a user with Open WebUI's signed user token.

use std::{collections::HashMap, sync::Arc};

use serde::Deserialize;

use super::{
    ServiceKey,
    caller::{Caller, Person, Proof, Scheme},
    reason::Reason,
};
use crate::{
    names::{Email, Secret},
    refusal::Refusal,
};

/// A configured service, as a caller.
pub struct Service {
    /// The service acting for itself.
    pub caller: Arc<Caller>,
    /// Whether it may act for users.
    pub may_vouch: bool,
}

/// All configured services by the SHA-256 of their key.
///
/// Keys are compared by looking up a digest: how long that takes tells nothing about the key.
pub struct ServiceKeys(HashMap<[u8; 32], Service>);

impl ServiceKeys {
    /// The services of the configuration.
    pub fn new(keys: &[ServiceKey]) -> Self {
        let service = |key: &ServiceKey| Service {
            caller: Caller::service(&key.name, key.groups.clone(), *Secret::expose(&key.key_sha256)),
            may_vouch: key.may_vouch,
        };
        Self(keys.iter().map(|key| (*Secret::expose(&key.key_sha256), service(key))).collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The service with this key.
    pub fn get(&self, key_sha256: &[u8; 32]) -> Option<&Service> {
        self.0.get(key_sha256)
    }
}

/// Claims of `X-OpenWebUI-User-Jwt`.
#[derive(Debug, Clone, Deserialize)]
pub struct VouchedClaims {
    sub: String,
    email: String,
    role: String,
    iss: String,
}

impl VouchedClaims {
    /// Refuses tokens that Open WebUI did not issue, or issued for somebody who may not act.
    pub fn checked(self) -> Result<Self, Refusal> {
        if self.iss != "open-webui" {
            return Err(Reason::WrongIssuer.because("the user token has another issuer than `open-webui`"));
        }
        if !matches!(self.role.as_str(), "user" | "admin") || self.sub.is_empty() {
            return Err(Reason::WrongPurpose.because("the user token names nobody who may act"));
        }
        self.email()?;
        Ok(self)
    }

    /// The user's id in Open WebUI.
    pub fn id(&self) -> &str {
        &self.sub
    }

    /// The user's email.
    pub fn email(&self) -> Result<Email, Refusal> {
        Email::parse(&self.email).map_err(|_| Reason::NoEmail.refuse())
    }

    /// The caller, where Open WebUI's tables cannot be asked.
    pub fn caller_by_claim(&self, proof: Proof) -> Result<Arc<Caller>, Refusal> {
        Ok(Caller::new(Person::user(self.email()?, Vec::new()), Scheme::Vouched, proof))
    }
}
