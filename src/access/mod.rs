//! access (being written)
use std::time::Duration;

use crate::names::GroupName;

/// Rules that hold for every decision.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Members of this group may use every server.
    pub admin_group: GroupName,
    /// How long the last good grants serve while the database is away.
    pub max_stale: Duration,
    /// Whether a server without a grant looks like one that does not exist.
    pub is_concealing: bool,
}
