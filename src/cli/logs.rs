//! Diagnostic lines on stderr: one JSON object each, or plain text where a person is watching.

use std::io::{self, IsTerminal};

use anyhow::Context;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::{app::LogFilter, record::Settings};

/// Pingora reports what the record reports too, and less clearly.
const QUIET: [&str; 4] = ["pingora_core=error", "pingora_proxy=off", "pingora_error=off", "sqlx=warn"];

/// Lines that may wait for the writer: what a reader of stderr that is stuck costs in memory.
const QUEUE: usize = 4096;

/// Starts writing log lines, until the guard that is given back is dropped; says how the filter is changed.
///
/// A thread of its own writes them, and lines it cannot take are dropped: a reader of stderr that is
/// stuck or gone must never hold up or end the gateway.
pub fn start(settings: &Settings) -> anyhow::Result<(WorkerGuard, LogFilter)> {
    let filter = filter(settings)?;
    let (writer, worker) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).finish(io::stderr());
    // What cannot be written is not told on stderr either: that would panic.
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false).with_writer(writer);
    let (started, log_filter): (_, LogFilter) = if io::stderr().is_terminal() {
        let lines = lines.with_target(false).with_filter_reloading();
        let handle = lines.reload_handle();
        (lines.try_init(), Box::new(move |settings| Ok(handle.reload(self::filter(settings)?)?)))
    } else {
        let lines = lines.json().flatten_event(true).with_filter_reloading();
        let handle = lines.reload_handle();
        (lines.try_init(), Box::new(move |settings| Ok(handle.reload(self::filter(settings)?)?)))
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))?;
    Ok((worker, log_filter))
}

/// What is written by these settings.
pub fn filter(settings: &Settings) -> anyhow::Result<EnvFilter> {
    let mut filter = QUIET.join(",");
    filter.push(',');
    filter.push_str(&settings.filter);
    EnvFilter::try_new(&filter)
        .with_context(|| format!("`log.filter` is not a filter: `{}`", settings.filter))
}
