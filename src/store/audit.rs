//! The audit table, `api_analytics`: what a row of it is, how rows are written, asked for, and how old ones go.
//!
//! Decides that a row which is written again stays one, that a row which the database refuses is told apart from a
//! database that is away, and which rows a question means. Never decides what a call leaves behind: `record` does.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use anyhow::Context;
use serde::Serialize;
use uuid::Uuid;

use super::{ANSWER, Database, Store, ask, within};

/// What is in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Words.
    Text,
    /// A number.
    Number,
}

/// The columns, in the order in which they are read: those of earlier gateways first.
pub const COLUMNS: &[(&str, Holds)] = &[
    ("id", Holds::Number),
    ("timestamp", Holds::Text),
    ("user_email", Holds::Text),
    ("method", Holds::Text),
    ("endpoint", Holds::Text),
    ("status_code", Holds::Number),
    ("response_time_ms", Holds::Number),
    ("user_agent", Holds::Text),
    ("client_ip", Holds::Text),
    ("entry_id", Holds::Text),
    ("request_id", Holds::Text),
    ("call", Holds::Number),
    ("caller", Holds::Text),
    ("directory", Holds::Text),
    ("scheme", Holds::Text),
    ("granted_by", Holds::Text),
    ("tenant", Holds::Text),
    ("route", Holds::Text),
    ("rpc_method", Holds::Text),
    ("server", Holds::Text),
    ("tool", Holds::Text),
    ("outcome", Holds::Text),
    ("code", Holds::Text),
    ("reason", Holds::Text),
    ("gateway_ms", Holds::Number),
    ("upstream_ms", Holds::Number),
    ("request_bytes", Holds::Number),
    ("response_bytes", Holds::Number),
    ("retries", Holds::Number),
    ("argument_digest", Holds::Text),
    ("arguments", Holds::Text),
    ("trace_id", Holds::Text),
    ("instance", Holds::Text),
];

/// A row to be written: an entry as a text, which becomes columns in the database.
///
/// The text is a JSON object, without white space before its first member, of a size that a row may have and without
/// `\\u0000`, which Postgres has no place for. Its members are named as the columns are, but for these: `at_micros` is the
/// time in microseconds since 1970, `email` is `user_email`, `status` is `status_code` (0: none), `client` is `client_ip`,
/// `grant` is `granted_by`, and of `gateway_micros` and `upstream_micros` are made `gateway_ms`, `upstream_ms` and
/// `response_time_ms`. What is missing or `null` is NULL, what else stands there is passed over.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRow<'a> {
    /// As in the text.
    pub at_micros: i64,
    /// With the time, what makes the row the same when it is written again.
    pub entry_id: Uuid,
    /// The process that wrote it.
    pub instance: &'a str,
    /// The text.
    pub entry: Cow<'a, str>,
}

/// What a row has besides its entry, in the words of the columns.
#[derive(Serialize)]
struct Stamp<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    entry_id: Option<Uuid>,
    instance: &'a str,
}

impl AuditRow<'_> {
    /// The entry with everything that the row is, as one object.
    pub fn json(&self) -> String {
        self.stamped(Some(self.entry_id))
    }

    /// The same without the number, for where that has a place of its own.
    pub(super) fn json_without_id(&self) -> String {
        self.stamped(None)
    }

    /// Not read and written anew: what is not in it yet is put before its first member.
    fn stamped(&self, entry_id: Option<Uuid>) -> String {
        const TEXTS: &str = "texts are written, and a vector takes them all";
        let mut json = Vec::with_capacity(self.entry.len() + 128);
        serde_json::to_writer(&mut json, &Stamp { entry_id, instance: self.instance }).expect(TEXTS);
        json.pop();
        json.push(b',');
        json.extend_from_slice(self.entry.strip_prefix('{').unwrap_or_default().as_bytes());
        String::from_utf8(json).expect(TEXTS)
    }
}

/// Why rows were not written.
#[derive(Debug)]
pub enum NotWritten {
    /// The database refuses one of them for what it holds: another try will be refused, too.
    Refused(String),
    /// It is away, full, or not as it should be: the same rows may be written later.
    Away(anyhow::Error),
}

/// Which rows.
#[derive(Debug, Clone, Default)]
pub struct AuditQuestion {
    /// Email or name of a caller, whatever the case.
    pub who: Option<String>,
    /// Id of a server.
    pub server: Option<String>,
    /// Name of a tool.
    pub tool: Option<String>,
    /// The word for how it ended.
    pub outcome: Option<String>,
    /// Id of a request.
    pub request: Option<String>,
    /// From then on, in microseconds since 1970.
    pub since: Option<i64>,
    /// Before then.
    pub until: Option<i64>,
    /// The newest so many; none: all.
    pub most: Option<u32>,
}

/// Takes rows one by one: the texts of [`COLUMNS`]. False ends it.
pub type RowSink<'a> = dyn FnMut(&[Option<String>]) -> bool + Send + 'a;

/// What became of old rows and of the months ahead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Partitions made.
    pub made: Vec<String>,
    /// Partitions dropped.
    pub dropped: Vec<String>,
    /// Rows deleted one by one.
    pub deleted: u64,
    /// What could not be done, and why.
    pub left: Vec<String>,
    /// Whether there is more of it to do: what takes long is done in steps.
    pub is_unfinished: bool,
}

/// A month of the calendar, in UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month(i32);

impl Month {
    /// The month of this time, in microseconds since 1970; none outside the years that a calendar is made for.
    pub fn of(micros: i64) -> Option<Self> {
        let date = time::OffsetDateTime::from_unix_timestamp(micros.div_euclid(1_000_000)).ok()?;
        Some(Self(date.year() * 12 + i32::from(u8::from(date.month())) - 1))
    }

    /// So many months later.
    pub fn plus(self, months: i32) -> Self {
        Self(self.0 + months)
    }

    /// `2026-11-01 00:00:00+00`.
    pub(super) fn begin(self) -> String {
        let (year, month) = self.parts();
        format!("{year:04}-{month:02}-01 00:00:00+00")
    }

    /// `api_analytics_y2026m11`.
    pub(super) fn partition(self) -> String {
        let (year, month) = self.parts();
        format!("api_analytics_y{year:04}m{month:02}")
    }

    /// The month of a partition with such a name.
    pub(super) fn of_partition(name: &str) -> Option<Self> {
        let (year, month) = name.strip_prefix("api_analytics_y")?.split_once('m')?;
        let month = Self(year.parse::<i32>().ok()?.checked_mul(12)? + month.parse::<i32>().ok()? - 1);
        (month.partition() == name).then_some(month)
    }

    fn parts(self) -> (i32, i32) {
        (self.0.div_euclid(12), self.0.rem_euclid(12) + 1)
    }
}

/// How many rows a statement deletes.
pub(super) const DELETED_AT_ONCE: i64 = 1_000;
/// Between two such statements, so that others have their turn.
pub(super) const PAUSE: Duration = Duration::from_millis(10);
/// How long old rows are deleted in one step: what is to be written waits meanwhile.
pub(super) const STEP: Duration = Duration::from_millis(500);

/// How many rows are well written at once: in SQLite, which has one writer, others wait for it a few milliseconds.
pub const BATCH: usize = 1_000;

impl Store {
    /// Writes rows, all or none; those that are there already stay as they are.
    pub async fn write_audit(&self, rows: &[AuditRow<'_>]) -> Result<(), NotWritten> {
        let away = |error: anyhow::Error| NotWritten::Away(error.context("could not write audit rows"));
        let wrote = within(ANSWER, async { ask!(self, database => database.write_audit(rows)) });
        wrote.await.map_err(|error| match error.downcast_ref().and_then(refusal) {
            Some(why) => NotWritten::Refused(why),
            None => away(error),
        })
    }

    /// Has partitions made for these months, where the table has any.
    pub async fn prepare_audit(&self, months: &[Month]) -> anyhow::Result<Kept> {
        within(ANSWER, async { ask!(self, database => database.prepare_audit(months)) })
            .await
            .context("could not make partitions of `api_analytics`")
    }

    /// Drops or deletes what is older than so many days by the database's clock, unless another gateway is at it: one
    /// step of it, for about half a second. Rows that no gateway of ours has written are not deleted.
    pub async fn forget_audit(&self, days: u32) -> anyhow::Result<Kept> {
        within(ANSWER, async { ask!(self, database => database.forget_audit(days)) })
            .await
            .context("could not delete old rows of `api_analytics`")
    }

    /// Streams the rows that are asked for into `sink`, the newest last.
    pub async fn read_audit(&self, question: &AuditQuestion, sink: &mut RowSink<'_>) -> anyhow::Result<()> {
        ask!(self, database => database.read_audit(question, sink))
            .context("could not read the audit table `api_analytics`")
    }

    /// Why there are no rows to read: which table is missing where, or lacks our columns.
    pub async fn missing_audit(&self) -> anyhow::Result<Option<String>> {
        within(ANSWER, async { ask!(self, database => database.missing_audit()) })
            .await
            .context("could not read the audit table `api_analytics`")
    }

    /// How many of these entries the table has.
    pub async fn count_audit(&self, entries: &[String]) -> anyhow::Result<u64> {
        within(ANSWER, async { ask!(self, database => database.count_audit(entries)) })
            .await
            .context("could not read the audit table `api_analytics`")
    }
}

/// Why the database refuses a row, if it is the row's fault.
fn refusal(error: &sqlx::Error) -> Option<String> {
    let sqlx::Error::Database(error) = error else { return None };
    let code = error.code().unwrap_or_default();
    let is_of_row = if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        // Too big, a constraint, a mismatch: the primary code is in the low byte.
        code.parse::<u32>().is_ok_and(|code| [18, 19, 20].contains(&(code & 0xff)))
    } else {
        // Data, integrity, what a trigger raises, and limits of the program.
        ["22", "23", "P0", "54"].iter().any(|class| code.starts_with(class))
    };
    // The code alone: what the database says may quote the row.
    is_of_row.then(|| format!("code {code}"))
}

/// Whether such an error says that the database is away, and not that it refuses what it was asked.
pub fn is_away(error: &anyhow::Error) -> bool {
    let Some(sqlx::Error::Database(error)) = error.downcast_ref() else { return true };
    let code = error.code().unwrap_or_default();
    // Connections, who may have one, resources, and what an operator does.
    error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some()
        || ["08", "28", "3D", "53", "57", "58"].iter().any(|class| code.starts_with(class))
}

/// The bound values of a question, by the numbers they have in both databases' statements.
pub(super) fn texts(question: &AuditQuestion) -> [Option<String>; 5] {
    [
        question.who.as_ref().map(|who| who.to_lowercase()),
        question.server.clone(),
        question.tool.clone(),
        question.outcome.clone(),
        question.request.clone(),
    ]
}

/// Which months rows of these times need, each once.
pub fn months(times: impl IntoIterator<Item = i64>) -> Vec<Month> {
    let months = times.into_iter().filter_map(Month::of).map(|month| (month, ()));
    months.collect::<BTreeMap<_, _>>().into_keys().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_has_its_partition_and_its_bounds() {
        let month = Month::of(1_796_083_199_999_999).unwrap();
        assert_eq!(
            (month.partition().as_str(), month.begin().as_str()),
            ("api_analytics_y2026m11", "2026-11-01 00:00:00+00")
        );
        let next = Month::of(1_796_083_200_000_000).unwrap();
        assert_eq!((next, next.begin().as_str()), (month.plus(1), "2026-12-01 00:00:00+00"));
        assert_eq!(month.plus(2).partition(), "api_analytics_y2027m01");
        assert_eq!(Month::of_partition("api_analytics_y2027m01"), Some(month.plus(2)));
        for other in [
            "api_analytics_y2027m1",
            "api_analytics_y2027m13",
            "api_analytics_default",
            "x_y2027m01",
            "api_analytics_y+2027m01",
        ] {
            assert_eq!(Month::of_partition(other), None, "{other}");
        }
        assert_eq!(Month::of(-1).unwrap().partition(), "api_analytics_y1969m12");
        assert_eq!(Month::of(i64::MAX), None);
    }
}
