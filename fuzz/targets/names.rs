//! Whatever is taken for a name holds only what a name may hold, and is taken again as it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::names::{Email, GroupName, RequestId, ServerId, ToolName, ToolPattern};

fuzz_target!(|text: &str| {
    let is_path_segment = |name: &str| !name.contains(['/', '%', '\\', ' ']) && name != "." && name != "..";
    if let Ok(id) = ServerId::parse(text) {
        assert!(id.as_str() == text && is_path_segment(text) && !text.contains('.'));
    }
    if let Ok(name) = ToolName::parse(text) {
        assert!(name.as_str() == text && is_path_segment(text) && text.is_ascii());
    }
    if let Some((pattern, tool)) = text.split_once('/')
        && let Ok(pattern) = ToolPattern::parse(pattern)
    {
        let stars = pattern.as_str().matches('*').count();
        assert!(stars > 0 || pattern.matches(tool) == (pattern.as_str() == tool));
        assert!(!pattern.matches(tool) || tool.len() + stars >= pattern.as_str().len());
    }
    if let Ok(id) = RequestId::parse(text) {
        assert!(id.as_str() == text && http::HeaderValue::from_str(text).is_ok());
    }
    if let Ok(group) = GroupName::parse(text) {
        assert!(group.as_str() == text && !text.contains(char::is_control));
    }
    if let Ok(email) = Email::parse(text) {
        assert!(
            email.as_str().eq_ignore_ascii_case(text) && Email::parse(email.as_str()).as_ref() == Ok(&email)
        );
    }
});
