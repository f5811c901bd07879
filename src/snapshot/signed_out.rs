//! Keeps what is known of ended sessions of Open WebUI true: answers first sights, looks at every session in use again.
//!
//! Decides nothing: marks go into `identity::signed_out`, which judges by them at each request.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::MissedTickBehavior};

use super::{Current, health::Health};
use crate::{
    identity::signed_out::{Question, SignedOut},
    store::signed_out::{Mark, Redis, Until},
};

/// First sights answered with one command.
const BATCH: usize = 500;
/// How the log calls what is asked.
const NAME: &str = "Open WebUI's Redis";

/// Answers first sights until the process ends.
pub async fn answer(
    current: Arc<Current>,
    signed_out: Arc<SignedOut>,
    mut questions: mpsc::Receiver<Question>,
    mut redis: Redis,
) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut health = Health::of(NAME);
    while questions.recv_many(&mut batch, BATCH).await > 0 {
        let (marks, askers): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|question| (question.about, question.asker)).unzip();
        let outcome = redis.read(&marks).await;
        health.note(&outcome);
        // Questions of a batch that fails are dropped, and so answered.
        for ((mark, until), asker) in marks.into_iter().zip(outcome.unwrap_or_default()).zip(askers) {
            let before = signed_out.marks().get(&mark);
            asker.tell(learn(&signed_out, mark, before, until).0);
        }
        // One forgotten may have calls underway.
        current.announce_callers_changed();
    }
}

/// Looks at every session in use, again and again until the process ends.
pub async fn refresh(current: Arc<Current>, signed_out: Arc<SignedOut>, mut redis: Redis, pause: Duration) {
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut health = Health::of(NAME);
    loop {
        ticks.tick().await;
        let (marks, before): (Vec<_>, Vec<_>) = signed_out.marks().all().into_iter().unzip();
        let outcome = redis.read(&marks).await;
        health.note(&outcome);
        let Ok(found) = outcome else { continue };
        let mut is_news = false;
        for ((mark, before), until) in marks.into_iter().zip(before).zip(found) {
            is_news |= learn(&signed_out, mark, before, until).1;
        }
        signed_out.marks().confirm();
        if is_news {
            current.announce_callers_changed();
        }
    }
}

/// Remembers what was found of a mark, and says what it is now and whether that is new.
fn learn(
    signed_out: &SignedOut,
    mark: Mark,
    before: Option<Option<Until>>,
    found: Option<Until>,
) -> (Option<Until>, bool) {
    let until = match &mark {
        // What ended once stays ended, though Redis forgets it: with the token's life, or with its own.
        Mark::Token(_) => found.max(before.flatten()),
        // Who wrote a wrong time here must be able to correct it, or the user could never sign in again.
        Mark::User(_) => found,
    };
    let is_new = before != Some(until);
    if is_new {
        signed_out.marks().remember(mark, until);
    }
    (until, is_new)
}
