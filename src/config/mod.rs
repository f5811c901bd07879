//! What the operator tells the gateway: two files and the environment in, one checked value out.
//!
//! Decides whether a configuration can work at all, and reports everything that is wrong with it at
//! once. Never changes a file and never opens a connection. Every module owns its `Settings`; this
//! one gathers them, before the journey of the first request.

mod audit;
mod auth;
mod entra;
mod env;
mod fixed;
mod gateway_file;
mod gateway_headers;
mod limits;
mod listen;
mod listener_tls;
mod oauth;
mod openwebui;
mod problems;
mod reader;
mod server_care;
mod server_credential;
mod server_launch;
mod servers_file;
mod traces;
mod urls;
mod wording;
mod written;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub use env::{Environment, command_line};
pub use fixed::FIXED;
pub use problems::{Places, Problem, Problems};
pub use written::{Differences, Files, Written};

use crate::{access, catalog, gateway, identity, limit, record, store, upstream::allowed::AllowedHosts};
use gateway_file::GatewayFile;
use problems::Findings;
use reader::{File, Read};
use servers_file::FromGateway;

/// A configuration without problems: everything the gateway is told by its operator.
#[derive(Debug, Clone)]
pub struct Config {
    /// The listeners.
    pub gateway: gateway::Settings,
    /// Where some of its keys stand.
    pub places: Places,
    /// The database of grants.
    pub store: store::Settings,
    /// The believed credentials.
    pub identity: identity::Settings,
    /// The rules of access.
    pub access: access::Settings,
    /// How much is too much.
    pub limits: limit::Settings,
    /// Keeping tool lists.
    pub catalog: catalog::Settings,
    /// Logs.
    pub record: record::Settings,
    /// The audit.
    pub audit: record::audit::Settings,
    /// Where groups may have servers of their own.
    pub allowed_hosts: AllowedHosts,
    /// Who is asked for the names of servers; the system's name servers, where nobody is named.
    pub nameservers: Vec<std::net::SocketAddr>,
    /// The servers.
    pub servers: Vec<catalog::server::Server>,
    /// Whether the files are watched, and changes in them taken over.
    pub is_watched: bool,
    /// What works but is probably not meant, each as `FILE:LINE: sentence` with a hint.
    pub warnings: Vec<String>,
}

/// What `run` and `check` say when no credential is believed; commands that serve nobody go on.
pub const NOBODY_COULD_CALL: &str = "no credential is believed, so nobody could ever call\n  \
     hint: set `WEBUI_SECRET_KEY`, or add `[auth.service_keys.NAME]` with a `key` to gateway.toml";

/// What `run` and `check` say when MCP sessions are sealed with a key that nobody else has.
const SESSIONS_END_WITH_US: &str = "`mcp.session_keys` is empty, so MCP sessions end with this process and other \
     replicas do not know them\n  hint: set `PORTCULLIS_SESSION_KEY` to the same value everywhere; \
     `openssl rand -hex 32` makes one";

impl Config {
    /// What to know where there is nothing to call.
    pub fn servers_remark(&self) -> Option<&'static str> {
        self.servers
            .is_empty()
            .then_some("servers.toml has no server, so there is nothing that anybody could call")
    }

    /// What to know about MCP sessions, where a server has them.
    pub fn sessions_remark(&self) -> Option<&'static str> {
        let has_sessions = self.servers.iter().any(|server| server.is_enabled && server.dialect.is_mcp());
        (has_sessions && self.gateway.mcp.session_keys.is_empty()).then_some(SESSIONS_END_WITH_US)
    }
}

/// A text and the name that messages about it begin with.
#[derive(Debug, Clone, Copy)]
pub struct Named<'t> {
    /// The name, usually a path.
    pub name: &'t str,
    /// The text, in TOML.
    pub text: &'t str,
}

/// What stood in a folder.
#[derive(Debug)]
pub struct Loaded {
    /// The files it was read from, good or bad: the two of the folder, and those that they name.
    pub files: Vec<PathBuf>,
    /// The keys that are set.
    pub written: Written,
    /// The configuration, or what is wrong with it.
    pub outcome: Result<Config, Problems>,
}

/// Reads `gateway.toml` and `servers.toml` of a folder.
pub fn load(directory: &Path, environment: &Environment) -> Result<Config, Problems> {
    load_with_files(directory, environment).outcome
}

/// Reads `gateway.toml` and `servers.toml` of a folder, and says what was read.
pub fn load_with_files(directory: &Path, environment: &Environment) -> Loaded {
    let findings = Findings::default();
    let read = |file: &str| {
        let path = directory.join(file);
        let text = read_text(&path, &findings);
        findings.note_file(path.clone());
        (path.display().to_string(), text)
    };
    let (gateway, servers) = (read("gateway.toml"), read("servers.toml"));
    let text = |read: &Read<String>| read.as_deref().unwrap_or_default().to_owned();
    let written = Written::of(&text(&gateway.1), &text(&servers.1));
    let files = findings.files.clone();
    let outcome = check(named(&gateway), named(&servers), environment, findings);
    let files = files.take();
    Loaded { files, written, outcome }
}

/// Reads the two files from texts.
pub fn from_texts(
    gateway: Named<'_>,
    servers: Named<'_>,
    environment: &Environment,
) -> Result<Config, Problems> {
    check(Ok(gateway), Ok(servers), environment, Findings::default())
}

/// Reads the address of a database that is given on the command line; a Python driver in its scheme is left out.
///
/// The sentence says what is wrong with it, and nothing of what it is.
pub fn database_address(text: &str) -> Result<store::DatabaseUrl, String> {
    let text = match text.split_once("://") {
        Some((scheme, rest)) if scheme.starts_with("postgres") && scheme.contains('+') => {
            format!("{}://{rest}", scheme.split('+').next().unwrap_or(scheme))
        }
        _ => text.to_owned(),
    };
    urls::database(&text).map_err(|complaint| match complaint.hint {
        Some(hint) => format!("{}; {hint}", complaint.sentence),
        None => complaint.sentence,
    })
}

fn named((name, text): &(String, Read<String>)) -> Read<Named<'_>> {
    text.as_deref().map(|text| Named { name, text }).map_err(|reported| *reported)
}

fn check(
    gateway: Read<Named<'_>>,
    servers: Read<Named<'_>>,
    environment: &Environment,
    findings: Findings,
) -> Result<Config, Problems> {
    let config = gather(gateway, servers, environment, &findings);
    let (config, warnings) = findings.conclude(config)?;
    Ok(Config { warnings, ..config })
}

fn gather(
    gateway: Read<Named<'_>>,
    servers: Read<Named<'_>>,
    environment: &Environment,
    findings: &Findings,
) -> Read<Config> {
    let file = |Named { name, text }| File { name, text, environment, findings };
    let gateway = gateway.and_then(|named| file(named).read(gateway_file::read));
    // Servers are checked even where the other file is wrong, so that nobody mends one, then the other.
    let from_gateway = match &gateway {
        Ok(GatewayFile { gateway, upstream, is_pinned, running, .. }) => FromGateway {
            deadlines: *upstream,
            running: *running,
            is_pinned: *is_pinned,
            listeners: vec![("listen.http", gateway.http), ("listen.ops", gateway.ops)],
        },
        Err(_) => FromGateway {
            deadlines: gateway_file::DEFAULT_DEADLINES,
            running: limits::RUNNING,
            is_pinned: false,
            listeners: Vec::new(),
        },
    };
    let servers = servers.and_then(|named| file(named).read(|root| servers_file::read(root, &from_gateway)));
    let GatewayFile {
        gateway,
        places,
        store,
        identity,
        access,
        limits,
        catalog,
        record,
        audit,
        allowed_hosts,
        nameservers,
        is_watched,
        ..
    } = gateway?;
    let servers = servers?;
    let warnings = Vec::new();
    Ok(Config {
        gateway,
        places,
        store,
        identity,
        access,
        limits,
        catalog,
        record,
        audit,
        allowed_hosts,
        nameservers,
        servers,
        is_watched,
        warnings,
    })
}

fn read_text(path: &Path, findings: &Findings) -> Read<String> {
    let (line, sentence, hint) = match fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => return Ok(text),
            Err(error) => {
                let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
                (Some(line), "this is not UTF-8".to_owned(), None)
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let hint = "name the folder that has it with `--config DIR`";
            (None, "there is no such file".to_owned(), Some(hint.to_owned()))
        }
        Err(error) => (None, format!("this cannot be read: {error}"), None),
    };
    Err(findings.problem(Problem { file: path.display().to_string(), line, sentence, hint }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const GATEWAY: &str = include_str!("../../conf/gateway.toml");
    const SERVERS: &str = include_str!("../../conf/servers.toml");
    const README: &str = include_str!("../../conf/README.md");
    const SESSION_SECRET: (&str, &str) = ("WEBUI_SECRET_KEY", "a-session-secret-of-the-test");

    /// Both files as `g` and `s`, with a session secret, so that a text under test can stand alone.
    pub(super) fn read(gateway: &str, servers: &str, pairs: &[(&str, &str)]) -> Result<Config, String> {
        let environment = Environment::from_pairs([SESSION_SECRET].iter().chain(pairs).copied());
        let (gateway, servers) = (Named { name: "g", text: gateway }, Named { name: "s", text: servers });
        from_texts(gateway, servers, &environment).map_err(|problems| problems.to_string())
    }

    /// Compares all problems of the two texts, or the warnings where there is no problem.
    #[track_caller]
    pub(super) fn check(gateway: &str, servers: &str, pairs: &[(&str, &str)], expected: &str) {
        let found = read(gateway, servers, pairs)
            .map_or_else(|problems| problems, |config| config.warnings.join("\n"));
        assert_eq!(found, expected, "\n--- found\n{found}\n--- expected\n{expected}");
    }

    /// The example tables, which are comments without a space after `#`.
    fn with_examples(text: &str) -> String {
        let uncomment = |line: &str| match line.strip_prefix('#') {
            Some(example) if !example.is_empty() && !example.starts_with(' ') => example.to_owned(),
            _ => line.to_owned(),
        };
        text.lines().map(uncomment).collect::<Vec<_>>().join("\n")
    }

    fn known_keys(gateway: &str, servers: &str, environment: &Environment) -> BTreeMap<String, bool> {
        let findings = Findings::default();
        let (gateway, servers) = (Named { name: "g", text: gateway }, Named { name: "s", text: servers });
        let config = gather(Ok(gateway), Ok(servers), environment, &findings);
        let known = findings.known.take();
        findings.conclude(config).unwrap();
        known
    }

    #[test]
    fn the_shipped_gateway_file_says_what_an_empty_one_means() {
        let shipped = read(GATEWAY, "", &[]).unwrap();
        let empty = read("", "", &[]).unwrap();
        assert_eq!(format!("{shipped:?}"), format!("{empty:?}"));
        let secret = |config: &Config| config.identity.sessions.clone().unwrap().secret;
        assert_eq!(secret(&shipped), secret(&empty));
    }

    #[test]
    fn the_shipped_gateway_file_has_every_known_key() {
        let environment = Environment::from_pairs([
            ("OPENWEBUI_SERVICE_KEY", "sixteen-characters-at-least"),
            ("NIGHTLY_KEY_SHA256", "00".repeat(32).as_str()),
            ("FORWARD_USER_INFO_HEADER_JWT_SECRET", "a-secret-for-forwarded-users"),
        ]);
        let known = known_keys(&with_examples(GATEWAY), "", &environment);
        let mut written = BTreeMap::new();
        for (key, is_written) in known.iter().filter(|(key, _)| *key != "servers") {
            let key = key.replace(".openwebui.", ".NAME.").replace(".nightly.", ".NAME.");
            *written.entry(key).or_insert(false) |= is_written;
        }
        let missing: Vec<_> = written.iter().filter(|(_, is_written)| !**is_written).collect();
        assert!(missing.is_empty(), "conf/gateway.toml lacks {missing:?}");
        assert!(written.len() > 50, "only {} keys were asked for", written.len());
    }

    #[test]
    fn every_key_of_the_shipped_gateway_file_has_a_comment() {
        let text = with_examples(GATEWAY);
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.windows(2) {
            assert!(!pair[1].contains(" = ") || pair[0].starts_with("# "), "no comment above {:?}", pair[1]);
        }
    }

    /// What operators of the gateway before this one have grants for.
    const KNOWN_SERVERS: &str = "linear notion hubspot pulumi gitlab github-remote sentry datadog grafana snowflake \
         dbt slack snyk atlassian asana sonarqube clickup trello airtable monday terraform kubernetes docker \
         postgresql-mcp mongodb mysql bigquery google-drive onedrive sharepoint teams zoom git bitbucket jenkins segment \
         fivetran new-relic splunk github filesystem excel dashboard";

    #[test]
    fn the_shipped_servers_are_off_without_a_word_until_their_variables_are_set() {
        let config = read(GATEWAY, SERVERS, &[]).unwrap();
        let ids: Vec<_> = config.servers.iter().map(|server| server.id.as_str()).collect();
        assert!(ids.len() >= 70, "{}", ids.len());
        let missing: Vec<_> = KNOWN_SERVERS.split_whitespace().filter(|id| !ids.contains(id)).collect();
        assert!(missing.is_empty(), "conf/servers.toml lacks {missing:?}");
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        let on = |pairs: &[(&str, &str)]| {
            let servers = read(GATEWAY, SERVERS, pairs).unwrap().servers;
            let on = servers.iter().filter(|server| server.is_enabled).map(|server| server.id.to_string());
            on.collect::<Vec<_>>()
        };
        assert_eq!(on(&[]), [""; 0]);
        assert_eq!(on(&[("LINEAR_API_KEY", "k")]), ["linear"]);
        assert_eq!(on(&[("MCP_GIT_URL", "http://127.0.0.1:1")]), [""; 0], "its peer wants the key");
        assert_eq!(on(&[("MCP_API_KEY", "k"), ("MCP_GIT_URL", "http://127.0.0.1:1")]), ["git"]);
        assert_eq!(on(&[("MCP_DEEPWIKI_URL", "https://mcp.deepwiki.com/mcp")]), ["deepwiki"]);
    }

    #[test]
    fn every_shipped_server_says_what_it_is_and_every_variable_switches_it_on() {
        let variables: Vec<&str> = SERVERS
            .lines()
            .filter(|line| line.starts_with("credential") || line.starts_with("requires"))
            .flat_map(|line| line.split('"'))
            .filter(|word| word.contains('_') && word.bytes().all(|byte| !byte.is_ascii_lowercase()))
            .collect();
        let pairs: Vec<_> = variables
            .into_iter()
            .map(|name| (name, if name.ends_with("_URL") { "https://h" } else { "k" }))
            .collect();
        let config = read(GATEWAY, SERVERS, &pairs).unwrap();
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        for server in &config.servers {
            assert!(server.is_enabled, "{} stays off", server.id);
            assert!(!server.description.is_empty() && server.name != server.id.as_str(), "{}", server.id);
        }
    }

    #[test]
    fn the_readme_names_every_key_of_a_server_and_its_example_loads() {
        let (_, after) = README.split_once("```toml\n").unwrap();
        let (example, _) = after.split_once("```").unwrap();
        assert!(example.lines().count() <= 6);
        let environment = Environment::from_pairs([SESSION_SECRET, ("MCP_API_KEY", "k")]);
        for key in known_keys("", example, &environment).keys().filter(|key| key.starts_with("servers.")) {
            let last = key.rsplit('.').next().unwrap();
            assert!(last == "github" || README.contains(&format!("`{last}`")), "conf/README.md lacks {key}");
        }
    }

    #[test]
    fn problems_of_both_files_are_reported_at_once() {
        check(
            "[listen]\nhttp = 'nowhere'\n[lisen]\n[database]\nschema = 'A'",
            "[servers.x]\ntier = 'stdio'",
            &[],
            "g:2: `listen.http` must be `IP:PORT` with a port from 1 to 65535\n  \
             hint: write `0.0.0.0:PORT` for all interfaces, `127.0.0.1:PORT` for this machine alone\n\
             g:3: `lisen` is not a known key\n  hint: did you mean `listen`?\n\
             g:5: `database.schema` must be 1 to 63 of `a-z`, `0-9`, `_`, not beginning with a digit\n\
             s:1: server `x` has tier `stdio` but no `url`\n  \
             hint: add `url = \"http://…\"`, or set `MCPO_STDIO_URL`",
        );
    }

    #[test]
    fn a_file_that_is_not_toml_does_not_hide_the_other() {
        check(
            "[listen\n",
            "[servers.x]\ntier = 'local'",
            &[],
            "g:1: this is not TOML: unclosed table, expected `]`\n\
             s:1: server `x` has tier `local` but no `url`\n  hint: add `url = \"http://…\"`",
        );
        check(
            "[access]\nconceal = 'maybe'",
            "[servers.x]\n[servers.x]",
            &[],
            "g:2: `access.conceal` must be `true` or `false`\ns:2: this is not TOML: duplicate key",
        );
    }

    #[test]
    fn files_that_are_missing_or_not_text_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |file: &str| folder.path().join(file).display().to_string();
        let missing = "there is no such file\n  hint: name the folder that has it with `--config DIR`";
        let problems = load(folder.path(), &Environment::default()).unwrap_err();
        let expected = format!("{}: {missing}\n{}: {missing}", path("gateway.toml"), path("servers.toml"));
        assert_eq!(problems.to_string(), expected);
        assert_eq!(problems.len(), 2);

        fs::write(path("gateway.toml"), b"\n# \xff").unwrap();
        fs::create_dir(path("servers.toml")).unwrap();
        let problems = load(folder.path(), &Environment::default()).unwrap_err().to_string();
        assert!(problems.contains("gateway.toml:2: this is not UTF-8\n"), "{problems}");
        assert!(problems.contains("servers.toml: this cannot be read: "), "{problems}");
    }

    #[test]
    fn a_folder_loads_like_its_texts() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("gateway.toml"), GATEWAY).unwrap();
        fs::write(folder.path().join("servers.toml"), SERVERS).unwrap();
        let loaded = load(folder.path(), &Environment::from_pairs([SESSION_SECRET])).unwrap();
        assert_eq!(format!("{loaded:?}"), format!("{:?}", read(GATEWAY, SERVERS, &[]).unwrap()));
    }

    #[test]
    fn no_secret_is_in_a_config_that_is_printed_or_in_a_problem() {
        let gateway = "[auth.openwebui]\nsecret = 'hunter2'\nforward_jwt_secret = 'hunter2-and-some-more'\n\
             database_url = 'postgres://u:hunter2@h/db'\nredis_url = 'redis://:hunter2@h'\n[database]\nurl = 'postgres://u:hunter2@h/db'\n\
             [auth.service_keys.a]\nkey = 'hunter2-hunter2-hunter2'\nmay_vouch = true\n";
        let servers = "[servers.x]\ntier = 'local'\nurl = 'http://h'\n\
             credential = { header = 'authorization', scheme = 'Bearer', env = 'KEY' }";
        let config = read(gateway, servers, &[("KEY", "hunter2")]).unwrap();
        assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
        assert!(!format!("{config:?}{config:#?}").contains("hunter2"), "{config:#?}");

        let bad_gateway = "[listen]\nhttp = '${KEY}'\nthreads = '${KEY}'\n[database]\nurl = 'mysql://u:hunter2@h'\n\
             schema = 'hunter2 '\n[log]\nfilter = 'a=hunter2'\naccess = 'hunter2'\n[cors]\norigins = ['hunter2']\n\
             [auth.openwebui]\ndatabase_url = 'postgres://u:hunter2@'\nredis_url = 'redis://:hunter2@'\n\
             [auth.gateway]\nshared_secret = ['hunter2']\n[auth.entra]\ntenant_id = 'hunter2'\n\
             [auth.service_keys.a]\nkey = 'hunter2 '\nkey_sha256 = 'hunter2'\ngroups = [' hunter2']\n\
             [mcp]\nsession_keys = ['hunter2']";
        let bad_servers = "[servers.x]\ntier = 'hunter2'\ndialect = 'hunter2'\nurl = 'http://u:hunter2@h?hunter2'\n\
             enabled = 'hunter2'\nname = \"hunter2\\n\"\ncredential = { header = 'hunter2 ', scheme = 'hunter2 2', env = 'hunter2' }\n\
             [servers.y]\ntier = 'local'\nurl = 'http://h'\n\
             credential = { header = 'a', scheme = 'b', env = 'hunter2' }";
        let problems = read(bad_gateway, bad_servers, &[("KEY", "hunter2")]).unwrap_err();
        assert!(!problems.contains("hunter2"), "{problems}");
        let count = problems.lines().filter(|line| !line.starts_with(' ')).count();
        assert_eq!(count, 23, "every one of the bad values is reported\n{problems}");
    }

    #[test]
    fn deep_nesting_is_refused_without_exhausting_the_stack() {
        for text in [
            format!("a = {}", "[".repeat(200_000)),
            format!("a = {}", "{a = ".repeat(200_000)),
            format!("[{}a]", "a.".repeat(200_000)),
        ] {
            assert!(read(&text, &text, &[]).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_the_loader(gateway in any::<String>(), servers in any::<String>(), value in any::<String>()) {
            let _ = read(&gateway, &servers, &[("A", &value)]);
        }

        #[test]
        fn no_value_panics_the_loader(value in "([a-z]{0,5}|[0-9.:\\[\\]/@?#*-]|://|sqlite:|postgres://|\\$|\\{A|\\}|\u{e9}|\u{0}| ){0,8}") {
            let quoted = toml::Value::String(value.clone()).to_string();
            for key in ["listen.http", "database.url", "database.schema", "auth.openwebui.secret", "access.admin_group",
                "log.filter", "listen.threads", "auth.service_keys.a.key", "auth.service_keys.a.key_sha256"] {
                let _ = read(&format!("{key} = {quoted}\n[cors]\norigins = [{quoted}]"), "", &[("A", &value)]);
            }
            let servers = format!("[servers.{quoted}]\n[servers.x]\ntier = {quoted}\nurl = {quoted}\nenabled = {quoted}\n\
                credential = {{ header = {quoted}, scheme = {quoted}, env = {quoted} }}\n\
                [servers.y]\ntier = 'local'\nurl = 'http://h'\ncredential = {{ header = 'a', env = 'A' }}");
            let _ = read("", &servers, &[("A", &value)]);
        }

        #[test]
        fn a_reference_is_replaced_by_exactly_its_value(value in any::<String>()) {
            let environment = Environment::from_pairs([("A", value.as_str())]);
            prop_assert_eq!(env::expand("<${A}>", &environment).unwrap(), format!("<{value}>"));
        }
    }
}
