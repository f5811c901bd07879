//! Every peer of a server dies: its callers are told at once, nobody else is touched, and it serves again by itself.

use std::time::Duration;

use super::{SPAN, calls, in_front_of, open_streams};
use crate::harness::{
    deadline::until,
    events::EventPeer,
    grants::{CALLER, Grants},
    load::{Outcome, Plan},
    request::post,
    tokens::email_token,
};

#[tokio::test]
async fn a_server_without_a_living_peer_fails_its_own_callers_at_once_and_serves_when_one_is_back() {
    let every = Duration::from_millis(50);
    let (good, one, two) = (EventPeer::start(every), EventPeer::start(every), EventPeer::start(every));
    let grants = Grants::of(&["alpha", "native", "pair"]).await;
    let urls: toml::Value = vec![one.url(), two.url()].into();
    let keys = toml::Table::from_iter([("url".to_owned(), urls)]);
    let setup = in_front_of(&good, grants.setup()).server_with("pair", "", keys);
    let gateway = setup.start().await;
    gateway.knows_tools("alpha", 2).await;
    gateway.knows_tools("pair", 2).await;
    let streams = open_streams(&gateway, 20).await;
    let others = calls(&gateway).start();
    let requests = vec![post("/pair/search", &email_token(CALLER), "{}")];
    let own = Plan { callers: 5, ..Plan::of(gateway.address(), requests) }.start();
    own.run_for(SPAN).await.all_worked("with both peers");

    for turn in 1..=2 {
        one.kill();
        two.kill();
        // What the peers had taken when they died is lost to whoever asked; and for three seconds it may be a restart, which
        // calls wait for.
        own.run_for(Duration::from_millis(4000)).await;
        let without = own.run_for(SPAN).await;
        let is_told =
            |outcome: &Outcome| matches!(outcome, Outcome::Answered(502 | 503, code) if !code.is_empty());
        assert!(without.calls() > 0 && without.outcomes.keys().all(is_told), "time {turn}: {without}");
        assert!(without.percentile(0.99) < Duration::from_secs(2), "time {turn}: told late: {without}");
        one.start_again();
        two.start_again();
        until("calls that work again", async || {
            let tally = own.run_for(Duration::from_millis(200)).await;
            (tally.calls() > 0 && tally.others_than(200) == 0).then_some(())
        })
        .await;
        own.run_for(SPAN).await.all_worked(&format!("with both again, time {turn}"));
    }
    own.end().await.none_failed("at the end");
    others.end().await.all_worked("callers of another server");
    good.end_streams();
    let (broken, _) = streams.ended().await;
    assert!(broken.is_empty(), "streams broken:\n{broken}");
}
