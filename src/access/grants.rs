//! All stored grants in memory, built to answer "may they" without looking at how many there are.
//!
//! Immutable: a change makes new `Grants` that share all untouched parts with the old ones, so a
//! patch costs the size of one shard and readers never wait. Decides nothing: `access::authorize`
//! asks. Rows come from `store`; what is malformed there grants nothing and is counted.

mod builder;
mod numbers;
mod patch;
mod rows;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use super::{tenant::Tenants, tools::ToolRule};
use crate::names::{Email, GroupName, ServerId};
pub use builder::GrantsBuilder;
use numbers::{Held, Numbers};

/// Users are spread over this many shards; a patch copies one of them.
const SHARDS: usize = 4096;

/// Some users, by email.
#[derive(Debug, Clone)]
struct Shard {
    held: HashMap<Box<str>, Box<[Held]>, RandomState>,
    /// Apart, because hardly anybody has a rule of their own.
    rules: HashMap<Box<str>, Box<[Ruled]>, RandomState>,
}

/// A rule about the tools of a server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Ruled {
    server: u32,
    rule: ToolRule,
}

/// Every grant the gateway knows.
#[derive(Debug, Clone)]
pub struct Grants {
    shards: Box<[Arc<Shard>]>,
    spread: RandomState,
    groups: Arc<HashMap<u32, Box<[u32]>>>,
    group_rules: Arc<HashMap<u32, Box<[Ruled]>>>,
    tenants: Arc<Tenants>,
    server_numbers: Arc<Numbers<ServerId>>,
    group_numbers: Arc<Numbers<GroupName>>,
    rows: usize,
    malformed_names: usize,
    malformed_rules: usize,
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

    /// The rules about tools for this user alone.
    pub fn rules_of_user(&self, email: &Email) -> impl Iterator<Item = (&ServerId, &ToolRule)> {
        let rules = self.shard(email.as_str()).rules.get(email.as_str());
        self.named(rules.map_or(&[], |rules| rules))
    }

    /// The rules about tools for members of this group.
    pub fn rules_of_group(&self, group: &str) -> impl Iterator<Item = (&ServerId, &ToolRule)> {
        let rules = self.group_numbers.get(group).and_then(|number| self.group_rules.get(&number));
        self.named(rules.map_or(&[], |rules| rules))
    }

    /// What groups have of their own for servers.
    pub fn tenants(&self) -> &Arc<Tenants> {
        &self.tenants
    }

    /// How many rows are believed.
    pub fn row_count(&self) -> usize {
        self.rows
    }

    /// How many rows were malformed: their names, so that they are about nobody, or what a rule says.
    pub fn malformed_count(&self) -> usize {
        self.malformed_names + self.malformed_rules
    }

    /// How many users have rows, and how many groups servers.
    pub fn subject_counts(&self) -> (usize, usize) {
        (self.shards.iter().map(|shard| shard.held.len()).sum(), self.groups.len())
    }

    fn held_by(&self, email: &str) -> &[Held] {
        self.shard(email).held.get(email).map_or(&[], |held| held)
    }

    fn shard(&self, email: &str) -> &Shard {
        &self.shards[shard_of(&self.spread, email)]
    }

    fn named<'g>(&'g self, rules: &'g [Ruled]) -> impl Iterator<Item = (&'g ServerId, &'g ToolRule)> {
        rules.iter().map(|ruled| (self.server_numbers.name(ruled.server), &ruled.rule))
    }
}

fn shard_of(spread: &RandomState, email: &str) -> usize {
    spread.hash_one(email) as usize % SHARDS
}

fn count_malformed(rules: &[Ruled]) -> usize {
    rules.iter().filter(|ruled| ruled.rule == ToolRule::Malformed).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access::tests_support::rule,
        store::{GrantRow, Subject},
    };

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

    const RULES: [GrantRow<'static>; 5] = [
        rule("user", "Ann@x.org", "a", "deny"),
        rule("user", "ann@x.org", "a", "deny"),
        rule("group", "Dev", "a b", "deny"),
        rule("role", "Dev", "a", "deny"),
        GrantRow::Rule { kind: "group", subject: "Dev", server: "Git Hub", pattern: "a", effect: "deny" },
    ];

    #[track_caller]
    fn check_rules(grants: &Grants, own: &[&str], of_dev: &[&str], figures: (usize, usize)) {
        let told = |(server, rule): (&ServerId, &ToolRule)| format!("{server} {rule:?}");
        assert_eq!(grants.rules_of_user(&ann()).map(told).collect::<Vec<_>>(), own);
        assert_eq!(grants.rules_of_group("Dev").map(told).collect::<Vec<_>>(), of_dev);
        assert_eq!((grants.row_count(), grants.malformed_count()), figures);
    }

    #[test]
    fn a_rule_about_somebody_is_kept_however_malformed_and_one_about_nobody_is_counted() {
        let grants: Grants = RULES.into_iter().collect();
        check_rules(&grants, &["github Deny(\"a\")"], &["github Malformed"], (2, 3));
    }

    #[test]
    fn a_patch_replaces_rules_too_and_the_figures_follow() {
        let before: Grants = ROWS.into_iter().chain(RULES).collect();
        let deny_and_malformed = (&["github Deny(\"a\")"][..], &["github Malformed"][..]);
        check_rules(&before, deny_and_malformed.0, deny_and_malformed.1, (5, 4));
        let (user, dev) = ([Subject::User("ann@X.org".into())], [Subject::Group("Dev".into())]);
        let after = before.patched(&user, [rule("user", "ANN@x.org", "b", "permit"), RULES[2]]);
        check_rules(&after, &["github Malformed"], &["github Malformed"], (3, 5));
        let after = after.patched(&dev, [rule("group", "Dev", "c*", "allow"), ROWS[3], RULES[0]]);
        check_rules(&after, &["github Malformed"], &["github Allow(\"c*\")"], (3, 4));
        let after = after.patched(&[&user[..], &dev[..]].concat(), []);
        check_rules(&after, &[], &[], (0, 3));
        check_rules(&before, deny_and_malformed.0, deny_and_malformed.1, (5, 4));
    }
}
