//! The request body on its way to the peer: passed through as it comes, or unwrapped.
//!
//! One read is looked at before the peer is called, so that a small bad body never reaches it and an
//! unwrapped one goes with its exact length. What passes through is never held back or changed.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use pingora::proxy::Session;

use super::{
    framing::{self, End},
    guard::Line,
};
use crate::{
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
    bound: usize,
    /// Bytes handed over in this try; a further try begins at 0 with the same bytes.
    handed_over: usize,
}

/// An empty body means a call without arguments.
const NO_ARGUMENTS: &[u8] = b"{}";

impl Outbound {
    /// Reads once and decides what happens to the body. `bound` limits what is held.
    pub async fn begin(session: &mut Session, may_be_wrapped: bool, bound: usize) -> Result<Self, Refusal> {
        refuse_encoded(&session.req_header().headers)?;
        let mut peek = Peek::new(may_be_wrapped);
        let first = read_once(session).await?;
        let shape = peek.feed(&first)?;
        let (plan, framing) = if session.as_downstream_mut().is_body_done() {
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
        Ok(Self { peek, plan, framing, bound, handed_over: 0 })
    }

    /// How the body's end is told to the peer.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// A try begins: the framework hands over all bytes once more.
    pub fn restart(&mut self) {
        self.handed_over = 0;
        if let Plan::Hold(held) = &mut self.plan {
            held.clear();
        }
    }

    /// Turns the next bytes from the client into the next bytes for the peer.
    pub fn pass(&mut self, body: &mut Option<Bytes>, is_end: bool) -> Result<(), Refusal> {
        let bytes = body.clone().unwrap_or_default();
        let known = self.peek.offset().saturating_sub(self.handed_over).min(bytes.len());
        self.handed_over += bytes.len();
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
                if held.len() > self.bound {
                    return Err(too_large(self.bound));
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
    let is_waiting = session
        .req_header()
        .headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if is_waiting {
        session.as_downstream_mut().write_continue_response().await.map_err(|error| unreadable(&error))?;
    }
    read_piece(session).await
}

/// The next bytes of the body; none at its end.
pub(super) async fn read_piece(session: &mut Session) -> Result<Bytes, Refusal> {
    let piece = match Line::body_patience() {
        None => session.as_downstream_mut().read_request_body().await,
        Some(patience) => tokio::time::timeout(patience, read_frame(session))
            .await
            .map_err(|_| Refusal::new(Code::BadRequest, "the body did not arrive in time"))?,
    };
    Ok(piece.map_err(|error| unreadable(&error))?.unwrap_or_default())
}

/// The next piece of a body over HTTP/2, where an empty one need not be the last.
async fn read_frame(session: &mut Session) -> pingora::Result<Option<Bytes>> {
    let session = session.as_downstream_mut();
    loop {
        let piece = session.read_request_body().await?;
        if piece.as_ref().is_none_or(|piece| !piece.is_empty()) || session.is_body_done() {
            return Ok(piece);
        }
    }
}

/// What follows a body that cannot be read is anybody's guess, and no next request.
fn unreadable(error: &pingora::Error) -> Refusal {
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
    while !session.as_downstream_mut().is_body_done() {
        let piece = if whole.is_empty() { read_first(session).await? } else { read_piece(session).await? };
        if piece.is_empty() {
            break;
        }
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
    let announced =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > bound) { Err(too_large(bound)) } else { Ok(()) }
}

fn too_large(bound: usize) -> Refusal {
    let sentence = format!(
        "a body wrapped in `arguments` may have at most {bound} bytes; send the arguments themselves"
    );
    Refusal::new(Code::BodyTooLarge, sentence)
}
