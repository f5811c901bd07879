//! Open WebUI's users as last seen: answers from memory, and asks the background task at first sight.
//!
//! Never reads a database itself; `snapshot::users` does, refreshes everybody seen lately, and says
//! when it last managed to. Past `access.max_stale_secs` what is known is not believed any more.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moka::sync::Cache;
use tokio::sync::{mpsc, oneshot};

use super::caller::{Caller, OpenWebUiSelf, Scheme};
use crate::{
    refusal::{Code, Refusal},
    store::openwebui::User,
};

/// Longest wait for the background task at the first sight of a user.
const FIRST_SIGHT_DEADLINE: Duration = Duration::from_secs(3);
/// Users not seen for this long are forgotten, and no longer refreshed.
const FORGET_AFTER: Duration = Duration::from_secs(900);
/// Questions that may wait for the background task at once.
const QUEUE: usize = 1024;

/// A user's row with the caller it makes; `row` is `None` for an id that Open WebUI does not have.
#[derive(Debug)]
pub struct Seen {
    /// The row.
    pub row: Option<User>,
    session: Option<Arc<Caller>>,
    vouched: Option<Arc<Caller>>,
}

impl Seen {
    /// What is known of one user id.
    pub fn new(row: Option<User>) -> Self {
        let caller = |scheme| {
            let row = row.as_ref()?;
            let session_stamp = row.session_stamp.as_deref().map(Into::into);
            let openwebui = OpenWebUiSelf { id: row.id.as_str().into(), session_stamp };
            Some(Caller::user(row.email.clone(), Some(openwebui), row.groups.clone(), scheme))
        };
        Self { session: caller(Scheme::Session), vouched: caller(Scheme::Vouched), row }
    }

    /// The caller this user is under a scheme.
    pub fn caller(&self, scheme: Scheme) -> Result<Arc<Caller>, Refusal> {
        let caller = match scheme {
            Scheme::Vouched => &self.vouched,
            Scheme::Session | Scheme::ServiceKey => &self.session,
        };
        caller.clone().ok_or_else(|| Refusal::internal("a user without a row was taken for a caller"))
    }
}

/// A question to the background task.
pub struct Question {
    /// The user's id in Open WebUI.
    pub id: String,
    /// Takes the answer; it is dropped unanswered when the database cannot be asked.
    pub answer: oneshot::Sender<Arc<Seen>>,
}

/// The users seen lately.
pub struct Users {
    seen: Cache<String, Arc<Seen>>,
    questions: mpsc::Sender<Question>,
    started: Instant,
    confirmed_millis: AtomicU64,
    max_stale: Duration,
    pinned: Mutex<HashMap<String, usize>>,
}

/// A user with calls underway; while it is held they are not forgotten.
pub struct Pin {
    users: Arc<Users>,
    id: String,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pinned = self.users.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = pinned.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                pinned.remove(&self.id);
            }
        }
    }
}

impl Users {
    /// An empty directory, and the questions it will ask.
    pub fn new(max_stale: Duration) -> (Arc<Self>, mpsc::Receiver<Question>) {
        let (questions, asked) = mpsc::channel(QUEUE);
        let seen = Cache::builder().max_capacity(1_000_000).time_to_idle(FORGET_AFTER).build();
        let pinned = Mutex::default();
        let users = Self {
            pinned,
            seen,
            questions,
            started: Instant::now(),
            confirmed_millis: AtomicU64::new(0),
            max_stale,
        };
        (Arc::new(users), asked)
    }

    /// What is known of this user; waits only at first sight.
    pub async fn get(&self, id: &str) -> Result<Arc<Seen>, Refusal> {
        if let Some(seen) = self.seen.get(id) {
            if self.age() > self.max_stale {
                return Err(unknown("what is known of Open WebUI's users is too old"));
            }
            return Ok(seen);
        }
        let (answer, answered) = oneshot::channel();
        let question = Question { id: id.to_owned(), answer };
        self.questions.try_send(question).map_err(|_| unknown("too many first sights are waiting"))?;
        match tokio::time::timeout(FIRST_SIGHT_DEADLINE, answered).await {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(_)) => Err(unknown("Open WebUI's database did not answer")),
            Err(_) => Err(unknown("Open WebUI's database took too long")),
        }
    }

    /// Everybody seen lately or pinned, with what is remembered of them. Looking here does not count
    /// as seeing them.
    pub fn all(&self) -> HashMap<String, Option<Arc<Seen>>> {
        let pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: HashMap<_, _> = pinned.keys().map(|id| (id.clone(), None)).collect();
        drop(pinned);
        all.extend(self.seen.iter().map(|(id, seen)| (id.as_ref().clone(), Some(seen))));
        all
    }

    /// Keeps this user among those looked at again, however long they are not seen.
    pub fn pin(self: &Arc<Self>, id: &str) -> Pin {
        *self.pinned.lock().unwrap_or_else(PoisonError::into_inner).entry(id.to_owned()).or_insert(0) += 1;
        Pin { users: self.clone(), id: id.to_owned() }
    }

    /// What is remembered of this user, without asking.
    pub fn peek(&self, id: &str) -> Option<Arc<Seen>> {
        self.seen.get(id)
    }

    /// Remembers a row.
    pub fn remember(&self, id: &str, row: Option<User>) -> Arc<Seen> {
        let seen = Arc::new(Seen::new(row));
        self.seen.insert(id.to_owned(), seen.clone());
        seen
    }

    /// Notes that everything remembered was true just now.
    pub fn confirm(&self) {
        self.confirmed_millis.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Time since everything remembered was last known to be true.
    pub fn age(&self) -> Duration {
        let confirmed = Duration::from_millis(self.confirmed_millis.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(confirmed)
    }
}

fn unknown(cause: &'static str) -> Refusal {
    Refusal::new(Code::GrantsUnknown, "the gateway cannot check your account right now; try again")
        .because(cause)
        .retry_after(Duration::from_secs(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_with_calls_underway_is_looked_at_again_though_forgotten() {
        let (users, _questions) = Users::new(Duration::from_secs(3600));
        users.remember("jane", None);
        let (one, other) = (users.pin("jane"), users.pin("jane"));
        users.seen.invalidate("jane");
        assert!(users.peek("jane").is_none(), "not forgotten");
        let is_looked_at = || users.all().get("jane").map(Option::is_some);
        assert_eq!(is_looked_at(), Some(false));
        drop(one);
        assert_eq!(is_looked_at(), Some(false), "another call is underway");
        users.remember("jane", None);
        assert_eq!(is_looked_at(), Some(true));
        users.seen.invalidate("jane");
        drop(other);
        assert_eq!(is_looked_at(), None);
    }
}
