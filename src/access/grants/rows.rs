//! Stored rows whose names are well-formed.
//!
//! Decides which rows are about nobody, because a name in them is none. A rule is about somebody as soon as its names
//! are: what else is wrong with it makes it stricter, never void. So is a group's own key or address: one that cannot be
//! used refuses, and nobody else's is used instead.

use crate::{
    access::{
        tenant::{OwnKey, OwnPart},
        tools::ToolRule,
    },
    names::{Email, GroupName, ServerId},
    store::GrantRow,
};

/// A row whose names are well-formed.
pub(super) enum ParsedRow {
    User(Email, ServerId),
    Group(GroupName, ServerId),
    Membership(Email, GroupName),
    UserRule(Email, ServerId, ToolRule),
    GroupRule(GroupName, ServerId, ToolRule),
    /// What a group has of its own for a server.
    Own(GroupName, ServerId, OwnPart),
}

impl ParsedRow {
    pub(super) fn parse(row: GrantRow<'_>) -> Option<Self> {
        Some(match row {
            GrantRow::User { email, server } => {
                Self::User(Email::parse(email).ok()?, ServerId::parse(server).ok()?)
            }
            GrantRow::Group { group, server } => {
                Self::Group(GroupName::parse(group).ok()?, ServerId::parse(server).ok()?)
            }
            GrantRow::Membership { email, group } => {
                Self::Membership(Email::parse(email).ok()?, GroupName::parse(group).ok()?)
            }
            GrantRow::Rule { kind, subject, server, pattern, effect } => {
                let server = ServerId::parse(server).ok()?;
                let rule = ToolRule::parse(pattern, effect);
                match kind {
                    "user" => Self::UserRule(Email::parse(subject).ok()?, server, rule),
                    "group" => Self::GroupRule(GroupName::parse(subject).ok()?, server, rule),
                    _ => return None,
                }
            }
            GrantRow::Key { group, server, name, value } => {
                let key = OwnKey { name: name.into(), value: value.cloned() };
                Self::Own(GroupName::parse(group).ok()?, meant(server)?, OwnPart::Key(key))
            }
            GrantRow::Endpoint { group, server, url } => {
                Self::Own(GroupName::parse(group).ok()?, meant(server)?, OwnPart::Endpoint(url.into()))
            }
        })
    }
}

/// The server that a row about something of a group's own means, in whatever letters: taken for no server, the row would
/// leave its group to share what all have.
fn meant(server: &str) -> Option<ServerId> {
    ServerId::parse(&server.trim().to_ascii_lowercase()).ok()
}
