//! Grants from all stored rows, in any order.
//!
//! Decides nothing: it collects, and arranges once everything is there.

use std::{
    collections::{BTreeSet, HashMap},
    hash::RandomState,
    sync::Arc,
};

use super::{Grants, Held, Numbers, Ruled, SHARDS, Shard, count_malformed, rows::ParsedRow, shard_of};
use crate::{
    access::tenant::{OwnPart, Tenants},
    names::{Email, GroupName, ServerId},
    store::GrantRow,
};

/// Collects rows in any order; `finish` makes them fast to read.
pub struct GrantsBuilder {
    shards: Vec<HashMap<Box<str>, Vec<Held>>>,
    spread: RandomState,
    groups: HashMap<u32, BTreeSet<u32>>,
    user_rules: HashMap<Email, BTreeSet<Ruled>>,
    group_rules: HashMap<u32, BTreeSet<Ruled>>,
    own: Vec<(GroupName, ServerId, OwnPart)>,
    server_numbers: Numbers<ServerId>,
    group_numbers: Numbers<GroupName>,
    malformed_names: usize,
}

impl Default for GrantsBuilder {
    fn default() -> Self {
        Self {
            shards: std::iter::repeat_with(HashMap::new).take(SHARDS).collect(),
            spread: RandomState::new(),
            groups: HashMap::new(),
            user_rules: HashMap::new(),
            group_rules: HashMap::new(),
            own: Vec::new(),
            server_numbers: Numbers::default(),
            group_numbers: Numbers::default(),
            malformed_names: 0,
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
            Some(ParsedRow::UserRule(email, server, rule)) => {
                let server = self.server_numbers.get_or_add(&server);
                self.user_rules.entry(email).or_default().insert(Ruled { server, rule });
            }
            Some(ParsedRow::GroupRule(group, server, rule)) => {
                let server = self.server_numbers.get_or_add(&server);
                let group = self.group_numbers.get_or_add(&group);
                self.group_rules.entry(group).or_default().insert(Ruled { server, rule });
            }
            Some(ParsedRow::Own(group, server, part)) => self.own.push((group, server, part)),
            None => self.malformed_names += 1,
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
        let (mut rows, mut malformed_rules) = (0, 0);
        let mut shards: Vec<Shard> = Vec::with_capacity(SHARDS);
        for shard in self.shards {
            let mut held = HashMap::with_capacity_and_hasher(shard.len(), self.spread.clone());
            for (email, mut all) in shard {
                all.sort_unstable();
                all.dedup();
                rows += all.len();
                held.insert(email, all.into_boxed_slice());
            }
            shards.push(Shard { held, rules: HashMap::with_hasher(self.spread.clone()) });
        }
        let mut freeze = |rules: BTreeSet<Ruled>| {
            let rules: Box<[Ruled]> = rules.into_iter().collect();
            rows += rules.len();
            malformed_rules += count_malformed(&rules);
            rules
        };
        for (email, rules) in self.user_rules {
            let shard = &mut shards[shard_of(&self.spread, email.as_str())];
            shard.rules.insert(email.as_str().into(), freeze(rules));
        }
        let group_rules = self.group_rules.into_iter().map(|(group, rules)| (group, freeze(rules))).collect();
        let groups: HashMap<u32, Box<[u32]>> =
            self.groups.into_iter().map(|(group, servers)| (group, servers.into_iter().collect())).collect();
        let tenants = Tenants::default().replaced(&[], self.own);
        rows += groups.values().map(|servers| servers.len()).sum::<usize>() + tenants.row_count();
        Grants {
            shards: shards.into_iter().map(Arc::new).collect(),
            spread: self.spread,
            groups: Arc::new(groups),
            group_rules: Arc::new(group_rules),
            tenants: Arc::new(tenants),
            server_numbers: Arc::new(self.server_numbers),
            group_numbers: Arc::new(self.group_numbers),
            rows,
            malformed_names: self.malformed_names,
            malformed_rules,
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
