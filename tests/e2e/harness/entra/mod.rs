//! An identity provider like Microsoft Entra ID, on loopback: its own keys, every document Entra serves, and sign-in.
//!
//! What Entra lacks of what MCP clients expect is lacking here too, until a test says otherwise ([`Gaps`]). Documents
//! can be made to stall, break off or lie ([`Fault`]), each on its own, and count how often they were asked for.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{AbortHandle, JoinSet},
};

use super::{deadline::until_so, gateway::Setup};
use keys::SigningKey;

mod answers;
mod documents;
mod graph;
pub mod keys;
pub mod minted;
mod sign_in;

/// The tenant whose users the gateway believes.
pub const HOME: &str = "8f0e4b9c-0d52-4d0a-9b4f-2d8a4a3c7a11";
/// Another tenant, which a test may let in.
pub const PARTNER: &str = "5c2d7e61-7a0b-4f7e-8a53-0f4f1f0f9b22";
/// A tenant that is never let in.
pub const STRANGER: &str = "d3b07384-d9a0-4c9b-8f3e-6a1c2b3d4e33";
/// The tenant of private accounts, whose keys stand in the same set.
pub const CONSUMERS: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";
/// The gateway's app registration: what tokens for it are for.
pub const API: &str = "11111111-2222-4333-8444-555555555555";
/// Its secret.
pub const API_SECRET: &str = "entra-client-secret-of-the-gateway";
/// The app registration of the client that people sign in with: public, with loopback redirects.
pub const CLIENT: &str = "66666666-7777-4888-9999-aaaaaaaaaaaa";

/// What can be asked for, with its own faults and its own count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Page {
    /// The discovery document of version 2.0.
    Configuration,
    /// That of version 1.0.
    ConfigurationV1,
    /// The keys of version 2.0.
    Keys,
    /// Those of version 1.0.
    KeysV1,
    /// Where a browser signs in.
    Authorize,
    /// Where codes and assertions become tokens.
    Token,
    /// `POST /v1.0/me/getMemberObjects`
    MyGroups,
    /// `POST /v1.0/users/{oid}/getMemberObjects`
    UserGroups,
    /// Anything else.
    Elsewhere,
}

/// What goes wrong with a page.
#[derive(Debug, Clone)]
pub enum Fault {
    /// No answer, until the fault is taken away: then the right one.
    Wait,
    /// No answer, ever.
    Hang,
    /// The connection ends without an answer.
    HangUp,
    /// The connection ends in the middle of the right answer.
    BreakOff,
    /// Another status, with Entra's way to say it.
    Status(u16),
    /// 200 with something else.
    Body(Vec<u8>),
    /// A status with this body.
    Answer(u16, Vec<u8>),
    /// 200 and this many bytes of JSON.
    Huge(usize),
    /// 200 and bytes without end.
    Endless,
    /// A redirect.
    Redirect(String),
}

/// What Entra lacks; all on at first.
#[derive(Debug, Clone, Copy)]
pub struct Gaps {
    /// `resource` (RFC 8707) is refused with AADSTS9010010.
    pub rejects_resource: bool,
    /// The metadata does not say that S256 is supported.
    pub hides_s256: bool,
    /// There is no RFC 8414 document and no registration.
    pub lacks_registration: bool,
}

/// Somebody who can sign in.
#[derive(Debug, Clone, Default)]
pub struct User {
    pub email: String,
    pub oid: String,
    /// Object ids.
    pub groups: Vec<String>,
    /// App roles.
    pub roles: Vec<String>,
    /// In so many groups that tokens hold none and Graph must be asked.
    pub has_overage: bool,
}

impl User {
    /// In no group.
    pub fn new(email: &str, oid: &str) -> Self {
        Self { email: email.to_owned(), oid: oid.to_owned(), ..Self::default() }
    }

    /// In these groups.
    pub fn in_groups(mut self, groups: &[&str]) -> Self {
        self.groups = groups.iter().map(|group| (*group).to_owned()).collect();
        self
    }

    /// With these app roles.
    pub fn with_roles(mut self, roles: &[&str]) -> Self {
        self.roles = roles.iter().map(|role| (*role).to_owned()).collect();
        self
    }

    /// With more groups than a token holds.
    pub fn with_overage(mut self) -> Self {
        self.has_overage = true;
        self
    }
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    pub page: Page,
    pub method: String,
    /// As sent, with the query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// A client that may send people here.
#[derive(Debug, Clone)]
pub struct Client {
    pub id: String,
    /// Where people are sent back to; of loopback addresses any port will do.
    pub redirect_uris: Vec<String>,
    pub secret: Option<String>,
}

struct State {
    signing: Arc<SigningKey>,
    published: Vec<Value>,
    faults: HashMap<Page, Fault>,
    hits: HashMap<Page, usize>,
    asked: Vec<Asked>,
    cache_control: Option<String>,
    gaps: Gaps,
    token_version: u8,
    users: Vec<User>,
    clients: Vec<Client>,
    /// Groups of a page of Graph.
    page_size: usize,
    sign_in: sign_in::Memory,
}

type Shared = Arc<Mutex<State>>;

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().unwrap()
}

/// What a provider is, apart from its listening; each of its connections has a copy.
#[derive(Clone)]
pub struct Provider {
    address: SocketAddr,
    state: Shared,
    /// Changes with each fault that is set or taken away.
    faults_changed: Arc<watch::Sender<()>>,
}

/// The provider. It ends, with its connections, when this is dropped.
pub struct Idp {
    provider: Provider,
    accepting: AbortHandle,
}

impl Drop for Idp {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl std::ops::Deref for Idp {
    type Target = Provider;

    fn deref(&self) -> &Provider {
        &self.provider
    }
}

impl Idp {
    /// A provider with one key, [`CLIENT`], the gateway's own registration, and nobody to sign in.
    pub async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// The same on a port that was chosen before, for one that comes up late.
    pub async fn start_at(address: &str) -> Self {
        Self::on(TcpListener::bind(address).await.unwrap())
    }

    fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let signing = keys::spare(0);
        let published = vec![signing.jwk()];
        let loopback = ["http://localhost/callback", "http://127.0.0.1/callback", "http://localhost"];
        let client = Client {
            id: CLIENT.to_owned(),
            redirect_uris: loopback.map(str::to_owned).to_vec(),
            secret: None,
        };
        let api =
            Client { id: API.to_owned(), redirect_uris: Vec::new(), secret: Some(API_SECRET.to_owned()) };
        let state = Arc::new(Mutex::new(State {
            signing,
            published,
            faults: HashMap::new(),
            hits: HashMap::new(),
            asked: Vec::new(),
            cache_control: Some("max-age=86400, private".to_owned()),
            gaps: Gaps { rejects_resource: true, hides_s256: true, lacks_registration: true },
            token_version: 2,
            users: Vec::new(),
            clients: vec![client, api],
            page_size: 100,
            sign_in: sign_in::Memory::default(),
        }));
        let provider = Provider { address, state, faults_changed: Arc::new(watch::Sender::new(())) };
        let served = provider.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(answers::serve(socket, served.clone()));
            }
        });
        Self { provider, accepting: accepting.abort_handle() }
    }
}

impl Provider {
    /// What stands in front of every path: Entra's `https://login.microsoftonline.com`, and Graph's address too.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The key that tokens are signed with now.
    pub fn signing_key(&self) -> Arc<SigningKey> {
        lock(&self.state).signing.clone()
    }

    /// Publishes a new key beside the old ones and signs with it from now on.
    pub fn rotate(&self) -> Arc<SigningKey> {
        let key = SigningKey::generate();
        let mut state = lock(&self.state);
        state.published.push(key.jwk());
        state.signing = key.clone();
        key
    }

    /// Publishes exactly these keys, whatever they are.
    pub fn publish(&self, keys: Vec<Value>) {
        lock(&self.state).published = keys;
    }

    /// Makes a page go wrong from now on.
    pub fn fault(&self, page: Page, fault: Fault) {
        lock(&self.state).faults.insert(page, fault);
        self.faults_changed.send_replace(());
    }

    /// Makes a page right again.
    pub fn heal(&self, page: Page) {
        lock(&self.state).faults.remove(&page);
        self.faults_changed.send_replace(());
    }

    /// How often a page was asked for so far, answered or not.
    pub fn hits(&self, page: Page) -> usize {
        lock(&self.state).hits.get(&page).copied().unwrap_or_default()
    }

    /// Returns once a page was asked for this often.
    pub async fn asked_for(&self, page: Page, times: usize) {
        until_so("a question to the identity provider", || self.hits(page) >= times).await;
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.state).asked.clone()
    }

    /// What documents and keys say about how long they hold (`max-age=86400, private` at first).
    pub fn cache_control(&self, value: Option<&str>) {
        lock(&self.state).cache_control = value.map(str::to_owned);
    }

    /// Changes what is lacking: `idp.gaps(|gaps| gaps.hides_s256 = false)`.
    pub fn gaps(&self, change: impl FnOnce(&mut Gaps)) {
        change(&mut lock(&self.state).gaps);
    }

    /// Which version the tokens of a sign-in have: 1 or 2 (at first).
    pub fn token_version(&self, version: u8) {
        lock(&self.state).token_version = version;
    }

    /// Lets somebody sign in. The first one is who signs in where no `login_hint` says who.
    pub fn add_user(&self, user: &User) {
        let mut state = lock(&self.state);
        state.users.retain(|known| known.oid != user.oid);
        state.users.push(user.clone());
    }

    /// Lets a client send people here, and back to these addresses.
    pub fn add_client(&self, client: Client) {
        let mut state = lock(&self.state);
        state.clients.retain(|known| known.id != client.id);
        state.clients.push(client);
    }

    /// How many groups Graph tells in one answer (100 at first).
    pub fn page_size(&self, groups: usize) {
        lock(&self.state).page_size = groups;
    }
}

impl Setup {
    /// Believes the users of this provider's home tenant.
    pub fn entra(self, idp: &Idp) -> Self {
        self.entra_at(&idp.url())
    }

    /// The same for a provider at this address, which need not be there yet.
    pub fn entra_at(self, url: &str) -> Self {
        self.set("auth.entra.tenant_id", HOME)
            .set("auth.entra.audience", vec![API])
            .set("auth.entra.authority", url)
            .set("auth.entra.graph_url", url)
            .set("auth.entra.client_id", API)
            .set("auth.entra.client_secret", API_SECRET)
    }
}

#[cfg(test)]
mod tests;
