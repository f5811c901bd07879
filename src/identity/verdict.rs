//! What one scheme says of a credential, and when the asking ends.

use std::{ops::ControlFlow, sync::Arc};

use super::caller::Caller;
use crate::refusal::Refusal;

/// What one scheme says.
#[derive(Debug)]
pub enum Verdict {
    /// The scheme is not configured.
    Off,
    /// The credential belongs to another scheme.
    NotMine,
    /// The credential is believed.
    Known(Arc<Caller>),
    /// The credential is this scheme's and is refused; no other scheme is asked.
    Failed(Refusal),
}

impl From<Result<Arc<Caller>, Refusal>> for Verdict {
    fn from(decision: Result<Arc<Caller>, Refusal>) -> Self {
        decision.map_or_else(Verdict::Failed, Verdict::Known)
    }
}

/// How the asking ended: nobody is asked after a scheme that knows or refuses.
pub type Asking = ControlFlow<Result<Arc<Caller>, Refusal>>;

impl Verdict {
    /// Lets the listener hear what the scheme said, and ends the asking where it knows or refuses.
    pub(super) fn heard(self, scheme: &'static str, listener: &mut Listener<'_>) -> Asking {
        listener(scheme, &self);
        match self {
            Verdict::Off | Verdict::NotMine => ControlFlow::Continue(()),
            Verdict::Known(caller) => ControlFlow::Break(Ok(caller)),
            Verdict::Failed(refusal) => ControlFlow::Break(Err(refusal)),
        }
    }
}

/// Hears what each scheme says, in the order they are asked.
pub type Listener<'l> = dyn FnMut(&'static str, &Verdict) + Send + 'l;
