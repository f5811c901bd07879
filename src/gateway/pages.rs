//! Pages that the gateway answers itself: from memory at once, or on a thread where nobody waits for them.
//!
//! Decides where the answer is made. What it says, `endpoints` does.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use pingora::proxy::Session;

use super::{Gateway, decide::Step};
use crate::{
    access::{KnownGrants, Permit},
    endpoints::{self, Answer, Asked},
    identity::Caller,
    refusal::Refusal,
    route::Page,
    snapshot::Snapshot,
};

impl Gateway {
    /// The answer of a page to a caller. The body is read where the page takes one, else left where it is.
    pub(super) async fn page(
        &self,
        page: Page,
        (caller, known, snapshot): (&Arc<Caller>, &KnownGrants, &Arc<Snapshot>),
        permit: Option<&Permit>,
        session: &mut Session,
    ) -> Result<Step, Refusal> {
        let body = if endpoints::takes_body(page) {
            self.read_whole(session, self.settings.max_wrapped_body_bytes).await?
        } else {
            Bytes::new()
        };
        let asked = Asked {
            caller,
            access: &self.access,
            known,
            snapshot,
            permit,
            request: session.req_header(),
            body: &body,
            documents: &self.documents,
            refresher: &self.refresher,
            shows_meta_tools_only: self.settings.shows_meta_tools_only,
        };
        if let Some(answer) = endpoints::answer_at_once(page, &asked)? {
            return Ok(Step::Answer(answer));
        }
        let request = session.req_header().as_owned_parts();
        let asked = (caller.clone(), snapshot.clone(), permit.cloned(), request);
        Box::pin(self.page_aside(page, asked)).await.map(Step::Answer)
    }

    /// The answer of a page that takes long, on a thread where no other request waits for it.
    async fn page_aside(
        &self,
        page: Page,
        (caller, snapshot, permit, request): (Arc<Caller>, Arc<Snapshot>, Option<Permit>, Parts),
    ) -> Result<Answer, Refusal> {
        let (access, current) = (self.access.clone(), self.current.clone());
        let (documents, refresher) = (self.documents.clone(), self.refresher.clone());
        let shows_meta_tools_only = self.settings.shows_meta_tools_only;
        let answer = tokio::task::spawn_blocking(move || {
            let asked = Asked {
                caller: &caller,
                access: &access,
                known: current.grants(&snapshot)?,
                snapshot: &snapshot,
                permit: permit.as_ref(),
                request: &request,
                body: &Bytes::new(),
                documents: &documents,
                refresher: &refresher,
                shows_meta_tools_only,
            };
            endpoints::answer(page, &asked)
        });
        answer.await.unwrap_or_else(|_| Err(Refusal::internal("a page that panicked; the log has its place")))
    }
}
