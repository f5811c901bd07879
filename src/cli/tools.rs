//! `portcullis tools`: what servers said of their tools when they were approved, what they say now, and approving it.
//!
//! Shows and changes rows of `tool_pins`; asks no server. What was seen last is what is approved, and only as long as it
//! is still that: a server that changes a tool between the look and the approval gains nothing.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::{asked_wrong, data, talk};
use crate::{
    catalog::tools::in_lines,
    config::Config,
    names::{BadName, ServerId, ToolName},
    store::{Definitions, Pin, Store},
};

/// Lines around a difference that are shown with it.
const AROUND: usize = 3;
/// Beyond so many lines on either side texts are shown whole, one after the other.
const MOST_LINES: usize = 2_000;

/// What is to be done.
#[derive(Args)]
pub struct ToolsArguments {
    #[command(subcommand)]
    deed: Deed,
}

#[derive(Subcommand)]
enum Deed {
    /// List the tools that servers were seen to have, with their state: approved, changed, new.
    List {
        /// The server; without it all.
        #[arg(value_name = "SERVER", value_parser = ServerId::parse)]
        server: Option<ServerId>,
    },
    /// Show what of a tool changed since it was approved, or with the last change.
    Diff {
        /// The tool.
        #[arg(value_name = "SERVER/TOOL", value_parser = parse_target)]
        target: Target,
    },
    /// Approve tools as they were last seen.
    Approve(ApproveArguments),
}

/// Which tools, and as what.
#[derive(Args)]
struct ApproveArguments {
    /// A tool, or all changed and new tools of a server.
    #[arg(value_name = "SERVER[/TOOL]", value_parser = parse_target, required_unless_present = "all")]
    targets: Vec<Target>,
    /// All changed and new tools of all servers.
    #[arg(long, conflicts_with = "targets")]
    all: bool,
    /// Only if this is the hash of what was last seen, or its beginning, as `list` and `diff` show it.
    #[arg(long, value_name = "HASH", value_parser = parse_hash, conflicts_with = "all")]
    hash: Option<String>,
}

#[derive(Clone)]
struct Target {
    server: ServerId,
    tool: Option<ToolName>,
}

impl Target {
    fn is(&self, pin: &Pin) -> bool {
        pin.server == self.server.as_str() && self.tool.as_ref().is_none_or(|tool| tool.as_str() == pin.tool)
    }

    fn words(&self) -> String {
        self.tool.as_ref().map_or_else(|| self.server.to_string(), |tool| format!("{}/{tool}", self.server))
    }
}

fn parse_target(text: &str) -> Result<Target, BadName> {
    let (server, tool) = match text.split_once('/') {
        Some((server, tool)) => (server, Some(ToolName::parse(tool)?)),
        None => (text, None),
    };
    Ok(Target { server: ServerId::parse(server)?, tool })
}

/// At least as much of a hash as nobody finds a second text for by chance.
fn parse_hash(text: &str) -> Result<String, &'static str> {
    let is_hash = (12..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| text.to_ascii_lowercase()).ok_or("a hash is 12 to 64 of `0-9`, `a-f`")
}

/// Does it.
pub async fn tools(config: Config, arguments: ToolsArguments) -> anyhow::Result<ExitCode> {
    if let Deed::Diff { target: Target { tool: None, .. } } = &arguments.deed {
        return Err(asked_wrong("name one tool, as in `SERVER/TOOL`"));
    }
    if let Deed::Approve(ApproveArguments { targets, hash: Some(_), .. }) = &arguments.deed
        && !matches!(&targets[..], [Target { tool: Some(_), .. }])
    {
        return Err(asked_wrong("`--hash` is about one tool, as in `SERVER/TOOL`"));
    }
    let store = Store::open(&config.store)?;
    if config.store.auto_migrate {
        store.migrate().await?;
    }
    let code = match arguments.deed {
        Deed::List { server } => list(&store, &config, server.as_ref()).await?,
        Deed::Diff { target } => diff(&store, &target).await?,
        Deed::Approve(wanted) => approve(&store, &wanted).await?,
    };
    store.close().await;
    Ok(code)
}

async fn list(store: &Store, config: &Config, server: Option<&ServerId>) -> anyhow::Result<ExitCode> {
    let pins = store.pins(server).await?;
    let is_pinned =
        |pin: &Pin| config.servers.iter().any(|known| known.id.as_str() == pin.server && known.is_pinned);
    let width = pins.iter().map(|pin| pin.server.len() + 1 + pin.tool.len()).max().unwrap_or_default();
    if let (Some(server), true) = (server, pins.is_empty()) {
        talk(&format!("no tool of `{server}` was ever seen; `portcullis servers` lists the servers"));
        return Ok(ExitCode::FAILURE);
    }
    let mut waiting = 0;
    for pin in &pins {
        let name = format!("{}/{}", pin.server, pin.tool);
        let short =
            |digest: Option<crate::names::Digest>| digest.map_or_else(|| "-".to_owned(), |of| of.short());
        let changed = pin.changed_at.map_or_else(|| "never".to_owned(), date);
        let (approved, pending) = (short(pin.approved), short(pin.pending));
        let (state, first_seen) = (state(pin), date(pin.first_seen));
        waiting += usize::from(pin.pending.is_some() && is_pinned(pin));
        data(&format!(
            "{name:width$}  {state:8}  {approved:12}  {pending:12}  first seen {first_seen}  changed {changed}"
        ))?;
    }
    if waiting > 0 {
        talk(&format!(
            "{waiting} tools are withheld; see what changed with `portcullis tools diff SERVER/TOOL`, then `portcullis \
             tools approve SERVER/TOOL`"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The word for how a tool stands.
fn state(pin: &Pin) -> &'static str {
    match (pin.approved, pin.pending) {
        (_, None) => "approved",
        (Some(_), Some(_)) => "changed",
        (None, Some(_)) => "new",
    }
}

fn date(seconds: i64) -> String {
    let since = Duration::from_secs(seconds.try_into().unwrap_or_default());
    httpdate::fmt_http_date(UNIX_EPOCH.checked_add(since).unwrap_or_else(SystemTime::now))
}

async fn diff(store: &Store, target: &Target) -> anyhow::Result<ExitCode> {
    let tool = target.tool.as_ref().context("a tool was named")?;
    let words = target.words();
    let pin = store.pins(Some(&target.server)).await?.into_iter().find(|pin| target.is(pin));
    let definitions = store.definitions(&target.server, tool.as_str()).await?;
    let (Some(pin), Some(definitions)) = (pin, definitions) else {
        bail!("`{words}` was never seen; `portcullis tools list` shows what was")
    };
    let hash =
        |digest: Option<crate::names::Digest>| digest.map(|digest| digest.to_string()).unwrap_or_default();
    match definitions {
        Definitions { approved, pending: Some(pending), .. } => {
            let before = approved.unwrap_or_default();
            talk(&format!("`{words}` waits for approval of {}", hash(pin.pending)));
            show(&before, &pending)?;
        }
        Definitions { approved: Some(approved), former: Some(former), pending: None } => {
            talk(&format!("`{words}` is {}; this is what its last change was", hash(pin.approved)));
            show(&former, &approved)?;
        }
        Definitions { approved, former: _, pending: None } => {
            talk(&format!("`{words}` is {} and has never changed; this is all of it", hash(pin.approved)));
            in_lines(&approved.unwrap_or_default()).iter().try_for_each(|line| data(line))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what differs, with the lines around it.
fn show(before: &str, after: &str) -> anyhow::Result<()> {
    let lines = |text: &str| if text.is_empty() { Vec::new() } else { in_lines(text) };
    let (before, after) = (lines(before), lines(after));
    let lines = compared(&before, &after);
    let is_near = |at: usize| {
        lines[at.saturating_sub(AROUND)..(at + AROUND + 1).min(lines.len())]
            .iter()
            .any(|(mark, _)| *mark != ' ')
    };
    let mut is_gap = false;
    for (at, (mark, line)) in lines.iter().enumerate() {
        if is_near(at) {
            data(&format!("{mark} {line}"))?;
        } else if !is_gap {
            data("  …")?;
        }
        is_gap = !is_near(at);
    }
    Ok(())
}

/// The lines of both, marked: `-` only before, `+` only after. By their longest common sequence.
fn compared<'l>(before: &'l [String], after: &'l [String]) -> Vec<(char, &'l str)> {
    if before.len().max(after.len()) > MOST_LINES {
        let all = |mark, lines: &'l [String]| lines.iter().map(move |line| (mark, line.as_str()));
        return all('-', before).chain(all('+', after)).collect();
    }
    let mut longest = vec![vec![0_u32; after.len() + 1]; before.len() + 1];
    for i in (0..before.len()).rev() {
        for j in (0..after.len()).rev() {
            longest[i][j] = if before[i] == after[j] {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < before.len() || j < after.len() {
        if i < before.len() && j < after.len() && before[i] == after[j] {
            lines.push((' ', before[i].as_str()));
            (i, j) = (i + 1, j + 1);
        } else if j == after.len() || i < before.len() && longest[i + 1][j] >= longest[i][j + 1] {
            lines.push(('-', before[i].as_str()));
            i += 1;
        } else {
            lines.push(('+', after[j].as_str()));
            j += 1;
        }
    }
    lines
}

async fn approve(store: &Store, wanted: &ApproveArguments) -> anyhow::Result<ExitCode> {
    let pins = store.pins(None).await?;
    let mut is_all_done = true;
    let everything =
        wanted.all.then(|| (pins.iter().collect::<Vec<_>>(), "no tool waits for approval".to_owned()));
    let of_targets = wanted.targets.iter().map(|target| {
        let named: Vec<_> = pins.iter().filter(|pin| target.is(pin)).collect();
        let words = target.words();
        let nothing = if named.is_empty() {
            format!("`{words}` was never seen; `portcullis tools list` shows what was")
        } else {
            format!("`{words}` has nothing that waits for approval")
        };
        (named, nothing)
    });
    for (named, nothing) in everything.into_iter().chain(of_targets) {
        let waiting: Vec<_> = named.into_iter().filter_map(|pin: &Pin| Some((pin, pin.pending?))).collect();
        if waiting.is_empty() {
            talk(&nothing);
            is_all_done = false;
        }
        for (pin, pending) in waiting {
            let name = format!("{}/{}", pin.server, pin.tool);
            if wanted.hash.as_ref().is_some_and(|hash| !pending.to_string().starts_with(hash)) {
                talk(&format!(
                    "`{name}` is not this: it was last seen as {pending}; look with `portcullis tools diff {name}`"
                ));
                is_all_done = false;
                continue;
            }
            let server = ServerId::parse(&pin.server)?;
            if store.approve_tool(&server, &pin.tool, pending).await? {
                talk(&format!("`{name}` is approved as {}", pending.short()));
            } else {
                talk(&format!(
                    "`{name}` changed once more just now; look with `portcullis tools diff {name}`"
                ));
                is_all_done = false;
            }
        }
    }
    Ok(if is_all_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(before: &str, after: &str, expected: &str) {
        let lines = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let (before, after) = (lines(before), lines(after));
        let marked: Vec<String> =
            compared(&before, &after).iter().map(|(mark, line)| format!("{mark}{line}")).collect();
        assert_eq!(marked.join(""), expected);
    }

    #[test]
    fn what_differs_is_marked() {
        check("", "", "");
        check("a b c", "a b c", " a b c");
        check("a b c", "a x c", " a-b+x c");
        check("", "a b", "+a+b");
        check("a b", "", "-a-b");
        check("a b a", "b a b", "-a b a+b");
    }
}
