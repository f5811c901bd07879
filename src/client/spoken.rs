//! Which era a server is of: as configured, or found out once by asking, and found out anew when it turns out wrong.
//!
//! Decides which revision is spoken. A server that answers a modern question is modern; any other answer leaves it to
//! the legacy handshake to say what it is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::OnceCell;

use super::{
    Ask, Asker, Client,
    answer::{Reader, Refused},
    next_id,
    outbox::{self, Outbox},
    stopped::{Stopped, bad_answer, too_slow},
    tries::Tries,
};
use crate::{
    catalog::server::{Dialect, ProtocolVersion, Server},
    mcp::{FIRST_MODERN, is_modern, members::Members, told::Told},
    names::ServerId,
    refusal::Refusal,
    upstream::{Destination, Way, way::Context},
};

/// Longest wait for the answer that tells the era: some servers never answer what they do not know.
const PROBE: Duration = Duration::from_secs(10);
/// How long a server's introduction is good.
const FRESH: Duration = Duration::from_secs(60);

/// How long a modern server is not asked again whether it takes the older handshake.
const TRIED_AGAIN: Duration = Duration::from_secs(300);

/// Which revision a server is spoken to in, and how it introduced itself.
#[derive(Debug, Clone)]
pub struct Spoken {
    /// Whether each request stands alone.
    pub is_modern: bool,
    /// The revision.
    pub version: String,
    /// Its answer to `initialize` or `server/discover`: a JSON object.
    pub result: String,
}

/// What is known of a server's era.
#[derive(Debug, Clone)]
pub(super) enum Era {
    /// It is spoken to in this revision; with its introduction and when that was heard, where it was.
    Modern(String, Option<(String, Instant)>),
    /// It is spoken to in sessions.
    Legacy,
}

type Cell = Arc<OnceCell<Era>>;

/// What is known of the eras of all servers, by what they say to which credential.
#[derive(Default)]
pub(super) struct Eras {
    cells: Mutex<HashMap<(ServerId, Context), Cell>>,
    /// Those that did not take the older handshake, and when that was tried.
    modern_only: Mutex<HashMap<(ServerId, Context), Instant>>,
}

impl Eras {
    fn cell(&self, way: &Way) -> Cell {
        let key = (way.server().id.clone(), way.context());
        self.cells.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone()
    }

    fn put(&self, way: &Way, cell: OnceCell<Era>) {
        let key = (way.server().id.clone(), way.context());
        self.cells.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::new(cell));
    }

    /// Whether a modern server did not take the older handshake, not long ago.
    pub(super) fn is_modern_only(&self, way: &Way) -> bool {
        let key = (way.server().id.clone(), way.context());
        let tried = self.modern_only.lock().unwrap_or_else(PoisonError::into_inner);
        tried.get(&key).is_some_and(|at| at.elapsed() < TRIED_AGAIN)
    }

    /// A modern server does not take the older handshake.
    pub(super) fn note_modern_only(&self, way: &Way) {
        let key = (way.server().id.clone(), way.context());
        self.modern_only.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Instant::now());
    }

    /// Nothing of a server is known.
    pub(super) fn forget_server(&self, server: &ServerId) {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner).retain(|(id, _), _| id != server);
        self.modern_only.lock().unwrap_or_else(PoisonError::into_inner).retain(|(id, _), _| id != server);
    }

    /// What was known turned out wrong.
    pub(super) fn forget(&self, way: &Way) {
        self.put(way, OnceCell::new());
    }
}

impl Client {
    /// Which revision a server is spoken to in, and how it introduced itself.
    pub async fn spoken(&self, way: &Way) -> Result<Spoken, Refusal> {
        let mut tries = Tries::new(way);
        loop {
            let destination = tries.next().await?;
            match self.try_spoken(way, &destination).await.map_err(Stopped::harmless) {
                Ok(spoken) => {
                    if let Some(mut seat) = tries.seat() {
                        seat.settle(None);
                    }
                    return Ok(spoken);
                }
                Err(stopped) => tries.note(stopped, false)?,
            }
        }
    }

    /// The older revision that a modern server takes as well; none where it has said that it takes none. One that cannot
    /// be asked now counts as speaking the last of them.
    pub async fn also_speaks(&self, way: &Way) -> Option<String> {
        let session = match way.course().first() {
            Some(destination) => self.legacy_too(way, destination, &Asker::default()).await,
            None => None,
        };
        match session {
            Some(session) => Some(session.outbox.session.version.clone()),
            None if self.shared.eras.is_modern_only(way) => None,
            None => Some(ProtocolVersion::V2025_11_25.to_string()),
        }
    }

    async fn try_spoken(&self, way: &Way, destination: &Destination) -> Result<Spoken, Stopped> {
        match self.era(way, destination).await? {
            Era::Legacy => {
                let session = self.session(way, destination, &Asker::default()).await?;
                let (version, result) = (session.outbox.session.version.clone(), session.result.clone());
                Ok(Spoken { is_modern: false, version, result })
            }
            Era::Modern(version, Some((result, at))) if at.elapsed() < FRESH => {
                Ok(Spoken { is_modern: true, version, result })
            }
            Era::Modern(version, _) => {
                let ask = Ask { method: "server/discover".to_owned(), is_repeatable: true, ..Ask::default() };
                let mut replies = self.try_modern(way, destination, &ask, &version, true).await?;
                let result = loop {
                    match replies.next().await? {
                        Told::Result { result, .. } => break result,
                        Told::Error { .. } => {
                            self.shared.eras.forget(way);
                            return Err(bad_answer("it does not introduce itself").into());
                        }
                        Told::Notification { .. } | Told::Request { .. } => {}
                    }
                };
                let era = Era::Modern(version.clone(), Some((result.clone(), Instant::now())));
                self.shared.eras.put(way, OnceCell::new_with(Some(era)));
                Ok(Spoken { is_modern: true, version, result })
            }
        }
    }

    /// The era of a server, found out where it is not known.
    pub(super) async fn era(&self, way: &Way, destination: &Destination) -> Result<Era, Stopped> {
        if let Some(era) = configured(way.server()) {
            // What it says of itself may be remembered all the same.
            return Ok(self.shared.eras.cell(way).get().cloned().unwrap_or(era));
        }
        let cell = self.shared.eras.cell(way);
        let probed = cell.get_or_try_init(|| self.probe(way, destination));
        let deadlines = way.server().deadlines;
        match tokio::time::timeout(deadlines.connect * 2 + deadlines.first_byte, probed).await {
            Ok(era) => era.cloned(),
            Err(_) => Err(Stopped::Refused(too_slow("its era was not found out"))),
        }
    }

    async fn probe(&self, way: &Way, destination: &Destination) -> Result<Era, Stopped> {
        let patience = way.server().deadlines.first_byte.min(PROBE);
        match tokio::time::timeout(patience, self.discover(way, destination)).await {
            Ok(Ok(Some(era))) => Ok(era),
            Ok(Err(stopped @ (Stopped::Unsent(_) | Stopped::Refused(_)))) => Err(stopped),
            // Whatever it was, no modern server answers like this: the handshake will show.
            Ok(Ok(None) | Err(Stopped::Unrun(_) | Stopped::Lost(_))) | Err(_) => Ok(Era::Legacy),
        }
    }

    /// Asks a server to introduce itself; none where it does not.
    async fn discover(&self, way: &Way, destination: &Destination) -> Result<Option<Era>, Stopped> {
        let outbox = Outbox::new(&self.shared.wire, way, destination, FIRST_MODERN);
        let ask = Ask { method: "server/discover".to_owned(), ..Ask::default() };
        let id = next_id();
        let (message, mirrored) = super::asking::modern_message(id, &ask, FIRST_MODERN)?;
        let limits = self.limits(way);
        let incoming = outbox.post(message, &mirrored).await?;
        if incoming.status() == http::StatusCode::UNAUTHORIZED {
            // It would say the same to the handshake.
            return Err(Stopped::Refused(Refused::read(incoming, limits).await.into_refusal()));
        }
        if !incoming.status().is_success() {
            outbox::soon(outbox::drain(incoming, limits.patience));
            return Ok(None);
        }
        let Ok(mut reader) = Reader::of(incoming, limits) else { return Ok(None) };
        let id = id.to_string();
        while let Ok(Some(told)) = reader.next().await {
            match told {
                Told::Result { id: answered, result } if answered == id => {
                    reader.finish();
                    return modern_of(result).map(Some);
                }
                Told::Error { .. } => break,
                Told::Result { .. } | Told::Notification { .. } | Told::Request { .. } => {}
            }
        }
        reader.finish();
        Ok(None)
    }
}

/// The era of a server that introduced itself: the newest revision that both speak.
fn modern_of(result: String) -> Result<Era, Stopped> {
    let supported = Members::read(&result).and_then(|members| members.get("supportedVersions"));
    let supported: Vec<String> =
        supported.and_then(|list| serde_json::from_str(list).ok()).unwrap_or_default();
    let ours = ProtocolVersion::ALL.iter().rev().filter(|version| version.is_modern());
    let common = ours.map(|version| version.as_str()).find(|ours| supported.iter().any(|it| it == ours));
    match common {
        Some(version) => Ok(Era::Modern(version.to_owned(), Some((result, Instant::now())))),
        None if supported.iter().any(|version| !is_modern(version)) => Ok(Era::Legacy),
        None => Err(bad_answer("it speaks no revision we know").into()),
    }
}

/// The era that the operator says, or that follows from how the server is reached.
pub(super) fn configured(server: &Server) -> Option<Era> {
    if server.dialect == Dialect::McpSse {
        return Some(Era::Legacy);
    }
    let newest = server.mcp_versions.as_ref()?.last()?;
    Some(if newest.is_modern() { Era::Modern(newest.as_str().to_owned(), None) } else { Era::Legacy })
}

/// Whether a refusal shows that the server did not even read the question, because it is of another era.
pub(super) fn proves_another_era(refused: &Refused, id: u64) -> bool {
    let is_of_a_legacy_server = refused.code().is_some_and(|code| LEGACY_ERRORS.contains(&code));
    refused.code() == Some(UNSUPPORTED_VERSION) || is_of_a_legacy_server && !refused.answers(id)
}

/// Whether a refusal makes it doubtful that a server is of the era it was asked in.
pub(super) fn is_of_another_era(refused: &Refused) -> bool {
    match (refused.status.as_u16(), refused.code()) {
        (_, Some(UNSUPPORTED_VERSION)) => true,
        // Not even JSON-RPC, or an error that legacy servers have for a request without a session.
        (400 | 404 | 405, code) => code.is_none_or(|code| LEGACY_ERRORS.contains(&code)),
        _ => false,
    }
}

/// MCP 2026-07-28, Error Codes.
const UNSUPPORTED_VERSION: i64 = -32022;
/// What SDKs of legacy revisions answer: bad request, and session not found.
const LEGACY_ERRORS: [i64; 2] = [-32000, -32001];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_revision_that_both_speak_is_spoken() {
        let check = |supported: &str| match modern_of(format!(r#"{{"supportedVersions":{supported}}}"#)) {
            Ok(Era::Modern(version, Some(_))) => version,
            Ok(Era::Modern(version, None)) => panic!("{version}"),
            Ok(Era::Legacy) => "legacy".to_owned(),
            Err(stopped) => stopped.into_refusal().code().as_str().to_owned(),
        };
        assert_eq!(check(r#"["2026-07-28"]"#), "2026-07-28");
        assert_eq!(check(r#"["2025-11-25","2026-07-28","2031-01-01"]"#), "2026-07-28");
        assert_eq!(check(r#"["2025-11-25","2031-01-01"]"#), "legacy");
        assert_eq!(check(r#"["2031-01-01"]"#), "peer_bad_answer");
        assert_eq!(check("[]"), "peer_bad_answer");
        assert_eq!(check("7"), "peer_bad_answer");
    }
}
