//! An SQLite file that may be moved, deleted or replaced while it is open here.
//!
//! Decides which file the connections belong to, and lets go of them once another stands in its place: an open file
//! lives on without its name, and would answer for ever with what it held. Never reads a table.

use std::{
    ffi::OsString,
    fs, io, mem,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, anyhow, bail};
use sqlx::{
    ConnectOptions, Connection,
    sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions},
};
use tokio::sync::Mutex;
use tracing::warn;

/// A file and the connections to it. Cloning is cheap: clones share the connections.
#[derive(Clone)]
pub(super) struct SqliteFile {
    path: Arc<Path>,
    options: SqliteConnectOptions,
    owner: Owner,
    state: Arc<Mutex<State>>,
}

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The gateway's: made where it is missing at first, and cleaned up after where it was replaced.
    Gateway,
    /// Somebody else's: only read.
    Other,
}

/// How often the file has been opened anew since it was first opened.
pub(super) type Opening = u64;

enum State {
    Unopened,
    Open(Opened),
    Closed,
}

struct Opened {
    pool: SqlitePool,
    opening: Opening,
    file: Identity,
    /// As seen while there was a connection.
    beside: Beside,
    /// Whether the log of a replaced file has been written into that file.
    is_log_empty: bool,
}

/// What was found under the name and beside it.
#[derive(Clone, Copy)]
struct Seen {
    file: Identity,
    beside: Beside,
}

/// Tells a file apart from every other. The time of birth is there for numbers that are used again.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    born: Option<SystemTime>,
}

/// What SQLite keeps beside a file in use: its write-ahead log, and the index of that log which processes share.
///
/// When one of them is lost or replaced, other processes write where we do not read: as bad as another file.
#[derive(Clone, Copy, Default)]
struct Beside {
    log: Option<Identity>,
    index: Option<Identity>,
}

impl SqliteFile {
    /// Prepares connections without making one; the file is made, where it is missing, by the first.
    pub(super) fn new(path: &Path, options: SqliteConnectOptions, owner: Owner) -> Self {
        let options = options
            .filename(path)
            .create_if_missing(false)
            .busy_timeout(Duration::from_secs(5))
            .disable_statement_logging();
        Self { path: path.into(), options, owner, state: Arc::new(Mutex::new(State::Unopened)) }
    }

    /// Connections to the file that has the name now, and which opening of it they are.
    ///
    /// What was read through another opening says nothing of this one. A file that has gone is an error and is not
    /// made anew: an empty one would take every grant away.
    pub(super) async fn pool(&self) -> anyhow::Result<(SqlitePool, Opening)> {
        let mut state = self.state.lock().await;
        let opened = match &mut *state {
            State::Closed => bail!("the database has been closed"),
            State::Unopened => {
                let opened = self.open(self.look_or_make().await?, 0);
                let pool = opened.pool.clone();
                *state = State::Open(opened);
                return Ok((pool, 0));
            }
            State::Open(opened) => opened,
        };
        let seen = self.look().await?.ok_or_else(|| self.missing())?;
        if !opened.is_still(&seen) {
            self.let_go(opened, &seen).await?;
            warn!("another file has taken the place of `{}`: reading that one", self.path.display());
            *opened = self.open(seen, opened.opening + 1);
        } else if opened.pool.is_closed() {
            // Letting go was broken off, and then the old file came back.
            *opened = self.open(seen, opened.opening + 1);
        } else if opened.pool.size() > 0 {
            opened.beside = seen.beside;
        }
        Ok((opened.pool.clone(), opened.opening))
    }

    /// The name it is found under.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the connections; there are no more from then on.
    pub(super) async fn close(&self) {
        let state = mem::replace(&mut *self.state.lock().await, State::Closed);
        if let State::Open(opened) = state {
            opened.pool.close().await;
        }
    }

    fn open(&self, seen: Seen, opening: Opening) -> Opened {
        // No limits on age: as long as there is a connection, SQLite leaves what is beside the file alone.
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(3))
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(self.options.clone());
        Opened { pool, opening, file: seen.file, beside: Beside::default(), is_log_empty: false }
    }

    async fn look_or_make(&self) -> anyhow::Result<Seen> {
        if let Some(seen) = self.look().await? {
            return Ok(seen);
        }
        if self.owner == Owner::Gateway {
            // By SQLite: a handle of our own would, when closed, take the locks of its connections away.
            let options = SqliteConnectOptions::new().filename(&*self.path).create_if_missing(true);
            options.connect().await?.close().await?;
        }
        self.look().await?.ok_or_else(|| self.missing())
    }

    async fn look(&self) -> anyhow::Result<Option<Seen>> {
        let path = self.path.clone();
        let seen = tokio::task::spawn_blocking(move || Seen::at(&path)).await?;
        seen.with_context(|| format!("could not look at the database file `{}`", self.path.display()))
    }

    fn missing(&self) -> anyhow::Error {
        anyhow!("the database file `{}` is missing", self.path.display())
    }

    /// Closes connections to a file that has been replaced. The lock is held: nobody opens the new file meanwhile.
    ///
    /// SQLite finds a log by its name alone, and would read the old file's into the new one. So what stands in it is
    /// written to the old file first, which is still open here, and then it goes.
    async fn let_go(&self, opened: &mut Opened, seen: &Seen) -> anyhow::Result<()> {
        let is_left_behind = self.owner == Owner::Gateway
            && opened.file != seen.file
            && opened.beside.shares_log(&seen.beside);
        if is_left_behind && !opened.is_log_empty {
            empty_log(&opened.pool).await.with_context(|| {
                format!(
                    "`{0}` was replaced, but `{0}-wal` still belongs to the file before it",
                    self.path.display()
                )
            })?;
            opened.is_log_empty = true;
        }
        opened.pool.close().await;
        if is_left_behind {
            let (path, beside) = (self.path.clone(), opened.beside);
            tokio::task::spawn_blocking(move || beside.remove(&path)).await??;
        }
        Ok(())
    }
}

impl Opened {
    fn is_still(&self, seen: &Seen) -> bool {
        let has_kept = |before: Option<Identity>, now| before.is_none() || before == now;
        self.file == seen.file
            && has_kept(self.beside.log, seen.beside.log)
            && has_kept(self.beside.index, seen.beside.index)
    }
}

impl Seen {
    fn at(path: &Path) -> io::Result<Option<Self>> {
        let Some(file) = Identity::of(path)? else { return Ok(None) };
        let [log, index] = Beside::paths(path)?;
        let beside = Beside { log: Identity::of(&log)?, index: Identity::of(&index)? };
        Ok(Some(Self { file, beside }))
    }
}

impl Identity {
    fn of(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Ok(found) => {
                let (device, inode) = (found.dev(), found.ino());
                Ok(Some(Self { device, inode, born: found.created().ok() }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Beside {
    /// Log and index, which stand beside the file itself where `path` is a symbolic link.
    fn paths(path: &Path) -> io::Result<[PathBuf; 2]> {
        let path = fs::canonicalize(path)?;
        Ok(["-wal", "-shm"].map(|suffix| {
            let mut path = OsString::from(&path);
            path.push(suffix);
            path.into()
        }))
    }

    fn shares_log(&self, other: &Self) -> bool {
        self.log.is_some() && self.log == other.log
    }

    /// Removes these two, unless others stand there by now.
    fn remove(&self, path: &Path) -> io::Result<()> {
        for (path, ours) in Self::paths(path)?.iter().zip([self.log, self.index]) {
            if ours.is_some() && Identity::of(path)? == ours {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// Writes all that stands in the log into the file that the connections have open.
async fn empty_log(pool: &SqlitePool) -> anyhow::Result<()> {
    // Never a new connection: it would open the new file.
    let mut connection = pool.try_acquire().context("all connections are in use")?;
    let (is_busy, _, _): (bool, i64, i64) =
        sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *connection).await?;
    if is_busy {
        bail!("another process is using it");
    }
    Ok(())
}
