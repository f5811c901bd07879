//! Connections without TLS that outlive an exchange: lent for one, and taken back when that was whole.
//!
//! Decides which connection serves again. The framework's own pool costs a call a task, two channels and entries in two
//! tables; here it is a stack for each peer and thread.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::AsRawFd,
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
    ErrorType, OrErr,
    protocols::{
        GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TcpKeepalive,
        TimingDigest, UniqueID, UniqueIDType, http::v1::client::HttpSession as Http1, l4::ext::connect,
        raw_connect::ProxyDigest, tls::SslDigest,
    },
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    task::AbortHandle,
};

/// Idle connections of one thread, to all peers together. What comes when there are as many is closed.
const MOST: usize = 512;
/// Bytes of a head and a body that go in one piece; a larger body is not worth a copy.
const TOGETHER: usize = 32 * 1024;
/// And of those that usually do.
const USUALLY: usize = 1024;
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
    /// A loan of a connection on these terms.
    pub fn lend(&self, terms: Terms) -> Arc<Loan> {
        Arc::new(Loan { idle: self.clone(), terms, is_reused: false.into(), has_sent: false.into() })
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

/// Where a connection leads, and how it is made and kept.
#[derive(Debug, Clone)]
pub struct Terms {
    address: SocketAddr,
    /// Connections with the same serve the same.
    key: u64,
    connection_timeout: Duration,
    idle_timeout: Duration,
    /// When a silent one is asked whether anybody is there.
    probes: TcpKeepalive,
}

impl Terms {
    /// To this address, for whoever shares the pool.
    pub fn new(
        (address, pool): (SocketAddr, u64),
        connection_timeout: Duration,
        idle_timeout: Duration,
        probes: TcpKeepalive,
    ) -> Self {
        let mut hasher = DefaultHasher::new();
        (pool, address).hash(&mut hasher);
        Self { address, key: hasher.finish(), connection_timeout, idle_timeout, probes }
    }

    async fn open(&self) -> pingora::Result<TcpStream> {
        let opening = connect(&self.address, None);
        let socket = tokio::time::timeout(self.connection_timeout, opening)
            .await
            .or_err(ErrorType::ConnectTimedout, "no connection in time")??;
        let probes = &self.probes;
        let prepared = socket.set_nodelay(true).and_then(|()| {
            SockRef::from(&socket).set_tcp_keepalive(
                &socket2::TcpKeepalive::new()
                    .with_time(probes.idle)
                    .with_interval(probes.interval)
                    .with_retries(u32::try_from(probes.count).unwrap_or(u32::MAX)),
            )
        });
        prepared.or_err(ErrorType::SocketError, "the socket cannot be prepared")?;
        Ok(socket)
    }
}

/// The loan of a connection for one exchange, as whoever has it sees it.
#[derive(Debug)]
pub struct Loan {
    idle: Idle,
    terms: Terms,
    is_reused: AtomicBool,
    has_sent: AtomicBool,
}

impl Loan {
    /// Whether the connection has served before.
    pub fn is_reused(&self) -> bool {
        self.is_reused.load(Ordering::Relaxed)
    }

    /// Whether anything of the request can have gone.
    pub fn has_sent(&self) -> bool {
        self.has_sent.load(Ordering::Relaxed)
    }

    /// A connection, lent by this loan.
    pub async fn lent(self: &Arc<Self>) -> pingora::Result<Box<Lent>> {
        let socket = match self.idle.take(self.terms.key) {
            Some(socket) => {
                self.is_reused.store(true, Ordering::Relaxed);
                socket
            }
            None => self.terms.open().await?,
        };
        Ok(Box::new(Lent::new(socket, self.clone())))
    }

    /// The exchange was whole: its connection is taken back, where it may serve again.
    pub async fn take_back(&self, mut session: Http1) {
        session.respect_keepalive();
        if let Some(stream) = session.reuse().await
            && let Ok(lent) = stream.into_any().downcast()
        {
            self.keep(*lent);
        }
    }

    fn keep(&self, lent: Lent) {
        if lent.may_serve_again() {
            self.idle.keep(self.terms.key, lent.socket, self.terms.idle_timeout);
        }
    }
}

/// A connection while it is lent. It holds the request's head back until the next write or flush, so that head and body
/// go in one piece: the framework sends the head alone, which is a system call more, and wakes the server twice.
#[derive(Debug)]
pub struct Lent {
    socket: TcpStream,
    /// What is held back, and how much of that has gone.
    held: Vec<u8>,
    gone: usize,
    /// The head is not complete: its end is flushed.
    is_head: bool,
    loan: Arc<Loan>,
}

impl Lent {
    fn new(socket: TcpStream, loan: Arc<Loan>) -> Self {
        Self { socket, held: Vec::new(), gone: 0, is_head: true, loan }
    }

    fn may_serve_again(&self) -> bool {
        // What comes after the end of an answer belongs to none.
        let is_silent = || {
            let read = self.socket.try_read(&mut [0]);
            matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        };
        self.held.is_empty() && is_silent()
    }

    /// Writes what is held back.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.gone < self.held.len() {
            let written = match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.held[self.gone..])) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                written => written,
            };
            // What could not go stays here, though more may be flushed.
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
        Pin::new(&mut self.get_mut().socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let lent = self.get_mut();
        if !lent.is_head && lent.held.len() + buf.len() > TOGETHER {
            ready!(lent.poll_send(cx))?;
        }
        if !lent.is_head && lent.held.is_empty() {
            let written = ready!(Pin::new(&mut lent.socket).poll_write(cx, buf))?;
            lent.loan.has_sent.store(true, Ordering::Relaxed);
            return Poll::Ready(Ok(written));
        }
        if lent.held.capacity() == 0 {
            lent.held.reserve(USUALLY);
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
        if is_of_head || lent.held.is_empty() {
            return Poll::Ready(Ok(()));
        }
        lent.poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Lent {
    async fn shutdown(&mut self) {
        // Whoever is told that the connection ends may be gone.
        drop(AsyncWriteExt::shutdown(self).await);
    }
}

impl UniqueID for Lent {
    fn id(&self) -> UniqueIDType {
        self.socket.as_raw_fd()
    }
}

// Nobody asks for any of this.

impl Ssl for Lent {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        None
    }
}

impl GetTimingDigest for Lent {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Lent {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Lent {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

impl Peek for Lent {}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncReadExt,
        net::TcpListener,
        time::{sleep, timeout},
    };

    use super::*;

    const PROBES: TcpKeepalive = TcpKeepalive {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(15),
        count: 4,
        #[cfg(target_os = "linux")]
        user_timeout: Duration::ZERO,
    };
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

    /// A peer, what it listens on, and the connections of whoever calls it.
    struct Scene {
        listener: TcpListener,
        terms: Terms,
        idle: Idle,
    }

    impl Scene {
        async fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let terms = Terms::new((listener.local_addr().unwrap(), 0), LOOK * 4, LOOK * 4, PROBES);
            Self { listener, terms, idle: Idle::default() }
        }

        async fn lend(&self) -> (Lent, Arc<Loan>) {
            let loan = self.idle.lend(self.terms.clone());
            (*loan.lent().await.unwrap(), loan)
        }

        /// Has one exchange of a connection that the peer sees for the first time.
        async fn exchange(&self) -> (Lent, Arc<Loan>, TcpStream) {
            let ((mut stream, loan), accepted) = tokio::join!(self.lend(), self.listener.accept());
            let (mut peer, _) = accepted.unwrap();
            say(&mut stream, &loan).await;
            hear(&mut peer).await;
            peer.write_all(ANSWER).await.unwrap();
            stream.read_exact(&mut [0; ANSWER.len()]).await.unwrap();
            (stream, loan, peer)
        }
    }

    async fn say(stream: &mut Lent, loan: &Loan) {
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

    async fn is_closed(peer: &mut TcpStream) -> bool {
        matches!(timeout(LOOK * 10, peer.read(&mut [0])).await, Ok(Ok(0) | Err(_)))
    }

    #[tokio::test]
    async fn a_connection_whose_exchange_was_whole_serves_again() {
        let scene = Scene::new().await;
        let (stream, loan, mut peer) = scene.exchange().await;
        assert!(!loan.is_reused());
        loan.keep(stream);
        let (mut stream, loan) = scene.lend().await;
        assert!(loan.is_reused());
        say(&mut stream, &loan).await;
        hear(&mut peer).await;
        // Somebody else at the same time has another.
        let (other, accepted) = tokio::join!(scene.lend(), scene.listener.accept());
        assert!(accepted.is_ok() && !other.1.is_reused());
    }

    #[tokio::test]
    async fn what_the_framework_has_read_to_its_end_is_taken_back_unless_it_was_told_to_end() {
        for (answer, serves_again) in
            [(ANSWER, true), (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", false)]
        {
            let scene = Scene::new().await;
            let ((stream, loan), accepted) = tokio::join!(scene.lend(), scene.listener.accept());
            let mut session = Http1::new(Box::new(stream));
            let request = pingora::http::RequestHeader::build("GET", b"/", None).unwrap();
            session.write_request_header(Box::new(request)).await.unwrap();
            session.finish_body().await.unwrap();
            let mut peer = accepted.unwrap().0;
            peer.write_all(answer).await.unwrap();
            session.read_response().await.unwrap();
            assert!(session.read_body_bytes().await.unwrap().is_none());
            loan.take_back(session).await;
            assert_eq!(scene.idle.lock().count, usize::from(serves_again));
        }
    }

    #[tokio::test]
    async fn a_connection_is_closed_whose_exchange_was_not_whole() {
        let scene = Scene::new().await;
        let (stream, _, mut peer) = scene.exchange().await;
        drop(stream);
        assert!(is_closed(&mut peer).await, "its answer was not read to the end");

        let (stream, loan, mut peer) = scene.exchange().await;
        peer.write_all(b"more than was asked for").await.unwrap();
        sleep(LOOK / 10).await;
        loan.keep(stream);
        assert!(is_closed(&mut peer).await, "something came after the answer");

        let ((mut stream, loan), accepted) = tokio::join!(scene.lend(), scene.listener.accept());
        stream.write_all(b"a head that was not needed").await.unwrap();
        loan.keep(stream);
        let mut heard = Vec::new();
        accepted.unwrap().0.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"", "something is held back");
        let fresh = scene.lend().await;
        assert!(!fresh.1.is_reused());
    }

    #[tokio::test]
    async fn an_idle_connection_is_closed_in_time_and_one_that_its_peer_has_closed_is_not_taken() {
        let scene = Scene::new().await;
        let (stream, loan, mut peer) = scene.exchange().await;
        loan.keep(stream);
        let began = std::time::Instant::now();
        assert!(is_closed(&mut peer).await);
        let after = began.elapsed();
        assert!(after > LOOK * 2 && after < LOOK * 6, "{after:?}");
        assert!(scene.idle.lock().looking.is_none(), "nobody looks after none");

        let (stream, loan, peer) = scene.exchange().await;
        loan.keep(stream);
        drop(peer);
        // Until the runtime has heard of it.
        sleep(LOOK / 10).await;
        let fresh = scene.lend().await;
        assert!(!fresh.1.is_reused());
        assert_eq!(scene.idle.lock().count, 0);
    }

    #[tokio::test]
    async fn a_peer_that_is_not_there_is_told_as_the_framework_does() {
        let Scene { listener, terms, idle } = Scene::new().await;
        drop(listener);
        let error = idle.lend(terms).lent().await.unwrap_err();
        assert_eq!(*error.etype(), ErrorType::ConnectRefused);
    }
}
