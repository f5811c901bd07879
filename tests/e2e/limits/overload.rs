//! More to do than can be done: some are turned away at once, so that the others are served in time.

use std::time::Duration;

use super::*;
use crate::harness::{
    deadline::until,
    fake_peer::Behaviour,
    raw::RawClient,
    request::{get, post},
};

#[tokio::test]
async fn so_many_requests_are_in_work_and_the_next_is_turned_away_at_once() {
    let scene = Scene::start(|setup| setup.set("limits.requests_in_work", 3)).await;
    scene.peer.set("/search", Behaviour::Stall);
    scene.peer.set("/fetch", Behaviour::Hold);
    let mut running = Vec::new();
    for _ in 0..3 {
        let mut client = RawClient::connect(&scene.gateway.address()).await;
        client.send(post("/alpha/search", &scene.token, "{}")).await;
        running.push(client);
    }
    scene.peer.arrived(3).await;
    let refused = scene.call("/beta/search").await;
    assert_eq!(
        (refused.status.as_u16(), refused.code().as_str(), retry_after(&refused)),
        (503, "overloaded", 1)
    );
    let health = scene.gateway.send(scene.gateway.request(reqwest::Method::GET, "/health")).await;
    assert_eq!(health.status, 200, "a load balancer is answered all the same");
    assert_eq!(scene.gateway.readiness().await, 200);
    scene.await_limited("overload", 1).await;
    running.pop();
    // A stream is open, and no work.
    let mut streams = Vec::new();
    for _ in 0..4 {
        let stream = until("a stream", || async {
            let mut client = RawClient::connect(&scene.gateway.address()).await;
            client.send(post("/beta/fetch", &scene.token, "{}")).await;
            let held = tokio::time::timeout(Duration::from_millis(500), scene.peer.held()).await.ok()?;
            held.send("data: 1\n\n");
            (client.read_head().await.0 == 200).then_some((client, held))
        });
        streams.push(stream.await);
    }
    assert_eq!(scene.gateway.get("/servers", &scene.token).await.status, 200);
}

#[tokio::test]
async fn late_workers_turn_requests_away_and_serve_all_of_them_again_afterwards() {
    let scene = Scene::start(|setup| setup.set("limits.shed_late_millis", 2).set("listen.threads", 1)).await;
    let path = get("/servers", &scene.token);
    let load: Vec<_> = (0..64)
        .map(|_| {
            let (address, path) = (scene.gateway.address(), path.clone());
            tokio::spawn(async move {
                let mut client = RawClient::connect(&address).await;
                loop {
                    let answer = client.exchange(&path).await;
                    assert!([200, 503].contains(&answer.status), "{}", answer.text());
                }
            })
        })
        .collect();
    until("requests turned away", || async { (scene.limited("overload").await > 0.0).then_some(()) }).await;
    let health = scene.gateway.send(scene.gateway.request(reqwest::Method::GET, "/health")).await;
    assert_eq!(health.status, 200);
    load.iter().for_each(|task| task.abort());
    until("all served again", || async {
        let mut served = 0;
        for _ in 0..20 {
            served += usize::from(scene.gateway.get("/servers", &scene.token).await.status == 200);
        }
        (served == 20).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_machine_that_paused_turns_nobody_away() {
    let scene = Scene::start(|setup| setup).await;
    assert_eq!(scene.call("/alpha/search").await.status, 200);
    scene.gateway.signal("STOP");
    tokio::time::sleep(Duration::from_secs(3)).await;
    scene.gateway.signal("CONT");
    assert_eq!(scene.statuses("/alpha/search", 50).await, [200; 50]);
    assert_eq!(scene.limited("overload").await, 0.0);
}
