//! Which address a client has: its end of the connection, or what a listed load balancer tells of it.
//!
//! Decides whose word counts: that of `listen.balancers` alone, by the PROXY protocol and by `X-Forwarded-For`. What they
//! tell is for the log, and for identity where the operator says so. `Forwarded` and `X-Real-IP` are not read: of
//! headers that say the same, one too many is the one that nobody overwrites.

use std::net::IpAddr;

use http::HeaderMap;
use pingora::proxy::Session;

use super::line::Line;
use crate::names::{Authority, Host, Network};

/// Whose word about a client's address is taken.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Addresses of load balancers in front.
    pub balancers: Vec<Network>,
    /// Whether they begin every connection with a PROXY protocol header.
    pub is_proxy_protocol_on: bool,
    /// Whether what they tell is where a request comes from for identity too, and not for the log alone.
    pub is_trusted: bool,
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrival {
    /// For the log.
    pub client: Option<IpAddr>,
    /// For identity.
    pub sender: Option<IpAddr>,
}

impl Settings {
    /// Whether this is the address of a balancer.
    pub fn is_balancer(&self, address: IpAddr) -> bool {
        self.balancers.iter().any(|network| network.contains(address))
    }

    /// Where the request on this session comes from.
    pub fn arrival(&self, session: &Session) -> Arrival {
        let Some(end) =
            session.client_addr().and_then(|address| Some(address.as_inet()?.ip().to_canonical()))
        else {
            return Arrival::default();
        };
        let told = Line::current().and_then(|line| line.told());
        let client = self.client(end, told, &session.req_header().headers);
        Arrival { client: client.or(Some(end)), sender: if self.is_trusted { client } else { Some(end) } }
    }

    /// The client's address: the nearest one that is no balancer's, looked for from the end of the connection outwards.
    /// None where a balancer with the PROXY protocol tells none: it works below HTTP, so no header is its own.
    ///
    /// Each balancer's word is about the one before it, so the first stranger's is the last that counts.
    fn client(&self, end: IpAddr, told: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        if !self.is_balancer(end) {
            return Some(end);
        }
        let mut nearest = match told {
            Some(told) => told,
            None if self.is_proxy_protocol_on => return None,
            None => end,
        };
        for hop in forwarded_for(headers) {
            match hop {
                Some(address) if self.is_balancer(nearest) => nearest = address,
                Some(_) | None => break,
            }
        }
        Some(nearest)
    }
}

/// The addresses of `X-Forwarded-For` from the right; none in place of what is no address.
fn forwarded_for(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(',').map(|hop| address(hop.trim())))
}

/// An address as proxies write it: some add the port.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    match Authority::parse(text).ok()?.host {
        Host::Ip(address) => Some(address.to_canonical()),
        Host::Name(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header::HeaderName};
    use proptest::prelude::*;

    use super::*;

    fn settings() -> Settings {
        let balancers = ["10.0.0.0/8", "fd00::/8"].map(|text| Network::parse(text).unwrap());
        Settings { balancers: balancers.into(), ..Settings::default() }
    }

    fn headers(lines: &[&str]) -> HeaderMap {
        let name = HeaderName::from_static("x-forwarded-for");
        lines.iter().map(|line| (name.clone(), HeaderValue::from_str(line).unwrap())).collect()
    }

    #[track_caller]
    fn check(end: &str, told: Option<&str>, lines: &[&str], expected: &str) {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        let found = settings().client(parse(end), told.map(parse), &headers(lines));
        assert_eq!(found, Some(parse(expected)), "{end} {told:?} {lines:?}");
    }

    #[test]
    fn only_balancers_are_heard_and_each_about_the_one_before_it() {
        check("192.0.2.1", None, &["198.51.100.1"], "192.0.2.1");
        check("10.0.0.1", None, &[], "10.0.0.1");
        check("10.0.0.1", None, &["198.51.100.1"], "198.51.100.1");
        check("10.0.0.1", None, &["1.1.1.1, 198.51.100.1"], "198.51.100.1");
        check("10.0.0.1", None, &["1.1.1.1", "198.51.100.1, 10.0.0.2"], "198.51.100.1");
        check("10.0.0.1", None, &["1.1.1.1,198.51.100.1,10.0.0.2,fd00::3"], "198.51.100.1");
        check("10.0.0.1", None, &["10.0.0.3, 10.0.0.2"], "10.0.0.3");
        check("fd00::1", None, &["2001:db8::1"], "2001:db8::1");
    }

    #[test]
    fn what_the_proxy_protocol_tells_counts_before_what_a_header_does() {
        check("10.0.0.1", Some("198.51.100.1"), &[], "198.51.100.1");
        check("10.0.0.1", Some("198.51.100.1"), &["1.1.1.1"], "198.51.100.1");
        check("10.0.0.1", Some("10.0.0.2"), &["1.1.1.1, 198.51.100.1"], "198.51.100.1");
    }

    #[test]
    fn where_the_proxy_protocol_tells_no_address_a_header_is_the_clients_own() {
        let settings = Settings { is_proxy_protocol_on: true, ..settings() };
        let balancer = "10.0.0.1".parse().unwrap();
        assert_eq!(settings.client(balancer, None, &headers(&["198.51.100.1"])), None);
        let told = "198.51.100.7".parse().ok();
        assert_eq!(settings.client(balancer, told, &headers(&["198.51.100.1"])), told);
    }

    #[test]
    fn an_address_may_have_a_port_and_what_is_none_ends_the_search() {
        check("10.0.0.1", None, &["198.51.100.1:4711"], "198.51.100.1");
        check("10.0.0.1", None, &["[2001:db8::1]:4711"], "2001:db8::1");
        check("10.0.0.1", None, &["[2001:db8::1]"], "2001:db8::1");
        check("10.0.0.1", None, &["::ffff:198.51.100.1"], "198.51.100.1");
        check("10.0.0.1", None, &["198.51.100.1, unknown"], "10.0.0.1");
        check("10.0.0.1", None, &["198.51.100.1,"], "10.0.0.1");
        check("10.0.0.1", None, &["198.51.100.1", "_hidden, 10.0.0.2"], "10.0.0.2");
        check("10.0.0.1", None, &["198.51.100.1, host.example"], "10.0.0.1");
    }

    proptest! {
        #[test]
        fn what_a_client_writes_never_moves_what_its_balancer_wrote(
            forged in "[0-9a-f:., \\[\\]]{0,40}", lines in 0_usize..3
        ) {
            let mut all = vec![forged.as_str(); lines];
            let appended = format!("{forged}, 198.51.100.1");
            all.push(&appended);
            let end = "10.0.0.1".parse().unwrap();
            let told = settings().client(end, None, &headers(&all));
            prop_assert_eq!(told, "198.51.100.1".parse::<IpAddr>().ok());
            let stranger = "192.0.2.1".parse().unwrap();
            prop_assert_eq!(settings().client(stranger, None, &headers(&all)), Some(stranger));
        }

        #[test]
        fn no_header_is_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let headers = [(HeaderName::from_static("x-forwarded-for"), value)].into_iter().collect();
                settings().client("10.0.0.1".parse().unwrap(), None, &headers);
            }
        }
    }
}
