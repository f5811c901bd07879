mod nobody;
mod reconfigured;

use std::collections::HashMap;

use serde_json::Value;

use super::*;
use crate::{
    names::{Email, GroupName, Secret},
    store::openwebui::{Role, SecondFactor, User},
};

const VECTORS: &str = include_str!("../../tests/fixtures/openwebui/jwt_vectors.json");
const USER_ID: &str = "c1118e2e-bf43-4378-9951-a36eb275199c";
const STAMP: &str = "f8f33222-f727-45aa-aa31-98e1aa6058c6";
const SERVICE_KEY: &str = "a-service-key-that-may-vouch";
const PLAIN_KEY: &str = "a-service-key-that-may-not";

fn vectors() -> Value {
    serde_json::from_str(VECTORS).unwrap()
}

fn row(session_stamp: Option<&str>) -> User {
    User {
        id: USER_ID.into(),
        email: Email::parse("jane.doe@example.com").unwrap(),
        role: Role::User,
        is_active: true,
        session_stamp: session_stamp.map(Into::into),
        second_factor: SecondFactor::default(),
        groups: vec![GroupName::parse("Dev").unwrap()],
    }
}

/// The vectors' secrets are believed, and two service keys.
fn settings() -> Settings {
    let vectors = vectors();
    let secret = |name: &str| Secret::new(vectors["_secrets"][name].as_str().unwrap().to_owned());
    let key = |name: &str, key: &str, may_vouch| ServiceKey {
        name: name.into(),
        key_sha256: Secret::new(Sha256::digest(key).into()),
        groups: vec![GroupName::parse("Services").unwrap()],
        may_vouch,
    };
    Settings {
        sessions: Some(SessionSettings { secret: secret("WEBUI_SECRET_KEY"), allow_no_expiry: false }),
        openwebui_tables: None,
        openwebui_redis: None,
        service_keys: vec![key("openwebui", SERVICE_KEY, true), key("plain", PLAIN_KEY, false)],
        forward_jwt_secret: Some(secret("FORWARD_USER_INFO_HEADER_JWT_SECRET")),
        ..Settings::default()
    }
}

/// An identity that knows this row of Open WebUI's tables.
fn identity(row: Option<User>) -> Identity {
    let (users, _questions) = Users::new(Duration::from_secs(3600));
    users.remember(USER_ID, row);
    Identity::new(&settings(), Sources { users: Some(users), ..Sources::default() })
}

async fn ask(identity: &Identity, headers: &[(&str, &str)]) -> Result<Arc<Caller>, Code> {
    let mut request = http::Request::builder().uri("/github/search");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    identity.identify(&parts, Face::Call, None).await.map_err(|refusal| refusal.code())
}

async fn ask_with_token(row: Option<User>, token: &str) -> Result<Arc<Caller>, Code> {
    ask(&identity(row), &[("authorization", &format!("Bearer {token}"))]).await
}

async fn ask_vouched(jwt: &str) -> Result<Arc<Caller>, Code> {
    let authorization = format!("Bearer {SERVICE_KEY}");
    ask(&identity(Some(row(None))), &[("authorization", &authorization), ("x-openwebui-user-jwt", jwt)]).await
}

#[tokio::test]
async fn every_recorded_token_is_decided_as_open_webui_and_its_operators_would() {
    let vectors = vectors();
    let section =
        |name: &str| -> HashMap<String, String> { serde_json::from_value(vectors[name].clone()).unwrap() };
    for (name, token) in section("accept") {
        let decision = match name.as_str() {
            "forward_user_jwt" => ask_vouched(&token).await,
            // A token from before the stamp is good while the row has none either.
            "owui_old_session(id,exp,jti)" => ask_with_token(Some(row(None)), &token).await,
            _ => ask_with_token(Some(row(Some(STAMP))), &token).await,
        };
        let caller = decision.unwrap_or_else(|code| panic!("{name} is refused: {code:?}"));
        assert_eq!(caller.name(), "jane.doe@example.com", "{name}");
        assert_eq!(caller.groups(), [GroupName::parse("Dev").unwrap()], "{name}");
    }
    for (name, token) in section("reject") {
        assert!(ask_with_token(Some(row(Some(STAMP))), &token).await.is_err(), "{name} as a session");
        assert!(ask_with_token(Some(row(None)), &token).await.is_err(), "{name} as an old session");
        // One vector is good in the other place: it is there to be tried in this one.
        if name != "forward_used_as_session" {
            assert!(ask_vouched(&token).await.is_err(), "{name} as a user token");
        }
    }
    for (name, token) in section("policy_choice") {
        let decision = ask_with_token(Some(row(Some(STAMP))), &token).await;
        assert!(decision.is_err(), "{name}: {decision:?}");
    }
}

fn session() -> String {
    vectors()["accept"]["owui_0.12_session"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_user_who_is_gone_inactive_pending_or_signed_out_is_refused() {
    let stamped = row(Some(STAMP));
    for (row, expected) in [
        (None, Code::RevokedCredential),
        (Some(User { is_active: false, ..stamped.clone() }), Code::RevokedCredential),
        (Some(User { role: Role::Other, ..stamped.clone() }), Code::RevokedCredential),
        (Some(row(Some("another stamp"))), Code::RevokedCredential),
        (Some(row(None)), Code::RevokedCredential),
    ] {
        assert_eq!(ask_with_token(row, &session()).await.unwrap_err(), expected);
    }
}

#[tokio::test]
async fn a_session_without_the_second_factor_that_is_demanded_is_refused() {
    let demanded = SecondFactor { is_demanded: true, is_set_up: true, ..SecondFactor::default() };
    let with = |second_factor| Some(User { second_factor, ..row(Some(STAMP)) });
    // The recorded session was made with a password and without a second factor.
    assert_eq!(ask_with_token(with(demanded), &session()).await.unwrap_err(), Code::RevokedCredential);
    let exempt = SecondFactor { is_oauth_exempt: true, is_trusted_header_exempt: true, ..demanded };
    assert!(ask_with_token(with(exempt), &session()).await.is_err(), "a password is not exempt");
    let automation = vectors()["accept"]["owui_automation"].as_str().unwrap().to_owned();
    assert!(ask_with_token(with(demanded), &automation).await.is_ok());
}

#[tokio::test]
async fn a_failed_credential_never_falls_through_to_another() {
    let identity = identity(Some(row(Some(STAMP))));
    let forged = format!("{}x", session());
    let cookie = format!("token={}", session());
    let headers = [("authorization", format!("Bearer {forged}")), ("cookie", cookie)];
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(ask(&identity, &headers).await.unwrap_err(), Code::InvalidCredential);
    let key = format!("Bearer {SERVICE_KEY}");
    let headers = [("authorization", key.as_str()), ("x-openwebui-user-jwt", forged.as_str())];
    assert_eq!(ask(&identity, &headers).await.unwrap_err(), Code::InvalidCredential);
}

#[tokio::test]
async fn a_service_is_itself_until_it_vouches_for_somebody() {
    let identity = identity(Some(row(Some(STAMP))));
    let vouching = format!("Bearer {SERVICE_KEY}");
    let plain = format!("Bearer {PLAIN_KEY}");
    let caller = ask(&identity, &[("authorization", &vouching)]).await.unwrap();
    assert_eq!((caller.name(), caller.email()), ("service:openwebui", None));
    // Unsigned names prove nothing: one who may vouch must sign, one who may not is not asked.
    for (name, value) in [
        ("x-openwebui-user-email", "jane.doe@example.com"),
        ("x_openwebui_user_email", "jane.doe@example.com"),
        ("x-openwebui-user-role", "admin"),
        ("x-openwebui-user_id", ""),
    ] {
        let named = [("authorization", vouching.as_str()), (name, value)];
        assert_eq!(ask(&identity, &named).await.unwrap_err(), Code::InvalidCredential, "{name}");
    }
    let token = vectors()["accept"]["forward_user_jwt"].as_str().unwrap().to_owned();
    let caller =
        ask(&identity, &[("authorization", &plain), ("x-openwebui-user-jwt", &token)]).await.unwrap();
    assert_eq!(caller.name(), "service:plain");
    assert_eq!(
        ask(&identity, &[("authorization", "Bearer unknown-key")]).await.unwrap_err(),
        Code::InvalidCredential
    );
}

#[tokio::test]
async fn two_identities_that_differ_are_refused() {
    let identity = identity(Some(row(Some(STAMP))));
    let authorization = format!("Bearer {}", session());
    let with = |email: &'static str| {
        [("authorization", authorization.clone()), ("x-openwebui-user-email", email.into())]
    };
    for (email, is_good) in [("Jane.Doe@example.com", true), ("eve@example.com", false), ("", false)] {
        let headers = with(email);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let decision = ask(&identity, &headers).await.map(drop);
        assert_eq!(decision, if is_good { Ok(()) } else { Err(Code::IdentityMismatch) }, "{email:?}");
    }
}

#[tokio::test]
async fn a_token_remembered_as_good_still_expires() {
    let identity = identity(Some(row(None)));
    let now = jsonwebtoken::get_current_timestamp();
    // Good for one more second, the leeway included.
    let claims = serde_json::json!({ "id": USER_ID, "exp": now - 29 });
    let secret = vectors()["_secrets"]["WEBUI_SECRET_KEY"].as_str().unwrap().to_owned();
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
    let authorization = format!("Bearer {token}");
    assert!(ask(&identity, &[("authorization", &authorization)]).await.is_ok());
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while ask(&identity, &[("authorization", &authorization)]).await.is_ok() {
        assert!(std::time::Instant::now() < deadline, "a remembered token outlived its expiry");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_gateway_in_front_may_have_taken_its_users_password_where_tokens_stand() {
    let trusted_proxies = vec![crate::names::Network::parse("10.0.0.1").unwrap()];
    let headers =
        gateway_headers::Settings { trusted_proxies, shared_secret: None, groups_format: Default::default() };
    let settings = Settings { gateway_headers: Some(headers), ..Settings::default() };
    let identity = Identity::new(&settings, Sources::default());
    let asked = async |from: &str| {
        let request = http::Request::builder().uri("/github/search").header("authorization", "Basic YTpi");
        let (parts, ()) = request.header("x-user-email", "jane@x.org").body(()).unwrap().into_parts();
        let decision = identity.identify(&parts, Face::Call, Some(from.parse().unwrap())).await;
        decision.map(|caller| caller.name().to_owned()).map_err(|refusal| refusal.why())
    };
    assert_eq!(asked("10.0.0.1").await.as_deref(), Ok("jane@x.org"));
    assert_eq!(asked("10.0.0.2").await, Err(Some("not_bearer")));
}

#[tokio::test]
async fn what_a_session_has_begun_ends_when_it_would_be_refused_now() {
    let (users, _questions) = Users::new(Duration::from_secs(3600));
    let stamped = row(Some(STAMP));
    users.remember(USER_ID, Some(stamped.clone()));
    let identity = Identity::new(&settings(), Sources { users: Some(users.clone()), ..Sources::default() });
    let authorization = format!("Bearer {}", session());
    let caller = ask(&identity, &[("authorization", &authorization)]).await.unwrap();
    let goes_on = |row: Option<User>| {
        users.remember(USER_ID, row);
        identity.current(&caller).is_some()
    };
    assert!(goes_on(Some(User { groups: Vec::new(), ..stamped.clone() })), "other groups are another matter");
    let demanded = SecondFactor { is_demanded: true, ..SecondFactor::default() };
    for (what, row) in [
        ("gone", None),
        ("inactive", Some(User { is_active: false, ..stamped.clone() })),
        ("pending", Some(User { role: Role::Other, ..stamped.clone() })),
        ("another stamp", Some(row(Some("another")))),
        ("a second factor demanded", Some(User { second_factor: demanded, ..stamped.clone() })),
    ] {
        assert!(!goes_on(row), "{what}");
    }
    assert!(goes_on(Some(stamped)), "as before");
}
