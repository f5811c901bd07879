//! The tries of one trip: at which address each is made, what it says of the peer, and whether there is another.
//!
//! Decides that a request is sent a second time only when nothing of the first was, or when it may be run twice: the
//! operator or the tool says so, or the client names it by an `Idempotency-Key`. Never after a deadline: its client has
//! waited long enough. Waits for nothing but a server that has just gone away. A peer is at fault for what it owes once it
//! has the whole request, and never for the time that its client took.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use pingora::{Error, ErrorSource, ErrorType, proxy::Session, upstreams::peer::HttpPeer};

use super::{
    failure, hygiene,
    journey::{AnswerSeen, Cargo, Journey, Underway},
    line::Line,
    native::body::Load,
};
use crate::{
    catalog::server::Tier,
    dial::{loan::Loan, wire::Wire},
    refusal::{Code, Refusal},
    upstream::{
        Destination, Trip,
        breaker::Fault,
        course::{Pick, Tried},
        peer::{http_peer, plain},
    },
};

/// Tries of one trip at most: how many there are is decided below, by what is known of its addresses.
pub const MOST: usize = 32;
/// So much longer the framework waits for a silent peer.
const MARGIN: Duration = Duration::from_secs(5);

/// How far the tries of a trip have come.
#[derive(Default)]
pub struct Tries {
    tried: Tried,
    pick: Option<Pick>,
    /// The head of the request has been written: from here on it may be run.
    is_sent: bool,
    /// All of the request has been written: from here on the peer owes an answer.
    is_whole: bool,
    /// An answer is waited for that has its time. Not a stream; and an exchange of native MCP keeps its own.
    is_timed: bool,
    /// What began to come is a stream.
    is_stream: bool,
    /// By which its connection is lent; none where the framework has its own.
    loan: Option<Arc<Loan>>,
    /// It was sent again although it may have been run.
    is_repeated: bool,
}

impl Tries {
    /// Chooses where the trip goes next.
    pub async fn next(&mut self, trip: &mut Trip) -> Result<(), Refusal> {
        (self.pick, self.loan) = (None, None);
        let pick = trip.next(&mut self.tried).await?;
        (self.is_sent, self.is_whole, self.is_timed, self.is_stream) = (false, false, false, false);
        self.pick = Some(pick);
        Ok(())
    }

    /// Where the present try goes.
    pub fn destination<'t>(&self, trip: &'t Trip) -> Option<&'t Destination> {
        trip.course().destination(self.pick.as_ref()?.at)
    }

    /// The peer of the present try, for the framework.
    pub fn peer(&self, trip: &Trip, body_timeout: Duration) -> Option<HttpPeer> {
        Some(patient(http_peer(trip, self.destination(trip)?), body_timeout))
    }

    /// A loan of a connection for the present try, to where there is no TLS.
    pub fn lend(&mut self, trip: &Trip, wire: &Wire) -> Option<Arc<Loan>> {
        self.loan = Some(wire.lend(plain(trip, self.destination(trip)?)));
        self.loan.clone()
    }

    /// The head of the request has been written.
    pub fn note_sent(&mut self) {
        self.is_sent = true;
    }

    /// Whether all of the request has been written.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// All of the request has been written.
    pub fn note_whole(&mut self) {
        self.is_whole = true;
    }

    /// An answer is due.
    pub fn expect_answer(&mut self, trip: &Trip) {
        // A server may answer before it has heard all.
        self.is_timed = !self.is_stream;
        if let Some(line) = Line::current().filter(|_| self.is_timed) {
            line.expect_answer(trip.server().deadlines.first_byte);
            line.must_end(trip.server().deadlines.total);
        }
    }

    /// The head of the answer is here: what follows has its time as well, unless that is a stream.
    pub fn note_head(&mut self, trip: &Trip, answer: &AnswerSeen) {
        let is_timed = self.is_timed;
        if answer.is_stream {
            (self.is_timed, self.is_stream) = (false, true);
            self.settle_by(answer, trip.server().tier);
        }
        if let Some(line) = Line::current().filter(|_| is_timed) {
            if answer.is_stream {
                line.answer_began();
                line.may_go_on();
            } else {
                line.expect_answer(trip.server().deadlines.read);
            }
        }
    }

    /// A piece of the answer is here, and the next one is due. Where it is one too late, it is refused: what comes all the
    /// time leaves no moment in which a clock is looked at.
    pub fn note_piece(&self, trip: &Trip) -> Result<(), Refusal> {
        let Some(line) = Line::current().filter(|_| self.is_timed) else { return Ok(()) };
        line.expect_answer(trip.server().deadlines.read);
        if !line.is_past_end() {
            return Ok(());
        }
        Err(Refusal::new(Code::PeerTooSlow, "the server did not end its answer in time"))
    }

    /// The present try was none: its address may be tried once more.
    fn forget(&mut self) {
        if let Some(pick) = &self.pick {
            self.tried.forget(pick.at);
        }
    }

    /// The answer is all there.
    pub fn note_end(&self) {
        if let Some(line) = Line::current().filter(|_| self.is_timed) {
            line.answer_began();
        }
    }

    /// Notes what an answer says of the peer that gave it.
    pub fn settle_by(&mut self, answer: &AnswerSeen, tier: Tier) {
        if answer.status != 0 {
            self.settle(answer.fault(tier));
        }
    }

    /// Whatever happens before the peer has the whole request, or while its answer waits for the client, may be the client's
    /// doing: servers hang up on those who are slow.
    fn settle(&mut self, fault: Option<Fault>) {
        let is_of_client = || !self.is_whole || Line::current().is_some_and(|line| line.has_waited());
        if fault.is_some_and(|fault| fault != Fault::Unreached) && is_of_client() {
            return;
        }
        if let Some(seat) = self.pick.as_mut().and_then(|pick| pick.seat.as_mut()) {
            seat.settle(fault);
        }
    }
}

impl Underway {
    /// There is no connection, and so nothing was sent: the next address may be tried, whatever the method.
    pub fn not_connected(&mut self, mut error: Box<Error>) -> Box<Error> {
        self.note_failed_try(&error);
        self.tries.settle(Some(Fault::Unreached));
        let goes_on =
            !self.live.is_withdrawn() && self.trip.course().may_go_on(self.tries.tried, self.trip.patience());
        if goes_on {
            self.note_unsent();
        }
        error.set_retry(goes_on);
        error
    }

    /// The exchange broke off: notes what that says of the peer, and decides whether there is another try.
    pub fn broke_off(&mut self, session: &Session, mut error: Box<Error>) -> Box<Error> {
        self.note_failed_try(&error);
        let fault = fault_of(&error);
        let goes_on = match fault {
            Some(_) if self.is_stale(session) => {
                // The end of an idle connection says nothing of the peer.
                self.tries.forget();
                self.note_unsent();
                true
            }
            Some(fault) => {
                self.tries.settle(Some(fault));
                self.goes_on(session, &error, fault)
            }
            None => false,
        };
        if goes_on && let Some(line) = Line::current() {
            line.answer_began();
            line.may_go_on();
        }
        error.set_retry(goes_on);
        error
    }

    /// Whether the connection had served before and ended before anything of this request went.
    fn is_stale(&self, session: &Session) -> bool {
        let is_unsent = |loan: &Arc<Loan>| loan.is_reused() && !loan.has_sent();
        self.tries.loan.as_ref().is_some_and(is_unsent) && self.is_all_there() && can_be_sent_again(session)
    }

    fn goes_on(&mut self, session: &Session, error: &Error, fault: Fault) -> bool {
        if !can_be_sent_again(session) {
            return false;
        }
        let course = self.trip.course();
        // RFC 9113, section 7: HTTP_1_1_REQUIRED comes before anything is run.
        let is_downgrade = *error.etype() == ErrorType::H2Downgrade;
        // A head is held back until its body comes, and both may have stayed here.
        let is_held = self.tries.loan.as_ref().is_some_and(|loan| !loan.has_sent()) && self.is_all_there();
        if !self.tries.is_sent || is_held || is_downgrade {
            if is_downgrade {
                self.tries.forget();
            }
            let goes_on = course.may_go_on(self.tries.tried, self.trip.patience());
            if goes_on {
                self.note_unsent();
            }
            return goes_on;
        }
        if fault == Fault::TooSlow || !self.may_run_twice(session) {
            return false;
        }
        let Some(seat) = self.tries.pick.as_ref().and_then(|pick| pick.seat.as_ref()) else { return false };
        if !seat.health().tally().may_repeat() {
            return false;
        }
        if !course.has_other(self.tries.tried) {
            self.tries.tried.forget_all();
        }
        self.tries.is_repeated = true;
        true
    }

    /// Refuses an answer by which what stands in front of a server says that the server is gone (502, 503, 504), where the
    /// request goes to another address then.
    pub fn refuse_stand_in(&self, session: &Session, status: u16) -> pingora::Result<()> {
        let has_other = || self.trip.course().has_other(self.tries.tried);
        let is_sent_again = || {
            let is_all_here = self.tries.is_whole && !session.as_ref().retry_buffer_truncated();
            is_all_here && has_other() && self.may_run_twice(session)
        };
        if matches!(status, 502..=504) && is_sent_again() {
            let etype = ErrorType::HTTPStatus(status);
            return Err(Error::create(etype, ErrorSource::Upstream, None, None));
        }
        Ok(())
    }

    /// Whether it may be sent again although the first may have been run: it was not yet, and does no harm.
    fn may_run_twice(&self, session: &Session) -> bool {
        let is_harmless = || self.trip.is_repeatable() || hygiene::is_named_by_client(session.req_header());
        !self.tries.is_repeated && self.is_all_there() && is_harmless()
    }

    /// Whether all of the request can be written once more.
    fn is_all_there(&self) -> bool {
        match &self.cargo {
            Cargo::Arguments(_) => true,
            // What was held has gone.
            Cargo::Native(exchange) => matches!(exchange.load, Load::Whole(_)),
        }
    }

    fn note_unsent(&self) {
        if let Some(seat) = self.tries.pick.as_ref().and_then(|pick| pick.seat.as_ref()) {
            seat.health().tally().unsent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Journey {
    /// Counts another try, where the error leads to one.
    pub fn note_retry(&mut self, error: &Error) {
        self.record.retries += u32::from(error.retry());
    }
}

/// The peer, for whose silence the framework waits longer than the gateway's own clocks: its timer also runs while the client
/// still sends, who has its own time for that.
fn patient(mut peer: HttpPeer, body_timeout: Duration) -> HttpPeer {
    let silence = &mut peer.options.read_timeout;
    *silence = silence.map(|silence| silence.max(body_timeout) + MARGIN);
    peer
}

/// Whether nothing was answered yet, and the framework has all of the request: no more than fits into its buffer.
fn can_be_sent_again(session: &Session) -> bool {
    !super::has_begun(session) && !session.as_ref().retry_buffer_truncated()
}

/// What a failed exchange says of the peer; none where it was not the peer that failed.
fn fault_of(error: &Error) -> Option<Fault> {
    if failure::overdue().is_some() {
        let is_client_slow = Line::current().is_some_and(|line| line.is_client_slow());
        return (!is_client_slow).then_some(Fault::TooSlow);
    }
    if let Some(refusal) = error.root_cause().downcast_ref::<Refusal>() {
        return match refusal.code() {
            Code::PeerTooSlow => Some(Fault::TooSlow),
            // A redirect, a credential that is not believed: not a matter of which address is asked.
            _ => None,
        };
    }
    if *error.esource() != ErrorSource::Upstream {
        return None;
    }
    Some(match error.etype() {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Fault::TooSlow,
        ErrorType::InvalidHTTPHeader | ErrorType::H1Error => Fault::NoAnswer,
        ErrorType::HTTPStatus(_) => Fault::SaidSo,
        _ => Fault::HungUp,
    })
}

/// How long a refused client is asked to wait for a server that could not be reached.
pub(super) const SOON: Duration = Duration::from_secs(1);
