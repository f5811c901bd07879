//! The composition root: settings in, a running gateway out. The only place that knows every module.
//!
//! Decides what is built from what and in which order it starts and stops, nothing about requests.

mod believed;
mod built;
mod connecting;
mod counting;
mod keeper;
mod openwebui;
mod reload;
mod shared;
mod stopping;
mod tasks;

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use pingora::{
    listeners::TcpSocketOptions,
    proxy::http_proxy,
    server::{RunArgs, Server, ShutdownWatch, configuration::ServerConf},
    services::{
        background::{BackgroundService, background_service},
        listening::Service,
    },
};
use tokio::sync::Notify;
use tracing::{error, info, warn};

use crate::{
    config::Config,
    gateway::{
        self,
        configured::Configured,
        guard::Guard,
        ops::{Ops, OpsListener},
    },
    record::{Recorder, access_log::AccessLog, metrics::Metrics},
    upstream::peer::PROBES,
};

pub use believed::{Opened as Asked, identity};
pub use built::rehearse;
pub use connecting::{Findings, connect_all};
use keeper::Keeper;
use reload::Reloads;
pub use reload::{LogFilter, Origin};
use shared::Shared;
pub use stopping::LastThings;
use stopping::{Drain, StopSignals};

/// File descriptors for everything but calls: databases, listeners, tool lists, logs.
const OWN_FILES: u64 = 128;
/// How long the listeners may take to answer after the start.
const LISTEN_DEADLINE: Duration = Duration::from_secs(10);
/// Work begun later.
pub type Begin = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// What a gateway is started with.
pub struct Start {
    /// The configuration.
    pub config: Config,
    /// Where it came from, and comes from again when it changes; none: it never does.
    pub origin: Option<Origin>,
    /// Changes which log lines are written.
    pub log_filter: LogFilter,
    /// Begun once the gateway can be called.
    pub begin: Option<Begin>,
    /// Dropped when the process ends.
    pub last_things: LastThings,
}

/// Runs the gateway until it is told to stop. After SIGTERM the process ends here, without a return.
pub fn run(start: Start) -> anyhow::Result<()> {
    let Start { config, origin, log_filter, begin, last_things } = start;
    install_crypto();
    refuse_taken(&config.gateway)?;
    let room = Room::of_process()?;
    let config = room.bounded(config);
    let metrics = Arc::new(Metrics::new()?);
    count_panics(metrics.clone());
    let (access_log, flush) = AccessLog::new(config.record.is_access_log_on);
    last_things.keep(flush);
    let recorder = Recorder { metrics: metrics.clone(), access_log };
    let (shared, built, wishes) = Shared::new(config, recorder.clone())?;
    let settings = built.config.gateway.clone();

    let conf = Arc::new(server_conf(&settings));
    let mut server = Server::new_with_opt_and_conf(None, server_conf(&settings));
    server.bootstrap();
    let configured = Configured::new(built.gateway(&shared));
    let guard = Guard::new(http_proxy(&conf, configured.clone()), configured.clone(), metrics);
    let mut public = Service::new("gateway".to_owned(), guard);
    // A client that has died without a word would hold its stream for ever.
    let mut sockets = TcpSocketOptions::default();
    sockets.tcp_keepalive = Some(PROBES);
    public.add_tcp_with_settings(&settings.http.to_string(), sockets);
    let is_listening = Arc::new(AtomicBool::new(false));
    let ops = Ops {
        recorder: recorder.clone(),
        current: shared.current.clone(),
        is_listening: is_listening.clone(),
    };
    let private = background_service("ops", OpsListener::new(settings.ops, ops));
    if let Some(shared) = shared.limiting.shared() {
        // A thread of its own: calls wait for it, and what the keeper does may take long.
        server.add_service(background_service("shared limits", counting::Counting(shared)));
    }
    let hang_up = Arc::new(Notify::new());
    let reloads = Reloads::new(origin, hang_up.clone(), room, log_filter);
    let keeper = Keeper::new(shared, configured.clone(), (built, wishes, reloads), last_things.clone());
    // One thread: two writers of the snapshot at once would make each other begin anew, a long list for ever.
    server.add_service(background_service("keeper", keeper));
    let drain = Drain { recorder: recorder.clone(), last_things: last_things.clone() };
    server.add_service(background_service("drain", drain));
    let listening = [settings.http, settings.ops];
    server.add_service(background_service(
        "herald",
        Herald { listening, is_listening, begin: Mutex::new(begin), last_things: last_things.clone() },
    ));
    server.add_service(public);
    server.add_service(private);
    let signals = StopSignals { recorder, configured, hang_up };
    server.run(RunArgs { shutdown_signal: Box::new(signals) });
    last_things.finish();
    Ok(())
}

/// Installs the one TLS implementation; without it the first connection would have to choose.
pub fn install_crypto() {
    // An error means that one is installed already, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// A port that cannot be had must end the process with a sentence: the framework would go on, deaf.
fn refuse_taken(settings: &gateway::Settings) -> anyhow::Result<()> {
    for (key, address) in [("listen.http", settings.http), ("listen.ops", settings.ops)] {
        TcpListener::bind(address).with_context(|| {
            format!("cannot listen on `{address}`; stop what listens there or change `{key}` in gateway.toml")
        })?;
    }
    Ok(())
}

/// Refuses addresses that this machine does not have or may not use. One at which somebody listens is none of them: that
/// may be the gateway itself.
pub fn refuse_unusable(settings: &gateway::Settings) -> anyhow::Result<()> {
    for (key, address) in [("listen.http", settings.http), ("listen.ops", settings.ops)] {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            bound => {
                drop(bound.with_context(|| {
                    format!("cannot listen on `{address}`; change `{key}` in gateway.toml")
                })?)
            }
        }
    }
    Ok(())
}

/// How many connections the process has room for.
#[derive(Clone, Copy)]
struct Room {
    files: u64,
    connections: usize,
}

impl Room {
    /// Has as many file descriptors as the system lets us.
    fn of_process() -> anyhow::Result<Self> {
        let files = rlimit::increase_nofile_limit(u64::MAX).context("cannot read the limit of open files")?;
        // A call takes two, the caller's connection and the server's, and one in ten may be forsaken besides.
        let connections = files.saturating_sub(OWN_FILES).saturating_mul(10) / 22;
        Ok(Self { files, connections: usize::try_from(connections).unwrap_or(usize::MAX).max(1) })
    }

    /// Accepts no more connections than there is room for.
    fn bounded(self, mut config: Config) -> Config {
        let Self { files, connections } = self;
        if config.gateway.max_connections > connections {
            warn!(
                "{files} open files allow {connections} connections, fewer than `listen.max_connections`; raise `LimitNOFILE`"
            );
            config.gateway.max_connections = connections;
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

fn server_conf(settings: &gateway::Settings) -> ServerConf {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    ServerConf {
        threads: if settings.threads == 0 { cores } else { settings.threads },
        upstream_keepalive_pool_size: 512,
        grace_period_seconds: Some(settings.shutdown_grace.as_secs()),
        graceful_shutdown_timeout_seconds: Some(2),
        // Tries of one call: how many there are is for `gateway/tries.rs` to say, which waits between them.
        max_retries: 32,
        ..ServerConf::default()
    }
}

/// Says when the gateway can be called, and ends the process if that does not come about.
struct Herald {
    listening: [SocketAddr; 2],
    is_listening: Arc<AtomicBool>,
    begin: Mutex<Option<Begin>>,
    last_things: LastThings,
}

#[async_trait]
impl BackgroundService for Herald {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let begin = self.begin.lock().unwrap_or_else(PoisonError::into_inner).take();
        for address in self.listening {
            if let Err(error) = answers(address).await {
                self.last_things.give_up(&error);
            }
        }
        self.is_listening.store(true, Ordering::Relaxed);
        let [http, ops] = self.listening;
        info!("listening on http://{http} (callers) and http://{ops} (metrics, readiness)");
        if let Some(begin) = begin {
            begin().await;
        }
    }
}

async fn answers(address: SocketAddr) -> anyhow::Result<()> {
    let mut reachable = address;
    if address.ip().is_unspecified() {
        let loopback: std::net::IpAddr =
            if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        reachable.set_ip(loopback);
    }
    let dial = async {
        while tokio::net::TcpStream::connect(reachable).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(LISTEN_DEADLINE, dial).await.is_err() {
        bail!("nothing answers on `{address}` after {LISTEN_DEADLINE:?}; is the port taken?");
    }
    Ok(())
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
