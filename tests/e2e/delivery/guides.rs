//! The guides: each block is run by the test that it names, or says that none runs it and why.

use std::{collections::BTreeSet, path::Path};

use super::ROOT;
use crate::harness::guide::{self, NOT_RUN};

fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_block_of_the_guides_is_run_or_says_why_it_is_not() {
    let mut all = Vec::new();
    sources(&Path::new(ROOT).join("tests/e2e"), &mut all);
    let blocks = guide::blocks();
    let mut tests = BTreeSet::new();
    for block in &blocks {
        match block.test() {
            Some(test) => {
                tests.insert(test);
            }
            None => assert!(
                block.above.contains(NOT_RUN),
                "{}: above this block stands neither `(run by …)` nor `{NOT_RUN}: why)`:\n{}",
                block.document,
                block.text
            ),
        }
    }
    for test in tests {
        let is_there = all.iter().any(|source| source.contains(&format!("fn {test}(")));
        assert!(is_there, "a guide names the test `{test}`, which is not there");
        // It asks for its blocks by its own name.
        let asks = all.iter().any(|source| source.contains(&format!("\"{test}\"")));
        assert!(asks, "`{test}` does not ask for the blocks that it is said to run");
    }
}

/// Tests that a guide names in its tables, too.
#[test]
fn every_test_that_a_guide_names_is_there() {
    let mut all = Vec::new();
    sources(&Path::new(ROOT).join("tests/e2e"), &mut all);
    sources(&Path::new(ROOT).join("src"), &mut all);
    for (document, text) in guide::GUIDES {
        // Words in backticks with three underscores or more are names of tests, and of nothing else there.
        for word in text.split('`').skip(1).step_by(2) {
            let is_name = word.matches('_').count() >= 3
                && word
                    .chars()
                    .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_');
            // Metrics are checked with the README's, and keys with the configuration.
            if !is_name || word.starts_with("portcullis_") || word.ends_with("_secs") {
                continue;
            }
            let is_there = all.iter().any(|source| source.contains(&format!("fn {word}(")));
            assert!(is_there, "{document} names the test `{word}`, which is not there");
        }
    }
}
