//! The composition root: settings in, a running gateway out. The only place that knows every module.
//!
//! Decides what is built from what and in which order it starts and stops, nothing about requests.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use async_trait::async_trait;
use pingora::{
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
    catalog::{self, Catalog},
    config::Config,
    endpoints::openapi::Documents,
    gateway::{
        self, Gateway,
        guard::Guard,
        live::LiveTrips,
        ops::{Ops, OpsListener},
    },
    identity::{
        Identity, TablesSettings,
        users::{Question, Users},
    },
    record::{
        Recorder,
        access_log::{AccessLog, Flush},
        metrics::Metrics,
    },
    snapshot::{
        self, Current,
        tools::{Refresher, Wish},
    },
    store::{self, DatabaseUrl, Store, openwebui::OpenWebUi},
};

/// OpenAPI documents kept in memory, in bytes.
const DOCUMENT_BYTES: u64 = 64 * 1024 * 1024;
/// How long the listeners may take to answer after the start.
const LISTEN_DEADLINE: Duration = Duration::from_secs(10);
/// How long connections may take to close once the last request is done.
const LAST_BYTES: Duration = Duration::from_millis(500);

/// Work begun later.
pub type Begin = Box<dyn FnOnce() -> futures_util::future::BoxFuture<'static, ()> + Send>;

/// What `dev` runs beside the gateway.
pub struct Companion {
    /// Begun once the gateway can be called.
    pub run: Begin,
    /// Dropped when the process ends.
    pub scratch: tempfile::TempDir,
}

/// What must be dropped before the process ends: log lines not yet written, scratch files.
type LastThings = Arc<Mutex<Option<(Flush, Option<tempfile::TempDir>)>>>;

/// Runs the gateway until it is told to stop. After SIGTERM the process ends here, without a return.
pub fn run(config: Config, companion: Option<Companion>) -> anyhow::Result<()> {
    install_crypto();
    refuse_taken(&config.gateway)?;
    let metrics = Arc::new(Metrics::new()?);
    count_panics(metrics.clone());
    let (access_log, flush) = AccessLog::new(config.record.is_access_log_on);
    let recorder = Recorder { metrics, access_log };
    let parts = Parts::new(&config, recorder);

    let conf = Arc::new(server_conf(&config.gateway));
    let mut server = Server::new_with_opt_and_conf(None, server_conf(&config.gateway));
    server.bootstrap();
    let mut public = Service::new("gateway".to_owned(), guarded(&conf, &config.gateway, &parts));
    public.add_tcp(&config.gateway.http.to_string());
    let ops = Ops { recorder: parts.recorder.clone(), current: parts.current.clone() };
    let private = background_service("ops", OpsListener::new(config.gateway.ops, ops));
    let Parts { recorder, current, identity, access, live, users, questions, refresher: _, wishes } = parts;
    let listening = [config.gateway.http, config.gateway.ops];
    let keeper = Keeper {
        config: config.clone(),
        current,
        identity,
        access,
        live,
        users,
        waiting: Mutex::new(Some(Waiting { questions, wishes })),
    };
    server.add_service(background_service("keeper", keeper));
    let (begin, scratch) = companion.map(|companion| (companion.run, companion.scratch)).unzip();
    let last_things: LastThings = Arc::new(Mutex::new(Some((flush, scratch))));
    server.add_service(background_service("drain", Drain { recorder, last_things: last_things.clone() }));
    server.add_service(background_service("herald", Herald { listening, begin: Mutex::new(begin) }));
    server.add_service(public);
    server.add_service(private);
    server.run(RunArgs::default());
    finish(&last_things);
    Ok(())
}

/// What requests and background tasks share.
struct Parts {
    recorder: Recorder,
    current: Arc<Current>,
    identity: Arc<Identity>,
    access: Arc<Access>,
    live: Arc<LiveTrips>,
    users: Option<Arc<Users>>,
    questions: Option<mpsc::Receiver<Question>>,
    refresher: Refresher,
    wishes: mpsc::Receiver<Wish>,
}

impl Parts {
    fn new(config: &Config, recorder: Recorder) -> Self {
        let max_stale = config.access.max_stale;
        let (users, questions) =
            config.identity.openwebui_tables.as_ref().map(|_| Users::new(max_stale)).unzip();
        let (refresher, wishes) = Refresher::new();
        Self {
            recorder,
            current: Current::new(Catalog::new(config.servers.clone()), max_stale),
            identity: Arc::new(Identity::new(&config.identity, users.clone())),
            access: Arc::new(Access::new(config.access.clone())),
            live: Arc::default(),
            users,
            questions,
            refresher,
            wishes,
        }
    }
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
        // Tries of one call; only what was never sent is tried again.
        max_retries: 4,
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
        live: parts.live.clone(),
        recorder: parts.recorder.clone(),
    };
    Guard::new(http_proxy(conf, gateway), settings, parts.recorder.metrics.clone())
}

/// What requests ask of the background: users seen first, tool lists to read.
struct Waiting {
    questions: Option<mpsc::Receiver<Question>>,
    wishes: mpsc::Receiver<Wish>,
}

/// Keeps the snapshot true: owns every connection to a database and every outbound call of our own.
struct Keeper {
    config: Config,
    current: Arc<Current>,
    identity: Arc<Identity>,
    access: Arc<Access>,
    live: Arc<LiveTrips>,
    users: Option<Arc<Users>>,
    waiting: Mutex<Option<Waiting>>,
}

#[async_trait]
impl BackgroundService for Keeper {
    async fn start(&self, _shutdown: ShutdownWatch) {
        if let Err(error) = self.keep().await {
            error!("cannot start: {error:#}");
            std::process::exit(1);
        }
    }
}

impl Keeper {
    async fn keep(&self) -> anyhow::Result<()> {
        let taken = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Waiting { questions, wishes } = taken.context("the keeper was started twice")?;
        // Built here, because sockets belong to the runtime that opens them.
        let store = Store::open(&self.config.store)?;
        let grants = snapshot::grants::keep(self.current.clone(), store, self.config.store.auto_migrate);
        let tools = snapshot::tools::keep(self.current.clone(), self.config.catalog.clone(), wishes);
        let addresses = snapshot::addresses::keep(self.current.clone());
        let live = self.live.clone().watch(self.current.clone(), self.identity.clone(), self.access.clone());
        let users = self.users(questions)?;
        // Tasks of their own: a slow one must not hold up the others.
        tokio::spawn(grants);
        tokio::spawn(addresses);
        tokio::spawn(live);
        tokio::spawn(users);
        tools.await
    }

    fn users(
        &self,
        questions: Option<mpsc::Receiver<Question>>,
    ) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
        let open = |tables: &TablesSettings| {
            OpenWebUi::open(&tables.database, &tables.schema).map(|database| (database, tables.refresh))
        };
        let database = self.config.identity.openwebui_tables.as_ref().map(open).transpose()?;
        let (current, users) = (self.current.clone(), self.users.clone());
        Ok(async move {
            if let (Some(users), Some(questions), Some((database, refresh))) = (users, questions, database) {
                snapshot::users::keep(current, users, questions, database, refresh).await;
            }
        })
    }
}

fn finish(last_things: &LastThings) {
    drop(last_things.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// Ends the process as soon as the last request is done; the framework alone would sleep out its grace.
struct Drain {
    recorder: Recorder,
    last_things: LastThings,
}

#[async_trait]
impl BackgroundService for Drain {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        // An error means the sender is gone: the process is ending all the same.
        drop(shutdown.changed().await);
        let metrics = &self.recorder.metrics;
        metrics.draining.set(1);
        info!("draining: {} requests are running", metrics.requests_in_flight.get());
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        while metrics.requests_in_flight.get() > 0 {
            looks.tick().await;
        }
        let last_bytes = async {
            while metrics.connections.get() > 0 {
                looks.tick().await;
            }
        };
        // A client that keeps its connection open is not waited for.
        drop(tokio::time::timeout(LAST_BYTES, last_bytes).await);
        info!("drained");
        finish(&self.last_things);
        std::process::exit(0);
    }
}

/// Says when the gateway can be called, and ends the process if that does not come about.
struct Herald {
    listening: [SocketAddr; 2],
    begin: Mutex<Option<Begin>>,
}

#[async_trait]
impl BackgroundService for Herald {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let begin = self.begin.lock().unwrap_or_else(PoisonError::into_inner).take();
        for address in self.listening {
            if let Err(error) = answers(address).await {
                error!("{error:#}");
                std::process::exit(1);
            }
        }
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

/// Checks what `check --connect` checks: the database, and every server's tool list. Returns problems.
pub async fn connect_all(config: &Config) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    if let Err(error) = connect_store(&config.store).await {
        problems.push(format!("the grants database: {error:#}"));
    }
    if let Some(tables) = &config.identity.openwebui_tables
        && let Err(error) = connect_openwebui(&tables.database, &tables.schema).await
    {
        problems.push(format!("Open WebUI's database: {error:#}"));
    }
    let catalog::Settings { deadline, max_bytes, .. } = config.catalog;
    let dialer = crate::dial::Dialer::new(deadline, max_bytes)?;
    for server in config.servers.iter().filter(|server| server.is_enabled) {
        if let Err(error) = snapshot::tools::read(&dialer, server).await {
            problems.push(format!("server `{}`: {error:#}", server.id));
        }
    }
    Ok(problems)
}

async fn connect_store(settings: &store::Settings) -> anyhow::Result<()> {
    let store = Store::open(settings)?;
    let pending = store.pending_migrations().await?;
    store.close().await;
    if pending > 0 && !settings.auto_migrate {
        bail!("{pending} migrations are pending; run `portcullis migrate`");
    }
    if pending > 0 {
        warn!("{pending} migrations are pending; `run` will apply them");
    }
    Ok(())
}

async fn connect_openwebui(url: &DatabaseUrl, schema: &str) -> anyhow::Result<()> {
    OpenWebUi::open(url, schema)?.users(&["-".to_owned()]).await.map(drop)
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
