//! Cross-origin calls from browsers (Fetch standard): answers preflights, marks answers to listed origins.
//!
//! Decides by the exact `Origin` alone and before identity: a browser cannot read a 401 that lacks
//! these headers. Never allows credentials by cookie.

use http::{HeaderName, Method, header, request::Parts};
use pingora::http::ResponseHeader;

use super::journey::Journey;
use crate::{endpoints::Answer, mcp::headers::PARAM_PREFIX};

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

/// What may be sent on any path, MCP's own headers among them.
const ALLOWED_HEADERS: &str = "authorization, content-type, accept, x-session-id, mcp-session-id, \
    mcp-protocol-version, mcp-method, mcp-name, last-event-id";

/// The answer to a preflight.
pub fn preflight_answer(request: &Parts) -> Answer {
    let asked = request.headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter();
    let asked = asked.filter_map(|names| names.to_str().ok()).flat_map(|names| names.split(','));
    let mut allowed = ALLOWED_HEADERS.to_owned();
    for name in asked.filter_map(|name| name.trim().parse::<HeaderName>().ok()) {
        if name.as_str().starts_with(PARAM_PREFIX) {
            allowed.push_str(", ");
            allowed.push_str(name.as_str());
        }
    }
    Answer::new(204, "", Default::default())
        .with("access-control-allow-methods", "GET, POST, DELETE, OPTIONS".into())
        .with("access-control-allow-headers", allowed)
        .with("access-control-max-age", "600".into())
}

/// What scripts may read of an answer.
const EXPOSED_HEADERS: &str = "Content-Disposition, Mcp-Session-Id, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-Id";

/// Tells the browser that this origin may read the answer.
pub fn mark(header: &mut ResponseHeader, journey: &Journey) -> pingora::Result<()> {
    if let Some(origin) = &journey.origin {
        header.insert_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.as_str())?;
        header.insert_header(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS)?;
        header.append_header(header::VARY, "Origin")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn of_the_headers_asked_for_those_of_tools_are_allowed() {
        for (asked, allowed) in [
            (&[][..], ""),
            (&["authorization, x-evil, cookie"], ""),
            (&["mcp-param-region"], ", mcp-param-region"),
            (
                &["Mcp-Param-Region,mcp-param-zone ", "x, mcp-param-a_b"],
                ", mcp-param-region, mcp-param-zone, mcp-param-a_b",
            ),
            (
                &["mcp-param", "x-mcp-param-a", "mcp-param-a b", "mcp-param-\u{e9}", "mcp-param-a:b", ",, ,"],
                "",
            ),
        ] {
            let mut request = Request::new(()).into_parts().0;
            for value in asked {
                let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
                request.headers.append(header::ACCESS_CONTROL_REQUEST_HEADERS, value);
            }
            let answer = preflight_answer(&request);
            let found = &answer.headers.iter().find(|(name, _)| name.ends_with("-headers")).unwrap().1;
            assert_eq!(found.strip_prefix(ALLOWED_HEADERS), Some(allowed), "{asked:?}");
        }
    }
}
