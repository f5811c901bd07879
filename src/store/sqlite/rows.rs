//! The statements that read and change rows of the grant tables in SQLite.
//!
//! Decides which rows are of use and which row of a table is meant by a name. Never opens a transaction, and never
//! parses what it reads.

use futures_util::{Stream, TryStreamExt};
use sqlx::sqlite::SqliteRow;

use super::super::{GrantRow, Sink, Write, text::of_sqlite as text_of};

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
];

/// The rows about the groups whose names are in the JSON array `?1`.
pub(super) const OF_GROUPS: &[(&str, Read)] = &[(
    "SELECT CAST(group_name AS text), CAST(tenant_id AS text) FROM group_tenant_mapping \
     WHERE group_name IN (SELECT value FROM json_each(?1)) AND tenant_id IS NOT NULL",
    group,
)];

fn user(row: &SqliteRow) -> sqlx::Result<GrantRow<'_>> {
    Ok(GrantRow::User { email: text_of(row, 0)?, server: text_of(row, 1)? })
}

fn group(row: &SqliteRow) -> sqlx::Result<GrantRow<'_>> {
    Ok(GrantRow::Group { group: text_of(row, 0)?, server: text_of(row, 1)? })
}

fn membership(row: &SqliteRow) -> sqlx::Result<GrantRow<'_>> {
    Ok(GrantRow::Membership { email: text_of(row, 0)?, group: text_of(row, 1)? })
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

/// The statement that makes a change; emails come in lowercased, and the stored row may differ in case.
pub(super) fn change(write: Write<'_>) -> &'static str {
    match write {
        Write::GrantUser(..) => {
            "INSERT INTO user_tenant_access (user_email, tenant_id, access_level) \
             SELECT ?1, ?2, 'read' WHERE NOT EXISTS (SELECT 1 FROM user_tenant_access \
                 WHERE lower(user_email) = ?1 AND tenant_id = ?2)"
        }
        Write::RevokeUser(..) => {
            "DELETE FROM user_tenant_access WHERE lower(user_email) = ?1 AND tenant_id = ?2"
        }
        Write::GrantGroup(..) => {
            "INSERT INTO group_tenant_mapping (group_name, tenant_id) \
             SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM group_tenant_mapping \
                 WHERE group_name = ?1 AND tenant_id = ?2)"
        }
        Write::RevokeGroup(..) => "DELETE FROM group_tenant_mapping WHERE group_name = ?1 AND tenant_id = ?2",
        Write::JoinGroup(..) => {
            "INSERT INTO user_group_membership (user_email, group_name) \
             SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM user_group_membership \
                 WHERE lower(user_email) = ?1 AND group_name = ?2)"
        }
        Write::LeaveGroup(..) => {
            "DELETE FROM user_group_membership WHERE lower(user_email) = ?1 AND group_name = ?2"
        }
    }
}
