//! The journey, in one screen: well-formed → who → server known → grant → enabled → tool known → limits → body.
//!
//! An earlier no hides the later ones. Waits only for what DESIGN allows: the first sight of an Open
//! WebUI user, one bounded reading of a tool list, and the first piece of the body.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::request::Parts;
use pingora::proxy::Session;

use super::{
    Gateway,
    body::{Bounds, Outbound},
    cors, head,
    journey::{Cargo, Journey, Rpc, Underway},
    line::Line,
    live::{LiveTrip, Use},
    origin, resource,
    served::{self, Visit},
    translated,
};
use crate::{
    access::{self, KnownGrants, Permit, Reach},
    catalog::{server::Server, tools::Tool},
    endpoints::{self, Answer, Audience},
    identity::{Caller, Face},
    names::RequestId,
    refusal::{Code, Refusal},
    route::{self, Page, Route},
    snapshot::Snapshot,
    trace::Leg,
    upstream,
};

/// Longest wait for a tool list to be read because an unknown tool was asked for.
pub(super) const MISS_PATIENCE: Duration = Duration::from_secs(3);

/// What to do with a request.
pub enum Step {
    /// Answer it here.
    Answer(Answer),
    /// It is answered: all of it has been written.
    Written,
    /// Send it to its peer. In the box that it travels in: made once, and not moved from future to future.
    Depart(Box<Underway>),
}

/// Whether a request needs to say who sends it.
enum Door<'p> {
    /// No: this is the answer.
    Answered(Answer),
    /// No: this page helps to get a credential.
    SignIn(Page),
    /// Yes.
    Open(Route<'p>),
}

impl Gateway {
    /// Walks one request through its journey, up to its departure.
    ///
    /// What a call of a REST tool never does is boxed: the room for it is made only where it is done.
    pub(super) async fn decide(&self, session: &mut Session, journey: &mut Journey) -> Result<Step, Refusal> {
        let sender = self.note_arrival(session, journey);
        self.refuse_malformed(session)?;
        let request: &Parts = session.req_header();
        #[cfg(test)]
        super::tests::panic_when_asked(request);
        let path = request.uri.path().to_owned();
        let route = match self.at_the_door(request, &path, journey)? {
            Door::Answered(answer) => return Ok(Step::Answer(answer)),
            Door::SignIn(page) => return self.let_sign_in(page, session, journey, sender).await,
            Door::Open(route) => route,
        };
        // Read before the snapshot, so that a change in between is noticed at departure.
        let change_count = self.current.change_count();
        let caller = self.who(request, &route, sender, journey).await?;
        let snapshot = self.snapshot();
        let known = self.current.grants(&snapshot)?;
        let permit =
            |journey: &mut Journey, server| self.permit(journey, (&caller, known, &snapshot), server);
        let (permit, tool) = match route {
            Route::Page(Page::MetaCall) => {
                let known = (&caller, known, &*snapshot);
                return Box::pin(self.call_by_name(session, journey, known, change_count)).await;
            }
            Route::Page(page) => return self.page(page, (&caller, known, &snapshot), None, session).await,
            Route::ServerPage(page, server) => {
                let permit = permit(journey, server)?;
                return self.page(page, (&caller, known, &snapshot), Some(&permit), session).await;
            }
            Route::Call { server, tool } => (permit(journey, server)?, tool),
            Route::Native(server) => {
                let permit = permit(journey, server)?;
                refuse_disabled(permit.server())?;
                let is_served = served::is_served(permit.server(), &snapshot, request);
                if !is_served || self.is_of_the_server(&permit, request) {
                    return Box::pin(self.decide_native(session, journey, permit, change_count)).await;
                }
                let visit = Visit { caller, snapshot: snapshot.clone(), change_count, only: Some(permit) };
                return Box::pin(self.serve(session, journey, visit)).await;
            }
            Route::Aggregate => {
                let visit = Visit { caller, snapshot: snapshot.clone(), change_count, only: None };
                return Box::pin(self.serve(session, journey, visit)).await;
            }
            Route::LegacyCall(name) => {
                let reach = self.access.reach(&caller, known);
                let (server, tool) = legacy_reading(&snapshot, &reach, name)?;
                let permit = permit(journey, server)?;
                journey.preferred_url = Some(format!("/{server}/{tool}"));
                (permit, tool)
            }
            Route::OtherMethod(allow) => return Err(Refusal::method_not_allowed(allow)),
            Route::Nothing => return Err(Refusal::new(Code::NotFound, "nothing is here")),
        };
        self.call(session, journey, (permit, tool), change_count).await
    }

    /// May they use this server.
    fn permit(
        &self,
        journey: &mut Journey,
        (caller, known, snapshot): (&Arc<Caller>, &KnownGrants, &Snapshot),
        server: &str,
    ) -> Result<Permit, Refusal> {
        let server = snapshot.catalog.get(server).ok_or_else(access::unknown_server)?;
        journey.record.server = Some(server.id.clone());
        let permit = self.access.authorize(caller, server, known)?;
        journey.record.permit(&permit);
        journey.record.leave();
        Ok(permit)
    }

    /// Who sent the request.
    async fn who(
        &self,
        request: &Parts,
        route: &Route<'_>,
        sender: Option<IpAddr>,
        journey: &mut Journey,
    ) -> Result<Arc<Caller>, Refusal> {
        journey.record.enter(Leg::Identify);
        self.limiting.refuse_overload()?;
        self.refuse_stranger(journey, request, face(route), sender)?;
        let caller = self.identity.identify(request, face(route), sender).await?;
        // A browser at a trusted address has what is believed there, whatever page it shows: one whose name leads here
        // (DNS rebinding) could say who it is.
        if self.identity.is_known_by_address_alone(&caller) {
            origin::refuse_foreign(request, &self.settings)?;
        }
        journey.record.scheme = Some(caller.scheme().as_str());
        journey.record.caller = Some(caller.clone());
        // Before anything of the body is read: one caller's many that never end must not be everybody's overload.
        self.limiting.begin(&mut journey.held, &caller)?;
        match route {
            // Not about one server.
            Route::Page(_) | Route::Aggregate => journey.record.leave(),
            _ => journey.record.enter(Leg::Authorize),
        }
        Ok(caller)
    }

    /// The call of a tool of a permitted server, as its dialect wants it.
    async fn call(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        (permit, tool): (Permit, &str),
        change_count: u64,
    ) -> Result<Step, Refusal> {
        journey.record.enter(Leg::Find);
        let found = match refuse_disabled(permit.server()) {
            Ok(()) => self.tool(&permit, tool).await,
            Err(refusal) => Err(refusal),
        };
        let tool = found.inspect_err(|_| journey.note_call(permit.server(), tool, None))?;
        journey.record.tool = Some(tool.name.clone());
        // Looked at before the body and counted after it, so that what is refused for its body costs nothing.
        journey.record.enter(Leg::Limit);
        let calls = [(tool.name.as_str(), 1)];
        self.foresee_calls(&permit, &calls)?;
        if permit.server().dialect.is_mcp() {
            journey.record.enter(Leg::Body);
            let body = self.read_whole(session, self.settings.mcp.max_message_bytes).await?;
            let arguments = translated::arguments(&body, !tool.takes_arguments_key)?;
            journey.note_call(permit.server(), tool.name.as_str(), Some(arguments.as_bytes()));
            self.limit_calls(journey, &permit, &calls).await?;
            let calling = self.call_mcp(session, journey, (permit, tool), arguments, change_count);
            return Box::pin(calling).await;
        }
        journey.record.enter(Leg::Plan);
        let trip = upstream::plan(permit, tool.clone(), &self.current.load().addresses)?;
        journey.record.enter(Leg::Body);
        let mut body =
            Outbound::begin(session, !tool.takes_arguments_key, Bounds::of(&self.settings)).await?;
        if journey.record.wants_entry() {
            body.note_arguments(trip.server().audits_arguments);
        }
        self.limit_calls(journey, trip.permit(), &calls).await?;
        let live = self.begin_live(trip.permit(), Use::Tool(tool.name.clone()), change_count)?;
        Ok(Step::Depart(Underway::new(trip, Cargo::Arguments(body), live)))
    }

    /// What is decided before anybody asks who is asking.
    fn at_the_door<'p>(
        &self,
        request: &Parts,
        path: &'p str,
        journey: &mut Journey,
    ) -> Result<Door<'p>, Refusal> {
        journey.origin = cors::listed_origin(request, &self.settings.cors_origins);
        // Before identity: a browser cannot read a 401 that lacks the CORS headers.
        if cors::is_preflight(request, journey.origin.as_deref()) {
            return Ok(Door::Answered(cors::preflight_answer(request)));
        }
        let route = route::resolve(&request.method, path)?;
        journey.record.route = route.label();
        match route {
            Route::Native(_) | Route::Aggregate => {
                journey.rpc = Some(Rpc { id: None, sign_in: resource::sign_in(request, &self.settings) });
                origin::refuse_foreign(request, &self.settings)?;
            }
            Route::Page(Page::ProtectedResource) => {
                return resource::metadata(request, &self.settings).map(Door::Answered);
            }
            Route::Page(
                page @ (Page::AuthorizationServer
                | Page::OpenIdConfiguration
                | Page::OAuthAuthorize
                | Page::OAuthToken
                | Page::OAuthRegister),
            ) => return Ok(Door::SignIn(page)),
            Route::Page(page) if endpoints::audience(page) == Audience::Anyone => {
                // Balancers ask every few seconds.
                journey.record.forget_own_trace();
                return endpoints::public_answer(page).map(Door::Answered);
            }
            _ => {}
        }
        Ok(Door::Open(route))
    }

    /// Notes what stands in the record of every request; the address it came from is for identity.
    fn note_arrival(&self, session: &Session, journey: &mut Journey) -> Option<IpAddr> {
        let request = session.req_header();
        let arrival = self.settings.addresses.arrival(session);
        journey.record.client = arrival.client;
        journey.record.method = method_word(&request.method);
        journey.note_request(request);
        let mut ids = request.headers.get_all("x-request-id").iter();
        if let (Some(id), None) = (ids.next(), ids.next())
            && let Some(id) = id.to_str().ok().and_then(|id| RequestId::parse(id).ok())
        {
            journey.record.request_id = id;
        }
        journey.record.begin_trace(&request.headers);
        arrival.sender
    }

    fn refuse_malformed(&self, session: &Session) -> Result<(), Refusal> {
        let (request, raw) = (session.req_header(), session.to_h1_raw());
        if let Some(line) = Line::current() {
            head::check_as_heard(&line.hearing())?;
        }
        head::check(request, &raw, self.settings.max_header_bytes)
    }

    /// The tool of this name; a miss has the server's list read once more.
    ///
    /// What rules deny is refused by its name alone, so the time it takes does not say whether the server has it.
    async fn tool(&self, permit: &Permit, name: &str) -> Result<Arc<Tool>, Refusal> {
        let server = permit.server();
        if !permit.tools().allows(name) {
            return Err(access::unknown_tool());
        }
        let find = || self.current.load().tools.find(server.id.as_str(), name).cloned();
        if let Some(tool) = find() {
            return Ok(tool);
        }
        let is_withheld = || self.current.load().pins.withholds(server, name);
        if is_withheld() {
            return Err(access::withheld_tool());
        }
        self.refresher.read_now(&server.id, MISS_PATIENCE).await;
        if let Some(tool) = find() {
            return Ok(tool);
        }
        if is_withheld() {
            return Err(access::withheld_tool());
        }
        if self.current.load().tools.get(server.id.as_str()).is_none() {
            return Err(upstream::unreachable("the server's tools have never been read"));
        }
        Err(access::unknown_tool())
    }

    /// Notes the trip as underway, unless its permit was withdrawn since the decision.
    pub(super) fn begin_live(
        &self,
        permit: &Permit,
        what: Use,
        change_count: u64,
    ) -> Result<LiveTrip, Refusal> {
        let live = self.live.begin(permit, what.clone(), self.identity.pin(permit.caller()));
        let has_other_judge = !self.is_judge_of_now();
        if has_other_judge {
            live.pin(self.bench.load().identity.pin(permit.caller()));
        }
        if has_other_judge || self.current.change_count() != change_count {
            let now = self.permit_now(permit)?;
            if !what.may_go_on(permit, &now) {
                return Err(access::unknown_tool());
            }
        }
        Ok(live)
    }
}

fn face(route: &Route<'_>) -> Face {
    match route {
        Route::Page(Page::OpenApi) | Route::ServerPage(Page::ServerOpenApi, _) => Face::Spec,
        Route::Page(Page::Refresh | Page::MetaSearch | Page::MetaDescribe | Page::MetaCall)
        | Route::Call { .. }
        | Route::LegacyCall(_)
        | Route::Native(_)
        | Route::Aggregate => Face::Call,
        Route::OtherMethod(_) | Route::Nothing => Face::Call,
        Route::Page(_) | Route::ServerPage(..) => Face::Page,
    }
}

/// The reading of `{server}_{tool}` whose tool is known, or else the one with the longest known server.
///
/// A tool that rules deny counts as unknown, or what became of its name would show that the server has it.
fn legacy_reading<'n>(
    snapshot: &Snapshot,
    reach: &Reach,
    name: &'n str,
) -> Result<(&'n str, &'n str), Refusal> {
    let known_server = |(server, _): &(&str, &str)| snapshot.catalog.get(server).is_some();
    let known_tool = |(server, tool): &(&str, &str)| {
        let is_allowed = |server: &Arc<Server>| reach.tools(&server.id).allows(tool);
        snapshot.catalog.get(server).is_some_and(is_allowed) && snapshot.tools.find(server, tool).is_some()
    };
    route::legacy_readings(name)
        .filter(known_server)
        .find(known_tool)
        .or_else(|| route::legacy_readings(name).find(known_server))
        .ok_or_else(access::unknown_server)
}

/// The answer about a server that is switched off.
pub fn refuse_disabled(server: &Server) -> Result<(), Refusal> {
    if server.is_enabled {
        return Ok(());
    }
    Err(Refusal::new(Code::ServerDisabled, "this server is switched off"))
}

fn method_word(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        _ => "other",
    }
}
