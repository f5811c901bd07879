//! Entries that are not written: why, and how many requests of strangers are.
//!
//! Decides which words there are for it, and keeps what the database refuses. That entries are lost, `telling` tells.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use serde_json::value::RawValue;
use tracing::error;

use super::spool::open_plain;
use crate::store::audit::AuditRow;

/// Why an entry is not where it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Trouble {
    /// The disk has no room.
    DiskFull = 1,
    /// The folder cannot be written to.
    DiskBroken,
    /// The disk does not answer in time.
    DiskSlow,
    /// The spool has as much as it may.
    SpoolFull,
    /// It was in a file and is not as it was written.
    Damaged,
    /// The database refuses it for what it holds.
    Refused,
}

impl Trouble {
    /// All there are.
    pub const ALL: [Self; 6] =
        [Self::DiskFull, Self::DiskBroken, Self::DiskSlow, Self::SpoolFull, Self::Damaged, Self::Refused];

    /// Their words.
    pub const WORDS: [&'static str; Self::ALL.len()] = {
        let (mut words, mut at) = ([""; Self::ALL.len()], 0);
        while at < words.len() {
            words[at] = Self::ALL[at].as_str();
            at += 1;
        }
        words
    };

    /// The word of the metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DiskFull => "disk_full",
            Self::DiskBroken => "disk_broken",
            Self::DiskSlow => "disk_slow",
            Self::SpoolFull => "spool_full",
            Self::Damaged => "damaged",
            Self::Refused => "refused",
        }
    }

    /// What is the matter, and what to do.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::DiskFull => "the disk of `audit.spool_dir` is full; make room there",
            Self::DiskBroken => {
                "`audit.spool_dir` cannot be written to; is it there, and may the gateway's user write to it?"
            }
            Self::DiskSlow => "the disk of `audit.spool_dir` does not answer",
            Self::SpoolFull => {
                "the spool holds `audit.spool_max_bytes`; is the database there? else allow it more"
            }
            Self::Damaged => "lines of a spool file are not as they were written; is the disk sound?",
            Self::Refused => "the database refuses them; they are in `refused.jsonl` of `audit.spool_dir`",
        }
    }

    /// What an error of the disk is.
    pub fn of(error: &io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::DiskFull,
            _ => Self::DiskBroken,
        }
    }

    /// The one with this number.
    pub fn numbered(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|trouble| *trouble as u8 == number)
    }
}

/// Entries a second of requests of which nobody is believed.
const STRANGERS_A_SECOND: u64 = 100;

/// Counts requests of nobody in the present second: the second and the count in one number.
#[derive(Default)]
pub struct Strangers(AtomicU64);

impl Strangers {
    /// Whether one more is written down.
    pub fn admits(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.admits_at(now.as_secs())
    }

    fn admits_at(&self, second: u64) -> bool {
        let count = |before: u64| {
            let so_far = if before >> 32 == second & 0xffff_ffff { before & 0xffff_ffff } else { 0 };
            (so_far < STRANGERS_A_SECOND).then_some((second & 0xffff_ffff) << 32 | (so_far + 1))
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_ok()
    }
}

/// Bytes of refused rows that are kept.
const MOST_REFUSED: u64 = 16 << 20;

/// A row with why it was refused.
#[derive(Serialize)]
struct Kept<'a> {
    refused: &'a str,
    row: &'a RawValue,
}

/// A row that the database refuses stays in a file, as long as that is small.
pub fn keep_refused(directory: &Path, row: &AuditRow<'_>, why: &str) {
    let path = directory.join("refused.jsonl");
    let keeping = || {
        let mut file = open_plain(&path, OpenOptions::new().append(true).create(true).mode(0o600))?;
        if file.metadata()?.len() < MOST_REFUSED {
            let row = RawValue::from_string(row.json())?;
            let mut line = serde_json::to_vec(&Kept { refused: why, row: &row })?;
            line.push(b'\n');
            file.write_all(&line)?;
        }
        Ok::<_, io::Error>(())
    };
    if let Err(error) = keeping() {
        error!("audit: a row that the database refuses cannot be kept in `{}`: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_strangers_a_second_are_written_down_and_no_more() {
        let strangers = Strangers::default();
        let admitted = |second| (0..1_000).filter(|_| strangers.admits_at(second)).count() as u64;
        assert_eq!(
            [7, 7, 8, 3].map(admitted),
            [STRANGERS_A_SECOND, 0, STRANGERS_A_SECOND, STRANGERS_A_SECOND]
        );
    }

    #[test]
    fn every_trouble_has_a_number_of_its_own() {
        for trouble in Trouble::ALL {
            assert_eq!(Trouble::numbered(trouble as u8), Some(trouble));
        }
        assert_eq!(Trouble::numbered(0), None);
    }
}
