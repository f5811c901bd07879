//! Two gateways with one key are one gateway for the aggregate, too: sessions and cursors are good at both.

use serde_json::json;

use super::{
    Served,
    client::{ASKABLE, ERAS, Era, Mcp},
    setup,
};
use crate::harness::{
    gateway::Gateway,
    grants::{CALLER, Grants},
    mcp::{FIXTURE_TOOLS, Fixture},
    tokens::email_token,
};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

async fn replica(grants: &Grants, served: &[Served<'_>]) -> Gateway {
    let setup = setup(grants, served).set("mcp.session_keys", vec![KEY]).set("mcp.page_size", 5);
    let gateway = setup.start().await;
    gateway.await_tools("native", FIXTURE_TOOLS).await;
    gateway
}

#[tokio::test]
async fn a_session_and_a_list_begun_at_one_replica_go_on_at_the_other_and_outlive_it() {
    let (fixture, grants) = (Fixture::with(&["--era", "legacy"]).await, Grants::of(&["native"]).await);
    let served = [("native", "mcp", fixture.url("/mcp"))];
    let one = replica(&grants, &served).await;
    let two = replica(&grants, &served).await;
    let token = email_token(CALLER);
    let mut begun = Vec::new();
    for era in ERAS {
        let at_one = Mcp::begin(&one.url("/mcp"), &token, era, ASKABLE).await;
        let first = at_one.result("tools/list", json!({})).await;
        begun.push((era, at_one.session.clone(), first["nextCursor"].clone()));
    }
    drop(one);
    for (era, session, cursor) in begun {
        let mut at_two = Mcp::begin(&two.url("/mcp"), &token, era, ASKABLE).await;
        at_two.session = session;
        let second = at_two.result("tools/list", json!({"cursor": cursor})).await;
        assert_eq!(second["tools"].as_array().unwrap().len(), 5, "{era:?}: {second}");
        let echoed = at_two.call("native_echo", json!({"message": "hi"})).await;
        assert_eq!(echoed["structuredContent"]["message"], "hi", "{era:?}");
        if era == Era::Legacy {
            assert!(at_two.leave().await.status.is_success());
        }
    }
}
