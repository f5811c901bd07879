//! API keys of Open WebUI (`sk-…`): whose they are, and whether its settings let them be used.
//!
//! Decides what of the table `api_key`, of the settings and of the groups counts. What cannot be read is taken as the
//! stricter. Never decides about a caller: `identity` does.

use anyhow::Context;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, SqliteConnection};

use super::{
    ANSWER,
    openwebui::{Instance, OpenWebUi, Shape},
    text::Text,
    within,
};

/// An API key as Open WebUI's tables have it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The id of its row: the key itself is kept nowhere.
    pub row: String,
    /// SHA-256 of the key.
    pub sha256: [u8; 32],
    /// The id of the user it acts for.
    pub user: String,
    /// When it expires, in seconds since 1970. Open WebUI has the column and does not look at it.
    pub expires: Option<i64>,
    /// What Open WebUI's settings say of its use.
    pub usage: Usage,
}

/// What Open WebUI's settings say of API keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Whether they are switched on (`auth.enable_api_keys`).
    pub is_on: bool,
    /// Whether they are good for some of Open WebUI's own endpoints alone (`auth.api_key.endpoint_restrictions`).
    pub is_restricted: bool,
    /// Whether the user's groups or everybody's permissions have `features.api_keys`; admins need neither.
    pub is_permitted: bool,
}

/// How many keys one query asks for.
const CHUNK: usize = 1_000;
/// The settings that count.
const SETTINGS: [&str; 3] =
    ["auth.enable_api_keys", "auth.api_key.endpoint_restrictions", "user.permissions"];

/// `id, user_id, key, expires_at`.
type KeyRow = (Text, Text, Text, Option<i64>);
/// A setting and its value as JSON, or a user and the permissions of a group of theirs.
type Pair = (Text, Text);
/// Keys, settings, permissions of groups.
type Rows = (Vec<KeyRow>, Vec<Pair>, Vec<Pair>);

/// What keys are looked for by.
#[derive(Debug, Clone, Copy)]
enum By {
    Key,
    Row,
}

impl OpenWebUi {
    /// The rows of these keys; those it does not have are missing from the answer.
    pub async fn api_keys(&self, keys: &[&str]) -> anyhow::Result<Vec<ApiKey>> {
        self.read_api_keys(By::Key, keys).await
    }

    /// These rows as they are now, whatever key stands in them; those that are gone are missing from the answer.
    pub async fn api_keys_in(&self, rows: &[&str]) -> anyhow::Result<Vec<ApiKey>> {
        self.read_api_keys(By::Row, rows).await
    }

    async fn read_api_keys(&self, by: By, values: &[&str]) -> anyhow::Result<Vec<ApiKey>> {
        let mut keys = Vec::with_capacity(values.len());
        for chunk in values.chunks(CHUNK) {
            let rows = within(ANSWER, self.rows_of_keys(by, chunk)).await;
            keys.extend(assemble(rows.context("could not read the API keys of Open WebUI")?));
        }
        Ok(keys)
    }

    /// Reads keys, settings and permissions as of one instant.
    async fn rows_of_keys(&self, by: By, values: &[&str]) -> anyhow::Result<Rows> {
        let (instance, shape) = self.begin().await?;
        if !shape.has_api_keys {
            return Ok(Rows::default());
        }
        match instance {
            Instance::Postgres(mut transaction) => {
                let rows = postgres_rows(&mut transaction, shape, by, values).await?;
                transaction.commit().await?;
                Ok(rows)
            }
            Instance::Sqlite(mut transaction) => {
                let rows = sqlite_rows(&mut transaction, shape, by, &serde_json::to_string(values)?).await?;
                transaction.commit().await?;
                Ok(rows)
            }
        }
    }
}

/// Makes keys of rows; what is malformed is left out.
fn assemble((rows, settings, permissions): Rows) -> Vec<ApiKey> {
    let setting = |wanted: &str| {
        let found = settings.iter().find(|(key, _)| *key == Text::Is(wanted.to_owned()));
        found.map_or(&Text::Absent, |(_, value)| value)
    };
    let is_for_all = permits(setting("user.permissions"));
    let usage = Usage {
        is_on: matches!(setting("auth.enable_api_keys"), Text::Is(value) if value.trim() == "true"),
        is_restricted: match setting("auth.api_key.endpoint_restrictions") {
            Text::Absent => false,
            Text::Malformed => true,
            Text::Is(value) => !matches!(value.trim(), "false" | "null"),
        },
        is_permitted: false,
    };
    let is_permitted = |user: &str| {
        let user = Text::Is(user.to_owned());
        is_for_all || permissions.iter().any(|(id, permissions)| *id == user && permits(permissions))
    };
    let key = |(row, user, key, expires): KeyRow| {
        let (row, user, key) = (row.readable()?, user.readable()?, key.readable()?);
        let usage = Usage { is_permitted: is_permitted(&user), ..usage };
        Some(ApiKey { row, sha256: Sha256::digest(key).into(), user, expires, usage })
    };
    rows.into_iter().filter_map(key).collect()
}

/// Whether permissions, as Open WebUI writes them, have `features.api_keys`.
fn permits(permissions: &Text) -> bool {
    #[derive(Default, Deserialize)]
    struct Permissions {
        #[serde(default)]
        features: Features,
    }
    #[derive(Default, Deserialize)]
    struct Features {
        #[serde(default)]
        api_keys: bool,
    }
    match permissions {
        Text::Is(json) => serde_json::from_slice::<Permissions>(json.as_bytes())
            .is_ok_and(|permissions| permissions.features.api_keys),
        Text::Absent | Text::Malformed => false,
    }
}

async fn postgres_rows(
    connection: &mut PgConnection,
    shape: Shape,
    by: By,
    values: &[&str],
) -> sqlx::Result<Rows> {
    let keys = match by {
        By::Key => {
            "SELECT id::text, user_id::text, key::text, expires_at::bigint FROM api_key WHERE key = ANY($1)"
        }
        By::Row => {
            "SELECT id::text, user_id::text, key::text, expires_at::bigint FROM api_key WHERE id = ANY($1)"
        }
    };
    let keys: Vec<KeyRow> = sqlx::query_as(keys).bind(values).fetch_all(&mut *connection).await?;
    let settings = "SELECT key::text, value::text FROM config WHERE key = ANY($1)";
    let settings = sqlx::query_as(settings).bind(&SETTINGS[..]).fetch_all(&mut *connection).await?;
    if keys.is_empty() || !shape.has_members {
        return Ok((keys, settings, Vec::new()));
    }
    let permissions = if shape.has_parents {
        "WITH RECURSIVE held (user_id, group_id) AS ( \
             SELECT user_id::text, group_id::text FROM group_member WHERE user_id = ANY($1) \
             UNION \
             SELECT held.user_id, g.parent_group_id::text FROM held JOIN \"group\" AS g ON g.id = held.group_id \
             WHERE g.parent_group_id IS NOT NULL \
         ) SELECT held.user_id, g.permissions::text FROM held JOIN \"group\" AS g ON g.id = held.group_id"
    } else {
        "SELECT m.user_id::text, g.permissions::text FROM group_member AS m \
         JOIN \"group\" AS g ON g.id = m.group_id WHERE m.user_id = ANY($1)"
    };
    let permissions = sqlx::query_as(permissions).bind(users_of(&keys)).fetch_all(connection).await?;
    Ok((keys, settings, permissions))
}

async fn sqlite_rows(
    connection: &mut SqliteConnection,
    shape: Shape,
    by: By,
    values: &str,
) -> sqlx::Result<Rows> {
    // SQLite keeps a text in a number's column where somebody writes one: such a key has expired.
    let keys = match by {
        By::Key => {
            "SELECT id, user_id, key, CASE WHEN typeof(expires_at) IN ('integer', 'null') THEN expires_at ELSE 0 END \
             FROM api_key WHERE key IN (SELECT value FROM json_each(?1))"
        }
        By::Row => {
            "SELECT id, user_id, key, CASE WHEN typeof(expires_at) IN ('integer', 'null') THEN expires_at ELSE 0 END \
             FROM api_key WHERE id IN (SELECT value FROM json_each(?1))"
        }
    };
    let keys: Vec<KeyRow> = sqlx::query_as(keys).bind(values).fetch_all(&mut *connection).await?;
    let json =
        |list: &[String]| serde_json::to_string(list).map_err(|error| sqlx::Error::Encode(error.into()));
    let settings =
        "SELECT key, CAST(value AS TEXT) FROM config WHERE key IN (SELECT value FROM json_each(?1))";
    let wanted = json(&SETTINGS.map(String::from))?;
    let settings = sqlx::query_as(settings).bind(wanted).fetch_all(&mut *connection).await?;
    if keys.is_empty() || !shape.has_members {
        return Ok((keys, settings, Vec::new()));
    }
    let permissions = if shape.has_parents {
        "WITH RECURSIVE held (user_id, group_id) AS ( \
             SELECT user_id, group_id FROM group_member WHERE user_id IN (SELECT value FROM json_each(?1)) \
             UNION \
             SELECT held.user_id, g.parent_group_id FROM held JOIN \"group\" AS g ON g.id = held.group_id \
             WHERE g.parent_group_id IS NOT NULL \
         ) SELECT held.user_id, CAST(g.permissions AS TEXT) FROM held JOIN \"group\" AS g ON g.id = held.group_id"
    } else {
        "SELECT m.user_id, CAST(g.permissions AS TEXT) FROM group_member AS m \
         JOIN \"group\" AS g ON g.id = m.group_id WHERE m.user_id IN (SELECT value FROM json_each(?1))"
    };
    let users = json(&users_of(&keys))?;
    let permissions = sqlx::query_as(permissions).bind(users).fetch_all(connection).await?;
    Ok((keys, settings, permissions))
}

fn users_of(keys: &[KeyRow]) -> Vec<String> {
    keys.iter().filter_map(|(_, user, ..)| user.clone().readable()).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::scratch::{Scratch, on_ascii_postgres, on_both, on_sqlite},
        *,
    };

    const DDL: &str = include_str!("../../tests/fixtures/openwebui-0.12.4.sql");
    const PEOPLE: &str = r#"
        INSERT INTO "user" (id, email, role) VALUES ('jane', 'jane@x.org', 'user'), ('joe', 'joe@x.org', 'user');
        INSERT INTO api_key (id, user_id, key, expires_at, created_at, updated_at) VALUES
            ('key_jane', 'jane', 'sk-jane', NULL, 1, 1), ('key_joe', 'joe', 'sk-joe', 1795000000, 1, 1),
            ('key_none', NULL, 'sk-none', NULL, 1, 1);
        INSERT INTO config (key, value) VALUES ('auth.enable_api_keys', 'true'),
            ('auth.api_key.endpoint_restrictions', 'false'), ('user.permissions', '{"features": {"api_keys": false}}');
        INSERT INTO "group" (id, name, parent_group_id, permissions) VALUES
            ('top', 'Company', NULL, '{"chat": {}, "features": {"api_keys": true, "notes": false}}'),
            ('leaf', 'Engineering', 'top', '{"features": {}}');
        INSERT INTO group_member (id, group_id, user_id) VALUES ('1', 'leaf', 'jane');
    "#;

    async fn openwebui(scratch: &Scratch) -> OpenWebUi {
        scratch.execute(DDL).await;
        scratch.execute(PEOPLE).await;
        OpenWebUi::open(&scratch.settings.url, "public").unwrap()
    }

    fn usage([is_on, is_restricted, is_permitted]: [bool; 3]) -> Usage {
        Usage { is_on, is_restricted, is_permitted }
    }

    /// What the settings say of this key.
    async fn usage_of(openwebui: &OpenWebUi, key: &str) -> Usage {
        let keys = openwebui.api_keys(&[key]).await.unwrap();
        assert_eq!(keys.len(), 1, "{key}");
        keys[0].usage
    }

    #[tokio::test]
    async fn a_key_is_its_row_and_what_settings_and_groups_say() {
        on_both(async |scratch| {
            let openwebui = openwebui(&scratch).await;
            let mut keys =
                openwebui.api_keys(&["sk-jane", "sk-joe", "sk-none", "sk-unknown", ""]).await.unwrap();
            keys.sort_by(|one, other| one.row.cmp(&other.row));
            let key = |row: &str, user: &str, key: &str, expires, is_permitted| ApiKey {
                row: row.into(),
                sha256: Sha256::digest(key).into(),
                user: user.into(),
                expires,
                usage: usage([true, false, is_permitted]),
            };
            let jane = key("key_jane", "jane", "sk-jane", None, true);
            let joe = key("key_joe", "joe", "sk-joe", Some(1_795_000_000), false);
            assert_eq!(keys, [jane.clone(), joe]);
            assert_eq!(openwebui.api_keys_in(&["key_jane", "key_gone"]).await.unwrap(), [jane]);

            // Open WebUI makes a new key in the row of the old one.
            scratch.execute("UPDATE api_key SET key = 'sk-new' WHERE id = 'key_jane'").await;
            assert!(openwebui.api_keys(&["sk-jane"]).await.unwrap().is_empty());
            let now = openwebui.api_keys_in(&["key_jane"]).await.unwrap();
            assert_eq!(now[0].sha256[..], Sha256::digest("sk-new")[..]);
        })
        .await;
    }

    #[tokio::test]
    async fn what_the_settings_do_not_say_is_no() {
        on_both(async |scratch| {
            let openwebui = openwebui(&scratch).await;
            let jane = async || usage_of(&openwebui, "sk-jane").await;
            let joe = async || usage_of(&openwebui, "sk-joe").await;
            let set = async |key: &str, value: &str| {
                scratch.execute(&format!("UPDATE config SET value = '{value}' WHERE key = '{key}'")).await;
            };
            set("user.permissions", r#"{"features": {"api_keys": true}}"#).await;
            assert_eq!(joe().await, usage([true, false, true]), "everybody may");
            for value in [r#"{"features": {"api_keys": "yes"}}"#, r#"{"features": []}"#, "{}", "1"] {
                set("user.permissions", value).await;
                assert_eq!(joe().await, usage([true, false, false]), "{value}");
            }
            scratch.execute("UPDATE \"group\" SET parent_group_id = NULL").await;
            assert_eq!(jane().await, usage([true, false, false]), "the group above is gone");
            for (value, is_restricted) in [("null", false), ("true", true), (r#""no""#, true)] {
                set("auth.api_key.endpoint_restrictions", value).await;
                assert_eq!(jane().await, usage([true, is_restricted, false]), "{value}");
            }
            for value in ["false", "null", r#""true""#, "1"] {
                set("auth.enable_api_keys", value).await;
                assert_eq!(jane().await, usage([false, true, false]), "{value}");
            }
            scratch.execute("DELETE FROM config").await;
            assert_eq!(jane().await, Usage::default());
        })
        .await;
    }

    #[tokio::test]
    async fn a_version_without_the_table_has_no_keys() {
        for missing in
            ["DROP TABLE api_key", "DROP TABLE config", "ALTER TABLE \"group\" DROP COLUMN permissions"]
        {
            on_both(async |scratch| {
                let openwebui = openwebui(&scratch).await;
                scratch.execute(missing).await;
                assert!(openwebui.api_keys(&["sk-jane"]).await.unwrap().is_empty(), "{missing}");
            })
            .await;
        }
        on_both(async |scratch| {
            let openwebui = openwebui(&scratch).await;
            scratch.execute("DROP TABLE group_member").await;
            assert_eq!(usage_of(&openwebui, "sk-jane").await, usage([true, false, false]));
        })
        .await;
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_read_is_taken_as_the_stricter() {
        on_sqlite(async |scratch| {
            let openwebui = openwebui(&scratch).await;
            scratch.execute("UPDATE api_key SET expires_at = 'never' WHERE id = 'key_jane'").await;
            let keys = openwebui.api_keys(&["sk-jane"]).await.unwrap();
            assert_eq!(keys[0].expires, Some(0));
            scratch
                .execute(
                    "UPDATE api_key SET user_id = cast(x'ff' as text) WHERE id = 'key_jane';
                    UPDATE config SET value = cast(x'ff' as text);",
                )
                .await;
            assert!(openwebui.api_keys(&["sk-jane"]).await.unwrap().is_empty());
            assert_eq!(usage_of(&openwebui, "sk-joe").await, usage([false, true, false]));
        })
        .await;
        on_ascii_postgres(async |scratch| {
            let openwebui = openwebui(&scratch).await;
            scratch.execute("ALTER TABLE api_key DROP CONSTRAINT api_key_user_id_fkey").await;
            scratch.execute(r"UPDATE api_key SET user_id = E'\xff' WHERE id = 'key_jane'").await;
            assert!(openwebui.api_keys(&["sk-jane"]).await.unwrap().is_empty());
        })
        .await;
    }
}
