//! What a server wants to know of the client's person before it goes on: elicitation, sampling, roots.
//!
//! Decides how the question crosses from the server's era to the client's. Between two legacy ends it passes, under an
//! id that says where its answer goes. A modern client gets it as the result of its call, which waits here until the
//! client calls again. A legacy client is asked in the stream of its call what a modern server wants to be called
//! again with. What waits is in this process alone: with several replicas the answer has to come to the same one.

use pingora::proxy::Session;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Speaker, Visit,
    desk::{Call, PATIENCE},
    relay::{Errand, left},
    speaker::binding,
    telling::Telling,
};
use crate::{
    client::{Ask, Replies, SessionRef},
    gateway::{Gateway, journey::Journey, native::exchange::now},
    mcp::{
        era,
        members::{self, Members},
        outgoing,
        question::Response,
        session::Purpose,
        splice::quoted,
    },
    refusal::{Code, Refusal},
    upstream::{self, Wanted},
};

/// Most questions a server may have at once.
const MAX_QUESTIONS: usize = 16;
/// Most rounds of questions a call may need.
const MAX_ROUNDS: u32 = 8;

/// Where a client comes back to.
pub(super) enum Return {
    /// The call that waits here.
    Call(Box<Parked>),
    /// The server, with the state it gave, which is raw JSON.
    Server(String),
}

/// Where the answer to a question goes, as its sealed id says.
#[derive(Serialize, Deserialize)]
enum Sender {
    /// To this server's session, in answer to the id it gave, which is raw JSON; for the same group with the same key.
    Server { server: String, session: String, id: String, context: String },
    /// To the call that waits in this process.
    Call(String),
}

/// A call that waits for its client to come back.
pub(super) struct Parked {
    /// What the server says further.
    pub replies: Replies,
    /// The server's own id of its question.
    pub question: String,
}

/// The name of the one question of a call that waits.
const KEY: &str = "1";

impl Gateway {
    /// Has a call wait until its modern client has asked its person, and gives the result that says so.
    pub(super) fn park(
        &self,
        visit: &Visit,
        speaker: &Speaker,
        errand: &Errand<'_>,
        replies: Replies,
        (id, method, params): (String, String, String),
    ) -> Result<String, Refusal> {
        debug_assert!(speaker.is_modern, "others are asked in the stream");
        let name = Uuid::now_v7().to_string();
        let text = format!("{}\0{name}", about(errand));
        let state = self.seal_text(visit, Purpose::State, &text);
        let state = state.ok_or_else(|| Refusal::internal("a state cannot be sealed"))?;
        if !self.desk.park(name, visit.caller.name(), Parked { replies, question: id }) {
            let sentence = "too many calls wait for their clients; try again later";
            return Err(Refusal::new(Code::InputNeeded, sentence));
        }
        let state = Some(quoted(&state));
        let params = era::ask_to_modern(&method, &params).into_owned();
        Ok(era::InputRequired { requests: vec![(KEY.to_owned(), method, params)], state }.to_result())
    }

    /// What a modern client comes back with: to the call that waits here, or to the server that gave it the state.
    pub(super) async fn come_back(
        &self,
        visit: &Visit,
        errand: &Errand<'_>,
        (state, responses): (&str, Option<&str>),
    ) -> Result<Return, Refusal> {
        let gone = || {
            let sentence = "the call that asked has ended, or waits at another replica; call again";
            Refusal::new(Code::BadCursor, sentence)
        };
        // Given to this caller, for this call: to a server all callers are one.
        let opened = self.session_keys.open_text(&binding(visit, Purpose::State), state, now());
        let text = opened.ok_or_else(gone)?;
        let (was_about, state) = text.split_once('\0').ok_or_else(gone)?;
        if was_about != about(errand) {
            return Err(Refusal::new(Code::BadCursor, "this state belongs to another call"));
        }
        if state.starts_with('"') {
            return Ok(Return::Server(state.to_owned()));
        }
        let mut parked = self.desk.take_up(state).ok_or_else(gone)?;
        let response = responses.and_then(Members::read).and_then(|responses| responses.get(KEY));
        let outcome = response.ok_or(r#"{"code":-32603,"message":"the client gave no answer"}"#);
        parked.replies.respond(&parked.question, outcome).await?;
        Ok(Return::Call(Box::new(parked)))
    }

    /// A modern server's question to a modern client, with a state that is good for this caller and this call alone.
    /// Any other result stays.
    pub(super) fn bound(
        &self,
        visit: &Visit,
        errand: &Errand<'_>,
        result: String,
    ) -> Result<String, Refusal> {
        if era::result_type(&result) != era::ResultType::InputRequired {
            return Ok(result);
        }
        let bad = || Refusal::new(Code::PeerBadAnswer, "the server's question cannot be passed on");
        let mut asked = era::InputRequired::read(&result).ok_or_else(bad)?;
        if let Some(state) = asked.state.filter(|state| state.starts_with('"')) {
            let text = format!("{}\0{state}", about(errand));
            asked.state = Some(quoted(&self.seal_text(visit, Purpose::State, &text).ok_or_else(bad)?));
        } else {
            asked.state = None;
        }
        Ok(asked.to_result())
    }

    /// A question between two legacy ends, under an id that says where its answer goes; none where the client
    /// cannot be asked.
    pub(super) fn pass_on(
        &self,
        visit: &Visit,
        speaker: &Speaker,
        errand: &Errand<'_>,
        replies: &Replies,
        (id, method, params): (&str, &str, Option<&str>),
    ) -> Option<String> {
        if !can_be_asked(speaker, method) {
            return None;
        }
        let session = replies.session()?.to_text();
        let (server, context) = (errand.server.to_string(), errand.way.context().to_string());
        let back = Sender::Server { server, session, id: id.to_owned(), context };
        self.question(visit, &back, method, params)
    }

    fn question(&self, visit: &Visit, back: &Sender, method: &str, params: Option<&str>) -> Option<String> {
        let back = serde_json::to_string(back).ok()?;
        let id = quoted(&self.seal_text(visit, Purpose::Request, &back)?);
        Some(outgoing::asked(&id, method, params))
    }

    fn seal_text(&self, visit: &Visit, purpose: Purpose, text: &str) -> Option<String> {
        let expires_at = now().saturating_add(self.settings.mcp.session_ttl.as_secs());
        self.session_keys.seal_text(&binding(visit, purpose), text, expires_at)
    }

    /// Takes a legacy client's answer to where the question came from.
    pub(super) async fn take_response(
        &self,
        visit: &Visit,
        speaker: &Speaker,
        response: &Response<'_>,
    ) -> Result<(), Refusal> {
        if speaker.is_modern {
            return Err(Refusal::new(Code::BadMessage, "a client of this revision sends no responses"));
        }
        let nobody = || Refusal::new(Code::BadMessage, "nobody waits for this answer, at this replica");
        let back = members::text(response.id)
            .and_then(|id| self.session_keys.open_text(&binding(visit, Purpose::Request), &id, now()))
            .and_then(|text| serde_json::from_str(&text).ok());
        match back.ok_or_else(nobody)? {
            Sender::Call(name) => {
                let outcome = response.outcome.map(str::to_owned).map_err(str::to_owned);
                if self.desk.answer(&name, outcome) { Ok(()) } else { Err(nobody()) }
            }
            Sender::Server { server, session, id, context } => {
                let permit = self.permit_for(visit, &server)?;
                let session = SessionRef::from_text(&session).ok_or_else(nobody)?;
                let trip = upstream::plan_ask(permit, Wanted::Other, &self.current.load().addresses)?;
                let way = trip.way();
                if way.context().to_string() != context {
                    return Err(nobody());
                }
                self.client.tell(&way, &session, outgoing::response(&id, response.outcome)).await
            }
        }
    }

    /// Asks a legacy client, in the stream of its call, what a modern server wants to know, and calls again with the
    /// answers.
    pub(super) async fn inquire(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        visit: &Visit,
        (telling, errand, call): (&mut Telling<'_>, &Errand<'_>, &Call),
        result: &str,
    ) -> Result<Replies, Refusal> {
        let bad = || Refusal::new(Code::PeerBadAnswer, "the server's question cannot be passed on");
        let wanted = era::InputRequired::read(result).ok_or_else(bad)?;
        if wanted.requests.len() > MAX_QUESTIONS || telling.next_round() > MAX_ROUNDS {
            return Err(bad().because("too many questions"));
        }
        let mut responses = Vec::with_capacity(wanted.requests.len());
        for (key, method, params) in &wanted.requests {
            if !can_be_asked(telling.speaker, method) {
                let sentence = "the tool wants to ask something that this client cannot be asked";
                return Err(Refusal::new(Code::InputNeeded, sentence));
            }
            let name = Uuid::now_v7().to_string();
            let mut expected = self.desk.expect(name.clone());
            let params = era::ask_to_legacy(method, params, &name);
            let back = Sender::Call(name.clone());
            let question = self.question(visit, &back, method, Some(&params)).ok_or_else(bad)?;
            telling.tell(session, journey, &question).await?;
            let answered = tokio::select! {
                answered = expected.answered() => answered,
                () = tokio::time::sleep(PATIENCE) => None,
                () = left(session) => None,
                () = call.cancelled() => None,
            };
            match answered {
                Some(Ok(response)) => responses.push((key.clone(), response)),
                Some(Err(_)) | None => return Err(unanswered()),
            }
        }
        let params = errand.ask.params.as_deref().unwrap_or("{}");
        let params = Some(era::with_input(params, &responses, wanted.state.as_deref()));
        let ask = Ask { params, ..errand.ask.clone() };
        let asking = self.client.ask(&errand.way, &ask);
        tokio::select! {
            replies = asking => replies,
            () = left(session) => Err(unanswered()),
            () = call.cancelled() => Err(unanswered()),
        }
    }
}

fn unanswered() -> Refusal {
    Refusal::new(Code::InputNeeded, "the client did not answer the tool's question")
}

/// What a call is of: a state is good for the same call alone.
fn about(errand: &Errand<'_>) -> String {
    let Ask { method, name, .. } = &errand.ask;
    let context = errand.way.context();
    format!("{}\n{context}\n{method}\n{}", errand.server, name.as_deref().unwrap_or_default())
}

/// Whether a client said that it can be asked this.
fn can_be_asked(speaker: &Speaker, method: &str) -> bool {
    let (true, Some(capabilities)) = (speaker.takes_events, &speaker.capabilities) else { return false };
    let name = match method {
        "elicitation/create" => "elicitation",
        "sampling/createMessage" => "sampling",
        "roots/list" => "roots",
        _ => return false,
    };
    Members::read(capabilities).is_some_and(|members| members.get(name).is_some())
}
