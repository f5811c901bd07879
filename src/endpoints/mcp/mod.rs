//! What the gateway answers itself as an MCP server: its greeting, and lists of all that a caller may use.
//!
//! Decides the content, order and pages of lists, all from memory. Shows only servers and tools that were handed in as
//! the caller's. Never asks a server, and never seals a cursor: a page says behind what it ends.

mod greeting;

use std::time::{Duration, SystemTime};

use super::{Visible, meta, openapi::Scope};
use crate::{
    catalog::{
        offers::{About, Offer, Offers},
        tools::Definition,
    },
    mcp::{splice, uri},
    names::ServerId,
    snapshot::Snapshot,
};
pub use greeting::{discover, hello};
pub use meta::definitions as meta_tools;

/// A page ends when it has this many bytes, however few items those are.
const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Longest key a cursor holds; behind an item with a longer one no page ends.
const MAX_CURSOR_KEY: usize = 1_900;

/// What one caller is shown, and how.
#[derive(Debug, Clone, Copy)]
pub struct Shelf<'a> {
    /// Which servers: all with names that tell them apart, or one with its own names.
    pub scope: Scope<'a>,
    /// The servers the caller may use, and which of their tools.
    pub visible: &'a [Visible],
    /// What is believed.
    pub snapshot: &'a Snapshot,
    /// Whether the client speaks a revision without sessions.
    pub is_modern: bool,
    /// Most items on a page; at least one is shown.
    pub page_size: usize,
    /// Whether the meta tools stand in place of all servers' tools.
    pub has_meta_tools_only: bool,
    /// The time to measure the age of lists by.
    pub now: SystemTime,
    /// How often lists are read again: none is called fresh for longer.
    pub refresh: Duration,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The result, a raw JSON object without `nextCursor`.
    pub result: String,
    /// Where the next page begins; none on the last.
    pub next: Option<String>,
}

impl Page {
    /// The result with `nextCursor`.
    pub fn with_cursor(mut self, sealed: &str) -> String {
        // The result is an object of ours with members in it, so a comma belongs here.
        self.result.truncate(self.result.len().saturating_sub(1));
        self.result.push_str(r#","nextCursor":"#);
        self.result.push_str(&splice::quoted(sealed));
        self.result.push('}');
        self.result
    }
}

/// An item of a list.
struct Entry<'a> {
    server: &'a ServerId,
    /// Its name at its server, by which a server's items are in order.
    key: &'a str,
    shown: Shown<'a>,
    definition: &'a Definition,
}

/// What an item is called in a list.
enum Shown<'a> {
    As(&'a str),
    /// By its address, with its server in front.
    Outward,
}

/// Where a page begins: behind this item of this server.
#[derive(Clone, Copy)]
struct Place<'c> {
    server: &'c str,
    key: &'c str,
}

impl<'c> Place<'c> {
    fn read(cursor: &'c str) -> Self {
        let (server, key) = cursor.split_once('/').unwrap_or((cursor, ""));
        Self { server, key }
    }

    fn is_behind(place: Option<Self>, server: &ServerId, key: &str) -> bool {
        place.is_none_or(|place| (server.as_str(), key) > (place.server, place.key))
    }

    fn may_have_more(place: Option<Self>, server: &ServerId) -> bool {
        place.is_none_or(|place| server.as_str() >= place.server)
    }
}

impl<'a> Shelf<'a> {
    /// The servers shown, each once, ordered by id.
    fn servers(&self) -> Vec<&'a Visible> {
        let is_shown =
            |visible: &&Visible| visible.server.is_enabled && self.scope.includes(&visible.server.id);
        let mut servers: Vec<_> = self.visible.iter().filter(is_shown).collect();
        servers.sort_by(|one, other| one.server.id.cmp(&other.server.id));
        servers.dedup_by(|one, other| one.server.id == other.server.id);
        servers
    }

    fn about(&self, server: &ServerId) -> Option<&'a About> {
        self.snapshot.offers.get(server.as_str()).map(|offers| &offers.about)
    }

    /// For how long this answer holds: as long as all the servers it is made of said that theirs do.
    fn ttl(&self) -> Duration {
        let left = |visible: &&Visible| {
            let about = self.about(&visible.server.id).filter(|about| !about.is_stale)?;
            let age = self.now.duration_since(about.read_at).unwrap_or_default();
            Duration::from_millis(about.ttl_ms).checked_sub(age)
        };
        let servers = self.servers();
        let least = servers.iter().map(|visible| left(visible).unwrap_or_default()).min();
        least.unwrap_or_default().min(self.refresh)
    }

    /// The members that end every answer from memory, a comma in front.
    fn hints(&self, ttl: Duration) -> String {
        if !self.is_modern {
            return String::new();
        }
        // Whose lists these are depends on grants: nobody else may be shown them.
        format!(r#","resultType":"complete","ttlMs":{},"cacheScope":"private""#, ttl.as_millis())
    }

    fn page<'e>(
        &self,
        member: &str,
        entries: impl IntoIterator<Item = Entry<'e>>,
        place: Option<Place<'_>>,
    ) -> Page {
        let mut result = format!("{{\"{member}\":[").into_bytes();
        let (mut count, mut next) = (0_usize, None);
        let mut last: Option<(&ServerId, &str)> = None;
        let entries = entries.into_iter();
        for entry in entries.filter(|entry| Place::is_behind(place, entry.server, entry.key)) {
            if let Some((server, key)) = last {
                let is_full = count >= self.page_size || result.len() >= MAX_PAGE_BYTES;
                if is_full && key.len() <= MAX_CURSOR_KEY {
                    next = Some(format!("{server}/{key}"));
                    break;
                }
                result.push(b',');
            }
            match entry.shown {
                Shown::As(name) => entry.definition.write(name, &mut result),
                Shown::Outward => {
                    let address = uri::outward(entry.server.as_str(), entry.key);
                    entry.definition.write(&address, &mut result);
                }
            }
            count += 1;
            last = Some((entry.server, entry.key));
        }
        result.push(b']');
        result.extend_from_slice(self.hints(self.ttl()).as_bytes());
        result.push(b'}');
        Page { result: String::from_utf8(result).expect("texts and JSON written into memory"), next }
    }

    /// The servers of which a page that begins here may have something.
    fn servers_from(&self, place: Option<Place<'a>>) -> impl Iterator<Item = &'a Visible> {
        let servers = self.servers().into_iter();
        servers.filter(move |visible| Place::may_have_more(place, &visible.server.id))
    }
}

/// The page of `tools/list` that begins at this cursor, already opened.
pub fn tools(shelf: &Shelf<'_>, cursor: Option<&str>) -> Page {
    if shelf.has_meta_tools_only && shelf.scope == Scope::All {
        return meta_page(shelf);
    }
    let place = cursor.map(Place::read);
    let entries = shelf.servers_from(place).flat_map(|visible| {
        let server = &visible.server.id;
        let listed = shelf.snapshot.tools.listed(server.as_str());
        listed.filter(|listed| visible.tools.allows(listed.tool.name.as_str())).map(move |listed| {
            let key = listed.tool.name.as_str();
            let shown = match shelf.scope {
                Scope::All => Shown::As(listed.operation_id),
                Scope::One(_) => Shown::As(key),
            };
            Entry { server, key, shown, definition: listed.tool.definition_for(shelf.is_modern) }
        })
    });
    shelf.page("tools", entries, place)
}

/// The meta tools are the same as long as this process runs.
fn meta_page(shelf: &Shelf<'_>) -> Page {
    let tools = meta::definitions().join(",");
    Page { result: format!(r#"{{"tools":[{tools}]{}}}"#, shelf.hints(shelf.refresh)), next: None }
}

/// The page of `prompts/list` that begins at this cursor, already opened.
pub fn prompts(shelf: &Shelf<'_>, cursor: Option<&str>) -> Page {
    let place = cursor.map(Place::read);
    let entries = shelf.servers_from(place).flat_map(|visible| {
        let server = &visible.server.id;
        shelf.snapshot.offers.exposed_prompts(server.as_str()).map(move |(exposed, offer)| {
            let shown = match shelf.scope {
                Scope::All => Shown::As(exposed),
                Scope::One(_) => Shown::As(&offer.key),
            };
            Entry { server, key: &offer.key, shown, definition: &offer.definition }
        })
    });
    shelf.page("prompts", entries, place)
}

/// The page of `resources/list` that begins at this cursor, already opened.
pub fn resources(shelf: &Shelf<'_>, cursor: Option<&str>) -> Page {
    addresses(shelf, cursor, "resources", |offers| &offers.resources)
}

/// The page of `resources/templates/list` that begins at this cursor, already opened.
pub fn templates(shelf: &Shelf<'_>, cursor: Option<&str>) -> Page {
    addresses(shelf, cursor, "resourceTemplates", |offers| &offers.templates)
}

fn addresses(shelf: &Shelf<'_>, cursor: Option<&str>, member: &str, list: fn(&Offers) -> &[Offer]) -> Page {
    let place = cursor.map(Place::read);
    let entries = shelf.servers_from(place).flat_map(|visible| {
        let server = &visible.server.id;
        let offers = shelf.snapshot.offers.get(server.as_str()).into_iter().flat_map(|offers| list(offers));
        offers.map(move |offer| {
            let shown = match shelf.scope {
                Scope::All => Shown::Outward,
                Scope::One(_) => Shown::As(&offer.key),
            };
            Entry { server, key: &offer.key, shown, definition: &offer.definition }
        })
    });
    shelf.page(member, entries, place)
}

#[cfg(test)]
mod tests;
