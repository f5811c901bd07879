//! For which group a call would be made, and with whose key, as a sentence.

use std::sync::Arc;

use crate::{
    access::{Access, KnownGrants, grants::Grants, tenant::Tenancy},
    catalog::server::{Server, Sharing},
    config::Config,
    credentials,
    identity::Caller,
};

/// Whether calls could be sent, and what to say of it; nothing where nobody has anything of their own for the server, or
/// the caller has no grant.
pub(super) fn told(
    config: &Config,
    caller: &Arc<Caller>,
    server: &Server,
    grants: Grants,
) -> Option<(bool, String)> {
    let known = KnownGrants { version: 1, grants: Arc::new(grants) };
    let access = Access::new(config.access.clone());
    let permit = access.authorize(caller, &Arc::new(server.clone()), &known).ok()?;
    let refused = |status: u16, code: &str, cause: &str| {
        (false, format!("but every call answers {status} `{code}`: {cause}"))
    };
    if let Tenancy::Own(own) = permit.tenancy() {
        let is_allowed = |url: &str| config.allowed_hosts.read(url, server.dialect.is_mcp()).is_some();
        let cause = match own.endpoints() {
            [] => None,
            [url] if is_allowed(url) => None,
            [_] => {
                Some("the address of the group is no address, or its host is not in `upstream.allowed_hosts`")
            }
            _ => Some("the group has two addresses"),
        };
        if let Some(cause) = cause {
            return Some(refused(503, "tenant_endpoint_unusable", cause));
        }
    }
    if let Err(refusal) = credentials::of(&permit) {
        // Without the variables of `run` the shared credential is not here either; that says nothing of who may share it.
        let lacks_variable = server.credential.is_none() && server.sharing != Sharing::Never;
        let is_shared = matches!(permit.tenancy(), Tenancy::Shared { is_keyed: false });
        if lacks_variable && is_shared {
            return None;
        }
        let cause = refusal
            .cause()
            .unwrap_or("none of the caller's groups has a key for it, by the name that the server takes");
        return Some(refused(refusal.code().status(), refusal.code().as_str(), cause));
    }
    let Tenancy::Own(own) = permit.tenancy() else { return None };
    let key_name = server.own_credential.as_ref().map(|how| how.key_name.as_str());
    let key = key_name.filter(|name| own.keys(name).next().is_some());
    let with = key.map_or_else(String::new, |name| format!(" with its own `{name}`"));
    let at = if own.endpoints().is_empty() { "" } else { " at its own address" };
    Some((true, format!("calls are made for group `{}`{with}{at}", own.group().as_str())))
}
