//! `POST /{server}_{tool}`, the predecessor's form.

use serde_json::json;

use crate::harness::{
    fake_peer::FakePeer,
    gateway::Gateway,
    grants::{CALLER, Grants},
    tokens::email_token,
};

/// `a` has `c`, `b_c` and `b_only`; `a_b` has `c`.
async fn start(granted: &[&str]) -> (Gateway, [FakePeer; 2], Grants) {
    let grants = Grants::of(granted).await;
    let a = FakePeer::start().await;
    let a = a
        .with_json("c", json!("a/c"))
        .with_json("b_c", json!("a/b_c"))
        .with_json("b_only", json!("a/b_only"));
    let a_b = FakePeer::start().await.with_json("c", json!("a_b/c"));
    let gateway = grants.setup().server("a", &a.url()).server("a_b", &a_b.url()).start().await;
    gateway.knows_tools("a", 3).await;
    gateway.knows_tools("a_b", 1).await;
    (gateway, [a, a_b], grants)
}

#[tokio::test]
async fn a_legacy_call_is_read_with_the_longest_server_that_has_the_tool() {
    let (gateway, _peers, _grants) = start(&["a", "a_b"]).await;
    for (path, expected, preferred) in
        [("/a_c", "a/c", "/a/c"), ("/a_b_c", "a_b/c", "/a_b/c"), ("/a_b_only", "a/b_only", "/a/b_only")]
    {
        let answer = gateway.call(path, &email_token(CALLER), &json!({})).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!(expected)), "{path}");
        assert_eq!(answer.header("deprecation"), Some("true"), "{path}");
        let link = format!("<{preferred}>; rel=\"successor-version\"");
        assert_eq!(answer.header("link"), Some(link.as_str()), "{path}");
        let direct = gateway.call(preferred, &email_token(CALLER), &json!({})).await;
        assert_eq!(direct.json(), json!(expected), "the link of {path} leads elsewhere");
        assert_eq!((direct.header("deprecation"), direct.header("link")), (None, None));
    }
}

#[tokio::test]
async fn a_legacy_call_does_not_fall_back_to_a_server_that_is_granted() {
    let (gateway, [a, a_b], _grants) = start(&["a"]).await;
    let answer = gateway.call("/a_b_c", &email_token(CALLER), &json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "not_granted"));
    assert_eq!(answer.header("link"), None, "a refusal names a server that is not the caller's");
    assert_eq!((a.requests().len(), a_b.requests().len()), (0, 0));
}

#[tokio::test]
async fn a_legacy_call_of_an_unknown_tool_is_about_the_longest_known_server() {
    let (gateway, _peers, _grants) = start(&["a", "a_b"]).await;
    let answer = gateway.call("/a_b_nothing", &email_token(CALLER), &json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "unknown_tool"));
    let answer = gateway.call("/nobody_c", &email_token(CALLER), &json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "unknown_server"));
}
