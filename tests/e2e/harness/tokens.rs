//! Credentials a test sends: right ones, and any wrong one it can think of.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// `WEBUI_SECRET_KEY` of every gateway the harness starts.
pub const SESSION_SECRET: &str = "test-webui-secret-key-0123456789abcdef";

/// What signs `X-OpenWebUI-User-Jwt`.
pub const FORWARD_SECRET: &str = "forward-jwt-secret-xyz";

/// Seconds since 1970, moved by `offset`.
pub fn now(offset: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap() + offset
}

/// These claims, signed with HS256.
pub fn sign(claims: &Value, secret: &str) -> String {
    sign_as(Header::new(Algorithm::HS256), claims, secret)
}

/// These claims under a header of the test's choice, signed with HMAC.
pub fn sign_as(header: Header, claims: &Value, secret: &str) -> String {
    encode(&header, claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

/// A session token that names its user by email: believed where Open WebUI's tables are not configured.
pub fn email_token(email: &str) -> String {
    let claims =
        json!({"id": email, "typ": "session", "email": email, "jti": jti(), "iat": now(0), "exp": now(3600)});
    sign(&claims, SESSION_SECRET)
}

/// A session token as Open WebUI 0.12 mints it: the user is looked up in its tables.
pub fn session_token(user_id: &str, session_stamp: &str) -> String {
    let claims = json!({"id": user_id, "typ": "session", "session_stamp": session_stamp, "jti": jti(),
        "iat": now(0), "exp": now(3600)});
    sign(&claims, SESSION_SECRET)
}

/// A session of Open WebUI that can be signed out of by its `jti`, issued at this second.
pub fn session_with(user_id: &str, session_stamp: &str, jti: &str, issued: i64) -> String {
    let claims = json!({"id": user_id, "typ": "session", "session_stamp": session_stamp, "jti": jti,
        "iat": issued, "exp": now(3600)});
    sign(&claims, SESSION_SECRET)
}

fn jti() -> String {
    uuid::Uuid::now_v7().to_string()
}
