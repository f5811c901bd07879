//! How a request says where its body ends: one length or one chunked coding, told in one way only.
//!
//! Decides what is acceptable before anything else is decided. The framework takes spellings that
//! another parser may read differently (`Content-Length: 2, 2`, two `Transfer-Encoding` lines); they
//! are refused here, so that what goes on to a peer is always our own spelling (RFC 9112 section 6).

use http::{HeaderMap, header};

use crate::refusal::{Code, Refusal};

/// Where a request's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// After this many bytes.
    After(u64),
    /// At the last chunk.
    LastChunk,
    /// There is no body.
    NoBody,
}

/// Refuses framing that could be read in two ways. `raw` is the head as it came: beside a coding the
/// framework takes the length out.
pub fn check(headers: &HeaderMap, raw: &[u8]) -> Result<(), Refusal> {
    match read(headers)? {
        End::LastChunk if tells_a_length(raw) => Err(unclear()),
        End::After(_) | End::LastChunk | End::NoBody => Ok(()),
    }
}

/// Reads where the body ends.
pub fn read(headers: &HeaderMap) -> Result<End, Refusal> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (codings.next(), lengths.next()) {
        (Some(coding), None)
            if codings.next().is_none() && coding.as_bytes().eq_ignore_ascii_case(b"chunked") =>
        {
            Ok(End::LastChunk)
        }
        (None, Some(length)) if lengths.next().is_none() => {
            length.to_str().ok().and_then(plain_number).map(End::After).ok_or_else(unclear)
        }
        (None, None) => Ok(End::NoBody),
        _ => Err(unclear()),
    }
}

fn tells_a_length(raw: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length";
    raw.split(|byte| *byte == b'\n').any(|line| {
        let (name, rest) = line.split_at(line.len().min(NAME.len()));
        name.eq_ignore_ascii_case(NAME) && matches!(rest.first(), Some(b':' | b' ' | b'\t'))
    })
}

/// Digits alone, and no needless zero in front.
fn plain_number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

/// The answer to a body that is not framed as it should be.
pub fn broken() -> Refusal {
    Refusal::new(Code::BadRequest, "the body is not framed as it should be").closing()
}

fn unclear() -> Refusal {
    Refusal::new(
        Code::BadRequest,
        "the body's end must be told once: by a plain `Content-Length` or by `Transfer-Encoding: chunked`",
    )
    .closing()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(headers: &[(header::HeaderName, &'static str)], expected: Option<End>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_static(value));
        }
        assert_eq!(read(&map).ok(), expected, "{headers:?}");
    }

    #[test]
    fn framing_that_two_parsers_could_read_differently_is_refused() {
        use header::{CONTENT_LENGTH as LENGTH, TRANSFER_ENCODING as CODING};
        check(&[], Some(End::NoBody));
        check(&[(LENGTH, "0")], Some(End::After(0)));
        check(&[(LENGTH, "17")], Some(End::After(17)));
        check(&[(CODING, "chunked")], Some(End::LastChunk));
        check(&[(CODING, "Chunked")], Some(End::LastChunk));
        for coding in ["gzip, chunked", "chunked, chunked", "gzip", "identity", "", "chunked;q=1", "xchunked"]
        {
            check(&[(CODING, coding)], None);
        }
        for length in ["02", "+2", "2, 2", "-1", "", "0x2", "18446744073709551616", "2 "] {
            check(&[(LENGTH, length)], None);
        }
        check(&[(LENGTH, "2"), (LENGTH, "2")], None);
        check(&[(CODING, "gzip"), (CODING, "chunked")], None);
        check(&[(CODING, "chunked"), (LENGTH, "2")], None);
    }

    #[test]
    fn a_length_that_the_framework_took_out_is_seen() {
        for (line, is_one) in [
            ("Content-Length: 2", true),
            ("content-length:2", true),
            ("content-length : 2", true),
            ("content-length-x: 2", false),
            ("x-content-length: 2", false),
            ("x: content-length: 2", false),
        ] {
            let head = format!("POST / HTTP/1.1\r\nhost: a\r\n{line}\r\ntransfer-encoding: chunked\r\n\r\n");
            assert_eq!(tells_a_length(head.as_bytes()), is_one, "{line}");
        }
    }
}
