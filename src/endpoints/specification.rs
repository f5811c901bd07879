//! `GET /openapi.json` and `GET /{server}/openapi.json`: served from memory, compressed, with an ETag.

use std::sync::Arc;

use http::header;

use super::{
    Answer, Asked, Visible, listings, meta,
    openapi::{Encoding, Rendered, Scope, choose, is_unchanged},
};
use crate::{
    refusal::{Code, Refusal},
    route::Page,
    snapshot::Snapshot,
};

/// Where a document comes from; none where it is not there.
type Source = fn(&Asked<'_>, Scope<'_>, &[Visible], Encoding) -> Option<Arc<Rendered>>;

/// The tools of all the caller's servers, or the meta tools in their place.
pub(super) fn all(asked: &Asked<'_>) -> Result<Answer, Refusal> {
    all_of(asked, written)?.ok_or_else(no_document)
}

/// The tools of one server.
pub(super) fn one(asked: &Asked<'_>) -> Result<Answer, Refusal> {
    one_of(asked, written)?.ok_or_else(no_document)
}

/// Either, where its document is in memory.
pub(super) fn from_memory(page: Page, asked: &Asked<'_>) -> Result<Option<Answer>, Refusal> {
    if page == Page::ServerOpenApi { one_of(asked, found) } else { all_of(asked, found) }
}

fn all_of(asked: &Asked<'_>, source: Source) -> Result<Option<Answer>, Refusal> {
    if asked.shows_meta_tools_only {
        return Ok(answer(asked, |encoding| Some(meta::document(encoding))));
    }
    let visible = listings::visible_servers(asked).into_iter();
    let enabled: Vec<Visible> = visible.filter(|visible| visible.server.is_enabled).collect();
    Ok(answer(asked, |encoding| source(asked, Scope::All, &enabled, encoding)))
}

fn one_of(asked: &Asked<'_>, source: Source) -> Result<Option<Answer>, Refusal> {
    let permitted = listings::permitted(asked)?;
    if !permitted.server.is_enabled {
        return Err(Refusal::new(Code::ServerDisabled, "this server is switched off"));
    }
    let scope = Scope::One(&permitted.server.id);
    Ok(answer(asked, |encoding| source(asked, scope, std::slice::from_ref(&permitted), encoding)))
}

fn written(
    asked: &Asked<'_>,
    scope: Scope<'_>,
    visible: &[Visible],
    encoding: Encoding,
) -> Option<Arc<Rendered>> {
    let Snapshot { tools, tools_version, .. } = asked.snapshot;
    Some(asked.documents.get(scope, *tools_version, visible, tools, encoding))
}

fn found(
    asked: &Asked<'_>,
    scope: Scope<'_>,
    visible: &[Visible],
    encoding: Encoding,
) -> Option<Arc<Rendered>> {
    asked.documents.find(scope, asked.snapshot.tools_version, visible, encoding)
}

fn no_document() -> Refusal {
    Refusal::internal("a document that is not written")
}

fn answer(asked: &Asked<'_>, document: impl FnOnce(Encoding) -> Option<Arc<Rendered>>) -> Option<Answer> {
    let text =
        |name| asked.request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let encoding = choose(text(header::ACCEPT_ENCODING));
    let rendered = document(encoding)?;
    let is_unchanged = is_unchanged(text(header::IF_NONE_MATCH), &rendered.etag);
    let mut answer = if is_unchanged {
        Answer::new(304, "", Default::default())
    } else {
        Answer::new(200, "application/json", rendered.body.clone())
    };
    // Kept by nobody but the caller, and asked for again each time.
    answer = answer
        .with("etag", rendered.etag.clone())
        .with("cache-control", "private, no-cache".into())
        .with("vary", "Authorization, Cookie, Accept-Encoding".into());
    Some(match encoding {
        Encoding::Identity => answer,
        Encoding::Gzip => answer.with("content-encoding", "gzip".into()),
        Encoding::Brotli => answer.with("content-encoding", "br".into()),
    })
}
