//! Which tools of a server a caller may use: what a rule says, and what several say together.
//!
//! Decides by a tool's name alone, whether or not there is such a tool. A denial wins over everything; where any tool
//! is allowed by a rule, only what rules allow is left; without rules a grant is for every tool. Never knows whom a rule
//! is about, and never gives what a grant does not: `Access` asks after it has found the grant.

use std::sync::Arc;

use crate::{names::ToolPattern, store::Effect};

/// What one stored rule says about the tools of its server. Denials come first in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ToolRule {
    /// Cannot be read: every tool is denied.
    Malformed,
    /// These are denied.
    Deny(ToolPattern),
    /// These are allowed, and others only where another rule allows them.
    Allow(ToolPattern),
}

impl ToolRule {
    /// Reads a stored rule.
    pub fn parse(pattern: &str, effect: &str) -> Self {
        match (ToolPattern::parse(pattern), Effect::parse(effect)) {
            (Ok(pattern), Some(Effect::Allow)) => Self::Allow(pattern),
            (Ok(pattern), Some(Effect::Deny)) => Self::Deny(pattern),
            (Err(_), _) | (_, None) => Self::Malformed,
        }
    }
}

/// The tools of one server that one caller may use. Equal when they follow from equal rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ToolScope(
    /// In order, each once, at least one.
    Option<Arc<[ToolRule]>>,
);

/// Every tool: the scope of whom no rule is about.
pub(super) static EVERYTHING: ToolScope = ToolScope(None);

/// What rules say about one tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ruling<'r> {
    /// Nothing: there are no rules, or only denials of others.
    Unmentioned,
    /// This rule denies it.
    Denied(&'r ToolRule),
    /// This rule allows it.
    Allowed(&'r ToolRule),
    /// Rules allow others, and not this one.
    LeftOut,
}

impl ToolScope {
    /// The scope that these rules leave.
    pub fn of(mut rules: Vec<ToolRule>) -> Self {
        rules.sort_unstable();
        rules.dedup();
        Self((!rules.is_empty()).then(|| rules.into()))
    }

    /// Whether no rule narrows it.
    pub fn is_everything(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the tool of this name may be used, should the server have it.
    pub fn allows(&self, tool: &str) -> bool {
        match self.ruling(tool) {
            Ruling::Unmentioned | Ruling::Allowed(_) => true,
            Ruling::Denied(_) | Ruling::LeftOut => false,
        }
    }

    /// The rules it follows from, denials first.
    pub(super) fn rules(&self) -> &[ToolRule] {
        self.0.as_deref().unwrap_or_default()
    }

    /// What decides about the tool of this name.
    pub(super) fn ruling(&self, tool: &str) -> Ruling<'_> {
        let mut otherwise = Ruling::Unmentioned;
        for rule in self.rules() {
            match rule {
                ToolRule::Malformed => return Ruling::Denied(rule),
                ToolRule::Deny(pattern) if pattern.matches(tool) => return Ruling::Denied(rule),
                ToolRule::Deny(_) => {}
                // Denials stand before, so none can follow.
                ToolRule::Allow(pattern) if pattern.matches(tool) => return Ruling::Allowed(rule),
                ToolRule::Allow(_) => otherwise = Ruling::LeftOut,
            }
        }
        otherwise
    }

    /// About how many bytes it takes in memory.
    pub fn size(&self) -> usize {
        let rules = self.rules().iter().map(|rule| match rule {
            ToolRule::Malformed => 0,
            ToolRule::Deny(pattern) | ToolRule::Allow(pattern) => pattern.as_str().len(),
        });
        size_of::<Self>() + size_of_val(self.rules()) + rules.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scope(rules: &[(&str, &str)]) -> ToolScope {
        ToolScope::of(rules.iter().map(|(effect, pattern)| ToolRule::parse(pattern, effect)).collect())
    }

    /// Checks which of `get_repo`, `delete_repo` and `search` are left.
    #[track_caller]
    fn check(rules: &[(&str, &str)], left: &[&str]) {
        let scope = scope(rules);
        let tools = ["get_repo", "delete_repo", "search"];
        let allowed: Vec<_> = tools.into_iter().filter(|tool| scope.allows(tool)).collect();
        assert_eq!(allowed, left, "{rules:?}");
        assert_eq!(scope.is_everything(), rules.is_empty(), "{rules:?}");
    }

    #[test]
    fn denials_win_and_what_is_allowed_leaves_nothing_else() {
        check(&[], &["get_repo", "delete_repo", "search"]);
        check(&[("deny", "delete_*")], &["get_repo", "search"]);
        check(&[("deny", "*")], &[]);
        check(&[("allow", "search")], &["search"]);
        check(&[("allow", "search"), ("allow", "get_*")], &["get_repo", "search"]);
        check(&[("allow", "*_repo"), ("deny", "delete_*")], &["get_repo"]);
        check(&[("deny", "delete_*"), ("allow", "*_repo")], &["get_repo"]);
        check(&[("allow", "search"), ("deny", "search")], &[]);
        check(&[("allow", "none_of_them")], &[]);
        check(&[("allow", "*")], &["get_repo", "delete_repo", "search"]);
    }

    #[test]
    fn a_rule_that_cannot_be_read_denies_everything() {
        check(&[("allow", "search"), ("permit", "get_*")], &[]);
        check(&[("Deny", "delete_*")], &[]);
        check(&[("deny", "delete repo")], &[]);
        check(&[("allow", "")], &[]);
        check(&[("", "search")], &[]);
    }

    #[test]
    fn scopes_are_equal_whatever_the_order_and_number_of_their_rules() {
        let (a, b) = (("deny", "a"), ("allow", "b"));
        assert_eq!(scope(&[a, b]), scope(&[b, a, b]));
        assert_ne!(scope(&[a]), scope(&[a, b]));
        assert_ne!(scope(&[("allow", "a")]), scope(&[a]));
        assert_eq!(scope(&[]), ToolScope::default());
    }

    proptest! {
        #[test]
        fn a_further_denial_never_gives_and_a_further_allowance_never_lifts_a_denial(
            rules in proptest::collection::vec(("allow|deny|x", "[ab*]{1,3}"), 0..6),
            further in "[ab*]{1,3}",
            tool in "[ab]{0,4}",
        ) {
            let rules: Vec<_> = rules.iter().map(|(effect, pattern)| (effect.as_str(), pattern.as_str())).collect();
            let with = |effect| scope(&[&rules[..], &[(effect, further.as_str())]].concat());
            let is_denied = rules.iter().any(|(effect, pattern)| match Effect::parse(effect) {
                Some(Effect::Deny) => ToolPattern::parse(pattern).unwrap().matches(&tool),
                Some(Effect::Allow) => false,
                None => true,
            });
            let mut allowed = rules.iter().filter(|(effect, _)| *effect == "allow").peekable();
            let is_allowed = allowed.peek().is_none()
                || allowed.any(|(_, pattern)| ToolPattern::parse(pattern).unwrap().matches(&tool));
            prop_assert_eq!(scope(&rules).allows(&tool), is_allowed && !is_denied);
            prop_assert!(!with("deny").allows(&tool) || scope(&rules).allows(&tool));
            prop_assert!(!with("allow").allows(&tool) || !is_denied);
        }
    }
}
