//! The credentials of a server: which header, and the variable that holds the secret; and the variables it waits for.
//!
//! Decides whether a credential can be sent, and whether a server with `enabled = "auto"` is on. Never shows a secret,
//! not even in a problem.

use http::{HeaderName, HeaderValue};

use super::{
    env,
    problems::Complaint,
    reader::{Read, Reader},
    wording::printable,
};
use crate::{catalog::server::CredentialHeader, names::Secret};

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

/// The credential, and whether the server is on.
pub(super) fn credential(
    id: &str,
    table: &mut Reader<'_>,
    enabled: Enabled,
) -> Read<(Option<CredentialHeader>, bool)> {
    let hint = "set it, or say `enabled = \"auto\"` to have the server on only when it is set";
    let required = required(id, table, enabled);
    let header = header(id, table, "credential", enabled, hint)?;
    let required = required?;
    if enabled == Enabled::WhenItsVariablesAreSet && header.is_none() && required.is_none() {
        let sentence = format!("server `{}` has `enabled = \"auto\"` but names no variable", printable(id));
        let hint = "add a `credential`, or `requires = [\"MCP_…_URL\"]`, or say `true` or `false`";
        return Err(table.problem("enabled", sentence, hint));
    }
    let is_wanted = enabled != Enabled::No && required != Some(false);
    Ok(match header {
        None => (None, is_wanted),
        Some((_, None)) => (None, false),
        Some((name, Some(value))) => (Some(CredentialHeader { name, value }), is_wanted),
    })
}

/// Whether all the variables are set that the server waits for; none where it names none.
fn required(id: &str, table: &mut Reader<'_>, enabled: Enabled) -> Read<Option<bool>> {
    let variables = table.list("requires", |text| {
        if env::is_variable_name(text) {
            return Ok(text.to_owned());
        }
        Err(Complaint::new("must hold names of variables, not values")
            .with_hint("a variable that only has to be set: `requires = [\"MCP_GITHUB_URL\"]`"))
    })?;
    let missing = variables.iter().find(|name| table.environment().non_empty(name).is_none());
    match missing {
        Some(name) if enabled == Enabled::Yes => {
            let sentence = format!(
                "server `{}` needs {}, which is not set",
                printable(id),
                shown(name, "a variable of its `requires`")
            );
            Err(table.problem("requires", sentence, "set it, or say `enabled = \"auto\"`"))
        }
        _ => Ok((!variables.is_empty()).then_some(missing.is_none())),
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
    Ok(found.and_then(|(name, value)| Some(CredentialHeader { name, value: value? })))
}

type Found = Option<(HeaderName, Option<Secret<HeaderValue>>)>;

/// A header and its value; `hint` says what to do about a variable that is not set.
fn header(id: &str, table: &mut Reader<'_>, key: &'static str, enabled: Enabled, hint: &str) -> Read<Found> {
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
        let missing = |credential: &Reader<'_>, part: &str, example: &str| {
            let sentence = format!("server `{}` has a `{key}` without `{part}`", printable(id));
            credential.problem(part, sentence, &format!("add `{example}`"))
        };
        let name = name
            .and_then(|name| name.ok_or_else(|| missing(credential, "header", "header = \"Authorization\"")));
        let variable = variable?.ok_or_else(|| missing(credential, "env", "env = \"MCP_API_KEY\""))?;
        let value = value_of(id, credential, &variable, &scheme?, (enabled == Enabled::Yes).then_some(hint))?;
        Ok((name?, value))
    })
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
    let complete = if scheme.is_empty() { value.to_owned() } else { format!("{scheme} {value}") };
    match HeaderValue::try_from(complete) {
        Ok(mut header) if value.trim() == value => {
            header.set_sensitive(true);
            Ok(Some(Secret::new(header)))
        }
        _ => {
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
