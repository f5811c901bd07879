//! Keeps what is known of Open WebUI's users true: answers first sights, refreshes everybody seen lately.
//!
//! Decides nothing: rows go into `identity::users`, which judges them at each request.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::MissedTickBehavior};

use super::{Current, health::Health};
use crate::{
    identity::users::{Question, Users},
    store::openwebui::{OpenWebUi, User},
};

/// First sights answered with one query.
const BATCH: usize = 500;
/// How the log calls what is asked.
const NAME: &str = "Open WebUI's database";

/// Answers first sights until the process ends.
pub async fn answer(
    current: Arc<Current>,
    users: Arc<Users>,
    mut questions: mpsc::Receiver<Question>,
    database: OpenWebUi,
) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut health = Health::of(NAME);
    while questions.recv_many(&mut batch, BATCH).await > 0 {
        // Questions of a batch that fails are dropped, and so answered.
        let outcome = answer_batch(&current, &users, &database, batch.drain(..)).await;
        health.note(&outcome);
    }
}

/// Looks at everybody seen lately, again and again until the process ends.
pub async fn refresh(current: Arc<Current>, users: Arc<Users>, database: OpenWebUi, pause: Duration) {
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut health = Health::of(NAME);
    loop {
        ticks.tick().await;
        health.note(&refresh_all(&current, &users, &database).await);
    }
}

async fn answer_batch(
    current: &Current,
    users: &Users,
    database: &OpenWebUi,
    batch: impl Iterator<Item = Question>,
) -> anyhow::Result<()> {
    let batch: Vec<Question> = batch.collect();
    let ids: Vec<String> = batch.iter().map(|question| question.about.clone()).collect();
    let rows = database.users(&ids).await?;
    for question in batch {
        // Cloned, because the same id may be asked for twice in one batch.
        let seen = users.remember(&question.about, rows.get(&question.about).cloned());
        question.asker.tell(seen);
    }
    // One forgotten may have calls underway that began when their row was another.
    current.announce_callers_changed();
    Ok(())
}

async fn refresh_all(current: &Current, users: &Users, database: &OpenWebUi) -> anyhow::Result<()> {
    let seen = users.all();
    let ids: Vec<String> = seen.keys().cloned().collect();
    let mut rows: HashMap<String, User> =
        if ids.is_empty() { HashMap::new() } else { database.users(&ids).await? };
    let mut is_news = false;
    for (id, seen) in &seen {
        let row = rows.remove(id);
        if seen.as_ref().is_none_or(|seen| seen.row != row) {
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
