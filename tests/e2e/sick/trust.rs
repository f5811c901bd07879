//! Servers behind an authority of their own, and servers that want to know who calls: certificates from files.

use serde_json::json;

use super::with_peers;
use crate::harness::{
    certificates::Authority,
    fake_peer::FakePeer,
    gateway::Gateway,
    grants::{CALLER, Grants},
    tls_peer::TlsFront,
    tokens::email_token,
};

async fn status(gateway: &Gateway, server: &str) -> u16 {
    gateway.call(&format!("/{server}/work"), &email_token(CALLER), &json!({})).await.status.as_u16()
}

#[tokio::test]
async fn a_server_of_a_private_authority_that_asks_who_calls_is_called_and_nobody_else_with_its_trust() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let ca = authority.root();
    let (certificate, key) = clients.files();
    let peer = FakePeer::start().await.with_json("work", json!("done"));
    let front = TlsFront::of(peer.address(), authority.serves("localhost", Some(&clients)));
    let ids = ["right", "nobody", "nothing"];
    // One address, so that nothing else is told than what went wrong there.
    let url = front.url().replace("localhost", "127.0.0.1");
    let grants = Grants::of(&ids).await;
    let whole =
        format!("tls_name = 'localhost'\nca = '{ca}'\nclient_cert = '{certificate}'\nclient_key = '{key}'");
    let setup = with_peers(grants.setup(), "right", std::slice::from_ref(&url), &whole);
    // The same address, and no use of what the first has.
    let setup = with_peers(
        setup,
        "nobody",
        std::slice::from_ref(&url),
        &format!("tls_name = 'localhost'\nca = '{ca}'"),
    );
    let gateway = with_peers(setup, "nothing", &[url], "").start().await;
    gateway.knows_tools("right", 1).await;
    for _ in 0..3 {
        assert_eq!(status(&gateway, "right").await, 200);
        assert_eq!((status(&gateway, "nobody").await, status(&gateway, "nothing").await), (502, 502));
    }
    assert_eq!(gateway.metrics().await.sum("portcullis_tools", &[("server", "nobody")]), 0.0);
    // The log says why.
    for (server, why) in
        [("nobody", "it wants a certificate of ours"), ("nothing", "of no authority that is believed")]
    {
        let of = format!("tool list of server `{server}`");
        gateway.stderr.find(why, |line| line.contains(&of) && line.contains(why)).await;
    }
}

#[tokio::test]
async fn a_certificate_must_have_the_name_of_the_address_or_the_one_that_is_configured() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let (ca, other) = (authority.root(), foreign.root());
    let peer = FakePeer::start().await.with_json("work", json!("done"));
    let front = TlsFront::of(peer.address(), authority.serves("tools.internal", None));
    let grants = Grants::of(&["named", "unnamed", "foreign"]).await;
    let named = format!("ca = '{ca}'\ntls_name = 'tools.internal'");
    let setup = with_peers(grants.setup(), "named", &[front.url()], &named);
    let setup = with_peers(setup, "unnamed", &[front.url()], &format!("ca = '{ca}'"));
    let foreign = format!("ca = '{other}'\ntls_name = 'tools.internal'");
    let gateway = with_peers(setup, "foreign", &[front.url()], &foreign).start().await;
    gateway.knows_tools("named", 1).await;
    assert_eq!(status(&gateway, "named").await, 200);
    assert_eq!((status(&gateway, "unnamed").await, status(&gateway, "foreign").await), (502, 502));
}
