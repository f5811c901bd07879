//! Two groups call one server at the same time, while their keys and addresses change: whatever the order, each call is
//! made with one group's own key at that group's own address.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};

use super::*;
use crate::harness::postgres::Database;

/// What an operator does meanwhile.
#[derive(Debug, Clone, Copy)]
enum Change {
    /// A new key for group A or B.
    NewKey(bool),
    /// The key goes.
    NoKey(bool),
    /// Both keys are stored under the other's name: what was sealed for one group is moved to the other.
    Swap,
    /// The newest sealing key.
    Rotate,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = proptest::prop_oneof![
        4 => proptest::bool::ANY.prop_map(Change::NewKey),
        2 => proptest::bool::ANY.prop_map(Change::NoKey),
        1 => proptest::strategy::Just(Change::Swap),
        1 => proptest::strategy::Just(Change::Rotate),
    ];
    proptest::collection::vec(change, 12)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_changes_meanwhile_a_call_has_its_own_group_s_key_and_address() {
    let (shared, of_a, of_b) = (peer().await, peer().await, peer().await);
    let tenants = Tenants::start(Grants::Postgres(Database::create().await), &shared.url(), |setup| {
        setup.set("upstream.allowed_hosts", vec!["127.0.0.1"])
    })
    .await;
    let endpoint = |group: &str, peer: &FakePeer| {
        let url = peer.url();
        let sql = format!("INSERT INTO tenant_endpoint_overrides VALUES ('{group}','github','{url}')");
        &*Box::leak(sql.into_boxed_str())
    };
    tenants.grants.execute(endpoint("A", &of_a)).await;
    tenants.grants.execute(endpoint("B", &of_b)).await;
    tenants.gateway.await_grants(PEOPLE_ROWS + 2).await;
    tenants.set_key("A", "key-of-a-first").await;
    tenants.set_key("B", "key-of-b-first").await;
    for email in [ANN, BOB] {
        tenants.gateway.call_until("/github/search", &email_token(email), 200).await;
    }

    let tenants = Arc::new(tenants);
    let is_over = Arc::new(AtomicBool::new(false));
    let mut callers = tokio::task::JoinSet::new();
    for email in [ANN, BOB, ANN, BOB, EVE, DAN] {
        let (tenants, is_over) = (tenants.clone(), is_over.clone());
        callers.spawn(async move {
            let mut answers = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                answers.push(tenants.call(email).await);
            }
            (email, answers)
        });
    }
    let mut runner = TestRunner::default();
    let plan = changes().new_tree(&mut runner).unwrap().current();
    for (at, change) in plan.iter().enumerate() {
        apply(&tenants, *change, at).await;
    }
    is_over.store(true, Ordering::Relaxed);
    while let Some(done) = callers.join_next().await {
        let (email, answers) = done.unwrap();
        for (status, code) in &answers {
            let expected: &[&str] = match email {
                EVE => &["ambiguous_tenant", ""],
                DAN => &["", "no_tenant_key"],
                _ => &["", "no_tenant_key", "tenant_key_unusable"],
            };
            assert!(expected.contains(&code.as_str()), "{email}: {status} {code} during {plan:?}");
        }
        assert!(!answers.is_empty());
    }
    for (peer, own) in [(&of_a, "Bearer key-of-a-"), (&of_b, "Bearer key-of-b-")] {
        let sent = credentials(&peer.requests());
        assert!(sent.len() > 5, "too few calls to show anything: {}", sent.len());
        assert!(sent.iter().all(|sent| sent.starts_with(own)), "{own} during {plan:?}: {sent:?}");
    }
    // The shared address hears only those who have no group there, with the shared credential.
    let sent = credentials(&shared.requests());
    assert!(sent.iter().all(|sent| *sent == format!("Bearer {SHARED}")), "{sent:?}");
}

async fn apply(tenants: &Tenants, change: Change, at: usize) {
    let name = |is_a: bool| if is_a { ("A", "a") } else { ("B", "b") };
    match change {
        Change::NewKey(is_a) => {
            let (group, letter) = name(is_a);
            let key = format!("key-of-{letter}-{at}");
            assert_eq!(tenants.told(&["keys", "set", "github", "--group", group], &key).await.code, 0);
        }
        Change::NoKey(is_a) => {
            let sql = format!("DELETE FROM tenant_server_keys WHERE tenant_id = '{}'", name(is_a).0);
            tenants.grants.execute(Box::leak(sql.into_boxed_str())).await;
        }
        Change::Swap => {
            let swap = "UPDATE tenant_server_keys SET tenant_id = tenant_id || '-'; \
                 UPDATE tenant_server_keys SET tenant_id = CASE tenant_id WHEN 'A-' THEN 'B' ELSE 'A' END";
            tenants.grants.execute(swap).await;
        }
        Change::Rotate => {
            // Keys that were swapped cannot be read, and are told.
            assert!(tenants.told(&["keys", "rotate"], "").await.code <= 1);
        }
    }
}
