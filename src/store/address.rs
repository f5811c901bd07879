//! Where a database is, as far as its address says.
//!
//! Decides what can be told of it without a connection. Never repeats an address, because it may hold a password.

use std::{fs, io, path::PathBuf};

use super::postgres;
use crate::names::Secret;

/// The first bytes of every SQLite database.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// A database address whose scheme has been recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// `postgres://` or `postgresql://`; holds a password, so it does not print.
    Postgres(Secret<String>),
    /// The file of an embedded SQLite database.
    Sqlite(PathBuf),
}

impl DatabaseUrl {
    /// Why nothing could ever be read there, as far as it shows without a connection; never says what the address holds.
    pub fn problem(&self) -> Option<&'static str> {
        match self {
            Self::Postgres(url) => (!postgres::is_readable(url)).then_some(
                "cannot be read, probably because of a parameter behind `?` that is not known or has no such value",
            ),
            Self::Sqlite(path) => path.is_dir().then_some("names a folder, and not a file"),
        }
    }

    /// Whether there is a file that is no SQLite database. Only for a process that has no connection to it: closing a file
    /// takes the locks away that the process has on it, those of SQLite too.
    pub fn is_of_another_kind(&self) -> bool {
        // Opening a pipe would wait for who writes to it.
        let Self::Sqlite(path) = self else { return false };
        if !path.is_file() {
            return false;
        }
        let mut first = Vec::new();
        let read = fs::File::open(path).and_then(|file| {
            io::Read::read_to_end(&mut io::Read::take(file, MAGIC.len() as u64), &mut first)
        });
        read.is_ok() && !first.is_empty() && first != MAGIC
    }
}
