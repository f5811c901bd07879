//! What is sent a second time: only what may be run twice, and only so often.

use std::collections::BTreeMap;

use serde_json::json;

use super::{call, healthy, start, working};
use crate::harness::{
    fake_peer::{Behaviour, FakePeer},
    gateway::Gateway,
    grants::CALLER,
    tokens::email_token,
    wire::answer,
};

async fn hanging_up() -> FakePeer {
    FakePeer::start().await.with_tool("work", Behaviour::HangUpAfterBody)
}

async fn keyed(gateway: &Gateway) -> u16 {
    let request = gateway.call_request("/alpha/work", &email_token(CALLER), &json!({"n": 1}));
    gateway.send(request.header("idempotency-key", "once")).await.status.as_u16()
}

#[tokio::test]
async fn a_call_that_may_have_run_is_sent_once_unless_its_client_named_it() {
    let (well, sick) = (working().await, hanging_up().await);
    let (gateway, _grants) = start(&[&well, &sick], "").await;
    let mut statuses = Vec::new();
    while sick.requests().is_empty() {
        statuses.push(call(&gateway).await.status.as_u16());
    }
    assert_eq!(statuses.last(), Some(&502));
    assert_eq!(well.requests().len() + sick.requests().len(), statuses.len(), "each was sent once");
    let before = sick.requests().len();
    while sick.requests().len() == before {
        assert_eq!(keyed(&gateway).await, 200);
    }
    let (first, second) = (sick.requests().pop().unwrap(), well.requests().pop().unwrap());
    assert_eq!((first.head.header("idempotency-key"), first.json()), (Some("once"), json!({"n": 1})));
    assert_eq!((second.head.header("idempotency-key"), second.json()), (Some("once"), json!({"n": 1})));
    let repeated = [("server", "alpha"), ("reason", "repeatable")];
    assert_eq!(gateway.metrics().await.sum("portcullis_peer_retries_total", &repeated), 1.0);
}

#[tokio::test]
async fn a_tool_that_the_operator_calls_harmless_is_sent_to_the_other_peer() {
    let (well, sick) = (working().await, hanging_up().await);
    let (gateway, _grants) = start(&[&well, &sick], "retry = ['wo*']").await;
    for _ in 0..20 {
        assert_eq!(call(&gateway).await.status, 200);
    }
    assert!((1..=3).contains(&sick.requests().len()), "{}", sick.requests().len());
    healthy(&gateway, 1).await;
}

#[tokio::test]
async fn calls_are_sent_twice_at_most_and_a_sick_server_is_not_sent_twice_its_calls() {
    let sick = hanging_up().await;
    let (gateway, _grants) = start(&[&sick], "retry = ['work']").await;
    assert_eq!(call(&gateway).await.status, 502);
    assert_eq!(sick.requests().len(), 2);
}

#[tokio::test]
async fn what_may_run_twice_goes_to_the_other_peer_when_one_answers_503_and_nothing_else_does() {
    let (well, sick) = (working().await, working().await);
    sick.set("/work", Behaviour::Answer(answer("503 Service Unavailable", "text/plain", b"no backend")));
    for (keys, path) in
        [("retry = ['work']", "/alpha/work"), ("retry = ['work']", "/mcp"), ("", "/alpha/work")]
    {
        let (gateway, _grants) = start(&[&well, &sick], keys).await;
        let before = sick.requests().len();
        let mut statuses = BTreeMap::<u16, usize>::new();
        for _ in 0..20 {
            let answer = match path {
                "/mcp" => {
                    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                        "params": {"name": "alpha_work", "arguments": {}}});
                    gateway.call(path, &email_token(CALLER), &call).await
                }
                _ => call(&gateway).await,
            };
            assert!(path != "/mcp" || answer.text().contains("done"), "{}", answer.text());
            *statuses.entry(answer.status.as_u16()).or_default() += 1;
        }
        let asked = sick.requests().len() - before;
        assert!(asked > 0, "{path}: it was never asked");
        let expected =
            if keys.is_empty() { [(200, 20 - asked), (503, asked)].into() } else { [(200, 20)].into() };
        assert_eq!(statuses, expected, "{path} {keys}");
    }
}
