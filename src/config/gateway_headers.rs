//! `[auth.gateway]`: a trusted gateway in front that says who the user is.
//!
//! Decides whether such trust can be meant: from somewhere, and never from everywhere without a secret.

use super::{
    auth::LEAST_SECRET_BYTES,
    problems::Complaint,
    reader::{Read, Reader},
};
use crate::{
    identity::gateway_headers::{GroupsFormat, Settings},
    names::{Network, Secret},
};

/// All that `[auth.gateway]` says.
pub(super) struct Gateway {
    /// The scheme, where it is on.
    pub(super) headers: Option<Settings>,
    /// Whether an address that a load balancer told counts as the one a request came from.
    pub(super) trusts_told_address: bool,
}

/// Reads the table.
pub(super) fn read(table: &mut Reader<'_>) -> Read<Gateway> {
    let enabled = table.flag("enabled", "${API_GATEWAY_MODE:-false}");
    let trusted = table.list_or("trusted_proxies", &["127.0.0.1/32", "::1/128"], network);
    let secret = table.parsed("shared_secret", "${API_GATEWAY_SECRET:-}", secret);
    let groups_format = table.parsed("groups_format", "comma", groups_format);
    let trusts_told_address = table.flag("trust_told_address", "false");
    let (trusted_proxies, shared_secret) = (trusted?, secret?);
    let (groups_format, trusts_told_address) = (groups_format?, trusts_told_address?);
    if !enabled? {
        return Ok(Gateway { headers: None, trusts_told_address });
    }
    check_trust(table, &trusted_proxies, shared_secret.as_ref())?;
    let headers = Settings { trusted_proxies, shared_secret, groups_format };
    Ok(Gateway { headers: Some(headers), trusts_told_address })
}

/// Reads an address or a network.
pub(super) fn network(text: &str) -> Result<Network, Complaint> {
    Network::parse(text).map_err(|bad| Complaint::new(format!("must hold networks: {bad}")))
}

fn check_trust(table: &Reader<'_>, trusted: &[Network], secret: Option<&Secret<String>>) -> Read<()> {
    if trusted.is_empty() {
        return Err(table.problem(
            "trusted_proxies",
            "`auth.gateway.enabled` is on, but `auth.gateway.trusted_proxies` names no address, so nobody is believed",
            "list the addresses the gateway calls from, or set `enabled` (`API_GATEWAY_MODE`) to `false`",
        ));
    }
    let is_everybody = trusted.iter().any(Network::is_everything);
    match secret {
        None if is_everybody => {
            return Err(table.problem(
                "trusted_proxies",
                "`auth.gateway.trusted_proxies` holds every address, or nearly, so anybody could say who they are",
                "list the addresses the gateway calls from, or set `shared_secret` too",
            ));
        }
        Some(_) if is_everybody => table.warning(
            "trusted_proxies",
            "`auth.gateway.trusted_proxies` holds every address, or nearly, so whoever learns `shared_secret` can be anybody",
            "list the addresses the gateway calls from",
        ),
        None => table.warning(
            "shared_secret",
            "`auth.gateway` is on without `shared_secret`, so every program at a trusted address can say that it is anybody",
            "set one, and have the gateway in front send it as `X-Gateway-Secret`",
        ),
        Some(_) => {}
    }
    if secret.is_some_and(|secret| secret.expose().len() < LEAST_SECRET_BYTES) {
        table.warning(
            "shared_secret",
            format!("`auth.gateway.shared_secret` is shorter than {LEAST_SECRET_BYTES} bytes, so it can be guessed"),
            "make one with `openssl rand -hex 32`, and give it to the gateway in front",
        );
    }
    Ok(())
}

fn secret(text: &str) -> Result<Option<Secret<String>>, Complaint> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let sentence = "must be printable ASCII without spaces, because a header carries it";
        return Err(Complaint::new(sentence).with_hint("make one with `openssl rand -hex 32`"));
    }
    Ok((!text.is_empty()).then(|| Secret::new(text.to_owned())))
}

fn groups_format(text: &str) -> Result<GroupsFormat, Complaint> {
    match text {
        "comma" => Ok(GroupsFormat::Comma),
        "json" => Ok(GroupsFormat::Json),
        _ => Err(Complaint::new("must be `comma` or `json`")
            .with_hint("`json` is an array of strings, for groups whose names have commas")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{check, read};

    #[test]
    fn the_variable_alone_switches_it_on_for_this_machine() {
        let found = |text: &str, pairs: &[(&str, &str)]| {
            let found = read(text, "", pairs).unwrap();
            (found.identity.gateway_headers, found.gateway.addresses.is_trusted)
        };
        assert!(found("", &[]).0.is_none());
        let (settings, is_told_trusted) = found("", &[("API_GATEWAY_MODE", "true")]);
        let settings = settings.unwrap();
        assert_eq!(format!("{:?}", settings.trusted_proxies), "[127.0.0.1/32, ::1/128]");
        assert_eq!((settings.shared_secret, settings.groups_format), (None, GroupsFormat::Comma));
        assert!(!is_told_trusted);
        let alone = [("API_GATEWAY_MODE", "true"), ("WEBUI_SECRET_KEY", "")];
        check(
            "",
            "",
            &alone,
            "g: `auth.gateway` is on without `shared_secret`, so every program at a trusted address can say that it is \
             anybody\n  hint: set one, and have the gateway in front send it as `X-Gateway-Secret`",
        );
    }

    #[test]
    fn every_key_is_read() {
        let text = "[auth.gateway]\nenabled = true\ntrusted_proxies = ['10.1.2.3', 'fd00::/8']\n\
             shared_secret = 'sixteen-letters-!'\ngroups_format = 'json'\ntrust_told_address = true\n\
             [listen]\nbalancers = ['192.0.2.0/24']\nproxy_protocol = true";
        let found = read(text, "", &[]).unwrap();
        let settings = found.identity.gateway_headers.unwrap();
        assert_eq!(format!("{:?}", settings.trusted_proxies), "[10.1.2.3/32, fd00::/8]");
        assert_eq!(settings.shared_secret.unwrap().expose(), "sixteen-letters-!");
        assert_eq!(settings.groups_format, GroupsFormat::Json);
        let addresses = found.gateway.addresses;
        assert_eq!(format!("{:?}", addresses.balancers), "[192.0.2.0/24]");
        assert!(addresses.is_proxy_protocol_on && addresses.is_trusted);
    }

    #[test]
    fn trust_in_everybody_needs_a_secret_and_trust_in_nobody_makes_no_sense() {
        for everybody in ["0.0.0.0/0", "::/0", "::ffff:0.0.0.0/96"] {
            let text = |secret| {
                format!(
                    "[auth.gateway]\nenabled = true\ntrusted_proxies = ['{everybody}']\nshared_secret = '{secret}'"
                )
            };
            check(
                &text(""),
                "",
                &[],
                "g:3: `auth.gateway.trusted_proxies` holds every address, or nearly, so anybody could say who they are\n  \
                 hint: list the addresses the gateway calls from, or set `shared_secret` too",
            );
            check(
                &text("sixteen-letters-!"),
                "",
                &[],
                "g:3: `auth.gateway.trusted_proxies` holds every address, or nearly, so whoever learns `shared_secret` can be \
                 anybody\n  hint: list the addresses the gateway calls from",
            );
        }
        check(
            "[auth.gateway]\nenabled = true\ntrusted_proxies = []",
            "",
            &[],
            "g:3: `auth.gateway.enabled` is on, but `auth.gateway.trusted_proxies` names no address, so nobody is \
             believed\n  hint: list the addresses the gateway calls from, or set `enabled` (`API_GATEWAY_MODE`) to `false`",
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_a_short_secret_is_warned_about() {
        let hint = "\n  hint: make one with `openssl rand -hex 32`";
        check(
            "[auth.gateway]\ntrusted_proxies = ['10.0.0.1/8', 'proxy.internal']\nshared_secret = 'two words'\n\
             groups_format = 'csv'",
            "",
            &[],
            &format!(
                "g:2: `auth.gateway.trusted_proxies` must hold networks: a network has no bits set past its prefix: \
                 `10.0.0.0/8`, or `10.1.2.3` for one address\n\
                 g:2: `auth.gateway.trusted_proxies` must hold networks: a network is an IP address or, with its \
                 prefix length, `10.0.0.0/8`\n\
                 g:3: `auth.gateway.shared_secret` must be printable ASCII without spaces, because a header carries \
                 it{hint}\n\
                 g:4: `auth.gateway.groups_format` must be `comma` or `json`\n  \
                 hint: `json` is an array of strings, for groups whose names have commas"
            ),
        );
        check(
            "[auth.gateway]\nenabled = true\nshared_secret = 'fifteen-letters'",
            "",
            &[],
            "g:3: `auth.gateway.shared_secret` is shorter than 16 bytes, so it can be guessed\n  \
             hint: make one with `openssl rand -hex 32`, and give it to the gateway in front",
        );
        check("[auth.gateway]\ntrusted_proxies = ['0.0.0.0/0']\nshared_secret = 'short'", "", &[], "");
    }

    #[test]
    fn load_balancers_are_some_addresses_and_not_all() {
        check(
            "[listen]\nproxy_protocol = true",
            "",
            &[],
            "g:2: `listen.proxy_protocol` is on, but `listen.balancers` names nobody who could send it\n  \
             hint: list the addresses the load balancers call from",
        );
        check(
            "[listen]\nbalancers = ['::/0']",
            "",
            &[],
            "g:2: `listen.balancers` holds every address, or nearly, so anybody could say where they are\n  \
             hint: list the addresses the load balancers call from",
        );
        check(
            "[auth.gateway]\nenabled = true\ntrust_told_address = true",
            "",
            &[],
            "g: `auth.gateway.trust_told_address` is on, but `listen.balancers` names nobody who could tell an \
             address\n  hint: list the addresses the load balancers call from\ng:1: `auth.gateway` is on without `shared_secret`, so every program at a trusted address can say that it is \
             anybody\n  hint: set one, and have the gateway in front send it as `X-Gateway-Secret`",
        );
    }
}
