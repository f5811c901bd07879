//! A name server of this test alone.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::{net::UdpSocket, task::AbortHandle};

/// A name server that says of every name what the test says.
pub struct NameServer {
    pub address: SocketAddr,
    says: Arc<Mutex<BTreeMap<String, Vec<Ipv4Addr>>>>,
    asked: Arc<Mutex<usize>>,
    serving: AbortHandle,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl NameServer {
    pub async fn start(ttl: u16) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (says, asked) = (Arc::<Mutex<BTreeMap<_, Vec<_>>>>::default(), Arc::<Mutex<usize>>::default());
        let (known, count) = (says.clone(), asked.clone());
        let serving = tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query).await {
                *count.lock().unwrap() += 1;
                let reply = reply(&query[..length], &known.lock().unwrap(), ttl);
                let _ = socket.send_to(&reply, from).await;
            }
        });
        Self { address, says, asked, serving: serving.abort_handle() }
    }

    pub fn say(&self, name: &str, addresses: &[Ipv4Addr]) {
        self.says.lock().unwrap().insert(name.to_owned(), addresses.to_vec());
    }

    pub fn forget(&self, name: &str) {
        self.says.lock().unwrap().remove(name);
    }

    pub fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }
}

/// The answer to a query (RFC 1035, section 4), each record good for so many seconds.
fn reply(query: &[u8], known: &BTreeMap<String, Vec<Ipv4Addr>>, ttl: u16) -> Vec<u8> {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..at + 1 + length]).to_ascii_lowercase());
        at += 1 + length;
    }
    let question = &query[12..at + 5];
    let is_a = query[at + 2] == 1;
    let found = known.get(&labels.join("."));
    let addresses = found.filter(|_| is_a).cloned().unwrap_or_default();
    let code = if found.is_some() { 0 } else { 3 };
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, 0x80 | code, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
    reply.extend(question);
    for address in addresses {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0]);
        reply.extend(ttl.to_be_bytes());
        reply.extend([0, 4]);
        reply.extend(address.octets());
    }
    reply
}
