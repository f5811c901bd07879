//! `[auth.openwebui]`: which credentials of Open WebUI are believed, and where it keeps who its users are.
//!
//! Decides whether the parts go together. Nothing here puts a secret into a sentence.

use std::time::Duration;

use url::Url;

use super::{
    auth::LEAST_SECRET_BYTES,
    gateway_file::schema,
    problems::Complaint,
    reader::{Read, Reader},
    urls,
};
use crate::{
    identity::{RedisSettings, SessionSettings, TablesSettings},
    names::Secret,
    store::{DatabaseUrl, signed_out::Redis},
};

pub(super) type Forwarded = Option<Secret<String>>;

/// What `[auth.openwebui]` says.
pub(super) struct OpenWebUi {
    pub(super) sessions: Option<SessionSettings>,
    pub(super) tables: Option<TablesSettings>,
    pub(super) redis: Option<RedisSettings>,
    pub(super) forwarded: Forwarded,
}

/// Reads the table.
pub(super) fn read(table: &mut Reader<'_>) -> Read<OpenWebUi> {
    let secret = secret(table, "secret", "${WEBUI_SECRET_KEY:-}");
    let allow_no_expiry = table.flag("allow_no_expiry", "false");
    let refresh = table.integer("refresh_millis", 500, 10..=3_600_000).map(Duration::from_millis);
    let forwarded = secret_of_forwarded(table);
    let tables = tables(table, refresh.as_ref().ok().copied());
    let redis = redis(table, refresh.as_ref().ok().copied());
    let (secret, forwarded, tables, redis) = (secret?, forwarded?, tables?, redis?);
    if secret.is_none() && forwarded.is_none() && tables.as_ref().is_some_and(|tables| !tables.has_api_keys) {
        table.warning(
            "database_url",
            "`auth.openwebui.database_url` is not used, because no credential of Open WebUI is believed",
            "set `auth.openwebui.secret` to the `WEBUI_SECRET_KEY` of Open WebUI",
        );
    }
    if secret.is_none() && redis.is_some() {
        table.warning(
            "redis_url",
            "`auth.openwebui.redis_url` is not used, because no session of Open WebUI is believed",
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
    refresh?;
    let allow_no_expiry = allow_no_expiry?;
    let sessions = secret.map(|secret| SessionSettings { secret, allow_no_expiry });
    Ok(OpenWebUi { sessions, tables, redis, forwarded })
}

/// Where users and API keys are; a `refresh` that could not be read has been complained about.
fn tables(table: &mut Reader<'_>, refresh: Option<Duration>) -> Read<Option<TablesSettings>> {
    let database = table.parsed("database_url", "", optional_database);
    let schema = table.parsed("schema", "public", schema);
    let has_api_keys = table.flag("api_keys", "true");
    let (database, schema, has_api_keys) = (database?, schema?, has_api_keys?);
    let refresh = refresh.unwrap_or_default();
    Ok(database.map(|database| TablesSettings { database, schema, refresh, has_api_keys }))
}

/// Where ended sessions are noted.
fn redis(table: &mut Reader<'_>, refresh: Option<Duration>) -> Read<Option<RedisSettings>> {
    let url = table.parsed("redis_url", "", optional_redis);
    let key_prefix = table.parsed("redis_key_prefix", "open-webui", key_prefix);
    let (url, key_prefix) = (url?, key_prefix?);
    let Some((url, is_exposed)) = url else { return Ok(None) };
    if is_exposed {
        table.warning(
            "redis_url",
            "`auth.openwebui.redis_url` is asked without TLS at a public address, so others can read its password and \
             change what it answers",
            "use `rediss://`, or an address in a private network",
        );
    }
    Ok(Some(RedisSettings { url, key_prefix, refresh: refresh.unwrap_or_default() }))
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

/// The address of one Redis server, and whether it is asked without TLS outside private networks.
pub(super) fn optional_redis(text: &str) -> Result<Option<(Secret<String>, bool)>, Complaint> {
    if text.is_empty() {
        return Ok(None);
    }
    let shape = || {
        Complaint::new(
            "must be `redis://[[user]:password@]host[:port][/number]`, or the same with `rediss://` for TLS",
        )
        .with_hint("percent-encode `/`, `?`, `#`, `@` and `:` in the user name and the password")
    };
    let url = Url::parse(text).map_err(|_| shape())?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(shape)?;
    let is_plain = url.query().is_none() && url.fragment().is_none();
    let secret = Secret::new(text.to_owned());
    if !matches!(url.scheme(), "redis" | "rediss") || !is_plain || Redis::open(&secret, "").is_err() {
        return Err(shape());
    }
    let is_exposed = url.scheme() == "redis" && !urls::is_private(host.trim_matches(['[', ']']));
    Ok(Some((secret, is_exposed)))
}

pub(super) fn key_prefix(text: &str) -> Result<String, Complaint> {
    if text.chars().any(char::is_control) {
        return Err(Complaint::new("holds a control character"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{check, read};

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
             api_keys = false\n[auth.service_keys.a]\nkey = 'sixteen-letters-!'",
            "",
            &[],
            "g:3: `auth.openwebui.database_url` is not used, because no credential of Open WebUI is believed\n  \
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
    fn api_keys_need_no_secret() {
        let gateway = "[auth.openwebui]\nsecret = ''\ndatabase_url = 'postgres://h/db'";
        let settings = read(gateway, "", &[]).unwrap().identity;
        assert!(settings.sessions.is_none() && settings.openwebui_tables.unwrap().has_api_keys);
    }

    #[test]
    fn ended_sessions_are_read_in_one_redis() {
        let redis = |lines: &str| {
            let gateway = format!("[auth.openwebui]\nsecret = 'sixteen-letters-!'\n{lines}");
            read(&gateway, "", &[]).unwrap().identity.openwebui_redis
        };
        assert!(redis("").is_none() && redis("redis_url = ''").is_none());
        let found = redis("redis_url = 'redis://:p%40ss@redis:6380/2'").unwrap();
        assert_eq!((found.key_prefix.as_str(), found.refresh), ("open-webui", Duration::from_millis(500)));
        let found = redis(
            "redis_url = 'rediss://user:pass@redis.example.com'\nredis_key_prefix = ''\nrefresh_millis = 50",
        );
        let found = found.unwrap();
        assert_eq!((found.key_prefix.as_str(), found.refresh), ("", Duration::from_millis(50)));
        check(
            "[auth.openwebui]\nsecret = 'sixteen-letters-!'\nredis_url = 'redis://redis.example.com/0'",
            "",
            &[],
            "g:3: `auth.openwebui.redis_url` is asked without TLS at a public address, so others can read its password \
             and change what it answers\n  hint: use `rediss://`, or an address in a private network",
        );
        check(
            "[auth.openwebui]\nsecret = ''\nredis_url = 'redis://redis'\n\
             [auth.service_keys.a]\nkey = 'sixteen-letters-!'",
            "",
            &[],
            "g:3: `auth.openwebui.redis_url` is not used, because no session of Open WebUI is believed\n  \
             hint: set `auth.openwebui.secret` to the `WEBUI_SECRET_KEY` of Open WebUI",
        );
        for url in [
            "http://redis",
            "redis",
            "redis:",
            "redis://",
            "redis://redis:99999",
            "redis://redis/zero",
            "rediss://redis/#insecure",
            "redis://redis?protocol=resp3",
            "unix:///run/redis",
        ] {
            check(
                &format!("[auth.openwebui]\nsecret = 'sixteen-letters-!'\nredis_url = '{url}'"),
                "",
                &[],
                "g:3: `auth.openwebui.redis_url` must be `redis://[[user]:password@]host[:port][/number]`, or the same \
                 with `rediss://` for TLS\n  \
                 hint: percent-encode `/`, `?`, `#`, `@` and `:` in the user name and the password",
            );
        }
    }
}
