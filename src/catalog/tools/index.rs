//! All servers' tools together, as one immutable value.
//!
//! Decides under which names tools and schemas of different servers stand side by side. Never decides
//! who sees them. A change makes a new index that shares all that did not change.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use anyhow::Result;

use super::{
    Fragment, Shape, Tool, ToolList,
    exposed::Neighbours,
    schemas::{COMPONENTS, References},
};
use crate::{
    catalog::search::{Text, Words},
    names::ServerId,
};

/// The tools of all servers whose tool list is known.
#[derive(Debug, Clone, Default)]
pub struct ToolIndex {
    neighbours: Neighbours,
    servers: BTreeMap<ServerId, Arc<Entry>>,
}

/// One server's tools, ready to stand in a document beside others.
#[derive(Debug)]
struct Entry {
    list: Arc<ToolList>,
    /// In the order of the list.
    shapes: Vec<Shape>,
    /// Names among all tools, in the order of the list.
    exposed: Vec<String>,
    by_exposed: HashMap<String, Arc<Tool>>,
    words: Words,
    components: BTreeMap<String, Fragment>,
}

/// A tool with what a document says about it.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'i> {
    /// The tool.
    pub tool: &'i Arc<Tool>,
    /// Its name among all tools: `^[A-Za-z0-9_-]{1,64}$`, the same for every caller.
    pub operation_id: &'i str,
    /// Its input and output, with references into [`ToolIndex::components`].
    pub shape: &'i Shape,
}

impl ToolIndex {
    /// No tools yet, of the servers of this configuration, whose ids decide how tools are called.
    pub fn of_servers<'s>(servers: impl IntoIterator<Item = &'s ServerId>) -> Self {
        Self { neighbours: Neighbours::new(servers), servers: BTreeMap::new() }
    }

    /// The tools of this server; none when its list was never read.
    pub fn get(&self, server: &str) -> Option<&Arc<ToolList>> {
        self.servers.get(server).map(|entry| &entry.list)
    }

    /// The tool with this name at this server.
    pub fn find(&self, server: &str, tool: &str) -> Option<&Arc<Tool>> {
        self.get(server)?.get(tool)
    }

    /// The tool with this name among all servers' tools: an operation id, or its name at `/mcp`.
    pub fn exposed(&self, name: &str) -> Option<(&ServerId, &Arc<Tool>)> {
        let holders = self.servers.iter().filter(|(server, _)| Neighbours::may_name(server, name));
        holders.filter_map(|(server, entry)| Some((server, entry.by_exposed.get(name)?))).next()
    }

    /// The servers and their tools, ordered by id.
    pub fn iter(&self) -> impl Iterator<Item = (&ServerId, &Arc<ToolList>)> {
        self.servers.iter().map(|(server, entry)| (server, &entry.list))
    }

    /// The same index with this list in place of the server's former one.
    pub fn with(&self, server: ServerId, list: Arc<ToolList>) -> ToolIndex {
        // Memory never refuses it; what had no words could be called and not found.
        let words = words(&server, &list).unwrap_or_default();
        self.with_words(server, list, words)
    }

    /// The same, with the list's [`words`], which take a while to make.
    pub fn with_words(&self, server: ServerId, list: Arc<ToolList>, words: Words) -> ToolIndex {
        let mut references = Prefix(&server);
        let shapes = list.iter().map(|tool| tool.shape.with_references(&mut references)).collect();
        let components = list
            .components
            .iter()
            .map(|(name, schema)| (prefixed(&server, name), schema.with_references(&mut references)))
            .collect();
        let exposed = list.iter().map(|tool| self.neighbours.exposed(&server, tool.name.as_str()));
        let exposed: Vec<String> = exposed.collect();
        let by_exposed = exposed.iter().cloned().zip(list.iter().cloned()).collect();
        let mut servers = self.servers.clone();
        let entry = Entry { list, shapes, exposed, by_exposed, words, components };
        servers.insert(server, Arc::new(entry));
        Self { neighbours: self.neighbours.clone(), servers }
    }

    /// The tools of those servers for which `keep` holds, as they are called among the servers of another configuration.
    pub fn among<'s>(
        &self,
        servers: impl IntoIterator<Item = &'s ServerId>,
        keep: impl Fn(&ServerId) -> bool,
    ) -> ToolIndex {
        let mut index = Self::of_servers(servers);
        for (server, entry) in self.servers.iter().filter(|(server, _)| keep(server)) {
            let exposed = |(tool, name): (&Arc<Tool>, &String)| {
                index.neighbours.exposed(server, tool.name.as_str()) == *name
            };
            if entry.list.iter().zip(&entry.exposed).all(exposed) {
                index.servers.insert(server.clone(), entry.clone());
            } else {
                index = index.with_words(server.clone(), entry.list.clone(), entry.words.clone());
            }
        }
        index
    }

    /// The same index with only the servers for which `keep` holds.
    pub fn retain(&self, keep: impl Fn(&ServerId) -> bool) -> ToolIndex {
        let mut servers = self.servers.clone();
        servers.retain(|server, _| keep(server));
        Self { neighbours: self.neighbours.clone(), servers }
    }

    /// A server's tools as documents show them, ordered by name.
    pub fn listed(&self, server: &str) -> impl Iterator<Item = Listed<'_>> {
        self.servers.get(server).into_iter().flat_map(|entry| {
            let parts = entry.list.iter().zip(&entry.shapes).zip(&entry.exposed);
            parts.map(|((tool, shape), operation_id)| Listed { tool, operation_id, shape })
        })
    }

    /// The one of [`Self::listed`] at this place.
    pub fn nth(&self, server: &str, place: usize) -> Option<Listed<'_>> {
        let entry = self.servers.get(server)?;
        let (shape, operation_id) = (entry.shapes.get(place)?, entry.exposed.get(place)?);
        Some(Listed { tool: entry.by_exposed.get(operation_id)?, operation_id, shape })
    }

    /// By what words a server's tools are found, those of its id among them.
    pub fn words(&self, server: &str) -> Option<&Words> {
        self.servers.get(server).map(|entry| &entry.words)
    }

    /// The schemas that a server's tools refer to, under names no other server's schema has.
    pub fn components(&self, server: &str) -> impl Iterator<Item = (&str, &Fragment)> {
        let entry = self.servers.get(server).into_iter();
        entry.flat_map(|entry| entry.components.iter().map(|(name, schema)| (&**name, schema)))
    }

    /// Those of [`Self::components`] that these tools of the server refer to, directly or through others.
    pub fn components_of<'i>(
        &'i self,
        server: &str,
        tools: &[Listed<'i>],
    ) -> impl Iterator<Item = (&'i str, &'i Fragment)> {
        let components = self.servers.get(server).map(|entry| &entry.components);
        let shapes = tools.iter().map(|listed| listed.shape);
        components.map(|components| referred(components, shapes)).unwrap_or_default().into_iter()
    }

    /// How a tool of this server is called among all servers' tools.
    pub fn exposed_name(&self, server: &ServerId, tool: &str) -> String {
        self.neighbours.exposed(server, tool)
    }
}

/// Those of `components` that these shapes refer to, directly or through others.
pub(super) fn referred<'c, 's>(
    components: &'c BTreeMap<String, Fragment>,
    shapes: impl Iterator<Item = &'s Shape>,
) -> BTreeMap<&'c str, &'c Fragment> {
    let mut named = Named::default();
    for shape in shapes {
        shape.with_references(&mut named);
    }
    let mut followed = BTreeMap::new();
    while let Some(name) = named.0.pop() {
        if let Some((name, schema)) = components.get_key_value(&name)
            && followed.insert(&**name, schema).is_none()
        {
            schema.with_references(&mut named);
        }
    }
    followed
}

/// By what words the tools of a list are found. Takes a millisecond for each hundred or so, so it is made before
/// anybody waits for it.
pub fn words(server: &ServerId, list: &ToolList) -> Result<Words> {
    let parameters: Vec<_> = list.iter().map(|tool| tool.definition.parameters()).collect();
    let texts = list.iter().zip(&parameters).map(|(tool, parameters)| Text {
        name: tool.name.as_str(),
        parameters,
        title: tool.summary.as_deref().unwrap_or_default(),
        description: &tool.description,
    });
    Words::new(server.as_str(), texts)
}

/// A server id has no dot, so the first one ends it and no two servers' names can be equal.
fn prefixed(server: &ServerId, component: &str) -> String {
    format!("{server}.{component}")
}

/// Points references at the schemas of one server.
struct Prefix<'s>(&'s ServerId);

impl References for Prefix<'_> {
    fn replace(&mut self, reference: &str) -> Option<String> {
        let component = reference.strip_prefix(COMPONENTS)?;
        Some(format!("{COMPONENTS}{}", prefixed(self.0, component)))
    }

    fn charge(&mut self, _bytes: usize) -> Result<()> {
        Ok(())
    }
}

/// Collects the names of the components that are referred to.
#[derive(Default)]
struct Named(Vec<String>);

impl References for Named {
    fn replace(&mut self, reference: &str) -> Option<String> {
        self.0.extend(reference.strip_prefix(COMPONENTS).map(str::to_owned));
        None
    }

    fn charge(&mut self, _bytes: usize) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_found_by_its_name_among_all_and_by_no_other() {
        let ids = ["a", "a_b", "unread"].map(|id| ServerId::parse(id).unwrap());
        let page = |tools: &[&str]| {
            let tools: Vec<_> = tools
                .iter()
                .map(|name| serde_json::json!({"name": name, "inputSchema": {"type": "object"}}))
                .collect();
            let (list, _) = ToolList::from_mcp(&[serde_json::json!({"tools": tools}).to_string()]).unwrap();
            Arc::new(list)
        };
        let index = ToolIndex::of_servers(&ids);
        let index =
            index.with(ids[0].clone(), page(&["b_c", "d", "dot.ted"])).with(ids[1].clone(), page(&["c"]));
        let mut count = 0;
        for (server, list) in index.iter() {
            for (listed, tool) in index.listed(server.as_str()).zip(list.iter()) {
                assert_eq!(index.exposed(listed.operation_id), Some((server, tool)));
                count += 1;
            }
        }
        assert_eq!(count, 4);
        let found =
            |name: &str| index.exposed(name).map(|(server, tool)| (server.as_str(), tool.name.as_str()));
        assert_eq!(found("a_b_c"), Some(("a_b", "c")));
        assert_eq!(found("a_d"), Some(("a", "d")));
        for unknown in ["", "a", "a_", "d", "a_dot_ted", "a_dot.ted", "unread_x", "a_b_d"] {
            assert_eq!(found(unknown), None, "{unknown}");
        }
        let names = |index: &ToolIndex| {
            index.listed("a").map(|listed| listed.operation_id.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&index), names(&index.retain(|id| id.as_str() == "a")));
        assert_eq!(index.with(ids[1].clone(), page(&[])).exposed("a_b_c"), None);
    }
}
