//! The environment: the only place that reads the process's variables, and what `${VAR}` means.
//!
//! Decides how references in a text are replaced. Never decides which variables matter, and never
//! puts a variable's value into a sentence.

use std::{collections::BTreeMap, ffi::OsString, fmt};

use super::problems::Complaint;

/// The variables a configuration may refer to, read once.
#[derive(Clone, Default)]
pub struct Environment {
    /// `None` where the value is not UTF-8.
    variables: BTreeMap<String, Option<String>>,
}

impl Environment {
    /// The variables of this process, as they are now.
    #[expect(clippy::disallowed_methods, reason = "this is the place where the environment is read")]
    pub fn of_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok())))
            .collect();
        Self { variables }
    }

    /// These variables and no others.
    pub fn from_pairs<'p>(pairs: impl IntoIterator<Item = (&'p str, &'p str)>) -> Self {
        let variables =
            pairs.into_iter().map(|(name, value)| (name.to_owned(), Some(value.to_owned()))).collect();
        Self { variables }
    }

    /// The value of a variable that is set and not empty.
    pub fn non_empty(&self, name: &str) -> Option<&str> {
        self.variables.get(name)?.as_deref().filter(|value| !value.is_empty())
    }

    /// Whether a variable holds a word for yes: `true`, `1`, `yes`, `on`.
    pub fn is_on(&self, name: &str) -> bool {
        self.non_empty(name).and_then(truth) == Some(true)
    }
}

/// How this process was started: the program, as it was called, and its arguments.
pub fn command_line() -> (OsString, Vec<OsString>) {
    let mut words = std::env::args_os();
    (words.next().unwrap_or_else(|| "portcullis".into()), words.collect())
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// What a word says where yes or no is expected, regardless of case.
pub(super) fn truth(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Whether a text can name a variable: `[A-Za-z_][A-Za-z0-9_]*`.
pub(super) fn is_variable_name(text: &str) -> bool {
    !text.starts_with(|first: char| first.is_ascii_digit())
        && !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Replaces `${VAR}` and `${VAR:-default}`, and `$${` by `${`; any other `$` stays.
///
/// As in `sh`, a variable that is set but empty counts as unset for `:-` only.
pub(super) fn expand(text: &str, environment: &Environment) -> Result<String, Complaint> {
    let mut expanded = String::with_capacity(text.len());
    let mut missing = Missing::default();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        if let Some(after) = rest.strip_prefix("$${") {
            expanded.push_str("${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let Some((reference, after)) = after.split_once('}') else {
                return Err(malformed("has a `${` without its `}`"));
            };
            expanded.push_str(resolve(reference, environment, &mut missing)?);
            rest = after;
        } else {
            expanded.push('$');
            rest = &rest[1..];
        }
    }
    expanded.push_str(rest);
    missing.complaint().map_or(Ok(expanded), Err)
}

fn resolve<'v>(
    reference: &'v str,
    environment: &'v Environment,
    missing: &mut Missing,
) -> Result<&'v str, Complaint> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if !is_variable_name(name) {
        return Err(malformed("has a `${` that is not followed by `VAR}` or `VAR:-default}`"));
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(malformed("has a `${` inside a default"));
    }
    Ok(match (environment.variables.get(name), default) {
        (Some(Some(value)), None) => value,
        (Some(Some(value)), Some(_)) if !value.is_empty() => value,
        (Some(None), _) => {
            missing.not_text.push(name.to_owned());
            ""
        }
        (_, Some(default)) => default,
        (None, None) => {
            missing.unset.push(name.to_owned());
            ""
        }
    })
}

fn malformed(sentence: &str) -> Complaint {
    Complaint::new(sentence).with_hint("write `$${` for a `${` that is meant as it stands")
}

/// The variables of one text that have no value.
#[derive(Default)]
struct Missing {
    unset: Vec<String>,
    not_text: Vec<String>,
}

impl Missing {
    fn complaint(&self) -> Option<Complaint> {
        let list = |names: &[String]| {
            names.iter().map(|name| format!("`${{{name}}}`")).collect::<Vec<_>>().join(" and ")
        };
        let verb = |names: &[String]| if names.len() == 1 { "is" } else { "are" };
        if let Some(first) = self.unset.first() {
            let sentence = format!("needs {}, which {} not set", list(&self.unset), verb(&self.unset));
            let hint = format!("set it in the environment, or give a default: `${{{first}:-…}}`");
            return Some(Complaint::new(sentence).with_hint(hint));
        }
        if self.not_text.is_empty() {
            return None;
        }
        let sentence = format!("needs {}, which {} not UTF-8", list(&self.not_text), verb(&self.not_text));
        Some(Complaint::new(sentence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        let mut environment = Environment::from_pairs([("A", "a\"b"), ("EMPTY", ""), ("_x9", "${A}")]);
        environment.variables.insert("BYTES".to_owned(), None);
        let expanded = expand(text, &environment).map_err(|complaint| complaint.sentence);
        assert_eq!(expanded.as_deref().map_err(String::as_str), expected, "{text}");
    }

    #[test]
    fn references_are_replaced_once() {
        check("", Ok(""));
        check("plain $ $A $$ 5$", Ok("plain $ $A $$ 5$"));
        check("${A}", Ok("a\"b"));
        check("<${A}-${A:-x}>", Ok("<a\"b-a\"b>"));
        check("${_x9}", Ok("${A}"));
        check("é${A}é", Ok("éa\"bé"));
    }

    #[test]
    fn a_default_stands_in_for_unset_and_for_empty() {
        check("${NO:-http://h:80/}", Ok("http://h:80/"));
        check("${NO:-}", Ok(""));
        check("${EMPTY:-x}", Ok("x"));
        check("${EMPTY}", Ok(""));
        check("${NO:-a:-b}", Ok("a:-b"));
    }

    #[test]
    fn a_doubled_dollar_keeps_the_braces() {
        check("$${A}", Ok("${A}"));
        check("$$${A}", Ok("$${A}"));
        check("$${", Ok("${"));
    }

    #[test]
    fn variables_without_a_value_are_named() {
        check("${NO}", Err("needs `${NO}`, which is not set"));
        check("${NO}:${A}:${NOR}", Err("needs `${NO}` and `${NOR}`, which are not set"));
        check("${BYTES:-x}", Err("needs `${BYTES}`, which is not UTF-8"));
    }

    #[test]
    fn malformed_references_are_refused_without_being_quoted() {
        let shape = "has a `${` that is not followed by `VAR}` or `VAR:-default}`";
        check("pa${ss", Err("has a `${` without its `}`"));
        for text in ["${}", "${1A}", "${A-b}", "${A B}", "${A:b}", "${é}"] {
            check(text, Err(shape));
        }
        check("${NO:-${A}}", Err("has a `${` inside a default"));
    }

    #[test]
    fn the_environment_prints_names_only() {
        let environment = Environment::from_pairs([("WEBUI_SECRET_KEY", "hunter2")]);
        assert_eq!(format!("{environment:?}"), "{\"WEBUI_SECRET_KEY\"}");
    }
}
