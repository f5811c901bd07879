//! `portcullis explain`: why somebody may use a server, or what is missing, as a sentence.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use super::{data, wait_for};
use crate::{
    access::{self, grants::GrantsBuilder},
    config::Config,
    identity::Caller,
    names::{Email, GroupName, ServerId, ToolName},
    store::{Store, openwebui::OpenWebUi},
};

/// Who asks for what.
#[derive(Args)]
pub struct ExplainArguments {
    /// The user.
    #[arg(long = "as", value_name = "EMAIL", value_parser = Email::parse)]
    user: Email,
    /// A further group, as if their credential named it; may be repeated.
    #[arg(long = "group", value_name = "GROUP", value_parser = GroupName::parse)]
    groups: Vec<GroupName>,
    /// The server, or server and tool.
    #[arg(value_name = "SERVER[/TOOL]", value_parser = parse_target)]
    target: Target,
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

/// Prints the sentence; exit code 1 when they may not.
pub fn explain(config: &Config, arguments: &ExplainArguments) -> anyhow::Result<ExitCode> {
    let ExplainArguments { user, groups, target } = arguments;
    let (explanation, account) = wait_for(look(config, user, groups, &target.server))?;
    let mut is_reachable = explanation.is_allowed();
    data(&explanation.to_string())?;
    if let Some(account) = account {
        is_reachable = false;
        data(&account)?;
    }
    let server = config.servers.iter().find(|server| server.id == target.server);
    match server {
        None => {
            is_reachable = false;
            data(&format!("but `{}` is not in servers.toml, so every call answers 404", target.server))?;
        }
        Some(server) if !server.is_enabled => {
            is_reachable = false;
            data(&format!(
                "but `{}` is switched off in servers.toml, so every call answers 503",
                target.server
            ))?;
        }
        Some(_) => {}
    }
    match &target.tool {
        Some(tool) => {
            is_reachable &= explanation.allows(tool);
            data(&explanation.ruling(tool))?;
        }
        None => explanation.rules().try_for_each(|rule| data(&rule))?,
    }
    Ok(if is_reachable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn look(
    config: &Config,
    user: &Email,
    groups: &[GroupName],
    server: &ServerId,
) -> anyhow::Result<(access::Explanation, Option<String>)> {
    let store = Store::open(&config.store)?;
    let pending = store.pending_migrations().await?;
    if pending > 0 {
        // A question changes nothing, so it makes no tables either.
        bail!("{pending} migrations are pending; run `portcullis migrate`");
    }
    let mut builder = GrantsBuilder::default();
    store.load_grants(&mut |row| builder.add(row)).await?;
    store.close().await;
    let (of_account, account) = account(config, user).await?;
    let groups = groups.iter().cloned().chain(of_account).collect();
    let caller = Caller::hypothetical(user.clone(), groups);
    Ok((access::explain(&config.access, &caller, server, &builder.finish()), account))
}

/// The user's groups in Open WebUI, and what is wrong with their account there.
async fn account(config: &Config, user: &Email) -> anyhow::Result<(Vec<GroupName>, Option<String>)> {
    let Some(tables) = &config.identity.openwebui_tables else {
        return Ok((Vec::new(), None));
    };
    let row = OpenWebUi::open(&tables.database, &tables.schema)?
        .user_by_email(user)
        .await
        .context("cannot read Open WebUI's tables")?;
    let Some(row) = row else {
        return Ok((
            Vec::new(),
            Some("but Open WebUI has no such user, so no session token is theirs".into()),
        ));
    };
    let trouble = row.trouble().map(|trouble| format!("but their session tokens are refused: {trouble}"));
    Ok((row.groups, trouble))
}
