//! The tries of one question: at which address each is made, and whether there is another.
//!
//! Decides that a question is sent a second time only when the first was not sent, was proved not to have run, or does
//! no harm twice. Waits for a server that has just gone away as `upstream::course` does.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::stopped::Stopped;
use crate::{
    dial::wire::Incoming,
    refusal::Refusal,
    trace::Trace,
    upstream::{
        Destination, Way,
        breaker::Fault,
        course::{Course, Pick, Tried},
        health::Seat,
    },
};

/// Where a question is tried: one address after the other, and round again until a restarting server had time enough.
pub(super) struct Tries<'a> {
    way: &'a Way,
    /// Where the tries are noted, and as what.
    trace: Option<(Arc<Trace>, Option<&'static str>)>,
    course: Course,
    tried: Tried,
    pick: Option<Pick>,
    refusal: Option<Refusal>,
    /// What may have run, and does no harm twice, was asked again.
    is_repeated: bool,
    /// The session or the era was found out anew.
    pub(super) is_renewed: bool,
}

impl<'a> Tries<'a> {
    pub(super) fn new(way: &'a Way) -> Self {
        let tried = Tried::default();
        Self {
            way,
            trace: None,
            course: way.course().clone(),
            tried,
            pick: None,
            refusal: None,
            is_repeated: false,
            is_renewed: false,
        }
    }

    /// Has each try noted, as one that asks by this method of MCP.
    pub(super) fn noted(self, trace: Option<&Arc<Trace>>, asks: Option<&'static str>) -> Self {
        Self { trace: trace.map(|trace| (trace.clone(), asks)), ..self }
    }

    /// Where to try next; the last refusal when it has been tried enough.
    pub(super) async fn next(&mut self) -> Result<Destination, Refusal> {
        self.pick = None;
        match self.course.next(&mut self.tried, self.way.patience()).await {
            Ok(pick) => {
                let destination = self.course.destination(pick.at).cloned();
                self.pick = Some(pick);
                if let Some((trace, asks)) = &self.trace
                    && let Some(destination) = &destination
                {
                    trace.begin_try(&destination.peer.host, destination.address, *asks);
                }
                destination.ok_or_else(|| Refusal::internal("an address that is not there"))
            }
            Err(refusal) => Err(match self.refusal.take() {
                Some(last) => last.retry_after(Duration::from_secs(refusal.retry_after_secs().unwrap_or(1))),
                None => refusal,
            }),
        }
    }

    /// Whether what does no harm twice would be asked again, and at another address.
    pub(super) fn may_repeat(&self, is_repeatable: bool) -> bool {
        is_repeatable && !self.is_repeated && self.course.has_other(self.tried)
    }

    /// The question had an answer: whether that was a good one is known to who read it.
    pub(super) fn seat(&mut self) -> Option<Seat> {
        self.pick.take().and_then(|pick| pick.seat)
    }

    /// A try has failed: goes on where there may be another, and gives back the refusal where not.
    pub(super) fn note(&mut self, stopped: Stopped, is_repeatable: bool) -> Result<(), Refusal> {
        let mut pick = self.pick.take();
        if let Some(seat) = pick.as_mut().and_then(|pick| pick.seat.as_mut()) {
            // What each request showed of the peer was noted with it.
            seat.settle_trial(stopped.fault());
        }
        if let Some((trace, _)) = &self.trace {
            trace.end_try(Some(stopped.code().as_str()));
        }
        match stopped {
            Stopped::Unsent(refusal) => {
                if let Some(seat) = pick.as_ref().and_then(|pick| pick.seat.as_ref()) {
                    seat.health().tally().unsent.fetch_add(1, Ordering::Relaxed);
                }
                self.refusal = Some(refusal);
            }
            Stopped::Lost(refusal) if is_repeatable && !self.is_repeated && may_repeat(pick.as_ref()) => {
                if !self.course.has_other(self.tried) {
                    self.tried.forget_all();
                }
                (self.is_repeated, self.refusal) = (true, Some(refusal));
            }
            // The same address: it is the session or the era that is another one.
            Stopped::Unrun(_) if !self.is_renewed => {
                self.is_renewed = true;
                if let Some(pick) = pick {
                    self.tried.forget(pick.at);
                }
            }
            Stopped::Unrun(refusal) | Stopped::Lost(refusal) | Stopped::Refused(refusal) => {
                return Err(refusal);
            }
        }
        Ok(())
    }
}

/// Whether the server's load allows a question to be asked twice.
fn may_repeat(pick: Option<&Pick>) -> bool {
    pick.and_then(|pick| pick.seat.as_ref()).is_none_or(|seat| seat.health().tally().may_repeat())
}

/// An answer to a request of another form than MCP's, and its place at the peer.
pub struct Delivered {
    /// The answer, of which only the head was read.
    pub incoming: Incoming,
    pub(super) seat: Option<Seat>,
}

impl Delivered {
    /// Notes what the answer says of the peer, once all of it was read.
    pub fn settle(&mut self, fault: Option<Fault>) {
        if let Some(seat) = &mut self.seat {
            seat.settle(fault);
        }
    }
}
