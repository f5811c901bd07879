//! store (being written)
use crate::names::Secret;

/// Which database, and how it is used.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `postgres://…` or `sqlite:PATH`.
    pub url: DatabaseUrl,
    /// Schema of our tables (Postgres only).
    pub schema: String,
    /// Whether `run` brings the schema up to date by itself.
    pub auto_migrate: bool,
}

/// A database address whose scheme has been recognised.
#[derive(Debug, Clone)]
pub enum DatabaseUrl {
    /// `postgres://` or `postgresql://`; holds a password, so it does not print.
    Postgres(Secret<String>),
    /// The file of an embedded SQLite database.
    Sqlite(std::path::PathBuf),
}
