//! A client that is one socket: sends any bytes, and sees each byte and the end of the connection.

use std::time::Duration;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
};

use super::{
    deadline::within,
    wire::{Framing, Head, read_body, read_chunk},
};

/// One connection to the gateway (or to anything that speaks HTTP/1.1).
pub struct RawClient {
    connection: BufReader<TcpStream>,
}

/// An answer read to its end.
#[derive(Debug)]
pub struct RawAnswer {
    pub status: u16,
    pub head: Head,
    pub body: Vec<u8>,
}

impl RawAnswer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }
}

impl RawClient {
    /// Connects to `127.0.0.1:PORT`.
    pub async fn connect(address: &str) -> Self {
        let socket = within("connecting", TcpStream::connect(address)).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self { connection: BufReader::new(socket) }
    }

    /// Connects to `127.0.0.1:PORT` from another address of this machine.
    pub async fn connect_from(own: &str, address: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(std::net::SocketAddr::new(own.parse().unwrap(), 0)).unwrap();
        let socket = within("connecting", socket.connect(address.parse().unwrap())).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self { connection: BufReader::new(socket) }
    }

    /// Connects to `127.0.0.1:PORT` with a few kilobytes of room for what comes back.
    pub async fn connect_with_little_room(address: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let socket = within("connecting", socket.connect(address.parse().unwrap())).await.unwrap();
        Self { connection: BufReader::with_capacity(1_024, socket) }
    }

    /// Takes at most so many bytes of what has come; false at the end.
    pub async fn take(&mut self, most: usize) -> bool {
        let mut bytes = vec![0; most];
        let taken = within("bytes", tokio::io::AsyncReadExt::read(&mut self.connection, &mut bytes)).await;
        taken.is_ok_and(|taken| taken > 0)
    }

    /// Whether nothing comes within `patience`, no end either. What comes is left to be read.
    pub async fn is_open_and_silent(&mut self, patience: Duration) -> bool {
        tokio::time::timeout(patience, self.connection.fill_buf()).await.is_err()
    }

    /// Whether the next thing that comes is the end of the connection.
    pub async fn is_closed_quietly(&mut self) -> bool {
        within("an answer or an end", self.connection.fill_buf()).await.is_ok_and(|bytes| bytes.is_empty())
    }

    /// Sends these bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    /// Sends these bytes, where the other side may have closed already.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        within("sending", self.connection.write_all(bytes.as_ref())).await
    }

    /// Says that nothing more will be sent; answers can still be read.
    pub async fn finish_sending(&mut self) {
        self.connection.shutdown().await.unwrap();
    }

    /// The statuses of all answers until the other side closes, which it must once this side has said that nothing more
    /// will come; it says so after `patience`.
    pub async fn statuses_to_the_end(&mut self, patience: Duration) -> Vec<u16> {
        let mut bytes = Vec::new();
        // A reset is an end as well.
        if tokio::time::timeout(patience, self.connection.read_to_end(&mut bytes)).await.is_err() {
            drop(self.connection.shutdown().await);
            drop(within("the end of the connection", self.connection.read_to_end(&mut bytes)).await);
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let heads = text.split("HTTP/1.").skip(1);
        heads.map(|head| head.get(2..5).and_then(|status| status.parse().ok()).unwrap_or_default()).collect()
    }

    /// How many bytes still come before the other side closes, which it must.
    pub async fn rest(&mut self) -> usize {
        let mut bytes = Vec::new();
        // A reset is an end as well.
        drop(within("the end of the connection", self.connection.read_to_end(&mut bytes)).await);
        bytes.len()
    }

    /// The head of the next answer: status and headers. Interim answers (1xx) are given too.
    pub async fn read_head(&mut self) -> (u16, Head) {
        let head = within("the head of an answer", Head::read(&mut self.connection)).await.unwrap();
        let head = head.expect("the connection was closed without an answer");
        let status = head.first_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("not a status line: {:?}", head.first_line)), head)
    }

    /// The next chunk of a chunked answer whose head has been read; `None` at its end.
    pub async fn read_chunk(&mut self) -> Option<Vec<u8>> {
        within("the next chunk", read_chunk(&mut self.connection)).await.unwrap()
    }

    /// The next answer to anything but HEAD, to its end.
    pub async fn read_answer(&mut self) -> RawAnswer {
        let (status, head) = self.read_head().await;
        let body = self.read_body(status, &head).await;
        RawAnswer { status, head, body }
    }

    /// The body of an answer to anything but HEAD, whose head has been read.
    pub async fn read_body(&mut self, status: u16, head: &Head) -> Vec<u8> {
        let framing = match status {
            100..=199 | 204 | 304 => Framing::Length(0),
            _ => head.framing().unwrap_or(Framing::UntilClose),
        };
        within("the body of an answer", read_body(&mut self.connection, framing)).await.unwrap()
    }

    /// Sends a request and reads its answer.
    pub async fn exchange(&mut self, bytes: impl AsRef<[u8]>) -> RawAnswer {
        self.send(bytes).await;
        self.read_answer().await
    }

    /// Whether the other side closes the connection within `patience`, without sending anything more.
    pub async fn is_closed_within(&mut self, patience: Duration) -> bool {
        match tokio::time::timeout(patience, self.connection.fill_buf()).await {
            Err(_) => false,
            Ok(Ok([])) => true,
            Ok(Ok(bytes)) => panic!("bytes nobody asked for: {:?}", String::from_utf8_lossy(bytes)),
            Ok(Err(_)) => true, // reset
        }
    }

    /// Whether the connection is open at this moment, as far as this side can know.
    pub async fn is_open(&mut self) -> bool {
        !self.is_closed_within(Duration::from_millis(1)).await
    }
}
