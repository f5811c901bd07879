//! Which requests are traced, and who may say so.

use super::{Scene, logged};
use crate::harness::{collector::parent, deadline::until};

/// How many of so many calls with this `traceparent` were traced, by the access log.
async fn traced(scene: &Scene, calls: u32, flags: Option<&str>) -> usize {
    let mut count = 0;
    for number in 0..calls {
        let (_, said) = parent(1000 + number, flags.unwrap_or_default());
        let headers = [("traceparent", &*said)];
        let answer = scene.call(if flags.is_some() { &headers } else { &[] }).await;
        assert_eq!(answer.status, 200);
        count += usize::from(logged(&scene.gateway, &answer).await["trace_id"].is_string());
    }
    count
}

#[tokio::test]
async fn the_share_that_is_configured_is_traced() {
    let scene = Scene::with(|setup| setup.set("traces.sample", 0.5)).await;
    let count = traced(&scene, 200, None).await;
    assert!((60..=140).contains(&count), "{count} of 200 at 0.5");
    until("the spans of those and no others", || async {
        let spans = scene.collector.spans().await;
        let requests = spans.iter().filter(|span| span["name"] == "POST /{server}/{tool}").count();
        assert!(requests <= count, "{requests} requests told of {count}");
        (requests == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_not_traced_is_passed_on_with_a_parent_of_ours() {
    let scene = Scene::with(|setup| setup.set("traces.sample", 0)).await;
    let (id, said) = parent(1, "00");
    let answer = scene.call(&[("traceparent", &said), ("tracestate", "a=1")]).await;
    let sent = scene.sent();
    let [travelled] = sent.head.all("traceparent")[..] else { panic!("{}", sent.text()) };
    assert!(travelled.starts_with(&format!("00-{id}-")) && travelled.ends_with("-00") && travelled != said);
    assert_eq!(sent.head.header("tracestate"), Some("a=1"));
    assert!(logged(&scene.gateway, &answer).await["trace_id"].is_null());
    // Nor is there any trace of one that says nothing.
    scene.call(&[]).await;
    assert!(scene.sent().head.header("traceparent").unwrap().ends_with("-00"));
    assert_eq!(scene.sum("portcullis_trace_spans_exported_total").await, 0.0);
}

#[tokio::test]
async fn callers_can_have_themselves_traced_so_often_and_no_more() {
    let scene =
        Scene::with(|setup| setup.set("traces.sample", 0).set("traces.follow_rate", "1/h, burst 5")).await;
    assert_eq!(traced(&scene, 20, Some("01")).await, 5);
    // Past the bound the trace goes on, untraced.
    let sent = scene.sent();
    assert!(sent.head.header("traceparent").unwrap().ends_with("-00"));
}

#[tokio::test]
async fn nobody_can_have_themselves_traced_where_only_the_share_counts() {
    let scene = Scene::with(|setup| setup.set("traces.sample", 0).set("traces.follow", "own")).await;
    assert_eq!(traced(&scene, 10, Some("01")).await, 0);
    let all = Scene::with(|setup| setup.set("traces.follow", "own")).await;
    assert_eq!(traced(&all, 10, Some("00")).await, 10);
}

#[tokio::test]
async fn a_reload_switches_traces_on_and_off() {
    let scene = Scene::with(|setup| setup.set("traces.endpoint", "")).await;
    assert_eq!(traced(&scene, 3, None).await, 0);
    let file = scene.gateway.folder.path().join("gateway.toml");
    let (off, on) = ("endpoint = \"\"", format!("endpoint = \"{}\"", scene.collector.url()));
    for (from, to, expected) in [(off, &*on, 3), (&*on, off, 0)] {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        let generation = scene.sum("portcullis_config_generation").await as usize;
        std::fs::write(&file, text.replace(from, to)).unwrap();
        scene.gateway.signal("HUP");
        scene.gateway.await_metric("portcullis_config_generation", &[], generation + 1).await;
        assert_eq!(traced(&scene, 3, None).await, expected);
    }
    until("the spans from between", || async {
        (scene.sum("portcullis_trace_spans_exported_total").await >= 3.0).then_some(())
    })
    .await;
}
