//! The rules of the layout, one function each: from a source to what is wrong with it and what to do.

use super::{
    layers::{MAX_FILE_LINES, MAX_FUNCTION_LINES, NAMED_ONLY_IN, Row, SAYS_NOTHING},
    source::{Source, braces_end, line_of, paths},
};

/// `file:line: what is wrong: what to do`.
pub type Problem = String;

fn problem(source: &Source, line: usize, sentence: impl AsRef<str>) -> Problem {
    format!("{}:{line}: {}", source.path, sentence.as_ref())
}

/// Imports point one way: a module reaches only the modules its row of the table names.
pub fn imports_point_one_way(source: &Source, table: &[Row]) -> Vec<Problem> {
    let module = source.module();
    if matches!(module, "lib" | "main") {
        return Vec::new();
    }
    let Some((_, allowed)) = table.iter().find(|(name, _)| *name == module) else {
        let sentence = format!("module `{module}` has no row: give it its place in tests/tidy/layers.rs");
        return vec![problem(source, 1, sentence)];
    };
    let to_the_top = "super::".repeat(source.depth());
    let mut problems = Vec::new();
    for (line, path) in paths(&source.product) {
        if path.starts_with(&to_the_top) {
            problems.push(problem(
                source,
                line,
                format!("`{path}` reaches the top of the crate: write `crate::…`"),
            ));
        }
        let Some(target) = path.strip_prefix("crate::").and_then(|path| path.split("::").next()) else {
            continue;
        };
        let is_module = target.starts_with(|letter: char| letter.is_ascii_lowercase());
        if is_module && target != module && !allowed.contains(&target) {
            let sentence = format!(
                "`{module}` imports `{target}`, which its row in tests/tidy/layers.rs does not name: \
                 move the code to the side that may know the other, or make the new arrow a commit of its own"
            );
            problems.push(problem(source, line, sentence));
        }
    }
    problems
}

/// The table itself points one way: no row names itself, a row below it, or a row that is not there.
pub fn the_table_has_no_circle(table: &[Row]) -> Vec<Problem> {
    let mut above = Vec::new();
    let mut problems = Vec::new();
    for (module, allowed) in table {
        for target in allowed.iter().filter(|target| !above.contains(*target)) {
            problems.push(format!(
                "tests/tidy/layers.rs: `{module}` may import `{target}`, which is not above it: reorder the rows, \
                 or break the circle"
            ));
        }
        above.push(*module);
    }
    problems
}

/// The crates that have one home are named nowhere else.
pub fn crates_stay_at_home(source: &Source) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (line, path) in paths(&source.product) {
        for (guest, homes) in NAMED_ONLY_IN {
            let begins = path == *guest && guest.contains("::")
                || path.starts_with(&format!("{guest}::"))
                || path.starts_with(&format!("{guest}_")) && path.contains("::") && !guest.contains("::");
            if begins && !homes.iter().any(|home| is_at(&source.path, home)) {
                let sentence = format!(
                    "`{path}`: `{guest}` is named only in {}: ask that module instead",
                    homes.join(", ")
                );
                problems.push(problem(source, line, sentence));
            }
        }
    }
    problems
}

fn is_at(path: &str, home: &str) -> bool {
    if home.ends_with('/') { path.starts_with(home) } else { path == home }
}

/// A file fits on the wall.
pub fn files_are_short(source: &Source) -> Vec<Problem> {
    if source.product_lines <= MAX_FILE_LINES {
        return Vec::new();
    }
    let lines = source.product_lines;
    let sentence = format!(
        "{lines} lines without tests, at most {MAX_FILE_LINES}: find the second reason to read it and split there"
    );
    vec![problem(source, 1, sentence)]
}

/// A function fits on a screen.
pub fn functions_are_short(source: &Source) -> Vec<Problem> {
    let code = &source.product;
    let mut problems = Vec::new();
    for (start, _) in code.match_indices("fn ") {
        let is_keyword =
            code[..start].chars().next_back().is_none_or(|before| !before.is_alphanumeric() && before != '_');
        let name: String = code[start + 3..]
            .chars()
            .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
            .collect();
        // `[u8; 4]` in a signature has a semicolon too, but not at the end of a line.
        let body = code[start..].match_indices(['{', ';']).find(|(at, found)| {
            *found == "{" || code[start + at + 1..].chars().next().is_none_or(|after| after == '\n')
        });
        let Some((open, "{")) = body else { continue };
        if !is_keyword || name.is_empty() {
            continue;
        }
        let lines = code[start..braces_end(code, start + open)].matches('\n').count() + 1;
        if lines > MAX_FUNCTION_LINES {
            let sentence =
                format!("`{name}` has {lines} lines, at most {MAX_FUNCTION_LINES}: give a part of it a name");
            problems.push(problem(source, line_of(code, start), sentence));
        }
    }
    problems
}

/// A module says first what it decides and what it never does.
pub fn modules_open_with_their_purpose(source: &Source) -> Vec<Problem> {
    if source.is_tests || source.text.starts_with("//! ") || source.text.starts_with("#![doc = include_str!(")
    {
        return Vec::new();
    }
    vec![problem(
        source,
        1,
        "does not open with `//! …`: say what it decides, what it never does, and who comes before and after",
    )]
}

/// Nothing panics because somebody was sure.
pub fn nothing_is_unwrapped(source: &Source) -> Vec<Problem> {
    let unwraps =
        source.product.match_indices(".unwrap()").chain(source.product.match_indices(".unwrap_err()"));
    let sentence = "unwrapped outside tests: return the error, or `expect(\"why this cannot fail\")` where the line above proves it";
    unwraps.map(|(start, _)| problem(source, line_of(&source.product, start), sentence)).collect()
}

/// A module's name says what is inside.
pub fn names_say_something(source: &Source) -> Vec<Problem> {
    let parts = source.path.trim_end_matches(".rs").split('/');
    let empty = parts.filter(|part| SAYS_NOTHING.contains(part));
    empty
        .map(|part| problem(source, 1, format!("`{part}` says nothing: name the domain noun inside")))
        .collect()
}

/// What is left to do has an issue.
pub fn what_is_left_has_an_issue(source: &Source) -> Vec<Problem> {
    let mut problems = Vec::new();
    for word in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX"), concat!("HA", "CK")] {
        for (start, _) in source.text.match_indices(word) {
            let after = &source.text[start + word.len()..];
            let alone = !after.starts_with(|letter: char| letter.is_alphanumeric() || letter == '_')
                && !source.text[..start].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_');
            let number =
                after.strip_prefix("(#").and_then(|after| after.split_once("): ")).map(|(number, _)| number);
            let has_issue =
                word == concat!("TO", "DO") && number.is_some_and(|number| number.parse::<u32>().is_ok());
            if alone && !has_issue {
                let sentence =
                    format!("`{word}` without an issue: do it, or write `{}(#123): …`", concat!("TO", "DO"));
                problems.push(problem(source, line_of(&source.text, start), sentence));
            }
        }
    }
    problems
}

/// Tests are facts, not ranks: `#[ignore]` hides and `test_` repeats what `#[test]` says.
pub fn tests_are_facts(source: &Source) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (start, _) in source.code.match_indices("#[ignore") {
        problems.push(problem(
            source,
            line_of(&source.code, start),
            "an ignored test is a missing test: mend it or remove it",
        ));
    }
    for (start, _) in source.code.match_indices("fn test_") {
        problems.push(problem(
            source,
            line_of(&source.code, start),
            "named `test_…`: name the fact it shows",
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Row] = &[("names", &[]), ("catalog", &["names"]), ("route", &["names", "catalog"])];

    /// The rule finds something on exactly these lines.
    #[track_caller]
    fn check(rule: impl Fn(&Source) -> Vec<Problem>, path: &str, text: &str, lines: &[usize]) {
        let problems = rule(&Source::new(path, text));
        let found: Vec<usize> = problems
            .iter()
            .map(|problem| problem.split(':').nth(1).and_then(|line| line.parse().ok()).unwrap())
            .collect();
        assert_eq!(found, lines, "{problems:#?}");
        assert!(
            problems.iter().all(|problem| problem.starts_with(path) && problem.matches(": ").count() >= 2)
        );
    }

    #[test]
    fn an_import_against_the_journey_is_found() {
        let rule = |source: &Source| imports_point_one_way(source, TABLE);
        check(rule, "src/route.rs", "use crate::{catalog::Catalog, names::ServerId};\n", &[]);
        check(
            rule,
            "src/catalog/mod.rs",
            "use crate::{\n    names::ServerId,\n    route::Route,\n};\n",
            &[3],
        );
        check(rule, "src/catalog/tools.rs", "fn a() {\n    crate::route::resolve();\n}\n", &[2]);
        check(rule, "src/catalog/mod.rs", "use super::route::Route;\n", &[1]);
        check(rule, "src/catalog/tools.rs", "use super::super::route::Route;\nuse super::Catalog;\n", &[1]);
        check(
            rule,
            "src/catalog.rs",
            "// crate::route\n#[cfg(test)]\nmod tests {\n    use crate::route;\n}\n",
            &[],
        );
        check(rule, "src/newcomer.rs", "", &[1]);
        check(rule, "src/lib.rs", "use crate::route;\n", &[]);
    }

    #[test]
    fn a_circle_in_the_table_is_found() {
        assert_eq!(the_table_has_no_circle(TABLE), [""; 0]);
        assert_eq!(the_table_has_no_circle(&[("a", &["b"]), ("b", &["a"])]).len(), 1);
        assert_eq!(the_table_has_no_circle(&[("a", &["a"])]).len(), 1);
        assert_eq!(the_table_has_no_circle(&[("a", &["gone"])]).len(), 1);
    }

    #[test]
    fn a_crate_away_from_home_is_found() {
        let rule = crates_stay_at_home;
        check(rule, "src/store/rows.rs", "use sqlx::Row;\n", &[]);
        check(rule, "src/access/mod.rs", "use sqlx::{Row, Pool};\n", &[1, 1]);
        check(rule, "src/route.rs", "use std::{\n    env,\n    fmt,\n};\n", &[2]);
        check(
            rule,
            "src/route.rs",
            "fn a() -> &'static str {\n    std::env::var(\"A\");\n    env!(\"B\")\n}\n",
            &[2],
        );
        check(rule, "src/config/env.rs", "use std::env;\n", &[]);
        check(rule, "src/config/mod.rs", "use std::env;\n", &[1]);
        check(rule, "src/upstream/peer.rs", "use pingora::upstreams::peer::HttpPeer;\n", &[]);
        check(
            rule,
            "src/upstream/mod.rs",
            "use pingora::upstreams::peer::HttpPeer;\nuse pingora_core::Error;\n",
            &[1, 2],
        );
        check(rule, "src/endpoints/mod.rs", "fn a() {\n    prometheus::gather();\n}\n", &[2]);
        check(
            rule,
            "src/route.rs",
            "fn a() {\n    // sqlx::query\n    let pingora = \"sqlx::query\";\n}\n",
            &[],
        );
    }

    #[test]
    fn a_long_file_is_found_and_tests_do_not_count() {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    const B: u8 = 1;\n".repeat(500));
        check(files_are_short, "src/a.rs", &("const A: u8 = 1;\n".repeat(400) + &tests), &[]);
        check(files_are_short, "src/a.rs", &("const A: u8 = 1;\n".repeat(401) + &tests), &[1]);
    }

    #[test]
    fn a_long_function_is_found() {
        let long = |lines: usize| {
            format!(
                "const A: [u8; 2] = [1, 2];\npub fn a(b: [u8; 4]) -> u8 {{\n{}}}\n",
                "    b();\n".repeat(lines - 2)
            )
        };
        check(functions_are_short, "src/a.rs", &long(60), &[]);
        check(functions_are_short, "src/a.rs", &long(61), &[2]);
        check(functions_are_short, "src/a.rs", "trait A {\n    fn b();\n    fn c(&self) {}\n}\n", &[]);
    }

    #[test]
    fn a_module_without_its_purpose_is_found() {
        check(modules_open_with_their_purpose, "src/a.rs", "//! Decides.\n", &[]);
        check(modules_open_with_their_purpose, "src/lib.rs", "#![doc = include_str!(\"README.md\")]\n", &[]);
        check(modules_open_with_their_purpose, "src/a.rs", "use b::c;\n//! Late.\n", &[1]);
        check(modules_open_with_their_purpose, "src/a.rs", "", &[1]);
    }

    #[test]
    fn an_unwrap_outside_tests_is_found() {
        check(
            nothing_is_unwrapped,
            "src/a.rs",
            "/// b.unwrap()\nfn a() {\n    b\n        .unwrap();\n}\n",
            &[4],
        );
        check(
            nothing_is_unwrapped,
            "src/a.rs",
            "fn a() {\n    b.unwrap_or(c);\n}\n#[cfg(test)]\nmod tests {\n    b.unwrap();\n}\n",
            &[],
        );
    }

    #[test]
    fn a_name_that_says_nothing_is_found() {
        check(names_say_something, "src/catalog/server.rs", "", &[]);
        check(names_say_something, "src/utils.rs", "", &[1]);
        check(names_say_something, "src/common/mod.rs", "", &[1]);
    }

    #[test]
    fn work_left_without_an_issue_is_found() {
        let marker = concat!("TO", "DO");
        check(
            what_is_left_has_an_issue,
            "src/a.rs",
            &format!("// {marker}(#12): later\n// {marker}S\n"),
            &[],
        );
        check(what_is_left_has_an_issue, "src/a.rs", &format!("\n// {marker}: later\n"), &[2]);
        check(what_is_left_has_an_issue, "src/a.rs", &format!("// {marker}(me): later\n"), &[1]);
        check(what_is_left_has_an_issue, "src/a.rs", &format!("// {}\n", concat!("FIX", "ME")), &[1]);
    }

    #[test]
    fn a_hidden_or_ranked_test_is_found() {
        check(tests_are_facts, "src/a.rs", "#[test]\nfn a_fact() {}\n", &[]);
        check(tests_are_facts, "src/a.rs", "#[test]\n#[ignore]\nfn test_one() {}\n", &[2, 3]);
    }
}
