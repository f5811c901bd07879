//! Headers of a gateway in front: believed from its address with its secret, and from nobody else.

use super::{Attempt, EVE_EMAIL, GATEWAY_SECRET, NO_CREDENTIAL, No, REPEATED, Wall, invalid, with_token};
use crate::harness::{
    openwebui::{JANE, JANE_EMAIL, JANE_STAMP},
    raw::RawClient,
    tokens::session_token,
};

const NOT_GRANTED: No = No(403, "not_granted", "");

fn named(attempt: Attempt, email: &str) -> Attempt {
    attempt.line(format!("X-User-Email: {email}"))
}

/// A request of the gateway in front, for this user.
fn of_gateway(attempt: Attempt, email: &str) -> Attempt {
    named(attempt.line(format!("X-Gateway-Secret: {GATEWAY_SECRET}")), email)
}

fn to_finance() -> Attempt {
    Attempt::to("POST", "/finance/search")
}

#[tokio::test]
async fn a_wrong_secret_is_refused_whatever_stands_beside_it() {
    let wall = Wall::start().await;
    let wrong = invalid("gateway_secret_wrong");
    let session = session_token(JANE, JANE_STAMP);
    for secret in [
        "wrong".to_owned(),
        String::new(),
        GATEWAY_SECRET.to_uppercase(),
        format!("{GATEWAY_SECRET}x"),
        GATEWAY_SECRET[..GATEWAY_SECRET.len() - 1].to_owned(),
        format!("Bearer {GATEWAY_SECRET}"),
        format!("\"{GATEWAY_SECRET}\""),
        format!("{GATEWAY_SECRET}, {GATEWAY_SECRET}"),
        "%74he-secret-of-the-gateway-in-front".to_owned(),
        "\u{e9}".to_owned(),
    ] {
        let line = format!("X-Gateway-Secret: {secret}");
        wall.refuses(&secret, named(Attempt::call(), JANE_EMAIL).line(line.clone()), wrong).await;
        let beside = named(with_token(&session), JANE_EMAIL).line(line.clone());
        wall.refuses(&format!("{secret} beside a session"), beside, wrong).await;
    }
    wall.lets_in("the right one", of_gateway(Attempt::call(), JANE_EMAIL)).await;
    let request = wall.github.requests().pop().unwrap().text().to_lowercase();
    for kept in ["x-user", "x-gateway", GATEWAY_SECRET, JANE_EMAIL] {
        assert!(!request.contains(kept), "`{kept}` travelled on: {request}");
    }
    wall.stands().await;
}

#[tokio::test]
async fn without_the_secret_the_headers_say_nothing() {
    let wall = Wall::start().await;
    wall.refuses("alone", named(Attempt::call(), JANE_EMAIL), NO_CREDENTIAL).await;
    for line in [
        format!("X_Gateway_Secret: {GATEWAY_SECRET}"),
        format!("X-Gateway_Secret: {GATEWAY_SECRET}"),
        format!("Gateway-Secret: {GATEWAY_SECRET}"),
        format!("X-Gateway-Key: {GATEWAY_SECRET}"),
        format!("Cookie: X-Gateway-Secret={GATEWAY_SECRET}"),
    ] {
        wall.refuses(&line, named(Attempt::call(), JANE_EMAIL).line(line.clone()), NO_CREDENTIAL).await;
    }
    let in_query = Attempt::to("POST", format!("/github/search?x-gateway-secret={GATEWAY_SECRET}"));
    wall.refuses("in the query", named(in_query, JANE_EMAIL), NO_CREDENTIAL).await;
    let session = session_token(JANE, JANE_STAMP);
    let as_eve = named(to_finance().bearer(&session), EVE_EMAIL).line("X-User-Admin: true");
    wall.refuses("Eve's name beside Jane's session", as_eve, NOT_GRANTED).await;
    let bearer = with_token(GATEWAY_SECRET);
    wall.refuses("the secret as a token", named(bearer, JANE_EMAIL), invalid("unrecognised")).await;
    wall.stands().await;
}

#[tokio::test]
async fn from_another_address_the_right_secret_says_nothing_either() {
    let wall =
        Wall::with(|setup| setup.set("auth.gateway.trusted_proxies", vec!["10.0.0.0/8", "fd00::/8"])).await;
    for lines in [
        vec![],
        vec!["X-Forwarded-For: 10.0.0.1"],
        vec!["X-Forwarded-For: 127.0.0.1, 10.0.0.1"],
        vec!["X-Real-IP: 10.0.0.1"],
        vec!["Forwarded: for=10.0.0.1;proto=https"],
        vec!["X-Client-IP: 10.0.0.1", "True-Client-IP: 10.0.0.1", "CF-Connecting-IP: 10.0.0.1"],
        vec!["X-Forwarded-For: fd00::1"],
        vec!["Via: 1.1 10.0.0.1"],
    ] {
        let attempt = of_gateway(Attempt::call(), JANE_EMAIL);
        let attempt = lines.iter().fold(attempt, |attempt, line| attempt.line(*line));
        wall.refuses(&format!("{lines:?}"), attempt, NO_CREDENTIAL).await;
    }
    // Not a load balancer either, so what comes before the request is no request.
    let request = of_gateway(Attempt::call(), JANE_EMAIL).bytes("proxied");
    let told = [b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n".as_slice(), &request].concat();
    let mut client = RawClient::connect(&wall.gateway.address()).await;
    drop(client.try_send(&told).await);
    let answer = client.read_answer().await;
    assert_eq!(answer.status, 400);
    assert_eq!(wall.heard(), 0);
    wall.stands().await;
}

#[tokio::test]
async fn without_a_secret_the_address_alone_decides() {
    let wall = Wall::with(|setup| setup.set("auth.gateway.shared_secret", "")).await;
    let request = |email: &str| named(Attempt::call(), email).bytes("by-address");
    // Loopback too, and not one of the addresses that are trusted.
    for own in ["127.0.0.2", "127.0.0.11", "127.1.0.1"] {
        let mut client = RawClient::connect_from(own, &wall.gateway.address()).await;
        let answer = client.exchange(request(JANE_EMAIL)).await;
        assert_eq!((answer.status, super::code(&answer).as_str()), (401, "no_credential"), "{own}");
    }
    let mut client = RawClient::connect_from("127.0.0.1", &wall.gateway.address()).await;
    // A browser at a trusted address shows pages of others, and a name of theirs may lead here (DNS rebinding).
    let rebound =
        String::from_utf8(request(JANE_EMAIL)).unwrap().replace("host: gateway", "host: evil.example:8000");
    let answer = client.exchange(rebound).await;
    assert_eq!((answer.status, super::code(&answer).as_str()), (403, "foreign_host"));
    let page = named(Attempt::call(), JANE_EMAIL).line("Origin: http://evil.example").bytes("by-page");
    let answer = client.exchange(page).await;
    assert_eq!((answer.status, super::code(&answer).as_str()), (403, "foreign_origin"));
    assert_eq!(wall.heard(), 0);
    assert_eq!(client.exchange(request(JANE_EMAIL)).await.status, 200);
    wall.stands().await;
}

#[tokio::test]
async fn a_balancer_that_tells_no_address_lets_no_client_tell_one() {
    let wall = Wall::with(|setup| {
        setup
            .set("listen.balancers", vec!["127.0.0.0/24"])
            .set("listen.proxy_protocol", true)
            .set("auth.gateway.trust_told_address", true)
            .set("auth.gateway.trusted_proxies", vec!["10.9.9.9"])
            .set("auth.gateway.shared_secret", "")
    })
    .await;
    let request = |line: &str| named(Attempt::call(), JANE_EMAIL).line(line).bytes("behind-a-balancer");
    let v2 = |command: u8, family: u8, addresses: &[u8]| {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, addresses].concat()
    };
    let ask = async |proxied: &[u8], line: &str| {
        let mut client = RawClient::connect(&wall.gateway.address()).await;
        client.exchange([proxied, &request(line)].concat()).await
    };
    for (what, proxied) in [
        ("v1 that knows none", b"PROXY UNKNOWN\r\n".to_vec()),
        ("v1 that knows none and names one", b"PROXY UNKNOWN 10.9.9.9 10.9.9.9 1 2\r\n".to_vec()),
        ("v1 of somebody else", b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n".to_vec()),
        ("v2 of the balancer itself", v2(0x20, 0x00, &[])),
        (
            "v2 of the balancer itself with an address",
            v2(0x20, 0x11, &[10, 9, 9, 9, 10, 9, 9, 9, 0, 1, 0, 2]),
        ),
        ("v2 without a family", v2(0x21, 0x00, &[])),
        ("v2 of a local socket", v2(0x21, 0x31, &[0; 216])),
    ] {
        for line in
            ["X-Forwarded-For: 10.9.9.9", "X-Real-IP: 10.9.9.9", "Forwarded: for=10.9.9.9", "X-None: 1"]
        {
            let answer = ask(&proxied, line).await;
            let refused = (answer.status, super::code(&answer));
            assert_eq!(refused, (401, "no_credential".to_owned()), "{what}, {line}");
        }
    }
    assert_eq!(wall.heard(), 0);
    let trusted = ask(b"PROXY TCP4 10.9.9.9 10.0.0.1 1 2\r\n", "X-None: 1").await;
    assert_eq!(trusted.status, 200, "{}", trusted.text());
}

#[tokio::test]
async fn a_name_of_the_gateway_that_cannot_be_read_is_refused_and_not_passed_by() {
    let wall = Wall::start().await;
    let bad = invalid("bad_gateway_header");
    let session = session_token(JANE, JANE_STAMP);
    for email in [
        "",
        "jane",
        "jane.doe@example.com, eve@example.com",
        "jane.doe@example.com eve@example.com",
        "Jane <jane.doe@example.com>",
        "mailto:jane.doe@example.com@x",
        "jane.doe@example.com@evil.example",
        "jane.doe@",
        "@example.com",
    ] {
        wall.refuses(email, of_gateway(Attempt::call(), email), bad).await;
        let beside = of_gateway(with_token(&session), email);
        wall.refuses(&format!("`{email}` beside a session"), beside, bad).await;
    }
    let long = "g".repeat(300);
    let quoted = ["\"MCP-Finance\"", "\"A,MCP-Finance\"", "\"A,MCP-Finance,B\"", "A\\,MCP-Finance"];
    for groups in ["A\u{85}B", "A\tMCP-Finance", long.as_str()].into_iter().chain(quoted) {
        let attempt = of_gateway(Attempt::call(), JANE_EMAIL).line(format!("X-User-Groups: {groups}"));
        wall.refuses(groups, attempt, bad).await;
    }
    wall.stands().await;
}

#[tokio::test]
async fn no_name_of_a_group_smuggles_another() {
    let wall = Wall::start().await;
    for groups in [
        "A;MCP-Finance",
        "A MCP-Finance",
        "A|MCP-Finance",
        "A%2CMCP-Finance",
        "MCP%2DFinance",
        "MCP_Finance",
        "mcp-finance",
        "MCP-FINANCE",
        "MCP-Financé",
        "MCP\u{2010}Finance",
        "MCP-Finance\u{200b}",
        "A\u{ff0c}MCP-Finance",
        "A\u{3001}MCP-Finance",
        "[\"MCP-Finance\"]",
        "{MCP-Finance}",
        "CN=MCP-Finance",
        "MCP-Finance=",
        "*",
        "MCP-*",
    ] {
        let attempt = of_gateway(to_finance(), JANE_EMAIL).line(format!("X-User-Groups: {groups}"));
        wall.refuses(groups, attempt, NOT_GRANTED).await;
    }
    for groups in ["MCP-Finance", " MCP-Finance ", "A,MCP-Finance", "A ,\tMCP-Finance, B"] {
        let attempt = of_gateway(to_finance(), JANE_EMAIL).line(format!("X-User-Groups: {groups}"));
        wall.lets_in(groups, attempt).await;
    }
    wall.stands().await;
}

#[tokio::test]
async fn nobody_administers_by_half_a_word() {
    let wall = Wall::start().await;
    for word in [
        "1",
        "yes",
        "on",
        "t",
        "y",
        "false",
        "trueish",
        "true,false",
        "true, true",
        "\"true\"",
        "true;",
        "null",
        "",
    ] {
        let attempt = of_gateway(to_finance(), JANE_EMAIL).line(format!("X-User-Admin: {word}"));
        wall.refuses(word, attempt, NOT_GRANTED).await;
    }
    for line in [
        "X_User_Admin: true",
        "X-User_Admin: true",
        "X-Admin: true",
        "X-User-Role: admin",
        "X-User-Is-Admin: true",
    ] {
        wall.refuses(line, of_gateway(to_finance(), JANE_EMAIL).line(line), NOT_GRANTED).await;
    }
    let nameless = to_finance().line(format!("X-Gateway-Secret: {GATEWAY_SECRET}"));
    let nameless = nameless.line("X-User-Admin: true").line("X-User-Groups: MCP-Admin");
    wall.refuses("an admin without a name", nameless, NO_CREDENTIAL).await;
    wall.lets_in("the word", of_gateway(to_finance(), JANE_EMAIL).line("X-User-Admin: True")).await;
    wall.stands().await;
}

#[tokio::test]
async fn what_a_client_slips_in_beside_the_gateways_own_headers_is_refused() {
    let wall = Wall::start().await;
    for line in [
        format!("X-User-Email: {EVE_EMAIL}"),
        format!("x-user-email: {EVE_EMAIL}"),
        format!("X_User_Email: {EVE_EMAIL}"),
        format!("X-User_Email: {EVE_EMAIL}"),
        format!("X-Gateway-Secret: {GATEWAY_SECRET}"),
        "X-Gateway_Secret: x".to_owned(),
    ] {
        wall.refuses(&line, of_gateway(Attempt::call(), JANE_EMAIL).line(line.clone()), REPEATED).await;
        let before = Attempt::call().line(line.clone());
        wall.refuses(&line, of_gateway(before, JANE_EMAIL), REPEATED).await;
    }
    for (one, two) in [("X-User-Groups", "X_User_Groups"), ("X-User-Admin", "x-user-admin")] {
        let attempt =
            of_gateway(to_finance(), JANE_EMAIL).line(format!("{one}: x")).line(format!("{two}: true"));
        wall.refuses(two, attempt, REPEATED).await;
    }
    wall.stands().await;
}
