//! `portcullis import`: the tables of the earlier gateway are read, what counts is written here, and a report is printed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;

use super::{asked_wrong, data, grants, talk};
use crate::{
    config::{self, Config},
    store::{
        DatabaseUrl, GrantRow, Settings, Store,
        import::{Counts, LeftOut, Mode, Report, Source, State, Table, TableReport},
    },
};

/// From where, and whether anything is written.
#[derive(Args)]
pub struct ImportArguments {
    /// The earlier gateway's database, `postgres://…` or `sqlite:PATH`; `-` reads it from the standard input, where no
    /// list of processes shows its password.
    #[arg(long, value_name = "URL")]
    from: String,
    /// The schema its tables stand in (Postgres; `public` unless the url says `?schema=NAME`).
    #[arg(long, value_name = "SCHEMA")]
    from_schema: Option<String>,
    /// Report what would be done, and write nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Imports and reports; exit code 1 when something that counts there is not here.
pub async fn import(config: Config, arguments: ImportArguments) -> anyhow::Result<ExitCode> {
    let address = read_address(&arguments.from)?;
    let url = config::database_address(&address)
        .map_err(|sentence| asked_wrong(&format!("the address after `--from` {sentence}")))?;
    let source = Source::open(&url, arguments.from_schema.as_deref())
        .map_err(|error| asked_wrong(&format!("{error:#}")))?;
    let mode = if arguments.dry_run { Mode::Compare } else { Mode::Write };
    // Made where SQLite would make a file to compare with.
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let store = match mode {
        Mode::Write => grants::open(&config).await?,
        Mode::Compare => Store::open(&existing(&config.store, scratch.path()))?,
    };
    let known: BTreeSet<_> = config.servers.iter().map(|server| server.id.clone()).collect();
    let mut trouble = None;
    let mut print = |row: LeftOut| {
        if let Err(error) = data(&format!("{}: left out: {}: {}", row.table, row.place, row.reason)) {
            trouble.get_or_insert(error);
        }
    };
    let report = store.import(&source, mode, &known, &mut print).await;
    source.close().await;
    let unused = match (&report, mode) {
        (Ok(_), Mode::Write) => unused(&config, &store).await,
        _ => Ok(Vec::new()),
    };
    store.close().await;
    let report = report?;
    if let Some(error) = trouble {
        return Err(error);
    }
    print_report(&report)?;
    unused?.iter().try_for_each(|remark| data(remark))?;
    sum_up(&report, mode, source.schema());
    Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read_address(argument: &str) -> anyhow::Result<String> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("cannot read the address from the standard input")?;
    Ok(line.trim().to_owned())
}

/// The settings of the gateway's database, or of one that is not there yet in its place.
fn existing(settings: &Settings, scratch: &std::path::Path) -> Settings {
    let mut settings = settings.clone();
    if let DatabaseUrl::Sqlite(path) = &mut settings.url
        && !path.exists()
    {
        *path = scratch.join("nothing.db");
    }
    settings
}

/// What stands here now and will not be used as it is: keys that their server takes by another name, and addresses that the
/// gateway may not go to. Says neither.
async fn unused(config: &Config, store: &Store) -> anyhow::Result<Vec<String>> {
    let server = |id: &str| config.servers.iter().find(|server| server.id.as_str() == id);
    let (mut keys, mut addresses) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
    let mut note = |row: GrantRow<'_>| match row {
        GrantRow::Key { server: id, name, .. } => {
            let takes = server(id).and_then(|server| server.own_credential.as_ref());
            if takes.is_some_and(|takes| takes.key_name != name) {
                *keys.entry(id.to_owned()).or_default() += 1;
            }
        }
        GrantRow::Endpoint { server: id, url, .. } => {
            let is_mcp = server(id).map(|server| server.dialect.is_mcp());
            if is_mcp.is_some_and(|is_mcp| config.allowed_hosts.read(url, is_mcp).is_none()) {
                *addresses.entry(id.to_owned()).or_default() += 1;
            }
        }
        GrantRow::User { .. }
        | GrantRow::Group { .. }
        | GrantRow::Membership { .. }
        | GrantRow::Rule { .. } => {}
    };
    store.load_grants(&mut note).await?;
    let of_keys = keys.into_iter().map(|(id, count)| {
        let takes = server(&id).and_then(|server| server.own_credential.as_ref());
        let takes = takes.map_or("", |takes| takes.key_name.as_str());
        format!(
            "tenant_server_keys: `{id}` takes `{takes}`: {count} keys have another name and are not sent; set them with \
             `portcullis keys set`, or say `key_name` in its `credential`"
        )
    });
    let of_addresses = addresses.into_iter().map(|(id, count)| {
        format!(
            "tenant_endpoint_overrides: {count} addresses for `{id}` are not in `upstream.allowed_hosts`: calls for their \
             groups are refused until they are"
        )
    });
    Ok(of_keys.chain(of_addresses).collect())
}

fn print_report(report: &Report) -> anyhow::Result<()> {
    for table in &report.tables {
        let name = table.table;
        match &table.state {
            State::Absent => data(&format!("{name}: not there"))?,
            State::Unreadable(reason) => data(&format!("{name}: not read: {reason}"))?,
            State::Read | State::InUse => data(&format!("{name}: {}", sentence(&table.counts)))?,
        }
        for remark in remarks(table) {
            data(&format!("{name}: {remark}"))?;
        }
    }
    Ok(())
}

fn sentence(counts: &Counts) -> String {
    let Counts { read, new, there, repeated, off, malformed, not_imported } = counts;
    format!(
        "{read} read, {new} new, {there} already there, {repeated} repeated, {off} switched off, \
         {malformed} malformed, {not_imported} not imported"
    )
}

fn remarks(table: &TableReport) -> Vec<String> {
    let mut remarks = Vec::new();
    if table.state == State::InUse {
        remarks.push("this is the table the gateway uses itself, so there is nothing to write".to_owned());
        if table.table == Table::Keys && table.counts.read > 0 {
            remarks.push("`portcullis keys rotate` seals those of them that are not sealed".to_owned());
        }
        if table.counts.off > 0 {
            let rows = table.counts.off;
            remarks.push(format!(
                "{rows} rows that are switched off there count here: the gateway does not look at that; delete them"
            ));
        }
    }
    if !table.unread_columns.is_empty() {
        remarks.push(format!("columns not looked at: {}", table.unread_columns.join(", ")));
    }
    let unknown = &table.unknown_servers;
    for (server, rows) in unknown.named() {
        remarks.push(format!("`{server}` is not in servers.toml: {rows} rows count once it is"));
    }
    if unknown.others() > 0 {
        remarks.push(format!(
            "{} rows are about yet other servers that are not in servers.toml",
            unknown.others()
        ));
    }
    remarks
}

fn sum_up(report: &Report, mode: Mode, schema: &str) {
    let all = |of: fn(&Counts) -> u64| report.tables.iter().map(|table| of(&table.counts)).sum::<u64>();
    if report.tables.iter().all(|table| table.state == State::Absent) {
        let elsewhere = match report.elsewhere.as_slice() {
            [] => "look at the address".to_owned(),
            schemas => format!("these have: {}; name one with `--from-schema`", schemas.join(", ")),
        };
        return talk(&format!(
            "schema `{schema}` there has none of the tables of the earlier gateway; {elsewhere}"
        ));
    }
    let new = all(|counts| counts.new);
    match mode {
        Mode::Write => talk(&format!("{new} rows written; nothing was changed there")),
        Mode::Compare => talk(&format!("dry run: {new} rows would be written, and nothing was")),
    }
    if report.tables.iter().any(|table| table.table == Table::Keys && table.counts.new > 0) {
        talk(
            "callers of a server that has keys of groups are refused where their own groups have none; say \
             `shared_credential = true` in servers.toml to let them use the shared one",
        );
    }
    let left = all(|counts| counts.malformed) + all(|counts| counts.not_imported);
    if left > 0 {
        talk(&format!("{left} rows were left behind: the lines above say which"));
    }
}
