//! `[limits]`: how much one caller, address or server may have.
//!
//! Decides which limits are possible. Never counts anything: that is `limit`.

use std::time::Duration;

use super::{
    gateway_headers,
    openwebui::{key_prefix, optional_redis},
    problems::Complaint,
    reader::{Read, Reader},
};
use crate::{
    limit::{RedisSettings, Settings},
    names::{Network, Rate},
};

/// What services have of their own: the caller's name, and its limit.
pub(super) type ServiceRates = Vec<(String, Option<Rate>)>;

/// Calls of one server that may run at once, where neither file says.
pub(super) const RUNNING: u32 = 5_000;
/// More than any server runs.
pub(super) const MOST_RUNNING: u32 = 1_000_000;

/// Reads the table; and how many calls of a server may run at once that does not say.
pub(super) fn read(table: &mut Reader<'_>, services: ServiceRates) -> Read<(Settings, u32)> {
    let per_caller = table.parsed("calls_per_caller", "100/min", rate);
    let per_server = table.parsed("calls_per_server", "off", rate);
    let per_tool = table.parsed("calls_per_tool", "off", rate);
    let per_address = table.parsed("requests_per_address", "1000/min", rate);
    let unlimited = table.list("unlimited_addresses", gateway_headers::network);
    let streams = table.size("streams_per_caller", 256, 0..=1_000_000);
    let requests = table.size("requests_per_caller", 2_000, 0..=1_000_000);
    let connections = table.size("connections_per_address", 8_000, 0..=1_000_000);
    let running = table.integer("running_per_server", RUNNING.into(), 0..=MOST_RUNNING.into());
    let in_work = table.size("requests_in_work", 10_000, 0..=10_000_000);
    let lateness = table.integer("shed_late_millis", 500, 0..=60_000).map(Duration::from_millis);
    let redis = redis(table);
    let unlimited = unlimited?;
    if unlimited.iter().any(Network::is_everything) {
        table.warning(
            "unlimited_addresses",
            "`limits.unlimited_addresses` holds every address, or nearly, so anybody may guess credentials as fast as they can",
            "list the addresses that send more failing requests than `requests_per_address`, and no others",
        );
    }
    let settings = Settings {
        per_caller: per_caller?,
        per_server: per_server?,
        per_tool: per_tool?,
        per_address: per_address?,
        services: services.into_iter().collect(),
        unlimited_addresses: unlimited,
        streams_per_caller: streams?,
        requests_per_caller: requests?,
        connections_per_address: connections?,
        requests_in_work: in_work?,
        lateness: lateness?,
        redis: redis?,
    };
    // The range ends within 32 bits.
    Ok((settings, running? as u32))
}

/// A rate, or none.
pub(super) fn rate(text: &str) -> Result<Option<Rate>, Complaint> {
    Rate::parse(text).map_err(|bad| {
        Complaint::new(format!("must be a rate: {bad}"))
            .with_hint("for example `100/min`, `5/s, burst 20`, or `off`")
    })
}

fn redis(table: &mut Reader<'_>) -> Read<Option<RedisSettings>> {
    let url = table.parsed("redis_url", "${PORTCULLIS_LIMITS_REDIS_URL:-}", optional_redis);
    let key_prefix = table.parsed("redis_key_prefix", "portcullis", key_prefix);
    let deadline = table.integer("redis_deadline_millis", 50, 1..=5_000).map(Duration::from_millis);
    let (url, key_prefix, deadline) = (url?, key_prefix?, deadline?);
    let Some((url, is_exposed)) = url else { return Ok(None) };
    if is_exposed {
        table.warning(
            "redis_url",
            "`limits.redis_url` is asked without TLS at a public address, so others can read its password and change what it \
             counts",
            "use `rediss://`, or an address in a private network",
        );
    }
    Ok(Some(RedisSettings { url, key_prefix, deadline }))
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{check, read};

    #[test]
    fn limits_are_those_of_the_gateway_before_this_one() {
        let limits = read("", "", &[]).unwrap().limits;
        let rate = |rate: Option<crate::names::Rate>| rate.map(|rate| rate.to_string());
        assert_eq!(rate(limits.per_caller).unwrap(), "100/min");
        assert_eq!(rate(limits.per_address).unwrap(), "1000/min");
        assert!(limits.per_server.is_none() && limits.per_tool.is_none() && limits.redis.is_none());
        let at_once = (limits.streams_per_caller, limits.requests_per_caller, limits.connections_per_address);
        assert_eq!(at_once, (256, 2_000, 8_000));
    }

    #[test]
    fn what_is_no_limit_is_refused_with_its_place() {
        check(
            "[limits]\ncalls_per_caller = '100'\nrequests_per_address = '0/s'\nstreams_per_caller = -1\n\
             unlimited_addresses = ['nobody']\nredis_url = 'http://redis'",
            "",
            &[],
            "g:2: `limits.calls_per_caller` must be a rate: a rate is `COUNT/s`, `COUNT/min`, `COUNT/h` or `COUNT/day`, then \
             perhaps `, burst COUNT`\n  hint: for example `100/min`, `5/s, burst 20`, or `off`\n\
             g:3: `limits.requests_per_address` must be a rate: a rate counts from 1 to 1000000; `off` is none\n  \
             hint: for example `100/min`, `5/s, burst 20`, or `off`\n\
             g:4: `limits.streams_per_caller` must be a whole number from 0 to 1000000\n  hint: the default is 256\n\
             g:5: `limits.unlimited_addresses` must hold networks: a network is an IP address or, with its prefix length, \
             `10.0.0.0/8`\n\
             g:6: `limits.redis_url` must be `redis://[[user]:password@]host[:port][/number]`, or the same with `rediss://` \
             for TLS\n  hint: percent-encode `/`, `?`, `#`, `@` and `:` in the user name and the password",
        );
    }

    #[test]
    fn a_service_has_a_limit_of_its_own_where_its_table_says_so() {
        let text = "[auth.service_keys.a]\nkey = 'sixteen-letters-1'\ncalls = '5/s'\n\
                    [auth.service_keys.b]\nkey = 'sixteen-letters-2'\ncalls = 'off'\n\
                    [auth.service_keys.c]\nkey = 'sixteen-letters-3'";
        let services = read(text, "", &[]).unwrap().limits.services;
        assert_eq!(services["service:a"].unwrap().to_string(), "5/s");
        assert_eq!(services["service:b"], None);
        assert!(!services.contains_key("service:c"));
    }
}
