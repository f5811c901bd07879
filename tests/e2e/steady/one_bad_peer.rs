//! One server misbehaves in every way, and callers of another notice nothing.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::AbortHandle,
};

use super::{SPAN, calls, in_front_of, open_streams};
use crate::{
    harness::{
        events::EventPeer,
        fake_peer::{Behaviour, FakePeer},
        grants::{CALLER, Grants},
        load::Plan,
        request::post,
        tokens::email_token,
        wire::answer,
    },
    hostile::went_on,
};

/// Answers every request with 1 GB, again and again.
struct Flood {
    url: String,
    accepting: AbortHandle,
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Flood {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = async |mut socket: tokio::net::TcpStream| -> std::io::Result<()> {
            let mut request = [0; 4096];
            socket.read(&mut request).await?;
            if request.starts_with(b"GET /openapi.json") {
                let schema = serde_json::json!({"type": "object", "properties": {}});
                let tools = [("search".to_owned(), schema)].into_iter().collect();
                let document = crate::harness::fake_peer::openapi(&tools).to_string();
                socket.write_all(&answer("200 OK", "application/json", document.as_bytes())).await?;
                return Ok(());
            }
            let length = 1 << 30;
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
            );
            socket.write_all(head.as_bytes()).await?;
            for _ in 0..length >> 16 {
                socket.write_all(&[b'1'; 1 << 16]).await?;
            }
            Ok(())
        };
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(async move { drop(serve(socket).await) });
            }
        });
        Self { url, accepting: accepting.abort_handle() }
    }
}

#[tokio::test]
async fn a_server_that_misbehaves_in_every_way_costs_callers_of_another_nothing() {
    let good = EventPeer::start(Duration::from_millis(50));
    let bad = FakePeer::start().await.with_json("search", serde_json::json!(1));
    let flood = Flood::start().await;
    let grants = Grants::of(&["alpha", "native", "bad", "flood"]).await;
    let setup = in_front_of(&good, grants.setup()).server("bad", &bad.url()).server("flood", &flood.url);
    let gateway = setup.set("upstream.read_timeout_secs", 1).start().await;
    for (server, tools) in [("alpha", 2), ("bad", 1), ("flood", 1)] {
        gateway.knows_tools(server, tools).await;
    }
    let token = email_token(CALLER);
    let streams = open_streams(&gateway, 20).await;
    let load = calls(&gateway).start();
    let before = load.run_for(Duration::from_secs(2)).await;
    let memory = gateway.memory_mib();

    let whole = answer("200 OK", "application/json", &[b'1'; 64]);
    let garbage = b"this is not HTTP at all\r\n\r\n".to_vec();
    for behaviour in [
        Behaviour::Stall,
        Behaviour::StallBeforeBody,
        Behaviour::Drip { bytes: whole, piece: 1, pause: Duration::from_millis(900) },
        Behaviour::AnswerAndClose(garbage),
        Behaviour::HangUpAfterBody,
        Behaviour::HangUpBeforeBody,
    ] {
        bad.set("/search", behaviour.clone());
        let requests = vec![post("/bad/search", &token, "{}")];
        let plan = Plan {
            callers: 20,
            patience: Duration::from_millis(1200),
            ..Plan::of(gateway.address(), requests)
        };
        let victims = plan.start();
        let during = load.run_for(SPAN).await;
        went_on(&format!("beside {behaviour:?}"), &before, &during);
        let victims = victims.end().await;
        assert_eq!(victims.others_than(200), victims.calls(), "{behaviour:?} worked: {victims}");
    }
    // 1 GB each, which one takes and two do not.
    let mut crowd = tokio::task::JoinSet::new();
    for takes in [true, false, false] {
        let (address, request) = (gateway.address(), post("/flood/search", &token, "{}"));
        crowd.spawn(async move {
            let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
            client.write_all(&request).await.unwrap();
            let mut buffer = vec![0; 1 << 16];
            while takes && client.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
            std::future::pending::<()>().await;
        });
    }
    let during = load.run_for(SPAN).await;
    went_on("beside answers of 1 GB", &before, &during);
    let grown = gateway.memory_mib().saturating_sub(memory);
    assert!(grown < 64, "{grown} MiB more");
    drop(crowd);
    load.end().await.none_failed("at the end");
    good.end_streams();
    let (broken, _) = streams.ended().await;
    assert!(broken.is_empty(), "streams broken:\n{broken}");
}
