//! How long a refusal takes tells nothing about who exists.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Attempt, EVE_EMAIL, Wall, with_token};
use crate::harness::{
    openwebui::{JANE, JANE_EMAIL, JANE_STAMP, PLAIN_KEY, VOUCHING_KEY},
    raw::RawClient,
    tokens::{now, session_token, sign},
};

const ROUNDS: usize = 400;

/// The median time of each of these requests, asked in turns over one connection.
async fn medians(wall: &Wall, attempts: &[Attempt; 2]) -> [Duration; 2] {
    let mut client = RawClient::connect(&wall.gateway.address()).await;
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for turn in 0..2 {
            // Whoever comes second finds everything warm: each comes second as often as the other.
            let which = (turn + round) % 2;
            let began = Instant::now();
            let answer = client.exchange(attempts[which].bytes("timed")).await;
            took[which].push(began.elapsed());
            assert_ne!(answer.status, 200);
        }
    }
    took.map(|mut took| {
        took.sort_unstable();
        took[took.len() / 2]
    })
}

async fn check(what: &str, wall: &Wall, attempts: [Attempt; 2]) {
    let [one, other] = medians(wall, &attempts).await;
    let apart = one.abs_diff(other);
    // A question to a database takes longer than this; the noise of a busy machine does not, in the median of many.
    let tolerance = Duration::from_micros(150).max(one.min(other) / 3);
    assert!(apart < tolerance, "{what}: {one:?} and {other:?}");
}

fn forged(id: &str) -> Attempt {
    let claims = json!({"id": id, "typ": "session", "session_stamp": JANE_STAMP, "exp": now(3600)});
    with_token(&sign(&claims, "another-secret"))
}

#[tokio::test]
async fn a_refusal_takes_as_long_for_users_who_exist_as_for_those_who_do_not() {
    let wall = Wall::start().await;
    // Jane has been seen, so that what is remembered of her could make a difference.
    wall.lets_in("Jane", with_token(&session_token(JANE, JANE_STAMP))).await;
    let nobody = "c1118e2e-bf43-4378-9951-000000000000";
    check("a forged session", &wall, [forged(JANE), forged(nobody)]).await;
    let vouched = |id: &str, email: &str| {
        let claims = json!({"sub": id, "email": email, "role": "user", "iss": "open-webui", "exp": now(300)});
        with_token(VOUCHING_KEY).line(format!("X-OpenWebUI-User-Jwt: {}", sign(&claims, "another-secret")))
    };
    check("a forged user token", &wall, [vouched(JANE, JANE_EMAIL), vouched(nobody, "no.body@example.com")])
        .await;
    let named = |email: &str| with_token(PLAIN_KEY).line(format!("X-OpenWebUI-User-Email: {email}"));
    check("an unsigned name", &wall, [named(JANE_EMAIL), named("no.bodys@example.com")]).await;
    let mismatch = |email: &str| {
        with_token(&session_token(JANE, JANE_STAMP)).line(format!("X-OpenWebUI-User-Email: {email}"))
    };
    let gateway =
        |email: &str| Attempt::call().line("X-Gateway-Secret: wrong").line(format!("X-User-Email: {email}"));
    check("a wrong secret of a gateway", &wall, [gateway(JANE_EMAIL), gateway("no@example.com")]).await;
    let entra = |email: &str| {
        let user = crate::harness::entra::User::new(email, "aaaaaaaa-0000-4000-8000-000000000009");
        with_token(&wall.idp.token(&user).dated(-9000, -5000).sign())
    };
    check("an expired token", &wall, [entra(JANE_EMAIL), entra("no.bodys@example.com")]).await;
    check("another's name beside a good session", &wall, [mismatch(EVE_EMAIL), mismatch("no@example.com")])
        .await;
    wall.gateway.wrote_none_of(&[JANE_EMAIL, EVE_EMAIL]);
}

#[tokio::test]
async fn a_wrong_key_takes_as_long_however_much_of_it_is_right() {
    let wall = Wall::start().await;
    let nearly = format!("{}x", &VOUCHING_KEY[..VOUCHING_KEY.len() - 1]);
    let far = "z".repeat(VOUCHING_KEY.len());
    check("a service key", &wall, [with_token(&nearly), with_token(&far)]).await;
    wall.stands().await;
}

#[tokio::test]
async fn a_server_that_is_not_ones_own_takes_as_long_to_refuse_as_one_that_is_not_there() {
    let wall = Wall::with(|setup| setup.set("access.conceal", true)).await;
    let jane = session_token(JANE, JANE_STAMP);
    let call = |path: &str| Attempt::to("POST", path).bearer(&jane);
    check("a server", &wall, [call("/finance/search"), call("/nowhere/search")]).await;
    let (there, not_there) =
        (wall.answer(&call("/finance/search")).await, wall.answer(&call("/nowhere/search")).await);
    assert_eq!((there.status, super::code(&there)), (not_there.status, super::code(&not_there)));
    assert_eq!(wall.finance.requests().len(), 0);
    wall.stands().await;
}
