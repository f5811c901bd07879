//! The task that brings what calls leave behind into the audit table.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use pingora::{
    server::ShutdownWatch,
    services::background::{BackgroundService, GenBackgroundService, background_service},
};

use crate::record::audit::Shipping;

/// Ships as long as the process runs.
pub struct Auditing(Mutex<Option<Shipping>>);

/// A runtime of its own: it reads files, and what keeps grants true must not wait for a disk. Of two threads, so that
/// trouble is told of while one of them waits.
pub fn service(shipping: Shipping) -> GenBackgroundService<Auditing> {
    let mut service = background_service("audit", Auditing(Mutex::new(Some(shipping))));
    service.threads = Some(2);
    service
}

#[async_trait]
impl BackgroundService for Auditing {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let shipping = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(shipping) = shipping {
            shipping.run().await;
        }
    }
}
