//! Addresses: listeners, peers of servers, browser origins and databases, each parsed once.
//!
//! Decides which addresses are well-formed and safe to use as they stand, and which are our own or private. Never
//! resolves a name and never repeats an address in a complaint, because it may hold a password.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use super::problems::Complaint;
use crate::{
    catalog::peer_url::{self, BadUrl, PeerUrl},
    names::Secret,
    store::DatabaseUrl,
};

/// Parses `IP:PORT` of a listener.
pub(super) fn listener(text: &str) -> Result<SocketAddr, Complaint> {
    text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0).ok_or_else(|| {
        Complaint::new("must be `IP:PORT` with a port from 1 to 65535")
            .with_hint("write `0.0.0.0:PORT` for all interfaces, `127.0.0.1:PORT` for this machine alone")
    })
}

/// Whether two listeners cannot both be bound.
pub(super) fn listeners_collide(left: SocketAddr, right: SocketAddr) -> bool {
    // On Linux `[::]` takes the IPv4 addresses as well.
    let covers = |wide: IpAddr, narrow: IpAddr| {
        wide.is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4()) || wide == narrow
    };
    left.port() == right.port() && (covers(left.ip(), right.ip()) || covers(right.ip(), left.ip()))
}

/// Whether a connection to this peer would arrive at our own listener, as far as that can be told without asking DNS.
pub(super) fn reaches(peer: &PeerUrl, listener: SocketAddr) -> bool {
    let own = listener.ip().to_canonical();
    let is_own = |ip: IpAddr| {
        // Dialling no address in particular ends on this machine.
        let ip = match ip.to_canonical() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        ip == own || ip.is_loopback() && own.is_unspecified() && (own.is_ipv6() || ip.is_ipv4())
    };
    let is_named = peer.host == "localhost" || peer.host.ends_with(".localhost");
    let is_own_host = match peer.host.parse() {
        Ok(ip) => is_own(ip),
        Err(_) => is_named && (is_own(Ipv4Addr::LOCALHOST.into()) || is_own(Ipv6Addr::LOCALHOST.into())),
    };
    peer.port == listener.port() && is_own_host
}

/// Endings of names that no public DNS answers for.
const PRIVATE_ENDINGS: &[&str] = &[".home.arpa", ".internal", ".lan", ".local", ".localhost", ".svc"];

/// Whether what is sent to a host stays on this machine or in a private network, as far as its address says.
pub(super) fn is_private(host: &str) -> bool {
    match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V4(ip)) => {
            // 100.64.0.0/10 is shared address space (RFC 6598), which overlay networks use.
            let is_shared = ip.octets()[0] == 100 && ip.octets()[1] & 0b1100_0000 == 64;
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified() || is_shared
        }
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_unspecified()
        }
        // Container networks hand out names without a dot.
        Err(_) => !host.contains('.') || PRIVATE_ENDINGS.iter().any(|ending| host.ends_with(ending)),
    }
}

/// Parses the address of an MCP endpoint.
pub(super) fn endpoint(text: &str) -> Result<PeerUrl, Complaint> {
    Ok(PeerUrl::parse_endpoint(text)?)
}

/// Parses the address of a peer: `http[s]://host[:port][/path]`. A slash at its end is dropped.
pub(super) fn peer(text: &str) -> Result<PeerUrl, Complaint> {
    Ok(PeerUrl::parse(text)?)
}

impl From<BadUrl> for Complaint {
    fn from(BadUrl { sentence, hint }: BadUrl) -> Self {
        let complaint = Self::new(sentence);
        match hint {
            Some(hint) => complaint.with_hint(hint),
            None => complaint,
        }
    }
}

/// Splits `host[:port]`, the host in lower case and without brackets.
fn host_and_port(authority: &str) -> Result<(String, Option<u16>), Complaint> {
    Ok(peer_url::host_and_port(authority)?)
}

/// Parses an origin exactly as browsers send it: `scheme://host[:port]`.
pub(super) fn origin(text: &str) -> Result<String, Complaint> {
    let shape = || Complaint::new("must hold origins like `https://chat.example.com`, without path or `*`");
    let (scheme, authority) = text.split_once("://").ok_or_else(shape)?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !is_scheme || authority.contains(['/', '*', '?', '#', '@']) {
        return Err(shape());
    }
    let scheme = scheme.to_ascii_lowercase();
    let (host, port) = host_and_port(authority)?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    match (scheme.as_str(), port) {
        ("http", Some(80)) | ("https", Some(443)) => {
            Err(Complaint::new("holds an origin with its scheme's own port, which browsers leave out"))
        }
        (_, Some(port)) => Ok(format!("{scheme}://{host}:{port}")),
        (_, None) => Ok(format!("{scheme}://{host}")),
    }
}

/// Parses a host name or IP address that clients call the gateway by; without port, in lower case.
pub(super) fn host(text: &str) -> Result<String, Complaint> {
    if text.contains("://") || text.contains(['/', '*']) {
        return Err(Complaint::new(
            "must hold host names like `mcp.example.com`, without scheme, path or `*`",
        ));
    }
    match host_and_port(text)? {
        (host, None) => Ok(host),
        (_, Some(_)) => Err(Complaint::new("holds a port").with_hint("leave it out: every port is meant")),
    }
}

/// What clients call the gateway: an origin, and its host by itself.
pub(super) struct PublicUrl {
    pub(super) origin: String,
    pub(super) host: String,
}

/// Parses `http[s]://host[:port]`, none where the text is empty.
pub(super) fn public_url(text: &str) -> Result<Option<PublicUrl>, Complaint> {
    if text.is_empty() {
        return Ok(None);
    }
    let shape = || Complaint::new("must be like `https://mcp.example.com`, without path");
    let (scheme, authority) = text.strip_suffix('/').unwrap_or(text).split_once("://").ok_or_else(shape)?;
    if authority.contains(['/', '?', '#']) {
        return Err(shape());
    }
    let (scheme, own_port) = match scheme.to_ascii_lowercase().as_str() {
        "http" => ("http", 80),
        "https" => ("https", 443),
        _ => return Err(Complaint::new("must begin with `http://` or `https://`")),
    };
    let (host, port) = host_and_port(authority)?;
    let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let origin = match port.filter(|port| *port != own_port) {
        Some(port) => format!("{scheme}://{shown}:{port}"),
        None => format!("{scheme}://{shown}"),
    };
    Ok(Some(PublicUrl { origin, host }))
}

/// Parses an issuer as it calls itself (RFC 8414 section 2): it is compared byte for byte, so it stays as written.
pub(super) fn issuer(text: &str) -> Result<String, Complaint> {
    let PeerUrl { is_tls, host, .. } = peer(text)?;
    if !is_tls && !is_private(&host) {
        return Err(Complaint::new("must begin with `https://`")
            .with_hint("tokens are worth nothing if others can read where they come from"));
    }
    Ok(text.to_owned())
}

/// Parses the address of a database: `postgres://…`, `postgresql://…` or `sqlite:PATH`.
pub(super) fn database(text: &str) -> Result<DatabaseUrl, Complaint> {
    if let Some(path) = text.strip_prefix("sqlite:") {
        return sqlite(path.strip_prefix("//").unwrap_or(path));
    }
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    if scheme == "postgres" || scheme == "postgresql" {
        check_postgres(rest)?;
        return Ok(DatabaseUrl::Postgres(Secret::new(text.to_owned())));
    }
    if scheme.starts_with("postgres") && scheme.contains('+') {
        return Err(Complaint::new("names a Python driver in its scheme")
            .with_hint("write `postgresql://` and leave the rest as it is"));
    }
    Err(Complaint::new("must begin with `postgres://`, `postgresql://` or `sqlite:`"))
}

/// Like `database`, where it could be opened now, as far as that shows without a connection. SQLite makes a file, and never
/// a folder.
pub(super) fn database_within_reach(text: &str) -> Result<DatabaseUrl, Complaint> {
    let url = database(text)?;
    if let Some(sentence) = url.problem() {
        return Err(Complaint::new(sentence).with_hint(
            "it looks like `postgres://USER:PASSWORD@HOST:5432/DATABASE`, or `sqlite:portcullis.db`",
        ));
    }
    if let DatabaseUrl::Sqlite(path) = &url
        && let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty())
        && !folder.is_dir()
    {
        return Err(Complaint::new("names a file in a folder that does not exist").with_hint(
            "make the folder, or name another; a path without `/` at its start begins where the gateway was started",
        ));
    }
    Ok(url)
}

/// What the driver would only find out when it connects.
fn check_postgres(rest: &str) -> Result<(), Complaint> {
    if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Complaint::new("holds a space or control character"));
    }
    let (address, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = address.split('/').next().unwrap_or_default();
    let host_and_port = authority.rsplit('@').next().unwrap_or_default();
    let port_at = if host_and_port.ends_with(']') { None } else { host_and_port.rfind(':') };
    let (host, port) = port_at.map_or((host_and_port, ""), |at| host_and_port.split_at(at));
    let is_port = port.len() < 2 || port[1..].parse::<u16>().is_ok_and(|number| number != 0);
    if !is_port || authority.contains('#') {
        return Err(Complaint::new("has a port that is not a number from 1 to 65535")
            .with_hint("percent-encode `/`, `?`, `#`, `@` and `:` in the user name and the password"));
    }
    let names_host = parameters.split('&').any(|parameter| parameter.starts_with("host="));
    if host.is_empty() && !names_host {
        return Err(Complaint::new("names no host"));
    }
    Ok(())
}

fn sqlite(path: &str) -> Result<DatabaseUrl, Complaint> {
    if path.contains(":memory:") {
        return Err(Complaint::new("is in memory, where two connections would see two databases")
            .with_hint("name a file: `sqlite:portcullis.db`"));
    }
    if path.contains(['?', '\0']) {
        return Err(Complaint::new("must be `sqlite:` and a path, without parameters"));
    }
    if path.is_empty() || path.ends_with('/') {
        return Err(Complaint::new("names no file").with_hint("for example `sqlite:portcullis.db`"));
    }
    Ok(DatabaseUrl::Sqlite(PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T>(
        parse: impl Fn(&str) -> Result<T, Complaint>,
        show: impl Fn(&T) -> String,
        cases: &[(&str, &str)],
    ) {
        for (text, expected) in cases {
            let found = parse(text).map_or_else(|complaint| complaint.sentence, |value| show(&value));
            assert_eq!(found, *expected, "{text:?}");
        }
    }

    #[test]
    fn a_peer_is_a_plain_http_address() {
        let path = "has a path with an empty, `.` or `..` segment";
        let encoding = "has a path with characters that would need encoding";
        let scheme = "must begin with `http://` or `https://`";
        let host = "has no valid host name or IP address";
        let port = "has a port that is not a number from 1 to 65535";
        check(
            peer,
            PeerUrl::to_string,
            &[
                ("http://h", "http://h"),
                ("HTTPS://MCP.Example.com:443/", "https://mcp.example.com"),
                ("http://mcp_github:8000/base/v1/", "http://mcp_github:8000/base/v1"),
                ("http://[::0001]:80/x", "http://[::1]/x"),
                ("http://10.0.0.1:81", "http://10.0.0.1:81"),
                ("", scheme),
                ("mcp-github:8000", scheme),
                ("ftp://h", scheme),
                ("http://", host),
                ("http:///x", host),
                ("http://:80", host),
                ("http://a..b", host),
                ("http://h.", host),
                ("http://caf\u{e9}", host),
                ("http://300.1.1.1", host),
                ("http://1.2.3", host),
                ("http://[::1", host),
                ("http://[fe80::1%eth0]", host),
                ("http://h h", host),
                ("http://h:", port),
                ("http://h:0", port),
                ("http://h:65536", port),
                ("http://h:+80", port),
                ("http://[::1]80", port),
                ("http://a:b:80", port),
                ("http://u:hunter2@h", "has a user name or password in it"),
                ("http://h?key=hunter2", "has a query"),
                ("http://h/x#y", "has a fragment"),
                ("http://h//", path),
                ("http://h/a//b", path),
                ("http://h/a/../b", path),
                ("http://h/./b", path),
                ("http://h/%2e%2e/b", encoding),
                ("http://h/a\\b", encoding),
                ("http://h/a b", encoding),
                ("http://h/a\n", encoding),
            ],
        );
    }

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        let shape = "must hold origins like `https://chat.example.com`, without path or `*`";
        check(
            origin,
            String::clone,
            &[
                ("https://Chat.Example.com", "https://chat.example.com"),
                ("http://localhost:3000", "http://localhost:3000"),
                ("http://[::1]:3000", "http://[::1]:3000"),
                ("tauri://localhost", "tauri://localhost"),
                ("*", shape),
                ("null", shape),
                ("https://*.example.com", shape),
                ("https://chat.example.com/", shape),
                ("https://chat.example.com/app", shape),
                ("https://u@h", shape),
                ("https://", "has no valid host name or IP address"),
                ("https://h:443", "holds an origin with its scheme's own port, which browsers leave out"),
            ],
        );
    }

    #[test]
    fn a_name_of_the_gateway_has_no_port() {
        let shape = "must hold host names like `mcp.example.com`, without scheme, path or `*`";
        let host_error = "has no valid host name or IP address";
        check(
            host,
            String::clone,
            &[
                ("MCP.Example.com", "mcp.example.com"),
                ("10.0.0.1", "10.0.0.1"),
                ("[::0001]", "::1"),
                ("mcp.example.com:8000", "holds a port"),
                ("https://mcp.example.com", shape),
                ("mcp.example.com/", shape),
                ("*.example.com", shape),
                ("", host_error),
                ("mcp.example.com.", host_error),
                ("mcp example", host_error),
                ("u@h", "has a user name or password in it"),
            ],
        );
    }

    #[test]
    fn a_public_url_is_an_origin_and_its_host() {
        let show = |url: &Option<PublicUrl>| {
            url.as_ref().map_or("none".to_owned(), |url| format!("{} {}", url.origin, url.host))
        };
        let shape = "must be like `https://mcp.example.com`, without path";
        check(
            public_url,
            show,
            &[
                ("", "none"),
                ("https://MCP.Example.com", "https://mcp.example.com mcp.example.com"),
                ("https://mcp.example.com/", "https://mcp.example.com mcp.example.com"),
                ("HTTPS://h:443", "https://h h"),
                ("http://h:443", "http://h:443 h"),
                ("http://[::1]:8000", "http://[::1]:8000 ::1"),
                ("https://h/mcp", shape),
                ("https://h?x", shape),
                ("https://h//", shape),
                ("h", shape),
                ("wss://h", "must begin with `http://` or `https://`"),
                ("https://u@h", "has a user name or password in it"),
                ("https://", shape),
                ("https://:80", "has no valid host name or IP address"),
                ("https://h:0", "has a port that is not a number from 1 to 65535"),
            ],
        );
    }

    #[test]
    fn an_issuer_stays_as_it_is_written() {
        check(
            issuer,
            String::clone,
            &[
                ("https://login.example.com", "https://login.example.com"),
                ("https://Login.example.com/tenant/v2.0", "https://Login.example.com/tenant/v2.0"),
                ("https://login.example.com/", "https://login.example.com/"),
                ("http://localhost:9000/realms/a", "http://localhost:9000/realms/a"),
                ("http://login.example.com", "must begin with `https://`"),
                ("login.example.com", "must begin with `http://` or `https://`"),
                ("https://h?x=1", "has a query"),
                ("https://h#x", "has a fragment"),
                ("https://h/\"", "has a path with characters that would need encoding"),
            ],
        );
    }

    #[test]
    fn a_database_is_postgres_or_a_file() {
        let show = |url: &DatabaseUrl| match url {
            DatabaseUrl::Postgres(url) => url.expose().clone(),
            DatabaseUrl::Sqlite(path) => path.display().to_string(),
        };
        let scheme = "must begin with `postgres://`, `postgresql://` or `sqlite:`";
        let port = "has a port that is not a number from 1 to 65535";
        check(
            database,
            show,
            &[
                ("postgres://u:p@h/db", "postgres://u:p@h/db"),
                ("postgresql://h:5432/db?sslmode=require", "postgresql://h:5432/db?sslmode=require"),
                ("postgres:///db?host=/run/postgresql", "postgres:///db?host=/run/postgresql"),
                ("postgres://u:p@[::1]/db", "postgres://u:p@[::1]/db"),
                ("sqlite:portcullis.db", "portcullis.db"),
                ("sqlite://portcullis.db", "portcullis.db"),
                ("sqlite:///var/lib/p.db", "/var/lib/p.db"),
                ("sqlite:/var/lib/p.db", "/var/lib/p.db"),
                ("", scheme),
                ("mysql://h/db", scheme),
                ("postgres:h", scheme),
                ("postgresql+asyncpg://h/db", "names a Python driver in its scheme"),
                ("postgres://", "names no host"),
                ("postgres://u:p@/db", "names no host"),
                ("postgres://u:pa/ss@h/db", port),
                ("postgres://u:p#s@h/db", port),
                ("postgres://h:99999/db", port),
                ("postgres://h/d b", "holds a space or control character"),
                ("sqlite::memory:", "is in memory, where two connections would see two databases"),
                ("sqlite://:memory:", "is in memory, where two connections would see two databases"),
                ("sqlite:", "names no file"),
                ("sqlite:dir/", "names no file"),
                ("sqlite:p.db?mode=ro", "must be `sqlite:` and a path, without parameters"),
            ],
        );
    }

    #[test]
    fn a_listener_is_an_address_and_a_port() {
        let shape = "must be `IP:PORT` with a port from 1 to 65535";
        check(
            listener,
            SocketAddr::to_string,
            &[
                ("0.0.0.0:8000", "0.0.0.0:8000"),
                ("[::]:8000", "[::]:8000"),
                ("localhost:8000", shape),
                ("127.0.0.1", shape),
                ("127.0.0.1:0", shape),
                ("127.0.0.1:70000", shape),
            ],
        );
    }

    #[test]
    fn listeners_on_one_port_collide_where_their_addresses_overlap() {
        let collide =
            |left: &str, right: &str| listeners_collide(left.parse().unwrap(), right.parse().unwrap());
        for (left, right) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("127.0.0.1:1", "[::]:1"),
            ("[::]:1", "[::1]:1"),
        ] {
            assert!(collide(left, right), "{left} {right}");
        }
        for (left, right) in
            [("127.0.0.1:1", "127.0.0.1:2"), ("127.0.0.1:1", "127.0.0.2:1"), ("0.0.0.0:1", "[::1]:1")]
        {
            assert!(!collide(left, right), "{left} {right}");
        }
    }
}
