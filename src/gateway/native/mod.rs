//! Native MCP of one server: the journey of `POST`, `GET` and `DELETE /{server}/mcp`, from the permit to
//! the departure.
//!
//! Decides which revision a request speaks, whose session it belongs to and where that lives. Era by era,
//! request by request: nothing is remembered between two of them.

mod body;
pub mod exchange;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, Uri};
use pingora::proxy::Session;
use tracing::info;

use super::{
    Gateway,
    decide::Step,
    framing,
    journey::{Cargo, Journey},
    live::Use,
};
use crate::{
    access::Permit,
    catalog::server::{Dialect, Server},
    mcp::{
        headers,
        session::{Purpose, Sealed, SessionKey, SessionKeys},
    },
    names::ToolName,
    refusal::{Code, Refusal},
    upstream::native::{self, Native, unknown_session},
};
use body::Load;
use exchange::{Asked, Exchange, Opened};

/// Bounds of native MCP.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What session ids are sealed with, the key in use first; none: one that ends with the process.
    pub session_keys: Vec<SessionKey>,
    /// How long a session may last.
    pub session_ttl: Duration,
    /// Largest request body.
    pub max_message_bytes: usize,
    /// Largest answer, or event of one, that is held to take tools out of it.
    pub max_list_bytes: usize,
}

impl Settings {
    /// The keys in use; without any configured, one that nobody else has.
    pub fn keys(&self) -> anyhow::Result<Arc<SessionKeys>> {
        if !self.session_keys.is_empty() {
            return Ok(Arc::new(SessionKeys::new(&self.session_keys)));
        }
        info!(
            "`mcp.session_keys` is empty: MCP sessions end with this process, and other replicas do not know them; \
             make a key with `openssl rand -hex 32`"
        );
        Ok(Arc::new(SessionKeys::new(&[SessionKey::random()?])))
    }
}

/// Where a legacy HTTP+SSE client finds the sealed message endpoint in its URL.
pub const ENDPOINT_PARAMETER: &str = "sessionId";

impl Gateway {
    /// Walks a request of native MCP from its permit to its departure.
    pub(super) async fn decide_native(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        permit: Permit,
        change_count: u64,
    ) -> Result<Step, Refusal> {
        let server = permit.server().clone();
        if server.dialect == Dialect::OpenApi {
            let sentence = "this server speaks REST; `GET /{server}` lists its tools";
            return Err(Refusal::new(Code::NotFound, sentence));
        }
        let request = session.req_header();
        headers::refuse_repeated(&request.headers)?;
        let method = request.method.clone();
        let headers = request.headers.clone();
        let uri = request.uri.clone();
        let (load, asked) = if method == Method::POST {
            body::refuse_label(&headers)?;
            self.read_message(session, journey, &headers, &permit).await?
        } else {
            refuse_body(&headers)?;
            (Load::Nothing, Asked::of_headers(&headers))
        };
        journey.record.tool = asked.tool.as_deref().and_then(|tool| ToolName::parse(tool).ok());
        let request_is_get = method == Method::GET;
        let mut native = Native { method, session: None, endpoint: None };
        let mut opened = None;
        let mut place = None;
        if server.dialect == Dialect::McpSse {
            if let Some(sealed) = self.endpoint(&permit, &native.method, &uri)? {
                (native.endpoint, place) = (Some(sealed.upstream), Some(sealed.place));
            }
        } else if !asked.is_modern
            && let Some(id) = headers.get(&headers::SESSION_ID)
        {
            let id = id.to_str().unwrap_or_default();
            let sealed = self.open(&permit, Purpose::Session, id)?;
            place = Some(sealed.place);
            native.session = Some(sealed.upstream.clone());
            opened = Some(Opened { sealed: id.to_owned(), upstream: sealed.upstream });
        }
        let addresses = &self.current.load().addresses;
        let trip = native::plan(permit.clone(), native, place, addresses)?;
        let live = self.begin_live(
            &permit,
            journey.record.tool.clone().map_or(Use::Stream, Use::Tool),
            change_count,
        )?;
        let exchange = Exchange {
            is_get: request_is_get,
            load,
            asked,
            session: opened,
            permit,
            keys: self.session_keys.clone(),
            session_ttl_secs: self.settings.mcp.session_ttl.as_secs(),
            answer_bound: self.settings.mcp.max_list_bytes,
            edited: None,
            is_stream: false,
            is_begun: false,
        };
        if !matches!(exchange.load, Load::Held(..)) {
            exchange.expect_answer();
        }
        Ok(Step::Depart(trip, Cargo::Native(Box::new(exchange)), live))
    }

    async fn read_message(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        headers: &HeaderMap,
        permit: &Permit,
    ) -> Result<(Load, Asked), Refusal> {
        let load = body::read(session, self.settings.mcp.max_message_bytes).await?;
        let asked = match &load {
            Load::Whole(bytes) => {
                let (id, asked) = Asked::read(bytes, headers, permit);
                journey.note_rpc_id(id);
                asked?
            }
            Load::Held(..) | Load::Nothing => Asked::of_headers(headers),
        };
        Ok((load, asked))
    }

    fn open(&self, permit: &Permit, purpose: Purpose, id: &str) -> Result<Sealed, Refusal> {
        self.session_keys.open(&exchange::binding(permit, purpose), id, exchange::now()).ok_or_else(|| {
            unknown_session("the id does not open: foreign, expired or not sealed with a key in use")
        })
    }

    /// The message endpoint a legacy HTTP+SSE client posts to. Its one stream is opened without any.
    fn endpoint(&self, permit: &Permit, method: &Method, uri: &Uri) -> Result<Option<Sealed>, Refusal> {
        let query = uri.query().unwrap_or_default().as_bytes();
        let mut ids = form_urlencoded::parse(query).filter(|(name, _)| name == ENDPOINT_PARAMETER);
        match (method, ids.next()) {
            (&Method::GET, None) => Ok(None),
            (&Method::POST, Some((_, id))) => self.open(permit, Purpose::Endpoint, &id).map(Some),
            // A client that tries the newer transport first goes back to a GET (MCP 2025-11-25, Transports,
            // Backwards Compatibility).
            (&Method::POST, None) => Err(Refusal::method_not_allowed("GET")),
            _ => Err(Refusal::method_not_allowed("GET, POST")),
        }
    }
}

fn refuse_body(headers: &HeaderMap) -> Result<(), Refusal> {
    match framing::read(headers)? {
        framing::End::NoBody | framing::End::After(0) => Ok(()),
        _ => Err(Refusal::new(Code::BadRequest, "only a POST may have a body here").closing()),
    }
}

/// The revisions of a server that is known to speak no modern one; none where that is for the server to say.
fn legacy_revisions(server: &Server) -> Option<Vec<&'static str>> {
    if server.dialect == Dialect::McpSse {
        return Some(vec!["2024-11-05"]);
    }
    let revisions: Vec<_> = server.mcp_versions.as_deref()?.iter().map(|version| version.as_str()).collect();
    let is_modern = revisions.iter().any(|version| crate::mcp::is_modern(version));
    (!is_modern).then_some(revisions)
}
