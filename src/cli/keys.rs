//! `portcullis keys`: the keys that groups bring of their own to servers. None is ever printed.

use std::io::{self, IsTerminal, Read};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::{asked_wrong, data, talk};
use crate::{
    catalog::server::{OwnCredential, Server, Sharing},
    config::Config,
    credentials,
    names::{GroupName, Secret, ServerId},
    store::{LONGEST_VALUE, Store, StoredKey},
};

/// What to do with keys.
#[derive(Subcommand)]
pub enum KeysCommand {
    /// Seal and store a group's key for a server; the key is read from stdin, or asked for at a terminal.
    Set(KeyArguments),
    /// List which keys there are, and how they are sealed.
    List(ListArguments),
    /// Seal every key anew with the newest sealing key, those that are not sealed at all too; gateways may run.
    Rotate,
    /// Delete a group's key for a server.
    Delete(KeyArguments),
}

/// Which key.
#[derive(Args)]
pub struct KeyArguments {
    /// The server it is for.
    #[arg(value_name = "SERVER", value_parser = ServerId::parse)]
    server: ServerId,
    /// The group whose members it stands for.
    #[arg(long, value_name = "GROUP", value_parser = GroupName::parse)]
    group: GroupName,
    /// What it is called; by default the name the server takes one by.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// Which keys.
#[derive(Args)]
pub struct ListArguments {
    /// Only those for this server.
    #[arg(long, value_name = "SERVER", value_parser = ServerId::parse)]
    server: Option<ServerId>,
    /// Only those of this group.
    #[arg(long, value_name = "GROUP", value_parser = GroupName::parse)]
    group: Option<GroupName>,
}

/// Does it.
pub async fn keys(config: Config, command: KeysCommand) -> anyhow::Result<()> {
    match command {
        KeysCommand::Set(arguments) => set(&config, arguments).await,
        KeysCommand::List(arguments) => list(&config, &arguments).await,
        KeysCommand::Rotate => rotate(&config).await,
        KeysCommand::Delete(arguments) => delete(&config, arguments).await,
    }
}

/// The server, and how it takes keys.
fn server_of<'c>(config: &'c Config, id: &ServerId) -> anyhow::Result<(&'c Server, &'c OwnCredential)> {
    let server = config.servers.iter().find(|server| server.id == *id);
    let server = server.with_context(|| {
        format!("`{id}` is not in servers.toml, so no key of it can be sent; `portcullis servers` lists them")
    })?;
    let own = server.own_credential.as_ref();
    let own = own.with_context(|| {
        format!(
            "server `{id}` takes no credential; add \
             `credential = {{ header = \"Authorization\", scheme = \"Bearer\", key_name = \"token\" }}` to it"
        )
    })?;
    Ok((server, own))
}

async fn set(config: &Config, arguments: KeyArguments) -> anyhow::Result<()> {
    let KeyArguments { server: id, group, name } = arguments;
    let (server, own) = server_of(config, &id)?;
    let name = name.unwrap_or_else(|| own.key_name.clone());
    if name != own.key_name {
        talk(&format!(
            "warning: server `{id}` takes the key `{}`; `{name}` is stored and not sent",
            own.key_name
        ));
    }
    let value = read_key()?;
    if credentials::header(own, &value).is_none() {
        bail!("the key cannot stand in a header: it has a line break, an outer space or a control character");
    }
    let store = super::grants::open(config).await?;
    store.set_key(&group, &id, &name, &value).await?;
    store.close().await;
    talk(&format!("group `{}` calls `{id}` with its own `{name}`", group.as_str()));
    if server.sharing == Sharing::UntilKeyed {
        talk(&format!(
            "callers of `{id}` whose groups have no key are refused now; say `shared_credential = true` in servers.toml \
             to let them use the shared credential, if there is one"
        ));
    }
    Ok(())
}

/// The key from stdin, one line break at its end left out.
fn read_key() -> anyhow::Result<Secret<String>> {
    let mut text = String::new();
    if io::stdin().is_terminal() {
        text = rpassword::prompt_password("key (not shown): ").context("cannot read the key")?;
    } else {
        let most = LONGEST_VALUE as u64 + 2;
        // What cannot be read may be part of a key: the error says nothing of it.
        let read = io::stdin().take(most).read_to_string(&mut text);
        if read.is_err() {
            bail!("the key on stdin is not UTF-8");
        }
    }
    let key = text.strip_suffix('\n').map_or(&*text, |text| text.strip_suffix('\r').unwrap_or(text));
    if key.is_empty() {
        return Err(asked_wrong("no key on stdin: pipe it in, as in `portcullis keys set … < key.txt`"));
    }
    if key.len() > LONGEST_VALUE {
        bail!("the key is longer than {LONGEST_VALUE} bytes");
    }
    Ok(Secret::new(key.to_owned()))
}

async fn list(config: &Config, arguments: &ListArguments) -> anyhow::Result<()> {
    let store = super::grants::open(config).await?;
    let keys = store.keys().await?;
    store.close().await;
    let is_wanted = |key: &&StoredKey| {
        arguments.server.as_ref().is_none_or(|server| key.server == server.as_str())
            && arguments.group.as_ref().is_none_or(|group| key.group == group.as_str())
    };
    for key in keys.iter().filter(is_wanted) {
        data(&told(config, key))?;
    }
    Ok(())
}

fn told(config: &Config, key: &StoredKey) -> String {
    let StoredKey { group, server, name, sealed_with } = key;
    let known = config.servers.iter().find(|known| known.id.as_str() == server);
    let taken = known.and_then(|known| known.own_credential.as_ref()).map(|own| own.key_name.as_str());
    let use_of_it = match (known, taken) {
        (None, _) => "unused: no such server in servers.toml".to_owned(),
        (Some(_), None) => "unused: the server takes no credential".to_owned(),
        (Some(_), Some(taken)) if taken != name => format!("unused: the server takes `{taken}`"),
        (Some(_), Some(_)) => "used".to_owned(),
    };
    let seal = match sealed_with {
        Ok(id) => format!("sealed with {id}"),
        Err(why) => format!("UNUSABLE: {why}"),
    };
    // A tab between: group names may hold spaces.
    [group, server, name, &seal, &use_of_it].map(|text| super::printable(text)).join("\t")
}

async fn rotate(config: &Config) -> anyhow::Result<()> {
    let store = super::grants::open(config).await?;
    let done = store.reseal_keys().await?;
    store.close().await;
    for key in &done.unreadable {
        data(&told(config, key))?;
    }
    talk(&format!(
        "sealed {} keys anew; {} had the newest seal already, {} were changed by somebody meanwhile",
        done.resealed, done.current, done.changed_meanwhile
    ));
    if !done.unreadable.is_empty() {
        bail!("{} keys could not be read and are as they were; they are listed above", done.unreadable.len());
    }
    Ok(())
}

async fn delete(config: &Config, arguments: KeyArguments) -> anyhow::Result<()> {
    let KeyArguments { server: id, group, name } = arguments;
    let name = match name {
        Some(name) => name,
        None => server_of(config, &id)?.1.key_name.clone(),
    };
    let store = super::grants::open(config).await?;
    let rows = store.delete_key(&group, &id, &name).await?;
    if rows > 0 {
        talk(&format!("group `{}` has no key `{name}` for `{id}` any more", group.as_str()));
        warn_of_sharing(config, &store, &id).await?;
    }
    store.close().await;
    if rows == 0 {
        bail!("group `{}` has no key `{name}` for `{id}`", group.as_str());
    }
    Ok(())
}

/// The last key gone, everybody shares again, unless the server says otherwise.
async fn warn_of_sharing(config: &Config, store: &Store, id: &ServerId) -> anyhow::Result<()> {
    let Ok((server, _)) = server_of(config, id) else { return Ok(()) };
    let keys = store.keys().await?;
    let is_keyed = keys.iter().any(|key| key.server == id.as_str());
    if !is_keyed && server.sharing == Sharing::UntilKeyed {
        talk(&format!(
            "no group has a key for `{id}` any more, so all its callers share the credential of servers.toml, if it has one; \
             say `shared_credential = false` there to refuse them instead"
        ));
    }
    Ok(())
}
