//! A set of addresses that belong together: one address, or all with the same beginning (CIDR).
//!
//! Decides what is well-formed and which addresses are inside. Never decides what those inside may do.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::BadName;

/// An address or a network: `10.1.2.3`, `10.0.0.0/8`, `fd00::/8`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

/// Addresses that only their own network routes (RFC 4193).
const PRIVATE: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);

impl Network {
    /// Parses an address, or an address and the length of the prefix that all inside share.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse::<IpNet>().map_err(|_| {
                BadName("a network is an IP address or, with its prefix length, `10.0.0.0/8`")
            })?,
        };
        if network.trunc() != network {
            return Err(BadName(
                "a network has no bits set past its prefix: `10.0.0.0/8`, or `10.1.2.3` for one address",
            ));
        }
        Ok(Self(canonical(network)))
    }

    /// Whether this address is inside. An IPv4 address written as an IPv6 one (`::ffff:10.1.2.3`) is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Whether every address of its family is inside, or so many that no operator has them all.
    pub fn is_everything(&self) -> bool {
        match self.0 {
            IpNet::V4(network) => network.prefix_len() < 8,
            // Half of all private networks (RFC 4193) is no more than 10.0.0.0/8 is.
            IpNet::V6(network) => network.prefix_len() < 16 && !PRIVATE.contains(&network),
        }
    }
}

/// The network of IPv4 addresses, where it is one of those as IPv6 writes them (RFC 4291 section 2.5.5.2).
fn canonical(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(v6) = network else { return network };
    let v4 = Ipv6Addr::to_ipv4_mapped(&v6.addr());
    let prefix = v6.prefix_len().checked_sub(MAPPED_BITS);
    match v4.zip(prefix).map(|(address, prefix)| Ipv4Net::new(address, prefix)) {
        Some(Ok(v4)) => IpNet::V4(v4),
        Some(Err(_)) | None => network,
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(network: &str, inside: &[&str], outside: &[&str]) {
        let network = Network::parse(network).unwrap();
        let contains = |text: &&&str| network.contains(text.parse().unwrap());
        assert!(inside.iter().all(|text| contains(&text)), "{network:?} has {inside:?}");
        assert!(!outside.iter().any(|text| contains(&text)), "{network:?} has none of {outside:?}");
    }

    #[test]
    fn an_ipv4_address_is_the_same_however_it_is_written() {
        check(
            "10.0.0.0/8",
            &["10.0.0.0", "10.255.1.2", "::ffff:10.1.2.3"],
            &["11.0.0.0", "::10.1.2.3", "fd00::1"],
        );
        check("::ffff:10.0.0.0/104", &["10.1.2.3", "::ffff:10.1.2.3"], &["11.1.2.3", "::1"]);
        check("::ffff:127.0.0.1", &["127.0.0.1"], &["127.0.0.2", "::1"]);
        check("127.0.0.1", &["127.0.0.1", "::ffff:127.0.0.1"], &["127.0.0.2", "::1"]);
        check("fd00::/8", &["fd12::1"], &["fe80::1", "10.0.0.1"]);
        check("::1/128", &["::1"], &["::2", "127.0.0.1", "0.0.0.1"]);
    }

    #[test]
    fn everything_is_told_from_much() {
        let is_everything = |text: &str| Network::parse(text).unwrap().is_everything();
        assert!(is_everything("0.0.0.0/0") && is_everything("::/0") && is_everything("::ffff:0.0.0.0/96"));
        assert!(is_everything("128.0.0.0/1") && is_everything("8000::/1") && is_everything("::ffff:0:0/97"));
        for much in ["10.0.0.0/8", "fd00::/16", "fd00::/8", "fc00::/7", "0.0.0.0"] {
            assert!(!is_everything(much), "{much}");
        }
    }

    #[test]
    fn what_could_mean_two_things_is_no_network() {
        for text in [
            "",
            "10.0.0.1/8",
            "10.0.0/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "/8",
            "::/129",
            "host",
            "10.0.0.0/8 ",
            "fe80::1%eth0",
            "010.0.0.1",
            "fd00::1/8",
        ] {
            assert!(Network::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_network_has_exactly_the_addresses_that_begin_like_it(bits: u32, length in 0_u8..=32, other: u32) {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            let (first, other) = (std::net::Ipv4Addr::from(bits & mask), std::net::Ipv4Addr::from(other));
            let network = Network::parse(&format!("{first}/{length}")).unwrap();
            let is_inside = u32::from(other) & mask == bits & mask;
            prop_assert_eq!(network.contains(other.into()), is_inside);
            prop_assert_eq!(network.contains(other.to_ipv6_mapped().into()), is_inside);
        }

        #[test]
        fn no_text_is_a_panic(text in "[0-9a-f:./]{0,24}|.{0,24}") {
            let _ = Network::parse(&text);
        }
    }
}
