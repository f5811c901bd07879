//! Keeps the grants true: reads them all once, then applies what changed as patches.
//!
//! On Postgres a notification says at once that something changed, and a poll covers notifications
//! that were lost; SQLite is polled often. While the database is away the last good grants stay.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::Current;
use crate::{
    access::grants::{Grants, GrantsBuilder},
    names::Secret,
    store::{self, Changes, Cursor, GrantRow, Listener, Store, Subject, Unreadable},
};

/// Between two polls where notifications work.
const POLL_POSTGRES: Duration = Duration::from_secs(5);
/// Between two polls where there are none.
const POLL_SQLITE: Duration = Duration::from_millis(200);
/// How long replaced grants are held, so that no request frees them.
const RETIREMENT: Duration = Duration::from_secs(10);
/// Between two tries while the database is away.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until the process ends.
pub async fn keep(current: Arc<Current>, store: Store, mut told: watch::Receiver<store::Settings>) {
    let settings = told.borrow_and_update().clone();
    let (cursor, grants) = (None, Arc::default());
    let mut keeper = Keeper { current, store, settings, cursor, grants, sealing: 0 };
    let mut listener = None;
    let mut is_listening_news = true;
    let mut was_told = true;
    loop {
        if told.has_changed().unwrap_or(false) {
            let settings = told.borrow_and_update().clone();
            keeper.take(settings);
            listener = None;
        }
        match keeper.refresh().await {
            Ok(found_changes) => {
                if found_changes && !was_told {
                    // The poll found what a notification should have told: the connection that listens
                    // may be dead without knowing it.
                    listener = None;
                }
                if listener.is_none() {
                    listener = keeper.listen(&mut is_listening_news).await;
                    // What changed before the listening began is picked up now, not at the next poll.
                    if listener.is_some() {
                        was_told = true;
                        continue;
                    }
                }
                was_told = tokio::select! {
                    was_told = wait(&mut listener, keeper.poll()) => was_told,
                    Ok(()) = wait_for_settings(&mut told) => true,
                };
            }
            Err(error) => {
                keeper.note_failure(&error);
                listener = None;
                keeper.renew_connections();
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Returns once other settings are told; they stay to be taken.
async fn wait_for_settings(told: &mut watch::Receiver<store::Settings>) -> anyhow::Result<()> {
    told.changed().await.context("nobody tells settings any more")?;
    told.mark_changed();
    Ok(())
}

/// Waits for the next look; true if somebody said that there is something to see.
async fn wait(listener: &mut Option<Listener>, poll: Duration) -> bool {
    let Some(listening) = listener else {
        tokio::time::sleep(poll).await;
        return false;
    };
    match tokio::time::timeout(poll, listening.changed()).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            debug!("listening for grant changes ended: {error:#}");
            *listener = None;
            true
        }
        Err(_elapsed) => false,
    }
}

struct Keeper {
    current: Arc<Current>,
    store: Store,
    cursor: Option<Cursor>,
    grants: Arc<Grants>,
    settings: store::Settings,
    /// The sealing keys that the keys of groups were last opened with.
    sealing: usize,
}

impl Keeper {
    /// Brings the grants up to date; true if they had changed.
    async fn refresh(&mut self) -> anyhow::Result<bool> {
        let changes = match &mut self.cursor {
            Some(cursor) => self.store.changes_since(cursor).await.context("cannot read grant changes")?,
            None => Changes::Everything,
        };
        let found_changes = changes != Changes::Nothing;
        let sealing = self.store.sealing_generation();
        if std::mem::replace(&mut self.sealing, sealing) != sealing && changes != Changes::Everything {
            self.open_again().await?;
        }
        match changes {
            Changes::Nothing => self.confirm(),
            Changes::Subjects(subjects) => self.patch(&subjects).await?,
            Changes::Everything => self.load().await?,
        }
        Ok(found_changes)
    }

    async fn load(&mut self) -> anyhow::Result<()> {
        // Forgotten first: if reading breaks off, the next try must read everything again.
        self.cursor = None;
        // Whenever everything is read, not at the start alone: it may be another database by now.
        if self.settings.auto_migrate {
            self.store.migrate().await.context("cannot bring the database schema up to date")?;
        }
        let began = std::time::Instant::now();
        let mut builder = GrantsBuilder::default();
        let cursor =
            self.store.load_grants(&mut |row| builder.add(row)).await.context("cannot read grants")?;
        // Millions of rows take seconds to arrange: not on a runtime thread.
        let grants = tokio::task::spawn_blocking(move || builder.finish()).await?;
        info!(
            rows = grants.row_count(),
            malformed = grants.malformed_count(),
            "read all grants in {:?}",
            began.elapsed()
        );
        self.publish(grants);
        self.cursor = Some(cursor);
        Ok(())
    }

    async fn patch(&mut self, subjects: &[Subject]) -> anyhow::Result<()> {
        let mut rows: Vec<OwnedRow> = Vec::new();
        let read = self.store.rows_about(subjects, &mut |row| rows.push(OwnedRow::from(row))).await;
        if let Err(error) = read {
            // The cursor has moved past these changes: only reading everything is certain now.
            self.cursor = None;
            return Err(error.context("cannot read changed grants"));
        }
        debug!(subjects = subjects.len(), rows = rows.len(), "patched grants");
        let patched = self.grants.patched(subjects, rows.iter().map(OwnedRow::lend));
        self.publish(patched);
        Ok(())
    }

    /// Reads what groups have of their own anew: the keys it is sealed with are other ones.
    async fn open_again(&mut self) -> anyhow::Result<()> {
        let groups = self.grants.tenants().names();
        let groups: Vec<_> = groups.map(|group| Subject::Group(group.as_str().to_owned())).collect();
        if groups.is_empty() {
            return Ok(());
        }
        self.patch(&groups).await
    }

    /// After one connection was silent all are suspect, and each would be found dead only at its own deadline.
    fn renew_connections(&mut self) {
        if self.store.is_postgres() {
            self.reopen();
        }
    }

    /// Reads by other settings from now on. The grants stay; where it is another database, its own replace them at once.
    fn take(&mut self, settings: store::Settings) {
        if settings.url != self.settings.url || settings.schema != self.settings.schema {
            self.cursor = None;
        }
        self.settings = settings;
        self.reopen();
    }

    fn reopen(&mut self) {
        if let Ok(store) = Store::open(&self.settings) {
            // It has read the file of sealing keys by itself.
            self.sealing = usize::MAX;
            let before = std::mem::replace(&mut self.store, store);
            tokio::spawn(async move { before.close().await });
        }
    }

    /// Time to the next poll: grants that are confirmed only then must not be too old by then.
    fn poll(&self) -> Duration {
        let poll = if self.store.is_postgres() { POLL_POSTGRES } else { POLL_SQLITE };
        poll.min(self.current.max_stale() / 3)
    }

    fn publish(&mut self, grants: Grants) {
        let before = std::mem::replace(&mut self.grants, Arc::new(grants));
        // Requests hold the grants for milliseconds. Whoever lets go last frees them, and with millions of
        // rows that must be nobody who serves.
        tokio::spawn(async move {
            tokio::time::sleep(RETIREMENT).await;
            drop(tokio::task::spawn_blocking(move || drop(before)).await);
        });
        self.announce_database();
        self.current.publish_grants(self.grants.clone());
    }

    fn confirm(&self) {
        self.announce_database();
        self.current.confirm_grants();
    }

    /// Begins to listen. Where that does not work (some poolers), it is said once.
    async fn listen(&self, is_news: &mut bool) -> Option<Listener> {
        match self.store.listen().await {
            Ok(listener) => {
                *is_news = true;
                listener
            }
            Err(error) => {
                if std::mem::replace(is_news, false) {
                    warn!("no notifications from the database, polling instead: {error:#}");
                }
                None
            }
        }
    }

    fn announce_database(&self) {
        if !self.current.is_database_up() {
            info!("the database answers");
        }
    }

    fn note_failure(&self, error: &anyhow::Error) {
        if self.current.is_database_up() || self.current.grants_age().is_none() {
            warn!("grants cannot be read from the database; the last good ones serve on: {error:#}");
        }
        self.current.doubt_database();
    }
}

/// A row kept while its siblings are read.
enum OwnedRow {
    User(String, String),
    Group(String, String),
    Membership(String, String),
    Rule([String; 5]),
    Key([String; 3], Result<Secret<String>, Unreadable>),
    Endpoint([String; 3]),
}

impl From<GrantRow<'_>> for OwnedRow {
    fn from(row: GrantRow<'_>) -> Self {
        match row {
            GrantRow::User { email, server } => Self::User(email.into(), server.into()),
            GrantRow::Group { group, server } => Self::Group(group.into(), server.into()),
            GrantRow::Membership { email, group } => Self::Membership(email.into(), group.into()),
            GrantRow::Rule { kind, subject, server, pattern, effect } => {
                Self::Rule([kind, subject, server, pattern, effect].map(String::from))
            }
            GrantRow::Key { group, server, name, value } => {
                Self::Key([group, server, name].map(String::from), value.cloned())
            }
            GrantRow::Endpoint { group, server, url } => {
                Self::Endpoint([group, server, url].map(String::from))
            }
        }
    }
}

impl OwnedRow {
    fn lend(&self) -> GrantRow<'_> {
        match self {
            Self::User(email, server) => GrantRow::User { email, server },
            Self::Group(group, server) => GrantRow::Group { group, server },
            Self::Membership(email, group) => GrantRow::Membership { email, group },
            Self::Rule([kind, subject, server, pattern, effect]) => {
                GrantRow::Rule { kind, subject, server, pattern, effect }
            }
            Self::Key([group, server, name], value) => {
                let value = value.as_ref().map_err(|unreadable| *unreadable);
                GrantRow::Key { group, server, name, value }
            }
            Self::Endpoint([group, server, url]) => GrantRow::Endpoint { group, server, url },
        }
    }
}
