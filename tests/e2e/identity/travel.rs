//! What of a request travels on to the server: its arguments and a few harmless headers, and nothing about its sender.

use super::Scene;
use crate::harness::{
    gateway::Gateway,
    openwebui::{JANE, JANE_EMAIL, JANE_STAMP, user_jwt},
    raw::RawClient,
    tokens::session_token,
};

/// The head of what Jane's client sends, with everything in it that must not travel.
fn laden_request(gateway: &Gateway, arguments: &str) -> String {
    let (token, jwt) = (session_token(JANE, JANE_STAMP), user_jwt(JANE, JANE_EMAIL));
    let (host, length) = (gateway.address(), arguments.len());
    format!(
        "POST /github/search?key=s3cret&user_email=jane.doe%40example.com HTTP/1.1\r\nHost: {host}\r\n\
         Authorization: Bearer {token}\r\nCookie: token={token}; oauth_session_id=abc\r\n\
         X-OpenWebUI-User-Jwt: {jwt}\r\nX-OpenWebUI-User-Email: jane.doe@example.com\r\n\
         X-OpenWebUI-User-Id: {JANE}\r\nX-OpenWebUI-Chat-Id: 1\r\nX-User-Email: jane.doe@example.com\r\n\
         X-User-Admin: true\r\nX_User_Groups: MCP-Admin\r\nx_openwebui_user_name: jane\r\n\
         X-Entra-Oid: 1\r\nX-Gateway-Secret: s3cret\r\nX-Tenant-Id: github\r\nX-Auth-Source: entra\r\n\
         X-Api-Key: s3cret\r\nProxy-Authorization: Basic s3cret\r\nX-Forwarded-For: 10.0.0.1\r\n\
         X-Forwarded-User: jane\r\nForwarded: for=10.0.0.1\r\nReferer: http://s3cret\r\nOrigin: http://chat\r\n\
         X-Anything-Else: s3cret\r\nContent-Type: application/json; charset=utf-8\r\nAccept: */*\r\n\
         Accept-Encoding: gzip, deflate, br\r\nUser-Agent: Python/3.11 aiohttp/3.14.5\r\nX-Request-Id: r-1\r\n\
         Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nIdempotency-Key: k\r\n\
         Content-Length: {length}\r\n\r\n{arguments}"
    )
}

#[tokio::test]
async fn nothing_of_the_callers_identity_reaches_the_server() {
    let scene = Scene::new().await;
    let arguments = r#"{"query" : "caf\u00e9",  "n":1.0}"#;
    let mut client = RawClient::connect(&scene.gateway.address()).await;
    let answer = client.exchange(laden_request(&scene.gateway, arguments)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let [request] = &scene.peer.requests()[..] else { panic!("one request") };
    assert_eq!(request.head.first_line, "POST /search HTTP/1.1");
    let headers = request.head.headers.iter();
    let mut headers: Vec<_> =
        headers.map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase())).collect();
    headers.sort_unstable();
    let host = format!("host: {}", scene.peer.address());
    assert_eq!(
        headers,
        [
            "accept-encoding: gzip, deflate, br",
            "accept: */*",
            "content-length: 33",
            "content-type: application/json",
            host.as_str(),
            "idempotency-key: k",
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "user-agent: Python/3.11 aiohttp/3.14.5",
            "x-request-id: r-1",
        ]
    );
    assert_eq!(request.body, arguments.as_bytes());
}
