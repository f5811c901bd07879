//! Keys of the identity provider, as it publishes them and as it signs with them.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::{
    digest,
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaKeyPair},
};
use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, PKCS_RSA_SHA256};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};

/// An RSA key of 2048 bits with its certificate.
pub struct SigningKey {
    pub kid: String,
    pair: RsaKeyPair,
    certificate: Vec<u8>,
}

/// How the bytes of a token are signed.
#[derive(Debug, Clone, Copy)]
pub enum Padding {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
}

// Making a key takes a moment, and most tests need one or two.
static SPARE: [LazyLock<Arc<SigningKey>>; 4] = [const { LazyLock::new(SigningKey::generate) }; 4];

/// One of four keys that stay the same while this process runs.
pub fn spare(number: usize) -> Arc<SigningKey> {
    SPARE[number % SPARE.len()].clone()
}

pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl SigningKey {
    /// A new key; its id is the thumbprint of its certificate, as at Entra.
    pub fn generate() -> Arc<Self> {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let private = PrivatePkcs8KeyDer::from(pkcs8.as_ref().to_vec());
        let signer = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&private, &PKCS_RSA_SHA256).unwrap();
        let name = "accounts.accesscontrol.windows.net".to_owned();
        let certificate = CertificateParams::new(vec![name]).unwrap().self_signed(&signer).unwrap();
        let certificate = certificate.der().to_vec();
        let kid = base64url(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &certificate));
        Arc::new(Self { kid, pair, certificate })
    }

    /// What a set of keys says of it.
    pub fn jwk(&self) -> Value {
        let (n, e) = self.modulus_and_exponent();
        json!({"kty": "RSA", "use": "sig", "kid": self.kid, "x5t": self.kid, "n": base64url(n),
            "e": base64url(e), "x5c": [BASE64_STANDARD.encode(&self.certificate)]})
    }

    /// The same with other members, or fewer (`null`).
    pub fn jwk_with(&self, members: &[(&str, Value)]) -> Value {
        let mut jwk = self.jwk();
        for (name, value) in members {
            match value {
                Value::Null => drop(jwk.as_object_mut().unwrap().remove(*name)),
                value => jwk[*name] = value.clone(),
            }
        }
        jwk
    }

    /// Every spelling of the public key that somebody might take for a shared secret.
    pub fn public_spellings(&self) -> Vec<Vec<u8>> {
        let x509: PublicKeyX509Der<'_> = self.pair.public_key().as_der().unwrap();
        let (n, e) = self.modulus_and_exponent();
        let pem = |label: &str, der: &[u8]| {
            let text = BASE64_STANDARD.encode(der);
            let lines: Vec<_> =
                text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
            format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
        };
        let spki = pem("PUBLIC KEY", x509.as_ref());
        vec![
            spki.trim_end().into(),
            spki.into_bytes(),
            pem("RSA PUBLIC KEY", self.pair.public_key().as_ref()).into_bytes(),
            pem("CERTIFICATE", &self.certificate).into_bytes(),
            x509.as_ref().to_vec(),
            self.pair.public_key().as_ref().to_vec(),
            self.certificate.clone(),
            BASE64_STANDARD.encode(&self.certificate).into_bytes(),
            base64url(&n).into_bytes(),
            n,
            e,
            self.jwk().to_string().into_bytes(),
            self.kid.clone().into_bytes(),
        ]
    }

    /// The signature of these bytes.
    pub fn sign(&self, padding: Padding, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        let encoding: &dyn aws_lc_rs::signature::RsaEncoding = match padding {
            Padding::Rs256 => &RSA_PKCS1_SHA256,
            Padding::Rs384 => &RSA_PKCS1_SHA384,
            Padding::Rs512 => &RSA_PKCS1_SHA512,
            Padding::Ps256 => &RSA_PSS_SHA256,
        };
        self.pair.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    }

    fn modulus_and_exponent(&self) -> (Vec<u8>, Vec<u8>) {
        // RSAPublicKey ::= SEQUENCE { modulus INTEGER, publicExponent INTEGER } (RFC 8017 A.1.1).
        let der = self.pair.public_key().as_ref();
        let mut integers = element(der).0;
        let (n, rest) = element(integers);
        integers = rest;
        let e = element(integers).0;
        let without_sign = |bytes: &[u8]| bytes.strip_prefix(&[0]).unwrap_or(bytes).to_vec();
        (without_sign(n), without_sign(e))
    }
}

/// The contents of the first element of some DER, and what follows it.
fn element(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, start) = match der[1] {
        short @ 0..=127 => (usize::from(short), 2),
        long => {
            let digits = usize::from(long & 0x7f);
            let length = der[2..2 + digits].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            (length, 2 + digits)
        }
    };
    // A sequence goes on inside; an integer ends, and the next begins.
    (&der[start..start + length], &der[start + length..])
}

#[test]
fn a_published_key_verifies_what_it_signed() {
    let key = spare(0);
    let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(key.jwk()).unwrap();
    let public = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
    let head = base64url(r#"{"alg":"RS256"}"#);
    let signature = base64url(key.sign(Padding::Rs256, head.as_bytes()));
    let verified =
        jsonwebtoken::crypto::verify(&signature, head.as_bytes(), &public, jsonwebtoken::Algorithm::RS256);
    assert!(verified.unwrap());
}
