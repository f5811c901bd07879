//! `portcullis grant` and `portcullis revoke`: rows of the three grant tables, without writing SQL.

use anyhow::bail;
use clap::Args;

use super::talk;
use crate::{
    config::Config,
    names::{Email, GroupName, ServerId},
    store::Store,
};

/// Who and what.
#[derive(Args)]
#[command(group(clap::ArgGroup::new("who").required(true).multiple(false).args(["user", "group"])))]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(false).args(["server", "member_of"])))]
pub struct GrantArguments {
    /// The user.
    #[arg(long, value_name = "EMAIL", value_parser = Email::parse)]
    user: Option<Email>,
    /// The group.
    #[arg(long, value_name = "GROUP", value_parser = GroupName::parse)]
    group: Option<GroupName>,
    /// The server to use.
    #[arg(value_name = "SERVER", value_parser = ServerId::parse)]
    server: Option<ServerId>,
    /// The group to be a member of (with `--user`).
    #[arg(long, value_name = "GROUP", value_parser = GroupName::parse, conflicts_with = "group")]
    member_of: Option<GroupName>,
}

enum Deed {
    User(Email, ServerId),
    Group(GroupName, ServerId),
    Member(Email, GroupName),
}

impl GrantArguments {
    fn deed(self, config: &Config) -> anyhow::Result<Deed> {
        if let Some(server) = &self.server
            && !config.servers.iter().any(|known| known.id == *server)
        {
            talk(&format!("warning: `{server}` is not in servers.toml; the grant counts once it is"));
        }
        Ok(match (self.user, self.group, self.server, self.member_of) {
            (Some(user), None, Some(server), None) => Deed::User(user, server),
            (None, Some(group), Some(server), None) => Deed::Group(group, server),
            (Some(user), None, None, Some(group)) => Deed::Member(user, group),
            _ => bail!("name a user or group, and a server or `--member-of`"),
        })
    }
}

/// Adds a row.
pub async fn grant(config: Config, arguments: GrantArguments) -> anyhow::Result<()> {
    let deed = arguments.deed(&config)?;
    let store = open(&config).await?;
    let (is_new, sentence) = match &deed {
        Deed::User(user, server) => {
            (store.grant_user(user, server).await?, format!("`{user}` may use `{server}`"))
        }
        Deed::Group(group, server) => {
            (store.grant_group(group, server).await?, format!("group `{group}` may use `{server}`"))
        }
        Deed::Member(user, group) => {
            (store.join_group(user, group).await?, format!("`{user}` is in group `{group}`"))
        }
    };
    store.close().await;
    talk(&format!("{sentence}{}", if is_new { "" } else { " (and was before)" }));
    Ok(())
}

/// Removes rows.
pub async fn revoke(config: Config, arguments: GrantArguments) -> anyhow::Result<()> {
    let deed = arguments.deed(&config)?;
    let store = open(&config).await?;
    let (rows, sentence) = match &deed {
        Deed::User(user, server) => (
            store.revoke_user(user, server).await?,
            format!("`{user}` has no grant of their own for `{server}`"),
        ),
        Deed::Group(group, server) => {
            (store.revoke_group(group, server).await?, format!("group `{group}` has no grant for `{server}`"))
        }
        Deed::Member(user, group) => {
            (store.leave_group(user, group).await?, format!("`{user}` is not in group `{group}`"))
        }
    };
    store.close().await;
    talk(&format!("{sentence} any more; {rows} rows removed"));
    Ok(())
}

async fn open(config: &Config) -> anyhow::Result<Store> {
    let store = Store::open(&config.store)?;
    if config.store.auto_migrate {
        store.migrate().await?;
    }
    Ok(store)
}
