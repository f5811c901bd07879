//! What a failure in REST says to a person.
//!
//! Decides which words of a body are the tool's. Knows the shapes of FastAPI and of mcpo, which wraps the words of a
//! tool twice, the inner time as Python writes a dictionary. Never decides whose failure it is.

use crate::mcp::members::{Members, items, text};

/// The words of a body that is an object of a known shape.
fn of_body(body: &str) -> Option<String> {
    let members = Members::read(body)?;
    if let Some(detail) = members.get("detail") {
        return of_detail(detail).or_else(|| Some(detail.to_owned()));
    }
    let error = members.get("error").or_else(|| members.get("message"))?;
    worded(error).or_else(|| worded(Members::read(error)?.get("message")?))
}

/// What a body says, or else its status.
pub(super) fn words(status: u16, body: &[u8]) -> String {
    let readable = String::from_utf8_lossy(body);
    let plain = readable.trim();
    if plain.is_empty() {
        return format!("the tool failed with status {status}");
    }
    of_body(plain).unwrap_or_else(|| plain.to_owned())
}

fn worded(raw: &str) -> Option<String> {
    text(raw).map(std::borrow::Cow::into_owned)
}

fn of_detail(detail: &str) -> Option<String> {
    if let Some(faults) = items(detail) {
        let faults: Vec<String> = faults.into_iter().map(of_fault).collect::<Option<_>>()?;
        return Some(faults.join("\n"));
    }
    let Some(members) = Members::read(detail) else { return worded(detail) };
    let message = worded(members.get("message")?)?;
    match members.get("error").and_then(worded) {
        Some(error) if message == "Unexpected error" => Some(unwrapped(&error).unwrap_or(error)),
        Some(error) => Some(format!("{message}: {error}")),
        None => Some(message),
    }
}

/// What FastAPI says of one argument: where, and what.
fn of_fault(fault: &str) -> Option<String> {
    let members = Members::read(fault)?;
    let message = worded(members.get("msg")?)?;
    let place = members.get("loc").and_then(items).unwrap_or_default();
    // The first step only says that it is in the body.
    let steps = place.iter().skip(1).map(|step| worded(step).unwrap_or_else(|| (*step).to_owned()));
    let place = steps.collect::<Vec<_>>().join(".");
    Some(if place.is_empty() { message } else { format!("{place}: {message}") })
}

/// The message in `500: {'message': '…'}`.
fn unwrapped(error: &str) -> Option<String> {
    let (status, rest) = error.split_once(": ")?;
    if status.len() != 3 || !status.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    literal(rest.strip_prefix("{'message': ")?)
}

/// A string as Python's `repr` writes it, up to its closing quote.
fn literal(text: &str) -> Option<String> {
    let mut chars = text.chars();
    let quote = chars.next().filter(|quote| matches!(quote, '\'' | '"'))?;
    let mut plain = String::with_capacity(text.len());
    loop {
        let next = chars.next()?;
        if next == quote {
            return Some(plain);
        }
        plain.push(if next == '\\' { escaped(&mut chars)? } else { next });
    }
}

fn escaped(chars: &mut std::str::Chars<'_>) -> Option<char> {
    let digits = match chars.next()? {
        'n' => return Some('\n'),
        'r' => return Some('\r'),
        't' => return Some('\t'),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        other => return Some(other),
    };
    let code = chars.as_str().get(..digits)?;
    chars.nth(digits - 1)?;
    // Half of a surrogate pair, which Python holds and no text does.
    Some(char::from_u32(u32::from_str_radix(code, 16).ok()?).unwrap_or(char::REPLACEMENT_CHARACTER))
}
