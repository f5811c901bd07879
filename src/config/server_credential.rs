//! The credentials of a server: which header, and the variable that holds the secret; and the variables it waits for.
//!
//! Decides whether a credential can be sent, and whether a server with `enabled = "auto"` is on. Never shows a secret,
//! not even in a problem.

use std::{
    fs,
    path::{Path, PathBuf},
};

use http::{HeaderName, HeaderValue};

use super::{
    env,
    problems::Complaint,
    reader::{Read, Reader},
    wording::printable,
};
use crate::{
    catalog::server::{CredentialHeader, OwnCredential, Sharing},
    names::Secret,
};

/// Headers that belong to the connection or to the message, so no credential can be one of them.
const TAKEN_HEADERS: &[&str] = &[
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The largest file that holds a secret.
const LARGEST_FILE: u64 = 64 * 1024;

/// When calls are let through.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Enabled {
    /// Always.
    Yes,
    /// Never.
    No,
    /// When the variables that the server names are set.
    WhenItsVariablesAreSet,
}

impl Enabled {
    /// Reads `enabled`.
    pub(super) fn parse(text: &str) -> Result<Self, Complaint> {
        match (text, env::truth(text)) {
            ("auto", _) => Ok(Self::WhenItsVariablesAreSet),
            (_, Some(true)) => Ok(Self::Yes),
            (_, Some(false)) => Ok(Self::No),
            (_, None) => Err(Complaint::new("must be `true`, `false` or `\"auto\"`")),
        }
    }
}

/// What `credential` and `enabled` say together.
pub(super) struct Found {
    /// The credential that all share.
    pub(super) credential: Option<CredentialHeader>,
    /// How keys of groups' own are sent.
    pub(super) own: Option<OwnCredential>,
    /// Whether the server is on.
    pub(super) is_on: bool,
    /// What it waits for where it is not, as it may be shown.
    pub(super) missing: Vec<String>,
}

/// Reads `shared_credential`: for whom the credential of the configuration is used where groups bring their own.
pub(super) fn sharing(id: &str, table: &mut Reader<'_>, credential: &Read<Found>) -> Read<Sharing> {
    let sharing = table.flag_or_word("shared_credential", "", |text| match (text, env::truth(text)) {
        ("", _) => Ok(Sharing::UntilKeyed),
        (_, Some(true)) => Ok(Sharing::Always),
        (_, Some(false)) => Ok(Sharing::Never),
        (_, None) => Err(Complaint::new("must be `true` or `false`")),
    })?;
    if sharing != Sharing::UntilKeyed && matches!(credential, Ok(Found { own: None, .. })) {
        let sentence = format!("server `{}` has `shared_credential` but no `credential`", printable(id));
        return Err(table.problem("shared_credential", sentence, "add a `credential`, or leave it out"));
    }
    Ok(sharing)
}

/// The credential, and whether the server is on.
pub(super) fn credential(id: &str, table: &mut Reader<'_>, enabled: Enabled) -> Read<Found> {
    let hint = "set it, or say `enabled = \"auto\"` to have the server on only when it is set";
    let required = required(id, table, enabled);
    let header = header(id, table, "credential", enabled, hint)?;
    let required = required?;
    let of_header = header.as_ref().and_then(|header| header.missing.clone());
    let names_variable = required.is_some() || header.as_ref().is_some_and(|header| header.has_variable);
    if enabled == Enabled::WhenItsVariablesAreSet && !names_variable {
        let sentence = format!("server `{}` has `enabled = \"auto\"` but names no variable", printable(id));
        let hint = "add a `credential`, or `requires = [\"MCP_…_URL\"]`, or say `true` or `false`";
        return Err(table.problem("enabled", sentence, hint));
    }
    let missing: Vec<_> = match enabled {
        Enabled::No => Vec::new(),
        Enabled::Yes | Enabled::WhenItsVariablesAreSet => {
            required.into_iter().flatten().chain(of_header).collect()
        }
    };
    let is_on = enabled != Enabled::No && missing.is_empty();
    let Some(Header { own, value, .. }) = header else {
        return Ok(Found { credential: None, own: None, is_on, missing });
    };
    let credential = value.map(|value| CredentialHeader { name: own.header.clone(), value });
    Ok(Found { credential, own: Some(own), is_on, missing })
}

/// Which of the variables that the server waits for are not set; none where it names none.
fn required(id: &str, table: &mut Reader<'_>, enabled: Enabled) -> Read<Option<Vec<String>>> {
    let variables = table.list("requires", |text| {
        if env::is_variable_name(text) {
            return Ok(text.to_owned());
        }
        Err(Complaint::new("must hold names of variables, not values")
            .with_hint("a variable that only has to be set: `requires = [\"MCP_GITHUB_URL\"]`"))
    })?;
    let is_any = !variables.is_empty();
    let is_missing = |name: &String| table.environment().non_empty(name).is_none();
    let missing: Vec<_> = variables.into_iter().filter(is_missing).collect();
    match missing.first() {
        Some(name) if enabled == Enabled::Yes => {
            let sentence = format!(
                "server `{}` needs {}, which is not set",
                printable(id),
                shown(name, "a variable of its `requires`")
            );
            Err(table.problem("requires", sentence, "set it, or say `enabled = \"auto\"`"))
        }
        _ => {
            let named = missing.iter().map(|name| shown(name, "a variable of its `requires`"));
            Ok(is_any.then(|| named.collect()))
        }
    }
}

/// The credential that lists are read with, where that is another one; a server that is on must have it.
pub(super) fn discovery_credential(
    id: &str,
    table: &mut Reader<'_>,
    is_enabled: bool,
) -> Read<Option<CredentialHeader>> {
    let enabled = if is_enabled { Enabled::Yes } else { Enabled::No };
    let hint = "set it, or leave `discovery_credential` out to read lists with `credential`";
    let found = header(id, table, "discovery_credential", enabled, hint)?;
    Ok(found.and_then(|Header { own, value, .. }| Some(CredentialHeader { name: own.header, value: value? })))
}

/// A header as configured.
struct Header {
    own: OwnCredential,
    /// The value, where the variable is set.
    value: Option<Secret<HeaderValue>>,
    has_variable: bool,
    /// The variable, where it is not set.
    missing: Option<String>,
}

/// A header and its value; `hint` says what to do about a variable that is not set.
fn header(
    id: &str,
    table: &mut Reader<'_>,
    key: &'static str,
    enabled: Enabled,
    hint: &str,
) -> Read<Option<Header>> {
    table.optional_table(key, |credential| {
        let name = credential.optional("header", header_name);
        let scheme = credential.parsed("scheme", "", scheme);
        let variable = credential.verbatim("env", |text| {
            if env::is_variable_name(text) {
                return Ok(text.to_owned());
            }
            Err(Complaint::new("must be the name of a variable, not its value")
                .with_hint("put the value into the environment: `env = \"MCP_API_KEY\"`"))
        });
        let file = credential.optional("file", |text| Ok(PathBuf::from(text)));
        // Only groups have keys by name; lists are read for nobody.
        let key_name = if key == "credential" { credential.optional("key_name", key_name) } else { Ok(None) };
        let missing = |credential: &Reader<'_>, part: &str, example: &str| {
            let sentence = format!("server `{}` has a `{key}` without `{part}`", printable(id));
            credential.problem(part, sentence, &format!("add `{example}`"))
        };
        let name = name
            .and_then(|name| name.ok_or_else(|| missing(credential, "header", "header = \"Authorization\"")));
        let (variable, file, key_name, scheme) = (variable?, file?, key_name?, scheme?);
        let needed = (enabled == Enabled::Yes).then_some(hint);
        let (key_name, value, place) = match (variable, file, key_name) {
            (Some(_), Some(_), _) => {
                let sentence = format!("server `{}` has a `{key}` with both `env` and `file`", printable(id));
                return Err(credential.problem("file", sentence, "leave one of them out"));
            }
            (Some(variable), None, key_name) => {
                let value = value_of(id, credential, &variable, &scheme, needed)?;
                let place = shown(&variable, OF_CREDENTIAL);
                (key_name.unwrap_or(variable), value, Some(place))
            }
            (None, Some(file), key_name) => {
                let value = value_in(id, credential, &file, &scheme, enabled)?;
                let name = || file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                (key_name.unwrap_or_else(name), value, Some("the file of its `credential.file`".to_owned()))
            }
            (None, None, Some(key_name)) => (key_name, None, None),
            (None, None, None) => return Err(missing(credential, "env", "env = \"MCP_API_KEY\"")),
        };
        let own = OwnCredential { header: name?, scheme, key_name };
        let (has_variable, missing) = (place.is_some(), place.filter(|_| value.is_none()));
        Ok(Header { own, value, has_variable, missing })
    })
}

/// The value of the header, out of a file that is watched; where it cannot be read, none, or a problem where the server is on.
fn value_in(
    id: &str,
    credential: &Reader<'_>,
    file: &Path,
    scheme: &str,
    enabled: Enabled,
) -> Read<Option<Secret<HeaderValue>>> {
    credential.note_file(file);
    let problem = |what: &str, hint: &str| {
        let sentence = format!("server `{}` has a file in its `credential.file` that {what}", printable(id));
        Err(credential.problem("file", sentence, hint))
    };
    // Opening a pipe would wait for who writes to it.
    let is_file = fs::metadata(file).is_ok_and(|about| about.is_file() && about.len() <= LARGEST_FILE);
    let text = if is_file { fs::read_to_string(file).ok() } else { None };
    let secret = text.as_ref().map(|text| text.strip_suffix('\n').unwrap_or(text));
    let Some(secret) =
        secret.map(|text| text.strip_suffix('\r').unwrap_or(text)).filter(|text| !text.is_empty())
    else {
        let hint = "put the secret there and nothing else, or say `enabled = \"auto\"`";
        return if enabled == Enabled::Yes { problem("cannot be read or is empty", hint) } else { Ok(None) };
    };
    match sendable(scheme, secret) {
        Some(value) => Ok(Some(value)),
        None => problem(
            "cannot be sent in a header: it has a line break, an outer space or a control character",
            "leave only the secret in it",
        ),
    }
}

/// The complete value of a header, where the secret can stand in one.
fn sendable(scheme: &str, secret: &str) -> Option<Secret<HeaderValue>> {
    let complete = if scheme.is_empty() { secret.to_owned() } else { format!("{scheme} {secret}") };
    let mut header = HeaderValue::try_from(complete).ok().filter(|_| secret.trim() == secret)?;
    header.set_sensitive(true);
    Some(Secret::new(header))
}

/// The value of the header; where the variable is not set, none, or a problem with the hint given for it.
fn value_of(
    id: &str,
    credential: &Reader<'_>,
    variable: &str,
    scheme: &str,
    needed: Option<&str>,
) -> Read<Option<Secret<HeaderValue>>> {
    let Some(value) = credential.environment().non_empty(variable) else {
        let Some(hint) = needed else { return Ok(None) };
        let sentence =
            format!("server `{}` needs {}, which is not set", printable(id), shown(variable, OF_CREDENTIAL));
        return Err(credential.problem("env", sentence, hint));
    };
    match sendable(scheme, value) {
        Some(header) => Ok(Some(header)),
        None => {
            let sentence = format!(
                "server `{}` cannot send {} in a header: it has a line break, an outer space or a control character",
                printable(id),
                shown(variable, OF_CREDENTIAL)
            );
            Err(credential.problem("env", sentence, "set it without those"))
        }
    }
}

const OF_CREDENTIAL: &str = "the variable of its `credential.env`";

/// The variable, named only where it is written as variables are: people do paste keys there.
fn shown(variable: &str, otherwise: &str) -> String {
    let is_conventional = !variable.bytes().any(|byte| byte.is_ascii_lowercase());
    if is_conventional { format!("`{variable}`") } else { otherwise.to_owned() }
}

/// By which name groups' keys are stored.
fn key_name(text: &str) -> Result<String, Complaint> {
    let fits = (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if fits {
        return Ok(text.to_owned());
    }
    Err(Complaint::new("must be 1 to 128 of `A-Z`, `a-z`, `0-9`, `_`, `.` and `-`"))
}

fn header_name(text: &str) -> Result<HeaderName, Complaint> {
    let name: HeaderName = text.parse().map_err(|_| Complaint::new("must be the name of a header"))?;
    if TAKEN_HEADERS.contains(&name.as_str()) {
        return Err(Complaint::new("names a header that belongs to the connection or the message")
            .with_hint("a credential usually goes into `Authorization`"));
    }
    Ok(name)
}

fn scheme(text: &str) -> Result<String, Complaint> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.bytes().all(is_token) {
        return Ok(text.to_owned());
    }
    Err(Complaint::new("must be one word like `Bearer`").with_hint("the secret itself goes into `env`"))
}
