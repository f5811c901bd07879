//! Many configurations in a row under steady load: no call fails, no stream breaks, nothing piles up.

use std::fs;

use serde_json::json;

use super::{Load, Standing, server, set};
use crate::harness::{
    deadline::until_so,
    fake_peer::FakePeer,
    gateway::Gateway,
    grants::{CALLER, Grants},
    raw::RawClient,
    raw_peer::RawPeer,
    request::head,
    tokens::email_token,
};

const RELOADS: usize = 50;

/// Threads, open files and resident kilobytes of the process.
fn figures(gateway: &Gateway) -> (usize, usize, usize) {
    let process = format!("/proc/{}", gateway.id());
    let count = |folder: &str| fs::read_dir(format!("{process}/{folder}")).unwrap().count();
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident = resident.trim().trim_end_matches(" kB").parse().unwrap();
    (count("task"), count("fd"), resident)
}

#[tokio::test]
async fn fifty_configurations_in_a_row_fail_no_call_and_break_no_stream_and_leave_nothing_behind() {
    let rest = FakePeer::start().await.with_json("search", json!([]));
    let (native, added) =
        (RawPeer::with_tools(&[]).await, FakePeer::start().await.with_json("find", json!([])));
    let grants = Grants::of(&["rest", "alpha", "notes"]).await;
    let keys = toml::Table::from_iter([("dialect".to_owned(), "mcp".into())]);
    let setup = grants.setup().server("rest", &rest.url()).server_with(
        "alpha",
        &format!("{}/mcp", native.url()),
        keys,
    );
    let gateway = setup.start().await;
    gateway.await_tools("rest", 1).await;
    let token = email_token(CALLER);
    let mut standing = Standing::open(&gateway, &native, "alpha", &token).await;
    let mut all = RawClient::connect(&gateway.address()).await;
    all.send(head("GET", "/mcp", &token, &["accept: text/event-stream"])).await;
    assert_eq!(all.read_head().await.0, 200);
    let load = Load::begin(&gateway, "/rest/search", &token);
    let mut before = None;
    for round in 0..RELOADS {
        let next = gateway.generation().await + 1;
        super::change(&gateway, "gateway.toml", |table| {
            set(table, "auth.service_keys.other.key", format!("a-service-key-number-{round}"));
            set(table, "access.max_stale_secs", 600 + round as i64);
            set(table, "tools.refresh_secs", 100 + round as i64);
        });
        super::change(&gateway, "servers.toml", |table| {
            set(table, "servers.rest.description", format!("round {round}"));
            if round % 2 == 0 {
                set(table, "servers.notes", server(&added.url()));
            } else {
                super::unset(table, "servers.notes");
            }
        });
        // Not waited for by the clock of the watcher: SIGHUP reads both at once.
        gateway.signal("HUP");
        gateway.taken(next).await;
        load.goes_on(10).await;
        standing.stands().await;
        if round == RELOADS / 5 {
            before = Some(figures(&gateway));
        }
    }
    load.none_failed().await;
    standing.stands().await;
    let (threads, files, resident) = before.unwrap();
    let now = || figures(&gateway);
    until_so("no more threads than before", || now().0 <= threads + 2).await;
    until_so("no more open files than before", || now().1 <= files + 8).await;
    assert!(now().2 < resident + 24 * 1024, "{} kB resident, before {resident}", now().2);
    assert!(gateway.generation().await > RELOADS);
    assert_eq!(gateway.metrics().await.sum("portcullis_panics_total", &[]), 0.0);
}
