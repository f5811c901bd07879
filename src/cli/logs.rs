//! Diagnostic lines on stderr: one JSON object each, or plain text where a person is watching.

use std::io::{self, IsTerminal};

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::record::Settings;

/// Pingora reports what the record reports too, and less clearly.
const QUIET: [&str; 4] = ["pingora_core=error", "pingora_proxy=off", "pingora_error=off", "sqlx=warn"];

/// Starts writing log lines.
pub fn start(settings: &Settings) -> anyhow::Result<()> {
    let mut filter = QUIET.join(",");
    filter.push(',');
    filter.push_str(&settings.filter);
    let filter = EnvFilter::try_new(&filter)
        .with_context(|| format!("`log.filter` is not a filter: `{}`", settings.filter))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = if io::stderr().is_terminal() {
        lines.with_target(false).try_init()
    } else {
        lines.json().flatten_event(true).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}
