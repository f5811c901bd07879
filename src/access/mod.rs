//! May they: the one place that decides who may use which server and which of its tools, and the only maker of a
//! `Permit`.
//!
//! Decides from the snapshot's grants and the caller alone; never waits, never reads a header and
//! never asks the database. Comes after `identity` and before `upstream`, which will not plan a
//! trip without a permit. Listings ask the same function, so they cannot show more than calls reach.

mod explain;
pub mod grants;
pub mod tenant;
pub mod tools;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use crate::{
    catalog::{pins, server::Server},
    identity::Caller,
    names::{GroupName, ServerId},
    refusal::{Code, Refusal},
};

pub use explain::{Explanation, explain};
use grants::Grants;
use tenant::{Own, Tenancy};
use tools::ToolRule;
pub use tools::ToolScope;

/// Rules that hold for every decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Members of this group may use every server.
    pub admin_group: GroupName,
    /// How long the last good grants serve while the database is away.
    pub max_stale: Duration,
    /// Whether a server without a grant looks like one that does not exist.
    pub is_concealing: bool,
    /// Which group counts where several of a caller's bring keys or addresses of their own.
    pub tenant_order: Vec<GroupName>,
}

/// Proof that this caller may use this server now. Only [`Access::authorize`] makes one.
#[derive(Debug, Clone)]
pub struct Permit {
    caller: Arc<Caller>,
    server: Arc<Server>,
    tools: ToolScope,
    tenancy: Tenancy,
    grant: Grant,
}

/// What lets a caller use a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// They are an admin.
    Admin,
    /// A grant of this group, the first by name where several have one.
    Group(GroupName),
    /// A grant of their own.
    User,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Grant::Admin => f.write_str("admin"),
            Grant::Group(group) => write!(f, "group:{group}"),
            Grant::User => f.write_str("user"),
        }
    }
}

impl Permit {
    /// Who may.
    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// What they may use.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Which of its tools they may use.
    pub fn tools(&self) -> &ToolScope {
        &self.tools
    }

    /// What lets them.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// For whom the server is called: with whose key, at whose address.
    pub fn tenancy(&self) -> &Tenancy {
        &self.tenancy
    }
}

/// The grants of one instant, with the number that names this instant.
#[derive(Debug, Clone)]
pub struct KnownGrants {
    /// Grows with every change; cached decisions belong to exactly one version.
    pub version: u64,
    /// The grants.
    pub grants: Arc<Grants>,
}

/// Everything one caller may reach under one version of the grants.
#[derive(Debug)]
pub struct Reach {
    is_admin: bool,
    servers: HashMap<ServerId, Grant>,
    /// Of servers that rules about this caller name, granted or not.
    tools: HashMap<ServerId, ToolScope>,
    /// What the caller's groups bring of their own.
    brought: HashMap<ServerId, Vec<Arc<Own>>>,
}

impl Reach {
    fn resolve(settings: &Settings, caller: &Caller, grants: &Grants) -> Self {
        let memberships = caller.email().into_iter().flat_map(|email| grants.memberships(email));
        let groups: HashSet<&GroupName> = caller.groups().iter().chain(memberships).collect();
        let own = caller.email().into_iter().flat_map(|email| grants.servers_of_user(email));
        let own_rules = caller.email().into_iter().flat_map(|email| grants.rules_of_user(email));
        let group_rules = groups.iter().flat_map(|group| grants.rules_of_group(group.as_str()));
        let mut rules: HashMap<&ServerId, Vec<ToolRule>> = HashMap::new();
        for (server, rule) in own_rules.chain(group_rules) {
            rules.entry(server).or_default().push(rule.clone());
        }
        let mut brought: HashMap<ServerId, Vec<Arc<Own>>> = HashMap::new();
        for (server, own) in groups.iter().flat_map(|group| grants.tenants().of_group(group)) {
            brought.entry(server.clone()).or_default().push(own.clone());
        }
        let mut servers: HashMap<ServerId, Grant> = own.map(|server| (server.clone(), Grant::User)).collect();
        // The last one stays: the first by name.
        let mut ordered: Vec<_> = groups.iter().copied().collect();
        ordered.sort_by(|one, other| other.as_str().cmp(one.as_str()));
        for group in ordered {
            let granted = grants.servers_of_group(group.as_str());
            servers.extend(granted.map(|server| (server.clone(), Grant::Group(group.clone()))));
        }
        let scope = |(server, rules): (&ServerId, _)| (server.clone(), ToolScope::of(rules));
        Self {
            is_admin: caller.is_admin() || groups.contains(&settings.admin_group),
            servers,
            tools: rules.into_iter().map(scope).collect(),
            brought,
        }
    }

    /// Whether the caller may administer the gateway, and so use every server.
    pub fn is_admin(&self) -> bool {
        self.is_admin
    }

    /// Whether the caller may use this server.
    pub fn includes(&self, server: &ServerId) -> bool {
        self.is_admin || self.servers.contains_key(server)
    }

    /// What lets the caller use this server, the strongest first.
    fn grant(&self, server: &ServerId) -> Option<Grant> {
        if self.is_admin { Some(Grant::Admin) } else { self.servers.get(server).cloned() }
    }

    /// Which tools of a server are left to the caller by the rules about them; no grant follows from it.
    pub fn tools(&self, server: &ServerId) -> &ToolScope {
        self.tools.get(server).unwrap_or(&tools::EVERYTHING)
    }
}

/// The decision, with its memory of decisions already made.
#[derive(Debug)]
pub struct Access {
    settings: Settings,
    reaches: moka::sync::Cache<(u64, [u8; 16]), Arc<Reach>>,
}

impl Access {
    /// Access under these rules.
    pub fn new(settings: Settings) -> Self {
        // A new version of the grants makes all entries useless: idle ones go soon.
        let reaches =
            moka::sync::Cache::builder().max_capacity(100_000).time_to_idle(Duration::from_secs(120)).build();
        Self { settings, reaches }
    }

    /// The rules.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Everything this caller may reach.
    pub fn reach(&self, caller: &Caller, known: &KnownGrants) -> Arc<Reach> {
        let key = (known.version, caller.fingerprint());
        if let Some(reach) = self.reaches.get(&key) {
            return reach;
        }
        let reach = Arc::new(Reach::resolve(&self.settings, caller, &known.grants));
        self.reaches.insert(key, reach.clone());
        reach
    }

    fn tenancy(&self, reach: &Reach, server: &Server, grants: &Grants) -> Tenancy {
        let brought = reach.brought.get(&server.id).map_or(&[][..], |brought| brought);
        Tenancy::choose(&self.settings.tenant_order, brought, server, grants.tenants())
    }

    /// Decides whether this caller may use this server, enabled or not, and which of its tools.
    pub fn authorize(
        &self,
        caller: &Arc<Caller>,
        server: &Arc<Server>,
        known: &KnownGrants,
    ) -> Result<Permit, Refusal> {
        let reach = self.reach(caller, known);
        if let Some(grant) = reach.grant(&server.id) {
            let tools = reach.tools(&server.id).clone();
            let tenancy = self.tenancy(&reach, server, &known.grants);
            return Ok(Permit { caller: caller.clone(), server: server.clone(), tools, tenancy, grant });
        }
        if self.settings.is_concealing {
            return Err(unknown_server());
        }
        Err(Refusal::new(Code::NotGranted, "you have no access to this server; ask its owner for a grant"))
    }
}

/// The answer about a server that does not exist, or that this caller may not know of.
pub fn unknown_server() -> Refusal {
    Refusal::new(Code::UnknownServer, "no such server; `GET /servers` lists yours")
}

/// The answer about a tool that does not exist, or that rules keep from this caller.
pub fn unknown_tool() -> Refusal {
    Refusal::new(Code::UnknownTool, "the server has no such tool; `GET /{server}` lists its tools")
}

/// The same answer about a tool that is withheld from everybody; the log says which it is.
pub fn withheld_tool() -> Refusal {
    unknown_tool().because(pins::WITHHELD)
}

#[cfg(test)]
mod tests;

/// Permits for the tests of other modules.
#[cfg(test)]
pub mod tests_support {
    use super::*;
    use crate::{catalog::server::tests_support::server, store::GrantRow};

    /// A row about the tools of the server `github`.
    pub const fn rule<'r>(
        kind: &'r str,
        subject: &'r str,
        pattern: &'r str,
        effect: &'r str,
    ) -> GrantRow<'r> {
        GrantRow::Rule { kind, subject, server: "github", pattern, effect }
    }

    /// A permit for the server `github` under these rules, each an effect and a pattern.
    pub fn permit(rules: &[(&str, &str)]) -> Permit {
        let (subject, id) = ("ann@x.org", "github");
        let rules = rules.iter().map(|(effect, pattern)| rule("user", subject, pattern, effect));
        let rows = rules.chain([GrantRow::User { email: subject, server: id }]);
        let known = KnownGrants { version: 1, grants: Arc::new(rows.collect()) };
        let admin_group = GroupName::parse("MCP-Admin").unwrap();
        let settings = Settings {
            admin_group,
            max_stale: Duration::from_secs(1),
            is_concealing: false,
            tenant_order: Vec::new(),
        };
        Access::new(settings).authorize(&Caller::for_test(subject, &[]), &server(id), &known).unwrap()
    }
}
