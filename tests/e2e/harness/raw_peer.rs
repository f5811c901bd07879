//! A tool server whose calls are in the test's own hands, byte by byte, while they arrive.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use super::{
    deadline::within,
    fake_peer::openapi,
    wire::{Framing, Head, answer, read_body, read_chunk},
};

/// The peer. It ends when this is dropped; calls handed out stay.
pub struct RawPeer {
    address: SocketAddr,
    calls: tokio::sync::Mutex<mpsc::UnboundedReceiver<Call>>,
    accepting: AbortHandle,
}

impl Drop for RawPeer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A call whose head has arrived; nothing else has been read of it.
pub struct Call {
    pub head: Head,
    connection: BufReader<TcpStream>,
}

impl RawPeer {
    /// A peer whose tools of these names take any object.
    pub async fn with_tools(names: &[&str]) -> Self {
        let schema = serde_json::json!({"type": "object", "properties": {}});
        let tools = names.iter().map(|name| ((*name).to_owned(), schema.clone())).collect();
        let list = answer("200 OK", "application/json", openapi(&tools).to_string().as_bytes());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (to_test, calls) = mpsc::unbounded_channel();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, list.clone(), to_test.clone()));
            }
        });
        Self { address, calls: calls.into(), accepting: accepting.abort_handle() }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next call, as soon as its head is here.
    pub async fn call(&self) -> Call {
        let mut calls = self.calls.lock().await;
        within("a call at the peer", calls.recv()).await.unwrap()
    }

    /// Whether a call has arrived that nobody has taken.
    pub async fn was_called(&self) -> bool {
        !self.calls.lock().await.is_empty()
    }
}

async fn serve(socket: TcpStream, list: Vec<u8>, calls: mpsc::UnboundedSender<Call>) {
    let _ = socket.set_nodelay(true);
    let mut connection = BufReader::new(socket);
    while let Ok(Some(head)) = Head::read(&mut connection).await {
        let said = if head.first_line.starts_with("GET /openapi.json ") {
            list.clone()
        } else if is_gateway(&head) {
            let _ = read_body(&mut connection, head.framing().unwrap_or(Framing::Length(0))).await;
            answer("404 Not Found", "text/plain", b"")
        } else {
            let _ = calls.send(Call { head, connection });
            return;
        };
        if connection.write_all(&said).await.is_err() {
            return;
        }
    }
}

/// Whether the gateway asks in its own name, as it does for lists: no call of a test's client.
pub fn is_gateway(head: &Head) -> bool {
    head.header("user-agent").is_some_and(|agent| agent.starts_with("portcullis"))
}

impl Call {
    /// The next `count` bytes after the head, as they stand on the wire.
    pub async fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        within("bytes of the body at the peer", self.connection.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    /// The next chunk of a chunked body; `None` after the last.
    pub async fn read_chunk(&mut self) -> Option<Vec<u8>> {
        within("a chunk at the peer", read_chunk(&mut self.connection)).await.unwrap()
    }

    /// The whole body, however its length is said.
    pub async fn read_body(&mut self) -> Vec<u8> {
        let framing = self.head.framing().unwrap_or(Framing::Length(0));
        within("the body at the peer", read_body(&mut self.connection, framing)).await.unwrap()
    }

    /// Writes these bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("writing at the peer", self.connection.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Writes these bytes for at most so many seconds, and closes.
    pub async fn send_within(mut self, bytes: Vec<u8>, secs: u64) {
        // What is not taken by then is not sent.
        drop(tokio::time::timeout(Duration::from_secs(secs), self.connection.write_all(&bytes)).await);
    }

    /// What else arrives until the other side closes, and whether it does within `patience`.
    pub async fn rest_within(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let mut rest = Vec::new();
        // A reset is an end as well.
        tokio::time::timeout(patience, self.connection.read_to_end(&mut rest)).await.ok().map(|_| rest)
    }
}
