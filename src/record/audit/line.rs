//! A line of the journal: an entry with a number of its own, and a checksum over both.
//!
//! Decides when a line is whole. One that was torn by the end of the process, or changed by a bad disk, is none. An entry is
//! not read again but for its time: it goes into the database as the text that it is.

use std::borrow::Cow;

use serde::Deserialize;
use uuid::Uuid;

use super::{super::entry::Entry, row::sound};

/// Digits of the checksum, and the space behind them.
const CHECKED_FROM: usize = 9;
const ID: usize = 32;

/// An entry as it was written down.
#[derive(Debug, PartialEq)]
pub struct Written<'a> {
    /// What no client can choose and no other entry has.
    pub id: Uuid,
    /// When it ended, in microseconds since 1970.
    pub at_micros: i64,
    /// What was written: a JSON object with the names of [`Entry`], sound enough for a database.
    pub entry: Cow<'a, str>,
}

/// What is read of an entry.
#[derive(Deserialize)]
struct Timed {
    at_micros: i64,
}

/// `CHECKSUM ID JSON` and a line break, in place of what stands in `line`.
pub fn write(line: &mut Vec<u8>, id: Uuid, entry: &Entry<'_>) {
    line.clear();
    line.extend_from_slice(b"00000000 ");
    let mut digits = [0; ID];
    line.extend_from_slice(id.as_simple().encode_lower(&mut digits).as_bytes());
    line.push(b' ');
    serde_json::to_writer(&mut *line, entry)
        .expect("an entry is texts and numbers, and a vector takes them all");
    let checksum = crc32fast::hash(&line[CHECKED_FROM..]);
    for (at, digit) in line[..CHECKED_FROM - 1].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(checksum >> (28 - 4 * at)) as usize & 0xf];
    }
    line.push(b'\n');
}

/// What a line says, without its line break; none where it is not as it was written.
pub fn parse(line: &[u8]) -> Option<Written<'_>> {
    let (id, json) = parts(line)?;
    // An object whose first member stands at once behind its brace: others are put before it.
    let json = std::str::from_utf8(json).ok().filter(|json| json.starts_with("{\""))?;
    let Timed { at_micros } = serde_json::from_str(json).ok()?;
    Some(Written { id, at_micros, entry: sound(json)? })
}

/// The number of a whole line's entry.
pub fn id(line: &[u8]) -> Option<Uuid> {
    parts(line).map(|(id, _)| id)
}

/// Number and text of an entry, where the checksum is right.
fn parts(line: &[u8]) -> Option<(Uuid, &[u8])> {
    let (checksum, checked) = line.split_at_checked(CHECKED_FROM)?;
    let digits = std::str::from_utf8(checksum.strip_suffix(b" ")?).ok()?;
    // No sign, no capital letter: one way to write each.
    let is_plain = digits.bytes().all(|digit| digit.is_ascii_digit() || matches!(digit, b'a'..=b'f'));
    if !is_plain || u32::from_str_radix(digits, 16) != Ok(crc32fast::hash(checked)) {
        return None;
    }
    let (id, json) = checked.split_at_checked(ID)?;
    Some((Uuid::try_parse_ascii(id).ok()?, json.strip_prefix(b" ")?))
}

/// The lines that end in `bytes`, and how many bytes they are.
pub fn whole_lines(bytes: &[u8]) -> (impl Iterator<Item = &[u8]>, usize) {
    let end = memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1);
    (bytes[..end].split_inclusive(|byte| *byte == b'\n').map(|line| &line[..line.len() - 1]), end)
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::record::entry::Shown;

    /// An entry with something in every field, made from one text.
    pub fn entry(text: &String) -> Entry<'_> {
        let own = Some(text.as_str());
        let shown = Some(Shown(text));
        Entry {
            at_micros: 1_796_083_199_123_456,
            request_id: text,
            call: 1,
            caller: own,
            email: own,
            directory: shown,
            scheme: own,
            grant: shown,
            tenant: own,
            method: "POST",
            endpoint: text,
            route: "call",
            rpc_method: own,
            server: own,
            tool: own,
            outcome: "tool_answered",
            code: own,
            reason: own,
            status: 200,
            gateway_micros: 1_500,
            upstream_micros: 2_500,
            request_bytes: 2,
            response_bytes: 3,
            retries: 1,
            client: Some([127, 0, 0, 1].into()),
            user_agent: own,
            argument_digest: shown,
            arguments: own,
            trace_id: shown,
        }
    }

    /// The line of an entry.
    pub fn line(id: Uuid, entry: &Entry<'_>) -> Vec<u8> {
        let mut line = b"what stood there before".to_vec();
        write(&mut line, id, entry);
        line
    }

    type Read = (Uuid, i64, Value);

    /// What the database is told of it, as a value.
    fn value(written: &Written<'_>) -> Read {
        (written.id, written.at_micros, serde_json::from_str(&written.entry).unwrap())
    }

    fn lines(texts: &[String]) -> (Vec<u8>, Vec<Read>) {
        let entries: Vec<_> = texts.iter().map(|text| (Uuid::now_v7(), entry(text))).collect();
        let bytes = entries.iter().flat_map(|(id, entry)| line(*id, entry)).collect();
        let value = |(id, entry): &(Uuid, Entry<'_>)| {
            let mut json = serde_json::to_value(entry).unwrap();
            for text in json.as_object_mut().unwrap().values_mut() {
                *text =
                    text.as_str().map_or_else(|| text.clone(), |text| text.replace('\0', "\u{fffd}").into());
            }
            (*id, entry.at_micros, json)
        };
        (bytes, entries.iter().map(value).collect())
    }

    fn read(bytes: &[u8]) -> Vec<Option<Read>> {
        whole_lines(bytes).0.map(|line| parse(line).as_ref().map(value)).collect()
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

    /// As the program before this one left it, which wrote down what there was none of.
    const EARLIER: &str = concat!(
        r#"CHECKSUM 01a205b7c0de7000800000000000abcd {"at_micros":1796083199123456,"request_id":"r","call":0,"#,
        r#""caller":null,"email":null,"directory":null,"scheme":null,"grant":null,"tenant":null,"method":"GET","#,
        r#""endpoint":"/x","route":"call","rpc_method":null,"server":null,"tool":null,"outcome":"refused","#,
        r#""code":"unauthorized","reason":null,"status":401,"gateway_micros":12,"upstream_micros":0,"#,
        r#""request_bytes":0,"response_bytes":9,"retries":0,"client":"::1","user_agent":null,"#,
        r#""argument_digest":null,"arguments":null,"trace_id":null}"#
    );

    /// Its line, with its line break.
    pub fn earlier() -> String {
        let checksum = format!("{:08x}", crc32fast::hash(&EARLIER.as_bytes()[CHECKED_FROM..]));
        EARLIER.replace("CHECKSUM", &checksum) + "\n"
    }

    #[test]
    fn a_line_of_the_program_before_this_one_is_read() {
        let line = earlier();
        let written = parse(line.trim_end().as_bytes()).unwrap();
        assert_eq!(written.id, Uuid::from_u128(0x01a2_05b7_c0de_7000_8000_0000_0000_abcd));
        assert_eq!((written.at_micros, written.entry.as_ref()), (1_796_083_199_123_456, &EARLIER[42..]));
    }

    /// What that program reads of an entry: it refuses a line without one of the first, and takes `None` for the others.
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "that it is read is what counts")]
    struct Before {
        at_micros: i64,
        request_id: String,
        call: u32,
        method: String,
        endpoint: String,
        route: String,
        outcome: String,
        status: u16,
        gateway_micros: u64,
        upstream_micros: u64,
        request_bytes: u64,
        response_bytes: u64,
        retries: u32,
        caller: Option<String>,
        grant: Option<String>,
        client: Option<std::net::IpAddr>,
    }

    #[test]
    fn the_program_before_this_one_reads_our_lines_which_leave_out_what_there_is_none_of() {
        let text = "t".to_owned();
        let full = entry(&text);
        let bare = Entry { caller: None, grant: None, client: None, arguments: None, ..full };
        for (entry, members) in [(full, 29), (bare, 25)] {
            let line = line(Uuid::now_v7(), &entry);
            let (_, json) = parts(line.strip_suffix(b"\n").unwrap()).unwrap();
            serde_json::from_slice::<Before>(json).unwrap();
            let members_of = serde_json::from_slice::<serde_json::Map<String, Value>>(json).unwrap().len();
            assert_eq!(members_of, members);
        }
    }

    #[test]
    fn what_is_no_object_is_no_entry_even_with_a_right_checksum() {
        let of = |json: &str| {
            let checked = format!("{:032x} {json}", 7);
            format!("{:08x} {checked}", crc32fast::hash(checked.as_bytes())).into_bytes()
        };
        assert_eq!(value(&parse(&of(r#"{"at_micros":1}"#)).unwrap()).2, json!({"at_micros": 1}));
        for json in
            [r#"[1]"#, r#" {"at_micros":1}"#, r#"{"at_micros":1"#, r#"{"at_micros":1}}"#, "{}", "1", ""]
        {
            assert_eq!(parse(&of(json)), None, "{json}");
        }
    }
}
