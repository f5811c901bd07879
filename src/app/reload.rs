//! When the configuration is read again, and what is said about it.
//!
//! Decides that a change is looked at once it stands still, and that each content is tried once, unless SIGHUP asks again.
//! A bad configuration changes nothing. Never builds anything: the keeper does.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::Notify,
    time::{Interval, MissedTickBehavior},
};
use tracing::{error, info, warn};

use super::Room;
use crate::{
    config::{self, Config, Differences, Environment, Files, Written},
    names::ServerId,
    record::{self, levels::Levels, metrics::Metrics},
};

/// Between two looks at the files; a change is taken over when two looks have seen the same.
const POLL: Duration = Duration::from_millis(400);

/// Where a configuration comes from.
pub struct Origin {
    /// The folder.
    pub directory: PathBuf,
    /// The environment, which stays what it was when the process began.
    pub environment: Environment,
    /// The files that were read at the start.
    pub files: Vec<PathBuf>,
    /// What stood in them.
    pub written: Written,
}

/// Why the configuration is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The operator said so.
    HangUp,
    /// The files are others.
    Files,
}

/// What was taken over.
pub struct Taken {
    /// Servers that are called no more.
    pub gone: Vec<ServerId>,
}

/// What is about to be taken over.
struct Next {
    files: Files,
    written: Written,
    waiting: Vec<&'static str>,
    lines: record::Settings,
    is_watched: bool,
}

/// Notices that the configuration is to be read again, and keeps account of it.
pub struct Reloads {
    origin: Option<Origin>,
    hang_up: Arc<Notify>,
    room: Room,
    levels: Levels,
    is_watched: bool,
    /// The content that is in use.
    in_use: Files,
    written: Written,
    /// The content that was last tried.
    tried: Files,
    /// Another content, seen once.
    seen: Option<Files>,
    has_failed: bool,
    next: Option<Next>,
    polls: Option<Interval>,
}

impl Reloads {
    pub fn new(origin: Option<Origin>, hang_up: Arc<Notify>, room: Room, levels: Levels) -> Self {
        let paths = origin.as_ref().map(|origin| origin.files.clone()).unwrap_or_default();
        let written = origin.as_ref().map(|origin| origin.written.clone()).unwrap_or_default();
        let in_use = Files::now(paths);
        Self {
            origin,
            hang_up,
            room,
            levels,
            is_watched: false,
            tried: in_use.clone(),
            in_use,
            written,
            seen: None,
            has_failed: false,
            next: None,
            polls: None,
        }
    }

    /// The configuration that the process was started with is in force.
    pub fn note_start(&mut self, config: &Config, metrics: &Metrics) {
        let mut polls = tokio::time::interval(POLL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.polls = Some(polls);
        self.is_watched = config.is_watched;
        self.count(metrics);
    }

    /// Returns when the configuration is to be read again.
    pub async fn wished(&mut self) -> Wish {
        loop {
            let is_watched = self.is_watched && self.origin.is_some();
            let polls = &mut self.polls;
            let poll = async {
                match polls {
                    Some(polls) if is_watched => drop(polls.tick().await),
                    Some(_) | None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.hang_up.notified() => return Wish::HangUp,
                () = poll => {}
            }
            if self.has_changed().await {
                return Wish::Files;
            }
        }
    }

    /// Whether the files are others than those tried last, and have been for two looks.
    async fn has_changed(&mut self) -> bool {
        let tried = self.tried.clone();
        // A folder may be far away.
        let Ok(now) = tokio::task::spawn_blocking(move || tried.again()).await else { return false };
        if now == self.tried {
            self.seen = None;
            return false;
        }
        let stands_still = self.seen.as_ref() == Some(&now);
        self.seen = Some(now);
        stands_still
    }

    /// The configuration as it stands in the files, where it is a good one and another than the one that is in force.
    pub async fn load(&mut self, wish: Wish, running: &Config, metrics: &Metrics) -> Option<Config> {
        self.seen = None;
        let Some(origin) = &self.origin else {
            warn!("SIGHUP: this gateway has no files to read its configuration from");
            return None;
        };
        let (directory, environment) = (origin.directory.clone(), origin.environment.clone());
        let read = move || {
            let paths = ["gateway.toml", "servers.toml"].map(|name| directory.join(name));
            // Before they are read: what is written meanwhile is another content, and tried next.
            let before = Files::now(paths);
            let loaded = config::load_with_files(&directory, &environment);
            (Files::now(loaded.files.clone()).with(before), loaded)
        };
        let (files, loaded) = tokio::task::spawn_blocking(read).await.ok()?;
        self.tried = files.clone();
        let config = match loaded.outcome {
            Ok(config) if config.identity.believes_nobody() => {
                self.refuse(config::NOBODY_COULD_CALL, metrics);
                return None;
            }
            Ok(config) => config,
            Err(problems) => {
                self.refuse(&problems.to_string(), metrics);
                return None;
            }
        };
        if files == self.in_use {
            self.note_unchanged(wish, metrics);
            return None;
        }
        for warning in config.warnings.iter().filter(|warning| !running.warnings.contains(warning)) {
            warn!("{warning}");
        }
        let mut config = self.room.bounded(config);
        let waiting = config.keep_fixed(running);
        let (lines, is_watched) = (config.record.clone(), config.is_watched);
        self.next = Some(Next { files, written: loaded.written, waiting, lines, is_watched });
        Some(config)
    }

    fn note_unchanged(&mut self, wish: Wish, metrics: &Metrics) {
        metrics.config_reload_failed.set(0);
        match (std::mem::take(&mut self.has_failed), wish) {
            (true, _) => info!("the configuration's files are again those that are in use"),
            (false, Wish::HangUp) => info!("SIGHUP: the configuration has not changed"),
            (false, Wish::Files) => {}
        }
    }

    /// Says why a configuration is not taken over.
    pub fn refuse(&mut self, why: &str, metrics: &Metrics) {
        (self.next, self.has_failed) = (None, true);
        metrics.config_reload_failed.set(1);
        error!("the changed configuration is not taken over, and the one before stays in force:\n{why}");
    }

    /// The configuration that was loaded last is in force.
    pub fn tell(&mut self, taken: Taken, metrics: &Metrics) {
        let Some(next) = self.next.take() else { return };
        for server in &taken.gone {
            metrics.forget_server(server);
        }
        // Only files that were checked come here, their filter too.
        if let Err(error) = self.levels.take(&next.lines) {
            warn!("the lines that are logged stay the same: {error:#}");
        }
        let files: Vec<String> =
            next.files.differences(&self.in_use).map(|path| path.display().to_string()).collect();
        let differences = next.written.differences(&self.written);
        (self.in_use, self.written, self.is_watched) = (next.files, next.written, next.is_watched);
        self.has_failed = false;
        self.count(metrics);
        let what = in_words(&differences).unwrap_or_else(|| format!("files changed: {}", quoted(&files)));
        info!(generation = metrics.config_generation.get(), "the configuration was taken over: {what}");
        if !next.waiting.is_empty() {
            let keys = quoted(&next.waiting);
            warn!("{keys} cannot change while the gateway runs: takes effect at the next upgrade or restart");
        }
    }

    fn count(&self, metrics: &Metrics) {
        metrics.config_generation.inc();
        metrics.config_reload_failed.set(0);
        metrics.config_hash.set(self.in_use.number() as i64);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        metrics.config_last_success_seconds.set(now.as_secs() as i64);
    }
}

/// What is different, in names; none where no key is.
fn in_words(differences: &Differences) -> Option<String> {
    let Differences { keys, added, removed, changed } = differences;
    let parts = [
        ("servers added", added),
        ("servers removed", removed),
        ("servers changed", changed),
        ("keys changed", keys),
    ];
    let told = parts.iter().filter(|(_, names)| !names.is_empty());
    let told: Vec<String> = told.map(|(what, names)| format!("{what}: {}", quoted(names))).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

fn quoted(names: &[impl AsRef<str>]) -> String {
    names.iter().map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ")
}
