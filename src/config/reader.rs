//! Takes keys out of TOML tables: each value as its type, each failure as one problem with its line.
//!
//! Decides what a string, number, word or list of the file is once the environment is filled in,
//! and that a key nobody asked for is unknown. Never decides what a value means: callers bring
//! a parser, which may refuse with a complaint.

mod numbers;
mod values;

use std::{collections::BTreeMap, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    env::{self, Environment},
    problems::{Complaint, Findings, Problem, Reported},
    wording::{closest, printable, with_article},
};

/// A value, or the proof that its problem has been noted.
pub(super) type Read<T> = Result<T, Reported>;

/// What all tables of one file share.
pub(super) struct File<'f> {
    pub(super) name: &'f str,
    pub(super) text: &'f str,
    pub(super) environment: &'f Environment,
    pub(super) findings: &'f Findings,
}

impl<'f> File<'f> {
    /// Reads the whole file; a text that is not TOML is one problem.
    pub(super) fn read<T>(&'f self, read: impl FnOnce(&mut Reader<'f>) -> Read<T>) -> Read<T> {
        let table = DeTable::parse(self.text).map_err(|error| {
            // The parser's message only: its full text quotes the line, which may hold a secret.
            let message = error.message().lines().next().unwrap_or_default();
            let at = error.span().map(|span| span.start);
            self.findings.problem(self.note(at, format!("this is not TOML: {message}"), None))
        })?;
        Reader::new(self, String::new(), None, table.into_inner()).run(read)
    }

    fn note(&self, at: Option<usize>, sentence: String, hint: Option<String>) -> Problem {
        let before = |offset: usize| self.text.as_bytes().iter().take(offset);
        let line = at.map(|offset| before(offset).filter(|byte| **byte == b'\n').count() + 1);
        Problem { file: self.name.to_owned(), line, sentence, hint }
    }
}

/// One table being taken apart.
pub(super) struct Reader<'f> {
    file: &'f File<'f>,
    path: String,
    /// Where the table's name stands; none for the file itself.
    at: Option<usize>,
    table: DeTable<'f>,
    /// The keys asked for, and where the file has them.
    known: BTreeMap<&'static str, Option<usize>>,
}

impl<'f> Reader<'f> {
    fn new(file: &'f File<'f>, path: String, at: Option<usize>, table: DeTable<'f>) -> Self {
        Self { file, path, at, table, known: BTreeMap::new() }
    }

    fn run<T>(mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<T> {
        let value = read(&mut self);
        self.refuse_unknown_keys();
        value
    }

    /// The environment the file is read in.
    pub(super) fn environment(&self) -> &'f Environment {
        self.file.environment
    }

    /// Where `key` stands, or the table where the file does not have the key: `FILE:LINE`.
    pub(super) fn place_of(&self, key: &str) -> String {
        self.file.note(self.place(key), String::new(), None).place()
    }

    /// Notes a file that a key names: when it changes, the configuration does.
    pub(super) fn note_file(&self, path: &Path) {
        self.file.findings.note_file(path.to_owned());
    }

    /// Notes a problem at the line of `key`, or of the table where the file does not have the key.
    pub(super) fn problem(&self, key: &str, sentence: impl Into<String>, hint: &str) -> Reported {
        self.note(self.place(key), sentence.into(), Some(hint.to_owned()))
    }

    /// Notes a warning at the line of `key`, or of the table where the file does not have the key.
    pub(super) fn warning(&self, key: &str, sentence: impl Into<String>, hint: &str) {
        let warning = self.file.note(self.place(key), sentence.into(), Some(hint.to_owned()));
        self.file.findings.warning(warning);
    }

    /// The text of a key as `parse` understands it, none where the file does not have the key.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Complaint>,
    ) -> Read<Option<T>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let text = self.text_of(key, &value)?;
        parse(&text).map(Some).map_err(|complaint| self.complain(key, value.span().start, complaint))
    }

    /// Like `optional` for names of variables: a reference stays as it stands and is not replaced.
    pub(super) fn verbatim<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Complaint>,
    ) -> Read<Option<T>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let at = value.span().start;
        match value.get_ref() {
            DeValue::String(text) => {
                parse(text).map(Some).map_err(|complaint| self.complain(key, at, complaint))
            }
            other => Err(self.mismatch(key, at, "a string", other)),
        }
    }

    /// The text of a key as `parse` understands it; `default` is read as if the file had it.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        default: &str,
        parse: impl FnOnce(&str) -> Result<T, Complaint>,
    ) -> Read<T> {
        let Some(value) = self.take(key) else { return self.by_default(key, default, parse) };
        let text = self.text_of(key, &value)?;
        parse(&text).map_err(|complaint| self.complain(key, value.span().start, complaint))
    }

    /// Yes or no, as TOML's own or as a word in a string.
    pub(super) fn flag(&mut self, key: &'static str, default: &str) -> Read<bool> {
        self.flag_or_word(key, default, |text| {
            env::truth(text).ok_or_else(|| Complaint::new("must be `true` or `false`"))
        })
    }

    /// Like `parsed`, where TOML's own `true` and `false` count as the words.
    pub(super) fn flag_or_word<T>(
        &mut self,
        key: &'static str,
        default: &str,
        parse: impl FnOnce(&str) -> Result<T, Complaint>,
    ) -> Read<T> {
        let Some(value) = self.take(key) else { return self.by_default(key, default, parse) };
        let text = match value.get_ref() {
            DeValue::Boolean(true) => "true".to_owned(),
            DeValue::Boolean(false) => "false".to_owned(),
            DeValue::String(_) => self.text_of(key, &value)?,
            other => return Err(self.mismatch(key, value.span().start, "a boolean", other)),
        };
        parse(&text).map_err(|complaint| self.complain(key, value.span().start, complaint))
    }

    /// Like `list`; where the file does not have the key, `defaults` are read as its entries.
    pub(super) fn list_or<T>(
        &mut self,
        key: &'static str,
        defaults: &[&str],
        parse: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Read<Vec<T>> {
        if self.table.contains_key(key) {
            return self.list(key, parse);
        }
        self.take(key);
        defaults.iter().map(|default| self.by_default(key, default, &parse)).collect()
    }

    /// The entries of a list of strings; none where the file does not have the key.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Read<Vec<T>> {
        let Some(value) = self.take(key) else { return Ok(Vec::new()) };
        match value.get_ref() {
            DeValue::Array(_) => self.entries(key, &value, parse),
            other => Err(self.mismatch(key, value.span().start, "an array of strings", other)),
        }
    }

    /// One string or a list with at least one; none where the file does not have the key.
    pub(super) fn one_or_more<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Read<Option<Vec<T>>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.get_ref() {
            DeValue::Array(array) if array.is_empty() => {
                Err(self.complain(key, value.span().start, Complaint::new("must not be empty")))
            }
            DeValue::Array(_) | DeValue::String(_) => self.entries(key, &value, parse).map(Some),
            other => Err(self.mismatch(key, value.span().start, "a string or an array of strings", other)),
        }
    }

    /// A table, read as empty where the file does not have it.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Reader<'f>) -> Read<T>,
    ) -> Read<T> {
        let entry = self.take_entry(key);
        let Some((at, value)) = entry else {
            return Reader::new(self.file, self.joined(key), self.at, DeTable::new()).run(read);
        };
        self.enter(key, at, value).and_then(|reader| reader.run(read))
    }

    /// A table, none where the file does not have it.
    pub(super) fn optional_table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Reader<'f>) -> Read<T>,
    ) -> Read<Option<T>> {
        let Some((at, value)) = self.take_entry(key) else { return Ok(None) };
        self.enter(key, at, value).and_then(|reader| reader.run(read)).map(Some)
    }

    /// A table of tables whose names the operator chose, in the order of their names.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&str, &mut Reader<'f>) -> Read<T>,
    ) -> Read<Vec<T>> {
        self.table(key, |reader| {
            let entries = std::mem::take(&mut reader.table);
            let read_all: Vec<Read<T>> = entries
                .into_iter()
                .map(|(name, value)| {
                    let inner = reader.enter(name.get_ref(), name.span().start, value)?;
                    inner.run(|inner| read(name.get_ref(), inner))
                })
                .collect();
            read_all.into_iter().collect()
        })
    }

    /// A table of strings whose names the operator chose, in the order of their names.
    pub(super) fn words<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str, &str) -> Result<T, Complaint>,
    ) -> Read<Vec<T>> {
        self.table(key, |reader| {
            let entries = std::mem::take(&mut reader.table);
            let read_all: Vec<Read<T>> = entries
                .into_iter()
                .map(|(name, value)| {
                    let text = reader.text_of(name.get_ref(), &value)?;
                    parse(name.get_ref(), &text)
                        .map_err(|complaint| reader.complain(name.get_ref(), value.span().start, complaint))
                })
                .collect();
            read_all.into_iter().collect()
        })
    }

    fn enter(&self, key: &str, at: usize, value: Spanned<DeValue<'f>>) -> Read<Reader<'f>> {
        let start = value.span().start;
        match value.into_inner() {
            DeValue::Table(table) => Ok(Reader::new(self.file, self.joined(key), Some(at), table)),
            other => Err(self.mismatch(key, start, "a table", &other)),
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<DeValue<'f>>> {
        self.take_entry(key).map(|(_, value)| value)
    }

    fn take_entry(&mut self, key: &'static str) -> Option<(usize, Spanned<DeValue<'f>>)> {
        let entry = self.table.remove_entry(key);
        let entry = entry.map(|(name, value)| (name.span().start, value));
        self.known.insert(key, entry.as_ref().map(|(at, _)| *at));
        #[cfg(test)]
        self.file.findings.known.borrow_mut().insert(self.joined(key), entry.is_some());
        entry
    }

    fn by_default<T>(
        &self,
        key: &str,
        default: &str,
        parse: impl FnOnce(&str) -> Result<T, Complaint>,
    ) -> Read<T> {
        env::expand(default, self.file.environment).and_then(|text| parse(&text)).map_err(|complaint| {
            let label = self.label(key);
            let sentence = format!("{label} (by default `{default}`) {}", complaint.sentence);
            self.note(self.at, sentence, complaint.hint)
        })
    }

    fn text_of(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Read<String> {
        let DeValue::String(text) = value.get_ref() else {
            return Err(self.mismatch(key, value.span().start, "a string", value.get_ref()));
        };
        env::expand(text, self.file.environment)
            .map_err(|complaint| self.complain(key, value.span().start, complaint))
    }

    fn entries<T>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        parse: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Read<Vec<T>> {
        let entries = value.get_ref().as_array().map_or(std::slice::from_ref(value), |array| array);
        let read: Vec<Read<T>> = entries
            .iter()
            .map(|entry| {
                let text = self.text_of(key, entry)?;
                parse(&text).map_err(|complaint| self.complain(key, entry.span().start, complaint))
            })
            .collect();
        read.into_iter().collect()
    }

    fn refuse_unknown_keys(&self) {
        for key in self.table.keys() {
            let known: Vec<String> = self.known.keys().map(|known| format!("`{known}`")).collect();
            let hint = match closest(key.get_ref(), self.known.keys().copied()) {
                Some(closest) => Some(format!("did you mean `{closest}`?")),
                None => (!known.is_empty()).then(|| format!("known here: {}", known.join(", "))),
            };
            let sentence = format!("{} is not a known key", self.label(key.get_ref()));
            self.note(Some(key.span().start), sentence, hint);
        }
    }

    fn complain(&self, key: &str, at: usize, complaint: Complaint) -> Reported {
        let sentence = format!("{} {}", self.label(key), complaint.sentence);
        self.note(Some(at), sentence, complaint.hint)
    }

    fn mismatch(&self, key: &str, at: usize, wanted: &str, found: &DeValue<'_>) -> Reported {
        let complaint = Complaint::new(format!("must be {wanted}, not {}", with_article(found.type_str())));
        let hint = match wanted {
            "a string" => "put it in quotes".to_owned(),
            "a boolean" => "write `true` or `false`".to_owned(),
            "a table" => format!("begin it with `[{}]`", printable(&self.joined(key))),
            _ => format!("write `{} = [\"…\"]`", printable(key)),
        };
        self.complain(key, at, complaint.with_hint(hint))
    }

    fn note(&self, at: Option<usize>, sentence: String, hint: Option<String>) -> Reported {
        self.file.findings.problem(self.file.note(at, sentence, hint))
    }

    fn place(&self, key: &str) -> Option<usize> {
        self.known.get(key).copied().flatten().or(self.at)
    }

    fn joined(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn label(&self, key: &str) -> String {
        // A quoted TOML key can hold anything; nothing that moves the cursor reaches a terminal.
        format!("`{}`", printable(&self.joined(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads one table of every kind and tells what was found or what is wrong with it.
    fn read(text: &str) -> Result<String, String> {
        let environment = Environment::from_pairs([("NUMBER", "7"), ("YES", "Yes"), ("LIST", "b")]);
        let findings = Findings::default();
        let file = File { name: "f", text, environment: &environment, findings: &findings };
        let found = file.read(|root| {
            let word = root.parsed("word", "${YES}", |text| Ok(text.to_owned()));
            let flag = root.flag("flag", "off");
            let count = root.size("count", 3, 0..=9);
            let list = root.list("list", |text| Ok(text.to_owned()));
            let some = root.one_or_more("some", |text| Ok(text.to_owned()));
            let inner = root.table("inner", |inner| inner.seconds("wait_secs", 1, 1..=2));
            let named = root.tables("named", |name, _| Ok(name.to_owned()));
            Ok((word?, flag?, count?, list?, some?, inner?, named?))
        });
        findings
            .conclude(found)
            .map(|(found, _)| format!("{found:?}"))
            .map_err(|problems| problems.to_string())
    }

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        assert_eq!(read(text).as_deref().map_err(String::as_str), expected, "{text}");
    }

    #[test]
    fn an_empty_file_has_the_defaults() {
        check("", Ok(r#"("Yes", false, 3, [], None, 1s, [])"#));
    }

    #[test]
    fn strings_of_the_environment_stand_in_for_numbers_and_booleans() {
        check(
            "word = 'a'\nflag = '${YES}'\ncount = '${NUMBER}'\nlist = ['a', '${LIST}']\nsome = 'x'\n\
             inner.wait_secs = 0x2\nnamed.b = {}\nnamed.a = {}",
            Ok(r#"("a", true, 7, ["a", "b"], Some(["x"]), 2s, ["a", "b"])"#),
        );
    }

    #[test]
    fn every_wrong_type_is_reported_with_its_line() {
        check(
            "word = 1\nflag = 2\ncount = 1.5\nlist = 'a'\nsome = []\ninner = [1]\nnamed = 1979-05-27",
            Err("f:1: `word` must be a string, not an integer\n  hint: put it in quotes\n\
                 f:2: `flag` must be a boolean, not an integer\n  hint: write `true` or `false`\n\
                 f:3: `count` must be a whole number from 0 to 9\n  hint: the default is 3\n\
                 f:4: `list` must be an array of strings, not a string\n  hint: write `list = [\"…\"]`\n\
                 f:5: `some` must not be empty\n\
                 f:6: `inner` must be a table, not an array\n  hint: begin it with `[inner]`\n\
                 f:7: `named` must be a table, not a datetime\n  hint: begin it with `[named]`"),
        );
        check(
            "list = [\n 'a',\n 1,\n '${NO}',\n]\nflag = 'maybe'\ncount = -1\nnamed.x = 1",
            Err("f:3: `list` must be a string, not an integer\n  hint: put it in quotes\n\
                 f:4: `list` needs `${NO}`, which is not set\n  \
                 hint: set it in the environment, or give a default: `${NO:-…}`\n\
                 f:6: `flag` must be `true` or `false`\n\
                 f:7: `count` must be a whole number from 0 to 9\n  hint: the default is 3\n\
                 f:8: `named.x` must be a table, not an integer\n  hint: begin it with `[named.x]`"),
        );
        check(
            "count = 99999999999999999999",
            Err("f:1: `count` must be a whole number from 0 to 9\n  hint: the default is 3"),
        );
    }

    #[test]
    fn unknown_keys_are_reported_with_the_known_ones() {
        check(
            "wrod = 'a'\n[inner]\nwait = 1\n[\"\\u001b[2J\"]\n[named.x]\nkey = 1",
            Err("f:1: `wrod` is not a known key\n  hint: did you mean `word`?\n\
                 f:3: `inner.wait` is not a known key\n  hint: known here: `wait_secs`\n\
                 f:4: `\\u{1b}[2J` is not a known key\n  \
                 hint: known here: `count`, `flag`, `inner`, `list`, `named`, `some`, `word`\n\
                 f:6: `named.x.key` is not a known key"),
        );
    }

    #[test]
    fn what_is_not_toml_is_one_problem_that_does_not_quote_the_line() {
        for text in ["\nword = hunter2", "\nword = \"hunter2", "\nhunter2", "\nword = 'a' hunter2"] {
            let problem = read(text).unwrap_err();
            assert!(problem.starts_with("f:2: this is not TOML: "), "{problem}");
            assert!(!problem.contains("hunter2") && !problem.contains('\n'), "{problem}");
        }
        check("word = 'a'\nword = 'b'", Err("f:2: this is not TOML: duplicate key"));
    }
}
