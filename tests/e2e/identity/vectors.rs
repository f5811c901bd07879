//! The recorded tokens, good and bad: what each is answered with, and what is left of it afterwards.

use serde_json::{Map, Value, json};

use super::{Scene, check};
use crate::harness::{
    openwebui::{JANE_EMAIL, JANE_STAMP, PLAIN_KEY, VOUCHING_KEY},
    tokens::SESSION_SECRET,
};

fn vectors(section: &str) -> Map<String, Value> {
    let vectors: Value =
        serde_json::from_str(include_str!("../../fixtures/openwebui/jwt_vectors.json")).unwrap();
    vectors[section].as_object().unwrap().clone()
}

pub fn vector(section: &str, name: &str) -> String {
    vectors(section)[name].as_str().unwrap().to_owned()
}

/// The code of a refused vector as a session token, and as a user token (`None`: there it is good).
fn codes(vector: &str) -> (&'static str, Option<&'static str>) {
    let invalid = "invalid_credential";
    match vector {
        "expired" => ("expired_credential", Some(invalid)),
        "forward_expired" => (invalid, Some("expired_credential")),
        "forward_used_as_session" => (invalid, None),
        "session_stamp_mismatch(revoked)" => ("revoked_credential", Some(invalid)),
        _ => (invalid, Some(invalid)),
    }
}

#[tokio::test]
async fn every_accepted_vector_reaches_the_server_and_stays_behind_there() {
    let scene = Scene::new().await;
    let accepted = vectors("accept");
    for (name, token) in &accepted {
        let token = token.as_str().unwrap();
        let before = scene.peer.requests().len();
        match name.as_str() {
            "forward_user_jwt" => assert_eq!(scene.vouched(token).await.status, 200, "{name}"),
            // Without a stamp in the token, there must be none in the row.
            "owui_old_session(id,exp,jti)" => {
                let answer = scene.gateway.call("/github/search", token, &json!({})).await;
                check(&answer, 401, "revoked_credential", name);
                scene.database.execute("UPDATE auth SET session_stamp = NULL").await;
                scene.gateway.call_until("/github/search", token, 200).await;
                let stamp = format!("UPDATE auth SET session_stamp = '{JANE_STAMP}'");
                scene.database.execute(&stamp).await;
                scene.gateway.call_until("/github/search", token, 401).await;
            }
            _ => assert_eq!(
                scene.gateway.call("/github/search", token, &json!({})).await.status,
                200,
                "{name}"
            ),
        }
        let arrived = &scene.peer.requests()[before..];
        assert!(!arrived.is_empty(), "{name}");
        let signature = token.rsplit('.').next().unwrap();
        assert!(arrived.iter().all(|request| !request.text().contains(signature)), "{name}");
    }
    assert_eq!(accepted.len(), 5);
}

#[tokio::test]
async fn a_refused_vector_leaves_no_trace_at_the_server_or_in_what_the_gateway_writes() {
    let scene = Scene::new().await;
    let mut refused = vectors("reject");
    refused.extend(vectors("policy_choice"));
    assert_eq!(refused.len(), 21);
    for (name, token) in &refused {
        let token = token.as_str().unwrap();
        let (as_session, as_user) = codes(name);
        check(&scene.gateway.call("/github/search", token, &json!({})).await, 401, as_session, name);
        check(&scene.gateway.call("/github_search", token, &json!({})).await, 401, as_session, name);
        check(&scene.gateway.get("/", token).await, 401, as_session, name);
        let cookie = scene.get("/github").header("cookie", format!("token={token}"));
        check(&scene.gateway.send(cookie).await, 401, as_session, name);
        let query = scene.get(&format!("/github/openapi.json?key={token}"));
        // A query gets into logs: there it is no credential at all, whatever is wrong with it.
        check(&scene.gateway.send(query).await, 401, "invalid_credential", name);
        if let Some(as_user) = as_user {
            check(&scene.vouched(token).await, 401, as_user, name);
        }
    }
    assert_eq!(scene.peer.requests().len(), 0, "a refused request reached the server");

    let last = scene.get("/health").header("x-request-id", "the-last-one");
    assert_eq!(scene.gateway.send(last).await.status, 200);
    scene.gateway.stdout.find("the last record", |line| line.contains("the-last-one")).await;
    let written = scene.gateway.written();
    let parts = refused.values().flat_map(|token| token.as_str().unwrap().split('.'));
    for part in
        parts.filter(|part| part.len() >= 12).chain([VOUCHING_KEY, PLAIN_KEY, SESSION_SECRET, JANE_EMAIL])
    {
        assert!(!written.contains(part), "{part} was written");
    }
}
