//! A collector of OpenTelemetry: `tests/traces/collector.py`, which takes spans apart with the official definitions.

use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::process::Command;

use super::{
    deadline::{until, within},
    gateway::{Answer, Setup, client},
    mcp::Server,
    port::Port,
    postgres::given,
};

/// `tests/traces/NAME`, run by Python with OpenTelemetry's SDK.
pub fn python(name: &str) -> Command {
    let mut command = Command::new(PathBuf::from(given("PORTCULLIS_TEST_OTEL")).join("bin/python"));
    command.arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/traces").join(name));
    command
}

/// The collector. It is killed when this is dropped.
pub struct Collector {
    server: Server,
    client: reqwest::Client,
}

/// All spans of one trace that have been told.
#[derive(Debug, Clone)]
pub struct Trace(pub Vec<Value>);

impl Collector {
    pub async fn start() -> Self {
        Self::on(Port::take()).await
    }

    pub async fn on(port: Port) -> Self {
        let server = Server::start_on(port, |port| {
            let mut command = python("collector.py");
            command.arg(port.number().to_string());
            command
        });
        Self { server: server.await, client: client() }
    }

    /// What a gateway is told of it.
    pub fn url(&self) -> String {
        self.server.url("").trim_end_matches('/').to_owned()
    }

    /// Does with the messages that come what `tests/traces/collector.py` says of this.
    pub async fn behave(&self, how: Value) {
        let sent = self.client.post(self.server.url("/behave")).body(how.to_string()).send();
        within("the collector's own page", sent).await.unwrap();
    }

    /// Forgets the spans so far.
    pub async fn forget(&self) {
        within("the collector's own page", self.client.post(self.server.url("/forget")).send())
            .await
            .unwrap();
    }

    /// Everything it was told. Panics where that breaks a rule.
    pub async fn told(&self) -> Value {
        let sent = self.client.get(self.server.url("/spans")).send();
        let told = Answer::read(within("the collector's own page", sent).await.unwrap()).await.json();
        assert_eq!(told["problems"], json!([]), "spans that break the rules");
        told
    }

    pub async fn spans(&self) -> Vec<Value> {
        self.told().await["spans"].as_array().unwrap().clone()
    }

    /// The spans of this trace, once the gateway's own of it are there: those of one request come together.
    #[track_caller]
    pub fn trace(&self, id: &str) -> impl Future<Output = Trace> {
        self.trace_of(id, 1)
    }

    /// The same of a trace with so many requests.
    #[track_caller]
    pub fn trace_of(&self, id: &str, requests: usize) -> impl Future<Output = Trace> {
        let what = format!("{requests} requests of trace {id}");
        async move {
            until(&what, || async {
                let mut spans = self.spans().await;
                spans.retain(|span| span["trace"] == *id);
                let is_request = |span: &&Value| span["kind"] == "SERVER" && span["scope"] == "portcullis";
                (spans.iter().filter(is_request).count() == requests).then_some(Trace(spans))
            })
            .await
        }
    }

    pub async fn kill(self) -> Port {
        self.server.kill().await
    }
}

impl Setup {
    /// Has every request traced, to this collector.
    pub fn traced(self, collector: &Collector) -> Self {
        self.set("traces.endpoint", collector.url())
    }
}

impl Trace {
    /// The gateway's span of the one request.
    #[track_caller]
    pub fn request(&self) -> &Value {
        let [request] = self.of_kind("SERVER")[..] else { panic!("not one request: {:#?}", self.0) };
        request
    }

    /// The gateway's spans of this kind, in the order they began.
    pub fn of_kind(&self, kind: &str) -> Vec<&Value> {
        let is_it = |span: &&Value| span["kind"] == kind && span["scope"] == "portcullis";
        let mut spans: Vec<_> = self.0.iter().filter(is_it).collect();
        spans.sort_by_key(|span| span["start"].as_u64());
        spans
    }

    /// The one try.
    #[track_caller]
    pub fn one_try(&self) -> &Value {
        let [one] = self.of_kind("CLIENT")[..] else { panic!("not one try: {:#?}", self.0) };
        one
    }

    /// The names of the steps.
    pub fn steps(&self) -> Vec<&str> {
        self.of_kind("INTERNAL").iter().map(|span| span["name"].as_str().unwrap()).collect()
    }
}

/// An id of a trace that nobody else has in a test, and what its client says in `traceparent`.
pub fn parent(number: u32, flags: &str) -> (String, String) {
    let id = format!("4bf92f3577b34da6a3ce929d{number:08x}");
    let said = format!("00-{id}-00f067aa0ba902b7-{flags}");
    (id, said)
}

/// The client's span in [`parent`].
pub const ASKING: &str = "00f067aa0ba902b7";

/// What goes along with a try, as the gateway told of it.
pub fn carried(span: &Value, flags: &str) -> String {
    format!("00-{}-{}-{flags}", span["trace"].as_str().unwrap(), span["id"].as_str().unwrap())
}
