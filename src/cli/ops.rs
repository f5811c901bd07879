//! The ops listener of a running gateway, asked from the command line.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use http::StatusCode;

use crate::dial::Dialer;

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(3);
/// Longest answer: metrics of very many servers.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// Where to ask.
pub struct Ops {
    address: SocketAddr,
    dialer: Dialer,
}

impl Ops {
    /// At the address that a gateway listens on; one that listens everywhere is asked on loopback.
    pub fn at(mut address: SocketAddr) -> anyhow::Result<Self> {
        if address.ip().is_unspecified() {
            let loopback: IpAddr = match address {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            address.set_ip(loopback);
        }
        Ok(Self { address, dialer: Dialer::new(DEADLINE, MOST_BYTES)? })
    }

    /// What stands at a path.
    pub async fn get(&self, path: &str) -> anyhow::Result<(StatusCode, String)> {
        let url = format!("http://{}{path}", self.address);
        let request = http::Request::get(&url).body(Bytes::new())?;
        let answer = self.dialer.exchange(request).await.with_context(|| {
            format!("nothing answers at {url}; is the gateway running, and is this its `listen.ops`?")
        })?;
        let status = answer.status();
        Ok((status, String::from_utf8_lossy(answer.body()).into_owned()))
    }
}
