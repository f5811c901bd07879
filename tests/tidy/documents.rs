//! The documents match the code: what `README.md` lists is what there is, and what `src/README.md` names is there.
//!
//! Decides nothing about how it is said. Commands in the documents are run by `tests/e2e/readme.rs`.

use std::{collections::BTreeSet, fs, path::Path};

use portcullis::{
    endpoints::{self, Audience},
    identity::Reason,
    record::{
        audit::LOSSES,
        metrics::{Declared, Metrics},
    },
    refusal::Code,
    store::audit::COLUMNS,
};

use super::source::Source;

const README: &str = include_str!("../../README.md");
const MAP: &str = include_str!("../../src/README.md");
const ACCESS_LOG: &str = include_str!("../../src/record/access_log.rs");
const POSTGRES_AUDIT: &str = include_str!("../../migrations/postgres/0007_audit.sql");
const SQLITE_AUDIT: &str = include_str!("../../migrations/sqlite/0007_audit.sql");
const LIBRARY: &str = include_str!("../../src/lib.rs");

/// What the gateway sends on rather than answers, so that it is not among the endpoints.
const CALLS: [[&str; 3]; 4] = [
    ["POST", "`/{server}/{tool}`", "with a grant"],
    ["POST", "`/{server}_{tool}`", "with a grant"],
    ["POST, GET, DELETE", "`/{server}/mcp`", "with a grant"],
    ["POST, GET, DELETE", "`/mcp`", "any caller"],
];

/// The cells of the one table of a document whose header begins with these cells.
#[track_caller]
fn table(document: &str, header: &[&str]) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        let inside = line.trim().trim_start_matches('|').trim_end_matches('|');
        inside.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut lines = document
        .lines()
        .skip_while(|line| !line.starts_with('|') || !cells(line).starts_with(&owned(header)));
    assert!(lines.next().is_some(), "no table begins with {header:?}");
    lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect()
}

fn owned(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn quoted(word: &str) -> String {
    format!("`{word}`")
}

/// Texts between two marks, in order: `between(text, '"', '"')`.
fn between(text: &str, mark: char) -> Vec<&str> {
    text.split(mark).skip(1).step_by(2).collect()
}

#[test]
fn the_readme_has_every_refusal_with_its_status_in_order_of_status() {
    let listed: Vec<_> =
        table(README, &["code", "status"]).into_iter().map(|row| row[..2].to_vec()).collect();
    let mut codes: Vec<Code> = Code::ALL.to_vec();
    codes.sort_by_key(|code| code.status());
    let real: Vec<_> =
        codes.iter().map(|code| vec![quoted(code.as_str()), code.status().to_string()]).collect();
    assert_eq!(listed, real);
}

#[test]
fn the_readme_has_every_reason_not_to_believe_with_its_code() {
    let listed = table(README, &["reason", "code", "meaning"]);
    let real: Vec<_> = Reason::ALL
        .iter()
        .map(|reason| {
            owned(&[&quoted(reason.as_str()), &quoted(reason.refuse().code().as_str()), reason.sentence()])
        })
        .collect();
    assert_eq!(listed, real);
}

#[test]
fn the_readme_has_every_endpoint_with_its_method_and_audience() {
    let listed: BTreeSet<_> =
        table(README, &["method", "path", "who"]).into_iter().map(|row| row[..3].to_vec()).collect();
    let mut real: BTreeSet<_> = CALLS.iter().map(|call| owned(call)).collect();
    for endpoint in endpoints::TABLE {
        let paths: Vec<_> = endpoint.paths.iter().map(|path| quoted(path)).collect();
        let who = match endpoint.audience {
            Audience::Anyone => "anybody",
            Audience::Caller => "any caller",
            Audience::Granted => "with a grant",
            Audience::Admin => "admins",
        };
        real.insert(owned(&[endpoint.method, &paths.join(", "), who]));
    }
    assert_eq!(listed, real);
}

/// The table is made from the declarations: `PORTCULLIS_WRITE=1 cargo nextest run --test tidy metrics` writes it anew.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test has no configuration to be told in")]
fn the_readme_has_the_metrics_as_they_are_declared() {
    let real = Metrics::new().unwrap().table();
    let (before, rest) = README.split_once("| name | type | labels | meaning |\n").unwrap();
    let length: usize =
        rest.split_inclusive('\n').take_while(|line| line.starts_with('|')).map(str::len).sum();
    let listed = format!("| name | type | labels | meaning |\n{}", &rest[..length]);
    if std::env::var_os("PORTCULLIS_WRITE").is_some() && listed != real {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        return fs::write(path, format!("{before}{real}{}", &rest[length..])).unwrap();
    }
    let remedy = "README.md: run `PORTCULLIS_WRITE=1 cargo nextest run --test tidy metrics`";
    assert!(listed == real, "{remedy}\n--- declared\n{real}\n--- written\n{listed}");
}

/// Prometheus' own rules for names, and a sentence for each.
#[test]
fn every_metric_has_a_name_of_its_kind_and_a_sentence() {
    for Declared { name, kind, help, .. } in Metrics::new().unwrap().declared() {
        assert!(name.starts_with("portcullis_") || name.starts_with("process_"), "{name}");
        assert_eq!(name.ends_with("_total"), *kind == "counter", "{name} is a {kind}");
        assert!(help.ends_with('.') && !help.contains(['|', '\n']), "{name}: {help}");
    }
}

#[test]
fn the_readme_explains_every_field_of_the_access_log() {
    let rows = table(README, &["field", "meaning"]);
    let listed: BTreeSet<_> = rows.iter().flat_map(|row| between(&row[0], '`')).collect();
    let (_, line) = ACCESS_LOG.split_once("struct Line<'a> {\n").unwrap();
    let (line, _) = line.split_once("\n}").unwrap();
    let fields = line.lines().filter(|line| !line.trim_start().starts_with('#'));
    let real: BTreeSet<_> = fields.map(|line| line.trim().split_once(": ").unwrap().0).collect();
    assert_eq!(listed, real);
}

#[test]
fn the_readme_explains_every_column_of_the_audit_and_both_databases_have_them() {
    let rows = table(README, &["column", "meaning"]);
    let listed: BTreeSet<_> = rows.iter().flat_map(|row| between(&row[0], '`')).collect();
    let columns = COLUMNS.iter().map(|(name, _)| *name);
    assert_eq!(listed, columns.chain(["id"]).collect());
    for migration in [POSTGRES_AUDIT, SQLITE_AUDIT] {
        let words: BTreeSet<_> =
            migration.split(|letter: char| !letter.is_alphanumeric() && letter != '_').collect();
        let missing: Vec<_> = listed.iter().filter(|column| !words.contains(*column)).collect();
        assert!(missing.is_empty(), "{missing:?} in no migration");
    }
}

#[test]
fn the_readme_has_every_reason_why_an_entry_of_the_audit_is_lost() {
    let told = README.lines().find(|line| line.starts_with("| `portcullis_audit_lost_total`")).unwrap();
    let missing: Vec<_> = LOSSES.iter().filter(|word| !told.contains(&quoted(word))).collect();
    assert!(missing.is_empty(), "{missing:?} are not in the row of `portcullis_audit_lost_total`");
}

#[test]
fn the_map_has_every_module_once() {
    let mut listed: Vec<_> = table(MAP, &["module", "decides", "never"])
        .into_iter()
        .map(|row| row[0].trim_matches('`').to_owned())
        .collect();
    listed.sort();
    let modules = LIBRARY.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let mut real: Vec<_> = modules.map(str::to_owned).collect();
    real.sort();
    assert_eq!(listed, real);
}

#[test]
fn the_map_has_every_file_of_the_composition_root() {
    let mut listed: Vec<_> =
        table(MAP, &["file", "decides"]).into_iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    listed.sort();
    let files = Source::all(&["src/app"]).into_iter();
    let real: Vec<_> = files.map(|source| source.path.trim_start_matches("src/").to_owned()).collect();
    assert_eq!(listed, real);
}

/// A file, a type or a function that the map speaks of and that was renamed is a wrong map.
#[test]
fn what_the_map_names_is_in_the_source() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code: String = Source::all(&["src", "tests"]).iter().map(|source| source.code.as_str()).collect();
    let words: BTreeSet<&str> =
        code.split(|letter: char| !letter.is_alphanumeric() && letter != '_').collect();
    let (prose, _) = MAP.split_once("```text").unwrap();
    let (_, rest) = MAP.split_once("```\n\n").unwrap();
    let mut missing = Vec::new();
    for name in between(prose, '`').into_iter().chain(between(rest, '`')) {
        let is_file = name.ends_with(".rs") || name.ends_with(".md");
        let is_symbol = name.contains("::") && name.chars().all(|c| c.is_alphanumeric() || "_:".contains(c));
        if is_file && !root.join(name).is_file() && !root.join("src").join(name).is_file() {
            missing.push(name);
        }
        let is_there = |part: &str| words.contains(part);
        if is_symbol && !name.starts_with("std::") && !name.split("::").all(is_there) {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "src/README.md names what is not there: {missing:?}");
}

/// Links between the documents of the repository lead somewhere.
#[test]
fn every_link_of_a_document_to_a_file_leads_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut dead = Vec::new();
    for folder in [".", "src", "src/mcp", "conf", "migrations", "systemd"] {
        let (folder, name) = (root.join(folder), format!("{folder}/README.md"));
        let text = fs::read_to_string(folder.join("README.md")).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
        let files = targets.filter(|target| !target.starts_with("http") && !target.starts_with('#'));
        dead.extend(
            files.filter(|target| !folder.join(target).exists()).map(|target| format!("{name}: {target}")),
        );
    }
    assert!(dead.is_empty(), "{dead:?}");
}
