//! What a tool or prompt is called where one flat name must do: `{server}_{tool}` within `^[A-Za-z0-9_-]{1,64}$`.
//!
//! Decides each name by itself, from the server, the tool and which servers are configured, never from which tools
//! happen to be known: a name stays the same from day to day and is the same for every caller. Reads no document.

use std::{collections::BTreeSet, sync::Arc};

use sha2::{Digest, Sha256};

use crate::names::ServerId;

/// Longest name that model vendors accept.
const MAX_LENGTH: usize = 64;
/// Hexadecimal digits of a hash: 64 bits, so that nobody finds a second name with the same.
const DIGITS: usize = 16;
/// What is left of a name in front of its hash.
const KEPT: usize = MAX_LENGTH - 1 - DIGITS;

/// Names of the gateway's own tools among all: no tool of a server is called so.
pub const META_TOOLS: [&str; 3] = ["meta_search_tools", "meta_describe_tools", "meta_call_tool"];

/// The configured servers, by which it is known how a name could be read.
#[derive(Debug, Clone, Default)]
pub struct Neighbours(Arc<BTreeSet<ServerId>>);

impl Neighbours {
    /// The servers of a configuration, disabled ones included.
    pub fn new<'s>(servers: impl IntoIterator<Item = &'s ServerId>) -> Self {
        Self(Arc::new(servers.into_iter().cloned().collect()))
    }

    /// What the server's tool or prompt of this name is called among all.
    ///
    /// `{server}_{tool}` where that fits as it stands and is read by nobody as another's: a name belongs to the
    /// longest server id in front of it, and one that ends like a hash is always a hashed one. Else it carries a hash.
    pub fn exposed(&self, server: &ServerId, name: &str) -> String {
        let whole = format!("{server}_{name}");
        let plain: String = whole.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
        if plain == whole
            && plain.len() <= MAX_LENGTH
            && !name.is_empty()
            && !is_hashed(&plain)
            && !META_TOOLS.contains(&plain.as_str())
            && !self.is_read_otherwise(server, &plain)
        {
            return plain;
        }
        let digest = Sha256::digest(format!("{server}/{name}"));
        let digest: String = digest.iter().take(DIGITS / 2).map(|byte| format!("{byte:02x}")).collect();
        let kept: String = plain.chars().take(KEPT).collect();
        format!("{kept}_{digest}")
    }

    /// Whether the server may have something with this name among all. Cheap, and never wrongly no.
    pub(in crate::catalog) fn may_name(server: &ServerId, exposed: &str) -> bool {
        let id = server.as_str();
        exposed.starts_with(id.get(..KEPT).unwrap_or(id))
    }

    /// Whether a server with a longer id would read this name as one of its own.
    fn is_read_otherwise(&self, server: &ServerId, plain: &str) -> bool {
        let longer = self.0.range(server.clone()..).skip_while(|id| *id == server);
        let mut longer = longer.take_while(|id| id.as_str().starts_with(server.as_str()));
        longer.any(|id| plain.strip_prefix(id.as_str()).is_some_and(|rest| rest.starts_with('_')))
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

fn is_hashed(plain: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    plain.rsplit_once('_').is_some_and(|(_, last)| last.len() == DIGITS && last.bytes().all(is_digit))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn names(configured: &[&str], tools: &[(&str, &str)]) -> Vec<String> {
        let configured: Vec<_> = configured.iter().map(|id| ServerId::parse(id).unwrap()).collect();
        let neighbours = Neighbours::new(&configured);
        tools.iter().map(|(id, tool)| neighbours.exposed(&ServerId::parse(id).unwrap(), tool)).collect()
    }

    #[track_caller]
    fn check(configured: &[&str], tools: &[(&str, &str)], expected: &[&str]) {
        assert_eq!(names(configured, tools), expected);
    }

    #[test]
    fn a_name_that_fits_stays_readable() {
        check(
            &["github", "time"],
            &[("github", "search"), ("time", "a-b_C")],
            &["github_search", "time_a-b_C"],
        );
    }

    #[test]
    fn a_name_belongs_to_the_longest_server_id_in_front_of_it() {
        check(
            &["a_b", "a"],
            &[("a_b", "c"), ("a", "b_c"), ("a", "d")],
            &["a_b_c", "a_b_c_ab14be7080849174", "a_d"],
        );
        check(&["a"], &[("a", "b_c")], &["a_b_c"]);
    }

    #[test]
    fn no_tool_of_a_server_is_called_like_one_of_the_gateway() {
        let own = names(&["meta_search"], &[("meta_search", "tools"), ("meta_search", "tool")]);
        assert!(own[0].starts_with("meta_search_tools_") && own[1] == "meta_search_tool", "{own:?}");
    }

    #[test]
    fn a_name_that_had_to_be_changed_or_cut_is_hashed() {
        check(
            &["s"],
            &[("s", "x.y"), ("s", "x_y"), ("s", "x y")],
            &["s_x_y_75f3b556393c3497", "s_x_y", "s_x_y_32fe53fc2f1a2106"],
        );
        let id = names(&["s"], &[("s", &"t".repeat(70))]).remove(0);
        assert_eq!(id.len(), 64);
        assert!(id.starts_with(&format!("s_{}_", "t".repeat(45))), "{id}");
    }

    #[test]
    fn a_name_made_to_look_like_a_hashed_one_does_not_take_it() {
        let hashed = names(&["s"], &[("s", "x.y")]).remove(0);
        let imitation = hashed.strip_prefix("s_").unwrap();
        assert_ne!(names(&["s"], &[("s", imitation)]), [hashed]);
    }

    proptest! {
        #[test]
        fn names_are_unique_and_fit_and_are_found_at_their_server(
            configured in proptest::collection::btree_set("[a-c][a_-]{0,2}|a{40,63}", 1..6),
            tools in proptest::collection::btree_set("[a_.]{1,4}|[a-z]{60,128}|a_[0-9a-f]{16}|\\PC{0,5}", 1..12),
        ) {
            let ids: Vec<_> = configured.iter().map(|id| ServerId::parse(id).unwrap()).collect();
            let neighbours = Neighbours::new(&ids);
            let mut holders = HashMap::new();
            for id in &ids {
                for tool in &tools {
                    let name = neighbours.exposed(id, tool);
                    prop_assert!((1..=64).contains(&name.len()), "{}", name);
                    prop_assert!(name.chars().all(is_plain), "{}", name);
                    prop_assert!(Neighbours::may_name(id, &name));
                    let before = holders.insert(name, (id, tool));
                    prop_assert_eq!(before, None);
                }
            }
        }

        #[test]
        fn a_server_s_names_do_not_change_when_another_comes_that_reads_none_of_them(
            tools in proptest::collection::vec("[a-c_]{1,6}", 1..6), other in "[a-c][a-c_]{0,3}",
        ) {
            let tools: Vec<_> = tools.iter().map(|tool| ("b", tool.as_str())).collect();
            let read_by_other = |(_, tool): &(&str, &str)| format!("b_{tool}").starts_with(&format!("{other}_"));
            prop_assume!(other == "b" || !tools.iter().any(read_by_other));
            prop_assert_eq!(names(&["b"], &tools), names(&["b", &other], &tools));
        }
    }
}
