//! The early end of a request: it is cut, or refused where nothing was answered yet.
//!
//! Decides which of the two it is, and that neither reaches the next request on the connection. Ends nothing itself: whoever
//! runs the request waits for the word here.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
    time::Duration,
};

use tokio::sync::Notify;

/// So long a request whose permit was withdrawn may take to be refused, before its connection is cut: a server may be
/// connected to meanwhile. Nothing else is answered in that time.
const REFUSAL: Duration = Duration::from_secs(5);

/// Whether the request that runs on a line is to end early.
#[derive(Default)]
pub struct Ending {
    is_cut: AtomicBool,
    cut: Notify,
    /// What is to be cut may be refused instead, while nothing was answered.
    is_refusable: AtomicBool,
    is_answering: AtomicBool,
}

impl Ending {
    /// Ends the connection in the middle of its request, unless that is over first.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        self.cut.notify_one();
    }

    /// Has the request that runs refused, or cuts it where its answer has begun: what is cut before looks like a gateway
    /// that died, and balancers leave those alone for a while.
    pub fn withdraw(&self) {
        self.is_refusable.store(true, Ordering::Relaxed);
        self.cut();
    }

    /// The answer begins: from here on there is nothing to be refused.
    pub fn begin_answer(&self) {
        self.is_answering.store(true, Ordering::Relaxed);
    }

    /// The request is refused, and not cut.
    pub fn spare(&self) {
        self.is_cut.store(false, Ordering::Release);
        self.is_refusable.store(false, Ordering::Relaxed);
    }

    /// Whether the request that runs is to be refused.
    pub fn is_refused(&self) -> bool {
        self.is_cut()
            && self.is_refusable.load(Ordering::Relaxed)
            && !self.is_answering.load(Ordering::Relaxed)
    }

    /// Whether the request that runs is to be cut.
    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// Returns when the request that runs is to be refused. Woken by whatever wakes its task, as [`Self::withdrawn`] does.
    pub async fn refused(&self) {
        poll_fn(|_| if self.is_refused() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Returns when the request that runs is to be cut.
    pub async fn withdrawn(&self) {
        loop {
            self.cut.notified().await;
            // Whoever waits for the answer was woken by the same word, and looks before this does.
            let told = poll_fn(|_| if self.is_refused() { Poll::Pending } else { Poll::Ready(()) });
            if self.is_refused() {
                drop(tokio::time::timeout(REFUSAL, told).await);
            }
            if self.is_cut() {
                return;
            }
        }
    }

    /// The request is over, and the next one begins with nothing said. What was to be cut has come to its end by itself.
    pub fn settle(&self) {
        self.spare();
        self.is_answering.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_withdrawn_is_refused_and_cut_only_where_it_has_begun_or_nobody_refuses_it() {
        let ending = Ending::default();
        ending.withdraw();
        assert!(ending.is_refused());
        ending.spare();
        assert!(!ending.is_refused() && ending.withdrawn().now_or_never().is_none());

        ending.withdraw();
        let mut cut = Box::pin(ending.withdrawn());
        assert!((&mut cut).now_or_never().is_none(), "it may still be refused");
        ending.begin_answer();
        assert!((&mut cut).now_or_never().is_some() && !ending.is_refused());

        ending.settle();
        ending.withdraw();
        let since = tokio::time::Instant::now();
        ending.withdrawn().await;
        assert_eq!(since.elapsed(), REFUSAL, "nobody refuses it");
    }

    #[test]
    fn a_cut_ends_the_request_that_runs_and_none_after_it() {
        let ending = Ending::default();
        let is_withdrawn = || ending.withdrawn().now_or_never().is_some();
        ending.cut();
        assert!(is_withdrawn());
        ending.cut();
        ending.settle();
        assert!(!is_withdrawn(), "the request was over before");
        ending.cut();
        assert!(is_withdrawn());
    }
}
