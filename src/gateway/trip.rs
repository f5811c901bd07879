//! What happens on a trip, step by step, whoever carries it: the framework's proxy, or `passing`.
//!
//! Decides nothing itself: each step asks the module whose business it is. A panic in a step is a refusal.

use std::sync::Arc;

use bytes::Bytes;
use http::Version;
use pingora::{
    Error,
    http::{RequestHeader, ResponseHeader},
    proxy::Session,
    upstreams::peer::HttpPeer,
};

use super::{
    cors, failure, hygiene,
    journey::{Journey, Stage, Underway},
    phase::{caught, no_trip, refused},
    reply, traced,
};
use crate::dial::loan::Loan;

impl Journey {
    /// Chooses where the next try goes, for the framework.
    pub(super) async fn next_peer(&mut self, session: &Session) -> pingora::Result<HttpPeer> {
        self.next(session).await.map_err(refused)?;
        let body_timeout = self.gateway.settings.body_timeout;
        let Underway { trip, tries, .. } = self.underway().ok_or_else(no_trip)?;
        caught(|| tries.peer(trip, body_timeout).ok_or_else(no_trip))
    }

    /// Chooses where the next try goes, and has a loan of a connection there.
    pub(super) async fn next_loan(&mut self, session: &Session) -> pingora::Result<Arc<Loan>> {
        self.next(session).await.map_err(refused)?;
        let Self { gateway, stage: Stage::Underway(underway), .. } = self else { return Err(no_trip()) };
        let Underway { trip, tries, .. } = &mut **underway;
        caught(|| tries.lend(trip, gateway.client.wire()).ok_or_else(no_trip))
    }

    /// There is a connection.
    pub(super) fn connected(&mut self, session: &Session, is_reused: bool) -> pingora::Result<()> {
        self.refuse_withdrawn(session).map_err(refused)?;
        self.note_connected(is_reused);
        if let Some(trace) = &self.record.trace {
            trace.connected(is_reused);
        }
        Ok(())
    }

    /// There is no connection: whether there is another try.
    pub(super) fn not_connected(&mut self, error: Box<Error>) -> Box<Error> {
        let Some(underway) = self.underway() else { return error };
        let error = underway.not_connected(error);
        self.note_retry(&error);
        error
    }

    /// The exchange broke off: whether there is another try.
    pub(super) fn broke_off(&mut self, session: &Session, mut error: Box<Error>) -> Box<Error> {
        // Decided in every case: the framework panics over what is not.
        error.set_retry(false);
        let Some(underway) = self.underway() else { return error };
        let error = underway.broke_off(session, error);
        self.note_retry(&error);
        error
    }

    /// The head of the request, as the server gets it.
    pub(super) fn request(&mut self, session: &Session, version: Version) -> pingora::Result<RequestHeader> {
        caught(|| {
            let request_id = self.record.request_id.clone();
            let Underway { trip, cargo, tries, trace, .. } = self.underway().ok_or_else(no_trip)?;
            let destination = tries.destination(trip).ok_or_else(no_trip)?;
            cargo.restart();
            let client = session.req_header();
            let mut request =
                hygiene::request_to_peer(client, trip, destination, cargo, &request_id, version)?;
            traced::write(trace.as_deref(), &mut request)?;
            Ok(request)
        })
    }

    /// Turns the next bytes from the client into the next bytes for the server.
    pub(super) async fn hand_over(
        &mut self,
        session: &Session,
        body: &mut Option<Bytes>,
        is_end: bool,
    ) -> pingora::Result<()> {
        let judged = caught(|| {
            let Self { gateway, stage: Stage::Underway(underway), .. } = self else { return Err(no_trip()) };
            underway.tries.note_sent();
            let mut is_judged = false;
            if let Some(exchange) = underway.cargo.exchange().filter(|exchange| is_end && exchange.is_held())
            {
                exchange.renew(gateway.permit_now(exchange.permit()).map_err(refused)?);
                is_judged = true;
            }
            underway.pass(body, is_end, &session.req_header().headers).map_err(refused)?;
            let Underway { trip, cargo, tries, .. } = &mut **underway;
            if is_end {
                tries.note_whole();
                match cargo.exchange() {
                    None => tries.expect_answer(trip),
                    Some(exchange) => exchange.expect_answer(),
                }
            }
            if let Some(denied) = cargo.exchange().and_then(|exchange| exchange.denied.take()) {
                self.record.refuse(&denied);
            }
            let exchange = cargo.exchange().filter(|_| is_judged);
            Ok(exchange.map(|exchange| (exchange.permit().clone(), exchange.asked.clone())))
        })?;
        let Some((permit, asked)) = judged else { return Ok(()) };
        let gateway = self.gateway.clone();
        gateway.limit_native(self, &permit, &asked).await.map_err(refused)
    }

    /// Turns the head of the server's answer into the client's.
    pub(super) fn answer_head(
        &mut self,
        session: &mut Session,
        header: &mut ResponseHeader,
    ) -> pingora::Result<()> {
        failure::refuse_leading_away(header.status).map_err(refused)?;
        if header.status.is_informational() {
            return Ok(());
        }
        if let Some(underway) = self.underway() {
            underway.refuse_stand_in(session, header.status.as_u16())?;
        }
        self.begin_answer(session).map_err(refused)?;
        caught(|| {
            hygiene::clean_answer(header);
            if let Some(Underway { trip, cargo, tries, .. }) = self.underway()
                && let (Some(exchange), Some(destination)) = (cargo.exchange(), tries.destination(trip))
            {
                exchange.answer_head(header, destination).map_err(refused)?;
            }
            hygiene::frame_for(session.req_header().version, header);
            self.note_answer(header.status.as_u16(), hygiene::is_event_stream(header)).map_err(refused)?;
            reply::mark(header, self)?;
            reply::end_connection_when_draining(session);
            cors::mark(header, self)?;
            self.note_answer_length(header, session);
            self.hold_head(session, header);
            Ok(())
        })
    }

    /// Turns the next bytes of the server's answer into the client's.
    pub(super) fn answer_piece(
        &mut self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        is_end: bool,
    ) -> pingora::Result<()> {
        caught(|| {
            let mut is_whole = self.hear_answer(body, is_end, session.req_header().version);
            if let Some(underway) = self.underway() {
                if let Some(exchange) = underway.cargo.exchange() {
                    exchange.answer_body(body, is_end).map_err(refused)?;
                }
                if let Some(bytes) = body.as_ref() {
                    underway.tries.note_piece(&underway.trip).map_err(refused)?;
                    underway.answer.note_error_body(bytes);
                    is_whole |= self.note_sent(bytes);
                }
            }
            if is_end && let Some(underway) = self.underway() {
                underway.tries.note_end();
            }
            if is_whole {
                self.record.arrive_back();
                self.seal(session);
            }
            Ok(())
        })
    }
}
