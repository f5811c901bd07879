//! Requests that nobody is believed to have sent, by the address they come from.

use super::*;
use crate::harness::{
    raw::{RawAnswer, RawClient},
    request::{get, head},
};

/// The statuses of so many requests from an address of this machine.
async fn from(gateway: &Gateway, own: &str, request: &str, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(ask(gateway, own, request).await.status);
    }
    statuses
}

async fn ask(gateway: &Gateway, own: &str, request: &str) -> RawAnswer {
    RawClient::connect_from(own, &gateway.address()).await.exchange(request).await
}

#[tokio::test]
async fn an_address_that_guesses_is_stopped_and_known_callers_at_it_are_not() {
    let scene = Scene::start(|setup| setup.set("limits.requests_per_address", "5/h")).await;
    let gateway = &scene.gateway;
    let (good, bad) = (get("/servers", &scene.token), get("/servers", "a.bad.token"));
    // Whoever is believed costs their address nothing.
    assert_eq!(from(gateway, "127.0.0.2", &good, 20).await, [200; 20]);
    assert_eq!(from(gateway, "127.0.0.2", &bad, 3).await, [401; 3]);
    assert_eq!(from(gateway, "127.0.0.2", &get("/servers", ""), 2).await, [401; 2]);
    let refused = ask(gateway, "127.0.0.2", &bad).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (429, Some("too_many_requests")));
    assert_eq!(refused.head.header("ratelimit-policy"), Some("\"address\";q=5;w=3600"));
    assert_eq!(refused.head.header("retry-after"), Some("720"));
    // A credential that was believed before still is; one that was never seen is not even looked at.
    assert_eq!(from(gateway, "127.0.0.2", &good, 5).await, [200; 5]);
    let unseen = email_token("admin@example.com");
    assert_eq!(ask(gateway, "127.0.0.2", &get("/servers", &unseen)).await.status, 429);
    assert_eq!(ask(gateway, "127.0.0.3", &get("/servers", &unseen)).await.status, 200);
    assert_eq!(ask(gateway, "127.0.0.2", &get("/servers", &unseen)).await.status, 200, "seen elsewhere");
    // A load balancer's question is always answered.
    assert_eq!(from(gateway, "127.0.0.2", &get("/health", ""), 20).await, [200; 20]);
    assert!(scene.limited("address").await >= 2.0);
}

#[tokio::test]
async fn without_any_settings_an_address_has_a_thousand_failures_a_minute() {
    let scene = Scene::start(Setup::shipped_limits).await;
    let mut client = RawClient::connect_from("127.0.0.2", &scene.gateway.address()).await;
    let began = std::time::Instant::now();
    let mut failed = 0;
    let refused = loop {
        let answer = client.exchange(get("/servers", "a.bad.token")).await;
        if answer.status == 429 {
            break answer;
        }
        assert_eq!(answer.status, 401);
        failed += 1;
        assert!(failed < 4_000, "nobody stops an address");
    };
    let brought = began.elapsed().as_millis().div_ceil(60) as usize;
    assert!((1_000..=1_000 + brought).contains(&failed), "{failed} in {:?}", began.elapsed());
    assert_eq!(refused.head.header("ratelimit-policy"), Some("\"address\";q=1000;w=60"));
}

#[tokio::test]
async fn behind_a_listed_balancer_each_client_has_its_own_address() {
    let scene = Scene::start(|setup| {
        setup.set("limits.requests_per_address", "2/h").set("listen.balancers", vec!["127.0.0.9"])
    })
    .await;
    let told =
        |client: &str| head("GET", "/servers", "bad.bad.bad", &[&format!("x-forwarded-for: {client}")]);
    let gateway = &scene.gateway;
    assert_eq!(from(gateway, "127.0.0.9", &told("198.51.100.1"), 3).await, [401, 401, 429]);
    assert_eq!(from(gateway, "127.0.0.9", &told("198.51.100.2"), 3).await, [401, 401, 429]);
    assert_eq!(from(gateway, "127.0.0.9", &told("2001:db8::1"), 2).await, [401, 401]);
    assert_eq!(
        from(gateway, "127.0.0.9", &told("2001:db8::ffff:1"), 1).await,
        [429],
        "one network of 64 bits"
    );
    // Whoever is no balancer may say what they like, and is told of once.
    assert_eq!(from(gateway, "127.0.0.8", &told("198.51.100.3"), 2).await, [401, 401]);
    assert_eq!(from(gateway, "127.0.0.8", &told("198.51.100.4"), 3).await, [429; 3]);
    let line = gateway.stderr.find("a word about balancers", |line| line.contains("listen.balancers")).await;
    assert!(line.contains("127.0.0.8"), "{line}");
    let told = gateway.stderr.all().iter().filter(|line| line.contains("listen.balancers")).count();
    assert_eq!(told, 1);
}

#[tokio::test]
async fn what_a_balancer_says_of_nobody_is_charged_to_nobody() {
    let scene = Scene::start(|setup| {
        setup.set("limits.requests_per_address", "2/h").set("listen.balancers", vec!["127.0.0.9"])
    })
    .await;
    let gateway = &scene.gateway;
    let hidden = head("GET", "/servers", "bad.bad.bad", &["x-forwarded-for: unknown"]);
    assert_eq!(from(gateway, "127.0.0.9", &hidden, 5).await, [401; 5]);
    assert_eq!(from(gateway, "127.0.0.9", &get("/servers", "bad.bad.bad"), 5).await, [401; 5]);
    let unseen = get("/servers", &email_token("admin@example.com"));
    assert_eq!(from(gateway, "127.0.0.9", &unseen, 1).await, [200], "one guesser shuts out nobody else");
}

#[tokio::test]
async fn listed_addresses_are_not_counted() {
    let scene = Scene::start(|setup| {
        setup
            .set("limits.requests_per_address", "1/h")
            .set("limits.unlimited_addresses", vec!["127.0.0.2/31"])
    })
    .await;
    let bad = get("/servers", "bad.bad.bad");
    assert_eq!(from(&scene.gateway, "127.0.0.3", &bad, 5).await, [401; 5]);
    assert_eq!(from(&scene.gateway, "127.0.0.4", &bad, 2).await, [401, 429]);
}
