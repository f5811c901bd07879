//! Asks servers that speak MCP, as their client: one question in, what the server says until its answer out.
//!
//! Decides the era a server is spoken to in, opens and shares sessions, and decides what may be sent a second time:
//! only what was never sent, what the server proved not to have run, or what is harmless twice. Never decides who may
//! ask, and never asks without a `Way`, which `upstream` alone makes.

mod answer;
mod asking;
mod hub;
mod listening;
mod opening;
mod outbox;
mod probing;
mod replies;
mod session;
mod spoken;
mod stopped;
mod stream;
mod tries;

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use crate::{dial::wire::Wire, names::ServerId, refusal::Refusal, trace::Trace, upstream::Way};
use outbox::Outbox;
use session::Pool;
use spoken::Eras;
use stopped::Stopped;

pub use replies::Replies;
pub use session::SessionRef;
pub use spoken::Spoken;
pub use stopped::{fault_of, refusal_for};
pub use tries::Delivered;

/// What the client holds to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Longest event of a stream, and longest answer that is none, in bytes.
    pub max_answer_bytes: usize,
}

/// Speaks MCP to servers. A clone has the same connections and sessions.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    max_answer_bytes: AtomicUsize,
    wire: Wire,
    sessions: Pool,
    eras: Eras,
}

/// One question for a server.
#[derive(Clone, Default)]
pub struct Ask {
    /// Its method.
    pub method: String,
    /// What it is about, in plain, for `Mcp-Name`: the server's own name of a tool or prompt, or its own URI.
    pub name: Option<String>,
    /// Its params as the asker's own client sent them: a JSON object.
    pub params: Option<String>,
    /// What is different in them for this server.
    pub rewrite: OwnedRewrite,
    /// Whether reports of progress are wanted.
    pub wants_progress: bool,
    /// Who asks, as far as the server may know.
    pub asker: Asker,
    /// Headers that mirror arguments: names in full (`mcp-param-…`), values encoded.
    pub param_headers: Vec<(String, String)>,
    /// Whether a server that takes both eras is to be asked in the older one: only there can it ask back at once.
    pub prefers_legacy: bool,
    /// Whether it does no harm twice: it only reads, or is idempotent.
    pub is_repeatable: bool,
    /// The notes of the request it is asked for, where requests are traced.
    pub trace: Option<Arc<Trace>>,
}

/// What is different in params for the server, in plain.
#[derive(Clone, Default)]
pub struct OwnedRewrite {
    /// `name`.
    pub name: Option<String>,
    /// `uri`.
    pub uri: Option<String>,
    /// `name` or `uri` within `ref`.
    pub reference: Option<String>,
    /// `cursor`.
    pub cursor: Option<String>,
    /// `requestState`, as JSON.
    pub request_state: Option<String>,
}

/// Who asks, as far as the server may know.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Asker {
    /// What the asker can be asked in return: a JSON object; none: nothing.
    pub capabilities: Option<String>,
    /// Name and version of the asker's program: a JSON object.
    pub info: Option<String>,
    /// From which level on log messages are wanted: a JSON string.
    pub log_level: Option<String>,
    /// Whose own session it is, instead of one shared with others.
    pub session_of: Option<String>,
}

/// Which changes are listened for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of the list of tools.
    pub tools: bool,
    /// Of the list of prompts.
    pub prompts: bool,
    /// Of the list of resources.
    pub resources: bool,
    /// Of these resources, by the server's own URIs.
    pub uris: Vec<String>,
}

impl Client {
    /// A client without connections or sessions yet.
    pub fn new(settings: Settings) -> Self {
        let max_answer_bytes = AtomicUsize::new(settings.max_answer_bytes);
        let shared =
            Shared { max_answer_bytes, wire: Wire::new(), sessions: Pool::new(), eras: Eras::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Gets ready to open connections on this thread.
    pub fn get_ready(&self) {
        self.shared.wire.get_ready();
    }

    /// Its connections, which proxied calls have too.
    pub fn wire(&self) -> &Wire {
        &self.shared.wire
    }

    /// Holds to these settings from now on; connections and sessions stay.
    pub fn take(&self, settings: &Settings) {
        self.shared.max_answer_bytes.store(settings.max_answer_bytes, Ordering::Relaxed);
    }

    /// A server is gone or another: nothing further is asked in its sessions, and what is known of it is forgotten. Who waits
    /// for an answer still gets it.
    pub fn forget(&self, server: &ServerId) {
        self.shared.sessions.forget(server);
        self.shared.eras.forget_server(server);
    }

    /// Sends a notification or a response into a session.
    pub async fn tell(&self, way: &Way, to: &SessionRef, message: String) -> Result<(), Refusal> {
        let outbox = Outbox::into_session(&self.shared.wire, way, to)?;
        outbox.tell(message).await.map_err(Stopped::into_refusal)
    }
}

/// Ids of the gateway's questions: each is asked once in the life of the process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests;
