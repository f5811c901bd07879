//! A stream of HTTP/2, as the framework sees it: its own session, and the clocks that it lacks there.
//!
//! What `client` is to a connection of HTTP/1.1: a body that does not come, an answer that is due and does not begin, and
//! a reader who takes too little end the request, which is told so. Decides none of the times: the request on the stream
//! says them, through its `Line` or as the framework lets it.

use std::{future::poll_fn, pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    protocols::{
        Digest,
        http::{
            HttpTask,
            custom::{CustomMessageWrite, server::Session},
            v2::server::HttpSession,
        },
        l4::socket::SocketAddr,
    },
};

use super::{line::Line, taking::Taking};

/// Bytes that are written at once: so many at most, and no more than a reader at the lowest rate takes in half of his time.
/// The framework looks at the clock only between two such pieces.
const PIECE: u64 = 16 * 1024;
const LEAST_PIECE: u64 = 1024;

/// A stream.
pub struct Stream {
    session: HttpSession,
    line: Arc<Line>,
    taking: Taking,
    body_patience: Option<Duration>,
    piece: usize,
}

impl Stream {
    /// The stream of this session.
    pub fn new(session: HttpSession, line: Arc<Line>, taking: Taking) -> Self {
        let piece = usize::try_from(taking.in_half_its_time().clamp(LEAST_PIECE, PIECE)).unwrap_or_default();
        Self { session, line, taking, body_patience: None, piece }
    }

    /// The next piece of the body. An empty one need not be the last.
    async fn next_piece(&mut self) -> Result<Option<Bytes>> {
        loop {
            let piece = self.session.read_body_bytes().await?;
            if piece.as_ref().is_none_or(|piece| !piece.is_empty()) || self.session.is_body_done() {
                return Ok(piece);
            }
        }
    }

    /// Writes a piece of the answer, and notes how its reader takes it.
    async fn write_piece(&mut self, piece: Bytes, is_last: bool) -> Result<()> {
        let bytes = piece.len();
        let Self { session, line, taking, .. } = self;
        let mut writing = pin!(session.write_body(piece, is_last));
        let written = poll_fn(|cx| {
            let outcome = writing.as_mut().poll(cx);
            if outcome.is_pending() {
                taking.wait(line);
                line.note_client(true);
            }
            outcome
        })
        .await;
        match written {
            Ok(()) if taking.took(bytes, line) => {
                line.note_client(false);
                line.note_taken();
                Ok(())
            }
            Ok(()) => {
                Err(Error::explain(ErrorType::WriteTimedout, "the answer is taken too slowly").into_down())
            }
            Err(error) => {
                if *error.etype() == ErrorType::WriteTimedout {
                    line.note_slow();
                }
                Err(error.into_down())
            }
        }
    }

    async fn write(&mut self, mut data: Bytes, is_end: bool) -> Result<()> {
        loop {
            let piece = data.split_to(data.len().min(self.piece));
            let is_last = data.is_empty();
            self.write_piece(piece, is_end && is_last).await?;
            if is_last {
                return Ok(());
            }
        }
    }
}

/// What has come to its end by itself: an answer that was due.
fn overdue() -> Box<Error> {
    Error::explain(ErrorType::ReadTimedout, "an answer was due")
}

#[async_trait]
impl Session for Stream {
    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        let Some(patience) = self.body_patience else { return self.next_piece().await };
        tokio::time::timeout(patience, self.next_piece())
            .await
            .unwrap_or_else(|_late| Err(Error::explain(ErrorType::ReadTimedout, "reading a body")))
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        let line = self.line.clone();
        let is_idle = no_body_expected || self.session.is_body_done();
        let next = async {
            match is_idle {
                true => self.session.read_body_or_idle(true).await,
                false => self.read_body_bytes().await,
            }
        };
        tokio::select! {
            biased;
            next = next => next,
            () = line.unanswered() => Err(overdue()),
        }
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.write(data, end).await
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut is_end = false;
        for task in tasks {
            is_end |= match task {
                HttpTask::Body(Some(data), end) if !data.is_empty() => {
                    self.write(data, end).await?;
                    end
                }
                task => self.session.response_duplex_vec(vec![task]).await?,
            };
        }
        if is_end {
            // Said already where the last piece said it.
            self.session.finish().map_err(Error::into_down)?;
        }
        Ok(is_end)
    }

    /// Ends the answer. What is left of a body that is not worth a reset is read away first: some clients take a reset
    /// behind an answer for the end of that answer.
    async fn finish(&mut self) -> Result<()> {
        self.session.finish()?;
        if self.session.get_total_drain_timeout().is_some() {
            // Whoever is not done by then is reset.
            drop(self.session.drain_request_body().await);
        }
        Ok(())
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.body_patience = timeout;
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.body_patience
    }

    /// What was read of the body before a server is called. Something, where that was all of it and too much to be kept: the
    /// framework asks nobody for what goes in its stead otherwise.
    fn get_retry_buffer(&self) -> Option<Bytes> {
        let is_read = self.session.retry_buffer_truncated() && self.session.is_body_done();
        self.session.get_retry_buffer().or(is_read.then(Bytes::new))
    }

    async fn shutdown(&mut self, _code: u32, _ctx: &str) {
        self.session.shutdown();
    }

    // The rest is as the framework has it.

    fn req_header(&self) -> &RequestHeader {
        self.session.req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.session.req_header_mut()
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.session.drain_request_body().await
    }

    async fn write_response_header(&mut self, resp: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.session.write_response_header(resp, end)
    }

    async fn write_response_header_ref(&mut self, resp: &ResponseHeader, end: bool) -> Result<()> {
        self.session.write_response_header_ref(resp, end)
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.session.write_trailers(trailers)
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.session.set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.session.get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.session.set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.session.get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.session.request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.session.response_written()
    }

    fn is_body_done(&mut self) -> bool {
        self.session.is_body_done()
    }

    fn is_body_empty(&mut self) -> bool {
        self.session.is_body_empty()
    }

    fn body_bytes_sent(&self) -> usize {
        self.session.body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.session.body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.session.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.session.digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.session.client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.session.server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.session.pseudo_raw_h1_request_header()
    }

    fn enable_retry_buffering(&mut self) {
        self.session.enable_retry_buffering();
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.session.retry_buffer_truncated()
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn futures_util::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn futures_util::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
