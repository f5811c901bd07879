//! What a configuration was read from: which files, and what stood in them, key by key, as digests.
//!
//! Decides what another configuration says differently, in names of keys and servers, never in values.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    path::PathBuf,
};

use sha2::{Digest as _, Sha256};

use super::wording::printable;

/// The largest file that is read to see whether it has changed.
const LARGEST: u64 = 64 * 1024 * 1024;

/// What stands in a file, as a number that tells nothing of it; none where it cannot be read.
type Content = Option<[u8; 32]>;

/// The files of a configuration and what stood in each at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files(BTreeMap<PathBuf, Content>);

impl Files {
    /// These files as they are now. Reads them, so not where somebody waits.
    pub fn now(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let content = |path: PathBuf| {
            let mut bytes = Vec::new();
            // Opening a pipe would wait for who writes to it.
            let is_file = fs::metadata(&path).is_ok_and(|about| about.is_file());
            let read = is_file.then(|| fs::File::open(&path).ok()).flatten();
            let read = read.and_then(|file| file.take(LARGEST).read_to_end(&mut bytes).ok());
            (path, read.map(|_| Sha256::digest(&bytes).into()))
        };
        Self(paths.into_iter().map(content).collect())
    }

    /// These, with what stood in some of them a moment before.
    pub fn with(mut self, before: Self) -> Self {
        self.0.extend(before.0);
        self
    }

    /// The same files as they are now.
    pub fn again(&self) -> Self {
        Self::now(self.0.keys().cloned())
    }

    /// Which files are others than they were, by name.
    pub fn differences<'f>(&'f self, before: &'f Self) -> impl Iterator<Item = &'f PathBuf> {
        let is_other = |(path, content): &(&PathBuf, &Content)| before.0.get(*path) != Some(content);
        self.0.iter().filter(is_other).map(|(path, _)| path)
    }

    /// A number that is the same on every machine with the same content, whatever the files are called there.
    pub fn number(&self) -> u64 {
        let mut digest = Sha256::new();
        for (path, content) in &self.0 {
            digest.update(path.file_name().unwrap_or_default().as_encoded_bytes());
            digest.update(content.unwrap_or_default());
        }
        // As many bits as a metric can tell exactly.
        digest.finalize()[..6].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// Every key that a configuration sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    keys: BTreeMap<String, [u8; 32]>,
    servers: BTreeMap<String, [u8; 32]>,
}

/// What a configuration says differently than another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// Keys of `gateway.toml`.
    pub keys: Vec<String>,
    /// Servers that were not there.
    pub added: Vec<String>,
    /// Servers that are there no more.
    pub removed: Vec<String>,
    /// Servers that are others.
    pub changed: Vec<String>,
}

impl Written {
    /// What the two files set; nothing of one that is not TOML.
    pub(super) fn of(gateway: &str, servers: &str) -> Self {
        let mut written = Self::default();
        let table = |text: &str| text.parse::<toml::Table>().unwrap_or_default();
        note("", &table(gateway), &mut written.keys);
        let mut servers = table(servers);
        if let Some(toml::Value::Table(servers)) = servers.remove("servers") {
            written.servers =
                servers.iter().map(|(id, value)| (printable(id).into_owned(), digest(value))).collect();
        }
        written
    }

    /// What this says differently than `before`.
    pub fn differences(&self, before: &Self) -> Differences {
        let other =
            |now: &BTreeMap<String, [u8; 32]>, then: &BTreeMap<String, [u8; 32]>| -> BTreeSet<String> {
                now.iter()
                    .filter(|(key, value)| then.get(*key) != Some(value))
                    .map(|(key, _)| key.clone())
                    .collect()
            };
        let mut keys = other(&self.keys, &before.keys);
        keys.extend(other(&before.keys, &self.keys));
        let is_new = |id: &String| !before.servers.contains_key(id);
        let (added, changed) = other(&self.servers, &before.servers).into_iter().partition(is_new);
        let removed = before.servers.keys().filter(|id| !self.servers.contains_key(*id)).cloned().collect();
        Differences { keys: keys.into_iter().collect(), added, removed, changed }
    }
}

fn note(path: &str, table: &toml::Table, keys: &mut BTreeMap<String, [u8; 32]>) {
    for (key, value) in table {
        let path =
            if path.is_empty() { printable(key).into_owned() } else { format!("{path}.{}", printable(key)) };
        match value {
            toml::Value::Table(inner) => note(&path, inner, keys),
            value => drop(keys.insert(path, digest(value))),
        }
    }
}

fn digest(value: &toml::Value) -> [u8; 32] {
    Sha256::digest(value.to_string()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(before: (&str, &str), now: (&str, &str), expected: [&[&str]; 4]) {
        let written = |(gateway, servers): (&str, &str)| Written::of(gateway, servers);
        let Differences { keys, added, removed, changed } = written(now).differences(&written(before));
        assert_eq!([keys, added, removed, changed], expected.map(|names| names.to_vec()));
    }

    #[test]
    fn differences_are_named_and_no_value_is() {
        check(("", ""), ("", ""), [&[], &[], &[], &[]]);
        check(("# a\nlog.filter = 'info'", ""), ("[log]\nfilter = \"info\" # b", ""), [&[], &[], &[], &[]]);
        check(
            ("[log]\nfilter = 'a'\n[auth.service_keys.n]\nkey = 'x'", "[servers.a]\nurl = '1'\n[servers.b]"),
            ("[log]\nfilter = 'b'\naccess = true", "[servers.a]\nurl = '2'\n[servers.c]"),
            [&["auth.service_keys.n.key", "log.access", "log.filter"], &["c"], &["b"], &["a"]],
        );
    }

    #[test]
    fn a_file_has_changed_when_what_stands_in_it_has_or_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), "1").unwrap();
        let before = Files::now(["a", "b"].map(path));
        let changed = |now: &Files| now.differences(&before).cloned().collect::<Vec<_>>();
        fs::write(path("a"), "1").unwrap();
        assert_eq!(before.again(), before, "it was only written again");
        fs::write(path("b"), "").unwrap();
        assert_eq!(changed(&before.again()), [path("b")]);
        fs::remove_file(path("a")).unwrap();
        assert_eq!(changed(&before.again()), [path("a"), path("b")]);
        assert_ne!(before.again().number(), before.number());
    }
}
