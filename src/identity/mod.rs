//! Who is asking: the schemes, tried in a fixed order, and the only maker of a `Caller`.
//!
//! Each scheme answers *not mine*, *known* or *failed*, and *failed* stops: a bad credential never
//! falls through to a weaker scheme. Decides nothing about what the caller may do (`access`). Comes
//! after `route`; waits only at the first sight of an Open WebUI user.

mod caller;
mod jwt;
mod presented;
mod service_key;
mod session;
pub mod users;

use std::{sync::Arc, time::Duration};

use http::request::Parts;
use moka::sync::Cache;
use sha2::{Digest, Sha256};

use crate::{
    names::{GroupName, Secret},
    refusal::{Code, Refusal},
    store::DatabaseUrl,
};
pub use caller::{Caller, Scheme};
use jwt::{Expiry, Hs256, Verified};
use presented::Presented;
pub use presented::{Face, is_claim};
use service_key::{Service, ServiceKeys, VouchedClaims};
use session::Claims;
pub use users::Pin;
use users::Users;

/// Which credentials are believed. A scheme that is `None` or empty is off.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Open WebUI session tokens.
    pub sessions: Option<SessionSettings>,
    /// Open WebUI's own tables; without them a session token must carry an `email` claim.
    pub openwebui_tables: Option<TablesSettings>,
    /// Named machine callers.
    pub service_keys: Vec<ServiceKey>,
    /// Secret of `X-OpenWebUI-User-Jwt` (`FORWARD_USER_INFO_HEADER_JWT_SECRET` of Open WebUI).
    pub forward_jwt_secret: Option<Secret<String>>,
}

impl Settings {
    /// Whether every scheme is off.
    pub fn believes_nobody(&self) -> bool {
        self.sessions.is_none() && self.service_keys.is_empty()
    }
}

/// How Open WebUI session tokens are believed.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// `WEBUI_SECRET_KEY` of Open WebUI.
    pub secret: Secret<String>,
    /// Whether tokens without `exp` (`JWT_EXPIRES_IN=-1`) are believed.
    pub allow_no_expiry: bool,
}

/// Where Open WebUI's users and groups are read.
#[derive(Debug, Clone)]
pub struct TablesSettings {
    /// Open WebUI's own database.
    pub database: DatabaseUrl,
    /// Schema of its tables (Postgres only).
    pub schema: String,
    /// Time between two looks at the users seen lately.
    pub refresh: Duration,
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

/// What one scheme says.
#[derive(Debug)]
enum Verdict {
    /// The credential belongs to another scheme.
    NotMine,
    /// The credential is believed.
    Known(Arc<Caller>),
    /// The credential is this scheme's and is refused; no other scheme is asked.
    Failed(Refusal),
}

impl From<Result<Arc<Caller>, Refusal>> for Verdict {
    fn from(decision: Result<Arc<Caller>, Refusal>) -> Self {
        decision.map_or_else(Verdict::Failed, Verdict::Known)
    }
}

/// The believed credentials.
pub struct Identity {
    service_keys: ServiceKeys,
    vouching: Option<Hs256>,
    sessions: Option<Hs256>,
    users: Option<Arc<Users>>,
    verified_sessions: Cache<[u8; 32], Verified<Arc<Claims>>>,
    verified_vouchers: Cache<[u8; 32], Verified<Arc<VouchedClaims>>>,
}

/// How long a verified token is remembered, so that its signature is checked once.
const REMEMBER: Duration = Duration::from_secs(300);

impl Identity {
    /// The schemes of these settings; `users` is given where Open WebUI's tables can be asked.
    pub fn new(settings: &Settings, users: Option<Arc<Users>>) -> Self {
        let sessions = settings.sessions.as_ref().map(|sessions| {
            let expiry = if sessions.allow_no_expiry { Expiry::Optional } else { Expiry::Required };
            Hs256::new(&sessions.secret, expiry)
        });
        Self {
            service_keys: ServiceKeys::new(&settings.service_keys),
            vouching: settings.forward_jwt_secret.as_ref().map(|secret| Hs256::new(secret, Expiry::Required)),
            sessions,
            users,
            verified_sessions: Cache::builder().max_capacity(100_000).time_to_live(REMEMBER).build(),
            verified_vouchers: Cache::builder().max_capacity(100_000).time_to_live(REMEMBER).build(),
        }
    }

    /// Who sent this request.
    pub async fn identify(&self, request: &Parts, face: Face) -> Result<Arc<Caller>, Refusal> {
        let presented = Presented::read(request, face)?;
        let Some(token) = presented.token.as_deref() else {
            let sentence = "send `Authorization: Bearer` and a session token or service key";
            return Err(Refusal::new(Code::NoCredential, sentence));
        };
        let token = Token { text: token, sha256: Sha256::digest(token).into() };
        match self.by_service_key(&token, &presented).await {
            Verdict::NotMine => {}
            Verdict::Known(caller) => return Ok(caller),
            Verdict::Failed(refusal) => return Err(refusal),
        }
        match self.by_session(&token, &presented).await {
            Verdict::NotMine => Err(jwt::invalid("no scheme knows this credential")),
            Verdict::Known(caller) => Ok(caller),
            Verdict::Failed(refusal) => Err(refusal),
        }
    }

    /// Keeps a caller's account under watch while they have a call underway.
    pub fn pin(&self, caller: &Caller) -> Option<Pin> {
        Some(self.users.as_ref()?.pin(caller.openwebui_id()?))
    }

    /// Who a caller identified earlier is now: with their present groups, or nobody any more.
    pub fn current(&self, caller: &Arc<Caller>) -> Option<Arc<Caller>> {
        let (Some(users), Some(id)) = (&self.users, caller.openwebui_id()) else {
            return Some(caller.clone());
        };
        let Some(seen) = users.peek(id) else {
            // Not looked at since they were pinned; what is found then is announced.
            return Some(caller.clone());
        };
        let user = session::active(seen.row.as_ref()).ok()?;
        let is_same_session =
            caller.scheme() != Scheme::Session || caller.session_stamp() == user.session_stamp.as_deref();
        if is_same_session { seen.caller(caller.scheme()).ok() } else { None }
    }

    async fn by_service_key(&self, token: &Token<'_>, presented: &Presented<'_>) -> Verdict {
        let Some(service) = self.service_keys.get(&token.sha256) else {
            return Verdict::NotMine;
        };
        self.vouched_or_itself(service, presented).await.into()
    }

    async fn vouched_or_itself(
        &self,
        service: &Service,
        presented: &Presented<'_>,
    ) -> Result<Arc<Caller>, Refusal> {
        if !service.may_vouch {
            return Ok(service.caller.clone());
        }
        let Some(user_jwt) = presented.user_jwt else {
            // Open WebUI falls back to unsigned headers when it cannot sign. Taking the call as the
            // service's own would give the user whatever the service may do.
            if presented.claims_a_user {
                return Err(jwt::invalid("user is named in headers that are not signed"));
            }
            return Ok(service.caller.clone());
        };
        let vouching =
            self.vouching.as_ref().ok_or_else(|| jwt::invalid("no secret for user tokens is set"))?;
        let verified = remembered(&self.verified_vouchers, Sha256::digest(user_jwt).into(), || {
            vouching.verify::<VouchedClaims>(user_jwt)?.try_map(|claims| claims.checked().map(Arc::new))
        })?;
        let claims = verified.claims()?;
        let Some(users) = &self.users else {
            return same_user(claims.caller_by_claim()?, presented);
        };
        let seen = users.get(claims.id()).await?;
        let user = session::active(seen.row.as_ref())?;
        if user.email != claims.email()? {
            return Err(identity_mismatch());
        }
        same_user(seen.caller(Scheme::Vouched)?, presented)
    }

    async fn by_session(&self, token: &Token<'_>, presented: &Presented<'_>) -> Verdict {
        let Some(sessions) = &self.sessions else {
            return Verdict::NotMine;
        };
        // One that was verified before is ours without reading its header again.
        if !self.verified_sessions.contains_key(&token.sha256) && !jwt::claims_shared_secret(token.text) {
            return Verdict::NotMine;
        }
        self.session_user(sessions, token, presented).await.into()
    }

    async fn session_user(
        &self,
        sessions: &Hs256,
        token: &Token<'_>,
        presented: &Presented<'_>,
    ) -> Result<Arc<Caller>, Refusal> {
        let verified = remembered(&self.verified_sessions, token.sha256, || {
            sessions.verify::<Claims>(token.text)?.try_map(|claims| claims.checked().map(Arc::new))
        })?;
        let claims = verified.claims()?;
        let Some(users) = &self.users else {
            return same_user(claims.caller_by_claim()?, presented);
        };
        let seen = users.get(&claims.id).await?;
        claims.permitted_by(seen.row.as_ref())?;
        same_user(seen.caller(Scheme::Session)?, presented)
    }
}

struct Token<'a> {
    text: &'a str,
    sha256: [u8; 32],
}

/// The verified claims of these bytes: from memory, or verified now and remembered.
fn remembered<C: Clone + Send + Sync + 'static>(
    memory: &Cache<[u8; 32], Verified<C>>,
    sha256: [u8; 32],
    verify: impl FnOnce() -> Result<Verified<C>, Refusal>,
) -> Result<Verified<C>, Refusal> {
    if let Some(verified) = memory.get(&sha256) {
        return Ok(verified);
    }
    let verified = verify()?;
    memory.insert(sha256, verified.clone());
    Ok(verified)
}

/// Refuses when Open WebUI says beside the credential that it acts for somebody else.
fn same_user(caller: Arc<Caller>, presented: &Presented<'_>) -> Result<Arc<Caller>, Refusal> {
    let Some(claimed) = presented.claimed_email else {
        return Ok(caller);
    };
    if caller.email().is_some_and(|email| email.as_str().eq_ignore_ascii_case(claimed.trim())) {
        return Ok(caller);
    }
    Err(identity_mismatch())
}

fn identity_mismatch() -> Refusal {
    Refusal::new(Code::IdentityMismatch, "the credential and the user named beside it differ")
}

#[cfg(test)]
mod tests;
