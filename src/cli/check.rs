//! `portcullis check`: every problem of the configuration at once, and on request of what it points to.

use std::process::ExitCode;

use super::{Place, data, talk, wait_for};
use crate::{
    app,
    config::{self, Config},
    record::levels,
};

/// Builds what the gateway is built of, for `check` and for `run` alike, and throws it away.
pub fn build(config: &Config) -> anyhow::Result<()> {
    levels::filter(&config.record.filter)?;
    wait_for(async { app::rehearse(config) })?;
    app::refuse_unusable(config)
}

/// Checks; exit code 1 when `run` would refuse.
pub fn check(place: &Place<'_>, connect: bool) -> anyhow::Result<ExitCode> {
    let config = match config::load(place.directory, place.environment) {
        Ok(config) => config,
        Err(problems) => {
            talk(&problems.to_string());
            talk(&format!("{} problems", problems.len()));
            return Ok(ExitCode::FAILURE);
        }
    };
    for warning in &config.warnings {
        talk(&format!("warning: {warning}"));
    }
    for remark in [config.servers_remark(), config.sessions_remark()].into_iter().flatten() {
        talk(&format!("note: {remark}"));
    }
    if config.identity.believes_nobody() {
        talk(config::NOBODY_COULD_CALL);
        return Ok(ExitCode::FAILURE);
    }
    if let Err(error) = build(&config) {
        talk(&format!("{error:#}"));
        return Ok(ExitCode::FAILURE);
    }
    let found = if connect { wait_for(app::connect_all(&config))? } else { app::Findings::default() };
    for note in &found.notes {
        talk(&format!("note: {note}"));
    }
    for warning in &found.warnings {
        talk(&format!("warning: {warning}"));
    }
    for problem in &found.problems {
        talk(problem);
    }
    if !found.problems.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    let enabled = config.servers.iter().filter(|server| server.is_enabled).count();
    data(&format!("ok: {} servers, {enabled} of them on", config.servers.len()))?;
    Ok(ExitCode::SUCCESS)
}
