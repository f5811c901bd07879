//! The way to a server for requests the gateway words itself: where the server is, and who it is to believe.
//!
//! Decides which addresses are tried in which order and which credential goes along. A way for a caller comes from a
//! trip, which needs a permit; the gateway's own reading of what servers offer is the one errand without a caller.

use std::{fmt, sync::Arc, time::Duration};

use sha2::{Digest, Sha256};

use super::{Addresses, Course, Destination, Errand, Trip, native, turn, unreachable};
use crate::{
    access::{self, Permit},
    catalog::{
        server::{CredentialHeader, Server},
        tools::Tool,
    },
    mcp::session::Place,
    names::GroupName,
    refusal::Refusal,
};

/// What a request of the gateway's own wording is about.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// The call of this tool.
    Tool(Arc<Tool>),
    /// Whatever is no tool: prompts, resources, completion, a server's own stream.
    Other,
}

/// Plans a request that the gateway words itself; a tool that the permit does not allow is like one that is not there.
pub fn plan_ask(permit: Permit, what: Wanted, addresses: &Addresses) -> Result<Trip, Refusal> {
    if let Wanted::Tool(tool) = &what
        && !permit.tools().allows(tool.name.as_str())
    {
        return Err(access::unknown_tool());
    }
    Trip::begin(permit, Errand::Asked(what), None, addresses)
}

/// The way to a server. Only this module makes one.
#[derive(Debug, Clone)]
pub struct Way {
    server: Arc<Server>,
    course: Course,
    credential: Option<CredentialHeader>,
    owner: Option<String>,
    context: Context,
    tenant: Option<GroupName>,
}

/// With which credential a server is asked, as a number that tells nothing of it: what a server says to one credential
/// is not shown to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Context([u8; 16]);

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Context {
    fn of(credential: Option<&CredentialHeader>, tenant: Option<&GroupName>) -> Self {
        let mut digest = Sha256::new();
        // Two groups are two, even where they have the same key.
        digest.update(tenant.map_or("", GroupName::as_str));
        digest.update([0]);
        if let Some(credential) = credential {
            digest.update(credential.name.as_str());
            digest.update([0]);
            digest.update(credential.value.expose().as_bytes());
        }
        let mut context = [0; 16];
        context.copy_from_slice(&digest.finalize()[..16]);
        Self(context)
    }
}

impl Trip {
    /// The way for this trip, with the credential that its permit gives.
    pub fn way(&self) -> Way {
        let tenant = self.permit.tenancy().group().cloned();
        Way {
            server: self.server().clone(),
            course: self.course.clone(),
            context: Context::of(self.credential.as_ref(), tenant.as_ref()),
            credential: self.credential.clone(),
            tenant,
            owner: Some(self.permit.caller().name().to_owned()),
        }
    }
}

/// The way for the gateway's own reading of what a server offers, in nobody's name.
pub fn own_way(
    server: Arc<Server>,
    addresses: &Addresses,
    credential: Option<CredentialHeader>,
) -> Result<Way, Refusal> {
    let destinations = addresses.of(&server);
    if destinations.is_empty() {
        return Err(unreachable("no address of the server resolves"));
    }
    let first = turn(destinations.len());
    let context = Context::of(credential.as_ref(), None);
    let course = Course::to_any(destinations, first);
    Ok(Way { server, course, credential, owner: None, context, tenant: None })
}

/// The way to one address of a server, to see how it is: whatever is believed of it, and in nobody's name.
pub fn probe_way(server: Arc<Server>, destination: Destination, credential: Option<CredentialHeader>) -> Way {
    let context = Context::of(credential.as_ref(), None);
    Way { server, course: Course::to_probe(destination), credential, owner: None, context, tenant: None }
}

impl Way {
    /// The server it leads to.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Where it may lead.
    pub fn course(&self) -> &Course {
        &self.course
    }

    /// How long a server is waited for that has just gone away.
    pub fn patience(&self) -> Duration {
        self.server.deadlines.connect * 2
    }

    /// The header that makes the server believe us.
    pub fn credential(&self) -> Option<&CredentialHeader> {
        self.credential.as_ref()
    }

    /// The group it is gone for, where that has something of its own.
    pub fn tenant(&self) -> Option<&GroupName> {
        self.tenant.as_ref()
    }

    /// With which credential the server is asked.
    pub fn context(&self) -> Context {
        self.context
    }

    /// The caller it is gone for; none where the gateway asks for itself.
    pub fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    /// The same way, to the peer that holds a session, and first to the address it was opened at.
    pub fn at(&self, place: Place) -> Result<Self, Refusal> {
        let course = native::at_place(self.course.destinations().clone(), place)?;
        Ok(Self { course, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{access::tests_support::permit, catalog::tools::ToolList, refusal::Code};

    fn addresses() -> Addresses {
        let server = permit(&[]).server().clone();
        let destinations =
            [9, 10].map(|port| Destination::new(server.peers[0].clone(), ([127, 0, 0, 1], port).into()));
        Addresses::default().with(server.id.clone(), destinations.into())
    }

    #[test]
    fn no_way_leads_to_a_tool_that_rules_deny() {
        let (list, _) =
            ToolList::parse(br#"{"openapi": "3.1.0", "paths": {"/search": {"post": {}}}}"#).unwrap();
        let check = |rules: &[(&str, &str)], wanted: Wanted| {
            plan_ask(permit(rules), wanted, &addresses()).err().map(|refusal| refusal.code())
        };
        let search = Wanted::Tool(list.get("search").unwrap().clone());
        assert_eq!(check(&[], search.clone()), None);
        assert_eq!(check(&[("deny", "search")], search.clone()), Some(Code::UnknownTool));
        assert_eq!(check(&[("allow", "get_*")], search), Some(Code::UnknownTool));
        assert_eq!(check(&[("deny", "search")], Wanted::Other), None);
        let nowhere = plan_ask(permit(&[]), Wanted::Other, &Addresses::default());
        assert_eq!(nowhere.unwrap_err().code(), Code::PeerUnreachable);
    }

    #[test]
    fn a_way_tries_every_address_once_and_keeps_to_a_session_s_place() {
        let way = plan_ask(permit(&[]), Wanted::Other, &addresses()).unwrap().way();
        assert_eq!(way.owner(), Some("ann@x.org"));
        let ports = |way: &Way| {
            let mut tried = super::super::course::Tried::default();
            std::iter::from_fn(|| way.course().pick(&mut tried).ok())
                .map(|pick| way.course().destination(pick.at).unwrap().address.port())
                .collect::<Vec<_>>()
        };
        let mut all = ports(&way);
        all.sort_unstable();
        assert_eq!(all, [9, 10]);
        let last = way.course().destination(1).unwrap().clone();
        assert_eq!(ports(&way.at(last.place).unwrap())[0], last.address.port());
        let gone = Place { peer: 1, address: 1 };
        assert_eq!(way.at(gone).unwrap_err().code(), Code::UnknownSession);
    }

    #[test]
    fn what_is_asked_with_another_credential_is_another_context() {
        let credential = |value: &'static str| CredentialHeader {
            name: http::header::AUTHORIZATION,
            value: crate::names::Secret::new(http::HeaderValue::from_static(value)),
        };
        let server = permit(&[]).server().clone();
        let way = |credential| own_way(server.clone(), &addresses(), credential).unwrap();
        assert_eq!(way(None).context(), way(None).context());
        assert_eq!(way(Some(credential("a"))).context(), way(Some(credential("a"))).context());
        assert_ne!(way(Some(credential("a"))).context(), way(Some(credential("b"))).context());
        assert_ne!(way(Some(credential("a"))).context(), way(None).context());
        assert!(!format!("{:?}", way(Some(credential("hush")))).contains("hush"));
    }
}
