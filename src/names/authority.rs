//! `host[:port]`, as it stands in URLs, in `Host` and in `Origin`.
//!
//! Decides what is well-formed. Never resolves a name and never decides which host is believed.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A host and perhaps a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port, where one is named; never 0.
    pub port: Option<u16>,
}

/// An IP address or a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name in lower case, without a dot at its end.
    Name(String),
}

/// Which part of a text is not one of an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadAuthority {
    /// The host.
    Host,
    /// The port.
    Port,
}

impl Authority {
    /// Parses `host`, `host:port`, `[IPv6]` or `[IPv6]:port`.
    pub fn parse(text: &str) -> Result<Self, BadAuthority> {
        let (host, port) = match text.strip_prefix('[') {
            Some(bracketed) => {
                let (address, port) = bracketed.split_once(']').ok_or(BadAuthority::Host)?;
                let address: Ipv6Addr = address.parse().map_err(|_| BadAuthority::Host)?;
                (Host::Ip(address.into()), port)
            }
            None => {
                let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                (Host::parse(host)?, port)
            }
        };
        if port.is_empty() {
            return Ok(Self { host, port: None });
        }
        let digits = port.strip_prefix(':').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let number = digits.and_then(|digits| digits.parse().ok()).filter(|number| *number != 0);
        number.map(|number| Self { host, port: Some(number) }).ok_or(BadAuthority::Port)
    }
}

impl Host {
    fn parse(text: &str) -> Result<Self, BadAuthority> {
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Ip(address.into()));
        }
        // Underscores are no host name, but container networks hand them out.
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        let last = text.rsplit('.').next().unwrap_or_default();
        // Some resolvers read `1.2.3` and `300` as addresses.
        let looks_numeric = last.bytes().all(|byte| byte.is_ascii_digit());
        if text.len() > 253 || !text.split('.').all(is_label) || looks_numeric {
            return Err(BadAuthority::Host);
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }

    /// Whether this is always the machine that asks (RFC 6761 section 6.3 for the names).
    pub fn is_loopback(&self) -> bool {
        match self {
            Host::Ip(ip) => ip.to_canonical().is_loopback(),
            Host::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

/// Without brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(ip) => ip.fmt(f),
            Host::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(&str, Option<u16>), BadAuthority>) {
        let parsed = Authority::parse(text).map(|authority| (authority.host.to_string(), authority.port));
        assert_eq!(parsed, expected.map(|(host, port)| (host.to_owned(), port)), "{text:?}");
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        check("MCP.Example.com", Ok(("mcp.example.com", None)));
        check("mcp_github:8000", Ok(("mcp_github", Some(8000))));
        check("10.0.0.1:1", Ok(("10.0.0.1", Some(1))));
        check("[::0001]", Ok(("::1", None)));
        check("[::1]:65535", Ok(("::1", Some(65535))));
        let long = format!("{0}.{0}.{0}.{0}", "a".repeat(63));
        for host in [
            "",
            ":80",
            "h.",
            ".h",
            "a..b",
            "h h",
            "h/x",
            "u@h",
            "caf\u{e9}",
            "300.1.1.1",
            "1.2.3",
            "300",
            "[::1",
            "[h]",
            "[]",
            "[fe80::1%eth0]",
            "[10.0.0.1]",
            "*",
            "%31",
            long.as_str(),
        ] {
            check(host, Err(BadAuthority::Host));
        }
        for port in ["h:", "h:0", "h:65536", "h:+80", "h: 80", "h:80:80", "::1", "[::1]80", "[::1]:x"] {
            let expected = if port.starts_with(':') { BadAuthority::Host } else { BadAuthority::Port };
            check(port, Err(expected));
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (text, is_loopback) in [
            ("localhost", true),
            ("LOCALHOST:1", true),
            ("a.localhost", true),
            ("127.9.9.9", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]", true),
            ("0.0.0.0", false),
            ("10.0.0.1", false),
            ("localhost.example.com", false),
            ("notlocalhost", false),
        ] {
            assert_eq!(Authority::parse(text).unwrap().host.is_loopback(), is_loopback, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_parsed_is_written_as_it_was_read(text in "([a-z0-9_.-]{1,12}|\\[[0-9a-f:]{2,20}\\])(:[0-9]{0,6})?|.{0,20}") {
            if let Ok(Authority { host, port }) = Authority::parse(&text) {
                let host = if text.starts_with('[') { format!("[{host}]") } else { host.to_string() };
                let written = port.map_or(host.clone(), |port| format!("{host}:{port}"));
                prop_assert_eq!(Authority::parse(&written), Authority::parse(&text));
                prop_assert!(!host.contains(['/', '@', ' ', '?', '#', '%', '"']));
            }
        }
    }
}
