//! `traceparent` as W3C Trace Context has it: which trace a request belongs to, and whose child it is.
//!
//! Decides what is one (level 1, with level 2's flag): exact lengths, lower-case digits, no id of zeros, no version
//! `ff`. A version that is not known yet is read as far as this one goes.

use std::fmt::{self, Write};

use http::HeaderMap;

use super::state::{self, tracestate};

/// A `traceparent` of version 00.
pub const LENGTH: usize = 55;
/// The request is traced by whom it comes from.
const SAMPLED: u8 = 1;
/// The id of the trace is random (level 2).
const RANDOM: u8 = 2;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// An id of these bytes; none of zeros, which stands for no id.
            pub fn new(bytes: [u8; $bytes]) -> Option<Self> {
                (bytes != [0; $bytes]).then_some(Self(bytes))
            }

            /// The id's bytes.
            pub fn bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            fn parse(text: &[u8]) -> Option<Self> {
                let mut bytes = [0; $bytes];
                if text.len() != 2 * bytes.len() {
                    return None;
                }
                for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
                    *byte = octet(pair)?;
                }
                Self::new(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    };
}

id!(
    /// Of one trace.
    TraceId,
    16
);
id!(
    /// Of one span in a trace.
    SpanId,
    8
);

/// Which trace, who in it asks, and whether that one is traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// Who asks.
    pub span: SpanId,
    /// Whether who asks is traced.
    pub is_sampled: bool,
    /// Whether the trace's id is said to be random.
    pub is_random: bool,
}

impl Context {
    /// Reads a `traceparent`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let fields = text.get(..LENGTH)?;
        let version = octet(&fields[..2])?;
        let is_whole = match version {
            0 => text.len() == LENGTH,
            0xff => false,
            // Whatever a later version adds stands behind another dash.
            _ => text.len() == LENGTH || text[LENGTH] == b'-',
        };
        if !is_whole || fields[2] != b'-' || fields[35] != b'-' || fields[52] != b'-' {
            return None;
        }
        let flags = octet(&fields[53..])?;
        Some(Self {
            trace: TraceId::parse(&fields[3..35])?,
            span: SpanId::parse(&fields[36..52])?,
            is_sampled: flags & SAMPLED != 0,
            // A flag of version 00; what a later version means by the bit is not known.
            is_random: version == 0 && flags & RANDOM != 0,
        })
    }

    /// The flags.
    pub fn flags(&self) -> u8 {
        u8::from(self.is_sampled) * SAMPLED + u8::from(self.is_random) * RANDOM
    }

    /// As it is written.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(LENGTH);
        // Writing to a string cannot fail.
        let _ = write!(text, "00-{}-{}-{:02x}", self.trace, self.span, self.flags());
        text
    }
}

/// What a client says of the trace it is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carried {
    /// Which trace, and who asks.
    pub context: Option<Context>,
    /// `tracestate`, where there is a context for it.
    pub state: Option<String>,
    /// `baggage`.
    pub baggage: Option<String>,
}

impl Carried {
    /// What headers say.
    pub fn of_headers(headers: &HeaderMap) -> Self {
        let mut parents = headers.get_all("traceparent").iter();
        let parent = match (parents.next(), parents.next()) {
            (Some(parent), None) => Some(parent.as_bytes()),
            // Two are none: nobody knows which one is meant.
            (Some(_), Some(_)) | (None, _) => None,
        };
        Self::read(parent, &joined(headers, "tracestate"), &joined(headers, "baggage"))
    }

    /// What these texts say.
    pub fn read(parent: Option<&[u8]>, state: &[u8], baggage: &[u8]) -> Self {
        let context = parent.and_then(Context::parse);
        let state = context.and_then(|_| tracestate(state));
        Self { context, state, baggage: state::baggage(baggage).map(str::to_owned) }
    }
}

/// The values of a header that is a list, as one.
fn joined(headers: &HeaderMap, name: &str) -> Vec<u8> {
    let values: Vec<&[u8]> = headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
    values.join(&b","[..])
}

/// Two hexadecimal digits, in lower case.
fn octet(pair: &[u8]) -> Option<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let read = Context::parse(text.as_bytes()).map(|context| context.text());
        assert_eq!(read.as_deref(), expected, "{text}");
    }

    #[test]
    fn a_parent_is_read_as_it_is_written() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        check(&good, Some(&good));
        check(&format!("00-{TRACE}-{SPAN}-00"), Some(&format!("00-{TRACE}-{SPAN}-00")));
        check(&format!("00-{TRACE}-{SPAN}-03"), Some(&format!("00-{TRACE}-{SPAN}-03")));
        // Flags that mean nothing yet are not passed on.
        check(&format!("00-{TRACE}-{SPAN}-ff"), Some(&format!("00-{TRACE}-{SPAN}-03")));
        // A later version, with and without more behind it.
        check(&format!("cc-{TRACE}-{SPAN}-01"), Some(&good));
        check(&format!("cc-{TRACE}-{SPAN}-01-what"), Some(&good));
        check(&format!("cc-{TRACE}-{SPAN}-03-"), Some(&good));
    }

    #[test]
    fn what_is_not_exactly_a_parent_is_none() {
        let zeros = ["0".repeat(32), "0".repeat(16)];
        for text in [
            String::new(),
            "00".to_owned(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-0x"),
            format!("00-{}-{SPAN}-01", zeros[0]),
            format!("00-{TRACE}-{}-01", zeros[1]),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
            format!("00_{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}_{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}_01"),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01 "),
            format!("cc-{TRACE}-{SPAN}-01.what"),
            format!("0é-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-01x"),
        ] {
            check(&text, None);
        }
    }

    #[test]
    fn two_parents_are_none_and_take_their_state_with_them() {
        let headers = |parents: &[&str]| {
            let mut headers = HeaderMap::new();
            for parent in parents {
                headers.append("traceparent", parent.parse().unwrap());
            }
            headers.append("tracestate", "a=1".parse().unwrap());
            headers.append("tracestate", "b=2".parse().unwrap());
            headers.append("baggage", "k=v".parse().unwrap());
            Carried::of_headers(&headers)
        };
        let good = format!("00-{TRACE}-{SPAN}-01");
        let one = headers(&[&good]);
        assert_eq!(one.context.unwrap().text(), good);
        assert_eq!((one.state.as_deref(), one.baggage.as_deref()), (Some("a=1,b=2"), Some("k=v")));
        for parents in [&[][..], &[&*good, &*good], &["00-nonsense"]] {
            let none = headers(parents);
            assert_eq!((none.context, none.state), (None, None), "{parents:?}");
            assert_eq!(none.baggage.as_deref(), Some("k=v"));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_parent_that_reads_the_same_again_or_none(
            text in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..80),
                "[0-9a-fA-F]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.{0,9})?".prop_map(String::into_bytes),
            ],
        ) {
            let Some(context) = Context::parse(&text) else { return Ok(()) };
            let written = context.text();
            prop_assert_eq!(written.len(), LENGTH);
            prop_assert!(text.starts_with(&written.as_bytes()[2..53]) || text[2..53] == written.as_bytes()[2..53]);
            let again = Context::parse(written.as_bytes());
            prop_assert_eq!(again, Some(context));
            prop_assert!(context.trace.bytes() != &[0; 16] && context.span.bytes() != &[0; 8]);
        }
    }
}
