//! Sessions of Open WebUI: a token signed with the shared secret, and nothing that only looks like one.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, Header};
use serde_json::{Value, json};

use super::{Attempt, No, Wall, every_face, invalid, with_token};
use crate::harness::{
    entra::keys::base64url,
    openwebui::{JANE, JANE_EMAIL, JANE_STAMP, PLAIN_KEY, VOUCHING_KEY},
    tokens::{FORWARD_SECRET, SESSION_SECRET, now, session_token, sign, sign_as},
};

const EXPIRED: No = No(401, "expired_credential", "expired");

const fn revoked(reason: &'static str) -> No {
    No(401, "revoked_credential", reason)
}

/// What a good session of Jane's says.
fn claims() -> Value {
    json!({"id": JANE, "typ": "session", "session_stamp": JANE_STAMP, "jti": "a-session-of-this-test",
        "iat": now(0), "exp": now(3600)})
}

/// The same with other claims; `null` leaves one out.
fn with_claims(other: Value) -> String {
    let mut claims = claims();
    for (name, value) in other.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    sign(&claims, SESSION_SECRET)
}

/// A token of these very texts, signed with this secret.
fn raw(header: &str, payload: &str, secret: &str) -> String {
    let signable = format!("{}.{}", base64url(header), base64url(payload));
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let signature = jsonwebtoken::crypto::sign(signable.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{signable}.{signature}")
}

fn with_header(header: Value, secret: &str) -> String {
    raw(&header.to_string(), &claims().to_string(), secret)
}

#[tokio::test]
async fn a_session_that_is_forged_or_out_of_its_time_is_refused() {
    let wall = Wall::start().await;
    for (what, token, no) in [
        ("signed with another secret", sign(&claims(), "another-secret"), invalid("wrong_signature")),
        ("signed with nothing", sign(&claims(), ""), invalid("wrong_signature")),
        (
            "signed with the other secret of Open WebUI",
            sign(&claims(), FORWARD_SECRET),
            invalid("wrong_signature"),
        ),
        ("signed with a service key", sign(&claims(), PLAIN_KEY), invalid("wrong_signature")),
        (
            "signed with the secret and a newline",
            sign(&claims(), &format!("{SESSION_SECRET}\n")),
            invalid("wrong_signature"),
        ),
        ("expired", with_claims(json!({"exp": now(-60)})), EXPIRED),
        ("expired long ago", with_claims(json!({"exp": 1})), EXPIRED),
        ("not yet valid", with_claims(json!({"nbf": now(120)})), invalid("not_yet_valid")),
        ("issued in the future", with_claims(json!({"iat": now(120)})), invalid("issued_in_future")),
        ("without an end", with_claims(json!({"exp": null})), invalid("no_expiry")),
        ("with its end as text", with_claims(json!({"exp": now(3600).to_string()})), invalid("malformed")),
        ("ending before time began", with_claims(json!({"exp": -1})), invalid("no_expiry")),
        ("ending never", with_claims(json!({"exp": 1e300})), invalid("malformed")),
        ("for renewing sessions", with_claims(json!({"typ": "refresh"})), invalid("wrong_purpose")),
        ("of nobody", with_claims(json!({"id": ""})), invalid("malformed")),
        ("without an id", with_claims(json!({"id": null})), invalid("malformed")),
        ("with a list of ids", with_claims(json!({"id": [JANE]})), invalid("malformed")),
        ("of a user who is not there", with_claims(json!({"id": "nobody"})), revoked("no_such_user")),
        ("of a user by email", with_claims(json!({"id": JANE_EMAIL})), revoked("no_such_user")),
        (
            "of a user in SQL",
            with_claims(json!({"id": format!("x' OR id = '{JANE}")})),
            revoked("no_such_user"),
        ),
        (
            "from before the last change of password",
            with_claims(json!({"session_stamp": "old"})),
            revoked("stamp_differs"),
        ),
        ("without a stamp", with_claims(json!({"session_stamp": null})), revoked("stamp_differs")),
    ] {
        wall.refuses(what, with_token(&token), no).await;
    }
    wall.stands().await;
}

#[tokio::test]
async fn a_session_signed_with_another_algorithm_is_refused() {
    let wall = Wall::start().await;
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let token = sign_as(Header::new(algorithm), &claims(), SESSION_SECRET);
        wall.refuses(&format!("{algorithm:?}"), with_token(&token), invalid("wrong_algorithm")).await;
    }
    let payload = base64url(claims().to_string());
    let signature = session_token(JANE, JANE_STAMP).rsplit('.').next().unwrap().to_owned();
    for alg in [
        "none", "None", "NONE", "nOnE", "", "null", "hs256", "HS256 ", "HS1", "dir", "A256KW", "EdDSA",
        "ES256",
    ] {
        let header = base64url(json!({"alg": alg, "typ": "JWT"}).to_string());
        for token in [
            format!("{header}.{payload}."),
            format!("{header}.{payload}.{signature}"),
            raw(&json!({"alg": alg, "typ": "JWT"}).to_string(), &claims().to_string(), SESSION_SECRET),
            raw(&json!({"alg": alg, "typ": "JWT"}).to_string(), &claims().to_string(), ""),
        ] {
            wall.refuses(&format!("alg `{alg}`: {token}"), with_token(&token), NOT_A_SESSION).await;
        }
    }
    // What names no key of anybody's is not looked for among keys.
    let nameless = raw(r#"{"alg":"RS256","typ":"JWT"}"#, &claims().to_string(), SESSION_SECRET);
    wall.refuses("alg `RS256` without a key", with_token(&nameless), invalid("unknown_key")).await;
    for header in [
        r#"{"typ":"JWT"}"#,
        r#"{"alg":null}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":256}"#,
        "[]",
        "null",
        "{",
        "",
    ] {
        let token = raw(header, &claims().to_string(), SESSION_SECRET);
        wall.refuses(&format!("header {header}"), with_token(&token), invalid("unrecognised")).await;
    }
    wall.stands().await;
}

/// What a token is that says of itself that it is signed with no shared secret.
const NOT_A_SESSION: No = invalid("wrong_algorithm");

#[tokio::test]
async fn what_a_session_says_of_its_key_is_never_followed() {
    let wall = Wall::start().await;
    let own = base64url("my-own-secret");
    for (what, header, secret) in [
        ("a key of no bytes", json!({"alg": "HS256", "kid": "/dev/null"}), ""),
        (
            "a key of a known file",
            json!({"alg": "HS256", "kid": "../../../../../../proc/sys/kernel/randomize_va_space"}),
            "2\n",
        ),
        (
            "a key of a query",
            json!({"alg": "HS256", "kid": "x' UNION SELECT 'my-own-secret"}),
            "my-own-secret",
        ),
        ("a key of a command", json!({"alg": "HS256", "kid": "|echo my-own-secret"}), "my-own-secret"),
        ("a key by its own name", json!({"alg": "HS256", "kid": "my-own-secret"}), "my-own-secret"),
        (
            "a key that comes with it",
            json!({"alg": "HS256", "jwk": {"kty": "oct", "k": own}}),
            "my-own-secret",
        ),
        (
            "a set of keys elsewhere",
            json!({"alg": "HS256", "jku": format!("{}/keys", wall.finance.url())}),
            "my-own-secret",
        ),
        (
            "a certificate elsewhere",
            json!({"alg": "HS256", "x5u": format!("{}/cert", wall.finance.url())}),
            "my-own-secret",
        ),
        ("a certificate that comes with it", json!({"alg": "HS256", "x5c": [own]}), "my-own-secret"),
    ] {
        wall.refuses(what, with_token(&with_header(header, secret)), invalid("wrong_signature")).await;
    }
    for (what, header) in [
        ("an extension that must be understood", json!({"alg": "HS256", "crit": ["b64"], "b64": false})),
        ("an extension without a name", json!({"alg": "HS256", "crit": []})),
        ("another type", json!({"alg": "HS256", "typ": "logout+jwt"})),
        ("another content", json!({"alg": "HS256", "typ": "JWT", "cty": "JWT"})),
    ] {
        wall.refuses(what, with_token(&with_header(header, SESSION_SECRET)), invalid("wrong_label")).await;
    }
    assert_eq!(wall.heard(), 0, "a server was asked for a key");
    wall.stands().await;
}

#[tokio::test]
async fn a_session_that_was_changed_on_its_way_is_refused() {
    let wall = Wall::start().await;
    let good = session_token(JANE, JANE_STAMP);
    let parts: Vec<_> = good.split('.').collect();
    let [header, payload, signature] = parts[..] else { panic!("three parts") };
    let eve = base64url(
        json!({"id": super::EVE, "typ": "session", "session_stamp": super::EVE_STAMP,
        "iat": now(0), "exp": now(3600)})
        .to_string(),
    );
    let last = signature.chars().last().unwrap();
    // The last letter of 32 bytes holds two bits that mean nothing: another letter must not mean the same.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.find(last).unwrap();
    let respelt = alphabet.as_bytes()[at ^ 1] as char;
    let twice = base64url(URL_SAFE_NO_PAD.decode(signature).unwrap().repeat(2));
    for (what, token, reason) in [
        ("another's claims under a good signature", format!("{header}.{eve}.{signature}"), "wrong_signature"),
        ("no signature", format!("{header}.{payload}."), "wrong_signature"),
        ("half a signature", format!("{header}.{payload}.{}", &signature[..20]), "wrong_signature"),
        (
            "a signature respelt",
            format!("{header}.{payload}.{}{respelt}", &signature[..signature.len() - 1]),
            "malformed",
        ),
        ("a signature padded", format!("{header}.{payload}.{signature}="), "malformed"),
        ("a signature twice", format!("{header}.{payload}.{twice}"), "wrong_signature"),
        ("two parts", format!("{header}.{payload}"), "unrecognised"),
        ("four parts", format!("{good}.{signature}"), "unrecognised"),
        (
            "five parts, as of an encrypted one",
            format!("{header}..{payload}.{signature}.{signature}"),
            "unrecognised",
        ),
        ("dots alone", "..".to_owned(), "unrecognised"),
        ("a dot in front", format!(".{good}"), "unrecognised"),
        ("percent signs", good.replace('.', "%2E"), "unrecognised"),
        ("quotes", format!("\"{good}\""), "unrecognised"),
        (
            "a JSON serialisation",
            format!("{{\"protected\":\"{header}\",\"payload\":\"{payload}\",\"signature\":\"{signature}\"}}"),
            "unrecognised",
        ),
    ] {
        wall.refuses(what, with_token(&token), invalid(reason)).await;
    }
    wall.stands().await;
}

#[tokio::test]
async fn claims_that_could_be_read_in_two_ways_are_not_believed() {
    let wall = Wall::start().await;
    let header = r#"{"alg":"HS256","typ":"JWT"}"#;
    let end = now(3600);
    let rest = format!(r#""typ":"session","session_stamp":"{JANE_STAMP}","iat":{}"#, now(0));
    for (what, header, payload) in [
        ("two ids", header, format!(r#"{{"id":"nobody","id":"{JANE}",{rest},"exp":{end}}}"#)),
        ("two ends", header, format!(r#"{{"id":"{JANE}",{rest},"exp":1,"exp":{end}}}"#)),
        (
            "two algorithms",
            r#"{"alg":"none","alg":"HS256"}"#,
            format!(r#"{{"id":"{JANE}",{rest},"exp":{end}}}"#),
        ),
        ("a list", header, format!("[{}]", claims())),
        ("a text", header, claims().to_string().replace('"', "'")),
        ("nothing", header, String::new()),
        ("something behind it", header, format!("{} {{}}", claims())),
    ] {
        let token = raw(header, &payload, SESSION_SECRET);
        let answer = wall.answer(&with_token(&token)).await;
        assert_eq!(
            (answer.status, super::code(&answer).as_str()),
            (401, "invalid_credential"),
            "{what}: {}",
            answer.text()
        );
        assert_eq!(wall.heard(), 0, "{what}");
    }
    wall.stands().await;
}

#[tokio::test]
async fn a_user_who_may_no_longer_come_is_refused_with_a_session_that_was_good() {
    let wall = Wall::start().await;
    let session = with_token(&session_token(JANE, JANE_STAMP));
    let wrongs = [
        (
            "UPDATE auth SET active = false WHERE id = '{}'",
            "UPDATE auth SET active = true WHERE id = '{}'",
            "user_inactive",
        ),
        (
            "UPDATE \"user\" SET role = 'pending' WHERE id = '{}'",
            "UPDATE \"user\" SET role = 'user' WHERE id = '{}'",
            "user_pending",
        ),
        (
            "UPDATE \"user\" SET role = 'root' WHERE id = '{}'",
            "UPDATE \"user\" SET role = 'user' WHERE id = '{}'",
            "user_pending",
        ),
    ];
    for (wrong, right, reason) in wrongs {
        wall.database.execute(&wrong.replace("{}", JANE)).await;
        wall.gateway.call_until("/github/search", &session_token(JANE, JANE_STAMP), 401).await;
        let before = wall.gateway.metrics().await;
        wall.refuses(reason, session.clone(), revoked(reason)).await;
        let counted = |metrics: &crate::harness::gateway::Metrics| {
            metrics.sum("portcullis_credentials_refused_total", &[("reason", reason)])
        };
        // The call before may be counted only now: a record ends after its answer.
        assert!(counted(&wall.gateway.metrics().await) > counted(&before), "{reason}");
        wall.database.execute(&right.replace("{}", JANE)).await;
        wall.gateway.call_until("/github/search", &session_token(JANE, JANE_STAMP), 200).await;
    }
    wall.reasons.lock().unwrap().clear();
    wall.stands().await;
}

#[tokio::test]
async fn a_refused_session_is_refused_on_every_face_and_beside_every_other_credential() {
    let wall = Wall::start().await;
    let forged = sign(&claims(), "another-secret");
    let good = session_token(JANE, JANE_STAMP);
    for face in every_face() {
        let what = format!("{} {}", face.method, face.path);
        wall.refuses(&what, face.clone().bearer(&forged), invalid("wrong_signature")).await;
        wall.refuses(
            &what,
            face.clone().bearer(&forged).line(format!("Cookie: token={good}")),
            invalid("wrong_signature"),
        )
        .await;
        wall.refuses(&what, face, super::NO_CREDENTIAL).await;
    }
    for line in [
        format!("X-Api-Key: {VOUCHING_KEY}"),
        format!("Proxy-Authorization: Bearer {good}"),
        format!("X-Authorization: Bearer {good}"),
        format!("X-OpenWebUI-User-Jwt: {}", crate::harness::openwebui::user_jwt(JANE, JANE_EMAIL)),
        format!("X-User-Email: {JANE_EMAIL}"),
    ] {
        wall.refuses(&line, with_token(&forged).line(line.clone()), invalid("wrong_signature")).await;
    }
    for path in [format!("/openapi.json?key={good}"), format!("/openapi.json?key={PLAIN_KEY}")] {
        let attempt = Attempt::to("GET", path.clone()).bearer(&forged);
        wall.refuses(&path, attempt, invalid("wrong_signature")).await;
    }
    wall.stands().await;
}
