//! Two groups call one server at the same time, while their keys and addresses change: whatever the order, each call is
//! made with one group's own key at one of that group's own addresses.

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
    /// The group moves to the other one of its two addresses.
    Address(bool),
    /// Both keys are stored under the other's name: what was sealed for one group is moved to the other.
    Swap,
    /// The newest sealing key.
    Rotate,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = proptest::prop_oneof![
        4 => proptest::bool::ANY.prop_map(Change::NewKey),
        2 => proptest::bool::ANY.prop_map(Change::NoKey),
        2 => proptest::bool::ANY.prop_map(Change::Address),
        1 => proptest::strategy::Just(Change::Swap),
        1 => proptest::strategy::Just(Change::Rotate),
    ];
    proptest::collection::vec(change, 12)
}

/// How many plans are tried.
const PLANS: usize = 8;

/// The two addresses of each group.
struct Peers {
    of_a: [FakePeer; 2],
    of_b: [FakePeer; 2],
}

impl Peers {
    fn of(&self, is_a: bool) -> &[FakePeer; 2] {
        if is_a { &self.of_a } else { &self.of_b }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_changes_meanwhile_a_call_has_its_own_group_s_key_and_address() {
    let shared = peer().await;
    let peers = Peers { of_a: [peer().await, peer().await], of_b: [peer().await, peer().await] };
    let tenants = Tenants::start(Grants::Postgres(Database::create().await), &shared.url(), |setup| {
        setup.set("upstream.allowed_hosts", vec!["127.0.0.1"])
    })
    .await;
    let endpoint = |group: &str, peer: &FakePeer| {
        let url = peer.url();
        let sql = format!("INSERT INTO tenant_endpoint_overrides VALUES ('{group}','github','{url}')");
        &*Box::leak(sql.into_boxed_str())
    };
    tenants.grants.execute(endpoint("A", &peers.of_a[0])).await;
    tenants.grants.execute(endpoint("B", &peers.of_b[0])).await;
    tenants.gateway.await_grants(PEOPLE_ROWS + 2).await;
    let (tenants, peers) = (Arc::new(tenants), Arc::new(peers));
    let mut runner = TestRunner::default();
    for _ in 0..PLANS {
        let plan = changes().new_tree(&mut runner).unwrap().current();
        println!("{plan:?}");
        for (group, key) in [("A", "key-of-a-first"), ("B", "key-of-b-first")] {
            assert_eq!(tenants.told(&["keys", "set", "github", "--group", group], key).await.code, 0);
        }
        for email in [ANN, BOB] {
            tenants.gateway.call_until("/github/search", &email_token(email), 200).await;
        }
        carry_out(&tenants, &peers, &plan).await;
    }
    for (is_a, own) in [(true, "Bearer key-of-a-"), (false, "Bearer key-of-b-")] {
        let sent: Vec<_> = peers.of(is_a).iter().flat_map(|peer| credentials(&peer.requests())).collect();
        assert!(sent.len() > 40, "too few calls to show anything: {}", sent.len());
        assert!(sent.iter().all(|sent| sent.starts_with(own)), "{own}: {sent:?}");
        assert!(
            peers.of(is_a).iter().all(|peer| !credentials(&peer.requests()).is_empty()),
            "both addresses"
        );
    }
    // The shared address hears only those who have no group there, with the shared credential.
    let sent = credentials(&shared.requests());
    assert!(sent.iter().all(|sent| *sent == format!("Bearer {SHARED}")), "{sent:?}");
}

/// Six callers call as long as the changes go on; what they are told is one of the answers there are.
async fn carry_out(tenants: &Arc<Tenants>, peers: &Arc<Peers>, plan: &[Change]) {
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
    for (at, change) in plan.iter().enumerate() {
        apply(tenants, peers, *change, at).await;
    }
    is_over.store(true, Ordering::Relaxed);
    while let Some(done) = callers.join_next().await {
        let (email, answers) = done.unwrap();
        let expected = match email {
            // Each of her groups has an address as long as the test goes on.
            EVE => vec![refused(403, "ambiguous_tenant")],
            DAN => vec![served(), refused(403, "no_tenant_key")],
            _ => vec![
                served(),
                refused(403, "no_tenant_key"),
                refused(503, "tenant_key_unusable"),
                // For the moment in which a new address is not looked at yet.
                refused(503, "tenant_endpoint_unusable"),
            ],
        };
        for answer in &answers {
            assert!(expected.contains(answer), "{email}: {answer:?} during {plan:?}");
        }
        assert!(!answers.is_empty());
    }
}

async fn apply(tenants: &Tenants, peers: &Peers, change: Change, at: usize) {
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
        Change::Address(is_a) => {
            let [one, other] = peers.of(is_a).each_ref().map(FakePeer::url);
            let sql = format!(
                "UPDATE tenant_endpoint_overrides SET endpoint_url = \
                 CASE endpoint_url WHEN '{one}' THEN '{other}' ELSE '{one}' END WHERE tenant_id = '{}'",
                name(is_a).0
            );
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
