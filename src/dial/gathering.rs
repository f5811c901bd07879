//! Gathers what is written until it is flushed, so that a head and a short body go in one piece.
//!
//! Decides how much is gathered. Between two answers it holds no memory: a stream may stand for hours, and most connections
//! are idle most of the time.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are gathered at most; what is larger goes as it is.
const MOST: usize = 8 * 1024;

/// A connection whose writes are gathered.
#[derive(Debug)]
pub struct Gathering<S> {
    stream: S,
    gathered: Vec<u8>,
    /// How much of that has gone.
    gone: usize,
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    /// Nothing gathered yet.
    pub fn new(stream: S) -> Self {
        Self { stream, gathered: Vec::new(), gone: 0 }
    }

    /// Ready once all that was gathered has gone, and its memory with it.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.gone < self.gathered.len() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered[self.gone..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gone += written;
        }
        (self.gathered, self.gone) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Whether nothing of what was written since the last flush has gone.
    pub fn holds_all(&self) -> bool {
        self.gone == 0 && !self.gathered.is_empty()
    }

    /// Whether a part of what was gathered has gone.
    pub fn has_gone(&self) -> bool {
        self.gone > 0
    }

    /// What is written to.
    pub fn inner(&self) -> &S {
        &self.stream
    }

    fn gather(&mut self, bytes: &[u8]) {
        if self.gathered.capacity() == 0 {
            self.gathered.reserve_exact(MOST);
        }
        self.gathered.extend_from_slice(bytes);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.gathered.len() + buf.len() > MOST {
            ready!(this.poll_gone(cx))?;
        }
        if buf.len() >= MOST {
            return Pin::new(&mut this.stream).poll_write(cx, buf);
        }
        this.gather(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let whole = bufs.iter().map(|buf| buf.len()).sum();
        if this.gathered.len() + whole > MOST {
            ready!(this.poll_gone(cx))?;
        }
        if whole >= MOST {
            return Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        }
        for buf in bufs {
            this.gather(buf);
        }
        Poll::Ready(Ok(whole))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_gone(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_gone(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn what_is_written_goes_in_one_piece_once_it_is_flushed_and_leaves_no_memory() {
        let (near, mut far) = duplex(64 * 1024);
        let mut gathering = Gathering::new(near);
        gathering.write_all(b"head ").await.unwrap();
        gathering.write_all(b"body").await.unwrap();
        assert!(futures_util::poll!(std::pin::pin!(far.read_u8())).is_pending());
        gathering.flush().await.unwrap();
        let mut read = vec![0; 100];
        let length = far.read(&mut read).await.unwrap();
        assert_eq!((&read[..length], gathering.gathered.capacity()), (&b"head body"[..], 0));
    }

    #[tokio::test]
    async fn a_connection_that_takes_nothing_is_an_error() {
        let (near, far) = duplex(16);
        drop(far);
        let mut gathering = Gathering::new(near);
        gathering.write_all(b"to nobody").await.unwrap();
        assert!(gathering.flush().await.is_err());
    }

    proptest! {
        #[test]
        fn every_byte_arrives_in_its_order(
            pieces in prop::collection::vec((0_usize..3 * MOST, 0_u8..3), 0..12), room in 1_usize..20_000
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (near, mut far) = duplex(room);
                let mut sent = Vec::new();
                let write = async {
                    let mut gathering = Gathering::new(near);
                    for (number, (length, way)) in pieces.into_iter().enumerate() {
                        let piece = vec![number as u8; length];
                        match way {
                            0 => gathering.write_all(&piece).await.unwrap(),
                            1 => {
                                let (one, other) = piece.split_at(length / 3);
                                let both = [IoSlice::new(one), IoSlice::new(other)];
                                let taken = gathering.write_vectored(&both).await.unwrap();
                                gathering.write_all(&piece[taken..]).await.unwrap();
                            }
                            _ => {
                                gathering.write_all(&piece).await.unwrap();
                                gathering.flush().await.unwrap();
                            }
                        }
                        sent.extend(piece);
                    }
                    gathering.shutdown().await.unwrap();
                };
                let mut arrived = Vec::new();
                let read = far.read_to_end(&mut arrived);
                let ((), read) = tokio::join!(write, read);
                read.unwrap();
                assert_eq!(arrived, sent);
            });
        }
    }
}
