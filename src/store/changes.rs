//! What a reader of the change feed is told, and how it remembers its place.
//!
//! Decides when single changes are worth telling and when the reader had better read everything anew.
//! Never reads a row itself: `postgres` and `sqlite` do.

use std::collections::HashSet;

use super::text::Text;

/// Whose grants changed; the text is as somebody wrote it into the table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// Grants or memberships of this `user_email`.
    User(String),
    /// Grants of this `group_name`.
    Group(String),
}

/// What has happened to the grants since a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// No grant has changed.
    Nothing,
    /// Only grants of these have changed; each is named once.
    Subjects(Vec<Subject>),
    /// Anything may have changed: load all grants, and go on from that load's cursor.
    Everything,
}

/// A place in the change feed: all before it has been read.
#[derive(Debug, Clone)]
pub struct Cursor(pub(super) Place);

#[derive(Debug, Clone)]
pub(super) enum Place {
    Postgres(super::postgres::Place),
    Sqlite {
        /// Which opening of the file it was read through.
        opening: super::sqlite_file::Opening,
        /// Id of the last row read.
        last: i64,
    },
}

/// More subjects than this are read faster as part of everything; also bounds what one answer can hold.
const MOST_SUBJECTS: usize = 5_000;
/// How many rows of the feed are fetched at most: one more than are told, so that too many is noticed.
pub(super) const MOST_ROWS: i64 = MOST_SUBJECTS as i64 + 1;

/// Turns `(kind, subject)` rows of the feed into what the reader is told.
pub(super) fn gather(rows: Vec<(Text, Text)>) -> Changes {
    // Rows, not subjects: what was fetched ends at `MOST_ROWS`, whatever is left out of it here.
    if rows.len() > MOST_SUBJECTS {
        return Changes::Everything;
    }
    let mut subjects = HashSet::new();
    for (kind, subject) in rows {
        let subject = match (kind.readable().as_deref(), subject) {
            (Some("user"), Text::Is(email)) => Subject::User(email),
            (Some("group"), Text::Is(group)) => Subject::Group(group),
            // What is no text is nobody's name: nobody has lost or gained anything.
            (Some("user" | "group"), Text::Malformed) => continue,
            // Too many to name, or a kind that only a newer gateway knows.
            _ => return Changes::Everything,
        };
        subjects.insert(subject);
    }
    if subjects.is_empty() {
        return Changes::Nothing;
    }
    Changes::Subjects(subjects.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rows: &[(&str, Option<&str>)], expected: Changes) {
        let text = |text: Option<&str>| text.map_or(Text::Absent, |text| Text::Is(text.to_owned()));
        let rows = rows.iter().map(|(kind, subject)| (text(Some(kind)), text(*subject)));
        assert_eq!(gather(rows.collect()), expected);
    }

    #[test]
    fn each_subject_is_named_once() {
        check(&[], Changes::Nothing);
        check(
            &[("user", Some("a@x")), ("user", Some("a@x"))],
            Changes::Subjects(vec![Subject::User("a@x".into())]),
        );
        check(&[("group", Some("A"))], Changes::Subjects(vec![Subject::Group("A".into())]));
    }

    #[test]
    fn what_cannot_be_named_is_everything() {
        check(&[("user", Some("a@x")), ("user", None)], Changes::Everything);
        check(&[("server", Some("github"))], Changes::Everything);
        let many: Vec<String> = (0..=MOST_SUBJECTS).map(|n| format!("{n}@x")).collect();
        check(
            &many.iter().map(|email| ("user", Some(email.as_str()))).collect::<Vec<_>>(),
            Changes::Everything,
        );
    }
}
