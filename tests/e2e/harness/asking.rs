//! Questions asked of a gateway again and again until the answer is the one waited for.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    deadline::until,
    gateway::{Answer, Gateway},
};

/// Between two questions of which only the time of the answer counts.
const PAUSE: Duration = Duration::from_millis(2);

impl Gateway {
    /// Returns once this many grant rows are believed.
    pub async fn await_grants(&self, rows: usize) {
        self.await_metric("portcullis_grant_rows", &[], rows).await;
    }

    /// Returns once the server is known to have this many tools.
    pub async fn await_tools(&self, server: &str, tools: usize) {
        self.await_metric("portcullis_tools", &[("server", server)], tools).await;
    }

    /// Returns once the sum of the series is this.
    pub async fn await_metric(&self, name: &str, labels: &[(&str, &str)], value: usize) {
        until(name, || async {
            let sum = self.metrics().await.sum(name, labels);
            (sum == value as f64).then_some(())
        })
        .await;
    }

    /// Calls a tool without arguments until the answer has this status: that answer, and how long it took to come.
    ///
    /// A call that is cut off counts as one more that was not answered so: a grant taken back ends what runs under it.
    pub async fn call_until(&self, path: &str, token: &str, status: u16) -> (Answer, Duration) {
        let began = Instant::now();
        let answer = until(&format!("{status} from {path}"), || async {
            if let Ok(response) = self.call_request(path, token, &json!({})).send().await
                && response.status() == status
            {
                return Some(Answer::read(response).await);
            }
            tokio::time::sleep(PAUSE).await;
            None
        })
        .await;
        (answer, began.elapsed())
    }

    /// The status of `/health/ready`.
    pub async fn readiness(&self) -> u16 {
        self.send(self.client.get(self.ops_url("/health/ready"))).await.status.as_u16()
    }
}
