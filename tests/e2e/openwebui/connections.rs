//! The connections of `conf/openwebui/`, used as Open WebUI 0.12.4 uses them: what it sends is put together as its source
//! does (`build_tool_server_headers`) and laid out as its recorded requests are.

use serde::Deserialize;
use serde_json::{Value, json};

use super::database_with_jane;
use crate::harness::{
    entra::{self, Idp},
    fake_peer::FakePeer,
    gateway::Gateway,
    openwebui::{self, JANE, JANE_EMAIL, JANE_STAMP, PLAIN_KEY, VOUCHING_KEY, add_user, user_jwt},
    postgres::Database,
    raw::{RawAnswer, RawClient},
    tokens::session_token,
};

const EVE: &str = "eve";
const EVE_EMAIL: &str = "eve@example.com";
const JANES_KEY: &str = "sk-0123456789abcdef0123456789abcdef";
const EVES_KEY: &str = "sk-fedcba9876543210fedcba9876543210";

/// One entry of `TOOL_SERVER_CONNECTIONS`; a key that Open WebUI does not know is a mistake.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Connection {
    #[serde(rename = "type")]
    kind: String,
    url: String,
    path: String,
    spec_type: Option<String>,
    spec: Option<String>,
    auth_type: String,
    key: String,
    headers: Option<()>,
    forward_cookies: Option<bool>,
    config: Config,
    info: Info,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    enable: bool,
    function_name_filter_list: String,
    access_grants: Vec<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Info {
    id: String,
    name: String,
    description: String,
}

/// How Open WebUI names its user beside the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// `ENABLE_FORWARD_USER_INFO_HEADERS` is not set.
    Off,
    /// It is.
    Plain,
    /// And `FORWARD_USER_INFO_HEADER_JWT_SECRET` too.
    Signed,
}

/// Somebody chats: who they are, and what their own request to Open WebUI came with.
#[derive(Debug, Clone, Copy)]
struct Chat<'a> {
    user: (&'a str, &'a str),
    credential: &'a str,
    naming: Naming,
}

/// A gateway that believes everything Open WebUI can send, with a server for Jane and the services.
struct Scene {
    _database: Database,
    idp: Idp,
    peer: FakePeer,
    gateway: Gateway,
}

impl Scene {
    async fn new() -> Self {
        let database = database_with_jane().await;
        add_user(&database, EVE, EVE_EMAIL, Some(JANE_STAMP)).await;
        let keys = format!(
            "INSERT INTO config (key, value) VALUES ('auth.enable_api_keys', 'true'), \
                ('user.permissions', '{{\"features\": {{\"api_keys\": true}}}}'); \
             INSERT INTO api_key (id, user_id, key, created_at, updated_at) VALUES \
                ('key_jane', '{JANE}', '{JANES_KEY}', 1, 1), ('key_eve', '{EVE}', '{EVES_KEY}', 1, 1)"
        );
        database.execute(&keys).await;
        let idp = Idp::start().await;
        let peer = FakePeer::start().await.with_json("search", json!({"found": 1}));
        let setup = openwebui::setup(&database).entra(&idp).server("github", &peer.url());
        let gateway = setup.start().await;
        database
            .execute(
                "INSERT INTO user_tenant_access (user_email, tenant_id) VALUES ('jane.doe@example.com', 'github'); \
                 INSERT INTO group_tenant_mapping (group_name, tenant_id) VALUES ('MCP-Services', 'github')",
            )
            .await;
        gateway.await_grants(2).await;
        gateway.await_tools("github", 1).await;
        Self { _database: database, idp, peer, gateway }
    }

    /// The one connection of this file, its variables filled in.
    fn sample(&self, file: &str) -> Connection {
        let path = format!("{}/conf/openwebui/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let text = text
            .replace("${PORTCULLIS_URL}", &self.gateway.url(""))
            .replace("${OPENWEBUI_SERVICE_KEY}", VOUCHING_KEY)
            .replace("${OPENWEBUI_DOCUMENT_KEY}", PLAIN_KEY)
            .replace("${OPENWEBUI_API_KEY}", JANES_KEY);
        assert!(!text.contains("${"), "{path} wants another variable");
        let [connection] =
            <[Connection; 1]>::deserialize(&mut serde_json::Deserializer::from_str(&text)).unwrap();
        assert!(connection.config.enable && connection.config.function_name_filter_list.is_empty(), "{path}");
        let everybody = json!({"principal_type": "user", "principal_id": "*", "permission": "read"});
        assert_eq!(connection.config.access_grants, [everybody], "{path}");
        assert!(!connection.info.id.is_empty() && !connection.info.name.is_empty(), "{path}");
        assert!(!connection.info.description.is_empty() && connection.headers.is_none(), "{path}");
        if connection.kind == "openapi" {
            assert_eq!(
                (connection.spec_type.as_deref(), connection.spec.as_deref()),
                (Some("url"), Some(""))
            );
        }
        connection
    }

    async fn send(&self, bytes: String) -> RawAnswer {
        // Open WebUI opens a connection for every call.
        RawClient::connect(&self.gateway.address()).await.exchange(bytes).await
    }

    /// The document as Open WebUI fetches it: for nobody, and with a credential only where the connection has a key.
    async fn specification(&self, connection: &Connection) -> RawAnswer {
        let path = connection.path.trim_start_matches('/');
        let (base, host) = (connection.url.trim_end_matches('/'), self.gateway.address());
        let path = format!("{base}/{path}");
        let path = path.strip_prefix(&self.gateway.url("")).unwrap();
        let mut head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\n");
        head += "Content-Type: application/json\r\n";
        if connection.auth_type == "bearer" {
            head += &format!("Authorization: Bearer {}\r\n", connection.key);
        }
        head += "Accept-Encoding: identity\r\nUser-Agent: Python/3.11 aiohttp/3.14.5\r\n\r\n";
        self.send(head).await
    }

    /// A call of the only tool there is, found in the document.
    async fn call(&self, connection: &Connection, chat: Chat<'_>) -> RawAnswer {
        let base = connection.url.trim_end_matches('/').strip_prefix(&self.gateway.url("")).unwrap();
        let mut head = format!("POST {base}/github/search HTTP/1.1\r\nHost: {}\r\n", self.gateway.address());
        for (name, value) in chat.headers(connection) {
            head += &format!("{name}: {value}\r\n");
        }
        head += "Content-Type: application/json\r\nAccept: */*\r\nAccept-Encoding: identity\r\n";
        head += "User-Agent: Python/3.11 aiohttp/3.14.5\r\n";
        if connection.forward_cookies == Some(true) {
            head += &format!("Cookie: foo=bar; token={}\r\n", chat.credential);
        }
        self.send(format!("{head}Content-Length: 11\r\n\r\n{{\"q\": \"x\"}} ")).await
    }

    /// One request of MCP.
    async fn ask(&self, connection: &Connection, chat: Chat<'_>, method: &str, name: &str) -> RawAnswer {
        let path = connection.url.strip_prefix(&self.gateway.url("")).unwrap();
        let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "mcp", "version": "0.1.0"},
            "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}, "url": {}}}});
        let mut body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": meta}});
        let mut head = format!("POST {path} HTTP/1.1\r\nHost: {}\r\n", self.gateway.address());
        head += "Accept-Encoding: identity\r\nConnection: keep-alive\r\nUser-Agent: python-httpx2/2.16.0\r\n";
        for (name, value) in chat.headers(connection) {
            head += &format!("{name}: {value}\r\n");
        }
        head += "accept: application/json, text/event-stream\r\ncontent-type: application/json\r\n";
        head += &format!("mcp-protocol-version: 2026-07-28\r\nmcp-method: {method}\r\n");
        if !name.is_empty() {
            head += &format!("mcp-name: {name}\r\n");
            body["params"]["name"] = name.into();
            body["params"]["arguments"] = json!({"q": "x"});
        }
        let body = body.to_string();
        self.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).await
    }

    /// The scheme by which the gateway believed who sent a request.
    async fn scheme(&self, answer: &RawAnswer) -> String {
        let id = answer.head.header("x-request-id").unwrap();
        let line = self.gateway.stdout.find("its record", |line| line.contains(id)).await;
        serde_json::from_str::<Value>(&line).unwrap()["scheme"].as_str().unwrap_or_default().to_owned()
    }

    /// An access token of the identity provider for this user.
    fn entra_token(&self, email: &str) -> String {
        self.idp.token(&entra::User::new(email, "0a0a0a0a-1b1b-4c2c-8d3d-4e4e4e4e4e4e")).sign()
    }
}

impl Chat<'_> {
    fn headers(&self, connection: &Connection) -> Vec<(&'static str, String)> {
        let (id, email) = self.user;
        let mut headers = Vec::new();
        match connection.auth_type.as_str() {
            "bearer" => headers.push(("Authorization", format!("Bearer {}", connection.key))),
            // The credential the chatting user came with, or their token of the identity provider.
            "session" | "system_oauth" => {
                headers.push(("Authorization", format!("Bearer {}", self.credential)))
            }
            // No token has been got for this user.
            "oauth_2.1" | "oauth_2.1_static" | "none" => {}
            other => panic!("Open WebUI has no auth_type {other}"),
        }
        match self.naming {
            Naming::Off => return headers,
            Naming::Plain => headers.extend([
                ("X-OpenWebUI-User-Name", "Jan%C3%A9 Doe".to_owned()),
                ("X-OpenWebUI-User-Id", id.to_owned()),
                ("X-OpenWebUI-User-Email", email.to_owned()),
                ("X-OpenWebUI-User-Role", "user".to_owned()),
            ]),
            Naming::Signed => headers.push(("X-OpenWebUI-User-Jwt", user_jwt(id, email))),
        }
        headers.push(("X-OpenWebUI-Chat-Id", "121b6ccd-2b80-42a1-9afa-4393ddca9ba3".to_owned()));
        headers.push(("X-OpenWebUI-Message-Id", "d2b9aeaf-1942-44b7-b5f0-927d8c106df9".to_owned()));
        headers
    }
}

/// The files, how Open WebUI has to name its user with each, and by which scheme Jane is then believed.
async fn working(scene: &Scene) -> Vec<(&'static str, Naming, [String; 2], &'static str)> {
    let sessions = [session_token(JANE, JANE_STAMP), session_token(EVE, JANE_STAMP)];
    let keys = [JANES_KEY.to_owned(), EVES_KEY.to_owned()];
    let entra = [scene.entra_token(JANE_EMAIL), scene.entra_token(EVE_EMAIL)];
    let mut working = Vec::new();
    for file in ["service-key.json", "mcp-service-key.json"] {
        working.push((file, Naming::Signed, sessions.clone(), "vouched"));
    }
    for naming in [Naming::Off, Naming::Plain, Naming::Signed] {
        for file in ["session.json", "mcp-session.json"] {
            working.push((file, naming, sessions.clone(), "session"));
            // Who came to Open WebUI with an API key comes here with it.
            working.push((file, naming, keys.clone(), "api_key"));
        }
        for file in ["entra.json", "mcp-entra.json"] {
            working.push((file, naming, entra.clone(), "entra"));
        }
    }
    working
}

#[tokio::test]
async fn every_sample_lets_its_user_in_and_nobody_else() {
    let scene = Scene::new().await;
    for (file, naming, [janes, eves], scheme) in working(&scene).await {
        let connection = scene.sample(file);
        let jane = Chat { user: (JANE, JANE_EMAIL), credential: &janes, naming };
        let eve = Chat { user: (EVE, EVE_EMAIL), credential: &eves, naming };
        let what = format!("{file}, {naming:?}, {scheme}");
        let before = scene.peer.requests().len();
        let answer = if connection.kind == "mcp" {
            check_mcp(&scene, &connection, jane, eve, &what).await
        } else {
            let document = scene.specification(&connection).await;
            assert_eq!(document.status, 200, "{what}: {}", document.text());
            let paths = &document.json()["paths"];
            assert_eq!(paths["/github/search"]["post"]["operationId"], "github_search", "{what}: {paths}");
            let refused = scene.call(&connection, eve).await;
            assert_eq!(refused.json()["code"], "not_granted", "{what}");
            scene.call(&connection, jane).await
        };
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        assert!(answer.text().contains("found"), "{what}: {}", answer.text());
        assert_eq!(scene.scheme(&answer).await, scheme, "{what}");
        let arrived = &scene.peer.requests()[before..];
        assert_eq!(arrived.len(), 1, "{what}");
        assert!(!arrived[0].text().contains(JANE_EMAIL), "{what}: {}", arrived[0].text());
    }
}

/// What Open WebUI asks with every message: what there is, its tools, and then the call.
async fn check_mcp(
    scene: &Scene,
    connection: &Connection,
    jane: Chat<'_>,
    eve: Chat<'_>,
    what: &str,
) -> RawAnswer {
    let discovered = scene.ask(connection, jane, "server/discover", "").await;
    assert_eq!(discovered.status, 200, "{what}: {}", discovered.text());
    let tools = async |chat| {
        let listed = scene.ask(connection, chat, "tools/list", "").await;
        assert_eq!(listed.status, 200, "{what}: {}", listed.text());
        let tools = listed.json()["result"]["tools"].as_array().unwrap().clone();
        tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let name = if connection.url.ends_with("/github/mcp") { "search" } else { "github_search" };
    assert_eq!(tools(jane).await, [name], "{what}");
    assert!(tools(eve).await.is_empty(), "{what}");
    let refused = scene.ask(connection, eve, "tools/call", name).await;
    assert!(refused.json().get("error").is_some(), "{what}: {}", refused.text());
    // The name that the model sees has at most 64 characters, the connection's id among them.
    assert!(format!("{}_{name}", connection.info.id).len() <= 64);
    scene.ask(connection, jane, "tools/call", name).await
}

#[tokio::test]
async fn one_account_for_all_is_that_account_whoever_chats() {
    let scene = Scene::new().await;
    let connection = scene.sample("api-key.json");
    assert_eq!(scene.specification(&connection).await.status, 200);
    let session = session_token(EVE, JANE_STAMP);
    for naming in [Naming::Off, Naming::Signed] {
        let eve = Chat { user: (EVE, EVE_EMAIL), credential: &session, naming };
        let answer = scene.call(&connection, eve).await;
        assert_eq!(answer.status, 200, "{naming:?}: {}", answer.text());
        assert_eq!(scene.scheme(&answer).await, "api_key");
    }
    let eve = Chat { user: (EVE, EVE_EMAIL), credential: &session, naming: Naming::Plain };
    assert_eq!(scene.call(&connection, eve).await.json()["code"], "identity_mismatch");
}

#[tokio::test]
async fn a_service_key_is_its_user_only_where_open_webui_signs() {
    let scene = Scene::new().await;
    let connection = scene.sample("service-key.json");
    let session = session_token(JANE, JANE_STAMP);
    let chat = |naming| Chat { user: (JANE, JANE_EMAIL), credential: &session, naming };
    assert_eq!(scene.call(&connection, chat(Naming::Plain)).await.json()["code"], "invalid_credential");
    // Where no user is named at all, everybody is the service.
    let answer = scene.call(&connection, chat(Naming::Off)).await;
    assert_eq!((answer.status, scene.scheme(&answer).await.as_str()), (200, "service_key"));
}

#[tokio::test]
async fn auth_types_that_send_no_credential_reach_nothing() {
    let scene = Scene::new().await;
    let session = session_token(JANE, JANE_STAMP);
    for auth_type in ["none", "oauth_2.1", "oauth_2.1_static"] {
        for naming in [Naming::Off, Naming::Plain, Naming::Signed] {
            let mut connection = scene.sample("session.json");
            connection.auth_type = auth_type.into();
            let jane = Chat { user: (JANE, JANE_EMAIL), credential: &session, naming };
            assert_eq!(scene.call(&connection, jane).await.json()["code"], "no_credential", "{auth_type}");
            // The browser's cookies carry the session, and a call takes none from a cookie.
            connection.forward_cookies = Some(true);
            assert_eq!(scene.call(&connection, jane).await.json()["code"], "no_credential", "{auth_type}");
        }
    }
    // Without a key in its path, the document of such a connection is refused, and its tools are gone.
    for file in ["session.json", "entra.json"] {
        let mut connection = scene.sample(file);
        connection.path = "openapi.json".into();
        assert_eq!(scene.specification(&connection).await.json()["code"], "no_credential", "{file}");
    }
    assert_eq!(scene.peer.requests().len(), 0);
}

#[tokio::test]
async fn one_server_can_be_a_connection_of_its_own() {
    let scene = Scene::new().await;
    let session = session_token(JANE, JANE_STAMP);
    let others = session_token(EVE, JANE_STAMP);
    let mut connection = scene.sample("mcp-session.json");
    connection.url = scene.gateway.url("/github/mcp");
    let chat = |user, credential| Chat { user, credential, naming: Naming::Off };
    let (jane, eve) = (chat((JANE, JANE_EMAIL), session.as_str()), chat((EVE, EVE_EMAIL), others.as_str()));
    let answer = scene.ask(&connection, jane, "tools/call", "search").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(scene.ask(&connection, eve, "tools/list", "").await.status, 403);
}

#[test]
fn every_sample_is_used_here() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/openwebui");
    let names =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".json")).collect();
    names.sort_unstable();
    let used = [
        "api-key.json",
        "entra.json",
        "mcp-entra.json",
        "mcp-service-key.json",
        "mcp-session.json",
        "service-key.json",
        "session.json",
    ];
    assert_eq!(names, used);
}
