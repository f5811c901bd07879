//! Images, audio and other bytes as parts of content.
//!
//! Decides which string is a data URL of an image or of audio, and what bytes that are no text look like in MCP.
//! Never looks into the bytes.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::mcp::{members::text, splice::quoted};

/// An image or audio in a data URL (RFC 2397).
pub(super) struct Media {
    mime: String,
    /// In base64.
    data: String,
}

impl Media {
    /// Reads a JSON string.
    pub(super) fn read(raw: &str) -> Option<Self> {
        // Seen before a long string is decoded.
        if !raw.starts_with("\"data:") {
            return None;
        }
        let url = text(raw)?;
        let (mime, data) = url.strip_prefix("data:")?.split_once(";base64,")?;
        let is_known = mime.starts_with("image/") || mime.starts_with("audio/");
        (is_known && is_base64(data)).then(|| Self { mime: mime.to_owned(), data: data.to_owned() })
    }

    /// The part of content.
    pub(super) fn to_part(&self) -> String {
        let kind = if self.mime.starts_with("image/") { "image" } else { "audio" };
        let Self { mime, data } = self;
        format!(r#"{{"type":"{kind}","data":{},"mimeType":{}}}"#, quoted(data), quoted(mime))
    }
}

/// Clients refuse a whole result for the sake of one part that is not.
fn is_base64(data: &str) -> bool {
    let digits = data.trim_end_matches('=');
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    data.len().is_multiple_of(4) && data.len() - digits.len() <= 2 && digits.bytes().all(is_digit)
}

/// Bytes as a part: an image, audio, or a resource put in.
pub(super) fn part(mime: &str, bytes: &[u8]) -> String {
    let data = STANDARD.encode(bytes);
    let mime = if mime.is_empty() { "application/octet-stream" } else { mime }.to_owned();
    if mime.starts_with("image/") || mime.starts_with("audio/") {
        return Media { mime, data }.to_part();
    }
    // A resource has an address, even where nothing can be read there.
    let (mime, data) = (quoted(&mime), quoted(&data));
    format!(
        r#"{{"type":"resource","resource":{{"uri":"urn:portcullis:answer","mimeType":{mime},"blob":{data}}}}}"#
    )
}
