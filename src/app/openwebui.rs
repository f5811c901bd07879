//! What is believed of Open WebUI, and the tasks that keep it true: its users, its API keys, its ended sessions.
//!
//! Decides which of them are kept: those that the configuration says where to find.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::sync::mpsc;

use super::believed::Task;
use crate::{
    identity::{
        RedisSettings, Settings, TablesSettings,
        api_key::{self, ApiKeys},
        signed_out::{self, SignedOut},
        users::{self, Users},
    },
    snapshot::{self, Current},
    store::{openwebui::OpenWebUi, signed_out::Redis},
};

/// What is believed, for those who decide.
#[derive(Clone, Default)]
pub struct Believed {
    pub users: Option<Arc<Users>>,
    pub api_keys: Option<Arc<ApiKeys>>,
    pub signed_out: Option<Arc<SignedOut>>,
}

/// What is asked, for the tasks that answer; each with the memory it fills.
#[derive(Default)]
pub struct Asked {
    users: Option<(Arc<Users>, mpsc::Receiver<users::Question>)>,
    api_keys: Option<(Arc<ApiKeys>, mpsc::Receiver<api_key::Question>)>,
    signed_out: Option<(Arc<SignedOut>, mpsc::Receiver<signed_out::Question>)>,
}

/// Memories for all that can be asked, empty at first.
pub fn memories(settings: &Settings, max_stale: Duration) -> (Believed, Asked) {
    let tables = settings.openwebui_tables.as_ref();
    let asked = Asked {
        users: tables.map(|_| Users::new(max_stale)),
        api_keys: tables.filter(|tables| tables.has_api_keys).map(|_| ApiKeys::new(max_stale)),
        signed_out: settings.openwebui_redis.as_ref().map(|_| SignedOut::new(max_stale)),
    };
    let believed = Believed {
        users: asked.users.as_ref().map(|(users, _)| users.clone()),
        api_keys: asked.api_keys.as_ref().map(|(keys, _)| keys.clone()),
        signed_out: asked.signed_out.as_ref().map(|(signed_out, _)| signed_out.clone()),
    };
    (believed, asked)
}

impl Asked {
    /// The tasks that answer and that look again; connections are made in the runtime that runs them.
    pub fn tasks(
        self,
        current: &Arc<Current>,
        settings: &Settings,
        max_stale: Duration,
    ) -> anyhow::Result<Vec<Task>> {
        // What is known must not be too old by the time it is confirmed.
        let pause = |refresh: Duration| refresh.min(max_stale / 3);
        let mut tasks: Vec<Task> = Vec::new();
        if let Some(TablesSettings { database, schema, refresh, .. }) = &settings.openwebui_tables {
            let database = OpenWebUi::open(database, schema)?;
            if let Some((users, questions)) = self.users {
                let answer =
                    snapshot::users::answer(current.clone(), users.clone(), questions, database.clone());
                tasks.push(("users seen first", answer.boxed()));
                let refresh =
                    snapshot::users::refresh(current.clone(), users, database.clone(), pause(*refresh));
                tasks.push(("users", refresh.boxed()));
            }
            if let Some((keys, questions)) = self.api_keys {
                let answer = snapshot::api_keys::answer(keys.clone(), questions, database.clone());
                tasks.push(("API keys seen first", answer.boxed()));
                let refresh = snapshot::api_keys::refresh(current.clone(), keys, database, pause(*refresh));
                tasks.push(("API keys", refresh.boxed()));
            }
        }
        if let (Some(RedisSettings { url, key_prefix, refresh }), Some((signed_out, questions))) =
            (&settings.openwebui_redis, self.signed_out)
        {
            let redis = Redis::open(url, key_prefix)?;
            let answer =
                snapshot::signed_out::answer(current.clone(), signed_out.clone(), questions, redis.clone());
            tasks.push(("sessions seen first", answer.boxed()));
            let refresh = snapshot::signed_out::refresh(current.clone(), signed_out, redis, pause(*refresh));
            tasks.push(("sessions", refresh.boxed()));
        }
        Ok(tasks)
    }
}
