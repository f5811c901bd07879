//! Entra ID: access tokens (RS256) of the tenants that are allowed, version 1 and 2.
//!
//! Decides whether a token is an access token for this gateway, who it names and which groups it proves. Never fetches
//! anything itself: keys and groups are in `directory`, which `snapshot::entra` fills. Waits only where a token's key
//! or its user's groups are not known yet, each with a deadline.

mod claims;
pub mod directory;
pub mod discovery;
mod groups;
pub mod keys;
mod token;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use moka::sync::Cache;
use uuid::Uuid;

use super::{
    Verdict,
    caller::{Caller, DirectoryId, Person, Proof, Scheme},
    reason::Reason,
};
use crate::{
    names::{GroupName, Secret},
    refusal::Refusal,
};
use claims::{Claims, Proven, Who};
use directory::Directory;
pub(super) use groups::Known;
pub use groups::{Member, Question};
use keys::Key;
use token::Token;

/// How long the caller a token makes is kept without being asked for.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// How tokens of Entra ID are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The tenants whose tokens are believed, the home tenant first.
    pub tenants: Vec<Tenant>,
    /// What a token must be meant for.
    pub audience: Vec<String>,
    /// Origin of the authority: `https://login.microsoftonline.com`.
    pub authority: String,
    /// Whether guests of the home tenant are let in.
    pub guests: bool,
    /// Whether applications of the home tenant are let in that act for nobody.
    pub apps: bool,
    /// Scopes of which a user's token must have one; any will do where this is empty.
    pub scopes: Vec<String>,
    /// Names of groups, by their object id.
    pub group_names: HashMap<Uuid, GroupName>,
    /// What to do about users in more groups than a token holds.
    pub overage: Overage,
    /// Origin of Microsoft Graph.
    pub graph_url: String,
    /// How long groups that Graph told are believed.
    pub groups_ttl: Duration,
}

impl Settings {
    /// Whether what is read of Entra ID by these settings serves the others too: they differ in what is believed at most.
    pub fn is_read_like(&self, other: &Self) -> bool {
        let as_believed = Self {
            audience: other.audience.clone(),
            guests: other.guests,
            apps: other.apps,
            scopes: other.scopes.clone(),
            ..self.clone()
        };
        let ids = |settings: &Self| settings.tenants.iter().map(|tenant| tenant.id).collect::<Vec<_>>();
        ids(self) == ids(other) && Self { tenants: other.tenants.clone(), ..as_believed } == *other
    }
}

/// A tenant whose tokens are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its id.
    pub id: Uuid,
    /// Domains of emails it has a say in, in lower case; none: any.
    pub email_domains: Vec<String>,
    /// Whether app roles given out in it count as groups.
    pub are_roles_groups: bool,
}

/// What to do about a user in more groups than a token holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overage {
    /// Their token is refused.
    Refuse,
    /// Graph is asked in the user's name.
    OnBehalfOf(Client),
    /// Graph is asked in the gateway's own name.
    App(Client),
}

/// What the gateway calls itself to the authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its application id.
    pub id: String,
    /// Its secret.
    pub secret: Secret<String>,
}

/// Parses a GUID as Entra writes it: 36 characters, with dashes.
pub fn guid(text: &str) -> Option<Uuid> {
    if text.len() == 36 { Uuid::try_parse(text).ok() } else { None }
}

/// What a token that was believed said, so that it can be judged again by other settings.
#[derive(Debug)]
pub struct Told {
    payload: Box<[u8]>,
    by: Arc<Settings>,
}

impl PartialEq for Told {
    fn eq(&self, other: &Self) -> bool {
        self.payload == other.payload
    }
}

impl Eq for Told {}

/// Believes tokens of Entra ID.
pub struct Entra {
    settings: Arc<Settings>,
    directory: Arc<Directory>,
    verified: Cache<[u8; 32], Arc<Verified>>,
}

/// A token whose signature and claims hold as long as its key does; its expiry is looked at with every use.
struct Verified {
    key: Arc<Key>,
    source: usize,
    expires: i64,
    user: User,
}

enum User {
    /// The token says everything.
    Told(Arc<Caller>),
    /// Their groups must be asked for, and may be others the next time.
    Asked(Asked),
}

struct Asked {
    member: Member,
    proven: Proven,
    told: Arc<Told>,
    last: ArcSwapOption<(Arc<Known>, Arc<Caller>)>,
}

impl Entra {
    /// Believes tokens by these settings; keys and groups come from the directory.
    pub fn new(settings: &Settings, directory: Arc<Directory>) -> Self {
        let verified = Cache::builder().max_capacity(100_000).time_to_idle(FORGET_AFTER).build();
        Self { settings: Arc::new(settings.clone()), directory, verified }
    }

    /// What is known of the tenants.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// Whether a token was verified before.
    pub fn remembers(&self, sha256: &[u8; 32]) -> bool {
        self.verified.contains_key(sha256)
    }

    /// What this scheme says of a token. `sha256` is the token's.
    pub async fn judge(&self, text: &str, sha256: [u8; 32]) -> Verdict {
        if let Some(verified) = self.verified.get(&sha256) {
            if self.directory.has_key(verified.source, &verified.key) {
                return self.caller(&verified, text).await.into();
            }
            self.verified.invalidate(&sha256);
        }
        let Some(token) = Token::read(text) else {
            return Verdict::NotMine;
        };
        match self.verify(&token).await {
            Ok(verified) => {
                self.verified.insert(sha256, verified.clone());
                self.caller(&verified, text).await.into()
            }
            Err(refusal) => Verdict::Failed(refusal),
        }
    }

    async fn verify(&self, token: &Token<'_>) -> Result<Arc<Verified>, Refusal> {
        let kid = token.kid()?;
        let claims = Claims::read(token.payload())?;
        // Nobody waits for a key with a token that would be refused with any.
        let meant = claims.meant_for(&self.settings)?;
        let expires = claims.dated(now())?;
        let source = self.directory.source(meant.tenant, meant.version);
        self.directory.is_issuer(source, claims.issuer()?).await?;
        let key = self.directory.key(source, kid).await?;
        if !key.has_signed(token.signed(), token.signature()) {
            return Err(Reason::WrongSignature.refuse());
        }
        let tenant = &self.settings.tenants[meant.tenant];
        let proven = claims.proven(&self.settings, meant.tenant)?;
        let told = Arc::new(Told { payload: token.payload().into(), by: self.settings.clone() });
        let user = match proven.needs_groups {
            false => User::Told(made(&proven, tenant.id, expires, None, told)?),
            true => {
                let member = Member { tenant: tenant.id, object: proven.object };
                User::Asked(Asked { member, proven, told, last: ArcSwapOption::empty() })
            }
        };
        Ok(Arc::new(Verified { key, source, expires, user }))
    }

    async fn caller(&self, verified: &Verified, text: &str) -> Result<Arc<Caller>, Refusal> {
        if claims::is_over(verified.expires, now()) {
            return Err(Reason::Expired.refuse());
        }
        let asked = match &verified.user {
            User::Told(caller) => return Ok(caller.clone()),
            User::Asked(asked) => asked,
        };
        let groups = self.directory.groups.get(asked.member, text).await?;
        if let Some(last) = asked.last.load_full()
            && Arc::ptr_eq(&last.0, &groups)
        {
            return Ok(last.1.clone());
        }
        let graph = Some((asked.member, groups.clone()));
        let caller = made(&asked.proven, asked.member.tenant, verified.expires, graph, asked.told.clone())?;
        asked.last.store(Some(Arc::new((groups, caller.clone()))));
        Ok(caller)
    }

    /// Who a caller that was believed is by these settings, as far as they go; none where they do not believe the token.
    pub fn now(&self, caller: &Arc<Caller>) -> Option<Arc<Caller>> {
        let proof = caller.proof();
        let told = proof.token.as_ref()?;
        if Arc::ptr_eq(&told.by, &self.settings) {
            return Some(caller.clone());
        }
        let claims = Claims::read(&told.payload).ok()?;
        let meant = claims.meant_for(&self.settings).ok()?;
        let proven = claims.proven(&self.settings, meant.tenant).ok()?;
        if proven.needs_groups != proof.graph.is_some() {
            return None;
        }
        let tenant = self.settings.tenants[meant.tenant].id;
        made(&proven, tenant, proof.expires?, proof.graph.clone(), told.clone()).ok()
    }

    /// Whether both believe the same, from the same source.
    pub fn is_like(&self, other: &Self) -> bool {
        self.settings == other.settings && Arc::ptr_eq(&self.directory, &other.directory)
    }
}

/// The caller of what a token proves and Graph tells.
fn made(
    proven: &Proven,
    tenant: Uuid,
    expires: i64,
    graph: Option<(Member, Arc<Known>)>,
    token: Arc<Told>,
) -> Result<Arc<Caller>, Refusal> {
    let told = graph.as_ref().map(|(_, known)| known.names()).transpose()?.unwrap_or_default();
    let groups = proven.groups.iter().chain(told).cloned().collect();
    let person = match &proven.who {
        Who::User(email) => Person::user(email.clone(), groups),
        Who::App(id) => Person::machine(format!("app:{id}"), groups),
    };
    let directory =
        DirectoryId { tenant: tenant.to_string().into(), object: proven.object.to_string().into() };
    let proof = Proof {
        expires: Some(expires),
        directory: Some(Arc::new(directory)),
        graph,
        token: Some(token),
        ..Proof::default()
    };
    Ok(Caller::new(person, Scheme::Entra, proof))
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The name of the group with this object id: the configured one, or the id itself in lower case.
///
/// Names that a token or Graph could tell are never used: whoever may create groups could call one `MCP-Admin`.
pub fn group_name(names: &HashMap<Uuid, GroupName>, id: &str) -> Option<GroupName> {
    let id = guid(id)?;
    names.get(&id).cloned().or_else(|| GroupName::parse(&id.to_string()).ok())
}

#[cfg(test)]
pub(super) mod tests;
