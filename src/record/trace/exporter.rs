//! The thread that sends spans: a bounded queue in, batches out.
//!
//! Decides when a batch is full, and what is said in the log of a collector that does not take them. Begins with the
//! first configuration that traces, and ends with the process, after a last batch.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc as blocking},
    thread,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use super::{
    Settings, Tracer,
    sending::{LAST_WAIT, Sent, Target},
    spans::Ended,
};
use crate::{names::RequestId, record::metrics::Metrics, trace::Sampler};

/// Traced requests that may wait for the collector.
const QUEUE: usize = 2_048;
/// Spans of one batch; the last request's may go beyond.
const BATCH: usize = 512;
/// How long a span waits for others.
const DELAY: Duration = Duration::from_secs(1);
/// How long the end of the process waits for the last batch.
const LAST_BATCH: Duration = Duration::from_secs(2);

/// Sends what tracers take. A clone is the same one.
#[derive(Clone)]
pub struct Exporter(Arc<Shared>);

struct Shared {
    metrics: Arc<Metrics>,
    target: ArcSwapOption<Target>,
    queue: Mutex<Option<mpsc::Sender<Box<Ended>>>>,
    is_over: watch::Sender<bool>,
    /// The thread's end, for who waits for it.
    done: Mutex<Option<blocking::Receiver<()>>>,
    instance: String,
}

/// Has what still waits sent when dropped, within bounds.
pub struct Flush(Arc<Shared>);

impl Exporter {
    /// An exporter that has nothing to do yet.
    pub fn new(metrics: Arc<Metrics>) -> (Self, Flush) {
        let shared = Arc::new(Shared {
            metrics,
            target: ArcSwapOption::empty(),
            queue: Mutex::default(),
            is_over: watch::Sender::new(false),
            done: Mutex::default(),
            instance: RequestId::new().as_str().to_owned(),
        });
        (Self(shared.clone()), Flush(shared))
    }

    /// What traces by these settings, none where nothing is traced. What waits goes where the last ones say that traced.
    pub fn tracer(&self, settings: Option<&Settings>) -> Option<Arc<Tracer>> {
        let settings = settings?;
        let begun = Target::new(settings.clone(), &self.0.instance).and_then(|target| {
            self.0.target.store(Some(Arc::new(target)));
            self.queue()
        });
        match begun {
            Ok(queue) => Some(Arc::new(Tracer {
                sampler: Arc::new(Sampler::new(settings.sampling)),
                queue,
                dropped: self.0.metrics.trace_spans_dropped.clone(),
            })),
            Err(error) => {
                error!("traces: nothing is traced: {error:#}");
                None
            }
        }
    }

    /// The way to the thread, which begins where there is none yet.
    fn queue(&self) -> anyhow::Result<mpsc::Sender<Box<Ended>>> {
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = &*queue {
            return Ok(queue.clone());
        }
        let (sender, ended) = mpsc::channel(QUEUE);
        let (done, is_done) = blocking::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sending = Sending { shared: self.0.clone(), ended, is_away: false };
        thread::Builder::new().name("traces".to_owned()).spawn(move || {
            runtime.block_on(sending.run());
            drop(done);
        })?;
        *self.0.done.lock().unwrap_or_else(PoisonError::into_inner) = Some(is_done);
        *queue = Some(sender.clone());
        Ok(sender)
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.0.is_over.send_replace(true);
        let done = self.0.done.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Nothing is sent: what is waited for is the end of the thread.
        if done.is_some_and(|done| done.recv_timeout(LAST_BATCH) == Err(blocking::RecvTimeoutError::Timeout))
        {
            warn!("traces: the collector did not take the last spans before the end");
        }
    }
}

/// What the thread does.
struct Sending {
    shared: Arc<Shared>,
    ended: mpsc::Receiver<Box<Ended>>,
    /// The collector did not take the batch before, and the log says so.
    is_away: bool,
}

impl Sending {
    async fn run(mut self) {
        let mut over = self.shared.is_over.subscribe();
        loop {
            let batch = self.gather(&mut over).await;
            if batch.is_empty() && *over.borrow() {
                return;
            }
            self.send(batch).await;
        }
    }

    /// What is sent next: a whole batch, or what has come within a while. At the end whatever there is, then nothing.
    async fn gather(&mut self, over: &mut watch::Receiver<bool>) -> Vec<Ended> {
        let (mut batch, mut spans) = (Vec::new(), 0);
        // What takes long is waited for once there is something to send.
        let mut deadline = None;
        while spans < BATCH {
            let next = async {
                match deadline {
                    Some(deadline) => {
                        tokio::time::timeout_at(deadline, self.ended.recv()).await.ok().flatten()
                    }
                    None => self.ended.recv().await,
                }
            };
            let ended = tokio::select! {
                biased;
                ended = next => ended,
                _ = over.wait_for(|is_over| *is_over) => self.ended.try_recv().ok(),
            };
            let Some(ended) = ended else { break };
            spans += ended.spans();
            batch.push(*ended);
            deadline.get_or_insert_with(|| tokio::time::Instant::now() + DELAY);
        }
        batch
    }

    async fn send(&mut self, batch: Vec<Ended>) {
        let spans: Vec<_> = batch.into_iter().flat_map(Ended::into_spans).collect();
        let metrics = &self.shared.metrics;
        let Some(target) = self.shared.target.load_full().filter(|_| !spans.is_empty()) else { return };
        let mut over = self.shared.is_over.subscribe();
        let over = async move { drop(over.wait_for(|is_over| *is_over).await) };
        let (Sent { taken, failed }, trouble) = target.send(spans, over).await;
        metrics.trace_spans_exported.inc_by(taken);
        metrics.trace_spans_failed.inc_by(failed);
        match trouble {
            Some(error) if !self.is_away => {
                self.is_away = true;
                warn!(
                    "traces: {failed} spans are lost because the collector (`traces.endpoint`) did not take them: {error:#}; \
                     it is told once, until it takes some again"
                );
            }
            None if self.is_away => {
                self.is_away = false;
                info!("traces: the collector takes spans again");
            }
            Some(_) | None => {}
        }
    }
}

/// The last batch is given up before the end of the process is.
const _: () = assert!(LAST_WAIT.as_millis() < LAST_BATCH.as_millis());
