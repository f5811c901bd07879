//! One row of the audit table: what a call was, who made it and what came of it, as values.
//!
//! Decides which facts there are, what each is called, and how long one may be. Never where they go: `audit` does. Its names
//! are those of the journal's lines, of programs before and after this one, and what `store` makes columns of.

use std::{fmt, net::IpAddr};

use serde::{Serialize, Serializer};

/// Most bytes of a path or a user agent that are kept, as the table's columns have always had them.
pub const LONGEST_TEXT: usize = 512;

/// What one request, or one call of a batch, leaves behind, borrowed from the request. What there is none of is left out.
#[derive(Clone, Copy, Serialize)]
pub struct Entry<'a> {
    /// When it ended, in microseconds since 1970.
    pub at_micros: i64,
    /// The id in `X-Request-Id`.
    pub request_id: &'a str,
    /// Which call of a batch it is, from 0.
    pub call: u32,
    /// What the caller is called: an email, a service key's name, an application's id. None: nobody was believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<&'a str>,
    /// Their email, where they have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<&'a str>,
    /// Tenant and object id of Entra ID, as `tenant/object`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<Shown<'a>>,
    /// By which scheme they were believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<&'a str>,
    /// What let them in: `admin`, `user`, or `group:NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<Shown<'a>>,
    /// The group whose own key or address was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<&'a str>,
    /// HTTP method.
    pub method: &'a str,
    /// Path of the request, without its query, of at most [`LONGEST_TEXT`] bytes.
    pub endpoint: &'a str,
    /// The route's name.
    pub route: &'a str,
    /// The method of JSON-RPC that was asked for, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_method: Option<&'a str>,
    /// The server, once it is known to exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<&'a str>,
    /// The tool, as it was asked for where it is not known to exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<&'a str>,
    /// How it ended, in the words of metrics and log.
    pub outcome: &'a str,
    /// The code of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'a str>,
    /// Why a credential was not believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// Status sent to the client; 0 where none was.
    pub status: u16,
    /// The gateway's own time.
    pub gateway_micros: u64,
    /// The server's time.
    pub upstream_micros: u64,
    /// Body bytes of the request.
    pub request_bytes: u64,
    /// Body bytes of the answer.
    pub response_bytes: u64,
    /// Tries made beyond the first.
    pub retries: u32,
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// What the client says it is, of at most [`LONGEST_TEXT`] bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<&'a str>,
    /// SHA-256 of the arguments as they were sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub argument_digest: Option<Shown<'a>>,
    /// The arguments, of a server whose `audit_arguments` is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<&'a str>,
    /// The trace it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<Shown<'a>>,
}

/// What is a text once it is written down.
#[derive(Clone, Copy)]
pub struct Shown<'a>(pub &'a dyn fmt::Display);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self.0)
    }
}
