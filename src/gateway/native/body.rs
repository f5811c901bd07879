//! The body of an MCP request: read whole and bounded before a byte of it goes on, and then sent as it came.
//!
//! Decides how it is read: wholly before the departure where its length is told or it is not long; otherwise its rest is
//! held on its way. What is in it, `mcp::message` reads.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use pingora::proxy::Session;

use crate::{
    gateway::{
        body::{self, Framing},
        framing::{self, End},
    },
    refusal::{Code, Refusal},
};

/// What the framework keeps of a body it may have to hand out again (Pingora 0.9).
const KEPT: u64 = 64 * 1024;

/// A body on its way.
#[derive(Debug)]
pub enum Load {
    /// There is none.
    Nothing,
    /// Known, and sent in one piece.
    Whole(Bytes),
    /// Its end has not been seen yet: what has come, and how much of it there may be.
    Held(BytesMut, usize),
}

impl Load {
    /// How the body's end is told to the peer.
    pub fn framing(&self) -> Framing {
        match self {
            // Not even `Content-Length: 0`: a GET with one looks odd to some servers.
            Load::Nothing => Framing::AsSent,
            Load::Whole(bytes) => Framing::Length(bytes.len()),
            Load::Held(..) => Framing::Chunked,
        }
    }
}

/// Reads a body of at most `bound` bytes, as far as it can be read before the peer is called.
pub async fn read(session: &mut Session, bound: usize) -> Result<Load, Refusal> {
    body::refuse_encoded(&session.req_header().headers)?;
    let end = framing::read(&session.req_header().headers)?;
    match end {
        End::NoBody | End::After(0) => Ok(Load::Whole(Bytes::new())),
        End::After(length) if length > bound as u64 => Err(too_large(bound)),
        End::After(length) => read_length(session, length).await.map(Load::Whole),
        End::LastChunk => read_chunks(session, bound).await,
    }
}

/// Reads a body in chunks. The rest of one that is larger than `KEPT` comes by way of the framework, which would send
/// nothing on otherwise; what was read before, it does not hand over once more.
async fn read_chunks(session: &mut Session, bound: usize) -> Result<Load, Refusal> {
    let mut whole = BytesMut::from(body::read_once(session).await?.as_ref());
    loop {
        if whole.len() > bound {
            return Err(too_large(bound));
        }
        if session.as_downstream_mut().is_body_done() {
            return Ok(Load::Whole(whole.freeze()));
        }
        if session.as_downstream_mut().retry_buffer_truncated() {
            return Ok(Load::Held(whole, bound));
        }
        whole.extend_from_slice(&body::read_piece(session).await?);
    }
}

/// Reads a body whose length is told. The framework sends a body on that was read before only if it kept
/// some of it, and keeps nothing of one larger than `KEPT`: so it is told to keep the last piece alone, and
/// the whole goes in that piece's stead.
async fn read_length(session: &mut Session, length: u64) -> Result<Bytes, Refusal> {
    let first =
        if length > KEPT { body::read_first(session).await? } else { body::read_once(session).await? };
    if first.len() as u64 == length {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(length as usize);
    whole.extend_from_slice(&first);
    while (whole.len() as u64) < length {
        if length - whole.len() as u64 <= KEPT {
            session.as_downstream_mut().enable_retry_buffering();
        }
        let piece = body::read_piece(session).await?;
        if piece.is_empty() {
            return Err(Refusal::new(Code::BadRequest, "the body ended too early").closing());
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// The answer to a body over the bound.
pub fn too_large(bound: usize) -> Refusal {
    Refusal::new(Code::BodyTooLarge, format!("an MCP request may have at most {bound} bytes"))
}

/// The answer to a body that takes too long.
pub fn too_slow() -> Refusal {
    Refusal::new(Code::BadRequest, "the body did not arrive in time").closing().limited("slow_sender", None)
}

/// Refuses a body that is not labelled as JSON in UTF-8: some servers read it in whatever coding its label names.
pub fn refuse_label(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut labels = headers.get_all(http::header::CONTENT_TYPE).iter();
    let is_json = match (labels.next(), labels.next()) {
        (Some(label), None) => label.to_str().is_ok_and(is_json_in_utf8),
        _ => false,
    };
    if is_json {
        return Ok(());
    }
    let sentence = "the body must be labelled `Content-Type: application/json`, and be in UTF-8";
    Err(Refusal::new(Code::UnsupportedMediaType, sentence))
}

fn is_json_in_utf8(label: &str) -> bool {
    let mut parts = label.split(';').map(|part| part.trim_matches([' ', '\t']));
    parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"))
        && parts.all(|parameter| {
            ["", "charset=utf-8", "charset=\"utf-8\"", "charset=utf8"]
                .iter()
                .any(|known| parameter.eq_ignore_ascii_case(known))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_in_utf8_is_read() {
        for label in [
            "application/json",
            "Application/JSON",
            "application/json;charset=utf-8",
            "application/json; charset=UTF-8",
            "application/json; charset=\"utf-8\"",
            "application/json;",
        ] {
            assert!(is_json_in_utf8(label), "{label}");
        }
        for label in [
            "",
            "text/plain",
            "application/jsonp",
            "application/json+x",
            "application/x-www-form-urlencoded",
            "application/json; charset=utf-16le",
            "application/json; charset=utf-7",
            "application/json; charset=utf-8; charset=utf-16",
            "application/json, text/plain",
            "application/json; boundary=x",
        ] {
            assert!(!is_json_in_utf8(label), "{label}");
        }
    }
}
