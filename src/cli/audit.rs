//! `portcullis audit`: who called what, and what came of it, from the table that gateways write.
//!
//! Reads rows and changes none. Rows are printed as they arrive, so that a question may have any number of them.

use std::{
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use clap::Args;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{asked_wrong, printable, talk};
use crate::{
    config::Config,
    names::ServerId,
    record::{Outcome, audit},
    store::{
        Store,
        audit::{AuditQuestion, COLUMNS, Holds, Month},
    },
};

/// Rows that are shown where nobody says how many.
const SHOWN: u32 = 100;
/// Beyond so many entries in the spool it is not looked up which of them have come into the table meanwhile.
const MOST_LOOKED_UP: usize = 5_000;

/// Which rows, and how.
#[derive(Args)]
pub struct AuditArguments {
    /// Calls of this user or service, by email or name, whatever the case.
    #[arg(long, value_name = "WHO")]
    who: Option<String>,
    /// Calls of this server.
    #[arg(long, value_name = "SERVER", value_parser = ServerId::parse)]
    server: Option<ServerId>,
    /// Calls of this tool.
    #[arg(long, value_name = "TOOL")]
    tool: Option<String>,
    /// Calls that ended so: `tool_answered`, `refused`, …
    #[arg(long, value_name = "WORD", value_parser = parse_outcome)]
    outcome: Option<Outcome>,
    /// What was answered under this `X-Request-Id`.
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// From then on: `2h` ago (`s`, `m`, `h`, `d`, `w`), `2026-11-30` or `2026-11-30T09:00:00+01:00`; days begin in UTC.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<i64>,
    /// Before then, written in the same ways.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<i64>,
    /// The newest so many; 0: all.
    #[arg(long, value_name = "N", default_value_t = SHOWN)]
    limit: u32,
    /// One JSON object a line, with every column.
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Comma-separated values with a header, with every column.
    #[arg(long)]
    csv: bool,
}

fn parse_outcome(text: &str) -> Result<Outcome, String> {
    let words = || Outcome::ALL.map(|outcome| format!("`{}`", outcome.as_str())).join(", ");
    let found = Outcome::ALL.into_iter().find(|outcome| outcome.as_str() == text);
    found.ok_or_else(|| format!("an outcome is one of {}", words()))
}

/// Microseconds since 1970.
fn parse_time(text: &str) -> Result<i64, &'static str> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    time_at(text, i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

fn time_at(text: &str, now: i64) -> Result<i64, &'static str> {
    const WRONG: &str = "a time is like `2h`, `2026-11-30` or `2026-11-30T09:00:00Z`";
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        Some('w') => 7 * 86_400,
        _ => 0,
    };
    if unit > 0 {
        let count: u32 = text[..text.len() - 1].parse().map_err(|_| WRONG)?;
        let at = now.saturating_sub(i64::from(count) * unit * 1_000_000);
        return if at < 0 { Err("no row is older than 1970") } else { Ok(at) };
    }
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let time = OffsetDateTime::parse(&whole, &Rfc3339).map_err(|_| WRONG)?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000).map_err(|_| WRONG)
}

/// The months that `portcullis migrate` has partitions made for, where gateways may not.
pub fn a_year_ahead() -> Vec<Month> {
    let now = parse_time("0s").ok().and_then(Month::of).unwrap_or_default();
    (0..=12).map(|months| now.plus(months)).collect()
}

/// Prints them.
pub async fn audit(config: Config, arguments: AuditArguments) -> anyhow::Result<()> {
    let AuditArguments { since, until, limit, json, csv, .. } = arguments;
    if let (Some(since), Some(until)) = (since, until)
        && since >= until
    {
        return Err(asked_wrong("`--since` is not before `--until`, so no row could be meant"));
    }
    let question = AuditQuestion {
        who: arguments.who,
        server: arguments.server.map(|id| id.to_string()),
        tool: arguments.tool,
        outcome: arguments.outcome.map(|outcome| outcome.as_str().to_owned()),
        request: arguments.request,
        since,
        until,
        most: (limit > 0).then_some(limit),
    };
    // It makes nothing and changes nothing, wherever it was pointed to.
    let store = Store::open_to_read(&config.store)?;
    match store.missing_audit().await {
        Ok(None) => {}
        Ok(Some(missing)) => bail!("{missing}; is `DATABASE_URL` set as for the gateway?"),
        Err(error) => {
            tell_waiting_at_most(&config);
            return Err(error);
        }
    }
    let mut output = io::BufWriter::new(io::stdout());
    let (mut rows, mut broken) = (0_u64, None);
    if csv {
        let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
        broken = writeln!(output, "{}", names.join(",")).err();
    }
    let print: fn(&[Option<String>]) -> String = if json {
        in_json
    } else if csv {
        in_csv
    } else {
        for_people
    };
    let mut sink = |row: &[Option<String>]| {
        rows += 1;
        broken = broken.take().or_else(|| writeln!(output, "{}", print(row)).err());
        broken.is_none()
    };
    store.read_audit(&question, &mut sink).await?;
    let flushed = output.flush();
    match broken.or(flushed.err()) {
        // `portcullis audit | head` closes the pipe; that is no failure.
        Some(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Some(error) => return Err(error).context("cannot write to stdout"),
        None => tell(&config, &store, rows, &question).await?,
    }
    store.close().await;
    Ok(())
}

/// Without the database: what may wait for it.
fn tell_waiting_at_most(config: &Config) {
    let spool = config.audit.spool_dir.display();
    match audit::waiting(&config.audit.spool_dir) {
        Ok(waiting) if !waiting.is_empty() => {
            talk(&format!("{} entries wait in `{spool}`, as far as can be seen", waiting.len()));
        }
        _ => talk(&format!("the gateway keeps entries in its spool meanwhile (here `{spool}`)")),
    }
}

/// Says what is not among the rows.
async fn tell(config: &Config, store: &Store, rows: u64, question: &AuditQuestion) -> anyhow::Result<()> {
    if rows == 0 {
        talk("no such row");
    }
    if question.most.is_some_and(|most| u64::from(most) == rows) {
        talk(&format!("the newest {rows} rows; there may be older ones: `--limit 0` shows all"));
    }
    let spool = &config.audit.spool_dir;
    let mut waiting = match audit::waiting(spool) {
        Ok(waiting) => waiting,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                talk(&format!("whether entries wait in `{}` cannot be seen: {error}", spool.display()));
            }
            return Ok(());
        }
    };
    let is_looked_up = (1..=MOST_LOOKED_UP).contains(&waiting.len());
    let known = if is_looked_up { store.count_audit(&waiting).await? } else { 0 };
    waiting.truncate(waiting.len().saturating_sub(usize::try_from(known).unwrap_or_default()));
    if !waiting.is_empty() {
        talk(&format!(
            "{} entries wait in `{}` and are not in the table yet",
            waiting.len(),
            spool.display()
        ));
    }
    Ok(())
}

/// What is in a column.
fn cell<'r>(row: &'r [Option<String>], name: &str) -> &'r str {
    let at = COLUMNS.iter().position(|(column, _)| *column == name);
    at.and_then(|at| row.get(at)?.as_deref()).unwrap_or("-")
}

fn for_people(row: &[Option<String>]) -> String {
    // One space at most between words: what a client sends must not look like another column.
    let cell = |name| printable(cell(row, name)).split_whitespace().collect::<Vec<_>>().join(" ");
    // To the millisecond.
    let time = cell("timestamp");
    let time = time.get(..23).map_or(time.clone(), |time| format!("{time}Z"));
    let who = if cell("caller") == "-" { cell("user_email") } else { cell("caller") };
    let what = match (cell("server"), cell("tool")) {
        (server, _) if server == "-" => cell("endpoint"),
        (server, tool) if tool == "-" => server,
        (server, tool) => format!("{server}/{tool}"),
    };
    let [outcome, status, millis] = ["outcome", "status_code", "response_time_ms"].map(cell);
    let why = if cell("code") == "-" { String::new() } else { format!("  {}", cell("code")) };
    let request = cell("request_id");
    format!("{time}  {status:>3}  {outcome:13}  {millis:>6} ms  {who:28}  {what:36}  {request}{why}")
}

fn in_json(row: &[Option<String>]) -> String {
    let value = |(name, holds): &(&str, Holds), text: &Option<String>| {
        let number =
            || text.as_deref().and_then(|text| serde_json::from_str::<serde_json::Number>(text).ok());
        let value = match holds {
            Holds::Text => text.clone().into(),
            Holds::Number => number().into(),
        };
        ((*name).to_owned(), value)
    };
    let object: serde_json::Map<String, serde_json::Value> =
        COLUMNS.iter().zip(row).map(|(column, text)| value(column, text)).collect();
    serde_json::Value::from(object).to_string()
}

fn in_csv(row: &[Option<String>]) -> String {
    let cells = COLUMNS.iter().zip(row).map(|((_, holds), text)| {
        let text = text.as_deref().unwrap_or_default();
        // What a client sent must not be a formula in somebody's spreadsheet.
        let is_formula = *holds == Holds::Text && text.starts_with(['=', '+', '-', '@', '\t', '\r']);
        let text = if is_formula { format!("'{text}") } else { text.to_owned() };
        if text.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text
        }
    });
    cells.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_796_083_199_000_000;

    #[track_caller]
    fn check(text: &str, expected: Option<i64>) {
        assert_eq!(time_at(text, NOW).ok(), expected, "{text}");
    }

    #[test]
    fn a_time_is_so_long_ago_or_a_day_or_an_instant() {
        for (text, seconds) in
            [("1s", 1), ("90m", 5_400), ("2h", 7_200), ("1d", 86_400), ("2w", 1_209_600), ("0h", 0)]
        {
            check(text, Some(NOW - seconds * 1_000_000));
        }
        check("2026-11-30", Some(1_795_996_800_000_000));
        check("2026-11-30T01:00:00+01:00", Some(1_795_996_800_000_000));
        check("2026-11-30T00:00:00.5Z", Some(1_795_996_800_500_000));
        for wrong in [
            "",
            "h",
            "-1h",
            "2 h",
            "yesterday",
            "2026-13-01",
            "2026-11-30T00:00:00",
            "2026-11-30 00:00",
            "ä",
            "99999999999d",
            "5000000w",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn a_row_is_told_without_what_moves_a_cursor_or_counts_as_a_formula() {
        let mut row: Vec<Option<String>> = vec![None; COLUMNS.len()];
        let mut set = |name: &str, text: &str| {
            row[COLUMNS.iter().position(|(column, _)| *column == name).unwrap()] = Some(text.to_owned());
        };
        set("timestamp", "2026-11-30T10:00:00.123456Z");
        set("user_agent", "=cmd(\"x\"),1");
        set("endpoint", "/a\u{1b}[2J\u{202e}b     200");
        set("status_code", "401");
        let told = for_people(&row);
        assert!(told.starts_with("2026-11-30T10:00:00.123Z  401  ") && !told.contains('\u{1b}'), "{told}");
        assert!(told.contains("[2J\u{fffd}b 200"), "{told}");
        assert!(in_csv(&row).contains(",\"'=cmd(\"\"x\"\"),1\","), "{}", in_csv(&row));
        let json: serde_json::Value = serde_json::from_str(&in_json(&row)).unwrap();
        assert_eq!((&json["status_code"], &json["server"]), (&401.into(), &serde_json::Value::Null));
    }
}
