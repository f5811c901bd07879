//! All servers' tools together, as one immutable value.
//!
//! Decides under which names tools and schemas of different servers stand side by side. Never decides
//! who sees them. A change makes a new index that shares all that did not change.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Result;

use super::{
    Fragment, Shape, Tool, ToolList, operation_id,
    schemas::{COMPONENTS, References},
};
use crate::names::ServerId;

/// The tools of all servers whose tool list is known.
#[derive(Debug, Clone, Default)]
pub struct ToolIndex {
    servers: BTreeMap<ServerId, Arc<Entry>>,
    /// Operation ids of each server's tools, in the order of its list.
    operation_ids: BTreeMap<ServerId, Arc<[String]>>,
}

/// One server's tools, ready to stand in a document beside others.
#[derive(Debug)]
struct Entry {
    list: Arc<ToolList>,
    /// In the order of the list.
    shapes: Vec<Shape>,
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
    /// The tools of this server; none when its list was never read.
    pub fn get(&self, server: &str) -> Option<&Arc<ToolList>> {
        self.servers.get(server).map(|entry| &entry.list)
    }

    /// The tool with this name at this server.
    pub fn find(&self, server: &str, tool: &str) -> Option<&Arc<Tool>> {
        self.get(server)?.get(tool)
    }

    /// The servers and their tools, ordered by id.
    pub fn iter(&self) -> impl Iterator<Item = (&ServerId, &Arc<ToolList>)> {
        self.servers.iter().map(|(server, entry)| (server, &entry.list))
    }

    /// The same index with this list in place of the server's former one.
    pub fn with(&self, server: ServerId, list: Arc<ToolList>) -> ToolIndex {
        let mut references = Prefix(&server);
        let shapes = list.iter().map(|tool| tool.shape.with_references(&mut references)).collect();
        let components = list
            .components
            .iter()
            .map(|(name, schema)| (prefixed(&server, name), schema.with_references(&mut references)))
            .collect();
        let mut servers = self.servers.clone();
        servers.insert(server, Arc::new(Entry { list, shapes, components }));
        Self::new(servers)
    }

    /// The same index with only the servers for which `keep` holds.
    pub fn retain(&self, keep: impl Fn(&ServerId) -> bool) -> ToolIndex {
        let mut servers = self.servers.clone();
        servers.retain(|server, _| keep(server));
        Self::new(servers)
    }

    /// A server's tools as documents show them, ordered by name.
    pub fn listed(&self, server: &str) -> impl Iterator<Item = Listed<'_>> {
        let entry = self.servers.get(server).zip(self.operation_ids.get(server));
        entry.into_iter().flat_map(|(entry, operation_ids)| {
            let parts = entry.list.iter().zip(&entry.shapes).zip(&**operation_ids);
            parts.map(|((tool, shape), operation_id)| Listed { tool, operation_id, shape })
        })
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
        let mut named = Named::default();
        for listed in tools {
            listed.shape.with_references(&mut named);
        }
        let components = self.servers.get(server).map(|entry| &entry.components);
        let mut followed = BTreeMap::new();
        while let Some(name) = named.0.pop() {
            let component = components.and_then(|components| components.get_key_value(&name));
            if let Some((name, schema)) = component
                && followed.insert(&**name, schema).is_none()
            {
                schema.with_references(&mut named);
            }
        }
        followed.into_iter()
    }

    fn new(servers: BTreeMap<ServerId, Arc<Entry>>) -> Self {
        let tools: Vec<_> = servers
            .iter()
            .flat_map(|(server, entry)| entry.list.iter().map(move |tool| (server, &tool.name)))
            .collect();
        let mut assigned = operation_id::assign(&tools).into_iter();
        let operation_ids = servers
            .iter()
            .map(|(server, entry)| (server.clone(), assigned.by_ref().take(entry.list.len()).collect()))
            .collect();
        Self { servers, operation_ids }
    }
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
