//! What an entry is in the table: its texts cut to what columns take, and without what a database has no place for.
//!
//! Decides nothing else: what a call leaves behind, the record says.

use std::{borrow::Cow, net::IpAddr};

use super::{super::entry::Entry, line::Written};
use crate::store::audit::AuditRow;

/// Characters of texts that columns of earlier gateways take.
const EMAIL: usize = 255;
const METHOD: usize = 10;
const ENDPOINT: usize = 512;
/// Of all others.
const WORDS: usize = 1_024;
/// Bytes of arguments that are kept: what `arguments` keeps of them, with its mark.
const ARGUMENTS: usize = 64 * 1024 + 8;

/// The row of an entry.
pub fn row<'a>(written: &'a Written, instance: &'a str) -> AuditRow<'a> {
    let entry = &written.entry;
    let words = |text: &'a Option<Cow<'a, str>>| text.as_deref().map(|text| clean(text, WORDS));
    let owned = |text: &'a Option<String>| text.as_deref().map(|text| clean(text, WORDS));
    let total = (entry.gateway_micros.saturating_add(entry.upstream_micros) + 500) / 1_000;
    AuditRow {
        at_micros: entry.at_micros,
        user_email: entry.email.as_deref().map(|text| clean(text, EMAIL)),
        method: clean(&entry.method, METHOD),
        endpoint: clean(&entry.endpoint, ENDPOINT),
        status_code: (entry.status > 0).then(|| entry.status.into()),
        response_time_ms: i32::try_from(total).unwrap_or(i32::MAX),
        user_agent: words(&entry.user_agent),
        client_ip: entry.client.as_ref().map(IpAddr::to_string),
        entry_id: written.id.to_string(),
        request_id: clean(&entry.request_id, WORDS),
        call: i32::try_from(entry.call).unwrap_or(i32::MAX),
        caller: words(&entry.caller),
        directory: owned(&entry.directory),
        scheme: words(&entry.scheme),
        granted_by: owned(&entry.grant),
        tenant: words(&entry.tenant),
        route: clean(&entry.route, WORDS),
        rpc_method: words(&entry.rpc_method),
        server: words(&entry.server),
        tool: words(&entry.tool),
        outcome: clean(&entry.outcome, WORDS),
        code: words(&entry.code),
        reason: words(&entry.reason),
        gateway_ms: entry.gateway_micros as f64 / 1e3,
        upstream_ms: entry.upstream_micros as f64 / 1e3,
        request_bytes: i64::try_from(entry.request_bytes).unwrap_or(i64::MAX),
        response_bytes: i64::try_from(entry.response_bytes).unwrap_or(i64::MAX),
        retries: i32::try_from(entry.retries).unwrap_or(i32::MAX),
        argument_digest: owned(&entry.argument_digest),
        arguments: entry.arguments.as_deref().map(|text| clean(text, ARGUMENTS)),
        trace_id: words(&entry.trace_id),
        instance: Cow::Borrowed(instance),
    }
}

/// At most so many characters, with `�` for a NUL.
fn clean(text: &str, most: usize) -> Cow<'_, str> {
    let text = text.char_indices().nth(most).map_or(text, |(end, _)| &text[..end]);
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// An entry whose line is of a size that can be read again at once: what could be long is cut.
pub fn bounded<'e>(entry: &'e Entry<'_>) -> Cow<'e, Entry<'e>> {
    let is_long = |text: &Option<Cow<'_, str>>, most| text.as_ref().is_some_and(|text| text.len() > most);
    let Entry { tool, rpc_method, arguments, endpoint, user_agent, .. } = entry;
    let fits = !is_long(arguments, ARGUMENTS)
        && [tool, rpc_method, user_agent].into_iter().all(|text| !is_long(text, WORDS))
        && endpoint.len() <= WORDS;
    if fits {
        return Cow::Borrowed(entry);
    }
    let cut = |text: &Option<Cow<'e, str>>, most: usize| {
        text.as_deref().map(|text| Cow::Owned(text[..text.floor_char_boundary(most)].to_owned()))
    };
    let mut entry: Entry<'e> = entry.clone();
    entry.arguments = cut(&entry.arguments, ARGUMENTS);
    entry.tool = cut(&entry.tool, WORDS);
    entry.rpc_method = cut(&entry.rpc_method, WORDS);
    entry.user_agent = cut(&entry.user_agent, WORDS);
    entry.endpoint = entry.endpoint[..entry.endpoint.floor_char_boundary(WORDS)].to_owned().into();
    Cow::Owned(entry)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{super::line::tests::entry, *};

    #[test]
    fn texts_are_cut_to_their_columns_and_hold_no_nul() {
        let long = "ä\0".repeat(100_000);
        let written = Written { id: Uuid::now_v7(), entry: entry(&long) };
        let row = row(&written, "i");
        let length = |text: &Option<Cow<'_, str>>| text.as_ref().map(|text| text.chars().count());
        assert_eq!((length(&row.user_email), row.endpoint.chars().count()), (Some(255), 512));
        assert_eq!((length(&row.tool), length(&row.arguments)), (Some(1_024), Some(ARGUMENTS)));
        assert!(!serde_json::to_string(&row).unwrap().contains("\\u0000"));
        assert_eq!((row.status_code, row.response_time_ms, row.gateway_ms), (Some(200), 4, 1.5));
    }

    #[test]
    fn a_line_is_never_longer_than_is_read_at_once() {
        let (short, long) = (entry("short"), entry(&"\u{1}".repeat(1 << 20)));
        let Entry { tool, rpc_method, arguments, endpoint, user_agent, .. } = long;
        let long = Entry { tool, rpc_method, arguments, endpoint, user_agent, ..short.clone() };
        let line = super::super::line::line(Uuid::now_v7(), &bounded(&long));
        assert!(line.len() < super::super::shipper::READ_AT_ONCE, "{} bytes", line.len());
        assert!(matches!(bounded(&short), Cow::Borrowed(_)));
    }
}
