//! What a server of MCP answers, heard in passing: whether the last word was said, and whether it is that the tool could
//! not do it.
//!
//! Decides only what the record says, and when the audit has to know. Never changes a byte, and never holds one back: what
//! cannot be looked at, because it is too long or encoded, counts as an answer like any other, from its beginning on.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memmem;

use crate::mcp::{
    members::{self, Members},
    sse::Splitter,
};

/// Longest answer, or event of one, that is looked at.
const BOUND: usize = 256 * 1024;

/// Listens to the answer to one or more calls.
pub struct Verdict {
    /// How many answers there are to come.
    awaited: usize,
    is_error: bool,
    heard: Heard,
}

enum Heard {
    /// A stream of events.
    Events(Splitter),
    /// One JSON document.
    Pieces(Vec<Bytes>, usize),
    /// A document of which too much came: it is over at its end.
    Nothing,
    /// A stream that cannot be read: any piece may hold the answer.
    Blind,
}

impl Verdict {
    /// For so many answers.
    pub fn new(awaited: usize, is_stream: bool) -> Self {
        let heard =
            if is_stream { Heard::Events(Splitter::new(BOUND)) } else { Heard::Pieces(Vec::new(), 0) };
        Self { awaited, is_error: false, heard }
    }

    /// For answers that are encoded.
    pub fn blind(awaited: usize, is_stream: bool) -> Self {
        let heard = if is_stream { Heard::Blind } else { Heard::Nothing };
        Self { awaited, is_error: false, heard }
    }

    /// Hears the next piece, before it is the client's: once all is answered it says, one time, whether any could not be done.
    pub fn hear(&mut self, piece: Option<&Bytes>, is_end: bool) -> Option<bool> {
        if self.awaited == 0 {
            return None;
        }
        match &mut self.heard {
            Heard::Nothing => {}
            Heard::Blind => self.awaited = 0,
            Heard::Events(splitter) => {
                splitter.feed(piece.map_or(&[], |piece| piece));
                loop {
                    match splitter.next_event() {
                        Ok(Some(event)) => {
                            if !may_answer(event.raw()) {
                                continue;
                            }
                            let data = event.data().unwrap_or_default();
                            for is_error in answers(&data) {
                                self.awaited = self.awaited.saturating_sub(1);
                                self.is_error |= is_error;
                            }
                        }
                        Ok(None) => break,
                        // Its client may have the answer with any further piece.
                        Err(_too_long) => {
                            self.awaited = 0;
                            break;
                        }
                    }
                }
            }
            Heard::Pieces(pieces, length) => {
                if let Some(piece) = piece {
                    *length += piece.len();
                    pieces.push(piece.clone());
                }
                if *length > BOUND {
                    self.heard = Heard::Nothing;
                } else if is_end {
                    let whole = match &pieces[..] {
                        [piece] => Cow::Borrowed(&piece[..]),
                        pieces => Cow::Owned(pieces.concat()),
                    };
                    if may_be_error(&whole) {
                        let text = String::from_utf8_lossy(&whole);
                        self.is_error = answers(&text).into_iter().any(|is_error| is_error);
                    }
                }
            }
        }
        let is_over = is_end || self.awaited == 0;
        is_over.then(|| {
            self.awaited = 0;
            self.is_error
        })
    }
}

/// Whether an event may be an answer: most are not, and are not read. A key can be written with escapes.
fn may_answer(event: &[u8]) -> bool {
    [&b"\"result\""[..], b"\"error\"", b"\\u"].iter().any(|word| memmem::find(event, word).is_some())
}

/// Mostly it is seen at once that it is none: an error of the protocol has a member of that name, and one of the tool says so
/// with `true`.
fn may_be_error(body: &[u8]) -> bool {
    const KEY: &[u8] = b"\"isError\"";
    let says_no = |at: usize| {
        let value = body[at + KEY.len()..].trim_ascii_start().strip_prefix(b":");
        value.is_some_and(|value| value.trim_ascii_start().starts_with(b"false"))
    };
    memmem::find(body, b"\"error\"").is_some() || memmem::find_iter(body, KEY).any(|at| !says_no(at))
}

/// Of each answer in a message, or in a batch of them, whether it is that something could not be done.
fn answers(text: &str) -> Vec<bool> {
    match members::items(text) {
        Some(items) => items.into_iter().filter_map(is_error).collect(),
        None => is_error(text).into_iter().collect(),
    }
}

/// None of what is no answer.
fn is_error(message: &str) -> Option<bool> {
    let message = Members::read(message)?;
    if message.get("method").is_some() {
        return None;
    }
    if message.get("error").is_some_and(|error| error.starts_with('{')) {
        return Some(true);
    }
    let result = Members::read(message.get("result")?);
    Some(result.is_some_and(|result| result.get("isError") == Some("true")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DONE: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"\"isError\":true"}],"structuredContent":{"isError":true}}}"#;
    const FAILED: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError": true}}"#;
    const REFUSED: &str = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no such tool"}}"#;
    const PROGRESS: &str =
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"result":1,"error":2}}"#;

    #[track_caller]
    fn check(body: &str, calls: usize, is_stream: bool, expected: Option<bool>) {
        for size in [1, 7, body.len().max(1)] {
            let mut verdict = Verdict::new(calls, is_stream);
            let pieces: Vec<_> = body.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect();
            let mut said: Vec<_> =
                pieces.iter().filter_map(|piece| verdict.hear(Some(piece), false)).collect();
            said.extend(verdict.hear(None, true));
            assert_eq!(said, Vec::from_iter(expected), "{body} in pieces of {size}");
        }
    }

    #[test]
    fn only_the_answer_s_own_words_count() {
        check(DONE, 1, false, Some(false));
        check(FAILED, 1, false, Some(true));
        check(REFUSED, 1, false, Some(true));
        check(&format!("[{DONE},{FAILED}]"), 2, false, Some(true));
        check("nonsense \"isError\"", 1, false, Some(false));
        check("", 1, false, Some(false));
        check(FAILED, 0, false, None);
    }

    #[test]
    fn a_stream_is_over_with_the_last_answer_in_it() {
        let events = |messages: &[&str]| -> String {
            messages.iter().map(|message| format!("event: message\ndata: {message}\n\n")).collect()
        };
        check(&events(&[PROGRESS, DONE]), 1, true, Some(false));
        check(&events(&[PROGRESS, FAILED]), 1, true, Some(true));
        check(&events(&[DONE, FAILED]), 2, true, Some(true));
        let mut verdict = Verdict::new(1, true);
        assert_eq!(verdict.hear(Some(&events(&[PROGRESS]).into()), false), None);
        assert_eq!(verdict.hear(Some(&events(&[FAILED]).into()), false), Some(true));
        assert_eq!(verdict.hear(None, true), None, "said once");
    }

    proptest! {
        #[test]
        fn what_serde_json_reads_is_heard_alike(is_error: Option<bool>, text: String, is_deep: bool) {
            let mut result = serde_json::json!({"content": [{"type": "text", "text": text}]});
            if let Some(is_error) = is_error {
                let at = if is_deep { &mut result["content"][0] } else { &mut result };
                at["isError"] = is_error.into();
            }
            let answer = serde_json::json!({"jsonrpc": "2.0", "id": 7, "result": result});
            let is_no = is_error == Some(true) && !is_deep;
            check(&answer.to_string(), 1, false, Some(is_no));
            check(&format!("data: {answer}\n\n"), 1, true, Some(is_no));
        }

        #[test]
        fn any_bytes_are_heard_without_a_panic(bytes: Vec<u8>, is_stream: bool) {
            Verdict::new(1, is_stream).hear(Some(&bytes.into()), true);
        }
    }

    #[test]
    fn what_is_too_long_is_an_answer_like_any_other() {
        let long = format!(r#"{{"id":1,"result":{{"isError":true,"content":"{}"}}}}"#, "x".repeat(BOUND));
        check(&long, 1, false, Some(false));
        check(&format!("data: {long}\n\n"), 1, true, Some(false));
        // Of a stream before its client can have the whole event.
        let mut verdict = Verdict::new(1, true);
        let (most, rest) = long.split_at(BOUND + 16);
        assert_eq!(verdict.hear(Some(&format!("data: {most}").into()), false), Some(false));
        assert_eq!(verdict.hear(Some(&format!("{rest}\n\n").into()), true), None);
    }

    #[test]
    fn what_is_encoded_may_be_answered_by_any_piece() {
        let piece = Bytes::from_static(b"\x1f\x8b");
        assert_eq!(Verdict::blind(1, true).hear(Some(&piece), false), Some(false));
        let mut document = Verdict::blind(1, false);
        assert_eq!([document.hear(Some(&piece), false), document.hear(None, true)], [None, Some(false)]);
    }

    #[test]
    fn a_key_that_is_spelt_with_escapes_is_heard() {
        check("data: {\"id\":1,\"r\\u0065sult\":{\"isError\":true}}\n\n", 1, true, Some(true));
    }
}
