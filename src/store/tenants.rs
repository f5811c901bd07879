//! Keys of tenants as their operator sees them: which there are, how they are sealed, and how they are changed.
//!
//! Decides which rows a new sealing key concerns. Never gives a key out; `load_grants` and `rows_about` do, to who
//! believes grants.

use super::{
    ANSWER, Database, EVERYTHING, Store, Write,
    sealed::{Row, Unreadable, key_id_of},
    within,
};
use crate::names::{GroupName, Secret, ServerId};

use anyhow::Context;

/// A key that is stored, without its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredKey {
    /// The group's name, as written.
    pub group: String,
    /// The server's id, as written.
    pub server: String,
    /// What the key is called.
    pub name: String,
    /// The id of the key it is sealed with, or why it cannot be read.
    pub sealed_with: Result<String, Unreadable>,
}

/// What sealing everything anew has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Rows that are sealed with the newest key now, and were not before.
    pub resealed: usize,
    /// Rows that were sealed with it already.
    pub current: usize,
    /// Rows that somebody changed meanwhile: they have what they were given.
    pub changed_meanwhile: usize,
    /// Rows that could not be read, and are as they were.
    pub unreadable: Vec<StoredKey>,
}

impl Store {
    /// Seals a group's key for a server, in the stead of the one that is there.
    pub async fn set_key(
        &self,
        group: &GroupName,
        server: &ServerId,
        name: &str,
        value: &Secret<String>,
    ) -> anyhow::Result<()> {
        let row = Row { group: group.as_str(), server: server.as_str(), name };
        let sealed = self.sealer.renewed()?.seal(row, value)?;
        self.write(Write::SetKey(row, &sealed)).await.map(drop)
    }

    /// Deletes a group's key for a server; gives back how many rows that were.
    pub async fn delete_key(&self, group: &GroupName, server: &ServerId, name: &str) -> anyhow::Result<u64> {
        self.write(Write::DeleteKey(Row { group: group.as_str(), server: server.as_str(), name })).await
    }

    /// All keys that are stored, in order of their names.
    pub async fn keys(&self) -> anyhow::Result<Vec<StoredKey>> {
        let sealer = self.sealer.renewed()?;
        let rows = self.stored_keys().await?;
        let mut keys: Vec<_> = rows
            .into_iter()
            .map(|[group, server, name, stored]| {
                let opened = sealer.open(Row { group: &group, server: &server, name: &name }, &stored);
                let sealed_with = opened.map(|_| key_id_of(&stored).unwrap_or_default().to_owned());
                StoredKey { group, server, name, sealed_with }
            })
            .collect();
        keys.sort();
        Ok(keys)
    }

    /// Seals every key that is sealed with an older one, or not at all, with the newest; running gateways notice each as
    /// they notice grants. A row that somebody changes at the same time keeps what they gave it.
    pub async fn reseal_keys(&self) -> anyhow::Result<Resealed> {
        let sealer = self.sealer.renewed()?;
        let newest = sealer.key_id();
        let mut done = Resealed::default();
        for [group, server, name, stored] in self.stored_keys().await? {
            let row = Row { group: &group, server: &server, name: &name };
            let value = match sealer.open(row, &stored) {
                Ok(_) if key_id_of(&stored) == newest.as_deref() => {
                    done.current += 1;
                    continue;
                }
                Ok(value) => value,
                Err(Unreadable::Plain) if !stored.is_empty() => Secret::new(stored.clone()),
                Err(unreadable) => {
                    let sealed_with = Err(unreadable);
                    done.unreadable.push(StoredKey { sealed_with, group, server, name });
                    continue;
                }
            };
            let sealed = sealer.seal(row, &value)?;
            match self.write(Write::ReplaceKey(row, &stored, &sealed)).await? {
                0 => done.changed_meanwhile += 1,
                _ => done.resealed += 1,
            }
        }
        Ok(done)
    }

    /// A number that is another when the keys that values are sealed with are: what could not be opened may be now.
    pub fn sealing_generation(&self) -> usize {
        self.sealer.generation()
    }

    async fn stored_keys(&self) -> anyhow::Result<Vec<[String; 4]>> {
        let read = async {
            match &self.database {
                Database::Postgres(database) => database.stored_keys().await,
                Database::Sqlite(database) => database.stored_keys().await,
            }
        };
        within(EVERYTHING.min(ANSWER * 6), read).await.context("could not read the keys of tenants")
    }
}
