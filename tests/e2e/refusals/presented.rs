//! How a credential may be shown: once, in one place, in a size that one can have.

use std::time::Duration;

use super::{Attempt, No, REPEATED, Wall, invalid, with_token};
use crate::harness::{
    openwebui::{JANE, JANE_EMAIL, JANE_STAMP, PLAIN_KEY, VOUCHING_KEY, user_jwt},
    raw::RawClient,
    tokens::session_token,
};

fn session() -> String {
    session_token(JANE, JANE_STAMP)
}

#[tokio::test]
async fn a_header_that_may_stand_once_and_stands_twice_is_refused() {
    let wall = Wall::start().await;
    let good = with_token(&session());
    for second in [
        format!("Authorization: Bearer {}", session()),
        format!("authorization: Bearer {PLAIN_KEY}"),
        "AUTHORIZATION: Basic YTpi".to_owned(),
        "Authorization:".to_owned(),
    ] {
        wall.refuses(&second, good.clone().line(second.clone()), REPEATED).await;
    }
    for (one, two) in [
        ("X-OpenWebUI-User-Email", "X-OpenWebUI-User-Email"),
        ("X-OpenWebUI-User-Email", "x-openwebui-user-email"),
        ("X-OpenWebUI-User-Email", "X_OpenWebUI_User_Email"),
        ("X-User-Email", "X_User_Email"),
        ("X-User-Email", "X-User_Email"),
        ("X-User-Groups", "X-User-Groups"),
        ("X-User-Admin", "x_user_admin"),
        ("X-Gateway-Secret", "X_Gateway_Secret"),
        ("X-Entra-Oid", "X-Entra-Oid"),
        ("X-Tenant-Id", "x-tenant_id"),
        ("X-Auth-Source", "X_Auth_Source"),
    ] {
        let attempt = good.clone().line(format!("{one}: {JANE_EMAIL}")).line(format!("{two}: {JANE_EMAIL}"));
        wall.refuses(&format!("{one} and {two}"), attempt, REPEATED).await;
    }
    let jwt = user_jwt(JANE, JANE_EMAIL);
    let twice = with_token(VOUCHING_KEY)
        .line(format!("X-OpenWebUI-User-Jwt: {jwt}"))
        .line(format!("X_OpenWebUI_User_Jwt: {jwt}"));
    wall.refuses("two user tokens", twice, REPEATED).await;
    wall.stands().await;
}

#[tokio::test]
async fn a_credential_is_a_bearer_token_and_one() {
    let wall = Wall::start().await;
    let token = session();
    for value in [
        "Basic YTpi".to_owned(),
        format!("Basic {token}"),
        format!("Digest {token}"),
        format!("Negotiate {token}"),
        format!("DPoP {token}"),
        format!("Token {token}"),
        format!("Bearer: {token}"),
        format!("Bearer={token}"),
        format!("Bearer{token}"),
        format!("Bearer {token} {token}"),
        format!("Bearer {token}, Bearer {token}"),
        format!("Bearer {token} x"),
        format!("Basic YTpi, Bearer {token}"),
        token.clone(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        String::new(),
    ] {
        let attempt = Attempt::call().line(format!("Authorization: {value}"));
        wall.refuses(&value, attempt, invalid("not_bearer")).await;
    }
    for (value, reason) in [
        (format!("Bearer {token},{token}"), "unrecognised"),
        (format!("Bearer {token};x=1"), "malformed"),
        (format!("Bearer {token}\u{e9}"), "not_bearer"),
    ] {
        let attempt = Attempt::call().line(format!("Authorization: {value}"));
        wall.refuses(&value, attempt, invalid(reason)).await;
    }
    for good in ["bearer", "BEARER", "Bearer "] {
        let attempt = Attempt::call().line(format!("Authorization: {good} {token}"));
        wall.lets_in(good, attempt).await;
    }
    wall.stands().await;
}

#[tokio::test]
async fn a_credential_in_another_place_is_none() {
    let wall = Wall::start().await;
    let token = session();
    for path in [
        format!("/github/search?key={PLAIN_KEY}"),
        format!("/github/search?key={token}"),
        format!("/github/search?token={token}"),
        format!("/github/search?access_token={token}"),
        format!("/github/search?authorization=Bearer%20{token}"),
        format!("/github/search?user_email={JANE_EMAIL}"),
        format!("/github_search?key={PLAIN_KEY}"),
        format!("/meta/call_tool?key={PLAIN_KEY}"),
        format!("/mcp?key={PLAIN_KEY}"),
        format!("/github/mcp?access_token={token}"),
        format!("/refresh?key={PLAIN_KEY}"),
    ] {
        wall.refuses(&path, Attempt::to("POST", path.clone()), super::NO_CREDENTIAL).await;
    }
    for path in ["/servers", "/tools", "/", "/github", "/meta/stats"] {
        for name in ["key", "token", "access_token"] {
            let attempt = Attempt::to("GET", format!("{path}?{name}={PLAIN_KEY}"));
            wall.refuses(path, attempt, super::NO_CREDENTIAL).await;
        }
    }
    for line in [
        format!("Cookie: token={token}"),
        format!("Cookie: access_token={token}; oauth_session_id=1"),
        format!("Proxy-Authorization: Bearer {token}"),
        format!("X-Authorization: Bearer {token}"),
        format!("X-Forwarded-Authorization: Bearer {token}"),
        format!("X-Forwarded-Access-Token: {token}"),
        format!("X-Original-Authorization: Bearer {token}"),
        format!("Authentication: Bearer {token}"),
        format!("X-Auth-Token: {token}"),
        format!("X-Api-Key: {PLAIN_KEY}"),
        format!("Api-Key: {PLAIN_KEY}"),
        format!("X-Access-Token: {token}"),
        format!("X-Amzn-Oidc-Data: {token}"),
        format!("X-Ms-Token-Aad-Access-Token: {token}"),
        format!("Cf-Access-Jwt-Assertion: {token}"),
        format!("X-Goog-Iap-Jwt-Assertion: {token}"),
        format!("Sec-WebSocket-Protocol: bearer, {token}"),
    ] {
        wall.refuses(&line, Attempt::call().line(line.clone()), super::NO_CREDENTIAL).await;
    }
    for body in [
        format!(r#"{{"token":"{token}"}}"#),
        format!(r#"{{"access_token":"{token}","authorization":"Bearer {token}"}}"#),
    ] {
        wall.refuses("in the body", Attempt::call().body(body), super::NO_CREDENTIAL).await;
    }
    wall.stands().await;
}

#[tokio::test]
async fn a_query_holds_a_services_key_and_nobodys_token() {
    let wall = Wall::start().await;
    let entra = wall.idp.token(&super::jane_in_entra()).sign();
    let api_key = "sk-0123456789abcdef0123456789abcdef";
    for token in [&session(), &entra, api_key, super::GATEWAY_SECRET] {
        for path in ["/openapi.json", "/github/openapi.json"] {
            let attempt = Attempt::to("GET", format!("{path}?key={token}"));
            wall.refuses(path, attempt, invalid("unrecognised")).await;
        }
        wall.secrets.lock().unwrap().push(token.to_owned());
    }
    for key in [PLAIN_KEY, VOUCHING_KEY] {
        let answer = wall.answer(&Attempt::to("GET", format!("/openapi.json?key={key}"))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    wall.stands().await;
}

#[tokio::test]
async fn a_name_beside_no_credential_is_nobody() {
    let wall = Wall::start().await;
    for name in [
        "X-User-Email",
        "X-User-Name",
        "X-User-Groups",
        "X-User-Admin",
        "X_User_Email",
        "X-User-Id",
        "X-Forwarded-User",
        "X-Forwarded-Email",
        "X-Forwarded-Groups",
        "X-Auth-Request-Email",
        "X-Auth-Request-User",
        "X-Remote-User",
        "Remote-User",
        "Remote-Email",
        "Remote-Groups",
        "X-Authenticated-User",
        "X-Authenticated-Userid",
        "X-Consumer-Username",
        "X-Credential-Username",
        "X-WEBAUTH-USER",
        "X-Ms-Client-Principal",
        "X-Ms-Client-Principal-Name",
        "X-Goog-Authenticated-User-Email",
        "Cf-Access-Authenticated-User-Email",
        "Tailscale-User-Login",
        "X-Entra-Oid",
        "X-Auth-Source",
        "X-Tenant-Id",
        "X-SSL-Client-S-DN",
        "X-Client-Cert",
        "From",
        "User",
        "X-OpenWebUI-User-Email",
        "X-OpenWebUI-User-Role",
    ] {
        let line = format!("{name}: {JANE_EMAIL}");
        wall.refuses(name, Attempt::call().line(line), super::NO_CREDENTIAL).await;
    }
    wall.stands().await;
}

#[tokio::test]
async fn names_beside_a_valid_weak_token_add_nothing_to_it() {
    let wall = Wall::start().await;
    let no = No(403, "not_granted", "");
    let to_finance = |token: &str| Attempt::to("POST", "/finance/search").bearer(token);
    for lines in [
        vec!["X-User-Email: eve@example.com"],
        vec!["X-User-Groups: MCP-Finance"],
        vec!["X-User-Groups: MCP-Admin", "X-User-Admin: true"],
        vec!["X-User-Email: eve@example.com", "X-User-Groups: MCP-Admin,MCP-Finance", "X-User-Admin: true"],
        vec!["x_user_email: eve@example.com", "x_user_admin: true"],
        vec!["X-Entra-Oid: 1", "X-Auth-Source: entra", "X-Tenant-Id: finance"],
        vec!["X-Tenant-Groups: MCP-Finance"],
        vec!["X-OpenWebUI-User-Role: admin"],
        vec!["X-OpenWebUI-User-Groups: MCP-Admin"],
        vec!["X-Original-URL: /github/search", "X-Rewrite-URL: /github/search"],
        vec!["X-HTTP-Method-Override: GET", "X-Forwarded-Prefix: /github"],
        vec!["X-Forwarded-For: 127.0.0.1", "Forwarded: for=127.0.0.1", "X-Real-IP: 127.0.0.1"],
    ] {
        let session = lines.iter().fold(to_finance(&session()), |attempt, line| attempt.line(*line));
        wall.refuses(&format!("{lines:?} beside a session"), session, no).await;
        let service = lines.iter().fold(to_finance(PLAIN_KEY), |attempt, line| attempt.line(*line));
        wall.refuses(&format!("{lines:?} beside a key"), service, no).await;
    }
    wall.stands().await;
}

#[tokio::test]
async fn a_credential_larger_than_any_that_is_given_out_is_not_looked_at() {
    let wall = Wall::start().await;
    let oversize = invalid("oversize");
    for size in [16 * 1024 + 1, 20_000, 30_000] {
        wall.refuses(&format!("{size} bytes"), with_token(&"x".repeat(size)), oversize).await;
        let jwt = with_token(VOUCHING_KEY).line(format!("X-OpenWebUI-User-Jwt: {}", "x".repeat(size)));
        wall.refuses(&format!("a user token of {size} bytes"), jwt, oversize).await;
        let cookie = Attempt::to("GET", "/servers").line(format!("Cookie: token={}", "x".repeat(size)));
        wall.refuses(&format!("a cookie of {size} bytes"), cookie, oversize).await;
        let query = Attempt::to("GET", format!("/openapi.json?key={}", "x".repeat(size)));
        wall.refuses(&format!("a key of {size} bytes"), query, oversize).await;
    }
    let too_large = with_token(&"x".repeat(300_000));
    wall.refuses("more than a head may hold", too_large, No(431, "headers_too_large", "")).await;
    let longest = format!("x.{}.x", "x".repeat(16 * 1024 - 4));
    wall.refuses("just small enough", with_token(&longest), invalid("unrecognised")).await;
    wall.stands().await;
}

#[tokio::test]
async fn of_many_tokens_none_is_chosen() {
    let wall = Wall::start().await;
    let mut many = Attempt::call();
    for number in 0..50 {
        many = many.bearer(&format!("{}{number}", session()));
    }
    wall.refuses("fifty tokens", many, REPEATED).await;
    let forged = format!("token={}", "x.y.z");
    for cookies in [
        format!("Cookie: token={}; token={}", session(), session()),
        format!("Cookie: {forged}; token={}", session()),
        format!("Cookie: token={}; a=b; {forged}", session()),
    ] {
        wall.refuses(&cookies, Attempt::to("GET", "/servers").line(cookies.clone()), REPEATED).await;
    }
    let two_lines = Attempt::to("GET", "/servers")
        .line(format!("Cookie: token={}", session()))
        .line(format!("Cookie: token={}", session()));
    wall.refuses("two lines of cookies", two_lines, REPEATED).await;
    let keys = format!("/openapi.json?key={PLAIN_KEY}&key={VOUCHING_KEY}");
    wall.refuses("two keys", Attempt::to("GET", keys), REPEATED).await;
    wall.stands().await;
}

#[tokio::test]
async fn a_cookie_calls_nothing() {
    let wall = Wall::start().await;
    let cookie = format!("Cookie: token={}", session());
    for face in super::every_face() {
        let is_page = face.method == "GET"
            && !matches!(face.path.as_str(), "/mcp" | "/meta/stats")
            && !face.path.starts_with("/nowhere");
        let what = format!("{} {}", face.method, face.path);
        let attempt = face.line(cookie.clone());
        if is_page {
            assert_eq!(wall.answer(&attempt).await.status, 200, "{what}");
        } else if attempt.method != "GET" {
            wall.refuses(&what, attempt, super::NO_CREDENTIAL).await;
        }
    }
    wall.stands().await;
}

#[tokio::test]
async fn a_trailer_proves_nothing() {
    let wall = Wall::start().await;
    let head = "POST /github/search HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n\
        transfer-encoding: chunked\r\ntrailer: authorization\r\n\r\n";
    let body = format!("2\r\n{{}}\r\n0\r\nauthorization: Bearer {}\r\n\r\n", session());
    let mut client = RawClient::connect(&wall.gateway.address()).await;
    // It may have been refused before all of it was sent.
    drop(client.try_send(format!("{head}{body}")).await);
    let answer = client.read_answer().await;
    assert_eq!((answer.status, super::code(&answer).as_str()), (401, "no_credential"));
    assert_eq!(wall.heard(), 0);
    wall.stands().await;
}

#[tokio::test]
async fn a_connection_remembers_nobody() {
    let wall = Wall::start().await;
    let mut client = RawClient::connect(&wall.gateway.address()).await;
    let good = with_token(&session());
    let by_gateway = Attempt::call()
        .line(format!("X-Gateway-Secret: {}", super::GATEWAY_SECRET))
        .line(format!("X-User-Email: {JANE_EMAIL}"));
    for (what, who) in [("a session", good), ("a gateway in front", by_gateway)] {
        assert_eq!(client.exchange(who.bytes("one")).await.status, 200, "{what}");
        let nobody = client.exchange(Attempt::call().bytes("two")).await;
        assert_eq!((nobody.status, super::code(&nobody).as_str()), (401, "no_credential"), "after {what}");
        let named = Attempt::call().line(format!("X-User-Email: {JANE_EMAIL}"));
        let nobody = client.exchange(named.bytes("three")).await;
        assert_eq!((nobody.status, super::code(&nobody).as_str()), (401, "no_credential"), "after {what}");
        // Both at once: what comes before the answer to the first is not read at all.
        client.send([who.bytes("four"), Attempt::call().bytes("five")].concat()).await;
        assert_eq!(client.read_answer().await.status, 200, "{what}");
        assert!(client.is_closed_within(Duration::from_secs(20)).await, "behind {what}");
        client = RawClient::connect(&wall.gateway.address()).await;
    }
    assert_eq!(wall.heard(), 4);
    wall.stands().await;
}
