//! What the gateway answers itself: one table of endpoints, each with its audience.
//!
//! Decides the content of pages from the snapshot and the caller's reach, never who the caller is.
//! Every page shows only servers and tools `access` lets this caller use. Writes no bytes: an `Answer` becomes
//! bytes in `gateway/reply.rs`.

pub mod authorization;
mod listings;
pub mod mcp;
pub mod meta;
pub mod openapi;
pub mod protected_resource;
mod specification;

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use serde::Serialize;

use crate::{
    access::{Access, KnownGrants, Permit, ToolScope},
    catalog::{
        server::Server,
        tools::{Tool, ToolIndex},
    },
    identity::Caller,
    refusal::{Code, Refusal},
    route::Page,
    snapshot::{Snapshot, tools::Refresher},
};
use openapi::Documents;

/// Who may call an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Anybody, without a credential: nothing of the company shows.
    Anyone,
    /// Any caller who was believed; they see their own servers.
    Caller,
    /// A caller with a grant for the server in the path.
    Granted,
    /// A member of the admin group.
    Admin,
}

/// One endpoint.
pub struct Endpoint {
    /// The route it answers.
    pub page: Page,
    /// Its method.
    pub method: &'static str,
    /// Its paths, for documentation and tests.
    pub paths: &'static [&'static str],
    /// Who may call it.
    pub audience: Audience,
    run: fn(&Asked<'_>) -> Result<Answer, Refusal>,
}

/// Every endpoint. A page without an entry here cannot be answered; tests walk this table.
pub const TABLE: &[Endpoint] = &[
    endpoint(Page::Health, "GET", &["/health"], Audience::Anyone, |_| Ok(health())),
    endpoint(Page::ProtectedResource, "GET", PROTECTED_RESOURCES, Audience::Anyone, |_| Err(no_caller())),
    endpoint(Page::AuthorizationServer, "GET", AUTHORIZATION_SERVERS, Audience::Anyone, |_| Err(no_caller())),
    endpoint(Page::OpenIdConfiguration, "GET", OPENID_CONFIGURATIONS, Audience::Anyone, |_| Err(no_caller())),
    endpoint(Page::OAuthAuthorize, "GET", &["/oauth/authorize"], Audience::Anyone, |_| Err(no_caller())),
    endpoint(Page::OAuthToken, "POST", &["/oauth/token"], Audience::Anyone, |_| Err(no_caller())),
    endpoint(Page::OAuthRegister, "POST", &["/oauth/register"], Audience::Anyone, |_| Err(no_caller())),
    endpoint(Page::Servers, "GET", &["/", "/servers"], Audience::Caller, listings::servers),
    endpoint(Page::Tools, "GET", &["/tools"], Audience::Caller, listings::tools),
    endpoint(Page::Tenants, "GET", &["/tenants"], Audience::Caller, listings::tenants),
    endpoint(Page::OpenApi, "GET", &["/openapi.json"], Audience::Caller, specification::all),
    endpoint(Page::Server, "GET", &["/{server}"], Audience::Granted, listings::server),
    endpoint(Page::ServerOpenApi, "GET", &["/{server}/openapi.json"], Audience::Granted, specification::one),
    endpoint(Page::MetaSearch, "POST", &["/meta/search_tools"], Audience::Caller, meta::search),
    endpoint(Page::MetaDescribe, "POST", &["/meta/describe_tools"], Audience::Caller, meta::describe),
    endpoint(Page::MetaCall, "POST", &["/meta/call_tool"], Audience::Caller, meta::call),
    endpoint(Page::MetaStats, "GET", &["/meta/stats"], Audience::Caller, meta::stats),
    endpoint(Page::Refresh, "POST", &["/refresh"], Audience::Admin, refresh),
];

const PROTECTED_RESOURCES: &[&str] = &[
    "/.well-known/oauth-protected-resource",
    "/.well-known/oauth-protected-resource/mcp",
    "/.well-known/oauth-protected-resource/{server}/mcp",
];

const AUTHORIZATION_SERVERS: &[&str] = &["/.well-known/oauth-authorization-server"];
const OPENID_CONFIGURATIONS: &[&str] = &["/.well-known/openid-configuration"];

const fn endpoint(
    page: Page,
    method: &'static str,
    paths: &'static [&'static str],
    audience: Audience,
    run: fn(&Asked<'_>) -> Result<Answer, Refusal>,
) -> Endpoint {
    Endpoint { page, method, paths, audience, run }
}

/// Everything a page may look at.
pub struct Asked<'a> {
    /// Who asks.
    pub caller: &'a Caller,
    /// The rules of access.
    pub access: &'a Access,
    /// The grants to decide by.
    pub known: &'a KnownGrants,
    /// What is believed.
    pub snapshot: &'a Snapshot,
    /// The permit for the server in the path; none on pages without one.
    pub permit: Option<&'a Permit>,
    /// The request's head.
    pub request: &'a Parts,
    /// The request's body, where the page takes one; else empty.
    pub body: &'a Bytes,
    /// OpenAPI documents made so far.
    pub documents: &'a Documents,
    /// Has tool lists read again.
    pub refresher: &'a Refresher,
    /// Whether the document of all tools shows the meta tools instead.
    pub shows_meta_tools_only: bool,
}

/// A server that a caller may use, and which of its tools.
#[derive(Debug, Clone)]
pub struct Visible {
    /// The server.
    pub server: Arc<Server>,
    /// Its tools that may be shown.
    pub tools: ToolScope,
}

impl Visible {
    /// All that this caller may use, switched-off servers included, ordered by id.
    pub fn all(access: &Access, caller: &Caller, known: &KnownGrants, snapshot: &Snapshot) -> Vec<Self> {
        let reach = access.reach(caller, known);
        let servers = snapshot.catalog.iter().filter(|server| reach.includes(&server.id));
        servers
            .map(|server| Self { server: server.clone(), tools: reach.tools(&server.id).clone() })
            .collect()
    }

    /// The tools of this server that may be shown, ordered by name.
    fn tools_in<'a>(&'a self, index: &'a ToolIndex) -> impl Iterator<Item = &'a Arc<Tool>> {
        let list = index.get(self.server.id.as_str()).into_iter();
        list.flat_map(|list| list.iter()).filter(|tool| self.tools.allows(tool.name.as_str()))
    }
}

/// An answer that is not yet bytes on a wire.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`; none when empty.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
}

impl Answer {
    /// An answer with this body.
    pub fn new(status: u16, content_type: &'static str, body: Bytes) -> Self {
        Self { status, content_type, body, headers: Vec::new() }
    }

    /// 200 with a JSON body that is one caller's own.
    pub fn json(value: &impl Serialize) -> Result<Self, Refusal> {
        let body = serde_json::to_vec(value).map_err(Refusal::internal)?;
        Ok(Self::new(200, "application/json", body.into()).with("cache-control", "no-store".into()))
    }

    /// The answer with one more header.
    pub fn with(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// Who may call this page.
pub fn audience(page: Page) -> Audience {
    entry(page).map_or(Audience::Admin, |endpoint| endpoint.audience)
}

/// Whether a request for this page has a body to be read.
pub fn takes_body(page: Page) -> bool {
    match page {
        Page::MetaSearch | Page::MetaDescribe | Page::MetaCall => true,
        Page::Servers
        | Page::Tools
        | Page::Tenants
        | Page::OpenApi
        | Page::Health
        | Page::ProtectedResource
        | Page::AuthorizationServer
        | Page::OpenIdConfiguration
        | Page::OAuthAuthorize
        | Page::OAuthToken
        | Page::OAuthRegister
        | Page::Refresh
        | Page::Server
        | Page::ServerOpenApi
        | Page::MetaStats => false,
    }
}

/// Answers a page that needs no caller.
pub fn public_answer(page: Page) -> Result<Answer, Refusal> {
    match page {
        Page::Health => Ok(health()),
        _ => Err(Refusal::internal("this page is not public")),
    }
}

/// Answers a page from what is in memory; none where a document has to be written first, which takes long.
pub fn answer_at_once(page: Page, asked: &Asked<'_>) -> Result<Option<Answer>, Refusal> {
    match page {
        Page::OpenApi | Page::ServerOpenApi => specification::from_memory(page, asked),
        _ => answer(page, asked).map(Some),
    }
}

/// Answers a page.
pub fn answer(page: Page, asked: &Asked<'_>) -> Result<Answer, Refusal> {
    let endpoint = entry(page).ok_or_else(|| Refusal::internal("a page without an endpoint"))?;
    let is_admin = || asked.access.reach(asked.caller, asked.known).is_admin();
    if endpoint.audience == Audience::Admin && !is_admin() {
        return Err(Refusal::new(Code::AdminOnly, "only admins may do this"));
    }
    (endpoint.run)(asked)
}

fn entry(page: Page) -> Option<&'static Endpoint> {
    TABLE.iter().find(|endpoint| endpoint.page == page)
}

/// A page that is answered before there is a caller.
fn no_caller() -> Refusal {
    Refusal::internal("this page is answered without a caller")
}

fn health() -> Answer {
    #[derive(Serialize)]
    struct Health {
        status: &'static str,
        service: &'static str,
        version: &'static str,
    }
    let health = Health { status: "healthy", service: "portcullis", version: env!("CARGO_PKG_VERSION") };
    let body = serde_json::to_vec(&health).expect("three strings are always JSON");
    Answer::new(200, "application/json", body.into()).with("cache-control", "no-store".into())
}

fn refresh(asked: &Asked<'_>) -> Result<Answer, Refusal> {
    #[derive(Serialize)]
    struct Refreshing<'a> {
        refreshing: Vec<&'a str>,
    }
    let servers = asked.snapshot.catalog.iter().filter(|server| server.is_enabled);
    let mut refreshing = Vec::new();
    for server in servers {
        asked.refresher.read_soon(&server.id);
        refreshing.push(server.id.as_str());
    }
    let mut answer = Answer::json(&Refreshing { refreshing })?;
    answer.status = 202;
    Ok(answer)
}

#[cfg(test)]
mod table_tests {
    use super::*;

    #[test]
    fn health_and_signing_in_alone_are_public_and_every_page_is_in_the_table_once() {
        let public: Vec<_> =
            TABLE.iter().filter(|endpoint| endpoint.audience == Audience::Anyone).map(|e| e.page).collect();
        let sign_in = [
            Page::ProtectedResource,
            Page::AuthorizationServer,
            Page::OpenIdConfiguration,
            Page::OAuthAuthorize,
            Page::OAuthToken,
            Page::OAuthRegister,
        ];
        assert_eq!(public, [&[Page::Health][..], &sign_in].concat());
        for endpoint in TABLE {
            assert_eq!(TABLE.iter().filter(|other| other.page == endpoint.page).count(), 1);
        }
    }
}
