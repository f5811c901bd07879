//! A client of each face: MCP in both eras, read message by message, and one way to call a tool through any of them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::World;
use crate::{
    harness::{
        deadline::within,
        gateway::Answer,
        mcp::{LEGACY, MODERN},
    },
    mcp::wire::End,
};

/// Before 2026-07-28, with a session; or that revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    Legacy,
    Modern,
}

pub const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

/// What a client says it can do when it can be asked for input.
pub const ASKABLE: &str = r#"{"elicitation":{}}"#;

/// An MCP client that has said hello.
pub struct Mcp {
    pub end: End,
    pub era: Era,
    pub session: Option<String>,
    /// The result of `initialize`.
    pub hello: Value,
    capabilities: Value,
}

impl Mcp {
    /// Says hello in the way of the era, with these capabilities.
    pub async fn begin(url: &str, token: &str, era: Era, capabilities: &str) -> Self {
        let end = End::through(url.to_owned(), token);
        let capabilities = serde_json::from_str(capabilities).unwrap();
        let mut client = Self { end, era, session: None, hello: Value::Null, capabilities };
        if era == Era::Legacy {
            client.initialize().await;
        }
        client
    }

    async fn initialize(&mut self) {
        let hello = json!({"protocolVersion": LEGACY, "capabilities": self.capabilities,
            "clientInfo": {"name": "served", "version": "1"}});
        let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello});
        let began = self.end.post(&[], &message).await;
        let session = began.headers().get("mcp-session-id").map(|id| id.to_str().unwrap().to_owned());
        let answer = Answer::read(began).await;
        assert_eq!(answer.status, 200, "initialize: {}", answer.text());
        self.hello = heard(&answer).result();
        self.session = session;
        let told = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(self.post(&told).await.status(), 202);
    }

    /// A request of the era.
    pub fn request(&self, id: impl Into<Value>, method: &str, mut params: Value) -> Value {
        if self.era == Era::Modern {
            if params["_meta"].is_null() {
                params["_meta"] = json!({});
            }
            for (name, value) in [
                ("protocolVersion", json!(MODERN)),
                ("clientCapabilities", self.capabilities.clone()),
                ("clientInfo", json!({"name": "served", "version": "1"})),
            ] {
                params["_meta"][format!("io.modelcontextprotocol/{name}")] = value;
            }
        }
        json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params})
    }

    /// Posts a message with the headers it needs.
    pub async fn post(&self, message: &Value) -> Response {
        let (method, params) = (message["method"].as_str().unwrap_or_default(), &message["params"]);
        let version = if self.era == Era::Modern { MODERN } else { LEGACY };
        let mut headers = vec![("mcp-protocol-version", version)];
        headers.extend(self.session.as_deref().map(|id| ("mcp-session-id", id)));
        if self.era == Era::Modern {
            headers.push(("mcp-method", method));
            let name = if method == "resources/read" { &params["uri"] } else { &params["name"] };
            headers.extend(name.as_str().map(|name| ("mcp-name", name)));
        }
        // What the one tool of the fixture that has such an argument wants said in a header.
        let region = params["arguments"]["region"].as_str().map(mirrored);
        if self.era == Era::Modern {
            headers.extend(region.as_deref().map(|region| ("mcp-param-region", region)));
        }
        self.end.post(&headers, message).await
    }

    /// Asks and reads the answer to its end.
    pub async fn ask(&self, method: &str, params: Value) -> Heard {
        heard(&Answer::read(self.post(&self.request(1, method, params)).await).await)
    }

    /// Asks for what must be given.
    pub async fn result(&self, method: &str, params: Value) -> Value {
        self.ask(method, params).await.result()
    }

    /// Asks for what must be refused: the error.
    pub async fn error(&self, method: &str, params: Value) -> Value {
        let heard = self.ask(method, params).await;
        heard.outcome.expect_err("it was refused")
    }

    /// Calls a tool: its result.
    pub async fn call(&self, tool: &str, arguments: Value) -> Value {
        self.result("tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    /// Asks and reads what comes as it comes.
    pub async fn stream(&self, message: &Value) -> Events {
        Events::of(self.post(message).await)
    }

    /// The standing stream of the session.
    pub async fn listen(&self) -> Events {
        Events::of(self.end.listen(self.session.as_deref().unwrap()).await)
    }

    /// Every page of a list, followed to its end: the entries under `key`.
    pub async fn list(&self, what: &str, key: &str) -> Vec<Value> {
        self.pages(what, key).await.concat()
    }

    /// The pages of a list.
    pub async fn pages(&self, what: &str, key: &str) -> Vec<Vec<Value>> {
        let (mut pages, mut params) = (Vec::new(), json!({}));
        loop {
            let result = self.result(&format!("{what}/list"), params).await;
            let page = result[key].as_array().unwrap_or_else(|| panic!("no {key}: {result}"));
            pages.push(page.clone());
            assert!(pages.len() < 1000, "pages without end");
            match result.get("nextCursor") {
                Some(cursor) => params = json!({"cursor": cursor}),
                None => return pages,
            }
        }
    }

    pub async fn tools(&self) -> Vec<Value> {
        self.list("tools", "tools").await
    }

    pub async fn leave(&self) -> Answer {
        Answer::read(self.end.leave(self.session.as_deref().unwrap()).await).await
    }

    /// A GET or DELETE without a session.
    pub async fn bare(&self, method: Method) -> Answer {
        let request = self.end.request(method, &[("accept", "text/event-stream")]);
        Answer::read(within("an answer", request.send()).await.unwrap()).await
    }
}

/// A value as it stands in a header (MCP 2026-07-28, Transports, Value Encoding).
fn mirrored(value: &str) -> String {
    let is_plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~')) && value.trim() == value;
    if is_plain && !value.starts_with("=?") {
        value.to_owned()
    } else {
        format!("=?base64?{}?=", STANDARD.encode(value))
    }
}

/// An answer: what was told before its end, and its end.
#[derive(Debug, Clone)]
pub struct Heard {
    pub status: u16,
    pub told: Vec<Value>,
    pub outcome: Result<Value, Value>,
}

impl Heard {
    #[track_caller]
    pub fn result(self) -> Value {
        self.outcome.unwrap_or_else(|error| panic!("refused with {}: {error}", self.status))
    }
}

/// Reads an answer of either form.
#[track_caller]
pub fn heard(answer: &Answer) -> Heard {
    let is_stream = answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
    let mut messages = if is_stream { messages(&answer.text()) } else { vec![answer.json()] };
    let mut last = messages.pop().unwrap_or_else(|| panic!("an empty answer: {answer:?}"));
    let outcome = match last.get("error") {
        Some(error) => Err(error.clone()),
        None => Ok(last.get_mut("result").unwrap_or_else(|| panic!("no result: {answer:?}")).take()),
    };
    Heard { status: answer.status.as_u16(), told: messages, outcome }
}

/// The messages of the whole events in this text.
fn messages(text: &str) -> Vec<Value> {
    let text = text.replace("\r\n", "\n");
    let events = text.split("\n\n").map(|event| {
        let lines = event.lines().filter_map(|line| line.strip_prefix("data:"));
        lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
    });
    let told = events.filter(|data| !data.is_empty());
    told.map(|data| serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error}: {data}"))).collect()
}

/// An answer that is read message by message. Dropping it is leaving.
pub struct Events {
    pub status: u16,
    response: Response,
    unread: String,
}

impl Events {
    fn of(response: Response) -> Self {
        Self { status: response.status().as_u16(), response, unread: String::new() }
    }

    /// The next message; `None` at the end of the stream, a cut one too.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.unread.find("\n\n").map(|at| at + 2) {
                let event: String = self.unread.drain(..end).collect();
                if let Some(message) = messages(&event).pop() {
                    return Some(message);
                }
                continue;
            }
            match within("a message", self.response.chunk()).await {
                Ok(Some(piece)) => {
                    self.unread += &String::from_utf8(piece.to_vec()).unwrap().replace("\r\n", "\n");
                }
                Ok(None) | Err(_) => {
                    // An answer that is no stream is one message.
                    let rest = std::mem::take(&mut self.unread);
                    return serde_json::from_str(&rest).ok();
                }
            }
        }
    }

    /// The next message that is this one: a method, or the `id` of an answer.
    pub async fn until(&mut self, what: &str) -> Value {
        loop {
            let message = self.next().await.unwrap_or_else(|| panic!("the stream ended before {what}"));
            if message["method"] == what || message["id"] == what {
                return message;
            }
        }
    }

    /// Every message to the end.
    pub async fn rest(&mut self) -> Vec<Value> {
        let mut told = Vec::new();
        while let Some(message) = self.next().await {
            told.push(message);
        }
        told
    }
}

/// How a caller comes to a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// `POST /{server}/{tool}`
    Rest,
    /// `/{server}/mcp`
    One(Era),
    /// `/mcp`
    All(Era),
}

pub const FACES: [Face; 5] = [
    Face::Rest,
    Face::One(Era::Legacy),
    Face::One(Era::Modern),
    Face::All(Era::Legacy),
    Face::All(Era::Modern),
];

/// What a tool answered, without what the face adds.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// As the REST face says it: structured content if there is any, else the content.
    Yes(Value),
    /// The tool's own words.
    No(String),
    /// Somebody else said no: the status of the answer.
    Refused(u16),
}

impl World {
    /// Calls a tool of this server through this face.
    pub async fn say(&self, face: Face, server: &str, tool: &str, arguments: &Value) -> Said {
        let (path, name, era) = match face {
            Face::Rest => return self.say_rest(server, tool, arguments).await,
            Face::One(era) => (format!("/{server}/mcp"), tool.to_owned(), era),
            Face::All(era) => ("/mcp".to_owned(), format!("{server}_{tool}"), era),
        };
        let client = self.mcp(&path, era).await;
        let heard = client.ask("tools/call", json!({"name": name, "arguments": arguments})).await;
        let said = match &heard.outcome {
            Ok(result) if result["isError"] == true => Said::No(texts(result).join("\n")),
            Ok(result) => Said::Yes(unwrapped(result)),
            Err(_) => Said::Refused(heard.status),
        };
        if client.session.is_some() {
            assert!(client.leave().await.status.is_success());
        }
        said
    }

    async fn say_rest(&self, server: &str, tool: &str, arguments: &Value) -> Said {
        let answer = self.rest(&format!("/{server}/{tool}"), arguments.clone()).await;
        match answer.status.as_u16() {
            200 => Said::Yes(answer.json()),
            422 if answer.json()["code"] == "tool_error" => {
                Said::No(answer.json()["detail"].as_str().unwrap().to_owned())
            }
            status => Said::Refused(status),
        }
    }
}

fn texts(result: &Value) -> Vec<String> {
    let content = result["content"].as_array().unwrap();
    content.iter().filter_map(|part| Some(part["text"].as_str()?.to_owned())).collect()
}

/// A tool's result as the REST face must say it.
pub fn unwrapped(result: &Value) -> Value {
    if let Some(structured) = result.get("structuredContent") {
        return structured.clone();
    }
    let mut parts: Vec<_> = result["content"].as_array().unwrap().iter().map(unwrapped_part).collect();
    if parts.len() == 1 { parts.remove(0) } else { parts.into() }
}

fn unwrapped_part(part: &Value) -> Value {
    match part["type"].as_str().unwrap() {
        "text" => {
            let text = part["text"].as_str().unwrap();
            serde_json::from_str(text).unwrap_or_else(|_| text.into())
        }
        "image" | "audio" => {
            let [media_type, data] = ["mimeType", "data"].map(|key| part[key].as_str().unwrap());
            format!("data:{media_type};base64,{data}").into()
        }
        _ => part.clone(),
    }
}

impl Mcp {
    /// The status of an answer.
    pub async fn ask_status(&self, method: &str) -> u16 {
        self.post(&self.request(1, method, json!({}))).await.status().as_u16()
    }
}
