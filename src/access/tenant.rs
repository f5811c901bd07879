//! What a group brings of its own to a server: a key that stands for it there, an address where it is served.
//!
//! Decides for which group of a caller a call is made. Where that is not certain it says so, and nothing is sent: a key
//! is never guessed, and never goes to another group's address. Never opens, dials or shows anything.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
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

impl OwnKey {
    fn has_no_name(&self) -> bool {
        self.name.trim() != &*self.name || self.name.is_empty()
    }
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

    /// The keys by this name, and those whose name cannot be read, for they may be meant: one, unless the table is in
    /// disorder.
    pub fn keys(&self, name: &str) -> impl Iterator<Item = &OwnKey> {
        self.keys.iter().filter(move |key| &*key.name == name || key.has_no_name())
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

    fn unreadable_count(&self) -> usize {
        self.keys.iter().filter(|key| key.value.is_err()).count()
    }

    /// In one order, whatever that of the table is.
    fn sort(&mut self) {
        self.keys.sort_by(|one, other| one.name.cmp(&other.name));
        self.endpoints.sort();
    }
}

/// What one group has, by server.
type OfGroup = BTreeMap<ServerId, Arc<Own>>;

/// Groups are spread over this many shards; a change copies one of them.
const SHARDS: usize = 256;

/// What all groups have of their own.
#[derive(Debug, Clone)]
pub struct Tenants {
    shards: Vec<Arc<HashMap<GroupName, Arc<OfGroup>>>>,
    /// How many groups have a key for a server, whatever it is called.
    keyed: HashMap<ServerId, usize>,
    rows: usize,
    unreadable: usize,
}

impl Default for Tenants {
    fn default() -> Self {
        let shards = std::iter::repeat_with(Arc::default).take(SHARDS).collect();
        Self { shards, keyed: HashMap::new(), rows: 0, unreadable: 0 }
    }
}

fn shard_of(group: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    group.hash(&mut hasher);
    hasher.finish() as usize % SHARDS
}

impl Tenants {
    /// These, with all that the groups named have replaced by what these rows say.
    pub(super) fn replaced(&self, groups: &[&str], rows: Vec<(GroupName, ServerId, OwnPart)>) -> Self {
        let mut replaced = self.clone();
        for group in groups {
            replaced.forget(group);
        }
        let mut news: HashMap<GroupName, OfGroup> = HashMap::new();
        for (group, server, part) in rows {
            let of_group = news.entry(group.clone()).or_default();
            let own = of_group
                .entry(server)
                .or_insert_with(|| Arc::new(Own { group, keys: Vec::new(), endpoints: Vec::new() }));
            Arc::make_mut(own).add(part);
        }
        for (group, mut of_group) in news {
            for (server, own) in &mut of_group {
                Arc::make_mut(own).sort();
                replaced.count(server, own, 1);
            }
            let shard = &mut replaced.shards[shard_of(group.as_str())];
            Arc::make_mut(shard).insert(group, Arc::new(of_group));
        }
        replaced
    }

    fn forget(&mut self, group: &str) {
        let shard = &mut self.shards[shard_of(group)];
        if !shard.contains_key(group) {
            return;
        }
        let Some(of_group) = Arc::make_mut(shard).remove(group) else { return };
        for (server, own) in of_group.iter() {
            self.count(server, own, -1);
        }
    }

    /// Counts what a group has for a server, or no longer does.
    fn count(&mut self, server: &ServerId, own: &Own, by: isize) {
        self.rows = self.rows.wrapping_add_signed(by * own.row_count() as isize);
        self.unreadable = self.unreadable.wrapping_add_signed(by * own.unreadable_count() as isize);
        if own.keys.is_empty() {
            return;
        }
        let groups = self.keyed.entry(server.clone()).or_default();
        *groups = groups.wrapping_add_signed(by);
        if *groups == 0 {
            self.keyed.remove(server);
        }
    }

    fn groups(&self) -> impl Iterator<Item = (&GroupName, &Arc<OfGroup>)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// Whether this group has anything of its own.
    pub(super) fn has(&self, group: &str) -> bool {
        self.shards[shard_of(group)].contains_key(group)
    }

    /// How many rows are here.
    pub fn row_count(&self) -> usize {
        self.rows
    }

    /// How many keys cannot be read.
    pub fn unreadable_count(&self) -> usize {
        self.unreadable
    }

    /// The groups that have anything of their own.
    pub fn names(&self) -> impl Iterator<Item = &GroupName> {
        self.groups().map(|(group, _)| group)
    }

    /// What this group has of its own, server by server.
    pub fn of_group(&self, group: &GroupName) -> impl Iterator<Item = (&ServerId, &Arc<Own>)> {
        self.shards[shard_of(group.as_str())].get(group).into_iter().flat_map(|of_group| of_group.iter())
    }

    /// Every address that any group has of its own, for its server.
    pub fn endpoints(&self) -> impl Iterator<Item = (&ServerId, &str)> {
        let all = self.groups().flat_map(|(_, of_group)| of_group.iter());
        all.flat_map(|(server, own)| own.endpoints.iter().map(move |url| (server, &**url)))
    }

    /// Whether any group has a key of its own for this server. One that it does not take counts too: it was meant to keep
    /// its group from sharing.
    fn key(&self, server: &Server) -> bool {
        server.own_credential.is_some() && self.keyed.contains_key(&server.id)
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
