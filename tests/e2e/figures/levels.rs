//! What is logged changes while the gateway runs: by its file, and by a signal.

use serde_json::json;

use super::simple;
use crate::harness::{
    deadline::until_so,
    gateway::{Gateway, Lines},
    grants::CALLER,
    tokens::email_token,
};

/// Calls the tool under an id of its own.
async fn call(gateway: &Gateway, id: &str) {
    let request = gateway.call_request("/alpha/search", &email_token(CALLER), &json!({}));
    assert_eq!(gateway.send(request.header("x-request-id", id)).await.status, 200);
}

fn has(lines: &Lines, id: &str) -> bool {
    lines.all().iter().any(|line| line.contains(&format!("\"{id}\"")))
}

/// Whether a call leaves a line on stderr, told by another that comes after it on stdout.
async fn is_debugging(gateway: &Gateway, id: &str) -> bool {
    call(gateway, id).await;
    until_so("the call's line", || has(&gateway.stdout, id)).await;
    // Both are written by threads of their own: a signal that means a line comes behind what was written before.
    let before = gateway.stderr.all().len();
    gateway.signal("HUP");
    until_so("the answer to a signal", || {
        gateway.stderr.all()[before..]
            .iter()
            .any(|line| line.contains("SIGHUP: the configuration has not changed"))
    })
    .await;
    has(&gateway.stderr, id)
}

#[tokio::test]
async fn a_reload_changes_what_is_logged_and_whether_requests_are() {
    let (gateway, _peer, _grants) = simple(|setup| setup).await;
    assert!(!is_debugging(&gateway, "at-first").await);
    gateway.reconfigure("log.filter", "info,portcullis=debug").await;
    assert!(is_debugging(&gateway, "louder").await);
    gateway.reconfigure("log.filter", "info").await;
    assert!(!is_debugging(&gateway, "quiet-again").await);

    gateway.reconfigure("log.access", false).await;
    call(&gateway, "unlogged").await;
    gateway.reconfigure("log.access", true).await;
    call(&gateway, "logged").await;
    until_so("a line once more", || has(&gateway.stdout, "logged")).await;
    assert!(!has(&gateway.stdout, "unlogged"));
}

#[tokio::test]
async fn debug_in_the_environment_outlasts_a_reload() {
    let (gateway, _peer, _grants) =
        simple(|setup| setup.environment("DEBUG", "true").set("log.filter", "info")).await;
    assert!(is_debugging(&gateway, "at-first").await);
    gateway.reconfigure("log.filter", "warn,portcullis=info").await;
    assert!(is_debugging(&gateway, "after-a-reload").await);
}

#[tokio::test]
async fn a_signal_turns_debug_on_and_off_without_any_file() {
    let (gateway, _peer, _grants) = simple(|setup| setup).await;
    assert!(!is_debugging(&gateway, "before").await);
    gateway.signal("USR1");
    gateway
        .stderr
        .find("that it is heard", |line| {
            line.contains("SIGUSR1: lines of level `debug` are written for 15 minutes")
        })
        .await;
    assert!(is_debugging(&gateway, "between").await);
    gateway.signal("USR1");
    gateway
        .stderr
        .find("that it is heard", |line| line.contains("SIGUSR1: lines of level `debug` are written no more"))
        .await;
    assert!(!is_debugging(&gateway, "afterwards").await);
    for line in gateway.stderr.all().iter().filter(|line| !line.starts_with("warning: ")) {
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(
            ["timestamp", "level", "message", "target"].iter().all(|key| line[key].is_string()),
            "{line}"
        );
    }
}
