//! Peers that are there and no good: silent, dripping, talking nonsense, or saying more than anybody wants.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Load, call, good, healthy, start, timed, with_peers, working};
use crate::harness::{
    deadline::until,
    fake_peer::{Behaviour, FakePeer},
    grants::{CALLER, Grants},
    tokens::email_token,
    wire::answer,
};

async fn bad(behaviour: Behaviour) -> FakePeer {
    FakePeer::start().await.with_tool("work", behaviour)
}

#[tokio::test]
async fn a_peer_that_swallows_calls_gets_no_more_than_a_few_and_harms_neither_peers_nor_servers() {
    let (well, silent) = (working().await, working().await);
    let grants = Grants::of(&["alpha", "beta"]).await;
    let urls = [well.url(), silent.url()];
    let setup = with_peers(grants.setup(), "alpha", &urls, "first_byte_timeout_secs = 1.5");
    let gateway = setup.server("beta", &well.url()).start().await;
    gateway.knows_tools("alpha", 1).await;
    gateway.knows_tools("beta", 1).await;
    let others = Load::begin(&gateway, "/beta/work", 1);
    let load = Load::begin(&gateway, "/alpha/work", 4);
    load.goes_on(20).await;
    silent.set("/openapi.json", Behaviour::Stall);
    silent.set("/work", Behaviour::Stall);
    // Those before were answered.
    let before = silent.requests().len();
    healthy(&gateway, 1).await;
    let swallowed = silent.requests().len() - before;
    // And one more that was being answered when it fell silent.
    assert!(swallowed <= 5, "each caller can wait there once: {swallowed}");
    // Its address is good for nothing, so nothing is tried there.
    load.goes_on(100).await;
    assert_eq!(silent.requests().len() - before, swallowed);
    silent.set("/work", good());
    silent.set("/openapi.json", Behaviour::Answer(answer("200 OK", "application/json", b"{}")));
    healthy(&gateway, 2).await;
    let failures = load.end().await;
    assert!(failures.len() <= 4 && failures.iter().all(|it| it.starts_with("504")), "{failures:?}");
    assert_eq!(others.end().await, [""; 0]);
}

#[tokio::test]
async fn an_answer_has_to_begin_in_time_and_to_end_in_time() {
    let slow = bad(Behaviour::Stall).await;
    let keys = "first_byte_timeout_secs = 0.5\nread_timeout_secs = 20\ntotal_timeout_secs = 1.5";
    let (gateway, _grants) = start(&[&slow], keys).await;
    let (status, time) = timed(&gateway).await;
    assert_eq!(status, 504);
    assert!(time >= Duration::from_millis(450) && time < Duration::from_secs(5), "{time:?}");
    let bytes = answer("200 OK", "application/json", b"\"one letter at a time\"");
    let head = bytes.len() - 22;
    slow.set("/work", Behaviour::Drip { bytes, piece: head, pause: Duration::from_millis(1) });
    assert_eq!(call(&gateway).await.status, 200);
    let bytes = answer("200 OK", "application/json", &[b' '; 400]);
    slow.set("/work", Behaviour::Drip { bytes, piece: 100, pause: Duration::from_millis(400) });
    let began = Instant::now();
    let response =
        gateway.call_request("/alpha/work", &email_token(CALLER), &json!({})).send().await.unwrap();
    assert!(response.bytes().await.is_err(), "it is cut: its head was out");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let failed = [("server", "alpha"), ("outcome", "peer_failed")];
    until("the failures counted", || async {
        (gateway.metrics().await.sum("portcullis_requests_total", &failed) == 2.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_comes_all_the_time_has_to_end_in_time_and_holds_nobody_up() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    for (first, more, status) in [("", "HTTP/1.1 103 Early Hints\r\n\r\n", 504), (head, "1\r\n \r\n", 200)] {
        let flood = bad(Behaviour::Flood(first, more)).await;
        let grants = Grants::of(&["alpha"]).await;
        let keys = "first_byte_timeout_secs = 1\ntotal_timeout_secs = 1.5";
        let setup = with_peers(grants.setup(), "alpha", &[flood.url()], keys).set("listen.threads", 1);
        let gateway = setup.start().await;
        gateway.knows_tools("alpha", 1).await;
        let calling = async {
            let began = Instant::now();
            let request = gateway.call_request("/alpha/work", &email_token(CALLER), &json!({}));
            let response = request.send().await.unwrap();
            let got = response.status().as_u16();
            let is_whole = response.bytes().await.is_ok();
            assert_eq!((got, is_whole), (status, status == 504));
            assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        };
        let others = async {
            loop {
                let began = Instant::now();
                assert_eq!(gateway.get("/openapi.json", &email_token(CALLER)).await.status, 200);
                assert!(began.elapsed() < Duration::from_secs(3), "{more}: {:?}", began.elapsed());
            }
        };
        tokio::select! {
            () = calling => {}
            () = others => {}
        }
    }
}

#[tokio::test]
async fn peers_that_talk_nonsense_hang_up_or_say_they_are_broken_are_left_alone_after_three_calls() {
    for behaviour in [
        Behaviour::AnswerAndClose(b"this is not HTTP at all\r\n\r\n".to_vec()),
        Behaviour::HangUpAfterBody,
        Behaviour::Answer(answer("503 Service Unavailable", "text/plain", b"no backend")),
    ] {
        let (well, sick) = (working().await, bad(behaviour.clone()).await);
        sick.set("/openapi.json", Behaviour::HangUpAfterBody);
        let (gateway, _grants) = start(&[&well, &sick], "").await;
        let mut failures = 0;
        for _ in 0..40 {
            failures += usize::from(call(&gateway).await.status != 200);
        }
        assert!((1..=3).contains(&failures), "{behaviour:?}: {failures}");
        assert_eq!(sick.requests().len(), failures, "{behaviour:?}: nothing is sent twice");
    }
}

#[tokio::test]
async fn a_tool_that_says_no_never_counts_against_its_peer() {
    let no = r#"{"detail":{"message":"Unexpected error","error":"500: {'message': 'no such file'}"}}"#;
    for (status, body) in
        [("422 Unprocessable Entity", "{}"), ("404 Not Found", "{}"), ("500 Internal Server Error", no)]
    {
        let peer = bad(Behaviour::Answer(answer(status, "application/json", body.as_bytes()))).await;
        let (gateway, _grants) = start(&[&peer], "tier = 'stdio'").await;
        for _ in 0..6 {
            assert_eq!(call(&gateway).await.status.as_str(), &status[..3]);
        }
        healthy(&gateway, 1).await;
    }
}

#[tokio::test]
async fn mcpo_whose_program_is_gone_is_left_alone_although_it_answers() {
    let gone = r#"{"detail":{"message":"Unexpected error","error":"500: {'message': 'MCP session is not available'}"}}"#;
    let gone = answer("500 Internal Server Error", "application/json", gone.as_bytes());
    let (well, sick) = (working().await, bad(Behaviour::Answer(gone)).await);
    let (gateway, _grants) = start(&[&well, &sick], "tier = 'stdio'\nhealth = { tool = 'work' }").await;
    for _ in 0..10 {
        call(&gateway).await;
    }
    healthy(&gateway, 1).await;
    sick.arrived(4).await;
    assert_eq!(
        gateway.metrics().await.sum("portcullis_peers", &[("state", "healthy")]),
        1.0,
        "its probe is a call, too"
    );
    sick.set("/work", good());
    healthy(&gateway, 2).await;
}

#[tokio::test]
async fn an_answer_of_a_gigabyte_passes_through_without_being_held() {
    let mut chatty = answer("200 OK", "application/octet-stream", b"");
    let text =
        String::from_utf8(chatty.clone()).unwrap().replace("content-length: 0", "content-length: 1073741824");
    chatty = text.into_bytes();
    assert!(String::from_utf8_lossy(&chatty).contains("1073741824"));
    let peer = Gigabyte::start(chatty).await;
    let grants = Grants::of(&["alpha"]).await;
    let gateway = grants.setup().server("alpha", &format!("http://{}", peer.0)).start().await;
    gateway.knows_tools("alpha", 1).await;
    let before = resident(gateway.id());
    let mut response =
        gateway.call_request("/alpha/work", &email_token(CALLER), &json!({})).send().await.unwrap();
    let (mut bytes, mut most) = (0_u64, 0);
    while let Some(piece) = response.chunk().await.unwrap() {
        bytes += piece.len() as u64;
        if bytes % (64 << 20) < piece.len() as u64 {
            most = most.max(resident(gateway.id()));
        }
    }
    assert_eq!(bytes, 1 << 30);
    assert!(most < before + 64 * 1024, "it grew from {before} to {most} kB");
}

/// Kilobytes that a process has in memory.
fn resident(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A peer whose tool answers with a gigabyte of nothing.
struct Gigabyte(String, tokio::task::AbortHandle);

impl Drop for Gigabyte {
    fn drop(&mut self) {
        self.1.abort();
    }
}

impl Gigabyte {
    async fn start(head: Vec<u8>) -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let tools = std::collections::BTreeMap::from([("work".to_owned(), json!({"type": "object"}))]);
        let list = crate::harness::fake_peer::openapi(&tools).to_string();
        let accepting = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (head, list) = (head.clone(), answer("200 OK", "application/json", list.as_bytes()));
                tokio::spawn(async move {
                    let mut request = vec![0; 4096];
                    while let Ok(length @ 1..) = socket.read(&mut request).await {
                        if request[..length].starts_with(b"GET") {
                            socket.write_all(&list).await?;
                            continue;
                        }
                        socket.write_all(&head).await?;
                        let block = vec![0; 1 << 20];
                        for _ in 0..1024 {
                            socket.write_all(&block).await?;
                        }
                    }
                    std::io::Result::Ok(())
                });
            }
        });
        Self(address, accepting.abort_handle())
    }
}
