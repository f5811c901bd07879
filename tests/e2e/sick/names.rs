//! Names that change what they stand for: calls follow within the TTL, none fails, and a name that is lost changes nothing.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use serde_json::json;
use tokio::{net::UdpSocket, task::AbortHandle};

use super::{Load, call, with_peers};
use crate::harness::{deadline::until, fake_peer::FakePeer, grants::Grants};

/// A name server that says of every name what the test says.
struct NameServer {
    address: SocketAddr,
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
    async fn start(ttl: u16) -> Self {
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

    fn say(&self, name: &str, addresses: &[Ipv4Addr]) {
        self.says.lock().unwrap().insert(name.to_owned(), addresses.to_vec());
    }

    fn forget(&self, name: &str) {
        self.says.lock().unwrap().remove(name);
    }

    fn asked(&self) -> usize {
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

/// Two peers at the same port of two addresses.
async fn two_peers() -> (FakePeer, FakePeer, u16) {
    let first = FakePeer::start().await.with_json("work", json!("done"));
    let port = first.address().rsplit_once(':').unwrap().1.parse().unwrap();
    let second = FakePeer::start_at(&format!("127.0.0.2:{port}")).await.with_json("work", json!("done"));
    (first, second, port)
}

const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

#[tokio::test]
async fn calls_follow_a_name_within_its_ttl_and_a_name_that_is_lost_changes_nothing() {
    let (names, (first, second, port)) = (NameServer::start(1).await, two_peers().await);
    names.say("tools.test", &[FIRST]);
    let grants = Grants::of(&["alpha"]).await;
    let url = format!("http://tools.test:{port}");
    let setup = with_peers(grants.setup(), "alpha", &[url], "");
    let nameservers = vec![names.address.to_string()];
    let gateway = setup.set("upstream.nameservers", nameservers).start().await;
    gateway.knows_tools("alpha", 1).await;
    let load = Load::begin(&gateway, "/alpha/work", 2);
    load.goes_on(20).await;
    assert!(second.requests().is_empty());
    names.say("tools.test", &[FIRST, SECOND]);
    second.arrived(10).await;
    names.say("tools.test", &[SECOND]);
    let known = [("server", "alpha"), ("state", "known")];
    until("one address", || async {
        (gateway.metrics().await.sum("portcullis_peers", &known) == 1.0).then_some(())
    })
    .await;
    drop(first);
    load.goes_on(50).await;
    names.forget("tools.test");
    let before = names.asked();
    until("the name asked for again", || async { (names.asked() >= before + 2).then_some(()) }).await;
    load.goes_on(50).await;
    assert_eq!(load.end().await, [""; 0]);
    assert_eq!(call(&gateway).await.status, 200);
}

#[tokio::test]
async fn a_name_is_asked_for_early_when_nothing_it_stood_for_can_be_reached() {
    let (names, (first, second, port)) = (NameServer::start(300).await, two_peers().await);
    names.say("tools.test", &[FIRST]);
    let grants = Grants::of(&["alpha"]).await;
    let setup = with_peers(grants.setup(), "alpha", &[format!("http://tools.test:{port}")], "");
    let gateway = setup.set("upstream.nameservers", vec![names.address.to_string()]).start().await;
    gateway.knows_tools("alpha", 1).await;
    assert_eq!(call(&gateway).await.status, 200);
    names.say("tools.test", &[SECOND]);
    drop(first);
    until("the new address", || async { (call(&gateway).await.status == 200).then_some(()) }).await;
    assert!(!second.requests().is_empty());
}
