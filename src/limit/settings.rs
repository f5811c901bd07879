//! What the operator allows.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use crate::names::{Network, Rate, Secret};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Tool calls of one caller.
    Caller,
    /// Tool calls of one server, by all callers.
    Server,
    /// Calls of one tool by one caller.
    Tool,
    /// Requests from one address that nobody is believed to have sent.
    Address,
}

impl Kind {
    /// The word in headers and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Caller => "caller",
            Kind::Server => "server",
            Kind::Tool => "tool",
            Kind::Address => "address",
        }
    }
}

/// Limits of all requests. A number of 0 is no limit.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Tool calls of one caller.
    pub per_caller: Option<Rate>,
    /// Tool calls of one server, where it does not say otherwise.
    pub per_server: Option<Rate>,
    /// Calls of one tool by one caller, where its server does not say otherwise.
    pub per_tool: Option<Rate>,
    /// Requests from one address that nobody is believed to have sent.
    pub per_address: Option<Rate>,
    /// Tool calls of services that have a limit of their own, by the caller's name.
    pub services: HashMap<String, Option<Rate>>,
    /// Addresses whose requests are not counted.
    pub unlimited_addresses: Vec<Network>,
    /// Streams that one caller may have open.
    pub streams_per_caller: usize,
    /// Requests that one caller may have in work at once, open streams aside.
    pub requests_per_caller: usize,
    /// Connections that one address may have open.
    pub connections_per_address: usize,
    /// Requests that may be in work at once, open streams aside.
    pub requests_in_work: usize,
    /// How late the workers may be before requests are turned away; zero: as late as they like.
    pub lateness: Duration,
    /// Where replicas count together.
    pub redis: Option<RedisSettings>,
}

/// A Redis in which replicas count together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// `redis://…`; may hold a password.
    pub url: Secret<String>,
    /// What every key begins with.
    pub key_prefix: String,
    /// How long a call waits for it.
    pub deadline: Duration,
}

impl Settings {
    /// What a service may call that acts for itself.
    pub(super) fn of_service(&self, name: &str) -> Option<Rate> {
        self.services.get(name).copied().unwrap_or(self.per_caller)
    }

    /// Whether requests from this address are not counted.
    pub fn is_unlimited(&self, address: IpAddr) -> bool {
        self.unlimited_addresses.iter().any(|network| network.contains(address))
    }
}
