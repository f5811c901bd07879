//! What crosses the gateway, byte for byte, and what does not: statuses, bodies, cuts, leaving, headers.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::harness::{
    deadline::within,
    gateway::{Answer, client},
    grants::{CALLER, Grants},
    mcp::{Fixture, LEGACY, MODERN, Scene},
    raw::RawClient,
    raw_peer::RawPeer,
    request::post_with,
    tokens::email_token,
    wire::{answer, chunk},
};

const ACCEPT: &str = "application/json, text/event-stream";

/// One end at which the same server is called: itself, or the gateway in front of it.
pub struct End {
    pub url: String,
    pub token: Option<String>,
    client: reqwest::Client,
}

impl End {
    /// The server itself.
    pub fn beside(url: String) -> Self {
        Self { url, token: None, client: client() }
    }

    /// The gateway, as this caller.
    pub fn through(url: String, token: &str) -> Self {
        Self { url, token: Some(token.to_owned()), client: client() }
    }

    /// A request with these headers.
    pub fn request(&self, method: Method, headers: &[(&str, &str)]) -> RequestBuilder {
        let request = self.client.request(method, &self.url);
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    }

    /// A POST of this message with these headers besides the usual ones.
    pub async fn post(&self, headers: &[(&str, &str)], message: &Value) -> Response {
        let usual = [("accept", ACCEPT), ("content-type", "application/json")];
        let headers: Vec<_> = usual.into_iter().chain(headers.iter().copied()).collect();
        let request = self.request(Method::POST, &headers).body(message.to_string());
        within("the head of an answer", request.send()).await.unwrap()
    }

    /// Begins a session of the last revision that has them: its id.
    pub async fn session(&self) -> String {
        let hello = json!({"protocolVersion": LEGACY, "capabilities": {"elicitation": {}},
            "clientInfo": {"name": "wire", "version": "1"}});
        let began = self.post(&[], &request(1, "initialize", hello)).await;
        assert_eq!(began.status(), 200);
        let id = began.headers()["mcp-session-id"].to_str().unwrap().to_owned();
        let told = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(self.in_session(&id, &told).await.status(), 202);
        id
    }

    /// A POST of this message in a session.
    pub async fn in_session(&self, id: &str, message: &Value) -> Response {
        self.post(&[("mcp-session-id", id), ("mcp-protocol-version", LEGACY)], message).await
    }

    /// The standing stream of a session.
    pub async fn listen(&self, id: &str) -> Response {
        let headers =
            [("accept", "text/event-stream"), ("mcp-session-id", id), ("mcp-protocol-version", LEGACY)];
        within("the head of a stream", self.request(Method::GET, &headers).send()).await.unwrap()
    }

    /// Ends a session.
    pub async fn leave(&self, id: &str) -> Response {
        let request = self.request(Method::DELETE, &[("mcp-session-id", id)]);
        within("the end of a session", request.send()).await.unwrap()
    }

    /// A POST of a request that stands alone.
    pub async fn modern(&self, method: &str, name: Option<&str>, parameters: Value) -> Response {
        let mut headers = vec![("mcp-protocol-version", MODERN), ("mcp-method", method)];
        headers.extend(name.map(|name| ("mcp-name", name)));
        self.post(&headers, &modern_request(method, parameters)).await
    }
}

/// A JSON-RPC request.
pub fn request(id: u64, method: &str, parameters: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": parameters})
}

/// A call of a tool whose progress is wanted.
pub fn call(id: u64, tool: &str, arguments: Value) -> Value {
    request(id, "tools/call", json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": id}}))
}

/// A request of the newest revision.
pub fn modern_request(method: &str, mut parameters: Value) -> Value {
    parameters["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {}, "progressToken": 7});
    request(7, method, parameters)
}

/// The next piece of a stream of events.
pub async fn next_piece(stream: &mut Response) -> String {
    let piece = within("an event", stream.chunk()).await.unwrap().expect("the stream has ended");
    String::from_utf8(piece.to_vec()).unwrap()
}

/// Reads a stream until this stands in it: all that was read.
pub async fn read_until(stream: &mut Response, what: &str) -> String {
    let mut read = String::new();
    while !read.contains(what) {
        read += &next_piece(stream).await;
    }
    read
}

async fn ends(options: &[&str]) -> (Fixture, Scene, End, End) {
    let fixture = Fixture::with(options).await;
    let scene = Scene::in_front_of(&fixture.url("/mcp")).await;
    let (beside, through) = (End::beside(fixture.url("/mcp")), End::through(scene.url(), &scene.token));
    (fixture, scene, beside, through)
}

/// Both ends answered the same.
#[track_caller]
fn assert_same(what: &str, through: &Answer, beside: &Answer, status: u16) {
    assert_eq!(beside.status, status, "{what}, beside: {}", beside.text());
    assert_eq!((through.status, through.text()), (beside.status, beside.text()), "{what}");
    for name in ["content-type", "allow", "cache-control"] {
        assert_eq!(through.header(name), beside.header(name), "{what}: {name}");
    }
}

async fn read(response: Response) -> Answer {
    Answer::read(response).await
}

#[tokio::test]
async fn what_a_server_refuses_arrives_as_it_said_it() {
    let (_fixture, _scene, beside, through) = ends(&[]).await;
    let list = request(2, "tools/list", json!({}));
    let one_kind = [("accept", "application/json"), ("content-type", "application/json")];
    let answers = async |end: &End| {
        let session = end.session().await;
        let unaccepted = end.request(Method::POST, &one_kind).body(list.to_string());
        let no_events =
            end.request(Method::GET, &[("accept", "application/json"), ("mcp-session-id", &session)]);
        vec![
            ("a request outside a session", 400, read(end.post(&[], &list).await).await),
            ("an answer of one kind only", 406, read(unaccepted.send().await.unwrap()).await),
            ("a stream that is not accepted", 406, read(no_events.send().await.unwrap()).await),
            (
                "a method nobody knows",
                200,
                read(end.in_session(&session, &request(3, "nothing", json!({}))).await).await,
            ),
            (
                "a method the newest revision lacks",
                404,
                read(end.modern("ping", None, json!({})).await).await,
            ),
            (
                "a revision nobody speaks",
                400,
                read(
                    end.post(&[("mcp-session-id", &session), ("mcp-protocol-version", "1999-01-01")], &list)
                        .await,
                )
                .await,
            ),
            (
                "a notification",
                202,
                read(
                    end.in_session(
                        &session,
                        &json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}),
                    )
                    .await,
                )
                .await,
            ),
            (
                "a tool nobody knows",
                200,
                read(end.in_session(&session, &call(4, "nothing", json!({}))).await).await,
            ),
            ("the end", 200, read(end.leave(&session).await).await),
        ]
    };
    let (at_server, at_gateway) = (answers(&beside).await, answers(&through).await);
    for ((what, status, through), (_, _, beside)) in at_gateway.iter().zip(&at_server) {
        assert_same(what, through, beside, *status);
    }
}

#[tokio::test]
async fn a_server_without_sessions_has_no_streams_of_its_own_for_clients_without_one() {
    let (_fixture, _scene, _beside, through) = ends(&["--era", "modern"]).await;
    for method in [Method::GET, Method::DELETE] {
        let request = through.request(method.clone(), &[("accept", "text/event-stream")]);
        let answer = within("an answer", request.send()).await.unwrap();
        // Once the server's era is known the gateway speaks for it, and may have a stream of its own to tell of changes.
        let is_own_stream = method == Method::GET
            && answer.status() == 200
            && answer.headers()["content-type"] == "text/event-stream";
        // Sessions here are the gateway's: it may say that one is missing, or that there is no such method.
        let is_refused = matches!(answer.status().as_u16(), 400 | 404 | 405);
        assert!(is_refused || is_own_stream, "{method}: {}", answer.status());
    }
}

#[tokio::test]
async fn a_session_that_the_server_has_ended_is_gone_in_the_server_s_own_words() {
    let (_fixture, _scene, beside, through) = ends(&[]).await;
    let id = through.session().await;
    let who = read(through.in_session(&id, &call(2, "whoami", json!({}))).await).await.json();
    let who: Value = serde_json::from_str(who["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
    let own = who["session"].as_str().unwrap();
    assert_ne!(own, id, "the server's own id reached the client");
    assert_eq!(beside.leave(own).await.status(), 200);
    let list = request(3, "tools/list", json!({}));
    let (through, beside) =
        (read(through.in_session(&id, &list).await).await, read(beside.in_session(own, &list).await).await);
    assert_same("a call", &through, &beside, 404);
}

#[tokio::test]
async fn a_cut_stream_is_cut_for_the_client_too_and_the_gateway_goes_on() {
    let (_fixture, scene, _beside, through) = ends(&[]).await;
    let id = through.session().await;
    let cut = through.in_session(&id, &call(2, "die", json!({}))).await;
    assert_eq!(cut.status(), 200);
    assert!(within("the cut", cut.bytes()).await.is_err(), "a cut stream came to a good end");
    let cut = through.modern("tools/call", Some("die"), json!({"name": "die", "arguments": {}})).await;
    assert!(within("the cut", cut.bytes()).await.is_err(), "a cut stream came to a good end");
    let echoed = read(through.in_session(&id, &call(3, "echo", json!({"message": "still"}))).await).await;
    assert_eq!(echoed.json()["result"]["structuredContent"], json!({"message": "still"}));
    assert_eq!(scene.gateway.readiness().await, 200);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_a_call_of_the_newest_revision() {
    let (fixture, _scene, _beside, through) = ends(&[]).await;
    let arguments = json!({"name": "slow", "arguments": {"ms": 60_000, "step": 50}});
    let mut stream = through.modern("tools/call", Some("slow"), arguments).await;
    read_until(&mut stream, "notifications/progress").await;
    assert_eq!(fixture.count("cancelled").await, 0);
    drop(stream);
    fixture.await_count("cancelled", 1).await;
}

#[tokio::test]
async fn a_client_that_leaves_does_not_cancel_a_call_in_a_session_and_can_come_back_for_the_answer() {
    let (fixture, _scene, _beside, through) = ends(&[]).await;
    let id = through.session().await;
    let mut stream = through.in_session(&id, &call(2, "slow", json!({"ms": 1500, "step": 100}))).await;
    let read = read_until(&mut stream, "notifications/progress").await;
    let last = read.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap();
    drop(stream);
    fixture.await_count("finished", 1).await;
    assert_eq!(fixture.count("cancelled").await, 0);

    let headers = [("accept", "text/event-stream"), ("mcp-session-id", &*id), ("last-event-id", last)];
    let resumed =
        within("the rest of a stream", through.request(Method::GET, &headers).send()).await.unwrap();
    let rest = Answer::read(resumed).await.text();
    assert!(rest.contains("slept 1500") && rest.contains("\"progress\":1400"), "{rest}");
    assert!(!rest.contains("\"progress\":0,"), "what was read already came again: {rest}");
}

#[tokio::test]
async fn a_stream_passes_at_once_and_in_the_server_s_own_spelling() {
    let peer = RawPeer::with_tools(&[]).await;
    let scene = Scene::in_front_of(&format!("{}/mcp", peer.url())).await;
    let mut client = RawClient::connect(&scene.gateway.address()).await;
    let lines = ["accept: application/json, text/event-stream", "content-type: application/json"];
    let message =
        r#"{ "jsonrpc":"2.0", "id" : 1.0, "method":"tools/call","params":{"name":"é\u0301","arguments":{}}}"#;
    client.send(post_with("/native/mcp", &scene.token, &lines, message)).await;
    let mut call = peer.call().await;
    assert_eq!(call.read_body().await, message.as_bytes());
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    call.send(head).await;
    assert_eq!(client.read_head().await.0, 200);
    // Comments, every end of a line, unusual fields, a character in two pieces, an event without its end.
    let snowman = "☃".as_bytes();
    let pieces: [&[u8]; 8] = [
        b": keep-alive\n\n",
        b"\xef\xbb\xbfid:1\r\nretry:  5\r\ndata\r\n\r\n",
        b"event: message\rdata: {\"jsonrpc\" :\t\"2.0\",\rdata:\"id\":1.0}\r\r",
        b"data: ",
        &snowman[..1],
        &snowman[1..],
        b"\n\nunknown: field\n\n\n\n",
        b"data: never finished",
    ];
    for piece in pieces {
        call.send(chunk(piece)).await;
        assert_eq!(client.read_chunk().await.as_deref(), Some(piece), "{:?}", String::from_utf8_lossy(piece));
    }
    call.send("0\r\n\r\n").await;
    assert_eq!(client.read_chunk().await, None);
}

#[tokio::test]
async fn a_result_passes_in_the_server_s_own_spelling() {
    let peer = RawPeer::with_tools(&[]).await;
    let scene = Scene::in_front_of(&format!("{}/mcp", peer.url())).await;
    let mut client = RawClient::connect(&scene.gateway.address()).await;
    let lines = ["accept: application/json, text/event-stream", "content-type: application/json"];
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    client.send(post_with("/native/mcp", &scene.token, &lines, list)).await;
    let mut call = peer.call().await;
    call.read_body().await;
    let result = "{ \"id\":null,\t\"result\":{\"tools\":[{\"name\":\"a\",\"x-vendor\":1e2}],\"total\":3.0,\"total\":3}}\n";
    call.send(answer("200 OK", "application/json; charset=UTF-8", result.as_bytes())).await;
    let got = client.read_answer().await;
    assert_eq!((got.status, got.text().as_str()), (200, result));
    assert_eq!(got.head.header("content-type"), Some("application/json; charset=UTF-8"));
}

#[tokio::test]
async fn the_server_sees_its_own_credential_and_nothing_that_says_who_is_calling() {
    let peer = RawPeer::with_tools(&[]).await;
    let grants = Grants::of(&["native"]).await;
    let credential = toml::toml! {
        tier = "http"
        dialect = "mcp"
        credential = { header = "Authorization", scheme = "Bearer", env = "NATIVE_KEY" }
    };
    let setup = grants.setup().server_with("native", &format!("{}/deep/mcp", peer.url()), credential);
    let gateway = setup.environment("NATIVE_KEY", "the-server-s-own").start().await;
    let token = email_token(CALLER);
    let mut client = RawClient::connect(&gateway.address()).await;
    let cookie = format!("cookie: token={token}");
    let lines = [
        "accept: application/json, text/event-stream",
        "content-type: application/json",
        &cookie,
        "x-user-email: caller@example.com",
        "x-openwebui-user-email: caller@example.com",
        "x-openwebui-chat-id: 1",
        "x-entra-oid: 1",
        "x-forwarded-for: 10.0.0.1",
        "x-api-key: s3cret",
        "mcp-protocol-version: 2025-11-25",
        "mcp-param-region: eu",
        "last-event-id: 7",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ];
    let message = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    client.send(post_with("/native/mcp?key=s3cret", &token, &lines, message)).await;
    let mut call = peer.call().await;
    assert_eq!(call.read_body().await, message.as_bytes());
    let head = &call.head;
    assert_eq!(head.first_line, "POST /deep/mcp HTTP/1.1");
    assert_eq!(head.all("authorization"), ["Bearer the-server-s-own"]);
    assert_eq!(head.header("host"), Some(&peer.url()["http://".len()..]));
    for (name, value) in [
        ("mcp-protocol-version", LEGACY),
        ("mcp-param-region", "eu"),
        ("accept", "application/json, text/event-stream"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(head.all(name), [value], "{name}");
    }
    let arrived = String::from_utf8_lossy(&head.raw).to_lowercase();
    for kept in [&*token, "cookie", "caller@example.com", "x-openwebui", "x-entra", "10.0.0.1", "s3cret"] {
        assert!(!arrived.contains(&kept.to_lowercase()), "`{kept}` arrived: {arrived}");
    }
    call.send("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(client.read_answer().await.status, 202);
}

#[tokio::test]
async fn a_quiet_stream_is_not_ended_by_the_server_s_read_timeout() {
    let fixture = Fixture::start().await;
    let scene = Scene::with(toml::toml! { read_timeout_secs = 1 }, &fixture.url("/mcp")).await;
    let through = End::through(scene.url(), &scene.token);
    let id = through.session().await;
    let mut standing = through.listen(&id).await;
    assert_eq!(standing.status(), 200);
    let quiet = tokio::time::timeout(Duration::from_secs(3), standing.chunk()).await;
    assert!(quiet.is_err(), "a quiet stream ended: {quiet:?}");
    let flipped = through.in_session(&id, &call(2, "test_trigger_tool_change", json!({}))).await;
    assert_eq!(flipped.status(), 200);
    read_until(&mut standing, "notifications/tools/list_changed").await;
}

#[tokio::test]
async fn a_subscription_of_the_newest_revision_stays_quiet_hears_news_and_ends_with_its_client() {
    let fixture = Fixture::start().await;
    let scene = Scene::with(toml::toml! { read_timeout_secs = 1 }, &fixture.url("/mcp")).await;
    let through = End::through(scene.url(), &scene.token);
    let wanted = json!({"notifications": {"toolsListChanged": true}});
    let mut listening = through.modern("subscriptions/listen", None, wanted).await;
    read_until(&mut listening, "notifications/subscriptions/acknowledged").await;
    let quiet = tokio::time::timeout(Duration::from_secs(3), listening.chunk()).await;
    assert!(quiet.is_err(), "a quiet subscription ended: {quiet:?}");
    let flip = json!({"name": "test_trigger_tool_change", "arguments": {}});
    assert_eq!(through.modern("tools/call", Some("test_trigger_tool_change"), flip).await.status(), 200);
    let news = read_until(&mut listening, "notifications/tools/list_changed").await;
    assert!(news.contains("subscriptionId"), "{news}");
    drop(listening);
    fixture.await_count("listens", 0).await;
}

#[tokio::test]
async fn a_stream_that_has_begun_may_be_silent_before_its_result() {
    let fixture = Fixture::start().await;
    let scene = Scene::with(toml::toml! { read_timeout_secs = 1 }, &fixture.url("/mcp")).await;
    let through = End::through(scene.url(), &scene.token);
    let arguments = json!({"ms": 3000, "step": 3000});
    let mut modern =
        through.modern("tools/call", Some("slow"), json!({"name": "slow", "arguments": arguments})).await;
    let session = through.session().await;
    let mut legacy = through.in_session(&session, &call(2, "slow", arguments)).await;
    for stream in [&mut modern, &mut legacy] {
        read_until(stream, "slept 3000").await;
    }
}
