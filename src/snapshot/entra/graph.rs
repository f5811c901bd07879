//! Asks Microsoft Graph for the groups of users who are in more than a token holds.
//!
//! Decides how Graph is asked, page by page, and what it may cost. In the user's name (on-behalf-of) or the gateway's
//! own; each user's groups are asked for once at a time, however many wait. Never says more of a failure than its kind:
//! what Entra ID writes quotes names and tokens.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::{Id, JoinSet},
};
use tracing::{info, warn};
use url::Url;
use uuid::Uuid;

use super::{super::Current, DEADLINE};
use crate::{
    dial::Dialer,
    identity::entra::{
        Client, Member, Overage, Question, Settings, directory::Directory, discovery::Version, group_name,
    },
    names::{GroupName, Secret},
    record::metrics::Metrics,
};

/// Users asked about at once.
const AT_ONCE: usize = 16;
/// Users whose turn is waited for.
const MOST_WAITING: usize = 256;
/// Pages of one user's groups.
const MOST_PAGES: usize = 100;
/// Groups of one user.
const MOST_GROUPS: usize = 20_000;
/// The gateway's own token is not used in the last moments of its life.
const MARGIN: Duration = Duration::from_secs(60);
/// Kinds of refusal that are told once each.
const MOST_KINDS: usize = 32;

/// Asks Graph.
pub struct Graph {
    asker: Arc<Asker>,
    directory: Arc<Directory>,
    current: Arc<Current>,
}

/// Callers who wait for one user's groups.
struct Waiting {
    task: Id,
    askers: Vec<oneshot::Sender<()>>,
}

/// What a task that asks for one user needs.
struct Asker {
    dialer: Dialer,
    directory: Arc<Directory>,
    settings: Settings,
    turns: Semaphore,
    own_tokens: Mutex<HashMap<Uuid, (Secret<String>, Instant)>>,
}

/// Why groups could not be read.
#[derive(Debug)]
enum Failure {
    /// There was no answer, or none that says anything.
    Away(anyhow::Error),
    /// Entra ID or Graph said no to the gateway; the word is theirs.
    Refused(String),
    /// Entra ID said no to the user: disabled, signed out of everything, or in need of a new sign-in.
    Unwelcome(String),
}

impl Failure {
    /// What the token endpoint meant by its word (RFC 6749 section 5.2, OpenID Connect Core section 3.1.2.6).
    fn of_grant(word: &str) -> Self {
        let said = format!("the token endpoint said {word}");
        let error = word.split(' ').next().unwrap_or_default();
        if matches!(error, "invalid_grant" | "interaction_required") {
            Self::Unwelcome(said)
        } else {
            Self::Refused(said)
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Away(error)
    }
}

/// The groups, or none where there is no such user.
type Outcome = Result<Option<Vec<GroupName>>, Failure>;

impl Graph {
    /// Asks through this dialer.
    pub fn new(dialer: Dialer, directory: Arc<Directory>, settings: Settings, current: Arc<Current>) -> Self {
        let turns = Semaphore::new(AT_ONCE);
        let own_tokens = Mutex::default();
        let asker = Asker { dialer, directory: directory.clone(), settings, turns, own_tokens };
        Self { asker: Arc::new(asker), directory, current }
    }

    /// Answers questions until the process ends.
    pub async fn answer(self, mut questions: mpsc::Receiver<Question>, metrics: &Metrics) {
        let mut waiting: HashMap<Member, Waiting> = HashMap::new();
        let mut tasks = JoinSet::new();
        let mut health = Health { is_up: true, told: HashSet::new() };
        // Until the first question nothing speaks against it.
        metrics.entra_graph_up.set(1);
        loop {
            tokio::select! {
                Some(Question { member, token, done }) = questions.recv() => {
                    if let Some(waiting) = waiting.get_mut(&member) {
                        waiting.askers.push(done);
                    } else if waiting.len() < MOST_WAITING {
                        let asker = self.asker.clone();
                        let task = async move { (member, asker.ask_in_time(member, &token).await) };
                        let task = tasks.spawn(task).id();
                        waiting.insert(member, Waiting { task, askers: vec![done] });
                    }
                    // One more than that is answered by being dropped.
                }
                Some(ended) = tasks.join_next() => match ended {
                    Ok((member, outcome)) => {
                        health.note(&outcome, metrics);
                        let waited = waiting.remove(&member);
                        self.keep(member, outcome, waited.map(|waited| waited.askers).unwrap_or_default());
                    }
                    // A panic is counted and told by the hook.
                    Err(error) => waiting.retain(|_, waiting| waiting.task != error.id()),
                },
                else => return,
            }
        }
    }

    fn keep(&self, member: Member, outcome: Outcome, askers: Vec<oneshot::Sender<()>>) {
        match outcome {
            Ok(groups) => {
                if self.directory.groups.remember(member, groups) {
                    self.current.announce_callers_changed();
                }
                // Who has gone away needs no answer.
                for done in askers {
                    let _gone = done.send(());
                }
            }
            Err(Failure::Away(_) | Failure::Refused(_)) => self.directory.groups.fail(member),
            Err(Failure::Unwelcome(_)) => {
                self.directory.groups.forget(member);
                self.current.announce_callers_changed();
            }
        }
    }
}

impl Asker {
    async fn ask_in_time(&self, member: Member, token: &Secret<String>) -> Outcome {
        let asked = async {
            let _turn = self.turns.acquire().await.context("no more turns")?;
            self.ask(member, token).await
        };
        let overdue = |_| Err(Failure::Away(anyhow!("no complete answer within {DEADLINE:?}")));
        tokio::time::timeout(DEADLINE, asked).await.unwrap_or_else(overdue)
    }

    async fn ask(&self, member: Member, token: &Secret<String>) -> Outcome {
        match &self.settings.overage {
            Overage::Refuse => Err(anyhow!("Graph is not asked").into()),
            Overage::OnBehalfOf(client) => {
                let exchange = [
                    ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
                    ("assertion", token.expose()),
                    ("requested_token_use", "on_behalf_of"),
                ];
                let (token, _) = self.token(member.tenant, client, &exchange).await?;
                self.groups("me", &token).await
            }
            Overage::App(client) => {
                let token = self.own_token(member.tenant, client).await?;
                let outcome = self.groups(&format!("users/{}", member.object), &token).await;
                if matches!(outcome, Err(Failure::Refused(_))) {
                    self.own_tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(&member.tenant);
                }
                outcome
            }
        }
    }

    async fn own_token(&self, tenant: Uuid, client: &Client) -> Result<Secret<String>, Failure> {
        let known = {
            let tokens = self.own_tokens.lock().unwrap_or_else(PoisonError::into_inner);
            tokens.get(&tenant).filter(|(_, until)| *until > Instant::now()).map(|(token, _)| token.clone())
        };
        if let Some(token) = known {
            return Ok(token);
        }
        let (token, life) = self.token(tenant, client, &[("grant_type", "client_credentials")]).await?;
        let until = Instant::now() + life.saturating_sub(MARGIN);
        let mut tokens = self.own_tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(tenant, (token.clone(), until));
        Ok(token)
    }

    /// A token for Graph, and how long it lives.
    async fn token(
        &self,
        tenant: Uuid,
        client: &Client,
        grant: &[(&str, &str)],
    ) -> Result<(Secret<String>, Duration), Failure> {
        let mut sources = self.directory.sources().iter();
        let source = sources.find(|source| source.tenant == tenant && source.version == Version::V2);
        let known = source.and_then(|source| source.known());
        let endpoint = known.context("the tenant's token endpoint is not known")?.endpoints.token.clone();
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(grant)
            .append_pair("client_id", &client.id)
            .append_pair("client_secret", client.secret.expose())
            .append_pair("scope", &format!("{}/.default", self.settings.graph_url))
            .finish();
        let request = http::Request::post(&endpoint)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(Bytes::from(form))
            .context("no request")?;
        let answer = self.dialer.exchange(request).await.context("the token endpoint")?;
        match answer.status() {
            StatusCode::OK => token(answer.body()).map_err(Failure::Away),
            status if is_refusal(status) => Err(Failure::of_grant(&word(answer.body()))),
            status => Err(anyhow!("the token endpoint answered {status}").into()),
        }
    }

    /// All groups of `me` or of a user.
    async fn groups(&self, whose: &str, token: &Secret<String>) -> Outcome {
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
            .map_err(|_| anyhow!("the token for Graph is no header"))?;
        bearer.set_sensitive(true);
        let base = &self.settings.graph_url;
        let (mut method, mut url) = (Method::POST, format!("{base}/v1.0/{whose}/getMemberObjects"));
        let mut names = Vec::new();
        for _ in 0..MOST_PAGES {
            let mut request = http::Request::builder()
                .method(method.clone())
                .uri(&url)
                .header(header::AUTHORIZATION, bearer.clone())
                .header(header::ACCEPT, "application/json");
            let body = match method {
                Method::POST => {
                    request = request.header(header::CONTENT_TYPE, "application/json");
                    Bytes::from_static(br#"{"securityEnabledOnly":true}"#)
                }
                _ => Bytes::new(),
            };
            let answer =
                self.dialer.exchange(request.body(body).context("no request")?).await.context("Graph")?;
            let page = match answer.status() {
                StatusCode::OK => Page::read(answer.body())?,
                StatusCode::NOT_FOUND if word(answer.body()) == "Request_ResourceNotFound" => {
                    return Ok(None);
                }
                // Graph pages with GET; should an action want to be asked as before, it is.
                StatusCode::METHOD_NOT_ALLOWED if method == Method::GET => {
                    method = Method::POST;
                    continue;
                }
                status if is_refusal(status) => {
                    return Err(Failure::Refused(format!("Graph said {}", word(answer.body()))));
                }
                status => return Err(anyhow!("Graph answered {status}").into()),
            };
            names.extend(page.value.iter().filter_map(|id| group_name(&self.settings.group_names, id)));
            if names.len() > MOST_GROUPS {
                return Err(anyhow!("the user is in more than {MOST_GROUPS} groups").into());
            }
            match page.next {
                None => return Ok(Some(names)),
                Some(next) => url = followed(&next, base)?,
            }
            method = Method::GET;
        }
        Err(anyhow!("the user's groups have more than {MOST_PAGES} pages").into())
    }
}

#[derive(Debug, Deserialize)]
struct Page {
    value: Vec<String>,
    #[serde(rename = "@odata.nextLink")]
    next: Option<String>,
}

impl Page {
    fn read(body: &[u8]) -> anyhow::Result<Self> {
        // The parser's error quotes what it could not read.
        serde_json::from_slice(body).map_err(|_| anyhow!("Graph's answer is no list of ids"))
    }
}

/// The address of the next page, which gets a token too: only where the first page was.
fn followed(next: &str, base: &str) -> anyhow::Result<String> {
    let url = Url::parse(next).context("Graph's next page has no address")?;
    let is_at_home = Url::parse(base).is_ok_and(|base| base.origin() == url.origin());
    ensure!(
        is_at_home && url.username().is_empty() && url.password().is_none(),
        "Graph's next page is elsewhere"
    );
    Ok(url.into())
}

fn token(body: &[u8]) -> anyhow::Result<(Secret<String>, Duration)> {
    #[derive(Deserialize)]
    struct Answer {
        access_token: String,
        #[serde(default)]
        expires_in: u32,
    }
    let answer: Result<Answer, _> = serde_json::from_slice(body);
    let Ok(Answer { access_token, expires_in }) = answer else {
        bail!("the token endpoint's answer is no token");
    };
    Ok((Secret::new(access_token), Duration::from_secs(expires_in.into())))
}

/// Whether asking again would not help.
fn is_refusal(status: StatusCode) -> bool {
    status.is_client_error() && !matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

/// The word for what went wrong (`invalid_grant`, `Authorization_RequestDenied`), if it is one that can be logged.
fn word(body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &body["error"];
    let word = error.as_str().or_else(|| error["code"].as_str()).unwrap_or_default();
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if !(1..=64).contains(&word.len()) || !word.bytes().all(is_word) {
        return "no".to_owned();
    }
    match body["error_codes"][0].as_u64() {
        Some(code) => format!("{word} (AADSTS{code})"),
        None => word.to_owned(),
    }
}

/// Says once that Graph went away and once that it came back, and each kind of refusal once.
struct Health {
    is_up: bool,
    told: HashSet<String>,
}

impl Health {
    fn note(&mut self, outcome: &Outcome, metrics: &Metrics) {
        match outcome {
            Ok(_) if !self.is_up => info!("Graph tells groups again"),
            Err(Failure::Away(error)) if self.is_up => warn!("Graph cannot be asked for groups: {error:#}"),
            Err(Failure::Refused(word) | Failure::Unwelcome(word))
                if self.told.len() < MOST_KINDS && self.told.insert(word.clone()) =>
            {
                warn!("the groups of a user cannot be read: {word}");
            }
            Ok(_) | Err(_) => {}
        }
        self.is_up = !matches!(outcome, Err(Failure::Away(_)));
        metrics.entra_graph_up.set(i64::from(self.is_up));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_no_to_the_user_is_told_from_a_no_to_the_gateway() {
        for word in ["invalid_grant", "invalid_grant (AADSTS50057)", "interaction_required (AADSTS50076)"] {
            assert!(matches!(Failure::of_grant(word), Failure::Unwelcome(_)), "{word}");
        }
        for word in ["invalid_client (AADSTS7000215)", "unauthorized_client", "no", ""] {
            assert!(matches!(Failure::of_grant(word), Failure::Refused(_)), "{word}");
        }
    }

    #[test]
    fn a_next_page_is_only_where_the_first_was() {
        let base = "https://graph.microsoft.com";
        let next = "https://graph.microsoft.com/v1.0/me/getMemberObjects?$skiptoken=x";
        assert_eq!(followed(next, base).unwrap(), next);
        for elsewhere in [
            "http://graph.microsoft.com/v1.0",
            "https://graph.microsoft.com:444/",
            "https://graph.microsoft.com@evil.example/",
            "https://u@graph.microsoft.com/",
            "https://graph.microsoft.com.evil.example/",
            "/v1.0/me",
            "//graph.microsoft.com/",
            "",
        ] {
            assert!(followed(elsewhere, base).is_err(), "{elsewhere}");
        }
    }

    #[test]
    fn only_words_of_errors_are_told() {
        let check = |body: &str, expected: &str| assert_eq!(word(body.as_bytes()), expected, "{body}");
        check(
            r#"{"error":"invalid_grant","error_codes":[65001],"error_description":"jane@x"}"#,
            "invalid_grant (AADSTS65001)",
        );
        check(
            r#"{"error":{"code":"Authorization_RequestDenied","message":"jane@x"}}"#,
            "Authorization_RequestDenied",
        );
        for odd in ["", "[]", "{}", r#"{"error":"jane@example.com"}"#, r#"{"error":{"code":1}}"#, "\u{0}"] {
            check(odd, "no");
        }
        check(&format!(r#"{{"error":"{}"}}"#, "x".repeat(65)), "no");
    }

    #[test]
    fn a_page_is_a_list_of_texts() {
        assert!(Page::read(br#"{"value":[]}"#).unwrap().next.is_none());
        let page = Page::read(br#"{"@odata.context":"x","value":["a"],"@odata.nextLink":"n"}"#).unwrap();
        assert_eq!((page.value.len(), page.next.as_deref()), (1, Some("n")));
        for odd in
            ["", "{}", "[]", r#"{"value":[1]}"#, r#"{"value":{}}"#, r#"{"value":[],"@odata.nextLink":1}"#]
        {
            assert!(Page::read(odd.as_bytes()).is_err(), "{odd}");
        }
    }
}
