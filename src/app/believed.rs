//! Who is believed, and the background that keeps that true: shared by `run`, a reload and `explain --token`.
//!
//! Decides which sources the schemes of a configuration need, and which of them another configuration goes on with.
//! Never decides about a credential: `identity` does.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::sync::mpsc;

use super::{
    openwebui::{Memories, Memory},
    tasks::{Ending, Group, Task},
};
use crate::{
    config::Config,
    identity::{
        Identity, Settings, Sources,
        entra::{self, directory::Directory},
    },
    record::metrics::Metrics,
    snapshot::{self, Current},
    store::{openwebui::OpenWebUi, signed_out::Redis},
};

/// The schemes of a configuration, and what they know.
pub struct Believed {
    pub identity: Arc<Identity>,
    settings: Settings,
    max_stale: Duration,
    memories: Memories,
    entra: Option<Arc<Entra>>,
}

/// What is known of Entra ID, and the questions about it until somebody answers them.
struct Entra {
    directory: Arc<Directory>,
    questions: Mutex<Option<mpsc::Receiver<entra::Question>>>,
}

/// By what the background asks.
pub struct Opened {
    /// Open WebUI's tables.
    pub tables: Option<OpenWebUi>,
    /// Its Redis.
    pub redis: Option<Redis>,
}

impl Opened {
    /// Opens nothing yet: connections are made when they are needed.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        let tables = settings.openwebui_tables.as_ref();
        let redis = settings.openwebui_redis.as_ref();
        Ok(Self {
            tables: tables.map(|tables| OpenWebUi::open(&tables.database, &tables.schema)).transpose()?,
            redis: redis.map(|redis| Redis::open(&redis.url, &redis.key_prefix)).transpose()?,
        })
    }
}

/// The schemes of a configuration, for who asks once.
pub fn identity(config: &Config) -> (Arc<Identity>, Believed) {
    let believed = Believed::new(config, None);
    (believed.identity.clone(), believed)
}

impl Believed {
    /// The schemes of a configuration. What was known before stays known, so that nobody waits because of a reload.
    pub fn new(config: &Config, before: Option<&Self>) -> Self {
        let (settings, max_stale) = (config.identity.clone(), config.access.max_stale);
        let memories = Memories::new(&settings, max_stale, before.map(|before| &before.memories));
        let entra = settings.entra.as_ref().map(|settings| entra_of(settings, max_stale, before));
        let sources = Sources {
            users: Memory::shared(&memories.users),
            api_keys: Memory::shared(&memories.api_keys),
            signed_out: Memory::shared(&memories.signed_out),
            entra: entra.as_ref().map(|entra| entra.directory.clone()),
        };
        let identity = match before {
            Some(before) if before.is_like(&settings, &sources) => before.identity.clone(),
            Some(before) => Arc::new(Identity::new(&settings, sources).remembering(&before.identity)),
            None => Arc::new(Identity::new(&settings, sources)),
        };
        Self { identity, settings, max_stale, memories, entra }
    }

    /// Whether these settings and sources make the same identity.
    fn is_like(&self, settings: &Settings, sources: &Sources) -> bool {
        let entra = self.entra.as_ref().map(|entra| Arc::as_ptr(&entra.directory));
        self.settings == *settings && entra == sources.entra.as_ref().map(Arc::as_ptr)
    }

    /// The tasks that must run, group by group, where they are others than those of before. Called where they will run.
    pub fn tasks(
        &self,
        opened: Opened,
        before: Option<&Self>,
        current: &Arc<Current>,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<Vec<(Group, Vec<Task>)>> {
        let mut groups = Vec::new();
        let is_paced_alike = before.is_some_and(|before| before.max_stale == self.max_stale);
        let has_same = |is_same: fn(&Settings, &Settings) -> bool| {
            is_paced_alike && before.is_some_and(|before| is_same(&before.settings, &self.settings))
        };
        if !has_same(|a, b| a.openwebui_tables == b.openwebui_tables) {
            let tasks = self.memories.of_tables(&self.settings, opened.tables, self.max_stale, current);
            groups.push((Group::Tables, tasks));
        }
        if !has_same(|a, b| a.openwebui_redis == b.openwebui_redis) {
            let tasks = self.memories.of_redis(&self.settings, opened.redis, self.max_stale, current);
            groups.push((Group::Redis, tasks));
        }
        let directory = |entra: &Option<Arc<Entra>>| entra.as_ref().map(Arc::as_ptr);
        if before.is_none_or(|before| directory(&before.entra) != directory(&self.entra)) {
            groups.push((Group::Entra, self.of_entra(current, metrics)?));
        }
        Ok(groups)
    }

    fn of_entra(&self, current: &Arc<Current>, metrics: &Arc<Metrics>) -> anyhow::Result<Vec<Task>> {
        let (Some(entra), Some(settings)) = (&self.entra, &self.settings.entra) else {
            return Ok(Vec::new());
        };
        let questions = entra.questions.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(questions) = questions else { return Ok(Vec::new()) };
        let around = (metrics.clone(), current.clone());
        let keep = snapshot::entra::keep(entra.directory.clone(), questions, settings.clone(), around)?;
        Ok(vec![Task { name: "Entra ID", ending: Ending::Later, work: keep.boxed() }])
    }
}

/// What is known of Entra ID: what was known before, where it is read and asked for alike.
fn entra_of(settings: &entra::Settings, max_stale: Duration, before: Option<&Believed>) -> Arc<Entra> {
    let before =
        before.and_then(|before| Some((before, before.settings.entra.as_ref()?, before.entra.as_ref()?)));
    if let Some((believed, known, entra)) = before
        && believed.max_stale == max_stale
        && known.is_read_like(settings)
    {
        return entra.clone();
    }
    let (directory, questions) = Directory::new(settings, max_stale);
    if let Some((_, known, entra)) = before
        && known.authority == settings.authority
    {
        directory.learn(&entra.directory);
    }
    Arc::new(Entra { directory, questions: Mutex::new(Some(questions)) })
}
