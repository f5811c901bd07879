//! A disk that is full, a folder that is gone: calls go on, what cannot be kept is counted, and all is well again by itself.
//!
//! The full disk is a real one of two megabytes, mounted for the gateway alone, in a mount namespace of its own.

use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

use serde_json::json;

use super::{
    calls::{Calls, check, rows},
    settled,
};
use crate::harness::{
    commands::portcullis,
    deadline::{until, until_so},
    fake_peer::FakePeer,
    gateway::{Gateway, Setup},
    grants::{CALLER, Grants},
    load::Plan,
    postgres::{Database, PrivateCluster},
    request::post,
    tokens::email_token,
};

/// A program that mounts a small disk where the spool is to be, and then is the gateway.
fn on_a_small_disk(folder: &Path, spool: &Path) -> std::path::PathBuf {
    let program = folder.join("portcullis-on-a-small-disk");
    // Without rights of root, somebody is root in a namespace of users.
    let script = format!(
        "#!/bin/sh\nexec unshare $(test $(id -u) = 0 || echo -r) -m sh -ec 'mount -t tmpfs -o size=2m tmpfs {}; exec {} \"$@\"' sh \"$@\"\n",
        spool.display(),
        env!("CARGO_BIN_EXE_portcullis")
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

async fn lost(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metrics().await.sum("portcullis_audit_lost_total", &[("reason", reason)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_full_while_postgres_is_away_costs_entries_that_are_counted_and_no_call() {
    let cluster = PrivateCluster::start();
    let database = Database::create_on(&cluster.url()).await;
    let peer = FakePeer::start().await.with_json("search", json!([1]));
    let place = tempfile::tempdir().unwrap();
    let spool = place.path().join("spool");
    std::fs::create_dir(&spool).unwrap();
    let mut keys = toml::Table::new();
    keys.insert("audit_arguments".to_owned(), true.into());
    let gateway = Setup::new(&database.url())
        .server_with("alpha", &peer.url(), keys)
        .set("audit.spool_dir", spool.display().to_string())
        .program(&on_a_small_disk(place.path(), &spool))
        .start()
        .await;
    let grant =
        format!("INSERT INTO user_tenant_access (user_email, tenant_id) VALUES ('{CALLER}', 'alpha')");
    database.execute(&grant).await;
    gateway.await_grants(1).await;
    gateway.knows_tools("alpha", 1).await;

    cluster.stop();
    gateway.await_metric("portcullis_audit_database_up", &[], 0).await;
    // 60 KiB a call: two megabytes on the disk and sixteen in memory are full after some hundred of them.
    let large = json!({"text": "x".repeat(60_000)}).to_string();
    let request = post("/alpha/search", &email_token(CALLER), large);
    let load =
        Plan { every: Duration::from_millis(50), ..Plan::of(gateway.address(), vec![request]) }.start();
    until("entries that are lost", || async { (lost(&gateway, "disk_full").await > 20.0).then_some(()) })
        .await;
    load.take().none_failed("while the disk is full");
    let sentence = "audit: entries are lost: the disk of `audit.spool_dir` is full; make room there";
    gateway.stderr.find(sentence, |line| line.contains(sentence) && line.contains("ERROR")).await;

    cluster.start_again();
    gateway.await_metric("portcullis_audit_database_up", &[], 1).await;
    load.run_for(Duration::from_secs(1)).await.all_worked("with Postgres again");
    let tally = load.end().await;
    tally.none_failed("at the end");
    settled(&gateway).await;
    let metrics = gateway.metrics().await;
    let [written, lost] =
        ["portcullis_audit_written_total", "portcullis_audit_lost_total"].map(|name| metrics.sum(name, &[]));
    let called = peer.requests().len() as f64;
    assert!(written > 200.0 && written + lost == called, "{called} calls, {written} rows, {lost} lost");
    // From now on nothing is lost.
    let calls = Calls::begin(&[gateway.address()], 4);
    until_so("answers", || calls.answered() >= 100).await;
    let log = calls.end().await;
    settled(&gateway).await;
    check(&log, &rows(&database).await);
    gateway.stderr.find("the end of it", |line| line.contains("audit: no more entries are lost")).await;
    let told =
        gateway.stderr.all().into_iter().filter(|line| line.contains("audit: entries are lost")).count();
    assert_eq!(told, 1, "an outage is told of once:\n{}", gateway.stderr.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_holds_as_much_as_it_may_takes_no_more() {
    let cluster = PrivateCluster::start();
    let database = Database::create_on(&cluster.url()).await;
    let peer = FakePeer::start().await.with_json("search", json!([1]));
    let gateway = Setup::new(&database.url())
        .server("alpha", &peer.url())
        .set("audit.spool_max_bytes", 1 << 20)
        .start()
        .await;
    let spool = gateway.folder.path().join("audit-spool");
    let grant =
        format!("INSERT INTO user_tenant_access (user_email, tenant_id) VALUES ('{CALLER}', 'alpha')");
    database.execute(&grant).await;
    gateway.await_grants(1).await;
    cluster.stop();
    gateway.await_metric("portcullis_audit_database_up", &[], 0).await;
    let calls = Calls::begin(&[gateway.address()], 32);
    let sentence = "audit: entries wait in memory: the spool holds `audit.spool_max_bytes`";
    gateway.stderr.find(sentence, |line| line.contains(sentence)).await;
    let size: u64 =
        std::fs::read_dir(&spool).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(size <= (1 << 20) + 64, "{size} bytes");
    cluster.start_again();
    let log = calls.end().await;
    settled(&gateway).await;
    check(&log, &rows(&database).await);
    assert_eq!(gateway.metrics().await.sum("portcullis_audit_lost_total", &[]), 0.0, "memory had room");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_somebody_removes_is_made_again_and_costs_no_row() {
    let (database, peer) =
        (Database::create().await, FakePeer::start().await.with_json("search", json!([1])));
    let gateway = Setup::new(&database.url()).server("alpha", &peer.url()).start().await;
    let spool = gateway.folder.path().join("audit-spool");
    let grant =
        format!("INSERT INTO user_tenant_access (user_email, tenant_id) VALUES ('{CALLER}', 'alpha')");
    database.execute(&grant).await;
    gateway.await_grants(1).await;
    let calls = Calls::begin(&[gateway.address()], 4);
    until_so("answers", || calls.answered() >= 50).await;
    std::fs::remove_dir_all(&spool).unwrap();
    let enough = calls.answered() + 100;
    until_so("answers", || calls.answered() >= enough).await;
    until_so("a spool that is there again", || spool.is_dir()).await;
    let log = calls.end().await;
    settled(&gateway).await;
    check(&log, &rows(&database).await);
    let mode = std::fs::metadata(&spool).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "personal data is for the gateway's user alone");
}

#[tokio::test]
async fn a_spool_that_cannot_be_written_to_is_refused_with_its_line_and_nothing_is_left_behind() {
    let grants = Grants::of(&[]).await;
    let setup = || grants.setup().server("alpha", "http://127.0.0.1:1");
    let folder = setup().write();
    let said = portcullis(folder.path(), &["check"]).await;
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let spool = file.join("spool").display().to_string();
    for (setup, code) in [(setup(), 1), (setup().set("audit.enabled", false), 0)] {
        let folder = setup.set("audit.spool_dir", spool.clone()).write();
        let said = portcullis(folder.path(), &["check"]).await;
        assert_eq!(said.code, code, "{said:?}");
        if code == 1 {
            let (place, rest) = said.stderr.split_once(": `audit.spool_dir` (`").expect("a line about it");
            assert!(place.contains("gateway.toml:"), "{said:?}");
            assert!(rest.contains("cannot be written to") && rest.contains("hint:"), "{said:?}");
            let said = portcullis(folder.path(), &["run"]).await;
            assert!(said.code == 1 && said.stderr.contains("cannot be written to"), "{said:?}");
        }
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
