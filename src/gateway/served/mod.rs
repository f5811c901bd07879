//! MCP as the gateway serves it itself: all the caller's servers at `/mcp`, and at `/{server}/mcp` one that does
//! not speak what the client does.
//!
//! Decides what a message asks for, answers from memory what it can, and has the rest asked of the server it is
//! about. Which servers and tools there are for this caller, `access` decides; what the pages say, `endpoints::mcp`.
//! What a client and a server that speak alike say to each other passes through `gateway::native` instead.

mod asking;
mod desk;
mod inquiries;
mod lists;
mod meta;
pub(super) mod relay;
mod rest;
mod speaker;
mod standing;
mod telling;

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use pingora::proxy::Session;

use super::{Gateway, body, decide::Step, journey::Journey, native};
use crate::{
    access::Permit,
    catalog::server::{Dialect, Server},
    dial::within,
    endpoints::{Answer, Visible},
    identity::Caller,
    mcp::{
        headers, message, outgoing,
        question::{self, Question, Said},
    },
    names::ServerId,
    refusal::{Code, Refusal},
    snapshot::Snapshot,
    trace::Leg,
};
pub use desk::Desk;
use speaker::Speaker;

/// A believed caller's request to this face.
pub(super) struct Visit {
    /// Who asks.
    pub caller: Arc<Caller>,
    /// What is believed.
    pub snapshot: Arc<Snapshot>,
    /// Read before the snapshot, so that a change in between is noticed.
    pub change_count: u64,
    /// The one server it is about; none where it is about all the caller's.
    pub only: Option<Permit>,
}

impl Visit {
    fn scope(&self) -> Option<&ServerId> {
        self.only.as_ref().map(|permit| &permit.server().id)
    }
}

/// Whether requests of both eras to this server are for the gateway to serve: they are where it speaks no MCP, or
/// only what the client does not.
pub(super) fn is_served(server: &Server, snapshot: &Snapshot, request: &http::request::Parts) -> bool {
    let is_modern = headers::version(&request.headers).is_some_and(crate::mcp::is_modern);
    match server.dialect {
        Dialect::OpenApi => true,
        // Its own clients open its one stream, and post to the endpoint it names there: all others speak to us.
        Dialect::McpSse => {
            let is_own = match request.method {
                Method::POST => native::names_endpoint(&request.uri),
                Method::GET => !request.headers.contains_key(&headers::SESSION_ID),
                _ => false,
            };
            !is_own
        }
        Dialect::Mcp => spoken(server, snapshot).is_some_and(|spoken| {
            let is_client_s = if is_modern { spoken.modern } else { spoken.legacy };
            !is_client_s
        }),
    }
}

/// The eras a server speaks.
#[derive(Debug, Clone, Copy)]
struct Eras {
    modern: bool,
    legacy: bool,
}

/// The eras a server speaks, as the operator says or as it was last heard to; none where nobody knows.
fn spoken(server: &Server, snapshot: &Snapshot) -> Option<Eras> {
    if server.dialect == Dialect::McpSse {
        return Some(Eras { modern: false, legacy: true });
    }
    if let Some(versions) = &server.mcp_versions {
        let modern = versions.iter().any(|version| version.is_modern());
        return Some(Eras { modern, legacy: versions.iter().any(|version| !version.is_modern()) });
    }
    let about = &snapshot.offers.get(server.id.as_str())?.about;
    // One that answers `server/discover` may speak the older revisions as well without saying so.
    let legacy = !about.is_modern || about.versions.iter().any(|version| !crate::mcp::is_modern(version));
    Some(Eras { modern: about.is_modern, legacy })
}

impl Gateway {
    /// Answers a request.
    pub(super) async fn serve(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        visit: Visit,
    ) -> Result<Step, Refusal> {
        let request = session.req_header();
        headers::refuse_repeated(&request.headers)?;
        match request.method {
            Method::GET => self.stand(session, journey, &visit).await,
            Method::DELETE => self.end_session(&request.headers, &visit),
            _ => self.converse(session, journey, visit).await,
        }
    }

    async fn converse(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        visit: Visit,
    ) -> Result<Step, Refusal> {
        journey.record.enter(Leg::Body);
        let body = self.read_message_whole(session).await?;
        journey.note_message(&body);
        let headers = &session.req_header().headers;
        let peeked = message::peek(&body)?;
        headers::refuse_disagreement(headers, &peeked)?;
        let said = question::read_peeked(&body, &peeked)?;
        if let Said::Request(question) = &said {
            journey.note_rpc_id(question.id.map(str::to_owned));
            journey.note_asked(Some(&question.method), &[]);
        }
        journey.record.enter(Leg::Find);
        let speaker = self.speaker(headers, &said, &visit)?;
        match said {
            Said::Request(question) => self.dispatch(session, journey, &visit, &speaker, &question).await,
            Said::Notification(notification) => {
                self.take_notification(&visit, &speaker, &notification);
                Ok(accepted())
            }
            Said::Response(response) => {
                self.take_response(&visit, &speaker, &response).await?;
                Ok(accepted())
            }
        }
    }

    async fn dispatch(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        visit: &Visit,
        speaker: &Speaker,
        question: &Question<'_>,
    ) -> Result<Step, Refusal> {
        let id = question.id.unwrap_or("null");
        journey.note_question(question, &visit.snapshot.catalog);
        match (speaker.is_modern, &*question.method) {
            (true, "server/discover") => Ok(answered(id, &self.discover(visit)?)),
            (false, "initialize") => self.initialize(visit, question),
            (false, "ping") => Ok(answered(id, "{}")),
            (false, "logging/setLevel") => {
                self.set_level(speaker, question)?;
                Ok(answered(id, "{}"))
            }
            (_, "tools/list" | "prompts/list" | "resources/list" | "resources/templates/list") => {
                Ok(answered(id, &self.list(visit, speaker, question)?))
            }
            (false, "resources/subscribe" | "resources/unsubscribe") => {
                self.follow_resource(visit, speaker, question)?;
                Ok(answered(id, "{}"))
            }
            (_, "tools/call" | "prompts/get" | "resources/read" | "completion/complete") => {
                self.ask_server(session, journey, visit, speaker, question).await
            }
            (true, "subscriptions/listen") => self.listen(session, journey, visit, speaker, question).await,
            (true, _) => Err(Refusal::new(Code::UnknownMethod, "Method not found")),
            // A 404 would tell a legacy client that its session is gone.
            (false, _) => Ok(answer(200, outgoing::error(id, -32601, "Method not found"))),
        }
    }

    /// The caller's servers with what may be shown of each: the one that is asked about, or all.
    fn visible(&self, visit: &Visit) -> Result<Vec<Visible>, Refusal> {
        let known = self.current.grants(&visit.snapshot)?;
        Ok(match &visit.only {
            Some(permit) => vec![Visible { server: permit.server().clone(), tools: permit.tools().clone() }],
            None => Visible::all(&self.access, &visit.caller, known, &visit.snapshot),
        })
    }

    /// The whole body of a message.
    pub(super) async fn read_message_whole(&self, session: &mut Session) -> Result<Bytes, Refusal> {
        native::refuse_label(&session.req_header().headers)?;
        self.read_whole(session, self.settings.mcp.max_message_bytes).await
    }

    /// The whole body of a request that is answered or translated here, within bounds of size and time.
    pub(super) async fn read_whole(&self, session: &mut Session, bound: usize) -> Result<Bytes, Refusal> {
        let reading = body::read_whole(session, bound);
        within(self.settings.body_timeout, reading).await.map_err(|_| native::too_slow())?
    }
}

/// What a notification or a response is answered with (MCP 2025-11-25, Transports).
fn accepted() -> Step {
    Step::Answer(Answer::new(202, "", Bytes::new()))
}

/// A result, as JSON.
fn answered(id: &str, result: &str) -> Step {
    answer(200, outgoing::response(id, Ok(result)))
}

fn answer(status: u16, message: String) -> Step {
    let body = Bytes::from(message);
    Step::Answer(Answer::new(status, "application/json", body).with("cache-control", "no-store".into()))
}
