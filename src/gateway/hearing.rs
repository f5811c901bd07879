//! What a client of HTTP/1.1 says, byte for byte, before the framework reads it.
//!
//! Decides three things that the framework cannot be asked afterwards: whether a head is larger than anybody needs before
//! it has come to its end (it is kept and read anew with every piece until then), whether the request line is three words
//! (a query with spaces is rewritten before anybody sees it), and whether each chunk has a size (a line without one is
//! taken for the last chunk). Everything else is left to the framework, and so is whatever it refuses by itself.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{HeaderMap, header};
use pingora::{
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream},
    protocols::http::ServerSession,
    server::ShutdownWatch,
};

use super::line::Line;

/// A head that is so many times too large is not heard to its end.
pub const HEAD_SHARE: usize = 4;

/// What is wrong with what was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// The head is too large.
    Head,
    /// A chunk has no size.
    Chunk,
}

/// How far a request has been heard.
#[derive(Debug, Default)]
pub struct Hearing {
    /// How large a head may be; 0: nobody listens.
    most: usize,
    phase: Phase,
    /// Whether the request line had another form than three words with a space between.
    is_odd: bool,
    wrong: Option<Wrong>,
}

#[derive(Debug, Default)]
enum Phase {
    Head(Head),
    /// Behind a head: what of a body came with it that may be in chunks.
    Between(Vec<u8>),
    Chunks(Chunks),
    /// Nothing is looked for.
    #[default]
    Deaf,
}

impl Hearing {
    /// Listens from now on, to heads of at most so many bytes.
    pub fn listen(&mut self, most: usize) {
        self.most = most;
    }

    /// A request begins.
    pub fn begin(&mut self) {
        if self.most > 0 {
            self.phase = Phase::Head(Head::default());
        }
    }

    /// The framework has read a head with these headers.
    pub fn end_head(&mut self, headers: &HeaderMap) {
        if let Phase::Between(came) = std::mem::take(&mut self.phase)
            && headers.contains_key(header::TRANSFER_ENCODING)
        {
            self.phase = Phase::Chunks(Chunks::default());
            self.hear(&came);
        }
    }

    /// Whether the request line had another form than it may.
    pub fn is_odd(&self) -> bool {
        self.is_odd
    }

    /// What is wrong with what was heard.
    pub fn wrong(&self) -> Option<Wrong> {
        self.wrong
    }

    /// What makes a whole head of one that is too large: it is refused at once then, whatever else it would say. None where it
    /// has no line yet.
    pub fn cut_short(&mut self) -> Option<&'static [u8]> {
        match std::mem::take(&mut self.phase) {
            Phase::Head(head) if self.wrong == Some(Wrong::Head) => head.cut_short(),
            _ => None,
        }
    }

    /// These bytes come next; false where something is wrong.
    pub fn hear(&mut self, bytes: &[u8]) -> bool {
        match &mut self.phase {
            Phase::Head(head) => {
                let end = head.hear(bytes);
                // Nothing is sent between a head and its answer that the framework would read.
                if head.bytes > self.most {
                    self.wrong = Some(Wrong::Head);
                } else if let Some(end) = end {
                    self.is_odd = head.spaces != 2 || head.has_tab;
                    let came = if head.may_have_chunks { bytes[end..].to_vec() } else { Vec::new() };
                    self.phase = Phase::Between(came);
                }
            }
            Phase::Chunks(chunks) => {
                if !chunks.hear(bytes) {
                    self.wrong = Some(Wrong::Chunk);
                }
            }
            Phase::Between(_) | Phase::Deaf => {}
        }
        self.wrong.is_none()
    }
}

/// A head that has not come to its end.
#[derive(Debug, Default)]
struct Head {
    bytes: usize,
    /// Of the line that has not ended.
    line: usize,
    /// All of that line is a CR, or its end is.
    is_cr: bool,
    ends_in_cr: bool,
    is_first_over: bool,
    spaces: usize,
    has_tab: bool,
    may_have_chunks: bool,
}

impl Head {
    /// These bytes come next; where the head ends, if it does.
    fn hear(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            if self.ends_line(&bytes[start..end]) {
                self.bytes += end + 1;
                return Some(end + 1);
            }
            start = end + 1;
        }
        self.part(&bytes[start..]);
        self.bytes += bytes.len();
        None
    }

    /// The rest of a line, without its LF. Whether it is the empty one behind all others.
    fn ends_line(&mut self, rest: &[u8]) -> bool {
        self.part(rest);
        let is_empty = self.line == usize::from(self.is_cr);
        (self.line, self.is_cr, self.ends_in_cr) = (0, false, false);
        // Those in front of a request do not count (RFC 9112 section 2.2).
        let is_end = is_empty && self.is_first_over;
        self.is_first_over |= !is_empty;
        is_end
    }

    /// A part of a line.
    fn part(&mut self, part: &[u8]) {
        if part.is_empty() {
            return;
        }
        if !self.is_first_over {
            self.spaces += memchr::memchr_iter(b' ', part).count();
            self.has_tab |= memchr::memchr(b'\t', part).is_some();
        } else if self.line > 0 {
            // Its name may be in two parts: then it may be anything.
            self.may_have_chunks = true;
        } else {
            self.may_have_chunks |= matches!(part, [b't' | b'T', b'r' | b'R', ..] | [b't' | b'T']);
        }
        self.is_cr = self.line == 0 && part == b"\r";
        self.ends_in_cr = part.ends_with(b"\r");
        self.line += part.len();
    }

    fn cut_short(&self) -> Option<&'static [u8]> {
        match self {
            Self { is_first_over: false, .. } => None,
            Self { line: 0, .. } => Some(b"\r\n"),
            Self { ends_in_cr: true, .. } => Some(b"\n\r\n"),
            // The end of a value, or of a name without one.
            Self { .. } => Some(b"a:\r\n\r\n"),
        }
    }
}

/// A body in chunks (RFC 9112 section 7.1).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Chunks {
    /// A size begins.
    #[default]
    Start,
    /// So far a size is this.
    Size(u64),
    /// An extension of this size.
    Extension(u64),
    /// The LF behind this size.
    SizeEnd(u64),
    /// So much of a chunk is still to come.
    Data(u64),
    DataCr,
    DataLf,
    /// The last chunk is there, or something that the framework will refuse.
    Over,
}

impl Chunks {
    /// These bytes come next; false where a size has no digit.
    fn hear(&mut self, mut bytes: &[u8]) -> bool {
        while let [byte, rest @ ..] = bytes {
            if let Self::Data(left) = *self {
                let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                *self = if taken as u64 == left { Self::DataCr } else { Self::Data(left - taken as u64) };
                bytes = &bytes[taken..];
                continue;
            }
            if *self == Self::Start && !byte.is_ascii_hexdigit() {
                return false;
            }
            *self = self.next(*byte);
            if *self == Self::Over {
                return true;
            }
            bytes = rest;
        }
        true
    }

    fn next(self, byte: u8) -> Self {
        let digit = char::from(byte).to_digit(16).map(u64::from);
        match (self, byte) {
            (Self::Start, _) => digit.map_or(Self::Over, Self::Size),
            (Self::Size(size) | Self::Extension(size), b'\r') => Self::SizeEnd(size),
            (Self::Size(size), _) => match digit {
                Some(digit) => size.checked_mul(16).map_or(Self::Over, |size| Self::Size(size + digit)),
                None if matches!(byte, b';' | b' ' | b'\t') => Self::Extension(size),
                None => Self::Over,
            },
            (Self::Extension(size), _) => Self::Extension(size),
            (Self::SizeEnd(0), _) => Self::Over,
            (Self::SizeEnd(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Start,
            (Self::SizeEnd(_) | Self::DataCr | Self::DataLf | Self::Data(_) | Self::Over, _) => Self::Over,
        }
    }
}

/// The app inside, for the requests of connections of HTTP/1.1: it hears where each begins.
pub struct Requests<A>(pub Arc<A>);

impl<A: HttpServerApp + Send + Sync + 'static> HttpServerApp for Requests<A> {
    // An `async fn` would be a box around the one of the app inside, for each request.
    fn process_new_http<'a, 'b, 'c>(
        self: &'a Arc<Self>,
        session: ServerSession,
        shutdown: &'b ShutdownWatch,
    ) -> BoxFuture<'c, Option<ReusedHttpStream>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        if let Some(line) = Line::current() {
            line.hearing().begin();
        }
        self.0.process_new_http(session, shutdown)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.0.server_options()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hearing() -> Hearing {
        let mut hearing = Hearing::default();
        hearing.listen(4096);
        hearing.begin();
        hearing
    }

    fn headers(is_chunked: bool) -> HeaderMap {
        let coding = (header::TRANSFER_ENCODING, header::HeaderValue::from_static("chunked"));
        is_chunked.then_some(coding).into_iter().collect()
    }

    /// Whether nothing is wrong with this, in one piece and in pieces of any size.
    #[track_caller]
    fn check(head: &str, body: &str, expected: (bool, bool)) {
        let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let whole = format!("{head}\r\n\r\n{body}");
        for piece in 1..=whole.len() {
            let mut hearing = hearing();
            let mut is_head = true;
            for part in whole.as_bytes().chunks(piece) {
                hearing.hear(part);
                if is_head && matches!(hearing.phase, Phase::Between(_)) {
                    hearing.end_head(&headers(is_chunked));
                    is_head = false;
                }
            }
            assert!(!is_head, "{whole:?} in pieces of {piece}: no end of the head");
            let found = (!hearing.is_odd(), hearing.wrong().is_none());
            assert_eq!(found, expected, "{whole:?} in pieces of {piece}");
        }
    }

    const CHUNKED: &str = "POST /a HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked";

    #[test]
    fn a_request_line_is_three_words_as_it_was_sent() {
        check("GET /a?b=c HTTP/1.1\r\nx: y z\t", "", (true, true));
        check("\r\n\r\nGET /a HTTP/1.1", "", (true, true));
        check("GET /a?b=c d HTTP/1.1\r\nhost: a", "", (false, true));
        check("GET /a?b=c  HTTP/1.1\r\nhost: a", "", (false, true));
        check("GET /a?b=c\td HTTP/1.1\r\nhost: a", "", (false, true));
    }

    #[test]
    fn every_chunk_has_a_size() {
        for body in [
            "0\r\n\r\n",
            "2\r\n{}\r\n0\r\n\r\n",
            "02 ;a=b\nc\r\n\r\n\r\n00\r\nx: y\r\n\r\n",
            "A\r\n\r\n\r\n\r\n\r\n\r\n\r\n",
        ] {
            check(CHUNKED, body, (true, true));
        }
        for body in
            ["\r\n\r\n", "2\r\n{}\r\n\r\n\r\n", "2\r\n{}\r\n \r\n\r\n", "2\r\n{}\r\n;a=b\r\n\r\n", "g\r\n"]
        {
            check(CHUNKED, body, (true, false));
        }
        // Not in chunks, so it may be anything.
        check("POST /a HTTP/1.1\r\nte: x\r\ncontent-length: 9", "\r\n\r\n\r\n", (true, true));
    }

    #[test]
    fn a_head_is_heard_up_to_its_bound_and_no_body_counts() {
        let mut hearing = hearing();
        assert!(hearing.hear(b"GET /a HTTP/1.1\r\nx: "));
        assert!(hearing.hear(&[b'y'; 4000]));
        assert!(!hearing.hear(&[b'y'; 100]));
        assert_eq!((hearing.wrong(), hearing.cut_short()), (Some(Wrong::Head), Some(&b"a:\r\n\r\n"[..])));
        for (head, end) in [
            ("GET /", None),
            ("GET / HTTP/1.1\r", None),
            ("GET / HTTP/1.1\r\n", Some("\r\n")),
            ("GET / HTTP/1.1\r\nx: y\r", Some("\n\r\n")),
            ("GET / HTTP/1.1\r\n\r", Some("\n\r\n")),
            ("GET / HTTP/1.1\r\nx", Some("a:\r\n\r\n")),
        ] {
            let mut cut = Hearing { most: 1, ..Hearing::default() };
            cut.begin();
            assert!(!cut.hear(head.as_bytes()));
            assert_eq!(cut.cut_short(), end.map(str::as_bytes), "{head:?}");
        }
        let mut hearing = self::hearing();
        assert!(hearing.hear(b"POST /a HTTP/1.1\r\n\r\n"));
        hearing.end_head(&headers(false));
        assert!((0..10).all(|_| hearing.hear(&[b'y'; 4000])), "a body");
        hearing.begin();
        assert!(!hearing.hear(&[b'y'; 4097]), "the next head");
        let mut deaf = Hearing::default();
        deaf.begin();
        assert!(deaf.hear(&[b'\r'; 100_000]));
    }

    proptest! {
        #[test]
        fn whatever_is_heard_in_whatever_pieces_means_the_same(
            body in "[0-3a;\\r\\n ]{0,24}", piece in 1_usize..9
        ) {
            let mut whole = Chunks::default();
            let is_well = whole.hear(body.as_bytes());
            let mut parts = Chunks::default();
            let are_well = body.as_bytes().chunks(piece).all(|part| parts.hear(part));
            prop_assert_eq!(is_well, are_well);
        }
    }
}
