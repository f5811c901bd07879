//! Who speaks at this face: which era and revision, within which session, and what the client can be asked.
//!
//! Decides by header and body of each request alone. A session of the older revisions is nothing but its sealed id:
//! what the client said of itself when it began stands in there, so that any replica knows it.

use std::borrow::Cow;

use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Visit, answer, relay::LEVELS};
use crate::{
    catalog::server::ProtocolVersion,
    endpoints,
    gateway::{Gateway, decide::Step, native::exchange::now},
    mcp::{
        self, headers,
        members::{Members, text},
        outgoing,
        question::{Question, Said},
        session::{Binding, Purpose},
    },
    refusal::{Code, Refusal},
};

/// The modern revisions spoken here.
pub(super) const MODERN: &[&str] = &[mcp::FIRST_MODERN];

/// The client of one request.
#[derive(Debug, Default)]
pub(super) struct Speaker {
    /// Whether it speaks a revision without sessions.
    pub is_modern: bool,
    /// What it can be asked: a JSON object, where it can be asked anything.
    pub capabilities: Option<String>,
    /// What it says it is: a JSON object.
    pub info: Option<String>,
    /// The lowest level of log messages it wants to hear.
    pub log_level: Option<String>,
    /// Its session, by the id it has.
    pub session: Option<String>,
    /// Whether it takes an answer of events.
    pub takes_events: bool,
}

/// What a session's id says.
#[derive(Serialize, Deserialize)]
struct Beginning {
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<Box<RawValue>>,
    /// So that no two sessions of one caller have the same id.
    began: u64,
}

impl Gateway {
    /// Who says this; refuses what its revision does not allow.
    pub(super) fn speaker(
        &self,
        headers: &HeaderMap,
        said: &Said<'_>,
        visit: &Visit,
    ) -> Result<Speaker, Refusal> {
        let takes_events = takes_events(headers);
        let (question, is_request) = match said {
            Said::Request(question) => (Some(question), true),
            Said::Notification(question) => (Some(question), false),
            Said::Response(_) => (None, false),
        };
        let is_initialize = question.is_some_and(|question| question.method == "initialize");
        // With a modern header it is a modern request, of a method that is none any more.
        let is_modern = match is_initialize {
            true => headers::version(headers).is_some_and(mcp::is_modern),
            false => speaks_modern(headers, question),
        };
        if is_modern {
            return match question.filter(|_| is_request) {
                Some(question) => modern(headers, question, takes_events),
                None => Ok(Speaker { is_modern, takes_events, ..Speaker::default() }),
            };
        }
        refuse_unknown_revision(headers)?;
        let session = match headers.get(&headers::SESSION_ID) {
            Some(id) if !is_initialize => Some(id.to_str().unwrap_or_default().to_owned()),
            _ => None,
        };
        let Some(id) = session else { return Ok(Speaker { takes_events, ..Speaker::default() }) };
        let beginning = self.beginning(visit, &id)?;
        let capabilities = beginning.capabilities.map(|raw| raw.get().to_owned());
        let log_level = self.desk.level(&id);
        Ok(Speaker { is_modern, capabilities, info: None, log_level, session: Some(id), takes_events })
    }

    /// What is said of the session with this id, if it is the caller's, here, and not over.
    fn beginning(&self, visit: &Visit, id: &str) -> Result<Beginning, Refusal> {
        let opened = self.session_keys.open_text(&binding(visit, Purpose::Aggregate), id, now());
        opened
            .filter(|_| !self.desk.is_ended(id))
            .and_then(|text| serde_json::from_str(&text).ok())
            .ok_or_else(|| {
                crate::upstream::native::unknown_session("the id does not open, or its session was ended")
            })
    }

    /// Begins a session (MCP 2025-11-25, Lifecycle).
    pub(super) fn initialize(&self, visit: &Visit, question: &Question<'_>) -> Result<Step, Refusal> {
        let wanted = question.protocol_version();
        let legacy = || ProtocolVersion::ALL.into_iter().filter(|version| !version.is_modern());
        let version = wanted
            .and_then(|wanted| legacy().find(|version| version.as_str() == wanted))
            .unwrap_or(ProtocolVersion::V2025_11_25);
        let beginning = |capabilities: Option<String>| Beginning {
            version: version.to_string(),
            capabilities: capabilities.and_then(|raw| RawValue::from_string(raw).ok()),
            began: now(),
        };
        let seal = |beginning: &Beginning| {
            let text = serde_json::to_string(beginning).ok()?;
            let expires_at = now().saturating_add(self.settings.mcp.session_ttl.as_secs());
            self.session_keys.seal_text(&binding(visit, Purpose::Aggregate), &text, expires_at)
        };
        let sealed = seal(&beginning(question.client_capabilities().and_then(askable)));
        let hello = endpoints::mcp::hello(&self.shelf(visit, false, &self.visible(visit)?), version.as_str());
        let id = question.id.unwrap_or("null");
        let mut step = answer(200, outgoing::response(id, Ok(&hello)));
        if let (Step::Answer(answer), Some(sealed)) = (&mut step, sealed) {
            answer.headers.push(("mcp-session-id", sealed));
        }
        Ok(step)
    }

    /// Ends a session: its id opens no more, at this replica.
    pub(super) fn end_session(&self, headers: &HeaderMap, visit: &Visit) -> Result<Step, Refusal> {
        let id = headers.get(&headers::SESSION_ID).and_then(|id| id.to_str().ok());
        let Some(id) = id else { return Err(Refusal::method_not_allowed("POST")) };
        self.beginning(visit, id)?;
        self.desk.end(id);
        Ok(answer(200, String::new()))
    }

    /// The session a GET belongs to, where it says one.
    pub(super) fn session_of(&self, headers: &HeaderMap, visit: &Visit) -> Result<Option<String>, Refusal> {
        let Some(id) = headers.get(&headers::SESSION_ID) else { return Ok(None) };
        let id = id.to_str().unwrap_or_default();
        self.beginning(visit, id)?;
        Ok(Some(id.to_owned()))
    }
}

/// Whose an id is, and where it counts.
pub(super) fn binding(visit: &Visit, purpose: Purpose) -> Binding<'_> {
    Binding { purpose, server: visit.scope(), caller: visit.caller.name(), standing: None }
}

/// Whether a request is one of the revisions without a handshake.
fn speaks_modern(headers: &HeaderMap, question: Option<&Question<'_>>) -> bool {
    let version = headers::version(headers);
    let named = question.and_then(Question::protocol_version);
    let is_probe = question.is_some_and(|question| question.method == "server/discover");
    named.is_some() || is_probe || version.is_some_and(mcp::is_modern)
}

/// Reads a request that tells everything about itself (MCP 2026-07-28, Transports, Request Headers).
fn modern(headers: &HeaderMap, question: &Question<'_>, takes_events: bool) -> Result<Speaker, Refusal> {
    let mismatch = |sentence: &'static str| Refusal::new(Code::HeaderMismatch, sentence);
    if headers::version(headers).is_none() {
        return Err(mismatch("`MCP-Protocol-Version` is missing"));
    }
    let (Some(version), Some(capabilities)) = (question.protocol_version(), question.client_capabilities())
    else {
        let sentence = "`_meta` lacks `io.modelcontextprotocol/protocolVersion` or `…/clientCapabilities`";
        return Err(Refusal::new(Code::BadParams, sentence));
    };
    if !MODERN.contains(&&*version) {
        return Err(Refusal::unsupported_version(MODERN.to_vec(), Some(version.into_owned())));
    }
    if !headers.contains_key(&headers::METHOD) {
        return Err(mismatch("`Mcp-Method` is missing"));
    }
    let is_named = matches!(&*question.method, "tools/call" | "prompts/get" | "resources/read");
    if is_named && !headers.contains_key(&headers::NAME) {
        return Err(mismatch("`Mcp-Name` is missing"));
    }
    Ok(Speaker {
        is_modern: true,
        capabilities: askable(capabilities),
        info: question.client_info().map(str::to_owned),
        log_level: question
            .log_level()
            .and_then(text)
            .map(Cow::into_owned)
            .filter(|it| LEVELS.contains(&&**it)),
        session: None,
        takes_events,
    })
}

/// A revision that nobody knows is refused (MCP 2025-11-25, Transports, Protocol Version Header).
fn refuse_unknown_revision(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(version) = headers::version(headers) else { return Ok(()) };
    if ProtocolVersion::ALL.iter().any(|known| known.as_str() == version) {
        return Ok(());
    }
    let supported = ProtocolVersion::ALL.iter().map(|version| version.as_str()).collect();
    Err(Refusal::unsupported_version(supported, Some(version.to_owned())))
}

/// What a client can be asked, of what the gateway passes on; none where that is nothing. In words of our own, because
/// a server has a session for each: a client that says something else each time must not have one each time.
fn askable(capabilities: &str) -> Option<String> {
    let members = Members::read(capabilities)?;
    let known: [(&str, &[&str]); 3] =
        [("elicitation", &["form", "url"]), ("sampling", &["context", "tools"]), ("roots", &[])];
    let said = known.iter().filter_map(|(name, parts)| {
        let said = Members::read(members.get(name)?)?;
        let parts: Vec<_> = parts.iter().filter(|part| said.get(part).is_some()).collect();
        let parts: Vec<_> = parts.iter().map(|part| format!(r#""{part}":{{}}"#)).collect();
        Some(format!(r#""{name}":{{{}}}"#, parts.join(",")))
    });
    let said: Vec<_> = said.collect();
    (!said.is_empty()).then(|| format!("{{{}}}", said.join(",")))
}

/// Whether an answer of events is taken. A client that does not say takes anything.
pub(super) fn takes_events(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(http::header::ACCEPT).iter().peekable();
    if accepted.peek().is_none() {
        return true;
    }
    accepted.any(|value| {
        let value = value.to_str().unwrap_or_default().to_ascii_lowercase();
        value.contains("text/event-stream") || value.contains("*/*") || value.contains("text/*")
    })
}
