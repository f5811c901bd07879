//! What servers say of their tools, as it was approved and as it was last seen: the table `tool_pins`.
//!
//! Decides what a reading of a server's tools does to the table: first sight approves, a later change waits for an
//! approval where the server is pinned and is taken as it is where it is not. Gateways that read the same at once wait
//! for each other, so one of them alone finds the change. Never decides what is shown: `catalog::pins` does.

use std::collections::{HashMap, HashSet};

use anyhow::Context;

use super::{ANSWER, Database, Store, ask, within};
use crate::names::{Digest, ServerId};

/// Most tools of one server that are remembered: one that has others with every reading fills no database.
const MAX_REMEMBERED: usize = 5_000;

/// A tool as a server was just read to have it.
#[derive(Debug, Clone, Copy)]
pub struct SeenTool<'a> {
    /// Its name.
    pub name: &'a str,
    /// The digest of the definition.
    pub digest: Digest,
    /// What the server says of it.
    pub definition: &'a str,
}

/// All tools of a server, as just read.
#[derive(Debug, Clone, Copy)]
pub struct Sighting<'a> {
    /// Whose tools.
    pub server: &'a ServerId,
    /// Whether changes wait for an approval.
    pub is_pinned: bool,
    /// The tools, each name once.
    pub tools: &'a [SeenTool<'a>],
}

/// What has become of a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It was not there when the server was first seen.
    New,
    /// It is not what was approved.
    Changed,
    /// It is again what was approved.
    Restored,
}

/// A change that this reading was the first to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolChange {
    /// The tool's name.
    pub tool: String,
    /// What has become of it.
    pub what: What,
    /// What was approved, if anything was.
    pub before: Option<Digest>,
    /// What it is now.
    pub after: Digest,
}

/// What came of a sighting.
#[derive(Debug, Clone, Default)]
pub struct Settled {
    /// What this reading was the first to find.
    pub changes: Vec<ToolChange>,
    /// What of the server is approved now, by the tool's name.
    pub approved: HashMap<String, Digest>,
    /// How many tools were too many to be remembered.
    pub left_out: usize,
}

/// The state of one tool, without its definitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The server's id, as it stands in the table.
    pub server: String,
    /// The tool's name.
    pub tool: String,
    /// What is approved.
    pub approved: Option<Digest>,
    /// What was seen since.
    pub pending: Option<Digest>,
    /// When it was first seen, in seconds since 1970.
    pub first_seen: i64,
    /// When it last changed.
    pub changed_at: Option<i64>,
}

/// What a server has said of one tool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Definitions {
    /// As it is approved.
    pub approved: Option<String>,
    /// As it was seen since.
    pub pending: Option<String>,
    /// As it was approved before.
    pub former: Option<String>,
}

/// What is done to a row.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'a> {
    /// It is seen for the first time, and good.
    Know(SeenTool<'a>),
    /// It changed, and is good as it is.
    Accept(SeenTool<'a>),
    /// It changed, or is new, and waits.
    Withhold(SeenTool<'a>),
    /// It is again as it was approved.
    Restore(&'a str),
    /// It was never approved, and is no more.
    Forget(&'a str),
}

/// What is known of a tool: approved, and seen since.
pub(super) type Row = (Option<Digest>, Option<Digest>);

/// What a sighting does to the rows of its server.
pub(super) struct Plan<'a> {
    pub steps: Vec<Step<'a>>,
    pub settled: Settled,
}

/// Decides what a sighting does, by all rows of its server.
pub(super) fn plan<'a>(sighting: &Sighting<'a>, rows: &'a HashMap<String, Row>) -> Plan<'a> {
    let is_first = rows.is_empty();
    let is_good = is_first || !sighting.is_pinned;
    let approved = rows.iter().filter_map(|(tool, row)| Some((tool.clone(), row.0?))).collect();
    let mut plan = Plan { steps: Vec::new(), settled: Settled { approved, ..Settled::default() } };
    let mut remembered = rows.len();
    for &seen in sighting.tools {
        let (what, before) = match rows.get(seen.name) {
            Some((Some(approved), None)) if *approved == seen.digest => continue,
            Some((_, Some(pending))) if *pending == seen.digest && !is_good => continue,
            Some((Some(approved), Some(_))) if *approved == seen.digest => {
                plan.steps.push(Step::Restore(seen.name));
                (What::Restored, Some(*approved))
            }
            Some((before, _)) => {
                plan.steps.push(if is_good { Step::Accept(seen) } else { Step::Withhold(seen) });
                (if before.is_some() { What::Changed } else { What::New }, *before)
            }
            None if remembered >= MAX_REMEMBERED => {
                plan.settled.left_out += 1;
                continue;
            }
            None => {
                remembered += 1;
                plan.steps.push(if is_good { Step::Know(seen) } else { Step::Withhold(seen) });
                (What::New, None)
            }
        };
        if is_good {
            plan.settled.approved.insert(seen.name.to_owned(), seen.digest);
        }
        if !is_first {
            let tool = seen.name.to_owned();
            plan.settled.changes.push(ToolChange { tool, what, before, after: seen.digest });
        }
    }
    let listed: HashSet<&str> = sighting.tools.iter().map(|seen| seen.name).collect();
    let is_gone = |(tool, row): &(&'a String, &Row)| row.0.is_none() && !listed.contains(tool.as_str());
    plan.steps.extend(rows.iter().filter(is_gone).map(|(tool, _)| Step::Forget(tool)));
    plan
}

impl Store {
    /// Holds what a server was read to have against what is known of it, and remembers it.
    pub async fn settle_tools(&self, sighting: &Sighting<'_>) -> anyhow::Result<Settled> {
        within(ANSWER, async { ask!(self, database => database.settle_tools(sighting)) })
            .await
            .context("could not hold tools against the table `tool_pins`")
    }

    /// A number that is another whenever `tool_pins` has changed.
    pub async fn pin_version(&self) -> anyhow::Result<i64> {
        within(ANSWER, async { ask!(self, database => database.pin_version()) })
            .await
            .context("could not read whether `tool_pins` has changed")
    }

    /// The tools of this server, or of all, ordered by name.
    pub async fn pins(&self, server: Option<&ServerId>) -> anyhow::Result<Vec<Pin>> {
        within(ANSWER, async { ask!(self, database => database.pins(server)) })
            .await
            .context("could not read the table `tool_pins`")
    }

    /// What the server has said of a tool; none where there is no such row.
    pub async fn definitions(&self, server: &ServerId, tool: &str) -> anyhow::Result<Option<Definitions>> {
        within(ANSWER, async { ask!(self, database => database.definitions(server, tool)) })
            .await
            .context("could not read the table `tool_pins`")
    }

    /// Approves what was seen of a tool, as long as it is still this; false where it is not.
    pub async fn approve_tool(&self, server: &ServerId, tool: &str, seen: Digest) -> anyhow::Result<bool> {
        within(ANSWER, async { ask!(self, database => database.approve_tool(server, tool, seen)) })
            .await
            .context("could not change the table `tool_pins`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(tools: &[(&'static str, &'static str)]) -> Vec<SeenTool<'static>> {
        let seen = |&(name, definition)| SeenTool { name, digest: Digest::of(definition), definition };
        tools.iter().map(seen).collect()
    }

    /// Checks what is done to rows, each a tool with what of it is approved and pending.
    #[track_caller]
    fn check(
        is_pinned: bool,
        rows: &[(&str, Option<&str>, Option<&str>)],
        tools: &[(&'static str, &'static str)],
        steps: &[&str],
    ) {
        let digest = |text: &Option<&str>| text.map(Digest::of);
        let rows = rows
            .iter()
            .map(|(tool, approved, pending)| ((*tool).to_owned(), (digest(approved), digest(pending))));
        let (rows, tools) = (rows.collect(), seen(tools));
        let server = ServerId::parse("github").unwrap();
        let plan = plan(&Sighting { server: &server, is_pinned, tools: &tools }, &rows);
        let done: Vec<_> = plan
            .steps
            .iter()
            .map(|step| match step {
                Step::Know(seen) => format!("know {}", seen.name),
                Step::Accept(seen) => format!("accept {}", seen.name),
                Step::Withhold(seen) => format!("withhold {}", seen.name),
                Step::Restore(tool) => format!("restore {tool}"),
                Step::Forget(tool) => format!("forget {tool}"),
            })
            .collect();
        assert_eq!(done, steps);
        // What is withheld is never among what is approved.
        for step in &plan.steps {
            if let Step::Withhold(seen) = step {
                assert_ne!(plan.settled.approved.get(seen.name), Some(&seen.digest));
            }
        }
    }

    #[test]
    fn first_sight_is_good_and_later_changes_wait_where_tools_are_pinned() {
        check(true, &[], &[("a", "1"), ("b", "1")], &["know a", "know b"]);
        check(true, &[("a", Some("1"), None)], &[("a", "1")], &[]);
        check(true, &[("a", Some("1"), None)], &[("a", "2"), ("b", "1")], &["withhold a", "withhold b"]);
        check(true, &[("a", Some("1"), Some("2"))], &[("a", "2")], &[]);
        check(true, &[("a", Some("1"), Some("2"))], &[("a", "3")], &["withhold a"]);
        check(true, &[("a", Some("1"), Some("2"))], &[("a", "1")], &["restore a"]);
        check(true, &[("a", None, Some("2"))], &[("a", "3")], &["withhold a"]);
        check(true, &[("a", Some("1"), None), ("b", None, Some("1"))], &[], &["forget b"]);
    }

    #[test]
    fn changes_are_taken_as_they_are_where_tools_are_not_pinned() {
        check(false, &[], &[("a", "1")], &["know a"]);
        check(false, &[("a", Some("1"), None)], &[("a", "2"), ("b", "1")], &["accept a", "know b"]);
        check(false, &[("a", Some("1"), Some("2"))], &[("a", "2")], &["accept a"]);
        check(false, &[("a", None, Some("2"))], &[("a", "2")], &["accept a"]);
        check(false, &[("a", Some("1"), Some("2"))], &[("a", "1")], &["restore a"]);
    }

    #[test]
    fn no_more_tools_than_the_bound_are_remembered() {
        let rows = (0..MAX_REMEMBERED).map(|n| (format!("t{n}"), (Some(Digest::of("1")), None))).collect();
        let (server, tools) = (ServerId::parse("github").unwrap(), seen(&[("x", "1"), ("t0", "2")]));
        let plan = plan(&Sighting { server: &server, is_pinned: false, tools: &tools }, &rows);
        assert_eq!((plan.steps.len(), plan.settled.left_out), (1, 1));
    }
}
