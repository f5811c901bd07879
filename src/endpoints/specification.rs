//! `GET /openapi.json` and `GET /{server}/openapi.json`: served from memory, compressed, with an ETag.

use std::sync::Arc;

use http::header;

use super::{
    Answer, Asked, Visible, listings, meta,
    openapi::{Encoding, Rendered, Scope, choose, is_unchanged},
};
use crate::{
    refusal::{Code, Refusal},
    snapshot::Snapshot,
};

/// The tools of all the caller's servers, or the meta tools in their place.
pub(super) fn all(asked: &Asked<'_>) -> Result<Answer, Refusal> {
    if asked.shows_meta_tools_only {
        return Ok(answer(asked, meta::document));
    }
    let visible = listings::visible_servers(asked).into_iter();
    let enabled: Vec<Visible> = visible.filter(|visible| visible.server.is_enabled).collect();
    Ok(answer(asked, written(asked, Scope::All, &enabled)))
}

/// The tools of one server.
pub(super) fn one(asked: &Asked<'_>) -> Result<Answer, Refusal> {
    let permitted = listings::permitted(asked)?;
    if !permitted.server.is_enabled {
        return Err(Refusal::new(Code::ServerDisabled, "this server is switched off"));
    }
    let scope = Scope::One(&permitted.server.id);
    Ok(answer(asked, written(asked, scope, std::slice::from_ref(&permitted))))
}

fn written(
    asked: &Asked<'_>,
    scope: Scope<'_>,
    visible: &[Visible],
) -> impl FnOnce(Encoding) -> Arc<Rendered> {
    let Snapshot { tools, tools_version, .. } = asked.snapshot;
    move |encoding| asked.documents.get(scope, *tools_version, visible, tools, encoding)
}

fn answer(asked: &Asked<'_>, document: impl FnOnce(Encoding) -> Arc<Rendered>) -> Answer {
    let text =
        |name| asked.request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let encoding = choose(text(header::ACCEPT_ENCODING));
    let rendered = document(encoding);
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
    match encoding {
        Encoding::Identity => answer,
        Encoding::Gzip => answer.with("content-encoding", "gzip".into()),
        Encoding::Brotli => answer.with("content-encoding", "br".into()),
    }
}
