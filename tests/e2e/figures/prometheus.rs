//! The shipped rules: right in the eyes of promtool, and true to a real Prometheus beside a gateway with a real fault.

use std::{collections::BTreeSet, path::Path};

use serde_json::json;

use super::simple;
use crate::harness::{
    deadline::until,
    grants::CALLER,
    prometheus::{Prometheus, promtool},
    tokens::email_token,
};

const RULES: &str = "conf/prometheus/alerts.yml";
const TESTS: &str = "conf/prometheus/alerts_test.yml";

#[tokio::test]
async fn promtool_finds_the_rules_right() {
    let said = promtool(&["check", "rules", RULES], "").await;
    assert!(said.contains("SUCCESS"), "{said}");
    promtool(&["check", "config", "conf/prometheus/prometheus.yml"], "").await;
}

#[tokio::test]
async fn every_alert_fires_when_it_should_and_not_when_it_should_not() {
    let said = promtool(&["test", "rules", TESTS], "").await;
    assert!(said.contains("SUCCESS"), "{said}");
}

/// The rules with all their patience taken away, so that a test need not wait for minutes.
fn impatient_rules(folder: &Path) -> std::path::PathBuf {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(RULES)).unwrap();
    let is_patience = |line: &&str| !line.trim_start().starts_with("for: ");
    let file = folder.join("alerts.yml");
    std::fs::write(&file, text.lines().filter(is_patience).collect::<Vec<_>>().join("\n")).unwrap();
    file
}

#[tokio::test]
async fn a_real_prometheus_scrapes_the_gateway_and_tells_a_real_fault() {
    let (gateway, peer, _grants) = simple(|setup| setup).await;
    assert_eq!(gateway.call("/alpha/search", &email_token(CALLER), &json!({})).await.status, 200);
    let folder = tempfile::tempdir().unwrap();
    let ops = gateway.ops_url("");
    let prometheus =
        Prometheus::scraping(ops.trim_start_matches("http://"), &[impatient_rules(folder.path())]).await;
    until("the call in Prometheus", || async {
        let expression =
            "portcullis_tool_calls_total{server=\"alpha\",tool=\"search\",outcome=\"tool_answered\"}";
        (prometheus.ask(expression).await.first()?["value"][1] == "1").then_some(())
    })
    .await;
    // Before the first scrape there was no gateway to be seen.
    until("no alert about a gateway that is well", || async {
        prometheus.ask("ALERTS{alertstate=\"firing\"}").await.is_empty().then_some(())
    })
    .await;

    drop(peer);
    for _ in 0..4 {
        assert_eq!(gateway.call("/alpha/search", &email_token(CALLER), &json!({})).await.status, 502);
    }
    std::fs::write(gateway.folder.path().join("gateway.toml"), "nonsense = ").unwrap();
    let fired = prometheus.fires("PortcullisServerDown").await;
    assert_eq!(fired["server"], "alpha");
    prometheus.fires("PortcullisConfigReloadFailed").await;
    let names: BTreeSet<_> = prometheus
        .ask("ALERTS{alertstate=\"firing\"}")
        .await
        .iter()
        .map(|alert| alert["metric"]["alertname"].as_str().unwrap().to_owned())
        .collect();
    let expected = ["PortcullisConfigReloadFailed", "PortcullisServerDown", "PortcullisServerFailing"];
    assert!(names.iter().all(|name| expected.contains(&&**name)), "{names:?}");

    drop(gateway);
    prometheus.fires("PortcullisDown").await;
}
