//! The ops listener: metrics, liveness and readiness, for the machines that run the gateway.
//!
//! Bound to a private address; shows figures only, never names of callers. Decides nothing. Open until the process
//! ends, so that it can say that it drains, or until another one has its socket.

use std::{
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use http::{Response, header};
use pingora::{
    apps::{
        ServerApp,
        http_app::{HttpServer, ServeHttp},
    },
    protocols::{GetSocketDigest, SocketDigest, http::ServerSession, l4::stream::Stream},
    server::ShutdownWatch,
};
use tokio::{net::TcpStream, sync::watch};

use crate::{
    record::{
        Recorder,
        levels::Levels,
        metrics::{CONNECTIONS, IntCounter, Metrics, PEER_STATES, PROBES, RETRIES},
    },
    snapshot::{Current, Snapshot},
    upstream::Destination,
};

/// What scrapers call the text of OpenMetrics, which Prometheus asks for first.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers the ops listener's paths.
pub struct Ops {
    /// The figures.
    pub recorder: Recorder,
    /// What is believed.
    pub current: Arc<Current>,
    /// Whether the public port answers.
    pub is_listening: Arc<AtomicBool>,
    /// Counts the diagnostic lines that nobody took.
    pub levels: Levels,
    /// One scrape at a time: counters are raised to what was counted elsewhere, and two would raise them twice.
    pub scraping: Mutex<()>,
}

impl Ops {
    fn answer(&self, path: &str, accept: &str) -> (u16, &'static str, Vec<u8>) {
        match path {
            "/metrics" => match self.figures(accept) {
                Ok((media_type, text)) => (200, media_type, text),
                Err(error) => {
                    (500, "text/plain", format!("cannot render the metrics: {error:#}\n").into_bytes())
                }
            },
            "/health/live" => (200, "application/json", br#"{"status":"live"}"#.to_vec()),
            "/health/ready" => match self.unreadiness() {
                Some(why) => unready(why),
                None => (200, "application/json", br#"{"status":"ready"}"#.to_vec()),
            },
            _ => (404, "application/json", br#"{"detail":"nothing is here","code":"not_found"}"#.to_vec()),
        }
    }

    /// Why a load balancer is to send nothing here.
    fn unreadiness(&self) -> Option<&'static str> {
        if self.recorder.metrics.draining.get() != 0 {
            return Some("draining");
        }
        // Before the public port answers, callers would be sent to nobody.
        if !self.is_listening.load(Ordering::Relaxed) {
            return Some("not listening yet");
        }
        (!self.current.is_ready()).then_some("grants unknown")
    }

    /// The figures, with those that are read off the snapshot brought up to date.
    fn figures(&self, accept: &str) -> anyhow::Result<(&'static str, Vec<u8>)> {
        let _scraping = self.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        let metrics = &self.recorder.metrics;
        let snapshot = self.current.load();
        metrics.ready.set(i64::from(self.unreadiness().is_none()));
        if let Some((rows, malformed, version)) = snapshot.grant_figures() {
            metrics.grant_rows.set(rows as i64);
            metrics.malformed_grant_rows.set(malformed as i64);
            metrics.snapshot_version.set(version as i64);
            metrics.tenant_keys_unusable.set(snapshot.unusable_keys() as i64);
        }
        if let Some((users, groups)) = snapshot.subject_figures() {
            metrics.grant_subjects.with_label_values(&["users"]).set(users as i64);
            metrics.grant_subjects.with_label_values(&["groups"]).set(groups as i64);
        }
        metrics.snapshot_max_age_seconds.set(self.current.max_stale().as_secs() as i64);
        metrics.snapshot_age_seconds.set(self.current.grants_age().map_or(-1, |age| age.as_secs() as i64));
        metrics.database_up.set(i64::from(self.current.is_database_up()));
        note_servers(metrics, &snapshot);
        metrics.calls.forget_unlisted_tools();
        raise(&metrics.access_log_dropped, self.recorder.access_log.dropped_lines());
        raise(&metrics.log_dropped, self.levels.dropped_lines());
        if accept.contains("application/openmetrics-text") {
            return Ok((OPEN_METRICS, metrics.render_open()?));
        }
        Ok(("text/plain; version=0.0.4; charset=utf-8", metrics.render()?))
    }
}

/// Notes what the catalog is like and how its servers stand.
fn note_servers(metrics: &Metrics, snapshot: &Snapshot) {
    let on = snapshot.catalog.iter().filter(|server| server.is_enabled).count();
    metrics.servers.with_label_values(&["on"]).set(on as i64);
    metrics.servers.with_label_values(&["off"]).set((snapshot.catalog.iter().count() - on) as i64);
    // A call that was underway may have counted after its server was forgotten.
    metrics.calls.forget_servers(|id| snapshot.catalog.get(id.as_str()).is_none());
    for (server, tools) in snapshot.tools.iter() {
        metrics.tools.with_label_values(&[server.as_str()]).set(tools.len() as i64);
    }
    for server in snapshot.catalog.iter().filter(|server| server.is_enabled) {
        let about = snapshot.offers.get(server.id.as_str()).map(|offers| &offers.about);
        let age = about.map(|about| about.read_at.elapsed().unwrap_or_default());
        let label = [server.id.as_str()];
        let withheld = snapshot.pins.withheld(server).count();
        metrics.tools_withheld.with_label_values(&label).set(withheld as i64);
        let is_stale = about.is_none_or(|about| about.is_stale);
        metrics.catalog_stale.with_label_values(&label).set(i64::from(is_stale));
        let age_secs = age.map_or(-1, |age| age.as_secs() as i64);
        metrics.catalog_age_seconds.with_label_values(&label).set(age_secs);
    }
    for (server, all) in snapshot.addresses.shared() {
        note_peers(metrics, server.as_str(), all);
    }
}

/// Notes how a server's peers stand, and what was counted where no metric is at hand.
fn note_peers(metrics: &Metrics, server: &str, all: &[Destination]) {
    let good = all.iter().filter(|destination| destination.health.is_good()).count();
    let tally = all.first().map(|first| first.health.tally());
    let unresolved = tally.map_or(0, |tally| tally.unresolved.load(Ordering::Relaxed));
    for (state, count) in PEER_STATES.into_iter().zip([all.len(), good, unresolved]) {
        metrics.peers.with_label_values(&[server, state]).set(count as i64);
    }
    let Some(tally) = tally else { return };
    let raise = |counter: IntCounter, total: &AtomicU64| raise(&counter, total.load(Ordering::Relaxed));
    raise(metrics.peers_opened.with_label_values(&[server]), &tally.opened);
    raise(metrics.peers_refused.with_label_values(&[server]), &tally.refused);
    for (result, total) in PROBES.into_iter().zip(&tally.probes) {
        raise(metrics.peer_probes.with_label_values(&[server, result]), total);
    }
    for (how, total) in CONNECTIONS.into_iter().zip(&tally.connections) {
        raise(metrics.peer_connections.with_label_values(&[server, how]), total);
    }
    for (reason, total) in RETRIES.into_iter().zip([&tally.unsent, &tally.repeated]) {
        raise(metrics.peer_retries.with_label_values(&[server, reason]), total);
    }
}

/// Brings a counter up to what was counted elsewhere.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn unready(why: &str) -> (u16, &'static str, Vec<u8>) {
    let body = serde_json::json!({ "status": "not ready", "detail": why });
    (503, "application/json", body.to_string().into_bytes())
}

#[async_trait]
impl ServeHttp for Ops {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let (status, content_type, body) = match request.method {
            http::Method::GET | http::Method::HEAD => {
                let accept = request.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
                self.answer(request.uri.path(), accept.unwrap_or_default())
            }
            _ => (405, "application/json", br#"{"detail":"only GET","code":"method_not_allowed"}"#.to_vec()),
        };
        Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, content_type)
            .header(header::CONTENT_LENGTH, body.len())
            .body(body)
            .expect("status and headers are constants")
    }
}

/// Serves the connections of the ops listener.
pub struct OpsListener(Arc<HttpServer<Ops>>);

impl OpsListener {
    /// With what `ops` answers.
    pub fn new(ops: Ops) -> Self {
        Self(Arc::new(HttpServer::new_app(ops)))
    }

    /// Serves a connection to its end. Where `leaving` says so that is at once: whoever keeps it to ask how the gateway
    /// is must ask another process.
    pub async fn serve(&self, socket: TcpStream, peer: SocketAddr, leaving: &ShutdownWatch) {
        let digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
        let _ = digest.peer_addr.set(Some(peer.into()));
        let mut stream = Stream::from(socket);
        stream.set_socket_digest(digest);
        let (_alive, never) = watch::channel(false);
        let mut leaving = leaving.clone();
        tokio::select! {
            biased;
            _ = self.0.process_new(Box::new(stream), &never) => {}
            _ = leaving.wait_for(|is_leaving| *is_leaving) => {}
        }
    }
}
