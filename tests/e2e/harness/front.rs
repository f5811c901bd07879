//! A load balancer as small as one can be: each connection goes to the next replica that takes it.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// The balancer. It ends, with its connections, when this is dropped.
pub struct Front {
    address: SocketAddr,
    accepting: AbortHandle,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Front {
    /// In front of these addresses (`127.0.0.1:8000`), which take turns.
    pub async fn of(replicas: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let replicas = Arc::new(replicas);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            let mut turn = 0;
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(client, replicas.clone(), turn));
                turn += 1;
            }
        });
        Self { address, accepting: accepting.abort_handle() }
    }

    /// A path of it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

async fn carry(mut client: TcpStream, replicas: Arc<Vec<String>>, turn: usize) {
    let _ = client.set_nodelay(true);
    for step in 0..replicas.len() {
        let replica = &replicas[(turn + step) % replicas.len()];
        if let Ok(mut server) = TcpStream::connect(replica).await {
            let _ = server.set_nodelay(true);
            // A broken connection on one side breaks the other: both end with this.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}
