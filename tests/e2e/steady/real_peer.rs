//! Real mcpo, killed and started again beside another one.

use std::time::Duration;

use tokio::process::Command;

use super::{SPAN, calls, in_front_of};
use crate::harness::{
    deadline::until,
    events::EventPeer,
    grants::{CALLER, Grants},
    load::Plan,
    mcp::Server,
    port::Port,
    postgres::given,
    request::post_with,
    tokens::email_token,
};

/// mcpo in front of the time server, on this port.
async fn mcpo(port: Port) -> Server {
    Server::start_on(port, |port| {
        let mut command = Command::new(given("PORTCULLIS_TEST_MCPO"));
        command.args(["--host", "127.0.0.1", "--port", &port.number().to_string(), "--"]);
        command.arg(given("PORTCULLIS_TEST_TIME_SERVER")).args(["--local-timezone", "Etc/UTC"]);
        command
    })
    .await
}

#[tokio::test]
async fn a_real_peer_that_is_killed_fails_no_call_that_may_be_repeated_and_soon_none_at_all() {
    let good = EventPeer::start(Duration::from_millis(50));
    let mut peers = [Some(mcpo(Port::take()).await), Some(mcpo(Port::take()).await)];
    let grants = Grants::of(&["alpha", "native", "time"]).await;
    let urls: toml::Value = peers.iter().flatten().map(|peer| peer.url("")).collect::<Vec<_>>().into();
    let keys = toml::Table::from_iter([("url".to_owned(), urls)]);
    let gateway = in_front_of(&good, grants.setup()).server_with("time", "", keys).start().await;
    gateway.knows_tools("alpha", 2).await;
    until("the tools of the time server", async || {
        (gateway.metrics().await.sum("portcullis_tools", &[("server", "time")]) > 0.0).then_some(())
    })
    .await;

    let (token, arguments) = (email_token(CALLER), r#"{"timezone":"Europe/Berlin"}"#);
    let plan = |lines: &[&str]| {
        let lines = [&["content-type: application/json"], lines].concat();
        let requests = vec![post_with("/time/get_current_time", &token, &lines, arguments)];
        Plan { callers: 2, ..Plan::of(gateway.address(), requests) }
    };
    let others = calls(&gateway).start();
    let safe = plan(&["idempotency-key: 0a1b2c3d"]).start();
    let risky = plan(&[]).start();
    risky.run_for(SPAN).await.all_worked("with both");
    for (turn, peer) in peers.iter_mut().enumerate() {
        let port = peer.take().unwrap().kill().await;
        // A call that it had taken may be lost to who did not say that it may be made twice.
        risky.run_for(Duration::from_millis(300)).await;
        risky.run_for(SPAN).await.all_worked(&format!("with one, time {turn}"));
        safe.take().all_worked(&format!("with one, time {turn}"));
        *peer = Some(mcpo(port).await);
        until("both called", async || {
            let healthy = [("server", "time"), ("state", "healthy")];
            (gateway.metrics().await.sum("portcullis_peers", &healthy) == 2.0).then_some(())
        })
        .await;
        risky.run_for(SPAN).await.all_worked(&format!("with both again, time {turn}"));
    }
    safe.end().await.all_worked("those that may be repeated");
    risky.end().await.none_failed("at the end");
    others.end().await.all_worked("callers of another server");
}
