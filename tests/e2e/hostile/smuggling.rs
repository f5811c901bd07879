//! Every spelling of [`super::cases`], on every face: its stated answer, and what becomes of it at the peer.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;

use super::{
    Face, Scene,
    cases::{self, Case},
    stated,
};
use crate::harness::{
    raw::RawClient,
    request::{get, post},
};

/// The only headers a request at a peer may have.
const AT_THE_PEER: [&str; 6] =
    ["host", "accept", "content-type", "x-request-id", "content-length", "transfer-encoding"];

/// What an attacker hides behind a request, with a mark.
fn hidden(token: &str) -> Vec<u8> {
    post("/alpha/search", token, r#"{"smuggled": true}"#)
}

/// What came of a case on a face.
struct Found {
    what: String,
    /// The request id it was sent with.
    id: String,
    face: Face,
    status: u16,
}

/// Sends the case with a second request right behind it: the status of its answer. The connection must end with that.
async fn ask(scene: &Scene, number: usize, case: &Case, face: Face) -> Found {
    let (id, what) = (format!("hostile-{number}-{}", face.name), format!("{} on {}", case.name, face.name));
    let more = format!("authorization: Bearer {}\r\nx-request-id: {id}\r\n", scene.token);
    let mut client = RawClient::connect(&scene.gateway.address()).await;
    let bytes = [case.bytes(&face, &more), hidden(&scene.token)].concat();
    // The other side may refuse before it has read all.
    drop(client.try_send(bytes).await);
    let status = client.read_answer().await.status;
    assert!(
        client.is_closed_within(Duration::from_secs(10)).await,
        "{what}: {status}, and what follows is read"
    );
    Found { what, id, face, status }
}

#[tokio::test]
async fn each_spelling_has_its_stated_answer_and_at_most_one_plain_request_reaches_the_peer() {
    let scene = Scene::start().await;
    let cases = cases::all();
    let mut found = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let expected: u16 = stated(case.row)[0][..3].parse().expect("a status in README.md");
        for got in join_all(case.faces().into_iter().map(|face| ask(&scene, number, case, face))).await {
            assert_eq!(got.status, expected, "{}", got.what);
            found.push(got);
        }
    }
    let mut at_the_peer: BTreeMap<String, usize> = BTreeMap::new();
    for request in scene.peer.sent() {
        if request.all("x-request-id").is_empty() || !request.is_whole {
            panic!("nobody sent this: {request:?}");
        }
        let id = request.all("x-request-id")[0].to_owned();
        let odd: Vec<_> =
            request.names().into_iter().filter(|name| !AT_THE_PEER.contains(&name.as_str())).collect();
        assert!(odd.is_empty(), "{id}: {odd:?} went on");
        let face = found.iter().find(|found| found.id == id).unwrap_or_else(|| panic!("{request:?}")).face;
        let path = face.passes_to.unwrap_or_else(|| panic!("{id} went on"));
        assert!(request.head.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{}", request.head);
        assert_eq!(String::from_utf8_lossy(&request.body), face.body, "{id}");
        *at_the_peer.entry(id).or_default() += 1;
    }
    for found in &found {
        let passes = usize::from(found.status == 200 && found.face.passes_to.is_some());
        assert_eq!(at_the_peer.get(&found.id).copied().unwrap_or_default(), passes, "{}", found.what);
    }
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_connection_serves_on_or_ends_as_stated_after_a_request_without_company() {
    let scene = Scene::start().await;
    for case in cases::all().iter().filter(|case| !case.is_last) {
        let face = super::FACES[0];
        let more = format!("authorization: Bearer {}\r\n", scene.token);
        // Its end never comes.
        if case.name.ends_with(r#"$\r\n0\r\n""#) {
            continue;
        }
        let mut client = RawClient::connect(&scene.gateway.address()).await;
        drop(client.try_send(case.bytes(&face, &more)).await);
        let answer = client.read_answer().await;
        let is_kept = match stated(case.row)[1].as_str() {
            "kept" => true,
            "closed" => false,
            _ => answer.head.header("connection") != Some("close"),
        };
        if is_kept {
            let next = client.exchange(get("/alpha", &scene.token)).await;
            assert_eq!(next.status, 200, "after {}", case.name);
        } else {
            assert!(client.is_closed_within(Duration::from_secs(10)).await, "after {}", case.name);
        }
    }
}
