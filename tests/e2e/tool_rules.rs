//! Rules about single tools, on both databases: what is denied can be neither called nor seen, and how soon.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    access::{GRANT_GROUP, GRANT_USER, Grants},
    harness::{
        commands::portcullis,
        deadline::until,
        fake_peer::{Behaviour, FakePeer},
        gateway::{Answer, Gateway, Setup},
        postgres::Database,
        raw::RawClient,
        request::post,
        tokens::email_token,
        wire::answer,
    },
};

const USER: &str = "user@company.com";
/// The SQL that operators are told.
const DENY_GROUP: &str = "INSERT INTO tool_rules VALUES ('group','MCP-GitHub','github','delete_*','deny')";
const DENY_USER: &str =
    "INSERT INTO tool_rules VALUES ('user','User@Company.com','github','delete_*','deny')";
const JOIN: &str = "INSERT INTO user_group_membership VALUES ('user@company.com','MCP-GitHub')";

async fn peer() -> FakePeer {
    let schema = |title: &str| json!({"type": "object", "title": title, "properties": {}});
    let answer = |text: &str| Behaviour::Answer(answer("200 OK", "application/json", text.as_bytes()));
    FakePeer::start()
        .await
        .with_tool_schema("delete_repo", schema("about delete_repo"), answer("1"))
        .with_tool_schema("get_repo", schema("about get_repo"), answer("2"))
        .with_tool_schema("search", schema("about search"), answer("3"))
        .with_tool("watch", Behaviour::Hold)
}

async fn start(grants: &Grants, peer: &FakePeer) -> Gateway {
    let setup = Setup::new(&grants.url()).server("github", &peer.url()).server("notes", &peer.url());
    let gateway = setup.start().await;
    gateway.await_tools("github", 4).await;
    gateway.await_tools("notes", 4).await;
    gateway
}

async fn call(gateway: &Gateway, email: &str, path: &str) -> Answer {
    gateway.call(path, &email_token(email), &json!({})).await
}

/// The names on every page about `github`, which must agree, count rightly and hold no other word of the peer's tools.
async fn tools(gateway: &Gateway, email: &str) -> BTreeSet<String> {
    let token = email_token(email);
    let get = async |path: &str| gateway.get(path, &token).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let page = get("/github").await.json();
    let names: BTreeSet<_> =
        page["tools"].as_array().unwrap().iter().map(|tool| text(&tool["name"])).collect();
    assert_eq!(page["tool_count"], names.len());
    let listed = get("/tools").await.json();
    let of_github = listed["tools"].as_array().unwrap().iter().filter(|tool| tool["server"] == "github");
    assert_eq!(of_github.map(|tool| text(&tool["tool"])).collect::<BTreeSet<_>>(), names);
    for (path, prefix) in [("/openapi.json", "/github/"), ("/github/openapi.json", "/")] {
        let document = get(path).await.json();
        let paths = document["paths"].as_object().unwrap().keys();
        let shown = paths.filter_map(|path| path.strip_prefix(prefix)).filter(|path| !path.contains('/'));
        assert_eq!(shown.map(str::to_owned).collect::<BTreeSet<_>>(), names, "{path}");
    }
    for path in ["/github", "/github/openapi.json"] {
        let text = get(path).await.text();
        for tool in ["delete_repo", "get_repo", "search", "watch"] {
            assert_eq!(text.contains(tool), names.contains(tool), "{tool} in {path}: {text}");
        }
    }
    names
}

/// Returns once the tools on every page are these.
async fn await_tools(gateway: &Gateway, email: &str, expected: &[&str]) {
    let token = email_token(email);
    let expected: BTreeSet<_> = expected.iter().map(|name| (*name).to_owned()).collect();
    until("the tools", || async {
        let page = gateway.get("/github", &token).await.json();
        (page["tool_count"] == expected.len()).then_some(())
    })
    .await;
    assert_eq!(tools(gateway, email).await, expected);
}

#[tokio::test]
async fn what_is_denied_is_on_no_page_and_no_call_of_it_leaves() {
    for grants in Grants::both().await {
        let peer = peer().await;
        let gateway = start(&grants, &peer).await;
        for sql in [GRANT_USER, GRANT_GROUP, JOIN] {
            grants.execute(sql).await;
        }
        grants.execute("INSERT INTO user_tenant_access (user_email, tenant_id) VALUES ('other@company.com','github')").await;
        await_tools(&gateway, USER, &["delete_repo", "get_repo", "search", "watch"]).await;
        for deny in [DENY_GROUP, DENY_USER] {
            grants.execute(deny).await;
            await_tools(&gateway, USER, &["get_repo", "search", "watch"]).await;
            let arrived = || peer.requests().iter().filter(|request| request.path == "/delete_repo").count();
            let before = arrived();
            for path in ["/github/delete_repo", "/github_delete_repo"] {
                let refused = call(&gateway, USER, path).await;
                assert_eq!((refused.status.as_u16(), refused.code().as_str()), (404, "unknown_tool"));
                assert_eq!(call(&gateway, "other@company.com", path).await.text(), "1");
            }
            assert_eq!(call(&gateway, USER, "/github/get_repo").await.text(), "2");
            assert_eq!(arrived(), before + 2, "those of the other caller");
            assert_eq!(tools(&gateway, "other@company.com").await.len(), 4);
            grants.execute("DELETE FROM tool_rules").await;
            gateway.call_until("/github/delete_repo", &email_token(USER), 200).await;
            assert_eq!(tools(&gateway, USER).await.len(), 4);
        }
    }
}

#[tokio::test]
async fn an_allowance_leaves_only_what_is_allowed_and_gives_no_server() {
    for grants in Grants::both().await {
        let peer = peer().await;
        let gateway = start(&grants, &peer).await;
        grants
            .execute("INSERT INTO tool_rules VALUES ('user','user@company.com','github','*_repo','allow')")
            .await;
        gateway.await_grants(1).await;
        assert_eq!(call(&gateway, USER, "/github/get_repo").await.code(), "not_granted");
        grants.execute(GRANT_USER).await;
        await_tools(&gateway, USER, &["delete_repo", "get_repo"]).await;
        assert_eq!(call(&gateway, USER, "/github/search").await.code(), "unknown_tool");
        assert_eq!(call(&gateway, USER, "/github/get_repo").await.text(), "2");
        // Rules of any group are theirs as well, and a denial wins.
        grants.execute(JOIN).await;
        grants
            .execute("INSERT INTO tool_rules VALUES ('group','MCP-GitHub','github','search','allow')")
            .await;
        await_tools(&gateway, USER, &["delete_repo", "get_repo", "search"]).await;
        grants.execute(DENY_GROUP).await;
        await_tools(&gateway, USER, &["get_repo", "search"]).await;
        grants.execute("UPDATE tool_rules SET tenant_id = 'notes' WHERE effect = 'allow'").await;
        await_tools(&gateway, USER, &["get_repo", "search", "watch"]).await;
    }
}

#[tokio::test]
async fn admins_are_narrowed_by_rules_that_name_them() {
    for grants in Grants::both().await {
        let peer = peer().await;
        let gateway = start(&grants, &peer).await;
        grants.execute("INSERT INTO user_group_membership VALUES ('user@company.com','MCP-Admin')").await;
        gateway.call_until("/github/delete_repo", &email_token(USER), 200).await;
        grants.execute(DENY_GROUP).await;
        gateway.await_grants(2).await;
        assert_eq!(tools(&gateway, USER).await.len(), 4, "a rule for another group");
        grants.execute("UPDATE tool_rules SET subject = 'MCP-Admin'").await;
        await_tools(&gateway, USER, &["get_repo", "search", "watch"]).await;
        assert_eq!(call(&gateway, USER, "/github/delete_repo").await.code(), "unknown_tool");
        assert_eq!(call(&gateway, USER, "/notes/delete_repo").await.text(), "1");
    }
}

#[tokio::test]
async fn a_denied_tool_answers_like_one_that_does_not_exist() {
    let grants = Grants::Postgres(Database::create().await);
    let peer = peer().await;
    // Two servers whose legacy names can be read both ways.
    let setup = Setup::new(&grants.url()).server("github", &peer.url()).server("github_delete", &peer.url());
    let gateway = setup.start().await;
    gateway.await_tools("github", 4).await;
    gateway.await_tools("github_delete", 4).await;
    for sql in [GRANT_USER, GRANT_GROUP, JOIN, DENY_GROUP] {
        grants.execute(sql).await;
    }
    gateway.call_until("/github/delete_repo", &email_token(USER), 404).await;
    let before = peer.requests().len();
    for path in ["/github/delete_{}", "/github_delete_{}"] {
        let ask = async |tool: &str| {
            let path = path.replace("{}", tool);
            let request = gateway.call_request(&path, &email_token(USER), &json!({}));
            let answer = gateway.send(request.header("x-request-id", "same")).await;
            let headers = answer.headers.iter().filter(|(name, _)| *name != "date");
            let headers: Vec<_> = headers
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap().replace(tool, "{}")))
                .collect();
            (answer.status, headers, answer.text())
        };
        assert_eq!(ask("repo").await, ask("none").await, "{path}");
    }
    assert_eq!(peer.requests().len(), before);
}

#[tokio::test]
async fn a_denied_tool_is_refused_without_a_look_at_the_list() {
    let grants = Grants::Postgres(Database::create().await);
    let peer = peer().await;
    peer.set("/openapi.json", Behaviour::Stall);
    let gateway = Setup::new(&grants.url()).server("github", &peer.url()).start().await;
    for sql in [GRANT_USER, DENY_USER] {
        grants.execute(sql).await;
    }
    gateway.await_grants(2).await;
    let began = Instant::now();
    assert_eq!(call(&gateway, USER, "/github/delete_repo").await.code(), "unknown_tool");
    assert!(began.elapsed() < Duration::from_secs(1), "waited {:?} for a list", began.elapsed());
    assert_eq!(call(&gateway, USER, "/github/search").await.code(), "peer_unreachable");
}

#[tokio::test]
async fn a_rule_takes_effect_within_a_second() {
    for grants in Grants::both().await {
        let peer = peer().await;
        let gateway = start(&grants, &peer).await;
        let token = email_token(USER);
        grants.execute(GRANT_USER).await;
        gateway.call_until("/github/delete_repo", &token, 200).await;
        for _ in 0..3 {
            grants.execute(DENY_USER).await;
            let (_, took) = gateway.call_until("/github/delete_repo", &token, 404).await;
            assert!(took <= Duration::from_secs(1), "denied {took:?} after the commit");
            grants.execute("DELETE FROM tool_rules").await;
            let (_, took) = gateway.call_until("/github/delete_repo", &token, 200).await;
            assert!(took <= Duration::from_secs(1), "allowed {took:?} after the commit");
        }
    }
}

#[tokio::test]
async fn a_call_underway_ends_when_its_tool_is_denied_and_no_other_does() {
    for grants in Grants::both().await {
        let peer = peer().await;
        peer.set("/search", Behaviour::Stall);
        let gateway = start(&grants, &peer).await;
        grants.execute(GRANT_USER).await;
        gateway.await_grants(1).await;
        let mut stream = RawClient::connect(&gateway.address()).await;
        let token = email_token(USER);
        stream.send(post("/github/watch", &token, "{}")).await;
        let at_peer = peer.held().await;
        assert_eq!(stream.read_head().await.0, 200);
        let mut hanging = RawClient::connect(&gateway.address()).await;
        hanging.send(post("/github/search", &token, "{}")).await;
        peer.arrived(2).await;
        let began = Instant::now();
        grants
            .execute("INSERT INTO tool_rules VALUES ('user','user@company.com','github','w*','deny')")
            .await;
        assert!(stream.is_closed_within(Duration::from_secs(2)).await, "the stream goes on");
        assert!(began.elapsed() < Duration::from_secs(2), "ended after {:?}", began.elapsed());
        at_peer.closed().await;
        assert!(hanging.is_open().await, "the call of a tool that is not denied was ended");
        gateway.await_metric("portcullis_requests_total", &[("outcome", "withdrawn")], 1).await;
        // An allowance of something else takes the tool away as well.
        grants
            .execute("INSERT INTO tool_rules VALUES ('user','user@company.com','github','get_*','allow')")
            .await;
        let told = hanging.read_answer().await;
        assert_eq!((told.status, &told.json()["code"]), (404, &json!("unknown_tool")));
        gateway.await_metric("portcullis_requests_total", &[("outcome", "withdrawn")], 2).await;
    }
}

#[tokio::test]
async fn a_malformed_rule_denies_every_tool_of_its_server_to_its_subject() {
    for grants in Grants::both().await {
        let peer = peer().await;
        let gateway = start(&grants, &peer).await;
        for sql in [GRANT_USER, GRANT_GROUP, JOIN] {
            grants.execute(sql).await;
        }
        grants
            .execute(
                "INSERT INTO user_tenant_access (user_email, tenant_id) VALUES ('user@company.com','notes')",
            )
            .await;
        await_tools(&gateway, USER, &["delete_repo", "get_repo", "search", "watch"]).await;
        grants
            .execute(match grants {
                Grants::Postgres(_) => {
                    "ALTER TABLE tool_rules DROP CONSTRAINT effect_is_allow_or_deny; \
                     INSERT INTO tool_rules VALUES ('group','MCP-GitHub','github','delete_*','forbid')"
                }
                Grants::Sqlite(_) => {
                    "PRAGMA ignore_check_constraints = ON; \
                     INSERT INTO tool_rules VALUES ('group','MCP-GitHub','github','delete_*','forbid')"
                }
            })
            .await;
        await_tools(&gateway, USER, &[]).await;
        assert_eq!(call(&gateway, USER, "/github/get_repo").await.code(), "unknown_tool");
        assert_eq!(call(&gateway, USER, "/notes/get_repo").await.text(), "2");
        gateway.await_metric("portcullis_malformed_grant_rows", &[], 1).await;
        let folder = gateway.folder.path();
        let said = portcullis(folder, &["explain", "--as", USER, "github/get_repo"]).await;
        assert_eq!(said.code, 1, "{said:?}");
        assert!(
            said.stdout.contains("malformed row of `tool_rules` denies every tool to group `MCP-GitHub`")
        );
        let removed = portcullis(folder, &["revoke", "--group", "MCP-GitHub", "github/delete_*"]).await;
        assert!(removed.stderr.contains("1 rows removed"), "{removed:?}");
        await_tools(&gateway, USER, &["delete_repo", "get_repo", "search", "watch"]).await;
        gateway.await_metric("portcullis_malformed_grant_rows", &[], 0).await;
    }
}

#[tokio::test]
async fn grant_and_revoke_change_the_rules_of_a_running_gateway() {
    for grants in Grants::both().await {
        let peer = peer().await;
        let gateway = start(&grants, &peer).await;
        grants.execute(GRANT_USER).await;
        grants.execute(JOIN).await;
        let run = async |words: &[&str]| {
            let said = portcullis(gateway.folder.path(), words).await;
            assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{words:?}: {said:?}");
        };
        run(&["grant", "--group", "MCP-GitHub", "github/*_repo"]).await;
        await_tools(&gateway, USER, &["delete_repo", "get_repo"]).await;
        run(&["grant", "--user", "USER@company.com", "--deny", "github/delete_*"]).await;
        await_tools(&gateway, USER, &["get_repo"]).await;
        run(&["grant", "--group", "MCP-GitHub", "github/*_repo", "--deny"]).await;
        await_tools(&gateway, USER, &["search", "watch"]).await;
        run(&["revoke", "--group", "MCP-GitHub", "github/*_repo"]).await;
        await_tools(&gateway, USER, &["get_repo", "search", "watch"]).await;
        run(&["revoke", "--user", "user@company.com", "github/delete_*"]).await;
        await_tools(&gateway, USER, &["delete_repo", "get_repo", "search", "watch"]).await;
    }
}

#[tokio::test]
async fn truncate_lifts_all_rules() {
    let grants = Grants::Postgres(Database::create().await);
    let peer = peer().await;
    let gateway = start(&grants, &peer).await;
    for sql in [GRANT_USER, DENY_USER] {
        grants.execute(sql).await;
    }
    await_tools(&gateway, USER, &["get_repo", "search", "watch"]).await;
    grants.execute("TRUNCATE tool_rules").await;
    await_tools(&gateway, USER, &["delete_repo", "get_repo", "search", "watch"]).await;
}

/// Documents are kept for callers alike: nobody may be given one that was written for other rules.
#[tokio::test]
async fn a_document_kept_for_one_caller_is_not_given_to_one_with_other_rules() {
    let grants = Grants::Postgres(Database::create().await);
    let peer = peer().await;
    let gateway = start(&grants, &peer).await;
    let other = "other@company.com";
    grants
        .execute(
            "INSERT INTO user_tenant_access (user_email, tenant_id) VALUES ('other@company.com','github')",
        )
        .await;
    for sql in [GRANT_USER, DENY_USER] {
        grants.execute(sql).await;
    }
    gateway.await_grants(3).await;
    for path in ["/openapi.json", "/github/openapi.json"] {
        for _ in 0..2 {
            let (narrowed, full) =
                (gateway.get(path, &email_token(USER)).await, gateway.get(path, &email_token(other)).await);
            assert!(full.text().contains("delete_repo") && !narrowed.text().contains("delete_repo"));
            assert_ne!(full.header("etag"), narrowed.header("etag"));
            let unchanged = gateway.request(reqwest::Method::GET, path).bearer_auth(email_token(USER));
            let unchanged =
                gateway.send(unchanged.header("if-none-match", full.header("etag").unwrap())).await;
            assert_eq!(unchanged.status, 200, "another caller's tag");
        }
    }
    assert!(peer.requests().is_empty());
}
