//! Addresses of servers: `http[s]://host[:port][/path]`, parsed once.
//!
//! Decides which addresses are well-formed and safe to call as they stand. Never resolves a name, and never repeats an
//! address in a complaint, because it may hold a password.

use std::fmt;

use crate::names::{Authority, BadAuthority};

/// What is wrong with an address; the sentence goes on after what it is the address of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadUrl {
    /// What is wrong.
    pub sentence: &'static str,
    /// What to do, where that is not plain.
    pub hint: Option<&'static str>,
}

impl fmt::Display for BadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence)
    }
}

impl std::error::Error for BadUrl {}

const fn bad(sentence: &'static str) -> BadUrl {
    BadUrl { sentence, hint: None }
}

const fn bad_with(sentence: &'static str, hint: &'static str) -> BadUrl {
    BadUrl { sentence, hint: Some(hint) }
}

/// One address of a server: `https://host:port/base`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerUrl {
    /// Whether TLS is spoken.
    pub is_tls: bool,
    /// Host name or IP address, without brackets; never empty, so SNI is never empty.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path in front of every tool, without a trailing slash and maybe empty; of a server that speaks MCP the path of
    /// its endpoint as the operator wrote it, a trailing slash included.
    pub base_path: String,
}

impl PeerUrl {
    /// Parses the address of an MCP endpoint: a peer's whose path stays as written, because to a server `/mcp` and
    /// `/mcp/` may be two.
    pub fn parse_endpoint(text: &str) -> Result<Self, BadUrl> {
        let mut peer = Self::parse(text)?;
        if peer.base_path.is_empty() || text.ends_with('/') {
            peer.base_path.push('/');
        }
        Ok(peer)
    }

    /// Parses the address of a peer: `http[s]://host[:port][/path]`. A slash at its end is dropped.
    pub fn parse(text: &str) -> Result<Self, BadUrl> {
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(bad("must begin with `http://` or `https://`")),
        };
        refuse_query_and_fragment(rest)?;
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let (host, port) = host_and_port(authority)?;
        let port = port.unwrap_or(if is_tls { 443 } else { 80 });
        let base_path = path.strip_suffix('/').unwrap_or(path);
        check_path(base_path)?;
        Ok(Self { is_tls, host, port, base_path: base_path.to_owned() })
    }

    /// `host` or `host:port`, as it stands in the `Host` header.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let is_default = self.port == if self.is_tls { 443 } else { 80 };
        if is_default { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.base_path)
    }
}

fn refuse_query_and_fragment(text: &str) -> Result<(), BadUrl> {
    match text.find(['?', '#']).map(|at| text.as_bytes()[at]) {
        Some(b'?') => Err(bad_with("has a query", "a key belongs into `credential`")),
        Some(_) => Err(bad("has a fragment")),
        None => Ok(()),
    }
}

fn check_path(path: &str) -> Result<(), BadUrl> {
    for segment in path.split('/').skip(1) {
        if matches!(segment, "" | "." | "..") {
            return Err(bad("has a path with an empty, `.` or `..` segment"));
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte);
        if !segment.bytes().all(is_plain) {
            return Err(bad("has a path with characters that would need encoding"));
        }
    }
    Ok(())
}

/// Splits `host[:port]`, the host in lower case and without brackets.
pub fn host_and_port(authority: &str) -> Result<(String, Option<u16>), BadUrl> {
    if authority.contains('@') {
        return Err(bad_with(
            "has a user name or password in it",
            "what the server should believe belongs into `credential`",
        ));
    }
    match Authority::parse(authority) {
        Ok(Authority { host, port }) => Ok((host.to_string(), port)),
        Err(BadAuthority::Host) => Err(bad_with(
            "has no valid host name or IP address",
            "an IPv6 address stands in brackets, a name outside ASCII in its `xn--` form",
        )),
        Err(BadAuthority::Port) => Err(bad("has a port that is not a number from 1 to 65535")),
    }
}
