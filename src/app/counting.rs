//! The task that keeps the connection to the Redis that replicas count in.

use std::sync::Arc;

use async_trait::async_trait;
use pingora::{server::ShutdownWatch, services::background::BackgroundService};

use crate::gateway::limiting::Shared;

/// Keeps a connection as long as the process runs.
pub struct Counting(pub Arc<Shared>);

#[async_trait]
impl BackgroundService for Counting {
    async fn start(&self, _shutdown: ShutdownWatch) {
        self.0.keep().await;
    }
}
