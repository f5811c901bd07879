//! A TCP proxy that fails on command: in front of Postgres, or of a peer.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{AbortHandle, JoinSet},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    /// Bytes pass.
    Fair,
    /// Connections stay, new ones are taken, and no byte passes: a network that swallows packets.
    Stalled,
    /// Connections are closed, new ones too: a process that died.
    Cut,
}

/// The proxy. It ends, with its connections, when this is dropped.
pub struct Chaos {
    address: SocketAddr,
    weather: Arc<watch::Sender<Weather>>,
    /// How often connections were lost; those made before the last time carry nothing any more.
    losses: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

impl Drop for Chaos {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Chaos {
    /// A proxy in front of `upstream` (`127.0.0.1:5432`).
    pub async fn in_front_of(upstream: impl Into<String>) -> Self {
        let upstream = upstream.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let weather = Arc::new(watch::Sender::new(Weather::Fair));
        let losses = Arc::new(AtomicUsize::new(0));
        let (seen, lost) = (weather.clone(), losses.clone());
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(join(client, upstream.clone(), seen.subscribe(), lost.clone()));
            }
        });
        Self { address, weather, losses, accepting: accepting.abort_handle() }
    }

    /// `127.0.0.1:PORT`: what to connect to instead of the upstream.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Closes every connection, and each new one at once.
    pub fn cut(&self) {
        self.weather.send_replace(Weather::Cut);
    }

    /// Holds every byte back, in both directions, without closing anything.
    pub fn stall(&self) {
        self.weather.send_replace(Weather::Stalled);
    }

    /// Holds every byte of the present connections back for ever, without closing them; new ones are fair.
    pub fn lose(&self) {
        self.losses.fetch_add(1, Ordering::SeqCst);
    }

    /// Lets bytes pass again, those held back first.
    pub fn restore(&self) {
        self.weather.send_replace(Weather::Fair);
    }
}

async fn join(
    client: TcpStream,
    upstream: String,
    mut weather: watch::Receiver<Weather>,
    losses: Arc<AtomicUsize>,
) {
    let before = losses.load(Ordering::SeqCst);
    let is_lost = || losses.load(Ordering::SeqCst) != before;
    if weather.wait_for(|weather| *weather != Weather::Stalled).await.is_err()
        || *weather.borrow() == Weather::Cut
    {
        return;
    }
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = pump(from_client, to_server, weather.clone(), is_lost);
    let back = pump(from_server, to_client, weather.clone(), is_lost);
    let is_cut = async { drop(weather.wait_for(|weather| *weather == Weather::Cut).await) };
    tokio::select! {
        _ = async { tokio::join!(there, back) } => {}
        () = is_cut => {}
    }
}

/// Carries bytes one way while the weather is fair, to the end of the stream.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    is_lost: impl Fn() -> bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if weather.wait_for(|weather| *weather == Weather::Fair).await.is_err() {
            return;
        }
        if is_lost() {
            std::future::pending::<()>().await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::harness::{deadline::within, fake_peer::FakePeer, raw::RawClient};

    const REQUEST: &str = "POST /echo HTTP/1.1\r\nhost: peer\r\ncontent-length: 2\r\n\r\n{}";

    #[tokio::test]
    async fn a_cut_closes_connections_and_a_restored_proxy_takes_new_ones() {
        let peer = FakePeer::start().await.with_json("echo", serde_json::json!("hello"));
        let chaos = Chaos::in_front_of(peer.address()).await;
        let mut before = RawClient::connect(&chaos.address()).await;
        assert_eq!(before.exchange(REQUEST).await.text(), r#""hello""#);

        chaos.cut();
        assert!(before.is_closed_within(Duration::from_secs(10)).await);
        let mut during = RawClient::connect(&chaos.address()).await;
        assert!(during.is_closed_within(Duration::from_secs(10)).await);

        chaos.restore();
        let mut after = RawClient::connect(&chaos.address()).await;
        assert_eq!(after.exchange(REQUEST).await.status, 200);
    }

    #[tokio::test]
    async fn a_stall_holds_bytes_back_until_it_is_restored() {
        let peer = FakePeer::start().await.with_json("echo", serde_json::json!("hello"));
        let chaos = Chaos::in_front_of(peer.address()).await;
        let mut client = RawClient::connect(&chaos.address()).await;
        assert_eq!(client.exchange(REQUEST).await.status, 200);

        chaos.stall();
        client.send(REQUEST).await;
        assert!(!client.is_closed_within(Duration::from_millis(50)).await);
        assert_eq!(peer.requests().len(), 1, "bytes passed during a stall");

        chaos.restore();
        assert_eq!(within("the held-back answer", client.read_answer()).await.status, 200);
    }

    #[tokio::test]
    async fn a_lost_connection_stays_open_and_dumb_beside_new_ones_that_work() {
        let peer = FakePeer::start().await.with_json("echo", serde_json::json!("hello"));
        let chaos = Chaos::in_front_of(peer.address()).await;
        let mut before = RawClient::connect(&chaos.address()).await;
        assert_eq!(before.exchange(REQUEST).await.status, 200);
        chaos.lose();
        before.send(REQUEST).await;
        let mut after = RawClient::connect(&chaos.address()).await;
        assert_eq!(after.exchange(REQUEST).await.status, 200);
        assert!(before.is_open().await);
        assert_eq!(peer.requests().len(), 2, "bytes passed on a lost connection");
    }
}
