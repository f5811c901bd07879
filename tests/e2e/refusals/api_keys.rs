//! API keys of Open WebUI: one that its tables have, whole, of a user who may use one, and no guess.

use super::{Attempt, EVE, No, Wall, every_face, invalid, with_token};
use crate::harness::openwebui::{JANE, JANE_EMAIL};

const KEY: &str = "sk-0123456789abcdef0123456789abcdef";
const EVES: &str = "sk-00112233445566778899aabbccddeeff";
const UNKNOWN: No = invalid("unknown_api_key");

/// Keys are on in Open WebUI, and Jane and Eve have one each.
async fn start() -> Wall {
    let wall = Wall::start().await;
    let sql = format!(
        "INSERT INTO config (key, value) VALUES ('auth.enable_api_keys', 'true'), \
            ('auth.api_key.endpoint_restrictions', 'false'), ('user.permissions', '{{\"features\": {{\"api_keys\": true}}}}'); \
         INSERT INTO api_key (id, user_id, key, created_at, updated_at) VALUES \
            ('key_jane', '{JANE}', '{KEY}', 1, 1), ('key_eve', '{EVE}', '{EVES}', 1, 1)"
    );
    wall.database.execute(&sql).await;
    wall
}

#[tokio::test]
async fn a_guess_is_refused_however_near_it_is() {
    let wall = start().await;
    for (what, key, no) in [
        ("another digit", "sk-0123456789abcdef0123456789abcdee".to_owned(), UNKNOWN),
        ("the digits backwards", "sk-fedcba9876543210fedcba9876543210".to_owned(), UNKNOWN),
        ("zeros", format!("sk-{}", "0".repeat(32)), UNKNOWN),
        ("capital digits", KEY.to_uppercase().replace("SK-", "sk-"), invalid("unrecognised")),
        ("capitals", KEY.to_uppercase(), invalid("unrecognised")),
        ("a digit less", KEY[..34].to_owned(), invalid("unrecognised")),
        ("a digit more", format!("{KEY}0"), invalid("unrecognised")),
        ("no prefix", KEY[3..].to_owned(), invalid("unrecognised")),
        ("another prefix", KEY.replace("sk-", "pk-"), invalid("unrecognised")),
        ("a pattern", "sk-%".to_owned(), invalid("unrecognised")),
        ("a pattern of the right length", format!("sk-{}", "_".repeat(32)), invalid("unrecognised")),
        ("SQL", "sk-' OR '1'='1".replace(' ', "+"), invalid("unrecognised")),
        ("quotes", format!("\"{KEY}\""), invalid("unrecognised")),
        ("the id of its row", "key_jane".to_owned(), invalid("unrecognised")),
        ("the id of its user", JANE.to_owned(), invalid("unrecognised")),
    ] {
        wall.refuses(what, with_token(&key), no).await;
    }
    wall.lets_in("the key itself", with_token(KEY)).await;
    wall.stands().await;
}

#[tokio::test]
async fn a_key_is_good_for_its_user_alone_and_in_one_place_alone() {
    let wall = start().await;
    wall.refuses("Eve's at Jane's server", with_token(EVES), No(403, "not_granted", "")).await;
    for email in ["eve@example.com", "", "jane.doe@example.com, eve@example.com"] {
        let attempt = with_token(KEY).line(format!("X-OpenWebUI-User-Email: {email}"));
        wall.refuses(email, attempt, No(403, "identity_mismatch", "user_mismatch")).await;
    }
    for line in [format!("X-Api-Key: {KEY}"), format!("Cookie: token={KEY}"), format!("Api-Key: {KEY}")] {
        wall.refuses(&line, Attempt::call().line(line.clone()), super::NO_CREDENTIAL).await;
    }
    let in_query = Attempt::to("POST", format!("/github/search?key={KEY}"));
    wall.refuses("in the query of a call", in_query, super::NO_CREDENTIAL).await;
    let named = with_token(KEY).line(format!("X-OpenWebUI-User-Email: {JANE_EMAIL}"));
    wall.lets_in("under her own name", named).await;
    wall.stands().await;
}

#[tokio::test]
async fn a_guess_is_refused_on_every_face_and_nothing_weaker_is_tried() {
    let wall = start().await;
    let guess = format!("sk-{}", "1".repeat(32));
    let session = crate::harness::tokens::session_token(JANE, crate::harness::openwebui::JANE_STAMP);
    for face in every_face() {
        let what = format!("{} {}", face.method, face.path);
        let attempt = face.bearer(&guess).line(format!("Cookie: token={session}"));
        wall.refuses(&what, attempt.line(format!("X-User-Email: {JANE_EMAIL}")), UNKNOWN).await;
    }
    wall.stands().await;
}

#[tokio::test]
async fn a_key_that_open_webui_would_not_take_is_refused() {
    let wall = start().await;
    wall.lets_in("at first", with_token(KEY)).await;
    let revoked = |reason| No(401, "revoked_credential", reason);
    for (wrong, right, no) in [
        (
            "UPDATE config SET value = 'false' WHERE key = 'auth.enable_api_keys'",
            "UPDATE config SET value = 'true' WHERE key = 'auth.enable_api_keys'",
            invalid("api_key_not_allowed"),
        ),
        (
            "UPDATE config SET value = '{}' WHERE key = 'user.permissions'",
            "UPDATE config SET value = '{\"features\": {\"api_keys\": true}}' WHERE key = 'user.permissions'",
            invalid("api_key_not_allowed"),
        ),
        (
            "UPDATE api_key SET expires_at = 1",
            "UPDATE api_key SET expires_at = NULL",
            No(401, "expired_credential", "expired"),
        ),
        ("UPDATE auth SET active = false", "UPDATE auth SET active = true", revoked("user_inactive")),
        (
            "UPDATE \"user\" SET role = 'pending'",
            "UPDATE \"user\" SET role = 'user'",
            revoked("user_pending"),
        ),
    ] {
        wall.database.execute(wrong).await;
        wall.gateway.call_until("/github/search", KEY, 401).await;
        wall.refuses(wrong, with_token(KEY), no).await;
        wall.database.execute(right).await;
        wall.gateway.call_until("/github/search", KEY, 200).await;
    }
    wall.database.execute("DELETE FROM api_key WHERE id = 'key_jane'").await;
    wall.gateway.call_until("/github/search", KEY, 401).await;
    wall.refuses("deleted", with_token(KEY), UNKNOWN).await;
    // Some refusals were waited for, and counted by nobody here.
    wall.reasons.lock().unwrap().clear();
    wall.stands().await;
}
