//! One call on its way back: what the server says, as the client of this call is told it.
//!
//! Decides the form of the answer (JSON until there is something to say before the end, events from then on), whose
//! words names, tokens and URIs are in, and what one era's message is in the other. Asks no server anything by itself.

use std::{borrow::Cow, pin::pin, time::Duration};

use pingora::proxy::Session;

use super::{Speaker, Visit, desk::Call, telling::Telling};
use crate::{
    client::{Ask, Replies},
    gateway::{Gateway, decide::Step, journey::Journey, line::Line, reply},
    mcp::{
        self, era,
        members::Members,
        outgoing,
        splice::{Splice, quoted},
        told::Told,
        uri,
    },
    names::ServerId,
    record::Outcome,
    refusal::{Code, Refusal},
    upstream::Way,
};

/// How often a silent stream of ours shows that it lives.
pub(in crate::gateway) const HEARTBEAT: Duration = Duration::from_secs(15);

/// What is asked, of whom, and under which names the client knows it.
pub(super) struct Errand<'a> {
    /// Where it goes.
    pub way: Way,
    /// What is asked.
    pub ask: Ask,
    /// The server.
    pub server: ServerId,
    /// The id to answer to, as the client wrote it.
    pub id: &'a str,
    /// The client's token for progress, as it wrote it.
    pub token: Option<&'a str>,
    /// Whether the client knows this server's URIs in the gateway's form.
    pub maps_uris: bool,
}

/// What happens next to a call.
enum Next {
    Told(Told),
    Left,
    Cancelled,
}

impl Gateway {
    /// Asks, and tells the client what comes back.
    pub(super) async fn relay(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        visit: &Visit,
        speaker: &Speaker,
        errand: Errand<'_>,
    ) -> Result<Step, Refusal> {
        journey.record.depart();
        if let Some(line) = Line::current() {
            // Leaving cancels in the modern revision, and means nothing in the others.
            line.outlive_client(!speaker.is_modern);
        }
        let owner = speaker.session.as_deref().unwrap_or_else(|| visit.caller.name());
        let call = self.desk.note_call(owner, errand.id);
        let asking = self.client.ask(&errand.way, &errand.ask);
        let replies = tokio::select! {
            replies = asking => replies?,
            () = left(session) => return Ok(forsaken(session, journey)),
            () = call.cancelled() => return Ok(cancelled(session, journey, false).await),
        };
        self.follow(session, journey, visit, speaker, &errand, replies, &call).await
    }

    /// Follows a call to its end.
    #[expect(clippy::too_many_arguments, reason = "the two ends of a call and what is between them")]
    pub(super) async fn follow(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        visit: &Visit,
        speaker: &Speaker,
        errand: &Errand<'_>,
        mut replies: Replies,
        call: &Call,
    ) -> Result<Step, Refusal> {
        let mut telling = Telling::new(speaker);
        loop {
            let told = match next(session, journey, &mut replies, call, telling.is_open).await {
                Ok(Next::Told(told)) => told,
                Ok(Next::Left) => return Ok(forsaken(session, journey)),
                Ok(Next::Cancelled) => return Ok(cancelled(session, journey, telling.is_open).await),
                Err(refusal) => return telling.fail(session, journey, errand.id, refusal).await,
            };
            match told {
                Told::Notification { .. } => {
                    if let Some(message) = notification(&told, speaker, errand, replies.id()) {
                        telling.tell(session, journey, &message).await?;
                    }
                }
                Told::Request { id, method, params } if speaker.is_modern => {
                    let asked = (id, method, params.unwrap_or_else(|| "{}".to_owned()));
                    let result = self.park(visit, speaker, errand, replies, asked)?;
                    journey.record.arrive_back();
                    return telling
                        .end(session, journey, 200, outgoing::response(errand.id, Ok(&result)))
                        .await;
                }
                Told::Request { id, method, params } => {
                    let asked = (&*id, &*method, params.as_deref());
                    match self.pass_on(visit, speaker, errand, &replies, asked) {
                        Some(message) => telling.tell(session, journey, &message).await?,
                        None => replies.respond(&id, Err(CANNOT_ASK)).await?,
                    }
                }
                Told::Result { result, .. } if asks_legacy_client(&result, &replies, speaker) => {
                    let again =
                        self.inquire(session, journey, visit, (&mut telling, errand, call), &result).await;
                    match again {
                        Ok(further) => replies = further,
                        Err(refusal) => return telling.fail(session, journey, errand.id, refusal).await,
                    }
                }
                Told::Result { result, .. } => {
                    let is_modern = replies.is_modern();
                    let result = self.bound(visit, errand, result)?;
                    return self.conclude(session, journey, (telling, errand), &result, is_modern).await;
                }
                Told::Error { error, .. } => {
                    let is_modern = replies.is_modern();
                    return self.conclude_error(session, journey, (telling, errand), &error, is_modern).await;
                }
            }
        }
    }

    /// Tells the server's error.
    async fn conclude_error(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        (telling, errand): (Telling<'_>, &Errand<'_>),
        error: &str,
        is_modern: bool,
    ) -> Result<Step, Refusal> {
        let speaker = telling.speaker;
        let error = error_for(errand, speaker, is_modern, error);
        journey.record.arrive_back();
        journey.record.end_as(Outcome::ToolError);
        let status = if speaker.is_modern { status_of(&error) } else { 200 };
        telling.end(session, journey, status, outgoing::response(errand.id, Err(&error))).await
    }

    /// Tells the result.
    async fn conclude(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        (telling, errand): (Telling<'_>, &Errand<'_>),
        result: &str,
        is_modern: bool,
    ) -> Result<Step, Refusal> {
        journey.record.arrive_back();
        let members = Members::read(result).unwrap_or_default();
        if let era::ResultType::Other(_) = era::type_among(&members) {
            let refusal = Refusal::new(
                Code::PeerBadAnswer,
                "the tool's answer is of an extension that is not passed on",
            );
            return telling.fail(session, journey, errand.id, refusal).await;
        }
        let is_error = members.get("isError") == Some("true");
        journey.record.end_as(if is_error { Outcome::ToolError } else { Outcome::ToolAnswered });
        let result = match errand.maps_uris {
            true => uri::result_outward(errand.server.as_str(), result),
            false => Cow::Borrowed(result),
        };
        let result = match (telling.speaker.is_modern, is_modern) {
            // Behind a grant: whatever stands between must not show it to another.
            (true, true) if errand.ask.method == "resources/read" => {
                let ttl = Members::read(&result).and_then(|members| members.get("ttlMs")?.parse().ok());
                let hints = era::Hints { ttl_ms: ttl.unwrap_or(0), is_public: false };
                Cow::Owned(era::to_modern(&result, Some(hints)))
            }
            (true, true) | (false, false) => result,
            (true, false) => {
                let hints = (errand.ask.method == "resources/read").then_some(NEVER);
                Cow::Owned(era::to_modern(&result, hints))
            }
            (false, true) => Cow::Owned(era::to_legacy(&result)),
        };
        telling.end(session, journey, 200, outgoing::response(errand.id, Ok(&result))).await
    }
}

/// A result that is nobody else's, and old at once.
const NEVER: era::Hints = era::Hints { ttl_ms: 0, is_public: false };

/// An error in the client's era.
fn error_for<'e>(errand: &Errand<'_>, speaker: &Speaker, is_modern: bool, error: &'e str) -> Cow<'e, str> {
    match (speaker.is_modern, is_modern) {
        (true, false) => era::error_to_modern(error),
        (false, true) => era::error_to_legacy(&errand.ask.method, error),
        (true, true) | (false, false) => Cow::Borrowed(error),
    }
}

/// The status a modern error has (MCP 2026-07-28, Error Codes).
fn status_of(error: &str) -> u16 {
    match outgoing::error_code(error) {
        Some(-32601) => 404,
        Some(-32022..=-32020) => 400,
        _ => 200,
    }
}

/// Whether a modern server wants to know something that a legacy client has to be asked in its own way.
fn asks_legacy_client(result: &str, replies: &Replies, speaker: &Speaker) -> bool {
    replies.is_modern() && !speaker.is_modern && era::result_type(result) == era::ResultType::InputRequired
}

/// What a server is told whose question no client can be asked.
pub(super) const CANNOT_ASK: &str = r#"{"code":-32601,"message":"the client cannot be asked this"}"#;

/// Waits for what happens next.
async fn next(
    session: &mut Session,
    journey: &mut Journey,
    replies: &mut Replies,
    call: &Call,
    is_open: bool,
) -> Result<Next, Refusal> {
    let mut told = pin!(replies.next());
    let mut cancelled = pin!(call.cancelled());
    loop {
        tokio::select! {
            told = &mut told => return told.map(Next::Told),
            () = left(session) => return Ok(Next::Left),
            () = &mut cancelled => return Ok(Next::Cancelled),
            () = tokio::time::sleep(HEARTBEAT), if is_open => {}
        }
        if reply::send_comment(session, journey).await.is_err() {
            return Ok(Next::Left);
        }
    }
}

/// Returns when the client has left.
pub(in crate::gateway) async fn left(session: &mut Session) {
    // Whatever it says now instead belongs to no request: the connection cannot be used again.
    drop(session.as_downstream_mut().read_body_or_idle(true).await);
    session.set_keepalive(None);
}

/// Nobody is there to be told.
pub(in crate::gateway) fn forsaken(session: &mut Session, journey: &mut Journey) -> Step {
    session.set_keepalive(None);
    journey.record.arrive_back();
    journey.record.end_as(Outcome::ClientGone);
    Step::Written
}

/// The client has cancelled its call, and expects no answer: an empty stream is none.
async fn cancelled(session: &mut Session, journey: &mut Journey, is_open: bool) -> Step {
    journey.record.arrive_back();
    journey.record.end_as(Outcome::ClientGone);
    if is_open {
        drop(reply::end_events(session).await);
        return Step::Written;
    }
    Step::Answer(crate::endpoints::Answer::new(200, "text/event-stream", bytes::Bytes::new()))
}

/// A notification in the client's words; none where it did not ask for it.
fn notification(told: &Told, speaker: &Speaker, errand: &Errand<'_>, id: u64) -> Option<String> {
    let Told::Notification { method, params } = told else { return None };
    let params = params.as_deref();
    let params = match (&**method, params) {
        ("notifications/progress", Some(params)) => {
            // Another token is of another call.
            let ours = told.progress_token().filter(|token| token.trim_matches('"') == id.to_string())?;
            let mut splice = Splice::new(params);
            splice.replace(subslice(params, ours)?, errand.token?);
            Some(splice.finish())
        }
        ("notifications/message", _) => {
            let level = Members::read(params?)?.get("level").and_then(mcp::members::text)?;
            if !is_wanted(&level, speaker) {
                return None;
            }
            params.map(str::to_owned)
        }
        ("notifications/resources/updated", Some(params)) if errand.maps_uris => {
            let raw = Members::read(params)?.get("uri")?;
            let outward = uri::outward(errand.server.as_str(), &mcp::members::text(raw)?);
            let mut splice = Splice::new(params);
            splice.replace(raw, quoted(&outward));
            Some(splice.finish())
        }
        // How a server speaks of its own streams and lists: the client has other ones.
        (method, _) if method.ends_with("/list_changed") || method.contains("/subscriptions/") => {
            return None;
        }
        _ => params.map(str::to_owned),
    };
    Some(outgoing::notification(method, params.as_deref()))
}

/// The levels of log messages, lowest first (RFC 5424 section 6.2.1, as MCP names them).
pub(super) const LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// Whether a client wants log messages of this level. A modern one says so with each request; a legacy one that has not
/// said anything gets what the server sends.
fn is_wanted(level: &str, speaker: &Speaker) -> bool {
    let rank = |level: &str| LEVELS.iter().position(|known| *known == level);
    match &speaker.log_level {
        Some(wanted) => rank(level) >= rank(wanted),
        None => !speaker.is_modern,
    }
}

/// `part` as a part of `whole`, where it is one.
fn subslice<'a>(whole: &'a str, part: &str) -> Option<&'a str> {
    let at = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    whole.get(at..at + part.len())
}
