//! Facts about what is found, and how well: on a few tools, and on the real ones of `tests/fixtures/search`.

use std::{collections::BTreeMap, sync::LazyLock};

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

/// A few tools as servers have them: server, name, parameters, description.
const TOOLS: [(&str, &str, &[&str], &str); 7] = [
    ("github", "create_issue", &["title", "body", "repo"], "Create a new issue in a GitHub repository"),
    ("github", "list_issues", &["repo", "state"], "List issues of a repository"),
    ("github", "search_repositories", &["query", "page"], "Search for GitHub repositories"),
    ("time", "get_current_time", &["timezone"], "Get the current time in a time zone"),
    ("weather", "getForecast", &["city", "dayCount"], "What the weather will be"),
    ("notes", "add", &["text"], "Adds a note"),
    ("files", "read_file", &["path"], "Reads a file; fails with an issue number"),
];

/// Tools, server by server, with the names that tests call them by.
struct Servers {
    words: Vec<Words>,
    names: Vec<Vec<String>>,
}

impl Servers {
    fn new<'t>(tools: impl IntoIterator<Item = (&'t str, &'t str, Vec<String>, &'t str, &'t str)>) -> Self {
        let mut by_server: Vec<(&str, Vec<_>)> = Vec::new();
        for (server, name, parameters, title, description) in tools {
            if by_server.last().is_none_or(|last| last.0 != server) {
                by_server.push((server, Vec::new()));
            }
            by_server.last_mut().unwrap().1.push((name, parameters, title, description));
        }
        let text = |(name, parameters, title, description)| Text { name, parameters, title, description };
        let words = by_server.iter().map(|(server, tools)| {
            let tools = tools
                .iter()
                .map(|(name, parameters, title, description)| (*name, &parameters[..], *title, *description));
            Words::new(server, tools.map(text)).unwrap()
        });
        let names = by_server
            .iter()
            .map(|(server, tools)| tools.iter().map(|tool| format!("{server}/{}", tool.0)).collect());
        Self { words: words.collect(), names: names.collect() }
    }

    fn few() -> Self {
        Self::new(TOOLS.iter().map(|(server, name, parameters, description)| {
            (*server, *name, parameters.iter().map(|name| (*name).to_owned()).collect(), "", *description)
        }))
    }

    fn parts(&self, has: impl Fn(&str) -> bool) -> Vec<Part<'_>> {
        let only = |names: &[String]| {
            let only: Vec<_> = names.iter().map(|name| has(name)).collect();
            only.contains(&false).then_some(only)
        };
        self.words.iter().zip(&self.names).map(|(words, names)| Part { words, only: only(names) }).collect()
    }

    fn found(&self, query: &str, limit: usize, has: impl Fn(&str) -> bool) -> (Vec<(&str, f64)>, usize) {
        let (found, total) = search(query, &self.parts(has), limit);
        (found.iter().map(|found| (&*self.names[found.part][found.place], found.score)).collect(), total)
    }
}

/// Checks the tools found, best first.
#[track_caller]
fn check(query: &str, expected: &[&str]) {
    let servers = Servers::few();
    let (found, total) = servers.found(query, 100, |_| true);
    let names: Vec<_> = found.iter().map(|found| found.0).collect();
    assert_eq!((&names[..], total), (expected, expected.len()), "{query}: {found:?}");
}

#[test]
fn a_word_of_the_name_counts_more_than_one_of_the_description() {
    check("issue", &["github/list_issues", "github/create_issue", "files/read_file"]);
    let servers = Servers::few();
    assert_eq!(servers.found("list issues", 1, |_| true).0[0].0, "github/list_issues");
    assert_eq!(servers.found("create issues", 1, |_| true).0[0].0, "github/create_issue");
}

#[test]
fn words_are_found_in_parameters_and_parts_of_camel_case() {
    check("timezone", &["time/get_current_time"]);
    check("forecast", &["weather/getForecast"]);
    check("GETFORECAST", &["weather/getForecast"]);
    check("day", &["weather/getForecast"]);
}

#[test]
fn other_forms_other_words_beginnings_and_misspelt_ones_are_found() {
    let repositories = ["github/search_repositories", "github/create_issue", "github/list_issues"];
    for query in ["repository", "repositories", "repo", "reposit", "repositroy"] {
        let servers = Servers::few();
        let (found, _) = servers.found(query, 100, |_| true);
        let mut names: Vec<_> = found.iter().map(|found| found.0).collect();
        names.sort_unstable();
        let mut expected = repositories;
        expected.sort_unstable();
        assert_eq!(names, expected, "{query}");
    }
    check("forec", &["weather/getForecast"]);
    check("forcast", &["weather/getForecast"]);
    check("bug", &["github/list_issues", "github/create_issue", "files/read_file"]);
}

#[test]
fn what_no_tool_has_finds_nothing_and_no_words_find_everything() {
    check("quaternion", &[]);
    let everything = TOOLS.map(|(server, name, ..)| format!("{server}/{name}"));
    let everything: Vec<_> = everything.iter().map(|name| &**name).collect();
    check("", &everything);
    check(" \t--!", &everything);
}

#[test]
fn an_empty_grant_finds_nothing() {
    let servers = Servers::few();
    for query in ["", "issue", "isue"] {
        assert_eq!(search(query, &[], 10), (vec![], 0));
        assert_eq!(servers.found(query, 10, |_| false), (vec![], 0));
    }
}

#[test]
fn a_server_without_tools_is_searched_like_any_other() {
    let empty = Words::new("empty", []).unwrap();
    assert_eq!(search("empty", &[Part { words: &empty, only: None }], 10), (vec![], 0));
}

#[test]
fn neither_an_index_nor_a_search_starts_a_thread() {
    let names = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
        tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok()).collect::<Vec<_>>()
    };
    let servers = Servers::few();
    assert_eq!(servers.found("issue", 1, |_| true).1, 3);
    // Threads of other tests run beside this one; those of the library have names of their own.
    let known = ["docstore", "merge_", "thrd-tantivy", "segment_up", "watch-call", "tantivy"];
    let foreign: Vec<_> =
        names().into_iter().filter(|name| known.iter().any(|known| name.starts_with(known))).collect();
    assert_eq!(foreign, [""; 0]);
}

proptest! {
    #[test]
    fn any_text_can_be_searched_for_in_any_other(
        texts in proptest::collection::vec((any::<String>(), ".{0,20}", "[a-zA-Z\u{e9}\u{130}\u{1e9e} s]{0,20}"), 0..5),
        query in any::<String>(),
    ) {
        let servers = Servers::new(texts.iter().map(|(name, parameter, text)| ("s", &**name, vec![parameter.clone()], &**text, &**text)));
        let (found, total) = servers.found(&query, 3, |_| true);
        prop_assert!(found.len() == total.min(3));
        prop_assert!(found.iter().all(|found| found.1.is_finite() && found.1 >= 0.0));
        for (name, parameter, text) in &texts {
            let alone = Servers::new([("s", &**name, vec![parameter.clone()], &**text, &**text)]);
            for part in [name, parameter, text].into_iter().flat_map(|text| text.split_whitespace()) {
                if part.chars().all(char::is_alphanumeric) && part.len() < 1000 {
                    prop_assert_eq!(alone.found(part, 1, |_| true).1, 1, "{:?} is not found", part);
                }
            }
        }
    }

    #[test]
    fn what_is_hidden_changes_nothing_of_what_is_found(
        query in "((issue|time|get|repo|note|bug|isue|forec|github|a) ){1,5}", hidden in proptest::collection::vec(any::<bool>(), TOOLS.len()),
    ) {
        let is_hidden = |name: &str| TOOLS.iter().zip(&hidden).any(|(tool, hidden)| *hidden && name == format!("{}/{}", tool.0, tool.1));
        let all = Servers::few();
        let (found, total) = all.found(&query, 100, |name| !is_hidden(name));
        prop_assert!(found.iter().all(|found| !is_hidden(found.0)));
        // Names, ranks, scores and the total are those of a gateway that has no other tools.
        let rest = TOOLS.iter().filter(|tool| !is_hidden(&format!("{}/{}", tool.0, tool.1)));
        let without = Servers::new(rest.map(|(server, name, parameters, description)| {
            (*server, *name, parameters.iter().map(|name| (*name).to_owned()).collect(), "", *description)
        }));
        prop_assert_eq!((found, total), without.found(&query, 100, |_| true));
    }

    #[test]
    fn tools_are_ranked_the_same_whatever_the_limit(query in "(issue|time|get|repo|note|a| ){1,5}", limit in 0_usize..9) {
        let servers = Servers::few();
        let all = servers.found(&query, 100, |_| true);
        let some = servers.found(&query, limit, |_| true);
        prop_assert_eq!(&all.0[..limit.min(all.1)], &some.0[..]);
        prop_assert_eq!(all.1, some.1);
        prop_assert_eq!(servers.found(&query, 100, |_| true), all);
    }
}

#[derive(Deserialize)]
struct RealTool {
    server: String,
    name: String,
    #[serde(default)]
    title: String,
    description: String,
    #[serde(default)]
    parameters: Vec<String>,
}

/// Questions and the tools of which one should be among the first.
#[derive(Deserialize)]
struct Questions {
    tuned: BTreeMap<String, Vec<String>>,
    held_out: BTreeMap<String, Vec<String>>,
    drawn: BTreeMap<String, Vec<String>>,
    unanswerable: Unanswerable,
}

#[derive(Deserialize)]
struct Unanswerable {
    asks: Vec<String>,
}

static REAL: LazyLock<Servers> =
    LazyLock::new(|| {
        let tools: Vec<RealTool> =
            serde_json::from_str(include_str!("../../../tests/fixtures/search/tools.json")).unwrap();
        Servers::new(tools.iter().map(|tool| {
            (&*tool.server, &*tool.name, tool.parameters.clone(), &*tool.title, &*tool.description)
        }))
    });

static QUESTIONS: LazyLock<Questions> =
    LazyLock::new(|| toml::from_str(include_str!("../../../tests/fixtures/search/questions.toml")).unwrap());

/// How well questions are answered: the share of those with a good tool first, with one among the first five, and the
/// mean of one over the place of the first good one (nothing past the tenth).
fn measured(name: &str, questions: &BTreeMap<String, Vec<String>>) -> (f64, f64, f64) {
    let (mut first, mut five, mut reciprocal) = (0.0, 0.0, 0.0);
    for (question, good) in questions {
        let (found, _) = REAL.found(question, 10, |_| true);
        let place = found.iter().position(|found| good.iter().any(|good| good == found.0));
        let names: Vec<_> = found.iter().take(5).map(|found| found.0).collect();
        match place {
            Some(place) if place < 5 => {}
            Some(_) | None => println!("{name}: {question:?} finds {names:?}"),
        }
        first += f64::from(u8::from(place == Some(0)));
        five += f64::from(u8::from(place.is_some_and(|place| place < 5)));
        reciprocal += place.map_or(0.0, |place| 1.0 / (place + 1) as f64);
    }
    let count = questions.len() as f64;
    let measured = (first / count, five / count, reciprocal / count);
    println!(
        "{name}: {count} questions, recall@1 {:.3}, recall@5 {:.3}, MRR@10 {:.3}",
        measured.0, measured.1, measured.2
    );
    measured
}

/// A little below what was measured: see "Meta tools" in `README.md`.
const FLOORS: [f64; 3] = [0.87, 0.85, 0.71];

#[test]
fn real_questions_find_real_tools_among_the_first_five() {
    let Questions { tuned, held_out, drawn, .. } = &*QUESTIONS;
    let sets = [("tuned", tuned), ("held out", held_out), ("drawn", drawn)];
    let measured = sets.map(|(name, questions)| measured(name, questions).1);
    for (((name, _), measured), floor) in sets.iter().zip(measured).zip(FLOORS) {
        assert!(
            measured >= floor,
            "recall@5 of the questions {name} fell to {measured:.3}: those missed are above"
        );
    }
}

#[test]
fn every_question_names_tools_that_there_are() {
    let names: Vec<&String> = REAL.names.iter().flatten().collect();
    for (question, good) in QUESTIONS.tuned.iter().chain(&QUESTIONS.held_out).chain(&QUESTIONS.drawn) {
        assert!(!good.is_empty(), "`questions.toml`: {question:?} has no good tool");
        for good in good {
            assert!(
                names.contains(&good),
                "`questions.toml`: {question:?} names `{good}`, which `tools.json` has not"
            );
        }
        assert!(!QUESTIONS.unanswerable.asks.contains(question));
    }
}
