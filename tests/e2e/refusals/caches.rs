//! What is kept in memory for one caller is never given to another, and neither are sessions.

use serde_json::{Value, json};

use super::{Attempt, EVE, EVE_STAMP, Wall};
use crate::harness::{
    gateway::Answer,
    openwebui::{JANE, JANE_EMAIL, JANE_STAMP, PLAIN_KEY, VOUCHING_KEY, user_jwt},
    tokens::session_token,
};

const PAGES: [&str; 5] = ["/servers", "/tools", "/tenants", "/openapi.json", "/"];

fn jane() -> String {
    session_token(JANE, JANE_STAMP)
}

fn eve() -> String {
    session_token(EVE, EVE_STAMP)
}

#[track_caller]
fn is_only_of(answer: &Answer, own: &str, others: &[&str], what: &str) {
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    let text = answer.text();
    assert!(text.contains(own), "{what}: {text}");
    for other in others {
        assert!(!text.contains(other), "{what} tells of {other}: {text}");
    }
}

#[tokio::test]
async fn what_one_caller_was_shown_is_not_shown_to_the_next() {
    let wall = Wall::start().await;
    for round in 0..3 {
        for page in PAGES {
            let what = format!("{page}, round {round}");
            is_only_of(&wall.get(page, &jane()).await, "github", &["finance", "nightly"], &what);
            is_only_of(&wall.get(page, &eve()).await, "finance", &["github", "nightly"], &what);
            is_only_of(&wall.get(page, PLAIN_KEY).await, "nightly", &["github", "finance"], &what);
            let vouched = wall.gateway.request(reqwest::Method::GET, page).bearer_auth(VOUCHING_KEY);
            let vouched = vouched.header("x-openwebui-user-jwt", user_jwt(JANE, JANE_EMAIL));
            is_only_of(&wall.gateway.send(vouched).await, "github", &["finance", "nightly"], &what);
        }
    }
    wall.stands().await;
}

#[tokio::test]
async fn callers_who_ask_at_once_are_each_shown_their_own() {
    let wall = Wall::start().await;
    let (jane, eve) = (jane(), eve());
    let asked = (0..60).map(|number| {
        let (wall, jane, eve) = (&wall, &jane, &eve);
        async move {
            let page = PAGES[number % PAGES.len()];
            match number % 3 {
                0 => is_only_of(&wall.get(page, jane).await, "github", &["finance", "nightly"], page),
                1 => is_only_of(&wall.get(page, eve).await, "finance", &["github", "nightly"], page),
                _ => is_only_of(&wall.get(page, PLAIN_KEY).await, "nightly", &["github", "finance"], page),
            }
        }
    });
    futures_util::future::join_all(asked).await;
    wall.stands().await;
}

#[tokio::test]
async fn a_tag_of_anothers_page_is_no_sign_that_ones_own_is_unchanged() {
    let wall = Wall::start().await;
    let mut tagged = 0;
    for page in PAGES {
        let of_jane = wall.get(page, &jane()).await;
        let Some(tag) = of_jane.header("etag") else { continue };
        tagged += 1;
        let with = |token: &str| {
            wall.gateway.request(reqwest::Method::GET, page).bearer_auth(token).header("if-none-match", tag)
        };
        is_only_of(&wall.gateway.send(with(&eve())).await, "finance", &["github"], page);
        assert_eq!(wall.gateway.send(with(&jane())).await.status, 304, "{page}");
        let nobody = wall.gateway.request(reqwest::Method::GET, page).header("if-none-match", tag);
        assert_eq!(wall.gateway.send(nobody).await.status, 401, "{page}");
        let forged = with("x.y.z");
        assert_eq!(wall.gateway.send(forged).await.status, 401, "{page}");
    }
    assert!(tagged > 0, "no page has a tag");
    wall.stands().await;
}

#[tokio::test]
async fn nobody_on_the_way_may_keep_what_a_caller_was_shown() {
    let wall = Wall::start().await;
    for page in PAGES {
        let answer = wall.get(page, &jane()).await;
        let kept = answer.header("cache-control").unwrap_or_default().to_owned();
        assert!(kept.contains("private") || kept.contains("no-store"), "{page}: cache-control `{kept}`");
        let refused = wall.get(page, "x.y.z").await;
        let kept = refused.header("cache-control").unwrap_or_default().to_owned();
        assert!(!kept.contains("public") && !kept.contains("max-age"), "{page}: cache-control `{kept}`");
    }
    wall.stands().await;
}

fn mcp(path: &str, token: &str, message: &Value) -> Attempt {
    let attempt = Attempt::to("POST", path).bearer(token).body(message.to_string());
    attempt.line("accept: application/json, text/event-stream").line("mcp-protocol-version: 2025-11-25")
}

fn request(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

async fn session(wall: &Wall, token: &str) -> String {
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let answer = wall.answer(&mcp("/mcp", token, &request("initialize", hello))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.head.header("mcp-session-id").unwrap().to_owned()
}

#[tokio::test]
async fn a_session_of_another_caller_is_not_found() {
    let wall = Wall::start().await;
    let (jane, eve) = (jane(), eve());
    let of_jane = session(&wall, &jane).await;
    let of_eve = session(&wall, &eve).await;
    let list = request("tools/list", json!({}));
    let in_session = |token: &str, id: &str| mcp("/mcp", token, &list).line(format!("mcp-session-id: {id}"));
    let own = wall.answer(&in_session(&jane, &of_jane)).await;
    assert!(
        own.status == 200 && own.text().contains("github") && !own.text().contains("finance"),
        "{}",
        own.text()
    );
    let unknown = super::No(404, "unknown_session", "");
    wall.refuses("Jane's session by Eve", in_session(&eve, &of_jane), unknown).await;
    wall.refuses("Eve's session by Jane", in_session(&jane, &of_eve), unknown).await;
    wall.refuses("Jane's session by a service", in_session(PLAIN_KEY, &of_jane), unknown).await;
    wall.refuses(
        "at one server",
        mcp("/github/mcp", &jane, &list).line(format!("mcp-session-id: {of_jane}")),
        unknown,
    )
    .await;
    for method in ["GET", "DELETE"] {
        let attempt = Attempt::to(method, "/mcp").bearer(&eve).line(format!("mcp-session-id: {of_jane}"));
        wall.refuses(method, attempt.line("accept: text/event-stream"), unknown).await;
    }
    let alone = Attempt::to("GET", "/mcp")
        .line(format!("mcp-session-id: {of_jane}"))
        .line("accept: text/event-stream");
    wall.refuses("a session id is no credential", alone, super::NO_CREDENTIAL).await;
    let still = wall.answer(&in_session(&jane, &of_jane)).await;
    assert_eq!(still.status, 200, "Jane's session goes on: {}", still.text());
    wall.secrets.lock().unwrap().extend([of_jane, of_eve]);
    wall.stands().await;
}

#[tokio::test]
async fn lists_over_mcp_are_the_callers_own() {
    let wall = Wall::start().await;
    for (token, own, other) in [
        (jane(), "github_search", "finance"),
        (eve(), "finance_pay", "github"),
        (jane(), "github_search", "finance"),
    ] {
        let id = session(&wall, &token).await;
        let list =
            mcp("/mcp", &token, &request("tools/list", json!({}))).line(format!("mcp-session-id: {id}"));
        let text = wall.answer(&list).await.text();
        assert!(text.contains(own) && !text.contains(other), "{text}");
    }
    wall.stands().await;
}
