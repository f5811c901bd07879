//! Addresses of groups' own: called by their own callers alone, and never replaced by the shared one.

use super::*;
use crate::harness::{deadline::until, postgres::Database};

/// The address of a peer as a row's `endpoint_url`, by this group.
fn row(table: &str, group: &str, url: &str) -> &'static str {
    // Statements of tests are few and small.
    Box::leak(format!("INSERT INTO {table} VALUES ('{group}','github','{url}')").into_boxed_str())
}

async fn two_peers(grants: Grants, allowed: &[&str]) -> (Tenants, FakePeer, FakePeer) {
    let (shared, own) = (peer().await, peer().await);
    let keys = toml::Table::from_iter([("shared_credential".to_owned(), true.into())]);
    let allowed: Vec<String> = allowed.iter().map(|text| (*text).to_owned()).collect();
    let tenants = Tenants::start_with(grants, &shared.url(), keys, |setup| {
        setup.set("upstream.allowed_hosts", allowed)
    })
    .await;
    (tenants, shared, own)
}

/// How many calls a peer has had.
fn calls(peer: &FakePeer) -> usize {
    credentials(&peer.requests()).len()
}

/// Calls until the call arrives at this peer.
async fn until_at(tenants: &Tenants, email: &str, peer: &FakePeer) {
    until("a call at the group's own address", || async {
        tenants.call(email).await;
        (calls(peer) > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_group_s_address_is_called_for_its_members_alone_under_either_name_of_the_table() {
    for table in ["tenant_endpoint_overrides", "tenant_server_endpoints"] {
        for grants in Grants::both().await {
            let (tenants, shared, own) = two_peers(grants, &["127.0.0.1"]).await;
            assert_eq!(tenants.call(ANN).await, served());
            tenants.set_key("A", "key-of-a").await;
            tenants.grants.execute(row(table, "A", &own.url())).await;
            until_at(&tenants, ANN, &own).await;
            let (at_shared, at_own) = (calls(&shared), calls(&own));
            for _ in 0..3 {
                assert_eq!(tenants.call(ANN).await, served());
            }
            assert_eq!((calls(&shared), calls(&own)), (at_shared, at_own + 3));
            assert!(credentials(&own.requests()).iter().all(|sent| sent == "Bearer key-of-a"));
            assert_eq!(tenants.call(BOB).await, served());
            assert_eq!((calls(&shared), calls(&own)), (at_shared + 1, at_own + 3));
            assert_eq!(credentials(&shared.requests()).last().unwrap(), &format!("Bearer {SHARED}"));
        }
    }
}

#[tokio::test]
async fn an_address_that_is_not_allowed_refuses_and_nobody_else_s_is_called_instead() {
    let database = Database::create().await;
    let (tenants, shared, own) = two_peers(Grants::Postgres(database), &["127.0.0.2", "*.example.com"]).await;
    let token = email_token(ANN);
    tenants.grants.execute(row("tenant_endpoint_overrides", "A", "nothing yet")).await;
    tenants.gateway.call_until("/github/search", &token, 503).await;
    let before = calls(&shared);
    let good = own.url();
    let mut of_bob = 0;
    for url in [
        good.as_str(),
        "http://127.0.0.1@127.0.0.2/",
        "http://localhost:1",
        "http://169.254.169.254/latest",
        "http://example.com",
        "http://evil-example.com",
        "file:///etc/passwd",
        "nonsense",
        "",
    ] {
        let sql = format!("UPDATE tenant_endpoint_overrides SET endpoint_url = '{url}'");
        let version = tenants.gateway.metrics().await.sum("portcullis_snapshot_version", &[]);
        tenants.grants.execute(Box::leak(sql.into_boxed_str())).await;
        until("the row in force", || async {
            let now = tenants.gateway.metrics().await.sum("portcullis_snapshot_version", &[]);
            (now > version).then_some(())
        })
        .await;
        let answer = tenants.gateway.call("/github/search", &token, &json!({})).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (503, "tenant_endpoint_unusable"),
            "{url}"
        );
        assert!(url.is_empty() || !answer.text().contains(url), "{}", answer.text());
        assert_eq!(tenants.call(BOB).await, served());
        of_bob += 1;
    }
    assert_eq!((calls(&own), calls(&shared) - before), (0, of_bob));
    assert!(tenants.gateway.written().contains("upstream.allowed_hosts"), "the operator is told");
}

#[tokio::test]
async fn an_address_nobody_answers_at_is_no_reason_to_call_the_shared_one() {
    let (tenants, shared, own) =
        two_peers(Grants::Postgres(Database::create().await), &["127.0.0.1", "nowhere.invalid"]).await;
    let gone = crate::harness::port::Port::take();
    for (url, code) in [
        (format!("http://{}", gone.address()), "peer_unreachable"),
        ("http://nowhere.invalid".into(), "peer_unreachable"),
    ] {
        tenants.grants.execute("DELETE FROM tenant_endpoint_overrides").await;
        tenants.grants.execute(row("tenant_endpoint_overrides", "A", &url)).await;
        let (answer, _) = tenants.gateway.call_until("/github/search", &email_token(ANN), 502).await;
        assert_eq!(answer.code(), code);
        let before = calls(&shared);
        assert_eq!(tenants.call(ANN).await, refused(502, code));
        assert_eq!(calls(&shared), before);
    }
    assert_eq!(calls(&own), 0);
}

#[tokio::test]
async fn two_different_addresses_of_one_group_are_a_question_and_the_same_twice_is_none() {
    let (tenants, shared, own) = two_peers(Grants::Postgres(Database::create().await), &["127.0.0.1"]).await;
    tenants.grants.execute(row("tenant_endpoint_overrides", "A", &own.url())).await;
    tenants.grants.execute(row("tenant_server_endpoints", "A", &own.url())).await;
    until_at(&tenants, ANN, &own).await;
    tenants.grants.execute(row("tenant_server_endpoints", "B", &own.url())).await;
    let url: &'static str = Box::leak(
        format!("UPDATE tenant_server_endpoints SET endpoint_url = '{}'", shared.url()).into_boxed_str(),
    );
    tenants.grants.execute(url).await;
    let (answer, _) = tenants.gateway.call_until("/github/search", &email_token(ANN), 503).await;
    assert_eq!(answer.code(), "tenant_endpoint_unusable");
    assert_eq!(tenants.call(EVE).await, refused(403, "ambiguous_tenant"));
    tenants.gateway.call_until("/github/search", &email_token(BOB), 200).await;
}

#[tokio::test]
async fn the_shared_credential_never_goes_to_a_group_s_address_unless_the_server_says_so() {
    let (shared, own) = (peer().await, peer().await);
    let tenants = Tenants::start(Grants::Postgres(Database::create().await), &shared.url(), |setup| {
        setup.set("upstream.allowed_hosts", vec!["127.0.0.1"])
    })
    .await;
    assert_eq!(tenants.call(ANN).await, served());
    tenants.grants.execute(row("tenant_endpoint_overrides", "A", &own.url())).await;
    let (answer, _) = tenants.gateway.call_until("/github/search", &email_token(ANN), 403).await;
    assert_eq!(answer.code(), "no_tenant_key");
    assert_eq!(own.requests().len(), 0);
    assert_eq!(tenants.call(BOB).await, served());
}
