//! Servers are killed and started again under steady load: what had not been sent to them does not fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use serde_json::json;
use tokio::task::JoinSet;

use super::{
    Served, World,
    client::{Era, Mcp},
};
use crate::harness::{deadline::until, mcp::Fixture, port::Port};

/// One call: to which server, when, and what went wrong.
struct Call {
    server: usize,
    began: Instant,
    ended: Instant,
    failure: Option<String>,
}

/// When a server was killed: the signal, and the moment its sockets were closed.
struct Kill {
    server: usize,
    from: Instant,
    to: Instant,
}

const SERVERS: [(&str, &str, &str, &[&str]); 3] = [
    ("legacy", "mcp", "/mcp", &["--era", "legacy"]),
    ("modern", "mcp", "/mcp", &["--era", "modern"]),
    ("events", "mcp-sse", "/sse", &["--era", "legacy"]),
];
/// Of each face at each server.
const WORKERS: usize = 2;
const ROUNDS: usize = 3;

/// A client of one face that calls one server without a pause.
enum Worker {
    Rest { client: reqwest::Client, url: String, token: String },
    Aggregate { client: Mcp, tool: String },
}

impl Worker {
    async fn call(&self, word: &str) -> Result<(), String> {
        let arguments = json!({"message": word});
        let said = match self {
            Self::Rest { client, url, token } => {
                let request = client.post(url).bearer_auth(token).header("content-type", "application/json");
                let answer =
                    request.body(arguments.to_string()).send().await.map_err(|error| error.to_string())?;
                let (status, text) =
                    (answer.status(), answer.text().await.map_err(|error| error.to_string())?);
                format!("{status} {text}")
            }
            Self::Aggregate { client, tool } => {
                let heard = client.ask("tools/call", json!({"name": tool, "arguments": arguments})).await;
                format!("{} {:?}", heard.status, heard.outcome)
            }
        };
        if said.starts_with("200") && said.contains(word) { Ok(()) } else { Err(said) }
    }
}

async fn workers(world: &World, server: &str) -> Vec<Worker> {
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        let (client, url) = (world.gateway.client.clone(), world.gateway.url(&format!("/{server}/echo")));
        workers.push(Worker::Rest { client, url, token: world.token.clone() });
        for era in [Era::Legacy, Era::Modern] {
            let client = world.mcp("/mcp", era).await;
            workers.push(Worker::Aggregate { client, tool: format!("{server}_echo") });
        }
    }
    workers
}

#[expect(clippy::print_stderr, reason = "a figure to read in the test's output")]
fn report(figure: &str) {
    eprintln!("{figure}");
}

#[tokio::test]
async fn no_call_that_had_not_been_sent_fails_while_every_server_is_killed_and_started_again() {
    let ports: Vec<_> = SERVERS.iter().map(|_| Port::take()).collect();
    let mut fixtures = Vec::new();
    for (port, (.., options)) in ports.iter().zip(SERVERS) {
        fixtures.push(Some(Fixture::on(port, options).await));
    }
    let served: Vec<Served<'_>> = SERVERS
        .iter()
        .zip(&fixtures)
        .map(|((id, dialect, path, _), fixture)| (*id, *dialect, fixture.as_ref().unwrap().url(path)))
        .collect();
    let world = World::of(&served).await;
    let (is_over, mut load) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for (server, (id, ..)) in SERVERS.iter().enumerate() {
        for (number, worker) in workers(&world, id).await.into_iter().enumerate() {
            let is_over = is_over.clone();
            load.spawn(async move {
                let mut calls = Vec::new();
                while !is_over.load(Ordering::SeqCst) {
                    let began = Instant::now();
                    let failure = worker.call(&format!("worker {number}, call {}", calls.len())).await.err();
                    calls.push(Call { server, began, ended: Instant::now(), failure });
                }
                calls
            });
        }
    }
    let mut kills = Vec::new();
    for _ in 0..ROUNDS {
        for (server, (.., options)) in SERVERS.iter().enumerate() {
            let running = fixtures[server].take().unwrap();
            let from = Instant::now();
            running.kill().await;
            kills.push(Kill { server, from, to: Instant::now() });
            let again = Fixture::on(&ports[server], options).await;
            // The load goes on at the server that came back before the next one is killed.
            until("load at the server that came back", || async {
                (again.count("gateway/byMethod/tools~1call").await > 20).then_some(())
            })
            .await;
            fixtures[server] = Some(again);
        }
    }
    is_over.store(true, Ordering::SeqCst);
    let calls: Vec<Call> = load.join_all().await.into_iter().flatten().collect();
    let failed: Vec<_> = calls.iter().filter(|call| call.failure.is_some()).collect();
    let was_underway = |call: &Call| {
        kills.iter().any(|kill| kill.server == call.server && call.began < kill.to && call.ended > kill.from)
    };
    report(&format!("{} calls, {} failed, {} kills", calls.len(), failed.len(), kills.len()));
    let lost: Vec<_> = failed.iter().filter(|call| !was_underway(call)).collect();
    let told: Vec<_> =
        lost.iter().map(|call| (SERVERS[call.server].0, call.failure.as_ref().unwrap())).collect();
    assert!(lost.is_empty(), "{} calls that had not been sent failed: {told:?}", lost.len());
    assert!(failed.len() <= kills.len() * WORKERS * 3, "more failed than were underway");
}
