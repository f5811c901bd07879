//! The collector is away, slow or full: calls go on as if it were not there, and what is lost is counted.

use std::time::{Duration, Instant};

use serde_json::json;

use super::Scene;
use crate::harness::{
    collector::{Trace, parent},
    deadline::until,
    gateway::{client, send_signal},
    load::Plan,
    request::post,
};

const EXPORTED: &str = "portcullis_trace_spans_exported_total";
const FAILED: &str = "portcullis_trace_spans_failed_total";
const DROPPED: &str = "portcullis_trace_spans_dropped_total";

/// Returns once the counter is more than that.
async fn grows(scene: &Scene, metric: &str, above: f64) {
    until(metric, || async { (scene.sum(metric).await > above).then_some(()) }).await;
}

#[tokio::test]
async fn calls_go_on_while_nobody_takes_the_spans_and_those_past_the_queue_are_counted() {
    let scene = Scene::start().await;
    scene.collector.behave(json!({"hold": 1000})).await;
    let request = post("/alpha/search", &scene.token, "{}");
    let plan = Plan {
        callers: 24,
        every: Duration::from_millis(1),
        ..Plan::of(scene.gateway.address(), vec![request])
    };
    let load = plan.start();
    grows(&scene, DROPPED, 100.0).await;
    let tally = load.end().await;
    tally.all_worked("beside a collector that never answers");
    let ended =
        scene.gateway.metrics().await.sum("portcullis_requests_total", &[("outcome", "tool_answered")]);
    let (dropped, exported) = (scene.sum(DROPPED).await, scene.sum(EXPORTED).await);
    assert!(dropped > 100.0 && exported == 0.0 && ended > 2_048.0, "{dropped} {exported} {ended}");
    // Nothing it held was kept from a caller.
    assert!(tally.percentile(0.99) < Duration::from_secs(5), "{:?}", tally.percentile(0.99));
}

#[tokio::test]
async fn a_batch_is_sent_again_when_the_collector_says_so() {
    let scene = Scene::start().await;
    for (number, (status, wait)) in (1..).zip([(503, Some(1)), (429, None), (502, None), (504, Some(1))]) {
        let before = scene.collector.told().await["posts"].as_array().unwrap().len();
        scene.collector.behave(json!({"status": status, "retry_after": wait, "times": 1})).await;
        let (id, said) = parent(number, "01");
        scene.call(&[("traceparent", &said)]).await;
        scene.collector.trace(&id).await;
        let posts = scene.collector.told().await["posts"].clone();
        let at = |number: usize| posts[before + number]["at"].as_f64().unwrap();
        let waited = at(1) - at(0);
        assert!((0.95..15.0).contains(&waited), "{status}: sent again after {waited} s");
    }
    assert_eq!(scene.sum(FAILED).await, 0.0);
}

#[tokio::test]
async fn a_collector_that_hangs_up_gets_the_batch_again() {
    let scene = Scene::start().await;
    scene.collector.behave(json!({"hang_up": true, "times": 1})).await;
    let (id, said) = parent(1, "01");
    scene.call(&[("traceparent", &said)]).await;
    scene.collector.trace(&id).await;
    assert_eq!(scene.sum(FAILED).await, 0.0);
}

#[tokio::test]
async fn what_a_collector_will_never_take_is_not_sent_again_and_counted() {
    let scene = Scene::start().await;
    scene.collector.behave(json!({"status": 400})).await;
    scene.call(&[]).await;
    grows(&scene, FAILED, 0.0).await;
    assert_eq!(scene.collector.told().await["posts"].as_array().unwrap().len(), 1);
    scene.gateway.stderr.find("a word of it", |line| line.contains("traces:") && line.contains("400")).await;
    // It is told once, until spans are taken again.
    scene.collector.behave(json!({"rejected": 2, "times": 1})).await;
    let (failed, (id, said)) = (scene.sum(FAILED).await, parent(1, "01"));
    scene.call(&[("traceparent", &said)]).await;
    scene.collector.trace(&id).await;
    until("what was rejected is counted", || async {
        (scene.sum(FAILED).await == failed + 2.0).then_some(())
    })
    .await;
    let (id, said) = parent(2, "01");
    scene.call(&[("traceparent", &said)]).await;
    scene.collector.trace(&id).await;
    scene.gateway.stderr.find("a word of it", |line| line.contains("takes spans again")).await;
    let lost = scene.gateway.stderr.all().into_iter().filter(|line| line.contains("spans are lost")).count();
    assert_eq!(lost, 1, "{}", scene.gateway.stderr.text());
}

#[tokio::test]
async fn the_collector_has_the_configured_headers_and_nobody_else_sees_them() {
    let scene = Scene::with(|setup| {
        setup.environment("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hush-hush,x-tenant=blue")
    })
    .await;
    scene.call(&[]).await;
    grows(&scene, EXPORTED, 0.0).await;
    let post = scene.collector.told().await["posts"][0].clone();
    assert_eq!(post["path"], "/v1/traces");
    assert_eq!(post["headers"]["authorization"], "Bearer hush-hush");
    assert_eq!(post["headers"]["x-tenant"], "blue");
    scene.gateway.wrote_none_of(&["hush-hush"]);
}

#[tokio::test]
async fn what_still_waits_is_sent_before_the_process_ends() {
    let mut scene = Scene::start().await;
    let (id, said) = parent(1, "01");
    scene.call(&[("traceparent", &said)]).await;
    scene.gateway.signal("TERM");
    scene.gateway.ended().await;
    let trace = scene.collector.trace(&id).await;
    assert_eq!(trace.of_kind("CLIENT").len(), 1);
}

#[tokio::test]
async fn a_collector_that_never_answers_does_not_keep_the_process() {
    let mut scene = Scene::start().await;
    scene.collector.behave(json!({"hold": 1000})).await;
    scene.call(&[]).await;
    let began = Instant::now();
    scene.gateway.signal("TERM");
    assert!(scene.gateway.ended().await.success());
    assert!(began.elapsed() < Duration::from_secs(10), "ended after {:?}", began.elapsed());
}

#[tokio::test]
async fn an_upgrade_loses_no_span_and_both_processes_tell_which_they_are() {
    let mut scene = Scene::start().await;
    let ((first, said), (second, said_then)) = (parent(1, "01"), parent(2, "01"));
    scene.call(&[("traceparent", &said)]).await;
    scene.gateway.signal("USR2");
    let line = scene.gateway.stderr.find("a hand-over", |line| line.contains("has taken over")).await;
    let (_, rest) = line.split_once("upgrade: process ").unwrap();
    let successor: u32 = rest.split(' ').next().unwrap().parse().unwrap();
    // The client keeps its connection to the process that was; a new one is the new process's.
    let request = client().post(scene.gateway.url("/alpha/search")).bearer_auth(&scene.token);
    let request =
        request.header("content-type", "application/json").header("traceparent", &said_then).body("{}");
    assert_eq!(scene.gateway.send(request).await.status, 200);
    let instance =
        |trace: &Trace| trace.request()["resource"]["service.instance.id"].as_str().unwrap().to_owned();
    let (before, after) = (scene.collector.trace(&first).await, scene.collector.trace(&second).await);
    send_signal(successor, "TERM");
    scene.gateway.ended().await;
    assert_ne!(instance(&before), instance(&after));
}
