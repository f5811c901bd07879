//! What operators hear of the audit: its figures, and a line in the log where it is in trouble, once an outage.
//!
//! Decides when trouble is worth a line. Never runs on a thread that writes: that one may be stuck.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{journal::Journal, lost::Trouble, shipper::micros_now};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// Trouble that is over sooner is not worth a line.
const TOLERATED: Duration = Duration::from_secs(2);
/// No further loss for so long, and it is over.
const OVER: Duration = Duration::from_secs(10);

/// What was lost for one reason since that began.
struct Loss {
    before: u64,
    seen: u64,
    since: Instant,
}

/// Tells for ever.
pub async fn tell(journal: Arc<Journal>) {
    let mut losses = Trouble::ALL.map(|_| None);
    let mut trouble: Option<(Trouble, Instant, bool)> = None;
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        set_figures(&journal);
        for (why, loss) in Trouble::ALL.into_iter().zip(&mut losses) {
            tell_loss(&journal, why, loss);
        }
        trouble = match (journal.trouble().filter(|_| journal.is_on()), trouble) {
            (None, Some((_, since, true))) => {
                info!("audit: entries are written to the spool again, after {:?}", since.elapsed());
                None
            }
            (None, _) => None,
            (Some(now), Some((_, since, false))) if since.elapsed() > TOLERATED => {
                warn!("audit: entries wait in memory: {}", now.sentence());
                Some((now, since, true))
            }
            (Some(now), Some((_, since, is_told))) => Some((now, since, is_told)),
            (Some(now), None) => Some((now, Instant::now(), false)),
        };
    }
}

fn set_figures(journal: &Journal) {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let metrics = &journal.metrics;
    metrics.audit_spool_bytes.set(number(journal.bytes.load(Ordering::Relaxed)));
    metrics.audit_spool_max_bytes.set(number(journal.most_bytes()));
    let oldest = journal.oldest_micros.load(Ordering::Relaxed);
    let age = if oldest == 0 { 0 } else { (micros_now() - oldest).max(0) / 1_000_000 };
    metrics.audit_oldest_seconds.set(age);
    if !journal.is_on() {
        metrics.audit_database_up.set(-1);
    }
}

fn tell_loss(journal: &Journal, why: Trouble, loss: &mut Option<Loss>) {
    let count = journal.metrics.audit_lost.with_label_values(&[why.as_str()]).get();
    match loss {
        None if count > 0 => {
            error!("audit: entries are lost: {}", why.sentence());
            *loss = Some(Loss { before: 0, seen: count, since: Instant::now() });
        }
        None => {}
        Some(told) if count > told.seen => {
            if told.since.elapsed() > OVER {
                error!("audit: entries are lost again: {}", why.sentence());
                told.before = told.seen;
            }
            (told.seen, told.since) = (count, Instant::now());
        }
        Some(told) if told.since.elapsed() > OVER && told.before < told.seen => {
            info!(
                "audit: no more entries are lost (`{}`); it were {}",
                why.as_str(),
                told.seen - told.before
            );
            told.before = told.seen;
        }
        Some(_) => {}
    }
}
