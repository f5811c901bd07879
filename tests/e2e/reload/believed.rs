//! Credentials that are believed, or no more, from one moment to the next.

use serde_json::json;

use super::{Load, Standing, change, set, unset};
use crate::harness::{
    fake_peer::FakePeer,
    gateway::Gateway,
    grants::{CALLER, Grants},
    raw_peer::RawPeer,
    tokens::{email_token, now, sign},
};

const FIRST: &str = "the-first-service-key";
const SECOND: &str = "the-second-service-key";
const OTHER_SECRET: &str = "another-secret-key-0123456789abcdefgh";

/// A gateway with a server of REST and one of MCP, and two services that may use both.
async fn scene() -> (Gateway, FakePeer, RawPeer, Grants) {
    let rest = FakePeer::start().await.with_json("search", json!([]));
    let native = RawPeer::with_tools(&[]).await;
    let grants = Grants::of(&["rest", "alpha"]).await;
    let keys = toml::Table::from_iter([("dialect".to_owned(), "mcp".into())]);
    let setup = grants.setup().server("rest", &rest.url()).server_with(
        "alpha",
        &format!("{}/mcp", native.url()),
        keys,
    );
    let admins = || toml::Value::from(vec!["MCP-Admin"]);
    let setup =
        setup.set("auth.service_keys.first.key", FIRST).set("auth.service_keys.first.groups", admins());
    let gateway = setup.start().await;
    gateway.await_tools("rest", 1).await;
    (gateway, rest, native, grants)
}

async fn status(gateway: &Gateway, token: &str) -> u16 {
    gateway.call("/rest/search", token, &json!({})).await.status.as_u16()
}

#[tokio::test]
async fn a_service_key_is_believed_once_it_is_there_and_ends_with_its_streams_once_it_is_gone() {
    let (gateway, _rest, native, _grants) = scene().await;
    let session = email_token(CALLER);
    let ending = Standing::open(&gateway, &native, "alpha", FIRST).await;
    let mut staying = Standing::open(&gateway, &native, "alpha", &session).await;
    let load = Load::begin(&gateway, "/rest/search", &session);
    assert_eq!((status(&gateway, FIRST).await, status(&gateway, SECOND).await), (200, 401));
    gateway
        .reconfigure(
            "auth.service_keys.second",
            toml::Table::from_iter([
                ("key".to_owned(), toml::Value::from(SECOND)),
                ("groups".to_owned(), vec!["MCP-Admin"].into()),
            ]),
        )
        .await;
    assert_eq!((status(&gateway, FIRST).await, status(&gateway, SECOND).await), (200, 200));
    let next = gateway.generation().await + 1;
    change(&gateway, "gateway.toml", |table| unset(table, "auth.service_keys.first"));
    gateway.taken(next).await;
    assert_eq!((status(&gateway, FIRST).await, status(&gateway, SECOND).await), (401, 200));
    ending.ends().await;
    staying.stands().await;
    load.none_failed().await;
    gateway.wrote_none_of(&[FIRST, SECOND]);
    let line = gateway.stderr.find("the keys", |line| line.contains("auth.service_keys.first.key")).await;
    assert!(line.contains("keys changed"), "{line}");
}

#[tokio::test]
async fn a_service_that_may_use_less_ends_with_its_streams() {
    let (gateway, _rest, native, _grants) = scene().await;
    let ending = Standing::open(&gateway, &native, "alpha", FIRST).await;
    gateway.reconfigure("auth.service_keys.first.groups", Vec::<String>::new()).await;
    assert_eq!(status(&gateway, FIRST).await, 403);
    ending.ends().await;
}

#[tokio::test]
async fn another_session_secret_ends_sessions_and_nothing_else() {
    let (gateway, _rest, native, _grants) = scene().await;
    let session = email_token(CALLER);
    let ending = Standing::open(&gateway, &native, "alpha", &session).await;
    let mut staying = Standing::open(&gateway, &native, "alpha", FIRST).await;
    let load = Load::begin(&gateway, "/rest/search", FIRST);
    assert_eq!(status(&gateway, &session).await, 200);
    gateway.reconfigure("auth.openwebui.secret", OTHER_SECRET).await;
    assert_eq!(status(&gateway, &session).await, 401);
    let claims = json!({"id": CALLER, "typ": "session", "email": CALLER, "exp": now(3600)});
    assert_eq!(status(&gateway, &sign(&claims, OTHER_SECRET)).await, 200);
    ending.ends().await;
    staying.stands().await;
    load.none_failed().await;
    gateway.wrote_none_of(&[OTHER_SECRET]);
}

#[tokio::test]
async fn another_admin_group_decides_from_then_on() {
    let (gateway, _rest, native, grants) = scene().await;
    grants.add("member@example.com", "alpha").await;
    let mut staying = Standing::open(&gateway, &native, "alpha", &email_token(CALLER)).await;
    let ending = Standing::open(&gateway, &native, "alpha", FIRST).await;
    gateway.reconfigure("access.admin_group", "Others").await;
    assert_eq!(status(&gateway, FIRST).await, 403);
    ending.ends().await;
    staying.stands().await;
    gateway.reconfigure("access.admin_group", "MCP-Admin").await;
    assert_eq!(status(&gateway, FIRST).await, 200);
}

#[tokio::test]
async fn what_is_not_about_credentials_ends_no_stream() {
    let (gateway, _rest, native, _grants) = scene().await;
    let mut of_session = Standing::open(&gateway, &native, "alpha", &email_token(CALLER)).await;
    let mut of_service = Standing::open(&gateway, &native, "alpha", FIRST).await;
    let keys: [(&str, toml::Value); 5] = [
        ("access.max_stale_secs", 600.into()),
        ("auth.openwebui.allow_no_expiry", true.into()),
        ("tools.refresh_secs", 77.into()),
        ("listen.body_timeout_secs", 33.into()),
        ("auth.service_keys.second.key", SECOND.into()),
    ];
    for (key, value) in keys {
        gateway.reconfigure(key, value).await;
        of_session.stands().await;
        of_service.stands().await;
    }
    let next = gateway.generation().await + 1;
    change(&gateway, "gateway.toml", |table| set(table, "access.conceal", true));
    gateway.taken(next).await;
    of_session.stands().await;
}
