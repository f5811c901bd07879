//! Asks a server whether it is well: what it offers, or a call of a tool that the operator names.
//!
//! Decides what counts as an answer: a server that refuses us is there. Nothing of the answer is kept.

use bytes::Bytes;
use http::{Method, header};

use super::{
    Ask, Client, Delivered,
    outbox::{BRIEFLY, drain},
};
use crate::{
    catalog::server::Dialect,
    mcp::{outgoing, told::Told},
    refusal::{Code, Refusal},
    upstream::{Destination, Way, breaker::Fault, mcpo},
};

/// How much of an answer is looked at.
const ENOUGH: usize = 64 * 1024;

impl Client {
    /// What is wrong with the server at the end of this way; none that it is well.
    pub async fn fault_at(&self, way: &Way) -> Option<Fault> {
        match way.server().dialect {
            Dialect::OpenApi => self.probe_rest(way).await,
            Dialect::Mcp | Dialect::McpSse => self.probe_mcp(way).await,
        }
    }

    /// The answer to `GET {path}` at the end of a way, where its head is there: a document, mostly.
    pub async fn get(&self, way: &Way, path: &'static str) -> Result<Delivered, Refusal> {
        let request = |destination: &Destination| {
            let path = format!("{}{path}", destination.peer.base_path);
            request(way, destination, Method::GET, &path, Bytes::new())
        };
        self.deliver(way, true, None, request).await
    }

    async fn probe_rest(&self, way: &Way) -> Option<Fault> {
        let delivered = match &way.server().care.probe.tool {
            None => self.get(way, "/openapi.json").await,
            Some((tool, arguments)) => {
                let request = |destination: &Destination| {
                    let path = format!("{}/{tool}", destination.peer.base_path);
                    request(way, destination, Method::POST, &path, Bytes::from(arguments.clone()))
                };
                self.deliver(way, true, None, request).await
            }
        };
        let mut incoming = match delivered {
            Ok(delivered) => delivered.incoming,
            Err(refusal) => return Some(fault_in(&refusal)),
        };
        let status = incoming.status().as_u16();
        if status < 500 {
            drain(incoming, BRIEFLY).await;
            return None;
        }
        let mut body = Vec::new();
        while let Ok(Some(piece)) = incoming.chunk(Some(BRIEFLY)).await {
            body.extend_from_slice(&piece);
            if body.len() > ENOUGH {
                break;
            }
        }
        mcpo::fault_of(way.server().tier, status, &body)
    }

    async fn probe_mcp(&self, way: &Way) -> Option<Fault> {
        let ask = match &way.server().care.probe.tool {
            None => Ask { method: "tools/list".to_owned(), ..Ask::default() },
            Some((tool, arguments)) => Ask {
                method: "tools/call".to_owned(),
                name: Some(tool.clone()),
                params: Some(outgoing::call(tool, arguments)),
                ..Ask::default()
            },
        };
        let mut replies = match self.ask(way, &Ask { is_repeatable: true, ..ask }).await {
            Ok(replies) => replies,
            Err(refusal) => return Self::unwell(&refusal),
        };
        loop {
            match replies.next().await {
                Ok(Told::Result { .. } | Told::Error { .. }) => return None,
                Ok(Told::Notification { .. } | Told::Request { .. }) => {}
                Err(refusal) => return Self::unwell(&refusal),
            }
        }
    }

    /// A server that does not believe us is there.
    fn unwell(refusal: &Refusal) -> Option<Fault> {
        (refusal.code() != Code::PeerBadAnswer).then(|| fault_in(refusal))
    }
}

fn fault_in(refusal: &Refusal) -> Fault {
    match refusal.code() {
        Code::PeerTooSlow => Fault::TooSlow,
        Code::PeerBadAnswer => Fault::NoAnswer,
        _ => Fault::Unreached,
    }
}

fn request(
    way: &Way,
    destination: &Destination,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<http::Request<Bytes>, Refusal> {
    let host = destination.host.clone();
    let mut request = http::Request::builder()
        .method(&method)
        .uri(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::USER_AGENT, concat!("portcullis/", env!("CARGO_PKG_VERSION")));
    if method == Method::POST {
        request = request
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, body.len());
    }
    if let Some(credential) = way.credential() {
        request = request.header(&credential.name, credential.value.expose());
    }
    request.body(body).map_err(Refusal::internal)
}
