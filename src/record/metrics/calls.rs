//! What is counted for each request that ended, by server and by tool.
//!
//! Decides which tools have series of their own: those that stand on their server's list when they are called, and of
//! each server no more than [`TOOLS_PER_SERVER`] in the life of the process. All else is counted under [`OTHER`], so
//! that neither a caller who invents names nor a server that does can make series without end. Series are looked up by
//! name once and kept: a request that ends takes no lock and makes no text.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use crate::{
    names::{ServerId, ToolName},
    record::{Outcome, Record, Timing},
};

/// Tools of one server that have series of their own.
pub const TOOLS_PER_SERVER: usize = 256;
/// Stands for all other tools; no tool can be called like this.
pub const OTHER: &str = "(other)";
/// Stands for the server of requests that are about none.
pub const NO_SERVER: &str = "-";
/// The parts of the time a request takes.
pub const PARTS: [&str; 2] = ["gateway", "upstream"];

/// Says whether a server's list has this tool.
pub type IsListed = dyn Fn(&ServerId, &ToolName) -> bool + Send + Sync;

/// The metrics that have a series for each server, and for each tool.
#[derive(Clone)]
pub(super) struct Families {
    pub requests: IntCounterVec,
    pub seconds: HistogramVec,
    pub tool_calls: IntCounterVec,
    pub tool_seconds: HistogramVec,
}

/// The series of all requests so far.
pub struct Calls {
    families: Families,
    is_listed: OnceLock<Box<IsListed>>,
    no_server: OfServer,
    servers: ArcSwap<HashMap<ServerId, Arc<OfServer>>>,
    /// Held by who makes or removes series; nobody waits for it whose series are there.
    changing: Mutex<()>,
}

/// The series of one server.
struct OfServer {
    requests: ArcSwap<Vec<((&'static str, Outcome), IntCounter)>>,
    gateway: Histogram,
    upstream: OnceLock<Histogram>,
    tools: ArcSwap<HashMap<ToolName, Arc<OfTool>>>,
    other: OnceLock<OfTool>,
    /// Tools that have or had series.
    named: Mutex<HashSet<ToolName>>,
}

/// The series of one tool.
struct OfTool {
    outcomes: [OnceLock<IntCounter>; Outcome::ALL.len()],
    gateway: Histogram,
    upstream: OnceLock<Histogram>,
}

impl Calls {
    pub(super) fn new(families: Families) -> Self {
        let no_server = OfServer::new(&families, NO_SERVER);
        Self {
            families,
            is_listed: OnceLock::new(),
            no_server,
            servers: ArcSwap::default(),
            changing: Mutex::new(()),
        }
    }

    /// Has this asked whether a server's list has a tool; before, none has. Only the first one counts.
    pub fn ask_whether_listed(&self, is_listed: Box<IsListed>) {
        drop(self.is_listed.set(is_listed));
    }

    /// Counts a request that has ended.
    pub(super) fn count(&self, record: &Record, timing: Timing) {
        let Some(id) = &record.server else {
            return self.count_at(&self.no_server, NO_SERVER, record, timing);
        };
        let servers = self.servers.load();
        match servers.get(id) {
            Some(server) => self.count_at(server, id.as_str(), record, timing),
            None => self.count_at(&self.add_server(id), id.as_str(), record, timing),
        }
    }

    fn count_at(&self, server: &OfServer, name: &str, record: &Record, timing: Timing) {
        server.count_request(&self.families, name, record);
        server.gateway.observe(timing.gateway().as_secs_f64());
        observe_upstream(&server.upstream, &self.families.seconds, &[name, PARTS[1]], timing.upstream);
        let (Some(id), Some(tool)) = (&record.server, &record.tool) else { return };
        let tools = server.tools.load();
        if let Some(series) = tools.get(tool) {
            return series.count(&self.families, [name, tool.as_str()], record.outcome(), timing);
        }
        match self.add_tool(server, id, tool) {
            Some(series) => series.count(&self.families, [name, tool.as_str()], record.outcome(), timing),
            None => {
                let other = server.other.get_or_init(|| OfTool::new(&self.families, [name, OTHER]));
                other.count(&self.families, [name, OTHER], record.outcome(), timing);
            }
        }
    }

    fn add_server(&self, id: &ServerId) -> Arc<OfServer> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = self.servers.load().get(id) {
            return server.clone();
        }
        let server = Arc::new(OfServer::new(&self.families, id.as_str()));
        let mut servers = HashMap::clone(&self.servers.load());
        servers.insert(id.clone(), server.clone());
        self.servers.store(Arc::new(servers));
        server
    }

    /// Gives a tool series of its own, where it may have some.
    fn add_tool(&self, server: &OfServer, id: &ServerId, tool: &ToolName) -> Option<Arc<OfTool>> {
        if !self.is_listed(id, tool) {
            return None;
        }
        let mut named = server.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = server.tools.load().get(tool) {
            return Some(series.clone());
        }
        if !named.contains(tool) {
            if named.len() >= TOOLS_PER_SERVER {
                return None;
            }
            named.insert(tool.clone());
        }
        let series = Arc::new(OfTool::new(&self.families, [id.as_str(), tool.as_str()]));
        let mut tools = HashMap::clone(&server.tools.load());
        tools.insert(tool.clone(), series.clone());
        server.tools.store(Arc::new(tools));
        Some(series)
    }

    /// Whether the server's list has this tool.
    pub fn is_listed(&self, id: &ServerId, tool: &ToolName) -> bool {
        self.is_listed.get().is_some_and(|is_listed| is_listed(id, tool))
    }

    /// Removes the series of tools that are on no list any more.
    pub fn forget_unlisted_tools(&self) {
        for (id, server) in self.servers.load().iter() {
            let _named = server.named.lock().unwrap_or_else(PoisonError::into_inner);
            let tools = server.tools.load();
            let is_gone = |tool: &&ToolName| !self.is_listed(id, tool);
            let gone: Vec<_> = tools.keys().filter(is_gone).cloned().collect();
            if gone.is_empty() {
                continue;
            }
            let mut left = HashMap::clone(&tools);
            for tool in &gone {
                left.remove(tool);
                self.remove_tool(id.as_str(), tool.as_str());
            }
            server.tools.store(Arc::new(left));
        }
    }

    /// Removes the series of servers that are none any more.
    pub fn forget_servers(&self, is_gone: impl Fn(&ServerId) -> bool) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let servers = self.servers.load();
        if !servers.keys().any(&is_gone) {
            return;
        }
        let mut left = HashMap::clone(&servers);
        left.retain(|id, server| {
            let stays = !is_gone(id);
            if !stays {
                self.remove_server(id.as_str(), server);
            }
            stays
        });
        self.servers.store(Arc::new(left));
    }

    fn remove_server(&self, id: &str, server: &OfServer) {
        for ((route, outcome), _) in server.requests.load().iter() {
            drop(self.families.requests.remove_label_values(&[route, id, outcome.as_str()]));
        }
        for part in PARTS {
            drop(self.families.seconds.remove_label_values(&[id, part]));
        }
        for tool in server.tools.load().keys() {
            self.remove_tool(id, tool.as_str());
        }
        self.remove_tool(id, OTHER);
    }

    /// Errors mean that there was none.
    fn remove_tool(&self, server: &str, tool: &str) {
        for outcome in Outcome::ALL {
            drop(self.families.tool_calls.remove_label_values(&[server, tool, outcome.as_str()]));
        }
        for part in PARTS {
            drop(self.families.tool_seconds.remove_label_values(&[server, tool, part]));
        }
    }
}

impl OfServer {
    fn new(families: &Families, name: &str) -> Self {
        Self {
            requests: ArcSwap::default(),
            gateway: families.seconds.with_label_values(&[name, PARTS[0]]),
            upstream: OnceLock::new(),
            tools: ArcSwap::default(),
            other: OnceLock::new(),
            named: Mutex::default(),
        }
    }

    fn count_request(&self, families: &Families, name: &str, record: &Record) {
        let key = (record.route, record.outcome());
        let known = self.requests.load();
        if let Some((_, counter)) = known.iter().find(|(known, _)| *known == key) {
            return counter.inc();
        }
        let counter = families.requests.with_label_values(&[record.route, name, key.1.as_str()]);
        counter.inc();
        self.requests.rcu(|known| {
            let mut more = Vec::clone(known);
            if !more.iter().any(|(known, _)| *known == key) {
                more.push((key, counter.clone()));
            }
            more
        });
    }
}

impl OfTool {
    fn new(families: &Families, [server, tool]: [&str; 2]) -> Self {
        let gateway = families.tool_seconds.with_label_values(&[server, tool, PARTS[0]]);
        Self { outcomes: Default::default(), gateway, upstream: OnceLock::new() }
    }

    fn count(&self, families: &Families, [server, tool]: [&str; 2], outcome: Outcome, timing: Timing) {
        let make = || families.tool_calls.with_label_values(&[server, tool, outcome.as_str()]);
        self.outcomes[outcome as usize].get_or_init(make).inc();
        self.gateway.observe(timing.gateway().as_secs_f64());
        let labels = [server, tool, PARTS[1]];
        observe_upstream(&self.upstream, &families.tool_seconds, &labels, timing.upstream);
    }
}

/// Counts the upstream's time, where anything was sent to it.
fn observe_upstream(series: &OnceLock<Histogram>, family: &HistogramVec, labels: &[&str], took: Duration) {
    if !took.is_zero() {
        series.get_or_init(|| family.with_label_values(labels)).observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Recorder, access_log::AccessLog, metrics::Metrics};

    /// Metrics, and the tools that are on lists: all whose names do not begin with `x`, but for these.
    fn metrics() -> (Arc<Metrics>, Arc<Mutex<HashSet<String>>>) {
        let metrics = Arc::new(Metrics::new().unwrap());
        let unlisted: Arc<Mutex<HashSet<String>>> = Arc::default();
        let gone = unlisted.clone();
        let is_listed = move |_: &ServerId, tool: &ToolName| {
            !tool.as_str().starts_with('x') && !gone.lock().unwrap().contains(tool.as_str())
        };
        metrics.calls.ask_whether_listed(Box::new(is_listed));
        (metrics, unlisted)
    }

    fn call(metrics: &Arc<Metrics>, server: &str, tool: &str, outcome: Outcome) {
        let recorder = Recorder {
            metrics: metrics.clone(),
            access_log: AccessLog::new(false).unwrap().0,
            audit: crate::record::audit::Audit::default(),
            tracer: None,
        };
        let mut record = Record::begin(recorder);
        record.route = "call";
        record.server = Some(ServerId::parse(server).unwrap());
        record.tool = ToolName::parse(tool).ok();
        record.depart();
        record.arrive_back();
        record.end_as(outcome);
    }

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render().unwrap()).unwrap()
    }

    #[track_caller]
    fn has(metrics: &Metrics, line: &str) {
        let text = text(metrics);
        assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
    }

    #[test]
    fn a_call_is_counted_for_its_server_and_its_tool() {
        let (metrics, _) = metrics();
        for outcome in [Outcome::ToolAnswered, Outcome::ToolError, Outcome::ToolError, Outcome::PeerFailed] {
            call(&metrics, "github", "search", outcome);
        }
        let tool = |outcome, count| {
            format!(
                "portcullis_tool_calls_total{{outcome=\"{outcome}\",server=\"github\",tool=\"search\"}} {count}"
            )
        };
        has(&metrics, &tool("tool_answered", 1));
        has(&metrics, &tool("tool_error", 2));
        has(&metrics, &tool("peer_failed", 1));
        has(&metrics, "portcullis_tool_seconds_count{part=\"upstream\",server=\"github\",tool=\"search\"} 4");
        has(&metrics, "portcullis_request_seconds_count{part=\"gateway\",server=\"github\"} 4");
        has(&metrics, "portcullis_requests_total{outcome=\"tool_error\",route=\"call\",server=\"github\"} 2");
    }

    #[test]
    fn names_that_are_on_no_list_add_no_series() {
        let (metrics, _) = metrics();
        call(&metrics, "github", "x0", Outcome::ToolError);
        let before = text(&metrics).lines().count();
        for number in 1..2000 {
            call(&metrics, "github", &format!("x{number}"), Outcome::ToolError);
        }
        assert_eq!(text(&metrics).lines().count(), before);
        has(
            &metrics,
            "portcullis_tool_calls_total{outcome=\"tool_error\",server=\"github\",tool=\"(other)\"} 2000",
        );
    }

    #[test]
    fn a_server_that_invents_tools_has_series_for_so_many_of_them_and_no_more() {
        let (metrics, unlisted) = metrics();
        for number in 0..2 * TOOLS_PER_SERVER {
            call(&metrics, "github", &format!("a{number}"), Outcome::ToolAnswered);
            unlisted.lock().unwrap().insert(format!("a{number}"));
            metrics.calls.forget_unlisted_tools();
        }
        let text = text(&metrics);
        let series = text.lines().filter(|line| line.starts_with("portcullis_tool_calls_total"));
        let lines: Vec<_> = series.collect();
        let other =
            "portcullis_tool_calls_total{outcome=\"tool_answered\",server=\"github\",tool=\"(other)\"} 256";
        assert_eq!(lines, [other]);
        // One that was counted before may come back.
        unlisted.lock().unwrap().clear();
        call(&metrics, "github", "a1", Outcome::ToolAnswered);
        has(
            &metrics,
            "portcullis_tool_calls_total{outcome=\"tool_answered\",server=\"github\",tool=\"a1\"} 1",
        );
    }

    #[test]
    fn a_server_that_is_gone_takes_all_its_series_along() {
        let (metrics, _) = metrics();
        call(&metrics, "github", "search", Outcome::ToolAnswered);
        call(&metrics, "github", "x", Outcome::Refused);
        call(&metrics, "linear", "search", Outcome::ToolAnswered);
        metrics.calls.forget_servers(|id| id.as_str() == "github");
        let text = text(&metrics);
        assert!(!text.contains("github") && text.contains("linear"), "{text}");
    }
}
