//! Whole tokens, signed with keys of the tests.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    directory::{Directory, Documents},
    discovery::{Endpoints, Version},
    keys::{Issuer, KeySet},
    *,
};
use crate::identity::Verdict;

pub const HOME: &str = "8f0e4b9c-0d52-4d0a-9b4f-2d8a4a3c7a11";
pub const PARTNER: &str = "5c2d7e61-7a0b-4f7e-8a53-0f4f1f0f9b22";
pub const API: &str = "11111111-2222-4333-8444-555555555555";
pub const APP: &str = "66666666-7777-4888-9999-aaaaaaaaaaaa";
pub const OID: &str = "77777777-0000-4000-8000-000000000001";
const AUTHORITY: &str = "https://login.test";

/// Two tenants, one named group, nothing that is off by default.
pub fn settings() -> Settings {
    let tenant = |id: &str, domain: &str, are_roles_groups| Tenant {
        id: guid(id).unwrap(),
        email_domains: vec![domain.into()],
        are_roles_groups,
    };
    let named = guid("0a0a0a0a-0000-0000-0000-000000000001").unwrap();
    Settings {
        tenants: vec![tenant(HOME, "example.com", true), tenant(PARTNER, "partner.test", false)],
        audience: vec![API.into(), "api://named/tools".into()],
        authority: AUTHORITY.into(),
        guests: false,
        apps: false,
        scopes: Vec::new(),
        group_names: [(named, GroupName::parse("MCP-GitHub").unwrap())].into(),
        overage: Overage::Refuse,
        graph_url: "https://graph.test".into(),
        groups_ttl: Duration::from_secs(300),
    }
}

/// A key whose owner is one of the tests.
pub struct Signer(RsaKeyPair);

impl Signer {
    fn generate() -> Self {
        Self(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    /// What a set of keys says of it.
    pub fn jwk(&self, kid: &str) -> Value {
        // RSAPublicKey (RFC 8017 A.1.1) of 2048 bits: its lengths never change, and the exponent is 65537.
        let modulus = &self.0.public_key().as_ref()[9..265];
        json!({"kty": "RSA", "use": "sig", "kid": kid, "n": URL_SAFE_NO_PAD.encode(modulus), "e": "AQAB"})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

pub static SIGNER: LazyLock<Signer> = LazyLock::new(Signer::generate);
static FORGER: LazyLock<Signer> = LazyLock::new(Signer::generate);

/// What the issuer of a tenant and version says, with these keys.
pub fn documents(tenant: Uuid, version: Version, keys: &[Value], before: Option<&KeySet>) -> Documents {
    let modern_name = discovery::modern_issuer(AUTHORITY, tenant);
    let name = match version {
        Version::V1 => format!("https://sts.test/{tenant}/"),
        Version::V2 => modern_name.clone(),
    };
    let endpoints = Endpoints {
        issuer: name.clone(),
        keys: format!("{AUTHORITY}/keys"),
        authorization: format!("{AUTHORITY}/authorize"),
        token: format!("{AUTHORITY}/token"),
    };
    let issuer = Issuer { name: &name, modern_name: &modern_name, tenant };
    let keys = KeySet::read(json!({"keys": keys}).to_string().as_bytes(), issuer, before).unwrap();
    Documents { endpoints, keys, good_until: Instant::now() + Duration::from_secs(3600) }
}

/// All issuers publish these keys from now on.
pub fn publish(directory: &Directory, keys: &[Value]) {
    for source in directory.sources() {
        let known = source.known();
        source.begin();
        let before = known.as_ref().map(|known| &known.keys);
        source.end(Some(documents(source.tenant, source.version, keys, before)));
    }
}

/// A token that is good for a user of the home tenant, where `SIGNER` is published as `k1`.
pub fn good_token() -> String {
    SIGNER.sign(&header(), &claims())
}

fn entra() -> (Entra, Arc<Directory>) {
    let (directory, _questions) = Directory::new(&settings(), Duration::from_secs(3600));
    publish(&directory, &[SIGNER.jwk("k1")]);
    (Entra::new(&settings(), directory.clone()), directory)
}

fn header() -> Value {
    json!({"typ": "JWT", "alg": "RS256", "kid": "k1"})
}

fn claims() -> Value {
    json!({"aud": API, "iss": format!("{AUTHORITY}/{HOME}/v2.0"), "iat": now(), "nbf": now(), "exp": now() + 3600,
        "azp": APP, "oid": OID, "preferred_username": "jane@example.com", "scp": "Tools.Call", "sub": "pairwise",
        "tid": HOME, "ver": "2.0"})
}

async fn judged(entra: &Entra, token: &str) -> Result<String, &'static str> {
    let sha256 = sha2::Digest::finalize(sha2::Digest::chain_update(sha2::Sha256::default(), token)).into();
    match entra.judge(token, sha256).await {
        Verdict::Known(caller) => Ok(caller.name().to_owned()),
        Verdict::Failed(refusal) => Err(refusal.why().unwrap()),
        Verdict::NotMine => Err("not mine"),
        Verdict::Off => Err("off"),
    }
}

fn with(mut value: Value, name: &str, changed: Value) -> Value {
    value[name] = changed;
    value
}

#[tokio::test]
async fn tokens_of_both_versions_name_their_user() {
    let (entra, _directory) = entra();
    assert_eq!(judged(&entra, &SIGNER.sign(&header(), &claims())).await, Ok("jane@example.com".to_owned()));
    let v1 = with(with(claims(), "ver", json!("1.0")), "iss", json!(format!("https://sts.test/{HOME}/")));
    let v1 = with(with(v1, "aud", json!(format!("api://{API}"))), "appid", json!(APP));
    assert_eq!(judged(&entra, &SIGNER.sign(&header(), &v1)).await, Ok("jane@example.com".to_owned()));
    // The issuer of one version signs no tokens of the other, and that of one tenant none of another.
    for issuer in [format!("https://sts.test/{HOME}/"), format!("{AUTHORITY}/{PARTNER}/v2.0"), String::new()]
    {
        let token = SIGNER.sign(&header(), &with(claims(), "iss", json!(issuer)));
        assert_eq!(judged(&entra, &token).await, Err("wrong_issuer"), "{issuer}");
    }
}

#[tokio::test]
async fn what_the_key_did_not_sign_is_refused_wherever_the_header_points() {
    let (entra, _directory) = entra();
    let good = SIGNER.sign(&header(), &claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    for token in [
        FORGER.sign(&header(), &claims()),
        FORGER.sign(&with(header(), "jwk", FORGER.jwk("k1")), &claims()),
        FORGER.sign(&with(header(), "jku", json!("https://evil.test/keys")), &claims()),
        FORGER.sign(&with(header(), "x5u", json!("https://evil.test/cert")), &claims()),
        format!("{signed}."),
        format!("{signed}.{}", &signature[..signature.len() - 4]),
        format!("{signed}.{signature}="),
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode([0; 256])),
    ] {
        assert_eq!(judged(&entra, &token).await, Err("wrong_signature"), "{token}");
    }
    let (head, _) = signed.split_once('.').unwrap();
    let other =
        URL_SAFE_NO_PAD.encode(with(claims(), "preferred_username", json!("ceo@example.com")).to_string());
    assert_eq!(judged(&entra, &format!("{head}.{other}.{signature}")).await, Err("wrong_signature"));
    assert_eq!(judged(&entra, &format!("{head}..{signature}")).await, Err("malformed"));
    let none = SIGNER.sign(&with(header(), "alg", json!("none")), &claims());
    assert_eq!(judged(&entra, &none).await, Err("wrong_algorithm"));
}

#[tokio::test]
async fn a_caller_is_judged_again_by_other_settings_without_their_token() {
    let (entra, directory) = entra();
    let group = "0a0a0a0a-0000-0000-0000-000000000001";
    let token = SIGNER.sign(&header(), &with(claims(), "groups", json!([group])));
    let Verdict::Known(caller) = entra.judge(&token, [1; 32]).await else { panic!("it is a good token") };
    assert_eq!(caller.groups()[0].as_str(), "MCP-GitHub");
    let under = |change: &dyn Fn(&mut Settings)| {
        let mut settings = settings();
        change(&mut settings);
        let now = Entra::new(&settings, directory.clone()).now(&caller)?;
        Some(now.groups().iter().map(|group| group.as_str().to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(under(&|_| ()).unwrap(), ["MCP-GitHub"]);
    assert_eq!(under(&|settings| settings.audience.push("another".into())).unwrap(), ["MCP-GitHub"]);
    assert_eq!(under(&|settings| settings.group_names.clear()).unwrap(), [group]);
    assert_eq!(under(&|settings| settings.audience.retain(|audience| audience != API)), None);
    assert_eq!(under(&|settings| drop(settings.tenants.remove(0))), None);
    assert_eq!(under(&|settings| settings.scopes = vec!["Other".into()]), None);
    assert_eq!(under(&|settings| settings.tenants[0].email_domains = vec!["other.test".into()]), None);
}

#[test]
fn another_directory_learns_what_was_known_of_the_same_issuers() {
    let (_, known) = entra();
    let only_home = Settings { tenants: settings().tenants[..1].to_vec(), ..settings() };
    let (directory, _questions) = Directory::new(&only_home, Duration::from_secs(3600));
    assert!(directory.endpoints().is_none());
    directory.learn(&known);
    assert!(
        directory.endpoints().is_some() && directory.sources().iter().all(|source| source.known().is_some())
    );
}

#[tokio::test]
async fn a_token_is_believed_no_longer_than_its_key() {
    let (entra, directory) = entra();
    let token = SIGNER.sign(&header(), &claims());
    assert!(judged(&entra, &token).await.is_ok());
    publish(&directory, &[SIGNER.jwk("k1"), FORGER.jwk("k2")]);
    assert!(judged(&entra, &token).await.is_ok(), "the key is still there");
    publish(&directory, &[FORGER.jwk("k1")]);
    assert_eq!(judged(&entra, &token).await, Err("wrong_signature"), "another key has the name now");
    publish(&directory, &[SIGNER.jwk("k1")]);
    assert!(judged(&entra, &token).await.is_ok());
}

#[tokio::test]
async fn a_remembered_token_expires() {
    let (entra, _directory) = entra();
    // Within the minute that is forgiven, and for a second more.
    let token = SIGNER.sign(&header(), &with(claims(), "exp", json!(now() - 59)));
    assert!(judged(&entra, &token).await.is_ok());
    let deadline = Instant::now() + Duration::from_secs(10);
    while judged(&entra, &token).await.is_ok() {
        assert!(Instant::now() < deadline, "still believed");
        tokio::task::yield_now().await;
    }
    assert_eq!(judged(&entra, &token).await, Err("expired"));
}

#[tokio::test]
async fn groups_that_graph_told_make_the_caller() {
    let client = Client { id: API.into(), secret: Secret::new("s".into()) };
    let settings = Settings { overage: Overage::OnBehalfOf(client), ..settings() };
    let (directory, mut questions) = Directory::new(&settings, Duration::from_secs(3600));
    publish(&directory, &[SIGNER.jwk("k1")]);
    let entra = Entra::new(&settings, directory.clone());
    let overage = with(with(claims(), "hasgroups", json!(true)), "roles", json!(["Jobs"]));
    let token = SIGNER.sign(&header(), &overage);
    let told = directory.clone();
    let answering = tokio::spawn(async move {
        let question = questions.recv().await.unwrap();
        told.groups.remember(question.member, Some(vec![GroupName::parse("Told").unwrap()]));
        question.done.send(()).unwrap();
        (question.member, question.token, questions)
    });
    let Verdict::Known(caller) = entra.judge(&token, [1; 32]).await else { panic!("not known") };
    assert_eq!(caller.groups(), ["Jobs", "Told"].map(|group| GroupName::parse(group).unwrap()));
    let (member, assertion, _questions) = answering.await.unwrap();
    assert_eq!((member.object.to_string().as_str(), assertion.expose()), (OID, &token));
    let Verdict::Known(again) = entra.judge(&token, [1; 32]).await else { panic!("not known") };
    assert!(Arc::ptr_eq(&caller, &again), "made twice");
    // What Graph tells next makes another caller; that they are gone, none.
    directory.groups.remember(member, Some(Vec::new()));
    let Verdict::Known(fewer) = entra.judge(&token, [1; 32]).await else { panic!("not known") };
    assert_eq!(fewer.groups().len(), 1);
    directory.groups.remember(member, None);
    assert_eq!(judged(&entra, &token).await, Err("no_such_user"));
}

proptest! {
    #[test]
    fn nothing_that_is_not_signed_by_the_key_is_believed(place in 0..900_usize, byte in any::<u8>(), text in "[ -~]{0,99}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (entra, _directory) = entra();
        let good = SIGNER.sign(&header(), &claims());
        let mut bent = good.clone().into_bytes();
        let place = place % bent.len();
        bent[place] = byte & 0x7f;
        let bent = String::from_utf8(bent).unwrap();
        for token in [bent, text] {
            if token != good {
                // A key that is unknown would be waited for.
                let outcome = runtime.block_on(async { futures_util::FutureExt::now_or_never(judged(&entra, &token)) });
                prop_assert!(!matches!(outcome, Some(Ok(_))), "{}", token);
            }
        }
    }
}
