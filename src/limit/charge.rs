//! What a request costs: each limit that it counts against, under which name and how much.

use std::net::{IpAddr, Ipv4Addr};

use sha2::{Digest, Sha256};

use super::Kind;
use crate::names::Rate;

/// What a request costs under one limit.
#[derive(Debug, Clone, Copy)]
pub struct Charge<'c> {
    /// Which limit.
    pub kind: Kind,
    /// What it allows.
    pub rate: Rate,
    /// How much it costs.
    pub count: u32,
    names: [&'c [u8]; 3],
}

impl<'c> Charge<'c> {
    /// What it is counted under.
    pub(super) fn parts(&self) -> [&'c [u8]; 4] {
        let [caller, server, tool] = self.names;
        [self.kind.as_str().as_bytes(), caller, server, tool]
    }

    /// The name that replicas count it under together: says which limit it is, and nobody's email.
    pub fn shared_name(&self) -> String {
        let mut digest = Sha256::new();
        for part in self.parts() {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let digest: [u8; 32] = digest.finalize().into();
        let hex = digest[..16].iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let hex: String = hex.filter_map(|digit| char::from_digit(digit.into(), 16)).collect();
        format!("{}:{hex}", self.kind.as_str())
    }
}

/// All that a request costs. A call of one tool needs no room but its own.
#[derive(Debug, Default)]
pub struct Charges<'c> {
    first: [Option<Charge<'c>>; 3],
    more: Vec<Charge<'c>>,
}

impl<'c> Charges<'c> {
    /// Adds a limit, where there is one.
    pub(super) fn add(&mut self, kind: Kind, names: [&'c [u8]; 3], rate: Option<Rate>, count: u32) {
        let Some(rate) = rate else { return };
        let charge = Charge { kind, rate, count, names };
        match self.first.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(charge),
            None => self.more.push(charge),
        }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Charge<'c>> {
        self.first.iter().flatten().chain(&self.more)
    }

    /// Whether nothing limits the request.
    pub fn is_empty(&self) -> bool {
        self.first[0].is_none()
    }
}

/// What addresses begin with that a translator made: `64:ff9b::/96`.
const NAT64: [u8; 12] = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];

/// Where requests come from, as far as one sender can be told from another: an IPv6 network of 64 bits is one sender's.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    address: IpAddr,
    bytes: [u8; 8],
    length: usize,
}

impl Source {
    /// The source of requests from this address.
    pub fn of(address: IpAddr) -> Self {
        let address = translated(address.to_canonical());
        let mut bytes = [0; 8];
        let length = match address {
            IpAddr::V4(v4) => {
                bytes[..4].copy_from_slice(&v4.octets());
                4
            }
            IpAddr::V6(v6) => {
                bytes.copy_from_slice(&v6.octets()[..8]);
                8
            }
        };
        Self { address, bytes, length }
    }

    /// The address itself.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// What all addresses of one sender have in common.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The address of version 4 that a translator (NAT64, RFC 6052) wrote into one of version 6: all of them are in one network.
fn translated(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if v6.octets()[..12] == NAT64 => {
            let [.., a, b, c, d] = v6.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        _ => address,
    }
}
