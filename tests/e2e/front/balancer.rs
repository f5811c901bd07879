//! Load balancers that tell whom they speak for: the PROXY protocol of real haproxy, and `X-Forwarded-For`.

use std::time::Duration;

use super::*;
use crate::harness::{
    grants::STRANGER,
    raw::{RawAnswer, RawClient},
    request::{get, head},
    tokens::email_token,
};

const V2: &str = "send-proxy-v2";
const V1: &str = "send-proxy";

struct Behind {
    gateway: Gateway,
    _grants: Grants,
}

impl Behind {
    async fn start(set: impl Fn(Setup) -> Setup) -> Self {
        let peer = FakePeer::start().await;
        let grants = Grants::of(&["github"]).await;
        let gateway = set(grants.setup().server("github", &peer.url())).start().await;
        gateway.await_grants(2).await;
        Self { gateway, _grants: grants }
    }

    async fn haproxy(&self, version: &str) -> Proxy {
        let spoken = format!("{version} check");
        let replaced = [("send-proxy-v2 check", spoken.as_str())];
        Proxy::haproxy("haproxy-balancer.cfg", &self.gateway.address(), &[], &replaced, &[]).await
    }

    /// The client's address in the log of this answer.
    async fn client_of(&self, answer: &Answer) -> String {
        let line = logged(&self.gateway, answer.header("x-request-id").unwrap()).await;
        line["client"].as_str().unwrap().to_owned()
    }

    async fn client_of_raw(&self, answer: &RawAnswer) -> String {
        let line = logged(&self.gateway, answer.head.header("x-request-id").unwrap()).await;
        line["client"].as_str().unwrap().to_owned()
    }

    async fn raw(&self) -> RawClient {
        RawClient::connect(&self.gateway.address()).await
    }
}

fn introduced(setup: Setup) -> Setup {
    setup.set("listen.balancers", vec!["127.0.0.1/32"]).set("listen.proxy_protocol", true)
}

#[tokio::test]
async fn haproxy_tells_by_the_proxy_protocol_whom_it_speaks_for() {
    let scene = Behind::start(introduced).await;
    for version in [V2, V1] {
        let proxy = scene.haproxy(version).await;
        let far = client_at("127.0.0.9");
        for _ in 0..2 {
            // The second one on the connection of the first.
            let request = far.get(proxy.url("/servers")).bearer_auth(email_token(CALLER));
            let answer = scene.gateway.send(request.header("x-forwarded-for", "198.51.100.1")).await;
            assert_eq!(answer.status, 200, "{version}: {} {}", answer.text(), proxy.said());
            assert_eq!(scene.client_of(&answer).await, "127.0.0.9", "{version}");
        }
    }
}

#[tokio::test]
async fn the_header_may_come_in_pieces_and_not_a_byte_behind_it_is_lost() {
    let scene = Behind::start(introduced).await;
    let v1 = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n".to_vec();
    let v2 =
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[192, 0, 2, 7, 10, 0, 0, 1, 0, 80, 1, 187]].concat();
    for (header, client) in [(&v1, "2001:db8::7"), (&v2, "192.0.2.7")] {
        let mut slow = scene.raw().await;
        for byte in header {
            slow.send([*byte]).await;
        }
        let answer = slow.exchange(get("/servers", &email_token(CALLER))).await;
        assert_eq!((answer.status, scene.client_of_raw(&answer).await.as_str()), (200, client));
        let again = slow.exchange(get("/health", "")).await;
        assert_eq!((again.status, scene.client_of_raw(&again).await.as_str()), (200, client));

        let mut at_once = scene.raw().await;
        let answer = at_once.exchange([header, get("/health", "").as_bytes()].concat()).await;
        assert_eq!((answer.status, scene.client_of_raw(&answer).await.as_str()), (200, client));
    }
    let mut local = scene.raw().await;
    let answer = local.exchange([b"PROXY UNKNOWN\r\n", get("/health", "").as_bytes()].concat()).await;
    assert_eq!((answer.status, scene.client_of_raw(&answer).await.as_str()), (200, "127.0.0.1"));
}

#[tokio::test]
async fn a_balancer_that_does_not_say_for_whom_is_closed_and_nobody_else_is_asked() {
    let scene = Behind::start(introduced).await;
    let long = "x".repeat(200);
    for beginning in [
        get("/health", ""),
        format!("PROXY TCP4 300.0.0.1 10.0.0.1 1 2\r\n{}", get("/health", "")),
        format!("PROXY UNKNOWN {long}\r\n"),
        format!("\r\n\r\n\0\r\nQUIT\n\x21\x11\x7f\x7f{long}"),
    ] {
        let mut client = scene.raw().await;
        client.send(&beginning).await;
        assert!(client.is_closed_within(Duration::from_secs(10)).await, "{beginning:?}");
    }
    let closed = scene.gateway.metrics().await;
    assert_eq!(closed.sum("portcullis_connections_closed_total", &[("reason", "no_proxy_header")]), 4.0);

    let direct = client_at("127.0.0.7");
    let answer = scene.gateway.send(direct.get(scene.gateway.url("/health"))).await;
    assert_eq!((answer.status.as_u16(), scene.client_of(&answer).await.as_str()), (200, "127.0.0.7"));
    let mut stranger = RawClient::connect_from("127.0.0.7", &scene.gateway.address()).await;
    let answer =
        stranger.exchange(["PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n", &get("/health", "")].concat()).await;
    assert_eq!(answer.status, 400, "to the gateway it is a request, and none that can be read");
}

#[tokio::test]
async fn a_balancer_that_begins_and_goes_no_further_is_cut_off() {
    let scene = Behind::start(|setup| introduced(setup).set("listen.header_timeout_secs", 1)).await;
    for beginning in ["", "P", "PROXY TCP4 192.0.2.7 ", "\r\n\r\n\0\r\nQUIT\n"] {
        let mut client = scene.raw().await;
        client.send(beginning).await;
        assert!(client.is_closed_within(Duration::from_secs(10)).await, "{beginning:?}");
    }
}

#[tokio::test]
async fn of_forwarded_addresses_the_nearest_that_is_no_balancer_counts() {
    let listed = |setup: Setup| setup.set("listen.balancers", vec!["127.0.0.1/32", "10.0.0.0/8"]);
    let scene = Behind::start(listed).await;
    for (lines, client) in [
        (&["x-forwarded-for: 198.51.100.1"][..], "198.51.100.1"),
        (&["x-forwarded-for: 1.1.1.1, 198.51.100.1, 10.0.0.3"], "198.51.100.1"),
        (&["X-Forwarded-For: 1.1.1.1", "x-forwarded-for: [2001:db8::1]:4711 , 10.0.0.3"], "2001:db8::1"),
        (&["x-forwarded-for: 198.51.100.1, unknown"], "127.0.0.1"),
        (&["forwarded: for=198.51.100.1", "x-real-ip: 198.51.100.1"], "127.0.0.1"),
        (&[], "127.0.0.1"),
    ] {
        let answer = scene.raw().await.exchange(head("GET", "/health", "", lines)).await;
        assert_eq!((answer.status, scene.client_of_raw(&answer).await.as_str()), (200, client), "{lines:?}");
    }
    let mut stranger = RawClient::connect_from("127.0.0.7", &scene.gateway.address()).await;
    let answer = stranger.exchange(head("GET", "/health", "", &["x-forwarded-for: 198.51.100.1"])).await;
    assert_eq!(scene.client_of_raw(&answer).await, "127.0.0.7");
}

#[tokio::test]
async fn what_a_balancer_tells_is_for_the_log_unless_it_is_trusted_for_more() {
    let asked = |proxy: &Proxy, from: &str| {
        let request = client_at(from).get(proxy.url("/servers")).header("x-user-email", CALLER);
        request.header("x-forwarded-for", "127.0.0.8")
    };
    let believing = |trusted: &'static str| {
        move |setup: Setup| {
            let setup = introduced(setup).set("auth.gateway.enabled", true);
            setup.set("auth.gateway.trusted_proxies", vec![trusted])
        }
    };
    // Everybody comes from haproxy's address: to trust it would be to trust everybody.
    let scene = Behind::start(believing("127.0.0.8")).await;
    let proxy = scene.haproxy(V2).await;
    assert_eq!(scene.gateway.send(asked(&proxy, "127.0.0.8")).await.code(), "no_credential");

    let told = |setup| believing("127.0.0.8")(setup).set("auth.gateway.trust_told_address", true);
    let scene = Behind::start(told).await;
    let proxy = scene.haproxy(V2).await;
    assert_eq!(scene.gateway.send(asked(&proxy, "127.0.0.8")).await.status, 200);
    assert_eq!(scene.gateway.send(asked(&proxy, "127.0.0.9")).await.code(), "no_credential");
    let beside = asked(&proxy, "127.0.0.9").bearer_auth(email_token(STRANGER));
    assert_eq!(scene.gateway.send(beside).await.json()["total_servers"], 0, "their own token counts");
    // Past haproxy, from the trusted address itself.
    let direct = client_at("127.0.0.8").get(scene.gateway.url("/servers")).header("x-user-email", CALLER);
    assert_eq!(scene.gateway.send(direct).await.status, 200);
    let pretending = client_at("127.0.0.9").get(scene.gateway.url("/servers")).header("x-user-email", CALLER);
    let pretending = pretending.header("x-forwarded-for", "127.0.0.8");
    assert_eq!(scene.gateway.send(pretending).await.code(), "no_credential");
}
