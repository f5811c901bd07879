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

    /// The name it has, if any. What is not UTF-8 is replaced here and in the data, as clients do.
    pub fn name(&self) -> Option<Cow<'_, str>> {
        self.values(b"event").last().map(String::from_utf8_lossy)
    }

    /// Its data, if any.
    pub fn data(&self) -> Option<Cow<'_, str>> {
        let mut values = self.values(b"data");
        let first = values.next()?;
        let Some(second) = values.next() else { return Some(String::from_utf8_lossy(first)) };
        let all: Vec<&[u8]> = [first, second].into_iter().chain(values).collect();
        Some(Cow::Owned(String::from_utf8_lossy(&all.join(&b'\n')).into_owned()))
    }

    /// The id it has, if any: where a client may resume the stream.
    pub fn id(&self) -> Option<Cow<'_, str>> {
        self.values(b"id").last().filter(|id| is_id(id)).map(String::from_utf8_lossy)
    }

    /// How long a client is to wait before it connects again, in milliseconds, if that is said.
    pub fn retry(&self) -> Option<u64> {
        std::str::from_utf8(self.values(b"retry").last()?).ok()?.parse().ok()
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
            } else if is_written {
                // An empty comment: without the line, a `\r` before it and a `\n` behind it would meet.
                bytes.push(b':');
                bytes.extend_from_slice(ending);
            } else {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUND: usize = 4096;

    /// The events of a stream that arrives in these pieces.
    fn split<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
        bound: usize,
    ) -> (Vec<Event>, Result<(), TooLong>) {
        let mut splitter = Splitter::new(bound);
        let mut events = Vec::new();
        let mut drain = |splitter: &mut Splitter| {
            while let Some(event) = splitter.next_event()? {
                events.push(event);
            }
            Ok(())
        };
        let mut fed = Ok(());
        for piece in pieces {
            splitter.feed(piece);
            fed = fed.and_then(|()| drain(&mut splitter));
        }
        splitter.end();
        fed = fed.and_then(|()| drain(&mut splitter));
        (events, fed)
    }

    fn events(stream: &[u8]) -> Vec<Event> {
        let (events, fed) = split([stream], BOUND);
        assert_eq!(fed, Ok(()));
        events
    }

    fn one(stream: &str) -> Event {
        let mut events = events(stream.as_bytes());
        assert_eq!(events.len(), 1, "{stream:?}");
        events.remove(0)
    }

    #[track_caller]
    fn check(stream: impl AsRef<[u8]>, expected: &[&str]) {
        let events = events(stream.as_ref());
        let raw: Vec<_> = events.iter().map(|event| String::from_utf8_lossy(event.raw())).collect();
        assert_eq!(raw, expected);
    }

    #[test]
    fn an_event_ends_with_a_blank_line_however_lines_end() {
        check("data: 1\n\ndata: 2\n\n", &["data: 1\n\n", "data: 2\n\n"]);
        check("data: 1\r\n\r\ndata: 2\r\n\r\n", &["data: 1\r\n\r\n", "data: 2\r\n\r\n"]);
        check("data: 1\r\rdata: 2\r\r", &["data: 1\r\r", "data: 2\r\r"]);
        check("data: 1\n\r\ndata: 2\r\n\n", &["data: 1\n\r\n", "data: 2\r\n\n"]);
        check("data: 1\n\rdata: 2\r\n\r", &["data: 1\n\r", "data: 2\r\n\r"]);
        check("data: 1\r\r\ndata: 2\n\n", &["data: 1\r\r", "\n", "data: 2\n\n"]);
        check("\n\r\n\r\r", &["\n", "\r\n", "\r", "\r"]);
        check("\u{feff}data: 1\n\n\u{feff}data: 2\n\n", &["\u{feff}data: 1\n\n", "\u{feff}data: 2\n\n"]);
        check("\u{feff}\ndata: 1\n\n", &["\u{feff}\n", "data: 1\n\n"]);
        check("\u{feff}\r\ndata: 1\n\n", &["\u{feff}\r\n", "data: 1\n\n"]);
        check("", &[]);
        check("data: no end\n", &[]);
        check("data: 1\n\ndata: no end", &["data: 1\n\n"]);
    }

    #[test]
    fn an_event_is_there_as_soon_as_its_blank_line_is() {
        for (stream, is_waiting) in [
            ("data: 1\n\n", false),
            ("data: 1\r\n\r\n", false),
            ("data: 1\r\r", false),
            (": keep-alive\n\n", false),
            ("data: 1\n", true),
            // The second half of an ending may follow.
            ("data: 1\r\n\r", true),
        ] {
            let mut splitter = Splitter::new(BOUND);
            for byte in stream.as_bytes() {
                assert_eq!(splitter.next_event(), Ok(None));
                splitter.feed(&[*byte]);
            }
            assert_eq!(splitter.next_event().unwrap().is_none(), is_waiting, "{stream:?}");
        }
    }

    #[test]
    fn an_event_over_the_bound_is_an_error_and_those_before_it_are_not() {
        let stream = b"data: 1\n\ndata: 12345\n\n";
        for bound in 9..13 {
            let (events, fed) = split([&stream[..]], bound);
            assert_eq!((events.len(), fed), (1, Err(TooLong)));
        }
        assert_eq!(split([&stream[..]], 13).1, Ok(()));
        assert_eq!(split([&b"data: without end"[..]], 10).1, Err(TooLong));
    }

    #[test]
    fn fields_are_read_as_the_standard_says() {
        let read = |stream: &str| {
            let event = one(stream);
            (event.name().map(Cow::into_owned), event.data().map(Cow::into_owned), event.has_id())
        };
        let is = |name: Option<&str>, data: Option<&str>, has_id: bool| {
            (name.map(str::to_owned), data.map(str::to_owned), has_id)
        };
        assert_eq!(read("event: endpoint\ndata: /m?s=1\n\n"), is(Some("endpoint"), Some("/m?s=1"), false));
        assert_eq!(read("data:x\nid:1\n\n"), is(None, Some("x"), true));
        assert_eq!(read("data:  x \n\n"), is(None, Some(" x "), false));
        assert_eq!(read("data: a\ndata: b\r\ndata\rdata: c\n\n"), is(None, Some("a\nb\n\nc"), false));
        assert_eq!(read("id: 1\ndata: \n\n"), is(None, Some(""), true));
        assert_eq!(read("id: 1\nid\ndata\n\n"), is(None, Some(""), false));
        assert_eq!(read("id: a\0b\nretry: 5\n\n"), is(None, None, false));
        assert_eq!(read(": comment\n\n"), is(None, None, false));
        assert_eq!(read(":data: x\nData: x\n data: x\ndata : x\n\n"), is(None, None, false));
        assert_eq!(read("event: a\nevent: b\ndata: {\"a\":1}\n\n"), is(Some("b"), Some("{\"a\":1}"), false));
        assert_eq!(read("\u{feff}data: x\n\n"), is(None, Some("x"), false));
    }

    #[test]
    fn where_and_when_a_stream_may_be_resumed_is_read_as_the_standard_says() {
        let read = |stream: &str| {
            let event = one(stream);
            (event.id().map(Cow::into_owned), event.retry())
        };
        assert_eq!(read("id: a\nid: b:7\nretry: 1500\ndata:\n\n"), (Some("b:7".to_owned()), Some(1500)));
        assert_eq!(read("id: a\nid\nretry: soon\n\n"), (None, None));
        assert_eq!(read("id: a\0b\nretry: -5\n\n"), (None, None));
        assert_eq!(read("data: x\n\n"), (None, None));
    }

    #[test]
    fn data_that_is_not_utf_8_is_read_as_clients_read_it() {
        assert_eq!(events(b"data: a\xff\ndata: b\n\n")[0].data().unwrap(), "a\u{fffd}\nb");
    }

    #[test]
    fn only_the_data_is_replaced() {
        let check = |stream: &str, data: &str, expected: &str| {
            assert_eq!(String::from_utf8(one(stream).with_data(data)).unwrap(), expected);
        };
        check("event: m\ndata: 1\nid: 7\n\n", "new", "event: m\ndata: new\nid: 7\n\n");
        check(
            "data:1\r\nx: y\r\ndata:2\r\n: c\r\n\r\n",
            "a\nb\r\nc\rd",
            "data: a\r\ndata: b\r\ndata: c\r\ndata: d\r\nx: y\r\n:\r\n: c\r\n\r\n",
        );
        check("\u{feff}data: 1\r\r", " two", "\u{feff}data:  two\r\r");
        check("data\n\n", "", "data: \n\n");
        check("data: a\rdata: b\n\n", "c", "data: c\r:\n\n");
        check("data: a\n\u{feff}data: b\n\n", "c", "data: c\n\u{feff}data: b\n\n");
    }

    #[test]
    fn whether_a_stream_is_resumable_shows_in_its_first_event() {
        for (beginning, expected) in [
            ("", None),
            ("id: 1", None),
            ("id: 1\n", Some(true)),
            ("\u{feff}id: 1\r\n", Some(true)),
            (": hello\n\nretry: 5\n\nid: 1\n", Some(true)),
            ("data: x\n", None),
            ("data: x\n\n", Some(false)),
            ("data: x\nid: 1\n\n", Some(true)),
            ("id:\ndata:\n\n", Some(false)),
            (": hello\n\n", None),
            ("event: endpoint\r\ndata: /m\r\n\r\nid: 1\r\n", Some(false)),
        ] {
            assert_eq!(first_event_has_id(beginning.as_bytes()), expected, "{beginning:?}");
        }
    }

    /// What a browser makes of a stream: the standard's own steps, written down one by one. Id, name and data of each
    /// event it dispatches.
    fn browser(stream: &[u8]) -> Vec<(String, String, String)> {
        let text = String::from_utf8_lossy(stream).into_owned();
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text).replace("\r\n", "\n").replace('\r', "\n");
        let (mut id, mut name, mut data) = (String::new(), String::new(), String::new());
        let mut dispatched = Vec::new();
        let Some((ended, _)) = text.rsplit_once('\n') else { return dispatched };
        for line in ended.split('\n') {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" => data.push_str(&format!("{value}\n")),
                "event" => name = value.to_owned(),
                "id" if !value.contains('\0') => id = value.to_owned(),
                _ if line.is_empty() => {
                    let data = std::mem::take(&mut data);
                    let name = std::mem::take(&mut name);
                    if let Some(data) = data.strip_suffix('\n') {
                        dispatched.push((id.clone(), name, data.to_owned()));
                    }
                }
                _ => {}
            }
        }
        dispatched
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(&b"\n"[..]),
            Just(&b"\r"[..]),
            Just(&b"\r\n"[..]),
            Just(&b"\n\n"[..]),
            Just(&b"data"[..]),
            Just(&b"data: "[..]),
            Just(&b"id: "[..]),
            Just(&b"event:"[..]),
            Just(&b": "[..]),
            Just(&b"x"[..]),
            Just(&b"\xef\xbb\xbf"[..]),
            Just(&b"\xef"[..]),
            Just(&b"\0"[..]),
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn events_do_not_depend_on_how_the_stream_is_cut(stream in stream(), sizes in proptest::collection::vec(1_usize..9, 1..20), bound in 1_usize..60) {
            let mut rest = &stream[..];
            let mut pieces = Vec::new();
            for size in sizes.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, tail) = rest.split_at((*size).min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            prop_assert_eq!(split(pieces, bound), split([&stream[..]], bound));
        }

        #[test]
        fn events_joined_are_the_stream_without_its_incomplete_tail(stream in stream()) {
            let (events, fed) = split([&stream[..]], BOUND);
            let joined: Vec<u8> = events.iter().flat_map(|event| event.raw().to_vec()).collect();
            prop_assert!(fed.is_ok() && stream.starts_with(&joined));
            // No event is in the tail.
            prop_assert_eq!(browser(&joined), browser(&stream));
        }

        #[test]
        fn events_are_those_a_browser_sees(stream in stream()) {
            let seen: Vec<_> = events(&stream)
                .iter()
                .filter_map(|event| Some((event.name().unwrap_or_default().into_owned(), event.data()?.into_owned())))
                .collect();
            let expected: Vec<_> = browser(&stream).into_iter().map(|(_, name, data)| (name, data)).collect();
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn a_browser_sees_the_new_data_and_nothing_else_new(stream in stream(), data in "[ a\r\n:]{0,9}") {
            let edited: Vec<u8> = events(&stream).iter().flat_map(|event| event.with_data(&data)).collect();
            let data = data.replace("\r\n", "\n").replace('\r', "\n");
            let expected: Vec<_> = browser(&stream).into_iter().map(|(id, name, _)| (id, name, data.clone())).collect();
            prop_assert_eq!(browser(&edited), expected);
        }

        #[test]
        fn a_stream_is_resumable_when_its_first_event_has_an_id(stream in stream()) {
            let first = browser(&stream).into_iter().next();
            if let (Some(has_id), Some((id, _, _))) = (first_event_has_id(&stream), first) {
                prop_assert!(has_id || id.is_empty());
            }
        }
    }
}
