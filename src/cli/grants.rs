//! `portcullis grant` and `portcullis revoke`: rows of the grant tables and of `tool_rules`, without writing SQL.

use anyhow::bail;
use clap::Args;

use super::{asked_wrong, talk};
use crate::{
    config::Config,
    names::{BadName, Email, GroupName, ServerId, ToolPattern},
    store::{Effect, GrantRow, Store, Subject, Whom},
};

/// Who and what.
#[derive(Args)]
#[command(group(clap::ArgGroup::new("who").required(true).multiple(false).args(["user", "group"])))]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(false).args(["target", "member_of"])))]
pub struct RevokeArguments {
    /// The user.
    #[arg(long, value_name = "EMAIL", value_parser = Email::parse)]
    user: Option<Email>,
    /// The group.
    #[arg(long, value_name = "GROUP", value_parser = GroupName::parse)]
    group: Option<GroupName>,
    /// The server to use, or tools of it that a rule is about: `github/search_*`.
    #[arg(value_name = "SERVER[/PATTERN]", value_parser = parse_target)]
    target: Option<Target>,
    /// The group to be a member of (with `--user`).
    #[arg(long, value_name = "GROUP", value_parser = GroupName::parse, conflicts_with = "group")]
    member_of: Option<GroupName>,
}

/// Who and what, and which way.
#[derive(Args)]
pub struct GrantArguments {
    #[command(flatten)]
    to: RevokeArguments,
    /// Deny the tools of `SERVER/PATTERN`, where a rule without this allows them and no others.
    #[arg(long)]
    deny: bool,
}

#[derive(Clone)]
struct Target {
    server: ServerId,
    pattern: Option<ToolPattern>,
}

fn parse_target(text: &str) -> Result<Target, BadName> {
    let (server, pattern) = match text.split_once('/') {
        Some((server, pattern)) => (server, Some(ToolPattern::parse(pattern)?)),
        None => (text, None),
    };
    Ok(Target { server: ServerId::parse(server)?, pattern })
}

/// A user or a group.
enum Who {
    User(Email),
    Group(GroupName),
}

impl Who {
    fn lend(&self) -> Whom<'_> {
        match self {
            Self::User(email) => Whom::User(email),
            Self::Group(group) => Whom::Group(group),
        }
    }

    fn subject(&self) -> Subject {
        match self {
            Self::User(email) => Subject::User(email.as_str().to_owned()),
            Self::Group(group) => Subject::Group(group.as_str().to_owned()),
        }
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(email) => write!(f, "`{email}`"),
            Self::Group(group) => write!(f, "group `{group}`"),
        }
    }
}

enum Deed {
    Server(Who, ServerId),
    Member(Email, GroupName),
    Rule(Who, ServerId, ToolPattern),
}

impl RevokeArguments {
    fn deed(self, config: &Config) -> anyhow::Result<Deed> {
        if let Some(Target { server, .. }) = &self.target
            && !config.servers.iter().any(|known| known.id == *server)
        {
            talk(&format!("warning: `{server}` is not in servers.toml; the grant counts once it is"));
        }
        let who = match (self.user, self.group) {
            (Some(user), None) => Who::User(user),
            (None, Some(group)) => Who::Group(group),
            (Some(_), Some(_)) | (None, None) => bail!("name a user or a group"),
        };
        Ok(match (who, self.target, self.member_of) {
            (who, Some(Target { server, pattern: None }), None) => Deed::Server(who, server),
            (who, Some(Target { server, pattern: Some(pattern) }), None) => Deed::Rule(who, server, pattern),
            (Who::User(user), None, Some(group)) => Deed::Member(user, group),
            _ => bail!("name a server, tools of a server, or `--member-of`"),
        })
    }
}

/// Adds a row.
pub async fn grant(config: Config, arguments: GrantArguments) -> anyhow::Result<()> {
    let GrantArguments { to, deny } = arguments;
    if deny && to.target.as_ref().is_none_or(|target| target.pattern.is_none()) {
        return Err(asked_wrong(
            "`--deny` is about tools: name them, as in `SERVER/delete_*`, or all with `SERVER/*`",
        ));
    }
    let deed = to.deed(&config)?;
    let store = open(&config).await?;
    let (is_new, sentence) = match &deed {
        Deed::Server(who, server) => {
            let is_new = match who {
                Who::User(user) => store.grant_user(user, server).await?,
                Who::Group(group) => store.grant_group(group, server).await?,
            };
            (is_new, format!("{who} may use `{server}`"))
        }
        Deed::Member(user, group) => {
            (store.join_group(user, group).await?, format!("`{user}` is in group `{group}`"))
        }
        Deed::Rule(who, server, pattern) if deny => (
            store.set_rule(who.lend(), server, pattern, Effect::Deny).await?,
            format!("tools `{pattern}` of `{server}` are denied to {who}"),
        ),
        Deed::Rule(who, server, pattern) => (
            store.set_rule(who.lend(), server, pattern, Effect::Allow).await?,
            format!("tools `{pattern}` of `{server}` are allowed to {who}, and none that no rule allows"),
        ),
    };
    talk(&format!("{sentence}{}", if is_new { "" } else { " (and was before)" }));
    if let (Deed::Rule(who, server, _), false) = (&deed, deny)
        && !has_grant(&store, &config.access.admin_group, who, server).await?
    {
        talk(&format!(
            "this narrows what {who} may use of `{server}`; they also need a grant, which no row gives them yet"
        ));
    }
    store.close().await;
    Ok(())
}

/// Removes rows.
pub async fn revoke(config: Config, arguments: RevokeArguments) -> anyhow::Result<()> {
    let deed = arguments.deed(&config)?;
    let store = open(&config).await?;
    let (rows, sentence) = match &deed {
        Deed::Server(Who::User(user), server) => (
            store.revoke_user(user, server).await?,
            format!("`{user}` has no grant of their own for `{server}`"),
        ),
        Deed::Server(Who::Group(group), server) => {
            (store.revoke_group(group, server).await?, format!("group `{group}` has no grant for `{server}`"))
        }
        Deed::Member(user, group) => {
            (store.leave_group(user, group).await?, format!("`{user}` is not in group `{group}`"))
        }
        Deed::Rule(who, server, pattern) => (
            store.remove_rule(who.lend(), server, pattern).await?,
            format!("{who} has no rule about `{pattern}` of `{server}`"),
        ),
    };
    store.close().await;
    talk(&format!("{sentence} any more; {rows} rows removed"));
    Ok(())
}

/// Whether any row gives them the server, a group's they are in by `user_group_membership` included.
async fn has_grant(store: &Store, admins: &GroupName, who: &Who, server: &ServerId) -> anyhow::Result<bool> {
    let mut is_granted = matches!(who, Who::Group(group) if group == admins);
    let mut groups = Vec::new();
    let mut note = |row: GrantRow<'_>| match row {
        GrantRow::User { server: granted, .. } | GrantRow::Group { server: granted, .. } => {
            is_granted |= granted == server.as_str();
        }
        GrantRow::Membership { group, .. } => {
            is_granted |= group == admins.as_str();
            groups.push(Subject::Group(group.to_owned()));
        }
        GrantRow::Rule { .. } | GrantRow::Key { .. } | GrantRow::Endpoint { .. } => {}
    };
    store.rows_about(&[who.subject()], &mut note).await?;
    store
        .rows_about(&groups, &mut |row| {
            is_granted |=
                matches!(row, GrantRow::Group { server: granted, .. } if granted == server.as_str());
        })
        .await?;
    Ok(is_granted)
}

/// The gateway's own database, brought up to date where the configuration lets that happen.
pub(super) async fn open(config: &Config) -> anyhow::Result<Store> {
    let store = Store::open(&config.store)?;
    if config.store.auto_migrate {
        store.migrate().await?;
    }
    Ok(store)
}
