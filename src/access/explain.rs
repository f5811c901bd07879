//! Why may they, why not: the decision of `authorize` told as a sentence for operators.
//!
//! Decides nothing: it names the grants that let `Reach` include a server, or what is missing.

use std::fmt;

use super::{Settings, grants::Grants};
use crate::{
    identity::Caller,
    names::{GroupName, ServerId},
};

/// The reasons found, in the order of `DESIGN`'s rules: admin, groups, own grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    who: String,
    server: ServerId,
    reasons: Vec<String>,
    groups: Vec<String>,
}

impl Explanation {
    /// Whether any reason lets them in.
    pub fn is_allowed(&self) -> bool {
        !self.reasons.is_empty()
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
    Explanation {
        who: caller.name().to_owned(),
        server: server.clone(),
        reasons,
        groups: groups.into_iter().map(|(group, _)| group.to_owned()).collect(),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, server, reasons, groups } = self;
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
