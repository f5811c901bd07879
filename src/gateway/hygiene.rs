//! Which headers cross the gateway. Towards a peer an allow-list; towards the client a short ban.
//!
//! The caller's credential, cookies and identity claims never travel; the peer's own identity,
//! cookies and CORS opinions never come back.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use pingora::{
    ErrorType, OrErr,
    http::{RequestHeader, ResponseHeader},
};

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
/// By which a server's own log finds the request again.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Room is made for half as many again: with more, the maps of a stream that stands would be twice as large.
const USUAL_HEADERS: usize = 8;

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
    // Built as maps alone: the framework's own way to insert a header reads its name anew, and keeps how it was written.
    let (mut request, ()) = Request::new(()).into_parts();
    request.method = trip.method();
    request.uri = Uri::try_from(path).or_err(ErrorType::InvalidHTTPHeader, "a path that is none")?;
    let mut headers = HeaderMap::with_capacity(USUAL_HEADERS);
    headers.insert(header::HOST, destination.host.clone());
    for name in &TRAVELS {
        for value in client.headers.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    match trip.errand() {
        // Always sent: FastAPI, and so mcpo, refuses a JSON body that is not labelled.
        Errand::Tool(_) | Errand::Asked(_) => {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Errand::Native(native) => {
            let exchange = cargo.exchange();
            let (is_modern, is_edited) =
                exchange.map_or((false, true), |it| (it.asked.is_modern, it.is_edited()));
            add_native(&mut headers, client, native, is_modern)?;
            if is_edited {
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            }
        }
    }
    headers.insert(REQUEST_ID, value(request_id.as_str())?);
    request.version = Version::HTTP_11;
    frame_request(&mut request.version, &mut headers, client, cargo, version)?;
    if let Some(credential) = trip.credential() {
        headers.insert(credential.name.clone(), credential.value.expose().clone());
    }
    request.headers = headers;
    Ok(request.into())
}

fn value(text: &str) -> pingora::Result<HeaderValue> {
    HeaderValue::from_str(text).or_err(ErrorType::InvalidHTTPHeader, "a value that is none")
}

/// Says how the body ends: in HTTP/2 the frames do, and what is sent without any goes without a length.
fn frame_request(
    is_sent_in: &mut Version,
    headers: &mut HeaderMap,
    client: &RequestHeader,
    cargo: &Cargo,
    version: Version,
) -> pingora::Result<()> {
    // Refused before if it could be read in two ways, and written anew all the same.
    let sent = framing::read(&client.headers).map_err(super::refused)?;
    let is_http2 = version == Version::HTTP_2;
    if is_http2 {
        *is_sent_in = version;
        if matches!(sent, End::NoBody | End::After(0)) {
            return Ok(());
        }
    }
    match (cargo.framing(), sent) {
        (Framing::AsSent, End::After(bytes)) => {
            headers.insert(header::CONTENT_LENGTH, bytes.into());
        }
        (Framing::Length(bytes), _) => {
            headers.insert(header::CONTENT_LENGTH, bytes.into());
        }
        (Framing::AsSent, End::LastChunk) | (Framing::Chunked, _) if !is_http2 => {
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        (Framing::AsSent, End::LastChunk | End::NoBody) | (Framing::Chunked, _) => {}
    }
    Ok(())
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
    headers: &mut HeaderMap,
    client: &RequestHeader,
    native: &Native,
    is_modern: bool,
) -> pingora::Result<()> {
    // Streams are resumed by a GET alone.
    let only_legacy = (!is_modern && native.method == Method::GET).then_some(&mcp::LAST_EVENT_ID);
    let names = [&header::CONTENT_TYPE, &mcp::PROTOCOL_VERSION, &mcp::METHOD, &mcp::NAME];
    for name in names.into_iter().chain(only_legacy) {
        if let Some(value) = client.headers.get(name) {
            headers.insert(name, value.clone());
        }
    }
    // Unknown ones must be passed on (MCP 2026-07-28, Transports, Custom Headers from Tool Parameters).
    for (name, value) in
        client.headers.iter().filter(|(name, _)| name.as_str().starts_with(mcp::PARAM_PREFIX))
    {
        headers.append(name, value.clone());
    }
    if let Some(session) = &native.session {
        headers.insert(&mcp::SESSION_ID, value(session.as_str())?);
    }
    Ok(())
}

/// Takes off what the client has no business with.
pub fn clean_answer(header: &mut ResponseHeader) {
    // Few answers have any of them: to look at the names there are takes less than to look for each of these.
    let stays = |name: &&HeaderName| STAYS.contains(name);
    let found: Vec<HeaderName> = header.headers.keys().filter(stays).cloned().collect();
    for name in &found {
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
