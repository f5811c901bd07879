//! What a client wants of a server: the server it is about, and what is asked there.
//!
//! Decides by the names that lists of the gateway gave out. What the caller may not use is answered like what does not
//! exist, and asks nobody. Never decides what a caller may: `access` does.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use pingora::proxy::Session;

use super::{
    Speaker, Visit, answer,
    inquiries::Return,
    meta,
    relay::{Errand, LEVELS},
};
use crate::{
    access::{self, Permit},
    catalog::{pins, server::Dialect, tools::Tool},
    client::{Ask, Asker, OwnedRewrite},
    endpoints::meta::MetaTool,
    gateway::{
        Gateway,
        decide::{MISS_PATIENCE, Step, refuse_disabled},
        journey::Journey,
        live::Use,
    },
    mcp::{
        members::{self, Members},
        outgoing,
        question::Question,
        splice::quoted,
        uri,
    },
    names::{ServerId, ToolName},
    refusal::{Code, Refusal},
    route,
    trace::Leg,
    upstream::{self, Wanted},
};

/// A question with the server it is for, as that server knows it.
pub(super) struct Addressed {
    pub permit: Permit,
    pub wanted: Wanted,
    pub rewrite: OwnedRewrite,
    /// For `Mcp-Name`.
    pub name: Option<String>,
    /// Params that go instead of the client's, with their arguments.
    pub params: Option<(String, Bytes)>,
}

/// What is asked of a server that speaks MCP.
struct Asked<'a> {
    name: Option<String>,
    params: Option<String>,
    rewrite: OwnedRewrite,
    arguments: Cow<'a, str>,
}

impl Gateway {
    /// Asks the server that a question is about, and tells the client what comes back.
    pub(super) async fn ask_server(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        visit: &Visit,
        speaker: &Speaker,
        question: &Question<'_>,
    ) -> Result<Step, Refusal> {
        if let Some(answered) = self.meta_answer(visit, speaker, question)? {
            return Ok(answered);
        }
        let id = question.id.unwrap_or("null");
        let addressed = match self.address(visit, question).await {
            Ok(addressed) => addressed,
            // The older revisions have a code of their own for it (MCP 2025-11-25, Resources, Error Handling).
            Err(refusal) if refusal.code() == Code::UnknownOffer && !speaker.is_modern => {
                journey.record.refuse(&refusal);
                let code = if question.method.starts_with("resources/") { -32002 } else { -32602 };
                return Ok(answer(200, outgoing::error(id, code, refusal.sentence())));
            }
            Err(refusal) if refusal.code() == Code::BadArguments => {
                return Ok(meta::refused(question, speaker, &refusal));
            }
            Err(refusal) => return Err(refusal),
        };
        let Addressed { permit, wanted, rewrite, name, params } = addressed;
        let (params, arguments) = match params {
            Some((params, arguments)) => {
                (Some(params), Cow::Owned(String::from_utf8_lossy(&arguments).into_owned()))
            }
            None => (question.params.map(str::to_owned), Cow::Borrowed(question.arguments().unwrap_or("{}"))),
        };
        let server = permit.server().clone();
        journey.record.permit(&permit);
        let what = match &wanted {
            Wanted::Tool(tool) => {
                journey.record.tool = Some(tool.name.clone());
                journey.note_call(&server, tool.name.as_str(), Some(arguments.as_bytes()));
                self.limit_calls(journey, &permit, &[(tool.name.as_str(), 1)]).await?;
                Use::Tool(tool.name.clone())
            }
            Wanted::Other => Use::Stream,
        };
        let live = self.begin_live(&permit, what, visit.change_count)?;
        journey.serve(Some(live));
        if let (Dialect::OpenApi, Wanted::Tool(tool)) = (server.dialect, &wanted) {
            return self.call_rest(session, journey, speaker, (permit, tool.clone()), (id, &arguments)).await;
        }
        let asked = (wanted, Asked { name, params, rewrite, arguments });
        self.ask_mcp(session, journey, visit, speaker, question, (permit, asked)).await
    }

    /// Asks a server that speaks MCP.
    async fn ask_mcp(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        visit: &Visit,
        speaker: &Speaker,
        question: &Question<'_>,
        (permit, (wanted, asked)): (Permit, (Wanted, Asked<'_>)),
    ) -> Result<Step, Refusal> {
        let Asked { name, params, rewrite, arguments } = asked;
        let (id, server) = (question.id.unwrap_or("null"), permit.server().clone());
        let tool = match &wanted {
            Wanted::Tool(tool) => Some(tool),
            Wanted::Other => None,
        };
        if let (Some(tool), true) = (tool, speaker.is_modern) {
            tool.param_headers.refuse_disagreement(&session.req_header().headers, &arguments)?;
        }
        let token = question.progress_token();
        let ask = Ask {
            method: question.method.to_string(),
            name,
            params,
            rewrite,
            wants_progress: token.is_some() && speaker.takes_events,
            asker: asker(visit, speaker),
            prefers_legacy: !speaker.is_modern && speaker.capabilities.is_some(),
            param_headers: tool.map(|tool| tool.param_headers.values(&arguments)).unwrap_or_default(),
            is_repeatable: tool.is_none_or(|tool| server.may_repeat(tool)),
            trace: journey.record.trace.clone(),
        };
        journey.record.enter(Leg::Plan);
        let trip = upstream::plan_ask(permit, wanted, &self.current.load().addresses)?;
        let mut errand = Errand {
            way: trip.way(),
            ask,
            server: server.id.clone(),
            id,
            token,
            maps_uris: visit.only.is_none(),
        };
        if let Some(state) = question.request_state() {
            match self.come_back(visit, &errand, (&state, question.input_responses())).await? {
                Return::Server(state) => errand.ask.rewrite.request_state = Some(state),
                Return::Call(parked) => {
                    journey.record.depart();
                    let call = self.desk.note_call(visit.caller.name(), id);
                    return self
                        .follow(session, journey, visit, speaker, &errand, parked.replies, &call)
                        .await;
                }
            }
        }
        self.relay(session, journey, visit, speaker, errand).await
    }

    /// Which server a question is for, and as what.
    async fn address(&self, visit: &Visit, question: &Question<'_>) -> Result<Addressed, Refusal> {
        match &*question.method {
            "tools/call" if self.meta_tool(visit, question) == Some(MetaTool::Call) => {
                self.call_asked(visit, question)
            }
            "tools/call" => self.tool_asked(visit, question).await,
            "prompts/get" => self.prompt_asked(visit, question),
            "completion/complete" => self.completion_asked(visit, question),
            _ => self.resource_asked(visit, question),
        }
    }

    /// The permit for one of the servers this face is about.
    pub(super) fn permit_for(&self, visit: &Visit, server: &str) -> Result<Permit, Refusal> {
        if let Some(permit) = &visit.only {
            return if permit.server().id.as_str() == server {
                Ok(permit.clone())
            } else {
                Err(access::unknown_server())
            };
        }
        let server = visit.snapshot.catalog.get(server).ok_or_else(access::unknown_server)?;
        let known = self.current.grants(&visit.snapshot)?;
        let permit = self.access.authorize(&visit.caller, server, known)?;
        refuse_disabled(permit.server())?;
        Ok(permit)
    }

    async fn tool_asked(&self, visit: &Visit, question: &Question<'_>) -> Result<Addressed, Refusal> {
        let name = question.name().ok_or_else(|| unknown_tool(""))?;
        let found = match self.tool_of(visit, &name) {
            Some(found) => Some(found),
            None => {
                self.read_anew(visit, &name).await;
                self.tool_of(visit, &name)
            }
        };
        let (permit, tool) = found.ok_or_else(|| self.no_tool(visit, &name))?;
        let plain = tool.name.as_str();
        let rewrite =
            OwnedRewrite { name: (plain != name).then(|| plain.to_owned()), ..OwnedRewrite::default() };
        Ok(Addressed {
            permit,
            name: Some(plain.to_owned()),
            wanted: Wanted::Tool(tool),
            rewrite,
            params: None,
        })
    }

    /// The refusal of a tool that is not to be had; the log says where it is withheld.
    fn no_tool(&self, visit: &Visit, name: &str) -> Refusal {
        let snapshot = self.current.load();
        let is_withheld = match &visit.only {
            Some(permit) => snapshot.pins.withholds(permit.server(), name),
            None => snapshot.pins.withholds_exposed(snapshot.catalog.iter(), &snapshot.tools, name),
        };
        let refusal = unknown_tool(name);
        if is_withheld { refusal.because(pins::WITHHELD) } else { refusal }
    }

    /// The tool that lists call like this, where the caller may use it.
    fn tool_of(&self, visit: &Visit, name: &str) -> Option<(Permit, Arc<Tool>)> {
        let tools = &self.current.load().tools;
        let (server, tool) = match &visit.only {
            Some(permit) => {
                (permit.server().id.clone(), tools.find(permit.server().id.as_str(), name)?.clone())
            }
            None => match tools.exposed(name) {
                Some((server, tool)) => (server.clone(), tool.clone()),
                None => {
                    let server = self.only_server(visit)?;
                    let tool = tools.find(server.as_str(), name)?.clone();
                    (server, tool)
                }
            },
        };
        let permit = self.permit_for(visit, server.as_str()).ok()?;
        permit.tools().allows(tool.name.as_str()).then_some((permit, tool))
    }

    /// The caller's server, where they have one alone: then a server's own names mean nothing else.
    fn only_server(&self, visit: &Visit) -> Option<ServerId> {
        match &self.visible(visit).ok()?[..] {
            [visible] => Some(visible.server.id.clone()),
            _ => None,
        }
    }

    /// Has the list read anew in which a tool of this name would stand.
    async fn read_anew(&self, visit: &Visit, name: &str) {
        if let Some(permit) = &visit.only {
            if permit.tools().allows(name) && ToolName::parse(name).is_ok() {
                self.refresher.read_now(&permit.server().id, MISS_PATIENCE).await;
            }
            return;
        }
        let permits = route::legacy_readings(name)
            .filter_map(|(server, tool)| Some((self.permit_for(visit, server).ok()?, tool)));
        for (permit, tool) in permits {
            if permit.tools().allows(tool) {
                self.refresher.read_now(&permit.server().id, MISS_PATIENCE).await;
                return;
            }
        }
    }

    fn prompt_asked(&self, visit: &Visit, question: &Question<'_>) -> Result<Addressed, Refusal> {
        let name = question.name().unwrap_or_default();
        let unknown = || Refusal::new(Code::UnknownOffer, format!("Unknown prompt: {}", shown(&name)));
        let (permit, plain) = self.prompt_of(visit, &name).ok_or_else(unknown)?;
        let rewrite = OwnedRewrite { name: Some(plain.clone()), ..OwnedRewrite::default() };
        Ok(Addressed { permit, wanted: Wanted::Other, rewrite, name: Some(plain), params: None })
    }

    fn prompt_of(&self, visit: &Visit, name: &str) -> Option<(Permit, String)> {
        if let Some(permit) = &visit.only {
            return Some((permit.clone(), name.to_owned()));
        }
        let (server, plain) = match visit.snapshot.offers.prompt(name) {
            Some((server, offer)) => (server.clone(), offer.key.clone()),
            None => (self.only_server(visit)?, name.to_owned()),
        };
        Some((self.permit_for(visit, server.as_str()).ok()?, plain))
    }

    fn resource_asked(&self, visit: &Visit, question: &Question<'_>) -> Result<Addressed, Refusal> {
        let uri = question.uri().unwrap_or_default();
        let unknown = || Refusal::new(Code::UnknownOffer, format!("Resource not found: {}", shown(&uri)));
        let (permit, own) = self.resource_of(visit, &uri).ok_or_else(unknown)?;
        let rewrite = OwnedRewrite { uri: Some(own.clone()), ..OwnedRewrite::default() };
        let name = (question.method == "resources/read").then_some(own);
        Ok(Addressed { permit, wanted: Wanted::Other, rewrite, name, params: None })
    }

    pub(super) fn resource_of(&self, visit: &Visit, uri: &str) -> Option<(Permit, String)> {
        if let Some(permit) = &visit.only {
            return Some((permit.clone(), uri.to_owned()));
        }
        let (server, own) = match uri::inward(uri) {
            Some((server, own)) => (server.to_owned(), own),
            None => (self.only_server(visit)?.to_string(), uri),
        };
        Some((self.permit_for(visit, &server).ok()?, own.to_owned()))
    }

    fn completion_asked(&self, visit: &Visit, question: &Question<'_>) -> Result<Addressed, Refusal> {
        let unknown = || Refusal::new(Code::UnknownOffer, "the reference is to nothing that is here");
        let reference = question.reference().and_then(Members::read).ok_or_else(unknown)?;
        let text = |key| reference.get(key).and_then(members::text);
        let (permit, own) = match (text("name"), text("uri")) {
            (Some(name), None) => self.prompt_of(visit, &name),
            (None, Some(uri)) => self.resource_of(visit, &uri),
            (Some(_), Some(_)) | (None, None) => None,
        }
        .ok_or_else(unknown)?;
        let rewrite = OwnedRewrite { reference: Some(own), ..OwnedRewrite::default() };
        Ok(Addressed { permit, wanted: Wanted::Other, rewrite, name: None, params: None })
    }

    /// A session says which log messages it wants (MCP 2025-11-25, Logging).
    pub(super) fn set_level(&self, speaker: &Speaker, question: &Question<'_>) -> Result<(), Refusal> {
        let level = question.log_level().and_then(members::text);
        let level = level.filter(|level| LEVELS.contains(&&**level)).ok_or_else(|| {
            Refusal::new(
                Code::BadCursor,
                "`level` is one of debug, info, notice, warning, error, critical, alert, emergency",
            )
        })?;
        if let Some(session) = &speaker.session {
            self.desk.set_level(session, level.into_owned());
        }
        Ok(())
    }

    /// Takes a notification: a call may be cancelled by one, all others are about nothing that is here.
    pub(super) fn take_notification(&self, visit: &Visit, speaker: &Speaker, notification: &Question<'_>) {
        if notification.method == "notifications/cancelled"
            && !speaker.is_modern
            && let Some(id) = notification.param("requestId")
        {
            let owner = speaker.session.as_deref().unwrap_or_else(|| visit.caller.name());
            self.desk.cancel(owner, id);
        }
    }
}

/// Who asks, as far as a server may know. A caller who can be asked something has a session of their own there, so
/// that nobody else is asked in their place.
pub(super) fn asker(visit: &Visit, speaker: &Speaker) -> Asker {
    Asker {
        session_of: speaker.capabilities.as_ref().map(|_| visit.caller.name().to_owned()),
        capabilities: speaker.capabilities.clone(),
        info: speaker.info.clone(),
        log_level: speaker.log_level.as_deref().map(quoted),
    }
}

fn unknown_tool(name: &str) -> Refusal {
    Refusal::new(Code::UnknownTool, format!("Unknown tool: {}", shown(name)))
}

/// The beginning of a client's own word, to be told back to it.
fn shown(word: &str) -> Cow<'_, str> {
    match word.char_indices().nth(128) {
        Some((at, _)) => Cow::Borrowed(&word[..at]),
        None => Cow::Borrowed(word),
    }
}
