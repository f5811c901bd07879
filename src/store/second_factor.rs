//! Open WebUI's second factor: whether its settings demand one, and which users have one.
//!
//! Decides nothing: `identity` holds a session token against it, as Open WebUI itself does.

use std::collections::HashSet;

use sqlx::{PgConnection, SqliteConnection};

use super::text::Text;

/// Whether Open WebUI demands a second factor of a user, and whether they have set one up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SecondFactor {
    /// `auth.mfa.enable` of Open WebUI's settings.
    pub is_demanded: bool,
    /// `auth.mfa.allow_oauth_bypass`: not of those who signed in with OAuth.
    pub is_oauth_exempt: bool,
    /// `auth.mfa.allow_trusted_header_bypass`: not of those a trusted header signed in.
    pub is_trusted_header_exempt: bool,
    /// Whether this user has one, and need not set it up again.
    pub is_set_up: bool,
}

/// The settings, and who has a second factor.
#[derive(Debug, Default)]
pub(super) struct Factors {
    settings: SecondFactor,
    set_up: HashSet<String>,
}

impl Factors {
    /// What goes for this user.
    pub(super) fn of(&self, id: &str) -> SecondFactor {
        SecondFactor { is_set_up: self.set_up.contains(id), ..self.settings }
    }

    fn new(settings: Vec<(Text, Text)>) -> Self {
        let has = |wanted: &str, expected: Text| {
            let wanted = Text::Is(wanted.to_owned());
            settings.iter().any(|(key, value)| *key == wanted && *value == expected)
        };
        let is_on = |wanted| has(wanted, Text::Is("true".to_owned()));
        let settings = SecondFactor {
            // What can't be read may have been a demand.
            is_demanded: is_on("auth.mfa.enable") || has("auth.mfa.enable", Text::Malformed),
            is_oauth_exempt: is_on("auth.mfa.allow_oauth_bypass"),
            is_trusted_header_exempt: is_on("auth.mfa.allow_trusted_header_bypass"),
            is_set_up: false,
        };
        Self { settings, set_up: HashSet::new() }
    }
}

/// Reads them from Postgres.
pub(super) async fn postgres(connection: &mut PgConnection, ids: &[String]) -> sqlx::Result<Factors> {
    let settings = "SELECT key::text, value::text FROM config WHERE key LIKE 'auth.mfa.%'";
    let mut factors = Factors::new(sqlx::query_as(settings).fetch_all(&mut *connection).await?);
    if factors.settings.is_demanded {
        let set_up = "SELECT id::text FROM auth WHERE id = ANY($1) AND mfa ->> 'secret' <> '' \
                      AND coalesce(mfa ->> 'reset_required', 'false') = 'false'";
        let ids: Vec<Text> = sqlx::query_scalar(set_up).bind(ids).fetch_all(connection).await?;
        factors.set_up = ids.into_iter().filter_map(Text::readable).collect();
    }
    Ok(factors)
}

/// Reads them from SQLite; `ids` is a JSON array.
pub(super) async fn sqlite(connection: &mut SqliteConnection, ids: &str) -> sqlx::Result<Factors> {
    let settings = "SELECT key, CAST(value AS TEXT) FROM config WHERE key LIKE 'auth.mfa.%'";
    let mut factors = Factors::new(sqlx::query_as(settings).fetch_all(&mut *connection).await?);
    if factors.settings.is_demanded {
        let set_up = "SELECT id FROM auth WHERE id IN (SELECT value FROM json_each(?1)) \
                      AND CASE WHEN json_valid(mfa) THEN mfa ->> '$.secret' <> '' \
                          AND coalesce(mfa ->> '$.reset_required', 0) = 0 END";
        let ids: Vec<Text> = sqlx::query_scalar(set_up).bind(ids).fetch_all(connection).await?;
        factors.set_up = ids.into_iter().filter_map(Text::readable).collect();
    }
    Ok(factors)
}
