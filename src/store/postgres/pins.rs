//! The table `tool_pins` in Postgres.
//!
//! Decides how it is read and changed, and that gateways that settle the same tools wait for each other. What a
//! sighting does to it, `store::pins` says.

use std::collections::HashMap;

use sqlx::{PgConnection, Row as _, postgres::PgRow};

use super::{
    super::{
        pins::{Definitions, Pin, Row, Settled, Sighting, Step, plan},
        text::Text,
    },
    Database,
};
use crate::names::{Digest, ServerId};

/// Held while tools are settled or approved; any number will do that other applications don't use.
const PIN_LOCK: i64 = 0x706f_7274_7069_6e73;

/// `$1` is the server, `$2` to `$4` are names, hashes and definitions.
const KNOW: &str = "\
    INSERT INTO tool_pins (server_id, tool_name, hash, definition) \
    SELECT $1, name, hash, definition FROM unnest($2::text[], $3::text[], $4::text[]) AS seen (name, hash, definition) \
    ON CONFLICT DO NOTHING";
const ACCEPT: &str = "\
    UPDATE tool_pins SET former_definition = tool_pins.definition, hash = seen.hash, definition = seen.definition, \
        pending_hash = NULL, pending_definition = NULL, changed_at = now() \
    FROM unnest($2::text[], $3::text[], $4::text[]) AS seen (name, hash, definition) \
    WHERE server_id = $1 AND tool_name = seen.name";
const WITHHOLD: &str = "\
    INSERT INTO tool_pins (server_id, tool_name, pending_hash, pending_definition, changed_at) \
    SELECT $1, name, hash, definition, now() \
    FROM unnest($2::text[], $3::text[], $4::text[]) AS seen (name, hash, definition) \
    ON CONFLICT (server_id, tool_name) DO UPDATE SET pending_hash = excluded.pending_hash, \
        pending_definition = excluded.pending_definition, changed_at = now()";
const RESTORE: &str = "\
    UPDATE tool_pins SET pending_hash = NULL, pending_definition = NULL, changed_at = now() \
    WHERE server_id = $1 AND tool_name = ANY($2)";
const FORGET: &str = "DELETE FROM tool_pins WHERE server_id = $1 AND hash IS NULL AND tool_name = ANY($2)";
const APPROVE: &str = "\
    UPDATE tool_pins SET former_definition = definition, hash = pending_hash, definition = pending_definition, \
        pending_hash = NULL, pending_definition = NULL \
    WHERE server_id = $1 AND tool_name = $2 AND pending_hash = $3";
const PINS: &str = "\
    SELECT server_id, tool_name, hash, pending_hash, extract(epoch FROM first_seen)::bigint, \
           extract(epoch FROM changed_at)::bigint \
    FROM tool_pins WHERE $1::text IS NULL OR server_id = $1 ORDER BY server_id COLLATE \"C\", tool_name COLLATE \"C\"";

impl Database {
    pub(in crate::store) async fn settle_tools(&self, sighting: &Sighting<'_>) -> anyhow::Result<Settled> {
        // Mostly there is nothing to write; then nobody waits, and a standby will do.
        let rows = rows(&mut *self.pool.acquire().await?, sighting.server).await?;
        let looked = plan(sighting, &rows);
        if looked.steps.is_empty() {
            return Ok(looked.settled);
        }
        let mut transaction = self.pool.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(PIN_LOCK).execute(&mut *transaction).await?;
        let rows = self::rows(&mut transaction, sighting.server).await?;
        let plan = plan(sighting, &rows);
        perform(&mut transaction, sighting.server, &plan.steps).await?;
        transaction.commit().await?;
        Ok(plan.settled)
    }

    pub(in crate::store) async fn pin_version(&self) -> anyhow::Result<i64> {
        let version = sqlx::query_scalar("SELECT version FROM tool_pin_version").fetch_optional(&self.pool);
        Ok(version.await?.unwrap_or_default())
    }

    pub(in crate::store) async fn pins(&self, server: Option<&ServerId>) -> anyhow::Result<Vec<Pin>> {
        let rows = sqlx::query(PINS).bind(server.map(ServerId::as_str)).fetch_all(&self.pool).await?;
        Ok(rows.iter().filter_map(|row| pin(row).transpose()).collect::<Result<_, _>>()?)
    }

    pub(in crate::store) async fn definitions(
        &self,
        server: &ServerId,
        tool: &str,
    ) -> anyhow::Result<Option<Definitions>> {
        let row = sqlx::query(
            "SELECT definition, pending_definition, former_definition FROM tool_pins \
             WHERE server_id = $1 AND tool_name = $2",
        )
        .bind(server.as_str())
        .bind(tool)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let text = |at: usize| row.try_get::<Text, _>(at).map(Text::readable);
        Ok(Some(Definitions { approved: text(0)?, pending: text(1)?, former: text(2)? }))
    }

    pub(in crate::store) async fn approve_tool(
        &self,
        server: &ServerId,
        tool: &str,
        seen: Digest,
    ) -> anyhow::Result<bool> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(PIN_LOCK).execute(&mut *transaction).await?;
        let approving = sqlx::query(APPROVE).bind(server.as_str()).bind(tool).bind(seen.to_string());
        let rows = approving.execute(&mut *transaction).await?.rows_affected();
        transaction.commit().await?;
        Ok(rows > 0)
    }
}

async fn rows(connection: &mut PgConnection, server: &ServerId) -> anyhow::Result<HashMap<String, Row>> {
    let rows = sqlx::query(PINS).bind(server.as_str()).fetch_all(connection).await?;
    let pins = rows.iter().filter_map(|row| pin(row).transpose());
    Ok(pins.map(|pin| pin.map(|pin| (pin.tool, (pin.approved, pin.pending)))).collect::<Result<_, _>>()?)
}

/// What a row says; none where its names cannot be read. A hash that cannot be read is none.
fn pin(row: &PgRow) -> sqlx::Result<Option<Pin>> {
    let text = |at: usize| row.try_get::<Text, _>(at).map(Text::readable);
    let digest = |at: usize| Ok::<_, sqlx::Error>(text(at)?.and_then(|hash| Digest::parse(&hash).ok()));
    let (Some(server), Some(tool)) = (text(0)?, text(1)?) else { return Ok(None) };
    let (approved, pending) = (digest(2)?, digest(3)?);
    let (first_seen, changed_at) = (row.try_get(4)?, row.try_get(5)?);
    Ok(Some(Pin { server, tool, approved, pending, first_seen, changed_at }))
}

async fn perform(connection: &mut PgConnection, server: &ServerId, steps: &[Step<'_>]) -> sqlx::Result<()> {
    for statement in [KNOW, ACCEPT, WITHHOLD] {
        let seen = steps.iter().filter_map(|step| match step {
            Step::Know(seen) if statement == KNOW => Some(seen),
            Step::Accept(seen) if statement == ACCEPT => Some(seen),
            Step::Withhold(seen) if statement == WITHHOLD => Some(seen),
            Step::Know(_) | Step::Accept(_) | Step::Withhold(_) | Step::Restore(_) | Step::Forget(_) => None,
        });
        let (mut names, mut hashes, mut definitions) = (Vec::new(), Vec::new(), Vec::new());
        for seen in seen {
            names.push(seen.name);
            hashes.push(seen.digest.to_string());
            definitions.push(seen.definition);
        }
        if !names.is_empty() {
            let query =
                sqlx::query(statement).bind(server.as_str()).bind(names).bind(hashes).bind(definitions);
            query.execute(&mut *connection).await?;
        }
    }
    for statement in [RESTORE, FORGET] {
        let names: Vec<&str> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Restore(tool) if statement == RESTORE => Some(*tool),
                Step::Forget(tool) if statement == FORGET => Some(*tool),
                Step::Know(_) | Step::Accept(_) | Step::Withhold(_) | Step::Restore(_) | Step::Forget(_) => {
                    None
                }
            })
            .collect();
        if !names.is_empty() {
            sqlx::query(statement).bind(server.as_str()).bind(names).execute(&mut *connection).await?;
        }
    }
    Ok(())
}
