//! Which diagnostic lines are written, changeable while the gateway runs.
//!
//! Decides what no filter can ask for: of other crates nothing below `info`, because there they quote requests, answers
//! and statements. Only our own lines go deeper, and those hold no secret. Never writes a line itself.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use tokio::time::Instant;
use tracing_appender::non_blocking::ErrorCounter;
use tracing_subscriber::{
    EnvFilter,
    filter::{LevelFilter, Targets},
};

use super::Settings;

/// How long lines of level `debug` are written that a signal asked for.
pub const LOUD: Duration = Duration::from_secs(15 * 60);
/// What `DEBUG=true` and the signal add.
pub const OUR_DEBUG: &str = "portcullis=debug";

/// Crates that say at these levels what the record says too, and less clearly, or quote what they were sent.
const CAPPED: [(&str, LevelFilter); 4] = [
    ("pingora_core", LevelFilter::ERROR),
    ("pingora_proxy", LevelFilter::OFF),
    ("pingora_error", LevelFilter::OFF),
    ("sqlx", LevelFilter::WARN),
];

/// Puts a filter in the place of the one before.
pub type Put = dyn Fn(EnvFilter) -> anyhow::Result<()> + Send + Sync;

/// The filter in force. A clone is the same one.
#[derive(Clone)]
pub struct Levels(Arc<Inner>);

struct Inner {
    put: Box<Put>,
    dropped: ErrorCounter,
    state: Mutex<State>,
}

struct State {
    configured: String,
    loud_until: Option<Instant>,
}

impl Levels {
    /// With the filter of these settings in force, and who counts the lines that nobody took.
    pub fn new(settings: &Settings, put: Box<Put>, dropped: ErrorCounter) -> Self {
        let state = State { configured: settings.filter.clone(), loud_until: None };
        Self(Arc::new(Inner { put, dropped, state: Mutex::new(state) }))
    }

    /// Has the lines written that these settings want, those besides that a signal asked for.
    pub fn take(&self, settings: &Settings) -> anyhow::Result<()> {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.configured, settings.filter.clone());
        let put = self.put(&state);
        if put.is_err() {
            state.configured = before;
        }
        put
    }

    /// Has our own lines of level `debug` written for `time`, or no longer where they already are; says until when.
    pub fn toggle(&self, time: Duration) -> anyhow::Result<Option<Instant>> {
        let mut state = self.state();
        state.loud_until = match state.loud_until {
            None => Some(Instant::now() + time),
            Some(_) => None,
        };
        self.put(&state)?;
        Ok(state.loud_until)
    }

    /// Returns when what a signal asked for has had its time, and ends it.
    pub async fn calm_down(&self) -> anyhow::Result<()> {
        let Some(until) = self.state().loud_until else { return std::future::pending().await };
        tokio::time::sleep_until(until).await;
        let mut state = self.state();
        state.loud_until = None;
        self.put(&state)
    }

    /// How many lines nobody took.
    pub fn dropped_lines(&self) -> u64 {
        self.0.dropped.dropped_lines() as u64
    }

    fn put(&self, state: &State) -> anyhow::Result<()> {
        (self.0.put)(filter(&state.text())?)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn text(&self) -> String {
        match self.loud_until {
            None => self.configured.clone(),
            // Of two directives for one target the later one holds.
            Some(_) => format!("{},{OUR_DEBUG}", self.configured),
        }
    }
}

/// A filter as it is configured.
pub fn filter(text: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(text).with_context(|| format!("`log.filter` is not a filter: `{text}`"))
}

/// What no filter can ask for.
pub fn cap() -> Targets {
    let ours = [("portcullis", LevelFilter::TRACE)];
    Targets::new().with_default(LevelFilter::INFO).with_targets(ours.into_iter().chain(CAPPED))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    /// Levels, and the filters that were put in force.
    fn levels(filter: &str) -> (Levels, Arc<Mutex<Vec<String>>>) {
        let (put, dropped) = (Arc::new(Mutex::new(Vec::new())), NonBlocking::new(std::io::sink()));
        let texts = put.clone();
        let put_one = move |filter: EnvFilter| {
            texts.lock().unwrap().push(filter.to_string());
            Ok(())
        };
        let levels = Levels::new(&settings(filter), Box::new(put_one), dropped.0.error_counter());
        (levels, put)
    }

    use tracing_appender::non_blocking::NonBlocking;

    fn settings(filter: &str) -> Settings {
        Settings { filter: filter.to_owned(), is_access_log_on: true, traces: None }
    }

    #[test]
    fn other_crates_say_nothing_below_info_whatever_a_filter_wants() {
        let is_let_through = |target, level| cap().would_enable(target, &level);
        for target in ["hyper", "h2::codec", "reqwest::connect", "rustls", "hickory_proto", "redis", "tower"]
        {
            assert!(is_let_through(target, Level::INFO) && !is_let_through(target, Level::DEBUG), "{target}");
        }
        for target in ["pingora_proxy", "pingora_error", "pingora_proxy::proxy_h1"] {
            assert!(!is_let_through(target, Level::ERROR), "{target}");
        }
        assert!(!is_let_through("pingora_core::protocols", Level::WARN));
        assert!(!is_let_through("sqlx::query", Level::INFO));
        assert!(is_let_through("portcullis::gateway", Level::TRACE));
    }

    #[tokio::test]
    async fn what_a_signal_asked_for_outlasts_a_reload_and_ends_by_itself() {
        let (levels, put) = levels("info");
        let last = || put.lock().unwrap().last().cloned().unwrap();
        assert!(levels.toggle(Duration::ZERO).unwrap().is_some());
        assert!(last().contains(OUR_DEBUG), "{}", last());
        levels.take(&settings("warn")).unwrap();
        assert!(last().contains(OUR_DEBUG) && last().contains("warn"), "{}", last());
        levels.calm_down().await.unwrap();
        assert_eq!(last(), "warn");
        assert!(levels.toggle(LOUD).unwrap().is_some() && levels.toggle(LOUD).unwrap().is_none());
        assert_eq!(last(), "warn");
    }
}
