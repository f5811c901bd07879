//! Connections without TLS that outlive an exchange: lent to the framework for one, and taken back when that was whole.
//!
//! Decides which connection serves again. The framework's own pool costs a call a task, two channels and entries in two
//! tables; here it is a stack for each peer and thread. So the framework is lent a socket that says, once it is asked
//! whether it may serve again, that it has ended: by then it has been taken back, or closed where it may not.

use std::{
    collections::{HashMap, VecDeque},
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use pingora::{
    Error, ErrorType, OrErr,
    connectors::L4Connect,
    protocols::{
        TcpKeepalive,
        l4::{
            ext::connect,
            socket::SocketAddr,
            stream::Stream,
            virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream},
        },
    },
    upstreams::peer::{HttpPeer, Peer},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::AbortHandle,
};

/// Idle connections of one thread, to all peers together. What comes when there are as many is closed.
const MOST: usize = 512;
/// Bytes of a head and a body that go in one piece; a larger body is not worth a copy.
const TOGETHER: usize = 32 * 1024;
/// Between two looks which of them have been idle for too long, or were closed by their peers.
const LOOK: Duration = Duration::from_millis(500);

/// The idle connections of a thread. A clone has the same.
#[derive(Debug, Clone, Default)]
pub struct Idle(Arc<Mutex<Stacks>>);

#[derive(Debug, Default)]
struct Stacks {
    by_key: HashMap<u64, VecDeque<Kept>>,
    count: usize,
    /// Closes those that nobody takes.
    looking: Option<AbortHandle>,
}

#[derive(Debug)]
struct Kept {
    socket: TcpStream,
    since: Instant,
    idle_timeout: Duration,
}

impl Kept {
    /// Whether it is young enough, and nothing was said on it since, not even that it ends. The kernel is asked itself: the
    /// runtime learns later of what has come, and it would be taken for the next answer.
    fn is_good(&self) -> bool {
        let peeked = SockRef::from(&self.socket).peek(&mut [MaybeUninit::uninit()]);
        let is_silent = matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        is_silent && self.since.elapsed() < self.idle_timeout
    }
}

impl Idle {
    /// A loan of a connection to this peer; none where it is not for such connections.
    pub fn lend(&self, peer: &HttpPeer) -> Option<Arc<Loan>> {
        let options = &peer.options;
        // `h2c` has connections that several exchanges share.
        if peer.is_tls() || options.alpn.get_min_http_version() == 2 {
            return None;
        }
        Some(Arc::new(Loan {
            idle: self.clone(),
            // Those with and without probes are not the same.
            key: peer.reuse_hash() ^ u64::from(options.tcp_keepalive.is_some()),
            idle_timeout: options.idle_timeout.unwrap_or_default(),
            connection_timeout: options.connection_timeout,
            keepalive: options.tcp_keepalive.clone(),
            is_lent: false.into(),
            is_reused: false.into(),
            has_sent: false.into(),
            is_over: false.into(),
        }))
    }

    /// The one that was used last, of those that are still good.
    fn take(&self, key: u64) -> Option<TcpStream> {
        let mut stacks = self.lock();
        loop {
            let kept = stacks.by_key.get_mut(&key)?.pop_back()?;
            stacks.count -= 1;
            if kept.is_good() {
                return Some(kept.socket);
            }
        }
    }

    fn keep(&self, key: u64, socket: TcpStream, idle_timeout: Duration) {
        let mut stacks = self.lock();
        if stacks.count >= MOST {
            return;
        }
        stacks.count += 1;
        let kept = Kept { socket, since: Instant::now(), idle_timeout };
        stacks.by_key.entry(key).or_default().push_back(kept);
        if stacks.looking.as_ref().is_none_or(AbortHandle::is_finished) {
            stacks.looking = Some(tokio::spawn(look_after(Arc::downgrade(&self.0))).abort_handle());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stacks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes those that have been idle for too long, or that their peers have closed, until there are none.
async fn look_after(idle: Weak<Mutex<Stacks>>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(idle) = idle.upgrade() else { return };
        let mut stacks = idle.lock().unwrap_or_else(PoisonError::into_inner);
        stacks.by_key.retain(|_, kept| {
            kept.retain(Kept::is_good);
            !kept.is_empty()
        });
        stacks.count = stacks.by_key.values().map(VecDeque::len).sum();
        if stacks.count == 0 {
            stacks.looking = None;
            return;
        }
    }
}

/// The loan of a connection for one exchange, as whoever has it sees it.
#[derive(Debug)]
pub struct Loan {
    idle: Idle,
    key: u64,
    idle_timeout: Duration,
    connection_timeout: Option<Duration>,
    keepalive: Option<TcpKeepalive>,
    is_lent: AtomicBool,
    is_reused: AtomicBool,
    has_sent: AtomicBool,
    is_over: AtomicBool,
}

impl Loan {
    /// Whether the connection has served before.
    pub fn is_reused(&self) -> bool {
        self.is_reused.load(Ordering::Relaxed)
    }

    /// Whether anything of the request can have gone. What went by another connection nobody here knows of.
    pub fn has_sent(&self) -> bool {
        self.has_sent.load(Ordering::Relaxed) || !self.is_lent.load(Ordering::Relaxed)
    }

    /// The exchange is over: nothing more is sent, and whoever reads once more asks whether the connection may serve again.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// A connection, lent by this loan.
    pub async fn stream(self: Arc<Self>, address: &SocketAddr) -> pingora::Result<Stream> {
        let socket = match self.idle.take(self.key) {
            Some(socket) => {
                self.is_reused.store(true, Ordering::Relaxed);
                socket
            }
            None => self.open(address).await?,
        };
        self.is_lent.store(true, Ordering::Relaxed);
        Ok(VirtualSocketStream::new(Box::new(Lent::new(socket, self))).into())
    }

    async fn open(&self, address: &SocketAddr) -> pingora::Result<TcpStream> {
        let Some(address) = address.as_inet() else {
            return Error::e_explain(ErrorType::ConnectError, "no address of the Internet");
        };
        let opening = connect(address, None);
        let socket = match self.connection_timeout {
            Some(deadline) => tokio::time::timeout(deadline, opening)
                .await
                .or_err(ErrorType::ConnectTimedout, "no connection in time")??,
            None => opening.await?,
        };
        let prepared = socket.set_nodelay(true).and_then(|()| match &self.keepalive {
            Some(probes) => SockRef::from(&socket).set_tcp_keepalive(
                &socket2::TcpKeepalive::new()
                    .with_time(probes.idle)
                    .with_interval(probes.interval)
                    .with_retries(u32::try_from(probes.count).unwrap_or(u32::MAX)),
            ),
            None => Ok(()),
        });
        prepared.or_err(ErrorType::SocketError, "the socket cannot be prepared")?;
        Ok(socket)
    }
}

/// How the framework asks for the connection of a loan.
#[derive(Debug)]
pub struct Lender(pub Arc<Loan>);

#[async_trait]
impl L4Connect for Lender {
    async fn connect(&self, address: &SocketAddr) -> pingora::Result<Stream> {
        self.0.clone().stream(address).await
    }
}

/// A connection while it is lent. It holds the request's head back until the next write or flush, so that head and body
/// go in one piece: the framework sends the head alone, which is a system call more, and wakes the server twice.
#[derive(Debug)]
struct Lent {
    /// None once it has been taken back.
    socket: Option<TcpStream>,
    /// What is held back, and how much of that has gone.
    held: Vec<u8>,
    gone: usize,
    /// The head is not complete: its end is flushed.
    is_head: bool,
    /// The framework has said that it ends.
    is_ending: bool,
    loan: Arc<Loan>,
}

impl Lent {
    fn new(socket: TcpStream, loan: Arc<Loan>) -> Self {
        Self { socket: Some(socket), held: Vec::new(), gone: 0, is_head: true, is_ending: false, loan }
    }

    /// Takes it back, where it may serve again.
    fn take_back(&mut self, cx: &mut Context<'_>) {
        let Some(mut socket) = self.socket.take() else { return };
        // What comes after the end of an answer belongs to none.
        let is_silent = Pin::new(&mut socket).poll_read(cx, &mut ReadBuf::new(&mut [0])).is_pending();
        if is_silent && !self.is_ending && self.held.is_empty() {
            let Loan { idle, key, idle_timeout, .. } = &*self.loan;
            idle.keep(*key, socket, *idle_timeout);
        }
    }

    /// Closes it, and sends nothing more.
    fn give_up(&mut self) {
        self.socket = None;
        self.held.clear();
    }

    /// Writes what is held back.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(socket) = &mut self.socket else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        while self.gone < self.held.len() {
            let written = match ready!(Pin::new(&mut *socket).poll_write(cx, &self.held[self.gone..])) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                written => written,
            };
            // What could not go stays here, though the framework flushes what it drops.
            let written = written.inspect_err(|_| (self.held, self.gone) = (Vec::new(), 0))?;
            self.loan.has_sent.store(true, Ordering::Relaxed);
            self.gone += written;
        }
        (self.held, self.gone) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Lent {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let lent = self.get_mut();
        if lent.loan.is_over.load(Ordering::Relaxed) {
            lent.take_back(cx);
        }
        let Some(socket) = &mut lent.socket else { return Poll::Ready(Ok(())) };
        let read = ready!(Pin::new(socket).poll_read(cx, buf));
        if !lent.loan.has_sent() {
            // It answers nothing that was asked.
            lent.is_ending = true;
            if lent.loan.is_reused() {
                // The end of an idle connection, or what is another's. A new one may be told at once to come later.
                lent.give_up();
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let lent = self.get_mut();
        // The framework writes what it still has when it drops a connection, too.
        if lent.loan.is_over.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !lent.is_head && lent.held.len() + buf.len() > TOGETHER {
            ready!(lent.poll_send(cx))?;
        }
        if !lent.is_head && lent.held.is_empty() {
            let Some(socket) = &mut lent.socket else {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            };
            let written = ready!(Pin::new(socket).poll_write(cx, buf))?;
            lent.loan.has_sent.store(true, Ordering::Relaxed);
            return Poll::Ready(Ok(written));
        }
        lent.held.extend_from_slice(buf);
        // Not gathered until the next flush: the framework flushes a body of known length at its end alone.
        if !lent.is_head
            && let Poll::Ready(Err(error)) = lent.poll_send(cx)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let lent = self.get_mut();
        let is_of_head = std::mem::replace(&mut lent.is_head, false);
        // The framework flushes what it drops, too.
        if is_of_head || lent.held.is_empty() || lent.loan.is_over.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        lent.poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let lent = self.get_mut();
        lent.is_ending = true;
        match &mut lent.socket {
            Some(socket) => Pin::new(socket).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl VirtualSocket for Lent {
    /// It was prepared when it was opened.
    fn set_socket_option(&self, _option: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        time::{sleep, timeout},
    };

    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

    /// A peer, what it listens on, and the connections of whoever calls it.
    struct Scene {
        listener: TcpListener,
        peer: HttpPeer,
        idle: Idle,
    }

    impl Scene {
        async fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut peer = HttpPeer::new(listener.local_addr().unwrap(), false, String::new());
            peer.options.idle_timeout = Some(LOOK * 4);
            Self { listener, peer, idle: Idle::default() }
        }

        async fn lend(&self) -> (Stream, Arc<Loan>) {
            let loan = self.idle.lend(&self.peer).unwrap();
            (loan.clone().stream(self.peer.address()).await.unwrap(), loan)
        }

        /// Has one exchange of a connection that the peer sees for the first time.
        async fn exchange(&self) -> (Stream, Arc<Loan>, TcpStream) {
            let ((mut stream, loan), accepted) = tokio::join!(self.lend(), self.listener.accept());
            let (mut peer, _) = accepted.unwrap();
            say(&mut stream, &loan).await;
            hear(&mut peer).await;
            peer.write_all(ANSWER).await.unwrap();
            stream.read_exact(&mut [0; ANSWER.len()]).await.unwrap();
            (stream, loan, peer)
        }
    }

    async fn say(stream: &mut Stream, loan: &Loan) {
        stream.write_all(b"head ").await.unwrap();
        stream.flush().await.unwrap();
        assert!(!loan.has_sent());
        stream.write_all(b"body").await.unwrap();
        stream.flush().await.unwrap();
        assert!(loan.has_sent());
    }

    #[tokio::test]
    async fn a_part_of_a_body_goes_as_it_comes_and_a_head_alone_with_the_end() {
        let scene = Scene::new().await;
        let ((mut stream, _), accepted) = tokio::join!(scene.lend(), scene.listener.accept());
        let mut peer = accepted.unwrap().0;
        stream.write_all(b"head ").await.unwrap();
        stream.flush().await.unwrap();
        stream.write_all(b"body").await.unwrap();
        hear(&mut peer).await;
        stream.write_all(b"head body").await.unwrap();
        hear(&mut peer).await;

        let ((mut stream, loan), accepted) = tokio::join!(scene.lend(), scene.listener.accept());
        stream.write_all(b"head ").await.unwrap();
        stream.write_all(b"body").await.unwrap();
        stream.flush().await.unwrap();
        assert!(!loan.has_sent());
        stream.flush().await.unwrap();
        assert!(loan.has_sent());
        hear(&mut accepted.unwrap().0).await;
    }

    #[tokio::test]
    async fn every_byte_arrives_where_the_peer_takes_little_at_once() {
        let scene = Scene::new().await;
        let ((mut stream, _), accepted) = tokio::join!(scene.lend(), scene.listener.accept());
        let mut peer = accepted.unwrap().0;
        let (head, body) = (vec![b'h'; 6 << 20], vec![b'b'; 6 << 20]);
        let send = async {
            stream.write_all(&head).await.unwrap();
            stream.flush().await.unwrap();
            stream.write_all(&body).await.unwrap();
            stream.flush().await.unwrap();
        };
        let mut heard = vec![0; head.len() + body.len()];
        let (read, ()) = tokio::join!(peer.read_exact(&mut heard), send);
        read.unwrap();
        assert!(heard == [head, body].concat());
    }

    async fn hear(peer: &mut TcpStream) {
        let mut heard = [0; 100];
        let length = peer.read(&mut heard).await.unwrap();
        assert_eq!(&heard[..length], b"head body", "in one piece");
    }

    /// Whether it ends, as the framework asks before it keeps a connection.
    async fn ends(stream: &mut Stream) -> bool {
        matches!(timeout(LOOK / 5, stream.read(&mut [0])).await, Ok(Ok(0)))
    }

    async fn is_closed(peer: &mut TcpStream) -> bool {
        matches!(timeout(LOOK * 10, peer.read(&mut [0])).await, Ok(Ok(0) | Err(_)))
    }

    #[tokio::test]
    async fn a_connection_whose_exchange_was_whole_serves_again() {
        let scene = Scene::new().await;
        let (mut stream, loan, mut peer) = scene.exchange().await;
        assert!(!loan.is_reused());
        loan.end();
        assert!(ends(&mut stream).await, "the framework keeps none");
        drop(stream);
        let (mut stream, loan) = scene.lend().await;
        assert!(loan.is_reused());
        say(&mut stream, &loan).await;
        hear(&mut peer).await;
        // Somebody else at the same time has another.
        let (other, accepted) = tokio::join!(scene.lend(), scene.listener.accept());
        assert!(accepted.is_ok() && !other.1.is_reused());
    }

    #[tokio::test]
    async fn a_connection_is_closed_whose_exchange_was_not_whole_or_that_was_told_to_end() {
        let scene = Scene::new().await;
        let (stream, _, mut peer) = scene.exchange().await;
        drop(stream);
        assert!(is_closed(&mut peer).await, "its answer was not read to the end");

        let (mut stream, loan, mut peer) = scene.exchange().await;
        loan.end();
        stream.shutdown().await.unwrap();
        assert!(ends(&mut stream).await);
        drop(stream);
        assert!(is_closed(&mut peer).await, "it was told to end");

        let (mut stream, loan, mut peer) = scene.exchange().await;
        peer.write_all(b"more than was asked for").await.unwrap();
        sleep(LOOK / 10).await;
        loan.end();
        assert!(ends(&mut stream).await);
        drop(stream);
        assert!(is_closed(&mut peer).await, "something came after the answer");

        let ((mut stream, loan), accepted) = tokio::join!(scene.lend(), scene.listener.accept());
        stream.write_all(b"a head that was not needed").await.unwrap();
        loan.end();
        assert!(ends(&mut stream).await);
        assert!(is_closed(&mut accepted.unwrap().0).await, "something is held back");
        let fresh = scene.lend().await;
        assert!(!fresh.1.is_reused());
    }

    #[tokio::test]
    async fn an_idle_connection_is_closed_in_time_and_one_that_its_peer_has_closed_is_not_taken() {
        let scene = Scene::new().await;
        let (mut stream, loan, mut peer) = scene.exchange().await;
        loan.end();
        assert!(ends(&mut stream).await);
        let began = std::time::Instant::now();
        assert!(is_closed(&mut peer).await);
        let after = began.elapsed();
        assert!(after > LOOK * 2 && after < LOOK * 6, "{after:?}");
        assert!(scene.idle.lock().looking.is_none(), "nobody looks after none");

        let (mut stream, loan, peer) = scene.exchange().await;
        loan.end();
        assert!(ends(&mut stream).await);
        drop(peer);
        // Until the runtime has heard of it.
        sleep(LOOK / 10).await;
        let fresh = scene.lend().await;
        assert!(!fresh.1.is_reused());
        assert_eq!(scene.idle.lock().count, 0);
    }

    #[tokio::test]
    async fn nothing_is_lent_for_tls_nor_for_connections_that_are_shared() {
        let Scene { mut peer, idle, .. } = Scene::new().await;
        peer.options.set_http_version(2, 2);
        assert!(idle.lend(&peer).is_none());
        let tls = HttpPeer::new("127.0.0.1:1", true, "a.example".to_owned());
        assert!(idle.lend(&tls).is_none());
    }

    #[tokio::test]
    async fn what_comes_on_an_idle_connection_before_anything_was_sent_is_no_answer_and_ends_it() {
        for said in [Some(ANSWER), None] {
            let scene = Scene::new().await;
            let (mut stream, loan, mut peer) = scene.exchange().await;
            loan.end();
            assert!(ends(&mut stream).await);
            let (mut stream, loan) = scene.lend().await;
            assert!(loan.is_reused());
            stream.write_all(b"head ").await.unwrap();
            stream.flush().await.unwrap();
            match said {
                Some(said) => peer.write_all(said).await.unwrap(),
                None => peer.shutdown().await.unwrap(),
            }
            assert!(stream.read(&mut [0; 100]).await.is_err() && !loan.has_sent());
            // The framework flushes what it drops.
            drop(stream);
            let mut heard = Vec::new();
            drop(timeout(LOOK, peer.read_to_end(&mut heard)).await);
            assert_eq!(heard, b"");
            assert_eq!(scene.idle.lock().count, 0);
        }
    }

    #[tokio::test]
    async fn what_a_new_connection_is_told_at_once_is_heard_and_it_serves_nobody_else() {
        let scene = Scene::new().await;
        let ((mut stream, loan), accepted) = tokio::join!(scene.lend(), scene.listener.accept());
        let mut peer = accepted.unwrap().0;
        peer.write_all(ANSWER).await.unwrap();
        stream.read_exact(&mut [0; ANSWER.len()]).await.unwrap();
        say(&mut stream, &loan).await;
        loan.end();
        assert!(ends(&mut stream).await);
        hear(&mut peer).await;
        assert!(is_closed(&mut peer).await);
    }

    #[tokio::test]
    async fn nothing_is_sent_once_the_exchange_is_over() {
        let scene = Scene::new().await;
        let ((mut stream, loan), accepted) = tokio::join!(scene.lend(), scene.listener.accept());
        stream.write_all(b"head ").await.unwrap();
        stream.flush().await.unwrap();
        loan.end();
        drop(stream);
        assert!(!loan.has_sent() && is_closed(&mut accepted.unwrap().0).await);
    }

    #[tokio::test]
    async fn of_what_was_not_lent_nobody_says_that_nothing_was_sent() {
        let Scene { peer, idle, .. } = Scene::new().await;
        assert!(idle.lend(&peer).unwrap().has_sent());
    }

    #[tokio::test]
    async fn a_peer_that_is_not_there_is_told_as_the_framework_does() {
        let Scene { listener, peer, idle } = Scene::new().await;
        drop(listener);
        let loan = idle.lend(&peer).unwrap();
        let error = loan.clone().stream(peer.address()).await.unwrap_err();
        assert_eq!(*error.etype(), ErrorType::ConnectRefused);
    }
}
