//! Bodies of 1 GB: passed on as fast as the peer takes them or refused, and never held.

use std::time::Duration;

use super::{crowds::went_on, stated};
use crate::harness::{
    grants::{CALLER, Grants},
    load::Plan,
    raw::RawClient,
    raw_peer::RawPeer,
    request::{chunked, get, head},
    tokens::email_token,
    wire::answer,
};

const TO_A_TOOL: &str = "a body of 1 GB for a tool of a REST server";
const TO_US: &str = "a body of 1 GB for MCP or a page that takes one";

/// The rows of README.md that are checked here.
pub const ROWS: [&str; 2] = [TO_A_TOOL, TO_US];

const GIGABYTE: usize = 1 << 30;
const BEGINNING: &str = "{\"a\": \"";

/// Sends a body of this size; how much was taken.
async fn pour(client: &mut RawClient, is_chunked: bool) -> usize {
    let piece = [b"10000\r\n".as_slice(), &[b'x'; 1 << 16], b"\r\n"].concat();
    let (piece, first) = match is_chunked {
        true => (&piece[..], format!("{:x}\r\n{BEGINNING}\r\n", BEGINNING.len())),
        false => (&piece[7..piece.len() - 2], BEGINNING.to_owned()),
    };
    let mut sent = BEGINNING.len();
    if client.try_send(first).await.is_err() {
        return 0;
    }
    while sent + (1 << 16) <= GIGABYTE {
        if client.try_send(piece).await.is_err() {
            return sent;
        }
        sent += 1 << 16;
    }
    let end = match is_chunked {
        true => format!("{:x}\r\n{}\r\n0\r\n\r\n", GIGABYTE - sent, "x".repeat(GIGABYTE - sent)),
        false => "x".repeat(GIGABYTE - sent),
    };
    let _ = client.try_send(end).await;
    GIGABYTE
}

#[tokio::test]
async fn a_gigabyte_is_passed_on_or_refused_and_never_held() {
    let peer = RawPeer::with_tools(&["upload"]).await;
    let grants = Grants::of(&["alpha"]).await;
    let gateway = grants.setup().server("alpha", &peer.url()).start().await;
    gateway.knows_tools("alpha", 1).await;
    let token = email_token(CALLER);
    let pages = vec![get("/alpha", &token).into_bytes(), get("/servers", &token).into_bytes()];
    let load = Plan { callers: 5, ..Plan::of(gateway.address(), pages) }.start();
    let before = load.run_for(Duration::from_secs(2)).await;
    let memory = gateway.memory_mib();
    let mut most = memory;

    assert!(stated(TO_A_TOOL)[0].starts_with("passed on"));
    for is_chunked in [false, true] {
        let mut client = RawClient::connect(&gateway.address()).await;
        let length = format!("content-length: {GIGABYTE}");
        let head = match is_chunked {
            true => chunked("/alpha/upload", &token),
            false => head("POST", "/alpha/upload", &token, &["content-type: application/json", &length]),
        };
        client.send(head).await;
        let pouring = tokio::spawn(async move {
            let sent = pour(&mut client, is_chunked).await;
            (sent, client)
        });
        let mut call = peer.call().await;
        let mut got = 0;
        while got < GIGABYTE {
            got += match is_chunked {
                true => call.read_chunk().await.expect("the rest of the body").len(),
                false => call.read((GIGABYTE - got).min(1 << 20)).await.len(),
            };
            if got % (1 << 24) < 1 << 16 {
                most = most.max(gateway.memory_mib());
            }
        }
        call.send(answer("200 OK", "application/json", b"[1]")).await;
        let (sent, mut client) = pouring.await.unwrap();
        assert_eq!((sent, got, client.read_answer().await.status), (GIGABYTE, GIGABYTE, 200));
    }
    let refused: u16 = stated(TO_US)[0][..3].parse().unwrap();
    for path in ["/mcp", "/meta/search_tools"] {
        for is_chunked in [false, true] {
            let mut client = RawClient::connect(&gateway.address()).await;
            let length = format!("content-length: {GIGABYTE}");
            client
                .send(match is_chunked {
                    true => chunked(path, &token),
                    false => head("POST", path, &token, &["content-type: application/json", &length]),
                })
                .await;
            let sent = pour(&mut client, is_chunked).await;
            assert!(sent < GIGABYTE / 2, "{path}, in chunks {is_chunked}: {sent} bytes were read");
            let statuses = client.statuses_to_the_end(Duration::from_secs(10)).await;
            // A reset may overtake the answer.
            assert!(statuses == [refused] || statuses.is_empty(), "{path}: {statuses:?}");
            most = most.max(gateway.memory_mib());
        }
    }
    assert!(most - memory < 64, "{} MiB more", most - memory);
    went_on("beside bodies of 1 GB", &before, &load.end().await);
}
