//! What this process must remember between two requests of one client, and no id can carry: calls that wait.
//!
//! Decides nothing. Everything here is bounded in number and time, and lost with the process: a client is told so,
//! and calls again.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use moka::sync::Cache;
use tokio::sync::{Notify, mpsc, oneshot};

use super::inquiries::Parked;
use crate::names::ServerId;

/// How long a call waits for an answer of its client.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);
/// Calls that may wait at once.
const MAX_WAITING: usize = 1_000;
/// Of these, one caller's.
const MAX_WAITING_OF_ONE: usize = 16;
/// Resources that one stream may follow.
pub(super) const MAX_FOLLOWED: usize = 100;
/// Sessions whose end or level is remembered.
const MAX_SESSIONS: u64 = 100_000;

/// A call underway, as its client names it: the session, or else the caller, and the id of the request.
type CallName = (String, String);

/// What waits.
pub struct Desk {
    ended: Cache<String, ()>,
    levels: Cache<String, String>,
    parked: Mutex<HashMap<String, Waiting>>,
    calls: Mutex<HashMap<CallName, Arc<Notify>>>,
    inquiries: Mutex<HashMap<String, oneshot::Sender<Result<String, String>>>>,
    followed: Mutex<HashMap<String, Followed>>,
}

/// A call that waits.
struct Waiting {
    caller: String,
    since: Instant,
    parked: Parked,
    _timer: AbortOnDrop,
}

/// What a session with a standing stream follows.
struct Followed {
    /// Which of the session's streams it is: the last one opened.
    stream: u64,
    heard: mpsc::Sender<String>,
    /// By URI: whose resource it is, and the task that listens.
    tasks: HashMap<String, (ServerId, AbortOnDrop)>,
}

/// A task that ends with whoever wanted it.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Desk {
    /// An empty desk; what is remembered of sessions is as long as they may last.
    pub fn new(session_ttl: Duration) -> Arc<Self> {
        let sessions = || Cache::builder().max_capacity(MAX_SESSIONS);
        Arc::new(Self {
            ended: sessions().time_to_live(session_ttl).build(),
            levels: Cache::builder().max_capacity(MAX_SESSIONS).time_to_live(session_ttl).build(),
            parked: Mutex::default(),
            calls: Mutex::default(),
            inquiries: Mutex::default(),
            followed: Mutex::default(),
        })
    }

    /// The session with this id is over.
    pub(super) fn end(&self, session: &str) {
        self.ended.insert(session.to_owned(), ());
        lock(&self.followed).remove(session);
    }

    /// Whether the session with this id was ended here.
    pub(super) fn is_ended(&self, session: &str) -> bool {
        self.ended.contains_key(session)
    }

    /// The lowest level of log messages this session wants.
    pub(super) fn level(&self, session: &str) -> Option<String> {
        self.levels.get(session)
    }

    /// A session says which log messages it wants.
    pub(super) fn set_level(&self, session: &str, level: String) {
        self.levels.insert(session.to_owned(), level);
    }

    /// A call waits, without its client, until the client has asked somebody; the caller's oldest ends when they are
    /// too many. False where too many wait in all.
    pub(super) fn park(self: &Arc<Self>, name: String, caller: &str, parked: Parked) -> bool {
        let mut waiting = lock(&self.parked);
        let own = waiting.iter().filter(|(_, waiting)| waiting.caller == caller);
        let own: Vec<_> = own.map(|(name, waiting)| (waiting.since, name.clone())).collect();
        if own.len() >= MAX_WAITING_OF_ONE
            && let Some((_, oldest)) = own.into_iter().min()
        {
            waiting.remove(&oldest);
        }
        if waiting.len() >= MAX_WAITING {
            return false;
        }
        let (desk, overdue) = (Arc::downgrade(self), name.clone());
        let timer = tokio::spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            if let Some(desk) = desk.upgrade() {
                drop(desk.take_up(&overdue));
            }
        });
        let timer = AbortOnDrop(timer.abort_handle());
        let caller = caller.to_owned();
        waiting.insert(name, Waiting { caller, since: Instant::now(), parked, _timer: timer });
        true
    }

    /// Takes a call up again, once.
    pub(super) fn take_up(&self, name: &str) -> Option<Parked> {
        // Dropped outside the lock: that may cancel what it waits for.
        let waiting = lock(&self.parked).remove(name);
        waiting.map(|waiting| waiting.parked)
    }

    /// Notes a call that its client may cancel by name.
    pub(super) fn note_call(self: &Arc<Self>, owner: &str, id: &str) -> Call {
        let (name, cancelled) = ((owner.to_owned(), id.to_owned()), Arc::new(Notify::new()));
        lock(&self.calls).insert(name.clone(), cancelled.clone());
        Call { desk: self.clone(), name, cancelled }
    }

    /// Cancels a call of this name, if there is one here.
    pub(super) fn cancel(&self, owner: &str, id: &str) {
        if let Some(cancelled) = lock(&self.calls).get(&(owner.to_owned(), id.to_owned())) {
            cancelled.notify_one();
        }
    }

    /// Notes a question to a client, and waits for its answer until it is dropped.
    pub(super) fn expect(self: &Arc<Self>, name: String) -> Expected {
        let (answer, answered) = oneshot::channel();
        lock(&self.inquiries).insert(name.clone(), answer);
        Expected { desk: self.clone(), name, answered }
    }

    /// The standing stream of this session hears from now on of what the session follows.
    pub(super) fn stand(self: &Arc<Self>, session: &str, heard: mpsc::Sender<String>) -> Stood {
        static STREAMS: AtomicU64 = AtomicU64::new(0);
        let stream = STREAMS.fetch_add(1, Ordering::Relaxed);
        let followed = Followed { stream, heard, tasks: HashMap::new() };
        // Whichever stood before hears no more, and ends.
        lock(&self.followed).insert(session.to_owned(), followed);
        Stood { desk: self.clone(), session: session.to_owned(), stream }
    }

    /// Has the standing stream of a session hear what `begin` does of this resource. False where there is none here,
    /// or it follows too many.
    pub(super) fn follow(
        &self,
        session: &str,
        (server, uri): (&ServerId, &str),
        begin: impl FnOnce(mpsc::Sender<String>) -> BoxFuture<'static, ()>,
    ) -> bool {
        let mut followed = lock(&self.followed);
        let Some(followed) = followed.get_mut(session).filter(|followed| followed.tasks.len() < MAX_FOLLOWED)
        else {
            return false;
        };
        let task = tokio::spawn(begin(followed.heard.clone()));
        let task = AbortOnDrop(task.abort_handle());
        followed.tasks.insert(uri.to_owned(), (server.clone(), task));
        true
    }

    /// A session follows a resource no longer.
    pub(super) fn unfollow(&self, session: &str, uri: &str) {
        if let Some(followed) = lock(&self.followed).get_mut(session) {
            followed.tasks.remove(uri);
        }
    }

    /// A session hears no more of servers for which `keep` does not hold.
    pub(super) fn unfollow_servers(&self, session: &str, keep: impl Fn(&ServerId) -> bool) {
        if let Some(followed) = lock(&self.followed).get_mut(session) {
            followed.tasks.retain(|_, (server, _)| keep(server));
        }
    }

    /// A client's answer to the question of this name. False where nobody waits for it.
    pub(super) fn answer(&self, name: &str, outcome: Result<String, String>) -> bool {
        let waiting = lock(&self.inquiries).remove(name);
        waiting.is_some_and(|waiting| waiting.send(outcome).is_ok())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks can panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call underway, until dropped.
pub(super) struct Call {
    desk: Arc<Desk>,
    name: CallName,
    cancelled: Arc<Notify>,
}

impl Call {
    /// Returns when the client has cancelled it.
    pub(super) async fn cancelled(&self) {
        self.cancelled.notified().await;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut calls = lock(&self.desk.calls);
        // A client that uses an id twice has replaced it.
        if calls.get(&self.name).is_some_and(|cancelled| Arc::ptr_eq(cancelled, &self.cancelled)) {
            calls.remove(&self.name);
        }
    }
}

/// A standing stream, until dropped.
pub(super) struct Stood {
    desk: Arc<Desk>,
    session: String,
    stream: u64,
}

impl Drop for Stood {
    fn drop(&mut self) {
        let mut followed = lock(&self.desk.followed);
        if followed.get(&self.session).is_some_and(|followed| followed.stream == self.stream) {
            followed.remove(&self.session);
        }
    }
}

/// A question to a client, until dropped.
pub(super) struct Expected {
    desk: Arc<Desk>,
    name: String,
    answered: oneshot::Receiver<Result<String, String>>,
}

impl Expected {
    /// The client's answer: a result or an error, as raw JSON.
    pub(super) async fn answered(&mut self) -> Option<Result<String, String>> {
        (&mut self.answered).await.ok()
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        lock(&self.desk.inquiries).remove(&self.name);
    }
}
