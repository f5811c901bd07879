//! Listens to servers of MCP for changes of their lists, and has the lists read again.
//!
//! What a server says is no more than a hint to look: a flood of them is read as one, and a server that cannot be
//! listened to is still read by age.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Deserialize;
use tracing::debug;

use super::{Current, addresses, tools::Refresher};
use crate::{
    catalog::server::Server,
    client::{Asker, Client, Filter, Replies},
    mcp::told::Told,
    refusal::Refusal,
    upstream::way::own_way,
};

/// At most one reading in this time because a server said that something changed.
const CALM: Duration = Duration::from_secs(1);
/// First wait after a stream that ended; it doubles up to the ordinary time between readings.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// A stream that lasted this long was a good one.
const GOOD: Duration = Duration::from_secs(60);

/// Listens to one server until the process ends.
pub(super) async fn listen(
    client: Client,
    server: Arc<Server>,
    current: Arc<Current>,
    refresher: Refresher,
    refresh: Duration,
) {
    let id = &server.id;
    let mut changes = current.tools_versions();
    let mut retry = FIRST_RETRY;
    loop {
        // A server is listened to once it was read, and only if it tells of changes.
        let Some(filter) =
            current.load().offers.get(id.as_str()).and_then(|known| filter(&known.about.capabilities))
        else {
            // The sender is part of `current`, which is held here, so this is either a change or the time.
            drop(tokio::time::timeout(refresh, changes.changed()).await);
            continue;
        };
        let began = Instant::now();
        match begin(&client, &server, &filter).await {
            Ok(replies) => {
                // What changed before anybody listened was told to nobody.
                refresher.read_soon(id);
                hear(replies, || refresher.read_soon(id)).await;
            }
            Err(refusal) => {
                let cause = refusal.cause().unwrap_or_default();
                debug!(server.id = %id, "cannot listen to server `{id}`: {refusal}: {cause}");
            }
        }
        retry = if began.elapsed() > GOOD { FIRST_RETRY } else { (retry * 2).min(refresh.max(FIRST_RETRY)) };
        tokio::time::sleep(retry).await;
    }
}

async fn begin(client: &Client, server: &Arc<Server>, filter: &Filter) -> Result<Replies, Refusal> {
    let addresses = addresses::now(server).await;
    let credential = server.discovery_credential.clone().or_else(|| server.credential.clone());
    let way = own_way(server.clone(), &addresses, credential)?;
    client.listen(&way, &Asker::default(), filter).await
}

/// Hands on every change told of, until the stream ends.
async fn hear(mut replies: Replies, mut changed: impl FnMut()) {
    loop {
        match replies.next().await {
            Ok(Told::Notification { method, .. }) if is_change(&method) => {
                changed();
                tokio::time::sleep(CALM).await;
            }
            Ok(Told::Notification { .. } | Told::Request { .. }) => {}
            Ok(Told::Result { .. } | Told::Error { .. }) | Err(_) => return,
        }
    }
}

fn is_change(method: &str) -> bool {
    matches!(
        method,
        "notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed"
    )
}

/// What a server with these capabilities tells of; none where it tells of no change.
fn filter(capabilities: &str) -> Option<Filter> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct List {
        list_changed: bool,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Lists {
        tools: List,
        prompts: List,
        resources: List,
    }
    let lists: Lists = serde_json::from_str(capabilities).unwrap_or_default();
    let filter = Filter {
        tools: lists.tools.list_changed,
        prompts: lists.prompts.list_changed,
        resources: lists.resources.list_changed,
        uris: Vec::new(),
    };
    (filter.tools || filter.prompts || filter.resources).then_some(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(capabilities: &str, expected: Option<(bool, bool, bool)>) {
        let found = filter(capabilities).map(|filter| (filter.tools, filter.prompts, filter.resources));
        assert_eq!(found, expected, "{capabilities}");
    }

    #[test]
    fn only_what_a_server_tells_of_is_listened_for() {
        check("{}", None);
        check(r#"{"tools":{},"prompts":{"listChanged":false}}"#, None);
        check(r#"{"tools":{"listChanged":true},"logging":{}}"#, Some((true, false, false)));
        check(
            r#"{"prompts":{"listChanged":true},"resources":{"listChanged":true,"subscribe":true}}"#,
            Some((false, true, true)),
        );
        check(r#"{"tools":7}"#, None);
    }
}
