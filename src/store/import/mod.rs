//! Importing from the earlier gateway: its tables are read as of one instant, and what they say is written here.
//!
//! Decides what becomes of each row and counts it. Grants are written all or none; what cannot be read is left out and
//! told. Never writes to where it reads from, and never lets a key or an address into a sentence.

mod belongings;
mod layout;
mod report;
mod source;
mod tables;
mod target;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    os::unix::fs::MetadataExt,
    time::Duration,
};

use anyhow::{Context, bail};
use futures_util::StreamExt;

use self::{
    belongings::Fate,
    layout::Found,
    source::{Rows, Snapshot},
    tables::{Belonging, Raw, Skip, What},
    target::{TABLES, Target},
};
pub use self::{
    report::{Counts, LeftOut, Report, Sink, State, TableReport, UnknownServers},
    source::Source,
    tables::Table,
};
use super::{Database, Store, within};
use crate::names::{GroupName, ServerId};

/// Whether anything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Write what is missing here.
    Write,
    /// Only say what would be written.
    Compare,
}

/// How many rows are held at once.
const BATCH: usize = 5_000;
/// How long the source may take for that many.
const PATIENCE: Duration = Duration::from_secs(60);
/// Keys and endpoints are held all at once, to be compared: there are as many as groups use servers.
const MOST_BELONGINGS: usize = 100_000;

impl Store {
    /// Imports the tables of an earlier gateway; again, it finds everything here already.
    ///
    /// Grants are written in one transaction. `known` are the servers of the catalog: rows about others are imported
    /// and told. Rows that are left out go to `sink`.
    pub async fn import(
        &self,
        source: &Source,
        mode: Mode,
        known: &BTreeSet<ServerId>,
        sink: &mut Sink<'_>,
    ) -> anyhow::Result<Report> {
        let mut target = Target::begin(self).await.context("could not begin to write")?;
        let mut snapshot = source.begin().await?;
        let is_same = self.is_same_database(source, &mut snapshot, &mut target).await?;
        let shape = snapshot.shape(source.schema()).await?;
        let mut report = Report { tables: Vec::new(), elsewhere: shape.elsewhere };
        let mut belongings = Vec::new();
        for table in Table::ALL {
            let layout = match shape.tables.get(&table) {
                None => {
                    report.tables.push(TableReport::new(table, State::Absent));
                    continue;
                }
                Some(Found::Unreadable(reason)) => {
                    report.tables.push(TableReport::new(table, State::Unreadable(reason.clone())));
                    continue;
                }
                Some(Found::Readable(layout)) => layout,
            };
            let is_in_use = is_same && (layout.oid.is_none() || layout.oid == target.oid(table).await?);
            let state = if is_in_use { State::InUse } else { State::Read };
            let mut reading = Reading { report: TableReport::new(table, state), known, sink: &mut *sink };
            reading.report.unread_columns.clone_from(&layout.unread_columns);
            let rows = snapshot.rows(&layout.statement);
            let read = match table.is_of_grants() {
                true => reading.grants(rows, &mut target).await,
                false => reading.belongings(rows, &mut belongings).await,
            };
            read.with_context(|| format!("could not read `{table}`"))?;
            report.tables.push(reading.report);
        }
        drop(snapshot);
        settle_grants(target, mode, &mut report).await?;
        self.settle_belongings(belongings, mode, &mut report, sink).await?;
        Ok(report)
    }

    /// Whether source and target are one database, by whatever addresses they are reached.
    async fn is_same_database(
        &self,
        source: &Source,
        snapshot: &mut Snapshot,
        target: &mut Target,
    ) -> anyhow::Result<bool> {
        match (&self.database, source.file()) {
            (Database::Sqlite(database), Some(theirs)) => {
                let (ours, theirs) = (database.file.path().to_owned(), theirs.clone());
                let identity =
                    |path: std::path::PathBuf| std::fs::metadata(path).map(|file| (file.dev(), file.ino()));
                let comparing = tokio::task::spawn_blocking(move || Ok(identity(ours)? == identity(theirs)?));
                comparing.await?.map_err(|error: std::io::Error| error.into())
            }
            (Database::Postgres(_), None) => {
                // Nobody else has this number, so whoever sees it held looks into the same database.
                let key = uuid::Uuid::now_v7().as_u128() as i64;
                target.lock(key).await.context("could not compare the two databases")?;
                snapshot.sees_lock(key).await
            }
            (Database::Postgres(_), Some(_)) | (Database::Sqlite(_), None) => Ok(false),
        }
    }

    /// Sorts out what was said twice, and has the rest written.
    async fn settle_belongings(
        &self,
        rows: Vec<(Table, Belonging)>,
        mode: Mode,
        report: &mut Report,
        sink: &mut Sink<'_>,
    ) -> anyhow::Result<()> {
        let mut of_table: BTreeMap<Table, Vec<Belonging>> = BTreeMap::new();
        for (table, belonging) in agreed(rows, report, sink) {
            of_table.entry(table).or_default().push(belonging);
        }
        for (table, rows) in of_table {
            let fates = belongings::write(self, &rows, mode)
                .await
                .with_context(|| format!("could not write what was in `{table}`"))?;
            let counts = counts(report, table);
            for (row, fate) in rows.into_iter().zip(fates) {
                match fate {
                    Fate::New => counts.new += 1,
                    Fate::There => counts.there += 1,
                    Fate::Left(reason) => {
                        counts.not_imported += 1;
                        sink(LeftOut { table, place: row.place, reason });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Compares what was laid out, and writes what is missing in one transaction; tables in use are left alone.
async fn settle_grants(mut target: Target, mode: Mode, report: &mut Report) -> anyhow::Result<()> {
    let is_written = |table| report.tables.iter().any(|of| of.table == table && of.state == State::Read);
    let new: Vec<u64> = match mode {
        Mode::Compare => target.compare(&TABLES).await.context("could not compare the grants")?,
        Mode::Write => {
            let tables: Vec<Table> = TABLES.into_iter().filter(|table| is_written(*table)).collect();
            let written = target.write(&tables).await.context("could not write the grants: none was")?;
            let written: BTreeMap<Table, u64> = tables.into_iter().zip(written).collect();
            TABLES.iter().map(|table| written.get(table).copied().unwrap_or_default()).collect()
        }
    };
    for (table, new) in TABLES.into_iter().zip(new) {
        let counts = counts(report, table);
        counts.new = new;
        counts.there = counts.there.saturating_sub(new);
    }
    Ok(())
}

/// The counts of a table that was read, or of nothing.
fn counts(report: &mut Report, table: Table) -> &mut Counts {
    let at = report.tables.iter().position(|of| of.table == table).unwrap_or_default();
    &mut report.tables[at].counts
}

/// Reads a table row by row.
struct Reading<'a, 'sink> {
    report: TableReport,
    known: &'a BTreeSet<ServerId>,
    sink: &'a mut Sink<'sink>,
}

impl Reading<'_, '_> {
    /// Lays grants out in the target. `there` is what was laid out, until it is compared with what is there.
    async fn grants(&mut self, mut rows: Rows<'_>, target: &mut Target) -> anyhow::Result<()> {
        let table = self.report.table;
        loop {
            let batch = next(&mut rows).await?;
            if batch.is_empty() {
                return Ok(());
            }
            let mut grants = Vec::with_capacity(batch.len());
            for raw in batch {
                let place = raw.place.clone();
                self.report.counts.read += 1;
                match tables::grant(table, raw) {
                    Ok(grant) => grants.push(grant),
                    Err(skip) => self.leave_out(place, skip),
                }
            }
            let distinct = target.stage(table, &grants).await?;
            self.report.counts.there += distinct;
            self.report.counts.repeated += grants.len() as u64 - distinct;
            for server in grants.into_iter().filter_map(|grant| grant.server) {
                self.note(server);
            }
        }
    }

    async fn belongings(
        &mut self,
        mut rows: Rows<'_>,
        kept: &mut Vec<(Table, Belonging)>,
    ) -> anyhow::Result<()> {
        let table = self.report.table;
        loop {
            let batch = next(&mut rows).await?;
            if batch.is_empty() {
                return Ok(());
            }
            for raw in batch {
                let place = raw.place.clone();
                self.report.counts.read += 1;
                if self.report.state == State::InUse {
                    // Sealed or not, they are where they belong.
                    self.report.counts.there += 1;
                    continue;
                }
                match tables::belonging(table, raw) {
                    Ok(belonging) => {
                        self.note(belonging.server.clone());
                        kept.push((table, belonging));
                    }
                    Err(skip) => self.leave_out(place, skip),
                }
            }
            if kept.len() > MOST_BELONGINGS {
                bail!("there are more than {MOST_BELONGINGS} keys and endpoints, too many to compare");
            }
        }
    }

    fn note(&mut self, server: ServerId) {
        if !self.known.contains(&server) {
            self.report.unknown_servers.count(server);
        }
    }

    fn leave_out(&mut self, place: String, skip: Skip) {
        let counts = &mut self.report.counts;
        let reason = match skip {
            Skip::Malformed(reason) => {
                counts.malformed += 1;
                reason
            }
            Skip::Off(reason) => {
                counts.off += 1;
                reason
            }
        };
        (self.sink)(LeftOut { table: self.report.table, place, reason });
    }
}

/// The next rows, as many as are held at once; none at the end.
async fn next(rows: &mut Rows<'_>) -> anyhow::Result<Vec<Raw>> {
    within(PATIENCE, async {
        let mut batch = Vec::new();
        while batch.len() < BATCH
            && let Some(row) = rows.next().await
        {
            batch.push(row?);
        }
        Ok(batch)
    })
    .await
}

/// Those that no other row contradicts, each once. Where two rows say different things of one, neither is believed.
fn agreed(
    rows: Vec<(Table, Belonging)>,
    report: &mut Report,
    sink: &mut Sink<'_>,
) -> Vec<(Table, Belonging)> {
    /// What a row is about: a key by its name, or (`None`) the endpoint.
    type About = (GroupName, ServerId, Option<Option<String>>);
    let about = |row: &Belonging| -> About {
        let key = match &row.what {
            What::Key { name, .. } => Some(name.clone()),
            What::Endpoint(_) => None,
        };
        (row.group.clone(), row.server.clone(), key)
    };
    let mut said: HashMap<About, Vec<(Table, Belonging)>> = HashMap::new();
    let mut order = Vec::new();
    for (table, row) in rows {
        let about = about(&row);
        let others = said.entry(about.clone()).or_default();
        if others.is_empty() {
            order.push(about);
        }
        others.push((table, row));
    }
    let mut agreed = Vec::new();
    for about in order {
        let mut rows = said.remove(&about).unwrap_or_default().into_iter();
        let Some((table, first)) = rows.next() else { continue };
        let others: Vec<_> = rows.collect();
        if others.iter().all(|(_, other)| other.what == first.what) {
            for (table, _) in &others {
                counts(report, *table).repeated += 1;
            }
            agreed.push((table, first));
            continue;
        }
        for (table, row) in [(table, first)].into_iter().chain(others) {
            counts(report, table).malformed += 1;
            let (group, server) = (&row.group, &row.server);
            let reason = format!("another row says something else of group `{group}` and server `{server}`");
            sink(LeftOut { table, place: row.place, reason });
        }
    }
    agreed
}
