//! Why a try brought no answer, and so whether there may be another.

use crate::{
    dial::wire::{Failed, Fault},
    refusal::{Code, Refusal},
    upstream,
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
            Fault::Unwritable => Self::Refused(refusal),
            _ if !failed.is_sent => Self::Unsent(refusal),
            Fault::Closed | Fault::Connect => Self::Lost(refusal),
            Fault::TooSlow | Fault::NotHttp => Self::Refused(refusal),
        }
    }
}

/// What the asker is told about an exchange that failed.
pub fn refusal_for(failed: Failed) -> Refusal {
    match failed.kind {
        Fault::Connect | Fault::Closed => upstream::unreachable(failed.word),
        Fault::TooSlow => too_slow(failed.word),
        Fault::NotHttp => {
            Refusal::new(Code::PeerBadAnswer, "the server answered with something that is not HTTP")
                .because(failed.word)
        }
        Fault::Unwritable => Refusal::internal(failed.word),
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
