//! `tracestate` (W3C Trace Context) and `baggage` (W3C Baggage): what others add to a trace, passed on as it came.
//!
//! Decides what is well-formed and how much of it goes on. Never adds a member, and never looks at what one says.

/// Most members of a `tracestate`.
const MOST_STATES: usize = 32;
/// What is passed on of a `tracestate`: everybody has to pass on as much, and nobody more.
const STATE_BYTES: usize = 512;
/// Members longer than this go first.
const LONG_STATE: usize = 128;
/// Most of a baggage (W3C Baggage, Limits).
const BAGGAGE_BYTES: usize = 8192;
const MOST_BAGGAGE: usize = 64;

/// The members of a `tracestate`, as far as they are passed on; none where any is malformed or stands twice.
pub fn tracestate(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let mut members: Vec<(&str, &str)> = Vec::new();
    for member in text.split(',').map(|member| member.trim_matches([' ', '\t'])) {
        if member.is_empty() {
            continue;
        }
        let (key, value) = member.split_once('=')?;
        let is_new = members.iter().all(|(known, _)| *known != key);
        if !is_key(key) || !is_value(value) || !is_new || members.len() == MOST_STATES {
            return None;
        }
        members.push((key, member));
    }
    let mut members: Vec<&str> = members.into_iter().map(|(_, member)| member).collect();
    let length = |members: &[&str]| members.iter().map(|member| member.len() + 1).sum::<usize>();
    while length(&members) > STATE_BYTES + 1 {
        // Whole members go, long ones first, else from the end: the last was added first.
        let last = members.iter().rposition(|member| member.len() > LONG_STATE);
        members.remove(last.unwrap_or(members.len() - 1));
    }
    (!members.is_empty()).then(|| members.join(","))
}

fn is_key(key: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    key.len() <= 256
        && key.bytes().next().is_some_and(is_plain)
        && key.bytes().all(|byte| is_plain(byte) || b"_-*/@".contains(&byte))
}

fn is_value(value: &str) -> bool {
    (1..=256).contains(&value.len())
        && value.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=')
}

/// A `baggage` that is well-formed; none where it is not, or is empty.
pub fn baggage(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= BAGGAGE_BYTES)?;
    let (mut count, is_good) = text.split(',').fold((0, true), |(count, is_good), member| {
        (count + 1, is_good && is_entry(member.trim_matches([' ', '\t'])))
    });
    if text.trim_matches([' ', '\t']).is_empty() {
        count = 0;
    }
    ((1..=MOST_BAGGAGE).contains(&count) && is_good).then_some(text)
}

/// `key=value`, then perhaps properties behind semicolons.
fn is_entry(member: &str) -> bool {
    let mut parts = member.split(';').map(|part| part.trim_matches([' ', '\t']));
    let entry = parts.next().and_then(|part| part.split_once('='));
    let is_pair = |(key, value): (&str, &str)| {
        is_token(key.trim_end_matches([' ', '\t'])) && is_octets(value.trim_start_matches([' ', '\t']))
    };
    entry.is_some_and(is_pair)
        && parts.all(|part| part.split_once('=').map_or_else(|| is_token(part), is_pair))
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn is_octets(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\",;\\".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(tracestate(text.as_bytes()).as_deref(), expected, "{text}");
    }

    #[test]
    fn a_state_is_passed_on_without_its_blanks() {
        check("", None);
        check(" , ,", None);
        check("a=1", Some("a=1"));
        check(
            "rojo=00f067aa0ba902b7, congo=t61rcWkgMzE\t,,",
            Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        );
        check("0a_-*/x@vendor=a b", Some("0a_-*/x@vendor=a b"));
        let longest = format!("{}=1", "k".repeat(256));
        check(&longest, Some(&longest));
        let few = (0..32).map(|at| format!("k{at}=v")).collect::<Vec<_>>().join(",");
        check(&few, Some(&few));
    }

    #[test]
    fn a_state_with_a_malformed_member_is_none() {
        let many = (0..33).map(|at| format!("k{at}=v")).collect::<Vec<_>>().join(",");
        for text in [
            "a", "a=", "=1", "A=1", "a=1,a=2", "a=1=2", "a b=1", "a=\u{e9}", "a=1,b", "@a=1", "a=\x7f", &many,
        ] {
            check(text, None);
        }
        assert_eq!(tracestate(b"a=\xff"), None);
        check(&format!("{}=1", "k".repeat(257)), None);
        check(&format!("a={}", "v".repeat(257)), None);
    }

    #[test]
    fn of_a_state_that_is_too_long_whole_members_go() {
        let long = format!("long={}", "v".repeat(200));
        let some = (0..10).map(|at| format!("k{at}={}", "v".repeat(40))).collect::<Vec<_>>();
        let text = format!("{},{long},{}", some[..5].join(","), some[5..].join(","));
        check(&text, Some(&some.join(",")));
        let more = (0..20).map(|at| format!("k{at:02}={}", "v".repeat(40))).collect::<Vec<_>>();
        check(&more.join(","), Some(&more[..11].join(",")));
    }

    #[test]
    fn baggage_is_passed_on_as_it_came_or_not_at_all() {
        for good in ["k=v", "a=1, b=2;p;q=3 , c=%20", "a=", "a = b", "userId=alice,serverNode=DF%2028"] {
            assert_eq!(baggage(good.as_bytes()), Some(good));
        }
        let large = format!("k={}", "v".repeat(BAGGAGE_BYTES));
        let many = vec!["k=v"; 65].join(",");
        for bad in
            ["", " ", "k", "=v", "k=v,", "k=\"v\"", "k=a b", "k=v;", "k=\u{e9}", "a b=c", &large, &many]
        {
            assert_eq!(baggage(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_state_within_bounds_that_reads_the_same_again_or_none(
            text in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..200),
                proptest::collection::vec("[a-z0-9][a-z0-9_*/@-]{0,20}=[ -~]{0,200}", 0..40)
                    .prop_map(|members| members.join(" , ").into_bytes()),
            ],
        ) {
            let Some(state) = tracestate(&text) else { return Ok(()) };
            prop_assert!(state.len() <= STATE_BYTES && state.split(',').count() <= MOST_STATES);
            prop_assert!(http::HeaderValue::from_str(&state).is_ok());
            let again = tracestate(state.as_bytes());
            prop_assert_eq!(again.as_deref(), Some(&*state));
        }

        #[test]
        fn any_bytes_are_baggage_for_a_header_or_none(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            let Some(baggage) = baggage(&text) else { return Ok(()) };
            prop_assert_eq!(baggage.as_bytes(), &text);
            prop_assert!(http::HeaderValue::from_str(baggage).is_ok());
        }
    }
}
