//! One exchange of native MCP: what was asked, and so what has to change in its answer.
//!
//! Decides whether a body may go on (tool rules, headers against body, revision) and edits of an answer
//! exactly this: the session id, the message endpoint of a legacy HTTP+SSE server, the lists of a caller
//! whose tools are narrowed, and the refusal of a probe. Everything else passes byte for byte.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, header};
use pingora::http::ResponseHeader;
use url::Url;

use super::{
    asked::{self, Asked, Heard, Reading},
    body::Load,
    label::{has_no_body, is_encoded, media_type, names_messages},
    legacy_revisions,
    pinned::Pinned,
    verdict::Verdict,
};
use crate::{
    access::Permit,
    catalog::server::Dialect,
    credentials,
    gateway::{failure::Failure, line::Line},
    mcp::{
        self,
        answer::{Answer, Edit, Endpoint, Kind},
        headers,
        session::{Binding, Place, Purpose, Sealed, SessionKeys},
        sse,
    },
    refusal::{Code, Refusal},
    upstream::Destination,
};

/// The session a request belongs to.
#[derive(Debug)]
pub struct Opened {
    /// The id as the client has it.
    pub sealed: String,
    /// The server's own.
    pub upstream: String,
}

/// What session ids are sealed with, and for how long.
#[derive(Debug, Clone)]
pub struct Seal {
    /// The keys in use.
    pub keys: Arc<SessionKeys>,
    /// How long a session may last.
    pub ttl: Duration,
}

impl Seal {
    fn seal(&self, permit: &Permit, purpose: Purpose, upstream: &str, place: Place) -> Option<String> {
        let expires_at = now().saturating_add(self.ttl.as_secs());
        let sealed = Sealed { upstream: upstream.to_owned(), place, expires_at };
        self.keys.seal(&binding(permit, purpose), &sealed)
    }
}

/// One exchange, from the departure to the last byte of the answer.
pub struct Exchange {
    /// The request's body.
    pub load: Load,
    /// What it asked; of a held body, as much as its headers say.
    pub asked: Asked,
    answer_bound: usize,
    permit: Permit,
    pinned: Pinned,
    session: Option<Opened>,
    seal: Seal,
    edited: Option<Answer>,
    is_stream: bool,
    /// What has been seen of a stream, until it shows whether it can be resumed.
    beginning: Option<Vec<u8>>,
    verdict: Option<Verdict>,
    /// Whether the audit wants to know what is called.
    pub is_audited: bool,
    /// What the audit keeps of a body that was held.
    pub heard: Option<Heard>,
    /// A denied call that another one stands in for: only the record knows.
    pub denied: Option<Refusal>,
}

/// So many bytes show whether a stream can be resumed, or it counts as one that cannot.
const BEGINNING: usize = 1024;

impl Exchange {
    /// An exchange that departs now; `answer_bound` limits what is held of an answer that is edited.
    pub fn new(
        (permit, pinned): (Permit, Pinned),
        (load, asked): (Load, Asked),
        session: Option<Opened>,
        seal: Seal,
        answer_bound: usize,
    ) -> Self {
        Self {
            load,
            asked,
            answer_bound,
            permit,
            pinned,
            session,
            seal,
            edited: None,
            is_stream: false,
            beginning: Some(Vec::new()),
            verdict: None,
            is_audited: false,
            heard: None,
            denied: None,
        }
    }

    /// Under which permit.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Whether the body departs only when it was judged.
    pub fn is_held(&self) -> bool {
        matches!(self.load, Load::Held(..))
    }

    /// The permit of this moment, for a body that was long on its way.
    pub fn renew(&mut self, permit: Permit) {
        self.permit = permit;
    }

    /// The request departs; an answer is due once all of it has, and that within this time.
    pub fn begin(&self, body_timeout: Duration) {
        match Line::current() {
            Some(line) if self.is_held() => line.expect_answer(body_timeout),
            _ => self.expect_answer(),
        }
    }

    /// Turns the next bytes from the client into the next bytes for the peer. What is held is judged at its
    /// end: nothing of it has gone on before.
    pub fn pass(
        &mut self,
        body: &mut Option<Bytes>,
        is_end: bool,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        match &mut self.load {
            Load::Nothing => *body = body.take().map(|_| Bytes::new()),
            Load::Whole(whole) => *body = Some(if is_end { whole.clone() } else { Bytes::new() }),
            Load::Held(held, bound) => {
                let bytes = body.take().unwrap_or_default();
                if held.len() + bytes.len() > *bound {
                    return Err(super::body::too_large(*bound));
                }
                held.extend_from_slice(&bytes);
                // Never `None` before the end: that would end the peer's body.
                *body = Some(Bytes::new());
                if is_end {
                    let whole = held.split().freeze();
                    *body = Some(self.judge(whole, headers)?);
                }
            }
        }
        Ok(())
    }

    /// Judges a body that was held, and gives back what goes on.
    fn judge(&mut self, whole: Bytes, headers: &HeaderMap) -> Result<Bytes, Refusal> {
        let Reading { id, heard, asked } =
            Asked::read(&whole, headers, &self.permit, &self.pinned.now(), self.is_audited);
        self.asked.id = id;
        self.heard = Some(heard);
        let refusal = match asked {
            Ok(asked) => {
                self.asked = asked;
                self.load = Load::Nothing;
                return Ok(whole);
            }
            Err(refusal) => refusal,
        };
        match asked::stand_in(self.permit.server(), &refusal, self.asked.id.as_deref()) {
            Some(stand_in) => {
                self.denied = Some(refusal);
                Ok(stand_in)
            }
            None => Err(refusal),
        }
    }

    /// The request is complete: from now on an answer is due, and a legacy client may leave without
    /// cancelling it (MCP 2025-11-25, Transports; 2026-07-28: leaving is cancelling).
    pub fn expect_answer(&self) {
        if let Some(line) = Line::current()
            && !self.asked.is_get
        {
            if !self.is_stream {
                line.expect_answer(self.permit.server().deadlines.first_byte);
                line.must_end(self.permit.server().deadlines.total);
            }
            line.outlive_client(!self.asked.is_modern);
        }
    }

    /// Edits the head of the answer.
    pub fn answer_head(
        &mut self,
        header: &mut ResponseHeader,
        destination: &Destination,
    ) -> Result<(), Refusal> {
        let status = header.status.as_u16();
        if self.asked.is_probe && (matches!(status, 401 | 403) || status >= 500) {
            return Err(self.refused_probe(format_args!("it answered {status}")));
        }
        if status == 401 {
            // Passed on, it would send the client to renew a credential that is good.
            return Err(Refusal::new(Code::PeerBadAnswer, "the server does not believe the gateway")
                .because("the server answered 401: see `credential` in servers.toml"));
        }
        self.replace_session(header, destination.place)?;
        self.is_stream = media_type(header).as_deref() == Some("text/event-stream");
        self.verdict = self.asked.awaited.map(|awaited| match is_encoded(header) {
            true => Verdict::blind(awaited, self.is_stream),
            false => Verdict::new(awaited, self.is_stream),
        });
        if let Some(line) = Line::current() {
            if self.is_stream {
                line.answer_began();
                line.may_go_on();
            } else if !self.asked.is_get {
                // What follows is due, too: only a stream may be silent.
                line.expect_answer(self.permit.server().deadlines.read);
            }
        }
        self.begin_edit(header, destination)
    }

    /// Gives the client its own id of the session in place of the server's.
    fn replace_session(&self, header: &mut ResponseHeader, place: Place) -> Result<(), Refusal> {
        let Some(upstream) = header.remove_header(&headers::SESSION_ID) else { return Ok(()) };
        if self.asked.is_modern {
            return Ok(());
        }
        let upstream = upstream.to_str().unwrap_or_default();
        let sealed = match &self.session {
            Some(session) if session.upstream == upstream => Some(session.sealed.clone()),
            _ => self.seal.seal(&self.permit, Purpose::Session, upstream, place),
        };
        let sealed = sealed.ok_or_else(|| {
            Refusal::new(Code::PeerBadAnswer, "the server named a session in a way that MCP does not allow")
        })?;
        header.insert_header(&headers::SESSION_ID, sealed).map_err(Refusal::internal)
    }

    fn begin_edit(&mut self, header: &mut ResponseHeader, destination: &Destination) -> Result<(), Refusal> {
        let is_narrowed = self.is_narrowed();
        let names_endpoint = self.names_endpoint();
        if !self.is_edited() || has_no_body(header) {
            return Ok(());
        }
        let kind = match media_type(header).as_deref() {
            Some("text/event-stream") => Kind::Events,
            Some("application/json") => Kind::Json,
            // Errors hold no list, and a legacy HTTP+SSE server answers a message with anything or nothing.
            _ if !header.status.is_success() || self.permit.server().dialect == Dialect::McpSse => {
                return Ok(());
            }
            // Not asked for a list, and not taken for a message by those who look closer than we do.
            _ if !self.may_list() && !names_messages(header) => return Ok(()),
            _ => return Err(unreadable("it is neither JSON nor a stream of events")),
        };
        if is_encoded(header) {
            return Err(unreadable("it is encoded, though that was not accepted"));
        }
        for name in [&header::CONTENT_LENGTH, &header::ETAG, &header::ACCEPT_RANGES] {
            header.remove_header(name);
        }
        header.insert_header(header::TRANSFER_ENCODING, "chunked").map_err(Refusal::internal)?;
        let edit = Edit {
            allows: is_narrowed.then(|| self.pinned.allows(&self.permit)),
            endpoint: names_endpoint.then(|| self.endpoint(destination)),
        };
        self.edited = Some(Answer::new(kind, self.answer_bound, edit));
        Ok(())
    }

    /// Whether anything in the body of the answer may have to change.
    pub fn is_edited(&self) -> bool {
        self.is_narrowed() || self.names_endpoint()
    }

    /// Whether the answer may hold tools that this caller is not to see.
    ///
    /// A server whose tools are pinned is not trusted to answer what it was asked: it could list its tools in the answer
    /// to something else that is asked at the same time, by the id of the request for the list.
    fn is_narrowed(&self) -> bool {
        self.permit.server().is_pinned || self.may_list() && !self.permit.tools().is_everything()
    }

    /// Whether a list may have been asked for. A stream that a client opens or resumes may hold the answer to any
    /// request.
    fn may_list(&self) -> bool {
        self.asked.is_get || self.asked.may_list || self.is_held()
    }

    /// Whether the answer names a message endpoint: the one stream of legacy HTTP+SSE does.
    fn names_endpoint(&self) -> bool {
        self.permit.server().dialect == Dialect::McpSse && self.asked.is_get
    }

    fn endpoint(&self, destination: &Destination) -> Endpoint {
        let (seal, permit) = (self.seal.clone(), self.permit.clone());
        let (stream, place) = (Url::parse(&destination.peer.to_string()), destination.place);
        Box::new(move |named| {
            let path = mcp::answer::resolve_endpoint(stream.as_ref().ok()?, named)?;
            let sealed = seal.seal(&permit, Purpose::Endpoint, &path, place)?;
            Some(format!("/{}/mcp?{}={sealed}", permit.server().id, super::ENDPOINT_PARAMETER))
        })
    }

    /// Hears the next piece of the answer to calls: once they are answered, whether any could not be done.
    pub fn hear_answer(&mut self, body: &Option<Bytes>, is_end: bool) -> Option<bool> {
        self.verdict.as_mut()?.hear(body.as_ref(), is_end)
    }

    /// Edits the next piece of the answer.
    pub fn answer_body(&mut self, body: &mut Option<Bytes>, is_end: bool) -> Result<(), Refusal> {
        if let (Some(bytes), Some(line)) = (body.as_deref(), Line::current()) {
            self.note_piece(bytes, &line);
        }
        let Some(answer) = &mut self.edited else { return Ok(()) };
        let edited = answer
            .feed(body.as_deref().unwrap_or_default(), is_end)
            .map_err(|error| unreadable("its tools cannot be told apart").because(error))?;
        *body = (!edited.is_empty()).then_some(edited);
        Ok(())
    }

    fn note_piece(&mut self, bytes: &[u8], line: &Line) {
        if !self.is_stream && !self.asked.is_get {
            // The next piece is due, too: only a stream may be silent.
            line.expect_answer(self.permit.server().deadlines.read);
        }
        let Some(mut beginning) = self.beginning.take().filter(|_| self.is_stream) else { return };
        beginning.extend_from_slice(&bytes[..bytes.len().min(BEGINNING)]);
        match sse::first_event_has_id(&beginning) {
            // It can be resumed elsewhere, and a server may refuse that while it still runs here.
            Some(true) => line.outlive_client(false),
            None if beginning.len() < BEGINNING => self.beginning = Some(beginning),
            Some(false) | None => {}
        }
    }

    /// What the client is told instead of `refusal`, which ended the trip.
    pub fn told(&self, refusal: Refusal, failure: Failure) -> Refusal {
        match failure {
            Failure::Overdue if self.is_held() => super::body::too_slow(),
            // It was asked, and gave no answer that a client could go on with.
            Failure::Overdue | Failure::Asked if self.asked.is_probe => self.refused_probe(&refusal),
            Failure::Overdue | Failure::Asked | Failure::Unasked => refusal,
        }
    }

    /// What a client is told whose probe the server did not take: some fall back to the handshake after a 400,
    /// and after nothing else.
    fn refused_probe(&self, how: impl std::fmt::Display) -> Refusal {
        let supported = legacy_revisions(self.permit.server())
            .unwrap_or_else(|| vec!["2025-11-25", "2025-06-18", "2025-03-26"]);
        Refusal::unsupported_version(supported, self.asked.revision.clone())
            .because(format_args!("the server did not take `server/discover`: {how}"))
    }
}

fn unreadable(why: &'static str) -> Refusal {
    Refusal::new(Code::PeerBadAnswer, "the server's answer cannot be passed on").because(why)
}

/// Whose a session is, and with which server.
pub fn binding(permit: &Permit, purpose: Purpose) -> Binding<'_> {
    let standing = credentials::standing(permit);
    Binding { purpose, server: Some(&permit.server().id), caller: permit.caller().name(), standing }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
