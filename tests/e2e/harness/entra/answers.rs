//! Connections to the identity provider: requests read, faults done, answers written.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::{Asked, Fault, Page, Provider, Shared, documents, graph, lock, sign_in};
use crate::harness::wire::{Framing, Head, read_body};

/// An answer, not yet written.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(status: u16, body: &Value) -> Self {
        let headers = vec![("content-type", "application/json; charset=utf-8".to_owned())];
        Self { status, headers, body: body.to_string().into_bytes() }
    }

    /// Entra's way to refuse.
    pub fn error(error: &str, code: u32, sentence: &str) -> Self {
        let description = format!("AADSTS{code}: {sentence} Trace ID: 0 Correlation ID: 0");
        Self::json(400, &json!({"error": error, "error_description": description, "error_codes": [code]}))
    }

    pub fn redirect(location: String) -> Self {
        Self { status: 302, headers: vec![("location", location)], body: Vec::new() }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn bytes(&self, is_head: bool) -> Vec<u8> {
        let mut head =
            format!("HTTP/1.1 {} Whatever\r\ncontent-length: {}\r\n", self.status, self.body.len());
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        if is_head { head.into_bytes() } else { [head.as_bytes(), &self.body].concat() }
    }
}

impl Asked {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The path without its query.
    pub fn bare_path(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }

    /// Parameters of the query.
    pub fn query(&self) -> Vec<(String, String)> {
        pairs(self.path.split_once('?').map_or("", |(_, query)| query))
    }

    /// Parameters of a form.
    pub fn form(&self) -> Vec<(String, String)> {
        pairs(&self.body)
    }
}

fn pairs(text: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

/// The only value of a parameter; one that stands twice is none.
pub fn parameter<'a>(parameters: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut values = parameters.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let first = values.next();
    if values.next().is_some() { None } else { first }
}

pub async fn serve(socket: TcpStream, provider: Provider) {
    let _ = socket.set_nodelay(true);
    let mut connection = BufReader::new(socket);
    while let Ok(Some(head)) = Head::read(&mut connection).await {
        let framing = head.framing().unwrap_or(Framing::Length(0));
        let Ok(body) = read_body(&mut connection, framing).await else { return };
        let asked = asked(head, body);
        note(&provider.state, &asked);
        let is_head = asked.method == "HEAD";
        let Some(bytes) = react(&mut connection, &provider, &asked).await else { return };
        if connection.write_all(&bytes(is_head)).await.is_err() {
            return;
        }
    }
}

fn asked(head: Head, body: Vec<u8>) -> Asked {
    let mut words = head.first_line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers = head.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    let page = documents::page(path.split('?').next().unwrap_or_default());
    Asked {
        page,
        method,
        headers: headers.collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
        path,
    }
}

fn note(state: &Shared, asked: &Asked) {
    let mut state = lock(state);
    *state.hits.entry(asked.page).or_default() += 1;
    state.asked.push(asked.clone());
}

type Bytes = Box<dyn FnOnce(bool) -> Vec<u8> + Send>;

/// What is to be written, or nothing where the connection is over.
async fn react(connection: &mut BufReader<TcpStream>, provider: &Provider, asked: &Asked) -> Option<Bytes> {
    let mut changes = provider.faults_changed.subscribe();
    loop {
        let fault = lock(&provider.state).faults.get(&asked.page).cloned();
        let Some(fault) = fault else { break };
        match fault {
            Fault::Wait => changes.changed().await.ok()?,
            Fault::Hang => {
                let _ = connection.read_to_end(&mut Vec::new()).await;
                return None;
            }
            Fault::HangUp => return None,
            Fault::BreakOff => {
                let bytes = answer(provider, asked).bytes(false);
                let _ = connection.write_all(&bytes[..bytes.len() - 20]).await;
                return None;
            }
            Fault::Status(status) => {
                let error = json!({"error": "temporarily_unavailable", "error_codes": [90033]});
                return Some(Box::new(move |is_head| Reply::json(status, &error).bytes(is_head)));
            }
            Fault::Body(body) => return Some(written(200, body)),
            Fault::Answer(status, body) => return Some(written(status, body)),
            Fault::Huge(size) => {
                let padding = json!({"keys": [], "padding": "x".repeat(size)});
                return Some(Box::new(move |is_head| Reply::json(200, &padding).bytes(is_head)));
            }
            Fault::Endless => {
                endless(connection).await;
                return None;
            }
            Fault::Redirect(location) => {
                return Some(Box::new(move |is_head| Reply::redirect(location).bytes(is_head)));
            }
        }
    }
    let reply = answer(provider, asked);
    Some(Box::new(move |is_head| reply.bytes(is_head)))
}

fn written(status: u16, body: Vec<u8>) -> Bytes {
    let headers = vec![("content-type", "application/json".to_owned())];
    Box::new(move |is_head| Reply { status, headers, body }.bytes(is_head))
}

async fn endless(connection: &mut BufReader<TcpStream>) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"keys\":[],\"padding\":\"";
    if connection.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    while connection.write_all(&[b'x'; 16_384]).await.is_ok() {}
}

fn answer(provider: &Provider, asked: &Asked) -> Reply {
    let base = provider.url();
    let mut state = lock(&provider.state);
    match asked.page {
        Page::Configuration | Page::ConfigurationV1 => documents::configuration(&state, &base, asked),
        Page::Keys | Page::KeysV1 => documents::keys(&state, &base, asked),
        Page::Authorize => sign_in::authorize(&mut state, asked),
        Page::Token => {
            drop(state);
            sign_in::token(provider, asked)
        }
        Page::MyGroups | Page::UserGroups => graph::groups(&state, &base, asked),
        Page::Elsewhere => documents::elsewhere(&state, &base, asked),
    }
}
