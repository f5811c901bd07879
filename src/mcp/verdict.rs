//! Whether the answer to a `tools/call` that passes by is a tool's no: a result with `isError`, or an error of JSON-RPC.
//!
//! Sees an answer piece by piece, as JSON or as a stream of events, keeps none of it and changes nothing: what it says is
//! for the record alone. An answer that is no JSON has no verdict.

use memchr::memchr3;

/// The longest key that is looked for.
const LONGEST: usize = "isError".len();

/// What has been seen of an answer.
#[derive(Debug, Default)]
pub struct Verdict {
    is_stream: bool,
    is_no: bool,
    depth: usize,
    is_in_string: bool,
    is_escaped: bool,
    /// The beginning of the last string, and how long that was.
    word: [u8; LONGEST],
    word_length: usize,
    /// The key of the member of the message that is being read.
    member: Member,
    /// A key was read whose value decides.
    awaits: Option<u8>,
    /// How much of the line has been seen, and whether it is one of data.
    at_in_line: usize,
    is_data: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Member {
    #[default]
    Other,
    Result,
}

impl Verdict {
    /// Of an answer that begins now.
    pub fn new(is_stream: bool) -> Self {
        Self { is_stream, ..Self::default() }
    }

    /// Whether the tool said no, as far as was seen.
    pub fn is_no(&self) -> bool {
        self.is_no
    }

    /// Looks at the next piece.
    pub fn see(&mut self, mut bytes: &[u8]) {
        while let Some(byte) = bytes.first().copied() {
            if !self.is_in_string {
                self.see_structure(byte);
                bytes = &bytes[1..];
                continue;
            }
            if std::mem::take(&mut self.is_escaped) {
                self.note_letters(&bytes[..1]);
                bytes = &bytes[1..];
                continue;
            }
            let end = memchr3(b'"', b'\\', b'\n', bytes).unwrap_or(bytes.len());
            self.note_letters(&bytes[..end]);
            let Some(byte) = bytes.get(end) else { return };
            self.at_in_line = 1;
            match byte {
                b'"' => self.is_in_string = false,
                b'\\' => {
                    // Longer than any key: an escaped one is not looked for.
                    self.word_length = usize::MAX;
                    self.is_escaped = true;
                }
                // No string of JSON holds one: it was none.
                _ => {
                    self.is_in_string = false;
                    self.end_line();
                }
            }
            bytes = &bytes[end + 1..];
        }
    }

    fn note_letters(&mut self, letters: &[u8]) {
        if let Some(room) = self.word.get_mut(self.word_length.min(LONGEST)..) {
            let kept = room.len().min(letters.len());
            room[..kept].copy_from_slice(&letters[..kept]);
        }
        self.word_length = self.word_length.saturating_add(letters.len());
    }

    fn see_structure(&mut self, byte: u8) {
        if byte == b'\n' {
            return self.end_line();
        }
        if byte == b'\r' {
            return;
        }
        if self.at_in_line < b"data:".len() {
            self.is_data = (self.at_in_line == 0 || self.is_data) && byte == b"data:"[self.at_in_line];
        }
        self.at_in_line += 1;
        if self.is_stream && self.depth == 0 && !self.is_data {
            return;
        }
        if let Some(wanted) = self.awaits
            && !byte.is_ascii_whitespace()
        {
            self.is_no |= byte == wanted;
            self.awaits = None;
        }
        match byte {
            b'"' => (self.is_in_string, self.word_length) = (true, 0),
            b':' => self.note_key(),
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }

    fn note_key(&mut self) {
        let key = self.word.get(..self.word_length).unwrap_or_default();
        match (self.depth, key) {
            (1, b"result") => self.member = Member::Result,
            (1, b"error") => (self.member, self.awaits) = (Member::Other, Some(b'{')),
            (1, _) => self.member = Member::Other,
            (2, b"isError") if self.member == Member::Result => self.awaits = Some(b't'),
            _ => {}
        }
    }

    /// In a stream, an empty line ends an event, and what comes next is another message.
    fn end_line(&mut self) {
        if self.is_stream && self.at_in_line == 0 {
            *self = Self { is_stream: true, is_no: self.is_no, ..Self::default() };
        }
        self.at_in_line = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check((answer, is_stream): (&str, bool), is_no: bool) {
        for size in [1, 2, 3, 7, answer.len().max(1)] {
            let mut verdict = Verdict::new(is_stream);
            answer.as_bytes().chunks(size).for_each(|piece| verdict.see(piece));
            assert_eq!(verdict.is_no(), is_no, "in pieces of {size}: {answer}");
        }
    }

    #[test]
    fn a_no_is_told_from_a_result() {
        for (answer, is_no) in [
            (r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":true}}"#, true),
            (r#"{"jsonrpc":"2.0","id":1,"result":{"isError" : true ,"content":[]}}"#, true),
            (r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no"}}"#, true),
            ("{\n  \"id\": 1,\n\n  \"result\": {\n    \"isError\":\n true\n  }\n}", true),
            (r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":false}}"#, false),
            (r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#, false),
            (r#"{"result":{"structuredContent":{"isError":true}}}"#, false),
            (r#"{"result":{"content":[{"text":"{\"isError\":true}"}]}}"#, false),
            (r#"{"result":{"content":[{"text":"\\"}],"isError":true}}"#, true),
            (r#"{"params":{"isError":true}}"#, false),
            (r#"{"error":null,"result":{"error":{}}}"#, false),
            (r#"{"result":{"isErro":true,"isErrors":true}}"#, false),
            (r#"{"resultt":{"isError":true}}"#, false),
            ("", false),
            ("nonsense", false),
        ] {
            check((answer, false), is_no);
        }
    }

    #[test]
    fn in_a_stream_each_event_is_a_message() {
        let progress = "event: message\nid: {\"\ndata: {\"method\":\"notifications/progress\",\"params\":{\"isError\":true}}\n\n";
        let no = "data: {\"id\":1,\"result\":{\"isError\":true}}\n\n";
        let several = "data: {\"id\":1,\"result\":\ndata: {\"isError\": true}}\r\n\r\n";
        let yes = "data:{\"id\":1,\"result\":{\"isError\":false,\"content\":[{\"text\":\"}}}\"}]}}\n\n";
        check((&format!("{progress}{no}"), true), true);
        check((&format!(": a comment with \"quotes\n\n{progress}{several}"), true), true);
        check((&format!("{progress}{yes}"), true), false);
        check((&format!("{progress}{yes}").replace('\n', "\r\n"), true), false);
    }

    proptest! {
        #[test]
        fn what_serde_json_reads_is_seen_alike(is_error: Option<bool>, text: String, is_deep: bool) {
            let mut result = serde_json::json!({"content": [{"type": "text", "text": text}]});
            if let Some(is_error) = is_error {
                let at = if is_deep { &mut result["content"][0] } else { &mut result };
                at["isError"] = is_error.into();
            }
            let answer = serde_json::json!({"jsonrpc": "2.0", "id": 7, "result": result});
            let is_no = is_error == Some(true) && !is_deep;
            check((&answer.to_string(), false), is_no);
            check((&format!("data: {answer}\n\n"), true), is_no);
        }

        #[test]
        fn any_bytes_are_seen_without_a_panic(bytes: Vec<u8>, is_stream: bool) {
            Verdict::new(is_stream).see(&bytes);
        }
    }
}
