//! Texts as a database hands them out, which need not be UTF-8: SQLite keeps any bytes, and so does Postgres where its
//! encoding is `SQL_ASCII`.
//!
//! Decides that such a text costs its own row and nothing else. Never mends one: a mended text could be somebody's name.

use sqlx::{
    Decode, Postgres, Row, Sqlite, Type, TypeInfo, ValueRef,
    error::BoxDynError,
    postgres::{PgRow, PgTypeInfo, PgValueRef},
    sqlite::{SqliteRow, SqliteTypeInfo, SqliteValueRef},
};

/// The value of a text column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Text {
    Absent,
    /// Bytes that are not UTF-8, or no text at all.
    Malformed,
    Is(String),
}

impl Text {
    /// The text, where there is one that can be read.
    pub(super) fn readable(self) -> Option<String> {
        match self {
            Self::Is(text) => Some(text),
            Self::Absent | Self::Malformed => None,
        }
    }

    fn new(bytes: &[u8]) -> Self {
        std::str::from_utf8(bytes).map_or(Self::Malformed, |text| Self::Is(text.to_owned()))
    }
}

impl Type<Sqlite> for Text {
    fn type_info() -> SqliteTypeInfo {
        <str as Type<Sqlite>>::type_info()
    }

    // A column holds values of any type, whatever its own is.
    fn compatible(_: &SqliteTypeInfo) -> bool {
        true
    }
}

impl<'r> Decode<'r, Sqlite> for Text {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        if value.is_null() {
            return Ok(Self::Absent);
        }
        if value.type_info().name() != "TEXT" {
            return Ok(Self::Malformed);
        }
        <&[u8] as Decode<Sqlite>>::decode(value).map(Self::new)
    }
}

impl Type<Postgres> for Text {
    fn type_info() -> PgTypeInfo {
        <str as Type<Postgres>>::type_info()
    }

    fn compatible(kind: &PgTypeInfo) -> bool {
        <str as Type<Postgres>>::compatible(kind)
    }
}

impl<'r> Decode<'r, Postgres> for Text {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        if value.is_null() {
            return Ok(Self::Absent);
        }
        value.as_bytes().map(Self::new)
    }
}

/// Lends a text of a row of SQLite; one that is not UTF-8 is the empty text, which no name parses from.
pub(super) fn of_sqlite(row: &SqliteRow, at: usize) -> sqlx::Result<&str> {
    row.try_get::<&[u8], _>(at).map(lend)
}

/// Lends a text of a row of Postgres; one that is not UTF-8 is the empty text, which no name parses from.
pub(super) fn of_postgres(row: &PgRow, at: usize) -> sqlx::Result<&str> {
    row.try_get_raw(at)?.as_bytes().map(lend).map_err(sqlx::Error::Decode)
}

fn lend(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}
