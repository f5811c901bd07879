//! The composition root: settings in, a running gateway out. The only place that knows every module.
//!
//! Decides what is built from what and in which order it starts and stops, nothing about requests.

mod believed;
mod connecting;
mod openwebui;
mod stopping;

use std::{
    net::{SocketAddr, TcpListener},
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use async_trait::async_trait;
use futures_util::{FutureExt, future::BoxFuture};
use pingora::{
    listeners::TcpSocketOptions,
    proxy::http_proxy,
    server::{RunArgs, Server, ShutdownWatch, configuration::ServerConf},
    services::{
        background::{BackgroundService, background_service},
        listening::Service,
    },
};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::{
    access::Access,
    catalog::Catalog,
    client::{self, Client},
    config::Config,
    endpoints::openapi::Documents,
    gateway::{
        self, Gateway,
        guard::Guard,
        live::LiveTrips,
        ops::{Ops, OpsListener},
        served::Desk,
        sign_in::SignIn,
    },
    identity::Identity,
    mcp::session::SessionKeys,
    record::{Recorder, access_log::AccessLog, metrics::Metrics},
    snapshot::{
        self, Current,
        pins::Pinner,
        tools::{Refresher, Wish},
    },
    store::Store,
    upstream::peer::PROBES,
};

use believed::Background;
pub use believed::identity;
pub use connecting::{Findings, connect_all};
pub use stopping::LastThings;
use stopping::{Drain, StopSignals};

/// OpenAPI documents kept in memory, in bytes.
const DOCUMENT_BYTES: u64 = 64 * 1024 * 1024;
/// File descriptors for everything but calls: databases, listeners, tool lists, logs.
const OWN_FILES: u64 = 128;
/// How long the listeners may take to answer after the start.
const LISTEN_DEADLINE: Duration = Duration::from_secs(10);
/// Work begun later.
pub type Begin = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// Runs the gateway until it is told to stop. After SIGTERM the process ends here, without a return.
///
/// `begin` is begun once the gateway can be called; `last_things` are dropped when the process ends.
pub fn run(config: Config, begin: Option<Begin>, last_things: LastThings) -> anyhow::Result<()> {
    install_crypto();
    refuse_taken(&config.gateway)?;
    let config = with_room(config)?;
    let metrics = Arc::new(Metrics::new()?);
    count_panics(metrics.clone());
    let (access_log, flush) = AccessLog::new(config.record.is_access_log_on);
    last_things.keep(flush);
    let recorder = Recorder { metrics, access_log };
    let parts = Parts::new(&config, recorder)?;

    let conf = Arc::new(server_conf(&config.gateway));
    let mut server = Server::new_with_opt_and_conf(None, server_conf(&config.gateway));
    server.bootstrap();
    let mut public = Service::new("gateway".to_owned(), guarded(&conf, &config.gateway, &parts));
    // A client that has died without a word would hold its stream for ever.
    let mut sockets = TcpSocketOptions::default();
    sockets.tcp_keepalive = Some(PROBES);
    public.add_tcp_with_settings(&config.gateway.http.to_string(), sockets);
    let is_listening = Arc::new(AtomicBool::new(false));
    let ops = Ops {
        recorder: parts.recorder.clone(),
        current: parts.current.clone(),
        is_listening: is_listening.clone(),
    };
    let private = background_service("ops", OpsListener::new(config.gateway.ops, ops));
    let Parts { recorder, current, identity, background, access, live, refresher, wishes, .. } = parts;
    let listening = [config.gateway.http, config.gateway.ops];
    let keeper = Keeper {
        config: config.clone(),
        current,
        metrics: recorder.metrics.clone(),
        identity,
        access,
        live,
        refresher,
        waiting: Mutex::new(Some(Waiting { background, wishes })),
        last_things: last_things.clone(),
    };
    // One thread: two writers of the snapshot at once would make each other begin anew, a long list for ever.
    server.add_service(background_service("keeper", keeper));
    let drain = Drain { recorder: recorder.clone(), last_things: last_things.clone() };
    server.add_service(background_service("drain", drain));
    server.add_service(background_service(
        "herald",
        Herald { listening, is_listening, begin: Mutex::new(begin), last_things: last_things.clone() },
    ));
    server.add_service(public);
    server.add_service(private);
    let signals = StopSignals { recorder, delay: config.gateway.shutdown_delay };
    server.run(RunArgs { shutdown_signal: Box::new(signals) });
    last_things.finish();
    Ok(())
}

/// What requests and background tasks share.
struct Parts {
    recorder: Recorder,
    current: Arc<Current>,
    identity: Arc<Identity>,
    access: Arc<Access>,
    session_keys: Arc<SessionKeys>,
    sign_in: Option<Arc<SignIn>>,
    client: Client,
    live: Arc<LiveTrips>,
    background: Background,
    refresher: Refresher,
    wishes: mpsc::Receiver<Wish>,
}

impl Parts {
    fn new(config: &Config, recorder: Recorder) -> anyhow::Result<Self> {
        let max_stale = config.access.max_stale;
        let (identity, background) = identity(config);
        let (refresher, wishes) = Refresher::new();
        let sign_in = sign_in(config, &identity)?;
        Ok(Self {
            recorder,
            current: Current::new(Catalog::new(config.servers.clone()), max_stale),
            identity,
            access: Arc::new(Access::new(config.access.clone())),
            sign_in,
            session_keys: config.gateway.mcp.keys()?,
            client: Client::new(client::Settings { max_answer_bytes: config.gateway.mcp.max_list_bytes }),
            live: Arc::default(),
            background,
            refresher,
            wishes,
        })
    }
}

/// Signs users of MCP clients in, where both Entra ID and the facade in front of it are configured.
fn sign_in(config: &Config, identity: &Identity) -> anyhow::Result<Option<Arc<SignIn>>> {
    let facade = config.gateway.oauth.as_ref().and_then(|oauth| oauth.facade.clone());
    let both = facade.zip(identity.directory().cloned());
    Ok(both.map(|(facade, entra)| SignIn::new(facade, entra)).transpose()?.map(Arc::new))
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

/// Has as many file descriptors as the system lets us, and accepts no more connections than they allow.
fn with_room(mut config: Config) -> anyhow::Result<Config> {
    let limit = rlimit::increase_nofile_limit(u64::MAX).context("cannot read the limit of open files")?;
    // A call takes two, the caller's connection and the server's, and one in ten may be forsaken besides.
    let room =
        usize::try_from(limit.saturating_sub(OWN_FILES).saturating_mul(10) / 22).unwrap_or(usize::MAX).max(1);
    if config.gateway.max_connections > room {
        warn!(
            "{limit} open files allow {room} connections, fewer than `listen.max_connections`; raise `LimitNOFILE`"
        );
        config.gateway.max_connections = room;
    }
    Ok(config)
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

fn guarded(
    conf: &Arc<ServerConf>,
    settings: &gateway::Settings,
    parts: &Parts,
) -> Guard<pingora::proxy::HttpProxy<Gateway>> {
    let gateway = Gateway {
        settings: settings.clone(),
        identity: parts.identity.clone(),
        access: parts.access.clone(),
        current: parts.current.clone(),
        refresher: parts.refresher.clone(),
        documents: Documents::new(DOCUMENT_BYTES),
        session_keys: parts.session_keys.clone(),
        client: parts.client.clone(),
        desk: Desk::new(settings.mcp.session_ttl),
        sign_in: parts.sign_in.clone(),
        live: parts.live.clone(),
        recorder: parts.recorder.clone(),
    };
    Guard::new(http_proxy(conf, gateway), settings, parts.recorder.metrics.clone())
}

/// What requests ask of the background: who somebody is, tool lists to read.
struct Waiting {
    background: Background,
    wishes: mpsc::Receiver<Wish>,
}

/// Keeps the snapshot true: owns every connection to a database and every outbound call of our own.
struct Keeper {
    config: Config,
    current: Arc<Current>,
    metrics: Arc<Metrics>,
    identity: Arc<Identity>,
    access: Arc<Access>,
    live: Arc<LiveTrips>,
    refresher: Refresher,
    waiting: Mutex<Option<Waiting>>,
    last_things: LastThings,
}

#[async_trait]
impl BackgroundService for Keeper {
    async fn start(&self, _shutdown: ShutdownWatch) {
        // Every task of it runs for ever: one that ends has failed, and what it kept would grow old unseen.
        let error = match self.keep().await {
            Ok(task) => anyhow::anyhow!("the task that keeps {task} ended; this is a bug, please report it"),
            Err(error) => error.context("cannot start"),
        };
        self.last_things.give_up(&error);
    }
}

impl Keeper {
    /// Runs until a task ends, and says which.
    async fn keep(&self) -> anyhow::Result<&'static str> {
        let taken = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Waiting { background, wishes } = taken.context("the keeper was started twice")?;
        // Built here, because sockets belong to the runtime that opens them.
        let store = Store::open(&self.config.store)?;
        let current = || self.current.clone();
        let grants = snapshot::grants::keep(current(), store, self.config.store.clone());
        let client = Client::new(client::Settings { max_answer_bytes: self.config.catalog.max_bytes });
        let wishes = (self.refresher.clone(), wishes);
        let (pinner, sights) = Pinner::new();
        let pins = snapshot::pins::keep(
            current(),
            self.config.store.clone(),
            self.metrics.clone(),
            (self.refresher.clone(), sights),
        );
        let tools = snapshot::tools::keep(current(), self.config.catalog.clone(), client, pinner, wishes)?;
        let live = self.live.clone().watch(current(), self.identity.clone(), self.access.clone());
        // Those of others: a probe must not take a call's connection, nor have its session.
        let prober = Client::new(client::Settings { max_answer_bytes: self.config.catalog.max_bytes });
        // Tasks of their own: a slow one must not hold up the others.
        let mut tasks = tokio::task::JoinSet::new();
        let mut spawn = |name: &'static str, task: BoxFuture<'static, ()>| {
            tasks.spawn(async move {
                // A panic is counted and told by the hook.
                drop(AssertUnwindSafe(task).catch_unwind().await);
                name
            });
        };
        spawn("grants", grants.boxed());
        spawn("tool pins", pins.boxed());
        spawn("tool lists", tools.boxed());
        snapshot::names::ask(&self.config.nameservers);
        spawn("peers' health", snapshot::probing::keep(current(), prober).boxed());
        spawn("addresses", snapshot::addresses::keep(current()).boxed());
        let allowed = self.config.allowed_hosts.clone();
        spawn("own addresses", snapshot::own_addresses::keep(current(), allowed).boxed());
        spawn("live calls", live.boxed());
        for (name, task) in background.tasks(&self.current, &self.metrics)? {
            spawn(name, task);
        }
        Ok(tasks.join_next().await.context("nothing is kept")??)
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
