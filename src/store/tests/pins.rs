//! Facts about `tool_pins`: who finds a change, what waits, and what an approval is of.

use futures_util::future::join_all;

use super::*;
use crate::names::Digest;

/// What a reading of these tools comes to.
async fn settle(store: &Store, is_pinned: bool, tools: &[(&str, &str)]) -> Settled {
    let seen = |&(name, definition)| SeenTool { name, digest: Digest::of(definition), definition };
    let tools: Vec<_> = tools.iter().map(seen).collect();
    store.settle_tools(&Sighting { server: &server("github"), is_pinned, tools: &tools }).await.unwrap()
}

fn changes(settled: &Settled) -> Vec<(&str, What)> {
    settled.changes.iter().map(|change| (change.tool.as_str(), change.what)).collect()
}

fn approved(settled: &Settled, tool: &str) -> Option<Digest> {
    settled.approved.get(tool).copied()
}

#[tokio::test]
async fn a_change_waits_until_it_is_approved_as_it_was_seen() {
    on_both(async |scratch: Scratch| {
        let store = scratch.store().await;
        let first = settle(&store, true, &[("a", "1"), ("b", "1")]).await;
        assert_eq!((changes(&first), first.approved.len()), (vec![], 2));
        let before = store.pin_version().await.unwrap();
        assert_eq!(changes(&settle(&store, true, &[("a", "1"), ("b", "1")]).await), []);
        assert_eq!(store.pin_version().await.unwrap(), before, "nothing was written");

        let second = settle(&store, true, &[("a", "2"), ("c", "1")]).await;
        assert_eq!(changes(&second), [("a", What::Changed), ("c", What::New)]);
        assert_eq!((approved(&second, "a"), approved(&second, "c")), (Some(Digest::of("1")), None));
        assert_ne!(store.pin_version().await.unwrap(), before);
        assert_eq!(changes(&settle(&store, true, &[("a", "2"), ("c", "1")]).await), [], "told once");

        let (github, of) = (server("github"), Digest::of);
        assert!(!store.approve_tool(&github, "a", of("1")).await.unwrap(), "that is not what waits");
        assert!(!store.approve_tool(&server("gitlab"), "a", of("2")).await.unwrap());
        assert!(store.approve_tool(&github, "a", of("2")).await.unwrap());
        assert!(!store.approve_tool(&github, "a", of("2")).await.unwrap(), "nothing waits any more");
        let said = store.definitions(&github, "a").await.unwrap().unwrap();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(said, Definitions { approved: text("2"), pending: None, former: text("1") });
        let pins = store.pins(Some(&github)).await.unwrap();
        let states: Vec<_> = pins.iter().map(|pin| (pin.tool.as_str(), pin.approved, pin.pending)).collect();
        assert_eq!(
            states,
            [("a", Some(of("2")), None), ("b", Some(of("1")), None), ("c", None, Some(of("1")))]
        );
        assert!(pins.iter().all(|pin| pin.first_seen > 1_600_000_000), "{pins:?}");

        // One that was never approved and is gone is forgotten; one that was approved is not.
        settle(&store, true, &[("a", "2")]).await;
        assert_eq!(store.pins(None).await.unwrap().len(), 2);
        let back = settle(&store, true, &[("a", "3"), ("b", "1")]).await;
        assert_eq!(changes(&back), [("a", What::Changed)]);
        assert_eq!(changes(&settle(&store, true, &[("a", "2")]).await), [("a", What::Restored)]);
    })
    .await;
}

#[tokio::test]
async fn without_pins_what_is_seen_is_approved_and_what_it_was_is_kept() {
    on_both(async |scratch: Scratch| {
        let store = scratch.store().await;
        settle(&store, false, &[("a", "1")]).await;
        let settled = settle(&store, false, &[("a", "2"), ("b", "1")]).await;
        assert_eq!(changes(&settled), [("a", What::Changed), ("b", What::New)]);
        assert_eq!(approved(&settled, "a"), Some(Digest::of("2")));
        let said = store.definitions(&server("github"), "a").await.unwrap().unwrap();
        assert_eq!((said.former.as_deref(), said.pending), (Some("1"), None));
        assert_eq!(store.definitions(&server("github"), "none").await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn of_gateways_that_read_at_once_one_finds_the_change() {
    on_both(async |scratch: Scratch| {
        // One after the other: a new file of SQLite is made by one.
        let mut stores = Vec::new();
        for _ in 0..4 {
            stores.push(scratch.store().await);
        }
        let firsts = join_all(stores.iter().map(|store| settle(store, true, &[("a", "1")]))).await;
        assert!(firsts.iter().all(|first| approved(first, "a").is_some() && first.changes.is_empty()));
        // They were told different things: the first sight is one of them, whole, and the other waits.
        let seconds = join_all(stores.iter().map(|store| settle(store, true, &[("a", "2")]))).await;
        let found: usize = seconds.iter().map(|second| second.changes.len()).sum();
        assert_eq!(found, 1);
        scratch.execute("DELETE FROM tool_pins").await;
        let (left, right) = tokio::join!(
            settle(&stores[0], true, &[("a", "1"), ("b", "1")]),
            settle(&stores[1], true, &[("a", "2"), ("b", "2")]),
        );
        let pins = stores[0].pins(None).await.unwrap();
        assert!(pins.iter().all(|pin| pin.approved == pins[0].approved && pin.pending.is_some()), "{pins:?}");
        assert_eq!(left.changes.len() + right.changes.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn what_an_operator_changes_by_sql_is_noticed_and_nonsense_is_refused() {
    on_both(async |scratch: Scratch| {
        let store = scratch.store().await;
        settle(&store, true, &[("a", "1")]).await;
        let mut before = store.pin_version().await.unwrap();
        for sql in [
            "UPDATE tool_pins SET former_definition = 'x'",
            "INSERT INTO tool_pins (server_id, tool_name) VALUES ('x', 'y')",
            "DELETE FROM tool_pins",
        ] {
            scratch.execute(sql).await;
            let version = store.pin_version().await.unwrap();
            assert_ne!(version, before, "{sql}");
            before = version;
        }
        for hash in ["", "1", &"A".repeat(64), &"a".repeat(65)] {
            let sql =
                format!("INSERT INTO tool_pins (server_id, tool_name, hash) VALUES ('x', 'y', '{hash}')");
            assert!(scratch.try_execute(&sql).await.is_err(), "{hash}");
        }
        scratch.execute("DELETE FROM tool_pin_version").await;
        assert_eq!(store.pin_version().await.unwrap(), 0);
        assert_eq!(settle(&store, true, &[("a", "1")]).await.approved.len(), 1);
    })
    .await;
}
