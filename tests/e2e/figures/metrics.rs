//! `/metrics` as text after known traffic, and after traffic that was made to fill it.

use std::{collections::BTreeSet, time::Duration};

use portcullis::record::metrics::Metrics as Declared;
use reqwest::Method;
use serde_json::json;

use super::{Scene, simple};
use crate::{
    harness::{
        deadline::until,
        fake_peer::FakePeer,
        gateway::{Answer, Metrics},
        grants::{CALLER, STRANGER},
        prometheus::check_metrics,
        tokens::email_token,
    },
    served::client::Era,
};

/// The series of a metric, one line each, without the values.
fn series(text: &str, name: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

/// All of these lines are there, word for word; waited for, because an answer is told before it is counted.
async fn has(scene: &Scene, lines: &[&str]) {
    let text = async || scene.gateway().metrics().await.0;
    let is_there = |text: &str, line: &str| text.lines().any(|known| known == line);
    let all = until("the lines", async || {
        let text = text().await;
        lines.iter().all(|line| is_there(&text, line)).then_some(())
    });
    if tokio::time::timeout(Duration::from_secs(10), all).await.is_err() {
        let text = text().await;
        let missing: Vec<_> = lines.iter().filter(|line| !is_there(&text, line)).collect();
        panic!("not in /metrics: {missing:#?}\n{text}");
    }
}

#[tokio::test]
async fn known_traffic_is_told_as_text() {
    let scene = Scene::start(|setup| {
        let gone = toml::Table::from_iter([("calls".to_owned(), "1/min".into())]);
        setup.server("gone", "http://127.0.0.1:9").server_with("few", "http://127.0.0.1:9", gone)
    })
    .await;
    let gateway = scene.gateway();
    for status in [scene.call("/alpha/search").await, scene.call("/alpha/search").await] {
        assert_eq!(status, 200);
    }
    assert_eq!(scene.call("/alpha/refuse").await, 422);
    assert_eq!(scene.call("/alpha/garble").await, 502);
    assert_eq!(scene.call("/alpha/nothing").await, 404);
    assert_eq!(gateway.call("/alpha/search", "no.such.token", &json!({})).await.status, 401);
    assert_eq!(gateway.call("/alpha/search", &email_token(STRANGER), &json!({})).await.status, 403);
    scene.call_native_on_every_face("test_error_handling").await;
    scene.call_native_on_every_face("test_simple_text").await;
    has(&scene, &[
        r#"portcullis_requests_total{outcome="tool_answered",route="call",server="alpha"} 2"#,
        r#"portcullis_requests_total{outcome="tool_error",route="call",server="alpha"} 1"#,
        r#"portcullis_requests_total{outcome="peer_failed",route="call",server="alpha"} 1"#,
        r#"portcullis_requests_total{outcome="refused",route="call",server="-"} 1"#,
        r#"portcullis_tool_calls_total{outcome="tool_answered",server="alpha",tool="search"} 2"#,
        r#"portcullis_tool_calls_total{outcome="tool_error",server="alpha",tool="refuse"} 1"#,
        r#"portcullis_tool_calls_total{outcome="peer_failed",server="alpha",tool="garble"} 1"#,
        // By REST, by native MCP of both eras, and by `/mcp` of both: the tool's no is no failure of its server.
        r#"portcullis_tool_calls_total{outcome="tool_error",server="native",tool="test_error_handling"} 5"#,
        r#"portcullis_tool_calls_total{outcome="tool_answered",server="native",tool="test_simple_text"} 5"#,
        r#"portcullis_tool_seconds_count{part="gateway",server="alpha",tool="search"} 2"#,
        r#"portcullis_tool_seconds_count{part="upstream",server="alpha",tool="search"} 2"#,
        r#"portcullis_tool_seconds_bucket{part="upstream",server="alpha",tool="search",le="+Inf"} 2"#,
        r#"portcullis_request_seconds_count{part="upstream",server="alpha"} 4"#,
        r#"portcullis_refusals_total{code="unknown_tool"} 1"#,
        r#"portcullis_refusals_total{code="not_granted"} 1"#,
        r#"portcullis_refusals_total{code="invalid_credential"} 1"#,
        r#"portcullis_refusals_total{code="peer_bad_answer"} 1"#,
        r#"portcullis_refusals_total{code="overloaded"} 0"#,
        r#"portcullis_credentials_refused_total{reason="unrecognised"} 1"#,
        r#"portcullis_peers{server="alpha",state="known"} 1"#,
        r#"portcullis_servers{state="on"} 4"#,
        r#"portcullis_grant_subjects{kind="users"} 2"#,
        "portcullis_requests_in_flight 0",
        "portcullis_open_streams 0",
        "portcullis_ready 1",
        "portcullis_database_up 1",
        "portcullis_draining 0",
        &format!("portcullis_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
    ])
    .await;
    let text = gateway.metrics().await.0;
    assert!(!text.contains("idle"), "a tool that nobody called has series");
    let connections = |how| {
        Metrics(text.clone()).sum("portcullis_peer_connections_total", &[("server", "alpha"), ("how", how)])
    };
    let (made, reused) = (connections("made"), connections("reused"));
    assert!(
        made >= 1.0 && reused >= 1.0 && made + reused == 4.0,
        "{made} made and {reused} reused by 4 calls"
    );
    assert!(Metrics(text.clone()).sum("process_resident_memory_bytes", &[]) > 1e6);
    check_metrics(&text).await;
    let declared: BTreeSet<_> =
        Declared::new().unwrap().declared().iter().map(|metric| metric.name.clone()).collect();
    let told: BTreeSet<_> = text
        .lines()
        .filter_map(|line| Some(line.strip_prefix("# TYPE ")?.split_once(' ')?.0.to_owned()))
        .collect();
    assert!(told.is_subset(&declared), "not declared: {:?}", told.difference(&declared));
}

#[tokio::test]
async fn a_limit_and_a_lost_peer_are_counted_by_their_words() {
    let (gateway, peer, _grants) =
        simple(|setup| setup.set("limits.calls_per_caller", "2/min, burst 2")).await;
    let call =
        || async { gateway.call("/alpha/search", &email_token(CALLER), &json!({})).await.status.as_u16() };
    drop(peer);
    assert_eq!([call().await, call().await, call().await], [502, 502, 429]);
    gateway.await_metric("portcullis_refusals_total", &[("code", "too_many_requests")], 1).await;
    let text = gateway.metrics().await.0;
    for line in [
        r#"portcullis_limited_total{limit="caller"} 1"#,
        r#"portcullis_refusals_total{code="too_many_requests"} 1"#,
        r#"portcullis_refusals_total{code="peer_unreachable"} 2"#,
        r#"portcullis_tool_calls_total{outcome="peer_failed",server="alpha",tool="search"} 2"#,
        r#"portcullis_tool_calls_total{outcome="refused",server="alpha",tool="search"} 1"#,
    ] {
        assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_flood_of_invented_names_adds_no_series() {
    let scene = Scene::start(|setup| setup).await;
    let (gateway, token) = (scene.gateway(), email_token(CALLER));
    let (own, modern) = (
        scene.world.mcp("/native/mcp", Era::Legacy).await,
        scene.world.mcp("/native/mcp", Era::Modern).await,
    );
    let (all, all_modern) =
        (scene.world.mcp("/mcp", Era::Legacy).await, scene.world.mcp("/mcp", Era::Modern).await);
    let flood =
        async |round: usize| {
            for number in 0..8 {
                let name = format!("invented_{round}_{number}");
                for path in [
                    format!("/alpha/{name}"),
                    format!("/native/{name}"),
                    format!("/alpha_{name}"),
                    format!("/{name}/search"),
                    format!("/{name}"),
                    format!("/{name}/mcp"),
                ] {
                    gateway.call(&path, &token, &json!({})).await;
                }
                let arguments = json!({"name": format!("alpha_{name}"), "arguments": {}});
                gateway.call("/meta/call_tool", &token, &arguments).await;
                gateway
                    .send(gateway.request(
                        Method::from_bytes(name.to_uppercase().as_bytes()).unwrap(),
                        "/alpha/search",
                    ))
                    .await;
                for client in [&own, &modern] {
                    drop(client.ask("tools/call", json!({"name": name, "arguments": {}})).await);
                }
                for client in [&all, &all_modern] {
                    let name = format!("native_{name}");
                    drop(client.ask("tools/call", json!({"name": name, "arguments": {}})).await);
                    drop(Answer::read(client.post(&client.request(1, &name, json!({}))).await).await);
                }
            }
        };
    flood(0).await;
    // All words of this kind of traffic are there now; more of it only counts.
    let before = series(&gateway.metrics().await.0, "portcullis_");
    flood(1).await;
    flood(2).await;
    let text = gateway.metrics().await.0;
    let after = series(&text, "portcullis_");
    assert_eq!(after.difference(&before).collect::<Vec<_>>(), [""; 0]);
    assert!(!text.to_lowercase().contains("invented"), "{text}");
    let other =
        Metrics(text).sum("portcullis_tool_calls_total", &[("tool", "(other)"), ("server", "native")]);
    assert!(other >= 48.0, "{other} of invented tools that were asked for by native MCP");
}

#[tokio::test]
async fn tools_and_servers_that_are_gone_take_their_series_along() {
    let (gateway, peer, _grants) = simple(|setup| setup.set("tools.refresh_secs", 1)).await;
    let call = async |path: &str| gateway.call(path, &email_token(CALLER), &json!({})).await.status.as_u16();
    assert_eq!(call("/alpha/search").await, 200);
    gateway.await_metric("portcullis_tool_calls_total", &[("tool", "search")], 1).await;
    peer.remove_tool("search");
    until("the series of the tool gone", || async {
        (!gateway.metrics().await.0.contains("tool=\"search\"")).then_some(())
    })
    .await;
    let another = FakePeer::start().await.with_json("find", json!(1));
    let beta = [("name", "b"), ("tier", "local"), ("url", &another.url()), ("description", "another")];
    let beta = beta.map(|(key, value)| (key.to_owned(), value.into()));
    gateway
        .reserve(|servers| {
            servers.remove("alpha").unwrap();
            servers.insert("beta".to_owned(), toml::Value::Table(toml::Table::from_iter(beta)));
        })
        .await;
    until("the series of the server gone", || async {
        let text = gateway.metrics().await.0;
        (text.contains("server=\"beta\"") && !text.contains("server=\"alpha\"")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_time_of_a_server_that_does_not_answer_is_its_own() {
    let scene = Scene::start(|setup| setup.set("upstream.first_byte_timeout_secs", 1)).await;
    let (gateway, token) = (scene.gateway(), email_token(CALLER));
    assert_eq!(scene.call("/alpha/stall").await, 504);
    let by_name = json!({"name": "alpha_stall", "arguments": {}});
    assert_eq!(gateway.call("/meta/call_tool", &token, &by_name).await.status, 504);
    let all = scene.world.mcp("/mcp", Era::Modern).await;
    drop(
        Answer::read(
            all.post(&all.request(1, "tools/call", json!({"name": "alpha_stall", "arguments": {}}))).await,
        )
        .await,
    );
    let labels = |part| [("server", "alpha"), ("tool", "stall"), ("part", part)];
    gateway.await_metric("portcullis_tool_seconds_count", &labels("upstream"), 3).await;
    let metrics = gateway.metrics().await;
    let spent = |part| metrics.sum("portcullis_tool_seconds_sum", &labels(part));
    assert!(
        spent("upstream") > 2.9 && spent("gateway") < 0.5,
        "{} there, {} here",
        spent("upstream"),
        spent("gateway")
    );
}

#[tokio::test]
async fn who_asks_for_open_metrics_gets_them() {
    let (gateway, _peer, _grants) = simple(|setup| setup).await;
    let ask = async |accept: &str| {
        let request = gateway.client.get(gateway.ops_url("/metrics")).header("accept", accept);
        let answer = gateway.send(request).await;
        (answer.header("content-type").unwrap().to_owned(), answer.text())
    };
    let (kind, open) = ask("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5").await;
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.ends_with("\n# EOF\n"));
    // A counter's family is called without `_total`, and each of its series with it.
    assert!(open.contains("\n# TYPE portcullis_panics counter\nportcullis_panics_total 0\n"), "{open}");
    assert!(open.contains("\n# TYPE portcullis_ready gauge\nportcullis_ready 1\n"));
    assert!(!open.lines().any(|line| line.starts_with("# TYPE") && line.contains("_total")));
    let (kind, plain) = ask("*/*").await;
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    assert!(plain.contains("# TYPE portcullis_panics_total counter") && !plain.contains("# EOF"));
}
