//! Heads and bodies put together at random: whatever comes of them, never two requests of one.

use std::time::Duration;

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::Scene;
use crate::harness::{raw::RawClient, recorder::Sent, request::post};

const LINES: [&str; 30] = [
    "content-length: 2",
    "content-length: 5",
    "content-length: 0",
    "Content-Length: 12",
    "content-length: 2, 2",
    "content-length : 2",
    "transfer-encoding: chunked",
    "Transfer-Encoding: Chunked",
    "transfer-encoding: identity",
    "transfer-encoding:\tchunked",
    "transfer-encoding: chunked, chunked",
    "transfer-encoding: x",
    "transfer_encoding: chunked",
    " transfer-encoding: chunked",
    " folded",
    "x: y",
    "x:",
    ": y",
    "x",
    "host: gateway",
    "host: other",
    "connection: close",
    "connection: upgrade",
    "upgrade: h2c",
    "te: trailers",
    "x: \u{b}\u{e9}",
    "x: y",
    "y: z",
    "transfer-encoding: chunked",
    "content-length: 2",
];
const ENDS: [&str; 3] = ["\n", "\r", "\r\r\n"];
/// One line in so many ends in another way than with CR LF.
const ODD_ENDS: u32 = 12;
const FIRST: [&str; 6] = [
    "POST /alpha/search HTTP/1.1",
    "POST /alpha/search HTTP/1.1",
    "POST /alpha/search HTTP/1.0",
    "POST /native/mcp HTTP/1.1",
    "POST  /alpha/search HTTP/1.1",
    "GET /servers HTTP/1.1",
];
const BODIES: [&str; 14] = [
    "",
    "{}",
    "2\r\n{}\r\n0\r\n\r\n",
    "2\r\n{}\r\n0\r\n",
    "2\n{}\n0\n\n",
    "2;x\r\n{}\r\n0\r\n\r\n",
    "0\r\n\r\n",
    "2\r\n{}",
    "{}\r\n",
    "02\r\n{}\r\n00\r\nx: y\r\n\r\n",
    "\r\n{}\r\n0\r\n\r\n",
    "5\r\n{}\r\n0\r\n\r\n",
    "ffffffffffffffff\r\n{}",
    "+2\r\n{}\r\n0\r\n\r\n",
];

/// A request of such parts, and where it is cut into pieces.
fn soup() -> impl Strategy<Value = (String, String, Vec<usize>)> {
    let end = || prop_oneof![ODD_ENDS => Just("\r\n"), 1 => prop::sample::select(ENDS.as_slice())];
    let lines = prop::collection::vec((prop::sample::select(LINES.as_slice()), end()), 0..4);
    let parts = (prop::sample::select(FIRST.as_slice()), lines, end(), prop::bool::weighted(0.9));
    let body = prop::sample::select(BODIES.as_slice());
    let cuts = prop::collection::vec(1..400_usize, 0..4);
    (parts, body, cuts).prop_map(|((first, lines, end, has_host), body, cuts)| {
        let host = if has_host { "host: gateway\r\n" } else { "" };
        let lines: String = lines.iter().map(|(line, end)| format!("{line}{end}")).collect();
        (format!("{first}\r\n{host}@{lines}{end}"), body.to_owned(), cuts)
    })
}

#[test]
fn no_soup_of_headers_makes_two_requests_of_one_or_reaches_a_peer_in_another_form() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let scene = runtime.block_on(Scene::start());
    let (answered, asked) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let checked = runner.run(&soup(), |(head, body, cuts)| {
        let before = scene.peer.sent().len();
        asked.set(asked.get() + 1);
        let name = format!("soup-{}", asked.get());
        let lines = format!(
            "authorization: Bearer {}\r\ncontent-type: application/json\r\nx-request-id: {name}\r\n",
            scene.token
        );
        let head = head.replace('@', &lines);
        let (statuses, sent) = runtime.block_on(async {
            let statuses = ask(&scene, &head, &body, &cuts).await;
            (statuses, scene.peer.sent())
        });
        // What was asked before, and given up waiting for, may come to the peer as late as now.
        let is_late = |sent: &Sent| sent.head.contains("x-request-id: soup-") && !sent.head.contains(&name);
        let new: Vec<&Sent> = sent[before..].iter().filter(|sent| !is_late(sent)).collect();
        answered.set(answered.get() + usize::from(statuses == [200]));
        prop_assert!(statuses.len() <= 1, "answered {:?}", statuses);
        prop_assert!(new.len() <= 1, "{:?}", new);
        let is_sent = |got: &[u8]| got == b"{}" || !got.is_empty() && body.as_bytes().starts_with(got);
        let all_sent = new.iter().all(|request| !request.is_whole || is_sent(&request.body));
        prop_assert!(all_sent, "{:?}", new);
        prop_assert!(!String::from_utf8_lossy(&scene.peer.bytes()).contains("smuggled"));
        prop_assert!(statuses.iter().all(|status| (200..500).contains(status)), "{:?}", statuses);
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
    assert!(answered.get() > 20, "{} of all are requests: the soup is too thin", answered.get());
    runtime.block_on(scene.is_unharmed());
}

/// Sends it in these pieces, the last one with a second request behind it, and ends: the statuses that come back.
async fn ask(scene: &Scene, head: &str, body: &str, cuts: &[usize]) -> Vec<u16> {
    let hidden = post("/alpha/search", &scene.token, r#"{"smuggled": true}"#);
    let request = [head.as_bytes(), body.as_bytes()].concat();
    let mut cuts: Vec<_> = cuts.iter().copied().filter(|cut| *cut < request.len()).collect();
    cuts.sort_unstable();
    let mut client = RawClient::connect(&scene.gateway.address()).await;
    let mut from = 0;
    for to in cuts {
        drop(client.try_send(&request[from..to]).await);
        tokio::task::yield_now().await;
        from = to;
    }
    drop(client.try_send([&request[from..], &hidden].concat()).await);
    // Who waits for the rest of a body gives up once nothing more can come.
    client.statuses_to_the_end(Duration::from_millis(20)).await
}
