//! One question on its way: in which era it is asked, and what its answer shows of the session and the era.
//!
//! Decides what proves that a question was not run. Where it is tried and whether again, `tries` does.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::{
    Ask, Client, OwnedRewrite,
    answer::{Limits, Reader, Refused, is_of_what_stands_in_front, refused_with},
    next_id,
    opening::OWN_INFO,
    outbox::{BRIEFLY, Outbox, drain, mirrored},
    replies::{Cancel, Replies},
    session::Session,
    spoken::{Era, configured, is_of_another_era, proves_another_era},
    stopped::{Stopped, fault_of},
    tries::{Delivered, Tries},
};
use crate::{
    catalog::server::Dialect,
    mcp::{
        members,
        outgoing::{self, Protocol, Rewrite},
        told::Told,
        traced,
    },
    refusal::{Code, Refusal},
    trace::{Outgoing, Trace},
    upstream::{self, Destination, Way, breaker::Fault, native},
};

impl OwnedRewrite {
    fn borrowed<'a>(&'a self, progress_token: Option<&'a str>, trace: Option<&'a Outgoing>) -> Rewrite<'a> {
        Rewrite {
            name: self.name.as_deref(),
            uri: self.uri.as_deref(),
            progress_token,
            reference: self.reference.as_deref(),
            cursor: self.cursor.as_deref(),
            request_state: self.request_state.as_deref(),
            trace,
        }
    }
}

/// The message of a modern request, and the headers that mirror it.
pub(super) fn modern_message(
    id: u64,
    ask: &Ask,
    version: &str,
) -> Result<(String, Vec<(HeaderName, HeaderValue)>), Refusal> {
    // JSON of the client's, by `mcp::question`.
    fn object(text: &Option<String>) -> Option<&str> {
        text.as_deref().filter(|text| text.starts_with('{'))
    }
    let protocol = Protocol {
        version,
        client_info: object(&ask.asker.info).unwrap_or(OWN_INFO),
        capabilities: object(&ask.asker.capabilities).unwrap_or("{}"),
        log_level: ask.asker.log_level.as_deref().filter(|level| members::text(level).is_some()),
    };
    let token = id.to_string();
    let trace = ask.trace.as_ref().map(|trace| trace.outgoing());
    let rewrite = ask.rewrite.borrowed(ask.wants_progress.then_some(token.as_str()), trace.as_ref());
    let params = outgoing::params(ask.params.as_deref(), &rewrite, Some(&protocol));
    let mirrored = mirrored(version, &ask.method, ask.name.as_deref(), &ask.param_headers)?;
    Ok((outgoing::request(id, &ask.method, &params), mirrored))
}

impl Client {
    /// Asks a question. What comes back begins with the server's answer; only its head has been seen.
    pub async fn ask(&self, way: &Way, ask: &Ask) -> Result<Replies, Refusal> {
        let mut tries = Tries::new(way).noted(ask.trace.as_ref(), Some(traced::method(&ask.method)));
        loop {
            let destination = tries.next().await?;
            match self.try_ask(way, &destination, ask, !tries.is_renewed).await {
                Ok(replies) => return Ok(replies.seated(tries.seat())),
                Err(stopped) => tries.note(stopped, ask.is_repeatable)?,
            }
        }
    }

    /// Sends a request of another form than MCP's, where and as often as a question would be.
    pub async fn deliver(
        &self,
        way: &Way,
        is_repeatable: bool,
        trace: Option<&Arc<Trace>>,
        request: impl Fn(&Destination) -> Result<http::Request<bytes::Bytes>, Refusal>,
    ) -> Result<Delivered, Refusal> {
        let mut tries = Tries::new(way).noted(trace, None);
        loop {
            let destination = tries.next().await?;
            let mut request = request(&destination)?;
            if let Some(trace) = trace {
                trace.outgoing().write(request.headers_mut());
                request.extensions_mut().insert(trace.clone());
            }
            match self.shared.wire.send(upstream::peer::recipient(way, &destination), request).await {
                Ok(incoming)
                    if is_of_what_stands_in_front(incoming.status()) && tries.may_repeat(is_repeatable) =>
                {
                    destination.health.note(Some(Fault::SaidSo));
                    let refusal = refused_with(incoming.status(), incoming.headers());
                    tries.note(Stopped::Lost(refusal), is_repeatable)?;
                }
                Ok(incoming) => {
                    destination.health.tally().note_connection(incoming.is_reused());
                    return Ok(Delivered { incoming, seat: tries.seat() });
                }
                Err(failed) => {
                    destination.health.note(fault_of(failed));
                    tries.note(failed.into(), is_repeatable)?;
                }
            }
        }
    }

    async fn try_ask(
        &self,
        way: &Way,
        destination: &Destination,
        ask: &Ask,
        is_first: bool,
    ) -> Result<Replies, Stopped> {
        match self.era(way, destination).await? {
            Era::Modern(version, _) => {
                if ask.prefers_legacy
                    && let Some(session) = self.legacy_too(way, destination, &ask.asker).await
                {
                    return self.try_legacy(way, session, ask, is_first).await;
                }
                self.try_modern(way, destination, ask, &version, is_first).await
            }
            Era::Legacy => {
                let session = match self.session(way, destination, &ask.asker).await {
                    Ok(session) => session,
                    Err(stopped) => return Err(self.without_session(way, stopped)),
                };
                match way.server().dialect {
                    Dialect::McpSse => self.try_events(session, ask, is_first).await,
                    Dialect::Mcp | Dialect::OpenApi => self.try_legacy(way, session, ask, is_first).await,
                }
            }
        }
    }

    /// A session with a modern server that takes the older revisions as well; none where it does not.
    pub(super) async fn legacy_too(
        &self,
        way: &Way,
        destination: &Destination,
        asker: &super::Asker,
    ) -> Option<Arc<Session>> {
        let versions = way.server().mcp_versions.as_deref();
        let may_be = versions.is_none_or(|versions| versions.iter().any(|version| !version.is_modern()));
        if !may_be || self.shared.eras.is_modern_only(way) {
            return None;
        }
        match self.session(way, destination, asker).await {
            Ok(session) => Some(session),
            Err(Stopped::Refused(_) | Stopped::Unrun(_)) => {
                self.shared.eras.note_modern_only(way);
                None
            }
            Err(Stopped::Unsent(_) | Stopped::Lost(_)) => None,
        }
    }

    /// What it means for a question that no session was opened: it was not asked, and perhaps the server is not of this
    /// era, or not any more.
    fn without_session(&self, way: &Way, stopped: Stopped) -> Stopped {
        self.shared.eras.forget(way);
        match stopped {
            Stopped::Refused(refusal) if refusal.code() == Code::PeerTooSlow => Stopped::Refused(refusal),
            Stopped::Refused(refusal) if configured(way.server()).is_none() => Stopped::Unrun(refusal),
            other => other,
        }
    }

    /// The session with a server for an asker.
    pub(super) async fn session(
        &self,
        way: &Way,
        destination: &Destination,
        asker: &super::Asker,
    ) -> Result<Arc<Session>, Stopped> {
        let (wire, limits) = (&self.shared.wire, self.limits(way));
        let mut own = None;
        if !way.server().is_session_shared && asker.session_of.is_none() {
            // Nobody's own where the gateway asks for itself: it never calls a tool.
            own = Some(super::Asker { session_of: way.owner().map(str::to_owned), ..asker.clone() });
        }
        let asker = own.as_ref().unwrap_or(asker);
        self.shared.sessions.session(wire, way, destination, asker, limits).await
    }

    pub(super) fn limits(&self, way: &Way) -> Limits {
        let bytes = self.shared.max_answer_bytes.load(std::sync::atomic::Ordering::Relaxed);
        let deadlines = way.server().deadlines;
        Limits { bytes, patience: deadlines.read, total: deadlines.total }
    }

    pub(super) async fn try_modern(
        &self,
        way: &Way,
        destination: &Destination,
        ask: &Ask,
        version: &str,
        is_first: bool,
    ) -> Result<Replies, Stopped> {
        let outbox = Outbox::new(&self.shared.wire, way, destination, version);
        let id = next_id();
        let (message, mirrored) = modern_message(id, ask, version)?;
        let limits = self.limits(way);
        let incoming = outbox.post_noted(message, &mirrored, ask.trace.as_ref()).await?;
        if incoming.status().is_success() {
            return Ok(Replies::modern(id, Reader::of(incoming, limits)?));
        }
        let refused = Refused::read(incoming, limits).await;
        if is_of_another_era(&refused) && configured(way.server()).is_none() {
            self.shared.eras.forget(way);
            if is_first && (ask.is_repeatable || proves_another_era(&refused, id)) {
                return Err(Stopped::Unrun(refused.into_refusal()));
            }
        }
        Ok(Replies::told(id, refused.into_told()?, None))
    }

    async fn try_legacy(
        &self,
        way: &Way,
        session: Arc<Session>,
        ask: &Ask,
        is_first: bool,
    ) -> Result<Replies, Stopped> {
        let (id, outbox) = (next_id(), session.outbox.clone());
        let heard = if session.can_be_asked { session.expect(id) } else { None };
        let message = legacy_message(id, ask);
        let mut cancel = Cancel::new(&outbox, id);
        let incoming = match outbox.post_noted(message, &[], ask.trace.as_ref()).await {
            Ok(incoming) => incoming,
            Err(failed) => {
                let stopped = Stopped::from(failed);
                if matches!(stopped, Stopped::Unsent(_)) {
                    cancel.is_needless();
                }
                return Err(stopped);
            }
        };
        if incoming.status().is_success() {
            let reader = Reader::of(incoming, session.limits)?;
            return Ok(Replies::legacy(id, reader, session, heard, cancel));
        }
        cancel.is_needless();
        let refused = Refused::read(incoming, session.limits).await;
        if session.outbox.session.is_one() && is_about_the_session(&refused, id) {
            session.retire(refused.status == http::StatusCode::NOT_FOUND);
            if refused.status == http::StatusCode::BAD_REQUEST {
                // A modern server says so to every request of a session.
                self.shared.eras.forget(way);
            }
            let gone = native::unknown_session("the server knows the session no more");
            return Err(if is_first {
                Stopped::Unrun(gone)
            } else {
                Stopped::Refused(refused.into_refusal())
            });
        }
        if refused.status == http::StatusCode::BAD_REQUEST {
            // So does a modern server that misses what a request must say of itself: it is asked again which it is.
            self.shared.eras.forget(way);
        }
        Ok(Replies::told(id, refused.into_told()?, Some(session)))
    }

    /// Asks a legacy HTTP+SSE server, whose answers come by the session's stream.
    async fn try_events(&self, session: Arc<Session>, ask: &Ask, is_first: bool) -> Result<Replies, Stopped> {
        let (id, outbox) = (next_id(), session.outbox.clone());
        let ended = || native::unknown_session("the session's stream has ended");
        let heard = session.expect(id).ok_or_else(|| Stopped::Unsent(ended()))?;
        let mut cancel = Cancel::new(&outbox, id);
        let incoming = match outbox.post_noted(legacy_message(id, ask), &[], ask.trace.as_ref()).await {
            Ok(incoming) => incoming,
            Err(failed) => {
                let stopped = Stopped::from(failed);
                if matches!(stopped, Stopped::Unsent(_)) {
                    cancel.is_needless();
                }
                return Err(stopped);
            }
        };
        let (status, refusal) = (incoming.status(), refused_with(incoming.status(), incoming.headers()));
        drain(incoming, BRIEFLY).await;
        if status.is_success() {
            return Ok(Replies::of_stream(id, session, heard, cancel));
        }
        cancel.is_needless();
        if matches!(status.as_u16(), 404 | 410) && is_first {
            session.retire(true);
            return Err(Stopped::Unrun(ended()));
        }
        Err(Stopped::Refused(refusal))
    }
}

fn legacy_message(id: u64, ask: &Ask) -> String {
    let token = id.to_string();
    let trace = ask.trace.as_ref().map(|trace| trace.outgoing());
    let rewrite = ask.rewrite.borrowed(ask.wants_progress.then_some(token.as_str()), trace.as_ref());
    outgoing::request(id, &ask.method, &outgoing::params(ask.params.as_deref(), &rewrite, None))
}

/// Whether a refusal of a request with a session says that there is no such session, and so that nothing was run
/// (MCP 2025-11-25, Session Management; some SDKs answer 400). An error that names the question is about that.
fn is_about_the_session(refused: &Refused, id: u64) -> bool {
    match (refused.status.as_u16(), refused.code()) {
        (400 | 404, Some(SESSION_NOT_FOUND | -32022..=-32020)) => true,
        (404, Some(LEGACY_ERROR)) => true,
        (400 | 404, _) => !refused.answers(id),
        _ => false,
    }
}

/// What SDKs say of a session they do not know, and of anything that no other code is for.
const SESSION_NOT_FOUND: i64 = -32001;
const LEGACY_ERROR: i64 = -32000;

/// The last message of an answer, where that is all there is of it.
pub(super) fn is_last(told: &Told, id: u64) -> bool {
    match told {
        Told::Result { id: answered, .. } => *answered == id.to_string(),
        Told::Error { id: answered, .. } => {
            answered.as_ref().is_none_or(|answered| *answered == id.to_string())
        }
        Told::Notification { .. } | Told::Request { .. } => false,
    }
}
