//! What is believed of Open WebUI, and the tasks that keep it true: its users, its API keys, its ended sessions.
//!
//! Decides which of them are kept: those that the configuration says where to find. What is known stays known when
//! another configuration says that it is found elsewhere: it is looked at there within the second.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::sync::mpsc;

use super::tasks::{Ending, Task};
use crate::{
    identity::{
        Settings,
        api_key::{self, ApiKeys},
        signed_out::{self, SignedOut},
        users::{self, Users},
    },
    snapshot::{self, Current},
    store::{openwebui::OpenWebUi, signed_out::Redis},
};

/// What is known, and the questions about it until somebody answers them.
pub struct Memory<M, Q> {
    memory: Arc<M>,
    questions: Mutex<Option<mpsc::Receiver<Q>>>,
}

impl<M, Q> Memory<M, Q> {
    fn new((memory, questions): (Arc<M>, mpsc::Receiver<Q>)) -> Arc<Self> {
        Arc::new(Self { memory, questions: Mutex::new(Some(questions)) })
    }

    /// What is known, for those who decide.
    pub fn shared(memory: &Option<Arc<Self>>) -> Option<Arc<M>> {
        memory.as_ref().map(|memory| memory.memory.clone())
    }

    /// The questions that nobody has answered yet, or those that are asked from now on.
    fn questions(&self, renewed: impl FnOnce(&M) -> mpsc::Receiver<Q>) -> mpsc::Receiver<Q> {
        let first = self.questions.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| renewed(&self.memory))
    }
}

/// All that can be known of Open WebUI.
pub struct Memories {
    pub users: Option<Arc<Memory<Users, users::Question>>>,
    pub api_keys: Option<Arc<Memory<ApiKeys, api_key::Question>>>,
    pub signed_out: Option<Arc<Memory<SignedOut, signed_out::Question>>>,
}

impl Memories {
    /// Memories for all that can be asked: those of before, or empty ones.
    pub fn new(settings: &Settings, max_stale: Duration, before: Option<&Self>) -> Self {
        let tables = settings.openwebui_tables.as_ref();
        let has_api_keys = tables.is_some_and(|tables| tables.has_api_keys);
        let known = |is_kept| before.filter(|_| is_kept);
        let users = known(tables.is_some()).and_then(|before| before.users.clone());
        let api_keys = known(has_api_keys).and_then(|before| before.api_keys.clone());
        let has_redis = settings.openwebui_redis.is_some();
        let signed_out = known(has_redis).and_then(|before| before.signed_out.clone());
        Self {
            users: users.or_else(|| tables.map(|_| Memory::new(Users::new(max_stale)))),
            api_keys: api_keys.or_else(|| has_api_keys.then(|| Memory::new(ApiKeys::new(max_stale)))),
            signed_out: signed_out.or_else(|| has_redis.then(|| Memory::new(SignedOut::new(max_stale)))),
        }
    }

    /// The tasks that answer out of Open WebUI's tables, and that look again.
    pub fn of_tables(
        &self,
        settings: &Settings,
        opened: Option<OpenWebUi>,
        max_stale: Duration,
        current: &Arc<Current>,
    ) -> Vec<Task> {
        let (Some(tables), Some(database)) = (&settings.openwebui_tables, opened) else { return Vec::new() };
        let pause = pause(tables.refresh, max_stale);
        let mut tasks = Vec::new();
        if let Some(users) = &self.users {
            let questions = users.questions(|users| users.renewed(max_stale));
            let users = &users.memory;
            let answer = snapshot::users::answer(current.clone(), users.clone(), questions, database.clone());
            tasks.push(answering("users seen first", answer));
            let refresh = snapshot::users::refresh(current.clone(), users.clone(), database.clone(), pause);
            tasks.push(looking("users", refresh));
        }
        if let Some(keys) = &self.api_keys {
            let questions = keys.questions(|keys| keys.renewed(max_stale));
            let keys = &keys.memory;
            let answer = snapshot::api_keys::answer(keys.clone(), questions, database.clone());
            tasks.push(answering("API keys seen first", answer));
            let refresh = snapshot::api_keys::refresh(current.clone(), keys.clone(), database, pause);
            tasks.push(looking("API keys", refresh));
        }
        tasks
    }

    /// The tasks that answer out of Open WebUI's Redis, and that look again.
    pub fn of_redis(
        &self,
        settings: &Settings,
        opened: Option<Redis>,
        max_stale: Duration,
        current: &Arc<Current>,
    ) -> Vec<Task> {
        let (Some(told), Some(redis), Some(signed_out)) =
            (&settings.openwebui_redis, opened, &self.signed_out)
        else {
            return Vec::new();
        };
        let questions = signed_out.questions(|signed_out| signed_out.renewed(max_stale));
        let signed_out = &signed_out.memory;
        let answer =
            snapshot::signed_out::answer(current.clone(), signed_out.clone(), questions, redis.clone());
        let pause = pause(told.refresh, max_stale);
        let refresh = snapshot::signed_out::refresh(current.clone(), signed_out.clone(), redis, pause);
        vec![answering("sessions seen first", answer), looking("sessions", refresh)]
    }
}

/// What is known must not be too old by the time it is confirmed.
fn pause(refresh: Duration, max_stale: Duration) -> Duration {
    refresh.min(max_stale / 3)
}

/// Ends by itself once its questions are asked elsewhere.
fn answering(name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> Task {
    Task { name, ending: Ending::ByItself, work: work.boxed() }
}

fn looking(name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> Task {
    Task { name, ending: Ending::AtOnce, work: work.boxed() }
}
