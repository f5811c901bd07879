//! Which tools of a server may be shown as they are now, where its tools are pinned.
//!
//! Decides by what each server was last read to say of a tool and what of it was approved: first sight, or an
//! operator. A server that may change its tools as it likes (`pin = false`) has everything shown. What is not known
//! to be approved is withheld, before the database has said anything too. Never knows callers, never waits.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    server::Server,
    tools::{Source, Tool, ToolIndex, ToolList},
};
use crate::names::{Digest, ServerId};

/// Why a call of a tool that is withheld is refused; only the log says it.
pub const WITHHELD: &str =
    "it is withheld: it changed or is new, and nobody has approved it (`portcullis tools list`)";

/// What is approved of a server, by the tool's name.
pub type Approved = HashMap<String, Digest>;

/// What was read and what is approved of every server.
#[derive(Debug, Clone, Default)]
pub struct PinIndex {
    servers: BTreeMap<ServerId, Pins>,
}

#[derive(Debug, Clone, Default)]
struct Pins {
    /// All tools, shown or not, as last read.
    read: Option<Arc<ToolList>>,
    /// None before the database has said.
    approved: Option<Arc<Approved>>,
}

impl Pins {
    fn is_approved(&self, tool: &str, digest: Digest) -> bool {
        self.approved.as_ref().is_some_and(|approved| approved.get(tool) == Some(&digest))
    }

    fn read(&self) -> impl Iterator<Item = &Arc<Tool>> {
        self.read.iter().flat_map(|read| read.iter())
    }

    fn find(&self, tool: &str) -> Option<&Arc<Tool>> {
        self.read.as_ref()?.get(tool)
    }

    fn shows(&self, tool: &Tool) -> bool {
        self.is_approved(tool.name.as_str(), tool.source.digest())
    }
}

impl PinIndex {
    /// The same index with this list as what was last read of the server.
    pub fn with_read(&self, server: ServerId, read: Arc<ToolList>) -> Self {
        self.changed(server, |pins| pins.read = Some(read))
    }

    /// The same index with this as what is approved of the server.
    pub fn with_approved(&self, server: ServerId, approved: Arc<Approved>) -> Self {
        self.changed(server, |pins| pins.approved = Some(approved))
    }

    fn changed(&self, server: ServerId, change: impl FnOnce(&mut Pins)) -> Self {
        let mut servers = self.servers.clone();
        change(servers.entry(server).or_default());
        Self { servers }
    }

    /// The same index with only the servers for which `keep` holds.
    pub fn retain(&self, keep: impl Fn(&ServerId) -> bool) -> Self {
        let servers = self.servers.iter().filter(|(server, _)| keep(server));
        Self { servers: servers.map(|(server, pins)| (server.clone(), pins.clone())).collect() }
    }

    /// All that was last read of the server, shown or not; none where it never was.
    pub fn read(&self, server: &ServerId) -> Option<&Arc<ToolList>> {
        self.servers.get(server)?.read.as_ref()
    }

    /// Of what was last read of the server, what may be shown.
    pub fn shown(&self, server: &Server) -> Option<Arc<ToolList>> {
        let pins = self.servers.get(&server.id)?;
        let read = pins.read.as_ref()?;
        if !server.is_pinned || read.iter().all(|tool| pins.shows(tool)) {
            return Some(read.clone());
        }
        Some(Arc::new(read.retain(|tool| pins.shows(tool))))
    }

    /// The tools of the server that were read and may not be shown.
    pub fn withheld<'i>(&'i self, server: &Server) -> impl Iterator<Item = &'i Arc<Tool>> + use<'i> {
        let pins = self.servers.get(&server.id).filter(|_| server.is_pinned);
        pins.into_iter().flat_map(|pins| pins.read().filter(move |tool| !pins.shows(tool)))
    }

    /// Whether a tool of this name was read and may not be shown.
    pub fn withholds(&self, server: &Server, tool: &str) -> bool {
        let pins = self.servers.get(&server.id).filter(|_| server.is_pinned);
        pins.is_some_and(|pins| pins.find(tool).is_some_and(|tool| !pins.shows(tool)))
    }

    /// Whether a call may go to the server itself by this name: of what was approved, and not seen to have changed.
    pub fn may_call(&self, server: &Server, tool: &str) -> bool {
        if !server.is_pinned {
            return true;
        }
        let pins = self.servers.get(&server.id);
        let is_approved =
            pins.and_then(|pins| pins.approved.as_ref()).is_some_and(|of| of.contains_key(tool));
        is_approved && !self.withholds(server, tool)
    }

    /// How a tool that the server lists at this moment stands, by what it says of it.
    pub fn judge(&self, server: &Server, tool: &str, raw: &str) -> Judgement {
        if !server.is_pinned {
            return Judgement::Shown;
        }
        let digest = Source::of_definition(raw).digest();
        let pins = self.servers.get(&server.id);
        if pins.is_some_and(|pins| pins.is_approved(tool, digest)) {
            return Judgement::Shown;
        }
        let read = pins.and_then(|pins| pins.find(tool));
        if read.is_some_and(|read| read.source.digest() == digest) {
            return Judgement::Withheld;
        }
        Judgement::News
    }

    /// The tool that is withheld and would be called like this among all servers' tools.
    pub fn withholds_exposed<'s>(
        &self,
        servers: impl IntoIterator<Item = &'s Arc<Server>>,
        tools: &ToolIndex,
        name: &str,
    ) -> bool {
        servers.into_iter().any(|server| {
            self.withheld(server).any(|tool| tools.exposed_name(&server.id, tool.name.as_str()) == name)
        })
    }
}

/// How a tool stands that is listed at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It may be shown.
    Shown,
    /// It is known to wait for an approval.
    Withheld,
    /// It may not be shown, and the gateway has not read it like this yet.
    News,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::catalog::server::tests_support::server;

    fn list(tools: &[(&str, &str)]) -> Arc<ToolList> {
        let tools: Vec<_> = tools.iter().map(|(name, text)| definition(name, text)).collect();
        Arc::new(ToolList::from_mcp(&[json!({"tools": tools}).to_string()]).unwrap().0)
    }

    fn definition(name: &str, text: &str) -> serde_json::Value {
        json!({"name": name, "description": text, "inputSchema": {"type": "object", "$defs": {"D": {"title": text}},
            "properties": {"a": {"$ref": "#/$defs/D"}}}})
    }

    fn approved(tools: &[(&str, &str)]) -> Arc<Approved> {
        let sources = tools
            .iter()
            .map(|(name, text)| (name, Source::of_definition(&definition(name, text).to_string())));
        Arc::new(sources.map(|(name, source)| ((*name).to_owned(), source.digest())).collect())
    }

    fn pinned() -> Server {
        Server { is_pinned: true, ..Server::clone(&server("github")) }
    }

    fn names(list: &ToolList) -> Vec<&str> {
        list.iter().map(|tool| tool.name.as_str()).collect()
    }

    #[test]
    fn of_a_pinned_server_only_what_is_approved_as_it_is_now_is_shown() {
        let pinned = pinned();
        let id = || pinned.id.clone();
        let read =
            PinIndex::default().with_read(id(), list(&[("kept", "1"), ("changed", "EVIL"), ("new", "EVIL")]));
        assert!(read.shown(&pinned).unwrap().is_empty(), "nothing is known to be approved yet");
        assert!(!read.may_call(&pinned, "kept") && read.withholds(&pinned, "kept"));
        let pins = read.with_approved(id(), approved(&[("kept", "1"), ("changed", "1"), ("gone", "1")]));
        let shown = pins.shown(&pinned).unwrap();
        assert_eq!(names(&shown), ["kept"]);
        assert!(!format!("{shown:?}").contains("EVIL"), "{shown:?}");
        let withheld: Vec<_> = pins.withheld(&pinned).map(|tool| tool.name.as_str()).collect();
        assert_eq!(withheld, ["changed", "new"]);
        for (tool, may_call) in
            [("kept", true), ("changed", false), ("new", false), ("gone", true), ("never", false)]
        {
            assert_eq!(pins.may_call(&pinned, tool), may_call, "{tool}");
        }
        let tools = ToolIndex::of_servers([&pinned.id]);
        let servers = [Arc::new(pinned.clone())];
        assert!(pins.withholds_exposed(&servers, &tools, "github_new"));
        assert!(!pins.withholds_exposed(&servers, &tools, "github_kept"));
    }

    #[test]
    fn what_is_listed_at_this_moment_is_held_against_what_is_approved() {
        let pinned = pinned();
        let pins = PinIndex::default()
            .with_read(pinned.id.clone(), list(&[("a", "1"), ("b", "2")]))
            .with_approved(pinned.id.clone(), approved(&[("a", "1"), ("b", "1")]));
        let judge = |name: &str, text: &str| pins.judge(&pinned, name, &definition(name, text).to_string());
        assert_eq!(judge("a", "1"), Judgement::Shown);
        assert_eq!(judge("a", "2"), Judgement::News);
        assert_eq!(judge("b", "1"), Judgement::Shown);
        assert_eq!(judge("b", "2"), Judgement::Withheld);
        assert_eq!(judge("c", "1"), Judgement::News);
        assert!(PinIndex::default().shown(&pinned).is_none());
        assert_eq!(PinIndex::default().judge(&pinned, "a", "{}"), Judgement::News);
        assert_eq!(pins.judge(&server("github"), "c", "{}"), Judgement::Shown);
    }

    #[test]
    fn a_server_that_is_not_pinned_has_everything_shown() {
        let free = server("github");
        let pins = PinIndex::default().with_read(free.id.clone(), list(&[("a", "1")]));
        let pins = pins.with_approved(free.id.clone(), Arc::default());
        assert_eq!(names(&pins.shown(&free).unwrap()), ["a"]);
        assert_eq!(pins.withheld(&free).count(), 0);
        assert!(!pins.withholds(&free, "a") && pins.may_call(&free, "b"));
    }
}
