//! What servers offer besides tools: prompts, resources and templates, and what they say about themselves.
//!
//! Decides the names of prompts where all servers' stand side by side. Never decides who sees them, and never fetches
//! anything: `snapshot` does. All of it is a server's word and is treated as such: bounded, and never followed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use super::tools::{Definition, exposed::Neighbours};
use crate::names::ServerId;

mod reading;

pub use reading::{Kind, read};

/// Something a server offers, other than a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// What it is called by at its server: a prompt's name, a resource's URI, a template's URI template.
    pub key: String,
    /// What clients are told of it, split around that key.
    pub definition: Definition,
}

/// What a server says about itself, and how its lists stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Whether it speaks a revision without sessions.
    pub is_modern: bool,
    /// The revisions it was found to speak; empty for a server of OpenAPI.
    pub versions: Vec<String>,
    /// `capabilities`, a raw JSON object.
    pub capabilities: String,
    /// What it tells models about its use.
    pub instructions: Option<String>,
    /// `serverInfo`, a raw JSON object.
    pub info: Option<String>,
    /// For how many milliseconds after `read_at` the server said its lists hold, the shortest of them; 0 where it says nothing.
    pub ttl_ms: u64,
    /// Whether the server said of all its lists that anybody may share them.
    pub is_public: bool,
    /// When its lists were last read well.
    pub read_at: SystemTime,
    /// Whether they could not be read since.
    pub is_stale: bool,
}

impl About {
    /// Whether the server has this capability, whatever it says of it.
    pub fn has_capability(&self, name: &str) -> bool {
        let capabilities: Result<BTreeMap<&str, serde::de::IgnoredAny>, _> =
            serde_json::from_str(&self.capabilities);
        capabilities.is_ok_and(|capabilities| capabilities.contains_key(name))
    }
}

/// What one server offers besides tools, each list ordered by key and without repetition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offers {
    /// Prompts, by name.
    pub prompts: Vec<Offer>,
    /// Resources, by URI.
    pub resources: Vec<Offer>,
    /// Templates of resources, by URI template.
    pub templates: Vec<Offer>,
    /// The server about itself.
    pub about: About,
}

impl Offers {
    /// The prompt of this name at its server.
    pub fn prompt(&self, name: &str) -> Option<&Offer> {
        find(&self.prompts, name)
    }

    /// The resource at this URI of its server.
    pub fn resource(&self, uri: &str) -> Option<&Offer> {
        find(&self.resources, uri)
    }

    /// Whether clients are told the same by these and by others, whenever they were read.
    pub fn say_the_same(&self, other: &Offers) -> bool {
        let lists = (&self.prompts, &self.resources, &self.templates);
        let about =
            About { read_at: self.about.read_at, is_stale: self.about.is_stale, ..other.about.clone() };
        lists == (&other.prompts, &other.resources, &other.templates) && self.about == about
    }
}

fn find<'o>(offers: &'o [Offer], key: &str) -> Option<&'o Offer> {
    offers.binary_search_by(|offer| offer.key.as_str().cmp(key)).ok().map(|at| &offers[at])
}

/// The offers of all servers whose lists were ever read, whatever they speak.
#[derive(Debug, Clone, Default)]
pub struct OfferIndex {
    neighbours: Neighbours,
    servers: BTreeMap<ServerId, Entry>,
}

/// One server's offers, and what its prompts are called among all.
#[derive(Debug, Clone)]
struct Entry {
    offers: Arc<Offers>,
    prompts: Arc<PromptNames>,
}

#[derive(Debug, Default)]
struct PromptNames {
    /// In the order of the prompts.
    names: Vec<String>,
    places: HashMap<String, usize>,
}

impl OfferIndex {
    /// No offers yet, of the servers of this configuration.
    pub fn of_servers<'s>(servers: impl IntoIterator<Item = &'s ServerId>) -> Self {
        Self { neighbours: Neighbours::new(servers), ..Self::default() }
    }

    /// The offers of those servers for which `keep` holds, as they are called among the servers of another configuration.
    pub fn among<'s>(
        &self,
        servers: impl IntoIterator<Item = &'s ServerId>,
        keep: impl Fn(&ServerId) -> bool,
    ) -> Self {
        let kept = self.servers.iter().filter(|(server, _)| keep(server));
        kept.fold(Self::of_servers(servers), |index, (server, entry)| {
            index.with(server.clone(), entry.offers.clone())
        })
    }

    /// What this server offers; none when its lists were never read.
    pub fn get(&self, server: &str) -> Option<&Arc<Offers>> {
        self.servers.get(server).map(|entry| &entry.offers)
    }

    /// The servers and their offers, ordered by id.
    pub fn iter(&self) -> impl Iterator<Item = (&ServerId, &Arc<Offers>)> {
        self.servers.iter().map(|(server, entry)| (server, &entry.offers))
    }

    /// The prompt with this name among all servers' prompts.
    pub fn prompt(&self, exposed: &str) -> Option<(&ServerId, &Offer)> {
        let holders = self.servers.iter().filter(|(server, _)| Neighbours::may_name(server, exposed));
        holders
            .filter_map(|(server, entry)| {
                Some((server, entry.offers.prompts.get(*entry.prompts.places.get(exposed)?)?))
            })
            .next()
    }

    /// A server's prompts with their names among all servers' prompts, ordered by their own.
    pub fn exposed_prompts(&self, server: &str) -> impl Iterator<Item = (&str, &Offer)> {
        let entry = self.servers.get(server).into_iter();
        entry.flat_map(|entry| entry.prompts.names.iter().map(String::as_str).zip(&entry.offers.prompts))
    }

    /// The same index with these offers in place of the server's former ones.
    pub fn with(&self, server: ServerId, offers: Arc<Offers>) -> OfferIndex {
        let known = self.servers.get(&server).filter(|known| known.offers.prompts == offers.prompts);
        let prompts = known.map(|known| known.prompts.clone()).unwrap_or_else(|| {
            let names = offers.prompts.iter().map(|prompt| self.neighbours.exposed(&server, &prompt.key));
            let names: Vec<String> = names.collect();
            let places = names.iter().cloned().enumerate().map(|(place, name)| (name, place)).collect();
            Arc::new(PromptNames { names, places })
        });
        let mut servers = self.servers.clone();
        servers.insert(server, Entry { offers, prompts });
        Self { neighbours: self.neighbours.clone(), servers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(prompts: &[&str]) -> Offers {
        let prompts: Vec<_> = prompts.iter().map(|name| serde_json::json!({"name": name})).collect();
        let page = serde_json::json!({"prompts": prompts}).to_string();
        let (prompts, _) = read(Kind::Prompts, &[page]).unwrap();
        let about = About {
            is_modern: true,
            versions: Vec::new(),
            capabilities: r#"{"prompts":{}}"#.into(),
            instructions: None,
            info: None,
            ttl_ms: 0,
            is_public: true,
            read_at: SystemTime::now(),
            is_stale: false,
        };
        Offers { prompts, resources: Vec::new(), templates: Vec::new(), about }
    }

    #[test]
    fn a_prompt_is_found_by_its_name_among_all_and_by_no_other() {
        let ids = ["one", "two"].map(|id| ServerId::parse(id).unwrap());
        let index = OfferIndex::of_servers(&ids)
            .with(ids[0].clone(), Arc::new(offers(&["plain", "with space", "\u{e9}"])))
            .with(ids[1].clone(), Arc::new(offers(&["plain"])));
        for (server, known) in index.iter() {
            for ((exposed, offer), prompt) in index.exposed_prompts(server.as_str()).zip(&known.prompts) {
                assert_eq!(offer, prompt);
                assert_eq!(index.prompt(exposed), Some((server, prompt)));
            }
        }
        let found =
            |name: &str| index.prompt(name).map(|(server, prompt)| (server.as_str(), prompt.key.as_str()));
        assert_eq!(found("two_plain"), Some(("two", "plain")));
        assert_eq!((found("one_with space"), found("one_with_space"), found("plain")), (None, None, None));
        assert_eq!(index.exposed_prompts("one").count(), 3);
        assert_eq!(index.get("one").unwrap().prompt("with space").unwrap().key, "with space");
        assert!(index.with(ids[0].clone(), Arc::new(offers(&[]))).prompt("one_plain").is_none());
    }

    #[test]
    fn a_younger_reading_says_the_same_and_another_list_does_not() {
        let first = offers(&["a"]);
        let younger = Offers {
            about: About { read_at: SystemTime::UNIX_EPOCH, is_stale: true, ..first.about.clone() },
            ..first.clone()
        };
        assert!(first.say_the_same(&younger) && first != younger);
        assert!(!first.say_the_same(&offers(&["b"])));
        let instructed = About { instructions: Some("read".into()), ..first.about.clone() };
        assert!(!first.say_the_same(&Offers { about: instructed, ..first.clone() }));
        assert!(first.about.has_capability("prompts") && !first.about.has_capability("tools"));
    }
}
