//! Tokens of the identity provider: right ones in every shape it has, and any wrong one a test can think of.

use std::sync::Arc;

use jsonwebtoken::Algorithm;
use serde_json::{Map, Value, json};

use super::{
    API, CLIENT, HOME, Provider, User,
    keys::{Padding, SigningKey, base64url},
};
use crate::harness::tokens::now;

/// A token in the making: every header and claim can be replaced or left out before it is signed.
#[derive(Clone)]
pub struct Minted {
    pub header: Map<String, Value>,
    pub claims: Map<String, Value>,
    key: Arc<SigningKey>,
}

/// Who signs, and how.
pub enum Signed<'a> {
    /// A key of RSA, whatever the header says.
    Rsa(&'a SigningKey, Padding),
    /// A shared secret; the header says so.
    Hmac(Algorithm, &'a [u8]),
    /// These bytes as the signature.
    Bytes(&'a [u8]),
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("not an object: {other}"),
    }
}

impl Minted {
    /// With this claim instead of the usual one; `null` leaves it out.
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        replace(&mut self.claims, name, value.into());
        self
    }

    /// Without these claims.
    pub fn without(self, names: &[&str]) -> Self {
        names.iter().fold(self, |minted, name| minted.claim(name, Value::Null))
    }

    /// With this member of the header instead of the usual one; `null` leaves it out.
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        replace(&mut self.header, name, value.into());
        self
    }

    /// Issued and expired this many seconds away from now.
    pub fn dated(self, issued: i64, expires: i64) -> Self {
        self.claim("iat", now(issued)).claim("nbf", now(issued)).claim("exp", now(expires))
    }

    /// Signed by another key than the provider's present one, which the header names.
    pub fn by(mut self, key: &Arc<SigningKey>) -> Self {
        self.key = key.clone();
        self.header("kid", key.kid.as_str())
    }

    /// The token, signed as its provider would.
    pub fn sign(&self) -> String {
        self.sign_as(&Signed::Rsa(&self.key, Padding::Rs256))
    }

    /// The token, signed in some other way.
    pub fn sign_as(&self, signed: &Signed<'_>) -> String {
        let mut header = self.header.clone();
        if let Signed::Hmac(algorithm, _) = signed {
            header.insert("alg".into(), format!("{algorithm:?}").into());
        }
        let signable = format!(
            "{}.{}",
            base64url(Value::Object(header).to_string()),
            base64url(Value::Object(self.claims.clone()).to_string())
        );
        let signature = match signed {
            Signed::Rsa(key, padding) => base64url(key.sign(*padding, signable.as_bytes())),
            Signed::Hmac(algorithm, secret) => {
                let key = jsonwebtoken::EncodingKey::from_secret(secret);
                jsonwebtoken::crypto::sign(signable.as_bytes(), &key, *algorithm).unwrap()
            }
            Signed::Bytes(bytes) => base64url(bytes),
        };
        format!("{signable}.{signature}")
    }
}

fn replace(members: &mut Map<String, Value>, name: &str, value: Value) {
    match value {
        Value::Null => drop(members.remove(name)),
        value => drop(members.insert(name.to_owned(), value)),
    }
}

impl Provider {
    /// A delegated access token of version 2.0, for the gateway, of this user of the home tenant.
    pub fn token(&self, user: &User) -> Minted {
        self.token_of(HOME, user)
    }

    /// The same of a user of some tenant.
    pub fn token_of(&self, tenant: &str, user: &User) -> Minted {
        let key = self.signing_key();
        let header = json!({"typ": "JWT", "alg": "RS256", "kid": key.kid});
        let mut claims = object(json!({
            "aud": API, "iss": self.issuer(tenant), "iat": now(0), "nbf": now(0), "exp": now(3600),
            "aio": "AWQAm/8XAAAA", "azp": CLIENT, "azpacr": "0", "name": "Somebody", "oid": user.oid,
            "preferred_username": user.email, "rh": "0.AXoA", "scp": "Tools.Call", "sid": jti(),
            "sub": format!("subject-of-{}", user.oid), "tid": tenant, "uti": jti(), "ver": "2.0",
        }));
        add_groups(&mut claims, user, &self.url());
        Minted { header: object(header), claims, key }
    }

    /// A delegated access token of version 1.0, which is what an API gets that has not asked for another.
    pub fn token_v1(&self, user: &User) -> Minted {
        self.token_v1_of(HOME, user)
    }

    /// The same of a user of some tenant.
    pub fn token_v1_of(&self, tenant: &str, user: &User) -> Minted {
        let key = self.signing_key();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5t": key.kid, "kid": key.kid});
        let mut claims = object(json!({
            "aud": format!("api://{API}"), "iss": issuer_v1(tenant), "iat": now(0), "nbf": now(0),
            "exp": now(3600), "acr": "1", "aio": "AWQAm/8XAAAA", "amr": ["pwd"], "appid": CLIENT, "appidacr": "0",
            "family_name": "Body", "given_name": "Some", "ipaddr": "192.0.2.1", "name": "Somebody",
            "oid": user.oid, "rh": "0.AXoA", "scp": "Tools.Call", "sub": format!("subject-of-{}", user.oid),
            "tid": tenant, "unique_name": user.email, "upn": user.email, "uti": jti(), "ver": "1.0",
        }));
        add_groups(&mut claims, user, &self.url());
        Minted { header: object(header), claims, key }
    }

    /// A token of version 2.0 for an app that acts for itself.
    pub fn app_token(&self, oid: &str, roles: &[&str]) -> Minted {
        let key = self.signing_key();
        let header = json!({"typ": "JWT", "alg": "RS256", "kid": key.kid});
        let claims = json!({
            "aud": API, "iss": self.issuer(HOME), "iat": now(0), "nbf": now(0), "exp": now(3600),
            "aio": "E2NgYAAA", "azp": CLIENT, "azpacr": "1", "idtyp": "app", "oid": oid, "rh": "0.AXoA",
            "roles": roles, "sub": oid, "tid": HOME, "uti": jti(), "ver": "2.0",
        });
        Minted { header: object(header), claims: object(claims), key }
    }

    /// What a client learns of its user: never for an API.
    pub fn id_token(&self, user: &User) -> Minted {
        let minted = self.token(user).without(&["azp", "azpacr", "scp"]);
        minted.claim("nonce", "n-0S6_WzA2Mj").claim("email", user.email.as_str())
    }

    /// A guest of the home tenant, whose own account is at `email`.
    pub fn guest_token(&self, oid: &str, email: &str) -> Minted {
        let upn = format!("{}#EXT#@home.onmicrosoft.com", email.replace('@', "_"));
        let guest = User { oid: oid.to_owned(), email: email.to_owned(), ..User::default() };
        self.token(&guest)
            .claim("acct", 1)
            .claim("idp", "https://sts.windows.net/9188040d-6c67-4c5b-b112-36a304b66dad/")
            .claim("upn", upn)
    }

    /// The issuer of tokens of version 2.0.
    pub fn issuer(&self, tenant: &str) -> String {
        format!("{}/{tenant}/v2.0", self.url())
    }
}

/// The issuer of tokens of version 1.0: another host than everything else is at.
pub fn issuer_v1(tenant: &str) -> String {
    format!("https://sts.windows.net/{tenant}/")
}

fn add_groups(claims: &mut Map<String, Value>, user: &User, url: &str) {
    if !user.roles.is_empty() {
        claims.insert("roles".into(), json!(user.roles));
    }
    if user.has_overage {
        let endpoint = format!("{url}/{}/users/{}/getMemberObjects", HOME, user.oid);
        claims.insert("_claim_names".into(), json!({"groups": "src1"}));
        claims.insert("_claim_sources".into(), json!({"src1": {"endpoint": endpoint}}));
    } else if !user.groups.is_empty() {
        claims.insert("groups".into(), json!(user.groups));
    }
}

fn jti() -> String {
    uuid::Uuid::now_v7().to_string()
}
