//! Where entries of the audit table go: into a file first, and from there into the database.
//!
//! Decides nothing about what is in them. A call pays for one small write to a file that the kernel keeps in memory, and
//! waits for nobody (`journal`). A task brings what is written into the table (`shipper`).

mod batch;
mod journal;
mod line;
mod lost;
mod row;
mod shipper;
mod spool;
mod telling;
mod upkeep;

use std::{
    cell::RefCell,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::Context;
use tokio::sync::watch;
use tracing::warn;
use uuid::Uuid;

use self::{
    journal::Journal,
    lost::{Strangers, Trouble},
    shipper::Shipper,
};
use super::{entry::Entry, metrics::Metrics};
use crate::store;

/// How long the end of the process waits for what can still be shipped.
const LAST_ROWS: Duration = Duration::from_millis(1_500);

/// The words for why an entry is lost.
pub const LOSSES: [&str; Trouble::ALL.len()] = Trouble::WORDS;

/// Bytes of room for a line that a thread keeps.
const LINE: usize = 16 << 10;

thread_local! {
    /// Where a line is put together, so that no call makes room for its own.
    static DRAFT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How the audit is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether entries are written at all.
    pub is_on: bool,
    /// Where they are until the database has them.
    pub spool_dir: PathBuf,
    /// Bytes that they may take there.
    pub spool_max_bytes: u64,
    /// How long rows stay; 0: for ever.
    pub retention_days: u32,
}

/// What the shipper is told by the configuration.
#[derive(Clone)]
struct Told {
    settings: Settings,
    store: store::Settings,
}

/// Takes one entry per call.
#[derive(Clone, Default)]
pub struct Audit(Option<Arc<Inner>>);

struct Inner {
    is_on: AtomicBool,
    journal: Arc<Journal>,
    strangers: Strangers,
    told: watch::Sender<Told>,
}

/// Brings entries into the database, on a runtime of its own.
pub struct Shipping {
    shipper: Shipper,
    journal: Arc<Journal>,
    is_ending: watch::Receiver<bool>,
    done: mpsc::Sender<()>,
}

/// Dropped at the end of the process: waits a moment for what can still be shipped.
pub struct Flush {
    journal: Arc<Journal>,
    is_ending: watch::Sender<bool>,
    done: mpsc::Receiver<()>,
}

impl Audit {
    /// Opens the journal, and says what brings it into the database.
    pub fn begin(
        settings: &Settings,
        store: &store::Settings,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<(Self, Shipping, Flush)> {
        // Nobody knows yet.
        metrics.audit_database_up.set(-1);
        let journal = Arc::new(Journal::new(settings.spool_dir.clone(), settings.spool_max_bytes, metrics));
        let told = Told { settings: settings.clone(), store: store.clone() };
        let (told, hears) = watch::channel(told);
        let (end, is_ending) = watch::channel(false);
        let (done, is_done) = mpsc::channel();
        journal.take(settings.is_on, settings.spool_max_bytes);
        let writing = journal.clone();
        thread::Builder::new()
            .name("audit journal".to_owned())
            .spawn(move || writing.write_for_ever())
            .context("cannot start the thread of the audit's journal")?;
        let shipper = Shipper::new(journal.clone(), hears);
        let shipping = Shipping { shipper, journal: journal.clone(), is_ending, done };
        let flush = Flush { journal: journal.clone(), is_ending: end, done: is_done };
        let is_on = settings.is_on.into();
        let inner = Inner { is_on, journal, strangers: Strangers::default(), told };
        Ok((Self(Some(Arc::new(inner))), shipping, flush))
    }

    /// Has these settings hold from now on. The folder stays.
    pub fn take(&self, settings: &Settings, store: &store::Settings) {
        let Some(inner) = &self.0 else { return };
        let told = inner.told.borrow().clone();
        if told.settings == *settings && told.store == *store {
            return;
        }
        inner.journal.take(settings.is_on, settings.spool_max_bytes);
        inner.is_on.store(settings.is_on, Ordering::Relaxed);
        inner.told.send_replace(Told { settings: settings.clone(), store: store.clone() });
    }

    /// Whether anybody wants entries.
    pub fn is_on(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.is_on.load(Ordering::Relaxed))
    }

    /// Whether a request of which nobody is believed is written down, too: so many a second, and the rest is counted. A
    /// flood of strangers must not fill the database.
    pub fn admits_stranger(&self) -> bool {
        let Some(inner) = &self.0 else { return false };
        let is_admitted = inner.strangers.admits();
        if !is_admitted {
            inner.journal.metrics.audit_left_out.inc();
        }
        is_admitted
    }

    /// Writes an entry down: when this returns, the end of this process does not lose it, unless the disk is in trouble.
    pub fn write(&self, entry: &Entry<'_>) {
        let Some(inner) = self.0.as_ref().filter(|inner| inner.is_on.load(Ordering::Relaxed)) else { return };
        DRAFT.with_borrow_mut(|line| {
            line::write(line, Uuid::now_v7(), &row::bounded(entry));
            inner.journal.put(line);
            if line.capacity() > LINE {
                *line = Vec::new();
            }
        });
    }
}

impl Shipping {
    /// Runs until the process ends.
    pub async fn run(self) {
        let telling = tokio::spawn(telling::tell(self.journal));
        self.shipper.run(self.is_ending).await;
        telling.abort();
        // Said before its time where the runtime ends: then nobody waits in vain.
        drop(self.done);
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.journal.end();
        self.is_ending.send_replace(true);
        // Nothing is sent: what is waited for is the end of the task. What is left the next process ships.
        let _ = self.done.recv_timeout(LAST_ROWS);
        let (left, folder) =
            (self.journal.metrics.audit_waiting_rows.get(), self.journal.directory().display());
        if left > 0 {
            warn!(
                "audit: {left} entries are left in `{folder}`; the next process that uses the folder ships them"
            );
        }
    }
}

/// Why a folder cannot be the spool; nothing is left in it.
pub fn refuse_unwritable(directory: &Path) -> io::Result<()> {
    spool::refuse_unwritable(directory)
}

/// Numbers and times of the entries that wait in a folder, as far as can be seen.
pub fn waiting(directory: &Path) -> io::Result<Vec<String>> {
    let mut entries = Vec::new();
    let note = |line: &[u8]| entries.extend(line::id(line).map(|id| id.to_string()));
    spool::waiting_lines(directory, note)?;
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, fs, time::Instant};

    use super::{super::entry::Shown, *};
    use crate::store::{
        DatabaseUrl, Store,
        audit::{AuditQuestion, COLUMNS},
    };

    /// Brings what is in the spool of `folder` into its database, and gives the rows by the ids of their requests.
    async fn ship(
        folder: &Path,
        count: u64,
        write: impl FnOnce(&Audit),
    ) -> HashMap<String, HashMap<&'static str, String>> {
        let url = DatabaseUrl::Sqlite(folder.join("audit.db"));
        let store =
            store::Settings { url, schema: String::new(), auto_migrate: false, sealing: Default::default() };
        let database = Store::open(&store).unwrap();
        database.migrate().await.unwrap();
        let spool_dir = folder.join("spool");
        let settings = Settings { is_on: true, spool_dir, spool_max_bytes: 1 << 30, retention_days: 0 };
        let metrics = Arc::new(Metrics::new().unwrap());
        let (audit, shipping, flush) = Audit::begin(&settings, &store, metrics.clone()).unwrap();
        write(&audit);
        let shipped = metrics.clone();
        let ending = async move {
            let over = Instant::now() + Duration::from_secs(10);
            while shipped.audit_written.get() < count {
                assert!(Instant::now() < over, "{} of {count} rows", shipped.audit_written.get());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            thread::spawn(move || drop(flush));
        };
        tokio::join!(shipping.run(), ending);
        assert_eq!(metrics.audit_lost.with_label_values(&["damaged"]).get(), 0);
        let mut rows = HashMap::new();
        let mut sink = |row: &[Option<String>]| {
            let row: HashMap<_, _> = COLUMNS
                .iter()
                .zip(row)
                .filter_map(|((name, _), text)| Some((*name, text.clone()?)))
                .collect();
            rows.insert(row["request_id"].clone(), row);
            true
        };
        database.read_audit(&AuditQuestion::default(), &mut sink).await.unwrap();
        rows
    }

    #[tokio::test]
    async fn whatever_stands_in_an_entry_comes_into_the_table_in_its_column() {
        let folder = tempfile::tempdir().unwrap();
        let texts = ["usual", "n\0ul \\u0000", "\\\"'é\u{1f600}\n", &"ä".repeat(30_000)].map(str::to_owned);
        let rows = ship(folder.path(), 4, |audit| {
            for (number, text) in (0..).zip(&texts) {
                let request_id = format!("r{number}");
                let entry = line::tests::entry(text);
                audit.write(&Entry {
                    request_id: &request_id,
                    email: None,
                    grant: Some(Shown(&number)),
                    ..entry
                });
            }
        })
        .await;
        assert_eq!(rows.len(), texts.len());
        for (number, text) in texts.iter().enumerate() {
            let row = &rows[&format!("r{number}")];
            let of = |most| text.chars().take(most).collect::<String>().replace('\0', "\u{fffd}");
            assert_eq!((row["caller"].as_str(), row.get("user_email")), (&*of(1_024), None), "{number}");
            assert_eq!(
                (row["granted_by"].as_str(), row["arguments"].as_str()),
                (&*number.to_string(), &*of(1 << 20))
            );
            assert_eq!(
                (row["tool"].chars().count(), row["response_time_ms"].as_str()),
                (of(512).chars().count(), "4")
            );
        }
    }

    #[tokio::test]
    async fn what_the_program_before_left_in_the_spool_is_taken_up() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("spool")).unwrap();
        let left = folder.path().join("spool/01a205b7c0de70008000000000000001-0000000001.journal");
        fs::write(left, line::tests::earlier()).unwrap();
        let rows = ship(folder.path(), 1, |_| {}).await;
        let row = &rows["r"];
        for (column, text) in [
            ("timestamp", "2026-11-30T23:59:59.123456Z"),
            ("entry_id", "01a205b7-c0de-7000-8000-00000000abcd"),
            ("instance", "01a205b7c0de70008000000000000001"),
            ("status_code", "401"),
            ("client_ip", "::1"),
            ("gateway_ms", "0.012"),
        ] {
            assert_eq!(row[column], text, "{column}");
        }
        assert_eq!(row.get("caller"), None);
    }
}
