//! Peers that are killed and come back: calls go to the others, and a server that is all gone is refused at once.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use super::{Load, call, done, good, healthy, start, with_peers, working};
use crate::harness::{
    deadline::until,
    fake_peer::{Behaviour, FakePeer},
    gateway::Gateway,
    grants::{CALLER, Grants},
    tokens::email_token,
    wire::answer,
};

#[tokio::test]
async fn one_of_two_peers_that_is_killed_under_load_costs_no_call_and_gets_calls_again_by_itself() {
    let (stays, dies) = (working().await, working().await);
    let (gateway, _grants) = start(&[&stays, &dies], "retry = ['work']").await;
    let load = Load::begin(&gateway, "/alpha/work", 3);
    load.goes_on(60).await;
    assert!(!stays.requests().is_empty() && !dies.requests().is_empty(), "both are called");
    let address = dies.address();
    drop(dies);
    healthy(&gateway, 1).await;
    load.goes_on(60).await;
    let back = FakePeer::start_at(&address).await.with_json("work", done());
    healthy(&gateway, 2).await;
    load.goes_on(60).await;
    back.arrived(5).await;
    assert_eq!(load.end().await, [""; 0]);
    let metrics = gateway.metrics().await;
    assert!(metrics.sum("portcullis_peers_shut_total", &[("server", "alpha")]) >= 1.0);
    assert!(metrics.sum("portcullis_peer_retries_total", &[("reason", "unsent")]) >= 1.0);
    assert!(metrics.sum("portcullis_peer_probes_total", &[("result", "answered")]) >= 1.0);
    let told = gateway.stderr.text();
    assert_eq!(told.matches(&format!("`alpha` is not called at `{address}`")).count(), 1, "{told}");
    assert!(told.contains(&format!("`alpha` is called at `{address}` again")), "{told}");
}

#[tokio::test]
async fn a_server_that_only_restarts_costs_no_call_and_one_that_is_gone_is_refused_at_once() {
    let peer = working().await;
    let (gateway, _grants) = start(&[&peer], "").await;
    assert_eq!(call(&gateway).await.status, 200);
    let address = peer.address();
    drop(peer);
    let waiting = tokio::spawn({
        let request = gateway.call_request("/alpha/work", &email_token(CALLER), &json!({}));
        async move { request.send().await.unwrap().status() }
    });
    healthy(&gateway, 0).await;
    let peer = FakePeer::start_at(&address).await.with_json("work", done());
    assert_eq!(waiting.await.unwrap(), 200, "it waited for the restart");
    healthy(&gateway, 1).await;

    drop(peer);
    // Whoever is there first waits for the restart that does not come.
    until("a refusal that says when to try again", || async {
        let answer = call(&gateway).await;
        (answer.status == 502 && answer.header("retry-after").is_some()).then_some(())
    })
    .await;
    for _ in 0..5 {
        let began = Instant::now();
        let answer = call(&gateway).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "peer_unreachable"));
        assert!(answer.header("retry-after").is_some_and(|wait| wait.parse::<u64>().unwrap() >= 1));
        assert!(began.elapsed() < Duration::from_secs(1), "calls pile up: {:?}", began.elapsed());
    }
    let _peer = FakePeer::start_at(&address).await.with_json("work", done());
    let back = Instant::now();
    until("the server called again", || async { (call(&gateway).await.status == 200).then_some(()) }).await;
    assert!(back.elapsed() < Duration::from_secs(4), "it took {:?}", back.elapsed());
}

/// Probes of a server that were answered.
async fn answered(gateway: &Gateway, server: &str) -> f64 {
    let labels = [("server", server), ("result", "answered")];
    gateway.metrics().await.sum("portcullis_peer_probes_total", &labels)
}

#[tokio::test]
async fn everybody_who_calls_at_once_is_answered_by_a_server_that_is_well_again() {
    let peer = working().await;
    let (gateway, _grants) = start(&[&peer], "").await;
    peer.set("/work", Behaviour::Answer(answer("503 Service Unavailable", "application/json", b"{}")));
    until("a server that is left alone", || async { (call(&gateway).await.status == 502).then_some(()) })
        .await;
    peer.set("/work", good());
    let before = answered(&gateway, "alpha").await;
    until("probes", || async { (answered(&gateway, "alpha").await > before + 1.0).then_some(()) }).await;
    let statuses = join_all((0..20).map(async |_| call(&gateway).await.status.as_u16())).await;
    assert_eq!(statuses, [200; 20]);
}

#[tokio::test]
async fn every_server_is_probed_however_many_there_are() {
    let peer = working().await;
    let ids: Vec<_> = (0..70).map(|number| format!("s{number}")).collect();
    let grants = Grants::of(&["s0"]).await;
    let keys = "health = { every_secs = 1 }";
    let setup = ids.iter().fold(grants.setup(), |setup, id| with_peers(setup, id, &[peer.url()], keys));
    let gateway = setup.start().await;
    for id in &ids {
        let what = format!("probes of {id}");
        until(&what, || async { (answered(&gateway, id).await >= 2.0).then_some(()) }).await;
    }
}
