//! The authenticated person or agent asking: a value only `identity` can make.

use std::{net::IpAddr, sync::Arc};

use sha2::{Digest, Sha256};

use super::{
    entra::{Known, Member, Told},
    jwt::{self, KeyId},
    session::Session,
};
use crate::{
    names::{Email, GroupName},
    store::signed_out::Mark,
};

/// By which credential a caller was believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Headers of a trusted gateway in front.
    GatewayHeaders,
    /// A service key alone.
    ServiceKey,
    /// A service key that vouches for a user with Open WebUI's signed user token.
    Vouched,
    /// An API key of Open WebUI.
    ApiKey,
    /// An Open WebUI session token.
    Session,
    /// An access token of Entra ID.
    Entra,
}

impl Scheme {
    /// The word in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::GatewayHeaders => "gateway_headers",
            Scheme::ServiceKey => "service_key",
            Scheme::Vouched => "vouched",
            Scheme::ApiKey => "api_key",
            Scheme::Session => "session",
            Scheme::Entra => "entra",
        }
    }
}

/// Who is asking, and by which credential they were believed.
#[derive(Debug, PartialEq, Eq)]
pub struct Caller {
    person: Arc<Person>,
    scheme: Scheme,
    proof: Proof,
}

/// Somebody as a credential, a table or a trusted gateway tells of them; shared by all their credentials.
#[derive(Debug, PartialEq, Eq)]
pub struct Person {
    name: String,
    email: Option<Email>,
    groups: Box<[GroupName]>,
    is_admin: bool,
    openwebui_id: Option<Box<str>>,
    fingerprint: [u8; 16],
}

/// What is remembered of the credential itself, to notice its end, and that it is believed no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proof {
    /// With which secret its token is signed.
    pub(super) signed_with: Option<KeyId>,
    /// SHA-256 of a service key.
    pub(super) service_key: Option<[u8; 32]>,
    /// Where a trusted gateway said it, and its secret.
    pub(super) gateway: Option<(IpAddr, Option<[u8; 32]>)>,
    /// What a token of Entra ID said.
    pub(super) token: Option<Arc<Told>>,
    /// Seconds since 1970 after which it is not believed any more.
    pub(super) expires: Option<i64>,
    /// The session of Open WebUI it belongs to.
    pub(super) session: Option<Arc<Session>>,
    /// SHA-256 of an API key of Open WebUI.
    pub(super) api_key: Option<[u8; 32]>,
    /// Who they are in Entra ID, whatever their email is.
    pub(super) directory: Option<Arc<DirectoryId>>,
    /// What Microsoft Graph told of them.
    pub(super) graph: Option<(Member, Arc<Known>)>,
}

/// A session of Open WebUI, as it can be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionId {
    /// What ends it: a mark of its own, where its token has a `jti`, and one of its user.
    pub marks: Box<[Mark]>,
    /// When its token was issued, in seconds since 1970.
    pub issued: Option<i64>,
}

impl SessionId {
    /// The session of this user, whose token says this of itself.
    pub fn new(user: &str, jti: Option<&str>, issued: Option<i64>) -> Self {
        let own = jti.map(|jti| Mark::Token(jti.into()));
        Self { marks: own.into_iter().chain([Mark::User(user.into())]).collect(), issued }
    }
}

/// Somebody in a directory: ids that are never given to another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DirectoryId {
    /// The tenant.
    pub tenant: Box<str>,
    /// Their object id in it.
    pub object: Box<str>,
}

impl Person {
    /// A user, with the groups that their credential or Open WebUI's tables prove.
    pub(super) fn user(email: Email, groups: Vec<GroupName>) -> Self {
        Self::new(email.as_str().to_owned(), Some(email), groups)
    }

    /// Somebody without an email: a service or an application.
    pub(super) fn machine(name: String, groups: Vec<GroupName>) -> Self {
        Self::new(name, None, groups)
    }

    /// The same person, known to Open WebUI by this id.
    pub(super) fn known_to_openwebui(mut self, id: &str) -> Self {
        self.openwebui_id = Some(id.into());
        self
    }

    /// The same person, whom a trusted gateway calls an admin.
    pub(super) fn admin(mut self) -> Self {
        self.is_admin = true;
        self.fingerprint = self.digest();
        self
    }

    fn new(name: String, email: Option<Email>, mut groups: Vec<GroupName>) -> Self {
        groups.sort_unstable();
        groups.dedup();
        let mut person = Self {
            name,
            email,
            groups: groups.into(),
            is_admin: false,
            openwebui_id: None,
            fingerprint: Default::default(),
        };
        person.fingerprint = person.digest();
        person
    }

    fn digest(&self) -> [u8; 16] {
        let mut digest = Sha256::new();
        digest.update([u8::from(self.is_admin)]);
        // Each part is preceded by its length, so that no two callers can run together.
        for part in std::iter::once(self.name.as_str()).chain(self.groups.iter().map(GroupName::as_str)) {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&digest.finalize()[..16]);
        fingerprint
    }
}

impl Caller {
    /// A person who came with a credential of this scheme.
    pub(super) fn new(person: impl Into<Arc<Person>>, scheme: Scheme, proof: Proof) -> Arc<Self> {
        Arc::new(Self { person: person.into(), scheme, proof })
    }

    /// A service acting for itself.
    pub(super) fn service(name: &str, groups: Vec<GroupName>, key_sha256: [u8; 32]) -> Arc<Self> {
        let person = Person::machine(format!("service:{name}"), groups);
        Self::new(person, Scheme::ServiceKey, Proof { service_key: Some(key_sha256), ..Proof::default() })
    }

    /// A caller for the operator's question "what if this user asked": it reaches no server.
    pub fn hypothetical(email: Email, groups: Vec<GroupName>) -> Arc<Self> {
        Self::new(Person::user(email, groups), Scheme::Session, Proof::default())
    }

    /// Email of a user, `service:NAME` of a service, `app:ID` of an application. For audit and `explain`, never for logs.
    pub fn name(&self) -> &str {
        &self.person.name
    }

    /// The user's email; services and applications have none.
    pub fn email(&self) -> Option<&Email> {
        self.person.email.as_ref()
    }

    /// Groups proven by the credential, a trusted gateway or Open WebUI's tables, sorted; the grants know further ones.
    pub fn groups(&self) -> &[GroupName] {
        &self.person.groups
    }

    /// Whether a trusted gateway says that they administer.
    pub fn is_admin(&self) -> bool {
        self.person.is_admin
    }

    /// By which credential they were believed.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Their id in Open WebUI, where they came with one.
    pub fn openwebui_id(&self) -> Option<&str> {
        self.person.openwebui_id.as_deref()
    }

    /// Who they are in Entra ID.
    pub fn directory(&self) -> Option<&DirectoryId> {
        self.proof.directory.as_deref()
    }

    /// Whether the credential has expired since they came.
    pub fn has_expired(&self) -> bool {
        jwt::is_over(self.proof.expires)
    }

    /// What is remembered of the credential.
    pub(super) fn proof(&self) -> &Proof {
        &self.proof
    }

    /// Equal exactly when name, groups and a trusted gateway's word about administering are: what decisions are
    /// remembered by (SHA-256, cut to 128 bits).
    pub fn fingerprint(&self) -> [u8; 16] {
        self.person.fingerprint
    }

    /// A caller for the tests of other modules.
    #[cfg(test)]
    pub fn for_test(email: &str, groups: &[&str]) -> Arc<Self> {
        let groups = groups.iter().filter_map(|group| GroupName::parse(group).ok()).collect();
        Self::hypothetical(Email::parse(email).expect("tests use good emails"), groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_remembered_by_name_and_groups_whatever_their_order() {
        let fingerprint = |groups: &[&str]| Caller::for_test("a@x", groups).fingerprint();
        assert_eq!(fingerprint(&["A", "B"]), fingerprint(&["B", "A", "A"]));
        assert_ne!(fingerprint(&["A", "B"]), fingerprint(&["AB"]));
        assert_ne!(fingerprint(&["A"]), Caller::for_test("b@x", &["A"]).fingerprint());
        let admin = Person::user(Email::parse("a@x").unwrap(), Vec::new()).admin();
        assert_ne!(admin.fingerprint, fingerprint(&[]));
    }
}
