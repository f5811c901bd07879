//! What the body of a server's answer is labelled as, read as strictly as it must be to edit it.

use http::header;
use pingora::http::ResponseHeader;

/// Whether an answer is whole with its head.
pub(super) fn has_no_body(header: &ResponseHeader) -> bool {
    header.status == http::StatusCode::NO_CONTENT
        || header.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0")
}

/// Whether any label of the body could be read as that of messages.
pub(super) fn names_messages(header: &ResponseHeader) -> bool {
    header.headers.get_all(header::CONTENT_TYPE).iter().any(|label| {
        let label = String::from_utf8_lossy(label.as_bytes()).to_ascii_lowercase();
        label.contains("json") || label.contains("event-stream")
    })
}

/// What the body is labelled as; none where that is not said once.
pub(super) fn media_type(header: &ResponseHeader) -> Option<String> {
    let mut labels = header.headers.get_all(header::CONTENT_TYPE).iter();
    let label = labels.next()?.to_str().ok()?;
    let is_only = labels.next().is_none();
    let kind = label.split(';').next()?.trim().to_ascii_lowercase();
    is_only.then_some(kind)
}

/// Whether the body is encoded.
pub(super) fn is_encoded(header: &ResponseHeader) -> bool {
    !header.headers.get_all(header::CONTENT_ENCODING).iter().all(|encoding| encoding == "identity")
}
