//! The ops listener: metrics, liveness and readiness, for the machines that run the gateway.
//!
//! Bound to a private address; shows figures only, never names of callers. Decides nothing. Open until the process
//! ends, so that it can say that it drains, or until another one has its socket.

use std::{
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::{
        Arc,
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
        metrics::{IntCounter, Metrics, PEER_STATES},
    },
    snapshot::Current,
    upstream::Destination,
};

/// Answers the ops listener's paths.
pub struct Ops {
    /// The figures.
    pub recorder: Recorder,
    /// What is believed.
    pub current: Arc<Current>,
    /// Whether the public port answers.
    pub is_listening: Arc<AtomicBool>,
}

impl Ops {
    fn answer(&self, path: &str) -> (u16, &'static str, Vec<u8>) {
        match path {
            "/metrics" => match self.figures() {
                Ok(text) => (200, "text/plain; version=0.0.4", text),
                Err(error) => {
                    (500, "text/plain", format!("cannot render the metrics: {error:#}\n").into_bytes())
                }
            },
            "/health/live" => (200, "application/json", br#"{"status":"live"}"#.to_vec()),
            "/health/ready" if self.recorder.metrics.draining.get() != 0 => unready("draining"),
            // Before the public port answers, a load balancer would send callers to nobody.
            "/health/ready" if !self.is_listening.load(Ordering::Relaxed) => unready("not listening yet"),
            "/health/ready" if !self.current.is_ready() => unready("grants unknown"),
            "/health/ready" => (200, "application/json", br#"{"status":"ready"}"#.to_vec()),
            _ => (404, "application/json", br#"{"detail":"nothing is here","code":"not_found"}"#.to_vec()),
        }
    }

    /// The figures, with those that are read off the snapshot brought up to date.
    fn figures(&self) -> anyhow::Result<Vec<u8>> {
        let metrics = &self.recorder.metrics;
        let snapshot = self.current.load();
        if let Some((rows, malformed, version)) = snapshot.grant_figures() {
            metrics.grant_rows.set(rows as i64);
            metrics.malformed_grant_rows.set(malformed as i64);
            metrics.snapshot_version.set(version as i64);
            metrics.tenant_keys_unusable.set(snapshot.unusable_keys() as i64);
        }
        metrics.snapshot_age_seconds.set(self.current.grants_age().map_or(-1, |age| age.as_secs() as i64));
        metrics.database_up.set(i64::from(self.current.is_database_up()));
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
        if let Some(dropped) = self.recorder.access_log.dropped_lines() {
            metrics.access_log_dropped.set(dropped.dropped_lines() as i64);
        }
        metrics.render()
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
    let raise = |counter: IntCounter, total: &AtomicU64| {
        counter.inc_by(total.load(Ordering::Relaxed).saturating_sub(counter.get()));
    };
    raise(metrics.peers_opened.with_label_values(&[server]), &tally.opened);
    raise(metrics.peers_refused.with_label_values(&[server]), &tally.refused);
    for (result, total) in ["answered", "failed"].into_iter().zip(&tally.probes) {
        raise(metrics.peer_probes.with_label_values(&[server, result]), total);
    }
    for (reason, total) in [("unsent", &tally.unsent), ("repeatable", &tally.repeated)] {
        raise(metrics.peer_retries.with_label_values(&[server, reason]), total);
    }
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
            http::Method::GET | http::Method::HEAD => self.answer(request.uri.path()),
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
