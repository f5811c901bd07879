//! The statements that read and change rows of the grant tables in SQLite.
//!
//! Decides which rows are of use and which row of a table is meant by a name. Never opens a transaction, and never
//! parses what it reads.

use futures_util::{Stream, TryStreamExt};
use sqlx::sqlite::SqliteRow;

use super::super::{
    GrantRow, Sink, Write,
    sealed::{self, Sealer},
    text::of_sqlite as text_of,
};

/// What a row of a statement's answer says.
type Read = for<'r> fn(&'r SqliteRow) -> sqlx::Result<GrantRow<'r>>;

/// All rows of all tables.
pub(super) const EVERY: &[(&str, Read)] = &[
    (
        "SELECT CAST(user_email AS text), CAST(tenant_id AS text) FROM user_tenant_access \
         WHERE user_email IS NOT NULL AND tenant_id IS NOT NULL",
        user,
    ),
    (
        "SELECT CAST(group_name AS text), CAST(tenant_id AS text) FROM group_tenant_mapping \
         WHERE group_name IS NOT NULL AND tenant_id IS NOT NULL",
        group,
    ),
    (
        "SELECT CAST(user_email AS text), CAST(group_name AS text) FROM user_group_membership \
         WHERE user_email IS NOT NULL AND group_name IS NOT NULL",
        membership,
    ),
    (
        "SELECT CAST(subject_kind AS text), CAST(subject AS text), CAST(tenant_id AS text), \
                CAST(tool_pattern AS text), CAST(effect AS text) FROM tool_rules",
        rule,
    ),
    (
        "SELECT CAST(tenant_id AS text), CAST(server_id AS text), coalesce(CAST(endpoint_url AS text), '') FROM tenant_endpoint_overrides \
         WHERE tenant_id IS NOT NULL AND server_id IS NOT NULL",
        endpoint,
    ),
    (
        "SELECT CAST(tenant_id AS text), CAST(server_id AS text), coalesce(CAST(endpoint_url AS text), '') FROM tenant_server_endpoints \
         WHERE tenant_id IS NOT NULL AND server_id IS NOT NULL",
        endpoint,
    ),
];

/// The rows about the users whose lowercased emails are in the JSON array `?1`.
pub(super) const OF_USERS: &[(&str, Read)] = &[
    (
        "SELECT CAST(user_email AS text), CAST(tenant_id AS text) FROM user_tenant_access \
         WHERE lower(user_email) IN (SELECT value FROM json_each(?1)) AND tenant_id IS NOT NULL",
        user,
    ),
    (
        "SELECT CAST(user_email AS text), CAST(group_name AS text) FROM user_group_membership \
         WHERE lower(user_email) IN (SELECT value FROM json_each(?1)) AND group_name IS NOT NULL",
        membership,
    ),
    (
        "SELECT CAST(subject_kind AS text), CAST(subject AS text), CAST(tenant_id AS text), \
                CAST(tool_pattern AS text), CAST(effect AS text) FROM tool_rules \
         WHERE subject_kind = 'user' AND lower(subject) IN (SELECT value FROM json_each(?1))",
        rule,
    ),
];

/// The rows about the groups whose names are in the JSON array `?1`.
pub(super) const OF_GROUPS: &[(&str, Read)] = &[
    (
        "SELECT CAST(group_name AS text), CAST(tenant_id AS text) FROM group_tenant_mapping \
         WHERE group_name IN (SELECT value FROM json_each(?1)) AND tenant_id IS NOT NULL",
        group,
    ),
    (
        "SELECT CAST(subject_kind AS text), CAST(subject AS text), CAST(tenant_id AS text), \
                CAST(tool_pattern AS text), CAST(effect AS text) FROM tool_rules \
         WHERE subject_kind = 'group' AND subject IN (SELECT value FROM json_each(?1))",
        rule,
    ),
    (
        "SELECT CAST(tenant_id AS text), CAST(server_id AS text), coalesce(CAST(endpoint_url AS text), '') FROM tenant_endpoint_overrides \
         WHERE tenant_id IN (SELECT value FROM json_each(?1)) AND server_id IS NOT NULL",
        endpoint,
    ),
    (
        "SELECT CAST(tenant_id AS text), CAST(server_id AS text), coalesce(CAST(endpoint_url AS text), '') FROM tenant_server_endpoints \
         WHERE tenant_id IN (SELECT value FROM json_each(?1)) AND server_id IS NOT NULL",
        endpoint,
    ),
];

/// All keys of tenants, as they are stored.
pub(super) const EVERY_KEY: &str = "\
    SELECT CAST(tenant_id AS text), CAST(server_id AS text), coalesce(CAST(key_name AS text), ''), coalesce(CAST(key_value AS text), '') FROM tenant_server_keys \
    WHERE tenant_id IS NOT NULL AND server_id IS NOT NULL";

/// The keys of the groups in the JSON array `?1`, as they are stored.
pub(super) const KEYS_OF_GROUPS: &str = "\
    SELECT CAST(tenant_id AS text), CAST(server_id AS text), coalesce(CAST(key_name AS text), ''), coalesce(CAST(key_value AS text), '') FROM tenant_server_keys \
    WHERE tenant_id IN (SELECT value FROM json_each(?1)) AND server_id IS NOT NULL";

fn user(row: &SqliteRow) -> sqlx::Result<GrantRow<'_>> {
    Ok(GrantRow::User { email: text_of(row, 0)?, server: text_of(row, 1)? })
}

fn group(row: &SqliteRow) -> sqlx::Result<GrantRow<'_>> {
    Ok(GrantRow::Group { group: text_of(row, 0)?, server: text_of(row, 1)? })
}

fn membership(row: &SqliteRow) -> sqlx::Result<GrantRow<'_>> {
    Ok(GrantRow::Membership { email: text_of(row, 0)?, group: text_of(row, 1)? })
}

fn rule(row: &SqliteRow) -> sqlx::Result<GrantRow<'_>> {
    Ok(GrantRow::Rule {
        kind: text_of(row, 0)?,
        subject: text_of(row, 1)?,
        server: text_of(row, 2)?,
        pattern: text_of(row, 3)?,
        effect: text_of(row, 4)?,
    })
}

fn endpoint(row: &SqliteRow) -> sqlx::Result<GrantRow<'_>> {
    Ok(GrantRow::Endpoint { group: text_of(row, 0)?, server: text_of(row, 1)?, url: text_of(row, 2)? })
}

/// Streams the rows of an answer into `sink`.
pub(super) async fn send(
    mut rows: impl Stream<Item = sqlx::Result<SqliteRow>> + Unpin,
    row_of: Read,
    sink: &mut Sink<'_>,
) -> sqlx::Result<()> {
    while let Some(row) = rows.try_next().await? {
        sink(row_of(&row)?);
    }
    Ok(())
}

/// Streams keys into `sink`, opened.
pub(super) async fn send_keys(
    mut rows: impl Stream<Item = sqlx::Result<SqliteRow>> + Unpin,
    sealer: &Sealer,
    sink: &mut Sink<'_>,
) -> sqlx::Result<()> {
    while let Some(row) = rows.try_next().await? {
        let [group, server, name] = [text_of(&row, 0)?, text_of(&row, 1)?, text_of(&row, 2)?];
        let opened = sealer.open(sealed::Row { group, server, name }, text_of(&row, 3)?);
        let value = opened.as_ref().map_err(|unreadable| *unreadable);
        sink(GrantRow::Key { group, server, name, value });
    }
    Ok(())
}

/// A row of [`EVERY_KEY`].
pub(super) fn stored_key(row: &SqliteRow) -> sqlx::Result<[String; 4]> {
    Ok([text_of(row, 0)?, text_of(row, 1)?, text_of(row, 2)?, text_of(row, 3)?].map(str::to_owned))
}

/// The statements that make a change; emails come in lowercased, and the stored row may differ in case.
pub(super) fn change(write: Write<'_>) -> &'static [&'static str] {
    match write {
        Write::GrantUser(..) => &["INSERT INTO user_tenant_access (user_email, tenant_id, access_level) \
             SELECT ?1, ?2, 'read' WHERE NOT EXISTS (SELECT 1 FROM user_tenant_access \
                 WHERE lower(user_email) = ?1 AND tenant_id = ?2)"],
        Write::RevokeUser(..) => {
            &["DELETE FROM user_tenant_access WHERE lower(user_email) = ?1 AND tenant_id = ?2"]
        }
        Write::GrantGroup(..) => &["INSERT INTO group_tenant_mapping (group_name, tenant_id) \
             SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM group_tenant_mapping \
                 WHERE group_name = ?1 AND tenant_id = ?2)"],
        Write::RevokeGroup(..) => {
            &["DELETE FROM group_tenant_mapping WHERE group_name = ?1 AND tenant_id = ?2"]
        }
        Write::JoinGroup(..) => &["INSERT INTO user_group_membership (user_email, group_name) \
             SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM user_group_membership \
                 WHERE lower(user_email) = ?1 AND group_name = ?2)"],
        Write::LeaveGroup(..) => {
            &["DELETE FROM user_group_membership WHERE lower(user_email) = ?1 AND group_name = ?2"]
        }
        Write::SetRule(..) => &[
            "UPDATE tool_rules SET effect = ?5 \
             WHERE effect <> ?5 AND subject_kind = ?1 AND (subject = ?2 OR ?1 = 'user' AND lower(subject) = ?2) \
                 AND tenant_id = ?3 AND tool_pattern = ?4",
            "INSERT INTO tool_rules (subject_kind, subject, tenant_id, tool_pattern, effect) \
             SELECT ?1, ?2, ?3, ?4, ?5 WHERE NOT EXISTS (SELECT 1 FROM tool_rules \
                 WHERE subject_kind = ?1 AND (subject = ?2 OR ?1 = 'user' AND lower(subject) = ?2) \
                 AND tenant_id = ?3 AND tool_pattern = ?4)",
        ],
        Write::RemoveRule(..) => &["DELETE FROM tool_rules \
             WHERE subject_kind = ?1 AND (subject = ?2 OR ?1 = 'user' AND lower(subject) = ?2) \
                 AND tenant_id = ?3 AND tool_pattern = ?4"],
        // An earlier gateway's table may have no key, so a second row may be there: all of them become the new one.
        Write::SetKey(..) => &[
            "DELETE FROM tenant_server_keys \
             WHERE tenant_id = ?1 AND server_id = ?2 AND key_name = ?3 AND ?4 IS NOT NULL",
            "INSERT INTO tenant_server_keys (tenant_id, server_id, key_name, key_value) \
             VALUES (?1, ?2, ?3, ?4)",
        ],
        Write::ReplaceKey(..) => &["UPDATE tenant_server_keys SET key_value = ?5 \
             WHERE tenant_id = ?1 AND server_id = ?2 AND key_name = ?3 AND key_value = ?4"],
        Write::DeleteKey(..) => {
            &["DELETE FROM tenant_server_keys WHERE tenant_id = ?1 AND server_id = ?2 AND key_name = ?3"]
        }
        Write::AddEndpoint(..) => {
            &["INSERT INTO tenant_endpoint_overrides (tenant_id, server_id, endpoint_url) \
             SELECT ?1, ?2, ?3 \
             WHERE NOT EXISTS (SELECT 1 FROM tenant_endpoint_overrides WHERE tenant_id = ?1 AND server_id = ?2) \
               AND NOT EXISTS (SELECT 1 FROM tenant_server_endpoints WHERE tenant_id = ?1 AND server_id = ?2)"]
        }
    }
}
