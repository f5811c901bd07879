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

use super::{body::Load, legacy_revisions};
use crate::{
    access::Permit,
    catalog::server::{Dialect, Server},
    gateway::{guard::Line, hygiene},
    mcp::{
        self,
        answer::{Allows, Answer, Edit, Endpoint, Kind},
        headers,
        message::{self, Body},
        session::{Binding, Place, Purpose, Sealed, SessionKeys},
        sse,
    },
    refusal::{Code, Refusal},
    upstream::Destination,
};

/// No server has a tool of this name: it holds what names may not.
const NO_TOOL: &str = "<no such tool>";

/// What a request asked, as far as the gateway looks.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Whether it opens or resumes a stream (GET), which may be silent and ends with its client.
    pub is_get: bool,
    /// Whether it speaks a modern revision, without sessions.
    pub is_modern: bool,
    /// Whether it asks what the server speaks (`server/discover`).
    pub is_probe: bool,
    /// Whether its answer may hold a list of tools.
    pub may_list: bool,
    /// The one tool it calls. A batch, whatever it calls, ends with any change of the caller's tools.
    pub tool: Option<String>,
    /// The id to answer to, as it stands in the body.
    pub id: Option<String>,
    /// The revision it names.
    pub revision: Option<String>,
}

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
    session: Option<Opened>,
    seal: Seal,
    edited: Option<Answer>,
    is_stream: bool,
    is_begun: bool,
}

impl Asked {
    /// What a whole body asks; refuses what the permit or the server does not allow.
    pub fn read(
        body: &[u8],
        headers: &HeaderMap,
        permit: &Permit,
    ) -> (Option<String>, Result<Self, Refusal>) {
        match message::peek(body) {
            Ok(body) => (body.id().map(str::to_owned), Self::judge(&body, headers, permit)),
            Err(refusal) => (None, Err(refusal)),
        }
    }

    fn judge(body: &Body<'_>, headers: &HeaderMap, permit: &Permit) -> Result<Self, Refusal> {
        headers::refuse_disagreement(headers, body)?;
        let messages = body.messages();
        let is_method = |method| messages.iter().any(|message| message.method() == Some(method));
        let asked = Self {
            is_probe: is_method("server/discover"),
            may_list: is_method("tools/list") || matches!(body, Body::Batch(_)),
            id: body.id().map(str::to_owned),
            tool: match body {
                Body::One(message) => message.tool().map(str::to_owned),
                Body::Batch(_) => None,
            },
            ..Self::of_headers(headers)
        };
        let revision = asked.revision.or_else(|| body.version().map(str::to_owned));
        let is_modern = asked.is_modern || asked.is_probe || revision.as_deref().is_some_and(mcp::is_modern);
        let asked = Self { revision, is_modern, ..asked };
        if asked.is_modern {
            refuse_modern(permit, asked.revision.clone())?;
        }
        for tool in messages.iter().filter_map(|message| message.tool()) {
            if !permit.tools().allows(tool) {
                return Err(refuse_tool(tool, matches!(body, Body::Batch(_))));
            }
        }
        Ok(asked)
    }

    /// What can be said before the body is known.
    pub fn of_headers(headers: &HeaderMap) -> Self {
        let revision = headers::version(headers);
        Self {
            is_modern: revision.is_some_and(mcp::is_modern),
            revision: revision.map(str::to_owned),
            ..Self::default()
        }
    }
}

/// A server that is known to speak no modern revision says so here, without being asked.
fn refuse_modern(permit: &Permit, requested: Option<String>) -> Result<(), Refusal> {
    match legacy_revisions(permit.server()) {
        Some(supported) => Err(Refusal::unsupported_version(supported, requested)),
        None => Ok(()),
    }
}

/// What goes to a legacy HTTP+SSE server in place of a call that is denied: its client looks for answers in the
/// stream alone, which only the server can write to. So it is asked for a tool that it certainly lacks.
pub fn stand_in(server: &Server, refusal: &Refusal, id: Option<&str>) -> Option<Bytes> {
    let is_needed = server.dialect == Dialect::McpSse && refusal.code() == Code::UnknownTool;
    let id = id.filter(|_| is_needed)?;
    let call = format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{NO_TOOL}","arguments":{{}}}}}}"#
    );
    Some(call.into())
}

/// The sentence every server has for a tool it lacks. In a batch no single id can be answered.
fn refuse_tool(tool: &str, is_batch: bool) -> Refusal {
    let shown: String = tool.chars().take(128).collect();
    let sentence = format!("Unknown tool: {shown}");
    if is_batch {
        Refusal::new(Code::BadMessage, sentence)
    } else {
        Refusal::new(Code::UnknownTool, sentence)
    }
}

impl Exchange {
    /// An exchange that departs now; `answer_bound` limits what is held of an answer that is edited.
    pub fn new(
        permit: Permit,
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
            session,
            seal,
            edited: None,
            is_stream: false,
            is_begun: false,
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

    /// The request departs; an answer is due once all of it has.
    pub fn begin(&self) {
        if !self.is_held() {
            self.expect_answer();
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
                    let (id, asked) = Asked::read(&whole, headers, &self.permit);
                    self.asked.id = id;
                    let stand_in = asked.as_ref().err().and_then(|refusal| self.stand_in(refusal));
                    *body = match stand_in {
                        Some(stand_in) => Some(stand_in),
                        None => {
                            self.asked = asked?;
                            Some(whole)
                        }
                    };
                    self.expect_answer();
                }
            }
        }
        Ok(())
    }

    fn stand_in(&self, refusal: &Refusal) -> Option<Bytes> {
        stand_in(self.permit.server(), refusal, self.asked.id.as_deref())
    }

    /// The request is complete: from now on an answer is due, and a legacy client may leave without
    /// cancelling it (MCP 2025-11-25, Transports; 2026-07-28: leaving is cancelling).
    fn expect_answer(&self) {
        if let Some(line) = Line::current()
            && !self.asked.is_get
        {
            line.expect_answer(self.permit.server().deadlines.read);
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
            // Some clients fall back to the handshake after a 400, and after none of these.
            let supported = legacy_revisions(self.permit.server())
                .unwrap_or_else(|| vec!["2025-11-25", "2025-06-18", "2025-03-26"]);
            let cause = format!("the server answered {status} to `server/discover`");
            return Err(Refusal::unsupported_version(supported, self.asked.revision.clone()).because(cause));
        }
        if status == 401 {
            // Passed on, it would send the client to renew a credential that is good.
            return Err(Refusal::new(Code::PeerBadAnswer, "the server does not believe the gateway")
                .because("the server answered 401: see `credential` in servers.toml"));
        }
        self.replace_session(header, destination.place)?;
        self.is_stream = hygiene::is_event_stream(header);
        if let Some(line) = Line::current()
            && self.is_stream
        {
            line.answer_began();
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
        if !self.is_edited() {
            return Ok(());
        }
        let is_json = header
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().to_ascii_lowercase().starts_with(b"application/json"));
        let kind = match (self.is_stream, is_json) {
            (true, _) => Kind::Events,
            (false, true) => Kind::Json,
            // Errors and empty answers hold no list.
            (false, false) if header.status != http::StatusCode::OK || is_empty(header) => return Ok(()),
            (false, false) => return Err(unreadable("it is neither JSON nor a stream of events")),
        };
        let is_encoded = header.headers.contains_key(header::CONTENT_ENCODING);
        if is_encoded {
            return Err(unreadable("it is encoded, though that was not accepted"));
        }
        for name in [&header::CONTENT_LENGTH, &header::ETAG, &header::ACCEPT_RANGES] {
            header.remove_header(name);
        }
        header.insert_header(header::TRANSFER_ENCODING, "chunked").map_err(Refusal::internal)?;
        let edit = Edit {
            allows: is_narrowed.then(|| self.allows()),
            endpoint: names_endpoint.then(|| self.endpoint(destination)),
        };
        self.edited = Some(Answer::new(kind, self.answer_bound, edit));
        Ok(())
    }

    /// Whether anything in the body of the answer may have to change.
    pub fn is_edited(&self) -> bool {
        self.is_narrowed() || self.names_endpoint()
    }

    /// Whether the answer may hold tools that this caller is not to see. A stream that a client opens or
    /// resumes may hold the answer to any request.
    fn is_narrowed(&self) -> bool {
        let may_list = match self.permit.server().dialect {
            // Every answer comes by the one stream.
            Dialect::McpSse => false,
            Dialect::Mcp | Dialect::OpenApi => self.asked.may_list || self.is_held(),
        };
        (self.asked.is_get || may_list) && !self.permit.tools().is_everything()
    }

    /// Whether the answer names a message endpoint: the one stream of legacy HTTP+SSE does.
    fn names_endpoint(&self) -> bool {
        self.permit.server().dialect == Dialect::McpSse && self.asked.is_get
    }

    fn allows(&self) -> Allows {
        let tools = self.permit.tools().clone();
        Box::new(move |tool| tools.allows(tool))
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
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        if !self.is_stream && !self.asked.is_get {
            // The next piece is due, too: only a stream may be silent.
            line.expect_answer(self.permit.server().deadlines.read);
        }
        if self.is_stream && is_first && sse::first_event_has_id(bytes) == Some(true) {
            // It can be resumed elsewhere, and a server may refuse that while it still runs here.
            line.outlive_client(false);
        }
    }
}

fn is_empty(header: &ResponseHeader) -> bool {
    header.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0")
}

fn unreadable(why: &'static str) -> Refusal {
    Refusal::new(Code::PeerBadAnswer, "the server's answer cannot be passed on").because(why)
}

/// Whose a session is, and with which server.
pub fn binding(permit: &Permit, purpose: Purpose) -> Binding<'_> {
    Binding { purpose, server: &permit.server().id, caller: permit.caller().name() }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
