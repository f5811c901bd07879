//! What goes wrong is in the trace: which step said no, and which try failed why.

use serde_json::json;

use super::{Scene, broken};
use crate::harness::{
    collector::{Trace, parent},
    fake_peer::{Behaviour, FakePeer},
    port::Port,
    tokens::email_token,
};

async fn refused(scene: &Scene, number: u32, token: &str, path: &str, status: u16) -> Trace {
    let (id, said) = parent(number, "01");
    let answer = scene.call_as(token, path, &[("traceparent", &said)]).await;
    assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text());
    let trace = scene.collector.trace(&id).await;
    let request = trace.request();
    assert_eq!(request["attributes"]["http.response.status_code"], status);
    assert_eq!(request["attributes"]["error.type"], answer.code());
    assert_eq!(request["status"], if status >= 500 { "ERROR" } else { "UNSET" }, "{request}");
    trace
}

fn last_step_is(trace: &Trace, name: &str, error: &str) {
    let steps = trace.of_kind("INTERNAL");
    let last = steps.last().unwrap();
    let said = (&last["name"], &last["attributes"]["error.type"], &last["status"]);
    assert_eq!(said, (&json!(name), &json!(error), &json!("ERROR")));
    assert!(steps[..steps.len() - 1].iter().all(|step| step["status"] == "UNSET"));
}

#[tokio::test]
async fn the_step_that_said_no_says_why() {
    let scene = Scene::with(|setup| setup.set("limits.calls_per_caller", "1/h")).await;
    let stranger = email_token("stranger@example.com");
    let trace = refused(&scene, 1, "nonsense", "/alpha/search", 401).await;
    last_step_is(&trace, "identify", "invalid_credential");
    let trace = refused(&scene, 2, &stranger, "/alpha/search", 403).await;
    last_step_is(&trace, "authorize", "not_granted");
    let trace = refused(&scene, 3, &scene.token, "/beta/search", 404).await;
    last_step_is(&trace, "authorize", "unknown_server");
    assert!(trace.request()["attributes"]["url.path"].is_null(), "an unknown name is in no span");
    let trace = refused(&scene, 4, &scene.token, "/alpha/none", 404).await;
    last_step_is(&trace, "find", "unknown_tool");
    let trace = refused(&scene, 5, &scene.token, "/alpha/a%2fb", 400).await;
    assert_eq!((trace.request()["name"].as_str().unwrap(), trace.steps().len()), ("POST", 0));
    assert_eq!(scene.call(&[]).await.status, 200);
    let trace = refused(&scene, 6, &scene.token, "/alpha/search", 429).await;
    last_step_is(&trace, "limit", "too_many_requests");
    assert!(trace.of_kind("CLIENT").is_empty());
    let told = scene.collector.told().await["spans"].to_string();
    assert!(!told.contains("stranger") && !told.contains("beta") && !told.contains("%2fb"), "{told}");
}

#[tokio::test]
async fn a_server_that_is_away_or_slow_is_a_try_that_failed() {
    let scene = Scene::with(|setup| {
        setup.set("upstream.first_byte_timeout_secs", 0.2).set("upstream.connect_timeout_secs", 0.2)
    })
    .await;
    scene.peer.set("/search", Behaviour::Stall);
    let trace = refused(&scene, 1, &scene.token, "/alpha/search", 504).await;
    let tried = trace.one_try();
    assert_eq!(
        (&tried["status"], &tried["attributes"]["error.type"]),
        (&json!("ERROR"), &json!("peer_too_slow"))
    );
    scene.peer.set("/search", Behaviour::HangUpAfterBody);
    let trace = refused(&scene, 2, &scene.token, "/alpha/search", 502).await;
    let tried = trace.one_try();
    assert_eq!(
        (&tried["status"], &tried["attributes"]["error.type"]),
        (&json!("ERROR"), &json!("ConnectionClosed"))
    );
    scene.peer.set("/search", broken());
    let (id, said) = parent(3, "01");
    assert_eq!(scene.call(&[("traceparent", &said)]).await.status, 503);
    let trace = scene.collector.trace(&id).await;
    let tried = trace.one_try();
    assert_eq!(tried["attributes"]["http.response.status_code"], 503);
    assert_eq!((&tried["attributes"]["error.type"], &tried["status"]), (&json!("503"), &json!("ERROR")));
    assert_eq!(trace.request()["attributes"]["portcullis.outcome"], "peer_failed");
}

#[tokio::test]
async fn each_try_has_a_span_and_the_server_has_the_last_for_its_parent() {
    let nobody = Port::take();
    let peer = FakePeer::start().await.with_json("search", json!(1));
    let urls = vec![format!("http://{}", nobody.address()), peer.url()];
    let scene = Scene::with(|setup| {
        let keys = toml::Table::from_iter([("url".to_owned(), toml::Value::from(urls))]);
        setup.server_with("alpha", "http://unused", keys).set("upstream.connect_timeout_secs", 1)
    })
    .await;
    // Which address is first changes from call to call.
    for number in 1..20 {
        let (id, said) = parent(number, "01");
        assert_eq!(scene.call(&[("traceparent", &said)]).await.status, 200);
        let trace = scene.collector.trace(&id).await;
        let [first, second] = trace.of_kind("CLIENT")[..] else { continue };
        let (first_said, second_said) = (&first["attributes"], &second["attributes"]);
        assert_eq!(
            (&first_said["error.type"], &first["status"]),
            (&json!("ConnectRefused"), &json!("ERROR"))
        );
        assert!(first_said["http.request.resend_count"].is_null() && first["events"]["connected"].is_null());
        assert_eq!(
            (&second_said["http.request.resend_count"], &second["status"]),
            (&json!(1), &json!("UNSET"))
        );
        let sent = peer.requests().pop().unwrap();
        let expected = crate::harness::collector::carried(second, "01");
        assert_eq!(sent.head.all("traceparent"), [expected]);
        return;
    }
    panic!("no call was tried twice");
}
