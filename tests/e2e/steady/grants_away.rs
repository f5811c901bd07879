//! Postgres is killed and started again under load.

use std::time::Duration;

use super::{SPAN, calls, in_front_of, open_streams};
use crate::harness::{
    events::EventPeer,
    gateway::Setup,
    grants::{CALLER, STRANGER},
    load::{Outcome, Plan},
    postgres::{Database, PrivateCluster},
    request::post,
    tokens::email_token,
};

#[tokio::test]
async fn postgres_killed_and_started_again_fails_no_call_and_breaks_no_stream() {
    let cluster = PrivateCluster::start();
    let database = Database::create_on(&cluster.url()).await;
    let peer = EventPeer::start(Duration::from_millis(50));
    let gateway = in_front_of(&peer, Setup::new(&database.url())).start().await;
    let grant = |server| {
        format!(
            "INSERT INTO user_tenant_access (user_email, tenant_id, access_level) VALUES ('{CALLER}','{server}','read');"
        )
    };
    database.execute(&(grant("alpha") + &grant("native"))).await;
    gateway.await_grants(2).await;
    gateway.knows_tools("alpha", 2).await;

    let streams = open_streams(&gateway, 20).await;
    let load = calls(&gateway).start();
    let strangers = vec![post("/alpha/search", &email_token(STRANGER), "{}")];
    let strangers = Plan { callers: 2, ..Plan::of(gateway.address(), strangers) }.start();
    load.run_for(SPAN).await.all_worked("before");
    for turn in 1..=2 {
        cluster.stop();
        gateway.await_metric("portcullis_database_up", &[], 0).await;
        load.run_for(SPAN).await.all_worked(&format!("without Postgres, time {turn}"));
        cluster.start_again();
        gateway.await_metric("portcullis_database_up", &[], 1).await;
        load.run_for(SPAN).await.all_worked(&format!("with Postgres again, time {turn}"));
    }
    load.end().await.none_failed("at the end");
    let refused = strangers.end().await;
    let is_no = Outcome::Answered(403, "not_granted".to_owned());
    assert!(refused.outcomes.keys().all(|outcome| *outcome == is_no), "a stranger was let in: {refused}");
    peer.end_streams();
    let (broken, events) = streams.ended().await;
    assert!(broken.is_empty(), "streams broken:\n{broken}");
    assert!(events > 40 * 40, "{events} events in all");
}
