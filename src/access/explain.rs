//! Why may they, why not: the decision of `authorize` told as sentences for operators.
//!
//! Decides nothing: it names the grants that let `Reach` include a server, or what is missing, and the rules that
//! narrow it.

use std::fmt;

use super::{
    Settings, ToolScope,
    grants::Grants,
    tools::{Ruling, ToolRule},
};
use crate::{
    identity::Caller,
    names::{GroupName, ServerId, ToolName},
};

/// The reasons found, in the order of `DESIGN`'s rules: admin, groups, own grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    who: String,
    server: ServerId,
    reasons: Vec<String>,
    groups: Vec<String>,
    rules: Vec<Named>,
    tools: ToolScope,
}

/// A rule in force, and whom it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    whom: String,
    rule: ToolRule,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { whom, rule } = self;
        match rule {
            ToolRule::Malformed => write!(f, "a malformed row of `tool_rules` denies every tool to {whom}"),
            ToolRule::Deny(pattern) => write!(f, "`tool_rules` denies `{pattern}` to {whom}"),
            ToolRule::Allow(pattern) => write!(f, "`tool_rules` allows `{pattern}` to {whom}"),
        }
    }
}

impl Explanation {
    /// Whether any reason lets them in.
    pub fn is_allowed(&self) -> bool {
        !self.reasons.is_empty()
    }

    /// Whether the rules in force leave them this tool.
    pub fn allows(&self, tool: &ToolName) -> bool {
        self.tools.allows(tool.as_str())
    }

    /// The rules in force, a sentence each, denials first: they win.
    pub fn rules(&self) -> impl Iterator<Item = String> {
        self.rules.iter().map(Named::to_string)
    }

    /// What decides about this tool, given a grant for the server.
    pub fn ruling(&self, tool: &ToolName) -> String {
        let by = |rule: &ToolRule| {
            let named = self.rules.iter().filter(|named| named.rule == *rule);
            named.map(Named::to_string).collect::<Vec<_>>().join("; and ")
        };
        match self.tools.ruling(tool.as_str()) {
            Ruling::Unmentioned if self.tools.is_everything() => {
                format!("a grant for the server covers all its tools, `{tool}` too if the server has it")
            }
            Ruling::Unmentioned => {
                format!("no rule denies `{tool}`, and a grant for the server covers its other tools")
            }
            Ruling::Denied(rule) => format!("but `{tool}` is denied: {}", by(rule)),
            Ruling::Allowed(rule) => format!("`{tool}` is allowed: {}", by(rule)),
            Ruling::LeftOut => {
                let allowing = self.rules.iter().filter(|named| matches!(named.rule, ToolRule::Allow(_)));
                let allowing: Vec<_> = allowing.map(Named::to_string).collect();
                format!("but `{tool}` is denied, for rules allow only others: {}", allowing.join("; and "))
            }
        }
    }
}

/// Finds every reason why this caller may use this server.
pub fn explain(settings: &Settings, caller: &Caller, server: &ServerId, grants: &Grants) -> Explanation {
    let from_credential = caller.groups().iter().map(GroupName::as_str);
    let memberships = caller.email().into_iter().flat_map(|email| grants.memberships(email));
    let from_table = memberships.map(GroupName::as_str);
    let mut groups: Vec<(&str, &str)> = from_credential
        .map(|group| (group, "their credential or Open WebUI"))
        .chain(from_table.map(|group| (group, "`user_group_membership`")))
        .collect();
    groups.sort_unstable();
    groups.dedup_by_key(|(group, _)| *group);

    let mut reasons = Vec::new();
    if caller.is_admin() {
        reasons.push("a trusted gateway says that they administer".to_owned());
    }
    for (group, source) in &groups {
        if *group == settings.admin_group.as_str() {
            reasons.push(format!("they are in the admin group `{group}` (from {source})"));
        }
        if grants.group_has(group, server) {
            reasons.push(format!(
                "they are in group `{group}` (from {source}), which `group_tenant_mapping` gives `{server}`"
            ));
        }
    }
    if caller.email().is_some_and(|email| grants.user_has(email, server)) {
        reasons.push(format!("`user_tenant_access` gives them `{server}`"));
    }
    let rules = rules_about(caller, &groups, server, grants);
    Explanation {
        who: caller.name().to_owned(),
        server: server.clone(),
        reasons,
        groups: groups.into_iter().map(|(group, _)| group.to_owned()).collect(),
        tools: ToolScope::of(rules.iter().map(|named| named.rule.clone()).collect()),
        rules,
    }
}

fn rules_about(caller: &Caller, groups: &[(&str, &str)], server: &ServerId, grants: &Grants) -> Vec<Named> {
    let own = caller.email().into_iter().flat_map(|email| grants.rules_of_user(email));
    let own = own.map(|rule| (format!("`{}`", caller.name()), rule));
    let of_groups = groups.iter().flat_map(|(group, source)| {
        let whom = format!("group `{group}` (from {source})");
        grants.rules_of_group(group).map(move |rule| (whom.clone(), rule))
    });
    let about_server = own.chain(of_groups).filter(|(_, (of, _))| *of == server);
    let mut rules: Vec<Named> =
        about_server.map(|(whom, (_, rule))| Named { whom, rule: rule.clone() }).collect();
    rules.sort_by(|one, other| (&one.rule, &one.whom).cmp(&(&other.rule, &other.whom)));
    rules
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, server, reasons, groups, .. } = self;
        if !reasons.is_empty() {
            return write!(f, "`{who}` may use `{server}`: {}", reasons.join("; and "));
        }
        write!(f, "`{who}` may not use `{server}`: no row of `user_tenant_access` gives it to them, and ")?;
        if groups.is_empty() {
            write!(f, "they are in no group known here")
        } else {
            write!(f, "none of their groups ({}) is given it by `group_tenant_mapping`", groups.join(", "))
        }
    }
}
