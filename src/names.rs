//! The words of the gateway as types: a value that exists here has been parsed and is well-formed.
//!
//! Decides what a server id, tool name, tool pattern, group name, email address, rate and request id may look like, and
//! which names a pattern matches.
//! Never decides whether the thing exists or who may use it: that is `catalog` and `access`.
//! Everything arriving from outside (paths, tokens, rows, files) passes through here first.

mod authority;
mod digest;
mod key;
mod network;
mod rate;

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

pub use authority::{Authority, BadAuthority, Host};
pub use digest::{Digest, Summing};
pub use key::{BadKey, KEY_BYTES, SecretKey};
pub use network::Network;
pub use rate::Rate;

/// Why a text is not a name; the sentence is fit for operators and for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadName(&'static str);

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BadName {}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// Id of a server in the catalog, as it stands in paths: `github`, `google-drive`.
    ServerId
}
name! {
    /// Name of a tool of one server, as it stands in paths: `search_repositories`.
    ToolName
}
name! {
    /// Tools of a server by name, where `*` stands for any characters, none included: `delete_*`.
    ToolPattern
}
name! {
    /// Name of a group of callers: `MCP-GitHub`. Compared exactly, case included.
    GroupName
}
name! {
    /// Email address of a caller, ASCII-lowercased: grants match without regard to case.
    Email
}
name! {
    /// Id of one request, in every answer's `X-Request-Id` and every log line about it.
    RequestId
}

/// First path segments the gateway answers itself, so no server may be called like this.
pub const RESERVED_SERVER_IDS: &[&str] = &[
    "servers", "tools", "tenants", "health", "openapi", "meta", "mcp", "refresh", "docs", "metrics", "oauth",
];

impl ServerId {
    /// Parses `[a-z0-9][a-z0-9_-]{0,62}`, reserved words excepted.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let bytes = text.as_bytes();
        let fits = (1..=63).contains(&bytes.len())
            && bytes[0].is_ascii_alphanumeric()
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'));
        if !fits {
            return Err(BadName(
                "a server id is 1 to 63 of `a-z`, `0-9`, `_`, `-`, beginning with a letter or digit",
            ));
        }
        if RESERVED_SERVER_IDS.contains(&text) {
            return Err(BadName("this server id is a path of the gateway itself"));
        }
        Ok(Self(text.into()))
    }
}

impl ToolName {
    /// Parses `[A-Za-z0-9_.-]{1,128}` (MCP 2025-11-25, tool names), `.` and `..` excepted.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let fits = (1..=128).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if !fits || text.bytes().all(|b| b == b'.') {
            return Err(BadName("a tool name is 1 to 128 of `A-Z`, `a-z`, `0-9`, `_`, `.`, `-`"));
        }
        Ok(Self(text.into()))
    }
}

impl ToolPattern {
    /// Parses `[A-Za-z0-9_.*-]{1,128}`.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let fits = (1..=128).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'*'));
        if !fits {
            return Err(BadName(
                "a tool pattern is 1 to 128 of `A-Z`, `a-z`, `0-9`, `_`, `.`, `-` and `*`, which stands for anything",
            ));
        }
        Ok(Self(text.into()))
    }

    /// Whether a tool's whole name is as the pattern says, case included.
    ///
    /// What stands between two stars is looked for once, from the left, so the time grows with the lengths and no faster.
    pub fn matches(&self, tool: &str) -> bool {
        let Some((start, rest)) = self.0.split_once('*') else { return *self.0 == *tool };
        let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
        let inside = tool.strip_prefix(start).and_then(|tool| tool.strip_suffix(end));
        let left = inside.and_then(|inside| {
            middle.split('*').try_fold(inside, |left, part| Some(left.split_once(part)?.1))
        });
        left.is_some()
    }
}

impl GroupName {
    /// Parses 1 to 255 characters, none of them a control character, none at the ends a space.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let fits = !text.is_empty()
            && text.chars().count() <= 255
            && text.trim() == text
            && !text.chars().any(char::is_control);
        if !fits {
            return Err(BadName(
                "a group name is 1 to 255 characters without control characters or outer spaces",
            ));
        }
        Ok(Self(text.into()))
    }
}

impl Email {
    /// Parses `local@domain` of at most 254 bytes and lowercases its ASCII letters.
    ///
    /// Only ASCII is folded, because databases disagree on the rest: an address outside ASCII
    /// matches exactly or not at all, which errs towards refusing.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let fits = text.len() <= 254
            && text.split_once('@').is_some_and(|(local, domain)| {
                !local.is_empty() && !domain.is_empty() && !domain.contains('@')
            })
            && !text
                .chars()
                .any(|c| c.is_whitespace() || c.is_control() || matches!(c, ',' | '"' | '<' | '>'));
        if !fits {
            return Err(BadName("an email address is `local@domain` of at most 254 bytes without spaces"));
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

impl RequestId {
    /// Takes a client's id when it is 1 to 128 of `[A-Za-z0-9_.-]`, so that it is safe in any log.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        ToolName::parse(text)
            .map(|name| Self(name.0))
            .map_err(|_| BadName("a request id is 1 to 128 of `A-Z`, `a-z`, `0-9`, `_`, `.`, `-`"))
    }

    /// Makes a new, time-ordered id (UUID version 7, RFC 9562).
    pub fn new() -> Self {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        Self((&*uuid::Uuid::now_v7().hyphenated().encode_lower(&mut text)).into())
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

/// A value that must not be printed: its `Debug` shows `…`, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps a value that must not be printed.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// Lends the value to the one place that needs it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check<T: fmt::Debug>(parse: impl Fn(&str) -> Result<T, BadName>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(parse(text).is_ok(), "{text:?} should parse");
        }
        for text in bad {
            assert!(parse(text).is_err(), "{text:?} should not parse");
        }
    }

    #[test]
    fn names_outside_their_alphabet_are_refused() {
        check(
            ServerId::parse,
            &["github", "google-drive", "a", "0x", "my_db"],
            &["", "-a", "_a", "GitHub", "a/b", "a.b", "servers", "mcp", "caf\u{e9}", &"a".repeat(64)],
        );
        check(
            ToolName::parse,
            &["search", "get_current_time", "dot.name", "dash-name", "A", ".hidden"],
            &["", ".", "..", "...", "a/b", "a b", "a%2f", "\0", &"t".repeat(129)],
        );
        check(
            ToolPattern::parse,
            &["search", "*", "delete_*", "*.*-", "a**b"],
            &["", "a/b", "a b", "a?", "[a]", "caf\u{e9}*", "%", &"*".repeat(129)],
        );
        check(GroupName::parse, &["MCP-GitHub", "Zespół, QA"], &["", " a", "a ", "a\nb", &"g".repeat(256)]);
        check(
            Email::parse,
            &["a@b", "Jane.Doe@Example.com"],
            &["", "a", "@b", "a@", "a@b@c", "a b@c", "a@b,c@d", "a@b\n"],
        );
        check(RequestId::parse, &["abc", "0192-7"], &["", "a b", "a\r\nx: y"]);
    }

    #[test]
    fn a_star_stands_for_any_characters_and_everything_else_for_itself() {
        for (pattern, matched, others) in [
            ("search", &["search"][..], &["Search", "search_", "_search", ""][..]),
            ("*", &["", "a", "a.b-c"], &[]),
            ("delete_*", &["delete_", "delete_repo"], &["delete", "undelete_x", "Delete_x"]),
            ("*_repo", &["_repo", "get_repo"], &["repo", "get_repos"]),
            ("a*a", &["aa", "aba", "aXa"], &["a", "ab", "ba"]),
            ("*a*b*", &["ab", "xaxbx"], &["ba", "a", "b"]),
            ("a*b*c", &["abc", "axbbxc"], &["acb", "ab", "abcd"]),
            ("a.c", &["a.c"], &["abc"]),
            ("a**", &["a", "ab"], &["ba"]),
        ] {
            let pattern = ToolPattern::parse(pattern).unwrap();
            assert!(matched.iter().all(|tool| pattern.matches(tool)), "{pattern} and {matched:?}");
            assert!(!others.iter().any(|tool| pattern.matches(tool)), "{pattern} and {others:?}");
        }
    }

    /// What a pattern means, with no thought for the time it takes.
    fn is_match(pattern: &[u8], tool: &[u8]) -> bool {
        match pattern.split_first() {
            None => tool.is_empty(),
            Some((b'*', rest)) => (0..=tool.len()).any(|skipped| is_match(rest, &tool[skipped..])),
            Some((byte, rest)) => tool.first() == Some(byte) && is_match(rest, &tool[1..]),
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_it_means(pattern in "[ab*]{1,8}", tool in "[ab]{0,10}") {
            let meant = is_match(pattern.as_bytes(), tool.as_bytes());
            prop_assert_eq!(ToolPattern::parse(&pattern).unwrap().matches(&tool), meant);
        }

        #[test]
        fn a_pattern_made_from_a_name_by_leaving_parts_out_matches_it(
            parts in proptest::collection::vec(("[A-Za-z0-9_.-]{0,5}", any::<bool>()), 1..8)
        ) {
            let tool: String = parts.iter().map(|(part, _)| part.as_str()).collect();
            let kept = parts.iter().map(|(part, is_kept)| if *is_kept { part.as_str() } else { "*" });
            if let Ok(pattern) = ToolPattern::parse(&kept.collect::<String>()) {
                prop_assert!(pattern.matches(&tool), "{} and {}", pattern, tool);
            }
        }
    }

    #[test]
    fn emails_match_without_regard_to_case() {
        assert_eq!(Email::parse("Jane@X.org").unwrap(), Email::parse("jane@x.ORG").unwrap());
    }

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "…");
    }
}
