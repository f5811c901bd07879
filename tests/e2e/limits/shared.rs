//! Replicas that count together in a real Redis: within a few calls of one gateway, and each alone while it is away.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::*;
use crate::harness::{
    commands::portcullis,
    fake_peer::Behaviour,
    grants::ADMIN,
    proxies::Proxy,
    raw::RawClient,
    redis::Redis,
    request::{get, post},
};

/// Two gateways with the same grants, peer and Redis.
struct Replicas {
    gateways: [Gateway; 2],
    redis: Redis,
    peer: FakePeer,
    token: String,
    grants: Grants,
}

impl Replicas {
    async fn start(set: impl Fn(Setup) -> Setup) -> Self {
        let redis = Redis::start().await;
        let peer = FakePeer::start().await.with_json("search", json!("found"));
        let peer = peer.with_tool("think", Behaviour::Stall);
        let grants = Grants::of(&["alpha"]).await;
        let one = || async {
            let setup = grants.setup().server("alpha", &peer.url()).set("limits.redis_url", redis.url());
            let gateway = set(setup).start().await;
            gateway.knows_tools("alpha", 2).await;
            gateway.await_metric("portcullis_limits_shared", &[], 1).await;
            gateway
        };
        let gateways = [one().await, one().await];
        Self { gateways, redis, peer, token: email_token(CALLER), grants }
    }

    async fn nginx(&self) -> Proxy {
        Proxy::nginx_in_turn(&[&self.gateways[0].address(), &self.gateways[1].address()]).await
    }

    /// Calls through `addresses` with so many clients until told to stop: how often each status came, and the longest wait.
    fn load(&self, addresses: &[String], clients: usize) -> Load {
        let load = Load::default();
        let request = post("/alpha/search", &self.token, "{}");
        for client in 0..clients {
            let (load, request) = (load.clone(), request.clone());
            let address = addresses[client % addresses.len()].clone();
            tokio::spawn(async move {
                let mut client = RawClient::connect(&address).await;
                while !load.is_over.load(Ordering::SeqCst) {
                    let began = Instant::now();
                    let answer = client.exchange(&request).await;
                    load.note(answer.status, began.elapsed());
                }
                load.ended.fetch_add(1, Ordering::SeqCst);
            });
        }
        load.clients.store(clients, Ordering::SeqCst);
        load
    }
}

#[derive(Clone, Default)]
struct Load {
    is_over: Arc<AtomicBool>,
    clients: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    seen: Arc<std::sync::Mutex<(BTreeMap<u16, usize>, Duration)>>,
}

impl Load {
    fn note(&self, status: u16, took: Duration) {
        let mut seen = self.seen.lock().unwrap();
        *seen.0.entry(status).or_default() += 1;
        seen.1 = seen.1.max(took);
    }

    fn count(&self, status: u16) -> usize {
        self.seen.lock().unwrap().0.get(&status).copied().unwrap_or_default()
    }

    async fn stop(self) -> (BTreeMap<u16, usize>, Duration) {
        self.is_over.store(true, Ordering::SeqCst);
        let all = self.clients.load(Ordering::SeqCst);
        crate::harness::deadline::until_so("the end of the load", || {
            self.ended.load(Ordering::SeqCst) == all
        })
        .await;
        self.seen.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn two_gateways_behind_nginx_share_a_limit_within_five_per_cent() {
    let replicas = Replicas::start(|setup| setup.set("limits.calls_per_caller", "50/s, burst 200")).await;
    let nginx = replicas.nginx().await;
    let began = Instant::now();
    let load = replicas.load(&[nginx.address()], 16);
    crate::harness::deadline::until_so("four seconds of load", || began.elapsed() > Duration::from_secs(4))
        .await;
    let (seen, _) = load.stop().await;
    let took = began.elapsed().as_secs_f64();
    let (passed, allowed) = (seen[&200] as f64, 200.0 + 50.0 * took);
    println!("{passed} passed of {allowed:.0} allowed in {took:.2} s; {seen:?}");
    assert!((passed - allowed).abs() <= 0.05 * allowed, "{passed} passed, {allowed} were allowed: {seen:?}");
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [200, 429], "{seen:?}");
    assert_eq!(replicas.peer.requests().len(), seen[&200]);
    for gateway in &replicas.gateways {
        let served =
            gateway.metrics().await.sum("portcullis_requests_total", &[("outcome", "tool_answered")]);
        assert!(served > 0.2 * passed, "both take part: {served} of {passed}");
        assert_eq!(gateway.metrics().await.sum("portcullis_limits_counted_alone_total", &[]), 0.0);
    }
}

#[tokio::test]
async fn what_one_gateway_counted_the_other_knows_and_redis_learns_no_name() {
    let replicas = Replicas::start(|setup| {
        setup.set("limits.calls_per_caller", "4/h").set("limits.requests_per_address", "4/h")
    })
    .await;
    let [first, second] = &replicas.gateways;
    let mut statuses = Vec::new();
    for gateway in [first, second, second, first, second, first] {
        let answer = gateway.call("/alpha/search", &replicas.token, &json!({})).await;
        statuses.push(answer.status.as_u16());
        if answer.status == 429 {
            assert!((890..=900).contains(&retry_after(&answer)), "{}", retry_after(&answer));
        }
    }
    assert_eq!(statuses, passing_then_limited(4, 2));
    // Failures at one address, too.
    let mut statuses = Vec::new();
    for gateway in [first, second, second, first, second, first] {
        let bad = get("/servers", "bad.bad.bad");
        let mut client = RawClient::connect_from("127.0.0.2", &gateway.address()).await;
        statuses.push(client.exchange(bad).await.status);
    }
    assert_eq!(statuses, [401, 401, 401, 401, 429, 429]);
    let mut keys = replicas.redis.keys().await;
    // What the looks write is gone again at once.
    keys.retain(|key| key != "portcullis:limit:look");
    assert!(!keys.is_empty() && keys.iter().all(|key| key.starts_with("portcullis:limit:")), "{keys:?}");
    assert!(!keys.iter().any(|key| key.contains('@') || key.contains("127.")), "{keys:?}");
    for key in keys {
        assert!((1..=3_601).contains(&replicas.redis.seconds_left(&key).await), "{key} stays");
    }
}

#[tokio::test]
async fn redis_that_dies_under_load_fails_no_call_and_limits_go_on_in_each_gateway() {
    let mut replicas = Replicas::start(|setup| setup.set("limits.calls_per_caller", "20/s, burst 20")).await;
    let addresses: Vec<_> = replicas.gateways.iter().map(Gateway::address).collect();
    let load = replicas.load(&addresses, 8);
    crate::harness::deadline::until_so("calls that pass and are refused", || load.count(429) > 50).await;
    replicas.redis.kill().await;
    for gateway in &replicas.gateways {
        gateway.await_metric("portcullis_limits_shared", &[], 0).await;
    }
    let (before, since) = (load.count(200), Instant::now());
    crate::harness::deadline::until_so("two seconds alone", || since.elapsed() > Duration::from_secs(2))
        .await;
    let alone = load.count(200) - before;
    let most = 2.0 * (20.0 + 20.0 * since.elapsed().as_secs_f64());
    assert!(alone > 0 && alone as f64 <= most * 1.05, "{alone} passed while each counted alone, of {most}");
    replicas.redis.start_again().await;
    for gateway in &replicas.gateways {
        gateway.await_metric("portcullis_limits_shared", &[], 1).await;
    }
    let (seen, longest) = load.stop().await;
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [200, 429], "{seen:?}");
    println!("{seen:?}, longest {longest:?}");
    for gateway in &replicas.gateways {
        assert!(gateway.metrics().await.sum("portcullis_limits_counted_alone_total", &[]) > 0.0);
        let written = gateway.stderr.text();
        let told = written.lines().filter(|line| line.contains("in each replica alone")).count();
        assert_eq!(told, 1, "one line, not one a call:\n{written}");
    }
}

#[tokio::test]
async fn redis_that_hangs_costs_one_short_wait_and_not_one_a_call() {
    let replicas = Replicas::start(|setup| {
        setup.set("limits.calls_per_caller", "1000/s").set("limits.redis_deadline_millis", 100)
    })
    .await;
    let [gateway, _] = &replicas.gateways;
    assert_eq!(gateway.call("/alpha/search", &replicas.token, &json!({})).await.status, 200);
    replicas.redis.signal("STOP");
    let mut waits = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        assert_eq!(gateway.call("/alpha/search", &replicas.token, &json!({})).await.status, 200);
        waits.push(began.elapsed());
    }
    waits.sort_unstable();
    println!("with Redis stopped: median {:?}, longest {:?}", waits[10], waits[19]);
    assert!(waits[10] < Duration::from_millis(80), "calls go on waiting: {waits:?}");
    assert!(waits[19] >= Duration::from_millis(90), "the first one waits for it: {waits:?}");
    gateway.await_metric("portcullis_limits_shared", &[], 0).await;
    replicas.redis.signal("CONT");
    gateway.await_metric("portcullis_limits_shared", &[], 1).await;
    assert_eq!(gateway.call("/alpha/search", &replicas.token, &json!({})).await.status, 200);
}

#[tokio::test]
async fn redis_that_takes_no_writes_is_away_until_it_does() {
    let replicas = Replicas::start(|setup| setup.set("limits.calls_per_caller", "1000/s")).await;
    let [gateway, _] = &replicas.gateways;
    for (refuses, takes) in [
        (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]),
        (["CONFIG", "SET", "min-replicas-to-write", "1"], ["CONFIG", "SET", "min-replicas-to-write", "0"]),
    ] {
        let lines = || gateway.stderr.all().iter().filter(|line| line.contains("Redis")).count();
        let before = lines() + 1;
        replicas.redis.run(&refuses).await;
        // Nobody has to call for it to be seen.
        gateway.await_metric("portcullis_limits_shared", &[], 0).await;
        crate::harness::deadline::until_so("a line about it", || lines() == before).await;
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(2) {
            assert_eq!(gateway.call("/alpha/search", &replicas.token, &json!({})).await.status, 200);
            assert_eq!(gateway.metrics().await.sum("portcullis_limits_shared", &[]), 0.0);
        }
        assert_eq!(lines(), before, "told once: {}", gateway.stderr.text());
        replicas.redis.run(&takes).await;
        gateway.await_metric("portcullis_limits_shared", &[], 1).await;
        crate::harness::deadline::until_so("a line about its return", || lines() == before + 1).await;
    }
}

#[tokio::test]
async fn what_redis_leaves_is_told_with_the_time_until_the_next() {
    // One every six seconds.
    let replicas = Replicas::start(|setup| setup.set("limits.calls_per_caller", "600/h")).await;
    let told = || async {
        let answer = replicas.gateways[0].call("/alpha/search", &replicas.token, &json!({})).await;
        assert_eq!(answer.status, 200, "all of them were told the whole time between two");
        let told = answer.header("ratelimit").unwrap().to_owned();
        told.rsplit_once("t=").unwrap().1.parse::<u64>().unwrap()
    };
    assert_eq!(told().await, 6);
    crate::harness::deadline::until("the next to be nearer", || async {
        (1..=4).contains(&told().await).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_gateway_that_starts_without_its_redis_serves_and_finds_it_later() {
    let mut redis = Redis::start().await;
    redis.kill().await;
    let scene = Scene::start(|setup| {
        setup.set("limits.redis_url", redis.url()).set("limits.calls_per_caller", "3/h")
    })
    .await;
    assert_eq!(scene.statuses("/alpha/search", 2).await, [200; 2]);
    scene.gateway.await_metric("portcullis_limits_shared", &[], 0).await;
    redis.start_again().await;
    scene.gateway.await_metric("portcullis_limits_shared", &[], 1).await;
    assert_eq!(
        scene.statuses("/alpha/search", 2).await,
        [200, 429],
        "what was counted alone still counts here"
    );
}

#[tokio::test]
async fn check_says_when_the_redis_cannot_be_reached() {
    let mut redis = Redis::start().await;
    let grants = Grants::of(&[]).await;
    let folder = grants.setup().set("limits.redis_url", redis.url()).write();
    let there = portcullis(folder.path(), &["check", "--connect"]).await;
    assert!(there.code == 0 && !there.stderr.contains("limits.redis_url"), "{there:?}");
    redis.kill().await;
    let away = portcullis(folder.path(), &["check", "--connect"]).await;
    assert!(away.code == 0 && away.stderr.contains("each replica would count alone"), "{away:?}");
}

#[tokio::test]
async fn two_gateways_behind_nginx_see_a_revocation_of_either_at_once() {
    let replicas = Replicas::start(|setup| setup.set("limits.calls_per_caller", "off")).await;
    let nginx = replicas.nginx().await;
    let call = async || {
        let mut client = RawClient::connect(&nginx.address()).await;
        client.exchange(&post("/alpha/search", &replicas.token, "{}")).await.status
    };
    for (turn, gateway) in replicas.gateways.iter().enumerate() {
        assert_eq!([call().await, call().await], [200, 200], "before, time {turn}");
        let words = |verb| [verb, "--user", CALLER, "alpha"];
        assert_eq!(portcullis(gateway.folder.path(), &words("revoke")).await.code, 0);
        let revoked = Instant::now();
        // Both, as each takes every other connection.
        let mut refused = 0;
        while refused < 10 {
            refused = if call().await == 403 { refused + 1 } else { 0 };
            assert!(revoked.elapsed() < Duration::from_secs(2), "still called, time {turn}");
        }
        assert_eq!(portcullis(gateway.folder.path(), &words("grant")).await.code, 0);
        for gateway in &replicas.gateways {
            crate::harness::deadline::until("the grant", || async {
                let answer = gateway.call("/alpha/search", &replicas.token, &json!({})).await;
                (answer.status == 200).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_revocation_while_both_gateways_are_asked_takes_neither_from_others() {
    let replicas = Replicas::start(|setup| setup.set("limits.calls_per_caller", "off")).await;
    let nginx = replicas.nginx().await;
    let mut hanging = Vec::new();
    for _ in 0..4 {
        let mut client = RawClient::connect(&nginx.address()).await;
        client.send(post("/alpha/think", &replicas.token, "{}")).await;
        hanging.push(client);
    }
    replicas.peer.arrived(4).await;
    replicas.grants.take_back(CALLER, "alpha").await;
    for mut client in hanging {
        let told = client.read_answer().await;
        assert_eq!((told.status, &told.json()["code"]), (403, &json!("not_granted")));
    }
    // nginx leaves a gateway alone for ten seconds that hangs up on it.
    let other = email_token(ADMIN);
    for call in 0..20 {
        let mut client = RawClient::connect(&nginx.address()).await;
        let answer = client.exchange(post("/alpha/search", &other, "{}")).await;
        assert_eq!(answer.status, 200, "call {call}: {}", answer.text());
    }
    for gateway in &replicas.gateways {
        let served =
            gateway.metrics().await.sum("portcullis_requests_total", &[("outcome", "tool_answered")]);
        assert_eq!(served, 10.0, "in turn");
    }
}
