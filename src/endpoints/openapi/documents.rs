//! Documents kept in memory: written once per set of servers and tools, not once per request.
//!
//! Decides when a document can be used again. Never decides for whom: the key is exactly what the document
//! was written from, so callers with the same servers and tools share one and nobody else can be given it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use moka::{policy::EvictionPolicy, sync::Cache};
use sha2::{Digest, Sha256};

use super::{Encoding, Scope, document};
use crate::{access::ToolScope, catalog::tools::ToolIndex, endpoints::Visible, names::ServerId};

/// After this long without a request a document is forgotten; versions never come back.
const IDLE: Duration = Duration::from_secs(600);

/// A document in one coding, ready to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Strong entity tag, in quotes; differs from coding to coding (RFC 9110, section 8.8.3).
    pub etag: String,
    /// How `body` is packed.
    pub encoding: Encoding,
    /// The packed document.
    pub body: Bytes,
}

impl Rendered {
    /// Packs a document. Takes some tens of milliseconds for a megabyte.
    pub fn new(document: &Bytes, encoding: Encoding) -> Self {
        let digest = Sha256::digest(document);
        let digest: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        // Writing into memory does not fail; if it ever did, the plain bytes are right too.
        let (encoding, body) = match encoding.pack(document) {
            Ok(body) => (encoding, body),
            Err(_) => (Encoding::Identity, document.clone()),
        };
        let suffix = encoding.content_encoding().map(|word| format!("-{word}")).unwrap_or_default();
        Self { etag: format!("\"{digest}{suffix}\""), encoding, body }
    }
}

/// Whether the client has this document already (RFC 9110, section 13.1.2).
pub fn is_unchanged(if_none_match: &str, etag: &str) -> bool {
    // Our tags have no comma in them, so cutting other servers' tags in pieces is harmless.
    let mut given = if_none_match.split(',').map(str::trim);
    given.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// All that a document is written from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    only: Option<ServerId>,
    version: u64,
    shown: Box<[(ServerId, ToolScope)]>,
    encoding: Encoding,
}

impl Key {
    fn new(scope: Scope<'_>, version: u64, visible: &[Visible], encoding: Encoding) -> Self {
        let only = match scope {
            Scope::All => None,
            Scope::One(server) => Some(server.clone()),
        };
        let shown = visible.iter().filter(|visible| scope.includes(&visible.server.id));
        let shown = shown.map(|visible| (visible.server.id.clone(), visible.tools.clone())).collect();
        Self { only, version, shown, encoding }
    }

    fn size(&self) -> usize {
        let shown = self.shown.iter().map(|(_, tools)| size_of::<ServerId>() + tools.size());
        size_of::<Self>() + shown.sum::<usize>()
    }
}

/// The documents lately asked for, within a number of bytes.
#[derive(Debug, Clone)]
pub struct Documents {
    cache: Cache<Key, Arc<Rendered>>,
}

impl Documents {
    /// An empty store that keeps at most about this many bytes.
    pub fn new(max_bytes: u64) -> Self {
        let weigh = |key: &Key, rendered: &Arc<Rendered>| {
            let size = key.size() + size_of::<Rendered>() + rendered.etag.len() + rendered.body.len();
            u32::try_from(size).unwrap_or(u32::MAX)
        };
        // Least recently used, not least frequently: what a new version needs must be let in.
        let policy = EvictionPolicy::lru();
        let builder = Cache::builder().max_capacity(max_bytes).weigher(weigh);
        Self { cache: builder.eviction_policy(policy).time_to_idle(IDLE).build() }
    }

    /// The document, where it is in memory; else none, and `get` takes long.
    pub fn find(
        &self,
        scope: Scope<'_>,
        version: u64,
        visible: &[Visible],
        encoding: Encoding,
    ) -> Option<Arc<Rendered>> {
        self.cache.get(&Key::new(scope, version, visible, encoding))
    }

    /// The document of this scope for a caller who may use exactly these servers and tools. Where it is not in memory this
    /// takes many milliseconds: for a thread on which no request waits.
    ///
    /// `version` stands for all that the servers and `tools` say: it must be another one whenever a
    /// server's name or description or any tool list is another one. Equal questions asked at the same
    /// time wait for one answer.
    pub fn get(
        &self,
        scope: Scope<'_>,
        version: u64,
        visible: &[Visible],
        tools: &ToolIndex,
        encoding: Encoding,
    ) -> Arc<Rendered> {
        let key = Key::new(scope, version, visible, encoding);
        if let Some(rendered) = self.cache.get(&key) {
            return rendered;
        }
        let plain_key = Key { encoding: Encoding::Identity, ..key.clone() };
        let plain = self.cache.get_with(plain_key, || {
            Arc::new(Rendered::new(&document(scope, visible, tools).into(), Encoding::Identity))
        });
        match encoding {
            Encoding::Identity => plain,
            Encoding::Gzip | Encoding::Brotli => {
                self.cache.get_with(key, || Arc::new(Rendered::new(&plain.body, encoding)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        access::tools::ToolRule,
        endpoints::openapi::tests::{index, visible},
    };

    fn tools() -> ToolIndex {
        let given = json!({"openapi": "3.1.0", "paths": {"/a": {"post": {}}}});
        index([("one", given.clone()), ("two", given)])
    }

    /// Checks whether two questions, each scope, version and servers, share one answer.
    #[track_caller]
    fn check(first: (Scope<'_>, u64, &[&str]), second: (Scope<'_>, u64, &[&str]), is_shared: bool) {
        let documents = Documents::new(1 << 20);
        let ask = |(scope, version, servers): (Scope<'_>, u64, &[&str])| {
            let servers: Vec<_> = servers.iter().map(|id| visible(id)).collect();
            documents.get(scope, version, &servers, &tools(), Encoding::Gzip)
        };
        assert_eq!(Arc::ptr_eq(&ask(first), &ask(second)), is_shared, "{first:?} and {second:?}");
    }

    #[test]
    fn a_document_is_shared_by_callers_with_the_same_servers_only() {
        let one = ServerId::parse("one").unwrap();
        let two = ServerId::parse("two").unwrap();
        check((Scope::All, 1, &["one", "two"]), (Scope::All, 1, &["one", "two"]), true);
        check((Scope::All, 1, &["one", "two"]), (Scope::All, 1, &["one"]), false);
        check((Scope::All, 1, &["one"]), (Scope::All, 2, &["one"]), false);
        check((Scope::All, 1, &["one"]), (Scope::One(&one), 1, &["one"]), false);
        check((Scope::One(&one), 1, &["one"]), (Scope::One(&one), 1, &["one", "two"]), true);
        check((Scope::One(&one), 1, &["two"]), (Scope::One(&one), 1, &["one"]), false);
        check((Scope::One(&one), 1, &[]), (Scope::One(&two), 1, &[]), false);
    }

    #[test]
    fn a_document_is_shared_by_callers_with_the_same_tools_only() {
        let documents = Documents::new(1 << 20);
        let ask = |rules: &[(&str, &str)]| {
            let rules = rules.iter().map(|(effect, pattern)| ToolRule::parse(pattern, effect)).collect();
            let narrowed = Visible { tools: ToolScope::of(rules), ..visible("one") };
            documents.get(Scope::All, 1, &[narrowed], &tools(), Encoding::Gzip)
        };
        let (deny, allow) = (("deny", "a"), ("allow", "a"));
        let everything = ask(&[]);
        assert!(Arc::ptr_eq(&everything, &ask(&[])));
        assert!(Arc::ptr_eq(&ask(&[deny]), &ask(&[deny, deny])));
        // Alike in what they show today, and kept apart all the same: the key is what was written from.
        assert!(!Arc::ptr_eq(&everything, &ask(&[allow])));
        assert_eq!(everything.etag, ask(&[allow]).etag);
        assert_ne!(everything.etag, ask(&[deny]).etag);
        assert_ne!(ask(&[allow]).etag, ask(&[deny, allow]).etag);
    }

    #[test]
    fn tags_differ_from_coding_to_coding_and_follow_the_bytes() {
        let documents = Documents::new(1 << 20);
        let tag = |servers: &[Visible], encoding| {
            documents.get(Scope::All, 1, servers, &tools(), encoding).etag.clone()
        };
        let plain = tag(&[visible("one")], Encoding::Identity);
        let bare = plain.trim_matches('"');
        assert_eq!((plain.len(), bare.len()), (34, 32));
        assert_eq!(tag(&[visible("one")], Encoding::Gzip), format!("\"{bare}-gzip\""));
        assert_eq!(tag(&[visible("one")], Encoding::Brotli), format!("\"{bare}-br\""));
        assert_ne!(tag(&[visible("two")], Encoding::Identity), plain);
    }

    #[test]
    fn a_client_that_has_the_document_is_recognised() {
        for (if_none_match, expected) in [
            ("\"a-br\"", true),
            ("W/\"a-br\"", true),
            ("\"x\", \"a-br\"", true),
            ("*", true),
            ("", false),
            ("\"a\"", false),
            ("a-br", false),
        ] {
            assert_eq!(is_unchanged(if_none_match, "\"a-br\""), expected, "{if_none_match}");
        }
    }

    #[test]
    fn documents_stay_within_their_bytes() {
        let documents = Documents::new(8 * 1024);
        for version in 0..100 {
            documents.get(Scope::All, version, &[visible("one")], &tools(), Encoding::Identity);
        }
        documents.cache.run_pending_tasks();
        assert!(documents.cache.weighted_size() <= 8 * 1024 && documents.cache.entry_count() > 0);
        let newest = documents.cache.iter().map(|(key, _)| key.version).max();
        assert_eq!(newest, Some(99), "new versions push old ones out");
    }
}
