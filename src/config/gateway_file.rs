//! `gateway.toml`: every key outside `[auth]`, with its default and its limits.
//!
//! Decides which settings are possible. Never decides what a module does with them, and gathers what
//! `auth` reads without looking into it.

use tracing_subscriber::EnvFilter;

use std::net::SocketAddr;

use super::{
    audit, auth, limits, listen,
    problems::{Complaint, Places},
    reader::{Read, Reader},
    server_care::deadlines,
    traces, urls,
};
use crate::{
    access, catalog,
    catalog::server::Deadlines,
    gateway,
    gateway::native,
    identity, limit,
    names::{GroupName, SecretKey},
    record, store,
    store::SealingSettings,
    upstream::allowed::{AllowedHost, AllowedHosts},
};

/// All that `gateway.toml` says.
pub(super) struct GatewayFile {
    pub(super) gateway: gateway::Settings,
    pub(super) places: Places,
    pub(super) store: store::Settings,
    pub(super) identity: identity::Settings,
    pub(super) access: access::Settings,
    pub(super) limits: limit::Settings,
    /// Calls of one server that may run at once, at servers that do not say otherwise.
    pub(super) running: u32,
    pub(super) catalog: catalog::Settings,
    /// Whether tools are pinned, at servers that do not say otherwise.
    pub(super) is_pinned: bool,
    pub(super) record: record::Settings,
    pub(super) audit: record::audit::Settings,
    /// What holds for servers that do not say otherwise.
    pub(super) upstream: Deadlines,
    pub(super) allowed_hosts: AllowedHosts,
    /// Who is asked for names; the system's, where nobody is named.
    pub(super) nameservers: Vec<SocketAddr>,
    /// Whether changes of the files are taken over.
    pub(super) is_watched: bool,
}

/// A day, the longest wait that makes sense for anything a request depends on.
pub(super) const DAY_SECS: u64 = 86_400;
pub(super) const MAX_BYTES: u32 = 1 << 30;

/// Reads the file; every table is looked at even when one before it is wrong.
pub(super) fn read(root: &mut Reader<'_>) -> Read<GatewayFile> {
    let auth = root.table("auth", auth::read);
    let catalog = root.table("tools", tools);
    let is_pinned = root.table("catalog", |table| table.flag("pin", "false"));
    let lists =
        catalog.as_ref().map_or_else(|_| Default::default(), |tools| (tools.max_bytes, tools.refresh));
    let mcp = root.table("mcp", |table| mcp(table, lists));
    let meta_tools = root.table("meta_tools", |table| table.flag("enabled", "${META_TOOLS_MODE:-false}"));
    let told = auth.as_ref().map(|auth| (auth.sign_in.clone(), auth.trusts_told_address)).unwrap_or_default();
    let gateway = listen::read(root, told, mcp, meta_tools);
    let tenants = root.table("tenants", tenants);
    let (tenant_order, sealing) = tenants
        .map_or_else(|reported| (Err(reported), Err(reported)), |(order, sealing)| (Ok(order), Ok(sealing)));
    let store = root.table("database", |table| database(table, sealing));
    let access = root.table("access", |table| access(table, tenant_order));
    let services = auth.as_ref().map(|auth| auth.service_rates.clone()).unwrap_or_default();
    let limits = root.table("limits", |table| limits::read(table, services));
    let limits =
        limits.map_or_else(|reported| (Err(reported), Err(reported)), |(all, one)| (Ok(all), Ok(one)));
    let traces = root.table("traces", traces::read);
    let record = root.table("log", |table| log(table, traces));
    let database = store.as_ref().ok().map(|(store, _)| store.url.clone());
    let audit = root.table("audit", |table| audit::read(table, database.as_ref()));
    let is_watched = root.table("reload", |table| table.flag("watch", "true"));
    let upstream = root.table("upstream", |table| {
        let deadlines = deadlines(table, DEFAULT_DEADLINES);
        let allowed = table.list("allowed_hosts", allowed_host);
        let nameservers = table.list("nameservers", nameserver);
        Ok((deadlines?, AllowedHosts(allowed?), nameservers?))
    });
    let (upstream, allowed_hosts, nameservers) = upstream?;
    let (gateway, [http, ops]) = gateway?;
    let (store, database) = store?;
    let (audit, spool) = audit?;
    Ok(GatewayFile {
        gateway,
        places: Places { http, ops, database, spool },
        store,
        identity: auth?.identity,
        access: access?,
        limits: limits.0?,
        running: limits.1?,
        catalog: catalog?,
        is_pinned: is_pinned?,
        record: record?,
        audit,
        upstream,
        allowed_hosts,
        nameservers,
        is_watched: is_watched?,
    })
}

/// How long the gateway waits for servers when neither file says.
pub(super) const DEFAULT_DEADLINES: Deadlines = Deadlines {
    connect: std::time::Duration::from_secs(5),
    first_byte: std::time::Duration::from_secs(300),
    read: std::time::Duration::from_secs(300),
    total: std::time::Duration::from_secs(600),
};

/// Reads a schema name that needs no quoting in SQL.
pub(super) fn schema(text: &str) -> Result<String, Complaint> {
    let fits = text.len() <= 63
        && text.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if fits {
        return Ok(text.to_owned());
    }
    Err(Complaint::new("must be 1 to 63 of `a-z`, `0-9`, `_`, not beginning with a digit"))
}

/// Reads a group's name.
pub(super) fn group(text: &str) -> Result<GroupName, Complaint> {
    GroupName::parse(text).map_err(|bad| Complaint::new(format!("must hold group names: {bad}")))
}

fn mcp(
    table: &mut Reader<'_>,
    (max_list_bytes, list_refresh): (usize, std::time::Duration),
) -> Read<native::Settings> {
    let keys = table.list_or("session_keys", &["${PORTCULLIS_SESSION_KEY:-}"], session_key);
    let ttl = table.seconds("session_ttl_secs", DAY_SECS, 1..=30 * DAY_SECS);
    let max_message_bytes = table.size("max_message_bytes", 4_194_304, 1024..=MAX_BYTES);
    let page_size = table.size("page_size", 1_000, 1..=10_000);
    let session_keys: Vec<_> = keys?.into_iter().flatten().collect();
    Ok(native::Settings {
        session_keys,
        session_ttl: ttl?,
        max_message_bytes: max_message_bytes?,
        max_list_bytes,
        list_refresh,
        page_size: page_size?,
    })
}

/// A key, or an entry left empty by a variable that is not set.
fn sealing_key(text: &str) -> Result<Option<SecretKey>, Complaint> {
    session_key(text)
}

/// A key, or an entry left empty by a variable that is not set.
fn session_key(text: &str) -> Result<Option<SecretKey>, Complaint> {
    if text.is_empty() {
        return Ok(None);
    }
    SecretKey::parse(text).map(Some).map_err(|_| {
        Complaint::new("must hold keys of 32 bytes, each as 64 hexadecimal digits or in base64")
            .with_hint("make one with `openssl rand -hex 32`")
    })
}

fn database(table: &mut Reader<'_>, sealing: Read<SealingSettings>) -> Read<(store::Settings, String)> {
    let url = table.parsed("url", "${DATABASE_URL:-sqlite:portcullis.db}", urls::database_within_reach);
    let schema = table.parsed("schema", "public", schema);
    let auto_migrate = table.flag("auto_migrate", "true");
    let (url, place) = (url?, table.place_of("url"));
    Ok((store::Settings { url, schema: schema?, auto_migrate: auto_migrate?, sealing: sealing? }, place))
}

fn access(table: &mut Reader<'_>, tenant_order: Read<Vec<GroupName>>) -> Read<access::Settings> {
    let admin_group = table.parsed("admin_group", "MCP-Admin", group);
    let max_stale = table.seconds("max_stale_secs", 3600, 1..=365 * DAY_SECS);
    let is_concealing = table.flag("conceal", "false");
    Ok(access::Settings {
        admin_group: admin_group?,
        max_stale: max_stale?,
        is_concealing: is_concealing?,
        tenant_order: tenant_order?,
    })
}

/// Reads which group counts, and what keys are sealed with.
fn tenants(table: &mut Reader<'_>) -> Read<(Vec<GroupName>, SealingSettings)> {
    let order = table.list("order", group);
    let keys = table.list_or("sealing_keys", &["${PORTCULLIS_SEALING_KEY:-}"], sealing_key);
    let file = table.parsed("sealing_key_file", "${PORTCULLIS_SEALING_KEY_FILE:-}", |text| {
        Ok((!text.is_empty()).then(|| std::path::PathBuf::from(text)))
    });
    if let Ok(Some(file)) = &file {
        table.note_file(file);
    }
    let sealing = SealingSettings { keys: keys?.into_iter().flatten().collect(), file: file? };
    if let Some(problem) = sealing.problem() {
        let sentence = format!("`tenants.sealing_key_file`: {problem}");
        let hint = "name a file that the gateway's user may read, with one key a line; `openssl rand -hex 32` makes one";
        return Err(table.problem("sealing_key_file", sentence, hint));
    }
    Ok((order?, sealing))
}

fn nameserver(text: &str) -> Result<SocketAddr, Complaint> {
    let bare = || Some(SocketAddr::new(text.parse().ok()?, 53));
    text.parse().ok().or_else(bare).ok_or_else(|| {
        Complaint::new("must hold addresses of name servers: `10.0.0.53`, `127.0.0.1:5353` or `[::1]:53`")
    })
}

fn allowed_host(text: &str) -> Result<AllowedHost, Complaint> {
    AllowedHost::parse(text).ok_or_else(|| {
        Complaint::new(
            "must hold hosts like `mcp.example.com`, `*.tenants.example.com`, `10.0.0.0/8` or `mcpo:8000`",
        )
    })
}

fn tools(table: &mut Reader<'_>) -> Read<catalog::Settings> {
    let refresh = table.seconds("refresh_secs", 300, 1..=DAY_SECS);
    let deadline = table.seconds("deadline_secs", 10, 1..=300);
    let max_bytes = table.size("max_bytes", 8_388_608, 1024..=MAX_BYTES);
    Ok(catalog::Settings { refresh: refresh?, deadline: deadline?, max_bytes: max_bytes? })
}

fn log(table: &mut Reader<'_>, traces: Read<Option<record::trace::Settings>>) -> Read<record::Settings> {
    let filter = table.parsed("filter", "info", log_filter);
    let access = table.flag("access", "true");
    let mut filter = filter?;
    if table.environment().is_on("DEBUG") {
        // Of two directives for one target the later one holds.
        filter.push_str(",portcullis=debug");
    }
    Ok(record::Settings { filter, is_access_log_on: access?, traces: traces? })
}

fn log_filter(text: &str) -> Result<String, Complaint> {
    // The filter's own parser panics on white space beside letters outside ASCII (tracing-subscriber 0.3.23).
    let is_readable = text.bytes().all(|byte| byte.is_ascii_graphic()) && EnvFilter::try_new(text).is_ok();
    if is_readable {
        return Ok(text.to_owned());
    }
    Err(Complaint::new("is not a log filter").with_hint("for example `info,portcullis=debug`"))
}

#[cfg(test)]
mod tests {
    use crate::{
        config::tests::{check, read},
        names::SecretKey,
    };

    #[test]
    fn numbers_outside_their_range_are_refused() {
        check(
            "[mcp]\nsession_ttl_secs = 0\nmax_message_bytes = 1\npage_size = 0\n[listen]\nthreads = 5000\nmax_connections = 0\nheader_timeout_secs = 0\nkeepalive_timeout_secs = 0\n\
             body_timeout_secs = 0\nwrite_timeout_secs = 0\nmax_header_bytes = 1\nmax_wrapped_body_bytes = 0\n\
             [shutdown]\ngrace_secs = -1\n[access]\nmax_stale_secs = 0\n[tools]\nrefresh_secs = 0\ndeadline_secs = 0\nmax_bytes = 0\n\
             [upstream]\nconnect_timeout_secs = 0\nread_timeout_secs = 0",
            "",
            &[],
            "g:2: `mcp.session_ttl_secs` must be a whole number from 1 to 2592000\n  hint: the default is 86400\n\
             g:3: `mcp.max_message_bytes` must be a whole number from 1024 to 1073741824\n  hint: the default is 4194304\n\
             g:4: `mcp.page_size` must be a whole number from 1 to 10000\n  hint: the default is 1000\n\
             g:6: `listen.threads` must be a whole number from 0 to 1024\n  hint: the default is 0\n\
             g:7: `listen.max_connections` must be a whole number from 1 to 10000000\n  hint: the default is 10000\n\
             g:8: `listen.header_timeout_secs` must be a whole number from 1 to 3600\n  hint: the default is 10\n\
             g:9: `listen.keepalive_timeout_secs` must be a whole number from 1 to 86400\n  hint: the default is 60\n\
             g:10: `listen.body_timeout_secs` must be a whole number from 1 to 86400\n  hint: the default is 60\n\
             g:11: `listen.write_timeout_secs` must be a whole number from 1 to 86400\n  hint: the default is 30\n\
             g:12: `listen.max_header_bytes` must be a whole number from 1024 to 1048576\n  hint: the default is 32768\n\
             g:13: `listen.max_wrapped_body_bytes` must be a whole number from 1024 to 1073741824\n  hint: the default is 1048576\n\
             g:15: `shutdown.grace_secs` must be a whole number from 0 to 86400\n  hint: the default is 60\n\
             g:17: `access.max_stale_secs` must be a whole number from 1 to 31536000\n  hint: the default is 3600\n\
             g:19: `tools.refresh_secs` must be a whole number from 1 to 86400\n  hint: the default is 300\n\
             g:20: `tools.deadline_secs` must be a whole number from 1 to 300\n  hint: the default is 10\n\
             g:21: `tools.max_bytes` must be a whole number from 1024 to 1073741824\n  hint: the default is 8388608\n\
             g:23: `upstream.connect_timeout_secs` must be a number of seconds from 0.01 to 300\n  hint: the default is 5\n\
             g:24: `upstream.read_timeout_secs` must be a number of seconds from 0.01 to 86400\n  hint: the default is 300",
        );
    }

    #[test]
    fn a_public_url_is_a_name_of_the_gateway_too() {
        let found = |text: &str| read(text, "", &[]).unwrap().gateway;
        let named = found("[listen]\nhosts = ['A.example.com']\npublic_url = 'https://B.example.com:8443'");
        assert_eq!(named.hosts, ["a.example.com", "b.example.com"]);
        assert_eq!(named.public_url.unwrap(), "https://b.example.com:8443");
        assert!(found("").hosts.is_empty() && found("").public_url.is_none());
        check(
            "[listen]\nhosts = ['h:80', '*.h']\npublic_url = 'https://h/mcp'",
            "",
            &[],
            "g:2: `listen.hosts` holds a port\n  hint: leave it out: every port is meant\n\
             g:2: `listen.hosts` must hold host names like `mcp.example.com`, without scheme, path or `*`\n\
             g:3: `listen.public_url` must be like `https://mcp.example.com`, without path",
        );
    }

    #[test]
    fn session_keys_are_of_32_bytes_and_the_first_seals() {
        let (hex, base64) = ("5f".repeat(32), "X19fX19fX19fX19fX19fX19fX19fX19fX19fX19fX18=");
        let other = "a7".repeat(32);
        let keys =
            |text: &str, pairs: &[(&str, &str)]| read(text, "", pairs).unwrap().gateway.mcp.session_keys;
        let parsed = |text: &str| SecretKey::parse(text).unwrap();
        let (none, variable) = ("[mcp]\nsession_keys = []", &[("PORTCULLIS_SESSION_KEY", hex.as_str())][..]);
        assert_eq!(keys("", &[]), []);
        assert_eq!(keys("", variable), [parsed(base64)]);
        assert_eq!(keys(none, variable), []);
        let rotating = format!("[mcp]\nsession_keys = ['{other}', '${{PORTCULLIS_SESSION_KEY:-}}', '']");
        assert_eq!(keys(&rotating, variable), [parsed(&other), parsed(&hex)]);
        assert_eq!(keys(&rotating, &[]), [parsed(&other)]);
        let complaint = "must hold keys of 32 bytes, each as 64 hexadecimal digits or in base64\n  \
             hint: make one with `openssl rand -hex 32`";
        for bad in ["x", "5f5f", " ", &hex[1..], &format!("{hex} "), &base64[4..]] {
            let text = format!("[mcp]\nsession_keys = ['{bad}']");
            check(&text, "", &[], &format!("g:2: `mcp.session_keys` {complaint}"));
        }
        check(
            "",
            "",
            &[("PORTCULLIS_SESSION_KEY", "x")],
            &format!("g: `mcp.session_keys` (by default `${{PORTCULLIS_SESSION_KEY:-}}`) {complaint}"),
        );
    }

    #[test]
    fn two_listeners_on_one_address_are_refused() {
        check(
            "[listen]\nhttp = '0.0.0.0:9090'",
            "",
            &[],
            "g:1: `listen.http` and `listen.ops` are the same address\n  hint: give one of them another port",
        );
    }

    #[test]
    fn metrics_that_other_machines_can_read_are_warned_about() {
        for (ops, is_open) in [
            ("0.0.0.0:9090", true),
            ("[::]:9090", true),
            ("10.0.0.1:9090", true),
            ("127.0.0.9:9090", false),
            ("[::1]:9090", false),
            ("[::ffff:127.0.0.1]:9090", false),
        ] {
            let warning = "g:2: `listen.ops` can be reached from other machines, and whoever reaches it reads the metrics \
                 without a credential\n  hint: write `127.0.0.1:PORT`, or let a firewall admit only those who read them";
            check(&format!("[listen]\nops = '{ops}'"), "", &[], if is_open { warning } else { "" });
        }
    }

    #[test]
    fn a_database_in_a_folder_that_does_not_exist_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let sentence = "names a file in a folder that does not exist\n  \
             hint: make the folder, or name another; a path without `/` at its start begins where the gateway was started";
        check(
            &format!(
                "[database]\nurl = 'sqlite:{path}/no/p.db'\n[auth.openwebui]\ndatabase_url = 'sqlite:no-such-folder/w.db'"
            ),
            "",
            &[],
            &format!("g:2: `database.url` {sentence}\ng:4: `auth.openwebui.database_url` {sentence}"),
        );
        check(&format!("[database]\nurl = 'sqlite:{path}/p.db'"), "", &[], "");
        check("", "", &[("DATABASE_URL", "sqlite:p.db")], "");
    }

    #[test]
    fn a_database_that_could_never_be_opened_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let hint =
            "hint: it looks like `postgres://USER:PASSWORD@HOST:5432/DATABASE`, or `sqlite:portcullis.db`";
        for (url, sentence) in [
            (format!("sqlite:{path}"), "names a folder, and not a file"),
            (
                "postgres://a@127.0.0.1:1/x?sslmode=bogus".to_owned(),
                "cannot be read, probably because of a parameter behind `?` that is not known or has no such value",
            ),
        ] {
            let expected = format!("g:2: `database.url` {sentence}\n  {hint}");
            check(&format!("[database]\nurl = '{url}'"), "", &[], &expected);
        }
        check("[database]\nurl = 'postgres://a@127.0.0.1:1/x?sslmode=disable'", "", &[], "");
    }

    #[test]
    fn a_file_of_sealing_keys_that_cannot_be_used_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(at("empty"), "").unwrap();
        std::fs::write(at("text"), "a key").unwrap();
        std::fs::write(at("good"), "5f".repeat(32)).unwrap();
        for (name, why) in [
            ("none", "No such file or directory (os error 2)"),
            ("empty", "it holds no key"),
            ("text", "line 1: keys of 32 bytes are written as 64 hexadecimal digits or in base64"),
        ] {
            let path = at(name);
            let found = read(&format!("[tenants]\nsealing_key_file = '{path}'"), "", &[]).unwrap_err();
            let place = format!("g:2: `tenants.sealing_key_file`: cannot read the keys in `{path}`: ");
            assert!(found.starts_with(&place), "{found}");
            assert!(name == "text" || found.contains(why), "{found}");
        }
        check(&format!("[tenants]\nsealing_key_file = '{}'", at("good")), "", &[], "");
    }

    #[test]
    fn a_bad_value_from_the_environment_names_the_default_it_came_through() {
        check(
            "",
            "",
            &[("DATABASE_URL", "postgresql+asyncpg://u:p@h/db")],
            "g: `database.url` (by default `${DATABASE_URL:-sqlite:portcullis.db}`) names a Python driver in its scheme\n  \
             hint: write `postgresql://` and leave the rest as it is",
        );
    }

    #[test]
    fn words_and_filters_are_checked() {
        check(
            "[access]\nadmin_group = ' a'\n[log]\nfilter = 'a=nothing'\n[cors]\norigins = [\n'https://a',\n'*',\n]",
            "",
            &[],
            "g:2: `access.admin_group` must hold group names: a group name is 1 to 255 characters without control \
             characters or outer spaces\n\
             g:4: `log.filter` is not a log filter\n  hint: for example `info,portcullis=debug`\n\
             g:8: `cors.origins` must hold origins like `https://chat.example.com`, without path or `*`",
        );
    }

    #[test]
    fn meta_tools_stand_alone_where_the_file_or_the_environment_says_so() {
        let stands_alone =
            |gateway, pairs: &[(&str, &str)]| read(gateway, "", pairs).unwrap().gateway.shows_meta_tools_only;
        assert!(!stands_alone("", &[]));
        assert!(!stands_alone("", &[("META_TOOLS_MODE", "")]));
        assert!(stands_alone("", &[("META_TOOLS_MODE", "true")]));
        assert!(stands_alone("[meta_tools]\nenabled = true", &[]));
        assert!(!stands_alone("[meta_tools]\nenabled = false", &[("META_TOOLS_MODE", "true")]));
        check(
            "[meta_tools]\nenabled = 'maybe'",
            "",
            &[],
            "g:2: `meta_tools.enabled` must be `true` or `false`",
        );
    }

    #[test]
    fn debug_in_the_environment_adds_to_the_filter() {
        let filter = |gateway, pairs| read(gateway, "", pairs).unwrap().record.filter;
        assert_eq!(filter("", &[("DEBUG", "True")]), "info,portcullis=debug");
        assert_eq!(filter("[log]\nfilter = 'warn'", &[("DEBUG", "1")]), "warn,portcullis=debug");
        assert_eq!(filter("", &[("DEBUG", "0")]), "info");
        assert_eq!(filter("", &[("DEBUG", "")]), "info");
    }
}
