//! Event streams (`text/event-stream`, WHATWG HTML, Server-sent events) cut into events, however their bytes arrive.
//!
//! Decides where an event ends and what its lines say. Never changes a byte that it was not asked to: what it hands
//! out is, joined, what it was fed.

use std::{borrow::Cow, fmt};

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr2};

const BOM: &[u8] = b"\xef\xbb\xbf";

/// An event that is longer than may be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event of the stream is longer than the gateway holds")
    }
}

impl std::error::Error for TooLong {}

/// Cuts a stream into events, each as soon as its blank line is there.
#[derive(Debug)]
pub struct Splitter {
    held: BytesMut,
    bound: usize,
    /// Where the line begins that is being read.
    line: usize,
    /// How far that line has been searched for its end.
    searched: usize,
    /// How the line before it ended.
    before: Ending,
    is_first: bool,
    is_over: bool,
}

/// How a line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// There is no line before.
    None,
    /// `\r` alone.
    Cr,
    /// `\n`, alone or after `\r`.
    Lf,
}

impl Splitter {
    /// A splitter for a new stream that holds events of up to `bound` bytes.
    pub fn new(bound: usize) -> Self {
        Self {
            held: BytesMut::new(),
            bound,
            line: 0,
            searched: 0,
            before: Ending::None,
            is_first: true,
            is_over: false,
        }
    }

    /// Takes the next bytes; ask [`Splitter::next_event`] until there is none.
    pub fn feed(&mut self, chunk: &[u8]) {
        self.held.extend_from_slice(chunk);
    }

    /// The stream has ended: nothing follows a `\r` at its end.
    pub fn end(&mut self) {
        self.is_over = true;
    }

    /// The next whole event. What is left when the stream ends is no event.
    pub fn next_event(&mut self) -> Result<Option<Event>, TooLong> {
        while let Some((text_end, ending)) = self.line_end() {
            let length = self.searched;
            let begin = self.line + if self.is_bom_at(self.line) { BOM.len() } else { 0 };
            let is_blank = begin == text_end;
            (self.line, self.before) = (length, ending);
            if is_blank {
                return self.take(length).map(Some);
            }
        }
        if self.held.len() > self.bound { Err(TooLong) } else { Ok(None) }
    }

    /// Where the text of the line that is being read ends, and how; `searched` is then behind its ending.
    fn line_end(&mut self) -> Option<(usize, Ending)> {
        let Some(at) = memchr2(b'\r', b'\n', &self.held[self.searched..]).map(|at| self.searched + at) else {
            self.searched = self.held.len();
            return None;
        };
        // A `\r` may be the first half of an ending. Where lines end with `\r` alone, a blank one is not waited on:
        // a `\n` that does follow it is a blank line of its own, which says nothing.
        let ends_alone = self.before == Ending::Cr && at == self.line;
        let (length, ending) = match (self.held[at], self.held.get(at + 1)) {
            (b'\n', _) => (1, Ending::Lf),
            _ if ends_alone => (1, Ending::Cr),
            (_, Some(b'\n')) => (2, Ending::Lf),
            (_, Some(_)) => (1, Ending::Cr),
            (_, None) if self.is_over => (1, Ending::Cr),
            (_, None) => {
                self.searched = at;
                return None;
            }
        };
        self.searched = at + length;
        Some((at, ending))
    }

    fn is_bom_at(&self, line: usize) -> bool {
        self.is_first && line == 0 && self.held.starts_with(BOM)
    }

    fn take(&mut self, length: usize) -> Result<Event, TooLong> {
        if length > self.bound {
            return Err(TooLong);
        }
        let begin = if self.is_bom_at(0) { BOM.len() } else { 0 };
        (self.line, self.searched, self.before, self.is_first) = (0, 0, Ending::None, false);
        Ok(Event { raw: self.held.split_to(length).freeze(), begin })
    }
}

/// One event: its lines and the blank line that ends it. Comments alone, or a blank line alone, are one as well,
/// which says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    raw: Bytes,
    /// Where its lines begin: a byte order mark may stand before the first of a stream.
    begin: usize,
}

impl Event {
    /// Its bytes as they came.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The name it has, if any.
    pub fn name(&self) -> Option<&str> {
        std::str::from_utf8(self.values(b"event").last()?).ok()
    }

    /// Its data, if any, read as clients read it: what is not UTF-8 is replaced.
    pub fn data(&self) -> Option<Cow<'_, str>> {
        let mut values = self.values(b"data");
        let first = values.next()?;
        let Some(second) = values.next() else { return Some(String::from_utf8_lossy(first)) };
        let all: Vec<&[u8]> = [first, second].into_iter().chain(values).collect();
        Some(Cow::Owned(String::from_utf8_lossy(&all.join(&b'\n')).into_owned()))
    }

    /// Whether it has an id, so that a client may resume the stream after it.
    pub fn has_id(&self) -> bool {
        self.values(b"id").last().is_some_and(is_id)
    }

    /// The event with other data in the place of its own, and all other lines as they came.
    pub fn with_data(&self, data: &str) -> Vec<u8> {
        let mut bytes = self.raw[..self.begin].to_vec();
        let mut is_written = false;
        for Line { text, ending } in self.lines() {
            if field(text).0 != b"data" {
                bytes.extend_from_slice(text);
                bytes.extend_from_slice(ending);
            } else if !is_written {
                is_written = true;
                for value in data.replace("\r\n", "\n").split(['\r', '\n']) {
                    bytes.extend_from_slice(b"data: ");
                    bytes.extend_from_slice(value.as_bytes());
                    bytes.extend_from_slice(ending);
                }
            }
        }
        bytes
    }

    fn lines(&self) -> Lines<'_> {
        Lines(&self.raw[self.begin..])
    }

    /// The values of all fields of this name.
    fn values(&self, name: &'static [u8]) -> impl Iterator<Item = &[u8]> {
        self.lines().map(|line| field(line.text)).filter(move |field| field.0 == name).map(|field| field.1)
    }
}

/// Whether the first event of a stream that begins like this has an id, which makes the stream resumable. None when
/// the beginning is too short to tell.
pub fn first_event_has_id(beginning: &[u8]) -> Option<bool> {
    let mut has_data = false;
    for line in Lines(beginning.strip_prefix(BOM).unwrap_or(beginning)) {
        match field(line.text) {
            (b"id", value) if is_id(value) => return Some(true),
            (b"data", _) => has_data = true,
            // Comments, and a time to wait before trying again, are no event.
            _ if line.text.is_empty() && has_data => return Some(false),
            _ => {}
        }
    }
    None
}

/// Whether clients take this for an id: one with a NUL they ignore, and an empty one takes the last one back.
fn is_id(value: &[u8]) -> bool {
    !value.is_empty() && !value.contains(&0)
}

/// Name and value of a line. A comment has an empty name.
fn field(text: &[u8]) -> (&[u8], &[u8]) {
    let Some(colon) = memchr(b':', text) else { return (text, b"") };
    let value = &text[colon + 1..];
    (&text[..colon], value.strip_prefix(b" ").unwrap_or(value))
}

/// A line that has ended.
struct Line<'a> {
    text: &'a [u8],
    ending: &'a [u8],
}

/// The lines of these bytes that have ended.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        let (text, rest) = self.0.split_at(memchr2(b'\r', b'\n', self.0)?);
        let (ending, rest) = rest.split_at(if rest.starts_with(b"\r\n") { 2 } else { 1 });
        self.0 = rest;
        Some(Line { text, ending })
    }
}
