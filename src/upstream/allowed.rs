//! Where groups may have servers of their own: the hosts an operator allows.
//!
//! Decides whether an address from the database may be called. Nothing is allowed unless it is listed, and what is
//! listed by name never stands for this machine itself, nor for where clouds keep credentials (169.254.0.0/16 and others).

use std::{
    net::{IpAddr, SocketAddr},
    sync::LazyLock,
};

use crate::{
    catalog::{peer_url::host_and_port, server::PeerUrl},
    names::Network,
};

/// One entry of `upstream.allowed_hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost {
    host: Pattern,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// This name.
    Name(String),
    /// Every name that ends like this, dot included.
    Below(String),
    /// Every address written as a number in this network.
    Network(Network),
}

impl AllowedHost {
    /// Parses `host`, `*.domain`, an address or `10.0.0.0/8`, each but the last with `:port` where only that is meant.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(network) = Network::parse(text) {
            return Some(Self { host: Pattern::Network(network), port: None });
        }
        let (is_below, rest) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        let (host, port) = host_and_port(rest).ok()?;
        let host = match host.parse::<IpAddr>() {
            Ok(_) if is_below => return None,
            Ok(_) => Pattern::Network(Network::parse(&host).ok()?),
            Err(_) if is_below => Pattern::Below(format!(".{host}")),
            Err(_) => Pattern::Name(host),
        };
        Some(Self { host, port })
    }

    fn covers(&self, peer: &PeerUrl) -> bool {
        let is_host = match (&self.host, peer.host.parse::<IpAddr>()) {
            (Pattern::Network(network), Ok(ip)) => network.contains(ip),
            (Pattern::Name(name), Err(_)) => *name == peer.host,
            (Pattern::Below(ending), Err(_)) => {
                peer.host.len() > ending.len() && peer.host.ends_with(ending.as_str())
            }
            (Pattern::Network(_), Err(_)) | (Pattern::Name(_) | Pattern::Below(_), Ok(_)) => false,
        };
        is_host && self.port.is_none_or(|port| port == peer.port)
    }
}

/// All entries of `upstream.allowed_hosts`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedHosts(pub Vec<AllowedHost>);

impl AllowedHosts {
    /// The address in a row, if it is one that may be called. `is_mcp` says that it is an endpoint of MCP.
    pub fn read(&self, text: &str, is_mcp: bool) -> Option<PeerUrl> {
        let peer = if is_mcp { PeerUrl::parse_endpoint(text) } else { PeerUrl::parse(text) };
        peer.ok().filter(|peer| self.0.iter().any(|allowed| allowed.covers(peer)))
    }
}

/// Where clouds keep credentials, and forms of IPv6 that lead to addresses of IPv4 which are none of a group's.
static NEVER: LazyLock<Vec<Network>> = LazyLock::new(|| {
    let networks = [
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        // NAT64 and 6to4 (RFC 6052, RFC 3056), addresses of IPv4 in those of IPv6 as they once were written.
        "64:ff9b::/96",
        "2002::/16",
        "::/96",
        "0.0.0.0/8",
        "224.0.0.0/4",
        "255.255.255.255",
        "ff00::/8",
    ];
    networks.into_iter().filter_map(|text| Network::parse(text).ok()).collect()
});

impl AllowedHosts {
    /// Whether what a host stands for may be dialled: a name that is allowed may be made to stand for anything. This machine
    /// itself is only reached by `localhost`, or by an entry in numbers.
    pub fn may_stand_for(&self, peer: &PeerUrl, address: &SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let is_listed = |allowed: &AllowedHost| match &allowed.host {
            Pattern::Network(network) => network.contains(ip),
            Pattern::Name(_) | Pattern::Below(_) => false,
        };
        if self.0.iter().any(is_listed) {
            return true;
        }
        let is_localhost = peer.host == "localhost" || peer.host.ends_with(".localhost");
        if ip.is_loopback() { is_localhost } else { !NEVER.iter().any(|network| network.contains(ip)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(allowed: &[&str], good: &[&str], bad: &[&str]) {
        let hosts = AllowedHosts(allowed.iter().map(|text| AllowedHost::parse(text).unwrap()).collect());
        for url in good {
            assert!(hosts.read(url, false).is_some(), "{url} should be allowed by {allowed:?}");
        }
        for url in bad {
            assert!(hosts.read(url, false).is_none(), "{url} should not be allowed by {allowed:?}");
        }
    }

    #[test]
    fn nothing_is_allowed_that_is_not_listed() {
        check(&[], &[], &["http://mcp.example.com", "http://127.0.0.1", "", "nonsense"]);
        check(
            &["mcp.example.com"],
            &["https://mcp.example.com", "http://MCP.example.com:8000/base"],
            &[
                "https://example.com",
                "https://a.mcp.example.com",
                "https://mcp.example.com.evil.org",
                "https://evilmcp.example.com",
                "https://mcp.example.com@evil.org",
                "https://evil.org/mcp.example.com",
                "https://evil.org?mcp.example.com",
                "https://evil.org#mcp.example.com",
                "https://evil.org\\@mcp.example.com",
                "ftp://mcp.example.com",
                "https://mcp.example.com/../x",
                " https://mcp.example.com",
            ],
        );
        check(
            &["*.tenants.example.com"],
            &["https://a.tenants.example.com", "https://a.b.tenants.example.com"],
            &["https://tenants.example.com", "https://atenants.example.com", "https://.tenants.example.com"],
        );
        check(
            &["10.1.0.0/16", "192.0.2.7", "[2001:db8::1]:8000"],
            &["http://10.1.2.3:81", "http://192.0.2.7", "http://[2001:db8::1]:8000"],
            &["http://10.2.0.1", "http://192.0.2.8", "http://[2001:db8::1]", "http://10.1.2.3.nip.io"],
        );
        check(
            &["mcpo:8001", "127.0.0.1:9000"],
            &["http://mcpo:8001/x", "http://127.0.0.1:9000"],
            &["http://mcpo", "http://mcpo:8002", "http://127.0.0.1:9001"],
        );
    }

    #[test]
    fn what_is_no_host_is_no_entry() {
        for text in ["", "*", "*.", "*.10.0.0.1", "https://h", "h/path", "a b", "h:0", "*.*.example.com"] {
            assert_eq!(AllowedHost::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_allowed_name_stands_for_no_address_of_the_machine_or_of_its_cloud() {
        let hosts = |texts: &[&str]| {
            AllowedHosts(texts.iter().map(|text| AllowedHost::parse(text).unwrap()).collect())
        };
        let named = hosts(&["*.example.com", "localhost"]);
        let peer = |host: &str| PeerUrl::parse(&format!("http://{host}")).unwrap();
        for address in [
            "169.254.169.254:80",
            "[fe80::1]:80",
            "0.0.0.0:80",
            "[::]:80",
            "[::ffff:169.254.169.254]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[2002:a9fe:a9fe::]:80",
            "[fd00:ec2::254]:80",
            "100.100.100.200:80",
            "127.0.0.1:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert!(!named.may_stand_for(&peer("a.example.com"), &address.parse().unwrap()), "{address}");
        }
        assert!(named.may_stand_for(&peer("a.example.com"), &"10.0.0.1:80".parse().unwrap()));
        assert!(named.may_stand_for(&peer("localhost"), &"127.0.0.1:80".parse().unwrap()));
        let numbered = hosts(&["*.example.com", "127.0.0.0/8"]);
        assert!(numbered.may_stand_for(&peer("a.example.com"), &"127.0.0.1:80".parse().unwrap()));
        assert_eq!(NEVER.len(), 12, "each is a network");
    }
}
