//! Nobody else gets in: one fact a case. Every case says what is answered and why, and that no server heard of it.
//!
//! A [`Wall`] is a gateway with every scheme on, so that what one refuses another might take. The files beside this
//! are its themes: one a scheme, then what schemes have in common.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};

use crate::harness::{
    entra::{API_SECRET, Idp, User},
    fake_peer::FakePeer,
    gateway::{Answer, Gateway, Setup},
    openwebui::{self, JANE, JANE_EMAIL, JANE_STAMP},
    postgres::Database,
    raw::{RawAnswer, RawClient},
    tokens::session_token,
};

mod api_keys;
mod caches;
mod entra_keys;
mod entra_people;
mod entra_tokens;
mod gateway_headers;
mod leaks;
mod outages;
mod paths;
mod presented;
mod service_keys;
mod sessions;
mod sign_in;
mod timing;

const GRANTS: &str = "\
    INSERT INTO user_tenant_access (user_email, tenant_id, access_level) VALUES \
        ('jane.doe@example.com','github','read'), ('eve@example.com','finance','read'); \
    INSERT INTO group_tenant_mapping (group_name, tenant_id) VALUES \
        ('MCP-Services','nightly'), ('MCP-GitHub','github'), ('MCP-Finance','finance');";

/// Somebody else, who may use another server than Jane.
const EVE: &str = "0b7c3f52-6a0d-4c9e-8f59-1f2b6d1c0e01";
const EVE_EMAIL: &str = "eve@example.com";
const EVE_STAMP: &str = "11111111-aaaa-4bbb-8ccc-222222222222";

/// A gateway with every scheme on: `github` is Jane's, `finance` is Eve's, `nightly` is for services.
struct Wall {
    gateway: Gateway,
    github: FakePeer,
    finance: FakePeer,
    database: Database,
    idp: Idp,
    /// Parts of the credentials that were refused: none may have been written.
    secrets: Mutex<Vec<String>>,
    /// How often each reason must have been counted.
    reasons: Mutex<BTreeMap<String, usize>>,
    attempts: AtomicUsize,
    /// What was answered otherwise than it must be: all of it is told in the end.
    problems: Mutex<Vec<String>>,
}

/// What the trusted gateway in front sends to be believed. The tests are at its address.
const GATEWAY_SECRET: &str = "the-secret-of-the-gateway-in-front";

/// Jane, as Entra ID knows her.
fn jane_in_entra() -> User {
    User::new(JANE_EMAIL, "aaaaaaaa-0000-4000-8000-000000000001")
}

/// The object id of a group of Entra ID that is called `MCP-Finance` here.
const FINANCE_ID: &str = "bbbbbbbb-0000-4000-8000-000000000001";

/// How a request is refused: status, code, and the reason in the log where it is about a credential.
#[derive(Debug, Clone, Copy)]
struct No(u16, &'static str, &'static str);

/// A credential that is not believed, for this reason.
const fn invalid(reason: &'static str) -> No {
    No(401, "invalid_credential", reason)
}

const NO_CREDENTIAL: No = No(401, "no_credential", "");
const REPEATED: No = No(400, "repeated_header", "");

/// A request, line by line, so that it can be wrong in any way.
#[derive(Debug, Clone)]
struct Attempt {
    method: &'static str,
    path: String,
    lines: Vec<String>,
    body: String,
}

impl Attempt {
    /// A call of Jane's tool by nobody.
    fn call() -> Self {
        Self::to("POST", "/github/search")
    }

    fn to(method: &'static str, path: impl Into<String>) -> Self {
        let body = if method == "POST" { "{}".to_owned() } else { String::new() };
        Self { method, path: path.into(), lines: Vec::new(), body }
    }

    /// With this header line too.
    fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    fn bearer(self, token: &str) -> Self {
        self.line(format!("Authorization: Bearer {token}"))
    }

    fn body(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self
    }

    fn bytes(&self, request_id: &str) -> Vec<u8> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nhost: gateway\r\nx-request-id: {request_id}\r\n",
            self.method, self.path
        );
        for line in &self.lines {
            head += &format!("{line}\r\n");
        }
        if !self.body.is_empty() {
            head += &format!("content-type: application/json\r\ncontent-length: {}\r\n", self.body.len());
        }
        format!("{head}\r\n{}", self.body).into_bytes()
    }
}

/// A call of Jane's tool with this token.
fn with_token(token: &str) -> Attempt {
    Attempt::call().bearer(token)
}

/// The code of a refusal on any face.
#[track_caller]
fn code(answer: &RawAnswer) -> String {
    assert!(!answer.body.is_empty(), "an empty body: {:?}", answer.head);
    let body = answer.json();
    let code = body["code"].as_str().or(body["error"]["data"]["code"].as_str());
    code.unwrap_or_else(|| panic!("no code in {body}")).to_owned()
}

impl Wall {
    async fn start() -> Self {
        Self::with(|setup| setup).await
    }

    /// With further settings.
    async fn with(set: impl FnOnce(Setup) -> Setup) -> Self {
        Self::beside(Idp::start().await, set).await
    }

    /// The same beside an identity provider that something was done to.
    async fn beside(idp: Idp, set: impl FnOnce(Setup) -> Setup) -> Self {
        let database = openwebui::database().await;
        openwebui::add_user(&database, EVE, EVE_EMAIL, Some(EVE_STAMP)).await;
        let github = FakePeer::start().await.with_json("search", json!({"found": "by github"}));
        let finance = FakePeer::start().await.with_json("search", json!({"found": "by finance"}));
        let finance = finance.with_json("pay", json!({"paid": true}));
        let setup = openwebui::setup(&database).set("log.filter", "trace").server("github", &github.url());
        let setup = setup.server("finance", &finance.url()).server("nightly", &github.url());
        let names = toml::Table::from_iter([(FINANCE_ID.to_owned(), "MCP-Finance".into())]);
        let setup = setup.entra(&idp).set("auth.entra.group_names", names);
        let setup = setup.set("auth.gateway.enabled", true).set("auth.gateway.shared_secret", GATEWAY_SECRET);
        let gateway = set(setup).start().await;
        database.execute(GRANTS).await;
        gateway.await_grants(5).await;
        gateway.await_tools("github", 1).await;
        gateway.await_tools("finance", 2).await;
        let (secrets, reasons, attempts, problems) = Default::default();
        Self { gateway, github, finance, database, idp, secrets, reasons, attempts, problems }
    }

    async fn exchange(&self, attempt: &Attempt, request_id: &str) -> RawAnswer {
        let mut client = RawClient::connect(&self.gateway.address()).await;
        client.exchange(attempt.bytes(request_id)).await
    }

    /// The answer to a request.
    async fn answer(&self, attempt: &Attempt) -> RawAnswer {
        let number = self.attempts.fetch_add(1, Ordering::Relaxed);
        self.exchange(attempt, &format!("attempt-{number}-end")).await
    }

    /// A request that must be refused like this, with nothing of it at any server.
    async fn refuses(&self, what: &str, attempt: Attempt, no: No) {
        let before = self.heard();
        let number = self.attempts.fetch_add(1, Ordering::Relaxed);
        let request_id = format!("attempt-{number}-end");
        let answer = self.exchange(&attempt, &request_id).await;
        let line = self.gateway.stdout.find("a record", |line| line.contains(&request_id)).await;
        let record: Value = serde_json::from_str(&line).unwrap();
        self.remember_secrets(&attempt);
        let text = answer.text();
        let No(status, expected, reason) = no;
        let logged =
            (record["code"].as_str().unwrap_or_default(), record["reason"].as_str().unwrap_or_default());
        let is_told = expected != "invalid_credential" || !text.contains(reason);
        let is_so = answer.status == status && logged == (expected, reason) && code(&answer) == expected;
        // The client learns nothing that would help it to do better.
        if !is_so || !reason.is_empty() && (text.contains('@') || !is_told) {
            self.problem(format!(
                "{what}: not {status} {expected} {reason}: {} {text} {line}",
                answer.status
            ));
        }
        if self.heard() != before {
            self.problem(format!("{what}: a server heard of it"));
        }
        if let Some(reason) = record["reason"].as_str() {
            *self.reasons.lock().unwrap().entry(reason.to_owned()).or_default() += 1;
        }
    }

    fn problem(&self, problem: String) {
        self.problems.lock().unwrap().push(problem);
    }

    fn remember_secrets(&self, attempt: &Attempt) {
        let words = attempt
            .lines
            .iter()
            .filter(|line| is_secret(line))
            .flat_map(|line| line.split([' ', '.', '=', ';']));
        let long = words.filter(|word| word.len() >= 16).map(|word| word.chars().take(200).collect());
        self.secrets.lock().unwrap().extend(long);
    }

    /// Requests that servers have heard so far.
    fn heard(&self) -> usize {
        self.github.requests().len() + self.finance.requests().len()
    }

    /// A request that must be let in: the check that the refusals have the cause they seem to have.
    async fn lets_in(&self, what: &str, attempt: Attempt) -> RawAnswer {
        let before = self.heard();
        let answer = self.answer(&attempt).await;
        assert_eq!(
            answer.status,
            200,
            "{what}: {} {}",
            answer.text(),
            self.gateway.stdout.all().last().unwrap()
        );
        assert_eq!(self.heard(), before + 1, "{what}");
        self.remember_secrets(&attempt);
        answer
    }

    /// After all attempts: Jane is let in, nothing of a credential was written, each reason was counted, no bug was met.
    async fn stands(&self) {
        let problems = self.problems.lock().unwrap().clone();
        assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
        self.lets_in("Jane", with_token(&session_token(JANE, JANE_STAMP))).await;
        let metrics = self.gateway.metrics().await;
        let reasons = self.reasons.lock().unwrap().clone();
        for (reason, count) in reasons {
            let counted = metrics.sum("portcullis_credentials_refused_total", &[("reason", &reason)]);
            assert_eq!(counted, count as f64, "{reason}");
        }
        assert_eq!(metrics.sum("portcullis_panics_total", &[]), 0.0);
        let written = format!("{}\n{}", self.gateway.written(), metrics.0);
        let secrets = self.secrets.lock().unwrap().clone();
        for secret in
            secrets.iter().map(String::as_str).chain([JANE_EMAIL, EVE_EMAIL, GATEWAY_SECRET, API_SECRET])
        {
            assert!(!written.contains(secret), "`{secret}` was written");
        }
    }

    async fn get(&self, path: &str, token: &str) -> Answer {
        self.gateway.get(path, token).await
    }
}

/// Whether a header line may hold a credential.
fn is_secret(line: &str) -> bool {
    let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
    ["authorization", "cookie", "jwt", "secret", "key", "token"].iter().any(|word| name.contains(word))
}

/// A request that is good for Jane on every face of the gateway, but for the credential.
fn every_face() -> Vec<Attempt> {
    let mcp = |path: &str, body: Value| {
        let attempt = Attempt::to("POST", path).body(body.to_string());
        attempt.line("accept: application/json, text/event-stream")
    };
    let call = |name: &str| json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": {}}});
    vec![
        Attempt::to("GET", "/"),
        Attempt::to("GET", "/servers"),
        Attempt::to("GET", "/tools"),
        Attempt::to("GET", "/tenants"),
        Attempt::to("GET", "/github"),
        Attempt::to("GET", "/openapi.json"),
        Attempt::to("GET", "/github/openapi.json"),
        Attempt::to("GET", "/meta/stats"),
        Attempt::to("POST", "/github/search"),
        Attempt::to("POST", "/github_search"),
        Attempt::to("POST", "/refresh"),
        Attempt::to("POST", "/meta/search_tools").body(r#"{"query":"search"}"#),
        Attempt::to("POST", "/meta/describe_tools").body(r#"{"tools":["github_search"]}"#),
        Attempt::to("POST", "/meta/call_tool").body(r#"{"tool":"github_search","arguments":{}}"#),
        mcp("/github/mcp", call("search")),
        mcp("/mcp", call("github_search")),
        Attempt::to("GET", "/mcp").line("accept: text/event-stream"),
        Attempt::to("DELETE", "/mcp"),
        Attempt::to("POST", "/nowhere/search"),
        Attempt::to("GET", "/nowhere"),
    ]
}
