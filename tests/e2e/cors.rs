//! Browsers: what a listed origin is told, and what another one is not.

use reqwest::{Method, header::HeaderMap};
use serde_json::json;

use crate::harness::{
    fake_peer::{Behaviour, FakePeer},
    gateway::{Answer, Gateway},
    grants::{CALLER, Grants},
    tokens::email_token,
};

const LISTED: &str = "https://chat.example.com";

async fn start() -> (Gateway, FakePeer, Grants) {
    let grants = Grants::of(&["alpha"]).await;
    // The peer has an opinion of its own, which is not the gateway's.
    let bytes = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\naccess-control-allow-origin: *\r\n\
        access-control-allow-credentials: true\r\nvary: Accept\r\ncontent-length: 2\r\n\r\n[]";
    let peer = FakePeer::start().await.with_tool("search", Behaviour::Answer(bytes.to_vec()));
    let peer = peer.with_tool("broken", Behaviour::HangUpAfterBody);
    let setup = grants.setup().server("alpha", &peer.url());
    let gateway = setup.set("cors.origins", vec![LISTED]).start().await;
    gateway.knows_tools("alpha", 2).await;
    (gateway, peer, grants)
}

async fn preflight(gateway: &Gateway, origin: &str) -> Answer {
    let request = gateway.request(Method::OPTIONS, "/alpha/search").header("origin", origin);
    let request = request.header("access-control-request-method", "POST");
    gateway.send(request.header("access-control-request-headers", "authorization,content-type")).await
}

fn cors_headers(headers: &HeaderMap) -> Vec<&str> {
    let names = headers.keys().map(reqwest::header::HeaderName::as_str);
    names.filter(|name| name.starts_with("access-control-")).collect()
}

#[tokio::test]
async fn a_listed_origin_s_preflight_is_answered_without_a_credential() {
    let (gateway, peer, _grants) = start().await;
    let answer = preflight(&gateway, LISTED).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (204, 0));
    assert_eq!(answer.header("access-control-allow-origin"), Some(LISTED));
    assert_eq!(answer.header("access-control-allow-credentials"), None);
    let methods = answer.header("access-control-allow-methods").unwrap();
    assert!(methods.contains("GET") && methods.contains("POST"), "{methods}");
    let headers = answer.header("access-control-allow-headers").unwrap();
    assert!(headers.contains("authorization") && headers.contains("content-type"), "{headers}");
    assert_eq!(peer.requests().len(), 0);
}

#[tokio::test]
async fn an_origin_that_is_not_listed_is_told_nothing() {
    let (gateway, _peer, _grants) = start().await;
    for origin in
        ["https://evil.example.com", "http://chat.example.com", "https://chat.example.com.evil.org", "null"]
    {
        let answer = preflight(&gateway, origin).await;
        assert_eq!(answer.status.as_u16(), 401, "{origin}");
        assert_eq!(cors_headers(&answer.headers), [] as [&str; 0], "{origin}");
        let call = gateway.call_request("/alpha/search", &email_token(CALLER), &json!({}));
        let answer = gateway.send(call.header("origin", origin)).await;
        assert_eq!(answer.status.as_u16(), 200, "who calls is not for the origin to decide");
        assert_eq!(cors_headers(&answer.headers), [] as [&str; 0], "{origin}");
    }
}

#[tokio::test]
async fn every_answer_to_a_listed_origin_can_be_read_by_it() {
    let (gateway, _peer, _grants) = start().await;
    let token = email_token(CALLER);
    for (status, token, path) in [
        (401, "", "/alpha/search"),
        (401, "wrong", "/alpha/search"),
        (404, token.as_str(), "/nowhere/search"),
        (404, token.as_str(), "/alpha/search/"),
        (400, token.as_str(), "/alpha//search"),
        (502, token.as_str(), "/alpha/broken"),
        (200, token.as_str(), "/alpha/search"),
    ] {
        let request = gateway.request(Method::POST, path).header("origin", LISTED).body("{}");
        let request = if token.is_empty() { request } else { request.bearer_auth(token) };
        let answer = gateway.send(request).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        let origins: Vec<_> = answer.headers.get_all("access-control-allow-origin").iter().collect();
        assert_eq!(origins, [LISTED], "{status} {path}");
        assert_eq!(answer.header("access-control-allow-credentials"), None, "{status} {path}");
        let varies: Vec<_> = answer.headers.get_all("vary").iter().collect();
        assert!(varies.iter().any(|value| *value == "Origin"), "{status} {path}: {varies:?}");
        assert_eq!(varies.len(), if status == 200 { 2 } else { 1 }, "the peer's own stays: {varies:?}");
    }
}
