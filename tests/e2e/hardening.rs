//! Senders that mean harm: odd paths, dripped and oversized headers, too many connections, two requests in one.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    deadline::until_so,
    fake_peer::{Behaviour, FakePeer},
    gateway::Gateway,
    grants::{CALLER, Grants},
    port::Port,
    raw::RawClient,
    request::{get, head, post},
    tokens::{SESSION_SECRET, email_token},
    wire::answer,
};

/// A gateway in front of one tool, with a few limits lowered.
struct Scene {
    gateway: Gateway,
    peer: FakePeer,
    token: String,
    _grants: Grants,
}

impl Scene {
    async fn start(limits: &[(&str, i64)]) -> Self {
        let peer = FakePeer::start().await.with_json("search", json!("found"));
        let grants = Grants::of(&["alpha"]).await;
        // With all that the gateway would ever say of itself.
        let setup = grants.setup().server("alpha", &peer.url()).set("log.filter", "trace");
        let setup = limits.iter().fold(setup, |setup, (key, value)| setup.set(key, *value));
        let gateway = setup.start().await;
        gateway.knows_tools("alpha", 1).await;
        Self { gateway, peer, token: email_token(CALLER), _grants: grants }
    }

    async fn client(&self) -> RawClient {
        RawClient::connect(&self.gateway.address()).await
    }

    /// What must be true after any attack: the gateway serves, no bug was met, no secret was written.
    async fn is_unharmed(&self) {
        assert_eq!(self.client().await.exchange(get("/alpha", &self.token)).await.status, 200);
        assert_eq!(self.gateway.metrics().await.sum("portcullis_panics_total", &[]), 0.0);
        let signature = self.token.rsplit('.').next().unwrap();
        self.gateway.wrote_none_of(&[
            &self.token,
            signature,
            SESSION_SECRET,
            "authorization",
            "bearer",
            CALLER,
        ]);
    }
}

#[tokio::test]
async fn a_path_that_could_be_read_in_two_ways_is_refused() {
    let scene = Scene::start(&[]).await;
    for path in [
        "/alpha/../alpha/search",
        "/alpha/./search",
        "/alpha/search/..",
        "/../alpha/search",
        "/alpha/%2e%2e/search",
        "/alpha/%2E%2E/alpha/search",
        "/alpha%2fsearch",
        "/alpha/%2Fsearch",
        "/%61lpha/search",
        "/alpha/search%00",
        "/alpha/search%0d%0aX-Injected:%201",
        "//alpha/search",
        "/alpha//search",
        "/alpha/search//",
        "/alpha\\search",
        "/alpha/..\\search",
        "/alpha/search;x=1",
        "/alpha/sea\x00rch",
        "/alpha/sea rch",
        "/alpha/s\u{e9}arch",
        "/alpha/search\t",
        "/alpha/...",
        "alpha/search",
        "*",
        "http://evil.example.com/alpha/search",
        "http://gateway@evil.example.com/alpha/search",
        "http://gateway/alpha/../alpha/search",
    ] {
        for method in ["POST", "GET", "OPTIONS"] {
            let mut client = scene.client().await;
            client.send(head(method, path, &scene.token, &["content-length: 0"])).await;
            assert_eq!(client.read_answer().await.status, 400, "{method} {path:?}");
        }
    }
    assert_eq!(scene.peer.requests().len(), 0);
    let own = head("POST", "http://gateway/alpha/search", &scene.token, &["content-length: 0"]);
    let own = scene.client().await.exchange(own).await.status;
    assert!(own == 200 || own == 400, "the absolute form of our own address: {own}");
    assert!(scene.peer.requests().iter().all(|request| request.path == "/search"));
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_malformed_request_is_refused_and_never_reaches_the_peer() {
    let scene = Scene::start(&[]).await;
    let bearer = format!("authorization: Bearer {}\r\n", scene.token);
    let call = "POST /alpha/search HTTP/1.1\r\n";
    for (what, request) in [
        ("no host", format!("{call}{bearer}content-length: 2\r\n\r\n{{}}")),
        ("two hosts", format!("{call}{bearer}host: a\r\nhost: b\r\ncontent-length: 2\r\n\r\n{{}}")),
        (
            "two lengths",
            format!("{call}{bearer}host: a\r\ncontent-length: 2\r\ncontent-length: 9\r\n\r\n{{}}"),
        ),
        ("a length with a sign", format!("{call}{bearer}host: a\r\ncontent-length: +2\r\n\r\n{{}}")),
        ("a negative length", format!("{call}{bearer}host: a\r\ncontent-length: -2\r\n\r\n{{}}")),
        ("a space before the colon", format!("{call}{bearer}host: a\r\ncontent-length : 2\r\n\r\n{{}}")),
        (
            "a folded header",
            format!("{call}{bearer}host: a\r\nx-a: 1\r\n  2\r\ncontent-length: 2\r\n\r\n{{}}"),
        ),
        (
            "chunked not last",
            format!(
                "{call}{bearer}host: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
            ),
        ),
        (
            "a size of a chunk that is none",
            format!("{call}{bearer}host: a\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n{{}}\r\n0\r\n\r\n"),
        ),
        ("a NUL in a header", format!("{call}{bearer}host: a\r\nx-a: \0\r\ncontent-length: 2\r\n\r\n{{}}")),
        ("no request line", "\x16\x03\x01\x02\x00\x01\r\n\r\n".to_owned()),
    ] {
        let mut client = scene.client().await;
        client.send(&request).await;
        assert_eq!(client.read_answer().await.status, 400, "{what}");
        assert_eq!(scene.peer.requests().len(), 0, "{what}");
    }
    scene.is_unharmed().await;
}

#[tokio::test]
async fn two_ways_to_say_a_length_never_make_two_requests_of_one() {
    let scene = Scene::start(&[]).await;
    let smuggled = "POST /alpha/search HTTP/1.1\r\nhost: gateway\r\ncontent-length: 10\r\n\r\n\"smuggled\"";
    let hidden = format!("2\r\n{{}}\r\n0\r\n\r\n{smuggled}");
    let by_length = format!("content-length: {}", hidden.len());
    for lines in [
        vec![by_length.as_str(), "transfer-encoding: chunked"],
        vec!["transfer-encoding: chunked", by_length.as_str()],
        vec![by_length.as_str(), "transfer-encoding: xchunked"],
        vec![by_length.as_str(), "transfer-encoding: chunked", "transfer-encoding: identity"],
        vec![by_length.as_str(), "transfer-encoding : chunked"],
        vec![by_length.as_str(), "transfer-encoding:\x0bchunked"],
    ] {
        let before = scene.peer.requests().len();
        let mut client = scene.client().await;
        client.send(head("POST", "/alpha/search", &scene.token, &lines)).await;
        // The other side may have refused and closed already.
        drop(client.try_send(&hidden).await);
        let status = client.read_answer().await.status;
        assert!(matches!(status, 200 | 400 | 415), "{lines:?}: {status}");
        assert!(
            client.is_closed_within(Duration::from_secs(5)).await,
            "{lines:?}: what follows would be a request"
        );
        let bodies: Vec<_> =
            scene.peer.requests()[before..].iter().map(|request| request.body.clone()).collect();
        assert!(bodies.len() <= 1 && bodies.iter().all(|body| body == b"{}"), "{lines:?}: {bodies:?}");
    }
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_dripped_header_is_cut_near_its_timeout_and_a_slow_call_is_not() {
    let scene =
        Scene::start(&[("listen.header_timeout_secs", 1), ("listen.keepalive_timeout_secs", 2)]).await;
    let mut dripping = scene.client().await;
    let started = Instant::now();
    dripping.send("GET /alpha HTTP/1.1\r\nhost: gateway\r\n").await;
    let mut is_cut = false;
    while !is_cut && started.elapsed() < Duration::from_secs(20) {
        is_cut = dripping.is_closed_within(Duration::from_millis(100)).await
            || dripping.try_send("x-drip: 1\r\n").await.is_err();
    }
    let took = started.elapsed();
    assert!(
        is_cut && took > Duration::from_millis(800) && took < Duration::from_secs(3),
        "{is_cut} after {took:?}"
    );

    let mut silent = scene.client().await;
    let started = Instant::now();
    assert!(silent.is_closed_within(Duration::from_secs(20)).await);
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "a silent connection was kept {:?}",
        started.elapsed()
    );

    let slow = answer("200 OK", "application/json", b"\"slow\"");
    let pause = Duration::from_millis(1500);
    scene.peer.set("/search", Behaviour::Drip { piece: slow.len(), bytes: slow, pause });
    let mut patient = scene.client().await;
    let slow = patient.exchange(post("/alpha/search", &scene.token, "{}")).await;
    assert_eq!(
        (slow.status, slow.text().as_str()),
        (200, "\"slow\""),
        "the time for a header is over with it"
    );

    // Between requests the time for being idle and the time for a header count together.
    let mut second = scene.client().await;
    assert_eq!(second.exchange(get("/alpha", &scene.token)).await.status, 200);
    let started = Instant::now();
    let mut is_cut = false;
    while !is_cut && started.elapsed() < Duration::from_secs(20) {
        is_cut =
            second.is_closed_within(Duration::from_millis(100)).await || second.try_send("G").await.is_err();
    }
    assert!(is_cut && started.elapsed() < Duration::from_secs(5), "{is_cut} after {:?}", started.elapsed());
    let closed = scene
        .gateway
        .metrics()
        .await
        .sum("portcullis_connections_closed_total", &[("reason", "header_timeout")]);
    assert!(closed >= 2.0, "{closed} counted");
    scene.is_unharmed().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_near_its_timeout() {
    let scene = Scene::start(&[("listen.keepalive_timeout_secs", 1)]).await;
    let mut client = scene.client().await;
    for _ in 0..3 {
        assert_eq!(client.exchange(post("/alpha/search", &scene.token, "{}")).await.status, 200);
    }
    let idle = Instant::now();
    assert!(client.is_closed_within(Duration::from_secs(20)).await);
    let took = idle.elapsed();
    assert!(took > Duration::from_millis(800) && took < Duration::from_secs(3), "closed after {took:?}");
    scene.is_unharmed().await;
}

#[tokio::test]
async fn connections_past_the_most_allowed_are_closed_at_once_and_those_before_them_serve() {
    let scene = Scene::start(&[("listen.max_connections", 2)]).await;
    // Before it says this it has looked itself whether it can be called.
    scene.gateway.stderr.find("the end of the start", |line| line.contains("listening on")).await;
    let (mut one, mut two) = (scene.client().await, scene.client().await);
    assert_eq!(one.exchange(get("/alpha", &scene.token)).await.status, 200);
    assert_eq!(two.exchange(get("/alpha", &scene.token)).await.status, 200);
    for _ in 0..3 {
        let mut third = scene.client().await;
        assert!(third.is_closed_within(Duration::from_secs(5)).await);
    }
    let closed = [("reason", "too_many")];
    assert_eq!(scene.gateway.metrics().await.sum("portcullis_connections_closed_total", &closed), 3.0);
    assert_eq!(one.exchange(post("/alpha/search", &scene.token, "{}")).await.status, 200);
    drop(two);
    crate::harness::deadline::until("a seat that is free again", || async {
        (scene.gateway.metrics().await.sum("portcullis_connections", &[]) == 1.0).then_some(())
    })
    .await;
    scene.is_unharmed().await;
}

#[tokio::test]
async fn headers_larger_than_allowed_are_refused_and_smaller_ones_are_not() {
    let scene = Scene::start(&[("listen.max_header_bytes", 4096)]).await;
    let mut client = scene.client().await;
    for (size, status) in [(3000, 200), (5000, 431), (15_000, 431), (60_000, 431), (500_000, 431)] {
        if size > 60_000 {
            // Four times too large, and so the last on its connection.
            client = scene.client().await;
        }
        let big = format!("x-big: {}", "x".repeat(size));
        let answer = client.exchange(head("GET", "/alpha", &scene.token, &[&big])).await;
        assert_eq!(answer.status, status, "{size} bytes");
    }
    let mut endless = scene.client().await;
    let mut sent = 0;
    while sent < 64_000_000 && endless.try_send(format!("x-{sent}: {}\r\n", "x".repeat(10_000))).await.is_ok()
    {
        sent += 10_000;
    }
    assert!(sent < 32_000_000, "headers without end are read");
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_port_that_is_taken_ends_the_process_with_a_sentence() {
    let taken = Port::take();
    let _listener = std::net::TcpListener::bind(taken.address()).unwrap();
    for key in ["listen.http", "listen.ops"] {
        let grants = Grants::of(&[]).await;
        let setup = grants.setup().server("alpha", "http://127.0.0.1:9").set(key, taken.address());
        let mut gateway = setup.spawn();
        assert_eq!(gateway.ended().await.code(), Some(1));
        let line = gateway.stderr.find("a sentence", |line| line.contains(key)).await;
        assert!(line.contains(&taken.address()), "{line}");
        gateway.wrote_none_of(&[SESSION_SECRET, "panic"]);
    }
}

#[tokio::test]
async fn what_callers_ask_for_makes_no_new_series() {
    let scene = Scene::start(&[]).await;
    let token = scene.token.clone();
    let flood = |round: usize| {
        let token = token.clone();
        let address = scene.gateway.address();
        async move {
            let mut client = RawClient::connect(&address).await;
            for number in 0..40 {
                let name = format!("x{round}_{number}");
                client.exchange(get(&format!("/{name}"), &token)).await;
                client.exchange(get(&format!("/{name}/openapi.json"), &token)).await;
                client.exchange(get(&format!("/a/b/{name}"), &token)).await;
                client.exchange(post(&format!("/alpha/{name}"), &token, "{}")).await;
                client.exchange(post(&format!("/{name}/search"), &token, "{}")).await;
                client.exchange(post(&format!("/alpha_{name}"), &token, "{}")).await;
                client.exchange(get(&format!("/alpha/%{number}"), &token)).await;
                client.exchange(get("/", &name)).await;
                client.exchange(head(&format!("M{number}"), "/", &token, &[])).await;
                let id = format!("x-request-id: {name}");
                client.exchange(head("GET", "/alpha", &token, &[&id, "user-agent: many"])).await;
            }
        }
    };
    let series = async || {
        let metrics = scene.gateway.metrics().await.0;
        metrics.lines().filter(|line| !line.starts_with('#')).count()
    };
    flood(1).await;
    until_so("the records of the first flood", || scene.gateway.stdout.all().len() >= 400).await;
    let before = series().await;
    flood(2).await;
    until_so("the records of the second flood", || scene.gateway.stdout.all().len() >= 800).await;
    assert_eq!(series().await, before);
    let metrics = scene.gateway.metrics().await.0;
    assert!(!metrics.contains("x1_") && !metrics.contains("x2_") && !metrics.contains('@'), "{metrics}");
}
