//! Why a try brought no answer, and so whether there may be another.

use crate::{
    dial::wire::{self, Failed},
    refusal::{Code, Refusal},
    upstream::{self, breaker::Fault},
};

/// Why a try brought no answer, with what the asker would be told.
#[derive(Debug)]
pub(super) enum Stopped {
    /// Nothing was sent.
    Unsent(Refusal),
    /// It was sent, and the server proved that it ran nothing.
    Unrun(Refusal),
    /// It was sent, and nobody knows what became of it.
    Lost(Refusal),
    /// That was the answer.
    Refused(Refusal),
}

impl Stopped {
    /// What the asker is told.
    pub(super) fn into_refusal(self) -> Refusal {
        match self {
            Self::Unsent(refusal) | Self::Unrun(refusal) | Self::Lost(refusal) | Self::Refused(refusal) => {
                refusal
            }
        }
    }

    /// The code of what the asker is told.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Unsent(refusal) | Self::Unrun(refusal) | Self::Lost(refusal) | Self::Refused(refusal) => {
                refusal.code()
            }
        }
    }

    /// What it says of the peer; none where it did what it was asked.
    pub(super) fn fault(&self) -> Option<Fault> {
        match self {
            Self::Unsent(_) => Some(Fault::Unreached),
            Self::Lost(_) => Some(Fault::HungUp),
            Self::Refused(refusal) => match refusal.code() {
                Code::PeerTooSlow => Some(Fault::TooSlow),
                Code::PeerUnreachable => Some(Fault::SaidSo),
                _ => None,
            },
            Self::Unrun(_) => None,
        }
    }

    /// The same about something that does no harm however often it is sent.
    pub(super) fn harmless(self) -> Self {
        match self {
            Self::Lost(refusal) => Self::Unsent(refusal),
            other => other,
        }
    }
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Failed> for Stopped {
    fn from(failed: Failed) -> Self {
        let refusal = refusal_for(failed);
        match failed.kind {
            wire::Fault::Unwritable => Self::Refused(refusal),
            _ if !failed.is_sent => Self::Unsent(refusal),
            wire::Fault::Closed | wire::Fault::Connect => Self::Lost(refusal),
            wire::Fault::TooSlow | wire::Fault::NotHttp => Self::Refused(refusal),
        }
    }
}

/// What a failed exchange says of the peer; none where it was not the peer that failed.
pub fn fault_of(failed: Failed) -> Option<Fault> {
    Some(match failed.kind {
        wire::Fault::Connect => Fault::Unreached,
        wire::Fault::TooSlow | wire::Fault::Closed if !failed.is_sent => Fault::Unreached,
        wire::Fault::TooSlow => Fault::TooSlow,
        wire::Fault::Closed => Fault::HungUp,
        wire::Fault::NotHttp => Fault::NoAnswer,
        wire::Fault::Unwritable => return None,
    })
}

/// What the asker is told about an exchange that failed.
pub fn refusal_for(failed: Failed) -> Refusal {
    match failed.kind {
        wire::Fault::Connect | wire::Fault::Closed => upstream::unreachable(failed.word),
        wire::Fault::TooSlow => too_slow(failed.word),
        wire::Fault::NotHttp => {
            Refusal::new(Code::PeerBadAnswer, "the server answered with something that is not HTTP")
                .because(failed.word)
        }
        wire::Fault::Unwritable => Refusal::internal(failed.word),
    }
}

/// What the asker is told when time is up.
pub(super) fn too_slow(cause: &'static str) -> Refusal {
    Refusal::new(Code::PeerTooSlow, "the server did not answer in time").because(cause)
}

/// What the asker is told of an answer that is none.
pub(super) fn bad_answer(cause: impl ToString) -> Refusal {
    Refusal::new(Code::PeerBadAnswer, "the server's answer cannot be understood").because(cause)
}
