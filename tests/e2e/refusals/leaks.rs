//! Nothing of a credential and nothing of a body is ever written, however much the gateway says of itself.

use serde_json::json;

use super::{Attempt, Wall, with_token};
use crate::harness::{
    openwebui::{JANE, JANE_EMAIL, JANE_STAMP, PLAIN_KEY, VOUCHING_KEY, user_jwt},
    tokens::{FORWARD_SECRET, SESSION_SECRET, session_token},
};

/// Stands in every body and query of this test.
const CANARY: &str = "canary-4f1c2d3e5b6a";

#[tokio::test]
async fn neither_credentials_nor_bodies_are_written_anywhere() {
    let wall = Wall::start().await;
    let good = session_token(JANE, JANE_STAMP);
    let jwt = user_jwt(JANE, JANE_EMAIL);
    let forged = format!("{good}x");
    let body = json!({"query": CANARY, "password": CANARY}).to_string();
    for attempt in [
        with_token(&good),
        with_token(&forged),
        with_token(VOUCHING_KEY).line(format!("X-OpenWebUI-User-Jwt: {jwt}")),
        with_token(VOUCHING_KEY).line(format!("X-OpenWebUI-User-Jwt: {jwt}x")),
        with_token(VOUCHING_KEY).line(format!("X-OpenWebUI-User-Email: {JANE_EMAIL}")),
        Attempt::call().line(format!("Authorization: Basic {CANARY}")),
        Attempt::call().line(format!("Authorization: {CANARY}")),
        Attempt::call()
            .line(format!("X-Gateway-Secret: {CANARY}"))
            .line(format!("X-User-Email: {JANE_EMAIL}")),
        Attempt::to("POST", format!("/github/search?key={PLAIN_KEY}&q={CANARY}")),
        Attempt::to("POST", format!("/github/{CANARY}")).bearer(&good),
        Attempt::to("POST", format!("/{CANARY}/search")).bearer(&good),
        Attempt::to("POST", "/github_search").bearer(&good),
        Attempt::to("POST", "/meta/call_tool").bearer(&good),
        Attempt::to("POST", "/mcp").bearer(&good).line("accept: application/json, text/event-stream"),
    ] {
        wall.answer(&attempt.clone().body(body.clone())).await;
        wall.answer(&attempt.body(format!("not JSON: {CANARY}"))).await;
    }
    for cookies in [
        format!("token={good}"),
        format!("token={forged}; other={CANARY}"),
        format!("token={good}; token={good}"),
    ] {
        wall.answer(&Attempt::to("GET", "/servers").line(format!("Cookie: {cookies}"))).await;
    }
    for query in
        [format!("key={PLAIN_KEY}"), format!("key={CANARY}"), format!("key={PLAIN_KEY}&key={CANARY}")]
    {
        wall.answer(&Attempt::to("GET", format!("/openapi.json?{query}"))).await;
    }
    let last = wall.answer(&Attempt::to("GET", "/health").line("x-last: 1")).await;
    assert_eq!(last.status, 200);
    let number = wall.attempts.load(std::sync::atomic::Ordering::Relaxed) - 1;
    wall.gateway.stdout.find("the last record", |line| line.contains(&format!("attempt-{number}-end"))).await;
    // Paths are written as routes, so that what a client puts there is not written either.
    let parts = good.split('.').chain(jwt.split('.')).filter(|part| part.len() >= 16);
    let secrets = [CANARY, JANE_EMAIL, PLAIN_KEY, VOUCHING_KEY, SESSION_SECRET, FORWARD_SECRET];
    let secrets: Vec<_> = secrets.into_iter().chain(parts).collect();
    wall.gateway.wrote_none_of(&secrets);
    let metrics = wall.gateway.metrics().await.0;
    for secret in secrets {
        assert!(!metrics.contains(secret), "`{secret}` is in the metrics");
    }
    wall.stands().await;
}

#[tokio::test]
async fn no_refusal_tells_the_client_what_it_sent_or_who_it_is_about() {
    let wall = Wall::start().await;
    let forged = format!("{}x", session_token(JANE, JANE_STAMP));
    for attempt in [
        with_token(&forged),
        with_token(CANARY),
        Attempt::call().line(format!("Authorization: Basic {CANARY}")),
        with_token(VOUCHING_KEY).line(format!("X-OpenWebUI-User-Jwt: {}", user_jwt(JANE, "eve@example.com"))),
        with_token(VOUCHING_KEY).line(format!("X-OpenWebUI-User-Email: {JANE_EMAIL}")),
        Attempt::to("POST", "/finance/search").bearer(&session_token(JANE, JANE_STAMP)),
        Attempt::to("GET", format!("/openapi.json?key={CANARY}")),
    ] {
        let answer = wall.answer(&attempt).await;
        assert!(matches!(answer.status, 401 | 403), "{attempt:?}");
        let whole = format!("{}{}", String::from_utf8_lossy(&answer.head.raw), answer.text());
        for secret in [CANARY, "@", &forged[..40], "MCP-", "postgres", "Open WebUI"] {
            assert!(!whole.contains(secret), "{attempt:?}: {whole}");
        }
    }
    assert_eq!(wall.heard(), 0);
    wall.stands().await;
}
