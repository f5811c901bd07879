//! The bundled sample tool server: what `portcullis dev` and the shipped catalog reach when nothing else is there.
//!
//! Decides nothing about callers and knows nothing of the gateway: it is a tool server like any other, on its own
//! socket, described by its own `/openapi.json` in the shape mcpo gives. Quick, slow, streaming and failing tools,
//! so that each way an answer can travel may be seen. Never meant to be reached except through a gateway.

use std::{convert::Infallible, fmt::Display, future::Future, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet, time::MissedTickBehavior};

/// Largest body of arguments the sample tools read.
const MAX_BODY_BYTES: usize = 1 << 20;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Serves the sample tools on `listener` until `shutdown` completes; then every connection is closed.
pub async fn serve(listener: TcpListener, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let address = listener.local_addr().context("the sample server has no address")?;
    tracing::debug!(%address, "sample server listens on {address}");
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(socket), service_fn(answer));
                    connections.spawn(connection);
                }
                // Out of file descriptors, most likely: a connection that ends frees one.
                Err(error) => {
                    tracing::warn!(%error, "sample server could not accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
}

/// What the sample server can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Echo,
    Add,
    Slow,
    Stream,
    Fail,
}

#[derive(Deserialize)]
struct Echo {
    text: String,
    #[serde(default)]
    upper: bool,
}

#[derive(Deserialize)]
struct Add {
    a: f64,
    b: f64,
}

#[derive(Deserialize)]
struct Slow {
    seconds: Option<f64>,
}

#[derive(Deserialize)]
struct Stream {
    count: Option<u64>,
    interval_millis: Option<u64>,
}

#[derive(Deserialize)]
struct Fail {
    detail: Option<String>,
}

const DEFAULT_SECONDS: f64 = 2.0;
const DEFAULT_COUNT: u64 = 5;
const DEFAULT_INTERVAL_MILLIS: u64 = 500;
const DEFAULT_DETAIL: &str = "this tool always fails";

impl Tool {
    const ALL: [Tool; 5] = [Tool::Echo, Tool::Add, Tool::Slow, Tool::Stream, Tool::Fail];

    const fn name(self) -> &'static str {
        match self {
            Tool::Echo => "echo",
            Tool::Add => "add",
            Tool::Slow => "slow",
            Tool::Stream => "stream",
            Tool::Fail => "fail",
        }
    }

    const fn description(self) -> &'static str {
        match self {
            Tool::Echo => "Returns the text it is given, in capitals when asked to.",
            Tool::Add => "Adds two numbers.",
            Tool::Slow => "Answers after some seconds, to see a call in progress.",
            Tool::Stream => "Streams events at an interval, to see an answer arrive piece by piece.",
            Tool::Fail => "Always fails, to see how a tool's own error travels.",
        }
    }

    /// JSON Schema of the arguments.
    fn arguments(self) -> Value {
        let (properties, required) = match self {
            Tool::Echo => (
                json!({
                    "text": {"type": "string", "description": "What to return."},
                    "upper": {"type": "boolean", "description": "Whether to return it in capitals.", "default": false},
                }),
                json!(["text"]),
            ),
            Tool::Add => (
                json!({
                    "a": {"type": "number", "description": "The first number."},
                    "b": {"type": "number", "description": "The second number."},
                }),
                json!(["a", "b"]),
            ),
            Tool::Slow => (
                json!({"seconds": {"type": "number", "description": "How long to wait.",
                    "minimum": 0, "maximum": 30, "default": DEFAULT_SECONDS}}),
                json!([]),
            ),
            Tool::Stream => (
                json!({
                    "count": {"type": "integer", "description": "How many events to send.",
                        "minimum": 1, "maximum": 100, "default": DEFAULT_COUNT},
                    "interval_millis": {"type": "integer", "description": "Milliseconds between two events.",
                        "minimum": 1, "maximum": 10_000, "default": DEFAULT_INTERVAL_MILLIS},
                }),
                json!([]),
            ),
            Tool::Fail => (
                json!({"detail": {"type": "string", "description": "What the error says.",
                    "default": DEFAULT_DETAIL}}),
                json!([]),
            ),
        };
        json!({"type": "object", "title": format!("{}_form_model", self.name()), "properties": properties,
            "required": required})
    }

    /// Runs the tool on a body of arguments. `Err` is the body of the 422 for arguments that do not fit.
    async fn run(self, body: &[u8]) -> Result<Answer, Value> {
        match self {
            Tool::Echo => {
                let Echo { text, upper } = arguments(body)?;
                Ok(reply(StatusCode::OK, &json!({"text": if upper { text.to_uppercase() } else { text }})))
            }
            Tool::Add => {
                let Add { a, b } = arguments(body)?;
                Ok(reply(StatusCode::OK, &json!({"sum": a + b})))
            }
            Tool::Slow => {
                let Slow { seconds } = arguments(body)?;
                let seconds = seconds.unwrap_or(DEFAULT_SECONDS);
                within("seconds", seconds, 0.0, 30.0)?;
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                Ok(reply(StatusCode::OK, &json!({"waited_secs": seconds})))
            }
            Tool::Stream => {
                let Stream { count, interval_millis } = arguments(body)?;
                let count = count.unwrap_or(DEFAULT_COUNT);
                let interval_millis = interval_millis.unwrap_or(DEFAULT_INTERVAL_MILLIS);
                within("count", count, 1, 100)?;
                within("interval_millis", interval_millis, 1, 10_000)?;
                Ok(event_stream(count, Duration::from_millis(interval_millis)))
            }
            Tool::Fail => {
                let Fail { detail } = arguments(body)?;
                Ok(reply(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    &json!({"detail": detail.as_deref().unwrap_or(DEFAULT_DETAIL)}),
                ))
            }
        }
    }
}

async fn answer(request: Request<Incoming>) -> Result<Answer, Infallible> {
    let path = request.uri().path();
    if path == "/openapi.json" {
        return Ok(match *request.method() {
            Method::GET | Method::HEAD => reply(StatusCode::OK, &openapi()),
            _ => not_allowed("GET, HEAD"),
        });
    }
    let Some(tool) = Tool::ALL.into_iter().find(|tool| path.strip_prefix('/') == Some(tool.name())) else {
        return Ok(reply(StatusCode::NOT_FOUND, &json!({"detail": "Not Found"})));
    };
    if request.method() != Method::POST {
        return Ok(not_allowed("POST"));
    }
    let Ok(body) = Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await else {
        let problem = invalid("body_unreadable", "body", "the body is too large or ended early");
        return Ok(reply(StatusCode::UNPROCESSABLE_ENTITY, &problem));
    };
    Ok(tool
        .run(&body.to_bytes())
        .await
        .unwrap_or_else(|problem| reply(StatusCode::UNPROCESSABLE_ENTITY, &problem)))
}

fn arguments<T: DeserializeOwned>(body: &[u8]) -> Result<T, Value> {
    let value: Value =
        serde_json::from_slice(body).map_err(|error| invalid("json_invalid", "body", error))?;
    T::deserialize(value).map_err(|error| invalid("value_error", "body", error))
}

fn within<T: PartialOrd + Display>(name: &str, value: T, least: T, most: T) -> Result<(), Value> {
    if value >= least && value <= most {
        return Ok(());
    }
    Err(invalid("value_error", name, format_args!("{value} is not between {least} and {most}")))
}

/// The events of `stream`, each made at the moment it is due; a client that leaves ends them.
fn event_stream(count: u64, interval: Duration) -> Answer {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = stream::unfold((1, ticks), move |(number, mut ticks)| async move {
        if number > count {
            return None;
        }
        ticks.tick().await;
        let event = Bytes::from(format!("data: {}\n\n", json!({"number": number, "of": count})));
        Some((event, (number + 1, ticks)))
    });
    let body = StreamBody::new(events.map(|event| Ok(Frame::data(event)))).boxed_unsync();
    with_body(StatusCode::OK, "text/event-stream", body)
}

/// The description of the tools, in the shape mcpo gives: one POST a tool, arguments in `components`.
fn openapi() -> Value {
    let mut paths = serde_json::Map::new();
    let mut schemas = serde_json::Map::new();
    for tool in Tool::ALL {
        let name = tool.name();
        let schema = format!("#/components/schemas/{name}_form_model");
        schemas.insert(format!("{name}_form_model"), tool.arguments());
        let operation = json!({
            "operationId": format!("tool_{name}_post"),
            "summary": name,
            "description": tool.description(),
            "requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": schema}}}},
            "responses": {
                "200": {"description": "Successful Response"},
                "422": {"description": "Validation Error"},
            },
        });
        paths.insert(format!("/{name}"), json!({"post": operation}));
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "sample", "description": "Sample tools bundled with Portcullis.",
            "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

/// What FastAPI says about arguments that do not fit.
fn invalid(kind: &str, place: &str, message: impl Display) -> Value {
    let location = if place == "body" { json!(["body"]) } else { json!(["body", place]) };
    json!({"detail": [{"type": kind, "loc": location, "msg": message.to_string()}]})
}

fn not_allowed(allowed: &'static str) -> Answer {
    let mut answer = reply(StatusCode::METHOD_NOT_ALLOWED, &json!({"detail": "Method Not Allowed"}));
    answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allowed));
    answer
}

fn reply(status: StatusCode, body: &Value) -> Answer {
    with_body(status, "application/json", Full::new(Bytes::from(body.to_string())).boxed_unsync())
}

fn with_body(status: StatusCode, media_type: &'static str, body: UnsyncBoxBody<Bytes, Infallible>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media_type));
    answer
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
        net::TcpStream,
        sync::oneshot,
    };

    use super::*;

    /// A sample server of one test's own; it ends when this is dropped.
    struct Running {
        connection: BufReader<TcpStream>,
        _stop: oneshot::Sender<()>,
    }

    impl Running {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (stop, stopped) = oneshot::channel::<()>();
            tokio::spawn(serve(listener, async {
                let _ = stopped.await;
            }));
            Self { connection: BufReader::new(TcpStream::connect(address).await.unwrap()), _stop: stop }
        }

        async fn send(&mut self, method: &str, path: &str, body: &str) {
            let length = body.len();
            let request =
                format!("{method} {path} HTTP/1.1\r\nhost: sample\r\ncontent-length: {length}\r\n\r\n{body}");
            self.connection.write_all(request.as_bytes()).await.unwrap();
        }

        /// Status and headers of the next answer, lowercased.
        async fn head(&mut self) -> (u16, String) {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert_ne!(
                    self.connection.read_line(&mut head).await.unwrap(),
                    0,
                    "connection closed after {head:?}"
                );
            }
            (head[9..12].parse().unwrap(), head.to_lowercase())
        }

        async fn call(&mut self, method: &str, path: &str, body: &str) -> (u16, Value) {
            self.send(method, path, body).await;
            let (status, head) = self.head().await;
            let (_, length) = head.split_once("content-length: ").unwrap();
            let mut body = vec![0; length.lines().next().unwrap().parse().unwrap()];
            self.connection.read_exact(&mut body).await.unwrap();
            (status, serde_json::from_slice(&body).unwrap())
        }
    }

    #[track_caller]
    fn check(answer: (u16, Value), status: u16, body: Value) {
        assert_eq!(answer, (status, body));
    }

    #[tokio::test]
    async fn tools_answer_one_after_another_on_one_connection() {
        let mut sample = Running::start().await;
        check(sample.call("POST", "/echo", r#"{"text":"grüß"}"#).await, 200, json!({"text": "grüß"}));
        check(
            sample.call("POST", "/echo", r#"{"text":"grüß","upper":true}"#).await,
            200,
            json!({"text": "GRÜSS"}),
        );
        check(sample.call("POST", "/add", r#"{"a":1.5,"b":2}"#).await, 200, json!({"sum": 3.5}));
        check(sample.call("POST", "/slow", r#"{"seconds":0}"#).await, 200, json!({"waited_secs": 0.0}));
        check(sample.call("POST", "/fail", "{}").await, 422, json!({"detail": "this tool always fails"}));
        check(sample.call("POST", "/fail", r#"{"detail":"no"}"#).await, 422, json!({"detail": "no"}));
    }

    #[tokio::test]
    async fn arguments_that_do_not_fit_are_named_in_a_422() {
        let mut sample = Running::start().await;
        for (path, body, place) in [
            ("/echo", "not json", json!(["body"])),
            ("/echo", "", json!(["body"])),
            ("/echo", r#"{"upper":true}"#, json!(["body"])),
            ("/add", r#"{"a":"one","b":2}"#, json!(["body"])),
            ("/slow", r#"{"seconds":31}"#, json!(["body", "seconds"])),
            ("/slow", r#"{"seconds":-1}"#, json!(["body", "seconds"])),
            ("/stream", r#"{"count":101}"#, json!(["body", "count"])),
            ("/stream", r#"{"interval_millis":0}"#, json!(["body", "interval_millis"])),
        ] {
            let (status, answer) = sample.call("POST", path, body).await;
            assert_eq!((status, &answer["detail"][0]["loc"]), (422, &place), "{path} {body}: {answer}");
        }
    }

    #[tokio::test]
    async fn unknown_paths_are_404_and_wrong_methods_405() {
        let mut sample = Running::start().await;
        for path in ["/", "/nothing", "/echo/", "/Echo", "/echo/add"] {
            check(sample.call("POST", path, "{}").await, 404, json!({"detail": "Not Found"}));
        }
        check(sample.call("GET", "/echo", "").await, 405, json!({"detail": "Method Not Allowed"}));
        check(sample.call("POST", "/openapi.json", "{}").await, 405, json!({"detail": "Method Not Allowed"}));
    }

    #[tokio::test]
    async fn every_tool_is_described_with_a_schema_that_can_be_followed() {
        let (status, openapi) = Running::start().await.call("GET", "/openapi.json", "").await;
        assert_eq!(status, 200);
        assert_eq!(openapi["paths"].as_object().unwrap().len(), Tool::ALL.len());
        for (path, item) in openapi["paths"].as_object().unwrap() {
            let operation = &item["post"];
            assert!(operation["description"].is_string(), "{path}");
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"]["$ref"];
            let pointer = schema.as_str().unwrap().strip_prefix('#').unwrap();
            assert!(openapi.pointer(pointer).unwrap()["properties"].is_object(), "{path}");
        }
    }

    #[tokio::test]
    async fn stream_writes_each_event_before_the_next_is_due() {
        let mut sample = Running::start().await;
        let started = std::time::Instant::now();
        sample.send("POST", "/stream", r#"{"count":3,"interval_millis":10000}"#).await;
        let (status, head) = sample.head().await;
        assert_eq!(status, 200);
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        let mut first = String::new();
        while !first.contains("data:") {
            sample.connection.read_line(&mut first).await.unwrap();
        }
        assert!(first.contains(r#"data: {"number":1,"of":3}"#), "{first}");
        assert!(started.elapsed() < Duration::from_secs(10), "the first event waited for the second");
    }

    #[tokio::test]
    async fn serve_ends_when_it_is_told_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let serving = serve(listener, async {});
        tokio::time::timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
    }
}
