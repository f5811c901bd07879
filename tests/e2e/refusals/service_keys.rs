//! Service keys, and the users they vouch for: the key alone proves the service, only a signature proves the user.

use jsonwebtoken::{Algorithm, Header};
use serde_json::{Value, json};

use super::{Attempt, EVE, EVE_EMAIL, No, Wall, invalid, with_token};
use crate::harness::{
    entra::keys::{self, Padding, base64url},
    openwebui::{JANE, JANE_EMAIL, JANE_STAMP, PLAIN_KEY, VOUCHING_KEY, user_jwt},
    tokens::{FORWARD_SECRET, SESSION_SECRET, now, session_token, sign, sign_as},
};

fn claims() -> Value {
    json!({"sub": JANE, "email": JANE_EMAIL, "name": "Jane", "role": "user", "iss": "open-webui",
        "iat": now(0), "exp": now(300)})
}

fn with_claims(other: Value) -> String {
    let mut claims = claims();
    for (name, value) in other.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    sign(&claims, FORWARD_SECRET)
}

fn vouched(jwt: &str) -> Attempt {
    with_token(VOUCHING_KEY).line(format!("X-OpenWebUI-User-Jwt: {jwt}"))
}

#[tokio::test]
async fn a_key_that_is_nearly_right_is_refused() {
    let wall = Wall::start().await;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, VOUCHING_KEY.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    for key in [
        format!("{VOUCHING_KEY}x"),
        format!("x{VOUCHING_KEY}"),
        VOUCHING_KEY[..VOUCHING_KEY.len() - 1].to_owned(),
        VOUCHING_KEY.to_uppercase(),
        format!("\"{VOUCHING_KEY}\""),
        format!("{VOUCHING_KEY},{VOUCHING_KEY}"),
        format!("openwebui:{VOUCHING_KEY}"),
        hex,
        base64url(VOUCHING_KEY),
        "openwebui".to_owned(),
        "${OPENWEBUI_SERVICE_KEY}".to_owned(),
        "null".to_owned(),
        "0".to_owned(),
    ] {
        wall.refuses(&key, with_token(&key), invalid("unrecognised")).await;
        let beside = with_token(&key).line(format!("X-OpenWebUI-User-Jwt: {}", user_jwt(JANE, JANE_EMAIL)));
        wall.refuses(&key, beside, invalid("unrecognised")).await;
    }
    wall.lets_in("the key itself", with_token(VOUCHING_KEY).instead_at("/nightly/search")).await;
    wall.stands().await;
}

impl Attempt {
    fn instead_at(mut self, path: &str) -> Self {
        self.path = path.to_owned();
        self
    }
}

#[tokio::test]
async fn nobody_is_vouched_for_by_a_token_that_is_forged_or_out_of_its_time() {
    let wall = Wall::start().await;
    let key = keys::spare(0);
    let expired = No(401, "expired_credential", "expired");
    let rs256 = {
        let signable = format!("{}.{}", base64url(r#"{"alg":"RS256"}"#), base64url(claims().to_string()));
        format!("{signable}.{}", base64url(key.sign(Padding::Rs256, signable.as_bytes())))
    };
    let unsigned = format!("{}.{}.", base64url(r#"{"alg":"none"}"#), base64url(claims().to_string()));
    let other = |algorithm| sign_as(Header::new(algorithm), &claims(), FORWARD_SECRET);
    for (what, jwt, no) in [
        ("signed with another secret", sign(&claims(), "another"), invalid("wrong_signature")),
        ("signed with nothing", sign(&claims(), ""), invalid("wrong_signature")),
        ("signed with the secret of sessions", sign(&claims(), SESSION_SECRET), invalid("wrong_signature")),
        ("signed with the service's own key", sign(&claims(), VOUCHING_KEY), invalid("wrong_signature")),
        ("not signed", unsigned, invalid("malformed")),
        ("signed with a key of its own", rs256, invalid("wrong_algorithm")),
        ("HS384", other(Algorithm::HS384), invalid("wrong_algorithm")),
        ("HS512", other(Algorithm::HS512), invalid("wrong_algorithm")),
        ("expired", with_claims(json!({"exp": now(-60)})), expired),
        ("without an end", with_claims(json!({"exp": null})), invalid("no_expiry")),
        ("not yet valid", with_claims(json!({"nbf": now(120)})), invalid("not_yet_valid")),
        ("issued in the future", with_claims(json!({"iat": now(120)})), invalid("issued_in_future")),
        ("of another issuer", with_claims(json!({"iss": "open-webui.evil"})), invalid("wrong_issuer")),
        ("of no issuer", with_claims(json!({"iss": null})), invalid("malformed")),
        ("of two issuers", with_claims(json!({"iss": ["open-webui", "x"]})), invalid("malformed")),
        ("of a pending user", with_claims(json!({"role": "pending"})), invalid("wrong_purpose")),
        ("of nobody", with_claims(json!({"sub": ""})), invalid("wrong_purpose")),
        ("without an email", with_claims(json!({"email": null})), invalid("malformed")),
        ("with an email that is none", with_claims(json!({"email": "jane"})), invalid("no_email")),
        (
            "of a user who is not there",
            user_jwt("nobody", JANE_EMAIL),
            No(401, "revoked_credential", "no_such_user"),
        ),
        ("a session", session_token(JANE, JANE_STAMP), invalid("wrong_signature")),
        ("empty", String::new(), invalid("malformed")),
        ("the service's own key", VOUCHING_KEY.to_owned(), invalid("malformed")),
        ("with `Bearer` in front", format!("Bearer {}", user_jwt(JANE, JANE_EMAIL)), invalid("malformed")),
    ] {
        wall.refuses(what, vouched(&jwt), no).await;
    }
    wall.lets_in("a good one", vouched(&user_jwt(JANE, JANE_EMAIL))).await;
    wall.stands().await;
}

#[tokio::test]
async fn two_users_named_in_one_request_are_nobody() {
    let wall = Wall::start().await;
    let mismatch = No(403, "identity_mismatch", "user_mismatch");
    let jane = user_jwt(JANE, JANE_EMAIL);
    wall.refuses("another's email in the token", vouched(&user_jwt(JANE, EVE_EMAIL)), mismatch).await;
    wall.refuses("another's id in the token", vouched(&user_jwt(EVE, JANE_EMAIL)), mismatch).await;
    for email in [EVE_EMAIL, "", "jane.doe@example.com, eve@example.com", "jane.doe@example.com.evil"] {
        let line = format!("X-OpenWebUI-User-Email: {email}");
        wall.refuses(&line, vouched(&jane).line(line.clone()), mismatch).await;
        let session = with_token(&session_token(JANE, JANE_STAMP)).line(line.clone());
        wall.refuses(&line, session, mismatch).await;
    }
    wall.stands().await;
}

#[tokio::test]
async fn a_user_who_is_named_and_not_signed_for_is_nobody() {
    let wall = Wall::start().await;
    for name in [
        "X-OpenWebUI-User-Email",
        "X-OpenWebUI-User-Id",
        "X-OpenWebUI-User-Name",
        "X-OpenWebUI-User-Role",
        "x-openwebui-user-email",
        "X_OpenWebUI_User_Email",
        "X-OpenWebUI_User-Email",
    ] {
        let line = format!("{name}: {JANE_EMAIL}");
        wall.refuses(name, with_token(VOUCHING_KEY).line(line.clone()), invalid("unsigned_user")).await;
        wall.refuses(name, with_token(PLAIN_KEY).line(line.clone()), No(403, "not_granted", "")).await;
        wall.refuses(name, Attempt::call().line(line), super::NO_CREDENTIAL).await;
    }
    let jwt = user_jwt(JANE, JANE_EMAIL);
    let alone = Attempt::call().line(format!("X-OpenWebUI-User-Jwt: {jwt}"));
    wall.refuses("a user token alone", alone, super::NO_CREDENTIAL).await;
    wall.refuses("a user token as a session", with_token(&jwt), invalid("wrong_signature")).await;
    let plain = with_token(PLAIN_KEY).line(format!("X-OpenWebUI-User-Jwt: {jwt}"));
    wall.refuses("beside a key that may not vouch", plain, No(403, "not_granted", "")).await;
    let folded = with_token(VOUCHING_KEY).line(format!("X_OpenWebUI_User_Jwt: {jwt}"));
    wall.refuses("in a header that only looks like it", folded, invalid("unsigned_user")).await;
    wall.stands().await;
}
