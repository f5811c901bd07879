//! Who is believed, and the background that keeps that true: shared by `run` and by `explain --token`.
//!
//! Decides which sources the schemes of a configuration need. Never decides about a credential: `identity` does.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::mpsc;

use super::openwebui;
use crate::{
    config::Config,
    identity::{
        Identity, Settings, Sources,
        entra::{self, directory::Directory},
    },
    record::metrics::Metrics,
    snapshot::{self, Current},
};

/// A task that runs until the process ends, and its name.
pub type Task = (&'static str, BoxFuture<'static, ()>);

/// What has to run so that identities stay true.
pub struct Background {
    settings: Settings,
    max_stale: Duration,
    openwebui: openwebui::Asked,
    entra: Option<(Arc<Directory>, mpsc::Receiver<entra::Question>)>,
}

/// The schemes of a configuration, and what has to run beside them.
pub fn identity(config: &Config) -> (Arc<Identity>, Background) {
    let (settings, max_stale) = (config.identity.clone(), config.access.max_stale);
    let (openwebui::Believed { users, api_keys, signed_out }, openwebui) =
        openwebui::memories(&settings, max_stale);
    let entra = settings.entra.as_ref().map(|settings| Directory::new(settings, max_stale));
    let directory = entra.as_ref().map(|(directory, _)| directory.clone());
    let sources = Sources { users, api_keys, signed_out, entra: directory };
    (Arc::new(Identity::new(&settings, sources)), Background { settings, max_stale, openwebui, entra })
}

impl Background {
    /// The tasks. Called where they will run, because sockets belong to the runtime that opens them.
    pub fn tasks(self, current: &Arc<Current>, metrics: &Arc<Metrics>) -> anyhow::Result<Vec<Task>> {
        let mut tasks = self.openwebui.tasks(current, &self.settings, self.max_stale)?;
        if let (Some((directory, questions)), Some(settings)) = (self.entra, self.settings.entra) {
            let keep =
                snapshot::entra::keep(directory, questions, settings, (metrics.clone(), current.clone()))?;
            tasks.push(("Entra ID", keep.boxed()));
        }
        Ok(tasks)
    }
}
