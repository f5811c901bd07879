//! Native MCP of one server: the journey of `POST`, `GET` and `DELETE /{server}/mcp`, from the permit to
//! the departure.
//!
//! Decides which revision a request speaks, whose session it belongs to and where that lives. Era by era,
//! request by request: nothing is remembered between two of them.

pub mod asked;
pub(super) mod body;
pub mod exchange;
mod label;
mod pinned;
mod verdict;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, Uri, request::Parts};
use pingora::proxy::Session;

use super::{
    Gateway,
    decide::Step,
    framing,
    journey::{Cargo, Journey, Underway},
    live::Use,
};
use crate::{
    access::Permit,
    catalog::server::{Dialect, Server},
    mcp::{
        headers,
        session::{Place, Purpose, Sealed, SessionKeys},
    },
    names::SecretKey,
    refusal::{Code, Refusal},
    trace::Leg,
    upstream::native::{self, Native, unknown_session},
};
pub(super) use asked::Heard;
use asked::{Asked, Reading};
use body::Load;
pub(super) use body::{refuse_label, too_slow};
use exchange::{Exchange, Opened, Seal};
use pinned::Pinned;

/// Bounds of native MCP.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What session ids are sealed with, the key in use first; none: one that ends with the process.
    pub session_keys: Vec<SecretKey>,
    /// How long a session may last.
    pub session_ttl: Duration,
    /// Largest request body.
    pub max_message_bytes: usize,
    /// Largest answer, or event of one, that is held to take tools out of it.
    pub max_list_bytes: usize,
    /// How old a list of a server may become before it is read again.
    pub list_refresh: Duration,
    /// Most entries of one page of a list that the gateway answers itself.
    pub page_size: usize,
}

impl Settings {
    /// The keys in use, and the process's own, which nobody else has: it seals where none is configured, and opens what
    /// it sealed once there is one.
    pub fn keys(&self, own: &SecretKey) -> Arc<SessionKeys> {
        let keys: Vec<_> = self.session_keys.iter().chain([own]).cloned().collect();
        Arc::new(SessionKeys::new(&keys))
    }
}

/// Where a legacy HTTP+SSE client finds the sealed message endpoint in its URL.
pub const ENDPOINT_PARAMETER: &str = "sessionId";

/// Whether a URL is that of a sealed message endpoint, by its form.
pub(super) fn names_endpoint(uri: &Uri) -> bool {
    let query = uri.query().unwrap_or_default().as_bytes();
    form_urlencoded::parse(query).any(|(name, _)| name == ENDPOINT_PARAMETER)
}

/// Where a request's session lives, in the client's words and the server's.
#[derive(Default)]
struct Whereabouts {
    session: Option<Opened>,
    endpoint: Option<String>,
    place: Option<Place>,
}

impl Gateway {
    /// Walks a request of native MCP from its permit to its departure.
    pub(super) async fn decide_native(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        permit: Permit,
        change_count: u64,
    ) -> Result<Step, Refusal> {
        if permit.server().dialect == Dialect::OpenApi {
            let sentence = "this server speaks REST; `GET /{server}` lists its tools";
            return Err(Refusal::new(Code::NotFound, sentence));
        }
        headers::refuse_repeated(&session.req_header().headers)?;
        journey.record.enter(Leg::Body);
        let (load, asked) = self.read_message(session, journey, &permit).await?;
        journey.record.tool = asked.tool_name();
        let request: &Parts = session.req_header();
        let Whereabouts { session, endpoint, place } = self.whereabouts(request, &permit, &asked)?;
        journey.note_asked(asked.method, &asked.batch);
        self.limit_native(journey, &permit, &asked).await?;
        if matches!(load, Load::Held(..)) {
            // It may be a call, and takes a connection of the server's until that is known.
            self.limiting.reserve(&mut journey.held, permit.caller(), permit.server())?;
        }
        journey.record.enter(Leg::Plan);
        let upstream_session = session.as_ref().map(|session| session.upstream.clone());
        let snapshot = self.current.load();
        let is_repeatable = match &asked.tool {
            Some(tool) => {
                let tool = snapshot.tools.find(permit.server().id.as_str(), tool);
                tool.is_some_and(|tool| permit.server().may_repeat(tool))
            }
            None => asked.is_reading,
        };
        let native =
            Native { method: request.method.clone(), session: upstream_session, endpoint, is_repeatable };
        let trip = native::plan(permit.clone(), native, place, &snapshot.addresses)?;
        let what = journey.record.tool.clone().map_or(Use::Stream, Use::Tool);
        let live = self.begin_live(&permit, what, change_count)?;
        let seal = Seal { keys: self.session_keys.clone(), ttl: self.settings.mcp.session_ttl };
        let answer_bound = self.settings.mcp.max_list_bytes;
        let pinned = Pinned::new(&self.current, &self.refresher);
        let mut exchange = Exchange::new((permit, pinned), (load, asked), session, seal, answer_bound);
        exchange.is_audited = journey.record.wants_entry();
        exchange.begin(self.settings.body_timeout);
        Ok(Step::Depart(Underway::new(trip, Cargo::Native(Box::new(exchange)), live)))
    }

    /// Lets begin what a request of native MCP asks.
    pub(super) async fn limit_native(
        &self,
        journey: &mut Journey,
        permit: &Permit,
        asked: &Asked,
    ) -> Result<(), Refusal> {
        // Of a body that was held this is known only now.
        journey.record.tool = asked.tool_name();
        if asked.is_get || asked.is_listening {
            journey.held.stream = Some(self.limiting.stand(permit.caller())?);
        }
        if let Some(tool) = &asked.tool {
            return self.limit_calls(journey, permit, &[(tool.as_str(), 1)]).await;
        }
        let calls: Vec<_> = asked.batch.iter().map(|(tool, count)| (tool.as_str(), *count)).collect();
        self.limit_calls(journey, permit, &calls).await
    }

    async fn read_message(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        permit: &Permit,
    ) -> Result<(Load, Asked), Refusal> {
        if session.req_header().method != Method::POST {
            let headers = &session.req_header().headers;
            refuse_body(headers)?;
            let is_get = session.req_header().method == Method::GET;
            return Ok((Load::Nothing, Asked { is_get, ..Asked::of_headers(headers) }));
        }
        body::refuse_label(&session.req_header().headers)?;
        let reading = body::read(session, self.settings.mcp.max_message_bytes);
        // In all, not between two pieces: what is held of a body must not be held for ever.
        let load = tokio::time::timeout(self.settings.body_timeout, reading)
            .await
            .map_err(|_| body::too_slow())??;
        let headers = &session.req_header().headers;
        let asked = match &load {
            Load::Whole(bytes) => {
                journey.note_message(bytes);
                let Reading { id, heard, asked } = Asked::read(
                    bytes,
                    headers,
                    permit,
                    &self.current.load().pins,
                    journey.record.wants_entry(),
                );
                journey.note_rpc_id(id.clone());
                journey.note_heard(heard);
                match asked {
                    Ok(asked) => asked,
                    Err(refusal) => {
                        let stand_in = asked::stand_in(permit.server(), &refusal, id.as_deref());
                        let stand_in = stand_in.ok_or_else(|| refusal.clone())?;
                        journey.record.refuse(&refusal);
                        return Ok((Load::Whole(stand_in), Asked::of_headers(headers)));
                    }
                }
            }
            Load::Held(..) | Load::Nothing => Asked::of_headers(headers),
        };
        Ok((load, asked))
    }

    fn whereabouts(&self, request: &Parts, permit: &Permit, asked: &Asked) -> Result<Whereabouts, Refusal> {
        if permit.server().dialect == Dialect::McpSse {
            let sealed = self.endpoint(permit, &request.method, &request.uri)?;
            let place = sealed.as_ref().map(|sealed| sealed.place);
            return Ok(Whereabouts { endpoint: sealed.map(|sealed| sealed.upstream), place, session: None });
        }
        match request.headers.get(&headers::SESSION_ID) {
            // A modern request has none, whatever it says.
            Some(id) if !asked.is_modern => {
                let id = id.to_str().unwrap_or_default();
                let sealed = self.open(permit, Purpose::Session, id)?;
                let place = Some(sealed.place);
                let session = Some(Opened { sealed: id.to_owned(), upstream: sealed.upstream });
                Ok(Whereabouts { session, place, endpoint: None })
            }
            _ => Ok(Whereabouts::default()),
        }
    }

    /// Whether a request belongs to a session that its server has: it goes there, whatever is believed of the server.
    pub(super) fn is_of_the_server(&self, permit: &Permit, request: &Parts) -> bool {
        let id = request.headers.get(&headers::SESSION_ID).and_then(|id| id.to_str().ok());
        id.is_some_and(|id| {
            self.session_keys
                .open(&exchange::binding(permit, Purpose::Session), id, exchange::now())
                .is_some()
        })
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
