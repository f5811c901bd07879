//! The same requests as to the earlier gateway, and the same answers, but where `differs:` says why not.
//!
//! `tests/parity/*.case` has one request a file, and `tests/parity/README.md` says what a file is made of and where the
//! earlier gateway's answers are known from. The grants are those of its own tables, imported. Each case also shows that
//! it can fail: with any part of what it expects changed, it does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    commands::portcullis,
    gateway::{Answer, Gateway, Setup},
    grants::{ADMIN, CALLER, STRANGER},
    postgres::{Database, given},
    tokens::{SESSION_SECRET, email_token, now, sign},
};

const README: &str = include_str!("../parity/README.md");

/// Of the earlier gateway.
const TABLES: &str = "
    CREATE TABLE user_tenant_access (user_email text, tenant_id text, access_level text DEFAULT 'read');
    CREATE TABLE group_tenant_mapping (group_name text, tenant_id text);
    CREATE TABLE user_group_membership (user_email text, group_name text);
    INSERT INTO user_tenant_access (user_email, tenant_id) VALUES ('Caller@Example.com', 'time'),
        ('caller@example.com', 'off'), ('caller@example.com', 'dead');
    INSERT INTO group_tenant_mapping VALUES ('MCP-Time', 'time');
    INSERT INTO user_group_membership VALUES ('member@example.com', 'MCP-Time'), ('Admin@Example.com', 'MCP-Admin');";

/// A request and what is answered to it.
struct Case {
    name: String,
    /// Which gateway is asked: `plain`, or one with `API_GATEWAY_MODE`.
    scene: String,
    differs: Option<String>,
    request: Request,
    here: Expected,
    /// What the earlier gateway answered, where that is something else.
    before: Option<Expected>,
}

struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

/// What an answer has to be like.
#[derive(Debug, Clone)]
struct Expected {
    /// `200`, or `2xx`.
    status: String,
    headers: Vec<(String, String)>,
    has: Vec<String>,
    lacks: Vec<String>,
    /// What of the body is said; further keys may stand there.
    body: Option<Value>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parity")
}

fn cases() -> Vec<Case> {
    let mut files: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "case"));
    files.sort();
    files.iter().map(|path| Case::read(path)).collect()
}

impl Case {
    #[track_caller]
    fn read(path: &std::path::Path) -> Self {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(path).unwrap();
        let text: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let text = text.join("\n");
        let mut parts = text.split("\n----");
        let mut lines = parts.next().unwrap().trim_start().lines();
        let (mut scene, mut differs) = ("plain".to_owned(), None);
        let first = loop {
            let line = lines.next().unwrap_or_else(|| panic!("{name}: there is no request"));
            if let Some(reason) = line.strip_prefix("differs: ") {
                differs = Some(reason.to_owned());
            } else if let Some(other) = line.strip_prefix("scene: ") {
                other.clone_into(&mut scene);
            } else {
                break line;
            }
        };
        let (method, path) =
            first.split_once(' ').unwrap_or_else(|| panic!("{name}: `{first}` is no request"));
        let (headers, body) = headers_and_body(&name, lines);
        let request = Request { method: method.to_owned(), path: path.to_owned(), headers, body };
        let here =
            parts.next().unwrap_or_else(|| panic!("{name}: there is no `----` with the answer after it"));
        let here = Expected::read(&name, here);
        let before = parts.next().map(|before| {
            let before = before.strip_prefix(" before");
            Expected::read(
                &name,
                before.unwrap_or_else(|| panic!("{name}: the second part is `---- before`")),
            )
        });
        assert_eq!(differs.is_some(), before.is_some(), "{name}: `differs:` and `---- before` come together");
        Self { name, scene, differs, request, here, before }
    }
}

/// Lines of `Name: value` up to an empty one, and what follows it.
fn headers_and_body<'a>(
    name: &str,
    mut lines: impl Iterator<Item = &'a str>,
) -> (Vec<(String, String)>, String) {
    let mut headers = Vec::new();
    for line in lines.by_ref().take_while(|line| !line.trim().is_empty()) {
        let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("{name}: `{line}` is no header"));
        headers.push((key.to_owned(), value.to_owned()));
    }
    (headers, lines.collect::<Vec<_>>().join("\n").trim().to_owned())
}

impl Expected {
    fn read(name: &str, text: &str) -> Self {
        let mut lines = text.trim_start().lines();
        let status = lines.next().unwrap_or_else(|| panic!("{name}: there is no status")).trim().to_owned();
        let (mut headers, body) = headers_and_body(name, lines);
        let mut take = |wanted: &str| -> Vec<String> {
            let taken =
                headers.iter().filter(|(key, _)| key == wanted).map(|(_, value)| value.clone()).collect();
            headers.retain(|(key, _)| key != wanted);
            taken
        };
        let (has, lacks) = (take("has"), take("lacks"));
        let body = (!body.is_empty())
            .then(|| serde_json::from_str(&body).unwrap_or_else(|error| panic!("{name}: {error}: {body}")));
        Self { status, headers, has, lacks, body }
    }

    /// What about this answer is not as expected.
    fn complaint(&self, answer: &Answer) -> Option<String> {
        let status = answer.status.as_u16().to_string();
        if status != self.status && format!("{}xx", &status[..1]) != self.status {
            return Some(format!("the status is {status} and not {}", self.status));
        }
        for (name, value) in &self.headers {
            let said = answer.header(name).unwrap_or_default();
            if !matches(&json!(value), &json!(said)) {
                return Some(format!("`{name}` is `{said}` and not `{value}`"));
            }
        }
        let text = answer.text();
        if let Some(missing) = self.has.iter().find(|words| !text.contains(*words)) {
            return Some(format!("it does not have {missing}"));
        }
        if let Some(found) = self.lacks.iter().find(|words| text.contains(*words)) {
            return Some(format!("it has {found}"));
        }
        let body = self.body.as_ref()?;
        match serde_json::from_str::<Value>(&text) {
            Ok(said) if matches(body, &said) => None,
            Ok(_) | Err(_) => Some(format!("the body is not like {body}")),
        }
    }

    /// The same with one thing changed, in every way: none of these may be what is answered.
    fn spoiled(&self) -> Vec<Self> {
        let with_status = |status: &str| Self { status: status.to_owned(), ..self.clone() };
        let mut spoiled = vec![with_status("299"), with_status("5yy")];
        for (at, _) in self.headers.iter().enumerate() {
            let mut other = self.clone();
            other.headers[at].1 = "something else".to_owned();
            spoiled.push(other);
        }
        for _ in &self.has {
            spoiled.push(Self { has: vec!["what nobody would say".to_owned()], ..self.clone() });
        }
        let bodies = self.body.iter().flat_map(spoil);
        spoiled.extend(bodies.map(|body| Self { body: Some(body), ..self.clone() }));
        spoiled
    }
}

/// Whether a value is like the one expected: `…` stands for anything, further keys may be there, `!key` may not.
fn matches(expected: &Value, said: &Value) -> bool {
    match (expected, said) {
        (Value::String(expected), Value::String(said)) if expected.contains('…') => {
            let (first, last) = expected.split_once('…').unwrap_or_default();
            said.len() >= first.len() + last.len() && said.starts_with(first) && said.ends_with(last)
        }
        (Value::String(expected), _) if expected == "…" => true,
        (Value::Object(expected), Value::Object(said)) => {
            expected.iter().all(|(key, value)| match key.strip_prefix('!') {
                Some(key) => !said.contains_key(key),
                None => said.get(key).is_some_and(|said| matches(value, said)),
            })
        }
        (Value::Array(expected), Value::Array(said)) => {
            expected.len() == said.len() && expected.iter().zip(said).all(|(one, other)| matches(one, other))
        }
        (expected, said) => expected == said,
    }
}

/// Every way to change one part of a value that says something.
fn spoil(value: &Value) -> Vec<Value> {
    let mut spoiled = vec![json!({"what nobody": "would say"})];
    match value {
        Value::String(text) if text == "…" => return Vec::new(),
        Value::Object(members) => {
            for (key, member) in members {
                for other in spoil(member) {
                    let mut members = members.clone();
                    members.insert(key.strip_prefix('!').unwrap_or(key).to_owned(), other);
                    spoiled.push(Value::Object(members));
                }
            }
        }
        Value::Array(elements) => {
            for (at, element) in elements.iter().enumerate() {
                for other in spoil(element) {
                    let mut elements = elements.clone();
                    elements[at] = other;
                    spoiled.push(Value::Array(elements));
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    spoiled
}

/// The gateways that are asked, and the credentials they are asked with.
struct Scenes {
    gateways: BTreeMap<&'static str, Gateway>,
    credentials: Vec<(&'static str, String)>,
    _folder: tempfile::TempDir,
}

impl Scenes {
    async fn start() -> Self {
        let there = Database::create().await;
        there.execute(TABLES).await;
        let folder = tempfile::tempdir().unwrap();
        let here = format!("sqlite:{}", folder.path().join("grants.db").display());
        let importing = Self::setup(&here).write();
        let said = portcullis(importing.path(), &["import", "--from", &there.url()]).await;
        assert_eq!(said.code, 0, "{said:?}");
        drop(there);
        let with_headers = |setup: Setup| setup.environment("API_GATEWAY_MODE", "true");
        let mut gateways = BTreeMap::new();
        for (name, setup) in [
            ("plain", Self::setup(&here)),
            (
                "api-gateway-mode",
                with_headers(Self::setup(&here).set("auth.gateway.enabled", "${API_GATEWAY_MODE}")),
            ),
            (
                "api-gateway-mode-elsewhere",
                with_headers(Self::setup(&here))
                    .set("auth.gateway.enabled", "${API_GATEWAY_MODE}")
                    .set("auth.gateway.trusted_proxies", vec!["192.0.2.1/32".to_owned()]),
            ),
        ] {
            let gateway = setup.start().await;
            for server in ["time", "vault"] {
                gateway.knows_tools(server, 2).await;
            }
            gateways.insert(name, gateway);
        }
        let expired = json!({"id": CALLER, "typ": "session", "email": CALLER, "exp": now(-60)});
        let credentials = vec![
            ("{caller}", email_token(CALLER)),
            ("{CALLER}", email_token("Caller@EXAMPLE.com")),
            ("{member}", email_token("member@example.com")),
            ("{stranger}", email_token(STRANGER)),
            ("{admin}", email_token(ADMIN)),
            ("{expired}", sign(&expired, SESSION_SECRET)),
            (
                "{forged}",
                sign(&json!({"id": CALLER, "email": CALLER, "exp": now(60)}), "another-secret-0123456789"),
            ),
        ];
        Self { gateways, credentials, _folder: folder }
    }

    /// `time` is real, `vault` is another one nobody was granted, `off` is switched off, and nothing is behind `dead`.
    fn setup(database: &str) -> Setup {
        let real = given("PORTCULLIS_TEST_MCPO_TIME");
        let keys = |pairs: &[(&str, toml::Value)]| -> toml::Table {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
        };
        Setup::new(database)
            .server_with("time", &real, keys(&[("tier", "stdio".into())]))
            .server_with("vault", &real, keys(&[("tier", "stdio".into())]))
            .server_with("off", "http://127.0.0.1:1", keys(&[("enabled", false.into())]))
            .server("dead", "http://127.0.0.1:1")
    }

    async fn ask(&self, case: &Case) -> Answer {
        let Request { method, path, headers, body } = &case.request;
        let gateway = self.gateways.get(case.scene.as_str());
        let gateway = gateway.unwrap_or_else(|| panic!("{}: there is no scene `{}`", case.name, case.scene));
        let mut request = gateway.request(Method::from_bytes(method.as_bytes()).unwrap(), path);
        for (name, value) in headers {
            let credentials = self.credentials.iter();
            let value =
                credentials.fold(value.clone(), |value, (name, credential)| value.replace(name, credential));
            assert!(!value.contains('{'), "{}: `{value}` is no credential", case.name);
            request = request.header(name, value);
        }
        gateway.send(if body.is_empty() { request } else { request.body(body.clone()) }).await
    }
}

#[tokio::test]
async fn requests_to_the_earlier_gateway_are_answered_as_it_did_or_for_a_reason_otherwise() {
    let scenes = Scenes::start().await;
    let mut problems = Vec::new();
    for case in cases() {
        let answer = scenes.ask(&case).await;
        let mut problem = |sentence: String| {
            let said = answer.text();
            problems.push(format!("{}: {sentence}\n  {} {said}", case.name, answer.status));
        };
        if let Some(complaint) = case.here.complaint(&answer) {
            problem(complaint);
            continue;
        }
        if case.before.as_ref().is_some_and(|before| before.complaint(&answer).is_none()) {
            problem("it is said to differ, and the earlier gateway's answer would do".to_owned());
        }
        for spoiled in case.here.spoiled() {
            if spoiled.complaint(&answer).is_none() {
                problem(format!("it cannot fail: this would do as well: {spoiled:?}"));
            }
        }
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn the_readme_has_every_difference_with_its_reason() {
    let cases = cases();
    assert!(cases.len() >= 30, "there are {} cases", cases.len());
    let differences: BTreeSet<String> = cases
        .iter()
        .filter_map(|case| Some(format!("| [{0}]({0}.case) | {1} |", case.name, case.differs.as_ref()?)))
        .collect();
    let listed: BTreeSet<String> =
        README.lines().filter(|line| line.starts_with("| [")).map(str::to_owned).collect();
    assert_eq!(listed, differences);
    for case in &cases {
        let reason = case.differs.as_deref();
        assert!(reason.is_none_or(|reason| reason.split(' ').count() >= 5), "{}: why?", case.name);
    }
}

#[test]
fn an_answer_is_like_what_is_expected_or_not() {
    let expected = json!({"a": 1, "b": ["…", {"c": "x…z"}], "!d": 0});
    for (said, is_like) in [
        (json!({"a": 1, "b": [null, {"c": "xyz", "e": 2}], "f": 3}), true),
        (json!({"a": 1, "b": [null, {"c": "xy"}]}), false),
        (json!({"a": 1, "b": [null]}), false),
        (json!({"a": 2, "b": [null, {"c": "xz"}]}), false),
        (json!({"a": 1, "b": [null, {"c": "xz"}], "d": 1}), false),
        (json!([]), false),
    ] {
        assert_eq!(matches(&expected, &said), is_like, "{said}");
    }
    let like = json!({"a": 1, "b": [null, {"c": "xyz"}]});
    assert!(spoil(&expected).iter().all(|spoiled| !matches(spoiled, &like)));
}
