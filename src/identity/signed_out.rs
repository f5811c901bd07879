//! Sessions of Open WebUI that were ended, as its Redis last told: answers from memory, and asks at first sight.
//!
//! Decides whether a session was ended. Never reads Redis itself; `snapshot::signed_out` does, and looks at every
//! session in use again. Open WebUI lets sessions in while its Redis is away; here one never seen is refused then.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{
    caller::SessionId,
    jwt,
    reason::Reason,
    watched::{self, Asking, Pinned, Watched},
};
use crate::{
    refusal::Refusal,
    store::signed_out::{Mark, Until},
};

/// A question to the background task.
pub type Question = watched::Question<Mark, Option<Until>>;

/// The marks that end sessions, as far as somebody uses the sessions they would end.
pub struct SignedOut {
    marks: Arc<Watched<Mark, Option<Until>>>,
    asking: Asking<Mark, Option<Until>>,
}

/// A session with calls underway; while it is held, the session is looked at.
pub struct Pin {
    _marks: Vec<Pinned<Mark, Option<Until>>>,
}

impl SignedOut {
    /// Nothing known yet, and the questions that will be asked.
    pub fn new(max_stale: Duration) -> (Arc<Self>, mpsc::Receiver<Question>) {
        let (asking, asked) = Asking::new();
        (Arc::new(Self { marks: Watched::new(max_stale), asking }), asked)
    }

    /// From now on believed for this long, and asked of whoever has what is given back.
    pub fn renewed(&self, max_stale: Duration) -> mpsc::Receiver<Question> {
        self.marks.set_max_stale(max_stale);
        self.asking.renewed()
    }

    /// Refuses a session that was ended; waits only at its first sight.
    pub async fn refuse_ended(&self, session: &SessionId, expires: Option<i64>) -> Result<(), Refusal> {
        for mark in &session.marks {
            let until = match self.marks.get(mark) {
                Some(_) if self.marks.is_too_old() => {
                    return Err(Reason::AccountUnknown.because("what is known of ended sessions is too old"));
                }
                Some(until) => until,
                None => self.asking.ask(mark.clone()).await.map_err(|trouble| {
                    Reason::AccountUnknown.because(format!("Open WebUI's Redis: {trouble}"))
                })?,
            };
            if is_ended(until, session.issued) {
                return Err(Reason::SignedOut.refuse());
            }
        }
        // Redis forgets a mark when its token expires: the time forgiven after that would let an ended session in again.
        if expires.is_some_and(|expires| expires <= jwt::now()) {
            return Err(Reason::Expired.refuse());
        }
        Ok(())
    }

    /// Whether a session that was let in earlier has been ended since, as far as is known.
    pub fn has_ended(&self, session: &SessionId) -> bool {
        // One not looked at since it was pinned will be, and what is found then is announced.
        let until = |mark| self.marks.get(mark).flatten();
        session.marks.iter().any(|mark| is_ended(until(mark), session.issued))
    }

    /// Keeps a session among those looked at again.
    pub fn pin(&self, session: &SessionId) -> Pin {
        Pin { _marks: session.marks.iter().map(|mark| self.marks.pin(mark.clone())).collect() }
    }

    /// What is remembered, for the background task.
    pub fn marks(&self) -> &Watched<Mark, Option<Until>> {
        &self.marks
    }
}

/// Whether a mark ends a session that was issued then.
fn is_ended(until: Option<Until>, issued: Option<i64>) -> bool {
    // A token that does not say when it was issued may be older than any mark.
    until.is_some_and(|until| issued.is_none_or(|issued| issued <= until))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn session(jti: Option<&str>, issued: Option<i64>) -> SessionId {
        SessionId::new("jane", jti, issued)
    }

    async fn refused(signed_out: &SignedOut, session: &SessionId) -> Option<&'static str> {
        let expires = Some(jwt::now() + 60);
        let refused = signed_out.refuse_ended(session, expires).await.err()?;
        Some(refused.why().unwrap())
    }

    #[tokio::test]
    async fn a_session_is_ended_by_its_own_mark_or_by_one_of_its_user_after_it_began() {
        let (signed_out, _asked) = SignedOut::new(LONG);
        let mark = |mark: Mark, until| signed_out.marks.remember(mark, until);
        mark(Mark::User("jane".into()), None);
        mark(Mark::Token("ended".into()), Some(Until::MAX));
        mark(Mark::Token("good".into()), None);
        let check = async |jti, issued, expected: Option<&str>| {
            let session = session(jti, issued);
            assert_eq!(refused(&signed_out, &session).await, expected, "{session:?}");
            assert_eq!(signed_out.has_ended(&session), expected.is_some(), "{session:?}");
        };
        check(Some("good"), Some(100), None).await;
        check(Some("good"), None, None).await;
        check(None, Some(100), None).await;
        check(Some("ended"), Some(100), Some("signed_out")).await;
        mark(Mark::User("jane".into()), Some(100));
        check(Some("good"), Some(100), Some("signed_out")).await;
        check(None, Some(99), Some("signed_out")).await;
        check(Some("good"), Some(101), None).await;
        check(Some("good"), None, Some("signed_out")).await;
    }

    #[tokio::test]
    async fn what_cannot_be_known_is_refused_and_what_is_known_too_long_as_well() {
        let (signed_out, asked) = SignedOut::new(LONG);
        drop(asked);
        assert_eq!(refused(&signed_out, &session(Some("new"), None)).await, Some("account_unknown"));
        let (signed_out, _asked) = SignedOut::new(Duration::ZERO);
        signed_out.marks.remember(Mark::User("jane".into()), None);
        while !signed_out.marks.is_too_old() {
            tokio::task::yield_now().await;
        }
        assert_eq!(refused(&signed_out, &session(None, None)).await, Some("account_unknown"));
    }

    #[tokio::test]
    async fn a_token_whose_mark_redis_may_have_forgotten_has_expired() {
        let (signed_out, _asked) = SignedOut::new(LONG);
        signed_out.marks.remember(Mark::User("jane".into()), None);
        let expired = signed_out.refuse_ended(&session(None, None), Some(jwt::now())).await;
        assert_eq!(expired.unwrap_err().why(), Some("expired"));
    }
}
