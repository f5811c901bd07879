//! `[auth.entra]`: which tenants of Entra ID are believed, and what about their tokens.
//!
//! Decides whether tokens could be checked as configured, and that with several tenants each email has one that answers
//! for it. Never asks Entra ID anything.

use std::{net::IpAddr, str::FromStr};

use uuid::Uuid;

use super::{
    gateway_file::{DAY_SECS, group},
    oauth::scope,
    problems::Complaint,
    reader::{Read, Reader},
    urls,
    wording::printable,
};
use crate::{
    identity::entra::{Client, Overage, Settings, Tenant, guid},
    names::{GroupName, Secret},
};

/// Reads the table; none where no tenant is named.
pub(super) fn read(table: &mut Reader<'_>) -> Read<Option<Settings>> {
    let home = table.parsed("tenant_id", "", |text| optional(text, tenant_id));
    let audience = table.list("audience", audience);
    let authority = table.parsed("authority", "https://login.microsoftonline.com", origin);
    let email_domains = table.list("email_domains", domain);
    let guests = table.flag("guests", "false");
    let apps = table.flag("apps", "false");
    let scopes = table.list("scopes", scope);
    let group_names = table.words("group_names", group_name);
    let overage = overage(table);
    let graph_url = table.parsed("graph_url", "https://graph.microsoft.com", origin);
    let groups_ttl = table.seconds("groups_ttl_secs", 300, 1..=DAY_SECS);
    let others = table.tables("tenants", tenant);
    let (home, email_domains, audience, others) = (home?, email_domains?, audience?, others?);
    let settings = Settings {
        tenants: Vec::new(),
        audience,
        authority: authority?,
        guests: guests?,
        apps: apps?,
        scopes: scopes?,
        group_names: group_names?.into_iter().collect(),
        overage: overage?,
        graph_url: graph_url?,
        groups_ttl: groups_ttl?,
    };
    let Some(home) = home else {
        if !settings.audience.is_empty() || !others.is_empty() {
            table.warning(
                "tenant_id",
                "`auth.entra` is not used, because `auth.entra.tenant_id` is empty",
                "set it to the id of your tenant",
            );
        }
        return Ok(None);
    };
    if settings.audience.is_empty() {
        return Err(table.problem(
            "audience",
            "`auth.entra.audience` is empty, so tokens for every application would do",
            "name the gateway's application: its id, or its `api://…`",
        ));
    }
    if settings.guests && email_domains.is_empty() {
        return Err(table.problem(
            "guests",
            "`auth.entra.guests` is on without `auth.entra.email_domains`, so a guest could be taken for a member",
            "list the domains whose emails members of your tenant have",
        ));
    }
    let home = Tenant { id: home, email_domains, are_roles_groups: true };
    let tenants: Vec<Tenant> = std::iter::once(home).chain(others).collect();
    check_tenants(table, &tenants)?;
    Ok(Some(Settings { tenants, ..settings }))
}

fn optional<T>(text: &str, parse: impl FnOnce(&str) -> Result<T, Complaint>) -> Result<Option<T>, Complaint> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

/// The tenant of all personal accounts of Microsoft: anybody can make one, with any address.
const CONSUMERS: Uuid = Uuid::from_u128(0x9188_040d_6c67_4c5b_b112_36a3_04b6_6dad);

fn tenant_id(text: &str) -> Result<Uuid, Complaint> {
    let id = guid(text).ok_or_else(|| {
        Complaint::new("must be the id of a tenant, like `8f0e4b9c-0d52-4d0a-9b4f-2d8a4a3c7a11`").with_hint(
            "`common` and `organizations` are no tenants: list each one in `[auth.entra.tenants.ID]`",
        )
    })?;
    if id == CONSUMERS {
        return Err(Complaint::new("is the tenant of all personal accounts, which anybody can make")
            .with_hint("name the tenant of your organisation"));
    }
    Ok(id)
}

/// Microsoft's own applications: every client of a tenant gets tokens for them.
const FOREIGN_AUDIENCES: [&str; 4] = [
    "00000003-0000-0000-c000-000000000000",
    "https://graph.microsoft.com",
    "https://management.azure.com",
    "https://management.core.windows.net",
];

fn audience(text: &str) -> Result<String, Complaint> {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Complaint::new("must hold application ids or `api://…` addresses"));
    }
    if FOREIGN_AUDIENCES
        .contains(&text.trim_start_matches("api://").trim_end_matches('/').to_ascii_lowercase().as_str())
    {
        return Err(Complaint::new(
            "names an application of Microsoft's, whose tokens every other application gets",
        )
        .with_hint("register an application for the gateway, and name that"));
    }
    Ok(text.to_owned())
}

/// An address without path: over TLS, or on this machine.
fn origin(text: &str) -> Result<String, Complaint> {
    let peer = urls::peer(text)?;
    if !peer.base_path.is_empty() {
        return Err(
            Complaint::new("must be without path").with_hint("the gateway adds the tenant and the rest")
        );
    }
    let is_here =
        peer.host == "localhost" || IpAddr::from_str(&peer.host).is_ok_and(|address| address.is_loopback());
    if !peer.is_tls && !is_here {
        return Err(Complaint::new("must begin with `https://`")
            .with_hint("who can change what it answers can sign in as anybody"));
    }
    Ok(peer.to_string())
}

fn domain(text: &str) -> Result<String, Complaint> {
    urls::host(text).ok().filter(|domain| domain.contains('.') && !domain.contains(':')).ok_or_else(|| {
        Complaint::new("must hold domains of emails, like `example.com`")
            .with_hint("what stands behind the `@`, and nothing else")
    })
}

fn group_name(id: &str, name: &str) -> Result<(Uuid, GroupName), Complaint> {
    let id = guid(id).ok_or_else(|| Complaint::new("is not the object id of a group"))?;
    Ok((id, group(name)?))
}

fn overage(table: &mut Reader<'_>) -> Read<Overage> {
    let word = table.parsed("overage", "refuse", |text| match text {
        "refuse" | "on_behalf_of" | "app" => Ok(text.to_owned()),
        _ => Err(Complaint::new("must be `refuse`, `on_behalf_of` or `app`")),
    });
    let id = table.parsed("client_id", "", |text| {
        optional(text, |text| guid(text).ok_or_else(|| Complaint::new("must be the id of an application")))
    });
    let secret = table.parsed("client_secret", "${ENTRA_CLIENT_SECRET:-}", |text| {
        if text.trim() == text {
            return Ok(Secret::new(text.to_owned()));
        }
        Err(Complaint::new("has white space at its ends, which Entra ID will not take for the same secret"))
    });
    let (word, id, secret) = (word?, id?, secret?);
    let client = match id {
        Some(id) if !secret.expose().is_empty() => Some(Client { id: id.to_string(), secret }),
        _ => None,
    };
    match (word.as_str(), client) {
        ("on_behalf_of", Some(client)) => Ok(Overage::OnBehalfOf(client)),
        ("app", Some(client)) => Ok(Overage::App(client)),
        ("on_behalf_of" | "app", None) => Err(table.problem(
            "overage",
            format!("`auth.entra.overage` is `{word}`, but the gateway has nothing to show to Entra ID"),
            "set `auth.entra.client_id`, and `ENTRA_CLIENT_SECRET` in the environment",
        )),
        _ => Ok(Overage::Refuse),
    }
}

fn tenant(name: &str, table: &mut Reader<'_>) -> Read<Tenant> {
    let email_domains = table.list("email_domains", domain);
    let roles = table.flag("roles", "false");
    let Some(id) = guid(name) else {
        return Err(table.problem(
            "",
            format!("`{}` is not the id of a tenant", printable(name)),
            "write `[auth.entra.tenants.ID]` with an id like `5c2d7e61-7a0b-4f7e-8a53-0f4f1f0f9b22`",
        ));
    };
    if id == CONSUMERS {
        return Err(table.problem(
            "",
            format!("tenant `{id}` is that of all personal accounts, which anybody can make"),
            "name tenants of organisations",
        ));
    }
    Ok(Tenant { id, email_domains: email_domains?, are_roles_groups: roles? })
}

/// With several tenants, each must say which emails are its own, and no two the same: a tenant's admins can give their
/// users any address.
fn check_tenants(table: &Reader<'_>, tenants: &[Tenant]) -> Read<()> {
    if tenants.len() == 1 {
        return Ok(());
    }
    let name = |place: usize| match place {
        0 => "the home tenant".to_owned(),
        _ => format!("tenant `{}`", tenants[place].id),
    };
    let mut outcome = Ok(());
    for (place, tenant) in tenants.iter().enumerate() {
        if tenants[..place].iter().any(|other| other.id == tenant.id) {
            let sentence = format!("{} stands in `auth.entra` twice", name(place));
            outcome = Err(table.problem("tenants", sentence, "keep one of them"));
        }
        if tenant.email_domains.is_empty() {
            outcome = Err(table.problem(
                "tenants",
                format!("{} has no `email_domains`, but more than one tenant is believed", name(place)),
                "list the domains whose emails it has a say in, for the home tenant in `auth.entra.email_domains`",
            ));
        }
        let shares = |other: &usize| {
            tenants[*other].email_domains.iter().any(|domain| tenant.email_domains.contains(domain))
        };
        if let Some(other) = (0..place).find(shares) {
            outcome = Err(table.problem(
                "tenants",
                format!("{} and {} have one of `email_domains` in common", name(other), name(place)),
                "leave it to the tenant that owns the domain",
            ));
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{check, read};

    #[test]
    fn what_would_believe_strangers_is_refused() {
        check(
            "[auth.entra]\ntenant_id = '9188040d-6c67-4c5b-b112-36a304b66dad'\naudience = ['https://graph.microsoft.com/']",
            "",
            &[],
            "g:2: `auth.entra.tenant_id` is the tenant of all personal accounts, which anybody can make\n  \
             hint: name the tenant of your organisation\n\
             g:3: `auth.entra.audience` names an application of Microsoft's, whose tokens every other application \
             gets\n  hint: register an application for the gateway, and name that",
        );
        check(
            "[auth.entra]\naudience = ['api://00000003-0000-0000-c000-000000000000']\n\
             [auth.entra.tenants.9188040d-6c67-4c5b-b112-36a304b66dad]",
            "",
            &[],
            "g:2: `auth.entra.audience` names an application of Microsoft's, whose tokens every other application \
             gets\n  hint: register an application for the gateway, and name that\n\
             g:3: tenant `9188040d-6c67-4c5b-b112-36a304b66dad` is that of all personal accounts, which anybody can \
             make\n  hint: name tenants of organisations",
        );
        check(
            &format!("{ON}guests = true"),
            "",
            &[],
            "g:4: `auth.entra.guests` is on without `auth.entra.email_domains`, so a guest could be taken for a \
             member\n  hint: list the domains whose emails members of your tenant have",
        );
    }

    const ON: &str =
        "[auth.entra]\ntenant_id = '8F0E4B9C-0d52-4d0a-9b4f-2d8a4a3c7a11'\naudience = ['api://gateway']\n";
    const PARTNER: &str = "[auth.entra.tenants.5c2d7e61-7a0b-4f7e-8a53-0f4f1f0f9b22]\n";

    #[test]
    fn without_a_tenant_the_scheme_is_off() {
        assert!(read("[auth.entra]", "", &[]).unwrap().identity.entra.is_none());
        check(
            "[auth.entra]\naudience = ['x']",
            "",
            &[],
            "g:1: `auth.entra` is not used, because `auth.entra.tenant_id` is empty\n  \
             hint: set it to the id of your tenant",
        );
    }

    #[test]
    fn a_tenant_and_an_audience_are_enough() {
        let config = read(
            &format!("{ON}group_names = {{ '8f0e4b9c-0d52-4d0a-9b4f-2d8a4a3c7a12' = 'MCP-GitHub' }}"),
            "",
            &[],
        );
        let entra = config.unwrap().identity.entra.unwrap();
        assert_eq!(entra.tenants.len(), 1);
        assert_eq!(entra.tenants[0].id.to_string(), "8f0e4b9c-0d52-4d0a-9b4f-2d8a4a3c7a11");
        assert_eq!(entra.group_names.len(), 1);
        assert_eq!(entra.authority, "https://login.microsoftonline.com");
    }

    #[test]
    fn what_could_not_be_checked_is_a_problem() {
        check(
            "[auth.entra]\ntenant_id = 'common'\naudience = ['a b']\nauthority = 'http://login.example.com'\n\
             graph_url = 'https://graph.microsoft.com/v1.0'\nemail_domains = ['@example.com']\noverage = 'ask'\n\
             client_id = 'x'\ngroup_names = { a = 'b' }\n[auth.entra.tenants.organizations]",
            "",
            &[],
            "g:2: `auth.entra.tenant_id` must be the id of a tenant, like `8f0e4b9c-0d52-4d0a-9b4f-2d8a4a3c7a11`\n  \
             hint: `common` and `organizations` are no tenants: list each one in `[auth.entra.tenants.ID]`\n\
             g:3: `auth.entra.audience` must hold application ids or `api://…` addresses\n\
             g:4: `auth.entra.authority` must begin with `https://`\n  \
             hint: who can change what it answers can sign in as anybody\n\
             g:5: `auth.entra.graph_url` must be without path\n  \
             hint: the gateway adds the tenant and the rest\n\
             g:6: `auth.entra.email_domains` must hold domains of emails, like `example.com`\n  \
             hint: what stands behind the `@`, and nothing else\n\
             g:7: `auth.entra.overage` must be `refuse`, `on_behalf_of` or `app`\n\
             g:8: `auth.entra.client_id` must be the id of an application\n\
             g:9: `auth.entra.group_names.a` is not the object id of a group\n\
             g:10: `organizations` is not the id of a tenant\n  \
             hint: write `[auth.entra.tenants.ID]` with an id like `5c2d7e61-7a0b-4f7e-8a53-0f4f1f0f9b22`",
        );
        check(
            "[auth.entra]\ntenant_id = '8f0e4b9c-0d52-4d0a-9b4f-2d8a4a3c7a11'",
            "",
            &[],
            "g:1: `auth.entra.audience` is empty, so tokens for every application would do\n  \
             hint: name the gateway's application: its id, or its `api://…`",
        );
        check(
            &format!("{ON}overage = 'app'"),
            "",
            &[],
            "g:4: `auth.entra.overage` is `app`, but the gateway has nothing to show to Entra ID\n  \
             hint: set `auth.entra.client_id`, and `ENTRA_CLIENT_SECRET` in the environment",
        );
    }

    #[test]
    fn several_tenants_share_no_domain_and_each_has_one() {
        check(
            &format!("{ON}email_domains = ['a.example']\n{PARTNER}email_domains = ['b.example']"),
            "",
            &[],
            "",
        );
        check(
            &format!("{ON}email_domains = ['a.example']\n{PARTNER}email_domains = ['A.example']"),
            "",
            &[],
            "g:5: the home tenant and tenant `5c2d7e61-7a0b-4f7e-8a53-0f4f1f0f9b22` have one of `email_domains` in \
             common\n  \
             hint: leave it to the tenant that owns the domain",
        );
        check(
            &format!("{ON}{PARTNER}email_domains = ['b.example']"),
            "",
            &[],
            "g:4: the home tenant has no `email_domains`, but more than one tenant is believed\n  hint: list the domains whose emails it has a say in, for the home tenant in \
             `auth.entra.email_domains`",
        );
    }
}
