//! Which headers cross the gateway. Towards a peer an allow-list; towards the client a short ban.
//!
//! The caller's credential, cookies and identity claims never travel; the peer's own identity,
//! cookies and CORS opinions never come back.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};

use super::{
    body::Framing,
    framing::{self, End},
    journey::Cargo,
};
use crate::{
    mcp::headers as mcp,
    names::RequestId,
    upstream::{Destination, Errand, Trip, native::Native},
};

/// By which a client says that a server may be sent its request twice (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Headers of the client that travel to a peer as they are.
static TRAVELS: [HeaderName; 8] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::USER_AGENT,
    IDEMPOTENCY_KEY,
    // W3C Trace Context and Baggage.
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
];

/// Headers of a peer that stay with the gateway.
static STAYS: [HeaderName; 13] = [
    // About the peer's connection, not the client's (RFC 9110 section 7.6.1).
    HeaderName::from_static("keep-alive"),
    header::SERVER,
    header::SET_COOKIE,
    header::WWW_AUTHENTICATE,
    header::ALT_SVC,
    header::STRICT_TRANSPORT_SECURITY,
    HeaderName::from_static("x-powered-by"),
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

/// The request as the peer gets it.
pub fn request_to_peer(
    client: &RequestHeader,
    trip: &Trip,
    destination: &Destination,
    cargo: &mut Cargo,
    request_id: &RequestId,
    version: Version,
) -> pingora::Result<RequestHeader> {
    let path = trip.path(&destination.peer, client.uri.query());
    let mut request = RequestHeader::build(trip.method(), path.as_bytes(), Some(16))?;
    request.insert_header(header::HOST, destination.peer.authority())?;
    for name in &TRAVELS {
        for value in client.headers.get_all(name) {
            request.append_header(name, value)?;
        }
    }
    match trip.errand() {
        // Always sent: FastAPI, and so mcpo, refuses a JSON body that is not labelled.
        Errand::Tool(_) | Errand::Asked(_) => {
            request.insert_header(header::CONTENT_TYPE, "application/json")?
        }
        Errand::Native(native) => {
            let exchange = cargo.exchange();
            let (is_modern, is_edited) =
                exchange.map_or((false, true), |it| (it.asked.is_modern, it.is_edited()));
            add_native(&mut request, client, native, is_modern)?;
            if is_edited {
                request.insert_header(header::ACCEPT_ENCODING, "identity")?;
            }
        }
    }
    request.insert_header("x-request-id", request_id.as_str())?;
    frame_request(&mut request, client, cargo, version)?;
    if let Some(credential) = trip.credential() {
        let value: HeaderValue = credential.value.expose().clone();
        request.insert_header(&credential.name, value)?;
    }
    Ok(request)
}

/// Says how the body ends: in HTTP/2 the frames do, and what is sent without any goes without a length.
fn frame_request(
    request: &mut RequestHeader,
    client: &RequestHeader,
    cargo: &Cargo,
    version: Version,
) -> pingora::Result<()> {
    // Refused before if it could be read in two ways, and written anew all the same.
    let sent = framing::read(&client.headers).map_err(super::refused)?;
    let is_http2 = version == Version::HTTP_2;
    if is_http2 {
        request.set_version(version);
        if matches!(sent, End::NoBody | End::After(0)) {
            return Ok(());
        }
    }
    match (cargo.framing(), sent) {
        (Framing::AsSent, End::After(bytes)) => request.insert_header(header::CONTENT_LENGTH, bytes),
        (Framing::Length(bytes), _) => request.insert_header(header::CONTENT_LENGTH, bytes),
        (Framing::AsSent, End::LastChunk) | (Framing::Chunked, _) if !is_http2 => {
            request.insert_header(header::TRANSFER_ENCODING, "chunked")
        }
        (Framing::AsSent, End::LastChunk | End::NoBody) | (Framing::Chunked, _) => Ok(()),
    }
}

/// Whether the client gave its request a name by which the server knows it again.
pub fn is_named_by_client(client: &RequestHeader) -> bool {
    client.headers.contains_key(&IDEMPOTENCY_KEY)
}

/// The headers of a client that travel with a request of the gateway's own wording.
pub fn travelling(client: &RequestHeader) -> HeaderMap {
    let worded_anew = [&header::ACCEPT, &header::ACCEPT_ENCODING];
    let mut headers = HeaderMap::new();
    for name in TRAVELS.iter().filter(|name| !worded_anew.contains(name)) {
        for value in client.headers.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    headers
}

/// Adds what MCP says in headers: all of it is the client's, but for the session.
fn add_native(
    request: &mut RequestHeader,
    client: &RequestHeader,
    native: &Native,
    is_modern: bool,
) -> pingora::Result<()> {
    // Streams are resumed by a GET alone.
    let only_legacy = (!is_modern && native.method == Method::GET).then_some(&mcp::LAST_EVENT_ID);
    let names = [&header::CONTENT_TYPE, &mcp::PROTOCOL_VERSION, &mcp::METHOD, &mcp::NAME];
    for name in names.into_iter().chain(only_legacy) {
        if let Some(value) = client.headers.get(name) {
            request.insert_header(name, value)?;
        }
    }
    // Unknown ones must be passed on (MCP 2026-07-28, Transports, Custom Headers from Tool Parameters).
    for (name, value) in
        client.headers.iter().filter(|(name, _)| name.as_str().starts_with(mcp::PARAM_PREFIX))
    {
        request.append_header(name, value)?;
    }
    if let Some(session) = &native.session {
        request.insert_header(&mcp::SESSION_ID, session.as_str())?;
    }
    Ok(())
}

/// Takes off what the client has no business with.
pub fn clean_answer(header: &mut ResponseHeader) {
    for name in &STAYS {
        header.remove_header(name);
    }
}

/// Takes off the coding that clients before HTTP/1.1 do not know (RFC 9112 section 6.1): the end of the connection
/// ends their answer.
pub fn frame_for(version: Version, header: &mut ResponseHeader) {
    if version < Version::HTTP_11 {
        header.remove_header(&header::TRANSFER_ENCODING);
    }
}

/// Whether an answer is a stream of events (WHATWG HTML, server-sent events).
pub fn is_event_stream(header: &ResponseHeader) -> bool {
    const EVENT_STREAM: &[u8] = b"text/event-stream";
    header.headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        value.as_bytes().get(..EVENT_STREAM.len()).is_some_and(|head| head.eq_ignore_ascii_case(EVENT_STREAM))
    })
}
