//! Prometheus and its tool, as Debian ships them: real ones, beside the gateway.

use std::{path::PathBuf, process::Stdio};

use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

use super::{
    deadline::{until, within},
    gateway::{Answer, client},
    port::Port,
    postgres::given,
};

/// A program of the folder that `scripts/prepare prometheus` found or made.
fn program(name: &str) -> Command {
    Command::new(PathBuf::from(given("PORTCULLIS_TEST_PROMETHEUS")).join(name))
}

/// Runs `promtool`, with this on its standard input; its talk, where it found nothing wrong.
pub async fn promtool(arguments: &[&str], input: &str) -> String {
    let mut command = program("promtool");
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!("promtool cannot be run ({error}): `scripts/prepare prometheus` gets it")
    });
    let mut stdin = child.stdin.take().unwrap();
    let written = async { stdin.write_all(input.as_bytes()).await.map(|()| drop(stdin)) };
    let (_, output) =
        within("the end of promtool", async { tokio::join!(written, child.wait_with_output()) }).await;
    let output = output.unwrap();
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}\n{said}");
    said
}

/// What `promtool check metrics` finds wrong with a scrape is nothing.
pub async fn check_metrics(text: &str) {
    let said = promtool(&["check", "metrics"], text).await;
    assert_eq!(said.trim(), "", "promtool check metrics");
}

/// A Prometheus that scrapes one target every half second. It is killed when this is dropped.
pub struct Prometheus {
    port: Port,
    client: reqwest::Client,
    _folder: tempfile::TempDir,
    _process: Child,
}

impl Prometheus {
    /// Scrapes this address, and evaluates these files of rules.
    pub async fn scraping(address: &str, rules: &[PathBuf]) -> Self {
        let (port, folder) = (Port::take(), tempfile::tempdir().unwrap());
        let rules: Vec<_> = rules.iter().map(|path| path.display().to_string()).collect();
        // JSON is YAML.
        let config = serde_json::json!({
            "global": {"scrape_interval": "500ms", "scrape_timeout": "400ms", "evaluation_interval": "500ms"},
            "rule_files": rules,
            "scrape_configs": [{"job_name": "portcullis", "static_configs": [{"targets": [address]}]}],
        });
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut command = program("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={}", port.address())).arg("--log.level=warn");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().unwrap_or_else(|error| {
            panic!("prometheus cannot be run ({error}): `scripts/prepare prometheus` gets it")
        });
        let prometheus = Self { port, client: client(), _folder: folder, _process: process };
        until("a Prometheus that answers", || async {
            let asked = prometheus.client.get(prometheus.url("/-/ready")).send().await;
            asked.is_ok_and(|answer| answer.status() == 200).then_some(())
        })
        .await;
        prometheus
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.port.address())
    }

    /// What an expression gives now.
    pub async fn ask(&self, expression: &str) -> Vec<Value> {
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("query", expression).finish();
        let asked = self.client.get(self.url(&format!("/api/v1/query?{query}"))).send();
        let answer = Answer::read(within("an answer of Prometheus", asked).await.unwrap()).await.json();
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        match answer["data"]["result"].as_array() {
            Some(result) => result.clone(),
            None => vec![answer["data"].clone()],
        }
    }

    /// Returns once this alert fires: its labels.
    pub async fn fires(&self, alert: &str) -> Value {
        until(&format!("the alert {alert}"), || async {
            let expression = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}");
            Some(self.ask(&expression).await.first()?["metric"].clone())
        })
        .await
    }
}
