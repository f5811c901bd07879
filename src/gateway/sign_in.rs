//! The pages by which MCP clients sign their users in at Entra ID: what `endpoints::authorization` decides, asked here.
//!
//! Decides how many clients may wait for Entra ID at once and how long. Never logs a query or a body: they hold codes
//! and tokens. Comes before identity: whoever is here has no credential yet.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::{Method, header};
use pingora::proxy::Session;
use tokio::sync::Semaphore;

use super::{Gateway, body, decide::Step, journey::Journey, native};
use crate::{
    dial::Dialer,
    endpoints::{
        Answer,
        authorization::{self, Facade, Told},
    },
    identity::entra::directory::Directory,
    refusal::{Code, Refusal},
    route::Page,
};

/// How long Entra ID may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client may take to say what it asks.
const BODY: Duration = Duration::from_secs(10);
/// Largest answer of Entra ID.
const MAX_ANSWER: usize = 1024 * 1024;
/// Clients that may wait for Entra ID at once: they need no credential, so there may be many.
const SEATS: usize = 64;

/// Signs users of MCP clients in at Entra ID.
pub struct SignIn {
    facade: Facade,
    entra: Arc<Directory>,
    dialer: Dialer,
    seats: Semaphore,
}

impl SignIn {
    /// As configured, in front of this Entra ID.
    pub fn new(facade: Facade, entra: Arc<Directory>) -> anyhow::Result<Self> {
        let dialer = Dialer::new(PATIENCE, MAX_ANSWER)?;
        Ok(Self { facade, entra, dialer, seats: Semaphore::new(SEATS) })
    }

    /// What Entra ID says to this form of a client.
    async fn ask(&self, form: &[u8]) -> Result<Told, Refusal> {
        let question = match authorization::question(&self.facade, form) {
            Ok(question) => question,
            Err(error) => return error.told(),
        };
        let Some(endpoints) = self.entra.endpoints() else {
            return authorization::unreachable("its discovery document has not been read").told();
        };
        let Ok(_seat) = self.seats.try_acquire() else {
            return authorization::unreachable("too many clients wait for Entra ID").told();
        };
        match self.exchange(&endpoints.token, question).await {
            Ok(answer) => authorization::told(answer.status().as_u16(), answer.body()),
            // The cause names the kind of failure and the address, never what was sent.
            Err(error) => authorization::unreachable(&format!("{error:#}")).told(),
        }
    }

    async fn exchange(&self, url: &str, form: String) -> anyhow::Result<http::Response<Bytes>> {
        let request = http::Request::post(url)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(Bytes::from(form))
            .context("Entra ID's token endpoint is no URL")?;
        self.dialer.exchange(request).await
    }
}

impl Gateway {
    /// The answer of a page of the sign-in.
    pub(super) async fn help_to_sign_in(
        &self,
        page: Page,
        session: &mut Session,
        journey: &mut Journey,
    ) -> Result<Step, Refusal> {
        let Some(sign_in) = &self.sign_in else {
            return Err(Refusal::new(Code::NotFound, "nothing is here"));
        };
        if session.req_header().method == Method::OPTIONS {
            return Ok(Step::Answer(authorization::preflight()));
        }
        let told = sign_in.answer(page, session).await?;
        if let Some(refusal) = &told.refusal {
            journey.record.refuse(refusal);
        }
        Ok(Step::Answer(told.answer))
    }
}

impl SignIn {
    async fn answer(&self, page: Page, session: &mut Session) -> Result<Told, Refusal> {
        let said = |answer: Answer| Told { answer, refusal: None };
        let endpoints = self.entra.endpoints();
        let jwks = endpoints.as_ref().map(|endpoints| endpoints.keys.as_str());
        match page {
            Page::AuthorizationServer => authorization::authorization_server(&self.facade, jwks).map(said),
            Page::OpenIdConfiguration => authorization::openid_configuration(&self.facade, jwks).map(said),
            Page::OAuthAuthorize => {
                let query = session.req_header().uri.query().unwrap_or_default();
                let entra = endpoints.as_ref().map(|endpoints| endpoints.authorization.as_str());
                authorization::authorize(&self.facade, entra, query)
            }
            Page::OAuthToken => self.ask(&body(session, "application/x-www-form-urlencoded").await?).await,
            Page::OAuthRegister => {
                authorization::register(&self.facade, &body(session, "application/json").await?)
            }
            Page::Servers
            | Page::Tools
            | Page::Tenants
            | Page::OpenApi
            | Page::Health
            | Page::ProtectedResource
            | Page::Refresh
            | Page::Server
            | Page::ServerOpenApi
            | Page::MetaSearch
            | Page::MetaDescribe
            | Page::MetaCall
            | Page::MetaStats => Err(Refusal::internal("this page is not of the sign-in")),
        }
    }
}

/// The whole body, where it is labelled as it must be.
async fn body(session: &mut Session, label: &'static str) -> Result<Bytes, Refusal> {
    authorization::refuse_other_type(&session.req_header().headers, label)?;
    let reading = body::read_whole(session, authorization::MAX_BODY);
    tokio::time::timeout(BODY, reading).await.map_err(|_| native::too_slow())?
}
