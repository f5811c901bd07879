//! `portcullis health`: whether the gateway on this machine can be called, for health checks of containers.
//!
//! Needs no shell and no other program beside it. Asks the ops listener, so it says what a load balancer hears.

use std::{net::SocketAddr, process::ExitCode};

use clap::Args;
use http::StatusCode;

use super::{Place, data, ops::Ops, talk, wait_for};
use crate::config;

/// Where `listen.ops` is without a configuration that says so.
const USUAL: &str = "127.0.0.1:9090";

/// What is asked, and where.
#[derive(Args)]
pub struct HealthArguments {
    /// Ask only whether it is there (/health/live), not whether it can be called (/health/ready).
    #[arg(long)]
    live: bool,
    /// Address of the ops listener, instead of `listen.ops` of the configuration.
    #[arg(long, value_name = "IP:PORT")]
    ops: Option<SocketAddr>,
}

/// Asks; exit code 1 when the answer is no, or there is none.
pub fn health(place: &Place<'_>, arguments: &HealthArguments) -> anyhow::Result<ExitCode> {
    let address = match arguments.ops {
        Some(address) => address,
        None => configured(place)?,
    };
    let path = if arguments.live { "/health/live" } else { "/health/ready" };
    let (status, said) = wait_for(async { Ops::at(address)?.get(path).await })?;
    if status == StatusCode::OK {
        data(said.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    talk(&format!("{status}: {}", said.trim_end()));
    Ok(ExitCode::FAILURE)
}

/// Where the configuration has it. A running gateway goes on with the one before where the files are bad, so a health
/// check must not fail for them.
fn configured(place: &Place<'_>) -> anyhow::Result<SocketAddr> {
    match config::load(place.directory, place.environment) {
        Ok(config) => Ok(config.gateway.ops),
        Err(_) => {
            talk(&format!(
                "warning: the configuration has problems (`portcullis check`); asking at {USUAL}, `--ops` names another place"
            ));
            Ok(USUAL.parse()?)
        }
    }
}
