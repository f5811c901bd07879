//! The table `tool_pins` in SQLite, as in Postgres. One transaction writes at a time, so settling waits by itself.

use std::collections::HashMap;

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    super::{
        pins::{Definitions, Pin, Row, Settled, Sighting, Step, plan},
        text::Text,
    },
    Database,
};
use crate::names::{Digest, ServerId};

/// `?1` is the server, `?2` to `?4` are name, hash and definition.
const KNOW: &str = "\
    INSERT INTO tool_pins (server_id, tool_name, hash, definition) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
const ACCEPT: &str = "\
    UPDATE tool_pins SET former_definition = definition, hash = ?3, definition = ?4, \
        pending_hash = NULL, pending_definition = NULL, changed_at = unixepoch() \
    WHERE server_id = ?1 AND tool_name = ?2";
const WITHHOLD: &str = "\
    INSERT INTO tool_pins (server_id, tool_name, pending_hash, pending_definition, changed_at) \
    VALUES (?1, ?2, ?3, ?4, unixepoch()) \
    ON CONFLICT (server_id, tool_name) DO UPDATE SET pending_hash = excluded.pending_hash, \
        pending_definition = excluded.pending_definition, changed_at = unixepoch()";
const RESTORE: &str = "\
    UPDATE tool_pins SET pending_hash = NULL, pending_definition = NULL, changed_at = unixepoch() \
    WHERE server_id = ?1 AND tool_name = ?2";
const FORGET: &str = "DELETE FROM tool_pins WHERE server_id = ?1 AND hash IS NULL AND tool_name = ?2";
const APPROVE: &str = "\
    UPDATE tool_pins SET former_definition = definition, hash = pending_hash, definition = pending_definition, \
        pending_hash = NULL, pending_definition = NULL \
    WHERE server_id = ?1 AND tool_name = ?2 AND pending_hash = ?3";
const PINS: &str = "\
    SELECT server_id, tool_name, hash, pending_hash, CAST(first_seen AS integer), CAST(changed_at AS integer) \
    FROM tool_pins WHERE ?1 IS NULL OR server_id = ?1 ORDER BY server_id, tool_name";

impl Database {
    pub(in crate::store) async fn settle_tools(&self, sighting: &Sighting<'_>) -> anyhow::Result<Settled> {
        let (pool, _) = self.file.pool().await?;
        // Mostly there is nothing to write; then nobody waits.
        let rows = rows(&mut *pool.acquire().await?, sighting.server).await?;
        let looked = plan(sighting, &rows);
        if looked.steps.is_empty() {
            return Ok(looked.settled);
        }
        let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
        let rows = self::rows(&mut transaction, sighting.server).await?;
        let plan = plan(sighting, &rows);
        for step in &plan.steps {
            perform(&mut transaction, sighting.server, step).await?;
        }
        transaction.commit().await?;
        Ok(plan.settled)
    }

    pub(in crate::store) async fn pin_version(&self) -> anyhow::Result<i64> {
        let (pool, _) = self.file.pool().await?;
        let version = sqlx::query_scalar("SELECT version FROM tool_pin_version").fetch_optional(&pool);
        Ok(version.await?.unwrap_or_default())
    }

    pub(in crate::store) async fn pins(&self, server: Option<&ServerId>) -> anyhow::Result<Vec<Pin>> {
        let (pool, _) = self.file.pool().await?;
        let rows = sqlx::query(PINS).bind(server.map(ServerId::as_str)).fetch_all(&pool).await?;
        Ok(rows.iter().filter_map(|row| pin(row).transpose()).collect::<Result<_, _>>()?)
    }

    pub(in crate::store) async fn definitions(
        &self,
        server: &ServerId,
        tool: &str,
    ) -> anyhow::Result<Option<Definitions>> {
        let (pool, _) = self.file.pool().await?;
        let row = sqlx::query(
            "SELECT definition, pending_definition, former_definition FROM tool_pins \
             WHERE server_id = ?1 AND tool_name = ?2",
        )
        .bind(server.as_str())
        .bind(tool)
        .fetch_optional(&pool)
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
        let (pool, _) = self.file.pool().await?;
        let approving = sqlx::query(APPROVE).bind(server.as_str()).bind(tool).bind(seen.to_string());
        Ok(approving.execute(&pool).await?.rows_affected() > 0)
    }
}

async fn rows(connection: &mut SqliteConnection, server: &ServerId) -> anyhow::Result<HashMap<String, Row>> {
    let rows = sqlx::query(PINS).bind(server.as_str()).fetch_all(connection).await?;
    let pins = rows.iter().filter_map(|row| pin(row).transpose());
    Ok(pins.map(|pin| pin.map(|pin| (pin.tool, (pin.approved, pin.pending)))).collect::<Result<_, _>>()?)
}

/// What a row says; none where its names cannot be read. A hash that cannot be read is none.
fn pin(row: &SqliteRow) -> sqlx::Result<Option<Pin>> {
    let text = |at: usize| row.try_get::<Text, _>(at).map(Text::readable);
    let digest = |at: usize| Ok::<_, sqlx::Error>(text(at)?.and_then(|hash| Digest::parse(&hash).ok()));
    let (Some(server), Some(tool)) = (text(0)?, text(1)?) else { return Ok(None) };
    let (approved, pending) = (digest(2)?, digest(3)?);
    let (first_seen, changed_at) = (row.try_get(4)?, row.try_get(5)?);
    Ok(Some(Pin { server, tool, approved, pending, first_seen, changed_at }))
}

async fn perform(connection: &mut SqliteConnection, server: &ServerId, step: &Step<'_>) -> sqlx::Result<()> {
    let (statement, seen) = match step {
        Step::Know(seen) => (KNOW, seen),
        Step::Accept(seen) => (ACCEPT, seen),
        Step::Withhold(seen) => (WITHHOLD, seen),
        Step::Restore(tool) | Step::Forget(tool) => {
            let statement = if matches!(step, Step::Restore(_)) { RESTORE } else { FORGET };
            return sqlx::query(statement)
                .bind(server.as_str())
                .bind(*tool)
                .execute(connection)
                .await
                .map(drop);
        }
    };
    let query = sqlx::query(statement).bind(server.as_str()).bind(seen.name);
    query.bind(seen.digest.to_string()).bind(seen.definition).execute(connection).await.map(drop)
}
