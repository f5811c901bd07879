//! `[auth]`: which credentials are believed.
//!
//! Decides whether the schemes can work as configured, and that at least one is on. Never looks at
//! a credential of a caller: that is `identity`. Nothing here puts a secret into a sentence.

use sha2::{Digest, Sha256};

use super::{
    entra,
    gateway_file::group,
    gateway_headers,
    limits::{self, ServiceRates},
    oauth::{self, SignIn},
    openwebui::{self, OpenWebUi},
    problems::Complaint,
    reader::{Read, Reader},
    wording::printable,
};
use crate::{
    identity::{ServiceKey, Settings},
    names::Secret,
};

/// A shorter secret can be guessed from one token.
pub(super) const LEAST_SECRET_BYTES: usize = 16;

/// All that `[auth]` says.
pub(super) struct Auth {
    pub(super) identity: Settings,
    /// What clients are told about signing in, where there is an authorization server.
    pub(super) sign_in: Option<SignIn>,
    /// What services may call, where they have a limit of their own.
    pub(super) service_rates: ServiceRates,
    /// Whether an address that a load balancer told counts as the one a request came from.
    pub(super) trusts_told_address: bool,
}

/// Reads the table.
pub(super) fn read(auth: &mut Reader<'_>) -> Read<Auth> {
    let openwebui = auth.table("openwebui", openwebui::read);
    let can_vouch = !matches!(&openwebui, Ok(OpenWebUi { forwarded: None, .. }));
    let mut seen: Vec<(String, [u8; 32])> = Vec::new();
    let mut service_rates = Vec::new();
    let service_keys = auth.tables("service_keys", |name, table| {
        let rate = table.optional("calls", limits::rate);
        let service = service_key(name, table, can_vouch)?;
        service_rates.extend(rate?.map(|rate| (format!("service:{name}"), rate)));
        let hash = *service.key_sha256.expose();
        if let Some((other, _)) = seen.iter().find(|(_, taken)| *taken == hash) {
            return Err(table.problem(
                "key",
                format!("services `{other}` and `{name}` have the same key"),
                "give each service a key of its own",
            ));
        }
        seen.push((name.to_owned(), hash));
        Ok(service)
    });
    let gateway = auth.table("gateway", gateway_headers::read);
    let entra = auth.table("entra", entra::read);
    let has_entra = !matches!(entra, Ok(None));
    let sign_in = auth.table("oauth", |table| oauth::read(table, has_entra));
    let (OpenWebUi { sessions, tables, redis, forwarded }, service_keys) = (openwebui?, service_keys?);
    let gateway = gateway?;
    let identity = Settings {
        sessions,
        openwebui_tables: tables,
        openwebui_redis: redis,
        service_keys,
        forward_jwt_secret: forwarded,
        gateway_headers: gateway.headers,
        entra: entra?,
    };
    Ok(Auth { identity, sign_in: sign_in?, service_rates, trusts_told_address: gateway.trusts_told_address })
}

fn service_key(name: &str, table: &mut Reader<'_>, can_vouch: bool) -> Read<ServiceKey> {
    let named = check_service_name(name, table);
    let key = table.optional("key", hash_of_key);
    let hash = table.optional("key_sha256", parse_hash);
    let groups = table.list("groups", group);
    let may_vouch = table.flag("may_vouch", "false");
    if matches!(may_vouch, Ok(true)) && !can_vouch {
        table.problem(
            "may_vouch",
            format!("service `{}` may vouch, but no secret is set to check what it says", printable(name)),
            "set `auth.openwebui.forward_jwt_secret` to the `FORWARD_USER_INFO_HEADER_JWT_SECRET` of Open WebUI",
        );
    }
    let key = key?;
    if let Some((_, true)) = key {
        table.warning(
            "key",
            format!(
                "the key of service `{}` has under {LEAST_SECRET_BYTES} characters, so it can be guessed",
                printable(name)
            ),
            "make one with `openssl rand -hex 32`",
        );
    }
    let key_sha256 = match (key.map(|(hash, _)| hash), hash?) {
        (Some(hash), None) | (None, Some(hash)) => Secret::new(hash),
        (None, None) => {
            return Err(table.problem(
                "key",
                format!("service `{}` has no key", printable(name)),
                "add `key = \"${VAR}\"`, or `key_sha256 = \"…\"` from `printf %s \"$KEY\" | sha256sum`",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(table.problem(
                "key_sha256",
                format!("service `{}` has both `key` and `key_sha256`", printable(name)),
                "keep one of them",
            ));
        }
    };
    named?;
    Ok(ServiceKey { name: name.to_owned(), key_sha256, groups: groups?, may_vouch: may_vouch? })
}

fn check_service_name(name: &str, table: &Reader<'_>) -> Read<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=63).contains(&name.len()) && name.bytes().all(is_plain) {
        return Ok(());
    }
    Err(table.problem(
        "",
        format!("a service cannot be called `{}`", printable(name)),
        "use 1 to 63 of `A-Z`, `a-z`, `0-9`, `_`, `.`, `-`",
    ))
}

/// The key's hash, and whether it is so short that it can be guessed.
fn hash_of_key(text: &str) -> Result<([u8; 32], bool), Complaint> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Complaint::new("must be printable ASCII without spaces, because a header carries it"));
    }
    if text.is_empty() {
        return Err(Complaint::new("is empty").with_hint("make one with `openssl rand -hex 32`"));
    }
    Ok((Sha256::digest(text).into(), text.len() < LEAST_SECRET_BYTES))
}

fn parse_hash(text: &str) -> Result<[u8; 32], Complaint> {
    let complaint = || Complaint::new("must be 64 hexadecimal digits");
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(complaint());
    }
    let mut hash = [0; 32];
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| complaint())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| complaint())?;
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{check, read};

    const VOUCHER: (&str, &str) = ("FORWARD_USER_INFO_HEADER_JWT_SECRET", "a-secret-for-forwarded-users");

    #[test]
    fn without_any_credential_nobody_could_call() {
        check("", "", &[("WEBUI_SECRET_KEY", "")], "");
        check("[auth.service_keys.a]\nkey = 'sixteen-letters-!'", "", &[("WEBUI_SECRET_KEY", "")], "");
    }

    #[test]
    fn a_service_has_exactly_one_good_key() {
        check(
            "[auth.service_keys.a]\n[auth.service_keys.b]\nkey = 'sixteen-letters-!'\n\
             key_sha256 = '0000000000000000000000000000000000000000000000000000000000000000'\n\
             [auth.service_keys.c]\nkey = 'fifteen-letters'\n[auth.service_keys.d]\nkey = 'has a space in the key'\n\
             [auth.service_keys.e]\nkey_sha256 = 'zz'\n[auth.service_keys.'f g']\nkey = 'sixteen-letters-?'\n\
             groups = ['']",
            "",
            &[],
            "g:1: service `a` has no key\n  \
             hint: add `key = \"${VAR}\"`, or `key_sha256 = \"…\"` from `printf %s \"$KEY\" | sha256sum`\n\
             g:4: service `b` has both `key` and `key_sha256`\n  hint: keep one of them\n\
             g:8: `auth.service_keys.d.key` must be printable ASCII without spaces, because a header carries it\n\
             g:10: `auth.service_keys.e.key_sha256` must be 64 hexadecimal digits\n\
             g:11: a service cannot be called `f g`\n  hint: use 1 to 63 of `A-Z`, `a-z`, `0-9`, `_`, `.`, `-`\n\
             g:13: `auth.service_keys.f g.groups` must hold group names: a group name is 1 to 255 characters without \
             control characters or outer spaces",
        );
    }

    #[test]
    fn a_key_and_its_hash_are_the_same_key() {
        // printf %s sixteen-letters-! | sha256sum
        let hash = "a55d0a256f63d53b0869e3aef5af7a9c8479d922527aefed1b7eb23120d64f0e";
        check(
            &format!(
                "[auth.service_keys.a]\nkey = 'sixteen-letters-!'\n[auth.service_keys.b]\nkey_sha256 = '{}'",
                hash.to_uppercase()
            ),
            "",
            &[],
            "g:3: services `a` and `b` have the same key\n  hint: give each service a key of its own",
        );
    }

    #[test]
    fn vouching_needs_the_secret_of_the_forwarded_token() {
        let text =
            "[auth.service_keys.a]\nkey = 'sixteen-letters-!'\ngroups = ['MCP-GitHub']\nmay_vouch = true";
        check(
            text,
            "",
            &[],
            "g:4: service `a` may vouch, but no secret is set to check what it says\n  \
             hint: set `auth.openwebui.forward_jwt_secret` to the `FORWARD_USER_INFO_HEADER_JWT_SECRET` of Open WebUI",
        );
        let settings = read(text, "", &[VOUCHER]).unwrap().identity;
        assert_eq!(settings.forward_jwt_secret.unwrap().expose(), VOUCHER.1);
        let [service] = settings.service_keys.as_slice() else { panic!("one service") };
        assert!(service.may_vouch && service.name == "a" && service.groups[0].as_str() == "MCP-GitHub");
        assert_eq!(service.key_sha256.expose()[..], Sha256::digest("sixteen-letters-!")[..]);
    }
}
