//! Every metric the gateway has: name, help text and labels, declared here and nowhere else.
//!
//! Labels come from closed sets (servers of the catalog, codes, outcomes), never from callers.

pub use prometheus::IntCounter;
use prometheus::{
    Encoder, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector, histogram_opts,
};

use super::{Record, Timing};
use crate::names::ServerId;

/// Seconds; from well under a millisecond of the gateway's own to minutes of a slow tool.
const BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// How a server's addresses stand: those there are, those that are called, and names that stand for none.
pub const PEER_STATES: [&str; 3] = ["known", "healthy", "unresolved"];

macro_rules! metrics {
    ($($field:ident: $type:ident = $make:expr;)*) => {
        /// All metrics, ready to be counted on.
        pub struct Metrics {
            registry: Registry,
            $(#[doc = stringify!($field)] pub $field: $type,)*
        }

        impl Metrics {
            /// Declares all metrics.
            pub fn new() -> anyhow::Result<Self> {
                let registry = Registry::new();
                $(let $field: $type = register(&registry, $make?)?;)*
                Ok(Self { registry, $($field,)* })
            }
        }
    };
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> anyhow::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

metrics! {
    requests: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_requests_total", "Requests ended, by route, server and outcome."),
        &["route", "server", "outcome"]);
    refusals: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_refusals_total", "Refusals, by their stable code."), &["code"]);
    credentials_refused: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_credentials_refused_total", "Credentials not believed, by reason."), &["reason"]);
    limited: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_limited_total", "Requests refused or ended because of a limit, by limit."), &["limit"]);
    limits_shared: IntGauge = IntGauge::new(
        "portcullis_limits_shared", "1 while replicas count together in Redis, 0 while each counts alone because it is away, -1 without one.");
    limits_counted_alone: IntCounter = IntCounter::new(
        "portcullis_limits_counted_alone_total", "Requests counted in this process alone because Redis was away or slow.");
    seconds: HistogramVec = HistogramVec::new(
        histogram_opts!("portcullis_request_seconds",
            "Time a request took, split into the gateway's own part and the upstream's.", BUCKETS.to_vec()),
        &["server", "part"]);
    requests_in_flight: IntGauge = IntGauge::new(
        "portcullis_requests_in_flight", "Requests that have arrived and not ended.");
    open_streams: IntGauge = IntGauge::new(
        "portcullis_open_streams", "Event streams open from a server to a client.");
    connections: IntGauge = IntGauge::new("portcullis_connections", "Connections open on the public listener.");
    connections_closed: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_connections_closed_total", "Connections the gateway closed on its own account."),
        &["reason"]);
    streams_reset: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_h2_streams_reset_total", "Streams of HTTP/2 the gateway reset on its own account."),
        &["reason"]);
    panics: IntCounter = IntCounter::new("portcullis_panics_total", "Panics caught; each is a bug to report.");
    snapshot_version: IntGauge = IntGauge::new(
        "portcullis_snapshot_version", "Version of the grants; grows with every change.");
    snapshot_age_seconds: IntGauge = IntGauge::new(
        "portcullis_snapshot_age_seconds", "Seconds since the grants were last known to be true; -1 before they ever were.");
    grant_rows: IntGauge = IntGauge::new("portcullis_grant_rows", "Grant rows believed.");
    malformed_grant_rows: IntGauge = IntGauge::new(
        "portcullis_malformed_grant_rows", "Rows of grants and rules that are malformed: a grant gives nothing, a rule denies every tool.");
    tenant_keys_unusable: IntGauge = IntGauge::new(
        "portcullis_tenant_keys_unusable", "Keys of groups' own that cannot be unsealed; calls that need one are refused.");
    database_up: IntGauge = IntGauge::new(
        "portcullis_database_up", "1 while the grants database answers, else 0.");
    tools: IntGaugeVec = IntGaugeVec::new(
        Opts::new("portcullis_tools", "Tools a server was last seen to have."), &["server"]);
    tools_withheld: IntGaugeVec = IntGaugeVec::new(
        Opts::new("portcullis_tools_withheld", "Tools of a server that are withheld until somebody approves them."), &["server"]);
    tool_changes: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_tool_changes_total", "Tools found to have changed, to be new, or to be again as approved."),
        &["server", "change"]);
    catalog_stale: IntGaugeVec = IntGaugeVec::new(
        Opts::new("portcullis_catalog_stale", "1 while what a server offers could not be read lately, else 0."), &["server"]);
    catalog_age_seconds: IntGaugeVec = IntGaugeVec::new(
        Opts::new("portcullis_catalog_age_seconds", "Seconds since what a server offers was last read; -1 before it ever was."), &["server"]);
    peers: IntGaugeVec = IntGaugeVec::new(
        Opts::new("portcullis_peers", "Addresses of a server, and how many of them are called."), &["server", "state"]);
    peers_opened: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_peers_shut_total", "How often an address of a server was found unfit for calls."), &["server"]);
    peer_probes: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_peer_probes_total", "Probes of a server's addresses, by what came of them."), &["server", "result"]);
    peer_retries: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_peer_retries_total", "Calls sent once more: nothing of the first was, or it may run twice."), &["server", "reason"]);
    peers_refused: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_peers_refused_total", "Calls refused because no address of the server was fit for them."), &["server"]);
    entra_up: IntGaugeVec = IntGaugeVec::new(
        Opts::new("portcullis_entra_up", "1 while the keys of an Entra ID tenant could last be read, else 0."),
        &["tenant", "version"]);
    entra_graph_up: IntGauge = IntGauge::new(
        "portcullis_entra_graph_up", "1 while Microsoft Graph could last be asked for groups, else 0.");
    config_generation: IntGauge = IntGauge::new(
        "portcullis_config_generation", "How often the configuration was taken over, the start included.");
    config_hash: IntGauge = IntGauge::new(
        "portcullis_config_hash", "A number for the content of the configuration's files that is in use: equal where the files are.");
    config_reload_failed: IntGauge = IntGauge::new(
        "portcullis_config_reload_failed", "1 while the configuration's files cannot be taken over as they are, else 0.");
    config_last_success_seconds: IntGauge = IntGauge::new(
        "portcullis_config_last_success_timestamp_seconds", "When the configuration was last taken over, in seconds since 1970.");
    access_log_dropped: IntGauge = IntGauge::new(
        "portcullis_access_log_dropped_lines", "Access-log lines dropped because their reader was too slow.");
    trace_spans_exported: IntCounter = IntCounter::new(
        "portcullis_trace_spans_exported_total", "Spans that the collector took.");
    trace_spans_failed: IntCounter = IntCounter::new(
        "portcullis_trace_spans_failed_total", "Spans that the collector did not take, however often they were sent.");
    trace_spans_dropped: IntCounter = IntCounter::new(
        "portcullis_trace_spans_dropped_total", "Spans that were never sent, because too many waited for the collector.");
    draining: IntGauge = IntGauge::new("portcullis_draining", "1 once the process was told to stop, else 0.");
    upgrades: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_upgrades_total", "Attempts to hand the listening sockets over to a new process."), &["outcome"]);
    certificate_expires: IntGauge = IntGauge::new(
        "portcullis_certificate_expires_timestamp_seconds", "When the listener's certificate expires, in seconds since 1970; 0 without one.");
    certificate_unusable: IntGauge = IntGauge::new(
        "portcullis_certificate_unusable", "1 while the certificate's files hold something that cannot be used, else 0.");
}

impl Metrics {
    /// The figures in Prometheus text format.
    pub fn render(&self) -> anyhow::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// A server is called no more: figures that say how it stands go away. What was counted stays, as counters do.
    pub fn forget_server(&self, server: &ServerId) {
        for figure in [&self.tools, &self.tools_withheld, &self.catalog_stale, &self.catalog_age_seconds] {
            // An error means that it never had any.
            drop(figure.remove_label_values(&[server.as_str()]));
        }
        for state in PEER_STATES {
            drop(self.peers.remove_label_values(&[server.as_str(), state]));
        }
    }

    pub(super) fn observe(&self, record: &Record, timing: Timing) {
        let server = record.server.as_ref().map_or("-", |id| id.as_str());
        self.requests.with_label_values(&[record.route, server, record.outcome().as_str()]).inc();
        if let Some(code) = record.code() {
            self.refusals.with_label_values(&[code.as_str()]).inc();
        }
        if let Some(reason) = record.reason() {
            self.credentials_refused.with_label_values(&[reason]).inc();
        }
        if let Some(limit) = record.limit() {
            self.limited.with_label_values(&[limit]).inc();
        }
        self.seconds.with_label_values(&[server, "gateway"]).observe(timing.gateway().as_secs_f64());
        if !timing.upstream.is_zero() {
            self.seconds.with_label_values(&[server, "upstream"]).observe(timing.upstream.as_secs_f64());
        }
    }
}
