//! What a tool is called where one flat name must do: `{server}_{tool}` within `^[A-Za-z0-9_-]{1,64}$`.
//!
//! Decides the names of all tools at once, so that they are unique and the same for every caller, and a
//! name never means one tool to this caller and another tool to that one. Never reads a document.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::names::{ServerId, ToolName};

/// Longest name that model vendors accept.
const MAX_LENGTH: usize = 64;

/// Gives each tool its operation id, in the order given.
///
/// A name that is too long, shared, or looks like another tool's hashed name is hashed. Names
/// whose hashes meet as well (32 bits can be searched for) take 128 bits instead.
pub(super) fn assign(tools: &[(&ServerId, &ToolName)]) -> Vec<String> {
    let plain: Vec<String> = tools.iter().map(|(server, tool)| sanitised(server, tool)).collect();
    let hashed: Vec<String> =
        tools.iter().zip(&plain).map(|((server, tool), plain)| with_hash(plain, server, tool, 8)).collect();
    let (plain_holders, hashed_holders) = (count(&plain), count(&hashed));
    let is_plain_free = |plain: &String| {
        plain.len() <= MAX_LENGTH
            && plain_holders[plain.as_str()] == 1
            && !hashed_holders.contains_key(&**plain)
    };
    let pairs = plain.iter().zip(&hashed).zip(tools);
    pairs
        .map(|((plain, hashed), (server, tool))| {
            if is_plain_free(plain) {
                return plain.clone();
            }
            if hashed_holders[hashed.as_str()] == 1 {
                return hashed.clone();
            }
            with_hash(plain, server, tool, 32)
        })
        .collect()
}

fn sanitised(server: &ServerId, tool: &ToolName) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' };
    format!("{server}_{tool}").chars().map(keep).collect()
}

/// `plain`, shortened to leave room for `_` and that many hexadecimal digits.
fn with_hash(plain: &str, server: &ServerId, tool: &ToolName, digits: usize) -> String {
    let digest = Sha256::digest(format!("{server}/{tool}"));
    let digest: String = digest.iter().take(digits / 2).map(|byte| format!("{byte:02x}")).collect();
    let kept: String = plain.chars().take(MAX_LENGTH - 1 - digits).collect();
    format!("{kept}_{digest}")
}

fn count(names: &[String]) -> HashMap<&str, usize> {
    let mut holders = HashMap::with_capacity(names.len());
    for name in names {
        *holders.entry(name.as_str()).or_default() += 1;
    }
    holders
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use proptest::prelude::*;

    use super::*;

    fn ids(tools: &[(&str, &str)]) -> Vec<String> {
        let names: Vec<_> = tools
            .iter()
            .map(|(server, tool)| (ServerId::parse(server).unwrap(), ToolName::parse(tool).unwrap()))
            .collect();
        assign(&names.iter().map(|(server, tool)| (server, tool)).collect::<Vec<_>>())
    }

    #[track_caller]
    fn check(tools: &[(&str, &str)], expected: &[&str]) {
        assert_eq!(ids(tools), expected);
    }

    #[test]
    fn a_name_that_fits_stays_readable() {
        check(&[("github", "search"), ("time", "dot.name")], &["github_search", "time_dot_name"]);
    }

    #[test]
    fn tools_that_would_share_a_name_are_both_hashed() {
        check(&[("a_b", "c"), ("a", "b_c"), ("a", "d")], &["a_b_c_02d7306b", "a_b_c_ab14be70", "a_d"]);
        check(&[("s", "x.y"), ("s", "x_y")], &["s_x_y_75f3b556", "s_x_y_ba3e7cff"]);
    }

    #[test]
    fn a_long_name_is_cut_and_hashed() {
        let long = "t".repeat(70);
        let id = ids(&[("s", &long)]).remove(0);
        assert_eq!(id.len(), 64);
        assert!(id.starts_with(&format!("s_{}_", "t".repeat(53))), "{id}");
    }

    #[test]
    fn a_name_made_to_look_like_a_hashed_one_does_not_take_it() {
        let shared = ids(&[("a_b", "c"), ("a", "b_c")]);
        let imitation = shared[1].strip_prefix("a_").unwrap();
        let all = ids(&[("a_b", "c"), ("a", "b_c"), ("a", imitation)]);
        assert_eq!(all[..2], shared[..]);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 3, "{all:?}");
    }

    proptest! {
        #[test]
        fn names_are_unique_and_fit(
            tools in proptest::collection::btree_set(("[a-c][a_-]{0,2}", "[a_.]{1,4}|[a-z]{60,128}"), 0..40)
        ) {
            let tools: BTreeSet<_> =
                tools.into_iter().filter(|(_, tool)| ToolName::parse(tool).is_ok()).collect();
            let all = ids(&tools.iter().map(|(server, tool)| (&**server, &**tool)).collect::<Vec<_>>());
            prop_assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
            for id in &all {
                prop_assert!((1..=64).contains(&id.len()), "{}", id);
                prop_assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
            }
        }
    }
}
