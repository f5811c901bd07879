//! config (being written)
use crate::{access, catalog, gateway, identity, record, store};

/// A configuration without problems: everything the gateway is told by its operator.
#[derive(Debug, Clone)]
pub struct Config {
    /// The listeners.
    pub gateway: gateway::Settings,
    /// The database of grants.
    pub store: store::Settings,
    /// The believed credentials.
    pub identity: identity::Settings,
    /// The rules of access.
    pub access: access::Settings,
    /// Keeping tool lists.
    pub catalog: catalog::Settings,
    /// Logs.
    pub record: record::Settings,
    /// The servers.
    pub servers: Vec<catalog::server::Server>,
}
