//! Who is believed, over HTTP, against Open WebUI's real tables; and that nothing of a credential goes any further.

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::harness::{
    fake_peer::FakePeer,
    gateway::{Answer, Gateway, Setup},
    openwebui::{self, JANE, JANE_EMAIL, JANE_STAMP, PLAIN_KEY, VOUCHING_KEY, user_jwt},
    postgres::Database,
    raw::RawClient,
    tokens::{email_token, session_token},
};

mod travel;
mod vectors;

const GRANTS: &str = "\
    INSERT INTO user_tenant_access (user_email, tenant_id, access_level) VALUES ('jane.doe@example.com','github','read'); \
    INSERT INTO group_tenant_mapping (group_name, tenant_id) VALUES ('MCP-Services','nightly');";

/// A gateway with a server for Jane and one for the services.
struct Scene {
    database: Database,
    peer: FakePeer,
    gateway: Gateway,
}

impl Scene {
    async fn new() -> Self {
        let database = openwebui::database().await;
        let peer = FakePeer::start().await.with_json("search", json!({"found": []}));
        let setup = openwebui::setup(&database).set("log.filter", "debug");
        let setup = setup.server("github", &peer.url()).server("nightly", &peer.url());
        let gateway = setup.start().await;
        database.execute(GRANTS).await;
        gateway.await_grants(2).await;
        Self { database, peer, gateway }
    }

    fn search(&self) -> RequestBuilder {
        self.gateway
            .request(Method::POST, "/github/search")
            .header("content-type", "application/json")
            .body("{}")
    }

    async fn vouched(&self, user_jwt: &str) -> Answer {
        let request = self.search().bearer_auth(VOUCHING_KEY).header("x-openwebui-user-jwt", user_jwt);
        self.gateway.send(request).await
    }

    /// The ids of the servers that this request sees.
    async fn servers(&self, request: RequestBuilder) -> Vec<String> {
        let answer = self.gateway.send(request).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let listing = answer.json();
        let servers = listing["servers"].as_array().unwrap().iter();
        servers.map(|server| server["id"].as_str().unwrap().to_owned()).collect()
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.gateway.request(Method::GET, path)
    }
}

#[track_caller]
fn check(answer: &Answer, status: u16, code: &str, what: &str) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
    assert_eq!(answer.code(), code, "{what}");
}

#[tokio::test]
async fn a_service_is_itself_until_it_vouches_with_a_signature() {
    let scene = Scene::new().await;
    let jane = user_jwt(JANE, JANE_EMAIL);
    let list = |key: &str| scene.get("/servers").bearer_auth(key);
    let list_for = |key: &str, jwt: &str| list(key).header("x-openwebui-user-jwt", jwt);
    assert_eq!(scene.servers(list(VOUCHING_KEY)).await, ["nightly"]);
    assert_eq!(scene.servers(list(PLAIN_KEY)).await, ["nightly"]);
    assert_eq!(scene.servers(list_for(VOUCHING_KEY, &jane)).await, ["github"]);
    assert_eq!(scene.servers(list_for(PLAIN_KEY, &jane)).await, ["nightly"], "nobody asked the plain key");
    assert_eq!(scene.vouched(&jane).await.status, 200);
    check(
        &scene.gateway.send(scene.search().bearer_auth(PLAIN_KEY)).await,
        403,
        "not_granted",
        "the service",
    );
    let almost = format!("{VOUCHING_KEY}x");
    check(&scene.gateway.get("/", &almost).await, 401, "invalid_credential", "a wrong key");

    check(
        &scene.vouched(&user_jwt(JANE, "admin@example.com")).await,
        403,
        "identity_mismatch",
        "another email",
    );
    check(
        &scene.vouched(&user_jwt("nobody", JANE_EMAIL)).await,
        401,
        "revoked_credential",
        "an unknown user",
    );
    openwebui::add_user(&scene.database, "new", "new@example.com", None).await;
    scene.database.execute("UPDATE \"user\" SET role = 'pending' WHERE id = 'new'").await;
    check(
        &scene.vouched(&user_jwt("new", "new@example.com")).await,
        401,
        "revoked_credential",
        "a pending user",
    );
    assert_eq!(scene.peer.requests().len(), 1);
}

#[tokio::test]
async fn unsigned_user_headers_are_never_proof() {
    let scene = Scene::new().await;
    for (name, value) in [
        ("x-openwebui-user-email", JANE_EMAIL),
        ("x-openwebui-user-id", JANE),
        ("x-openwebui-user-name", "Jane"),
        ("X-OpenWebUI-User-Role", "admin"),
        ("X_OpenWebUI_User_Email", JANE_EMAIL),
    ] {
        let beside_key = scene.search().bearer_auth(VOUCHING_KEY).header(name, value);
        check(&scene.gateway.send(beside_key).await, 401, "invalid_credential", name);
        check(&scene.gateway.send(scene.search().header(name, value)).await, 401, "no_credential", name);
    }
    for (name, value) in
        [("x-user-email", JANE_EMAIL), ("x-user-admin", "true"), ("x-user-groups", "MCP-Admin")]
    {
        let alone = scene.search().header("x-user-email", JANE_EMAIL).header(name, value);
        let alone = if name == "x-user-email" { scene.search().header(name, value) } else { alone };
        check(&scene.gateway.send(alone).await, 401, "no_credential", name);
        let beside_key = scene.search().bearer_auth(PLAIN_KEY).header(name, value);
        check(&scene.gateway.send(beside_key).await, 403, "not_granted", name);
    }
    let email_in_query =
        scene.gateway.request(Method::POST, "/github/search?user_email=jane.doe@example.com");
    check(&scene.gateway.send(email_in_query).await, 401, "no_credential", "an email in the query");
    assert_eq!(scene.peer.requests().len(), 0);
}

#[tokio::test]
async fn a_user_named_beside_the_credential_must_be_its_own() {
    let scene = Scene::new().await;
    let (session, jwt) = (session_token(JANE, JANE_STAMP), user_jwt(JANE, JANE_EMAIL));
    let by_session = || scene.search().bearer_auth(&session);
    let by_voucher = || scene.search().bearer_auth(VOUCHING_KEY).header("x-openwebui-user-jwt", &jwt);
    for (email, is_own) in [("Jane.Doe@Example.COM", true), ("admin@example.com", false), ("", false)] {
        for request in [by_session(), by_voucher()] {
            let answer = scene.gateway.send(request.header("x-openwebui-user-email", email)).await;
            if is_own {
                assert_eq!(answer.status, 200, "{email}: {}", answer.text());
            } else {
                check(&answer, 403, "identity_mismatch", email);
                assert!(!answer.text().contains('@'), "{}", answer.text());
            }
        }
    }
    assert_eq!(scene.peer.requests().len(), 2);
}

#[tokio::test]
async fn a_repeated_identity_header_is_refused() {
    let scene = Scene::new().await;
    let authorization = format!("Authorization: Bearer {}\r\n", session_token(JANE, JANE_STAMP));
    let twice = |header: &str| format!("{authorization}{header}\r\n{header}\r\n");
    let mut client = RawClient::connect(&scene.gateway.address()).await;
    for headers in [
        format!("{authorization}{authorization}"),
        format!("{authorization}authorization: Bearer {VOUCHING_KEY}\r\n"),
        twice("X-OpenWebUI-User-Email: jane.doe@example.com"),
        twice(&format!("X-OpenWebUI-User-Jwt: {}", user_jwt(JANE, JANE_EMAIL))),
        twice("X-User-Groups: MCP-Admin"),
        twice("x_user_admin: true"),
        twice("X-Gateway-Secret: a"),
        twice("X-Entra-Oid: a"),
        twice("X-Tenant-Id: a"),
        twice("X-Auth-Source: a"),
    ] {
        let request = format!(
            "POST /github/search HTTP/1.1\r\nhost: gateway\r\n{headers}content-length: 2\r\n\r\n{{}}"
        );
        let answer = client.exchange(request).await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (400, Some("repeated_header")),
            "{headers}"
        );
    }
    assert_eq!(scene.peer.requests().len(), 0);
}

#[tokio::test]
async fn a_cookie_shows_pages_and_calls_nothing() {
    let scene = Scene::new().await;
    let cookie = format!("foo=bar; token={}", session_token(JANE, JANE_STAMP));
    for page in ["/", "/servers", "/tools", "/tenants", "/github", "/openapi.json", "/github/openapi.json"] {
        let answer = scene.gateway.send(scene.get(page).header("cookie", &cookie)).await;
        assert_eq!(answer.status, 200, "{page}: {}", answer.text());
    }
    for call in ["/github/search", "/github_search", "/refresh"] {
        let request = scene.gateway.request(Method::POST, call).header("cookie", &cookie).body("{}");
        check(&scene.gateway.send(request).await, 401, "no_credential", call);
    }
    let forged = scene.get("/").header("cookie", &cookie).bearer_auth("forged");
    check(
        &scene.gateway.send(forged).await,
        401,
        "invalid_credential",
        "a good cookie beside a forged token",
    );
    let two = scene.get("/").header("cookie", format!("{cookie}; token=other"));
    check(&scene.gateway.send(two).await, 400, "repeated_header", "two cookies");
    assert_eq!(scene.peer.requests().len(), 0);
}

#[tokio::test]
async fn a_key_in_the_query_opens_the_two_specifications_alone() {
    let scene = Scene::new().await;
    let with_key = |path: &str| scene.get(&format!("{path}?key={PLAIN_KEY}"));
    for page in ["/openapi.json", "/nightly/openapi.json"] {
        assert_eq!(scene.gateway.send(with_key(page)).await.status, 200, "{page}");
    }
    let foreign = scene.gateway.send(with_key("/github/openapi.json")).await;
    check(&foreign, 403, "not_granted", "another's specification");
    for page in ["/", "/servers", "/tools", "/tenants", "/nightly"] {
        check(&scene.gateway.send(with_key(page)).await, 401, "no_credential", page);
    }
    let call = scene.gateway.request(Method::POST, &format!("/nightly/search?key={PLAIN_KEY}")).body("{}");
    check(&scene.gateway.send(call).await, 401, "no_credential", "a call");
    assert_eq!(scene.peer.requests().len(), 0);
    scene.gateway.stdout.find("the last record", |line| line.contains("\"call\"")).await;
    assert!(!scene.gateway.written().contains(PLAIN_KEY), "a key in a query was written");
}

#[tokio::test]
async fn a_401_says_how_to_sign_in_and_which_request_it_was() {
    let scene = Scene::new().await;
    let expired = vectors::vector("reject", "expired");
    let challenge = r#"Bearer realm="portcullis""#;
    for (token, code, error) in [
        (None, "no_credential", ""),
        (Some("nonsense"), "invalid_credential", r#", error="invalid_token""#),
        (Some(expired.as_str()), "expired_credential", r#", error="invalid_token""#),
    ] {
        for path in ["/github/search", "/nowhere/search", "/github_search", "/refresh"] {
            let request =
                scene.gateway.request(Method::POST, path).header("x-request-id", "mine-1").body("{}");
            let request = token.into_iter().fold(request, |request, token| request.bearer_auth(token));
            let answer = scene.gateway.send(request).await;
            check(&answer, 401, code, path);
            assert_eq!(answer.header("www-authenticate"), Some(format!("{challenge}{error}").as_str()));
            assert_eq!(answer.header("x-request-id"), Some("mine-1"));
            assert_eq!(answer.header("content-type"), Some("application/json"));
            let body = answer.json();
            assert_eq!(body["request_id"], "mine-1");
            assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
            assert_eq!(body.as_object().unwrap().len(), 3, "{body}");
        }
    }
}

#[tokio::test]
async fn without_open_webuis_tables_a_session_must_name_its_user() {
    let database = Database::create().await;
    let peer = FakePeer::start().await.with_json("search", json!([]));
    let gateway = Setup::new(&database.url()).server("github", &peer.url()).start().await;
    database.execute(GRANTS).await;
    gateway.await_grants(2).await;
    let answer = gateway.call("/github/search", &email_token("Jane.Doe@example.com"), &json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    check(
        &gateway.call("/github/search", &email_token("eve@x.org"), &json!({})).await,
        403,
        "not_granted",
        "eve",
    );
    for token in [session_token(JANE, JANE_STAMP), email_token("no email"), email_token("")] {
        check(
            &gateway.call("/github/search", &token, &json!({})).await,
            401,
            "invalid_credential",
            "no email",
        );
    }
    assert_eq!(peer.requests().len(), 1);
}
