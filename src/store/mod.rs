//! The databases: the gateway's own grant tables, those it only reads, Open WebUI's and an earlier gateway's, and the
//! Redis that replicas count in.
//!
//! Decides how a grant is stored, how a change of it is noticed, and what a row means: the columns called
//! `tenant_id` become server ids here, and past this module there are only servers and groups.
//! Never decides who may do what: `snapshot` carries the rows to `access`. The only module that names `sqlx` and `redis`.

mod address;
pub mod api_keys;
pub mod audit;
mod changes;
pub mod import;
mod migrations;
pub mod openwebui;
mod pins;
mod postgres;
#[cfg(test)]
mod scratch;
mod sealed;
mod second_factor;
pub mod shared_counts;
pub mod signed_out;
mod sqlite;
mod sqlite_file;
mod tenants;
mod text;

use std::{future::Future, time::Duration};

use anyhow::Context;

pub use self::{
    address::DatabaseUrl,
    changes::{Changes, Cursor, Subject},
    openwebui::{OpenWebUi, Role, User},
    pins::{Definitions, Pin, SeenTool, Settled, Sighting, ToolChange, What},
    postgres::Listener,
    sealed::{LONGEST_VALUE, Row, SealingSettings, Unreadable},
    tenants::{Resealed, StoredKey},
};
use sealed::Sealer;

use crate::names::{Email, GroupName, Secret, ServerId, ToolPattern};

/// Which database, and how it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `postgres://…` or `sqlite:PATH`.
    pub url: DatabaseUrl,
    /// Schema of our tables (Postgres only).
    pub schema: String,
    /// Whether `run` brings the schema up to date by itself.
    pub auto_migrate: bool,
    /// What the keys of tenants are sealed with.
    pub sealing: SealingSettings,
}

/// One stored row, lent to whoever reads it; its texts are as written and not yet parsed. A text that is not UTF-8 is
/// empty, so that no name parses from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantRow<'a> {
    /// This user may use this server.
    User {
        /// The user's email.
        email: &'a str,
        /// The server's id.
        server: &'a str,
    },
    /// Members of this group may use this server.
    Group {
        /// The group's name.
        group: &'a str,
        /// The server's id.
        server: &'a str,
    },
    /// This user belongs to this group.
    Membership {
        /// The user's email.
        email: &'a str,
        /// The group's name.
        group: &'a str,
    },
    /// Tools of a server are allowed or denied to this user or group.
    Rule {
        /// `user` or `group`.
        kind: &'a str,
        /// The user's email or the group's name.
        subject: &'a str,
        /// The server's id.
        server: &'a str,
        /// Which tools, by name.
        pattern: &'a str,
        /// `allow` or `deny`.
        effect: &'a str,
    },
    /// A key of this group's own for a server.
    Key {
        /// The group's name.
        group: &'a str,
        /// The server's id.
        server: &'a str,
        /// What the key is called.
        name: &'a str,
        /// The key, or why it cannot be read.
        value: Result<&'a Secret<String>, Unreadable>,
    },
    /// An address of a server that is this group's own.
    Endpoint {
        /// The group's name.
        group: &'a str,
        /// The server's id.
        server: &'a str,
        /// The address.
        url: &'a str,
    },
}

/// What a rule does with the tools it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// These may be used, and others only where another rule allows them.
    Allow,
    /// These may not be used, whatever another rule says.
    Deny,
}

impl Effect {
    /// The word in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }

    /// Reads the word in the table.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Allow, Self::Deny].into_iter().find(|effect| effect.as_str() == text)
    }
}

/// Whom an operator means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom<'a> {
    /// This user.
    User(&'a Email),
    /// The members of this group.
    Group(&'a GroupName),
}

/// Takes rows one by one as they arrive.
pub type Sink<'a> = dyn for<'row> FnMut(GrantRow<'row>) + Send + 'a;

/// How long a question about a few rows may take: a database that is silent for longer counts as away.
const ANSWER: Duration = Duration::from_secs(10);
/// How long reading or migrating everything may take.
const EVERYTHING: Duration = Duration::from_secs(300);

/// The gateway's own database. Cloning is cheap: clones share the connections.
#[derive(Clone)]
pub struct Store {
    database: Database,
    sealer: Sealer,
}

#[derive(Clone)]
enum Database {
    Postgres(postgres::Database),
    Sqlite(Box<sqlite::Database>),
}

/// Runs the same method of whichever database this is.
macro_rules! ask {
    ($store:expr, $database:ident => $call:expr) => {
        match &$store.database {
            Database::Postgres($database) => $call.await,
            Database::Sqlite($database) => $call.await,
        }
    };
}
use ask;

impl Store {
    /// Prepares connections without making one, so it neither waits nor notices that the database is away.
    ///
    /// Connections belong to the runtime that first uses them: use one `Store` in one runtime.
    pub fn open(settings: &Settings) -> anyhow::Result<Self> {
        let database = match &settings.url {
            DatabaseUrl::Postgres(url) => {
                Database::Postgres(postgres::Database::open(url, &settings.schema)?)
            }
            DatabaseUrl::Sqlite(path) => Database::Sqlite(Box::new(sqlite::Database::open(path))),
        };
        Ok(Self { database, sealer: Sealer::new(settings.sealing.clone())? })
    }

    /// The same for what only reads: it makes no file.
    pub fn open_to_read(settings: &Settings) -> anyhow::Result<Self> {
        let store = Self::open(settings)?;
        let database = match &settings.url {
            DatabaseUrl::Postgres(_) => store.database,
            DatabaseUrl::Sqlite(path) => Database::Sqlite(Box::new(sqlite::Database::open_to_read(path))),
        };
        Ok(Self { database, ..store })
    }

    /// Whether changes are pushed (Postgres) or have to be polled for (SQLite).
    pub fn is_postgres(&self) -> bool {
        matches!(self.database, Database::Postgres(_))
    }

    /// Brings the tables up to date; stores that do this at the same time wait for each other.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        within(EVERYTHING, async { ask!(self, database => database.migrate()) })
            .await
            .context("could not bring the database up to date")
    }

    /// How many migrations this binary knows that the database has not had.
    pub async fn pending_migrations(&self) -> anyhow::Result<usize> {
        within(ANSWER, async { ask!(self, database => database.pending_migrations()) })
            .await
            .context("could not read which migrations the database has had")
    }

    /// Streams every grant row into `sink`, all as of one instant: the place in the feed it gives back.
    pub async fn load_grants(&self, sink: &mut Sink<'_>) -> anyhow::Result<Cursor> {
        let sealer = self.sealer.with_latest();
        within(EVERYTHING, async { ask!(self, database => database.load_grants(&sealer, sink)) })
            .await
            .context("could not read the grants")
    }

    /// What has changed since `cursor`, which moves on past what it gives back.
    ///
    /// `Everything` leaves the cursor where it is: replace it by the one of a new `load_grants`. Keep a clone of the
    /// cursor until the changes have been applied, and go back to it when that fails.
    pub async fn changes_since(&self, cursor: &mut Cursor) -> anyhow::Result<Changes> {
        within(ANSWER, async { ask!(self, database => database.changes_since(cursor)) })
            .await
            .context("could not read which grants have changed")
    }

    /// Streams the rows about these users and groups into `sink`, all as of one instant.
    ///
    /// For a user, their grants, memberships and rules; for a group, the servers its members may use, its rules, and the
    /// keys and addresses of its own.
    pub async fn rows_about(&self, subjects: &[Subject], sink: &mut Sink<'_>) -> anyhow::Result<()> {
        let sealer = self.sealer.with_latest();
        within(ANSWER, async { ask!(self, database => database.rows_about(subjects, &sealer, sink)) })
            .await
            .context("could not read the changed grants")
    }

    /// Begins to listen for pushed changes; `None` where the database can't push.
    pub async fn listen(&self) -> anyhow::Result<Option<Listener>> {
        match &self.database {
            Database::Postgres(database) => within(ANSWER, database.listen())
                .await
                .map(Some)
                .context("could not listen for changed grants"),
            Database::Sqlite(_) => Ok(None),
        }
    }

    /// Grants a server to a user; false when they had it already.
    pub async fn grant_user(&self, email: &Email, server: &ServerId) -> anyhow::Result<bool> {
        self.write(Write::GrantUser(email, server)).await.map(|rows| rows > 0)
    }

    /// Takes a server from a user; gives back how many rows that were.
    pub async fn revoke_user(&self, email: &Email, server: &ServerId) -> anyhow::Result<u64> {
        self.write(Write::RevokeUser(email, server)).await
    }

    /// Grants a server to a group; false when it had it already.
    pub async fn grant_group(&self, group: &GroupName, server: &ServerId) -> anyhow::Result<bool> {
        self.write(Write::GrantGroup(group, server)).await.map(|rows| rows > 0)
    }

    /// Takes a server from a group; gives back how many rows that were.
    pub async fn revoke_group(&self, group: &GroupName, server: &ServerId) -> anyhow::Result<u64> {
        self.write(Write::RevokeGroup(group, server)).await
    }

    /// Puts a user into a group; false when they were in it already.
    pub async fn join_group(&self, email: &Email, group: &GroupName) -> anyhow::Result<bool> {
        self.write(Write::JoinGroup(email, group)).await.map(|rows| rows > 0)
    }

    /// Takes a user out of a group; gives back how many rows that were.
    pub async fn leave_group(&self, email: &Email, group: &GroupName) -> anyhow::Result<u64> {
        self.write(Write::LeaveGroup(email, group)).await
    }

    /// Makes a rule about tools, or changes what it does; false when it did so already.
    pub async fn set_rule(
        &self,
        whom: Whom<'_>,
        server: &ServerId,
        pattern: &ToolPattern,
        effect: Effect,
    ) -> anyhow::Result<bool> {
        self.write(Write::SetRule(whom, server, pattern, effect)).await.map(|rows| rows > 0)
    }

    /// Removes a rule about tools, whatever it did; gives back how many rows that were.
    pub async fn remove_rule(
        &self,
        whom: Whom<'_>,
        server: &ServerId,
        pattern: &ToolPattern,
    ) -> anyhow::Result<u64> {
        self.write(Write::RemoveRule(whom, server, pattern)).await
    }

    /// Closes all connections; every clone of the store refuses afterwards.
    pub async fn close(&self) {
        ask!(self, database => database.close());
    }

    async fn write(&self, write: Write<'_>) -> anyhow::Result<u64> {
        within(ANSWER, async { ask!(self, database => database.write(write)) })
            .await
            .context("could not change the grants")
    }
}

/// A change an operator asks for; both databases know how to make it.
#[derive(Clone, Copy)]
enum Write<'a> {
    GrantUser(&'a Email, &'a ServerId),
    RevokeUser(&'a Email, &'a ServerId),
    GrantGroup(&'a GroupName, &'a ServerId),
    RevokeGroup(&'a GroupName, &'a ServerId),
    JoinGroup(&'a Email, &'a GroupName),
    LeaveGroup(&'a Email, &'a GroupName),
    SetRule(Whom<'a>, &'a ServerId, &'a ToolPattern, Effect),
    RemoveRule(Whom<'a>, &'a ServerId, &'a ToolPattern),
    /// The sealed value comes last.
    SetKey(Row<'a>, &'a str),
    /// The value that is replaced, then the new one.
    ReplaceKey(Row<'a>, &'a str, &'a str),
    DeleteKey(Row<'a>),
    /// Where none is, under either name.
    AddEndpoint(&'a GroupName, &'a ServerId, &'a str),
}

impl<'a> Write<'a> {
    /// The values of the row, in the order of its columns.
    fn values(self) -> Vec<&'a str> {
        let whom = |whom| match whom {
            Whom::User(email) => ["user", email.as_str()],
            Whom::Group(group) => ["group", group.as_str()],
        };
        match self {
            Self::GrantUser(email, server) | Self::RevokeUser(email, server) => {
                vec![email.as_str(), server.as_str()]
            }
            Self::GrantGroup(group, server) | Self::RevokeGroup(group, server) => {
                vec![group.as_str(), server.as_str()]
            }
            Self::JoinGroup(email, group) | Self::LeaveGroup(email, group) => {
                vec![email.as_str(), group.as_str()]
            }
            Self::SetRule(subject, server, pattern, effect) => {
                [&whom(subject)[..], &[server.as_str(), pattern.as_str(), effect.as_str()]].concat()
            }
            Self::RemoveRule(subject, server, pattern) => {
                [&whom(subject)[..], &[server.as_str(), pattern.as_str()]].concat()
            }
            Self::SetKey(Row { group, server, name }, value) => vec![group, server, name, value],
            Self::ReplaceKey(Row { group, server, name }, before, value) => {
                vec![group, server, name, before, value]
            }
            Self::DeleteKey(Row { group, server, name }) => vec![group, server, name],
            Self::AddEndpoint(group, server, url) => vec![group.as_str(), server.as_str(), url],
        }
    }
}

/// Gives up waiting after `limit`: a connection that was cut silently would otherwise hold the caller for minutes.
async fn within<T>(limit: Duration, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(Err(error)) if matches!(error.downcast_ref(), Some(sqlx::Error::PoolTimedOut)) => {
            // What the pool itself says names neither the database nor the trouble.
            anyhow::bail!("the database cannot be reached; is it running, and is its url right?")
        }
        Ok(done) => done,
        Err(_) => anyhow::bail!("the database did not answer within {} s", limit.as_secs()),
    }
}

#[cfg(test)]
mod tests;
