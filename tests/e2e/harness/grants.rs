//! Grants in an embedded SQLite database, and the callers every face is asked as.

use portcullis::{
    names::{Email, GroupName, ServerId, ToolPattern},
    store::{self, DatabaseUrl, Effect, Store, Whom},
};

use super::{
    deadline::until,
    gateway::{Gateway, Setup},
};

/// Has the grants of the test.
pub const CALLER: &str = "caller@example.com";
/// Is believed and has no grant.
pub const STRANGER: &str = "stranger@example.com";
/// Is in the admin group and has no grant of their own.
pub const ADMIN: &str = "admin@example.com";

/// A database with its tables and rows, for one gateway. It is gone when this is dropped.
pub struct Grants {
    folder: tempfile::TempDir,
    store: Store,
}

impl Grants {
    /// [`CALLER`] may use these servers, and [`ADMIN`] every one.
    pub async fn of(servers: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::Sqlite(folder.path().join("grants.db"));
        let settings =
            store::Settings { url, schema: "public".into(), auto_migrate: true, sealing: Default::default() };
        let store = Store::open(&settings).unwrap();
        store.migrate().await.unwrap();
        let grants = Self { folder, store };
        for server in servers {
            grants.add(CALLER, server).await;
        }
        let (admin, group) = (Email::parse(ADMIN).unwrap(), GroupName::parse("MCP-Admin").unwrap());
        grants.store.join_group(&admin, &group).await.unwrap();
        grants
    }

    /// Lets this user use this server from now on.
    pub async fn add(&self, email: &str, server: &str) {
        let (email, server) = (Email::parse(email).unwrap(), ServerId::parse(server).unwrap());
        self.store.grant_user(&email, &server).await.unwrap();
    }

    /// Takes that back.
    pub async fn take_back(&self, email: &str, server: &str) {
        let (email, server) = (Email::parse(email).unwrap(), ServerId::parse(server).unwrap());
        self.store.revoke_user(&email, &server).await.unwrap();
    }

    /// Denies this user the tools of this server that match the pattern.
    pub async fn deny(&self, email: &str, server: &str, pattern: &str) {
        let (email, server) = (Email::parse(email).unwrap(), ServerId::parse(server).unwrap());
        let pattern = ToolPattern::parse(pattern).unwrap();
        self.store.set_rule(Whom::User(&email), &server, &pattern, Effect::Deny).await.unwrap();
    }

    /// What to start a gateway with that decides by these grants.
    pub fn setup(&self) -> Setup {
        Setup::new(&self.url())
    }

    /// Where they are.
    pub fn url(&self) -> String {
        format!("sqlite:{}", self.folder.path().join("grants.db").display())
    }
}

impl Gateway {
    /// Returns once the gateway has read that this server has so many tools.
    #[track_caller]
    pub fn knows_tools(&self, server: &str, count: usize) -> impl Future<Output = ()> {
        until("the tools of a server", move || async move {
            let known = self.metrics().await.sum("portcullis_tools", &[("server", server)]);
            (known == count as f64).then_some(())
        })
    }

    /// Fails when anything the gateway has written holds one of these.
    #[track_caller]
    pub fn wrote_none_of(&self, secrets: &[&str]) {
        let written = self.written().to_lowercase();
        for secret in secrets {
            assert!(!written.contains(&secret.to_lowercase()), "`{secret}` was written:\n{written}");
        }
    }
}
