//! The keys that a JWK set (RFC 7517) says tokens are signed with.
//!
//! Decides which keys of a document are fit for RS256 tokens of one issuer. Pure. A key that does not fit is left out
//! and spoils nothing; a document without a key that fits is no document.

use std::{collections::HashMap, fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

/// Keys read from one document; Entra ID shows fewer than ten.
const MOST_KEYS: usize = 100;
/// Longest `kid` that is looked up or remembered.
pub const LONGEST_KID: usize = 256;

/// A public key of an issuer.
pub struct Key {
    modulus: Vec<u8>,
    exponent: Vec<u8>,
    verifying: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a key of {} bits", self.modulus.len() * 8)
    }
}

impl Key {
    /// Whether this key's owner signed these bytes (RSASSA-PKCS1-v1_5 with SHA-256); the signature as tokens have it.
    pub fn has_signed(&self, bytes: &[u8], signature: &str) -> bool {
        // The algorithm is never the token's to choose.
        matches!(crypto::verify(signature, bytes, &self.verifying, Algorithm::RS256), Ok(true))
    }

    fn is(&self, other: &Self) -> bool {
        (&self.modulus, &self.exponent) == (&other.modulus, &other.exponent)
    }
}

/// The keys of an issuer, by `kid`.
#[derive(Debug, Default)]
pub struct KeySet(HashMap<Box<str>, Arc<Key>>);

/// Whose keys a document is read for.
#[derive(Debug, Clone, Copy)]
pub struct Issuer<'i> {
    /// What its tokens call it.
    pub name: &'i str,
    /// What the authority calls it in version 2, which is how keys name it for both.
    pub modern_name: &'i str,
    /// Its tenant.
    pub tenant: Uuid,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: String,
    n: String,
    e: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    alg: Option<String>,
    key_ops: Option<Vec<String>>,
    issuer: Option<String>,
}

impl KeySet {
    /// The usable keys of a document. One that was in `before` stays the same value, so that what it proved holds.
    pub fn read(document: &[u8], issuer: Issuer<'_>, before: Option<&Self>) -> Result<Self, &'static str> {
        let document: Document =
            serde_json::from_slice(document).map_err(|_| "the document is no JWK set")?;
        let mut keys: HashMap<Box<str>, Option<Arc<Key>>> = HashMap::new();
        for value in document.keys.into_iter().take(MOST_KEYS) {
            let Some((kid, key)) = usable(value, issuer) else { continue };
            let kept = before.and_then(|before| before.get(&kid)).filter(|kept| kept.is(&key));
            let key = kept.cloned().unwrap_or_else(|| Arc::new(key));
            keys.entry(kid.into())
                // Two keys of one name: which is meant cannot be told, so neither is.
                .and_modify(|other| *other = other.take().filter(|other| other.is(&key)))
                .or_insert(Some(key));
        }
        let keys: HashMap<_, _> = keys.into_iter().filter_map(|(kid, key)| Some((kid, key?))).collect();
        if keys.is_empty() {
            return Err("the document has no key that could sign our tokens");
        }
        Ok(Self(keys))
    }

    /// The key of this name, compared as it stands.
    pub fn get(&self, kid: &str) -> Option<&Arc<Key>> {
        self.0.get(kid)
    }

    /// Whether this very key is in the set.
    pub fn has(&self, key: &Arc<Key>) -> bool {
        self.0.values().any(|known| Arc::ptr_eq(known, key))
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "a set without keys cannot be read")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

fn usable(value: Value, issuer: Issuer<'_>) -> Option<(String, Key)> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let is_for_tokens = jwk.kty == "RSA"
        && jwk.purpose.is_none_or(|purpose| purpose == "sig")
        && jwk.alg.is_none_or(|alg| alg == "RS256")
        && jwk.key_ops.is_none_or(|operations| operations.iter().any(|operation| operation == "verify"))
        && (1..=LONGEST_KID).contains(&jwk.kid.len());
    // Keys of personal accounts and of other clouds stand in the same document; theirs must not sign for a tenant.
    let is_of_issuer = jwk.issuer.is_none_or(|name| {
        let name = name.replace("{tenantid}", &issuer.tenant.to_string());
        name == issuer.name || name == issuer.modern_name
    });
    if !is_for_tokens || !is_of_issuer {
        return None;
    }
    let (modulus, exponent) = (number(&jwk.n)?, number(&jwk.e)?);
    let bits = modulus.len() * 8 - modulus.first()?.leading_zeros() as usize;
    // An exponent of 1 would make every text its own signature; longer ones than 32 bits only cost time.
    let is_good_exponent = exponent.len() <= 4 && exponent.last()? % 2 == 1 && exponent != [1];
    if !(2048..=8192).contains(&bits) || !is_good_exponent {
        return None;
    }
    let verifying = DecodingKey::from_rsa_raw_components(&modulus, &exponent);
    Some((jwk.kid, Key { modulus, exponent, verifying }))
}

/// A number as JWKs have it (RFC 7518 section 2), without zeros in front.
fn number(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let start = bytes.iter().position(|byte| *byte != 0)?;
    Some(bytes[start..].to_vec())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    pub const TENANT: &str = "11111111-2222-3333-4444-555555555555";

    fn issuer() -> Issuer<'static> {
        Issuer {
            name: "https://sts.test/11111111-2222-3333-4444-555555555555/",
            modern_name: "https://login.test/11111111-2222-3333-4444-555555555555/v2.0",
            tenant: TENANT.parse().unwrap(),
        }
    }

    /// Any odd number of this many bits will do where nothing is verified.
    fn modulus(bits: usize) -> String {
        let mut bytes = vec![0xab; bits / 8];
        bytes[0] |= 0x80;
        *bytes.last_mut().unwrap() |= 1;
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn jwk(changes: Value) -> Value {
        let mut key =
            json!({"kty": "RSA", "use": "sig", "kid": "k", "x5t": "k", "n": modulus(2048), "e": "AQAB"});
        for (name, value) in changes.as_object().unwrap() {
            key[name] = value.clone();
        }
        key
    }

    fn read(keys: Vec<Value>) -> Result<KeySet, &'static str> {
        KeySet::read(json!({"keys": keys}).to_string().as_bytes(), issuer(), None)
    }

    #[track_caller]
    fn check(changes: Value, is_usable: bool) {
        assert_eq!(read(vec![jwk(changes.clone())]).is_ok(), is_usable, "{changes}");
    }

    #[test]
    fn a_key_must_fit_in_kind_purpose_algorithm_size_and_issuer() {
        for changes in [
            json!({}),
            json!({"use": null, "alg": "RS256", "key_ops": ["verify"]}),
            json!({"issuer": "https://login.test/{tenantid}/v2.0"}),
            json!({"issuer": issuer().name}),
            json!({"n": modulus(4096)}),
        ] {
            check(changes, true);
        }
        for changes in [
            json!({"kty": "EC"}),
            json!({"kty": "oct", "k": "c2VjcmV0"}),
            json!({"kty": "rsa"}),
            json!({"use": "enc"}),
            json!({"alg": "RS512"}),
            json!({"alg": "HS256"}),
            json!({"key_ops": ["sign"]}),
            json!({"key_ops": []}),
            json!({"issuer": "https://login.test/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0"}),
            json!({"issuer": "https://login.other/{tenantid}/v2.0"}),
            json!({"n": modulus(1024)}),
            json!({"n": modulus(2040)}),
            json!({"n": ""}),
            json!({"n": "AAAA"}),
            json!({"n": "not base64!"}),
            json!({"e": "AQ"}),
            json!({"e": "Ag"}),
            json!({"e": ""}),
            json!({"e": modulus(2048)}),
            json!({"kid": ""}),
            json!({"kid": 1}),
            json!({"kid": "k".repeat(257)}),
            json!({"kid": null}),
        ] {
            check(changes, false);
        }
    }

    #[test]
    fn a_key_that_does_not_fit_spoils_no_other() {
        let keys = read(vec![json!(1), json!({}), jwk(json!({"kid": "ec", "kty": "EC"})), jwk(json!({}))]);
        let keys = keys.unwrap();
        assert_eq!((keys.len(), keys.get("k").is_some(), keys.get("ec").is_some()), (1, true, false));
    }

    #[test]
    fn two_keys_of_one_name_are_none() {
        let other = jwk(json!({"n": modulus(3072)}));
        assert!(read(vec![jwk(json!({})), other.clone()]).is_err());
        assert!(read(vec![jwk(json!({})), other, jwk(json!({}))]).is_err());
        assert_eq!(read(vec![jwk(json!({})), jwk(json!({}))]).unwrap().len(), 1, "the same key twice");
    }

    #[test]
    fn a_key_that_stays_is_the_same_value() {
        let before = read(vec![jwk(json!({})), jwk(json!({"kid": "gone"}))]).unwrap();
        let document = json!({"keys": [jwk(json!({})), jwk(json!({"kid": "new"}))]}).to_string();
        let after = KeySet::read(document.as_bytes(), issuer(), Some(&before)).unwrap();
        assert!(after.has(before.get("k").unwrap()));
        assert!(!after.has(before.get("gone").unwrap()));
        // The name stays and the key does not.
        let document = json!({"keys": [jwk(json!({"n": modulus(3072)}))]}).to_string();
        let after = KeySet::read(document.as_bytes(), issuer(), Some(&before)).unwrap();
        assert!(!after.has(before.get("k").unwrap()));
    }

    #[test]
    fn what_is_no_set_of_keys_is_refused() {
        for document in ["", "{}", "[]", r#"{"keys":{}}"#, r#"{"keys":[]}"#, "\u{0}", "<html>"] {
            assert!(KeySet::read(document.as_bytes(), issuer(), None).is_err(), "{document}");
        }
    }

    proptest! {
        #[test]
        fn no_document_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(KeySet::read(&bytes, issuer(), None));
        }

        #[test]
        fn no_numbers_make_it_panic(n in "[A-Za-z0-9_-]{0,400}", e in "[A-Za-z0-9_=-]{0,12}") {
            drop(read(vec![jwk(json!({"n": n, "e": e}))]));
        }
    }
}
