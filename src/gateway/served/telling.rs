//! The answer to a call while it is told: JSON as long as there is nothing to say before the end, events from then on.

use pingora::proxy::Session;

use super::{Speaker, answer};
use crate::{
    gateway::{decide::Step, journey::Journey, reply},
    mcp,
    refusal::{Code, Refusal},
};

/// Where the answer to a call stands.
pub(super) struct Telling<'a> {
    /// Who is told.
    pub speaker: &'a Speaker,
    /// Whether it has become a stream of events.
    pub is_open: bool,
    /// How often the client was asked something.
    rounds: u32,
}

impl<'a> Telling<'a> {
    /// Nothing is said yet.
    pub(super) fn new(speaker: &'a Speaker) -> Self {
        Self { speaker, is_open: false, rounds: 0 }
    }

    /// The client is asked once more: how often that was.
    pub(super) fn next_round(&mut self) -> u32 {
        self.rounds += 1;
        self.rounds
    }

    /// Says something before the answer, where the client takes events.
    pub(super) async fn tell(
        &mut self,
        session: &mut Session,
        journey: &mut Journey,
        message: &str,
    ) -> Result<(), Refusal> {
        if !self.speaker.takes_events {
            return Ok(());
        }
        let sending = async {
            if !self.is_open {
                reply::open_events(session, journey, &[]).await?;
                self.is_open = true;
            }
            reply::send_event(session, journey, "message", message).await
        };
        sending.await.map_err(|error| gone(&error))
    }

    /// Says the last word.
    pub(super) async fn end(
        self,
        session: &mut Session,
        journey: &mut Journey,
        status: u16,
        message: String,
    ) -> Result<Step, Refusal> {
        if !self.is_open {
            return Ok(answer(status, message));
        }
        let sending = reply::send_last_event(session, journey, "message", &message);
        sending.await.map_err(|error| gone(&error))?;
        Ok(Step::Written)
    }

    /// Tells of a failure: as a refusal where nothing was said yet, else as the stream's last event.
    pub(super) async fn fail(
        self,
        session: &mut Session,
        journey: &mut Journey,
        id: &str,
        refusal: Refusal,
    ) -> Result<Step, Refusal> {
        if !self.is_open {
            return Err(refusal);
        }
        journey.record.refuse(&refusal);
        let body = mcp::error::body(&refusal, Some(id), journey.record.request_id.as_str());
        self.end(session, journey, 200, String::from_utf8_lossy(&body).into_owned()).await
    }
}

/// A client that may not have a stream, or one that cannot be written to: nobody reads what that is told.
fn gone(error: &pingora::Error) -> Refusal {
    if let Some(refusal) = error.root_cause().downcast_ref::<Refusal>() {
        return refusal.clone();
    }
    Refusal::new(Code::BadRequest, "the client has left")
        .because(format_args!("writing: {}", error.etype().as_str()))
        .closing()
}
