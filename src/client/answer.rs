//! The answer to one request, read message by message: one JSON text, or a stream of events.
//!
//! Decides what counts as an answer, how much of one is held and how long its pieces are waited for. Never looks into
//! results.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use http::{HeaderMap, StatusCode, header};

use super::{
    outbox::{drain, soon},
    stopped::{Stopped, bad_answer},
};
use crate::{
    dial::wire::Incoming,
    mcp::{
        outgoing,
        sse::{Event, Splitter},
        told::{self, Told},
    },
    refusal::{Code, Refusal},
};

/// Longest body of a refusal that is looked at.
const REFUSAL_BYTES: usize = 64 * 1024;
/// Longest wait that a server may ask for.
const LONGEST_WAIT: u64 = 3600;

/// How an answer is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Longest event, and longest answer that is no stream.
    pub(super) bytes: usize,
    /// Longest wait for more of what is no stream.
    pub(super) patience: Duration,
    /// Longest wait for all of what is no stream.
    pub(super) total: Duration,
}

/// The messages of an answer, as they come.
pub(super) struct Reader {
    incoming: Option<Incoming>,
    body: Body,
    ready: VecDeque<Told>,
    limits: Limits,
    /// When all of it must be there, where it is no stream.
    ends_at: Instant,
    /// Where it can be resumed, and after what wait.
    last_event: Option<String>,
    retry: Option<Duration>,
}

enum Body {
    Json(BytesMut),
    Events(Splitter),
}

impl Reader {
    /// Reads an answer with a status of success.
    pub(super) fn of(incoming: Incoming, limits: Limits) -> Result<Self, Refusal> {
        let headers = incoming.headers();
        if !headers.get_all(header::CONTENT_ENCODING).iter().all(|encoding| encoding == "identity") {
            return Err(bad_answer("it is encoded, though that was not accepted"));
        }
        let body = match media_type(headers).as_deref() {
            Some("application/json") => Body::Json(BytesMut::new()),
            Some("text/event-stream") => Body::Events(Splitter::new(limits.bytes)),
            _ => return Err(bad_answer("it is neither JSON nor a stream of events")),
        };
        let (ready, incoming) = (VecDeque::new(), Some(incoming));
        let ends_at = Instant::now() + limits.total;
        Ok(Self { incoming, body, ready, limits, ends_at, last_event: None, retry: None })
    }

    /// Whether it is a stream of events.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.body, Body::Events(_))
    }

    /// The id of the last event seen, and how long the server wants us to wait before it is asked for the next one.
    pub(super) fn resumption(&self) -> Option<(&str, Option<Duration>)> {
        Some((self.last_event.as_deref()?, self.retry))
    }

    /// Goes on with what was said after the last event.
    pub(super) fn resume_with(&mut self, incoming: Incoming) -> Result<(), Refusal> {
        let resumed = Self::of(incoming, self.limits)?;
        if !resumed.is_stream() {
            return Err(bad_answer("a stream was resumed with something that is none"));
        }
        (self.incoming, self.body) = (resumed.incoming, resumed.body);
        Ok(())
    }

    /// The next message; none at the end. Nothing is lost when this is dropped before it is done.
    pub(super) async fn next(&mut self) -> Result<Option<Told>, Stopped> {
        loop {
            if let Some(told) = self.ready.pop_front() {
                return Ok(Some(told));
            }
            if self.incoming.is_none() {
                return Ok(None);
            }
            self.read_on().await?;
        }
    }

    /// The next event of a stream; none at its end, and where it is no stream.
    pub(super) async fn next_event(&mut self) -> Result<Option<Event>, Stopped> {
        loop {
            let Body::Events(splitter) = &mut self.body else { return Ok(None) };
            if let Some(event) = splitter.next_event().map_err(bad_answer)? {
                if let Some(id) = event.id() {
                    self.last_event = Some(id.into_owned());
                }
                self.retry = event.retry().map(Duration::from_millis).or(self.retry);
                return Ok(Some(event));
            }
            let Some(incoming) = &mut self.incoming else { return Ok(None) };
            match incoming.chunk(None).await {
                Ok(Some(piece)) => splitter.feed(&piece),
                Ok(None) => {
                    splitter.end();
                    self.incoming = None;
                }
                Err(failed) => {
                    self.incoming = None;
                    return Err(failed.into());
                }
            }
        }
    }

    async fn read_on(&mut self) -> Result<(), Stopped> {
        if self.is_stream() {
            let Some(event) = self.next_event().await? else { return Ok(()) };
            let is_message = event.name().is_none_or(|name| name.is_empty() || name == "message");
            if let Some(data) = event.data().filter(|data| is_message && !data.is_empty()) {
                self.ready.extend(told::read(&data).map_err(bad_answer)?);
            }
            return Ok(());
        }
        let Some(incoming) = &mut self.incoming else { return Ok(()) };
        let Body::Json(held) = &mut self.body else { return Ok(()) };
        let left = self.ends_at.saturating_duration_since(Instant::now());
        match incoming.chunk(Some(self.limits.patience.min(left))).await? {
            Some(piece) if held.len() + piece.len() > self.limits.bytes => {
                self.incoming = None;
                Err(bad_answer("it is longer than the gateway holds").into())
            }
            Some(piece) => {
                held.extend_from_slice(&piece);
                Ok(())
            }
            None => {
                self.incoming = None;
                let text = std::str::from_utf8(held).map_err(|_| bad_answer("it is not UTF-8"))?;
                self.ready.extend(told::read(text).map_err(bad_answer)?);
                Ok(())
            }
        }
    }

    /// Nothing more is wanted: what is left is read away if that is quick, so that the connection serves again.
    pub(super) fn finish(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            let patience = self.limits.patience.min(Duration::from_secs(1));
            soon(drain(incoming, patience));
        }
    }
}

/// An answer without a status of success.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    /// The error of JSON-RPC in it, with the id it names.
    pub(super) error: Option<(Option<String>, String)>,
    refusal: Refusal,
}

impl Refused {
    /// Reads as much of it as is of use.
    pub(super) async fn read(mut incoming: Incoming, limits: Limits) -> Self {
        let status = incoming.status();
        let refusal = refused_with(status, incoming.headers());
        let mut error = None;
        if media_type(incoming.headers()).as_deref() == Some("application/json") {
            let mut held = BytesMut::new();
            while let Ok(Some(piece)) = incoming.chunk(Some(limits.patience)).await {
                held.extend_from_slice(&piece);
                if held.len() > REFUSAL_BYTES {
                    break;
                }
            }
            let read = std::str::from_utf8(&held).ok().and_then(|text| told::read(text).ok());
            error = read.into_iter().flatten().find_map(|told| match told {
                Told::Error { id, error } => Some((id, error)),
                Told::Notification { .. } | Told::Request { .. } | Told::Result { .. } => None,
            });
        } else {
            soon(drain(incoming, Duration::from_secs(1)));
        }
        Self { status, error, refusal }
    }

    /// The code of the error in it.
    pub(super) fn code(&self) -> Option<i64> {
        outgoing::error_code(&self.error.as_ref()?.1)
    }

    /// Whether its error names the question with this id, which the server has read then.
    pub(super) fn answers(&self, id: u64) -> bool {
        let named = self.error.as_ref().and_then(|(named, _)| named.as_deref());
        named.is_some_and(|named| named.trim_matches('"') == id.to_string())
    }

    /// What the asker is told: the server's own error where it is one about the question.
    pub(super) fn into_told(self) -> Result<Told, Stopped> {
        match self.error {
            // Not about the question but about us, and the asker's own client would take it for its own credential.
            Some(_) | None if self.status == StatusCode::UNAUTHORIZED => Err(Stopped::Refused(self.refusal)),
            Some((id, error)) => Ok(Told::Error { id, error }),
            None if is_of_what_stands_in_front(self.status) => Err(Stopped::Lost(self.refusal)),
            None => Err(Stopped::Refused(self.refusal)),
        }
    }

    /// What the asker is told where the server's own error is of no use to it.
    pub(super) fn into_refusal(self) -> Refusal {
        self.refusal
    }
}

/// What the asker is told of an answer with such a status.
pub(super) fn refused_with(status: StatusCode, headers: &HeaderMap) -> Refusal {
    let cause = format_args!("the server answered with status {}", status.as_u16());
    match status.as_u16() {
        401 | 403 => Refusal::new(Code::PeerBadAnswer, "the server does not believe the gateway")
            .because(format_args!("{cause}: see `credential` in servers.toml")),
        300..=399 => {
            Refusal::new(Code::PeerBadAnswer, "the server answered with a redirect, which it may not")
                .because(cause)
        }
        429 | 502..=504 => {
            let refusal = crate::upstream::unreachable(cause);
            let wait = headers.get(header::RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse().ok());
            match wait {
                Some(secs @ 0..=LONGEST_WAIT) => refusal.retry_after(Duration::from_secs(secs)),
                _ => refusal,
            }
        }
        _ => bad_answer(cause),
    }
}

/// Whether it is what a proxy says whose server is gone: nobody knows what became of the request.
pub(super) fn is_of_what_stands_in_front(status: StatusCode) -> bool {
    matches!(status.as_u16(), 502..=504)
}

/// What a body is labelled as; none where that is not said once.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let mut labels = headers.get_all(header::CONTENT_TYPE).iter();
    let label = labels.next()?.to_str().ok()?;
    let is_only = labels.next().is_none();
    let kind = label.split(';').next()?.trim().to_ascii_lowercase();
    is_only.then_some(kind)
}

/// What the asker is told when a stream ends before the answer.
pub(super) fn broke_off(stopped: Option<Stopped>) -> Refusal {
    match stopped {
        Some(stopped) => stopped.into_refusal(),
        None => crate::upstream::unreachable("the answer ended before it was complete"),
    }
}
