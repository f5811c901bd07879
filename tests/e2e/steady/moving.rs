//! A server whose name moves and whose authority changes, while it is called.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use super::{SPAN, calls, open_streams};
use crate::harness::{
    certificates::Authority, deadline::until, events::EventPeer, gateway::Gateway, grants::Grants,
    load::Outcome, names::NameServer, tls_peer::TlsFront,
};

const FIRST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Keys of a server that speaks MCP.
fn native(keys: &str) -> toml::Table {
    format!("tier = 'http'\ndialect = 'mcp'\n{keys}").parse().unwrap()
}

#[tokio::test]
async fn a_name_that_moves_fails_no_call_and_breaks_no_stream() {
    let every = Duration::from_millis(50);
    let names = NameServer::start(1).await;
    let first = EventPeer::start(every);
    let mut moved: SocketAddr = first.address().parse().unwrap();
    moved.set_ip(SECOND.into());
    let second = EventPeer::start_at(moved, every);
    names.say("tools.test", &[FIRST]);
    let grants = Grants::of(&["alpha", "native"]).await;
    let url = first.url().replace("127.0.0.1", "tools.test");
    let setup = grants.setup().server("alpha", &url).mcp("native", "mcp", &format!("{url}/mcp"));
    let gateway = setup.set("upstream.nameservers", vec![names.address.to_string()]).start().await;
    gateway.knows_tools("alpha", 2).await;
    let streams = open_streams(&gateway, 20).await;
    let load = calls(&gateway).start();
    load.run_for(SPAN).await.all_worked("before it moves");
    assert_eq!(second.answered(), 0);

    names.say("tools.test", &[SECOND]);
    until("calls at the new address", async || (second.answered() > 0).then_some(())).await;
    load.take().none_failed("while it moves");
    let before = first.answered();
    load.run_for(SPAN).await.all_worked("once it has moved");
    // Calls that had been on their way.
    assert!(first.answered() <= before + 2, "{} more at the old address", first.answered() - before);
    // The old one goes as a deployment does: it ends its streams, and then its port is closed.
    first.end_streams();
    let (broken, events) = streams.ended().await;
    assert!(broken.is_empty() && events > 40, "{events} events; streams broken:\n{broken}");
    first.kill();
    load.run_for(SPAN).await.all_worked("without the old one");
    load.end().await.none_failed("at the end");
}

/// Writes the file of authorities that the servers name.
fn believe(file: &Path, authorities: &[&Authority]) {
    let text: String =
        authorities.iter().map(|authority| fs::read_to_string(authority.root()).unwrap()).collect();
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

/// How often the gateway has taken a configuration over.
async fn generation(gateway: &Gateway) -> f64 {
    gateway.metrics().await.sum("portcullis_config_generation", &[])
}

#[tokio::test]
async fn an_authority_that_is_replaced_fails_no_call_and_breaks_no_stream() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let (old, new) = (Authority::new(), Authority::new());
    believe(&file, &[&old]);
    let peer = EventPeer::start(Duration::from_millis(50));
    let front = TlsFront::of(peer.address(), old.serves("localhost", None));
    let grants = Grants::of(&["alpha", "native"]).await;
    let ca = format!("ca = '{}'", file.display());
    let setup = grants.setup().server_with("alpha", &front.url(), ca.parse().unwrap());
    let setup = setup.server_with("native", &format!("{}/mcp", front.url()), native(&ca));
    let gateway = setup.start().await;
    gateway.knows_tools("alpha", 2).await;
    let streams = open_streams(&gateway, 20).await;
    let load = calls(&gateway).start();
    load.run_for(SPAN).await.all_worked("before");

    // As it is done: believe both, then serve the new one, then believe it alone.
    for (what, believed, serves) in [
        ("both believed", &[&old, &new][..], &old),
        ("the new one served", &[&old, &new], &new),
        ("the new one alone", &[&new], &new),
    ] {
        front.serve(serves.serves("localhost", None));
        let before = generation(&gateway).await;
        if what != "the new one served" {
            believe(&file, believed);
            until(what, async || (generation(&gateway).await > before).then_some(())).await;
        }
        load.run_for(SPAN).await.all_worked(what);
    }
    // The one who signed is believed no more: no call uses what was connected when it was.
    let before = generation(&gateway).await;
    believe(&file, &[&old]);
    until("the old one alone", async || (generation(&gateway).await > before).then_some(())).await;
    // They may wait for a restart first; those of pages are answered throughout.
    let calls = until("calls that are refused", async || {
        let tally = load.run_for(SPAN).await;
        let refused = Outcome::Answered(502, "peer_unreachable".to_owned());
        tally.outcomes.contains_key(&refused).then_some(tally)
    })
    .await;
    let called = peer.answered();
    load.run_for(SPAN).await;
    assert_eq!(peer.answered(), called, "it is called although it is not believed; {calls}");
    believe(&file, &[&new]);
    until("a peer that is called again", async || {
        let healthy = [("server", "alpha"), ("state", "healthy")];
        (gateway.metrics().await.sum("portcullis_peers", &healthy) == 1.0).then_some(())
    })
    .await;
    // Those that had begun before come to their end.
    for _ in 0..12 {
        eprintln!("DBG {}", load.run_for(SPAN).await);
    }
    eprintln!("{}", gateway.stderr.text());
    load.run_for(SPAN).await.all_worked("believed again");
    load.end().await.none_failed("at the end");
    peer.end_streams();
    let (broken, _) = streams.ended().await;
    assert!(broken.is_empty(), "streams broken:\n{broken}");
}
