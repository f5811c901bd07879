//! Messages of every size, however they are framed and cut, arrive whole; and never at somebody else's.

use serde_json::{Value, json};

use super::wire::{End, call, request};
use crate::harness::{
    gateway::Answer,
    mcp::{Fixture, LEGACY, Scene},
    raw::RawClient,
    request::{head, post_with},
    wire::chunk,
};

const ACCEPT: &str = "accept: application/json, text/event-stream";

/// An `echo` of so many bytes in a session, and what it must answer.
fn echo(id: u64, bytes: usize) -> (String, String) {
    let word: String = "abcdefghijklmnopqrstuvwxyz".chars().cycle().take(bytes).collect();
    (call(id, "echo", json!({"message": word})).to_string(), word)
}

#[track_caller]
fn assert_echoed(what: &str, answer: &Value, word: &str) {
    let echoed =
        answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{what}: {answer}"));
    assert!(echoed == word, "{what}: {} bytes came back of {}", echoed.len(), word.len());
}

#[tokio::test]
async fn a_message_of_any_size_and_framing_arrives_whole_on_one_connection() {
    let fixture = Fixture::start().await;
    let scene = Scene::in_front_of(&fixture.url("/mcp")).await;
    let session = End::through(scene.url(), &scene.token).session().await;
    let (session, version) =
        (format!("mcp-session-id: {session}"), format!("mcp-protocol-version: {LEGACY}"));
    let lines = [ACCEPT, "content-type: application/json", &*session, &*version];
    let in_chunks = [&lines[..], &["transfer-encoding: chunked"]].concat();
    let mut client = RawClient::connect(&scene.gateway.address()).await;
    let sizes = [0, 1, 1000, 65_300, 65_400, 65_536, 66_000, 131_072, 200_000, 1_000_000, 3_000_000];
    for (id, bytes) in sizes.into_iter().enumerate() {
        let (message, word) = echo(id as u64, bytes);
        let whole = client.exchange(post_with("/native/mcp", &scene.token, &lines, &message)).await;
        assert_echoed(&format!("{bytes} bytes at once"), &whole.json(), &word);

        // The head alone, then pieces that end inside of strings.
        let length = format!("content-length: {}", message.len());
        let with_length = [&lines[..], &[length.as_str()]].concat();
        client.send(head("POST", "/native/mcp", &scene.token, &with_length)).await;
        for piece in message.as_bytes().chunks(50_021) {
            client.send(piece).await;
        }
        assert_echoed(&format!("{bytes} bytes in pieces"), &client.read_answer().await.json(), &word);

        client.send(head("POST", "/native/mcp", &scene.token, &in_chunks)).await;
        for piece in message.as_bytes().chunks(33_333) {
            client.send(chunk(piece)).await;
        }
        client.send("0\r\n\r\n").await;
        assert_echoed(&format!("{bytes} bytes in chunks"), &client.read_answer().await.json(), &word);
    }
}

#[tokio::test]
async fn a_result_of_many_megabytes_arrives_whole() {
    let fixture = Fixture::start().await;
    let scene = Scene::in_front_of(&fixture.url("/mcp")).await;
    let through = End::through(scene.url(), &scene.token);
    let session = through.session().await;
    let bytes = 20_000_000;
    let big =
        Answer::read(through.in_session(&session, &call(2, "big", json!({"bytes": bytes}))).await).await;
    assert_eq!(big.json()["result"]["content"][0]["text"].as_str().unwrap().len(), bytes);
}

#[tokio::test]
async fn callers_at_the_same_time_get_their_own_answers() {
    let fixture = Fixture::start().await;
    let scene = Scene::in_front_of(&fixture.url("/mcp")).await;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..24 {
        let (url, token) = (scene.url(), scene.token.clone());
        callers.spawn(async move {
            let through = End::through(url, &token);
            let session = through.session().await;
            // The same ids everywhere: only the session tells the answers apart.
            for id in 2..22 {
                let word = format!("caller {caller}, call {id}");
                let message = call(id, "echo", json!({"message": word}));
                let answer = Answer::read(through.in_session(&session, &message).await).await.json();
                assert_eq!(answer["id"], id);
                assert_echoed(&word, &answer, &word);
                let arguments = json!({"name": "echo", "arguments": {"message": word}});
                let modern = Answer::read(through.modern("tools/call", Some("echo"), arguments).await).await;
                assert_echoed(&word, &modern.json(), &word);
            }
            assert_eq!(through.leave(&session).await.status(), 200);
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    assert_eq!(fixture.count("sessions").await, 0);
}

#[tokio::test]
async fn a_batch_of_the_one_revision_that_has_them_is_answered_as_the_server_answers_it() {
    let fixture = Fixture::start().await;
    let scene = Scene::in_front_of(&fixture.url("/mcp")).await;
    let ends = [End::beside(fixture.url("/mcp")), End::through(scene.url(), &scene.token)];
    let mut answers = Vec::new();
    for end in &ends {
        let hello = json!({"protocolVersion": "2025-03-26", "capabilities": {},
            "clientInfo": {"name": "batch", "version": "1"}});
        let began = end.post(&[], &request(1, "initialize", hello)).await;
        let session = began.headers()["mcp-session-id"].to_str().unwrap().to_owned();
        let batch = json!([call(2, "echo", json!({"message": "one"})),
            {"jsonrpc": "2.0", "method": "notifications/initialized"}, request(3, "ping", json!({}))]);
        let headers = [("mcp-session-id", &*session)];
        answers.push(Answer::read(end.post(&headers, &batch).await).await);
    }
    assert_eq!((answers[1].status, answers[1].text()), (answers[0].status, answers[0].text()));
    assert_eq!(answers[0].json().as_array().unwrap().len(), 2);
}
