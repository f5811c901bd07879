//! A request whose permit is withdrawn while it runs: what its client is told, and that no answer of a server is.
//!
//! Decides that it is refused as the next one would be, as long as nothing was answered (`ending` says when it is cut). Never
//! asks whether a permit holds: `live` does.

use http::Method;
use pingora::{Error, http::ResponseHeader, proxy::Session};

use super::{
    failure, hygiene,
    journey::{Journey, Stage},
    line::Line,
    live::LiveTrip,
    phase::has_begun,
};
use crate::refusal::Refusal;

impl Journey {
    fn live(&self) -> Option<&LiveTrip> {
        match &self.stage {
            Stage::Underway(underway) => Some(&underway.live),
            Stage::Serving(serving) => serving.live.as_ref(),
            Stage::Arrived | Stage::Over => None,
        }
    }

    /// Whether its permit was withdrawn.
    pub fn is_withdrawn(&self) -> bool {
        self.live().is_some_and(LiveTrip::is_withdrawn)
    }

    /// What the client is told instead of an answer, because its permit was withdrawn before that began. Its connection is
    /// not cut then.
    fn withdrawn(&self, session: &Session) -> Option<Refusal> {
        let refusal = self.live()?.refusal().filter(|_| !has_begun(session))?;
        if let Some(line) = Line::current() {
            line.ending.spare();
        }
        Some(refusal.clone())
    }

    /// Goes no further once its permit was withdrawn.
    pub fn refuse_withdrawn(&self, session: &Session) -> Result<(), Refusal> {
        self.withdrawn(session).map_or(Ok(()), Err)
    }

    /// An answer is about to begin, unless its permit was withdrawn meanwhile.
    pub fn begin_answer(&self, session: &Session) -> Result<(), Refusal> {
        // In this order: whoever withdraws it now sees that it has begun, or is seen.
        if let Some(line) = Line::current() {
            line.ending.begin_answer();
        }
        self.refuse_withdrawn(session)
    }

    /// Chooses where the trip goes next, which may have to be waited for.
    pub async fn next(&mut self, session: &Session) -> Result<(), Refusal> {
        if let Some(underway) = self.underway() {
            let line = Line::current();
            let refused = async {
                match &line {
                    Some(line) => line.ending.refused().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                next = underway.next() => next?,
                () = refused => {}
            }
        }
        self.refuse_withdrawn(session)
    }

    /// What the client is told of a trip that failed; none where there is no client any more.
    pub fn told(&mut self, session: &Session, error: &Error) -> Option<Refusal> {
        if let Some(withdrawn) = self.withdrawn(session) {
            return Some(withdrawn);
        }
        let refusal = failure::overdue().or_else(|| failure::refusal_for(error))?;
        Some(match self.underway().and_then(|underway| underway.cargo.exchange()) {
            Some(exchange) => exchange.told(refusal, failure::of(error)),
            None => refusal,
        })
    }

    /// The head of a server's stream goes with its first event, where that is there. Not while the server has not heard all:
    /// nobody may look at the client meanwhile, and a head without an event would stay.
    pub fn hold_head(&mut self, session: &Session, header: &ResponseHeader) {
        let is_whole = self.underway().is_some_and(|underway| underway.tries.is_whole());
        if is_whole
            && hygiene::is_event_stream(header)
            && session.req_header().method != Method::HEAD
            && let Some(line) = Line::current()
        {
            line.hold();
        }
    }
}
