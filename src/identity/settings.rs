//! Which credentials are believed, as the configuration says; `config` checks it, this decides nothing.

use std::time::Duration;

use super::{entra, gateway_headers};
use crate::{
    names::{GroupName, Secret},
    store::DatabaseUrl,
};

/// Which credentials are believed. A scheme that is `None` or empty is off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Open WebUI session tokens.
    pub sessions: Option<SessionSettings>,
    /// Open WebUI's own tables; without them a session token must carry an `email` claim.
    pub openwebui_tables: Option<TablesSettings>,
    /// Open WebUI's Redis; without it nobody notices that a session was signed out of.
    pub openwebui_redis: Option<RedisSettings>,
    /// Named machine callers.
    pub service_keys: Vec<ServiceKey>,
    /// Secret of `X-OpenWebUI-User-Jwt` (`FORWARD_USER_INFO_HEADER_JWT_SECRET` of Open WebUI).
    pub forward_jwt_secret: Option<Secret<String>>,
    /// A trusted gateway in front that knows the user.
    pub gateway_headers: Option<gateway_headers::Settings>,
    /// Access tokens of Entra ID.
    pub entra: Option<entra::Settings>,
}

impl Settings {
    /// Whether every scheme is off.
    pub fn believes_nobody(&self) -> bool {
        let has_api_keys = self.openwebui_tables.as_ref().is_some_and(|tables| tables.has_api_keys);
        self.sessions.is_none()
            && self.service_keys.is_empty()
            && self.gateway_headers.is_none()
            && self.entra.is_none()
            && !has_api_keys
    }
}

/// How Open WebUI session tokens are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSettings {
    /// `WEBUI_SECRET_KEY` of Open WebUI.
    pub secret: Secret<String>,
    /// Whether tokens without `exp` (`JWT_EXPIRES_IN=-1`) are believed.
    pub allow_no_expiry: bool,
}

/// Where Open WebUI's users, groups and API keys are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablesSettings {
    /// Open WebUI's own database.
    pub database: DatabaseUrl,
    /// Schema of its tables (Postgres only).
    pub schema: String,
    /// Time between two looks at what is in use.
    pub refresh: Duration,
    /// Whether API keys are believed.
    pub has_api_keys: bool,
}

/// Where Open WebUI notes which sessions were ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// `redis://…` or `rediss://…`; may hold a password.
    pub url: Secret<String>,
    /// `REDIS_KEY_PREFIX` of Open WebUI.
    pub key_prefix: String,
    /// Time between two looks at what is in use.
    pub refresh: Duration,
}

/// A named machine caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceKey {
    /// Its name in the configuration, logs and listings.
    pub name: String,
    /// SHA-256 of the key.
    pub key_sha256: Secret<[u8; 32]>,
    /// Groups the service itself is in.
    pub groups: Vec<GroupName>,
    /// Whether a signed `X-OpenWebUI-User-Jwt` beside the key makes the caller that user.
    pub may_vouch: bool,
}
