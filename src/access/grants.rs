//! All stored grants in memory, built to answer "may they" without looking at how many there are.
//!
//! Immutable: a change makes new `Grants` that share all untouched parts with the old ones, so a
//! patch costs the size of one shard and readers never wait. Decides nothing: `access::authorize`
//! asks. Rows come from `store`; what is malformed there grants nothing and is counted.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use crate::{
    names::{Email, GroupName, ServerId},
    store::{GrantRow, Subject},
};

/// Users are spread over this many shards; a patch copies one of them.
const SHARDS: usize = 4096;

/// Names as small numbers, so that three million rows fit in memory.
#[derive(Debug, Clone)]
struct Numbers<N> {
    by_name: HashMap<N, u32>,
    names: Vec<N>,
}

impl<N> Default for Numbers<N> {
    fn default() -> Self {
        Self { by_name: HashMap::new(), names: Vec::new() }
    }
}

impl<N: Clone + Eq + std::hash::Hash + std::borrow::Borrow<str>> Numbers<N> {
    fn get(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    fn get_or_add(&mut self, name: &N) -> u32 {
        self.get(name.borrow()).unwrap_or_else(|| {
            let number = self.names.len() as u32;
            self.names.push(name.clone());
            self.by_name.insert(name.clone(), number);
            number
        })
    }

    /// The same for numbers that are shared: they are copied only for a name that is new.
    fn get_or_add_shared(shared: &mut Arc<Self>, name: &N) -> u32 {
        shared.get(name.borrow()).unwrap_or_else(|| Arc::make_mut(shared).get_or_add(name))
    }

    fn name(&self, number: u32) -> &N {
        &self.names[number as usize]
    }
}

/// One thing a user holds: a server granted to them, or a group they are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Held(u32);

impl Held {
    fn server(number: u32) -> Self {
        Self(number << 1)
    }

    fn group(number: u32) -> Self {
        Self(number << 1 | 1)
    }

    fn is_group(self) -> bool {
        self.0 & 1 == 1
    }

    fn number(self) -> u32 {
        self.0 >> 1
    }
}

type Shard = HashMap<Box<str>, Box<[Held]>, RandomState>;

/// Every grant the gateway knows.
#[derive(Debug, Clone)]
pub struct Grants {
    shards: Box<[Arc<Shard>]>,
    spread: RandomState,
    groups: Arc<HashMap<u32, Box<[u32]>>>,
    server_numbers: Arc<Numbers<ServerId>>,
    group_numbers: Arc<Numbers<GroupName>>,
    rows: usize,
    malformed: usize,
}

impl Default for Grants {
    fn default() -> Self {
        GrantsBuilder::default().finish()
    }
}

impl Grants {
    /// The groups this user is in by `user_group_membership`.
    pub fn memberships(&self, email: &Email) -> impl Iterator<Item = &GroupName> {
        self.held_by(email.as_str())
            .iter()
            .filter(|held| held.is_group())
            .map(|held| self.group_numbers.name(held.number()))
    }

    /// The servers granted to this user directly.
    pub fn servers_of_user(&self, email: &Email) -> impl Iterator<Item = &ServerId> {
        self.held_by(email.as_str())
            .iter()
            .filter(|held| !held.is_group())
            .map(|held| self.server_numbers.name(held.number()))
    }

    /// The servers granted to this group.
    pub fn servers_of_group(&self, group: &str) -> impl Iterator<Item = &ServerId> {
        self.group_numbers
            .get(group)
            .and_then(|number| self.groups.get(&number))
            .map_or(&[][..], |servers| &servers[..])
            .iter()
            .map(|server| self.server_numbers.name(*server))
    }

    /// Whether this user was granted this server directly.
    pub fn user_has(&self, email: &Email, server: &ServerId) -> bool {
        self.server_numbers
            .get(server.as_str())
            .is_some_and(|number| self.held_by(email.as_str()).contains(&Held::server(number)))
    }

    /// Whether this group was granted this server.
    pub fn group_has(&self, group: &str, server: &ServerId) -> bool {
        self.servers_of_group(group).any(|granted| granted == server)
    }

    /// How many rows are believed.
    pub fn row_count(&self) -> usize {
        self.rows
    }

    /// How many rows were malformed and grant nothing.
    pub fn malformed_count(&self) -> usize {
        self.malformed
    }

    /// These grants with everything about `subjects` replaced by `rows`.
    pub fn patched<'a>(&self, subjects: &[Subject], rows: impl IntoIterator<Item = GrantRow<'a>>) -> Self {
        let mut users: HashMap<Email, BTreeSet<Held>> = HashMap::new();
        let mut groups: HashMap<GroupName, BTreeSet<u32>> = HashMap::new();
        for subject in subjects {
            match subject {
                Subject::User(email) => {
                    drop(Email::parse(email).map(|email| users.entry(email).or_default()))
                }
                Subject::Group(group) => {
                    drop(GroupName::parse(group).map(|group| groups.entry(group).or_default()))
                }
            }
        }
        let mut patched = self.clone();
        for row in rows {
            // A row about somebody else is left out: it was not asked for, so its siblings are not here.
            // Malformed ones are counted when everything is read.
            let Some(row) = ParsedRow::parse(row) else { continue };
            match row {
                ParsedRow::User(email, server) => {
                    if let Some(held) = users.get_mut(&email) {
                        let number = Numbers::get_or_add_shared(&mut patched.server_numbers, &server);
                        held.insert(Held::server(number));
                    }
                }
                ParsedRow::Membership(email, group) => {
                    if let Some(held) = users.get_mut(&email) {
                        let number = Numbers::get_or_add_shared(&mut patched.group_numbers, &group);
                        held.insert(Held::group(number));
                    }
                }
                ParsedRow::Group(group, server) => {
                    if let Some(servers) = groups.get_mut(&group) {
                        servers.insert(Numbers::get_or_add_shared(&mut patched.server_numbers, &server));
                    }
                }
            }
        }
        for (email, held) in users {
            patched.replace_user(email.as_str(), held);
        }
        for (group, servers) in groups {
            patched.replace_group(&group, servers);
        }
        patched
    }

    fn replace_user(&mut self, email: &str, held: BTreeSet<Held>) {
        let shard = Arc::make_mut(&mut self.shards[shard_of(&self.spread, email)]);
        self.rows += held.len();
        let before = if held.is_empty() {
            shard.remove(email)
        } else {
            shard.insert(email.into(), held.into_iter().collect())
        };
        self.rows -= before.map_or(0, |held| held.len());
    }

    fn replace_group(&mut self, group: &GroupName, servers: BTreeSet<u32>) {
        let number = Numbers::get_or_add_shared(&mut self.group_numbers, group);
        let groups = Arc::make_mut(&mut self.groups);
        self.rows += servers.len();
        let before = groups.insert(number, servers.into_iter().collect());
        self.rows -= before.map_or(0, |servers| servers.len());
    }

    fn held_by(&self, email: &str) -> &[Held] {
        self.shards[shard_of(&self.spread, email)].get(email).map_or(&[], |held| held)
    }
}

fn shard_of(spread: &RandomState, email: &str) -> usize {
    spread.hash_one(email) as usize % SHARDS
}

/// A row whose names are well-formed.
enum ParsedRow {
    User(Email, ServerId),
    Group(GroupName, ServerId),
    Membership(Email, GroupName),
}

impl ParsedRow {
    fn parse(row: GrantRow<'_>) -> Option<Self> {
        Some(match row {
            GrantRow::User { email, server } => {
                Self::User(Email::parse(email).ok()?, ServerId::parse(server).ok()?)
            }
            GrantRow::Group { group, server } => {
                Self::Group(GroupName::parse(group).ok()?, ServerId::parse(server).ok()?)
            }
            GrantRow::Membership { email, group } => {
                Self::Membership(Email::parse(email).ok()?, GroupName::parse(group).ok()?)
            }
        })
    }
}

/// Collects rows in any order; `finish` makes them fast to read.
pub struct GrantsBuilder {
    shards: Vec<HashMap<Box<str>, Vec<Held>>>,
    spread: RandomState,
    groups: HashMap<u32, BTreeSet<u32>>,
    server_numbers: Numbers<ServerId>,
    group_numbers: Numbers<GroupName>,
    malformed: usize,
}

impl Default for GrantsBuilder {
    fn default() -> Self {
        Self {
            shards: std::iter::repeat_with(HashMap::new).take(SHARDS).collect(),
            spread: RandomState::new(),
            groups: HashMap::new(),
            server_numbers: Numbers::default(),
            group_numbers: Numbers::default(),
            malformed: 0,
        }
    }
}

impl GrantsBuilder {
    /// Takes one row.
    pub fn add(&mut self, row: GrantRow<'_>) {
        match ParsedRow::parse(row) {
            Some(ParsedRow::User(email, server)) => {
                let held = Held::server(self.server_numbers.get_or_add(&server));
                self.hold(email, held);
            }
            Some(ParsedRow::Membership(email, group)) => {
                let held = Held::group(self.group_numbers.get_or_add(&group));
                self.hold(email, held);
            }
            Some(ParsedRow::Group(group, server)) => {
                let server = self.server_numbers.get_or_add(&server);
                let group = self.group_numbers.get_or_add(&group);
                self.groups.entry(group).or_default().insert(server);
            }
            None => self.malformed += 1,
        }
    }

    fn hold(&mut self, email: Email, held: Held) {
        let shard = &mut self.shards[shard_of(&self.spread, email.as_str())];
        match shard.get_mut(email.as_str()) {
            Some(all) => all.push(held),
            None => drop(shard.insert(email.as_str().into(), vec![held])),
        }
    }

    /// The grants of all rows taken.
    pub fn finish(self) -> Grants {
        let mut rows = 0;
        let shards = self
            .shards
            .into_iter()
            .map(|shard| {
                let mut frozen = Shard::with_capacity_and_hasher(shard.len(), self.spread.clone());
                for (email, mut held) in shard {
                    held.sort_unstable();
                    held.dedup();
                    rows += held.len();
                    frozen.insert(email, held.into_boxed_slice());
                }
                Arc::new(frozen)
            })
            .collect();
        let groups: HashMap<u32, Box<[u32]>> =
            self.groups.into_iter().map(|(group, servers)| (group, servers.into_iter().collect())).collect();
        rows += groups.values().map(|servers| servers.len()).sum::<usize>();
        Grants {
            shards,
            spread: self.spread,
            groups: Arc::new(groups),
            server_numbers: Arc::new(self.server_numbers),
            group_numbers: Arc::new(self.group_numbers),
            rows,
            malformed: self.malformed,
        }
    }
}

impl<'a> FromIterator<GrantRow<'a>> for Grants {
    fn from_iter<I: IntoIterator<Item = GrantRow<'a>>>(rows: I) -> Self {
        let mut builder = GrantsBuilder::default();
        rows.into_iter().for_each(|row| builder.add(row));
        builder.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [GrantRow<'static>; 5] = [
        GrantRow::User { email: "Ann@x.org", server: "github" },
        GrantRow::User { email: "ann@x.org", server: "github" },
        GrantRow::Membership { email: "ann@x.org", group: "Dev" },
        GrantRow::Group { group: "Dev", server: "jenkins" },
        GrantRow::User { email: "not an email", server: "github" },
    ];

    fn ann() -> Email {
        Email::parse("ann@x.org").unwrap()
    }

    #[track_caller]
    fn check(grants: &Grants, own: &[&str], groups: &[&str], of_dev: &[&str]) {
        let servers_of_user: Vec<_> = grants.servers_of_user(&ann()).map(ServerId::as_str).collect();
        let memberships: Vec<_> = grants.memberships(&ann()).map(GroupName::as_str).collect();
        let servers_of_group: Vec<_> = grants.servers_of_group("Dev").map(ServerId::as_str).collect();
        assert_eq!((&servers_of_user[..], &memberships[..], &servers_of_group[..]), (own, groups, of_dev));
    }

    #[test]
    fn rows_that_differ_in_case_only_are_one_grant_and_malformed_rows_grant_nothing() {
        let grants: Grants = ROWS.into_iter().collect();
        check(&grants, &["github"], &["Dev"], &["jenkins"]);
        assert_eq!((grants.row_count(), grants.malformed_count()), (3, 1));
    }

    #[test]
    fn a_patch_replaces_everything_about_its_subjects_and_nothing_else() {
        let before: Grants = ROWS.into_iter().collect();
        let user = [Subject::User("ANN@x.org".into())];
        let after = before.patched(&user, [GrantRow::Membership { email: "ann@x.org", group: "Ops" }]);
        check(&after, &[], &["Ops"], &["jenkins"]);
        check(&before, &["github"], &["Dev"], &["jenkins"]);
        let after = after.patched(&[Subject::Group("Dev".into())], []);
        check(&after, &[], &["Ops"], &[]);
        assert_eq!(after.row_count(), 1);
        check(&after.patched(&user, []), &[], &[], &[]);
    }

    #[test]
    fn a_patch_ignores_rows_it_did_not_ask_for() {
        let before: Grants = ROWS.into_iter().collect();
        let stray = GrantRow::User { email: "bob@x.org", server: "github" };
        let after = before.patched(&[Subject::User("ann@x.org".into())], [stray]);
        assert_eq!(after.servers_of_user(&Email::parse("bob@x.org").unwrap()).count(), 0);
    }
}
