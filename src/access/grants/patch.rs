//! Grants with everything about a few subjects replaced.
//!
//! Decides what is copied: the shards of the users named, and the groups' grants or rules where they change. Never
//! takes a row about anybody who was not named.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{Grants, Held, Numbers, Ruled, count_malformed, rows::ParsedRow, shard_of};
use crate::{
    access::tenant::OwnPart,
    names::{Email, GroupName, ServerId},
    store::{GrantRow, Subject},
};

impl Grants {
    /// These grants with everything about `subjects` replaced by `rows`.
    pub fn patched<'a>(&self, subjects: &[Subject], rows: impl IntoIterator<Item = GrantRow<'a>>) -> Self {
        let mut patched = self.clone();
        let mut news = News::about(subjects);
        // Malformed names are counted when everything is read.
        rows.into_iter().filter_map(ParsedRow::parse).for_each(|row| news.take(row, &mut patched));
        for (email, of_user) in news.users {
            patched.replace_user(email.as_str(), of_user);
        }
        for (group, of_group) in news.groups {
            patched.replace_group(&group, of_group);
        }
        patched.replace_tenants(news.own, subjects);
        patched
    }

    fn replace_user(&mut self, email: &str, OfUser { held, rules }: OfUser) {
        let shard = Arc::make_mut(&mut self.shards[shard_of(&self.spread, email)]);
        let rules: Box<[Ruled]> = rules.into_iter().collect();
        self.rows += held.len() + rules.len();
        self.malformed_rules += count_malformed(&rules);
        let held_before = if held.is_empty() {
            shard.held.remove(email)
        } else {
            shard.held.insert(email.into(), held.into_iter().collect())
        };
        let rules_before = if rules.is_empty() {
            shard.rules.remove(email)
        } else {
            shard.rules.insert(email.into(), rules)
        };
        self.rows -= held_before.map_or(0, |held| held.len());
        self.forget_rules(rules_before);
    }

    /// Copied only where one of the groups has, or had, something of its own.
    fn replace_tenants(&mut self, news: Vec<(GroupName, ServerId, OwnPart)>, subjects: &[Subject]) {
        let groups: Vec<&str> = subjects
            .iter()
            .filter_map(|subject| match subject {
                Subject::Group(group) => Some(group.as_str()),
                Subject::User(_) => None,
            })
            .collect();
        if news.is_empty() && !groups.iter().any(|group| self.tenants.has(group)) {
            return;
        }
        let replaced = self.tenants.replaced(&groups, news);
        self.rows = self.rows + replaced.row_count() - self.tenants.row_count();
        self.tenants = Arc::new(replaced);
    }

    fn replace_group(&mut self, group: &GroupName, OfGroup { servers, rules }: OfGroup) {
        let number = Numbers::get_or_add_shared(&mut self.group_numbers, group);
        self.rows += servers.len();
        let before = Arc::make_mut(&mut self.groups).insert(number, servers.into_iter().collect());
        self.rows -= before.map_or(0, |servers| servers.len());
        if rules.is_empty() && !self.group_rules.contains_key(&number) {
            return;
        }
        let rules: Box<[Ruled]> = rules.into_iter().collect();
        self.rows += rules.len();
        self.malformed_rules += count_malformed(&rules);
        let before = Arc::make_mut(&mut self.group_rules).insert(number, rules);
        self.forget_rules(before);
    }

    fn forget_rules(&mut self, rules: Option<Box<[Ruled]>>) {
        let rules = rules.unwrap_or_default();
        self.rows -= rules.len();
        self.malformed_rules -= count_malformed(&rules);
    }

    fn number_of(&mut self, server: &ServerId) -> u32 {
        Numbers::get_or_add_shared(&mut self.server_numbers, server)
    }
}

#[derive(Default)]
struct OfUser {
    held: BTreeSet<Held>,
    rules: BTreeSet<Ruled>,
}

#[derive(Default)]
struct OfGroup {
    servers: BTreeSet<u32>,
    rules: BTreeSet<Ruled>,
}

/// All that is to be known of the subjects named, who may have nothing left.
struct News {
    users: HashMap<Email, OfUser>,
    groups: HashMap<GroupName, OfGroup>,
    own: Vec<(GroupName, ServerId, OwnPart)>,
}

impl News {
    fn about(subjects: &[Subject]) -> Self {
        let (mut users, mut groups) = (HashMap::new(), HashMap::new());
        for subject in subjects {
            match subject {
                Subject::User(email) => {
                    users.extend(Email::parse(email).map(|email| (email, OfUser::default())))
                }
                Subject::Group(group) => {
                    groups.extend(GroupName::parse(group).map(|group| (group, OfGroup::default())));
                }
            }
        }
        Self { users, groups, own: Vec::new() }
    }

    /// A row about somebody else is left out: it was not asked for, so its siblings are not here.
    fn take(&mut self, row: ParsedRow, grants: &mut Grants) {
        match row {
            ParsedRow::User(email, server) => {
                if let Some(user) = self.users.get_mut(&email) {
                    user.held.insert(Held::server(grants.number_of(&server)));
                }
            }
            ParsedRow::Membership(email, group) => {
                if let Some(user) = self.users.get_mut(&email) {
                    let number = Numbers::get_or_add_shared(&mut grants.group_numbers, &group);
                    user.held.insert(Held::group(number));
                }
            }
            ParsedRow::Group(group, server) => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.servers.insert(grants.number_of(&server));
                }
            }
            ParsedRow::UserRule(email, server, rule) => {
                if let Some(user) = self.users.get_mut(&email) {
                    user.rules.insert(Ruled { server: grants.number_of(&server), rule });
                }
            }
            ParsedRow::GroupRule(group, server, rule) => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.rules.insert(Ruled { server: grants.number_of(&server), rule });
                }
            }
            ParsedRow::Own(group, server, part) => {
                if self.groups.contains_key(&group) {
                    self.own.push((group, server, part));
                }
            }
        }
    }
}
