//! Says once that something outside does not answer any more, and once that it does again.

use tracing::{info, warn};

/// Whether something outside answered when it was last asked.
pub struct Health {
    name: &'static str,
    is_up: bool,
}

impl Health {
    /// Something that is taken to answer until it does not; its name begins a sentence.
    pub fn of(name: &'static str) -> Self {
        Self { name, is_up: true }
    }

    /// Notes how a question to it went.
    pub fn note<T>(&mut self, outcome: &anyhow::Result<T>) {
        match outcome {
            Ok(_) if !self.is_up => info!("{} answers again", self.name),
            Err(error) if self.is_up => warn!("{} does not answer: {error:#}", self.name),
            Ok(_) | Err(_) => {}
        }
        self.is_up = outcome.is_ok();
    }
}
