//! The authenticated person or agent asking: a value only `identity` can make.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::names::{Email, GroupName};

/// By which credential a caller was believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// A service key alone.
    ServiceKey,
    /// A service key that vouches for a user with Open WebUI's signed user token.
    Vouched,
    /// An Open WebUI session token.
    Session,
}

impl Scheme {
    /// The word in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::ServiceKey => "service_key",
            Scheme::Vouched => "vouched",
            Scheme::Session => "session",
        }
    }
}

/// Who is asking.
#[derive(Debug, PartialEq, Eq)]
pub struct Caller {
    name: String,
    email: Option<Email>,
    groups: Box<[GroupName]>,
    scheme: Scheme,
    openwebui: Option<OpenWebUiSelf>,
    fingerprint: [u8; 16],
}

/// What Open WebUI calls a caller, and the stamp of their sessions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OpenWebUiSelf {
    pub(super) id: Box<str>,
    pub(super) session_stamp: Option<Box<str>>,
}

impl Caller {
    /// A user, with the groups their credential or Open WebUI's tables prove.
    pub(super) fn user(
        email: Email,
        openwebui: Option<OpenWebUiSelf>,
        groups: Vec<GroupName>,
        scheme: Scheme,
    ) -> Arc<Self> {
        let name = email.as_str().to_owned();
        Self::new(name, Some(email), groups, scheme, openwebui)
    }

    /// A service acting for itself.
    pub(super) fn service(name: &str, groups: Vec<GroupName>) -> Arc<Self> {
        Self::new(format!("service:{name}"), None, groups, Scheme::ServiceKey, None)
    }

    /// A caller for the operator's question "what if this user asked": it reaches no server.
    pub fn hypothetical(email: Email, groups: Vec<GroupName>) -> Arc<Self> {
        Self::user(email, None, groups, Scheme::Session)
    }

    fn new(
        name: String,
        email: Option<Email>,
        mut groups: Vec<GroupName>,
        scheme: Scheme,
        openwebui: Option<OpenWebUiSelf>,
    ) -> Arc<Self> {
        groups.sort_unstable();
        groups.dedup();
        let mut digest = Sha256::new();
        // Each part is preceded by its length, so that no two callers can run together.
        for part in std::iter::once(name.as_str()).chain(groups.iter().map(GroupName::as_str)) {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&digest.finalize()[..16]);
        Arc::new(Self { name, email, groups: groups.into(), scheme, openwebui, fingerprint })
    }

    /// Email of a user, `service:NAME` of a service. For audit and `explain`, never for logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The user's email; a service has none.
    pub fn email(&self) -> Option<&Email> {
        self.email.as_ref()
    }

    /// Groups proven by the credential or by Open WebUI's tables, sorted; the grants know further ones.
    pub fn groups(&self) -> &[GroupName] {
        &self.groups
    }

    /// By which credential they were believed.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Their id in Open WebUI, where they came with one.
    pub fn openwebui_id(&self) -> Option<&str> {
        self.openwebui.as_ref().map(|openwebui| &*openwebui.id)
    }

    /// The stamp of the session they came with, as Open WebUI's table had it.
    pub fn session_stamp(&self) -> Option<&str> {
        self.openwebui.as_ref()?.session_stamp.as_deref()
    }

    /// Equal exactly when name and groups are: what decisions are remembered by (SHA-256, cut to 128 bits).
    pub fn fingerprint(&self) -> [u8; 16] {
        self.fingerprint
    }

    /// A caller for the tests of other modules.
    #[cfg(test)]
    pub fn for_test(email: &str, groups: &[&str]) -> Arc<Self> {
        let groups = groups.iter().filter_map(|group| GroupName::parse(group).ok()).collect();
        Self::user(Email::parse(email).expect("tests use good emails"), None, groups, Scheme::Session)
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
    }
}
