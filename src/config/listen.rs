//! The public listener and the ops listener as `gateway.toml` has them: `[listen]`, `[shutdown]` and `[cors]`.
//!
//! Decides which addresses, times and sizes can work together. Opens nothing.

use std::{net::SocketAddr, time::Duration};

use super::{
    gateway_file::{DAY_SECS, MAX_BYTES},
    gateway_headers, listener_tls,
    oauth::SignIn,
    reader::{Read, Reader},
    urls,
};
use crate::{
    gateway::{self, native, told_address},
    names::Network,
};

/// Reads `[listen]`, `[shutdown]` and `[cors]`, and where the addresses of both listeners stand.
pub(super) fn read(
    root: &mut Reader<'_>,
    (sign_in, trusts_told_address): (Option<SignIn>, bool),
    mcp: Read<native::Settings>,
    meta_tools: Read<bool>,
) -> Read<(gateway::Settings, [String; 2])> {
    let shutdown = root.table("shutdown", shutdown);
    let origins = root.table("cors", |table| table.list("origins", urls::origin));
    root.table("listen", |table| {
        let http = table.parsed("http", "0.0.0.0:8000", urls::listener);
        let ops = table.parsed("ops", "127.0.0.1:9090", urls::listener);
        let threads = table.size("threads", 0, 0..=1024);
        let max_connections = table.size("max_connections", 10_000, 1..=10_000_000);
        let header_timeout = table.seconds("header_timeout_secs", 10, 1..=3600);
        let keepalive_timeout = table.seconds("keepalive_timeout_secs", 60, 1..=DAY_SECS);
        let body_timeout = table.seconds("body_timeout_secs", 60, 1..=DAY_SECS);
        let write_timeout = table.seconds("write_timeout_secs", 30, 1..=DAY_SECS);
        let sizes = sizes(table);
        let hosts = table.list("hosts", urls::host);
        let public_url = table.parsed("public_url", "", urls::public_url);
        let addresses = addresses(table, trusts_told_address);
        let tls = listener_tls::read(table);
        let max_h2_streams = table.size("max_h2_streams", 100, 1..=10_000);
        check_listeners(table, http, ops);
        let oauth = sign_in.map(|sign_in| sign_in.at(table, &public_url)).transpose();
        let (mut hosts, public_url) = (hosts?, public_url?);
        hosts.extend(public_url.as_ref().map(|url| url.host.clone()));
        let (shutdown_delay, shutdown_grace, upgrade_timeout) = shutdown?;
        let sizes = sizes?;
        let places = ["http", "ops"].map(|key| table.place_of(key));
        let settings = gateway::Settings {
            http: http?,
            ops: ops?,
            threads: threads?,
            max_connections: max_connections?,
            header_timeout: header_timeout?,
            keepalive_timeout: keepalive_timeout?,
            body_timeout: body_timeout?,
            write_timeout: write_timeout?,
            max_header_bytes: sizes.max_header_bytes,
            max_wrapped_body_bytes: sizes.max_wrapped_body_bytes,
            max_body_bytes: sizes.max_body_bytes,
            min_body_rate: sizes.min_body_rate,
            min_answer_rate: sizes.min_answer_rate,
            shutdown_delay,
            shutdown_grace,
            upgrade_timeout,
            tls: tls?,
            max_h2_streams: max_h2_streams?,
            cors_origins: origins?,
            hosts,
            public_url: public_url.map(|url| url.origin),
            oauth: oauth?,
            mcp: mcp?,
            shows_meta_tools_only: meta_tools?,
            addresses: addresses?,
        };
        Ok((settings, places))
    })
}

/// Reads `delay_secs`, `grace_secs` and `upgrade_timeout_secs`.
fn shutdown(table: &mut Reader<'_>) -> Read<(Duration, Duration, Duration)> {
    let delay = table.seconds("delay_secs", 0, 0..=DAY_SECS);
    let grace = table.seconds("grace_secs", 60, 0..=DAY_SECS);
    let upgrade = table.seconds("upgrade_timeout_secs", 60, 1..=3600);
    Ok((delay?, grace?, upgrade?))
}

/// How large and how slow a request and its answer may be.
struct Sizes {
    max_header_bytes: usize,
    max_wrapped_body_bytes: usize,
    max_body_bytes: u64,
    min_body_rate: u64,
    min_answer_rate: u64,
}

fn sizes(table: &mut Reader<'_>) -> Read<Sizes> {
    let max_header_bytes = table.size("max_header_bytes", 32_768, 1024..=1_048_576);
    let max_wrapped_body_bytes = table.size("max_wrapped_body_bytes", 1_048_576, 1024..=MAX_BYTES);
    let max_body_bytes = table.integer("max_body_bytes", 67_108_864, 1024..=1 << 40);
    let min_body_rate = table.integer("min_body_bytes_per_sec", 512, 0..=1 << 30);
    let min_answer_rate = table.integer("min_answer_bytes_per_sec", 512, 0..=1 << 30);
    Ok(Sizes {
        max_header_bytes: max_header_bytes?,
        max_wrapped_body_bytes: max_wrapped_body_bytes?,
        max_body_bytes: max_body_bytes?,
        min_body_rate: min_body_rate?,
        min_answer_rate: min_answer_rate?,
    })
}

/// Reads `balancers` and `proxy_protocol`.
fn addresses(table: &mut Reader<'_>, is_trusted: bool) -> Read<told_address::Settings> {
    let balancers = table.list("balancers", gateway_headers::network);
    let is_proxy_protocol_on = table.flag("proxy_protocol", "false");
    let (balancers, is_proxy_protocol_on) = (balancers?, is_proxy_protocol_on?);
    let hint = "list the addresses the load balancers call from";
    if balancers.iter().any(Network::is_everything) {
        let sentence =
            "`listen.balancers` holds every address, or nearly, so anybody could say where they are";
        return Err(table.problem("balancers", sentence, hint));
    }
    if balancers.is_empty() && is_proxy_protocol_on {
        let sentence = "`listen.proxy_protocol` is on, but `listen.balancers` names nobody who could send it";
        return Err(table.problem("proxy_protocol", sentence, hint));
    }
    if balancers.is_empty() && is_trusted {
        let sentence = "`auth.gateway.trust_told_address` is on, but `listen.balancers` names nobody who could tell \
                        an address";
        table.warning("balancers", sentence, hint);
    }
    Ok(told_address::Settings { balancers, is_proxy_protocol_on, is_trusted })
}

fn check_listeners(table: &Reader<'_>, http: Read<SocketAddr>, ops: Read<SocketAddr>) {
    if let (Ok(http), Ok(ops)) = (http, ops)
        && urls::listeners_collide(http, ops)
    {
        table.problem(
            "ops",
            "`listen.http` and `listen.ops` are the same address",
            "give one of them another port",
        );
    }
    if ops.is_ok_and(|ops| !ops.ip().to_canonical().is_loopback()) {
        table.warning(
            "ops",
            "`listen.ops` can be reached from other machines, and whoever reaches it reads the metrics without a \
             credential",
            "write `127.0.0.1:PORT`, or let a firewall admit only those who read them",
        );
    }
}
