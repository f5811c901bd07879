//! The streams of an HTTP/2 connection: each is a request of its own, with a line of its own.
//!
//! Decides how many run at once and what a request looks like to the rest of the gateway, which knows HTTP/1.1: `Host`
//! for `:authority`, and a coding where a body's length is not told. The framework gives each stream a task, so what
//! is kept for a connection (who cuts it, which deadlines it has) has to be kept for a stream here. Never decides
//! about what is asked.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use http::{HeaderValue, header};
use pingora::{
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream},
    protocols::http::{ServerSession, v2::server::H2Options},
    server::ShutdownWatch,
};

use super::{guard::Terms, line::Line, stream::Stream, taking::Taking};
use crate::record::metrics::Metrics;

/// The app inside, for the streams of one connection.
pub struct Streams<A> {
    app: Arc<A>,
    connection: Arc<Line>,
    running: AtomicUsize,
    most: usize,
    taking: Taking,
    options: HttpServerOptions,
    max_header_bytes: usize,
    metrics: Arc<Metrics>,
}

impl<A> Streams<A> {
    /// The streams of `connection`, each with a reader who may be so slow.
    pub fn new(
        app: Arc<A>,
        connection: Arc<Line>,
        (terms, taking): (&Terms, Taking),
        metrics: &Arc<Metrics>,
    ) -> Self {
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(terms.keepalive_timeout);
        Self {
            app,
            connection,
            running: AtomicUsize::new(0),
            most: terms.max_streams,
            taking,
            options,
            max_header_bytes: terms.max_header_bytes,
            metrics: metrics.clone(),
        }
    }

    /// A place among those that run. A stream that its client has reset counts no longer for the protocol, but what it
    /// began may still run: without this a client could begin any number.
    fn place(&self) -> Option<Place<'_>> {
        let place = Place(&self.running);
        (self.running.fetch_add(1, Ordering::Relaxed) < self.most).then_some(place)
    }
}

struct Place<'s>(&'s AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> HttpServerApp for Streams<A> {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        // The connection has what it was opened for; the framework ends it when it is idle.
        self.connection.disarm();
        let reset = |reason| self.metrics.streams_reset.with_label_values(&[reason]).inc();
        let Some(_place) = self.place() else {
            reset("too_many");
            return None;
        };
        if let Err(_unwritable) = in_words_of_http_1(&mut session) {
            reset("malformed");
            return None;
        }
        let line = self.connection.of_stream();
        if let ServerSession::H2(stream) = session {
            let stream = Stream::new(stream, line.clone(), self.taking.clone());
            session = ServerSession::new_custom(Box::new(stream));
        }
        // A session that is dropped resets its stream, and no other.
        if line.carry(self.app.process_new_http(session, shutdown)).await.is_none() {
            reset("withdrawn");
        }
        None
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(options(self.max_header_bytes, self.most))
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// Says in headers of HTTP/1.1 what HTTP/2 says otherwise (RFC 9113 section 8.3.1 and 8.1).
fn in_words_of_http_1(session: &mut ServerSession) -> pingora::Result<()> {
    let has_body = !session.is_body_empty();
    let request = session.req_header_mut();
    if !request.headers.contains_key(header::HOST)
        && let Some(authority) = request.uri.authority().map(|authority| authority.as_str().to_owned())
    {
        request.insert_header(header::HOST, authority)?;
    }
    // Its own `Transfer-Encoding` a client cannot send: the protocol takes that for malformed.
    if has_body && !request.headers.contains_key(header::CONTENT_LENGTH) {
        request.insert_header(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
    }
    Ok(())
}

/// What an HTTP/2 connection is told at its beginning.
fn options(max_header_bytes: usize, most: usize) -> H2Options {
    let mut options = pingora::protocols::http::v2::server::default_h2_options();
    // As HTTP/1.1 counts them, and 32 bytes a field besides (RFC 9113 section 6.5.2).
    options.max_header_list_size(u32::try_from(max_header_bytes).unwrap_or(u32::MAX));
    options.max_concurrent_streams(u32::try_from(most).unwrap_or(u32::MAX));
    // What a client may send ahead, on a stream and on all of them: what the gateway may have to keep.
    options.initial_window_size(STREAM_WINDOW);
    options.initial_connection_window_size(CONNECTION_WINDOW);
    // What of an answer is kept for a client that does not take it.
    options.max_send_buffer_size(SEND_BUFFER);
    options
}

const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const SEND_BUFFER: usize = 128 * 1024;
