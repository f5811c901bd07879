//! What a group brings of its own to a server: a key that stands for it there, an address where it is served.
//!
//! Decides for which group of a caller a call is made. Where that is not certain it says so, and nothing is sent: a key
//! is never guessed, and never goes to another group's address. Never opens, dials or shows anything.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    catalog::server::Server,
    names::{GroupName, Secret, ServerId},
    store::Unreadable,
};

/// A key of a group's own for one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnKey {
    /// What it is called; a server says by which name it takes one.
    pub name: Box<str>,
    /// The key, or why it is of no use.
    pub value: Result<Secret<String>, Unreadable>,
}

/// One row about what a group has of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnPart {
    /// A key.
    Key(OwnKey),
    /// An address, as written.
    Endpoint(Box<str>),
}

/// All that one group has of its own for one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    group: GroupName,
    keys: Vec<OwnKey>,
    endpoints: Vec<Box<str>>,
}

impl Own {
    /// Whose it is.
    pub fn group(&self) -> &GroupName {
        &self.group
    }

    /// The keys by this name: one, unless the table is in disorder.
    pub fn keys(&self, name: &str) -> impl Iterator<Item = &OwnKey> {
        self.keys.iter().filter(move |key| &*key.name == name)
    }

    /// The addresses: one, unless the tables are in disorder.
    pub fn endpoints(&self) -> &[Box<str>] {
        &self.endpoints
    }

    /// Whether any of it changes how this server is called.
    fn concerns(&self, server: &Server) -> bool {
        let has_key = |name: &str| self.keys(name).next().is_some();
        !self.endpoints.is_empty() || server.own_credential.as_ref().is_some_and(|own| has_key(&own.key_name))
    }

    fn add(&mut self, part: OwnPart) {
        match part {
            OwnPart::Key(key) if !self.keys.contains(&key) => self.keys.push(key),
            OwnPart::Endpoint(url) if !self.endpoints.contains(&url) => self.endpoints.push(url),
            OwnPart::Key(_) | OwnPart::Endpoint(_) => {}
        }
    }

    fn row_count(&self) -> usize {
        self.keys.len() + self.endpoints.len()
    }
}

/// What all groups have of their own.
#[derive(Debug, Clone, Default)]
pub struct Tenants {
    by_group: HashMap<GroupName, BTreeMap<ServerId, Arc<Own>>>,
    /// The servers that any group has a key for, whatever it is called.
    keyed: HashSet<ServerId>,
    rows: usize,
}

impl Tenants {
    /// Takes one row; `finish` when all are there.
    pub(super) fn add(&mut self, group: GroupName, server: ServerId, part: OwnPart) {
        let of_group = self.by_group.entry(group.clone()).or_default();
        let own = of_group
            .entry(server)
            .or_insert_with(|| Arc::new(Own { group, keys: Vec::new(), endpoints: Vec::new() }));
        let before = own.row_count();
        Arc::make_mut(own).add(part);
        self.rows += own.row_count() - before;
    }

    /// These, ready to be asked.
    pub(super) fn finish(mut self) -> Self {
        self.keyed.clear();
        self.rows = 0;
        for (server, own) in self.by_group.values().flatten() {
            self.rows += own.row_count();
            if !own.keys.is_empty() {
                self.keyed.insert(server.clone());
            }
        }
        self
    }

    /// These, with all that the groups named have replaced by `news`.
    pub(super) fn replaced(&self, groups: &[&str], news: Self) -> Self {
        let mut by_group = self.by_group.clone();
        by_group.retain(|group, _| !groups.contains(&group.as_str()));
        by_group.extend(news.by_group);
        Self { by_group, ..Self::default() }.finish()
    }

    /// Whether nothing is here.
    pub fn is_empty(&self) -> bool {
        self.by_group.is_empty()
    }

    /// Whether this group has anything of its own.
    pub(super) fn has(&self, group: &str) -> bool {
        self.by_group.contains_key(group)
    }

    /// How many rows are here.
    pub fn row_count(&self) -> usize {
        self.rows
    }

    /// What this group has of its own, server by server.
    pub fn of_group(&self, group: &GroupName) -> impl Iterator<Item = (&ServerId, &Arc<Own>)> {
        self.by_group.get(group).into_iter().flatten()
    }

    /// Every address that any group has of its own, each once for a server.
    pub fn endpoints(&self) -> impl Iterator<Item = (&ServerId, &str)> {
        let all = self.by_group.values().flatten();
        all.flat_map(|(server, own)| own.endpoints.iter().map(move |url| (server, &**url)))
    }

    /// How many keys cannot be read.
    pub fn unreadable_count(&self) -> usize {
        let all = self.by_group.values().flat_map(BTreeMap::values).flat_map(|own| &own.keys);
        all.filter(|key| key.value.is_err()).count()
    }

    /// Whether any group has a key of its own for this server. One that it does not take counts too: it was meant to keep
    /// its group from sharing.
    fn key(&self, server: &Server) -> bool {
        server.own_credential.is_some() && self.keyed.contains(&server.id)
    }
}

/// For whom a caller's call is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenancy {
    /// For nobody in particular: no group of the caller brings anything to this server.
    Shared {
        /// Whether other groups bring keys of their own.
        is_keyed: bool,
    },
    /// For this group of the caller.
    Own(Arc<Own>),
    /// Several groups of the caller bring something, and nothing says which one counts.
    Ambiguous,
}

impl Tenancy {
    /// Chooses among what the caller's groups bring to this server: the first group in `order` that brings anything, else
    /// the only one that does.
    pub(super) fn choose(
        order: &[GroupName],
        brought: &[Arc<Own>],
        server: &Server,
        tenants: &Tenants,
    ) -> Self {
        let mut concerning = brought.iter().filter(|own| own.concerns(server));
        let Some(first) = concerning.next() else {
            return Self::Shared { is_keyed: tenants.key(server) };
        };
        let Some(second) = concerning.next() else { return Self::Own(first.clone()) };
        let all = || [first, second].into_iter().chain(concerning.clone());
        let preferred = order.iter().find_map(|group| all().find(|own| own.group == *group));
        preferred.map_or(Self::Ambiguous, |own| Self::Own(own.clone()))
    }

    /// The group, where it is one.
    pub fn group(&self) -> Option<&GroupName> {
        match self {
            Self::Own(own) => Some(&own.group),
            Self::Shared { .. } | Self::Ambiguous => None,
        }
    }
}
