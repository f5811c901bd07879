//! The only `ProxyHttp`: Pingora's phases, each a few lines, in the order a request meets them.
//!
//! Decides nothing itself: `decide.rs` walks the journey (route → caller → permit → trip), this file
//! tells Pingora. Each request has the gateway that was configured when it arrived (`configured.rs`). A panic in a phase
//! is caught, counted and answered with 500.

mod body;
mod client;
pub mod configured;
mod cors;
mod decide;
mod ending;
mod evidence;
mod failure;
mod framing;
pub mod guard;
mod head;
mod hearing;
mod hygiene;
mod journey;
pub mod leaving;
pub mod limiting;
mod line;
pub mod live;
pub mod native;
pub mod ops;
mod origin;
mod pages;
mod passing;
mod phase;
mod proxy_protocol;
mod reply;
mod resource;
mod seats;
pub mod served;
mod settings;
pub mod sign_in;
mod stream;
pub mod streams;
mod taking;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod told_address;
mod traced;
mod translated;
pub mod tries;
mod trip;
mod withdrawal;

use std::{os::fd::RawFd, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use pingora::{
    Error,
    http::{RequestHeader, ResponseHeader},
    modules::http::HttpModules,
    protocols::Digest,
    proxy::{FailToProxy, ProxyHttp, Session},
    upstreams::peer::HttpPeer,
};

use crate::{
    access::Access,
    catalog::Catalog,
    client::Client,
    endpoints::openapi::Documents,
    identity::Identity,
    mcp::session::SessionKeys,
    record::{Outcome, Recorder},
    refusal::Refusal,
    snapshot::{Current, tools::Refresher},
};
use configured::{Bench, Configured};
use decide::Step;
use journey::Journey;
use leaving::Leaving;
use limiting::Limiting;
use line::Line;
use live::LiveTrips;
use phase::{has_begun, no_end, refused};
use served::Desk;
pub use settings::Settings;
use sign_in::SignIn;

/// The gateway as one configuration makes it: what every request needs, shared by all that arrived under it.
pub struct Gateway {
    /// How the listener behaves.
    pub settings: Settings,
    /// The servers.
    pub catalog: Arc<Catalog>,
    /// Who is asking.
    pub identity: Arc<Identity>,
    /// May they.
    pub access: Arc<Access>,
    /// What is believed.
    pub current: Arc<Current>,
    /// Has tool lists read again.
    pub refresher: Refresher,
    /// OpenAPI documents made so far.
    pub documents: Documents,
    /// What ids of MCP sessions are sealed with.
    pub session_keys: Arc<SessionKeys>,
    /// Asks servers that speak MCP.
    pub client: Client,
    /// Calls of MCP that wait.
    pub desk: Arc<Desk>,
    /// Signs users of MCP clients in at Entra ID, where that is configured.
    pub sign_in: Option<Arc<SignIn>>,
    /// By whom what is underway is judged, under whatever configuration it began.
    pub bench: Arc<Bench>,
    /// Trips underway.
    pub live: Arc<LiveTrips>,
    /// When standing streams end because the process does.
    pub leaving: Arc<Leaving>,
    /// How much is too much.
    pub limiting: Arc<Limiting>,
    /// Where records go.
    pub recorder: Recorder,
}

#[async_trait]
impl ProxyHttp for Configured {
    // In a box: the framework keeps it in each of several futures inside each other, of every connection.
    type CTX = Box<Journey>;

    fn new_ctx(&self) -> Box<Journey> {
        Box::new(Journey::begin(self.now()))
    }

    /// None: Pingora's default would compress what passes through.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(
        &self,
        session: &mut Session,
        journey: &mut Box<Journey>,
    ) -> pingora::Result<()> {
        if let Some(line) = Line::current() {
            line.disarm();
            line.hearing().end_head(&session.req_header().headers);
        }
        let settings = &journey.gateway.settings;
        let idle = settings.keepalive_timeout.as_secs();
        let session = session.as_downstream_mut();
        // Only the endless default is replaced: `None` is set while the process shuts down.
        if session.get_keepalive() == Some(0) {
            session.set_keepalive(Some(idle));
        }
        session.set_read_timeout(Some(settings.body_timeout));
        session.set_write_timeout(Some(settings.write_timeout));
        // A peer's interim answers stay here; ours to `Expect` still go out.
        session.set_ignore_info_resp(true);
        Ok(())
    }

    async fn request_filter(
        &self,
        session: &mut Session,
        journey: &mut Box<Journey>,
    ) -> pingora::Result<bool> {
        let gateway = journey.gateway.clone();
        let step = AssertUnwindSafe(gateway.decide_and_count(session, journey)).catch_unwind().await;
        let refusal = match step {
            Ok(Ok(Step::Depart(underway))) => {
                journey.depart(underway);
                return Ok(false);
            }
            Ok(_) if let Err(withdrawn) = journey.begin_answer(session) => withdrawn,
            Ok(Ok(Step::Answer(answer))) => {
                reply::answer(session, journey, answer).await?;
                return Ok(true);
            }
            Ok(Ok(Step::Written)) => return Ok(true),
            // Its beginning is out: the framework cuts the rest.
            Ok(Err(refusal)) if has_begun(session) => return Err(refused(refusal)),
            Ok(Err(refusal)) => refusal,
            Err(_panic) if has_begun(session) => return Err(no_end()),
            Err(_panic) => Refusal::internal("a panic while deciding; the log has its place"),
        };
        reply::refuse(session, journey, &refusal).await?;
        Ok(true)
    }

    /// False where the answer has been passed on already.
    async fn proxy_upstream_filter(
        &self,
        session: &mut Session,
        journey: &mut Box<Journey>,
    ) -> pingora::Result<bool> {
        passing::pass(session, journey).await.map(|is_done| !is_done)
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        journey: &mut Box<Journey>,
    ) -> pingora::Result<Box<HttpPeer>> {
        journey.next_peer(session).await.map(Box::new)
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        is_reused: bool,
        _peer: &HttpPeer,
        _socket: RawFd,
        _digest: Option<&Digest>,
        journey: &mut Box<Journey>,
    ) -> pingora::Result<()> {
        journey.connected(session, is_reused)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        journey: &mut Box<Journey>,
        error: Box<Error>,
    ) -> Box<Error> {
        journey.not_connected(error)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        journey: &mut Box<Journey>,
        _is_reused: bool,
    ) -> Box<Error> {
        journey.broke_off(session, error)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        journey: &mut Box<Journey>,
    ) -> pingora::Result<()> {
        *request = journey.request(session, request.version)?;
        Ok(())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        is_end: bool,
        journey: &mut Box<Journey>,
    ) -> pingora::Result<()> {
        journey.hand_over(session, body, is_end).await
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        header: &mut ResponseHeader,
        journey: &mut Box<Journey>,
    ) -> pingora::Result<()> {
        journey.answer_head(session, header)
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        is_end: bool,
        journey: &mut Box<Journey>,
    ) -> pingora::Result<Option<Duration>> {
        journey.answer_piece(session, body, is_end).map(|()| None)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        journey: &mut Box<Journey>,
    ) -> FailToProxy {
        journey.record.arrive_back();
        let Some(refusal) = journey.told(session, error) else {
            journey.end(Some(Outcome::ClientGone));
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        if let Some(id) = journey.underway().and_then(|underway| underway.cargo.exchange()?.asked.id.clone())
        {
            journey.note_rpc_id(Some(id));
        }
        // A client that cannot be written to any more is simply gone.
        let is_told = reply::fail(session, journey, &refusal).await.is_ok();
        FailToProxy {
            error_code: if is_told { refusal.code().status() } else { 0 },
            can_reuse_downstream: false,
        }
    }

    /// The record says it once, with its cause.
    fn suppress_error_log(&self, _session: &Session, _journey: &Box<Journey>, _error: &Error) -> bool {
        true
    }

    async fn logging(&self, _session: &mut Session, error: Option<&Error>, journey: &mut Box<Journey>) {
        let line = Line::current();
        let has_left = line.as_ref().is_some_and(|line| line.is_client_gone());
        let is_client_gone = has_left || error.is_some_and(|error| failure::refusal_for(error).is_none());
        journey.end((is_client_gone && failure::overdue().is_none()).then_some(Outcome::ClientGone));
        if let Some(line) = line {
            journey.leave(&line);
        }
    }
}
