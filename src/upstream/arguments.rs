//! The peek into a tool call's body: is it JSON, and is it `{"arguments": {…}}` to be unwrapped.
//!
//! Sans-IO and incremental: bytes are fed as they come and never kept here. Reads at most
//! [`PEEK_BYTES`] of a body that passes through; past that it is the tool's to judge. Never changes
//! a byte: it only says which part of a wrapped body is the arguments object.

use std::ops::Range;

use crate::refusal::{Code, Refusal};

/// How far into a body that passes through the gateway looks.
pub const PEEK_BYTES: usize = 64 * 1024;
/// Deepest nesting that is still taken for JSON: beyond it parsers differ.
const DEEPEST: usize = 512;

/// What the bytes so far show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Not enough bytes yet, or so far `{"arguments": {…` alone.
    MaybeWrapped,
    /// Certainly not wrapped: it passes through.
    Plain,
}

/// A body that has ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whole {
    /// No bytes but white space.
    Empty,
    /// JSON that passes through.
    Plain,
    /// `{"arguments": {…}}`; the range is the inner object.
    Wrapped(Range<usize>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    FirstKeyOrEnd,
    Key,
    Colon,
    FirstValueOrEnd,
    CommaOrEnd,
    String { is_key: bool },
    Escape { is_key: bool },
    Hex { is_key: bool, left: u8 },
    Literal { rest: &'static [u8] },
    Number(Number),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Number {
    fn may_end(self) -> bool {
        matches!(self, Number::Zero | Number::Integer | Number::Fraction | Number::ExponentDigits)
    }

    fn next(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Number::Minus, b'0') => Number::Zero,
            (Number::Minus, b'1'..=b'9') | (Number::Integer, b'0'..=b'9') => Number::Integer,
            (Number::Zero | Number::Integer, b'.') => Number::Point,
            (Number::Point | Number::Fraction, b'0'..=b'9') => Number::Fraction,
            (Number::Zero | Number::Integer | Number::Fraction, b'e' | b'E') => Number::Exponent,
            (Number::Exponent, b'+' | b'-') => Number::ExponentSign,
            (Number::Exponent | Number::ExponentSign | Number::ExponentDigits, b'0'..=b'9') => {
                Number::ExponentDigits
            }
            _ => return None,
        })
    }
}

/// Reads a body as it comes (RFC 8259).
#[derive(Debug)]
pub struct Peek {
    expect: Expect,
    /// Open brackets; `true` is an object.
    open: Vec<bool>,
    offset: usize,
    /// The tail of a character cut by the end of a chunk.
    cut: Vec<u8>,
    shape: Shape,
    key_matched: usize,
    inner: Range<usize>,
}

const KEY: &[u8] = b"arguments";

impl Peek {
    /// A peek at a new body; `may_be_wrapped` is false for tools that have an argument of that name.
    pub fn new(may_be_wrapped: bool) -> Self {
        let shape = if may_be_wrapped { Shape::MaybeWrapped } else { Shape::Plain };
        Self {
            expect: Expect::Value,
            open: Vec::new(),
            offset: 0,
            cut: Vec::new(),
            shape,
            key_matched: 0,
            inner: 0..0,
        }
    }

    /// How many bytes have been read.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Whether `{"arguments": {` has been read, and nothing yet that would make the body plain.
    pub fn is_inside_arguments(&self) -> bool {
        self.shape == Shape::MaybeWrapped && self.inner.start > 0
    }

    /// Reads the next bytes. Past [`PEEK_BYTES`] of a plain body it looks no further.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Shape, Refusal> {
        if self.shape == Shape::Plain && self.offset >= PEEK_BYTES {
            self.offset += bytes.len();
            return Ok(self.shape);
        }
        self.check_utf8(bytes)?;
        for byte in bytes {
            self.step(*byte)?;
            self.offset += 1;
        }
        Ok(self.shape)
    }

    /// The body has ended.
    pub fn finish(&self) -> Result<Whole, Refusal> {
        if self.shape == Shape::Plain && self.offset >= PEEK_BYTES {
            return Ok(Whole::Plain);
        }
        if !self.cut.is_empty() {
            return Err(not_utf8());
        }
        match self.expect {
            Expect::Value if self.open.is_empty() => Ok(Whole::Empty),
            Expect::Number(number) if self.open.is_empty() && number.may_end() => Ok(Whole::Plain),
            Expect::CommaOrEnd if self.open.is_empty() => Ok(match self.shape {
                Shape::MaybeWrapped if self.inner.end > 0 => Whole::Wrapped(self.inner.clone()),
                Shape::MaybeWrapped | Shape::Plain => Whole::Plain,
            }),
            _ => Err(not_json("it ends too early")),
        }
    }

    fn check_utf8(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        if self.cut.is_empty() && bytes.is_ascii() {
            return Ok(());
        }
        self.cut.extend_from_slice(bytes);
        let kept = match std::str::from_utf8(&self.cut) {
            Ok(_) => Vec::new(),
            Err(error) if error.error_len().is_none() => self.cut[error.valid_up_to()..].to_vec(),
            Err(_) => return Err(not_utf8()),
        };
        self.cut = kept;
        Ok(())
    }

    fn step(&mut self, byte: u8) -> Result<(), Refusal> {
        match self.expect {
            Expect::String { is_key } => self.in_string(byte, is_key),
            Expect::Escape { is_key } => {
                self.expect = match byte {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Expect::String { is_key },
                    b'u' => Expect::Hex { is_key, left: 4 },
                    _ => return Err(not_json("it has an unknown escape")),
                };
                Ok(())
            }
            Expect::Hex { is_key, left } => {
                if !byte.is_ascii_hexdigit() {
                    return Err(not_json("it has a broken `\\u` escape"));
                }
                self.expect = if left == 1 {
                    Expect::String { is_key }
                } else {
                    Expect::Hex { is_key, left: left - 1 }
                };
                Ok(())
            }
            Expect::Literal { rest } => {
                if rest.first() != Some(&byte) {
                    return Err(not_json("it has an unknown word"));
                }
                self.expect =
                    if rest.len() == 1 { Expect::CommaOrEnd } else { Expect::Literal { rest: &rest[1..] } };
                Ok(())
            }
            Expect::Number(number) => match number.next(byte) {
                Some(next) => {
                    self.expect = Expect::Number(next);
                    Ok(())
                }
                None if number.may_end() => {
                    self.expect = Expect::CommaOrEnd;
                    self.between(byte)
                }
                None => Err(not_json("it has a broken number")),
            },
            _ => self.between(byte),
        }
    }

    fn in_string(&mut self, byte: u8, is_key: bool) -> Result<(), Refusal> {
        match byte {
            b'"' => {
                if is_key && self.open.len() == 1 && self.key_matched != KEY.len() {
                    self.shape = Shape::Plain;
                }
                self.expect = if is_key { Expect::Colon } else { Expect::CommaOrEnd };
            }
            b'\\' => {
                // An escaped spelling of the key is left to the tool's own parser.
                self.key_matched = usize::MAX;
                self.expect = Expect::Escape { is_key };
            }
            0..0x20 => return Err(not_json("it has a control character in a string")),
            _ if is_key && self.open.len() == 1 => {
                self.key_matched = match KEY.get(self.key_matched) {
                    Some(expected) if *expected == byte => self.key_matched + 1,
                    _ => usize::MAX,
                };
                if self.key_matched == usize::MAX {
                    self.shape = Shape::Plain;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Between tokens: white space, punctuation, or the first byte of a value.
    fn between(&mut self, byte: u8) -> Result<(), Refusal> {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            return Ok(());
        }
        match (self.expect, byte) {
            (Expect::FirstKeyOrEnd, b'}') => self.close(true),
            (Expect::FirstKeyOrEnd | Expect::Key, b'"') => {
                if self.open.len() == 1 && self.expect == Expect::Key {
                    // A second key beside `arguments`.
                    self.shape = Shape::Plain;
                }
                self.key_matched = 0;
                self.expect = Expect::String { is_key: true };
                Ok(())
            }
            (Expect::Colon, b':') => {
                self.expect = Expect::Value;
                Ok(())
            }
            (Expect::FirstValueOrEnd, b']') => self.close(false),
            (Expect::Value | Expect::FirstValueOrEnd, _) => self.value(byte),
            (Expect::CommaOrEnd, b',') => {
                self.expect = match self.open.last() {
                    Some(true) => Expect::Key,
                    Some(false) => Expect::Value,
                    None => return Err(not_json("something follows its end")),
                };
                Ok(())
            }
            (Expect::CommaOrEnd, b'}') => self.close(true),
            (Expect::CommaOrEnd, b']') => self.close(false),
            _ => Err(not_json("a character stands where none may")),
        }
    }

    fn value(&mut self, byte: u8) -> Result<(), Refusal> {
        match self.open.len() {
            0 if byte != b'{' => self.shape = Shape::Plain,
            1 if byte != b'{' => self.shape = Shape::Plain,
            1 => self.inner = self.offset..0,
            _ => {}
        }
        self.expect = match byte {
            b'{' | b'[' => {
                if self.open.len() == DEEPEST {
                    return Err(not_json("it is nested too deeply"));
                }
                self.open.push(byte == b'{');
                if byte == b'{' { Expect::FirstKeyOrEnd } else { Expect::FirstValueOrEnd }
            }
            b'"' => Expect::String { is_key: false },
            b't' => Expect::Literal { rest: b"rue" },
            b'f' => Expect::Literal { rest: b"alse" },
            b'n' => Expect::Literal { rest: b"ull" },
            b'-' => Expect::Number(Number::Minus),
            b'0' => Expect::Number(Number::Zero),
            b'1'..=b'9' => Expect::Number(Number::Integer),
            _ => return Err(not_json("a character stands where a value must")),
        };
        Ok(())
    }

    fn close(&mut self, is_object: bool) -> Result<(), Refusal> {
        if self.open.pop() != Some(is_object) {
            return Err(not_json("its brackets do not match"));
        }
        if self.open.len() == 1 && self.inner.end == 0 {
            self.inner.end = self.offset + 1;
        }
        if self.open.is_empty() && self.inner.end == 0 {
            // `{}`: no key at all.
            self.shape = Shape::Plain;
        }
        self.expect = Expect::CommaOrEnd;
        Ok(())
    }
}

fn not_json(cause: &'static str) -> Refusal {
    Refusal::new(Code::BodyNotJson, "the body is not JSON").because(cause)
}

fn not_utf8() -> Refusal {
    Refusal::new(Code::BodyEncoded, "the body must be JSON in UTF-8")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peek(body: &[u8], chunk: usize) -> Result<Whole, Code> {
        let mut peek = Peek::new(true);
        for piece in body.chunks(chunk.max(1)) {
            peek.feed(piece).map_err(|refusal| refusal.code())?;
        }
        peek.finish().map_err(|refusal| refusal.code())
    }

    #[track_caller]
    fn check(body: &str, expected: Result<Whole, Code>) {
        for chunk in [1, 2, 7, body.len().max(1)] {
            assert_eq!(peek(body.as_bytes(), chunk), expected, "{body:?} in chunks of {chunk}");
        }
    }

    #[test]
    fn only_a_sole_key_arguments_with_an_object_is_wrapped() {
        check(r#"{"arguments":{"a":1}}"#, Ok(Whole::Wrapped(13..20)));
        check(r#" { "arguments" : {} } "#, Ok(Whole::Wrapped(17..19)));
        check(r#"{"arguments":{"arguments":{"x":[{}]}}}"#, Ok(Whole::Wrapped(13..37)));
        for plain in [
            "{}",
            r#"{"a":1}"#,
            r#"{"arguments":[]}"#,
            r#"{"arguments":null}"#,
            r#"{"arguments":{},"b":1}"#,
            r#"{"b":1,"arguments":{}}"#,
            r#"{"arguments":{},"arguments":{}}"#,
            r#"{"\u0061rguments":{}}"#,
            r#"{"argument":{}}"#,
            r#"{"argumentsx":{}}"#,
            r#"[{"arguments":{}}]"#,
            "42",
            "-1.5e+3",
            "null",
            r#""text""#,
            "[1,2]",
            "[]",
            r#"{"a":{"arguments":{}}}"#,
            r#"{"":{}}"#,
        ] {
            check(plain, Ok(Whole::Plain));
        }
        check("", Ok(Whole::Empty));
        check(" \n", Ok(Whole::Empty));
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for bad in [
            "{",
            "}",
            "{]",
            "[}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "[1,]",
            "{a:1}",
            "{'a':1}",
            "nul",
            "nulll",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"a",
            "\"\n\"",
            "{} {}",
            "1 2",
            "NaN",
            "{\"arguments\":{}",
            "\u{feff}{}",
            "hello",
            "a=1&b=2",
            "{\"a\":1}}",
        ] {
            check(bad, Err(Code::BodyNotJson));
        }
        assert_eq!(peek(b"\"\xff\"", 9), Err(Code::BodyEncoded));
        assert_eq!(peek(b"\"\xc3", 1), Err(Code::BodyEncoded));
        assert_eq!(peek("\"é\"".as_bytes(), 1), Ok(Whole::Plain));
        assert_eq!(peek(&b"[".repeat(600), 64), Err(Code::BodyNotJson));
    }

    #[test]
    fn a_tool_with_an_argument_of_that_name_gets_the_body_as_it_is() {
        let mut peek = Peek::new(false);
        peek.feed(br#"{"arguments":{}}"#).unwrap();
        assert_eq!(peek.finish().unwrap(), Whole::Plain);
    }

    #[test]
    fn a_long_plain_body_is_read_no_further_than_the_peek() {
        let mut peek = Peek::new(true);
        peek.feed(b"{\"a\":\"").unwrap();
        peek.feed(&vec![b'x'; PEEK_BYTES]).unwrap();
        assert_eq!(peek.feed(b"\x00\xff not json at all").unwrap(), Shape::Plain);
        assert_eq!(peek.finish().unwrap(), Whole::Plain);
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map("(arguments|.{0,4})", inner, 0..3)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn all_json_is_taken_and_wrapping_is_undone_byte_for_byte(value in json(), chunk in 1usize..9) {
            let body = serde_json::to_vec(&value).unwrap();
            let whole = peek(&body, chunk).unwrap();
            let sole = value.as_object().filter(|map| map.len() == 1).and_then(|map| map.get("arguments"));
            match whole {
                Whole::Wrapped(range) => {
                    // As bytes: a number that is read and compared may differ in its last digit.
                    let inner = sole.map(|inner| serde_json::to_vec(inner).unwrap());
                    prop_assert_eq!(Some(&body[range]), inner.as_deref());
                }
                Whole::Plain | Whole::Empty => prop_assert!(!sole.is_some_and(serde_json::Value::is_object)),
            }
        }

        #[test]
        fn any_bytes_are_judged_as_serde_json_judges_them(body in prop::collection::vec(any::<u8>(), 0..40), chunk in 1usize..9) {
            let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok() && std::str::from_utf8(&body).is_ok();
            let is_blank = body.iter().all(|b| b" \t\r\n".contains(b));
            prop_assert_eq!(peek(&body, chunk).is_ok(), is_json || is_blank);
        }

        #[test]
        fn near_json_is_judged_as_serde_json_judges_it(body in "[\\[\\]{}:,\"0-9eE.+tfn a\\\\u-]{0,24}", chunk in 1usize..9) {
            let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&body).is_ok();
            let is_blank = body.trim().is_empty();
            prop_assert_eq!(peek(body.as_bytes(), chunk).is_ok(), is_json || is_blank, "{}", body);
        }
    }
}
