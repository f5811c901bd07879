//! A connection to a server that holds back a request's head until its body comes, so that both go in one piece.
//!
//! The framework sends the head alone: one system call more, and the server is woken twice for a request. Decides nothing:
//! what is held goes with the next flush, which the end of every request brings.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType, raw_connect::ProxyDigest, tls::SslDigest,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::gathering::Gathering;

/// The connection, under what holds back.
#[derive(Debug)]
pub struct Held {
    stream: Gathering<Stream>,
    /// The next flush is that of a head.
    is_head: AtomicBool,
    /// Something of the request has gone.
    has_sent: AtomicBool,
}

impl Held {
    /// A connection on which nothing has been said.
    pub fn new(stream: Stream) -> Self {
        Self { stream: Gathering::new(stream), is_head: true.into(), has_sent: false.into() }
    }

    /// The one that `stream` is; none where it is another.
    pub fn of(stream: &Stream) -> Option<&Self> {
        (**stream).as_any().downcast_ref()
    }

    /// The next request begins.
    pub fn begin(&self) {
        self.is_head.store(true, Ordering::Relaxed);
        self.has_sent.store(false, Ordering::Relaxed);
    }

    /// Whether anything of the request can have gone.
    pub fn has_sent(&self) -> bool {
        self.has_sent.load(Ordering::Relaxed)
    }
}

impl AsyncRead for Held {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Held {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let held = self.get_mut();
        let written = ready!(Pin::new(&mut held.stream).poll_write(cx, buf))?;
        if !held.stream.holds_all() {
            held.has_sent.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        self.poll_write(cx, first)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let held = self.get_mut();
        if held.is_head.swap(false, Ordering::Relaxed) && held.stream.holds_all() {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut held.stream).poll_flush(cx);
        if !matches!(flushed, Poll::Ready(Err(_))) || held.stream.has_gone() {
            held.has_sent.store(true, Ordering::Relaxed);
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Held {
    async fn shutdown(&mut self) {
        // Whoever is told that the connection ends may be gone.
        drop(AsyncWriteExt::shutdown(&mut self.stream).await);
    }
}

impl UniqueID for Held {
    fn id(&self) -> UniqueIDType {
        self.stream.inner().id()
    }
}

impl Ssl for Held {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.inner().get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.inner().selected_alpn_proto()
    }
}

impl GetTimingDigest for Held {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.inner().get_timing_digest()
    }
}

impl GetProxyDigest for Held {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.inner().get_proxy_digest()
    }
}

impl GetSocketDigest for Held {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.inner().get_socket_digest()
    }
}

impl Peek for Held {}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_head_goes_with_its_body_in_each_request_and_alone_where_it_has_none() {
        let (near, mut far) = duplex(64 * 1024);
        let mut held = Held::new(Box::new(near));
        let mut read = vec![0; 100];
        for _ in 0..2 {
            held.write_all(b"head ").await.unwrap();
            held.flush().await.unwrap();
            assert!(!held.has_sent());
            held.write_all(b"body").await.unwrap();
            held.flush().await.unwrap();
            assert!(held.has_sent());
            let length = far.read(&mut read).await.unwrap();
            assert_eq!(&read[..length], b"head body");
            held.begin();
        }
        held.write_all(b"head").await.unwrap();
        held.flush().await.unwrap();
        held.flush().await.unwrap();
        let length = far.read(&mut read).await.unwrap();
        assert_eq!(&read[..length], b"head");
    }

    #[tokio::test]
    async fn what_could_not_go_at_all_was_not_sent() {
        let (near, far) = duplex(64);
        drop(far);
        let mut held = Held::new(Box::new(near));
        held.write_all(b"head").await.unwrap();
        held.flush().await.unwrap();
        assert!(held.flush().await.is_err() && !held.has_sent());
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_to_be_held_goes_at_once() {
        let (near, mut far) = duplex(64 * 1024);
        let mut held = Held::new(Box::new(near));
        held.write_all(&[b'x'; 20_000]).await.unwrap();
        assert!(held.has_sent());
        assert_eq!(far.read(&mut [0; 30_000]).await.unwrap(), 20_000);
        let stream: Stream = Box::new(held);
        assert!(Held::of(&stream).is_some());
    }
}
