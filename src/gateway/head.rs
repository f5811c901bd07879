//! A request's head as it came: one that two parsers could read differently is refused before anything is decided.
//!
//! Decides by form alone: line ends, size, where the body ends (`framing.rs`), whose name is called, and what is asked
//! for. The framework refuses much by itself and takes the rest in the kindest reading; another parser, in front of us or
//! behind, may take another.

use http::header;
use pingora::http::RequestHeader;

use super::{
    framing,
    hearing::{Hearing, Wrong},
};
use crate::refusal::{Code, Refusal};

/// The framework's own bound for HTTP/1.1.
const MOST_HEADERS: usize = 256;

/// Refuses a head that is not certain to mean the same to everybody. `raw` is the head as it came, `most` its largest
/// size.
pub fn check(request: &RequestHeader, raw: &[u8], most: usize) -> Result<(), Refusal> {
    if raw.len() > most {
        return Err(too_large());
    }
    // RFC 9112 section 2.2 lets a line end with a bare LF. To a parser that does not, what follows it is part of the line.
    if has_bare_line_feed(raw) {
        let sentence = "every line of the request's head must end with CR and LF";
        return Err(Refusal::new(Code::BadRequest, sentence).closing());
    }
    framing::check(&request.headers, raw)?;
    // RFC 9112 section 3.2. The framework refuses a second one.
    let Some(host) = request.headers.get(header::HOST) else {
        return Err(Refusal::new(Code::BadRequest, "the request has no `Host` header").closing());
    };
    if !is_authority(host.as_bytes()) {
        let sentence = "the `Host` header is neither a name nor an address";
        return Err(Refusal::new(Code::BadRequest, sentence).closing());
    }
    if !is_path_or_url(request) {
        return Err(Refusal::new(Code::BadPath, "the path must begin with `/`").closing());
    }
    if !is_plain_line(raw) {
        return Err(odd_line());
    }
    refuse_beyond_http_1(request)
}

/// Refuses what the framework has read otherwise than it was said.
pub fn check_as_heard(heard: &Hearing) -> Result<(), Refusal> {
    match heard.wrong() {
        // Where it ends nobody knows.
        Some(Wrong::Head) => Err(too_large().closing()),
        Some(Wrong::Chunk) => Err(framing::broken()),
        None if heard.is_odd() => Err(odd_line()),
        None => Ok(()),
    }
}

fn too_large() -> Refusal {
    Refusal::new(Code::HeadersTooLarge, "the request's headers are too large")
}

fn odd_line() -> Refusal {
    let sentence =
        "the request line must be method, path and version with one space between, and have no `#`";
    Refusal::new(Code::BadPath, sentence).closing()
}

/// Refuses what HTTP/2 can say and HTTP/1.1 cannot: here another scheme (RFC 9113 section 8.3.1), and more headers than the
/// framework takes there.
fn refuse_beyond_http_1(request: &RequestHeader) -> Result<(), Refusal> {
    if request.uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(Refusal::new(Code::BadPath, "the scheme must be `https`"));
    }
    if request.headers.len() > MOST_HEADERS {
        let sentence = format!("a request may have at most {MOST_HEADERS} headers");
        return Err(Refusal::new(Code::BadRequest, sentence));
    }
    Ok(())
}

/// Whether the request line is three words (RFC 9112 section 3) and its path has no fragment. The framework takes
/// further spaces for a part of the path and cuts a fragment off; others read them otherwise.
fn is_plain_line(raw: &[u8]) -> bool {
    let line = raw.trim_ascii_start();
    let line = &line[..memchr::memchr(b'\r', line).unwrap_or(line.len())];
    line.iter().filter(|byte| **byte == b' ').count() == 2
        && !line.iter().any(|byte| matches!(byte, b'#' | b'\t'))
}

fn has_bare_line_feed(raw: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', raw).any(|at| at == 0 || raw[at - 1] != b'\r')
}

/// Whether this can be `host` or `host:port` (RFC 3986 section 3.2), without a user in front. Nothing at all is one: it
/// names nobody.
fn is_authority(host: &[u8]) -> bool {
    let (name, port) = match host.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !host[colon..].contains(&b']') => (&host[..colon], &host[colon + 1..]),
        _ => (host, &b""[..]),
    };
    let is_bracketed = name.starts_with(b"[") && name.ends_with(b"]");
    let address = |byte: &u8| byte.is_ascii_alphanumeric() || b":.[]".contains(byte);
    let named = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte);
    port.iter().all(u8::is_ascii_digit)
        && if is_bracketed { name.iter().all(address) } else { name.iter().all(named) }
}

/// Whether the path is the one that was sent: in origin or absolute form (RFC 9112 section 3.2).
///
/// A target of any other form, or one it cannot take apart, the framework gives out as `/`.
fn is_path_or_url(request: &RequestHeader) -> bool {
    let target = request.raw_path();
    let is_url = |scheme: &str| {
        target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    let path = request.uri.path_and_query().map_or("", |path| path.as_str());
    let is_whole = || target.ends_with(path.as_bytes());
    target.starts_with(b"/") || (is_url("http://") || is_url("https://")) && is_whole()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_with_cr_and_lf_or_the_head_is_refused() {
        for (raw, has_one) in [
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", false),
            ("\r\nGET / HTTP/1.1\r\n\r\n", false),
            ("\nGET / HTTP/1.1\r\n\r\n", true),
            ("GET / HTTP/1.1\nhost: a\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nx: a\ny: b\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nhost: a\r\n\n", true),
            ("", false),
        ] {
            assert_eq!(has_bare_line_feed(raw.as_bytes()), has_one, "{raw:?}");
        }
    }

    #[test]
    fn a_request_line_is_three_words_without_a_fragment() {
        assert!(is_plain_line(b"GET /a HTTP/1.1\r\nx: #  \t\r\n\r\n"));
        assert!(is_plain_line(b"\r\nGET /a HTTP/1.1\r\n\r\n"));
        for line in [
            "GET /a#b HTTP/1.1",
            "GET  /a HTTP/1.1",
            "GET /a  HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GET /a\t HTTP/1.1",
            "",
        ] {
            assert!(!is_plain_line(format!("{line}\r\nhost: a\r\n\r\n").as_bytes()), "{line}");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        for host in
            ["a", "a.example.com:8000", "a_b-c", "127.0.0.1:1", "[::1]", "[2001:db8::1]:443", "a:", ""]
        {
            assert!(is_authority(host.as_bytes()), "{host}");
        }
        for host in [
            "a, b", "a b", "a/b", "u@a", "a:b", "a:1:2", "a?b", "a#b", "a\\b", "[::1", "[a]b", "::1",
            "[::1]:x", "a\"b", "\u{e9}",
        ] {
            assert!(!is_authority(host.as_bytes()), "{host}");
        }
    }
}
