//! What a server that passes through may show and be called for, where its tools are pinned.
//!
//! Decides by what is approved at the moment an answer passes, not when its request began: a stream may stand for days.
//! A list can be newer than what the gateway has read, so each definition in it is held against what is approved, and
//! news has the server read anew. Where tools are not pinned nothing is looked at. Never decides what is approved.

use std::sync::Arc;

use crate::{
    access::Permit,
    catalog::{
        pins::{Judgement, PinIndex},
        server::Server,
    },
    mcp::answer::Allows,
    snapshot::{Current, tools::Refresher},
};

/// What is approved, as it stands when it is asked for.
#[derive(Clone)]
pub struct Pinned {
    current: Arc<Current>,
    refresher: Refresher,
}

impl Pinned {
    /// By what the gateway believes from now on.
    pub fn new(current: &Arc<Current>, refresher: &Refresher) -> Self {
        Self { current: current.clone(), refresher: refresher.clone() }
    }

    /// What is approved now.
    pub fn now(&self) -> Arc<PinIndex> {
        self.current.load().pins.clone()
    }

    /// Which tools in lists the caller may see: those of the permit that are as they were approved.
    pub fn allows(&self, permit: &Permit) -> Allows {
        let (pinned, permit) = (self.clone(), permit.clone());
        Box::new(move |tool, raw| permit.tools().allows(tool) && pinned.shows(permit.server(), tool, raw))
    }

    fn shows(&self, server: &Server, tool: &str, raw: &str) -> bool {
        match self.now().judge(server, tool, raw) {
            Judgement::Shown => true,
            Judgement::Withheld => false,
            Judgement::News => {
                self.refresher.read_unless_fresh(&server.id);
                false
            }
        }
    }
}
