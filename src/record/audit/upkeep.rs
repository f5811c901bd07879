//! What is done for the table besides writing to it: partitions for the months ahead, and old rows let go.
//!
//! Decides when, and that it is done in short steps, so that what is to be written never waits long. What fails here holds
//! no row up: it is told once, in the database's words.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::shipper::micros_now;
use crate::store::{
    Store,
    audit::{Kept, Month, is_away},
};

/// Between two times.
const EVERY: Duration = Duration::from_secs(3600);
/// The same where the last one failed.
const AGAIN: Duration = Duration::from_secs(60);
/// The same where the database was away.
const SOON: Duration = Duration::from_millis(250);
/// Between two steps of one time.
const BETWEEN: Duration = Duration::from_millis(500);
/// Months ahead that have their partition.
pub(super) const MONTHS_AHEAD: i32 = 2;

/// How far it is.
pub(super) struct Upkeep {
    next: Instant,
    /// What the steps so far have done; none before the first.
    so_far: Option<Kept>,
    /// Why it fails, as it was told.
    told: Option<String>,
}

impl Upkeep {
    pub fn new() -> Self {
        Self { next: Instant::now(), so_far: None, told: None }
    }

    /// It is to be done at once.
    pub fn hurry(&mut self) {
        (self.next, self.so_far) = (Instant::now(), None);
    }

    pub fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }

    /// Does one step. An error says that the database is away; what it refuses is told.
    pub async fn step(&mut self, store: &Store, retention_days: u32) -> anyhow::Result<()> {
        match self.do_step(store, retention_days).await {
            Ok(()) => {
                self.told = None;
                Ok(())
            }
            Err(error) if is_away(&error) => {
                self.next = Instant::now() + SOON;
                Err(error)
            }
            Err(error) => {
                self.next = Instant::now() + AGAIN;
                let why = format!("{error:#}");
                if self.told.as_ref() != Some(&why) {
                    warn!(
                        "audit: rows are written, but partitions or old rows cannot be seen to: {why}; tried again every \
                         minute"
                    );
                    self.told = Some(why);
                }
                Ok(())
            }
        }
    }

    async fn do_step(&mut self, store: &Store, retention_days: u32) -> anyhow::Result<()> {
        let mut kept = match self.so_far.take() {
            Some(so_far) => so_far,
            None => {
                let now = Month::of(micros_now()).unwrap_or_default();
                let ahead: Vec<Month> = (0..=MONTHS_AHEAD).map(|months| now.plus(months)).collect();
                store.prepare_audit(&ahead).await?
            }
        };
        let gone =
            if retention_days > 0 { store.forget_audit(retention_days).await? } else { Kept::default() };
        kept.deleted += gone.deleted;
        kept.dropped.extend(gone.dropped);
        for left in gone.left {
            if !kept.left.contains(&left) {
                kept.left.push(left);
            }
        }
        if gone.is_unfinished {
            self.so_far = Some(kept);
            self.next = Instant::now() + BETWEEN;
            return Ok(());
        }
        if !kept.dropped.is_empty() || kept.deleted > 0 {
            let (partitions, rows) = (kept.dropped.join("`, `"), kept.deleted);
            info!(
                "audit: rows older than {retention_days} days are gone: partitions `{partitions}`, {rows} single rows"
            );
        }
        for left in &kept.left {
            warn!("audit: a partition of `api_analytics` could not be made or dropped: {left}");
        }
        self.next = Instant::now() + EVERY;
        Ok(())
    }
}
