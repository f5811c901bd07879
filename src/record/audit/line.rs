//! A line of the journal: an entry with a number of its own, and a checksum over both.
//!
//! Decides when a line is whole. One that was torn by the end of the process, or changed by a bad disk, is none.

use uuid::Uuid;

use super::super::entry::Entry;

/// Digits of the checksum, and the space behind them.
const CHECKED_FROM: usize = 9;
const ID: usize = 32;

/// An entry as it was written down.
#[derive(Debug, PartialEq)]
pub struct Written {
    /// What no client can choose and no other entry has.
    pub id: Uuid,
    /// What was written.
    pub entry: Entry<'static>,
}

/// `CHECKSUM ID JSON` and a line break.
pub fn line(id: Uuid, entry: &Entry<'_>) -> Vec<u8> {
    let mut line = Vec::with_capacity(1024);
    line.extend_from_slice(b"00000000 ");
    let mut digits = [0; ID];
    line.extend_from_slice(id.as_simple().encode_lower(&mut digits).as_bytes());
    line.push(b' ');
    serde_json::to_writer(&mut line, entry)
        .expect("an entry is texts and numbers, and a vector takes them all");
    let checksum = crc32fast::hash(&line[CHECKED_FROM..]);
    for (at, digit) in line[..CHECKED_FROM - 1].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(checksum >> (28 - 4 * at)) as usize & 0xf];
    }
    line.push(b'\n');
    line
}

/// What a line says, without its line break; none where it is not as it was written.
pub fn parse(line: &[u8]) -> Option<Written> {
    let (checksum, checked) = line.split_at_checked(CHECKED_FROM)?;
    let digits = std::str::from_utf8(checksum.strip_suffix(b" ")?).ok()?;
    // No sign, no capital letter: one way to write each.
    let is_plain = digits.bytes().all(|digit| digit.is_ascii_digit() || matches!(digit, b'a'..=b'f'));
    if !is_plain || u32::from_str_radix(digits, 16) != Ok(crc32fast::hash(checked)) {
        return None;
    }
    let (id, json) = checked.split_at_checked(ID)?;
    let id = Uuid::try_parse_ascii(id).ok()?;
    Some(Written { id, entry: serde_json::from_slice(json.strip_prefix(b" ")?).ok()? })
}

/// The lines that end in `bytes`, and how many bytes they are.
pub fn whole_lines(bytes: &[u8]) -> (impl Iterator<Item = &[u8]>, usize) {
    let end = memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1);
    (bytes[..end].split_inclusive(|byte| *byte == b'\n').map(|line| &line[..line.len() - 1]), end)
}

#[cfg(test)]
pub mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;

    /// An entry with something in every field, made from one text.
    pub fn entry(text: &str) -> Entry<'static> {
        let own = || Some(Cow::Owned(text.to_owned()));
        Entry {
            at_micros: 1_796_083_199_123_456,
            request_id: text.to_owned().into(),
            call: 1,
            caller: own(),
            email: own(),
            directory: Some(text.to_owned()),
            scheme: own(),
            grant: Some(text.to_owned()),
            tenant: own(),
            method: "POST".into(),
            endpoint: text.to_owned().into(),
            route: "call".into(),
            rpc_method: own(),
            server: own(),
            tool: own(),
            outcome: "tool_answered".into(),
            code: own(),
            reason: own(),
            status: 200,
            gateway_micros: 1_500,
            upstream_micros: 2_500,
            request_bytes: 2,
            response_bytes: 3,
            retries: 1,
            client: Some([127, 0, 0, 1].into()),
            user_agent: own(),
            argument_digest: Some(text.to_owned()),
            arguments: own(),
            trace_id: own(),
        }
    }

    fn lines(texts: &[String]) -> (Vec<u8>, Vec<Written>) {
        let written: Vec<_> =
            texts.iter().map(|text| Written { id: Uuid::now_v7(), entry: entry(text) }).collect();
        (written.iter().flat_map(|written| line(written.id, &written.entry)).collect(), written)
    }

    fn read(bytes: &[u8]) -> Vec<Option<Written>> {
        whole_lines(bytes).0.map(parse).collect()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_whatever_stands_in_it(texts in prop::collection::vec(any::<String>(), 0..4)) {
            let (bytes, written) = lines(&texts);
            prop_assert_eq!(read(&bytes).into_iter().map(Option::unwrap).collect::<Vec<_>>(), written);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(read(&bytes).iter().all(Option::is_none));
        }

        #[test]
        fn a_bit_that_flipped_costs_its_line_and_the_next_at_most(
            at in 0_usize..100_000, bit in 0_u8..8, texts in prop::collection::vec("[a-z\n\"]{0,9}", 3..4),
        ) {
            let (mut bytes, written) = lines(&texts);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let left: Vec<_> = read(&bytes).into_iter().flatten().collect();
            prop_assert!(left.len() < 3 && left.len() + 2 >= written.len(), "{} of 3", left.len());
            prop_assert!(left.iter().all(|one| written.contains(one)));
        }
    }

    #[test]
    fn a_line_cut_at_any_byte_is_none_and_those_before_it_stay() {
        let (bytes, written) = lines(&["one".to_owned(), "two".to_owned()]);
        let first = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for cut in 0..bytes.len() {
            let left = read(&bytes[..cut]);
            assert_eq!(left.len(), usize::from(cut >= first), "cut at {cut}");
            assert!(left.iter().all(|line| line.as_ref() == Some(&written[0])), "cut at {cut}");
            // What was cut, in the middle of a file: still none, even where it ends at the brace.
            assert!(
                parse(&bytes[first..][..cut.saturating_sub(first)]).is_none_or(|_| cut == bytes.len() - 1)
            );
        }
    }
}
