//! No path, name or address of one server leads to another.

use serde_json::{Value, json};

use super::{Attempt, Wall, with_token};
use crate::harness::{
    openwebui::{JANE, JANE_STAMP},
    raw::RawClient,
    tokens::session_token,
};

/// Whatever is answered, it is no success, and the other server has heard nothing.
async fn check(wall: &Wall, what: &str, attempt: &Attempt) {
    let answer = wall.answer(attempt).await;
    let is_refused = matches!(answer.status, 400 | 403 | 404 | 405 | 422);
    let text = answer.text();
    // What is no HTTP at all is refused without a word.
    let is_error = is_refused || answer.json().get("error").is_some();
    assert!(is_error, "{what}: {} {text}", answer.status);
    assert!(!text.contains("by finance") && !text.contains("paid"), "{what}: {text}");
    assert_eq!(wall.finance.requests().len(), 0, "{what}");
}

#[tokio::test]
async fn no_path_of_one_server_leads_into_another() {
    let wall = Wall::start().await;
    let token = session_token(JANE, JANE_STAMP);
    for path in [
        "/finance/search",
        "/finance_search",
        "/finance_pay",
        "/FINANCE/search",
        "/Finance/search",
        "/github/../finance/search",
        "/github/search/../../finance/search",
        "/github/./../finance/search",
        "/github/%2e%2e/finance/search",
        "/github/..%2ffinance/search",
        "/github/..%2f..%2ffinance%2fsearch",
        "/github%2f..%2ffinance/search",
        "/github/..\\finance\\search",
        "/github/%252e%252e/finance/search",
        "/github;/../finance/search",
        "/github/..;/finance/search",
        "/github/finance/search",
        "/github//finance/search",
        "//finance/search",
        "/github/search/finance/search",
        "/github_finance_search",
        "/github/finance_search",
        "/github/finance_pay",
        "/github/pay",
        "/finance%00/search",
        "/finance%20/search",
        "/finance./search",
        "/f%69nance/search",
        "/github@finance/search",
        "/github:finance/search",
        "/finance?x=/github/search",
        "/finance/search?server=github",
        "/finance/search#/github/search",
        "/github?/../finance/search",
        "http://gateway/finance/search",
        "http://finance/github/../finance/search",
        "https://gateway@finance/search",
    ] {
        check(&wall, path, &Attempt::to("POST", path).bearer(&token)).await;
    }
    assert_eq!(wall.github.requests().len(), 0);
    wall.stands().await;
}

#[tokio::test]
async fn no_header_turns_a_call_to_one_server_into_one_to_another() {
    let wall = Wall::start().await;
    let token = session_token(JANE, JANE_STAMP);
    for line in [
        "X-Original-URL: /finance/search",
        "X-Rewrite-URL: /finance/search",
        "X-Original-URI: /finance/search",
        "X-Forwarded-Uri: /finance/search",
        "X-Forwarded-Path: /finance/search",
        "X-Forwarded-Prefix: /finance",
        "X-Forwarded-Host: finance",
        "X-HTTP-Method-Override: DELETE",
        "X-Tenant-Id: finance",
        "X-Server: finance",
        "Mcp-Name: finance_search",
        "Content-Location: /finance/search",
        "Referer: http://gateway/finance/search",
        "Destination: /finance/search",
    ] {
        let before = wall.github.requests().len();
        let answer = wall.answer(&with_token(&token).line(line)).await;
        assert_eq!(answer.status, 200, "{line}: {}", answer.text());
        assert!(answer.text().contains("by github"), "{line}");
        assert_eq!(wall.github.requests().len(), before + 1, "{line}");
        assert_eq!(wall.finance.requests().len(), 0, "{line}");
    }
    let host = format!(
        "POST /github/search HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\ncontent-length: 2\r\n\r\n{{}}",
        wall.finance.address()
    );
    let answer = RawClient::connect(&wall.gateway.address()).await.exchange(host).await;
    assert!(answer.status != 200 || answer.text().contains("by github"), "{}", answer.text());
    assert_eq!(wall.finance.requests().len(), 0);
    wall.stands().await;
}

#[tokio::test]
async fn no_name_of_a_tool_leads_into_another_server() {
    let wall = Wall::start().await;
    let token = session_token(JANE, JANE_STAMP);
    let call = |name: &str| -> Value {
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": {}}})
    };
    for name in [
        "finance_search",
        "finance_pay",
        "finance/search",
        "../finance/search",
        "..%2ffinance%2fsearch",
        "/finance/search",
        "finance.search",
        "github_finance_search",
        "github_../finance/search",
        "search/../../finance/search",
        "http://gateway/finance/search",
        "pay",
        "github_pay",
        "FINANCE_search",
        "finance_search\u{0}",
        "finance_search\n",
        " finance_search",
        "",
    ] {
        for path in ["/mcp", "/github/mcp", "/finance/mcp"] {
            let attempt = Attempt::to("POST", path)
                .bearer(&token)
                .line("accept: application/json, text/event-stream")
                .body(call(name).to_string());
            check(&wall, &format!("{name} at {path}"), &attempt).await;
        }
        let body = json!({"tool": name, "arguments": {}}).to_string();
        let attempt = Attempt::to("POST", "/meta/call_tool").bearer(&token).body(body);
        check(&wall, &format!("{name} by a meta tool"), &attempt).await;
    }
    wall.stands().await;
}

#[tokio::test]
async fn meta_tools_tell_and_describe_nothing_of_anothers_server() {
    let wall = Wall::start().await;
    let token = session_token(JANE, JANE_STAMP);
    for (path, body) in [
        ("/meta/search_tools", json!({"query": "pay finance search"})),
        ("/meta/search_tools", json!({"query": "finance"})),
        ("/meta/describe_tools", json!({"tools": ["finance_pay", "finance_search"]})),
    ] {
        let answer = wall.answer(&Attempt::to("POST", path).bearer(&token).body(body.to_string())).await;
        let text = answer.text().replace(&body.to_string(), "");
        let names = text.matches("finance").count() + text.matches("\"pay").count();
        let is_echo = answer.status != 200 || path.ends_with("describe_tools");
        assert!(names == 0 || is_echo, "{path} {body}: {text}");
        assert!(!text.contains("fake peer.\",\"endpoint\":\"/finance"), "{text}");
    }
    assert_eq!(wall.finance.requests().len(), 0);
    wall.stands().await;
}
