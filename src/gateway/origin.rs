//! Whose pages may speak MCP here: `Host` and `Origin`, held against names that nobody else can answer for.
//!
//! A page of a foreign site can have that site's name lead to this machine and then call it as its own (DNS
//! rebinding; MCP 2025-11-25, Transports, Security Warning). Decides by the two headers alone and before identity: what
//! such a page holds is not looked at. Never asks DNS.

use http::{HeaderMap, HeaderName, header, request::Parts};

use super::Settings;
use crate::{
    names::{Authority, Host},
    refusal::{Code, Refusal},
};

/// Refuses what a foreign site's page may have sent.
pub fn refuse_foreign(request: &Parts, settings: &Settings) -> Result<(), Refusal> {
    let (_, called) = own_name(request, &settings.hosts)?;
    if !request.headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let is_own = only(&request.headers, header::ORIGIN)
        .is_some_and(|origin| is_own_page(origin, &called, &settings.cors_origins));
    if is_own {
        return Ok(());
    }
    let sentence = "pages of this origin may not call; the gateway's operator can add it to `cors.origins`";
    Err(Refusal::new(Code::ForeignOrigin, sentence))
}

/// What the request calls the gateway, as sent and taken apart, where nobody else can answer for that name.
pub fn own_name<'r>(request: &'r Parts, hosts: &[String]) -> Result<(&'r str, Authority), Refusal> {
    only(&request.headers, header::HOST)
        .and_then(|sent| Some((sent, Authority::parse(sent).ok()?)))
        .filter(|(_, called)| is_own_host(&called.host, hosts))
        .ok_or_else(|| {
            let sentence =
                "the gateway is not called by this name; its operator can add it to `listen.hosts`";
            Refusal::new(Code::ForeignHost, sentence)
        })
}

/// An address needs no DNS, and the public one has no names without a dot.
fn is_own_host(host: &Host, hosts: &[String]) -> bool {
    match host {
        Host::Ip(_) => true,
        Host::Name(name) => !name.contains('.') || host.is_loopback() || hosts.contains(name),
    }
}

fn is_own_page(origin: &str, called: &Authority, listed: &[String]) -> bool {
    if listed.iter().any(|listed| listed == origin) {
        return true;
    }
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let Ok(page) = Authority::parse(authority) else { return false };
    let scheme_port = match scheme {
        "http" => 80,
        "https" => 443,
        // Not a web page: an app says so of itself, and lives on the machine it names.
        _ => return page.host.is_loopback(),
    };
    let port = |authority: &Authority| authority.port.unwrap_or(scheme_port);
    page.host.is_loopback() || page.host == called.host && port(&page) == port(called)
}

/// The header's one value.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};
    use proptest::prelude::*;

    use super::*;
    use crate::gateway::tests::settings;

    const LISTED: &str = "https://chat.example.com";

    #[track_caller]
    fn check(hosts: &[&str], origins: &[&str], expected: Result<(), Code>) {
        let mut request = Request::new(()).into_parts().0;
        for (name, values) in [(header::HOST, hosts), (header::ORIGIN, origins)] {
            for value in values {
                request.headers.append(&name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
        }
        let settings = Settings {
            hosts: vec!["mcp.example.com".into()],
            cors_origins: vec![LISTED.into()],
            ..settings()
        };
        let found = refuse_foreign(&request, &settings).map_err(|refusal| refusal.code());
        assert_eq!(found, expected, "Host {hosts:?} Origin {origins:?}");
    }

    #[test]
    fn the_gateway_is_called_by_names_nobody_else_can_answer_for() {
        for host in [
            "mcp.example.com",
            "MCP.example.COM:8443",
            "localhost",
            "localhost:8000",
            "LocalHost:1",
            "a.localhost",
            "127.0.0.1:8000",
            "10.1.2.3",
            "203.0.113.9:80",
            "[::1]:8000",
            "[2001:db8::1]",
            "gateway",
            "mcp_gw:80",
        ] {
            check(&[host], &[], Ok(()));
        }
        for host in [
            "evil.example.com",
            "example.com",
            "mcp.example.com.evil.org",
            "xmcp.example.com",
            "a.mcp.example.com",
            "localhost.evil.org",
            "127.0.0.1.nip.io",
            "evil.org:8000",
            "mcp.example.com.",
            "localhost.",
            "",
            "127.1.evil",
            "mcp.example.com:",
            "mcp.example.com:x",
            "mcp.example.com:0",
            "mcp.example.com@evil.org",
            "evil.org@mcp.example.com",
            "mcp.example.com/",
            "mcp.example.com evil.org",
            "mcp.example.com,evil.org",
            "[::1",
            "::1",
            "[::1]x",
            "\u{e9}",
            "0x7f.1",
            "%6cocalhost",
            "http://localhost",
        ] {
            check(&[host], &[], Err(Code::ForeignHost));
            check(&[host], &[LISTED], Err(Code::ForeignHost));
        }
        check(&[], &[], Err(Code::ForeignHost));
        check(&["localhost", "localhost"], &[], Err(Code::ForeignHost));
    }

    #[test]
    fn pages_call_from_listed_origins_from_this_machine_or_from_the_gateway_itself() {
        let own = "mcp.example.com";
        for (host, origin) in [
            (own, LISTED),
            (own, "http://localhost:6274"),
            (own, "http://127.0.0.1:3000"),
            (own, "http://[::1]:3000"),
            (own, "tauri://localhost"),
            (own, "https://mcp.example.com"),
            ("mcp.example.com:8443", "https://mcp.example.com:8443"),
            ("MCP.example.com", "https://mcp.example.com"),
            ("mcp.example.com:443", "https://mcp.example.com"),
            (own, "https://mcp.example.com:443"),
            ("10.0.0.1:8000", "http://10.0.0.1:8000"),
            ("gateway:8000", "http://gateway:8000"),
        ] {
            check(&[host], &[origin], Ok(()));
        }
        for (host, origin) in [
            (own, "null"),
            (own, ""),
            (own, "https://evil.example.com"),
            (own, "https://chat.example.com.evil.org"),
            (own, "https://CHAT.example.com.evil.org"),
            (own, "http://chat.example.com"),
            (own, "https://chat.example.com:8443"),
            (own, "https://mcp.example.com:8443"),
            ("mcp.example.com:8443", "https://mcp.example.com"),
            (own, "https://other.mcp.example.com"),
            (own, "https://localhost.evil.org"),
            (own, "http://127.0.0.1.evil.org"),
            (own, "http://localhost@evil.org"),
            (own, "http://evil.org/localhost"),
            (own, "http://localhost/"),
            (own, "localhost"),
            (own, "mcp.example.com"),
            (own, "moz-extension://mcp.example.com"),
            (own, "chrome-extension://abcdefghijklmnop"),
            (own, "file://"),
            (own, "https://\u{e9}"),
            ("10.0.0.1:8000", "http://10.0.0.2:8000"),
            ("gateway", "http://other"),
        ] {
            check(&[host], &[origin], Err(Code::ForeignOrigin));
        }
        check(&[own], &[LISTED, LISTED], Err(Code::ForeignOrigin));
        check(&[own], &["https://chat.example.com https://evil.org"], Err(Code::ForeignOrigin));
    }

    fn asked(host: &str, origin: Option<&str>) -> Result<(), Refusal> {
        let mut request = Request::new(()).into_parts().0;
        request.headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            request.headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        let settings = Settings { hosts: vec!["mcp.example.com".into()], ..settings() };
        refuse_foreign(&request, &settings)
    }

    proptest! {
        #[test]
        fn nothing_around_a_foreign_name_makes_it_ours(before in "[ -~]{0,12}", after in "([:/@?#.,; ][ -~]{0,12})?") {
            let name = format!("{before}evil.org{after}");
            prop_assert!(asked(&name, None).is_err(), "Host: {name}");
            for scheme in ["http://", "https://", ""] {
                let origin = format!("{scheme}{name}");
                prop_assert!(asked("mcp.example.com", Some(&origin)).is_err(), "Origin: {origin}");
            }
        }

        #[test]
        fn a_page_of_the_gateway_itself_may_call(port in 1_u16.., is_listed in any::<bool>()) {
            let host = format!("{}:{port}", if is_listed { "mcp.example.com" } else { "10.0.0.1" });
            let (own, other) = (format!("http://{host}"), format!("http://{host}0"));
            prop_assert!(asked(&host, Some(&own)).is_ok());
            prop_assert!(asked(&host, Some(&other)).is_err());
        }
    }
}
