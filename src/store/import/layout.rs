//! How a table is asked for its rows, given the columns it has: further ones are left alone, some may be missing.
//!
//! Decides whether it can be read at all, and says why it cannot. Never asks a database.

use super::tables::{SWITCHES, Switch, Table};

/// What databases say differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Postgres,
    Sqlite,
}

/// A table or view that has one of the names.
pub(super) struct Relation {
    /// Its name, quoted by the database where it needs to be.
    pub quoted: String,
    pub oid: Option<i64>,
    /// What tells where a row stands.
    pub place: Option<&'static str>,
}

/// A column of it.
pub(super) struct Column {
    pub name: String,
    pub is_text: bool,
    /// Its type, for a sentence.
    pub kind: String,
    pub may_read: bool,
}

/// What was found under the name of a table.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Readable(Layout),
    /// It is there and cannot be read, for this reason.
    Unreadable(String),
}

/// How a table is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Asks for place, three needed columns, the optional one, and the column that switches the row off.
    pub statement: String,
    pub oid: Option<i64>,
    pub unread_columns: Vec<String>,
}

/// Says how a table is read.
pub(super) fn layout(dialect: Dialect, table: Table, relation: &Relation, columns: &[Column]) -> Found {
    let column = |name: &str| columns.iter().find(|column| column.name == name);
    let mut troubles = Vec::new();
    let mut fields = Vec::new();
    for needed in table.needed() {
        match column(needed) {
            None => troubles.push(format!("it has no column `{needed}`")),
            Some(found) if !found.is_text => {
                troubles.push(format!("its column `{needed}` is {}, and not text", found.kind));
            }
            Some(_) => {}
        }
        fields.push(dialect.field(needed));
    }
    fields.resize(3, dialect.absent().to_owned());
    let optional = table.optional().filter(|name| column(name).is_some());
    fields.push(optional.map_or_else(|| dialect.absent().to_owned(), |name| dialect.field(name)));
    let switches: Vec<_> = SWITCHES.iter().filter(|(name, _)| column(name).is_some()).collect();
    let is_read = |name: &str| {
        table.needed().contains(&name)
            || optional == Some(name)
            || switches.iter().any(|(switch, _)| *switch == name)
    };
    for forbidden in columns.iter().filter(|column| !column.may_read && is_read(&column.name)) {
        troubles.push(format!(
            "its column `{}` may not be read: grant SELECT on it and USAGE on its schema",
            forbidden.name
        ));
    }
    if !troubles.is_empty() {
        return Found::Unreadable(troubles.join("; "));
    }
    let off = switched_off(dialect, switches.iter().map(|switch| **switch));
    let place = relation.place.unwrap_or(dialect.absent());
    // All of it is ours but the name, which the database itself has quoted.
    let statement = format!("SELECT {place}, {}, {off} FROM {}", fields.join(", "), relation.quoted);
    let unread = columns.iter().filter(|column| !is_read(&column.name)).map(|column| column.name.clone());
    Found::Readable(Layout { statement, oid: relation.oid, unread_columns: unread.collect() })
}

impl Dialect {
    const fn absent(self) -> &'static str {
        match self {
            Self::Postgres => "NULL::text",
            Self::Sqlite => "NULL",
        }
    }

    /// A column as it is.
    fn field(self, name: &str) -> String {
        match self {
            Self::Postgres => format!("\"{name}\"::text"),
            // As it is: what is no text in SQLite must not look like some.
            Self::Sqlite => format!("\"{name}\""),
        }
    }

    /// A column in letters.
    fn word(self, name: &str) -> String {
        match self {
            Self::Postgres => format!("lower(\"{name}\"::text)"),
            Self::Sqlite => format!("lower(CAST(\"{name}\" AS text))"),
        }
    }
}

/// The name of the first column that switches a row off.
fn switched_off(dialect: Dialect, switches: impl Iterator<Item = (&'static str, Switch)>) -> String {
    let cases: Vec<String> = switches
        .map(|(name, switch)| {
            let word = dialect.word(name);
            let is_off = match switch {
                Switch::UnlessTrue => {
                    format!("coalesce({word}, '') NOT IN ('true', 't', '1', 'yes', 'y', 'on')")
                }
                Switch::UnlessFalse => {
                    format!("coalesce({word}, '') NOT IN ('false', 'f', '0', 'no', 'n', 'off', '')")
                }
                Switch::WhenSet => format!("\"{name}\" IS NOT NULL"),
            };
            format!("WHEN {is_off} THEN '{name}'")
        })
        .collect();
    if cases.is_empty() {
        return dialect.absent().to_owned();
    }
    format!("CASE {} END", cases.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(names: &[&str]) -> Vec<Column> {
        let column = |name: &&str| Column {
            name: (*name).to_owned(),
            is_text: *name != "key_value",
            kind: "bytea".to_owned(),
            may_read: *name != "is_active",
        };
        names.iter().map(column).collect()
    }

    fn found(table: Table, names: &[&str]) -> Found {
        let relation = Relation { quoted: "public.it".to_owned(), oid: Some(1), place: Some("ctid::text") };
        layout(Dialect::Postgres, table, &relation, &columns(names))
    }

    #[test]
    fn a_statement_has_what_the_table_has() {
        let plain = Found::Readable(Layout {
            statement:
                "SELECT ctid::text, \"group_name\"::text, \"tenant_id\"::text, NULL::text, NULL::text, \
                        NULL::text FROM public.it"
                    .to_owned(),
            oid: Some(1),
            unread_columns: vec!["created_at".to_owned()],
        });
        assert_eq!(found(Table::GroupMapping, &["group_name", "created_at", "tenant_id"]), plain);
        let Found::Readable(with_switches) =
            found(Table::UserAccess, &["user_email", "tenant_id", "access_level", "enabled", "revoked_at"])
        else {
            panic!("it can be read");
        };
        assert!(with_switches.unread_columns.is_empty());
        let off = "CASE WHEN coalesce(lower(\"enabled\"::text), '') NOT IN ('true', 't', '1', 'yes', 'y', 'on') \
                   THEN 'enabled' WHEN \"revoked_at\" IS NOT NULL THEN 'revoked_at' END FROM public.it";
        assert!(with_switches.statement.ends_with(off), "{}", with_switches.statement);
    }

    #[test]
    fn a_table_that_cannot_be_read_whole_says_everything_that_is_wrong() {
        let Found::Unreadable(reason) = found(Table::Keys, &["tenant_id", "key_value", "is_active"]) else {
            panic!("it cannot be read");
        };
        for words in ["no column `server_id`", "`key_value` is bytea", "`is_active` may not be read"] {
            assert!(reason.contains(words), "{words}: {reason}");
        }
    }
}
