//! `[auth]`: which credentials are believed.
//!
//! Decides whether the schemes can work as configured, and that at least one is on. Never looks at
//! a credential of a caller: that is `identity`. Nothing here puts a secret into a sentence.

use sha2::{Digest, Sha256};

use super::{
    gateway_file::{group, schema},
    problems::Complaint,
    reader::{Read, Reader, printable},
    urls,
};
use crate::{
    endpoints::protected_resource::OAuth,
    identity::{ServiceKey, SessionSettings, Settings, TablesSettings},
    names::Secret,
    store::DatabaseUrl,
};

/// A shorter secret can be guessed from one token.
const LEAST_SECRET_BYTES: usize = 16;

/// All that `[auth]` says.
pub(super) struct Auth {
    pub(super) identity: Settings,
    /// What clients are told about signing in, where there is an authorization server.
    pub(super) oauth: Option<OAuth>,
}

/// Reads the table.
pub(super) fn read(auth: &mut Reader<'_>) -> Read<Auth> {
    let openwebui = auth.table("openwebui", openwebui);
    let can_vouch = !matches!(&openwebui, Ok(OpenWebUi { forwarded: None, .. }));
    let mut seen: Vec<(String, [u8; 32])> = Vec::new();
    let service_keys = auth.tables("service_keys", |name, table| {
        let service = service_key(name, table, can_vouch)?;
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
    let gateway = auth.table("gateway", gateway_headers);
    let entra = auth.table("entra", entra);
    let oauth = auth.table("oauth", oauth);
    let (OpenWebUi { sessions, tables, forwarded }, service_keys) = (openwebui?, service_keys?);
    gateway.and(entra)?;
    let identity =
        Settings { sessions, openwebui_tables: tables, service_keys, forward_jwt_secret: forwarded };
    Ok(Auth { identity, oauth: oauth? })
}

type Forwarded = Option<Secret<String>>;

/// What `[auth.openwebui]` says.
struct OpenWebUi {
    sessions: Option<SessionSettings>,
    tables: Option<TablesSettings>,
    forwarded: Forwarded,
}

fn openwebui(table: &mut Reader<'_>) -> Read<OpenWebUi> {
    let secret = secret(table, "secret", "${WEBUI_SECRET_KEY:-}");
    let database = table.parsed("database_url", "", optional_database);
    let schema = table.parsed("schema", "public", schema);
    let refresh = table.integer("refresh_millis", 1000, 10..=3_600_000);
    let allow_no_expiry = table.flag("allow_no_expiry", "false");
    let forwarded = secret_of_forwarded(table);
    let redis_url = table.parsed("redis_url", "", absent("this version does not ask Redis"));
    let (secret, database, forwarded) = (secret?, database?, forwarded?);
    if secret.is_none() && forwarded.is_none() && database.is_some() {
        table.warning(
            "database_url",
            "`auth.openwebui.database_url` is not used, because no token of Open WebUI is believed",
            "set `auth.openwebui.secret` to the `WEBUI_SECRET_KEY` of Open WebUI",
        );
    }
    if secret.is_some() && secret == forwarded {
        table.warning(
            "forward_jwt_secret",
            "`auth.openwebui.forward_jwt_secret` is the same as `auth.openwebui.secret`, so who learns one can forge \
             both kinds of token",
            "give `FORWARD_USER_INFO_HEADER_JWT_SECRET` of Open WebUI a value of its own",
        );
    }
    let (schema, refresh, allow_no_expiry) = (schema?, refresh?, allow_no_expiry?);
    redis_url?;
    let refresh = std::time::Duration::from_millis(refresh);
    Ok(OpenWebUi {
        sessions: secret.map(|secret| SessionSettings { secret, allow_no_expiry }),
        tables: database.map(|database| TablesSettings { database, schema, refresh }),
        forwarded,
    })
}

fn secret_of_forwarded(table: &mut Reader<'_>) -> Read<Forwarded> {
    secret(table, "forward_jwt_secret", "${FORWARD_USER_INFO_HEADER_JWT_SECRET:-}")
}

/// A secret, none where it is empty; a short one is warned about, because it is not ours to choose.
fn secret(table: &mut Reader<'_>, key: &'static str, default: &str) -> Read<Forwarded> {
    let text = table.parsed(key, default, |text| {
        if text.trim() == text {
            return Ok(text.to_owned());
        }
        let sentence = "has white space at its ends, which no other program will take for the same secret";
        Err(Complaint::new(sentence)
            .with_hint("take it away; a line break at the end of a file is white space too"))
    })?;
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() < LEAST_SECRET_BYTES {
        table.warning(
            key,
            format!(
                "`auth.openwebui.{key}` is shorter than {LEAST_SECRET_BYTES} bytes, so it can be guessed"
            ),
            "give Open WebUI and the gateway a longer one, for example from `openssl rand -hex 32`",
        );
    }
    Ok(Some(Secret::new(text)))
}

fn optional_database(text: &str) -> Result<Option<DatabaseUrl>, Complaint> {
    if text.is_empty() { Ok(None) } else { urls::database_within_reach(text).map(Some) }
}

/// For keys that are known but do nothing yet: only the empty text is right.
fn absent(reason: &'static str) -> impl Fn(&str) -> Result<(), Complaint> {
    move |text| {
        if text.is_empty() {
            return Ok(());
        }
        Err(Complaint::new(format!("is set, but {reason}")).with_hint("leave it empty"))
    }
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

fn gateway_headers(table: &mut Reader<'_>) -> Read<()> {
    let enabled = table.flag("enabled", "${API_GATEWAY_MODE:-false}");
    let proxies = table.list("trusted_proxies", |_| Ok(()));
    let secret = table.parsed("shared_secret", "", |_| Ok(()));
    if enabled? {
        return Err(table.problem(
            "enabled",
            "`auth.gateway.enabled` is on, but this version does not believe gateway headers yet",
            "set it to `false`, and `API_GATEWAY_MODE` with it",
        ));
    }
    proxies.and(secret)
}

fn entra(table: &mut Reader<'_>) -> Read<()> {
    let missing = "this version does not believe Entra ID tokens yet";
    let tenant = table.parsed("tenant_id", "", absent(missing));
    let audience = table.list("audience", |_| Ok(()))?;
    if !audience.is_empty() {
        return Err(table.problem(
            "audience",
            format!("`auth.entra.audience` is set, but {missing}"),
            "leave it empty",
        ));
    }
    tenant
}

fn oauth(table: &mut Reader<'_>) -> Read<Option<OAuth>> {
    let authorization_servers = table.list("authorization_servers", urls::issuer);
    let scopes = table.list("scopes", scope);
    let (authorization_servers, scopes) = (authorization_servers?, scopes?);
    if !authorization_servers.is_empty() {
        return Ok(Some(OAuth { authorization_servers, scopes }));
    }
    if !scopes.is_empty() {
        table.warning(
            "scopes",
            "`auth.oauth.scopes` is not used, because no authorization server is named",
            "name one in `auth.oauth.authorization_servers`",
        );
    }
    Ok(None)
}

/// A scope (RFC 6749 section 3.3), which needs no escaping where it is quoted.
fn scope(text: &str) -> Result<String, Complaint> {
    let is_scope = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    if !text.is_empty() && text.bytes().all(is_scope) {
        return Ok(text.to_owned());
    }
    Err(Complaint::new("must hold scopes, each one word without quotes or backslashes"))
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
    fn short_secrets_and_useless_databases_are_warned_about() {
        check(
            "[auth.openwebui]\nsecret = 'fifteen-letters'\nforward_jwt_secret = 'short'",
            "",
            &[],
            "g:2: `auth.openwebui.secret` is shorter than 16 bytes, so it can be guessed\n  \
             hint: give Open WebUI and the gateway a longer one, for example from `openssl rand -hex 32`\n\
             g:3: `auth.openwebui.forward_jwt_secret` is shorter than 16 bytes, so it can be guessed\n  \
             hint: give Open WebUI and the gateway a longer one, for example from `openssl rand -hex 32`",
        );
        check(
            "[auth.openwebui]\nsecret = ''\ndatabase_url = 'postgres://h/db'\n\
             [auth.service_keys.a]\nkey = 'sixteen-letters-!'",
            "",
            &[],
            "g:3: `auth.openwebui.database_url` is not used, because no token of Open WebUI is believed\n  \
             hint: set `auth.openwebui.secret` to the `WEBUI_SECRET_KEY` of Open WebUI",
        );
    }

    #[test]
    fn white_space_around_a_secret_is_a_problem() {
        let sentence = "has white space at its ends, which no other program will take for the same secret\n  \
             hint: take it away; a line break at the end of a file is white space too";
        check(
            "[auth.openwebui]\nsecret = '   '\nforward_jwt_secret = \"a-secret-for-forwarded-users\\n\"",
            "",
            &[],
            &format!(
                "g:2: `auth.openwebui.secret` {sentence}\ng:3: `auth.openwebui.forward_jwt_secret` {sentence}"
            ),
        );
        check(
            "",
            "",
            &[("WEBUI_SECRET_KEY", "a-session-secret-of-the-test\n")],
            &format!("g: `auth.openwebui.secret` (by default `${{WEBUI_SECRET_KEY:-}}`) {sentence}"),
        );
    }

    #[test]
    fn one_secret_for_sessions_and_for_forwarded_users_is_warned_about() {
        check(
            "[auth.openwebui]\nsecret = 'sixteen-letters-!'\nforward_jwt_secret = 'sixteen-letters-!'",
            "",
            &[],
            "g:3: `auth.openwebui.forward_jwt_secret` is the same as `auth.openwebui.secret`, so who learns one can \
             forge both kinds of token\n  \
             hint: give `FORWARD_USER_INFO_HEADER_JWT_SECRET` of Open WebUI a value of its own",
        );
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

    #[test]
    fn authorization_servers_and_scopes_go_together() {
        let servers = "[auth.oauth]\nauthorization_servers = ['https://login.example.com/t/']\n";
        let public = "[listen]\npublic_url = 'https://mcp.example.com'\n";
        let oauth = |gateway: &str| read(gateway, "", &[]).unwrap().gateway.oauth;
        assert!(oauth("").is_none());
        let found = oauth(&format!("{public}{servers}scopes = ['mcp', 'api://x/y']")).unwrap();
        assert_eq!(found.authorization_servers, ["https://login.example.com/t/"]);
        assert_eq!(found.scopes, ["mcp", "api://x/y"]);
        check(
            &format!("{servers}scopes = ['a b', '', 'a\"', 'a\\']"),
            "",
            &[],
            "g:3: `auth.oauth.scopes` must hold scopes, each one word without quotes or backslashes\n"
                .repeat(4)
                .trim_end(),
        );
        check(
            "[auth.oauth]\nscopes = ['mcp']",
            "",
            &[],
            "g:2: `auth.oauth.scopes` is not used, because no authorization server is named\n  \
             hint: name one in `auth.oauth.authorization_servers`",
        );
        check(
            servers,
            "",
            &[],
            "g: `auth.oauth` is set without `listen.public_url`, so clients are told `http://` and the `Host` they sent, \
             and those that came through TLS refuse it\n  \
             hint: say what clients call the gateway: `public_url = \"https://mcp.example.com\"`",
        );
    }

    #[test]
    fn schemes_of_later_versions_cannot_be_switched_on() {
        check(
            "[auth.openwebui]\nredis_url = 'redis://h'\n[auth.gateway]\ntrusted_proxies = ['10.0.0.0/8']\n\
             shared_secret = 'x'\n[auth.entra]\ntenant_id = 'x'\naudience = ['y']",
            "",
            &[("API_GATEWAY_MODE", "true")],
            "g:2: `auth.openwebui.redis_url` is set, but this version does not ask Redis\n  hint: leave it empty\n\
             g:3: `auth.gateway.enabled` is on, but this version does not believe gateway headers yet\n  \
             hint: set it to `false`, and `API_GATEWAY_MODE` with it\n\
             g:7: `auth.entra.tenant_id` is set, but this version does not believe Entra ID tokens yet\n  \
             hint: leave it empty\n\
             g:8: `auth.entra.audience` is set, but this version does not believe Entra ID tokens yet\n  \
             hint: leave it empty",
        );
    }
}
