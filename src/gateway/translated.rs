//! `POST /{server}/{tool}` of a server that speaks MCP: the arguments become `tools/call`, its result the answer.
//!
//! Decides the form of the answer: the result's own value, the tool's own no with 422, or, for who asks for
//! `text/event-stream`, what the tool says on its way and then its result. Asks only with a permit.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, header};
use pingora::proxy::Session;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Gateway,
    decide::Step,
    journey::Journey,
    live::Use,
    reply,
    served::relay::{HEARTBEAT, forsaken, left},
};
use crate::{
    access::{self, KnownGrants, Permit},
    catalog::tools::Tool,
    client::{Ask, Asker, Replies},
    endpoints::{
        Answer, Visible,
        meta::{self, Called},
    },
    identity::Caller,
    mcp::{era, members, members::Members, outgoing, result, told::Told},
    record::Outcome,
    refusal::{Code, Refusal},
    snapshot::Snapshot,
    trace::Leg,
    upstream::{
        self, Wanted,
        arguments::{Peek, Whole},
    },
};

/// The longest sentence of a server that a client is told.
const LONGEST_SENTENCE: usize = 2_000;

/// How a call ended.
enum Ended {
    Answer { content_type: &'static str, body: Bytes },
    Refused(Refusal),
}

impl Gateway {
    /// Runs the tool that `POST /meta/call_tool` names.
    pub(super) async fn call_by_name(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        (caller, known, snapshot): (&Arc<Caller>, &KnownGrants, &Snapshot),
        change_count: u64,
    ) -> Result<Step, Refusal> {
        let body = self.read_whole(session, self.settings.mcp.max_message_bytes).await?;
        let visible = Visible::all(&self.access, caller, known, snapshot);
        if let Some(name) = meta::wished(&body) {
            journey.note_named(&snapshot.catalog, &name, None);
        }
        let Called { server, tool, arguments } = meta::resolve_call(&body, &visible, &snapshot.tools)?;
        let server = snapshot.catalog.get(server.as_str()).ok_or_else(access::unknown_server)?;
        let permit = self.access.authorize(caller, server, known)?;
        journey.record.permit(&permit);
        journey.record.tool = Some(tool.name.clone());
        journey.note_call(server, tool.name.as_str(), Some(&arguments));
        self.limit_calls(journey, &permit, &[(tool.name.as_str(), 1)]).await?;
        let arguments = std::str::from_utf8(&arguments).map_err(Refusal::internal)?;
        if server.dialect.is_mcp() {
            return self.call_mcp(session, journey, (permit, tool), arguments, change_count).await;
        }
        let live = self.begin_live(&permit, Use::Tool(tool.name.clone()), change_count)?;
        journey.serve(Some(live));
        let Some(answered) = self.ask_rest(session, journey, (permit, tool), arguments).await? else {
            return Ok(forsaken(session, journey));
        };
        let outcome = if answered.status < 400 { Outcome::ToolAnswered } else { Outcome::ToolError };
        journey.record.end_as(outcome);
        let answer = Answer::new(answered.status, "", answered.body);
        Ok(Step::Answer(match answered.media_type {
            Some(media_type) => answer.with("content-type", media_type),
            None => answer,
        }))
    }

    /// Calls a tool of a server that speaks MCP.
    pub(super) async fn call_mcp(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        (permit, tool): (Permit, Arc<Tool>),
        arguments: &str,
        change_count: u64,
    ) -> Result<Step, Refusal> {
        let is_streaming = wants_events(&session.req_header().headers);
        let ask = Ask {
            method: "tools/call".to_owned(),
            name: Some(tool.name.as_str().to_owned()),
            params: Some(outgoing::call(tool.name.as_str(), arguments)),
            wants_progress: is_streaming,
            asker: Asker::default(),
            param_headers: tool.param_headers.values(arguments),
            is_repeatable: permit.server().may_repeat(&tool),
            trace: journey.record.trace.clone(),
            ..Ask::default()
        };
        journey.record.enter(Leg::Plan);
        let live = self.begin_live(&permit, Use::Tool(tool.name.clone()), change_count)?;
        let trip = upstream::plan_ask(permit, Wanted::Tool(tool), &self.current.load().addresses)?;
        journey.serve(Some(live));
        journey.record.depart();
        let way = trip.way();
        let asking = self.client.ask(&way, &ask);
        let replies = tokio::select! {
            replies = asking => replies?,
            () = left(session) => return Ok(forsaken(session, journey)),
        };
        if is_streaming {
            stream(session, journey, replies).await
        } else {
            gather(session, journey, replies).await
        }
    }
}

/// Waits for the result and answers with it.
async fn gather(session: &mut Session, journey: &mut Journey, mut replies: Replies) -> Result<Step, Refusal> {
    loop {
        let told = tokio::select! {
            told = replies.next() => told?,
            () = left(session) => return Ok(forsaken(session, journey)),
        };
        if let Some(ended) = end_of(&told) {
            journey.record.arrive_back();
            return match ended {
                Ended::Answer { content_type, body } => {
                    journey.record.end_as(Outcome::ToolAnswered);
                    Ok(Step::Answer(Answer::new(200, content_type, body)))
                }
                Ended::Refused(refusal) => Err(refusal),
            };
        }
    }
}

/// Tells what the tool says on its way, and the result as the last event.
async fn stream(session: &mut Session, journey: &mut Journey, mut replies: Replies) -> Result<Step, Refusal> {
    let mut is_open = false;
    loop {
        let told = tokio::select! {
            told = replies.next() => told,
            () = left(session) => return Ok(forsaken(session, journey)),
            () = tokio::time::sleep(HEARTBEAT), if is_open => {
                if reply::send_comment(session, journey).await.is_err() {
                    return Ok(forsaken(session, journey));
                }
                continue;
            }
        };
        let ended = match &told {
            Ok(told) => end_of(told),
            Err(refusal) if is_open => Some(Ended::Refused(refusal.clone())),
            Err(refusal) => return Err(refusal.clone()),
        };
        let (name, data) = match (&ended, told) {
            // Nothing was said yet: the answer's status can say it.
            (Some(Ended::Refused(refusal)), _) if !is_open => {
                journey.record.arrive_back();
                return Err(refusal.clone());
            }
            (Some(Ended::Refused(refusal)), _) => ("error", reply::refusal_text(refusal, journey)),
            (Some(Ended::Answer { body, .. }), _) => ("result", String::from_utf8_lossy(body).into_owned()),
            (None, Ok(Told::Notification { method, params: Some(params) })) => match &*method {
                "notifications/progress" => ("progress", without_token(&params)),
                "notifications/message" => ("log", params),
                _ => continue,
            },
            (None, _) => continue,
        };
        if let Some(ended) = &ended {
            journey.record.arrive_back();
            match ended {
                Ended::Answer { .. } => journey.record.end_as(Outcome::ToolAnswered),
                Ended::Refused(refusal) => journey.record.refuse(refusal),
            }
        }
        let sending = async {
            if !std::mem::replace(&mut is_open, true) {
                reply::open_events(session, journey, &[]).await?;
            }
            if ended.is_none() {
                return reply::send_event(session, journey, name, &data).await;
            }
            reply::send_last_event(session, journey, name, &data).await
        };
        if let Err(error) = sending.await {
            return match error.root_cause().downcast_ref::<Refusal>() {
                Some(refusal) => Err(refusal.clone()),
                None => Ok(forsaken(session, journey)),
            };
        }
        if ended.is_some() {
            return Ok(Step::Written);
        }
    }
}

/// How a call ended, where this ends it.
fn end_of(told: &Told) -> Option<Ended> {
    let result = match told {
        Told::Notification { .. } | Told::Request { .. } => return None,
        Told::Error { error, .. } => return Some(Ended::Refused(of_error(error))),
        Told::Result { result, .. } => result,
    };
    if era::result_type(result) != era::ResultType::Complete {
        let sentence =
            "the tool wants to ask somebody first, which only MCP clients can be; call it at `/{server}/mcp`";
        return Some(Ended::Refused(Refusal::new(Code::InputNeeded, sentence)));
    }
    Some(match result::unwrap(result) {
        Ok(unwrapped) if unwrapped.is_error => {
            let sentence = String::from_utf8_lossy(&unwrapped.body).into_owned();
            Ended::Refused(Refusal::new(Code::ToolError, sentence))
        }
        Ok(unwrapped) => Ended::Answer { content_type: unwrapped.content_type, body: unwrapped.body.into() },
        Err(unreadable) => Ended::Refused(
            Refusal::new(Code::PeerBadAnswer, "the tool's answer cannot be read").because(unreadable),
        ),
    })
}

/// A server's error of JSON-RPC: arguments it does not take are the caller's to mend, all else is the server's.
fn of_error(error: &str) -> Refusal {
    let message = Members::read(error)
        .and_then(|error| error.get("message").and_then(members::text).map(|text| text.into_owned()))
        .unwrap_or_else(|| "the server answered with an error".to_owned());
    let message: String = message.chars().take(LONGEST_SENTENCE).collect();
    match outgoing::error_code(error) {
        Some(-32602) => Refusal::new(Code::ToolError, message),
        code => Refusal::new(Code::PeerBadAnswer, message)
            .because(format_args!("JSON-RPC error {}", code.unwrap_or_default())),
    }
}

/// The arguments in a body: an object, itself or wrapped in `arguments`.
pub(super) fn arguments(body: &[u8], may_be_wrapped: bool) -> Result<&str, Refusal> {
    let mut peek = Peek::new(may_be_wrapped);
    peek.feed(body)?;
    let bytes = match peek.finish()? {
        Whole::Empty => b"{}",
        Whole::Plain => body,
        Whole::Wrapped(inner) => &body[inner],
    };
    let not_json = || Refusal::new(Code::BodyNotJson, "the body must be a JSON object: the tool's arguments");
    let text = std::str::from_utf8(bytes).map_err(|_| not_json())?;
    // Read to its end, because it becomes part of a message of ours.
    let whole: &RawValue = serde_json::from_str(text).map_err(|_| not_json())?;
    if !whole.get().starts_with('{') {
        return Err(not_json());
    }
    Ok(whole.get())
}

/// Whether the client asks for events by name: everybody else is answered at once.
pub(super) fn wants_events(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|value| {
        value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains("text/event-stream"))
    })
}

/// A report of progress without the token, which is the gateway's.
fn without_token(params: &str) -> String {
    #[derive(Serialize)]
    struct Progress<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        progress: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        total: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<&'a RawValue>,
    }
    let Some(params) = Members::read(params) else { return "{}".to_owned() };
    let raw = |key| params.get(key).and_then(|raw| serde_json::from_str(raw).ok());
    let progress = Progress { progress: raw("progress"), total: raw("total"), message: raw("message") };
    serde_json::to_string(&progress).expect("raw JSON is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, may_be_wrapped: bool, expected: Result<&str, Code>) {
        let got = arguments(body.as_bytes(), may_be_wrapped).map_err(|refusal| refusal.code());
        assert_eq!(got, expected, "{body}");
    }

    #[test]
    fn arguments_are_an_object_to_its_end() {
        check(r#"{"a": 1}"#, true, Ok(r#"{"a": 1}"#));
        check("", true, Ok("{}"));
        check(r#" {"arguments": {"a": 1}} "#, true, Ok(r#"{"a": 1}"#));
        check(r#"{"arguments": {"a": 1}}"#, false, Ok(r#"{"arguments": {"a": 1}}"#));
        for body in ["[]", "1", "null", r#"{"a":1}},"method":"x""#, "{", r#"{"a":1} {}"#, "nonsense"] {
            check(body, true, Err(Code::BodyNotJson));
        }
    }

    #[test]
    fn only_who_names_events_gets_them() {
        let wants = |accept: Option<&str>| {
            let mut headers = HeaderMap::new();
            accept.map(|accept| headers.insert(header::ACCEPT, accept.parse().unwrap()));
            wants_events(&headers)
        };
        assert!(wants(Some("text/event-stream")) && wants(Some("application/json, Text/Event-Stream")));
        assert!(!wants(None) && !wants(Some("*/*")) && !wants(Some("application/json")));
    }
}
