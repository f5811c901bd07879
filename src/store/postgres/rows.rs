//! The statements that read and change rows of the grant tables in Postgres.
//!
//! Decides which rows are of use and which row of a table is meant by a name. Never opens a transaction, and never
//! parses what it reads.

use futures_util::{Stream, TryStreamExt};
use sqlx::postgres::PgRow;

use super::super::{
    GrantRow, Sink, Write,
    sealed::{self, Sealer},
    text::of_postgres as text_of,
};

/// What a row of a statement's answer says.
type Read = for<'r> fn(&'r PgRow) -> sqlx::Result<GrantRow<'r>>;

/// All rows of all tables.
pub(super) const EVERY: &[(&str, Read)] = &[
    (
        "SELECT user_email::text, tenant_id::text FROM user_tenant_access \
         WHERE user_email IS NOT NULL AND tenant_id IS NOT NULL",
        user,
    ),
    (
        "SELECT group_name::text, tenant_id::text FROM group_tenant_mapping \
         WHERE group_name IS NOT NULL AND tenant_id IS NOT NULL",
        group,
    ),
    (
        "SELECT user_email::text, group_name::text FROM user_group_membership \
         WHERE user_email IS NOT NULL AND group_name IS NOT NULL",
        membership,
    ),
    ("SELECT subject_kind, subject, tenant_id, tool_pattern, effect FROM tool_rules", rule),
    (
        "SELECT tenant_id::text, server_id::text, coalesce(endpoint_url::text, '') FROM tenant_endpoint_overrides \
         WHERE tenant_id IS NOT NULL AND server_id IS NOT NULL",
        endpoint,
    ),
    (
        "SELECT tenant_id::text, server_id::text, coalesce(endpoint_url::text, '') FROM tenant_server_endpoints \
         WHERE tenant_id IS NOT NULL AND server_id IS NOT NULL",
        endpoint,
    ),
];

/// The rows about the users whose lowercased emails are `$1`.
pub(super) const OF_USERS: &[(&str, Read)] = &[
    (
        "SELECT user_email::text, tenant_id::text FROM user_tenant_access \
         WHERE lower(user_email::text COLLATE \"C\") = ANY($1) AND tenant_id IS NOT NULL",
        user,
    ),
    (
        "SELECT user_email::text, group_name::text FROM user_group_membership \
         WHERE lower(user_email::text COLLATE \"C\") = ANY($1) AND group_name IS NOT NULL",
        membership,
    ),
    (
        "SELECT subject_kind, subject, tenant_id, tool_pattern, effect FROM tool_rules \
         WHERE subject_kind = 'user' AND lower(subject COLLATE \"C\") = ANY($1)",
        rule,
    ),
];

/// The rows about the groups whose names are `$1`.
pub(super) const OF_GROUPS: &[(&str, Read)] = &[
    (
        "SELECT group_name::text, tenant_id::text FROM group_tenant_mapping \
         WHERE group_name::text = ANY($1) AND tenant_id IS NOT NULL",
        group,
    ),
    (
        "SELECT subject_kind, subject, tenant_id, tool_pattern, effect FROM tool_rules \
         WHERE subject_kind = 'group' AND subject = ANY($1)",
        rule,
    ),
    (
        "SELECT tenant_id::text, server_id::text, coalesce(endpoint_url::text, '') FROM tenant_endpoint_overrides \
         WHERE tenant_id::text = ANY($1) AND server_id IS NOT NULL",
        endpoint,
    ),
    (
        "SELECT tenant_id::text, server_id::text, coalesce(endpoint_url::text, '') FROM tenant_server_endpoints \
         WHERE tenant_id::text = ANY($1) AND server_id IS NOT NULL",
        endpoint,
    ),
];

/// All keys of tenants, as they are stored.
pub(super) const EVERY_KEY: &str = "\
    SELECT tenant_id::text, server_id::text, coalesce(key_name::text, ''), coalesce(key_value::text, '') FROM tenant_server_keys \
    WHERE tenant_id IS NOT NULL AND server_id IS NOT NULL";

/// The keys of the groups whose names are `$1`, as they are stored.
pub(super) const KEYS_OF_GROUPS: &str = "\
    SELECT tenant_id::text, server_id::text, coalesce(key_name::text, ''), coalesce(key_value::text, '') FROM tenant_server_keys \
    WHERE tenant_id::text = ANY($1) AND server_id IS NOT NULL";

fn user(row: &PgRow) -> sqlx::Result<GrantRow<'_>> {
    Ok(GrantRow::User { email: text_of(row, 0)?, server: text_of(row, 1)? })
}

fn group(row: &PgRow) -> sqlx::Result<GrantRow<'_>> {
    Ok(GrantRow::Group { group: text_of(row, 0)?, server: text_of(row, 1)? })
}

fn membership(row: &PgRow) -> sqlx::Result<GrantRow<'_>> {
    Ok(GrantRow::Membership { email: text_of(row, 0)?, group: text_of(row, 1)? })
}

fn rule(row: &PgRow) -> sqlx::Result<GrantRow<'_>> {
    Ok(GrantRow::Rule {
        kind: text_of(row, 0)?,
        subject: text_of(row, 1)?,
        server: text_of(row, 2)?,
        pattern: text_of(row, 3)?,
        effect: text_of(row, 4)?,
    })
}

fn endpoint(row: &PgRow) -> sqlx::Result<GrantRow<'_>> {
    Ok(GrantRow::Endpoint { group: text_of(row, 0)?, server: text_of(row, 1)?, url: text_of(row, 2)? })
}

/// Streams the rows of an answer into `sink`.
pub(super) async fn send(
    mut rows: impl Stream<Item = sqlx::Result<PgRow>> + Unpin,
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
    mut rows: impl Stream<Item = sqlx::Result<PgRow>> + Unpin,
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
pub(super) fn stored_key(row: &PgRow) -> sqlx::Result<[String; 4]> {
    Ok([text_of(row, 0)?, text_of(row, 1)?, text_of(row, 2)?, text_of(row, 3)?].map(str::to_owned))
}

/// The statements that make a change. Emails come in lowercased; `NOT EXISTS` as well as `ON CONFLICT`, because a
/// row may differ in case, and an earlier gateway's table may have no key.
pub(super) fn change(write: Write<'_>) -> &'static [&'static str] {
    match write {
        Write::GrantUser(..) => &["INSERT INTO user_tenant_access (user_email, tenant_id, access_level) \
             SELECT $1::text, $2::text, 'read' WHERE NOT EXISTS (SELECT FROM user_tenant_access \
                 WHERE lower(user_email::text COLLATE \"C\") = $1 AND tenant_id = $2) \
             ON CONFLICT DO NOTHING"],
        Write::RevokeUser(..) => &["DELETE FROM user_tenant_access \
             WHERE lower(user_email::text COLLATE \"C\") = $1 AND tenant_id = $2"],
        Write::GrantGroup(..) => &["INSERT INTO group_tenant_mapping (group_name, tenant_id) \
             SELECT $1::text, $2::text WHERE NOT EXISTS (SELECT FROM group_tenant_mapping \
                 WHERE group_name = $1 AND tenant_id = $2) \
             ON CONFLICT DO NOTHING"],
        Write::RevokeGroup(..) => {
            &["DELETE FROM group_tenant_mapping WHERE group_name = $1 AND tenant_id = $2"]
        }
        Write::JoinGroup(..) => &["INSERT INTO user_group_membership (user_email, group_name) \
             SELECT $1::text, $2::text WHERE NOT EXISTS (SELECT FROM user_group_membership \
                 WHERE lower(user_email::text COLLATE \"C\") = $1 AND group_name = $2) \
             ON CONFLICT DO NOTHING"],
        Write::LeaveGroup(..) => &["DELETE FROM user_group_membership \
             WHERE lower(user_email::text COLLATE \"C\") = $1 AND group_name = $2"],
        Write::SetRule(..) => &[
            "UPDATE tool_rules SET effect = $5 \
             WHERE effect <> $5 AND subject_kind = $1 AND (subject = $2 OR $1 = 'user' AND lower(subject COLLATE \"C\") = $2) \
                 AND tenant_id = $3 AND tool_pattern = $4",
            "INSERT INTO tool_rules (subject_kind, subject, tenant_id, tool_pattern, effect) \
             SELECT $1::text, $2::text, $3::text, $4::text, $5::text WHERE NOT EXISTS (SELECT FROM tool_rules \
                 WHERE subject_kind = $1 AND (subject = $2 OR $1 = 'user' AND lower(subject COLLATE \"C\") = $2) \
                 AND tenant_id = $3 AND tool_pattern = $4) \
             ON CONFLICT (subject_kind, subject, tenant_id, tool_pattern) DO UPDATE SET effect = excluded.effect",
        ],
        Write::RemoveRule(..) => &["DELETE FROM tool_rules \
             WHERE subject_kind = $1 AND (subject = $2 OR $1 = 'user' AND lower(subject COLLATE \"C\") = $2) \
                 AND tenant_id = $3 AND tool_pattern = $4"],
        // An earlier gateway's table may have no key, so a second row may be there: all of them become the new one.
        Write::SetKey(..) => &[
            "DELETE FROM tenant_server_keys \
             WHERE tenant_id = $1 AND server_id = $2 AND key_name = $3 AND $4::text IS NOT NULL",
            "INSERT INTO tenant_server_keys (tenant_id, server_id, key_name, key_value) \
             VALUES ($1::text, $2::text, $3::text, $4::text)",
        ],
        Write::ReplaceKey(..) => &["UPDATE tenant_server_keys SET key_value = $5 \
             WHERE tenant_id = $1 AND server_id = $2 AND key_name = $3 AND key_value = $4"],
        Write::DeleteKey(..) => {
            &["DELETE FROM tenant_server_keys WHERE tenant_id = $1 AND server_id = $2 AND key_name = $3"]
        }
        Write::AddEndpoint(..) => {
            &["INSERT INTO tenant_endpoint_overrides (tenant_id, server_id, endpoint_url) \
             SELECT $1::text, $2::text, $3::text \
             WHERE NOT EXISTS (SELECT FROM tenant_endpoint_overrides WHERE tenant_id = $1 AND server_id = $2) \
               AND NOT EXISTS (SELECT FROM tenant_server_endpoints WHERE tenant_id = $1 AND server_id = $2) \
             ON CONFLICT DO NOTHING"]
        }
    }
}
