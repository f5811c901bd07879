//! identity (being written)
use std::time::Duration;

use crate::{
    names::{GroupName, Secret},
    store::DatabaseUrl,
};

/// Which credentials are believed. A scheme that is `None` or empty is off.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Open WebUI session tokens.
    pub openwebui: Option<OpenWebUiSettings>,
    /// Named machine callers.
    pub service_keys: Vec<ServiceKey>,
    /// Secret of `X-OpenWebUI-User-Jwt` (`FORWARD_USER_INFO_HEADER_JWT_SECRET` of Open WebUI).
    pub forward_jwt_secret: Option<Secret<String>>,
}

/// How Open WebUI session tokens are believed.
#[derive(Debug, Clone)]
pub struct OpenWebUiSettings {
    /// `WEBUI_SECRET_KEY` of Open WebUI.
    pub secret: Secret<String>,
    /// Open WebUI's own database; without it a token must carry an `email` claim.
    pub database: Option<DatabaseUrl>,
    /// Schema of Open WebUI's tables (Postgres only).
    pub schema: String,
    /// Time between two looks at the users seen lately.
    pub refresh: Duration,
    /// Whether tokens without `exp` (`JWT_EXPIRES_IN=-1`) are believed.
    pub allow_no_expiry: bool,
}

/// A named machine caller.
#[derive(Debug, Clone)]
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
