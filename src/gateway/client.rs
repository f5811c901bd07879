//! The client's end of a connection, as the framework sees it: the socket or what TLS makes of it, and two things it
//! lacks.
//!
//! An answer that is due and does not begin ends the wait (the framework knows only the silence
//! between any two bytes, and a quiet stream may be silent). And where a client that leaves must not
//! end what it asked for, its leaving is kept from the framework until the answer is over. Decides
//! neither: the request on the connection says so through its `Line`.

use std::{
    fmt,
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::AsRawFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use async_trait::async_trait;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType, raw_connect::ProxyDigest, tls::SslDigest,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

use super::{line::Line, taking::Taking};
use crate::dial::gathering::Gathering;

/// How long an answer may go on without anybody who wants it.
const FORSAKEN: Duration = Duration::from_secs(300);

/// So much of a head that is not heard to its end is read away, in so much time.
const UNHEARD: u64 = 1024 * 1024;
const LINGER: Duration = Duration::from_secs(1);

/// What the framework asks of a connection beside its bytes.
#[derive(Debug, Default)]
pub struct Facts {
    /// The socket's number.
    pub id: UniqueIDType,
    /// Its addresses.
    pub socket: Option<Arc<SocketDigest>>,
    /// What TLS agreed on; none without it.
    pub tls: Option<Arc<SslDigest>>,
    /// The protocol that TLS agreed on.
    pub alpn: Option<ALPN>,
}

impl Facts {
    /// Those of a socket with `peer` at its other end.
    pub fn of(socket: &TcpStream, peer: SocketAddr) -> Self {
        let digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
        // Known already, so that nobody has to ask the kernel.
        let _ = digest.peer_addr.set(Some(peer.into()));
        Self { id: socket.as_raw_fd(), socket: Some(Arc::new(digest)), ..Self::default() }
    }
}

/// A client's connection.
pub struct Client<S: AsyncWrite + Unpin> {
    stream: Gathering<S>,
    facts: Facts,
    line: Arc<Line>,
    taking: Taking,
    timer: Option<Pin<Box<Sleep>>>,
    has_left: bool,
    is_deaf: bool,
    /// Something was flushed and waits for what comes behind it, or for the framework to wait for the client.
    is_holding: bool,
    /// The end of a head that is not heard to its own; nothing once that was passed on.
    cut: Option<&'static [u8]>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// The client at the other end of `stream`.
    pub fn new(stream: S, facts: Facts, line: Arc<Line>, taking: Taking) -> Self {
        let stream = Gathering::new(stream);
        let (has_left, is_deaf, is_holding) = (false, false, false);
        Self { stream, facts, line, taking, timer: None, has_left, is_deaf, is_holding, cut: None }
    }

    /// Pending until an answer that is due has not begun, or is not over.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(due) = self.line.answer_due() else { return Poll::Pending };
        let due = Instant::from_std(due);
        loop {
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            // One that is set for earlier is left as it is and set anew once it rings: nearly every answer comes long
            // before, and so a connection sets one now and then, not each of its requests one of its own.
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= due {
                break;
            }
            timer.as_mut().reset(due);
        }
        self.line.note_overdue();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ready once all that was written has gone.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_deaf {
            return Poll::Ready(Ok(()));
        }
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.forgive(outcome.map_ok(|()| 0), 0).map_ok(|_| ())
    }

    /// What a failed write means: nothing, where the client's leaving does not count.
    fn forgive(&mut self, outcome: Poll<io::Result<usize>>, whole: usize) -> Poll<io::Result<usize>> {
        let outcome = match outcome {
            // Ends as if it had failed.
            Poll::Ready(Ok(bytes)) if !self.taking.took(bytes, &self.line) => {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            outcome => outcome,
        };
        match outcome {
            Poll::Ready(Err(_)) if self.may_leave() => {
                self.is_deaf = true;
                Poll::Ready(Ok(whole))
            }
            Poll::Ready(Ok(bytes)) => {
                self.line.note_taken();
                self.line.note_client(false);
                Poll::Ready(Ok(bytes))
            }
            Poll::Pending => {
                self.taking.wait(&self.line);
                self.line.note_client(true);
                Poll::Pending
            }
            outcome @ Poll::Ready(Err(_)) => outcome,
        }
    }

    /// The client has left: whether its answer goes on all the same.
    fn may_leave(&mut self) -> bool {
        if !self.has_left {
            self.has_left = self.line.outlives_client() && self.line.forsake(FORSAKEN);
        }
        self.has_left
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Client<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let client = self.get_mut();
        if client.is_holding {
            match client.poll_out(cx) {
                Poll::Ready(outcome) => {
                    client.is_holding = false;
                    outcome?;
                }
                Poll::Pending => {}
            }
        }
        if client.line.ending.is_refused() {
            // Whatever else it has to say.
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if client.has_left && !client.line.outlives_client() {
            // Told now that it does no harm.
            return Poll::Ready(Ok(()));
        }
        if let Some(end) = client.cut.filter(|end| end.len() <= buf.remaining()) {
            buf.put_slice(end);
            client.cut = Some(&[]);
            return Poll::Ready(Ok(()));
        }
        if !client.has_left {
            let before = buf.filled().len();
            match Pin::new(&mut client.stream).poll_read(cx, buf) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) if buf.filled().len() > before || buf.remaining() == 0 => {
                    let mut hearing = client.line.hearing();
                    if hearing.hear(&buf.filled()[before..]) {
                        return Poll::Ready(Ok(()));
                    }
                    client.cut = hearing.cut_short();
                    let is_cut = client.cut.is_some();
                    return Poll::Ready(if is_cut { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) });
                }
                Poll::Ready(_) if client.may_leave() => {}
                Poll::Ready(outcome) => return Poll::Ready(outcome),
            }
        }
        client.poll_overdue(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Client<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let client = self.get_mut();
        if client.is_deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let outcome = Pin::new(&mut client.stream).poll_write(cx, buf);
        client.forgive(outcome, buf.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let client = self.get_mut();
        let whole = || bufs.iter().map(|buf| buf.len()).sum();
        if client.is_deaf {
            return Poll::Ready(Ok(whole()));
        }
        let outcome = Pin::new(&mut client.stream).poll_write_vectored(cx, bufs);
        client.forgive(outcome, whole())
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let client = self.get_mut();
        client.is_holding = client.line.may_hold();
        if client.is_holding { Poll::Ready(Ok(())) } else { client.poll_out(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<S: AsyncWrite + Unpin> Drop for Client<S> {
    /// An answer that ends too early is told as far as it came: who is sent nothing at all may take the request for one
    /// that was never heard.
    fn drop(&mut self) {
        if !self.is_deaf && !self.line.ending.is_cut() {
            // Whoever does not take it at once goes without.
            let _ = Pin::new(&mut self.stream).poll_flush(&mut Context::from_waker(Waker::noop()));
        }
    }
}

#[async_trait]
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Shutdown for Client<S> {
    async fn shutdown(&mut self) {
        // Whoever is told that the connection ends may be gone.
        drop(AsyncWriteExt::shutdown(&mut self.stream).await);
        if self.cut.is_some() {
            // Closed with something unread, a connection is reset, and its answer may be lost.
            let mut rest = (&mut self.stream).take(UNHEARD);
            drop(tokio::time::timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await);
        }
    }
}

impl<S: AsyncWrite + Unpin> UniqueID for Client<S> {
    fn id(&self) -> UniqueIDType {
        self.facts.id
    }
}

impl<S: AsyncWrite + Unpin> Ssl for Client<S> {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.facts.tls.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.facts.alpn.clone()
    }
}

impl<S: AsyncWrite + Unpin> GetTimingDigest for Client<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl<S: AsyncWrite + Unpin> GetProxyDigest for Client<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl<S: AsyncWrite + Unpin> GetSocketDigest for Client<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.facts.socket.clone()
    }
}

impl<S: AsyncWrite + Unpin> Peek for Client<S> {}

impl<S: AsyncWrite + Unpin> fmt::Debug for Client<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.facts).finish()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::gateway::seats::{Forsaken, Seats};

    fn patient() -> Taking {
        Taking::new(Duration::from_secs(30), 0)
    }

    fn connected() -> (Client<DuplexStream>, Arc<Line>, DuplexStream) {
        let (near, far) = duplex(1024);
        let line = Line::new(Duration::from_secs(60), None, Forsaken { seats: Arc::default(), most: 1 });
        (Client::new(near, Facts::default(), line.clone(), patient()), line, far)
    }

    /// Whether a read is still waiting after everything that can happen now has.
    async fn is_waiting(client: &mut Client<DuplexStream>) -> bool {
        let mut buf = [0; 8];
        let read = client.read(&mut buf);
        tokio::select! {
            biased;
            _ = read => false,
            () = tokio::task::yield_now() => true,
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_gone_at_once_unless_its_answer_outlives_it() {
        let (mut client, line, far) = connected();
        drop(far);
        assert!(!is_waiting(&mut client).await);
        assert!(!line.is_client_gone());

        let (mut client, line, far) = connected();
        line.outlive_client(true);
        drop(far);
        assert!(is_waiting(&mut client).await);
        assert!(line.is_client_gone());
        client.write_all(b"to nobody").await.unwrap();
        client.flush().await.unwrap();
        line.outlive_client(false);
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "told when the answer is over");
    }

    #[tokio::test]
    async fn a_client_that_has_only_finished_sending_gets_its_answer() {
        let (mut client, line, mut far) = connected();
        line.outlive_client(true);
        AsyncWriteExt::shutdown(&mut far).await.unwrap();
        assert!(is_waiting(&mut client).await);
        client.write_all(b"answer").await.unwrap();
        client.flush().await.unwrap();
        let mut got = [0; 6];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"answer");
    }

    #[tokio::test]
    async fn a_head_goes_with_what_follows_it_or_once_the_client_is_waited_for() {
        let (mut client, line, mut far) = connected();
        let mut got = [0; 16];
        line.hold();
        client.write_all(b"head ").await.unwrap();
        client.flush().await.unwrap();
        client.write_all(b"event").await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(far.read(&mut got).await.unwrap(), 10, "in one piece");

        line.hold();
        client.write_all(b"head ").await.unwrap();
        client.flush().await.unwrap();
        assert!(is_waiting(&mut client).await);
        assert_eq!(far.read(&mut got).await.unwrap(), 5, "nothing follows");
        client.write_all(b"event").await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(far.read(&mut got).await.unwrap(), 5, "once");
    }

    #[tokio::test]
    async fn an_answer_that_does_not_begin_ends_the_wait_and_one_that_has_begun_does_not() {
        let (mut client, line, _far) = connected();
        line.expect_answer(Duration::from_millis(10));
        let error = client.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(line.is_answer_overdue());

        let (mut client, line, _far) = connected();
        line.expect_answer(Duration::ZERO);
        line.answer_began();
        assert!(is_waiting(&mut client).await, "a quiet stream is left alone");
        assert!(!line.is_answer_overdue());
    }

    #[tokio::test]
    async fn the_time_a_client_takes_is_not_the_server_s() {
        let (mut client, line, _far) = connected();
        line.expect_answer(Duration::from_secs(60));
        let before = line.answer_due();
        // Deadlines are kept in milliseconds.
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(2) {
            tokio::task::yield_now().await;
        }
        client.write_all(b"a piece").await.unwrap();
        assert!(line.answer_due() > before);
        line.answer_began();
        client.write_all(b"a piece").await.unwrap();
        assert_eq!(line.answer_due(), None, "a stream stays without");
    }

    #[tokio::test]
    async fn an_answer_that_nobody_wants_does_not_go_on_for_ever() {
        let (mut client, line, far) = connected();
        line.outlive_client(true);
        drop(far);
        assert!(is_waiting(&mut client).await);
        let end = line.answer_due().expect("an end");
        line.answer_began();
        line.expect_answer(FORSAKEN * 2);
        assert_eq!(line.answer_due(), Some(end), "whatever the server does");
        line.expect_answer(Duration::ZERO);
        assert!(client.read(&mut [0; 8]).await.is_err());
    }

    #[tokio::test]
    async fn only_so_many_answers_go_on_without_their_clients_and_those_give_their_seats_back() {
        let connections: Arc<Seats> = Arc::default();
        let forsaken = Forsaken { seats: Arc::default(), most: 1 };
        let seated = || {
            let (near, far) = duplex(64);
            let seat = connections.take(2);
            let line = Line::new(Duration::from_secs(60), seat, forsaken.clone());
            line.outlive_client(true);
            drop(far);
            Client::new(near, Facts::default(), line, patient())
        };
        let (mut first, mut second) = (seated(), seated());
        assert!(connections.take(2).is_none());
        assert!(is_waiting(&mut first).await);
        assert!(connections.take(2).is_some(), "its seat is free for others");
        assert!(!is_waiting(&mut second).await, "the second is gone as any other client is");
        drop(first);
        assert!(forsaken.seats.take(1).is_some());
    }
}
