//! A server with two peers of which one is sick or dies: its callers notice nothing, and it gets calls again once well.
//!
//! Calls with an `Idempotency-Key` may be made again at the other peer when one took them and did not answer. Those without
//! may fail until it is known which peer is sick, and no longer.

use std::time::Duration;

use super::{SPAN, calls, in_front_of, open_streams};
use crate::harness::{
    deadline::until,
    events::EventPeer,
    fake_peer::{Behaviour, FakePeer, openapi},
    gateway::Gateway,
    grants::{CALLER, Grants},
    load::{Load, Plan},
    request::{post, post_with},
    tokens::email_token,
    wire::answer,
};

/// A gateway in front of `alpha` and `native`, both by `good`, and of `pair` by these two.
async fn in_front_of_pair(good: &EventPeer, urls: [String; 2]) -> (Gateway, Grants) {
    let grants = Grants::of(&["alpha", "native", "pair"]).await;
    let urls: toml::Value = urls.to_vec().into();
    let keys = toml::Table::from_iter([("url".to_owned(), urls)]);
    let setup = in_front_of(good, grants.setup()).server_with("pair", "", keys);
    let gateway = setup.set("upstream.read_timeout_secs", 1).start().await;
    gateway.knows_tools("alpha", 2).await;
    until("the tools of the pair", async || {
        (gateway.metrics().await.sum("portcullis_tools", &[("server", "pair")]) > 0.0).then_some(())
    })
    .await;
    (gateway, grants)
}

/// Calls of `pair` that may be made twice, 50 a second.
fn safe(gateway: &Gateway) -> Load {
    let token = email_token(CALLER);
    let lines = ["content-type: application/json", "idempotency-key: 0a1b2c3d"];
    let requests = vec![post_with("/pair/search", &token, &lines, "{}")];
    Plan { callers: 5, ..Plan::of(gateway.address(), requests) }.start()
}

/// Calls of `pair` that may not, 50 a second.
fn unsafe_to_repeat(gateway: &Gateway) -> Load {
    let requests = vec![post("/pair/search", &email_token(CALLER), "{}")];
    Plan { callers: 5, ..Plan::of(gateway.address(), requests) }.start()
}

#[tokio::test]
async fn a_peer_of_two_that_dies_and_comes_back_fails_no_call() {
    let every = Duration::from_millis(50);
    let (good, one, two) = (EventPeer::start(every), EventPeer::start(every), EventPeer::start(every));
    let (gateway, _grants) = in_front_of_pair(&good, [one.url(), two.url()]).await;
    let streams = open_streams(&gateway, 20).await;
    let (others, own) = (calls(&gateway).start(), safe(&gateway));
    own.run_for(SPAN).await.all_worked("with both peers");
    for peer in [&one, &two] {
        peer.kill();
        own.run_for(SPAN).await.all_worked("with one peer");
        peer.start_again();
        let before = peer.answered();
        own.run_for(SPAN).await.all_worked("once it is back");
        until("calls at the peer that is back", async || (peer.answered() > before).then_some(())).await;
    }
    own.end().await.none_failed("at the end");
    others.end().await.all_worked("callers of another server");
    good.end_streams();
    let (broken, _) = streams.ended().await;
    assert!(broken.is_empty(), "streams broken:\n{broken}");
}

/// What a peer does with everything it is asked, probes too.
fn behave(peer: &FakePeer, behaviour: &Behaviour) {
    for path in ["/search", "/openapi.json"] {
        peer.set(path, behaviour.clone());
    }
}

/// A peer that is well: it lists its tool, and the tool answers.
fn recover(peer: &FakePeer) {
    let schema = serde_json::json!({"type": "object", "properties": {}});
    let document = openapi(&[("search".to_owned(), schema)].into_iter().collect()).to_string();
    peer.set("/openapi.json", Behaviour::Answer(answer("200 OK", "application/json", document.as_bytes())));
    peer.set("/search", Behaviour::Answer(answer("200 OK", "application/json", b"1")));
}

#[tokio::test]
async fn a_sick_peer_of_two_fails_no_call_that_may_be_repeated_and_soon_none_at_all() {
    let every = Duration::from_millis(50);
    let (good, well, sick) = (EventPeer::start(every), EventPeer::start(every), FakePeer::start().await);
    recover(&sick);
    let (gateway, _grants) = in_front_of_pair(&good, [well.url(), sick.url()]).await;
    let (others, safe, risky) = (calls(&gateway).start(), safe(&gateway), unsafe_to_repeat(&gateway));
    let garbage = b"this is not HTTP at all\r\n\r\n".to_vec();
    for behaviour in [Behaviour::Stall, Behaviour::AnswerAndClose(garbage), Behaviour::HangUpAfterBody] {
        safe.run_for(Duration::from_millis(300)).await.all_worked("before");
        behave(&sick, &behaviour);
        // As long as calls wait there others go to the one that answers: that none fails does not show it is left alone.
        until("a sick peer that is left alone", async || {
            let healthy = [("server", "pair"), ("state", "healthy")];
            (gateway.metrics().await.sum("portcullis_peers", &healthy) == 1.0).then_some(())
        })
        .await;
        // What waits there comes to its end.
        risky.run_for(Duration::from_millis(1500)).await;
        // One that was waited for until its deadline is not made again: its caller has waited long enough.
        let until_known = safe.take();
        if !matches!(behaviour, Behaviour::Stall) {
            until_known.none_failed(&format!("beside {behaviour:?}"));
        }
        let known = risky.run_for(SPAN).await;
        known.all_worked(&format!("once {behaviour:?} is known"));
        safe.take().all_worked(&format!("once {behaviour:?} is known"));
        recover(&sick);
        let before = sick.requests().len();
        until("calls at the peer that is well again", async || {
            risky.run_for(Duration::from_millis(100)).await.none_failed("while the peer is tried again");
            (sick.requests().len() > before + 5).then_some(())
        })
        .await;
    }
    safe.end().await.none_failed("at the end");
    risky.end().await.none_failed("at the end");
    others.end().await.all_worked("callers of another server");
}
