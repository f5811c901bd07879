//! The REST faces: who is answered what, on every endpoint, and that nobody sees what is not theirs.

use std::collections::BTreeSet;

use portcullis::{endpoints::TABLE, route::Page};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    fake_peer::FakePeer,
    gateway::{Answer, Gateway},
    grants::{ADMIN, CALLER, Grants, STRANGER},
    raw::RawClient,
    request::{get, head, post, post_with},
    tokens::email_token,
};

/// Names the caller has no business with: what is called so is not granted to them.
const FOREIGN: [&str; 4] = ["beta", "hidden_tool", "dark", "127.0.0.1"];

/// `alpha` and the switched-off `off` are the caller's; `beta` and the switched-off `dark` are not.
struct Scene {
    gateway: Gateway,
    alpha: FakePeer,
    _others: (FakePeer, Grants),
}

impl Scene {
    async fn start() -> Self {
        let grants = Grants::of(&["alpha", "off"]).await;
        let alpha =
            FakePeer::start().await.with_json("search", json!({"found": 1})).with_json("look", json!(2));
        let beta = FakePeer::start().await.with_json("hidden_tool", json!("hidden"));
        let off = || toml::Table::from_iter([("enabled".to_owned(), false.into())]);
        let setup = grants
            .setup()
            .server("alpha", &alpha.url())
            .server("beta", &beta.url())
            .server_with("off", "http://127.0.0.1:9", off())
            .server_with("dark", "http://127.0.0.1:9", off())
            .set("listen.max_wrapped_body_bytes", 2000);
        let gateway = setup.start().await;
        gateway.knows_tools("alpha", 2).await;
        gateway.knows_tools("beta", 1).await;
        Self { gateway, alpha, _others: (beta, grants) }
    }

    async fn ask(&self, who: Option<&str>, method: &str, path: &str) -> Answer {
        let request = self.gateway.request(Method::from_bytes(method.as_bytes()).unwrap(), path);
        let request = if method == "POST" { request.body("{}") } else { request };
        let request = match who {
            Some(email) => request.bearer_auth(email_token(email)),
            None => request,
        };
        self.gateway.send(request).await
    }
}

/// A status, and the code of a refusal (empty for an answer that is none).
type Expected = (u16, &'static str);

/// An endpoint or tool call, and what nobody, a stranger, the caller and an admin are answered.
type Stop = (Option<Page>, &'static str, &'static str, [Expected; 4]);

const OK: Expected = (200, "");
const WHO: Expected = (401, "no_credential");
const NO_GRANT: Expected = (403, "not_granted");
const NO_ADMIN: Expected = (403, "admin_only");
const OFF: Expected = (503, "server_disabled");
const NO_SERVER: Expected = (404, "unknown_server");
const NO_TOOL: Expected = (404, "unknown_tool");
const NOTHING: Expected = (404, "not_found");
const ARGUMENTS: Expected = (422, "bad_arguments");
const LABEL: Expected = (415, "unsupported_media_type");
const EVENTS: Expected = (406, "not_acceptable");
const METHOD: Expected = (405, "method_not_allowed");

const WALK: &[Stop] = &[
    (Some(Page::Health), "GET", "/health", [OK, OK, OK, OK]),
    (Some(Page::ProtectedResource), "GET", "/.well-known/oauth-protected-resource", [NOTHING; 4]),
    (Some(Page::ProtectedResource), "GET", "/.well-known/oauth-protected-resource/mcp", [NOTHING; 4]),
    (
        Some(Page::ProtectedResource),
        "GET",
        "/.well-known/oauth-protected-resource/{server}/mcp",
        [NOTHING; 4],
    ),
    (Some(Page::AuthorizationServer), "GET", "/.well-known/oauth-authorization-server", [NOTHING; 4]),
    (Some(Page::OpenIdConfiguration), "GET", "/.well-known/openid-configuration", [NOTHING; 4]),
    (Some(Page::OAuthAuthorize), "GET", "/oauth/authorize", [NOTHING; 4]),
    (Some(Page::OAuthToken), "POST", "/oauth/token", [NOTHING; 4]),
    (Some(Page::OAuthRegister), "POST", "/oauth/register", [NOTHING; 4]),
    (Some(Page::Servers), "GET", "/", [WHO, OK, OK, OK]),
    (Some(Page::Servers), "GET", "/servers", [WHO, OK, OK, OK]),
    (Some(Page::Tools), "GET", "/tools", [WHO, OK, OK, OK]),
    (Some(Page::Tenants), "GET", "/tenants", [WHO, OK, OK, OK]),
    (Some(Page::OpenApi), "GET", "/openapi.json", [WHO, OK, OK, OK]),
    (Some(Page::Server), "GET", "/{server}", [WHO, NO_GRANT, OK, OK]),
    (Some(Page::ServerOpenApi), "GET", "/{server}/openapi.json", [WHO, NO_GRANT, OK, OK]),
    (Some(Page::MetaSearch), "POST", "/meta/search_tools", [WHO, ARGUMENTS, ARGUMENTS, ARGUMENTS]),
    (Some(Page::MetaDescribe), "POST", "/meta/describe_tools", [WHO, ARGUMENTS, ARGUMENTS, ARGUMENTS]),
    (Some(Page::MetaCall), "POST", "/meta/call_tool", [WHO, ARGUMENTS, ARGUMENTS, ARGUMENTS]),
    (Some(Page::MetaStats), "GET", "/meta/stats", [WHO, OK, OK, OK]),
    (Some(Page::Refresh), "POST", "/refresh", [WHO, NO_ADMIN, NO_ADMIN, (202, "")]),
    (None, "POST", "/alpha/search", [WHO, NO_GRANT, OK, OK]),
    (None, "POST", "/alpha_search", [WHO, NO_GRANT, OK, OK]),
    (None, "POST", "/beta/hidden_tool", [WHO, NO_GRANT, NO_GRANT, OK]),
    (None, "POST", "/beta_hidden_tool", [WHO, NO_GRANT, NO_GRANT, OK]),
    (None, "GET", "/beta", [WHO, NO_GRANT, NO_GRANT, OK]),
    (None, "GET", "/beta/openapi.json", [WHO, NO_GRANT, NO_GRANT, OK]),
    // The grant is looked at before the switch, the switch before the tool.
    (None, "POST", "/off/anything", [WHO, NO_GRANT, OFF, OFF]),
    (None, "POST", "/dark/anything", [WHO, NO_GRANT, NO_GRANT, OFF]),
    (None, "GET", "/off", [WHO, NO_GRANT, OK, OK]),
    (None, "GET", "/off/openapi.json", [WHO, NO_GRANT, OFF, OFF]),
    (None, "POST", "/alpha/no_such_tool", [WHO, NO_GRANT, NO_TOOL, NO_TOOL]),
    (None, "POST", "/alpha_no_such_tool", [WHO, NO_GRANT, NO_TOOL, NO_TOOL]),
    (None, "POST", "/beta/no_such_tool", [WHO, NO_GRANT, NO_GRANT, NO_TOOL]),
    (None, "POST", "/nowhere/search", [WHO, NO_SERVER, NO_SERVER, NO_SERVER]),
    (None, "POST", "/nowhere_search", [WHO, NO_SERVER, NO_SERVER, NO_SERVER]),
    (None, "GET", "/nowhere", [WHO, NO_SERVER, NO_SERVER, NO_SERVER]),
    (None, "POST", "/meta/anything", [WHO, NO_SERVER, NO_SERVER, NO_SERVER]),
    (None, "GET", "/meta/call_tool", [WHO, METHOD, METHOD, METHOD]),
    (None, "GET", "/.well-known/oauth-authorization-server/alpha/mcp", [NOTHING; 4]),
    (None, "GET", "/.well-known/openid-configuration/alpha/mcp", [NOTHING; 4]),
    (None, "GET", "/alpha/mcp/.well-known/openid-configuration", [NOTHING; 4]),
    (None, "POST", "/oauth/anything", [WHO, NO_SERVER, NO_SERVER, NO_SERVER]),
    (None, "GET", "/a/b/c", [WHO, NOTHING, NOTHING, NOTHING]),
    // MCP of a server of REST, and of all: what is asked comes after who asks.
    (None, "POST", "/alpha/mcp", [WHO, NO_GRANT, LABEL, LABEL]),
    (None, "GET", "/alpha/mcp", [WHO, NO_GRANT, EVENTS, EVENTS]),
    (None, "DELETE", "/alpha/mcp", [WHO, NO_GRANT, METHOD, METHOD]),
    (None, "POST", "/beta/mcp", [WHO, NO_GRANT, NO_GRANT, LABEL]),
    (None, "POST", "/mcp", [WHO, LABEL, LABEL, LABEL]),
    (None, "GET", "/mcp", [WHO, EVENTS, EVENTS, EVENTS]),
    (None, "DELETE", "/mcp", [WHO, METHOD, METHOD, METHOD]),
    (None, "PUT", "/mcp", [WHO, METHOD, METHOD, METHOD]),
    (None, "POST", "/dark/mcp", [WHO, NO_GRANT, NO_GRANT, OFF]),
    (None, "POST", "/nowhere/mcp", [WHO, NO_SERVER, NO_SERVER, NO_SERVER]),
    (None, "PUT", "/alpha/mcp", [WHO, METHOD, METHOD, METHOD]),
    (None, "GET", "/alpha/", [NOTHING, NOTHING, NOTHING, NOTHING]),
    (None, "POST", "/alpha/search/", [NOTHING, NOTHING, NOTHING, NOTHING]),
    (None, "GET", "/alpha/search", [WHO, METHOD, METHOD, METHOD]),
    (None, "DELETE", "/servers", [WHO, METHOD, METHOD, METHOD]),
];

#[tokio::test]
async fn every_endpoint_answers_nobody_stranger_caller_and_admin_as_the_table_says() {
    let scene = Scene::start().await;
    for (_, method, template, expected) in WALK {
        let path = template.replace("{server}", "alpha");
        let callers = [None, Some(STRANGER), Some(CALLER), Some(ADMIN)];
        for (who, (status, code)) in callers.into_iter().zip(expected) {
            let answer = scene.ask(who, method, &path).await;
            let asked = format!("{method} {path} as {who:?}: {}", answer.text());
            assert_eq!(answer.status.as_u16(), *status, "{asked}");
            let id = answer.header("x-request-id").unwrap_or_else(|| panic!("no request id: {asked}"));
            if !code.is_empty() {
                let body = answer.json();
                let is_native = path.ends_with("/mcp") && *method != "PUT" && !path.starts_with("/.");
                let (refusal, sentence) = if is_native {
                    assert_eq!(keys(&body), ["error", "jsonrpc"], "{asked}");
                    assert_eq!(keys(&body["error"]["data"]), ["code", "request_id"], "{asked}");
                    (&body["error"]["data"], &body["error"]["message"])
                } else {
                    assert_eq!(keys(&body), ["code", "detail", "request_id"], "{asked}");
                    (&body, &body["detail"])
                };
                assert_eq!(
                    (refusal["code"].as_str(), &refusal["request_id"]),
                    (Some(*code), &json!(id)),
                    "{asked}"
                );
                assert!(!sentence.as_str().unwrap().contains('@'), "{asked}");
            }
            assert_eq!(answer.header("www-authenticate").is_some(), *status == 401, "{asked}");
        }
    }
    assert_eq!(scene.gateway.metrics().await.sum("portcullis_panics_total", &[]), 0.0);
}

#[test]
fn the_walk_has_every_path_of_every_endpoint() {
    for endpoint in TABLE {
        for path in endpoint.paths {
            let is_walked = WALK.iter().any(|(page, method, walked, _)| {
                *page == Some(endpoint.page) && *method == endpoint.method && walked == path
            });
            assert!(is_walked, "{} {path} is an endpoint and nobody walks it", endpoint.method);
        }
    }
    let walked = WALK.iter().filter(|(page, ..)| page.is_some()).count();
    assert_eq!(walked, TABLE.iter().map(|endpoint| endpoint.paths.len()).sum::<usize>());
}

/// Keys of an object, sorted.
fn keys(value: &Value) -> Vec<&str> {
    let names: BTreeSet<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    names.into_iter().collect()
}

#[tokio::test]
async fn the_pages_have_exactly_the_fields_of_the_contract() {
    let scene = Scene::start().await;
    let page = async |path: &str| scene.ask(Some(CALLER), "GET", path).await.json();

    for path in ["/", "/servers"] {
        let servers = page(path).await;
        assert_eq!(keys(&servers), ["by_tier", "servers", "total_servers", "usage"]);
        assert_eq!(
            (&servers["total_servers"], &servers["by_tier"]),
            (&json!(2), &json!({"local": ["alpha", "off"]}))
        );
        let alpha = json!({"id": "alpha", "name": "alpha", "tier": "local", "description": "a server of this test",
            "enabled": true, "endpoint": "/alpha", "tools_endpoint": "/alpha/openapi.json"});
        assert_eq!(servers["servers"][0], alpha);
        assert_eq!(
            (&servers["servers"][1]["id"], &servers["servers"][1]["enabled"]),
            (&json!("off"), &json!(false))
        );
    }

    let server = page("/alpha").await;
    let fields = ["description", "enabled", "name", "server", "tier", "tool_count", "tools", "usage"];
    assert_eq!(keys(&server), fields);
    assert_eq!((&server["server"], &server["tool_count"]), (&json!("alpha"), &json!(2)));
    let tool =
        json!({"name": "look", "description": "The tool look of a fake peer.", "endpoint": "/alpha/look"});
    assert_eq!(server["tools"][0], tool);
    let off = page("/off").await;
    assert_eq!((&off["enabled"], &off["tool_count"], &off["tools"]), (&json!(false), &json!(0), &json!([])));

    let tools = page("/tools").await;
    assert_eq!(tools["total_tools"], 2);
    let endpoints: Vec<_> = tools["tools"].as_array().unwrap().iter().map(|tool| &tool["endpoint"]).collect();
    assert_eq!(endpoints, ["/alpha/look", "/alpha/search"]);
    let tenants = page("/tenants").await;
    assert_eq!((&tenants["total_tenants"], &tenants["tenants"][0]["id"]), (&json!(2), &json!("alpha")));
    let health = page("/health").await;
    assert_eq!(
        health,
        json!({"status": "healthy", "service": "portcullis", "version": env!("CARGO_PKG_VERSION")})
    );

    let strangers = scene.ask(Some(STRANGER), "GET", "/").await.json();
    assert_eq!((&strangers["total_servers"], &strangers["by_tier"]), (&json!(0), &json!({})));
}

#[tokio::test]
async fn nothing_the_caller_is_shown_names_a_server_or_tool_that_is_not_theirs() {
    let scene = Scene::start().await;
    let pages = TABLE.iter().flat_map(|endpoint| endpoint.paths.iter().map(|path| (endpoint.method, *path)));
    let refused = [
        ("GET", "/beta"),
        ("GET", "/dark"),
        ("GET", "/beta/openapi.json"),
        ("POST", "/beta/hidden_tool"),
        ("POST", "/beta_hidden_tool"),
        ("POST", "/alpha/hidden_tool"),
        ("POST", "/dark/hidden_tool"),
        ("PUT", "/beta/hidden_tool"),
    ];
    for (method, path) in pages.chain(refused) {
        let answer = scene.ask(Some(CALLER), method, &path.replace("{server}", "alpha")).await;
        let shown = format!("{:?} {}", answer.headers, answer.text());
        for name in FOREIGN {
            assert!(!shown.contains(name), "{method} {path} shows `{name}`: {shown}");
        }
    }
    let all = scene.ask(Some(ADMIN), "GET", "/openapi.json").await.text();
    assert!(all.contains("/beta/hidden_tool"), "an admin sees every server: {all}");
}

#[tokio::test]
async fn a_head_request_is_answered_like_a_get_without_its_body() {
    let scene = Scene::start().await;
    let token = email_token(CALLER);
    let mut client = RawClient::connect(&scene.gateway.address()).await;
    for path in
        ["/", "/tools", "/alpha", "/openapi.json", "/alpha/openapi.json", "/health", "/beta", "/x/y/z"]
    {
        let got = client.exchange(get(path, &token)).await;
        client.send(head("HEAD", path, &token, &[])).await;
        // If a body followed, the next head would not be one.
        let (status, head) = client.read_head().await;
        assert_eq!(status, got.status, "HEAD {path}");
        for name in ["content-type", "etag", "cache-control"] {
            assert_eq!(head.header(name), got.head.header(name), "{name} of HEAD {path}");
        }
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let scene = Scene::start().await;
    for (method, path, allow) in [
        ("PUT", "/", "GET, HEAD"),
        ("POST", "/tools", "GET, HEAD"),
        ("DELETE", "/health", "GET, HEAD"),
        ("POST", "/alpha", "GET, HEAD"),
        ("OPTIONS", "/servers", "GET, HEAD"),
        ("GET", "/refresh", "POST"),
        ("GET", "/meta/search_tools", "POST"),
        ("POST", "/meta/stats", "GET, HEAD"),
        ("GET", "/alpha/search", "POST"),
        ("HEAD", "/alpha/search", "POST"),
        ("PATCH", "/alpha/search", "POST"),
        ("BREW", "/alpha/search", "POST"),
    ] {
        let answer = scene.ask(Some(CALLER), method, path).await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, Some(allow)), "{method} {path}");
    }
    assert_eq!(scene.alpha.requests().len(), 0);
}

#[tokio::test]
async fn the_request_id_is_the_client_s_own_where_it_is_a_plain_one() {
    let scene = Scene::start().await;
    let token = email_token(CALLER);
    let mut client = RawClient::connect(&scene.gateway.address()).await;
    for path in ["/health", "/", "/alpha/search", "/beta/x", "/a//b", "/x/y/z", "/off/x", "/alpha/"] {
        let mut ask = async |lines: &[&str]| {
            let answer = client.exchange(post_with(path, &token, lines, "{}")).await;
            let ids = answer.head.all("x-request-id").into_iter().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(ids.len(), 1, "request ids of POST {path}: {ids:?}");
            if answer.status >= 400 {
                assert_eq!(answer.json()["request_id"], ids[0], "POST {path}");
            }
            ids.concat()
        };
        assert_eq!(ask(&["X-Request-Id: from-the_client.1"]).await, "from-the_client.1");
        let made = [
            ask(&[]).await,
            ask(&["x-request-id: has space"]).await,
            ask(&[&format!("x-request-id: {}", "x".repeat(200))]).await,
            ask(&["x-request-id: one", "x-request-id: two"]).await,
        ];
        for id in &made {
            assert_eq!(uuid::Uuid::parse_str(id).unwrap().get_version_num(), 7, "POST {path}: {id}");
        }
        assert_eq!(BTreeSet::from(made).len(), 4);
    }
    assert_eq!(scene.alpha.requests()[0].head.header("x-request-id"), Some("from-the_client.1"));
}

#[tokio::test]
async fn a_refusal_keeps_the_connection_for_the_next_request() {
    let scene = Scene::start().await;
    let token = &email_token(CALLER);
    let too_large = json!({"arguments": {"text": "x".repeat(2000)}}).to_string();
    let big_header = format!("x-big: {}", "x".repeat(40_000));
    let chunks = ["content-type: application/json", "transfer-encoding: chunked"];
    let refused: Vec<(u16, Vec<u8>)> = vec![
        (401, get("/", "").into()),
        (401, post("/alpha/search", "", "{}")),
        (401, post("/alpha/search", "not.a.token", "{}")),
        (401, post("/alpha/search", "", "x".repeat(100_000))),
        (401, [head("POST", "/alpha/search", "", &chunks), "2\r\n{}\r\n0\r\n\r\n".into()].concat().into()),
        (400, get("/alpha//search", token).into()),
        (400, post("/alpha/search", token, "not json")),
        (403, get("/beta", token).into()),
        (403, post("/beta/hidden_tool", token, "{}")),
        (403, post("/refresh", token, "{}")),
        (404, post("/alpha/no_such_tool", token, "{}")),
        (404, post("/nowhere/search", token, "{}")),
        (404, post("/alpha/search/", token, "{}")),
        (405, head("PUT", "/servers", token, &["content-length: 0"]).into()),
        (413, post("/alpha/search", token, &too_large)),
        (415, post_with("/alpha/search", token, &["content-encoding: gzip"], "{}")),
        (415, post("/alpha/search", token, b"\"\xff\"")),
        (431, head("GET", "/", token, &[&big_header]).into()),
        (503, post("/off/anything", token, "{}")),
    ];
    for (status, request) in refused {
        let named = String::from_utf8_lossy(&request[..60.min(request.len())]).into_owned();
        let mut client = RawClient::connect(&scene.gateway.address()).await;
        let answer = client.exchange(&request).await;
        assert_eq!(answer.status, status, "{named}: {}", answer.text());
        assert_ne!(answer.head.header("connection"), Some("close"), "{named}");
        let next = client.exchange(post("/alpha/search", token, "{}")).await;
        assert_eq!((next.status, next.json()), (200, json!({"found": 1})), "after {named}");
    }
    assert!(scene.alpha.requests().iter().all(|request| request.body == b"{}"));
}
