//! `GET /openapi.json` and `GET /{server}/openapi.json`: served from memory, compressed, with an ETag.

use std::sync::Arc;

use http::header;

use super::{
    Answer, Asked, Visible, listings,
    openapi::{Encoding, Rendered, Scope, choose, is_unchanged},
};
use crate::refusal::{Code, Refusal};

/// The tools of all the caller's servers.
pub(super) fn all(asked: &Asked<'_>) -> Result<Answer, Refusal> {
    let visible = listings::visible_servers(asked).into_iter();
    let enabled: Vec<Visible> = visible.filter(|visible| visible.server.is_enabled).collect();
    Ok(answer(asked, Scope::All, &enabled))
}

/// The tools of one server.
pub(super) fn one(asked: &Asked<'_>) -> Result<Answer, Refusal> {
    let permitted = listings::permitted(asked)?;
    if !permitted.server.is_enabled {
        return Err(Refusal::new(Code::ServerDisabled, "this server is switched off"));
    }
    Ok(answer(asked, Scope::One(&permitted.server.id), std::slice::from_ref(&permitted)))
}

fn answer(asked: &Asked<'_>, scope: Scope<'_>, visible: &[Visible]) -> Answer {
    let text =
        |name| asked.request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let encoding = choose(text(header::ACCEPT_ENCODING));
    let version = asked.snapshot.tools_version;
    let rendered: Arc<Rendered> =
        asked.documents.get(scope, version, visible, &asked.snapshot.tools, encoding);
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
