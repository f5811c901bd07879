//! The dashboard, the alerts and their pages match the metrics, and each other.
//!
//! What promtool and Prometheus say of them is in `tests/e2e/figures`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use portcullis::record::metrics::{Declared, Metrics};
use serde_json::Value;

const DASHBOARD: &str = include_str!("../../conf/grafana/portcullis.json");
const ALERTS: &str = include_str!("../../conf/prometheus/alerts.yml");
const TESTS: &str = include_str!("../../conf/prometheus/alerts_test.yml");
const RUNBOOKS: &str = "conf/prometheus/runbooks";

/// Labels that Prometheus itself puts on series, and that functions make.
const OF_PROMETHEUS: [&str; 4] = ["job", "instance", "alertname", "alertstate"];
/// Series that are Prometheus' own.
const ITS_OWN: [&str; 2] = ["up", "ALERTS"];

/// The names of the series, with their labels.
fn series() -> BTreeMap<String, BTreeSet<String>> {
    let mut series = BTreeMap::new();
    for Declared { name, kind, labels, .. } in Metrics::new().unwrap().declared() {
        let mut labels: BTreeSet<_> = labels.iter().cloned().collect();
        labels.extend(OF_PROMETHEUS.map(str::to_owned));
        if *kind == "histogram" {
            for part in ["_sum", "_count"] {
                series.insert(format!("{name}{part}"), labels.clone());
            }
            labels.insert("le".to_owned());
            series.insert(format!("{name}_bucket"), labels);
        } else {
            series.insert(name.clone(), labels);
        }
    }
    for own in ITS_OWN {
        series.insert(own.to_owned(), OF_PROMETHEUS.map(str::to_owned).into());
    }
    series
}

/// The words of an expression outside its quotes, each with what comes right behind it.
fn words(expression: &str) -> Vec<(&str, &str)> {
    let (mut words, mut start, mut is_quoted) = (Vec::new(), None, false);
    for (at, letter) in expression.char_indices().chain([(expression.len(), ' ')]) {
        is_quoted ^= letter == '"';
        let is_letter = !is_quoted && (letter.is_ascii_alphanumeric() || letter == '_' || letter == '$');
        match (start, is_letter) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                words.push((&expression[from..at], expression[at..].trim_start()));
                start = None;
            }
            _ => {}
        }
    }
    words
}

/// What an expression names that is not declared.
fn problems(expression: &str, series: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let is_series = |word: &str| {
        word.starts_with("portcullis_") || word.starts_with("process_") || ITS_OWN.contains(&word)
    };
    // The audit is declared by those who build it: once it is, all of it has to be.
    let has_audit = series.keys().any(|name| name.starts_with("portcullis_audit_"));
    let mut problems = Vec::new();
    let mut known = BTreeSet::new();
    let all = words(expression);
    for (word, behind) in &all {
        if !is_series(word) {
            continue;
        }
        let Some(labels) = series.get(*word) else {
            if has_audit || !word.starts_with("portcullis_audit_") {
                problems.push(format!("`{word}` is no series"));
            }
            continue;
        };
        known.extend(labels.iter().cloned());
        let selector = behind
            .strip_prefix('{')
            .and_then(|inside| inside.split_once('}'))
            .map_or("", |(inside, _)| inside);
        for (label, operator) in words(selector) {
            if operator.starts_with(['=', '!']) && !labels.contains(label) {
                problems.push(format!("`{word}` has no label `{label}`"));
            }
        }
    }
    for (word, behind) in &all {
        let is_grouping = ["by", "on", "ignoring", "without"].contains(word);
        let Some((inside, _)) = behind.strip_prefix('(').and_then(|inside| inside.split_once(')')) else {
            continue;
        };
        if is_grouping && !known.is_empty() {
            let strange = words(inside).into_iter().filter(|(label, _)| !known.contains(*label));
            problems.extend(strange.map(|(label, _)| format!("nothing in it has a label `{label}`")));
        }
    }
    problems
}

#[track_caller]
fn check<'e>(expressions: impl IntoIterator<Item = &'e str>) {
    let series = series();
    let mut found = Vec::new();
    for expression in expressions {
        found.extend(
            problems(expression, &series).into_iter().map(|problem| format!("{problem}: {expression}")),
        );
    }
    assert!(
        found.is_empty(),
        "declare it in src/record/metrics.rs, or name what is declared there\n{}",
        found.join("\n")
    );
}

/// The values of a key in a file that has it once a line.
fn values<'t>(text: &'t str, key: &str) -> Vec<&'t str> {
    let values = text.lines().filter_map(|line| line.trim_start().trim_start_matches("- ").strip_prefix(key));
    values.map(|value| value.trim().trim_matches('\'')).collect()
}

/// Every string of a key, wherever it stands.
fn strings<'j>(json: &'j Value, key: &str, found: &mut Vec<&'j str>) {
    match json {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == key => found.push(text),
                    _ => strings(member, key, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| strings(item, key, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_asks_for_what_is_declared() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let (mut expressions, mut queries) = (Vec::new(), Vec::new());
    strings(&dashboard, "expr", &mut expressions);
    strings(&dashboard["templating"], "query", &mut queries);
    assert!(expressions.len() > 50 && queries.len() > 3, "{} and {}", expressions.len(), queries.len());
    // `label_values(series{…}, label)` asks for that label of it.
    let selectors = queries
        .iter()
        .filter_map(|query| query.strip_prefix("label_values(")?.rsplit_once(','))
        .map(|(series, _)| series);
    check(expressions.iter().copied().chain(selectors));
}

#[test]
fn whoever_imports_the_dashboard_chooses_their_prometheus() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut sources = Vec::new();
    strings(&dashboard["panels"], "uid", &mut sources);
    assert!(sources.iter().all(|source| *source == "${datasource}"), "{sources:?}");
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
    assert!(
        panels
            .iter()
            .all(|panel| panel["gridPos"]["x"].as_u64().unwrap() + panel["gridPos"]["w"].as_u64().unwrap()
                <= 24)
    );
}

#[test]
fn the_alerts_ask_for_what_is_declared() {
    check(values(ALERTS, "expr:"));
}

#[test]
fn every_alert_has_its_page_its_tests_and_nothing_else_has() {
    let alerts = values(ALERTS, "alert:");
    let pages: BTreeSet<_> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(RUNBOOKS))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        pages,
        alerts.iter().map(|alert| format!("{alert}.md")).collect(),
        "alerts.yml and {RUNBOOKS}"
    );
    let urls: Vec<_> = alerts.iter().map(|alert| format!("{RUNBOOKS}/{alert}.md")).collect();
    assert_eq!(values(ALERTS, "runbook_url:"), urls);
    let mut tried: BTreeMap<_, BTreeSet<bool>> = BTreeMap::new();
    for (_, test) in TESTS.split("alertname: ").skip(1).map(|test| ("", test)) {
        let (name, rest) = test.split_once('\n').unwrap();
        tried.entry(name).or_default().insert(!rest.trim_start().starts_with("exp_alerts: []"));
    }
    for alert in &alerts {
        let tried = tried.remove(alert).unwrap_or_default();
        assert_eq!(tried.len(), 2, "alerts_test.yml: {alert} has to fire once and to stay quiet once");
    }
    assert!(tried.is_empty(), "alerts_test.yml tests what is no alert: {tried:?}");
}

#[test]
fn every_page_says_what_its_alert_asks_and_what_to_do() {
    let rules = values(ALERTS, "alert:").into_iter().zip(values(ALERTS, "expr:"));
    let known = series();
    for (alert, expression) in rules {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(RUNBOOKS).join(format!("{alert}.md"));
        let page = fs::read_to_string(path).unwrap();
        assert!(
            page.starts_with(&format!("# {alert}\n")) && page.contains(&format!("`{expression}`")),
            "{alert}.md is of another rule"
        );
        let parts: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(parts, ["What it means", "What users see", "Look at", "Do"], "{alert}.md");
        let others = page.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
        let dead: Vec<_> = others
            .filter(|target| !Path::new(env!("CARGO_MANIFEST_DIR")).join(RUNBOOKS).join(target).is_file())
            .collect();
        assert!(dead.is_empty(), "{alert}.md: {dead:?}");
        let code: Vec<_> = page.split('`').skip(1).step_by(2).collect();
        let wrong: Vec<_> = code.iter().flat_map(|code| problems(&code.replace('\n', " "), &known)).collect();
        assert!(wrong.is_empty(), "{alert}.md: {wrong:?}");
    }
}

#[test]
fn an_expression_that_asks_for_something_else_is_found() {
    let known = series();
    let count = |expression| problems(expression, &known).len();
    assert_eq!(count("sum by (server) (rate(portcullis_tool_calls_total{outcome=\"a\"}[5m]))"), 0);
    assert_eq!(count("rate(portcullis_tool_calls_total{outcom=\"a\"}[5m])"), 1);
    assert_eq!(count("portcullis_tool_call_total > 0"), 1);
    assert_eq!(count("sum by (servers) (portcullis_tools)"), 1);
    assert_eq!(count("portcullis_tools{server=\"portcullis_nothing\"}"), 0);
    assert_eq!(count("portcullis_request_seconds > 0"), 1);
}
