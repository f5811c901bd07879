//! Diagnostic lines on stderr: one JSON object each, or plain text where a person is watching.

use std::io::{self, IsTerminal};

use anyhow::anyhow;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{Layer, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::record::{
    Settings,
    levels::{self, Levels},
};

/// Lines that may wait for the writer: what a reader of stderr that is stuck costs in memory.
const QUEUE: usize = 4096;

/// Starts writing log lines, until the guard that is given back is dropped; says how the filter is changed.
///
/// A thread of its own writes them, and lines it cannot take are dropped: a reader of stderr that is
/// stuck or gone must never hold up or end the gateway.
pub fn start(settings: &Settings) -> anyhow::Result<(WorkerGuard, Levels)> {
    let (filter, handle) = reload::Layer::new(levels::filter(&settings.filter)?);
    let (writer, worker) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).finish(io::stderr());
    let dropped = writer.error_counter();
    // What cannot be written is not told on stderr either: that would panic.
    let lines = fmt::layer().log_internal_errors(false).with_writer(writer);
    let lines = match io::stderr().is_terminal() {
        true => lines.with_target(false).boxed(),
        false => lines.json().flatten_event(true).boxed(),
    };
    let layers = Registry::default().with(lines).with(filter).with(levels::cap());
    layers.try_init().map_err(|error| anyhow!("cannot start logging: {error}"))?;
    // What `levels::cap` lets nobody write is not even asked about: the framework would ask dozens of times a request.
    log::set_max_level(log::LevelFilter::Info);
    let put = Box::new(move |filter| Ok(handle.reload(filter)?));
    Ok((worker, Levels::new(settings, put, dropped)))
}
