//! `portcullis explain`: why somebody may use a server, or what is missing, as a sentence; and why a credential is
//! believed or not.

mod credential;
mod tenancy;

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context, bail};
use clap::Args;

use super::{data, wait_for};
use crate::{
    access::{
        self,
        grants::{Grants, GrantsBuilder},
    },
    catalog::server::Server,
    config::Config,
    identity::Caller,
    names::{Email, GroupName, ServerId, ToolName},
    store::{Store, openwebui::OpenWebUi},
};

/// Who asks for what.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("who").required(true).args(["user", "token", "headers"]).multiple(true))]
pub struct ExplainArguments {
    /// The user.
    #[arg(long = "as", value_name = "EMAIL", value_parser = Email::parse, conflicts_with_all = ["token", "headers", "from"])]
    user: Option<Email>,
    /// A further group, as if their credential named it; may be repeated.
    #[arg(long = "group", value_name = "GROUP", value_parser = GroupName::parse, requires = "user")]
    groups: Vec<GroupName>,
    #[command(flatten)]
    credential: credential::CredentialArguments,
    /// The server, or server and tool.
    #[arg(value_name = "SERVER[/TOOL]", value_parser = parse_target, required_unless_present_any = ["token", "headers"])]
    target: Option<Target>,
}

#[derive(Clone)]
struct Target {
    server: ServerId,
    tool: Option<ToolName>,
}

fn parse_target(text: &str) -> Result<Target, crate::names::BadName> {
    let (server, tool) = match text.split_once('/') {
        Some((server, tool)) => (server, Some(ToolName::parse(tool)?)),
        None => (text, None),
    };
    Ok(Target { server: ServerId::parse(server)?, tool })
}

/// Prints the sentences; exit code 1 when they may not, or are not believed.
pub fn explain(config: &Config, arguments: &ExplainArguments) -> anyhow::Result<ExitCode> {
    let (caller, trouble) = match &arguments.user {
        Some(user) => wait_for(account(config, user, &arguments.groups))?,
        None => match credential::explain(config, &arguments.credential)? {
            Some(caller) => (caller, None),
            None => return Ok(ExitCode::FAILURE),
        },
    };
    let Some(target) = &arguments.target else { return Ok(ExitCode::SUCCESS) };
    let (explanation, grants) = wait_for(look(config, &caller, &target.server))?;
    let mut is_reachable = explanation.is_allowed();
    data(&explanation.to_string())?;
    if let Some(trouble) = trouble {
        is_reachable = false;
        data(&trouble)?;
    }
    let server = config.servers.iter().find(|server| server.id == target.server);
    match server {
        None => {
            is_reachable = false;
            data(&format!("but `{}` is not in servers.toml, so every call answers 404", target.server))?;
        }
        Some(server) => {
            if !server.is_enabled {
                is_reachable = false;
                data(&off(server))?;
            }
            if let Some((is_usable, sentence)) = tenancy::told(config, &caller, server, grants) {
                is_reachable &= is_usable;
                data(&sentence)?;
            }
        }
    }
    match &target.tool {
        Some(tool) => {
            is_reachable &= explanation.allows(tool);
            data(&explanation.ruling(tool))?;
            if let Some(sentence) = server.map(|server| withheld(config, server, tool)).transpose()?.flatten()
            {
                is_reachable = false;
                data(&sentence)?;
            }
        }
        None => explanation.rules().try_for_each(|rule| data(&rule))?,
    }
    Ok(if is_reachable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Why a server is off.
fn off(server: &Server) -> String {
    let id = &server.id;
    if server.missing_variables.is_empty() {
        return format!("but `{id}` is switched off in servers.toml, so every call answers 503");
    }
    let missing = server.missing_variables.join(", ");
    format!("but `{id}` is off, so every call answers 503: it waits for {missing}, not set here")
}

/// Says so where the tool waits for an approval.
fn withheld(config: &Config, server: &Server, tool: &ToolName) -> anyhow::Result<Option<String>> {
    if !server.is_pinned {
        return Ok(None);
    }
    let pins = wait_for(async {
        let store = Store::open(&config.store)?;
        let pins = store.pins(Some(&server.id)).await?;
        store.close().await;
        Ok(pins)
    })?;
    let waits = pins.iter().any(|pin| pin.tool == tool.as_str() && pin.pending.is_some());
    let target = format!("{}/{tool}", server.id);
    Ok(waits.then(|| {
        format!(
            "but `{tool}` is withheld from everybody until it is approved: `portcullis tools diff {target}`"
        )
    }))
}

async fn look(
    config: &Config,
    caller: &Caller,
    server: &ServerId,
) -> anyhow::Result<(access::Explanation, Grants)> {
    let store = Store::open(&config.store)?;
    let pending = store.pending_migrations().await?;
    if pending > 0 {
        // A question changes nothing, so it makes no tables either.
        bail!("{pending} migrations are pending; run `portcullis migrate`");
    }
    let mut builder = GrantsBuilder::default();
    store.load_grants(&mut |row| builder.add(row)).await?;
    store.close().await;
    let grants = builder.finish();
    Ok((access::explain(&config.access, caller, server, &grants), grants))
}

/// The user with their groups in Open WebUI, and what is wrong with their account there.
async fn account(
    config: &Config,
    user: &Email,
    groups: &[GroupName],
) -> anyhow::Result<(Arc<Caller>, Option<String>)> {
    let caller = |more: Vec<GroupName>| {
        Caller::hypothetical(user.clone(), groups.iter().cloned().chain(more).collect())
    };
    let Some(tables) = &config.identity.openwebui_tables else {
        return Ok((caller(Vec::new()), None));
    };
    let row = OpenWebUi::open(&tables.database, &tables.schema)?
        .user_by_email(user)
        .await
        .context("cannot read Open WebUI's tables")?;
    let Some(row) = row else {
        let trouble = "but Open WebUI has no such user, so no session token is theirs".to_owned();
        return Ok((caller(Vec::new()), Some(trouble)));
    };
    let trouble = row.trouble().map(|trouble| format!("but their session tokens are refused: {trouble}"));
    Ok((caller(row.groups), trouble))
}
