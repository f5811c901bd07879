//! The stream of a session on which a server speaks unasked.
//!
//! Decides how long it is kept open and when it is opened again. What is said on it goes to the `Hub`.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    answer::{Limits, Reader},
    hub::Hub,
    outbox::Outbox,
};

/// Wait before a stream that ended is opened again, where the server says nothing about it.
pub(super) const WAIT: Duration = Duration::from_secs(1);
/// The longest such wait.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Hands on what comes by a stream until it ends.
pub(super) async fn pump(reader: &mut Reader, hub: &Hub, outbox: &Arc<Outbox>) {
    while let Ok(Some(told)) = reader.next().await {
        if let Some(answer) = hub.hand_on(told) {
            outbox.answer_soon(answer);
        }
    }
}

/// Keeps the one stream of a legacy HTTP+SSE session, whose end is the session's.
pub(super) async fn keep_until_end(
    mut reader: Reader,
    outbox: Arc<Outbox>,
    hub: Arc<Hub>,
    stop: oneshot::Receiver<()>,
) {
    tokio::select! {
        () = pump(&mut reader, &hub, &outbox) => {}
        _ = stop => {}
    }
    hub.end();
}

/// Keeps the standing stream of a Streamable HTTP session open as long as the session lasts, where the server has one.
pub(super) async fn keep(outbox: Arc<Outbox>, hub: Arc<Hub>, limits: Limits, stop: oneshot::Receiver<()>) {
    tokio::select! {
        () = keep_open(&outbox, &hub, limits) => {}
        _ = stop => {}
    }
}

async fn keep_open(outbox: &Arc<Outbox>, hub: &Hub, limits: Limits) {
    let (mut last_event, mut wait, mut was_open) = (None::<String>, WAIT, false);
    while !hub.is_over() {
        match outbox.get(last_event.as_deref()).await {
            Ok(incoming) if incoming.status().is_success() => {
                let Ok(mut reader) = Reader::of(incoming, limits) else { return };
                (wait, was_open) = (WAIT, true);
                pump(&mut reader, hub, outbox).await;
                if let Some((id, retry)) = reader.resumption() {
                    last_event = Some(id.to_owned());
                    wait = retry.unwrap_or(WAIT).min(LONGEST_WAIT);
                }
            }
            Ok(incoming) if incoming.status() == http::StatusCode::NOT_FOUND => return hub.end(),
            // Resuming was refused: from now on, then.
            Ok(_) if last_event.take().is_some() => {}
            // What was there is gone, and so the session most likely.
            Ok(incoming) if was_open && incoming.status().is_client_error() => return hub.end(),
            Ok(incoming) if incoming.status().is_server_error() => wait = (wait * 2).min(LONGEST_WAIT),
            // It has none.
            Ok(_) => return,
            Err(_) => wait = (wait * 2).min(LONGEST_WAIT),
        }
        tokio::time::sleep(wait).await;
    }
}
