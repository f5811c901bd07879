//! Nobody is let in by headers that hold none of what proves somebody, whatever else they hold, with every scheme on.
//!
//! What a fuzzer could never make is made for it: tokens signed with the right keys around claims of its own.
#![no_main]

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue, Request, request::Parts};
use libfuzzer_sys::fuzz_target;
use portcullis::{
    identity::{
        Caller, Face, Identity, RedisSettings, Scheme, ServiceKey, SessionSettings, Settings, Sources,
        api_key::ApiKeys,
        entra::{
            self,
            directory::{Directory, Documents},
            discovery::{Endpoints, Version, address, modern_issuer},
            keys::{Issuer, KeySet},
        },
        gateway_headers::{self, GroupsFormat},
        signed_out::SignedOut,
        users::Users,
    },
    names::{Email, GroupName, Network, Secret},
    store::{
        Role, User,
        api_keys::{ApiKey, Usage},
    },
};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

const SESSION_SECRET: &str = "the-secret-that-signs-sessions";
const VOUCHING_SECRET: &str = "the-secret-that-signs-user-tokens";
const GATEWAY_SECRET: &str = "the-secret-of-the-gateway-in-front";
const VOUCHING_KEY: &str = "a-service-key-that-may-vouch";
const PLAIN_KEY: &str = "a-service-key-that-may-not";
const API_KEY: &str = "sk-0123456789abcdef0123456789abcdef";
const JANE: &str = "jane";
const JANE_EMAIL: &str = "jane@example.com";
const TENANT: &str = "11111111-2222-3333-4444-555555555555";
const AUDIENCE: &str = "22222222-2222-3333-4444-555555555555";
const AUTHORITY: &str = "http://127.0.0.1:9";
/// Long after the fuzzer has given up.
const FOREVER: u64 = 4_000_000_000;

/// Names of headers that identities come in, and some that only look like them.
const NAMES: [&str; 16] = [
    "authorization",
    "cookie",
    "x-gateway-secret",
    "x-user-email",
    "x-user-groups",
    "x-user-admin",
    "x-openwebui-user-jwt",
    "x-openwebui-user-email",
    "x-openwebui-user-role",
    "x_user_email",
    "x_gateway_secret",
    "x-user_groups",
    "x_openwebui_user_jwt",
    "x-entra-oid",
    "x-auth-source",
    "proxy-authorization",
];

/// What proves somebody as it stands.
const PROOFS: [&str; 4] = [VOUCHING_KEY, PLAIN_KEY, API_KEY, GATEWAY_SECRET];

struct World {
    runtime: Runtime,
    identity: Identity,
    key: RsaKeyPair,
}

static WORLD: LazyLock<World> = LazyLock::new(World::new);

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let key = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        let settings = settings();
        let sources = runtime.block_on(async { sources(&settings, &key) });
        let identity = Identity::new(&settings, sources);
        Self { runtime, identity, key }
    }

    fn signed(&self, header: &str, claims: &str) -> String {
        let signable = format!("{}.{}", base64url(header), base64url(claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        let signed =
            self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signable.as_bytes(), &mut signature);
        signed.expect("a signature");
        format!("{signable}.{}", base64url(signature))
    }
}

fn with_secret(header: &str, claims: &str, secret: &str) -> String {
    let signable = format!("{}.{}", base64url(header), base64url(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    format!("{signable}.{}", base64url(hmac::sign(&key, signable.as_bytes())))
}

fn settings() -> Settings {
    let service = |name: &str, key: &str, may_vouch| ServiceKey {
        name: name.into(),
        key_sha256: Secret::new(Sha256::digest(key).into()),
        groups: vec![GroupName::parse("Services").expect("a name")],
        may_vouch,
    };
    let tenant = entra::Tenant {
        id: entra::guid(TENANT).expect("an id"),
        email_domains: Vec::new(),
        are_roles_groups: true,
    };
    Settings {
        sessions: Some(SessionSettings {
            secret: Secret::new(SESSION_SECRET.into()),
            allow_no_expiry: false,
        }),
        openwebui_redis: None::<RedisSettings>,
        service_keys: vec![service("vouching", VOUCHING_KEY, true), service("plain", PLAIN_KEY, false)],
        forward_jwt_secret: Some(Secret::new(VOUCHING_SECRET.into())),
        gateway_headers: Some(gateway_headers::Settings {
            trusted_proxies: vec![Network::parse("10.0.0.0/8").expect("a network")],
            shared_secret: Some(Secret::new(GATEWAY_SECRET.into())),
            groups_format: GroupsFormat::Comma,
        }),
        entra: Some(entra::Settings {
            tenants: vec![tenant],
            audience: vec![AUDIENCE.into()],
            authority: AUTHORITY.into(),
            guests: true,
            apps: true,
            scopes: Vec::new(),
            group_names: Default::default(),
            overage: entra::Overage::Refuse,
            graph_url: AUTHORITY.into(),
            groups_ttl: Duration::from_secs(300),
        }),
        ..Settings::default()
    }
}

/// Jane and her API key are known, everybody else is known not to be there, and no session was ended.
fn sources(settings: &Settings, key: &RsaKeyPair) -> Sources {
    let max_stale = Duration::from_secs(FOREVER);
    let (users, mut questions) = Users::new(max_stale);
    users.remember(JANE, Some(jane()));
    let told = users.clone();
    tokio::spawn(async move {
        while let Some(question) = questions.recv().await {
            let seen = told.remember(&question.about, None);
            question.asker.tell(seen);
        }
    });
    let (api_keys, mut questions) = ApiKeys::new(max_stale);
    let usage = Usage { is_on: true, is_restricted: false, is_permitted: true };
    let sha256 = Sha256::digest(API_KEY).into();
    let row = ApiKey { row: "1".into(), sha256, user: JANE.into(), expires: None, usage };
    api_keys.keys().remember(sha256, Some(Arc::new(row)));
    tokio::spawn(async move {
        while let Some(question) = questions.recv().await {
            question.asker.tell(None);
        }
    });
    let (signed_out, mut questions) = SignedOut::new(max_stale);
    tokio::spawn(async move {
        while let Some(question) = questions.recv().await {
            question.asker.tell(None);
        }
    });
    let entra = settings.entra.as_ref().expect("it is set");
    let (directory, _) = Directory::new(entra, max_stale);
    for place in 0..directory.sources().len() {
        let (directory, document) = (directory.clone(), key_set(key));
        tokio::spawn(async move {
            let source = &directory.sources()[place];
            loop {
                source.begin();
                source.end(Some(documents(source.tenant, source.version, &document)));
                source.wanted().await;
            }
        });
    }
    Sources {
        users: Some(users),
        api_keys: Some(api_keys),
        signed_out: Some(signed_out),
        entra: Some(directory),
    }
}

fn jane() -> User {
    User {
        id: JANE.into(),
        email: Email::parse(JANE_EMAIL).expect("an email"),
        role: Role::User,
        is_active: true,
        session_stamp: None,
        second_factor: Default::default(),
        groups: Vec::new(),
    }
}

/// A JWK set of this key, as bytes.
fn key_set(key: &RsaKeyPair) -> Vec<u8> {
    // RSAPublicKey ::= SEQUENCE { modulus INTEGER, publicExponent INTEGER }: of 2048 bits its parts stand here.
    let der = key.public_key().as_ref();
    let (n, e) = (&der[9..9 + 256], &der[der.len() - 3..]);
    let key =
        serde_json::json!({"kty": "RSA", "use": "sig", "kid": "k", "n": base64url(n), "e": base64url(e)});
    serde_json::json!({ "keys": [key] }).to_string().into_bytes()
}

fn documents(tenant: uuid::Uuid, version: Version, key_set: &[u8]) -> Documents {
    let modern = modern_issuer(AUTHORITY, tenant);
    let issuer = match version {
        Version::V1 => format!("https://sts.windows.net/{tenant}/"),
        Version::V2 => modern.clone(),
    };
    let configuration = serde_json::json!({
        "issuer": issuer, "jwks_uri": address(AUTHORITY, tenant, version),
        "authorization_endpoint": format!("{AUTHORITY}/a"), "token_endpoint": format!("{AUTHORITY}/t"),
    });
    let endpoints = Endpoints::read(configuration.to_string().as_bytes(), AUTHORITY, tenant);
    let named = Issuer { name: &issuer, modern_name: &modern, tenant };
    Documents {
        endpoints: endpoints.expect("a document"),
        keys: KeySet::read(key_set, named, None).expect("a key"),
        good_until: Instant::now() + Duration::from_secs(FOREVER / 100),
    }
}

/// Claims that are good for Jane, with members of the fuzzer's behind or in front of them.
fn claims(kind: u8, members: &str) -> String {
    let dates = format!("\"iat\":1,\"nbf\":1,\"exp\":{FOREVER}");
    let good = match kind {
        0 => format!("\"id\":\"{JANE}\",{dates}"),
        1 => format!(
            "\"sub\":\"{JANE}\",\"email\":\"{JANE_EMAIL}\",\"role\":\"user\",\"iss\":\"open-webui\",{dates}"
        ),
        _ => format!(
            "\"aud\":\"{AUDIENCE}\",\"iss\":\"{AUTHORITY}/{TENANT}/v2.0\",\"tid\":\"{TENANT}\",\"ver\":\"2.0\",\
             \"azp\":\"{AUDIENCE}\",\"preferred_username\":\"{JANE_EMAIL}\",\
             \"oid\":\"{TENANT}\",\"sub\":\"s\",\"scp\":\"a\",{dates}"
        ),
    };
    let with_members = format!("{{{members},{good}}}");
    match members.strip_prefix('-') {
        // Nothing of ours: the claims are the fuzzer's alone.
        Some(own) => own.to_owned(),
        None if is_json(&with_members) => with_members,
        None => format!("{{{good}}}"),
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// A value; where the fuzzer's header or claims are no JSON, usual ones stand in their place.
fn value(kind: u8, header: &str, text: &str) -> String {
    let world = &*WORLD;
    let or = |usual: &str| if is_json(header) { header.to_owned() } else { usual.to_owned() };
    match kind % 12 {
        0 => with_secret(&or(r#"{"alg":"HS256","typ":"JWT"}"#), &claims(0, text), SESSION_SECRET),
        1 => with_secret(&or(r#"{"alg":"HS256","typ":"JWT"}"#), &claims(1, text), VOUCHING_SECRET),
        2 => world.signed(&or(r#"{"alg":"RS256","kid":"k"}"#), &claims(2, text)),
        3 => with_secret(&or(r#"{"alg":"HS256","kid":"k"}"#), &claims(0, text), header),
        4 => format!("{}.{}.{}", base64url(header), base64url(text), base64url(header)),
        place @ 5..=8 => format!("{}{text}", PROOFS[usize::from(place - 5)]),
        9 => format!("token={}", with_secret(r#"{"alg":"HS256"}"#, &claims(0, text), SESSION_SECRET)),
        10 => format!("{text}{JANE_EMAIL}"),
        _ => text.to_owned(),
    }
}

/// A request of these headers, and whether any of them holds a proof.
fn request(query: &str, lines: &[(u8, u8, &str, &str)]) -> Option<(Parts, bool)> {
    let query: String = query.bytes().filter(u8::is_ascii_alphanumeric).map(char::from).collect();
    let mut request = Request::builder().uri(format!("/openapi.json?key={query}"));
    let mut has_proof = PROOFS.contains(&query.as_str());
    for (name, kind, header, text) in lines.iter().take(12) {
        let name = NAMES[usize::from(*name) % NAMES.len()];
        let value = value(*kind, header, text);
        // Signed here, or a secret as it stands; a longer one is none, but that is for the gateway to find.
        has_proof |= matches!(kind % 12, 0..=2 | 9) || PROOFS.iter().any(|proof| value.contains(proof));
        let value =
            if name == "authorization" && kind & 0x80 == 0 { format!("Bearer {value}") } else { value };
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes()))
        else {
            return None;
        };
        request = request.header(name, value);
    }
    Some((request.body(()).ok()?.into_parts().0, has_proof))
}

fn check(caller: &Caller, has_proof: bool, from: IpAddr) {
    assert!(has_proof, "somebody was let in for nothing");
    let is_gateways = caller.scheme() == Scheme::GatewayHeaders;
    assert!(!is_gateways || from == IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), "believed from anywhere");
    assert!(!caller.is_admin() || is_gateways, "only a gateway in front says who administers");
    match caller.scheme() {
        Scheme::ServiceKey => assert!(["service:vouching", "service:plain"].contains(&caller.name())),
        Scheme::Vouched | Scheme::ApiKey | Scheme::Session => assert_eq!(caller.name(), JANE_EMAIL),
        Scheme::GatewayHeaders | Scheme::Entra => {
            assert!(caller.email().is_some() || caller.name().starts_with("app:"));
        }
    }
}

fuzz_target!(|input: (u8, &str, Vec<(u8, u8, &str, &str)>)| {
    let (place, query, lines) = input;
    let world = &*WORLD;
    let face = [Face::Call, Face::Page, Face::Spec][usize::from(place % 3)];
    let from = if place & 0x80 == 0 { Ipv4Addr::new(10, 0, 0, 1) } else { Ipv4Addr::new(192, 0, 2, 1) };
    let Some((mut request, mut has_proof)) = request(query, &lines) else { return };
    if place & 0x40 != 0 {
        request.headers.append("x-gateway-secret", HeaderValue::from_static(GATEWAY_SECRET));
        has_proof = true;
    }
    let asked = world.runtime.block_on(world.identity.identify(&request, face, Some(from.into())));
    match asked {
        Ok(caller) => check(&caller, has_proof, from.into()),
        Err(refusal) => assert!(matches!(refusal.code().status(), 400 | 401 | 403 | 503), "{refusal:?}"),
    }
});
