//! Brings entries from the journal into the database, in their order, and keeps the table.
//!
//! Decides when rows count as written: once the database says so. What is sent again after a crash stays one row, because
//! each has a number of its own. Never makes a call wait, and never lets one row that is refused hold up the others.

use std::{
    collections::{BTreeSet, VecDeque},
    mem,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use tokio::{sync::watch, time::Instant};
use tracing::{error, info, warn};

use super::{
    Settings, Told,
    batch::{Batch, READ_AT_ONCE, Source},
    journal::Journal,
    lost::{self, Trouble},
    spool::{self, Home, Segment},
    upkeep::{MONTHS_AHEAD, Upkeep},
};
use crate::store::{
    Store,
    audit::{AuditRow, Month, NotWritten, is_away, months},
};

/// Between two looks where less than a batch waited: rows are brought together rather than one by one.
const LOOK: Duration = Duration::from_millis(200);
/// Between two tries while the database is away: at first, and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(5)];
/// A database that is away for longer is told of. One that is being migrated, or restarted, is not.
const TOLERATED: Duration = Duration::from_secs(3);
/// Between two looks for what other processes left behind.
const LEFT_BEHIND: Duration = Duration::from_secs(2);
/// Files of which it is told that they cannot be read.
const MOST_TOLD: usize = 1_000;
/// Months back that get one: what claims to be older, or of the future, is not worth a table of its own.
const MONTHS_BACK: i32 = 24;
/// How long the end waits for what is in memory.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Ships as long as the process runs.
pub struct Shipper {
    journal: Arc<Journal>,
    told: watch::Receiver<Told>,
    settings: Settings,
    store: Option<Store>,
    /// What processes left behind that are gone, oldest first.
    left: VecDeque<(Home, VecDeque<Arc<Segment>>)>,
    /// Months that have their partition, or cannot have one.
    months: BTreeSet<Month>,
    /// Files of the spool that cannot be read, of which it was told.
    told_of: BTreeSet<PathBuf>,
    /// Where lines are read to: room that is made anew for each batch costs a row as much as reading it.
    room: Vec<u8>,
    next_look: Instant,
    upkeep: Upkeep,
    away: Option<Away>,
}

/// A database that takes no rows.
struct Away {
    since: Instant,
    retry: Duration,
    is_told: bool,
}

/// How many rows there were, and what became of them.
struct Wrote {
    rows: u64,
    refused: u64,
    damaged: u64,
}

/// What was shipped, and so whether to go on at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shipped {
    /// There was nothing.
    Nothing,
    /// All there was.
    Rest,
    /// A batch, and there may be more.
    Batch,
}

impl Shipper {
    pub(super) fn new(journal: Arc<Journal>, told: watch::Receiver<Told>) -> Self {
        let (settings, now) = (told.borrow().settings.clone(), Instant::now());
        Self {
            journal,
            told,
            settings,
            store: None,
            left: VecDeque::new(),
            months: BTreeSet::new(),
            told_of: BTreeSet::new(),
            room: Vec::new(),
            next_look: now,
            upkeep: Upkeep::new(),
            away: None,
        }
    }

    /// Runs until `is_ending` says so, and then as long as the database takes what there is.
    pub async fn run(mut self, mut is_ending: watch::Receiver<bool>) {
        self.told.mark_changed();
        while !*is_ending.borrow() {
            if self.told.has_changed().unwrap_or(false) {
                self.take_settings();
            }
            let pause = match self.work().await {
                Ok(Shipped::Batch) => continue,
                Ok(Shipped::Rest | Shipped::Nothing) => LOOK,
                Err(error) => self.note_away(&error),
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = self.told.changed() => if changed.is_ok() { self.told.mark_changed() },
                _ = is_ending.changed() => {}
            }
        }
        let over = Instant::now() + LAST_LINES;
        while !self.journal.has_ended() && Instant::now() < over {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while matches!(self.ship().await, Ok(Shipped::Batch | Shipped::Rest)) {}
    }

    fn take_settings(&mut self) {
        let told = self.told.borrow_and_update().clone();
        self.settings = told.settings;
        self.upkeep.hurry();
        self.renew();
    }

    /// Connections of its own, made when they are needed.
    fn renew(&mut self) {
        if let Some(before) = self.store.take() {
            tokio::spawn(async move { before.close().await });
        }
        self.months.clear();
        // Where the settings make none, the keeper of grants says so.
        self.store = Store::open(&self.told.borrow().store).ok();
    }

    /// Does what is to be done.
    async fn work(&mut self) -> anyhow::Result<Shipped> {
        // Switched off, it ships and keeps what there is, and makes no folder.
        let is_done =
            self.left.is_empty() && self.journal.oldest().is_none_or(|segment| segment.is_shipped());
        if !self.settings.is_on && is_done && !self.journal.directory().is_dir() {
            return Ok(Shipped::Nothing);
        }
        if Instant::now() >= self.next_look {
            self.next_look = Instant::now() + LEFT_BEHIND;
            self.look();
        }
        // First: what is to be written never waits for what is deleted.
        let shipped = self.ship().await;
        let is_away = shipped.as_ref().is_err_and(is_away);
        if let Some(store) = self.store.as_ref().filter(|_| self.upkeep.is_due() && !is_away) {
            let kept = self.upkeep.step(store, self.settings.retention_days).await;
            match (kept, &shipped) {
                // Nothing else says how the database is.
                (Err(error), Ok(Shipped::Nothing)) => return Err(error),
                (Ok(()), Ok(Shipped::Nothing)) => self.note_back(),
                _ => {}
            }
        }
        shipped
    }

    /// Takes up what others left behind.
    fn look(&mut self) {
        let (journal, own) = (&self.journal, self.journal.instance());
        // A folder that cannot be read is the journal's to tell of.
        let spool::TakenUp { homes, unreadable } =
            spool::take_up(journal.directory(), own.as_deref()).unwrap_or_default();
        for (path, error) in unreadable {
            if self.told_of.len() < MOST_TOLD && self.told_of.insert(path.clone()) {
                let path = path.display();
                warn!(
                    "audit: `{path}` cannot be read, so what is in it is not shipped: {error}; give the file to the \
                     gateway's user, or take it away"
                );
            }
        }
        for (home, segments) in homes {
            if self.left.iter().any(|(known, _)| known.instance == home.instance) {
                continue;
            }
            let mut lines = 0;
            for segment in &segments {
                lines += segment.waiting_lines().unwrap_or_default();
                journal.bytes.fetch_add(segment.length.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            journal.metrics.audit_waiting_rows.add(i64::try_from(lines).unwrap_or(i64::MAX));
            if lines > 0 {
                info!("audit: {lines} entries of a process that is gone are taken up");
            }
            self.left.push_back((home, segments.into_iter().map(Arc::new).collect()));
        }
    }

    /// Ships one batch, where there is any.
    async fn ship(&mut self) -> anyhow::Result<Shipped> {
        let Some(batch) = self.next() else {
            self.journal.oldest_micros.store(0, Ordering::Relaxed);
            return Ok(Shipped::Nothing);
        };
        let wrote = self.write(&batch).await;
        let Batch { lines, is_full, from, bytes } = batch;
        self.room = bytes;
        match (wrote, from) {
            (Ok(Wrote { rows, refused, damaged }), from) => {
                self.journal.lose(Trouble::Damaged, damaged);
                self.journal.lose(Trouble::Refused, refused);
                self.journal.metrics.audit_written.inc_by(rows - refused);
                self.journal.metrics.audit_waiting_rows.sub(i64::try_from(lines).unwrap_or(i64::MAX));
                if let Source::Segment(segment, place) = from {
                    segment.note_shipped(place);
                    self.journal.finish(&segment);
                }
                if rows > 0 {
                    self.note_back();
                }
                Ok(if is_full { Shipped::Batch } else { Shipped::Rest })
            }
            (Err(error), Source::Memory(lines)) => {
                self.journal.put_back(lines);
                Err(error)
            }
            (Err(error), Source::Segment(..)) => Err(error),
        }
    }

    /// What comes next: what others left, this process's files, and memory where the disk is of no use.
    fn next(&mut self) -> Option<Batch> {
        while let Some((_, segments)) = self.left.front_mut() {
            while let Some(segment) = segments.front() {
                match Batch::of_segment(segment, mem::take(&mut self.room)) {
                    // Nothing is added to it: what is left is shipped at once.
                    Ok(Some(batch)) => return Some(batch.followed(true)),
                    // At its end, or torn there: what was being written when the process ended was never answered.
                    Ok(None) => segment.remove(),
                    Err(error) => {
                        error!("audit: a file of the spool cannot be read, and stays there: {error}")
                    }
                }
                self.journal.bytes.fetch_sub(segment.length.load(Ordering::Relaxed), Ordering::Relaxed);
                segments.pop_front();
            }
            if let Some((home, _)) = self.left.pop_front() {
                home.remove();
            }
        }
        while let Some(segment) = self.journal.oldest() {
            match Batch::of_segment(&segment, mem::take(&mut self.room)) {
                Ok(Some(batch)) => {
                    let is_newest =
                        self.journal.newest().is_some_and(|newest| Arc::ptr_eq(&newest, &segment));
                    return Some(batch.followed(!is_newest));
                }
                Ok(None) => self.journal.finish(&segment),
                Err(_) => break,
            }
            if self.journal.oldest().is_none_or(|next| Arc::ptr_eq(&next, &segment)) {
                break;
            }
        }
        self.journal.trouble()?;
        let lines = self.journal.take_held(READ_AT_ONCE / 4);
        if lines.is_empty() {
            return None;
        }
        Some(Batch::of_memory(lines))
    }

    /// Writes rows, those one by one that would hold up the others.
    async fn write(&mut self, batch: &Batch) -> anyhow::Result<Wrote> {
        let instance = match &batch.from {
            Source::Segment(segment, _) => segment.instance.clone(),
            Source::Memory(_) => self.journal.instance().unwrap_or_default(),
        };
        let (rows, damaged) = batch.rows(&instance);
        if let Some(first) = rows.first() {
            self.journal.oldest_micros.store(first.at_micros, Ordering::Relaxed);
        }
        self.prepare(&rows).await?;
        let store = self.store.as_ref().context("there is no database")?;
        let mut refused = Vec::new();
        // From and to.
        let mut ranges = vec![(0, rows.len())];
        while let Some((from, to)) = ranges.pop().filter(|(from, to)| from < to) {
            let range = from..to;
            match store.write_audit(&rows[range.clone()]).await {
                Ok(()) => {}
                Err(NotWritten::Away(error)) => return Err(error),
                Err(NotWritten::Refused(why)) if range.len() == 1 => refused.push((from, why)),
                Err(NotWritten::Refused(_)) => {
                    let middle = from + range.len() / 2;
                    ranges.extend([(middle, to), (from, middle)]);
                }
            }
        }
        for (at, why) in &refused {
            lost::keep_refused(self.journal.directory(), &rows[*at], why);
        }
        Ok(Wrote { rows: rows.len() as u64, refused: refused.len() as u64, damaged })
    }

    /// Has a partition for each month of these rows.
    async fn prepare(&mut self, rows: &[AuditRow<'_>]) -> anyhow::Result<()> {
        let now = Month::of(micros_now()).unwrap_or_default();
        let is_likely = |month: &Month| (now.plus(-MONTHS_BACK)..=now.plus(MONTHS_AHEAD)).contains(month);
        let mut wanted = months(rows.iter().map(|row| row.at_micros));
        wanted.retain(|month| is_likely(month) && !self.months.contains(month));
        if !wanted.is_empty() {
            let store = self.store.as_ref().context("there is no database")?;
            // One that cannot be made is told of with the upkeep: its rows go aside and are not held up.
            store.prepare_audit(&wanted).await?;
            self.months.extend(wanted);
        }
        Ok(())
    }

    /// Notes that the database takes nothing; how long to wait before the next try.
    fn note_away(&mut self, error: &anyhow::Error) -> Duration {
        self.renew();
        let since = Instant::now();
        let away = self.away.get_or_insert(Away { since, retry: RETRY[0], is_told: false });
        if !away.is_told && away.since.elapsed() > TOLERATED {
            away.is_told = true;
            warn!("audit: rows wait in the spool, because the database does not take them: {error:#}");
        }
        let pause = away.retry;
        away.retry = (away.retry * 2).min(RETRY[1]);
        self.journal.is_shipping.store(false, Ordering::Relaxed);
        self.journal.metrics.audit_database_up.set(0);
        pause
    }

    fn note_back(&mut self) {
        self.journal.is_shipping.store(true, Ordering::Relaxed);
        self.journal.metrics.audit_database_up.set(1);
        if let Some(Away { since, is_told: true, .. }) = self.away.take() {
            let waiting = self.journal.metrics.audit_waiting_rows.get();
            info!("audit: the database takes rows again after {:?}; {waiting} wait", since.elapsed());
        }
    }
}

/// Microseconds since 1970.
pub(super) fn micros_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}
