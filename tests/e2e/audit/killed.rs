//! Postgres and the gateway end at any moment, under load: a row for each call that was answered, one and no more.
//!
//! `PORTCULLIS_AUDIT_CHAOS_SECS=300` makes the last of these as long as an operator would want to see it.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    calls::{Calls, check, rows},
    settled,
};
use crate::harness::{
    deadline::until_so,
    fake_peer::FakePeer,
    gateway::{Gateway, Setup},
    grants::CALLER,
    postgres::{Database, PrivateCluster},
};

/// A gateway on a Postgres of its own, in front of a peer.
async fn start() -> (PrivateCluster, Database, FakePeer, Gateway) {
    let cluster = PrivateCluster::start();
    let database = Database::create_on(&cluster.url()).await;
    let peer = FakePeer::start().await.with_json("search", json!([1]));
    let gateway = Setup::new(&database.url()).server("alpha", &peer.url()).start().await;
    let grant =
        format!("INSERT INTO user_tenant_access (user_email, tenant_id) VALUES ('{CALLER}', 'alpha')");
    database.execute(&grant).await;
    gateway.await_grants(1).await;
    (cluster, database, peer, gateway)
}

/// Returns when so many more were answered.
async fn go_on(calls: &Calls, count: usize) {
    let enough = calls.answered() + count;
    until_so("answers", || calls.answered() >= enough).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_killed_and_started_again_loses_no_row_and_doubles_none() {
    let (cluster, database, _peer, gateway) = start().await;
    let calls = Calls::begin(&[gateway.address()], 8);
    for turn in 0..3 {
        go_on(&calls, 100).await;
        if turn % 2 == 0 {
            cluster.kill()
        } else {
            cluster.stop()
        }
        gateway.await_metric("portcullis_audit_database_up", &[], 0).await;
        go_on(&calls, 100).await;
        let waiting = gateway.metrics().await.sum("portcullis_audit_waiting_rows", &[]);
        assert!(waiting >= 100.0, "{waiting} rows wait, and 100 calls were answered without a database");
        cluster.start_again();
        gateway.await_metric("portcullis_audit_database_up", &[], 1).await;
    }
    let log = calls.end().await;
    settled(&gateway).await;
    println!("{}", check(&log, &rows(&database).await));
    assert_eq!(log.answered.len(), log.asked.len(), "a call was not answered");
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("portcullis_audit_lost_total", &[]), 0.0);
    assert_eq!(metrics.sum("portcullis_audit_written_total", &[]), log.answered.len() as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_under_load_loses_no_row_of_an_answer() {
    let (_cluster, database, _peer, mut gateway) = start().await;
    let calls = Calls::begin(&[gateway.address()], 16);
    for _ in 0..5 {
        go_on(&calls, 200).await;
        gateway.kill_and_start().await;
    }
    go_on(&calls, 100).await;
    let log = calls.end().await;
    settled(&gateway).await;
    println!("{}", check(&log, &rows(&database).await));
}

/// A number below `most` that nobody foresees.
fn any(most: u64) -> u64 {
    RandomState::new().build_hasher().finish() % most
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_and_the_gateway_killed_at_random_lose_no_row_of_an_answer() {
    let seconds = std::env::var("PORTCULLIS_AUDIT_CHAOS_SECS").map_or(15, |seconds| seconds.parse().unwrap());
    let (cluster, database, _peer, mut gateway) = start().await;
    let calls = Calls::begin(&[gateway.address()], 16);
    let (began, mut kills, mut is_away) = (Instant::now(), [0; 3], None);
    while began.elapsed() < Duration::from_secs(seconds) {
        tokio::time::sleep(Duration::from_millis(any(1_500))).await;
        match (any(3), is_away) {
            (0 | 1, Some(_)) => {
                cluster.start_again();
                is_away = None;
            }
            (0, None) => {
                cluster.kill();
                (kills[0], is_away) = (kills[0] + 1, Some(()));
            }
            (1, None) => {
                cluster.stop();
                (kills[1], is_away) = (kills[1] + 1, Some(()));
            }
            (_, _) => {
                gateway.kill_and_start().await;
                kills[2] += 1;
            }
        }
    }
    if is_away.is_some() {
        cluster.start_again();
    }
    gateway.await_ready().await;
    go_on(&calls, 100).await;
    let log = calls.end().await;
    settled(&gateway).await;
    let told = check(&log, &rows(&database).await);
    let [killed, crashed, gateways] = kills;
    println!(
        "{seconds} s, Postgres killed {killed} times and crashed {crashed} times, the gateway killed {gateways} times; {told}"
    );
}
