//! The headers of a trusted gateway, sent by the test itself: what they may say, and beside what.

use super::*;
use crate::harness::{
    grants::{ADMIN, STRANGER},
    tokens::email_token,
};

/// A gateway that believes this machine, without a secret: as `API_GATEWAY_MODE` alone makes it.
struct Alone {
    gateway: Gateway,
    peer: FakePeer,
    _grants: Grants,
}

impl Alone {
    async fn start(keys: &[(&str, &str)]) -> Self {
        let peer = FakePeer::start().await.with_json("search", json!({"found": []}));
        let grants = Grants::of(&["github"]).await;
        let setup = grants.setup().server("github", &peer.url()).server("notion", &peer.url());
        let setup = setup.environment("API_GATEWAY_MODE", "true").set("log.filter", "debug");
        let setup = keys.iter().fold(setup, |setup, (key, value)| setup.set(key, *value));
        let gateway = setup.start().await;
        gateway.await_grants(2).await;
        Self { gateway, peer, _grants: grants }
    }

    async fn get(&self, path: &str, lines: &[(&str, &str)]) -> Answer {
        let request = self.gateway.request(Method::GET, path);
        let request = lines.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        self.gateway.send(request).await
    }

    /// The servers seen with these headers, or the refusal's code.
    async fn sees(&self, lines: &[(&str, &str)]) -> String {
        let answer = self.get("/servers", lines).await;
        if answer.status != 200 {
            return answer.code();
        }
        let listing = answer.json();
        let ids = listing["servers"].as_array().unwrap().iter().map(|server| server["id"].as_str().unwrap());
        ids.collect::<Vec<_>>().join(" ")
    }
}

#[tokio::test]
async fn a_trusted_gateway_names_user_groups_and_admin() {
    let scene = Alone::start(&[]).await;
    let email = ("x-user-email", STRANGER);
    assert_eq!(scene.sees(&[("x-user-email", "Caller@Example.com")]).await, "github");
    assert_eq!(scene.sees(&[email]).await, "");
    assert_eq!(scene.sees(&[email, ("x-user-admin", "True")]).await, "github notion");
    assert_eq!(scene.sees(&[email, ("x-user-admin", "yes")]).await, "");
    assert_eq!(scene.sees(&[email, ("x-user-groups", "A, MCP-Admin ,B")]).await, "github notion");
    for one_group in ["A;MCP-Admin", "A%2CMCP-Admin", "A\u{ff0c}MCP-Admin", "[\"MCP-Admin\"]", "mcp-admin"] {
        assert_eq!(scene.sees(&[email, ("x-user-groups", one_group)]).await, "", "{one_group}");
    }
    let admin = scene
        .gateway
        .request(Method::POST, "/refresh")
        .header(email.0, email.1)
        .header("x-user-admin", "true");
    assert_eq!(scene.gateway.send(admin).await.status, 202);
    scene.gateway.wrote_none_of(&[STRANGER, CALLER]);
}

#[tokio::test]
async fn groups_whose_names_have_commas_come_as_json() {
    let scene = Alone::start(&[("auth.gateway.groups_format", "json")]).await;
    let email = ("x-user-email", STRANGER);
    assert_eq!(scene.sees(&[email, ("x-user-groups", r#"["A, B", "MCP-Admin"]"#)]).await, "github notion");
    assert_eq!(scene.sees(&[email, ("x-user-groups", r#"["A, MCP-Admin"]"#)]).await, "");
    assert_eq!(scene.sees(&[email, ("x-user-groups", "MCP-Admin")]).await, "invalid_credential");
}

#[tokio::test]
async fn a_header_of_the_gateway_that_cannot_be_read_refuses_whatever_stands_beside_it() {
    let scene = Alone::start(&[]).await;
    let token = format!("Bearer {}", email_token(CALLER));
    let own = ("authorization", token.as_str());
    assert_eq!(scene.sees(&[own]).await, "github", "nobody is named: the token counts");
    for bad in ["", "nobody", "a@x, b@x", "a@x b@x"] {
        assert_eq!(scene.sees(&[("x-user-email", bad), own]).await, "invalid_credential", "{bad:?}");
    }
    let answer = scene.get("/servers", &[("x-user-email", CALLER), ("x-user-groups", "A,\u{a0}B")]).await;
    assert_eq!(answer.code(), "invalid_credential");
    let line = logged(&scene.gateway, answer.header("x-request-id").unwrap()).await;
    assert_eq!(
        (&line["reason"], &line["cause"]),
        (&json!("bad_gateway_header"), &json!("`X-User-Groups` is malformed"))
    );
    assert_eq!(
        scene.sees(&[("x-user-email", STRANGER), own]).await,
        "",
        "whom the gateway names, not the token"
    );
}

#[tokio::test]
async fn a_header_that_stands_twice_is_refused_in_whatever_spelling() {
    let scene = Alone::start(&[]).await;
    for (first, second) in [
        ("X-User-Email", "x-user-email"),
        ("X-User-Email", "X_User_Email"),
        ("x-user-email", "X-User_Email"),
        ("X-User-Admin", "X_USER_ADMIN"),
        ("X-User-Groups", "x_user-groups"),
        ("X-Gateway-Secret", "X_Gateway_Secret"),
    ] {
        let lines = [("x-user-email", CALLER), (first, CALLER), (second, ADMIN)];
        let lines = if first.eq_ignore_ascii_case("x-user-email") { &lines[1..] } else { &lines[..] };
        assert_eq!(scene.sees(lines).await, "repeated_header", "{first} and {second}");
    }
    assert_eq!(
        scene.sees(&[("X_User_Email", CALLER)]).await,
        "no_credential",
        "one with underscores names nobody"
    );
    assert!(scene.peer.requests().is_empty());
}

#[tokio::test]
async fn from_any_other_address_the_headers_say_nothing() {
    let scene = Alone::start(&[]).await;
    let stranger = client_at("127.0.0.7");
    let ask = |path: &str| {
        let request = stranger.get(scene.gateway.url(path)).header("x-user-email", CALLER);
        request.header("x-user-admin", "true").header("x-forwarded-for", "127.0.0.1")
    };
    let answer = scene.gateway.send(ask("/servers")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (401, "no_credential".to_owned()));
    let token = email_token(STRANGER);
    let answer = scene.gateway.send(ask("/github").bearer_auth(token)).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code()),
        (403, "not_granted".to_owned()),
        "the token's own user"
    );
    let line = logged(&scene.gateway, answer.header("x-request-id").unwrap()).await;
    assert_eq!((&line["client"], &line["scheme"]), (&json!("127.0.0.7"), &json!("session")));
}

#[tokio::test]
async fn switched_off_they_say_nothing_from_anywhere() {
    let scene = Alone::start(&[("auth.gateway.enabled", "false")]).await;
    let lines = [("x-user-email", CALLER), ("x-user-admin", "true"), ("x-user-groups", "MCP-Admin")];
    assert_eq!(scene.sees(&lines).await, "no_credential");
}
