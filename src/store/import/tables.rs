//! The tables of the earlier gateway, and what a row of one means.
//!
//! Decides which columns are needed, which columns switch a row off, and what makes a row malformed: then nothing of it
//! is taken. Never reads a database, and never puts a key or an address into a sentence.

use std::fmt;

use crate::{
    names::{Email, GroupName, Secret, ServerId},
    store::text::Text,
};

/// A table of the earlier gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// `user_tenant_access`: which user may use which server.
    UserAccess,
    /// `group_tenant_mapping`: which group may use which server.
    GroupMapping,
    /// `user_group_membership`: which user is in which group.
    Membership,
    /// `tenant_server_keys`: the keys a group has at a server.
    Keys,
    /// `tenant_endpoint_overrides`: where a group reaches a server.
    EndpointOverrides,
    /// `tenant_server_endpoints`: the same, as another version called it.
    ServerEndpoints,
}

impl Table {
    /// In the order in which they are read.
    pub const ALL: [Self; 6] = [
        Self::UserAccess,
        Self::GroupMapping,
        Self::Membership,
        Self::Keys,
        Self::EndpointOverrides,
        Self::ServerEndpoints,
    ];

    /// Its name in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UserAccess => "user_tenant_access",
            Self::GroupMapping => "group_tenant_mapping",
            Self::Membership => "user_group_membership",
            Self::Keys => "tenant_server_keys",
            Self::EndpointOverrides => "tenant_endpoint_overrides",
            Self::ServerEndpoints => "tenant_server_endpoints",
        }
    }

    /// Whether its rows are grants, which the gateway has tables of the same name for.
    pub const fn is_of_grants(self) -> bool {
        match self {
            Self::UserAccess | Self::GroupMapping | Self::Membership => true,
            Self::Keys | Self::EndpointOverrides | Self::ServerEndpoints => false,
        }
    }

    /// The columns without which a row means nothing.
    pub(super) const fn needed(self) -> &'static [&'static str] {
        match self {
            Self::UserAccess => &["user_email", "tenant_id"],
            Self::GroupMapping => &["group_name", "tenant_id"],
            Self::Membership => &["user_email", "group_name"],
            Self::Keys => &["tenant_id", "server_id", "key_value"],
            Self::EndpointOverrides | Self::ServerEndpoints => &["tenant_id", "server_id", "endpoint_url"],
        }
    }

    /// A column that is read where there is one.
    pub(super) const fn optional(self) -> Option<&'static str> {
        match self {
            Self::UserAccess => Some("access_level"),
            Self::Keys => Some("key_name"),
            Self::GroupMapping | Self::Membership | Self::EndpointOverrides | Self::ServerEndpoints => None,
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a column of this name switches its row off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Switch {
    /// By not being plainly true, NULL included.
    UnlessTrue,
    /// By being anything but false or NULL.
    UnlessFalse,
    /// By having a value: a grant here neither ends by itself nor has ended.
    WhenSet,
}

/// The columns that switch a row off, where a table has them.
pub(super) const SWITCHES: [(&str, Switch); 15] = [
    ("enabled", Switch::UnlessTrue),
    ("is_enabled", Switch::UnlessTrue),
    ("active", Switch::UnlessTrue),
    ("is_active", Switch::UnlessTrue),
    ("disabled", Switch::UnlessFalse),
    ("is_disabled", Switch::UnlessFalse),
    ("deleted", Switch::UnlessFalse),
    ("is_deleted", Switch::UnlessFalse),
    ("revoked", Switch::UnlessFalse),
    ("is_revoked", Switch::UnlessFalse),
    ("disabled_at", Switch::WhenSet),
    ("deleted_at", Switch::WhenSet),
    ("revoked_at", Switch::WhenSet),
    ("expires_at", Switch::WhenSet),
    ("valid_until", Switch::WhenSet),
];

/// Words in `access_level` that say that there is none.
const NO_ACCESS: [&str; 9] =
    ["none", "no", "no_access", "deny", "denied", "revoked", "disabled", "blocked", "inactive"];

/// How a value begins that a gateway of ours has sealed for its own row.
const SEALED: &str = "portcullis:";

/// A row as the source has it.
pub(super) struct Raw {
    /// Where it stands, for whoever looks for it there.
    pub place: String,
    /// The needed columns, in order; then absent ones.
    pub needed: [Text; 3],
    pub optional: Text,
    /// The column that switches it off.
    pub off: Option<String>,
}

/// A row of a table of grants, ready to be written. Its texts are names that were parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    pub subject: String,
    pub object: String,
    /// `access_level`; empty for tables without.
    pub level: String,
    /// The server it is about, if it is about one.
    pub server: Option<ServerId>,
}

/// A row of a table of keys or endpoints. `tenant_id` holds a group's name there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Belonging {
    pub place: String,
    pub group: GroupName,
    pub server: ServerId,
    pub what: What,
}

/// What a group has at a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// A key. The name is as it was written.
    Key { name: Option<String>, value: Secret<String> },
    /// An address of its own, which may hold a credential, so it does not print.
    Endpoint(Secret<String>),
}

/// Why a row is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Skip {
    /// A column of the source says that it does not count.
    Off(String),
    /// It cannot be read as what it should be.
    Malformed(String),
}

/// Reads a row of one of the tables of grants.
pub(super) fn grant(table: Table, raw: Raw) -> Result<Grant, Skip> {
    let Raw { needed: [first, second, _], optional, off, .. } = raw;
    let [subject_column, object_column] = [table.needed()[0], table.needed()[1]];
    let is_of_user = subject_column == "user_email";
    let subject = if is_of_user {
        name(subject_column, first, Email::parse)?.as_str().to_owned()
    } else {
        name(subject_column, first, GroupName::parse)?.as_str().to_owned()
    };
    let (object, server) = if table == Table::Membership {
        (name(object_column, second, GroupName::parse)?.as_str().to_owned(), None)
    } else {
        let server = name(object_column, second, ServerId::parse)?;
        (server.as_str().to_owned(), Some(server))
    };
    let level = if table == Table::UserAccess { level(optional)? } else { String::new() };
    match off {
        Some(column) => Err(Skip::Off(format!("it is switched off there by `{column}`"))),
        None => Ok(Grant { subject, object, level, server }),
    }
}

/// Reads a row of a table of keys or endpoints.
pub(super) fn belonging(table: Table, raw: Raw) -> Result<Belonging, Skip> {
    let Raw { place, needed: [group, server, value], optional, off } = raw;
    let group = name("tenant_id", group, GroupName::parse)?;
    let server = name("server_id", server, ServerId::parse)?;
    let value_column = table.needed()[2];
    let Text::Is(value) = value else {
        return Err(Skip::Malformed(format!("`{value_column}` is not there, or is no text")));
    };
    let what = if table == Table::Keys {
        if value.is_empty() || value.trim() != value || value.chars().any(char::is_control) {
            let sentence = "is empty, or has spaces around it or control characters in it";
            return Err(Skip::Malformed(format!("`{value_column}` {sentence}")));
        }
        if value.starts_with(SEALED) {
            let sentence = "is sealed by a gateway: set the key with `portcullis keys set`";
            return Err(Skip::Malformed(format!("`{value_column}` {sentence}")));
        }
        What::Key { name: key_name(optional)?, value: Secret::new(value) }
    } else {
        if !is_address(&value) {
            return Err(Skip::Malformed(format!("`{value_column}` is no `http://` or `https://` address")));
        }
        What::Endpoint(Secret::new(value))
    };
    match off {
        Some(column) => Err(Skip::Off(format!("it is switched off there by `{column}`"))),
        None => Ok(Belonging { place, group, server, what }),
    }
}

/// Parses a name, or says what it was and what it should be.
fn name<T, E: fmt::Display>(
    column: &str,
    text: Text,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<T, Skip> {
    match text {
        Text::Is(text) => parse(&text)
            .map_err(|error| Skip::Malformed(format!("`{column}` is {}: {error}", shortened(&text)))),
        Text::Absent => Err(Skip::Malformed(format!("`{column}` is NULL"))),
        Text::Malformed => Err(Skip::Malformed(format!("`{column}` is no text in UTF-8"))),
    }
}

/// Quoted, its control characters escaped, and no longer than a line.
fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

fn level(text: Text) -> Result<String, Skip> {
    let level = match text {
        Text::Absent => return Ok("read".to_owned()),
        Text::Malformed => return Err(Skip::Malformed("`access_level` is no text in UTF-8".to_owned())),
        Text::Is(level) => level,
    };
    if NO_ACCESS.contains(&level.trim().to_lowercase().as_str()) {
        return Err(Skip::Off(format!("`access_level` is {}, which is no access", shortened(&level))));
    }
    if level.trim().is_empty() || level.chars().count() > 50 || level.chars().any(char::is_control) {
        return Err(Skip::Malformed(format!(
            "`access_level` is {}, which is no word for access",
            shortened(&level)
        )));
    }
    Ok(level)
}

fn key_name(text: Text) -> Result<Option<String>, Skip> {
    match text {
        Text::Absent => Ok(None),
        Text::Is(name) if !name.is_empty() && name.len() <= 255 && !name.chars().any(char::is_control) => {
            Ok(Some(name))
        }
        Text::Is(_) | Text::Malformed => Err(Skip::Malformed(
            "`key_name` is no name: 1 to 255 bytes of text without control characters".to_owned(),
        )),
    }
}

fn is_address(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(needed: &[&str], optional: Option<&str>, off: Option<&str>) -> Raw {
        let text = |at: usize| needed.get(at).map_or(Text::Absent, |text| Text::Is((*text).to_owned()));
        let optional = optional.map_or(Text::Absent, |text| Text::Is(text.to_owned()));
        let (place, off) = ("(0,1)".to_owned(), off.map(str::to_owned));
        Raw { place, needed: [text(0), text(1), text(2)], optional, off }
    }

    #[track_caller]
    fn check(
        table: Table,
        needed: &[&str],
        optional: Option<&str>,
        off: Option<&str>,
        expected: Result<&str, &str>,
    ) {
        let said = match grant(table, raw(needed, optional, off)) {
            Ok(grant) => Ok(format!("{} {} {}", grant.subject, grant.object, grant.level)),
            Err(Skip::Off(reason)) => Err(format!("off: {reason}")),
            Err(Skip::Malformed(reason)) => Err(format!("malformed: {reason}")),
        };
        match (said, expected) {
            (Ok(said), Ok(expected)) => assert_eq!(said, expected),
            (Err(said), Err(expected)) => assert!(said.starts_with(expected), "{said}"),
            (said, expected) => panic!("{said:?} and not {expected:?}"),
        }
    }

    #[test]
    fn a_grant_is_what_its_names_say_or_malformed() {
        use Table::{GroupMapping, Membership, UserAccess};
        check(UserAccess, &["Jane@X.org", "git"], None, None, Ok("jane@x.org git read"));
        check(UserAccess, &["a@x", "git"], Some("write"), None, Ok("a@x git write"));
        check(GroupMapping, &["MCP-Git", "git"], None, None, Ok("MCP-Git git "));
        check(Membership, &["A@x", "Zespół, QA"], None, None, Ok("a@x Zespół, QA "));
        check(UserAccess, &[" a@x", "git"], None, None, Err("malformed: `user_email` is \" a@x\": an email"));
        check(UserAccess, &["a@x", "Git"], None, None, Err("malformed: `tenant_id` is \"Git\": a server id"));
        check(
            UserAccess,
            &["a@x", "servers"],
            None,
            None,
            Err("malformed: `tenant_id` is \"servers\": this server"),
        );
        check(UserAccess, &["a@x"], None, None, Err("malformed: `tenant_id` is NULL"));
        check(
            UserAccess,
            &["a@x", "git"],
            Some("\u{7}"),
            None,
            Err("malformed: `access_level` is \"\\u{7}\""),
        );
        check(GroupMapping, &["", "git"], None, None, Err("malformed: `group_name` is \"\""));
        check(Membership, &["a@x", "a\nb"], None, None, Err("malformed: `group_name` is \"a\\nb\""));
    }

    #[test]
    fn a_row_that_is_switched_off_there_is_not_taken() {
        check(Table::UserAccess, &["a@x", "git"], None, Some("is_active"), Err("off: it is switched off"));
        check(Table::UserAccess, &["a@x", "git"], Some("None"), None, Err("off: `access_level` is \"None\""));
        // What cannot be read is told as that, whether it counts there or not.
        check(Table::Membership, &["a@x", ""], None, Some("is_active"), Err("malformed: "));
    }

    #[test]
    fn a_key_and_an_address_do_not_print() {
        let key = belonging(Table::Keys, raw(&["G", "git", "hunter2"], Some("token"), None)).unwrap();
        assert_eq!((key.group.as_str(), key.server.as_str()), ("G", "git"));
        let value = Secret::new("hunter2".to_owned());
        assert_eq!(key.what, What::Key { name: Some("token".to_owned()), value });
        assert!(!format!("{key:?}").contains("hunter2"));
        for bad in ["", " hunter2", "hun\nter2", "portcullis:1:k:hun"] {
            let said = belonging(Table::Keys, raw(&["G", "git", bad], None, None)).unwrap_err();
            let Skip::Malformed(reason) = said else { panic!("{said:?}") };
            assert!(reason.contains("key_value") && !reason.contains("hun"), "{reason}");
        }
        let address = |text| belonging(Table::ServerEndpoints, raw(&["G", "git", text], None, None));
        assert!(!format!("{:?}", address("https://mcp.example/?key=hunter2").unwrap()).contains("hunter2"));
        for bad in ["", "mcp.example", "ftp://mcp.example", "https:// mcp.example", "http://"] {
            assert!(matches!(address(bad), Err(Skip::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn a_long_text_is_told_by_its_beginning() {
        let long = "é".repeat(500);
        assert_eq!(shortened(&long), format!("\"{}\"…", "é".repeat(60)));
        assert_eq!(shortened("a\"b"), r#""a\"b""#);
    }
}
