//! What a server says to one question, in order, and what becomes of the question when nobody wants to know any more.
//!
//! Decides which messages are for the asker, answers those that nobody else can, and cancels what is given up.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::sync::broadcast;

use super::{
    answer::{Reader, broke_off},
    asking::is_last,
    hub::{Expecting, own_answer},
    outbox::Outbox,
    session::{Resumed, Session, SessionRef},
    stopped::{Stopped, bad_answer, too_slow},
};
use crate::{
    mcp::{outgoing, splice::quoted, told::Told},
    refusal::{Code, Refusal},
    upstream::{self, health::Seat},
};

/// Times that an answer is taken up again at one and the same event.
const MOST_RESUMED: u8 = 5;

/// What a server says until its answer. Dropped before its end, it cancels the question.
pub struct Replies {
    id: u64,
    source: Source,
    session: Option<Arc<Session>>,
    cancel: Option<Cancel>,
    is_over: bool,
    /// The question's place at the peer, until the answer is there.
    seat: Option<Seat>,
    /// After which event it was taken up again, and how often.
    resumed: (String, u8),
}

enum Source {
    /// All there is.
    Ready(VecDeque<Told>),
    /// The answer to the request; with what comes by the session's own stream, where that may be about the question.
    Answer(Box<Reader>, Option<Expecting>),
    /// The session's own stream; how long the first message is waited for.
    Stream(Expecting, Option<Duration>),
    /// What is said to nobody.
    Unasked(broadcast::Receiver<Told>),
}

impl Replies {
    /// To a question that stands alone.
    pub(super) fn modern(id: u64, reader: Reader) -> Self {
        Self::new(id, Source::Answer(Box::new(reader), None), None, None)
    }

    /// To a question within a session.
    pub(super) fn legacy(
        id: u64,
        reader: Reader,
        session: Arc<Session>,
        heard: Option<Expecting>,
        cancel: Cancel,
    ) -> Self {
        Self::new(id, Source::Answer(Box::new(reader), heard), Some(session), Some(cancel))
    }

    /// To a question that is answered by the session's own stream.
    pub(super) fn of_stream(id: u64, session: Arc<Session>, heard: Expecting, cancel: Cancel) -> Self {
        let patience = Some(session.limits.patience);
        Self::new(id, Source::Stream(heard, patience), Some(session), Some(cancel))
    }

    /// To no question.
    pub(super) fn unasked(session: Arc<Session>, heard: broadcast::Receiver<Told>) -> Self {
        Self::new(0, Source::Unasked(heard), Some(session), None)
    }

    /// One message that was there at once.
    pub(super) fn told(id: u64, told: Told, session: Option<Arc<Session>>) -> Self {
        Self::new(id, Source::Ready([told].into()), session, None)
    }

    fn new(id: u64, source: Source, session: Option<Arc<Session>>, cancel: Option<Cancel>) -> Self {
        Self { id, source, session, cancel, is_over: false, seat: None, resumed: Default::default() }
    }

    /// With the question's place at the peer. A stream of events may last for days: it is answered once it has begun.
    pub(super) fn seated(mut self, seat: Option<Seat>) -> Self {
        self.seat = seat;
        if !matches!(&self.source, Source::Answer(reader, _) if !reader.is_stream()) {
            self.settle(None);
        }
        self
    }

    /// What was heard of the peer on the way there was noted by `Outbox`.
    fn settle(&mut self, stopped: Option<&Stopped>) {
        if let Some(mut seat) = self.seat.take() {
            match stopped {
                None => seat.settle(None),
                Some(stopped) => seat.settle_trial(stopped.fault()),
            }
        }
    }

    /// Whether the server was asked in a revision without sessions.
    pub fn is_modern(&self) -> bool {
        self.session.is_none()
    }

    /// The session that was asked in.
    pub fn session(&self) -> Option<SessionRef> {
        Some(self.session.as_ref()?.outbox.session.clone())
    }

    /// The id the server knows the question by, and the token of its progress.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it says next: notifications and requests of its own, and last the result or the error. Ids are the gateway's
    /// own, those of requests the server's. Nothing is lost when this is dropped before it is done.
    pub async fn next(&mut self) -> Result<Told, Refusal> {
        loop {
            if self.is_over {
                return Err(Refusal::internal("an answer was read past its end"));
            }
            let told = match self.source.next().await {
                Ok(Some(told)) => told,
                Ok(None) => {
                    self.resume(None).await?;
                    continue;
                }
                Err(stopped) => {
                    self.resume(Some(stopped)).await?;
                    continue;
                }
            };
            if let Some(told) = self.pass(told) {
                return Ok(told);
            }
        }
    }

    /// What of a message the asker gets.
    fn pass(&mut self, told: Told) -> Option<Told> {
        match &told {
            Told::Notification { .. } => Some(told),
            Told::Request { id, method, .. } => {
                // Modern servers may not ask like this.
                let session = self.session.as_ref()?;
                match own_answer(session.can_be_asked, id, method) {
                    Some(answer) => {
                        session.outbox.answer_soon(answer);
                        None
                    }
                    None => Some(told),
                }
            }
            Told::Result { .. } | Told::Error { .. } if is_last(&told, self.id) => {
                self.is_over = true;
                self.settle(None);
                if let Some(cancel) = &mut self.cancel {
                    cancel.is_needless();
                }
                if let Source::Answer(reader, _) = &mut self.source {
                    reader.finish();
                }
                Some(told)
            }
            Told::Result { .. } | Told::Error { .. } => None,
        }
    }

    /// Goes on where the answer broke off, if the server has a way to.
    async fn resume(&mut self, stopped: Option<Stopped>) -> Result<(), Refusal> {
        let may_go_on = matches!(stopped, None | Some(Stopped::Lost(_)));
        if let (Some(session), Source::Answer(reader, _), true) = (&self.session, &mut self.source, may_go_on)
        {
            while let Some((last_event, _)) = reader.resumption() {
                if self.resumed.0 != last_event {
                    self.resumed = (last_event.to_owned(), 0);
                }
                self.resumed.1 += 1;
                if self.resumed.1 > MOST_RESUMED {
                    break;
                }
                match session.resume(reader).await {
                    Resumed::Yes => return Ok(()),
                    Resumed::NotYet => {}
                    Resumed::Never => break,
                }
            }
        }
        self.is_over = true;
        self.settle(stopped.as_ref());
        match (&self.source, stopped) {
            (Source::Answer(reader, _), None) if !reader.is_stream() => {
                Err(bad_answer("it does not answer the question"))
            }
            (_, stopped) => Err(broke_off(stopped)),
        }
    }

    /// Answers a request of the server's. The id, and result or error, are JSON.
    pub async fn respond(&mut self, request_id: &str, outcome: Result<&str, &str>) -> Result<(), Refusal> {
        let Some(session) = &self.session else {
            return Err(Refusal::new(
                Code::BadMessage,
                "servers of this revision are not answered like this",
            ));
        };
        session.outbox.tell(outgoing::response(request_id, outcome)).await.map_err(Stopped::into_refusal)
    }
}

impl Source {
    async fn next(&mut self) -> Result<Option<Told>, Stopped> {
        match self {
            Self::Ready(told) => Ok(told.pop_front()),
            Self::Answer(reader, None) => reader.next().await,
            Self::Answer(reader, heard @ Some(_)) => {
                let other = heard.as_mut().expect("it is there, as the pattern says");
                tokio::select! {
                    told = reader.next() => told,
                    told = other.told.recv() => {
                        if told.is_none() {
                            // The session's own stream has ended; the answer may come all the same.
                            *heard = None;
                            return reader.next().await;
                        }
                        Ok(told)
                    }
                }
            }
            Self::Stream(heard, patience) => {
                let told = match patience {
                    Some(patience) => tokio::time::timeout(*patience, heard.told.recv()).await,
                    None => Ok(heard.told.recv().await),
                };
                let overdue = |_| Stopped::Refused(too_slow("the beginning of the answer is overdue"));
                let told = told.map_err(overdue)?;
                *patience = None;
                Ok(told)
            }
            Self::Unasked(heard) => loop {
                match heard.recv().await {
                    Ok(told) => return Ok(Some(told)),
                    // Who is too slow misses some; what changed is told again by the next one.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => {
                        return Err(Stopped::Refused(upstream::unreachable("the session has ended")));
                    }
                }
            },
        }
    }
}

/// Tells a legacy server, when dropped, that nobody wants the answer any more: leaving says nothing to it
/// (MCP 2025-11-25, Cancellation).
pub(super) struct Cancel {
    outbox: Option<Arc<Outbox>>,
    id: u64,
}

impl Cancel {
    pub(super) fn new(outbox: &Arc<Outbox>, id: u64) -> Self {
        Self { outbox: Some(outbox.clone()), id }
    }

    /// The question is answered, or was never asked.
    pub(super) fn is_needless(&mut self) {
        self.outbox = None;
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        if let Some(outbox) = self.outbox.take() {
            let reason = quoted("nobody waits for the answer any more");
            let params = format!(r#"{{"requestId":{},"reason":{reason}}}"#, self.id);
            outbox.tell_soon(outgoing::notification("notifications/cancelled", Some(&params)));
        }
    }
}
