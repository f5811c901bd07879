//! The layout rules of `src/README.md` and the house style, held by tests over the source text.
//!
//! `layers.rs` has the tables to edit. A failure names file, line, and what to do. Each rule also shows, in `rules.rs`,
//! that it can fail.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in what it is built from too")]

mod copied;
mod documents;
mod figures;
mod layers;
mod rules;
mod source;

use rules::Problem;
use source::Source;

/// The rule finds nothing in any `.rs` file of these folders.
#[track_caller]
fn check(folders: &[&str], rule: impl Fn(&Source) -> Vec<Problem>) {
    let sources = Source::all(folders);
    assert!(!sources.is_empty(), "no sources under {folders:?}");
    let problems: Vec<Problem> = sources.iter().flat_map(rule).collect();
    assert!(problems.is_empty(), "\n\n{}\n", problems.join("\n"));
}

#[test]
fn imports_point_one_way() {
    assert_eq!(rules::the_table_has_no_circle(layers::MAY_IMPORT), [""; 0]);
    check(&["src"], |source| rules::imports_point_one_way(source, layers::MAY_IMPORT));
}

#[test]
fn crates_are_named_only_where_they_are_at_home() {
    check(&["src"], rules::crates_stay_at_home);
}

#[test]
fn files_are_at_most_400_lines_without_tests() {
    check(&["src"], rules::files_are_short);
}

#[test]
fn functions_are_at_most_60_lines() {
    check(&["src"], rules::functions_are_short);
}

#[test]
fn every_module_opens_with_what_it_decides() {
    check(&["src", "tests"], rules::modules_open_with_their_purpose);
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    check(&["src"], rules::nothing_is_unwrapped);
}

#[test]
fn module_names_say_what_is_inside() {
    check(&["src", "tests"], rules::names_say_something);
}

#[test]
fn what_is_left_to_do_has_an_issue() {
    check(&["src", "tests", "benches"], rules::what_is_left_has_an_issue);
}

#[test]
fn tests_are_named_as_facts_and_none_is_ignored() {
    check(&["src", "tests"], rules::tests_are_facts);
}
