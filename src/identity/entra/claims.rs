//! What the claims of a token prove: whom it is meant for, when it holds, who it names and in which groups they are.
//!
//! Pure: takes claims, settings and the time, gives values or a refusal. A claim of another type than Entra writes is
//! never passed over, it refuses: passing over one that takes rights away would give them.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Overage, Settings, Tenant, discovery::Version, group_name, guid};
use crate::{
    identity::reason::Reason,
    names::{Email, GroupName},
    refusal::Refusal,
};

/// Clock difference forgiven between Entra ID and this machine, in seconds.
const LEEWAY_SECS: i64 = 60;
/// Roles and groups read from one token; Entra puts in 200 groups at most.
const MOST_GROUPS: usize = 2000;

/// The claims of a token, believed or not yet.
pub struct Claims(Map<String, Value>);

/// Whose token it claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meant {
    /// The tenant's place in the settings.
    pub tenant: usize,
    /// Which kind of token.
    pub version: Version,
}

/// Who a token names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A user.
    User(Email),
    /// An application that acts for itself.
    App(Uuid),
}

/// What a verified token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// Who they are.
    pub who: Who,
    /// Their object id in the tenant.
    pub object: Uuid,
    /// The groups it tells.
    pub groups: Vec<GroupName>,
    /// Whether there are more, which Graph must be asked for.
    pub needs_groups: bool,
}

/// Whether a token that expires then is over.
pub fn is_over(expires: i64, now: i64) -> bool {
    expires < now.saturating_sub(LEEWAY_SECS)
}

impl Claims {
    /// Reads the payload of a token.
    pub fn read(payload: &[u8]) -> Result<Self, Refusal> {
        match serde_json::from_slice(payload) {
            Ok(Value::Object(claims)) => Ok(Self(claims)),
            _ => Err(Reason::Malformed.because("the claims are no JSON object")),
        }
    }

    /// Refuses tokens of other tenants and for other audiences.
    pub fn meant_for(&self, settings: &Settings) -> Result<Meant, Refusal> {
        // RFC 7519 lets `aud` be a list; Entra writes one text, and a token for several would be good elsewhere too.
        let audience = self.0.get("aud").and_then(Value::as_str).map(canonical);
        if !settings.audience.iter().any(|own| Some(canonical(own)) == audience) {
            return Err(Reason::WrongAudience.refuse());
        }
        let tenant = self.text("tid")?.and_then(guid);
        let tenant = settings.tenants.iter().position(|allowed| Some(allowed.id) == tenant);
        let tenant = tenant.ok_or_else(|| Reason::WrongTenant.refuse())?;
        let version = self.text("ver")?;
        let version = Version::ALL.into_iter().find(|known| Some(known.as_str()) == version);
        let version =
            version.ok_or_else(|| Reason::WrongIssuer.because("the `ver` claim is neither 1.0 nor 2.0"))?;
        Ok(Meant { tenant, version })
    }

    /// What the token calls its issuer.
    pub fn issuer(&self) -> Result<&str, Refusal> {
        self.text("iss")?.ok_or_else(|| Reason::WrongIssuer.refuse())
    }

    /// When the token expires, in seconds since 1970; refused when it does not hold at this time.
    pub fn dated(&self, now: i64) -> Result<i64, Refusal> {
        let date =
            |name| self.0.get(name).map(|value| value.as_i64().ok_or_else(|| ill_typed(name))).transpose();
        let expires = self.0.get("exp").and_then(Value::as_i64).ok_or_else(|| Reason::NoExpiry.refuse())?;
        let begins = date("nbf")?.ok_or_else(|| Reason::Malformed.because("the token has no `nbf` claim"))?;
        let latest = now.saturating_add(LEEWAY_SECS);
        if is_over(expires, now) {
            return Err(Reason::Expired.refuse());
        }
        if begins > latest {
            return Err(Reason::NotYetValid.refuse());
        }
        if date("iat")?.is_some_and(|issued| issued > latest) {
            return Err(Reason::IssuedInFuture.refuse());
        }
        Ok(expires)
    }

    /// What the token proves, once its signature is known to be right. `tenant` is the tenant's place in the settings.
    pub fn proven(&self, settings: &Settings, tenant: usize) -> Result<Proven, Refusal> {
        // RFC 7800: good only together with a proof that nobody here asks for.
        if self.0.get("cnf").is_some_and(|key| !key.is_null()) {
            return Err(Reason::NotAnAccessToken.because("the token is bound to a key (`cnf`)"));
        }
        let client = self.client()?;
        let object = self.text("oid")?.and_then(guid);
        let object = object.ok_or_else(|| Reason::NotAnAccessToken.because("no `oid` claim"))?;
        let scopes = self.text("scp")?.filter(|scopes| !scopes.is_empty());
        let kind = self.text("idtyp")?;
        let is_of_app = kind == Some("app") || self.text("sub")?.and_then(guid) == Some(object);
        let is_home = tenant == 0;
        let tenant = &settings.tenants[tenant];
        match (scopes, is_of_app) {
            (Some(scopes), false) => {
                refuse_other_scopes(scopes, &settings.scopes)?;
                let email = if self.is_of_guest(tenant)? {
                    self.email_of_guest(settings, is_home)?
                } else {
                    self.email_of_member(tenant)?
                };
                let mut groups = self.roles(is_home || tenant.are_roles_groups)?;
                groups.extend(self.groups(settings)?);
                let needs_groups = self.leaves_groups_out()?;
                if needs_groups && matches!(settings.overage, Overage::Refuse) {
                    return Err(Reason::GroupsOverage
                        .because("the user is in more groups than a token holds; set `auth.entra.overage`"));
                }
                Ok(Proven { who: Who::User(email), object, groups, needs_groups })
            }
            (None, true) => {
                // Another tenant's admins can give an application that runs there secrets of their own, and so become it.
                if !settings.apps || !is_home {
                    return Err(Reason::AppNotAllowed.refuse());
                }
                let groups = self.roles(true)?;
                Ok(Proven { who: Who::App(client), object, groups, needs_groups: false })
            }
            (Some(_), true) => Err(Reason::Malformed.because("the token is of a user and of an application")),
            (None, false) => Err(Reason::NotAnAccessToken.because("no `scp` claim")),
        }
    }

    /// The application that got the token. An ID token names none, because it is meant for that application itself.
    fn client(&self) -> Result<Uuid, Refusal> {
        let client = match self.text("azp")? {
            Some(client) => Some(client),
            None => self.text("appid")?,
        };
        client.and_then(guid).ok_or_else(|| Reason::NotAnAccessToken.because("no `azp` or `appid` claim"))
    }

    /// The email of a member of the tenant: what Entra ID itself keeps unique comes first. `email` is whatever stands in
    /// the user's contact data, so it counts only where the token has nothing else.
    fn email_of_member(&self, tenant: &Tenant) -> Result<Email, Refusal> {
        for name in ["preferred_username", "upn", "unique_name", "email"] {
            let Some(email) = self.text(name)?.and_then(email) else { continue };
            // A tenant's admins decide what stands here, so it counts only within the tenant's own domains. Others of
            // these claims are not tried: they could be chosen too.
            if !tenant.email_domains.is_empty() && !is_within(&email, tenant) {
                return Err(Reason::EmailOutsideDomains.refuse());
            }
            return Ok(email);
        }
        Err(Reason::NoEmail.refuse())
    }

    /// The email of a guest: from their user principal name in the home tenant, which is made of the address they were
    /// invited by. What guests are called at home (`preferred_username`, `email`) is for their own admins to choose; an
    /// `email` counts only where Entra ID has verified the owner of its domain.
    ///
    /// It must not be of a domain that a configured tenant has a say in: its users come as members, and a guest would
    /// be taken for one. Guests of other tenants are refused, because their admins could invite anybody's address.
    fn email_of_guest(&self, settings: &Settings, is_home: bool) -> Result<Email, Refusal> {
        if !settings.guests || !is_home {
            return Err(Reason::GuestNotAllowed.refuse());
        }
        let by_name = self.text("upn")?.and_then(invited_address);
        let by_owner = match self.is_email_verified() {
            true => self.text("email")?.and_then(email),
            false => None,
        };
        let email = by_name.or(by_owner).ok_or_else(|| {
            Reason::NoEmail.because("the guest's token has no `upn` with `#EXT#` and no verified `email`")
        })?;
        if settings.tenants.iter().any(|tenant| is_within(&email, tenant)) {
            return Err(
                Reason::EmailOutsideDomains.because("the guest has an email of a tenant's own domain")
            );
        }
        Ok(email)
    }

    fn is_of_guest(&self, tenant: &Tenant) -> Result<bool, Refusal> {
        let is_marked = match self.0.get("acct") {
            None | Some(Value::Null) => false,
            Some(Value::Number(kind)) => kind.as_i64() != Some(0),
            Some(Value::String(kind)) => kind != "0",
            Some(_) => return Err(ill_typed("acct")),
        };
        let mut is_external = false;
        for name in ["upn", "preferred_username", "unique_name"] {
            is_external |= self.text(name)?.is_some_and(|name| name.to_ascii_uppercase().contains(EXTERNAL));
        }
        // Who signed in elsewhere says where: `live.com`, `mail`, or another tenant's issuer of version 1.
        let own = format!("https://sts.windows.net/{}/", tenant.id);
        let is_from_elsewhere = match self.text("idp")? {
            None => false,
            Some(idp) => self.text("iss")? != Some(idp) && idp != own,
        };
        Ok(is_marked || is_external || is_from_elsewhere)
    }

    fn is_email_verified(&self) -> bool {
        match self.0.get("xms_edov") {
            Some(Value::Bool(is_verified)) => *is_verified,
            Some(Value::Number(number)) => number.as_i64() == Some(1),
            Some(Value::String(text)) => text == "1" || text.eq_ignore_ascii_case("true"),
            _ => false,
        }
    }

    /// App roles that count as groups. `wids`, roles in the directory itself, never do.
    fn roles(&self, count: bool) -> Result<Vec<GroupName>, Refusal> {
        let roles = self.texts("roles")?;
        Ok(if count {
            roles.into_iter().filter_map(|role| GroupName::parse(role).ok()).collect()
        } else {
            Vec::new()
        })
    }

    /// Groups by their object ids. Values that are none are names, which whoever makes a group can choose.
    fn groups(&self, settings: &Settings) -> Result<Vec<GroupName>, Refusal> {
        let ids = self.texts("groups")?;
        Ok(ids.into_iter().filter_map(|id| group_name(&settings.group_names, id)).collect())
    }

    /// Whether the user is in more groups than the token has room for.
    fn leaves_groups_out(&self) -> Result<bool, Refusal> {
        let is_said = match self.0.get("hasgroups") {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Bool(true) | Value::String(_) | Value::Number(_)) => true,
            Some(_) => return Err(ill_typed("hasgroups")),
        };
        let is_elsewhere = match self.0.get("_claim_names") {
            None | Some(Value::Null) => false,
            Some(Value::Object(names)) => names.contains_key("groups"),
            Some(_) => return Err(ill_typed("_claim_names")),
        };
        Ok(is_said || is_elsewhere || self.0.keys().any(|name| name.starts_with("groups:src")))
    }

    fn text(&self, name: &'static str) -> Result<Option<&str>, Refusal> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(ill_typed(name)),
        }
    }

    fn texts(&self, name: &'static str) -> Result<Vec<&str>, Refusal> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(values)) if values.len() <= MOST_GROUPS => {
                values.iter().map(|value| value.as_str().ok_or_else(|| ill_typed(name))).collect()
            }
            Some(_) => Err(ill_typed(name)),
        }
    }
}

/// Stands between a guest's own address and the tenant in their user principal name.
const EXTERNAL: &str = "#EXT#";

/// The address in a guest's user principal name: `jane_doe_partner.com#EXT#@home.example` is `jane_doe@partner.com`.
/// A domain has no underscore, so the last one was the `@`.
fn invited_address(name: &str) -> Option<Email> {
    let end = name.to_ascii_uppercase().find(EXTERNAL)?;
    let (local, domain) = name[..end].rsplit_once('_')?;
    if local.contains('@') || !domain.contains('.') {
        return None;
    }
    email(&format!("{local}@{domain}"))
}

/// An address; `live.com#jane@outlook.com`, as version 1 calls some, is none.
fn email(text: &str) -> Option<Email> {
    Email::parse(text).ok().filter(|email| !email.as_str().contains('#'))
}

fn is_within(email: &Email, tenant: &Tenant) -> bool {
    let domain = email.as_str().rsplit_once('@').map(|(_, domain)| domain);
    tenant.email_domains.iter().any(|own| Some(own.as_str()) == domain)
}

fn refuse_other_scopes(scopes: &str, wanted: &[String]) -> Result<(), Refusal> {
    if wanted.is_empty() || scopes.split(' ').any(|scope| wanted.iter().any(|wanted| wanted == scope)) {
        return Ok(());
    }
    Err(Reason::InsufficientScope.refuse())
}

/// An audience in the form in which it is compared: an application is meant by its id and by `api://` and its id.
fn canonical(audience: &str) -> String {
    let id = audience.strip_prefix("api://").unwrap_or(audience);
    guid(id).map_or_else(|| audience.to_owned(), |id| id.to_string())
}

fn ill_typed(claim: &'static str) -> Refusal {
    Reason::Malformed.because(format_args!("the `{claim}` claim is of another type than Entra ID writes"))
}

#[cfg(test)]
mod tests;
