//! One row of the audit table: what a call was, who made it and what came of it, as values.
//!
//! Decides which facts there are and how long one may be. Never where they go: `audit` does.

use std::{borrow::Cow, net::IpAddr};

use serde::{Deserialize, Serialize};

/// Most bytes of a path or a user agent that are kept, as the table's columns have always had them.
pub const LONGEST_TEXT: usize = 512;

/// What one request, or one call of a batch, leaves behind.
///
/// Texts are borrowed from the request where it is written down, and owned where it is read again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry<'a> {
    /// When it ended, in microseconds since 1970.
    pub at_micros: i64,
    /// The id in `X-Request-Id`.
    pub request_id: Cow<'a, str>,
    /// Which call of a batch it is, from 0.
    pub call: u32,
    /// What the caller is called: an email, a service key's name, an application's id. None: nobody was believed.
    pub caller: Option<Cow<'a, str>>,
    /// Their email, where they have one.
    pub email: Option<Cow<'a, str>>,
    /// Tenant and object id of Entra ID, as `tenant/object`.
    pub directory: Option<String>,
    /// By which scheme they were believed.
    pub scheme: Option<Cow<'a, str>>,
    /// What let them in: `admin`, `user`, or `group:NAME`.
    pub grant: Option<String>,
    /// The group whose own key or address was used.
    pub tenant: Option<Cow<'a, str>>,
    /// HTTP method.
    pub method: Cow<'a, str>,
    /// Path of the request, without its query, of at most [`LONGEST_TEXT`] bytes.
    pub endpoint: Cow<'a, str>,
    /// The route's name.
    pub route: Cow<'a, str>,
    /// The method of JSON-RPC that was asked for, where that is known.
    pub rpc_method: Option<Cow<'a, str>>,
    /// The server, once it is known to exist.
    pub server: Option<Cow<'a, str>>,
    /// The tool, as it was asked for where it is not known to exist.
    pub tool: Option<Cow<'a, str>>,
    /// How it ended, in the words of metrics and log.
    pub outcome: Cow<'a, str>,
    /// The code of a refusal.
    pub code: Option<Cow<'a, str>>,
    /// Why a credential was not believed.
    pub reason: Option<Cow<'a, str>>,
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
    pub client: Option<IpAddr>,
    /// What the client says it is, of at most [`LONGEST_TEXT`] bytes.
    pub user_agent: Option<Cow<'a, str>>,
    /// SHA-256 of the arguments as they were sent.
    pub argument_digest: Option<String>,
    /// The arguments, of a server whose `audit_arguments` is on.
    pub arguments: Option<Cow<'a, str>>,
    /// The trace it belongs to.
    pub trace_id: Option<Cow<'a, str>>,
}
