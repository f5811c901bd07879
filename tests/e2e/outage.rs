//! The databases go away and come back: who was let in stays in, who was not stays out, and nothing is missed.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    access::GRANT_USER,
    harness::{
        chaos::Chaos,
        deadline::until,
        fake_peer::FakePeer,
        gateway::{Gateway, Setup},
        openwebui::{self, JANE, JANE_STAMP},
        postgres::{Database, PrivateCluster},
        tokens::{email_token, session_token},
    },
};

const REVOKE: &str = "DELETE FROM user_tenant_access WHERE user_email = 'user@company.com'";

async fn peer() -> FakePeer {
    FakePeer::start().await.with_json("search", json!([]))
}

async fn status(gateway: &Gateway, email: &str) -> u16 {
    gateway.call("/github/search", &email_token(email), &json!({})).await.status.as_u16()
}

/// The granted caller is served, the stranger refused, and the gateway is ready, for this long.
async fn check_service_for(gateway: &Gateway, span: Duration) {
    let began = Instant::now();
    while began.elapsed() < span {
        assert_eq!(status(gateway, "user@company.com").await, 200);
        assert_eq!(status(gateway, "stranger@company.com").await, 403);
        assert_eq!(gateway.readiness().await, 200);
    }
}

/// Grants are unknown: everybody is told so and asked to come back.
async fn check_unknown(gateway: &Gateway) {
    for email in ["user@company.com", "stranger@company.com"] {
        let answer = gateway.call("/github/search", &email_token(email), &json!({})).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "grants_unknown"), "{email}");
        let wait: u64 = answer.header("retry-after").expect("no Retry-After").parse().unwrap();
        assert!((1..=60).contains(&wait), "Retry-After: {wait}");
    }
    assert_eq!(gateway.readiness().await, 503);
    assert_eq!(gateway.send(gateway.client.get(gateway.ops_url("/health/live"))).await.status, 200);
    assert_eq!(gateway.send(gateway.client.get(gateway.url("/health"))).await.status, 200);
    let nobody = gateway.send(gateway.client.get(gateway.url("/servers"))).await;
    assert_eq!(nobody.code(), "no_credential", "who asks is decided before what they may");
}

#[tokio::test]
async fn with_postgres_stopped_grants_hold_and_a_later_revocation_is_seen() {
    let cluster = PrivateCluster::start();
    let database = Database::create_on(&cluster.url()).await;
    let peer = peer().await;
    let gateway = Setup::new(&database.url()).server("github", &peer.url()).start().await;
    database.execute(GRANT_USER).await;
    gateway.call_until("/github/search", &email_token("user@company.com"), 200).await;
    assert_eq!(gateway.metrics().await.sum("portcullis_database_up", &[]), 1.0);

    cluster.stop();
    gateway.await_metric("portcullis_database_up", &[], 0).await;
    check_service_for(&gateway, Duration::from_secs(3)).await;

    cluster.start_again();
    database.execute(REVOKE).await;
    let (_, took) = gateway.call_until("/github/search", &email_token("user@company.com"), 403).await;
    assert!(took < Duration::from_secs(6), "refused {took:?} after the revocation");
    gateway.await_metric("portcullis_database_up", &[], 1).await;
    database.execute(GRANT_USER).await;
    let (_, took) = gateway.call_until("/github/search", &email_token("user@company.com"), 200).await;
    assert!(took < Duration::from_secs(4), "notifications are not listened to again: {took:?}");
}

#[tokio::test]
async fn grants_older_than_the_limit_are_unknown_until_postgres_is_back() {
    let cluster = PrivateCluster::start();
    let database = Database::create_on(&cluster.url()).await;
    let peer = peer().await;
    let setup = Setup::new(&database.url()).server("github", &peer.url()).set("access.max_stale_secs", 3);
    let gateway = setup.start().await;
    database.execute(GRANT_USER).await;
    let token = email_token("user@company.com");
    gateway.call_until("/github/search", &token, 200).await;

    cluster.stop();
    let (_, took) = gateway.call_until("/github/search", &token, 503).await;
    assert!(took > Duration::from_millis(500) && took < Duration::from_secs(8), "refused after {took:?}");
    check_unknown(&gateway).await;
    gateway.await_metric("portcullis_database_up", &[], 0).await;

    cluster.start_again();
    let (_, took) = gateway.call_until("/github/search", &token, 200).await;
    assert!(took < Duration::from_secs(6), "served again after {took:?}");
    assert_eq!(gateway.readiness().await, 200);
}

#[tokio::test]
async fn a_limit_shorter_than_the_poll_refuses_nobody_while_postgres_answers() {
    let database = Database::create().await;
    let peer = peer().await;
    let setup = Setup::new(&database.url()).server("github", &peer.url()).set("access.max_stale_secs", 2);
    let gateway = setup.start().await;
    database.execute(GRANT_USER).await;
    gateway.call_until("/github/search", &email_token("user@company.com"), 200).await;
    check_service_for(&gateway, Duration::from_secs(7)).await;
}

#[tokio::test]
async fn users_looked_at_more_seldom_than_the_limit_are_refused_nothing_either() {
    let database = openwebui::database().await;
    let peer = peer().await;
    let setup = openwebui::setup(&database).server("github", &peer.url());
    let setup = setup.set("auth.openwebui.refresh_millis", 60_000).set("access.max_stale_secs", 2);
    let gateway = setup.start().await;
    openwebui::add_group(&database, "MCP-Admin", None).await;
    openwebui::join(&database, JANE, "MCP-Admin").await;
    let jane = session_token(JANE, JANE_STAMP);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let answer = gateway.call("/github/search", &jane, &json!({})).await;
        assert_eq!(answer.status, 200, "{} after {:?}", answer.text(), began.elapsed());
    }
}

#[tokio::test]
async fn a_gateway_started_before_postgres_listens_and_is_ready_once_it_comes() {
    let cluster = PrivateCluster::start();
    let database = Database::create_on(&cluster.url()).await;
    cluster.stop();
    let peer = peer().await;
    let mut gateway = Setup::new(&database.url()).server("github", &peer.url()).spawn();
    until("a gateway that listens", || async {
        gateway.client.get(gateway.url("/health")).send().await.is_ok().then_some(())
    })
    .await;
    check_unknown(&gateway).await;

    cluster.start_again();
    gateway.await_ready().await;
    database.execute(GRANT_USER).await;
    gateway.call_until("/github/search", &email_token("user@company.com"), 200).await;
    assert_eq!(status(&gateway, "stranger@company.com").await, 403);
    assert_eq!(peer.requests().len(), 1);
}

#[tokio::test]
async fn a_stalled_postgres_is_noticed_and_its_changes_are_caught_up_with() {
    let database = Database::create().await;
    let chaos = Chaos::in_front_of(database.server_address()).await;
    let peer = peer().await;
    let setup = Setup::new(&database.url_through(&chaos.address())).server("github", &peer.url());
    let gateway = setup.start().await;
    database.execute(GRANT_USER).await;
    let token = email_token("user@company.com");
    gateway.call_until("/github/search", &token, 200).await;

    chaos.stall();
    database.execute(REVOKE).await;
    check_service_for(&gateway, Duration::from_secs(1)).await;
    gateway.await_metric("portcullis_database_up", &[], 0).await;
    check_service_for(&gateway, Duration::from_secs(1)).await;
    chaos.restore();
    let (_, took) = gateway.call_until("/github/search", &token, 403).await;
    assert!(took < Duration::from_secs(15), "refused {took:?} after the stall");
    gateway.await_metric("portcullis_database_up", &[], 1).await;
}

#[tokio::test]
async fn a_stalled_postgres_makes_grants_unknown_past_the_limit() {
    let database = Database::create().await;
    let chaos = Chaos::in_front_of(database.server_address()).await;
    let peer = peer().await;
    let url = database.url_through(&chaos.address());
    let setup = Setup::new(&url).server("github", &peer.url()).set("access.max_stale_secs", 3);
    let gateway = setup.start().await;
    database.execute(GRANT_USER).await;
    let token = email_token("user@company.com");
    gateway.call_until("/github/search", &token, 200).await;
    chaos.stall();
    let (_, took) = gateway.call_until("/github/search", &token, 503).await;
    assert!(took < Duration::from_secs(8), "refused {took:?} after the stall began");
    check_unknown(&gateway).await;
    chaos.restore();
    gateway.call_until("/github/search", &token, 200).await;
    assert_eq!(gateway.readiness().await, 200);
}

/// A gateway whose Open WebUI tables are behind a [`Chaos`]; Jane has been seen, everybody may use `github`.
async fn behind_chaos(database: &Database, peer: &FakePeer) -> (Chaos, Gateway) {
    let chaos = Chaos::in_front_of(database.server_address()).await;
    let url = database.url_through(&chaos.address());
    let setup = openwebui::setup(database).set("auth.openwebui.database_url", url);
    let gateway = setup.server("github", &peer.url()).start().await;
    openwebui::add_group(database, "MCP-Admin", None).await;
    for (id, email) in [("joe", "joe@example.com"), ("sue", "sue@example.com"), ("tim", "tim@example.com")] {
        openwebui::add_user(database, id, email, Some("stamp")).await;
        openwebui::join(database, id, "MCP-Admin").await;
    }
    openwebui::join(database, JANE, "MCP-Admin").await;
    gateway.call_until("/github/search", &session_token(JANE, JANE_STAMP), 200).await;
    (chaos, gateway)
}

/// Somebody never seen before is told to come back, soon enough for a client to wait for it.
async fn check_first_sight(gateway: &Gateway, id: &str) {
    let began = Instant::now();
    let answer = gateway.call("/github/search", &session_token(id, "stamp"), &json!({})).await;
    let took = began.elapsed();
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "grants_unknown"), "{id}");
    assert!(answer.header("retry-after").is_some(), "{id}");
    assert!(took < Duration::from_millis(4500), "{id}: answered after {took:?}");
}

#[tokio::test]
async fn with_open_webuis_database_away_known_users_go_on_and_new_ones_come_back_later() {
    let database = openwebui::database().await;
    let peer = peer().await;
    let (chaos, gateway) = behind_chaos(&database, &peer).await;
    let jane = session_token(JANE, JANE_STAMP);
    chaos.cut();
    check_first_sight(&gateway, "joe").await;
    assert_eq!(gateway.call("/github/search", &jane, &json!({})).await.status, 200);
    chaos.restore();
    gateway.call_until("/github/search", &session_token("joe", "stamp"), 200).await;

    chaos.stall();
    // Side by side, so that one who waits does not make the others wait longer.
    tokio::join!(check_first_sight(&gateway, "sue"), check_first_sight(&gateway, "tim"));
    assert_eq!(gateway.call("/github/search", &jane, &json!({})).await.status, 200);
    assert_eq!(gateway.readiness().await, 200, "the grants are known all the while");
    database.execute("UPDATE auth SET session_stamp = 'another' WHERE id <> 'sue'").await;
    chaos.restore();
    gateway.call_until("/github/search", &session_token("sue", "stamp"), 200).await;
    let (_, took) = gateway.call_until("/github/search", &jane, 401).await;
    assert!(took < Duration::from_secs(15), "a session revoked meanwhile was refused after {took:?}");
}

#[tokio::test]
async fn what_is_known_of_open_webuis_users_is_not_believed_past_the_limit() {
    let database = openwebui::database().await;
    let peer = peer().await;
    let chaos = Chaos::in_front_of(database.server_address()).await;
    let url = database.url_through(&chaos.address());
    let setup = openwebui::setup(&database).set("auth.openwebui.database_url", url);
    let gateway = setup.set("access.max_stale_secs", 3).server("github", &peer.url()).start().await;
    openwebui::add_group(&database, "MCP-Admin", None).await;
    openwebui::join(&database, JANE, "MCP-Admin").await;
    let jane = session_token(JANE, JANE_STAMP);
    gateway.call_until("/github/search", &jane, 200).await;
    chaos.cut();
    let (answer, took) = gateway.call_until("/github/search", &jane, 503).await;
    assert_eq!(answer.code(), "grants_unknown");
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(8), "refused after {took:?}");
    chaos.restore();
    gateway.call_until("/github/search", &jane, 200).await;
}

#[tokio::test]
async fn a_change_during_a_cut_is_seen_once_the_connection_is_back() {
    let database = Database::create().await;
    let chaos = Chaos::in_front_of(database.server_address()).await;
    let peer = peer().await;
    let setup = Setup::new(&database.url_through(&chaos.address())).server("github", &peer.url());
    let gateway = setup.start().await;
    let token = email_token("user@company.com");
    database.execute(GRANT_USER).await;
    gateway.call_until("/github/search", &token, 200).await;
    chaos.cut();
    database.execute(REVOKE).await;
    chaos.restore();
    let (_, took) = gateway.call_until("/github/search", &token, 403).await;
    assert!(took < Duration::from_secs(6), "refused {took:?} after the connection was back");
}

#[tokio::test]
async fn connections_to_postgres_that_die_silently_are_replaced() {
    let database = Database::create().await;
    let chaos = Chaos::in_front_of(database.server_address()).await;
    let peer = peer().await;
    let setup = Setup::new(&database.url_through(&chaos.address())).server("github", &peer.url());
    let gateway = setup.start().await;
    let token = email_token("user@company.com");
    database.execute(GRANT_USER).await;
    gateway.call_until("/github/search", &token, 200).await;
    // Twice: what is left of the dead must not keep the living out.
    for (sql, expected) in [(REVOKE, 403), (GRANT_USER, 200)] {
        chaos.lose();
        database.execute(sql).await;
        gateway.call_until("/github/search", &token, expected).await;
    }
    // The poll alone would take 5 s; listening begins anew at some poll, and then a change is there at once.
    let deadline = Instant::now() + Duration::from_secs(30);
    for (sql, expected) in [(REVOKE, 403), (GRANT_USER, 200)].into_iter().cycle() {
        database.execute(sql).await;
        let (_, took) = gateway.call_until("/github/search", &token, expected).await;
        if took < Duration::from_secs(1) {
            return;
        }
        assert!(Instant::now() < deadline, "notifications are not listened to again");
    }
}

#[tokio::test]
async fn the_poll_finds_changes_whose_notification_is_lost() {
    let database = Database::create().await;
    let peer = peer().await;
    let gateway = Setup::new(&database.url()).server("github", &peer.url()).start().await;
    let token = email_token("user@company.com");
    // As behind a pooler that swallows notifications: the feed is written and nobody is told.
    database
        .execute(
            "CREATE OR REPLACE FUNCTION portcullis_add_changes(change_kind text, subjects text[]) RETURNS void \
             LANGUAGE sql AS $$ INSERT INTO portcullis_changes (kind, subject) \
             SELECT change_kind, touched FROM pg_catalog.unnest(subjects) AS touched $$",
        )
        .await;
    for (sql, expected) in [(GRANT_USER, 200), (REVOKE, 403)] {
        database.execute(sql).await;
        let (_, took) = gateway.call_until("/github/search", &token, expected).await;
        assert!(took < Duration::from_millis(6500), "{expected} only after {took:?}");
    }
}
