//! Rates of tool calls: by caller, by server, by tool, by service, with headers that are true.

use std::time::Duration;

use super::*;
use crate::harness::{gateway::Metrics, grants::ADMIN};

#[tokio::test]
async fn without_any_settings_a_caller_has_a_hundred_calls_a_minute() {
    let scene = Scene::start(Setup::shipped_limits).await;
    let began = std::time::Instant::now();
    let first = scene.call("/alpha/search").await;
    assert_eq!(first.header("ratelimit-policy"), Some("\"caller\";q=100;w=60"));
    assert_eq!(first.header("ratelimit"), Some("\"caller\";r=99;t=1"));
    let mut passed = 1;
    let refused = loop {
        let answer = scene.call(if passed % 2 == 0 { "/alpha/search" } else { "/beta_fetch" }).await;
        if answer.status == 429 {
            break answer;
        }
        assert_eq!(answer.status, 200, "{}", answer.text());
        passed += 1;
        assert!(passed < 200, "nobody stops a caller");
    };
    // One more every 600 ms.
    let brought = began.elapsed().as_millis().div_ceil(600) as usize;
    assert!((100..=100 + brought).contains(&passed), "{passed} passed in {:?}", began.elapsed());
    assert_eq!(refused.code(), "too_many_requests");
    assert_eq!(refused.header("ratelimit-policy"), Some("\"caller\";q=100;w=60"));
    assert_eq!((retry_after(&refused), refused.header("ratelimit")), (1, Some("\"caller\";r=0;t=1")));
    scene.await_limited("caller", 1).await;
    // Nothing of it is another's, and pages are no calls.
    let admin = email_token(ADMIN);
    assert_eq!(scene.gateway.call("/alpha/search", &admin, &json!({})).await.status, 200);
    assert_eq!(scene.gateway.get("/servers", &scene.token).await.status, 200);
    assert_eq!(scene.gateway.get("/alpha/openapi.json", &scene.token).await.status, 200);
    assert_eq!(scene.peer.requests().len(), passed + 1, "what was refused reached nobody");
}

#[tokio::test]
async fn who_waits_as_long_as_told_passes() {
    let scene = Scene::start(|setup| setup.set("limits.calls_per_caller", "1/s, burst 3")).await;
    assert_eq!(scene.statuses("/alpha/search", 3).await, [200; 3]);
    let refused = scene.call("/alpha/search").await;
    assert_eq!(refused.status, 429);
    tokio::time::sleep(Duration::from_secs(retry_after(&refused))).await;
    assert_eq!(scene.call("/alpha/search").await.status, 200);
}

#[tokio::test]
async fn a_server_has_a_limit_of_its_own_for_all_callers_together() {
    let alpha = toml::Table::from_iter([("calls".to_owned(), "3/h".into())]);
    let scene = Scene::with_servers(|setup| setup.set("limits.calls_per_server", "5/h"), alpha).await;
    assert_eq!(scene.statuses("/alpha/search", 2).await, [200; 2]);
    let admin = email_token(ADMIN);
    assert_eq!(scene.gateway.call("/alpha/fetch", &admin, &json!({})).await.status, 200);
    let refused = scene.call("/alpha/search").await;
    assert_eq!(refused.header("ratelimit-policy"), Some("\"server\";q=3;w=3600"));
    assert!((1_190..=1_200).contains(&retry_after(&refused)), "{}", retry_after(&refused));
    assert_eq!(scene.statuses("/beta/search", 6).await, passing_then_limited(5, 1));
    scene.await_limited("server", 2).await;
}

#[tokio::test]
async fn a_caller_has_a_limit_for_each_tool_by_its_nearest_pattern() {
    let tools = toml::Table::from_iter([("*".to_owned(), "4/h".into()), ("fetch".to_owned(), "2/h".into())]);
    let alpha = toml::Table::from_iter([("calls_per_tool".to_owned(), tools.into())]);
    let scene = Scene::with_servers(|setup| setup, alpha).await;
    assert_eq!(scene.statuses("/alpha/fetch", 3).await, passing_then_limited(2, 1));
    assert_eq!(scene.statuses("/alpha/search", 5).await, passing_then_limited(4, 1));
    assert_eq!(scene.statuses("/beta/fetch", 6).await, [200; 6]);
    let admin = email_token(ADMIN);
    assert_eq!(
        scene.gateway.call("/alpha/fetch", &admin, &json!({})).await.status,
        200,
        "each caller has it"
    );
    scene.await_limited("tool", 2).await;
}

#[tokio::test]
async fn a_service_has_its_own_limit_and_those_it_vouches_for_have_theirs() {
    const KEY: &str = "a-service-key-of-this-test";
    let scene = Scene::start(|setup| {
        setup
            .set("limits.calls_per_caller", "2/h")
            .set("auth.service_keys.batch.key", KEY)
            .set("auth.service_keys.batch.groups", vec!["MCP-Admin"])
            .set("auth.service_keys.batch.calls", "5/h")
            .set("auth.service_keys.batch.may_vouch", true)
            .set("auth.openwebui.forward_jwt_secret", crate::harness::tokens::FORWARD_SECRET)
    })
    .await;
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(scene.gateway.call("/alpha/search", KEY, &json!({})).await.status.as_u16());
    }
    assert_eq!(statuses, passing_then_limited(5, 1));
    let now = crate::harness::tokens::now(0);
    let user = json!({"sub": "1", "email": CALLER, "role": "user", "iss": "open-webui", "iat": now, "exp": now + 600});
    let user = crate::harness::tokens::sign(&user, crate::harness::tokens::FORWARD_SECRET);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let request = scene.gateway.call_request("/alpha/search", KEY, &json!({}));
        let answer = scene.gateway.send(request.header("x-openwebui-user-jwt", &user)).await;
        statuses.push(answer.status.as_u16());
    }
    assert_eq!(statuses, passing_then_limited(2, 1), "the user's own, and not the service's");
}

#[tokio::test]
async fn what_is_refused_for_another_reason_costs_nothing() {
    let scene = Scene::start(|setup| setup.set("limits.calls_per_caller", "2/h")).await;
    for (path, status) in [("/alpha/nothing", 404), ("/gamma/search", 404), ("/alpha/../beta", 400)] {
        let mut client = crate::harness::raw::RawClient::connect(&scene.gateway.address()).await;
        let answer = client.exchange(crate::harness::request::post(path, &scene.token, "{}")).await;
        assert_eq!(answer.status, status, "{path}");
    }
    assert_eq!(scene.statuses("/alpha/search", 3).await, passing_then_limited(2, 1));
    // The order of decisions holds at the limit, too.
    assert_eq!(scene.call("/alpha/nothing").await.status, 404);
}

#[tokio::test]
async fn a_server_s_own_word_about_its_limits_passes_through() {
    let scene = Scene::start(|setup| setup.set("limits.calls_per_caller", "100/h")).await;
    let own = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nratelimit: \"own\";r=7\r\ncontent-length: 1\r\n\r\n1";
    scene.peer.set("/search", crate::harness::fake_peer::Behaviour::Answer(own.into()));
    let answer = scene.call("/alpha/search").await;
    assert_eq!((answer.header("ratelimit"), answer.header("ratelimit-policy")), (Some("\"own\";r=7"), None));
}

/// Metrics say nothing of callers.
#[tokio::test]
async fn the_metric_of_limits_has_one_series_a_limit() {
    let scene = Scene::start(|setup| setup.set("limits.calls_per_caller", "1/h")).await;
    scene.statuses("/alpha/search", 4).await;
    scene.await_limited("caller", 3).await;
    let Metrics(text) = scene.gateway.metrics().await;
    let of_limits = |line: &&str| line.starts_with("portcullis_limited_total{");
    // Those that are known beforehand begin at 0.
    let counted = |line: &&str| of_limits(line) && !line.ends_with(" 0");
    let series: Vec<_> = text.lines().filter(counted).collect();
    assert_eq!(series, ["portcullis_limited_total{limit=\"caller\"} 3"]);
    assert_eq!(text.lines().filter(of_limits).count(), 10, "one for each limit: {text}");
    assert!(text.contains("\nportcullis_limits_shared -1\n"), "no Redis is configured");
}
