//! Who is asking: the schemes, tried in a fixed order, and the only maker of a `Caller`.
//!
//! Each scheme answers *not mine*, *known* or *failed*, and *failed* stops: a bad credential never
//! falls through to a weaker scheme. Why one failed is a `Reason`. Decides nothing about what the caller
//! may do (`access`). Comes after `route`; waits only where memory has never seen what it is asked: a user,
//! session or API key of Open WebUI, a key or the groups of Entra ID.

pub mod api_key;
mod caller;
pub mod entra;
pub mod gateway_headers;
mod jwt;
mod presented;
mod reason;
mod recognised;
mod service_key;
mod session;
mod settings;
pub mod signed_out;
mod underway;
pub mod users;
mod verdict;
pub mod watched;

use std::{
    net::IpAddr,
    ops::ControlFlow,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::request::Parts;
use moka::sync::Cache;
use sha2::{Digest, Sha256};

use crate::refusal::{Code, Refusal};
use api_key::ApiKeys;
use caller::Proof;
pub use caller::{Caller, DirectoryId, Scheme};
use entra::Entra;
use gateway_headers::GatewayHeaders;
use jwt::{Expiry, Hs256, Verified};
use presented::Presented;
pub use presented::{Face, is_claim};
pub use reason::Reason;
use service_key::{Service, ServiceKeys, VouchedClaims};
use session::{Claims, Session};
pub use settings::{RedisSettings, ServiceKey, SessionSettings, Settings, TablesSettings};
use signed_out::SignedOut;
pub use underway::Pin;
use users::Users;
use verdict::Asking;
pub use verdict::{Listener, Verdict};

/// What is known beside the configuration; filled and kept true by `snapshot`.
#[derive(Default)]
pub struct Sources {
    /// Open WebUI's users, where its tables can be asked.
    pub users: Option<Arc<Users>>,
    /// Its API keys, where they are believed.
    pub api_keys: Option<Arc<ApiKeys>>,
    /// Its sessions that were ended, where its Redis can be asked.
    pub signed_out: Option<Arc<SignedOut>>,
    /// Entra ID's keys and groups; without them its tokens are nobody's.
    pub entra: Option<Arc<entra::directory::Directory>>,
}

/// The believed credentials.
pub struct Identity {
    gateway_headers: Option<GatewayHeaders>,
    service_keys: ServiceKeys,
    vouching: Option<Hs256>,
    sessions: Option<Hs256>,
    users: Option<Arc<Users>>,
    api_keys: Option<Arc<ApiKeys>>,
    signed_out: Option<Arc<SignedOut>>,
    entra: Option<Arc<Entra>>,
    verified_sessions: Cache<[u8; 32], Verified<Known>>,
    verified_vouchers: Cache<[u8; 32], Verified<Arc<VouchedClaims>>>,
}

/// A session that was verified, and who it makes where the token alone says it: made once, not for each request.
#[derive(Clone)]
struct Known {
    session: Arc<Session>,
    caller: Arc<OnceLock<Arc<Caller>>>,
}

/// How long a verified token is remembered, so that its signature is checked once.
const REMEMBER: Duration = Duration::from_secs(300);

impl Identity {
    /// The schemes of these settings.
    pub fn new(settings: &Settings, sources: Sources) -> Self {
        let sessions = settings.sessions.as_ref().map(|sessions| {
            let expiry = if sessions.allow_no_expiry { Expiry::Optional } else { Expiry::Required };
            Hs256::new(&sessions.secret, expiry)
        });
        Self {
            gateway_headers: settings.gateway_headers.as_ref().map(GatewayHeaders::new),
            service_keys: ServiceKeys::new(&settings.service_keys),
            vouching: settings.forward_jwt_secret.as_ref().map(|secret| Hs256::new(secret, Expiry::Required)),
            sessions,
            users: sources.users,
            api_keys: sources.api_keys,
            signed_out: sources.signed_out,
            entra: settings
                .entra
                .as_ref()
                .zip(sources.entra)
                .map(|(settings, directory)| Arc::new(Entra::new(settings, directory))),
            verified_sessions: Cache::builder().max_capacity(100_000).time_to_live(REMEMBER).build(),
            verified_vouchers: Cache::builder().max_capacity(100_000).time_to_live(REMEMBER).build(),
        }
    }

    /// The same schemes with what was verified before, as far as that is believed here too: so that a reload makes nobody wait.
    pub fn remembering(self, before: &Self) -> Self {
        let is_like = |a: &Option<Hs256>, b: &Option<Hs256>| match (a, b) {
            (Some(a), Some(b)) => a.is_like(b),
            (None, _) | (_, None) => false,
        };
        let mut now = self;
        if is_like(&now.sessions, &before.sessions) {
            now.verified_sessions = before.verified_sessions.clone();
        }
        if is_like(&now.vouching, &before.vouching) {
            now.verified_vouchers = before.verified_vouchers.clone();
        }
        if let (Some(own), Some(known)) = (&now.entra, &before.entra)
            && own.is_like(known)
        {
            now.entra = before.entra.clone();
        }
        now
    }

    /// What is known of Entra ID, where its tokens are believed.
    pub fn directory(&self) -> Option<&Arc<entra::directory::Directory>> {
        self.entra.as_ref().map(|entra| entra.directory())
    }

    /// Who sent this request; `from` is the address it came from.
    pub async fn identify(
        &self,
        request: &Parts,
        face: Face,
        from: Option<IpAddr>,
    ) -> Result<Arc<Caller>, Refusal> {
        self.identify_aloud(request, face, from, &mut |_, _| {}).await
    }

    /// The same, while a listener hears what each scheme says.
    pub async fn identify_aloud(
        &self,
        request: &Parts,
        face: Face,
        from: Option<IpAddr>,
        listener: &mut Listener<'_>,
    ) -> Result<Arc<Caller>, Refusal> {
        let presented = Presented::read(request, face)?;
        match self.ask(request, &presented, from, listener).await {
            ControlFlow::Break(decision) => decision,
            ControlFlow::Continue(()) => match presented.token? {
                Some(_) => Err(Reason::Unrecognised.refuse()),
                None => {
                    let sentence = "send `Authorization: Bearer` and a session token or service key";
                    Err(Refusal::new(Code::NoCredential, sentence))
                }
            },
        }
    }

    /// Asks scheme by scheme.
    async fn ask(
        &self,
        request: &Parts,
        presented: &Presented<'_>,
        from: Option<IpAddr>,
        listener: &mut Listener<'_>,
    ) -> Asking {
        let by_gateway = self.gateway_headers.as_ref();
        let by_gateway = by_gateway.map_or(Verdict::Off, |gateway| gateway.judge(&request.headers, from));
        by_gateway.heard("gateway_headers", listener)?;
        let Ok(Some(text)) = presented.token.as_ref().map(|token| token.as_deref()) else {
            return ControlFlow::Continue(());
        };
        let token = Token { text, sha256: Sha256::digest(text).into() };
        self.by_service_key(&token, presented).await.heard("service_key", listener)?;
        if presented.is_in_query {
            return ControlFlow::Continue(());
        }
        self.by_api_key(&token, presented).await.heard("api_key", listener)?;
        self.by_session(&token, presented).await.heard("session", listener)?;
        self.by_entra(&token, presented).await.heard("entra", listener)
    }

    /// Whether nothing but the address they came from, and what was said there, made this caller.
    pub fn is_known_by_address_alone(&self, caller: &Caller) -> bool {
        let has_secret = self.gateway_headers.as_ref().is_some_and(GatewayHeaders::has_secret);
        caller.scheme() == Scheme::GatewayHeaders && !has_secret
    }

    async fn by_service_key(&self, token: &Token<'_>, presented: &Presented<'_>) -> Verdict {
        if self.service_keys.is_empty() {
            return Verdict::Off;
        }
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
                return Err(Reason::UnsignedUser.refuse());
            }
            return Ok(service.caller.clone());
        };
        let vouching = self.vouching.as_ref().ok_or_else(|| Reason::NoVouchingSecret.refuse())?;
        let verified = remembered(&self.verified_vouchers, Sha256::digest(user_jwt).into(), || {
            vouching.verify::<VouchedClaims>(user_jwt)?.try_map(|claims| claims.checked().map(Arc::new))
        })?;
        let claims = verified.claims()?;
        let service_key = service.caller.proof().service_key;
        let (expires, signed_with) = (verified.expires(), Some(vouching.id()));
        let proof = Proof { expires, service_key, signed_with, ..Proof::default() };
        let Some(users) = &self.users else {
            return same_user(claims.caller_by_claim(proof)?, presented);
        };
        let seen = users.get(claims.id()).await?;
        let user = session::active(seen.row.as_ref())?;
        if user.email != claims.email()? {
            return Err(
                Reason::UserMismatch.because("the user token names another email than Open WebUI's tables")
            );
        }
        same_user(Caller::new(seen.person()?, Scheme::Vouched, proof), presented)
    }

    async fn by_api_key(&self, token: &Token<'_>, presented: &Presented<'_>) -> Verdict {
        let (Some(keys), Some(users)) = (&self.api_keys, &self.users) else {
            return Verdict::Off;
        };
        if !api_key::looks_like_one(token.text) {
            return Verdict::NotMine;
        }
        let caller = keys.caller(users, token.text, token.sha256).await;
        caller.and_then(|caller| same_user(caller, presented)).into()
    }

    async fn by_session(&self, token: &Token<'_>, presented: &Presented<'_>) -> Verdict {
        let Some(sessions) = &self.sessions else {
            return Verdict::Off;
        };
        // One that was verified before is ours, or somebody else's, without reading its header again.
        let known = self.verified_sessions.get(&token.sha256);
        let is_known_elsewhere = || self.entra.as_ref().is_some_and(|entra| entra.remembers(&token.sha256));
        if known.is_none() && (is_known_elsewhere() || !jwt::claims_shared_secret(token.text)) {
            return Verdict::NotMine;
        }
        self.session_user((sessions, known), token, presented).await.into()
    }

    async fn by_entra(&self, token: &Token<'_>, presented: &Presented<'_>) -> Verdict {
        let Some(entra) = &self.entra else {
            return Verdict::Off;
        };
        match entra.judge(token.text, token.sha256).await {
            Verdict::Known(caller) => same_user(caller, presented).into(),
            other => other,
        }
    }

    async fn session_user(
        &self,
        (sessions, known): (&Hs256, Option<Verified<Known>>),
        token: &Token<'_>,
        presented: &Presented<'_>,
    ) -> Result<Arc<Caller>, Refusal> {
        let verified = match known {
            Some(verified) => verified,
            None => remembered(&self.verified_sessions, token.sha256, || {
                let verified = sessions.verify::<Claims>(token.text)?;
                let issued = verified.issued();
                verified.try_map(|claims| {
                    let session = Arc::new(Session::new(claims.checked()?, issued));
                    Ok(Known { session, caller: Arc::default() })
                })
            })?,
        };
        let Known { session, caller } = verified.claims()?;
        if let Some(signed_out) = &self.signed_out {
            signed_out.refuse_ended(&session.id, verified.expires()).await?;
        }
        let (expires, signed_with) = (verified.expires(), Some(sessions.id()));
        let proof = || Proof { expires, signed_with, session: Some(session.clone()), ..Proof::default() };
        let Some(users) = &self.users else {
            let caller = match caller.get() {
                Some(caller) => caller.clone(),
                None => {
                    let made = session.claims.caller_by_claim(proof())?;
                    caller.get_or_init(|| made).clone()
                }
            };
            return same_user(caller, presented);
        };
        let seen = users.get(&session.claims.id).await?;
        session.claims.permitted_by(seen.row.as_ref())?;
        same_user(Caller::new(seen.person()?, Scheme::Session, proof()), presented)
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
    Err(Reason::UserMismatch.refuse())
}

#[cfg(test)]
mod tests;
