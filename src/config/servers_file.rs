//! `servers.toml`: the catalog, one table a server.
//!
//! Decides whether a server can be reached and called as configured. Never dials, and never decides
//! who may use it.

use std::{net::SocketAddr, sync::Arc};

use super::{
    limits::{MOST_RUNNING, rate},
    problems::Complaint,
    reader::{Read, Reader},
    server_care::{care, deadlines},
    server_credential::{Enabled, Found, credential, discovery_credential, sharing},
    server_launch::launch,
    urls,
    wording::{closest, printable},
};
use crate::{
    catalog::{
        limits::ServerLimits,
        server::{Deadlines, Dialect, PeerUrl, ProtocolVersion, Server, Tier},
    },
    names::{ServerId, ToolPattern},
};

/// What `gateway.toml` says that servers are held against.
pub(super) struct FromGateway {
    pub(super) deadlines: Deadlines,
    /// Whether tools are pinned.
    pub(super) is_pinned: bool,
    /// Calls of one server that may run at once.
    pub(super) running: u32,
    /// Each with its key; none where that file is wrong.
    pub(super) listeners: Vec<(&'static str, SocketAddr)>,
}

/// Reads the file; every server is looked at even when one before it is wrong.
pub(super) fn read(root: &mut Reader<'_>, from_gateway: &FromGateway) -> Read<Vec<Server>> {
    root.tables("servers", |id, table| server(id, table, from_gateway))
}

fn server(id: &str, table: &mut Reader<'_>, from_gateway: &FromGateway) -> Read<Server> {
    let server_id = ServerId::parse(id).map_err(|bad| {
        let sentence = format!("a server cannot be called `{}`: {bad}", printable(id));
        table.problem("", sentence, "choose another name; people see `name`, grants and paths use this one")
    });
    let name = table.optional("name", one_line);
    let tier = tier(id, table);
    let dialect = dialect(table, tier);
    let mcp_versions = mcp_versions(id, table, dialect);
    let is_endpoint = dialect.is_ok_and(Dialect::is_mcp);
    let url = table.one_or_more("url", if is_endpoint { urls::endpoint } else { urls::peer });
    let enabled = table.flag_or_word("enabled", "true", Enabled::parse);
    let credential = credential(id, table, enabled.unwrap_or(Enabled::No));
    let is_on = credential.as_ref().is_ok_and(|found| found.is_on);
    let sharing = sharing(id, table, &credential);
    let discovery_credential = discovery_credential(id, table, is_on);
    let is_session_shared = share_session(id, table, dialect);
    let is_pinned = table.flag("pin", if from_gateway.is_pinned { "true" } else { "false" });
    let audits_arguments = table.flag("audit_arguments", "false");
    let limits = limits(table, from_gateway.running);
    let launch = launch(id, table, dialect);
    let description = table.parsed("description", "", any_line);
    let deadlines = deadlines(table, from_gateway.deadlines);
    let (server_id, tier, dialect) = (server_id?, tier?, dialect?);
    let peers = url.and_then(|url| peers(&server_id, table, tier, dialect, url));
    let peers = peers.and_then(|peers| not_the_gateway(&server_id, table, peers, &from_gateway.listeners));
    let care = care(id, table, Ok(dialect), peers.as_deref().unwrap_or_default());
    enabled?;
    let Found { credential, own: own_credential, is_on: is_enabled, missing: missing_variables } =
        credential?;
    let discovery_credential = discovery_credential?;
    launch?;
    if is_enabled && (credential.is_some() || discovery_credential.is_some()) {
        warn_of_eavesdroppers(&server_id, table, peers.as_deref().unwrap_or_default());
    }
    Ok(Server {
        name: name?.unwrap_or_else(|| server_id.to_string()),
        id: server_id,
        tier,
        dialect,
        mcp_versions: mcp_versions?,
        peers: peers?,
        credential,
        own_credential,
        sharing: sharing?,
        discovery_credential,
        is_session_shared: is_session_shared?,
        is_pinned: is_pinned?,
        audits_arguments: audits_arguments?,
        is_enabled,
        missing_variables,
        description: description?,
        deadlines: deadlines?,
        care: care?,
        limits: limits?,
    })
}

/// How much of the server may be used.
fn limits(table: &mut Reader<'_>, running: u32) -> Read<ServerLimits> {
    let calls = table.optional("calls", rate);
    let tools = table.words("calls_per_tool", |pattern, text| {
        let pattern = ToolPattern::parse(pattern)
            .map_err(|bad| Complaint::new(format!("is no pattern of tools: {bad}")))?;
        Ok((pattern, rate(text)?))
    });
    let running = table.size("running", running, 0..=MOST_RUNNING);
    Ok(ServerLimits::new(calls?, tools?, running?))
}

fn tier(id: &str, table: &mut Reader<'_>) -> Read<Tier> {
    let tier = table.optional("tier", |text| {
        let words = Tier::ALL.map(Tier::as_str);
        Tier::ALL.into_iter().find(|tier| tier.as_str() == text).ok_or_else(|| {
            let complaint = Complaint::new("must be `http`, `sse`, `stdio` or `local`");
            match closest(text, words) {
                Some(word) => complaint.with_hint(format!("did you mean `{word}`?")),
                None => complaint,
            }
        })
    })?;
    tier.ok_or_else(|| {
        let sentence = format!("server `{}` has no `tier`", printable(id));
        table.problem("tier", sentence, "add `tier = \"http\"`, `\"sse\"`, `\"stdio\"` or `\"local\"`")
    })
}

fn dialect(table: &mut Reader<'_>, tier: Read<Tier>) -> Read<Dialect> {
    let dialect = table.optional("dialect", |text| {
        let known = Dialect::ALL.into_iter().find(|dialect| dialect.as_str() == text);
        known.ok_or_else(|| Complaint::new("must be `openapi`, `mcp` or `mcp-sse`"))
    })?;
    match dialect {
        Some(dialect) => Ok(dialect),
        None => Ok(tier?.default_dialect()),
    }
}

/// The revisions of MCP the server is said to speak, oldest first; none when it shall be asked.
fn mcp_versions(
    id: &str,
    table: &mut Reader<'_>,
    dialect: Read<Dialect>,
) -> Read<Option<Box<[ProtocolVersion]>>> {
    let Some(mut versions) = table.one_or_more("mcp_versions", mcp_version)? else { return Ok(None) };
    versions.sort_unstable();
    versions.dedup();
    let dialect = dialect?;
    if !dialect.is_mcp() {
        let sentence = format!("server `{}` has `mcp_versions`, but speaks `{dialect}`", printable(id));
        return Err(table.problem("mcp_versions", sentence, "leave it out, or say `dialect = \"mcp\"`"));
    }
    if let Some(modern) = versions.iter().find(|version| dialect == Dialect::McpSse && version.is_modern()) {
        let sentence =
            format!("server `{}` speaks `{dialect}`, which `{modern}` does not have", printable(id));
        return Err(table.problem("mcp_versions", sentence, "leave it out, or say `dialect = \"mcp\"`"));
    }
    Ok(Some(versions.into()))
}

/// Whether callers share a session at the server; only MCP has sessions.
fn share_session(id: &str, table: &mut Reader<'_>, dialect: Read<Dialect>) -> Read<bool> {
    let is_shared = table.flag("share_session", "true")?;
    let dialect = dialect?;
    if !is_shared && !dialect.is_mcp() {
        let sentence = format!("server `{}` has `share_session`, but speaks `{dialect}`", printable(id));
        return Err(table.problem("share_session", sentence, "leave it out, or say `dialect = \"mcp\"`"));
    }
    Ok(is_shared)
}

fn mcp_version(text: &str) -> Result<ProtocolVersion, Complaint> {
    let known = ProtocolVersion::ALL.into_iter().find(|version| version.as_str() == text);
    known.ok_or_else(|| {
        let words = ProtocolVersion::ALL.map(|version| format!("`{version}`"));
        Complaint::new(format!("must hold revisions of MCP: {}", words.join(", ")))
    })
}

/// The addresses given, or the one that the environment names for all mcpo servers of the tier.
fn peers(
    id: &ServerId,
    table: &Reader<'_>,
    tier: Tier,
    dialect: Dialect,
    url: Option<Vec<PeerUrl>>,
) -> Read<Arc<[PeerUrl]>> {
    if let Some(peers) = url {
        let repeats = (1..peers.len()).any(|at| peers[..at].contains(&peers[at]));
        if repeats {
            let sentence = format!("server `{id}` has the same address twice in `url`");
            return Err(table.problem("url", sentence, "name each peer once"));
        }
        return Ok(peers.into());
    }
    let variable = match (tier, dialect) {
        (Tier::Sse, Dialect::OpenApi) => Some("MCPO_SSE_URL"),
        (Tier::Stdio, Dialect::OpenApi) => Some("MCPO_STDIO_URL"),
        (Tier::Sse | Tier::Stdio, Dialect::Mcp | Dialect::McpSse) | (Tier::Http | Tier::Local, _) => None,
    };
    let base = variable.and_then(|name| Some((name, table.environment().non_empty(name)?)));
    if let Some((name, base)) = base {
        let address = format!("{}/{id}", base.strip_suffix('/').unwrap_or(base));
        return urls::peer(&address).map(|peer| [peer].into()).map_err(|complaint| {
            let sentence =
                format!("server `{id}` has no `url`, and the one from `{name}` {}", complaint.sentence);
            table.problem("url", sentence, &format!("set `{name}` to `http://host:port`, or add a `url`"))
        });
    }
    let hint = match variable {
        Some(name) => format!("add `url = \"http://…\"`, or set `{name}`"),
        None => "add `url = \"http://…\"`".to_owned(),
    };
    Err(table.problem("url", format!("server `{id}` has tier `{tier}` but no `url`"), &hint))
}

fn not_the_gateway(
    id: &ServerId,
    table: &Reader<'_>,
    peers: Arc<[PeerUrl]>,
    listeners: &[(&str, SocketAddr)],
) -> Read<Arc<[PeerUrl]>> {
    let own = listeners.iter().find(|(_, listener)| peers.iter().any(|peer| urls::reaches(peer, *listener)));
    let Some((key, _)) = own else { return Ok(peers) };
    let sentence = format!("server `{id}` is at `{key}`, so the gateway would call itself");
    Err(table.problem("url", sentence, "name the address where the server listens"))
}

fn warn_of_eavesdroppers(id: &ServerId, table: &Reader<'_>, peers: &[PeerUrl]) {
    if peers.iter().all(|peer| peer.is_tls || urls::is_private(&peer.host)) {
        return;
    }
    let sentence = format!(
        "server `{id}` is sent its credential over plain `http` to a public address, where others can read it"
    );
    table.warning("url", sentence, "write `https://…`, or put the server into a private network");
}

fn one_line(text: &str) -> Result<String, Complaint> {
    if text.trim().is_empty() {
        return Err(Complaint::new("must not be empty").with_hint("leave it out to use the server's id"));
    }
    any_line(text)
}

fn any_line(text: &str) -> Result<String, Complaint> {
    if text.contains(char::is_control) {
        return Err(Complaint::new("must be one line without control characters"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::tests::{check, read};

    #[track_caller]
    fn server(text: &str, pairs: &[(&str, &str)]) -> Server {
        let mut servers = read("", text, pairs).unwrap().servers;
        assert_eq!(servers.len(), 1);
        servers.remove(0)
    }

    #[test]
    fn a_credential_may_stand_in_a_file_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("github-key");
        let text = |enabled: &str| {
            format!(
                "[servers.x]\ntier = 'local'\nurl = 'http://h'\nenabled = '{enabled}'\n\
                 credential = {{ header = 'X-Key', file = '${{FOLDER}}/github-key' }}"
            )
        };
        let pairs = [("FOLDER", folder.path().to_str().unwrap())];
        let cannot = "s:5: server `x` has a file in its `credential.file` that cannot be read or is empty\n  \
             hint: put the secret there and nothing else, or say `enabled = \"auto\"`";
        check("", &text("true"), &pairs, cannot);
        assert!(!server(&text("auto"), &pairs).is_enabled);
        for (content, value) in [("k", "k"), ("k\n", "k"), ("k\r\n", "k")] {
            std::fs::write(&path, content).unwrap();
            let found = server(&text("auto"), &pairs);
            assert_eq!(found.credential.unwrap().value.expose(), value);
            assert_eq!(found.own_credential.unwrap().key_name, "github-key");
            assert!(found.is_enabled);
        }
        std::fs::write(&path, "").unwrap();
        check("", &text("true"), &pairs, cannot);
        std::fs::write(&path, "one\ntwo\n").unwrap();
        let found = read("", &text("true"), &pairs).unwrap_err();
        assert!(found.contains("cannot be sent in a header") && !found.contains("two"), "{found}");
        let both = text("true").replace("file =", "env = 'FOLDER', file =");
        assert!(read("", &both, &pairs).unwrap_err().contains("with both `env` and `file`"));
    }

    #[test]
    fn a_server_has_what_its_table_says() {
        let text = "[servers.github]\nname = 'GitHub'\ntier = 'local'\nurl = '${MCP_GITHUB_URL:-http://mcp-github:8000/}'\n\
             credential = { header = 'Authorization', scheme = 'Bearer', env = 'MCP_API_KEY' }\nenabled = 'auto'\n\
             description = 'Issues'\nread_timeout_secs = 9";
        let found = server(text, &[("MCP_API_KEY", "k")]);
        assert_eq!((found.id.as_str(), found.name.as_str()), ("github", "GitHub"));
        assert_eq!((found.tier, found.dialect), (Tier::Local, Dialect::OpenApi));
        assert_eq!(found.peers[0].to_string(), "http://mcp-github:8000");
        let credential = found.credential.unwrap();
        assert_eq!(credential.name, "authorization");
        assert_eq!(credential.value.expose(), "Bearer k");
        assert!(credential.value.expose().is_sensitive());
        assert_eq!(found.deadlines, Deadlines::of(Duration::from_secs(5), Duration::from_secs(9)));
        assert!(found.is_enabled && found.description == "Issues");
        assert!(!server(text, &[("MCP_API_KEY", "")]).is_enabled);
    }

    #[test]
    fn what_a_table_leaves_out_comes_from_the_tier_the_id_and_the_gateway() {
        let found = read(
            "[upstream]\nread_timeout_secs = 7",
            "[servers.b]\ntier = 'stdio'\n[servers.a]\ntier = 'sse'\n[servers.c]\ntier = 'local'\nurl = ['http://x', 'http://y']",
            &[("MCPO_STDIO_URL", "http://stdio:8000/"), ("MCPO_SSE_URL", "https://sse/base")],
        )
        .unwrap();
        let shown: Vec<_> = found
            .servers
            .iter()
            .map(|server| {
                let peers: Vec<_> = server.peers.iter().map(PeerUrl::to_string).collect();
                format!("{} {} {}", server.name, peers.join("+"), server.deadlines.read.as_secs())
            })
            .collect();
        assert_eq!(shown, ["a https://sse/base/a 7", "b http://stdio:8000/b 7", "c http://x+http://y 7"]);
    }

    #[test]
    fn a_credential_without_its_variable_is_a_problem_only_where_the_server_is_on() {
        let text = |enabled: &str| {
            format!(
                "[servers.x]\ntier = 'local'\nurl = 'http://h'\nenabled = {enabled}\n\
                 credential = {{ header = 'X-Key', env = 'KEY' }}"
            )
        };
        let unset = "s:5: server `x` needs `KEY`, which is not set\n  \
             hint: set it, or say `enabled = \"auto\"` to have the server on only when it is set";
        check("", &text("true"), &[], unset);
        check("", &text("'yes'"), &[("KEY", "")], unset);
        check("", &text("false"), &[], "");
        check("", &text("'auto'"), &[], "");
        assert!(server(&text("'auto'"), &[("KEY", "v")]).is_enabled);
        let off = server(&text("false"), &[("KEY", "v")]);
        assert!(!off.is_enabled && off.credential.unwrap().value.expose() == "v");
        check(
            "",
            &text("true"),
            &[("KEY", "v\n")],
            "s:5: server `x` cannot send `KEY` in a header: it has a line break, an outer space or a control \
             character\n  hint: set it without those",
        );
    }

    #[test]
    fn a_server_is_on_by_itself_when_every_variable_it_names_is_set() {
        let text = |enabled: &str, more: &str| {
            format!(
                "[servers.x]\ntier = 'local'\nurl = '${{MCP_X_URL:-http://h}}'\nenabled = {enabled}\n\
                 requires = ['MCP_X_URL', 'REGION']\n{more}"
            )
        };
        let credential = "credential = { header = 'X-Key', env = 'KEY' }";
        let (url, region, key) = (("MCP_X_URL", "http://i"), ("REGION", "eu"), ("KEY", "v"));
        for (more, pairs, is_on) in [
            ("", &[][..], false),
            ("", &[url][..], false),
            ("", &[url, ("REGION", "")][..], false),
            ("", &[url, region][..], true),
            (credential, &[url, region][..], false),
            (credential, &[key][..], false),
            (credential, &[url, region, key][..], true),
        ] {
            assert_eq!(server(&text("'auto'", more), pairs).is_enabled, is_on, "{more} {pairs:?}");
            assert!(!server(&text("false", more), pairs).is_enabled, "{more} {pairs:?}");
        }
        let unset = "s:5: server `x` needs `REGION`, which is not set\n  \
             hint: set it, or say `enabled = \"auto\"`";
        check("", &text("true", ""), &[url], unset);
        assert!(server(&text("true", ""), &[url, region]).is_enabled);
        check(
            "",
            "[servers.x]\ntier = 'local'\nurl = 'http://h'\nrequires = ['pasted_key']\n\
             [servers.y]\ntier = 'local'\nurl = 'http://h'\nrequires = ['http://h']",
            &[],
            "s:4: server `x` needs a variable of its `requires`, which is not set\n  \
             hint: set it, or say `enabled = \"auto\"`\n\
             s:8: `servers.y.requires` must hold names of variables, not values\n  \
             hint: a variable that only has to be set: `requires = [\"MCP_GITHUB_URL\"]`",
        );
    }

    #[test]
    fn a_credential_names_a_header_of_its_own_and_a_variable() {
        check(
            "",
            "[servers.a]\ntier = 'local'\nurl = 'http://h'\ncredential = {}\n\
             [servers.b]\ntier = 'local'\nurl = 'http://h'\ncredential.header = 'Content-Length'\ncredential.env = 'a-b'\n\
             [servers.c]\ntier = 'local'\nurl = 'http://h'\nenabled = 'auto'\n\
             [servers.d]\ntier = 'local'\nurl = 'http://h'\n\
             credential = { header = 'a b', scheme = 'Be arer', env = '${K}', value = 'x' }",
            &[("K", "VALUE")],
            "s:4: server `a` has a `credential` without `header`\n  hint: add `header = \"Authorization\"`\n\
             s:4: server `a` has a `credential` without `env`\n  hint: add `env = \"MCP_API_KEY\"`\n\
             s:8: `servers.b.credential.header` names a header that belongs to the connection or the message\n  \
             hint: a credential usually goes into `Authorization`\n\
             s:9: `servers.b.credential.env` must be the name of a variable, not its value\n  \
             hint: put the value into the environment: `env = \"MCP_API_KEY\"`\n\
             s:13: server `c` has `enabled = \"auto\"` but names no variable\n  \
             hint: add a `credential`, or `requires = [\"MCP_…_URL\"]`, or say `true` or `false`\n\
             s:17: `servers.d.credential.header` must be the name of a header\n\
             s:17: `servers.d.credential.scheme` must be one word like `Bearer`\n  \
             hint: the secret itself goes into `env`\n\
             s:17: `servers.d.credential.env` must be the name of a variable, not its value\n  \
             hint: put the value into the environment: `env = \"MCP_API_KEY\"`\n\
             s:17: `servers.d.credential.value` is not a known key\n  \
             hint: known here: `env`, `file`, `header`, `key_name`, `scheme`",
        );
    }

    #[test]
    fn a_server_that_cannot_be_reached_is_refused() {
        check(
            "",
            "[servers.a]\n[servers.b]\ntier = 'stdoi'\n[servers.c]\ntier = 'sse'\n[servers.d]\ntier = 'local'\n\
             url = ['http://h', 'http://h/']\n[servers.e]\ntier = 'local'\nurl = ['http://h', 'h', 7]\n\
             [servers.health]\ntier = 'local'\nurl = []\n[servers.g]\ntier = 'stdio'\ndialect = 'mcp-see'\nenabled = 2\n\
             [servers.h]\ntier = 'local'\nurl = 'http://h'\nname = ' '\ndescription = \"a\\nb\"\nrl = 1",
            &[("MCPO_SSE_URL", "mcpo:8000")],
            "s:1: server `a` has no `tier`\n  \
             hint: add `tier = \"http\"`, `\"sse\"`, `\"stdio\"` or `\"local\"`\n\
             s:3: `servers.b.tier` must be `http`, `sse`, `stdio` or `local`\n  hint: did you mean `stdio`?\n\
             s:4: server `c` has no `url`, and the one from `MCPO_SSE_URL` must begin with `http://` or `https://`\n  \
             hint: set `MCPO_SSE_URL` to `http://host:port`, or add a `url`\n\
             s:8: server `d` has the same address twice in `url`\n  hint: name each peer once\n\
             s:11: `servers.e.url` must begin with `http://` or `https://`\n\
             s:11: `servers.e.url` must be a string, not an integer\n  hint: put it in quotes\n\
             s:12: a server cannot be called `health`: this server id is a path of the gateway itself\n  \
             hint: choose another name; people see `name`, grants and paths use this one\n\
             s:14: `servers.health.url` must not be empty\n\
             s:17: `servers.g.dialect` must be `openapi`, `mcp` or `mcp-sse`\n\
             s:18: `servers.g.enabled` must be a boolean, not an integer\n  hint: write `true` or `false`\n\
             s:22: `servers.h.name` must not be empty\n  hint: leave it out to use the server's id\n\
             s:23: `servers.h.description` must be one line without control characters\n\
             s:24: `servers.h.rl` is not a known key\n  hint: did you mean `url`?",
        );
    }

    #[test]
    fn the_address_of_a_server_that_speaks_mcp_stays_as_it_is_written() {
        for (keys, url, expected) in [
            ("tier = 'http'", "https://mcp.linear.app/mcp", "https://mcp.linear.app/mcp"),
            ("tier = 'http'", "https://h/mcp/", "https://h/mcp/"),
            ("tier = 'http'", "https://h", "https://h/"),
            ("tier = 'http'", "https://h/", "https://h/"),
            ("tier = 'sse'\ndialect = 'mcp-sse'", "http://h/sse/", "http://h/sse/"),
            ("tier = 'http'\ndialect = 'openapi'", "https://h/mcp/", "https://h/mcp"),
            ("tier = 'local'", "http://h/", "http://h"),
        ] {
            let found = server(&format!("[servers.x]\n{keys}\nurl = '{url}'"), &[]);
            assert_eq!(found.peers[0].to_string(), expected, "{keys} {url}");
        }
        let doubled = "[servers.x]\ntier = 'http'\nurl = 'https://h/mcp//'";
        check("", doubled, &[], "s:3: `servers.x.url` has a path with an empty, `.` or `..` segment");
    }

    #[test]
    fn the_address_of_an_mcp_server_never_comes_from_the_variables_for_mcpo() {
        let pairs = [("MCPO_SSE_URL", "http://mcpo:8000"), ("MCPO_STDIO_URL", "http://mcpo:8001")];
        for dialect in ["mcp", "mcp-sse"] {
            check(
                "",
                &format!("[servers.x]\ntier = 'sse'\ndialect = '{dialect}'"),
                &pairs,
                "s:1: server `x` has tier `sse` but no `url`\n  hint: add `url = \"http://…\"`",
            );
        }
    }

    #[test]
    fn a_server_speaks_the_revisions_its_table_says_or_is_asked() {
        let text = |dialect: &str, versions: &str| {
            format!("[servers.x]\ntier = 'local'\nurl = 'http://h'\ndialect = '{dialect}'\n{versions}")
        };
        let versions = |text: &str| server(text, &[]).mcp_versions.map(|versions| versions.to_vec());
        assert_eq!(versions(&text("mcp", "")), None);
        let mixed = "mcp_versions = ['2026-07-28', '2025-03-26', '2026-07-28']";
        let oldest_first = [ProtocolVersion::V2025_03_26, ProtocolVersion::V2026_07_28];
        assert_eq!(versions(&text("mcp", mixed)).unwrap(), oldest_first);
        let one = "mcp_versions = '2024-11-05'";
        assert_eq!(versions(&text("mcp-sse", one)).unwrap(), [ProtocolVersion::V2024_11_05]);
        for (dialect, keys, problem) in [
            (
                "openapi",
                one,
                "server `x` has `mcp_versions`, but speaks `openapi`\n  \
                 hint: leave it out, or say `dialect = \"mcp\"`",
            ),
            (
                "mcp-sse",
                mixed,
                "server `x` speaks `mcp-sse`, which `2026-07-28` does not have\n  \
                 hint: leave it out, or say `dialect = \"mcp\"`",
            ),
            (
                "mcp",
                "mcp_versions = ['2025-11-26']",
                "`servers.x.mcp_versions` must hold revisions of MCP: `2024-11-05`, `2025-03-26`, `2025-06-18`, \
                 `2025-11-25`, `2026-07-28`",
            ),
            ("mcp", "mcp_versions = []", "`servers.x.mcp_versions` must not be empty"),
        ] {
            check("", &text(dialect, keys), &[], &format!("s:5: {problem}"));
        }
    }

    #[test]
    fn lists_are_read_with_a_credential_of_their_own_where_one_is_configured() {
        let text = |enabled: &str| {
            format!(
                "[servers.x]\ntier = 'http'\nurl = 'https://h/mcp'\nenabled = {enabled}\n\
                 credential = {{ header = 'X-Key', env = 'KEY' }}\n\
                 discovery_credential = {{ header = 'Authorization', scheme = 'Bearer', env = 'LISTS' }}"
            )
        };
        let found = server(&text("true"), &[("KEY", "k"), ("LISTS", "l")]).discovery_credential.unwrap();
        assert_eq!(
            (found.name.as_str(), found.value.expose().to_str().unwrap()),
            ("authorization", "Bearer l")
        );
        let unset = "s:6: server `x` needs `LISTS`, which is not set\n  \
             hint: set it, or leave `discovery_credential` out to read lists with `credential`";
        check("", &text("true"), &[("KEY", "k")], unset);
        check("", &text("'auto'"), &[("KEY", "k")], unset);
        check("", &text("'auto'"), &[], "");
        check(
            "",
            "[servers.x]\ntier = 'http'\nurl = 'https://h/mcp'\ndiscovery_credential = { env = 'K' }",
            &[("K", "k")],
            "s:4: server `x` has a `discovery_credential` without `header`\n  \
             hint: add `header = \"Authorization\"`",
        );
    }

    #[test]
    fn tools_are_pinned_where_the_server_or_else_the_gateway_says_so() {
        let text = |more: &str| format!("[servers.x]\ntier = 'local'\nurl = 'http://h'\n{more}");
        let pinned =
            |gateway: &str, server: &str| read(gateway, &text(server), &[]).unwrap().servers[0].is_pinned;
        assert!(!pinned("", "") && pinned("", "pin = true"));
        assert!(pinned("[catalog]\npin = true", "") && !pinned("[catalog]\npin = true", "pin = false"));
    }

    #[test]
    fn callers_share_a_session_unless_a_server_of_mcp_says_otherwise() {
        let text = |dialect: &str, key: &str| {
            format!("[servers.x]\ntier = 'local'\nurl = 'http://h'\ndialect = '{dialect}'\n{key}")
        };
        assert!(server(&text("mcp", ""), &[]).is_session_shared);
        assert!(!server(&text("mcp", "share_session = false"), &[]).is_session_shared);
        check(
            "",
            &text("openapi", "share_session = false"),
            &[],
            "s:5: server `x` has `share_session`, but speaks `openapi`\n  \
             hint: leave it out, or say `dialect = \"mcp\"`",
        );
    }

    #[test]
    fn a_credential_that_travels_in_the_clear_is_warned_about() {
        let text = |url: &str, enabled: &str| {
            format!(
                "[servers.x]\ntier = 'local'\nurl = ['https://mcp.example.com/a', '{url}']\nenabled = {enabled}\n\
                 credential = {{ header = 'X-Key', env = 'KEY' }}"
            )
        };
        let warning = "s:3: server `x` is sent its credential over plain `http` to a public address, where others can read it\n  \
             hint: write `https://…`, or put the server into a private network";
        let key = [("KEY", "v")];
        for url in ["http://mcp.example.com", "http://192.0.2.1", "http://[2001:db8::1]:8000"] {
            check("", &text(url, "true"), &key, warning);
            check("", &text(url, "false"), &key, "");
            check("", &text(url, "'auto'"), &[], "");
        }
        for url in [
            "https://mcp.example.com/b",
            "http://localhost:81",
            "http://127.0.0.1:81",
            "http://10.1.2.3",
            "http://172.31.0.1",
            "http://192.168.1.1",
            "http://100.64.0.1",
            "http://169.254.0.1",
            "http://[::1]",
            "http://[fd00::1]",
            "http://[fe80::1]",
            "http://[::ffff:10.0.0.1]",
            "http://mcp_github:8000",
            "http://mcp.tools.svc.cluster.local",
            "http://mcp.tools.svc",
            "http://mcp.corp.internal",
        ] {
            check("", &text(url, "true"), &key, "");
        }
        check("", "[servers.x]\ntier = 'local'\nurl = 'http://mcp.example.com'", &[], "");
    }

    #[test]
    fn a_server_at_an_address_of_the_gateway_itself_is_refused() {
        let refused = |gateway: &str, url: &str, key: &str| {
            let sentence = format!(
                "s:3: server `x` is at `listen.{key}`, so the gateway would call itself\n  \
                 hint: name the address where the server listens"
            );
            check(gateway, &format!("[servers.x]\ntier = 'local'\nurl = '{url}'"), &[], &sentence);
        };
        let accepted = |gateway: &str, url: &str| {
            check(gateway, &format!("[servers.x]\ntier = 'local'\nurl = '{url}'"), &[], "");
        };
        for host in ["127.0.0.1", "127.0.0.2", "0.0.0.0", "localhost", "LocalHost", "[::ffff:127.0.0.1]"] {
            refused("", &format!("http://{host}:8000/x"), "http");
            accepted("", &format!("http://{host}:8001"));
        }
        refused("", "http://localhost:9090", "ops");
        refused("[listen]\nhttp = '[::]:8000'", "http://[::1]:8000", "http");
        refused("[listen]\nhttp = '[::]:8000'", "http://127.0.0.1:8000", "http");
        refused("[listen]\nhttp = '10.0.0.1:80'", "http://10.0.0.1", "http");
        refused("[listen]\nhttp = '[::1]:80'", "http://[::]", "http");
        accepted("", "http://mcp-github:8000");
        accepted("", "http://10.0.0.1:8000");
        accepted("", "http://[::1]:8000");
        accepted("", "http://127.0.0.2:9090");
        accepted("[listen]\nhttp = '10.0.0.1:8000'", "http://127.0.0.1:8000");
    }
}
