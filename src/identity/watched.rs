//! What was looked up lately in something outside, and is looked at again as long as somebody uses it.
//!
//! Keeps answers and says how old they may be; the calling path reads them here and waits only at first sight. Never
//! asks anybody itself: a background task does (`snapshot`), and says when it last managed to.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use moka::sync::Cache;
use tokio::sync::{mpsc, oneshot};

/// Longest wait for the background task at the first sight of something.
const FIRST_SIGHT_DEADLINE: Duration = Duration::from_secs(3);
/// What was not used for this long is forgotten, and no longer looked at.
const FORGET_AFTER: Duration = Duration::from_secs(900);
/// Questions that may wait for the background task at once.
const QUEUE: usize = 1024;

/// Answers in use.
pub struct Watched<K, V> {
    seen: Cache<K, V>,
    pinned: Mutex<HashMap<K, usize>>,
    started: Instant,
    confirmed_millis: AtomicU64,
    max_stale_millis: AtomicU64,
}

impl<K, V> Watched<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Nothing yet; what it will hold is believed for this long after it was last known to be true.
    pub fn new(max_stale: Duration) -> Arc<Self> {
        Arc::new(Self {
            seen: Cache::builder().max_capacity(1_000_000).time_to_idle(FORGET_AFTER).build(),
            pinned: Mutex::default(),
            started: Instant::now(),
            confirmed_millis: AtomicU64::new(0),
            max_stale_millis: AtomicU64::new(millis(max_stale)),
        })
    }

    /// The answer, without asking; to look here counts as use.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.seen.get(key)
    }

    /// Whether too much time has passed since the answers were last known to be true.
    pub fn is_too_old(&self) -> bool {
        self.age() > Duration::from_millis(self.max_stale_millis.load(Ordering::Relaxed))
    }

    /// From now on answers are believed for this long after they were last known to be true.
    pub fn set_max_stale(&self, max_stale: Duration) {
        self.max_stale_millis.store(millis(max_stale), Ordering::Relaxed);
    }

    /// Keeps an answer.
    pub fn remember(&self, key: K, answer: V) {
        self.seen.insert(key, answer);
    }

    /// All that is in use or pinned, with the answer where it is not forgotten. To look here does not count as use,
    /// except of what is pinned.
    pub fn all(&self) -> HashMap<K, Option<V>> {
        let pinned: Vec<K> = self.lock().keys().cloned().collect();
        let mut all: HashMap<_, _> =
            pinned.into_iter().map(|key| (key.clone(), self.seen.get(&key))).collect();
        all.extend(self.seen.iter().map(|(key, answer)| (key.as_ref().clone(), Some(answer))));
        all
    }

    /// Keeps this among what is looked at, however long it is not used.
    pub fn pin(self: &Arc<Self>, key: K) -> Pinned<K, V> {
        *self.lock().entry(key.clone()).or_insert(0) += 1;
        Pinned { watched: self.clone(), key }
    }

    /// Notes that every answer was true just now.
    pub fn confirm(&self) {
        self.confirmed_millis.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Time since every answer was last known to be true.
    pub fn age(&self) -> Duration {
        let confirmed = Duration::from_millis(self.confirmed_millis.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(confirmed)
    }

    /// Forgets an answer, as time would.
    #[cfg(test)]
    pub fn forget(&self, key: &K) {
        self.seen.invalidate(key);
    }
}

impl<K, V> Watched<K, V> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        // Nothing under this lock can panic half-way.
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Something that is used by what is underway; while it is held it is looked at.
pub struct Pinned<K: Hash + Eq, V> {
    watched: Arc<Watched<K, V>>,
    key: K,
}

impl<K: Hash + Eq, V> Drop for Pinned<K, V> {
    fn drop(&mut self) {
        let mut pinned = self.watched.lock();
        if let Some(count) = pinned.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                pinned.remove(&self.key);
            }
        }
    }
}

/// A question to a background task. One that is dropped could not be answered.
pub struct Question<Q, V> {
    /// What is asked about.
    pub about: Q,
    /// Who waits for the answer.
    pub asker: Asker<V>,
}

/// Who waits for an answer.
pub struct Asker<V>(oneshot::Sender<V>);

impl<V> Asker<V> {
    /// Gives the answer.
    pub fn tell(self, answer: V) {
        // Who has gone away needs none.
        drop(self.0.send(answer));
    }
}

/// Where questions are asked.
pub struct Asking<Q, V>(ArcSwap<mpsc::Sender<Question<Q, V>>>);

impl<Q, V> Asking<Q, V> {
    /// Takes questions, and hands them to whoever has the other end.
    pub fn new() -> (Self, mpsc::Receiver<Question<Q, V>>) {
        let (questions, asked) = mpsc::channel(QUEUE);
        (Self(ArcSwap::from_pointee(questions)), asked)
    }

    /// Has further questions answered by whoever has this end. Those that wait at the former one are still answered there.
    pub fn renewed(&self) -> mpsc::Receiver<Question<Q, V>> {
        let (questions, asked) = mpsc::channel(QUEUE);
        self.0.store(Arc::new(questions));
        asked
    }

    /// Asks and waits; otherwise says why there is no answer.
    pub async fn ask(&self, about: Q) -> Result<V, &'static str> {
        let (asker, answered) = oneshot::channel();
        self.0
            .load()
            .try_send(Question { about, asker: Asker(asker) })
            .map_err(|_| "too many first sights are waiting")?;
        match tokio::time::timeout(FIRST_SIGHT_DEADLINE, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err("it did not answer"),
            Err(_) => Err("it took too long"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_underway_is_looked_at_though_forgotten() {
        let watched = Watched::new(Duration::from_secs(3600));
        watched.remember("jane", 1);
        let (one, other) = (watched.pin("jane"), watched.pin("jane"));
        watched.forget(&"jane");
        let is_looked_at = || watched.all().get("jane").map(Option::is_some);
        assert_eq!(is_looked_at(), Some(false));
        drop(one);
        assert_eq!(is_looked_at(), Some(false), "another use is underway");
        watched.remember("jane", 2);
        assert_eq!(is_looked_at(), Some(true));
        watched.forget(&"jane");
        drop(other);
        assert_eq!(is_looked_at(), None);
    }

    #[tokio::test]
    async fn a_question_that_cannot_be_answered_is_not_waited_for() {
        let (asking, mut asked) = Asking::<&str, u8>::new();
        let (answer, ()) = tokio::join!(asking.ask("who"), async {
            asked.recv().await.unwrap().asker.tell(7);
        });
        assert_eq!(answer, Ok(7));
        let (answer, ()) = tokio::join!(asking.ask("who"), async { drop(asked.recv().await) });
        assert_eq!(answer, Err("it did not answer"));
        drop(asked);
        assert_eq!(asking.ask("who").await, Err("too many first sights are waiting"));
    }
}
