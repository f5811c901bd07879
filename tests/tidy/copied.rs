//! What is copied of the configuration when the process begins: named in `config/fixed.rs`, so that a reload tells the
//! operator to wait for a restart, or taken again by each reload.

use crate::source::{Source, braces_end, line_of};

/// Where things are built once. In the keeper it is what `begin` does.
const BUILT_ONCE: [&str; 4] =
    ["src/app.rs", "src/app/shared.rs", "src/app/listeners.rs", "src/app/keeper.rs"];

/// What each reload takes again, and where `Keeper::take` does.
const TAKEN_AGAIN: &[(&str, &str)] = &[
    ("servers", "take_servers(&catalog"),
    ("store", "told.store.send_replace("),
    ("audit", "recorder.audit.take("),
    ("catalog", "told.sources.send_replace("),
    ("catalog.max_bytes", "prober_settings(config)"),
    ("allowed_hosts", "told.allowed.send_replace("),
    ("nameservers", "snapshot::names::ask("),
    ("limits", "limiting.replace("),
    ("record.is_access_log_on", "access_log.switch("),
    ("access.max_stale", "set_max_stale("),
    ("gateway.mcp.max_list_bytes", "client_settings(config)"),
    // The settings as a whole, of which each gateway has its own.
    ("gateway", "self.configured.replace("),
    ("gateway.max_connections", "self.configured.replace("),
];

/// Names of methods that stand behind a key.
const METHODS: [&str; 3] = [".clone", ".is_some", ".as_ref"];

fn source(path: &str) -> Source {
    Source::all(&["src"]).into_iter().find(|source| source.path == path).unwrap()
}

/// The body of a function, and where it begins.
fn body<'c>(code: &'c str, name: &str) -> (usize, &'c str) {
    let start = code.find(&format!("fn {name}(")).unwrap_or_else(|| panic!("no function `{name}`"));
    let open = start + code[start..].find(" {\n").unwrap() + 1;
    (open, &code[open..braces_end(code, open)])
}

/// The keys of the configuration that a text reads: `gateway.tls` for `config.gateway.tls` and `settings.tls`.
fn keys(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (word, begins) in [("config.", ""), ("settings.", "gateway.")] {
        for (at, _) in text.match_indices(word) {
            let is_whole = !text[..at].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_');
            let path: String = text[at + word.len()..]
                .chars()
                .take_while(|letter| letter.is_ascii_lowercase() || "._".contains(*letter))
                .collect();
            let path = METHODS
                .iter()
                .fold(path.trim_end_matches('.'), |path, method| path.strip_suffix(method).unwrap_or(path));
            if is_whole && !path.is_empty() {
                found.push((at, format!("{begins}{path}")));
            }
        }
    }
    found
}

/// What reads a key that is neither fixed nor taken again.
fn strays(path: &str, code: &str, begins: usize, text: &str, known: &[String]) -> Vec<String> {
    let stray = keys(text).into_iter().filter(|(_, key)| !known.contains(key));
    stray
        .map(|(at, key)| {
            let line = line_of(code, begins + at);
            format!(
                "{path}:{line}: `{key}` is copied once\n  hint: name its key in src/config/fixed.rs, or have \
                 `Keeper::take` take it again and say so in tests/tidy/copied.rs"
            )
        })
        .collect()
}

/// The fields that `config/fixed.rs` names.
fn fixed() -> Vec<String> {
    let lines = source("src/config/fixed.rs").text;
    let field = |line: &str| Some(line.split_once("\" => ")?.1.trim_end_matches(';').to_owned());
    lines.lines().filter_map(field).collect()
}

#[test]
fn what_is_copied_at_the_start_is_fixed_or_taken_again() {
    let mut known = fixed();
    assert!(known.iter().any(|key| key == "gateway.threads"), "{known:?}");
    let keeper = source("src/app/keeper.rs").product;
    let (_, take) = body(&keeper, "take");
    for (key, how) in TAKEN_AGAIN {
        assert!(take.contains(how), "`Keeper::take` does not take `{key}` by `{how}`");
        known.push((*key).to_owned());
    }
    let mut found = Vec::new();
    for path in BUILT_ONCE {
        let source = source(path);
        let code = &source.product;
        let (begins, text) =
            if path.ends_with("keeper.rs") { body(code, "begin") } else { (0, code.as_str()) };
        found.extend(strays(path, code, begins, text, &known));
    }
    assert!(found.is_empty(), "\n\n{}\n", found.join("\n"));
}

#[test]
fn a_key_that_is_copied_once_and_named_nowhere_is_found() {
    let known = ["gateway.tls".to_owned(), "limits".to_owned()];
    let found = |text: &str| strays("a.rs", text, 0, text, &known).len();
    assert_eq!(found("a(settings.tls.is_some(), config.limits.clone(), &config.gateway.tls)"), 0);
    assert_eq!(found("a(settings.header_timeout)"), 1);
    assert_eq!(found("a(built.config.access.max_stale)\n    b(&config.record)"), 2);
}
