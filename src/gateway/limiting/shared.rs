//! Counting with the other replicas, in Redis: for as long as it answers at once.
//!
//! Decides when Redis counts as away: with the first answer that does not come in time, so that one call waits and not
//! every one. A task of its own tries until it answers again. What is counted meanwhile, each replica counts alone.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use tokio::{sync::Notify, time::timeout};
use tracing::{info, warn};

use crate::{
    limit::{Charges, RedisSettings},
    record::metrics::Metrics,
    store::shared_counts::{Cost, Counted, SharedCounts},
};

/// Time between two looks at a Redis that nobody asks.
const PAUSE: Duration = Duration::from_secs(1);
/// Time between two tries to reach one that is away.
const AWAY: Duration = Duration::from_millis(250);
/// How long a look, or a new connection, may take.
const LOOK: Duration = Duration::from_secs(1);

/// The Redis that replicas count in.
pub struct Shared {
    settings: RedisSettings,
    /// None while it is away.
    counts: ArcSwapOption<SharedCounts>,
    lost: Notify,
    metrics: Arc<Metrics>,
}

impl Shared {
    /// Not connected yet.
    pub fn new(settings: RedisSettings, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { settings, counts: ArcSwapOption::empty(), lost: Notify::new(), metrics })
    }

    /// Counts with the others; none where they cannot be asked.
    pub(super) async fn count(&self, charges: &Charges<'_>) -> Option<Counted> {
        let counted = self.ask(charges).await;
        if counted.is_none() {
            self.metrics.limits_counted_alone.inc();
        }
        counted
    }

    async fn ask(&self, charges: &Charges<'_>) -> Option<Counted> {
        let counts = self.counts.load_full()?;
        let costs: Vec<Cost> = charges
            .iter()
            .map(|charge| Cost {
                name: charge.shared_name(),
                interval: charge.rate.interval(),
                burst: charge.rate.burst(),
                count: charge.count,
            })
            .collect();
        let trouble = match timeout(self.settings.deadline, counts.count(&costs)).await {
            Ok(Ok(counted)) => return Some(counted),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("no answer within {} ms", self.settings.deadline.as_millis()),
        };
        self.lose(&counts, &trouble);
        None
    }

    /// From now on nobody waits for it.
    fn lose(&self, counts: &Arc<SharedCounts>, trouble: &str) {
        let before = self.counts.compare_and_swap(counts, None);
        // Of many that waited, one says so.
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, counts)) {
            self.metrics.limits_shared.set(0);
            warn!("limits are counted in each replica alone from now on: Redis: {trouble}");
            self.lost.notify_one();
        }
    }

    /// Keeps a connection. Runs for ever.
    pub async fn keep(&self) {
        let mut is_told = false;
        loop {
            match timeout(LOOK, self.connect()).await.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer"))) {
                Ok(counts) => {
                    let counts = Arc::new(counts);
                    self.counts.store(Some(counts.clone()));
                    self.metrics.limits_shared.set(1);
                    info!("limits are counted together with other replicas, in Redis");
                    self.watch(&counts).await;
                    is_told = true;
                }
                Err(error) => {
                    self.metrics.limits_shared.set(0);
                    if !std::mem::replace(&mut is_told, true) {
                        warn!("limits are counted in each replica alone for now: Redis: {error:#}");
                    }
                }
            }
            tokio::time::sleep(AWAY).await;
        }
    }

    /// A connection by which it answers as fast as a call wants it to.
    async fn connect(&self) -> anyhow::Result<SharedCounts> {
        let counts = SharedCounts::connect(&self.settings.url, &self.settings.key_prefix).await?;
        // The first time has the script loaded.
        counts.look().await?;
        timeout(self.settings.deadline, counts.look()).await.map_err(|_| anyhow::anyhow!("it is slow"))??;
        Ok(counts)
    }

    /// Returns once it is away.
    async fn watch(&self, counts: &Arc<SharedCounts>) {
        loop {
            tokio::select! {
                () = self.lost.notified() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
            let trouble = match timeout(LOOK, counts.look()).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "no answer".to_owned(),
            };
            self.lose(counts, &trouble);
        }
    }
}
