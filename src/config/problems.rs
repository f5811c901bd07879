//! What is wrong with a configuration: where it stands, one sentence, and what to do about it.
//!
//! Decides how problems are worded and ordered, never what a problem is. A sentence names keys,
//! variables and rules, never a value: any value may turn out to be a secret.

use std::{cell::RefCell, fmt, path::PathBuf, rc::Rc};

/// One thing wrong in one file; prints as `FILE:LINE: SENTENCE` and a line with the hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub(super) file: String,
    pub(super) line: Option<usize>,
    pub(super) sentence: String,
    pub(super) hint: Option<String>,
}

impl Problem {
    /// `FILE:LINE`.
    pub(super) fn place(&self) -> String {
        match self.line {
            Some(line) => format!("{}:{line}", self.file),
            None => self.file.clone(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), self.sentence)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Where keys stand in gateway.toml, each as `FILE:LINE`, for what only shows when somebody tries.
#[derive(Clone)]
pub struct Places {
    /// Of `listen.http`.
    pub http: String,
    /// Of `listen.ops`.
    pub ops: String,
    /// Of `database.url`.
    pub database: String,
    /// Of `audit.spool_dir`.
    pub spool: String,
}

/// A configuration is the same wherever it is written down.
impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Places")
    }
}

/// Everything wrong with a configuration, ordered by file and line.
#[derive(Debug)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "no problems is `Ok`, so this is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The problems, ordered by file and line.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    fn in_order(mut problems: Vec<Problem>) -> Self {
        // Stable: problems of one line stay in the order in which they were found.
        problems.sort_by(|left, right| (&left.file, left.line).cmp(&(&right.file, right.line)));
        Self(problems)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Why a text is not what its key wants: a sentence that follows the key's name, and a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) sentence: String,
    pub(super) hint: Option<String>,
}

impl Complaint {
    pub(super) fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), hint: None }
    }

    pub(super) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// Stands where a value would, once its problem has been noted: the only way to leave a value out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reported(());

/// What reading found so far, problems and warnings of all files.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    /// The files that were read, or should have been.
    pub(super) files: Rc<RefCell<Vec<PathBuf>>>,
    /// Every key that was asked for, and whether a file had it: what the shipped files are held to.
    #[cfg(test)]
    pub(super) known: RefCell<std::collections::BTreeMap<String, bool>>,
}

impl Findings {
    pub(super) fn problem(&self, problem: Problem) -> Reported {
        self.problems.borrow_mut().push(problem);
        Reported(())
    }

    pub(super) fn warning(&self, warning: Problem) {
        self.warnings.borrow_mut().push(warning);
    }

    /// A file that the configuration is made of: when it changes, the configuration does.
    pub(super) fn note_file(&self, path: PathBuf) {
        self.files.borrow_mut().push(path);
    }

    /// The value with the warnings about it, or all problems: one problem is enough to have no value.
    pub(super) fn conclude<T>(self, value: Result<T, Reported>) -> Result<(T, Vec<String>), Problems> {
        let problems = self.problems.into_inner();
        match value {
            Ok(value) if problems.is_empty() => {
                let warnings = Problems::in_order(self.warnings.into_inner());
                Ok((value, warnings.iter().map(Problem::to_string).collect()))
            }
            _ => Err(Problems::in_order(problems)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(file: &str, line: Option<usize>, sentence: &str, hint: Option<&str>) -> Problem {
        Problem { file: file.into(), line, sentence: sentence.into(), hint: hint.map(str::to_owned) }
    }

    #[track_caller]
    fn check(found: &[Problem], expected: &str) {
        let findings = Findings::default();
        let mut reported = Ok(());
        for problem in found {
            reported = Err(findings.problem(problem.clone()));
        }
        assert_eq!(findings.conclude(reported).unwrap_err().to_string(), expected);
    }

    #[test]
    fn problems_are_ordered_by_file_and_line() {
        check(
            &[
                problem("b", Some(2), "two", None),
                problem("a", Some(10), "ten", Some("help")),
                problem("a", Some(9), "nine", None),
                problem("a", None, "whole file", None),
                problem("a", Some(9), "also nine", None),
            ],
            "a: whole file\na:9: nine\na:9: also nine\na:10: ten\n  hint: help\nb:2: two",
        );
    }
}
