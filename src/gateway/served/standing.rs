//! Streams that stand as long as their client: changes of lists and of resources, as they happen.
//!
//! Decides what a client hears of: that its own lists are other ones now, because a server changed or a grant did, and
//! what servers say of the resources it follows. Ends with the caller's account; a grant that goes ends nothing but
//! what it was for.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use pingora::proxy::Session;
use tokio::sync::mpsc;

use super::{
    Speaker, Visit,
    asking::asker,
    desk::MAX_FOLLOWED,
    relay::{HEARTBEAT, forsaken, left},
};
use crate::{
    access::{Permit, ToolScope, unknown_server},
    catalog::{offers::Offers, tools::ToolList},
    client::{Asker, Client, Filter},
    credentials,
    gateway::{
        Gateway,
        configured::{LookedAt, is_still_there},
        decide::Step,
        journey::Journey,
        reply,
        translated::wants_events,
    },
    identity::Reason,
    mcp::{
        members::{self, Members},
        outgoing,
        question::{META_PREFIX, Question},
        splice::quoted,
        told::Told,
        uri,
    },
    names::ServerId,
    record::Outcome,
    refusal::{Code, Refusal},
    upstream::{self, Wanted, Way},
};

/// Messages that wait for a slow client; whoever says more waits too.
const HELD: usize = 64;

/// What a caller's lists were made of: equal while they say the same.
#[derive(Default)]
struct Seen(Vec<SeenServer>);

/// One server of a caller's, with what it was last seen to offer.
struct SeenServer {
    id: ServerId,
    scope: ToolScope,
    /// With whose key, and where, what the caller follows is followed.
    permit: Permit,
    tools: Option<Arc<ToolList>>,
    offers: Option<Arc<Offers>>,
}

impl Seen {
    fn has_same_tools(&self, other: &Self) -> bool {
        self.is_like(other, |a, b| a.scope == b.scope && is_same(&a.tools, &b.tools))
    }

    fn has_same_offers(&self, other: &Self) -> bool {
        self.is_like(other, |a, b| is_same(&a.offers, &b.offers))
    }

    fn is_like(&self, other: &Self, is_like: impl Fn(&SeenServer, &SeenServer) -> bool) -> bool {
        let mut pairs = self.0.iter().zip(&other.0);
        self.0.len() == other.0.len() && pairs.all(|(a, b)| a.id == b.id && is_like(a, b))
    }

    /// Whether what is followed at this server may be followed on as it is.
    fn goes_on(&self, before: &Self, server: &ServerId) -> bool {
        let of = |seen: &Self| seen.0.iter().find(|seen| seen.id == *server).map(|seen| seen.permit.clone());
        of(self).is_some_and(|now| of(before).is_none_or(|before| credentials::is_same(&before, &now)))
    }
}

/// Whether both are one and the same reading, or none.
fn is_same<T>(a: &Option<Arc<T>>, b: &Option<Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// What a stream tells of, and how.
struct Standing {
    filter: Filter,
    /// The servers of the resources that are followed.
    servers: Vec<ServerId>,
    /// The legacy session it belongs to.
    session: Option<String>,
    /// The `_meta` that every message has, as a member; none for legacy clients.
    tag: Option<String>,
    /// What servers say of the resources that are followed, as params in the client's words. Where it ends, the
    /// session has.
    updates: Option<mpsc::Receiver<String>>,
}

impl Gateway {
    /// The standing stream of a legacy client (MCP 2025-11-25, Transports, Listening for Messages).
    pub(super) async fn stand(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        visit: &Visit,
    ) -> Result<Step, Refusal> {
        let headers = &session.req_header().headers;
        // By name: a page that is looked at in a browser must not hang.
        if !wants_events(headers) {
            return Err(Refusal::new(Code::NotAcceptable, "`Accept` must name `text/event-stream`"));
        }
        if crate::mcp::headers::version(headers).is_some_and(crate::mcp::is_modern) {
            return Err(Refusal::method_not_allowed("POST"));
        }
        let own = self.session_of(headers, visit)?;
        let (following, updates) = own
            .as_deref()
            .map(|own| {
                let (sender, updates) = mpsc::channel(HELD);
                (self.desk.stand(own, sender), updates)
            })
            .unzip();
        let everything = Filter { tools: true, prompts: true, resources: true, uris: Vec::new() };
        let standing = Standing { filter: everything, servers: Vec::new(), session: own, tag: None, updates };
        let step = self.keep_telling(session, journey, visit, standing, None).await;
        drop(following);
        step
    }

    /// The stream of a modern client that subscribes (MCP 2026-07-28, Subscriptions).
    pub(super) async fn listen(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        visit: &Visit,
        speaker: &Speaker,
        question: &Question<'_>,
    ) -> Result<Step, Refusal> {
        if !speaker.takes_events {
            return Err(Refusal::new(Code::NotAcceptable, "`Accept` must name `text/event-stream`"));
        }
        let wanted = question.param("notifications").and_then(Members::read).unwrap_or_default();
        let flag = |key| wanted.get(key) == Some("true");
        let uris = wanted.get("resourceSubscriptions").and_then(members::items).unwrap_or_default();
        let mut filter = Filter {
            tools: flag("toolsListChanged"),
            prompts: flag("promptsListChanged"),
            resources: flag("resourcesListChanged"),
            uris: Vec::new(),
        };
        let (sender, updates) = mpsc::channel(HELD);
        let mut followed: BTreeMap<ServerId, (Way, Vec<String>)> = BTreeMap::new();
        for uri in uris.iter().take(MAX_FOLLOWED).filter_map(|uri| members::text(uri)) {
            // What is not there is not acknowledged.
            let Some((permit, own)) = self.resource_of(visit, &uri) else { continue };
            let server = permit.server().id.clone();
            let trip = upstream::plan_ask(permit, Wanted::Other, &self.current.load().addresses)?;
            followed.entry(server).or_insert_with(|| (trip.way(), Vec::new())).1.push(own);
            filter.uris.push(uri.into_owned());
        }
        let servers = followed.keys().cloned().collect();
        let followers = followed.into_iter().map(|(server, (way, uris))| {
            let maps = visit.only.is_none().then_some(server);
            follow(self.client.clone(), way, follower(visit, speaker), uris, maps, sender.clone())
        });
        let followers: Vec<_> = followers.collect();
        // The sender stays: nothing that servers do ends what the client asked for.
        let updates = Some(updates);
        let id = question.id.unwrap_or("null");
        let tag = format!(r#""_meta":{{"{META_PREFIX}subscriptionId":{id}}}"#);
        let standing = Standing { filter, servers, session: None, tag: Some(tag), updates };
        let following = futures_util::future::join_all(followers);
        tokio::select! {
            step = self.keep_telling(session, journey, visit, standing, Some(id)) => step,
            never = async { following.await; std::future::pending().await } => never,
        }
    }

    /// A legacy client follows a resource, or no longer does (MCP 2025-11-25, Resources, Subscriptions).
    pub(super) fn follow_resource(
        &self,
        visit: &Visit,
        speaker: &Speaker,
        question: &Question<'_>,
    ) -> Result<(), Refusal> {
        let uri = question.uri().unwrap_or_default();
        let unknown = || Refusal::new(Code::UnknownOffer, "Resource not found");
        let session = speaker.session.as_deref().ok_or_else(|| {
            Refusal::new(Code::BadCursor, "only a client with a session can follow a resource")
        })?;
        if question.method == "resources/unsubscribe" {
            self.desk.unfollow(session, &uri);
            return Ok(());
        }
        let (permit, own) = self.resource_of(visit, &uri).ok_or_else(unknown)?;
        let server = permit.server().id.clone();
        let maps = visit.only.is_none().then(|| server.clone());
        let trip = upstream::plan_ask(permit, Wanted::Other, &self.current.load().addresses)?;
        let (client, way, asker) = (self.client.clone(), trip.way(), follower(visit, speaker));
        // Without a standing stream nobody would hear: what cannot be told is taken all the same, as servers do.
        self.desk
            .follow(session, (&server, &uri), |heard| follow(client, way, asker, vec![own], maps, heard));
        Ok(())
    }

    /// Tells of changes until the client leaves, or its caller is none any more.
    async fn keep_telling(
        &self,
        session: &mut Session,
        journey: &mut Journey,
        visit: &Visit,
        mut standing: Standing,
        id: Option<&str>,
    ) -> Result<Step, Refusal> {
        journey.held.stream = Some(self.limiting.stand(&visit.caller)?);
        // A caller who is not seen otherwise is looked at as long as this stands.
        let mut looked_at = LookedAt::by(&self.bench.load().identity, &visit.caller);
        journey.serve(None);
        journey.record.end_as(Outcome::Answered);
        // Before the first look, so that nothing changes in between unheard.
        let (mut grants, mut lists) = (self.current.versions(), self.current.tools_versions());
        let mut seen = self.seen(visit)?;
        if reply::open_events(session, journey, &[]).await.is_err() {
            return Ok(forsaken(session, journey));
        }
        let mut messages: Vec<String> = id.map(|_| acknowledged(&standing)).into_iter().collect();
        loop {
            for message in messages.drain(..) {
                if reply::send_event(session, journey, "message", &message).await.is_err() {
                    return Ok(forsaken(session, journey));
                }
            }
            tokio::select! {
                changed = grants.changed() => drop(changed),
                changed = lists.changed() => drop(changed),
                heard = hear(&mut standing.updates) => {
                    let Some(params) = heard else { return self.end_telling(session, journey).await };
                    messages.push(message("notifications/resources/updated", &standing, Some(&params)));
                }
                () = left(session) => return Ok(forsaken(session, journey)),
                () = tokio::time::sleep(HEARTBEAT) => {
                    if reply::send_comment(session, journey).await.is_err() {
                        return Ok(forsaken(session, journey));
                    }
                }
            }
            looked_at.renew(&self.bench.load().identity, &visit.caller);
            let Ok(now) = self.seen(visit) else { return self.end_telling(session, journey).await };
            let is_there = |server: &ServerId| now.goes_on(&seen, server);
            if let Some(session) = &standing.session {
                self.desk.unfollow_servers(session, is_there);
            }
            if !standing.servers.iter().all(is_there) {
                return self.end_telling(session, journey).await;
            }
            messages.extend(changes(&standing, &seen, &now));
            seen = now;
        }
    }

    /// The caller, or the grant this was about, is gone.
    async fn end_telling(&self, session: &mut Session, journey: &mut Journey) -> Result<Step, Refusal> {
        journey.record.end_as(Outcome::Withdrawn);
        drop(reply::end_events(session).await);
        Ok(Step::Written)
    }

    /// What the caller's lists are made of now; refuses where the caller, or the grant for the one server, is gone.
    fn seen(&self, visit: &Visit) -> Result<Seen, Refusal> {
        let snapshot = self.current.load();
        let known = self.current.grants(&snapshot)?;
        if visit.caller.has_expired() {
            return Err(Reason::Expired.refuse());
        }
        let judge = self.bench.load();
        let caller = judge.identity.current(&visit.caller).ok_or_else(|| Reason::Withdrawn.refuse())?;
        let visible = match &visit.only {
            Some(permit) if !is_still_there(permit.server(), &snapshot) => return Err(unknown_server()),
            Some(permit) => {
                let now = judge.permit(permit, &self.current, &snapshot)?;
                vec![(now.server().id.clone(), now.tools().clone(), now)]
            }
            None => crate::endpoints::Visible::all(&judge.access, &caller, known, &snapshot)
                .into_iter()
                .filter_map(|visible| {
                    let now = judge.access.authorize(&caller, &visible.server, known).ok()?;
                    Some((visible.server.id.clone(), visible.tools, now))
                })
                .collect(),
        };
        let seen = visible.into_iter().map(|(server, scope, permit)| {
            let (tools, offers) = (snapshot.tools.get(server.as_str()), snapshot.offers.get(server.as_str()));
            SeenServer { tools: tools.cloned(), offers: offers.cloned(), id: server, scope, permit }
        });
        Ok(Seen(seen.collect()))
    }
}

/// What is told when a caller's lists have become these.
fn changes(standing: &Standing, before: &Seen, now: &Seen) -> impl Iterator<Item = String> {
    let (tools, offers) = (!now.has_same_tools(before), !now.has_same_offers(before));
    let changes = [
        (tools && standing.filter.tools, "notifications/tools/list_changed"),
        (offers && standing.filter.prompts, "notifications/prompts/list_changed"),
        (offers && standing.filter.resources, "notifications/resources/list_changed"),
    ];
    changes.into_iter().filter(|(is_told, _)| *is_told).map(|(_, method)| message(method, standing, None))
}

/// What is heard next; none when the session is over.
async fn hear(updates: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    match updates {
        Some(updates) => updates.recv().await,
        None => std::future::pending().await,
    }
}

/// What the stream tells of, as its first message says it.
fn acknowledged(standing: &Standing) -> String {
    let Filter { tools, prompts, resources, uris } = &standing.filter;
    let flags =
        [("toolsListChanged", tools), ("promptsListChanged", prompts), ("resourcesListChanged", resources)];
    let mut members: Vec<String> =
        flags.iter().filter(|(_, wanted)| **wanted).map(|(name, _)| format!(r#""{name}":true"#)).collect();
    if !uris.is_empty() {
        let uris: Vec<String> = uris.iter().map(|uri| quoted(uri)).collect();
        members.push(format!(r#""resourceSubscriptions":[{}]"#, uris.join(",")));
    }
    let params = format!(r#"{{"notifications":{{{}}}}}"#, members.join(","));
    message("notifications/subscriptions/acknowledged", standing, Some(&params))
}

/// A notification with the stream's tag.
fn message(method: &str, standing: &Standing, params: Option<&str>) -> String {
    let Some(tag) = &standing.tag else { return outgoing::notification(method, params) };
    let rest = params.and_then(|params| params.strip_prefix('{')).unwrap_or("}");
    let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
    outgoing::notification(method, Some(&format!("{{{tag}{comma}{rest}")))
}

/// Who follows: always the caller alone, or one would hear what another follows.
fn follower(visit: &Visit, speaker: &Speaker) -> Asker {
    Asker { session_of: Some(visit.caller.name().to_owned()), ..asker(visit, speaker) }
}

/// Whether a resource is the one that is followed, or a part of it (MCP 2025-11-25, Resources, Subscriptions).
fn is_within(uri: &str, followed: &str) -> bool {
    uri.strip_prefix(followed)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || followed.ends_with('/'))
}

/// Follows resources of one server; what is heard goes to `heard`, in the client's words.
fn follow(
    client: Client,
    way: Way,
    asker: Asker,
    own: Vec<String>,
    maps: Option<ServerId>,
    heard: mpsc::Sender<String>,
) -> BoxFuture<'static, ()> {
    async move {
        let filter = Filter { uris: own.clone(), ..Filter::default() };
        let Ok(mut replies) = client.listen(&way, &asker, &filter).await else { return };
        while let Ok(told) = replies.next().await {
            let Told::Notification { method, params: Some(params) } = told else { continue };
            let Some(uri) = Members::read(&params)
                .and_then(|params| params.get("uri").and_then(members::text).map(|uri| uri.into_owned()))
            else {
                continue;
            };
            if method != "notifications/resources/updated" || !own.iter().any(|own| is_within(&uri, own)) {
                continue;
            }
            let uri = maps.as_ref().map_or(uri.clone(), |server| uri::outward(server.as_str(), &uri));
            if heard.send(format!(r#"{{"uri":{}}}"#, quoted(&uri))).await.is_err() {
                return;
            }
        }
    }
    .boxed()
}
