//! Where messages for a server go: one of its addresses, the session there, and the headers that both want.
//!
//! Decides which headers a request has. Never decides whether one is sent again.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tokio::sync::Semaphore;

use super::{
    answer,
    session::SessionRef,
    stopped::{Stopped, fault_of},
};
use crate::{
    dial::wire::{self, Failed, Incoming, Wire},
    mcp::{headers, is_modern},
    refusal::Refusal,
    trace::Trace,
    upstream::{
        Destination, Way,
        breaker::Fault,
        native,
        peer::{recipient, way_path},
    },
};

/// What the gateway calls itself towards servers.
const NAME: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));
/// The first revision in which requests say it in a header (MCP 2025-06-18, Transports).
const FIRST_IN_HEADER: &str = "2025-06-18";
/// Answers of ours that may be on their way to one session at once.
const SEATS: usize = 8;
/// How long a message is given whose fate nobody waits for.
const SOON: Duration = Duration::from_secs(10);
/// How long the end of an answer is waited for that says nothing.
pub(super) const BRIEFLY: Duration = Duration::from_millis(100);

/// Where messages for a server go.
#[derive(Clone)]
pub(super) struct Outbox {
    pub(super) wire: Wire,
    pub(super) way: Way,
    pub(super) destination: Destination,
    pub(super) session: SessionRef,
    /// For answers to what the server asks us.
    seats: Arc<Semaphore>,
}

impl Outbox {
    /// Before there is a session, or without one in a modern revision.
    pub(super) fn new(wire: &Wire, way: &Way, destination: &Destination, version: &str) -> Self {
        let session =
            SessionRef { id: None, endpoint: None, version: version.to_owned(), place: destination.place };
        let seats = Arc::new(Semaphore::new(SEATS));
        Self { wire: wire.clone(), way: way.clone(), destination: destination.clone(), session, seats }
    }

    /// For a session that may have been opened by another replica.
    pub(super) fn into_session(wire: &Wire, way: &Way, session: &SessionRef) -> Result<Self, Refusal> {
        let way = way.at(session.place)?;
        let destination = way.course().first().cloned();
        let destination = destination.ok_or_else(|| native::unknown_session("the session's peer is gone"))?;
        let seats = Arc::new(Semaphore::new(SEATS));
        Ok(Self { wire: wire.clone(), way, destination, session: session.clone(), seats })
    }

    /// Longest wait for the beginning of an answer, and for more of one that is no stream.
    pub(super) fn patience(&self) -> Duration {
        self.way.server().deadlines.first_byte
    }

    /// Sends one message.
    pub(super) async fn post(
        &self,
        message: String,
        more: &[(HeaderName, HeaderValue)],
    ) -> Result<Incoming, Failed> {
        self.post_noted(message, more, None).await
    }

    /// Sends one message, as the present try of a request that may be traced.
    pub(super) async fn post_noted(
        &self,
        message: String,
        more: &[(HeaderName, HeaderValue)],
        trace: Option<&Arc<Trace>>,
    ) -> Result<Incoming, Failed> {
        let mut headers = self.headers("application/json, text/event-stream");
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_LENGTH, message.len().into());
        for (name, value) in more {
            headers.append(name, value.clone());
        }
        if let Some(trace) = trace {
            trace.outgoing().write(&mut headers);
        }
        self.send(Method::POST, headers, Bytes::from(message), trace).await
    }

    /// Opens the server's own stream, or resumes one after an event.
    pub(super) async fn get(&self, last_event: Option<&str>) -> Result<Incoming, Failed> {
        let mut headers = self.headers("text/event-stream");
        if let Some(last_event) = last_event {
            let value = HeaderValue::from_str(last_event).map_err(|_| unwritable("an event's id"))?;
            headers.insert(&headers::LAST_EVENT_ID, value);
        }
        self.send(Method::GET, headers, Bytes::new(), None).await
    }

    /// Ends the session, if the server lets us.
    pub(super) async fn delete(&self) {
        let headers = self.headers("application/json, text/event-stream");
        if let Ok(incoming) = self.send(Method::DELETE, headers, Bytes::new(), None).await {
            drain(incoming, self.patience()).await;
        }
    }

    /// Sends a message that has no answer.
    pub(super) async fn tell(&self, message: String) -> Result<(), Stopped> {
        let incoming = self.post(message, &[]).await?;
        let status = incoming.status();
        if status.is_success() {
            // It was taken; what is left of the answer decides only whether the connection can serve again.
            drain(incoming, BRIEFLY).await;
            return Ok(());
        }
        if status == http::StatusCode::NOT_FOUND && self.session.is_one() {
            return Err(Stopped::Unrun(native::unknown_session("the server knows the session no more")));
        }
        Err(Stopped::Refused(answer::refused_with(status, incoming.headers())))
    }

    /// Answers what the server asks us, whatever comes of it. A server that asks faster than it takes answers gets none:
    /// each has a connection of its own.
    pub(super) fn answer_soon(self: &Arc<Self>, answer: String) {
        if let Ok(seat) = self.seats.clone().try_acquire_owned() {
            let outbox = self.clone();
            soon(async move {
                drop(outbox.tell(answer).await);
                drop(seat);
            });
        }
    }

    /// Sends a message that has no answer, whatever comes of it.
    pub(super) fn tell_soon(self: &Arc<Self>, message: String) {
        let outbox = self.clone();
        soon(async move { drop(outbox.tell(message).await) });
    }

    fn headers(&self, accept: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(12);
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(NAME));
        let SessionRef { id, version, .. } = &self.session;
        if let Some(Ok(id)) = id.as_deref().map(HeaderValue::from_str) {
            headers.insert(&headers::SESSION_ID, id);
        }
        if version.as_str() >= FIRST_IN_HEADER
            && let Ok(version) = HeaderValue::from_str(version)
        {
            headers.insert(&headers::PROTOCOL_VERSION, version);
        }
        headers
    }

    async fn send(
        &self,
        method: Method,
        mut headers: HeaderMap,
        body: Bytes,
        trace: Option<&Arc<Trace>>,
    ) -> Result<Incoming, Failed> {
        headers.insert(header::HOST, self.destination.host.clone());
        if let Some(credential) = self.way.credential() {
            headers.insert(&credential.name, credential.value.expose().clone());
        }
        let path = match &self.session.endpoint {
            Some(endpoint) if method == Method::POST => endpoint.clone(),
            _ => way_path(&self.destination),
        };
        let request = http::Request::builder().method(method).uri(path).body(body);
        let mut request = request.map_err(|_| unwritable("the peer's path"))?;
        *request.headers_mut() = headers;
        if let Some(trace) = trace {
            request.extensions_mut().insert(trace.clone());
        }
        let mut sent = self.wire.send(recipient(&self.way, &self.destination), request).await;
        if let Ok(incoming) = &sent {
            self.destination.health.tally().note_connection(incoming.is_reused());
        }
        match &mut sent {
            // The peer itself, or what stands in front of it.
            Ok(incoming) if answer::is_of_what_stands_in_front(incoming.status()) => {
                self.destination.health.note(Some(Fault::SaidSo));
            }
            // Streams break off.
            Ok(incoming)
                if answer::media_type(incoming.headers()).as_deref() == Some("text/event-stream") => {}
            // Half of an answer is none. A good one is noted by who asked: a greeting that is answered says little.
            Ok(incoming) => {
                let health = self.destination.health.clone();
                incoming.at_end(move |failed| {
                    if let Some(fault) = failed.and_then(fault_of) {
                        health.note(Some(fault));
                    }
                });
            }
            Err(failed) => {
                if let Some(fault) = fault_of(*failed) {
                    self.destination.health.note(Some(fault));
                }
            }
        }
        sent
    }
}

impl SessionRef {
    /// Whether it names a session at all: a server may do without.
    pub(super) fn is_one(&self) -> bool {
        self.id.is_some() || self.endpoint.is_some()
    }
}

/// Headers of a request that say what its body says (MCP 2026-07-28, Transports, Request Headers).
pub(super) fn mirrored(
    version: &str,
    method: &str,
    name: Option<&str>,
    params: &[(String, String)],
) -> Result<Vec<(HeaderName, HeaderValue)>, Refusal> {
    if !is_modern(version) {
        return Ok(Vec::new());
    }
    let value = |text: &str| {
        HeaderValue::from_str(text).map_err(|_| Refusal::internal("a mirrored value is not fit for a header"))
    };
    let mut mirrored = vec![(headers::METHOD.clone(), value(method)?)];
    if let Some(name) = name {
        mirrored.push((headers::NAME.clone(), value(&crate::mcp::param_headers::header_text(name))?));
    }
    for (name, text) in params {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Refusal::internal("a mirrored argument has no name fit for a header"))?;
        mirrored.push((name, value(text)?));
    }
    Ok(mirrored)
}

fn unwritable(word: &'static str) -> Failed {
    Failed { is_sent: false, kind: wire::Fault::Unwritable, word }
}

/// Reads what nobody wants to know, so that the connection can serve again.
pub(super) async fn drain(mut incoming: Incoming, patience: Duration) {
    let mut length = 0;
    while let Ok(Some(piece)) = incoming.chunk(Some(patience)).await {
        length += piece.len();
        if length > 64 * 1024 {
            return;
        }
    }
}

/// Does something without anybody waiting for it, for a while.
pub(super) fn soon(work: impl Future<Output = ()> + Send + 'static) {
    // Without a runtime, as when the process ends, there is nobody to do it.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move { drop(tokio::time::timeout(SOON, work).await) });
    }
}
