//! The request body on its way to the peer: passed through as it comes, or unwrapped.
//!
//! One read is looked at before the peer is called, so that a small bad body never reaches it and an
//! unwrapped one goes with its exact length. What passes through is never held back or changed.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use pingora::{ErrorType, proxy::Session};

use super::{
    Settings,
    framing::{self, End},
    native,
};
use crate::{
    record::arguments::{Arguments, Passing},
    refusal::{Code, Refusal},
    upstream::arguments::{Peek, Shape, Whole},
};

/// How the body's end is told to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// As the client told it.
    AsSent,
    /// By this many bytes.
    Length(usize),
    /// By a last chunk.
    Chunked,
}

#[derive(Debug)]
enum Plan {
    /// Every byte goes on as it comes.
    Pass,
    /// The whole body is known and this goes instead.
    Replace(Bytes),
    /// Held until it is clear whether it is wrapped.
    Hold(BytesMut),
}

/// A body on its way out.
#[derive(Debug)]
pub struct Outbound {
    peek: Peek,
    plan: Plan,
    framing: Framing,
    bounds: Bounds,
    /// Bytes handed over in this try; a further try begins at 0 with the same bytes.
    handed_over: usize,
    since: Instant,
    /// What the record keeps of the arguments, where it keeps anything.
    arguments: Option<Passing>,
    is_whole: bool,
    /// All of it came with the first read.
    is_at_hand: bool,
}

/// How large a body may be, and how slow.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most bytes that are held.
    held: usize,
    /// Most bytes of all.
    all: u64,
    /// How long it may take, whatever has come.
    patience: Duration,
    /// And for this many bytes a second longer; 0: without end.
    rate: u64,
}

impl Bounds {
    /// The bounds of these settings.
    pub fn of(settings: &Settings) -> Self {
        Self {
            held: settings.max_wrapped_body_bytes,
            all: settings.max_body_bytes,
            patience: settings.body_timeout,
            rate: settings.min_body_rate,
        }
    }

    /// Refuses a body of which so many bytes have come in this time.
    fn refuse(&self, bytes: usize, time: Duration) -> Result<(), Refusal> {
        let bytes = bytes as u64;
        if bytes > self.all {
            return Err(larger_than(self.all));
        }
        let is_slow = self.rate > 0 && time > self.patience + Duration::from_secs(bytes / self.rate);
        if is_slow { Err(native::too_slow()) } else { Ok(()) }
    }
}

/// An empty body means a call without arguments.
const NO_ARGUMENTS: &[u8] = b"{}";

impl Outbound {
    /// Reads once and decides what happens to the body.
    pub async fn begin(session: &mut Session, may_be_wrapped: bool, bounds: Bounds) -> Result<Self, Refusal> {
        refuse_encoded(&session.req_header().headers)?;
        if announced(&session.req_header().headers).is_some_and(|bytes| bytes > bounds.all) {
            return Err(larger_than(bounds.all));
        }
        let bound = bounds.held;
        let mut peek = Peek::new(may_be_wrapped);
        let first = read_once(session).await?;
        let shape = peek.feed(&first)?;
        let is_at_hand = session.as_downstream_mut().is_body_done();
        let (plan, framing) = if is_at_hand {
            whole(&peek, &first, bound)?
        } else {
            match shape {
                Shape::Plain => (Plan::Pass, Framing::AsSent),
                Shape::MaybeWrapped => {
                    if peek.is_inside_arguments() {
                        refuse_announced(&session.req_header().headers, bound)?;
                    }
                    (Plan::Hold(BytesMut::new()), Framing::Chunked)
                }
            }
        };
        bounds.refuse(first.len(), Duration::ZERO)?;
        Ok(Self {
            peek,
            plan,
            framing,
            bounds,
            handed_over: 0,
            since: Instant::now(),
            arguments: None,
            is_whole: false,
            is_at_hand,
        })
    }

    /// How the body's end is told to the peer.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether nobody has to be waited for before all of it can go.
    pub fn is_at_hand(&self) -> bool {
        self.is_at_hand
    }

    /// Has the arguments summed up as they pass.
    pub fn note_arguments(&mut self, is_kept: bool) {
        self.arguments = Some(Passing::new(is_kept));
    }

    /// What the record keeps of the arguments, once all have passed.
    pub fn arguments(&self) -> Option<Arguments> {
        self.arguments.as_ref().filter(|_| self.is_whole).map(Passing::end)
    }

    /// A try begins: all bytes are handed over once more.
    pub fn restart(&mut self) {
        self.handed_over = 0;
        self.is_whole = false;
        if let Some(arguments) = &mut self.arguments {
            arguments.restart();
        }
        self.since = Instant::now();
        if let Plan::Hold(held) = &mut self.plan {
            held.clear();
        }
    }

    /// Turns the next bytes from the client into the next bytes for the peer.
    pub fn pass(&mut self, body: &mut Option<Bytes>, is_end: bool) -> Result<(), Refusal> {
        self.turn(body, is_end)?;
        if let (Some(arguments), Some(bytes)) = (&mut self.arguments, body) {
            arguments.feed(bytes);
        }
        self.is_whole = is_end;
        Ok(())
    }

    fn turn(&mut self, body: &mut Option<Bytes>, is_end: bool) -> Result<(), Refusal> {
        let bytes = body.clone().unwrap_or_default();
        let known = self.peek.offset().saturating_sub(self.handed_over).min(bytes.len());
        self.handed_over += bytes.len();
        self.bounds.refuse(self.handed_over, self.since.elapsed())?;
        let shape = self.peek.feed(&bytes[known..])?;
        match &mut self.plan {
            Plan::Pass => {
                if is_end {
                    self.peek.finish()?;
                }
            }
            Plan::Replace(replacement) => {
                *body = Some(if is_end { replacement.clone() } else { Bytes::new() })
            }
            Plan::Hold(held) => {
                held.extend_from_slice(&bytes);
                if shape == Shape::Plain {
                    *body = Some(held.split().freeze());
                    // The framing stays chunked: the head of the request has gone out with it.
                    self.plan = Plan::Pass;
                    return if is_end { self.peek.finish().map(drop) } else { Ok(()) };
                }
                if held.len() > self.bounds.held {
                    return Err(too_large(self.bounds.held));
                }
                // Never `None` before the end: that would end the peer's body.
                *body = Some(if is_end { released(&self.peek, held)? } else { Bytes::new() });
            }
        }
        Ok(())
    }
}

fn released(peek: &Peek, held: &mut BytesMut) -> Result<Bytes, Refusal> {
    let all = held.split().freeze();
    Ok(match peek.finish()? {
        Whole::Empty => Bytes::from_static(NO_ARGUMENTS),
        Whole::Plain => all,
        Whole::Wrapped(inner) => all.slice(inner),
    })
}

fn whole(peek: &Peek, body: &Bytes, bound: usize) -> Result<(Plan, Framing), Refusal> {
    let replaced = |with: Bytes| {
        let framing = Framing::Length(with.len());
        (Plan::Replace(with), framing)
    };
    Ok(match peek.finish()? {
        Whole::Empty => replaced(Bytes::from_static(NO_ARGUMENTS)),
        Whole::Plain => (Plan::Pass, Framing::AsSent),
        // Held or not: how the body was cut on its way must not decide.
        Whole::Wrapped(_) if body.len() > bound => return Err(too_large(bound)),
        Whole::Wrapped(inner) => replaced(body.slice(inner)),
    })
}

/// The first bytes of the body, kept by the framework to be sent on: one read, at most 64 KiB.
///
/// A second read could overflow what the framework keeps, and the request would hang (Pingora 0.9).
pub(super) async fn read_once(session: &mut Session) -> Result<Bytes, Refusal> {
    if session.as_downstream_mut().is_body_done() {
        return Ok(Bytes::new());
    }
    session.as_downstream_mut().enable_retry_buffering();
    read_first(session).await
}

/// The first bytes of the body, not kept by the framework; a client that waits for our word gets it.
pub(super) async fn read_first(session: &mut Session) -> Result<Bytes, Refusal> {
    ask_for_body(session).await?;
    read_piece(session).await
}

/// Gives a client that waits for our word before it sends its body that word.
async fn ask_for_body(session: &mut Session) -> Result<(), Refusal> {
    let is_waiting = session
        .req_header()
        .headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if is_waiting {
        session.as_downstream_mut().write_continue_response().await.map_err(|error| unreadable(&error))?;
    }
    Ok(())
}

/// The next bytes of the body: none at its end, and none where the beginning of a chunk is not whole yet.
pub(super) async fn read_piece(session: &mut Session) -> Result<Bytes, Refusal> {
    next_piece(session).await.map(Option::unwrap_or_default)
}

async fn next_piece(session: &mut Session) -> Result<Option<Bytes>, Refusal> {
    session.as_downstream_mut().read_request_body().await.map_err(|error| unreadable(&error))
}

/// What follows a body that cannot be read is anybody's guess, and no next request.
fn unreadable(error: &pingora::Error) -> Refusal {
    if *error.etype() == ErrorType::ReadTimedout {
        return native::too_slow();
    }
    Refusal::new(Code::BadRequest, "the body did not arrive")
        .because(format_args!("reading the body: {}", error.etype().as_str()))
        .closing()
}

/// The whole body, for a page: at most `bound` bytes, which go nowhere else.
pub(super) async fn read_whole(session: &mut Session, bound: usize) -> Result<Bytes, Refusal> {
    refuse_encoded(&session.req_header().headers)?;
    let too_large =
        || Refusal::new(Code::BodyTooLarge, format!("this takes a body of at most {bound} bytes"));
    let end = framing::read(&session.req_header().headers)?;
    if matches!(end, End::After(length) if length > bound as u64) {
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    if !session.as_downstream_mut().is_body_done() {
        ask_for_body(session).await?;
    }
    while !session.as_downstream_mut().is_body_done() {
        let Some(piece) = next_piece(session).await? else { break };
        if whole.len() + piece.len() > bound {
            return Err(too_large());
        }
        whole.extend_from_slice(&piece);
    }
    if matches!(end, End::After(length) if length > whole.len() as u64) {
        return Err(Refusal::new(Code::BadRequest, "the body ended too early").closing());
    }
    Ok(whole.freeze())
}

pub(super) fn refuse_encoded(headers: &HeaderMap) -> Result<(), Refusal> {
    let is_identity = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(header::CONTENT_ENCODING).iter().all(is_identity) {
        return Ok(());
    }
    Err(Refusal::new(Code::BodyEncoded, "the body must be sent without `Content-Encoding`"))
}

fn refuse_announced(headers: &HeaderMap, bound: usize) -> Result<(), Refusal> {
    let is_larger = announced(headers).is_some_and(|bytes| bytes > bound as u64);
    if is_larger { Err(too_large(bound)) } else { Ok(()) }
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

fn larger_than(bound: u64) -> Refusal {
    Refusal::new(Code::BodyTooLarge, format!("a body may have at most {bound} bytes"))
}

fn too_large(bound: usize) -> Refusal {
    let sentence = format!(
        "a body wrapped in `arguments` may have at most {bound} bytes; send the arguments themselves"
    );
    Refusal::new(Code::BodyTooLarge, sentence)
}
