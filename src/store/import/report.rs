//! What an import found and did, table by table.
//!
//! Decides what is counted, and when something was left behind. Never holds a row: those that are left out go to the
//! reader's own sink as they are met, so that a report is as small as there are tables and servers.

use std::collections::BTreeMap;

use super::tables::Table;
use crate::names::ServerId;

/// What an import found and did.
#[derive(Debug, Default)]
pub struct Report {
    /// The tables, in the order they were read.
    pub tables: Vec<TableReport>,
    /// Schemas that have tables of these names, when the one that was looked into has none.
    pub elsewhere: Vec<String>,
}

/// What became of one table.
#[derive(Debug)]
pub struct TableReport {
    /// Which.
    pub table: Table,
    /// Whether and how it could be read.
    pub state: State,
    /// What became of its rows.
    pub counts: Counts,
    /// Columns that were not looked at.
    pub unread_columns: Vec<String>,
    /// Rows about servers that are not in the catalog.
    pub unknown_servers: UnknownServers,
}

/// Whether a table could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// There is none.
    Absent,
    /// It was read.
    Read,
    /// It was read, and is the very table that the gateway itself uses.
    InUse,
    /// It is there and was not read, for this reason.
    Unreadable(String),
}

/// What became of the rows of a table. Everything but `read` adds up to `read`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows there.
    pub read: u64,
    /// Written (or to be written, when nothing is).
    pub new: u64,
    /// Here before.
    pub there: u64,
    /// Rows that say what another row of the same table says.
    pub repeated: u64,
    /// Rows that do not count there either.
    pub off: u64,
    /// Rows that cannot be read as what they should be.
    pub malformed: u64,
    /// Keys and endpoints that stay there, each for a reason.
    pub not_imported: u64,
}

/// A row that is not taken.
#[derive(Debug)]
pub struct LeftOut {
    /// Of this table.
    pub table: Table,
    /// Where it stands there.
    pub place: String,
    /// Why.
    pub reason: String,
}

/// Takes rows that are left out as they are met.
pub type Sink<'a> = dyn FnMut(LeftOut) + Send + 'a;

/// How many unknown servers are told by name.
const MOST_NAMED: usize = 1_000;

/// Rows about servers that are not in the catalog: they are imported, and count once the server is there.
#[derive(Debug, Default)]
pub struct UnknownServers {
    named: BTreeMap<ServerId, u64>,
    others: u64,
}

impl UnknownServers {
    /// Counts a row about this server.
    pub(super) fn count(&mut self, server: ServerId) {
        if let Some(rows) = self.named.get_mut(&server) {
            *rows += 1;
        } else if self.named.len() < MOST_NAMED {
            self.named.insert(server, 1);
        } else {
            self.others += 1;
        }
    }

    /// The servers and how many rows are about each.
    pub fn named(&self) -> impl Iterator<Item = (&ServerId, u64)> {
        self.named.iter().map(|(server, rows)| (server, *rows))
    }

    /// Rows about yet other servers.
    pub fn others(&self) -> u64 {
        self.others
    }
}

impl TableReport {
    pub(super) fn new(table: Table, state: State) -> Self {
        let (counts, unread_columns) = (Counts::default(), Vec::new());
        Self { table, state, counts, unread_columns, unknown_servers: UnknownServers::default() }
    }

    /// Whether something of it is not here now and would be, or is here and should not.
    pub fn leaves_something(&self) -> bool {
        let Counts { off, malformed, not_imported, .. } = self.counts;
        match self.state {
            State::Absent => false,
            State::Unreadable(_) => true,
            State::Read => malformed + not_imported > 0,
            // The gateway reads its tables without the columns that switch a row off.
            State::InUse => malformed + not_imported + off > 0,
        }
    }
}

impl Report {
    /// Whether all that counts there is here now.
    pub fn is_complete(&self) -> bool {
        self.tables.iter().any(|table| table.state != State::Absent)
            && !self.tables.iter().any(TableReport::leaves_something)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_complete_when_something_was_read_and_nothing_left_behind() {
        let table = |state, counts| {
            let mut table = TableReport::new(Table::UserAccess, state);
            table.counts = counts;
            Report { tables: vec![table], elsewhere: Vec::new() }.is_complete()
        };
        assert!(table(State::Read, Counts { read: 3, new: 1, there: 1, off: 1, ..Counts::default() }));
        assert!(table(State::InUse, Counts { read: 1, there: 1, ..Counts::default() }));
        assert!(!table(State::InUse, Counts { read: 1, off: 1, ..Counts::default() }));
        assert!(!table(State::Read, Counts { read: 1, malformed: 1, ..Counts::default() }));
        assert!(!table(State::Read, Counts { read: 1, not_imported: 1, ..Counts::default() }));
        assert!(!table(State::Absent, Counts::default()));
        assert!(!table(State::Unreadable("no".to_owned()), Counts::default()));
    }

    #[test]
    fn servers_without_end_are_counted_and_not_kept() {
        let mut unknown = UnknownServers::default();
        for number in 0..MOST_NAMED + 5 {
            unknown.count(ServerId::parse(&format!("s{number}")).unwrap());
        }
        unknown.count(ServerId::parse("s1").unwrap());
        assert_eq!((unknown.named().count(), unknown.others()), (MOST_NAMED, 5));
        assert_eq!(unknown.named().map(|(_, rows)| rows).max(), Some(2));
    }
}
