//! Keeps what is known of Open WebUI's API keys true: answers first sights, looks at every key in use again.
//!
//! Decides nothing: rows go into `identity::api_key`, which judges them at each request.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::MissedTickBehavior};

use super::{Current, health::Health};
use crate::{
    identity::api_key::{ApiKeys, Question},
    store::{api_keys::ApiKey, openwebui::OpenWebUi},
};

/// First sights answered with one query: as many as there may be guesses of a flood.
const BATCH: usize = 500;
/// How the log calls what is asked.
const NAME: &str = "Open WebUI's table of API keys";

/// Answers first sights until the process ends.
pub async fn answer(keys: Arc<ApiKeys>, mut questions: mpsc::Receiver<Question>, database: OpenWebUi) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut health = Health::of(NAME);
    while questions.recv_many(&mut batch, BATCH).await > 0 {
        // Questions of a batch that fails are dropped, and so answered.
        health.note(&answer_batch(&keys, &database, batch.drain(..)).await);
    }
}

/// Looks at every key in use, again and again until the process ends.
pub async fn refresh(current: Arc<Current>, keys: Arc<ApiKeys>, database: OpenWebUi, pause: Duration) {
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut health = Health::of(NAME);
    loop {
        ticks.tick().await;
        health.note(&refresh_all(&current, &keys, &database).await);
    }
}

async fn answer_batch(
    keys: &ApiKeys,
    database: &OpenWebUi,
    batch: impl Iterator<Item = Question>,
) -> anyhow::Result<()> {
    let (presented, askers): (Vec<_>, Vec<_>) =
        batch.map(|question| (question.about, question.asker)).unzip();
    let asked: Vec<&str> = presented.iter().map(|presented| presented.key.expose().as_str()).collect();
    let rows = database.api_keys(&asked).await?;
    let rows: HashMap<_, _> = rows.into_iter().map(|row| (row.sha256, Arc::new(row))).collect();
    for (presented, asker) in presented.iter().zip(askers) {
        let row = rows.get(&presented.sha256).cloned();
        // Guesses are not kept here: there is no end of them.
        if row.is_some() {
            keys.keys().remember(presented.sha256, row.clone());
        }
        asker.tell(row);
    }
    Ok(())
}

async fn refresh_all(current: &Current, keys: &ApiKeys, database: &OpenWebUi) -> anyhow::Result<()> {
    let before: Vec<Arc<ApiKey>> = keys.keys().all().into_values().flatten().flatten().collect();
    let rows: Vec<&str> = before.iter().map(|key| key.row.as_str()).collect();
    let rows = if rows.is_empty() { Vec::new() } else { database.api_keys_in(&rows).await? };
    let mut now: HashMap<[u8; 32], ApiKey> = rows.into_iter().map(|row| (row.sha256, row)).collect();
    let mut is_news = false;
    for key in before {
        let row = now.remove(&key.sha256);
        if row.as_ref() != Some(&*key) {
            keys.keys().remember(key.sha256, row.map(Arc::new));
            is_news = true;
        }
    }
    keys.keys().confirm();
    if is_news {
        current.announce_callers_changed();
    }
    Ok(())
}
