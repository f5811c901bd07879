//! TLS on the listener: what is agreed on, what is not, and certificates that change while calls go on.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

use crate::harness::{
    certificates::Authority,
    deadline::{until, until_so, within},
    fake_peer::{Behaviour, FakePeer},
    gateway::{Gateway, Setup},
    grants::{CALLER, Grants},
    raw::RawClient,
    request::{get, post},
    tokens::email_token,
};

struct Scene {
    gateway: Gateway,
    authority: Authority,
    peer: FakePeer,
    _grants: Grants,
}

async fn start(set: impl FnOnce(Setup) -> Setup) -> Scene {
    let peer = FakePeer::start().await.with_json("search", json!(1)).with_tool("watch", Behaviour::Hold);
    let (grants, authority) = (Grants::of(&["alpha"]).await, Authority::new());
    let setup = grants.setup().server("alpha", &peer.url()).tls(&authority);
    let gateway = set(setup).start().await;
    gateway.knows_tools("alpha", 2).await;
    Scene { gateway, authority, peer, _grants: grants }
}

impl Scene {
    /// What real curl gets of a call: its answer, version and status.
    async fn curl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("curl");
        command.args(["-sS", "--cacert", &self.authority.root(), "-d", "{}"]).args(arguments);
        command.args(["-H", &format!("authorization: Bearer {}", email_token(CALLER))]);
        command.args(["-w", " %{http_version} %{http_code}"]);
        command.arg(format!("https://{}/alpha/search", self.gateway.address()));
        let output = within("curl", command.output()).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    async fn failed_handshakes(&self) -> f64 {
        let metrics = self.gateway.metrics().await;
        metrics.sum("portcullis_connections_closed_total", &[("reason", "tls_handshake")])
    }
}

#[tokio::test]
async fn curl_calls_over_tls_1_2_and_1_3_and_over_http_1_and_2() {
    let scene = start(|setup| setup).await;
    assert_eq!(scene.curl(&["--http1.1", "--tls-max", "1.2"]).await, "1 1.1 200");
    assert_eq!(scene.curl(&["--http1.1", "--tlsv1.3"]).await, "1 1.1 200");
    assert_eq!(scene.curl(&["--http2", "--tlsv1.3"]).await, "1 2 200");
    assert_eq!(scene.curl(&["--http2", "--tls-max", "1.2"]).await, "1 2 200");
    assert_eq!(scene.curl(&["--no-alpn"]).await, "1 1.1 200");
}

#[tokio::test]
async fn what_is_not_tls_is_closed_and_counted_and_a_look_at_the_port_is_not() {
    let scene = start(|setup| setup.set("listen.header_timeout_secs", 1)).await;
    let address = scene.gateway.address();
    drop(TcpStream::connect(&address).await.unwrap());

    let mut plain = TcpStream::connect(&address).await.unwrap();
    plain.write_all(get("/health", "").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Closed or reset, after an alert at most.
    drop(within("the end", plain.read_to_end(&mut answer)).await);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");

    let mut stalled = TcpStream::connect(&address).await.unwrap();
    stalled.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    let begun = Instant::now();
    drop(within("the end", stalled.read_to_end(&mut answer)).await);
    assert!(begun.elapsed() > Duration::from_millis(500), "{:?}", begun.elapsed());

    until("both counted", || async { (scene.failed_handshakes().await == 2.0).then_some(()) }).await;
    assert_eq!(scene.curl(&[]).await, "1 2 200");
    assert_eq!(scene.failed_handshakes().await, 2.0);

    let mut silent = RawClient::connect(&address).await;
    assert!(silent.is_closed_within(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn the_proxy_protocol_comes_before_tls() {
    let scene =
        start(|setup| setup.set("listen.balancers", vec!["127.0.0.1/32"]).set("listen.proxy_protocol", true))
            .await;
    for protocol in [&b"http/1.1"[..], b"h2"] {
        let mut socket = TcpStream::connect(scene.gateway.address()).await.unwrap();
        socket.write_all(b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n").await.unwrap();
        let stream = scene.authority.agree(socket, &[protocol]).await.unwrap();
        if protocol == b"h2" {
            let (send, connection) = h2::client::handshake(stream).await.unwrap();
            let driver = tokio::spawn(connection);
            let request = http::Request::get("https://gateway/health").body(()).unwrap();
            let (answer, _) = send.ready().await.unwrap().send_request(request, true).unwrap();
            assert_eq!(within("an answer", answer).await.unwrap().status(), 200);
            driver.abort();
        } else {
            let mut stream = stream;
            stream.write_all(get("/health", "").as_bytes()).await.unwrap();
            let mut answer = [0; 12];
            within("an answer", stream.read_exact(&mut answer)).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
        }
    }
    let is_told = |line: &&String| line.contains("\"client\":\"192.0.2.7\"");
    until_so("both in the log", || scene.gateway.stdout.all().iter().filter(is_told).count() == 2).await;
}

#[tokio::test]
async fn a_certificate_is_rotated_under_load_without_a_failed_handshake_or_a_broken_stream() {
    let scene = start(|setup| setup).await;
    let address = scene.gateway.address();
    let mut stream = scene.authority.connect(&address, &[b"http/1.1"]).await.unwrap();
    stream.write_all(&post("/alpha/watch", &email_token(CALLER), "{}")).await.unwrap();
    let held = scene.peer.held().await;
    held.send("data: before\n\n");
    let before = scene.authority.connect(&address, &[]).await.unwrap();
    let before = before.get_ref().1.peer_certificates().unwrap()[0].to_vec();

    for _ in 0..3 {
        let new = scene.authority.issue();
        assert_ne!(new, before);
        let issued = Instant::now();
        loop {
            // Every handshake has to succeed, with one certificate or the other.
            let client = scene.authority.connect(&address, &[b"h2", b"http/1.1"]).await.unwrap();
            if client.get_ref().1.peer_certificates().unwrap()[0].as_ref() == new {
                break;
            }
            assert!(issued.elapsed() < Duration::from_secs(4), "not in use after {:?}", issued.elapsed());
        }
    }
    assert_eq!(scene.failed_handshakes().await, 0.0);
    held.send("data: after\n\n");
    let mut got = Vec::new();
    while !String::from_utf8_lossy(&got).contains("data: after") {
        let mut piece = [0; 1024];
        let length = within("the stream", stream.read(&mut piece)).await.unwrap();
        assert!(length > 0, "the stream ended");
        got.extend_from_slice(&piece[..length]);
    }
    let expires = scene.gateway.metrics().await.sum("portcullis_certificate_expires_timestamp_seconds", &[]);
    assert!(expires > 1.7e9, "{expires}");
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_is_told_once() {
    let scene = start(|setup| setup).await;
    let key = std::fs::read_to_string(scene.authority.folder.path().join("gateway.key")).unwrap();
    scene.authority.write("gateway.key", "nonsense");
    let is_told =
        |line: &str| line.contains("gateway.key` holds no private key; the certificate before stays");
    scene.gateway.stderr.find("word of it", is_told).await;
    assert_eq!(scene.gateway.metrics().await.sum("portcullis_certificate_unusable", &[]), 1.0);
    assert_eq!(scene.curl(&[]).await, "1 2 200");
    scene.authority.write("gateway.key", &key);
    until("all good again", || async {
        (scene.gateway.metrics().await.sum("portcullis_certificate_unusable", &[]) == 0.0).then_some(())
    })
    .await;
    assert_eq!(scene.gateway.stderr.all().iter().filter(|line| is_told(line)).count(), 1);
    let is_mended = |line: &str| line.contains("and its key are again those that are in use");
    scene.gateway.stderr.find("word of its end", is_mended).await;
}
