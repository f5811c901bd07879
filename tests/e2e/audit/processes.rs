//! More than one process: replicas of one database, and a new process that takes over.

use serde_json::json;

use super::{
    calls::{Calls, check, rows},
    settled,
};
use crate::harness::{
    deadline::until_so,
    fake_peer::FakePeer,
    gateway::{Setup, send_signal},
    grants::CALLER,
    postgres::Database,
};

async fn database() -> (Database, FakePeer) {
    (Database::create().await, FakePeer::start().await.with_json("search", json!([1])))
}

fn grant() -> String {
    format!("INSERT INTO user_tenant_access (user_email, tenant_id) VALUES ('{CALLER}', 'alpha')")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_with_one_spool_write_each_row_once() {
    let (database, peer) = database().await;
    let spool = tempfile::tempdir().unwrap();
    let setup = || {
        let setup = Setup::new(&database.url()).server("alpha", &peer.url());
        setup.set("audit.spool_dir", spool.path().display().to_string())
    };
    // At the same moment: both bring the tables up to date, and both make partitions.
    let (mut one, mut other) = (setup().spawn(), setup().spawn());
    one.await_ready().await;
    other.await_ready().await;
    database.execute(&grant()).await;
    one.await_grants(1).await;
    other.await_grants(1).await;
    let calls = Calls::begin(&[one.address(), other.address()], 8);
    until_so("answers", || calls.answered() >= 200).await;
    // What one leaves behind the other takes up, or the one itself when it is there again.
    one.kill_and_start().await;
    let enough = calls.answered() + 300;
    until_so("answers", || calls.answered() >= enough).await;
    let log = calls.end().await;
    settled(&one).await;
    settled(&other).await;
    check(&log, &rows(&database).await);
    let files = || std::fs::read_dir(spool.path()).unwrap().count();
    until_so("files of the two processes alone", || files() == 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_under_load_loses_no_row_and_doubles_none() {
    let (database, peer) = database().await;
    let gateway = Setup::new(&database.url()).server("alpha", &peer.url()).start().await;
    database.execute(&grant()).await;
    gateway.await_grants(1).await;
    let calls = Calls::begin(&[gateway.address()], 8);
    until_so("answers", || calls.answered() >= 100).await;
    gateway.signal("USR2");
    let line = gateway.stderr.find("a new process", |line| line.contains("has taken over")).await;
    let (_, rest) = line.split_once("upgrade: process ").unwrap();
    let successor: u32 = rest.split(' ').next().unwrap().parse().unwrap();
    let enough = calls.answered() + 200;
    until_so("answers", || calls.answered() >= enough).await;
    let log = calls.end().await;
    // What the first one has left behind, the new one ships.
    settled(&gateway).await;
    let (told, rows) = (log.answered.len(), rows(&database).await);
    check(&log, &rows);
    assert_eq!(told, log.asked.len(), "a call was not answered");
    send_signal(successor, "KILL");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_told_to_stop_leaves_nothing_in_its_spool() {
    let (database, peer) = database().await;
    let mut gateway = Setup::new(&database.url()).server("alpha", &peer.url()).start().await;
    database.execute(&grant()).await;
    gateway.await_grants(1).await;
    let calls = Calls::begin(&[gateway.address()], 8);
    until_so("answers", || calls.answered() >= 200).await;
    let log = calls.end().await;
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    check(&log, &rows(&database).await);
}
