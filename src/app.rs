//! The composition root: settings in, a running gateway out. The only place that knows every module.
//!
//! Decides what is built from what and in which order it starts and stops, nothing about requests.

mod auditing;
mod believed;
mod built;
mod certificate;
mod connecting;
mod counting;
mod door;
mod drain;
mod herald;
mod keeper;
mod listeners;
mod openwebui;
mod reload;
mod shared;
mod signals;
mod sockets;
mod stopping;
mod tasks;
mod upgrade;
mod watchdog;
mod workers;

use std::{
    ffi::OsString,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Context;
use futures_util::future::BoxFuture;
use pingora::{
    proxy::http_proxy,
    server::{RunArgs, Server, configuration::ServerConf},
    services::background::background_service,
};
use tokio::sync::Notify;
use tracing::{error, warn};

use crate::{
    config::Config,
    dial::authorities,
    gateway::{self, configured::Configured, guard::Gate, tls},
    record::{
        Recorder, access_log::AccessLog, audit::Audit, levels::Levels, metrics::Metrics, trace::Exporter,
    },
};

pub use believed::{Opened as Asked, identity};
pub use built::rehearse;
pub use connecting::{Findings, connect_all};
use keeper::Keeper;
use listeners::Listeners;
pub use reload::Origin;
use reload::Reloads;
use shared::Shared;
pub use signals::survive_signals;
pub use sockets::{Inherited, refuse_unusable};
pub use stopping::LastThings;
use watchdog::Watchdog;
use workers::Workers;

/// File descriptors for everything but calls: databases, listeners, tool lists, logs.
const OWN_FILES: u64 = 128;
/// Work begun later.
pub type Begin = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// What a gateway is started with.
pub struct Start {
    /// The configuration.
    pub config: Config,
    /// Where it came from, and comes from again when it changes; none: it never does.
    pub origin: Option<Origin>,
    /// Which log lines are written.
    pub levels: Levels,
    /// The sockets that this process was started with.
    pub inherited: Inherited,
    /// The program and its arguments, by which a process is started that takes over; without them none is.
    pub command_line: Option<(OsString, Vec<OsString>)>,
    /// Begun once the gateway can be called.
    pub begin: Option<Begin>,
    /// Dropped when the process ends.
    pub last_things: LastThings,
}

/// Runs the gateway until it is told to stop. After SIGTERM the process ends here, without a return.
pub fn run(start: Start) -> anyhow::Result<()> {
    let Start { config, origin, levels, inherited, command_line, begin, last_things } = start;
    install_crypto();
    let listeners = Listeners::open(&config.gateway, inherited)?;
    let room = Room::of_process()?;
    let config = room.bounded(config);
    let metrics = Arc::new(Metrics::new()?);
    count_panics(metrics.clone());
    let access_log = AccessLog::new(config.record.is_access_log_on);
    let (access_log, flush) = access_log.context("cannot start the thread of the access log")?;
    last_things.keep(flush);
    let (audit, shipping, audited) = Audit::begin(&config.audit, &config.store, metrics.clone())?;
    last_things.keep(audited);
    let (exporter, flush) = Exporter::new(metrics.clone());
    last_things.keep(flush);
    let recorder = Recorder { metrics: metrics.clone(), access_log, audit, tracer: None };
    let told = (recorder, levels.clone(), exporter);
    let (shared, built, wishes) = Shared::new(config, told, listeners.own_key.clone())?;
    let settings = built.config.gateway.clone();

    let conf = Arc::new(server_conf());
    let mut server = Server::new_with_opt_and_conf(None, server_conf());
    server.bootstrap();
    let configured = Configured::new(built.gateway(&shared));
    let certificates = certificate::read(&settings, &metrics)?;
    let tls = certificates.clone().map(tls::Listener::new).transpose().context("cannot set up TLS")?;
    let gate = Gate::new(configured.clone(), tls, metrics);
    let mut watchdog = Watchdog::of_process(&listeners.stands);
    let pulses = (0..serving_threads(&settings)).map(|index| watchdog.worker_pulse(index)).collect();
    let inside = configured.clone();
    let workers = Workers::start(&gate, pulses, move || {
        inside.now().client.get_ready();
        http_proxy(&conf, inside.clone())
    });
    let workers = Arc::new(workers.context("cannot start the threads that serve")?);
    let hang_up = Arc::new(Notify::new());
    let stands = listeners.stands.clone();
    let told = (hang_up.clone(), command_line);
    let signals = listeners.signals(&configured, &shared, told, (&workers, &last_things));
    let serving = (workers, watchdog);
    listeners.add_to(&mut server, &settings, serving, &shared, (begin, &last_things))?;
    if let Some(shared) = shared.limiting.shared() {
        // A thread of its own: calls wait for it, and what the keeper does may take long.
        server.add_service(background_service("shared limits", counting::Counting(shared)));
    }
    server.add_service(auditing::service(shipping));
    let reloads = Reloads::new(origin, hang_up, room, levels);
    let beginning = (built, wishes, reloads, certificates);
    let keeper = Keeper::new(shared, configured, beginning, (stands, last_things.clone()));
    // One thread: two writers of the snapshot at once would make each other begin anew, a long list for ever.
    server.add_service(background_service("keeper", keeper));
    server.run(RunArgs { shutdown_signal: Box::new(signals) });
    last_things.finish();
    Ok(())
}

/// Installs the one TLS implementation; without it the first connection would have to choose.
pub fn install_crypto() {
    // An error means that one is installed already, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// How many connections the process has room for.
#[derive(Clone)]
struct Room {
    files: u64,
    connections: usize,
    /// How many were wanted when somebody was last told that this is too many.
    told: Arc<AtomicUsize>,
}

impl Room {
    /// Has as many file descriptors as the system lets us.
    fn of_process() -> anyhow::Result<Self> {
        let files = rlimit::increase_nofile_limit(u64::MAX).context("cannot read the limit of open files")?;
        // A call takes two, the caller's connection and the server's, and one in ten may be forsaken besides.
        let connections = files.saturating_sub(OWN_FILES).saturating_mul(10) / 22;
        let connections = usize::try_from(connections).unwrap_or(usize::MAX).max(1);
        Ok(Self { files, connections, told: Arc::default() })
    }

    /// Accepts no more connections than there is room for. A reload that wants as many as before is told nothing new.
    fn bounded(&self, mut config: Config) -> Config {
        let Self { files, connections, told } = self;
        let wanted = config.gateway.max_connections;
        if wanted > *connections {
            if told.swap(wanted, Ordering::Relaxed) != wanted {
                warn!(
                    "{files} open files allow {connections} connections, fewer than `listen.max_connections`; raise `LimitNOFILE`"
                );
            }
            config.gateway.max_connections = *connections;
        }
        config
    }
}

/// Counts panics and says where they were. Not what they said: a message may quote a request.
fn count_panics(metrics: Arc<Metrics>) {
    std::panic::set_hook(Box::new(move |panic| {
        metrics.panics.inc();
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        error!("a bug: panic at {place}; please report it");
    }));
}

fn serving_threads(settings: &gateway::Settings) -> usize {
    match settings.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

/// Of one thread that serves; there is nothing that the framework itself would start more than one for.
fn server_conf() -> ServerConf {
    ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: 512,
        ca_file: authorities::file(),
        // `drain` has waited by then.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(2),
        max_retries: gateway::tries::MOST,
        ..ServerConf::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_counted() {
        let metrics = Arc::new(Metrics::new().unwrap());
        count_panics(metrics.clone());
        let caught = std::panic::catch_unwind(|| panic!("a test asked for a panic"));
        // The hook belongs to the whole process.
        drop(std::panic::take_hook());
        assert!(caught.is_err() && metrics.panics.get() >= 1);
    }
}
