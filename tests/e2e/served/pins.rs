//! Tools that change after they were seen: withheld on every face until somebody approves them, where they are pinned.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

use super::{
    World,
    client::{Era, FACES, Mcp, Said},
    names,
};
use crate::harness::{
    commands::{Said as Spoken, portcullis},
    fake_peer::{Behaviour, FakePeer},
    gateway::{Gateway, Setup},
    grants::{ADMIN, CALLER, Grants},
    mcp::Fixture,
    postgres::{Database, PrivateCluster},
    raw::RawClient,
    raw_peer::RawPeer,
    request::head,
    tokens::email_token,
    wire::{Framing, Head, answer, chunk, read_body},
};

/// In every description of a tool that was changed.
const EVIL: &str = "EVIL";
/// The tool that changes, and one that does not.
const TOOLS: [&str; 2] = ["search", "steady"];

/// A server of legacy MCP whose lists say, byte for byte, what they are told to.
struct Shifty {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: AbortHandle,
}

#[derive(Default)]
struct State {
    /// The tools of each page, as JSON text.
    pages: Vec<String>,
    /// Whether answers are streams of events.
    is_stream: bool,
    called: Vec<String>,
}

impl Drop for Shifty {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shifty {
    async fn start(pages: &[String]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { pages: pages.to_vec(), ..State::default() }));
        let shared = state.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, shared.clone()));
            }
        });
        Self { address, state, accepting: accepting.abort_handle() }
    }

    fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    fn say(&self, pages: &[String]) {
        self.state.lock().unwrap().pages = pages.to_vec();
    }

    fn called(&self) -> Vec<String> {
        self.state.lock().unwrap().called.clone()
    }
}

async fn serve(socket: TcpStream, state: Arc<Mutex<State>>) {
    let mut connection = BufReader::new(socket);
    while let Ok(Some(head)) = Head::read(&mut connection).await {
        let body = read_body(&mut connection, head.framing().unwrap_or(Framing::Length(0))).await.unwrap();
        let written = match serde_json::from_slice::<Value>(&body) {
            Ok(message) if !message["id"].is_null() => reply(&message, &mut state.lock().unwrap()),
            Ok(_) => answer("202 Accepted", "application/json", b""),
            Err(_) => answer("405 Method Not Allowed", "text/plain", b"no"),
        };
        if connection.write_all(&written).await.is_err() {
            return;
        }
    }
}

fn reply(message: &Value, state: &mut State) -> Vec<u8> {
    let params = &message["params"];
    let result = match message["method"].as_str().unwrap() {
        "initialize" => Some(
            json!({"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
                "serverInfo": {"name": "shifty", "version": "1"}})
            .to_string(),
        ),
        "tools/list" => {
            let at = params["cursor"].as_str().map_or(0, |cursor| cursor.parse().unwrap());
            let next = if at + 1 < state.pages.len() {
                format!(r#","nextCursor":"{}""#, at + 1)
            } else {
                String::new()
            };
            Some(format!(r#"{{"tools":{}{next}}}"#, state.pages[at]))
        }
        "tools/call" => {
            state.called.push(params["name"].as_str().unwrap().to_owned());
            Some(json!({"content": [{"type": "text", "text": "done"}]}).to_string())
        }
        _ => None,
    };
    let id = &message["id"];
    let text = match result {
        Some(result) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#),
        None => {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"Method not found"}}}}"#)
        }
    };
    if state.is_stream {
        return answer("200 OK", "text/event-stream", format!("event: message\ndata: {text}\n\n").as_bytes());
    }
    answer("200 OK", "application/json", text.as_bytes())
}

fn definition(name: &str, text: &str) -> String {
    json!({"name": name, "description": text, "inputSchema": {"type": "object", "properties": {"q": {"type": "string", "description": text}}}})
        .to_string()
}

/// Both tools, each on a page of its own.
fn pages(search: &str) -> Vec<String> {
    vec![format!("[{}]", definition("steady", "as ever")), format!("[ {} ]", definition("search", search))]
}

/// A server of either dialect whose tool can be changed.
enum Changing {
    OpenApi(FakePeer),
    Mcp(Shifty),
}

impl Changing {
    async fn all() -> [Self; 3] {
        let stream = Shifty::start(&pages("finds")).await;
        stream.state.lock().unwrap().is_stream = true;
        let rest = FakePeer::start().await;
        for tool in TOOLS {
            rest.set(
                &format!("/{tool}"),
                Behaviour::Answer(answer("200 OK", "application/json", b"\"done\"")),
            );
        }
        let all = [Self::OpenApi(rest), Self::Mcp(Shifty::start(&pages("finds")).await), Self::Mcp(stream)];
        all[0].say("finds");
        all
    }

    fn say(&self, search: &str) {
        match self {
            Self::Mcp(peer) => peer.say(&pages(search)),
            Self::OpenApi(peer) => {
                let schemas = json!({"In": {"type": "object", "properties": {"q": {"description": search}}}});
                let body =
                    json!({"content": {"application/json": {"schema": {"$ref": "#/components/schemas/In"}}}});
                let document = json!({"openapi": "3.1.0", "components": {"schemas": schemas}, "paths": {
                    "/search": {"post": {"description": "finds", "requestBody": body}}, "/steady": {"post": {}}}});
                let document = document.to_string();
                peer.set(
                    "/openapi.json",
                    Behaviour::Answer(answer("200 OK", "application/json", document.as_bytes())),
                );
            }
        }
    }

    fn served(&self) -> (&'static str, &'static str, String) {
        match self {
            Self::OpenApi(peer) => ("alpha", "openapi", peer.url()),
            Self::Mcp(peer) => ("alpha", "mcp", peer.url()),
        }
    }

    /// How often the tool that changes was called.
    fn count(&self) -> usize {
        match self {
            Self::OpenApi(peer) => peer.requests().iter().filter(|request| request.path == "/search").count(),
            Self::Mcp(peer) => peer.called().iter().filter(|tool| *tool == "search").count(),
        }
    }
}

async fn refresh(gateway: &Gateway) {
    let answer = gateway.call("/refresh", &email_token(ADMIN), &json!({})).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
}

async fn withheld(gateway: &Gateway, count: usize) {
    gateway.await_metric("portcullis_tools_withheld", &[("server", "alpha")], count).await;
}

/// A command with the configuration of these grants and this server.
async fn command(grants: &Grants, served: &(&str, &str, String), words: &[&str]) -> Spoken {
    let setup = super::setup(grants, std::slice::from_ref(served)).set("catalog.pin", true);
    portcullis(setup.write().path(), words).await
}

/// Everything that can be read of the tools anywhere.
async fn shown(world: &World) -> String {
    let mut all = String::new();
    for path in ["/servers", "/alpha", "/tools", "/openapi.json", "/alpha/openapi.json"] {
        all += &world.gateway.get(path, &world.token).await.text();
    }
    for (path, era) in [
        ("/mcp", Era::Legacy),
        ("/mcp", Era::Modern),
        ("/alpha/mcp", Era::Legacy),
        ("/alpha/mcp", Era::Modern),
    ] {
        let client = world.mcp(path, era).await;
        all += &json!(client.tools().await).to_string();
    }
    all += &world.rest("/meta/search_tools", json!({"query": "search finds EVIL"})).await.text();
    all + &world.rest("/meta/describe_tools", json!({"names": ["alpha_search"]})).await.text()
}

#[tokio::test]
async fn a_tool_that_changed_is_withheld_on_every_face_until_it_is_approved() {
    for peer in Changing::all().await {
        let served = peer.served();
        let world = World::with(std::slice::from_ref(&served), |setup| setup.set("catalog.pin", true)).await;
        world.gateway.await_tools("alpha", 2).await;
        assert!(shown(&world).await.contains("finds"));
        for face in FACES {
            assert!(matches!(world.say(face, "alpha", "search", &json!({})).await, Said::Yes(_)), "{face:?}");
        }
        let before = peer.count();

        peer.say(EVIL);
        refresh(&world.gateway).await;
        withheld(&world.gateway, 1).await;
        let shown_now = shown(&world).await;
        assert!(!shown_now.contains(EVIL) && shown_now.contains("steady"), "{shown_now}");
        assert!(!names(&world.mcp("/mcp", Era::Modern).await.tools().await).contains(&"alpha_search"));
        for face in FACES {
            let said = world.say(face, "alpha", "search", &json!({})).await;
            assert!(matches!(said, Said::Refused(200 | 404)), "{face:?}: {said:?}");
            assert!(matches!(world.say(face, "alpha", "steady", &json!({})).await, Said::Yes(_)), "{face:?}");
        }
        let refused = world.rest("/alpha/search", json!({})).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (404, "unknown_tool"));
        let none = world.rest("/alpha/none", json!({})).await;
        assert_eq!(refused.json()["detail"], none.json()["detail"], "as one that does not exist");
        assert_eq!(
            world.rest("/meta/call_tool", json!({"name": "alpha_search", "arguments": {}})).await.code(),
            "unknown_tool"
        );
        assert_eq!(peer.count(), before, "nothing of it reached the server");
        world.gateway.stdout.find("why", |line| line.contains("it is withheld")).await;
        world
            .gateway
            .stderr
            .find("the change", |line| line.contains("tool `search` of server `alpha` changed from"))
            .await;
        world.gateway.wrote_none_of(&[EVIL]);

        approve(&world, &served).await;
        withheld(&world.gateway, 0).await;
        assert!(shown(&world).await.contains(EVIL));
        for face in FACES {
            assert!(matches!(world.say(face, "alpha", "search", &json!({})).await, Said::Yes(_)), "{face:?}");
        }
    }
}

/// Reviews and approves the one tool that waits, as an operator does.
async fn approve(world: &World, served: &(&str, &str, String)) {
    let run = async |words: &[&str]| command(&world.grants, served, words).await;
    let listed = run(&["tools", "list", "alpha"]).await;
    assert_eq!((listed.code, listed.stdout.lines().count()), (0, 2), "{listed:?}");
    assert!(
        listed.stdout.contains("alpha/search  changed") && listed.stdout.contains("alpha/steady  approved"),
        "{listed:?}"
    );
    assert!(listed.stderr.starts_with("1 tools are withheld"), "{listed:?}");
    let explained = run(&["explain", "--as", CALLER, "alpha/search"]).await;
    assert_eq!(
        (explained.code, explained.stdout.contains("is withheld from everybody")),
        (1, true),
        "{explained:?}"
    );
    let diff = run(&["tools", "diff", "alpha/search"]).await;
    assert!(diff.stdout.lines().any(|line| line.starts_with('+') && line.contains(EVIL)), "{diff:?}");
    assert!(diff.stdout.lines().any(|line| line.starts_with('-') && line.contains("finds")), "{diff:?}");
    let wrong = run(&["tools", "approve", "alpha/search", "--hash", "0123456789ab"]).await;
    assert_eq!(wrong.code, 1, "{wrong:?}");
    withheld(&world.gateway, 1).await;
    let hash = diff.stderr.split_whitespace().last().unwrap();
    let approved = run(&["tools", "approve", "alpha/search", "--hash", hash]).await;
    assert_eq!((approved.code, approved.stdout.as_str()), (0, ""), "{approved:?}");
    let again = run(&["tools", "approve", "alpha/search"]).await;
    assert_eq!(
        (again.code, again.stderr.as_str()),
        (1, "`alpha/search` has nothing that waits for approval\n")
    );
}

/// The gateway in front of a server whose tools are pinned, read once; it will not read again by itself.
async fn pinned(peer: &Shifty) -> World {
    let world = World::with(&[("alpha", "mcp", peer.url())], |setup| setup.set("catalog.pin", true)).await;
    world.gateway.await_tools("alpha", 2).await;
    world
}

async fn native(world: &World) -> Mcp {
    world.mcp("/alpha/mcp", Era::Legacy).await
}

#[tokio::test]
async fn a_list_that_passes_before_the_change_was_read_does_not_show_it() {
    let (steady, search) = (definition("steady", "as ever"), definition("search", "finds"));
    let escaped = search.replace("search", r"se\u0061rch");
    for is_stream in [false, true] {
        // Each a change that the gateway has not seen when the list passes, and which tools are left.
        for (changed, left) in [
            (pages(EVIL), &["steady"][..]),
            (vec![format!("[{},{}]", definition("search", EVIL), steady)], &["steady"]),
            // Of two with one name, only what was approved.
            (vec![format!("[{search},{},{steady}]", definition("search", EVIL))], &["search", "steady"]),
            (vec![format!("[{},{search}]", definition("search", EVIL))], &["search"]),
            // Another spelling of the same is the same; of another, it is not.
            (vec![format!("[{escaped}]")], &["search"]),
            (vec![format!("[{}]", definition("search", EVIL).replace("search", r"se\u0061rch"))], &[]),
            // What parsers read differently.
            (
                vec![format!(
                    "[{}]",
                    search.replace(r#""type":"object""#, r#""type":"object","type":"EVIL""#)
                )],
                &[],
            ),
            (vec![format!("[{}]", search.replacen('{', r#"{"annotations":{"title":"EVIL"},"#, 1))], &[]),
            (vec![format!("[{}]", search.replacen('{', r#"{"_meta":{"x":"EVIL"},"#, 1))], &[]),
            // A new one, and names that are none.
            (
                vec![format!("[{},{},{steady}]", definition("new", EVIL), definition("search ", EVIL))],
                &["steady"],
            ),
        ] {
            let peer = Shifty::start(&pages("finds")).await;
            peer.state.lock().unwrap().is_stream = is_stream;
            let world = pinned(&peer).await;
            let client = native(&world).await;
            peer.say(&changed);
            let tools = client.tools().await;
            assert_eq!(names(&tools), left, "{changed:?}");
            assert!(!json!(tools).to_string().contains(EVIL), "{tools:?}");
        }
    }
}

#[tokio::test]
async fn what_passes_and_is_news_is_read_at_once_and_can_be_called_no_more() {
    let peer = Shifty::start(&pages("finds")).await;
    let world = World::with(&[("alpha", "mcp", peer.url())], |setup| {
        setup.set("catalog.pin", true).set("tools.refresh_secs", 86_400)
    })
    .await;
    let client = native(&world).await;
    peer.say(&pages(EVIL));
    crate::harness::deadline::until("the change to be read", || async {
        client.tools().await;
        let count = world.gateway.metrics().await.sum("portcullis_tools_withheld", &[("server", "alpha")]);
        (count == 1.0).then_some(())
    })
    .await;
    let refused = client.error("tools/call", json!({"name": "search", "arguments": {}})).await;
    assert_eq!(refused["code"], -32602, "{refused}");
    let never = client.error("tools/call", json!({"name": "never_seen", "arguments": {}})).await;
    assert_eq!(never["code"], -32602, "{never}");
    assert!(peer.called().is_empty());
    assert_eq!(client.call("steady", json!({})).await["content"][0]["text"], "done");
    // One in a batch stops all of it.
    let call = |id, tool| client.request(id, "tools/call", json!({"name": tool, "arguments": {}}));
    let batch = json!([call(1, "steady"), call(2, "search")]);
    assert_eq!(client.post(&batch).await.status(), 400);
    assert_eq!(peer.called(), ["steady"]);
}

#[tokio::test]
async fn a_list_in_the_answer_to_another_question_shows_no_change() {
    // The answer to a `prompts/list` that was asked at the same time as a `tools/list` with the id 7.
    let raw = RawPeer::with_tools(&[]).await;
    let grants = Grants::of(&["alpha"]).await;
    let url = format!("{}/mcp", raw.url());
    let gateway = grants.setup().mcp("alpha", "mcp", &url).set("catalog.pin", true).start().await;
    let mut client = RawClient::connect(&gateway.address()).await;
    let token = email_token(CALLER);
    let lines = [
        "content-type: application/json",
        "accept: application/json, text/event-stream",
        "content-length: 50",
    ];
    let asked = format!("{:<50}", r#"{"jsonrpc":"2.0","id":8,"method":"prompts/list"}"#);
    client.send(format!("{}{asked}", head("POST", "/alpha/mcp", &token, &lines))).await;
    let mut call = raw.call().await;
    call.read_body().await;
    let tools =
        format!(r#"{{"jsonrpc":"2.0","id":7,"result":{{"tools":[{}]}}}}"#, definition("search", EVIL));
    call.send(answer("200 OK", "application/json", tools.as_bytes())).await;
    let got = client.read_answer().await.text();
    assert!(!got.contains(EVIL) && got.contains(r#""tools":[]"#), "{got}");
}

#[tokio::test]
async fn a_standing_stream_of_legacy_sse_shows_no_tool_that_is_not_approved() {
    let raw = RawPeer::with_tools(&[]).await;
    let grants = Grants::of(&["alpha"]).await;
    let url = format!("{}/mcp", raw.url());
    let gateway = grants.setup().mcp("alpha", "mcp-sse", &url).set("catalog.pin", true).start().await;
    let mut client = RawClient::connect(&gateway.address()).await;
    client.send(head("GET", "/alpha/mcp", &email_token(CALLER), &["last-event-id: 3"])).await;
    let mut held = raw.call().await;
    held.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    client.read_head().await;
    let list = format!(r#"{{"id":1,"result":{{"tools":[{}],"x":1}}}}"#, definition("search", EVIL));
    held.send(chunk(format!("event: message\ndata: {list}\n\n").as_bytes())).await;
    let got = String::from_utf8(client.read_chunk().await.unwrap()).unwrap();
    assert!(!got.contains(EVIL) && got.contains(r#""tools":[]"#), "{got}");
}

#[tokio::test]
async fn without_pins_changes_are_told_once_and_everything_passes_as_it_is() {
    let peer = Shifty::start(&pages("finds")).await;
    let world = World::of(&[("alpha", "mcp", peer.url())]).await;
    peer.say(&pages(EVIL));
    let client = native(&world).await;
    for round in 0..3 {
        refresh(&world.gateway).await;
        let labels = [("server", "alpha"), ("change", "changed")];
        world.gateway.await_metric("portcullis_tool_changes_total", &labels, 1).await;
        let tools = client.tools().await;
        assert_eq!((tools.len(), tools[1]["description"].as_str()), (2, Some(EVIL)), "{round}");
        assert_eq!(client.call("search", json!({})).await["content"][0]["text"], "done");
    }
    withheld(&world.gateway, 0).await;
    let told = world
        .gateway
        .stderr
        .all()
        .iter()
        .filter(|line| line.contains("`search` of server `alpha` changed"))
        .count();
    assert_eq!(told, 1);
    let diff =
        command(&world.grants, &("alpha", "mcp", peer.url()), &["tools", "diff", "alpha/search"]).await;
    assert!(
        diff.stderr.contains("this is what its last change was") && diff.stdout.contains(EVIL),
        "{diff:?}"
    );
}

#[tokio::test]
async fn a_new_tool_of_a_pinned_server_waits_and_one_that_comes_back_unchanged_does_not() {
    let fixture = Fixture::start().await;
    let mut pin = toml::Table::from_iter(
        [("tier", "http"), ("dialect", "mcp")].map(|(key, value)| (key.to_owned(), value.into())),
    );
    pin.insert("pin".to_owned(), true.into());
    let grants = Grants::of(&["alpha"]).await;
    let setup = || grants.setup().server_with("alpha", &fixture.url("/mcp"), pin.clone());
    let gateway = setup().start().await;
    let has = async |tool: &str| gateway.get("/alpha", &email_token(CALLER)).await.text().contains(tool);
    crate::harness::deadline::until("the tools", || async { has("echo").await.then_some(()) }).await;
    fixture.command("flip/tools").await;
    withheld(&gateway, 1).await;
    assert!(!has("test_dynamic_tool").await);
    let approved = portcullis(setup().write().path(), &["tools", "approve", "alpha"]).await;
    assert_eq!(approved.code, 0, "{approved:?}");
    withheld(&gateway, 0).await;
    assert!(has("test_dynamic_tool").await);
    for is_there in [false, true] {
        fixture.command("flip/tools").await;
        crate::harness::deadline::until("the list", || async {
            (has("test_dynamic_tool").await == is_there).then_some(())
        })
        .await;
        withheld(&gateway, 0).await;
    }
}

#[tokio::test]
async fn what_was_approved_outlives_a_restart_and_holds_for_every_replica() {
    let database = Database::create().await;
    let peer = Shifty::start(&pages("finds")).await;
    let setup = || Setup::new(&database.url()).mcp("alpha", "mcp", &peer.url()).set("catalog.pin", true);
    // First sight by two at once.
    let (left, right) = tokio::join!(setup().start(), setup().start());
    for gateway in [&left, &right] {
        gateway.await_tools("alpha", 2).await;
    }
    drop(right);
    peer.say(&pages(EVIL));
    let right = setup().start().await;
    withheld(&right, 1).await;
    right.await_tools("alpha", 1).await;
    assert_eq!(
        left.metrics().await.sum("portcullis_tools_withheld", &[("server", "alpha")]),
        0.0,
        "it has not looked again"
    );
    let listed = portcullis(setup().write().path(), &["tools", "list"]).await;
    assert!(listed.stdout.contains("alpha/search  changed"), "{listed:?}");
    let approved = portcullis(setup().write().path(), &["tools", "approve", "--all"]).await;
    assert_eq!(approved.code, 0, "{approved:?}");
    withheld(&right, 0).await;
    // The other one reads what was approved.
    left.await_tools("alpha", 2).await;
    withheld(&left, 0).await;
}

const GRANT: &str =
    "INSERT INTO user_tenant_access (user_email, tenant_id) VALUES ('caller@example.com', 'alpha')";

async fn called(gateway: &Gateway, tool: &str) -> u16 {
    gateway.call(&format!("/alpha/{tool}"), &email_token(CALLER), &json!({})).await.status.as_u16()
}

fn gateway_setup(cluster: &PrivateCluster, peer: &Shifty) -> Setup {
    let setup = Setup::new(&cluster.url()).mcp("alpha", "mcp", &peer.url()).set("catalog.pin", true);
    setup.set("tools.refresh_secs", 1)
}

#[tokio::test]
async fn while_the_database_is_away_what_was_approved_holds_and_nothing_else_is_shown() {
    let cluster = PrivateCluster::start();
    let peer = Shifty::start(&pages("finds")).await;
    let gateway = gateway_setup(&cluster, &peer).start().await;
    gateway.await_tools("alpha", 2).await;
    let granted = gateway_setup(&cluster, &peer).write();
    let granted = portcullis(granted.path(), &["grant", "--user", CALLER, "alpha"]).await;
    assert_eq!(granted.code, 0, "{granted:?}");
    gateway.call_until("/alpha/search", &email_token(CALLER), 200).await;
    cluster.stop();
    assert_eq!(called(&gateway, "search").await, 200, "calls go on");
    peer.say(&pages(EVIL));
    withheld(&gateway, 1).await;
    assert_eq!((called(&gateway, "search").await, called(&gateway, "steady").await), (404, 200));
    cluster.start_again();
    gateway
        .stderr
        .find("the change, once it could be asked", |line| {
            line.contains("`search` of server `alpha` changed")
        })
        .await;
    withheld(&gateway, 1).await;
}

#[tokio::test]
async fn before_it_is_known_what_is_approved_a_pinned_server_has_no_tools_and_others_have_theirs() {
    let database = Database::create().await;
    let peer = Shifty::start(&pages("finds")).await;
    let setup = |is_pinned| {
        let setup =
            Setup::new(&database.url()).mcp("alpha", "mcp", &peer.url()).set("catalog.pin", is_pinned);
        setup.set("database.auto_migrate", false)
    };
    let migrated = portcullis(setup(true).write().path(), &["migrate"]).await;
    assert_eq!(migrated.code, 0, "{migrated:?}");
    database.execute(GRANT).await;
    // As an operator leaves it who has not migrated yet.
    database.execute("DROP TABLE tool_pins, tool_pin_version; DROP FUNCTION portcullis_note_pins()").await;
    let (pinned, free) = tokio::join!(setup(true).start(), setup(false).start());
    withheld(&pinned, 2).await;
    pinned.stderr.find("why", |line| line.contains("cannot hold tools against what is approved")).await;
    assert_eq!(called(&pinned, "search").await, 404);
    free.await_tools("alpha", 2).await;
    assert_eq!(called(&free, "search").await, 200);
    database.execute(include_str!("../../../migrations/postgres/0006_tool_pins.sql")).await;
    withheld(&pinned, 0).await;
    pinned.await_tools("alpha", 2).await;
    assert_eq!(called(&pinned, "search").await, 200);
}
