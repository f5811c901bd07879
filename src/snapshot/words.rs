//! The words that tools are found by, made before the tools are shown: an index takes a while, and whoever swaps the
//! snapshot must not.

use std::sync::Arc;

use anyhow::Context;

use super::Snapshot;
use crate::catalog::{
    search::Words,
    server::Server,
    tools::{ToolIndex, ToolList, words},
};

/// A list of tools with its words.
pub(super) struct Prepared {
    list: Arc<ToolList>,
    words: Words,
}

impl Prepared {
    /// For what will be shown of a server; none where that is shown already.
    pub(super) async fn of(
        server: &Server,
        shown: Option<Arc<ToolList>>,
        before: &Snapshot,
    ) -> anyhow::Result<Option<Self>> {
        let is_shown = |list: &Arc<ToolList>| before.is_shown(server, list);
        let Some(list) = shown.filter(|list| !is_shown(list)) else { return Ok(None) };
        let (id, of) = (server.id.clone(), list.clone());
        let words = tokio::task::spawn_blocking(move || words(&id, &of)).await?;
        Ok(Some(Self { list, words: words.context("no index can be made of the tools")? }))
    }
}

impl Snapshot {
    fn is_shown(&self, server: &Server, list: &Arc<ToolList>) -> bool {
        let before = self.tools.get(server.id.as_str());
        before.is_some_and(|before| Arc::ptr_eq(before, list) || **before == **list)
    }

    /// What the pins let be shown of a server is shown; whether that is something else than before.
    pub(super) fn show(&mut self, server: &Server, prepared: Option<&Prepared>) -> bool {
        let Some(shown) = self.pins.shown(server).filter(|shown| !self.is_shown(server, shown)) else {
            return false;
        };
        let index: ToolIndex = match prepared {
            Some(prepared) if *prepared.list == *shown => {
                self.tools.with_words(server.id.clone(), shown, prepared.words.clone())
            }
            // It became something else meanwhile, which is rare.
            Some(_) | None => self.tools.with(server.id.clone(), shown),
        };
        self.tools = Arc::new(index);
        true
    }
}
