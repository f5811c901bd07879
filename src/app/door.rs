//! Where connections come in: whether they are accepted, by both listeners, and by whom they are served.
//!
//! Decides when a listener opens and when it closes. Never looks at what a client says.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use pingora::{server::ShutdownWatch, services::background::BackgroundService};
use tokio::{net::TcpStream, sync::watch};
use tracing::error;

use super::watchdog::Pulse;
use crate::gateway::ops::OpsListener;

/// How the process stands towards its listeners; later ones never go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stand {
    /// Another process still accepts.
    Waiting,
    /// Connections are accepted.
    Open,
    /// They still are, and each is told that it ends with its answer.
    Leaving,
    /// The public listener is closed.
    Closed,
    /// Another process has both listeners.
    HandedOver,
}

/// Tells everybody how the process stands.
#[derive(Debug, Clone)]
pub struct Stands(Arc<watch::Sender<Stand>>);

impl Stands {
    /// A process that waits until it may accept.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Stand::Waiting)))
    }

    /// Goes on to this stand.
    pub fn go(&self, stand: Stand) {
        self.0.send_if_modified(|now| {
            let is_later = stand > *now;
            *now = stand.max(*now);
            is_later
        });
    }

    /// Returns once the process has come to this stand.
    pub async fn reached(&self, stand: Stand) {
        // The sender is ours, so there is one.
        drop(self.0.subscribe().wait_for(|now| *now >= stand).await);
    }

    /// How it stands.
    pub fn now(&self) -> Stand {
        *self.0.borrow()
    }
}

/// A listening socket, as long as it is to be open.
#[derive(Debug, Clone)]
pub struct Socket(Arc<Mutex<Option<TcpListener>>>);

impl Socket {
    /// An open one.
    pub fn new(listener: TcpListener) -> Self {
        Self(Arc::new(Mutex::new(Some(listener))))
    }

    /// The same socket once more, for another user of it.
    pub fn again(&self) -> io::Result<TcpListener> {
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        socket.as_ref().ok_or(io::ErrorKind::NotConnected)?.try_clone()
    }

    /// Whether it still brings connections; those that it has brought have been given to their host.
    pub fn is_open(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn close(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Who the connections of a listener are given to.
pub trait Host: Send + Sync + 'static {
    /// Has one served to its end.
    fn welcome(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr, leaving: &ShutdownWatch);
}

impl Host for OpsListener {
    fn welcome(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr, leaving: &ShutdownWatch) {
        let (host, leaving) = (self.clone(), leaving.clone());
        tokio::spawn(async move { host.serve(socket, peer, &leaving).await });
    }
}

/// A listener, open from one stand to another.
pub struct Door<H> {
    /// Its socket.
    pub socket: Socket,
    /// Who serves what comes in.
    pub host: Arc<H>,
    /// How the process stands.
    pub stands: Stands,
    /// When it closes.
    pub closes: Stand,
    /// When those who are inside are told to leave.
    pub leaves: Stand,
    /// Shows that it comes to its turn.
    pub pulse: Arc<Pulse>,
}

#[async_trait]
impl<H: Host> BackgroundService for Door<H> {
    async fn start(&self, _shutdown: ShutdownWatch) {
        self.stands.reached(Stand::Open).await;
        // Made here, because a socket belongs to the runtime that it is registered with.
        let listener = match self.socket.again().and_then(tokio::net::TcpListener::from_std) {
            Ok(listener) => listener,
            // Whoever waits for the listeners to answer ends the process.
            Err(error) => {
                self.socket.close();
                return error!("cannot accept connections: {error}");
            }
        };
        let (leave, leaving) = watch::channel(false);
        let tell = async {
            self.stands.reached(self.leaves).await;
            leave.send_replace(true);
            std::future::pending::<()>().await;
        };
        let accept = async {
            loop {
                match listener.accept().await {
                    Ok((socket, peer)) => self.host.welcome(socket, peer, &leaving),
                    // Most likely out of file descriptors: others have to close some.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        };
        tokio::select! {
            () = async { tokio::join!(accept, tell, self.pulse.beat()); } => {}
            () = self.stands.reached(self.closes) => {}
        }
        leave.send_replace(true);
        drop(listener);
        self.welcome_rest(&leaving);
        self.socket.close();
        // Those inside look whether the sender lives.
        std::future::pending::<()>().await;
    }
}

impl<H: Host> Door<H> {
    /// Those who have come already would be sent away by the kernel. It is asked itself: the runtime learns of them later.
    fn welcome_rest(&self, leaving: &ShutdownWatch) {
        let Ok(listener) = self.socket.again() else { return };
        loop {
            match listener.accept() {
                Ok((socket, peer)) => {
                    let socket = socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket));
                    if let Ok(socket) = socket {
                        self.host.welcome(socket, peer, leaving);
                    }
                }
                // Who has left again, or a signal that came between.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) => {}
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::app::watchdog::Watchdog;

    /// Counts whom it serves.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Host for Count {
        fn welcome(self: &Arc<Self>, _socket: TcpStream, _peer: SocketAddr, leaving: &ShutdownWatch) {
            assert!(*leaving.borrow(), "who comes last is told that it ends");
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn who_came_before_the_listener_closed_is_served_though_the_runtime_has_not_heard_of_them() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stands, host) = (Stands::new(), Arc::new(Count::default()));
        let door = Door {
            socket: Socket::new(listener),
            host: host.clone(),
            stands: stands.clone(),
            closes: Stand::Closed,
            leaves: Stand::Leaving,
            pulse: Watchdog::of_process(&stands).pulse("listen.http", Stand::Closed),
        };
        stands.go(Stand::Open);
        let (_end, shutdown) = watch::channel(false);
        let mut open = door.start(shutdown);
        assert!(futures_util::poll!(&mut open).is_pending());
        // All in one turn of this runtime, which is not asked what came in meanwhile.
        let clients: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        stands.go(Stand::Closed);
        assert!(futures_util::poll!(&mut open).is_pending());
        assert!(std::net::TcpStream::connect(address).is_err(), "the listener is closed");
        assert_eq!(host.0.load(Ordering::Relaxed), clients.len());
    }
}
