//! Sessions with servers of legacy revisions: opened once, shared by those who may share, opened anew when they end.
//!
//! Decides who shares a session with whom: those for whom it is with the same peer, asked with the same credential,
//! and who say the same of themselves. Never looks at a session from outside: what is open is known here alone.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OnceCell, broadcast, oneshot};

use super::{
    Asker,
    answer::{Limits, Reader},
    hub::{Expecting, Hub},
    opening,
    outbox::{Outbox, soon},
    stopped::{Stopped, too_slow},
    stream,
};
use crate::{
    dial::wire::Wire,
    mcp::{session::Place, told::Told},
    names::ServerId,
    upstream::{Destination, Way, way::Context},
};

/// Most sessions open at once; of more, the one longest unused ends.
const MOST: u64 = 8_192;
/// Most sessions that one caller has alone; each of them may hold a stream open.
const MOST_OWN: usize = 16;
/// After so long without a question a session ends.
const IDLE: Duration = Duration::from_secs(600);

/// A session at a server, so that a message can be sent into it by whoever has this, at any replica.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionRef {
    /// The server's own id of it.
    pub(super) id: Option<String>,
    /// Path and query of the message endpoint that a legacy HTTP+SSE server named.
    pub(super) endpoint: Option<String>,
    pub(super) version: String,
    pub(super) place: Place,
}

impl SessionRef {
    /// As text that [`SessionRef::from_text`] reads. Who has it has the session: it is to be sealed.
    pub fn to_text(&self) -> String {
        let Place { peer, address } = self.place;
        let (id, endpoint) = (&self.id, &self.endpoint);
        serde_json::to_string(&(peer, address, &self.version, id, endpoint)).expect("strings are always JSON")
    }

    /// What a text says.
    pub fn from_text(text: &str) -> Option<Self> {
        let (peer, address, version, id, endpoint) = serde_json::from_str(text).ok()?;
        Some(Self { id, endpoint, version, place: Place { peer, address } })
    }
}

impl std::fmt::Debug for SessionRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Who has the server's own id has the session.
        write!(f, "SessionRef {{ id: …, version: {:?}, place: {:?} }}", self.version, self.place)
    }
}

/// Who shares a session.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    server: ServerId,
    place: (u32, u32),
    context: Context,
    /// What is said of the asker: a session is opened with it.
    asker: Asker,
}

impl Key {
    fn new(way: &Way, destination: &Destination, asker: &Asker) -> Self {
        let Place { peer, address } = destination.place;
        Self {
            server: way.server().id.clone(),
            place: (peer, address),
            context: way.context(),
            // Several programs of one asker share it.
            asker: Asker { info: None, ..asker.clone() },
        }
    }
}

/// An open session.
pub(super) struct Session {
    pub(super) outbox: Arc<Outbox>,
    /// How the server introduced itself: its answer to `initialize`.
    pub(super) result: String,
    pub(super) can_be_asked: bool,
    pub(super) limits: Limits,
    hub: Arc<Hub>,
    /// Taken by the task that reads the session's stream: told when the session is dropped.
    stop: Mutex<Option<oneshot::Receiver<()>>>,
    _stopping: oneshot::Sender<()>,
    is_gone: AtomicBool,
}

impl Session {
    pub(super) fn new(
        outbox: Arc<Outbox>,
        result: String,
        hub: Arc<Hub>,
        stopping: (oneshot::Sender<()>, Option<oneshot::Receiver<()>>),
        limits: Limits,
        can_be_asked: bool,
    ) -> Arc<Self> {
        let (_stopping, stop) = (stopping.0, Mutex::new(stopping.1));
        let is_gone = AtomicBool::new(false);
        Arc::new(Self { outbox, result, hub, stop, _stopping, limits, can_be_asked, is_gone })
    }

    /// Messages about a question that come by the session's own stream; none where there is none, or it has ended.
    pub(super) fn expect(&self, id: u64) -> Option<Expecting> {
        self.hub.expect(id)
    }

    /// Messages about no question; the session's own stream is opened for them where it is not.
    pub(super) fn listen(&self) -> Option<broadcast::Receiver<Told>> {
        let heard = self.hub.listen()?;
        self.open_stream();
        Some(heard)
    }

    /// Opens the session's own stream, once.
    pub(super) fn open_stream(&self) {
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stop) = stop {
            let (outbox, hub) = (self.outbox.clone(), self.hub.clone());
            tokio::spawn(stream::keep(outbox, hub, self.limits, stop));
        }
    }

    /// Nothing further is asked in it; those who wait in it go on. `is_gone` where the server knows it no more.
    pub(super) fn retire(&self, is_gone: bool) {
        self.is_gone.fetch_or(is_gone, Ordering::Relaxed);
        self.hub.retire();
    }

    /// Whether it has ended.
    pub(super) fn is_over(&self) -> bool {
        self.hub.is_over()
    }

    /// Tries to go on with a stream of the session that broke off.
    pub(super) async fn resume(&self, reader: &mut Reader) -> Resumed {
        let Some((last_event, wait)) = reader.resumption() else { return Resumed::Never };
        let last_event = last_event.to_owned();
        tokio::time::sleep(wait.unwrap_or(stream::WAIT).min(stream::LONGEST_WAIT)).await;
        match self.outbox.get(Some(&last_event)).await {
            Ok(incoming) if incoming.status().is_success() => match reader.resume_with(incoming) {
                Ok(()) => Resumed::Yes,
                Err(_) => Resumed::Never,
            },
            Ok(incoming) if incoming.status().is_server_error() => Resumed::NotYet,
            Ok(_) => Resumed::Never,
            Err(_) => Resumed::NotYet,
        }
    }
}

/// Whether a stream that broke off goes on.
pub(super) enum Resumed {
    Yes,
    /// The server cannot be reached, or is not ready.
    NotYet,
    /// The server has no way to.
    Never,
}

impl Drop for Session {
    fn drop(&mut self) {
        // Legacy HTTP+SSE has no id: its stream's end is its end.
        if !self.is_gone.load(Ordering::Relaxed) && self.outbox.session.id.is_some() {
            let outbox = self.outbox.clone();
            soon(async move { outbox.delete().await });
        }
    }
}

/// All open sessions.
pub(super) struct Pool {
    sessions: moka::sync::Cache<Key, Arc<OnceCell<Arc<Session>>>>,
    /// Those that belong to one caller, the first opened first.
    own: Mutex<HashMap<String, VecDeque<Key>>>,
}

impl Pool {
    pub(super) fn new() -> Self {
        let sessions = moka::sync::Cache::builder().max_capacity(MOST).time_to_idle(IDLE).build();
        Self { sessions, own: Mutex::default() }
    }

    /// Sessions with this server end, each with the last question in it.
    pub(super) fn forget(&self, server: &ServerId) {
        let of_server: Vec<_> = self.sessions.iter().filter(|(key, _)| key.server == *server).collect();
        for (key, cell) in of_server {
            self.sessions.invalidate(&*key);
            if let Some(session) = cell.get() {
                session.retire(false);
            }
        }
        // What was taken out is dropped now, not with the next use.
        self.sessions.run_pending_tasks();
    }

    /// Notes a session that is opened for one caller alone. The oldest of too many ends.
    fn note_own(&self, key: &Key) {
        let Some(owner) = &key.asker.session_of else { return };
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.len() > MOST as usize {
            own.retain(|_, keys| keys.iter().any(|key| self.sessions.contains_key(key)));
        }
        let keys = own.entry(owner.clone()).or_default();
        keys.retain(|known| known != key);
        keys.push_back(key.clone());
        if keys.len() > MOST_OWN
            && let Some(oldest) = keys.pop_front()
        {
            self.sessions.invalidate(&oldest);
        }
    }

    /// The session with this peer for this asker, opened if there is none.
    pub(super) async fn session(
        &self,
        wire: &Wire,
        way: &Way,
        destination: &Destination,
        asker: &Asker,
        limits: Limits,
    ) -> Result<Arc<Session>, Stopped> {
        let key = Key::new(way, destination, asker);
        let deadlines = way.server().deadlines;
        let opened = async {
            loop {
                let cell = self.sessions.get(&key).unwrap_or_else(|| {
                    self.note_own(&key);
                    self.sessions.get_with_by_ref(&key, Arc::default)
                });
                let open = || opening::open(wire, way, destination, &key.asker, limits);
                let session = cell.get_or_try_init(open).await?.clone();
                if !session.is_over() {
                    return Ok(session);
                }
                if self.sessions.get(&key).is_some_and(|there| Arc::ptr_eq(&there, &cell)) {
                    self.sessions.invalidate(&key);
                }
            }
        };
        // Who waits for another's opening that fails tries it again: together they do not wait longer than one.
        match tokio::time::timeout(deadlines.connect * 2 + deadlines.first_byte, opened).await {
            Ok(opened) => opened,
            Err(_) => Err(Stopped::Refused(too_slow("no session was opened"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_survives_being_text_and_shows_nothing() {
        let place = Place { peer: 7, address: u32::MAX };
        let session = SessionRef {
            id: Some("a\"b".to_owned()),
            endpoint: None,
            version: "2025-11-25".to_owned(),
            place,
        };
        assert_eq!(SessionRef::from_text(&session.to_text()), Some(session.clone()));
        assert!(!format!("{session:?}").contains("a\\\"b"));
        for text in ["", "{}", "[]", "[1,2,3,4,5]", "[1,-2,\"a\",null,null]"] {
            assert_eq!(SessionRef::from_text(text), None, "{text}");
        }
    }
}
