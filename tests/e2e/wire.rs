//! Every request that a real Open WebUI 0.12.4 was recorded sending, sent again, byte for byte.
//!
//! Only `Host` is another one, and tokens are signed again with a later expiry. Behind the gateway is the real
//! mcp-server-time.

use std::{collections::BTreeMap, io::Read};

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{
    fake_peer::FakePeer,
    gateway::Gateway,
    openwebui::{self, JANE},
    postgres::{Database, given},
    raw::{RawAnswer, RawClient},
    tokens::{FORWARD_SECRET, SESSION_SECRET, now, sign},
};

/// The key of the connections that were recorded.
const SERVICE_KEY: &str = "gw-service-key";
const ADMIN: &str = "6181449d-6f69-481d-b20b-d9c96d234d78";
const ADMIN_STAMP: &str = "55e37bb2-4d18-420a-8cb8-30c115fc37ce";
/// The stamp of Jane's sessions in the later recordings.
const LATER_STAMP: &str = "ea965520-0a15-440d-9c1e-0d182b143faf";

/// A recorded request.
#[derive(Deserialize)]
struct Recorded {
    tag: String,
    request_line: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Recorded {
    /// All of them, by their number.
    fn all() -> BTreeMap<u32, Self> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/openwebui/wire");
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let read = |path: std::path::PathBuf| {
            let number = path.file_name().unwrap().to_str().unwrap()[..3].parse().unwrap();
            (number, serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap())
        };
        files.map(read).collect()
    }

    /// The bytes for this gateway, with these headers in addition.
    fn bytes(&self, gateway: &Gateway, more: &[(&str, &str)]) -> Vec<u8> {
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut head = format!("{}\r\n", self.request_line);
        for (name, value) in own.chain(more.iter().copied()) {
            let value = if name == "Host" { gateway.address() } else { signed_again(value) };
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        [head.as_bytes(), b"\r\n", self.body.as_bytes()].concat()
    }

    async fn send(&self, gateway: &Gateway, more: &[(&str, &str)]) -> RawAnswer {
        // Open WebUI opens a connection for every call.
        RawClient::connect(&gateway.address()).await.exchange(self.bytes(gateway, more)).await
    }
}

/// The value with a token in it signed again, to be good for an hour; other values as they are.
fn signed_again(value: &str) -> String {
    let (before, token) = value.split_at(value.find("eyJ").unwrap_or(value.len()));
    let mut any_time = Validation::new(Algorithm::HS256);
    any_time.validate_exp = false;
    any_time.validate_aud = false;
    any_time.required_spec_claims.clear();
    for secret in [SESSION_SECRET, FORWARD_SECRET] {
        let key = DecodingKey::from_secret(secret.as_bytes());
        if let Ok(recorded) = jsonwebtoken::decode::<Value>(token, &key, &any_time) {
            let mut claims = recorded.claims;
            claims["exp"] = json!(now(3600));
            return format!("{before}{}", sign(&claims, secret));
        }
    }
    assert!(token.is_empty(), "a recorded token is signed with neither secret: {value}");
    value.to_owned()
}

struct Scene {
    database: Database,
    items: FakePeer,
    gateway: Gateway,
}

impl Scene {
    /// Jane may use `time` and `items` by name, the service by its group, and the admin everything.
    async fn new() -> Self {
        let database = openwebui::database().await;
        openwebui::add_user(&database, ADMIN, "admin@example.com", Some(ADMIN_STAMP)).await;
        openwebui::add_group(&database, "MCP-Admin", None).await;
        openwebui::join(&database, ADMIN, "MCP-Admin").await;
        let items = FakePeer::start().await.with_json("7", json!([])).with_json("body", json!([]));
        let key: String = Sha256::digest(SERVICE_KEY).iter().map(|byte| format!("{byte:02x}")).collect();
        let setup = openwebui::setup(&database)
            .set("auth.service_keys.recorded.key_sha256", key)
            .set("auth.service_keys.recorded.may_vouch", true)
            .set("auth.service_keys.recorded.groups", vec!["MCP-Services"])
            .server("time", &given("PORTCULLIS_TEST_MCPO_TIME"))
            .server("items", &items.url());
        let gateway = setup.start().await;
        database
            .execute(
                "INSERT INTO user_tenant_access (user_email, tenant_id) \
                 VALUES ('jane.doe@example.com','time'), ('jane.doe@example.com','items'); \
                 INSERT INTO group_tenant_mapping (group_name, tenant_id) VALUES ('MCP-Services','time');",
            )
            .await;
        gateway.await_grants(3).await;
        gateway.await_tools("time", 2).await;
        gateway.await_tools("items", 2).await;
        Self { database, items, gateway }
    }
}

/// What a recorded request is answered with while Jane's stamp is that of the earlier recordings.
fn expected(number: u32) -> (u16, Option<&'static str>) {
    match number {
        // Specifications with a credential; calls with a session, and with the key and a signed user.
        3 | 7 | 73 | 90 | 93 | 18 | 21 | 25 | 26 | 66 | 68 => (200, None),
        // Without a credential: specifications, calls, methods and paths that are none.
        2 | 4..=6 | 8 | 9 | 71 | 91 | 92 | 94..=97 | 100 | 101 | 104 | 106 | 109 => {
            (401, Some("no_credential"))
        }
        19 | 22 | 23 | 27 | 28 | 30 | 31 | 33 | 67 | 70 => (401, Some("no_credential")),
        99 | 102 | 103 | 107 | 110 => (401, Some("no_credential")),
        // The key beside a user whose name nobody signed; keys nobody knows; an API key of Open WebUI.
        20 | 24 | 69 | 72 | 111 => (401, Some("invalid_credential")),
        // Paths that two parsers could read differently.
        29 | 32 => (400, Some("bad_path")),
        // The stamp of a later session.
        98 | 105 | 108 => (401, Some("revoked_credential")),
        _ => panic!("nobody has said what recording {number} is answered with"),
    }
}

#[tokio::test]
async fn every_recorded_request_is_answered_as_its_credential_deserves() {
    let scene = Scene::new().await;
    let recordings = Recorded::all();
    assert_eq!(recordings.len(), 54);
    for (number, recorded) in &recordings {
        let what = format!("{number} ({}) {}", recorded.tag, recorded.request_line);
        let answer = recorded.send(&scene.gateway, &[]).await;
        let (status, code) = expected(*number);
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        match code {
            Some(code) => {
                assert_eq!(answer.json()["code"], code, "{what}");
                assert_eq!(answer.head.header("www-authenticate").is_some(), status == 401, "{what}");
            }
            None if recorded.request_line.starts_with("POST") => check_time(&answer, &what),
            None => assert!(!document(&answer)["paths"].as_object().unwrap().is_empty(), "{what}"),
        }
    }
    assert_eq!(scene.items.requests().len(), 0);
}

/// The answer that Open WebUI hands to its model: JSON, and not a stream of events.
#[track_caller]
fn check_time(answer: &RawAnswer, what: &str) {
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    assert_eq!(answer.head.header("content-type"), Some("application/json"), "{what}");
    assert_eq!(answer.json()["timezone"], "UTC", "{what}");
}

#[tokio::test]
async fn recordings_of_the_later_session_succeed_once_it_is_the_present_one() {
    let scene = Scene::new().await;
    let recordings = Recorded::all();
    assert_eq!(recordings[&18].send(&scene.gateway, &[]).await.status, 200);
    scene
        .database
        .execute(&format!("UPDATE auth SET session_stamp = '{LATER_STAMP}' WHERE id = '{JANE}'"))
        .await;
    let later = crate::harness::tokens::session_token(JANE, LATER_STAMP);
    scene.gateway.call_until("/time/get_current_time", &later, 422).await;
    for number in [98, 105] {
        check_time(&recordings[&number].send(&scene.gateway, &[]).await, "the later session");
    }
    assert_eq!(recordings[&18].send(&scene.gateway, &[]).await.json()["code"], "revoked_credential");
    // A connection whose URL has the server in it already, with paths that have it too.
    assert_eq!(recordings[&108].send(&scene.gateway, &[]).await.json()["code"], "not_found");
}

#[tokio::test]
async fn a_recorded_api_key_is_its_user_once_open_webui_has_it() {
    let scene = Scene::new().await;
    let recorded = &Recorded::all()[&69];
    let key = recorded.headers.iter().find_map(|(_, value)| value.strip_prefix("Bearer ")).unwrap();
    let made = format!(
        "UPDATE \"user\" SET role = 'admin' WHERE id = '{ADMIN}'; \
         INSERT INTO config (key, value) VALUES ('auth.enable_api_keys', 'true'); \
         INSERT INTO api_key (id, user_id, key, created_at, updated_at) VALUES ('k', '{ADMIN}', '{key}', 1, 1)"
    );
    scene.database.execute(&made).await;
    check_time(&recorded.send(&scene.gateway, &[]).await, "an API key");
}

#[tokio::test]
async fn other_methods_and_encoded_paths_are_refused_even_with_a_credential() {
    let scene = Scene::new().await;
    let recordings = Recorded::all();
    let authorization =
        format!("Bearer {}", crate::harness::tokens::session_token(JANE, openwebui::JANE_STAMP));
    let session = [("Authorization", authorization.as_str())];
    for (number, status, code) in [
        (29, 400, "bad_path"),
        (30, 405, "method_not_allowed"),
        (31, 405, "method_not_allowed"),
        (32, 400, "bad_path"),
        (33, 404, "unknown_server"),
        (27, 404, "unknown_tool"),
        (28, 404, "unknown_tool"),
        (99, 405, "method_not_allowed"),
    ] {
        let answer = recordings[&number].send(&scene.gateway, &session).await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (status, Some(code)),
            "recording {number}"
        );
        assert_eq!(answer.head.header("allow"), (status == 405).then_some("POST"), "recording {number}");
    }
    assert_eq!(scene.items.requests().len(), 0);
}

/// The body as it was before it was packed.
fn document(answer: &RawAnswer) -> Value {
    let mut plain = Vec::new();
    match answer.head.header("content-encoding") {
        None => plain.clone_from(&answer.body),
        Some("gzip") => {
            flate2::read::GzDecoder::new(&answer.body[..]).read_to_end(&mut plain).unwrap();
        }
        Some("br") => {
            brotli::Decompressor::new(&answer.body[..], 4096).read_to_end(&mut plain).unwrap();
        }
        Some(other) => panic!("packed with {other}, which nobody asked for"),
    }
    serde_json::from_slice(&plain).unwrap()
}

/// The properties of an operation's body, found as Open WebUI finds them: `$ref` within `components`.
fn properties(document: &Value, operation: &Value) -> Vec<String> {
    let mut schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    while let Some(target) = schema["$ref"].as_str() {
        schema = document
            .pointer(target.strip_prefix('#').expect("a local reference"))
            .expect("a dangling reference");
    }
    schema["properties"].as_object().expect("a body without properties").keys().cloned().collect()
}

#[tokio::test]
async fn the_specification_open_webui_fetches_gives_tools_it_can_call() {
    let scene = Scene::new().await;
    let recordings = Recorded::all();
    let no_key = &recordings[&2];
    let by_query = |path: &str| Recorded {
        tag: no_key.tag.clone(),
        request_line: format!("GET {path}?key={SERVICE_KEY} HTTP/1.1"),
        headers: no_key.headers.clone(),
        body: String::new(),
    };
    // Connections to the gateway as a whole, with the key as bearer and in the path of the specification.
    let fetches = [
        recordings[&3].send(&scene.gateway, &[]).await,
        by_query("/openapi.json").send(&scene.gateway, &[]).await,
    ];
    for answer in &fetches {
        check_specification(&scene, answer, "").await;
    }
    // A connection to one server, whose URL has the server in it.
    let one = by_query("/time/openapi.json").send(&scene.gateway, &[]).await;
    check_specification(&scene, &one, "/time").await;
}

/// Exactly the two tools of `time`, each called below `base` as Open WebUI would call it.
async fn check_specification(scene: &Scene, answer: &RawAnswer, base: &str) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.head.header("content-type"), Some("application/json"));
    let document = document(answer);
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 2, "{document}");
    let jwt = openwebui::user_jwt(JANE, openwebui::JANE_EMAIL);
    for (path, operations) in paths {
        let (method, operation) = operations.as_object().unwrap().iter().next().unwrap();
        assert_eq!((method.as_str(), operations.as_object().unwrap().len()), ("post", 1));
        assert!(operation["description"].as_str().is_some_and(|text| !text.is_empty()));
        let (arguments, expected): (Value, &[&str]) = match operation["operationId"].as_str().unwrap() {
            "time_get_current_time" => (json!({"timezone": "UTC"}), &["timezone"]),
            "time_convert_time" => (
                json!({"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}),
                &["source_timezone", "target_timezone", "time"],
            ),
            other => panic!("a tool nobody has: {other}"),
        };
        let mut properties = properties(&document, operation);
        properties.sort_unstable();
        assert_eq!(properties, expected);
        let call = scene.gateway.call_request(&format!("{base}{path}"), SERVICE_KEY, &arguments);
        let called = scene.gateway.send(call.header("x-openwebui-user-jwt", &jwt)).await;
        assert_eq!(called.status, 200, "{base}{path}: {}", called.text());
        assert!(called.text().contains("UTC"), "{}", called.text());
    }
}
