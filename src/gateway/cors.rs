//! Cross-origin calls from browsers (Fetch standard): answers preflights, marks answers to listed origins.
//!
//! Decides by the exact `Origin` alone and before identity: a browser cannot read a 401 that lacks
//! these headers. Never allows credentials by cookie.

use http::{Method, header, request::Parts};
use pingora::http::ResponseHeader;

use super::journey::Journey;
use crate::endpoints::Answer;

/// Whether this is a listed origin's question before a call.
pub fn is_preflight(request: &Parts, origin: Option<&str>) -> bool {
    origin.is_some()
        && request.method == Method::OPTIONS
        && request.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The request's origin, if it is listed.
pub fn listed_origin(request: &Parts, origins: &[String]) -> Option<String> {
    let origin = request.headers.get(header::ORIGIN)?.to_str().ok()?;
    origins.iter().find(|listed| *listed == origin).cloned()
}

/// The answer to a preflight.
pub fn preflight_answer() -> Answer {
    Answer::new(204, "", Default::default())
        .with("access-control-allow-methods", "GET, POST, OPTIONS".into())
        .with("access-control-allow-headers", "authorization, content-type, x-session-id".into())
        .with("access-control-max-age", "600".into())
}

/// Tells the browser that this origin may read the answer.
pub fn mark(header: &mut ResponseHeader, journey: &Journey) -> pingora::Result<()> {
    if let Some(origin) = &journey.origin {
        header.insert_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.as_str())?;
        header.insert_header(header::ACCESS_CONTROL_EXPOSE_HEADERS, "Content-Disposition, X-Request-Id")?;
        header.append_header(header::VARY, "Origin")?;
    }
    Ok(())
}
