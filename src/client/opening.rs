//! The handshake of legacy revisions, over Streamable HTTP or over HTTP with SSE.
//!
//! Decides which revision a session has. Nothing of it does harm twice, so whatever broke off may be tried again.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{
    Asker,
    answer::{Limits, Reader, Refused, broke_off},
    hub::{Hub, own_answer},
    next_id,
    outbox::Outbox,
    session::Session,
    stopped::{Stopped, bad_answer, too_slow},
    stream,
};
use crate::{
    catalog::server::{Dialect, ProtocolVersion, Server},
    dial::wire::Wire,
    mcp::{
        answer::resolve_endpoint,
        headers,
        members::{self, Members},
        outgoing,
        told::Told,
    },
    upstream::{Destination, Way},
};

/// Who the gateway is, where nobody else is to be named.
pub(super) const OWN_INFO: &str =
    concat!(r#"{"name":"portcullis","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);

/// Opens a session.
pub(super) async fn open(
    wire: &Wire,
    way: &Way,
    destination: &Destination,
    asker: &Asker,
    limits: Limits,
) -> Result<Arc<Session>, Stopped> {
    let outbox = Outbox::new(wire, way, destination, "");
    let patience = outbox.patience();
    let opened = async {
        match way.server().dialect {
            Dialect::McpSse => open_events(outbox, asker, limits).await,
            Dialect::Mcp | Dialect::OpenApi => open_streamable(outbox, asker, limits).await,
        }
    };
    match tokio::time::timeout(patience, opened).await {
        Ok(opened) => opened.map_err(Stopped::harmless),
        Err(_) => Err(Stopped::Refused(too_slow("the handshake was not over in time"))),
    }
}

async fn open_streamable(mut outbox: Outbox, asker: &Asker, limits: Limits) -> Result<Arc<Session>, Stopped> {
    let id = next_id();
    let incoming = outbox.post(hello(id, outbox.way.server(), asker), &[]).await?;
    if !incoming.status().is_success() {
        let refused = Refused::read(incoming, limits).await;
        return Err(Stopped::Refused(refused.into_refusal()));
    }
    if let Some(session) = incoming.headers().get(&headers::SESSION_ID) {
        let session = session.to_str().ok().filter(|id| id.bytes().all(|byte| byte.is_ascii_graphic()));
        let session = session.filter(|id| !id.is_empty());
        let session =
            session.ok_or_else(|| bad_answer("it names a session in a way that MCP does not allow"))?;
        outbox.session.id = Some(session.to_owned());
    }
    let mut reader = Reader::of(incoming, limits)?;
    let result = answer_to(id, &mut reader).await?;
    reader.finish();
    outbox.session.version = version_of(&result)?;
    let outbox = Arc::new(outbox);
    outbox.tell(outgoing::notification("notifications/initialized", None)).await?;
    set_level(&outbox, &result, asker, limits).await?;
    let (stopping, stop) = oneshot::channel();
    let can_be_asked = asker.capabilities.is_some();
    let hub = Arc::new(Hub::new(asker));
    let session = Session::new(outbox, result, hub, (stopping, Some(stop)), limits, can_be_asked);
    if can_be_asked {
        // Some servers ask there, whatever the question is about.
        session.open_stream();
    }
    Ok(session)
}

/// What the server answers to the question with this id.
async fn answer_to(id: u64, reader: &mut Reader) -> Result<String, Stopped> {
    while let Some(told) = reader.next().await? {
        if let Some(answer) = answered(id, told) {
            return answer;
        }
    }
    Err(Stopped::Lost(broke_off(None)))
}

fn answered(id: u64, told: Told) -> Option<Result<String, Stopped>> {
    let id = id.to_string();
    match told {
        Told::Result { id: answered, result } if answered == id => Some(Ok(result)),
        Told::Error { id: answered, error } if answered.as_deref().is_none_or(|it| it == id) => {
            let code = outgoing::error_code(&error).unwrap_or_default();
            let cause = format_args!("the server refused the handshake with error {code}");
            Some(Err(Stopped::Refused(bad_answer(cause))))
        }
        Told::Result { .. } | Told::Error { .. } | Told::Notification { .. } | Told::Request { .. } => None,
    }
}

async fn open_events(mut outbox: Outbox, asker: &Asker, limits: Limits) -> Result<Arc<Session>, Stopped> {
    let incoming = outbox.get(None).await?;
    if !incoming.status().is_success() {
        let refused = Refused::read(incoming, limits).await;
        return Err(Stopped::Refused(refused.into_refusal()));
    }
    let mut reader = Reader::of(incoming, limits)?;
    outbox.session.endpoint = Some(endpoint(&mut reader, &outbox.destination).await?);
    let id = next_id();
    let hello = hello(id, outbox.way.server(), asker);
    outbox.tell(hello).await?;
    let result = loop {
        match reader.next().await? {
            Some(Told::Request { id, method, .. }) => {
                if let Some(answer) = own_answer(false, &id, &method) {
                    outbox.tell(answer).await?;
                }
            }
            Some(told) => {
                if let Some(answer) = answered(id, told) {
                    break answer?;
                }
            }
            None => return Err(Stopped::Lost(broke_off(None))),
        }
    };
    outbox.session.version = version_of(&result)?;
    let can_be_asked = asker.capabilities.is_some();
    let (outbox, hub) = (Arc::new(outbox), Arc::new(Hub::new(asker)));
    outbox.tell(outgoing::notification("notifications/initialized", None)).await?;
    let (stopping, stop) = oneshot::channel();
    tokio::spawn(stream::keep_until_end(reader, outbox.clone(), hub.clone(), stop));
    if let Some(level) = level_wanted(&result, asker) {
        // Its answer comes by the stream, and nobody waits for it.
        outbox.tell(outgoing::request(next_id(), "logging/setLevel", &level)).await?;
    }
    Ok(Session::new(outbox, result, hub, (stopping, None), limits, can_be_asked))
}

/// Where messages go, which a legacy HTTP+SSE server says first (MCP 2024-11-05, Transports).
async fn endpoint(reader: &mut Reader, destination: &Destination) -> Result<String, Stopped> {
    while let Some(event) = reader.next_event().await? {
        if event.name().as_deref() != Some("endpoint") {
            continue;
        }
        let stream = url::Url::parse(&destination.peer.to_string()).ok();
        let endpoint = stream.and_then(|stream| resolve_endpoint(&stream, &event.data()?));
        let elsewhere = || bad_answer("its message endpoint leads to another origin, or nowhere");
        return Ok(endpoint.ok_or_else(elsewhere)?);
    }
    Err(Stopped::Lost(broke_off(None)))
}

fn hello(id: u64, server: &Server, asker: &Asker) -> String {
    let newest = ProtocolVersion::ALL.iter().rev().find(|version| !version.is_modern());
    let configured = server.mcp_versions.iter().flatten().rev().find(|version| !version.is_modern());
    let version = configured.or(newest).map_or("", |version| version.as_str());
    let object = |text: &Option<String>| text.clone().filter(|text| Members::read(text).is_some());
    let capabilities = object(&asker.capabilities).unwrap_or_else(|| "{}".to_owned());
    let info = object(&asker.info).unwrap_or_else(|| OWN_INFO.to_owned());
    let params =
        format!(r#"{{"protocolVersion":"{version}","capabilities":{capabilities},"clientInfo":{info}}}"#);
    outgoing::request(id, "initialize", &params)
}

fn version_of(result: &str) -> Result<String, Stopped> {
    let version = Members::read(result).and_then(|members| members::text(members.get("protocolVersion")?));
    let known = ProtocolVersion::ALL.iter().filter(|known| !known.is_modern());
    let version = version.filter(|version| known.clone().any(|known| known.as_str() == version));
    Ok(version.map(std::borrow::Cow::into_owned).ok_or_else(|| bad_answer("it names no revision we know"))?)
}

/// The parameters of `logging/setLevel`, where a level is wanted and the server has levels.
fn level_wanted(result: &str, asker: &Asker) -> Option<String> {
    let level = asker.log_level.as_deref().filter(|level| members::text(level).is_some())?;
    Members::read(Members::read(result)?.get("capabilities")?)?.get("logging")?;
    Some(format!(r#"{{"level":{level}}}"#))
}

async fn set_level(outbox: &Outbox, result: &str, asker: &Asker, limits: Limits) -> Result<(), Stopped> {
    let Some(params) = level_wanted(result, asker) else { return Ok(()) };
    let id = next_id();
    let incoming = outbox.post(outgoing::request(id, "logging/setLevel", &params), &[]).await?;
    if let Ok(mut reader) = Reader::of(incoming, limits) {
        // A server that will not say less or more is asked all the same.
        drop(answer_to(id, &mut reader).await);
        reader.finish();
    }
    Ok(())
}
