//! Names that change what they stand for: calls follow within the TTL, none fails, and a name that is lost changes nothing.

use std::net::Ipv4Addr;

use serde_json::json;

use super::{Load, call, with_peers};
use crate::harness::{deadline::until, fake_peer::FakePeer, grants::Grants, names::NameServer};

/// Two peers at the same port of two addresses.
async fn two_peers() -> (FakePeer, FakePeer, u16) {
    let first = FakePeer::start().await.with_json("work", json!("done"));
    let port = first.address().rsplit_once(':').unwrap().1.parse().unwrap();
    let second = FakePeer::start_at(&format!("127.0.0.2:{port}")).await.with_json("work", json!("done"));
    (first, second, port)
}

const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

#[tokio::test]
async fn calls_follow_a_name_within_its_ttl_and_a_name_that_is_lost_changes_nothing() {
    let (names, (first, second, port)) = (NameServer::start(1).await, two_peers().await);
    names.say("tools.test", &[FIRST]);
    let grants = Grants::of(&["alpha"]).await;
    let url = format!("http://tools.test:{port}");
    let setup = with_peers(grants.setup(), "alpha", &[url], "");
    let nameservers = vec![names.address.to_string()];
    let gateway = setup.set("upstream.nameservers", nameservers).start().await;
    gateway.knows_tools("alpha", 1).await;
    let load = Load::begin(&gateway, "/alpha/work", 2);
    load.goes_on(20).await;
    assert!(second.requests().is_empty());
    names.say("tools.test", &[FIRST, SECOND]);
    second.arrived(10).await;
    names.say("tools.test", &[SECOND]);
    let known = [("server", "alpha"), ("state", "known")];
    until("one address", || async {
        (gateway.metrics().await.sum("portcullis_peers", &known) == 1.0).then_some(())
    })
    .await;
    drop(first);
    load.goes_on(50).await;
    names.forget("tools.test");
    let before = names.asked();
    until("the name asked for again", || async { (names.asked() >= before + 2).then_some(()) }).await;
    let unresolved = [("server", "alpha"), ("state", "unresolved")];
    until("a name that is counted", || async {
        (gateway.metrics().await.sum("portcullis_peers", &unresolved) == 1.0).then_some(())
    })
    .await;
    let told = "`tools.test` of server `alpha` does not resolve; calls go where it last led";
    gateway.stderr.find("a word of it", |line| line.contains(told)).await;
    load.goes_on(50).await;
    assert_eq!(gateway.stderr.text().matches(told).count(), 1, "it is told once");
    assert_eq!(load.end().await, [""; 0]);
    assert_eq!(call(&gateway).await.status, 200);
}

#[tokio::test]
async fn a_name_is_asked_for_early_when_nothing_it_stood_for_can_be_reached() {
    let (names, (first, second, port)) = (NameServer::start(300).await, two_peers().await);
    names.say("tools.test", &[FIRST]);
    let grants = Grants::of(&["alpha"]).await;
    let setup = with_peers(grants.setup(), "alpha", &[format!("http://tools.test:{port}")], "");
    let gateway = setup.set("upstream.nameservers", vec![names.address.to_string()]).start().await;
    gateway.knows_tools("alpha", 1).await;
    assert_eq!(call(&gateway).await.status, 200);
    let asked = names.asked();
    drop(first);
    until("the name asked for at once", || async {
        drop(call(&gateway).await);
        (names.asked() > asked).then_some(())
    })
    .await;
    // Later than that, as a deployment may be.
    names.say("tools.test", &[SECOND]);
    until("the new address", || async { (call(&gateway).await.status == 200).then_some(()) }).await;
    assert!(!second.requests().is_empty());
}
