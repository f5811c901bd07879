//! Keeps what is known of Entra ID true: reads its documents, and asks Graph for groups that tokens have no room for.
//!
//! Decides when to ask again. What the answers mean is for `identity::entra`. While Entra ID is away what was read last
//! serves on, and the calling path never waits for more than one reading.

mod graph;
mod keys;

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::Current;
use crate::{
    dial::Dialer,
    identity::entra::{Question, Settings, directory::Directory, discovery::Version},
    record::metrics::Metrics,
};
use graph::Graph;
use keys::Reader;

/// Longest wait for one document, or for one answer of Graph.
const DEADLINE: Duration = Duration::from_secs(5);
/// Largest document; Entra ID's have a few kilobytes.
const MAX_DOCUMENT_BYTES: usize = 1 << 20;
/// Largest answer of Graph: more ids than are believed.
const MAX_PAGE_BYTES: usize = 2 << 20;

/// What one look at an issuer's documents found.
pub struct Look {
    /// Its tenant.
    pub tenant: Uuid,
    /// Which tokens it issues.
    pub version: Version,
    /// How many keys it has.
    pub keys: anyhow::Result<usize>,
}

/// Looks once at every issuer's documents.
pub async fn look(settings: &Settings) -> anyhow::Result<Vec<Look>> {
    let (directory, _questions) = Directory::new(settings, Duration::ZERO);
    let dialer = Dialer::new(DEADLINE, MAX_DOCUMENT_BYTES)?;
    let looks = directory.sources().iter().map(async |source| Look {
        tenant: source.tenant,
        version: source.version,
        keys: keys::count(source, &dialer, &settings.authority).await,
    });
    Ok(join_all(looks).await)
}

/// Reads every issuer's documents and answers questions about groups, until the process ends.
pub fn keep(
    directory: Arc<Directory>,
    questions: mpsc::Receiver<Question>,
    settings: Settings,
    (metrics, current): (Arc<Metrics>, Arc<Current>),
) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let dialer = Dialer::new(DEADLINE, MAX_DOCUMENT_BYTES)?;
    let dialer_of_graph = Dialer::new(DEADLINE, MAX_PAGE_BYTES)?;
    let graph = Graph::new(dialer_of_graph, directory.clone(), settings.clone(), current);
    Ok(async move {
        let readers = directory.sources().iter().map(|source| {
            Reader::new(source, dialer.clone(), &settings.authority, &metrics).read_again_and_again()
        });
        tokio::join!(join_all(readers), graph.answer(questions, &metrics));
    })
}
