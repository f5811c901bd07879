//! Every metric the gateway has: name, help text and labels, declared here and nowhere else.
//!
//! Labels come from closed sets (servers of the catalog, tools on their lists, codes, outcomes), never from callers;
//! `calls.rs` sees to it for tools. What the documents say of the metrics is made from here ([`Metrics::table`]).

pub mod calls;
mod process;

pub use prometheus::IntCounter;
use prometheus::{
    Encoder, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector, histogram_opts, proto::MetricType,
};

use super::{Record, Timing, audit::LOSSES};
use crate::{identity::Reason, names::ServerId, refusal::Code};
use calls::{Calls, Families};
use process::Process;

/// Seconds; from well under a millisecond of the gateway's own to minutes of a slow tool.
const BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// The same for single tools, of which there are many: fewer, and each a series.
const TOOL_BUCKETS: &[f64] = &[0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0];

/// How a server's addresses stand: those there are, those that are called, and names that stand for none.
pub const PEER_STATES: [&str; 3] = ["known", "healthy", "unresolved"];

/// The limits that can refuse.
const LIMITS: [&str; 10] = [
    "caller",
    "server",
    "tool",
    "address",
    "streams",
    "requests",
    "running",
    "overload",
    "slow_sender",
    "slow_reader",
];

/// What came of probes.
pub const PROBES: [&str; 2] = ["answered", "failed"];

/// Why calls were sent once more.
pub const RETRIES: [&str; 2] = ["unsent", "repeatable"];

/// Which connections requests to servers took.
pub const CONNECTIONS: [&str; 2] = ["made", "reused"];

macro_rules! metrics {
    (
        calls of ($requests:ident, $seconds:ident, $tool_calls:ident, $tool_seconds:ident);
        $($field:ident: $type:ident = $make:expr;)*
    ) => {
        /// All metrics, ready to be counted on.
        pub struct Metrics {
            registry: Registry,
            declared: Vec<Declared>,
            /// What is counted for each request that ended.
            pub calls: Calls,
            $(#[doc = stringify!($field)] pub $field: $type,)*
        }

        impl Metrics {
            /// Declares all metrics.
            pub fn new() -> anyhow::Result<Self> {
                let (registry, mut declared) = (Registry::new(), Vec::new());
                $(let $field: $type = register(&registry, &mut declared, $make?)?;)*
                register_process(&registry, &mut declared)?;
                let calls = Calls::new(Families {
                    requests: $requests.clone(),
                    seconds: $seconds.clone(),
                    tool_calls: $tool_calls.clone(),
                    tool_seconds: $tool_seconds.clone(),
                });
                let metrics = Self { registry, declared, calls, $($field,)* };
                metrics.begin();
                Ok(metrics)
            }
        }
    };
}

/// A metric as it is declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels.
    pub labels: Vec<String>,
    /// What it means.
    pub help: String,
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    declared: &mut Vec<Declared>,
    metric: C,
) -> anyhow::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    note(declared, &metric);
    Ok(metric)
}

fn register_process(registry: &Registry, declared: &mut Vec<Declared>) -> anyhow::Result<()> {
    let process = Process::new()?;
    note(declared, &process);
    registry.register(Box::new(process))?;
    Ok(())
}

fn note(declared: &mut Vec<Declared>, metric: &impl Collector) {
    for (about, family) in metric.desc().into_iter().zip(metric.collect()) {
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            MetricType::SUMMARY => "summary",
            MetricType::UNTYPED => "untyped",
        };
        let (name, labels, help) = (about.fq_name.clone(), about.variable_labels.clone(), about.help.clone());
        declared.push(Declared { name, kind, labels, help });
    }
}

metrics! {
    calls of (requests, seconds, tool_calls, tool_seconds);
    build_info: IntGaugeVec = IntGaugeVec::new(
        Opts::new("portcullis_build_info", "1, with the version that runs."), &["version"]);
    requests: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_requests_total", "Requests that have ended."), &["route", "server", "outcome"]);
    seconds: HistogramVec = HistogramVec::new(
        histogram_opts!("portcullis_request_seconds", "Time a request took, `part` being `gateway` (our own) or `upstream`.", BUCKETS.to_vec()),
        &["server", "part"]);
    tool_calls: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_tool_calls_total", "Requests about a tool that have ended, by the tool. `tool` is `(other)` for names that are on no list, and past 256 tools of a server."), &["server", "tool", "outcome"]);
    tool_seconds: HistogramVec = HistogramVec::new(
        histogram_opts!("portcullis_tool_seconds", "Time requests about a tool took, split like `portcullis_request_seconds`.", TOOL_BUCKETS.to_vec()),
        &["server", "tool", "part"]);
    refusals: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_refusals_total", "Refusals, by their stable code."), &["code"]);
    credentials_refused: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_credentials_refused_total", "Credentials not believed, by the reason that `portcullis explain` tells too."), &["reason"]);
    limited: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_limited_total", "Requests refused or ended because of a limit: `caller`, `server`, `tool`, `address`, `streams`, `requests`, `running`, `overload`, `slow_sender`, `slow_reader`."), &["limit"]);
    limits_shared: IntGauge = IntGauge::new(
        "portcullis_limits_shared", "1 while replicas count together in Redis, 0 while each counts alone because it is away, -1 without one.");
    limits_counted_alone: IntCounter = IntCounter::new(
        "portcullis_limits_counted_alone_total", "Requests counted in this process alone because Redis was away or slow.");
    requests_in_flight: IntGauge = IntGauge::new(
        "portcullis_requests_in_flight", "Requests that have arrived and not ended.");
    open_streams: IntGauge = IntGauge::new(
        "portcullis_open_streams", "Event streams open to clients, of this process: what one before still drains is in its log.");
    connections: IntGauge = IntGauge::new(
        "portcullis_connections", "Connections open on the public listener.");
    connections_max: IntGauge = IntGauge::new(
        "portcullis_connections_max", "How many there may be: `listen.max_connections`, or what the limit of open files allows.");
    connections_closed: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_connections_closed_total", "Connections closed on our own account: `too_many`, `too_many_of_address`, `header_timeout`, `header_size` (a head over four times `listen.max_header_bytes`), `withdrawn`, `no_proxy_header` (a balancer that did not begin with it), `tls_handshake` (no agreement on TLS, or too late)."), &["reason"]);
    streams_reset: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_h2_streams_reset_total", "Streams of HTTP/2 reset on our own account: `withdrawn`, `too_many` (of clients that reset what they just asked), `malformed`."), &["reason"]);
    panics: IntCounter = IntCounter::new(
        "portcullis_panics_total", "Panics caught; each is a bug to report.");
    ready: IntGauge = IntGauge::new(
        "portcullis_ready", "1 while `/health/ready` says yes.");
    servers: IntGaugeVec = IntGaugeVec::new(
        Opts::new("portcullis_servers", "Servers of the catalog that are `on`, and `off`."), &["state"]);
    snapshot_version: IntGauge = IntGauge::new(
        "portcullis_snapshot_version", "Version of the grants, growing with every change.");
    snapshot_age_seconds: IntGauge = IntGauge::new(
        "portcullis_snapshot_age_seconds", "Seconds since the grants were last known to be true; -1 before they ever were.");
    snapshot_max_age_seconds: IntGauge = IntGauge::new(
        "portcullis_snapshot_max_age_seconds", "How old they may become before calls are refused: `access.max_stale_secs`.");
    grant_rows: IntGauge = IntGauge::new(
        "portcullis_grant_rows", "Rows of grants, memberships and rules in force.");
    grant_subjects: IntGaugeVec = IntGaugeVec::new(
        Opts::new("portcullis_grant_subjects", "Whom they are about: `users`, and `groups` that have servers."), &["kind"]);
    malformed_grant_rows: IntGauge = IntGauge::new(
        "portcullis_malformed_grant_rows", "Malformed rows: a grant gives nothing, a rule denies every tool of its server.");
    tenant_keys_unusable: IntGauge = IntGauge::new(
        "portcullis_tenant_keys_unusable", "Keys of groups' own that cannot be unsealed; calls that need one are refused.");
    database_up: IntGauge = IntGauge::new(
        "portcullis_database_up", "1 while the grants' database answers, else 0.");
    tools: IntGaugeVec = IntGaugeVec::new(
        Opts::new("portcullis_tools", "Tools a server was last seen to have."), &["server"]);
    tools_withheld: IntGaugeVec = IntGaugeVec::new(
        Opts::new("portcullis_tools_withheld", "Tools of a pinned server that wait for `portcullis tools approve`."), &["server"]);
    tool_changes: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_tool_changes_total", "Tools found to have `changed`, to be `new`, or `restored` to what was approved; each once for all replicas."), &["server", "change"]);
    catalog_stale: IntGaugeVec = IntGaugeVec::new(
        Opts::new("portcullis_catalog_stale", "1 while a server's tools, prompts or resources could not be read at the last try; what was read before is still shown."), &["server"]);
    catalog_age_seconds: IntGaugeVec = IntGaugeVec::new(
        Opts::new("portcullis_catalog_age_seconds", "Seconds since they were last read; -1 before they ever were."), &["server"]);
    peers: IntGaugeVec = IntGaugeVec::new(
        Opts::new("portcullis_peers", "Addresses of a server: `known`, and of those the ones that are called (`healthy`); names of it that do not resolve (`unresolved`)."), &["server", "state"]);
    peers_opened: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_peers_shut_total", "How often one of them was found unfit for calls."), &["server"]);
    peer_probes: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_peer_probes_total", "Probes of them: `answered` or `failed`."), &["server", "result"]);
    peer_retries: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_peer_retries_total", "Calls sent once more: nothing of the first was (`unsent`), or it may run twice (`repeatable`)."), &["server", "reason"]);
    peers_refused: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_peers_refused_total", "Calls refused because no address of the server was fit for them."), &["server"]);
    peer_connections: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_peer_connections_total", "Requests to a server by the connection they took: one that was `made` for it, or one of the pool (`reused`)."), &["server", "how"]);
    entra_up: IntGaugeVec = IntGaugeVec::new(
        Opts::new("portcullis_entra_up", "1 while a tenant's keys could be read at the last try, else 0."), &["tenant", "version"]);
    entra_graph_up: IntGauge = IntGauge::new(
        "portcullis_entra_graph_up", "1 while Microsoft Graph could be asked for groups at the last try, else 0; -1 where it is not asked.");
    config_generation: IntGauge = IntGauge::new(
        "portcullis_config_generation", "How often a configuration was taken over, the start included.");
    config_hash: IntGauge = IntGauge::new(
        "portcullis_config_hash", "A number for the content of the files in use: equal on replicas that have the same.");
    config_reload_failed: IntGauge = IntGauge::new(
        "portcullis_config_reload_failed", "1 while the files cannot be taken over as they are, else 0.");
    config_last_success_seconds: IntGauge = IntGauge::new(
        "portcullis_config_last_success_timestamp_seconds", "When a configuration was last taken over, in seconds since 1970.");
    access_log_dropped: IntCounter = IntCounter::new(
        "portcullis_access_log_dropped_lines_total", "Access-log lines dropped because their reader was too slow.");
    log_dropped: IntCounter = IntCounter::new(
        "portcullis_log_dropped_lines_total", "Diagnostic lines dropped for the same reason.");
    trace_spans_exported: IntCounter = IntCounter::new(
        "portcullis_trace_spans_exported_total", "Spans that the collector took.");
    trace_spans_failed: IntCounter = IntCounter::new(
        "portcullis_trace_spans_failed_total", "Spans that the collector did not take, however often they were sent.");
    trace_spans_dropped: IntCounter = IntCounter::new(
        "portcullis_trace_spans_dropped_total", "Spans that were never sent, because too many waited for the collector.");
    audit_waiting_rows: IntGauge = IntGauge::new(
        "portcullis_audit_waiting_rows", "Entries of the audit that the database does not have yet.");
    audit_oldest_seconds: IntGauge = IntGauge::new(
        "portcullis_audit_oldest_seconds", "Age of the oldest of them; 0 without one.");
    audit_spool_bytes: IntGauge = IntGauge::new(
        "portcullis_audit_spool_bytes", "Bytes of the spool's files.");
    audit_spool_max_bytes: IntGauge = IntGauge::new(
        "portcullis_audit_spool_max_bytes", "Bytes that they may have: `audit.spool_max_bytes`.");
    audit_written: IntCounter = IntCounter::new(
        "portcullis_audit_written_total", "Rows of the audit written to the database.");
    audit_lost: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_audit_lost_total", "Entries that are lost: `disk_full`, `disk_broken`, `disk_slow`, `spool_full` (and memory was full, too), `damaged` (a line in the spool is not as it was written), `refused` (by the database, for what it holds)."), &["reason"]);
    audit_left_out: IntCounter = IntCounter::new(
        "portcullis_audit_left_out_total", "Requests of nobody that left no row, because there were too many a second.");
    audit_database_up: IntGauge = IntGauge::new(
        "portcullis_audit_database_up", "1 while the database takes rows of the audit, else 0; -1 before it was asked, and where the audit is off.");
    draining: IntGauge = IntGauge::new(
        "portcullis_draining", "1 once told to stop, else 0.");
    upgrades: IntCounterVec = IntCounterVec::new(
        Opts::new("portcullis_upgrades_total", "Attempts to hand over to a new process: `handed_over` or `failed`, counted on by the new process."), &["outcome"]);
    certificate_expires: IntGauge = IntGauge::new(
        "portcullis_certificate_expires_timestamp_seconds", "When the certificate in use expires, in seconds since 1970; 0 without one.");
    certificate_unusable: IntGauge = IntGauge::new(
        "portcullis_certificate_unusable", "1 while its files hold something that cannot be used, else 0.");
}

impl Metrics {
    /// Has the series that are known beforehand: of one that appears with its first event nobody sees the increase.
    fn begin(&self) {
        self.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Code::ALL.iter().for_each(|code| drop(self.refusals.with_label_values(&[code.as_str()])));
        self.entra_graph_up.set(-1);
        for reason in Reason::ALL {
            drop(self.credentials_refused.with_label_values(&[reason.as_str()]));
        }
        LIMITS.iter().for_each(|limit| drop(self.limited.with_label_values(&[limit])));
        LOSSES.iter().for_each(|reason| drop(self.audit_lost.with_label_values(&[reason])));
        ["handed_over", "failed"]
            .iter()
            .for_each(|outcome| drop(self.upgrades.with_label_values(&[outcome])));
    }

    /// The figures in Prometheus text format.
    pub fn render(&self) -> anyhow::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// The same in the text of OpenMetrics 1.0.0: a counter's family is called without `_total`, and the end is marked.
    pub fn render_open(&self) -> anyhow::Result<Vec<u8>> {
        let text = String::from_utf8(self.render()?)?;
        let mut open = String::with_capacity(text.len() + 8);
        for line in text.lines() {
            match line.strip_prefix("# ").and_then(|about| about.split_once("_total ")) {
                Some((before, after)) if !before["HELP ".len()..].contains(' ') => {
                    open.extend(["# ", before, " ", after]);
                }
                _ => open.push_str(line),
            }
            open.push('\n');
        }
        open.push_str("# EOF\n");
        Ok(open.into_bytes())
    }

    /// All of them as they are declared.
    pub fn declared(&self) -> &[Declared] {
        &self.declared
    }

    /// The same as a table for documents.
    pub fn table(&self) -> String {
        let mut table = String::from("| name | type | labels | meaning |\n|---|---|---|---|\n");
        for Declared { name, kind, labels, help } in &self.declared {
            let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
            let labels = labels.join(", ");
            let labels = if labels.is_empty() { labels } else { format!("{labels} ") };
            table.push_str(&format!("| `{name}` | {kind} | {labels}| {help} |\n"));
        }
        table
    }

    /// A server is called no more: its series go away.
    pub fn forget_server(&self, server: &ServerId) {
        for figure in [&self.tools, &self.tools_withheld, &self.catalog_stale, &self.catalog_age_seconds] {
            // An error means that it never had any.
            drop(figure.remove_label_values(&[server.as_str()]));
        }
        for counter in [&self.peers_opened, &self.peers_refused] {
            drop(counter.remove_label_values(&[server.as_str()]));
        }
        for (family, words) in [
            (&self.peer_probes, PROBES),
            (&self.peer_retries, RETRIES),
            (&self.peer_connections, CONNECTIONS),
        ] {
            words.iter().for_each(|word| drop(family.remove_label_values(&[server.as_str(), word])));
        }
        for state in PEER_STATES {
            drop(self.peers.remove_label_values(&[server.as_str(), state]));
        }
        self.calls.forget_servers(|id| id == server);
    }

    pub(super) fn observe(&self, record: &Record, timing: Timing) {
        self.calls.count(record, timing);
        if let Some(code) = record.code() {
            self.refusals.with_label_values(&[code.as_str()]).inc();
        }
        if let Some(reason) = record.reason() {
            self.credentials_refused.with_label_values(&[reason]).inc();
        }
        if let Some(limit) = record.limit() {
            self.limited.with_label_values(&[limit]).inc();
        }
    }
}
