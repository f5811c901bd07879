//! Keeps what is known of Open WebUI's users true: answers first sights, refreshes everybody seen lately.
//!
//! Decides nothing: rows go into `identity::users`, which judges them at each request.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::MissedTickBehavior};
use tracing::{info, warn};

use super::Current;
use crate::{
    identity::users::{Question, Users},
    store::openwebui::{OpenWebUi, User},
};

/// First sights answered with one query.
const BATCH: usize = 500;

/// Runs until the process ends.
pub async fn keep(
    current: Arc<Current>,
    users: Arc<Users>,
    mut questions: mpsc::Receiver<Question>,
    database: OpenWebUi,
    refresh: Duration,
) {
    let mut ticks = tokio::time::interval(refresh);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_up = true;
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let outcome = tokio::select! {
            count = questions.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return;
                }
                answer(&users, &database, std::mem::take(&mut batch)).await
            }
            _ = ticks.tick() => refresh_all(&current, &users, &database).await,
        };
        match outcome {
            Ok(()) if !is_up => info!("Open WebUI's database answers again"),
            Err(ref error) if is_up => warn!("Open WebUI's database does not answer: {error:#}"),
            Ok(()) | Err(_) => {}
        }
        is_up = outcome.is_ok();
    }
}

async fn answer(users: &Users, database: &OpenWebUi, batch: Vec<Question>) -> anyhow::Result<()> {
    let ids: Vec<String> = batch.iter().map(|question| question.id.clone()).collect();
    let rows = database.users(&ids).await?;
    for question in batch {
        // Cloned, because the same id may be asked for twice in one batch.
        let seen = users.remember(&question.id, rows.get(&question.id).cloned());
        // A caller who has gone away needs no answer.
        drop(question.answer.send(seen));
    }
    Ok(())
}

async fn refresh_all(current: &Current, users: &Users, database: &OpenWebUi) -> anyhow::Result<()> {
    let seen = users.all();
    let ids: Vec<String> = seen.iter().map(|(id, _)| id.as_ref().clone()).collect();
    let mut rows: HashMap<String, User> =
        if ids.is_empty() { HashMap::new() } else { database.users(&ids).await? };
    let mut is_news = false;
    for (id, seen) in &seen {
        let row = rows.remove(id.as_str());
        if seen.row != row {
            users.remember(id, row);
            is_news = true;
        }
    }
    users.confirm();
    if is_news {
        current.announce_callers_changed();
    }
    Ok(())
}
